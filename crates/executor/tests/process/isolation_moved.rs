//! Tasks whose root is moved over the host's, since pivot_root(2) cannot leave a ramdisk, or the operator says so. On a host that runs from
//! its initial ramdisk, as the VM does, every task's root is; here, these are.

use std::path::Path;

use holdfast_record::Isolation;
use holdfast_wire::executor_v1::ExecRequest;

use crate::host::{Host, eventually, is_root};
use crate::isolation::{DEFAULT_CAPABILITIES, Mounts, bind, entry, holdfast_view, isolated};
use crate::stop::kill_now;

/// Asks for it.
pub fn moved(mut isolation: Isolation) -> Isolation {
    if let Some(root) = &mut isolation.root {
        root.no_pivot = true;
    }
    isolation
}

/// From a folder that is the task's own; nothing of it may be the host's.
const LOOK: &str = r#"
    echo "root $(ls / | tr '\n' ' ')"
    echo "above $(ls /.. | tr '\n' ' ')"
    cd /local; cd ../../..; echo "walked $(ls | tr '\n' ' ')"
    ls /proc/1/root/ > /dev/null 2>&1 && echo "the root of the first process is open"
    ls /proc/1/cwd/ > /dev/null 2>&1 && echo "the folder of the first process is open"
    echo "mounted at the root $(cut -d' ' -f5 /proc/self/mountinfo | grep -cx /)"
    echo looked
"#;

#[tokio::test]
async fn of_a_root_that_was_moved_over_it_the_hosts_is_seen_by_no_process_of_the_task() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    let before = Mounts::of(host.path());
    let secret = host.path().join("secret");
    std::fs::write(&secret, "").unwrap();
    let task = host.task("main");
    let mut isolation = moved(holdfast_view(&task));
    isolation.entries.push(entry("/marked", bind(&task.logs, true)));
    let confinement = &mut isolation.confinement;
    // As root with what the built-in gives to its tasks, chroot(2) among it.
    confinement.capabilities = Some(holdfast_record::CapabilitySets {
        bounding: DEFAULT_CAPABILITIES,
        permitted: DEFAULT_CAPABILITIES,
        ambient: false,
    });
    let spec = isolated(task.shell(&format!("{LOOK}\nexec sleep 600")), &isolation);
    let spec = host.scoped(spec);
    let (mut peer, _) = host.running_spec(&task, spec).await;
    let seen = eventually("the script's look", || {
        let output = task.stdout();
        output.contains("looked").then_some(output.clone()).ok_or(output)
    });
    let trees: Vec<&str> = ["root ", "above ", "walked "]
        .into_iter()
        .filter_map(|name| seen.lines().find_map(|line| line.strip_prefix(name)))
        .collect();
    assert_eq!(trees.len(), 3, "{seen}");
    assert!(trees[0].split(' ').any(|name| name == "marked"), "{seen}");
    assert!(trees.iter().all(|tree| *tree == trees[0]), "{seen}");
    assert!(!seen.contains("is open"), "{seen}");
    assert!(seen.contains("mounted at the root 1\n"), "{seen}");
    // A session is born outside and joins.
    let request = ExecRequest {
        command: ["/bin/sh", "-c", LOOK].map(str::to_owned).into(),
        timeout_ms: 20_000,
    };
    let answer = peer.executor.exec(request).await.unwrap().into_inner();
    assert_eq!(String::from_utf8(answer.output).unwrap(), seen);
    // Whoever may look at the init, as this test may, finds the task's tree.
    let record = task.dir.record().unwrap().unwrap();
    for pid in [record.init.pid, record.main.pid] {
        for name in ["root", "cwd"] {
            let shown = Path::new("/proc").join(pid.to_string()).join(name);
            let hosts = shown.join(secret.strip_prefix("/").unwrap());
            assert!(!hosts.exists(), "{} is there", hosts.display());
        }
        assert!(Path::new(&format!("/proc/{pid}/root/marked")).exists());
    }
    kill_now(peer).await;
    before.are_unchanged(host.path());
    host.nothing_left();
}
