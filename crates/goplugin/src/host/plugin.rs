//! A plugin that runs: its channel, its health, its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::log_entry::{LogEntry, LogSink};
use super::process::{Exit, Process};
use crate::handshake::{HEALTH_SERVICE, Handshake};
use crate::proto::Empty;
use crate::proto::grpc_controller_client::GrpcControllerClient;
use crate::proto::grpc_stdio_client::GrpcStdioClient;
use crate::proto::stdio_data;

/// How long a plugin may take to leave when asked; go-plugin's hosts wait as long.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// How long a killed process may take to disappear. It can take longer only in an uninterruptible system call.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How long connecting and answering for its health may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no connection to a plugin's socket.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ConnectError {
    #[error("connect to {socket}: {source}")]
    Socket { socket: PathBuf, source: io::Error },
    #[error("who listens on {socket}: {source}")]
    PeerUnknown { socket: PathBuf, source: io::Error },
    #[error("process {found:?} listens on {socket}, not the plugin's {expected}")]
    Stranger {
        socket: PathBuf,
        expected: u32,
        found: Option<i32>,
    },
    #[error("speak HTTP/2 on {socket}: {source}")]
    Transport {
        socket: PathBuf,
        source: tonic::transport::Error,
    },
    #[error("no connection to {socket} within {limit:?}")]
    TooSlow { socket: PathBuf, limit: Duration },
}

/// Why a plugin does not count as healthy.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum PingError {
    #[error("ask for the plugin's health: {0}")]
    Call(Box<Status>),
    #[error("the plugin says of its health: {0:?}")]
    NotServing(ServingStatus),
    #[error("no answer about the plugin's health within {0:?}")]
    TooSlow(Duration),
}

/// Why a plugin could not be found again.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ReattachError {
    #[error("plugin process {pid} is gone")]
    Gone { pid: u32 },
    #[error("open plugin process {pid}: {source}")]
    Process { pid: u32, source: io::Error },
    #[error("plugin process {pid} speaks protocol version {plugin}, this host {host:?}")]
    Version {
        pid: u32,
        plugin: u32,
        host: &'static [u32],
    },
    #[error("reattach to plugin process {pid}: {source}")]
    Connect { pid: u32, source: ConnectError },
    #[error("plugin process {pid} listens but is not well: {source}")]
    Health { pid: u32, source: PingError },
}

/// Why a plugin could not be ended.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum KillError {
    #[error("kill plugin process {pid}: {source}")]
    Signal { pid: u32, source: io::Error },
    #[error("plugin process {pid} is still there {limit:?} after SIGKILL")]
    Survived { pid: u32, limit: Duration },
}

/// How [`Plugin::kill`] came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The plugin was gone before it was asked.
    AlreadyGone(Exit),
    /// It left when asked.
    Graceful(Exit),
    /// It had to be killed.
    Killed(Exit),
}

/// What another host process needs to find a running plugin again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReattachConfig {
    /// Process number of the plugin, as seen by the host.
    pub pid: u32,
    /// The plugin's socket.
    pub socket: PathBuf,
    /// Version of the application's protocol that was agreed on.
    pub protocol_version: u32,
}

/// A running plugin. Dropping it leaves the plugin running: it can be found again with its [`ReattachConfig`].
#[derive(Debug)]
pub struct Plugin {
    process: Arc<Process>,
    socket: PathBuf,
    protocol_version: u32,
    channel: Channel,
}

/// Who may listen on a plugin's socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Listener {
    /// Whoever the plugin itself named in its handshake line: a wrapper may have started another process.
    Any,
    /// Only the process with this number.
    Process(u32),
}

