//! `wait`, `signal`, `freeze`, `thaw`, `adopt`, `stats`, `top`, `ps`, and `logs` in all its ways: with executors alive, dead and done,
//! with nothing there, and with output that nobody reads.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Output, Stdio};

use holdfast_executor::client::Peer;
use holdfast_record::Status;
use holdfast_sys::network::{LOOPBACK, UP, interface_flags, set_interface_flags};
use holdfast_wire::executor_v1::{CommitRequest, LaunchResponse, TaskSpec};
use serde_json::Value;

use crate::host::{Host, Task, ended, eventually, finished, gone, kill, left, lives, signal, text, wait};
use crate::stop::kill_now;

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// One line on standard error, status 1, nothing on standard output.
fn refusal(host: &Host, arguments: &[&str]) -> String {
    let output = host.by_hand(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    said
}

fn json(host: &Host, arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(&host.by_hand(arguments))).unwrap()
}

fn has_cgroups() -> bool {
    crate::host::is_root() && holdfast_cgroup::version().is_some()
}

/// Launches and answers for it.
async fn launched(host: &Host, task: &Task, spec: TaskSpec) -> (Peer, LaunchResponse) {
    let (mut peer, launched) = host.launch(task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    (peer, launched)
}

/// Started, with its output in pipes.
fn started(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.command(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Blocked in the runtime, with its handlers in place.
fn waits(child: &Child) {
    eventually("the command waits", || {
        let wchan = fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
        // epoll_wait and epoll_pwait.
        ["232 ", "281 "]
            .iter()
            .any(|call| wchan.starts_with(call))
            .then_some(())
            .ok_or(wchan)
    });
}

const UNTIL_GO: &str = "while [ ! -e go ]; do sleep 0.02; done";

fn go(task: &Task) {
    fs::write(task.logs.join("go"), "").unwrap();
}

/// The commands that need a task that runs.
const OF_LIVING: [&[&str]; 6] = [
    &["signal", "TERM", "web"],
    &["freeze", "web"],
    &["thaw", "web"],
    &["adopt", "web"],
    &["stats", "web"],
    &["ps", "web"],
];

#[tokio::test]
async fn wait_ends_with_the_task_and_its_status() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host.running(&task, &format!("{UNTIL_GO}; exit 7")).await;
    let waiting = started(&host, &["wait", "web"]);
    waits(&waiting);
    go(&task);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(7), "ended: exit code 7\n")
    );
    left(peer);
    assert_eq!(host.by_hand(&["wait", "web"]).status.code(), Some(7), "from the result");
    host.nothing_left();
}

#[tokio::test]
async fn wait_outlives_the_executor_and_learns_the_end_that_the_init_recorded() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host.running(&task, &format!("{UNTIL_GO}; kill -TERM $$")).await;
    let early = started(&host, &["wait", "web"]);
    waits(&early);
    kill(peer);
    let late = started(&host, &["wait", "web"]);
    waits(&late);
    go(&task);
    for waiting in [early, late] {
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(143), "ended: killed by SIGTERM\n"),
            "{}",
            text(&output.stderr)
        );
    }
    gone(launched.main.unwrap().pid);
    assert!(task.dir.result().unwrap().is_none(), "waiting changes nothing");
    ok(&host.by_hand(&["stop", "web"]));
    host.nothing_left();
}

