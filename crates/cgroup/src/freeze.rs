//! Freezing and thawing everything in a cgroup.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Version, interface, v1, v2};

/// How long a freeze is waited for where everything is to be killed and only forks are to be kept away.
pub(crate) const FREEZE_BEFORE_KILL: Duration = Duration::from_millis(20);

/// Stops every process in `dir` and in the cgroups below it from running until [`thaw`], and waits until each has stopped. An
/// error of kind `TimedOut`: one does not within `bound`, since it waits for a disk, say; then none is stopped.
pub fn freeze(dir: &Path, version: Version, bound: Duration) -> io::Result<()> {
    begin_freeze(dir, version)?;
    let outcome = match until_frozen(bound, || pressed(dir, version)) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let reason = "not every process could be stopped in time; all run on";
            thawed(dir, version).and(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
        }
        Err(e) => Err(e),
    };
    outcome.map_err(|e| cannot_freeze(dir, &e))
}

/// The same without waiting: [`press_freeze`] brings it to its end.
pub fn begin_freeze(dir: &Path, version: Version) -> io::Result<()> {
    match version {
        Version::V1 => v1::freezer::begin_freeze(dir),
        Version::V2 => v2::lifecycle::begin_freeze(dir),
    }
    .map_err(|e| cannot_freeze(dir, &e))
}

/// True if a freeze that has begun is complete. One that is not may need this call to become so (see [`v1::freezer::press`]), and
/// nothing tells when it is: it is to be called now and then.
pub fn press_freeze(dir: &Path, version: Version) -> io::Result<bool> {
    pressed(dir, version).map_err(|e| cannot_freeze(dir, &e))
}

fn cannot_freeze(dir: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot freeze cgroup {}: {e}", dir.display()))
}

/// Lets every process in `dir` run again, except in a cgroup below it that was frozen by itself.
pub fn thaw(dir: &Path, version: Version) -> io::Result<()> {
    thawed(dir, version).map_err(|e| io::Error::new(e.kind(), format!("cannot thaw cgroup {}: {e}", dir.display())))
}

/// True if every process in `dir` is frozen, be it by a freeze of a cgroup above it. A cgroup that is not there is not frozen.
pub fn is_frozen(dir: &Path, version: Version) -> io::Result<bool> {
    frozen(dir, version).map_err(|e| {
        let reason = format!("cannot read whether cgroup {} is frozen: {e}", dir.display());
        io::Error::new(e.kind(), reason)
    })
}

fn frozen(dir: &Path, version: Version) -> io::Result<bool> {
    absent_is_not(match version {
        Version::V1 => v1::freezer::is_frozen(dir),
        Version::V2 => v2::lifecycle::is_frozen(dir),
    })
}

fn pressed(dir: &Path, version: Version) -> io::Result<bool> {
    absent_is_not(match version {
        Version::V1 => v1::freezer::press(dir),
        Version::V2 => v2::lifecycle::is_frozen(dir),
    })
}

fn absent_is_not(answer: io::Result<bool>) -> io::Result<bool> {
    match answer {
        Err(e) if interface::is_absence(&e) => Ok(false),
        answer => answer,
    }
}

fn thawed(dir: &Path, version: Version) -> io::Result<()> {
    match version {
        Version::V1 => v1::freezer::thaw(dir),
        Version::V2 => v2::lifecycle::thaw(dir),
    }
}

/// False if it takes longer than `bound`.
pub(crate) fn until_frozen(bound: Duration, is_frozen: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
    const LONGEST_PAUSE: Duration = Duration::from_millis(8);
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match is_frozen() {
            Ok(true) => return Ok(true),
            Ok(false) if begin.elapsed() < bound => thread::sleep(pause),
            Ok(false) => return Ok(false),
            Err(e) if interface::is_absence(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
