//! Starting programs: steps are prepared by the parent and run, without allocation or libc, by the child.

use std::arch::asm;
use std::ffi::OsStr;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use holdfast_init::raw;
use holdfast_init::steps::{self, HEAD};
pub use holdfast_init::steps::{Code, Failure};

use crate::process::PidFd;
use crate::socket::pipe;

/// libc has it in a type that is too narrow (uapi/linux/sched.h).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A row of steps, as a block that [`spawn`] and the init run.
#[derive(Debug, Default, Clone)]
pub struct Steps {
    // Words, so that the block is aligned as the interpreter wants it.
    block: Vec<u64>,
    count: u16,
    /// A string held a zero byte, which no path or argument can.
    has_inner_zero: bool,
}

impl Steps {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins the cgroup of a `cgroup.procs` file.
    pub fn join_cgroup(self, procs: impl AsRef<OsStr>) -> Self {
        self.text(Code::JoinCgroup, procs)
    }

    /// Joins the network namespace at a path (setns(2), CLONE_NEWNET).
    pub fn join_network_namespace(mut self, path: impl AsRef<OsStr>) -> Self {
        let mut payload = vec![0; 8];
        payload[..4].copy_from_slice(&libc::CLONE_NEWNET.to_ne_bytes());
        self.push_text(&mut payload, path.as_ref());
        self.push(Code::JoinNamespace, &payload)
    }

    /// A session of its own.
    pub fn new_session(self) -> Self {
        self.push(Code::NewSession, &[])
    }

    /// Standard input, a terminal, becomes the session's controlling terminal.
    pub fn controlling_terminal(self) -> Self {
        self.push(Code::ControllingTerminal, &[])
    }

    /// The descriptor `from` becomes `to` as well, and stays open across exec.
    pub fn duplicate(self, from: i32, to: i32) -> Self {
        self.numbers(Code::Duplicate, &[from.cast_unsigned(), to.cast_unsigned()])
    }

    /// Descriptors from this one on do not survive exec.
    pub fn close_from(self, first: u32) -> Self {
        self.numbers(Code::CloseFrom, &[first])
    }

    /// -1000 to 1000.
    pub fn oom_score_adj(self, score: i32) -> Self {
        self.push(Code::OomScoreAdj, score.to_string().as_bytes())
    }

    /// The file mode creation mask.
    pub fn umask(self, mask: u32) -> Self {
        self.numbers(Code::Umask, &[mask])
    }

    /// A resource limit of the process (RLIMIT_ number; `u64::MAX` is no limit).
    pub fn resource_limit(self, resource: u32, soft: u64, hard: u64) -> Self {
        let mut payload = vec![0; 24];
        payload[..4].copy_from_slice(&resource.to_ne_bytes());
        payload[8..16].copy_from_slice(&soft.to_ne_bytes());
        payload[16..].copy_from_slice(&hard.to_ne_bytes());
        self.push(Code::ResourceLimit, &payload)
    }

    /// -20 to 19.
    pub fn nice(self, nice: i32) -> Self {
        self.numbers(Code::Nice, &[nice.cast_unsigned()])
    }

    /// As ioprio_set(2) takes it: the class in the bits from 13 on, the level below. 0: none, derived from the nice value.
    pub fn io_priority(self, priority: u32) -> Self {
        self.numbers(Code::IoPriority, &[priority])
    }

    /// The ordinary scheduler and every CPU, whatever was inherited.
    pub fn default_scheduling(self) -> Self {
        self.push(Code::DefaultScheduling, &[])
    }

    /// The working directory.
    pub fn change_directory(self, path: impl AsRef<OsStr>) -> Self {
        self.text(Code::ChangeDirectory, path)
    }

    /// Supplementary groups, then gid, then uid: the order in which each is still allowed.
    pub fn credentials(self, uid: u32, gid: u32, groups: &[u32]) -> Self {
        self.numbers(Code::Groups, groups)
            .numbers(Code::Gid, &[gid])
            .numbers(Code::Uid, &[uid])
    }

    /// Every signal to its default, none blocked.
    pub fn default_signals(self) -> Self {
        self.push(Code::DefaultSignals, &[])
    }

    /// None blocked; for a process whose parent has every signal's default already, as an init has.
    pub fn unblock_signals(self) -> Self {
        self.push(Code::UnblockSignals, &[])
    }

