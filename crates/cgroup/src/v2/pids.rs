//! The pids controller (cgroup-v2, "PID Interface Files").

use crate::interface::number;

/// Content of pids.current: tasks, threads included.
pub(crate) fn current(content: &str) -> Option<u64> {
    number(content)
}
