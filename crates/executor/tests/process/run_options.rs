//! `run` with options, `run --detach`, `update` and `rm`.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use holdfast_record::{ExitType, IoPriority, KillStep, KillTarget, Overflow, Rlimit, Stragglers};
use holdfast_record::{OutputRecord, Record, SupervisionDir};
use serde_json::Value;

use crate::host::{Host, eventually, finished, gone, is_root, lives, signal, text};

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

fn status(host: &Host, task: &str) -> Value {
    serde_json::from_str(&ok(&host.by_hand(&["status", task, "--json"]))).unwrap()
}

fn record(host: &Host, task: &str) -> Record {
    let dir = PathBuf::from(status(host, task)["dir"].as_str().unwrap());
    SupervisionDir::open(&dir).unwrap().record().unwrap().unwrap()
}

fn pid(status: &Value, name: &str) -> i32 {
    i32::try_from(status[name].as_i64().unwrap()).unwrap()
}

/// Folders of tasks that `run --detach` has started.
fn kept(host: &Host) -> usize {
    fs::read_dir(host.state_dir().join("detached")).map_or(0, Iterator::count)
}

/// Cgroups with this in their names, down to the task's own.
fn cgroups(of: &str) -> Vec<PathBuf> {
    let below = |dir: PathBuf| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
    };
    let mut open = vec![PathBuf::from(holdfast_cgroup::ROOT)];
    let mut found = Vec::new();
    for _ in 0..2 {
        open = open.into_iter().flat_map(below).collect();
        found.extend(open.iter().filter(|dir| dir.to_string_lossy().contains(of)).cloned());
    }
    found
}

/// Stops and removes a detached task; nothing of it is left.
fn removed(host: &Host, task: &str) {
    let alloc = status(host, task)["alloc_id"].as_str().unwrap().to_owned();
    ok(&host.by_hand(&["stop", "--grace", "0", task]));
    ok(&host.by_hand(&["rm", task]));
    assert_eq!(kept(host), 0);
    assert_eq!(cgroups(&alloc), Vec::<PathBuf>::new());
    host.nothing_left();
}

#[test]
fn what_is_not_said_is_the_callers_and_what_is_said_holds() {
    let host = Host::new();
    let show = "umask; nice; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj";
    let run = |flags: &str| {
        let script = format!(
            "umask 027; ulimit -Sn 200; ulimit -Hn 300; echo 5 >/proc/self/oom_score_adj; \
             exec nice -n 3 {} run {flags} -- sh -c '{show}'",
            crate::host::binary()
        );
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &script])
            .env("HOLDFAST_STATE_DIR", host.state_dir())
            .stdin(Stdio::null());
        ok(&finished(&mut command))
    };
    assert_eq!(run(""), "0027\n3\n200\n300\n5\n");
    let flags = "--umask 077 --nice 7 --ulimit nofile=100:150 --oom-score-adj 9 --ionice idle";
    assert_eq!(run(flags), "0077\n7\n100\n150\n9\n");
    host.nothing_left();
}

#[test]
fn variables_come_from_files_and_flags_go_over_them() {
    let host = Host::new();
    fs::write(host.path().join("vars"), "# of the job\n\nA=file\nB=two words\n").unwrap();
    let show = ["--", "sh", "-c", "echo $A-$B"];
    let ran = host.by_hand(&[&["run", "--env-file", "vars", "-e", "A=flag"][..], &show].concat());
    assert_eq!(ok(&ran), "flag-two words\n");
    fs::write(host.path().join("vars"), "A=1\nnonsense\n").unwrap();
    let ran = host.by_hand(&[&["run", "--env-file", "vars"][..], &show].concat());
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("vars, line 2"), "{}", text(&ran.stderr));
    let ran = host.by_hand(&[&["run", "--env-file", "missing"][..], &show].concat());
    assert!(text(&ran.stderr).contains("missing"), "{}", text(&ran.stderr));
    host.nothing_left();
}