    /// Goes on after one byte from the descriptor; fails at its end of file.
    pub fn wait(self, fd: i32) -> Self {
        self.numbers(Code::Wait, &[fd.cast_unsigned()])
    }

    /// The same, as the last step but for what may be left to do before the program is executed.
    pub fn gate(self, fd: i32) -> Self {
        self.numbers(Code::Gate, &[fd.cast_unsigned()])
    }

    /// Executes the program, the last step. `arguments` starts with the program's own name.
    pub fn exec<A: AsRef<OsStr>, E: AsRef<OsStr>>(
        mut self,
        path: impl AsRef<OsStr>,
        arguments: &[A],
        environment: &[E],
    ) -> Self {
        let mut payload = Vec::new();
        payload.extend_from_slice(&(arguments.len() as u32).to_ne_bytes());
        payload.extend_from_slice(&(environment.len() as u32).to_ne_bytes());
        payload.resize(8 + (arguments.len() + environment.len() + 2) * size_of::<usize>(), 0);
        self.push_text(&mut payload, path.as_ref());
        for argument in arguments {
            self.push_text(&mut payload, argument.as_ref());
        }
        for variable in environment {
            self.push_text(&mut payload, variable.as_ref());
        }
        self.push(Code::Exec, &payload)
    }

    /// Nobody who shares a namespace with this process may look into it before it executes (PR_SET_DUMPABLE).
    pub fn not_dumpable(self) -> Self {
        self.push(Code::NotDumpable, &[])
    }

    /// Namespaces of its own, by their CLONE_ flags (unshare(2)).
    pub fn unshare(self, namespaces: i32) -> Self {
        self.words(Code::Unshare, &[u64::from(namespaces.cast_unsigned())], &[])
    }

    /// Joins the namespaces of these CLONE_ flags of the process of a pidfd, or the one namespace of its own descriptor (setns(2)).
    pub fn join_namespaces(self, fd: i32, namespaces: i32) -> Self {
        self.words(Code::JoinNamespaces, &[number(fd), number(namespaces)], &[])
    }

    /// Opens a path for reading, as the descriptor `to`; closed by exec.
    pub fn open(self, path: impl AsRef<OsStr>, to: i32) -> Self {
        self.words(Code::Open, &[number(to)], &[path.as_ref()])
    }

    /// mount(2), with its MS_ flags. An empty source or kind is one that the kernel does not look at.
    pub fn mount(
        self,
        source: impl AsRef<OsStr>,
        target: impl AsRef<OsStr>,
        kind: impl AsRef<OsStr>,
        flags: u64,
        data: impl AsRef<OsStr>,
    ) -> Self {
        let texts = [source.as_ref(), target.as_ref(), kind.as_ref(), data.as_ref()];
        self.words(Code::Mount, &[flags], &texts)
    }

    /// Copies the mounts at a path, as the descriptor `to`, with MOUNT_ATTR_ attributes and an MS_ propagation (0: as it is)
    /// (open_tree(2), mount_setattr(2); Linux 5.12).
    pub fn open_tree(self, path: impl AsRef<OsStr>, to: i32, attributes: u64, propagation: u64) -> Self {
        self.words(Code::OpenTree, &[number(to), attributes, propagation], &[path.as_ref()])
    }

    /// Mounts such a copy at a path, and closes it (move_mount(2)).
    pub fn attach(self, from: i32, path: impl AsRef<OsStr>) -> Self {
        self.words(Code::Attach, &[number(from)], &[path.as_ref()])
    }

    /// Makes the mount at a path the root and lets go of the old one: by pivot_root(2), or, from a ramdisk, by moving it.
    pub fn enter_root(self, path: impl AsRef<OsStr>, must_move: bool) -> Self {
        self.words(Code::EnterRoot, &[must_move.into()], &[path.as_ref()])
    }

    /// Something to mount onto, with the folders above it, where nothing is.
    pub fn make_place(self, path: impl AsRef<OsStr>, is_folder: bool) -> Self {
        self.words(Code::MakePlace, &[is_folder.into()], &[path.as_ref()])
    }

    /// A folder, with those above it; one that is there stays as it is.
    pub fn make_folder(self, path: impl AsRef<OsStr>, mode: u32, uid: u32, gid: u32) -> Self {
        self.words(
            Code::MakeFolder,
            &[mode.into(), uid.into(), gid.into()],
            &[path.as_ref()],
        )
    }

