//! What dies, and what mends it (DESIGN section 3).

use std::fs;
use std::io::Write as _;

use holdfast_executor::client::Peer;
use holdfast_record::{BootId, Status};
use holdfast_sys::process::PidFd;
use holdfast_wire::executor_v1::{CommitRequest, EquipRequest, ExecRequest, task_result};

use crate::host::{Host, StartMode, Task, ended, eventually, gone, kill, left, lives, pids_holding, signal, wait};
use crate::stop::{kill_now, stop};

async fn adopt(host: &Host, task: &Task) -> Peer {
    host.start(task, StartMode::Adopt).await.unwrap()
}

/// Adopts a task that is over: the executor has nothing to do but to tell the end, and may have left before it is asked.
async fn concluded(host: &Host, task: &Task) -> Status {
    if let Ok(peer) = host.start(task, StartMode::Adopt).await {
        left(peer);
    }
    task.result().status
}

/// Living processes of the test with this name.
fn named(host: &Host, name: &str) -> Vec<i32> {
    pids_holding(host.path().to_str().unwrap())
        .into_iter()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
        .collect()
}

#[tokio::test]
async fn a_killed_executor_is_replaced_and_nothing_is_lost() {
    let mut host = Host::new();
    let task = host.task("main");
    // It ends when it may.
    let script = "mkfifo go; for n in $(seq 1 2000); do echo line $n; [ $((n % 100)) = 0 ] && sleep 0.05; done; read go < go; exit 7";
    let spec = host.scoped(task.shell(script));
    let (mut peer, launched) = host.launch(&task, spec).await;
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let main = launched.main.unwrap();
    task.says("line 200\n");
    kill(peer);
    assert!(lives(main.pid), "the task goes on without its executor");
    let mut peer = adopt(&host, &task).await;
    assert_eq!(peer.identity.main, Some(main), "it is the same main process");
    assert!(peer.identity.committed);
    // A pause that is about to be executed still bears the shell's name.
    eventually("one main process", || match named(&host, "sh").len() {
        1 => Ok(()),
        count => Err(format!("there are {count}")),
    });
    // Opened for both, it waits for no reader, and holds the line until there is one.
    let mut go = fs::File::options()
        .read(true)
        .write(true)
        .open(task.logs.join("go"))
        .unwrap();
    go.write_all(b"on\n").unwrap();
    assert_eq!(
        wait(&task, &mut peer).await.status,
        Some(task_result::Status::Exited(7))
    );
    left(peer);
    let expected: String = (1..=2000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(task.stdout(), expected);
    host.nothing_left();
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_by_the_next_executor_r3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host
        .running(
            &task,
            "echo ready; while [ ! -e go ]; do sleep 0.02; done; echo last words; exit 7",
        )
        .await;
    task.says("ready");
    kill(peer);
    fs::write(task.logs.join("go"), "").unwrap();
    gone(launched.main.unwrap().pid);
    assert_eq!(task.dir.result().unwrap(), None);
    assert_eq!(
        named(&host, "holdfast-init").len(),
        1,
        "the init holds the output and the record"
    );
    assert_eq!(concluded(&host, &task).await, Status::Exited(7));
    assert_eq!(task.stdout(), "ready\nlast words\n");
    host.nothing_left();
}

#[tokio::test]
async fn executors_may_die_again_and_again() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host
        .running(
            &task,
            "n=0; while [ ! -e go ]; do n=$((n+1)); echo $n; sleep 0.01; done; exit 7",
        )
        .await;
    kill(peer);
    for _ in 0..5 {
        let peer = adopt(&host, &task).await;
        assert_eq!(peer.identity.main, launched.main);
        kill(peer);
    }
    let mut peer = adopt(&host, &task).await;
    fs::write(task.logs.join("go"), "").unwrap();
    assert_eq!(
        wait(&task, &mut peer).await.status,
        Some(task_result::Status::Exited(7))
    );
    left(peer);
    let stdout = task.stdout();
    let lines: Vec<usize> = stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(
        lines,
        (1..=lines.len()).collect::<Vec<_>>(),
        "no line is lost or written twice"
    );
    host.nothing_left();
}

#[tokio::test]
async fn without_its_init_the_first_executor_still_knows_the_exit_code() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host
        .running(&task, "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 7")
        .await;
    task.says("ready");
    signal(launched.init.unwrap().pid, libc::SIGKILL);
    gone(launched.init.unwrap().pid);
    assert!(lives(launched.main.unwrap().pid));
    fs::write(task.logs.join("go"), "").unwrap();
    assert_eq!(
        wait(&task, &mut peer).await.status,
        Some(task_result::Status::Exited(7))
    );
    left(peer);
    host.nothing_left();
}

