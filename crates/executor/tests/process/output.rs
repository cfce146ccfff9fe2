//! Where the task's output goes, all of it.

use std::fs;

use holdfast_wire::executor_v1::TaskSpec;

use crate::host::{Host, left, wait};

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
async fn a_full_disk_for_logs_stops_neither_the_task_nor_its_end() {
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: Some(holdfast_wire::executor_v1::Output {
            sink: Some(holdfast_wire::executor_v1::output::Sink::Path("/dev/full".to_owned())),
        }),
        ..task.shell("echo lost; echo kept >&2; exit 9")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    let result = wait(&task, &mut peer).await;
    assert_eq!(
        result.status,
        Some(holdfast_wire::executor_v1::task_result::Status::Exited(9))
    );
    left(peer);
    assert_eq!(task.output("stderr"), b"kept\n");
    let log = fs::read_to_string(task.dir.path().join("executor.log")).unwrap();
    assert!(log.contains("No space left on device"), "{log}");
}
