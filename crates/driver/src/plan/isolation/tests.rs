//! From a task and its blocks of options to what an executor is sent. Nothing is mounted here.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use holdfast_record::{DeviceRule, Isolation, Propagation, RootBase, SeccompProfile};
use holdfast_wire::executor_v1::TaskSpec;
use holdfast_wire::nomad_base::SetConfigRequest;
use holdfast_wire::nomad_driver::network_isolation_spec::NetworkIsolationMode;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::options::message_pack::{block, blocks, list, text};
use crate::options::{TaskOptions, Value};
use crate::plan::{self, Planned};
use crate::plugin_name::PluginName;

/// A folder as the agent prepares it; for `exec` with a program.
fn task() -> (TempDir, TaskConfig) {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["alloc/logs", "task/local", "task/secrets", "task/tmp", "task/bin"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let program = dir.path().join("task/bin/true");
    fs::write(&program, static_program()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let task = TaskConfig {
        id: "alloc/task/12345678".to_owned(),
        alloc_id: "alloc".to_owned(),
        name: "task".to_owned(),
        alloc_dir: dir.path().to_str().unwrap().to_owned(),
        ..TaskConfig::default()
    };
    (dir, task)
}

/// The header of a program that needs no interpreter (elf(5)); it is never run.
fn static_program() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    // An executable for x86-64.
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    header.resize(64, 0);
    header
}

async fn planned(
    name: PluginName,
    task: &TaskConfig,
    operator: &[(&str, Value)],
    job: &[(&str, Value)],
) -> Result<Planned, String> {
    let request = SetConfigRequest {
        msgpack_config: block(operator),
        ..SetConfigRequest::default()
    };
    let settings = Arc::new(Settings::of(request, name).unwrap());
    let blob = block(&[&[("command", text("true"))], job].concat());
    let options = TaskOptions::decode(&blob, name, &settings.options).unwrap();
    plan::plan(task, plan::Place::of(task).unwrap(), options, settings, name)
        .await
        .map_err(|e| e.to_string())
}

async fn isolation(
    name: PluginName,
    task: &TaskConfig,
    operator: &[(&str, Value)],
    job: &[(&str, Value)],
) -> Isolation {
    let spec = planned(name, task, operator, job).await.unwrap().spec;
    of(&spec)
}

fn of(spec: &TaskSpec) -> Isolation {
    match spec.isolation.as_slice() {
        [] => Isolation::default(),
        bytes => serde_json::from_slice(bytes).unwrap(),
    }
}

/// Nobody but root can become somebody else.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn what<'a>(isolation: &'a Isolation, target: &str) -> &'a What {
    let found = isolation
        .entries
        .iter()
        .rfind(|entry| entry.target == Path::new(target));
    &found
        .unwrap_or_else(|| panic!("nothing at {target}: {isolation:#?}"))
        .what
}

#[tokio::test]
async fn exec_has_the_agents_root_the_built_ins_namespaces_and_nobody_as_its_user() {
    if !is_root() {
        return;
    }
    let (dir, task) = task();
    let planned = planned(PluginName::Exec, &task, &[], &[]).await.unwrap();
    let found = of(&planned.spec);
    let root = found.root.unwrap();
    assert_eq!(root.base, RootBase::Directory(dir.path().join("task")));
    assert!(!root.read_only && !root.no_pivot);
    let namespaces = found.namespaces;
    assert!(namespaces.mount && namespaces.pid && namespaces.ipc);
    assert!(!namespaces.uts && !namespaces.cgroup && namespaces.user.is_none());
    let Confinement {
        capabilities,
        no_new_privileges,
        seccomp,
        unveil,
        private_keyring,
    } = found.confinement;
    assert!(!no_new_privileges && seccomp.is_none() && unveil.is_none() && private_keyring);
    let sets = capabilities.unwrap();
    assert!(sets.ambient && sets.permitted == sets.bounding && sets.permitted != 0);
    assert_eq!(planned.spec.command, "/bin/true");
    assert!(
        planned.spec.env.contains(&"USER=nobody".to_owned()),
        "{:?}",
        planned.spec.env
    );
    assert_eq!(
        planned.spec.env,
        plan::environment(&task, &[], &planned.additions),
        "after an adoption"
    );
}

