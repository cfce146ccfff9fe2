//! Starting the main process, and failing to.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_executor::client::{self, Fresh, Launcher};
use holdfast_record::Status;
use holdfast_wire::executor_v1::identify_response::State;
use holdfast_wire::executor_v1::{Credentials, IdentifyRequest, Output, StopRequest, TaskSpec, output, task_result};

use crate::host::{
    Host, StartMode, Task, binary, ended, eventually, is_root, launch, left, lives, pids_holding, status_field, wait,
};

#[tokio::test]
async fn an_exit_code_is_told_and_on_disk_w2() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("echo out; echo err >&2; exit 7"));
    let (mut peer, launched) = host.launch(&task, spec).await;
    assert!(launched.started_at_ms > 0);
    assert_eq!(launched.warnings, Vec::<String>::new());
    assert_eq!(
        wait(&task, &mut peer).await.status,
        Some(task_result::Status::Exited(7))
    );
    assert_eq!(task.result().status, Status::Exited(7), "what is told is on disk");
    left(peer);
    assert_eq!(task.stdout(), "out\n");
    assert_eq!(task.output("stderr"), b"err\n");
    host.nothing_left();
}

#[tokio::test]
async fn a_signal_that_ended_the_task_is_told_as_such_w4() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running(&task, "kill -SEGV $$").await;
    let result = wait(&task, &mut peer).await;
    assert_eq!(result.status, Some(task_result::Status::Signalled(libc::SIGSEGV)));
    assert!(!result.oom_killed);
    left(peer);
}

/// A launch that must fail: its text, and that nothing is left of it.
async fn refused(host: &Host, task: &Task, spec: TaskSpec) -> String {
    let mut peer = host.start(task, StartMode::Fresh).await.unwrap();
    let error = launch(&mut peer, spec).await.unwrap_err();
    assert_ne!(error.code(), tonic::Code::Unavailable, "{error}");
    left(peer);
    host.nothing_left();
    let message = error.message().to_owned();
    assert!(!message.contains('\n'), "{message:?} is not one line");
    message
}

#[tokio::test]
async fn a_missing_command_is_named_and_leaves_nothing_s4() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.spec("/no/such/command", &["x"]));
    let message = refused(&host, &task, spec).await;
    assert_eq!(
        message,
        "execute /no/such/command: No such file or directory (os error 2)"
    );
}

#[tokio::test]
async fn a_command_without_execute_bits_is_named_s4() {
    let host = Host::new();
    let task = host.task("main");
    let message = refused(&host, &task, task.spec("/etc/passwd", &[])).await;
    assert_eq!(message, "execute /etc/passwd: Permission denied (os error 13)");
}

#[tokio::test]
async fn a_missing_work_dir_is_named_s4() {
    let mut host = Host::new();
    for _ in 0..5 {
        let task = host.task("main");
        let spec = TaskSpec {
            work_dir: "/no/such/folder".to_owned(),
            ..task.shell("exit 0")
        };
        let spec = host.scoped(spec);
        let message = refused(&host, &task, spec).await;
        assert_eq!(message, "chdir /no/such/folder: No such file or directory (os error 2)");
    }
}

#[tokio::test]
async fn an_unsearchable_work_dir_is_named_s4() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let closed = host.path().join("closed");
    fs::create_dir_all(closed.join("inner")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let inner = closed.join("inner").to_str().unwrap().to_owned();
    let spec = TaskSpec {
        work_dir: inner.clone(),
        user: "nobody".to_owned(),
        credentials: Some(Credentials {
            uid: 65534,
            gid: 65534,
            groups: vec![65534],
        }),
        ..task.shell("exit 0")
    };
    let message = refused(&host, &task, spec).await;
    assert_eq!(message, format!("chdir {inner}: Permission denied (os error 13)"));
}

#[tokio::test]
async fn a_network_namespace_that_is_none_is_named_s10() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    for (path, reason) in [
        ("/no/such/netns", "No such file or directory (os error 2)"),
        ("/etc/passwd", "Invalid argument (os error 22)"),
    ] {
        let task = host.task("main");
        let spec = TaskSpec {
            network_namespace: path.to_owned(),
            ..task.shell("exit 0")
        };
        let message = refused(&host, &task, spec).await;
        assert_eq!(message, format!("join network namespace {path}: {reason}"));
    }
}

