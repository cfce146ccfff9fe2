//! The cpu controller: shares and throttling (scheduler/sched-bwc.rst).

use std::path::PathBuf;
use std::time::Duration;

use crate::interface::keyed;
use crate::limits::{Limits, Writes};

/// Periods in which the cgroup was throttled, and for how long in all.
pub(crate) fn throttling(cpu_stat: &str) -> (Option<u64>, Option<Duration>) {
    (
        keyed(cpu_stat, "nr_throttled"),
        keyed(cpu_stat, "throttled_time").map(Duration::from_nanos),
    )
}

pub(crate) fn apply(dirs: &[PathBuf], limits: &Limits, writes: &mut Writes) {
    if let Some(shares) = limits.cpu_shares {
        writes.write_in(dirs, "cpu.shares", shares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttled_time_is_in_nanoseconds() {
        let stat = "nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\nnr_bursts 0\nburst_time 0\n";
        assert_eq!(throttling(stat), (Some(4), Some(Duration::from_millis(1500))));
        assert_eq!(throttling(""), (None, None));
    }
}
