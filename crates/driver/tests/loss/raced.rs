//! Several drivers at once on one task: never two main processes.

use std::collections::HashSet;

use crate::host::{Driver, Host, kill_executor, mains, record, state};

#[tokio::test]
async fn whoever_races_to_recover_there_is_one_main_process_and_one_executor() {
    let host = Host::new();
    let mut first = host.driver().await;
    let task = host.task(
        "main",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    let handle = first.start(&task).await.unwrap();
    host.says("main", "ready").await;
    let main = state(&handle).main.pid;
    first.kill().await;
    let mut seen = HashSet::from([state(&handle).executor.pid]);
    for round in 0..12 {
        let mut drivers: Vec<Driver> = Vec::new();
        for _ in 0..3 {
            drivers.push(host.driver().await);
        }
        // In some rounds they find a living executor, in the others a dead one.
        if round % 3 != 0 {
            kill_executor(&handle).await;
        }
        let [a, b, c] = &mut drivers[..] else { unreachable!() };
        let recovered = tokio::join!(a.recover(&handle), b.recover(&handle), c.recover(&handle));
        assert!(
            recovered.0.is_ok() && recovered.1.is_ok() && recovered.2.is_ok(),
            "round {round}: {recovered:?}"
        );
        assert_eq!(mains(&host), [main], "round {round}");
        // While all three watch over it.
        if round % 3 == 2 {
            kill_executor(&handle).await;
        }
        for driver in &mut drivers {
            assert_eq!(
                driver.exec(&task).await.unwrap(),
                format!("{}\n", host.marker()),
                "round {round}"
            );
        }
        assert_eq!(mains(&host), [main], "round {round}");
        seen.insert(record(&handle).executor.pid);
        for driver in drivers {
            driver.kill().await;
        }
    }
    assert!(seen.len() > 8, "executors were replaced: {seen:?}");
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    driver.stop(&task, 60).await.unwrap();
    assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 5);
    host.ends(driver, &task).await;
}

/// The agent asks a new driver to start what it does not know that the dead one has started (contract, S-5).
#[tokio::test]
async fn a_start_of_the_same_id_adopts_whether_or_not_an_executor_is_left_s5() {
    let host = Host::new();
    let mut first = host.driver().await;
    let task = host.task("main", "echo ready; while :; do sleep 0.05; done", &[]);
    let handle = first.start(&task).await.unwrap();
    host.says("main", "ready").await;
    first.kill().await;
    for with_executor in [true, false] {
        if !with_executor {
            kill_executor(&handle).await;
        }
        let mut driver = host.driver().await;
        let again = driver.start(&task).await.unwrap();
        assert_eq!(state(&again).main, state(&handle).main);
        assert_eq!(mains(&host), [state(&handle).main.pid]);
        driver.kill().await;
    }
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn a_stop_keeps_its_deadline_whoever_dies_meanwhile() {
    let host = Host::new();
    let mut driver = host.driver().await;
    let task = host.task(
        "main",
        "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    let handle = driver.start(&task).await.unwrap();
    host.says("main", "ready").await;
    let mut stopping = Driver {
        client: driver.client.clone(),
        plugin: host.reattach(&driver.plugin.reattach_config()).await.plugin,
    };
    let asked = task.clone();
    let stop = tokio::spawn(async move { stopping.stop(&asked, 6).await });
    let stop_record = crate::host::until("the stop", || record(&handle).stop.filter(|stop| stop.signalled)).await;
    driver.kill().await;
    let _ = stop.await;
    kill_executor(&handle).await;
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    let adopted = record(&handle);
    if let Some(stop) = &adopted.stop {
        assert_eq!(stop.deadline_boot_ms, stop_record.deadline_boot_ms, "the old deadline");
    }
    let told = driver.wait(&task).await;
    assert_eq!(told.result.unwrap().signal, 9);
    host.ends(driver, &task).await;
}
