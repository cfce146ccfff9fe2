//! From samples to messages.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use holdfast_cgroup::{Sample, SampleError, Signs};
use holdfast_executor::nomad::stats::CpuTimes;
use holdfast_wire::nomad_driver::{TaskResourceUsage, TaskStats, cpu_usage};

use super::compute::Compute;
use super::processes::{Members, ProcessUsage, Processes};
use super::sources::Source;

/// How old the part about single processes may be: as old as the built-in's. Reading it costs more than all the rest.
const PROCESSES_AGE: Duration = Duration::from_secs(5);

/// How old both parts may be while the task gives no sign of having done anything.
const IDLE_AGE: Duration = Duration::from_secs(60);

/// Measures one task for as long as somebody listens.
#[derive(Debug)]
pub struct Meter {
    task_id: String,
    compute: Compute,
    source: Option<Source>,
    /// At most [`IDLE_AGE`].
    idle_age: Duration,
    /// The last sample that was read in full, and when.
    full: Option<(Sample, Instant)>,
    cpu: CpuTimes,
    processes: Processes,
    latest: HashMap<i32, ProcessUsage>,
    latest_at: Option<Instant>,
}

impl Meter {
    /// Without a source the sums of the processes stand for the task.
    pub fn new(task_id: String, compute: Compute, source: Option<Source>, members: Members) -> Meter {
        // Tasks whose streams began together, as after a restart of the agent, are not all looked at together ever after.
        let spread = task_id.bytes().fold(0, u8::wrapping_add) % 30;
        Meter {
            idle_age: IDLE_AGE - Duration::from_secs(spread.into()),
            task_id,
            compute,
            source,
            full: None,
            cpu: CpuTimes::default(),
            processes: Processes::of(members),
            latest: HashMap::new(),
            latest_at: None,
        }
    }

    /// One sample. `None`: the cgroup is gone, and so is the task.
    pub fn measure(&mut self, now: Instant) -> Option<TaskStats> {
        let sample = match &self.source {
            None => None,
            Some(source) => match sample(source, self.full.as_ref(), self.idle_age, now) {
                Ok(sample) => Some(sample),
                Err(e) if e.is_gone() => return None,
                Err(e) => {
                    tracing::warn!(task_id = self.task_id, error = %e, "a sample of the task's cgroup failed");
                    return None;
                }
            },
        };
        let is_idle = matches!(sample, Some(Taken::Idle(_)));
        if let Some(Taken::Full(sample)) = sample {
            self.full = Some((sample, now));
        }
        let sample = sample.map(|(Taken::Full(sample) | Taken::Idle(sample))| sample);
        self.look_at_processes(now, is_idle, sample.is_none());
        let whole = match sample {
            Some(sample) => self.of_sample(&sample, now),
            None => self.of_processes(),
        };
        // The agent dereferences the sum without looking (contract, T-3).
        Some(TaskStats {
            id: self.task_id.clone(),
            timestamp: Some(SystemTime::now().into()),
            agg_resource_usage: Some(whole),
            resource_usage_by_pid: self
                .latest
                .iter()
                .map(|(pid, usage)| (pid.to_string(), usage.message()))
                .collect(),
        })
    }

    fn look_at_processes(&mut self, now: Instant, is_idle: bool, is_needed: bool) {
        let age = self.latest_at.map(|then| now.saturating_duration_since(then));
        let bound = if is_idle { self.idle_age } else { PROCESSES_AGE };
        if is_needed || age.is_none_or(|age| age >= bound) {
            self.latest = self.processes.read(now);
            self.latest_at = Some(now);
        } else if is_idle && age.is_some_and(|age| age >= PROCESSES_AGE) {
            self.latest.values_mut().for_each(ProcessUsage::rest);
        }
    }

    fn of_sample(&mut self, sample: &Sample, now: Instant) -> TaskResourceUsage {
        let compute = self.compute;
        self.cpu.usage(sample, now, |percent| compute.ticks(percent))
    }

    fn of_processes(&self) -> TaskResourceUsage {
        let mut sum = ProcessUsage::default();
        for process in self.latest.values() {
            sum.user += process.user;
            sum.system += process.system;
            sum.percent += process.percent;
            sum.rss += process.rss;
            sum.swap += process.swap;
        }
        let mut message = sum.message();
        if let (Some(cpu), Some(ticks)) = (&mut message.cpu, self.compute.ticks(sum.percent)) {
            cpu.total_ticks = ticks;
            cpu.measured_fields.push(cpu_usage::Fields::TotalTicks as i32);
        }
        message
    }
}

/// How a sample came about.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// Every file was read.
    Full(Sample),
    /// The task has done nothing since the last one, which stands.
    Idle(Sample),
}

