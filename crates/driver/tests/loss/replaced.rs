//! Programs that are replaced while tasks start, and leftovers of earlier incarnations.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::host::{Host, kill_executor, lives, mains, state};

/// Written beside it and renamed over it, again and again.
fn replace(host: &Host, name: &str) {
    let (path, fresh) = (host.path(name), host.path(&format!("{name}.new")));
    fs::copy(&path, &fresh).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, &path).unwrap();
}

#[tokio::test]
async fn both_programs_may_be_replaced_under_a_load_of_starts() {
    let host = Arc::new(Host::new());
    let mut driver = host.driver().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let replacing = std::thread::spawn({
        let (host, stop, count) = (host.clone(), stop.clone(), count.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                replace(&host, "holdfast-executor");
                replace(&host, "holdfast-driver");
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut starts = 0;
    while starts < 24 || count.load(Ordering::Relaxed) < 8 {
        let task = host.task(&format!("t{starts}"), "exit 3", &[]);
        driver.start(&task).await.unwrap();
        assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 3);
        driver.destroy(&task).await;
        starts += 1;
    }
    // An executor of a program that is there no more is replaced as well.
    let task = host.task("kept", "echo ready; while :; do sleep 0.05; done", &[]);
    let handle = driver.start(&task).await.unwrap();
    host.says("kept", "ready").await;
    kill_executor(&handle).await;
    driver.exec(&task).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    replacing.join().unwrap();
    host.ends(driver, &task).await;
}

/// Whatever the driver before has left of an earlier incarnation: with its executor, without, and with nothing but the init.
#[tokio::test]
async fn what_is_left_of_an_earlier_incarnation_is_ended_before_the_next_one_starts() {
    let host = Host::new();
    let script = "trap '' TERM INT; setsid sleep 1000 & echo ready; while :; do sleep 0.05; done";
    for left in ["executor", "no executor", "no main process"] {
        let mut first = host.driver().await;
        let old = host.task("main", script, &[]);
        let handle = first.start(&old).await.unwrap();
        host.says("main", "ready").await;
        first.kill().await;
        if left != "executor" {
            kill_executor(&handle).await;
        }
        if left == "no main process" {
            let main = state(&handle).main.open().unwrap().unwrap();
            main.send_signal(crate::host::SIGKILL).unwrap();
        }
        let mut driver = host.driver().await;
        let mut new = host.task("main", script, &[]);
        new.id = new.id.replace("12345678", "87654321");
        let new_handle = driver.start(&new).await.unwrap();
        assert_ne!(state(&new_handle).main, state(&handle).main, "{left}");
        assert!(!lives(state(&handle).main.pid), "{left}");
        assert_eq!(mains(&host), [state(&new_handle).main.pid], "{left}");
        assert!(!state(&handle).dir.exists(), "{left}: {}", state(&handle).dir.display());
        driver.destroy(&new).await;
        host.nothing_left().await;
        driver.kill().await;
        let _ = fs::remove_file(host.path("alloc/logs/main.stdout.0"));
    }
}
