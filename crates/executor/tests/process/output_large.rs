//! More output than fits into anything on its way. How fast it goes is measured by the benchmark.

use holdfast_wire::executor_v1::TaskSpec;

use crate::host::{Host, left, wait};

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
