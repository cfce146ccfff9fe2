//! go-plugin's own services, as plain tonic services that need no particular transport.
//!
//! A host expects them beside the application's (contract P-3): without the controller every end of a plugin costs it
//! two seconds and a SIGKILL.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::proto::grpc_broker_server::{GrpcBroker, GrpcBrokerServer};
use crate::proto::grpc_controller_server::{GrpcController, GrpcControllerServer};
use crate::proto::grpc_stdio_server::{GrpcStdio, GrpcStdioServer};
use crate::proto::{ConnInfo, Empty, StdioData};

/// The plugin's end, as it is agreed between all who have a part in it: begun once, seen by every clone.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Begins it; a second time changes nothing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Has it begun?
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it has begun. Long streams of the application should end then.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut changes = self.0.subscribe();
        // Keeps the sender alive, so that the wait below has only one way to end.
        let shutdown = self.clone();
        async move {
            let _ = changes.wait_for(|begun| *begun).await;
            drop(shutdown);
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// `GRPCController`: the host asks the plugin to leave.
#[derive(Debug)]
pub struct Controller {
    shutdown: Shutdown,
}

/// `GRPCStdio`: the stream stays open and carries nothing, as nothing but the handshake line is ever printed.
#[derive(Debug)]
pub struct Stdio {
    shutdown: Shutdown,
}

/// `GRPCBroker`: tolerates the stream that hosts open at once and never brokers a connection.
#[derive(Debug)]
pub struct Broker {
    shutdown: Shutdown,
}

/// The controller; its `Shutdown` call begins `shutdown`.
pub fn controller(shutdown: Shutdown) -> GrpcControllerServer<Controller> {
    GrpcControllerServer::new(Controller { shutdown })
}

/// The standard output stream; it ends with `shutdown`.
pub fn stdio(shutdown: Shutdown) -> GrpcStdioServer<Stdio> {
    GrpcStdioServer::new(Stdio { shutdown })
}

/// The broker; its streams end with `shutdown`.
pub fn broker(shutdown: Shutdown) -> GrpcBrokerServer<Broker> {
    GrpcBrokerServer::new(Broker { shutdown })
}

/// `grpc.health.v1.Health`, which says SERVING of [`crate::handshake::HEALTH_SERVICE`] and of the server as a whole.
pub async fn health() -> HealthServer<HealthService> {
    let reporter = HealthReporter::new();
    reporter.set_service_status("", ServingStatus::Serving).await;
    reporter
        .set_service_status(crate::handshake::HEALTH_SERVICE, ServingStatus::Serving)
        .await;
    HealthServer::new(HealthService::from_health_reporter(reporter))
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        tracing::debug!("shutdown asked for by the host");
        self.shutdown.begin();
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = SilentStream<StdioData>;

    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(SilentStream::until(self.shutdown.begun())))
    }
}

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = SilentStream<ConnInfo>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let begun = self.shutdown.begun();
        let mut announced = request.into_inner();
        Ok(Response::new(SilentStream::until(async move {
            let host_is_done = async {
                while let Ok(Some(connection)) = announced.message().await {
                    tracing::debug!(service_id = connection.service_id, "brokered connection ignored");
                }
            };
            tokio::select! {
                () = begun => {}
                () = host_is_done => {}
            }
        })))
    }
}

/// A stream that stays open without an item until something happens.
pub struct SilentStream<T> {
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    item: PhantomData<fn() -> T>,
}

impl<T> SilentStream<T> {
    fn until(end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            end: Box::pin(end),
            item: PhantomData,
        }
    }
}

impl<T> Stream for SilentStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.end.as_mut().poll(context).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::grpc_broker_client::GrpcBrokerClient;
    use crate::proto::grpc_controller_client::GrpcControllerClient;
    use crate::proto::grpc_stdio_client::GrpcStdioClient;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Answer;
    use tonic_health::pb::health_client::HealthClient;

    #[tokio::test]
    async fn controller_call_begins_the_shutdown_without_any_transport_p3() {
        let shutdown = Shutdown::new();
        let mut client = GrpcControllerClient::new(controller(shutdown.clone()));
        assert!(!shutdown.has_begun());
        client.shutdown(Empty {}).await.unwrap();
        assert!(shutdown.has_begun());
        shutdown.begun().await;
    }

    #[tokio::test]
    async fn stdio_stream_stays_open_until_shutdown_p3() {
        let shutdown = Shutdown::new();
        let mut client = GrpcStdioClient::new(stdio(shutdown.clone()));
        let mut stream = client.stream_stdio(()).await.unwrap().into_inner();
        tokio::select! {
            biased;
            item = stream.message() => panic!("the stream said {item:?}"),
            () = tokio::task::yield_now() => {}
        }
        shutdown.begin();
        assert!(stream.message().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn broker_swallows_what_is_announced_and_ends_with_its_host_p3() {
        let mut client = GrpcBrokerClient::new(broker(Shutdown::new()));
        let announced = tonic::codegen::tokio_stream::iter((0..3).map(|service_id| ConnInfo {
            service_id,
            network: "unix".into(),
            address: "/nowhere".into(),
            knock: None,
        }));
        let mut stream = client.start_stream(announced).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn health_of_the_plugin_is_serving_p3() {
        let mut client = HealthClient::new(health().await);
        let known = client
            .check(HealthCheckRequest {
                service: "plugin".into(),
            })
            .await
            .unwrap();
        assert_eq!(known.into_inner().status(), Answer::Serving);
        let unknown = client
            .check(HealthCheckRequest {
                service: "other".into(),
            })
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
    }
}
