//! Waiting for descriptors in the async runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An owned descriptor registered with the runtime: what makes registration sound is that nobody else can close it.
#[derive(Debug)]
pub struct Registered(AsyncFd<Held>);

#[derive(Debug)]
struct Held(OwnedFd);

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Registered {
    /// Registers; the descriptor should be non-blocking if it is to be read or written.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: `Held` owns the descriptor, keeps its number for as long as it lives, and is dropped after deregistration.
        unsafe { AsyncFd::register_with_interest(Held(fd), interest) }
            .map(Self)
            .map_err(Into::into)
    }

    /// Returns when it can be read, or has been closed at the other end; a pidfd: when the process has ended.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Returns when there is an exceptional condition (POLLPRI of poll(2)), as a file of a cgroup has once its content has changed.
    /// Each change is told once, whether or not it was looked at; it must have been registered with [`Interest::PRIORITY`].
    pub async fn priority(&self) -> io::Result<()> {
        self.0
            .ready(Interest::PRIORITY)
            .await
            .map(|mut guard| guard.clear_ready())
    }

    /// Returns when it has become readable since the last call; the first returns at once if it is. For a descriptor that somebody
    /// else reads.
    pub async fn readable_anew(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.clear_ready())
    }

    /// Reads once there is something (read(2)).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Some(answer) = attempt(&mut guard, |fd| read(fd, buffer)) {
                return answer;
            }
        }
    }

    /// Writes as much as goes in once something does (write(2)).
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.writable().await?;
            if let Some(answer) = attempt(&mut guard, |fd| write(fd, bytes)) {
                return answer;
            }
        }
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }
}

fn attempt<T>(
    guard: &mut AsyncFdReadyGuard<'_, Held>,
    call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> Option<io::Result<T>> {
    guard.try_io(|held| call(held.get_ref().0.as_fd())).ok()
}

/// read(2).
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let answer = unsafe { libc::read(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer.unsigned_abs())
    }
}

/// write(2).
pub fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes are readable for their length.
    let answer = unsafe { libc::write(fd.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer.unsigned_abs())
    }
}

/// Sets or clears O_NONBLOCK (fcntl(2)).
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> io::Result<()> {
    let number = fd.as_fd().as_raw_fd();
    // SAFETY: a descriptor that the caller holds.
    let flags = crate::checked(unsafe { libc::fcntl(number, libc::F_GETFL) })?;
    let flags = if nonblocking {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: as above.
    crate::checked(unsafe { libc::fcntl(number, libc::F_SETFL, flags) }).map(drop)
}
