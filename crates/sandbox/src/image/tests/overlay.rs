//! The layers as overlayfs shows them.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::layouts::attribute;
use super::*;

/// Runs `body` where `layers` are mounted, in a mount namespace of its own that goes with the thread.
fn mounted(layers: &[std::path::PathBuf], body: impl FnOnce(&Path) + Send + 'static) {
    let lower = layers
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(":");
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let scratch_path = scratch.path().to_owned();
        mount(Some("tmpfs"), &scratch_path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scratch_path.join(name));
        for folder in [&upper, &work, &merged] {
            std::fs::create_dir(folder).unwrap();
        }
        let options = format!(
            "lowerdir={lower},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        body(&merged);
        nix::mount::umount(&merged).unwrap();
        nix::mount::umount(&scratch_path).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn an_overlay_of_the_layers_shows_the_image() {
    if !is_root() {
        return;
    }
    let layout = Layout::of(vec![
        Tar::new()
            .folder("etc")
            .file("etc/kept", "base")
            .file("etc/gone", "base")
            .file("etc/changed", "base")
            .folder("emptied")
            .file("emptied/old", "base")
            .folder("replaced")
            .file("replaced/old", "base")
            .folder("implied")
            .file("implied/old", "base")
            .folder("becomes-file")
            .file("becomes-file/old", "base")
            .file("becomes-folder", "base"),
        Tar::new()
            .folder("etc")
            .file("etc/.wh.gone", "")
            .file("etc/.wh.never-there", "")
            .file("etc/changed", "middle")
            .folder("emptied")
            .file("emptied/.wh..wh..opq", "")
            .file("emptied/new", "middle")
            .file(".wh.replaced", "")
            .folder("replaced")
            .file("replaced/new", "middle")
            .file(".wh.implied", "")
            .file("implied/new", "middle")
            .file("becomes-file", "middle")
            .folder("becomes-folder")
            .file("becomes-folder/new", "middle"),
        Tar::new().folder("etc").file("etc/gone", "top"),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let before: Vec<_> = image.layers.iter().map(|layer| tree(layer)).collect();
    mounted(&image.layers, |merged| {
        let shown: Vec<String> = tree(merged)
            .into_iter()
            .map(|(name, text)| format!("{name}: {text}"))
            .collect();
        assert_eq!(
            shown,
            [
                "becomes-file: middle",
                "becomes-folder: folder",
                "becomes-folder/new: middle",
                "emptied: folder",
                "emptied/new: middle",
                "etc: folder",
                "etc/changed: middle",
                "etc/gone: top",
                "etc/kept: base",
                "implied: folder",
                "implied/new: middle",
                "replaced: folder",
                "replaced/new: middle",
            ]
        );
        // What a task writes does not get to the layers.
        std::fs::write(merged.join("etc/changed"), "task").unwrap();
        std::fs::remove_dir_all(merged.join("emptied")).unwrap();
        assert_eq!(attribute(merged, "trusted.overlay.opaque"), None);
    });
    let after: Vec<_> = image.layers.iter().map(|layer| tree(layer)).collect();
    assert_eq!(before, after);
}
