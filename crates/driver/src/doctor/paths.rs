//! Folders.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_record::names;
use holdfast_sandbox::host::{Files, Folder, Host, searchable_by_others, state_dir};

use super::{Check, Group, Subject};
use crate::executor_binary::Source;

/// Least free space and files for the records of tasks; a supervision directory takes some 40 KiB and a dozen files.
const LEAST_BYTES: u64 = 64 << 20;
const LEAST_FILES: u64 = 10_000;

/// Socket addresses hold 107 bytes (unix(7)).
const LONGEST_ADDRESS: usize = 107;

/// `<8 hex>-<8 hex>` of a supervision directory.
const FOLDER_NAME: usize = 17;

/// Where packages and guides put the agent's data.
const USUAL_DATA_DIRS: [&str; 3] = ["/opt/nomad/data", "/opt/nomad", "/var/lib/nomad"];

pub(super) fn checks(files: &Files, host: &Host, subject: &Subject) -> Vec<Check> {
    let mut checks = vec![state(files, subject), executor(files, subject)];
    checks.extend(data(files, host, subject));
    checks
}

fn state(files: &Files, subject: &Subject) -> Check {
    let path = &subject.state_dir;
    let shown = path.display();
    let missing = |why: String, change: &str| Check::missing(Group::Paths, "state_dir", why, change).vital();
    let folder = match state_dir(files, path) {
        Ok(folder) => folder,
        Err(e) => return missing(format!("{shown}: {e}"), "name another with the option state_dir"),
    };
    if let Some(reason) = &folder.unwritable {
        return missing(
            format!("{shown}: cannot write to {}: {reason}", folder.existing.display()),
            "give it to the agent's user, or name another with the option state_dir",
        );
    }
    let longest = path.as_os_str().len() + 1 + subject.name.as_str().len() + 1 + FOLDER_NAME + 1 + names::SOCKET.len();
    let problems = problems(&folder, longest);
    let seen = format!(
        "{shown} on {}, {} MiB free",
        if folder.kind.is_empty() {
            "an unknown file system"
        } else {
            &folder.kind
        },
        folder.free_bytes >> 20
    );
    match problems.first() {
        None => Check::ok(Group::Paths, "state_dir", seen),
        Some((_, change)) => {
            let problems: Vec<&str> = problems.iter().map(|(problem, _)| problem.as_str()).collect();
            Check::limited(
                Group::Paths,
                "state_dir",
                format!("{seen}: {}", problems.join("; ")),
                *change,
            )
        }
    }
}

fn problems(folder: &Folder, longest: usize) -> Vec<(String, &'static str)> {
    let mut problems = Vec::new();
    let mut add = |is_one: bool, problem: String, change| {
        if is_one {
            problems.push((problem, change));
        }
    };
    add(
        folder.free_bytes < LEAST_BYTES || folder.free_files.is_some_and(|files| files < LEAST_FILES),
        "almost full".to_owned(),
        "make room",
    );
    add(
        folder.is_lost_at_reboot(),
        "lost at a reboot, so that a batch task that had ended may run again".to_owned(),
        "name a folder on a disk with the option state_dir",
    );
    add(
        folder.is_remote(),
        "possibly on another host, whose absence would hold up every task".to_owned(),
        "name a folder on a local disk with the option state_dir",
    );
    add(
        longest > LONGEST_ADDRESS,
        format!("its sockets have paths of {longest} bytes, and people can connect to at most {LONGEST_ADDRESS}"),
        "name a shorter one with the option state_dir",
    );
    problems
}

fn executor(files: &Files, subject: &Subject) -> Check {
    let missing = |why: String, change: &str| Check::missing(Group::Paths, "executor", why, change).vital();
    let beside = "put holdfast-executor beside the driver's file, or name it with the option executor_path";
    match Source::choose(None) {
        Err(e) => missing(e.to_string(), beside),
        Ok(Source::Embedded(embedded)) => match state_dir(files, &subject.state_dir) {
            Ok(folder) if folder.is_noexec => missing(
                format!(
                    "it would be laid out below {}, from where nothing can be executed (noexec)",
                    subject.state_dir.display()
                ),
                "name another folder with the option state_dir, or an executor elsewhere with executor_path",
            ),
            _ => Check::ok(
                Group::Paths,
                "executor",
                format!("inside the driver, {}", embedded.hash),
            ),
        },
        // It writes nothing for a file that is somewhere.
        Ok(source @ (Source::Named { .. } | Source::Beside(_))) => match source.provide(&subject.state_dir) {
            Ok(path) => Check::ok(Group::Paths, "executor", path.display().to_string()),
            Err(e) => missing(e.to_string(), beside),
        },
    }
}

fn data(files: &Files, host: &Host, subject: &Subject) -> Option<Check> {
    // Without root there are no tasks of other users.
    if !host.privileges.is_root() {
        return None;
    }
    let path = match &subject.data_dir {
        Some(path) => path.clone(),
        None => (USUAL_DATA_DIRS.iter().map(PathBuf::from)).find(|path| files.at(path).is_dir())?,
    };
    Some(data_dir(files, &path))
}

/// A folder on the way to the allocations that is closed to others is the usual reason for "permission denied" at the start of a task
/// with a user (contract, pain 15).
fn data_dir(files: &Files, path: &Path) -> Check {
    let shown = path.display();
    match searchable_by_others(files, path) {
        Ok(Ok(())) => Check::ok(
            Group::Paths,
            "data_dir",
            format!("{shown}: tasks of other users can reach it"),
        ),
        Ok(Err(closed)) => Check::limited(
            Group::Paths,
            "data_dir",
            format!(
                "{shown}: {} has mode {:04o}, so that raw tasks of users other than root cannot reach their folders",
                closed.path.display(),
                closed.mode
            ),
            format!("chmod o+x {}", closed.path.display()),
        ),
        Err(e) => {
            let why = format!("{shown}: {e}");
            let change = match e.kind() {
                io::ErrorKind::NotFound => "name the agent's data_dir with --data-dir",
                _ => "",
            };
            Check::limited(Group::Paths, "data_dir", why, change)
        }
    }
}
