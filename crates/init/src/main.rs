//! `holdfast-init`: the parent of a task's main process. It holds the wait status and the ends of the output, in no limit of
//! the task; it never syncs, never allocates, and outlives every other part of Holdfast.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::mem::size_of;

use holdfast_init::exit::{ExitRecord, Kind};
use holdfast_init::point::{self, Point};
use holdfast_init::protocol::{self, Event, fd};
use holdfast_init::raw::{self, Clock, errno, nr};
use holdfast_init::steps::{self, Failure};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    raw::exit(125)
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SIGCHLD: u64 = 17;
const O_CLOEXEC: usize = 0o2000000;

extern "C" fn main() -> ! {
    become_subreaper_and_block_signals();
    if let Some(block) = map_plan()
        && let Err(failure) = lay_groundwork(block)
    {
        let _ = raw::write(fd::REPORT, &failure.to_bytes());
        raw::exit(0);
    }
    point::reached_in(fd::CRASH_POINTS, Point::InitWaits);
    // Without an executor there is nothing to do.
    let Some(into_cgroup) = be_told() else { raw::exit(0) };
    let Some((block, length)) = map_plan() else {
        raw::exit(124)
    };
    let mut pipe = [0i32; 2];
    // SAFETY: room for two descriptors.
    if unsafe { raw::checked(nr::PIPE2, pipe.as_mut_ptr() as usize, O_CLOEXEC, 0, 0) }.is_err() {
        raw::exit(123);
    }
    let mut pidfd = -1i32;
    let main = match clone(into_cgroup, &mut pidfd) {
        Ok(0) => {
            // SAFETY: the block was made by the executor; this process exists to run it.
            let failure = unsafe { steps::run(block, length) };
            let _ = raw::write(pipe[1], &failure.to_bytes());
            raw::exit(127);
        }
        Ok(pid) => pid as i32,
        Err(errno) => {
            end_unstarted(Failure {
                code: 0,
                index: 0,
                errno,
            });
            raw::exit(0);
        }
    };
    point::reached_in(fd::CRASH_POINTS, Point::InitClonedMain);
    report(main, pidfd);
    point::reached_in(fd::CRASH_POINTS, Point::InitReported);
    // The environment of the task goes out of this process's memory.
    // SAFETY: nothing refers to the block any more.
    let _ = unsafe { raw::checked(nr::MUNMAP, block as usize, length, 0, 0) };
    for descriptor in [fd::PLAN, fd::GATE, fd::REPORT, pidfd, pipe[1]] {
        raw::close(descriptor);
    }
    // Otherwise the number is another descriptor's, the pipe's for one.
    if into_cgroup {
        raw::close(fd::CGROUP);
    }
    let mut bytes = [0; 8];
    // End of file is what a successful exec leaves.
    match raw::read(pipe[0], &mut bytes) {
        Ok(8) => {
            end_unstarted(Failure::from_bytes(bytes));
            // The executor may have died before it recorded this process, which nobody would end then.
            raw::exit(0);
        }
        _ => {
            leave_old_root();
            point::reached_in(fd::CRASH_POINTS, Point::InitSawStart);
            tell(Event::Started);
        }
    }
    raw::close(pipe[0]);
    reap(main);
    wait_to_be_ended()
}

/// Takes the steps that can be taken before the task is known. The descriptors that are about to be sent need its number.
fn lay_groundwork((block, length): (*mut u8, usize)) -> Result<(), Failure> {
    raw::close(fd::PLAN);
    // The executor and the driver go before, wherever these are woken: this is in advance.
    set_scheduler(SCHED_IDLE);
    // SAFETY: the block was made by the executor; the state that its steps change is that of the namespaces of this process. Nothing
    // refers to it afterwards.
    unsafe {
        let done = steps::run_to_end(block, length);
        let _ = raw::checked(nr::MUNMAP, block as usize, length, 0, 0);
        set_scheduler(SCHED_OTHER);
        done.map(drop)
    }
}

const SCHED_OTHER: usize = 0;
const SCHED_IDLE: usize = 5;

fn set_scheduler(policy: usize) {
    let priority = 0i32;
    // SAFETY: the priority is readable. Where it is refused nothing depends on it.
    let _ = unsafe { raw::checked(nr::SCHED_SETSCHEDULER, 0, policy, &raw const priority as usize, 0) };
}