    /// A device node; the mode has the type in it (mknod(2)).
    pub fn make_node(self, path: impl AsRef<OsStr>, mode: u32, device: u64, uid: u32, gid: u32) -> Self {
        let words = [mode.into(), device, uid.into(), gid.into()];
        self.words(Code::MakeNode, &words, &[path.as_ref()])
    }

    /// A symbolic link; what is there already stays.
    pub fn make_link(self, text: impl AsRef<OsStr>, path: impl AsRef<OsStr>) -> Self {
        self.words(Code::MakeLink, &[], &[text.as_ref(), path.as_ref()])
    }

    /// A file with this content, 0644.
    pub fn write_file(mut self, path: impl AsRef<OsStr>, content: &[u8]) -> Self {
        let mut payload = Vec::new();
        self.push_text(&mut payload, path.as_ref());
        payload.extend_from_slice(content);
        self.push(Code::WriteFile, &payload)
    }

    /// Covers a path, so that nothing of it can be seen: a folder by an empty one, a file by `nothing`, such as the task's `/dev/null`. One
    /// that is not there is left alone.
    pub fn mask(self, path: impl AsRef<OsStr>, nothing: impl AsRef<OsStr>) -> Self {
        self.words(Code::Mask, &[], &[path.as_ref(), nothing.as_ref()])
    }

    /// What is at a path cannot be written; one that is not there is left alone.
    pub fn make_read_only(self, path: impl AsRef<OsStr>) -> Self {
        self.text(Code::MakeReadOnly, path)
    }

    /// The root itself cannot be written; what is mounted in it is as it was.
    pub fn seal_root(self) -> Self {
        self.push(Code::SealRoot, &[])
    }

    /// sethostname(2).
    pub fn host_name(self, name: impl AsRef<OsStr>) -> Self {
        self.push(Code::HostName, name.as_ref().as_bytes())
    }

    /// An empty session keyring (keyctl(2)).
    pub fn new_keyring(self) -> Self {
        self.push(Code::NewKeyring, &[])
    }

    /// Capabilities that are not in this set, by number as bits, can never be had again (capabilities(7)).
    pub fn bound_capabilities(self, kept: u64) -> Self {
        self.words(Code::BoundCapabilities, &[kept], &[])
    }

    /// The next change of the uid does not take the permitted capabilities away (PR_SET_KEEPCAPS).
    pub fn keep_capabilities(self) -> Self {
        self.push(Code::KeepCapabilities, &[])
    }

    /// Permitted and effective capabilities; `ambient`: also those of a program that is not root's.
    pub fn capabilities(self, permitted: u64, ambient: bool) -> Self {
        self.words(Code::Capabilities, &[permitted, ambient.into()], &[])
    }

    /// No program that is executed gives privileges (PR_SET_NO_NEW_PRIVS).
    pub fn no_new_privileges(self) -> Self {
        self.push(Code::NoNewPrivileges, &[])
    }

    /// From here on system calls go through this filter, an array of struct sock_filter (seccomp(2)).
    pub fn filter_calls(self, filter: &[u8]) -> Self {
        self.push(Code::FilterCalls, filter)
    }

    /// A Landlock ruleset of these LANDLOCK_ACCESS_FS_ rights, as the descriptor `to` (landlock(7)).
    pub fn begin_ruleset(self, handled: u64, to: i32) -> Self {
        self.words(Code::BeginRuleset, &[number(to), handled], &[])
    }

    /// Allows rights at a path: those of a folder if it is one, else those of a file.
    pub fn allow_beneath(
        self,
        ruleset: i32,
        path: impl AsRef<OsStr>,
        folder: u64,
        file: u64,
        is_optional: bool,
    ) -> Self {
        let words = [number(ruleset), folder, file, is_optional.into()];
        self.words(Code::AllowBeneath, &words, &[path.as_ref()])
    }

    /// Allows rights at what an open descriptor is of; a nameless pipe needs none.
    pub fn allow_descriptor(self, ruleset: i32, fd: i32, access: u64) -> Self {
        self.words(Code::AllowDescriptor, &[number(ruleset), number(fd), access], &[])
    }

    /// From here on only what the ruleset allows; closes it.
    pub fn restrict(self, ruleset: i32) -> Self {
        self.words(Code::Restrict, &[number(ruleset)], &[])
    }

