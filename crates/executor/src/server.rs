//! gRPC on a unix socket without tonic's router: the generated services on a bare HTTP/2 server, chosen by path.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_record::{SupervisionDir, names};
use holdfast_sys::point::{self, Point};
use holdfast_sys::{process, socket};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;
use tower::util::BoxCloneSyncService;

/// How long clients have to hear their last answers when the executor leaves.
const LEAVING_BOUND: Duration = Duration::from_millis(500);

type Inner = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Services by the names in their paths.
#[derive(Clone, Default)]
pub struct Services(Vec<(&'static str, Inner)>);

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
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
        self.0.push((S::NAME, BoxCloneSyncService::new(service)));
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

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, service)) => service.call(request),
            None => Box::pin(std::future::ready(Ok(
                tonic::Status::unimplemented("unknown service").into_http()
            ))),
        }
    }
}

/// Listens on the supervision directory's socket: bound under a temporary name, so that whoever finds the name can connect.
pub fn listen(dir: &SupervisionDir) -> io::Result<UnixListener> {
    let temporary = format!(".sock.{}", std::process::id());
    let path = dir.path().join(&temporary);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(dir.socket_address(&temporary))?;
    point::reached(Point::SocketBound);
    std::fs::rename(&path, dir.path().join(names::SOCKET))?;
    Ok(listener)
}

/// Listens on a path that a person named; a socket that nobody listens on is replaced, and nothing else is.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
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
    Ok(listener)
}

/// Only this user and root are talked to.
fn is_trusted(stream: &UnixStream) -> bool {
    socket::peer_credentials(stream).is_ok_and(|peer| peer.uid == 0 || peer.uid == process::effective_uid())
}

/// Serves until `leaving` says so, and then lets calls under way end within a bound.
pub async fn serve(listener: UnixListener, services: Services, mut leaving: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let for_connections = leaving.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if !is_trusted(&stream) => {}
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, services.clone(), for_connections.clone()));
                }
                // Too many open files, and the like, pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = told(&mut leaving) => break,
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LEAVING_BOUND, ended).await;
}

async fn connection(stream: UnixStream, services: Services, mut leaving: watch::Receiver<bool>) {
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