#[tokio::test]
async fn holdfast_shows_the_host_without_copying_and_confines_what_runs_in_it() {
    if !is_root() {
        return;
    }
    let (_dir, mut task) = task();
    let planned = planned(PluginName::Holdfast, &task, &[], &[]).await.unwrap();
    let found = of(&planned.spec);
    let root = found.root.as_ref().unwrap();
    assert_eq!((&root.base, root.read_only), (&RootBase::Empty, true));
    assert!(matches!(what(&found, "/usr"), What::Bind { flags, .. } if flags.read_only));
    assert!(found.namespaces.uts && found.namespaces.cgroup);
    assert!(found.devices.is_some());
    let confinement = &found.confinement;
    assert!(confinement.no_new_privileges && confinement.private_keyring);
    assert_eq!(confinement.seccomp, Some(SeccompProfile::V1));
    let sets = confinement.capabilities.unwrap();
    assert_eq!(
        (sets.permitted, sets.ambient),
        (0, false),
        "nobody has none unless the job adds one"
    );
    for variable in ["PATH=", "HOME=", "USER=nobody"] {
        assert!(
            planned.spec.env.iter().any(|of_task| of_task.starts_with(variable)),
            "{variable} in {:?}",
            planned.spec.env
        );
    }
    assert_eq!(
        planned.spec.env,
        plan::environment(&task, &[], &planned.additions),
        "after an adoption"
    );

    let added = [("cap_add", list(&["net_bind_service"]))];
    let added = isolation(PluginName::Holdfast, &task, &[], &added).await;
    let sets = added.confinement.capabilities.unwrap();
    assert_eq!((sets.permitted, sets.ambient), (1 << 10, true));
    task.user = "nomad-70001".to_owned();
    let dynamic = planned_user(&task).await;
    assert_eq!((dynamic.uid, dynamic.gid), (70_001, 70_001), "U-2");
}

async fn planned_user(task: &TaskConfig) -> holdfast_wire::executor_v1::Credentials {
    let planned = planned(PluginName::Holdfast, task, &[], &[]).await.unwrap();
    planned.spec.credentials.unwrap()
}

#[tokio::test]
async fn a_raw_task_without_the_user_that_the_agent_should_have_made_up_is_not_root_u3() {
    if !is_root() {
        return;
    }
    let (dir, task) = task();
    // Everybody may pass, as below the agent's own folder.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dynamic = [("dynamic_users", Value::Bool(true))];
    let uid = async |operator: &[(&str, Value)]| {
        let planned = planned(PluginName::RawExec, &task, operator, &[]).await.unwrap();
        planned.spec.credentials.map(|credentials| credentials.uid)
    };
    assert_eq!(uid(&dynamic).await, Some(65_534));
    assert_eq!(uid(&[]).await, None, "whoever the executor is");
}

#[tokio::test]
async fn what_contradicts_a_private_namespace_is_refused_as_a_wrong_option() {
    if !is_root() {
        return;
    }
    let (_dir, task) = task();
    let leave = [("stragglers", text("leave"))];
    let refused = planned(PluginName::Exec, &task, &[], &leave).await.unwrap_err();
    assert!(
        refused.starts_with("failed driver config validation: stragglers = \"leave\""),
        "{refused}"
    );
    let with_host = [("stragglers", text("leave")), ("pid_mode", text("host"))];
    assert!(planned(PluginName::Exec, &task, &[], &with_host).await.is_ok());
}

