//! StartTask: from the agent's task to a running, recorded and committed one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_executor::birth::Birth;
use holdfast_executor::client::{self, Fresh, Launcher, Unasked, Unconnected};
use holdfast_executor::link::Link;
use holdfast_record::{
    BootId, Extra, HANDLE_VERSION, HandleState, Intent, ProcessIdentity, Record, RecordError, Status, StopRecord,
    SupervisionDir, UnnamedDir, names,
};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::{self, CommitRequest, LaunchResponse, TaskSpec};
use holdfast_wire::nomad_driver::{TaskConfig, TaskHandle, TaskState};
use serde::Deserialize as _;
use tonic::Code;

use crate::driver::Driver;
use crate::end;
use crate::failure::Failure;
use crate::limits;
use crate::options::TaskOptions;
use crate::plan::{self, EnvironmentAdditions, Place, Planned};
use crate::settings::Settings;
use crate::table::{Facts, Outcome, TaskName};
use crate::takeover::{self, Found};
use crate::watch::{self, Adoption};

/// How long a launch may take before the executor is taken for stuck.
const LAUNCH_BOUND: Duration = Duration::from_secs(60);

/// How long what is left to do of a start that was answered gives way to the next: until that one's executor is at work.
const GIVING_WAY: Duration = Duration::from_millis(2);

/// What the built-in says before the reason of a failed launch.
const LAUNCH_FAILED: &str = "failed to launch command with executor";
const EXECUTOR_FAILED: &str = "failed to create executor";

/// Starts a task. Nothing that could be taken for a task exists on the host before everything is validated, and a failed start leaves
/// nothing behind (contract, S-4). `is_wanted` says whether the caller is still there: a start that nobody hears of is undone.
pub async fn start(
    driver: &Arc<Driver>,
    task: TaskConfig,
    is_wanted: impl Fn() -> bool + Send + Sync,
) -> Result<TaskHandle, Failure> {
    if let Some(reason) = driver.refusal() {
        return Err(Failure::Final(reason));
    }
    let name = plan::name_of(&task)?;
    let _reservation = driver.tasks.reserve(&name).await.map_err(Failure::last)?;
    let settings = driver.settings();
    let options =
        TaskOptions::decode(&task.msgpack_driver_config, driver.name(), &settings.options).map_err(Failure::last)?;
    let boot_id = holdfast_record::boot_id().map_err(Failure::last)?;
    let driver_name = driver.name().as_str();
    let intent = Intent::new(&name.id, &name.alloc_id, &name.task_name, driver_name, boot_id).map_err(Failure::last)?;
    // The task is planned, its executor born and its folder made at once. An executor of a task that cannot be started has touched nothing,
    // since nothing was asked of it, and the folder goes without having had a name.
    let making = {
        let (root, intent) = (driver.root(), intent.clone());
        // ext4 may have to read another group's tables from the disk for it.
        tokio::task::spawn_blocking(move || UnnamedDir::make(&root, intent))
    };
    let (prepared, made) = tokio::join!(prepare(driver, &task, &name, options, settings), making);
    let folder = made
        .map_err(Failure::last)
        .and_then(|made| made.map_err(record_failure));
    let Prepared {
        planned,
        shared_cgroups,
        executor,
    } = prepared?;
    let mut ready = Ready {
        intent,
        folder: Some(folder),
        executor: Some(executor),
    };
    let started = match planned {
        Ok(planned) => start_planned(driver, &task, name, planned, shared_cgroups, &mut ready, is_wanted).await,
        Err(failure) => Err(failure),
    };
    if let Some(Ok((_, executor))) = ready.executor {
        executor.dismiss().await;
    }
    started
}

/// An executor, or why there is none.
type Born = Result<(Launcher, Unasked), Failure>;

/// A plan, and an executor whether the task can be planned or not.
struct Prepared {
    planned: Result<Planned, Failure>,
    shared_cgroups: Vec<PathBuf>,
    executor: Born,
}

