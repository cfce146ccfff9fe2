//! Output that the agent collects: FIFOs of its own, which it reads, or not (`log_collection = "agent"`).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use holdfast_wire::executor_v1::{CommitRequest, Output, TaskSpec, output, task_result};

use crate::host::{Host, StartMode, Task, eventually, kill, launch, left, wait};

fn to_path(path: &Path) -> Option<Output> {
    Some(Output {
        sink: Some(output::Sink::Path(path.to_str().unwrap().to_owned())),
    })
}

/// The FIFO, as the agent names and makes it.
fn fifo(task: &Task) -> PathBuf {
    let path = task.logs.join(".main.stdout.fifo");
    holdfast_sys::file::mkfifo_at(File::open(&task.logs).unwrap(), ".main.stdout.fifo", 0o600).unwrap();
    path
}

fn reader(path: &Path) -> File {
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap()
}

/// Reads what is there.
fn some(reader: &mut File, into: &mut String) -> usize {
    let mut chunk = vec![0; 1 << 16];
    match reader.read(&mut chunk) {
        Ok(count) => {
            into.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
            count
        }
        Err(e) => {
            assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
            0
        }
    }
}

fn numbers(to: u32) -> String {
    (1..=to).map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn a_task_starts_and_ends_although_nobody_reads_u1() {
    let host = Host::new();
    let task = host.task("main");
    let path = fifo(&task);
    let spec = TaskSpec {
        stdout: to_path(&path),
        ..task.shell("echo unread; exit 4")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    let result = wait(&task, &mut peer).await;
    assert_eq!(result.status, Some(task_result::Status::Exited(4)));
    left(peer);
}

#[tokio::test]
async fn a_reader_that_comes_late_or_comes_back_gets_all() {
    let host = Host::new();
    let task = host.task("main");
    let path = fifo(&task);
    let spec = TaskSpec {
        stdout: to_path(&path),
        ..task.shell("seq 1 200000; touch passed; while [ ! -e go ]; do sleep 0.02; done")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    let expected = numbers(200_000);
    let mut read = String::new();
    // Each reads a little and dies, while the task waits.
    for _ in 0..5 {
        let mut reader = reader(&path);
        let before = read.len();
        eventually("output", || {
            some(&mut reader, &mut read);
            (read.len() > before).then_some(()).ok_or("none".to_owned())
        });
    }
    assert!(!task.logs.join("passed").exists(), "the task waits in a full pipe");
    let mut reader = reader(&path);
    eventually("all output", || {
        while some(&mut reader, &mut read) > 0 {}
        (read.len() >= expected.len())
            .then_some(())
            .ok_or(format!("{} bytes", read.len()))
    });
    assert!(read == expected);
    fs::write(task.logs.join("go"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
}

#[tokio::test]
async fn a_fifo_that_was_made_again_is_found_and_gets_what_nobody_read() {
    let host = Host::new();
    let task = host.task("main");
    let path = fifo(&task);
    let spec = TaskSpec {
        stdout: to_path(&path),
        ..task.shell("seq 1 200000; touch passed; while [ ! -e go ]; do sleep 0.02; done; echo end")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    let expected = numbers(200_000);
    let mut read = String::new();
    let mut first = reader(&path);
    eventually("output", || {
        some(&mut first, &mut read);
        (!read.is_empty()).then_some(()).ok_or("none".to_owned())
    });
    drop(first);
    fs::remove_file(&path).unwrap();
    fifo(&task);
    let mut second = reader(&path);
    eventually("all output", || {
        while some(&mut second, &mut read) > 0 {}
        (read.len() >= expected.len())
            .then_some(())
            .ok_or(format!("{} bytes", read.len()))
    });
    assert!(read == expected);
    drop(second);
    // And one that is made again while nothing is written.
    fs::remove_file(&path).unwrap();
    fifo(&task);
    let mut third = reader(&path);
    fs::write(task.logs.join("go"), "").unwrap();
    read.clear();
    eventually("the end", || {
        some(&mut third, &mut read);
        (read == "end\n").then_some(()).ok_or(format!("{read:?}"))
    });
    wait(&task, &mut peer).await;
    left(peer);
}

#[tokio::test]
async fn an_adopting_executor_goes_on_with_the_agents_fifo() {
    let host = Host::new();
    let task = host.task("main");
    let path = fifo(&task);
    let spec = TaskSpec {
        stdout: to_path(&path),
        ..task.shell(
            "echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; while [ ! -e end ]; do sleep 0.02; done",
        )
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let mut reader = reader(&path);
    let mut read = String::new();
    eventually("output", || {
        some(&mut reader, &mut read);
        (read == "before\n").then_some(()).ok_or(format!("{read:?}"))
    });
    kill(peer);
    let mut peer = host.start(&task, StartMode::Adopt).await.unwrap();
    fs::write(task.logs.join("go"), "").unwrap();
    eventually("output", || {
        some(&mut reader, &mut read);
        (read == "before\nafter\n").then_some(()).ok_or(format!("{read:?}"))
    });
    fs::write(task.logs.join("end"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
}

#[tokio::test]
async fn a_fifo_that_a_task_has_replaced_by_a_link_or_a_device_is_refused_u1() {
    let host = Host::new();
    let victim = host.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    for target in [victim.as_path(), Path::new("/dev/null")] {
        let task = host.task("main");
        let path = task.logs.join(".main.stdout.fifo");
        symlink(target, &path).unwrap();
        let spec = TaskSpec {
            stdout: to_path(&path),
            ..task.shell("echo written")
        };
        let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
        let refused = launch(&mut peer, spec).await.unwrap_err();
        assert!(refused.message().contains(".main.stdout.fifo"), "{refused}");
        left(peer);
    }
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: to_path(Path::new("/dev/full")),
        ..task.shell("echo written")
    };
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let refused = launch(&mut peer, spec).await.unwrap_err();
    assert!(refused.message().contains("neither a FIFO nor a file"), "{refused}");
    left(peer);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}
