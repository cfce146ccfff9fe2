//! `ls`: the tasks of all drivers.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use holdfast_record::{Status, SupervisionDir, driver_roots, now_ms};
use serde::Serialize;

use super::known::{Known, State, age, signal_name};
use super::print;
use super::table::{printable, render};

/// `ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Print JSON, with everything that is known
    #[arg(long)]
    json: bool,
}

/// One task in JSON. Fields are added and never renamed.
#[derive(Debug, Serialize)]
struct Entry {
    task_id: String,
    alloc_id: String,
    task: String,
    driver: String,
    state: &'static str,
    pid: Option<i32>,
    started_at_ms: Option<i64>,
    finished_at_ms: Option<i64>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    oom_killed: bool,
    reason: Option<String>,
    dir: String,
}

impl Ls {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let mut tasks = Vec::new();
        let mut damaged = Vec::new();
        for root in driver_roots(state_dir)? {
            for dir in SupervisionDir::list(&root)? {
                let known = match dir {
                    Ok(dir) => Known::of(dir).await,
                    Err(e) => Err(e),
                };
                match known {
                    Ok(known) => tasks.push(known),
                    // It ended while it was looked at.
                    Err(holdfast_record::RecordError::Gone { .. } | holdfast_record::RecordError::Replaced { .. }) => {}
                    Err(e) => damaged.push(e),
                }
            }
        }
        tasks.sort_by(|a, b| (a.intent.created_at_ms, a.dir.path()).cmp(&(b.intent.created_at_ms, b.dir.path())));
        if self.json {
            let entries: Vec<Entry> = tasks.iter().map(entry).collect();
            print(format!("{}\n", serde_json::to_string_pretty(&entries)?))?;
        } else {
            let rows: Vec<_> = tasks.iter().map(row).collect();
            print(render(
                &["ID", "TASK", "DRIVER", "STATE", "PID", "SINCE", "EXIT"],
                &rows,
            ))?;
        }
        for e in &damaged {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "holdfast-executor: {e}");
        }
        Ok(if damaged.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn row(known: &Known) -> Vec<String> {
    let since = match &known.state {
        State::Ended(result) if result.finished_at_ms > 0 => result.finished_at_ms,
        State::Ended(_) => 0,
        _ => known
            .record
            .as_ref()
            .map_or(known.intent.created_at_ms, |record| record.started_at_ms),
    };
    let exit = match &known.state {
        State::Ended(result) => match &result.status {
            Status::Exited(code) => code.to_string(),
            Status::Signalled(signal) if result.oom_killed => format!("{} (oom)", signal_name(*signal)),
            Status::Signalled(signal) => signal_name(*signal),
            Status::Unknown(_) => "unknown".to_owned(),
            Status::NotStarted(_) => "not started".to_owned(),
        },
        _ => "-".to_owned(),
    };
    vec![
        // As Nomad shortens its ids; a person can type it back.
        printable(&known.intent.task_id.chars().take(8).collect::<String>()),
        printable(&known.intent.task_name),
        printable(&known.intent.driver),
        known.state.word().to_owned(),
        known
            .living_main()
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        if since > 0 {
            age(now_ms() - since)
        } else {
            "-".to_owned()
        },
        exit,
    ]
}

fn entry(known: &Known) -> Entry {
    let result = match &known.state {
        State::Ended(result) => Some(result),
        _ => None,
    };
    let status = result.map(|result| &result.status);
    Entry {
        task_id: known.intent.task_id.clone(),
        alloc_id: known.intent.alloc_id.clone(),
        task: known.intent.task_name.clone(),
        driver: known.intent.driver.clone(),
        state: known.state.word(),
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
        reason: match (status, &known.state) {
            (Some(Status::Unknown(reason) | Status::NotStarted(reason)), _) | (_, State::Unreachable(reason)) => {
                Some(reason.clone())
            }
            _ => None,
        },
        dir: known.dir.path().display().to_string(),
    }
}
