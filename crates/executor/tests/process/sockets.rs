//! Sockets that go missing, or are somebody else's: cannot connect is not dead.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use holdfast_executor::client::{self, ConnectError, Launcher, Peer};
use holdfast_record::{BootId, SupervisionDir};
use holdfast_wire::executor_v1::{ExecRequest, IdentifyRequest};

use crate::host::{Host, StartMode, Task, binary, eventually, is_root, kill, lives, signal, text};
use crate::stop::kill_now;

/// Until it is there.
async fn reached(dir: &SupervisionDir) -> Peer {
    assert!(client::ask_to_bind_again(dir), "there is an executor to ask");
    let deadline = std::time::Instant::now() + crate::host::PATIENCE;
    loop {
        match client::connect(dir).await {
            Ok(peer) => return peer,
            Err(e) => assert!(std::time::Instant::now() < deadline, "{e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn works(peer: &mut Peer) {
    let command = ["/bin/sh", "-c", "echo yes"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, timeout_ms: 0 };
    assert_eq!(peer.executor.exec(request).await.unwrap().into_inner().output, b"yes\n");
}

async fn running(host: &Host) -> (Task, Peer, i32) {
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "echo ready; exec sleep 1000").await;
    task.says("ready");
    (task, peer, launched.main.unwrap().pid)
}

fn socket(task: &Task) -> std::path::PathBuf {
    task.dir.path().join("executor.sock")
}

#[tokio::test]
async fn a_socket_that_was_removed_is_bound_again_when_asked_for() {
    let host = Host::new();
    let (task, mut before, _) = running(&host).await;
    for _ in 0..3 {
        fs::remove_file(socket(&task)).unwrap();
        assert!(matches!(
            client::connect(&task.dir).await,
            Err(ConnectError::Unreachable { .. })
        ));
        let mut peer = reached(&task.dir).await;
        assert_eq!(peer.identity.pid, before.identity.pid);
        works(&mut peer).await;
    }
    works(&mut before).await;
    kill_now(before).await;
    host.nothing_left();
}

#[tokio::test]
async fn asking_for_a_socket_that_is_there_changes_nothing() {
    let host = Host::new();
    let (task, peer, _) = running(&host).await;
    let inode = fs::metadata(socket(&task)).unwrap().ino();
    for _ in 0..20 {
        assert!(client::ask_to_bind_again(&task.dir));
    }
    works(&mut client::connect(&task.dir).await.unwrap()).await;
    assert_eq!(fs::metadata(socket(&task)).unwrap().ino(), inode);
    let log = fs::read_to_string(task.dir.path().join("executor.log")).unwrap();
    assert!(!log.contains("bound again"), "{log}");
    kill_now(peer).await;
}

#[tokio::test]
async fn a_listener_that_never_answers_is_asked_nothing_and_loses_the_name() {
    let host = Host::new();
    let (task, peer, _) = running(&host).await;
    let squatter = host.path().join("squatter.sock");
    let listener = UnixListener::bind(&squatter).unwrap();
    fs::rename(&squatter, socket(&task)).unwrap();
    let error = client::connect(&task.dir).await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
    let found = reached(&task.dir).await;
    assert_eq!(found.identity.pid, peer.identity.pid);
    drop(listener);
    kill_now(peer).await;
}

#[tokio::test]
async fn the_executor_of_another_task_on_the_path_is_a_stranger() {
    let host = Host::new();
    let (task, peer, main) = running(&host).await;
    let other = host.task("other");
    let (other_peer, other_launched) = host.running(&other, "echo ready; exec sleep 1000").await;
    fs::rename(socket(&other), socket(&task)).unwrap();
    let error = client::connect(&task.dir).await.unwrap_err();
    assert!(matches!(error, ConnectError::Stranger { .. }), "{error}");
    assert!(error.to_string().contains("it has task"), "{error}");
    assert!(lives(main) && lives(other_launched.main.unwrap().pid));
    assert_eq!(reached(&task.dir).await.identity.pid, peer.identity.pid);
    assert_eq!(reached(&other.dir).await.identity.pid, other_peer.identity.pid);
    kill_now(peer).await;
    kill_now(other_peer).await;
}

/// Of a process of another user not even who it is is asked.
#[tokio::test]
async fn a_listener_of_another_user_is_a_stranger() {
    if !is_root() {
        println!("does nothing here: it takes root to be two users");
        return;
    }
    let host = Host::new();
    let (task, peer, _) = running(&host).await;
    let home = host.path().join("nobody");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
    // The target folder may be closed to others.
    let program = home.join("executor");
    fs::copy(binary(), &program).unwrap();
    let theirs = home.join("x.sock");
    let mut child = std::process::Command::new(&program)
        .args(["serve", "--socket", theirs.to_str().unwrap(), "--log-file", "/dev/null"])
        .env("HOLDFAST_STATE_DIR", home.join("state"))
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .uid(65534)
        .gid(65534)
        .spawn()
        .unwrap();
    eventually("their socket", || theirs.exists().then_some(()).ok_or(String::new()));
    fs::rename(&theirs, socket(&task)).unwrap();
    let error = client::connect(&task.dir).await.unwrap_err();
    let found = reached(&task.dir).await.identity.pid;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, ConnectError::Stranger { .. }), "{error}");
    assert!(error.to_string().contains("of uid 65534 listens there"), "{error}");
    assert_eq!(found, peer.identity.pid);
    kill_now(peer).await;
}

