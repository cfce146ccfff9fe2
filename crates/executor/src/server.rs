//! gRPC on a unix socket without tonic's router: the generated services on a bare HTTP/2 server, chosen by path.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_record::{SupervisionDir, names};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_sys::{process, socket};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, SetOnce, watch};
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, service_fn};

use crate::log;

/// How long clients have to hear their last answers when the executor leaves.
const LEAVING_BOUND: Duration = Duration::from_millis(500);

type Inner = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Services by the names in their paths.
#[derive(Clone, Default)]
pub struct Services {
    named: Vec<(&'static str, Inner)>,
    /// Who calls, once they are those of one connection.
    caller: Option<Caller>,
}

/// The process at the other end of a connection, for calls that depend on who makes them.
#[derive(Debug, Clone)]
struct Caller(Arc<PidFd>);

impl Caller {
    fn of(stream: &UnixStream) -> Option<Caller> {
        let pidfd = match socket::peer_pidfd(stream) {
            Ok(fd) => PidFd::from_fd(fd),
            // Before Linux 6.5: the process was there a moment ago, when it connected.
            Err(_) => PidFd::open(socket::peer_credentials(stream).ok()?.pid).ok()?,
        };
        Some(Caller(Arc::new(pidfd)))
    }
}

/// Who makes a call. `None`: it did not come by a socket, or the process is gone.
pub fn caller<T>(request: &tonic::Request<T>) -> Option<PidFd> {
    let Caller(pidfd) = request.extensions().get()?;
    pidfd.try_clone().ok()
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.named.iter().map(|(name, _)| name)).finish()
    }
}

impl Services {
    /// Adds a generated service.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.named.push((S::NAME, BoxCloneSyncService::new(service)));
        self
    }
}

impl Service<Request<Incoming>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(caller) = &self.caller {
            request.extensions_mut().insert(caller.clone());
        }
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, service)) => service.call(request),
            None => Box::pin(std::future::ready(Ok(
                tonic::Status::unimplemented("unknown service").into_http()
            ))),
        }
    }
}

/// A connection that is served before the services are there: the first call on it asks for them, and every call waits until they are.
#[derive(Debug)]
pub struct Early {
    asked: Arc<Notify>,
    services: Arc<SetOnce<Services>>,
    connection: JoinHandle<()>,
}

impl Early {
    /// Serves the one connection that an executor is born with.
    pub fn serve(stream: UnixStream, leaving: watch::Receiver<bool>) -> Early {
        let asked = Arc::new(Notify::new());
        let services = Arc::new(SetOnce::<Services>::new());
        let caller = Caller::of(&stream);
        let served = {
            let (asked, services) = (asked.clone(), services.clone());
            service_fn(move |request| {
                asked.notify_one();
                let (services, caller) = (services.clone(), caller.clone());
                async move {
                    let mut services = services.wait().await.clone();
                    services.caller = caller;
                    services.call(request).await
                }
            })
        };
        Early {
            asked,
            services,
            connection: tokio::spawn(connection(stream, served, leaving)),
        }
    }

    /// True once somebody asks for something; false if the connection has ended without that.
    pub async fn is_asked(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.asked.notified() => true,
            _ = &mut self.connection => false,
        }
    }

    /// The services are there; the calls that wait go on. Returns the connection.
    pub fn goes_on(self, services: Services) -> JoinHandle<()> {
        self.services.set(services).expect("it is set once");
        self.connection
    }
}

/// A socket to serve on.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    rebinding: Option<Rebinding>,
}

/// A socket's name that is taken again when it was taken away. Whoever finds the executor alive and its socket gone, or somebody else's,
/// asks by a signal that is ignored by who does not know it (SIGURG, signal(7)): nothing is watched, and nothing wakes up before.
#[derive(Debug)]
struct Rebinding {
    /// The folder is opened when it is asked for: an idle executor needs no other descriptor of it.
    folder: PathBuf,
    /// By which it is known: what lies under the path then may be another task's.
    nonce: String,
    asked: Signal,
    /// Device and inode of the socket.
    bound: (u64, u64),
}

/// What asks an executor to bind its socket again.
pub const BIND_AGAIN: i32 = libc::SIGURG;

/// Listens on the supervision directory's socket, and again when asked for, as long as the folder's intent has this nonce.
pub fn listen(dir: &SupervisionDir, nonce: &str) -> io::Result<Listening> {
    // First, so that whoever finds the executor can ask.
    let asked = signal(SignalKind::from_raw(BIND_AGAIN))?;
    let listener = bind(dir)?;
    let rebinding = Rebinding {
        folder: dir.path().to_owned(),
        nonce: nonce.to_owned(),
        asked,
        bound: inode(dir)?,
    };
    Ok(Listening {
        listener,
        rebinding: Some(rebinding),
    })
}

