//! Processes by pidfd: what makes a pid trustworthy.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::{checked, opened};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// exit(2) with this status, 0 to 255.
    Exited(i32),
    /// Ended by this signal.
    Signalled(i32),
}

/// A process by descriptor (pidfd_open(2)): never a stranger on a reused pid.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

const INFO_PID: u32 = 1 << 0;
const INFO_EXIT: u32 = 1 << 3;
const INFO_SIZE: usize = 64;

impl PidFd {
    /// pidfd_open(2). ESRCH: there is no such process.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: plain numbers.
        opened(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int).map(Self)
    }

    /// Takes a descriptor that is known to be a pidfd.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another descriptor of the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// pidfd_send_signal(2). ESRCH: it has been reaped.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: no siginfo is given, which makes it as kill(2).
        checked(unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                0,
            )
        } as libc::c_int)
        .map(drop)
    }

    /// To the process group that this process leads: pidfd_send_signal(2) with PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9). Before,
    /// kill(2) by number while the process is not reaped, which keeps the number its own. ESRCH: nobody is in the group.
    pub fn send_signal_to_group(&self, signal: i32) -> io::Result<()> {
        const PROCESS_GROUP: libc::c_uint = 1 << 2;
        // SAFETY: no siginfo is given, which makes it as kill(2).
        let sent = checked(unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                PROCESS_GROUP,
            )
        } as libc::c_int);
        match sent {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => match self.pid()? {
                Some(pid) => kill(-pid, signal),
                None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            },
            sent => sent.map(drop),
        }
    }

    /// The inode of the descriptor: unique for each process since Linux 6.9, the same for all before.
    pub fn inode(&self) -> io::Result<u64> {
        // SAFETY: zeros are a valid stat, and there is room for one.
        let mut stat: libc::stat = unsafe { zeroed() };
        // SAFETY: as above.
        checked(unsafe { libc::fstat(self.0.as_raw_fd(), &raw mut stat) })?;
        Ok(stat.st_ino)
    }

    /// The process id; `None` once it has been reaped, or outside this process's PID namespace (ioctl PIDFD_GET_INFO,
    /// else proc(5), fdinfo).
    pub fn pid(&self) -> io::Result<Option<i32>> {
        match self.info(INFO_PID) {
            Ok(info) => return Ok(Some(info[4].cast_signed())),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            // Before Linux 6.13.
            Err(_) => {}
        }
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
        Ok(pid.filter(|pid| *pid > 0))
    }

    /// Whether it has ended, reaped or not: its pidfd is readable then.
    pub fn has_exited(&self) -> io::Result<bool> {
        let mut entry = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, no waiting.
        checked(unsafe { libc::poll(&raw mut entry, 1, 0) }).map(|ready| ready > 0)
    }

    /// How a process ended that may be somebody else's child and may have been reaped (ioctl PIDFD_GET_INFO with
    /// PIDFD_INFO_EXIT, Linux 6.15). `None`: still alive, or the kernel cannot tell.
    pub fn exit_status(&self) -> io::Result<Option<ExitStatus>> {
        match self.info(INFO_EXIT) {
            Ok(info) if info[0] & INFO_EXIT == 0 => Ok(None),
            Ok(info) => Ok(Some(of_wait_status(info[15].cast_signed()))),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH) => Ok(None),
                _ => Err(e),
            },
        }
    }

    /// ioctl PIDFD_GET_INFO (include/uapi/linux/pidfd.h): mask and cgroup id, 64 bits each, then ids of 32 bits, the pid first, and the
    /// exit code as the last.
    fn info(&self, wanted: u32) -> io::Result<[u32; INFO_SIZE / 4]> {
        const REQUEST: libc::c_ulong = (3 << 30) | ((INFO_SIZE as libc::c_ulong) << 16) | (0xff << 8) | 11;
        let mut info = [0; INFO_SIZE / 4];
        info[0] = wanted;
        // SAFETY: room for the structure of the size that the request names.
        checked(unsafe { libc::ioctl(self.0.as_raw_fd(), REQUEST as _, info.as_mut_ptr()) })?;
        Ok(info)
    }

    /// Reaps an own child if it has ended (waitid(2), P_PIDFD). `None`: it lives. ECHILD: it is not ours.
    pub fn wait(&self) -> io::Result<Option<ExitStatus>> {
        wait(libc::P_PIDFD, self.0.as_raw_fd().unsigned_abs(), 0).map(|child| child.map(|child| child.status))
    }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedChild {
    /// Its process id, still taken if it was only looked at.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
}

/// Looks at any child that has ended, without reaping it (waitid(2), P_ALL, WNOWAIT). `None`: all live. ECHILD: there is none.
pub fn peek_any_child() -> io::Result<Option<EndedChild>> {
    wait(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Reaps the child of this pid (waitid(2), P_PID).
pub fn reap(pid: i32) -> io::Result<Option<EndedChild>> {
    wait(libc::P_PID, pid.unsigned_abs(), 0)
}

fn wait(kind: libc::idtype_t, id: u32, flags: i32) -> io::Result<Option<EndedChild>> {
    // SAFETY: zeros are a valid siginfo, and there is room for one.
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    loop {
        // SAFETY: as above.
        match checked(unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) }) {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // SAFETY: waitid filled the fields of a child, or left zeros when none had ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = if info.si_code == libc::CLD_EXITED {
        ExitStatus::Exited(status)
    } else {
        ExitStatus::Signalled(status)
    };
    Ok(Some(EndedChild { pid, status }))
}

fn of_wait_status(status: i32) -> ExitStatus {
    let signal = status & 0x7f;
    if signal == 0 {
        ExitStatus::Exited((status >> 8) & 0xff)
    } else {
        ExitStatus::Signalled(signal)
    }
}

/// kill(2). For pids that cannot have been reused, such as own children that were not reaped.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Orphans among the descendants become this process's children (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn set_child_subreaper() -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// setsid(2).
pub fn new_session() -> io::Result<()> {
    // SAFETY: takes nothing.
    checked(unsafe { libc::setsid() }).map(drop)
}

/// Ignores a signal from now on (signal(2)); a program that is executed inherits that unless its steps say otherwise.
pub fn ignore_signal(signal: i32) {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// The nice value of this thread (getpriority(2)), and so of what it clones.
pub fn nice() -> io::Result<i32> {
    // The system call itself answers with 20 less the value, so that an answer below zero is an error.
    // SAFETY: plain numbers.
    checked(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) } as libc::c_int)
        .map(|answer| 20 - answer)
}

/// setpriority(2) for this thread. EACCES, EPERM: it may not be lowered so far.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) } as libc::c_int).map(drop)
}

/// geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Takes over descriptors that the parent left for this program, such as `--ready-fd 3`. Fails for one that is not open; sets
/// close-on-exec.
pub fn inherited_descriptor(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: any number may be asked; one that is open was left to this program by its parent and has no other owner here.
    checked(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    opened(number)
}

const _: () = assert!(size_of::<libc::pid_t>() == 4);
