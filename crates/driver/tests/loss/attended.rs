//! `on_agent_exit`: the driver dies, or the agent does and leaves the driver.

use std::time::Duration;

use crate::host::{Host, dir, kill_executor, lives, record, running, until};

const OBEDIENT: &str = "trap 'echo asked; exit 0' INT; echo ready; while :; do sleep 0.05; done";
const SOON: &[(&str, &str)] = &[("on_agent_exit", "stop_after=500ms")];
/// Longer than any test.
const LATER: &[(&str, &str)] = &[("on_agent_exit", "stop_after=1h")];

#[tokio::test]
async fn a_task_that_must_not_be_alone_is_stopped_after_its_driver_and_the_next_one_says_why() {
    let host = Host::new();
    let mut driver = host.driver().await;
    let task = host.task("main", OBEDIENT, SOON);
    let kept = host.task("kept", OBEDIENT, &[]);
    let handle = driver.start(&task).await.unwrap();
    let kept_handle = driver.start(&kept).await.unwrap();
    host.says("main", "ready").await;
    host.says("kept", "ready").await;
    assert_eq!(
        record(&handle).attendant.map(|attendant| attendant.pid),
        i32::try_from(driver.plugin.pid()).ok()
    );
    driver.kill().await;
    let result = until("the result", || dir(&handle).result().unwrap()).await;
    assert!(result.unattended);
    host.says("main", "asked").await;
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    driver.recover(&kept_handle).await.unwrap();
    let told = driver.wait(&task).await;
    // With a reason it is no success: it was cut short.
    assert_eq!(told.result.unwrap().exit_code, 0);
    assert!(told.err.contains("no driver attended"), "{}", told.err);
    assert!(driver.is_running(&kept).await, "any other task is kept");
    driver.destroy(&task).await;
    driver.destroy(&kept).await;
    host.nothing_left().await;
    driver.kill().await;
}

#[tokio::test]
async fn a_driver_that_recovers_the_task_in_time_attends() {
    let (host, driver, task, handle) = running(OBEDIENT, LATER).await;
    driver.kill().await;
    until("that time runs", || record(&handle).unattended_until_boot_ms).await;
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    let own = i32::try_from(driver.plugin.pid()).ok();
    assert_eq!(record(&handle).unattended_until_boot_ms, None);
    assert_eq!(record(&handle).attendant.map(|attendant| attendant.pid), own);
    // And of the next executor, too.
    kill_executor(&handle).await;
    driver.exec(&task).await.unwrap();
    assert_eq!(record(&handle).attendant.map(|attendant| attendant.pid), own);
    host.ends(driver, &task).await;
}

/// An agent that was killed leaves its plugins running, and finds them again (contract, P-7).
#[tokio::test]
async fn a_driver_whose_agent_is_gone_attends_to_nothing_until_the_next_one_comes_p7() {
    let host = Host::new();
    let task = host.task("main", OBEDIENT, LATER);
    let (left, handle) = host.agent_that_dies(&task, Duration::ZERO);
    assert!(lives(i32::try_from(left.pid).unwrap()));
    until("that time runs", || record(&handle).unattended_until_boot_ms).await;
    // An executor that dies meanwhile is replaced by one that is told the same.
    let before = record(&handle);
    kill_executor(&handle).await;
    until("the next executor", || {
        (record(&handle).executor != before.executor).then_some(())
    })
    .await;
    assert_eq!(
        record(&handle).unattended_until_boot_ms,
        before.unattended_until_boot_ms
    );
    let mut driver = host.reattach(&left).await;
    until("that somebody attends", || record(&handle).attendant).await;
    assert_eq!(record(&handle).unattended_until_boot_ms, None);
    assert!(driver.is_running(&task).await);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn a_task_that_must_not_be_alone_is_stopped_though_only_its_agent_died() {
    let host = Host::new();
    let task = host.task("main", OBEDIENT, SOON);
    let (left, handle) = host.agent_that_dies(&task, Duration::from_secs(1));
    let result = until("the result", || dir(&handle).result().unwrap()).await;
    assert!(result.unattended);
    let mut driver = host.reattach(&left).await;
    let told = driver.wait(&task).await;
    assert!(told.err.contains("no driver attended"), "{}", told.err);
    host.ends(driver, &task).await;
}
