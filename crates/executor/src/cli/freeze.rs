//! `freeze` and `thaw`: every process of a task stops, and goes on.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use holdfast_wire::executor_v1::FreezeRequest;

use super::connection::{Reached, orphans_scope, reach};
use super::known::end_of;
use super::target::TaskArgument;

/// How long a process may take to stop, as in an executor.
const FREEZE_BOUND: Duration = Duration::from_secs(10);

/// `freeze`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor freeze web
  holdfast-executor thaw web")]
pub struct Freeze {
    #[command(flatten)]
    task: TaskArgument,
}

/// `thaw`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  holdfast-executor thaw web")]
pub struct Thaw {
    #[command(flatten)]
    task: TaskArgument,
}

impl Freeze {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        set(&self.task, state_dir, true).await
    }
}

impl Thaw {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        set(&self.task, state_dir, false).await
    }
}

async fn set(task: &TaskArgument, state_dir: &Path, frozen: bool) -> Result<ExitCode> {
    match reach(&task.find(state_dir)?).await? {
        Reached::Peer(mut peer) => {
            let done = peer.executor.freeze(FreezeRequest { frozen }).await;
            done.map_err(|status| anyhow!("{}", status.message()))?;
        }
        Reached::Over(result) => bail!("the task has ended: {}", end_of(&result)),
        // The freezer belongs to the task and not to its executor; whoever adopts it finds it as it is.
        Reached::Orphan(record) => {
            let scope = orphans_scope(&record)?;
            if frozen {
                holdfast_cgroup::freeze(&scope.kill, scope.version, FREEZE_BOUND)?;
            } else {
                holdfast_cgroup::thaw(&scope.kill, scope.version)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
