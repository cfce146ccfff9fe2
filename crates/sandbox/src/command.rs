//! The file that becomes the main process: where it is, whether it can run, and making it executable. Paths are those of the task.

mod executable;
mod interpreter;
mod lookup;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;

use crate::access::{self, Access, Verdict, Walk};
use crate::isolation::{Found, View};
use crate::retry;
use crate::users::Credentials;

pub use executable::{Home, make_executable, make_executable_in};
pub use lookup::{Search, lookup};

/// Interpreters of interpreters that the kernel follows (`exec_binprm` in fs/exec.c).
const MAX_INTERPRETERS: u32 = 5;

/// Why a command cannot be run.
#[derive(Debug, Error)]
pub enum CommandError {
    /// Nowhere. The text is the built-in's (Nomad 1.11.0, drivers/shared/executor/executor.go).
    #[error("binary {0:?} could not be found")]
    NotFound(String),
    /// Not where a task with a chroot has its commands. The text is the built-in's (drivers/shared/executor/executor_linux.go).
    #[error("file {command} not found under path {}", task_dir.display())]
    NotInTaskDir {
        /// As it was given: it has a slash.
        command: String,
        /// Root of the task.
        task_dir: PathBuf,
    },
    /// The same, for a command that was looked for by its name.
    #[error("file {0} not found under path")]
    NotInTask(String),
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
            | CommandError::NotInTaskDir { .. }
            | CommandError::NotInTask(_)
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

/// Checks what execve(2) would answer with one errno for many reasons: that the file is a regular one, on a file system
/// that executes, with interpreters that are there, and that `credentials` get to all of them. Whether the command
/// itself has execute bits is not asked: [`make_executable`] gives them. Relative interpreters start at `work_dir`, as
/// the process will.
///
/// What an access control list may allow is let pass; [`explain`] names it once the kernel has refused.
pub fn check(view: &View, path: &Path, work_dir: &Path, credentials: &Credentials) -> Result<(), CommandError> {
    let task = Task {
        view,
        work_dir,
        credentials,
    };
    check_file(path, &task, 0, Strictness::Certain)
}

/// What to say when execve(2) failed with EACCES or ENOENT: the error that names the culprit, if one can be seen.
pub fn explain(view: &View, path: &Path, work_dir: &Path, credentials: &Credentials) -> Option<CommandError> {
    let task = Task {
        view,
        work_dir,
        credentials,
    };
    if let Err(error) = check_file(path, &task, 0, Strictness::Suspected) {
        return Some(error);
    }
    let permissions = access::walk(view, path).ok()?.found.permissions;
    let not_executable = || CommandError::NotExecutable {
        path: path.to_owned(),
        uid: credentials.uid,
    };
    (permissions.verdict(credentials, Access::Execute) != Verdict::Granted).then(not_executable)
}

/// Who executes, where.
struct Task<'a> {
    view: &'a View,
    work_dir: &'a Path,
    credentials: &'a Credentials,
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

fn check_file(path: &Path, task: &Task<'_>, depth: u32, strictness: Strictness) -> Result<(), CommandError> {
    let Task {
        view,
        work_dir,
        credentials,
    } = *task;
    let lookup = |component: PathBuf, source| CommandError::Lookup {
        path: path.to_owned(),
        component,
        source,
    };
    let walk = access::walk(view, path).map_err(|access::Dead { component, source }| lookup(component, source))?;
    let Walk {
        real_path,
        found,
        searched: _,
    } = &walk;
    if found.is_dir() {
        return Err(CommandError::Directory(path.to_owned()));
    }
    if !found.is_file() {
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
    if found.is_noexec().map_err(|error| lookup(real_path.clone(), error))? {
        return Err(CommandError::NoExec(path.to_owned()));
    }
    let is_interpreter = depth > 0;
    if is_interpreter && strictness.refuses(found.permissions.verdict(credentials, Access::Execute)) {
        return Err(CommandError::NotExecutable {
            path: path.to_owned(),
            uid: credentials.uid,
        });
    }
    // A file that this process may not read can still be executed; then the kernel has the word.
    let Some(interpreter) = interpreter_of(found) else {
        return Ok(());
    };
    if depth == MAX_INTERPRETERS {
        return Err(CommandError::TooManyInterpreters(path.to_owned()));
    }
    let interpreter_path = work_dir.join(interpreter.path());
    match check_file(&interpreter_path, task, depth + 1, strictness) {
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

fn interpreter_of(found: &Found) -> Option<interpreter::Interpreter> {
    // It was a regular file a moment ago; what was put in its place since then neither leads elsewhere nor blocks.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(found.host.as_deref()?)
        .ok()?;
    interpreter::of(&file)
}

#[cfg(test)]
mod tests;
