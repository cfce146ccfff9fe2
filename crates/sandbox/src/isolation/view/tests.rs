use std::os::unix::fs::{PermissionsExt, symlink};

use holdfast_record::Propagation;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::*;
use crate::access::{self, Dead};

/// A tree that serves as root, and beside it a host that nobody should get to.
struct Trees {
    _guard: tempfile::TempDir,
    top: PathBuf,
}

fn trees(files: &[&str]) -> Trees {
    let guard = tempfile::tempdir().unwrap();
    let top = guard.path().canonicalize().unwrap();
    let trees = Trees { _guard: guard, top };
    for file in files {
        let path = trees.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    trees
}

impl Trees {
    fn path(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }

    fn link(&self, to: impl AsRef<Path>, path: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(to, self.path(path)).unwrap();
    }

    fn rooted(&self, entries: Vec<Entry>) -> View {
        View::of(&isolation(RootBase::Directory(self.path("root")), entries))
    }

    /// The file of the host behind a path, below the top of the trees; or where the way ended and why.
    fn behind(&self, view: &View, path: &str) -> Result<String, String> {
        match access::walk(view, Path::new(path)) {
            Ok(walk) => Ok(match walk.found.host {
                Some(host) => match host.strip_prefix(&self.top) {
                    Ok(host) => host.display().to_string(),
                    Err(_) => format!("host {}", host.display()),
                },
                None => "made".to_owned(),
            }),
            Err(Dead { component, source }) => Err(format!("{}: {}", component.display(), source)),
        }
    }
}

fn isolation(base: RootBase, entries: Vec<Entry>) -> Isolation {
    Isolation {
        root: Some(Root {
            base,
            read_only: false,
            no_pivot: false,
        }),
        entries,
        ..Isolation::default()
    }
}

fn entry(target: &str, what: What) -> Entry {
    Entry {
        target: target.into(),
        what,
    }
}

fn bind(target: &str, source: PathBuf) -> Entry {
    let what = What::Bind {
        source,
        flags: MountFlags::default(),
        propagation: Propagation::Private,
        optional: false,
    };
    entry(target, what)
}

const MISSING: &str = "No such file or directory (os error 2)";

#[test]
fn links_out_of_the_root_stay_in_it() {
    let trees = trees(&["root/etc/shared", "secret", "root/sub/file"]);
    let secret = trees.path("secret");
    trees.link(&secret, "root/absolute");
    trees.link("../../../../../../../../../../secret", "root/upwards");
    trees.link("../../../../../../../../../../etc/shared", "root/sub/inside");
    trees.link("/etc/shared", "root/sub/rooted");
    trees.link("..", "root/sub/above");
    let view = trees.rooted(vec![]);
    let behind = |path| trees.behind(&view, path);
    let first = secret.components().nth(1).unwrap();
    let first = Path::new("/").join(first);
    assert_eq!(behind("/absolute"), Err(format!("{}: {MISSING}", first.display())));
    assert_eq!(behind("/upwards"), Err(format!("/secret: {MISSING}")));
    assert_eq!(behind("/../../secret"), Err(format!("/secret: {MISSING}")));
    for path in [
        "/sub/inside",
        "/sub/rooted",
        "/sub/above/etc/shared",
        "/../../../etc/./shared",
    ] {
        assert_eq!(behind(path), Ok("root/etc/shared".into()), "{path}");
    }
    assert_eq!(behind("/.."), Ok("root".into()));
}

#[test]
fn links_without_an_end_are_given_up() {
    let trees = trees(&["root/file"]);
    trees.link("b", "root/a");
    trees.link("/a", "root/b");
    for number in 0..=MAX_LINKS {
        trees.link(format!("long{}", number + 1), &format!("root/long{number}"));
    }
    let view = trees.rooted(vec![]);
    let too_many = Errno::ELOOP as i32;
    for path in ["/a", "/b/c", "/long0"] {
        let dead = access::walk(&view, Path::new(path)).unwrap_err();
        assert_eq!(dead.source.raw_os_error(), Some(too_many), "{path}");
    }
    // A target that cannot be followed is no reason to hang either.
    let view = trees.rooted(vec![bind("/a/x", trees.path("root"))]);
    assert!(access::walk(&view, Path::new("/a/x")).is_err());
}

#[test]
fn what_is_put_in_later_covers_what_was_there() {
    let trees = trees(&[
        "root/usr/bin/tool",
        "root/data/old",
        "volume/new",
        "volume/sub/deep",
        "other/x",
        "file",
    ]);
    trees.link("usr/bin", "root/bin");
    trees.link("volume", "by-link");
    let view = trees.rooted(vec![
        bind("/data", trees.path("by-link")),
        bind("/data/sub", trees.path("other")),
        bind("/bin/tool", trees.path("file")),
        bind("/mnt/deep/place", trees.path("other")),
        entry("/bin", What::Link { to: "elsewhere".into() }),
        entry("/lib", What::Link { to: "/usr/bin".into() }),
        entry(
            "/tmp",
            What::Tmpfs {
                bytes: None,
                mode: 0o1777,
                uid: 0,
                gid: 0,
                flags: MountFlags::default(),
            },
        ),
        entry("/etc/hosts", What::File { content: String::new() }),
        entry("/dev", What::Dev),
    ]);
    let behind = |path| trees.behind(&view, path);
    let table = [
        ("/data/new", Ok("volume/new")),
        ("/data/old", Err("/data/old")),
        ("/data/sub/x", Ok("other/x")),
        ("/data/sub/deep", Err("/data/sub/deep")),
        ("/data/sub/../new", Ok("volume/new")),
        ("/usr/bin/tool", Ok("file")),
        ("/bin/tool", Ok("file")),
        ("/lib/tool", Ok("file")),
        ("/mnt/deep", Ok("made")),
        ("/mnt/deep/place/x", Ok("other/x")),
        ("/mnt/other", Err("/mnt/other")),
        ("/tmp", Ok("made")),
        ("/tmp/x", Err("/tmp/x")),
        ("/etc/hosts", Ok("made")),
        ("/dev/null", Ok("made")),
        ("/dev/pts", Ok("made")),
        ("/dev/sda", Err("/dev/sda")),
    ];
    for (path, expected) in table {
        let expected = expected
            .map(str::to_owned)
            .map_err(|component| format!("{component}: {MISSING}"));
        assert_eq!(behind(path), expected, "{path}");
    }
    let below_a_file = access::walk(&view, Path::new("/etc/hosts/x")).unwrap_err();
    assert_eq!(below_a_file.source.kind(), io::ErrorKind::NotADirectory);
    // Covered as a whole, with what was put in before.
    let covered = trees.rooted(vec![
        bind("/data/sub", trees.path("other")),
        bind("/data", trees.path("volume")),
    ]);
    assert_eq!(trees.behind(&covered, "/data/sub/deep"), Ok("volume/sub/deep".into()));
}

#[test]
fn what_is_masked_hides_what_is_there() {
    let trees = trees(&["root/etc/shadow", "root/etc/nomad.d/token"]);
    let mut isolation = isolation(RootBase::Directory(trees.path("root")), vec![]);
    isolation.masked = vec!["/etc/shadow".into(), "/etc/nomad.d".into(), "/none".into()];
    let view = View::of(&isolation);
    assert_eq!(trees.behind(&view, "/etc/shadow"), Ok("made".into()));
    assert_eq!(trees.behind(&view, "/etc/nomad.d"), Ok("made".into()));
    assert_eq!(
        trees.behind(&view, "/etc/nomad.d/token"),
        Err(format!("/etc/nomad.d/token: {MISSING}"))
    );
    assert_eq!(trees.behind(&view, "/none"), Err(format!("/none: {MISSING}")));
}

#[test]
fn an_optional_source_that_is_not_there_covers_nothing() {
    let trees = trees(&["root/data/old"]);
    let mut missing = bind("/data", trees.path("none"));
    let view = trees.rooted(vec![missing.clone()]);
    assert!(trees.behind(&view, "/data/old").is_err());
    if let What::Bind { optional, .. } = &mut missing.what {
        *optional = true;
    }
    let view = trees.rooted(vec![missing]);
    assert_eq!(trees.behind(&view, "/data/old"), Ok("root/data/old".into()));
}

#[test]
fn an_empty_root_has_what_is_put_in_and_nothing_else() {
    let trees = trees(&["usr/bin/sh"]);
    let usr = trees.path("usr");
    let link = entry("/bin", What::Link { to: "usr/bin".into() });
    let view = View::of(&isolation(RootBase::Empty, vec![link, bind("/usr", usr)]));
    assert_eq!(trees.behind(&view, "/bin/sh"), Ok("usr/bin/sh".into()));
    assert_eq!(trees.behind(&view, "/"), Ok("made".into()));
    assert_eq!(trees.behind(&view, "/etc"), Err(format!("/etc: {MISSING}")));
    assert!(!view.is_host() && View::host().is_host());
    assert!(View::of(&Isolation::default()).is_host());
}

#[test]
fn mounts_of_the_task_say_whether_they_execute() {
    let trees = trees(&["root/file"]);
    let mut noexec = bind("/data", trees.path("root"));
    if let What::Bind { flags, .. } = &mut noexec.what {
        flags.no_exec = true;
    }
    let view = trees.rooted(vec![noexec, entry("/proc", What::Proc)]);
    let is_noexec = |path| access::walk(&view, Path::new(path)).unwrap().found.is_noexec().unwrap();
    assert!(is_noexec("/data/file") && is_noexec("/proc/version"));
    assert!(!is_noexec("/file"));
}

/// Three layers with everything that layers do to each other.
fn layered() -> (Trees, Vec<PathBuf>) {
    let trees = trees(&[
        "1/dir/upper",
        "1/onto-dir",
        "1/onto-file/x",
        "1/hidden/new",
        "1/opaque/mine",
        "2/dir/middle",
        "2/gone",
        "2/gone-dir/x",
        "2/onto-dir/x",
        "2/onto-file",
        "2/opaque/theirs",
        "2/deep/er/file",
        "3/dir/lower",
        "3/gone",
        "3/onto-file/below",
        "3/hidden/old",
        "3/opaque/below",
        "3/deep/er/other",
        "3/root",
    ]);
    let whiteout = |path: &str| mknod(&trees.path(path), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    for path in ["1/gone", "1/gone-dir", "2/hidden", "1/dir/lower", "2/deep/er/other"] {
        whiteout(path);
    }
    trees.link("dir/middle", "1/link");
    for layer in ["1", "2", "3"] {
        fs::set_permissions(trees.path(layer), fs::Permissions::from_mode(0o755)).unwrap();
    }
    if nix::unistd::geteuid().is_root() {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(trees.path("1/opaque"), "trusted.overlay.opaque", b"y", flags).unwrap();
    }
    let layers = ["1", "2", "3"].map(|layer| trees.path(layer)).into();
    (trees, layers)
}

const LAYERED: [(&str, Option<&str>); 19] = [
    ("", Some("1")),
    ("dir/upper", Some("1/dir/upper")),
    ("dir/middle", Some("2/dir/middle")),
    ("dir/lower", None),
    ("dir", Some("1/dir")),
    ("gone", None),
    ("gone-dir", None),
    ("gone-dir/x", None),
    ("onto-dir", Some("1/onto-dir")),
    ("onto-dir/x", None),
    ("onto-file", Some("1/onto-file")),
    ("onto-file/x", Some("1/onto-file/x")),
    ("onto-file/below", None),
    ("hidden/new", Some("1/hidden/new")),
    ("hidden/old", None),
    ("deep/er/file", Some("2/deep/er/file")),
    ("deep/er/other", None),
    ("root", Some("3/root")),
    ("link", Some("1/link")),
];

#[test]
fn layers_hide_what_is_below_them() {
    let (trees, layers) = layered();
    for (path, expected) in LAYERED {
        let found = overlay::look(&layers, Path::new(path))
            .ok()
            .and_then(|found| found.host);
        assert_eq!(found, expected.map(|path| trees.path(path)), "{path}");
    }
    let view = View::of(&isolation(RootBase::Overlay(layers), vec![]));
    assert_eq!(trees.behind(&view, "/link"), Ok("2/dir/middle".into()));
    let origin = |path| access::walk(&view, Path::new(path)).unwrap().found.origin;
    assert_eq!((origin("/root"), origin("/")), (Origin::Layer, Origin::Layer));
}

/// What the kernel shows is what is looked at; needs root, and a kernel with overlayfs.
#[test]
fn an_overlay_shows_the_task_what_its_plan_was_checked_against() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // The mount namespace is this thread's alone, and the mount goes with it.
    let own_namespace = || {
        let none: Option<&str> = None;
        let (trees, layers) = layered();
        let merged = trees.path("merged");
        fs::create_dir(&merged).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        let flags = MsFlags::MS_RDONLY;
        match mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str())) {
            // A kernel without overlayfs shows nothing.
            Err(Errno::ENODEV) => return,
            answer => answer.unwrap(),
        }
        let opaque = [("opaque/mine", true), ("opaque/theirs", false), ("opaque/below", false)];
        let table = LAYERED.map(|(path, behind)| (path, behind.is_some()));
        for (path, is_there) in table.into_iter().chain(opaque) {
            assert_eq!(
                fs::symlink_metadata(merged.join(path)).is_ok(),
                is_there,
                "kernel: {path}"
            );
            assert_eq!(overlay::look(&layers, Path::new(path)).is_ok(), is_there, "{path}");
        }
        nix::mount::umount(&merged).unwrap();
    };
    std::thread::spawn(own_namespace).join().unwrap();
}
