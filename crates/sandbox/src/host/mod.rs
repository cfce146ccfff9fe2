//! What this host can do for tasks: each probe looks at one thing, changes nothing, and says why where the answer is no.
//!
//! Files are read below a root that a test may choose; what only system calls tell is in [`Calls`], for the same reason.

mod confinement;
mod kernel;
mod limits;
mod mounts;
mod namespaces;
mod paths;
mod privileges;
mod unit;
mod users;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_cgroup::{HostCgroups, Vantage};
use holdfast_sys::probe::{self, Answer};
use nix::unistd::{AccessFlags, access};

pub use confinement::{Confinement, DeviceRules};
pub use kernel::{Clock, Kernel, Release};
pub use limits::{INOTIFY_FOR_DRIVERS, PIDS_PER_TASK, SystemLimits};
pub use mounts::{MountSupport, Overlay, RootMount, mount_of};
pub use namespaces::{Availability, Kind, Namespaces};
pub use paths::{Folder, Unsearchable, searchable_by_others, state_dir};
pub use privileges::{Capability, NEEDED, Need, Privileges, Purpose};
pub use unit::{AgentUnit, Unit};
pub use users::UserSources;

/// What only the kernel itself can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// The effective user.
    pub uid: u32,
    /// open_tree(2).
    pub open_tree: Answer,
    /// mount_setattr(2).
    pub mount_setattr: Answer,
    /// Filters of system calls.
    pub seccomp: Answer,
    /// keyctl(2).
    pub keyrings: Answer,
    /// bpf(2).
    pub bpf: Answer,
    /// 0: none.
    pub landlock_abi: u32,
}

impl Calls {
    /// Asks the kernel.
    pub fn of_this_process() -> Calls {
        Calls {
            uid: holdfast_sys::process::effective_uid(),
            open_tree: probe::open_tree(),
            mount_setattr: probe::mount_setattr(),
            seccomp: probe::seccomp(),
            keyrings: probe::keyrings(),
            bpf: probe::bpf(),
            landlock_abi: holdfast_sys::landlock::abi().unwrap_or(0),
        }
    }
}

/// The files of a host.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    may_write: fn(&Path) -> bool,
    takes_programs: fn() -> bool,
}

impl Files {
    /// Of the host that this process runs on, as it sees it.
    pub fn of_this_host() -> Files {
        Files {
            root: PathBuf::from("/"),
            may_write: |path| access(path, AccessFlags::W_OK).is_ok(),
            takes_programs: holdfast_cgroup::takes_device_programs,
        }
    }

    /// Of a host whose root is this folder, where `may_write` says what may be written, and device rules can be loaded.
    pub fn below(root: &Path, may_write: fn(&Path) -> bool) -> Files {
        Files {
            root: root.to_owned(),
            may_write,
            takes_programs: || true,
        }
    }

    /// Where an absolute path of that host is for this process.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The whole file, as text.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        fs::read(self.at(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file that holds one number. `None`: it is not there, or it holds something else.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path).ok()?.trim().parse().ok()
    }

    /// Whether the file is there.
    pub fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }
}

/// What decides whether tasks can run here and how they are kept apart; what the fingerprint and doctor have in
/// common.
#[derive(Debug, Clone)]
pub struct Host {
    /// Who this process is and what it may do.
    pub privileges: Privileges,
    /// The kernel's age.
    pub kernel: Kernel,
    /// Which namespaces tasks can have of their own.
    pub namespaces: Namespaces,
    /// How a root of their own is built.
    pub mounts: MountSupport,
    /// How they are confined.
    pub confinement: Confinement,
    /// Where they are counted, limited and killed.
    pub cgroups: HostCgroups,
}

impl Host {
    /// Looks at this host as this process sees it.
    pub fn look() -> Host {
        Host::look_at(&Files::of_this_host(), Calls::of_this_process())
    }

    /// Looks at some host.
    pub fn look_at(files: &Files, calls: Calls) -> Host {
        let privileges = Privileges::look(files, calls.uid);
        let kernel = Kernel::look(files);
        let cgroups = HostCgroups::look(Vantage {
            root: &files.root,
            uid: calls.uid,
            may_write: files.may_write,
            takes_programs: files.takes_programs,
        });
        Host {
            namespaces: Namespaces::look(files, &privileges),
            mounts: MountSupport::look(files, &calls, &kernel),
            confinement: Confinement::look(&calls, &privileges, &cgroups),
            privileges,
            kernel,
            cgroups,
        }
    }

    /// Why no task can be kept apart from the host here, in one line that stays the same as long as the reason does. `None`: the
    /// isolated profiles can run.
    pub fn isolation_refusal(&self) -> Option<IsolationRefusal> {
        let Host {
            privileges,
            kernel,
            namespaces,
            mounts,
            confinement: _,
            cgroups: _,
        } = self;
        if !privileges.is_root() {
            return Some(IsolationRefusal::NotRoot(privileges.uid));
        }
        let missing: Vec<&str> = privileges
            .missing(Purpose::Isolation)
            .map(|need| need.capability.name)
            .collect();
        if !missing.is_empty() {
            return Some(IsolationRefusal::Capabilities(missing.join(", ")));
        }
        if let Err(e) = mounts.require_calls() {
            return Some(IsolationRefusal::MountCalls(format!("{e}; this is {}", kernel.release)));
        }
        let needed = [Kind::Mount, Kind::Pid, Kind::Ipc, Kind::Uts];
        needed.into_iter().find_map(|kind| match namespaces.of(kind) {
            Availability::Available => None,
            no => Some(IsolationRefusal::Namespace(kind, no.clone())),
        })
    }
}

/// Why the isolated profiles cannot run. The first is the built-in's word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationRefusal {
    /// Mounting, and other users, take root.
    #[error("Driver must run as root (it runs as uid {0})")]
    NotRoot(u32),
    /// Root in a container, often.
    #[error("isolation needs capabilities that are missing: {0}")]
    Capabilities(String),
    /// An old kernel, or a filter.
    #[error("isolation needs {0}")]
    MountCalls(String),
    /// Built without, or a limit of 0.
    #[error("isolation needs {0} namespaces: {1}")]
    Namespace(Kind, Availability),
}

#[cfg(test)]
mod tests;
