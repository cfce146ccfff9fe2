//! The file that becomes the main process: where it is, whether it can run, and making it executable.

mod interpreter;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat};
use thiserror::Error;

use crate::access::{self, Access, Permissions, Verdict, Walk};
use crate::retry;
use crate::users::Credentials;

/// Interpreters of interpreters that the kernel follows (`exec_binprm` in fs/exec.c).
const MAX_INTERPRETERS: u32 = 5;
/// What the built-in adds to a command's mode: read and execute, for all.
const EXECUTABLE: u32 = 0o555;

/// Why a command cannot be run.
#[derive(Debug, Error)]
pub enum CommandError {
    /// Nowhere. The text is the built-in's (Nomad 1.11.0, drivers/shared/executor/executor.go).
    #[error("binary {0:?} could not be found")]
    NotFound(String),
    /// It was there and cannot be followed to its end.
    #[error("command {}: cannot look up {}: {source}", path.display(), component.display())]
    Lookup {
        /// As it was found.
        path: PathBuf,
        /// Where it ended.
        component: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The protocol and the records carry text.
    #[error("command {0:?} is not valid UTF-8")]
    NotUtf8(PathBuf),
    /// execve(2) does not take one.
    #[error("command {} is a directory", .0.display())]
    Directory(PathBuf),
    /// A socket, a FIFO, a device.
    #[error("command {} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// mount(8), option `noexec`.
    #[error("command {}: its file system is mounted noexec", .0.display())]
    NoExec(PathBuf),
    /// A `#!` line or an ELF program header names a file that is not there.
    #[error("command {}: its interpreter {interpreter:?} could not be found", path.display())]
    NoInterpreter {
        /// The command.
        path: PathBuf,
        /// As the command names it.
        interpreter: String,
    },
    /// The interpreter is there and cannot be run.
    #[error("command {}: its interpreter cannot be run: {reason}", path.display())]
    BadInterpreter {
        /// The command.
        path: PathBuf,
        /// Why, with the interpreter as the command.
        reason: Box<CommandError>,
    },
    /// Scripts whose interpreters are scripts.
    #[error("command {}: too many interpreters, each of them a script", .0.display())]
    TooManyInterpreters(PathBuf),
    /// The task's user would not get there.
    #[error("command {}: {} not searchable by uid {uid}", path.display(), component.display())]
    Unsearchable {
        /// As it was found.
        path: PathBuf,
        /// The first directory that is closed.
        component: PathBuf,
        /// The task's.
        uid: u32,
    },
    /// Nothing makes an interpreter executable: it is the host's.
    #[error("command {} is not executable by uid {uid}", path.display())]
    NotExecutable {
        /// As it was named.
        path: PathBuf,
        /// The task's.
        uid: u32,
    },
    /// The beginning of the text is the built-in's.
    #[error("error making {path:?} executable: {source}")]
    MakeExecutable {
        /// As it was found.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a task laid into its own directory must not make the driver open a file of the host.
    #[error("error making {path:?} executable: it leads out of the task's directory to {real_path:?}")]
    OutsideTask {
        /// As it was found.
        path: PathBuf,
        /// Where it leads.
        real_path: PathBuf,
    },
}

impl CommandError {
    /// Whether the same call may succeed a moment later (contract, S-2).
    pub fn is_retryable(&self) -> bool {
        match self {
            CommandError::Lookup { source, .. } | CommandError::MakeExecutable { source, .. } => {
                retry::may_pass(source)
            }
            CommandError::BadInterpreter { reason, .. } => reason.is_retryable(),
            CommandError::NotFound(_)
            | CommandError::NotUtf8(_)
            | CommandError::Directory(_)
            | CommandError::NotRegular(_)
            | CommandError::NoExec(_)
            | CommandError::NoInterpreter { .. }
            | CommandError::TooManyInterpreters(_)
            | CommandError::Unsearchable { .. }
            | CommandError::NotExecutable { .. }
            | CommandError::OutsideTask { .. } => false,
        }
    }
}

/// Finds `command` by the rule of raw_exec (contract, 3.4): below `local/` in the task's directory, below that
/// directory itself, as an absolute path of the host, then in `search_path` (the value of `PATH`). In the first three
/// whatever exists counts, so that a download without an execute bit is found; in the last only what this process may
/// execute. Relative entries of `search_path`, and relative commands with a slash that are not in the task's directory,
/// are not found: nobody chose the driver's own directory.
pub fn lookup(task_dir: &Path, command: &str, search_path: Option<&OsStr>) -> Result<PathBuf, CommandError> {
    let not_found = || CommandError::NotFound(command.to_owned());
    if command.is_empty() || command.contains('\0') {
        return Err(not_found());
    }
    let exists = |path: &PathBuf| fs::metadata(path).is_ok();
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
    std::env::split_paths(search_path.unwrap_or_default())
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(command))
        .find(|path| is_executable_here(path))
        .ok_or_else(not_found)
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

/// Checks what execve(2) would answer with one errno for many reasons: that the file is a regular one, on a file system
/// that executes, with interpreters that are there, and that `credentials` get to all of them. Whether the command
/// itself has execute bits is not asked: [`make_executable`] gives them. Relative interpreters start at `work_dir`, as
/// the process will.
///
/// What an access control list may allow is let pass; [`explain`] names it once the kernel has refused.
pub fn check(path: &Path, work_dir: &Path, credentials: &Credentials) -> Result<(), CommandError> {
    check_file(path, work_dir, credentials, 0, Strictness::Certain)
}

/// What to say when execve(2) failed with EACCES or ENOENT: the error that names the culprit, if one can be seen.
pub fn explain(path: &Path, work_dir: &Path, credentials: &Credentials) -> Option<CommandError> {
    if let Err(error) = check_file(path, work_dir, credentials, 0, Strictness::Suspected) {
        return Some(error);
    }
    let permissions = Permissions::from(&fs::metadata(path).ok()?);
    let not_executable = || CommandError::NotExecutable {
        path: path.to_owned(),
        uid: credentials.uid,
    };
    (permissions.verdict(credentials, Access::Execute) != Verdict::Granted).then(not_executable)
}

/// Which denials count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// Those that nothing can lift.
    Certain,
    /// Also those that an access control list might lift.
    Suspected,
}

impl Strictness {
    fn refuses(self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Granted => false,
            Verdict::Denied => true,
            Verdict::DeniedByMode => self == Strictness::Suspected,
        }
    }
}

