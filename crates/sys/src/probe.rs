//! Whether the running kernel has a system call, asked with arguments that cannot do anything.

use std::io;

/// What the kernel said to a call that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call is there.
    There,
    /// The kernel lacks it, or was built without it, or it is switched off.
    Absent,
    /// It is there, or a filter stands before it (of a container, say); this process may not use it.
    Denied,
}

impl Answer {
    fn of(answer: libc::c_long) -> Answer {
        if answer >= 0 {
            return Answer::There;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => Answer::Absent,
            Some(libc::EPERM | libc::EACCES) => Answer::Denied,
            _ => Answer::There,
        }
    }
}

/// open_tree(2), Linux 5.2; flags that do not exist are EINVAL.
pub fn open_tree() -> Answer {
    // SAFETY: the path is an empty C string, the rest are numbers.
    Answer::of(unsafe { libc::syscall(libc::SYS_open_tree, -1, c"".as_ptr(), u32::MAX) })
}

/// mount_setattr(2), Linux 5.12; an attribute structure of no size is EINVAL.
pub fn mount_setattr() -> Answer {
    // SAFETY: the kernel reads none of the structure's zero bytes.
    Answer::of(unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0) })
}

/// Whether filters of system calls can be installed: PR_GET_SECCOMP of prctl(2), which is EINVAL in a kernel without.
pub fn seccomp() -> Answer {
    // SAFETY: plain numbers; the call changes nothing.
    match unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) } {
        answer if answer >= 0 => Answer::There,
        _ => match io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Answer::Denied,
            _ => Answer::Absent,
        },
    }
}

/// keyctl(2): asks for the session keyring without making one, KEYCTL_GET_KEYRING_ID.
pub fn keyrings() -> Answer {
    const GET_KEYRING_ID: libc::c_int = 0;
    const SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: plain numbers.
    Answer::of(unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0) })
}

/// bpf(2): a command that does not exist is EINVAL, or EPERM for those who may not ask.
pub fn bpf() -> Answer {
    // SAFETY: the attributes have no size.
    Answer::of(unsafe { libc::syscall(libc::SYS_bpf, i32::MAX, std::ptr::null::<u8>(), 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_kernel_that_is_supported_has_is_there_for_root() {
        // Unless a filter says otherwise, which is an answer too.
        for answer in [open_tree(), mount_setattr(), seccomp()] {
            assert_ne!(answer, Answer::Absent);
        }
    }

    #[test]
    fn asking_changes_nothing() {
        let state = || std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            state()
                .lines()
                .find_map(|line| line.strip_prefix(name).map(str::to_owned))
        };
        let before = (field("Seccomp:"), field("NoNewPrivs:"));
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let open = descriptors();
        for answer in [seccomp(), keyrings(), bpf()] {
            assert_ne!(answer, Answer::Absent);
        }
        assert_eq!(before, (field("Seccomp:"), field("NoNewPrivs:")));
        assert_eq!(open, descriptors());
    }
}
