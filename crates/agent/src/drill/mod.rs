//! Drills: scripted crashes with the real driver and a real task, and a verdict on each.
//!
//! A drill launches this very program as the driver, in a folder of its own; starts witnesses ([`witness`]), tasks that leave
//! evidence of who ran when and of every line that they wrote; brings about one kind of crash, does what an agent would do then, and
//! checks every promise on the way ([`stage`]). What it says is in [`timeline`].

mod agent;
mod binaries;
mod chance;
mod disk;
mod identity;
mod kills;
mod processes;
mod socket;
mod stage;
mod storm;
mod timeline;
mod witness;

use crate::console;
use crate::id;
use anyhow::Context as _;
use stage::Stage;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use timeline::{Timeline, Verdict};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A kind of crash that can be rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Drill {
    KillDriver,
    KillExecutor,
    KillBoth,
    KillAgent,
    Reboot,
    PidReuse,
    DiskFull,
    SlowDisk,
    SocketGone,
    ReplaceBinaries,
    Storm,
}

impl Drill {
    /// Every drill, in the order in which they are run.
    pub(crate) const ALL: [Drill; 11] = [
        Drill::KillDriver,
        Drill::KillExecutor,
        Drill::KillBoth,
        Drill::KillAgent,
        Drill::Reboot,
        Drill::PidReuse,
        Drill::DiskFull,
        Drill::SlowDisk,
        Drill::SocketGone,
        Drill::ReplaceBinaries,
        Drill::Storm,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Drill::KillDriver => "kill-driver",
            Drill::KillExecutor => "kill-executor",
            Drill::KillBoth => "kill-both",
            Drill::KillAgent => "kill-agent",
            Drill::Reboot => "reboot",
            Drill::PidReuse => "pid-reuse",
            Drill::DiskFull => "disk-full",
            Drill::SlowDisk => "slow-disk",
            Drill::SocketGone => "socket-gone",
            Drill::ReplaceBinaries => "replace-binaries",
            Drill::Storm => "storm",
        }
    }

    /// What it is about, in one sentence.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Drill::KillDriver => "the driver is killed; tasks go on, are stopped and end with their own codes",
            Drill::KillExecutor => {
                "a task's executor is killed; another one adopts the task, and nothing of it is lost"
            }
            Drill::KillBoth => "driver and executors are killed at once, also while a task ends",
            Drill::KillAgent => {
                "the agent is killed and started again, alone and with all that stands between it and its task"
            }
            Drill::Reboot => "the records are of another boot; what ended before is told, and no process is touched",
            Drill::PidReuse => {
                "recorded process numbers belong to strangers now, who survive recovery, stop and destruction"
            }
            Drill::DiskFull => {
                "the disks of logs and of records are full; no line and no exit code is lost (needs root)"
            }
            Drill::SlowDisk => "the disk of the logs hangs; a stop and an end do not wait for it (needs root)",
            Drill::SocketGone => {
                "an executor's socket is removed, with and without a driver; the task is found all the same"
            }
            Drill::ReplaceBinaries => {
                "driver and executor are replaced on disk while tasks run, and everything is killed"
            }
            Drill::Storm => "many tasks that come and go, and random kills of the driver and of executors for a time",
        }
    }

    async fn run(self, stage: &Rc<Stage>, options: &Options) -> anyhow::Result<()> {
        match self {
            Drill::KillDriver => kills::driver(stage).await,
            Drill::KillExecutor => kills::executor(stage).await,
            Drill::KillBoth => kills::both(stage).await,
            Drill::KillAgent => agent::run(stage).await,
            Drill::Reboot => identity::reboot(stage).await,
            Drill::PidReuse => identity::pid_reuse(stage).await,
            Drill::DiskFull => disk::full(stage).await,
            Drill::SlowDisk => disk::slow(stage).await,
            Drill::SocketGone => socket::run(stage).await,
            Drill::ReplaceBinaries => binaries::run(stage).await,
            Drill::Storm => storm::run(stage, &options.storm).await,
        }
    }
}

/// How the witnesses are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// As `raw_exec` does.
    Raw,
    /// Isolated, as `holdfast` does.
    Holdfast,
}

impl Profile {
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Profile::Raw => "raw_exec",
            Profile::Holdfast => "holdfast",
        }
    }
}

/// How many, how long, and by what chance.
#[derive(Debug, Clone)]
pub(crate) struct StormOptions {
    pub tasks: u32,
    pub lasts: Duration,
    pub seed: Option<u64>,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub drills: Vec<Drill>,
    pub profile: Profile,
    pub state_dir: Option<PathBuf>,
    pub keep: bool,
    pub json: bool,
    pub storm: StormOptions,
}

