//! The cpuset controller (cgroup-v2, "Cpuset Interface Files").

use std::path::Path;

use crate::refusal::{Controller, Writes};

pub(crate) fn apply(scope: &Path, cpus: Option<&str>, mems: Option<&str>, writes: &mut Writes) {
    for (file, value) in [("cpuset.mems", mems), ("cpuset.cpus", cpus)] {
        if let Some(value) = value {
            writes.write(Controller::Cpuset, scope, file, value);
        }
    }
}
