//! What jobs and operators may say of isolation, per profile.

use holdfast_sandbox::capability::DEFAULTS;

use super::*;
use crate::options::message_pack::{block, blocks, list, text};
use crate::options::{TaskOptions, Value, Value::Bool, Value::Integer};

const NAMES: [PluginName; 4] = PluginName::ALL;

fn plugin(name: PluginName, options: &[(&str, Value)]) -> Result<PluginOptions, String> {
    PluginOptions::decode(&block(options), name).map_err(|e| e.to_string())
}

fn task(name: PluginName, operator: &[(&str, Value)], job: &[(&str, Value)]) -> Result<IsolationOptions, String> {
    let plugin = plugin(name, operator).unwrap();
    let blob = block(&[&[("command", text("c"))], job].concat());
    TaskOptions::decode(&blob, name, &plugin)
        .map(|options| options.isolation)
        .map_err(|e| e.to_string())
}

fn refused(name: PluginName, operator: &[(&str, Value)], job: &[(&str, Value)]) -> String {
    task(name, operator, job).unwrap_err()
}

const fn modes(mount: bool, pid: bool, uts: bool) -> Modes {
    const fn mode(is_private: bool) -> IsolationMode {
        if is_private {
            IsolationMode::Private
        } else {
            IsolationMode::Host
        }
    }
    Modes {
        mount: mode(mount),
        pid: mode(pid),
        ipc: mode(pid),
        uts: mode(uts),
        cgroup: mode(uts),
    }
}

#[test]
fn a_task_that_says_nothing_gets_what_its_profile_has() {
    let of = |name| task(name, &[], &[]).unwrap();
    for name in [PluginName::RawExec, PluginName::HoldfastRaw] {
        assert_eq!(of(name), IsolationOptions::default(), "{name} shares everything");
    }
    let capabilities = capability::calculate(&DEFAULTS, &[""; 0], &[""; 0]).unwrap();
    let exec = IsolationOptions {
        modes: modes(true, true, false),
        capabilities: Some(TaskCapabilities {
            calculated: capabilities,
            added: Set::EMPTY,
        }),
        private_keyring: true,
        ..IsolationOptions::default()
    };
    assert_eq!(of(PluginName::Exec), exec, "as the built-in");
    let holdfast = IsolationOptions {
        modes: modes(true, true, true),
        no_new_privileges: true,
        seccomp: Some(SeccompProfile::V1),
        ..exec
    };
    assert_eq!(of(PluginName::Holdfast), holdfast);
}

#[test]
fn the_task_goes_over_the_plugin_block_and_that_over_the_profile() {
    let operator = [
        ("default_pid_mode", text("host")),
        ("default_uts_mode", text("host")),
        ("default_cgroupns", text("host")),
        ("no_pivot_root", Bool(true)),
    ];
    let said = task(
        PluginName::Holdfast,
        &operator,
        &[("cgroupns", text("private")), ("ipc_mode", text("host"))],
    );
    let Modes {
        mount,
        pid,
        ipc,
        uts,
        cgroup,
    } = said.unwrap().modes;
    let (private, host) = (IsolationMode::Private, IsolationMode::Host);
    assert_eq!((mount, pid, ipc, uts, cgroup), (private, host, host, host, private));
    assert!(plugin(PluginName::Exec, &operator).unwrap().isolation.no_pivot_root);
    let empty = [("default_pid_mode", text("")), ("default_ipc_mode", text(""))];
    let said = task(PluginName::Exec, &empty, &[]).unwrap().modes;
    assert_eq!(
        (said.pid, said.ipc),
        (private, private),
        "nobody shares by an empty text"
    );
    let named = task(PluginName::Exec, &operator, &[("hostname", text("web"))]).unwrap();
    assert_eq!((named.modes.uts, named.hostname.as_deref()), (private, Some("web")));
}

