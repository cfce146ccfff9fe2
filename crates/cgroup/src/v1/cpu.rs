//! The cpu controller: shares and throttling (scheduler/sched-bwc.rst).

use std::path::PathBuf;
use std::time::Duration;

use crate::CpuQuota;
use crate::interface::{self, keyed, number};
use crate::refusal::{Controller, Writes, in_holder};

const QUOTA: &str = "cpu.cfs_quota_us";
const PERIOD: &str = "cpu.cfs_period_us";
const BURST: &str = "cpu.cfs_burst_us";

/// Periods in which the cgroup was throttled, and for how long in all.
pub(crate) fn throttling(cpu_stat: &str) -> (Option<u64>, Option<Duration>) {
    (
        keyed(cpu_stat, "nr_throttled"),
        keyed(cpu_stat, "throttled_time").map(Duration::from_nanos),
    )
}

pub(crate) fn apply_shares(dirs: &[PathBuf], shares: Option<u64>, writes: &mut Writes) {
    if let Some(shares) = shares {
        writes.write_in(Controller::Cpu, dirs, "cpu.shares", shares);
    }
}

/// The kernel checks at each write that the share of time (quota by period) is no larger than that of the cgroup above, and that the
/// burst is no larger than the quota; so each step in between must be the stricter one.
pub(crate) fn apply_bandwidth(
    dirs: &[PathBuf],
    quota: Option<CpuQuota>,
    period_us: Option<u64>,
    burst_us: Option<u64>,
    writes: &mut Writes,
) {
    let now = |file| number(&in_holder(dirs, file, interface::read)?.ok()?);
    let mut steps = Vec::new();
    if let Some(quota) = quota {
        steps.push((QUOTA, quota.to_us().to_string()));
    }
    if let Some(period) = period_us {
        let is_longer = now(PERIOD).is_some_and(|now| period >= now);
        steps.insert(if is_longer { 0 } else { steps.len() }, (PERIOD, period.to_string()));
    }
    if let Some(burst) = burst_us {
        let is_less = now(BURST).is_some_and(|now| burst < now);
        steps.insert(if is_less { 0 } else { steps.len() }, (BURST, burst.to_string()));
    }
    for (file, value) in steps {
        writes.write_in(Controller::Cpu, dirs, file, value);
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
