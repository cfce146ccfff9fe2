//! The devices controller (cgroup-v1, devices.rst).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::devices::DeviceError;
use crate::members::children;
use crate::scope::is_hierarchy;
use crate::{DeviceRule, Scope, interface};

pub(crate) const HIERARCHY: &str = "devices";
const DENY: &str = "devices.deny";
const ALLOW: &str = "devices.allow";
const EVERYTHING: &str = "a";

/// Refuses everything, which also forgets what an earlier task was allowed, then allows one rule after the other.
pub(crate) fn restrict(root: &Path, scope: &Scope, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    let path = root.join(HIERARCHY);
    if !is_hierarchy(&path) {
        return Err(DeviceError::NoHierarchy { path });
    }
    let Some(dir) = own_dir(scope) else {
        return Err(DeviceError::NoCgroup { path });
    };
    refuse_everything(dir).map_err(|e| refused(dir, DENY, EVERYTHING.to_owned(), e))?;
    let allow = dir.join(ALLOW);
    let allow = File::options()
        .write(true)
        .open(&allow)
        .map_err(|e| refused(dir, ALLOW, String::new(), e))?;
    rules.iter().try_for_each(|rule| {
        let value = rule.to_string();
        // One rule per write.
        (&allow)
            .write_all(value.as_bytes())
            .map_err(|e| refused(dir, ALLOW, value, e))
    })
}

/// The task's directory in that hierarchy, whatever it is mounted with. One of another name, as that of a shared cpuset, is other
/// tasks' too.
fn own_dir(scope: &Scope) -> Option<&Path> {
    scope
        .join
        .iter()
        .map(|dir| dir.as_path())
        .find(|dir| dir.file_name() == scope.kill.file_name() && dir.join(DENY).exists())
}

/// The kernel does not do this to a cgroup with others below it (EINVAL). An earlier task may have made such and left them.
fn refuse_everything(dir: &Path) -> io::Result<()> {
    const ATTEMPTS: u32 = 50;
    let mut attempt = 1;
    loop {
        match interface::write(&dir.join(DENY), EVERYTHING) {
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) && attempt < ATTEMPTS => {
                remove_below(dir);
                // One that was removed counts until a grace period of the kernel's RCU is over.
                thread::sleep(Duration::from_millis(2));
                attempt += 1;
            }
            written => return written,
        }
    }
}

/// What cannot be removed shows in the next attempt.
fn remove_below(dir: &Path) {
    for child in children(dir).unwrap_or_default() {
        remove_below(&child);
        let _ = fs::remove_dir(child);
    }
}

fn refused(dir: &Path, file: &str, value: String, source: io::Error) -> DeviceError {
    let file = dir.join(file);
    DeviceError::Write { file, value, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_hierarchy_is_told_from_a_task_without_a_cgroup_in_it() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("freezer/nomad/alloc.web");
        let shared = root.path().join("devices/nomad/share");
        for dir in [&own, &shared] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(shared.join(DENY), "").unwrap();
        let scope = Scope {
            version: crate::Version::V1,
            join: vec![own.clone(), shared.clone()],
            kill: own,
            own: Vec::new(),
            shared: Vec::new(),
            foreign: false,
        };
        let error = restrict(root.path(), &scope, &[]).unwrap_err();
        let hierarchy = root.path().join(HIERARCHY);
        assert!(matches!(&error, DeviceError::NoHierarchy { path } if *path == hierarchy));
        assert!(error.to_string().contains(hierarchy.to_str().unwrap()), "{error}");

        fs::write(hierarchy.join("cgroup.procs"), "").unwrap();
        let error = restrict(root.path(), &scope, &[]).unwrap_err();
        assert!(matches!(&error, DeviceError::NoCgroup { path } if *path == hierarchy));
        let untouched = fs::read_to_string(shared.join(DENY)).unwrap();
        assert_eq!(untouched, "", "other tasks are in it");
    }
}
