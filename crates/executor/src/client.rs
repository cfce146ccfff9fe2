//! The other side of the socket: starting an executor, and talking to one that is there.

use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_record::{ProcessIdentity, RecordError, SupervisionDir, names};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::{self, PidFd};
use holdfast_sys::readiness::Registered;
use holdfast_sys::spawn::{Code, SpawnError, Steps};
use holdfast_sys::{file, socket, spawn};
use holdfast_wire::executor_v1::executor_client::ExecutorClient;
use holdfast_wire::executor_v1::{IdentifyRequest, IdentifyResponse, LaunchRequest, TaskSpec};
use tokio::io::Interest;
use tonic::codegen::http::Uri;

use crate::birth::Birth;
use crate::link::Link;
use crate::protocol::{self, Versions};
use crate::server::BIND_AGAIN;

/// How long an executor may take until it listens; it needs a millisecond.
const LISTENING_BOUND: Duration = Duration::from_secs(20);
/// How long a connected executor may take to say who it is.
const IDENTIFY_BOUND: Duration = Duration::from_secs(5);

/// Starts executors.
#[derive(Debug, Clone)]
pub struct Launcher {
    executor: PathBuf,
}

/// The request to launch a task, by this program.
pub fn launch_request(task: TaskSpec) -> LaunchRequest {
    LaunchRequest {
        task: Some(task),
        protocol: protocol::SPOKEN,
        oldest_protocol: protocol::OLDEST,
    }
}

/// False if no executor said this: a connection that broke has an error of its own, and any code.
pub fn has_answered(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// What a new executor does first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StartMode {
    /// Waits for a task to launch, with an init if it is known how that is to be born.
    Fresh(Option<Birth>),
    /// Takes over the task that the record names.
    Adopt,
}

/// An executor that was started just now and waits for a task.
#[derive(Debug)]
pub struct Fresh {
    /// Readable when it has ended. It is this process's child.
    pub pidfd: PidFd,
    /// Who it is. That of a short task may be gone when it has answered.
    pub identity: ProcessIdentity,
    /// The connection; closed when dropped.
    pub executor: ExecutorClient<Link>,
}

/// An executor that was cloned just now. It leaves when this is dropped.
#[derive(Debug)]
pub struct Unconnected {
    path: PathBuf,
    pidfd: PidFd,
    ours: UnixStream,
}

impl Unconnected {
    /// A connection to it; it has not said anything.
    pub async fn connect(self) -> Result<Unasked, LaunchError> {
        let Unconnected { path, pidfd, ours } = self;
        let connected = async {
            let identity = ProcessIdentity::of(&pidfd)?;
            ours.set_nonblocking(true)?;
            let ours = tokio::net::UnixStream::from_std(ours)?;
            Ok((identity, client(ours).await.map_err(io::Error::other)?))
        };
        match connected.await {
            Ok((identity, executor)) => {
                point::reached(Point::ExecutorConnected);
                Ok(Unasked(Fresh {
                    pidfd,
                    identity,
                    executor,
                }))
            }
            Err(e) => {
                let e: io::Error = e;
                kill_child(&pidfd).await;
                let reason = format!("speaking to it: {e}");
                Err(LaunchError::Start { path, reason })
            }
        }
    }
}

/// An executor of which nothing has been asked yet, and which has touched nothing. It leaves when its connection is closed.
#[derive(Debug)]
pub struct Unasked(Fresh);

impl Unasked {
    /// Its supervision directory is there: it may be asked.
    pub fn goes_on(self) -> Fresh {
        self.0
    }

    /// There is nothing to ask of it. Returns when it is gone.
    pub async fn dismiss(self) {
        kill_child(&self.0.pidfd).await;
    }
}

/// An executor that has said who it is.
#[derive(Debug)]
pub struct Peer {
    /// Readable when it has ended.
    pub pidfd: PidFd,
    /// What it answered.
    pub identity: IdentifyResponse,
    /// The connection; closed when dropped.
    pub executor: ExecutorClient<Link>,
}

