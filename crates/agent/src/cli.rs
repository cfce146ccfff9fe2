//! The agent's part of the command line.

use crate::agent::{self, Options};
use crate::drill::{self, Drill};
use crate::{console, jobfile};
use anyhow::Context as _;
use clap::ValueEnum as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing::Level;

/// Run jobs on this host without an orchestrator.
#[derive(Debug, clap::Subcommand)]
pub enum Agent {
    /// Run a job file in the foreground until the job is over or a signal stops it.
    Run(Run),
    /// Rehearse crashes: real drivers, executors and tasks are killed, and every promise is checked.
    Drill(Rehearse),
}

/// `agent run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The job file, in the part of Nomad's job language that a single host can honour.
    #[arg(value_name = "FILE.nomad.hcl")]
    file: PathBuf,
    /// Where allocations, handles and the driver's state lie. The same directory again goes on with what runs there.
    /// [default: a directory of this user for this job]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A file with `plugin "NAME" { config { … } }` blocks for the drivers, as in Nomad's agent configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what each task uses, every three seconds.
    #[arg(long)]
    stats: bool,
    /// The least severe lines of the drivers' logs that are printed: trace, debug, info, warn or error.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    driver_log: Level,
}

/// `agent drill`.
///
/// Each drill runs in a folder of its own, which is removed at the end. Exit code 0: every promise was kept; 1: one was broken; 2: a drill
/// is not possible on this host, or the arguments make no sense.
#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub struct Rehearse {
    /// Names of drills, or `all`.
    #[arg(value_name = "NAME", required_unless_present = "list", value_parser = parse_drills)]
    drills: Vec<Drills>,
    /// Print what drills there are.
    #[arg(long)]
    list: bool,
    /// Print one JSON object per line of the timeline and per verdict.
    #[arg(long)]
    json: bool,
    /// How tasks are started: `raw`, or `holdfast` (isolated; needs root).
    #[arg(long, value_name = "PROFILE", default_value = "raw")]
    profile: drill::Profile,
    /// Where the drills' folders are made. [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Keep the drills' folders, with logs and evidence.
    #[arg(long)]
    keep: bool,
    /// How many tasks there are at a time in a storm.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tasks: u32,
    /// How long a storm lasts, as in `10m`.
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    lasts: Duration,
    /// What chance begins with in a storm. [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

/// One name on the command line.
#[derive(Debug, Clone)]
enum Drills {
    All,
    One(Drill),
}

fn parse_drills(text: &str) -> Result<Drills, String> {
    if text == "all" {
        return Ok(Drills::All);
    }
    Drill::from_str(text, false)
        .map(Drills::One)
        .map_err(|_| "there is no such drill; --list prints all".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    holdfast_sandbox::duration::parse(text).map_err(|error| error.to_string())
}

impl Agent {
    /// Does what was asked; the exit code is that of the job. An error is one message without causes.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Agent::Run(run) => run.run().map_err(|error| anyhow::anyhow!(console::in_one_line(&error))),
            Agent::Drill(drill) => drill
                .run()
                .map_err(|error| anyhow::anyhow!(console::in_one_line(&error))),
        }
    }
}

impl Run {
    fn run(self) -> anyhow::Result<ExitCode> {
        let job = jobfile::read(&self.file)?;
        let plugins = self
            .config
            .as_deref()
            .map(jobfile::read_plugin_configs)
            .transpose()?
            .unwrap_or_default();
        let data_dir = self.data_dir.unwrap_or_else(|| default_data_dir(&job.id));
        let options = Options {
            job_file: self.file,
            job,
            plugins,
            data_dir,
            stats: self.stats,
            log_level: self.driver_log,
        };
        in_runtime(agent::run(options)).map(ExitCode::from)
    }
}

impl Rehearse {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.list {
            std::io::stdout().write_all(drill::list(self.json).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut drills: Vec<Drill> = Vec::new();
        for name in self.drills {
            match name {
                Drills::All => drills.extend(Drill::ALL),
                Drills::One(drill) => drills.push(drill),
            }
        }
        let options = drill::Options {
            drills,
            profile: self.profile,
            state_dir: self.state_dir,
            keep: self.keep,
            json: self.json,
            storm: drill::StormOptions {
                tasks: self.tasks,
                lasts: self.lasts,
                seed: self.seed,
            },
        };
        in_runtime(drill::run(options))
    }
}

fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Beside the driver's own state directory: persistent, and this user's. A job has a directory of its own, so that
/// several can run at once.
fn default_data_dir(job_id: &str) -> PathBuf {
    let state_dir = holdfast_record::default_state_dir();
    let mut name = state_dir.file_name().unwrap_or_default().to_owned();
    name.push("-agent");
    state_dir.parent().unwrap_or(Path::new("/")).join(name).join(job_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_a_directory_of_its_own_by_default() {
        let dir = default_data_dir("web");
        assert!(dir.ends_with("holdfast-agent/web"), "{}", dir.display());
    }
}