fn become_subreaper_and_block_signals() {
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    const SIG_BLOCK: usize = 0;
    let all = u64::MAX;
    // SAFETY: plain numbers, and a mask that is readable.
    unsafe {
        let _ = raw::checked(nr::SETSID, 0, 0, 0, 0);
        let _ = raw::checked(nr::PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
        let _ = raw::checked(nr::RT_SIGPROCMASK, SIG_BLOCK, &raw const all as usize, 0, 8);
    }
}

/// Where the task's root was moved over the old one, and not exchanged with it, this process still has the old one, and with it all of
/// the host's: a task that may look at other processes would find it in its /proc. What lies over a root is seen through `..`
/// alone (path_resolution(7)); without anything there it is the root itself.
fn leave_old_root() {
    let root: *const u8 = c"/..".as_ptr().cast();
    // SAFETY: a text that ends in zero. Without the right to do so there was none to build a tree either.
    unsafe {
        let _ = raw::checked(nr::CHROOT, root as usize, 0, 0, 0);
        let _ = raw::checked(nr::CHDIR, root as usize, 0, 0, 0);
    }
}

/// The steps, in writable memory of this process alone.
fn map_plan() -> Option<(*mut u8, usize)> {
    const SEEK_END: usize = 2;
    const PROT_READ_WRITE: usize = 3;
    const MAP_PRIVATE: usize = 2;
    // SAFETY: a fresh mapping of a descriptor of ours.
    unsafe {
        let length = raw::checked(nr::LSEEK, fd::PLAN as usize, 0, SEEK_END, 0).ok()?;
        let answer = raw::syscall(nr::MMAP, 0, length, PROT_READ_WRITE, MAP_PRIVATE, fd::PLAN as usize, 0);
        (answer > 0).then_some((answer as *mut u8, length))
    }
}

/// clone3(2), as a fork: the child has its own memory, since it stays behind at the gate while this process goes on.
fn clone(into_cgroup: bool, pidfd: &mut i32) -> Result<usize, i32> {
    let mut arguments = [0u64; 11];
    arguments[0] = CLONE_PIDFD | if into_cgroup { CLONE_INTO_CGROUP } else { 0 };
    arguments[1] = (pidfd as *mut i32) as u64;
    arguments[4] = SIGCHLD;
    arguments[10] = fd::CGROUP as u64;
    // SAFETY: the words are the kernel's struct clone_args; without CLONE_VM the child has a copy of this stack.
    unsafe { raw::checked(nr::CLONE3, arguments.as_ptr() as usize, size_of::<[u64; 11]>(), 0, 0) }
}

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const CONTROL_HEADER: usize = 16;

/// The kernel's struct msghdr.
#[repr(C)]
struct Message {
    name: usize,
    name_length: u32,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

/// The kernel's struct cmsghdr, and descriptors behind it.
#[repr(C, align(8))]
struct Control<const COUNT: usize> {
    length: usize,
    level: i32,
    kind: i32,
    descriptors: [i32; COUNT],
}

/// Waits for the executor's message and takes what is beside it (unix(7), SCM_RIGHTS). `None`: the executor is gone, or what came is not
/// what was to come. Otherwise whether the main process is to be cloned into a cgroup.
fn be_told() -> Option<bool> {
    const COUNT: usize = protocol::SENT.len();
    let mut byte = [0u8; 1];
    let vector = [byte.as_mut_ptr() as usize, byte.len()];
    let mut control = Control {
        length: 0,
        level: 0,
        kind: 0,
        descriptors: [-1; COUNT],
    };
    let mut message = Message {
        name: 0,
        name_length: 0,
        vectors: vector.as_ptr() as usize,
        vector_count: 1,
        control: &raw mut control as usize,
        control_length: size_of::<Control<COUNT>>(),
        flags: 0,
    };
    loop {
        // SAFETY: the structures refer to memory of the lengths that they say, which lives until the call returns.
        match unsafe { raw::checked(nr::RECVMSG, fd::REPORT as usize, &raw mut message as usize, 0, 0) } {
            Ok(1) => break,
            Err(errno::EINTR) => {}
            _ => return None,
        }
    }
    // SAFETY: the kernel has written there; nothing else looks at it.
    let Control {
        length, descriptors, ..
    } = unsafe { core::ptr::read_volatile(&raw const control) };
    let sent = length.saturating_sub(CONTROL_HEADER) / size_of::<i32>();
    let is_as_agreed = (COUNT - 1..=COUNT).contains(&sent)
        && descriptors
            .iter()
            .zip(protocol::SENT)
            .take(sent)
            .all(|(came, agreed)| *came == agreed);
    is_as_agreed.then_some(sent == COUNT)
}

/// Sends pid and pidfd back (unix(7), SCM_RIGHTS). An executor that is gone hears nothing, and its death shuts the gate.
fn report(main: i32, pidfd: i32) {
    const MSG_NOSIGNAL: usize = 0x4000;
    let pid = main.to_le_bytes();
    let vector = [pid.as_ptr() as usize, protocol::CLONED_SIZE];
    let control = Control {
        length: CONTROL_HEADER + size_of::<i32>(),
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        descriptors: [pidfd],
    };
    let message = Message {
        name: 0,
        name_length: 0,
        vectors: vector.as_ptr() as usize,
        vector_count: 1,
        control: &raw const control as usize,
        control_length: size_of::<Control<1>>(),
        flags: 0,
    };
    // SAFETY: the structures are the kernel's struct msghdr and cmsghdr and live until the call returns.
    let _ = unsafe {
        raw::checked(
            nr::SENDMSG,
            fd::REPORT as usize,
            &raw const message as usize,
            MSG_NOSIGNAL,
            0,
        )
    };
}

fn tell(event: Event) {
    let _ = raw::write(fd::EVENTS, &[event as u8]);
}

fn record(kind: Kind) {
    let record = ExitRecord {
        kind,
        realtime_ns: raw::clock_ns(Clock::Realtime),
        boottime_ns: raw::clock_ns(Clock::Boottime),
    };
    let bytes = record.to_bytes();
    // SAFETY: the bytes are readable; the file is this process's own.
    let _ = unsafe { raw::checked(nr::PWRITE64, fd::EXIT as usize, bytes.as_ptr() as usize, bytes.len(), 0) };
}

fn end_unstarted(failure: Failure) {
    record(Kind::NotStarted {
        step: failure.step(),
        errno: failure.errno,
    });
    tell(Event::NotStarted);
}

/// Reaps every child until none is left. The main process is first looked at, then recorded, then told, then reaped, so that
/// its status is lost at no instant.
fn reap(main: i32) {
    const P_ALL: usize = 0;
    const P_PID: usize = 1;
    const WEXITED: usize = 4;
    const WNOWAIT: usize = 0x0100_0000;
    const CLD_EXITED: i32 = 1;
    loop {
        // The kernel's struct siginfo on 64 bits: code at word 2, pid at word 4, status at word 6.
        let mut info = [0i32; 32];
        let at = info.as_mut_ptr() as usize;
        // SAFETY: room for a siginfo.
        match unsafe { raw::checked(nr::WAITID, P_ALL, 0, at, WEXITED | WNOWAIT) } {
            Ok(_) => {}
            Err(errno::EINTR) => continue,
            Err(_) => return,
        }
        let (code, pid, status) = (info[2], info[4], info[6]);
        if pid == main {
            point::reached_in(fd::CRASH_POINTS, Point::InitSawExit);
            record(if code == CLD_EXITED {
                Kind::Exited(status)
            } else {
                Kind::Signalled(status)
            });
            point::reached_in(fd::CRASH_POINTS, Point::ExitRecorded);
            tell(Event::Exited);
            point::reached_in(fd::CRASH_POINTS, Point::ExitTold);
        }
        // SAFETY: room for a siginfo.
        let _ = unsafe { raw::checked(nr::WAITID, P_PID, pid as usize, at, WEXITED) };
        if pid == main {
            point::reached_in(fd::CRASH_POINTS, Point::MainReaped);
        }
    }
}

/// Holds the output and the record until the executor, this one or the next, has drained and told, and kills this process.
fn wait_to_be_ended() -> ! {
    loop {
        // SAFETY: no descriptors, no time limit; every signal that can be blocked is.
        unsafe { raw::syscall(nr::PPOLL, 0, 0, 0, 0, 0, 0) };
    }
}
