//! A task in JSON: `ls --json`, and with more of it `status --json`.

use holdfast_record::Status;
use serde::Serialize;

use super::known::{Known, State};

/// One task. Fields are added and never renamed; what is not known is null. Described in docs/executor.md.
#[derive(Debug, Serialize)]
pub struct Entry {
    task_id: String,
    alloc_id: String,
    task: String,
    driver: String,
    state: &'static str,
    frozen: bool,
    pid: Option<i32>,
    started_at_ms: Option<i64>,
    finished_at_ms: Option<i64>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    oom_killed: bool,
    timed_out: bool,
    reason: Option<String>,
    dir: String,
}

impl Entry {
    /// What is known of it.
    pub fn of(known: &Known) -> Self {
        let result = match &known.state {
            State::Ended(result) => Some(result),
            _ => None,
        };
        let status = result.map(|result| &result.status);
        Self {
            task_id: known.intent.task_id.clone(),
            alloc_id: known.intent.alloc_id.clone(),
            task: known.intent.task_name.clone(),
            driver: known.intent.driver.clone(),
            state: known.state.word(),
            frozen: known.frozen,
            pid: known.living_main(),
            started_at_ms: known.record.as_ref().map(|record| record.started_at_ms),
            finished_at_ms: result.map(|result| result.finished_at_ms).filter(|time| *time > 0),
            exit_code: match status {
                Some(Status::Exited(code)) => Some(*code),
                Some(Status::Signalled(signal)) => Some(128 + signal),
                _ => None,
            },
            signal: match status {
                Some(Status::Signalled(signal)) => Some(*signal),
                _ => None,
            },
            oom_killed: result.is_some_and(|result| result.oom_killed),
            timed_out: result.is_some_and(|result| result.timed_out),
            reason: match (status, &known.state) {
                (Some(Status::Unknown(reason) | Status::NotStarted(reason)), _) | (_, State::Unreachable(reason)) => {
                    Some(reason.clone())
                }
                _ => None,
            },
            dir: known.dir.path().display().to_string(),
        }
    }
}
