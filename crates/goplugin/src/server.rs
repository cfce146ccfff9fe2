//! A whole plugin: the socket, the handshake line, the protocol's services, the signals and the end.
//!
//! ```no_run
//! # use holdfast_goplugin::{Handshake, server::{HostEnvironment, PluginServer}};
//! # const HANDSHAKE: Handshake =
//! #     Handshake { cookie_key: "K", cookie_value: "v", protocol_versions: &[1], by_hand: "start it by its host" };
//! # async fn plugin(application: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! HANDSHAKE.require_host();
//! let plugin = PluginServer::bind(&HANDSHAKE, &HostEnvironment::of_this_process())?;
//! plugin.serve(application).await?;
//! # Ok(()) }
//! ```

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::codegen::tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::server::{Connected, UdsConnectInfo};

use crate::handshake::{Handshake, HandshakeLine, environment};
use crate::services::{self, Shutdown};
use crate::socket::{Socket, SocketFile};

pub use crate::socket::SocketError;

/// How long calls that are under way may last once the host has asked the plugin to leave. The host waits two
/// seconds before it kills (go-plugin v1.7.0, `client.go`).
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Pause after accept(2) failed, as the reason (descriptors, memory) seldom goes at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Streams that a client may have cancelled before they were looked at. The default of 20 ends the connection of a
/// host that gives up many calls at once.
const CANCELLED_EARLY: usize = 16_384;

/// What the host said through the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEnvironment {
    /// Folder for the socket; the temporary folder when absent.
    pub socket_dir: Option<PathBuf>,
    /// Group that may connect, by name or number.
    pub socket_group: Option<OsString>,
    /// Versions of the application's protocol that the host speaks, separated by commas.
    pub protocol_versions: Option<String>,
    /// Does the host read a seventh field in the handshake line?
    pub asks_for_multiplex: bool,
    /// Did the host send a certificate for mutual TLS?
    pub asks_for_tls: bool,
}

impl HostEnvironment {
    /// From this process's environment.
    pub fn of_this_process() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// From any source of variables; an empty variable counts as absent.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            socket_dir: variable(environment::UNIX_SOCKET_DIR).map(PathBuf::from),
            socket_group: variable(environment::UNIX_SOCKET_GROUP),
            protocol_versions: variable(environment::PROTOCOL_VERSIONS)
                .map(|versions| versions.to_string_lossy().into_owned()),
            asks_for_multiplex: variable(environment::MULTIPLEX_GRPC).is_some(),
            asks_for_tls: variable(environment::CLIENT_CERT).is_some(),
        }
    }
}

/// Why a plugin stopped serving.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error("register for {signal}: {source}")]
    Signal { signal: &'static str, source: io::Error },
    #[error("hand the socket {path} to the runtime: {source}")]
    Runtime { path: PathBuf, source: io::Error },
    #[error("write the handshake line to standard output: {0}")]
    Announce(io::Error),
    #[error("serve on {path}: {source}")]
    Transport {
        path: PathBuf,
        source: tonic::transport::Error,
    },
}

/// A plugin that listens and has not announced itself yet.
#[derive(Debug)]
pub struct PluginServer {
    line: HandshakeLine,
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
    shutdown: Shutdown,
    asked_for_tls: bool,
    hosts: watch::Sender<usize>,
}

impl PluginServer {
    /// Opens the socket and settles the version; says nothing to the host yet. Needs no runtime.
    pub fn bind(handshake: &Handshake, host: &HostEnvironment) -> Result<Self, SocketError> {
        let directory = host.socket_dir.clone().unwrap_or_else(std::env::temp_dir);
        let Socket { listener, file } = Socket::listen(&directory, host.socket_group.as_ref())?;
        let line = HandshakeLine {
            app_version: handshake.negotiate(host.protocol_versions.as_deref()),
            socket: file.path().to_owned(),
            broker_multiplex: host.asks_for_multiplex.then_some(false),
        };
        Ok(Self {
            line,
            listener,
            file,
            shutdown: Shutdown::new(),
            asked_for_tls: host.asks_for_tls,
            hosts: watch::Sender::new(0),
        })
    }

    /// Version of the application's protocol that is spoken with this host.
    pub fn protocol_version(&self) -> u32 {
        self.line.app_version
    }

    /// Where the plugin listens.
    pub fn socket_path(&self) -> &Path {
        self.file.path()
    }

    /// The plugin's end: begun by the host or by SIGTERM, or by whoever holds this. The application's long streams
    /// should end with it; they are cut after [`SHUTDOWN_GRACE`].
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// How many connections are open. A host holds one as long as it lives, and its end closes it, however it came; one that found the
    /// plugin again has another.
    pub fn hosts(&self) -> watch::Receiver<usize> {
        self.hosts.subscribe()
    }

