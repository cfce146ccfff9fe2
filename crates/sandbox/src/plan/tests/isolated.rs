//! Tasks in a tree of their own: paths are theirs, files the host's.

use std::os::unix::fs::symlink;

use holdfast_record::{CapabilitySets, Entry, MountFlags, Propagation, RootBase, Unveiled, What};

use super::*;
use crate::isolation::{IsolationMode, Modes, RootOption};

/// The agent's chroot, or an image; both with a few commands.
fn isolated() -> Host {
    let host = host();
    for dir in [
        "alloc/web/usr/bin",
        "alloc/alloc/logs",
        "rootfs/usr/bin",
        "rootfs/root",
        "volume",
    ] {
        host.dir(dir);
    }
    for tree in ["alloc/web", "rootfs"] {
        host.file(&format!("{tree}/usr/bin/tool"), "", 0o755);
        host.file(&format!("{tree}/usr/bin/closed"), "", 0o600);
        host.file(&format!("{tree}/usr/bin/sh"), "", 0o755);
        symlink("usr/bin", format!("{}/{tree}/bin", host.top)).unwrap();
        symlink("/usr/bin/tool", format!("{}/{tree}/usr/bin/alias", host.top)).unwrap();
    }
    host
}

impl Host {
    fn dir(&self, path: &str) {
        let mut dir = std::path::PathBuf::from(&self.top);
        for name in path.split('/') {
            dir.push(name);
            if fs::create_dir(&dir).is_ok() {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }

    fn file(&self, path: &str, content: &str, mode: u32) {
        let path = format!("{}/{path}", self.top);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(format!("{}/{path}", self.top))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    }

    fn exec(&self, command: &str) -> Result<TaskPlan, PlanError> {
        self.plan(|options| {
            options.isolation.root = RootOption::TaskDir;
            options.isolation.entries = vec![volume(self)];
            options.command = command.into();
        })
    }

    fn image(&self, change: impl FnOnce(&mut TaskOptions)) -> Result<TaskPlan, PlanError> {
        self.plan(|options| {
            options.isolation.root = RootOption::Layers(vec![format!("{}/rootfs", self.top).into()]);
            options.isolation.entries = vec![volume(self)];
            change(options);
        })
    }
}

fn volume(host: &Host) -> Entry {
    Entry {
        target: "/data".into(),
        what: What::Bind {
            source: format!("{}/volume", host.top).into(),
            flags: MountFlags::default(),
            propagation: Propagation::Private,
            optional: false,
        },
    }
}

#[test]
fn a_chroot_is_searched_in_the_order_of_exec() {
    let host = isolated();
    host.file("alloc/web/tool", "", 0o644);
    host.file("volume/app", "", 0o644);
    let command = |name: &str| {
        host.exec(name)
            .map(|plan| plan.command)
            .map_err(|error| error.to_string())
    };
    let top = &host.top;
    let table = [
        ("app", Ok("/local/app")),
        ("local/app", Ok("/local/app")),
        ("/local/app", Ok("/local/app")),
        ("tool", Ok("/tool")),
        ("/usr/bin/tool", Ok("/usr/bin/tool")),
        ("/bin/tool", Ok("/bin/tool")),
        ("alias", Ok("/usr/bin/alias")),
        ("closed", Ok("/usr/bin/closed")),
        ("../../../usr/bin/tool", Ok("/usr/bin/tool")),
        // A volume lies where the task sees it.
        ("/data/app", Ok("/data/app")),
        ("ghost", Err("file ghost not found under path".to_owned())),
        (
            "/no/ghost",
            Err(format!("file /no/ghost not found under path {top}/alloc/web")),
        ),
        // A directory is no command.
        (
            "usr/bin",
            Err(format!("file usr/bin not found under path {top}/alloc/web")),
        ),
    ];
    for (name, expected) in table {
        assert_eq!(command(name), expected.map(str::to_owned), "{name}");
    }
    // Made executable as the built-in does it, whatever was lacking.
    for path in [
        "alloc/web/local/app",
        "alloc/web/tool",
        "alloc/web/usr/bin/closed",
        "volume/app",
    ] {
        assert_eq!(host.mode(path), 0o755, "{path}");
    }
}

#[test]
fn a_chroot_starts_as_the_built_in_starts_it() {
    let host = isolated();
    let mut options = host.options();
    options.isolation.root = RootOption::TaskDir;
    options.isolation.account.user = Some("web".into());
    options.user = Some(String::new());
    let plan = TaskPlan::build(options, &host.resolver, &DeniedIds::default()).unwrap();
    assert_eq!((plan.work_dir.as_str(), plan.command.as_str()), ("/", "/local/app"));
    assert_eq!(plan.credentials.as_ref().unwrap().uid, 65534);
    let list = plan.environment.clone().into_list();
    // Its PATH is what the agent gave.
    let account = ["HOME=/srv/web", "LOGNAME=web"].map(str::to_owned);
    assert!(account.iter().all(|entry| list.contains(entry)), "{list:?}");
    assert!(!list.iter().any(|entry| entry.starts_with("PATH=")), "{list:?}");
    assert_eq!(
        plan.isolation.root.unwrap().base,
        RootBase::Directory(format!("{}/alloc/web", host.top).into())
    );
    // A user of the job's goes before the account's.
    let named = host.plan(|options| options.isolation.account.user = Some("ghost".into()));
    assert_eq!(named.unwrap().credentials.unwrap().name, "web");
}

#[test]
fn what_leads_out_of_a_root_is_missing_in_it() {
    let host = isolated();
    let top = &host.top;
    host.file("secret", "", 0o600);
    symlink(format!("{top}/secret"), format!("{top}/alloc/web/local/out")).unwrap();
    symlink(top, format!("{top}/alloc/web/local/dir")).unwrap();
    for command in ["out", "dir/secret"] {
        let error = host.exec(command).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("file {command} not found under path")),
            "{error}"
        );
        let error = host.image(|options| options.command = command.into()).unwrap_err();
        assert_eq!(error.to_string(), format!("binary {command:?} could not be found"));
    }
    let work_dir = |dir: &str| {
        let dir = Some(dir.to_owned());
        host.image(|options| options.work_dir = dir).unwrap_err().to_string()
    };
    let first = Path::new(top).components().nth(1).unwrap();
    let first = Path::new("/").join(first);
    // The temporary directory of the host is one of the task's own, too; it is another.
    let missing = work_dir("/local/dir/alloc");
    assert!(
        missing.starts_with("work_dir /local/dir/alloc: cannot look up "),
        "{missing}"
    );
    assert!(missing.contains(first.to_str().unwrap()), "{missing}");
    assert_eq!(host.mode("secret"), 0o600);
}

