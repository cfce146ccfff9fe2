//! Pseudo-terminals (pty(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{checked, opened};

/// A new pseudo-terminal: the master, and the terminal for the session.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: plain flags.
    let master = opened(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) })?;
    let terminal = other_end(&master)?;
    Ok((master, terminal))
}

/// The terminal behind a master, unlocked: also of an instance of devpts that is not this process's.
pub fn other_end(master: &OwnedFd) -> io::Result<OwnedFd> {
    let number = master.as_raw_fd();
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads an int.
    checked(unsafe { libc::ioctl(number, libc::TIOCSPTLCK, &raw const unlock) })?;
    // SAFETY: the request (ioctl_tty(2), Linux 4.13) takes open flags and opens the other end without its path.
    opened(unsafe {
        libc::ioctl(
            number,
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )
    })
}

/// Sets the size; the foreground process group hears SIGWINCH (ioctl_tty(2), TIOCSWINSZ).
pub fn resize(master: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads a winsize.
    checked(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}