#[tokio::test]
async fn wait_waits_for_all_and_tells_the_first_that_failed() {
    let host = Host::new();
    let tasks = ["one", "two", "three"].map(|name| host.task(name));
    let mut peers = Vec::new();
    for (task, code) in tasks.iter().zip([0, 5, 3]) {
        peers.push(host.running(task, &format!("{UNTIL_GO}; exit {code}")).await.0);
    }
    let mut waiting = started(&host, &["wait", "one", "two", "three"]);
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    // In the order in which they end.
    for (task, said) in tasks.iter().zip([
        "one: ended: exit code 0",
        "two: ended: exit code 5",
        "three: ended: exit code 3",
    ]) {
        go(task);
        assert_eq!(lines.next().unwrap().unwrap(), said);
    }
    assert_eq!(waiting.wait().unwrap().code(), Some(5));
    assert_eq!(host.by_hand(&["wait", "one"]).status.code(), Some(0));
    peers.into_iter().for_each(left);
    assert!(refusal(&host, &["wait", "one", "nobody"]).contains("\"nobody\""));
    assert_eq!(host.by_hand(&["wait"]).status.code(), Some(2));
    host.nothing_left();
}

#[tokio::test]
async fn wait_learns_the_end_of_a_run_whose_folder_goes_with_it() {
    let host = Host::new();
    let mut run = started(
        &host,
        &["run", "--", "sh", "-c", &format!("echo ready; {UNTIL_GO}; exit 9")],
    );
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let waiting = started(&host, &["wait", "sh"]);
    waits(&waiting);
    fs::write(host.path().join("go"), "").unwrap();
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(9));
    assert_eq!(run.wait().unwrap().code(), Some(9));
    host.nothing_left();
}

#[tokio::test]
async fn a_signal_reaches_the_main_process_with_and_without_an_executor() {
    let host = Host::new();
    let task = host.task("web");
    let script = "trap 'echo one' USR1; trap 'echo two' USR2; echo ready; while :; do sleep 0.02; done";
    let (peer, _) = host.running(&task, script).await;
    task.says("ready");
    assert_eq!(ok(&host.by_hand(&["signal", "usr1", "web"])), "");
    task.says("one");
    kill(peer);
    ok(&host.by_hand(&["signal", "SIGUSR2", "web", "--target", "main"]));
    assert!(
        host.by_hand(&["ls"]).stdout.windows(8).any(|word| word == b"orphaned"),
        "no executor was needed"
    );
    ok(&host.by_hand(&["adopt", "web"]));
    task.says("two");
    for (arguments, culprit) in [
        (&["signal", "NONSENSE", "web"][..], "NONSENSE"),
        (&["signal", "TERM"], "TASK"),
        (&["signal", "TERM", "web", "--target", "all"], "'all'"),
    ] {
        let output = host.by_hand(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(culprit), "{said}");
    }
    ok(&host.by_hand(&["stop", "--grace", "0", "web"]));
    host.nothing_left();
}

fn is_frozen(host: &Host) -> bool {
    json(host, &["status", "web", "--json"])["frozen"] == true
}

#[tokio::test]
async fn a_task_is_frozen_and_thawed_with_and_without_an_executor() {
    if !has_cgroups() {
        return;
    }
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host.scoped(task.shell("n=0; while :; do n=$((n+1)); echo $n >count; sleep 0.01; done"));
    let (peer, started) = launched(&host, &task, spec).await;
    let count = || fs::read_to_string(task.logs.join("count")).unwrap_or_default();
    let goes_on = || {
        let before = count();
        eventually("the task goes on", || {
            (count() != before).then_some(()).ok_or(before.clone())
        });
    };
    goes_on();
    ok(&host.by_hand(&["freeze", "web"]));
    eventually("frozen", || is_frozen(&host).then_some(()).ok_or("not".to_owned()));
    assert!(ok(&host.by_hand(&["ls"])).contains("frozen"));
    ok(&host.by_hand(&["thaw", "web"]));
    goes_on();
    assert!(!is_frozen(&host));
    kill(peer);
    ok(&host.by_hand(&["freeze", "web"]));
    eventually("frozen", || is_frozen(&host).then_some(()).ok_or("not".to_owned()));
    assert_eq!(
        json(&host, &["status", "web", "--json"])["state"],
        "orphaned",
        "no executor was needed"
    );
    ok(&host.by_hand(&["thaw", "web"]));
    goes_on();
    ok(&host.by_hand(&["stop", "--grace", "0", "web"]));
    gone(started.main.unwrap().pid);
    host.nothing_left();
}