/// Bound under a temporary name, so that whoever finds the name can connect.
fn bind(dir: &SupervisionDir) -> io::Result<UnixListener> {
    let temporary = format!(".sock.{}", std::process::id());
    let path = dir.path().join(&temporary);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(dir.socket_address(&temporary))?;
    point::reached(Point::SocketBound);
    std::fs::rename(&path, dir.path().join(names::SOCKET))?;
    Ok(listener)
}

fn inode(dir: &SupervisionDir) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(dir.path().join(names::SOCKET))?;
    Ok((found.dev(), found.ino()))
}

impl Rebinding {
    /// A new listener, unless the name still is that of the old one. Connections that are open stay.
    fn again(&mut self) -> Option<UnixListener> {
        match self.try_again() {
            Ok(listener) => listener,
            Err(e) => {
                log::line(&format!("binding the socket again: {e}"));
                None
            }
        }
    }

    fn try_again(&mut self) -> io::Result<Option<UnixListener>> {
        let dir = SupervisionDir::open(&self.folder).map_err(io::Error::other)?;
        if inode(&dir).is_ok_and(|found| found == self.bound) {
            return Ok(None);
        }
        if dir.intent().map_err(io::Error::other)?.nonce != self.nonce {
            return Err(io::Error::other("the folder is another task's"));
        }
        let listener = bind(&dir)?;
        self.bound = inode(&dir)?;
        log::line("the socket was gone, or another's; it is bound again");
        Ok(Some(listener))
    }
}

/// Returns when somebody asks for the socket.
async fn asked(rebinding: &mut Option<Rebinding>) {
    if let Some(rebinding) = rebinding
        && rebinding.asked.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Listens on a path that a person named; a socket that nobody listens on is replaced, and nothing else is.
pub fn listen_at(path: &Path) -> io::Result<Listening> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && let Err(e) = std::os::unix::net::UnixStream::connect(path)
        && e.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Until here, and where the folder lets others in, it is the peer's credentials that count.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Listening {
        listener,
        rebinding: None,
    })
}

/// Only this user and root are talked to.
fn is_trusted(stream: &UnixStream) -> bool {
    socket::peer_credentials(stream).is_ok_and(|peer| peer.uid == 0 || peer.uid == process::effective_uid())
}

/// Serves until `leaving` says so, and then lets calls under way end within a bound. `first` is a connection that is served already.
pub async fn serve(
    listening: Listening,
    first: Option<JoinHandle<()>>,
    services: Services,
    mut leaving: watch::Receiver<bool>,
) {
    let Listening {
        mut listener,
        mut rebinding,
    } = listening;
    let mut connections = JoinSet::new();
    let for_connections = leaving.clone();
    let served = |stream: UnixStream| {
        let mut services = services.clone();
        services.caller = Caller::of(&stream);
        connection(stream, services, for_connections.clone())
    };
    if let Some(first) = first {
        connections.spawn(async { drop(first.await) });
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if !is_trusted(&stream) => {}
                Ok((stream, _)) => {
                    connections.spawn(served(stream));
                }
                // Too many open files, and the like, pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            () = asked(&mut rebinding) => {
                if let Some(again) = rebinding.as_mut().and_then(Rebinding::again) {
                    listener = again;
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = told(&mut leaving) => break,
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LEAVING_BOUND, ended).await;
}

async fn connection<S>(stream: UnixStream, services: S, mut leaving: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Its own limit of 200 streams would stop a client that waits for many things. Those on reset streams guard against strangers,
    // which nobody here is, and would end all sessions of a connection on which a few were cancelled at once.
    let server = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(u32::MAX)
        .max_pending_accept_reset_streams(usize::MAX)
        .max_local_error_reset_streams(None)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(services));
    tokio::pin!(server);
    tokio::select! {
        // What a client sends that is not HTTP/2 ends its connection and nothing else.
        _ = server.as_mut() => return,
        () = told(&mut leaving) => {}
    }
    server.as_mut().graceful_shutdown();
    let _ = server.await;
}

/// Returns when it is time to leave, or nobody is there to say so.
async fn told(leaving: &mut watch::Receiver<bool>) {
    drop(leaving.wait_for(|leaving| *leaving).await);
}
