//! Freezing and killing (cgroup-v2, "Core Interface Files").

use std::io;
use std::path::Path;

use crate::freeze::{FREEZE_BEFORE_KILL, until_frozen};
use crate::interface;
use crate::kill::Rounds;
use crate::members::children;

const KILL: &str = "cgroup.kill";
const FREEZE: &str = "cgroup.freeze";

/// Begins; takes effect soon, not at once.
pub(crate) fn begin_freeze(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(FREEZE), "1")
}

pub(crate) fn thaw(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(FREEZE), "0")
}

/// True once every process is. A cgroup that has processes itself says nothing of those below it.
pub(crate) fn is_frozen(dir: &Path) -> io::Result<bool> {
    let events = interface::read(&dir.join("cgroup.events"))?;
    if interface::keyed(&events, "frozen") != Some(1) {
        return Ok(false);
    }
    for child in children(dir)? {
        match is_frozen(&child) {
            Ok(true) => {}
            Err(e) if interface::is_absence(&e) => {}
            answer => return answer,
        }
    }
    Ok(true)
}

/// The kernel kills the whole subtree, forks under way and frozen processes included; since 5.14.
pub(crate) fn kill(dir: &Path) -> io::Result<()> {
    kill_knowing(dir, dir.join(KILL).exists())
}

fn kill_knowing(dir: &Path, has_kill: bool) -> io::Result<()> {
    let killed = if has_kill {
        match interface::write(&dir.join(KILL), "1") {
            Err(e) if interface::is_absence(&e) => Ok(()),
            killed => killed,
        }
    } else {
        kill_one_by_one(dir)
    };
    // Another task may use the same cgroup later (contract, S-8).
    match interface::read(&dir.join(FREEZE)) {
        Ok(frozen) if frozen != "0" => killed.and(thaw(dir)),
        _ => killed,
    }
}

/// Frozen processes die of SIGKILL on v2, so that everything can stand still until the end.
fn kill_one_by_one(dir: &Path) -> io::Result<()> {
    let mut rounds = Rounds::default();
    loop {
        // Without a freezer (before 5.2) there are only rounds.
        let is_complete = begin_freeze(dir).is_ok() && until_frozen(FREEZE_BEFORE_KILL, || is_frozen(dir))?;
        let signalled = rounds.signal(dir)?;
        if rounds.are_done(is_complete, signalled)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use super::*;
    use crate::{freeze, populated};

    /// A cgroup of its own in v2, wherever that is mounted and whether or not it has controllers.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let root = mountinfo.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                fields.contains(&"cgroup2").then(|| PathBuf::from(fields[4]))
            });
            let root = root.expect("this test needs cgroup v2 mounted somewhere, with or without controllers");
            let dir = root.join(format!("holdfast-test-kill-{}-{name}", std::process::id()));
            fs::create_dir_all(dir.join("exec-1.scope")).unwrap();
            Place(dir)
        }

        fn run(&self, dir: &Path, script: &str) -> Child {
            let enter = format!("echo $$ > {}/cgroup.procs; {script}", dir.display());
            let child = Command::new("sh").args(["-c", &enter]).spawn().unwrap();
            // Its own number is the sign that the script has begun.
            while !crate::pids(dir).unwrap().contains(&i32::try_from(child.id()).unwrap()) {
                std::thread::yield_now();
            }
            child
        }

        fn is_empty_soon(&self) -> bool {
            (0..5000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(2));
                !populated(&self.0).unwrap()
            })
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = kill(&self.0);
            self.is_empty_soon();
            for dir in [self.0.join("exec-1.scope"), self.0.clone()] {
                let _ = crate::directory::remove(&dir);
            }
        }
    }

    #[test]
    fn a_kernel_that_cannot_kill_a_cgroup_lets_nothing_escape_either() {
        let place = Place::new("relays");
        for round in 0..5 {
            // Each relay forks its successor and exits, so that every list of processes is out of date at once.
            let relays = "relay() { relay & }; for i in 1 2 3 4; do relay; done; sleep 600";
            let mut children = [
                place.run(&place.0, relays),
                place.run(&place.0.join("exec-1.scope"), relays),
            ];
            kill_knowing(&place.0, false).unwrap();
            for child in &mut children {
                child.wait().unwrap();
            }
            assert!(place.is_empty_soon(), "something escaped in round {round}");
            assert_eq!(interface::read(&place.0.join(FREEZE)).unwrap(), "0");
        }
    }

    #[test]
    fn a_frozen_cgroup_is_killed_and_thawed_for_its_next_task_s8() {
        let place = Place::new("frozen");
        for has_kill in [false, place.0.join(KILL).exists()] {
            let inner = place.0.join("exec-1.scope");
            let mut children = [place.run(&place.0, "sleep 600"), place.run(&inner, "sleep 600")];
            freeze(&inner, crate::Version::V2, std::time::Duration::from_secs(10)).unwrap();
            freeze(&place.0, crate::Version::V2, std::time::Duration::from_secs(10)).unwrap();
            kill_knowing(&place.0, has_kill).unwrap();
            for child in &mut children {
                child.wait().unwrap();
            }
            assert!(place.is_empty_soon());
            assert_eq!(interface::read(&place.0.join(FREEZE)).unwrap(), "0");
            thaw(&inner).unwrap();
        }
    }
}
