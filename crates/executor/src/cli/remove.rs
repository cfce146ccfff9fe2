//! `rm`: the folder of a task that ended and that no driver answers for.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use holdfast_record::SupervisionDir;
use tokio::time::{Instant, sleep};

use super::connection::adopt;
use super::known::{Known, State};
use super::run::remove_cgroups;
use super::target::{Target, TasksArgument};
use crate::foreground::Purpose;

/// How long an executor may take to leave once its task is over.
const LEAVING_BOUND: Duration = Duration::from_secs(5);

/// `rm`.
///
/// Records and output of a task that was started by `run`. What a driver started goes with its allocation.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  holdfast-executor stop backup && holdfast-executor rm backup")]
pub struct Remove {
    #[command(flatten)]
    tasks: TasksArgument,
}

impl Remove {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        for (_, target) in self.tasks.find(state_dir)? {
            match target {
                Target::Dir(dir) => remove(dir).await?,
                Target::Socket(path) => bail!("{} lies in no supervision directory", path.display()),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn remove(dir: SupervisionDir) -> Result<()> {
    let known = Known::of(dir).await?;
    let intent = &known.intent;
    if !Purpose::is_by_hand(&intent.driver) {
        bail!(
            "task {:?} is driver {}'s, which removes it with its allocation",
            intent.task_id,
            intent.driver
        );
    }
    if !matches!(known.state, State::Ended(_) | State::NotStarted) {
        bail!("task {:?} is {}: stop it first", intent.task_id, known.word());
    }
    let is_current =
        |record: &holdfast_record::Record| holdfast_record::boot_id().is_ok_and(|boot| boot == record.boot_id);
    if let Some(record) = known.record.as_ref().filter(|record| is_current(record))
        && known.dir.result()?.is_none()
    {
        // Its executor died: another one ends what the main process has left behind.
        adopt(&known.dir, record).await?;
    }
    let deadline = Instant::now() + LEAVING_BOUND;
    let _lock = loop {
        match known.dir.lock()? {
            Some(lock) => break lock,
            None if Instant::now() >= deadline => bail!("an executor holds the task in {}", known.dir.path().display()),
            None => sleep(Duration::from_millis(20)).await,
        }
    };
    if let Some(record) = &known.record {
        remove_cgroups(&record.plan.placement.join, &record.alloc_id);
    }
    known.dir.remove()?;
    Ok(())
}
