//! Executors that live and cannot be reached: cannot connect is not dead.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::host::{Host, SIGCONT, SIGSTOP, kill_executor, lives, mains, record, running, state, to_executor, until};

const OBEDIENT: &str = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";

#[tokio::test]
async fn a_stopped_executor_is_not_dead_and_calls_fail_clearly_until_it_goes_on_r2() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    let executor = record(&handle).executor;
    to_executor(&handle, SIGSTOP);
    let error = driver.exec(&task).await.unwrap_err();
    assert!(
        error.message().contains("cannot reach the executor of task") && error.message().contains("no answer within"),
        "{error}"
    );
    driver.kill().await;
    // An error would make the agent start a second one.
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    assert_eq!(record(&handle).executor, executor, "nobody took its place");
    assert_eq!(mains(&host), [state(&handle).main.pid]);
    assert!(driver.is_running(&task).await);
    to_executor(&handle, SIGCONT);
    assert_eq!(driver.exec(&task).await.unwrap(), format!("{}\n", host.marker()));
    driver.stop(&task, 60).await.unwrap();
    assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 5);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn a_task_is_stopped_in_the_ordinary_way_though_its_executor_is_k1() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    to_executor(&handle, SIGSTOP);
    driver.stop(&task, 60).await.unwrap();
    let told = driver.wait(&task).await;
    assert_eq!((told.result.unwrap().exit_code, told.err.as_str()), (5, ""));
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn sockets_that_are_gone_or_squatted_are_bound_again_with_and_without_a_driver() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    let socket = state(&handle).socket;
    let executor = record(&handle).executor;
    for (is_restarted, is_squatted) in [(false, false), (false, true), (true, false), (true, true)] {
        fs::remove_file(&socket).unwrap();
        let squatter = is_squatted.then(|| UnixListener::bind(&socket).unwrap());
        if is_restarted {
            driver.kill().await;
            driver = host.driver().await;
            driver.recover(&handle).await.unwrap();
        }
        assert_eq!(driver.exec(&task).await.unwrap(), format!("{}\n", host.marker()));
        assert_eq!(record(&handle).executor, executor);
        drop(squatter);
    }
    driver.stop(&task, 60).await.unwrap();
    assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 5);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn a_task_whose_folder_was_removed_goes_on_until_it_is_stopped_and_nothing_hangs() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    fs::remove_dir_all(state(&handle).dir).unwrap();
    let error = driver.exec(&task).await.unwrap_err();
    assert!(error.message().contains("cannot reach the executor of task"), "{error}");
    assert!(error.message().contains("No such file or directory"), "{error}");
    assert!(driver.is_running(&task).await);
    assert!(lives(state(&handle).main.pid) && lives(state(&handle).executor.pid));
    driver.stop(&task, 60).await.unwrap();
    let told = driver.wait(&task).await;
    assert!(told.err.contains("records are lost"), "{}", told.err);
    host.ends(driver, &task).await;
}

/// Nothing could supervise it any more, and the agent starts another one next.
#[tokio::test]
async fn a_task_whose_folder_was_removed_ends_with_its_executor_r2() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    let executor = record(&handle).executor.open().unwrap().unwrap();
    fs::remove_dir_all(state(&handle).dir).unwrap();
    executor.send_signal(crate::host::SIGKILL).unwrap();
    let told = driver.wait(&task).await;
    assert!(told.err.contains("records are lost"), "{}", told.err);
    assert!(!lives(state(&handle).main.pid), "before the end was told");
    until("the init", || (!lives(state(&handle).init.pid)).then_some(())).await;
    host.ends(driver, &task).await;
}

/// Who is to be killed stands in the handle, too, and the agent starts another one next.
#[tokio::test]
async fn a_task_whose_record_is_damaged_does_not_outlive_its_recovery_without_an_executor_r2() {
    let (host, driver, task, handle) = running(OBEDIENT, &[]).await;
    driver.kill().await;
    kill_executor(&handle).await;
    let record = state(&handle).dir.join("record.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    let mut driver = host.driver().await;
    let error = driver.recover(&handle).await.unwrap_err();
    assert!(error.message().contains(record.to_str().unwrap()), "{error}");
    assert!(
        !lives(state(&handle).main.pid),
        "before the agent is told that it may start another one"
    );
    until("the init", || (!lives(state(&handle).init.pid)).then_some(())).await;
    host.ends(driver, &task).await;
}

/// The driver's watch finds out, and nobody would tell the agent otherwise.
#[tokio::test]
async fn a_task_whose_record_is_damaged_ends_with_its_executor_and_that_is_told_r2() {
    let (host, mut driver, task, handle) = running(OBEDIENT, &[]).await;
    let executor = state(&handle).executor.open().unwrap().unwrap();
    let record = state(&handle).dir.join("record.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    executor.send_signal(crate::host::SIGKILL).unwrap();
    let result = driver.wait(&task).await;
    assert!(result.err.contains(record.to_str().unwrap()), "{result:?}");
    assert!(!lives(state(&handle).main.pid), "before it is told");
    host.ends(driver, &task).await;
}

/// The executor knows the task, and DestroyTask asks it.
#[tokio::test]
async fn a_task_whose_record_is_damaged_is_left_to_its_executor() {
    let (host, driver, task, handle) = running(OBEDIENT, &[]).await;
    driver.kill().await;
    fs::write(state(&handle).dir.join("record.json"), "{").unwrap();
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap_err();
    assert!(lives(state(&handle).main.pid));
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn a_folder_that_was_replaced_by_another_tasks_is_not_touched() {
    let host = Host::new();
    let mut driver = host.driver().await;
    let (task, other) = (host.task("main", OBEDIENT, &[]), host.task("other", OBEDIENT, &[]));
    let handle = driver.start(&task).await.unwrap();
    let other_handle = driver.start(&other).await.unwrap();
    host.says("main", "ready").await;
    host.says("other", "ready").await;
    driver.kill().await;
    let (ours, theirs) = (state(&handle).dir, state(&other_handle).dir);
    let aside = host.path("aside");
    fs::rename(&ours, &aside).unwrap();
    fs::rename(&theirs, &ours).unwrap();
    let mut driver = host.driver().await;
    let error = driver.recover(&handle).await.unwrap_err();
    assert!(error.message().contains("is of task"), "{error}");
    assert!(lives(state(&handle).main.pid) && lives(state(&other_handle).main.pid));
    fs::rename(&ours, &theirs).unwrap();
    fs::rename(&aside, &ours).unwrap();
    driver.recover(&handle).await.unwrap();
    driver.recover(&other_handle).await.unwrap();
    assert!(driver.is_running(&task).await && driver.is_running(&other).await);
    driver.destroy(&task).await;
    driver.destroy(&other).await;
    host.nothing_left().await;
    driver.kill().await;
}
