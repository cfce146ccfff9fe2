//! What this process may give to a task of what takes a privilege. A task's executor inherits it.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use holdfast_sys::file::read_virtual_text;
use holdfast_sys::limit;
use thiserror::Error;

/// CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE (linux/capability.h).
const ADMIN: u32 = 21;
const NICE: u32 = 23;
const RESOURCE: u32 = 24;
/// The map of the initial user namespace (user_namespaces(7)).
const INITIAL_MAP: [&str; 3] = ["0", "0", "4294967295"];
const NOFILE: u32 = 7;
const RLIMIT_NICE: u32 = 13;
/// Between nice values and RLIMIT_NICE (getrlimit(2)).
const NICE_CEILING: i64 = 20;

/// A file of this process could not be read.
#[derive(Debug, Error)]
#[error("cannot find out what this process may do: {path}: {source}")]
pub struct PrivilegesError {
    pub(crate) path: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Capabilities of this process, which gives none of them up and gets none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    /// What it may do on the host: in a user namespace of its own a process has every capability, and none does there what it says.
    pub effective: u64,
    pub permitted: u64,
    pub bounding: u64,
}

impl Capabilities {
    /// Read once (proc_pid_status(5)): for the kernel it is one of the most laborious files.
    pub fn of_this_process() -> Result<Capabilities, PrivilegesError> {
        static OWN: OnceLock<Capabilities> = OnceLock::new();
        if let Some(own) = OWN.get() {
            return Ok(*own);
        }
        const STATUS: &str = "/proc/self/status";
        let status = read(STATUS)?;
        let mask = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .ok_or_else(|| unreadable(STATUS))
        };
        let is_initial = read("/proc/self/uid_map")?.split_whitespace().eq(INITIAL_MAP);
        let own = Capabilities {
            effective: if is_initial { mask("CapEff:")? } else { 0 },
            permitted: mask("CapPrm:")?,
            bounding: mask("CapBnd:")?,
        };
        Ok(*OWN.get_or_init(|| own))
    }
}

/// What is asked of the kernel once for each plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges {
    /// Resource limits may be raised (getrlimit(2)).
    pub may_raise_limits: bool,
    /// The realtime class of input and output may be had (ioprio_set(2)).
    pub may_have_realtime_io: bool,
    /// The least nice value that may be had (setpriority(2)).
    pub least_nice: i32,
    /// The least score that is sure to be had (proc_pid_oom_score_adj(5)).
    pub least_oom_score_adj: i32,
    /// Hard limits by number.
    pub hard_limits: Vec<u64>,
    /// What no limit of open files can be above, for nobody (proc_sys_fs(5), nr_open).
    pub nr_open: u64,
}

impl Privileges {
    /// Of this process, now.
    pub fn of_this_process() -> Result<Privileges, PrivilegesError> {
        let effective = Capabilities::of_this_process()?.effective;
        let may = |capability: u32| effective >> capability & 1 == 1;
        let mut hard_limits = Vec::new();
        let mut nice_limit = 0;
        for name in limit::names() {
            let resource = limit::number(name).unwrap_or_default();
            let (soft, hard) = limit::current(resource).map_err(|source| PrivilegesError {
                path: "getrlimit",
                source,
            })?;
            hard_limits.push(hard);
            if resource == RLIMIT_NICE {
                nice_limit = soft;
            }
        }
        let least_nice = if may(NICE) {
            -20
        } else {
            let raisable = NICE_CEILING - i64::try_from(nice_limit).unwrap_or(i64::MAX).clamp(0, 40);
            i32::try_from(raisable).unwrap_or(19).min(current_nice()?)
        };
        let least_oom_score_adj = match may(RESOURCE) {
            true => -1000,
            false => number("/proc/self/oom_score_adj")?,
        };
        Ok(Privileges {
            may_raise_limits: may(RESOURCE),
            may_have_realtime_io: may(ADMIN) || may(NICE),
            least_nice,
            least_oom_score_adj,
            hard_limits,
            nr_open: number("/proc/sys/fs/nr_open")?,
        })
    }

    /// The most that the hard limit of a resource can be, and who says so.
    pub fn most(&self, resource: u32) -> (u64, &'static str) {
        let own = match self.hard_limits.get(resource as usize) {
            Some(hard) if !self.may_raise_limits => *hard,
            _ => limit::UNLIMITED,
        };
        if resource == NOFILE && self.nr_open < own {
            (self.nr_open, "fs.nr_open")
        } else {
            (own, "this process's own hard limit, which it may not raise,")
        }
    }
}

/// Of this thread (proc_pid_stat(5)).
fn current_nice() -> Result<i32, PrivilegesError> {
    const STAT: &str = "/proc/thread-self/stat";
    let stat = read(STAT)?;
    // The name before the last bracket may hold anything; nice is the 19th field, the state behind the bracket the third.
    let nice = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(16)?.parse().ok());
    nice.ok_or_else(|| unreadable(STAT))
}

fn read(path: &'static str) -> Result<String, PrivilegesError> {
    read_virtual_text(Path::new(path)).map_err(|source| PrivilegesError { path, source })
}

fn number<T: std::str::FromStr>(path: &'static str) -> Result<T, PrivilegesError> {
    read(path)?.trim().parse().map_err(|_| unreadable(path))
}

fn unreadable(path: &'static str) -> PrivilegesError {
    let source = io::Error::new(io::ErrorKind::InvalidData, "not in the form that is documented");
    PrivilegesError { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_knows_itself() {
        let own = Privileges::of_this_process().unwrap();
        assert_eq!(own.hard_limits.len(), 16);
        let nofile = limit::number("nofile").unwrap();
        assert_eq!(own.hard_limits[nofile as usize], limit::current(nofile).unwrap().1);
        assert_eq!((NOFILE, Some(RLIMIT_NICE)), (nofile, limit::number("nice")));
        assert!((-20..=19).contains(&own.least_nice));
    }

    #[test]
    fn the_most_is_what_the_kernel_would_take() {
        let mut hard_limits = vec![limit::UNLIMITED; 16];
        hard_limits[7] = 20_000;
        hard_limits[8] = 64;
        let plain = Privileges {
            may_raise_limits: false,
            may_have_realtime_io: false,
            least_nice: 0,
            least_oom_score_adj: 0,
            hard_limits,
            nr_open: 30_000,
        };
        assert_eq!(
            (plain.most(7).0, plain.most(8).0, plain.most(4).0),
            (20_000, 64, u64::MAX)
        );
        let privileged = Privileges {
            may_raise_limits: true,
            ..plain
        };
        assert_eq!(privileged.most(7), (30_000, "fs.nr_open"));
        assert_eq!((privileged.most(8).0, privileged.most(99).0), (u64::MAX, u64::MAX));
    }
}
