//! `stop`: a signal, a grace, the kill.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use holdfast_record::TaskResult;
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::Registered;
use holdfast_wire::executor_v1::StopRequest;
use tokio::io::Interest;

use super::connection::{Connection, connect};
use super::known::end_of;
use super::print;
use super::target::{Target, TaskArgument};
use super::values;
use crate::foreground::Purpose;

/// How long an executor may take to leave once its task is over.
const LEAVING_BOUND: Duration = Duration::from_secs(5);

/// `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor stop web
  holdfast-executor stop web --signal INT --grace 30s
  holdfast-executor stop web --grace 0")]
pub struct StopTask {
    #[command(flatten)]
    task: TaskArgument,
    /// The signal that asks the main process to leave
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = values::signal, allow_hyphen_values = true)]
    signal: i32,
    /// How long it may take before it is killed; 0: kill it at once
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    grace: Duration,
}

impl StopTask {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let target = self.task.find(state_dir)?;
        let (mut peer, adopted) = match connect(&target).await? {
            Connection::Over(result) => return told(&result),
            Connection::Peer { peer, adopted } => (peer, adopted),
        };
        let request = StopRequest {
            signal: self.signal,
            grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX),
        };
        let stopped = peer.executor.stop(request).await;
        let Target::Dir(dir) = target else {
            stopped.map_err(|status| anyhow!("{}", status.message()))?;
            return Ok(ExitCode::SUCCESS);
        };
        match (dir.result(), stopped) {
            (Ok(Some(result)), _) => {
                // What ran by hand and lost its executor is nobody's to clean up but this command's.
                if adopted
                    && dir
                        .intent()
                        .is_ok_and(|intent| Purpose::ends_with_its_executor(&intent.driver))
                {
                    let _ = tokio::time::timeout(LEAVING_BOUND, ended(&peer.pidfd)).await;
                    if let Some(record) = dir.record()? {
                        super::run::remove_cgroups(&record.plan.placement.join, &record.alloc_id);
                    }
                    dir.remove()?;
                }
                told(&result)
            }
            (_, Err(status)) => Err(anyhow!("{}", status.message())),
            // Whoever answers for the task has seen its end and removed the folder.
            (_, Ok(_)) => Ok(ExitCode::SUCCESS),
        }
    }
}

fn told(result: &TaskResult) -> Result<ExitCode> {
    print(format!("ended: {}\n", end_of(result)))?;
    Ok(ExitCode::SUCCESS)
}

async fn ended(pidfd: &PidFd) -> std::io::Result<()> {
    Registered::new(pidfd.try_clone()?.into(), Interest::READABLE)?
        .readable()
        .await
}
