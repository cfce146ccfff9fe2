//! Driver and executor are replaced on disk, as an upgrade does, while tasks run.

use super::stage::{GUARD, Stage, Wanted, eventually};
use super::witness::Part;
use super::{NotPossible, processes};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const DRIVER: &str = "holdfast-driver";
const EXECUTOR: &str = "holdfast-executor";

/// `replace-binaries`
pub(crate) async fn run(stage: &Rc<Stage>) -> anyhow::Result<()> {
    if std::env::var_os("HOLDFAST_EXECUTOR").is_some_and(|path| !path.is_empty()) {
        let reason = "HOLDFAST_EXECUTOR names the executor, which is not the drill's to replace";
        return Err(NotPossible(reason.to_owned()).into());
    }
    let own = std::env::current_exe().context("cannot find this program")?;
    let folder = stage.root().join("bin");
    fs::create_dir(&folder)?;
    let driver = folder.join(DRIVER);
    fs::copy(&own, &driver).with_context(|| format!("cannot copy {}", own.display()))?;
    let beside = own.with_file_name(EXECUTOR);
    // A release carries its executor inside itself and lays it out below its state directory; any other has it beside itself.
    if beside.is_file() {
        fs::copy(&beside, folder.join(EXECUTOR)).with_context(|| format!("cannot copy {}", beside.display()))?;
    }
    stage.set_program(driver.clone());
    stage.up().await?;
    let before = [
        stage.begin(Part::default()).await?,
        stage
            .begin(Part {
                code: 8,
                ..Part::default()
            })
            .await?,
    ];

    let mut files = vec![driver];
    files.extend(executors(&folder, &stage.state_dir())?);
    for file in &files {
        replace(file)?;
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    stage
        .timeline
        .act(format_args!("replaced by rename: {}", names.join(", ")));
    let during = stage
        .begin(Part {
            code: 9,
            ..Part::default()
        })
        .await?;
    stage
        .timeline
        .kept("a task starts while the old driver is there and its file is not");

    let generation = stage.kill_driver().await?;
    stage.timeline.act("kill -9 of the driver; the new file is launched");
    stage.mended(generation).await?;
    for witness in [&before[0], &before[1], &during] {
        stage.check_same(witness)?;
        stage.works(witness, "more output").await?;
    }
    let (old, pidfd) = before[0].executor()?.context("a task has no executor")?;
    processes::kill(&pidfd)?;
    stage
        .timeline
        .act(format_args!("kill -9 of executor {}, whose file was replaced", old.pid));
    let new = eventually("another executor", GUARD, || {
        Ok(match before[0].executor()? {
            Some((new, _)) if new.pid != old.pid => Ok(new.pid),
            _ => Err("there is none".to_owned()),
        })
    });
    let new = new.await?;
    stage.timeline.kept(format_args!(
        "executor {new} of the new file has adopted the task of the old one"
    ));
    let after = stage
        .begin(Part {
            code: 10,
            ..Part::default()
        })
        .await?;

    for witness in [&before[0], &during, &after] {
        stage.check_same(witness)?;
        witness.tell_to_end()?;
        stage.conclude(witness, Wanted::Code).await?;
    }
    stage.stop(&before[1]).await?;
    stage.conclude(&before[1], Wanted::Stopped).await?;
    stage.check_nothing_left().await
}

/// Where executors were found or laid out.
fn executors(beside: &Path, state_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut folders = vec![beside.to_owned()];
    for entry in fs::read_dir(state_dir.join("bin")).into_iter().flatten() {
        folders.push(entry?.path());
    }
    for folder in folders {
        all.extend(["holdfast-executor", "holdfast-init"].map(|name| folder.join(name)));
    }
    all.retain(|path| path.is_file());
    Ok(all)
}

/// The same content in another file under the same name.
fn replace(file: &Path) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::copy(file, &new)
        .and_then(|_| fs::rename(&new, file))
        .with_context(|| format!("cannot replace {}", file.display()))
}
