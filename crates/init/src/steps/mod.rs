//! Plain steps between clone and exec: a block of memory that the parent prepared, run without allocation or libc.
//!
//! A block is a row of steps, each `code: u32, size: u32, payload[size]` and padded to eight bytes. The last is
//! [`Code::Exec`], whose payload holds room for the pointer tables that execve(2) takes; they are filled in place, since only the
//! process that runs the block knows where it lies.

mod mounts;
mod privileges;

use crate::point::{self, Point};
use crate::protocol::fd;
use crate::raw::{self, errno, nr};

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Code {
    /// Opens the path, a `cgroup.procs`, and writes `0` (cgroups(7)).
    JoinCgroup = 1,
    /// Opens the path and joins the namespace of the kind that stands before it (setns(2)).
    JoinNamespace = 2,
    /// setsid(2).
    NewSession = 3,
    /// ioctl TIOCSCTTY on standard input.
    ControllingTerminal = 4,
    /// dup2(2) of a pair of descriptors; equal numbers clear close-on-exec.
    Duplicate = 5,
    /// close_range(2) from a descriptor on, by setting close-on-exec.
    CloseFrom = 6,
    /// Writes the value to /proc/self/oom_score_adj.
    OomScoreAdj = 7,
    /// umask(2).
    Umask = 8,
    /// chdir(2).
    ChangeDirectory = 9,
    /// setgroups(2).
    Groups = 10,
    /// setresgid(2), all three.
    Gid = 11,
    /// setresuid(2), all three.
    Uid = 12,
    /// Every signal to its default, none blocked (signal(7)).
    DefaultSignals = 13,
    /// [`Code::Wait`], as the last step but those of the exec.
    Gate = 14,
    /// execve(2).
    Exec = 15,
    /// prlimit(2) of the process itself: the resource, nothing, the soft and the hard limit.
    ResourceLimit = 16,
    /// setpriority(2) of the process itself.
    Nice = 17,
    /// ioprio_set(2) of the process itself.
    IoPriority = 18,
    /// sched_setscheduler(2) to SCHED_OTHER and sched_setaffinity(2) to every CPU that the cgroup allows.
    DefaultScheduling = 19,
    /// prctl(2), PR_SET_DUMPABLE to 0: whoever is in the same namespaces cannot look into this process before it executes.
    NotDumpable = 20,
    /// unshare(2).
    Unshare = 21,
    /// setns(2) with a descriptor: a process's, or a namespace's.
    JoinNamespaces = 22,
    /// openat(2) for reading, under a number.
    Open = 23,
    /// mount(2).
    Mount = 24,
    /// open_tree(2) and mount_setattr(2), under a number.
    OpenTree = 25,
    /// move_mount(2) of such a number.
    Attach = 26,
    /// pivot_root(2), or a move and chroot(2).
    EnterRoot = 27,
    /// Something to mount onto.
    MakePlace = 28,
    /// mkdir(2) with its parents.
    MakeFolder = 29,
    /// mknod(2).
    MakeNode = 30,
    /// symlink(2).
    MakeLink = 31,
    /// A small file.
    WriteFile = 32,
    /// Covers a path.
    Mask = 33,
    /// A path cannot be written.
    MakeReadOnly = 34,
    /// The root itself cannot be written.
    SealRoot = 35,
    /// sethostname(2).
    HostName = 36,
    /// keyctl(2), KEYCTL_JOIN_SESSION_KEYRING without a name.
    NewKeyring = 37,
    /// The bounding set.
    BoundCapabilities = 38,
    /// prctl(2), PR_SET_KEEPCAPS: for [`Code::Capabilities`] after another uid.
    KeepCapabilities = 39,
    /// capset(2) and the ambient set.
    Capabilities = 40,
    /// prctl(2), PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges = 41,
    /// seccomp(2), SECCOMP_SET_MODE_FILTER.
    FilterCalls = 42,
    /// landlock_create_ruleset(2), under a number.
    BeginRuleset = 43,
    /// landlock_add_rule(2).
    AllowBeneath = 44,
    /// landlock_restrict_self(2).
    Restrict = 45,
    /// landlock_add_rule(2) for an open file.
    AllowDescriptor = 46,
    /// Waits for one byte; end of file fails the step with ECANCELED.
    Wait = 47,
    /// No signal blocked (signal(7)).
    UnblockSignals = 48,
}

