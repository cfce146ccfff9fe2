//! Signals, stops, and who goes with the main process.

use holdfast_executor::client::Peer;
use holdfast_record::Status;
use holdfast_wire::executor_v1::{SignalRequest, StopRequest, task_result};

use crate::host::{Host, gone, left, lives, pids_holding, wait};

pub fn stop(signal: i32, grace_ms: u64) -> StopRequest {
    StopRequest { signal, grace_ms }
}

/// Ends a task that has served its purpose.
pub async fn kill_now(mut peer: Peer) {
    peer.executor.stop(stop(libc::SIGKILL, 0)).await.unwrap();
    left(peer);
}

#[tokio::test]
async fn an_obedient_task_leaves_by_its_signal_k1() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host
        .running(
            &task,
            "trap 'echo asked; exit 3' INT; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    task.says("ready");
    peer.executor.stop(stop(0, 20_000)).await.unwrap();
    assert_eq!(task.result().status, Status::Exited(3), "0 is SIGINT");
    left(peer);
    assert!(task.stdout().ends_with("asked\n"));
    host.nothing_left();
}

#[tokio::test]
async fn a_task_that_ignores_its_signal_is_killed_after_the_grace_k1() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"));
    let (mut peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    peer.executor.stop(stop(libc::SIGTERM, 2000)).await.unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
    assert!(task.stdout().contains("asked"), "it was asked first");
    host.nothing_left();
}

#[tokio::test]
async fn without_grace_it_is_killed_at_once_k1() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host
        .running(
            &task,
            "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    task.says("ready");
    peer.executor.stop(stop(libc::SIGTERM, 0)).await.unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
    assert_eq!(task.stdout(), "ready\n", "nobody was asked");
}

#[tokio::test]
async fn a_second_stop_can_only_shorten_the_first() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host
        .running(&task, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        .await;
    task.says("ready");
    let patient = peer.executor.clone();
    let first = tokio::spawn(async move { patient.clone().stop(stop(libc::SIGTERM, 3_600_000)).await });
    let recorded = tokio::task::yield_now();
    recorded.await;
    let mut second = peer.executor.clone();
    second.stop(stop(libc::SIGTERM, 200)).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
}

#[tokio::test]
async fn a_stop_takes_those_with_it_that_left_the_session_and_the_group() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec =
            task.shell("setsid sh -c 'setsid sleep 1000 & setsid sleep 1000' & sleep 1000 & echo ready; wait");
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (mut peer, _) = host.launch(&task, spec).await;
        task.says("ready");
        peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
        // The result is not told before they are gone.
        let marker = host.path().to_str().unwrap();
        let sleepers: Vec<i32> = pids_holding(marker)
            .into_iter()
            .filter(|pid| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n"))
            .collect();
        assert_eq!(sleepers, Vec::<i32>::new());
        left(peer);
        host.nothing_left();
    }
}

#[tokio::test]
async fn what_main_leaves_behind_ends_with_it_and_delays_nothing_w5() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec = task.shell(
            "setsid sh -c 'trap \"\" TERM HUP; echo daemon; : > up; while :; do sleep 1; done' &
            while [ ! -e up ]; do sleep 0.02; done; exit 5",
        );
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (mut peer, _) = host.launch(&task, spec).await;
        assert_eq!(
            wait(&task, &mut peer).await.status,
            Some(task_result::Status::Exited(5))
        );
        left(peer);
        assert_eq!(task.stdout(), "daemon\n");
        host.nothing_left();
    }
}

#[tokio::test]
async fn a_stop_of_an_ended_task_is_ok_k3() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running(&task, "exit 4").await;
    let mut late = peer.executor.clone();
    wait(&task, &mut peer).await;
    // The executor is leaving, or has left: neither is a failure of the stop for one who reads the result.
    let _ = late.stop(stop(libc::SIGTERM, 1000)).await;
    assert_eq!(task.result().status, Status::Exited(4));
    left(peer);
}

#[tokio::test]
async fn signals_go_to_the_main_process_alone() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host
        .running(
            &task,
            "sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.05; done' & \
             trap 'echo main; exit 6' USR1; while :; do sleep 0.05; done",
        )
        .await;
    task.says("ready");
    let signal = SignalRequest {
        signal: libc::SIGUSR1,
        target: None,
    };
    peer.executor.signal(signal).await.unwrap();
    assert_eq!(
        wait(&task, &mut peer).await.status,
        Some(task_result::Status::Exited(6))
    );
    left(peer);
    assert_eq!(task.stdout().matches("child").count(), 0);
    assert!(task.stdout().contains("main"));
    gone(launched.main.unwrap().pid);
}

#[tokio::test]
async fn what_is_no_signal_is_refused_and_harms_nobody() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host.running(&task, "sleep 1000").await;
    for number in [-1, 65, 9999] {
        let error = peer
            .executor
            .signal(SignalRequest {
                signal: number,
                target: None,
            })
            .await
            .unwrap_err();
        assert_eq!(error.message(), format!("{number} is not a signal"));
        let error = peer.executor.stop(stop(number, 1000)).await.unwrap_err();
        assert_eq!(error.message(), format!("{number} is not a signal"));
    }
    assert!(lives(launched.main.unwrap().pid));
    kill_now(peer).await;
}
