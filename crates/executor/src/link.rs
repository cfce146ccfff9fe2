//! One connection to an executor, over which its services are called. It is made once: a channel that connects again might reach somebody
//! else, who was never asked who he is.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

/// Calls go this way. The connection is closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Link(SendRequest<Body>);

impl Link {
    /// Begins to speak HTTP/2. Within the runtime, which looks after the connection.
    pub async fn over(stream: UnixStream) -> Result<Link, hyper::Error> {
        let (calls, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // What goes wrong with it is told to those who call.
        tokio::spawn(connection);
        Ok(Link(calls))
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
