//! The driver and executors are killed.

use super::processes;
use super::stage::{GUARD, Stage, Wanted, Witness, eventually, lives};
use super::witness::Part;
use anyhow::Context as _;
use std::rc::Rc;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Driver,
    Executor,
    Both,
}

/// `kill-driver`
pub(crate) async fn driver(stage: &Rc<Stage>) -> anyhow::Result<()> {
    rehearse(stage, Victim::Driver).await
}

/// `kill-executor`
pub(crate) async fn executor(stage: &Rc<Stage>) -> anyhow::Result<()> {
    rehearse(stage, Victim::Executor).await
}

/// `kill-both`
pub(crate) async fn both(stage: &Rc<Stage>) -> anyhow::Result<()> {
    rehearse(stage, Victim::Both).await
}

async fn rehearse(stage: &Rc<Stage>, victim: Victim) -> anyhow::Result<()> {
    stage.up().await?;
    let ends = stage.begin(Part::default()).await?;
    let stopped = stage
        .begin(Part {
            code: 8,
            ..Part::default()
        })
        .await?;
    let unseen = stage
        .begin(Part {
            code: 9,
            ..Part::default()
        })
        .await?;
    let all = [&ends, &stopped, &unseen];

    for _ in 0..2 {
        kill(stage, victim, &all).await?;
        for witness in all {
            stage.check_same(witness)?;
            stage.works(witness, "more output").await?;
        }
        stage.timeline.kept("output goes on");
    }

    stage.timeline.act(format_args!("{} is told to end", ends.run));
    ends.tell_to_end()?;
    stage.conclude(&ends, Wanted::Code).await?;

    stage
        .timeline
        .act(format_args!("{} is stopped with SIGTERM and a long grace", stopped.run));
    stage.stop(&stopped).await?;
    stage.conclude(&stopped, Wanted::Stopped).await?;

    ends_unseen(stage, victim, &unseen).await?;
    stage.check_nothing_left().await
}

/// Kills and waits until everything is mended.
async fn kill(stage: &Stage, victim: Victim, witnesses: &[&Witness]) -> anyhow::Result<()> {
    let mut dead = Vec::new();
    if victim != Victim::Driver {
        for witness in witnesses {
            let (identity, pidfd) = witness.executor()?.context("a task has no executor")?;
            dead.push((*witness, identity, pidfd));
        }
    }
    let generation = match victim {
        Victim::Executor => None,
        Victim::Driver | Victim::Both => Some(stage.kill_driver().await?),
    };
    for (_, _, pidfd) in &dead {
        processes::kill(pidfd)?;
    }
    let pids: Vec<String> = dead.iter().map(|(_, identity, _)| identity.pid.to_string()).collect();
    let pids = pids.join(", ");
    stage.timeline.act(match victim {
        Victim::Driver => "kill -9 of the driver".to_owned(),
        Victim::Executor => format!("kill -9 of the executors {pids}"),
        Victim::Both => format!("kill -9 of the driver and of the executors {pids}"),
    });
    if let Some(generation) = generation {
        stage.mended(generation).await?;
    }
    for (witness, identity, _) in &dead {
        let new = eventually("another executor", GUARD, || {
            Ok(match witness.executor()? {
                Some((new, _)) if new.pid != identity.pid => Ok(new.pid),
                _ => Err("there is none".to_owned()),
            })
        });
        let new = new.await?;
        stage.timeline.kept(format_args!(
            "{}: executor {new} has taken the place of {}",
            witness.run, identity.pid
        ));
    }
    Ok(())
}

/// The task ends while nobody is there to see it.
async fn ends_unseen(stage: &Rc<Stage>, victim: Victim, witness: &Witness) -> anyhow::Result<()> {
    let executor = witness.executor()?.context("a task has no executor")?;
    match victim {
        Victim::Driver => {
            stage
                .timeline
                .act("kill -9 of the driver; the task ends before another one is there");
            stage.down().await?;
        }
        Victim::Executor => {
            stage.timeline.act("kill -9 of the executor, and the task ends");
            processes::kill(&executor.1)?;
        }
        Victim::Both => {
            stage
                .timeline
                .act("kill -9 of driver and executor; the task ends before anybody is there");
            stage.down().await?;
            processes::kill(&executor.1)?;
        }
    }
    witness.tell_to_end()?;
    eventually("the end of the main process", GUARD, || {
        Ok(match lives(witness.main())? {
            true => Err(format!("main process {} lives", witness.main().pid)),
            false => Ok(()),
        })
    })
    .await?;
    if victim != Victim::Executor {
        stage.up().await?;
        let recovered = stage.recover(witness).await;
        stage.timeline.check(
            "the task that is over is recovered",
            recovered
                .err()
                .map(|status| format!("{}: RecoverTask failed: {}", witness.run, status.message())),
        );
    }
    stage.conclude(witness, Wanted::Code).await
}
