//! Reaping: the executor is a subreaper, so that it has children that it never started.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_sys::process::{self, ExitStatus, PidFd};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Who is waiting for which child.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>>);

impl Children {
    /// Reaps every child from now on. Within the runtime.
    pub fn reap() -> io::Result<Self> {
        let mut ended = signal(SignalKind::child())?;
        let children = Self::default();
        let registered = children.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                registered.reap_ended();
            }
        });
        Ok(children)
    }

    /// The status of a child that was just started; to be asked for before anything is awaited, as it may have ended already.
    pub fn status_of(&self, pid: i32) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, sender);
        receiver
    }

    fn reap_ended(&self) {
        while let Ok(Some(child)) = process::peek_any_child() {
            let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&child.pid);
            if process::reap(child.pid).is_err() {
                return;
            }
            if let Some(sender) = waiting {
                let _ = sender.send(child.status);
            }
        }
    }
}

/// Living processes below `roots`, which are left out themselves, each once.
pub fn descendants(roots: &[i32]) -> Vec<PidFd> {
    /// Enough for every process that ends in good time; of those that start others all the time none is sure to be found.
    const LOOKS: usize = 16;
    // A process that ends while it is looked at has no children any more, and the subreaper above it did not have them yet when it was
    // looked at. Of one that had ended before a look began they are all in their new place.
    let mut ended_before = BTreeSet::new();
    let mut living = Vec::new();
    for _ in 0..LOOKS {
        let ended;
        (living, ended) = look_below(roots);
        if ended == ended_before {
            break;
        }
        ended_before = ended;
    }
    living
}

/// Those that live, and the numbers of those that ended before this returned.
fn look_below(roots: &[i32]) -> (Vec<PidFd>, BTreeSet<i32>) {
    let mut opened = Vec::new();
    let mut ended = BTreeSet::new();
    let mut seen = roots.to_vec();
    let mut parents = roots.to_vec();
    while let Some(parent) = parents.pop() {
        for child in children_of(parent) {
            if seen.contains(&child) {
                continue;
            }
            seen.push(child);
            parents.push(child);
            match PidFd::open(child) {
                Ok(pidfd) => opened.push((child, pidfd)),
                Err(_) => {
                    ended.insert(child);
                }
            }
        }
    }
    let mut living = Vec::new();
    for (pid, pidfd) in opened {
        if pidfd.has_exited().unwrap_or(true) {
            ended.insert(pid);
        } else {
            living.push(pidfd);
        }
    }
    (living, ended)
}

/// Kills a process and all below it. Each is stopped before its children are looked for: with a signal pending no fork succeeds
/// (fork(2), ERESTARTNOINTR inside the kernel), so none is missed.
pub fn kill_tree(root: &PidFd) {
    let mut condemned = Vec::new();
    let mut parents: Vec<PidFd> = root.try_clone().into_iter().collect();
    while let Some(parent) = parents.pop() {
        let _ = parent.send_signal(libc::SIGSTOP);
        if let Ok(Some(pid)) = parent.pid() {
            let opened: Vec<_> = children_of(pid)
                .into_iter()
                .filter_map(|child| Some((child, PidFd::open(child).ok()?)))
                .collect();
            // A number that was given to a stranger between listing and opening is not listed any more.
            let still = children_of(pid);
            parents.extend(
                opened
                    .into_iter()
                    .filter(|(child, _)| still.contains(child))
                    .map(|(_, pidfd)| pidfd),
            );
        }
        condemned.push(parent);
    }
    for pidfd in condemned {
        let _ = pidfd.send_signal(libc::SIGKILL);
    }
}

/// The children of all threads of a process (proc(5), /proc/PID/task/TID/children).
fn children_of(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}
