//! Making and removing cgroup directories.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::refusal::{Controller, has_word};
use crate::v1::cpuset;
use crate::{ScopeError, interface, procs_file};

/// Like `mkdir -p`. On v1 a new cpuset gets CPUs, without which nobody may enter it. True: something was made.
pub(crate) fn make(dir: &Path) -> Result<bool, ScopeError> {
    let failed = |action, source| ScopeError::Io {
        action,
        path: dir.to_owned(),
        source,
    };
    let made = match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = dir.parent() {
                make(parent)?;
            }
            fs::create_dir(dir)
        }
        made => made,
    };
    match made {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(failed("create", e)),
    }
    // Whatever the umask: a task reads its limits here, and the agent's own cgroups are open to all for reading.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(|e| failed("initialise", e))?;
    cpuset::inherit(dir).map_err(|e| failed("initialise", e))?;
    Ok(true)
}

/// On v2 a controller works in a cgroup only if all above pass it on (cgroup-v2, "Enabling and Disabling"): each does from the
/// root down, as far as it has the controller itself. What is missing in the end shows when a limit is applied. On v1 there is
/// nothing to do.
pub(crate) fn enable_controllers(dir: &Path) {
    let above: Vec<&Path> = dir
        .ancestors()
        .skip(1)
        .take_while(|dir| dir.join(SUBTREE_CONTROL).exists())
        .collect();
    for dir in above.into_iter().rev() {
        pass_on_controllers(dir);
    }
}

const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

fn pass_on_controllers(dir: &Path) {
    let read = |name| interface::read(&dir.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read(SUBTREE_CONTROL));
    let missing: Vec<Controller> = Controller::ALL
        .into_iter()
        .filter(|controller| has_word(&available, controller.name()) && !has_word(&enabled, controller.name()))
        .collect();
    if missing.is_empty() || !may_pass_on(dir) {
        return;
    }
    for controller in missing {
        let _ = interface::write(&dir.join(SUBTREE_CONTROL), &format!("+{controller}"));
    }
}

/// False for a cgroup with processes. The kernel refuses some controllers there, and takes others for the wish to make its
/// children threaded, into which no process could be moved (cgroup-v2, "Threads"). The root, which alone has no
/// cgroup.events, may do both.
fn may_pass_on(dir: &Path) -> bool {
    !dir.join("cgroup.events").exists() || interface::read(&procs_file(dir)).is_ok_and(|pids| pids.is_empty())
}

/// Removes a cgroup without children. One that is gone already is fine. Killed processes leave it only when they are done with
/// dying, which is waited for, briefly.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    const ATTEMPTS: u32 = 50;
    let mut attempt = 1;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if interface::is_absence(&e) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && attempt < ATTEMPTS => {
                attempt += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(dir: &Path, controllers: &str, enabled: &str, pids: Option<&str>) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.join(SUBTREE_CONTROL), enabled).unwrap();
        if let Some(pids) = pids {
            fs::write(dir.join("cgroup.events"), "populated 1\n").unwrap();
            fs::write(procs_file(dir), pids).unwrap();
        }
    }

    #[test]
    fn controllers_are_passed_on_from_the_root_down_but_not_by_a_cgroup_with_processes() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (busy, idle) = (root.join("busy"), root.join("busy/idle"));
        cgroup(root, "cpu hugetlb pids\n", "cpu\n", None);
        cgroup(&busy, "cpu pids\n", "\n", Some("7\n"));
        cgroup(&idle, "cpu pids\n", "pids\n", Some(""));
        enable_controllers(&idle.join("task.scope"));
        let enabled = |dir: &Path| fs::read_to_string(dir.join(SUBTREE_CONTROL)).unwrap();
        assert_eq!(enabled(root), "+pids", "what is there and missing");
        assert_eq!(enabled(&busy), "\n");
        assert_eq!(enabled(&idle), "+cpu");
    }
}
