//! Disks for logs that are full, or that take nothing and do not say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_executor::pump::{Pump, Stream};
use holdfast_executor::spool::Spool;
use holdfast_wire::executor_v1::{
    ExecRequest, IdentifyRequest, Output, RotatedFiles, StopRequest, TaskSpec, output, task_result,
};

use crate::host::{Host, PATIENCE, Task, eventually, is_root, left, lives, wait};

/// A file system of its own below the host's folder. A child of the test thaws and unmounts it, also when the test is killed.
pub struct Disk {
    pub folder: PathBuf,
    keeper: Option<Child>,
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        ran.status.success(),
        "{program} {arguments:?}: {}",
        crate::host::text(&ran.stderr)
    );
}

impl Disk {
    fn mounted(folder: PathBuf) -> Self {
        let script = "cat; fsfreeze -u \"$0\" 2>&-; umount \"$0\" 2>&- || umount -l \"$0\"";
        let keeper = Command::new("setsid")
            .args(["sh", "-c", script, folder.to_str().unwrap()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            folder,
            keeper: Some(keeper),
        }
    }

    /// In memory, with this much room.
    pub fn small(host: &Host, kib: u32) -> Self {
        let folder = host.path().join("small");
        fs::create_dir(&folder).unwrap();
        let size = format!("size={kib}k");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", folder.to_str().unwrap()],
        );
        Self::mounted(folder)
    }