fn check_file(
    path: &Path,
    work_dir: &Path,
    credentials: &Credentials,
    depth: u32,
    strictness: Strictness,
) -> Result<(), CommandError> {
    let lookup = |component: PathBuf, source| CommandError::Lookup {
        path: path.to_owned(),
        component,
        source,
    };
    let walk = access::walk(path).map_err(|access::Dead { component, source }| lookup(component, source))?;
    let Walk {
        real_path,
        metadata,
        searched: _,
    } = &walk;
    if metadata.is_dir() {
        return Err(CommandError::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(CommandError::NotRegular(path.to_owned()));
    }
    let closed = walk
        .first_unsearchable(credentials)
        .filter(|(_, verdict)| strictness.refuses(*verdict));
    if let Some((dir, _)) = closed {
        let component = dir.path.clone();
        return Err(CommandError::Unsearchable {
            path: path.to_owned(),
            component,
            uid: credentials.uid,
        });
    }
    let mount = statvfs(real_path).map_err(|errno| lookup(real_path.clone(), errno.into()))?;
    if mount.flags().contains(FsFlags::ST_NOEXEC) {
        return Err(CommandError::NoExec(path.to_owned()));
    }
    let is_interpreter = depth > 0;
    if is_interpreter && strictness.refuses(Permissions::from(metadata).verdict(credentials, Access::Execute)) {
        return Err(CommandError::NotExecutable {
            path: path.to_owned(),
            uid: credentials.uid,
        });
    }
    // A file that this process may not read can still be executed; then the kernel has the word.
    let Some(interpreter) = File::open(real_path).ok().and_then(|file| interpreter::of(&file)) else {
        return Ok(());
    };
    if depth == MAX_INTERPRETERS {
        return Err(CommandError::TooManyInterpreters(path.to_owned()));
    }
    let interpreter_path = work_dir.join(interpreter.path());
    match check_file(&interpreter_path, work_dir, credentials, depth + 1, strictness) {
        Ok(()) => Ok(()),
        Err(CommandError::Lookup {
            path: missing, source, ..
        }) if missing == interpreter_path && source.kind() == io::ErrorKind::NotFound => {
            let interpreter = String::from_utf8_lossy(interpreter.bytes()).into_owned();
            Err(CommandError::NoInterpreter {
                path: path.to_owned(),
                interpreter,
            })
        }
        Err(error @ CommandError::TooManyInterpreters(_)) if is_interpreter => Err(error),
        Err(CommandError::TooManyInterpreters(_)) => Err(CommandError::TooManyInterpreters(path.to_owned())),
        Err(reason) => Err(CommandError::BadInterpreter {
            path: path.to_owned(),
            reason: Box::new(reason),
        }),
    }
}

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
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let real_path = fs::read_link(&link).map_err(failed)?;
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

#[cfg(test)]
mod tests;
