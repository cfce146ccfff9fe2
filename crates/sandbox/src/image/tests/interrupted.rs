//! Unpackers that are killed, that come at once, and whose disk is full.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

const LAYOUT: &str = "HOLDFAST_TEST_IMAGE_LAYOUT";
const STORE: &str = "HOLDFAST_TEST_IMAGE_STORE";

/// What [`unpacker`] runs; nothing unless it is asked to.
#[test]
fn unpack_in_a_process_of_its_own() {
    let (Ok(layout), Ok(store)) = (std::env::var(LAYOUT), std::env::var(STORE)) else {
        return;
    };
    let reference = Reference::parse(&format!("oci:{layout}")).unwrap();
    let image = Store::at(store).unpack(&reference).unwrap();
    println!("unpacked={}", image.unpacked);
}

fn unpacker(layout: &Layout, store: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "image::tests::interrupted::unpack_in_a_process_of_its_own",
            "--nocapture",
        ])
        .env(LAYOUT, layout.path())
        .env(STORE, store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Many small files, so that there is time to come in between.
fn large(files: usize) -> Layout {
    let tar = |layer: usize| {
        (0..files).fold(Tar::new(), |tar, file| {
            tar.file(&format!("{}/{file}-{layer}", file % 50), "x")
        })
    };
    let layout = Layout::new();
    // What takes the time is to be the files.
    let layers = Layers([tar(0), tar(1)].map(|tar| layout.layer(tar, Pack::Plain)).to_vec());
    layout.index(&[layout.image(&layers)]);
    layout
}

fn count(root: &Path) -> usize {
    let mut found = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // Somebody is at work in it.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            found += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_killed_unpacker_leaves_nothing_that_could_be_taken_for_a_layer() {
    let layout = large(1200);
    let (guard, store) = store();
    let images = guard.path().join("images");
    let mut interrupted = 0;
    for files in [0, 1, 60, 300, 900] {
        let mut child = unpacker(&layout, &images);
        let temporary = loop {
            if child.try_wait().unwrap().is_some() {
                break None;
            }
            let temporary = names(&guard).into_iter().find(|name| name.ends_with(".tmp"));
            if let Some(temporary) = temporary.map(|name| images.join(name))
                && count(&temporary.join("tree")) >= files
            {
                break Some(temporary);
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        let Some(temporary) = temporary else { break };
        let layer = temporary.with_extension("");
        if temporary.exists() {
            interrupted += 1;
            // There is the temporary folder, and not the layer.
            assert!(!layer.exists());
            assert!(store.list().unwrap().iter().all(|stored| stored.path != layer));
        }
    }
    // At least the first ones came in time.
    assert!(interrupted >= 2, "{interrupted}");
    let image = store.unpack(&layout.reference()).unwrap();
    for layer in &image.layers {
        assert_eq!(count(layer), 1250);
    }
    // Locks and temporary folders of the killed ones are gone.
    assert!(
        names(&guard).iter().all(|name| !name.contains('.')),
        "{:?}",
        names(&guard)
    );
}

#[test]
fn a_layer_that_many_want_at_once_is_unpacked_once() {
    let layout = large(400);
    let (guard, store) = store();
    let images = guard.path().join("images");
    let children: Vec<Child> = (0..3).map(|_| unpacker(&layout, &images)).collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (store, reference) = (store.clone(), layout.reference());
            std::thread::spawn(move || store.unpack(&reference).unwrap())
        })
        .collect();
    let images: Vec<Image> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mut unpacked: usize = images.iter().map(|image| image.unpacked).sum();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, number) = text.split_once("unpacked=").unwrap();
        unpacked += number.lines().next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(unpacked, 2);
    assert!(images.windows(2).all(|pair| pair[0].layers == pair[1].layers));
    assert_eq!(names(&guard).len(), 2, "{:?}", names(&guard));
}

#[test]
fn unpacking_and_removing_at_once_gives_whole_layers() {
    let layout = large(40);
    let (_guard, store) = store();
    let remover = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut removed = 0;
            while removed < 10 {
                removed += store.remove_unused(&Default::default()).unwrap().len();
                std::thread::yield_now();
            }
        })
    };
    while !remover.is_finished() {
        let image = store.unpack(&layout.reference()).unwrap();
        // Held, it stays.
        assert!(image.layers.iter().all(|layer| count(layer) == 80));
    }
    remover.join().unwrap();
}

#[test]
fn a_full_disk_leaves_nothing_of_the_layer() {
    if !is_root() {
        return;
    }
    let layout = large(1000);
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let (guard, store) = store();
        for full in ["size=256k", "nr_inodes=100"] {
            mount(Some("tmpfs"), guard.path(), Some("tmpfs"), MsFlags::empty(), Some(full)).unwrap();
            let used = |guard: &tempfile::TempDir| {
                let stat = nix::sys::statvfs::statvfs(guard.path()).unwrap();
                (stat.blocks() - stat.blocks_free(), stat.files() - stat.files_free())
            };
            let error = store.unpack(&layout.reference()).unwrap_err().to_string();
            assert!(error.starts_with("cannot unpack \""), "{full}: {error}");
            assert!(
                error.ends_with("No space left on device (os error 28)"),
                "{full}: {error}"
            );
            assert_eq!(names(&guard), Vec::<String>::new());
            // An inode goes with the last descriptor, which a thread that ends closes on its way.
            let is_clean = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                used(&guard).1 == 2
            });
            assert!(is_clean, "{full}: {:?}", used(&guard));
            nix::mount::umount(guard.path()).unwrap();
        }
    })
    .join()
    .unwrap();
}

#[test]
fn layers_that_are_there_are_not_touched_again() {
    let layout = large(20);
    let (guard, store) = store();
    let first = store.unpack(&layout.reference()).unwrap();
    let inode = |image: &Image| {
        fs::metadata(&image.layers[0])
            .map(|metadata| (metadata.ino(), metadata.ctime()))
            .unwrap()
    };
    let before = inode(&first);
    // The blobs are needed no more, only what names them.
    for layer in &store.list().unwrap() {
        fs::remove_file(blob::path(layout.path(), &layer.digest)).unwrap();
    }
    let second = store.unpack(&layout.reference()).unwrap();
    assert_eq!((second.unpacked, inode(&second)), (0, before));
    assert!(names(&guard).iter().all(|name| !name.contains('.')));
}
