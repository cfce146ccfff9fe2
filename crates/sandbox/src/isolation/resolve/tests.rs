use std::os::unix::fs::{PermissionsExt, symlink};

use holdfast_record::{DeviceRule, Propagation, RootBase};

use super::super::IsolationMode;
use super::super::options::Modes;
use super::*;
use crate::isolation::{DeviceOption, TmpfsOption};

struct Host {
    _guard: tempfile::TempDir,
    top: PathBuf,
}

fn host() -> Host {
    let guard = tempfile::tempdir().unwrap();
    let top = guard.path().canonicalize().unwrap();
    let host = Host { _guard: guard, top };
    for dir in [
        "alloc/1/alloc/logs",
        "alloc/1/web/local",
        "alloc/1/web/secrets",
        "volume",
    ] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    for file in ["file", "alloc/1/web/bin/sh"] {
        fs::create_dir_all(host.path(file).parent().unwrap()).unwrap();
        fs::write(host.path(file), "").unwrap();
    }
    host
}

impl Host {
    fn path(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }

    fn resolve(&self, change: impl FnOnce(&mut IsolationOptions)) -> Result<Isolation, IsolationError> {
        self.resolve_with(Stragglers::Kill, change)
    }

    fn resolve_with(
        &self,
        stragglers: Stragglers,
        change: impl FnOnce(&mut IsolationOptions),
    ) -> Result<Isolation, IsolationError> {
        let mut options = IsolationOptions::default();
        change(&mut options);
        let mut runs_as = Credentials::numeric(1000, 1001, vec![1001]);
        runs_as.name = "web".into();
        let around = Surroundings {
            task_dir: &self.path("alloc/1/web"),
            alloc_dir: &self.path("alloc/1"),
            runs_as: &runs_as,
            stragglers,
        };
        resolve(options, &around).map(|resolved| resolved.isolation)
    }
}

fn private() -> Modes {
    let private = IsolationMode::Private;
    Modes {
        mount: private,
        pid: private,
        ipc: private,
        uts: private,
        cgroup: private,
    }
}

fn bind(source: impl Into<PathBuf>, target: &str) -> Entry {
    Entry {
        target: target.into(),
        what: What::Bind {
            source: source.into(),
            flags: MountFlags::default(),
            propagation: Propagation::Private,
            optional: false,
        },
    }
}

fn device(host: &str, target: &str) -> DeviceOption {
    DeviceOption {
        host: host.into(),
        target: target.into(),
        read: true,
        write: false,
        mknod: false,
    }
}

fn tmpfs(target: &str) -> TmpfsOption {
    TmpfsOption {
        target: target.into(),
        bytes: Some(4096),
        mode: 0o700,
    }
}

fn targets(isolation: &Isolation) -> Vec<&str> {
    isolation
        .entries
        .iter()
        .map(|entry| entry.target.to_str().unwrap())
        .collect()
}

fn texts(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().map(|path| path.to_str().unwrap()).collect()
}

#[test]
fn a_task_that_asks_for_nothing_shares_everything() {
    assert_eq!(host().resolve(|_| ()).unwrap(), Isolation::default());
    // The operator's word for all tasks of a plugin.
    assert_eq!(
        host().resolve(|options| options.no_pivot_root = true).unwrap(),
        Isolation::default()
    );
}

