//! How a task ends: whom a signal reaches, in which steps it is stopped, what counts as its end, how long it may run.

use holdfast_record::{Notice, Status, StopRecord};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::{Ending, KillStep, KillTarget, SignalRequest, TaskSpec, task_result};

use crate::host::{Host, StartMode, Task, ended, eventually, gone, kill, left, lives, pids_holding, signal, wait};
use crate::stop::{kill_now, stop};

fn ending(spec: TaskSpec, ending: Ending) -> TaskSpec {
    TaskSpec {
        ending: Some(ending),
        ..spec
    }
}

fn target(target: KillTarget) -> Ending {
    Ending {
        kill_target: target.into(),
        ..Ending::default()
    }
}

/// Main, a child in its group, and one in a session of its own; each says its name when asked to leave, and the children leave. Main waits
/// until those have been asked who are to be: what it leaves behind is killed.
fn family(asked: &[&str]) -> String {
    format!("for_those='{}'\n{FAMILY}", asked.join(" "))
}

const FAMILY: &str = "
    wait_for_it() { echo $1 ready; while [ ! -e left-$1 ]; do sleep 0.02; done; }
    (trap 'echo asked child; : > left-child' TERM; wait_for_it child) &
    setsid sh -c \"trap 'echo asked stranger; : > left-stranger' TERM; echo stranger ready; \
        while [ ! -e left-stranger ]; do sleep 0.02; done\" &
    trap 'echo asked main; : > left-main' TERM
    wait_for_it main
    for name in $for_those; do
        while [ ! -e left-$name ]; do sleep 0.02; done
    done
    sleep 0.3
    exit 4
";

const ALL: [&str; 3] = ["main", "child", "stranger"];

async fn asked(
    target_of_task: KillTarget,
    by_signal: bool,
    expected: &[&str],
) -> (String, Option<task_result::Status>) {
    let mut host = Host::new();
    let task = host.task("main");
    let given = if by_signal { KillTarget::Main } else { target_of_task };
    let spec = host.scoped(ending(task.shell(&family(expected)), target(given)));
    let (mut peer, _) = host.launch(&task, spec).await;
    for name in ["child", "stranger", "main"] {
        task.says(&format!("{name} ready"));
    }
    if by_signal {
        let request = SignalRequest {
            signal: libc::SIGTERM,
            target: Some(target_of_task.into()),
        };
        peer.executor.signal(request).await.unwrap();
    } else {
        peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    }
    let status = wait(&task, &mut peer).await.status;
    left(peer);
    host.nothing_left();
    (task.stdout(), status)
}

#[tokio::test]
async fn a_stop_asks_whom_the_job_names() {
    for (target, expected) in [
        (KillTarget::Main, &ALL[..1]),
        (KillTarget::Group, &ALL[..2]),
        (KillTarget::Cgroup, &ALL[..]),
    ] {
        for by_signal in [false, true] {
            let (stdout, status) = asked(target, by_signal, expected).await;
            let was_asked = |name: &&str| stdout.contains(&format!("asked {name}"));
            let asked: Vec<&str> = ALL.into_iter().filter(was_asked).collect();
            assert_eq!(asked, expected, "{target:?} {by_signal}: {stdout}");
            assert_eq!(status, Some(task_result::Status::Exited(4)));
        }
    }
}

#[tokio::test]
async fn without_a_cgroup_of_its_own_all_who_descend_are_asked() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host
        .launch(&task, ending(task.shell(&family(&ALL)), target(KillTarget::Cgroup)))
        .await;
    for name in ["child", "stranger", "main"] {
        task.says(&format!("{name} ready"));
    }
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    left(peer);
    for name in ["child", "stranger", "main"] {
        assert!(task.stdout().contains(&format!("asked {name}")), "{}", task.stdout());
    }
    host.nothing_left();
}

