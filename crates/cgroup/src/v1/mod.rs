//! cgroup-v1: one hierarchy per controller.

pub(crate) mod cpu;
pub(crate) mod cpuacct;
pub(crate) mod cpuset;
pub(crate) mod freezer;
pub(crate) mod memory;
pub(crate) mod pids;

use std::path::PathBuf;

use crate::limits::{Limits, Writes};

/// Writes the limits that are present into whichever of the task's directories has the file.
pub(crate) fn apply(dirs: &[PathBuf], limits: &Limits, writes: &mut Writes) {
    memory::apply(dirs, limits, writes);
    cpu::apply(dirs, limits, writes);
    cpuset::apply(dirs, limits, writes);
}