    /// Announces the plugin on standard output (nothing else is ever let through to it) and serves `application` and
    /// the protocol's services until the shutdown. The socket is removed whatever the outcome.
    ///
    /// SIGINT is ignored, as Ctrl-C on the host's terminal is not for the plugin (contract P-8); SIGTERM is a shutdown.
    /// There is no limit on streams, and nothing that arrives on the socket ends the server. Limits on message sizes
    /// are those of the services in `application`.
    pub async fn serve(self, application: Routes) -> Result<(), ServeError> {
        let Self {
            line,
            listener,
            file,
            shutdown,
            asked_for_tls,
            hosts,
        } = self;
        // A handler, not SIG_IGN: that would be inherited by what the plugin starts.
        let _interrupts = signal(SignalKind::interrupt()).map_err(|source| ServeError::Signal {
            signal: "SIGINT",
            source,
        })?;
        let mut terminations = signal(SignalKind::terminate()).map_err(|source| ServeError::Signal {
            signal: "SIGTERM",
            source,
        })?;
        let listener = UnixListener::from_std(listener).map_err(|source| ServeError::Runtime {
            path: file.path().to_owned(),
            source,
        })?;
        let routes = application
            .add_service(services::controller(shutdown.clone()))
            .add_service(services::stdio(shutdown.clone()))
            .add_service(services::broker(shutdown.clone()))
            .add_service(services::health().await);
        if asked_for_tls {
            tracing::warn!("the host offers mutual TLS, this plugin serves without it");
        }
        announce(&line).map_err(ServeError::Announce)?;

        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(None)
            .http2_max_pending_accept_reset_streams(Some(CANCELLED_EARLY))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                Connections {
                    listener,
                    hosts: Arc::new(hosts),
                    pause: None,
                },
                shutdown.begun(),
            );
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => Some(served),
            () = shutdown.begun() => None,
            _ = terminations.recv() => {
                tracing::info!("shutdown asked for by SIGTERM");
                shutdown.begin();
                None
            }
        };
        let served = match served {
            Some(served) => served,
            None => tokio::time::timeout(SHUTDOWN_GRACE, serving)
                .await
                .unwrap_or_else(|_elapsed| {
                    tracing::debug!("calls cut that outlasted the shutdown's grace");
                    Ok(())
                }),
        };
        served.map_err(|source| ServeError::Transport {
            path: file.path().to_owned(),
            source,
        })
    }
}

/// Writes the line and closes standard output to everything else (contract P-1).
fn announce(line: &HandshakeLine) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // One write, so that the host never sees half a line.
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(())
}

/// Connections to the socket; a failed accept(2) is a pause, not an end.
struct Connections {
    listener: UnixListener,
    hosts: Arc<watch::Sender<usize>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = self.pause.as_mut() {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    let hosts = self.hosts.clone();
                    hosts.send_modify(|count| *count += 1);
                    return Poll::Ready(Some(Ok(Connection { stream, hosts })));
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// One that is counted while it is open.
struct Connection {
    stream: UnixStream,
    hosts: Arc<watch::Sender<usize>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.hosts.send_modify(|count| *count -= 1);
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Handshake = Handshake {
        cookie_key: "COOKIE",
        cookie_value: "yes",
        protocol_versions: &[2],
        by_hand: "no",
    };

    #[test]
    fn the_host_is_obeyed_in_what_it_sets_and_only_in_that() {
        let silent = HostEnvironment::from_variables(|_| Some(OsString::new()));
        assert_eq!(silent, HostEnvironment::default());
        let host = HostEnvironment::from_variables(|name| Some(format!("<{name}>").into()));
        assert_eq!(host.socket_dir, Some("<PLUGIN_UNIX_SOCKET_DIR>".into()));
        assert_eq!(host.socket_group, Some("<PLUGIN_UNIX_SOCKET_GROUP>".into()));
        assert_eq!(host.protocol_versions.as_deref(), Some("<PLUGIN_PROTOCOL_VERSIONS>"));
        assert!(host.asks_for_multiplex && host.asks_for_tls);
    }

    #[test]
    fn multiplexing_is_refused_and_only_to_who_asked_p1() {
        let directory = tempfile::tempdir().unwrap();
        let quiet = HostEnvironment {
            socket_dir: Some(directory.path().to_owned()),
            ..Default::default()
        };
        let asking = HostEnvironment {
            asks_for_multiplex: true,
            ..quiet.clone()
        };
        assert_eq!(
            PluginServer::bind(&HANDSHAKE, &quiet).unwrap().line.broker_multiplex,
            None
        );
        assert_eq!(
            PluginServer::bind(&HANDSHAKE, &asking).unwrap().line.broker_multiplex,
            Some(false)
        );
    }
}
