//! A state directory on a disk that is full when the task ends.

use std::fs;

use holdfast_init::exit::Kind;
use holdfast_record::names;
use holdfast_wire::executor_v1::{CommitRequest, task_result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::host::{Host, StartMode, is_root, launch, left, wait};

/// Unmounts what is below the host's folder.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_keeps_the_exit_that_cannot_become_a_result() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let state = host.state_dir();
    fs::create_dir(&state).unwrap();
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
    let _mounted = Mounted(state.clone());
    let task = host.task("main");
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let go = task.logs.join("go");
    let spec = task.shell(&format!("until test -e {}; do sleep 0.05; done; exit 7", go.display()));
    launch(&mut peer, spec).await.unwrap();
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let filler = state.join("filler");
    let mut bytes = 1 << 20;
    while bytes > 0 {
        use std::io::Write;
        let mut file = fs::File::options().append(true).create(true).open(&filler).unwrap();
        if file.write_all(&vec![0; bytes]).is_err() {
            bytes /= 2;
        }
    }
    fs::write(&go, "").unwrap();

    // Whoever is connected hears it, and whoever comes later finds it.
    let told = wait(&task, &mut peer).await;
    assert_eq!(told.status, Some(task_result::Status::Exited(7)));
    left(peer);
    assert!(task.dir.result().unwrap().is_none(), "there is no room for it");
    let exit = task
        .dir
        .exit()
        .unwrap()
        .expect("its room was taken before the task ran");
    assert_eq!(exit.kind, Kind::Exited(7));
    assert!(
        host.start(&task, StartMode::Adopt).await.is_err(),
        "an executor cannot record that it has adopted"
    );
    assert_eq!(task.dir.exit().unwrap(), Some(exit), "which changes nothing");

    fs::remove_file(&filler).unwrap();
    // The adopting executor writes the result and leaves, before or after it was asked who it is.
    if let Ok(peer) = host.start(&task, StartMode::Adopt).await {
        left(peer);
    }
    assert_eq!(task.result().status, holdfast_record::Status::Exited(7));
    assert!(task.dir.path().join(names::RECORD).exists());
}
