//! `status`: what is known of one task.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use holdfast_record::{CredentialsRecord, OutputRecord, PlanRecord, ProcessIdentity, Record, now_ms};
use holdfast_sys::clock::boottime;

use super::known::{Known, State, age, end_of, lives, signal_name, time};
use super::print;
use super::table::printable;
use super::target::{Target, TaskArgument};
use crate::client;

/// `status`.
#[derive(Debug, Args)]
pub struct ShowStatus {
    #[command(flatten)]
    task: TaskArgument,
}

impl ShowStatus {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let text = match self.task.find(state_dir)? {
            Target::Dir(dir) => render(&lines(&Known::of(dir).await?)),
            Target::Socket(path) => {
                let peer = client::connect_socket(&path).await?;
                let identity = peer.identity;
                let main = identity
                    .main
                    .map_or("none".to_owned(), |main| format!("pid {}", main.pid));
                render(&[
                    ("Task", identity.task_id.clone()),
                    ("State", format!("{:?}", identity.state()).to_lowercase()),
                    ("Main", main),
                    (
                        "Executor",
                        format!("pid {}, version {}", identity.pid, identity.version),
                    ),
                    ("Socket", path.display().to_string()),
                ])
            }
        };
        print(text)?;
        Ok(ExitCode::SUCCESS)
    }
}

type Line = (&'static str, String);

fn render(lines: &[Line]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}\n", printable(value)))
        .collect()
}

fn lines(known: &Known) -> Vec<Line> {
    let intent = &known.intent;
    let mut lines = vec![
        ("Task", intent.task_id.clone()),
        ("Name", intent.task_name.clone()),
        ("Allocation", intent.alloc_id.clone()),
        ("Driver", intent.driver.clone()),
        ("State", state(&known.state)),
    ];
    if let State::Ended(result) = &known.state {
        lines.push(("Exit", end_of(result)));
        if result.finished_at_ms > 0 {
            lines.push(("Finished", when(result.finished_at_ms)));
        }
    }
    if let Some(record) = &known.record {
        recorded(record, &known.state, &mut lines);
    }
    lines.push(("Directory", known.dir.path().display().to_string()));
    lines
}

fn state(state: &State) -> String {
    match state {
        State::Unreachable(reason) => format!("unreachable: {reason}"),
        State::Orphaned => "orphaned: its executor is dead; stop and exec start another one".to_owned(),
        state => state.word().to_owned(),
    }
}

fn recorded(record: &Record, state: &State, lines: &mut Vec<Line>) {
    let PlanRecord {
        command,
        work_dir,
        user,
        credentials,
        stdout,
        stderr,
        placement,
        oom_score_adj,
        network_namespace,
        attributes: _,
        ending: _,
        max_sessions: _,
        extra: _,
    } = &record.plan;
    lines.push(("Started", when(record.started_at_ms)));
    if let (Some(stop), false) = (&record.stop, matches!(state, State::Ended(_))) {
        lines.push((
            "Stopping",
            format!(
                "{} was sent; killed in {} s",
                signal_name(stop.signal),
                stop.remaining(boottime()).as_secs()
            ),
        ));
    }
    lines.push(("Command", command.clone()));
    lines.push(("Work dir", work_dir.clone()));
    if let Some(CredentialsRecord { uid, gid, groups: _ }) = credentials {
        lines.push(("User", format!("{user} (uid {uid}, gid {gid})")));
    }
    lines.push(("Stdout", output(stdout)));
    lines.push(("Stderr", output(stderr)));
    if let Some(scope) = &placement.scope {
        let foreign = if placement.foreign { " (not ours)" } else { "" };
        lines.push(("Cgroup", format!("{}{foreign}", scope.display())));
    }
    lines.push(("Oom score", oom_score_adj.to_string()));
    if let Some(path) = network_namespace {
        lines.push(("Network", path.clone()));
    }
    // Pids of another boot are strangers'.
    let is_current = holdfast_record::boot_id().is_ok_and(|boot| boot == record.boot_id);
    let process = |identity: &ProcessIdentity| match is_current && lives(identity) {
        true => format!("pid {}", identity.pid),
        false => format!("pid {}, gone", identity.pid),
    };
    lines.push(("Main", process(&record.main)));
    lines.push(("Init", process(&record.init)));
    lines.push(("Executor", process(&record.executor)));
    if !record.committed && !matches!(state, State::Ended(_)) {
        lines.push((
            "Committed",
            "no: whoever launched it has not answered for it yet".to_owned(),
        ));
    }
}

fn when(milliseconds: i64) -> String {
    format!("{} ({} ago)", time(milliseconds), age(now_ms() - milliseconds))
}

fn output(output: &OutputRecord) -> String {
    match output {
        OutputRecord::Null => "/dev/null".to_owned(),
        OutputRecord::Path(path) => path.display().to_string(),
        OutputRecord::Rotated {
            directory,
            prefix,
            max_files,
            max_file_bytes,
            overflow: _,
        } => format!(
            "{}/{prefix}.<n>, {max_files} files of {max_file_bytes} bytes",
            directory.display()
        ),
    }
}