#[tokio::test]
async fn a_stopped_executor_is_neither_replaced_nor_dead_and_answers_when_it_goes_on() {
    let host = Host::new();
    let (task, peer, main) = running(&host).await;
    signal(peer.identity.pid, libc::SIGSTOP);
    let error = client::connect(&task.dir).await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
    let error = host.start(&task, StartMode::Adopt).await.unwrap_err().to_string();
    assert!(error.contains("another executor holds the task"), "{error}");
    // By hand, too.
    let status = host.by_hand(&["exec", &task.folder(), "--", "true"]);
    assert!(!status.status.success());
    let said = text(&status.stderr);
    assert!(said.contains("does not answer"), "{said}");
    assert!(lives(main));
    signal(peer.identity.pid, libc::SIGCONT);
    works(&mut client::connect(&task.dir).await.unwrap()).await;
    kill_now(peer).await;
}

#[tokio::test]
async fn a_lock_that_is_lost_gives_a_living_executor_no_second_one() {
    let host = Host::new();
    let (task, peer, _) = running(&host).await;
    let path = task.dir.path();
    let (aside, copy) = (path.with_extension("aside"), path.with_extension("copy"));
    let move_all = |from: &Path, to: &Path| {
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            fs::rename(from.join(&name), to.join(&name)).unwrap();
        }
    };
    // As when somebody restores a backup: the same files in another folder, which nobody has locked.
    fs::rename(path, &aside).unwrap();
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
    move_all(&aside, path);
    let other = SupervisionDir::open(path).unwrap();
    assert!(other.lock().unwrap().is_some());
    let launcher = Launcher::new(binary().into());
    let error = launcher.adopt(&other, &[]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("lives: pid {}", peer.identity.pid)), "{error}");
    works(&mut client::connect(&other).await.unwrap()).await;
    move_all(path, &aside);
    fs::rename(path, &copy).unwrap();
    fs::rename(&aside, path).unwrap();
    fs::remove_dir(&copy).unwrap();
    kill_now(peer).await;
}

#[tokio::test]
async fn a_task_whose_folder_was_removed_goes_on_and_its_executor_with_it() {
    let host = Host::new();
    let (task, mut peer, main) = running(&host).await;
    fs::remove_dir_all(task.dir.path()).unwrap();
    signal(peer.identity.pid, client_signal());
    works(&mut peer).await;
    peer.executor.identify(IdentifyRequest {}).await.unwrap();
    assert!(lives(main));
    assert!(!client::ask_to_bind_again(&task.dir), "there is no record to ask by");
    kill_now(peer).await;
    host.nothing_left();
}

fn client_signal() -> i32 {
    holdfast_executor::server::BIND_AGAIN
}

#[tokio::test]
async fn nobody_is_asked_by_a_record_of_another_boot() {
    let host = Host::new();
    let (task, peer, _) = running(&host).await;
    let ours = task.record();
    let mut record = ours.clone();
    record.boot_id = BootId::parse("00000000-1111-2222-3333-444444444444").unwrap();
    task.dir.write_record(&record).unwrap();
    assert!(!client::ask_to_bind_again(&task.dir));
    task.dir.write_record(&ours).unwrap();
    assert!(client::ask_to_bind_again(&task.dir));
    kill_now(peer).await;
}

#[tokio::test]
async fn of_many_that_adopt_at_once_one_does_round_for_round() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "exec sleep 1000").await;
    let main = launched.main;
    let mut peer = peer;
    for round in 0..24 {
        kill(peer);
        let adopt = || host.start(&task, StartMode::Adopt);
        let (a, b, c, d) = tokio::join!(adopt(), adopt(), adopt(), adopt());
        let mut winners: Vec<Peer> = [a, b, c, d].into_iter().filter_map(Result::ok).collect();
        // A loser may have kept all others from the lock for a moment only; a connection leads to the one that has it.
        let pids: std::collections::HashSet<i32> = winners.iter().map(|winner| winner.identity.pid).collect();
        assert_eq!(pids.len(), 1, "round {round}");
        assert_eq!(winners[0].identity.main, main, "round {round}");
        assert_eq!(task.record().executor.pid, winners[0].identity.pid, "round {round}");
        peer = winners.swap_remove(0);
    }
    kill_now(peer).await;
    host.nothing_left();
}
