//! The cpuset controller (cgroup-v1, cpusets.rst).

use std::io;
use std::path::{Path, PathBuf};

use crate::interface;
use crate::refusal::{Controller, Writes, holder};

/// The agent's cgroup of all tasks without reserved cores.
pub(crate) const SHARE: &str = "share";

const CPUS: &str = "cpuset.cpus";
const MEMS: &str = "cpuset.mems";

pub(crate) fn apply(dirs: &[PathBuf], cpus: Option<&str>, mems: Option<&str>, writes: &mut Writes) {
    for (file, value) in [(MEMS, mems), (CPUS, cpus)] {
        let Some(value) = value else { continue };
        match holder(dirs, file) {
            // It belongs to every task without reserved cores, and the agent alone says what is in it.
            Some(dir) if dir.ends_with(SHARE) => writes.refuse(
                Controller::Cpuset,
                &dir.join(file),
                value,
                "this cgroup is shared with other tasks",
            ),
            _ => {
                writes.write_in(Controller::Cpuset, dirs, file, value);
            }
        }
    }
}

/// Gives a new cgroup the CPUs and memory nodes of its parent, without which no process may enter it (ENOSPC). Does nothing in
/// other hierarchies, or where something is set, or on v2, where the files have the same names and what is empty is inherited.
pub(crate) fn inherit(dir: &Path) -> io::Result<()> {
    for file in [CPUS, MEMS] {
        let own = dir.join(file);
        match interface::read(&own) {
            Ok(value) if value.is_empty() && dir.join("cgroup.controllers").exists() => return Ok(()),
            Ok(value) if value.is_empty() => {}
            Ok(_) => continue,
            Err(e) if interface::is_absence(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
        let Some(parent) = dir.parent() else { return Ok(()) };
        interface::write(&own, &interface::read(&parent.join(file))?)?;
    }
    Ok(())
}
