//! `run`: a task without an orchestrator.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use crate::host::{Host, eventually, gone, is_root, signal, text};

fn code(host: &Host, arguments: &[&str]) -> Option<i32> {
    host.by_hand(arguments).status.code()
}

/// No supervision directory is left.
fn nothing_kept(host: &Host) {
    host.nothing_left();
    let kept = fs::read_dir(host.state_dir().join("run")).map_or(0, Iterator::count);
    assert_eq!(kept, 0);
}

/// Cgroups that runs have made. Other tests have theirs at the same time.
fn cgroups(of: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![std::path::PathBuf::from(holdfast_cgroup::ROOT)];
    for _ in 0..2 {
        let children = |dir: std::path::PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
        open = open.into_iter().flat_map(children).map(|entry| entry.path()).collect();
        found.extend(open.iter().filter(|dir| dir.to_string_lossy().contains(of)).cloned());
    }
    found
}

#[test]
fn output_is_printed_and_the_exit_code_passed_on() {
    let host = Host::new();
    let ran = host.by_hand(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(ran.status.code(), Some(7));
    assert_eq!(text(&ran.stdout), "out\n");
    assert_eq!(text(&ran.stderr), "err\n");
    assert_eq!(code(&host, &["run", "--", "true"]), Some(0));
    assert_eq!(code(&host, &["run", "--", "sh", "-c", "kill -TERM $$"]), Some(143));
    nothing_kept(&host);
}

#[test]
fn what_cannot_be_run_is_named_as_a_shell_names_it() {
    let host = Host::new();
    let ran = host.by_hand(&["run", "--", "no-such-command"]);
    assert_eq!(ran.status.code(), Some(127));
    assert_eq!(
        text(&ran.stderr),
        "holdfast-executor: no-such-command: command not found\n"
    );
    let ran = host.by_hand(&["run", "--", "/etc/passwd"]);
    assert_eq!(ran.status.code(), Some(126));
    assert_eq!(text(&ran.stderr), "holdfast-executor: /etc/passwd: permission denied\n");
    let ran = host.by_hand(&["run", "-w", "/no/such/folder", "--", "true"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("/no/such/folder"));
    let ran = host.by_hand(&["run", "-u", "no-such-user", "--", "true"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("no-such-user"));
    assert_eq!(code(&host, &["run"]), Some(2));
    assert_eq!(code(&host, &["run", "--env", "=x", "--", "true"]), Some(2));
    nothing_kept(&host);
}

#[test]
fn environment_folder_and_user_are_the_callers_unless_said_otherwise() {
    let host = Host::new();
    let ran = host.by_hand(&[
        "run",
        "-e",
        "A=1",
        "-e",
        "B=two words",
        "--",
        "sh",
        "-c",
        "echo $A-$B; pwd; echo $PATH",
    ]);
    let path = std::env::var("PATH").unwrap();
    let here = host.path().canonicalize().unwrap();
    assert_eq!(text(&ran.stdout), format!("1-two words\n{}\n{path}\n", here.display()));
    let ran = host.by_hand(&["run", "-w", "/usr", "--", "pwd"]);
    assert_eq!(text(&ran.stdout), "/usr\n");
    if is_root() {
        let ran = host.by_hand(&[
            "run",
            "-w",
            "/",
            "-u",
            "12345",
            "--",
            "sh",
            "-c",
            "id -u; id -g; id -G; echo $HOME",
        ]);
        assert_eq!(text(&ran.stdout), "12345\n12345\n12345\n/\n", "{}", text(&ran.stderr));
    }
    nothing_kept(&host);
}

#[test]
fn all_of_a_large_output_arrives() {
    let host = Host::new();
    let ran = host.by_hand(&["run", "--", "seq", "1", "300000"]);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&ran.stdout) == expected);
    nothing_kept(&host);
}

fn started(host: &Host, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = host
        .command(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, stdout)
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn a_signal_stops_the_task_with_grace() {
    let host = Host::new();
    for (number, name) in [(libc::SIGINT, "INT"), (libc::SIGTERM, "TERM")] {
        let script = format!("trap 'echo asked; exit 3' {name}; echo ready; while :; do sleep 0.05; done");
        let (mut child, mut stdout) = started(&host, &["run", "-g", "20s", "--", "sh", "-c", &script]);
        signal(pid_of(&child), number);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "asked\n");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    nothing_kept(&host);
}

#[test]
fn a_task_that_ignores_it_is_killed_after_the_grace_or_by_the_second_signal() {
    let host = Host::new();
    let script = "trap 'echo asked' INT TERM; echo ready; while :; do sleep 0.05; done";
    let (mut child, _stdout) = started(&host, &["run", "-g", "300ms", "--", "sh", "-c", script]);
    signal(pid_of(&child), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    let (mut child, mut stdout) = started(&host, &["run", "-g", "1h", "--", "sh", "-c", script]);
    signal(pid_of(&child), libc::SIGINT);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "asked\n");
    signal(pid_of(&child), libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    nothing_kept(&host);
}

#[test]
fn a_reader_that_leaves_ends_the_task_as_in_any_pipeline() {
    let host = Host::new();
    let (mut child, stdout) = started(&host, &["run", "--", "sh", "-c", "echo ready; exec yes"]);
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGPIPE));
    nothing_kept(&host);
}

#[test]
fn output_can_go_to_files_and_the_folder_can_be_kept() {
    let host = Host::new();
    let logs = host.path().join("logs");
    let logs = logs.to_str().unwrap();
    let ran = host.by_hand(&[
        "run",
        "--keep",
        "--log-dir",
        logs,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 4",
    ]);
    assert_eq!(ran.status.code(), Some(4));
    assert_eq!(text(&ran.stdout), "");
    assert_eq!(fs::read_to_string(format!("{logs}/sh.stdout.0")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(format!("{logs}/sh.stderr.0")).unwrap(), "err\n");
    assert_eq!(text(&host.by_hand(&["logs", "sh"]).stdout), "out\n");
    assert_eq!(text(&host.by_hand(&["logs", "--stderr", "sh"]).stdout), "err\n");
    let listed = text(&host.by_hand(&["ls"]).stdout);
    assert!(listed.contains("ended") && listed.trim_end().ends_with('4'), "{listed}");
}

#[test]
fn a_killed_run_leaves_a_task_that_can_be_found_and_stopped() {
    let host = Host::new();
    let (mut child, stdout) = started(&host, &["run", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let listed = text(&host.by_hand(&["ls"]).stdout);
    assert!(listed.contains("running"), "{listed}");
    let shown = text(&host.by_hand(&["ls", "--json"]).stdout);
    let tasks: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let alloc = tasks[0]["alloc_id"].as_str().unwrap().to_owned();
    if is_root() && holdfast_cgroup::version().is_some() {
        assert!(!cgroups(&alloc).is_empty(), "the task has cgroups");
    }
    signal(pid_of(&child), libc::SIGKILL);
    child.wait().unwrap();
    drop(stdout);
    let listed = text(&host.by_hand(&["ls"]).stdout);
    assert!(listed.contains("orphaned"), "{listed}");
    let main: i32 = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(4)
        .unwrap()
        .parse()
        .unwrap();
    let stopped = host.by_hand(&["stop", "sh"]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    assert_eq!(text(&stopped.stdout), "ended: killed by SIGTERM\n");
    gone(main);
    eventually("the end of the adopting executor", || {
        let kept = fs::read_dir(host.state_dir().join("run")).map_or(0, Iterator::count);
        (kept == 0).then_some(()).ok_or(format!("{kept} folders are left"))
    });
    assert_eq!(cgroups(&alloc), Vec::<std::path::PathBuf>::new());
    nothing_kept(&host);
}

#[test]
fn commands_find_a_task_that_runs_in_the_foreground() {
    let host = Host::new();
    let (mut child, stdout) = started(&host, &["run", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let ran = host.by_hand(&["exec", "sh", "--", "sh", "-c", "echo inside; exit 6"]);
    assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(6), "inside\n"));
    let shown = text(&host.by_hand(&["ls", "--json"]).stdout);
    let tasks: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let alloc = tasks[0]["alloc_id"].as_str().unwrap().to_owned();
    let stopped = host.by_hand(&["stop", "sh"]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    assert_eq!(child.wait().unwrap().code(), Some(143));
    drop(stdout);
    assert_eq!(cgroups(&alloc), Vec::<std::path::PathBuf>::new());
    nothing_kept(&host);
}