fn sample(
    source: &Source,
    full: Option<&(Sample, Instant)>,
    idle_age: Duration,
    now: Instant,
) -> Result<Taken, SampleError> {
    if let Some((last, then)) = full
        && now.saturating_duration_since(*then) < idle_age
        && last.total.is_some()
        && source.signs()? == Signs::of(last)
    {
        return Ok(Taken::Idle(*last));
    }
    source.sample().map(Taken::Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        let compute = Compute {
            total_mhz: 4000,
            cores: 2,
        };
        Meter::new(
            "t".to_owned(),
            compute,
            None,
            Members::Tree(i32::try_from(std::process::id()).unwrap()),
        )
    }

    #[test]
    fn exactly_the_measured_fields_are_named_t4() {
        let sample = Sample {
            total: Some(Duration::from_secs(1)),
            user: Some(Duration::from_secs(1)),
            rss: Some(0),
            usage: Some(9),
            throttled_time: Some(Duration::from_micros(3)),
            ..Sample::default()
        };
        let usage = meter().of_sample(&sample, Instant::now());
        let (cpu, memory) = (usage.cpu.unwrap(), usage.memory.unwrap());
        assert_eq!(cpu.measured_fields, [1, 2, 4, 5]);
        assert_eq!(cpu.throttled_time, 3000);
        assert_eq!(memory.measured_fields, [0, 5]);
        assert_eq!((memory.rss, memory.usage), (0, 9));
    }

    #[test]
    fn percent_and_ticks_follow_the_cgroups_cpu_time_t5() {
        let mut meter = meter();
        let start = Instant::now();
        let at = |seconds, used| {
            (
                Sample {
                    total: Some(Duration::from_millis(used)),
                    ..Sample::default()
                },
                start + Duration::from_secs(seconds),
            )
        };
        let cpu = |usage: TaskResourceUsage| {
            let cpu = usage.cpu.unwrap();
            (cpu.percent, cpu.total_ticks)
        };
        let (first, now) = at(0, 500);
        assert_eq!(cpu(meter.of_sample(&first, now)), (0.0, 0.0));
        let (second, now) = at(1, 2000);
        assert_eq!(cpu(meter.of_sample(&second, now)), (150.0, 3000.0));
    }

    fn over(dir: &tempfile::TempDir) -> Meter {
        let sources = crate::stats::Sources::within(100);
        let source = sources.of(dir.path(), holdfast_cgroup::Version::V1, vec![dir.path().to_owned()]);
        Meter {
            source: Some(source.unwrap()),
            ..meter()
        }
    }

    #[test]
    fn a_task_that_did_nothing_costs_two_small_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, content: &str| std::fs::write(dir.path().join(file), content).unwrap();
        write("cpuacct.usage", "500\n");
        write("memory.usage_in_bytes", "7\n");
        write("memory.max_usage_in_bytes", "8\n");
        let mut meter = over(&dir);
        let start = Instant::now();
        let mut most = |seconds| {
            let stats = meter.measure(start + Duration::from_secs(seconds)).unwrap();
            stats.agg_resource_usage.unwrap().memory.unwrap().max_usage
        };
        assert_eq!(most(0), 8);
        // Which the kernel would not change alone.
        write("memory.max_usage_in_bytes", "9\n");
        assert_eq!(most(1), 8, "there was no sign of it");
        write("memory.usage_in_bytes", "6\n");
        assert_eq!(most(2), 9, "memory was taken from it");
        write("memory.max_usage_in_bytes", "10\n");
        write("cpuacct.usage", "501\n");
        assert_eq!(most(3), 10, "it used the CPU");
        write("memory.max_usage_in_bytes", "11\n");
        assert_eq!(most(3 + IDLE_AGE.as_secs()), 11, "nothing is older than that");
    }

    #[test]
    fn a_cgroup_that_is_gone_ends_the_stream_t1() {
        let mut gone = meter();
        assert!(gone.measure(Instant::now()).is_some());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpuacct.usage"), "500\n").unwrap();
        let sources = crate::stats::Sources::within(0);
        let join = vec![dir.path().to_owned()];
        gone.source = sources.of(dir.path(), holdfast_cgroup::Version::V1, join);
        assert!(gone.measure(Instant::now()).is_some());
        drop(dir);
        assert!(gone.measure(Instant::now()).is_none());
    }

    #[test]
    fn a_sample_has_what_the_agent_dereferences_t3() {
        let stats = meter().measure(Instant::now()).unwrap();
        assert!(stats.timestamp.is_some());
        let whole = stats.agg_resource_usage.unwrap();
        assert!(whole.cpu.is_some());
        assert!(
            whole.memory.unwrap().rss > 0,
            "without a cgroup the processes' sum stands for the task"
        );
        assert!(
            stats
                .resource_usage_by_pid
                .contains_key(&std::process::id().to_string())
        );
    }
}
