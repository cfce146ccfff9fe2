//! Ending tasks: with a grace, at once, and without an executor.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cgroup::Scope;
use holdfast_executor::children;
use holdfast_executor::client::{self, Peer};
use holdfast_record::{PlacementRecord, ProcessIdentity, Record, SupervisionDir};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::StopRequest;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Code;

use crate::driver::Driver;
use crate::failure::Failure;
use crate::owner;
use crate::table::{Destruction, Facts, Phase, TaskName};
use crate::takeover;
use crate::watch as watch_over;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;

/// How long a living task may be without an executor that answers before a call gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an executor that lives may take to tell the end of a task that was killed.
const CONCLUDING: Duration = Duration::from_secs(5);

/// How long a killed process may take to die before that is an error; as long as the built-in waits.
const DYING: Duration = Duration::from_secs(15);

/// How to end a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The signal that asks it to leave.
    pub signal: i32,
    /// How long it may take; none: it is killed at once.
    pub grace: Duration,
}

impl Stop {
    /// No grace.
    pub const KILL: Stop = Stop {
        signal: SIGKILL,
        grace: Duration::ZERO,
    };

    /// What StopTask asks for (contract, K-1): no name means SIGINT, an unknown one is an error. The built-in does not
    /// look at the name when there is no grace, and neither does this.
    pub fn parse(signal: &str, grace: Duration) -> Result<Stop, Failure> {
        if grace.is_zero() {
            return Ok(Stop::KILL);
        }
        let signal = match signal {
            "" => SIGINT,
            name => holdfast_sys::signal::number(name).ok_or_else(|| {
                Failure::Final(format!(
                    "executor Shutdown failed: error unknown signal given for shutdown: {name}"
                ))
            })?,
        };
        Ok(Stop { signal, grace })
    }

    fn request(self) -> StopRequest {
        StopRequest {
            signal: self.signal,
            grace_ms: whole_milliseconds(self.grace),
        }
    }
}

