//! The tree as the task will see it, before it exists: which file of the host is behind a path of the task.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use holdfast_record::{Entry, Isolation, MountFlags, Root, RootBase, What};
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::overlay;
use crate::access::Permissions;

/// Symbolic links that the kernel follows in one path (path_resolution(7)).
pub(crate) const MAX_LINKS: u32 = 40;
/// Types in `st_mode` (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
/// What a [`What::Dev`] has for nodes and links.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What a file is, as far as a plan cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link with its text.
    Link(PathBuf),
    /// Something else.
    Other,
}

/// Whether a file's mount lets it be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executes {
    /// As the mount of the host does.
    AsOnHost,
    /// By a mount of the task's own.
    Yes,
    /// Not at all.
    No,
}

/// What a file is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The directory that is the root.
    Base,
    /// A folder of an overlay, which other tasks share.
    Layer,
    /// Something of the host that was put in.
    Bind {
        /// It cannot be written.
        read_only: bool,
    },
    /// Of the kernel, and read-only or not to be added to.
    System,
    /// It will be made for the task.
    Made,
}

/// What is at a path of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: FileKind,
    /// Whom it belongs to, and its mode.
    pub permissions: Permissions,
    /// The file of the host behind it; absent: it will be made for the task.
    pub host: Option<PathBuf>,
    pub(crate) origin: Origin,
    executes: Executes,
}

impl Found {
    fn on_host(path: PathBuf, origin: Origin, executes: Executes) -> io::Result<Found> {
        let metadata = fs::symlink_metadata(&path)?;
        Found::of_metadata(path, &metadata, origin, executes)
    }

    /// Of a file in a layer: overlayfs executes what it shows.
    pub(super) fn in_layer(path: PathBuf, metadata: &Metadata) -> io::Result<Found> {
        Found::of_metadata(path, metadata, Origin::Layer, Executes::Yes)
    }

    fn of_metadata(path: PathBuf, metadata: &Metadata, origin: Origin, executes: Executes) -> io::Result<Found> {
        let kind = if metadata.is_dir() {
            FileKind::Directory
        } else if metadata.is_file() {
            FileKind::Regular
        } else if metadata.is_symlink() {
            FileKind::Link(fs::read_link(&path)?)
        } else {
            FileKind::Other
        };
        Ok(Found {
            kind,
            permissions: Permissions::from(metadata),
            host: Some(path),
            origin,
            executes,
        })
    }

    fn made(kind: FileKind, mode: u32, (uid, gid): (u32, u32), executes: Executes) -> Found {
        Found {
            kind,
            permissions: Permissions { uid, gid, mode },
            host: None,
            origin: Origin::Made,
            executes,
        }
    }

    fn folder(mode: u32) -> Found {
        Found::made(FileKind::Directory, DIRECTORY | mode, (0, 0), Executes::Yes)
    }

    fn link(to: &Path) -> Found {
        let kind = FileKind::Link(to.to_owned());
        Found::made(kind, SYMLINK | 0o777, (0, 0), Executes::Yes)
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::Regular
    }

    /// True if nothing can be executed where it is (mount(8), option `noexec`).
    pub fn is_noexec(&self) -> io::Result<bool> {
        match (self.executes, &self.host) {
            (Executes::No, _) => Ok(true),
            (Executes::Yes, _) | (Executes::AsOnHost, None) => Ok(false),
            (Executes::AsOnHost, Some(path)) => Ok(statvfs(path)?.flags().contains(FsFlags::ST_NOEXEC)),
        }
    }
}

/// What everything else is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Base {
    /// Nothing is there.
    Empty,
    /// A directory of the host without links in its path.
    Tree(PathBuf),
    /// See [`overlay::look`].
    Layers(Vec<PathBuf>),
}

/// The tree of a task. Paths are those of the task, sources those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    base: Base,
    /// With targets as they are once the links in them are followed, in the order in which they are put in.
    entries: Vec<(PathBuf, What)>,
    masked: Vec<PathBuf>,
}

impl View {
    /// The host's own tree.
    pub fn host() -> View {
        View {
            base: Base::Tree("/".into()),
            entries: Vec::new(),
            masked: Vec::new(),
        }
    }

