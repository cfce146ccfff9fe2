//! Folders of the host: where records lie, and what users of tasks must be able to pass.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::{Files, mount_of};

/// What a folder is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// As it was named.
    pub path: PathBuf,
    /// It, or the nearest above it that is there.
    pub existing: PathBuf,
    /// Why nothing can be made in it.
    pub unwritable: Option<String>,
    /// Programs in it cannot be run.
    pub is_noexec: bool,
    /// The file system's kind; empty if it cannot be told.
    pub kind: String,
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Files that may still be made; `None` where the file system has no such number.
    pub free_files: Option<u64>,
}

impl Folder {
    /// It goes with the host's power (tmpfs(5)).
    pub fn is_lost_at_reboot(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "rootfs")
    }

    /// The file system may be another host's.
    pub fn is_remote(&self) -> bool {
        matches!(self.kind.as_str(), "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph") || self.kind.starts_with("fuse")
    }
}

/// Looks at the folder, or at what is there of the way to it. Makes nothing.
pub fn state_dir(files: &Files, path: &Path) -> io::Result<Folder> {
    let existing = path
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"))
        .canonicalize()?;
    let unwritable = if existing.is_dir() {
        match access(&existing, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => None,
            Err(e) => Some(e.desc().to_owned()),
        }
    } else {
        Some("not a folder".to_owned())
    };
    let state = statvfs(&existing).map_err(|e: Errno| io::Error::from(e))?;
    let kind = mount_of(files, &existing).map(|(_, kind)| kind).unwrap_or_default();
    Ok(Folder {
        path: path.to_owned(),
        unwritable,
        is_noexec: state.flags().contains(FsFlags::ST_NOEXEC),
        kind,
        free_bytes: state.blocks_available().saturating_mul(state.fragment_size()),
        free_files: (state.files() > 0).then(|| state.files_available()),
        existing,
    })
}

/// A folder on the way that users without root cannot pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsearchable {
    /// The folder.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// The first folder from the root down to `path` that others may not search (path_resolution(7)). Errors are those of
/// stat(2).
pub fn searchable_by_others(files: &Files, path: &Path) -> io::Result<Result<(), Unsearchable>> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for folder in way {
        let mode = std::fs::metadata(files.at(folder))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Ok(Err(Unsearchable {
                path: folder.to_owned(),
                mode: mode & 0o7777,
            }));
        }
    }
    Ok(Ok(()))
}