impl Code {
    /// The code of a number.
    pub fn of(number: u32) -> Option<Self> {
        use Code::*;
        [
            JoinCgroup,
            JoinNamespace,
            NewSession,
            ControllingTerminal,
            Duplicate,
            CloseFrom,
            OomScoreAdj,
            Umask,
            ChangeDirectory,
            Groups,
            Gid,
            Uid,
            DefaultSignals,
            Gate,
            Exec,
            ResourceLimit,
            Nice,
            IoPriority,
            DefaultScheduling,
            NotDumpable,
            Unshare,
            JoinNamespaces,
            Open,
            Mount,
            OpenTree,
            Attach,
            EnterRoot,
            MakePlace,
            MakeFolder,
            MakeNode,
            MakeLink,
            WriteFile,
            Mask,
            MakeReadOnly,
            SealRoot,
            HostName,
            NewKeyring,
            BoundCapabilities,
            KeepCapabilities,
            Capabilities,
            NoNewPrivileges,
            FilterCalls,
            BeginRuleset,
            AllowBeneath,
            Restrict,
            AllowDescriptor,
            Wait,
            UnblockSignals,
        ]
        .into_iter()
        .find(|code| *code as u32 == number)
    }
}

/// A step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Number of the step's [`Code`].
    pub code: u16,
    /// Its place among the steps, from 0.
    pub index: u16,
    /// Error number.
    pub errno: i32,
}

impl Failure {
    /// Code and place in one word.
    pub fn step(self) -> u32 {
        u32::from(self.code) << 16 | u32::from(self.index)
    }

    /// The reverse of [`Failure::step`].
    pub fn of(step: u32, errno: i32) -> Self {
        Self {
            code: (step >> 16) as u16,
            index: step as u16,
            errno,
        }
    }

    /// As it goes through the status pipe.
    pub fn to_bytes(self) -> [u8; 8] {
        let (a, b) = (self.step().to_le_bytes(), self.errno.to_le_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
    }

    /// The reverse of [`Failure::to_bytes`].
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self::of(u32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]))
    }
}

/// Size of a step's head.
pub const HEAD: usize = 8;
const OOM_SCORE_ADJ: &[u8] = b"/proc/self/oom_score_adj\0";
const SIGNALS: usize = 64;
const SIGKILL: usize = 9;
const SIGSTOP: usize = 19;
const SIG_SETMASK: usize = 2;
const AT_FDCWD: usize = -100isize as usize;
const O_WRONLY: usize = 1;
const O_CLOEXEC: usize = 0o2000000;
const TIOCSCTTY: usize = 0x540e;
const CLOSE_RANGE_CLOEXEC: usize = 4;
const PRIO_PROCESS: usize = 0;
const IOPRIO_WHO_PROCESS: usize = 1;
const SCHED_OTHER: usize = 0;
/// 1024 CPUs, as many as glibc's cpu_set_t has.
const CPU_WORDS: usize = 16;

/// Runs a block of steps that ends in [`Code::Exec`]. Returns only when one failed: the last executes another program.
///
/// # Safety
/// `block` must be writable memory of `length` bytes, aligned to eight, that was made by the encoder of this form, and the
/// caller a process in which nothing else relies on the state that the steps change.
pub unsafe fn run(block: *mut u8, length: usize) -> Failure {
    // SAFETY: the caller's promise.
    match unsafe { run_to_end(block, length) } {
        Err(failure) => failure,
        Ok(index) => Failure {
            code: 0,
            index,
            errno: errno::EINVAL,
        },
    }
}

