//! RecoverTask: finding a task again from its handle.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_record::{AgentExit, BootId, HandleState, SupervisionDir, TaskResult, names};
use holdfast_wire::nomad_driver::{TaskConfig, TaskHandle};

use crate::driver::Driver;
use crate::failure::Failure;
use crate::plan::{self, Place};
use crate::table::{Facts, Outcome, TaskName};
use crate::takeover::{self, Found};
use crate::watch::{self, Adoption};
use crate::{end, start};

/// Recovers the task of a handle. Everything comes from the handle and from disk: the agent's blob of driver options is
/// empty after its restart (contract, S-7). An error means that the task is gone for certain, or that DestroyTask ends
/// it.
pub async fn recover(driver: &Arc<Driver>, handle: Option<TaskHandle>, asked_for: &str) -> Result<(), Failure> {
    let boot_id = holdfast_record::boot_id().map_err(Failure::last)?;
    recover_in(driver, handle, asked_for, &boot_id).await
}

/// [`recover`] in a boot that the caller names, so that a reboot can be rehearsed.
pub async fn recover_in(
    driver: &Arc<Driver>,
    handle: Option<TaskHandle>,
    asked_for: &str,
    boot_id: &BootId,
) -> Result<(), Failure> {
    let handle = handle.ok_or_else(|| Failure::last("handle cannot be nil"))?;
    let TaskHandle {
        version: _,
        config,
        state: _,
        driver_state,
    } = handle;
    let known_id = config.as_ref().map_or(asked_for, |config| config.id.as_str());
    // A known task needs nothing of its handle (contract, R-1); an empty id knows no task.
    let state = match HandleState::parse(&driver_state) {
        Ok(state) => state,
        Err(_) if driver.tasks.phase(known_id).await.is_some() => return Ok(()),
        Err(e) => {
            return Err(Failure::Final(format!(
                "failed to decode task state from handle: task {known_id:?}: {e}"
            )));
        }
    };
    if !known_id.is_empty() && known_id != state.task_id {
        return Err(Failure::Final(format!(
            "failed to decode task state from handle: it is of task {:?}, not of {known_id:?}",
            state.task_id
        )));
    }
    let name = match &config {
        Some(config) => TaskName {
            id: state.task_id.clone(),
            ..plan::name_of(config)?
        },
        None => TaskName {
            id: state.task_id.clone(),
            alloc_id: String::new(),
            task_name: String::new(),
        },
    };
    let Some(_reservation) = driver.tasks.recover(&name).await else {
        return Ok(());
    };

    let dir = open(&state).await?;
    if state.boot_id != *boot_id {
        return after_reboot(driver, name, &state, &dir).await;
    }
    let adoption = adoption(driver, config.as_ref(), &state);
    let found = match still_supervised(&dir, &state) {
        Some(found) => found,
        None => match takeover::take_over(driver, &dir, &adoption.shared_cgroups, &adoption.environment).await {
            Ok(found) => found,
            Err(reason) => {
                // The DestroyTask that follows would not know whom to kill. A living executor is asked by it.
                if let Some(_lock) = takeover::lock_unreadable(&dir) {
                    end::end_without_records(&state.task_id, &[&state.main, &state.init]).await;
                }
                return Err(Failure::Final(format!("failed to reattach to executor: {reason}")));
            }
        },
    };
    let (executor, record) = match found {
        Found::Over(result) => return tell_end(driver, name, &state, result).await,
        Found::NeverStarted => {
            return Err(Failure::Final(format!(
                "task {:?} is gone: it was never started",
                name.id
            )));
        }
        Found::Supervised { executor, record, .. } => (Some(executor), record),
        // Cannot connect is not dead: nothing is ended and nothing started in its place. The watch looks again and again.
        Found::Silent { record, reason, .. } => {
            tracing::warn!(
                task_id = name.id,
                reason,
                "recovered a task whose executor does not answer"
            );
            (None, record)
        }
        Found::Orphaned { record, reason } => {
            // Its end can still be told if it ended; the watch looks again and again.
            tracing::warn!(task_id = name.id, reason, "recovered a task without an executor");
            (None, record)
        }
    };
    let facts = Arc::new(Facts {
        name,
        dir: state.dir,
        main: record.main,
        init: record.init,
        started_at_ms: record.started_at_ms,
    });
    driver.tasks.running(facts.clone()).await;
    watch::spawn(driver.clone(), facts, adoption, executor);
    Ok(())
}