#[test]
fn a_task_dir_becomes_the_root_that_the_built_in_makes() {
    let host = host();
    let isolation = host
        .resolve(|options| {
            options.root = RootOption::TaskDir;
            options.no_pivot_root = true;
            options.modes.pid = IsolationMode::Private;
            options.modes.ipc = IsolationMode::Private;
            options.entries = vec![bind(host.path("volume"), "/data")];
        })
        .unwrap();
    assert_eq!(
        isolation.root,
        Some(Root {
            base: RootBase::Directory(host.path("alloc/1/web")),
            read_only: false,
            no_pivot: true,
        })
    );
    let namespaces = Namespaces {
        mount: true,
        pid: true,
        ipc: true,
        ..Namespaces::default()
    };
    assert_eq!(isolation.namespaces, namespaces);
    assert_eq!(
        targets(&isolation),
        [
            "/dev",
            "/proc",
            "/dev/shm",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/data"
        ]
    );
    assert_eq!(isolation.entries[2], shared_memory(64 << 20));
    assert_eq!(texts(&isolation.masked), ["/proc/kcore", "/sys/firmware"]);
    assert_eq!(
        texts(&isolation.read_only),
        ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"]
    );
    let rules = isolation.devices.unwrap();
    assert_eq!(rules.len(), 11);
    let shared = host
        .resolve(|options| {
            options.root = RootOption::TaskDir;
            options.read_only_root = Some(true);
            options.shm_bytes = Some(4096);
        })
        .unwrap();
    assert!(!shared.namespaces.pid && shared.namespaces.mount);
    // It shows the host's processes, and is a mount of its own.
    assert!(targets(&shared).contains(&"/proc") && !targets(&shared).contains(&"/dev/mqueue"));
    assert!(shared.root.unwrap().read_only);
    assert_eq!(shared.entries[2], shared_memory(4096));
}

