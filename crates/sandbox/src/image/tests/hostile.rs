//! Layers that are wrong, by accident or on purpose: they are refused with a word for the culprit, and nothing is left of them.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::layouts::digest;
use super::*;

/// What is said of an image of this one layer.
fn refused(tar: Tar) -> String {
    let layout = Layout::of(vec![tar]);
    let (guard, store) = store();
    let error = store.unpack(&layout.reference()).unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(names(&guard), Vec::<String>::new(), "{error}");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    let (before, after) = text.split_once("layer sha256:").unwrap();
    format!("{before}layer{}", &after[64..])
}

#[test]
fn no_entry_leaves_the_folder_of_its_layer() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "untouched").unwrap();
    let out = outside.path().to_str().unwrap();
    let up = format!("{}{out}", "../".repeat(20));
    // Climbing, as an entry, as a whiteout, as the target of a hard link.
    for name in ["../x", "a/../../x", "..", "a/..", ".wh.a/../../b"] {
        assert_eq!(
            refused(Tar::new().file(name, "x")),
            format!("cannot unpack {name:?} of layer: its name climbs out of a folder (\"..\")")
        );
    }
    assert!(refused(Tar::new().hard_link("x", "../../etc/passwd")).ends_with("climbs out of a folder (\"..\")"));
    // Links to the outside lead into the layer, where there is nothing.
    for target in [out, &up] {
        assert_eq!(
            refused(Tar::new().link("evil", target).file("evil/secret", "changed")),
            "cannot unpack \"evil/secret\" of layer: the link \"evil\" above it leads to no folder of this layer"
        );
        assert!(refused(Tar::new().link("evil", target).file("evil/.wh.secret", "")).contains("leads to no folder"));
        assert!(refused(Tar::new().link("evil", target).folder("evil/made")).contains("leads to no folder"));
        assert_eq!(
            refused(Tar::new().link("evil", target).hard_link("mine", "evil/secret")),
            "cannot unpack \"mine\" of layer: it is a hard link to \"evil/secret\", which is not a file of this layer"
        );
    }
    for target in [secret.to_str().unwrap(), "/etc/passwd", "missing", "", "/"] {
        let text = refused(Tar::new().file("missing2", "").hard_link("mine", target));
        assert!(
            text.ends_with("which is not a file of this layer") || text.ends_with("it has no usable name"),
            "{target}: {text}"
        );
    }
    // Magic links of proc(5) are not followed even if a layer could have one.
    assert!(refused(Tar::new().link("self", "/proc/self/root").file("self/x", "x")).contains("leads to no folder"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_file_is_written_over_a_link_and_not_through_it() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "untouched").unwrap();
    let target = secret.to_str().unwrap();
    let layout = Layout::of(vec![
        Tar::new()
            .link("evil", target)
            .file("evil", "changed")
            .link("evil2", target)
            .hard_link("evil3", "evil2")
            .raw(b'5', "evil2", "", 0o700, (1, 1), b"")
            .folder("made")
            .link("made/link", target)
            .raw(b'6', "made/link", "", 0o600, (1, 1), b""),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let tree = tree(&image.layers[0]);
    assert_eq!(
        (tree["evil"].as_str(), tree["evil3"].as_str()),
        ("changed", format!("-> {target}").as_str())
    );
    assert_eq!(
        (tree["evil2"].as_str(), tree["made/link"].as_str()),
        ("opaque folder", "fifo")
    );
    assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(&secret).unwrap()),
        nix::unistd::geteuid().as_raw()
    );
}

#[test]
fn absolute_names_and_links_are_those_of_the_layer() {
    let unique = format!("holdfast-test-{}", std::process::id());
    let layout = Layout::of(vec![
        Tar::new()
            .file(&format!("/{unique}"), "inside")
            .folder("etc")
            .link("abs", "/etc")
            .file(&format!("abs/{unique}"), "inside"),
    ]);
    let (_guard, store) = store();
    let image = store.unpack(&layout.reference()).unwrap();
    let tree = tree(&image.layers[0]);
    assert_eq!(
        (&*tree[&unique], &*tree[&format!("etc/{unique}")]),
        ("inside", "inside")
    );
    for outside in ["/", "/etc"] {
        assert!(!Path::new(outside).join(&unique).exists());
    }
}

