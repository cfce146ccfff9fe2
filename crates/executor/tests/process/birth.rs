//! An init that is cloned before its task is known.

use holdfast_executor::birth::Birth;
use holdfast_executor::client::{self, Fresh, Launcher};
use holdfast_executor::init_binary;
use holdfast_record::{Isolation, Namespaces, What};
use holdfast_wire::executor_v1::{CommitRequest, IdentifyRequest, LaunchResponse, TaskSpec};

use crate::host::{Host, Task, binary, ended, eventually, gone, is_root, signal};
use crate::isolation::{Mounts, entry, holdfast_view, isolated, usual};

/// An executor for a task, and its init that waits.
pub struct Expecting {
    executor: Fresh,
    init: i32,
}

impl Expecting {
    async fn of(host: &Host, task: &Task, namespaces: Namespaces) -> Expecting {
        Expecting::born(host, task, Birth::of(namespaces, None)).await
    }

    pub async fn born(host: &Host, task: &Task, birth: Birth) -> Expecting {
        init_binary::lay_out(&host.state_dir()).unwrap();
        let begun = Launcher::new(binary().into())
            .begin(task.dir.path(), &[], Some(birth))
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

    /// The task that becomes of it.
    pub async fn launch(&mut self, spec: TaskSpec) -> LaunchResponse {
        let asked = self.executor.executor.launch(client::launch_request(spec)).await;
        let launched = asked.unwrap().into_inner();
        // One that is over by now was launched all the same.
        let _ = self.executor.executor.commit(CommitRequest {}).await;
        launched
    }

    /// Whether it has used the init that waited.
    pub fn has_used_it(&self, launched: &LaunchResponse) -> bool {
        init_of(launched) == self.init
    }

    /// Returns when the executor has left.
    pub fn ended(&self) {
        ended(&self.executor.pidfd);
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
async fn a_tree_that_an_init_has_begun_with_is_the_one_that_the_main_process_would_have_built() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    let mounts = Mounts::of(host.path());
    // Neither which mount it is, nor what of the host it shows, which are each task's own.
    let script = "while read -r number above device root point options rest; do echo \"$point $options $rest\"; done \
                  < /proc/self/mountinfo | sort; ls -lR /dev /proc/sys/kernel/pty; cat /etc/hosts; echo that is all";
    let mut seen = Vec::new();
    for is_begun in [true, false] {
        let task = host.task("main");
        let mut isolation = usual(holdfast_view(&task));
        let content = "192.0.2.1 nowhere\n".to_owned();
        isolation.entries.push(entry("/etc/hosts", What::File { content }));
        let birth = Birth::of(isolation.namespaces, None);
        let birth = if is_begun { birth.with_groundwork() } else { birth };
        let mut expecting = Expecting::born(&host, &task, birth).await;
        let spec = host.scoped(isolated(task.shell(script), &isolation));
        let launched = expecting.launch(spec).await;
        assert!(expecting.has_used_it(&launched));
        task.says("that is all\n");
        expecting.ended();
        seen.push(task.stdout());
    }
    let lines = |text: &str| -> Vec<String> {
        let is_dated = |line: &str| line.contains(':') && line.starts_with(['d', 'c', 'l', '-']);
        let undated = |line: &str| {
            let mut fields: Vec<&str> = line.split_whitespace().collect();
            // ls: .. month, day, time, name; two numbers and not one before them where it is a device.
            if let Some(time) = fields.iter().position(|field| field.contains(':'))
                && is_dated(line)
            {
                fields.drain(time - 2..=time);
            }
            fields.join(" ")
        };
        // What the files are taken from lies below something that covers it: not the same in both.
        let is_hidden = |line: &&str| line.contains("size=4096k") && !line.starts_with("/ ");
        text.lines().filter(|line| !is_hidden(line)).map(undated).collect()
    };
    for (begun, whole) in lines(&seen[0]).iter().zip(lines(&seen[1])) {
        assert_eq!(*begun, whole);
    }
    assert_eq!(lines(&seen[0]).len(), lines(&seen[1]).len());
    assert!(seen[0].contains("192.0.2.1 nowhere"), "{}", seen[0]);
    mounts.are_unchanged(host.path());
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
