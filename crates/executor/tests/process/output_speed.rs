//! A task that writes as fast as it can, against `cat` in the same run. By hand, with a release build:
//! `cargo test --release -p holdfast-executor --test process -- --ignored --nocapture as_fast_as_cat`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_wire::executor_v1::TaskSpec;

use crate::host::{Host, Task, left, wait};

/// What is written again and again: lines that differ.
fn lines() -> Vec<u8> {
    let text: String = (0..1 << 19).map(|number| format!("{number:0>127}\n")).collect();
    text.into_bytes()
}

fn writer(lines: &Path, block: usize, times: usize) -> String {
    format!(
        "for n in $(seq {times}); do dd if={} bs={block} status=none; done",
        lines.display()
    )
}

fn cat(host: &Host, script: &str) -> Duration {
    let started = Instant::now();
    let mut writer = Command::new("sh")
        .args(["-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let file = host.path().join("cat");
    let mut cat = Command::new("cat")
        .stdin(writer.stdout.take().unwrap())
        .stdout(File::create(&file).unwrap())
        .spawn()
        .unwrap();
    assert!(cat.wait().unwrap().success());
    let elapsed = started.elapsed();
    writer.wait().unwrap();
    fs::remove_file(file).unwrap();
    elapsed
}

async fn ours(host: &Host, script: &str, lines: &[u8], times: usize) -> Duration {
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1000, 10 << 20)),
        ..task.shell(script)
    };
    let started = Instant::now();
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    let elapsed = started.elapsed();
    left(peer);
    is_repeated(&task, lines, times);
    fs::remove_dir_all(&task.logs).unwrap();
    elapsed
}

/// Every byte over all files.
fn is_repeated(task: &Task, lines: &[u8], times: usize) {
    let mut expected = lines.iter().copied().cycle();
    let mut count = 0;
    let mut chunk = vec![0; 1 << 20];
    for number in 0.. {
        let Ok(mut file) = File::open(task.logs.join(format!("main.stdout.{number}"))) else {
            break;
        };
        loop {
            let read = file.read(&mut chunk).unwrap();
            if read == 0 {
                break;
            }
            assert!(
                chunk[..read]
                    .iter()
                    .eq(expected.by_ref().take(read).collect::<Vec<_>>().iter()),
                "file {number}"
            );
            count += read;
        }
    }
    assert_eq!(count, lines.len() * times);
}

#[tokio::test]
#[ignore = "a measurement: release builds on a quiet host"]
async fn rotation_is_as_fast_as_cat() {
    let host = Host::new();
    let lines = lines();
    let file = host.path().join("lines");
    fs::write(&file, &lines).unwrap();
    for (block, times) in [(64 << 10, 16), (128, 4)] {
        let script = writer(&file, block, times);
        let mut ratios = Vec::new();
        for _ in 0..5 {
            let (cat, ours) = (cat(&host, &script), ours(&host, &script, &lines, times).await);
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
