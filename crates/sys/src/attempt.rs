//! System calls by which a task may try to get out, for the tests that try them; in no product. What does harm if it succeeds is called
//! with arguments that cannot mean anything, so that the answer tells only whether the caller may.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null;

fn answer(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// KEY_SPEC_SESSION_KEYRING (linux/keyctl.h).
const SESSION_KEYRING: libc::c_long = -3;
const KEYCTL_UNLINK: libc::c_long = 9;

/// add_key(2): a key of type "user" in the session keyring; its serial number.
pub fn add_key(description: &CStr, content: &[u8]) -> io::Result<i64> {
    // SAFETY: the texts end, and the content is as long as it says.
    answer(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            content.as_ptr(),
            content.len(),
            SESSION_KEYRING,
        )
    })
}

/// keyctl(2), KEYCTL_UNLINK: takes a key out of the session keyring.
pub fn unlink_key(serial: i64) -> io::Result<()> {
    // SAFETY: numbers only.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_UNLINK, serial, SESSION_KEYRING) }).map(drop)
}

/// request_key(2): the serial number of a key of type "user".
pub fn request_key(description: &CStr) -> io::Result<i64> {
    // SAFETY: the texts end; without a call-out nothing else is read.
    answer(unsafe {
        libc::syscall(
            libc::SYS_request_key,
            c"user".as_ptr(),
            description.as_ptr(),
            null::<libc::c_char>(),
            0,
        )
    })
}

/// keyctl(2) to make a session keyring, KEYCTL_JOIN_SESSION_KEYRING.
pub fn join_session_keyring() -> io::Result<i64> {
    // SAFETY: without a name nothing is read.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, 1, null::<libc::c_char>()) })
}

/// bpf(2), BPF_MAP_CREATE without attributes.
pub fn bpf() -> io::Result<i64> {
    // SAFETY: nothing is read by size 0.
    answer(unsafe { libc::syscall(libc::SYS_bpf, 0, null::<u8>(), 0) })
}

/// perf_event_open(2): the clock of CPU 0 whoever runs on it, the kernel included.
pub fn watch_cpu() -> io::Result<i64> {
    // perf_event_attr of version 0 (linux/perf_event.h), 64 bytes: type PERF_TYPE_SOFTWARE, size, config PERF_COUNT_SW_CPU_CLOCK.
    let attributes: [u32; 16] = {
        let mut words = [0; 16];
        words[0] = 1;
        words[1] = 64;
        words
    };
    // SAFETY: the attributes are as long as they say.
    let fd = answer(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, 0, -1, 0) })?;
    // SAFETY: the call has just opened it.
    unsafe { libc::close(fd as i32) };
    Ok(fd)
}

/// kexec_load(2) with more segments than there may be.
pub fn kexec() -> io::Result<i64> {
    // SAFETY: the number of segments is refused before they are read.
    answer(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 1_000_000, null::<u8>(), 0) })
}

/// swapon(2) of no file.
pub fn swap_on() -> io::Result<i64> {
    // SAFETY: a null path is an error.
    answer(unsafe { libc::syscall(libc::SYS_swapon, null::<libc::c_char>(), 0) })
}

/// iopl(2): every port of the machine.
pub fn ports() -> io::Result<i64> {
    // SAFETY: numbers only; nothing here uses a port.
    answer(unsafe { libc::syscall(libc::SYS_iopl, 3) })
}

/// userfaultfd(2), also for faults of the kernel.
pub fn user_faults() -> io::Result<i64> {
    // SAFETY: numbers only; the descriptor ends with the process.
    answer(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })
}

/// io_uring_setup(2) with room for one entry.
pub fn ring() -> io::Result<i64> {
    // io_uring_params (linux/io_uring.h).
    let mut parameters = [0u64; 15];
    // SAFETY: the kernel writes at most the 120 bytes of its structure; the descriptor ends with the process.
    answer(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

/// open_by_handle_at(2) of an inode of the file system that a descriptor is on, by its number, as ext4 and its like make handles: the
/// root directory is number 2.
pub fn open_inode(mount: BorrowedFd<'_>, inode: u32) -> io::Result<OwnedFd> {
    // struct file_handle: bytes of the handle, FILEID_INO32_GEN, inode, any generation.
    let mut handle: [u32; 4] = [8, 1, inode, 0];
    // SAFETY: the handle is as long as it says.
    let fd = answer(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            handle.as_mut_ptr(),
            libc::O_RDONLY,
        )
    })?;
    crate::opened(fd as i32)
}

/// ioctl_tty(2), TIOCSTI: a line break as if it had been typed.
pub fn type_into(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: one byte is read.
    answer(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, c"\n".as_ptr())
    }))
    .map(drop)
}

/// capset(2): asks for every capability there is.
pub fn all_capabilities() -> io::Result<()> {
    // Header of version 3 for the caller, then effective, permitted and inheritable twice (linux/capability.h).
    let mut header: [u32; 2] = [0x2008_0522, 0];
    let data: [u32; 6] = [!0, !0, 0, !0, !0, 0];
    // SAFETY: both are of the sizes that version 3 has.
    answer(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()) }).map(drop)
}
