//! Tasks that are kept apart: what they are asked for here, and what is left of them on the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_record::{
    CapabilitySets, Confinement, DeviceRule, Entry, Isolation, MountFlags, Namespaces, Propagation, Root, RootBase,
    SeccompProfile, What,
};
use holdfast_sandbox::isolation::Groundwork;
use holdfast_wire::executor_v1::{Credentials, TaskSpec};

use crate::host::Task;

/// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, mknod, audit_write and setfcap, as
/// the built-in gives them.
pub const DEFAULT_CAPABILITIES: u64 =
    1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 27 | 1 << 29 | 1 << 31;

pub const NOBODY: u32 = 65534;

pub fn entry(target: &str, what: What) -> Entry {
    Entry {
        target: target.into(),
        what,
    }
}

pub fn bind(source: impl Into<PathBuf>, read_only: bool) -> What {
    What::Bind {
        source: source.into(),
        flags: MountFlags {
            read_only,
            ..MountFlags::default()
        },
        propagation: Propagation::Private,
        optional: false,
    }
}

pub fn tmpfs(bytes: Option<u64>, mode: u32) -> What {
    What::Tmpfs {
        bytes,
        mode,
        uid: 0,
        gid: 0,
        flags: MountFlags {
            no_suid: true,
            no_dev: true,
            ..MountFlags::default()
        },
    }
}

/// The host's folders of programs and libraries, those that are links as links.
fn system_folders() -> Vec<Entry> {
    let folder = |name: &str| {
        let path = Path::new("/").join(name);
        let found = fs::symlink_metadata(&path).ok()?;
        let what = match fs::read_link(&path) {
            Ok(to) => What::Link { to },
            Err(_) if found.is_dir() => bind(&path, true),
            Err(_) => return None,
        };
        Some(Entry { target: path, what })
    };
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "etc"]
        .into_iter()
        .filter_map(folder)
        .collect()
}

/// What every root of its own has beside files.
fn kernel_folders() -> Vec<Entry> {
    vec![
        entry("/proc", What::Proc),
        entry("/sys", What::Sysfs),
        entry("/sys/fs/cgroup", What::Cgroups),
        entry("/dev", What::Dev),
        entry("/dev/shm", tmpfs(Some(64 << 20), 0o1777)),
        entry("/dev/mqueue", What::Mqueue),
    ]
}

/// Only the devices that every task may use.
fn usual_devices() -> Vec<DeviceRule> {
    let make = [true, false].map(|is_char| DeviceRule {
        is_char,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: true,
    });
    let usual = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    let usual = usual.map(|(major, minor)| DeviceRule {
        is_char: true,
        major: Some(major),
        minor,
        read: true,
        write: true,
        mknod: true,
    });
    make.into_iter().chain(usual).collect()
}

fn paths(list: &[&str]) -> Vec<PathBuf> {
    list.iter().map(PathBuf::from).collect()
}

/// As the `holdfast` profile resolves its defaults: a read-only view of the host, everything private, confined.
pub fn holdfast_view(task: &Task) -> Isolation {
    let mut entries = system_folders();
    entries.extend(kernel_folders());
    entries.push(entry("/tmp", tmpfs(None, 0o1777)));
    entries.push(entry("/local", bind(&task.logs, false)));
    Isolation {
        namespaces: Namespaces {
            mount: true,
            pid: true,
            ipc: true,
            uts: true,
            cgroup: true,
            user: None,
        },
        hostname: Some("isolated".to_owned()),
        root: Some(Root {
            base: RootBase::Empty,
            read_only: true,
            no_pivot: false,
        }),
        entries,
        masked: paths(&[
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ]),
        read_only: paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        devices: Some(usual_devices()),
        confinement: Confinement {
            capabilities: Some(CapabilitySets {
                bounding: DEFAULT_CAPABILITIES,
                permitted: DEFAULT_CAPABILITIES,
                ambient: false,
            }),
            no_new_privileges: true,
            seccomp: Some(SeccompProfile::V1),
            unveil: None,
            private_keyring: true,
        },
    }
}