#[test]
fn every_option_of_a_view_arrives() {
    let mounts = Value::List(
        [
            blocks(&[
                ("type", text("bind")),
                ("source", text("/srv/a")),
                ("target", text("/a")),
                ("readonly", Bool(true)),
                ("propagation", text("host-to-task")),
                ("size", Value::Null),
            ]),
            blocks(&[("type", text("tmpfs")), ("target", text("/b")), ("size", text("1m"))]),
        ]
        .into_iter()
        .flat_map(|list| match list {
            Value::List(items) => items,
            _ => Vec::new(),
        })
        .collect(),
    );
    let job = [
        ("rootfs", text("minimal")),
        ("readonly_rootfs", Bool(false)),
        ("mount", mounts),
        ("tmpfs", list(&["/run:size=4096,mode=755,rw", "/cache"])),
        ("shm_size", Integer(1 << 20)),
        ("extra_hosts", list(&["db:10.0.0.7", "six:[::1]"])),
        ("dns_servers", list(&["10.0.0.1"])),
        ("dns_search_domains", list(&["example.org"])),
        ("dns_options", list(&["ndots:2"])),
        ("userns_mode", text("keep-id")),
        ("keyring", text("host")),
        ("unveil", list(&["rx:/opt"])),
        (
            "devices",
            blocks(&[("host_path", text("/dev/fuse")), ("cgroup_permissions", text("rw"))]),
        ),
    ];
    let said = task(PluginName::Holdfast, &[], &job).unwrap();
    let flags = |read_only| MountFlags {
        read_only,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    let expected = [
        Entry {
            target: "/a".into(),
            what: What::Bind {
                source: "/srv/a".into(),
                flags: flags(true),
                propagation: Propagation::Slave,
                optional: false,
            },
        },
        Entry {
            target: "/b".into(),
            what: What::Tmpfs {
                bytes: Some(1 << 20),
                mode: 0o1777,
                uid: 0,
                gid: 0,
                flags: flags(false),
            },
        },
    ];
    assert_eq!(said.mounts, expected, "they stay apart and in order");
    let tmpfs = |target: &str, bytes, mode| TmpfsOption {
        target: target.into(),
        bytes,
        mode,
    };
    assert_eq!(
        said.tmpfs,
        [tmpfs("/run", Some(4096), 0o755), tmpfs("/cache", None, 0o1777)]
    );
    let device = DeviceOption {
        host: "/dev/fuse".into(),
        target: "/dev/fuse".into(),
        read: true,
        write: true,
        mknod: false,
    };
    assert_eq!(said.devices, [device]);
    assert_eq!((said.rootfs, said.readonly_rootfs), (Rootfs::Minimal, Some(false)));
    assert_eq!((said.shm_bytes, said.extra_hosts.len()), (Some(1 << 20), 2));
    assert_eq!(
        (said.dns.servers.len(), said.dns.searches.len(), said.dns.options.len()),
        (1, 1, 1)
    );
    assert_eq!(
        (said.user_namespace, said.private_keyring),
        (Some(UserNamespace::KeepId), false)
    );
    assert_eq!(said.unveil.len(), 1);
    let of = |rootfs| {
        task(PluginName::Holdfast, &[], &[("rootfs", text(rootfs))])
            .unwrap()
            .rootfs
    };
    assert_eq!(of("host"), Rootfs::OfProfile);
    assert_eq!(of("/srv/root"), Rootfs::Directory("/srv/root".into()));
    assert_eq!(
        of("oci:/srv/image:1"),
        Rootfs::Image(Reference::parse("oci:/srv/image:1").unwrap())
    );
}

#[test]
fn what_jobs_get_wrong_is_named_with_its_value_in_the_built_ins_words() {
    let mount = |parts: &[(&str, Value)]| ("mount", blocks(parts));
    let cases: &[(&str, (&str, Value))] = &[
        (
            "pid_mode must be \"private\" or \"host\", got \"alone\"",
            ("pid_mode", text("alone")),
        ),
        (
            "ipc_mode must be \"private\" or \"host\", got \"none\"",
            ("ipc_mode", text("none")),
        ),
        (
            "uts_mode must be \"private\" or \"host\", got \"x\"",
            ("uts_mode", text("x")),
        ),
        (
            "cgroupns must be \"private\" or \"host\", got \"x\"",
            ("cgroupns", text("x")),
        ),
        (
            "userns_mode \"private\" is none of host and keep-id",
            ("userns_mode", text("private")),
        ),
        (
            "seccomp \"on\" is none of default and unconfined",
            ("seccomp", text("on")),
        ),
        ("keyring \"x\" is none of private and host", ("keyring", text("x"))),
        (
            "cap_add configured with capabilities not supported by system: dig, fly",
            ("cap_add", list(&["CAP_FLY", "dig", "chown"])),
        ),
        (
            "cap_drop configured with capabilities not supported by system: fly",
            ("cap_drop", list(&["fly"])),
        ),
        (
            "hostname \"a_b\" is not a name of letters, digits, hyphens and dots of at most 64 characters",
            ("hostname", text("a_b")),
        ),
        (
            "extra host \"db\" is not of the form \"name:address\"",
            ("extra_hosts", list(&["db"])),
        ),
        (
            "dns server \"one\" is not an IP address",
            ("dns_servers", list(&["one"])),
        ),
        ("shm_size -1 is negative", ("shm_size", Integer(-1))),
        (
            "work_dir must be absolute but got relative path \"a/b\"",
            ("work_dir", text("a/b")),
        ),
        (
            "tmpfs \"run\" is not an absolute path below \"/\" without \"..\"",
            ("tmpfs", list(&["run"])),
        ),
        (
            "tmpfs \"/\" is not an absolute path below \"/\" without \"..\"",
            ("tmpfs", list(&["/:size=1m"])),
        ),
        (
            "tmpfs \"/run:size=0\": size \"0\" is not a size such as \"64m\" or \"1g\", or bytes, above zero",
            ("tmpfs", list(&["/run:size=0"])),
        ),
        (
            "tmpfs \"/run:mode=9\": mode \"9\" is not an octal number up to 7777",
            ("tmpfs", list(&["/run:mode=9"])),
        ),
        (
            "tmpfs \"/run:noexec\": \"noexec\" is none of size=SIZE, mode=OCTAL, rw, nosuid and nodev",
            ("tmpfs", list(&["/run:noexec"])),
        ),
        (
            "mount target \"\" is not an absolute path below \"/\" without \"..\"",
            mount(&[("source", text("/srv"))]),
        ),
        (
            "mount target \"/a/../b\" is not an absolute path below \"/\" without \"..\"",
            mount(&[("source", text("/srv")), ("target", text("/a/../b"))]),
        ),
        (
            "mount at \"/a\": a bind needs a source",
            mount(&[("target", text("/a"))]),
        ),
        (
            "mount at \"/a\": source \"srv\" is not an absolute path without \"..\"",
            mount(&[("target", text("/a")), ("source", text("srv"))]),
        ),
        (
            "mount at \"/a\": type \"volume\" is none of bind and tmpfs",
            mount(&[("target", text("/a")), ("type", text("volume"))]),
        ),
        (
            "mount at \"/a\": size is for the type tmpfs",
            mount(&[("target", text("/a")), ("source", text("/s")), ("size", text("1m"))]),
        ),
        (
            "mount at \"/a\": source and propagation are for the type bind",
            mount(&[("target", text("/a")), ("type", text("tmpfs")), ("source", text("/s"))]),
        ),
        (
            "mount at \"/a\": propagation \"rshared\" is none of private, host-to-task and bidirectional",
            mount(&[
                ("target", text("/a")),
                ("source", text("/s")),
                ("propagation", text("rshared")),
            ]),
        ),
        (
            "devices host_path \"fuse\" is not an absolute path below \"/\" without \"..\"",
            ("devices", blocks(&[("host_path", text("fuse"))])),
        ),
        (
            "device /dev/fuse: permissions \"rx\" are not of the letters r, w and m",
            (
                "devices",
                blocks(&[("host_path", text("/dev/fuse")), ("cgroup_permissions", text("rx"))]),
            ),
        ),
        (
            "unveil: 'q' in \"q:/etc\" is no mode, which are r, w, x and c",
            ("unveil", list(&["q:/etc"])),
        ),
    ];
    for (expected, option) in cases {
        for name in [PluginName::Exec, PluginName::Holdfast] {
            let message = refused(name, &[], std::slice::from_ref(option));
            assert_eq!(
                message,
                format!("failed driver config validation: {expected}"),
                "{name}"
            );
        }
    }
    assert_eq!(
        refused(PluginName::Holdfast, &[], &[("rootfs", text("alpine"))]),
        "failed driver config validation: rootfs \"alpine\" is none of \"host\", \"minimal\", an absolute path and \
         \"oci:/path[:tag]\""
    );
    assert_eq!(
        refused(PluginName::Holdfast, &[], &[("rootfs", text("oci:image"))]),
        "failed driver config validation: rootfs: image \"oci:image\" names no absolute path of an image layout"
    );
    let both = [("hostname", text("web")), ("uts_mode", text("host"))];
    assert_eq!(
        refused(PluginName::Exec, &[], &both),
        "failed driver config validation: hostname needs uts_mode to be \"private\", not \"host\""
    );
    let unknown = ("mount", blocks(&[("volume_options", text("x"))]));
    assert_eq!(
        refused(PluginName::Exec, &[], &[unknown]),
        "failed to decode driver config: option \"mount\" is a block with an unknown \"volume_options\", expected a list of blocks"
    );
}

#[test]
fn capabilities_are_refused_as_by_the_built_in() {
    assert_eq!(
        refused(
            PluginName::Exec,
            &[],
            &[("cap_add", list(&["SYS_TIME", "net_raw", "chown"]))]
        ),
        "driver does not allow the following capabilities: net_raw, sys_time"
    );
    let allowed = [("allow_caps", list(&["chown", "net_raw"]))];
    let job = [("cap_add", list(&["net_raw"])), ("cap_drop", list(&["chown"]))];
    let TaskCapabilities { calculated, added } = task(PluginName::Exec, &allowed, &job).unwrap().capabilities.unwrap();
    assert_eq!((calculated, added), (Set::NET_RAW, Set::NET_RAW));
    let none = [("allow_caps", list(&[]))];
    let nothing = task(PluginName::Exec, &none, &[]).unwrap().capabilities.unwrap();
    assert!(nothing.calculated.is_empty());
    assert_eq!(
        plugin(PluginName::Exec, &[("allow_caps", list(&["fly"]))]).unwrap_err(),
        "allow_caps configured with capabilities not supported by system: fly"
    );
}

#[test]
fn what_weakens_a_task_of_holdfast_needs_the_operators_word() {
    let cases = [
        (
            ("no_new_privileges", Bool(false)),
            "allow_root",
            "no_new_privileges = false needs allow_root = true in the plugin block",
        ),
        (
            ("seccomp", text("unconfined")),
            "allow_seccomp_unconfined",
            "seccomp = \"unconfined\" needs allow_seccomp_unconfined = true in the plugin block",
        ),
    ];
    for (option, word, expected) in cases {
        let job = [option];
        assert_eq!(
            refused(PluginName::Holdfast, &[], &job),
            format!("failed driver config validation: {expected}")
        );
        let allowed = task(PluginName::Holdfast, &[(word, Bool(true))], &job).unwrap();
        assert!(!allowed.no_new_privileges || allowed.seccomp.is_none());
        for name in [PluginName::RawExec, PluginName::Exec] {
            assert!(task(name, &[], &job).is_ok(), "{name} has neither anyway");
        }
    }
    let stricter = [("no_new_privileges", Bool(true)), ("seccomp", text("default"))];
    for name in NAMES {
        let said = task(name, &[], &stricter).unwrap();
        assert!(said.no_new_privileges && said.seccomp.is_some(), "{name}");
    }
}

#[test]
fn a_job_may_restrict_itself_and_widens_the_operators_paths_only_with_his_word() {
    let job = [("unveil", list(&["r:/srv"]))];
    let operator = ("unveil_paths", list(&["rx:/opt"]));
    assert_eq!(task(PluginName::RawExec, &[], &job).unwrap().unveil.len(), 1);
    assert_eq!(
        refused(PluginName::RawExec, std::slice::from_ref(&operator), &job),
        "failed driver config validation: unveil beside the operator's unveil_paths needs unveil_by_task = true in the plugin block"
    );
    let both = [operator.clone(), ("unveil_by_task", Bool(true))];
    assert!(task(PluginName::RawExec, &both, &job).is_ok());
    let policy = plugin(PluginName::RawExec, &[operator]).unwrap().isolation.unveil;
    assert!(policy.paths.len() == 1 && policy.defaults && !policy.by_task);
}

#[test]
fn the_hosts_tree_is_changed_only_in_a_mount_namespace_of_the_tasks_own() {
    let options = [
        ("mount", blocks(&[("target", text("/a")), ("source", text("/s"))])),
        ("tmpfs", list(&["/x"])),
        ("devices", blocks(&[("host_path", text("/dev/fuse"))])),
        ("extra_hosts", list(&["a:1.2.3.4"])),
        ("dns_servers", list(&["1.2.3.4"])),
        ("dns_search_domains", list(&["a"])),
        ("dns_options", list(&["b"])),
    ];
    let private = [("private_mounts", Bool(true))];
    for option in options {
        let job = [option];
        for name in [PluginName::RawExec, PluginName::HoldfastRaw] {
            assert_eq!(
                refused(name, &[], &job),
                format!(
                    "failed driver config validation: {} needs private_mounts = true in the plugin block",
                    job[0].0
                )
            );
            let said = task(name, &private, &job).unwrap();
            assert_eq!(said.modes, modes(true, false, false), "{name}");
        }
        assert!(task(PluginName::Exec, &[], &job).is_ok());
    }
    // What the agent's encoding writes for options that are not written.
    let empty = [("mount", list(&[])), ("tmpfs", Value::Null), ("devices", Value::Null)];
    assert!(task(PluginName::RawExec, &[], &empty).is_ok());
}

#[test]
fn what_operators_get_wrong_is_named_with_its_value() {
    let cases: &[(&str, (&str, Value))] = &[
        (
            "default_pid_mode must be \"private\" or \"host\", got \"x\"",
            ("default_pid_mode", text("x")),
        ),
        (
            "default_ipc_mode must be \"private\" or \"host\", got \"y\"",
            ("default_ipc_mode", text("y")),
        ),
        (
            "default_uts_mode must be \"private\" or \"host\", got \"z\"",
            ("default_uts_mode", text("z")),
        ),
        (
            "option host_paths: \"usr\" is not an absolute path without \"..\"",
            ("host_paths", list(&["/bin", "usr"])),
        ),
        (
            "option allowed_host_paths: \"/a/../b\" is not an absolute path without \"..\"",
            ("allowed_host_paths", list(&["/a/../b"])),
        ),
        (
            "option unveil_paths: \"/etc\" has no modes before its path, as \"r:/etc/hosts\" has",
            ("unveil_paths", list(&["/etc"])),
        ),
    ];
    for (expected, option) in cases {
        let message = plugin(PluginName::Holdfast, std::slice::from_ref(option)).unwrap_err();
        assert_eq!(&message, expected);
    }
}

#[test]
fn an_option_of_another_profile_is_unknown() {
    for (name, option) in [
        (PluginName::RawExec, ("rootfs", text("minimal"))),
        (PluginName::Exec, ("rootfs", text("minimal"))),
        (PluginName::RawExec, ("pid_mode", text("private"))),
        (PluginName::Exec, ("cgroup_v2_override", text("x"))),
    ] {
        let expected = format!("failed to decode driver config: unknown option {:?}", option.0);
        assert_eq!(refused(name, &[], &[option]), expected);
    }
    for (name, option) in [
        (PluginName::Exec, "enabled"),
        (PluginName::Exec, "allow_root"),
        (PluginName::Holdfast, "private_mounts"),
    ] {
        let message = plugin(name, &[(option, Bool(true))]).unwrap_err();
        assert_eq!(message, format!("unknown option {option:?}"), "{name}");
    }
    for name in NAMES {
        let options = plugin(name, &[]).unwrap();
        assert_eq!(options.enabled, name != PluginName::RawExec, "{name}");
        assert_eq!(options.isolation.allow_root, name != PluginName::Holdfast, "{name}");
    }
}
