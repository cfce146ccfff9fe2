//! A task that writes as fast as it can, against `cat` in the same run. By hand, with a release build:
//! `cargo test --release -p holdfast-executor --test process -- --ignored --nocapture as_fast_as_cat`.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_wire::executor_v1::TaskSpec;

use crate::host::{Host, left, wait};

/// Bytes of one run.
const SIZE: u64 = 1 << 30;

fn writer(block: u64) -> String {
    // Lines of 128 bytes that all differ would make the writer the slower side.
    format!(
        "yes {} | dd bs={block} count={} iflag=fullblock status=none",
        "x".repeat(127),
        SIZE / block
    )
}

fn cat(host: &Host, block: u64) -> Duration {
    let started = Instant::now();
    let mut written = Command::new("sh")
        .args(["-c", &writer(block)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let file = host.path().join("cat");
    let mut cat = Command::new("cat")
        .stdin(written.stdout.take().unwrap())
        .stdout(File::create(&file).unwrap())
        .spawn()
        .unwrap();
    assert!(cat.wait().unwrap().success());
    written.wait().unwrap();
    let elapsed = started.elapsed();
    assert_eq!(fs::metadata(&file).unwrap().len(), SIZE);
    fs::remove_file(file).unwrap();
    elapsed
}

async fn ours(host: &Host, block: u64) -> Duration {
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1000, 10 << 20)),
        ..task.shell(&writer(block))
    };
    let started = Instant::now();
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    let elapsed = started.elapsed();
    left(peer);
    let written: u64 = fs::read_dir(&task.logs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(written, SIZE);
    fs::remove_dir_all(&task.logs).unwrap();
    elapsed
}

#[tokio::test]
#[ignore = "a measurement: release builds on a quiet host"]
async fn rotation_is_as_fast_as_cat() {
    let host = Host::new();
    for block in [64 << 10, 128] {
        let mut ratios = Vec::new();
        for _ in 0..5 {
            let (cat, ours) = (cat(&host, block), ours(&host, block).await);
            println!("writes of {block:6} bytes: cat {cat:?}, executor {ours:?}");
            ratios.push(cat.as_secs_f64() / ours.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "writes of {block:6} bytes: {:.2} times as fast as cat",
            ratios[ratios.len() / 2]
        );
    }
}

/// Lines that all differ, so that none can be lost, doubled or swapped unseen.
#[tokio::test]
async fn a_large_output_arrives_whole_over_rotated_files() {
    let host = Host::new();
    let task = host.task("main");
    let count = 4_000_000;
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1000, 1 << 20)),
        ..task.shell(&format!("seq 1 {count}; seq 1 {count} >&2"))
    };
    let (mut peer, _) = host
        .launch(
            &task,
            TaskSpec {
                stderr: Some(task.rotated("stderr", 1000, 1 << 20)),
                ..spec
            },
        )
        .await;
    wait(&task, &mut peer).await;
    left(peer);
    let expected: String = (1..=count).map(|number| format!("{number}\n")).collect();
    for stream in ["stdout", "stderr"] {
        assert!(task.output(stream) == expected.as_bytes(), "{stream}");
    }
}
