//! Execute bits for what a job downloads.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::CommandError;
use crate::access::{self, Access, Dead, Permissions, Verdict};
use crate::isolation::{Origin, View};
use crate::users::Credentials;

/// What the built-in adds to a command's mode: read and execute, for all.
const EXECUTABLE: u32 = 0o555;

/// Gives a command read and execute permission for all where it lacks them, as the built-in does; the other bits stay.
/// Two things are left alone that the built-in opens, too: a file of the host that `credentials` can already read and
/// execute, and a file outside the task's and the allocation's directory that a path inside leads to, which a task
/// could use to have any file of the host opened.
pub fn make_executable(path: &Path, task_dir: &Path, credentials: &Credentials) -> Result<(), CommandError> {
    let failed = |source| CommandError::MakeExecutable {
        path: path.to_owned(),
        source,
    };
    // One descriptor for question and change, so that nothing can be exchanged in between.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(CommandError::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(CommandError::NotRegular(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & EXECUTABLE == EXECUTABLE {
        return Ok(());
    }
    let (link, real_path) = opened(&file).map_err(failed)?;
    // The allocation's directory is the parent of the task's.
    let homes: Vec<&Path> = [Some(task_dir), task_dir.parent()].into_iter().flatten().collect();
    let inside: Vec<_> = homes.into_iter().filter(|home| path.starts_with(home)).collect();
    for home in &inside {
        if !real_path.starts_with(home.canonicalize().map_err(failed)?) {
            return Err(CommandError::OutsideTask {
                path: path.to_owned(),
                real_path,
            });
        }
    }
    let permissions = Permissions::from(&metadata);
    let granted = |access| permissions.verdict(credentials, access) == Verdict::Granted;
    let usable = granted(Access::Read) && granted(Access::Execute);
    if inside.is_empty() && usable {
        return Ok(());
    }
    match fs::set_permissions(&link, fs::Permissions::from_mode(mode | EXECUTABLE)) {
        // A driver without root, or a read-only file system: no matter, as long as the task can run it.
        Err(_) if usable => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(()) => Ok(()),
    }
}

/// Whose files are opened for a task in a tree of its own.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// The allocation's directory on the host.
    pub alloc_dir: &'a Path,
    /// The task's.
    pub task_dir: &'a Path,
    /// Also others where the task cannot execute them, as the built-in does it with volumes.
    pub and_volumes: bool,
}

/// As [`make_executable`], of a path in a tree of the task's own. What is neither in the allocation's directory nor the task's is not
/// opened unless `home` says so, and never what is shared with other tasks: then a command that `credentials` cannot execute is refused.
pub fn make_executable_in(
    view: &View,
    path: &Path,
    home: Home<'_>,
    credentials: &Credentials,
) -> Result<(), CommandError> {
    let failed = |source| CommandError::MakeExecutable {
        path: path.to_owned(),
        source,
    };
    let walk = access::walk(view, path).map_err(|Dead { component: _, source }| failed(source))?;
    let permissions = walk.found.permissions;
    let granted = |access| permissions.verdict(credentials, access) == Verdict::Granted;
    let usable = granted(Access::Read) && granted(Access::Execute);
    if walk.found.is_dir() {
        return Err(CommandError::Directory(path.to_owned()));
    }
    if !walk.found.is_file() {
        return Err(CommandError::NotRegular(path.to_owned()));
    }
    if permissions.mode & EXECUTABLE == EXECUTABLE {
        return Ok(());
    }
    // What an access control list may allow the kernel knows.
    let refused = || match permissions.verdict(credentials, Access::Execute) {
        Verdict::Granted | Verdict::DeniedByMode => Ok(()),
        Verdict::Denied => Err(CommandError::NotExecutable {
            path: path.to_owned(),
            uid: credentials.uid,
        }),
    };
    let Some(host) = walk
        .found
        .host
        .as_deref()
        .filter(|_| walk.found.origin != Origin::Layer)
    else {
        return refused();
    };
    let is_inside = |dir: &Path| dir.canonicalize().is_ok_and(|dir| host.starts_with(dir));
    let is_own = is_inside(home.alloc_dir) || is_inside(home.task_dir);
    if !is_own && !home.and_volumes {
        return refused();
    }
    if !is_own && usable {
        return Ok(());
    }
    // No link is followed, and what was put in the place of a directory on the way shows in the name of what was opened.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits())
        .open(host)
        .map_err(failed)?;
    let (link, real_path) = opened(&file).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if real_path != host {
        return Err(CommandError::OutsideTask {
            path: path.to_owned(),
            real_path,
        });
    }
    if !metadata.is_file() {
        return Err(CommandError::NotRegular(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    match fs::set_permissions(&link, fs::Permissions::from_mode(mode | EXECUTABLE)) {
        Err(_) if usable => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(()) => Ok(()),
    }
}

/// The path by which an open file can be changed, and the one that it has.
fn opened(file: &File) -> io::Result<(String, PathBuf)> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let real_path = fs::read_link(&link)?;
    Ok((link, real_path))
}