/// As the `exec` profile: a folder that has been filled for the task.
pub fn chroot_of(root: &Path) -> Isolation {
    let mut entries = system_folders();
    entries.extend(kernel_folders());
    Isolation {
        namespaces: Namespaces {
            mount: true,
            pid: true,
            ipc: true,
            ..Namespaces::default()
        },
        hostname: None,
        root: Some(Root {
            base: RootBase::Directory(root.to_owned()),
            read_only: false,
            no_pivot: false,
        }),
        entries,
        masked: paths(&["/proc/kcore", "/sys/firmware"]),
        read_only: paths(&["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        devices: Some(usual_devices()),
        confinement: Confinement {
            capabilities: Some(CapabilitySets {
                bounding: DEFAULT_CAPABILITIES,
                permitted: DEFAULT_CAPABILITIES,
                ambient: true,
            }),
            private_keyring: true,
            ..Confinement::default()
        },
    }
}

/// A folder for [`chroot_of`], as the agent makes one, apart from the copies.
pub fn chroot_folder(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("tmp", 0o1777), ("local", 0o777), ("alloc", 0o777)] {
        let folder = path.join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// A task in such a view.
pub fn isolated(spec: TaskSpec, isolation: &Isolation) -> TaskSpec {
    TaskSpec {
        work_dir: if isolation.root.is_some() {
            "/local"
        } else {
            &spec.work_dir
        }
        .to_owned(),
        isolation: serde_json::to_vec(isolation).unwrap(),
        ..spec
    }
}

/// The same with the kernel's folders as tasks usually have them, so that an init can begin with the tree.
pub fn usual(mut isolation: Isolation) -> Isolation {
    let Groundwork {
        entries,
        masked,
        read_only,
    } = Groundwork::usual(isolation.namespaces.ipc);
    let is_there = |target: &Path| entries.iter().any(|usual| usual.target == target);
    isolation.entries.retain(|entry| !is_there(&entry.target));
    isolation.entries.splice(0..0, entries);
    isolation.masked = masked;
    isolation.read_only = read_only;
    isolation
}

pub fn as_nobody(spec: TaskSpec) -> TaskSpec {
    TaskSpec {
        user: "nobody".to_owned(),
        credentials: Some(Credentials {
            uid: NOBODY,
            gid: NOBODY,
            groups: vec![NOBODY],
        }),
        ..spec
    }
}

/// The mounts that this test sees, without those that other tests make at the same time.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounts(BTreeSet<String>);

impl Mounts {
    /// Of the host, and of this test below its folder.
    pub fn of(own: &Path) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (own, others) = (own.to_str().unwrap(), std::env::temp_dir());
        let counts = |line: &&str| line.contains(own) || !line.contains(others.to_str().unwrap());
        Self(mountinfo.lines().filter(counts).map(str::to_owned).collect())
    }

    /// Compares with what there is now.
    #[track_caller]
    pub fn are_unchanged(&self, own: &Path) {
        assert_eq!(*self, Self::of(own), "mounts of the host");
    }
}

/// Kinds of namespaces that a task may have of its own.
const KINDS: [&str; 6] = ["mnt", "pid", "ipc", "uts", "cgroup", "user"];

/// The namespaces of a process.
pub fn namespaces_of(pid: i32) -> BTreeSet<String> {
    KINDS
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .map(|link| link.to_str().unwrap().to_owned())
        .collect()
}

/// Which processes there are in namespaces that are not this test's own, by namespace.
pub fn foreign_namespaces() -> BTreeSet<(String, i32)> {
    let own = namespaces_of(i32::try_from(std::process::id()).unwrap());
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.flat_map(|pid| namespaces_of(pid).into_iter().map(move |namespace| (namespace, pid)))
        .filter(|(namespace, _)| !own.contains(namespace))
        .collect()
}
