//! Sessions: processes started later inside the task, for a connected client. They end with the client, the time limit, the task.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cgroup::{Scope, SessionScope, Version};
use holdfast_record::PlanRecord;
use holdfast_sys::process::{ExitStatus, PidFd};
use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::socket::pipe;
use holdfast_sys::spawn::{self, Code, Failure, Steps};
use holdfast_sys::{file, terminal};
use holdfast_wire::executor_v1::{ExecInput, ExecOutput, ExecResponse, SessionExit, exec_input, exec_output};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, StreamExt};

use crate::children::Children;
use crate::task::NamedSteps;

/// How much of an unary session's output is returned, its end (contract, X-2).
const OUTPUT_BOUND: usize = 4096;
/// One read.
const CHUNK: usize = 16 * 1024;
/// Where a command is looked for when the task has no PATH (execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// End of transmission: what a terminal takes for the end of its input (termios(3), VEOF).
const END_OF_TRANSMISSION: u8 = 4;

/// What sessions take from their task.
#[derive(Debug, Clone)]
pub struct Context {
    /// Credentials, working directory, namespaces.
    pub plan: Arc<PlanRecord>,
    /// `KEY=value`.
    pub env: Arc<Vec<String>>,
    /// The task's cgroups.
    pub scope: Option<Arc<Scope>>,
}

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An empty command.
    #[error("error cmd must have at least one value")]
    NoCommand,
    /// As Go's os/exec says it, which the built-in passes on.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    /// Something on the way to the clone.
    #[error("{what}: {source}")]
    Prepare {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A step failed: step, object, reason.
    #[error("failed to start command: {0}")]
    Step(String),
}

fn preparing<T>(what: &'static str, answer: io::Result<T>) -> Result<T, SessionError> {
    answer.map_err(|source| SessionError::Prepare { what, source })
}

/// All sessions of the task.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    living: Arc<Mutex<HashMap<u64, PidFd>>>,
    next: Arc<AtomicU64>,
}

