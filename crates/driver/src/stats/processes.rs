//! What each process of a task uses, in the fields that the built-in sends.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_executor::nomad::stats::Tracker;
use holdfast_wire::nomad_driver::{CpuUsage, MemoryUsage, TaskResourceUsage, cpu_usage, memory_usage};

/// Which processes are the task's.
#[derive(Debug, Clone)]
pub enum Members {
    /// Everything in this cgroup and below it.
    Cgroup(PathBuf),
    /// A process and its descendants, where the task has no cgroup of its own.
    Tree(i32),
}

impl Members {
    fn pids(&self) -> BTreeSet<i32> {
        match self {
            // A cgroup that cannot be listed is that of a task that ends.
            Members::Cgroup(dir) => holdfast_cgroup::pids(dir).unwrap_or_default().into_iter().collect(),
            Members::Tree(root) => tree(*root),
        }
    }
}

/// `/proc/PID/task/TID/children` exists where checkpointing is configured (proc_pid_task(5)), which is everywhere but
/// in tiny kernels; there only the main process is seen.
fn tree(root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if !found.insert(pid) {
            continue;
        }
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            if let Ok(children) = fs::read_to_string(thread.path().join("children")) {
                open.extend(
                    children
                        .split_ascii_whitespace()
                        .filter_map(|pid| pid.parse::<i32>().ok()),
                );
            }
        }
    }
    found
}

/// Usage of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessUsage {
    /// Percent of one core.
    pub user: f64,
    /// Percent of one core.
    pub system: f64,
    /// Percent of one core.
    pub percent: f64,
    /// Bytes.
    pub rss: u64,
    /// Bytes.
    pub swap: u64,
}

impl ProcessUsage {
    /// It has used no CPU for a while.
    pub fn rest(&mut self) {
        (self.user, self.system, self.percent) = (0.0, 0.0, 0.0);
    }

    /// As the agent reads it: exactly the fields that the built-in says it measures.
    pub fn message(&self) -> TaskResourceUsage {
        let ProcessUsage {
            user,
            system,
            percent,
            rss,
            swap,
        } = *self;
        TaskResourceUsage {
            cpu: Some(CpuUsage {
                system_mode: system,
                user_mode: user,
                percent,
                measured_fields: vec![
                    cpu_usage::Fields::SystemMode as i32,
                    cpu_usage::Fields::UserMode as i32,
                    cpu_usage::Fields::Percent as i32,
                ],
                ..CpuUsage::default()
            }),
            memory: Some(MemoryUsage {
                rss,
                swap,
                measured_fields: vec![memory_usage::Fields::Rss as i32, memory_usage::Fields::Swap as i32],
                ..MemoryUsage::default()
            }),
        }
    }
}

/// Follows the processes of one task.
#[derive(Debug)]
pub struct Processes {
    members: Members,
    trackers: HashMap<i32, [Tracker; 3]>,
}

impl Processes {
    /// Nothing is read before the first [`Processes::read`].
    pub fn of(members: Members) -> Processes {
        Processes {
            members,
            trackers: HashMap::new(),
        }
    }

    /// Reads all of them once. A process that ends meanwhile is left out.
    pub fn read(&mut self, now: Instant) -> HashMap<i32, ProcessUsage> {
        let pids = self.members.pids();
        self.trackers.retain(|pid, _| pids.contains(pid));
        let mut usage = HashMap::with_capacity(pids.len());
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok();
            let (Some((user, system)), Some((rss, swap))) =
                (stat.as_deref().and_then(cpu_times), status.as_deref().map(memory))
            else {
                continue;
            };
            let [of_user, of_system, of_both] = self.trackers.entry(pid).or_default();
            usage.insert(
                pid,
                ProcessUsage {
                    user: of_user.percent(user, now),
                    system: of_system.percent(system, now),
                    percent: of_both.percent(user + system, now),
                    rss,
                    swap,
                },
            );
        }
        usage
    }
}

/// User and system time: fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)), in ticks of a hundredth of a second,
/// which is what user space is told on every architecture that is supported. The name in field 2 may hold anything, so
/// counting starts after its last parenthesis, with field 3.
fn cpu_times(stat: &str) -> Option<(Duration, Duration)> {
    const TICK: Duration = Duration::from_millis(10);
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields
        .split_ascii_whitespace()
        .skip(14 - 3)
        .map(|field| field.parse::<u32>().ok());
    Some((TICK * fields.next()??, TICK * fields.next()??))
}

/// Resident and swapped bytes, from `/proc/PID/status` (proc_pid_status(5)); a kernel thread or a zombie has none.
fn memory(status: &str) -> (u64, u64) {
    let bytes = |key: &str| {
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix(key))?
            .trim()
            .strip_suffix("kB")?;
        kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    (bytes("VmRSS:").unwrap_or(0), bytes("VmSwap:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 1 0 99 0 0";
        assert_eq!(
            cpu_times(stat),
            Some((Duration::from_millis(2500), Duration::from_millis(750)))
        );
        for truncated in ["", "12 (a", "12 (a) S 1", "12 (a) S 1 12 12 0 -1 4194560 100 0 0 0 250"] {
            assert_eq!(cpu_times(truncated), None, "{truncated:?}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(
            memory("Name:\tx\nVmRSS:\t    1234 kB\nVmSwap:\t       5 kB\n"),
            (1234 * 1024, 5 * 1024)
        );
        assert_eq!(memory("Name:\tzombie\n"), (0, 0));
    }

    #[test]
    fn a_tree_holds_its_root_and_what_lives_below_it() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let mut processes = Processes::of(Members::Tree(own));
        let usage = processes.read(Instant::now());
        let found = usage.contains_key(&i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert!(usage[&own].rss > 0);
        assert_eq!(usage[&own].percent, 0.0, "the first sample");
    }

    #[test]
    fn a_process_measures_what_the_built_in_measures_t4() {
        let message = ProcessUsage {
            rss: 7,
            ..ProcessUsage::default()
        }
        .message();
        let (cpu, memory) = (message.cpu.unwrap(), message.memory.unwrap());
        assert_eq!(cpu.measured_fields, [0, 1, 5]);
        assert_eq!(memory.measured_fields, [0, 6]);
        assert_eq!(memory.rss, 7);
    }
}
