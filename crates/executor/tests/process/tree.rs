//! What an isolated task sees, and what its sessions see.

use std::path::PathBuf;

use holdfast_executor::client::Peer;
use holdfast_record::{
    CapabilitySets, Confinement, Isolation, MountFlags, Namespaces, Root, RootBase, SeccompProfile, Status, Unveiled,
    UserNamespace, What,
};
use holdfast_wire::executor_v1::{Credentials, ExecRequest, TaskSpec};

use crate::host::{Host, eventually, left};
use crate::isolation::{Mounts, bind, entry};
use crate::stop::{kill_now, stop};

/// The host's programs, read-only, and everything else of its own.
pub fn host_view() -> Isolation {
    let mut entries = Vec::new();
    for name in ["bin", "sbin", "lib", "lib64", "usr", "etc"] {
        let path = PathBuf::from("/").join(name);
        match std::fs::read_link(&path) {
            Ok(to) => entries.push(entry(path.to_str().unwrap(), What::Link { to })),
            Err(_) if path.exists() => entries.push(entry(path.to_str().unwrap(), bind(&path, true))),
            Err(_) => {}
        }
    }
    entries.extend([
        entry("/proc", What::Proc),
        entry("/sys", What::Sysfs),
        entry("/sys/fs/cgroup", What::Cgroups),
        entry("/dev", What::Dev),
        entry("/dev/mqueue", What::Mqueue),
        entry(
            "/dev/shm",
            What::Tmpfs {
                bytes: Some(1 << 20),
                mode: 0o1777,
                uid: 0,
                gid: 0,
                flags: MountFlags::default(),
            },
        ),
        entry(
            "/etc/hosts",
            What::File {
                content: "127.0.0.1 localhost\n127.0.0.2 of-the-task\n".into(),
            },
        ),
    ]);
    Isolation {
        namespaces: Namespaces {
            mount: true,
            pid: true,
            ipc: true,
            uts: true,
            cgroup: true,
            user: None,
        },
        hostname: Some("inside".into()),
        root: Some(Root {
            base: RootBase::Empty,
            read_only: true,
            no_pivot: false,
        }),
        entries,
        masked: ["/proc/version", "/sys/firmware", "/no/such/path"]
            .map(PathBuf::from)
            .into(),
        read_only: ["/proc/sys", "/proc/sysrq-trigger"].map(PathBuf::from).into(),
        ..Isolation::default()
    }
}

pub fn isolated(spec: TaskSpec, isolation: &Isolation) -> TaskSpec {
    TaskSpec {
        isolation: serde_json::to_vec(isolation).unwrap(),
        work_dir: "/".into(),
        credentials: Some(Credentials {
            uid: 65534,
            gid: 65534,
            groups: vec![65534],
        }),
        ..spec
    }
}

async fn output_of(peer: &mut Peer, script: &str) -> String {
    let request = ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        timeout_ms: 20_000,
    };
    let answer = peer.executor.exec(request).await.unwrap().into_inner();
    String::from_utf8(answer.output).unwrap()
}

const LOOK: &str = r#"
    echo "host $(cat /proc/sys/kernel/hostname)"
    echo "parent $(cut -d' ' -f4 /proc/self/stat | head -1)"
    echo "first $(cat /proc/1/comm)"
    echo "root $(ls / | tr '\n' ' ')"
    echo "hosts $(tail -1 /etc/hosts)"
    echo "masked $(wc -c < /proc/version) $(ls /sys/firmware | wc -l)"
    echo "cgroup $(cut -d: -f3 /proc/self/cgroup | sort -u | tr '\n' ' ')"
    touch /x 2>/dev/null && echo "the root can be written"
    touch /etc/x 2>/dev/null && echo "the host can be written"
    echo 1 > /proc/sys/kernel/core_uses_pid 2>/dev/null && echo "the kernel can be written"
    echo x > /dev/shm/x && echo "shared memory"
    echo x > /dev/null && echo "null"
    id
"#;

#[tokio::test]
async fn a_task_in_a_view_of_the_host_sees_the_view_and_nothing_else() {
    let mut host = Host::new();
    let mounts = Mounts::of(host.path());
    let task = host.task("main");
    let script = format!("{LOOK}\nsleep 600");
    let spec = isolated(host.scoped(task.shell(&script)), &host_view());
    let (mut peer, _) = host.running_spec(&task, spec).await;
    let seen = eventually("the script's look", || {
        let output = task.stdout();
        output.contains("uid=").then_some(output.clone()).ok_or(output)
    });
    println!("{seen}");
    let expected = [
        "host inside",
        "first holdfast-init",
        "root bin dev etc lib lib64 proc sbin sys usr ",
        "hosts 127.0.0.2 of-the-task",
        "masked 0 0",
        "shared memory",
        "null",
    ];
    for line in expected {
        assert!(seen.lines().any(|seen| seen == line), "{line:?} is not in {seen}");
    }
    assert!(!seen.contains("can be written"), "{seen}");
    let inside = output_of(&mut peer, LOOK).await;
    println!("{inside}");
    for line in expected {
        assert!(inside.lines().any(|seen| seen == line), "{line:?} is not in {inside}");
    }
    assert!(!inside.contains("can be written"), "{inside}");
    // A plain program ends by its signal: it is not number 1.
    peer.executor.stop(stop(libc::SIGTERM, 20_000)).await.unwrap();
    left(peer);
    assert_eq!(task.result().status, Status::Signalled(libc::SIGTERM));
    mounts.are_unchanged(host.path());
    host.nothing_left();
}

