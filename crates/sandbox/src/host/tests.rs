use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use holdfast_sys::probe::Answer;

use super::*;

/// A host made of files.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Fake {
        let fake = Fake(tempfile::tempdir().unwrap());
        for (path, content) in files {
            fake.file(path, content);
        }
        fake
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn files(&self) -> Files {
        Files::below(self.0.path(), |_| true)
    }
}

const ALL_THERE: Calls = Calls {
    uid: 0,
    open_tree: Answer::There,
    mount_setattr: Answer::There,
    seccomp: Answer::There,
    keyrings: Answer::There,
    bpf: Answer::There,
    landlock_abi: 7,
};

fn with_namespaces(fake: &Fake) {
    for kind in ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"] {
        fake.file(&format!("/proc/self/ns/{kind}"), "");
    }
}

const ROOT: &str = "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\n";

#[test]
fn a_capability_counts_only_if_executors_can_have_it() {
    let fake = Fake::new(&[(
        "/proc/self/status",
        // Effective without CAP_SYS_PTRACE, 19; the bounding set without CAP_MKNOD, 27.
        "CapEff:\t000001fffff7ffff\nCapBnd:\t000001fff7ffffff\nNoNewPrivs:\t1\n",
    )]);
    let privileges = Privileges::look(&fake.files(), 0);
    let missing: Vec<&str> = privileges
        .missing(Purpose::Isolation)
        .map(|need| need.capability.name)
        .collect();
    assert_eq!(missing, ["CAP_SYS_PTRACE", "CAP_MKNOD"]);
    assert!(privileges.no_new_privileges && privileges.is_admin());
    assert_eq!(privileges.missing(Purpose::Users).count(), 0);
    let damaged = Privileges::look(&Fake::new(&[("/proc/self/status", "CapEff:\tx\n")]).files(), 0);
    assert!(!damaged.is_admin(), "what cannot be read is not there");
}

#[test]
fn the_first_reason_against_isolation_is_the_one_that_is_told_f4() {
    let fake = Fake::new(&[("/proc/self/status", ROOT), ("/proc/sys/kernel/osrelease", "5.4.0\n")]);
    let told = |calls| {
        let refusal = Host::look_at(&fake.files(), calls).isolation_refusal();
        refusal.map(|refusal| refusal.to_string())
    };
    assert_eq!(
        told(ALL_THERE).unwrap(),
        "isolation needs mount namespaces: the kernel was built without them"
    );
    with_namespaces(&fake);
    assert_eq!(told(ALL_THERE), None);
    let old = Calls {
        mount_setattr: Answer::Absent,
        ..ALL_THERE
    };
    assert_eq!(
        told(old).unwrap(),
        "isolation needs Linux 5.12 (mount_setattr(2)); this is 5.4.0"
    );
    let filtered = Calls {
        open_tree: Answer::Denied,
        ..ALL_THERE
    };
    let text = told(filtered).unwrap();
    assert!(text.contains("a filter of system calls refuses"), "{text}");
    fake.file("/proc/sys/user/max_pid_namespaces", "0\n");
    assert_eq!(
        told(ALL_THERE).unwrap(),
        "isolation needs pid namespaces: /proc/sys/user/max_pid_namespaces is 0"
    );
    fake.file("/proc/self/status", "CapEff:\t0\nCapBnd:\t0\n");
    assert!(
        told(ALL_THERE)
            .unwrap()
            .starts_with("isolation needs capabilities that are missing: CAP_FOWNER")
    );
    let nobody = Calls { uid: 7, ..ALL_THERE };
    assert_eq!(told(nobody).unwrap(), "Driver must run as root (it runs as uid 7)");
}

