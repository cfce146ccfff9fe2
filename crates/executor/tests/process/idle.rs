//! What a supervising executor costs while nothing happens.

use std::fs;
use std::time::Duration;

use crate::host::{Host, status_field};
use crate::stop::kill_now;

fn threads(pid: i32) -> Vec<i32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

fn switches(thread: i32) -> u64 {
    let count = |field: &str| status_field(thread, field).parse::<u64>().unwrap();
    count("voluntary_ctxt_switches")
}

#[tokio::test]
async fn an_idle_executor_has_two_threads_and_does_nothing() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("echo ready; exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    let mut executor = peer.executor.clone();
    executor
        .commit(holdfast_wire::executor_v1::CommitRequest {})
        .await
        .unwrap();
    drop(executor);
    task.says("ready");
    let (pid, init) = (peer.identity.pid, launched.init.unwrap().pid);
    drop(peer);
    let count = || -> Vec<(i32, u64)> {
        let observed = threads(pid).into_iter().chain(threads(init));
        observed.map(|thread| (thread, switches(thread))).collect()
    };
    // The end of the connection, and what of the start is still under way: on a loaded machine it takes its time.
    let mut before = Vec::new();
    let mut rounds = 0;
    loop {
        let now = count();
        if now == std::mem::replace(&mut before, now.clone()) {
            break;
        }
        rounds += 1;
        assert!(rounds < 60, "it does not come to rest: {now:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(threads(pid).len(), 2);
    assert_eq!(threads(init).len(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(count(), before, "nobody woke up");
    kill_now(holdfast_executor::client::connect(&task.dir).await.unwrap()).await;
}

#[tokio::test]
async fn descriptors_do_not_pile_up() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, _) = host.launch(&task, spec).await;
    let pid = peer.identity.pid;
    let count = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let mut before = None;
    for _ in 0..3 {
        for _ in 0..10 {
            let mut other = holdfast_executor::client::connect(&task.dir).await.unwrap();
            let request = holdfast_wire::executor_v1::ExecRequest {
                command: vec!["true".to_owned()],
                timeout_ms: 0,
            };
            other.executor.exec(request).await.unwrap();
        }
        // Another thread closes them, when it gets a processor.
        let mut rested = count();
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = count();
            let is_at_rest = now == std::mem::replace(&mut rested, now);
            if is_at_rest && before.is_none_or(|before| now <= before) {
                break;
            }
        }
        let before = before.get_or_insert(rested);
        assert!(rested <= *before, "{before} became {rested}");
    }
    kill_now(peer).await;
}
