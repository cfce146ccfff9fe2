//! Opening what lies where a task can rename things (contract, pain 35 and U-1): no link is followed there, and what was found is looked
//! at before it is opened for writing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use holdfast_sys::file::open_beneath;

/// `alloc/logs` below an allocation's directory, of which everything may be the task's to rename. What lies above belongs to the
/// agent and may contain links, as when its data directory is on another disk.
const FOLDER_DEPTH: usize = 2;
/// The same and a file in it.
const FILE_DEPTH: usize = FOLDER_DEPTH + 1;

/// Opens a folder of logs. Its last two components may not be links.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let (trusted, rest) = split(path, FOLDER_DEPTH)?;
    open_beneath(trusted, &rest, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its far end may come and go.
    Fifo,
    /// Written from its end.
    File,
    /// `/dev/null`.
    Null,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity(u64, u64);

impl FileIdentity {
    /// Of what `fstat(2)` told.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    /// Of what `fstatat(2)` told.
    pub fn of_stat(stat: &rustix::fs::Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// Opens a FIFO, a file that has no other name, or `/dev/null`, to write without blocking; its last three components may not be
/// links. A FIFO is opened both ways, so that it neither waits for a reader nor breaks when one leaves (fifo(7)).
pub fn open_path(path: &Path, may_create: bool) -> io::Result<(OwnedFd, Kind, FileIdentity)> {
    let (trusted, rest) = split(path, FILE_DEPTH)?;
    let found = match open_beneath(&trusted, &rest, libc::O_PATH | libc::O_NOFOLLOW, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && may_create => {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_APPEND | libc::O_NONBLOCK;
            let made = File::from(open_beneath(&trusted, &rest, flags, 0o644)?);
            let identity = FileIdentity::of(&made.metadata()?);
            return Ok((made.into(), Kind::File, identity));
        }
        found => File::from(found?),
    };
    let metadata = found.metadata()?;
    let kind = match metadata.file_type() {
        of if of.is_fifo() => Kind::Fifo,
        // A second name may have been given to somebody else's file (link(2)).
        of if of.is_file() && metadata.nlink() == 1 => Kind::File,
        of if of.is_char_device() && metadata.rdev() == libc::makedev(1, 3) => Kind::Null,
        of if of.is_file() => return Err(refused(path, "has more than one name")),
        _ => return Err(refused(path, "is neither a FIFO nor a file")),
    };
    // Through the descriptor it is what was looked at, whatever the path means by now.
    let opened = File::options()
        .read(kind == Kind::Fifo)
        .write(true)
        .append(kind == Kind::File)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    Ok((opened.into(), kind, FileIdentity::of(&metadata)))
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} {why}", path.display()))
}

/// The part of a path that is looked up as usual, opened, and the last `depth` components.
fn split(path: &Path, depth: usize) -> io::Result<(OwnedFd, PathBuf)> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(refused(path, "is not a plain path"));
            }
        }
    }
    if !path.is_absolute() || names.is_empty() {
        return Err(refused(path, "is not an absolute path of a file or folder"));
    }
    let rest = names.split_off(names.len().saturating_sub(depth));
    let trusted: PathBuf = Path::new("/").join(names.iter().collect::<PathBuf>());
    let trusted = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(trusted)?;
    Ok((trusted.into(), rest.iter().collect()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_above_the_allocation_and_never_in_it() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("disk/id/alloc/logs")).unwrap();
        fs::write(root.join("disk/id/alloc/logs/file"), "").unwrap();
        symlink(root.join("disk"), root.join("data")).unwrap();
        open_folder(&root.join("data/id/alloc/logs")).unwrap();
        open_path(&root.join("data/id/alloc/logs/file"), false).unwrap();
        for (link, to) in [
            ("id/link", "alloc"),
            ("id/alloc/link", "logs"),
            ("id/alloc/logs/link", "file"),
        ] {
            symlink(to, root.join("disk").join(link)).unwrap();
        }
        open_folder(&root.join("data/id/link/logs")).unwrap_err();
        open_folder(&root.join("data/id/alloc/link")).unwrap_err();
        open_path(&root.join("data/id/link/logs/file"), true).unwrap_err();
        open_path(&root.join("data/id/alloc/link/file"), true).unwrap_err();
        open_path(&root.join("data/id/alloc/logs/link"), true).unwrap_err();
        open_folder(&root.join("data/id/alloc/../alloc/logs")).unwrap_err();
        open_folder(Path::new("relative")).unwrap_err();
        open_folder(Path::new("/")).unwrap_err();
    }

    #[test]
    fn only_fifos_files_and_dev_null_are_written_u1() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().canonicalize().unwrap();
        assert_eq!(open_path(Path::new("/dev/null"), false).unwrap().1, Kind::Null);
        open_path(Path::new("/dev/zero"), false).unwrap_err();
        open_path(&root, false).unwrap_err();
        open_path(&root.join("none"), false).unwrap_err();
        assert_eq!(open_path(&root.join("made"), true).unwrap().1, Kind::File);
        fs::hard_link(root.join("made"), root.join("other-name")).unwrap();
        open_path(&root.join("made"), true).unwrap_err();
        holdfast_sys::file::mkfifo_at(File::open(&root).unwrap(), "fifo", 0o600).unwrap();
        assert_eq!(open_path(&root.join("fifo"), true).unwrap().1, Kind::Fifo);
    }
}
