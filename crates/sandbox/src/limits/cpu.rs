//! Hard limits of CPU time.

use holdfast_cgroup::CpuQuota;
use thiserror::Error;

/// What the kernel takes as a period, in microseconds (sched-bwc.rst).
const PERIODS_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The least quota, in microseconds (sched-bwc.rst).
const LEAST_QUOTA_US: i64 = 1_000;
/// The most quota and burst together, in microseconds (kernel/sched, MAX_BW).
const MOST_QUOTA_US: i64 = (1 << 44) - 1;
/// The kernel's period where none is given (sched-bwc.rst), and the docker driver's (`cpu_cfs_period`).
const USUAL_PERIOD_US: i64 = 100_000;

/// Why a limit of CPU time means nothing. The text names the option and its value, in microseconds.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpuError {
    /// Outside what the kernel takes.
    #[error("cpu_period {0} is not between 1000 and 1000000 microseconds")]
    Period(i64),
    /// Outside what the kernel takes.
    #[error("cpu_quota {0} is neither between {LEAST_QUOTA_US} and {MOST_QUOTA_US} microseconds nor -1 for no limit")]
    Quota(i64),
    /// Nothing can be saved up.
    #[error("cpu_burst {0} is negative")]
    Burst(i64),
    /// There is nothing that it could be saved from.
    #[error("cpu_burst {0} without a hard limit of CPU time has no meaning")]
    BurstWithoutQuota(i64),
    /// The kernel takes none such.
    #[error("cpu_burst {burst} is above the quota of {quota} microseconds in each period")]
    BurstAboveQuota {
        /// As it was given.
        burst: i64,
        /// Given, or of the task's share.
        quota: i64,
    },
    /// The agent said how much the task may use as no number or as less than nothing.
    #[error("cpu_hard_limit: the agent's share of {0} of the host is not above zero")]
    Share(String),
}

/// CPU time in each period. What is absent is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// In each period.
    pub quota: Option<CpuQuota>,
    /// In microseconds.
    pub period_us: Option<u64>,
    /// In microseconds.
    pub burst_us: Option<u64>,
}

/// What the agent says of the task's CPU, in the names of `linux_resources`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuShare {
    /// In microseconds; 0: nothing was said, as Nomad's agent does (1.11.0, client/allocrunner/taskrunner/task_runner.go).
    pub cpu_period: i64,
    /// In microseconds for each period; 0: nothing was said, as Nomad's agent does.
    pub cpu_quota: i64,
    /// The task's part of what the whole host can compute, 0 to 1.
    pub percent_ticks: f64,
    /// CPUs of the host.
    pub cores: u32,
}

/// `cpu_quota`, `cpu_period` and `cpu_burst`, in microseconds. 0: nothing was said; a quota of -1: no limit.
pub fn check_cpu(quota: i64, period: i64, burst: i64) -> Result<Bandwidth, CpuError> {
    if period != 0 && !PERIODS_US.contains(&period) {
        return Err(CpuError::Period(period));
    }
    if !matches!(quota, -1 | 0 | LEAST_QUOTA_US..=MOST_QUOTA_US) {
        return Err(CpuError::Quota(quota));
    }
    if burst < 0 {
        return Err(CpuError::Burst(burst));
    }
    if burst > 0 && quota <= 0 {
        return Err(CpuError::BurstWithoutQuota(burst));
    }
    if burst > quota.max(0) {
        return Err(CpuError::BurstAboveQuota { burst, quota });
    }
    let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    Ok(Bandwidth {
        quota: (quota != 0).then(|| CpuQuota::from_us(quota)),
        period_us: positive(period),
        burst_us: positive(burst),
    })
}

