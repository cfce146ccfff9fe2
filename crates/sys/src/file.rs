//! Files: locks, FIFOs, opening beneath a folder.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{checked, opened};

/// Takes an exclusive lock if nobody holds one (flock(2)); it goes with the last copy of the descriptor.
pub fn try_lock_exclusive(fd: impl AsFd) -> io::Result<bool> {
    // SAFETY: a descriptor that the caller holds.
    match checked(unsafe { libc::flock(fd.as_fd().as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes a FIFO in a folder (mkfifoat(3)); the mode is subject to the umask.
pub fn mkfifo_at(dir: impl AsFd, name: &str, mode: u32) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: a descriptor that the caller holds and a string that ends in zero.
    checked(unsafe { libc::mkfifoat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Opens a path that must lie beneath a folder, following no link (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
/// Always close-on-exec.
pub fn open_beneath(dir: impl AsFd, path: &Path, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: zeros are a valid open_how.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = if flags & libc::O_CREAT == 0 { 0 } else { u64::from(mode) };
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    // SAFETY: the structure and the path are readable and of the size that is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    opened(answer as libc::c_int)
}

/// Reads a file of the kernel's (proc(5), cgroups(7)), whose size is not known before: mostly in one read(2) and one that finds the
/// end, where growing a small buffer takes four more.
pub fn read_virtual(path: &Path) -> io::Result<Vec<u8>> {
    const LEAST: usize = 4096;
    let mut file = File::open(path)?;
    let mut content = vec![0; LEAST];
    let mut filled = 0;
    loop {
        match file.read(&mut content[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if filled == content.len() {
            content.resize(2 * filled, 0);
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// [`read_virtual`] of a text.
pub fn read_virtual_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_virtual(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Asks the file system to spread what is in the folders below this one over the disk (ioctl_iflags(2), FS_TOPDIR_FL), as they have
/// nothing to do with each other. An error where it knows no such wish; ext2 to ext4 do.
pub fn spread_folders_below(dir: impl AsFd) -> io::Result<()> {
    const TOPDIR: libc::c_int = 0x0002_0000;
    let dir = dir.as_fd().as_raw_fd();
    let mut flags: libc::c_int = 0;
    // SAFETY: a descriptor that the caller holds, and room for the flags, which are an int whatever the request's name says.
    checked(unsafe { libc::ioctl(dir, libc::FS_IOC_GETFLAGS as _, &raw mut flags) })?;
    flags |= TOPDIR;
    // SAFETY: as above.
    checked(unsafe { libc::ioctl(dir, libc::FS_IOC_SETFLAGS as _, &raw const flags) }).map(drop)
}

/// Opens relative to a folder (openat(2)). Always close-on-exec.
pub fn open_at(dir: impl AsFd, name: &str, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: a descriptor that the caller holds and a string that ends in zero.
    opened(unsafe { libc::openat(dir.as_fd().as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// Changes the owner of an open file (fchown(2)).
pub fn change_owner(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: a descriptor that the caller holds.
    checked(unsafe { libc::fchown(fd.as_fd().as_raw_fd(), uid, gid) }).map(drop)
}

/// A file in memory alone (memfd_create(2)).
pub fn in_memory(name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: a string that ends in zero.
    opened(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })
}

/// Duplicates a descriptor to a number of at least `least` (fcntl(2), F_DUPFD_CLOEXEC).
pub fn duplicate_above(fd: impl AsFd, least: i32) -> io::Result<OwnedFd> {
    // SAFETY: a descriptor that the caller holds.
    opened(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })
}

/// Waits until one of the descriptors can be read, or one that is asked for can be written, or the time is up (poll(2)).
/// Says which are ready.
pub fn poll(waited: &mut [PollEntry<'_>], timeout: Option<std::time::Duration>) -> io::Result<usize> {
    let mut entries: Vec<libc::pollfd> = waited
        .iter()
        .map(|entry| libc::pollfd {
            fd: entry.fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: if entry.for_writing { libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    let milliseconds = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: the entries are writable and as many as is said.
    let count = match checked(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, milliseconds) })
    {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
        answer => answer?,
    };
    for (entry, polled) in waited.iter_mut().zip(&entries) {
        entry.is_ready = polled.revents != 0;
    }
    Ok(count.unsigned_abs() as usize)
}

/// One descriptor of [`poll`].
#[derive(Debug)]
pub struct PollEntry<'a> {
    /// What to look at; nothing is never ready.
    pub fd: Option<std::os::fd::BorrowedFd<'a>>,
    /// Wait until it can be written instead of read.
    pub for_writing: bool,
    /// Set by the call.
    pub is_ready: bool,
}

impl<'a> PollEntry<'a> {
    /// Waits until it can be read.
    pub fn reading(fd: Option<std::os::fd::BorrowedFd<'a>>) -> Self {
        Self {
            fd,
            for_writing: false,
            is_ready: false,
        }
    }
}

/// How many bytes lie in a pipe or FIFO (ioctl_pipe, FIONREAD).
pub fn unread_bytes(fd: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: room for an int.
    checked(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(count.unsigned_abs() as usize)
}