#[tokio::test]
async fn sessions_are_not_asked_to_leave_with_the_task() {
    let mut host = Host::new();
    let task = host.task("main");
    let script =
        "trap 'echo asked main; : > left' TERM; echo ready; while [ ! -e left ]; do sleep 0.02; done; sleep 0.3";
    let spec = host.scoped(ending(task.shell(script), target(KillTarget::Cgroup)));
    let (mut peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    let mut session = peer.executor.clone();
    let heard = task.logs.join("heard");
    let script = format!(
        "trap ': > {}' TERM; : > session; while :; do sleep 0.02; done",
        heard.display()
    );
    let running = tokio::spawn(async move {
        let request = holdfast_wire::executor_v1::ExecRequest {
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
            timeout_ms: 0,
        };
        session.exec(request).await.map(drop)
    });
    let marker = task.logs.join("session");
    while !marker.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    let _ = running.await;
    left(peer);
    assert!(task.stdout().contains("asked main"));
    assert!(!heard.exists(), "the session was killed without having been asked");
    host.nothing_left();
}

fn steps(steps: &[(i32, u64)]) -> Ending {
    let step = |(signal, grace_ms): &(i32, u64)| KillStep {
        signal: *signal,
        grace_ms: *grace_ms,
    };
    Ending {
        kill_sequence: steps.iter().map(step).collect(),
        ..Ending::default()
    }
}

const STUBBORN: &str = "
    for name in HUP INT QUIT TERM USR1; do trap \"echo $name\" $name; done
    echo ready
    while :; do sleep 0.02; done
";

fn words(task: &Task) -> Vec<String> {
    task.stdout().split_whitespace().skip(1).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_kill_sequence_is_gone_through_and_ends_with_a_kill() {
    let mut host = Host::new();
    let task = host.task("main");
    let sequence = steps(&[(libc::SIGHUP, 1_500), (libc::SIGUSR1, 1_500), (libc::SIGQUIT, 1_500)]);
    let spec = host.scoped(ending(task.shell(STUBBORN), sequence));
    let (mut peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    peer.executor.stop(stop(libc::SIGTERM, 60_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    assert_eq!(words(&task), ["HUP", "USR1", "QUIT"], "and nobody sent TERM");
    host.nothing_left();
}

#[tokio::test]
async fn the_grace_of_the_stop_bounds_its_sequence() {
    let host = Host::new();
    let task = host.task("main");
    let sequence = steps(&[(libc::SIGHUP, 1_000), (libc::SIGUSR1, 3_600_000), (libc::SIGQUIT, 300)]);
    let (mut peer, _) = host.launch(&task, ending(task.shell(STUBBORN), sequence)).await;
    task.says("ready");
    peer.executor.stop(stop(libc::SIGTERM, 3_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    assert_eq!(words(&task), ["HUP", "USR1"]);
    host.nothing_left();
}

#[tokio::test]
async fn an_obedient_task_ends_a_sequence_early() {
    let host = Host::new();
    let task = host.task("main");
    let script = "trap 'echo HUP' HUP; trap 'echo USR1; exit 9' USR1; echo ready; while :; do sleep 0.02; done";
    let sequence = steps(&[
        (libc::SIGHUP, 200),
        (libc::SIGUSR1, 3_600_000),
        (libc::SIGKILL, 3_600_000),
    ]);
    let (mut peer, _) = host.launch(&task, ending(task.shell(script), sequence)).await;
    task.says("ready");
    peer.executor.stop(stop(libc::SIGTERM, 3_600_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Exited(9));
    assert_eq!(words(&task), ["HUP", "USR1"]);
}

async fn adopt(host: &Host, task: &Task) -> holdfast_executor::client::Peer {
    host.start(task, StartMode::Adopt).await.unwrap()
}

#[tokio::test]
async fn an_adopting_executor_goes_on_with_the_sequence_where_it_was() {
    let mut host = Host::new();
    let task = host.task("main");
    let sequence = steps(&[(libc::SIGHUP, 1_000), (libc::SIGUSR1, 5_000), (libc::SIGQUIT, 1_500)]);
    let spec = host.scoped(ending(task.shell(STUBBORN), sequence));
    let (peer, _) = host.running_spec(&task, spec).await;
    task.says("ready");
    let mut stopping = peer.executor.clone();
    let request = tokio::spawn(async move { stopping.stop(stop(libc::SIGTERM, 60_000)).await });
    let is_second = |stop: &StopRecord| stop.signal == libc::SIGUSR1 && stop.signalled;
    while !task.record().stop.as_ref().is_some_and(is_second) {
        assert!(!request.is_finished(), "it ends with a kill and not before");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    kill(peer);
    request.await.unwrap().unwrap_err();
    let deadline = task.record().stop.unwrap().deadline_boot_ms;
    let peer = adopt(&host, &task).await;
    assert_eq!(task.record().stop.unwrap().deadline_boot_ms, deadline);
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
    assert_eq!(words(&task), ["HUP", "USR1", "QUIT"], "each once, whoever sent it");
    host.nothing_left();
}

/// What is on disk when the executor dies after it has recorded a step and before it has sent its signal.
#[tokio::test]
async fn a_signal_that_was_recorded_and_not_sent_is_sent_by_who_adopts() {
    let host = Host::new();
    let task = host.task("main");
    let script = "trap 'echo TERM; exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    let (peer, _) = host.running(&task, script).await;
    task.says("ready");
    kill(peer);
    let mut record = task.record();
    let until = holdfast_sys::clock::boottime() + std::time::Duration::from_secs(3600);
    record.stop = Some(holdfast_record::StopRecord::new(libc::SIGTERM, until));
    task.dir.write_record(&record).unwrap();
    // It may be through with the task, and have left, before it has said who it is.
    let adopter = host.start(&task, StartMode::Adopt).await;
    assert_eq!(task.result().status, Status::Exited(3));
    if let Ok(peer) = adopter {
        left(peer);
    }
    host.nothing_left();
}

fn with_cgroup() -> Ending {
    Ending {
        exit_with_cgroup: true,
        ..Ending::default()
    }
}

/// Main ends at once with 6; a child goes on until it is allowed to leave.
const OUTLIVED: &str = "
    setsid sh -c 'echo $$ > child; trap \"echo asked; exit 0\" TERM; echo daemon; while [ ! -e go ]; do sleep 0.02; done; echo last' &
    while [ ! -s child ]; do sleep 0.02; done
    exit 6
";

fn child_of(task: &Task) -> i32 {
    eventually("the child's pid", || {
        let content = std::fs::read_to_string(task.logs.join("child")).unwrap_or_default();
        content.trim().parse().map_err(|_| content.clone())
    })
}

#[tokio::test]
async fn a_task_may_last_as_long_as_anything_of_it() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec = ending(task.shell(OUTLIVED), with_cgroup());
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (mut peer, launched) = host.running_spec(&task, spec).await;
        gone(launched.main.unwrap().pid);
        let child = child_of(&task);
        assert!(lives(child));
        assert_eq!(task.dir.result().unwrap(), None);
        // The main process cannot be asked any more, and the others can.
        let request = |target: KillTarget| SignalRequest {
            signal: libc::SIGCONT,
            target: Some(target.into()),
        };
        eventually("that main is known to be over", || {
            let exit = task.dir.exit().unwrap();
            exit.map(drop).ok_or("no exit".to_owned())
        });
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let error = peer.executor.signal(request(KillTarget::Main)).await.unwrap_err();
        assert_eq!(error.message(), "the main process is over");
        peer.executor.signal(request(KillTarget::Cgroup)).await.unwrap();
        std::fs::write(task.logs.join("go"), "").unwrap();
        let status = wait(&task, &mut peer).await.status;
        assert_eq!(status, Some(task_result::Status::Exited(6)), "it is the main process's");
        left(peer);
        assert_eq!(task.stdout(), "daemon\nlast\n");
        host.nothing_left();
    }
}

#[tokio::test]
async fn without_its_main_process_a_task_is_stopped_and_killed_all_the_same() {
    for grace_ms in [20_000, 0] {
        let mut host = Host::new();
        let task = host.task("main");
        let spec = host.scoped(ending(task.shell(OUTLIVED), with_cgroup()));
        let (mut peer, launched) = host.running_spec(&task, spec).await;
        gone(launched.main.unwrap().pid);
        let child = child_of(&task);
        task.says("daemon");
        peer.executor.stop(stop(libc::SIGTERM, grace_ms)).await.unwrap();
        left(peer);
        assert_eq!(task.result().status, Status::Exited(6));
        let log = std::fs::read_to_string(task.dir.path().join("executor.log"));
        assert_eq!(
            task.stdout().contains("asked"),
            grace_ms > 0,
            "{:?}, {log:?}",
            task.stdout()
        );
        gone(child);
        host.nothing_left();
    }
}

#[tokio::test]
async fn a_task_without_its_main_process_is_adopted() {
    for main_ends_unseen in [false, true] {
        let mut host = Host::new();
        let task = host.task("main");
        let script = format!("while [ ! -e end ]; do sleep 0.02; done; {OUTLIVED}");
        let spec = host.scoped(ending(task.shell(&script), with_cgroup()));
        let (peer, launched) = host.running_spec(&task, spec).await;
        let main = launched.main.unwrap().pid;
        let end = || {
            std::fs::write(task.logs.join("end"), "").unwrap();
            gone(main);
        };
        if main_ends_unseen {
            kill(peer);
            end();
        } else {
            end();
            eventually("that the end is recorded", || {
                task.record().main_oom_killed.ok_or("it is not".to_owned())
            });
            kill(peer);
        }
        let child = child_of(&task);
        let mut peer = adopt(&host, &task).await;
        assert!(lives(child));
        assert_eq!(task.dir.result().unwrap(), None);
        std::fs::write(task.logs.join("go"), "").unwrap();
        let status = wait(&task, &mut peer).await.status;
        assert_eq!(status, Some(task_result::Status::Exited(6)));
        left(peer);
        assert_eq!(task.stdout(), "daemon\nlast\n");
        host.nothing_left();
    }
}

#[tokio::test]
async fn what_is_left_may_go_on_and_is_still_heard() {
    let mut host = Host::new();
    let task = host.task("main");
    let script = "setsid sh -c 'echo $$ > child; while [ ! -e go ]; do sleep 0.02; done; echo late' & \
                  while [ ! -s child ]; do sleep 0.02; done; echo done; exit 6";
    let leave = Ending {
        leave_stragglers: true,
        ..Ending::default()
    };
    let spec = host.scoped(ending(task.shell(script), leave));
    let (mut peer, _) = host.running_spec(&task, spec).await;
    let status = wait(&task, &mut peer).await.status;
    assert_eq!(status, Some(task_result::Status::Exited(6)));
    left(peer);
    let child = child_of(&task);
    assert!(lives(child), "it is not killed");
    assert_eq!(task.stdout(), "done\n");
    assert_eq!(notices(&task), [], "nothing is lost");
    std::fs::write(task.logs.join("go"), "").unwrap();
    task.says("late");
    gone(child);
    host.nothing_left();
}

#[tokio::test]
async fn a_kill_is_for_all_also_where_stragglers_may_stay() {
    let mut host = Host::new();
    let task = host.task("main");
    let script =
        "setsid sh -c 'echo $$ > child; exec sleep 1000' & trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let leave = Ending {
        leave_stragglers: true,
        ..Ending::default()
    };
    let spec = host.scoped(ending(task.shell(script), leave));
    let (mut peer, _) = host.running_spec(&task, spec).await;
    task.says("ready");
    let child = child_of(&task);
    peer.executor.stop(stop(libc::SIGTERM, 200)).await.unwrap();
    left(peer);
    gone(child);
    host.nothing_left();
}

fn at_most(limit_ms: u64, grace_ms: u64) -> Ending {
    Ending {
        max_runtime_ms: limit_ms,
        max_runtime_signal: libc::SIGUSR1,
        max_runtime_grace_ms: grace_ms,
        ..Ending::default()
    }
}

fn notices(task: &Task) -> Vec<Notice> {
    task.dir.notices().unwrap().unwrap_or_default().notices
}

#[tokio::test]
async fn a_task_that_has_run_as_long_as_it_may_is_stopped() {
    for (grace_ms, expected) in [(20_000, Status::Exited(8)), (0, Status::Signalled(libc::SIGKILL))] {
        let host = Host::new();
        let task = host.task("main");
        let script = "trap 'echo asked; exit 8' USR1; echo ready; while :; do sleep 0.02; done";
        let (mut peer, _) = host
            .running_spec(&task, ending(task.shell(script), at_most(2_000, grace_ms)))
            .await;
        let result = wait(&task, &mut peer).await;
        assert!(result.timed_out);
        left(peer);
        let result = task.result();
        assert_eq!((result.status, result.timed_out), (expected, true));
        let messages: Vec<String> = notices(&task).into_iter().map(|notice| notice.message).collect();
        assert_eq!(messages, ["maximum run time reached"]);
    }
}

#[tokio::test]
async fn a_task_that_ends_in_time_is_not_timed_out() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host
        .running_spec(&task, ending(task.shell("exit 0"), at_most(60_000, 1_000)))
        .await;
    assert!(!wait(&task, &mut peer).await.timed_out);
    left(peer);
    assert_eq!(notices(&task), []);
}

#[tokio::test]
async fn a_run_time_without_bounds_is_one() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host
        .running_spec(&task, ending(task.shell("sleep 1000"), at_most(u64::MAX, u64::MAX)))
        .await;
    kill_now(peer).await;
    assert!(!task.result().timed_out);
}

#[tokio::test]
async fn the_run_time_goes_on_while_nobody_supervises() {
    let host = Host::new();
    let task = host.task("main");
    let script = "trap 'echo asked; exit 8' USR1; echo ready; while :; do sleep 0.02; done";
    let (peer, _) = host
        .running_spec(&task, ending(task.shell(script), at_most(4_000, 20_000)))
        .await;
    task.says("ready");
    let deadline = task.record().runtime_deadline_boot_ms.unwrap();
    kill(peer);
    eventually("the deadline", || {
        let now = holdfast_sys::clock::boottime().as_millis();
        (now > u128::from(deadline)).then_some(()).ok_or("not yet".to_owned())
    });
    // It may be done before it can be asked who it is.
    let adopting = host.start(&task, StartMode::Adopt).await;
    let result = task.result();
    assert_eq!((result.status, result.timed_out), (Status::Exited(8), true));
    if let Ok(peer) = adopting {
        left(peer);
    }
    assert_eq!(
        task.record().runtime_deadline_boot_ms,
        Some(deadline),
        "it was not begun anew"
    );
}

/// Somebody else has frozen the cgroup above: neither a kill nor a thaw of ours reaches through that. Only v1's freezer holds
/// what was killed; v2's lets it die.
#[tokio::test]
async fn what_does_not_die_of_a_kill_is_named_with_its_state() {
    if holdfast_cgroup::version() != Some(holdfast_cgroup::Version::V1) {
        eprintln!("cgroup v2 lets the killed die in a frozen cgroup");
        return;
    }
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("echo ready; while :; do sleep 0.02; done"));
    let scope = std::path::PathBuf::from(&spec.placement.as_ref().unwrap().scope);
    let state = scope.parent().unwrap().join("freezer.state");
    let (mut peer, launched) = host.running_spec(&task, spec).await;
    let main = launched.main.unwrap().pid;
    task.says("ready");
    std::fs::write(&state, "FROZEN").unwrap();
    let error = peer.executor.stop(stop(libc::SIGTERM, 50)).await.unwrap_err();
    let expected = format!("pid {main} in state ");
    assert!(
        error.message().contains("still there") && error.message().contains(&expected),
        "{error}"
    );
    assert_eq!(task.dir.result().unwrap(), None, "what is alive is not over");
    // Another stop does not answer at once that it is well either, and ends with the task.
    let mut again = peer.executor.clone();
    let stopping = tokio::spawn(async move { again.stop(stop(libc::SIGTERM, 0)).await.map(drop) });
    std::fs::write(&state, "THAWED").unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
    host.nothing_left();
}

/// A process that is not the task's has the number of one that was: it must not be reached by whoever knows the number.
#[tokio::test]
async fn nobody_is_signalled_after_the_main_process_is_reaped() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(ending(task.shell(OUTLIVED), with_cgroup()));
    let (mut peer, launched) = host.running_spec(&task, spec).await;
    let main = launched.main.unwrap().pid;
    gone(main);
    eventually("that the end is recorded", || {
        task.record().main_oom_killed.ok_or("it is not".to_owned())
    });
    for target in [KillTarget::Main, KillTarget::Group] {
        let request = SignalRequest {
            signal: libc::SIGKILL,
            target: Some(target.into()),
        };
        peer.executor.signal(request).await.unwrap_err();
    }
    let child = child_of(&task);
    assert!(lives(child), "it is in no group of the main process's");
    let pidfd = PidFd::open(child).unwrap();
    signal(child, libc::SIGKILL);
    ended(&pidfd);
    wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(pids_holding(host.path().to_str().unwrap()), Vec::<i32>::new());
}
