//! Real processes in real cgroups of this host, whichever version it has; what needs no controller is tried on v2 too where v2 is
//! mounted beside v1. Needs root. Every test has a cgroup parent of its own and removes it.

mod devices;
mod freeze;
mod limits;
mod parent;
#[allow(dead_code, reason = "each test program uses a part")]
#[path = "../place/mod.rs"]
mod place;
mod sampler;
mod watch;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command};

use holdfast_cgroup::{ROOT, SessionScope, enter, freeze as freeze_cgroup, kill, pids, populated};

use place::{Place, SIGKILL, eventually, pid, wait_until_empty};

#[test]
fn a_task_is_counted_killed_and_leaves_nothing_of_ours() {
    for place in Place::of_every_version() {
        assert!(!populated(&place.scope.kill).unwrap());
        let mut main = place.sleeper();
        assert_eq!(pids(&place.scope.kill).unwrap(), [pid(&main)]);
        assert!(populated(&place.scope.kill).unwrap());
        for dir in &place.scope.join {
            assert!(pids(dir).unwrap().contains(&pid(&main)), "not in {}", dir.display());
        }

        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(wait_until_empty(&place.scope.kill));

        place.scope.remove().unwrap();
        assert!(place.scope.own.iter().all(|dir| !dir.exists()));
        assert!(
            place.scope.kill.is_dir(),
            "the agent's directory is the agent's to remove"
        );
        place.scope.remove().unwrap();
    }
}

#[test]
fn a_scope_is_used_again_after_a_kill_s8() {
    for place in Place::of_every_version() {
        for _ in 0..3 {
            place.scope.make().unwrap();
            let mut main = place.sleeper();
            kill(&place.scope.kill, place.scope.version).unwrap();
            assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
            assert!(wait_until_empty(&place.scope.kill));
            place.scope.remove().unwrap();
        }
    }
}

#[test]
fn without_an_agent_everything_but_the_shared_cpuset_is_removed() {
    let place = Place::new();
    let scope = place.scope.clone().owning_all();
    scope.remove().unwrap();
    assert!(
        scope
            .join
            .iter()
            .filter(|dir| !dir.ends_with("share"))
            .all(|dir| !dir.exists())
    );
    scope.make().unwrap();
    assert!(scope.join.iter().all(|dir| dir.is_dir()));
}

#[test]
fn nothing_that_forks_all_the_time_escapes_a_kill() {
    for place in Place::of_every_version() {
        // Each relay forks its successor and exits, so that every list of processes is out of date at once.
        let mut main = place.script("relay() { relay & }; for i in 1 2 3 4 5 6; do relay; done; exec sleep 600");
        let forked = |first: i32| {
            pids(&place.scope.kill)
                .unwrap()
                .iter()
                .any(|found| found.abs_diff(first) > 100)
        };
        assert!(eventually(|| forked(pid(&main))), "the relays go on");
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(wait_until_empty(&place.scope.kill));
    }
}

#[test]
fn a_session_is_killed_without_its_task() {
    for place in Place::of_every_version() {
        let mut main = place.sleeper();
        let session = SessionScope::create(&place.scope, 1).unwrap();
        let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
        enter(session.join(), pid(&inside)).unwrap();
        assert!(session.populated().unwrap());
        assert!(
            pids(&place.scope.kill).unwrap().contains(&pid(&inside)),
            "a session counts as the task's"
        );
        let busy = SessionScope::create(&place.scope, 1).unwrap_err();
        assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);

        session.kill().unwrap();
        assert_eq!(inside.wait().unwrap().signal(), Some(SIGKILL));
        assert!(main.try_wait().unwrap().is_none());
        assert!(eventually(|| !session.populated().unwrap()));
        session.remove().unwrap();
        session.remove().unwrap();
        assert!(SessionScope::list(&place.scope).unwrap().is_empty());
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    }
}

#[test]
fn killing_the_task_takes_its_sessions_with_it_frozen_ones_too() {
    for place in Place::of_every_version() {
        let mut main = place.sleeper();
        let mut sessions: Vec<Child> = (1..=3)
            .map(|number| {
                let session = SessionScope::create(&place.scope, number).unwrap();
                let inside = Command::new("sleep").arg("600").spawn().unwrap();
                enter(session.join(), pid(&inside)).unwrap();
                if number == 2 {
                    freeze_cgroup(
                        session.dir().unwrap(),
                        place.scope.version,
                        std::time::Duration::from_secs(60),
                    )
                    .unwrap();
                }
                inside
            })
            .collect();
        assert_eq!(SessionScope::list(&place.scope).unwrap().len(), 3);
        kill(&place.scope.kill, place.scope.version).unwrap();
        for child in sessions.iter_mut().chain([&mut main]) {
            assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        }
        assert!(wait_until_empty(&place.scope.kill));
        place.scope.remove().unwrap();
        assert!(SessionScope::list(&place.scope).unwrap().is_empty());
    }
}

#[test]
fn a_stranger_outside_the_scope_survives() {
    for place in Place::of_every_version() {
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        let mut main = place.sleeper();
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[test]
fn killing_what_is_empty_or_gone_is_fine() {
    for place in Place::of_every_version() {
        kill(&place.scope.kill, place.scope.version).unwrap();
        kill(&place.scope.kill.join("no-such-cgroup"), place.scope.version).unwrap();
    }
}

#[test]
fn the_executors_cgroup_is_made_and_can_be_entered() {
    for mut place in Place::of_every_version() {
        if place.scope.shared.is_empty() {
            // This process is at the root of every v1 hierarchy, where there is nothing to escape from.
            place
                .scope
                .shared
                .push(Path::new(ROOT).join("memory").join(&place.parent).join("holdfast"));
        }
        place.scope.make_shared().unwrap();
        let mut executor = Command::new("sleep").arg("600").spawn().unwrap();
        enter(&place.scope.shared, pid(&executor)).unwrap();
        for dir in &place.scope.shared {
            assert!(
                dir.ends_with("holdfast") && pids(dir).unwrap().contains(&pid(&executor)),
                "{}",
                dir.display()
            );
        }
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert!(
            executor.try_wait().unwrap().is_none(),
            "the executor is no part of the task"
        );
        executor.kill().unwrap();
        executor.wait().unwrap();
    }
}
