//! A command that runs to its end and whose output comes back with its exit: a script check.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use holdfast_sys::process::ExitStatus;
use holdfast_sys::{file, readiness};
use holdfast_wire::executor_v1::{ExecResponse, SessionExit};

use super::living::Sessions;
use super::start::{Session, Standard};
use super::{Context, SessionError, above_streams, exit_of, output_pipe, preparing};
use crate::children::Children;

/// How much of the output is returned, its end (contract, X-2).
const OUTPUT_BOUND: usize = 4096;
/// How long a command may take to die at its time limit before the answer is given without it.
const DYING_BOUND: Duration = Duration::from_secs(1);

/// Runs a command to its end and returns the end of its combined output.
pub async fn run(
    context: &Context,
    children: &Children,
    sessions: &Sessions,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecResponse, SessionError> {
    let (output, writer) = preparing("making a pipe", output_pipe())?;
    let null = preparing("opening /dev/null", no_input())?;
    let standard = Standard::combined(null, writer);
    let mut session = Session::start(context, children, sessions, command, standard).await?;
    let mut tail = Tail::default();
    let mut chunk = [0; OUTPUT_BOUND];
    // The time runs from execve: looking up and cloning are not the command's (contract, pain 38).
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut is_open = true;
    let exit = loop {
        tokio::select! {
            count = output.read(&mut chunk), if is_open => match count {
                Ok(0) | Err(_) => is_open = false,
                Ok(count) => {
                    tail.push(&chunk[..count]);
                    // A command that writes faster than it is read would keep everybody else waiting.
                    tokio::task::yield_now().await;
                }
            },
            status = session.exited() => break exit_of(status),
            () = &mut deadline => {
                session.kill();
                let died = tokio::time::timeout(DYING_BOUND, session.exited()).await;
                let status = died.unwrap_or(ExitStatus::Signalled(libc::SIGKILL));
                break SessionExit { timed_out: true, ..exit_of(status) };
            }
        }
    };
    // What it wrote before it ended is there; what it left running may write on, and is not waited for.
    let mut unread = file::unread_bytes(&output).unwrap_or(0);
    while unread > 0
        && let Ok(count @ 1..) = readiness::read(&output, &mut chunk)
    {
        tail.push(&chunk[..count]);
        unread = unread.saturating_sub(count);
    }
    Ok(ExecResponse {
        output: tail.0,
        exit: Some(exit),
    })
}

fn no_input() -> io::Result<OwnedFd> {
    above_streams(&File::open("/dev/null")?.into())
}

/// The last bytes of an output.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0
            .extend_from_slice(&bytes[bytes.len().saturating_sub(OUTPUT_BOUND)..]);
        let excess = self.0.len().saturating_sub(OUTPUT_BOUND);
        self.0.drain(..excess);
    }
}
