//! What a task that wants to get out comes to; docs/security.md lists the attempts.

use std::ffi::CString;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use holdfast_executor::birth::Birth;
use holdfast_record::{Confinement, Isolation};
use holdfast_sys::attempt;
use holdfast_wire::executor_v1::TaskSpec;

use crate::birth::Expecting;
use crate::escape::{self, Column, PROGRAM, SETUID_PROGRAM, Told, arguments, environment, surprises};
use crate::host::{Host, StartMode, Task, eventually, is_root, kill, left, wait};
use crate::isolation::{
    Mounts, as_nobody, bind, chroot_folder, chroot_of, entry, foreign_namespaces, holdfast_view, isolated, usual,
};
use crate::isolation_moved::moved;

/// The test that is started inside the tasks.
const ENTRANCE: &str = "isolation_escape::what_is_tried_works_where_nothing_stops_it";

/// A key in the session keyring of this process, which its executors inherit.
struct Key {
    description: String,
    serial: i64,
}

impl Key {
    fn of(task: &Task) -> Self {
        let description = format!("holdfast-test:{}", task.intent.task_id);
        let name = CString::new(description.as_str()).unwrap();
        let serial = attempt::add_key(&name, b"secret").unwrap();
        Self { description, serial }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = attempt::unlink_key(self.serial);
    }
}

/// A copy of this executable with the set-user-id bit.
fn setuid_program(host: &Host) -> PathBuf {
    let path = host.path().join("escape-as-root");
    fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    path
}

/// How a task comes to its root.
#[derive(Clone, Copy)]
enum Entering {
    /// As the host allows.
    Usual,
    /// The root is moved over the host's.
    Moved,
    /// An init has begun with it before the task was known.
    Begun,
}

/// Makes every attempt in a task; what came to something else than expected.
fn attempted(column: Column, entering: Entering) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let mut host = Host::new();
        let mounts = Mounts::of(host.path());
        let task = host.task("main");
        fs::set_permissions(&task.logs, fs::Permissions::from_mode(0o777)).unwrap();
        let program = std::env::current_exe().unwrap();
        let secret = host.path().join("secret");
        fs::write(&secret, "").unwrap();
        let socket = host.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let abstract_name = task.intent.task_id.clone();
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let _abstract_listener = UnixListener::bind_addr(&address).unwrap();
        let disk = fs::metadata("/").unwrap().dev();
        let key = Key::of(&task);
        let told = Told {
            pid: i32::try_from(std::process::id()).unwrap(),
            secret: secret.to_str().unwrap().to_owned(),
            socket: socket.to_str().unwrap().to_owned(),
            abstract_name,
            disk: (nix::sys::stat::major(disk), nix::sys::stat::minor(disk)),
            key: key.description.clone(),
        };
        let root = host.path().join("root");
        let mut isolation = match column {
            Column::Holdfast | Column::HoldfastRoot => holdfast_view(&task),
            Column::Exec => {
                chroot_folder(&root);
                chroot_of(&root)
            }
            Column::Unconfined => Isolation {
                root: None,
                hostname: None,
                devices: None,
                masked: Vec::new(),
                read_only: Vec::new(),
                entries: vec![entry("/proc", holdfast_record::What::Proc)],
                confinement: Confinement::default(),
                ..holdfast_view(&task)
            },
        };
        let command = match column {
            // It is where it is on the host: a root that cannot be made into is no place for another.
            Column::Unconfined => program.to_str().unwrap(),
            _ => {
                isolation.entries.push(entry(PROGRAM, bind(&program, true)));
                isolation
                    .entries
                    .push(entry(SETUID_PROGRAM, bind(setuid_program(&host), true)));
                PROGRAM
            }
        };
        match entering {
            Entering::Usual => {}
            Entering::Moved => isolation = moved(isolation),
            Entering::Begun => isolation = usual(isolation),
        }
        let mut spec = TaskSpec {
            args: arguments(ENTRANCE),
            ..isolated(task.spec(command, &[]), &isolation)
        };
        spec.env.extend(environment(&told, column));
        spec.env.push(format!("TOLD_PROGRAM={command}"));
        if matches!(column, Column::Holdfast | Column::Exec) {
            spec = as_nobody(spec);
        }
        let spec = host.scoped(spec);
        if matches!(entering, Entering::Begun) {
            let birth = Birth::of(isolation.namespaces, None).with_groundwork();
            let mut expecting = Expecting::born(&host, &task, birth).await;
            let launched = expecting.launch(spec).await;
            assert!(expecting.has_used_it(&launched));
            expecting.ended();
        } else {
            let (mut peer, _) = host.running_spec(&task, spec).await;
            wait(&task, &mut peer).await;
            left(peer);
        }
        mounts.are_unchanged(host.path());
        surprises(&task.stdout(), column)
    })
}

fn nothing_unexpected(column: Column) {
    nothing_unexpected_after(column, Entering::Usual);
}

