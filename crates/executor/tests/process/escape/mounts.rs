//! Changing what is seen.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno::{self, EACCES, EBUSY, EINVAL, ENOENT, ENOSYS, EPERM};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{
    FsOpenFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, fsopen, mount, mount_bind,
    mount_change, mount_remount, open_tree, unmount,
};

use super::Expected::{Allowed, HostDecides, NotTried, Refused};
use super::{Answer, Attempt, Told};

const NOT_PERMITTED: super::Expected = Refused(&[EPERM]);

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        "mount a tmpfs",
        |_| Answer::of(mount_tmpfs("/dev/shm"), "a tmpfs"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "mount proc, sysfs and cgroups again",
        mount_kernel_files,
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "mount the host's disk",
        mount_disk,
        [
            Refused(&[EPERM, ENOENT]),
            Refused(&[EPERM, ENOENT]),
            Refused(&[EPERM, ENOENT]),
            NotTried,
        ],
    ),
    Attempt::new(
        "remount the root for writing",
        |_| Answer::of(mount_remount("/", MountFlags::BIND, ""), "a root that can be written"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "uncover what is masked",
        uncover,
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "bind over something",
        |_| Answer::of(mount_bind("/dev/shm", "/proc/sys"), "a bind"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "make mounts propagate",
        |_| Answer::of(mount_change("/", MountPropagationFlags::SHARED), "a shared root"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "the new mount calls",
        new_calls,
        [
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            Refused(&[EPERM, ENOSYS]),
            Allowed,
        ],
    ),
    Attempt::new(
        "pivot_root",
        |_| Answer::of(rustix::process::pivot_root(".", "."), "another root"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NotTried],
    ),
    Attempt::new(
        "namespaces by their files",
        join_namespaces,
        [
            Refused(&[EPERM, EACCES, EINVAL]),
            Refused(&[EPERM, EACCES, EINVAL]),
            Refused(&[EPERM, EACCES, EINVAL]),
            HostDecides,
        ],
    ),
    Attempt::new(
        "new namespaces without privileges",
        |_| Answer::of(unshare(CloneFlags::CLONE_NEWNS), "a mount namespace"),
        [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, Allowed],
    ),
    Attempt::new(
        "a user namespace",
        |_| Answer::of(new_user(), "all capabilities in a user namespace"),
        [NOT_PERMITTED, NOT_PERMITTED, HostDecides, HostDecides],
    ),
    Attempt::new(
        "uncover what is masked in a user namespace",
        uncover_as_new_user,
        [NOT_PERMITTED, NOT_PERMITTED, Refused(&[EPERM, EINVAL, EBUSY]), NotTried],
    ),
];

fn mount_tmpfs(path: &str) -> io::Result<()> {
    Ok(mount("tmpfs", path, "tmpfs", MountFlags::empty(), None)?)
}

fn mount_kernel_files(_: &Told) -> Answer {
    let tried = ["proc", "sysfs", "cgroup2", "devpts", "mqueue"].map(|kind| {
        let mounted = mount(kind, "/dev/shm", kind, MountFlags::empty(), None);
        (kind.to_owned(), mounted)
    });
    Answer::of_all(tried)
}

fn mount_disk(_: &Told) -> Answer {
    let tried = ["ext4", "xfs", "btrfs", "vfat"].map(|kind| {
        let mounted = mount("/dev/vda", "/dev/shm", kind, MountFlags::RDONLY, None);
        (kind.to_owned(), mounted)
    });
    Answer::of_all(tried)
}

fn uncover(_: &Told) -> Answer {
    let covers = ["/proc/kcore", "/proc/sys", "/proc", "/sys", "/dev", "/dev/shm"];
    let covers = covers.into_iter().filter(|path| Path::new(path).exists());
    let tried = covers.map(|path| (path.to_owned(), unmount(path, UnmountFlags::DETACH)));
    let writable = ["/proc/sys", "/sys"].map(|path| {
        let remounted = mount_remount(path, MountFlags::BIND, "");
        (format!("{path} for writing"), remounted)
    });
    Answer::of_all(tried.chain(writable))
}

fn new_calls(_: &Told) -> Answer {
    let opened = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map(drop);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let copied = open_tree(rustix::fs::CWD, "/", flags).map(drop);
    Answer::of_all([("fsopen".to_owned(), opened), ("open_tree".to_owned(), copied)])
}

fn join_namespaces(_: &Told) -> Answer {
    let kinds = ["mnt", "pid", "ipc", "uts", "net", "cgroup", "user"];
    let tried = kinds.iter().flat_map(|kind| {
        ["self", "1"].map(|process| {
            let path = Path::new("/proc").join(process).join("ns").join(kind);
            let file = File::open(&path);
            let joined = file.and_then(|file| Ok(setns(file.as_fd(), CloneFlags::empty())?));
            (path.display().to_string(), joined)
        })
    });
    Answer::of_all(tried.collect::<Vec<_>>())
}

/// Everybody may be root among nobody else, where the host allows it.
fn new_user() -> Result<(), Errno> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    written.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

fn uncover_as_new_user(told: &Told) -> Answer {
    match new_user() {
        Ok(()) => uncover(told),
        Err(e) => Answer::Refused(vec![e]),
    }
}
