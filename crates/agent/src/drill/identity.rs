//! What is recorded means nobody any more: after a reboot, and when numbers of processes are used again.

use super::processes;
use super::stage::{End, GUARD, Stage, Wanted, Witness, eventually};
use super::witness::{Extent, Part};
use anyhow::{Context as _, ensure};
use holdfast_record::{BootId, ProcessIdentity, names};
use holdfast_sys::process::PidFd;
use std::fs;
use std::rc::Rc;
use tokio::process::{Child, Command};

/// A boot that never was.
const OTHER_BOOT: &str = "d0d0d0d0-0000-4000-8000-00000000d0d0";

/// A process that has nothing to do with any task.
struct Stranger {
    child: Child,
    identity: ProcessIdentity,
}

impl Stranger {
    fn start() -> anyhow::Result<Stranger> {
        // It ends with its standard input, so with this process at the latest, and hears no signal but SIGKILL.
        let child = Command::new("/bin/sh")
            .args(["-c", "trap '' HUP INT QUIT TERM USR1 USR2; read -r line"])
            .stdin(std::process::Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a stranger")?;
        let pid = i32::try_from(child.id().context("a stranger ended at once")?)?;
        let identity = ProcessIdentity::of(&PidFd::open(pid)?)?;
        Ok(Stranger { child, identity })
    }

    fn check_unhurt(&mut self, stage: &Stage, after: &str) -> anyhow::Result<()> {
        let pid = self.identity.pid;
        let ended = self.child.try_wait()?;
        stage.timeline.check_that(
            ended.is_none(),
            format_args!("stranger {pid} lives after {after}"),
            || format!("stranger {pid} was killed by {after}"),
        );
        Ok(())
    }
}

/// Kills all that belongs to a task, as a power cut does: executor first, so that nobody tells of an end.
fn cut_power(witness: &Witness) -> anyhow::Result<()> {
    let record = witness.supervision_dir()?.record()?.context("a task has no record")?;
    for identity in [&record.executor, &record.init, &record.main] {
        if let Some(pidfd) = identity.open()? {
            processes::kill(&pidfd)?;
            while !pidfd.has_exited()? {
                std::thread::yield_now();
            }
        }
    }
    witness.place.remove_cgroups()
}

/// Changes what is recorded of a task, and the handle that an agent has kept. The drill goes by what is true.
fn rewrite(
    witness: &mut Witness,
    boot: Option<&str>,
    change: impl Fn(&ProcessIdentity) -> ProcessIdentity,
) -> anyhow::Result<()> {
    let dir = witness.supervision_dir()?;
    let mut record = dir.record()?.context("a task has no record")?;
    let mut state = witness.state.clone();
    for identity in [&mut record.executor, &mut record.init, &mut record.main] {
        *identity = change(identity);
    }
    for identity in [&mut state.executor, &mut state.init, &mut state.main] {
        *identity = change(identity);
    }
    if let Some(boot) = boot {
        let boot_id = BootId::parse(boot)?;
        record.boot_id = boot_id.clone();
        state.boot_id = boot_id;
        let path = dir.path().join(names::INTENT);
        let mut intent: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        intent["boot_id"] = boot.into();
        fs::write(&path, intent.to_string())?;
    }
    dir.write_record(&record)?;
    witness.handle.driver_state = state.to_bytes()?;
    Ok(())
}

/// `reboot`
pub(crate) async fn reboot(stage: &Rc<Stage>) -> anyhow::Result<()> {
    stage.up().await?;
    let mut cut = stage.begin(Part::default()).await?;
    let mut over = stage
        .begin(Part {
            code: 9,
            ..Part::default()
        })
        .await?;
    let mut stranger = Stranger::start()?;

    stage
        .timeline
        .act(format_args!("{} ends, and nobody asks for its code", over.run));
    over.tell_to_end()?;
    eventually("a result on disk", GUARD, || {
        Ok(over
            .supervision_dir()?
            .result()?
            .map(drop)
            .ok_or_else(|| "there is none".to_owned()))
    })
    .await?;
    stage.down().await?;
    cut_power(&cut)?;
    over.place.remove_cgroups()?;
    stage.timeline.act(format_args!(
        "power cut: driver, executor, init and main process are gone; another boot, in which stranger {} has their numbers",
        stranger.identity.pid
    ));
    // The strongest case: were it not for the boot, everything would fit.
    let of_stranger = |_: &ProcessIdentity| stranger.identity;
    rewrite(&mut cut, Some(OTHER_BOOT), of_stranger)?;
    rewrite(&mut over, Some(OTHER_BOOT), of_stranger)?;

    stage.up().await?;
    let refused = stage.recover(&cut).await;
    let message = refused
        .err()
        .map(|status| status.message().to_owned())
        .unwrap_or_default();
    stage.timeline.check_that(
        message.contains("rebooted") && !message.contains('\n'),
        format_args!("RecoverTask says in one line: {message}"),
        || format!("{}: RecoverTask says {message:?} of a task of another boot", cut.run),
    );
    stranger.check_unhurt(stage, "RecoverTask")?;
    stage.plugin()?.destroy_task(cut.task_id()).await;
    stranger.check_unhurt(stage, "DestroyTask")?;
    let evidence = cut.evidence()?.violations(&cut.run, Extent::Torn, None);
    stage
        .timeline
        .check(format_args!("{} did not run again", cut.run), evidence);

    let recovered = stage.recover(&over).await;
    stage.timeline.check(
        format_args!("{} ended before the power cut and is recovered", over.run),
        recovered
            .err()
            .map(|status| format!("{}: RecoverTask failed: {}", over.run, status.message())),
    );
    stage.conclude(&over, Wanted::Code).await?;
    stranger.check_unhurt(stage, "the end of the other task")?;
    stage.check_nothing_left().await
}

/// `pid-reuse`
pub(crate) async fn pid_reuse(stage: &Rc<Stage>) -> anyhow::Result<()> {
    stage.up().await?;
    let mut waited = stage.begin(Part::default()).await?;
    let mut stopped = stage
        .begin(Part {
            code: 8,
            ..Part::default()
        })
        .await?;
    let mut strangers = [Stranger::start()?, Stranger::start()?, Stranger::start()?];
    let pids = strangers.each_ref().map(|stranger| stranger.identity.pid);
    stage.down().await?;
    for witness in [&mut waited, &mut stopped] {
        cut_power(witness)?;
        let real = witness.state.clone();
        // The number of a stranger, and the start of who had it before.
        let reused = |identity: &ProcessIdentity| {
            let number = match identity.pid {
                pid if pid == real.main.pid => pids[0],
                pid if pid == real.init.pid => pids[1],
                _ => pids[2],
            };
            ProcessIdentity {
                pid: number,
                ..*identity
            }
        };
        rewrite(witness, None, reused)?;
    }
    stage.timeline.act(format_args!(
        "everything of two tasks is killed, and their numbers belong to strangers {}, {} and {}",
        pids[0], pids[1], pids[2]
    ));
    let mut unhurt = |stage: &Stage, after: &str| -> anyhow::Result<()> {
        strangers
            .iter_mut()
            .try_for_each(|stranger| stranger.check_unhurt(stage, after))
    };

    stage.up().await?;
    let recovered = stage.recover(&waited).await;
    match &recovered {
        Ok(()) => stage.timeline.act(format_args!("{} is recovered", waited.run)),
        Err(status) => stage
            .timeline
            .act(format_args!("{} is not recovered: {}", waited.run, status.message())),
    }
    unhurt(stage, "RecoverTask")?;
    if recovered.is_ok() {
        let end = stage.end_of(&waited).await?;
        stage.timeline.check(
            format_args!("{} {}", waited.run, end.describe()),
            stage.violations(&waited, &end, Wanted::NoSuccess)?,
        );
        if let End::Unknown(reason) = &end {
            ensure!(!reason.is_empty(), "an unknown end without a reason");
        }
    }

    // Whether there is still something to stop is the driver's to know; that nobody else is meant is what counts.
    let recovered = stage.recover(&stopped).await;
    let stop = stage.stop(&stopped).await;
    stage.timeline.act(format_args!(
        "{} is {}, and a stop {}",
        stopped.run,
        match &recovered {
            Ok(()) => "recovered".to_owned(),
            Err(status) => format!("not recovered ({})", status.message()),
        },
        match &stop {
            Ok(()) => "returns".to_owned(),
            Err(error) => format!("says: {error}"),
        }
    ));
    unhurt(stage, "StopTask")?;
    for witness in [&waited, &stopped] {
        let evidence = witness.evidence()?.violations(&witness.run, Extent::Torn, None);
        stage
            .timeline
            .check(format_args!("{} did not run again", witness.run), evidence);
        stage.forget(witness).await?;
    }
    unhurt(stage, "DestroyTask")?;
    stage.check_nothing_left().await
}
