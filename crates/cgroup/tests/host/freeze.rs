//! Freezing and thawing.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use holdfast_cgroup::{SessionScope, enter, freeze, is_frozen, kill, thaw};
use holdfast_sys::readiness::set_nonblocking;

use crate::place::{Place, SIGKILL, eventually, pid, wait_until_empty};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_frozen_task_stands_still_until_it_is_thawed() {
    for place in Place::of_every_version() {
        let (dir, version) = (&place.scope.kill, place.scope.version);
        let mut main = place.script("exit 7");
        assert_eq!(main.wait().unwrap().code(), Some(7));

        let mut child = Command::new("sh")
            .args(["-c", "read begin; exit 8"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        enter(&place.scope.join, pid(&child)).unwrap();
        assert!(!is_frozen(dir, version).unwrap());
        freeze(dir, version, BOUND).unwrap();
        // Not soon, but now: the call has waited for it.
        assert!(is_frozen(dir, version).unwrap());
        freeze(dir, version, BOUND).unwrap();
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none());
        thaw(dir, version).unwrap();
        assert!(!is_frozen(dir, version).unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(8));
        assert!(!is_frozen(&dir.join("no-such-cgroup"), version).unwrap());
        assert!(freeze(&dir.join("no-such-cgroup"), version, BOUND).is_err());
    }
}

#[test]
fn a_task_is_frozen_and_thawed_with_its_sessions() {
    for place in Place::of_every_version() {
        let (dir, version) = (&place.scope.kill, place.scope.version);
        let session = SessionScope::create(&place.scope, 1).unwrap();
        let below = session.dir().unwrap();
        let mut children = [&place.scope.join[..], session.join()].map(|join| {
            let mut child = Command::new("sh")
                .args(["-c", "while :; do echo; done"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            enter(join, pid(&child)).unwrap();
            set_nonblocking(child.stdout.as_mut().unwrap(), true).unwrap();
            child
        });
        for child in &mut children {
            assert!(eventually(|| written(child) > 0));
        }
        freeze(dir, version, BOUND).unwrap();
        assert!(is_frozen(below, version).unwrap());
        for child in &mut children {
            written(child);
        }
        thread::sleep(Duration::from_millis(50));
        for child in &mut children {
            assert_eq!(written(child), 0);
        }
        thaw(dir, version).unwrap();
        assert!(!is_frozen(below, version).unwrap());
        for child in &mut children {
            assert!(eventually(|| written(child) > 0));
        }
        kill(dir, version).unwrap();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        }
    }
}

/// A shell waits in vfork for each command until that has executed its program: v1 does not count it as frozen where the command
/// stopped first.
#[test]
fn a_task_that_starts_commands_all_the_time_is_frozen_each_time() {
    for place in Place::of_every_version() {
        let (dir, version) = (&place.scope.kill, place.scope.version);
        let mut main = place.script("while :; do sleep 0.001; done");
        for _ in 0..300 {
            freeze(dir, version, BOUND).unwrap();
            assert!(is_frozen(dir, version).unwrap());
            thaw(dir, version).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        kill(dir, version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    }
}

/// How much was in the pipe, which is empty then.
fn written(child: &mut Child) -> usize {
    let mut buffer = [0; 1 << 16];
    child.stdout.as_mut().unwrap().read(&mut buffer).unwrap_or(0)
}

#[test]
fn a_frozen_task_dies_with_its_frozen_sessions_when_it_is_killed() {
    for place in Place::of_every_version() {
        let (dir, version) = (&place.scope.kill, place.scope.version);
        let mut children = vec![place.sleeper()];
        for number in 1..=2 {
            let session = SessionScope::create(&place.scope, number).unwrap();
            let inside = Command::new("sleep").arg("600").spawn().unwrap();
            enter(session.join(), pid(&inside)).unwrap();
            children.push(inside);
            if number == 1 {
                freeze(session.dir().unwrap(), version, BOUND).unwrap();
            }
        }
        freeze(dir, version, BOUND).unwrap();
        kill(dir, version).unwrap();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        }
        assert!(wait_until_empty(dir));
        // The next task in the same cgroups begins to run.
        let mut next = place.script("exit 0");
        assert_eq!(next.wait().unwrap().code(), Some(0));
    }
}