/// Why no executor was started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program could not be executed.
    #[error("starting executor {}: {reason}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Which step failed, and why.
        reason: String,
    },
    /// It ended before it had launched its task.
    #[error("executor {} ended before its task was launched: {reason}", path.display())]
    Ended {
        /// The program.
        path: PathBuf,
        /// The last lines of its log.
        reason: String,
    },
    /// It did not listen in time and was killed.
    #[error("executor {} did not listen within {} s", path.display(), LISTENING_BOUND.as_secs())]
    Silent {
        /// The program.
        path: PathBuf,
    },
    /// It listened and could not be talked to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why there is nobody to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket, or nobody listens on it.
    #[error("connecting to {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens who is not this task's executor; nothing was asked of them.
    #[error("{} is not this task's executor: {reason}", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// It did not answer as an executor does.
    #[error("asking the executor at {} who it is: {reason}", path.display())]
    Identify {
        /// The socket.
        path: PathBuf,
        /// What came instead.
        reason: String,
    },
    /// The intent could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Launcher {
    /// Executors will run this program.
    pub fn new(executor: PathBuf) -> Self {
        Self { executor }
    }

    /// Starts an executor on a supervision directory, with a connection to it: what is asked of it is answered once it is ready. It
    /// lives in `shared_cgroups`: one directory on v2, any number on v1; those that are missing are made.
    pub async fn start(&self, dir: &SupervisionDir, shared_cgroups: &[PathBuf]) -> Result<Fresh, LaunchError> {
        let begun = self.begin(dir.path(), shared_cgroups, None)?;
        Ok(begun.connect().await?.goes_on())
    }

    /// Clones an executor whose supervision directory need not be there yet. Until something is asked of it, it touches nothing of the
    /// host; it has an init with the `birth` that its task will probably want, which saves time if that is so.
    pub fn begin(
        &self,
        folder: &Path,
        shared_cgroups: &[PathBuf],
        birth: Option<Birth>,
    ) -> Result<Unconnected, LaunchError> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| self.failed(format!("making a connection: {e}")))?;
        let pidfd = self.spawn(folder, shared_cgroups, StartMode::Fresh(birth), theirs.as_fd())?;
        drop(theirs);
        point::reached(Point::ExecutorCloned);
        Ok(Unconnected {
            path: self.executor.clone(),
            pidfd,
            ours,
        })
    }

    fn failed(&self, reason: String) -> LaunchError {
        LaunchError::Start {
            path: self.executor.clone(),
            reason,
        }
    }

    /// Starts one in the place of a dead one, on the task that the record names.
    pub async fn adopt(&self, dir: &SupervisionDir, shared_cgroups: &[PathBuf]) -> Result<Peer, LaunchError> {
        let pidfd = self.listening(dir, shared_cgroups).await?;
        match connect(dir).await {
            Ok(peer) => Ok(peer),
            // An executor that adopted a task which is over has told its result and left; it is this process's child.
            Err(e) => {
                reap_soon(&pidfd).await;
                Err(e.into())
            }
        }
    }

    /// An executor that adopts, once it listens.
    async fn listening(&self, dir: &SupervisionDir, shared_cgroups: &[PathBuf]) -> Result<PidFd, LaunchError> {
        let (ready, theirs) = socket::pipe().map_err(|e| self.failed(format!("making a pipe: {e}")))?;
        let pidfd = self.spawn(dir.path(), shared_cgroups, StartMode::Adopt, theirs.as_fd())?;
        drop(theirs);
        point::reached(Point::ExecutorCloned);
        let listening = async {
            let mut byte = [0];
            match Registered::new(ready, Interest::READABLE) {
                Ok(ready) => matches!(ready.read(&mut byte).await, Ok(1)),
                Err(_) => false,
            }
        };
        match tokio::time::timeout(LISTENING_BOUND, listening).await {
            Ok(true) => Ok(pidfd),
            Ok(false) => Err(self.ended(&pidfd, dir).await),
            Err(_) => {
                kill_child(&pidfd).await;
                Err(LaunchError::Silent {
                    path: self.executor.clone(),
                })
            }
        }
    }

    /// Why an executor that this process has started does not answer any more: it has ended.
    pub async fn ended(&self, pidfd: &PidFd, dir: &SupervisionDir) -> LaunchError {
        reap_soon(pidfd).await;
        LaunchError::Ended {
            path: self.executor.clone(),
            reason: last_lines(dir),
        }
    }

    /// `to_launcher` is what it speaks to this process by.
    fn spawn(
        &self,
        folder: &Path,
        shared_cgroups: &[PathBuf],
        mode: StartMode,
        to_launcher: BorrowedFd<'_>,
    ) -> Result<PidFd, LaunchError> {
        let failed = |reason: String| self.failed(reason);
        let io_failed = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| self.failed(format!("{what}: {e}"))
        };
        // Where it is missing, the executor makes it and moves there.
        let unified = match shared_cgroups {
            [path] if path.join("cgroup.events").exists() && path.join("cgroup.controllers").exists() => {
                std::fs::File::open(path).ok()
            }
            _ => None,
        };
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(io_failed("opening /dev/null"))?;
        // Above the numbers that are about to be overwritten.
        let above = |fd: BorrowedFd<'_>| file::duplicate_above(fd, 16).map_err(io_failed("duplicating a descriptor"));
        let (null, to_launcher) = (above(null.as_fd())?, above(to_launcher)?);
        let mut arguments: Vec<std::ffi::OsString> = vec![
            "holdfast-executor".into(),
            "supervise".into(),
            folder.into(),
            "3".into(),
        ];
        match mode {
            StartMode::Adopt => arguments.push("--adopt".into()),
            StartMode::Fresh(Some(birth)) => arguments.extend(["--init".into(), birth.to_argument().into()]),
            StartMode::Fresh(None) => {}
        }
        if unified.is_none() {
            arguments.extend(shared_cgroups.iter().map(|path| path.clone().into_os_string()));
        }
        // What it has to say before it has a log goes where this process's own does.
        let mut steps = Steps::new()
            .new_session()
            .duplicate(null.as_raw_fd(), 0)
            .duplicate(null.as_raw_fd(), 1)
            .duplicate(to_launcher.as_raw_fd(), 3)
            .change_directory("/")
            .umask(0o077)
            .default_signals()
            .close_from(4)
            // Nothing of the agent's environment goes on: it holds tokens (contract, pain 27).
            .exec(&self.executor, &arguments, &point::environment());
        let birthplace = spawn::Birthplace {
            cgroup: unified.as_ref().map(AsFd::as_fd),
            ..spawn::Birthplace::default()
        };
        let spawned = spawn::spawn_and_wait(&mut steps, birthplace).map_err(|e| match e {
            SpawnError::Clone(e) => failed(format!("clone: {e}")),
            SpawnError::Step(failure) => {
                let step = Code::of(failure.code.into()).map_or_else(|| "?".into(), |code| format!("{code:?}"));
                failed(format!("{step}: {}", io::Error::from_raw_os_error(failure.errno)))
            }
        });
        spawned.map(|(_, pidfd)| pidfd)
    }
}

