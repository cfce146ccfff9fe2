//! `doctor`: what this host can and cannot do for tasks, why, and what to change. It changes nothing.

mod cgroups;
mod host;
mod isolation;
mod limits;
mod paths;
mod report;
mod users;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_sandbox::host::{AgentUnit, Files, Host};

use crate::plugin_name::{PluginName, UnknownName};

pub use report::{Check, Group, Report, State};

/// Tell what this host can and cannot do for tasks, why, and what to change. Changes nothing.
///
/// It speaks for the user and the limits that it is run with: run it as the agent's user.
/// The exit status is 0 if tasks of the named driver can run here, else 1. What is only limited does not count.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// One object with stable keys instead of a table
    #[arg(long)]
    json: bool,
    /// The driver in question: raw_exec, holdfast_raw, exec or holdfast. [default: as without a subcommand]
    #[arg(long)]
    name: Option<PluginName>,
    /// The plugin option `state_dir`. [default: the one of this user]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The agent's `data_dir`. [default: the usual ones, as far as they are there]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Doctor {
    /// Looks at the host and prints what it has found. `fallback` is the driver that is meant where none is named.
    pub fn run(self, fallback: impl FnOnce() -> Result<PluginName, UnknownName>) -> anyhow::Result<ExitCode> {
        let Doctor {
            json,
            name,
            state_dir,
            data_dir,
        } = self;
        let name = name.map_or_else(fallback, Ok)?;
        let state_dir = std::path::absolute(state_dir.unwrap_or_else(holdfast_record::default_state_dir))?;
        let report = examine(&Subject {
            name,
            state_dir,
            data_dir,
        });
        let text = if json {
            let mut text = serde_json::to_string_pretty(&report)?;
            text.push('\n');
            text
        } else {
            report.to_string()
        };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(match report.can_run {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What is examined.
#[derive(Debug)]
pub struct Subject {
    /// Whether its tasks can run is the question.
    pub name: PluginName,
    /// Where its records would lie.
    pub state_dir: PathBuf,
    /// Where the agent keeps allocations, if somebody said so.
    pub data_dir: Option<PathBuf>,
}

/// Looks at this host.
pub fn examine(subject: &Subject) -> Report {
    let files = Files::of_this_host();
    let facts = Host::look();
    let unit = AgentUnit::find(&files);
    let mut checks = host::checks(&facts, &unit);
    checks.extend(cgroups::checks(&facts, &unit));
    checks.extend(isolation::checks(&facts));
    checks.extend(limits::checks(&files));
    checks.extend(users::checks(&files, &facts));
    checks.extend(paths::checks(&files, &facts, subject));
    Report::new(subject.name, checks, &facts)
}
