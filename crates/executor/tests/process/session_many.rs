//! Many sessions of one task, ended well or dropped at any moment, leave nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_wire::executor_v1::{ExecRequest, IdentifyRequest, LaunchResponse};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::host::{Host, eventually, is_root};
use crate::session::{Session, exec};
use crate::stop::kill_now;

/// What an executor holds: descriptors by what they are, and threads.
fn holdings(pid: i32) -> (Vec<String>, usize) {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut held: Vec<String> = entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    held.sort();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    (held, threads)
}

/// Processes below the executor that are neither init nor main.
fn remains(executor: i32, launched: &LaunchResponse) -> Vec<String> {
    let own = [launched.init.unwrap().pid, launched.main.unwrap().pid];
    let mut pending = vec![executor];
    let mut found = Vec::new();
    while let Some(parent) = pending.pop() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().map(|pid| pid.parse::<i32>().unwrap()) {
            pending.push(child);
            if !own.contains(&child) {
                found.push(format!("process {child}"));
            }
        }
    }
    found
}

fn session_cgroups(below: &Path) -> Vec<String> {
    let entries = fs::read_dir(below).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("exec-")).collect()
}

/// The cgroup below which sessions have theirs.
fn scope_of(launched: &LaunchResponse) -> Option<std::path::PathBuf> {
    let version = holdfast_cgroup::version()?;
    let memberships = fs::read_to_string(format!("/proc/{}/cgroup", launched.main.unwrap().pid)).unwrap();
    let (hierarchy, mount) = match version {
        holdfast_cgroup::Version::V1 => (":freezer:", "freezer"),
        holdfast_cgroup::Version::V2 => ("0::", ""),
    };
    let path = memberships.lines().find_map(|line| line.split_once(hierarchy))?.1;
    Some(
        Path::new(holdfast_cgroup::ROOT)
            .join(mount)
            .join(path.trim_start_matches('/')),
    )
}

/// Waits until no process and no cgroup of a session is left.
pub fn sessions_gone(peer: &Peer, launched: &LaunchResponse, is_scoped: bool) {
    let scope = scope_of(launched).filter(|_| is_scoped);
    eventually("the end of all sessions", || {
        let mut left = remains(peer.identity.pid, launched);
        left.extend(scope.iter().flat_map(|scope| session_cgroups(scope)));
        left.is_empty().then_some(()).ok_or(left.join(", "))
    });
}

/// As many as `concurrency` at a time.
async fn each<F>(count: usize, concurrency: usize, run: impl Fn(usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(concurrency));
    let mut running = JoinSet::new();
    for number in 0..count {
        let place = places.clone().acquire_owned().await.unwrap();
        let one = run(number);
        running.spawn(async move {
            one.await;
            drop(place);
        });
    }
    while let Some(ran) = running.join_next().await {
        ran.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_checks_leave_nothing_in_the_executor() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    // What the first one makes and all others use.
    exec(&peer, &["true"], 0).await.unwrap();
    sessions_gone(&peer, &launched, is_root());
    let before = holdings(peer.identity.pid);
    let executor = peer.executor.clone();
    each(200, 8, |number| {
        let mut executor = executor.clone();
        async move {
            // One in ten goes beyond its time, and leaves a child.
            let is_late = number % 10 == 9;
            let script = if is_late {
                "sleep 1000 & sleep 1000".to_owned()
            } else {
                format!("sleep 1000 & echo {number}")
            };
            let request = ExecRequest {
                command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
                timeout_ms: if is_late { 100 } else { 120_000 },
            };
            let ran = executor.exec(request).await.unwrap().into_inner();
            assert_eq!(ran.exit.unwrap().timed_out, is_late, "{number}");
            let expected = if is_late { String::new() } else { format!("{number}\n") };
            assert_eq!(ran.output, expected.as_bytes());
        }
    })
    .await;
    if is_root() {
        sessions_gone(&peer, &launched, is_root());
    }
    eventually("what the executor holds", || {
        let after = holdings(peer.identity.pid);
        (after == before)
            .then_some(())
            .ok_or(format!("{before:?} became {after:?}"))
    });
    assert_eq!(sessions_of(&peer).await, 0);
    kill_now(peer).await;
    host.nothing_left();
}

async fn sessions_of(peer: &Peer) -> u32 {
    let identity = peer.executor.clone().identify(IdentifyRequest {}).await.unwrap();
    identity.into_inner().sessions
}

/// A terminal exists for as long as somebody holds its master, which nobody but the executor ever does: so its descriptors tell of
/// the terminals as well, whatever else opens some at the same time.
#[tokio::test]
async fn a_thousand_sessions_dropped_mid_way_leave_no_process_cgroup_descriptor_or_terminal_x4() {
    if !is_root() {
        // Without a cgroup what has left a session's tree stays until the task ends.
        return;
    }
    const COUNT: usize = 1000;
    const SCRIPT: &str = "sleep 1000 & echo up; sleep 1000";
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    exec(&peer, &["true"], 0).await.unwrap();
    sessions_gone(&peer, &launched, is_root());
    let before = holdings(peer.identity.pid);
    assert!(!before.0.iter().any(|held| held.contains("ptmx")));
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let shared = Arc::new(peer);
    each(COUNT, 16, |number| {
        let (peer, running) = (shared.clone(), running.clone());
        async move {
            // Spread over the time that a start takes, and somewhat longer.
            let moment = Duration::from_micros(number as u64 * 7919 % 12_000);
            match number % 4 {
                // At a random moment, before or after the start.
                0 | 1 => {
                    let mut live = std::pin::pin!(async {
                        let mut session = Session::start(&peer, SCRIPT, number % 2 == 0).await;
                        session.says("up").await;
                        std::future::pending::<()>().await;
                    });
                    let _ = tokio::time::timeout(moment, &mut live).await;
                }
                // Once it runs.
                2 => {
                    let mut session = Session::start(&peer, SCRIPT, number % 8 == 2).await;
                    session.says("up").await;
                    running.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                // A check whose caller goes.
                _ => {
                    let check = exec(&peer, &["/bin/sh", "-c", SCRIPT], 0);
                    let _ = tokio::time::timeout(moment, check).await;
                }
            }
        }
    })
    .await;
    let peer = Arc::into_inner(shared).unwrap();
    assert_eq!(running.load(std::sync::atomic::Ordering::Relaxed), COUNT / 4);
    // The cancellations are on their way until the executor has answered something after them.
    tokio::time::sleep(Duration::from_millis(100)).await;
    sessions_of(&peer).await;
    sessions_gone(&peer, &launched, is_root());
    eventually("what the executor holds", || {
        let after = holdings(peer.identity.pid);
        (after == before)
            .then_some(())
            .ok_or(format!("{before:?} became {after:?}"))
    });
    assert_eq!(sessions_of(&peer).await, 0);
    assert!(crate::host::lives(launched.main.unwrap().pid));
    kill_now(peer).await;
    host.nothing_left();
}