#[tokio::test]
async fn a_network_namespace_is_joined_s10() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        network_namespace: "/proc/self/ns/net".to_owned(),
        ..task.shell("readlink /proc/self/ns/net")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    left(peer);
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(task.stdout().trim(), own.to_str().unwrap());
}

#[tokio::test]
async fn a_missing_log_folder_is_named_s4() {
    let host = Host::new();
    let task = host.task("main");
    fs::remove_dir(&task.logs).unwrap();
    let spec = TaskSpec {
        work_dir: "/".to_owned(),
        ..task.shell("exit 0")
    };
    let message = refused(&host, &task, spec).await;
    assert!(message.contains(task.logs.to_str().unwrap()), "{message}");
    fs::create_dir(&task.logs).unwrap();
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_before_anything_is_made() {
    let host = Host::new();
    for (spoil, expected) in [
        (
            (|spec| spec.command = "relative".to_owned()) as fn(&mut TaskSpec),
            "command \"relative\" is not an absolute path",
        ),
        (
            |spec| spec.work_dir = String::new(),
            "work_dir \"\" is not an absolute path",
        ),
        (
            |spec| spec.args = vec!["a\0b".to_owned()],
            "preparing the steps: a path, argument or variable holds a zero byte",
        ),
    ] {
        let task = host.task("main");
        let mut spec = task.shell("exit 0");
        spoil(&mut spec);
        assert_eq!(refused(&host, &task, spec).await, expected);
    }
}

#[tokio::test]
async fn a_task_of_another_id_and_a_second_launch_are_refused() {
    let host = Host::new();
    let task = host.task("main");
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let stranger = TaskSpec {
        task_id: "another".to_owned(),
        ..task.shell("exit 0")
    };
    let error = launch(&mut peer, stranger).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("another"), "{error}");
    let launched = launch(&mut peer, task.shell("sleep 1000")).await.unwrap();
    let error = launch(&mut peer, task.shell("sleep 1000")).await.unwrap_err();
    assert_eq!(error.message(), "this executor has launched its task already");
    assert!(lives(launched.main.unwrap().pid));
    let stop = StopRequest { signal: 0, grace_ms: 0 };
    peer.executor.stop(stop).await.unwrap();
    left(peer);
}

#[tokio::test]
async fn an_uncommitted_task_is_left_alone_for_now_and_says_so() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, launched) = host.launch(&task, task.shell("sleep 1000")).await;
    let identity = peer.executor.identify(IdentifyRequest {}).await.unwrap().into_inner();
    assert_eq!(identity.state(), State::Running);
    assert!(!identity.committed && !task.record().committed);
    drop(peer);
    let mut peer = holdfast_executor::client::connect(&task.dir).await.unwrap();
    assert!(
        lives(launched.main.unwrap().pid),
        "it outlives its launcher's connection"
    );
    peer.executor
        .commit(holdfast_wire::executor_v1::CommitRequest {})
        .await
        .unwrap();
    assert!(task.record().committed);
    let stop = StopRequest { signal: 0, grace_ms: 0 };
    peer.executor.stop(stop).await.unwrap();
    left(peer);
}

