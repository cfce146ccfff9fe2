//! Why a task cannot be kept apart in the way that was asked for.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::retry;

/// Each text names what was asked for. No text shows the content of a file.
#[derive(Debug, Error)]
pub enum IsolationError {
    /// It would be put into the host's own tree, for everybody.
    #[error("{what} needs a mount namespace of the task's own, and the task is in the host's")]
    HostMounts {
        /// The mount, the device, the option.
        what: String,
    },
    /// A private PID namespace without a proc(5) of its own would show other processes than it has.
    #[error(
        "a pid namespace of the task's own needs a mount namespace of its own for /proc, and the task is in the host's"
    )]
    HostProc,
    /// The kernel ends a PID namespace with its first process, which is the init.
    #[error("stragglers = \"leave\" is impossible in a pid namespace of the task's own: its processes end with it")]
    Stragglers,
    /// It would be the host's.
    #[error("hostname {0:?} needs a uts namespace of the task's own, and the task is in the host's")]
    HostName(String),
    /// What sethostname(2) takes.
    #[error("hostname {0:?} is longer than 64 bytes")]
    LongHostName(String),
    /// Only a root of the task's own can be made read-only.
    #[error("a read-only root needs a root of the task's own, and the task sees the host's")]
    HostRoot,
    /// The tree that the task should see.
    #[error("rootfs {path:?} {fault}")]
    Root {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// Nothing to make a root of.
    #[error("rootfs has no layers")]
    NoLayers,
    /// A directory that the agent has made.
    #[error("cannot show the task its own folder {}: it is not a directory", .0.display())]
    OwnFolder(PathBuf),
    /// Where something should be put.
    #[error("{what} {target:?} {fault}")]
    Target {
        /// `mount`, `tmpfs` or `device`.
        what: &'static str,
        /// As it was given.
        target: PathBuf,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// What should be put there.
    #[error("mount {}: source {source_path:?} {fault}", target.display())]
    Source {
        /// Where.
        target: PathBuf,
        /// As it was given.
        source_path: PathBuf,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// What a task laid into its own directory must not have the host's files mounted.
    #[error("mount {}: source {source_path:?} leads out of the allocation's directory to {real_path:?}", target.display())]
    SourceOutside {
        /// Where.
        target: PathBuf,
        /// As it was given.
        source_path: PathBuf,
        /// Where it leads.
        real_path: PathBuf,
    },
    /// mount(2) puts directories on directories, and anything else on anything else.
    #[error("mount {}: {} cannot be put onto {}", target.display(), kind(*is_dir), kind(!*is_dir))]
    Kind {
        /// Where.
        target: PathBuf,
        /// What should be put there.
        is_dir: bool,
    },
    /// It is not there, and has no place to be.
    #[error("{what} {} is not there and cannot be made: {} {reason}", target.display(), dir.display())]
    NoPlace {
        /// `mount`, `tmpfs` or `device`.
        what: &'static str,
        /// Where.
        target: PathBuf,
        /// The directory in which it would be made.
        dir: PathBuf,
        /// Why not.
        reason: NoPlaceReason,
    },
    /// A device of the host.
    #[error("device {path:?} {fault}")]
    Device {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        fault: PathFault,
    },
}

/// Why nothing can be made in a directory; continues a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoPlaceReason {
    /// The task's view of it.
    #[error("is read-only")]
    ReadOnly,
    /// It would stay there for everybody.
    #[error("is in the host's own tree")]
    OfHost,
}

/// What is wrong with a path; continues a sentence.
#[derive(Debug, Error)]
pub enum PathFault {
    /// Nobody knows where from.
    #[error("is not an absolute path")]
    Relative,
    /// Everything would be covered.
    #[error("is the root itself")]
    IsRoot,
    /// It says where it is in a roundabout way, or leads out.
    #[error("contains \"..\"")]
    Upwards,
    /// Something else is there.
    #[error("is not a directory")]
    NotDirectory,
    /// Something else is there.
    #[error("is not a device node")]
    NotDevice,
    /// Missing, or closed to this process.
    #[error("cannot be used: {0}")]
    Unusable(io::Error),
}

impl From<io::Error> for PathFault {
    fn from(error: io::Error) -> Self {
        PathFault::Unusable(error)
    }
}

fn kind(is_dir: bool) -> &'static str {
    if is_dir { "a directory" } else { "a file" }
}

impl IsolationError {
    /// Whether the same call may succeed a moment later (contract, S-2).
    pub fn is_retryable(&self) -> bool {
        match self {
            IsolationError::Root { fault, .. }
            | IsolationError::Target { fault, .. }
            | IsolationError::Source { fault, .. }
            | IsolationError::Device { fault, .. } => match fault {
                PathFault::Unusable(error) => retry::may_pass(error),
                PathFault::Relative
                | PathFault::IsRoot
                | PathFault::Upwards
                | PathFault::NotDirectory
                | PathFault::NotDevice => false,
            },
            IsolationError::HostMounts { .. }
            | IsolationError::HostProc
            | IsolationError::Stragglers
            | IsolationError::HostName(_)
            | IsolationError::LongHostName(_)
            | IsolationError::HostRoot
            | IsolationError::NoLayers
            | IsolationError::OwnFolder(_)
            | IsolationError::SourceOutside { .. }
            | IsolationError::NoPlace { .. }
            | IsolationError::Kind { .. } => false,
        }
    }
}
