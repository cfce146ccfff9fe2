//! `serve`: Nomad's executor protocol for one task, for whoever connects.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use holdfast_goplugin::services::{self, Shutdown};
use holdfast_wire::executor_v1::executor_server::ExecutorServer;
use holdfast_wire::nomad_executor::executor_server::ExecutorServer as NomadExecutorServer;

use super::signals::Signals;
use crate::foreground::{Foreground, Purpose};
use crate::log;
use crate::nomad::{NomadExecutor, Rules};
use crate::server::{self, Services};
use crate::supervisor::{Command, Phase, Stop};

/// How long the task may take to leave after SIGINT or SIGTERM of this process: Nomad's default kill_timeout.
const GRACE: Duration = Duration::from_secs(5);

/// `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  holdfast-executor serve --socket /run/executor.sock")]
pub struct Serve {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// What the task is isolated by
    #[arg(long, value_enum, default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The least severe lines that are logged
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Nothing but its cgroups, as raw_exec
    None,
    /// Namespaces and a root of its own, as exec
    Exec,
}

impl From<Isolation> for Rules {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::None => Rules::Universal,
            Isolation::Exec => Rules::Isolated,
        }
    }
}

/// Failures are always logged; below them there is only what a person may want to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Serve {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        if let Some(file) = &self.log_file {
            log_to(file)?;
        }
        let say = |message: &str| {
            if self.log_level <= LogLevel::Info {
                log::line(message);
            }
        };
        // Before anything is made that a signal without a handler would leave behind.
        let mut signals = Signals::watch()?;
        let listener =
            server::listen_at(&self.socket).with_context(|| format!("listening on {}", self.socket.display()))?;
        let bound = Bound(std::path::absolute(&self.socket)?);
        let mut foreground = Foreground::start(state_dir, Purpose::Serve, "serve").await?;
        let nomad = NomadExecutor::new(
            foreground.service.clone(),
            foreground.dir().try_clone()?,
            self.isolation.into(),
        );
        let shutdown = Shutdown::new();
        let services = Services::default()
            .with(NomadExecutorServer::new(nomad))
            .with(ExecutorServer::new(foreground.service.clone()))
            .with(services::health().await)
            .with(services::broker(shutdown.clone()))
            .with(services::stdio(shutdown.clone()))
            .with(services::controller(shutdown.clone()));
        foreground.serve_also(listener, services);
        say(&format!("serving on {}", self.socket.display()));
        let number = tokio::select! {
            () = shutdown.begun() => None,
            number = signals.next() => Some(number),
        };
        match number {
            None => say("shutdown was asked for"),
            Some(number) => {
                say("told to leave by a signal");
                let stopped = tokio::select! {
                    stopped = stop(&foreground, number) => stopped,
                    // The second one is meant seriously: what ends the executor kills the task.
                    _ = signals.next() => Ok(()),
                };
                if let Err(e) = stopped {
                    log::line(&format!("stopping the task: {e:#}"));
                }
            }
        }
        // Streams of the host that stay open as long as the executor does.
        shutdown.begin();
        foreground.end(false).await?;
        drop(bound);
        Ok(ExitCode::SUCCESS)
    }
}

async fn stop(foreground: &Foreground, signal: i32) -> Result<()> {
    if foreground.service.snapshot.borrow().phase == Phase::Idle {
        return Ok(());
    }
    let stop = Stop { signal, grace: GRACE };
    match foreground.service.ask(|reply| Command::Stop(stop, reply)).await {
        Ok(stopped) => stopped.map_err(|refusal| anyhow!("{refusal}")),
        // It was over before.
        Err(_) => Ok(()),
    }
}

/// Standard error becomes the file, so that nothing this process says is lost.
fn log_to(path: &Path) -> Result<()> {
    let open = || -> std::io::Result<()> {
        let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        rustix::stdio::dup2_stderr(&file)?;
        Ok(())
    };
    open().with_context(|| format!("opening log file {}", path.display()))
}

/// The socket's name, removed at the end.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
