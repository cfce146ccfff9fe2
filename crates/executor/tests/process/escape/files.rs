//! Files, devices and directories of the host.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_sys::attempt;
use nix::errno::Errno::{EACCES, ENOENT, ENXIO, EPERM, EROFS, ESTALE};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{fchdir, geteuid};

use super::Expected::{Allowed, Either, HostDecides, NotTried, Nothing, Refused};
use super::{Answer, Attempt, SETUID_PROGRAM, Told, itself};

/// Not an attempt, but what [`escalate`] asks its copy.
pub const WHO_AM_I: &str = "who-am-i";

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        "make the host's disk",
        make_disk,
        [
            Refused(&[EPERM, EACCES, EROFS]),
            Refused(&[EPERM, EACCES, EROFS]),
            Refused(&[EPERM, EACCES, EROFS]),
            HostDecides,
        ],
    ),
    Attempt::new(
        "make /dev/mem",
        make_memory,
        [
            Refused(&[EPERM, EACCES, EROFS]),
            Refused(&[EPERM, EACCES, EROFS]),
            Refused(&[EPERM, EACCES, EROFS]),
            HostDecides,
        ],
    ),
    Attempt::new(
        "open devices of the host",
        open_devices,
        [Refused(&[ENOENT]), Refused(&[ENOENT]), Refused(&[ENOENT]), HostDecides],
    ),
    Attempt::new(
        "write to the kernel's files",
        write_kernel_files,
        [
            Refused(&[EACCES, EROFS]),
            Refused(&[EROFS, EACCES, EPERM]),
            Refused(&[EACCES, EROFS]),
            Allowed,
        ],
    ),
    Attempt::new(
        "read masked files",
        read_masked,
        [
            Either(&[EACCES, EPERM, ENOENT]),
            Either(&[EACCES, EPERM, ENOENT]),
            // The built-in masks but two of them.
            HostDecides,
            NotTried,
        ],
    ),
    Attempt::new(
        "release agent and other cgroups",
        write_cgroups,
        // On v1 the exec profile, without a namespace of cgroups, shows none.
        [
            Refused(&[EACCES, EROFS]),
            Refused(&[EROFS]),
            Either(&[EACCES, EROFS]),
            Allowed,
        ],
    ),
    Attempt::new(
        "write to system files",
        write_system_files,
        [
            Refused(&[EACCES, EROFS]),
            Refused(&[EROFS]),
            Refused(&[EACCES, EROFS]),
            NotTried,
        ],
    ),
    Attempt::new(
        "a file of the host by its path",
        |told| Answer::of(File::open(&told.secret), "the file"),
        [
            Refused(&[ENOENT, EACCES]),
            Refused(&[ENOENT]),
            Refused(&[ENOENT, EACCES]),
            Allowed,
        ],
    ),
    Attempt::new(
        "a file of the host by its inode",
        open_by_handle,
        [Refused(&[EPERM]), Refused(&[EPERM]), Refused(&[EPERM]), HostDecides],
    ),
    Attempt::new(
        "double chroot",
        double_chroot,
        [Refused(&[EPERM]), Nothing, Nothing, Allowed],
    ),
    Attempt::new("directories among the descriptors", descriptors, [Nothing; 4]),
    Attempt::new(
        "privileges of a set-user-id program",
        escalate,
        [Nothing, Nothing, Allowed, NotTried],
    ),
    Attempt::new(
        "typing into a terminal",
        type_into_terminal,
        [
            Refused(&[ENXIO, EPERM, nix::errno::Errno::EIO]),
            Refused(&[ENXIO, EPERM, nix::errno::Errno::EIO]),
            Refused(&[ENXIO, EPERM, nix::errno::Errno::EIO]),
            NotTried,
        ],
    ),
];

/// Folders in which a task may be able to make something.
fn writable_folders() -> Vec<PathBuf> {
    let mut folders = ["/tmp", "/dev", "/dev/shm", "/"].map(PathBuf::from).to_vec();
    folders.push(env::current_dir().unwrap());
    folders
}

fn make_node(kind: SFlag, device: (u64, u64)) -> Answer {
    let attempt = |folder: PathBuf| {
        let path = folder.join(format!("node-{}", std::process::id()));
        let made = mknod(&path, kind, Mode::S_IRUSR | Mode::S_IWUSR, makedev(device.0, device.1));
        let opened = made.map_err(io::Error::from).and_then(|()| File::open(&path));
        let _ = fs::remove_file(&path);
        (path.display().to_string(), opened)
    };
    Answer::of_all(writable_folders().into_iter().map(attempt))
}

fn make_disk(told: &Told) -> Answer {
    make_node(SFlag::S_IFBLK, told.disk)
}

fn make_memory(_: &Told) -> Answer {
    make_node(SFlag::S_IFCHR, (1, 1))
}

fn open_devices(_: &Told) -> Answer {
    let devices = [
        "mem",
        "port",
        "kmsg",
        "loop-control",
        "loop0",
        "vda",
        "sda",
        "fuse",
        "kvm",
        "tty0",
        "mapper/control",
    ];
    Answer::of_all(devices.map(|name| (name.to_owned(), File::open(Path::new("/dev").join(name)))))
}

/// Opening is enough; nothing is written.
fn for_writing(path: impl AsRef<Path>) -> (String, io::Result<File>) {
    let path = path.as_ref();
    (path.display().to_string(), OpenOptions::new().write(true).open(path))
}

fn write_kernel_files(_: &Told) -> Answer {
    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/sys/module/kernel/parameters/panic",
    ];
    let present = files.into_iter().filter(|path| Path::new(path).exists());
    Answer::of_all(present.map(for_writing))
}

