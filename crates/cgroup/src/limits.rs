//! What a task may use, and applying it.

use crate::refusal::{LimitError, Writes};
use crate::{Scope, Version, v1, v2};

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
    /// 1 to 10000, 100 is usual. Scaled where the kernel has another range, in the way of systemd: `blkio.weight` of v1 takes 10
    /// to 1000 with 500 as usual, which is five times the weight, cut off at both ends; BFQ (`blkio.bfq.weight`, `io.bfq.weight`)
    /// takes 1 to 1000 with 100 as usual, which is the weight up to 100 and a straight line from there to 10000.
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
    /// Content of pids.max.
    pub(crate) fn parse(content: &str) -> Option<PidsMax> {
        match content.trim_ascii() {
            "max" => Some(PidsMax::Unlimited),
            count => count.parse().ok().map(PidsMax::Count),
        }
    }

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

/// Applies each limit that is present, to a new task or to a living one. One that fails does not keep the others from being
/// applied. A foreign scope is left as it is.
///
/// A memory limit below what is in use makes the kernel reclaim, for which this call waits. If that is not enough, v1 refuses the
/// limit, and v2 takes it and kills processes (cgroup-v2, memory.max).
pub fn apply(scope: &Scope, limits: &Limits) -> Result<(), LimitError> {
    if scope.foreign {
        return Ok(());
    }
    let mut writes = Writes::default();
    match scope.version {
        Version::V1 => v1::apply(&scope.join, limits, &mut writes),
        Version::V2 => v2::apply(&scope.kill, limits, &mut writes),
    }
    writes.outcome()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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

    fn scope(version: Version, dir: &Path) -> Scope {
        Scope {
            version,
            foreign: false,
            ..Scope::of_v2_override(dir.to_str().unwrap()).unwrap()
        }
    }

    /// A directory with `files`, each with something in it that is longer than any value.
    fn dir_with(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(
                dir.path().join(name),
                "before and longer than what comes, so that rests show\n",
            )
            .unwrap();
        }
        dir
    }

    fn content(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap()
    }

    const V2_FILES: &[&str] = &[
        "memory.max",
        "memory.low",
        "memory.high",
        "memory.swap.max",
        "memory.oom.group",
        "cpu.weight",
        "cpu.max.burst",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
    ];

    #[test]
    fn on_v2_each_limit_is_in_its_file_and_nowhere_else() {
        let one = |file: &'static str, value: &'static str, limits: Limits| (limits, vec![(file, value)]);
        let of = Limits::default;
        let bytes = |count| Some(MemoryMax::Bytes(count));
        let none = Some(MemoryMax::Unlimited);
        let device = IoMax {
            major: 8,
            minor: 16,
            write_bytes: Some(1_048_576),
            read_operations: Some(120),
            ..IoMax::default()
        };
        #[rustfmt::skip]
        let table: Vec<(Limits, Vec<(&str, &str)>)> = vec![
            (Limits::of_resources(300, 0, 1024, "0-1"),
                vec![("memory.max", "314572800"), ("cpu.weight", "39"), ("cpuset.cpus", "0-1")]),
            (Limits::of_resources(300, 1000, 0, ""), vec![("memory.max", "1048576000"), ("memory.low", "314572800")]),
            (Limits::of_resources(300, -1, 0, ""), vec![("memory.max", "max"), ("memory.low", "314572800")]),
            (Limits::of_resources(0, 0, 0, ""), vec![]),
            one("memory.high", "7", Limits { memory_high: bytes(7), ..of() }),
            one("memory.high", "max", Limits { memory_high: none, ..of() }),
            one("memory.swap.max", "0", Limits { memory_swap: bytes(0), ..of() }),
            one("memory.swap.max", "max", Limits { memory_swap: none, ..of() }),
            one("memory.oom.group", "1", Limits { oom_group: Some(true), ..of() }),
            one("memory.oom.group", "0", Limits { oom_group: Some(false), ..of() }),
            one("cpu.max.burst", "5000", Limits { cpu_burst_us: Some(5000), ..of() }),
            one("cpuset.mems", "0", Limits { cpuset_mems: Some("0".to_owned()), ..of() }),
            one("pids.max", "64", Limits { pids_max: Some(PidsMax::Count(64)), ..of() }),
            one("pids.max", "max", Limits { pids_max: Some(PidsMax::Unlimited), ..of() }),
            one("io.weight", "default 250", Limits { io_weight: Some(250), ..of() }),
            one("io.max", "8:16 rbps=max wbps=1048576 riops=120 wiops=max", Limits { io_max: vec![device], ..of() }),
        ];
        for (limits, expected) in table {
            let dir = dir_with(V2_FILES);
            apply(&scope(Version::V2, dir.path()), &limits).unwrap();
            for name in V2_FILES {
                let written = expected.iter().find(|(file, _)| file == name).map(|(_, value)| *value);
                let found = content(&dir, name);
                match written {
                    Some(value) => assert_eq!(found, value, "{name} of {limits:?}"),
                    None => assert!(found.starts_with("before"), "{name} of {limits:?}: {found}"),
                }
            }
        }
    }

    #[test]
    fn on_v2_a_quota_and_its_period_are_written_together_whichever_was_given() {
        let quota = Some(CpuQuota::Microseconds(20_000));
        for (before, cpu_quota, cpu_period_us, after) in [
            ("max 100000\n", quota, None, "20000 100000"),
            ("max 50000\n", quota, None, "20000 50000"),
            ("", quota, None, "20000 100000"),
            ("20000 100000\n", None, Some(40_000), "20000 40000"),
            ("max 100000\n", None, Some(40_000), "max 40000"),
            ("5000 50000\n", quota, Some(40_000), "20000 40000"),
            ("20000 40000\n", Some(CpuQuota::Unlimited), None, "max 40000"),
            ("20000 40000\n", None, None, "20000 40000\n"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("cpu.max"), before).unwrap();
            let limits = Limits {
                cpu_quota,
                cpu_period_us,
                ..Limits::default()
            };
            apply(&scope(Version::V2, dir.path()), &limits).unwrap();
            assert_eq!(content(&dir, "cpu.max"), after, "{before:?} with {limits:?}");
        }
    }

    #[test]
    fn on_v2_the_weight_of_input_and_output_is_for_whichever_scheduler_there_is() {
        let limits = Limits {
            io_weight: Some(200),
            ..Limits::default()
        };
        for (files, expected) in [
            (&["io.weight"][..], &["default 200"][..]),
            (&["io.bfq.weight"], &["109"]),
            (&["io.weight", "io.bfq.weight"], &["default 200", "109"]),
        ] {
            let dir = dir_with(files);
            apply(&scope(Version::V2, dir.path()), &limits).unwrap();
            let found: Vec<String> = files.iter().map(|file| content(&dir, file)).collect();
            assert_eq!(found, expected);
        }
        let dir = tempfile::tempdir().unwrap();
        let error = apply(&scope(Version::V2, dir.path()), &limits).unwrap_err().to_string();
        assert!(
            error.starts_with("io controller: ") && error.contains("io.weight"),
            "{error}"
        );
    }

    #[test]
    fn each_limit_that_fails_is_named_and_the_others_are_applied() {
        let dir = dir_with(&["cpu.weight"]);
        let error = apply(
            &scope(Version::V2, dir.path()),
            &Limits::of_resources(300, 1000, 1024, ""),
        )
        .unwrap_err();
        assert_eq!(error.refusals.len(), 2);
        let text = error.to_string();
        for part in [
            "memory controller",
            "memory.max",
            "1048576000",
            "memory.low",
            "314572800",
            "; ",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(content(&dir, "cpu.weight"), "39");
    }

    #[test]
    fn what_a_version_lacks_is_refused_and_never_passed_over() {
        let asked = Limits {
            memory_high: Some(MemoryMax::Bytes(9)),
            oom_group: Some(true),
            swappiness: Some(10),
            ..Limits::default()
        };
        let dir = dir_with(&["memory.high", "memory.oom.group", "memory.swappiness"]);
        let refused = |version| {
            let error = apply(&scope(version, dir.path()), &asked).unwrap_err();
            let files = error.refusals.iter().map(|refusal| refusal.file.display().to_string());
            files.collect::<Vec<String>>()
        };
        assert_eq!(refused(Version::V1), ["memory.high", "memory.oom.group"]);
        assert_eq!(content(&dir, "memory.swappiness"), "10");
        assert!(content(&dir, "memory.high").starts_with("before"));
        assert_eq!(refused(Version::V2), ["memory.swappiness"]);
        // What asks for nothing is fulfilled by having nothing.
        let nothing = Limits {
            memory_high: Some(MemoryMax::Unlimited),
            oom_group: Some(false),
            ..Limits::default()
        };
        apply(&scope(Version::V1, dir.path()), &nothing).unwrap();
    }

    /// What the memory files of v1 hold: limit, limit with swap, swappiness.
    type V1Memory<'a> = (&'a str, Option<&'a str>, &'a str);

    /// Before, `memory_max`, `memory_swap`, `swappiness`, after.
    type V1Change<'a> = (
        V1Memory<'a>,
        Option<MemoryMax>,
        Option<MemoryMax>,
        Option<u8>,
        V1Memory<'a>,
    );

    const NO_LIMIT: &str = "9223372036854771712";

    #[test]
    fn on_v1_memory_and_swap_are_limited_together() {
        let bytes = |count| Some(MemoryMax::Bytes(count));
        let none = Some(MemoryMax::Unlimited);
        let untouched: V1Memory = (NO_LIMIT, Some(NO_LIMIT), "60");
        let limited: V1Memory = ("1000", Some("1500"), "60");
        #[rustfmt::skip]
        let table: Vec<V1Change> = vec![
            (untouched, bytes(800), None, None, ("800", Some(NO_LIMIT), "0")),
            (untouched, bytes(800), bytes(0), None, ("800", Some("800"), "60")),
            (untouched, bytes(800), bytes(200), None, ("800", Some("1000"), "60")),
            (untouched, bytes(800), bytes(200), Some(30), ("800", Some("1000"), "30")),
            (untouched, bytes(800), none, None, ("800", Some("-1"), "60")),
            (untouched, none, None, None, ("-1", Some(NO_LIMIT), "0")),
            (untouched, None, None, Some(100), (NO_LIMIT, Some(NO_LIMIT), "100")),
            // A living task: the swap beside the memory stays as it was unless it is given too.
            (limited, bytes(4000), None, None, ("4000", Some("4500"), "60")),
            (limited, bytes(100), None, None, ("100", Some("600"), "60")),
            (limited, None, bytes(100), None, ("1000", Some("1100"), "60")),
            (limited, None, none, None, ("1000", Some("-1"), "60")),
            (limited, none, None, None, ("-1", Some("-1"), "60")),
            (limited, none, none, None, ("-1", Some("-1"), "60")),
            (("1000", Some(NO_LIMIT), "60"), bytes(4000), None, None, ("4000", Some(NO_LIMIT), "60")),
            // Without accounting of swap.
            ((NO_LIMIT, None, "60"), bytes(800), None, None, ("800", None, "0")),
            ((NO_LIMIT, None, "60"), bytes(800), none, None, ("800", None, "60")),
        ];
        for (before, memory_max, memory_swap, swappiness, after) in table {
            let dir = v1_memory(before);
            let limits = Limits {
                memory_max,
                memory_swap,
                swappiness,
                ..Limits::default()
            };
            apply(&scope(Version::V1, dir.path()), &limits).unwrap();
            let memsw = after.1.map(|_| content(&dir, "memory.memsw.limit_in_bytes"));
            assert_eq!(
                (
                    content(&dir, "memory.limit_in_bytes").as_str(),
                    memsw.as_deref(),
                    content(&dir, "memory.swappiness").as_str()
                ),
                after,
                "{before:?} with {limits:?}"
            );
        }
    }

    fn v1_memory((limit, memsw, swappiness): V1Memory) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.limit_in_bytes"), limit).unwrap();
        fs::write(dir.path().join("memory.swappiness"), swappiness).unwrap();
        if let Some(memsw) = memsw {
            fs::write(dir.path().join("memory.memsw.limit_in_bytes"), memsw).unwrap();
        }
        dir
    }

    #[test]
    fn on_v1_swap_that_cannot_be_limited_is_refused() {
        for (before, memory_max) in [
            ((NO_LIMIT, None, "60"), Some(MemoryMax::Bytes(800))),
            ((NO_LIMIT, Some(NO_LIMIT), "60"), None),
            (("1000", Some("1500"), "60"), Some(MemoryMax::Unlimited)),
        ] {
            let dir = v1_memory(before);
            let limits = Limits {
                memory_max,
                memory_swap: Some(MemoryMax::Bytes(100)),
                ..Limits::default()
            };
            let error = apply(&scope(Version::V1, dir.path()), &limits).unwrap_err();
            assert_eq!(error.refusals.len(), 1, "{error}");
            assert!(error.to_string().contains("memory.memsw.limit_in_bytes"), "{error}");
            let expected = match memory_max {
                Some(MemoryMax::Bytes(_)) => "800",
                Some(MemoryMax::Unlimited) => "-1",
                None => NO_LIMIT,
            };
            assert_eq!(content(&dir, "memory.limit_in_bytes"), expected);
        }
    }

    #[test]
    fn on_v1_the_other_controllers_have_their_files() {
        let files = [
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.cfs_burst_us",
            "cpu.shares",
            "cpuset.cpus",
            "cpuset.mems",
            "pids.max",
            "memory.soft_limit_in_bytes",
            "blkio.bfq.weight",
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ];
        let dir = dir_with(&files);
        let device = IoMax {
            major: 8,
            minor: 16,
            write_bytes: Some(4096),
            read_operations: Some(120),
            ..IoMax::default()
        };
        let limits = Limits {
            memory_low: Some(8192),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            cpu_quota: Some(CpuQuota::Unlimited),
            cpu_period_us: Some(50_000),
            cpu_burst_us: Some(1000),
            pids_max: Some(PidsMax::Count(64)),
            io_weight: Some(10_000),
            io_max: vec![device],
            ..Limits::default()
        };
        apply(&scope(Version::V1, dir.path()), &limits).unwrap();
        let found: Vec<String> = files.iter().map(|file| content(&dir, file)).collect();
        let expected = [
            "-1",
            "50000",
            "1000",
            "1024",
            "0-1",
            "0",
            "64",
            "8192",
            "1000",
            "8:16 0",
            "8:16 4096",
            "8:16 120",
            "8:16 0",
        ];
        assert_eq!(found, expected);

        let old = dir_with(&["blkio.weight"]);
        let weight = Limits {
            io_weight: Some(50),
            ..Limits::default()
        };
        apply(&scope(Version::V1, old.path()), &weight).unwrap();
        assert_eq!(content(&old, "blkio.weight"), "250");
    }

    #[test]
    fn on_v1_no_bytes_at_all_is_refused_because_zero_would_lift_the_limit() {
        let dir = dir_with(&["blkio.throttle.read_bps_device"]);
        let limits = Limits {
            io_max: vec![IoMax {
                major: 8,
                read_bytes: Some(0),
                ..IoMax::default()
            }],
            ..Limits::default()
        };
        let error = apply(&scope(Version::V1, dir.path()), &limits).unwrap_err().to_string();
        assert!(error.contains("zero means no limit"), "{error}");
        assert!(content(&dir, "blkio.throttle.read_bps_device").starts_with("before"));
    }

    #[test]
    fn on_v1_the_cpuset_of_all_tasks_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share");
        fs::create_dir(&share).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(share.join(file), "0-3\n").unwrap();
        }
        let scope = Scope {
            join: vec![share.clone()],
            ..scope(Version::V1, dir.path())
        };
        let limits = Limits {
            cpuset_mems: Some("1".to_owned()),
            ..Limits::of_resources(0, 0, 0, "1")
        };
        let error = apply(&scope, &limits).unwrap_err();
        assert_eq!(error.refusals.len(), 2);
        assert!(error.to_string().contains("shared with other tasks"), "{error}");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            assert_eq!(fs::read_to_string(share.join(file)).unwrap(), "0-3\n");
        }
    }

    #[test]
    fn a_limit_of_a_controller_that_v1_lacks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = apply(&scope(Version::V1, dir.path()), &Limits::of_resources(64, 0, 100, "")).unwrap_err();
        assert_eq!(error.refusals.len(), 2);
        assert!(error.to_string().contains("memory.limit_in_bytes"), "{error}");
    }
}
