//! Where a command is looked for.

use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::CommandError;
use crate::access::{self, Access, Verdict};
use crate::isolation::{Found, View};
use crate::users::Credentials;

/// Where the built-in looks in a chroot (drivers/shared/executor/executor_linux.go).
const CHROOT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Folder of the task for its own files.
const LOCAL: &str = "/local";

/// By whose rule a command is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Search<'a> {
    /// That of raw_exec (contract, 3.4): below `local/` in the task's directory, below that directory itself, as an absolute path,
    /// then in `path` (the value of `PATH`). In the first three whatever exists counts, so that a download without an execute bit is
    /// found; in the last only what this process may execute. Relative entries of `path`, and relative commands with a slash that are
    /// not in the task's directory, are not found: nobody chose the driver's own directory.
    RawExec {
        /// The task's directory, as a path of the task.
        task_dir: &'a Path,
        /// `PATH`.
        path: Option<&'a OsStr>,
    },
    /// That of exec, where the task's directory is the root: below `/local`, below `/`, then by its name in a fixed `PATH`. Only
    /// regular files count, executable or not. Volumes, which the built-in looks through one by one, are in the tree.
    Exec {
        /// The task's directory on the host, for messages.
        task_dir: &'a Path,
    },
    /// In a tree of the task's own: below `/local`, with a slash below `/`, else in `path`, where what `credentials` may execute is
    /// preferred.
    Own {
        /// `PATH` of the task.
        path: &'a str,
        /// The task's.
        credentials: &'a Credentials,
    },
}

/// Finds `command` in the tree that the task sees.
pub fn lookup(view: &View, search: Search<'_>, command: &str) -> Result<PathBuf, CommandError> {
    if command.is_empty() || command.contains('\0') {
        return Err(CommandError::NotFound(command.to_owned()));
    }
    match search {
        Search::RawExec { task_dir, path } => as_raw_exec(view, task_dir, path, command),
        Search::Exec { task_dir } => as_exec(view, task_dir, command),
        Search::Own { path, credentials } => own(view, path, credentials, command),
    }
}

fn as_raw_exec(
    view: &View,
    task_dir: &Path,
    search_path: Option<&OsStr>,
    command: &str,
) -> Result<PathBuf, CommandError> {
    let not_found = || CommandError::NotFound(command.to_owned());
    let exists = |path: &PathBuf| {
        if view.is_host() {
            // Followed by the kernel: links below /proc lead nowhere by their text.
            fs::metadata(path).is_ok()
        } else {
            access::walk(view, path).is_ok()
        }
    };
    let in_task = [
        join_below(&task_dir.join("local"), command),
        join_below(task_dir, command),
    ];
    if let Some(path) = in_task.into_iter().find(exists) {
        return Ok(path);
    }
    let absolute = PathBuf::from(command);
    if absolute.is_absolute() {
        return if exists(&absolute) {
            Ok(absolute)
        } else {
            Err(not_found())
        };
    }
    if command.contains('/') {
        return Err(not_found());
    }
    let is_executable = |path: &PathBuf| {
        if view.is_host() {
            is_executable_here(path)
        } else {
            host_file(view, path).is_some_and(|path| is_executable_here(&path))
        }
    };
    std::env::split_paths(search_path.unwrap_or_default())
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(command))
        .find(is_executable)
        .ok_or_else(not_found)
}

fn as_exec(view: &View, task_dir: &Path, command: &str) -> Result<PathBuf, CommandError> {
    let in_task = [
        join_below(Path::new(LOCAL), command),
        join_below(Path::new("/"), command),
    ];
    let is_regular = |path: &PathBuf| regular(view, path).is_some();
    if let Some(path) = in_task.into_iter().find(is_regular) {
        return Ok(path);
    }
    if command.contains('/') {
        return Err(CommandError::NotInTaskDir {
            command: command.to_owned(),
            task_dir: task_dir.to_owned(),
        });
    }
    CHROOT_PATH
        .split(':')
        .map(|dir| Path::new(dir).join(command))
        .find(is_regular)
        .ok_or_else(|| CommandError::NotInTask(command.to_owned()))
}

fn own(view: &View, path: &str, credentials: &Credentials, command: &str) -> Result<PathBuf, CommandError> {
    let in_local = join_below(Path::new(LOCAL), command);
    if regular(view, &in_local).is_some() {
        return Ok(in_local);
    }
    let not_found = || CommandError::NotFound(command.to_owned());
    if command.contains('/') {
        let path = join_below(Path::new("/"), command);
        // What is there and no file is named as such later.
        return access::walk(view, &path).map(|_| path).map_err(|_| not_found());
    }
    let mut unusable = None;
    for path in std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(command))
    {
        let Some(found) = regular(view, &path) else { continue };
        if found.permissions.verdict(credentials, Access::Execute) != Verdict::Denied {
            return Ok(path);
        }
        unusable.get_or_insert(path);
    }
    unusable.ok_or_else(not_found)
}

fn regular(view: &View, path: &Path) -> Option<Found> {
    let walk = access::walk(view, path).ok()?;
    walk.found.is_file().then_some(walk.found)
}

fn host_file(view: &View, path: &Path) -> Option<PathBuf> {
    access::walk(view, path).ok()?.found.host
}

/// `base/command`, with `.` and `..` taken as text, also for an absolute command (Go's `filepath.Join`).
fn join_below(base: &Path, command: &str) -> PathBuf {
    let mut path = base.to_owned();
    for component in Path::new(command).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

fn is_executable_here(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir())
        && faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}
