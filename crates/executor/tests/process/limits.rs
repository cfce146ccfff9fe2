//! Limits: strict or as well as can be, changed while the task lives, and none where the task has no cgroup of its own.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_wire::executor_v1::{Limits, Placement, TaskSpec, UpdateRequest};

use crate::host::{Host, StartMode, kill, launch, left};
use crate::stop::kill_now;

fn limited(spec: TaskSpec, limits: Limits, strict_limits: bool) -> TaskSpec {
    TaskSpec {
        limits: Some(limits),
        strict_limits,
        ..spec
    }
}

/// One that the kernel takes and one that it cannot: there is no such CPU.
fn impossible() -> Limits {
    Limits {
        pids_max: Some(50),
        io_weight: Some(20_000),
        cpuset_cpus: Some("100000".to_owned()),
        ..Limits::default()
    }
}

fn own(spec: &TaskSpec) -> Vec<PathBuf> {
    spec.placement.as_ref().unwrap().own.iter().map(PathBuf::from).collect()
}

/// What the limit of processes is in the kernel; without the controller there is none.
fn pids_max(spec: &TaskSpec) -> String {
    let joined = &spec.placement.as_ref().unwrap().join;
    let file = joined
        .iter()
        .map(|dir| Path::new(dir).join("pids.max"))
        .find(|file| file.exists());
    file.map_or_else(
        || "max".to_owned(),
        |file| fs::read_to_string(file).unwrap().trim().to_owned(),
    )
}

#[tokio::test]
async fn a_strict_limit_that_cannot_be_applied_fails_the_start_and_leaves_nothing() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = limited(host.scoped(task.shell("echo it runs; sleep 1000")), impossible(), true);
    let own = own(&spec);
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let error = launch(&mut peer, spec).await.unwrap_err();
    assert_eq!(
        error.code(),
        tonic::Code::FailedPrecondition,
        "another try is as hopeless"
    );
    assert!(
        error.message().contains("limits are strict") && error.message().contains("cpuset controller"),
        "{error}"
    );
    left(peer);
    assert_eq!(task.stdout(), "");
    assert_eq!(task.dir.record().unwrap(), None);
    assert!(own.iter().all(|dir| !dir.exists()));
    host.nothing_left();
}

#[tokio::test]
async fn otherwise_it_is_a_warning_and_the_others_hold() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = limited(host.scoped(task.shell("sleep 1000")), impossible(), false);
    let (peer, launched) = host.running_spec(&task, spec.clone()).await;
    assert!(
        launched
            .warnings
            .iter()
            .any(|warning| warning.contains("cpuset controller")),
        "{:?}",
        launched.warnings
    );
    assert_eq!(pids_max(&spec), "50");
    // The driver passes the warnings on: told twice they would be two events.
    assert_eq!(task.dir.notices().unwrap(), None);
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn without_a_cgroup_nothing_is_limited_which_only_a_strict_task_minds() {
    let limits = Limits {
        pids_max: Some(50),
        ..Limits::default()
    };
    for (strict, limits, runs) in [
        (false, limits.clone(), true),
        (true, Limits::default(), true),
        (true, limits, false),
    ] {
        let host = Host::new();
        let task = host.task("main");
        let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
        let launched = launch(&mut peer, limited(task.shell("sleep 1000"), limits, strict)).await;
        assert_eq!(launched.is_ok(), runs, "{launched:?}");
        match launched {
            Ok(launched) => {
                assert_eq!(launched.warnings, Vec::<String>::new());
                kill_now(peer).await;
            }
            Err(e) => {
                assert!(e.message().contains("no cgroup of its own"), "{e}");
                left(peer);
            }
        }
        host.nothing_left();
    }
}

/// The operator's cgroup: it is joined and not limited.
#[tokio::test]
async fn a_foreign_cgroup_is_joined_and_never_limited() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("sleep 1000"));
    let dirs = own(&spec);
    host.make_scopes();
    let limits = Limits {
        pids_max: Some(50),
        ..Limits::default()
    };
    let given = spec.placement.clone().unwrap();
    let placement = Placement {
        foreign: true,
        join: given.own,
        own: Vec::new(),
        ..given
    };
    let spec = limited(
        TaskSpec {
            placement: Some(placement),
            ..spec
        },
        limits,
        false,
    );
    let (peer, launched) = host.running_spec(&task, spec.clone()).await;
    assert_eq!(launched.warnings, Vec::<String>::new());
    assert_eq!(pids_max(&spec), "max");
    let main = launched.main.unwrap().pid.to_string();
    let members = fs::read_to_string(dirs[0].join("cgroup.procs")).unwrap();
    assert!(members.lines().any(|line| line == main), "{members:?}");
    kill_now(peer).await;
    host.remove_scopes();
}

#[tokio::test]
async fn limits_of_a_living_task_change_and_stay_changed_for_who_adopts() {
    let mut host = Host::new();
    let task = host.task("main");
    let limits = |count| Limits {
        pids_max: Some(count),
        ..Limits::default()
    };
    let spec = limited(host.scoped(task.shell("sleep 1000")), limits(50), true);
    let (mut peer, launched) = host.running_spec(&task, spec.clone()).await;
    assert_eq!(pids_max(&spec), "50");
    let update = |limits| UpdateRequest { limits: Some(limits) };
    let updated = peer.executor.update(update(limits(70))).await.unwrap().into_inner();
    assert_eq!(updated.warnings, Vec::<String>::new());
    assert_eq!(pids_max(&spec), "70");
    // What cannot be applied is told, also for a task whose limits were strict, and harms nobody.
    let updated = peer.executor.update(update(impossible())).await.unwrap().into_inner();
    assert!(
        updated
            .warnings
            .iter()
            .any(|warning| warning.contains("cpuset controller"))
    );
    peer.executor.update(update(limits(70))).await.unwrap();
    kill(peer);
    let peer = host.start(&task, StartMode::Adopt).await.unwrap();
    assert_eq!(peer.identity.main, launched.main);
    assert_eq!(pids_max(&spec), "70");
    kill_now(peer).await;
    host.nothing_left();
}
