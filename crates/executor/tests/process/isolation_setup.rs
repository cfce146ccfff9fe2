//! Set-ups that cannot work: each is refused with a text that names stage, object and reason, and leaves nothing on the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use holdfast_record::{Isolation, MountFlags, Propagation, Root, RootBase, Unveiled, What};
use holdfast_wire::executor_v1::TaskSpec;

use crate::host::{Host, StartMode, Task, eventually, is_root, kill, launch, left, pids_holding};
use crate::isolation::{Mounts, as_nobody, bind, entry, holdfast_view, isolated, tmpfs};

/// What there is to go wrong with.
struct Scene {
    /// A folder of the host.
    folder: PathBuf,
    /// A script whose interpreter is missing.
    script: PathBuf,
    /// A program.
    program: PathBuf,
}

impl Scene {
    fn of(host: &Host) -> Self {
        let folder = host.path().join("scene");
        fs::create_dir(&folder).unwrap();
        let executable = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let script = executable("script", b"#!/no/such/interpreter\n");
        let program = executable("program", &fs::read("/bin/sh").unwrap());
        let closed = folder.join("closed");
        fs::create_dir_all(closed.join("inner")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        symlink("loop", folder.join("loop")).unwrap();
        Scene {
            folder,
            script,
            program,
        }
    }
}

type Spoil = fn(&Scene, &mut TaskSpec, &mut Isolation);

fn root(isolation: &mut Isolation, base: RootBase) {
    isolation.root = Some(Root {
        base,
        read_only: false,
        no_pivot: false,
    });
}

fn unveiled(path: &str) -> Unveiled {
    Unveiled {
        path: path.into(),
        read: true,
        write: false,
        create: false,
        execute: false,
        optional: false,
    }
}

/// What is wrong, how it comes to be, and what the message must hold.
const SETUPS: &[(&str, Spoil, &[&str])] = &[
    (
        "a command that the host has and the task does not",
        |scene, spec, _| spec.command = scene.program.to_str().unwrap().to_owned(),
        &["execute ", "/scene/program", "No such file or directory"],
    ),
    (
        "a missing interpreter",
        |scene, spec, isolation| {
            isolation.entries.push(entry("/script", bind(&scene.script, true)));
            spec.command = "/script".to_owned();
        },
        &["execute /script", "No such file or directory"],
    ),
    (
        "a command on a mount without execution",
        |scene, spec, isolation| {
            let what = What::Bind {
                source: scene.program.clone(),
                flags: MountFlags {
                    no_exec: true,
                    ..MountFlags::default()
                },
                propagation: Propagation::Private,
                optional: false,
            };
            isolation.entries.push(entry("/program", what));
            spec.command = "/program".to_owned();
        },
        &["execute /program", "Permission denied"],
    ),
    (
        "a command that is a folder",
        |_, spec, _| spec.command = "/usr".to_owned(),
        &["execute /usr", "Permission denied"],
    ),
    (
        "a missing working directory",
        |_, spec, _| spec.work_dir = "/nowhere".to_owned(),
        &["chdir /nowhere", "No such file or directory"],
    ),
    (
        "a working directory that the user cannot search",
        |scene, spec, isolation| {
            isolation.entries.push(entry("/scene", bind(&scene.folder, true)));
            *spec = as_nobody(spec.clone());
            spec.work_dir = "/scene/closed/inner".to_owned();
        },
        &["chdir /scene/closed/inner", "Permission denied"],
    ),
    (
        "a missing source",
        |scene, _, isolation| {
            isolation
                .entries
                .push(entry("/data", bind(scene.folder.join("missing"), false)));
        },
        &["/scene/missing", "No such file or directory"],
    ),
    (
        "a missing device",
        |_, _, isolation| isolation.entries.push(entry("/dev/nosuch", bind("/dev/nosuch", false))),
        &["/dev/nosuch", "No such file or directory"],
    ),
    (
        "a source below a file",
        |scene, _, isolation| {
            isolation
                .entries
                .push(entry("/data", bind(scene.script.join("below"), false)));
        },
        &["/scene/script/below", "Not a directory"],
    ),
    (
        "a source that leads in circles",
        |scene, _, isolation| {
            isolation
                .entries
                .push(entry("/data", bind(scene.folder.join("loop"), false)));
        },
        &["/scene/loop", "(os error 40)"],
    ),
    (
        "a folder onto a file",
        |scene, _, isolation| {
            isolation.entries.push(entry("/file", bind(&scene.script, true)));
            isolation.entries.push(entry("/file", bind(&scene.folder, true)));
        },
        &["mount ", "/scene at /file", "Invalid argument"],
    ),
    (
        "a file onto a folder",
        |scene, _, isolation| isolation.entries.push(entry("/usr", bind(&scene.script, true))),
        &["mount ", "/scene/script at /usr", "Invalid argument"],
    ),
    (
        "a tmpfs onto a file",
        |scene, _, isolation| {
            isolation.entries.push(entry("/file", bind(&scene.script, true)));
            isolation.entries.push(entry("/file", tmpfs(None, 0o755)));
        },
        &["/file", "Not a directory"],
    ),
    (
        "a target below a file",
        |scene, _, isolation| {
            isolation.entries.push(entry("/file", bind(&scene.script, true)));
            isolation.entries.push(entry("/file/below", tmpfs(None, 0o755)));
        },
        &["/file/below", "Not a directory"],
    ),
    (
        "a target below a read-only mount",
        |_, _, isolation| isolation.entries.push(entry("/usr/no-such/folder", tmpfs(None, 0o755))),
        &["/usr/no-such/folder", "Read-only file system"],
    ),
    (
        "a target that leads in circles",
        |scene, _, isolation| {
            isolation.entries.push(entry("/scene", bind(&scene.folder, true)));
            isolation.entries.push(entry("/scene/loop/folder", tmpfs(None, 0o755)));
        },
        &["make mount point /scene/loop/folder", "os error"],
    ),
    (
        "a target that is too long",
        |_, _, isolation| {
            let name = format!("/{}", "x".repeat(300));
            isolation.entries.push(entry(&name, tmpfs(None, 0o755)));
        },
        &["xxx", "(os error 36)"],
    ),
    (
        "a full tmpfs",
        |_, _, isolation| {
            isolation.entries.push(entry("/small", tmpfs(Some(4096), 0o755)));
            // Each takes a page.
            for name in ["/small/first", "/small/second"] {
                let to = "x".repeat(1000).into();
                isolation.entries.push(entry(name, What::Link { to }));
            }
        },
        &["make link /small/second", "No space left on device"],
    ),
    (
        "a missing root",
        |scene, _, isolation| root(isolation, RootBase::Directory(scene.folder.join("missing"))),
        &["/scene/missing", "No such file or directory"],
    ),
    (
        "a root that is a file",
        |scene, _, isolation| root(isolation, RootBase::Directory(scene.script.clone())),
        &["mount ", "/scene/script", "Invalid argument"],
    ),
    (
        "a missing layer",
        |scene, _, isolation| {
            let layers = vec![scene.folder.clone(), scene.folder.join("missing")];
            root(isolation, RootBase::Overlay(layers));
        },
        &["overlay", "No such file or directory"],
    ),
    (
        "a network namespace that is dead",
        |_, spec, _| spec.network_namespace = "/no/such/netns".to_owned(),
        &["/no/such/netns", "No such file or directory"],
    ),
    (
        "a network namespace that is none",
        |_, spec, _| spec.network_namespace = "/etc/passwd".to_owned(),
        &["/etc/passwd", "Invalid argument"],
    ),
    (
        "a name of the host that is too long",
        |_, _, isolation| isolation.hostname = Some("h".repeat(65)),
        &["hhh", "Invalid argument"],
    ),
    (
        "something to unveil that is missing",
        |_, _, isolation| isolation.confinement.unveil = Some(vec![unveiled("/nowhere")]),
        // Not every kernel has Landlock.
        &["unveil"],
    ),
    (
        "mounts without a namespace for them",
        |_, _, isolation| isolation.namespaces.mount = false,
        &["a tree of mounts needs a mount namespace of the task's own"],
    ),
    (
        "a name of the host that would be given to the host",
        |_, _, isolation| isolation.namespaces.uts = false,
        &["a host name needs a uts namespace of the task's own"],
    ),
];

/// A launch that must fail: its text, and that nothing is left of it.
async fn refusal(host: &mut Host, task: &Task, spec: TaskSpec) -> Result<String, String> {
    let spec = host.scoped(spec);
    let mut peer = host.start(task, StartMode::Fresh).await.unwrap();
    match launch(&mut peer, spec).await {
        Ok(_) => {
            crate::stop::kill_now(peer).await;
            Err("it was started".to_owned())
        }
        Err(status) => {
            left(peer);
            Ok(status.message().to_owned())
        }
    }
}

#[tokio::test]
async fn a_set_up_that_cannot_work_names_stage_object_and_reason_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    let scene = Scene::of(&host);
    let mut wrong = Vec::new();
    for (what, spoil, expected) in SETUPS {
        let mounts = Mounts::of(host.path());
        let task = host.task("main");
        let mut spec = isolated(task.shell("exec sleep 1000"), &Isolation::default());
        let mut isolation = holdfast_view(&task);
        spec.work_dir = "/".to_owned();
        spoil(&scene, &mut spec, &mut isolation);
        spec.isolation = serde_json::to_vec(&isolation).unwrap();
        match refusal(&mut host, &task, spec).await {
            Ok(message) => {
                let is_one_line = !message.contains('\n');
                if !is_one_line || expected.iter().any(|part| !message.contains(part)) {
                    wrong.push(format!("{what}: {message:?} does not hold {expected:?}"));
                }
            }
            Err(e) => wrong.push(format!("{what}: {e}")),
        }
        host.nothing_left();
        mounts.are_unchanged(host.path());
        task.dir.remove().unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_isolation_that_cannot_be_read_is_refused_before_anything_is_made() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = TaskSpec {
        isolation: b"{".to_vec(),
        ..task.shell("exec sleep 1000")
    };
    let message = refusal(&mut host, &task, spec).await.unwrap();
    assert!(
        message.starts_with("the isolation that was asked for cannot be read: "),
        "{message}"
    );
    host.nothing_left();
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Executor,
    Init,
    Main,
}

/// The only child of a process, zombies included.
fn child_of(parent: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Victim {
    fn find(self, executor: i32) -> Option<i32> {
        match self {
            Victim::Executor => Some(executor),
            Victim::Init => child_of(executor),
            Victim::Main => child_of(child_of(executor)?),
        }
    }
}

/// Looks at the victim as often as this, then kills it; how often it looked until the start was over, if it came to that.
fn watch_and_kill(victim: Victim, executor: i32, looks: usize, is_over: &std::sync::atomic::AtomicBool) -> usize {
    let mut looked = 0;
    while looked < looks && !is_over.load(std::sync::atomic::Ordering::Acquire) {
        let found = victim.find(executor);
        if found.is_some() || matches!(victim, Victim::Executor) {
            looked += 1;
        }
        std::thread::yield_now();
    }
    if let Some(pid) = victim.find(executor).filter(|_| looked >= looks) {
        let _ = holdfast_sys::process::kill(pid, libc::SIGKILL);
    }
    looked
}

/// How the start ended, and how often the victim was looked at.
async fn killed_start(host: &Host, task: &Task, victim: Victim, looks: usize) -> (bool, usize) {
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut peer = host.start(task, StartMode::Fresh).await.unwrap();
    let executor = peer.identity.pid;
    let spec = isolated(task.shell("exec sleep 1000"), &holdfast_view(task));
    let watcher = std::thread::spawn({
        let over = over.clone();
        move || watch_and_kill(victim, executor, looks, &over)
    });
    let launched = launch(&mut peer, spec).await;
    over.store(true, std::sync::atomic::Ordering::Release);
    let looked = watcher.join().unwrap();
    // What is still there has no part in what is shown: the end of all of it must leave no mount.
    kill(peer);
    eventually("end of the task's processes", || {
        let pids = pids_holding(host.path().to_str().unwrap());
        for pid in &pids {
            let _ = holdfast_sys::process::kill(*pid, libc::SIGKILL);
        }
        pids.is_empty().then_some(()).ok_or(format!("{pids:?}"))
    });
    (launched.is_ok(), looked)
}

#[tokio::test]
async fn a_kill_at_any_step_of_the_set_up_leaves_no_mount_on_the_host() {
    const KILLS: usize = 36;
    if !is_root() {
        return;
    }
    let host = Host::new();
    let before = Mounts::of(host.path());
    let mut interrupted = 0;
    for victim in [Victim::Executor, Victim::Init, Victim::Main] {
        // How often one can look while a whole start goes on.
        let whole = {
            let task = host.task("main");
            let (is_started, looks) = killed_start(&host, &task, victim, usize::MAX).await;
            assert!(is_started, "{victim:?}");
            task.dir.remove().unwrap();
            looks
        };
        for number in 0..KILLS {
            let task = host.task("main");
            let (is_started, _) = killed_start(&host, &task, victim, whole * number / KILLS).await;
            interrupted += usize::from(!is_started);
            before.are_unchanged(host.path());
            let folder = task.folder();
            task.dir.remove().unwrap();
            assert!(!Path::new(&folder).exists());
        }
    }
    assert!(interrupted > KILLS, "only {interrupted} starts were interrupted");
    host.nothing_left();
}
