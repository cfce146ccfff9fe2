//! From the entries of a layer to a folder that overlayfs can use (image-spec, layer.md).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::EntryError;
use super::folder_times::FolderTimes;
use super::notes::{Note, Notes};
use super::tape::{Entry, Kind};
use super::tree::{Folder, Made, Name, Tree, file_type, is_whiteout, printable};

/// Names, links to them, and folders that entries imply. Large images have some hundred thousand.
const MAX_ENTRIES: u64 = 4 << 20;

const COPY_BYTES: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// Who unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpacker {
    /// Owners, set-id bits and `trusted` attributes are what the layer says.
    Root,
    /// Everything belongs to this user.
    User(u32),
}

impl Unpacker {
    pub(super) fn current() -> Unpacker {
        match nix::unistd::geteuid().as_raw() {
            0 => Unpacker::Root,
            uid => Unpacker::User(uid),
        }
    }
}

/// A failure of the archive is told apart from one of the tree: the former may mean that the blob is not what it should be.
pub(super) enum Failure {
    Entry(EntryError),
    Archive(io::Error),
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Failure {
        Failure::Entry(error)
    }
}

/// A layer that is being unpacked.
pub(super) struct Layer {
    tree: Tree,
    times: FolderTimes,
    notes: Notes,
    unpacker: Unpacker,
    entries: u64,
    opaque_root: bool,
    buffer: Vec<u8>,
}

/// What is known of it at the end.
pub(super) struct Unpacked {
    pub entries: u64,
    /// Nothing of the layers below is seen.
    pub opaque_root: bool,
    pub notes: Vec<String>,
}

impl Layer {
    /// `root` is a new folder; `times` a path for a temporary file.
    pub(super) fn begin(root: &Path, times: &Path, unpacker: Unpacker) -> io::Result<Layer> {
        Ok(Layer {
            tree: Tree::open(root)?,
            times: FolderTimes::create(times)?,
            notes: Notes::default(),
            unpacker,
            entries: 0,
            opaque_root: false,
            buffer: vec![0; COPY_BYTES],
        })
    }

    pub(super) fn finish(mut self) -> Result<Unpacked, EntryError> {
        self.times.apply(&mut self.tree)?;
        Ok(Unpacked {
            entries: self.entries,
            opaque_root: self.opaque_root,
            notes: self.notes.lines(),
        })
    }