/// The executor that the handle names, if nothing has to be said to it: it is the one that launched the task, so it has the
/// environment, it was told of the commitment, it can be reached, and the result is not there. Its identity is the proof: a thousand
/// executors that are asked who they are each need a processor to answer, and a driver that comes back would wait for all of them.
fn still_supervised(dir: &SupervisionDir, state: &HandleState) -> Option<Found> {
    let record = dir.record().ok()??;
    if !record.committed || record.task_id != state.task_id || !record.executor.is_same(&state.executor) {
        return None;
    }
    if record.plan.ending.on_agent_exit != AgentExit::Keep {
        // It wants to know who attends to the task.
        return None;
    }
    let executor = record.executor.open().ok()??;
    // In this order: an executor writes the result before it ends, so that one that lives afterwards may still tell it.
    if executor.has_exited().unwrap_or(true) || !matches!(dir.result(), Ok(None)) {
        return None;
    }
    std::fs::symlink_metadata(dir.path().join(names::SOCKET)).ok()?;
    Some(Found::Supervised {
        executor,
        record: Box::new(record),
        adopted: false,
    })
}

/// Opens the folder that the handle names, and makes sure that it is the task's.
async fn open(state: &HandleState) -> Result<SupervisionDir, Failure> {
    let opened = SupervisionDir::open(&state.dir).and_then(|dir| dir.intent().map(|intent| (dir, intent)));
    match opened {
        Ok((dir, intent)) if intent.task_id == state.task_id => Ok(dir),
        Ok((_, intent)) => Err(Failure::Final(format!(
            "task {:?} is gone: {} is of task {:?}",
            state.task_id,
            state.dir.display(),
            intent.task_id
        ))),
        Err(e) if takeover::is_absent(&e) => {
            end_without_records(state).await;
            Err(Failure::Final(format!(
                "task {:?} is gone: {} does not exist",
                state.task_id,
                state.dir.display()
            )))
        }
        Err(e) => Err(Failure::Final(format!(
            "failed to recover task {:?}: {e}",
            state.task_id
        ))),
    }
}

/// Somebody removed the records of a task that may live. It cannot be supervised any more, and the error that follows
/// makes the agent start another one: two must not run (contract, R-2), so this returns when they are dead. Identities
/// are proof enough to kill by.
async fn end_without_records(state: &HandleState) {
    if holdfast_record::boot_id().is_ok_and(|current| current == state.boot_id) {
        // The executor first, or it would begin to tell of an end.
        end::end_without_records(&state.task_id, &[&state.executor, &state.main, &state.init]).await;
    }
}

/// After a reboot only what was written before it can be told; nothing is touched (contract, pain 7).
async fn after_reboot(
    driver: &Driver,
    name: TaskName,
    state: &HandleState,
    dir: &SupervisionDir,
) -> Result<(), Failure> {
    let gone = |detail: String| {
        Failure::Final(format!(
            "task {:?} is gone: it ran before the host was rebooted{detail}",
            state.task_id
        ))
    };
    match (dir.result(), dir.exit()) {
        (Ok(Some(result)), _) => tell_end(driver, name, state, result).await,
        (Ok(None), Ok(Some(exit))) => {
            let (status, finished_at_ms) = crate::exit::status_of(&exit);
            tell_end(
                driver,
                name,
                state,
                TaskResult::new(status, false, state.started_at_ms, finished_at_ms),
            )
            .await
        }
        (Ok(None), Ok(None)) => Err(gone(String::new())),
        (Err(e), _) | (_, Err(e)) => Err(gone(format!(", and {e}"))),
    }
}

