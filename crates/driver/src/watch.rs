//! Watching over one living task: its executor's pidfd, and an adoption when the executor dies.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_record::{ExecutorLoss, Lock, Notice, Notices, Record, Status, SupervisionDir, TaskResult, now_ms};
use holdfast_sandbox::duration;
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;

use crate::driver::Driver;
use crate::table::{Facts, Outcome, Phase};
use crate::takeover::{self, Found};
use crate::{end, notices};

/// Pauses between attempts to give an orphaned task an executor.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Attempts after which the driver tells the end of a task itself, without its last output: one executor that was killed while it
/// adopted the task says nothing of the next one.
const LAST_RESORT: u32 = 3;

/// How long an executor may take to leave once the result is on disk, before the end is told without waiting for it: one whose
/// thread hangs in a write to the disk of the logs cannot die before that disk lets it go.
const LEAVING: Duration = Duration::from_secs(1);

/// What an executor that adopts the task is started with.
#[derive(Debug, Clone, Default)]
pub struct Adoption {
    /// Where executors live.
    pub shared_cgroups: Vec<PathBuf>,
    /// `KEY=value` of the task; held only while it lives.
    pub environment: Vec<String>,
}

/// Watches until the task is over or gone from the table; `executor` is who answers for it, if anybody does.
pub fn spawn(driver: Arc<Driver>, facts: Arc<Facts>, adoption: Adoption, executor: Option<PidFd>) {
    tokio::spawn(async move {
        let follower = driver.notices.follow(&facts.dir);
        let listening = async {
            loop {
                // Before the first wait, too: what a driver before this one has not passed on.
                if let Some(result) = listen(&driver, &facts) {
                    tokio::time::sleep(LEAVING).await;
                    return Some(result.into());
                }
                follower.changed().await;
            }
        };
        let outcome = tokio::select! {
            outcome = until_over(&driver, &facts, &adoption, executor) => outcome,
            outcome = listening => outcome,
        };
        drop(follower);
        let Some(outcome) = outcome else { return };
        point::reached(Point::EndKnown);
        tell_end(&driver, &facts, &outcome);
        driver.tasks.over(facts, outcome).await;
    });
}

/// Passes on what the executor has to say; the result, once it is on disk. Of a folder that cannot be opened, whoever watches the
/// executor finds out what that means.
fn listen(driver: &Driver, facts: &Facts) -> Option<TaskResult> {
    let dir = SupervisionDir::open(&facts.dir).ok()?;
    notices::pass_on(&driver.events, &facts.name, &dir);
    dir.result().ok()?
}

/// Tells what there is to say of an end, before the end itself is told.
pub fn tell_end(driver: &Driver, facts: &Facts, outcome: &Outcome) {
    let notices = SupervisionDir::open(&facts.dir).map_or_else(
        |_| Notices::default(),
        |dir| notices::pass_on(&driver.events, &facts.name, &dir),
    );
    let tell = |message: String, annotations: &[(&str, String)]| driver.events.send(&facts.name, message, annotations);
    // The executor tells it when it begins to end the task; one that died then may not have come to it.
    let was_told = |notice: &Notice| notice.annotations.contains_key(MAX_RUNTIME);
    if outcome.timed_out && !notices.notices.iter().any(was_told) {
        let limit = max_runtime(&facts.dir);
        let of = (limit.map(duration::format)).map_or(String::new(), |limit| format!(" of {limit}"));
        let annotation = limit.map(|limit| (MAX_RUNTIME, limit.as_millis().to_string()));
        tell(format!("Maximum run time{of} reached"), annotation.as_slice());
    }
    if outcome.oom_killed {
        tell("Killed by the kernel for want of memory".to_owned(), &[]);
    }
    if let Some(reason) = &outcome.error {
        tell("Exit status not known".to_owned(), &[("reason", reason.clone())]);
    }
}

/// Annotation by which a run time's end is known.
const MAX_RUNTIME: &str = "max_runtime_ms";

fn max_runtime(dir: &Path) -> Option<Duration> {
    let record = SupervisionDir::open(dir).and_then(|dir| dir.record()).ok()??;
    Some(Duration::from_millis(record.plan.ending.max_runtime?.limit_ms))
}

