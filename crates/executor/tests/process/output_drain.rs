//! What goes on collecting when the executor has left and stragglers have not.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holdfast_executor::drain;
use holdfast_executor::output::Sink;
use holdfast_executor::pump::{Pump, Stream};
use holdfast_executor::spool::Spool;
use holdfast_record::{OutputRecord, Overflow, PlanRecord, Status, TaskResult, names};
use holdfast_sys::process::PidFd;

use crate::host::{Host, Task, binary, ended, eventually, signal, status_field};

fn plan(task: &Task) -> PlanRecord {
    PlanRecord {
        stdout: OutputRecord::Rotated {
            directory: task.logs.clone(),
            prefix: "main.stdout".to_owned(),
            max_files: 1000,
            max_file_bytes: 4096,
            overflow: Overflow::Block,
        },
        ..PlanRecord::default()
    }
}

/// The task's FIFO as an executor makes it: open both ways.
fn fifo(task: &Task) -> OwnedFd {
    holdfast_sys::file::mkfifo_at(&task.dir, names::STDOUT, 0o600).unwrap();
    open(&task.dir.path().join(names::STDOUT), true)
}

fn open(path: &Path, both_ways: bool) -> OwnedFd {
    let mut options = File::options();
    options.write(true).read(both_ways).custom_flags(libc::O_NONBLOCK);
    options.open(path).unwrap().into()
}

/// A process of a task that holds its output.
fn straggler(task: &Task, script: &str) -> Child {
    let out: PathBuf = task.dir.path().join(names::STDOUT);
    Command::new("/bin/sh")
        .args(["-c", script])
        .current_dir(&task.logs)
        .stdout(File::options().write(true).open(out).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn pump(task: &Task, plan: &PlanRecord, source: &OwnedFd) -> Pump {
    let sink = Sink::open(&plan.stdout).unwrap().unwrap();
    let source = source.as_fd().try_clone_to_owned().unwrap();
    let spool = Spool::open(&task.dir, names::STDOUT_SPOOL).unwrap();
    Pump::start(vec![Stream { source, spool, sink }]).unwrap()
}

/// As the executor does it: the drain is ready, the result is written, the drain goes on.
async fn handed_over(task: &Task, plan: &PlanRecord, pump: &Pump) -> PidFd {
    let drain = drain::start(Path::new(binary()), &task.dir, plan, pump).await;
    let drain = drain.unwrap().unwrap();
    task.dir.write_result(&result()).unwrap();
    drain.go_on(&task.dir)
}

fn result() -> TaskResult {
    TaskResult::new(Status::Exited(0), false, 0, 0)
}

#[tokio::test]
async fn what_stragglers_write_is_collected_without_the_executor_and_the_drain_ends_with_them() {
    let host = Host::new();
    let task = host.task("main");
    let plan = plan(&task);
    let source = fifo(&task);
    let pump = pump(&task, &plan, &source);
    let mut straggler = straggler(
        &task,
        "seq 1 5000; touch passed; while [ ! -e go ]; do sleep 0.02; done; seq 5001 20000; echo end",
    );
    eventually("the first lines", || {
        task.stdout()
            .contains("\n5000\n")
            .then_some(())
            .ok_or("not there".to_owned())
    });
    let pidfd = handed_over(&task, &plan, &pump).await;
    let pid = pidfd.pid().unwrap().unwrap();
    // What an executor and an init leave behind when they go: nothing.
    drop((pump, source));
    assert!(task.dir.lock().unwrap().is_some(), "it holds no lock");
    assert_eq!(status_field(pid, "Name"), "holdfast-execut");
    let descriptors: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let holds = |name: &str| descriptors.contains(&task.dir.path().join(name));
    assert!(holds(names::STDOUT), "{descriptors:?}");
    assert!(
        !holds(""),
        "a descriptor of the folder could hold its lock: {descriptors:?}"
    );
    assert!(!pidfd.has_exited().unwrap(), "the straggler still has its output");
    fs::write(task.logs.join("go"), "").unwrap();
    assert!(straggler.wait().unwrap().success());
    ended(&pidfd);
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(task.stdout() == format!("{expected}end\n"));
    let sizes = fs::read_dir(&task.logs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.max().unwrap() <= 4096, "it rotates as before");
    host.nothing_left();
}

#[tokio::test]
async fn a_drain_takes_over_what_was_read_and_not_written() {
    let host = Host::new();
    let task = host.task("main");
    let to = task.logs.join(".main.stdout.fifo");
    holdfast_sys::file::mkfifo_at(File::open(&task.logs).unwrap(), ".main.stdout.fifo", 0o600).unwrap();
    let plan = PlanRecord {
        stdout: OutputRecord::Path(to.clone()),
        ..PlanRecord::default()
    };
    let source = fifo(&task);
    let pump = pump(&task, &plan, &source);
    // Nobody reads: the agent's FIFO is full, and so are the pump's hands and the task's FIFO.
    let mut straggler = straggler(&task, "seq 1 100000");
    eventually("a full pipe", || {
        let losses = pump.losses();
        let unwritten: u64 = losses.iter().map(|loss| loss.unwritten).sum();
        (unwritten > 64 * 1024).then_some(()).ok_or(format!("{losses:?}"))
    });
    let pidfd = handed_over(&task, &plan, &pump).await;
    drop((pump, source));
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut File::open(to).unwrap(), &mut text).unwrap();
        text
    });
    assert!(straggler.wait().unwrap().success());
    ended(&pidfd);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(read.join().unwrap() == expected);
}

