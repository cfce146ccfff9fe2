//! Freezing and killing (cgroup-v2, "Core Interface Files").

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::interface;
use crate::kill::signal_all;

pub(crate) fn freeze(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join("cgroup.freeze"), "1")
}

pub(crate) fn thaw(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join("cgroup.freeze"), "0")
}

/// The kernel kills the whole subtree, forks under way and frozen processes included.
pub(crate) fn kill(dir: &Path) -> io::Result<()> {
    match interface::write(&dir.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        // Either the cgroup is gone, or the kernel is older than 5.14.
        Err(e) if interface::is_absence(&e) => kill_one_by_one(dir),
        Err(e) => Err(e),
    }
}

/// Frozen processes die of SIGKILL on v2, so that forks can be kept away by freezing; it is not waited for, hence the rounds.
fn kill_one_by_one(dir: &Path) -> io::Result<()> {
    const ROUNDS: u32 = 50;
    let is_frozen = freeze(dir).is_ok();
    let mut sent = BTreeSet::new();
    let mut outcome = Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "processes go on appearing in it",
    ));
    for _ in 0..ROUNDS {
        match signal_all(dir, &mut sent) {
            Ok(0) => {
                outcome = Ok(());
                break;
            }
            Ok(_) => thread::sleep(Duration::from_millis(2)),
            Err(e) => {
                outcome = Err(e);
                break;
            }
        }
    }
    if is_frozen {
        // Another task may use the same cgroup later (contract, S-8).
        match thaw(dir) {
            Err(e) if !interface::is_absence(&e) => return outcome.and(Err(e)),
            _ => {}
        }
    }
    outcome
}
