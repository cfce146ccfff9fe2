//! What a task may use, and applying it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Scope, Version, interface, v1, v2};

/// Hard limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMax {
    /// Bytes.
    Bytes(u64),
    /// No limit of the task's own.
    Unlimited,
}

impl MemoryMax {
    /// As protocols carry it: a negative number is unlimited.
    pub fn from_bytes(bytes: i64) -> MemoryMax {
        u64::try_from(bytes).map_or(MemoryMax::Unlimited, MemoryMax::Bytes)
    }

    /// As protocols carry it: unlimited is -1.
    pub fn to_bytes(self) -> i64 {
        match self {
            MemoryMax::Bytes(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
            MemoryMax::Unlimited => -1,
        }
    }
}

/// Limits to apply. What is absent is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit.
    pub memory_max: Option<MemoryMax>,
    /// What the task is promised, in bytes: memory.low on v2, the soft limit on v1.
    pub memory_low: Option<u64>,
    /// Relative weight in the unit of v1's cpu.shares.
    pub cpu_shares: Option<u64>,
    /// CPUs in list format, as in `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes in list format.
    pub cpuset_mems: Option<String>,
    /// Above this, in bytes, the task is throttled and its memory reclaimed: memory.high, v2 only.
    pub memory_high: Option<MemoryMax>,
    /// Swap beside the memory: memory.swap.max on v2, the difference of memory.memsw.limit_in_bytes on v1.
    pub memory_swap: Option<MemoryMax>,
    /// 0 to 100; v1 only.
    pub swappiness: Option<u8>,
    /// An OOM kill takes all processes: memory.oom.group, v2 only.
    pub oom_group: Option<bool>,
    /// CPU time in each period.
    pub cpu_quota: Option<CpuQuota>,
    /// Length of a period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// What may be saved up, in microseconds.
    pub cpu_burst_us: Option<u64>,
    /// How many processes and threads.
    pub pids_max: Option<PidsMax>,
    /// 1 to 10000, 100 is usual.
    pub io_weight: Option<u16>,
    /// For each device.
    pub io_max: Vec<IoMax>,
}

/// CPU time in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuQuota {
    /// Microseconds.
    Microseconds(u64),
    /// No limit of the task's own.
    Unlimited,
}

impl CpuQuota {
    /// As protocols carry it: a negative number is unlimited.
    pub fn from_us(microseconds: i64) -> CpuQuota {
        u64::try_from(microseconds).map_or(CpuQuota::Unlimited, CpuQuota::Microseconds)
    }

    /// As protocols carry it: unlimited is -1.
    pub fn to_us(self) -> i64 {
        match self {
            CpuQuota::Microseconds(microseconds) => i64::try_from(microseconds).unwrap_or(i64::MAX),
            CpuQuota::Unlimited => -1,
        }
    }
}

/// How many processes and threads a task may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidsMax {
    /// So many.
    Count(u64),
    /// No limit of the task's own.
    Unlimited,
}

impl PidsMax {
    /// As protocols carry it: a negative number is unlimited.
    pub fn from_count(count: i64) -> PidsMax {
        u64::try_from(count).map_or(PidsMax::Unlimited, PidsMax::Count)
    }

    /// As protocols carry it: unlimited is -1.
    pub fn to_count(self) -> i64 {
        match self {
            PidsMax::Count(count) => i64::try_from(count).unwrap_or(i64::MAX),
            PidsMax::Unlimited => -1,
        }
    }
}

/// Limits of one block device; what is absent has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoMax {
    /// Of the device's number.
    pub major: u32,
    /// Of the device's number.
    pub minor: u32,
    /// Bytes in a second.
    pub read_bytes: Option<u64>,
    /// Bytes in a second.
    pub write_bytes: Option<u64>,
    /// Operations in a second.
    pub read_operations: Option<u64>,
    /// Operations in a second.
    pub write_operations: Option<u64>,
}

