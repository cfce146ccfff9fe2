//! What makes a pid trustworthy.

use std::io;
use std::sync::OnceLock;

use holdfast_sys::file::read_virtual;
use holdfast_sys::process::PidFd;
use nix::errno::Errno;
use nix::sys::statfs::{FsType, fstatfs};
use procfs::process::Stat;
use procfs::{FromRead, ProcResult};
use serde::{Deserialize, Serialize};

/// Which process is meant, valid within one boot. A pid alone can be reused (contract, pain 4); the start ticks and, where the
/// kernel has them, the unique inode of the pidfd tell a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// As seen from the PID namespace of the reader of the record.
    pub pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_ticks: u64,
    /// Inode of the process's pidfd; absent where the kernel (before 6.9) gives all of them the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfd_inode: Option<u64>,
}

/// File system type of pidfds since Linux 6.9 (`PID_FS_MAGIC` of linux/magic.h).
const PIDFS_MAGIC: FsType = FsType(0x5049_4446);

impl ProcessIdentity {
    /// The identity of the process that `pidfd` refers to. An error of kind `NotFound` if it has been reaped.
    pub fn of(pidfd: &PidFd) -> io::Result<ProcessIdentity> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has been reaped");
        let pid = pidfd.pid()?.ok_or_else(gone)?;
        let start_ticks = start_ticks(pid)?;
        // Only if the process still is there, the pid was its own while the file was read.
        if pidfd.pid()? != Some(pid) {
            return Err(gone());
        }
        Ok(ProcessIdentity {
            pid,
            start_ticks,
            pidfd_inode: unique_inode(pidfd)?,
        })
    }

    /// The identity of the calling process.
    pub fn of_self() -> io::Result<ProcessIdentity> {
        static OWN: OnceLock<ProcessIdentity> = OnceLock::new();
        if let Some(own) = OWN.get() {
            return Ok(*own);
        }
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let own = ProcessIdentity::of(&PidFd::open(pid)?)?;
        Ok(*OWN.get_or_init(|| own))
    }

    /// Opens the process. `None`: it is gone, or its pid belongs to a stranger now. A process that has ended and has not
    /// been reaped is still opened.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        if self.pid <= 0 {
            return Ok(None);
        }
        let pidfd = match PidFd::open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(e) if is_absence(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        match ProcessIdentity::of(&pidfd) {
            Ok(found) if self.is_same(&found) => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// True if both mean one process. An inode that only one of them has is no evidence: the other may have been written
    /// by a program or kernel that does not know it.
    pub fn is_same(&self, other: &ProcessIdentity) -> bool {
        let inodes_agree = match (self.pidfd_inode, other.pidfd_inode) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.pid == other.pid && self.start_ticks == other.start_ticks && inodes_agree
    }
}

/// ESRCH: no such process, or it was reaped while its stat was read. EINVAL (ENOENT since 6.15): the number belongs to a
/// thread that leads no process, so certainly not to the one that is meant.
fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::ESRCH as i32)
        || error.raw_os_error() == Some(Errno::EINVAL as i32)
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    // Read first: an error of the kernel's keeps its number, which tells a process that is gone.
    let stat = read_virtual(path.as_ref())?;
    parse_start_ticks(&stat)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{path} tells no start time: {e}")))
}

/// Field 22 of a `/proc/PID/stat` line.
fn parse_start_ticks(stat: &[u8]) -> ProcResult<u64> {
    Stat::from_read(stat).map(|stat| stat.starttime)
}

fn unique_inode(pidfd: &PidFd) -> io::Result<Option<u64>> {
    if fstatfs(pidfd)?.filesystem_type() != PIDFS_MAGIC {
        return Ok(None);
    }
    Ok(Some(pidfd.inode()?).filter(|inode| *inode != 0))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn field_22_is_found_whatever_the_program_is_called() {
        let fields =
            "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35";
        for name in ["sh", "a b", "x) S 9 9", "(((", "\u{e9}"] {
            let line = format!("77 ({name}) {fields}\n");
            assert_eq!(parse_start_ticks(line.as_bytes()).unwrap(), 4242, "{name}");
        }
        for line in [&b"77 (\xff\xfe) S 1 2"[..], b"", b"77 (sh"] {
            parse_start_ticks(line).unwrap_err();
        }
    }

    #[test]
    fn a_living_process_is_opened_by_its_identity() {
        let identity = ProcessIdentity::of_self().unwrap();
        assert_eq!(identity.pid, i32::try_from(std::process::id()).unwrap());
        let pidfd = identity.open().unwrap().expect("this process lives");
        assert_eq!(ProcessIdentity::of(&pidfd).unwrap(), identity);
    }

    #[test]
    fn a_stranger_on_a_reused_pid_is_not_opened() {
        let identity = ProcessIdentity::of_self().unwrap();
        let other_start = ProcessIdentity {
            start_ticks: identity.start_ticks + 1,
            ..identity
        };
        assert!(other_start.open().unwrap().is_none());
        if let Some(inode) = identity.pidfd_inode {
            let other_inode = ProcessIdentity {
                pidfd_inode: Some(inode + 1),
                ..identity
            };
            assert!(other_inode.open().unwrap().is_none());
        }
        let without_inode = ProcessIdentity {
            pidfd_inode: None,
            ..identity
        };
        assert!(
            without_inode.open().unwrap().is_some(),
            "a record of an older kernel is still good"
        );
    }

    #[test]
    fn an_ended_process_is_gone_once_it_is_reaped_and_not_before() {
        let mut child = Command::new("true").spawn().unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        let identity = ProcessIdentity::of(&pidfd).unwrap();
        assert!(identity.open().unwrap().is_some());
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
        assert_eq!(ProcessIdentity::of(&pidfd).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn pids_that_mean_groups_or_everyone_are_never_opened() {
        for pid in [0, -1, i32::MIN] {
            assert!(
                ProcessIdentity {
                    pid,
                    start_ticks: 0,
                    pidfd_inode: None
                }
                .open()
                .unwrap()
                .is_none()
            );
        }
        assert!(
            ProcessIdentity {
                pid: i32::MAX,
                start_ticks: 0,
                pidfd_inode: None
            }
            .open()
            .unwrap()
            .is_none()
        );
    }
}