/// Rounded up, because 0 means something else than little to the executor: no grace, or no limit.
pub fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Connects to the executor of a living task, waiting for an adoption under way. `None`: the task ended meanwhile.
pub async fn reach(facts: &Facts, phase: &watch::Receiver<Phase>) -> Result<Option<Peer>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(10);
    let mut was_asked = false;
    loop {
        if !matches!(*phase.borrow(), Phase::Running(_)) {
            return Ok(None);
        }
        let had_been_asked = was_asked;
        let reason = match SupervisionDir::open(&facts.dir) {
            Err(e) => {
                was_asked = true;
                e.to_string()
            }
            Ok(dir) => match client::connect(&dir).await {
                Ok(peer) => return Ok(Some(peer)),
                Err(e) => {
                    // Its socket may be gone, or somebody else's; there is no executor to ask while one is adopting.
                    was_asked = client::ask_to_bind_again(&dir) || was_asked;
                    was_asked |= client::living_executor(&dir).is_none();
                    e.to_string()
                }
            },
        };
        // Whoever was asked is tried once more, however long the first try took.
        if Instant::now() >= deadline && had_been_asked {
            return Err(Failure::Final(format!(
                "cannot reach the executor of task {:?}: {reason}",
                facts.name.id
            )));
        }
        let mut phase = phase.clone();
        let _ = tokio::time::timeout(pause, owner::ended(&mut phase)).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Ends a task of the table and returns when it is over (contract, K-1).
pub async fn stop(facts: &Facts, mut phase: watch::Receiver<Phase>, stop: Stop) -> Result<(), Failure> {
    let deadline = Instant::now() + stop.grace;
    loop {
        let left = Stop {
            grace: deadline.saturating_duration_since(Instant::now()),
            ..stop
        };
        let peer = match reach(facts, &phase).await {
            Ok(None) => return Ok(()),
            Ok(Some(peer)) => peer,
            Err(unreachable) => {
                tracing::warn!(task_id = facts.name.id, error = %unreachable, "the driver stops the task itself");
                return stop_without_executor(facts, &mut phase, left, &unreachable).await;
            }
        };
        let Peer { mut executor, .. } = peer;
        let request = if stop.grace.is_zero() {
            Stop::KILL.request()
        } else {
            left.request()
        };
        point::reached(Point::StopAsked);
        // Longer than any executor takes that is not stopped itself.
        let bound = left.grace.saturating_add(2 * DYING);
        let Ok(stopped) = tokio::time::timeout(bound, executor.stop(request)).await else {
            let silent = Failure::Final(format!("the executor of task {:?} does not answer", facts.name.id));
            return stop_without_executor(facts, &mut phase, Stop::KILL, &silent).await;
        };
        match stopped {
            Ok(_) => {
                point::reached(Point::StopHeard);
                owner::ended(&mut phase).await;
                return Ok(());
            }
            Err(status) if is_final(&status) => {
                // A process that will not die may have died meanwhile.
                return match &*phase.borrow() {
                    Phase::Running(_) => Err(Failure::last(status.message())),
                    Phase::Starting | Phase::Over(..) | Phase::Gone => Ok(()),
                };
            }
            // An executor that dies on the way has recorded the deadline; whoever adopts the task goes on with it, and
            // is asked once more in case it was not recorded yet.
            Err(status) => {
                tracing::debug!(
                    task_id = facts.name.id,
                    error = status.message(),
                    "the executor left while stopping"
                );
                let _ = tokio::time::timeout(Duration::from_millis(50), owner::ended(&mut phase)).await;
            }
        }
    }
}

/// Signal, grace and kill by the driver, for a task whose executor cannot be reached; then the executor is ended as well, so that
/// another one can tell the end.
async fn stop_without_executor(
    facts: &Facts,
    phase: &mut watch::Receiver<Phase>,
    stop: Stop,
    unreachable: &Failure,
) -> Result<(), Failure> {
    if !stop.grace.is_zero()
        && let Some(main) = facts.main.open().map_err(Failure::last)?
        && main.send_signal(stop.signal).is_ok()
    {
        gone_within(&main, stop.grace).await;
    }
    // Without records there is the main process; its executor, if it lives, sees to the rest.
    let dir = match SupervisionDir::open(&facts.dir) {
        Ok(dir) => {
            kill_processes(&dir).await?;
            Some(dir)
        }
        Err(e) if takeover::is_absent(&e) => None,
        Err(e) => return Err(Failure::last(e)),
    };
    kill_identity(&facts.main)?;
    if tokio::time::timeout(CONCLUDING, owner::ended(phase)).await.is_ok() {
        return Ok(());
    }
    if let Some(executor) = dir.as_ref().and_then(client::living_executor) {
        tracing::warn!(
            task_id = facts.name.id,
            "its executor does not answer and is ended, too"
        );
        let _ = executor.send_signal(SIGKILL);
    }
    match tokio::time::timeout(DYING, owner::ended(phase)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::Final(format!(
            "task {:?} did not die: {unreachable}",
            facts.name.id
        ))),
    }
}

/// What an executor answers that lives: processes that a kill did not end, with their pids, or a request that means nothing to it.
/// All else is told by one that leaves.
fn is_final(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::InvalidArgument)
}

/// DestroyTask (contract, K-5, K-6).
pub async fn destroy(driver: &Driver, id: &str, force: bool) -> Result<(), Failure> {
    loop {
        match driver.tasks.destroy(id, force).await {
            Destruction::Refused => return Err(Failure::last("cannot destroy running task")),
            Destruction::EndFirst(facts, phase) => stop(&facts, phase, Stop::KILL).await?,
            // The table's owner waits for a start under way before it answers.
            Destruction::InProgress(_) => {}
            Destruction::Remove(facts) => return remove(driver, &facts).await,
            Destruction::Unknown => return destroy_unknown(driver, id, force).await,
        }
    }
}

async fn remove(driver: &Driver, facts: &Facts) -> Result<(), Failure> {
    let dir = match SupervisionDir::open(&facts.dir) {
        Ok(dir) => dir,
        Err(e) if takeover::is_absent(&e) => return Ok(()),
        Err(e) => return Err(Failure::last(e)),
    };
    // The cgroups have the name of alloc and task: the next incarnation may live in them already.
    let is_shared = !driver.tasks.other_incarnations(&facts.name).await.is_empty();
    // Of an executor that told the end and could not leave. All that it would do is done here, and later it would hit the cgroups of
    // the task's next incarnation.
    kill_supervisors(&dir).await?;
    remove_traces(dir, !is_shared).await
}

