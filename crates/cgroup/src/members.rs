//! Who is in a cgroup, and entering one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::interface;

/// The file by which processes enter `dir` and are listed.
pub fn procs_file(dir: &Path) -> PathBuf {
    dir.join("cgroup.procs")
}

/// The file of a v1 cgroup by which one thread enters. A process that was just cloned has one, so that moving it moves the process;
/// and a thread that moves itself need not wait for a grace period of the kernel's RCU, as every write to `cgroup.procs` does
/// (Linux 5.5, "cgroup: Optimize single thread migration"): 0.1 ms instead of 7.
pub fn threads_file(dir: &Path) -> PathBuf {
    dir.join("tasks")
}

/// Moves a process, with all its threads, into each of `dirs`. Costs a grace period of the kernel's RCU, once if the moves come back
/// to back.
pub fn enter(dirs: &[PathBuf], pid: i32) -> io::Result<()> {
    for dir in dirs {
        interface::write(&procs_file(dir), &pid.to_string()).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot move process {pid} into {}: {e}", dir.display()),
            )
        })?;
    }
    Ok(())
}

/// Moves the calling thread, the only one of its process, into each of `dirs`.
pub fn enter_alone(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        let entered = match interface::write(&threads_file(dir), "0") {
            // v2 has no such file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => interface::write(&procs_file(dir), "0"),
            entered => entered,
        };
        entered.map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot move this process into {}: {e}", dir.display()),
            )
        })?;
    }
    Ok(())
}

/// The processes of `dir` and of every cgroup below it, sorted, each once. A cgroup that is not there has none. A process that
/// this PID namespace has no number for is left out.
pub fn pids(dir: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    collect(dir, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(procs_file(dir)) {
        Ok(content) => found.extend(parse_pids(&content)),
        Err(e) if interface::is_absence(&e) => {}
        // The threads of a threaded cgroup are listed with the processes of the domain above it (cgroup-v2, "Threads").
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => {}
        Err(e) => return Err(in_dir(dir, "list the processes of", &e)),
    }
    for child in children(dir)? {
        collect(&child, found)?;
    }
    Ok(())
}

/// The cgroups directly below `dir`. None if it is not there.
pub(crate) fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if interface::is_absence(&e) => return Ok(Vec::new()),
        Err(e) => return Err(in_dir(dir, "list", &e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| in_dir(dir, "list", &e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// True if there is a living process in `dir` or below it. A cgroup that is not there has none.
pub fn populated(dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(dir.join("cgroup.events")) {
        Ok(events) => Ok(interface::keyed(&events, "populated") == Some(1)),
        // v1 has no such file.
        Err(e) if interface::is_absence(&e) => Ok(!pids(dir)?.is_empty()),
        Err(e) => Err(in_dir(dir, "read the events of", &e)),
    }
}

/// Not guaranteed to be sorted or free of duplicates (cgroup-v1, cgroups.rst); 0 is a process of another PID namespace.
pub(crate) fn parse_pids(content: &str) -> impl Iterator<Item = i32> {
    content
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .filter(|pid| *pid > 0)
}

fn in_dir(dir: &Path, action: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {action} cgroup {}: {error}", dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_of_a_tree_are_sorted_unique_and_without_strangers() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("exec-1/deeper")).unwrap();
        fs::write(procs_file(dir.path()), "30\n10\n0\n").unwrap();
        fs::write(procs_file(&dir.path().join("exec-1")), "10\n20\n").unwrap();
        fs::write(procs_file(&dir.path().join("exec-1/deeper")), "7\nnonsense\n-4\n").unwrap();
        assert_eq!(pids(dir.path()).unwrap(), [7, 10, 20, 30]);
        assert!(populated(dir.path()).unwrap());
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_processes() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(pids(&gone).unwrap().is_empty());
        assert!(!populated(&gone).unwrap());
    }

    #[test]
    fn v2_answers_from_its_events_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(populated(dir.path()).unwrap());
        fs::write(dir.path().join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert!(!populated(dir.path()).unwrap());
    }

    #[test]
    fn a_failed_move_names_the_process_and_the_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let error = enter(&[dir.path().to_owned()], 42).unwrap_err().to_string();
        assert!(
            error.contains("process 42") && error.contains(&*dir.path().to_string_lossy()),
            "{error}"
        );
    }
}