/// Runs a block of steps that may end without an exec, and returns how many they were.
///
/// # Safety
/// As [`run`].
pub unsafe fn run_to_end(block: *mut u8, length: usize) -> Result<u16, Failure> {
    let mut at = 0;
    let mut index = 0u16;
    while at + HEAD <= length {
        // SAFETY: within the block by the loop's condition, and aligned since every step is padded.
        let (code, size) = unsafe {
            (
                block.add(at).cast::<u32>().read(),
                block.add(at + 4).cast::<u32>().read() as usize,
            )
        };
        if size > length - at - HEAD {
            return Err(Failure {
                code: code as u16,
                index,
                errno: errno::EINVAL,
            });
        }
        // SAFETY: the payload lies within the block, as was just seen.
        let done = unsafe { step(code, block.add(at + HEAD), size) };
        if let Err(errno) = done {
            return Err(Failure {
                code: code as u16,
                index,
                errno,
            });
        }
        at += HEAD + size.next_multiple_of(8);
        index += 1;
    }
    Ok(index)
}

/// # Safety
/// `payload` must be `size` bytes in the form of the step.
unsafe fn step(code: u32, payload: *mut u8, size: usize) -> Result<(), i32> {
    // SAFETY: the payload's form is the encoder's promise: numbers where numbers are read, paths that end in zero.
    unsafe {
        let number = |index: usize| payload.cast::<u32>().add(index).read() as usize;
        match Code::of(code).ok_or(errno::EINVAL)? {
            Code::JoinCgroup => write_file(payload, b"0"),
            Code::JoinNamespace => {
                let fd = raw::checked(nr::OPENAT, AT_FDCWD, payload.add(8) as usize, O_CLOEXEC, 0)?;
                let joined = raw::checked(nr::SETNS, fd, number(0), 0, 0);
                raw::close(fd as i32);
                joined.map(drop)
            }
            Code::NewSession => raw::checked(nr::SETSID, 0, 0, 0, 0).map(drop),
            Code::ControllingTerminal => raw::checked(nr::IOCTL, 0, TIOCSCTTY, 0, 0).map(drop),
            Code::Duplicate => duplicate(number(0), number(1)),
            Code::CloseFrom => {
                raw::checked(nr::CLOSE_RANGE, number(0), u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0).map(drop)
            }
            Code::OomScoreAdj => write_file(
                OOM_SCORE_ADJ.as_ptr().cast_mut(),
                core::slice::from_raw_parts(payload, size),
            ),
            Code::Umask => raw::checked(nr::UMASK, number(0), 0, 0, 0).map(drop),
            Code::ChangeDirectory => raw::checked(nr::CHDIR, payload as usize, 0, 0, 0).map(drop),
            Code::Groups => raw::checked(nr::SETGROUPS, size / 4, payload as usize, 0, 0).map(drop),
            Code::Gid => raw::checked(nr::SETRESGID, number(0), number(0), number(0), 0).map(drop),
            Code::Uid => raw::checked(nr::SETRESUID, number(0), number(0), number(0), 0).map(drop),
            Code::DefaultSignals => default_signals(),
            Code::UnblockSignals => unblock_signals(),
            Code::Wait => {
                point::reached_in(fd::CRASH_POINTS, Point::MainWaits);
                wait(number(0) as i32)
            }
            Code::Gate => {
                point::reached_in(fd::CRASH_POINTS, Point::MainAtGate);
                wait(number(0) as i32)?;
                point::reached_in(fd::CRASH_POINTS, Point::MainBehindGate);
                Ok(())
            }
            Code::Exec => exec(payload),
            Code::ResourceLimit => raw::checked(nr::PRLIMIT64, 0, number(0), payload.add(8) as usize, 0).map(drop),
            Code::Nice => {
                let nice = payload.cast::<i32>().read() as isize as usize;
                raw::checked(nr::SETPRIORITY, PRIO_PROCESS, 0, nice, 0).map(drop)
            }
            Code::IoPriority => raw::checked(nr::IOPRIO_SET, IOPRIO_WHO_PROCESS, 0, number(0), 0).map(drop),
            Code::DefaultScheduling => default_scheduling(),
            code => isolating_step(code, payload, size),
        }
    }
}

