//! Tasks that must not be alone for long: who attends, and what becomes of a task to which nobody does.

use std::fs;
use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_record::{ProcessIdentity, Status};
use holdfast_sys::clock::boottime;
use holdfast_wire::executor_v1::{AttendRequest, Ending, TaskSpec, task_result};

use crate::host::{Host, StartMode, Task, eventually, finished, kill, left, lives, status_field, text, wait};
use crate::stop::kill_now;

const OBEDIENT: &str = "trap 'echo asked; exit 0' INT; echo ready; while :; do sleep 0.05; done";
/// Longer than any test.
const LONG_MS: u64 = 3_600_000;

fn bounded(task: &Task, script: &str, limit_ms: u64) -> TaskSpec {
    TaskSpec {
        ending: Some(Ending {
            stop_unattended_after_ms: limit_ms,
            ..Ending::default()
        }),
        ..task.shell(script)
    }
}

async fn attend(peer: &mut Peer, attends: bool) {
    peer.executor.attend(AttendRequest { attends }).await.unwrap();
}

#[tokio::test]
async fn a_task_to_which_nobody_attends_is_stopped_in_the_ordinary_way_and_says_why() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running_spec(&task, bounded(&task, OBEDIENT, 300)).await;
    task.says("ready");
    assert_eq!(
        task.record().attendant.map(|attendant| attendant.pid),
        Some(std::process::id().cast_signed()),
        "whoever commits attends"
    );
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        task.dir.result().unwrap().is_none(),
        "while somebody attends no time runs"
    );
    attend(&mut peer, false).await;
    let told = wait(&task, &mut peer).await;
    assert_eq!(
        (told.status, told.unattended),
        (Some(task_result::Status::Exited(0)), true)
    );
    left(peer);
    let result = task.result();
    assert!(result.unattended && !result.timed_out && !result.executor_lost);
    assert!(task.stdout().ends_with("asked\n"), "it was asked and not killed");
    let notices = task.dir.notices().unwrap().unwrap().notices;
    assert_eq!(
        notices[0].message,
        "no driver attended to the task for 300ms; it is stopped"
    );
    assert_eq!(notices[0].annotations["on_agent_exit_ms"], "300");
    host.nothing_left();
}

/// Whoever has committed is gone at once: a person's command.
#[tokio::test]
async fn the_death_of_whoever_attended_starts_the_count() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.launch(&task, bounded(&task, OBEDIENT, 300)).await;
    task.says("ready");
    assert_eq!(task.record().attendant, None, "nobody has committed it");
    kill(peer);
    let adopted = host.by_hand(&["adopt", &task.folder()]);
    assert!(adopted.status.success(), "{}", text(&adopted.stderr));
    let result = task.result();
    assert_eq!((result.status, result.unattended), (Status::Exited(0), true));
    host.nothing_left();
}

#[tokio::test]
async fn whoever_comes_in_time_ends_the_count() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running_spec(&task, bounded(&task, OBEDIENT, LONG_MS)).await;
    attend(&mut peer, false).await;
    let until = Duration::from_millis(task.record().unattended_until_boot_ms.expect("time runs"));
    assert!(until > boottime());
    assert_eq!(task.record().attendant, None);
    attend(&mut peer, false).await;
    assert_eq!(
        task.record().unattended_until_boot_ms.map(Duration::from_millis),
        Some(until),
        "time that runs is not begun anew"
    );
    attend(&mut peer, true).await;
    let record = task.record();
    assert_eq!(record.unattended_until_boot_ms, None);
    let own = ProcessIdentity::of_self().unwrap();
    assert!(record.attendant.is_some_and(|attendant| attendant.is_same(&own)));
    kill_now(peer).await;
    assert!(!task.result().unattended);
}

#[tokio::test]
async fn the_time_that_was_recorded_holds_for_the_next_executor_though_somebody_comes_with_it() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host.running_spec(&task, bounded(&task, OBEDIENT, 1000)).await;
    task.says("ready");
    attend(&mut peer, false).await;
    let until = Duration::from_millis(task.record().unattended_until_boot_ms.unwrap());
    kill(peer);
    while boottime() <= until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(lives(launched.main.unwrap().pid), "nobody could stop it");
    if let Ok(mut peer) = host.start(&task, StartMode::Adopt).await {
        // Too late, and not refused.
        let _ = peer.executor.attend(AttendRequest { attends: true }).await;
        left(peer);
    }
    let result = task.result();
    assert_eq!((result.status, result.unattended), (Status::Exited(0), true));
    host.nothing_left();
}

#[tokio::test]
async fn an_adopting_executor_goes_on_watching_whoever_attends() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running_spec(&task, bounded(&task, OBEDIENT, 300)).await;
    task.says("ready");
    kill(peer);
    let mut peer = host.start(&task, StartMode::Adopt).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(task.dir.result().unwrap().is_none(), "this test attends");
    attend(&mut peer, false).await;
    left(peer);
    assert!(task.result().unattended);
    host.nothing_left();
}

