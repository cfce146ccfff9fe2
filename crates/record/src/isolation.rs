//! How a task is kept apart from its host. It is part of the record, since a session, also one that is started after an adoption,
//! gets what the main process got; and it goes to the executor in this form.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that is not said is the host's, or is not restricted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Namespaces of the task's own.
    pub namespaces: Namespaces,
    /// In a UTS namespace of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Absent: the host's tree, with `entries` over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// What is put into the tree, in this order; paths are those of the task. They need a mount namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
    /// Paths of the task that are covered: files by nothing, directories by an empty one. What is not there is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<PathBuf>,
    /// Paths of the task that cannot be written. What is not there is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<PathBuf>,
    /// Device nodes that may be used; absent: whatever the cgroups above say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceRule>>,
    /// What the processes themselves may do.
    pub confinement: Confinement,
}

impl Isolation {
    /// True if the init must be cloned into namespaces of its own.
    pub fn has_namespaces(&self) -> bool {
        let Namespaces {
            mount,
            pid,
            ipc,
            uts,
            cgroup,
            user,
        } = self.namespaces;
        mount || pid || ipc || uts || cgroup || user.is_some()
    }
}

/// Kinds of namespaces (namespaces(7)); the network's is the agent's to make and named by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Mounts.
    pub mount: bool,
    /// Process ids: the init is number 1.
    pub pid: bool,
    /// System V objects and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// The cgroup of the main process is the root of what it sees.
    pub cgroup: bool,
    /// Users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserNamespace>,
}

/// Which ids there are in a user namespace (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespace {
    /// The task's own user and groups, as themselves, and no other: not even root.
    KeepId,
}

/// The tree that the task sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What it is made of.
    pub base: RootBase,
    /// The tree itself cannot be written; what is mounted in it is a matter of its own.
    #[serde(default)]
    pub read_only: bool,
    /// The new root is moved over the old one instead of pivot_root(2), for hosts whose root is a ramdisk.
    #[serde(default)]
    pub no_pivot: bool,
}

/// What a root is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootBase {
    /// A folder of the host, with what is mounted in it.
    Directory(PathBuf),
    /// An empty tree in memory.
    Empty,
    /// Folders of the host that stay as they are (overlayfs), the first on top. Unless the root is read-only, what is written goes into
    /// the supervision directory.
    Overlay(Vec<PathBuf>),
}

/// One thing in the tree of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where, absolute, as the task sees it. Folders above it, and what it covers, are made where they are missing.
    pub target: PathBuf,
    /// What.
    pub what: What,
}

impl Entry {
    /// Something of the host that must be there.
    pub fn bind(target: PathBuf, source: PathBuf, read_only: bool, propagation: Propagation) -> Self {
        Self {
            target,
            what: What::Bind {
                source,
                flags: MountFlags {
                    read_only,
                    ..MountFlags::default()
                },
                propagation,
                optional: false,
            },
        }
    }
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Something of the host, with what is mounted in it.
    Bind {
        /// Absolute, on the host.
        source: PathBuf,
        /// How.
        #[serde(default)]
        flags: MountFlags,
        /// What becomes of mounts that are made in it later.
        #[serde(default)]
        propagation: Propagation,
        /// Left out if the host has no such thing.
        #[serde(default)]
        optional: bool,
    },
    /// proc(5) of the task's PID namespace.
    Proc,
    /// sysfs(5), read-only.
    Sysfs,
    /// The hierarchies of cgroups, read-only.
    Cgroups,
    /// mq_overview(7).
    Mqueue,
    /// A tmpfs(5).
    Tmpfs {
        /// At most this many bytes; absent: the kernel's half of the memory.
        #[serde(default)]
        bytes: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// Owner of its root.
        #[serde(default)]
        uid: u32,
        /// Group of its root.
        #[serde(default)]
        gid: u32,
        /// How.
        #[serde(default)]
        flags: MountFlags,
    },
    /// A small tmpfs with the usual device nodes, links to the standard streams, and terminals of its own (devpts).
    Dev,
    /// A device node, below a `Dev`.
    Node {
        /// Character device, else block device.
        is_char: bool,
        /// Numbers.
        major: u32,
        /// Numbers.
        minor: u32,
        /// Permission bits.
        mode: u32,
        /// Owner.
        #[serde(default)]
        uid: u32,
        /// Group.
        #[serde(default)]
        gid: u32,
    },
    /// A folder.
    Folder {
        /// Permission bits.
        mode: u32,
        /// Owner.
        #[serde(default)]
        uid: u32,
        /// Group.
        #[serde(default)]
        gid: u32,
    },
    /// A symbolic link. Where something is already it stays.
    Link {
        /// Its text.
        to: PathBuf,
    },
    /// A file of the task's own with this content, read-only, for everybody to read.
    File {
        /// Not a secret.
        content: String,
    },
}

/// How something is mounted (mount(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountFlags {
    /// It cannot be written.
    pub read_only: bool,
    /// Set-user-id bits have no effect.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Nothing in it can be executed.
    pub no_exec: bool,
}

/// What becomes of later mounts below a bind (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing.
    #[default]
    Private,
    /// The task sees the host's.
    Slave,
    /// And the host sees the task's.
    Shared,
}

/// Access to device nodes by number (cgroup-v1/devices.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Character device, else block device.
    pub is_char: bool,
    /// Absent: any.
    pub major: Option<u32>,
    /// Absent: any.
    pub minor: Option<u32>,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Make nodes.
    pub mknod: bool,
}

/// What the processes of a task may do; the main process and sessions alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Absent: as the credentials leave them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<CapabilitySets>,
    /// No program gives more privileges than its caller has (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// System calls; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompProfile>,
    /// Landlock: files that may be used, as the task sees them, and no others. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unveil: Option<Vec<Unveiled>>,
    /// A session keyring of its own (session-keyring(7)).
    pub private_keyring: bool,
}

/// Capabilities by number, as bits (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// Nothing can go beyond.
    pub bounding: u64,
    /// Of the command when it is executed by root. Also inheritable and ambient if `ambient`.
    pub permitted: u64,
    /// A command that is not root's gets `permitted` too.
    pub ambient: bool,
}

/// Versions of the default list of system calls; a new list is a new version, so that a task keeps what it was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompProfile {
    /// The first.
    V1,
}

/// A path and what may be done at and below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unveiled {
    /// Absolute, as the task sees it.
    pub path: PathBuf,
    /// Read files, list folders.
    pub read: bool,
    /// Write to files that are there.
    pub write: bool,
    /// Make and remove.
    pub create: bool,
    /// Execute.
    pub execute: bool,
    /// Left out if it is not there.
    #[serde(default)]
    pub optional: bool,
}
