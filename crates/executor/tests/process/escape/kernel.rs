//! The kernel itself.

use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_sys::attempt;
use nix::errno::Errno::{EACCES, EAFNOSUPPORT, EINVAL, ENOENT, ENOSYS, EPERM};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use rustix::system::{RebootCommand, init_module, reboot};

use super::Expected::{Allowed, HostDecides, NotTried, Refused};
use super::{Answer, Attempt, Told};

/// ENOSYS: the kernel was built without it.
const NOT_PERMITTED: super::Expected = Refused(&[EPERM, ENOSYS]);

const NO_SOCKET: super::Expected = Refused(&[EPERM, EAFNOSUPPORT]);

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        "bpf",
        |_| Answer::of(attempt::bpf(), "a map"),
        [
            NOT_PERMITTED,
            NOT_PERMITTED,
            Refused(&[EPERM, ENOSYS, EINVAL]),
            HostDecides,
        ],
    ),
    Attempt::new(
        "perf_event_open of a whole CPU",
        |_| Answer::of(attempt::watch_cpu(), "its counters"),
        [
            NOT_PERMITTED,
            NOT_PERMITTED,
            Refused(&[EPERM, EACCES, ENOSYS, ENOENT]),
            HostDecides,
        ],
    ),
    Attempt::new(
        "kexec",
        |_| Answer::of(attempt::kexec(), "another kernel"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "load a module",
        |_| Answer::of(init_module(&[], c""), "a module"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "reboot",
        |_| Answer::of(reboot(RebootCommand::CadOff), "the switch"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "set the clock",
        set_clock,
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "swapon",
        |_| Answer::of(attempt::swap_on(), "a swap file"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "process accounting",
        |_| Answer::of(nix::unistd::acct::disable(), "its switch"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "ports of the machine",
        |_| Answer::of(attempt::ports(), "all of them"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "packet and raw sockets",
        raw_sockets,
        [NO_SOCKET, NO_SOCKET, NO_SOCKET, Allowed],
    ),
    Attempt::new(
        "userfaultfd",
        |_| Answer::of(attempt::user_faults(), "faults of the kernel"),
        [NOT_PERMITTED, NOT_PERMITTED, HostDecides, HostDecides],
    ),
    Attempt::new(
        "io_uring",
        |_| Answer::of(attempt::ring(), "a ring"),
        [NOT_PERMITTED, NOT_PERMITTED, HostDecides, HostDecides],
    ),
];

/// To what it is.
fn set_clock(_: &Told) -> Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Answer::of(
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(now)),
        "it",
    )
}

fn raw_sockets(_: &Told) -> Answer {
    let packet = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).map(drop);
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    )
    .map(drop);
    Answer::of_all([("packet".to_owned(), packet), ("raw".to_owned(), raw)])
}