fn read_masked(_: &Told) -> Answer {
    let files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/latency_stats",
        "/sys/firmware",
    ];
    let read = |path: &str| -> io::Result<bool> {
        if fs::metadata(path)?.is_dir() {
            return Ok(fs::read_dir(path)?.next().is_some());
        }
        Ok(File::open(path)?.read(&mut [0; 16])? > 0)
    };
    let tries: Vec<_> = files.iter().map(|path| ((*path).to_owned(), read(path))).collect();
    match tries.iter().any(|(_, tried)| matches!(tried, Ok(true))) {
        true => Answer::of_all(tries.into_iter().filter(|(_, tried)| matches!(tried, Ok(true)))),
        false => Answer::of_all(tries.into_iter().filter(|(_, tried)| tried.is_err())),
    }
}

/// Files of cgroups at most three levels below the mount, the first of which are the hierarchies of v1.
fn write_cgroups(_: &Told) -> Answer {
    let mut folders = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    let mut tries = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        for name in [
            "release_agent",
            "notify_on_release",
            "cgroup.procs",
            "tasks",
            "cgroup.kill",
        ] {
            let tried = for_writing(folder.join(name));
            if !matches!(&tried.1, Err(e) if e.kind() == io::ErrorKind::NotFound) {
                tries.push(tried);
            }
        }
        let made = folder.join("holdfast-test-made");
        if depth > 0 && fs::create_dir(&made).is_ok() {
            let _ = fs::remove_dir(&made);
            return Answer::Got(made.display().to_string());
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < 2);
        folders.extend(below.map(|entry| (entry.path(), depth + 1)).take(20));
    }
    Answer::of_all(tries)
}

fn write_system_files(_: &Told) -> Answer {
    let made = |folder: &str| {
        let path = Path::new(folder).join("holdfast-test-made");
        let made = File::create_new(&path);
        let _ = fs::remove_file(&path);
        (path.display().to_string(), made)
    };
    let folders = ["/usr", "/usr/bin", "/bin"]
        .into_iter()
        .filter(|path| Path::new(path).exists());
    Answer::of_all(folders.map(made).chain([for_writing("/etc/passwd")]))
}

/// The classic way out of what only bind mounts keep: the root of the file system under a file that one has.
fn open_by_handle(_: &Told) -> Answer {
    let paths = ["/", "/usr", super::PROGRAM, "/etc"]
        .into_iter()
        .filter(|path| Path::new(path).exists());
    let tried = paths.map(|path| {
        let mount = File::open(path);
        let opened = mount.and_then(|mount| attempt::open_inode(mount.as_fd(), 2));
        (path.to_owned(), opened)
    });
    match Answer::of_all(tried) {
        // It may open by handle, and this file system numbers its inodes in another way.
        Answer::Refused(errors) if errors.contains(&ESTALE) => Answer::Got("a handle that was looked at".to_owned()),
        answer => answer,
    }
}

fn double_chroot(told: &Told) -> Answer {
    let tried = || -> io::Result<bool> {
        let folder = ["/tmp", "/dev/shm", "."]
            .into_iter()
            .map(|folder| Path::new(folder).join(format!("chroot-{}", std::process::id())))
            .find(|folder| fs::create_dir(folder).is_ok());
        let folder = folder.ok_or(io::Error::from_raw_os_error(libc::EROFS))?;
        let outside = File::open("/")?;
        let entered = rustix::process::chroot(&folder);
        let _ = fs::remove_dir(&folder);
        entered?;
        fchdir(&outside)?;
        for _ in 0..64 {
            env::set_current_dir("..")?;
        }
        rustix::process::chroot(".")?;
        Ok(Path::new(&told.secret).exists())
    };
    match tried() {
        Ok(true) => Answer::Got("the host's root".to_owned()),
        Ok(false) => Answer::Nothing,
        Err(e) => Answer::of(Err::<(), _>(e), ""),
    }
}

fn descriptors(_: &Told) -> Answer {
    // The listing has one itself.
    let numbers = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_leak = |path: &PathBuf| {
        let number: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let is_folder = fs::metadata(path).is_ok_and(|found| found.is_dir());
        let is_listing = fs::read_link(path).is_ok_and(|to| to.ends_with("fd"));
        number > 2 && !is_listing || number <= 2 && is_folder
    };
    let leaks: Vec<String> = numbers
        .filter(is_leak)
        .map(|path| format!("{} {:?}", path.display(), fs::read_link(&path)))
        .collect();
    match leaks.is_empty() {
        true => Answer::Nothing,
        false => Answer::Got(leaks.join(", ")),
    }
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

pub fn tell_who_i_am() -> ! {
    println!("\n{WHO_AM_I} {} {}", geteuid(), capabilities());
    std::process::exit(0);
}

/// A program that belongs to root and has the set-user-id bit.
fn escalate(_: &Told) -> Answer {
    let bits = fs::metadata(SETUID_PROGRAM).unwrap();
    assert!(
        bits.mode() & 0o4000 != 0 && bits.uid() == 0,
        "the copy is not set-user-id root"
    );
    let output = itself(SETUID_PROGRAM, WHO_AM_I).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix(WHO_AM_I)).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let has_more = numbers[1] & !capabilities() != 0;
    match u64::from(geteuid().as_raw()) != numbers[0] || has_more {
        true => Answer::Got(format!("uid {}, capabilities {:x}", numbers[0], numbers[1])),
        false => Answer::Nothing,
    }
}

fn type_into_terminal(_: &Told) -> Answer {
    let own = File::options().read(true).write(true).open("/dev/tty");
    let typed = own.and_then(|terminal| attempt::type_into(terminal.as_fd()));
    Answer::of(typed, "a line")
}
