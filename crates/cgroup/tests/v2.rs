//! What only cgroup v2 with its controllers has. On a host without, each test says so and does nothing; `cargo xtask vm` has both.

#[allow(dead_code, reason = "each test program uses a part")]
mod place;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use holdfast_cgroup::{
    Bell, Controller, Counters, CpuQuota, IoMax, Limits, MemoryMax, PidsMax, ROOT, Readiness, Sampler, Scope,
    SessionScope, Support, Version, Watch, apply, enter, kill, oom_kills, version,
};
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;

use place::{ALLOC, HOG, Holder, Place, SIGKILL, a_disk, eventually, pid, wait_until_empty};

const MIB: u64 = 1 << 20;

/// `None`, after saying why, where there is no v2 with controllers.
fn place() -> Option<Place> {
    match version() {
        Some(Version::V2) => Some(Place::new()),
        other => {
            println!("does nothing here: this host's cgroup version is {other:?}, not v2 with every controller");
            None
        }
    }
}

fn bytes(count: u64) -> Option<MemoryMax> {
    Some(MemoryMax::Bytes(count))
}

fn without_swap(memory: u64) -> Limits {
    Limits {
        memory_max: bytes(memory),
        memory_swap: bytes(0),
        ..Limits::default()
    }
}

#[test]
fn v2_every_limit_has_its_exact_content() {
    let Some(place) = place() else { return };
    let limits = Limits {
        memory_max: bytes(256 * MIB),
        memory_low: Some(64 * MIB),
        memory_high: bytes(200 * MIB),
        memory_swap: bytes(32 * MIB),
        oom_group: Some(true),
        cpu_shares: Some(1024),
        cpu_quota: Some(CpuQuota::Microseconds(20_000)),
        cpu_period_us: Some(50_000),
        cpu_burst_us: Some(10_000),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        pids_max: Some(PidsMax::Count(64)),
        ..Limits::default()
    };
    apply(&place.scope, &limits).unwrap();
    for (file, content) in [
        ("memory.max", "268435456"),
        ("memory.low", "67108864"),
        ("memory.high", "209715200"),
        ("memory.swap.max", "33554432"),
        ("memory.oom.group", "1"),
        ("cpu.weight", "39"),
        ("cpu.max", "20000 50000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "64"),
    ] {
        assert_eq!(place.read(file), content, "{file}");
    }
    // A living task: what is absent stays, what has no limit any more says so.
    let lifted = Limits {
        memory_max: Some(MemoryMax::Unlimited),
        memory_high: Some(MemoryMax::Unlimited),
        memory_swap: Some(MemoryMax::Unlimited),
        oom_group: Some(false),
        cpu_quota: Some(CpuQuota::Unlimited),
        pids_max: Some(PidsMax::Unlimited),
        ..Limits::default()
    };
    apply(&place.scope, &lifted).unwrap();
    for (file, content) in [
        ("memory.max", "max"),
        ("memory.low", "67108864"),
        ("memory.high", "max"),
        ("memory.swap.max", "max"),
        ("memory.oom.group", "0"),
        ("cpu.max", "max 50000"),
        ("pids.max", "max"),
    ] {
        assert_eq!(place.read(file), content, "{file}");
    }
}

#[test]
fn v2_input_and_output_have_their_limits_and_weight() {
    let Some(place) = place() else { return };
    let Some((major, minor)) = a_disk() else {
        println!("does nothing here: this host has no block device");
        return;
    };
    let io = |limit: IoMax| Limits {
        io_max: vec![IoMax { major, minor, ..limit }],
        ..Limits::default()
    };
    let all = IoMax {
        read_bytes: Some(MIB),
        write_bytes: Some(2 * MIB),
        read_operations: Some(100),
        write_operations: Some(200),
        ..IoMax::default()
    };
    apply(&place.scope, &io(all)).unwrap();
    let line = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200");
    assert_eq!(place.read("io.max"), line);
    let some = IoMax {
        write_bytes: Some(MIB),
        ..IoMax::default()
    };
    apply(&place.scope, &io(some)).unwrap();
    let line = format!("{major}:{minor} rbps=max wbps=1048576 riops=max wiops=max");
    assert_eq!(place.read("io.max"), line);

    let weight = Limits {
        io_weight: Some(250),
        ..Limits::default()
    };
    let has_weight = ["io.weight", "io.bfq.weight"]
        .iter()
        .any(|file| place.scope.kill.join(file).exists());
    match apply(&place.scope, &weight) {
        Ok(()) => assert!(has_weight && place.read("io.weight").contains("default 250")),
        Err(e) => assert!(!has_weight && e.to_string().starts_with("io controller: "), "{e}"),
    }
}

#[test]
fn v2_a_limit_below_what_is_in_use_is_taken_and_enforced() {
    let Some(place) = place() else { return };
    apply(&place.scope, &without_swap(128 * MIB)).unwrap();
    let mut holder = Holder::new(&place.scope, 16 * MIB);
    apply(&place.scope, &without_swap(4 * MIB)).unwrap();
    assert_eq!(holder.0.wait().unwrap().signal(), Some(SIGKILL));
    assert_eq!(place.read("memory.max"), (4 * MIB).to_string());
    assert_eq!(oom_kills(Version::V2, &place.scope.join), Some(1));
}

#[test]
fn v2_an_oom_kill_of_the_group_takes_everything_and_is_counted_as_one_occasion() {
    let Some(place) = place() else { return };
    let limits = Limits {
        oom_group: Some(true),
        ..without_swap(16 * MIB)
    };
    apply(&place.scope, &limits).unwrap();
    let watch = Watch::open(&place.scope).unwrap().0;
    let mut bystander = place.sleeper();
    let mut main = place.script(HOG);
    for child in [&mut main, &mut bystander] {
        assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    }
    let counters = watch.counters().unwrap();
    assert_eq!(counters.oom_group_kills, Some(1));
    // The kernel counts the process for which it was begun twice.
    assert!((2..=3).contains(&counters.oom_kills.unwrap()), "{counters:?}");
}

#[test]
fn v2_every_oom_kill_is_told_and_counted_also_of_a_session() {
    let Some(place) = place() else { return };
    apply(&place.scope, &without_swap(12 * MIB)).unwrap();
    let session = SessionScope::create(&place.scope, 1).unwrap();
    in_event_loop(async {
        let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
        let bell = watch.oom.as_ref().unwrap();
        assert!(is_silent(bell).await, "nothing has happened");
        for number in 1..=6 {
            let mut child = if number % 2 == 0 {
                place.script(HOG)
            } else {
                script_in(session.join(), HOG)
            };
            until(&watch, bell, |counters| counters.oom_kills == Some(number)).await;
            assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
            assert_eq!(
                oom_kills(Version::V2, &place.scope.join),
                Some(number),
                "none is invented"
            );
        }
    });
}

#[test]
fn v2_a_denied_fork_is_told_and_counted() {
    let Some(place) = place() else { return };
    let limits = Limits {
        pids_max: Some(PidsMax::Count(1)),
        ..Limits::default()
    };
    apply(&place.scope, &limits).unwrap();
    in_event_loop(async {
        let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
        let bell = watch.pids.as_ref().unwrap();
        for _ in 0..3 {
            let before = watch.counters().unwrap().pids_denied.unwrap();
            let mut main = place.script("sh -c :; exit 0");
            until(&watch, bell, |counters| counters.pids_denied > Some(before)).await;
            main.wait().unwrap();
        }
    });
}

#[test]
fn v2_the_end_of_the_last_process_is_told() {
    let Some(place) = place() else { return };
    let session = SessionScope::create(&place.scope, 1).unwrap();
    in_event_loop(async {
        let watch = Watch::open(&place.scope).unwrap().0.try_map(register).unwrap();
        let bell = watch.population.as_ref().unwrap();
        assert_eq!(watch.counters().unwrap().populated, Some(false));
        let mut main = place.sleeper();
        let mut inside = script_in(session.join(), "sleep 600");
        until(&watch, bell, |counters| counters.populated == Some(true)).await;
        // What was seen already may ring once more: the kernel rings later than it changes the file.
        while !is_silent(bell).await {}
        main.kill().unwrap();
        main.wait().unwrap();
        assert!(is_silent(bell).await, "the session is left");
        kill(&place.scope.kill, Version::V2).unwrap();
        until(&watch, bell, |counters| counters.populated == Some(false)).await;
        inside.wait().unwrap();
    });
}

#[test]
fn v2_cpu_time_counts_dead_children_and_a_quota_shows_as_throttling() {
    let Some(place) = place() else { return };
    let mut sampler = Sampler::open(Version::V2, &place.scope.join);
    let busy = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done";
    let mut main = place.script(&format!("for i in 1 2 3; do sh -c '{busy}'; done; exec sleep 600"));
    // Three children have come and gone.
    assert!(eventually(|| {
        fs::read_to_string(format!("/proc/{}/comm", main.id())).is_ok_and(|name| name.trim() == "sleep")
    }));
    let sample = sampler.sample().unwrap();
    let alone = own_time(pid(&main));
    let total = sample.total.unwrap();
    assert!(total > alone, "{total:?} of the task, {alone:?} of what lives");
    assert!(
        sample.user.unwrap() + sample.system.unwrap() > Duration::ZERO,
        "{sample:?}"
    );
    assert_eq!((sample.tasks, sample.throttled_periods), (Some(1), Some(0)));
    for memory in [sample.rss, sample.usage, sample.cache, sample.swap, sample.kernel_usage] {
        assert!(memory.is_some(), "{sample:?}");
    }

    let quota = Limits {
        cpu_quota: Some(CpuQuota::Microseconds(1_000)),
        ..Limits::default()
    };
    apply(&place.scope, &quota).unwrap();
    let mut burner = place.script("while :; do :; done");
    let is_throttled = |sampler: &mut Sampler| {
        let sample = sampler.sample().unwrap();
        sample.throttled_periods > Some(1) && sample.throttled_time > Some(Duration::ZERO)
    };
    assert!(eventually(|| is_throttled(&mut sampler)));
    kill(&place.scope.kill, Version::V2).unwrap();
    for child in [&mut main, &mut burner] {
        child.wait().unwrap();
    }
}

/// User and system time of one living process without its children.
fn own_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime, fields 14 and 15 in hundredths of a second (proc_pid_stat(5)); the first after the name is the third.
    let ticks = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[test]
fn v2_pressure_input_output_and_the_limit_of_processes_are_measured() {
    let Some(place) = place() else { return };
    let limits = Limits {
        pids_max: Some(PidsMax::Count(50)),
        cpu_quota: Some(CpuQuota::Microseconds(1_000)),
        ..Limits::default()
    };
    apply(&place.scope, &limits).unwrap();
    let mut sampler = Sampler::open_detailed(Version::V2, &place.scope.join);
    let sample = sampler.sample().unwrap();
    assert_eq!(sample.tasks_max, Some(PidsMax::Count(50)));
    assert!(sample.io.is_some());
    if !Support::probe(Version::V2).pressure {
        println!("this kernel does not account pressure");
        assert_eq!(sample.pressure, Default::default());
        return;
    }
    assert!(sample.pressure.memory.is_some() && sample.pressure.io.is_some());
    let mut burner = place.script("while :; do :; done");
    let waited = |sampler: &mut Sampler| sampler.sample().unwrap().pressure.cpu.unwrap().some.total;
    assert!(
        eventually(|| waited(&mut sampler) > Duration::from_millis(50)),
        "the quota makes it wait"
    );
    kill(&place.scope.kill, Version::V2).unwrap();
    burner.wait().unwrap();
}

#[test]
fn v2_a_scope_below_an_operators_parent_has_every_controller() {
    let Some(place) = place() else { return };
    let parent = Path::new(ROOT).join(&place.parent).join("batch/low");
    let scope = Scope::below(Version::V2, parent.to_str().unwrap(), ALLOC, "web").unwrap();
    scope.make().unwrap();
    let limits = Limits {
        pids_max: Some(PidsMax::Count(10)),
        ..Limits::of_resources(64, 128, 512, "0")
    };
    apply(&scope, &limits).unwrap();
    assert_eq!(
        fs::read_to_string(scope.kill.join("memory.max")).unwrap().trim(),
        (128 * MIB).to_string()
    );
    // The operator's own limit holds for all that is below.
    fs::write(parent.join("memory.max"), (8 * MIB).to_string()).unwrap();
    fs::write(parent.join("memory.swap.max"), "0").unwrap();
    let mut main = script_in(&scope.join, HOG);
    assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    assert_eq!(oom_kills(Version::V2, &scope.join), Some(1));
    assert!(wait_until_empty(&scope.kill));
    scope.remove().unwrap();
    assert!(!scope.kill.exists() && parent.is_dir());
    // The next task's is made anew, with its controllers.
    scope.make().unwrap();
    apply(&scope, &limits).unwrap();
    scope.remove().unwrap();
}

#[test]
fn v2_a_cgroup_with_processes_is_left_as_it_is_and_its_tasks_limits_are_refused() {
    let Some(place) = place() else { return };
    let parent = Path::new(ROOT).join(&place.parent).join("busy");
    fs::create_dir(&parent).unwrap();
    let mut inhabitant = Command::new("sleep").arg("600").spawn().unwrap();
    enter(std::slice::from_ref(&parent), pid(&inhabitant)).unwrap();
    let scope = Scope::below(Version::V2, &format!("{}/busy", place.parent), ALLOC, "web").unwrap();
    scope.make().unwrap();
    assert_eq!(
        fs::read_to_string(parent.join("cgroup.subtree_control"))
            .unwrap()
            .trim(),
        ""
    );
    let limits = Limits {
        pids_max: Some(PidsMax::Count(10)),
        ..Limits::of_resources(64, 0, 512, "0")
    };
    let error = apply(&scope, &limits).unwrap_err();
    let refused: Vec<Controller> = error.refusals.iter().map(|refusal| refusal.controller).collect();
    assert_eq!(
        refused,
        [
            Controller::Memory,
            Controller::Cpu,
            Controller::Cpuset,
            Controller::Pids
        ]
    );
    assert!(
        error
            .to_string()
            .contains("the controller is not enabled for this cgroup"),
        "{error}"
    );
    // It can be lived in all the same, which a threaded cgroup could not.
    let mut main = script_in(&scope.join, "exit 7");
    assert_eq!(main.wait().unwrap().code(), Some(7));
    inhabitant.kill().unwrap();
    inhabitant.wait().unwrap();
    assert!(wait_until_empty(&parent));
    scope.remove().unwrap();
}

#[test]
fn v2_the_host_can_do_what_the_agent_requires() {
    if place().is_none() {
        return;
    }
    let support = Support::probe(Version::V2);
    assert!(
        Controller::ALL.into_iter().all(|controller| support.has(controller)),
        "{support:?}"
    );
    assert!(support.freeze && support.devices, "{support:?}");
}

/// A shell script that begins to run in `join`.
fn script_in(join: &[PathBuf], text: &str) -> Child {
    let enter = format!("echo 0 > {}/cgroup.procs; {text}", join[0].display());
    Command::new("sh").args(["-c", &enter]).spawn().unwrap()
}

/// Runs `test` in an event loop like the executor's; what never happens fails it.
fn in_event_loop<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test)
            .await
            .expect("it is told")
    })
}

fn register(fd: OwnedFd, readiness: Readiness) -> std::io::Result<Registered> {
    assert_eq!(readiness, Readiness::Priority);
    Registered::new(fd, Interest::PRIORITY)
}

/// Waits for `bell`, as often as it takes until the counters are as wanted.
async fn until(watch: &Watch<Registered>, bell: &Bell<Registered>, is_wanted: impl Fn(&Counters) -> bool) {
    loop {
        bell.fd.priority().await.unwrap();
        if is_wanted(&watch.counters().unwrap()) {
            return;
        }
    }
}

/// True if it does not ring within a short time.
async fn is_silent(bell: &Bell<Registered>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), bell.fd.priority())
        .await
        .is_err()
}
