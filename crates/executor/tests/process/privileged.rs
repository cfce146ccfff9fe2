//! What only a privileged executor can do: limits above its own, scores and priorities better than usual. The VM has the
//! capabilities for it.

use std::fs;

use holdfast_wire::executor_v1::io_priority::Class;
use holdfast_wire::executor_v1::{Credentials, IoPriority, Rlimit, TaskSpec};

use crate::host::{Host, status_field};

/// CAP_SYS_NICE and CAP_SYS_RESOURCE (linux/capability.h).
const NEEDED: [(u32, &str); 2] = [(23, "CAP_SYS_NICE"), (24, "CAP_SYS_RESOURCE")];

/// Whether an executor of this process's would have them; says so if not.
fn is_privileged() -> bool {
    let own = i32::try_from(std::process::id()).unwrap();
    let capabilities = u64::from_str_radix(&status_field(own, "CapEff"), 16).unwrap();
    match NEEDED.iter().find(|(number, _)| capabilities >> number & 1 == 0) {
        None => true,
        Some((_, name)) => {
            println!("does nothing here: {name} is missing");
            false
        }
    }
}

/// Soft and hard limit of open files.
fn open_files(pid: i32) -> [u64; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let mut numbers = line.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0));
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

fn oom_score_adj(pid: i32) -> String {
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    score.trim().to_owned()
}

/// proc_pid_stat(5).
fn nice(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let mut fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace();
    fields.nth(16).unwrap().to_owned()
}

#[tokio::test]
async fn limits_above_the_executors_and_better_scores_reach_a_task_without_privileges() {
    if !is_privileged() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let raised = open_files(i32::try_from(std::process::id()).unwrap())[1] + 1000;
    let spec = TaskSpec {
        work_dir: "/".to_owned(),
        user: "somebody".to_owned(),
        credentials: Some(Credentials {
            uid: 12345,
            gid: 23456,
            groups: vec![],
        }),
        rlimits: vec![Rlimit {
            resource: holdfast_sys::limit::number("nofile").unwrap(),
            soft: raised - 1,
            hard: raised,
        }],
        oom_score_adj: -500,
        nice: -5,
        io_priority: Some(IoPriority {
            class: Class::Realtime.into(),
            level: 2,
        }),
        ..task.shell("ionice -p $$; echo ready; exec sleep 1000")
    };
    let (peer, launched) = host.launch(&task, spec).await;
    assert_eq!(launched.warnings, Vec::<String>::new());
    task.says("ready");
    let main = launched.main.unwrap().pid;
    assert_eq!(status_field(main, "Uid"), "12345\t12345\t12345\t12345");
    assert_eq!(status_field(main, "CapEff"), "0000000000000000");
    assert_eq!(open_files(main), [raised - 1, raised]);
    assert_eq!(oom_score_adj(main), "-500");
    assert_eq!(nice(main), "-5");
    assert_eq!(task.stdout(), "realtime: prio 2\nready\n");

    // Executor and init have none of it.
    let executor = peer.identity.pid;
    assert!(open_files(executor)[1] < raised);
    assert_eq!(oom_score_adj(executor), "-900");
    let init = launched.init.unwrap().pid;
    for pid in [executor, init] {
        assert_eq!(nice(pid), "0");
    }
    crate::stop::kill_now(peer).await;
}

#[tokio::test]
async fn what_the_executor_has_better_than_usual_is_not_passed_on() {
    if !is_privileged() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "echo ready; exec sleep 1000").await;
    task.says("ready");
    assert_eq!(oom_score_adj(peer.identity.pid), "-900");
    assert_eq!(oom_score_adj(launched.main.unwrap().pid), "0");
    crate::stop::kill_now(peer).await;
}