#[tokio::test]
async fn a_cgroup_that_is_not_the_tasks_any_more_is_not_frozen() {
    if !has_cgroups() {
        return;
    }
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, _) = launched(&host, &task, spec).await;
    kill(peer);
    let mut record = task.record();
    let inode = record.plan.placement.scope_inode;
    record.plan.placement.scope_inode = inode.map(|inode| inode + 1);
    task.dir.write_record(&record).unwrap();
    assert!(refusal(&host, &["freeze", "web"]).contains("was made again"));
    assert!(refusal(&host, &["stats", "web"]).contains("no cgroup of its own"));
    record.plan.placement.scope_inode = inode;
    task.dir.write_record(&record).unwrap();
    ok(&host.by_hand(&["stop", "--grace", "0", "web"]));
    host.nothing_left();
}

#[tokio::test]
async fn adopt_starts_an_executor_that_stays_and_refuses_where_none_is_missing() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host
        .launch(&task, task.shell(&format!("echo out; {UNTIL_GO}; exit 4")))
        .await;
    let first = peer.identity.pid;
    assert!(refusal(&host, &["adopt", "web"]).contains(&format!("has an executor: pid {first}")));
    kill(peer);
    let said = ok(&host.by_hand(&["adopt", &task.folder()]));
    let executor: i32 = said.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(said, format!("adopted by a new executor: pid {executor}\n"));
    assert!(lives(executor) && executor != first && lives(launched.main.unwrap().pid));
    let status = json(&host, &["status", "web", "--json"]);
    assert_eq!(
        (&status["state"], &status["executor_pid"], &status["committed"]),
        (&"running".into(), &executor.into(), &true.into()),
        "whoever adopts answers for it"
    );
    go(&task);
    assert_eq!(task.result().status, Status::Exited(4));
    gone(executor);
    assert!(refusal(&host, &["adopt", "web"]).contains("the task has ended: exit code 4"));
    host.nothing_left();
}

#[tokio::test]
async fn a_task_of_another_boot_is_neither_adopted_nor_signalled() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host.running(&task, "exec sleep 1000").await;
    kill(peer);
    let record = task.record();
    let mut other = record.clone();
    other.boot_id = holdfast_record::BootId::parse("00000000-1111-2222-3333-444444444444").unwrap();
    task.dir.write_record(&other).unwrap();
    for arguments in OF_LIVING
        .iter()
        .filter(|arguments| !["stats", "ps"].contains(&arguments[0]))
    {
        assert!(
            refusal(&host, arguments).contains("before the host was booted"),
            "{arguments:?}"
        );
    }
    assert!(refusal(&host, &["stats", "web"]).contains("booted again"));
    assert_eq!(
        host.by_hand(&["wait", "web"]).status.code(),
        Some(1),
        "unknown is no success"
    );
    assert!(lives(launched.main.unwrap().pid));
    task.dir.write_record(&record).unwrap();
    ok(&host.by_hand(&["stop", "web"]));
    host.nothing_left();
}

