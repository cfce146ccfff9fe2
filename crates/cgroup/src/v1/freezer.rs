//! The freezer controller (cgroup-v1, freezer-subsystem.rst).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::interface;
use crate::kill::signal_all;
use crate::members::children;

const STATE: &str = "freezer.state";

pub(crate) fn freeze(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(STATE), "FROZEN")
}

pub(crate) fn thaw(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(STATE), "THAWED")
}

/// v1 has no call that kills a cgroup. While everything is frozen nothing can fork, so one round gets all; the signals take
/// effect when it is thawed. A process that cannot be frozen at the moment (it waits for a disk, or for its vfork child) is given
/// a short time and then signalled all the same, and whatever was forked meanwhile in another round.
pub(crate) fn kill(dir: &Path) -> io::Result<()> {
    const ROUNDS: u32 = 50;
    let mut sent = BTreeSet::new();
    for _ in 0..ROUNDS {
        let is_frozen = match freeze(dir) {
            Ok(()) => wait_until_frozen(dir)?,
            // Without a freezer there are only rounds.
            Err(e) if interface::is_absence(&e) => false,
            Err(e) => return Err(e),
        };
        let signalled = signal_all(dir, &mut sent);
        // Whatever went wrong: nothing stays frozen, or what was signalled would never die.
        thaw_tree(dir)?;
        if is_frozen || signalled? == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "processes go on appearing in it",
    ))
}

/// False if it takes too long; the caller goes on without.
fn wait_until_frozen(dir: &Path) -> io::Result<bool> {
    for _ in 0..20 {
        match interface::read(&dir.join(STATE)) {
            Ok(state) if state == "FROZEN" => return Ok(true),
            Ok(_) => thread::sleep(Duration::from_millis(1)),
            Err(e) if interface::is_absence(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// A child may have been frozen by itself and would stay so.
fn thaw_tree(dir: &Path) -> io::Result<()> {
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    let mut first_failure = None;
    while let Some(dir) = pending.pop() {
        match thaw(&dir) {
            Ok(()) => {}
            Err(e) if interface::is_absence(&e) => {}
            Err(e) => first_failure = first_failure.or(Some(e)),
        }
        pending.extend(children(&dir)?);
    }
    first_failure.map_or(Ok(()), Err)
}
