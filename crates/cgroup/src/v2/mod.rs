//! cgroup-v2: the unified hierarchy.

pub(crate) mod cpu;
pub(crate) mod cpuset;
pub(crate) mod lifecycle;
pub(crate) mod memory;
pub(crate) mod pids;

use std::path::Path;

use crate::limits::{Limits, Writes};

/// Writes the limits that are present into the task's scope.
pub(crate) fn apply(scope: &Path, limits: &Limits, writes: &mut Writes) {
    memory::apply(scope, limits, writes);
    cpu::apply(scope, limits, writes);
    cpuset::apply(scope, limits, writes);
}
