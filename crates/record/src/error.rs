//! Why a record could not be read or written.

use std::io;
use std::path::{Path, PathBuf};

/// Why a supervision directory or a file in it could not be used. Every message names the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as in "cannot ACTION PATH".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The task already has a supervision directory: it was started before.
    #[error("supervision directory {} of task {task_id:?} exists already", path.display())]
    AlreadyExists {
        /// The folder.
        path: PathBuf,
        /// The task that was to be created.
        task_id: String,
    },
    /// The folder's name is taken by another task (two ids with equal hashes), or by a folder that says not whose it is.
    #[error("cannot create supervision directory {} of task {task_id:?}: it belongs to {owner}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The task that was to be created.
        task_id: String,
        /// Whose it is.
        owner: String,
    },
    /// The folder was removed while it was open.
    #[error("supervision directory {} was removed", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// The folder was moved away while it was open, and its path leads to another one now.
    #[error("supervision directory {} was replaced by another folder", path.display())]
    Replaced {
        /// Where it was.
        path: PathBuf,
    },
    /// A file that must be there is not.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The content is truncated, damaged, or not of this program.
    #[error("{} is damaged or foreign: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a newer program that gave its fields another meaning.
    #[error("{} has version {version}, this program reads up to {}", path.display(), crate::RECORD_VERSION)]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version in it.
        version: u64,
    },
    /// The folder that holds the supervision directories could be written to by others, who could forge records.
    #[error("refusing to use {}: {reason}", path.display())]
    Insecure {
        /// The folder.
        path: PathBuf,
        /// What is wrong with its owner or mode.
        reason: String,
    },
}

impl RecordError {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        RecordError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// True if the same attempt may succeed later: the host lacks space, memory or descriptors at the moment.
    pub fn is_transient(&self) -> bool {
        match self {
            RecordError::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::OutOfMemory
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                ) || matches!(source.raw_os_error(), Some(EMFILE | ENFILE))
            }
            _ => false,
        }
    }
}

const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;
