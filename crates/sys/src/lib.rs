//! The only crate, with the init, that has `unsafe`: one function per system call with its manual page, and
//! [`spawn`], which runs plain steps in a child. No policy.

#[cfg(feature = "attempts")]
pub mod attempt;
pub mod bpf;
pub mod clock;
pub mod file;
pub mod landlock;
pub mod limit;
pub mod network;
pub mod point;
pub mod probe;
pub mod process;
pub mod readiness;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod terminal;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The answer of a libc function that says -1 and sets errno.
fn checked(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// As [`checked`], for a call that opened a descriptor.
fn opened(answer: libc::c_int) -> io::Result<OwnedFd> {
    let fd = checked(answer)?;
    // SAFETY: the call has just opened it, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
