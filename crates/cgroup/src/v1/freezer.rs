//! The freezer controller (cgroup-v1, freezer-subsystem.rst).

use std::io;
use std::path::{Path, PathBuf};

use crate::freeze::{FREEZE_BEFORE_KILL, until_frozen};
use crate::interface;
use crate::kill::Rounds;
use crate::members::children;

const STATE: &str = "freezer.state";

/// Begins; a process that waits for something that cannot be interrupted is frozen only afterwards. See [`press`].
pub(crate) fn begin_freeze(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(STATE), "FROZEN")
}

pub(crate) fn thaw(dir: &Path) -> io::Result<()> {
    interface::write(&dir.join(STATE), "THAWED")
}

/// True once every process is; reading it makes the kernel look.
pub(crate) fn is_frozen(dir: &Path) -> io::Result<bool> {
    interface::read(&dir.join(STATE)).map(|state| state == "FROZEN")
}

/// True once every process is; until then those that are not are asked again. Seen on 6.18: one that waits in vfork for a child
/// which was frozen first is not counted as frozen, for as long as one waits; it is as soon as the state is written again.
pub(crate) fn press(dir: &Path) -> io::Result<bool> {
    if is_frozen(dir)? {
        return Ok(true);
    }
    begin_freeze(dir)?;
    is_frozen(dir)
}

/// v1 has no call that kills a cgroup. While everything is frozen nothing can fork, so one round gets all; the signals take
/// effect when it is thawed. A process that cannot be frozen at the moment (it waits for a disk, or for its vfork child) is given
/// a short time and then signalled all the same, and whatever was forked meanwhile in another round.
pub(crate) fn kill(dir: &Path) -> io::Result<()> {
    let mut rounds = Rounds::default();
    loop {
        let is_complete = match begin_freeze(dir) {
            Ok(()) => until_frozen(FREEZE_BEFORE_KILL, || press(dir))?,
            // Without a freezer there are only rounds.
            Err(e) if interface::is_absence(&e) => false,
            Err(e) => return Err(e),
        };
        let signalled = rounds.signal(dir);
        // Whatever went wrong: nothing stays frozen, or what was signalled would never die.
        thaw_tree(dir)?;
        if rounds.are_done(is_complete, signalled?)? {
            return Ok(());
        }
    }
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