/// A task that this driver does not know may have left traces: a driver before it may have started it.
async fn destroy_unknown(driver: &Driver, id: &str, force: bool) -> Result<(), Failure> {
    let found = holdfast_record::find_by_task_id(&driver.root(), id).map_err(Failure::last)?;
    let Some(dir) = found else { return Ok(()) };
    if !is_over(&dir) && !force && is_alive(&dir) {
        return Err(Failure::last("cannot destroy running task"));
    }
    end_stray(dir).await
}

/// Ends whatever lives of another incarnation of the same alloc and task (design, section 3): two would share cgroups,
/// ports and folders.
pub async fn end_other_incarnations(driver: &Arc<Driver>, name: &TaskName) -> Result<(), Failure> {
    for (id, mut phase) in driver.tasks.other_incarnations(name).await {
        tracing::warn!(
            task_id = name.id,
            other = id,
            "another incarnation of the task lives; it is ended first"
        );
        let _ = phase.wait_for(|phase| *phase != Phase::Starting).await;
        let running = match &*phase.borrow() {
            Phase::Running(facts) => Some(facts.clone()),
            _ => None,
        };
        if let Some(facts) = running {
            stop(&facts, phase, Stop::KILL).await?;
        }
    }
    let found = holdfast_record::find_by_task(&driver.root(), &name.alloc_id, &name.task_name).unwrap_or_else(|e| {
        // What a power cut has left of a record must not keep the task from ever starting again.
        tracing::warn!(task_id = name.id, error = %e, "cannot look for other incarnations of the task");
        Vec::new()
    });
    for (dir, intent) in found {
        let is_stray = intent.task_id != name.id && driver.tasks.phase(&intent.task_id).await.is_none();
        // A folder with a result belongs to a task that a recovery may still ask for.
        if is_stray && !is_over(&dir) {
            tracing::warn!(
                task_id = name.id,
                other = intent.task_id,
                "an unknown incarnation of the task is ended first"
            );
            end_stray(dir).await?;
        }
    }
    Ok(())
}

/// Ends and removes all that is left of a folder whose task is not in the table. Nothing is touched that cannot be
/// proved to be the task's: signals go to identities of this boot only.
pub async fn end_stray(dir: SupervisionDir) -> Result<(), Failure> {
    if !is_over(&dir) {
        match client::connect(&dir).await {
            Ok(Peer {
                pidfd, mut executor, ..
            }) => {
                // An error means that it is leaving, which the descriptor tells.
                let _ = tokio::time::timeout(2 * DYING, executor.stop(Stop::KILL.request())).await;
                drop(executor);
                gone_within(&pidfd, DYING).await;
            }
            Err(e) => tracing::debug!(folder = %dir.path().display(), error = %e, "no executor to ask"),
        }
        kill_processes(&dir).await?;
        kill_supervisors(&dir).await?;
    }
    remove_traces(dir, true).await
}

/// Ends the init of a task whose result is on disk: an executor that died before it could has left it waiting for ever. One that lives
/// does it itself.
pub fn end_init(dir: &SupervisionDir) {
    if !matches!(dir.lock(), Ok(Some(_))) {
        return;
    }
    if let Ok(Some(record)) = living_record(dir)
        && let Err(e) = kill_identity(&record.init)
    {
        tracing::warn!(task_id = record.task_id, error = %e, "the init of a task that is over is left");
    }
}

/// True if the result is on disk. One that cannot be read says nothing.
fn is_over(dir: &SupervisionDir) -> bool {
    matches!(dir.result(), Ok(Some(_)))
}

/// True if the main process, or an executor that has not launched it yet, lives.
fn is_alive(dir: &SupervisionDir) -> bool {
    let main_lives = match living_record(dir) {
        Ok(Some(record)) => !matches!(record.main.open(), Ok(None)),
        Ok(None) => false,
        Err(_) => true,
    };
    main_lives || matches!(dir.lock(), Ok(None))
}