#[test]
fn names_that_mean_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        let reserved = name.trim_start_matches("a/");
        assert_eq!(
            refused(Tar::new().file(name, "")),
            format!("cannot unpack {name:?} of layer: {reserved:?} is a reserved name")
        );
    }
    assert_eq!(
        refused(Tar::new().file("a/.wh.b/c", "")),
        "cannot unpack \"a/.wh.b/c\" of layer: \".wh.b\" is a reserved name"
    );
    assert_eq!(
        refused(Tar::new().link("/", "/etc")),
        "cannot unpack \"/\" of layer: it has no usable name"
    );
    assert_eq!(
        refused(Tar::new().file("a", "x").file("a/b", "x")),
        "cannot unpack \"a/b\" of layer: \"a\" above it is not a folder"
    );
    let whiteout = refused(Tar::new().file(".wh.a", "").hard_link("b", "a"));
    assert!(
        whiteout.contains("which is not a file of this layer") || !is_root(),
        "{whiteout}"
    );
    assert!(refused(Tar::new().folder("a").hard_link("b", "a")).contains("which is not a file of this layer"));
    assert!(refused(Tar::new().link("a", "b").link("b", "a").file("a/c", "x")).contains("leads to no folder"));
    let long = "n".repeat(300);
    let text = refused(Tar::new().pax(&[("path", long.as_bytes())]).file("x", "x"));
    // C libraries word it differently.
    assert!(text.ends_with("(os error 36)"), "{text}");
    // Nor does a name break the line of its message.
    let text = refused(Tar::new().file("a\n/../b", "x"));
    assert_eq!(
        text,
        "cannot unpack \"a\\n/../b\" of layer: its name climbs out of a folder (\"..\")"
    );
}

#[test]
fn no_tree_gets_deeper_than_can_be_removed() {
    let deep = "d/".repeat(257);
    let text = refused(Tar::new().pax(&[("path", deep.as_bytes())]).folder("x"));
    assert!(text.ends_with("it is more than 256 folders deep"), "{text}");
    // A link does not help.
    let deep = "d/".repeat(200);
    let link = deep.trim_end_matches('/');
    let tar = Tar::new()
        .pax(&[("path", deep.as_bytes())])
        .folder("x")
        .pax(&[("linkpath", link.as_bytes())])
        .link("s", "x")
        .pax(&[("path", format!("s/{deep}").as_bytes())])
        .folder("x");
    let text = refused(tar);
    assert!(text.ends_with("it is more than 256 folders deep"), "{text}");
}