/// This host lacks what a drill needs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotPossible(pub String);

/// All were passed.
const PASSED: u8 = 0;
const VIOLATED: u8 = 1;
const NOT_POSSIBLE: u8 = 2;
/// What shells say of a process that a signal ended: this, and its number.
const SIGNALLED: u8 = 128;

/// Runs the drills one after the other. The answer is the exit code.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::watch()?;
    let parent = match &options.state_dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir(),
    };
    let mut worst = PASSED;
    for drill in &options.drills {
        let root = parent.join(format!("holdfast-drill-{}-{}", drill.name(), id::short()?));
        let timeline = Timeline::begin(drill.name(), drill.promise(), options.json);
        let code = match one(*drill, &options, root.clone(), &timeline, &mut signals).await {
            Outcome::Ended(verdict, reason) => {
                timeline.end(&verdict, reason.as_deref());
                match verdict {
                    Verdict::Passed => PASSED,
                    Verdict::Violated => VIOLATED,
                    Verdict::NotPossible => NOT_POSSIBLE,
                    Verdict::Interrupted => SIGNALLED,
                }
            }
            Outcome::Signal(number) => {
                timeline.end(&Verdict::Interrupted, Some("everything that was started is ended"));
                return Ok(ExitCode::from(SIGNALLED + number));
            }
        };
        if options.keep {
            console::say(format_args!("kept: {}", root.display()));
        }
        worst = match (worst, code) {
            (VIOLATED, _) | (_, VIOLATED) => VIOLATED,
            (one, other) => one.max(other),
        };
    }
    Ok(ExitCode::from(worst))
}

enum Outcome {
    Ended(Verdict, Option<String>),
    Signal(u8),
}

/// Runs one drill and removes all that it made.
async fn one(drill: Drill, options: &Options, root: PathBuf, timeline: &Timeline, signals: &mut Signals) -> Outcome {
    let stage = match Stage::build(root, options.profile, timeline.clone()) {
        Ok(stage) => stage,
        Err(error) => return Outcome::Ended(Verdict::NotPossible, Some(console::in_one_line(&error))),
    };
    let ended = tokio::select! {
        ended = drill.run(&stage, options) => Ok(ended),
        number = signals.any() => Err(number),
    };
    let outcome = match ended {
        Ok(ended) => verdict(timeline, ended),
        Err(number) => Outcome::Signal(number),
    };
    if let Err(error) = stage.clear(options.keep).await {
        timeline.violated(format_args!("not all is cleared: {}", console::in_one_line(&error)));
    }
    match outcome {
        Outcome::Ended(Verdict::Passed, _) if timeline.is_violated() => Outcome::Ended(Verdict::Violated, None),
        outcome => outcome,
    }
}

fn verdict(timeline: &Timeline, ended: anyhow::Result<()>) -> Outcome {
    let ended = match ended {
        Err(error) if error.downcast_ref::<NotPossible>().is_some() => {
            return Outcome::Ended(Verdict::NotPossible, Some(console::in_one_line(&error)));
        }
        ended => ended,
    };
    // Whatever keeps a drill from its end is something that was not promised.
    if let Err(error) = ended {
        timeline.violated(console::in_one_line(&error));
    }
    let verdict = match timeline.is_violated() {
        true => Verdict::Violated,
        false => Verdict::Passed,
    };
    Outcome::Ended(verdict, None)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?,
        })
    }

    /// The number of the next one.
    async fn any(&mut self) -> u8 {
        tokio::select! { _ = self.interrupt.recv() => 2, _ = self.terminate.recv() => 15 }
    }
}

/// The table of drills.
pub(crate) fn list(json: bool) -> String {
    Drill::ALL
        .iter()
        .map(|drill| match json {
            true => format!(
                "{}\n",
                serde_json::json!({"drill": drill.name(), "promise": drill.promise()})
            ),
            false => format!("{:<16}  {}\n", drill.name(), drill.promise()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_drill_is_in_the_list_under_the_name_that_is_typed() {
        for drill in Drill::value_variants() {
            assert!(Drill::ALL.contains(drill), "{drill:?}");
            let typed = drill.to_possible_value().expect("a name");
            assert_eq!(typed.get_name(), drill.name());
            assert!(list(false).lines().any(|line| line.starts_with(drill.name())));
        }
        assert_eq!(list(true).lines().count(), Drill::ALL.len());
    }
}
