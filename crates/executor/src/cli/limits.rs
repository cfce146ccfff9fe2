//! Flags for what a task may use, named like the job's options and read by the same functions.

use anyhow::Result;
use clap::Args;
use holdfast_cgroup::{IoMax, Limits, MemoryMax, PidsMax, version};
use holdfast_sandbox::limits::{
    Bandwidth, MemoryEnforcement, MemoryLimits, check_cpu, check_io_weight, check_pids_limit, check_swappiness,
    memory_limits, parse_io_max, parse_size,
};

const MIB: u64 = 1 << 20;

/// What is not given is not limited, or stays as it is.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Resources")]
pub struct LimitFlags {
    /// Memory: 64MiB, 1g, or a number of MiB
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<i64>,
    /// The hard limit where --memory is what is reserved; unlimited or -1: none
    #[arg(long, value_name = "SIZE", value_parser = mebibytes_or_unlimited, allow_negative_numbers = true)]
    memory_max: Option<i64>,
    /// What happens above --memory: hard (killed), soft (slowed down) or none [default: hard]
    #[arg(long, value_name = "MODE", value_parser = MemoryEnforcement::parse)]
    memory_enforcement: Option<MemoryEnforcement>,
    /// Above this it is slowed down; cgroup v2 only
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_high: Option<MemoryMax>,
    /// Swap beside the memory
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_swap: Option<MemoryMax>,
    /// 0 to 100; cgroup v1 only
    #[arg(long, value_name = "N", value_parser = swappiness)]
    swappiness: Option<u8>,
    /// Whether running out of memory takes all processes; cgroup v2 only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oom_group: Option<bool>,
    /// Relative weight, 1024 is usual
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period; -1: no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Length of a period in microseconds, 1000 to 1000000
    #[arg(long, value_name = "US")]
    cpu_period: Option<i64>,
    /// Microseconds of the quota that may be saved up
    #[arg(long, value_name = "US")]
    cpu_burst: Option<i64>,
    /// CPUs to run on, as in 0-2,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, as in 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// How many processes and threads; -1: no limit
    #[arg(long, value_name = "N", value_parser = pids_limit, allow_negative_numbers = true)]
    pids_limit: Option<PidsMax>,
    /// 1 to 10000, 100 is usual
    #[arg(long, value_name = "N", value_parser = io_weight)]
    io_weight: Option<u16>,
    /// Limits of a disk: /dev/sda=rbps=10M,wbps=1M,riops=100,wiops=max
    #[arg(long, value_name = "DEV=SPEC", value_parser = io_max)]
    io_max: Vec<IoMax>,
}

impl LimitFlags {
    /// Contradictions are errors that name the job's option.
    pub fn limits(&self) -> Result<Limits> {
        let LimitFlags {
            memory,
            memory_max,
            memory_enforcement,
            memory_high,
            memory_swap,
            swappiness,
            oom_group,
            cpu_shares,
            cpu_quota,
            cpu_period,
            cpu_burst,
            cpuset_cpus,
            cpuset_mems,
            pids_limit,
            io_weight,
            io_max,
        } = self;
        let MemoryLimits { max, high, low } = memory_limits(
            memory.unwrap_or(0),
            memory_max.unwrap_or(0),
            memory_enforcement.unwrap_or_default(),
            version(),
        );
        let said = |number: &Option<i64>| number.unwrap_or(0);
        let Bandwidth {
            quota,
            period_us,
            burst_us,
        } = check_cpu(said(cpu_quota), said(cpu_period), said(cpu_burst))?;
        Ok(Limits {
            memory_max: max,
            memory_low: low,
            memory_high: memory_high.or(high),
            memory_swap: *memory_swap,
            swappiness: *swappiness,
            oom_group: *oom_group,
            cpu_shares: *cpu_shares,
            cpuset_cpus: cpuset_cpus.clone(),
            cpuset_mems: cpuset_mems.clone(),
            cpu_quota: quota,
            cpu_period_us: period_us,
            cpu_burst_us: burst_us,
            pids_max: *pids_limit,
            io_weight: *io_weight,
            io_max: io_max.clone(),
        })
    }
}