#[test]
fn a_stop_sends_the_signal_that_was_chosen() {
    use std::io::{BufRead, BufReader, Read};
    let host = Host::new();
    let script = "trap 'echo one; exit 3' USR1; echo ready; while :; do sleep 0.02; done";
    let mut command = host.command(&["run", "--kill-signal", "USR1", "-g", "30s", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    signal(i32::try_from(child.id()).unwrap(), libc::SIGTERM);
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), child.wait().unwrap().code()), ("ready\none\n", Some(3)));
    host.nothing_left();
}

#[test]
fn every_option_reaches_the_record() {
    let host = Host::new();
    let logs = host.path().join("elsewhere");
    ok(&host.by_hand(&[
        "run",
        "-d",
        "--name",
        "all",
        "--kill-target",
        "group",
        "--kill-sequence",
        "INT 2s",
        "--kill-sequence",
        "TERM",
        "--stragglers",
        "leave",
        "--exit-type",
        "main",
        "--max-runtime",
        "1h",
        "--max-runtime-signal",
        "INT",
        "--max-runtime-grace",
        "3s",
        "--max-sessions",
        "4",
        "--ionice",
        "best-effort:6",
        "--ulimit",
        "core=0",
        "--log-dir",
        logs.to_str().unwrap(),
        "--log-max-files",
        "3",
        "--log-max-file-size",
        "64k",
        "--log-overflow",
        "drop",
        "--",
        "sleep",
        "1000",
    ]));
    let plan = record(&host, "all").plan;
    let ending = &plan.ending;
    assert_eq!(ending.kill_target, KillTarget::Group);
    let step = |signal, grace_ms| KillStep { signal, grace_ms };
    assert_eq!(
        ending.kill_sequence,
        [step(libc::SIGINT, 2000), step(libc::SIGTERM, u64::MAX)]
    );
    assert_eq!(
        (ending.stragglers, ending.exit_type),
        (Stragglers::Leave, ExitType::Main)
    );
    let bound = ending.max_runtime.unwrap();
    assert_eq!(
        (bound.limit_ms, bound.signal, bound.grace_ms),
        (3_600_000, libc::SIGINT, 3000)
    );
    assert_eq!(plan.max_sessions, 4);
    assert_eq!(plan.attributes.io_priority, Some(IoPriority::BestEffort(6)));
    let core = Rlimit {
        resource: 4,
        soft: 0,
        hard: 0,
    };
    assert_eq!(plan.attributes.rlimits, [core]);
    let files = |stream: &str| OutputRecord::Rotated {
        directory: logs.clone(),
        prefix: format!("all.{stream}"),
        max_files: 3,
        max_file_bytes: 64 << 10,
        overflow: Overflow::Drop,
    };
    assert_eq!((plan.stdout, plan.stderr), (files("stdout"), files("stderr")));
    removed(&host, "all");
    assert!(logs.is_dir(), "a folder that was named is the person's");
}

