//! `adopt`: an executor for a task that lost its own.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use holdfast_wire::executor_v1::CommitRequest;

use super::connection::{Connection, Reached, adopt, reach};
use super::known::end_of;
use super::print;
use super::target::{Target, TaskArgument};

/// `adopt`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor adopt web
  holdfast-executor adopt /var/lib/holdfast/raw_exec/0123abcd-4567cdef")]
pub struct Adopt {
    #[command(flatten)]
    task: TaskArgument,
}

impl Adopt {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let target = self.task.find(state_dir)?;
        let (record, dir) = match (reach(&target).await?, &target) {
            (Reached::Peer(peer), _) => bail!("the task has an executor: pid {}", peer.identity.pid),
            (Reached::Over(result), _) => bail!("the task has ended: {}", end_of(&result)),
            (Reached::Orphan(record), Target::Dir(dir)) => (record, dir),
            (Reached::Orphan(_), Target::Socket(path)) => bail!("{} lies in no supervision directory", path.display()),
        };
        match adopt(dir, &record).await? {
            Connection::Peer { mut peer, .. } => {
                // Whoever gives it an executor answers for it; otherwise it would be stopped after a bound.
                if !peer.identity.committed {
                    let committed = peer.executor.commit(CommitRequest {}).await;
                    committed.map_err(|status| anyhow!("{}", status.message()))?;
                }
                print(format!("adopted by a new executor: pid {}\n", peer.identity.pid))?;
            }
            // It was over already, and the executor has told the end that the init recorded.
            Connection::Over(result) => print(format!("ended: {}\n", end_of(&result)))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
