//! An init that is cloned before its task is known.

use holdfast_executor::birth::Birth;
use holdfast_executor::client::{self, Fresh, Launcher};
use holdfast_executor::init_binary;
use holdfast_record::{Isolation, Namespaces};
use holdfast_wire::executor_v1::{CommitRequest, IdentifyRequest, LaunchResponse, TaskSpec};

use crate::host::{Host, Task, binary, ended, eventually, gone, is_root, signal};
use crate::isolation::{holdfast_view, isolated};

/// An executor for a task, and its init that waits.
struct Expecting {
    executor: Fresh,
    init: i32,
}

impl Expecting {
    async fn of(host: &Host, task: &Task, namespaces: Namespaces) -> Expecting {
        init_binary::lay_out(&host.state_dir()).unwrap();
        let begun = Launcher::new(binary().into())
            .begin(task.dir.path(), &[], Some(Birth::of(namespaces, None)))
            .unwrap();
        let executor = begun.connect().await.unwrap().goes_on();
        let init = tokio::task::spawn_blocking(move || {
            eventually("an init waits", || {
                let executor = executor.identity.pid;
                let children = format!("/proc/{executor}/task/{executor}/children");
                let children = std::fs::read_to_string(children).map_err(|e| e.to_string())?;
                let init = children.trim().parse().map_err(|_| format!("children {children:?}"))?;
                let name = std::fs::read_to_string(format!("/proc/{init}/comm")).map_err(|e| e.to_string())?;
                (name.trim() == "holdfast-init").then_some(init).ok_or(name)
            })
        });
        let init = init.await.unwrap();
        Expecting { executor, init }
    }

    async fn launch(&mut self, spec: TaskSpec) -> LaunchResponse {
        let asked = self.executor.executor.launch(client::launch_request(spec)).await;
        let launched = asked.unwrap().into_inner();
        self.executor.executor.commit(CommitRequest {}).await.unwrap();
        launched
    }
}

fn init_of(launched: &LaunchResponse) -> i32 {
    launched.init.as_ref().unwrap().pid
}

#[tokio::test]
async fn an_init_that_waits_becomes_the_tasks_own() {
    let host = Host::new();
    let task = host.task("main");
    let mut expecting = Expecting::of(&host, &task, Namespaces::default()).await;
    let launched = expecting.launch(task.shell("echo lives; sleep 1000")).await;
    assert_eq!(init_of(&launched), expecting.init);
    task.says("lives\n");
    let link = |descriptor: i32| std::fs::read_link(format!("/proc/{}/fd/{descriptor}", expecting.init));
    let open: Vec<_> = (0..32).filter_map(|number| link(number).ok()).collect();
    // Three of its own, output, exit record, events and spools: nothing of the executor's beside them.
    assert_eq!(open.len(), 3 + 6, "{open:?}");
    signal(launched.main.unwrap().pid, libc::SIGKILL);
    ended(&expecting.executor.pidfd);
    gone(expecting.init);
}

#[tokio::test]
async fn an_isolated_tasks_init_may_wait_too_and_one_that_was_born_otherwise_is_replaced() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    for is_right in [true, false] {
        let task = host.task("main");
        let isolation: Isolation = holdfast_view(&task);
        let namespaces = match is_right {
            true => isolation.namespaces,
            false => Namespaces::default(),
        };
        let mut expecting = Expecting::of(&host, &task, namespaces).await;
        let spec = host.scoped(isolated(task.shell("echo I am $$; sleep 1000"), &isolation));
        let launched = expecting.launch(spec).await;
        assert_eq!(init_of(&launched) == expecting.init, is_right);
        task.says("I am 2\n");
        if !is_right {
            gone(expecting.init);
        }
        signal(launched.main.unwrap().pid, libc::SIGKILL);
        ended(&expecting.executor.pidfd);
    }
    host.remove_scopes();
    host.nothing_left();
}

#[tokio::test]
async fn an_init_that_was_killed_while_it_waited_is_replaced() {
    let host = Host::new();
    let task = host.task("main");
    let mut expecting = Expecting::of(&host, &task, Namespaces::default()).await;
    signal(expecting.init, libc::SIGKILL);
    gone(expecting.init);
    let launched = expecting.launch(task.shell("echo lives; sleep 1000")).await;
    task.says("lives\n");
    signal(launched.main.unwrap().pid, libc::SIGKILL);
    ended(&expecting.executor.pidfd);
}

#[tokio::test]
async fn an_init_that_waits_leaves_when_its_executor_does_however_that_happens() {
    let host = Host::new();
    for is_killed in [true, false] {
        let task = host.task("main");
        let Expecting { executor, init } = Expecting::of(&host, &task, Namespaces::default()).await;
        let Fresh { pidfd, executor, .. } = executor;
        if is_killed {
            pidfd.send_signal(libc::SIGKILL).unwrap();
        }
        // The connection is closed by a task of this thread.
        drop(executor);
        tokio::task::spawn_blocking(move || ended(&pidfd)).await.unwrap();
        gone(init);
    }
    // One that was asked, and launched nothing, as well.
    let task = host.task("main");
    let Expecting { mut executor, init } = Expecting::of(&host, &task, Namespaces::default()).await;
    executor.executor.identify(IdentifyRequest {}).await.unwrap();
    executor.pidfd.send_signal(libc::SIGKILL).unwrap();
    ended(&executor.pidfd);
    gone(init);
}