#[tokio::test]
async fn without_its_init_a_task_can_still_be_stopped() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host
        .running(&task, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        .await;
    task.says("ready");
    signal(launched.init.unwrap().pid, libc::SIGKILL);
    peer.executor.stop(stop(libc::SIGTERM, 200)).await.unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    left(peer);
    host.nothing_left();
}

/// After an adoption nobody of ours is main's parent once the init is dead: the kernel tells since Linux 6.15, and what is not
/// known is never success.
#[tokio::test]
async fn an_exit_that_only_the_kernel_knows_is_its_or_unknown_and_never_success_w2() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host
        .running(&task, "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 7")
        .await;
    task.says("ready");
    kill(peer);
    let mut peer = adopt(&host, &task).await;
    signal(launched.init.unwrap().pid, libc::SIGKILL);
    gone(launched.init.unwrap().pid);
    fs::write(task.logs.join("go"), "").unwrap();
    match wait(&task, &mut peer).await.status {
        Some(task_result::Status::Exited(7)) => {}
        Some(task_result::Status::Unknown(reason)) => assert!(!reason.is_empty()),
        status => panic!("{status:?}"),
    }
    left(peer);
    host.nothing_left();
}

#[tokio::test]
async fn a_task_that_lost_init_and_executor_is_adopted_by_its_main_process() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host
        .running(&task, "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 7")
        .await;
    task.says("ready");
    let init = launched.init.unwrap().pid;
    signal(peer.identity.pid, libc::SIGSTOP);
    signal(init, libc::SIGKILL);
    kill(peer);
    gone(init);
    let mut peer = adopt(&host, &task).await;
    assert!(lives(launched.main.unwrap().pid));
    fs::write(task.logs.join("go"), "").unwrap();
    let status = wait(&task, &mut peer).await.status;
    assert!(
        matches!(
            status,
            Some(task_result::Status::Exited(7) | task_result::Status::Unknown(_))
        ),
        "{status:?}"
    );
    left(peer);
    host.nothing_left();
}

#[tokio::test]
async fn of_two_that_adopt_one_does() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "sleep 1000").await;
    kill(peer);
    let (first, second) = tokio::join!(host.start(&task, StartMode::Adopt), host.start(&task, StartMode::Adopt));
    let (winner, loser) = match (first, second) {
        (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser.to_string()),
        (first, second) => panic!("{first:?} {second:?}"),
    };
    assert!(loser.contains("another executor holds the task"), "{loser}");
    assert_eq!(winner.identity.main, launched.main);
    kill_now(winner).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_stop_under_way_is_finished_by_the_next_executor() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host
        .running(
            &task,
            "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    task.says("ready");
    let mut stopping = peer.executor.clone();
    let request = tokio::spawn(async move { stopping.stop(stop(libc::SIGTERM, 5000)).await });
    while task.record().stop.is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    kill(peer);
    request.await.unwrap().unwrap_err();
    assert!(lives(launched.main.unwrap().pid));
    let peer = adopt(&host, &task).await;
    assert_eq!(
        task.result().status,
        Status::Signalled(libc::SIGKILL),
        "the deadline was recorded"
    );
    left(peer);
    host.nothing_left();
}

#[tokio::test]
async fn sessions_of_an_adopted_task_have_its_environment() {
    let host = Host::new();
    let task = host.task("main");
    let mut spec = task.shell("echo ready; sleep 1000");
    spec.env.push("FLAVOUR=first".to_owned());
    let (peer, _) = host.launch(&task, spec).await;
    task.says("ready");
    kill(peer);
    let mut peer = adopt(&host, &task).await;
    assert!(peer.identity.wants_environment);
    let request = ExecRequest {
        command: ["/bin/sh", "-c", "echo $FLAVOUR"].map(str::to_owned).to_vec(),
        timeout_ms: 0,
    };
    let ran = peer.executor.exec(request.clone()).await.unwrap().into_inner();
    assert_eq!(ran.output, b"first\n", "what main was executed with");
    let env = vec!["FLAVOUR=second".to_owned()];
    peer.executor.equip(EquipRequest { env }).await.unwrap();
    let ran = peer.executor.exec(request).await.unwrap().into_inner();
    assert_eq!(ran.output, b"second\n", "what the agent says wins");
    kill_now(peer).await;
}

#[tokio::test]
async fn an_ended_task_is_not_adopted_and_its_result_stays() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running(&task, "exit 3").await;
    wait(&task, &mut peer).await;
    left(peer);
    let error = host.start(&task, StartMode::Adopt).await.unwrap_err().to_string();
    assert!(error.contains("is over"), "{error}");
    assert_eq!(task.result().status, Status::Exited(3));
}

