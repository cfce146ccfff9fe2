//! The pids controller (cgroup-v2, "PID Interface Files").

use std::path::Path;

use crate::PidsMax;
use crate::interface::number;
use crate::refusal::{Controller, Writes};

/// Content of pids.current: tasks, threads included.
pub(crate) fn current(content: &str) -> Option<u64> {
    number(content)
}

pub(crate) fn apply(scope: &Path, max: Option<PidsMax>, writes: &mut Writes) {
    match max {
        Some(PidsMax::Count(count)) => writes.write(Controller::Pids, scope, "pids.max", count),
        Some(PidsMax::Unlimited) => writes.write(Controller::Pids, scope, "pids.max", "max"),
        None => true,
    };
}
