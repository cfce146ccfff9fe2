//! A launcher's settings reach neither the main process nor its sessions (contract, pains 25 and 26).

use std::fs;
use std::process::{Command, Stdio};

use holdfast_executor::client::{self, Peer};
use holdfast_wire::executor_v1::{CommitRequest, ExecRequest, Rlimit, TaskSpec};

use crate::host::{Host, Task, binary, eventually, launch, status_field, text};
use crate::stop::kill_now;

/// RLIMIT_NOFILE (getrlimit(2)); its type is not the same in every C library.
const NOFILE: u32 = 7;

/// An executor that was started by somebody who is nice, idle, restricted, likely to be killed, and deaf.
async fn hostile(task: &Task) -> Peer {
    let ready = task.logs.join("ready");
    let script = format!(
        "umask 077; ulimit -S -n 128; ulimit -S -c 0; trap '' HUP INT USR1 PIPE; echo 500 > /proc/self/oom_score_adj; \
         exec 3> {}; exec {} {} supervise {} 3",
        ready.display(),
        tools(&[("ionice", "-c 3"), ("taskset", "1"), ("chrt", "-b 0")]),
        binary(),
        task.folder()
    );
    let errors = fs::File::create(task.logs.join("executor.err")).unwrap();
    // A thread that ends with its nice value.
    let nice = std::thread::spawn(move || {
        holdfast_sys::process::set_nice(5).unwrap();
        Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap()
    });
    let mut child = nice.join().unwrap();
    eventually("the executor", || match fs::read(&ready) {
        Ok(content) if content.starts_with(b"R") => Ok(()),
        _ => Err(text(&fs::read(task.logs.join("executor.err")).unwrap())),
    });
    // It is reaped when it ends, lest it look alive.
    std::thread::spawn(move || child.wait());
    client::connect(&task.dir).await.unwrap()
}

/// Those of the tools that there are; the smallest systems have none.
fn tools(tools: &[(&str, &str)]) -> String {
    let is_there = |(name, _): &&(&str, &str)| has(name);
    let found = tools
        .iter()
        .filter(is_there)
        .map(|(name, given)| format!("{name} {given}"));
    found.collect::<Vec<_>>().join(" ")
}

fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

fn stat(pid: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_ascii_whitespace().map(str::to_owned).collect()
}

fn score(pid: &str) -> i32 {
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    score.trim().parse().unwrap()
}

fn open_files(pid: i32) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_ascii_whitespace()
        .skip(3)
        .take(2)
        .map(str::to_owned)
        .collect()
}

fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let own = i32::try_from(std::process::id()).unwrap();
    let capabilities = u64::from_str_radix(&status_field(own, "CapEff"), 16).unwrap();
    capabilities & (1 << CAP_SYS_RESOURCE) != 0
}

#[tokio::test]
async fn nothing_of_a_hostile_launcher_reaches_main_process_or_sessions() {
    let mut host = Host::new();
    let task = host.task("main");
    let mut peer = hostile(&task).await;
    // The launcher was as bad as it meant to be, or this proves nothing.
    let executor = peer.identity.pid;
    assert_eq!(stat(executor)[19 - 3], "5");
    if has("chrt") {
        assert_eq!(stat(executor)[41 - 3], "3", "SCHED_BATCH");
    }
    assert_eq!(open_files(executor)[0], "128");
    let spec = TaskSpec {
        rlimits: vec![Rlimit {
            resource: NOFILE,
            soft: 200,
            hard: 220,
        }],
        ..host.scoped(task.shell("umask; echo ready; exec sleep 1000"))
    };
    let launched = launch(&mut peer, spec).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    peer.executor.commit(CommitRequest {}).await.unwrap();
    task.says("ready");
    let main = launched.main.unwrap().pid;
    assert_eq!(score(&main.to_string()), 0);
    assert_eq!(stat(main)[19 - 3], "0", "nice");
    assert_eq!(stat(main)[41 - 3], "0", "SCHED_OTHER");
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(
        status_field(main, "Cpus_allowed_list"),
        status_field(own, "Cpus_allowed_list")
    );
    assert_eq!(status_field(main, "Umask"), "0022");
    for field in ["SigBlk", "SigIgn"] {
        assert_eq!(u64::from_str_radix(&status_field(main, field), 16), Ok(0), "{field}");
    }
    assert_eq!(open_files(main), ["200", "220"]);
    if has("ionice") {
        let priority = |pid: i32| Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap();
        assert!(text(&priority(executor).stdout).contains("idle"));
        assert!(!text(&priority(main).stdout).contains("idle"));
    }
    // A session is as its task.
    let script = "cat /proc/self/oom_score_adj; umask; ulimit -n; cut -d ' ' -f 19 /proc/self/stat";
    let request = ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout_ms: 0,
    };
    let ran = peer.executor.exec(request).await.unwrap().into_inner();
    assert_eq!(
        text(&ran.output).split_whitespace().collect::<Vec<_>>(),
        ["0", "0022", "200", "0"]
    );
    // Those who must outlive the task are no likelier to be killed than others, and less likely where that is allowed.
    let expected = if may_raise_limits() { -900 } else { 0 };
    for pid in [executor, launched.init.unwrap().pid] {
        assert_eq!(score(&pid.to_string()), expected);
    }
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_score_that_the_job_names_holds_for_main_process_and_sessions_alone() {
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        oom_score_adj: 300,
        nice: 7,
        umask: Some(0o27),
        ..task.shell("echo ready; sleep 1000")
    };
    let (mut peer, launched) = host.running_spec(&task, spec).await;
    task.says("ready");
    let main = launched.main.unwrap().pid;
    assert_eq!(score(&main.to_string()), 300);
    assert_eq!(stat(main)[19 - 3], "7");
    assert_eq!(status_field(main, "Umask"), "0027");
    let request = ExecRequest {
        command: ["/bin/sh", "-c", "cat /proc/self/oom_score_adj; umask"]
            .map(str::to_owned)
            .to_vec(),
        timeout_ms: 0,
    };
    let ran = peer.executor.exec(request).await.unwrap().into_inner();
    assert_eq!(text(&ran.output), "300\n0027\n");
    for pid in [peer.identity.pid, launched.init.unwrap().pid] {
        assert!(score(&pid.to_string()) <= 0);
    }
    kill_now(peer).await;
}