/// A child that is about to end.
async fn reap_soon(pidfd: &PidFd) {
    let _ = tokio::time::timeout(Duration::from_secs(1), ended(pidfd)).await;
    let _ = pidfd.wait();
}

async fn kill_child(pidfd: &PidFd) {
    let _ = pidfd.send_signal(libc::SIGKILL);
    let _ = ended(pidfd).await;
    let _ = pidfd.wait();
}

/// Whatever lies there instead, it is neither waited for nor read whole.
fn end_of_log(dir: &SupervisionDir) -> io::Result<Vec<u8>> {
    const MOST: u64 = 4096;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let mut log = std::fs::File::from(file::open_at(dir, names::LOG, flags, 0)?);
    let found = log.metadata()?;
    let mut end = Vec::new();
    if found.is_file() {
        log.seek(io::SeekFrom::Start(found.len().saturating_sub(MOST)))?;
        log.take(MOST).read_to_end(&mut end)?;
    }
    Ok(end)
}

async fn ended(pidfd: &PidFd) -> io::Result<()> {
    let registered = Registered::new(pidfd.try_clone()?.into(), Interest::READABLE)?;
    registered.readable().await
}

fn last_lines(dir: &SupervisionDir) -> String {
    let log = end_of_log(dir).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().rev().take(3).collect();
    match lines.is_empty() {
        true => "it said nothing".to_owned(),
        false => lines.into_iter().rev().collect::<Vec<_>>().join("; "),
    }
}