#[tokio::test]
async fn main_has_its_three_descriptors_default_signals_and_a_session_of_its_own() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "echo ready; exec sleep 1000").await;
    task.says("ready");
    let main = launched.main.unwrap().pid;
    eventually("exec of the command", || {
        let name = status_field(main, "Name");
        (name == "sleep").then_some(()).ok_or(name)
    });
    let descriptors: BTreeSet<String> = fs::read_dir(format!("/proc/{main}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(descriptors, ["0", "1", "2"].map(str::to_owned).into());
    let target = |number: i32| fs::read_link(format!("/proc/{main}/fd/{number}")).unwrap();
    assert_eq!(target(0), Path::new("/dev/null"));
    assert_eq!(target(1), task.dir.path().join("stdout"));
    assert_eq!(target(2), task.dir.path().join("stderr"));
    for field in ["SigBlk", "SigIgn"] {
        assert_eq!(u64::from_str_radix(&status_field(main, field), 16), Ok(0), "{field}");
    }
    let stat = fs::read_to_string(format!("/proc/{main}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    assert_eq!(fields[2..4], [main.to_string(), main.to_string()], "group and session");
    crate::stop::kill_now(peer).await;
}

#[tokio::test]
async fn environment_and_arguments_arrive_and_are_never_on_disk() {
    let host = Host::new();
    let task = host.task("main");
    let (secret, token) = ("hidden-in-the-environment", "hidden-in-an-argument");
    let mut spec = task.spec("/bin/sh", &["-c", "echo ready; sleep 1000", token]);
    spec.env.push(format!("SECRET={secret}"));
    let expected = spec.env.clone();
    let (mut peer, launched) = host.launch(&task, spec).await;
    task.says("ready");
    let main = launched.main.unwrap().pid;
    let environ = fs::read(format!("/proc/{main}/environ")).unwrap();
    let found: Vec<String> = environ
        .split(|byte| *byte == 0)
        .filter(|variable| !variable.is_empty())
        .map(crate::host::text)
        .collect();
    assert_eq!(found, expected);
    let never_on_disk = || {
        let mut folders = vec![host.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files += 1;
                    let content = crate::host::text(&fs::read(entry.path()).unwrap());
                    assert!(
                        !content.contains(secret) && !content.contains(token),
                        "a secret is in {}",
                        entry.path().display()
                    );
                }
            }
        }
        assert!(files > 3, "only {files} files were looked at");
    };
    never_on_disk();
    // Nor are they in what the executor and the init are seen with.
    for pid in [launched.init.unwrap().pid, peer.identity.pid] {
        for file in ["environ", "cmdline"] {
            let content = crate::host::text(&fs::read(format!("/proc/{pid}/{file}")).unwrap());
            assert!(!content.contains(secret) && !content.contains(token), "{pid} {file}");
        }
    }
    let stop = StopRequest {
        signal: libc::SIGTERM,
        grace_ms: 20_000,
    };
    peer.executor.stop(stop).await.unwrap();
    left(peer);
    never_on_disk();
}

#[tokio::test]
async fn the_executor_takes_nothing_of_its_launchers_environment() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let environ = fs::read(format!("/proc/{}/environ", peer.identity.pid)).unwrap();
    assert_eq!(crate::host::text(&environ), "");
    crate::stop::kill_now(peer).await;
}

#[tokio::test]
async fn a_user_is_numbers_and_exactly_these_groups() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        work_dir: "/".to_owned(),
        user: "somebody".to_owned(),
        oom_score_adj: 123,
        credentials: Some(Credentials {
            uid: 12345,
            gid: 23456,
            groups: vec![23456, 34567],
        }),
        // Opening one's own output again works for whoever owns it.
        ..task.shell("echo ready > /dev/stdout; exec sleep 1000")
    };
    let (peer, launched) = host.launch(&task, spec).await;
    task.says("ready");
    let main = launched.main.unwrap().pid;
    assert_eq!(status_field(main, "Uid"), "12345\t12345\t12345\t12345");
    assert_eq!(status_field(main, "Gid"), "23456\t23456\t23456\t23456");
    assert_eq!(status_field(main, "Groups"), "23456 34567");
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score(main).trim(), "123");
    // Lowering it is allowed to whoever has CAP_SYS_RESOURCE, capability 24.
    let capabilities = u64::from_str_radix(&status_field(peer.identity.pid, "CapEff"), 16).unwrap();
    let protected = if capabilities >> 24 & 1 == 1 { "-900" } else { "0" };
    assert_eq!(score(peer.identity.pid).trim(), protected);
    crate::stop::kill_now(peer).await;
}

