//! Steps that take privileges away.

use crate::raw::{self, errno, nr};

const AT_FDCWD: usize = -100isize as usize;
const O_CLOEXEC: usize = 0o2000000;
const O_PATH: usize = 0o10000000;
const O_DIRECTORY: usize = 0o200000;
const PR_CAPBSET_DROP: usize = 24;
const PR_CAP_AMBIENT: usize = 47;
const PR_CAP_AMBIENT_RAISE: usize = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;
const SECCOMP_SET_MODE_FILTER: usize = 1;
/// Or a kernel before 5.16 would slow the task down as if it ran code of strangers in its own memory.
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: usize = 4;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const LANDLOCK_RULE_PATH_BENEATH: usize = 1;
/// More than the kernel has names for; it answers EINVAL beyond its last.
const CAPABILITIES: usize = 64;

type Done = Result<(), i32>;

/// prctl(2).
pub fn prctl(option: usize, a: usize, b: usize, c: usize, d: usize) -> Done {
    // SAFETY: only called with options that take plain numbers, or a pointer that the caller vouches for.
    let answer = unsafe { raw::syscall(nr::PRCTL, option, a, b, c, d, 0) };
    if answer < 0 { Err(-answer as i32) } else { Ok(()) }
}

/// Drops every capability that is not in `kept` from the bounding set (capabilities(7)).
pub fn bound(kept: u64) -> Done {
    for capability in (0..CAPABILITIES).filter(|capability| kept >> capability & 1 == 0) {
        match prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) {
            Ok(()) => {}
            Err(errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Permitted and effective; inheritable and ambient as well if the program is to have them although it is not root's.
pub fn set_capabilities(permitted: u64, ambient: bool) -> Done {
    let header = [CAPABILITY_VERSION_3, 0];
    let inheritable = if ambient { permitted } else { 0 };
    let (low, high) = (|set: u64| set as u32, |set: u64| (set >> 32) as u32);
    let sets = [
        low(permitted),
        low(permitted),
        low(inheritable),
        high(permitted),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: the kernel's struct __user_cap_header_struct and two of __user_cap_data_struct.
    unsafe { raw::checked(nr::CAPSET, header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0)? };
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)?;
    if ambient {
        for capability in (0..CAPABILITIES).filter(|capability| permitted >> capability & 1 == 1) {
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)?;
        }
    }
    Ok(())
}

/// Filters system calls from here on; `filter` is an array of the kernel's struct sock_filter (seccomp(2)).
///
/// # Safety
/// The filter must be readable for `size` bytes.
pub unsafe fn filter_calls(filter: *const u8, size: usize) -> Done {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: usize,
    }
    let program = Program {
        length: (size / 8) as u16,
        filter: filter as usize,
    };
    let (operation, flags) = (SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: the structure lives until the call returns, and the filter is the caller's promise.
    unsafe { raw::checked(nr::SECCOMP, operation, flags, &raw const program as usize, 0).map(drop) }
}

/// A Landlock ruleset that handles these rights of files, under the number `to` (landlock(7)).
///
/// # Safety
/// `to` is overwritten.
pub unsafe fn begin_ruleset(handled: u64, to: usize) -> Done {
    // SAFETY: the first field of the kernel's struct landlock_ruleset_attr, which is as long as its first version.
    unsafe {
        let fd = raw::checked(nr::LANDLOCK_CREATE_RULESET, &raw const handled as usize, 8, 0, 0)?;
        let done = raw::checked(nr::DUP3, fd, to, O_CLOEXEC, 0).map(drop);
        raw::close(fd as i32);
        done
    }
}

/// Allows rights at and below a path; a file has fewer of them than a folder.
///
/// # Safety
/// `path` must end in zero.
pub unsafe fn allow_beneath(ruleset: usize, path: *const u8, folder: u64, file: u64, is_optional: bool) -> Done {
    // SAFETY: the caller's promise.
    unsafe {
        let opened = match raw::checked(nr::OPENAT, AT_FDCWD, path as usize, O_PATH | O_DIRECTORY | O_CLOEXEC, 0) {
            Ok(fd) => Ok((fd, folder)),
            Err(errno::ENOTDIR) => {
                raw::checked(nr::OPENAT, AT_FDCWD, path as usize, O_PATH | O_CLOEXEC, 0).map(|fd| (fd, file))
            }
            Err(errno) => Err(errno),
        };
        let (fd, allowed) = match opened {
            Ok(opened) => opened,
            Err(errno::ENOENT) if is_optional => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let done = allow(ruleset, fd, allowed);
        raw::close(fd as i32);
        done
    }
}

/// Allows rights at what a descriptor is of. What has no name needs no rule.
pub fn allow_descriptor(ruleset: usize, fd: usize, allowed: u64) -> Done {
    match allow(ruleset, fd, allowed) {
        Err(errno::EBADF | errno::EBADFD) => Ok(()),
        done => done,
    }
}

fn allow(ruleset: usize, fd: usize, allowed: u64) -> Done {
    // The kernel refuses a rule that allows nothing.
    if allowed == 0 {
        return Ok(());
    }
    let rule = [allowed as u32, (allowed >> 32) as u32, fd as u32];
    // SAFETY: the packed struct landlock_path_beneath_attr of twelve bytes.
    let done = unsafe {
        raw::checked(
            nr::LANDLOCK_ADD_RULE,
            ruleset,
            LANDLOCK_RULE_PATH_BENEATH,
            rule.as_ptr() as usize,
            0,
        )
    };
    done.map(drop)
}

/// From here on only what the ruleset allows.
pub fn restrict(ruleset: usize) -> Done {
    // SAFETY: plain numbers.
    let done = unsafe { raw::checked(nr::LANDLOCK_RESTRICT_SELF, ruleset, 0, 0, 0) };
    raw::close(ruleset as i32);
    done.map(drop)
}
