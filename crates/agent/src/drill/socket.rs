//! An executor's socket is removed behind everybody's back.

use super::stage::{Stage, Wanted, Witness};
use super::witness::Part;
use anyhow::Context as _;
use holdfast_record::names;
use std::fs;
use std::rc::Rc;

/// `socket-gone`
pub(crate) async fn run(stage: &Rc<Stage>) -> anyhow::Result<()> {
    stage.up().await?;
    let with_driver = stage.begin(Part::default()).await?;
    let without_driver = stage
        .begin(Part {
            code: 8,
            ..Part::default()
        })
        .await?;
    let ends = stage
        .begin(Part {
            code: 9,
            ..Part::default()
        })
        .await?;

    remove_socket(&with_driver)?;
    remove_socket(&ends)?;
    stage.timeline.act(format_args!(
        "the sockets of {} and {} are removed while the driver is there",
        with_driver.run, ends.run
    ));
    stage.stop(&with_driver).await?;
    stage.conclude(&with_driver, Wanted::Stopped).await?;
    ends.tell_to_end()?;
    stage.conclude(&ends, Wanted::Code).await?;

    stage.down().await?;
    remove_socket(&without_driver)?;
    stage.timeline.act(format_args!(
        "the driver is killed, and the socket of {} is removed before another one is there",
        without_driver.run
    ));
    stage.up().await?;
    let recovered = stage.recover(&without_driver).await;
    stage.timeline.check(
        format_args!("{} is recovered", without_driver.run),
        recovered
            .err()
            .map(|status| format!("{}: RecoverTask failed: {}", without_driver.run, status.message())),
    );
    stage.check_same(&without_driver)?;
    stage.works(&without_driver, "more output").await?;
    stage.stop(&without_driver).await?;
    stage.conclude(&without_driver, Wanted::Stopped).await?;
    stage.check_nothing_left().await
}

fn remove_socket(witness: &Witness) -> anyhow::Result<()> {
    let path = witness.state.dir.join(names::SOCKET);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}
