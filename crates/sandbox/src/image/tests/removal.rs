//! Layers go only when nobody needs them.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_layer_in_use_is_not_removed() {
    let layout = Layout::of(vec![Tar::new().file("a", "a"), Tar::new().file("b", "b")]);
    let (guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let digest = store.list().unwrap()[0].digest;
    let path = store.list().unwrap()[0].path.clone();
    let nobody = HashSet::new();
    let refused = |in_use: &HashSet<PathBuf>| {
        let error = store.remove(&digest, in_use).unwrap_err();
        assert!(matches!(error, ImageError::InUse { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(store.remove_unused(in_use).unwrap().is_empty());
        error.to_string()
    };
    // From unpacking until the caller has written down that it needs it.
    assert_eq!(
        refused(&nobody),
        format!("layer {digest} is in use by a task that is being started")
    );
    let layers: HashSet<PathBuf> = image.layers.iter().cloned().collect();
    drop(image);
    // From a task's record, whichever way it got there.
    let elsewhere = PathBuf::from("/elsewhere").join(path.file_name().unwrap()).join("tree");
    refused(&HashSet::from_iter(layers.iter().cloned().chain([elsewhere])));
    assert_eq!(
        refused(&layers),
        format!(
            "layer {digest} is in use by a task with the layer {}/tree",
            path.display()
        )
    );
    assert_eq!(names(&guard).len(), 2);
    let mut removed = store.remove_unused(&HashSet::from([path.join("tree")])).unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(store.list().unwrap().len(), 1);
    store.remove(&digest, &nobody).unwrap();
    removed.push(digest);
    assert_eq!(names(&guard), Vec::<String>::new());
    let error = store.remove(&digest, &nobody).unwrap_err().to_string();
    assert_eq!(error, format!("layer {digest} is not in the store"));
    // And it comes back.
    assert_eq!(store.unpack(&layout.reference()).unwrap().unpacked, removed.len());
}

#[test]
fn a_layer_that_is_mounted_anywhere_is_not_removed() {
    if !is_root() {
        return;
    }
    let layout = Layout::of(vec![Tar::new().file("a", "a"), Tar::new().file("b", "b")]);
    let (_guard, store) = store();
    let layers = store.unpack(&layout.reference()).unwrap().layers;
    let mounts = tempfile::tempdir().unwrap();
    let overlay = format!(
        "mount -t overlay -o lowerdir={}:{} none {}",
        layers[0].display(),
        layers[1].display(),
        mounts.path().display()
    );
    let bind = format!("mount --bind {} {}", layers[0].display(), mounts.path().display());
    for script in [overlay, bind] {
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", &format!("{script} && echo ready && read end")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "{script}");
        let digest =
            Digest::from_file_name(layers[0].parent().unwrap().file_name().unwrap().to_str().unwrap()).unwrap();
        let error = store.remove(&digest, &HashSet::new()).unwrap_err();
        assert!(
            error.to_string().contains("is in use by a mount that process "),
            "{error}"
        );
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.remove_unused(&HashSet::new()).unwrap().len(), 2);
}

#[test]
fn what_a_killed_one_left_is_removed_and_what_is_not_a_layer_stays() {
    let layout = Layout::of(vec![Tar::new().file("a", "a")]);
    let (guard, store) = store();
    assert!(store.list().unwrap().is_empty());
    assert!(store.remove_unused(&HashSet::new()).unwrap().is_empty());
    let digest = Digest::of(b"killed");
    assert!(matches!(
        store.remove(&digest, &HashSet::new()),
        Err(ImageError::NotStored(_))
    ));
    drop(store.unpack(&layout.reference()).unwrap());
    let images = guard.path().join("images");
    fs::create_dir_all(images.join(digest.file_name() + ".tmp/tree/a/b")).unwrap();
    fs::write(images.join(digest.file_name() + ".lock"), "").unwrap();
    fs::write(images.join("README"), "somebody's").unwrap();
    // A record that was damaged is in nobody's way.
    let damaged = images.join(Digest::of(b"damaged").file_name());
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("layer.json"), "{").unwrap();
    let sizes: Vec<bool> = store
        .list()
        .unwrap()
        .iter()
        .map(|layer| layer.bytes.is_some())
        .collect();
    assert_eq!(
        (sizes.len(), sizes.contains(&true), sizes.contains(&false)),
        (2, true, true)
    );
    assert_eq!(store.remove_unused(&HashSet::new()).unwrap().len(), 3);
    assert_eq!(names(&guard), ["README"]);
}

#[test]
fn a_layer_whose_record_is_broken_is_named_holds_nobody_up_and_can_be_removed() {
    let layout = Layout::of(vec![Tar::new().file("a", "a")]);
    let (_guard, store) = store();
    drop(store.unpack(&layout.reference()).unwrap());
    let layer = store.list().unwrap().remove(0);
    let path = layer.path.join("layer.json");
    let whole = fs::read(&path).unwrap();
    let refused = || {
        let error = store.unpack(&layout.reference()).unwrap_err().to_string();
        assert!(error.contains("layer.json") && !error.contains('\n'), "{error}");
        assert_eq!(store.list().unwrap()[0].bytes, None);
    };
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        refused();
    }
    for foreign in ["null", "[]", "{}", "{\"bytes\":-1}", "{\"bytes\":NaN}"] {
        fs::write(&path, foreign).unwrap();
        refused();
    }
    fs::File::create(&path).unwrap().set_len(5 << 20).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    refused();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused();
    store.remove(&layer.digest, &HashSet::new()).unwrap();
    assert_eq!(store.unpack(&layout.reference()).unwrap().unpacked, 1);
}
