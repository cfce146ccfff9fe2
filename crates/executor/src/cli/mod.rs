//! The executor by hand: for somebody debugging while driver, agent or the executor itself are dead, and for somebody without an
//! orchestrator.

mod adopt;
mod attributes;
mod completions;
mod connection;
mod detached;
mod ending;
mod entry;
mod exec;
mod freeze;
mod isolation;
mod known;
mod limits;
mod logs;
mod ls;
mod man;
mod network;
mod output;
mod processes;
mod relay;
mod remove;
mod run;
mod serve;
mod signal_task;
mod signals;
mod stats;
mod status;
mod stop;
mod table;
mod target;
mod terminal;
mod top;
mod update;
mod values;
mod wait;

use std::ffi::OsStr;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};

/// As it is called.
const PROGRAM: &str = "holdfast-executor";
/// Names the state directory where `--state-dir` does not.
const STATE_DIR: &str = "HOLDFAST_STATE_DIR";

/// Supervises one task, and answers for tasks by hand.
///
/// TASK is a task id or the beginning of one, the beginning of an allocation id, ALLOC/NAME, the name of a task, a supervision
/// directory, or the path of an executor's socket.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Arguments {
    /// Where supervision directories lie [default: $HOLDFAST_STATE_DIR, else /var/lib/holdfast, without root
    /// $XDG_STATE_HOME/holdfast]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the tasks of all drivers
    Ls(ls::Ls),
    /// Show what is known of a task
    Status(status::ShowStatus),
    /// Show what all tasks use, live
    Top(top::Top),
    /// Show what a task uses
    Stats(stats::Stats),
    /// List the processes of a task
    Ps(processes::Processes),
    /// Print a task's output
    Logs(logs::Logs),
    /// Run a command inside a task
    Exec(exec::Exec),
    /// Send a task one signal
    Signal(signal_task::SignalTask),
    /// Stop a task: a signal, and the kill after a grace
    Stop(stop::StopTask),
    /// Wait until tasks are over
    Wait(wait::Wait),
    /// Stop every process of a task from running, until it is thawed
    Freeze(freeze::Freeze),
    /// Let a frozen task go on
    Thaw(freeze::Thaw),
    /// Change the limits of a task
    Update(update::Update),
    /// Start an executor for a task that lost its own
    Adopt(adopt::Adopt),
    /// Run a command under supervision
    Run(Box<run::Run>),
    /// Remove what is left of tasks that `run` started
    Rm(remove::Remove),
    /// Serve Nomad's executor protocol for one task, in the foreground
    Serve(serve::Serve),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual, or write its pages
    Man(man::Man),
}

/// Parses, does, and says what went wrong in one line. Wrong usage is 2, what was not found and all else 1.
pub fn main() -> ExitCode {
    let Arguments { state_dir, command } = Arguments::parse();
    let state_dir = state_dir
        .or_else(|| {
            std::env::var_os(STATE_DIR)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
        })
        .unwrap_or_else(holdfast_record::default_state_dir);
    let done = match command {
        Command::Ls(ls) => within_runtime(ls.run(&state_dir)),
        Command::Status(status) => within_runtime(status.run(&state_dir)),
        Command::Top(top) => within_runtime(top.run(&state_dir)),
        Command::Ps(processes) => within_runtime(processes.run(&state_dir)),
        Command::Stats(stats) => within_runtime(stats.run(&state_dir)),
        Command::Signal(signal) => within_runtime(signal.run(&state_dir)),
        Command::Wait(wait) => within_runtime(wait.run(&state_dir)),
        Command::Freeze(freeze) => within_runtime(freeze.run(&state_dir)),
        Command::Thaw(thaw) => within_runtime(thaw.run(&state_dir)),
        Command::Update(update) => within_runtime(update.run(&state_dir)),
        Command::Rm(remove) => within_runtime(remove.run(&state_dir)),
        Command::Adopt(adopt) => within_runtime(adopt.run(&state_dir)),
        Command::Logs(logs) => logs.run(&state_dir),
        Command::Exec(exec) => within_runtime(exec.run(&state_dir)),
        Command::Stop(stop) => within_runtime(stop.run(&state_dir)),
        Command::Run(run) => within_runtime(run.run(&state_dir)),
        Command::Serve(serve) => within_runtime(serve.run(&state_dir)),
        Command::Completions(completions) => completions.run(Arguments::command()),
        Command::Man(man) => man.run(Arguments::command()),
    };
    match done {
        Ok(code) => code,
        Err(e) if is_closed_output(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error may be gone, too.
            let _ = writeln!(io::stderr(), "holdfast-executor: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Options that contradict each other, as the parser tells what it cannot read.
fn wrong_usage(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {message}");
    ExitCode::from(2)
}

fn within_runtime(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(work)
}

/// Standard output is closed: whoever read it has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct ClosedOutput;

fn is_closed_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClosedOutput>().is_some()
}

/// Writes to standard output at once.
fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    write_out(&mut io::stdout().lock(), bytes.as_ref()).context("writing to standard output")
}

/// Writes to standard error at once what was asked for, and is no message.
fn print_error(bytes: impl AsRef<[u8]>) -> Result<()> {
    write_out(&mut io::stderr().lock(), bytes.as_ref()).context("writing to standard error")
}

fn write_out(stream: &mut impl Write, bytes: &[u8]) -> Result<()> {
    match stream.write_all(bytes).and_then(|()| stream.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        Err(e) => Err(e.into()),
    }
}

/// One document, for programs.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A process's exit code; what does not fit becomes a plain failure.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// For messages.
fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
