//! The cpuset controller (cgroup-v2, "Cpuset Interface Files").

use std::path::Path;

use crate::limits::{Limits, Writes};

pub(crate) fn apply(scope: &Path, limits: &Limits, writes: &mut Writes) {
    if let Some(cpus) = &limits.cpuset_cpus {
        writes.write(scope.join("cpuset.cpus"), cpus);
    }
}
