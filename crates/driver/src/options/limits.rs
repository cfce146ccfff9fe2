//! Limits that a job asks for beside its resources.

use holdfast_cgroup::{Limits, MemoryMax};
use holdfast_sandbox::limits::{
    CpuError, CpuShare, check_cpu, check_io_weight, check_pids_limit, hard_cpu_limit, parse_io_max, parse_size,
};

use super::decode::Values;
use super::task::InvalidTaskOptions;

/// `cpu_hard_limit` with its period and burst in microseconds; 0: nothing was said. How much it is depends on the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardCpu {
    period: i64,
    burst: i64,
}

impl HardCpu {
    /// Writes the task's share into `limits`.
    pub fn apply(self, share: CpuShare, limits: &mut Limits) -> Result<(), InvalidTaskOptions> {
        let bandwidth = hard_cpu_limit(share, self.period, self.burst).map_err(cpu_error)?;
        limits.cpu_quota = bandwidth.quota;
        limits.cpu_period_us = bandwidth.period_us;
        limits.cpu_burst_us = bandwidth.burst_us;
        Ok(())
    }
}

/// Reads them; those of the CPU that need the agent's word are separate.
pub(super) fn take(values: &mut Values) -> Result<(Limits, Option<HardCpu>), InvalidTaskOptions> {
    let mut io_max = Vec::new();
    for (device, limits) in values.map("io_max") {
        io_max.push(parse_io_max(&device, &limits).map_err(InvalidTaskOptions::value)?);
    }
    let limits = Limits {
        memory_high: size(values, "memory_high")?,
        memory_swap: size(values, "memory_swap")?,
        swappiness: ranged(values, "memory_swappiness", 0, 100)?
            .map(|swappiness| u8::try_from(swappiness).unwrap_or(100)),
        oom_group: values.flag("oom_group"),
        cpu_shares: ranged(values, "cpu_weight", 1, 10_000)?.map(shares),
        cpuset_mems: values.text("cpuset_mems").map(cpu_list).transpose()?,
        pids_max: check_pids_limit(values.integer("pids_limit").unwrap_or(0)).map_err(InvalidTaskOptions::value)?,
        io_weight: (values.integer("io_weight").map(check_io_weight).transpose()).map_err(InvalidTaskOptions::value)?,
        io_max,
        ..Limits::default()
    };
    let period = values.integer("cpu_cfs_period").unwrap_or(0);
    let burst = values.integer("cpu_burst").unwrap_or(0);
    if values.flag("cpu_hard_limit") == Some(true) {
        // What is wrong in itself is told before anything is looked up.
        let plenty = CpuShare {
            percent_ticks: 1.0,
            cores: u32::from(u16::MAX),
            ..CpuShare::default()
        };
        hard_cpu_limit(plenty, period, burst).map_err(cpu_error)?;
        return Ok((limits, Some(HardCpu { period, burst })));
    }
    check_cpu(0, period, burst).map_err(cpu_error)?;
    if period != 0 {
        return Err(InvalidTaskOptions::Needs {
            option: "cpu_cfs_period",
            other: "cpu_hard_limit",
        });
    }
    Ok((limits, None))
}

fn cpu_error(error: CpuError) -> InvalidTaskOptions {
    match error {
        CpuError::Period(value) => InvalidTaskOptions::OutOfBounds {
            option: "cpu_cfs_period",
            least: 1000,
            most: 1_000_000,
            value,
        },
        error => InvalidTaskOptions::value(error),
    }
}

/// A size, or no limit.
pub(super) fn size(values: &mut Values, option: &'static str) -> Result<Option<MemoryMax>, InvalidTaskOptions> {
    let parsed = values.text(option).map(|text| parse_size(&text)).transpose();
    parsed.map_err(|e| InvalidTaskOptions::value(format_args!("{option} {e}")))
}

/// A number between two others.
pub(super) fn ranged(
    values: &Values,
    option: &'static str,
    least: i64,
    most: i64,
) -> Result<Option<i64>, InvalidTaskOptions> {
    match values.integer(option) {
        Some(value) if !(least..=most).contains(&value) => Err(InvalidTaskOptions::OutOfBounds {
            option,
            least,
            most,
            value,
        }),
        value => Ok(value),
    }
}

/// The least number of v1's shares that has this weight of v2, by the rule that container runtimes share (2 to 262144 on
/// 1 to 10000).
fn shares(weight: i64) -> u64 {
    let above = u64::try_from(weight).unwrap_or(1).saturating_sub(1);
    2 + (above * 262_142).div_ceil(9_999)
}

/// Numbers and ranges as in cpuset(7), "List format"; which of them exist only the kernel knows.
fn cpu_list(text: String) -> Result<String, InvalidTaskOptions> {
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u32>().ok())?
    };
    let is_range = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last),
    };
    if text.split(',').all(is_range) {
        Ok(text)
    } else {
        Err(InvalidTaskOptions::value(format_args!(
            "cpuset_mems {text:?} is not a list of numbers and ranges such as \"0-1,3\""
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_becomes_shares_that_become_the_weight_again() {
        for weight in [1, 2, 39, 100, 5000, 9_999, 10_000] {
            // As written to cpu.weight.
            let again = 1 + (shares(weight) - 2) * 9_999 / 262_142;
            assert_eq!(i64::try_from(again), Ok(weight));
        }
        assert_eq!((shares(1), shares(10_000)), (2, 262_144));
    }
}
