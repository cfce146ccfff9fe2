//! How a task ends: whom a signal reaches, in which steps it is stopped, what counts as its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the job says about the end of a task. The default is what the built-in does, but for stragglers, which are killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ending {
    /// Whom a signal is sent to.
    pub kill_target: KillTarget,
    /// What a stop sends, one after the other, instead of the signal that it was asked to send. The grace of the stop
    /// bounds them all. Empty: the signal asked for.
    pub kill_sequence: Vec<KillStep>,
    /// What becomes of processes that the main process leaves behind.
    pub stragglers: Stragglers,
    /// When the task is over.
    pub exit_type: ExitType,
    /// How long it may run.
    pub max_runtime: Option<MaxRuntime>,
    /// What becomes of it when its executor dies.
    pub on_executor_loss: ExecutorLoss,
    /// What becomes of it when nobody attends to it any more.
    pub on_agent_exit: AgentExit,
}

/// Whom a signal that is not a kill is sent to. A kill is always for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillTarget {
    /// The main process.
    #[default]
    Main,
    /// Its process group.
    Group,
    /// Every process of the task's cgroup.
    Cgroup,
}

/// One step of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillStep {
    /// Number.
    pub signal: i32,
    /// How long until the next step, in milliseconds.
    pub grace_ms: u64,
}

/// What becomes of processes that the main process leaves behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stragglers {
    /// They are killed before the result is told.
    #[default]
    Kill,
    /// They go on, and their output is still collected.
    Leave,
}

/// When a task is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitType {
    /// When its main process ends.
    #[default]
    Main,
    /// When its cgroup is empty; the status is the main process's.
    Cgroup,
}

/// What becomes of a task whose executor dies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorLoss {
    /// Another executor goes on with it.
    #[default]
    Adopt,
    /// Whoever finds it kills it.
    Kill,
}

/// What becomes of a task whose driver, or its agent, went away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentExit {
    /// It goes on.
    #[default]
    Keep,
    /// It is stopped when none came back for this long.
    StopAfter {
        /// In milliseconds.
        limit_ms: u64,
    },
}

impl AgentExit {
    /// How long the task may be without a driver that attends to it; `None`: for ever.
    pub fn limit(self) -> Option<Duration> {
        match self {
            AgentExit::Keep => None,
            AgentExit::StopAfter { limit_ms } => Some(Duration::from_millis(limit_ms)),
        }
    }
}

/// A bound of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxRuntime {
    /// From the release of the main process, in milliseconds.
    pub limit_ms: u64,
    /// What it is stopped with.
    pub signal: i32,
    /// How long it may then take, in milliseconds.
    pub grace_ms: u64,
}

impl MaxRuntime {
    /// From the release of the main process.
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }
}
