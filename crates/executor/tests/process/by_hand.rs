//! `ls`, `status`, `logs`, `exec` and `stop`, with executors alive, dead and done.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Output, Stdio};

use holdfast_record::{HANDLE_VERSION, HandleState, Status};
use serde_json::Value;

use crate::host::{Host, Task, eventually, finished, kill, left, lives, text, wait};
use crate::stop::kill_now;

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// The one entry of `ls --json`.
fn entry(host: &Host) -> Value {
    let entries: Vec<Value> = serde_json::from_str(&ok(&host.by_hand(&["ls", "--json"]))).unwrap();
    assert_eq!(entries.len(), 1);
    entries.into_iter().next().unwrap()
}

fn row(host: &Host) -> Vec<String> {
    let listed = ok(&host.by_hand(&["ls"]));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_living_task_is_listed_shown_and_printed() {
    let host = Host::new();
    assert_eq!(ok(&host.by_hand(&["ls"])).lines().count(), 1, "the head alone");
    let task = host.task("web");
    let (peer, launched) = host.running(&task, "echo out; echo err >&2; exec sleep 1000").await;
    task.says("out");
    let main = launched.main.unwrap().pid;
    let row = row(&host);
    assert_eq!(row[0], task.intent.task_id[..8]);
    assert_eq!(row[1..5], ["web", "raw_exec", "running", &main.to_string()]);
    assert_eq!(row[6], "-");
    let entry = entry(&host);
    assert_eq!(entry["task_id"], task.intent.task_id);
    assert_eq!((&entry["state"], &entry["pid"]), (&"running".into(), &main.into()));
    let shown = ok(&host.by_hand(&["status", "web"]));
    for part in [
        &task.intent.task_id,
        "running",
        "/bin/sh",
        &format!("pid {main}"),
        &task.folder(),
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(ok(&host.by_hand(&["logs", "web"])), "out\n");
    assert_eq!(ok(&host.by_hand(&["logs", "--stderr", "web"])), "err\n");
    kill_now(peer).await;
}

#[tokio::test]
async fn a_task_whose_executor_was_killed_is_answered_for_from_its_records() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host
        .running(&task, "echo out; while [ ! -e go ]; do sleep 0.02; done; exit 7")
        .await;
    task.says("out");
    let (main, executor) = (launched.main.unwrap().pid, peer.identity.pid);
    kill(peer);
    assert_eq!(row(&host)[3..5], ["orphaned", &main.to_string()]);
    let shown = ok(&host.by_hand(&["status", "web"]));
    assert!(
        shown.contains("orphaned") && shown.contains(&format!("pid {executor}, gone")),
        "{shown}"
    );
    assert_eq!(ok(&host.by_hand(&["logs", "web"])), "out\n");
    assert!(lives(main), "looking changes nothing");
    assert!(task.dir.result().unwrap().is_none());
    fs::write(task.logs.join("go"), "").unwrap();
    crate::host::gone(main);
    let shown = row(&host);
    assert_eq!(shown[3..5], ["ended", "-"], "the init has recorded it");
    assert_eq!(shown[6], "7");
    assert_eq!(entry(&host)["exit_code"], 7);
    assert_eq!(ok(&host.by_hand(&["stop", "web"])), "ended: exit code 7\n");
    assert_eq!(
        task.result().status,
        Status::Exited(7),
        "what was adopted to be stopped is concluded"
    );
    host.nothing_left();
}

#[tokio::test]
async fn an_ended_task_is_answered_for_from_its_records() {
    let host = Host::new();
    let task = host.task("web");
    let (mut peer, _) = host.running(&task, "echo out; kill -KILL $$").await;
    wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(row(&host)[3..], ["ended", "-", "0s", "SIGKILL"]);
    let entry = entry(&host);
    assert_eq!((&entry["exit_code"], &entry["signal"]), (&137.into(), &9.into()));
    assert!(ok(&host.by_hand(&["status", "web"])).contains("killed by SIGKILL"));
    assert_eq!(
        ok(&host.by_hand(&["logs", "-f", "web"])),
        "out\n",
        "following ends with the task"
    );
    assert_eq!(ok(&host.by_hand(&["stop", "web"])), "ended: killed by SIGKILL\n");
    let refused = host.by_hand(&["exec", "web", "--", "true"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("the task has ended: killed by SIGKILL"));
}

#[tokio::test]
async fn an_executor_that_does_not_answer_is_unreachable() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host.running(&task, "exec sleep 1000").await;
    crate::host::signal(peer.identity.pid, libc::SIGSTOP);
    assert_eq!(
        row(&host)[3..5],
        ["unreachable", &launched.main.unwrap().pid.to_string()]
    );
    assert!(entry(&host)["reason"].as_str().unwrap().contains("no answer"));
    crate::host::signal(peer.identity.pid, libc::SIGCONT);
    kill_now(peer).await;
}

#[tokio::test]
async fn a_task_is_found_by_whatever_names_it() {
    let host = Host::new();
    let task = host.task("web");
    let other = host.task("db");
    let (peer, _) = host.running(&task, "echo web; exec sleep 1000").await;
    let (second, _) = host.running(&other, "echo db; exec sleep 1000").await;
    task.says("web");
    let socket = task.dir.path().join("executor.sock");
    let alloc = &task.intent.alloc_id;
    let names = [
        task.intent.task_id.clone(),
        task.intent.task_id[..task.intent.task_id.len() - 2].to_owned(),
        alloc.clone(),
        format!("{}/web", &alloc[..8]),
        "web".to_owned(),
        task.folder(),
        socket.to_str().unwrap().to_owned(),
    ];
    for name in &names {
        assert_eq!(ok(&host.by_hand(&["logs", name])), "web\n", "{name}");
    }
    kill_now(peer).await;
    kill_now(second).await;
}

#[tokio::test]
async fn a_task_that_is_not_there_or_not_unique_is_refused_in_one_line_with_what_is() {
    let host = Host::new();
    let refused = |arguments: &[&str]| {
        let output = host.by_hand(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    assert!(refused(&["status", "web"]).contains("no task \"web\": there is none in"));
    let tasks: Vec<Task> = ["web", "db", "cache"].map(|name| host.task(name)).into();
    let said = refused(&["status", "wep"]);
    assert!(said.contains("\"wep\""), "{said}");
    let place = |name: &str| said.find(&format!("/{name}/")).unwrap();
    assert!(place("web") < place("cache"), "the nearest comes first: {said}");
    // All of them share the beginning of their allocation's id.
    let said = refused(&["stop", &tasks[0].intent.alloc_id[..8]]);
    assert!(
        said.contains("not unique") && said.contains(&tasks[2].intent.task_id),
        "{said}"
    );
    for arguments in [
        &["status"][..],
        &["frobnicate"],
        &["ls", "--frobnicate"],
        &["exec", "web"],
        &[],
    ] {
        let output = host.by_hand(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let said = refused(&["logs", "web"]);
    assert!(said.contains("never started"), "{said}");
    assert!(ok(&host.by_hand(&["ls"])).contains("not started"));
}

fn handle_of(task: &Task) -> Vec<u8> {
    let record = task.record();
    let handle = HandleState {
        version: HANDLE_VERSION,
        dir: task.dir.path().to_owned(),
        socket: task.dir.path().join("executor.sock"),
        task_id: record.task_id.clone(),
        boot_id: record.boot_id.clone(),
        executor: record.executor,
        init: record.init,
        main: record.main,
        started_at_ms: record.started_at_ms,
        extra: Default::default(),
    };
    handle.to_bytes().unwrap()
}

#[tokio::test]
async fn a_task_is_found_by_its_handle() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host.running(&task, "echo web; exec sleep 1000").await;
    task.says("web");
    let handle = handle_of(&task);
    fs::write(host.path().join("handle"), &handle).unwrap();
    assert_eq!(ok(&host.by_hand(&["logs", "--handle", "handle"])), "web\n");
    let mut child = host
        .command(&["logs", "--handle", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&handle).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "web\n");
    for (content, expected) in [
        (&handle[..handle.len() / 2], "damaged or of another driver"),
        (b"", "empty"),
        (b"{\"ReattachConfig\":{}}", "damaged or of another driver"),
    ] {
        fs::write(host.path().join("handle"), content).unwrap();
        let output = host.by_hand(&["logs", "--handle", "handle"]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(
            said.contains(expected) && said.contains("handle") && said.lines().count() == 1,
            "{said}"
        );
    }
    kill_now(peer).await;
}

#[tokio::test]
async fn logs_follow_over_rotated_files_until_the_end_l5() {
    let host = Host::new();
    let task = host.task("web");
    let mut spec = task.shell("for n in $(seq 1 300); do echo line $n; [ $((n % 50)) = 0 ] && sleep 0.1; done");
    spec.stdout = Some(task.rotated("stdout", 1000, 200));
    let (peer, _) = host.launch(&task, spec).await;
    let followed = finished(&mut host.command(&["logs", "-f", "web"]));
    let expected: String = (1..=300).map(|number| format!("line {number}\n")).collect();
    assert_eq!(ok(&followed), expected);
    left(peer);
}

#[tokio::test]
async fn a_closed_output_is_success() {
    let host = Host::new();
    let task = host.task("web");
    let (mut peer, _) = host.running(&task, "seq 1 200000").await;
    wait(&task, &mut peer).await;
    left(peer);
    for arguments in [&["logs", "web"][..], &["ls"], &["status", "web"]] {
        let mut child = host
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), said.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn exec_passes_streams_and_the_exit_code_on() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host.running(&task, "exec sleep 1000").await;
    let ran = host.by_hand(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; cat; exit 42"]);
    assert_eq!(ran.status.code(), Some(42));
    assert_eq!(
        (text(&ran.stdout).as_str(), text(&ran.stderr).as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        host.by_hand(&["exec", "web", "--", "sh", "-c", "kill -TERM $$"])
            .status
            .code(),
        Some(143)
    );
    let mut child = host
        .command(&["exec", "-i", "web", "--", "md5sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3_000_000]).unwrap();
    drop(stdin);
    let expected =
        finished(std::process::Command::new("sh").args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x | md5sum"]));
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), text(&expected.stdout));
    let refused = host.by_hand(&["exec", "web", "--", "no-such-command"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("no-such-command"));
    kill_now(peer).await;
}

#[tokio::test]
async fn exec_with_a_terminal_passes_its_size_and_restores_ours() {
    use rustix::termios::{LocalModes, tcgetattr};
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host.running(&task, "exec sleep 1000").await;
    let (master, slave) = holdfast_sys::terminal::open().unwrap();
    holdfast_sys::terminal::resize(&master, 41, 83).unwrap();
    let before = tcgetattr(&slave).unwrap();
    assert!(before.local_modes.contains(LocalModes::ECHO));
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let start = |script: &str| {
        host.command(&["exec", "-i", "-t", "web", "--", "sh", "-c", script])
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap()
    };
    let mut terminal = fs::File::from(master.try_clone().unwrap());
    let mut said = Vec::new();
    let mut says = |terminal: &mut fs::File, expected: &str| {
        while !text(&said).contains(expected) {
            let mut chunk = [0; 1024];
            holdfast_sys::file::poll(
                &mut [holdfast_sys::file::PollEntry::reading(Some(terminal.as_fd()))],
                Some(crate::host::PATIENCE),
            )
            .unwrap();
            let count = terminal.read(&mut chunk).unwrap();
            said.extend_from_slice(&chunk[..count]);
        }
    };
    let mut child = start(
        "while [ \"$(stty size)\" != '41 83' ]; do sleep 0.02; done; echo sized; read word; echo got-$word; exit 6",
    );
    says(&mut terminal, "sized");
    assert!(
        !tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO),
        "raw while it lasts"
    );
    terminal.write_all(b"hello\r").unwrap();
    says(&mut terminal, "got-hello");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    let modes = |termios: &rustix::termios::Termios| (termios.local_modes, termios.input_modes, termios.output_modes);
    assert_eq!(modes(&tcgetattr(&slave).unwrap()), modes(&before));
    // Interrupted by a signal of its own, or losing its executor, it restores as well.
    let mut child = start("echo second; sleep 1000");
    says(&mut terminal, "second");
    crate::host::signal(i32::try_from(child.id()).unwrap(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(modes(&tcgetattr(&slave).unwrap()), modes(&before));
    let mut child = start("echo third; sleep 1000");
    says(&mut terminal, "third");
    kill(peer);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(modes(&tcgetattr(&slave).unwrap()), modes(&before));
    ok(&host.by_hand(&["stop", "web"]));
    host.nothing_left();
}

#[tokio::test]
async fn stop_asks_and_then_kills_k1() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, _) = host
        .running(
            &task,
            "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    task.says("ready");
    assert_eq!(
        ok(&host.by_hand(&["stop", "--grace", "300ms", "web"])),
        "ended: killed by SIGKILL\n"
    );
    left(peer);
    assert!(task.stdout().contains("asked"));
    let task = host.task("db");
    let (peer, _) = host
        .running(&task, "trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done")
        .await;
    task.says("ready");
    assert_eq!(
        ok(&host.by_hand(&["stop", "--signal", "usr1", "--grace", "20s", "db"])),
        "ended: exit code 3\n"
    );
    left(peer);
    assert_eq!(
        host.by_hand(&["stop", "--signal", "NONSENSE", "db"]).status.code(),
        Some(2)
    );
    host.nothing_left();
}

#[tokio::test]
async fn stop_adopts_a_task_whose_executor_was_killed() {
    let mut host = Host::new();
    let task = host.task("web");
    let spec = host.scoped(task.shell("trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done"));
    let (peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    kill(peer);
    assert_eq!(
        ok(&host.by_hand(&["stop", "--grace", "20s", "web"])),
        "ended: exit code 7\n"
    );
    assert_eq!(task.result().status, Status::Exited(7));
    assert_eq!(task.stdout(), "ready\nasked\n", "its last words are not lost");
    host.nothing_left();
}

#[tokio::test]
async fn exec_adopts_a_task_whose_executor_was_killed_and_the_task_goes_on() {
    let host = Host::new();
    let task = host.task("web");
    let (peer, launched) = host.running(&task, "exec sleep 1000").await;
    kill(peer);
    let ran = host.by_hand(&["exec", "web", "--", "sh", "-c", "echo $MARKER; exit 5"]);
    assert_eq!(ran.status.code(), Some(5), "{}", text(&ran.stderr));
    assert_eq!(text(&ran.stdout).trim(), host.path().to_str().unwrap());
    assert!(lives(launched.main.unwrap().pid));
    assert_eq!(row(&host)[3], "running", "it has an executor again");
    ok(&host.by_hand(&["stop", "web"]));
    eventually("the end of everything", || {
        task.dir.result().unwrap().map(drop).ok_or("no result".to_owned())
    });
    host.nothing_left();
}

#[tokio::test]
async fn damaged_folders_are_named_and_hide_no_others() {
    let host = Host::new();
    let (broken, task) = (host.task("broken"), host.task("web"));
    let (peer, _) = host.running(&task, "exec sleep 1000").await;
    fs::write(broken.dir.path().join("intent.json"), "{").unwrap();
    let output = host.by_hand(&["ls"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("web"));
    assert!(text(&output.stderr).contains(&broken.folder()));
    kill_now(peer).await;
}
