//! `on_executor_loss`, and the agent's own cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::{Host, holding, is_root, kill_executor, lives, mains, running, state, to_executor, until};

const ENDLESS: &str = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done";
const KILL: &[(&str, &str)] = &[("on_executor_loss", "kill")];

#[tokio::test]
async fn a_task_that_wants_no_second_executor_ends_at_once_with_its_first_and_says_so() {
    let (host, mut driver, task, handle) = running(ENDLESS, KILL).await;
    kill_executor(&handle).await;
    let told = driver.wait(&task).await;
    let result = told.result.unwrap();
    assert_eq!((result.exit_code, result.signal), (137, 9));
    assert!(told.err.starts_with("executor lost"), "{}", told.err);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn it_is_ended_at_its_recovery_if_nobody_was_there_and_the_agents_blob_is_not_needed_s7() {
    let (host, driver, task, handle) = running(ENDLESS, KILL).await;
    driver.kill().await;
    kill_executor(&handle).await;
    assert!(lives(state(&handle).main.pid), "nobody has found it yet");
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    let told = driver.wait(&task).await;
    assert_eq!(told.result.unwrap().signal, 9);
    assert!(told.err.starts_with("executor lost"), "{}", told.err);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn an_exit_that_the_init_recorded_is_told_though_the_executor_was_lost_w2() {
    let script = "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 7";
    let (host, driver, task, handle) = running(script, KILL).await;
    driver.kill().await;
    kill_executor(&handle).await;
    fs::write(host.path("alloc/main/go"), "").unwrap();
    let main = state(&handle).main.pid;
    until("the end of the task", || (!lives(main)).then_some(())).await;
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    let told = driver.wait(&task).await;
    assert_eq!((told.result.unwrap().exit_code, told.err.as_str()), (7, ""));
    host.ends(driver, &task).await;
}

/// The executor program is gone as well, so that the driver has to do it itself.
#[tokio::test]
async fn without_any_executor_the_driver_ends_it_itself() {
    let (host, mut driver, task, handle) = running(ENDLESS, KILL).await;
    fs::rename(host.path("holdfast-executor"), host.path("away")).unwrap();
    kill_executor(&handle).await;
    let told = driver.wait(&task).await;
    assert_eq!(told.result.unwrap().signal, 9);
    assert!(told.err.starts_with("executor lost"), "{}", told.err);
    host.ends(driver, &task).await;
}

#[tokio::test]
async fn any_other_task_goes_on_with_another_executor_and_its_exit_code() {
    let host = Host::new();
    let mut driver = host.driver().await;
    let task = host.task(
        "main",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    let handle = driver.start(&task).await.unwrap();
    host.says("main", "ready").await;
    for _ in 0..3 {
        kill_executor(&handle).await;
        assert_eq!(driver.exec(&task).await.unwrap(), format!("{}\n", host.marker()));
        assert_eq!(mains(&host), [state(&handle).main.pid]);
    }
    driver.stop(&task, 60).await.unwrap();
    assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 5);
    host.ends(driver, &task).await;
}

/// A cgroup of a service manager's in one hierarchy, and one beside it for the agent's own cgroups.
struct Unit {
    cgroup: PathBuf,
    parent: PathBuf,
}

impl Unit {
    fn new() -> Option<Unit> {
        if !is_root() {
            return None;
        }
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].map(Path::new);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists())?;
        let name = format!("holdfast-unit-test-{}", std::process::id());
        let (cgroup, parent) = (mount.join(format!("{name}.service")), mount.join(name));
        fs::create_dir(&cgroup).unwrap();
        Some(Unit { cgroup, parent })
    }

    fn pids(&self) -> Vec<i32> {
        let procs = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap();
        procs.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let name = self.parent.file_name().unwrap().to_owned();
        for _ in 0..500 {
            let _ = fs::remove_dir(&self.cgroup);
            // In each hierarchy in which an executor or a task was moved.
            for mount in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                for root in [mount.path(), PathBuf::from("/sys/fs/cgroup")] {
                    remove_tree(&root.join(&name));
                }
            }
            if !self.cgroup.exists() && !self.parent.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn remove_tree(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_tree(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// What a service manager does with `KillMode=control-group`.
#[tokio::test]
async fn when_every_process_of_the_agents_cgroup_is_killed_executors_and_tasks_go_on() {
    let Some(unit) = Unit::new() else {
        println!("does nothing here: it takes root and cgroups");
        return;
    };
    let mut host = Host::new();
    host.cgroup = Some(unit.cgroup.clone());
    let name = unit.parent.file_name().unwrap().to_str().unwrap();
    host.cpuset_cgroup = match holdfast_cgroup::version() {
        Some(holdfast_cgroup::Version::V1) => format!("/sys/fs/cgroup/cpuset/{name}/share"),
        _ => format!("/sys/fs/cgroup/{name}/share/x.scope"),
    };
    let mut driver = host.driver().await;
    let task = host.task(
        "main",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    let handle = driver.start(&task).await.unwrap();
    host.says("main", "ready").await;
    let members = unit.pids();
    assert!(
        members.contains(&i32::try_from(driver.plugin.pid()).unwrap()),
        "{members:?}"
    );
    for pid in members {
        let _ = holdfast_sys::process::kill(pid, crate::host::SIGKILL);
    }
    until("the end of everything in it", || unit.pids().is_empty().then_some(())).await;
    assert!(lives(state(&handle).main.pid) && lives(state(&handle).executor.pid) && lives(state(&handle).init.pid));
    assert!(!to_executor(&handle, 0).has_exited().unwrap());
    let mut driver = host.driver().await;
    driver.recover(&handle).await.unwrap();
    assert_eq!(driver.exec(&task).await.unwrap(), format!("{}\n", host.marker()));
    driver.stop(&task, 60).await.unwrap();
    assert_eq!(driver.wait(&task).await.result.unwrap().exit_code, 5);
    host.ends(driver, &task).await;
    assert!(holding(&host.marker()).is_empty());
}