    /// The block, for an init in another process.
    pub fn as_bytes(&self) -> io::Result<&[u8]> {
        self.check()?;
        // SAFETY: words are readable as bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.block.as_ptr().cast(), self.block.len() * 8) })
    }

    fn check(&self) -> io::Result<()> {
        if self.has_inner_zero {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a path, argument or variable holds a zero byte",
            ));
        }
        Ok(())
    }

    fn text(mut self, code: Code, text: impl AsRef<OsStr>) -> Self {
        let mut payload = Vec::new();
        self.push_text(&mut payload, text.as_ref());
        self.push(code, &payload)
    }

    fn numbers(self, code: Code, numbers: &[u32]) -> Self {
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.push(code, &payload)
    }

    fn words(mut self, code: Code, words: &[u64], texts: &[&OsStr]) -> Self {
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for text in texts {
            self.push_text(&mut payload, text);
        }
        self.push(code, &payload)
    }

    fn push_text(&mut self, payload: &mut Vec<u8>, text: &OsStr) {
        self.has_inner_zero |= text.as_bytes().contains(&0);
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
    }

    fn push(mut self, code: Code, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(HEAD + payload.len() + 8);
        bytes.extend_from_slice(&(code as u32).to_ne_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.block.extend(
            bytes.chunks_exact(8).map(|word| {
                u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]])
            }),
        );
        self.count += 1;
        self
    }
}

/// Descriptors and flags as they stand in a block.
fn number(number: i32) -> u64 {
    number.cast_unsigned().into()
}

/// Where a child is cloned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Birthplace<'a> {
    /// A directory of cgroup v2 (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// CLONE_NEW flags of the namespaces that are its own.
    pub new_namespaces: i32,
    /// The process, by pidfd, in whose PID namespace it is born (Linux 5.8).
    pub pid_namespace_of: Option<BorrowedFd<'a>>,
}

/// What was started.
#[derive(Debug)]
pub struct Spawned {
    /// Process id; not reused before it has been waited for.
    pub pid: i32,
    /// The same process by descriptor.
    pub pidfd: PidFd,
    /// Says whether the program was executed.
    pub started: Starting,
}

/// The report of the steps: closed by a successful exec.
#[derive(Debug)]
pub struct Starting(OwnedFd);