#[test]
fn an_image_is_searched_by_the_path_of_the_task() {
    let host = isolated();
    host.dir("volume/bin");
    host.file("volume/bin/tool", "", 0o755);
    let command = |name: &str, path: Option<&str>| {
        let plan = host.image(|options| {
            options.command = name.into();
            options.environment = path.map(|path| ("PATH", path)).into_iter().collect();
            options.denied_environment.clear();
        });
        plan.map(|plan| plan.command).map_err(|error| error.to_string())
    };
    let found = |path: &str| Ok(path.to_owned());
    assert_eq!(command("app", None), found("/local/app"));
    assert_eq!(command("local/app", None), found("/local/app"));
    assert_eq!(command("tool", None), found("/usr/bin/tool"));
    assert_eq!(command("alias", None), found("/usr/bin/alias"));
    assert_eq!(
        command("tool", Some("/none:relative:/data/bin:/bin")),
        found("/data/bin/tool")
    );
    assert_eq!(command("/bin/tool", Some("/data/bin")), found("/bin/tool"));
    assert_eq!(
        command("ghost", None),
        Err("binary \"ghost\" could not be found".into())
    );
    assert_eq!(command("data", None), Err("binary \"data\" could not be found".into()));
    assert_eq!(command("/data", None), Err("command /data is a directory".into()));
    // What tasks share is opened for none of them.
    let closed = "command /usr/bin/closed is not executable by uid 65534";
    assert_eq!(command("closed", None), Err(closed.into()));
    assert_eq!(host.mode("rootfs/usr/bin/closed"), 0o600);
    assert_eq!(host.mode("alloc/web/local/app"), 0o755);
}

#[test]
fn interpreters_are_those_of_the_tree() {
    let host = isolated();
    host.file("alloc/web/local/good", "#!/bin/sh\n", 0o755);
    host.file("alloc/web/local/relative", "#!../usr/bin/tool\n", 0o755);
    // It is there on the host, and not in the tree.
    let ghost = format!("{}/netns", host.top);
    host.file("alloc/web/local/ghost", &format!("#!{ghost}\n"), 0o755);
    host.file("rootfs/usr/bin/plain", "", 0o644);
    host.file("alloc/web/local/plain", "#!/usr/bin/plain\n", 0o755);
    let run = |command: &str| host.image(|options| options.command = command.into());
    assert!(run("good").is_ok() && run("relative").is_ok());
    assert_eq!(
        run("ghost").unwrap_err().to_string(),
        format!("command /local/ghost: its interpreter {ghost:?} could not be found")
    );
    assert_eq!(
        run("plain").unwrap_err().to_string(),
        "command /local/plain: its interpreter cannot be run: command /usr/bin/plain is not executable by uid 65534"
    );
}