#[tokio::test]
async fn main_is_in_the_tasks_cgroups_and_nothing_of_ours_is() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("sleep 1000 & wait"));
    let Some(placement) = spec.placement.clone() else {
        return;
    };
    let (peer, launched) = host.launch(&task, spec).await;
    let main = launched.main.unwrap().pid;
    let inside = eventually("both processes", || {
        let pids = holdfast_cgroup::pids(Path::new(&placement.scope)).unwrap();
        (pids.len() == 2).then(|| pids.clone()).ok_or(format!("{pids:?}"))
    });
    assert!(inside.contains(&main));
    for dir in &placement.join {
        let pids = holdfast_cgroup::pids(Path::new(dir)).unwrap();
        assert!(pids.contains(&main), "{dir}");
        assert!(!pids.contains(&launched.init.unwrap().pid), "the init is in {dir}");
        assert!(!pids.contains(&peer.identity.pid), "the executor is in {dir}");
    }
    crate::stop::kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_limit_that_cannot_be_applied_is_a_warning_with_its_file() {
    let mut host = Host::new();
    let task = host.task("main");
    let mut spec = host.scoped(task.shell("exit 0"));
    if spec.placement.is_none() {
        return;
    }
    spec.limits = Some(holdfast_wire::executor_v1::Limits {
        cpuset_cpus: Some("nonsense".to_owned()),
        ..Default::default()
    });
    let (mut peer, launched) = host.launch(&task, spec).await;
    assert_eq!(launched.warnings.len(), 1, "{:?}", launched.warnings);
    assert!(launched.warnings[0].contains("cpuset.cpus"), "{:?}", launched.warnings);
    wait(&task, &mut peer).await;
    left(peer);
}

#[tokio::test]
async fn output_to_a_path_is_appended_as_it_is() {
    let host = Host::new();
    let task = host.task("main");
    let file = host.path().join("file");
    fs::write(&file, "before\n").unwrap();
    let spec = TaskSpec {
        stdout: Some(Output {
            sink: Some(output::Sink::Path(file.to_str().unwrap().to_owned())),
        }),
        stderr: None,
        ..task.shell("echo out; echo nowhere >&2; [ /dev/stderr -ef /dev/null ] && echo null")
    };
    let (mut peer, _) = host.launch(&task, spec).await;
    wait(&task, &mut peer).await;
    left(peer);
    assert_eq!(fs::read_to_string(file).unwrap(), "before\nout\nnull\n");
    assert_eq!(fs::read_dir(&task.logs).unwrap().count(), 0);
}

#[tokio::test]
async fn an_executor_of_which_nothing_is_asked_touches_nothing_and_leaves() {
    let host = Host::new();
    let folder = host.state_dir().join("raw_exec").join("00000000-00000000");
    let cgroups = [Path::new(holdfast_cgroup::ROOT).join("nobody/made/this")];
    let listing = || files_below(host.path());
    let before = listing();
    let launcher = Launcher::new(binary().into());

    let dismissed = launcher
        .begin(&folder, &cgroups, None)
        .unwrap()
        .connect()
        .await
        .unwrap();
    dismissed.dismiss().await;
    let left = pids_holding(folder.to_str().unwrap());
    assert_eq!(left, Vec::<i32>::new(), "of a dismissed one nobody is left");

    // As when its driver is killed: the connection is closed, and nobody kills it.
    let Fresh { pidfd, executor, .. } = launcher
        .begin(&folder, &cgroups, None)
        .unwrap()
        .connect()
        .await
        .unwrap()
        .goes_on();
    drop(executor);
    tokio::task::spawn_blocking(move || ended(&pidfd)).await.unwrap();
    assert_eq!(listing(), before);
    assert!(!cgroups[0].exists());
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_executor_whose_folder_is_not_there_when_it_is_asked_says_nothing_and_is_gone() {
    let host = Host::new();
    let task = host.task("gone");
    let path = task.dir.path().to_owned();
    let launcher = Launcher::new(binary().into());
    let Fresh {
        pidfd, mut executor, ..
    } = launcher
        .begin(&path, &[], None)
        .unwrap()
        .connect()
        .await
        .unwrap()
        .goes_on();
    fs::remove_dir_all(&path).unwrap();
    let refused = executor
        .launch(client::launch_request(task.shell("true")))
        .await
        .unwrap_err();
    assert!(!client::has_answered(&refused), "{refused}");
    ended(&pidfd);
    assert!(!path.exists());
}
