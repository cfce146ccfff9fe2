//! Limits, as the kernel has them afterwards.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use holdfast_cgroup::{
    Controller, CpuQuota, IoMax, Limits, MemoryMax, PidsMax, ROOT, Scope, SessionScope, Version, apply, enter, kill,
    oom_kills,
};

use crate::place::{ALLOC, HOG, Holder, Place, SIGKILL, a_disk, pid};

const MIB: u64 = 1 << 20;

/// Hard limit and swap, where that is in the place's version.
fn memory(max: Option<MemoryMax>, swap: Option<MemoryMax>) -> Limits {
    Limits {
        memory_max: max,
        memory_swap: swap,
        ..Limits::default()
    }
}

fn mib(count: u64) -> Option<MemoryMax> {
    Some(MemoryMax::Bytes(count * MIB))
}

#[test]
fn limits_reach_the_kernel() {
    let place = Place::new();
    let limits = Limits::of_resources(64, 128, 512, "");
    apply(&place.scope, &limits).unwrap();
    let (max, low, cpu) = match place.scope.version {
        Version::V1 => (
            "memory.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            ("cpu.shares", "512"),
        ),
        Version::V2 => ("memory.max", "memory.low", ("cpu.weight", "20")),
    };
    assert_eq!(place.read(max), (128_u64 << 20).to_string());
    assert_eq!(place.read(low), (64_u64 << 20).to_string());
    assert_eq!(place.read(cpu.0), cpu.1);
    apply(&place.scope, &Limits::of_resources(64, -1, 512, "")).unwrap();
    assert_ne!(place.read(max), (128_u64 << 20).to_string());
}

#[test]
fn on_v1_memory_and_swap_are_raised_and_lowered_in_an_order_that_the_kernel_takes() {
    let place = Place::new();
    if place.scope.version == Version::V2 {
        println!("nothing to try: this host has cgroup v2, which limits swap by itself");
        return;
    }
    let read = || {
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            .map(|file| place.read(file).parse::<u64>().unwrap() >> 20)
    };
    let unlimited = read()[0];
    for (max, swap, expected) in [
        (mib(64), mib(0), [64, 64]),
        (mib(128), mib(16), [128, 144]),
        (mib(32), mib(8), [32, 40]),
        // The limit that is there counts when only the other is given.
        (None, mib(100), [32, 132]),
        (None, mib(0), [32, 32]),
        (mib(256), None, [256, 256]),
        (mib(16), None, [16, 16]),
        (None, Some(MemoryMax::Unlimited), [16, unlimited]),
        (mib(64), mib(1), [64, 65]),
        (Some(MemoryMax::Unlimited), None, [unlimited, unlimited]),
        (mib(64), None, [64, unlimited]),
    ] {
        let limits = memory(max, swap);
        apply(&place.scope, &limits).unwrap();
        assert_eq!(read(), expected, "after {limits:?}");
    }
}

#[test]
fn on_v1_a_limit_below_what_is_in_use_is_refused_in_words() {
    let place = Place::new();
    if place.scope.version == Version::V2 {
        println!("nothing to try: this host has cgroup v2, which takes such a limit");
        return;
    }
    apply(&place.scope, &memory(mib(256), mib(0))).unwrap();
    let mut holder = Holder::new(&place.scope, 16 * MIB);
    let error = apply(&place.scope, &memory(mib(4), None)).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.refusals[0].controller, Controller::Memory);
    for part in ["memory controller: ", "4194304", "memory.limit_in_bytes", "in use"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(place.read("memory.limit_in_bytes"), (256 * MIB).to_string());
    assert!(holder.0.try_wait().unwrap().is_none(), "it lives");
    kill(&place.scope.kill, place.scope.version).unwrap();
    holder.0.wait().unwrap();
}

#[test]
fn cpu_time_is_changed_step_by_step_even_where_the_cgroup_above_allows_no_more() {
    let place = Place::new();
    let dir = place.scope.join.iter().find(|dir| dir.join(CPU.quota(&place)).exists());
    let above = dir.unwrap().parent().unwrap();
    match place.scope.version {
        Version::V1 => fs::write(above.join("cpu.cfs_quota_us"), "50000").unwrap(),
        Version::V2 => fs::write(above.join("cpu.max"), "50000 100000").unwrap(),
    }
    let microseconds = |count| Some(CpuQuota::Microseconds(count));
    for (quota, period, burst, expected) in [
        (microseconds(40_000), None, None, "40000 100000 0"),
        (
            microseconds(200_000),
            Some(400_000),
            Some(100_000),
            "200000 400000 100000",
        ),
        (microseconds(4_000), Some(10_000), Some(0), "4000 10000 0"),
        (None, Some(20_000), None, "4000 20000 0"),
        (None, None, Some(2_000), "4000 20000 2000"),
        (microseconds(10_000), None, Some(10_000), "10000 20000 10000"),
        (Some(CpuQuota::Unlimited), None, None, "-1 20000 10000"),
    ] {
        let limits = Limits {
            cpu_quota: quota,
            cpu_period_us: period,
            cpu_burst_us: burst,
            ..Limits::default()
        };
        apply(&place.scope, &limits).unwrap();
        assert_eq!(CPU.read(&place), expected, "after {limits:?}");
    }
    let too_much = Limits {
        cpu_burst_us: Some(u64::MAX),
        ..Limits::default()
    };
    let error = apply(&place.scope, &too_much).unwrap_err().to_string();
    assert!(error.starts_with("cpu controller: "), "{error}");
}

/// Quota, period and burst in one text.
struct Cpu;

const CPU: Cpu = Cpu;

