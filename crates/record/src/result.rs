//! `result`: how the task ended.

use std::ops::RangeInclusive;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Extra, RECORD_VERSION};

/// What WaitTask answers. Its presence in the folder means that the task is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// How the main process ended.
    pub status: Status,
    /// The kernel killed something in the scope for want of memory while the task ran.
    #[serde(default)]
    pub oom_killed: bool,
    /// Unix time in milliseconds; 0: it never started.
    #[serde(default)]
    pub started_at_ms: i64,
    /// Unix time in milliseconds.
    pub finished_at_ms: i64,
    /// It had run as long as it may and was stopped.
    #[serde(default)]
    pub timed_out: bool,
    /// No driver attended to it for as long as it may be without one, and it was stopped.
    #[serde(default)]
    pub unattended: bool,
    /// Its executor died, and it was killed, as its job wants it.
    #[serde(default)]
    pub executor_lost: bool,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

impl TaskResult {
    /// A result of this program's version.
    pub fn new(status: Status, oom_killed: bool, started_at_ms: i64, finished_at_ms: i64) -> TaskResult {
        TaskResult {
            version: RECORD_VERSION,
            status,
            oom_killed,
            started_at_ms,
            finished_at_ms,
            timed_out: false,
            unattended: false,
            executor_lost: false,
            extra: Extra::new(),
        }
    }
}

/// How the main process ended. Only `Exited(0)` is success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// By itself, with this code, 0 to 255.
    #[serde(deserialize_with = "exit_code")]
    Exited(i32),
    /// By this signal, 1 to 64.
    #[serde(deserialize_with = "signal")]
    Signalled(i32),
    /// Why the status is not known.
    Unknown(String),
    /// It was never executed: the step that failed.
    NotStarted(String),
}

impl Status {
    /// True for exit code 0 and nothing else; what is unknown is never success (contract, pain 2).
    pub fn is_success(&self) -> bool {
        *self == Status::Exited(0)
    }
}

/// What no process can end with is damage: an agent is told 128 and the number of a signal, and -128 would be success.
fn within<'de, D: Deserializer<'de>>(deserializer: D, what: &str, range: RangeInclusive<i32>) -> Result<i32, D::Error> {
    let value = i32::deserialize(deserializer)?;
    match range.contains(&value) {
        true => Ok(value),
        false => Err(D::Error::custom(format!("{value} is no {what}"))),
    }
}

fn exit_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    within(deserializer, "exit code", 0..=255)
}

fn signal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    within(deserializer, "signal", 1..=64)
}