impl Plugin {
    pub(super) async fn connect(
        process: Arc<Process>,
        socket: PathBuf,
        protocol_version: u32,
        listener: Listener,
        log: &LogSink,
    ) -> Result<Plugin, ConnectError> {
        let channel = tokio::time::timeout(ANSWER_LIMIT, open_channel(&socket, listener))
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::TooSlow {
                    socket: socket.clone(),
                    limit: ANSWER_LIMIT,
                })
            })?;
        tokio::spawn(forward_stdio(channel.clone(), log.clone()));
        Ok(Plugin {
            process,
            socket,
            protocol_version,
            channel,
        })
    }

    /// Finds a plugin again that this or another process started; its standard error is not ours to read then.
    /// The process that listens on the socket must be the one with the number, so that a stranger is never taken for
    /// it.
    pub async fn reattach(
        config: &ReattachConfig,
        handshake: &Handshake,
        log: LogSink,
    ) -> Result<Plugin, ReattachError> {
        let pid = config.pid;
        if !handshake.protocol_versions.contains(&config.protocol_version) {
            let (plugin, host) = (config.protocol_version, handshake.protocol_versions);
            return Err(ReattachError::Version { pid, plugin, host });
        }
        let process = Process::of_stranger(pid).map_err(|source| match source.raw_os_error() {
            Some(errno) if errno == rustix::io::Errno::SRCH.raw_os_error() => ReattachError::Gone { pid },
            _ => ReattachError::Process { pid, source },
        })?;
        let (socket, version) = (config.socket.clone(), config.protocol_version);
        let plugin = Plugin::connect(Arc::new(process), socket, version, Listener::Process(pid), &log)
            .await
            .map_err(|source| ReattachError::Connect { pid, source })?;
        plugin
            .ping()
            .await
            .map_err(|source| ReattachError::Health { pid, source })?;
        Ok(plugin)
    }

    /// The connection, for clients of the application's services. It is one HTTP/2 connection however often it is
    /// cloned.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The plugin's process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The plugin's socket.
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// Version of the application's protocol that was agreed on.
    pub fn protocol_version(&self) -> u32 {
        self.protocol_version
    }

    /// What [`Plugin::reattach`] needs.
    pub fn reattach_config(&self) -> ReattachConfig {
        ReattachConfig {
            pid: self.pid(),
            socket: self.socket.clone(),
            protocol_version: self.protocol_version,
        }
    }

    /// Asks the plugin for its health.
    pub async fn ping(&self) -> Result<(), PingError> {
        let request = HealthCheckRequest {
            service: HEALTH_SERVICE.to_owned(),
        };
        let mut client = HealthClient::new(self.channel());
        match tokio::time::timeout(ANSWER_LIMIT, client.check(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().status() {
                ServingStatus::Serving => Ok(()),
                other => Err(PingError::NotServing(other)),
            },
            Ok(Err(status)) => Err(PingError::Call(Box::new(status))),
            Err(_elapsed) => Err(PingError::TooSlow(ANSWER_LIMIT)),
        }
    }

    /// Has the plugin's process ended?
    pub fn has_exited(&self) -> Option<Exit> {
        self.process.has_exited()
    }

    /// Returns when the plugin's process has ended.
    pub async fn exited(&self) -> Exit {
        self.process.exited().await
    }

    /// Ends the plugin: asks it by `GRPCController.Shutdown`, waits for [`SHUTDOWN_LIMIT`], then kills it. The socket
    /// of a plugin that could not remove it is removed.
    pub async fn kill(&self) -> Result<End, KillError> {
        if let Some(exit) = self.has_exited() {
            self.remove_socket();
            return Ok(End::AlreadyGone(exit));
        }
        if let Ok(Some(exit)) = tokio::time::timeout(SHUTDOWN_LIMIT, self.leaves_when_asked()).await {
            return Ok(End::Graceful(exit));
        }
        let pid = self.pid();
        self.process
            .kill()
            .map_err(|source| KillError::Signal { pid, source })?;
        match tokio::time::timeout(KILL_LIMIT, self.exited()).await {
            Ok(exit) => {
                self.remove_socket();
                Ok(End::Killed(exit))
            }
            Err(_elapsed) => Err(KillError::Survived { pid, limit: KILL_LIMIT }),
        }
    }

    fn remove_socket(&self) {
        // It is gone already where the plugin left in order.
        let _ = std::fs::remove_file(&self.socket);
    }

    async fn leaves_when_asked(&self) -> Option<Exit> {
        let mut controller = GrpcControllerClient::new(self.channel());
        match controller.shutdown(Empty {}).await {
            // Nobody is there to hear it.
            Err(status) if status.code() == Code::Unimplemented => None,
            // A plugin may leave without an answer.
            Ok(_) | Err(_) => Some(self.exited().await),
        }
    }
}

async fn open_channel(socket: &Path, listener: Listener) -> Result<Channel, ConnectError> {
    let first = UnixStream::connect(socket)
        .await
        .map_err(|source| ConnectError::Socket {
            socket: socket.to_owned(),
            source,
        })?;
    if let Listener::Process(expected) = listener {
        let peer = first.peer_cred().map_err(|source| ConnectError::PeerUnknown {
            socket: socket.to_owned(),
            source,
        })?;
        if peer.pid() != i32::try_from(expected).ok() {
            return Err(ConnectError::Stranger {
                socket: socket.to_owned(),
                expected,
                found: peer.pid(),
            });
        }
    }
    let mut first = Some(first);
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (checked, path) = (first.take(), path.clone());
        async move {
            let stream = match checked {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            io::Result::Ok(TokioIo::new(stream))
        }
    });
    // The name is only what the `:authority` header says.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport {
            socket: socket.to_owned(),
            source,
        })
}

/// What a plugin prints (a Go plugin sends it here instead) becomes lines of its log.
async fn forward_stdio(channel: Channel, log: LogSink) {
    let mut client = GrpcStdioClient::new(channel);
    let Ok(stream) = client.stream_stdio(()).await else {
        return;
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(data)) = stream.message().await {
        let module = match data.channel() {
            stdio_data::Channel::Stderr => "stderr",
            stdio_data::Channel::Stdout | stdio_data::Channel::Invalid => "stdout",
        };
        for line in String::from_utf8_lossy(&data.data).lines() {
            let mut entry = LogEntry::parse(line);
            entry.module.get_or_insert_with(|| module.to_owned());
            log.receive(entry);
        }
    }
}
