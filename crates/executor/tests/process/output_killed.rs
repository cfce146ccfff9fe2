//! Executors that are killed amid the output: no byte is lost and none is written twice.

use std::fs;
use std::path::Path;
use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_wire::executor_v1::{CommitRequest, TaskSpec, task_result};

use crate::host::{Host, StartMode, Task, eventually, is_root, kill, left, wait};
use crate::output_disk::{Disk, refused};

/// Executors that are killed in turn.
const KILLS: u32 = 250;

/// Instants that differ from run to run.
struct Instants(u64);

impl Instants {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.unwrap().as_nanos() as u64 | 1;
        println!("seed {seed}");
        Self(seed)
    }

    /// Up to so many microseconds.
    fn next(&mut self, most: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_micros((self.0 >> 33) % most)
    }
}

/// Kills one executor after the other, each a random while after it has adopted the task. The last lives. Says how many died with
/// output between FIFO and file.
async fn killed_again_and_again(host: &Host, task: &Task, mut peer: Peer, kills: u32) -> (Peer, u32) {
    let mut instants = Instants::new();
    let mut amid = 0;
    for round in 0..kills {
        // Some as soon as they have taken over, some amid a stream that flows.
        let pause = instants.next(if round % 4 == 0 { 40_000 } else { 3_000 });
        tokio::time::sleep(pause).await;
        kill(peer);
        amid += u32::from(unread(task, "stdout.spool") > 0);
        peer = host.start(task, StartMode::Adopt).await.unwrap();
    }
    (peer, amid)
}

fn unread(task: &Task, fifo: &str) -> usize {
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .open(task.dir.path().join(fifo));
    holdfast_sys::file::unread_bytes(opened.unwrap()).unwrap()
}

/// Compares with the numbers from one on, and says how many bytes were compared.
fn assert_counts_up(what: &str, written: &[u8], last: u64) -> usize {
    let mut rest = written;
    let mut line = Vec::new();
    for number in 1..=last {
        line.clear();
        std::io::Write::write_fmt(&mut line, format_args!("{number}\n")).unwrap();
        let Some(after) = rest.strip_prefix(line.as_slice()) else {
            let end = rest.len().min(60);
            let found = String::from_utf8_lossy(&rest[..end]).into_owned();
            panic!(
                "{what}: at byte {} not {number} but {found:?}",
                written.len() - rest.len()
            );
        };
        rest = after;
    }
    assert!(rest.is_empty(), "{what}: {} bytes more than were written", rest.len());
    written.len()
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn no_byte_is_lost_or_doubled_when_executors_are_killed_at_any_instant_l4() {
    let host = Host::new();
    let task = host.task("main");
    // One stream as quick as it can be, one of single lines, both until they are told to end.
    let script = "(n=0; while [ ! -e go ]; do n=$((n+1)); echo $n >&2; sleep 0.001; done; echo $n > slow) & \
                  n=0; while [ ! -e go ]; do seq $((n+1)) $((n+2000)); n=$((n+2000)); done; echo $n > quick; wait; exit 7";
    let spec = TaskSpec {
        stdout: Some(task.rotated("stdout", 1_000_000, 100_000)),
        stderr: Some(task.rotated("stderr", 1_000_000, 500)),
        ..task.shell(script)
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let (mut peer, amid) = killed_again_and_again(&host, &task, peer, KILLS).await;
    assert!(amid > 0, "no executor was killed with output on its way");
    fs::write(task.logs.join("go"), "").unwrap();
    let result = wait(&task, &mut peer).await;
    assert_eq!(result.status, Some(task_result::Status::Exited(7)));
    left(peer);
    let mut bytes = 0;
    for (stream, count, most) in [("stdout", "quick", 100_000), ("stderr", "slow", 500)] {
        let last = number(&task.logs.join(count));
        assert!(last > 1000, "{stream}: {last} lines");
        bytes += assert_counts_up(stream, &task.output(stream), last);
        let prefix = format!("main.{stream}.");
        let mut files = 0;
        for entry in fs::read_dir(&task.logs).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_str().unwrap().starts_with(&prefix) {
                continue;
            }
            let content = fs::read(&path).unwrap();
            let is_whole = content.len() <= most && content.last().is_none_or(|last| *last == b'\n');
            assert!(is_whole, "{} has {} bytes", path.display(), content.len());
            files += 1;
        }
        assert!(files > 5, "{stream}: {files} files");
    }
    println!("{KILLS} executors killed, {amid} with output on its way; {bytes} bytes compared");
    host.nothing_left();
}

#[tokio::test]
async fn what_waits_for_a_full_disk_survives_the_executors_that_are_killed_meanwhile() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let script = "seq 1 200000; while [ ! -e go ]; do sleep 0.02; done";
    let (disk, task, mut peer) = refused(&host, script).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let (peer, amid) = killed_again_and_again(&host, &task, peer, 20).await;
    assert_eq!(amid, 20, "all had output that could not be written");
    fs::remove_file(disk.folder.join("filler")).unwrap();
    let (mut peer, _) = killed_again_and_again(&host, &task, peer, 5).await;
    fs::write(task.logs.join("go"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
    assert_counts_up("stdout", disk.written().as_bytes(), 200_000);
}

#[tokio::test]
async fn executors_that_drop_may_be_killed_and_what_there_is_room_for_is_written_once() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let disk = Disk::small(&host, 256);
    let task = host.task("main");
    let script = "n=0; while [ ! -e go ]; do seq $((n+1)) $((n+1000)); n=$((n+1000)); done; echo $n > count; \
                  while [ ! -e go-on ]; do sleep 0.02; done; seq 1 1000; touch passed; while [ ! -e end ]; do sleep 0.02; done";
    let spec = TaskSpec {
        stdout: disk.output(&task, "stdout", true),
        ..task.shell(script)
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let (peer, _) = killed_again_and_again(&host, &task, peer, 20).await;
    let dropping = || {
        fs::read_to_string(task.dir.path().join("executor.log"))
            .unwrap()
            .contains("dropping it")
    };
    eventually("a full disk", || dropping().then_some(()).ok_or("not full".to_owned()));
    fs::write(task.logs.join("go"), "").unwrap();
    eventually("the end of what is dropped", || {
        let is_over = task.logs.join("count").exists() && unread(&task, "stdout") + unread(&task, "stdout.spool") == 0;
        is_over.then_some(()).ok_or("there is more".to_owned())
    });
    let all: String = (1..=number(&task.logs.join("count")))
        .map(|number| format!("{number}\n"))
        .collect();
    let written = disk.written();
    assert!(!written.is_empty() && written.len() < all.len());
    assert!(all.starts_with(&written), "until the disk was full all is there, once");
    fs::write(disk.folder.join("main.stdout.0"), "").unwrap();
    fs::write(task.logs.join("go-on"), "").unwrap();
    let (mut peer, _) = killed_again_and_again(&host, &task, peer, 5).await;
    eventually("the task's end", || {
        task.logs
            .join("passed")
            .exists()
            .then_some(())
            .ok_or("it waits".to_owned())
    });
    fs::write(task.logs.join("end"), "").unwrap();
    wait(&task, &mut peer).await;
    left(peer);
    assert_counts_up("after there was room again", disk.written().as_bytes(), 1000);
}
