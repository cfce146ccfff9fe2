use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;

use holdfast_record::{CapabilitySets, SeccompProfile};
use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;

use super::filter::{self, Answer, Check, Condition, Segment, X86_64};
use super::interpreter::{Call, Verdict, run};
use super::table::{CALLS, NAMES, Rule};
use super::*;

const DENIED: Verdict = Verdict::Error(EPERM);
/// The C libraries differ in the type of these (asm-generic/ioctls.h).
const TCGETS: u64 = 0x5401;
const TIOCSTI: u64 = 0x5412;
const TIOCGWINSZ: u64 = 0x5413;
const TIOCLINUX: u64 = 0x541c;
const MISSING: Verdict = Verdict::Error(ENOSYS);

fn program_with(bounding: Set) -> Vec<u8> {
    let sets = CapabilitySets {
        bounding: bounding.bits(),
        permitted: 0,
        ambient: false,
    };
    program(SeccompProfile::V1, Some(sets)).unwrap()
}

fn number_of(name: &str) -> u32 {
    let (_, number) = NAMES.iter().find(|(known, _)| *known == name).expect(name);
    u32::from(*number)
}

fn verdict(held: Set, name: &str, arguments: &[u64]) -> Verdict {
    run(&program_with(held), &Call::of(number_of(name), arguments)).0
}

macro_rules! libc_numbers {
    ($($constant:ident)*) => { [$((stringify!($constant), libc::$constant)),*] };
}