/// Where it is on a real host, `usr` is below `/`; a plan does not care.
#[test]
fn a_view_of_the_host_shows_what_was_named_and_nothing_can_be_written() {
    let host = host();
    for dir in ["usr/bin", "usr/local", "opt/nomad", "elsewhere"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    symlink("usr/bin", host.path("bin")).unwrap();
    symlink(host.path("elsewhere"), host.path("srv")).unwrap();
    let paths = ["bin", "usr", "usr/local", "srv", "lib64", "alloc"].map(|path| host.path(path));
    let isolation = host
        .resolve(|options| {
            options.root = RootOption::Host(paths.into());
            options.confinement.no_new_privileges = true;
        })
        .unwrap();
    let root = isolation.root.as_ref().unwrap();
    assert_eq!((&root.base, root.read_only), (&RootBase::Empty, true));
    let flags = MountFlags {
        read_only: true,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    let shown = |path: &str, source: &str, flags| Entry {
        target: host.path(path),
        what: What::Bind {
            source: host.path(source),
            flags,
            propagation: Propagation::Private,
            optional: false,
        },
    };
    assert_eq!(targets(&isolation)[..2], ["/run", "/var/tmp"]);
    assert_eq!(
        isolation.entries[2..6],
        [
            Entry {
                target: host.path("bin"),
                what: What::Link { to: "usr/bin".into() }
            },
            shown("usr", "usr", flags),
            shown("srv", "elsewhere", flags),
            shown("alloc", "alloc", flags),
        ]
    );
    assert!(isolation.masked.contains(&host.path("alloc")), "{:?}", isolation.masked);
    assert!(isolation.masked.contains(&PathBuf::from("/proc/keys")));
    assert!(isolation.read_only.contains(&PathBuf::from("/proc/fs")));
    // What would be covered comes first.
    let of_run = host
        .resolve(|options| options.root = RootOption::Host(vec!["/run".into(), "/var/tmp".into(), "/usr".into()]))
        .unwrap();
    let is_run = |entry: &&Entry| entry.target == Path::new("/run");
    assert!(matches!(
        of_run.entries.iter().find(is_run).unwrap().what,
        What::Bind { .. }
    ));
    let below_run = host.resolve(|options| options.root = RootOption::Host(vec!["/usr".into(), "/var".into()]));
    let targets_below = targets(below_run.as_ref().unwrap()).join(" ");
    assert!(
        targets_below.starts_with("/run /usr /var /var/tmp /dev "),
        "{targets_below}"
    );
    // Programs with set-user-id bits work where new privileges are allowed.
    let isolation = host
        .resolve(|options| options.root = RootOption::Host(vec![host.path("usr")]))
        .unwrap();
    let flags = MountFlags {
        no_suid: false,
        ..flags
    };
    assert_eq!(isolation.entries[2], shown("usr", "usr", flags));
}

#[test]
fn the_hosts_secrets_are_masked_where_they_are_shown() {
    let isolation = host()
        .resolve(|options| options.root = RootOption::Host(vec!["/etc".into()]))
        .unwrap();
    // Every host with users has it.
    let shadow = PathBuf::from("/etc/shadow");
    assert_eq!(isolation.masked.contains(&shadow), shadow.exists());
    let isolation = host()
        .resolve(|options| options.root = RootOption::Host(vec!["/usr".into()]))
        .unwrap();
    assert!(!isolation.masked.contains(&shadow));
}

#[test]
fn roots_without_a_chroot_have_the_tasks_own_folders() {
    let host = host();
    for root in [
        RootOption::Minimal,
        RootOption::Host(vec![host.path("volume")]),
        RootOption::Layers(vec![host.path("volume")]),
    ] {
        let isolation = host.resolve(|options| options.root = root).unwrap();
        let own = |target: &str| {
            let is_it = |entry: &&Entry| entry.target == Path::new(target);
            isolation.entries.iter().find(is_it).unwrap().what.clone()
        };
        let folder = |source: &str| What::Bind {
            source: host.path(source),
            flags: MountFlags {
                read_only: false,
                no_suid: true,
                no_dev: true,
                no_exec: false,
            },
            propagation: Propagation::Private,
            optional: false,
        };
        assert_eq!(own("/alloc"), folder("alloc/1/alloc"));
        assert_eq!(own("/local"), folder("alloc/1/web/local"));
        assert_eq!(own("/secrets"), folder("alloc/1/web/secrets"));
        assert!(matches!(own("/tmp"), What::Tmpfs { mode: 0o1777, .. }));
        assert!(isolation.read_only.contains(&PathBuf::from("/alloc/logs")));
        let is_layered = matches!(isolation.root.as_ref().unwrap().base, RootBase::Overlay(_));
        assert_eq!(isolation.root.as_ref().unwrap().read_only, !is_layered);
        assert_eq!(targets(&isolation).contains(&"/run"), !is_layered);
    }
    fs::create_dir(host.path("alloc/1/web/tmp")).unwrap();
    let isolation = host
        .resolve(|options| {
            options.root = RootOption::Layers(vec![host.path("volume")]);
            options.read_only_root = Some(true);
        })
        .unwrap();
    let is_tmp = |entry: &&Entry| entry.target == Path::new("/tmp");
    let What::Bind { source, .. } = &isolation.entries.iter().find(is_tmp).unwrap().what else {
        panic!("/tmp is not the task's own");
    };
    assert_eq!(*source, host.path("alloc/1/web/tmp"));
    assert!(targets(&isolation).contains(&"/run") && targets(&isolation).contains(&"/var/tmp"));
}

#[test]
fn what_was_asked_for_comes_last_and_in_order() {
    let isolation = host()
        .resolve(|options| {
            options.root = RootOption::Minimal;
            options.modes = private();
            options.hostname = Some("web-1".into());
            options.devices = vec![device("/dev/null", "/dev/other")];
            options.tmpfs = vec![tmpfs("/cache")];
            options.entries = vec![
                bind("/usr", "/cache/usr"),
                Entry {
                    target: "/etc/hosts".into(),
                    what: What::File {
                        content: "127.0.0.1 localhost\n".into(),
                    },
                },
            ];
        })
        .unwrap();
    let targets = targets(&isolation);
    assert_eq!(
        targets[targets.len() - 4..],
        ["/dev/other", "/cache", "/cache/usr", "/etc/hosts"]
    );
    assert_eq!(targets[..3], ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"]);
    assert_eq!(isolation.hostname.as_deref(), Some("web-1"));
}

#[test]
fn a_device_is_the_hosts_with_the_permissions_that_were_asked_for() {
    let host = host();
    let zero = What::Node {
        is_char: true,
        major: 1,
        minor: 5,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let rule = DeviceRule {
        is_char: true,
        major: Some(1),
        minor: Some(5),
        read: true,
        write: false,
        mknod: false,
    };
    fs::create_dir_all(host.path("dev")).unwrap();
    symlink("/dev/zero", host.path("dev/by-name")).unwrap();
    let isolation = host
        .resolve(|options| {
            options.root = RootOption::Minimal;
            options.devices = vec![
                device(host.path("dev/by-name").to_str().unwrap(), "/dev/z"),
                device("/dev/zero", "/srv/z"),
            ];
        })
        .unwrap();
    let of = |target: &str| {
        let is_it = |entry: &&Entry| entry.target == Path::new(target);
        isolation.entries.iter().find(is_it).unwrap().what.clone()
    };
    assert_eq!(of("/dev/z"), zero);
    // The root of the task allows no nodes elsewhere.
    assert!(
        matches!(of("/srv/z"), What::Bind { source, flags, .. } if source == Path::new("/dev/zero") && !flags.no_dev)
    );
    let rules = isolation.devices.unwrap();
    assert_eq!(rules[rules.len() - 2..], [rule, rule]);
    let any = DeviceRule {
        is_char: false,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: true,
    };
    assert!(rules.contains(&any), "{rules:?}");
    // The host's tree has its devices, and whatever it had is not taken away.
    let isolation = host
        .resolve(|options| options.devices = vec![device("/dev/zero", "/dev/zero")])
        .unwrap();
    assert_eq!(isolation, Isolation::default());
    let isolation = host
        .resolve(|options| {
            options.modes.mount = IsolationMode::Private;
            options.devices = vec![device("/dev/zero", "/dev/full")];
        })
        .unwrap();
    assert_eq!(isolation.entries.len(), 1);
    assert!(matches!(isolation.entries[0].what, What::Bind { .. }));
    assert!(isolation.devices.unwrap().contains(&rule));
}

#[test]
fn the_hosts_tree_in_namespaces_of_the_tasks_own_gets_what_these_need() {
    let isolation = host().resolve(|options| {
        options.modes.mount = IsolationMode::Private;
        options.modes.pid = IsolationMode::Private;
        options.shm_bytes = Some(4096);
        options.tmpfs = vec![tmpfs("/mnt")];
    });
    let isolation = isolation.unwrap();
    assert_eq!(targets(&isolation), ["/proc", "/dev/shm", "/mnt"]);
    assert_eq!((isolation.root, isolation.devices), (None, None));
}

#[test]
fn nothing_is_made_in_the_hosts_own_tree() {
    let host = host();
    let top = host.top.display();
    let over_host = |target: PathBuf| {
        host.resolve(|options| {
            options.modes.mount = IsolationMode::Private;
            options.entries = vec![bind(host.path("volume"), target.to_str().unwrap())];
        })
    };
    let error = over_host(host.path("none/data")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("mount {top}/none/data is not there and cannot be made: {top} is in the host's own tree")
    );
    // A link does not hide where it would be.
    symlink(&host.top, host.path("alloc/1/web/local/top")).unwrap();
    assert!(over_host(host.path("alloc/1/web/local/top/none")).is_err());
    // What is in the allocation goes away with it.
    assert!(over_host(host.path("alloc/1/web/data")).is_ok());
    assert!(
        over_host(host.path("file/x")).is_ok(),
        "left to the executor, which says why"
    );
    let shown = |entries: Vec<Entry>| {
        let runs_as = Credentials::numeric(1000, 1000, vec![1000]);
        let around = Surroundings {
            task_dir: &host.path("alloc/1/web"),
            alloc_dir: &host.path("alloc/1"),
            runs_as: &runs_as,
            stragglers: Stragglers::Kill,
        };
        let options = IsolationOptions {
            root: RootOption::Host(vec!["/usr".into()]),
            entries,
            ..IsolationOptions::default()
        };
        resolve(options, &around).map_err(|error| error.to_string())
    };
    let inside = PathBuf::from("/usr/none-of-holdfast");
    let complaint = |word: &str| {
        let inside = inside.display();
        format!("{word} {inside} is not there and cannot be made: /usr is read-only")
    };
    let source = host.path("alloc/1/web/local");
    assert_eq!(
        shown(vec![bind(&source, inside.to_str().unwrap())]),
        Err(complaint("mount"))
    );
    assert!(shown(vec![bind(&source, "/none/data")]).is_ok());
    let name = Entry {
        target: inside.clone(),
        what: What::File { content: "web".into() },
    };
    let without = shown(vec![name.clone()]).unwrap();
    assert_eq!(without.warnings, [complaint("mount")]);
    assert!(!without.isolation.entries.contains(&name));
}

#[test]
fn impossible_wishes_are_refused_by_name_and_change_nothing() {
    type Change = Box<dyn Fn(&mut IsolationOptions)>;
    let host = host();
    let top = host.top.display();
    fs::write(host.path("rootfs-file"), "").unwrap();
    symlink("/etc", host.path("alloc/1/web/local/out")).unwrap();
    symlink("/etc/hostname", host.path("alloc/1/web/local/out-file")).unwrap();
    let in_root = |entry: Entry| -> Change {
        Box::new(move |options| {
            options.root = RootOption::TaskDir;
            options.entries = vec![entry.clone()];
        })
    };
    let root = |root: RootOption| -> Change { Box::new(move |options| options.root = root.clone()) };
    let volume = host.path("volume");
    let file = host.path("file");
    let local = |name: &str| host.path("alloc/1/web/local").join(name);
    let missing = "No such file or directory (os error 2)";
    let host_mounts = "needs a mount namespace of the task's own, and the task is in the host's";
    let table: Vec<(Change, String)> = vec![
        (
            Box::new(|options| options.entries = vec![bind("/usr", "/data")]),
            format!("mount /data {host_mounts}"),
        ),
        (
            Box::new(|options| options.tmpfs = vec![tmpfs("/cache")]),
            format!("tmpfs /cache {host_mounts}"),
        ),
        (
            Box::new(|options| options.devices = vec![device("/dev/zero", "/dev/z")]),
            format!("device /dev/z {host_mounts}"),
        ),
        (
            Box::new(|options| options.shm_bytes = Some(5)),
            format!("shm_size {host_mounts}"),
        ),
        (
            Box::new(|options| options.modes.pid = IsolationMode::Private),
            "a pid namespace of the task's own needs a mount namespace of its own for /proc, and the task is in the host's".into(),
        ),
        (
            Box::new(|options| options.hostname = Some("web".into())),
            "hostname \"web\" needs a uts namespace of the task's own, and the task is in the host's".into(),
        ),
        (
            Box::new(|options| {
                options.modes = private();
                options.hostname = Some("x".repeat(65));
            }),
            format!("hostname {:?} is longer than 64 bytes", "x".repeat(65)),
        ),
        (
            Box::new(|options| options.read_only_root = Some(true)),
            "a read-only root needs a root of the task's own, and the task sees the host's".into(),
        ),
        (
            root(RootOption::Layers(vec![host.path("none")])),
            format!("rootfs \"{top}/none\" cannot be used: {missing}"),
        ),
        (
            root(RootOption::Layers(vec![host.path("rootfs-file")])),
            format!("rootfs \"{top}/rootfs-file\" is not a directory"),
        ),
        (
            root(RootOption::Layers(vec!["rootfs".into()])),
            "rootfs \"rootfs\" is not an absolute path".into(),
        ),
        (root(RootOption::Layers(vec![])), "rootfs has no layers".into()),
        (
            root(RootOption::Host(vec!["/".into()])),
            "rootfs \"/\" is the root itself".into(),
        ),
        (
            root(RootOption::Host(vec!["usr".into()])),
            "rootfs \"usr\" is not an absolute path".into(),
        ),
        (
            root(RootOption::Host(vec!["/usr/../etc".into()])),
            "rootfs \"/usr/../etc\" contains \"..\"".into(),
        ),
        (
            in_root(bind(&volume, "data")),
            "mount \"data\" is not an absolute path".into(),
        ),
        (in_root(bind(&volume, "/")), "mount \"/\" is the root itself".into()),
        (
            in_root(bind(&volume, "/data/../x")),
            "mount \"/data/../x\" contains \"..\"".into(),
        ),
        (
            in_root(bind("volume", "/data")),
            "mount /data: source \"volume\" is not an absolute path".into(),
        ),
        (
            in_root(bind(host.path("none"), "/data")),
            format!("mount /data: source \"{top}/none\" cannot be used: {missing}"),
        ),
        (
            in_root(bind(&file, "/bin")),
            "mount /bin: a file cannot be put onto a directory".into(),
        ),
        (
            in_root(bind(&volume, "/bin/sh")),
            "mount /bin/sh: a directory cannot be put onto a file".into(),
        ),
        (
            in_root(bind(local("out"), "/data")),
            format!(
                "mount /data: source \"{top}/alloc/1/web/local/out\" leads out of the allocation's directory to \"/etc\""
            ),
        ),
        (
            in_root(bind(local("../../../../volume"), "/data")),
            format!(
                "mount /data: source \"{top}/alloc/1/web/local/../../../../volume\" leads out of the allocation's directory to \"{top}/volume\""
            ),
        ),
        (
            Box::new(|options| {
                options.root = RootOption::Minimal;
                options.devices = vec![device("/dev/none", "/dev/none")];
            }),
            format!("device \"/dev/none\" cannot be used: {missing}"),
        ),
        (
            Box::new(|options| {
                options.root = RootOption::Minimal;
                options.devices = vec![device("/usr", "/dev/usr")];
            }),
            "device \"/usr\" is not a device node".into(),
        ),
        (
            Box::new(|options| {
                options.root = RootOption::Minimal;
                options.devices = vec![device("/dev/zero", "/")];
            }),
            "device \"/\" is the root itself".into(),
        ),
        (
            Box::new(|options| {
                options.root = RootOption::Minimal;
                options.tmpfs = vec![tmpfs("/etc/passwd")];
            }),
            "mount /etc/passwd: a directory cannot be put onto a file".into(),
        ),
    ];
    for (change, message) in table {
        let error = host.resolve(|options| change(options)).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(!error.is_retryable(), "{error}");
    }
    let left = host.resolve_with(Stragglers::Leave, |options| {
        options.root = RootOption::Minimal;
        options.modes = private();
    });
    assert_eq!(
        left.unwrap_err().to_string(),
        "stragglers = \"leave\" is impossible in a pid namespace of the task's own: its processes end with it"
    );
    let shared = host.resolve_with(Stragglers::Leave, |options| options.root = RootOption::Minimal);
    assert!(shared.is_ok());
}

#[test]
fn a_link_in_the_place_of_the_tasks_own_folder_is_not_followed() {
    let host = host();
    let local = host.path("alloc/1/web/local");
    fs::remove_dir(&local).unwrap();
    symlink("/etc", &local).unwrap();
    let error = host.resolve(|options| options.root = RootOption::Minimal).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot show the task its own folder {}: it is not a directory",
            local.display()
        )
    );
    fs::remove_file(&local).unwrap();
    // By hand there is no agent that would have made it.
    let isolation = host.resolve(|options| options.root = RootOption::Minimal).unwrap();
    assert!(!targets(&isolation).contains(&"/local"));
}

#[test]
fn a_closed_root_is_refused_by_name() {
    let host = host();
    let closed = host.path("volume");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let answer = host.resolve(|options| options.root = RootOption::Layers(vec![closed.clone()]));
    // Root reads everything.
    if !nix::unistd::geteuid().is_root() {
        let message = format!("rootfs {closed:?} cannot be used: Permission denied (os error 13)");
        assert_eq!(answer.unwrap_err().to_string(), message);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn failures_of_the_moment_are_retryable_s2() {
    let busy = IsolationError::Device {
        path: "/dev/x".into(),
        fault: PathFault::Unusable(nix::errno::Errno::EBUSY.into()),
    };
    assert!(busy.is_retryable());
}

#[test]
fn the_view_of_a_plan_is_that_of_its_record() {
    let host = host();
    let runs_as = Credentials::numeric(1000, 1000, vec![1000]);
    let around = Surroundings {
        task_dir: &host.path("alloc/1/web"),
        alloc_dir: &host.path("alloc/1"),
        runs_as: &runs_as,
        stragglers: Stragglers::Kill,
    };
    let options = IsolationOptions {
        root: RootOption::Host(vec!["/bin".into(), "/etc".into(), "/usr".into()]),
        devices: vec![device("/dev/zero", "/dev/z")],
        tmpfs: vec![tmpfs("/cache")],
        entries: vec![bind(host.path("volume"), "/cache/volume")],
        ..IsolationOptions::default()
    };
    let resolved = resolve(options, &around).unwrap();
    let text = serde_json::to_string(&resolved.isolation).unwrap();
    let recorded: Isolation = serde_json::from_str(&text).unwrap();
    assert_eq!(View::of(&recorded), resolved.view);
}