#[tokio::test]
async fn what_is_written_to_an_overlay_is_the_tasks_alone() {
    let mut host = Host::new();
    let lower = host.path().join("lower");
    std::fs::create_dir_all(lower.join("data")).unwrap();
    std::fs::write(lower.join("data/kept"), "as it was").unwrap();
    let mut isolation = host_view();
    isolation.root = Some(Root {
        base: RootBase::Overlay(vec![lower.clone()]),
        read_only: false,
        no_pivot: false,
    });
    let task = host.task("main");
    let script = "echo changed > /data/kept; mkdir /made; cat /data/kept; echo done; sleep 600";
    let mut spec = isolated(host.scoped(task.shell(script)), &isolation);
    spec.credentials = None;
    let (peer, _) = host.running_spec(&task, spec).await;
    let seen = eventually("the script's output", || {
        let output = task.stdout();
        output.contains("done").then_some(output.clone()).ok_or(output)
    });
    assert!(seen.starts_with("changed\n"), "{seen}");
    assert_eq!(std::fs::read_to_string(lower.join("data/kept")).unwrap(), "as it was");
    assert!(!lower.join("made").exists());
    kill_now(peer).await;
    host.nothing_left();
}

/// What the profile `holdfast` gives to its tasks.
pub fn confined() -> Isolation {
    let mut isolation = host_view();
    isolation.confinement = Confinement {
        capabilities: Some(CapabilitySets::default()),
        no_new_privileges: true,
        seccomp: Some(SeccompProfile::V1),
        unveil: None,
        private_keyring: true,
    };
    isolation
}

#[tokio::test]
async fn main_process_and_sessions_are_confined_alike() {
    const LOOK: &str = r#"grep -E '^(NoNewPrivs|Seccomp|Cap[A-Z]..):' /proc/self/status | tr -s '\t' ' '
        cat /usr/bin/env > /dev/null && echo may-read; cat /etc/hostname > /dev/null 2>&1 || echo may-not; echo looked"#;
    let mut host = Host::new();
    let task = host.task("main");
    let mut isolation = confined();
    let usable = |path: &str, optional| Unveiled {
        path: path.into(),
        read: true,
        write: path.starts_with("/dev") || path.starts_with("/proc"),
        create: false,
        execute: true,
        optional,
    };
    isolation.confinement.unveil = Some(vec![
        usable("/usr", false),
        usable("/lib64", true),
        usable("/dev", false),
        usable("/proc", false),
        usable("/no/such/path", true),
    ]);
    let spec = isolated(host.scoped(task.shell(&format!("{LOOK}; sleep 600"))), &isolation);
    let (mut peer, _) = host.running_spec(&task, spec).await;
    let seen = eventually("the script's look", || {
        let output = task.stdout();
        output.contains("looked").then_some(output.clone()).ok_or(output)
    });
    let zero = "0000000000000000";
    let expected = format!(
        "CapInh: {zero}\nCapPrm: {zero}\nCapEff: {zero}\nCapBnd: {zero}\nCapAmb: {zero}\n\
         NoNewPrivs: 1\nSeccomp: 2\nmay-read\nmay-not\nlooked\n"
    );
    assert_eq!(seen, expected);
    assert_eq!(output_of(&mut peer, LOOK).await, expected);
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn in_a_user_namespace_there_is_no_other_user() {
    const LOOK: &str = r#"cat /proc/self/uid_map | tr -s ' '; id -u; stat -c %u /usr; echo looked"#;
    let mut host = Host::new();
    let task = host.task("main");
    let mut isolation = confined();
    isolation.namespaces.user = Some(UserNamespace::KeepId);
    let spec = isolated(host.scoped(task.shell(&format!("{LOOK}; sleep 600"))), &isolation);
    let (mut peer, _) = host.running_spec(&task, spec).await;
    let seen = eventually("the script's look", || {
        let output = task.stdout();
        output.contains("looked").then_some(output.clone()).ok_or(output)
    });
    assert!(seen.starts_with(" 65534 65534 1\n65534\n65534"), "{seen}");
    assert_eq!(output_of(&mut peer, LOOK).await, seen);
    kill_now(peer).await;
    host.nothing_left();
}
