//! Samples of the task in Nomad's messages (contract, T-1 to T-5): for this executor's service, and for whoever else measures a
//! task for Nomad.

use std::time::{Duration, Instant, SystemTime};

use holdfast_cgroup::{Sample, Sampler};
use holdfast_record::PlacementRecord;
use holdfast_wire::nomad_driver::{CpuUsage, MemoryUsage, TaskResourceUsage, TaskStats, cpu_usage, memory_usage};

use super::process_tree;

/// What an interval of 0 means (contract, T-1).
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Measures one task for as long as somebody listens.
#[derive(Debug)]
pub struct Meter {
    task_id: String,
    main: i32,
    sampler: Option<Sampler>,
    /// Of one core, in MHz; `None`: the host does not say.
    core_mhz: Option<f64>,
    cpu: CpuTimes,
}

impl Meter {
    /// Without cgroups of the task's own the sums of its processes stand for it.
    pub fn new(task_id: String, main: i32, placement: &PlacementRecord) -> Self {
        let sampler = holdfast_cgroup::version()
            .filter(|_| !placement.foreign && !placement.join.is_empty())
            .map(|version| Sampler::open(version, &placement.join))
            .filter(|sampler| !sampler.is_empty());
        Self {
            task_id,
            main,
            sampler,
            core_mhz: core_mhz(),
            cpu: CpuTimes::default(),
        }
    }

    /// One sample; `None`: there is nothing left to measure.
    pub fn measure(&mut self, now: Instant) -> Option<TaskStats> {
        let sample = match &mut self.sampler {
            Some(sampler) => sampler.sample().ok()?,
            None => {
                let usage = process_tree::usage(self.main)?;
                Sample {
                    user: Some(usage.user),
                    system: Some(usage.system),
                    rss: Some(usage.rss),
                    swap: Some(usage.swap),
                    ..Sample::default()
                }
            }
        };
        // The client dereferences the sum without looking (contract, T-3).
        Some(TaskStats {
            id: self.task_id.clone(),
            timestamp: Some(SystemTime::now().into()),
            agg_resource_usage: Some(self.usage(&sample, now)),
            resource_usage_by_pid: Default::default(),
        })
    }

    fn usage(&mut self, sample: &Sample, now: Instant) -> TaskResourceUsage {
        let core_mhz = self.core_mhz;
        self.cpu.usage(sample, now, |percent| Some(percent / 100.0 * core_mhz?))
    }
}

/// The CPU times of one task over successive samples, from which come the rates that Nomad asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTimes {
    total: Tracker,
    user: Tracker,
    system: Tracker,
}

impl CpuTimes {
    /// A sample that was taken now, as a message. `ticks` says how many MHz a percentage stands for, of which each core has 100;
    /// `None`: nobody knows. Exactly what was measured is named as measured (contract, T-4).
    pub fn usage(
        &mut self,
        sample: &Sample,
        now: Instant,
        ticks: impl FnOnce(f64) -> Option<f64>,
    ) -> TaskResourceUsage {
        let Sample {
            user,
            system,
            total,
            throttled_periods,
            throttled_time,
            rss,
            cache,
            swap,
            // No field of the protocol takes these (contract, T-4).
            mapped_file: _,
            tasks: _,
            tasks_max: _,
            io: _,
            pressure: _,
            usage,
            max_usage,
            kernel_usage,
            kernel_max_usage,
        } = *sample;
        let total = total.or_else(|| Some(user? + system?));
        let percent = total.map(|total| self.total.percent(total, now));
        let ticks = percent.and_then(ticks);
        let system = system.map(|time| self.system.percent(time, now));
        let user = user.map(|time| self.user.percent(time, now));
        let throttled_time = throttled_time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let mut cpu = Measured::default();
        let cpu = CpuUsage {
            system_mode: cpu.take(cpu_usage::Fields::SystemMode as i32, system),
            user_mode: cpu.take(cpu_usage::Fields::UserMode as i32, user),
            total_ticks: cpu.take(cpu_usage::Fields::TotalTicks as i32, ticks),
            throttled_periods: cpu.take(cpu_usage::Fields::ThrottledPeriods as i32, throttled_periods),
            throttled_time: cpu.take(cpu_usage::Fields::ThrottledTime as i32, throttled_time),
            percent: cpu.take(cpu_usage::Fields::Percent as i32, percent),
            measured_fields: cpu.fields,
        };
        let mut memory = Measured::default();
        let memory = MemoryUsage {
            rss: memory.take(memory_usage::Fields::Rss as i32, rss),
            cache: memory.take(memory_usage::Fields::Cache as i32, cache),
            max_usage: memory.take(memory_usage::Fields::MaxUsage as i32, max_usage),
            kernel_usage: memory.take(memory_usage::Fields::KernelUsage as i32, kernel_usage),
            kernel_max_usage: memory.take(memory_usage::Fields::KernelMaxUsage as i32, kernel_max_usage),
            usage: memory.take(memory_usage::Fields::Usage as i32, usage),
            swap: memory.take(memory_usage::Fields::Swap as i32, swap),
            measured_fields: memory.fields,
        };
        TaskResourceUsage {
            cpu: Some(cpu),
            memory: Some(memory),
        }
    }
}

