//! Unix sockets: who is at the other end, and descriptors that travel.

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{checked, opened};

/// Who connected, or listens, at the other end of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id at the time of connect(2) or listen(2).
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// unix(7), SO_PEERCRED.
pub fn peer_credentials(fd: impl AsFd) -> io::Result<PeerCredentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    option(fd, libc::SO_PEERCRED, &mut credentials)?;
    Ok(PeerCredentials {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// A pidfd of the process at the other end (SO_PEERPIDFD, Linux 6.5).
pub fn peer_pidfd(fd: impl AsFd) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: i32 = 77;
    let mut pidfd: libc::c_int = -1;
    option(fd, SO_PEERPIDFD, &mut pidfd)?;
    opened(pidfd)
}

fn option<T>(fd: impl AsFd, name: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: room for the value, of the length that is given.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (value as *mut T).cast(),
            &raw mut length,
        )
    };
    checked(answer).map(drop)
}

/// A connected pair of sockets that keep messages apart (socketpair(2), SOCK_SEQPACKET).
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: room for two descriptors.
    checked(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr(),
        )
    })?;
    // SAFETY: both were just opened, and nobody else knows the numbers.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// A pipe (pipe2(2)): the end to read, the end to write.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: room for two descriptors.
    checked(unsafe { libc::pipe2(pair.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just opened, and nobody else knows the numbers.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// Sends one message with descriptors beside it (sendmsg(2), SCM_RIGHTS); an end that is closed is an error and no signal. At most 253
/// descriptors (unix(7)).
pub fn send_with_descriptors(fd: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let size = size_of_val(numbers.as_slice()) as u32;
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: computes a number.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    let mut control = vec![0u64; space.div_ceil(size_of::<u64>())];
    // SAFETY: zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    // SAFETY: the control buffer has room for one header and the numbers behind it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).copy_from_nonoverlapping(numbers.as_ptr().cast(), size as usize);
    }
    loop {
        // SAFETY: the message refers to buffers that live until the call returns.
        let answer = unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if answer >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one message and the descriptor beside it (recvmsg(2), SCM_RIGHTS). Zero bytes: the other end is closed.
pub fn receive_with_descriptor(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0u64; 4];
    // SAFETY: zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 4]>() as _;
    let received = loop {
        // SAFETY: the message refers to buffers that live until the call returns.
        let answer = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if answer >= 0 {
            break answer.unsigned_abs();
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // SAFETY: the kernel filled the message; the first header, if any, lies within the control buffer.
    let descriptor = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_rights =
            !header.is_null() && (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS;
        is_rights.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()))
    };
    Ok((received, descriptor))
}
