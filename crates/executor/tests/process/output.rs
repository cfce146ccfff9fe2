//! Where the task's output goes, all of it.

use std::fs;

use holdfast_wire::executor_v1::{CommitRequest, TaskSpec, task_result};

use crate::host::{Host, StartMode, kill, left, wait};

#[tokio::test]
async fn output_is_complete_over_many_files_l1_l2() {
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1000, 64 * 1024)),
        ..task.shell("seq 1 300000; echo end >&2")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    left(peer);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(task.output("stdout") == expected.as_bytes());
    assert_eq!(task.output("stderr"), b"end\n");
    let sizes: Vec<u64> = fs::read_dir(&task.logs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.len() > 20, "{} files", sizes.len());
    assert!(sizes.iter().all(|size| *size <= 64 * 1024));
}

#[tokio::test]
async fn old_files_go_and_the_end_stays_l1() {
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 3, 10_000)),
        ..task.shell("seq 1 100000")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    left(peer);
    let kept = task.stdout();
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(expected.ends_with(&kept));
    assert!(kept.len() <= 30_000 && kept.starts_with(|first: char| first.is_ascii_digit()));
}

#[tokio::test]
async fn the_last_line_is_there_when_the_exit_is_told_w5() {
    let host = Host::new();
    for _ in 0..10 {
        let task = host.task("main");
        let (mut peer, _) = host.running(&task, "printf 'no newline at the end'").await;
        wait(&task, &mut peer).await;
        assert_eq!(task.stdout(), "no newline at the end");
        left(peer);
    }
}

#[tokio::test]
async fn a_line_that_is_half_written_when_the_executor_dies_ends_in_its_file_l4() {
    let host = Host::new();
    let task = host.task("main");
    let script = "printf half; while [ ! -e go ]; do sleep 0.02; done; echo ' a line'; seq 1 20000";
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1000, 10_000)),
        ..task.shell(script)
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    task.says("half");
    kill(peer);
    fs::write(task.logs.join("go"), "").unwrap();
    if let Ok(peer) = host.start(&task, StartMode::Adopt).await {
        left(peer);
    }
    task.result();
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(task.stdout() == format!("half a line\n{numbers}"));
    for entry in fs::read_dir(&task.logs).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("stdout") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.len() <= 10_000 && text.ends_with('\n'), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_daemon_that_holds_the_output_does_not_delay_the_end_w5() {
    let host = Host::new();
    for _ in 0..5 {
        let task = host.task("main");
        let script = "trap '' TERM HUP; (setsid sh -c 'while :; do sleep 1000; done' &) ; echo last; exit 3";
        let (mut peer, _) = host.running(&task, script).await;
        let result = wait(&task, &mut peer).await;
        assert_eq!(result.status, Some(task_result::Status::Exited(3)));
        assert_eq!(task.stdout(), "last\n");
        left(peer);
        let log = fs::read_to_string(task.dir.path().join("executor.log")).unwrap();
        assert!(
            !log.contains("could not be written"),
            "the bound was not waited for: {log}"
        );
    }
    host.nothing_left();
}

#[tokio::test]
async fn a_file_copied_away_and_emptied_by_somebody_has_no_hole() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host
        .running(&task, "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after")
        .await;
    task.says("before\n");
    let file = fs::File::options().write(true).open(task.logs.join("main.stdout.0"));
    file.unwrap().set_len(0).unwrap();
    fs::write(task.logs.join("go"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(task.output("stdout"), b"after\n");
}