impl Limits {
    /// The agent's arithmetic (contract, S-9). `memory_mib` and `memory_max_mib` are the fields of the allocated resources:
    /// without `memory_max` the memory is the hard limit; with it, `memory_max` is, and the memory is reserved; -1 means no hard
    /// limit. Zero shares, zero memory and an empty cpuset mean that nothing was said.
    pub fn of_resources(memory_mib: i64, memory_max_mib: i64, cpu_shares: i64, cpuset_cpus: &str) -> Limits {
        let reserve = mib(memory_mib);
        let (memory_max, memory_low) = match memory_max_mib {
            0 => (reserve.map(MemoryMax::Bytes), None),
            ..0 => (Some(MemoryMax::Unlimited), reserve),
            max => (mib(max).map(MemoryMax::Bytes), reserve),
        };
        Limits {
            memory_max,
            memory_low,
            cpu_shares: u64::try_from(cpu_shares).ok().filter(|shares| *shares > 0),
            cpuset_cpus: Some(cpuset_cpus).filter(|cpus| !cpus.is_empty()).map(str::to_owned),
            ..Limits::default()
        }
    }
}

fn mib(count: i64) -> Option<u64> {
    u64::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .map(|count| count.saturating_mul(1 << 20))
}

/// One limit that the kernel did not take.
#[derive(Debug)]
pub struct Refusal {
    /// The interface file.
    pub file: PathBuf,
    /// What was to be written.
    pub value: String,
    /// Why not.
    pub reason: io::Error,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "cannot write {:?} to {}: {}",
            self.value,
            self.file.display(),
            self.reason
        )
    }
}

/// The limits that could not be applied. All others were.
#[derive(Debug)]
pub struct LimitError {
    /// At least one.
    pub refusals: Vec<Refusal>,
}