#[test]
fn a_number_is_that_of_its_name() {
    let numbers = libc_numbers! {
        SYS_read SYS_write SYS_open SYS_close SYS_mmap SYS_mprotect SYS_brk SYS_rt_sigreturn SYS_ioctl SYS_socket SYS_socketpair
        SYS_clone SYS_fork SYS_vfork SYS_execve SYS_exit SYS_kill SYS_ptrace SYS_syslog SYS_setuid SYS_capset SYS_mknod SYS_uselib
        SYS_personality SYS_ustat SYS_sysfs SYS_vhangup SYS_modify_ldt SYS_pivot_root SYS__sysctl SYS_prctl SYS_arch_prctl
        SYS_adjtimex SYS_chroot SYS_acct SYS_settimeofday SYS_mount SYS_umount2 SYS_swapon SYS_swapoff SYS_reboot SYS_sethostname
        SYS_setdomainname SYS_iopl SYS_ioperm SYS_init_module SYS_delete_module SYS_quotactl SYS_nfsservctl SYS_getpmsg
        SYS_putpmsg SYS_afs_syscall SYS_tuxcall SYS_security SYS_gettid SYS_futex SYS_set_thread_area SYS_io_setup
        SYS_get_thread_area SYS_lookup_dcookie SYS_epoll_ctl_old SYS_epoll_wait_old SYS_clock_settime SYS_exit_group SYS_tgkill
        SYS_vserver SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_kexec_load SYS_add_key SYS_request_key SYS_keyctl
        SYS_migrate_pages SYS_openat SYS_mknodat SYS_unshare SYS_splice SYS_move_pages SYS_perf_event_open SYS_fanotify_init
        SYS_fanotify_mark SYS_prlimit64 SYS_name_to_handle_at SYS_open_by_handle_at SYS_clock_adjtime SYS_setns
        SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_finit_module SYS_seccomp SYS_getrandom SYS_memfd_create
        SYS_kexec_file_load SYS_bpf SYS_execveat SYS_userfaultfd SYS_membarrier SYS_statx SYS_rseq SYS_pidfd_send_signal
        SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig
        SYS_fsmount SYS_fspick SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
        SYS_process_madvise SYS_epoll_pwait2 SYS_mount_setattr SYS_quotactl_fd SYS_landlock_create_ruleset
        SYS_landlock_add_rule SYS_landlock_restrict_self SYS_memfd_secret SYS_process_mrelease SYS_futex_waitv
        SYS_set_mempolicy_home_node SYS_fchmodat2 SYS_mseal
    };
    for (constant, number) in numbers {
        let name = constant.strip_prefix("SYS_").unwrap();
        assert_eq!(i64::from(number_of(name)), number, "{name}");
    }
    assert!(CALLS.is_sorted_by_key(|(number, _)| number));
    assert!(CALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(NAMES.last(), Some(&("file_setattr", 469)));
}

#[test]
fn a_call_is_answered_as_the_profile_says() {
    let none = Set::EMPTY;
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    for flag in namespaces {
        let flags = (flag | libc::SIGCHLD) as u64;
        assert_eq!(verdict(none, "clone", &[flags]), DENIED, "{flags:#x}");
        assert_eq!(verdict(none, "unshare", &[flags]), DENIED, "{flags:#x}");
        assert_eq!(verdict(Set::SYS_ADMIN, "clone", &[flags]), Verdict::Allow);
    }
    let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    let family = Verdict::Error(EAFNOSUPPORT);
    for (held, name, arguments, expected) in [
        (none, "read", &[][..], Verdict::Allow),
        (none, "execve", &[], Verdict::Allow),
        (none, "file_setattr", &[], Verdict::Allow),
        (none, "ptrace", &[], Verdict::Allow),
        (none, "process_vm_writev", &[], Verdict::Allow),
        (none, "setresuid", &[], Verdict::Allow),
        (none, "capset", &[], Verdict::Allow),
        (none, "landlock_restrict_self", &[], Verdict::Allow),
        (none, "seccomp", &[], Verdict::Allow),
        (none, "mknod", &[], Verdict::Allow),
        (none, "get_mempolicy", &[], Verdict::Allow),
        // Threads, processes, and the upper half that no kernel looks at.
        (none, "clone", &[thread as u64], Verdict::Allow),
        (none, "clone", &[libc::SIGCHLD as u64], Verdict::Allow),
        (
            none,
            "clone",
            &[(libc::CLONE_NEWUSER as u64) << 32 | 0x11],
            Verdict::Allow,
        ),
        // Bit 7 is part of a signal's number there, and a namespace here.
        (none, "clone", &[0x80], Verdict::Allow),
        (none, "unshare", &[0x80], DENIED),
        (none, "unshare", &[libc::CLONE_FS as u64], Verdict::Allow),
        (none, "clone3", &[], MISSING),
        (Set::SYS_ADMIN, "clone3", &[], Verdict::Allow),
        (none, "personality", &[0], Verdict::Allow),
        (none, "personality", &[0xffff_ffff], Verdict::Allow),
        (none, "personality", &[u64::MAX], Verdict::Allow),
        (none, "personality", &[libc::ADDR_NO_RANDOMIZE as u64], DENIED),
        (none, "personality", &[libc::READ_IMPLIES_EXEC as u64], DENIED),
        (none, "socket", &[libc::AF_UNIX as u64], Verdict::Allow),
        (none, "socket", &[libc::AF_INET6 as u64], Verdict::Allow),
        (none, "socket", &[libc::AF_NETLINK as u64, 3, 9], Verdict::Allow),
        (none, "socket", &[libc::AF_PACKET as u64], family),
        (Set::NET_RAW, "socket", &[libc::AF_PACKET as u64], Verdict::Allow),
        (Set::NET_RAW, "socket", &[libc::AF_XDP as u64], Verdict::Allow),
        (Set::NET_RAW, "socket", &[libc::AF_VSOCK as u64], family),
        (none, "socket", &[libc::AF_ALG as u64], family),
        (none, "socket", &[libc::AF_ALG as u64 | 1 << 32], family),
        (none, "socketpair", &[libc::AF_UNIX as u64], Verdict::Allow),
        (none, "socketpair", &[libc::AF_TIPC as u64], family),
        (Set::NET_ADMIN, "socket", &[libc::AF_VSOCK as u64], Verdict::Allow),
        (none, "ioctl", &[0, TIOCGWINSZ], Verdict::Allow),
        (none, "ioctl", &[TIOCSTI, TCGETS], Verdict::Allow),
        (none, "ioctl", &[0, TIOCSTI], DENIED),
        (none, "ioctl", &[0, TIOCSTI | 1 << 40], DENIED),
        (none, "ioctl", &[0, TIOCLINUX], DENIED),
        (none, "mount", &[], DENIED),
        (none, "move_mount", &[], DENIED),
        (none, "setns", &[], DENIED),
        (none, "pivot_root", &[], DENIED),
        (Set::SYS_ADMIN, "mount", &[], Verdict::Allow),
        (Set::SYS_ADMIN, "bpf", &[], Verdict::Allow),
        (Set::BPF, "bpf", &[], Verdict::Allow),
        (Set::BPF, "mount", &[], DENIED),
        (none, "bpf", &[], DENIED),
        (none, "perf_event_open", &[], DENIED),
        (Set::PERFMON, "perf_event_open", &[], Verdict::Allow),
        (none, "userfaultfd", &[], DENIED),
        (none, "open_by_handle_at", &[], DENIED),
        (Set::DAC_READ_SEARCH, "open_by_handle_at", &[], Verdict::Allow),
        (none, "chroot", &[], DENIED),
        (Set::SYS_CHROOT, "chroot", &[], Verdict::Allow),
        (none, "finit_module", &[], DENIED),
        (Set::SYS_MODULE, "finit_module", &[], Verdict::Allow),
        (none, "reboot", &[], DENIED),
        (Set::SYS_BOOT, "reboot", &[], Verdict::Allow),
        (none, "clock_settime", &[], DENIED),
        (Set::SYS_TIME, "settimeofday", &[], Verdict::Allow),
        (none, "syslog", &[], DENIED),
        (Set::SYSLOG, "syslog", &[], Verdict::Allow),
        (none, "modify_ldt", &[], MISSING),
        (none, "create_module", &[], MISSING),
    ] {
        assert_eq!(
            verdict(held, name, arguments),
            expected,
            "{name} {arguments:?} with {held}"
        );
    }
    let all = Set::from_bits(u64::MAX);
    for name in [
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "io_uring_enter",
        "kexec_load",
        "kexec_file_load",
    ] {
        assert_eq!(verdict(all, name, &[]), DENIED, "{name}");
    }
}

#[test]
fn numbers_that_are_not_in_the_table_are_missing_and_other_architectures_are_killed() {
    let program = program(SeccompProfile::V1, None).unwrap();
    // A hole, the next that will be given, x32's read, and what a tracer leaves of a call that it took away.
    for number in [336, 423, 470, 600, 0x4000_0000, u32::MAX] {
        assert_eq!(run(&program, &Call::of(number, &[])).0, MISSING, "{number}");
    }
    const I386: u32 = 0x4000_0003;
    const AARCH64: u32 = 0xc000_00b7;
    for architecture in [I386, AARCH64, 0, X86_64 ^ 1] {
        let call = Call {
            architecture,
            ..Call::of(number_of("getpid"), &[])
        };
        assert_eq!(run(&program, &call).0, Verdict::Kill);
    }
}

/// What a rule says, without a program.
fn expected(rule: Option<Rule>, held: Set, argument: [u64; 6]) -> Verdict {
    let (first, second) = (argument[0] as u32, argument[1] as u32);
    let has = |set: Set| held.intersection(set) != Set::EMPTY;
    let allowed = |condition, error| {
        if condition {
            Verdict::Allow
        } else {
            Verdict::Error(error)
        }
    };
    match rule {
        None | Some(Rule::Absent) => MISSING,
        Some(Rule::Allowed) => Verdict::Allow,
        Some(Rule::Refused) => DENIED,
        Some(Rule::Unlocked(by)) => allowed(has(by), EPERM),
        Some(Rule::CloneThree) => allowed(has(Set::SYS_ADMIN), ENOSYS),
        Some(Rule::Clone) => allowed(has(Set::SYS_ADMIN) || first & 0x7e02_0000 == 0, EPERM),
        Some(Rule::Unshare) => allowed(has(Set::SYS_ADMIN) || first & 0x7e02_0080 == 0, EPERM),
        Some(Rule::Personality) => allowed(matches!(first, 0 | 8 | 0x20000 | 0x20008 | u32::MAX), EPERM),
        Some(Rule::Ioctl) => allowed(has(Set::SYS_ADMIN) || !matches!(second, 0x5412 | 0x541c), EPERM),
        Some(Rule::Socket) => {
            let usual = matches!(first, 1 | 2 | 10 | 16) || has(Set::NET_RAW) && matches!(first, 17 | 44);
            allowed(usual || has(Set::NET_ADMIN), EAFNOSUPPORT)
        }
    }
}

#[test]
fn the_program_says_what_the_table_says_for_every_number_and_every_capability() {
    let singles = (0..64).map(|number| Set::from_bits(1 << number));
    let (mut most_instructions, mut most_steps) = (0, 0);
    for held in [Set::EMPTY, Set::from_bits(u64::MAX)].into_iter().chain(singles) {
        let program = program_with(held);
        most_instructions = most_instructions.max(program.len() / 8);
        for number in (0..700).chain([0x4000_0000, 0x4000_0208, 0x7fff_ffff, 0x8000_0000, u32::MAX]) {
            let rule = CALLS
                .iter()
                .find(|(known, _)| u32::from(*known) == number)
                .map(|(_, rule)| *rule);
            for argument in [
                0,
                1,
                2,
                8,
                16,
                17,
                38,
                40,
                44,
                0x80,
                0x20008,
                0x5412,
                0x541c,
                0x1000_0011,
                u64::MAX,
            ] {
                let call = Call::of(number, &[argument, argument]);
                let (verdict, steps) = run(&program, &call);
                assert_eq!(
                    verdict,
                    expected(rule, held, call.arguments),
                    "{number} {argument:#x} {held}"
                );
                most_steps = most_steps.max(steps);
            }
        }
    }
    // Not a wish but what makes the filter cheap: no jump has to be taken in two, and no call compares with all numbers.
    assert!(most_instructions < 256, "{most_instructions}");
    assert!(most_steps < 24, "{most_steps}");
}

#[test]
fn a_program_that_is_longer_than_a_jump_says_the_same() {
    let answers = [
        Answer::Allow,
        Answer::Error(1),
        Answer::Check(Check {
            argument: 2,
            condition: Condition::OneOf((0..300).map(|number| number * 2).collect()),
            error: 7,
        }),
        Answer::Check(Check {
            argument: 3,
            condition: Condition::NoneOf(vec![5, 6]),
            error: 8,
        }),
        Answer::Check(Check {
            argument: 5,
            condition: Condition::NoneOfBits(6),
            error: 9,
        }),
        Answer::Error(2),
    ];
    let at = |number: u32| &answers[number as usize % answers.len()];
    let segments: Vec<_> = (0..1500)
        .map(|start| Segment {
            start,
            answer: at(start).clone(),
        })
        .collect();
    let instructions = filter::compile(&segments);
    assert!(instructions.len() > 2000);
    let program: Vec<u8> = instructions.iter().flat_map(|one| one.to_bytes()).collect();
    for number in 0..1500 {
        for argument in [0, 1, 4, 5, 6, 598, 599, 600] {
            let say = |allowed, error| if allowed { Verdict::Allow } else { Verdict::Error(error) };
            let expected = match number % 6 {
                0 => Verdict::Allow,
                1 => Verdict::Error(1),
                2 => say(argument % 2 == 0 && argument < 600, 7),
                3 => say(!matches!(argument, 5 | 6), 8),
                4 => say(argument & 6 == 0, 9),
                _ => Verdict::Error(2),
            };
            let call = Call::of(number, &[0, 0, argument, argument, 0, argument]);
            assert_eq!(run(&program, &call).0, expected, "{number} {argument}");
        }
    }
}

/// The filter is the thread's, and ends with it.
fn restricted<T: Send + 'static>(program: Vec<u8>, body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        holdfast_sys::seccomp::restrict_this_thread(&program).unwrap();
        body()
    });
    thread.join().unwrap()
}

