//! The plugin's process, known by a pidfd: signals cannot reach a stranger who got its number.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::watch;

/// How a plugin ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was our child, and this is its status.
    Status(ExitStatus),
    /// It was not our child: that it is gone is all that can be known.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => status.fmt(f),
            Exit::Unknown => f.write_str("gone, status unknown"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Watches a child that nobody has waited for yet, and reaps it even if this is dropped.
    pub(super) fn of_child(mut child: Child) -> io::Result<Process> {
        let pid = child.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let pidfd = match open_pidfd(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.start_kill();
                return Err(error);
            }
        };
        let (sender, exit) = watch::channel(None);
        tokio::spawn(async move {
            let ended = child.wait().await.map_or(Exit::Unknown, Exit::Status);
            sender.send_replace(Some(ended));
        });
        Ok(Process { pid, pidfd, exit })
    }

    /// Watches a process that is not a child, or not known to be one.
    pub(super) fn of_stranger(pid: u32) -> io::Result<Process> {
        let pidfd = open_pidfd(pid)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an `OwnedFd` keeps what that asks of its caller"
        )]
        let watched = AsyncFd::with_interest(pidfd.try_clone()?, Interest::READABLE)?;
        let (sender, exit) = watch::channel(None);
        tokio::spawn(async move {
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            tokio::select! {
                _ = watched.readable() => { sender.send_replace(Some(Exit::Unknown)); }
                () = sender.closed() => {}
            }
        });
        Ok(Process { pid, pidfd, exit })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn has_exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    pub(super) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or(Exit::Unknown),
            // The watcher fell with its runtime.
            Err(_) => Exit::Unknown,
        }
    }

    /// SIGKILL; a process that is gone already is no error.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not a process number");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
