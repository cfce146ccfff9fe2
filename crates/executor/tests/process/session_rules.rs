//! What holds for every session: the task's attributes, its time limit, the cap, and its end.

use holdfast_wire::executor_v1::{Credentials, IoPriority, Rlimit, io_priority};

use crate::host::{Host, StartMode, eventually, gone, is_root, kill, launch, left, lives, text};
use crate::session::{Session, exec};
use crate::session_many::sessions_gone;
use crate::stop::kill_now;

/// What a process is made of and does not choose itself; standard streams and cgroup aside.
const SELF: &str = "umask; ulimit -a; ulimit -Ha; pwd; env | sort
    grep -E '^(Uid|Gid|Groups|Umask|NoNewPrivs|Seccomp|Cap...|SigBlk|SigIgn|SigCgt|Cpus_allowed|Mems_allowed)' /proc/self/status
    cut -d' ' -f18,19,40,41 /proc/self/stat; cat /proc/self/oom_score_adj; ionice 2>/dev/null
    for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done
    for fd in /proc/self/fd/*; do echo ${fd##*/}; done; grep -v freezer /proc/self/cgroup | grep -v '^0:'";

#[tokio::test]
async fn a_session_is_what_the_main_process_is() {
    let mut host = Host::new();
    let task = host.task("main");
    let mut spec = host.scoped(task.shell(&format!("{SELF}; echo end; exec sleep 1000")));
    spec.umask = Some(0o037);
    spec.nice = 5;
    spec.oom_score_adj = 300;
    spec.io_priority = Some(IoPriority {
        class: io_priority::Class::BestEffort as i32,
        level: 6,
    });
    spec.rlimits = [("nofile", 100, 200), ("core", 0, 0), ("nproc", 900, 1000)]
        .map(|(name, soft, hard)| Rlimit {
            resource: holdfast_sys::limit::number(name).unwrap(),
            soft,
            hard,
        })
        .to_vec();
    if is_root() {
        spec.user = "a user of numbers".to_owned();
        spec.credentials = Some(Credentials {
            uid: 54_321,
            gid: 54_322,
            groups: vec![54_322, 54_323],
        });
    }
    let (peer, _) = host.launch(&task, spec).await;
    task.says("\nend\n");
    let main = task.stdout();
    for expected in ["0037\n", "\n300\n", "best-effort: prio 6"] {
        assert!(main.contains(expected), "{expected:?} is not in {main}");
    }
    assert!(!is_root() || main.contains("54321\t54321"), "{main}");
    // Longer than what the other kind of session returns.
    let mut session = Session::start(&peer, &format!("{SELF}; echo end"), false).await;
    assert_eq!(session.exit().await.exit_code, 0);
    assert_eq!(text(&session.stdout), main);
    let mut session = Session::start(&peer, &format!("stty -opost; {SELF}; echo end"), true).await;
    assert_eq!(session.exit().await.exit_code, 0);
    assert_eq!(text(&session.stdout), main, "with a terminal");
    let short = exec(&peer, &["/bin/sh", "-c", &format!("({SELF}) | md5sum")], 0)
        .await
        .unwrap();
    let mut session = Session::start(&peer, &format!("({SELF}) | md5sum"), false).await;
    session.exit().await;
    assert_eq!(text(&short.output), text(&session.stdout));
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn of_many_that_start_at_once_as_many_are_admitted_as_the_cap_says() {
    const CAP: usize = 3;
    let mut host = Host::new();
    let task = host.task("main");
    let mut spec = host.scoped(task.shell("exec sleep 1000"));
    spec.max_sessions = CAP as u32;
    let (peer, _) = host.launch(&task, spec).await;
    for _ in 0..3 {
        let starting = (0..16).map(|number| {
            let peer = &peer;
            async move {
                // Checks and streams count alike.
                if number % 2 == 0 {
                    let mut session = Session::start(peer, "echo up; sleep 0.5", false).await;
                    session.hear().await.map(|_| Some(session))
                } else {
                    exec(peer, &["sleep", "0.5"], 0).await.map(|_| None)
                }
            }
        });
        let (mut admitted, mut refused) = (Vec::new(), 0);
        for started in join_all(starting).await {
            match started {
                Ok(session) => admitted.push(session),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                    assert_eq!(
                        status.message(),
                        "the task runs 3 sessions already, as many as max_sessions allows"
                    );
                    refused += 1;
                }
            }
        }
        assert_eq!((admitted.len(), refused), (CAP, 16 - CAP));
        for session in admitted.iter_mut().flatten() {
            assert_eq!(session.exit().await.exit_code, 0);
        }
        // The answer to one is the place of the next.
        for _ in 0..10 {
            exec(&peer, &["true"], 0).await.unwrap();
        }
    }
    kill_now(peer).await;
    host.nothing_left();
}

