//! Kills for want of memory: those of the main process are its result, those of others are notices; none is missed or made up. What
//! the kernel's log says of each pid is the judge.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use holdfast_record::{Notice, Status};
use holdfast_wire::executor_v1::{CommitRequest, Ending, Limits, TaskSpec};

use crate::host::{Host, StartMode, Task, eventually, gone, kill, left, lives, wait};
use crate::stop::{kill_now, stop};

const LIMIT: i64 = 8 << 20;

/// Doubles a text until there is no memory. Any shell can do it.
const BLOW: &str = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";

fn limited(spec: TaskSpec) -> TaskSpec {
    TaskSpec {
        limits: Some(Limits {
            memory_max_bytes: Some(LIMIT),
            // Elsewhere it would go to the disk first.
            memory_swap_bytes: Some(0),
            ..Limits::default()
        }),
        ..spec
    }
}

/// Pids that the kernel says it has killed, since the time of the entry `since`.
fn victims(since: u64) -> BTreeSet<i32> {
    entries()
        .into_iter()
        .filter(|(time, _)| *time >= since)
        .filter_map(|(_, text)| {
            let (_, rest) = text.split_once("Killed process ")?;
            rest.split(' ').next()?.parse().ok()
        })
        .collect()
}

/// Microseconds and text of what is in the kernel's log.
fn entries() -> Vec<(u64, String)> {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .expect("the kernel's log judges these tests");
    let mut found = Vec::new();
    let mut buffer = vec![0; 8192];
    loop {
        match log.read(&mut buffer) {
            Ok(size) => {
                let entry = String::from_utf8_lossy(&buffer[..size]).into_owned();
                let (head, text) = entry.split_once(';').unwrap();
                found.push((head.split(',').nth(2).unwrap().parse().unwrap(), text.to_owned()));
            }
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return found,
        }
    }
}

fn last_entry() -> u64 {
    entries().last().map_or(0, |(time, _)| time + 1)
}

fn notices(task: &Task) -> Vec<Notice> {
    task.dir.notices().unwrap().unwrap_or_default().notices
}

/// How many kills of others than the main process were told.
fn told(task: &Task) -> usize {
    notices(task)
        .iter()
        .filter_map(|notice| notice.annotations.get("oom_kills"))
        .map(|count| count.parse::<usize>().unwrap())
        .sum()
}

#[tokio::test]
async fn a_main_process_without_memory_is_told_as_such() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = limited(host.scoped(task.shell(BLOW)));
    let (mut peer, _) = host.running_spec(&task, spec).await;
    assert!(wait(&task, &mut peer).await.oom_killed);
    left(peer);
    let result = task.result();
    assert_eq!(
        (result.status, result.oom_killed),
        (Status::Signalled(libc::SIGKILL), true)
    );
    assert_eq!(notices(&task), []);
    host.nothing_left();
}

#[tokio::test]
async fn a_child_without_memory_is_a_notice_while_the_task_goes_on() {
    let mut host = Host::new();
    let task = host.task("main");
    let script =
        format!("sh -c '{BLOW}'; echo $?; sh -c '{BLOW}'; echo $?; while [ ! -e go ]; do sleep 0.02; done; exit 5");
    let spec = limited(host.scoped(task.shell(&script)));
    let (mut peer, launched) = host.running_spec(&task, spec).await;
    eventually("two kills are told", || {
        let told = told(&task);
        (told == 2).then_some(()).ok_or(format!("{told}"))
    });
    assert!(lives(launched.main.unwrap().pid));
    let message = &notices(&task)[0].message;
    assert!(message.contains("killed by the OOM killer"), "{message}");
    // Who adopts tells nothing twice.
    kill(peer);
    peer = host.start(&task, StartMode::Adopt).await.unwrap();
    std::fs::write(task.logs.join("go"), "").unwrap();
    let result = wait(&task, &mut peer).await;
    assert!(!result.oom_killed);
    left(peer);
    assert_eq!(task.result().status, Status::Exited(5));
    assert_eq!(told(&task), 2);
    assert!(task.stdout().starts_with("137\n137\n"));
    host.nothing_left();
}