/// The record, if its identities mean anything: pids of another boot are strangers' (contract, pain 7).
fn living_record(dir: &SupervisionDir) -> Result<Option<Record>, Failure> {
    let boot_id = holdfast_record::boot_id().map_err(Failure::last)?;
    let record = dir.record().unwrap_or_else(|e| {
        tracing::warn!(error = %e, "the record of a task is of no use; nothing is killed by it");
        None
    });
    Ok(record.filter(|record| record.boot_id == boot_id))
}

/// Kills a task that has no executor and gets none, and returns when its main process is dead.
pub async fn kill_orphan(dir: &SupervisionDir) -> Result<(), Failure> {
    kill_processes(dir).await?;
    match living_record(dir)? {
        Some(record) => kill_and_wait(&record.main).await,
        None => Ok(()),
    }
}

/// Kills the task's processes without its executor.
async fn kill_processes(dir: &SupervisionDir) -> Result<(), Failure> {
    let Some(record) = living_record(dir)? else {
        return Ok(());
    };
    // Before its cgroup, which on v1 is frozen meanwhile: whoever adopts it from a driver that was killed in the middle finds a main
    // process with a SIGKILL waiting, and thaws it.
    kill_identity(&record.main)?;
    // Where it has no cgroup of its own, all of it is below the init, which stays: it has an end to record.
    if record.plan.placement.scope.is_none()
        && let Some(init) = record.init.open().map_err(Failure::last)?
    {
        kill_below(&init).await;
    }
    if let Some(scope) = scope_of(&record.plan.placement)
        && !scope.foreign
        && is_same_cgroup(&record.plan.placement)
    {
        holdfast_cgroup::kill(&scope.kill, scope.version).map_err(Failure::last)?;
    }
    Ok(())
}