/// The task ended while no driver was there: WaitTask tells it (contract, R-3).
async fn tell_end(driver: &Driver, name: TaskName, state: &HandleState, result: TaskResult) -> Result<(), Failure> {
    let facts = Facts {
        name,
        dir: state.dir.clone(),
        main: state.main,
        init: state.init,
        started_at_ms: if result.started_at_ms > 0 {
            result.started_at_ms
        } else {
            state.started_at_ms
        },
    };
    let outcome = Outcome::from(result);
    watch::tell_end(driver, &facts, &outcome);
    driver.tasks.over(Arc::new(facts), outcome).await;
    Ok(())
}

/// What an adopting executor needs. The environment is in the agent's handle, what differs from it in ours.
fn adoption(driver: &Driver, config: Option<&TaskConfig>, state: &HandleState) -> Adoption {
    let Some(config) = config else {
        return Adoption::default();
    };
    Adoption {
        shared_cgroups: shared_cgroups(config),
        environment: plan::environment(
            config,
            &driver.settings().options.denied_envvars,
            &start::additions(state),
        ),
    }
}

fn shared_cgroups(config: &TaskConfig) -> Vec<PathBuf> {
    match Place::of(config) {
        Ok(place) => place.shared_cgroups(),
        Err(e) => {
            tracing::warn!(task_id = config.id, error = %e, "an adopting executor stays in the driver's cgroup");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use holdfast_goplugin::services::Shutdown;
    use holdfast_record::{Extra, Intent, ProcessIdentity, Status};

    use super::*;
    use crate::plugin_name::PluginName;
    use crate::table::Phase;

    const ID: &str = "alloc/task/12345678";

    fn driver() -> Arc<Driver> {
        Driver::new(PluginName::HoldfastRaw, Shutdown::new()).unwrap()
    }

    fn config(id: &str) -> TaskConfig {
        TaskConfig {
            id: id.to_owned(),
            alloc_id: "alloc".to_owned(),
            name: "task".to_owned(),
            ..TaskConfig::default()
        }
    }

    fn state(dir: &Path, boot: &str) -> HandleState {
        // No process has these numbers: a pid above the kernel's limit.
        let nobody = ProcessIdentity {
            pid: i32::MAX,
            start_ticks: 1,
            pidfd_inode: None,
        };
        HandleState {
            version: 1,
            dir: dir.to_owned(),
            socket: dir.join("executor.sock"),
            task_id: ID.to_owned(),
            boot_id: BootId::parse(boot).unwrap(),
            executor: nobody,
            init: nobody,
            main: nobody,
            started_at_ms: 5,
            extra: Extra::new(),
        }
    }

    fn handle(driver_state: Vec<u8>) -> Option<TaskHandle> {
        Some(TaskHandle {
            version: 1,
            config: Some(config(ID)),
            state: 1,
            driver_state,
        })
    }

    fn folder(root: &Path) -> SupervisionDir {
        let boot_id = BootId::parse("aa").unwrap();
        SupervisionDir::create(
            root,
            &Intent::new(ID, "alloc", "task", "holdfast_raw", boot_id).unwrap(),
        )
        .unwrap()
    }

    async fn refusal(handle: Option<TaskHandle>, boot: &str) -> String {
        let driver = driver();
        let boot = BootId::parse(boot).unwrap();
        let error = recover_in(&driver, handle, "", &boot).await.unwrap_err().to_string();
        assert_eq!(
            driver.tasks.phase(ID).await,
            None,
            "a failed recovery leaves nothing in the table"
        );
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[tokio::test]
    async fn a_handle_that_is_none_gets_one_clear_line() {
        assert_eq!(refusal(None, "aa").await, "handle cannot be nil");
        assert!(
            refusal(handle(Vec::new()), "aa")
                .await
                .starts_with("failed to decode task state from handle: ")
        );
        assert!(
            refusal(handle(b"\x84\xa3Pid\x01".to_vec()), "aa")
                .await
                .starts_with("failed to decode task state")
        );
        let folder = tempfile::tempdir().unwrap();
        let whole = state(folder.path(), "aa").to_bytes().unwrap();
        for end in 0..whole.len() {
            let error = refusal(handle(whole[..end].to_vec()), "aa").await;
            assert!(
                error.starts_with("failed to decode task state from handle: "),
                "{end}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_handle_of_another_task_is_refused() {
        let mut foreign = handle(state(Path::new("/nowhere"), "aa").to_bytes().unwrap());
        foreign.as_mut().unwrap().config = Some(config("alloc/task/other"));
        let error = refusal(foreign, "aa").await;
        assert!(
            error.contains("\"alloc/task/12345678\"") && error.contains("\"alloc/task/other\""),
            "{error}"
        );
    }

    #[tokio::test]
    async fn another_boot_fails_at_once_and_touches_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = folder(root.path());
        let error = refusal(handle(state(dir.path(), "aa").to_bytes().unwrap()), "bb").await;
        assert_eq!(
            error,
            format!("task {ID:?} is gone: it ran before the host was rebooted")
        );
        assert!(dir.intent().is_ok(), "the folder is untouched");
    }

    #[tokio::test]
    async fn a_result_from_before_the_reboot_is_told_r3() {
        let root = tempfile::tempdir().unwrap();
        let dir = folder(root.path());
        dir.write_result(&TaskResult::new(Status::Exited(7), false, 3, 4))
            .unwrap();
        let driver = driver();
        let boot = BootId::parse("bb").unwrap();
        let handle = || handle(state(dir.path(), "aa").to_bytes().unwrap());
        recover_in(&driver, handle(), "", &boot).await.unwrap();
        match driver.tasks.phase(ID).await {
            Some(Phase::Over(facts, outcome)) => {
                assert_eq!((outcome.exit_code, outcome.signal, outcome.error), (7, 0, None));
                assert_eq!((facts.started_at_ms, facts.name.alloc_id.as_str()), (3, "alloc"));
            }
            other => panic!("{other:?}"),
        }
        recover_in(&driver, handle(), "", &boot)
            .await
            .expect("a known task is recovered already (R-1)");
    }

    #[tokio::test]
    async fn a_result_needs_no_configuration_s7() {
        let root = tempfile::tempdir().unwrap();
        let dir = folder(root.path());
        dir.write_result(&TaskResult::new(Status::Signalled(9), true, 3, 4))
            .unwrap();
        let driver = driver();
        let bare = TaskHandle {
            driver_state: state(dir.path(), "aa").to_bytes().unwrap(),
            ..TaskHandle::default()
        };
        recover_in(&driver, Some(bare), ID, &BootId::parse("aa").unwrap())
            .await
            .unwrap();
        let Some(Phase::Over(_, outcome)) = driver.tasks.phase(ID).await else {
            panic!()
        };
        assert_eq!((outcome.exit_code, outcome.signal, outcome.oom_killed), (137, 9, true));
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_or_of_another_task_is_named() {
        let error = refusal(handle(state(Path::new("/nowhere/x"), "aa").to_bytes().unwrap()), "aa").await;
        assert_eq!(error, format!("task {ID:?} is gone: /nowhere/x does not exist"));
        let root = tempfile::tempdir().unwrap();
        let other = Intent::new("alloc/task/other", "alloc", "task", "d", BootId::parse("aa").unwrap()).unwrap();
        let dir = SupervisionDir::create(root.path(), &other).unwrap();
        let error = refusal(handle(state(dir.path(), "aa").to_bytes().unwrap()), "aa").await;
        assert!(error.ends_with("is of task \"alloc/task/other\""), "{error}");
    }
}
