//! The part of a launch that is written down. Never environment or arguments: they may hold secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Attributes, Ending, Extra, Isolation};

/// What an adopting executor needs to know of how the main process was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Absolute path of what was executed.
    pub command: String,
    /// Absolute path.
    pub work_dir: String,
    /// Name of the user, for messages; empty: the executor's own.
    #[serde(default)]
    pub user: String,
    /// Absent: the executor's own.
    #[serde(default)]
    pub credentials: Option<CredentialsRecord>,
    /// Where standard output goes.
    #[serde(default)]
    pub stdout: OutputRecord,
    /// Where standard error goes.
    #[serde(default)]
    pub stderr: OutputRecord,
    /// The task's cgroups.
    #[serde(default)]
    pub placement: PlacementRecord,
    /// As in proc_pid_oom_score_adj(5).
    #[serde(default)]
    pub oom_score_adj: i32,
    /// Path of a network namespace; absent: the executor's.
    #[serde(default)]
    pub network_namespace: Option<String>,
    /// What main process and sessions are started with.
    #[serde(default)]
    pub attributes: Attributes,
    /// How the task ends.
    #[serde(default)]
    pub ending: Ending,
    /// How many sessions may run at a time; 0: no cap.
    #[serde(default)]
    pub max_sessions: u32,
    /// How it is kept apart from the host.
    #[serde(default)]
    pub isolation: Isolation,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Numbers, looked up once by the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsRecord {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, all of them.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// Where one output stream goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputRecord {
    /// `/dev/null`.
    #[default]
    Null,
    /// Files `<directory>/<prefix>.<n>`.
    Rotated {
        /// Absolute.
        directory: PathBuf,
        /// Before the dot and the number.
        prefix: String,
        /// How many are kept.
        max_files: u32,
        /// When the next one begins, in bytes.
        max_file_bytes: u64,
        /// What happens when the disk does not keep up.
        #[serde(default)]
        overflow: Overflow,
    },
    /// An existing FIFO or a file.
    Path(PathBuf),
}

/// What happens to output that the log disk does not take in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Its writers wait, as on any pipe.
    #[default]
    Block,
    /// It is dropped and counted.
    Drop,
}

/// The task's cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// Directories that the main process joined.
    #[serde(default)]
    pub join: Vec<PathBuf>,
    /// The directory by which the task is killed and counted: the v2 scope, the v1 freezer directory. Absent: no cgroup.
    #[serde(default)]
    pub scope: Option<PathBuf>,
    /// Inode of `scope`: a cgroup that was removed and made again under the same path is not the task's.
    #[serde(default)]
    pub scope_inode: Option<u64>,
    /// Directories to remove with the task.
    #[serde(default)]
    pub own: Vec<PathBuf>,
    /// The operator or the job named the cgroup: it is never limited, killed or removed.
    #[serde(default)]
    pub foreign: bool,
}