async fn until_over(
    driver: &Driver,
    facts: &Facts,
    adoption: &Adoption,
    mut executor: Option<PidFd>,
) -> Option<Outcome> {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    let mut failures = 0;
    loop {
        // On its own, so that an executor whose end is told before it can die is reaped all the same.
        if let Some(pidfd) = executor.take()
            && let Ok(Err(e)) = tokio::spawn(exited(pidfd)).await
        {
            // Without the descriptor the folder is looked at from time to time.
            tracing::warn!(task_id = facts.name.id, error = %e, "cannot watch the executor");
        }
        if !matches!(driver.tasks.phase(&facts.name.id).await, Some(Phase::Running(_))) {
            return None;
        }
        let dir = match SupervisionDir::open(&facts.dir) {
            Ok(dir) => dir,
            // Nobody can supervise it any more, and what is told next makes the agent start another one (contract, R-2).
            Err(e) if takeover::is_absent(&e) => {
                end::end_without_records(&facts.name.id, &[&facts.main, &facts.init]).await;
                return Some(Outcome::unknown(format!("the task's records are lost: {e}")));
            }
            Err(e) => {
                tracing::warn!(task_id = facts.name.id, error = %e, "cannot look for the task's executor");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        // Boxed: a task that only runs needs no room for what is done when its executor dies.
        let taking_over = Box::pin(takeover::take_over(
            driver,
            &dir,
            &adoption.shared_cgroups,
            &adoption.environment,
        ));
        match taking_over.await {
            Ok(Found::Over(result)) => return Some(result.into()),
            Ok(Found::NeverStarted) => return Some(Outcome::unknown("the task was never started")),
            Ok(Found::Supervised {
                executor: pidfd,
                record,
                adopted,
            }) => {
                if adopted {
                    driver.events.send(
                        &facts.name,
                        "Executor died; another one has adopted the task",
                        &[("executor_pid", record.executor.pid.to_string())],
                    );
                }
                executor = Some(pidfd);
                told = false;
                failures = 0;
                // An executor that dies as soon as it has adopted must not be started without a pause.
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
            Ok(Found::Silent {
                executor: pidfd,
                reason,
                ..
            }) => {
                if !told {
                    driver.events.send(
                        &facts.name,
                        "Executor does not answer; the task is left as it is",
                        &[("reason", reason)],
                    );
                    told = true;
                }
                // Until it is dead, or for a while.
                let _ = tokio::time::timeout(pause, exited(pidfd)).await;
            }
            Ok(Found::Orphaned { record, reason }) => {
                failures += 1;
                if failures >= LAST_RESORT
                    && let Some(outcome) = ended_unseen(&dir, &record, &reason)
                {
                    return Some(outcome);
                }
                if !told {
                    driver.events.send(
                        &facts.name,
                        "Executor died; the task runs on without one",
                        &[("reason", reason)],
                    );
                    told = true;
                }
            }
            Err(reason) => {
                if let Some(lock) = takeover::lock_unreadable(&dir)
                    && let Some(outcome) = end_unreadable(&dir, lock, facts, &reason).await
                {
                    return Some(outcome);
                }
                tracing::warn!(
                    task_id = facts.name.id,
                    reason,
                    "cannot tell what has become of the task"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Ends a task that has no executor and cannot get one because its record cannot be read: what is told next makes the agent start another
/// one, and two must not run (contract, R-2). An end of its own that the init had recorded is told as it was. `None`: it cannot be told yet.
async fn end_unreadable(dir: &SupervisionDir, _lock: Lock, facts: &Facts, reason: &str) -> Option<Outcome> {
    let recorded = dir.exit().ok().flatten();
    end::end_without_records(&facts.name.id, &[&facts.main, &facts.init]).await;
    let (status, finished_at_ms) = match recorded {
        Some(exit) => crate::exit::status_of(&exit),
        None => {
            let reason =
                format!("the task was killed: its executor died, and no other one can take its place: {reason}");
            (Status::Unknown(reason), now_ms())
        }
    };
    let result = TaskResult::new(status, false, facts.started_at_ms, finished_at_ms);
    is_on_disk(dir, &facts.name.id, &result).then(|| result.into())
}

/// Writes the result in the place of an executor. False: neither it nor what the init recorded is on disk, so that it must not be told.
fn is_on_disk(dir: &SupervisionDir, task_id: &str, result: &TaskResult) -> bool {
    let Err(e) = dir.write_result(result) else { return true };
    tracing::warn!(task_id, error = %e, "cannot write the result of a task without an executor");
    // The init's record is on disk, where its room was taken before the task ran: a full disk hides no end.
    matches!(dir.exit(), Ok(Some(_)))
}

/// The end of a task that has no executor and cannot get one. Nothing is told that is not on disk, so the driver writes
/// the result in the executor's place. `None`: the main process lives, or this cannot be told.
fn ended_unseen(dir: &SupervisionDir, record: &Record, reason: &str) -> Option<Outcome> {
    match record.main.open() {
        Ok(None) => {}
        Ok(Some(pidfd)) if pidfd.has_exited().unwrap_or(false) => {}
        Ok(Some(_)) | Err(_) => return None,
    }
    let lock = dir.lock().ok()??;
    let status = Status::Unknown(format!(
        "the task ended while it had no executor, and none could be started: {reason}"
    ));
    let (status, finished_at_ms) = match dir.exit() {
        Ok(Some(exit)) => crate::exit::status_of(&exit),
        Ok(None) => (status, now_ms()),
        Err(e) => (Status::Unknown(e.to_string()), now_ms()),
    };
    let mut result = TaskResult::new(status, false, record.started_at_ms, finished_at_ms);
    result.executor_lost =
        record.plan.ending.on_executor_loss == ExecutorLoss::Kill && !matches!(result.status, Status::Exited(_));
    if !is_on_disk(dir, &record.task_id, &result) {
        return None;
    }
    drop(lock);
    end::end_init(dir);
    Some(result.into())
}

/// Returns when the process has ended (pidfd_open(2): its descriptor is readable from then on), and sees to it that no
/// zombie of ours is left.
pub async fn exited(pidfd: PidFd) -> io::Result<()> {
    let registered = Registered::new(pidfd.into(), Interest::READABLE)?;
    registered.readable().await?;
    // Fails for a process that is not our child, which another one waits for.
    let _ = PidFd::from_fd(registered.as_fd().try_clone_to_owned()?).wait();
    Ok(())
}

/// The same for a process that nobody here waits for any longer.
pub fn reap(pidfd: PidFd) {
    tokio::spawn(exited(pidfd));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system that is unmounted with the value.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount() -> Small {
            let folder = tempfile::tempdir().unwrap();
            nix::mount::mount(
                Some("tmpfs"),
                folder.path(),
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some("size=64k"),
            )
            .unwrap();
            Small(folder)
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_full_disk_hides_no_end() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::FileExt as _;

        let disk = Small::mount();
        let boot_id = holdfast_record::boot_id().unwrap();
        let intent = holdfast_record::Intent::new("a/t/1", "a", "t", "raw_exec", boot_id.clone()).unwrap();
        let dir = SupervisionDir::create(&disk.0.path().join("raw_exec"), &intent).unwrap();
        // No process has this number: it is above the kernel's limit.
        let nobody = serde_json::json!({"pid": i32::MAX, "start_ticks": 1});
        let record: Record = serde_json::from_value(serde_json::json!({
            "version": 1, "task_id": "a/t/1", "alloc_id": "a", "task_name": "t", "boot_id": boot_id.as_str(),
            "started_at_ms": 5, "executor": nobody, "init": nobody, "main": nobody,
            "plan": {"command": "/bin/true", "work_dir": "/"},
        }))
        .unwrap();
        drop(dir.lock().unwrap().expect("nobody holds it"));
        let exit = std::fs::File::create(dir.path().join("exit")).unwrap();
        exit.write_all_at(&holdfast_init::exit::PENDING, 0).unwrap();
        let filled = std::fs::write(disk.0.path().join("filler"), vec![0; 128 << 10]);
        assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);

        assert!(
            ended_unseen(&dir, &record, "why").is_none(),
            "what nobody has written down is not told"
        );
        let ended = holdfast_record::ExitRecord {
            kind: holdfast_init::exit::Kind::Exited(7),
            realtime_ns: 9_000_000,
            boottime_ns: 0,
        };
        exit.write_all_at(&ended.to_bytes(), 0).unwrap();
        // A process that another test of this program clones just now has the lock's descriptor, too, until it executes its program.
        let told = || {
            (0..200).find_map(|_| {
                std::thread::sleep(Duration::from_millis(5));
                ended_unseen(&dir, &record, "why")
            })
        };
        let outcome = told().expect("the end is on disk");
        assert_eq!((outcome.exit_code, outcome.error, outcome.finished_at_ms), (7, None, 9));
        assert!(dir.result().unwrap().is_none(), "the disk is full all the same");

        std::fs::remove_file(disk.0.path().join("filler")).unwrap();
        told().expect("as before");
        assert!(dir.result().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_process_has_exited_when_its_pidfd_is_readable() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        let waiting = tokio::spawn(exited(pidfd));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(child.stdin.take());
        waiting.await.unwrap().unwrap();
        assert!(child.wait().is_err(), "it has been waited for");
    }
}
