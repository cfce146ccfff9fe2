//! `ls`: the tasks of all drivers.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use holdfast_record::{Status, SupervisionDir, driver_roots, now_ms};

use super::entry::Entry;
use super::known::{Known, State, age, signal_name};
use super::table::{printable, render};
use super::{print, print_json};

/// `ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor ls
  holdfast-executor ls --json | jq -r '.[] | select(.state == \"orphaned\") | .dir'")]
pub struct Ls {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
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
            let entries: Vec<Entry> = tasks.iter().map(Entry::of).collect();
            print_json(&entries)?;
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
        known.word().to_owned(),
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