#[tokio::test]
async fn a_task_of_another_boot_is_refused_and_nobody_is_harmed() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "sleep 1000").await;
    kill(peer);
    let ours = task.record();
    let mut record = ours.clone();
    record.boot_id = BootId::parse("00000000-1111-2222-3333-444444444444").unwrap();
    task.dir.write_record(&record).unwrap();
    let error = host.start(&task, StartMode::Adopt).await.unwrap_err().to_string();
    assert!(error.contains("before the host was booted"), "{error}");
    assert!(lives(launched.main.unwrap().pid) && lives(launched.init.unwrap().pid));
    task.dir.write_record(&ours).unwrap();
    kill_now(adopt(&host, &task).await).await;
}

#[tokio::test]
async fn a_stranger_on_the_pid_of_main_is_never_harmed() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "exec sleep 1000").await;
    kill(peer);
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut record = task.record();
    let ours = record.clone();
    // What a reused pid looks like: the number is there, and everything else is another's.
    record.main.pid = i32::try_from(stranger.id()).unwrap();
    record.init.pid = record.main.pid;
    task.dir.write_record(&record).unwrap();
    let status = concluded(&host, &task).await;
    assert!(matches!(status, Status::Unknown(_)), "{status:?}");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    for identity in [ours.main, ours.init] {
        let pidfd: PidFd = identity.open().unwrap().expect("it lives");
        pidfd.send_signal(libc::SIGKILL).unwrap();
        ended(&pidfd);
    }
    gone(launched.main.unwrap().pid);
}

#[tokio::test]
async fn a_damaged_record_is_named_and_changes_nothing() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "sleep 1000").await;
    kill(peer);
    let path = task.dir.path().join("record.json");
    let whole = fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"", b"{}", b"\xff\xff"] {
        fs::write(&path, damaged).unwrap();
        let error = host.start(&task, StartMode::Adopt).await.unwrap_err().to_string();
        assert!(error.contains("record.json"), "{error}");
        assert!(lives(launched.main.unwrap().pid));
    }
    fs::write(&path, whole).unwrap();
    kill_now(adopt(&host, &task).await).await;
}

#[tokio::test]
async fn a_folder_without_a_task_is_not_adopted() {
    let host = Host::new();
    let task = host.task("main");
    let error = host.start(&task, StartMode::Adopt).await.unwrap_err().to_string();
    assert!(error.contains("no record"), "{error}");
}

#[tokio::test]
async fn a_log_folder_that_is_gone_does_not_keep_a_task_from_being_adopted() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host
        .running(&task, "cd /; echo ready; while :; do echo more; sleep 0.02; done")
        .await;
    task.says("ready");
    kill(peer);
    fs::remove_dir_all(&task.logs).unwrap();
    let mut peer = adopt(&host, &task).await;
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    assert_eq!(task.result().status, Status::Signalled(libc::SIGTERM));
    left(peer);
}

#[tokio::test]
async fn an_executor_killed_right_after_the_launch_leaves_an_adoptable_task_or_nothing() {
    for delay_us in [0, 300, 1000, 3000] {
        let host = Host::new();
        let task = host.task("main");
        let peer = host.start(&task, StartMode::Fresh).await.unwrap();
        let mut launching = peer.executor.clone();
        let spec = task.shell("sleep 1000");
        let launched = tokio::spawn(async move {
            let request = holdfast_wire::executor_v1::LaunchRequest {
                task: Some(spec),
                ..Default::default()
            };
            launching.launch(request).await.map(drop)
        });
        tokio::time::sleep(std::time::Duration::from_micros(delay_us)).await;
        kill(peer);
        let _ = launched.await;
        // Whatever was cloned before it was recorded ends by itself, behind the gate.
        match task.dir.record().unwrap() {
            Some(_) => {
                let stopped = match host.start(&task, StartMode::Adopt).await {
                    Ok(mut peer) => {
                        let stopped = peer.executor.stop(stop(libc::SIGKILL, 0)).await;
                        left(peer);
                        stopped.map(drop).map_err(|e| e.to_string())
                    }
                    Err(e) => Err(e.to_string()),
                };
                // One that was recorded and not released ends by itself, before the adopting executor is asked or meanwhile.
                if let Err(e) = stopped {
                    eventually("the result", || task.dir.result().unwrap().map(drop).ok_or(e.clone()));
                }
            }
            None => assert_eq!(named(&host, "sleep"), Vec::<i32>::new()),
        }
        host.nothing_left();
    }
}