/// Connects to the executor of a supervision directory. Nothing is asked of a process of another user, and nothing but who it is
/// before it has shown that it knows the task and the nonce of the intent.
pub async fn connect(dir: &SupervisionDir) -> Result<Peer, ConnectError> {
    let path = dir.path().join(names::SOCKET);
    let (pidfd, mut executor) = connect_path(&dir.socket_address(names::SOCKET), &path).await?;
    point::reached(Point::ExecutorConnected);
    let intent = dir.intent()?;
    let identity = identify(&mut executor, &path).await?;
    let stranger = |reason: String| ConnectError::Stranger {
        path: path.clone(),
        reason,
    };
    if identity.task_id != intent.task_id {
        return Err(stranger(format!(
            "it has task {:?}, not {:?}",
            identity.task_id, intent.task_id
        )));
    }
    if identity.nonce != intent.nonce {
        return Err(stranger("it does not know the nonce of the intent".to_owned()));
    }
    Ok(Peer {
        pidfd,
        identity,
        executor,
    })
}

/// Connects to a socket by its path alone, for a person who names it.
pub async fn connect_socket(path: &Path) -> Result<Peer, ConnectError> {
    let (pidfd, mut executor) = connect_path(path, path).await?;
    let identity = identify(&mut executor, path).await?;
    Ok(Peer {
        pidfd,
        identity,
        executor,
    })
}

async fn identify(executor: &mut ExecutorClient<Link>, path: &Path) -> Result<IdentifyResponse, ConnectError> {
    let failed = |reason: String| ConnectError::Identify {
        path: path.to_owned(),
        reason,
    };
    match tokio::time::timeout(IDENTIFY_BOUND, executor.identify(IdentifyRequest {})).await {
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            let versions = Versions::told(answer.protocol, answer.oldest_protocol);
            Versions::OWN.meet(versions).map_err(failed)?;
            Ok(answer)
        }
        Ok(Err(status)) => Err(failed(status.message().to_owned())),
        Err(_) => Err(failed(format!("no answer within {} s", IDENTIFY_BOUND.as_secs()))),
    }
}

/// Opens a process that has not ended. `None`: it is dead, reaped or not, or its pid is a stranger's now.
pub fn open_living(identity: &ProcessIdentity) -> io::Result<Option<PidFd>> {
    match identity.open()? {
        Some(pidfd) if !pidfd.has_exited()? => Ok(Some(pidfd)),
        Some(_) | None => Ok(None),
    }
}

/// The executor that the record of a folder names, if it lives. Nothing is opened by a record of another boot.
pub fn living_executor(dir: &SupervisionDir) -> Option<PidFd> {
    let record = dir.record().ok()??;
    let is_of_this_boot = holdfast_record::boot_id().is_ok_and(|boot_id| boot_id == record.boot_id);
    is_of_this_boot
        .then(|| open_living(&record.executor).ok().flatten())
        .flatten()
}

/// Asks a living executor that cannot be reached to bind its socket again, in case that was removed, or somebody else listens there.
/// True if there was an executor to ask.
pub fn ask_to_bind_again(dir: &SupervisionDir) -> bool {
    living_executor(dir).is_some_and(|executor| executor.send_signal(BIND_AGAIN).is_ok())
}

async fn connect_path(address: &Path, path: &Path) -> Result<(PidFd, ExecutorClient<Link>), ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        path: path.to_owned(),
        source,
    };
    let stream = tokio::net::UnixStream::connect(address).await.map_err(unreachable)?;
    let credentials = socket::peer_credentials(&stream).map_err(unreachable)?;
    let own = process::effective_uid();
    if credentials.uid != own && credentials.uid != 0 {
        let reason = format!(
            "pid {} of uid {} listens there, not uid {own}",
            credentials.pid, credentials.uid
        );
        return Err(ConnectError::Stranger {
            path: path.to_owned(),
            reason,
        });
    }
    let pidfd = match socket::peer_pidfd(&stream) {
        Ok(fd) => PidFd::from_fd(fd),
        // Before Linux 6.5.
        Err(_) => PidFd::open(credentials.pid).map_err(unreachable)?,
    };
    let executor = client(stream).await.map_err(|e| ConnectError::Identify {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    Ok((pidfd, executor))
}

/// Says nothing yet.
async fn client(stream: tokio::net::UnixStream) -> Result<ExecutorClient<Link>, hyper::Error> {
    let link = Link::over(stream).await?;
    Ok(ExecutorClient::with_origin(link, Uri::from_static("http://executor")))
}
