//! What a process is started with beside its credentials: reset for every task rather than inherited from the agent.

use serde::{Deserialize, Serialize};

/// Attributes of the main process, which its sessions share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// File mode creation mask (umask(2)).
    pub umask: u32,
    /// -20 to 19 (setpriority(2)).
    #[serde(default)]
    pub nice: i32,
    /// Absent: none, so that the kernel derives it from `nice` (ioprio_set(2)).
    #[serde(default)]
    pub io_priority: Option<IoPriority>,
    /// Those that are set; all others stay the executor's.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            umask: 0o022,
            nice: 0,
            io_priority: None,
            rlimits: Vec::new(),
        }
    }
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_ number.
    pub resource: u32,
    /// What holds; [`Rlimit::UNLIMITED`] is no limit.
    pub soft: u64,
    /// Up to where the process may raise it.
    pub hard: u64,
}

impl Rlimit {
    /// RLIM_INFINITY.
    pub const UNLIMITED: u64 = u64::MAX;
}

/// Scheduling of input and output (ioprio_set(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoPriority {
    /// Before all others, at a level from 0, the highest, to 7.
    Realtime(u8),
    /// At a level from 0, the highest, to 7.
    BestEffort(u8),
    /// When nobody else wants the disk.
    Idle,
}