    /// Makes what `entry` says; `content` is that of a file.
    pub(super) fn entry(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), Failure> {
        self.count()?;
        let name = Name::parse(&entry.name)?;
        let Some((above, last)) = name.split_last() else {
            // The folder of the layer stays root's and closed to writers, whatever the layer says of `/`.
            return match entry.kind {
                Kind::Folder => Ok(()),
                _ => Err(EntryError::Nameless.into()),
            };
        };
        if above.first().is_some_and(|name| name.as_bytes().starts_with(AUFS))
            || last.as_bytes().starts_with(AUFS) && last.as_bytes() != OPAQUE
        {
            self.notes.add(Note::AufsFile, || entry.printable());
            return Ok(());
        }
        if let Some(reserved) = above.iter().find(|name| name.as_bytes().starts_with(WHITEOUT)) {
            return Err(EntryError::Reserved(printable(reserved)).into());
        }
        if last.as_bytes() == OPAQUE {
            return Ok(self.opaque(above)?);
        }
        if let Some(hidden) = last.as_bytes().strip_prefix(WHITEOUT) {
            return Ok(self.whiteout(above, hidden)?);
        }
        if entry.kind == Kind::Device {
            self.notes.add(Note::DeviceNode, || entry.printable());
            return Ok(());
        }
        let parent = self.folder(above)?;
        if entry.kind == Kind::HardLink {
            return Ok(self.hard_link(entry, &parent, last)?);
        }
        let hides = self.make_room(entry.kind, &parent, last)?;
        match entry.kind {
            Kind::File => self.file(entry, &parent, last, content)?,
            Kind::Folder => self.fill_folder(entry, &parent, last, hides)?,
            Kind::Symlink => self.symlink(entry, &parent, last)?,
            Kind::Fifo => self.fifo(entry, &parent, last)?,
            Kind::HardLink | Kind::Device => {}
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), EntryError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(EntryError::TooMany(MAX_ENTRIES));
        }
        Ok(())
    }

    /// The folder above an entry; the layer need not describe it.
    fn folder(&mut self, above: &[OsString]) -> Result<std::rc::Rc<Folder>, EntryError> {
        let (notes, entries, unpacker) = (&mut self.notes, &mut self.entries, self.unpacker);
        self.tree.folder(above, &mut |made: Made| {
            *entries += 1;
            if *entries > MAX_ENTRIES {
                return Err(EntryError::TooMany(MAX_ENTRIES));
            }
            let path = made.parent.path().join(&made.name);
            let fd = open_folder(&made.parent, &made.name)?;
            // The umask of this process is none of the layer's business.
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))
                .map_err(EntryError::io("set the mode of a folder above it"))?;
            if made.replaced_whiteout {
                mark_opaque(&fd, unpacker, notes, &path)?;
            }
            notes.add(Note::UndescribedFolder, || path.to_string_lossy().into_owned());
            Ok(())
        })
    }

    /// Removes what has the name already, unless both are folders. True if what is made now hides what lies below in the image, beyond
    /// having its name: a folder in the place of a whiteout, or of an earlier entry that would have hidden it.
    fn make_room(&mut self, kind: Kind, parent: &Folder, name: &OsStr) -> Result<bool, EntryError> {
        let Some(stat) = parent.look(name)? else {
            return Ok(false);
        };
        if kind == Kind::Folder && file_type(&stat) == FileType::Directory {
            return Ok(false);
        }
        self.tree.forget();
        parent.remove(name, &stat)?;
        Ok(kind == Kind::Folder)
    }

    fn file(&mut self, entry: &Entry, parent: &Folder, name: &OsStr, content: &mut impl Read) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(EntryError::io("make"))?;
        let mut file = File::from(fd);
        loop {
            let read = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Archive(error)),
            };
            io::Write::write_all(&mut file, &self.buffer[..read]).map_err(EntryError::io("write"))?;
        }
        self.describe(entry, file.as_fd())?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(EntryError::io("set the time"))?;
        Ok(())
    }

    fn fill_folder(&mut self, entry: &Entry, parent: &Folder, name: &OsStr, hides: bool) -> Result<(), EntryError> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(EntryError::io("make")(error)),
        }
        let fd = open_folder(parent, name)?;
        self.describe(entry, fd.as_fd())?;
        let path = parent.path().join(name);
        if hides {
            mark_opaque(&fd, self.unpacker, &mut self.notes, &path)?;
        }
        self.times
            .add(&path, entry.mtime)
            .map_err(EntryError::io("remember its time"))
    }

    fn symlink(&mut self, entry: &Entry, parent: &Folder, name: &OsStr) -> Result<(), EntryError> {
        let target = OsString::from_vec(entry.target.clone());
        rustix::fs::symlinkat(target, parent, name).map_err(EntryError::io("make a link"))?;
        self.own_by_name(entry, parent, name)?;
        for (key, value) in &entry.xattrs {
            let path = parent.path_of(name);
            self.attribute(entry, key, |key| {
                rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())
            })?;
        }
        set_time_by_name(entry, parent, name)
    }

    fn fifo(&mut self, entry: &Entry, parent: &Folder, name: &OsStr) -> Result<(), EntryError> {
        rustix::fs::mkfifoat(parent, name, Mode::from_raw_mode(0o600)).map_err(EntryError::io("make a FIFO"))?;
        self.own_by_name(entry, parent, name)?;
        let mode = Mode::from_raw_mode(self.mode(entry));
        // It was made just now: it is no link that this could follow.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(EntryError::io("set the mode"))?;
        set_time_by_name(entry, parent, name)
    }

    fn hard_link(&mut self, entry: &Entry, parent: &Folder, name: &OsStr) -> Result<(), EntryError> {
        let refused = || EntryError::HardLink(String::from_utf8_lossy(&entry.target).into_owned());
        let target = Name::parse(&entry.target)?;
        let (above, last) = target.split_last().ok_or_else(refused)?;
        let folder = self.tree.existing(above)?.ok_or_else(refused)?;
        let stat = folder.look(last)?.ok_or_else(refused)?;
        if file_type(&stat) == FileType::Directory || is_whiteout(&stat) {
            return Err(refused());
        }
        if let Some(earlier) = parent.look(name)? {
            if (earlier.st_dev, earlier.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(());
            }
            self.tree.forget();
            parent.remove(name, &earlier)?;
        }
        // Without AT_SYMLINK_FOLLOW a link is what gets the second name, not what it leads to. What was removed may have had
        // the target in it.
        match rustix::fs::linkat(&*folder, last, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(refused()),
            Err(error) => Err(EntryError::io("make a hard link")(error)),
        }
    }

    /// A name of the layers below that is gone. What this layer itself has under the name stays, and hides what is below.
    fn whiteout(&mut self, above: &[OsString], hidden: &[u8]) -> Result<(), EntryError> {
        if matches!(hidden, b"" | b"." | b"..") {
            let name = [WHITEOUT, hidden].concat();
            return Err(EntryError::Reserved(String::from_utf8_lossy(&name).into_owned()));
        }
        let name = OsStr::from_bytes(hidden);
        let parent = self.folder(above)?;
        match parent.look(name)? {
            None => rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(EntryError::io("make a whiteout")),
            Some(stat) if file_type(&stat) == FileType::Directory => {
                let path = parent.path().join(name);
                mark_opaque(&open_folder(&parent, name)?, self.unpacker, &mut self.notes, &path)
            }
            Some(_) => Ok(()),
        }
    }

    /// A folder of which nothing is seen of the layers below.
    fn opaque(&mut self, components: &[OsString]) -> Result<(), EntryError> {
        if components.is_empty() {
            // overlayfs merges its roots unseen; whoever stacks the layers leaves out those below.
            self.opaque_root = true;
            return Ok(());
        }
        let folder = self.folder(components)?;
        self.opaque_root |= folder.path().as_os_str().is_empty();
        let fd = rustix::fs::openat(&*folder, ".", FOLDER, Mode::empty()).map_err(EntryError::io("open"))?;
        mark_opaque(&fd, self.unpacker, &mut self.notes, folder.path())
    }

    /// Owner, mode and attributes of what a descriptor is open on.
    fn describe(&mut self, entry: &Entry, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), EntryError> {
        match self.unpacker {
            Unpacker::Root => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(EntryError::io("set the owner"))?;
            }
            Unpacker::User(_) => self.note_owner(entry),
        }
        // After the owner: chown(2) takes set-id bits and capabilities away.
        let mode = Mode::from_raw_mode(self.mode(entry));
        rustix::fs::fchmod(fd, mode).map_err(EntryError::io("set the mode"))?;
        for (key, value) in &entry.xattrs {
            self.attribute(entry, key, |key| {
                rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
            })?;
        }
        Ok(())
    }

    fn own_by_name(&mut self, entry: &Entry, parent: &Folder, name: &OsStr) -> Result<(), EntryError> {
        match self.unpacker {
            Unpacker::Root => {
                let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(EntryError::io("set the owner"))
            }
            Unpacker::User(_) => {
                self.note_owner(entry);
                Ok(())
            }
        }
    }

    fn note_owner(&mut self, entry: &Entry) {
        if self.unpacker != Unpacker::User(entry.uid) {
            self.notes.add(Note::ForeignOwner, || entry.printable());
        }
    }

    fn mode(&mut self, entry: &Entry) -> u32 {
        match self.unpacker {
            Unpacker::Root => entry.mode,
            Unpacker::User(_) => {
                // They would give away the rights of whoever unpacks.
                if entry.mode & 0o6000 != 0 {
                    self.notes.add(Note::SetId, || entry.printable());
                }
                // A folder that its owner cannot enter could not be filled, nor be removed.
                let enter = if entry.kind == Kind::Folder { 0o700 } else { 0 };
                entry.mode & 0o1777 | enter
            }
        }
    }

    /// Sets one, or leaves it out: those of overlayfs would let a layer redirect into what is not its own, and others mean nothing to
    /// a task.
    fn attribute(
        &mut self,
        entry: &Entry,
        key: &[u8],
        set: impl FnOnce(&OsStr) -> Result<(), Errno>,
    ) -> Result<(), EntryError> {
        let wanted = key == b"security.capability"
            || key == b"system.posix_acl_access"
            || key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
        let done = if wanted && !key.contains(&0) {
            match set(OsStr::from_bytes(key)) {
                Ok(()) => true,
                // The file system has none, or we may not: EPERM is also that of `user.` attributes of links.
                Err(Errno::OPNOTSUPP | Errno::PERM) => false,
                Err(error) => return Err(EntryError::io("set an extended attribute")(error)),
            }
        } else {
            false
        };
        if !done {
            self.notes.add(Note::Attribute, || {
                format!("{} of {}", String::from_utf8_lossy(key), entry.printable())
            });
        }
        Ok(())
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open_folder(parent: &Folder, name: &OsStr) -> Result<OwnedFd, EntryError> {
    rustix::fs::openat(parent, name, FOLDER, Mode::empty()).map_err(EntryError::io("open"))
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

fn set_time_by_name(entry: &Entry, parent: &Folder, name: &OsStr) -> Result<(), EntryError> {
    rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(EntryError::io("set the time"))
}

/// overlayfs.rst, "whiteouts and opaque directories"; `user.` goes with the mount option `userxattr`.
fn mark_opaque(fd: &OwnedFd, unpacker: Unpacker, notes: &mut Notes, path: &Path) -> Result<(), EntryError> {
    let key = match unpacker {
        Unpacker::Root => "trusted.overlay.opaque",
        Unpacker::User(_) => {
            notes.add(Note::UserOpaque, || path.to_string_lossy().into_owned());
            "user.overlay.opaque"
        }
    };
    rustix::fs::fsetxattr(fd, key, b"y", XattrFlags::empty()).map_err(EntryError::io("mark a folder as opaque"))
}
