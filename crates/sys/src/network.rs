//! Network namespaces (network_namespaces(7)) and their interfaces (netdevice(7)).

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};

use crate::checked;

/// NS_GET_NSTYPE (linux/nsfs.h, ioctl_ns(2)); libc has no name for it.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// The loopback interface; every network namespace is born with it, and it is born down.
pub const LOOPBACK: &CStr = c"lo";

/// Whether an open namespace is one of networks (ioctl_ns(2), NS_GET_NSTYPE, Linux 4.11). ENOTTY: the file is no namespace.
pub fn is_network_namespace(file: impl AsFd) -> io::Result<bool> {
    // The C libraries differ in the type of the request.
    // SAFETY: the request takes nothing and answers with a number.
    let kind = checked(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE as _) })?;
    Ok(kind == libc::CLONE_NEWNET)
}

/// The flags of an interface in the network namespace that `socket`, any socket, was made in: `IFF_UP` and its like
/// (netdevice(7), SIOCGIFFLAGS). ENODEV: there is no such interface.
pub fn interface_flags(socket: impl AsFd, interface: &CStr) -> io::Result<i16> {
    let mut request = request(interface)?;
    // SAFETY: the request reads the name and writes the flags of an ifreq of this function's own.
    checked(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call has just written this member.
    Ok(unsafe { request.ifr_ifru.ifru_flags })
}

/// Sets the flags of an interface; see [`interface_flags`] (netdevice(7), SIOCSIFFLAGS). EPERM: it needs CAP_NET_ADMIN there.
pub fn set_interface_flags(socket: impl AsFd, interface: &CStr, flags: i16) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the request reads an ifreq of this function's own.
    checked(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }).map(drop)
}

/// The flag of an interface that is up (netdevice(7)).
pub const UP: i16 = libc::IFF_UP as i16;

fn request(interface: &CStr) -> io::Result<libc::ifreq> {
    // SAFETY: a structure of numbers and bytes, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let name = interface.to_bytes_with_nul();
    if name.len() > request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn only_namespaces_of_networks_are_taken_for_them() {
        let own = File::open("/proc/self/ns/net").unwrap();
        assert!(is_network_namespace(&own).unwrap());
        let mount = File::open("/proc/self/ns/mnt").unwrap();
        assert!(!is_network_namespace(&mount).unwrap());
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(
            is_network_namespace(&file).unwrap_err().raw_os_error(),
            Some(libc::ENOTTY)
        );
    }

    #[test]
    fn the_flags_of_an_interface_are_those_that_the_kernel_shows() {
        let socket = UnixDatagram::unbound().unwrap();
        let shown = std::fs::read_to_string("/sys/class/net/lo/flags").unwrap();
        let shown = u32::from_str_radix(shown.trim().trim_start_matches("0x"), 16).unwrap();
        let flags = interface_flags(&socket, LOOPBACK).unwrap();
        assert_eq!(flags & UP != 0, shown & 1 != 0);
        for unknown in [c"nosuch0", c"a-name-that-is-too-long-for-one"] {
            let error = interface_flags(&socket, unknown).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{unknown:?}");
        }
    }
}
