//! Processes outside the task, and their sockets and keys.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

use holdfast_sys::attempt;
use nix::errno::Errno::{EACCES, ECONNREFUSED, EINVAL, ENOENT, ENOKEY, ENOSYS, EPERM, ESRCH};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Expected::{Allowed, HostDecides, NotTried, Nothing, Refused};
use super::{Answer, Attempt, Told};

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        "trace the init",
        // Without stopping it.
        |_| Answer::of(ptrace::seize(Pid::from_raw(1), ptrace::Options::empty()), "the init"),
        [Refused(&[EPERM]), Refused(&[EPERM]), Refused(&[EPERM]), Allowed],
    ),
    Attempt::new(
        "read the init's memory",
        read_memory,
        [
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            NotTried,
        ],
    ),
    Attempt::new(
        "the init's root, folder, descriptors and environment",
        read_init,
        [
            Refused(&[EACCES, EPERM]),
            Refused(&[EACCES, EPERM, ENOENT]),
            Refused(&[EACCES, EPERM, ENOENT]),
            Allowed,
        ],
    ),
    Attempt::new(
        "take a descriptor of the init's",
        take_descriptor,
        [
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            Allowed,
        ],
    ),
    Attempt::new(
        "kill the init",
        kill_init,
        [Refused(&[EPERM]), Nothing, Nothing, Nothing],
    ),
    Attempt::new(
        "signal a process of the host",
        signal_host,
        [
            Refused(&[ESRCH, EINVAL]),
            Refused(&[ESRCH, EINVAL]),
            Refused(&[ESRCH, EINVAL]),
            Refused(&[ESRCH, EINVAL]),
        ],
    ),
    Attempt::new("see processes of the host", see_host, [Nothing; 4]),
    Attempt::new(
        "protection from the OOM killer",
        |_| Answer::of(fs::write("/proc/self/oom_score_adj", "-1000"), "it"),
        [Refused(&[EACCES]), Refused(&[EACCES]), Refused(&[EACCES]), HostDecides],
    ),
    Attempt::new(
        "a unix socket of the host",
        |told| Answer::of(UnixStream::connect(&told.socket), "a connection"),
        [
            Refused(&[ENOENT, EACCES]),
            Refused(&[ENOENT]),
            Refused(&[ENOENT, EACCES]),
            Allowed,
        ],
    ),
    Attempt::new(
        "an abstract socket of the host's network",
        connect_abstract,
        // The task is in the host's network namespace here, as its job asked.
        [Allowed, Allowed, Allowed, Allowed],
    ),
    Attempt::new(
        "a key of the host's session",
        request_key,
        [Refused(&[EPERM]), Refused(&[EPERM]), Refused(&[ENOKEY]), Allowed],
    ),
    Attempt::new(
        "another session keyring",
        |_| Answer::of(attempt::join_session_keyring(), "a keyring"),
        [
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            HostDecides,
            HostDecides,
        ],
    ),
    Attempt::new(
        "every capability",
        |_| Answer::of(attempt::all_capabilities(), "them"),
        [Refused(&[EPERM]), Refused(&[EPERM]), Refused(&[EPERM]), HostDecides],
    ),
    Attempt::new(
        "another user",
        |_| Answer::of(nix::unistd::setuid(nix::unistd::Uid::from_raw(1)), "uid 1"),
        [Refused(&[EPERM]), Allowed, Allowed, Allowed],
    ),
    Attempt::new(
        "the name of the host",
        |_| Answer::of(nix::unistd::sethostname("escaped"), "it"),
        [Refused(&[EPERM]), Refused(&[EPERM]), Refused(&[EPERM]), NotTried],
    ),
];

fn read_memory(_: &Told) -> Answer {
    let mut bytes = [0; 16];
    let remote = RemoteIoVec {
        base: 0x400000,
        len: bytes.len(),
    };
    let read = process_vm_readv(Pid::from_raw(1), &mut [IoSliceMut::new(&mut bytes)], &[remote]);
    Answer::of(read, "memory")
}

fn read_init(_: &Told) -> Answer {
    let init = Path::new("/proc/1");
    // Who may overrule permission bits sees how many descriptors there are, and no more.
    let descriptors = (0..8).map(|number| format!("fd/{number}"));
    let links = ["root", "cwd", "exe"].map(str::to_owned).into_iter().chain(descriptors);
    let links = links.map(|name| (name.clone(), fs::read_link(init.join(name)).map(drop)));
    let through = ["root/", "fd/0"].map(|name| (name.to_owned(), File::open(init.join(name)).map(drop)));
    let files = ["environ", "maps", "mem"].map(|name| (name.to_owned(), File::open(init.join(name)).map(drop)));
    Answer::of_all(links.chain(through).chain(files))
}

fn take_descriptor(_: &Told) -> Answer {
    let init = rustix::process::Pid::from_raw(1).unwrap();
    let taken = pidfd_open(init, PidfdFlags::empty()).and_then(|pidfd| {
        let tried = (0..8).map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()));
        tried.reduce(Result::or).unwrap()
    });
    Answer::of(taken, "one")
}

/// The kernel delivers no signal to the first process of a namespace that it has no handler for.
fn kill_init(_: &Told) -> Answer {
    match kill(Pid::from_raw(1), Signal::SIGKILL) {
        // Whoever could read this would be gone.
        Ok(()) => Answer::Nothing,
        Err(e) => Answer::Refused(vec![e]),
    }
}

fn signal_host(told: &Told) -> Answer {
    let killed = kill(Pid::from_raw(told.pid), None).map_err(io::Error::from);
    let pid = rustix::process::Pid::from_raw(told.pid).unwrap();
    let opened = pidfd_open(pid, PidfdFlags::empty()).map(drop).map_err(io::Error::from);
    Answer::of_all([("kill".to_owned(), killed), ("pidfd_open".to_owned(), opened)])
}

/// All that there is are the init, this test's own processes, and nothing else.
fn see_host(told: &Told) -> Answer {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Some(pid)
    });
    let count = pids.filter(|pid| *pid == told.pid || *pid > 1000).count();
    match count {
        0 => Answer::Nothing,
        _ => Answer::Got(format!("{count} processes")),
    }
}

fn connect_abstract(told: &Told) -> Answer {
    let address = SocketAddr::from_abstract_name(&told.abstract_name).unwrap();
    match Answer::of(UnixStream::connect_addr(&address), "a connection") {
        Answer::Refused(errors) if errors == [ECONNREFUSED] => Answer::Nothing,
        answer => answer,
    }
}

fn request_key(told: &Told) -> Answer {
    Answer::of(
        attempt::request_key(&CString::new(told.key.as_str()).unwrap()),
        "the key",
    )
}