impl Sessions {
    /// Kills what the task's cgroup does not hold.
    pub fn kill_all(&self) {
        for pidfd in self.living().values() {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    }

    /// Whether all have ended; a client that does not read its last messages keeps a session, but no process.
    pub fn have_ended(&self) -> bool {
        self.living().values().all(|pidfd| pidfd.has_exited().unwrap_or(true))
    }

    /// How many run.
    pub fn count(&self) -> u32 {
        u32::try_from(self.living().len()).unwrap_or(u32::MAX)
    }

    fn living(&self) -> std::sync::MutexGuard<'_, HashMap<u64, PidFd>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running session; killed with everything that it started when dropped.
#[derive(Debug)]
struct Session {
    number: u64,
    sessions: Sessions,
    scope: Option<SessionScope>,
    pidfd: PidFd,
    status: oneshot::Receiver<ExitStatus>,
}

impl Session {
    /// Starts a command; `connect` adds the steps for its standard streams, which `held` keeps open until it runs.
    async fn start(
        context: &Context,
        children: &Children,
        sessions: &Sessions,
        command: &[String],
        held: Vec<OwnedFd>,
        connect: impl FnOnce(Steps) -> Steps,
    ) -> Result<Self, SessionError> {
        let program = look_up(command.first().ok_or(SessionError::NoCommand)?, context)?;
        let number = sessions.next.fetch_add(1, Ordering::Relaxed);
        let scope = match &context.scope {
            Some(scope) => Some(preparing(
                "making the session's cgroup",
                SessionScope::create(scope, number),
            )?),
            None => None,
        };
        let started = Self::spawn(context, scope.as_ref(), &program, command, connect);
        drop(held);
        let session = match started {
            Ok(spawned) => {
                let status = children.status_of(spawned.pid);
                let pidfd = preparing("duplicating a pidfd", spawned.pidfd.try_clone())?;
                sessions.living().insert(number, pidfd);
                let session = Self {
                    number,
                    sessions: sessions.clone(),
                    scope,
                    pidfd: spawned.pidfd,
                    status,
                };
                let started = Registered::new(spawned.started.into_fd(), Interest::READABLE);
                let started = preparing("watching the session", started)?;
                let mut bytes = [0; 8];
                match preparing("starting the session", started.read(&mut bytes).await)? {
                    8 => {
                        let failure = Failure::from_bytes(bytes);
                        return Err(refusal(failure, &command[0]));
                    }
                    _ => session,
                }
            }
            Err(e) => {
                if let Some(scope) = scope {
                    let _ = scope.remove();
                }
                return Err(e);
            }
        };
        Ok(session)
    }

    fn spawn(
        context: &Context,
        scope: Option<&SessionScope>,
        program: &str,
        command: &[String],
        connect: impl FnOnce(Steps) -> Steps,
    ) -> Result<spawn::Spawned, SessionError> {
        let plan = &context.plan;
        let is_unified = context.scope.as_ref().is_some_and(|scope| scope.version == Version::V2);
        let join = scope.map(SessionScope::join).unwrap_or_default();
        let unified = match (is_unified, join.first()) {
            (true, Some(path)) => Some(preparing("opening the session's cgroup", File::open(path))?),
            _ => None,
        };
        let mut named = NamedSteps::default();
        for directory in join.iter().filter(|_| !is_unified) {
            let procs = holdfast_cgroup::procs_file(directory);
            named = named.then(directory.display().to_string(), |steps| steps.join_cgroup(procs));
        }
        if let Some(path) = &plan.network_namespace {
            named = named.then(path.clone(), |steps| steps.join_network_namespace(path));
        }
        let mut named = named
            .then("", Steps::new_session)
            .then("", connect)
            .attributes(plan)
            .credentials(plan)
            .then(plan.work_dir.clone(), |steps| steps.change_directory(&plan.work_dir))
            .then("", Steps::default_signals)
            .then("", |steps| steps.close_from(3))
            .then(program, |steps| steps.exec(program, command, &context.env));
        let spawned = spawn::spawn(&mut named.steps, unified.as_ref().map(AsFd::as_fd));
        preparing("cloning the session", spawned)
    }

    async fn exited(&mut self) -> ExitStatus {
        // The sender goes only with the executor itself.
        (&mut self.status).await.unwrap_or(ExitStatus::Signalled(libc::SIGKILL))
    }

    fn kill(&self) {
        if let Some(scope) = &self.scope {
            let _ = scope.kill();
        }
        // Without a cgroup they are found as long as the session is their ancestor; it goes first, or it might tell of their end.
        let others = match (&self.scope, self.pidfd.pid()) {
            (None, Ok(Some(pid))) => crate::children::descendants(&[pid]),
            _ => Vec::new(),
        };
        let _ = self.pidfd.send_signal(libc::SIGKILL);
        for pidfd in others {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
        self.sessions.living().remove(&self.number);
        let Some(scope) = self.scope.take() else { return };
        if scope.remove().is_ok() {
            return;
        }
        // The killed are still on their way out.
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(1);
            while scope.remove().is_err() && pause < Duration::from_secs(4) {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        });
    }
}

/// The steps' places do not tell the object, as `connect` adds several; it follows from the code.
fn refusal(failure: Failure, command: &str) -> SessionError {
    let object = if failure.code == Code::Exec as u16 { command } else { "" };
    SessionError::Step(crate::task::explain(failure, object))
}

fn look_up(command: &str, context: &Context) -> Result<String, SessionError> {
    if command.contains('/') {
        return Ok(command.to_owned());
    }
    let path = context
        .env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|folder| format!("{}/{command}", if folder.is_empty() { "." } else { folder }))
        .find(|candidate| is_executable(&Path::new(&context.plan.work_dir).join(candidate)))
        .ok_or_else(|| SessionError::NotFound(command.to_owned()))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn exit_of(status: ExitStatus) -> SessionExit {
    match status {
        ExitStatus::Exited(exit_code) => SessionExit {
            exit_code,
            signal: 0,
            timed_out: false,
        },
        ExitStatus::Signalled(signal) => SessionExit {
            exit_code: 128 + signal,
            signal,
            timed_out: false,
        },
    }
}

/// A pipe whose reading end waits in the runtime, and the end for the session.
fn output_pipe() -> io::Result<(Registered, OwnedFd)> {
    let (reader, writer) = pipe()?;
    readiness::set_nonblocking(&reader, true)?;
    Ok((
        Registered::new(reader, Interest::READABLE)?,
        file::duplicate_above(&writer, 16)?,
    ))
}

/// Runs a command to its end and returns the end of its combined output.
pub async fn run(
    context: &Context,
    children: &Children,
    sessions: &Sessions,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecResponse, SessionError> {
    let (output, writer) = preparing("making a pipe", output_pipe())?;
    let null = preparing("opening /dev/null", File::open("/dev/null"))?;
    let null = preparing("opening /dev/null", file::duplicate_above(&null, 16))?;
    let (input, both) = (null.as_raw_fd(), writer.as_raw_fd());
    let connect = |steps: Steps| steps.duplicate(input, 0).duplicate(both, 1).duplicate(both, 2);
    let mut session = Session::start(context, children, sessions, command, vec![null, writer], connect).await?;
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
                Ok(count) => tail.push(&chunk[..count]),
            },
            status = session.exited() => break exit_of(status),
            () = &mut deadline => {
                session.kill();
                break SessionExit { timed_out: true, ..exit_of(session.exited().await) };
            }
        }
    };
    // What it wrote before it ended is there; what it left running is killed and need not be waited for.
    while let Ok(count @ 1..) = readiness::read(&output, &mut chunk) {
        tail.push(&chunk[..count]);
    }
    Ok(ExecResponse {
        output: tail.0,
        exit: Some(exit),
    })
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

/// Where a session's messages go; closed when the client is gone.
pub type Outbound = mpsc::Sender<Result<ExecOutput, tonic::Status>>;

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
    S: Stream<Item = Result<ExecInput, tonic::Status>> + Send + Unpin + 'static,
{
    let streams = match if tty {
        terminal_streams(&context)
    } else {
        pipe_streams()
    } {
        Ok(streams) => streams,
        Err(e) => return refuse(&outbound, &e).await,
    };
    let Streams {
        held,
        connect,
        input,
        outputs,
        master,
    } = streams;
    let mut session = match Session::start(&context, &children, &sessions, &command, held, connect).await {
        Ok(session) => session,
        Err(e) => return refuse(&outbound, &e).await,
    };
    let (ended, has_ended) = watch::channel(false);
    let feeding = tokio::spawn(feed(inbound, input, master, outbound.clone()));
    let copying: Vec<_> = outputs
        .into_iter()
        .map(|(source, kind)| tokio::spawn(copy(source, kind, outbound.clone(), has_ended.clone())))
        .collect();
    let status = tokio::select! {
        status = session.exited() => Some(status),
        () = outbound.closed() => None,
    };
    let _ = ended.send(true);
    if let Some(status) = status {
        for copy in copying {
            let _ = copy.await;
        }
        let exit = exec_output::Message::Exit(exit_of(status));
        let _ = outbound.send(Ok(ExecOutput { message: Some(exit) })).await;
    }
    feeding.abort();
}

async fn refuse(outbound: &Outbound, error: &SessionError) {
    let _ = outbound
        .send(Err(tonic::Status::failed_precondition(error.to_string())))
        .await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stdout,
    Stderr,
}

impl Kind {
    fn data(self, bytes: &[u8]) -> exec_output::Message {
        match self {
            Self::Stdout => exec_output::Message::Stdout(bytes.to_vec()),
            Self::Stderr => exec_output::Message::Stderr(bytes.to_vec()),
        }
    }