    /// Of a task that is kept apart in this way.
    pub fn of(isolation: &Isolation) -> View {
        let base = match &isolation.root {
            None => Base::Tree("/".into()),
            Some(Root { base, .. }) => match base {
                RootBase::Directory(dir) => Base::Tree(real(dir)),
                RootBase::Empty => Base::Empty,
                RootBase::Overlay(layers) => Base::Layers(layers.iter().map(|layer| real(layer)).collect()),
            },
        };
        let mut view = View {
            base,
            entries: Vec::new(),
            masked: Vec::new(),
        };
        for entry in &isolation.entries {
            view.put(entry);
        }
        view.masked.clone_from(&isolation.masked);
        view
    }

    /// True if it is the host's own tree, without anything put into it.
    pub fn is_host(&self) -> bool {
        self.entries.is_empty() && self.masked.is_empty() && self.base == Base::Tree("/".into())
    }

    /// Puts one thing in, over what is there.
    pub(super) fn put(&mut self, Entry { target, what }: &Entry) {
        let what = match what {
            What::Bind {
                source,
                flags,
                propagation,
                optional,
            } => {
                let source = real(source);
                if *optional && fs::symlink_metadata(&source).is_err() {
                    return;
                }
                What::Bind {
                    source,
                    flags: *flags,
                    propagation: *propagation,
                    optional: *optional,
                }
            }
            what => what.clone(),
        };
        // mount(2) follows a link at the end; where something is already no link is made.
        let follows_last = !matches!(what, What::Link { .. });
        let target = self.place(target, follows_last);
        self.entries.push((target, what));
    }

    /// Where a path is once its links are followed. What is not there stays as it is written.
    fn place(&self, target: &Path, follows_last: bool) -> PathBuf {
        let mut real_path = PathBuf::from("/");
        let mut ahead = components(target);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                real_path.pop();
                continue;
            }
            let next = real_path.join(&name);
            match self.look(&next) {
                Ok(Found {
                    kind: FileKind::Link(to),
                    ..
                }) if links < MAX_LINKS && (follows_last || !ahead.is_empty()) => {
                    links += 1;
                    for name in components(&to).into_iter().rev() {
                        ahead.push_front(name);
                    }
                    if to.is_absolute() {
                        real_path = PathBuf::from("/");
                    }
                }
                _ => real_path = next,
            }
        }
        real_path
    }

    /// The place of a path once its links are followed, and what is there; where nothing is, the nearest directory above it.
    pub(super) fn nearest(&self, target: &Path) -> io::Result<(PathBuf, Found)> {
        let mut place = self.place(target, true);
        loop {
            match self.look(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && place.pop() => {}
                found => return found.map(|found| (place, found)),
            }
        }
    }

    /// What is at a path, all of whose directories are there and no links. [`crate::access::walk`] follows any path.
    pub fn look(&self, path: &Path) -> io::Result<Found> {
        let covered = self.masked.iter().find(|masked| path.starts_with(masked));
        let found = match covered {
            Some(masked) if masked != path => return Err(missing()),
            _ => self.look_behind_masks(path)?,
        };
        if covered.is_none() || !(found.is_dir() || found.is_file()) {
            return Ok(found);
        }
        Ok(if found.is_dir() {
            Found::folder(0o755)
        } else {
            Found::made(FileKind::Other, CHARACTER | 0o666, (0, 0), Executes::No)
        })
    }

    fn look_behind_masks(&self, path: &Path) -> io::Result<Found> {
        // What is made only where nothing is, and folders that are made on the way to what is put in.
        let mut otherwise = None;
        let mut is_on_the_way = false;
        for (target, what) in self.entries.iter().rev() {
            if target != path && target.starts_with(path) {
                is_on_the_way = true;
                continue;
            }
            let Ok(rest) = path.strip_prefix(target) else {
                continue;
            };
            let is_end = rest.as_os_str().is_empty();
            match what {
                What::Link { to } if is_end => otherwise = Some(Found::link(to)),
                What::Folder { mode, uid, gid } if is_end => {
                    let mode = DIRECTORY | mode;
                    otherwise = Some(Found::made(FileKind::Directory, mode, (*uid, *gid), Executes::Yes));
                }
                What::Link { .. } | What::Folder { .. } => {}
                mount => return or(look_into(mount, rest), otherwise, is_on_the_way),
            }
        }
        let in_base = match &self.base {
            Base::Empty if path == Path::new("/") => Ok(Found::folder(0o755)),
            Base::Empty => Err(missing()),
            Base::Tree(dir) => Found::on_host(
                below(dir, path.strip_prefix("/").unwrap_or(path)),
                Origin::Base,
                Executes::AsOnHost,
            ),
            Base::Layers(layers) => overlay::look(layers, path.strip_prefix("/").unwrap_or(path)),
        };
        or(in_base, otherwise, is_on_the_way)
    }
}