#[tokio::test]
async fn kills_while_nobody_supervises_are_told_by_who_adopts() {
    let mut host = Host::new();
    let task = host.task("main");
    let script = format!(
        "echo ready; while [ ! -e blow ]; do sleep 0.02; done; sh -c '{BLOW}'; echo $?; while [ ! -e go ]; do sleep 0.02; done; {BLOW}"
    );
    let spec = limited(host.scoped(task.shell(&script)));
    let (peer, launched) = host.running_spec(&task, spec).await;
    task.says("ready");
    kill(peer);
    std::fs::write(task.logs.join("blow"), "").unwrap();
    let scope = task.record().plan.placement;
    eventually("the kill", || {
        let count = holdfast_cgroup::oom_kills(holdfast_cgroup::version().unwrap(), &scope.join);
        (count == Some(1)).then_some(()).ok_or(format!("{count:?}"))
    });
    let peer = host.start(&task, StartMode::Adopt).await.unwrap();
    eventually("it is told", || (told(&task) == 1).then_some(()).ok_or(String::new()));
    kill(peer);
    std::fs::write(task.logs.join("go"), "").unwrap();
    gone(launched.main.unwrap().pid);
    match host.start(&task, StartMode::Adopt).await {
        Ok(peer) => left(peer),
        Err(e) => eprintln!("it has left already: {e}"),
    }
    let result = task.result();
    assert_eq!(
        (result.status, result.oom_killed),
        (Status::Signalled(libc::SIGKILL), true)
    );
    assert_eq!(told(&task), 1);
    host.nothing_left();
}

/// The scope is the agent's, and a task that is started again gets it with what it has counted.
#[tokio::test]
async fn what_was_counted_before_the_start_is_nobodys_s8() {
    let mut host = Host::new();
    let task = host.task("main");
    let mut spec = limited(host.scoped(task.shell(BLOW)));
    spec.placement.as_mut().unwrap().own.clear();
    host.make_scopes();
    let (mut peer, _) = host.running_spec(&task, spec.clone()).await;
    assert!(wait(&task, &mut peer).await.oom_killed);
    left(peer);
    let again = host.task("main");
    let spec = TaskSpec {
        task_id: again.intent.task_id.clone(),
        args: vec!["-c".to_owned(), "kill -9 $$".to_owned()],
        work_dir: again.logs.to_str().unwrap().to_owned(),
        stdout: Some(again.rotated("stdout", 1, 1 << 20)),
        stderr: None,
        ..spec
    };
    let (mut peer, _) = host.running_spec(&again, spec).await;
    assert!(!wait(&again, &mut peer).await.oom_killed);
    left(peer);
    assert_eq!(again.result().status, Status::Signalled(libc::SIGKILL));
    assert_eq!(notices(&again), []);
    host.remove_scopes();
}

#[tokio::test]
async fn a_child_without_memory_after_the_main_process_is_not_its_kill() {
    let mut host = Host::new();
    let task = host.task("main");
    let script = format!("(while [ ! -e go ]; do sleep 0.02; done; {BLOW}) & kill -9 $$");
    let mut spec = limited(host.scoped(task.shell(&script)));
    spec.ending = Some(Ending {
        exit_with_cgroup: true,
        ..Ending::default()
    });
    let (mut peer, launched) = host.running_spec(&task, spec).await;
    gone(launched.main.unwrap().pid);
    eventually("that the end is recorded", || {
        task.record().main_oom_killed.ok_or("it is not".to_owned())
    });
    std::fs::write(task.logs.join("go"), "").unwrap();
    assert!(!wait(&task, &mut peer).await.oom_killed);
    left(peer);
    assert_eq!(told(&task), 1);
    host.nothing_left();
}

#[tokio::test]
async fn forks_that_the_limit_refuses_are_told_and_not_one_by_one() {
    let mut host = Host::new();
    let task = host.task("main");
    // They stay: on a loaded machine the first would be gone before the last is forked, and the limit never met.
    let script = "n=0; while [ $n -lt 40 ]; do (sleep 600 &) 2>/dev/null; n=$((n+1)); done; echo done; while [ ! -e go ]; do :; done";
    // A shell that may not fork ends: one of its own for the attempts, and one that stays.
    let script = format!("sh -c '{script}' & while [ ! -e go ]; do read x < wait; done");
    let mut spec = host.scoped(task.shell(&script));
    spec.limits = Some(Limits {
        pids_max: Some(8),
        ..Limits::default()
    });
    let fifo = task.logs.join("wait");
    make_fifo(&fifo);
    let (peer, _) = host.running_spec(&task, spec).await;
    eventually("refused forks are told", || {
        let notices = notices(&task);
        let told = notices.first().ok_or("no notice")?;
        let is_told = told.message.starts_with("limit of processes reached");
        is_told.then_some(()).ok_or(format!("{told:?}"))
    });
    kill_now(peer).await;
    assert_eq!(notices(&task).len(), 1);
    host.nothing_left();
}

fn make_fifo(path: &std::path::Path) {
    let dir = File::open(path.parent().unwrap()).unwrap();
    holdfast_sys::file::mkfifo_at(&dir, path.file_name().unwrap().to_str().unwrap(), 0o600).unwrap();
}

/// What happens to a task in the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    MainBlows,
    MainBlowsWhileExiting,
    ChildBlows,
    ChildBlowsAndMainKillsItself,
    ChildrenBlowAndMainToo,
    StopWhileMainBlows,
    StopWhileChildBlows,
}