impl Starting {
    /// Waits for exec or for the step that failed.
    pub fn wait(self) -> io::Result<Result<(), Failure>> {
        let mut bytes = [0; 8];
        loop {
            match crate::readiness::read(&self.0, &mut bytes) {
                Ok(8) => return Ok(Err(Failure::from_bytes(bytes))),
                Ok(_) => return Ok(Ok(())),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The descriptor, for a runtime to wait on.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// Why there is no child.
#[derive(Debug)]
pub enum SpawnError {
    /// Nothing was cloned.
    Clone(io::Error),
    /// The child ran its steps and one failed; it has been reaped.
    Step(Failure),
}

/// Clones a child that runs the steps (clone3(2), CLONE_PIDFD) and returns at once.
pub fn spawn(steps: &mut Steps, birthplace: Birthplace<'_>) -> io::Result<Spawned> {
    clone_child(steps, birthplace, Memory::Copied)
}

/// The same, and waits for exec: returns a program that runs, or the step that failed. Until then the child has the memory of this
/// process, which is not copied (CLONE_VM, CLONE_VFORK), so that steps which change what belongs to the memory, dumpability and
/// credentials, are not for it.
pub fn spawn_and_wait(steps: &mut Steps, birthplace: Birthplace<'_>) -> Result<(i32, PidFd), SpawnError> {
    let spawned = clone_child(steps, birthplace, Memory::Shared).map_err(SpawnError::Clone)?;
    match spawned.started.wait().map_err(SpawnError::Clone)? {
        Ok(()) => Ok((spawned.pid, spawned.pidfd)),
        Err(failure) => {
            let _ = reap_blocking(&spawned.pidfd);
            Err(SpawnError::Step(failure))
        }
    }
}

/// What a child runs in until it executes a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// A copy of this process's.
    Copied,
    /// This process's own; the calling thread sleeps meanwhile.
    Shared,
}

/// What the child needs to know, with nothing in it that is the parent's own.
#[repr(C)]
struct Errand {
    block: *mut u8,
    length: usize,
    status: i32,
}

/// The child's whole life before exec.
extern "C" fn run_errand(errand: *const Errand) -> ! {
    // SAFETY: whoever clones keeps the errand until the child has executed something or is gone.
    let Errand { block, length, status } = unsafe { std::ptr::read(errand) };
    // SAFETY: the block was made by `Steps`, and nobody else looks at it meanwhile.
    let failure = unsafe { steps::run(block, length) };
    let _ = raw::write(status, &failure.to_bytes());
    raw::exit(127);
}

/// Of a child that shares the memory. The steps take a few KiB.
const STACK: usize = 64 * 1024;

fn clone_child(steps: &mut Steps, birthplace: Birthplace<'_>, memory: Memory) -> io::Result<Spawned> {
    steps.check()?;
    let (read_end, write_end) = pipe()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: zeros are valid clone_args.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    let Birthplace {
        cgroup,
        new_namespaces,
        pid_namespace_of,
    } = birthplace;
    arguments.flags = libc::CLONE_PIDFD as u64 | number(new_namespaces);
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    let mut stack: Vec<MaybeUninit<u128>> = Vec::new();
    if memory == Memory::Shared {
        stack.reserve_exact(STACK / size_of::<u128>());
        arguments.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        arguments.stack = stack.as_mut_ptr() as u64;
        arguments.stack_size = STACK as u64;
    }
    let errand = Errand {
        block: steps.block.as_mut_ptr().cast(),
        length: steps.block.len() * 8,
        status: write_end.as_raw_fd(),
    };
    let blocked = BlockedSignals::all();
    let abroad = pid_namespace_of.map(BirthsAbroad::begin).transpose()?;
    // SAFETY: arguments, errand and stack live until the call returns, which with shared memory is after the child's last use of them;
    // a copy of the memory has its own. In neither does another thread touch them.
    let answer = unsafe { clone3(&arguments, &errand) };
    let failure = (answer < 0).then(|| io::Error::from_raw_os_error(-answer as i32));
    drop((abroad, blocked, stack));
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(Spawned {
        pid: answer as i32,
        pidfd: PidFd::from_fd(crate::opened(pidfd)?),
        started: Starting(read_end),
    })
}

/// clone3(2), after which the child runs the errand and never returns here: it may be on a stack of its own, and on the parent's memory.
/// Answers like the kernel, with the error number negated.
///
/// # Safety
/// The arguments must be valid; without a stack they must not share the memory; the errand must be as [`run_errand`] wants it.
unsafe fn clone3(arguments: &libc::clone_args, errand: &Errand) -> isize {
    let answer: isize;
    // SAFETY: in the parent the instruction changes rax, rcx and r11 alone. The child leaves by a call, with a stack that is aligned for it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "and rsp, -16",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") run_errand as extern "C" fn(*const Errand) -> !,
            in("r13") std::ptr::from_ref(errand),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

/// Reaps a child that is about to end.
fn reap_blocking(pidfd: &PidFd) -> io::Result<()> {
    while pidfd.wait()?.is_none() {
        crate::file::poll(
            &mut [crate::file::PollEntry::reading(Some(std::os::fd::AsFd::as_fd(pidfd)))],
            None,
        )?;
    }
    Ok(())
}

/// While this lives the calling thread's children are born in another PID namespace (setns(2); the thread itself stays where it is).
struct BirthsAbroad {
    home: OwnedFd,
}

impl BirthsAbroad {
    fn begin(of: BorrowedFd<'_>) -> io::Result<Self> {
        let home = std::fs::File::open("/proc/thread-self/ns/pid")?.into();
        // SAFETY: plain numbers.
        crate::checked(unsafe { libc::setns(of.as_raw_fd(), libc::CLONE_NEWPID) })?;
        Ok(Self { home })
    }
}

impl Drop for BirthsAbroad {
    fn drop(&mut self) {
        // SAFETY: plain numbers.
        let answer = unsafe { libc::setns(self.home.as_raw_fd(), libc::CLONE_NEWPID) };
        // Whatever this process started from now on would be in somebody else's hands.
        if answer != 0 {
            std::process::abort();
        }
    }
}

/// No handler of the parent may run in the child: all signals are blocked around the clone.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn all() -> Self {
        // SAFETY: sets of this function's own.
        unsafe {
            let mut all: libc::sigset_t = zeroed();
            let mut before: libc::sigset_t = zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::process::ExitStatus;

    fn run(steps: Steps) -> Result<ExitStatus, Failure> {
        let mut steps = steps;
        match spawn_and_wait(&mut steps, Birthplace::default()) {
            Ok((_, pidfd)) => loop {
                if let Some(status) = pidfd.wait().unwrap() {
                    return Ok(status);
                }
                crate::file::poll(&mut [crate::file::PollEntry::reading(Some(pidfd.as_fd()))], None).unwrap();
            },
            Err(SpawnError::Step(failure)) => Err(failure),
            Err(SpawnError::Clone(e)) => panic!("{e}"),
        }
    }

    fn shell(steps: Steps, script: &str) -> Result<ExitStatus, Failure> {
        run(steps.exec("/bin/sh", &["sh", "-c", script], &["A=1", "B=two words"]))
    }

    #[test]
    fn arguments_and_environment_arrive_as_given() {
        let steps = Steps::new()
            .default_signals()
            .new_session()
            .umask(0o027)
            .change_directory("/usr");
        let script = r#"[ "$A$B" = "1two words" ] && [ "$PWD" = /usr ] && [ "$(umask)" = 0027 ] && exit 7"#;
        assert_eq!(shell(steps, script), Ok(ExitStatus::Exited(7)));
        assert_eq!(shell(Steps::new(), "kill -9 $$"), Ok(ExitStatus::Signalled(9)));
    }

    #[test]
    fn limits_and_priorities_are_set_and_not_inherited() {
        let steps = Steps::new()
            .default_scheduling()
            .nice(7)
            .io_priority(3 << 13)
            .resource_limit(libc::RLIMIT_NOFILE, 100, 200)
            .resource_limit(libc::RLIMIT_CORE, 0, 0);
        let script = r#"[ "$(ulimit -Sn) $(ulimit -Hn) $(ulimit -c)" = "100 200 0" ] || exit 1
            [ "$(cut -d' ' -f19 /proc/$$/stat)" = 7 ] || exit 2
            [ "$(cut -d' ' -f41 /proc/$$/stat)" = 0 ] || exit 3"#;
        assert_eq!(shell(steps, script), Ok(ExitStatus::Exited(0)));
        let failure = shell(Steps::new().resource_limit(libc::RLIMIT_NOFILE, 2, 1), "").unwrap_err();
        assert_eq!(
            (Code::of(failure.code.into()), failure.errno),
            (Some(Code::ResourceLimit), libc::EINVAL)
        );
    }

    #[test]
    fn the_step_that_failed_is_named() {
        let failure = shell(Steps::new().umask(0).change_directory("/nowhere/at/all"), "exit 0").unwrap_err();
        assert_eq!(
            (Code::of(failure.code.into()), failure.index),
            (Some(Code::ChangeDirectory), 1)
        );
        assert_eq!(failure.errno, libc::ENOENT);
        let failure = run(Steps::new().exec("/no/such/program", &["x"], &[] as &[&str])).unwrap_err();
        assert_eq!(
            (Code::of(failure.code.into()), failure.errno),
            (Some(Code::Exec), libc::ENOENT)
        );
    }

    #[test]
    fn a_gate_whose_writer_is_gone_never_leads_to_exec() {
        let (gate, writer) = pipe().unwrap();
        drop(writer);
        let failure = shell(Steps::new().gate(gate.as_raw_fd()), "exit 0").unwrap_err();
        assert_eq!(
            (Code::of(failure.code.into()), failure.errno),
            (Some(Code::Gate), libc::ECANCELED)
        );
    }

    #[test]
    fn a_zero_byte_is_refused_before_anything_is_cloned() {
        let mut steps = Steps::new().exec("/bin/true", &["a\0b"], &[] as &[&str]);
        assert_eq!(
            spawn(&mut steps, Birthplace::default()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn descriptors_do_not_leak_into_the_program() {
        let (held, _other) = pipe().unwrap();
        let steps = Steps::new().duplicate(held.as_raw_fd(), 20).close_from(3);
        assert_eq!(
            shell(steps, "[ ! -e /proc/self/fd/20 ] && [ ! -e /proc/$$/fd/20 ]"),
            Ok(ExitStatus::Exited(0))
        );
    }

    /// Needs root and a cgroup2 mount, with or without controllers.
    #[test]
    fn a_child_is_cloned_into_a_v2_cgroup() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .expect("a cgroup2 mount");
        let name = format!("holdfast-sys-test-{}", std::process::id());
        let path = std::path::Path::new(mount.split(' ').nth(1).unwrap()).join(&name);
        std::fs::create_dir(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        let script = format!("grep -q '^0::.*/{name}$' /proc/self/cgroup");
        let mut steps = Steps::new().exec("/bin/sh", &["sh", "-c", &script], &["PATH=/usr/bin:/bin"]);
        let (_, pidfd) = spawn_and_wait(
            &mut steps,
            Birthplace {
                cgroup: Some(directory.as_fd()),
                ..Birthplace::default()
            },
        )
        .unwrap();
        let status = loop {
            if let Some(status) = pidfd.wait().unwrap() {
                break status;
            }
            crate::file::poll(&mut [crate::file::PollEntry::reading(Some(pidfd.as_fd()))], None).unwrap();
        };
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(status, ExitStatus::Exited(0));
    }

    #[test]
    fn system_call_numbers_are_those_of_the_kernel() {
        use holdfast_init::raw::nr;
        let pairs = [
            (nr::READ, libc::SYS_read),
            (nr::WRITE, libc::SYS_write),
            (nr::CLOSE, libc::SYS_close),
            (nr::LSEEK, libc::SYS_lseek),
            (nr::MMAP, libc::SYS_mmap),
            (nr::MUNMAP, libc::SYS_munmap),
            (nr::RT_SIGACTION, libc::SYS_rt_sigaction),
            (nr::RT_SIGPROCMASK, libc::SYS_rt_sigprocmask),
            (nr::IOCTL, libc::SYS_ioctl),
            (nr::PWRITE64, libc::SYS_pwrite64),
            (nr::DUP2, libc::SYS_dup2),
            (nr::SENDMSG, libc::SYS_sendmsg),
            (nr::EXECVE, libc::SYS_execve),
            (nr::CHDIR, libc::SYS_chdir),
            (nr::UMASK, libc::SYS_umask),
            (nr::SETPGID, libc::SYS_setpgid),
            (nr::SETSID, libc::SYS_setsid),
            (nr::SETGROUPS, libc::SYS_setgroups),
            (nr::SETRESUID, libc::SYS_setresuid),
            (nr::SETRESGID, libc::SYS_setresgid),
            (nr::PRCTL, libc::SYS_prctl),
            (nr::CLOCK_GETTIME, libc::SYS_clock_gettime),
            (nr::EXIT_GROUP, libc::SYS_exit_group),
            (nr::WAITID, libc::SYS_waitid),
            (nr::OPENAT, libc::SYS_openat),
            (nr::PPOLL, libc::SYS_ppoll),
            (nr::PIPE2, libc::SYS_pipe2),
            (nr::SETNS, libc::SYS_setns),
            (nr::CLONE3, libc::SYS_clone3),
            (nr::CLOSE_RANGE, libc::SYS_close_range),
            (nr::MKDIR, libc::SYS_mkdir),
            (nr::SYMLINK, libc::SYS_symlink),
            (nr::READLINK, libc::SYS_readlink),
            (nr::LCHOWN, libc::SYS_lchown),
            (nr::CAPSET, libc::SYS_capset),
            (nr::MKNOD, libc::SYS_mknod),
            (nr::PIVOT_ROOT, libc::SYS_pivot_root),
            (nr::CHROOT, libc::SYS_chroot),
            (nr::MOUNT, libc::SYS_mount),
            (nr::UMOUNT2, libc::SYS_umount2),
            (nr::SETHOSTNAME, libc::SYS_sethostname),
            (nr::KEYCTL, libc::SYS_keyctl),
            (nr::SECCOMP, libc::SYS_seccomp),
            (nr::UNSHARE, libc::SYS_unshare),
            (nr::DUP3, libc::SYS_dup3),
            (nr::OPEN_TREE, libc::SYS_open_tree),
            (nr::MOVE_MOUNT, libc::SYS_move_mount),
            (nr::MOUNT_SETATTR, libc::SYS_mount_setattr),
            (nr::LANDLOCK_CREATE_RULESET, libc::SYS_landlock_create_ruleset),
            (nr::LANDLOCK_ADD_RULE, libc::SYS_landlock_add_rule),
            (nr::LANDLOCK_RESTRICT_SELF, libc::SYS_landlock_restrict_self),
        ];
        for (ours, kernel) in pairs {
            assert_eq!(ours as i64, kernel);
        }
    }
}