    fn close(self) -> exec_output::Message {
        match self {
            Self::Stdout => exec_output::Message::StdoutClose(true),
            Self::Stderr => exec_output::Message::StderrClose(true),
        }
    }
}

/// Both ends of a session's standard streams.
struct Streams {
    /// The session's ends, to be closed here once it runs.
    held: Vec<OwnedFd>,
    connect: Box<dyn FnOnce(Steps) -> Steps + Send>,
    input: Registered,
    outputs: Vec<(Registered, Kind)>,
    /// The terminal's master, to resize it.
    master: Option<OwnedFd>,
}

fn pipe_streams() -> Result<Streams, SessionError> {
    let make = || -> io::Result<Streams> {
        let (stdout, stdout_writer) = output_pipe()?;
        let (stderr, stderr_writer) = output_pipe()?;
        let (reader, writer) = pipe()?;
        let reader = file::duplicate_above(&reader, 16)?;
        readiness::set_nonblocking(&writer, true)?;
        let numbers = [reader.as_raw_fd(), stdout_writer.as_raw_fd(), stderr_writer.as_raw_fd()];
        Ok(Streams {
            held: vec![reader, stdout_writer, stderr_writer],
            connect: Box::new(move |steps| {
                (0..)
                    .zip(numbers)
                    .fold(steps, |steps, (to, from)| steps.duplicate(from, to))
            }),
            input: Registered::new(writer, Interest::WRITABLE)?,
            outputs: vec![(stdout, Kind::Stdout), (stderr, Kind::Stderr)],
            master: None,
        })
    };
    preparing("making pipes", make())
}

fn terminal_streams(context: &Context) -> Result<Streams, SessionError> {
    let make = || -> io::Result<Streams> {
        let (master, slave) = terminal::open()?;
        let slave = file::duplicate_above(&slave, 16)?;
        if let Some(credentials) = &context.plan.credentials {
            // As login does (pts(4)), so that programs can open their terminal by name.
            file::change_owner(&slave, credentials.uid, credentials.gid)?;
        }
        readiness::set_nonblocking(&master, true)?;
        let number = slave.as_raw_fd();
        let writer = master.try_clone()?;
        Ok(Streams {
            held: vec![slave],
            connect: Box::new(move |steps| {
                (0..3)
                    .fold(steps, |steps, to| steps.duplicate(number, to))
                    .controlling_terminal()
            }),
            input: Registered::new(writer, Interest::WRITABLE)?,
            outputs: vec![(Registered::new(master.try_clone()?, Interest::READABLE)?, Kind::Stdout)],
            master: Some(master),
        })
    };
    preparing("opening a terminal", make())
}

/// The client's messages to the session. A client that half-closes has no more input.
async fn feed<S>(mut inbound: S, input: Registered, master: Option<OwnedFd>, outbound: Outbound)
where
    S: Stream<Item = Result<ExecInput, tonic::Status>> + Unpin,
{
    let mut input = Some(input);
    while let Some(Ok(ExecInput { message })) = inbound.next().await {
        match message {
            Some(exec_input::Message::Stdin(bytes)) => {
                if let Some(open) = &input
                    && write_all(open, &bytes).await.is_err()
                {
                    // The session reads no more; it may go on without.
                    input = None;
                }
            }
            Some(exec_input::Message::StdinClose(true)) => close_input(&mut input, master.is_some()).await,
            Some(exec_input::Message::Size(size)) => {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                if let Some(master) = &master {
                    let _ = terminal::resize(master, cells(size.rows), cells(size.columns));
                }
            }
            Some(exec_input::Message::Setup(_)) => {
                let _ = outbound
                    .send(Err(tonic::Status::invalid_argument("a session has one setup")))
                    .await;
                return;
            }
            Some(exec_input::Message::StdinClose(false)) | None => {}
        }
    }
    close_input(&mut input, master.is_some()).await;
    // Keeps the terminal open until the session is over.
    std::future::pending::<()>().await;
}

async fn close_input(input: &mut Option<Registered>, is_terminal: bool) {
    if is_terminal {
        if let Some(open) = input {
            let _ = open.write(&[END_OF_TRANSMISSION]).await;
        }
    } else {
        *input = None;
    }
}

async fn write_all(input: &Registered, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = input.write(bytes).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// One output of the session to the client, until its end; once the session has ended, until nothing is left in the pipe.
async fn copy(source: Registered, kind: Kind, outbound: Outbound, mut has_ended: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            biased;
            count = source.read(&mut chunk) => count,
            _ = has_ended.wait_for(|ended| *ended) => readiness::read(&source, &mut chunk),
        };
        // A terminal whose other end is closed says EIO (pty(7)).
        let Ok(count @ 1..) = count else { break };
        if outbound
            .send(Ok(ExecOutput {
                message: Some(kind.data(&chunk[..count])),
            }))
            .await
            .is_err()
        {
            return;
        }
    }
    let _ = outbound
        .send(Ok(ExecOutput {
            message: Some(kind.close()),
        }))
        .await;
}
