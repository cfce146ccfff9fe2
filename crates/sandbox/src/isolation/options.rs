//! What a job, its agent and the operator ask for, parsed and not looked up.

use std::path::PathBuf;

use holdfast_record::{Confinement, Entry, Namespaces, Propagation, UserNamespace};

use super::IsolationMode;

/// The default is a task without isolation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IsolationOptions {
    /// What the task sees as `/`.
    pub root: RootOption,
    /// Whether the root itself cannot be written. Absent: [`RootOption::Host`] and [`RootOption::Minimal`] cannot, all others can.
    pub read_only_root: Option<bool>,
    /// The operator's word for hosts whose root is a ramdisk.
    pub no_pivot_root: bool,
    /// Which namespaces are the task's own.
    pub modes: Modes,
    /// A user namespace.
    pub user_namespace: Option<UserNamespace>,
    /// In a UTS namespace of the task's own. Absent: the host's name.
    pub hostname: Option<String>,
    /// Size of `/dev/shm` in bytes. Absent: 64 MiB, as the built-in.
    pub shm_bytes: Option<u64>,
    /// More of them.
    pub tmpfs: Vec<TmpfsOption>,
    /// Binds, of the agent (volumes) and then of the job, and files such as `/etc/hosts`, in order. They are put in after everything
    /// else.
    pub entries: Vec<Entry>,
    /// Device nodes beside the usual ones.
    pub devices: Vec<DeviceOption>,
    /// What its processes may do.
    pub confinement: Confinement,
    /// Variables and the like that an image brings, under those of the agent and the job.
    pub account: Account,
}

/// What [`RootOption::Host`] shows unless somebody says otherwise: what the agent copies into a chroot (client/config/config.go).
pub const USUAL_HOST_PATHS: &[&str] = &[
    "/bin",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sbin",
    "/usr",
];

/// The agent's words for what becomes of later mounts in a volume (nomad/structs/volumes.go); `None`: it is none of them.
pub fn propagation_of(word: &str) -> Option<Propagation> {
    match word {
        "private" => Some(Propagation::Private),
        "host-to-task" => Some(Propagation::Slave),
        "bidirectional" => Some(Propagation::Shared),
        _ => None,
    }
}

/// What the task sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RootOption {
    /// The host's tree, in the host's mount namespace unless [`Modes::mount`] is private.
    #[default]
    HostTree,
    /// The folder that the agent has filled for the task (isolation of type chroot).
    TaskDir,
    /// A read-only view of these folders of the host, without copying; those that are links on the host are links.
    Host(Vec<PathBuf>),
    /// Nothing but the task's own folders and `/dev`, `/proc`, `/sys`, `/tmp` and some files in `/etc`.
    Minimal,
    /// Folders of the host that stay as they are, the first on top: a directory, or the layers of an image.
    Layers(Vec<PathBuf>),
}

/// Which namespaces are the task's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// Mounts; a root other than the host's tree has one anyway.
    pub mount: IsolationMode,
    /// Process ids.
    pub pid: IsolationMode,
    /// System V objects and POSIX message queues.
    pub ipc: IsolationMode,
    /// Host name.
    pub uts: IsolationMode,
    /// Cgroups.
    pub cgroup: IsolationMode,
}

impl Modes {
    /// What they come to; a root of its own is in a mount namespace of its own.
    pub fn namespaces(self, has_own_root: bool, user: Option<UserNamespace>) -> Namespaces {
        let Modes {
            mount,
            pid,
            ipc,
            uts,
            cgroup,
        } = self;
        let is_private = |mode| mode == IsolationMode::Private;
        Namespaces {
            mount: has_own_root || is_private(mount),
            pid: is_private(pid),
            ipc: is_private(ipc),
            uts: is_private(uts),
            cgroup: is_private(cgroup),
            user,
        }
    }
}

impl Default for Modes {
    fn default() -> Self {
        Modes {
            mount: IsolationMode::Host,
            pid: IsolationMode::Host,
            ipc: IsolationMode::Host,
            uts: IsolationMode::Host,
            cgroup: IsolationMode::Host,
        }
    }
}

/// A tmpfs(5) at a path of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsOption {
    /// Absolute.
    pub target: PathBuf,
    /// At most this many bytes; absent: the kernel's half of the memory.
    pub bytes: Option<u64>,
    /// Permission bits.
    pub mode: u32,
}

impl TmpfsOption {
    /// For everybody to write, as docker(1) has it.
    pub const USUAL_MODE: u32 = 0o1777;

    /// Of the usual mode, until another is said.
    pub fn at(target: PathBuf) -> Self {
        Self {
            target,
            bytes: None,
            mode: Self::USUAL_MODE,
        }
    }

    /// Permission bits in octal; the error says what is wrong with them.
    pub fn set_mode(&mut self, text: &str) -> Result<(), String> {
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
        self.mode = bits.ok_or_else(|| format!("mode {text:?} is not an octal number up to 7777"))?;
        Ok(())
    }
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOption {
    /// Node on the host, absolute.
    pub host: PathBuf,
    /// Where the task sees it, absolute.
    pub target: PathBuf,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Make nodes.
    pub mknod: bool,
}

impl DeviceOption {
    /// With the permissions that are written, of the letters `r`, `w` and `m` (cgroup-v1/devices.rst); `None`: there is another letter.
    pub fn with_permissions(host: PathBuf, target: PathBuf, permissions: &str) -> Option<Self> {
        permissions.chars().all(|letter| "rwm".contains(letter)).then(|| Self {
            host,
            target,
            read: permissions.contains('r'),
            write: permissions.contains('w'),
            mknod: permissions.contains('m'),
        })
    }
}

/// What stands in the place of options that a job does not write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Who the task runs as. Absent: whoever the executor is.
    pub user: Option<String>,
    /// `PATH`, in which a command is looked for in the task's view.
    pub path: Option<String>,
    /// Variables, under those of the agent and the job.
    pub environment: Vec<(String, String)>,
    /// Absolute, as the task sees it.
    pub work_dir: Option<String>,
    /// `HOME` of a user that has none.
    pub home: Option<String>,
}
