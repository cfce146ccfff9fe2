//! Frozen tasks: adopted, stopped, killed, and asked for sessions.

use holdfast_executor::client::Peer;
use holdfast_record::Status;
use holdfast_wire::executor_v1::{ExecRequest, FreezeRequest, IdentifyRequest};

use crate::host::{Host, StartMode, Task, eventually, kill, left};
use crate::stop::{kill_now, stop};

const COUNTING: &str = "trap 'echo asked; exit 3' TERM; while :; do echo x; sleep 0.01; done";

async fn freeze(peer: &mut Peer, frozen: bool) -> Result<(), tonic::Status> {
    peer.executor.freeze(FreezeRequest { frozen }).await.map(drop)
}

async fn is_frozen(peer: &mut Peer) -> bool {
    peer.executor
        .identify(IdentifyRequest {})
        .await
        .unwrap()
        .into_inner()
        .frozen
}

/// Two looks in a row see the same.
fn stands_still(task: &Task) {
    let mut before = usize::MAX;
    eventually("that the task stands still", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = task.stdout().len();
        let stands = now == std::mem::replace(&mut before, now);
        stands.then_some(()).ok_or("it runs".to_owned())
    });
}

fn goes_on(task: &Task) {
    let before = task.stdout().len();
    eventually("that the task goes on", || {
        (task.stdout().len() > before)
            .then_some(())
            .ok_or("it stands still".to_owned())
    });
}

async fn counting(host: &mut Host) -> (Task, Peer) {
    let task = host.task("main");
    let spec = host.scoped(task.shell(COUNTING));
    let (peer, _) = host.running_spec(&task, spec).await;
    goes_on(&task);
    (task, peer)
}

#[tokio::test]
async fn a_frozen_task_stands_still_until_it_is_thawed() {
    let mut host = Host::new();
    let (task, mut peer) = counting(&mut host).await;
    assert!(!is_frozen(&mut peer).await);
    for _ in 0..2 {
        freeze(&mut peer, true).await.unwrap();
        assert!(is_frozen(&mut peer).await);
    }
    stands_still(&task);
    for _ in 0..2 {
        freeze(&mut peer, false).await.unwrap();
        assert!(!is_frozen(&mut peer).await);
    }
    goes_on(&task);
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_stop_thaws_and_then_asks() {
    let mut host = Host::new();
    let (task, mut peer) = counting(&mut host).await;
    freeze(&mut peer, true).await.unwrap();
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Exited(3));
    host.nothing_left();
}

#[tokio::test]
async fn a_frozen_task_is_killed_at_once() {
    let mut host = Host::new();
    let (task, mut peer) = counting(&mut host).await;
    freeze(&mut peer, true).await.unwrap();
    peer.executor.stop(stop(libc::SIGTERM, 0)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    host.nothing_left();
}

#[tokio::test]
async fn a_frozen_task_is_adopted_frozen_and_thawed_by_who_adopts() {
    let mut host = Host::new();
    let (task, mut peer) = counting(&mut host).await;
    freeze(&mut peer, true).await.unwrap();
    kill(peer);
    let mut peer = host.start(&task, StartMode::Adopt).await.unwrap();
    assert!(is_frozen(&mut peer).await);
    stands_still(&task);
    freeze(&mut peer, false).await.unwrap();
    goes_on(&task);
    // And one that is stopped without having been thawed.
    freeze(&mut peer, true).await.unwrap();
    kill(peer);
    let mut peer = host.start(&task, StartMode::Adopt).await.unwrap();
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Exited(3));
    host.nothing_left();
}

/// On v1 killing a cgroup freezes it for a moment.
#[tokio::test]
async fn a_task_whose_killer_was_killed_while_it_stood_still_is_not_left_frozen() {
    let mut host = Host::new();
    let (task, mut peer) = counting(&mut host).await;
    freeze(&mut peer, true).await.unwrap();
    kill(peer);
    let main = task.record().main.open().unwrap().expect("a frozen process lives");
    main.send_signal(libc::SIGKILL).unwrap();
    // It may have told the end and left before it can be talked to.
    let _ = host.start(&task, StartMode::Adopt).await;
    assert_eq!(task.result().status, Status::Signalled(libc::SIGKILL));
    host.nothing_left();
}

#[tokio::test]
async fn a_session_in_a_frozen_task_is_refused_and_says_why() {
    let mut host = Host::new();
    let (_task, mut peer) = counting(&mut host).await;
    let request = ExecRequest {
        command: vec!["/bin/true".to_owned()],
        timeout_ms: 0,
    };
    freeze(&mut peer, true).await.unwrap();
    let error = peer.executor.exec(request.clone()).await.unwrap_err();
    assert_eq!(error.message(), "the task is frozen: thaw it first");
    freeze(&mut peer, false).await.unwrap();
    assert_eq!(
        peer.executor
            .exec(request)
            .await
            .unwrap()
            .into_inner()
            .exit
            .unwrap()
            .exit_code,
        0
    );
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_task_without_a_cgroup_of_its_own_cannot_be_frozen() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running(&task, COUNTING).await;
    let error = freeze(&mut peer, true).await.unwrap_err();
    assert_eq!(
        error.message(),
        "the task has no cgroup of its own: it cannot be frozen"
    );
    kill_now(peer).await;
}