#[tokio::test]
async fn a_drain_waits_for_the_tasks_cgroup_and_removes_it() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("true"));
    let Some(placement) = spec.placement else {
        return;
    };
    let record = holdfast_record::PlacementRecord {
        join: placement.join.iter().map(PathBuf::from).collect(),
        scope: Some(placement.scope.clone().into()),
        own: placement.own.iter().map(PathBuf::from).collect(),
        ..Default::default()
    };
    let scope = holdfast_executor::task::scope_of(&record).unwrap();
    scope.make().unwrap();
    let plan = PlanRecord {
        placement: record,
        ..plan(&task)
    };
    let source = fifo(&task);
    let pump = pump(&task, &plan, &source);
    let mut straggler = straggler(&task, "exec >&- ; while [ ! -e go ]; do sleep 0.02; done");
    let pid = i32::try_from(straggler.id()).unwrap();
    holdfast_cgroup::enter(&scope.join, pid).unwrap();
    let pidfd = handed_over(&task, &plan, &pump).await;
    drop((pump, source));
    assert!(!pidfd.has_exited().unwrap());
    assert!(scope.kill.exists());
    // A drain is killed by nobody but somebody: its end leaves the task alone.
    signal(pid, 0);
    fs::write(task.logs.join("go"), "").unwrap();
    straggler.wait().unwrap();
    ended(&pidfd);
    assert!(scope.own.iter().all(|dir| !dir.exists()), "{scope:?}");
}

#[tokio::test]
async fn a_drain_whose_executor_died_before_the_end_was_on_disk_leaves_the_output_to_the_next() {
    let host = Host::new();
    let task = host.task("main");
    let plan = plan(&task);
    let source = fifo(&task);
    let expected: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    for has_result in [false, true] {
        let pump = pump(&task, &plan, &source);
        let drain = drain::start(Path::new(binary()), &task.dir, &plan, &pump).await;
        drop(pump);
        // From now on the FIFO is nobody's: what is written waits.
        let mut straggler = straggler(&task, "seq 1 3000");
        straggler.wait().unwrap();
        if has_result {
            task.dir.write_result(&result()).unwrap();
        }
        // What the end of the executor does.
        drop(drain.unwrap().unwrap());
        if has_result {
            eventually("the output", || {
                (task.stdout().len() >= 2 * expected.len())
                    .then_some(())
                    .ok_or("not all".to_owned())
            });
        } else {
            eventually("the drain's end", || {
                let pids = crate::host::pids_holding(task.dir.path().to_str().unwrap());
                pids.is_empty().then_some(()).ok_or(format!("{pids:?}"))
            });
            assert_eq!(task.stdout(), "", "it has touched nothing");
            // An executor that has adopted.
            let pump = self::pump(&task, &plan, &source);
            assert_eq!(pump.drain().await.unwrap(), 0);
        }
    }
    assert!(task.stdout() == format!("{expected}{expected}"));
    drop(source);
    host.nothing_left();
}

#[tokio::test]
async fn output_that_goes_nowhere_needs_no_drain() {
    let host = Host::new();
    let task = host.task("main");
    let plan = PlanRecord::default();
    let pump = Pump::start(Vec::new()).unwrap();
    let started = drain::start(Path::new(binary()), &task.dir, &plan, &pump)
        .await
        .unwrap();
    assert!(started.is_none());
}
