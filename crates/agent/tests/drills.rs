//! Every drill, with the real driver and the real executor.

mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use programs::driver;

fn drill(arguments: &[&str], state_dir: &Path) -> Output {
    Command::new(driver())
        .args(["agent", "drill"])
        .args(arguments)
        .arg("--state-dir")
        .arg(state_dir)
        .stdin(Stdio::null())
        .output()
        .expect("the driver starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a drill that must keep every promise, and leave nothing behind.
fn passes(arguments: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = drill(&[arguments, &["--json"]].concat(), dir.path());
    let (timeline, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{timeline}{errors}");
    let events: Vec<serde_json::Value> = timeline
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let verdict = events.last().expect("a verdict");
    assert_eq!(verdict["verdict"], "passed", "{timeline}");
    let kept = events.iter().filter(|event| event["event"] == "ok").count();
    assert!(kept > 0, "{timeline}");
    assert!(verdict["kept"].as_u64() >= Some(kept as u64), "{timeline}");
    let left = std::fs::read_dir(dir.path()).expect("a directory").count();
    assert_eq!(left, 0, "{timeline}");
}

fn is_root() -> bool {
    holdfast_sys::process::effective_uid() == 0
}

#[test]
fn tasks_outlive_their_driver_r5() {
    passes(&["kill-driver"]);
}

#[test]
fn tasks_outlive_their_executors() {
    passes(&["kill-executor"]);
}

#[test]
fn tasks_outlive_driver_and_executors_at_once() {
    passes(&["kill-both"]);
}

#[test]
fn tasks_outlive_their_agent_and_all_that_stands_between() {
    passes(&["kill-agent"]);
}

#[test]
fn after_a_reboot_what_is_on_disk_is_told_and_no_process_is_touched() {
    passes(&["reboot"]);
}

#[test]
fn strangers_with_recorded_numbers_are_never_touched() {
    passes(&["pid-reuse"]);
}

#[test]
fn full_disks_lose_no_line_and_no_exit_code() {
    if is_root() {
        passes(&["disk-full"]);
    }
}

#[test]
fn a_hanging_log_disk_delays_neither_stop_nor_end() {
    if is_root() {
        passes(&["slow-disk"]);
    }
}

#[test]
fn a_socket_that_is_removed_loses_no_task() {
    passes(&["socket-gone"]);
}

#[test]
fn binaries_are_replaced_under_running_tasks() {
    passes(&["replace-binaries"]);
}

#[test]
fn isolated_tasks_outlive_driver_and_executors_at_once() {
    if is_root() {
        passes(&["kill-both", "--profile", "holdfast"]);
    }
}

/// With `--long` the one that it must show.
#[test]
fn a_storm_loses_nothing() {
    let (tasks, lasts) = match std::env::var_os("HOLDFAST_LONG") {
        Some(_) => ("500", "10m"),
        None => ("30", "20s"),
    };
    passes(&["storm", "--tasks", tasks, "--for", lasts]);
}

/// A drill that is told to end ends all that it has started.
#[test]
fn a_drill_that_is_interrupted_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::{BufRead, BufReader};
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(driver())
            .args(["agent", "drill", "storm", "--tasks", "5", "--for", "1h", "--state-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // By then there are tasks.
        lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("tasks live"))
            .expect("progress");
        kill(Pid::from_raw(child.id().try_into().expect("a number")), signal).expect("the drill");
        let last: Vec<String> = lines.map_while(Result::ok).collect();
        let status = child.wait().expect("an end");
        assert_eq!(status.code(), Some(128 + signal as i32), "{last:#?}");
        assert!(last.iter().any(|line| line.contains("storm: interrupted")), "{last:#?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
        assert_eq!(processes_of(dir.path()), [""; 0]);
    }
}

/// The processes that have the folder in their arguments or in their environment.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.as_os_str().as_encoded_bytes();
    let mentions =
        |path: PathBuf| std::fs::read(path).is_ok_and(|text| text.windows(dir.len()).any(|part| part == dir));
    let processes = std::fs::read_dir("/proc").expect("a list of processes").flatten();
    processes
        .map(|entry| entry.path())
        .filter(|process| mentions(process.join("cmdline")) || mentions(process.join("environ")))
        .map(|process| process.display().to_string())
        .collect()
}

#[test]
fn the_list_names_every_drill_and_a_name_that_is_none_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = drill(&["--list"], dir.path());
    assert_eq!(list.status.code(), Some(0));
    let names: Vec<String> = text(&list.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert_eq!(names.len(), 11, "{names:?}");
    assert!(names.iter().any(|name| name == "storm"), "{names:?}");
    for arguments in [&["no-such-drill"][..], &[], &["storm", "--for", "soon"]] {
        let refused = drill(arguments, dir.path());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(!refused.stderr.is_empty());
    }
}

#[test]
fn a_drill_that_is_not_possible_is_neither_passed_nor_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a writable directory");
    let nowhere = drill(&["kill-driver", "--json"], &file);
    let others = Command::new(driver())
        .args(["agent", "drill", "replace-binaries", "--json", "--state-dir"])
        .arg(dir.path())
        .env("HOLDFAST_EXECUTOR", "/no/such/executor")
        .output()
        .expect("the driver starts");
    for (output, reason) in [
        (nowhere, "cannot create"),
        (others, "HOLDFAST_EXECUTOR names the executor"),
    ] {
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let verdict: serde_json::Value = serde_json::from_str(said.trim()).expect("one verdict");
        assert_eq!(verdict["verdict"], "not_possible");
        assert!(
            verdict["reason"].as_str().is_some_and(|text| text.contains(reason)),
            "{said}"
        );
    }
}

/// What a drill does not know of it leaves alone, and an end that is not as it should be is a failure of the whole.
#[test]
fn a_driver_that_does_not_start_is_a_violation() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(driver())
        .args(["agent", "drill", "kill-driver", "--json", "--state-dir"])
        .arg(dir.path())
        .env("HOLDFAST_EXECUTOR", "/no/such/executor")
        .output()
        .expect("the driver starts");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no executor at /no/such/executor"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}
