//! The pids controller (cgroup-v1, pids.rst).

use crate::interface::number;

/// Content of pids.current: tasks, threads included.
pub(crate) fn current(content: &str) -> Option<u64> {
    number(content)
}
