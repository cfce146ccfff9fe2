//! What a root of a task's own is built with.

use holdfast_sys::probe::Answer;
use thiserror::Error;

use super::{Calls, Files, Kernel};

const MOUNTS: &str = "/proc/self/mountinfo";

/// What mounts can be made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSupport {
    open_tree: Answer,
    mount_setattr: Answer,
    /// What this process has as its root.
    pub root: RootMount,
    /// Layers over each other.
    pub overlay: Overlay,
}

/// Whether pivot_root(2) can leave the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMount {
    /// It can.
    Leavable,
    /// The first file system of all, `rootfs`, cannot be left (pivot_root(2), NOTES): a host that runs from its initial
    /// ramdisk.
    Rootfs,
    /// No mount is seen at `/`; it will most likely work.
    Unknown,
}

impl RootMount {
    /// Of this process. The list of mounts, which is long on some hosts, is read only where `/` is in memory at all.
    pub fn of_this_process() -> RootMount {
        match rustix::fs::statfs("/") {
            Ok(found) => RootMount::of(found.f_type, || std::fs::read_to_string(MOUNTS).unwrap_or_default()),
            Err(_) => RootMount::Unknown,
        }
    }

    fn of(magic: rustix::fs::FsWord, mountinfo: impl FnOnce() -> String) -> RootMount {
        // What rootfs is made of (Documentation/filesystems/ramfs-rootfs-initramfs.rst, linux/magic.h).
        const RAMFS: rustix::fs::FsWord = 0x8584_58f6;
        const TMPFS: rustix::fs::FsWord = 0x0102_1994;
        match magic {
            RAMFS | TMPFS => RootMount::in_mountinfo(&mountinfo()),
            _ => RootMount::Leavable,
        }
    }

    fn in_mountinfo(mountinfo: &str) -> RootMount {
        match kind_of_root(mountinfo) {
            Some("rootfs") => RootMount::Rootfs,
            Some(_) => RootMount::Leavable,
            None => RootMount::Unknown,
        }
    }
}

/// Whether there is an overlay file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// The kernel has it.
    There,
    /// The first mount loads it.
    Loadable,
    /// Neither.
    Missing,
}

/// A call without which no root can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MissingCall {
    /// The kernel is too old.
    #[error("Linux 5.12 ({0})")]
    Absent(&'static str),
    /// A filter of system calls on this process, a container's.
    #[error("{0}, which a filter of system calls refuses to this process")]
    Denied(&'static str),
}

impl MountSupport {
    pub(super) fn look(files: &Files, calls: &Calls, kernel: &Kernel) -> MountSupport {
        let mountinfo = files.read(MOUNTS).unwrap_or_default();
        MountSupport {
            open_tree: calls.open_tree,
            mount_setattr: calls.mount_setattr,
            root: RootMount::in_mountinfo(&mountinfo),
            overlay: overlay(files, &kernel.release),
        }
    }

    /// The first call that is not to be had.
    pub fn require_calls(&self) -> Result<(), MissingCall> {
        for (answer, call) in [
            (self.open_tree, "open_tree(2)"),
            (self.mount_setattr, "mount_setattr(2)"),
        ] {
            match answer {
                Answer::There => {}
                Answer::Absent => return Err(MissingCall::Absent(call)),
                Answer::Denied => return Err(MissingCall::Denied(call)),
            }
        }
        Ok(())
    }
}

fn kind_of_root(mountinfo: &str) -> Option<&str> {
    mount_lines(mountinfo)
        .rfind(|mount| mount.point == "/")
        .map(|mount| mount.kind)
}

fn overlay(files: &Files, release: &str) -> Overlay {
    let is_known = files.read("/proc/filesystems").is_ok_and(|list| {
        list.lines()
            .any(|line| line.trim_start_matches("nodev").trim() == "overlay")
    });
    if is_known {
        return Overlay::There;
    }
    // What modprobe(8) would find.
    let folders = ["/lib/modules", "/usr/lib/modules"];
    let is_listed = folders.iter().any(|folder| {
        files
            .read(format!("{folder}/{release}/modules.dep"))
            .is_ok_and(|list| list.lines().any(|line| line.contains("/overlay.ko")))
    });
    if is_listed { Overlay::Loadable } else { Overlay::Missing }
}

/// What of a line of proc_pid_mountinfo(5) matters.
struct Mount<'a> {
    point: String,
    kind: &'a str,
}

fn mount_lines(mountinfo: &str) -> impl DoubleEndedIterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        Some(Mount {
            point: unescaped(mount.split(' ').nth(4)?),
            kind: system.split(' ').next()?,
        })
    })
}

/// The kernel writes blanks and the like as octal numbers.
fn unescaped(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (escape, letter)| text.replace(escape, letter))
}

/// Where the file system that holds `path` is mounted, and its kind. `path` must be absolute and without links.
pub fn mount_of(files: &Files, path: &std::path::Path) -> Option<(String, String)> {
    let mountinfo = files.read(MOUNTS).ok()?;
    // Of mounts at one point the last lies over the others, and max_by_key takes the last of equals.
    mount_lines(&mountinfo)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.len())
        .map(|mount| (mount.point, mount.kind.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_file_system_of_all_cannot_be_left() {
        const RAMFS: rustix::fs::FsWord = 0x8584_58f6;
        const TMPFS: rustix::fs::FsWord = 0x0102_1994;
        const EXT4: rustix::fs::FsWord = 0xef53;
        let initramfs = "1 1 0:2 / / rw - rootfs rootfs rw,size=1k\n20 1 0:21 / /proc rw - proc proc rw\n";
        let tmpfs = "30 29 0:40 / / rw - tmpfs tmpfs rw\n20 30 0:21 / /proc rw - proc proc rw\n";
        assert_eq!(RootMount::of(TMPFS, || initramfs.to_owned()), RootMount::Rootfs);
        assert_eq!(RootMount::of(RAMFS, || initramfs.to_owned()), RootMount::Rootfs);
        // A container whose root is in memory.
        assert_eq!(RootMount::of(TMPFS, || tmpfs.to_owned()), RootMount::Leavable);
        // Mounted over the first, which is still there below it.
        assert_eq!(
            RootMount::of(TMPFS, || format!("{initramfs}{tmpfs}")),
            RootMount::Leavable
        );
        assert_eq!(RootMount::of(TMPFS, String::new), RootMount::Unknown);
        assert_eq!(
            RootMount::of(EXT4, || panic!("the list of mounts was read")),
            RootMount::Leavable
        );
    }
}
