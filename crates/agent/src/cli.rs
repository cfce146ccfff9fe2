//! The agent's part of the command line.

use crate::agent::{self, Options};
use crate::{console, jobfile};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing::Level;

/// Run jobs on this host without an orchestrator.
#[derive(Debug, clap::Subcommand)]
pub enum Agent {
    /// Run a job file in the foreground until the job is over or a signal stops it.
    Run(Run),
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

impl Agent {
    /// Does what was asked; the exit code is that of the job. An error is one message without causes.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Agent::Run(run) => run.run().map_err(|error| anyhow::anyhow!(console::in_one_line(&error))),
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let code = tokio::task::LocalSet::new().block_on(&runtime, agent::run(options))?;
        Ok(ExitCode::from(code))
    }
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