/// Goes on after one byte.
fn wait(fd: i32) -> Result<(), i32> {
    match raw::read(fd, &mut [0])? {
        0 => Err(errno::ECANCELED),
        _ => Ok(()),
    }
}

/// The steps of a task that is kept apart from its host. Numbers come first, in words of eight bytes; texts after them.
///
/// # Safety
/// As [`step`].
unsafe fn isolating_step(code: Code, payload: *mut u8, size: usize) -> Result<(), i32> {
    const PR_SET_DUMPABLE: usize = 4;
    const PR_SET_KEEPCAPS: usize = 8;
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the payload's form is the encoder's promise.
    unsafe {
        let word = |index: usize| payload.cast::<u64>().add(index).read();
        let number = |index: usize| word(index) as usize;
        let text = |words: usize| payload.add(words * 8);
        match code {
            Code::NotDumpable => privileges::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0),
            Code::Unshare => raw::checked(nr::UNSHARE, number(0), 0, 0, 0).map(drop),
            Code::JoinNamespaces => raw::checked(nr::SETNS, number(0), number(1), 0, 0).map(drop),
            Code::Open => {
                let fd = raw::checked(nr::OPENAT, AT_FDCWD, text(1) as usize, O_CLOEXEC, 0)?;
                let done = raw::checked(nr::DUP3, fd, number(0), O_CLOEXEC, 0).map(drop);
                raw::close(fd as i32);
                done
            }
            Code::Mount => {
                let source = text(1);
                let target = after_zero(source);
                let kind = after_zero(target);
                mounts::mount(source, target, kind, number(0), after_zero(kind))
            }
            Code::OpenTree => mounts::open_tree(text(3), number(0), word(1), word(2)),
            Code::Attach => mounts::attach(number(0), text(1)),
            Code::EnterRoot => mounts::enter_root(text(1), number(0) != 0),
            Code::MakePlace => mounts::make_place(text(1), number(0) != 0),
            Code::MakeFolder => mounts::make_folder(text(3), number(0), number(1), number(2)),
            Code::MakeNode => mounts::make_node(text(4), number(0), number(1), number(2), number(3)),
            Code::MakeLink => mounts::make_link(text(0), after_zero(text(0))),
            Code::WriteFile => {
                let content = after_zero(text(0));
                let length = size - content.offset_from(payload) as usize;
                mounts::write_file(payload, core::slice::from_raw_parts(content, length))
            }
            Code::Mask => mounts::mask(payload, after_zero(payload)),
            Code::MakeReadOnly => mounts::make_read_only(payload),
            Code::SealRoot => mounts::seal_root(),
            Code::HostName => raw::checked(nr::SETHOSTNAME, payload as usize, size, 0, 0).map(drop),
            Code::NewKeyring => raw::checked(nr::KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0).map(drop),
            Code::BoundCapabilities => privileges::bound(word(0)),
            Code::KeepCapabilities => privileges::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0),
            Code::Capabilities => privileges::set_capabilities(word(0), word(1) != 0),
            Code::NoNewPrivileges => privileges::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            Code::FilterCalls => privileges::filter_calls(payload, size),
            Code::BeginRuleset => privileges::begin_ruleset(word(1), number(0)),
            Code::AllowBeneath => privileges::allow_beneath(number(0), text(4), word(1), word(2), word(3) != 0),
            Code::AllowDescriptor => privileges::allow_descriptor(number(0), number(1), word(2)),
            Code::Restrict => privileges::restrict(number(0)),
            _ => Err(errno::EINVAL),
        }
    }
}