const FATES: [Fate; 7] = [
    Fate::MainBlows,
    Fate::MainBlowsWhileExiting,
    Fate::ChildBlows,
    Fate::ChildBlowsAndMainKillsItself,
    Fate::ChildrenBlowAndMainToo,
    Fate::StopWhileMainBlows,
    Fate::StopWhileChildBlows,
];

/// Children say their pids before they blow.
fn script(fate: Fate, delay_ms: u64) -> String {
    let delay = format!("sleep 0.{delay_ms:03}");
    let child = format!("sh -c 'echo $$; {BLOW}'");
    match fate {
        Fate::MainBlows | Fate::StopWhileMainBlows => format!("{delay}; {BLOW}"),
        Fate::MainBlowsWhileExiting => format!("trap '{BLOW}' EXIT; {delay}; exit 3"),
        Fate::ChildBlows => format!("{delay}; {child}; {child} & wait; exit 7"),
        Fate::ChildBlowsAndMainKillsItself => format!("{delay}; {child}; kill -9 $$"),
        Fate::ChildrenBlowAndMainToo => format!("{child}; {delay}; {child} & {BLOW}"),
        Fate::StopWhileChildBlows => format!("trap '' TERM; while :; do {child}; done"),
    }
}

/// The kills of one task: those that the kernel's log names, and those that were told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Kills {
    main: usize,
    others: usize,
}

async fn storm_task(fate: Fate, delay_ms: u64, stop_ms: u64) -> (Kills, Kills, String) {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = limited(host.scoped(task.shell(&script(fate, delay_ms))));
    let since = last_entry();
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let launched = crate::host::launch(&mut peer, spec).await.unwrap();
    let _ = peer.executor.commit(CommitRequest {}).await;
    if matches!(fate, Fate::StopWhileMainBlows | Fate::StopWhileChildBlows) {
        tokio::time::sleep(std::time::Duration::from_millis(delay_ms + stop_ms / 3)).await;
        let _ = peer.executor.stop(stop(libc::SIGTERM, stop_ms % 3 * 5)).await;
    }
    wait(&task, &mut peer).await;
    let pidfd = peer.pidfd.try_clone().unwrap();
    drop(peer);
    while !pidfd.has_exited().unwrap() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let _ = pidfd.wait();
    let main = launched.main.unwrap().pid;
    let result = task.result();
    let killed = victims(since);
    let stdout = task.stdout();
    let others = stdout
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| killed.contains(pid))
        .count();
    let by_kernel = Kills {
        main: usize::from(killed.contains(&main) && result.status == Status::Signalled(libc::SIGKILL)),
        others,
    };
    let as_told = Kills {
        main: usize::from(result.oom_killed),
        others: told(&task),
    };
    let account = format!(
        "{fate:?} {delay_ms} ms, {stop_ms}: main {main}, {result:?}, {stdout:?}, {:?}",
        notices(&task)
    );
    (by_kernel, as_told, account)
}

/// All that was seen in the storm.
#[derive(Debug, Default)]
struct Storm {
    tasks: usize,
    by_kernel: Kills,
    told: Kills,
    wrong: Vec<String>,
}

/// Mains that blow their limit, also while they exit; children that do, also while main kills itself; stops that race.
#[test]
fn kills_at_random_instants_are_all_told_and_none_is_made_up() {
    // Where there is cgroup v2 with controllers in this project's tests, the machine is an emulated one.
    let kills = match holdfast_cgroup::version() {
        Some(holdfast_cgroup::Version::V1) => 500,
        _ => 60,
    };
    const AT_ONCE: u32 = 6;
    let storm = std::sync::Mutex::new(Storm::default());
    let work = |seed: u32| {
        // Numerical Recipes' generator: the same instants each time, as far as a machine repeats itself.
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u64::from(state >> 8) % below
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let is_over = || {
            let storm = storm.lock().unwrap();
            storm.by_kernel.main + storm.by_kernel.others >= kills
        };
        while !is_over() {
            let fate = FATES[usize::try_from(random(FATES.len() as u64)).unwrap()];
            let (delay_ms, stop_ms) = (random(40), random(120));
            let (by_kernel, told, account) = runtime.block_on(storm_task(fate, delay_ms, stop_ms));
            let mut storm = storm.lock().unwrap();
            storm.tasks += 1;
            storm.by_kernel.main += by_kernel.main;
            storm.by_kernel.others += by_kernel.others;
            storm.told.main += told.main;
            storm.told.others += told.others;
            if by_kernel != told {
                storm
                    .wrong
                    .push(format!("the kernel: {by_kernel:?}, told: {told:?}; {account}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..AT_ONCE {
            let work = &work;
            scope.spawn(move || work(4711 + seed));
        }
    });
    let Storm {
        tasks,
        by_kernel,
        told,
        wrong,
    } = storm.into_inner().unwrap();
    println!("{tasks} tasks; the kernel: {by_kernel:?}, told: {told:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(by_kernel.main > kills / 10 && by_kernel.others > kills / 10);
}