async fn prepare(
    driver: &Driver,
    task: &TaskConfig,
    name: &TaskName,
    options: TaskOptions,
    settings: Arc<Settings>,
) -> Result<Prepared, Failure> {
    let place = Place::of(task).map_err(plan::cgroup_failure)?;
    let shared_cgroups = place.shared_cgroups();
    let folder =
        SupervisionDir::path_of(&driver.root(), &name.alloc_id, &name.task_name, &name.id).map_err(record_failure)?;
    let birth = plan::birth(task, &options, driver.name().profile());
    // First, so that it is not queued behind the thread that plans.
    let begun = begin(driver, &folder, &shared_cgroups, birth);
    let connecting = async {
        let (launcher, begun) = begun?;
        let executor = begun.connect().await.map_err(|e| executor_failure(&e))?;
        Ok((launcher, executor))
    };
    let planning = plan::plan(task, place, options, settings, driver.name());
    let (planned, executor) = tokio::join!(planning, connecting);
    Ok(Prepared {
        planned,
        shared_cgroups,
        executor,
    })
}

/// What was made while the task was planned; each is taken by the step that needs it.
struct Ready {
    intent: Intent,
    folder: Option<Result<UnnamedDir, Failure>>,
    executor: Option<Born>,
}

async fn start_planned(
    driver: &Arc<Driver>,
    task: &TaskConfig,
    name: TaskName,
    planned: Planned,
    shared_cgroups: Vec<PathBuf>,
    ready: &mut Ready,
    is_wanted: impl Fn() -> bool + Send + Sync,
) -> Result<TaskHandle, Failure> {
    let Planned {
        spec,
        additions,
        mut warnings,
        // Held until the end: the record that is written meanwhile names its layers.
        image: _image,
    } = planned;
    let limits = limits::describe(spec.limits.as_ref());
    let is_attended = (spec.ending.as_ref()).is_some_and(|ending| ending.stop_unattended_after_ms != 0);
    let adoption = Adoption {
        shared_cgroups,
        environment: spec.env.clone(),
    };

    end::end_other_incarnations(driver, &name)
        .await
        .map_err(Failure::may_pass)?;
    let handles = Handles {
        task,
        boot_id: ready.intent.boot_id.clone(),
        additions,
    };
    point::reached(Point::StartPlanned);
    let dir = match name_dir(driver, &name, ready, &adoption).await? {
        Made::Fresh(dir) => dir,
        Made::Adopted { facts, state } => return handles.handle(&facts, &state),
    };
    point::reached(Point::FolderNamed);
    let launched = match ready.executor.take().expect("it is taken once") {
        Ok(born) => launch(&dir, spec, born).await,
        Err(failure) => Err((failure, None)),
    };
    let (mut launched, executor) = match launched {
        Ok(launched) => launched,
        Err((failure, executor)) => {
            end::undo_start(dir, executor).await;
            return Err(failure);
        }
    };
    let Identities {
        main,
        init,
        started_at_ms,
        executor: _,
    } = launched.identities;
    let facts = Arc::new(Facts {
        name,
        dir: dir.path().to_owned(),
        main,
        init,
        started_at_ms,
    });
    warnings.append(&mut launched.warnings);
    point::reached(Point::LaunchHeard);
    let handle = if is_wanted() {
        let identities = launched.identities;
        match handles.handle(&facts, &identities) {
            Ok(handle) => launched.commit(&dir, is_attended).await.map(|()| handle),
            Err(failure) => Err(failure),
        }
    } else {
        Err(Failure::last("the caller has gone away"))
    };
    match handle {
        Ok(handle) => {
            point::reached(Point::CommitHeard);
            driver.tasks.running(facts.clone()).await;
            let driver = driver.clone();
            tokio::spawn(async move {
                // Whoever waits for the start hears of it first, and its next one goes before; what there is to say of this one is told
                // before its end can be. The executor as well has to do when its connection closes.
                tokio::time::sleep(GIVING_WAY).await;
                drop(launched);
                tell_start(&driver, &facts, &limits, warnings);
                watch::spawn(driver, facts, adoption, Some(executor));
            });
            point::reached(Point::HandleMade);
            Ok(handle)
        }
        Err(failure) => {
            end::undo_start(dir, Some(executor)).await;
            Err(failure)
        }
    }
}

