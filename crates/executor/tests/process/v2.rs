//! Whole tasks on cgroup v2 with its controllers, as the VM has it.

use std::fs;
use std::path::Path;

use holdfast_cgroup::Version;
use holdfast_wire::executor_v1::{Limits, TaskSpec, task_result};

use crate::host::{Host, Task, left, wait};

/// A task's spec with cgroups of its own; `None`, and why, where the tasks' cgroups are not v2's.
fn scoped(host: &mut Host, task: &Task, script: &str) -> Option<TaskSpec> {
    let spec = host.scoped(task.shell(script));
    if holdfast_cgroup::version() == Some(Version::V2) && spec.placement.is_some() {
        return Some(spec);
    }
    println!("does nothing here: tasks have no cgroup v2 with controllers");
    None
}

#[tokio::test]
async fn v2_the_limits_of_a_launch_hold_for_main_before_it_runs() {
    let mut host = Host::new();
    let task = host.task("main");
    // What main reads is its own cgroup's.
    let script = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && cat memory.max memory.low cpu.weight cpuset.cpus.effective";
    let Some(mut spec) = scoped(&mut host, &task, script) else {
        return;
    };
    spec.limits = Some(Limits {
        memory_max_bytes: Some(64 << 20),
        memory_low_bytes: Some(16 << 20),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0".to_owned()),
        ..Limits::default()
    });
    spec.strict_limits = true;
    let (mut peer, launched) = host.launch(&task, spec).await;
    assert_eq!(launched.warnings, Vec::<String>::new());
    let result = wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(result.status, Some(task_result::Status::Exited(0)));
    let stdout = task.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    let [memory_max, memory_low, cpu_weight, cpus] = lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!((memory_max, memory_low, cpus), ("67108864", "16777216", "0"));
    let weight: u64 = cpu_weight.parse().unwrap();
    assert!(
        (1..100).contains(&weight),
        "1024 shares of 262144 are less than the usual weight of 100: {weight}"
    );
    host.nothing_left();
}

#[tokio::test]
async fn v2_main_is_executed_in_its_scope_and_an_oom_kill_there_is_told() {
    let mut host = Host::new();
    let task = host.task("main");
    // A shell's variable that doubles until it does not fit.
    let Some(mut spec) = scoped(&mut host, &task, "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done") else {
        return;
    };
    spec.limits = Some(Limits {
        memory_max_bytes: Some(32 << 20),
        memory_swap_bytes: Some(0),
        ..Limits::default()
    });
    let scope = spec.placement.clone().unwrap().scope;
    let (mut peer, launched) = host.launch(&task, spec).await;
    assert_eq!(launched.warnings, Vec::<String>::new());
    let result = wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(result.status, Some(task_result::Status::Signalled(libc::SIGKILL)));
    assert!(result.oom_killed);
    host.nothing_left();
    assert!(!Path::new(&scope).exists());
}

#[tokio::test]
async fn v2_a_session_of_a_limited_task_is_within_its_limits() {
    let mut host = Host::new();
    let task = host.task("main");
    let Some(mut spec) = scoped(&mut host, &task, "echo ready; exec sleep 1000") else {
        return;
    };
    spec.limits = Some(Limits {
        memory_max_bytes: Some(64 << 20),
        ..Limits::default()
    });
    let scope = spec.placement.clone().unwrap().scope;
    let (peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    let ran = host.by_hand(&["exec", "main", "--", "cat", "/proc/self/cgroup"]);
    let own = String::from_utf8(ran.stdout).unwrap();
    let own = own.trim().strip_prefix("0::").unwrap();
    let within = scope.strip_prefix("/sys/fs/cgroup").unwrap();
    assert!(own.starts_with(&format!("{within}/")), "{own} is not below {within}");
    // A child with controllers of its own would keep processes out of the scope itself (cgroup-v2, "No Internal Process").
    assert_eq!(
        fs::read_to_string(Path::new(&scope).join("cgroup.subtree_control"))
            .unwrap()
            .trim(),
        ""
    );
    crate::stop::kill_now(peer).await;
    host.nothing_left();
}
