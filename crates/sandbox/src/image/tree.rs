//! The folder of a layer while it is filled: every name is resolved beneath it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::EntryError;

/// Descriptors are needed for each level when a tree is removed; no image comes near it.
pub(super) const MAX_DEPTH: usize = 256;

/// A name of an entry, or of a hard link's target, without `.` and empty components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Vec<OsString>);

impl Name {
    /// Absolute names are those of the layer: they begin at its root, as with every other program that unpacks images.
    pub(super) fn parse(bytes: &[u8]) -> Result<Name, EntryError> {
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(EntryError::Nameless);
        }
        let components: Vec<OsString> = bytes
            .split(|byte| *byte == b'/')
            .filter(|component| !matches!(component, [] | [b'.']))
            .map(|component| OsString::from_vec(component.to_vec()))
            .collect();
        if components.iter().any(|component| component == "..") {
            return Err(EntryError::Climbs);
        }
        if components.len() > MAX_DEPTH {
            return Err(EntryError::TooDeep(MAX_DEPTH));
        }
        Ok(Name(components))
    }

    /// The folders above and the last component; `None` for the root of the layer.
    pub(super) fn split_last(&self) -> Option<(&[OsString], &OsStr)> {
        let (last, above) = self.0.split_last()?;
        Some((above, last))
    }
}

/// A folder below the root of a layer.
pub(super) struct Folder {
    fd: OwnedFd,
    /// From the root, without links.
    path: PathBuf,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What has this name, without following it.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<Stat>, EntryError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(EntryError::io("stat")(error)),
        }
    }

    /// For the calls that have no form with a descriptor. Nothing but the last component is looked up, in the folder itself.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.fd.as_raw_fd().to_string())
            .join(name)
    }

    /// Removes it and what is in it.
    pub(super) fn remove(&self, name: &OsStr, stat: &Stat) -> Result<(), EntryError> {
        if file_type(stat) == FileType::Directory {
            std::fs::remove_dir_all(self.path_of(name)).map_err(EntryError::io("remove the earlier folder"))
        } else {
            rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(EntryError::io("remove the earlier entry"))
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a stat(2) is about.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// How overlayfs says that a name is gone: a character device with the numbers 0, 0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The tree of a layer.
pub(super) struct Tree {
    root: OwnedFd,
    /// By which links are resolved to what they lead to.
    root_path: PathBuf,
    /// The last folder that was asked for: entries of one folder follow each other.
    last: Option<(Vec<OsString>, Rc<Folder>)>,
}

/// What [`Tree::folder`] had to make.
pub(super) struct Made {
    pub parent: Rc<Folder>,
    pub name: OsString,
    /// It was a whiteout: what lies below in the image does not come back.
    pub replaced_whiteout: bool,
}

impl Tree {
    /// `root` is a folder that nobody else writes to.
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let root_path = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
        Ok(Tree {
            root,
            root_path,
            last: None,
        })
    }

    /// To be called when anything is removed: a name that was resolved may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The folder with this name. Links on the way are followed as if the layer were `/`. Where `make` is given, what is missing is
    /// made, with mode 0755, and `make` is told.
    pub(super) fn folder(
        &mut self,
        components: &[OsString],
        make: &mut dyn FnMut(Made) -> Result<(), EntryError>,
    ) -> Result<Rc<Folder>, EntryError> {
        if let Some(folder) = self.existing(components)? {
            return Ok(folder);
        }
        // The root is always there.
        let (name, above) = components.split_last().ok_or(EntryError::Nameless)?;
        let parent = self.folder(above, make)?;
        let shown = || PathBuf::from_iter(components).to_string_lossy().into_owned();
        let replaced_whiteout = match parent.look(name)? {
            None => false,
            Some(stat) if is_whiteout(&stat) => {
                parent.remove(name, &stat)?;
                true
            }
            Some(stat) if file_type(&stat) == FileType::Symlink => return Err(EntryError::DeadLink(shown())),
            Some(_) => return Err(EntryError::NotFolder(shown())),
        };
        if parent.path.components().count() >= MAX_DEPTH {
            return Err(EntryError::TooDeep(MAX_DEPTH));
        }
        rustix::fs::mkdirat(&parent.fd, name.as_os_str(), Mode::from_raw_mode(0o755))
            .map_err(EntryError::io("make a folder above it"))?;
        make(Made {
            parent,
            name: name.clone(),
            replaced_whiteout,
        })?;
        self.existing(components)?
            .ok_or_else(|| EntryError::io("open a folder above it")(Errno::NOENT))
    }

    /// The same, if it is there.
    pub(super) fn existing(&mut self, components: &[OsString]) -> Result<Option<Rc<Folder>>, EntryError> {
        if let Some((last, folder)) = &self.last
            && last == components
        {
            return Ok(Some(folder.clone()));
        }
        let Some(folder) = self.resolve(components)? else {
            return Ok(None);
        };
        let folder = Rc::new(folder);
        self.last = Some((components.to_vec(), folder.clone()));
        Ok(Some(folder))
    }

    fn resolve(&self, components: &[OsString]) -> Result<Option<Folder>, EntryError> {
        let path = PathBuf::from_iter(components);
        let name = if components.is_empty() { Path::new(".") } else { &path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |resolve: ResolveFlags| {
            let resolve = resolve | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            // EAGAIN: something was renamed on this host meanwhile (openat2(2)).
            (0..32)
                .map(|_| rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve))
                .find(|result| !matches!(result, Err(Errno::AGAIN)))
                .unwrap_or(Err(Errno::AGAIN))
        };
        let (fd, path) = match open(ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => (fd, path),
            Err(Errno::LOOP) => match open(ResolveFlags::IN_ROOT) {
                Ok(fd) => {
                    let path = self.real_path(&fd)?;
                    (fd, path)
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(EntryError::io("open the folder above it")(error)),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(EntryError::io("open the folder above it")(error)),
        };
        if path.components().count() > MAX_DEPTH {
            return Err(EntryError::TooDeep(MAX_DEPTH));
        }
        Ok(Some(Folder { fd, path }))
    }

    fn real_path(&self, fd: &OwnedFd) -> Result<PathBuf, EntryError> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_err(EntryError::io("read where the links above it lead"))?;
        match path.strip_prefix(&self.root_path) {
            Ok(below) => Ok(below.to_owned()),
            Err(_) => Err(EntryError::Climbs),
        }
    }
}

/// For messages.
pub(super) fn printable(name: &OsStr) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_layer() {
        let parse = |name: &str| Name::parse(name.as_bytes());
        for name in ["a/b", "./a/b", "/a/b", "a//./b/", "//a/b/."] {
            assert_eq!(parse(name).unwrap(), parse("a/b").unwrap(), "{name}");
        }
        for name in [".", "/", "./", "//"] {
            assert!(parse(name).unwrap().split_last().is_none(), "{name}");
        }
        for name in ["..", "../a", "a/..", "a/../b", "/.."] {
            assert!(matches!(parse(name), Err(EntryError::Climbs)), "{name}");
        }
        for name in ["", "a\0b"] {
            assert!(matches!(parse(name), Err(EntryError::Nameless)), "{name:?}");
        }
        assert!(parse(&"a/".repeat(MAX_DEPTH)).is_ok());
        assert!(matches!(
            parse(&"a/".repeat(MAX_DEPTH + 1)),
            Err(EntryError::TooDeep(_))
        ));
        assert!(parse("..a/...").is_ok());
    }
}