fn tell_start(driver: &Driver, facts: &Facts, limits: &limits::Effective, warnings: Vec<String>) {
    tracing::info!(task_id = facts.name.id, pid = facts.main.pid, "task started");
    driver.events.send(&facts.name, limits.message(), &limits.annotations());
    for warning in warnings {
        let reason = [("reason", warning)];
        driver
            .events
            .send(&facts.name, "Started, but not all as asked", &reason);
    }
}

/// What identifies a task that was launched.
#[derive(Debug, Clone, Copy)]
struct Identities {
    executor: ProcessIdentity,
    init: ProcessIdentity,
    main: ProcessIdentity,
    started_at_ms: i64,
}

/// A supervision directory for a start.
enum Made {
    /// There was none, or what a dead attempt had left is gone.
    Fresh(SupervisionDir),
    /// Another driver process had started the task before it died (contract, S-5).
    Adopted { facts: Arc<Facts>, state: Identities },
}

/// Gives the folder its name, unless the task has one already.
async fn name_dir(
    driver: &Arc<Driver>,
    name: &TaskName,
    ready: &mut Ready,
    adoption: &Adoption,
) -> Result<Made, Failure> {
    let Ready { intent, folder, .. } = ready;
    match folder.take().expect("it is taken once")?.appear() {
        Ok(dir) => return Ok(Made::Fresh(dir)),
        Err(RecordError::AlreadyExists { path, .. }) => {
            let dir = SupervisionDir::open(&path).map_err(record_failure)?;
            if let Some(made) = adopt(driver, name, &intent.boot_id, dir, adoption).await? {
                return Ok(made);
            }
        }
        Err(e) => return Err(record_failure(e)),
    }
    SupervisionDir::create(&driver.root(), intent)
        .map(Made::Fresh)
        .map_err(record_failure)
}

/// Takes over what a dead attempt with the same id has started; `None`: it had not got that far, and its traces are
/// gone.
async fn adopt(
    driver: &Arc<Driver>,
    name: &TaskName,
    boot_id: &BootId,
    dir: SupervisionDir,
    adoption: &Adoption,
) -> Result<Option<Made>, Failure> {
    let is_of_this_boot = dir.intent().is_ok_and(|intent| intent.boot_id == *boot_id);
    let found = if is_of_this_boot {
        takeover::take_over(driver, &dir, &adoption.shared_cgroups, &adoption.environment).await
    } else {
        Ok(Found::NeverStarted)
    };
    let found = match found {
        Ok(Found::Over(_)) if was_undone(&dir) => Ok(Found::NeverStarted),
        found => found,
    };
    let path = dir.path().to_owned();
    let facts_of = |record: &Record| {
        Arc::new(Facts {
            name: name.clone(),
            dir: path.clone(),
            main: record.main,
            init: record.init,
            started_at_ms: record.started_at_ms,
        })
    };
    let identities_of = |record: &Record| Identities {
        executor: record.executor,
        init: record.init,
        main: record.main,
        started_at_ms: record.started_at_ms,
    };
    match found {
        Ok(Found::Supervised { executor, record, .. }) => {
            tracing::info!(
                task_id = name.id,
                "adopted the task that an attempt before this one had started"
            );
            let (facts, state) = (facts_of(&record), identities_of(&record));
            driver.tasks.running(facts.clone()).await;
            watch::spawn(driver.clone(), facts.clone(), adoption.clone(), Some(executor));
            Ok(Some(Made::Adopted { facts, state }))
        }
        Ok(Found::Silent { record, reason, .. }) => {
            tracing::warn!(
                task_id = name.id,
                reason,
                "an attempt before this one had started the task"
            );
            let (facts, state) = (facts_of(&record), identities_of(&record));
            driver.tasks.running(facts.clone()).await;
            // The watch looks again and again.
            watch::spawn(driver.clone(), facts.clone(), adoption.clone(), None);
            Ok(Some(Made::Adopted { facts, state }))
        }
        // It ran and ended: it must not run twice under one id.
        Ok(Found::Over(result)) if !matches!(result.status, Status::NotStarted(_)) => {
            let Some(record) = dir.record().map_err(record_failure)? else {
                end::end_stray(dir).await?;
                return Ok(None);
            };
            let (facts, state) = (facts_of(&record), identities_of(&record));
            let outcome = Outcome::from(result);
            watch::tell_end(driver, &facts, &outcome);
            driver.tasks.over(facts.clone(), outcome).await;
            Ok(Some(Made::Adopted { facts, state }))
        }
        Ok(Found::Over(_) | Found::NeverStarted | Found::Orphaned { .. }) => {
            end::end_stray(dir).await?;
            Ok(None)
        }
        Err(reason) => {
            tracing::warn!(
                task_id = name.id,
                reason,
                "an attempt before this one has left something unusable"
            );
            end::end_stray(dir).await?;
            Ok(None)
        }
    }
}

