//! The cpu controller (cgroup-v2, "CPU Interface Files").

use std::path::Path;
use std::time::Duration;

use crate::interface::keyed;
use crate::limits::{Limits, Writes};

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

pub(crate) fn apply(scope: &Path, limits: &Limits, writes: &mut Writes) {
    if let Some(shares) = limits.cpu_shares {
        writes.write(scope.join("cpu.weight"), weight_of_shares(shares));
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
