//! A command whose standard streams are connected to a client: `alloc exec`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::{file, socket};
use holdfast_wire::executor_v1::{ExecInput, ExecOutput, exec_input, exec_output};
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::living::Sessions;
use super::start::{Session, Standard};
use super::terminal::{Input, Terminal};
use super::{Context, SessionError, above_streams, exit_of, output_pipe, preparing};
use crate::children::Children;

/// One read.
const CHUNK: usize = 16 * 1024;
/// How long a terminal waits for the size that its client sends first, so that the command never sees another.
const SIZE_BOUND: Duration = Duration::from_millis(10);
/// More than a terminal holds of what was written to it (64 KiB of the driver's and 4 KiB of the line discipline's).
const TERMINAL_BUFFER: usize = 128 * 1024;

/// Where a session's messages go; closed when the client is gone.
pub type Outbound = mpsc::Sender<Result<ExecOutput, Status>>;

/// Runs a command with its streams connected to a client, until it ends or the client goes.
pub async fn stream<S>(
    context: Context,
    children: Children,
    sessions: Sessions,
    command: Vec<String>,
    tty: bool,
    inbound: S,
    outbound: Outbound,
) where
    S: Stream<Item = Result<ExecInput, Status>> + Send + Unpin + 'static,
{
    let running = async {
        let streams = if tty {
            terminal_streams(&context)
        } else {
            pipe_streams()
        };
        let Streams {
            standard,
            input,
            outputs,
            terminal,
        } = streams.map_err(|e| e.status())?;
        let (early, inbound) = early_size(inbound, terminal.as_ref()).await;
        let mut session = Session::start(&context, &children, &sessions, &command, standard)
            .await
            .map_err(|e| e.status())?;
        let (ended, has_ended) = watch::channel(false);
        // Dropped, and thereby ended, with this session.
        let mut copying = JoinSet::new();
        for output in outputs {
            copying.spawn(copy(output, outbound.clone(), has_ended.clone()));
        }
        let status = tokio::select! {
            status = session.exited() => status,
            misuse = feed(tokio_stream::iter(early).chain(inbound), input, terminal) => return Err(misuse),
        };
        let _ = ended.send(true);
        while copying.join_next().await.is_some() {}
        Ok(exec_output::Message::Exit(exit_of(status)))
    };
    // Whatever the session holds is dropped before its last message is sent: the client may start the next one upon it.
    let last = tokio::select! {
        last = running => last,
        () = outbound.closed() => return,
    };
    let last = last.map(|message| ExecOutput { message: Some(message) });
    let _ = outbound.send(last).await;
}

/// Both ends of a session's standard streams.
#[derive(Debug)]
struct Streams {
    standard: Standard,
    input: Input,
    outputs: Vec<Output>,
    /// To resize it.
    terminal: Option<Terminal>,
}

/// Where the session writes.
#[derive(Debug)]
enum Output {
    Stdout(Registered),
    Stderr(Registered),
    /// Both.
    Terminal(Terminal),
}

impl Output {
    fn source(&self) -> &Registered {
        match self {
            Self::Stdout(source) | Self::Stderr(source) => source,
            Self::Terminal(terminal) => terminal.output(),
        }
    }

    fn data(&self, bytes: &[u8]) -> exec_output::Message {
        match self {
            Self::Stdout(_) | Self::Terminal(_) => exec_output::Message::Stdout(bytes.to_vec()),
            Self::Stderr(_) => exec_output::Message::Stderr(bytes.to_vec()),
        }
    }

    fn close(&self) -> exec_output::Message {
        match self {
            Self::Stdout(_) | Self::Terminal(_) => exec_output::Message::StdoutClose(true),
            Self::Stderr(_) => exec_output::Message::StderrClose(true),
        }
    }
}

fn pipe_streams() -> Result<Streams, SessionError> {
    let make = || -> io::Result<Streams> {
        let (stdout, stdout_end) = output_pipe()?;
        let (stderr, stderr_end) = output_pipe()?;
        let (stdin_end, stdin) = input_pipe()?;
        Ok(Streams {
            standard: Standard::separate([stdin_end, stdout_end, stderr_end]),
            input: Input::Pipe(stdin),
            outputs: vec![Output::Stdout(stdout), Output::Stderr(stderr)],
            terminal: None,
        })
    };
    preparing("making pipes", make())
}