async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut waiting {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        match waiting.iter().all(|(_, output)| output.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

/// A FIFO among the files by which a process joins its cgroups holds it up between clone and exec, for as long as nobody reads.
#[tokio::test]
async fn the_time_for_preparing_is_not_the_commands_x2() {
    if !is_root() || holdfast_cgroup::version() != Some(holdfast_cgroup::Version::V1) {
        return;
    }
    let mut host = Host::new();
    let task = host.task("main");
    let mut spec = host.scoped(task.shell("exec sleep 1000"));
    let barrier = host.path().join("barrier");
    std::fs::create_dir(&barrier).unwrap();
    let folder = std::fs::File::open(&barrier).unwrap();
    holdfast_sys::file::mkfifo_at(&folder, "tasks", 0o600).unwrap();
    let placement = spec.placement.as_mut().unwrap();
    placement.join.push(barrier.to_str().unwrap().to_owned());
    let open = || {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(barrier.join("tasks"));
        file.unwrap()
    };
    let reader = open();
    let (peer, _) = host.launch(&task, spec).await;
    drop(reader);
    let lift = async {
        tokio::time::sleep(std::time::Duration::from_millis(3_500)).await;
        open()
    };
    let (ran, _reader) = tokio::join!(exec(&peer, &["echo", "in time"], 3_000), lift);
    let ran = ran.unwrap();
    assert!(!ran.exit.unwrap().timed_out);
    assert_eq!(text(&ran.output), "in time\n");
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_command_that_never_stops_writing_is_ended_by_its_time_x2() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let (flood, other) = tokio::join!(exec(&peer, &["yes"], 2_000), exec(&peer, &["echo", "meanwhile"], 0));
    assert!(flood.as_ref().unwrap().exit.unwrap().timed_out);
    assert!(flood.unwrap().output.ends_with(b"y\ny\n"));
    assert_eq!(other.unwrap().output, b"meanwhile\n");
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_command_that_forks_without_end_is_ended_with_all_its_children_x2() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec = task.shell("exec sleep 1000");
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (peer, launched) = host.launch(&task, spec).await;
        let script = "for i in $(seq 500); do sleep 777 & done; wait";
        let ran = exec(&peer, &["/bin/sh", "-c", script], 50).await.unwrap();
        assert!(ran.exit.unwrap().timed_out);
        sessions_gone(&peer, &launched, is_scoped);
        kill_now(peer).await;
        host.nothing_left();
    }
}

#[tokio::test]
async fn an_exit_of_any_code_is_told_from_a_time_limit_x2() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    for (script, limit_ms, code, signal, timed_out) in [
        ("exit 255", 60_000, 255, 0, false),
        ("exit 137", 60_000, 137, 0, false),
        ("kill -KILL $$", 60_000, 137, libc::SIGKILL, false),
        ("sleep 1000", 500, 137, libc::SIGKILL, true),
    ] {
        let exit = exec(&peer, &["/bin/sh", "-c", script], limit_ms)
            .await
            .unwrap()
            .exit
            .unwrap();
        assert_eq!(
            (exit.exit_code, exit.signal, exit.timed_out),
            (code, signal, timed_out),
            "{script}"
        );
    }
    kill_now(peer).await;
}

/// A child that has left the session and its process group and whose parent is gone.
const DAEMON: &str = "setsid sh -c 'trap \"\" HUP TERM; (setsid sh -c \"echo \\$\\$ > daemon; exec sleep 1000\" &) ' </dev/null \
    >/dev/null 2>&1; echo up; exec sleep 1000";

#[tokio::test]
async fn what_left_a_sessions_process_group_ends_with_its_client_its_time_its_executor_and_its_task_x4() {
    if !is_root() || holdfast_cgroup::version().is_none() {
        return;
    }
    for end in ["client", "time", "executor", "stop"] {
        let mut host = Host::new();
        let task = host.task("main");
        let spec = host.scoped(task.shell("exec sleep 1000"));
        let (mut peer, launched) = host.launch(&task, spec).await;
        let daemon = || {
            eventually("the daemon", || {
                let written = std::fs::read_to_string(task.logs.join("daemon")).unwrap_or_default();
                written
                    .trim()
                    .parse::<i32>()
                    .map_err(|_| format!("{written:?} is no pid"))
            })
        };
        if end == "time" {
            let ran = exec(&peer, &["/bin/sh", "-c", DAEMON], 3_000).await.unwrap();
            assert!(ran.exit.unwrap().timed_out);
            gone(daemon());
        } else {
            let mut session = Session::start(&peer, DAEMON, false).await;
            session.says("up").await;
            let pid = daemon();
            assert!(lives(pid));
            match end {
                "client" => {
                    drop(session);
                    // The client's side of the connection is this thread's.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                "executor" => {
                    kill(peer);
                    assert!(lives(pid), "only another executor ends it");
                    peer = host.start(&task, StartMode::Adopt).await.unwrap();
                }
                _ => {
                    let stop = crate::stop::stop(libc::SIGTERM, 20_000);
                    peer.executor.stop(stop).await.unwrap();
                    assert_eq!(session.exit().await.exit_code, 137);
                }
            }
            gone(pid);
        }
        if end == "stop" {
            left(peer);
        } else {
            assert!(lives(launched.main.unwrap().pid), "{end}");
            kill_now(peer).await;
        }
        host.nothing_left();
    }
}

#[tokio::test]
async fn a_step_that_fails_is_named_with_its_object() {
    let host = Host::new();
    let task = host.task("main");
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let folder = host.path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let mut spec = task.shell("exec sleep 1000");
    spec.work_dir = folder.to_str().unwrap().to_owned();
    launch(&mut peer, spec).await.unwrap();
    std::fs::remove_dir(&folder).unwrap();
    let error = exec(&peer, &["/bin/true"], 0).await.unwrap_err();
    let expected = format!("failed to start command: chdir {}: No such file", folder.display());
    assert!(error.message().starts_with(&expected), "{error}");
    kill_now(peer).await;
    host.nothing_left();
}