#[test]
fn user_namespaces_without_root_may_be_closed_by_the_distribution() {
    let fake = Fake::new(&[("/proc/self/status", "CapEff:\t0\nCapBnd:\t0\n")]);
    with_namespaces(&fake);
    let user = |uid| {
        let files = fake.files();
        let privileges = Privileges::look(&files, uid);
        let namespaces = Namespaces::look(&files, &privileges);
        (namespaces.of(Kind::User).clone(), namespaces.of(Kind::Mount).clone())
    };
    assert_eq!(user(1000), (Availability::Available, Availability::NotAllowed));
    for (file, open, closed) in [
        ("/proc/sys/kernel/unprivileged_userns_clone", "1\n", "0\n"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0\n", "1\n"),
    ] {
        fake.file(file, open);
        assert_eq!(user(1000).0, Availability::Available, "{file}");
        fake.file(file, closed);
        assert!(
            matches!(user(1000).0, Availability::Restricted { file: told, .. } if told == file),
            "{file}"
        );
        fake.file("/proc/self/status", ROOT);
        assert_eq!(user(0).0, Availability::Available, "it is not for root: {file}");
        fake.file("/proc/self/status", "CapEff:\t0\nCapBnd:\t0\n");
        fake.file(file, open);
    }
}

#[test]
fn an_overlay_that_a_module_brings_is_as_good() {
    let fake = Fake::new(&[("/proc/sys/kernel/osrelease", "6.1.0-13\n")]);
    let overlay = || Host::look_at(&fake.files(), ALL_THERE).mounts.overlay;
    fake.file("/proc/filesystems", "nodev\tproc\n\text4\n");
    assert_eq!(overlay(), Overlay::Missing);
    fake.file(
        "/lib/modules/6.1.0-13/modules.dep",
        "kernel/fs/overlayfs/overlay.ko.xz:\n",
    );
    assert_eq!(overlay(), Overlay::Loadable);
    fake.file("/proc/filesystems", "nodev\tproc\nnodev\toverlay\n");
    assert_eq!(overlay(), Overlay::There);
}

#[test]
fn a_root_that_cannot_be_left_is_known_by_its_kind() {
    let root = |mountinfo: &str| {
        let fake = Fake::new(&[("/proc/self/mountinfo", mountinfo)]);
        Host::look_at(&fake.files(), ALL_THERE).mounts.root
    };
    let rootfs = "1 1 0:2 / / rw - rootfs rootfs rw\n";
    assert_eq!(root(rootfs), RootMount::Rootfs);
    assert_eq!(
        root(&format!("{rootfs}22 1 254:0 / / rw - ext4 /dev/vda rw\n")),
        RootMount::Leavable,
        "the last lies over the first"
    );
    assert_eq!(root(""), RootMount::Unknown);
}

#[test]
fn a_folder_is_on_the_mount_that_is_nearest() {
    let fake = Fake::new(&[(
        "/proc/self/mountinfo",
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
         23 22 0:5 / /var/lib rw - xfs /dev/vdb rw\n\
         24 22 0:6 / /var/lib/a\\040b rw - tmpfs tmpfs rw\n\
         25 22 0:7 / /var/lib/a\\040b rw - nfs4 host:/x rw\n",
    )]);
    let kind = |path: &str| mount_of(&fake.files(), Path::new(path)).unwrap().1;
    assert_eq!(kind("/etc"), "ext4");
    assert_eq!(kind("/var/library"), "ext4");
    assert_eq!(kind("/var/lib/holdfast"), "xfs");
    assert_eq!(kind("/var/lib/a b/c"), "nfs4");
}

#[test]
fn users_come_from_files_or_need_getent() {
    let fake = Fake::new(&[(
        "/etc/nsswitch.conf",
        "passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n",
    )]);
    let look = || UserSources::look(&fake.files());
    assert_eq!(look(), UserSources::Files);
    fake.file(
        "/etc/nsswitch.conf",
        "passwd: files sss\ngroup: sss files ldap # x\nhosts: dns\n",
    );
    let services = vec!["sss".to_owned(), "ldap".to_owned()];
    assert_eq!(
        look(),
        UserSources::NoGetent {
            services: services.clone()
        }
    );
    fake.file("/usr/bin/getent", "");
    assert!(matches!(look(), UserSources::Directory { services: found, .. } if found == services));
}

#[test]
fn a_closed_folder_on_the_way_is_named_pain_15() {
    let fake = Fake::new(&[("/opt/nomad/data/alloc/x", "")]);
    let set = |path: &str, mode| {
        fs::set_permissions(fake.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("", 0o755);
    for open in ["opt", "opt/nomad", "opt/nomad/data"] {
        set(open, 0o755);
    }
    let closed = |path: &str| searchable_by_others(&fake.files(), Path::new(path)).unwrap();
    assert_eq!(closed("/opt/nomad/data"), Ok(()));
    set("opt/nomad", 0o750);
    let expected = Unsearchable {
        path: "/opt/nomad".into(),
        mode: 0o750,
    };
    assert_eq!(closed("/opt/nomad/data"), Err(expected));
    assert!(searchable_by_others(&fake.files(), Path::new("/opt/other")).is_err());
}

#[test]
fn the_agents_unit_is_found_by_its_process_and_read_with_what_adds_to_it_pain_13() {
    let fake = Fake::new(&[
        ("/proc/42/cmdline", "/usr/bin/nomad\0agent\0-config\0/etc/nomad.d\0"),
        ("/proc/42/cgroup", "0::/system.slice/nomad-client.service\n"),
        ("/proc/43/cmdline", "nomad\0job\0run\0agent.hcl\0"),
        ("/proc/44/cmdline", "vim\0agent\0"),
        (
            "/usr/lib/systemd/system/nomad-client.service",
            "[Unit]\nDelegate=no\n[Service]\n# KillMode=none\nKillMode=process\nLimitNOFILE=65536\nDelegate=yes\n",
        ),
        (
            "/etc/systemd/system/nomad-client.service.d/10-x.conf",
            "[Service]\nKillMode = control-group\nProtectControlGroups=True\n",
        ),
        (
            "/usr/lib/systemd/system/nomad-client.service.d/05-y.conf",
            "[Service]\nKillMode=mixed\n",
        ),
        (
            "/etc/systemd/system/nomad-client.service.d/readme",
            "[Service]\nKillMode=none\n",
        ),
    ]);
    let found = AgentUnit::find(&fake.files());
    let AgentUnit::Running { pid, unit } = &found else {
        panic!("{found:?}")
    };
    assert_eq!(
        (*pid, unit.name.as_str(), unit.files.len()),
        (42, "nomad-client.service", 3)
    );
    assert_eq!(unit.option("KillMode"), Some("control-group"));
    assert!(unit.is_on("ProtectControlGroups") && !unit.is_on("NoNewPrivileges"));
    assert!(unit.is_delegated());

    fake.file(
        "/proc/42/cgroup",
        "0::/user.slice/user-0.slice/user@0.service/tmux.scope\n",
    );
    assert_eq!(AgentUnit::find(&fake.files()), AgentUnit::Unmanaged { pid: 42 });
    fs::remove_dir_all(fake.0.path().join("proc/42")).unwrap();
    assert_eq!(AgentUnit::find(&fake.files()), AgentUnit::Absent);
    fake.file(
        "/etc/systemd/system/nomad.service",
        "[Service]\nUser=nomad\nDelegate=\n",
    );
    let installed = AgentUnit::find(&fake.files());
    assert!(
        matches!(&installed, AgentUnit::Installed(unit) if !unit.is_delegated()),
        "{installed:?}"
    );
}

#[test]
fn this_host_is_looked_at_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("a/b");
    let found = state_dir(&Files::of_this_host(), &missing).unwrap();
    assert_eq!(found.existing, folder.path().canonicalize().unwrap());
    assert_eq!(found.unwritable, None);
    assert!(found.free_bytes > 0);
    assert!(!missing.exists());
    let host = Host::look();
    assert_eq!(host.privileges.is_root(), nix::unistd::geteuid().is_root());
    assert!(host.kernel.boot_id.is_some() && host.kernel.version.is_some());
}