/// # Safety
/// `path` must end in zero.
unsafe fn write_file(path: *mut u8, content: &[u8]) -> Result<(), i32> {
    // SAFETY: the caller's promise about the path.
    let fd = unsafe { raw::checked(nr::OPENAT, AT_FDCWD, path as usize, O_WRONLY | O_CLOEXEC, 0)? } as i32;
    let written = raw::write(fd, content);
    raw::close(fd);
    written.map(drop)
}

/// # Safety
/// Overwrites `to`, which nobody else may be using.
unsafe fn duplicate(from: usize, to: usize) -> Result<(), i32> {
    const F_SETFD: usize = 2;
    const FCNTL: usize = 72;
    // SAFETY: plain numbers.
    unsafe {
        if from == to {
            return raw::checked(FCNTL, from, F_SETFD, 0, 0).map(drop);
        }
        raw::checked(nr::DUP2, from, to, 0, 0).map(drop)
    }
}

/// # Safety
/// None: it changes only how the process itself is scheduled.
unsafe fn default_scheduling() -> Result<(), i32> {
    let priority = 0i32;
    let all_cpus = [u64::MAX; CPU_WORDS];
    // SAFETY: both are readable. The kernel cuts the mask to the CPUs that there are and that the cgroup allows.
    unsafe {
        raw::checked(nr::SCHED_SETSCHEDULER, 0, SCHED_OTHER, &raw const priority as usize, 0)?;
        raw::checked(nr::SCHED_SETAFFINITY, 0, CPU_WORDS * 8, all_cpus.as_ptr() as usize, 0).map(drop)
    }
}

fn unblock_signals() -> Result<(), i32> {
    let none = 0u64;
    // SAFETY: the mask is readable.
    unsafe { raw::checked(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const none as usize, 0, 8).map(drop) }
}

/// # Safety
/// Nothing in the process may rely on a signal handler any more.
unsafe fn default_signals() -> Result<(), i32> {
    // The kernel's struct sigaction: handler, flags, restorer, mask; zeros are the default action.
    let action = [0usize; 4];
    for signal in (1..=SIGNALS).filter(|signal| *signal != SIGKILL && *signal != SIGSTOP) {
        // SAFETY: the action is readable and the old one not asked for.
        unsafe { raw::checked(nr::RT_SIGACTION, signal, action.as_ptr() as usize, 0, 8)? };
    }
    unblock_signals()
}

/// The payload of [`Code::Exec`]: `argc: u32, envc: u32`, the tables of `argc + 1` and `envc + 1` pointers, the path, the
/// arguments, the environment, each ending in zero.
///
/// # Safety
/// `payload` must be of that form and writable.
unsafe fn exec(payload: *mut u8) -> Result<(), i32> {
    // SAFETY: the form is the caller's promise; every string ends within the payload.
    unsafe {
        let argc = payload.cast::<u32>().read() as usize;
        let envc = payload.cast::<u32>().add(1).read() as usize;
        let tables = payload.add(8).cast::<usize>();
        let path = tables.add(argc + envc + 2).cast::<u8>();
        let mut text = after_zero(path);
        let arguments = tables;
        let environment = tables.add(argc + 1);
        for index in 0..argc {
            arguments.add(index).write(text as usize);
            text = after_zero(text);
        }
        arguments.add(argc).write(0);
        for index in 0..envc {
            environment.add(index).write(text as usize);
            text = after_zero(text);
        }
        environment.add(envc).write(0);
        raw::checked(nr::EXECVE, path as usize, arguments as usize, environment as usize, 0).map(drop)
    }
}

/// # Safety
/// There must be a zero at or behind `text`.
unsafe fn after_zero(mut text: *mut u8) -> *mut u8 {
    // SAFETY: stops at the zero that the caller promises.
    unsafe {
        // Volatile, lest the compiler call a strlen that the init does not have.
        while text.read_volatile() != 0 {
            text = text.add(1);
        }
        text.add(1)
    }
}