    /// One that can be frozen.
    fn freezable(host: &Host) -> Self {
        let image = host.path().join("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let folder = host.path().join("freezable");
        fs::create_dir(&folder).unwrap();
        let (image, path) = (image.to_str().unwrap(), folder.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", image]);
        run("mount", &["-o", "loop", image, path]);
        Self::mounted(folder)
    }

    fn freeze(&self) {
        run("fsfreeze", &["-f", self.folder.to_str().unwrap()]);
    }

    fn thaw(&self) {
        run("fsfreeze", &["-u", self.folder.to_str().unwrap()]);
    }

    pub fn output(&self, task: &Task, stream: &str, drop_on_overflow: bool) -> Option<Output> {
        Some(Output {
            sink: Some(output::Sink::Rotated(RotatedFiles {
                directory: self.folder.to_str().unwrap().to_owned(),
                prefix: format!("{}.{stream}", task.intent.task_name),
                max_files: 1000,
                max_file_bytes: 1 << 20,
                drop_on_overflow,
            })),
        })
    }

    /// All files of standard output.
    pub fn written(&self) -> String {
        let name = |number: &u32| self.folder.join(format!("main.stdout.{number}"));
        (0..)
            .take_while(|number| name(number).exists())
            .map(|number| fs::read_to_string(name(&number)).unwrap())
            .collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

fn numbers(from: u32, to: u32) -> String {
    (from..=to).map(|number| format!("{number}\n")).collect()
}

fn log(task: &Task) -> String {
    fs::read_to_string(task.dir.path().join("executor.log")).unwrap()
}

fn appears(path: &Path) {
    eventually("a file of the task's", || {
        path.exists().then_some(()).ok_or(format!("no {}", path.display()))
    });
}

/// Waits until the file exists and has not grown for a while: what writes to it waits.
async fn stands_still(path: &Path) {
    let mut before = None;
    eventually("output that stops", || {
        std::thread::sleep(Duration::from_millis(100));
        let size = fs::metadata(path).map(|metadata| metadata.len()).ok();
        let is_still = size.is_some() && size == before;
        before = size;
        is_still.then_some(()).ok_or("it goes on".to_owned())
    });
}

#[tokio::test]
async fn a_frozen_log_disk_does_not_delay_exec_stop_or_wait() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    let disk = Disk::freezable(&host);
    let task = host.task("main");
    let spec = host.scoped(TaskSpec {
        stdout: disk.output(&task, "stdout", false),
        ..task.shell("trap '' TERM; n=0; while :; do n=$((n+1)); echo $n; echo $n > count; done")
    });
    let (mut peer, launched) = host.launch(&task, spec).await;
    eventually("output", || {
        (disk.written().lines().count() > 100)
            .then_some(())
            .ok_or("none".to_owned())
    });
    disk.freeze();
    stands_still(&task.logs.join("count")).await;
    assert!(lives(launched.main.unwrap().pid), "with `block` the task waits");
    let request = ExecRequest {
        command: vec!["sh".to_owned(), "-c".to_owned(), "exit 5".to_owned()],
        timeout_ms: 0,
    };
    let answer = tokio::time::timeout(PATIENCE, peer.executor.exec(request)).await;
    assert_eq!(answer.unwrap().unwrap().into_inner().exit.unwrap().exit_code, 5);
    let stop = StopRequest {
        signal: libc::SIGTERM,
        grace_ms: 100,
    };
    let stopped = tokio::time::timeout(PATIENCE, peer.executor.stop(stop)).await;
    stopped.expect("the stop waits for the disk").unwrap();
    let result = wait(&task, &mut peer).await;
    assert_eq!(result.status, Some(task_result::Status::Signalled(libc::SIGKILL)));
    assert!(
        task.dir.result().unwrap().is_some(),
        "the result is on disk while the logs' disk is frozen"
    );
    let before = disk.written().lines().count();
    disk.thaw();
    left(peer);
    assert!(!log(&task).contains("lost"), "{}", log(&task));
    let written = disk.written();
    let numbers: Vec<u64> = written.lines().map_while(|line| line.parse().ok()).collect();
    assert!(
        numbers.len() > before,
        "what was on its way arrives when the disk is thawed"
    );
    assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected));
    drop(disk);
    host.nothing_left();
}

#[tokio::test]
async fn with_drop_a_frozen_log_disk_stops_no_task_and_every_byte_is_accounted_for() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let disk = Disk::freezable(&host);
    let task = host.task("main");
    let script = "seq 1 1000; while [ ! -e go ]; do sleep 0.02; done; seq 1001 200000; touch passed; \
                  while [ ! -e go-on ]; do sleep 0.02; done; seq 200001 201000";
    let spec = TaskSpec {
        stdout: disk.output(&task, "stdout", true),
        ..task.shell(script)
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    eventually("output", || {
        (disk.written() == numbers(1, 1000))
            .then_some(())
            .ok_or("not all".to_owned())
    });
    disk.freeze();
    fs::write(task.logs.join("go"), "").unwrap();
    appears(&task.logs.join("passed"));
    let dropped = async |peer: &mut holdfast_executor::client::Peer| {
        let identity = peer.executor.identify(IdentifyRequest {}).await.unwrap();
        identity.into_inner().dropped_bytes
    };
    assert!(dropped(&mut peer).await > 0);
    disk.thaw();
    fs::write(task.logs.join("go-on"), "").unwrap();
    // What is dropped no more when the last lines come: they are there, and the task has not ended before.
    let end = numbers(200_001, 201_000);
    eventually("the last lines", || {
        disk.written()
            .ends_with(&end)
            .then_some(())
            .ok_or("not there".to_owned())
    });
    wait(&task, &mut peer).await;
    left(peer);
    let written = disk.written();
    assert!(
        written.starts_with(&numbers(1, 1000)),
        "what was written before is there"
    );
    let log = log(&task);
    assert!(log.contains("its output is dropped"), "{log}");
    let missing = numbers(1, 201_000).len() - written.len();
    assert!(missing > 0);
    let told = told_losses(&log);
    assert_eq!(told, missing, "{log}");
}

/// The count of the last line that tells of dropped output.
fn told_losses(log: &str) -> usize {
    let last = log
        .lines()
        .filter_map(|line| line.split_once("output dropped: "))
        .next_back();
    let (_, counts) = last.unwrap_or_else(|| panic!("nothing is told: {log}"));
    counts.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn with_drop_a_full_log_disk_stops_no_task_and_every_byte_is_accounted_for() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let disk = Disk::small(&host, 256);
    let task = host.task("main");
    let script = "seq 1 200000; touch passed; while [ ! -e go ]; do sleep 0.02; done; seq 1 1000";
    let spec = TaskSpec {
        stdout: disk.output(&task, "stdout", true),
        ..task.shell(script)
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    appears(&task.logs.join("passed"));
    let all = numbers(1, 200_000);
    // The pump may still be at the last of it.
    eventually("the count of what was dropped", || {
        let written = disk.written();
        let log = log(&task);
        let is_full = !written.is_empty() && all.starts_with(&written) && log.contains("dropping it");
        is_full.then_some(()).ok_or(format!("{} bytes, {log}", written.len()))
    });
    let before = disk.written().len();
    eventually("an empty FIFO", || {
        let fifo = fs::File::options()
            .read(true)
            .write(true)
            .open(task.dir.path().join("stdout"));
        let unread = holdfast_sys::file::unread_bytes(fifo.unwrap()).unwrap();
        (unread == 0).then_some(()).ok_or(format!("{unread} bytes"))
    });
    fs::write(disk.folder.join("main.stdout.0"), "").unwrap();
    fs::write(task.logs.join("go"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(disk.written(), numbers(1, 1000), "there is room again");
    assert_eq!(told_losses(&log(&task)), all.len() - before, "{}", log(&task));
}

/// A script whose output has filled its disk, which refuses more for as long as its `filler` is there.
pub async fn refused(host: &Host, script: &str) -> (Disk, Task, Peer) {
    let disk = Disk::small(host, 2048);
    fs::write(disk.folder.join("filler"), vec![0; 1800 << 10]).unwrap();
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: disk.output(&task, "stdout", false),
        ..task.shell(script)
    };
    let (peer, _) = host.launch(&task, spec).await;
    eventually("the disk's refusal", || {
        let log = log(&task);
        log.contains("trying again").then_some(()).ok_or(log)
    });
    (disk, task, peer)
}

#[tokio::test]
async fn with_block_the_task_waits_for_a_full_log_disk_and_nothing_is_lost() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let (disk, task, mut peer) = refused(&host, "seq 1 200000; touch passed").await;
    stands_still(&disk.folder.join("main.stdout.0")).await;
    assert!(!task.logs.join("passed").exists(), "it waits");
    fs::remove_file(disk.folder.join("filler")).unwrap();
    wait(&task, &mut peer).await;
    left(peer);
    assert!(disk.written() == numbers(1, 200_000));
}

#[tokio::test]
async fn a_full_disk_for_logs_does_not_stop_the_end_and_the_other_stream() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let disk = Disk::small(&host, 64);
    let _ = fs::write(disk.folder.join("filler"), vec![0; 128 << 10]);
    let task = host.task("main");
    let spec = TaskSpec {
        stdout: disk.output(&task, "stdout", false),
        ..task.shell("echo lost; echo kept >&2; exit 9")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    let result = wait(&task, &mut peer).await;
    assert_eq!(result.status, Some(task_result::Status::Exited(9)));
    left(peer);
    assert_eq!(task.output("stderr"), b"kept\n");
    let log = log(&task);
    assert!(log.contains("No space left on device") && log.contains("lost"), "{log}");
}

#[tokio::test]
async fn dropped_output_is_told_at_once_and_then_rarely() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let disk = Disk::small(&host, 64);
    let task = host.task("main");
    holdfast_sys::file::mkfifo_at(&task.dir, "stdout", 0o600).unwrap();
    let open = || -> std::os::fd::OwnedFd {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        options.open(task.dir.path().join("stdout")).unwrap().into()
    };
    let output = holdfast_record::OutputRecord::Rotated {
        directory: disk.folder.clone(),
        prefix: "main.stdout".to_owned(),
        max_files: 10,
        max_file_bytes: 1 << 20,
        overflow: holdfast_record::Overflow::Drop,
    };
    let sink = holdfast_executor::output::Sink::open(&output).unwrap().unwrap();
    let (source, writer) = (open(), open());
    let spool = Spool::open(&task.dir, "stdout.spool").unwrap();
    let pump = Pump::start(vec![Stream { source, spool, sink }]).unwrap();
    let fill = || {
        let dropped = |pump: &Pump| pump.losses().iter().map(|loss| loss.dropped).sum::<u64>();
        let before = dropped(&pump);
        eventually("dropped output", || {
            let _ = holdfast_sys::readiness::write(&writer, &[b'x'; 4096]);
            (dropped(&pump) > before).then_some(()).ok_or("none".to_owned())
        });
    };
    fill();
    let told = tokio::time::timeout(PATIENCE, pump.overflowed())
        .await
        .expect("it is told");
    assert!(
        told.len() == 1 && told[0].dropped > 0 && told[0].label == "main.stdout",
        "{told:?}"
    );
    fill();
    let again = tokio::time::timeout(Duration::from_millis(500), pump.overflowed()).await;
    assert!(again.is_err(), "not twice in a minute: {again:?}");
    assert!(pump.losses()[0].dropped > told[0].dropped, "the totals for the end");
}