#[tokio::test]
async fn root_needs_the_operators_word_in_holdfast_under_any_name() {
    if !is_root() {
        return;
    }
    let (_dir, task) = task();
    for user in ["root", "0", "root:nogroup", "0:7"] {
        let task = TaskConfig {
            user: user.to_owned(),
            ..task.clone()
        };
        assert_eq!(
            planned(PluginName::Holdfast, &task, &[], &[]).await.unwrap_err(),
            "failed driver config validation: running as root needs allow_root = true in the plugin block",
            "{user}"
        );
        let allowed = [("allow_root", Value::Bool(true))];
        assert!(
            planned(PluginName::Holdfast, &task, &allowed, &[]).await.is_ok(),
            "{user}"
        );
        assert!(planned(PluginName::Exec, &task, &[], &[]).await.is_ok(), "{user}");
    }
}

#[tokio::test]
async fn volumes_and_devices_of_the_agent_arrive_with_propagation_and_permissions() {
    if !is_root() {
        return;
    }
    let (dir, mut task) = task();
    let volume = |task_path: &str, readonly, propagation_mode: &str| Mount {
        task_path: task_path.to_owned(),
        host_path: dir.path().join("alloc").to_str().unwrap().to_owned(),
        readonly,
        propagation_mode: propagation_mode.to_owned(),
        selinux_label: String::new(),
    };
    task.mounts = vec![
        volume("/a", true, "private"),
        volume("/b", false, "host-to-task"),
        volume("c", false, "bidirectional"),
        volume("/d", false, ""),
    ];
    task.devices = vec![Device {
        task_path: "/dev/zero2".to_owned(),
        host_path: "/dev/zero".to_owned(),
        cgroup_permissions: "rw".to_owned(),
    }];
    for name in [PluginName::Exec, PluginName::Holdfast] {
        let found = isolation(name, &task, &[], &[]).await;
        let expected = [
            ("/a", true, Propagation::Private),
            ("/b", false, Propagation::Slave),
            ("/c", false, Propagation::Shared),
            ("/d", false, Propagation::Private),
        ];
        for (target, is_read_only, expected) in expected {
            match what(&found, target) {
                What::Bind {
                    source,
                    flags,
                    propagation,
                    optional,
                } => {
                    assert_eq!(source, &dir.path().join("alloc"), "{name}");
                    assert_eq!(
                        (flags.read_only, *propagation, *optional),
                        (is_read_only, expected, false)
                    );
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let zero = |rule: &DeviceRule| (rule.major, rule.minor) == (Some(1), Some(5)) && rule.read && rule.write;
        assert!(found.devices.unwrap().iter().any(zero), "{name}");
    }
    let without = isolation(PluginName::RawExec, &task, &[], &[]).await;
    assert_eq!(
        without,
        Isolation::default(),
        "a raw task sees the host, devices and all"
    );
    // Nothing is made in the host's own tree.
    let local = dir.path().join("task/local").canonicalize().unwrap();
    let raw = TaskConfig {
        mounts: vec![volume(local.to_str().unwrap(), true, "")],
        devices: Vec::new(),
        ..task.clone()
    };
    let private = [("private_mounts", Value::Bool(true))];
    let found = isolation(PluginName::RawExec, &raw, &private, &[]).await;
    assert!(found.namespaces.mount && found.root.is_none());
    assert!(matches!(what(&found, local.to_str().unwrap()), What::Bind { flags, .. } if flags.read_only));
    for (path, expected) in [
        (
            "../x",
            "failed driver config validation: volume at \"../x\" is not below the task's root",
        ),
        (
            "/",
            "failed driver config validation: volume at \"/\" is not below the task's root",
        ),
    ] {
        task.mounts = vec![volume(path, false, "")];
        assert_eq!(planned(PluginName::Exec, &task, &[], &[]).await.unwrap_err(), expected);
    }
    task.mounts = vec![volume("/a", false, "rshared")];
    assert_eq!(
        planned(PluginName::Exec, &task, &[], &[]).await.unwrap_err(),
        "failed driver config validation: volume at \"/a\": propagation \"rshared\" is none of private, host-to-task and bidirectional"
    );
}

#[tokio::test]
async fn a_job_binds_what_the_operator_allows_and_no_link_leads_elsewhere() {
    if !is_root() {
        return;
    }
    let (_dir, task) = task();
    let host = tempfile::tempdir().unwrap();
    // Where temporary folders lie may be behind a link.
    let base = host.path().canonicalize().unwrap();
    fs::create_dir_all(base.join("open/data")).unwrap();
    fs::create_dir_all(base.join("closed")).unwrap();
    symlink(base.join("closed"), base.join("open/way-out")).unwrap();
    symlink(base.join("open/data"), base.join("open/way-in")).unwrap();
    let path = |name: &str| base.join(name).to_str().unwrap().to_owned();
    let allowed = [("allowed_host_paths", list(&[&path("open"), "/dev/z*"]))];
    let bind = |source: &str| [("mount", blocks(&[("source", text(source)), ("target", text("/srv"))]))];

    for source in ["open/data", "open/way-in"] {
        let found = isolation(PluginName::Exec, &task, &allowed, &bind(&path(source))).await;
        match what(&found, "/srv") {
            What::Bind { source, flags, .. } => {
                assert_eq!(source, &base.join("open/data"), "no link is left in it");
                assert!(flags.no_suid && flags.no_dev);
            }
            other => panic!("{other:?}"),
        }
    }
    let refused = async |source: &str| {
        planned(PluginName::Exec, &task, &allowed, &bind(source))
            .await
            .unwrap_err()
    };
    assert_eq!(
        refused(&path("closed")).await,
        format!(
            "failed driver config validation: mount source {:?} is not in allowed_host_paths of the plugin block",
            path("closed")
        )
    );
    assert_eq!(
        refused(&path("open/way-out")).await,
        format!(
            "failed driver config validation: mount source {:?}, which is {:?}, is not in allowed_host_paths of the plugin block",
            path("open/way-out"),
            path("closed")
        )
    );
    let missing = refused(&path("open/missing")).await;
    assert!(
        missing.starts_with("failed to launch command with executor: cannot use mount source")
            && missing.contains("missing"),
        "{missing}"
    );
    assert!(
        refused("/etc/no-such-file").await.contains("allowed_host_paths"),
        "what there is on the host is not told"
    );
    let device = |path: &str| [("devices", blocks(&[("host_path", text(path))]))];
    assert!(
        planned(PluginName::Exec, &task, &allowed, &device("/dev/zero"))
            .await
            .is_ok()
    );
    assert_eq!(
        planned(PluginName::Exec, &task, &allowed, &device("/dev/full"))
            .await
            .unwrap_err(),
        "failed driver config validation: device \"/dev/full\" is not in allowed_host_paths of the plugin block"
    );
    let rootfs = |path: &str| [("rootfs", text(path))];
    let closed = planned(PluginName::Holdfast, &task, &allowed, &rootfs(&path("closed")))
        .await
        .unwrap_err();
    assert!(
        closed.contains("rootfs") && closed.contains("allowed_host_paths"),
        "{closed}"
    );
}

#[tokio::test]
async fn names_of_the_agent_and_the_job_are_in_the_tasks_own_files() {
    if !is_root() {
        return;
    }
    let (_dir, mut task) = task();
    let file = |found: &Isolation, target: &str| match what(found, target) {
        What::File { content } => content.clone(),
        other => panic!("{other:?}"),
    };
    task.dns = Some(DnsConfig {
        servers: vec!["10.1.1.1".to_owned()],
        searches: vec!["of.agent".to_owned()],
        options: Vec::new(),
    });
    for name in [PluginName::Exec, PluginName::Holdfast] {
        let found = isolation(name, &task, &[], &[]).await;
        let resolv_conf = file(&found, "/etc/resolv.conf");
        assert!(
            resolv_conf.contains("nameserver 10.1.1.1") && resolv_conf.contains("of.agent"),
            "{resolv_conf}"
        );
        let job = [
            ("dns_servers", list(&["10.2.2.2"])),
            ("extra_hosts", list(&["db:10.0.0.7"])),
        ];
        let found = isolation(name, &task, &[], &job).await;
        let resolv_conf = file(&found, "/etc/resolv.conf");
        assert!(
            resolv_conf.contains("nameserver 10.2.2.2") && !resolv_conf.contains("10.1.1.1"),
            "the job goes over its group: {resolv_conf}"
        );
        assert!(resolv_conf.contains("of.agent"), "{resolv_conf}");
        let hosts = file(&found, "/etc/hosts");
        assert!(hosts.contains("10.0.0.7") && hosts.contains("db"), "{hosts}");
    }
    task.dns = None;
    task.network_isolation_spec = Some(NetworkIsolationSpec {
        mode: NetworkIsolationMode::Group as i32,
        path: "/proc/self/ns/net".to_owned(),
        hosts_config: Some(HostsConfig {
            hostname: "web-1".to_owned(),
            address: "172.26.64.5".to_owned(),
        }),
        ..NetworkIsolationSpec::default()
    });
    let found = isolation(PluginName::Holdfast, &task, &[], &[]).await;
    assert_eq!(found.hostname.as_deref(), Some("web-1"));
    assert!(file(&found, "/etc/hosts").contains("172.26.64.5"));
    let found = isolation(PluginName::Exec, &task, &[], &[]).await;
    assert_eq!(found.hostname, None, "the built-in's tasks have the host's name");
    assert!(
        !found
            .entries
            .iter()
            .any(|entry| entry.target == Path::new("/etc/hosts"))
    );
}

#[tokio::test]
async fn what_is_unveiled_has_the_tasks_own_folders_as_it_sees_them() {
    if !is_root() {
        return;
    }
    let (dir, task) = task();
    let job = [("unveil", list(&["r:/srv/x"]))];
    let paths = async |name, operator: &[(&str, Value)], job: &[(&str, Value)]| -> Option<Vec<PathBuf>> {
        let unveil = isolation(name, &task, operator, job).await.confinement.unveil;
        unveil.map(|all| all.into_iter().map(|one| one.path).collect())
    };
    assert_eq!(paths(PluginName::RawExec, &[], &[]).await, None);
    let raw = paths(PluginName::RawExec, &[], &job).await.unwrap();
    for path in [
        dir.path().join("task"),
        dir.path().join("alloc"),
        "/usr/lib".into(),
        "/srv/x".into(),
    ] {
        assert!(raw.contains(&path), "{path:?} in {raw:?}");
    }
    let holdfast = paths(PluginName::Holdfast, &[], &job).await.unwrap();
    for path in ["/local", "/secrets", "/alloc", "/tmp", "/srv/x"] {
        assert!(holdfast.contains(&PathBuf::from(path)), "{path:?} in {holdfast:?}");
    }
    let operator = [
        ("unveil_paths", list(&["rwxc:/"])),
        ("unveil_defaults", Value::Bool(false)),
    ];
    assert_eq!(paths(PluginName::Exec, &operator, &[]).await, Some(vec!["/".into()]));
}

/// An OCI image layout of one layer with a program and users, whose configuration is `config`.
fn layout(folder: &Path, config: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 3] = [
        ("bin/true", &static_program()),
        ("etc/passwd", b"app:x:4711:4712::/srv:/bin/true\n"),
        ("etc/group", b"app:x:4712:\nmore:x:4713:app\n"),
    ];
    for folder in ["bin", "etc", "srv"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        archive.append_data(&mut header, folder, &[][..]).unwrap();
    }
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    }
    let layer = archive.into_inner().unwrap();
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.join("blobs/sha256").join(&hex), bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{hex}","size":{size}}}"#)
    };
    let layer = put("layer.v1.tar", &layer);
    let diff_id = layer.split('"').find(|part| part.starts_with("sha256:")).unwrap();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{config},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let config = put("config.v1+json", config.as_bytes());
    let manifest = put(
        "manifest.v1+json",
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#).as_bytes(),
    );
    fs::write(
        folder.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#),
    )
    .unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[tokio::test]
async fn an_image_is_unpacked_once_and_gives_user_environment_and_folder_where_the_job_says_nothing() {
    if !is_root() {
        return;
    }
    let (_dir, mut task) = task();
    let host = tempfile::tempdir().unwrap();
    let base = host.path().canonicalize().unwrap();
    let image = base.join("image");
    layout(
        &image,
        r#"{"User":"app","Env":["PATH=/bin","OF_IMAGE=1"],"WorkingDir":"/srv"}"#,
    );
    let state_dir = base.join("state");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let operator = [
        ("state_dir", text(&path(&state_dir))),
        ("allowed_host_paths", list(&[&path(&base)])),
    ];
    let job = [("rootfs", text(&format!("oci:{}", image.display())))];
    let mut layers = Vec::new();
    for _ in 0..2 {
        let Planned {
            spec, additions, image, ..
        } = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap();
        layers.push(image.as_ref().unwrap().unpacked);
        let user = spec.credentials.as_ref().unwrap();
        assert_eq!((user.uid, user.gid), (4711, 4712), "by the image's own users");
        assert!(user.groups.contains(&4713), "{user:?}");
        for variable in ["PATH=/bin", "OF_IMAGE=1", "USER=app"] {
            assert!(spec.env.contains(&variable.to_owned()), "{variable} in {:?}", spec.env);
        }
        assert_eq!((spec.command.as_str(), spec.work_dir.as_str()), ("/bin/true", "/srv"));
        assert_eq!(spec.env, plan::environment(&task, &[], &additions), "after an adoption");
        let root = of(&spec).root.unwrap();
        assert!(!root.read_only);
        assert!(
            matches!(&root.base, RootBase::Overlay(layers) if layers.iter().all(|layer| layer.starts_with(state_dir.join("images")))),
            "{root:?}"
        );
    }
    assert_eq!(layers, [1, 0], "unpacked once");

    task.user = "app:more".to_owned();
    let named = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap();
    let user = named.spec.credentials.unwrap();
    assert_eq!((user.uid, user.gid), (4711, 4713));
    task.user = "nobody".to_owned();
    let unknown = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap_err();
    assert!(unknown.contains("unknown user nobody"), "the image has none: {unknown}");

    task.user = String::new();
    let of_root = base.join("of-root");
    layout(&of_root, r#"{"User":"0"}"#);
    let job = [("rootfs", text(&format!("oci:{}", of_root.display())))];
    let refused = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap_err();
    assert!(refused.contains("allow_root"), "{refused}");
    let silent = base.join("silent");
    layout(&silent, "{}");
    let job = [("rootfs", text(&format!("oci:{}", silent.display())))];
    let nobody = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap();
    assert_eq!(
        nobody.spec.credentials.unwrap().uid,
        65_534,
        "an image that says nothing does not mean root here"
    );

    let elsewhere = [("state_dir", text(&path(&state_dir)))];
    let refused = planned(PluginName::Holdfast, &task, &elsewhere, &job)
        .await
        .unwrap_err();
    assert!(refused.contains("allowed_host_paths"), "{refused}");
    let job = [("rootfs", text(&format!("oci:{}:latest", silent.display())))];
    let refused = planned(PluginName::Holdfast, &task, &operator, &job).await.unwrap_err();
    assert!(refused.contains("no image with tag \"latest\""), "{refused}");
}