impl Cpu {
    fn quota(&self, place: &Place) -> &'static str {
        match place.scope.version {
            Version::V1 => "cpu.cfs_quota_us",
            Version::V2 => "cpu.max",
        }
    }

    fn read(&self, place: &Place) -> String {
        match place.scope.version {
            Version::V1 => ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"]
                .map(|file| place.read(file))
                .join(" "),
            Version::V2 => ["cpu.max", "cpu.max.burst"]
                .map(|file| place.read(file))
                .join(" ")
                .replace("max", "-1"),
        }
    }
}

#[test]
fn processes_are_limited_and_the_limit_can_be_lifted() {
    let place = Place::new();
    let pids = |pids_max| Limits {
        pids_max: Some(pids_max),
        ..Limits::default()
    };
    apply(&place.scope, &pids(PidsMax::Count(1))).unwrap();
    let forking = "sh -c : || exit 9; exit 0";
    let mut main = place.script(forking);
    assert!(!main.wait().unwrap().success());
    apply(&place.scope, &pids(PidsMax::Unlimited)).unwrap();
    let mut main = place.script(forking);
    assert!(main.wait().unwrap().success());
}

#[test]
fn input_and_output_are_limited_for_tasks_that_ask_for_it() {
    let place = Place::new();
    let Some((major, minor)) = a_disk() else {
        println!("nothing to try: this host has no block device");
        return;
    };
    let limits = |write_bytes| Limits {
        io_max: vec![IoMax {
            major,
            minor,
            write_bytes,
            read_operations: Some(120),
            ..IoMax::default()
        }],
        ..Limits::default()
    };
    if place.scope.version == Version::V1 {
        let refused = apply(&place.scope, &limits(Some(MIB))).unwrap_err();
        assert!(refused.to_string().starts_with("io controller: "), "{refused}");
    }
    let scope = place.scope.clone().with_io();
    scope.make().unwrap();
    let read = |file: &str| {
        let dir = scope.join.iter().find(|dir| dir.join(file).exists()).unwrap();
        fs::read_to_string(dir.join(file)).unwrap()
    };
    for write_bytes in [Some(MIB), None] {
        apply(&scope, &limits(write_bytes)).unwrap();
        match scope.version {
            Version::V1 => {
                let line = write_bytes.map_or(String::new(), |bytes| format!("{major}:{minor} {bytes}\n"));
                assert_eq!(read("blkio.throttle.write_bps_device"), line);
                assert_eq!(
                    read("blkio.throttle.read_iops_device"),
                    format!("{major}:{minor} 120\n")
                );
                assert_eq!(read("blkio.throttle.read_bps_device"), "");
            }
            Version::V2 => {
                let bytes = write_bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
                let line = format!("{major}:{minor} rbps=max wbps={bytes} riops=120 wiops=max\n");
                assert_eq!(read("io.max"), line);
            }
        }
    }
    let nowhere = Limits {
        io_max: vec![IoMax {
            major: 4000,
            read_bytes: Some(MIB),
            ..IoMax::default()
        }],
        ..Limits::default()
    };
    let error = apply(&scope, &nowhere).unwrap_err().to_string();
    assert!(error.contains("4000:0"), "{error}");

    let mut main = place.script("exit 0");
    assert!(main.wait().unwrap().success());
    scope.remove().unwrap();
    assert!(scope.own.iter().all(|dir| !dir.exists()));
}

#[test]
fn a_cpuset_that_the_host_does_not_have_is_refused_by_name() {
    let place = Place::new();
    let scope = match place.scope.version {
        Version::V2 => place.scope.clone(),
        Version::V1 => {
            let cpuset = Path::new(ROOT)
                .join("cpuset")
                .join(&place.parent)
                .join("reserve")
                .join(format!("{ALLOC}.web"));
            Scope::of_task(Version::V1, &cpuset, ALLOC, "web").unwrap()
        }
    };
    scope.make().unwrap();
    let cpuset = |cpus: &str, mems: &str| Limits {
        cpuset_cpus: Some(cpus.to_owned()),
        cpuset_mems: Some(mems.to_owned()),
        ..Limits::default()
    };
    apply(&scope, &cpuset("0", "0")).unwrap();
    let error = apply(&scope, &cpuset("0", "99999")).unwrap_err();
    assert_eq!(error.refusals.len(), 1);
    let text = error.to_string();
    assert!(text.contains("cpuset.mems") && text.contains("99999"), "{text}");
    let error = apply(&scope, &cpuset("99999", "0")).unwrap_err();
    assert_eq!(error.refusals[0].controller, Controller::Cpuset);
    let text = error.to_string();
    assert!(text.contains("cpuset.cpus") && text.contains("99999"), "{text}");
}

#[test]
fn every_oom_kill_is_counted_and_none_invented_also_of_sessions() {
    const KILLS: u64 = 12;
    let place = Place::new();
    let (scope, version) = (&place.scope, place.scope.version);
    apply(scope, &memory(mib(12), mib(0))).unwrap();
    let session = SessionScope::create(scope, 1).unwrap();
    let count = || oom_kills(version, &scope.join).unwrap();
    let baseline = count();
    for number in 1..=KILLS {
        let mut child = if number % 3 == 0 {
            let mut inside = Command::new("sh")
                .args(["-c", "sleep 0.05; exec sh -c \"$0\"", HOG])
                .spawn()
                .unwrap();
            enter(session.join(), pid(&inside)).unwrap();
            assert_eq!(inside.wait().unwrap().signal(), Some(SIGKILL));
            place.script("exit 0")
        } else {
            let mut main = place.script(HOG);
            assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
            place.sleeper()
        };
        assert_eq!(count() - baseline, number);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