/// The resources of a job are in MiB.
fn mebibytes(text: &str) -> Result<i64, String> {
    match parse_size(text) {
        Ok(MemoryMax::Bytes(bytes)) if bytes > 0 && bytes % MIB == 0 => {
            i64::try_from(bytes / MIB).map_err(|e| e.to_string())
        }
        Ok(MemoryMax::Bytes(_)) => Err("expected whole MiB, at least one".to_owned()),
        Ok(MemoryMax::Unlimited) => Err("expected a size; --memory-max can be unlimited".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn mebibytes_or_unlimited(text: &str) -> Result<i64, String> {
    match parse_size(text) {
        Ok(MemoryMax::Unlimited) => Ok(-1),
        // The word of a job's resources.
        _ if text == "-1" => Ok(-1),
        _ => mebibytes(text),
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

fn swappiness(text: &str) -> Result<u8, String> {
    check_swappiness(number(text)?).map_err(|e| e.to_string())
}

fn io_weight(text: &str) -> Result<u16, String> {
    check_io_weight(number(text)?).map_err(|e| e.to_string())
}

fn pids_limit(text: &str) -> Result<PidsMax, String> {
    let limit = check_pids_limit(number(text)?).map_err(|e| e.to_string())?;
    limit.ok_or_else(|| "expected a number from 1 on, or -1 for no limit".to_owned())
}

/// A device, and its limits with commas between.
fn io_max(text: &str) -> Result<IoMax, String> {
    let (device, limits) = text
        .split_once('=')
        .ok_or("expected DEVICE=LIMITS such as /dev/sda=rbps=10M,wbps=1M")?;
    parse_io_max(device, &limits.replace(',', " ")).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use holdfast_cgroup::CpuQuota;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: LimitFlags,
    }

    fn parsed(arguments: &[&str]) -> Result<Limits, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(arguments.iter().copied()));
        let line = line.map_err(|e| e.to_string())?;
        line.flags.limits().map_err(|e| e.to_string())
    }

    #[test]
    fn flags_become_the_limits_that_the_same_words_of_a_job_become() {
        assert_eq!(parsed(&[]), Ok(Limits::default()));
        let bytes = |mib: u64| Some(MemoryMax::Bytes(mib << 20));
        let limits = parsed(&["--memory", "64", "--cpu-shares", "100"]).unwrap();
        assert_eq!(
            (limits.memory_max, limits.memory_low, limits.cpu_shares),
            (bytes(64), None, Some(100))
        );
        let limits = parsed(&["--memory", "64MiB", "--memory-max", "1g"]).unwrap();
        assert_eq!((limits.memory_max, limits.memory_low), (bytes(1024), Some(64 << 20)));
        let limits = parsed(&["--memory", "64m", "--memory-enforcement", "none"]).unwrap();
        assert_eq!((limits.memory_max, limits.memory_low), (None, Some(64 << 20)));
        let limits = parsed(&[
            "--memory-max",
            "unlimited",
            "--memory-swap",
            "512k",
            "--memory-high",
            "unlimited",
            "--swappiness",
            "7",
            "--oom-group",
            "--cpu-quota",
            "50000",
            "--cpu-period",
            "200000",
            "--cpu-burst",
            "1000",
            "--cpuset-cpus",
            "0-1",
            "--cpuset-mems",
            "0",
            "--pids-limit",
            "-1",
            "--io-weight",
            "50",
        ]);
        let expected = Limits {
            memory_max: Some(MemoryMax::Unlimited),
            memory_swap: Some(MemoryMax::Bytes(512 << 10)),
            memory_high: Some(MemoryMax::Unlimited),
            swappiness: Some(7),
            oom_group: Some(true),
            cpu_quota: Some(CpuQuota::Microseconds(50_000)),
            cpu_period_us: Some(200_000),
            cpu_burst_us: Some(1000),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids_max: Some(PidsMax::Unlimited),
            io_weight: Some(50),
            ..Limits::default()
        };
        assert_eq!(limits, Ok(expected));
        assert_eq!(parsed(&["--oom-group=false"]).unwrap().oom_group, Some(false));
    }

    #[test]
    fn values_that_mean_nothing_name_their_flag() {
        for (flag, value) in [
            ("--memory", "0"),
            ("--memory", "300k"),
            ("--memory", "unlimited"),
            ("--memory", "lots"),
            ("--memory-max", "-2"),
            ("--memory-enforcement", "maybe"),
            ("--memory-high", "1.5g"),
            ("--memory-swap", ""),
            ("--swappiness", "101"),
            ("--cpu-shares", "1"),
            ("--cpu-quota", "much"),
            ("--pids-limit", "0"),
            ("--pids-limit", "-2"),
            ("--io-weight", "0"),
            ("--io-max", "/dev/null"),
            ("--io-max", "/dev/null=rbps=1"),
            ("--io-max", "8:0=nonsense=1"),
        ] {
            let said = parsed(&[flag, value]).unwrap_err();
            assert!(said.contains(flag), "{flag} {value}: {said}");
        }
        let said = parsed(&["--cpu-burst", "1000"]).unwrap_err();
        assert!(said.contains("cpu_burst 1000"), "{said}");
        assert!(parsed(&["--cpu-period", "5"]).unwrap_err().contains("cpu_period 5"));
    }
}