/// Kills all that is below an init, whose children the orphans become, and returns when nothing is left there, within the bound for dying.
async fn kill_below(init: &PidFd) {
    let killing = async {
        while let Ok(Some(pid)) = init.pid() {
            let found = children::descendants(&[pid]);
            if found.is_empty() {
                return;
            }
            found.iter().for_each(children::kill_tree);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(DYING, killing).await.is_err() {
        tracing::warn!("processes of a task without a cgroup did not die in time");
    }
}

/// Kills init and the executor of a task whose processes are dead.
async fn kill_supervisors(dir: &SupervisionDir) -> Result<(), Failure> {
    let Some(record) = living_record(dir)? else {
        return Ok(());
    };
    for identity in [&record.executor, &record.init] {
        kill_identity(identity)?;
    }
    for identity in [&record.executor, &record.init, &record.main] {
        if let Some(pidfd) = identity.open().map_err(Failure::last)? {
            gone_within(&pidfd, DYING).await;
        }
    }
    Ok(())
}

fn kill_identity(identity: &ProcessIdentity) -> Result<(), Failure> {
    const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
    let Some(pidfd) = identity.open().map_err(Failure::last)? else {
        return Ok(());
    };
    match pidfd.send_signal(SIGKILL) {
        Err(e) if e.raw_os_error() != Some(ESRCH) => {
            Err(Failure::Final(format!("cannot kill process {}: {e}", identity.pid)))
        }
        _ => Ok(()),
    }
}

/// Kills a process and returns when it is dead, within the bound for dying. A stranger with its pid is not touched.
async fn kill_and_wait(identity: &ProcessIdentity) -> Result<(), Failure> {
    let pidfd = identity.open().map_err(Failure::last)?;
    kill_identity(identity)?;
    if let Some(pidfd) = pidfd {
        gone_within(&pidfd, DYING).await;
    }
    Ok(())
}

/// Ends what lives of a task whose records are gone, in this order: identities are proof enough to kill by.
pub async fn end_without_records(task_id: &str, processes: &[&ProcessIdentity]) {
    for identity in processes {
        tracing::warn!(
            task_id,
            pid = identity.pid,
            "killing a process of a task whose records are gone, if it lives"
        );
        if let Err(e) = kill_and_wait(identity).await {
            tracing::warn!(task_id, pid = identity.pid, error = %e, "the process was not killed");
        }
    }
}

/// Waits for an end, within a bound. A process that cannot be watched is not waited for.
async fn gone_within(pidfd: &PidFd, bound: Duration) {
    if let Ok(pidfd) = pidfd.try_clone() {
        let _ = tokio::time::timeout(bound, watch_over::exited(pidfd)).await;
    }
}

/// Removes the folder and, if nobody else lives in them, the cgroups that are ours.
async fn remove_traces(dir: SupervisionDir, with_cgroups: bool) -> Result<(), Failure> {
    let placement = match dir.record() {
        Ok(record) => record.map(|record| record.plan.placement),
        Err(e) => {
            tracing::warn!(folder = %dir.path().display(), error = %e, "cannot tell the task's cgroups");
            None
        }
    };
    point::reached(Point::DestroyBegun);
    // A cgroup leaves only when the last dying process has left it, which is waited for.
    tokio::task::spawn_blocking(move || {
        if let Some(scope) = placement.as_ref().filter(|_| with_cgroups).and_then(scope_of)
            && let Err(e) = scope.remove()
        {
            tracing::warn!(error = %e, "a cgroup of the task is left");
        }
        point::reached(Point::DestroyedCgroups);
        dir.remove().map_err(Failure::last)
    })
    .await
    .map_err(Failure::last)?
}

/// The task's cgroups as they were recorded.
fn scope_of(placement: &PlacementRecord) -> Option<Scope> {
    let PlacementRecord {
        join,
        scope,
        scope_inode: _,
        own,
        foreign,
    } = placement;
    let kill = scope.clone()?;
    Some(Scope {
        version: holdfast_cgroup::version_of(&kill)?,
        join: join.clone(),
        kill,
        own: own.clone(),
        shared: Vec::<PathBuf>::new(),
        foreign: *foreign,
    })
}

/// False if the cgroup was removed and made again: it is another task's then.
fn is_same_cgroup(placement: &PlacementRecord) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (&placement.scope, placement.scope_inode) {
        (Some(scope), Some(inode)) => std::fs::metadata(scope).is_ok_and(|metadata| metadata.ino() == inode),
        _ => true,
    }
}

/// Removes what a failed start has left: nothing, once this returns (contract, S-4).
pub async fn undo_start(dir: SupervisionDir, executor: Option<PidFd>) {
    let path = dir.path().display().to_string();
    if let Some(executor) = executor {
        // An executor whose launch failed, or that is not committed, leaves by itself.
        gone_within(&executor, Duration::from_secs(2)).await;
        if !executor.has_exited().unwrap_or(true) {
            let _ = kill_processes(&dir).await;
            let _ = executor.send_signal(SIGKILL);
            gone_within(&executor, DYING).await;
        }
    }
    if let Err(e) = end_stray(dir).await {
        tracing::error!(folder = path, error = %e, "a failed start has left something behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_signal_is_an_error_in_the_built_ins_words_k1() {
        let error = Stop::parse("SIGFOO", Duration::from_secs(1)).unwrap_err();
        assert_eq!(
            error,
            Failure::Final("executor Shutdown failed: error unknown signal given for shutdown: SIGFOO".to_owned())
        );
    }

    #[test]
    fn no_name_is_sigint_and_no_grace_is_a_kill_k1() {
        let grace = Duration::from_secs(1);
        assert_eq!(Stop::parse("", grace), Ok(Stop { signal: SIGINT, grace }));
        assert_eq!(Stop::parse("SIGTERM", grace), Ok(Stop { signal: 15, grace }));
        assert_eq!(Stop::parse("SIGFOO", Duration::ZERO), Ok(Stop::KILL));
    }

    #[test]
    fn processes_that_do_not_die_are_told_and_an_executor_that_leaves_is_asked_again() {
        assert!(is_final(&tonic::Status::deadline_exceeded(
            "pid 7 in state D did not die"
        )));
        for leaving in [
            Code::Unavailable,
            Code::Cancelled,
            Code::Unknown,
            Code::FailedPrecondition,
        ] {
            assert!(!is_final(&tonic::Status::new(leaving, "")), "{leaving:?}");
        }
    }

    #[test]
    fn the_shortest_grace_is_not_a_kill() {
        let stop = Stop::parse("SIGTERM", Duration::from_nanos(1)).unwrap();
        assert_eq!(
            stop.request(),
            StopRequest {
                signal: 15,
                grace_ms: 1
            }
        );
        assert_eq!(Stop::KILL.request().grace_ms, 0);
    }
}
