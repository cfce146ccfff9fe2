//! The devices controller (cgroup-v1, devices.rst).

use std::path::Path;

use crate::devices::DeviceError;
use crate::scope::is_hierarchy;
use crate::{DeviceRule, Scope, interface};

pub(crate) const HIERARCHY: &str = "devices";
const DENY: &str = "devices.deny";
const ALLOW: &str = "devices.allow";

/// Refuses everything, which also forgets what an earlier task was allowed, then allows one rule after the other.
pub(crate) fn restrict(root: &Path, scope: &Scope, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    let path = root.join(HIERARCHY);
    if !is_hierarchy(&path) {
        return Err(DeviceError::NoHierarchy { path });
    }
    let Some(dir) = own_dir(scope) else {
        return Err(DeviceError::NoCgroup { path });
    };
    let write = |file: &str, value: String| {
        let file = dir.join(file);
        interface::write(&file, &value).map_err(|source| DeviceError::Write { file, value, source })
    };
    write(DENY, "a".to_owned())?;
    rules.iter().try_for_each(|rule| write(ALLOW, rule.to_string()))
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
