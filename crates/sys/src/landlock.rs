//! Landlock (landlock(7)): what files a thread, and what it starts, may use.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `struct landlock_ruleset_attr` (linux/landlock.h), as long as its first version is; kernels with a longer one take it.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: RawFd,
}

const CREATE_RULESET_VERSION: libc::c_uint = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;
const NO_FLAGS: libc::c_uint = 0;

/// The version of the kernel's interface, from 1 (landlock_create_ruleset(2)). ENOSYS: built without it; EOPNOTSUPP: switched off
/// when the host was booted.
pub fn abi() -> io::Result<u32> {
    // SAFETY: with this flag the call takes no attributes and makes no descriptor.
    let version = checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0,
            CREATE_RULESET_VERSION,
        )
    })?;
    Ok(version.unsigned_abs())
}

/// A set of rules that denies the rights of `handled_access_fs` (LANDLOCK_ACCESS_FS_*) wherever no rule gives them
/// (landlock_create_ruleset(2)). EINVAL: a right that this kernel does not know.
pub fn ruleset(handled_access_fs: u64) -> io::Result<OwnedFd> {
    let attributes = RulesetAttributes { handled_access_fs };
    // SAFETY: the structure is this function's own, and the size is its.
    let fd = checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<RulesetAttributes>(),
            NO_FLAGS,
        )
    })?;
    // SAFETY: the call has just opened it, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives rights at and below what `parent` is open on, O_PATH will do (landlock_add_rule(2)). EINVAL: a right that is not among the
/// handled, or that only a folder can have and this is none; ENOMSG: no right at all.
pub fn allow(ruleset: impl AsFd, parent: impl AsFd, allowed_access: u64) -> io::Result<()> {
    let rule = PathBeneath {
        allowed_access,
        parent_fd: parent.as_fd().as_raw_fd(),
    };
    // SAFETY: the structure is this function's own, of the layout that the type of the rule asks for.
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_fd().as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            NO_FLAGS,
        )
    })
    .map(drop)
}

/// From now on the rules hold for the calling thread and what it starts (landlock_restrict_self(2)). Needs no_new_privs or
/// CAP_SYS_ADMIN.
pub fn restrict_this_thread(ruleset: impl AsFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_fd().as_raw_fd(), NO_FLAGS) }).map(drop)
}

/// The answer of a system call without a function of its own in libc: a descriptor or a small number.
fn checked(answer: libc::c_long) -> io::Result<libc::c_int> {
    crate::checked(libc::c_int::try_from(answer).unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_landlock_says_so_and_one_with_it_has_a_version() {
        match abi() {
            Ok(version) => {
                assert!(version >= 1);
                // The first version has the rights of the bits 0 to 12.
                ruleset(0x1fff).unwrap();
                let unknown = ruleset(1 << 63).unwrap_err();
                assert_eq!(unknown.raw_os_error(), Some(libc::EINVAL));
            }
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)),
                "{error}"
            ),
        }
    }
}