/// What the host's programs need is in its view, by the links that the host has.
#[test]
fn the_hosts_programs_are_found_in_a_view_of_the_host() {
    let host = isolated();
    let paths = ["/bin", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr"];
    let plan = |command: &str, paths: &[&str]| {
        host.plan(|options| {
            options.isolation.root = RootOption::Host(paths.iter().map(std::path::PathBuf::from).collect());
            options.command = command.into();
        })
    };
    let found = plan("sh", &paths).unwrap();
    assert!(
        ["/bin/sh", "/usr/bin/sh"].contains(&found.command.as_str()),
        "{}",
        found.command
    );
    assert_eq!(plan("/bin/sh", &paths).unwrap().command, "/bin/sh");
    assert_eq!(plan("app", &paths).unwrap().command, "/local/app");
    // Without its loader it would not start, and without a shell no script.
    let error = plan("app", &["/etc"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "command /local/app: its interpreter \"/bin/sh\" could not be found"
    );
}

#[test]
fn an_image_gives_what_nobody_else_gave() {
    let host = isolated();
    let list = |change: &dyn Fn(&mut TaskOptions)| {
        let plan = host.image(|options| change(options)).unwrap();
        plan.environment.into_list()
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let secret = format!("PASSWORD={SECRET}");
    assert_eq!(
        list(&|_| ()),
        ["A=1", "HOME=/job", "LOGNAME=web", &secret, path, "USER=web"]
    );
    let bare = |change: &dyn Fn(&mut TaskOptions)| {
        list(&|options| {
            options.environment = Environment::default();
            change(options);
        })
    };
    let user = ["LOGNAME=web", path, "USER=web"];
    let home = |home: &str| {
        [&[home], &user[..]]
            .concat()
            .iter()
            .map(|entry| (*entry).to_owned())
            .collect::<Vec<_>>()
    };
    // The user's home is not in the tree.
    assert_eq!(bare(&|_| ()), home("HOME=/"));
    assert_eq!(
        bare(&|options| options.isolation.account.home = Some("/root".into())),
        home("HOME=/root")
    );
    host.dir("rootfs/srv/web");
    assert_eq!(
        bare(&|options| options.isolation.account.home = Some("/root".into())),
        home("HOME=/srv/web")
    );
    let brought = bare(&|options| {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        options.isolation.account.environment =
            vec![variable("AWS_X", "1"), variable("LANG", "C"), variable("A", "image")];
        options.isolation.account.path = Some("/usr/bin".into());
        options.environment = [("A", "job")].into_iter().collect();
    });
    assert_eq!(
        brought,
        [
            "A=job",
            "HOME=/srv/web",
            "LANG=C",
            "LOGNAME=web",
            "PATH=/usr/bin",
            "USER=web"
        ]
    );
}

#[test]
fn an_image_starts_in_its_own_directory() {
    let host = isolated();
    let work_dir = |change: &dyn Fn(&mut TaskOptions)| {
        let plan = host.image(|options| change(options));
        plan.map(|plan| plan.work_dir).map_err(|error| error.to_string())
    };
    assert_eq!(work_dir(&|_| ()), Ok("/".into()));
    assert_eq!(
        work_dir(&|options| options.isolation.account.work_dir = Some("/root".into())),
        Ok("/root".into())
    );
    assert_eq!(
        work_dir(&|options| options.work_dir = Some("/data".into())),
        Ok("/data".into())
    );
    let missing = "work_dir /nowhere/x: cannot look up /nowhere: No such file or directory (os error 2)";
    assert_eq!(
        work_dir(&|options| options.work_dir = Some("/nowhere/x".into())),
        Err(missing.into())
    );
    fs::remove_dir_all(format!("{}/alloc/web/local", host.top)).unwrap();
    let at_root = host.image(|options| options.command = "tool".into()).unwrap();
    assert_eq!(at_root.work_dir, "/");
}

#[test]
fn a_refusal_by_the_kernel_is_explained_as_the_task_sees_it() {
    let host = isolated();
    host.dir("rootfs/team");
    fs::set_permissions(format!("{}/rootfs/team", host.top), fs::Permissions::from_mode(0o750)).unwrap();
    let plan = host.image(|options| options.work_dir = Some("/team".into())).unwrap();
    assert_eq!(
        plan.explain_refusal().unwrap().to_string(),
        "work_dir /team: /team not searchable by uid 65534"
    );
    assert!(host.image(|_| ()).unwrap().explain_refusal().is_none());
}

#[test]
fn the_hosts_tree_with_something_over_it_is_searched_as_it_will_be() {
    let host = isolated();
    host.file("volume/mounted", "#!/bin/sh\n", 0o644);
    let top = &host.top;
    let over = |command: &str| {
        host.plan(|options| {
            options.isolation.modes.mount = IsolationMode::Private;
            options.isolation.entries = vec![Entry {
                target: format!("{top}/alloc/web/local").into(),
                ..volume(&host)
            }];
            options.command = command.into();
        })
    };
    let plan = over("mounted").unwrap();
    assert_eq!(plan.command, format!("{top}/alloc/web/local/mounted"));
    assert_eq!(plan.work_dir, format!("{top}/alloc/web"));
    assert_eq!(host.mode("volume/mounted"), 0o755);
    // It is covered.
    assert_eq!(
        over("app").unwrap_err().to_string(),
        "binary \"app\" could not be found"
    );
    assert_eq!(over("/bin/true").unwrap().command, "/bin/true");
}

#[test]
fn what_isolation_cannot_do_fails_the_plan() {
    let host = isolated();
    let error = host.plan(|options| options.alloc_dir = "alloc".into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "allocation directory \"alloc\" is not an absolute path"
    );
    assert!(!error.is_retryable());
    let error = host.image(|options| {
        options.isolation.modes = Modes {
            pid: IsolationMode::Private,
            ..Modes::default()
        };
        options.ending.stragglers = Stragglers::Leave;
    });
    let message =
        "stragglers = \"leave\" is impossible in a pid namespace of the task's own: its processes end with it";
    assert_eq!(error.unwrap_err().to_string(), message);
    let error = host.image(|options| options.command = "closed".into()).unwrap_err();
    assert!(matches!(error, PlanError::Command(_)) && !error.is_retryable());
}

#[test]
fn a_tree_of_the_tasks_own_is_shown_line_by_line() {
    let host = isolated();
    let top = &host.top;
    let mut plan = host
        .image(|options| {
            options.isolation.modes = Modes {
                pid: IsolationMode::Private,
                uts: IsolationMode::Private,
                ..Modes::default()
            };
            options.isolation.hostname = Some("web-1".into());
            options.isolation.read_only_root = Some(true);
            options.isolation.confinement.no_new_privileges = true;
            let content = SECRET.to_owned();
            options.isolation.entries.push(Entry {
                target: "/etc/hosts".into(),
                what: What::File { content },
            });
        })
        .unwrap();
    plan.isolation.confinement.capabilities = Some(CapabilitySets {
        bounding: 0x3,
        permitted: 0x1,
        ambient: true,
    });
    plan.isolation.confinement.unveil = Some(vec![Unveiled {
        path: "/data".into(),
        read: true,
        write: false,
        create: false,
        execute: true,
        optional: true,
    }]);
    let shown = plan.to_string();
    assert!(!shown.contains(SECRET));
    for line in [
        "its own           mounts, process ids, host name",
        "host name         web-1",
        &format!("root              layers {top}/rootfs, read-only"),
        "mount             /run: in memory of 67108864 bytes, 0755 65534:65534, nosuid, nodev",
        "mount             /dev: the usual devices",
        "mount             /dev/shm: in memory of 67108864 bytes, 1777 0:0, nosuid, nodev, noexec",
        &format!("mount             /local: {top}/alloc/web/local, nosuid, nodev"),
        &format!("mount             /data: {top}/volume"),
        "mount             /etc/hosts: file of 7 bytes",
        "capabilities      0x1 of 0x3, ambient",
        "privileges        no new ones",
        "files             rx:/data if there",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
    }
    for beginning in [
        "masked            /proc/kcore, /sys/firmware, ",
        "devices           c *:* m, b *:* m, c 1:3 rwm, ",
    ] {
        assert!(
            shown.lines().any(|shown| shown.starts_with(beginning)),
            "{beginning:?} is not in\n{shown}"
        );
    }
}