#[test]
fn a_blob_that_is_not_what_it_says_is_refused() {
    let archive = Tar::new().file("a", &"x".repeat(100_000)).file("b", "b").bytes();
    for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        let layout = Layout::new();
        let layer = layout.layer_of(&archive, pack);
        let layer_digest = digest(&layer.0);
        layout.index(&[layout.image(&Layers(vec![layer.clone()]))]);
        let path = blob::path(layout.path(), &layer_digest);
        let good = fs::read(&path).unwrap();
        let (guard, store) = store();
        let error = || {
            let error = store.unpack(&layout.reference()).unwrap_err().to_string();
            assert_eq!(names(&guard), Vec::<String>::new(), "{error}");
            error
        };
        let size = good.len();
        // Truncated, and with something after its end.
        fs::write(&path, &good[..size / 2]).unwrap();
        let half = size / 2;
        assert_eq!(
            error(),
            format!("blob {layer_digest} has {half} bytes, not the {size} that its descriptor says")
        );
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(error().contains("bytes, not the"));
        // Any byte that is another: the header, the middle, the end.
        for at in [0, 3, size / 3, size - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            fs::write(&path, bad).unwrap();
            assert_eq!(
                error(),
                format!("blob {layer_digest} does not have the content that its digest says"),
                "{pack:?} {at}"
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(error().starts_with(&format!("cannot open {}: No such file", path.display())));
        fs::write(&path, &good).unwrap();
        store.unpack(&layout.reference()).unwrap();
    }
}

#[test]
fn a_wrong_diff_id_is_refused_also_of_a_layer_that_is_there() {
    let layout = Layout::new();
    let good = layout.layer(Tar::new().file("x", "x"), Pack::Gzip);
    let mut bad = good.clone();
    bad.1 = Digest::of(b"something else").to_string();
    let (guard, store) = store();
    let text = format!(
        "layer {} does not have the content that its diff id {} says",
        digest(&good.0),
        bad.1
    );
    let wrong = layout.image(&Layers(vec![bad]));
    layout.index(std::slice::from_ref(&wrong));
    assert_eq!(store.unpack(&layout.reference()).unwrap_err().to_string(), text);
    assert_eq!(names(&guard), Vec::<String>::new());
    layout.index(&[layout.image(&Layers(vec![good]))]);
    store.unpack(&layout.reference()).unwrap();
    layout.index(&[wrong]);
    assert_eq!(store.unpack(&layout.reference()).unwrap_err().to_string(), text);
}

#[test]
fn what_is_no_archive_or_no_compressed_one_is_told_so() {
    let layout = Layout::new();
    let (guard, store) = store();
    let error = |media_type: &str, bytes: &[u8]| {
        let descriptor = layout.blob(media_type, bytes);
        let layer = (descriptor, Digest::of(bytes).to_string());
        layout.index(&[layout.image(&Layers(vec![layer]))]);
        let error = store.unpack(&layout.reference()).unwrap_err().to_string();
        assert_eq!(names(&guard), Vec::<String>::new(), "{error}");
        error
    };
    let text = error("application/vnd.oci.image.layer.v1.tar", &[b'x'; 2048]);
    assert!(text.contains("not a tar archive"), "{text}");
    for kind in ["gzip", "zstd"] {
        let text = error(&format!("application/vnd.oci.image.layer.v1.tar+{kind}"), &[b'x'; 2048]);
        assert!(text.starts_with("cannot read layer sha256:"), "{text}");
    }
}

#[test]
fn an_image_over_the_limit_is_refused_before_it_is_written() {
    let layout = Layout::new();
    // 4 MiB of zeroes: some KiB as a blob.
    let mut header = tar::Header::new_ustar();
    header.set_path("zeroes").unwrap();
    header.set_size(4 << 20);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let archive = [header.as_bytes(), &vec![0; 4 << 20][..]].concat();
    let bomb = layout.layer_of(&archive, Pack::Gzip);
    let small = layout.layer(Tar::new().file("a", &"x".repeat(9000)), Pack::Gzip);
    let (guard, store) = store();
    let (bomb_digest, small_digest) = (digest(&bomb.0), digest(&small.0));
    let text = |layer: &Digest, limit: u64| {
        format!("layer {layer} takes the image over the limit of {limit} uncompressed bytes")
    };
    layout.index(&[layout.image(&Layers(vec![small.clone(), bomb]))]);
    let limited = store.clone().with_max_image_bytes(1 << 20);
    let error = limited.unpack(&layout.reference()).unwrap_err();
    assert_eq!(error.to_string(), text(&bomb_digest, 1 << 20));
    // What was whole stays for others.
    assert_eq!(names(&guard), [small_digest.file_name()]);
    // A layer that is there counts as well.
    layout.index(&[layout.image(&Layers(vec![small]))]);
    let limited = store.clone().with_max_image_bytes(9000);
    let error = limited.unpack(&layout.reference()).unwrap_err();
    assert_eq!(error.to_string(), text(&small_digest, 9000));
    // A claim that nothing follows.
    header.set_size(1 << 40);
    header.set_cksum();
    let claim = layout.layer_of(header.as_bytes(), Pack::Gzip);
    let claim_digest = digest(&claim.0);
    layout.index(&[layout.image(&Layers(vec![claim]))]);
    let error = store.unpack(&layout.reference()).unwrap_err();
    assert_eq!(error.to_string(), text(&claim_digest, DEFAULT_MAX_IMAGE_BYTES));
    assert_eq!(names(&guard), [small_digest.file_name()]);
}

#[test]
fn what_follows_the_end_of_the_archive_counts_too() {
    let layout = Layout::new();
    let archive = [Tar::new().file("a", "x").bytes(), vec![0; 3 << 20]].concat();
    let layer = layout.layer_of(&archive, Pack::Gzip);
    layout.index(&[layout.image(&Layers(vec![layer]))]);
    let (_guard, store) = store();
    let limited = store.clone().with_max_image_bytes(1 << 20);
    assert!(
        limited
            .unpack(&layout.reference())
            .unwrap_err()
            .to_string()
            .contains("over the limit")
    );
    store.unpack(&layout.reference()).unwrap();
}

#[test]
fn a_diff_id_is_that_of_all_members_of_a_blob() {
    // Garbage after the gzip stream is covered by the blob's digest, but is no archive.
    let layout = Layout::new();
    let archive = Tar::new().file("a", "x").bytes();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&archive).unwrap();
    let blob = [encoder.finish().unwrap(), b"garbage".to_vec()].concat();
    let descriptor = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &blob);
    layout.index(&[layout.image(&Layers(vec![(descriptor, Digest::of(&archive).to_string())]))]);
    let (guard, store) = store();
    let error = store.unpack(&layout.reference()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read layer sha256:"), "{error}");
    assert_eq!(names(&guard), Vec::<String>::new());
}