/// True if nobody ever answered for the task and its executor killed it for that: the start was undone, and this is no end of the
/// task's own that could be told.
fn was_undone(dir: &SupervisionDir) -> bool {
    let record = dir.record().ok().flatten();
    record.is_some_and(|record| {
        let by_itself = |stop: StopRecord| stop.killed && !stop.requested && !stop.timed_out;
        !record.committed && record.stop.is_some_and(by_itself)
    })
}

/// A task that runs and is not committed yet.
struct Launched {
    identities: Identities,
    warnings: Vec<String>,
    executor: executor_v1::executor_client::ExecutorClient<Link>,
}

impl Launched {
    /// The last step before StartTask returns: from now on the executor keeps the task without being asked. It finds the link, unless it
    /// has to know who attends to the task. A task that is over by now, its executor gone, was started all the same.
    async fn commit(&mut self, dir: &SupervisionDir, is_attended: bool) -> Result<(), Failure> {
        // Not every file system has links.
        if !is_attended && dir.commit().is_ok() {
            return Ok(());
        }
        let commit = tokio::time::timeout(LAUNCH_BOUND, self.executor.commit(CommitRequest {})).await;
        let silent = |_| {
            Err(tonic::Status::deadline_exceeded(format!(
                "no answer within {} s",
                LAUNCH_BOUND.as_secs()
            )))
        };
        match commit.unwrap_or_else(silent) {
            Ok(_) => Ok(()),
            Err(_) if matches!(dir.result(), Ok(Some(_))) => Ok(()),
            Err(status) => Err(Failure::Retryable(format!(
                "{LAUNCH_FAILED}: cannot commit the task: {}",
                status.message()
            ))),
        }
    }
}

/// An executor for a folder that may not be there yet.
fn begin(
    driver: &Driver,
    folder: &Path,
    shared_cgroups: &[PathBuf],
    birth: Birth,
) -> Result<(Launcher, Unconnected), Failure> {
    let launcher = driver.launcher().map_err(|e| executor_failure(&e))?;
    let begun = launcher.begin(folder, shared_cgroups, Some(birth));
    let begun = begun.map_err(|e| executor_failure(&e))?;
    Ok((launcher, begun))
}

fn executor_failure(e: &dyn std::fmt::Display) -> Failure {
    Failure::Retryable(format!("{EXECUTOR_FAILED}: {e}"))
}

