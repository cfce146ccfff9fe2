//! `update`: other limits for a living task.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use holdfast_cgroup::Limits;
use holdfast_sandbox::plan::wire_limits;
use holdfast_wire::executor_v1::UpdateRequest;

use super::connection::{Reached, orphans_scope, reach};
use super::known::end_of;
use super::limits::LimitFlags;
use super::target::TaskArgument;
use super::wrong_usage;

/// `update`.
///
/// What is not given stays as it is. Limits that the kernel refuses are named, and the exit status is 1; all others hold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor update web --memory 512MiB
  holdfast-executor update web --cpu-shares 2048 --pids-limit 500")]
pub struct Update {
    #[command(flatten)]
    task: TaskArgument,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Update {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let limits = match self.limits.limits() {
            Ok(limits) if limits == Limits::default() => {
                return Ok(wrong_usage("no limit is given: see holdfast-executor update --help"));
            }
            Ok(limits) => limits,
            Err(e) => return Ok(wrong_usage(&e.to_string())),
        };
        let refused: Vec<String> = match reach(&self.task.find(state_dir)?).await? {
            Reached::Peer(mut peer) => {
                let request = UpdateRequest {
                    limits: Some(wire_limits(limits)),
                };
                let updated = peer.executor.update(request).await;
                updated
                    .map_err(|status| anyhow!("{}", status.message()))?
                    .into_inner()
                    .warnings
            }
            Reached::Over(result) => bail!("the task has ended: {}", end_of(&result)),
            // Limits belong to the cgroup and not to the executor.
            Reached::Orphan(record) => match holdfast_cgroup::apply(&orphans_scope(&record)?, &limits) {
                Ok(()) => Vec::new(),
                Err(e) => e.refusals.iter().map(ToString::to_string).collect(),
            },
        };
        for refusal in &refused {
            let _ = writeln!(std::io::stderr(), "holdfast-executor: {refusal}");
        }
        Ok(match refused.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}
