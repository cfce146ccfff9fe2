//! System calls by number, without libc: what a freshly cloned child and the init may do.

use core::arch::asm;

/// Numbers of the system calls in use (asm/unistd_64.h).
pub mod nr {
    #![allow(missing_docs)]
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const MUNMAP: usize = 11;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const PWRITE64: usize = 18;
    pub const DUP2: usize = 33;
    pub const GETPID: usize = 39;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const EXECVE: usize = 59;
    pub const CHDIR: usize = 80;
    pub const MKDIR: usize = 83;
    pub const SYMLINK: usize = 88;
    pub const READLINK: usize = 89;
    pub const LCHOWN: usize = 94;
    pub const UMASK: usize = 95;
    pub const SETPGID: usize = 109;
    pub const SETSID: usize = 112;
    pub const SETGROUPS: usize = 116;
    pub const SETRESUID: usize = 117;
    pub const SETRESGID: usize = 119;
    pub const CAPSET: usize = 126;
    pub const MKNOD: usize = 133;
    pub const SETPRIORITY: usize = 141;
    pub const SCHED_SETSCHEDULER: usize = 144;
    pub const PIVOT_ROOT: usize = 155;
    pub const PRCTL: usize = 157;
    pub const CHROOT: usize = 161;
    pub const MOUNT: usize = 165;
    pub const UMOUNT2: usize = 166;
    pub const SETHOSTNAME: usize = 170;
    pub const SCHED_SETAFFINITY: usize = 203;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const WAITID: usize = 247;
    pub const KEYCTL: usize = 250;
    pub const IOPRIO_SET: usize = 251;
    pub const OPENAT: usize = 257;
    pub const PPOLL: usize = 271;
    pub const UNSHARE: usize = 272;
    pub const DUP3: usize = 292;
    pub const PIPE2: usize = 293;
    pub const PRLIMIT64: usize = 302;
    pub const SETNS: usize = 308;
    pub const OPEN_TREE: usize = 428;
    pub const MOVE_MOUNT: usize = 429;
    pub const SECCOMP: usize = 317;
    pub const CLONE3: usize = 435;
    pub const CLOSE_RANGE: usize = 436;
    pub const MOUNT_SETATTR: usize = 442;
    pub const LANDLOCK_CREATE_RULESET: usize = 444;
    pub const LANDLOCK_ADD_RULE: usize = 445;
    pub const LANDLOCK_RESTRICT_SELF: usize = 446;
}

/// Error numbers that the code itself tells apart.
pub mod errno {
    #![allow(missing_docs)]
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const ECHILD: i32 = 10;
    pub const EEXIST: i32 = 17;
    pub const ENOTDIR: i32 = 20;
    pub const EINVAL: i32 = 22;
    pub const ENOSPC: i32 = 28;
    pub const EBADF: i32 = 9;
    pub const EBADFD: i32 = 77;
    pub const ECANCELED: i32 = 125;
}

/// One system call; the kernel's answer, where -4095 to -1 are error numbers.
///
/// # Safety
/// The arguments must be what the call of this number takes, and pointers among them valid for as long as it uses them.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let answer: isize;
    // SAFETY: the instruction changes rax, rcx and r11 and what the call itself writes through its pointers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// [`syscall`] with its error split off.
///
/// # Safety
/// As [`syscall`].
#[inline(always)]
pub unsafe fn checked(number: usize, a: usize, b: usize, c: usize, d: usize) -> Result<usize, i32> {
    // SAFETY: the caller's promise.
    let answer = unsafe { syscall(number, a, b, c, d, 0, 0) };
    if answer < 0 {
        Err(-answer as i32)
    } else {
        Ok(answer as usize)
    }
}

/// close(2); errors mean that there was nothing to close.
pub fn close(fd: i32) {
    // SAFETY: takes a number; the callers own the descriptors that they close.
    let _ = unsafe { checked(nr::CLOSE, fd as usize, 0, 0, 0) };
}

/// read(2), again when a signal came first.
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize, i32> {
    loop {
        // SAFETY: the buffer is writable for its length.
        match unsafe { checked(nr::READ, fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0) } {
            Err(errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// write(2), again when a signal came first.
pub fn write(fd: i32, bytes: &[u8]) -> Result<usize, i32> {
    loop {
        // SAFETY: the bytes are readable for their length.
        match unsafe { checked(nr::WRITE, fd as usize, bytes.as_ptr() as usize, bytes.len(), 0) } {
            Err(errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// getpid(2).
pub fn pid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { syscall(nr::GETPID, 0, 0, 0, 0, 0, 0) as u32 }
}

/// exit_group(2).
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { syscall(nr::EXIT_GROUP, status as usize, 0, 0, 0, 0, 0) };
    }
}

/// clock_gettime(2) in nanoseconds.
pub fn clock_ns(clock: Clock) -> i64 {
    let mut time = [0i64; 2];
    // SAFETY: the two words are the kernel's struct timespec.
    let _ = unsafe { checked(nr::CLOCK_GETTIME, clock as usize, time.as_mut_ptr() as usize, 0, 0) };
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// Clocks (uapi/linux/time.h).
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Clock {
    /// Wall clock.
    Realtime = 0,
    /// Since boot, suspended time included.
    Boottime = 7,
}
