//! A launch that nobody answers for is stopped after a bound. In a process of its own: it is the executor itself.

use std::sync::Arc;
use std::time::Duration;

use holdfast_executor::children::Children;
use holdfast_executor::service::Service;
use holdfast_executor::session::Sessions;
use holdfast_executor::supervisor::{Command, IDLE, Supervisor};
use holdfast_record::{Intent, Status, SupervisionDir};
use holdfast_wire::executor_v1::TaskSpec;
use tokio::sync::{mpsc, watch};

/// Who answers for the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commits {
    Nobody,
    ByCall,
    ByLink,
}

#[tokio::test]
async fn a_launch_without_a_commit_ends_after_the_bound_and_one_with_it_does_not() {
    holdfast_sys::process::set_child_subreaper().unwrap();
    let state = tempfile::tempdir().unwrap();
    let children = Children::reap().unwrap();
    for commits in [Commits::Nobody, Commits::ByCall, Commits::ByLink] {
        let boot_id = holdfast_record::boot_id().unwrap();
        let intent = Intent::new(format!("task-{commits:?}"), "alloc", "task", "raw_exec", boot_id).unwrap();
        let dir = SupervisionDir::create(&state.path().join("raw_exec"), &intent).unwrap();
        let _lock = dir.lock().unwrap().unwrap();
        let (commands, queue) = mpsc::unbounded_channel();
        let (snapshot, snapshots) = watch::channel(IDLE);
        let service = Service {
            commands,
            snapshot: snapshots,
            intent: Arc::new(intent.clone()),
            children: children.clone(),
            sessions: Sessions::default(),
        };
        let supervisor = Supervisor {
            dir: dir.try_clone().unwrap(),
            births: holdfast_executor::birth::Births::new(
                holdfast_executor::init_binary::lay_out(state.path()).unwrap(),
            ),
            children: children.clone(),
            sessions: Sessions::default(),
            commands: queue,
            snapshot,
            commit_bound: Some(Duration::from_millis(500)),
        };
        let supervising = tokio::spawn(supervisor.run());
        let spec = TaskSpec {
            task_id: intent.task_id.clone(),
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), "sleep 1.5; exit 7".to_owned()],
            work_dir: "/".to_owned(),
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            ..TaskSpec::default()
        };
        let launched = service.ask(|reply| Command::Launch(Box::new(spec), reply)).await;
        launched.unwrap().unwrap();
        match commits {
            Commits::Nobody => {}
            Commits::ByCall => {
                let committed = service.ask(|reply| Command::Commit(None, reply)).await;
                committed.unwrap().unwrap();
            }
            // As a driver does, which may die before it says so.
            Commits::ByLink => dir.commit().unwrap(),
        }
        supervising.await.unwrap();
        let status = dir.result().unwrap().unwrap().status;
        let expected = match commits {
            Commits::Nobody => Status::Signalled(libc::SIGKILL),
            Commits::ByCall | Commits::ByLink => Status::Exited(7),
        };
        assert_eq!(status, expected);
    }
}