async fn launch(
    dir: &SupervisionDir,
    spec: TaskSpec,
    (launcher, executor): (Launcher, Unasked),
) -> Result<(Launched, PidFd), (Failure, Option<PidFd>)> {
    let Fresh {
        pidfd,
        identity,
        mut executor,
    } = executor.goes_on();
    point::reached(Point::ExecutorIdentified);
    let request = client::launch_request(spec);
    let answer = match tokio::time::timeout(LAUNCH_BOUND, executor.launch(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if !client::has_answered(&status) => {
            let reason = launcher.ended(&pidfd, dir).await;
            return Err((Failure::Retryable(format!("{EXECUTOR_FAILED}: {reason}")), Some(pidfd)));
        }
        Ok(Err(status)) => return Err((launch_failure(&status), Some(pidfd))),
        Err(_) => {
            let failure = format!("{LAUNCH_FAILED}: no answer within {} s", LAUNCH_BOUND.as_secs());
            return Err((Failure::Retryable(failure), Some(pidfd)));
        }
    };
    let warnings = answer.warnings.clone();
    match identities(identity, answer) {
        Ok(identities) => Ok((
            Launched {
                identities,
                warnings,
                executor,
            },
            pidfd,
        )),
        Err(reason) => Err((Failure::Retryable(format!("{LAUNCH_FAILED}: {reason}")), Some(pidfd))),
    }
}

fn identities(executor: ProcessIdentity, answer: LaunchResponse) -> Result<Identities, String> {
    let LaunchResponse {
        main,
        init,
        started_at_ms,
        warnings: _,
    } = answer;
    let missing = |who| format!("the executor did not say which process is {who}");
    Ok(Identities {
        executor,
        init: identity(init.ok_or_else(|| missing("init"))?),
        main: identity(main.ok_or_else(|| missing("the main process"))?),
        started_at_ms,
    })
}

fn identity(wire: executor_v1::ProcessIdentity) -> ProcessIdentity {
    let executor_v1::ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode,
    } = wire;
    ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode: Some(pidfd_inode).filter(|inode| *inode != 0),
    }
}

/// What the job got wrong is final; what the host lacks at the moment, or an executor that died, may be tried again
/// (S-2).
fn launch_failure(status: &tonic::Status) -> Failure {
    let message = format!("{LAUNCH_FAILED}: {}", status.message());
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => Failure::Final(message),
        _ => Failure::Retryable(message),
    }
}

fn record_failure(e: RecordError) -> Failure {
    let message = format!("{EXECUTOR_FAILED}: {e}");
    if e.is_transient() {
        Failure::Retryable(message)
    } else {
        Failure::Final(message)
    }
}

/// Field of the handle state for what the task's environment has beside the agent's. The agent's blob is gone when it
/// is needed.
const ADDITIONS: &str = "environment";

/// What an adopting executor's environment has beside the agent's, from the task's handle.
pub fn additions(state: &HandleState) -> EnvironmentAdditions {
    state
        .extra
        .get(ADDITIONS)
        .and_then(|value| EnvironmentAdditions::deserialize(value).ok())
        .unwrap_or_default()
}

/// What handles of one start have in common.
struct Handles<'a> {
    task: &'a TaskConfig,
    boot_id: BootId,
    additions: EnvironmentAdditions,
}

