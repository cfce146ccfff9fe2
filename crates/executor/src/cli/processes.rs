//! `ps`: the processes of a task.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::known::{Known, State, end_of};
use super::print;
use super::table::{printable, render};
use super::target::TaskArgument;

/// `ps`.
///
/// Of a task without a cgroup of its own there is only the main process. Those of sessions are named.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  holdfast-executor ps web")]
pub struct Processes {
    #[command(flatten)]
    task: TaskArgument,
}

impl Processes {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let known = Known::by_records(self.task.find_dir(state_dir)?)?;
        if let State::Ended(result) = &known.state {
            bail!("the task has ended: {}", end_of(result));
        }
        let Some(main) = known.living_main() else {
            bail!(
                "the task in {} does not run: it is {}",
                known.dir.path().display(),
                known.word()
            );
        };
        let mut pids = match known.scope() {
            Some(scope) => holdfast_cgroup::pids(&scope.kill)?,
            None => Vec::new(),
        };
        if !pids.contains(&main) {
            pids.insert(0, main);
        }
        let rows: Vec<Vec<String>> = pids.into_iter().filter_map(|pid| row(pid, main)).collect();
        print(render(&["PID", "PPID", "UID", "STATE", "ROLE", "COMMAND"], &rows))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `None`: it ended meanwhile.
fn row(pid: i32, main: i32) -> Option<Vec<String>> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let field = |name: &str| {
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let first = |text: String| text.split_whitespace().next().unwrap_or("-").to_owned();
    // The line of the hierarchy in which the task is killed ends with the session's cgroup (cgroups(7)).
    let cgroups = String::from_utf8_lossy(&read("cgroup")?).into_owned();
    let session = cgroups.lines().find_map(|line| {
        let last = line.rsplit('/').next()?;
        last.starts_with("exec-")
            .then(|| last.trim_end_matches(".scope").to_owned())
    });
    let role = match session {
        _ if pid == main => "main".to_owned(),
        Some(session) => session,
        None => "-".to_owned(),
    };
    let arguments = String::from_utf8_lossy(&read("cmdline")?)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let command = match arguments.is_empty() {
        // A zombie has none.
        true => format!("[{}]", field("Name")),
        false => arguments,
    };
    Some(vec![
        pid.to_string(),
        field("PPid"),
        first(field("Uid")),
        first(field("State")),
        role,
        printable(&command),
    ])
}
