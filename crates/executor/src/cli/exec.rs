//! `exec`: a session inside a task.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use holdfast_wire::executor_v1::{ExecInput, ExecOutput, ExecSetup, SessionExit, exec_input, exec_output};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::connection::{Connection, connect};
use super::known::end_of;
use super::signals::Signals;
use super::target::TaskArgument;
use super::terminal::{RawMode, size};
use super::{exit_code, print, print_error};

/// Messages on their way.
const IN_FLIGHT: usize = 8;
const CHUNK: usize = 16 * 1024;

/// `exec`.
///
/// The exit status is the command's, 128 + n after signal n. The command ends with this process: nothing of it stays behind.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor exec -it web -- /bin/sh
  holdfast-executor exec web -- ps aux
  pg_dump db | holdfast-executor exec -i web -- psql")]
pub struct Exec {
    #[command(flatten)]
    task: TaskArgument,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Exec {
    pub async fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let target = self.task.find(state_dir)?;
        // Before the terminal is touched: a signal must find its handler.
        let mut signals = Signals::watch()?;
        let mut peer = match connect(&target).await? {
            Connection::Peer { peer, .. } => peer,
            Connection::Over(result) => bail!("the task has ended: {}", end_of(&result)),
        };
        let (inputs, messages) = mpsc::channel(IN_FLIGHT);
        let setup = ExecSetup {
            command: self.command,
            tty: self.tty,
        };
        inputs.send(input(exec_input::Message::Setup(setup))).await?;
        let outputs = peer.executor.exec_stream(ReceiverStream::new(messages)).await;
        let mut outputs = outputs.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        // Nothing is known of the command until its first message; a refusal should not be written to a raw terminal.
        let raw = if self.tty && self.interactive {
            RawMode::enter().context("setting up the terminal")?
        } else {
            None
        };
        if self.interactive {
            feed(inputs.clone());
        } else {
            let _ = inputs.send(input(exec_input::Message::StdinClose(true))).await;
        }
        let ended = tokio::select! {
            ended = copy(&mut outputs) => ended,
            ended = resize(&inputs), if self.tty => ended,
            // The session ends by the end of its connection.
            number = signals.next() => Ok(exit_code(128 + number)),
        };
        drop(raw);
        ended
    }
}

fn input(message: exec_input::Message) -> ExecInput {
    ExecInput { message: Some(message) }
}

/// Reads standard input in a thread of its own, which ends with the process: a read of it cannot be given up.
fn feed(inputs: mpsc::Sender<ExecInput>) {
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let message = match io::stdin().lock().read(&mut chunk) {
                Ok(count @ 1..) => exec_input::Message::Stdin(chunk[..count].to_vec()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => exec_input::Message::StdinClose(true),
            };
            let is_last = matches!(message, exec_input::Message::StdinClose(_));
            if inputs.blocking_send(input(message)).is_err() || is_last {
                return;
            }
        }
    });
}

async fn copy(outputs: &mut Streaming<ExecOutput>) -> Result<ExitCode> {
    loop {
        let output = outputs
            .message()
            .await
            .map_err(|status| anyhow!("{}", status.message()))?
            .context("the executor went away before the command ended")?;
        match output.message {
            Some(exec_output::Message::Stdout(bytes)) => print(&bytes)?,
            Some(exec_output::Message::Stderr(bytes)) => print_error(&bytes)?,
            Some(exec_output::Message::Exit(SessionExit { exit_code: code, .. })) => return Ok(exit_code(code)),
            Some(exec_output::Message::StdoutClose(_) | exec_output::Message::StderrClose(_)) | None => {}
        }
    }
}

/// Tells the session the terminal's size, at once and when it changes. Does not end but with an error.
async fn resize(inputs: &mpsc::Sender<ExecInput>) -> Result<ExitCode> {
    let mut changes = signal(SignalKind::window_change()).context("watching the terminal's size")?;
    loop {
        if let Some(size) = size() {
            let _ = inputs.send(input(exec_input::Message::Size(size))).await;
        }
        if changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