#[tokio::test]
async fn ended_and_unknown_tasks_are_refused_in_one_line() {
    let host = Host::new();
    for arguments in OF_LIVING {
        assert!(refusal(&host, arguments).contains("no task \"web\""), "{arguments:?}");
    }
    let task = host.task("web");
    for arguments in OF_LIVING {
        let said = refusal(&host, arguments);
        assert!(
            said.contains("never started") || said.contains("not started"),
            "{arguments:?}: {said}"
        );
    }
    assert!(refusal(&host, &["wait", "web"]).contains("never started"));
    let (mut peer, _) = host.running(&task, "exit 3").await;
    wait(&task, &mut peer).await;
    left(peer);
    for arguments in OF_LIVING {
        assert!(
            refusal(&host, arguments).contains("the task has ended: exit code 3"),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn what_a_task_uses_is_measured_without_its_executor() {
    if !has_cgroups() {
        return;
    }
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host
        .scoped(task.shell("sh -c 'n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done'; echo burnt; exec sleep 1000"));
    let (peer, _) = launched(&host, &task, spec).await;
    task.says("burnt");
    kill(peer);
    let measured = json(&host, &["stats", "web", "--json"]);
    assert_eq!(measured["task_id"], task.intent.task_id);
    assert!(
        measured["cpu_total_ns"].as_u64().unwrap() > 1_000_000,
        "dead children included: {measured}"
    );
    assert!(measured["cpu_percent"].is_null(), "one sample has none");
    assert!(measured["memory_bytes"].as_u64().unwrap() > 0);
    let shown = ok(&host.by_hand(&["stats", "web"]));
    assert!(shown.contains("CPU time") && shown.contains("Memory"), "{shown}");
    let lines = ok(&host.by_hand(&["stats", "web", "--interval", "10ms", "-n", "3", "--json"]));
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["cpu_percent"].is_null() && lines[2]["cpu_percent"].is_number());
    let table = ok(&host.by_hand(&["stats", "web", "--interval", "10ms", "-n", "2"]));
    assert_eq!(table.lines().count(), 3, "{table}");
    // It goes on until the task ends.
    let mut endless = started(&host, &["stats", "web", "--interval", "10ms", "--json"]);
    let mut samples = BufReader::new(endless.stdout.take().unwrap()).lines();
    samples.next().unwrap().unwrap();
    ok(&host.by_hand(&["stop", "--grace", "0", "web"]));
    samples.for_each(drop);
    assert_eq!(endless.wait().unwrap().code(), Some(0));
    for arguments in [&["stats", "web", "-n", "1"][..], &["stats", "web", "--interval", "0"]] {
        assert_eq!(host.by_hand(arguments).status.code(), Some(2), "{arguments:?}");
    }
    host.nothing_left();
}

/// A namespace with loopback up, through which some bytes went; it lives as long as the file is open.
fn network_namespace() -> fs::File {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let flags = interface_flags(&socket, LOOPBACK).unwrap();
        set_interface_flags(&socket, LOOPBACK, flags | UP).unwrap();
        let own = ("127.0.0.1", socket.local_addr().unwrap().port());
        socket.send_to(&[0; 1000], own).unwrap();
        socket.recv(&mut [0; 1000]).unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

#[tokio::test]
async fn what_goes_through_a_tasks_own_network_is_told_and_the_hosts_is_not() {
    if !has_cgroups() {
        return;
    }
    let mut host = Host::new();
    let namespace = network_namespace();
    let apart = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    for (name, path) in [("apart", apart.as_str()), ("shared", "/proc/self/ns/net"), ("host", "")] {
        let task = host.task(name);
        let spec = TaskSpec {
            network_namespace: path.to_owned(),
            ..host.scoped(task.shell("exec sleep 1000"))
        };
        let (peer, _) = launched(&host, &task, spec).await;
        kill(peer);
        let measured = json(&host, &["stats", name, "--json"]);
        let shown = ok(&host.by_hand(&["stats", name]));
        if name == "apart" {
            let lo = &measured["network"][0];
            assert_eq!(lo["interface"], "lo", "{measured}");
            for bytes in ["received_bytes", "sent_bytes"] {
                assert!((1000..2000).contains(&lo[bytes].as_u64().unwrap()), "{lo}");
            }
            assert!(shown.contains("Network") && shown.contains("lo: "), "{shown}");
        } else {
            assert!(measured["network"].is_null(), "{measured}");
            assert!(!shown.contains("Network"), "{shown}");
        }
        ok(&host.by_hand(&["stop", "--grace", "0", name]));
    }
    host.nothing_left();
}

#[tokio::test]
async fn top_prints_tables_where_there_is_no_terminal_the_busiest_first() {
    let mut host = Host::new();
    assert_eq!(
        ok(&host.by_hand(&["top", "-n", "1", "-d", "10ms"])).lines().count(),
        1,
        "the head alone"
    );
    let (idle, busy) = (host.task("idle"), host.task("busy"));
    let spec = host.scoped(idle.shell("exec sleep 1000"));
    let (first, _) = launched(&host, &idle, spec).await;
    let spec = host.scoped(busy.shell("echo ready; while :; do :; done"));
    let (second, _) = launched(&host, &busy, spec).await;
    busy.says("ready");
    let executor = second.identity.pid;
    kill(first);
    // Nobody is asked.
    signal(executor, libc::SIGSTOP);
    let tables = ok(&host.by_hand(&["top", "-b", "-n", "2", "-d", "300ms"]));
    signal(executor, libc::SIGCONT);
    let tables: Vec<Vec<Vec<&str>>> = tables
        .split("\n\n")
        .map(|table| table.lines().map(|line| line.split_whitespace().collect()).collect())
        .collect();
    assert_eq!(tables.len(), 2);
    for table in &tables {
        assert_eq!(table.len(), 3, "{table:?}");
        assert_eq!(
            table[0],
            ["ID", "TASK", "DRIVER", "STATE", "%CPU", "MEM", "PIDS", "TIME"]
        );
        let row = |name: &str| table.iter().find(|row| row[1] == name).unwrap();
        assert_eq!(row("idle")[3], "orphaned");
        assert_eq!(row("busy")[3], "running");
        if has_cgroups() {
            assert_eq!((table[1][1], table[2][1]), ("busy", "idle"));
            assert!(table[1][4].parse::<f64>().unwrap() > 0.0, "{table:?}");
        }
    }
    for name in ["idle", "busy"] {
        ok(&host.by_hand(&["stop", "--grace", "0", name]));
    }
    ended(&second.pidfd);
    host.nothing_left();
}

#[tokio::test]
async fn ps_lists_main_process_children_and_sessions() {
    if !has_cgroups() {
        return;
    }
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host.scoped(task.shell("sleep 1001 & echo ready; exec sleep 1000"));
    let (peer, started_task) = launched(&host, &task, spec).await;
    task.says("ready");
    let mut session = started(
        &host,
        &["exec", "web", "--", "sh", "-c", "echo inside; exec sleep 1002"],
    );
    let mut line = String::new();
    BufReader::new(session.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let main = started_task.main.unwrap().pid.to_string();
    let rows = eventually("the session's command", || {
        let listed = ok(&host.by_hand(&["ps", "web"]));
        let rows: Vec<Vec<String>> = listed
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        let is_there = |seconds: &str| rows.iter().any(|row| row.last().unwrap() == seconds);
        ["1000", "1001", "1002"]
            .into_iter()
            .all(is_there)
            .then_some(rows)
            .ok_or(listed)
    });
    assert_eq!(rows.len(), 3, "{rows:?}");
    let role = |seconds: &str| &rows.iter().find(|row| row.last().unwrap() == seconds).unwrap()[4];
    assert_eq!((role("1000").as_str(), role("1001").as_str()), ("main", "-"));
    assert!(role("1002").starts_with("exec-"), "{rows:?}");
    assert!(rows.iter().any(|row| row[0] == main));
    signal(i32::try_from(session.id()).unwrap(), libc::SIGTERM);
    session.wait().unwrap();
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn the_last_lines_and_both_streams_are_printed_over_rotated_files_l5() {
    let host = Host::new();
    let task = host.task("web");
    let mut spec = task.shell(&format!(
        "for n in $(seq 1 100); do echo line $n; done; echo bad >&2; {UNTIL_GO}; echo more; echo worse >&2"
    ));
    spec.stdout = Some(task.rotated("stdout", 1000, 50));
    let (peer, _) = launched(&host, &task, spec).await;
    task.says("line 100\n");
    eventually("standard error", || {
        let stderr = text(&task.output("stderr"));
        (stderr == "bad\n").then_some(()).ok_or(stderr)
    });
    let last: String = (91..=100).map(|number| format!("line {number}\n")).collect();
    assert_eq!(ok(&host.by_hand(&["logs", "--tail", "10", "web"])), last);
    assert_eq!(ok(&host.by_hand(&["logs", "--tail", "0", "web"])), "");
    assert_eq!(
        ok(&host.by_hand(&["logs", "--tail", "500", "web"])).lines().count(),
        100
    );
    let both = host.by_hand(&["logs", "--all", "-n", "1", "web"]);
    assert_eq!(
        (text(&both.stdout).as_str(), text(&both.stderr).as_str()),
        ("line 100\n", "bad\n")
    );
    assert_eq!(
        host.by_hand(&["logs", "--all", "--stderr", "web"]).status.code(),
        Some(2)
    );
    // Followed while the executor dies, another adopts the task, and the task ends.
    kill(peer);
    let mut following = started(&host, &["logs", "-f", "--all", "-n", "2", "web"]);
    let mut stdout = BufReader::new(following.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    ok(&host.by_hand(&["adopt", "web"]));
    go(&task);
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "line 99\nline 100\nmore\n");
    let mut errors = String::new();
    following.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "bad\nworse\n");
    assert_eq!(following.wait().unwrap().code(), Some(0));
    task.result();
    host.nothing_left();
}

#[tokio::test]
async fn json_of_ls_and_status_agree_and_hold_what_is_promised() {
    let host = Host::new();
    let task = host.task("web");
    let (mut peer, launched) = host.running(&task, &format!("{UNTIL_GO}; exit 6")).await;
    let both = |host: &Host| {
        let listed = json(host, &["ls", "--json"])[0].clone();
        let status = json(host, &["status", "web", "--json"]);
        for (name, value) in listed.as_object().unwrap() {
            assert_eq!(status[name], *value, "{name}");
        }
        status
    };
    let status = both(&host);
    let record = task.record();
    let expected = serde_json::json!({
        "task_id": task.intent.task_id, "alloc_id": task.intent.alloc_id, "task": "web", "driver": "raw_exec",
        "state": "running", "frozen": false, "pid": launched.main.unwrap().pid, "started_at_ms": record.started_at_ms,
        "finished_at_ms": null, "exit_code": null, "signal": null, "oom_killed": false, "timed_out": false, "reason": null,
        "dir": task.folder(), "executor_pid": peer.identity.pid, "init_pid": record.init.pid, "committed": true,
        "command": "/bin/sh", "work_dir": task.logs, "user": null, "uid": null, "gid": null,
        "stdout": format!("{}/web.stdout.<n>", task.logs.display()),
        "stderr": format!("{}/web.stderr.<n>", task.logs.display()),
        "cgroup": null, "notices": [],
    });
    assert_eq!(status, expected);
    go(&task);
    wait(&task, &mut peer).await;
    left(peer);
    let status = both(&host);
    assert_eq!((&status["state"], &status["exit_code"]), (&"ended".into(), &6.into()));
    assert_eq!((&status["pid"], &status["executor_pid"]), (&Value::Null, &Value::Null));
    assert!(status["finished_at_ms"].as_i64().unwrap() >= record.started_at_ms);
}

#[tokio::test]
async fn no_command_minds_a_reader_that_left() {
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host.scoped(task.shell("echo out; exec sleep 1000"));
    let (peer, _) = launched(&host, &task, spec).await;
    task.says("out");
    let mut commands = vec![
        &["ls"][..],
        &["ls", "--json"],
        &["status", "web", "--json"],
        &["top", "-d", "10ms"],
        &["ps", "web"],
        &["logs", "-f", "web"],
        &["--help"],
        &["run", "--help"],
    ];
    if has_cgroups() {
        commands.extend([&["stats", "web"][..], &["stats", "web", "--interval", "10ms"]]);
    }
    for arguments in commands {
        let mut child = started(&host, arguments);
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), said.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn handles_of_nomads_own_executors_are_refused_in_one_line() {
    let host = Host::new();
    let own = r#"{"Protocol":"grpc","Network":"unix","Addr":"/tmp/plugin1","Pid":7}"#;
    let before = r#"{"Pid":7,"AddrNet":"unix","AddrName":"/tmp/plugin1"}"#;
    let cases = [
        (before.as_bytes().to_vec(), "before Nomad 0.9"),
        (own.as_bytes().to_vec(), "Nomad's own executor"),
        (
            format!(r#"{{"ReattachConfig":{own},"Pid":8}}"#).into_bytes(),
            "Nomad's own executor",
        ),
        (
            b"\x82\xaeReattachConfig\x84\xa4Addr\xa4/tmp\xa3Pid\x07".to_vec(),
            "Nomad's own executor",
        ),
    ];
    for (content, expected) in cases {
        fs::write(host.path().join("handle"), &content).unwrap();
        for command in ["status", "stop", "logs", "wait", "adopt", "freeze", "stats", "ps"] {
            let said = refusal(&host, &[command, "--handle", "handle"]);
            assert!(said.contains(expected) && said.contains("handle handle"), "{said}");
        }
    }
}

#[tokio::test]
async fn top_takes_the_terminal_and_gives_it_back() {
    use std::io::Write;

    use rustix::termios::{LocalModes, tcgetattr};
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host.running(&task, "exec sleep 1000").await;
    let (master, slave) = holdfast_sys::terminal::open().unwrap();
    holdfast_sys::terminal::resize(&master, 40, 100).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let mut terminal = fs::File::from(master.try_clone().unwrap());
    for leave in [Some(b"q"), Some(b"\x03"), None] {
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let mut command = host.command(&["top", "-d", "20ms"]);
        let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut said = String::new();
        // Shown more than once, so that it is refreshed.
        while said.matches("web").count() < 3 {
            let mut chunk = [0; 1024];
            let mut polled = [holdfast_sys::file::PollEntry::reading(Some(terminal.as_fd()))];
            holdfast_sys::file::poll(&mut polled, Some(crate::host::PATIENCE)).unwrap();
            let count = terminal.read(&mut chunk).unwrap();
            assert!(count > 0);
            said.push_str(&text(&chunk[..count]));
        }
        assert!(said.contains("\x1b[?1049h"), "{said:?}");
        assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO));
        match leave {
            Some(key) => terminal.write_all(key).unwrap(),
            None => signal(i32::try_from(child.id()).unwrap(), libc::SIGTERM),
        }
        assert_eq!(
            child.wait().unwrap().code(),
            Some(if leave.is_some() { 0 } else { 143 })
        );
        let after = tcgetattr(&slave).unwrap();
        assert_eq!(
            (after.local_modes, after.input_modes, after.output_modes),
            (before.local_modes, before.input_modes, before.output_modes)
        );
        // What it said last is read, so that the next one does not find it.
        let mut rest = Vec::new();
        loop {
            let mut polled = [holdfast_sys::file::PollEntry::reading(Some(terminal.as_fd()))];
            holdfast_sys::file::poll(&mut polled, Some(std::time::Duration::ZERO)).unwrap();
            if !polled[0].is_ready {
                break;
            }
            let mut chunk = [0; 1024];
            let count = terminal.read(&mut chunk).unwrap();
            rest.extend_from_slice(&chunk[..count]);
        }
        assert!(
            text(&rest).contains("\x1b[?1049l"),
            "the shell's screen is back: {rest:?}"
        );
    }
    kill_now(peer).await;
    host.nothing_left();
    drop(finished(&mut host.command(&["ls"])));
}
