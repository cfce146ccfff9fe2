//! Whom a signal reaches. Each goes through a pidfd of a process that was seen to be the task's, and none after it was reaped.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use holdfast_cgroup::{Scope, SessionScope};
use holdfast_record::KillTarget;
use holdfast_sys::process::PidFd;

use super::{Living, Refusal};
use crate::children;

/// Sends to the target. Of several, those that are there get it; none at all is a refusal.
pub fn send(living: &Living, signal: i32, target: KillTarget) -> Result<(), Refusal> {
    if !holdfast_sys::signal::is_valid(signal) {
        return Err(Refusal::NoSignal(signal));
    }
    let refused = |e: io::Error| Refusal::Signal(signal, e.to_string());
    let main = living.main.as_ref().filter(|_| living.end.is_none());
    match target {
        KillTarget::Main => match main {
            Some(main) => main.send_signal(signal).map_err(refused),
            None => Err(Refusal::MainOver),
        },
        KillTarget::Group => match &living.main {
            // The number of a group is taken for as long as somebody is in it, whether or not its leader lives.
            Some(main) => main.send_signal_to_group(signal).map_err(refused),
            None => Err(Refusal::MainOver),
        },
        KillTarget::Cgroup => {
            // The main process first, which may want to see to the others itself.
            let mut reached = main.is_some_and(|main| main.send_signal(signal).is_ok());
            reached |= send_to_others(living, signal).map_err(refused)?;
            if reached { Ok(()) } else { Err(Refusal::Over) }
        }
    }
}

/// One living process of the task beside the main process and the sessions, if there is one.
pub fn any_other(living: &Living) -> Option<PidFd> {
    let is_living = |pidfd: &PidFd| !pidfd.has_exited().unwrap_or(true);
    let Some((scope, dir)) = own_cgroup(living) else {
        return descendants(living).into_iter().find(is_living);
    };
    let pids = pids_without_sessions(scope, dir).unwrap_or_default();
    let main = living.record.main.pid;
    pids.into_iter()
        .filter(|pid| *pid != main || living.end.is_some())
        .find_map(|pid| PidFd::open(pid).ok().filter(is_living))
}

/// To all of them; whether anybody was there. A pid that was read may be reused before it is opened, so those that are in the cgroup
/// still when they are open are the task's.
fn send_to_others(living: &Living, signal: i32) -> io::Result<bool> {
    // Far below any limit of open files.
    const AT_ONCE: usize = 128;
    let reaches = |pidfd: &PidFd| pidfd.send_signal(signal).is_ok();
    let Some((scope, dir)) = own_cgroup(living) else {
        return Ok(descendants(living).iter().filter(|pidfd| reaches(pidfd)).count() > 0);
    };
    let main = living.record.main.pid;
    let is_main = |pid: &i32| living.end.is_none() && *pid == main;
    let listed: Vec<i32> = pids_without_sessions(scope, dir)?
        .into_iter()
        .filter(|pid| !is_main(pid))
        .collect();
    let mut reached = false;
    for pids in listed.chunks(AT_ONCE) {
        let opened: Vec<(i32, PidFd)> = pids
            .iter()
            .filter_map(|pid| Some((*pid, PidFd::open(*pid).ok()?)))
            .collect();
        let still = pids_without_sessions(scope, dir)?;
        for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            reached |= reaches(pidfd);
        }
    }
    Ok(reached)
}

fn own_cgroup(living: &Living) -> Option<(&Scope, &Path)> {
    let scope = living.scope.as_deref()?;
    Some((scope, scope.kill_dir()?))
}

/// Sessions are not the job's: they are killed with the task and not asked to leave.
fn pids_without_sessions(scope: &Scope, dir: &Path) -> io::Result<BTreeSet<i32>> {
    let mut pids: BTreeSet<i32> = holdfast_cgroup::pids(dir)?.into_iter().collect();
    for session in SessionScope::list(scope)?.iter().filter_map(SessionScope::dir) {
        for pid in holdfast_cgroup::pids(session)? {
            pids.remove(&pid);
        }
    }
    Ok(pids)
}

/// Without a cgroup of its own the task is what descends from its main process, and from the init, which is a subreaper: what has
/// lost its parent stays below it. Without the init, only what the main process has kept.
fn descendants(living: &Living) -> Vec<PidFd> {
    let init = living.init.as_ref().and_then(|(init, _)| init.pid().ok().flatten());
    let main = living.record.main.pid;
    match init {
        Some(init) => children::descendants(&[init])
            .into_iter()
            .filter(|pidfd| living.end.is_some() || pidfd.pid().ok().flatten() != Some(main))
            .collect(),
        None if living.end.is_none() => children::descendants(&[main]),
        None => Vec::new(),
    }
}
