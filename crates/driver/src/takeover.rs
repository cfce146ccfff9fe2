//! Finding out what has become of a task, and making sure that it has an executor.
//!
//! Needed when an executor dies, when a driver comes back, and when a start finds what a dead driver left.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_executor::client::{self, Peer};
use holdfast_record::{ExecutorLoss, Lock, Record, RecordError, SupervisionDir, TaskResult};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::{CommitRequest, EquipRequest};
use tokio::time::Instant;

use crate::driver::Driver;
use crate::{end, watch};

/// How long somebody may hold the lock without answering: an executor that starts, adopts, or is about to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has become of a task.
#[derive(Debug)]
pub enum Found {
    /// An executor answers for it.
    Supervised {
        /// Readable when the executor ends.
        executor: PidFd,
        /// What the executor recorded.
        record: Box<Record>,
        /// The executor was started just now, in the place of a dead one.
        adopted: bool,
    },
    /// Its executor lives and does not answer: it is stopped, or hangs.
    Silent {
        /// Readable when the executor ends.
        executor: PidFd,
        /// What the executor recorded.
        record: Box<Record>,
        /// What was tried.
        reason: String,
    },
    /// It lives, and no executor could be started for it.
    Orphaned {
        /// What the dead executor recorded.
        record: Box<Record>,
        /// Why not.
        reason: String,
    },
    /// It ended; this is on disk.
    Over(TaskResult),
    /// Its main process was never released.
    NeverStarted,
}

