//! Which processes of this host belong to a drill. What a user looks into its folder with does not.

use holdfast_sys::process::PidFd;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The variable by which drivers, agents and tasks of a drill are known; its value is the drill's folder.
pub(crate) const MARKER: &str = "HOLDFAST_DRILL";

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Executor,
    Init,
    /// A driver, an agent, a task's process.
    Marked,
}

/// A process of a drill.
#[derive(Debug)]
pub(crate) struct Found {
    pub pid: i32,
    pub role: Role,
    pub command: String,
    pidfd: PidFd,
}

impl Found {
    /// Sends SIGKILL; that it is gone already is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        kill(&self.pidfd)
    }
}

const SIGKILL: i32 = 9;
/// Number of the error for a process that has been reaped.
const ESRCH: i32 = 3;

/// Sends SIGKILL; that the process is gone already is no error.
pub(crate) fn kill(pidfd: &PidFd) -> io::Result<()> {
    match pidfd.send_signal(SIGKILL) {
        Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
        sent => sent,
    }
}

/// The living processes of the drill in this folder.
pub(crate) fn of_drill(root: &Path) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if role(root, pid).is_none() {
            continue;
        }
        // The descriptor first, then who it is: a number alone may be another's by now.
        let Ok(pidfd) = PidFd::open(pid) else { continue };
        if let Some((role, command)) = role(root, pid)
            && !pidfd.has_exited()?
        {
            all.push(Found {
                pid,
                role,
                command,
                pidfd,
            });
        }
    }
    Ok(all)
}

/// What the process is to the drill; `None`: nothing, or it is gone.
fn role(root: &Path, pid: i32) -> Option<(Role, String)> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // Empty for what has ended and was not reaped.
    let command_line = fs::read(proc.join("cmdline")).ok().filter(|line| !line.is_empty())?;
    let arguments: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let first = String::from_utf8_lossy(arguments.first()?).into_owned();
    match first.as_str() {
        "holdfast-executor" => {
            let folder = Path::new(OsStr::from_bytes(arguments.get(2)?));
            folder.starts_with(root).then_some((Role::Executor, first))
        }
        "holdfast-init" => holds_file_of(root, &proc).then_some((Role::Init, first)),
        _ => is_marked(root, &proc).then(|| {
            let words: Vec<_> = arguments
                .iter()
                .take(2)
                .map(|argument| String::from_utf8_lossy(argument).chars().take(40).collect::<String>())
                .collect();
            (Role::Marked, words.join(" "))
        }),
    }
}

/// An init has neither arguments nor environment, but the files of its task open.
fn holds_file_of(root: &Path, proc: &Path) -> bool {
    let descriptors = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|file| file.starts_with(root))
}

fn is_marked(root: &Path, proc: &Path) -> bool {
    has_variable(proc, MARKER, root.as_os_str().as_bytes())
}

fn has_variable(proc: &Path, name: &str, value: &[u8]) -> bool {
    let wanted = [name.as_bytes(), b"=", value].concat();
    fs::read(proc.join("environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_slice())
    })
}

/// The numbers of the living processes of one run of the drill's witness.
pub(crate) fn of_run(root: &Path, run: &str) -> io::Result<Vec<i32>> {
    let is_of_run = |found: &Found| {
        has_variable(
            Path::new(&format!("/proc/{}", found.pid)),
            "WITNESS_RUN",
            run.as_bytes(),
        )
    };
    Ok(of_drill(root)?
        .iter()
        .filter(|found| found.role == Role::Marked && is_of_run(found))
        .map(|found| found.pid)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_is_left_is_found_and_killed_and_one_that_only_looks_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("a directory");
        let sleep = |arguments: &[&OsStr], marker: Option<&Path>| {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", "read -r line", "sh"])
                .args(arguments)
                .stdin(Stdio::piped());
            if let Some(marker) = marker {
                command.env(MARKER, marker);
            }
            command.spawn().expect("a process")
        };
        let mut looking = sleep(&[root.as_os_str()], None);
        let mut of_another = sleep(&[], Some(&root.join("other")));
        let mut left = sleep(&[], Some(&root));
        // Between fork and exec a child still has its parent's command line and environment.
        let found = loop {
            let found = of_drill(&root).expect("a list");
            if !found.is_empty() {
                break found;
            }
            std::thread::yield_now();
        };
        let pids: Vec<i32> = found.iter().map(|found| found.pid).collect();
        assert_eq!(pids, [i32::try_from(left.id()).expect("a number")]);
        assert_eq!(found[0].role, Role::Marked);
        found[0].kill().expect("killed");
        assert!(!left.wait().expect("an end").success());
        found[0].kill().expect("killed twice");
        assert_eq!(of_drill(&root).expect("a list").len(), 0);
        for mut child in [looking.stdin.take(), of_another.stdin.take()] {
            drop(child.take());
        }
        looking.wait().expect("an end");
        of_another.wait().expect("an end");
    }
}
