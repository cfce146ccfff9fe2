//! What comes out of a layer that is as it should be.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::layouts::{MTIME, attribute};
use super::*;

/// VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted (capabilities(7), linux/capability.h).
const NET_RAW: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn expected(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn every_compression_gives_the_same_tree() {
    let archive = Tar::new()
        .folder("a")
        .file("a/one", "1")
        .link("a/two", "one")
        .file("big", &"x".repeat(400_000))
        .bytes();
    let mut trees = Vec::new();
    for pack in [Pack::Plain, Pack::Gzip, Pack::Gzips, Pack::Zstd] {
        let layout = Layout::new();
        let layers = Layers(vec![layout.layer_of(&archive, pack)]);
        layout.index(&[layout.image(&layers)]);
        let (_guard, store) = store();
        let image = store.unpack(&layout.reference()).unwrap();
        assert_eq!((image.unpacked, image.layers.len()), (1, 1), "{pack:?}");
        assert!(image.notes.is_empty() || !is_root(), "{:?}", image.notes);
        trees.push(tree(&image.layers[0]));
    }
    assert_eq!(trees[0]["a/two"], "-> one");
    assert_eq!(trees[0].len(), 4);
    assert!(trees.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn owners_modes_times_links_and_attributes_are_those_of_the_layer() {
    if !is_root() {
        return;
    }
    let long = format!("deep/{}/{}", "d".repeat(120), "f".repeat(180));
    let layout = Layout::of(vec![
        Tar::new()
            .raw(b'5', "./", "", 0o777, (5, 5), b"")
            .raw(b'5', "tmp/", "", 0o1777, (0, 0), b"")
            .raw(b'0', "tmp/su", "", 0o4755, (0, 7), b"setuid")
            .raw(b'0', "tmp/mine", "", 0o2640, (1000, 1001), b"mine")
            .hard_link("tmp/second", "tmp/mine")
            .raw(b'2', "tmp/link", "/absolute/../text", 0o777, (1000, 1001), b"")
            .hard_link("tmp/link2", "tmp/link")
            .raw(b'6', "tmp/pipe", "", 0o622, (3, 4), b"")
            .raw(b'3', "dev/null", "", 0o666, (0, 0), b"")
            .raw(b'4', "dev/sda", "", 0o666, (0, 0), b"")
            .pax(&[
                ("SCHILY.xattr.security.capability", NET_RAW),
                ("SCHILY.xattr.user.note", b"hello\n"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("mtime", b"12.25"),
            ])
            .raw(b'0', "tmp/ping", "", 0o755, (9, 9), b"ping")
            .pax(&[("path", long.as_bytes())])
            .file("short", "long"),
    ]);
    let (guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let root = &image.layers[0];
    let look = |name: &str| {
        let metadata = fs::symlink_metadata(root.join(name)).unwrap();
        (
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
        )
    };
    let mtime = MTIME as i64;
    assert_eq!(look("tmp"), (0o1777, 0, 0, mtime));
    assert_eq!(look("tmp/su"), (0o4755, 0, 7, mtime));
    assert_eq!(look("tmp/mine"), (0o2640, 1000, 1001, mtime));
    assert_eq!(look("tmp/pipe"), (0o622, 3, 4, mtime));
    assert_eq!(look("tmp/link"), (0o777, 1000, 1001, mtime));
    assert_eq!(look("tmp/ping"), (0o755, 9, 9, 12));
    assert_eq!(
        fs::read_link(root.join("tmp/link")).unwrap().to_str(),
        Some("/absolute/../text")
    );
    let inode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("tmp/second"), inode("tmp/mine"));
    assert_eq!(inode("tmp/link2"), inode("tmp/link"));
    assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), "long");
    let ping = root.join("tmp/ping");
    assert_eq!(attribute(&ping, "security.capability").as_deref(), Some(NET_RAW));
    let has_user = layouts::has_user_attributes(guard.path());
    assert_eq!(attribute(&ping, "user.note").is_some(), has_user);
    assert!(attribute(&ping, "user.note").is_none_or(|value| value == b"hello\n"));
    // A layer must not direct overlayfs.
    assert_eq!(attribute(&ping, "trusted.overlay.redirect"), None);
    assert_eq!(attribute(&ping, "user.overlay.opaque"), None);
    assert!(!root.join("dev").exists());
    // The folder itself is root's, whatever the layer says of `/`, and others do not get there.
    assert_eq!((look("").0, look("").1, look("").2), (0o755, 0, 0));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&guard.path().join("images")), 0o700);
    let digest = &store.list().unwrap()[0].digest;
    let first = if has_user {
        "trusted.overlay.redirect of tmp/ping"
    } else {
        "user.note of tmp/ping"
    };
    assert_eq!(
        image.notes,
        [
            "device nodes are left out: \"dev/null\" and 1 more".to_owned(),
            format!(
                "extended attributes are left out: {first:?} and {} more",
                if has_user { 1 } else { 2 }
            ),
            "folders that the layer does not describe belong to root, with mode 0755: \"deep\" and 1 more".to_owned(),
        ]
        .map(|note| format!("layer {digest}: {note}"))
    );
    // They are told again to whoever finds the layer there.
    assert_eq!(store.unpack(&layout.reference()).unwrap().notes, image.notes);
    assert_eq!(names(&guard), [digest.file_name()]);
}

