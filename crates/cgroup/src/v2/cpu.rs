//! The cpu controller (cgroup-v2, "CPU Interface Files").

use std::path::Path;
use std::time::Duration;

use crate::CpuQuota;
use crate::interface::{self, keyed, number};
use crate::refusal::{Controller, Writes};

/// The period of a cgroup for which none was set (cgroup-v2, cpu.max).
const USUAL_PERIOD_US: &str = "100000";

/// What cpu.stat says of the cgroup and all that ever was below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub total: Option<Duration>,
    pub user: Option<Duration>,
    pub system: Option<Duration>,
    pub throttled_periods: Option<u64>,
    pub throttled_time: Option<Duration>,
}

pub(crate) fn stat(content: &str) -> Stat {
    let time = |key| keyed(content, key).map(Duration::from_micros);
    Stat {
        total: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        throttled_periods: keyed(content, "nr_throttled"),
        throttled_time: time("throttled_usec"),
    }
}

/// The weight (1 to 10,000) that stands for v1's shares (2 to 262,144): the straight line through the two ends, in whole
/// numbers, which is what the agent's driver writes for the same job.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

pub(crate) fn apply_weight(scope: &Path, shares: Option<u64>, writes: &mut Writes) {
    if let Some(shares) = shares {
        writes.write(Controller::Cpu, scope, "cpu.weight", weight_of_shares(shares));
    }
}

/// Quota and period go together. The burst may at no time be larger than the quota, so it is lowered before and raised after.
pub(crate) fn apply_bandwidth(
    scope: &Path,
    quota: Option<CpuQuota>,
    period_us: Option<u64>,
    burst_us: Option<u64>,
    writes: &mut Writes,
) {
    const MAX: &str = "cpu.max";
    const BURST: &str = "cpu.max.burst";
    let burst_now = || number(&interface::read(&scope.join(BURST)).ok()?);
    let is_less = burst_us.is_some_and(|burst| burst_now().is_some_and(|now| burst < now));
    let apply_burst = |writes: &mut Writes| {
        if let Some(burst) = burst_us {
            writes.write(Controller::Cpu, scope, BURST, burst);
        }
    };
    if is_less {
        apply_burst(writes);
    }
    if quota.is_some() || period_us.is_some() {
        let now = interface::read(&scope.join(MAX)).unwrap_or_default();
        let (quota_now, period_now) = now.split_once(' ').unwrap_or(("max", USUAL_PERIOD_US));
        let quota = match quota {
            Some(CpuQuota::Microseconds(microseconds)) => microseconds.to_string(),
            Some(CpuQuota::Unlimited) => "max".to_owned(),
            None => quota_now.to_owned(),
        };
        let period = period_us.map_or(period_now.to_owned(), |period| period.to_string());
        writes.write(Controller::Cpu, scope, MAX, format!("{quota} {period}"));
    }
    if !is_less {
        apply_burst(writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_the_weight_that_nomad_writes() {
        for (shares, weight) in [
            (2, 1),
            (100, 4),
            (500, 19),
            (1024, 39),
            (2000, 77),
            (10_000, 382),
            (262_144, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    #[test]
    fn times_are_in_microseconds() {
        let content = "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 5\nnr_throttled 2\n\
                       throttled_usec 1500\nnr_bursts 0\nburst_usec 0\n";
        let expected = Stat {
            total: Some(Duration::from_secs(3)),
            user: Some(Duration::from_secs(2)),
            system: Some(Duration::from_secs(1)),
            throttled_periods: Some(2),
            throttled_time: Some(Duration::from_micros(1500)),
        };
        assert_eq!(stat(content), expected);
        // Without the controller only the first three are there.
        assert_eq!(
            stat("usage_usec 1\nuser_usec 1\nsystem_usec 0\n").throttled_periods,
            None
        );
    }
}
