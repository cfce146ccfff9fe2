//! What a process and its descendants use, where the task has no cgroup to be read instead.

use std::fs;
use std::time::Duration;

/// Sums over the living processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Resident bytes.
    pub rss: u64,
    /// Swapped bytes.
    pub swap: u64,
}

/// `None`: the process is gone.
pub fn usage(root: i32) -> Option<Usage> {
    let mut sum = Usage::default();
    let mut open = vec![root];
    let mut seen = Vec::new();
    while let Some(pid) = open.pop() {
        if seen.contains(&pid) {
            continue;
        }
        seen.push(pid);
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let Some((user, system)) = read("stat").as_deref().and_then(cpu_times) else {
            if pid == root {
                return None;
            }
            continue;
        };
        let status = read("status").unwrap_or_default();
        sum.user += user;
        sum.system += system;
        sum.rss += bytes(&status, "VmRSS:");
        sum.swap += bytes(&status, "VmSwap:");
        let children = read(&format!("task/{pid}/children")).unwrap_or_default();
        open.extend(
            children
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(sum)
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)), in hundredths of a second. The name in field 2 may hold anything, so
/// counting starts after its last parenthesis, with field 3.
fn cpu_times(stat: &str) -> Option<(Duration, Duration)> {
    const TICK: Duration = Duration::from_millis(10);
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(14 - 3);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some((TICK * next()?, TICK * next()?))
}

/// A line of `/proc/PID/status` (proc_pid_status(5)).
fn bytes(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse().ok())
        .map_or(0, |kilobytes: u64| kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_and_a_missing_one_is_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(usage(own).unwrap().rss > 0);
        assert_eq!(usage(i32::MAX), None);
        assert_eq!(
            cpu_times("12 (a) b (c) S 1 12 12 0 -1 4 100 0 0 0 250 75 0 0"),
            Some((Duration::from_millis(2500), Duration::from_millis(750)))
        );
        assert_eq!(cpu_times("12 (a) S 1"), None);
        assert_eq!(bytes("VmRSS:\t  3 kB\n", "VmRSS:"), 3072);
    }
}