fn input_pipe() -> io::Result<(OwnedFd, Registered)> {
    let (reader, writer) = socket::pipe()?;
    readiness::set_nonblocking(&writer, true)?;
    Ok((above_streams(&reader)?, Registered::new(writer, Interest::WRITABLE)?))
}

fn terminal_streams(context: &Context) -> Result<Streams, SessionError> {
    let (terminal, end) = preparing("opening a terminal", Terminal::open(context))?;
    Ok(Streams {
        standard: Standard::terminal(end),
        input: Input::Terminal {
            terminal: terminal.clone(),
            is_within_line: false,
        },
        outputs: vec![Output::Terminal(terminal.clone())],
        terminal: Some(terminal),
    })
}

/// Sizes a terminal by the client's first message. Another first message is given back, to be the session's.
async fn early_size<S>(mut inbound: S, terminal: Option<&Terminal>) -> (Option<S::Item>, S)
where
    S: Stream<Item = Result<ExecInput, Status>> + Unpin,
{
    let Some(terminal) = terminal else {
        return (None, inbound);
    };
    let early = tokio::time::timeout(SIZE_BOUND, inbound.next()).await;
    match early.ok().flatten() {
        Some(Ok(ExecInput {
            message: Some(exec_input::Message::Size(size)),
        })) => {
            terminal.resize(size);
            (None, inbound)
        }
        other => (other, inbound),
    }
}

/// Passes the client's messages on for as long as they are messages of a session; returns what was wrong with one. A client that
/// half-closes has no more input.
async fn feed<S>(mut inbound: S, input: Input, terminal: Option<Terminal>) -> Status
where
    S: Stream<Item = Result<ExecInput, Status>> + Unpin,
{
    let mut input = Some(input);
    while let Some(received) = inbound.next().await {
        let message = match received {
            Ok(ExecInput { message }) => message,
            Err(status) => {
                return Status::invalid_argument(format!("the session's input is unusable: {}", status.message()));
            }
        };
        match message {
            Some(exec_input::Message::Stdin(bytes)) => {
                if let Some(open) = &mut input
                    && open.write(&bytes).await.is_err()
                {
                    // The session reads no more; it may go on without.
                    input = None;
                }
            }
            Some(exec_input::Message::StdinClose(true)) => close(&mut input).await,
            Some(exec_input::Message::Size(size)) => {
                if let Some(terminal) = &terminal {
                    terminal.resize(size);
                }
            }
            Some(exec_input::Message::Setup(_)) => return Status::invalid_argument("a session has one setup"),
            Some(exec_input::Message::StdinClose(false)) | None => {}
        }
    }
    close(&mut input).await;
    std::future::pending().await
}

async fn close(input: &mut Option<Input>) {
    if let Some(open) = input.take() {
        open.close().await;
    }
}

/// One output of the session to the client, until its end. Once the session has ended, what it wrote is there; what it left
/// running may hold the pipe, and may write on, and is not waited for.
async fn copy(output: Output, outbound: Outbound, mut has_ended: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK];
    let mut left = None;
    while left != Some(0) {
        let source = output.source();
        let count = match &mut left {
            None => tokio::select! {
                biased;
                _ = has_ended.wait_for(|ended| *ended) => {
                    left = Some(file::unread_bytes(source).unwrap_or(0).max(TERMINAL_BUFFER));
                    continue;
                }
                count = source.read(&mut chunk) => count,
            },
            Some(left) => {
                let count = readiness::read(source, &mut chunk);
                *left = left.saturating_sub(*count.as_ref().unwrap_or(&0));
                count
            }
        };
        // A terminal whose other end is closed says EIO (pty(7)), an empty pipe EAGAIN.
        let Ok(count @ 1..) = count else { break };
        let message = Some(output.data(&chunk[..count]));
        if outbound.send(Ok(ExecOutput { message })).await.is_err() {
            return;
        }
    }
    let message = Some(output.close());
    let _ = outbound.send(Ok(ExecOutput { message })).await;
}