#[test]
fn the_kernel_takes_the_filter_and_answers_as_it_says() {
    let program = program(SeccompProfile::V1, None).unwrap();
    let errors = restricted(program, || {
        // Files, sockets and threads go on as ever.
        fs::metadata("/").unwrap();
        drop(UnixStream::pair().unwrap());
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        let error = |result: nix::Result<()>| result.err();
        [
            error(nix::sched::unshare(CloneFlags::CLONE_NEWUTS)),
            error(nix::sched::unshare(CloneFlags::CLONE_FS)),
            error(nix::sched::setns(io::stdin(), CloneFlags::empty())),
            error(nix::unistd::chroot("/")),
            error(nix::mount::mount(
                None::<&str>,
                "/",
                None::<&str>,
                nix::mount::MsFlags::MS_RDONLY,
                None::<&str>,
            )),
            error(nix::sys::personality::set(nix::sys::personality::Persona::ADDR_NO_RANDOMIZE).map(drop)),
            error(nix::sys::personality::get().map(drop)),
        ]
    });
    let denied = Some(Errno::EPERM);
    assert_eq!(errors, [denied, None, denied, denied, denied, denied, None]);
}

#[test]
fn a_capability_opens_what_it_is_for_in_the_kernel_too() {
    let chroot = restricted(program_with(Set::SYS_CHROOT), || nix::unistd::chroot("/nowhere/at/all"));
    // The kernel looks the path up before it looks at capabilities.
    assert_eq!(chroot, Err(Errno::ENOENT));
    let chroot = restricted(program_with(Set::EMPTY), || nix::unistd::chroot("/nowhere/at/all"));
    assert_eq!(chroot, Err(Errno::EPERM));
}
