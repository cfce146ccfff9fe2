//! An allocation's directory, laid out as Nomad lays it out for tasks.

use crate::environment::Directories;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {}: {source}", path.display())]
pub(crate) struct DirError {
    path: PathBuf,
    source: io::Error,
}

/// An allocation's directory on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllocDir(PathBuf);

impl AllocDir {
    pub(crate) fn new(path: PathBuf) -> AllocDir {
        AllocDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the tasks' output lies.
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("alloc/logs")
    }

    /// Where the agent's FIFO of a stream would be; with `disable_log_collection` nothing is there, but the driver finds the
    /// log directory by it (contract L-0).
    pub(crate) fn fifo(&self, task: &str, stream: &str) -> PathBuf {
        self.logs().join(format!(".{task}.{stream}.fifo"))
    }

    /// A task's directories as paths of the host.
    pub(crate) fn directories(&self, task: &str) -> Directories {
        let task = self.0.join(task);
        Directories {
            alloc: self.0.join("alloc"),
            local: task.join("local"),
            secrets: task.join("secrets"),
        }
    }

    /// Makes what is missing for a task. Any user may be the task's, so everybody may write where it may.
    pub(crate) fn make(&self, task: &str) -> Result<(), DirError> {
        make(&self.0, 0o755)?;
        make(&self.0.join("alloc"), 0o755)?;
        for name in ["logs", "tmp", "data"] {
            make(&self.0.join("alloc").join(name), 0o777)?;
        }
        let task = self.0.join(task);
        make(&task, 0o777)?;
        make(&task.join("local"), 0o777)?;
        make(&task.join("tmp"), 0o1777)?;
        make(&task.join("secrets"), 0o777)
    }
}

fn make(path: &Path, mode: u32) -> Result<(), DirError> {
    let failed = |source| DirError {
        path: path.to_owned(),
        source,
    };
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_nomads() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = AllocDir::new(root.path().join("a"));
        dir.make("t").expect("made");
        dir.make("u").expect("made");
        dir.make("t").expect("made again");
        for (path, mode) in [
            ("alloc", 0o755),
            ("alloc/logs", 0o777),
            ("alloc/tmp", 0o777),
            ("alloc/data", 0o777),
            ("t", 0o777),
            ("t/local", 0o777),
            ("t/tmp", 0o1777),
            ("t/secrets", 0o777),
            ("u/local", 0o777),
        ] {
            let metadata = fs::metadata(dir.path().join(path)).expect(path);
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        }
    }
}
