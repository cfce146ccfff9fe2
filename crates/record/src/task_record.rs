//! `record.json`: what the executor knows of the living task.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BootId, Extra, KillStep, PlanRecord, ProcessIdentity, RECORD_VERSION};

/// Written by the executor before the main process is released, and again whenever something in it changes. Replaced
/// atomically and not synced: after a power cut the boot id says that nothing of it is alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// As in the intent.
    pub task_id: String,
    /// As in the intent.
    pub alloc_id: String,
    /// As in the intent.
    pub task_name: String,
    /// The boot in which the identities are valid.
    pub boot_id: BootId,
    /// When the main process was released; Unix time in milliseconds.
    pub started_at_ms: i64,
    /// The executor that wrote the record last.
    pub executor: ProcessIdentity,
    /// Parent of the main process.
    pub init: ProcessIdentity,
    /// What the job asked to run.
    pub main: ProcessIdentity,
    /// Whoever launched the task has recorded it and answers for it.
    #[serde(default)]
    pub committed: bool,
    /// How it was started.
    pub plan: PlanRecord,
    /// The scope's count of OOM kills before the start: scopes are reused (contract, S-8).
    #[serde(default)]
    pub oom_baseline: u64,
    /// The scope's count of refused forks, likewise.
    #[serde(default)]
    pub forks_baseline: u64,
    /// Present once the task was asked to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopRecord>,
    /// When it will have run as long as it may: milliseconds of CLOCK_BOOTTIME (clock_gettime(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_deadline_boot_ms: Option<u64>,
    /// The driver that attends to a task which must not be without one for long; absent for other tasks, and while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attendant: Option<ProcessIdentity>,
    /// When the task is stopped if none comes back: milliseconds of CLOCK_BOOTTIME (clock_gettime(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattended_until_boot_ms: Option<u64>,
    /// Present once the main process is over and the task goes on without it: whether the kernel killed it for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_oom_killed: Option<bool>,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record {
    /// The version that a fresh record carries.
    pub const VERSION: u32 = RECORD_VERSION;
}

/// A stop under way. An adopting executor carries on with it at the step at which it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// Number of the signal of the step under way.
    pub signal: i32,
    /// When it is killed: milliseconds of CLOCK_BOOTTIME (clock_gettime(2)), so that no clock change moves it.
    pub deadline_boot_ms: u64,
    /// The signal was sent. Recorded after the fact: whoever adopts in between sends it again rather than never.
    #[serde(default)]
    pub signalled: bool,
    /// When the step under way is over, as the deadline; absent: at the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_until_boot_ms: Option<u64>,
    /// The steps that follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<KillStep>,
    /// Somebody asked for it.
    #[serde(default)]
    pub requested: bool,
    /// It began because the task had run as long as it may.
    #[serde(default)]
    pub timed_out: bool,
    /// It began because no driver attended to the task for as long as it may be without one.
    #[serde(default)]
    pub unattended: bool,
    /// It began because the executor died, and the job wants no other one.
    #[serde(default)]
    pub executor_lost: bool,
    /// SIGKILL was sent, so that it says nothing of the kernel's own kills.
    #[serde(default)]
    pub killed: bool,
}

impl StopRecord {
    /// One step; `deadline` in CLOCK_BOOTTIME.
    pub fn new(signal: i32, deadline: Duration) -> StopRecord {
        StopRecord {
            signal,
            deadline_boot_ms: milliseconds(deadline),
            ..StopRecord::default()
        }
    }

    /// The deadline in CLOCK_BOOTTIME.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_boot_ms)
    }

    /// When there is something to do next, in CLOCK_BOOTTIME: at the end of the step, and never later than at the deadline.
    pub fn due(&self) -> Duration {
        let step = self.step_until_boot_ms.map(Duration::from_millis);
        step.map_or(self.deadline(), |step| step.min(self.deadline()))
    }

    /// What is left of the step at `now` (CLOCK_BOOTTIME); zero once it is over.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.due().saturating_sub(now)
    }
}

/// As records hold times.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