#[tokio::test]
async fn a_sequence_of_the_job_is_what_an_unattended_task_is_stopped_with() {
    let host = Host::new();
    let task = host.task("main");
    let mut spec = bounded(
        &task,
        "trap 'echo first' USR1; trap 'echo second; exit 4' TERM; echo ready; while :; do sleep 0.05; done",
        200,
    );
    let step = |signal, grace_ms| holdfast_wire::executor_v1::KillStep { signal, grace_ms };
    spec.ending.as_mut().unwrap().kill_sequence = vec![step(libc::SIGUSR1, 500), step(libc::SIGTERM, 20_000)];
    let (mut peer, _) = host.running_spec(&task, spec).await;
    task.says("ready");
    attend(&mut peer, false).await;
    left(peer);
    assert_eq!(task.result().status, Status::Exited(4));
    assert!(task.stdout().ends_with("first\nsecond\n"), "{}", task.stdout());
    host.nothing_left();
}

#[tokio::test]
async fn a_task_without_a_bound_watches_nobody() {
    let host = Host::new();
    let task = host.task("main");
    let descriptors = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let (mut peer, _) = host.running(&task, "echo ready; exec sleep 1000").await;
    task.says("ready");
    attend(&mut peer, false).await;
    assert_eq!(
        (task.record().attendant, task.record().unattended_until_boot_ms),
        (None, None)
    );
    let free = descriptors(peer.identity.pid);
    let other = host.task("other");
    let (watching, _) = host
        .running_spec(&other, bounded(&other, "echo ready; exec sleep 1000", LONG_MS))
        .await;
    other.says("ready");
    assert_eq!(descriptors(watching.identity.pid), free + 1, "the attendant's pidfd");
    // Nobody wakes up for it.
    let pid = watching.identity.pid;
    let executor = watching.pidfd.try_clone().unwrap();
    drop(watching);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = status_field(pid, "voluntary_ctxt_switches");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(status_field(pid, "voluntary_ctxt_switches"), before);
    assert!(!executor.has_exited().unwrap());
    kill_now(peer).await;
    let stopped = finished(&mut host.command(&["stop", &other.folder(), "--grace", "0s"]));
    assert!(other.dir.result().unwrap().is_some(), "{}", text(&stopped.stderr));
}

/// The job wants no second executor.
mod loss {
    use super::*;
    use crate::host::gone;

    fn killed_with_its_executor(task: &Task, script: &str) -> TaskSpec {
        TaskSpec {
            ending: Some(Ending {
                kill_on_executor_loss: true,
                ..Ending::default()
            }),
            ..task.shell(script)
        }
    }

    async fn adopted(host: &Host, task: &Task) {
        if let Ok(peer) = host.start(task, StartMode::Adopt).await {
            left(peer);
        }
    }

    #[tokio::test]
    async fn a_task_that_wants_no_second_executor_is_killed_by_it_with_all_it_wrote() {
        let mut host = Host::new();
        let task = host.task("main");
        let script = "trap '' INT TERM; (setsid sleep 1000 &); echo ready; while :; do sleep 0.05; done";
        let spec = host.scoped(killed_with_its_executor(&task, script));
        let (peer, launched) = host.running_spec(&task, spec).await;
        task.says("ready");
        kill(peer);
        assert!(lives(launched.main.unwrap().pid), "nobody has found it yet");
        adopted(&host, &task).await;
        let result = task.result();
        assert_eq!(
            (result.status, result.executor_lost),
            (Status::Signalled(libc::SIGKILL), true)
        );
        let notices = task.dir.notices().unwrap().unwrap().notices;
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].message, "executor lost; the task is killed");
        assert_eq!(task.stdout(), "ready\n");
        host.nothing_left();
    }

    #[tokio::test]
    async fn an_end_before_the_loss_was_found_is_told_as_it_was() {
        let host = Host::new();
        let task = host.task("main");
        let script = "echo ready; while [ ! -e go ]; do sleep 0.02; done; echo last; exit 7";
        let (peer, launched) = host.running_spec(&task, killed_with_its_executor(&task, script)).await;
        task.says("ready");
        kill(peer);
        fs::write(task.logs.join("go"), "").unwrap();
        gone(launched.main.unwrap().pid);
        adopted(&host, &task).await;
        let result = task.result();
        assert_eq!((result.status, result.executor_lost), (Status::Exited(7), false));
        assert_eq!(task.stdout(), "ready\nlast\n");
        host.nothing_left();
    }

    #[tokio::test]
    async fn an_executor_that_dies_while_it_kills_is_followed_by_one_that_does() {
        for _ in 0..5 {
            let host = Host::new();
            let task = host.task("main");
            let spec = killed_with_its_executor(&task, "echo ready; while :; do sleep 0.05; done");
            let (peer, _) = host.running_spec(&task, spec).await;
            task.says("ready");
            kill(peer);
            if let Ok(peer) = host.start(&task, StartMode::Adopt).await {
                kill(peer);
            }
            if task.dir.result().unwrap().is_none() {
                adopted(&host, &task).await;
            }
            let result = task.result();
            assert_eq!(result.status, Status::Signalled(libc::SIGKILL));
            assert!(result.executor_lost);
            // The init of a result that was told by an executor that died then.
            eventually("the end of the init", || {
                let init = task.record().init.open().unwrap();
                if let Some(init) = &init {
                    let _ = init.send_signal(libc::SIGKILL);
                }
                init.is_none().then_some(()).ok_or("it lives".to_owned())
            });
            host.nothing_left();
        }
    }
}
