//! The pids controller (cgroup-v1, pids.rst).

use std::path::PathBuf;

use crate::PidsMax;
use crate::interface::number;
use crate::refusal::{Controller, Writes};

/// Content of pids.current: tasks, threads included.
pub(crate) fn current(content: &str) -> Option<u64> {
    number(content)
}

pub(crate) fn apply(dirs: &[PathBuf], max: Option<PidsMax>, writes: &mut Writes) {
    match max {
        Some(PidsMax::Count(count)) => writes.write_in(Controller::Pids, dirs, "pids.max", count),
        Some(PidsMax::Unlimited) => writes.write_in(Controller::Pids, dirs, "pids.max", "max"),
        None => true,
    };
}