impl Handles<'_> {
    /// The handle that the agent keeps. Its configuration is never absent: without it the agent would start the task
    /// again and call that restored (contract, S-6).
    fn handle(&self, facts: &Facts, identities: &Identities) -> Result<TaskHandle, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::Final(format!("failed to set driver state: {e}"));
        let mut extra = Extra::new();
        extra.insert(
            ADDITIONS.to_owned(),
            serde_json::to_value(&self.additions).map_err(|e| failed(&e))?,
        );
        let Identities {
            executor,
            init,
            main,
            started_at_ms,
        } = *identities;
        let state = HandleState {
            version: HANDLE_VERSION,
            dir: facts.dir.clone(),
            socket: facts.dir.join(names::SOCKET),
            task_id: facts.name.id.clone(),
            boot_id: self.boot_id.clone(),
            executor,
            init,
            main,
            started_at_ms,
            extra,
        };
        Ok(TaskHandle {
            version: i32::try_from(HANDLE_VERSION).unwrap_or(1),
            config: Some(self.task.clone()),
            state: TaskState::Running as i32,
            driver_state: state.to_bytes().map_err(|e| failed(&e))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_handle_carries_everything_that_recovery_needs_s6_s7() {
        let task = TaskConfig {
            id: "a/t/1".to_owned(),
            env: [("SECRET".to_owned(), "hunter2".to_owned())].into(),
            msgpack_driver_config: b"\x80".to_vec(),
            ..TaskConfig::default()
        };
        let identity = |pid| ProcessIdentity {
            pid,
            start_ticks: 8,
            pidfd_inode: Some(9),
        };
        let identities = Identities {
            executor: identity(1),
            init: identity(2),
            main: identity(3),
            started_at_ms: 4,
        };
        let facts = Facts {
            name: TaskName {
                id: "a/t/1".into(),
                alloc_id: "a".into(),
                task_name: "t".into(),
            },
            dir: "/state/raw_exec/x".into(),
            main: identity(3),
            init: identity(2),
            started_at_ms: 4,
        };
        let additions = EnvironmentAdditions {
            denied: vec!["AWS_*".to_owned()],
            account: Some(("nobody".into(), "/".into())),
            variables: [("PATH".into(), "/bin".into())].into(),
        };
        let boot_id = BootId::parse("ab").unwrap();
        let handles = Handles {
            task: &task,
            boot_id,
            additions: additions.clone(),
        };
        let handle = handles.handle(&facts, &identities).unwrap();
        assert_eq!(handle.version, 1);
        assert_eq!(handle.state(), TaskState::Running);
        assert_eq!(handle.config.as_ref(), Some(&task));
        let state = HandleState::parse(&handle.driver_state).unwrap();
        assert_eq!(
            (state.executor, state.init, state.main),
            (identity(1), identity(2), identity(3))
        );
        assert_eq!(state.socket, Path::new("/state/raw_exec/x/executor.sock"));
        assert_eq!(super::additions(&state), additions);
        assert!(
            !String::from_utf8(handle.driver_state).unwrap().contains("hunter2"),
            "no secret in what we store"
        );
    }

    #[test]
    fn only_what_may_pass_is_retryable_s2() {
        let failure = |code| launch_failure(&tonic::Status::new(code, "chdir /x: no such folder"));
        let message = "failed to launch command with executor: chdir /x: no such folder".to_owned();
        for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::Unimplemented] {
            assert_eq!(failure(code), Failure::Final(message.clone()), "{code:?}");
        }
        for code in [
            Code::ResourceExhausted,
            Code::Unavailable,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
            Code::Aborted,
            Code::DeadlineExceeded,
        ] {
            assert_eq!(failure(code), Failure::Retryable(message.clone()), "{code:?}");
        }
    }

    #[test]
    fn records_that_cannot_be_made_for_now_may_be_made_later_s2() {
        use std::io::ErrorKind;
        let failure = |kind: ErrorKind| {
            record_failure(RecordError::Io {
                action: "create",
                path: "/s".into(),
                source: kind.into(),
            })
        };
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::OutOfMemory] {
            assert!(matches!(failure(kind), Failure::Retryable(_)), "{kind:?}");
        }
        for kind in [
            ErrorKind::PermissionDenied,
            ErrorKind::ReadOnlyFilesystem,
            ErrorKind::NotADirectory,
        ] {
            assert!(matches!(failure(kind), Failure::Final(_)), "{kind:?}");
        }
    }

    #[test]
    fn an_earlier_incarnation_that_does_not_die_may_have_died_at_the_next_try_s2() {
        assert_eq!(Failure::last("x").may_pass(), Failure::Retryable("x".to_owned()));
        assert_eq!(
            Failure::Retryable("x".into()).may_pass(),
            Failure::Retryable("x".to_owned())
        );
    }
}
