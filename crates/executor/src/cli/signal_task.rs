//! `signal`: one signal to a task.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use holdfast_record::{KillTarget, Record};
use holdfast_wire::executor_v1::{self as wire, SignalRequest};

use super::connection::{Connection, Reached, adopt, reach};
use super::known::end_of;
use super::target::{Target, TaskArgument};
use super::values;

/// `signal`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor signal HUP web
  holdfast-executor signal USR1 web --target cgroup")]
pub struct SignalTask {
    /// Which signal: HUP, SIGHUP or 1
    #[arg(value_name = "SIGNAL", value_parser = values::signal, allow_hyphen_values = true)]
    signal: i32,
    #[command(flatten)]
    task: TaskArgument,
    /// Who gets it [default: the task's own kill_target, which is main unless the job says otherwise]
    #[arg(long, value_enum)]
    target: Option<Whom>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whom {
    /// The main process
    Main,
    /// Its process group
    Group,
    /// Every process of the task's cgroup
    Cgroup,
}

impl SignalTask {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let target = self.task.find(state_dir)?;
        let mut peer = match (reach(&target).await?, &target) {
            (Reached::Peer(peer), _) => peer,
            (Reached::Over(result), _) => bail!("the task has ended: {}", end_of(&result)),
            (Reached::Orphan(record), _) if self.is_for_main(&record) => {
                signal_main(&record, self.signal)?;
                return Ok(ExitCode::SUCCESS);
            }
            (Reached::Orphan(record), Target::Dir(dir)) => match adopt(dir, &record).await? {
                Connection::Peer { peer, .. } => peer,
                Connection::Over(result) => bail!("the task has ended: {}", end_of(&result)),
            },
            (Reached::Orphan(_), Target::Socket(path)) => bail!("{} lies in no supervision directory", path.display()),
        };
        let whom = self.target.map(|target| match target {
            Whom::Main => wire::KillTarget::Main,
            Whom::Group => wire::KillTarget::Group,
            Whom::Cgroup => wire::KillTarget::Cgroup,
        });
        let request = SignalRequest {
            signal: self.signal,
            target: whom.map(i32::from),
        };
        let sent = peer.executor.signal(request).await;
        sent.map_err(|status| anyhow!("{}", status.message()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// What needs no executor.
    fn is_for_main(&self, record: &Record) -> bool {
        match self.target {
            Some(whom) => whom == Whom::Main,
            None => record.plan.ending.kill_target == KillTarget::Main,
        }
    }
}

/// Through a pidfd that was compared with the record.
fn signal_main(record: &Record, signal: i32) -> Result<()> {
    let main = record.main.open().context("opening the main process")?;
    let main = main.context("the task has ended, and its executor is dead")?;
    main.send_signal(signal)
        .with_context(|| format!("sending signal {signal} to the main process, pid {}", record.main.pid))
}
