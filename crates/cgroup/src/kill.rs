//! Killing everything in a cgroup.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use holdfast_sys::process::PidFd;
use nix::errno::Errno;

use crate::{Version, v1, v2};

/// Kills every process in `dir` and in the cgroups below it, frozen ones too. Returns once each has got SIGKILL, which is before the
/// last of them is gone; then `dir` is frozen no longer. A cgroup that is not there, or is empty, is fine.
pub fn kill(dir: &Path, version: Version) -> io::Result<()> {
    match version {
        Version::V1 => v1::freezer::kill(dir),
        Version::V2 => v2::lifecycle::kill(dir),
    }
    .map_err(|e| io::Error::new(e.kind(), format!("cannot kill cgroup {}: {e}", dir.display())))
}

/// Signalling one process after the other, for kernels that cannot kill a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    sent: BTreeSet<i32>,
    count: u32,
    /// Rounds at the end in which nobody new was found.
    quiet: u32,
}

impl Rounds {
    /// One round; how many processes had not been signalled before.
    pub(crate) fn signal(&mut self, dir: &Path) -> io::Result<usize> {
        signal_all(dir, &mut self.sent)
    }

    /// False: there must be another round, and now is the time, after a pause. One is enough if everything stood still. Else a fork that was
    /// under way when its parent was signalled may show only later, on a busy machine much later, so that nobody must have been found
    /// new several times, with growing pauses.
    pub(crate) fn are_done(&mut self, stood_still: bool, signalled: usize) -> io::Result<bool> {
        const ROUNDS: u32 = 100;
        const QUIET_ROUNDS: u32 = 6;
        const PAUSE: Duration = Duration::from_millis(2);
        self.count += 1;
        self.quiet = if signalled == 0 { self.quiet + 1 } else { 0 };
        if stood_still || self.quiet == QUIET_ROUNDS {
            return Ok(true);
        }
        if self.count == ROUNDS {
            let reason = "processes go on appearing in it";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        thread::sleep(PAUSE * (1 << self.quiet));
        Ok(false)
    }
}

/// Sends SIGKILL to every process in `dir` and below it that is not in `sent` yet, and puts it there; how many there were. The
/// calling process is spared.
///
/// A pid that is read from a file may be reused before it is opened. So all are opened first, and only those that are in
/// the cgroup still are signalled: whoever a pidfd refers to was alive when it was opened, hence is listed afterwards, has ended,
/// or was never in the cgroup.
fn signal_all(dir: &Path, sent: &mut BTreeSet<i32>) -> io::Result<usize> {
    const SIGKILL: i32 = 9;
    // Far below any limit of open files.
    const AT_ONCE: usize = 128;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let before = sent.len();
    let listed: Vec<i32> = crate::pids(dir)?
        .into_iter()
        .filter(|pid| *pid != own && !sent.contains(pid))
        .collect();
    for pids in listed.chunks(AT_ONCE) {
        let mut opened = Vec::with_capacity(pids.len());
        for pid in pids {
            match PidFd::open(*pid) {
                Ok(pidfd) => opened.push((*pid, pidfd)),
                Err(e) if has_ended(&e) => {}
                Err(e) => return Err(e),
            }
        }
        let still = crate::pids(dir)?;
        for (pid, pidfd) in opened {
            if still.binary_search(&pid).is_err() {
                continue;
            }
            match pidfd.send_signal(SIGKILL) {
                Ok(()) => {
                    sent.insert(pid);
                }
                Err(e) if has_ended(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(sent.len() - before)
}

/// ESRCH: reaped. EINVAL, and ENOENT since 6.15: the number is a thread's by now.
fn has_ended(error: &io::Error) -> bool {
    [Errno::ESRCH, Errno::EINVAL, Errno::ENOENT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}