#[test]
fn whiteouts_become_those_of_overlayfs_in_any_order() {
    if !is_root() {
        return;
    }
    let layout = Layout::of(vec![
        Tar::new()
            .folder("etc")
            .file("etc/.wh.gone", "")
            .folder("opaque")
            .file("opaque/kept", "kept")
            .file("opaque/.wh..wh..opq", "")
            .file("early/.wh..wh..opq", "")
            .file("early/kept", "kept")
            // Gone below, and new here: before, after, and as a folder that is only implied.
            .file(".wh.before", "")
            .folder("before")
            .folder("after")
            .file(".wh.after", "")
            .file(".wh.implied", "")
            .file("implied/x", "x")
            .file("file", "file")
            .file(".wh.file", "")
            .file(".wh.file2", "")
            .file("file2", "file2")
            .file(".wh..wh.plnk/1.2", "aufs")
            .file(".wh..wh.aufs", "aufs"),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    assert_eq!(
        tree(&image.layers[0]),
        expected(&[
            ("etc", "folder"),
            ("etc/gone", "whiteout"),
            ("opaque", "opaque folder"),
            ("opaque/kept", "kept"),
            ("early", "opaque folder"),
            ("early/kept", "kept"),
            ("before", "opaque folder"),
            ("after", "opaque folder"),
            ("implied", "opaque folder"),
            ("implied/x", "x"),
            ("file", "file"),
            ("file2", "file2"),
        ])
    );
}

#[test]
fn the_last_entry_of_a_name_is_what_stays() {
    if !is_root() {
        return;
    }
    let layout = Layout::of(vec![
        Tar::new()
            .file("twice", "one")
            .file("twice", "two")
            .folder("folder")
            .file("folder/below", "x")
            .file("folder", "a file now")
            .file("file", "x")
            .folder("file")
            .file("file/below", "y")
            .folder("again")
            .file("again/kept", "kept")
            .raw(b'5', "again", "", 0o700, (4, 4), b"")
            .link("link", "again")
            .file("link", "no link")
            .file("own", "own")
            .hard_link("own", "own")
            .file("target", "target")
            .hard_link("own", "target"),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    assert_eq!(
        tree(&image.layers[0]),
        expected(&[
            ("twice", "two"),
            ("folder", "a file now"),
            // One after the other, the file would have hidden what is below.
            ("file", "opaque folder"),
            ("file/below", "y"),
            ("again", "folder"),
            ("again/kept", "kept"),
            ("link", "no link"),
            ("own", "target"),
            ("target", "target"),
        ])
    );
    let again = fs::metadata(image.layers[0].join("again")).unwrap();
    assert_eq!((again.mode() & 0o7777, again.uid()), (0o700, 4));
}

#[test]
fn links_above_an_entry_lead_to_folders_of_the_same_layer() {
    let layout = Layout::of(vec![
        Tar::new()
            .folder("usr")
            .folder("usr/lib")
            .link("lib", "usr/lib")
            .file("lib/one", "1")
            .link("abs", "/usr")
            .file("abs/lib/two", "2")
            .link("up", "../../../../usr/lib")
            .folder("up/deep")
            .file("up/deep/three", "3")
            .hard_link("up/four", "abs/lib/one"),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let tree = tree(&image.layers[0]);
    let found: Vec<&str> = tree
        .keys()
        .map(String::as_str)
        .filter(|name| name.starts_with("usr/lib/"))
        .collect();
    assert_eq!(
        found,
        [
            "usr/lib/deep",
            "usr/lib/deep/three",
            "usr/lib/four",
            "usr/lib/one",
            "usr/lib/two"
        ]
    );
    let deep = fs::metadata(image.layers[0].join("usr/lib/deep")).unwrap();
    assert_eq!(deep.mtime(), MTIME as i64);
}

#[test]
fn layers_are_shared_between_images_and_told_from_the_top() {
    let layout = Layout::new();
    let [base, one, two] = ["base", "one", "two"].map(|name| layout.layer(Tar::new().file(name, name), Pack::Gzip));
    let tagged = |image: serde_json::Value, tag: &str| {
        let mut image = image;
        image["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": tag});
        image
    };
    layout.index(&[
        tagged(layout.image(&Layers(vec![base.clone(), one.clone()])), "one"),
        tagged(
            layout.image(&Layers(vec![base.clone(), two.clone(), base.clone()])),
            "two",
        ),
    ]);
    let (_guard, store) = store();
    let first = store.unpack(&layout.select(":one")).unwrap();
    assert_eq!(first.unpacked, 2);
    let tops: Vec<_> = first
        .layers
        .iter()
        .map(|path| tree(path).into_keys().collect::<String>())
        .collect();
    assert_eq!(tops, ["one", "base"]);
    let second = store.unpack(&layout.select(":two")).unwrap();
    assert_eq!(second.unpacked, 1);
    // overlayfs takes no folder twice; the upper one of two equal ones is all that can be seen of both.
    let tops: Vec<_> = second
        .layers
        .iter()
        .map(|path| tree(path).into_keys().collect::<String>())
        .collect();
    assert_eq!(tops, ["base", "two"]);
    assert_eq!(store.list().unwrap().len(), 3);
}

#[test]
fn an_opaque_root_leaves_out_the_layers_below() {
    let layout = Layout::of(vec![
        Tar::new().file("below", "x"),
        Tar::new().file(".wh..wh..opq", "").file("here", "x"),
        Tar::new().file("above", "x"),
    ]);
    let (_guard, store) = store();
    for _ in 0..2 {
        let image = store.unpack(&layout.reference()).unwrap();
        let tops: Vec<_> = image
            .layers
            .iter()
            .map(|path| tree(path).into_keys().collect::<String>())
            .collect();
        assert_eq!(tops, ["above", "here"]);
    }
}

#[test]
fn the_configuration_is_told() {
    let layout = Layout::of(vec![Tar::new().file("x", "x")]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        image.config,
        ImageConfig {
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            entrypoint: text(&["/bin/sh"]),
            cmd: text(&["-c", "true"]),
            user: Some("1:2".to_owned()),
            work_dir: Some("/srv".to_owned()),
        }
    );
}

#[test]
fn without_root_everything_is_the_users_and_set_id_bits_are_gone() {
    if !is_root() {
        return;
    }
    let layout = Layout::of(vec![
        Tar::new()
            .raw(b'0', "su", "", 0o6755, (0, 0), b"x")
            .raw(b'5', "closed", "", 0o000, (0, 0), b"")
            .file("closed/in", "x")
            .file("closed/.wh.gone", "")
            .file("opaque/.wh..wh..opq", ""),
    ]);
    let (guard, store) = store();
    if !layouts::has_user_attributes(guard.path()) {
        return;
    }
    for path in [guard.path(), layout.path()] {
        let mut chown = std::process::Command::new("chown");
        assert!(chown.args(["-R", "65534:65534"]).arg(path).status().unwrap().success());
    }
    // Of this thread alone.
    std::thread::spawn(move || {
        let (uid, gid) = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let image = store.unpack(&layout.reference()).unwrap();
        assert!(image.user_xattrs);
        let tree = tree(&image.layers[0]);
        assert_eq!(tree["closed/gone"], "whiteout");
        assert_eq!(tree["opaque"], "opaque folder");
        let su = fs::metadata(image.layers[0].join("su")).unwrap();
        assert_eq!((su.mode() & 0o7777, su.uid()), (0o755, 65534));
        let kinds: Vec<_> = image
            .notes
            .iter()
            .map(|note| note.split(": ").nth(1).unwrap())
            .collect();
        assert_eq!(
            kinds,
            [
                "folders that the layer does not describe belong to root, with mode 0755",
                "without root everything belongs to the user who unpacks",
                "without root set-user-id and set-group-id bits are left out",
                "without root opaque folders are marked in user.overlay",
            ]
        );
        let digest = store.list().unwrap()[0].digest;
        drop(image);
        store.remove(&digest, &Default::default()).unwrap();
        assert_eq!(names(&guard), Vec::<String>::new());
        (guard, layout)
    })
    .join()
    .unwrap();
}