/// Looks at a supervision directory of this boot and takes the task over: connects to its executor, else starts one
/// that adopts it. `environment` goes to an executor that has none. Whoever else does the same at the same time, there is one executor in
/// the end. Fails if it cannot be told what has become of the task.
pub async fn take_over(
    driver: &Driver,
    dir: &SupervisionDir,
    shared_cgroups: &[PathBuf],
    environment: &[String],
) -> Result<Found, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(10);
    let mut was_asked = false;
    loop {
        if let Some(result) = dir.result().map_err(text)? {
            return Ok(over(dir, result));
        }
        let unreachable = match client::connect(dir).await {
            Ok(peer) => return supervised(driver, dir, peer, environment, false).await,
            Err(e) => e.to_string(),
        };
        let is_late = Instant::now() >= deadline;
        // Cannot connect is not dead: its socket may be gone, or somebody else's, or it may be stopped.
        if let Some(executor) = client::living_executor(dir) {
            if is_late && was_asked {
                return silent(dir, executor, &unreachable);
            }
            was_asked = client::ask_to_bind_again(dir);
        // The lock is free once the executor is dead, however it died. It is only looked at: the adopting executor takes it.
        } else if dir.lock().map_err(text)?.is_some() {
            if let Some(found) = adopt(driver, dir, shared_cgroups, environment, is_late).await? {
                return Ok(found);
            }
        } else if is_late {
            return Err(format!("an executor holds the task and does not answer: {unreachable}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// One that was committed goes on with its task as soon as it goes on.
fn silent(dir: &SupervisionDir, executor: PidFd, unreachable: &str) -> Result<Found, String> {
    let reason = format!("an executor holds the task and does not answer: {unreachable}");
    match dir.record().map_err(text)? {
        Some(record) if record.committed => Ok(Found::Silent {
            executor,
            record: Box::new(record),
            reason,
        }),
        Some(_) | None => Err(reason),
    }
}

/// Nobody has the task: an executor is started that adopts it. `None`: somebody else was faster, and there is time to ask them.
async fn adopt(
    driver: &Driver,
    dir: &SupervisionDir,
    shared_cgroups: &[PathBuf],
    environment: &[String],
    is_late: bool,
) -> Result<Option<Found>, String> {
    // It may have written the result as the last thing it did.
    if let Some(result) = dir.result().map_err(text)? {
        return Ok(Some(over(dir, result)));
    }
    let Some(record) = dir.record().map_err(text)? else {
        return Ok(Some(Found::NeverStarted));
    };
    point::reached(Point::AdoptionDecided);
    let adopting = async {
        let launcher = driver.launcher().map_err(text)?;
        launcher.adopt(dir, shared_cgroups).await.map_err(text)
    };
    let reason = match adopting.await {
        Ok(peer) => match supervised(driver, dir, peer, environment, true).await {
            Ok(found) => return Ok(Some(found)),
            Err(reason) => reason,
        },
        Err(reason) => reason,
    };
    // An adopting executor of an ended task has nothing to do but to say so.
    if let Some(result) = dir.result().map_err(text)? {
        return Ok(Some(over(dir, result)));
    }
    let is_taken = client::living_executor(dir).is_some() || dir.lock().map_err(text)?.is_none();
    if is_taken && !is_late {
        return Ok(None);
    }
    if record.plan.ending.on_executor_loss == ExecutorLoss::Kill {
        end::kill_orphan(dir).await.map_err(text)?;
    }
    Ok(Some(Found::Orphaned {
        record: Box::new(record),
        reason,
    }))
}

/// The executor may have died right after it had written this.
fn over(dir: &SupervisionDir, result: TaskResult) -> Found {
    end::end_init(dir);
    Found::Over(result)
}

async fn supervised(
    driver: &Driver,
    dir: &SupervisionDir,
    peer: Peer,
    environment: &[String],
    adopted: bool,
) -> Result<Found, String> {
    let Peer {
        pidfd,
        identity,
        mut executor,
        ..
    } = peer;
    if adopted {
        point::reached(Point::AdoptionIdentified);
    }
    let talk = async {
        if identity.wants_environment {
            executor
                .equip(EquipRequest {
                    env: environment.to_vec(),
                })
                .await?;
        }
        // Whoever takes the task over answers for it from now on.
        if identity.main.is_some() && !identity.committed {
            executor.commit(CommitRequest {}).await?;
        }
        if matches!(dir.record(), Ok(Some(record)) if record.plan.ending.on_agent_exit.limit().is_some()) {
            driver.attention.tell(&mut executor).await?;
        }
        Ok::<(), tonic::Status>(())
    };
    let talked = match tokio::time::timeout(PATIENCE, talk).await {
        Ok(talked) => talked,
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
    };
    drop(executor);
    if adopted {
        point::reached(Point::AdoptionDone);
    }
    let looked = dir
        .result()
        .and_then(|result| Ok((result, dir.record()?)))
        .map_err(text);
    let found = match (looked, talked) {
        (Ok((None, Some(record))), Ok(())) => {
            return Ok(Found::Supervised {
                executor: pidfd,
                record: Box::new(record),
                adopted,
            });
        }
        (Ok((Some(result), _)), _) => Ok(over(dir, result)),
        (Ok((None, None)), Ok(())) => Ok(Found::NeverStarted),
        (Ok((None, Some(record))), Err(status)) if record.committed && !pidfd.has_exited().unwrap_or(true) => {
            return Ok(Found::Silent {
                executor: pidfd,
                record: Box::new(record),
                reason: format!("the executor does not answer: {}", status.message()),
            });
        }
        (Ok((None, _)), Err(status)) => Err(format!("the executor refused: {}", status.message())),
        (Err(reason), _) => Err(reason),
    };
    watch::reap(pidfd);
    found
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// The lock of a task that nobody supervises, and nobody can: its record cannot be read. As long as it is held nobody tries.
pub fn lock_unreadable(dir: &SupervisionDir) -> Option<Lock> {
    match dir.record() {
        Err(RecordError::Malformed { .. } | RecordError::UnsupportedVersion { .. }) => dir.lock().ok()?,
        Ok(_) | Err(_) => None,
    }
}

/// True if the folder is not there.
pub fn is_absent(error: &RecordError) -> bool {
    match error {
        RecordError::Gone { .. } => true,
        RecordError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