/// Collects which fields were measured: a zero counts only if it is said to be measured (contract, T-4).
#[derive(Debug, Default)]
pub struct Measured {
    /// Their numbers in Nomad's enumeration.
    pub fields: Vec<i32>,
}

impl Measured {
    /// The value of a field, and whether it has one.
    pub fn take<T: Default>(&mut self, field: i32, value: Option<T>) -> T {
        if value.is_some() {
            self.fields.push(field);
        }
        value.unwrap_or_default()
    }
}

/// One kind of CPU time over successive samples.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tracker {
    last: Option<(Duration, Instant)>,
}

impl Tracker {
    /// Percent of one core since the last call, given the time used so far; 0 the first time, and while nothing at all has been
    /// used (contract, T-5).
    pub fn percent(&mut self, used: Duration, now: Instant) -> f64 {
        let (before, then) = match self.last.replace((used, now)) {
            Some(last) if !last.0.is_zero() => last,
            _ => return 0.0,
        };
        let elapsed = now.saturating_duration_since(then);
        if elapsed.is_zero() {
            return 0.0;
        }
        used.saturating_sub(before).as_nanos() as f64 / elapsed.as_nanos() as f64 * 100.0
    }
}

/// What one core can compute. Nobody sends a topology here, so the host is asked in the order in which the agent prefers its
/// answers: base speed, maximum (cpufreq of sysfs, in kHz), the present guess (proc_cpuinfo(5)).
fn core_mhz() -> Option<f64> {
    let of_sysfs = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cpufreq/{file}")).ok()?;
        Some(text.trim().parse::<f64>().ok()? / 1000.0)
    };
    of_sysfs("base_frequency")
        .or_else(|| of_sysfs("cpuinfo_max_freq"))
        .or_else(|| {
            let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
            let line = info.lines().find(|line| line.starts_with("cpu MHz"))?;
            line.split_once(':')?.1.trim().parse::<f64>().ok().map(f64::round)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        let own = i32::try_from(std::process::id()).unwrap();
        Meter {
            core_mhz: Some(2000.0),
            ..Meter::new("t".into(), own, &PlacementRecord::default())
        }
    }

    #[test]
    fn percent_and_ticks_follow_the_cpu_time_t5() {
        let mut meter = meter();
        let start = Instant::now();
        let mut at = |seconds, used| {
            let sample = Sample {
                total: Some(Duration::from_millis(used)),
                ..Sample::default()
            };
            let cpu = meter.usage(&sample, start + Duration::from_secs(seconds)).cpu.unwrap();
            (cpu.percent, cpu.total_ticks)
        };
        assert_eq!(at(0, 500), (0.0, 0.0));
        assert_eq!(at(1, 2000), (150.0, 3000.0));
        assert_eq!(at(2, 2000), (0.0, 0.0));
    }

    #[test]
    fn the_first_percent_is_zero_and_then_it_is_of_one_core_t5() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut tracker = Tracker::default();
        for (used, at, percent, why) in [
            (500, 0, 0.0, "the first"),
            (1000, 1000, 50.0, "half a core"),
            (4000, 2000, 300.0, "three cores"),
            (4000, 3000, 0.0, "nothing was used"),
            (5000, 3000, 0.0, "no time has passed"),
            (10, 4000, 0.0, "the counter went back"),
        ] {
            assert_eq!(tracker.percent(ms(used), start + ms(at)), percent, "{why}");
        }
        let mut unused = Tracker::default();
        for (used, at, percent) in [(0, 0, 0.0), (900, 1000, 0.0), (1900, 2000, 100.0)] {
            assert_eq!(
                unused.percent(ms(used), start + ms(at)),
                percent,
                "starts from its first use"
            );
        }
    }

    #[test]
    fn exactly_the_measured_fields_are_named_t4() {
        let sample = Sample {
            total: Some(Duration::from_secs(1)),
            rss: Some(0),
            usage: Some(9),
            ..Sample::default()
        };
        let usage = meter().usage(&sample, Instant::now());
        assert_eq!(usage.cpu.unwrap().measured_fields, [2, 5]);
        let memory = usage.memory.unwrap();
        assert_eq!(memory.measured_fields, [0, 5]);
        assert_eq!((memory.rss, memory.usage), (0, 9));
    }

    #[test]
    fn without_a_cgroup_the_processes_stand_for_the_task_t3() {
        let stats = meter().measure(Instant::now()).unwrap();
        assert!(stats.timestamp.is_some());
        assert!(stats.agg_resource_usage.unwrap().memory.unwrap().rss > 0);
    }
}
