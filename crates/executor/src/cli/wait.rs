//! `wait`: until tasks are over.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use holdfast_record::{ProcessIdentity, RecordError, Status, SupervisionDir, TaskResult};
use holdfast_sys::readiness::Registered;
use holdfast_wire::executor_v1::{self as wire, WaitRequest, task_result};
use tokio::io::Interest;
use tokio::task::JoinSet;

use super::known::{ANSWER_BOUND, Known, State, end_of};
use super::target::{Target, TasksArgument};
use super::{exit_code, print};
use crate::client::{self, Peer};

/// Before looking again where there is no process to wait for: an executor that starts, adopts or is about to leave.
const PAUSE: Duration = Duration::from_millis(100);

/// `wait`.
///
/// The exit status is the task's, 128 + n after signal n. Of several tasks all are waited for, and the status is that of the first of
/// them, in the order of the arguments, that failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor wait web
  holdfast-executor wait migrate seed && echo both are done")]
pub struct Wait {
    #[command(flatten)]
    tasks: TasksArgument,
}

impl Wait {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let targets = self.tasks.find(state_dir)?;
        let is_single = targets.len() == 1;
        let mut waiting = JoinSet::new();
        let mut codes = vec![0; targets.len()];
        for (index, (name, target)) in targets.into_iter().enumerate() {
            waiting.spawn(async move {
                let ended = match target {
                    Target::Dir(dir) => over(&dir).await,
                    Target::Socket(path) => match client::connect_socket(&path).await {
                        Ok(mut peer) => told(&mut peer).await,
                        Err(e) => Err(e.into()),
                    },
                };
                (index, name, ended)
            });
        }
        while let Some(done) = waiting.join_next().await {
            let (index, name, ended) = done?;
            let result = ended.map_err(|e| if is_single { e } else { e.context(name.clone()) })?;
            codes[index] = code_of(&result);
            match is_single {
                true => print(format!("ended: {}\n", end_of(&result)))?,
                false => print(format!("{name}: ended: {}\n", end_of(&result)))?,
            }
        }
        Ok(exit_code(codes.into_iter().find(|code| *code != 0).unwrap_or(0)))
    }
}

/// As a shell tells it; what is not known is no success.
pub fn code_of(result: &TaskResult) -> i32 {
    match result.status {
        Status::Exited(code) => code,
        Status::Signalled(signal) => 128 + signal,
        Status::Unknown(_) | Status::NotStarted(_) => 1,
    }
}

/// Returns once it is over, whoever concludes it.
async fn over(dir: &SupervisionDir) -> Result<TaskResult> {
    let mut is_last_look = false;
    loop {
        if let Some(result) = dir.result()? {
            return Ok(result);
        }
        // Its answer comes even where the folder goes with the task, as that of a run in the foreground does.
        if let Ok(Ok(mut peer)) = tokio::time::timeout(ANSWER_BOUND, client::connect(dir)).await
            && let Ok(result) = told(&mut peer).await
        {
            return Ok(result);
        }
        let record = match dir.record() {
            Err(RecordError::Gone { .. } | RecordError::Replaced { .. }) => {
                bail!("the task in {} is gone, and its end with it", dir.path().display())
            }
            record => record?,
        };
        let Some(record) = record else {
            match Known::of(dir.try_clone()?).await?.state {
                State::NotStarted => bail!("the task in {} was never started", dir.path().display()),
                _ => tokio::time::sleep(PAUSE).await,
            }
            continue;
        };
        let is_current = holdfast_record::boot_id().is_ok_and(|boot| boot == record.boot_id);
        if is_current && (ended(&record.executor).await? || ended(&record.main).await?) {
            is_last_look = false;
            continue;
        }
        // All of them are gone. Somebody who adopts the task writes the result; else there is what the init wrote.
        match Known::of(dir.try_clone()?).await?.state {
            State::Ended(result) if is_last_look || !is_current => return Ok(result),
            _ => is_last_look = dir.lock()?.is_some(),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the end of the process; false if it was over before.
async fn ended(identity: &ProcessIdentity) -> Result<bool> {
    match identity.open()? {
        Some(pidfd) if !pidfd.has_exited()? => {
            Registered::new(pidfd.into(), Interest::READABLE)?.readable().await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

async fn told(peer: &mut Peer) -> Result<TaskResult> {
    let answer = peer.executor.wait(WaitRequest {}).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let Some(wire::TaskResult {
        status: Some(status),
        oom_killed,
        finished_at_ms,
        timed_out,
        unattended,
        executor_lost,
    }) = answer.into_inner().result
    else {
        bail!("the executor told no result");
    };
    let status = match status {
        task_result::Status::Exited(code) => Status::Exited(code),
        task_result::Status::Signalled(signal) => Status::Signalled(signal),
        task_result::Status::Unknown(reason) => Status::Unknown(reason),
        task_result::Status::NotStarted(reason) => Status::NotStarted(reason),
    };
    let mut result = TaskResult::new(status, oom_killed, 0, finished_at_ms);
    result.timed_out = timed_out;
    result.unattended = unattended;
    result.executor_lost = executor_lost;
    Ok(result)
}