#[test]
fn a_detached_task_outlives_its_shell_and_is_there_until_it_is_removed() {
    let host = Host::new();
    let started = ok(&host.by_hand(&[
        "run",
        "--detach",
        "--",
        "sh",
        "-c",
        "echo out; while [ ! -e go ]; do sleep 0.02; done; exit 8",
    ]));
    let shown = status(&host, "sh");
    assert_eq!(started.trim_end(), shown["task_id"].as_str().unwrap());
    let (main, executor) = (pid(&shown, "pid"), pid(&shown, "executor_pid"));
    assert!(lives(main) && lives(executor));
    assert_eq!(
        (&shown["state"], &shown["committed"]),
        (&"running".into(), &true.into())
    );
    eventually("output", || {
        let printed = ok(&host.by_hand(&["logs", "sh"]));
        (printed == "out\n").then_some(()).ok_or(printed)
    });
    let refused = host.by_hand(&["rm", "sh"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("stop it first"),
        "{}",
        text(&refused.stderr)
    );
    assert!(lives(main));
    fs::write(host.path().join("go"), "").unwrap();
    assert_eq!(host.by_hand(&["wait", "sh"]).status.code(), Some(8));
    gone(executor);
    assert_eq!(ok(&host.by_hand(&["logs", "sh"])), "out\n", "its output stays");
    assert_eq!(status(&host, "sh")["exit_code"], 8);
    let alloc = shown["alloc_id"].as_str().unwrap();
    ok(&host.by_hand(&["rm", "sh"]));
    assert_eq!((kept(&host), cgroups(alloc)), (0, Vec::new()));
    host.nothing_left();
}

#[test]
fn rm_concludes_what_lost_its_executor_and_leaves_drivers_tasks_alone() {
    let host = Host::new();
    ok(&host.by_hand(&["run", "-d", "--", "sleep", "1000"]));
    let shown = status(&host, "sleep");
    signal(pid(&shown, "executor_pid"), libc::SIGKILL);
    gone(pid(&shown, "executor_pid"));
    assert_eq!(host.by_hand(&["rm", "sleep"]).status.code(), Some(1), "it lives");
    ok(&host.by_hand(&["signal", "KILL", "sleep"]));
    gone(pid(&shown, "pid"));
    ok(&host.by_hand(&["rm", "sleep"]));
    assert_eq!(
        (kept(&host), cgroups(shown["alloc_id"].as_str().unwrap())),
        (0, Vec::new())
    );
    let task = host.task("web");
    let refused = host.by_hand(&["rm", "web"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("driver raw_exec's"),
        "{}",
        text(&refused.stderr)
    );
    assert!(task.dir.path().is_dir());
    host.nothing_left();
}

#[test]
fn a_detached_start_that_fails_leaves_nothing() {
    let host = Host::new();
    for (arguments, code, culprit) in [
        (&["-u", "no-such-user", "--", "true"][..], 1, "no-such-user"),
        (&["--", "no-such-command"], 127, "no-such-command"),
        (&["-w", "/no/such/folder", "--", "true"], 1, "/no/such/folder"),
        (&["--cgroup-parent", "../..", "--", "true"], 1, "../.."),
    ] {
        if arguments[0] == "--cgroup-parent" && (!is_root() || holdfast_cgroup::version().is_none()) {
            continue;
        }
        let ran = host.by_hand(&[&["run", "-d"][..], arguments].concat());
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{said}");
        assert!(said.contains(culprit) && said.lines().count() == 1, "{said}");
        assert_eq!(kept(&host), 0, "{arguments:?}");
    }
    host.nothing_left();
}

#[test]
fn limits_hold_from_the_start_and_are_changed_with_and_without_an_executor() {
    if !is_root() || holdfast_cgroup::version().is_none() {
        return;
    }
    let host = Host::new();
    ok(&host.by_hand(&[
        "run",
        "-d",
        "--memory",
        "64MiB",
        "--pids-limit",
        "50",
        "--cpu-shares",
        "100",
        "--",
        "sleep",
        "1000",
    ]));
    let most = || {
        let measured: Value = serde_json::from_str(&ok(&host.by_hand(&["stats", "sleep", "--json"]))).unwrap();
        measured["pids_max"].clone()
    };
    assert_eq!(most(), 50);
    assert_eq!(ok(&host.by_hand(&["update", "sleep", "--pids-limit", "60"])), "");
    assert_eq!(most(), 60);
    let shown = status(&host, "sleep");
    signal(pid(&shown, "executor_pid"), libc::SIGKILL);
    gone(pid(&shown, "executor_pid"));
    ok(&host.by_hand(&["update", "sleep", "--pids-limit", "70", "--memory", "32MiB"]));
    assert_eq!(most(), 70);
    // What the kernel refuses is named, and the rest holds.
    let refused = host.by_hand(&["update", "sleep", "--pids-limit", "80", "--cpuset-cpus", "9999"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("9999"), "{}", text(&refused.stderr));
    assert_eq!(most(), 80);
    assert_eq!(status(&host, "sleep")["state"], "orphaned", "no executor was needed");
    ok(&host.by_hand(&["adopt", "sleep"]));
    removed(&host, "sleep");
}

#[test]
fn a_parent_that_was_named_holds_the_task_and_stays() {
    let Some(version) = holdfast_cgroup::version().filter(|_| is_root()) else {
        return;
    };
    let host = Host::new();
    let parent = format!("holdfast-byhand-{}", std::process::id());
    let show = ["--", "cat", "/proc/self/cgroup"];
    let ran = ok(&host.by_hand(&[&["run", "--cgroup-parent", &parent][..], &show].concat()));
    assert!(ran.contains(&format!("/{parent}/")), "{ran}");
    let found = cgroups(&parent);
    assert!(
        !found.is_empty() && found.iter().all(|dir| dir.ends_with(&parent)),
        "{version:?}: {found:?}"
    );
    for dir in found {
        fs::remove_dir(dir).unwrap();
    }
    host.nothing_left();
}

#[test]
fn wrong_options_name_the_culprit_and_start_nothing() {
    let host = Host::new();
    for (flags, culprit) in [
        (&["--memory", "lots"][..], "--memory"),
        (&["--memory-enforcement", "maybe"], "--memory-enforcement"),
        (&["--cpu-burst", "5"], "cpu_burst 5"),
        (&["--umask", "9"], "--umask"),
        (&["--nice", "20"], "--nice"),
        (&["--ulimit", "nofile"], "--ulimit"),
        (&["--ulimit", "files=1"], "\"files\""),
        (&["--ionice", "fast"], "--ionice"),
        (&["--oom-score-adj", "1001"], "--oom-score-adj"),
        (&["--limits", "some"], "--limits"),
        (&["--kill-target", "all"], "--kill-target"),
        (&["--kill-sequence", "NONSENSE 1s"], "NONSENSE"),
        (&["--kill-signal", "NONSENSE"], "--kill-signal"),
        (&["--kill-signal", "TERM", "--kill-sequence", "TERM"], "--kill-sequence"),
        (&["--stragglers", "hide"], "--stragglers"),
        (&["--exit-type", "never"], "--exit-type"),
        (&["--max-runtime", "0"], "max_runtime \"0\""),
        (&["--max-runtime-grace", "1s"], "--max-runtime"),
        (&["--log-max-files", "0"], "--log-max-files"),
        (&["--log-max-files", "2"], "--log-dir"),
        (&["--log-overflow", "spill"], "--log-overflow"),
        (&["--max-sessions", "0"], "--max-sessions"),
        (&["--name", "a/b"], "--name"),
        (&["--io-max", "/dev/null=rbps=1"], "--io-max"),
    ] {
        let ran = host.by_hand(&[&["run"][..], flags, &["--", "touch", "started"]].concat());
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(culprit), "{flags:?}: {said}");
    }
    assert!(!host.path().join("started").exists() && !host.state_dir().exists());
}

#[test]
fn completions_and_manual_know_every_command() {
    let host = Host::new();
    let help = ok(&host.by_hand(&["--help"]));
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(&host.by_hand(&["completions", shell]));
        for command in &commands {
            assert!(script.contains(command), "{command} in {shell}");
        }
    }
    let mut bash = std::process::Command::new("bash");
    fs::write(host.path().join("script"), ok(&host.by_hand(&["completions", "bash"]))).unwrap();
    ok(&finished(bash.args(["-n", "script"]).current_dir(host.path())));
    assert_eq!(host.by_hand(&["completions", "dos"]).status.code(), Some(2));
    let pages = host.path().join("man");
    ok(&host.by_hand(&["man", pages.to_str().unwrap()]));
    for command in commands.iter().filter(|command| **command != "help") {
        let page = fs::read_to_string(pages.join(format!("holdfast-executor-{command}.1"))).unwrap();
        assert!(
            page.contains("xamples:") || page.contains("xample:"),
            "{command} has no example"
        );
    }
    assert!(ok(&host.by_hand(&["man"])).contains(".SH SUBCOMMANDS"));
}