/// What a mount has at `rest`; empty: the mount itself.
fn look_into(mount: &What, rest: &Path) -> io::Result<Found> {
    let is_end = rest.as_os_str().is_empty();
    let executes = |flags: &MountFlags, otherwise| if flags.no_exec { Executes::No } else { otherwise };
    match mount {
        What::Bind { source, flags, .. } => {
            let origin = Origin::Bind {
                read_only: flags.read_only,
            };
            Found::on_host(below(source, rest), origin, executes(flags, Executes::AsOnHost))
        }
        What::Proc => Found::on_host(below(Path::new("/proc"), rest), Origin::System, Executes::No),
        What::Sysfs => Found::on_host(below(Path::new("/sys"), rest), Origin::System, Executes::No),
        What::Cgroups => Found::on_host(below(Path::new("/sys/fs/cgroup"), rest), Origin::System, Executes::No),
        What::Dev => look_into_dev(rest),
        What::Mqueue if is_end => {
            let mode = DIRECTORY | 0o1777;
            Ok(Found::made(FileKind::Directory, mode, (0, 0), Executes::No))
        }
        What::Tmpfs {
            mode, uid, gid, flags, ..
        } if is_end => {
            let (mode, executes) = (DIRECTORY | mode, executes(flags, Executes::Yes));
            Ok(Found::made(FileKind::Directory, mode, (*uid, *gid), executes))
        }
        What::File { .. } if is_end => Ok(Found::made(FileKind::Regular, REGULAR | 0o444, (0, 0), Executes::Yes)),
        What::Node {
            is_char,
            mode,
            uid,
            gid,
            ..
        } if is_end => {
            let class = if *is_char { CHARACTER } else { BLOCK };
            Ok(Found::made(FileKind::Other, class | mode, (*uid, *gid), Executes::No))
        }
        What::File { .. } | What::Node { .. } => Err(Errno::ENOTDIR.into()),
        What::Mqueue | What::Tmpfs { .. } | What::Folder { .. } | What::Link { .. } => Err(missing()),
    }
}

fn look_into_dev(rest: &Path) -> io::Result<Found> {
    let is = |name: &str| rest == Path::new(name);
    if is("") || is("pts") {
        return Ok(Found::folder(0o755));
    }
    if DEVICES.iter().any(|name| is(name)) {
        return Ok(Found::made(FileKind::Other, CHARACTER | 0o666, (0, 0), Executes::No));
    }
    match DEVICE_LINKS.iter().find(|(name, _)| is(name)) {
        Some((_, to)) => Ok(Found::link(Path::new(to))),
        None => Err(missing()),
    }
}

fn or(found: io::Result<Found>, otherwise: Option<Found>, is_on_the_way: bool) -> io::Result<Found> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match otherwise {
            Some(otherwise) => Ok(otherwise),
            None if is_on_the_way => Ok(Found::folder(0o755)),
            None => Err(error),
        },
        found => found,
    }
}

fn missing() -> io::Error {
    Errno::ENOENT.into()
}

/// `base/rest`, without the slash at its end that joining nothing would leave.
pub(super) fn below(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        base.to_owned()
    } else {
        base.join(rest)
    }
}

/// The links in a source are the host's. What cannot be followed is found missing later, by name.
fn real(source: &Path) -> PathBuf {
    source.canonicalize().unwrap_or_else(|_| source.to_owned())
}

/// Names and `..`, in order.
pub(crate) fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