impl fmt::Display for LimitError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.refusals.iter().enumerate() {
            write!(out, "{}{refusal}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for LimitError {}

/// Applies each limit that is present. One that fails does not keep the others from being applied. A foreign scope is left
/// as it is.
pub fn apply(scope: &Scope, limits: &Limits) -> Result<(), LimitError> {
    if scope.foreign {
        return Ok(());
    }
    let mut writes = Writes { refusals: Vec::new() };
    match scope.version {
        Version::V1 => v1::apply(&scope.join, limits, &mut writes),
        Version::V2 => v2::apply(&scope.kill, limits, &mut writes),
    }
    if writes.refusals.is_empty() {
        Ok(())
    } else {
        Err(LimitError {
            refusals: writes.refusals,
        })
    }
}

/// Collects what was refused.
pub(crate) struct Writes {
    refusals: Vec<Refusal>,
}

impl Writes {
    pub(crate) fn write(&mut self, file: PathBuf, value: impl fmt::Display) {
        let value = value.to_string();
        if let Err(reason) = interface::write(&file, &value) {
            self.refusals.push(Refusal { file, value, reason });
        }
    }

    /// Writes to `file` in that of `dirs` which has it.
    pub(crate) fn write_in(&mut self, dirs: &[PathBuf], file: &str, value: impl fmt::Display) {
        match dirs.iter().map(|dir| dir.join(file)).find(|path| path.exists()) {
            Some(path) => self.write(path, value),
            None => {
                let reason = io::Error::new(io::ErrorKind::NotFound, "none of the task's cgroups has this file");
                self.refusals.push(Refusal {
                    file: PathBuf::from(file),
                    value: value.to_string(),
                    reason,
                });
            }
        }
    }

    pub(crate) fn refuse(&mut self, dir: &Path, file: &str, value: impl fmt::Display, reason: &str) {
        let reason = io::Error::other(reason.to_owned());
        self.refusals.push(Refusal {
            file: dir.join(file),
            value: value.to_string(),
            reason,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_alone_is_the_hard_limit_s9() {
        let limits = Limits::of_resources(300, 0, 500, "");
        assert_eq!(limits.memory_max, Some(MemoryMax::Bytes(300 * MIB)));
        assert_eq!(
            (limits.memory_low, limits.cpu_shares, limits.cpuset_cpus),
            (None, Some(500), None)
        );
    }

    #[test]
    fn with_memory_max_the_memory_is_reserved_s9() {
        let limits = Limits::of_resources(300, 1000, 500, "");
        assert_eq!(limits.memory_max, Some(MemoryMax::Bytes(1000 * MIB)));
        assert_eq!(limits.memory_low, Some(300 * MIB));
    }

    #[test]
    fn memory_max_of_minus_one_is_no_hard_limit_s9() {
        let limits = Limits::of_resources(300, -1, 500, "");
        assert_eq!(
            (limits.memory_max, limits.memory_low),
            (Some(MemoryMax::Unlimited), Some(300 * MIB))
        );
        assert_eq!(MemoryMax::Unlimited.to_bytes(), -1);
        assert_eq!(MemoryMax::from_bytes(-1), MemoryMax::Unlimited);
        assert_eq!(MemoryMax::from_bytes(5), MemoryMax::Bytes(5));
    }

    #[test]
    fn nonsense_is_no_limit_of_zero() {
        assert_eq!(Limits::of_resources(0, 0, 0, ""), Limits::default());
        assert_eq!(Limits::of_resources(-5, 0, -1, ""), Limits::default());
        let huge = Limits::of_resources(i64::MAX, 0, i64::MAX, "0");
        assert_eq!(huge.memory_max, Some(MemoryMax::Bytes(u64::MAX)));
    }

    fn v2_scope(dir: &Path) -> Scope {
        Scope {
            foreign: false,
            ..Scope::of_v2_override(dir.to_str().unwrap()).unwrap()
        }
    }

    #[test]
    fn v2_files_hold_what_nomad_would_write() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["memory.max", "memory.low", "cpu.weight", "cpuset.cpus"] {
            fs::write(dir.path().join(name), "before and longer than what comes\n").unwrap();
        }
        let content = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        apply(&v2_scope(dir.path()), &Limits::of_resources(300, 1000, 1024, "0-1")).unwrap();
        assert_eq!(content("memory.max"), "1048576000");
        assert_eq!(content("memory.low"), "314572800");
        assert_eq!(content("cpu.weight"), "39");
        assert_eq!(content("cpuset.cpus"), "0-1");
        apply(&v2_scope(dir.path()), &Limits::of_resources(300, -1, 0, "")).unwrap();
        assert_eq!(content("memory.max"), "max");
        assert_eq!(content("cpu.weight"), "39", "nothing was said of shares");
    }

    #[test]
    fn each_limit_that_fails_is_named_and_the_others_are_applied() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu.weight"), "").unwrap();
        let error = apply(&v2_scope(dir.path()), &Limits::of_resources(300, 1000, 1024, "")).unwrap_err();
        assert_eq!(error.refusals.len(), 2);
        let text = error.to_string();
        for part in ["memory.max", "1048576000", "memory.low", "314572800", "; "] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("cpu.weight")).unwrap(), "39");
    }

    #[test]
    fn on_v1_the_cpuset_of_all_tasks_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share");
        fs::create_dir(&share).unwrap();
        fs::write(share.join("cpuset.cpus"), "0-3\n").unwrap();
        let scope = Scope {
            version: Version::V1,
            join: vec![share.clone()],
            ..v2_scope(dir.path())
        };
        let error = apply(&scope, &Limits::of_resources(0, 0, 0, "1"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("shared with other tasks"), "{error}");
        assert_eq!(fs::read_to_string(share.join("cpuset.cpus")).unwrap(), "0-3\n");
    }

    #[test]
    fn a_limit_of_a_controller_that_v1_lacks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let scope = Scope {
            version: Version::V1,
            ..v2_scope(dir.path())
        };
        let error = apply(&scope, &Limits::of_resources(64, 0, 100, "")).unwrap_err();
        assert_eq!(error.refusals.len(), 2);
        assert!(error.to_string().contains("memory.limit_in_bytes"), "{error}");
    }
}