/// `cpu_hard_limit`: the share of the CPUs that the agent gave the task becomes a limit. `period` and `burst` are the job's
/// `cpu_period` and `cpu_burst` in microseconds, 0: nothing was said.
///
/// A quota that the agent sends counts, for its own period. Otherwise it is the task's part of the host times the period times
/// the CPUs, as the docker driver has it (Nomad 1.11.0, drivers/docker/driver.go), but rounded once, at the end. A share below the
/// kernel's least quota becomes that.
pub fn hard_cpu_limit(share: CpuShare, period: i64, burst: i64) -> Result<Bandwidth, CpuError> {
    let CpuShare {
        cpu_period,
        cpu_quota,
        percent_ticks,
        cores,
    } = share;
    let sent_period = if cpu_period > 0 { cpu_period } else { USUAL_PERIOD_US };
    let period = if period == 0 { sent_period } else { period };
    if !PERIODS_US.contains(&period) {
        return Err(CpuError::Period(period));
    }
    let cpus = if cpu_quota > 0 {
        cpu_quota as f64 / sent_period as f64
    } else if percent_ticks > 0.0 && percent_ticks.is_finite() {
        percent_ticks * f64::from(cores)
    } else {
        return Err(CpuError::Share(percent_ticks.to_string()));
    };
    // Rounded to the nearest: the part that comes over the wire is a rounded one itself.
    let quota = (cpus * period as f64).round() as i64;
    check_cpu(quota.clamp(LEAST_QUOTA_US, MOST_QUOTA_US), period, burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bandwidth(quota: Option<i64>, period_us: Option<u64>, burst_us: Option<u64>) -> Bandwidth {
        Bandwidth {
            quota: quota.map(CpuQuota::from_us),
            period_us,
            burst_us,
        }
    }

    #[test]
    fn quota_period_and_burst_are_those_that_the_kernel_takes() {
        let table = [
            (0, 0, 0, Ok(bandwidth(None, None, None))),
            (-1, 0, 0, Ok(bandwidth(Some(-1), None, None))),
            (
                1_000,
                1_000,
                1_000,
                Ok(bandwidth(Some(1_000), Some(1_000), Some(1_000))),
            ),
            (
                50_000,
                1_000_000,
                1,
                Ok(bandwidth(Some(50_000), Some(1_000_000), Some(1))),
            ),
            (
                0,
                999,
                0,
                Err("cpu_period 999 is not between 1000 and 1000000 microseconds"),
            ),
            (
                0,
                1_000_001,
                0,
                Err("cpu_period 1000001 is not between 1000 and 1000000 microseconds"),
            ),
            (
                0,
                -5,
                0,
                Err("cpu_period -5 is not between 1000 and 1000000 microseconds"),
            ),
            (
                999,
                0,
                0,
                Err("cpu_quota 999 is neither between 1000 and 17592186044415 microseconds nor -1 for no limit"),
            ),
            (
                -2,
                0,
                0,
                Err("cpu_quota -2 is neither between 1000 and 17592186044415 microseconds nor -1 for no limit"),
            ),
            (
                i64::MAX,
                0,
                0,
                Err(
                    "cpu_quota 9223372036854775807 is neither between 1000 and 17592186044415 microseconds nor -1 for no \
                     limit",
                ),
            ),
            (5_000, 0, -1, Err("cpu_burst -1 is negative")),
            (
                5_000,
                0,
                5_001,
                Err("cpu_burst 5001 is above the quota of 5000 microseconds in each period"),
            ),
            (
                0,
                0,
                1,
                Err("cpu_burst 1 without a hard limit of CPU time has no meaning"),
            ),
            (
                -1,
                0,
                i64::MAX,
                Err("cpu_burst 9223372036854775807 without a hard limit of CPU time has no meaning"),
            ),
        ];
        for (quota, period, burst, expected) in table {
            let answer = check_cpu(quota, period, burst).map_err(|error| error.to_string());
            assert_eq!(answer, expected.map_err(str::to_owned), "{quota} {period} {burst}");
        }
    }

    #[test]
    fn a_hard_limit_is_the_tasks_part_of_the_host_pain_23() {
        let share = |percent_ticks, cores| CpuShare {
            percent_ticks,
            cores,
            ..CpuShare::default()
        };
        let sent = CpuShare {
            cpu_period: 50_000,
            cpu_quota: 25_000,
            ..share(0.9, 64)
        };
        let table = [
            // share, cpu_period, cpu_burst; quota, period, burst
            (share(0.25, 4), 0, 0, 100_000, 100_000, None),
            (share(0.25, 2), 0, 0, 50_000, 100_000, None),
            (share(0.25, 2), 20_000, 5_000, 10_000, 20_000, Some(5_000)),
            (share(1.0, 2), 0, 0, 200_000, 100_000, None),
            (share(1.0 / 3.0, 3), 0, 0, 100_000, 100_000, None),
            (share(1e-9, 1), 0, 0, 1_000, 100_000, None),
            (share(1e300, 4096), 0, 0, MOST_QUOTA_US, 100_000, None),
            (sent, 0, 0, 25_000, 50_000, None),
            (sent, 100_000, 0, 50_000, 100_000, None),
        ];
        for (share, period, burst, quota, period_us, burst_us) in table {
            assert_eq!(
                hard_cpu_limit(share, period, burst),
                Ok(bandwidth(Some(quota), Some(period_us), burst_us)),
                "{share:?} {period} {burst}"
            );
        }
        let nothing = "cpu_hard_limit: the agent's share of 0 of the host is not above zero";
        let table = [
            (share(0.0, 4), 0, 0, nothing.to_owned()),
            (
                share(0.5, 0),
                10,
                0,
                "cpu_period 10 is not between 1000 and 1000000 microseconds".to_owned(),
            ),
            (share(f64::NAN, 4), 0, 0, nothing.replace("of 0", "of NaN")),
            (share(-0.5, 4), 0, 0, nothing.replace("of 0", "of -0.5")),
            (share(f64::INFINITY, 4), 0, 0, nothing.replace("of 0", "of inf")),
            (
                share(0.5, 1),
                0,
                60_000,
                "cpu_burst 60000 is above the quota of 50000 microseconds in each period".to_owned(),
            ),
        ];
        for (share, period, burst, message) in table {
            assert_eq!(hard_cpu_limit(share, period, burst).unwrap_err().to_string(), message);
        }
    }
}