fn nothing_unexpected_after(column: Column, entering: Entering) {
    if !is_root() {
        return;
    }
    let surprises = attempted(column, entering);
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

/// Also where the program begins that is started in the tasks.
#[test]
fn what_is_tried_works_where_nothing_stops_it() {
    escape::perform_if_asked();
    nothing_unexpected(Column::Unconfined);
}

#[test]
fn nobody_gets_out_of_the_holdfast_profile() {
    nothing_unexpected(Column::Holdfast);
}

#[test]
fn root_gets_out_of_the_holdfast_profile_no_more_than_nobody() {
    nothing_unexpected(Column::HoldfastRoot);
}

#[test]
fn root_gets_out_of_a_root_that_was_moved_no_more_than_out_of_one_that_was_exchanged() {
    nothing_unexpected_after(Column::HoldfastRoot, Entering::Moved);
}

#[test]
fn neither_gets_out_of_a_tree_that_was_begun_before_the_task_was_known() {
    nothing_unexpected_after(Column::Holdfast, Entering::Begun);
    nothing_unexpected_after(Column::HoldfastRoot, Entering::Begun);
}

#[test]
fn nobody_gets_out_of_the_exec_profile_with_its_default_capabilities() {
    nothing_unexpected(Column::Exec);
}

#[tokio::test]
async fn a_link_that_an_earlier_incarnation_planted_leads_no_mount_out_of_the_root() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let mounts = Mounts::of(host.path());
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "of the host\n").unwrap();
    for (number, planted) in ["../../outside", outside.to_str().unwrap(), "/../../../outside"]
        .iter()
        .enumerate()
    {
        let task = host.task("main");
        let root = host.path().join(format!("root-{number}"));
        chroot_folder(&root);
        std::os::unix::fs::symlink(planted, root.join("local/etc")).unwrap();
        let source = host.path().join(format!("source-{number}"));
        fs::write(&source, "of the task\n").unwrap();
        let mut isolation = chroot_of(&root);
        isolation.entries.push(entry("/local/etc/kept", bind(&source, true)));
        isolation.entries.push(entry("/local/etc/made", bind(&source, true)));
        let spec = isolated(task.shell("cat /local/etc/kept; exec sleep 1000"), &isolation);
        let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
        // Whether it is followed inside the root or refused, nothing outside is covered, made or changed.
        match crate::host::launch(&mut peer, spec).await {
            Ok(_) => {
                task.says("of the task");
                crate::stop::kill_now(peer).await;
            }
            Err(status) => {
                assert!(status.message().contains("/local/etc"), "{status}");
                left(peer);
            }
        }
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "of the host\n");
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            1,
            "{planted}: something was made outside"
        );
    }
    mounts.are_unchanged(host.path());
    host.nothing_left();
}

#[tokio::test]
async fn a_task_that_replaces_its_log_folder_by_a_link_has_nothing_written_where_it_leads() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let task = host.task("main");
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let mut isolation = holdfast_view(&task);
    // All that it needs to replace the folder.
    isolation.entries.push(entry("/shared", bind(host.path(), false)));
    let logs = task.logs.file_name().unwrap().to_str().unwrap();
    let script = format!(
        "cd /shared; mv {logs} moved; ln -s {} {logs}; echo replaced
        for round in 1 2 3 4 5 6 7 8; do echo 0123456789012345678901234567890123456789; sleep 0.01; done; echo end",
        outside.display()
    );
    let mut spec = isolated(task.shell(&script), &isolation);
    spec.stdout = Some(task.rotated("stdout", 10, 64));
    let (mut peer, _) = host.running_spec(&task, spec).await;
    wait(&task, &mut peer).await;
    left(peer);
    assert!(
        fs::symlink_metadata(&task.logs).unwrap().is_symlink(),
        "it was replaced"
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "output went where the link leads"
    );
    fs::remove_file(&task.logs).unwrap();
}

#[tokio::test]
async fn namespaces_of_a_task_end_with_it_also_when_its_executor_was_killed() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let mounts = Mounts::of(host.path());
    for is_killed in [false, true] {
        let task = host.task("main");
        let spec = isolated(task.shell("echo ready; exec sleep 1000"), &holdfast_view(&task));
        let (peer, launched) = host.running_spec(&task, spec).await;
        task.says("ready");
        let (init, main) = (launched.init.unwrap().pid, launched.main.unwrap().pid);
        let mine = |(_, pid): &(String, i32)| [init, main].contains(pid);
        let namespaces: Vec<String> = foreign_namespaces()
            .into_iter()
            .filter(mine)
            .map(|(name, _)| name)
            .collect();
        assert!(namespaces.len() >= 5, "{namespaces:?}");
        if is_killed {
            kill(peer);
            // The first process of the namespace takes all others along.
            crate::host::signal(init, libc::SIGKILL);
        } else {
            crate::stop::kill_now(peer).await;
        }
        eventually("end of the namespaces", || {
            let mut left = foreign_namespaces();
            left.retain(|(name, _)| namespaces.contains(name));
            left.is_empty().then_some(()).ok_or(format!("{left:?}"))
        });
    }
    mounts.are_unchanged(host.path());
    host.nothing_left();
}
