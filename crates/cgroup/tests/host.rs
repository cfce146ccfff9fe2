//! Real processes in real cgroups of this host, whichever version it has; what needs no controller is tried on v2 too where v2 is
//! mounted beside v1. Needs root. Every test has a cgroup parent of its own and removes it.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_cgroup::{
    Limits, ROOT, Sampler, Scope, SessionScope, Version, apply, enter, freeze, kill, oom_kills, pids, populated, thaw,
    version,
};

const SIGKILL: i32 = 9;
const ALLOC: &str = "11111111-2222-3333-4444-555555555555";

/// A scope below a parent that nobody else uses.
struct Place {
    scope: Scope,
    parent: String,
    roots: Vec<PathBuf>,
}

fn unused_parent() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "holdfast-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Where v2 is mounted beside v1.
fn unified_beside_v1() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mountinfo.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.contains(&"cgroup2").then(|| PathBuf::from(fields[4]))
    });
    point.filter(|point| point != Path::new(ROOT))
}

impl Place {
    fn new() -> Place {
        let parent = unused_parent();
        let version = version().expect("these tests need root and cgroups, v1 or v2");
        let cpuset = match version {
            Version::V1 => Path::new(ROOT).join("cpuset").join(&parent).join("share"),
            Version::V2 => Path::new(ROOT)
                .join(&parent)
                .join("share")
                .join(format!("{ALLOC}.web.scope")),
        };
        let scope = Scope::of_task(version, &cpuset, ALLOC, "web").unwrap();
        scope.make().unwrap();
        let roots = match version {
            Version::V1 => fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path()).collect(),
            Version::V2 => vec![PathBuf::from(ROOT)],
        };
        Place { scope, parent, roots }
    }

    /// The host's version, and v2 without controllers where it is mounted beside v1.
    fn of_every_version() -> Vec<Place> {
        let mut places = vec![Place::new()];
        if let Some(root) = unified_beside_v1() {
            let parent = unused_parent();
            let dir = root.join(&parent).join("share").join(format!("{ALLOC}.web.scope"));
            let scope = Scope {
                version: Version::V2,
                join: vec![dir.clone()],
                kill: dir,
                own: Vec::new(),
                shared: vec![root.join(&parent).join("holdfast")],
                foreign: false,
            };
            scope.make().unwrap();
            places.push(Place {
                scope,
                parent,
                roots: vec![root],
            });
        }
        places
    }

    /// A process in the scope that does nothing until it is killed.
    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        enter(&self.scope.join, pid(&child)).unwrap();
        child
    }

    /// A shell script that begins to run in the scope.
    fn script(&self, text: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read begin; {text}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        enter(&self.scope.join, pid(&child)).unwrap();
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        child
    }

    fn write(&self, file: &str, value: &str) -> bool {
        self.scope
            .join
            .iter()
            .any(|dir| dir.join(file).exists() && fs::write(dir.join(file), value).is_ok())
    }

    fn read(&self, file: &str) -> String {
        let dir = self.scope.join.iter().find(|dir| dir.join(file).exists()).unwrap();
        fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = kill(&self.scope.kill, self.scope.version);
        wait_until_empty(&self.scope.kill);
        for root in &self.roots {
            remove_tree(&root.join(&self.parent));
        }
    }
}

fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Long enough for any machine; what never happens fails the caller's assertion.
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(30) {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

fn wait_until_empty(dir: &Path) -> bool {
    eventually(|| !populated(dir).unwrap())
}

#[test]
fn a_task_is_counted_killed_and_leaves_nothing_of_ours() {
    for place in Place::of_every_version() {
        assert!(!populated(&place.scope.kill).unwrap());
        let mut main = place.sleeper();
        assert_eq!(pids(&place.scope.kill).unwrap(), [pid(&main)]);
        assert!(populated(&place.scope.kill).unwrap());
        for dir in &place.scope.join {
            assert!(pids(dir).unwrap().contains(&pid(&main)), "not in {}", dir.display());
        }

        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(wait_until_empty(&place.scope.kill));

        place.scope.remove().unwrap();
        assert!(place.scope.own.iter().all(|dir| !dir.exists()));
        assert!(
            place.scope.kill.is_dir(),
            "the agent's directory is the agent's to remove"
        );
        place.scope.remove().unwrap();
    }
}

#[test]
fn a_scope_is_used_again_after_a_kill_s8() {
    for place in Place::of_every_version() {
        for _ in 0..3 {
            place.scope.make().unwrap();
            let mut main = place.sleeper();
            kill(&place.scope.kill, place.scope.version).unwrap();
            assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
            assert!(wait_until_empty(&place.scope.kill));
            place.scope.remove().unwrap();
        }
    }
}

#[test]
fn without_an_agent_everything_but_the_shared_cpuset_is_removed() {
    let place = Place::new();
    let scope = place.scope.clone().owning_all();
    scope.remove().unwrap();
    assert!(
        scope
            .join
            .iter()
            .filter(|dir| !dir.ends_with("share"))
            .all(|dir| !dir.exists())
    );
    scope.make().unwrap();
    assert!(scope.join.iter().all(|dir| dir.is_dir()));
}

#[test]
fn nothing_that_forks_all_the_time_escapes_a_kill() {
    for place in Place::of_every_version() {
        // Each relay forks its successor and exits, so that every list of processes is out of date at once.
        let mut main = place.script("relay() { relay & }; for i in 1 2 3 4 5 6; do relay; done; exec sleep 600");
        let forked = |first: i32| {
            pids(&place.scope.kill)
                .unwrap()
                .iter()
                .any(|found| found.abs_diff(first) > 100)
        };
        assert!(eventually(|| forked(pid(&main))), "the relays go on");
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(wait_until_empty(&place.scope.kill));
    }
}

#[test]
fn a_frozen_task_dies_when_it_is_killed() {
    for place in Place::of_every_version() {
        let mut main = place.sleeper();
        freeze(&place.scope.kill, place.scope.version).unwrap();
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    }
}

#[test]
fn a_frozen_task_stands_still_until_it_is_thawed() {
    for place in Place::of_every_version() {
        let mut main = place.script("exit 7");
        assert_eq!(main.wait().unwrap().code(), Some(7));

        let mut child = Command::new("sh")
            .args(["-c", "read begin; exit 8"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        enter(&place.scope.join, pid(&child)).unwrap();
        freeze(&place.scope.kill, place.scope.version).unwrap();
        let state = match place.scope.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        assert!(eventually(|| fs::read_to_string(place.scope.kill.join(state.0))
            .unwrap()
            .contains(state.1)));
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none());
        thaw(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(8));
    }
}

#[test]
fn a_session_is_killed_without_its_task() {
    for place in Place::of_every_version() {
        let mut main = place.sleeper();
        let session = SessionScope::create(&place.scope, 1).unwrap();
        let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
        enter(session.join(), pid(&inside)).unwrap();
        assert!(session.populated().unwrap());
        assert!(
            pids(&place.scope.kill).unwrap().contains(&pid(&inside)),
            "a session counts as the task's"
        );
        let busy = SessionScope::create(&place.scope, 1).unwrap_err();
        assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);

        session.kill().unwrap();
        assert_eq!(inside.wait().unwrap().signal(), Some(SIGKILL));
        assert!(main.try_wait().unwrap().is_none());
        assert!(eventually(|| !session.populated().unwrap()));
        session.remove().unwrap();
        session.remove().unwrap();
        assert!(SessionScope::list(&place.scope).unwrap().is_empty());
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    }
}

#[test]
fn killing_the_task_takes_its_sessions_with_it_frozen_ones_too() {
    for place in Place::of_every_version() {
        let mut main = place.sleeper();
        let mut sessions: Vec<Child> = (1..=3)
            .map(|number| {
                let session = SessionScope::create(&place.scope, number).unwrap();
                let inside = Command::new("sleep").arg("600").spawn().unwrap();
                enter(session.join(), pid(&inside)).unwrap();
                if number == 2 {
                    freeze(session.dir().unwrap(), place.scope.version).unwrap();
                }
                inside
            })
            .collect();
        assert_eq!(SessionScope::list(&place.scope).unwrap().len(), 3);
        kill(&place.scope.kill, place.scope.version).unwrap();
        for child in sessions.iter_mut().chain([&mut main]) {
            assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        }
        assert!(wait_until_empty(&place.scope.kill));
        place.scope.remove().unwrap();
        assert!(SessionScope::list(&place.scope).unwrap().is_empty());
    }
}

#[test]
fn a_stranger_outside_the_scope_survives() {
    for place in Place::of_every_version() {
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        let mut main = place.sleeper();
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[test]
fn killing_what_is_empty_or_gone_is_fine() {
    for place in Place::of_every_version() {
        kill(&place.scope.kill, place.scope.version).unwrap();
        kill(&place.scope.kill.join("no-such-cgroup"), place.scope.version).unwrap();
    }
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
    apply(&scope, &Limits::of_resources(64, 0, 0, "0")).unwrap();
    let error = apply(&scope, &Limits::of_resources(32, 0, 0, "99999")).unwrap_err();
    assert_eq!(error.refusals.len(), 1);
    let text = error.to_string();
    assert!(text.contains("cpuset.cpus") && text.contains("99999"), "{text}");
}

#[test]
fn an_oom_kill_is_counted_above_the_baseline() {
    let place = Place::new();
    apply(&place.scope, &Limits::of_resources(24, 0, 0, "")).unwrap();
    // Where there is swap the task would flee into it.
    match place.scope.version {
        Version::V1 => place.write("memory.memsw.limit_in_bytes", &(24_u64 << 20).to_string()),
        Version::V2 => place.write("memory.swap.max", "0"),
    };
    let count = || oom_kills(place.scope.version, &place.scope.join).unwrap();
    let baseline = count();
    let mut main = place.script("exec tail /dev/zero");
    assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    assert!(count() > baseline);
}

#[test]
fn a_task_is_sampled_with_its_dead_children_and_until_its_cgroup_is_gone() {
    let place = Place::new();
    let mut sampler = Sampler::open(place.scope.version, &place.scope.join);
    let before = sampler.sample().unwrap();
    let mut main = place
        .script("for i in 1 2 3; do sh -c 'n=0; while [ $n -lt 30000 ]; do n=$((n+1)); done'; done; exec sleep 600");
    let spent = |sample: &holdfast_cgroup::Sample| sample.total.unwrap() - before.total.unwrap();
    assert!(eventually(
        || spent(&sampler.sample().unwrap()) > Duration::from_millis(10)
    ));
    // The kernel brings some of these numbers up to date only now and then.
    let is_complete = |sample: &holdfast_cgroup::Sample| sample.rss > Some(0) && sample.user > Some(Duration::ZERO);
    assert!(eventually(|| is_complete(&sampler.sample().unwrap())));
    let sample = sampler.sample().unwrap();
    assert!(
        sample.system.is_some() && sample.throttled_periods == Some(0),
        "{sample:?}"
    );
    assert!(
        sample.usage.unwrap() > 0 && sample.rss.unwrap() > 0 && sample.cache.is_some(),
        "{sample:?}"
    );
    assert!(
        sample.max_usage.is_none_or(|most| most >= sample.rss.unwrap()),
        "{sample:?}"
    );
    assert!(sample.tasks.unwrap() >= 1);

    kill(&place.scope.kill, place.scope.version).unwrap();
    assert_eq!(main.wait().unwrap().signal(), Some(SIGKILL));
    assert!(wait_until_empty(&place.scope.kill));
    place.scope.clone().owning_all().remove().unwrap();
    assert!(sampler.sample().unwrap_err().is_gone());
}

#[test]
fn the_executors_cgroup_is_made_and_can_be_entered() {
    for mut place in Place::of_every_version() {
        if place.scope.shared.is_empty() {
            // This process is at the root of every v1 hierarchy, where there is nothing to escape from.
            place
                .scope
                .shared
                .push(Path::new(ROOT).join("memory").join(&place.parent).join("holdfast"));
        }
        place.scope.make_shared().unwrap();
        let mut executor = Command::new("sleep").arg("600").spawn().unwrap();
        enter(&place.scope.shared, pid(&executor)).unwrap();
        for dir in &place.scope.shared {
            assert!(
                dir.ends_with("holdfast") && pids(dir).unwrap().contains(&pid(&executor)),
                "{}",
                dir.display()
            );
        }
        kill(&place.scope.kill, place.scope.version).unwrap();
        assert!(
            executor.try_wait().unwrap().is_none(),
            "the executor is no part of the task"
        );
        executor.kill().unwrap();
        executor.wait().unwrap();
    }
}
