//! Peers that were built later: fields, values and calls that this version does not know.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use holdfast_executor::client::{self, ConnectError};
use holdfast_executor::protocol;
use holdfast_executor::server::{self, Services};
use holdfast_wire::executor_v1::{
    CommitRequest, ExecInput, ExecRequest, ExecSetup, IdentifyRequest, LaunchRequest, SignalRequest, StopRequest,
    exec_input, exec_output, identify_response, task_result,
};
use hyper::body::Incoming;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request, Response};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tower::service_fn;

use crate::host::{Host, StartMode, Task, left, wait};

/// Messages as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// What a version that is not written yet may add to any message: a field of each kind, far from those that there are.
fn additions() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (field, wire_type, content) in [
        (1000_u32, 0_u32, &b"\x96\x01"[..]),
        (1001, 1, b"12345678"),
        (1002, 2, b"\x05later"),
        (1003, 5, b"1234"),
        (1002, 2, b"\x00"),
    ] {
        prost::encoding::encode_varint(u64::from(field << 3 | wire_type), &mut bytes);
        bytes.extend(content);
    }
    bytes
}

/// Stands between a client and an executor and makes each newer than the other: what passes has something behind it.
#[derive(Debug, Clone)]
struct Between {
    executor: Channel,
    /// Also behind answers to Identify.
    of_identify: Vec<u8>,
}

impl NamedService for Between {
    const NAME: &'static str = "holdfast.executor.v1.Executor";
}

type Messages = Pin<Box<dyn tokio_stream::Stream<Item = Result<Vec<u8>, Status>> + Send>>;

impl tower::Service<Request<Incoming>> for Between {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path_and_query().unwrap().clone();
        let call = Call {
            between: self.clone(),
            path,
        };
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(call, request).await) })
    }
}

struct Call {
    between: Between,
    path: PathAndQuery,
}

impl StreamingService<Vec<u8>> for Call {
    type Response = Vec<u8>;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<Vec<u8>>>) -> Self::Future {
        let Between { executor, of_identify } = self.between.clone();
        let path = self.path.clone();
        Box::pin(async move {
            let more = match path.path().ends_with("/Identify") {
                true => [additions(), of_identify].concat(),
                false => additions(),
            };
            let requests = request
                .into_inner()
                .map_while(Result::ok)
                .map(|message| [message, additions()].concat());
            let mut client = tonic::client::Grpc::new(executor);
            client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let answers = client.streaming(tonic::Request::new(requests), path, Raw).await?;
            let answers = answers.into_inner();
            let answers: Messages = Box::pin(answers.map(move |message| message.map(|m| [m, more.clone()].concat())));
            Ok(tonic::Response::new(answers))
        })
    }
}

async fn channel(task: &Task) -> Channel {
    let address = task.dir.socket_address("executor.sock");
    let connector = service_fn(move |_| {
        let address = address.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(address).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://executor")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// Puts something between, and returns where it listens; it ends with the sender.
async fn stand_between(host: &Host, task: &Task, of_identify: Vec<u8>) -> (std::path::PathBuf, watch::Sender<bool>) {
    let path = host.path().join("between.sock");
    let _ = std::fs::remove_file(&path);
    let listener = server::listen_at(&path).unwrap();
    let (leave, leaving) = watch::channel(false);
    let between = Between {
        executor: channel(task).await,
        of_identify,
    };
    tokio::spawn(server::serve(
        listener,
        None,
        Services::default().with(between),
        leaving,
    ));
    (path, leave)
}

#[tokio::test]
async fn who_launches_and_speaks_only_newer_versions_is_refused_and_nothing_is_started() {
    let host = Host::new();
    let task = host.task("main");
    let mut peer = host.start(&task, StartMode::Fresh).await.unwrap();
    let request = |oldest_protocol| LaunchRequest {
        task: Some(task.shell("exec sleep 1000")),
        protocol: protocol::SPOKEN + 3,
        oldest_protocol,
    };
    let refused = peer.executor.launch(request(protocol::SPOKEN + 1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("protocol version"), "{}", refused.message());
    assert!(task.dir.record().unwrap().is_none());
    peer.executor.launch(request(protocol::SPOKEN)).await.unwrap();
    peer.executor.commit(CommitRequest {}).await.unwrap();
    crate::stop::kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn every_call_works_between_peers_that_are_newer_than_each_other() {
    let host = Host::new();
    let task = host.task("main");
    let direct = host.start(&task, StartMode::Fresh).await.unwrap();
    // The fields of protobuf's merging: what comes last holds.
    let newer = holdfast_wire::executor_v1::IdentifyResponse {
        state: 99,
        protocol: protocol::SPOKEN + 2,
        oldest_protocol: protocol::SPOKEN,
        ..Default::default()
    };
    let (path, _leave) = stand_between(&host, &task, newer.encode_to_vec()).await;
    let mut peer = client::connect_socket(&path).await.unwrap();
    assert_eq!(peer.identity.task_id, task.intent.task_id);
    assert_eq!(peer.identity.protocol, protocol::SPOKEN + 2);
    assert_eq!(
        peer.identity.state(),
        identify_response::State::Unspecified,
        "a state that came later is none"
    );

    let spec = task.shell("trap 'exit 5' TERM; echo begun; while :; do sleep 0.05; done");
    let launched = peer
        .executor
        .launch(LaunchRequest {
            task: Some(spec),
            protocol: protocol::SPOKEN + 2,
            oldest_protocol: protocol::SPOKEN,
        })
        .await
        .unwrap()
        .into_inner();
    assert!(launched.main.is_some_and(|main| main.pid > 0));
    peer.executor.commit(CommitRequest {}).await.unwrap();
    let ran = peer
        .executor
        .exec(ExecRequest {
            command: ["/bin/sh", "-c", "echo said; exit 3"].map(str::to_owned).into(),
            timeout_ms: 0,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((&ran.output[..], ran.exit.unwrap().exit_code), (&b"said\n"[..], 3));

    let setup = ExecSetup {
        command: vec!["/bin/cat".to_owned()],
        tty: false,
    };
    let inputs = [
        exec_input::Message::Setup(setup),
        exec_input::Message::Stdin(b"to and fro".to_vec()),
        exec_input::Message::StdinClose(true),
    ];
    // The client's side stays open, as an agent's does.
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    for message in inputs {
        sender.send(ExecInput { message: Some(message) }).await.unwrap();
    }
    let inputs = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut outputs = peer.executor.exec_stream(inputs).await.unwrap().into_inner();
    let (mut said, mut exit) = (Vec::new(), None);
    while let Some(output) = outputs.message().await.unwrap() {
        match output.message {
            Some(exec_output::Message::Stdout(bytes)) => said.extend(bytes),
            Some(exec_output::Message::Exit(found)) => exit = Some(found.exit_code),
            _ => {}
        }
    }
    assert_eq!((&said[..], exit), (&b"to and fro"[..], Some(0)));

    // A target that came later is the main process, and nobody else is hit.
    let signal = SignalRequest {
        signal: libc::SIGCONT,
        target: Some(99),
    };
    peer.executor.signal(signal).await.unwrap();
    peer.executor
        .stop(StopRequest {
            signal: libc::SIGTERM,
            grace_ms: 60_000,
        })
        .await
        .unwrap();
    let mut direct = direct;
    assert_eq!(
        wait(&task, &mut direct).await.status,
        Some(task_result::Status::Exited(5))
    );
    left(direct);
}

#[tokio::test]
async fn a_call_that_came_later_is_refused_as_such_and_the_task_goes_on() {
    let host = Host::new();
    let task = host.task("main");
    let (mut peer, _) = host.running(&task, "read -r _ < /dev/zero || sleep 60").await;
    let mut client = tonic::client::Grpc::new(channel(&task).await);
    for path in [
        "/holdfast.executor.v1.Executor/Later",
        "/holdfast.executor.v2.Executor/Identify",
        "/grpc.health.v1.Health/Check",
    ] {
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        let refused = client
            .unary(tonic::Request::new(Vec::new()), path, Raw)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    // What is no message at all ends its call and nothing else.
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/holdfast.executor.v1.Executor/Signal");
    let garbage = tonic::Request::new(b"\xff\xff\xff".to_vec());
    client.unary(garbage, path, Raw).await.unwrap_err();
    let identity = peer.executor.identify(IdentifyRequest {}).await.unwrap().into_inner();
    assert_eq!(identity.state(), identify_response::State::Running);
    peer.executor.stop(StopRequest::default()).await.unwrap();
    left(peer);
}

#[tokio::test]
async fn a_peer_too_far_away_is_named_and_nothing_is_asked_of_it() {
    let host = Host::new();
    let task = host.task("main");
    let (mut direct, _) = host.running(&task, "sleep 60").await;
    let newer = holdfast_wire::executor_v1::IdentifyResponse {
        protocol: protocol::SPOKEN + 3,
        oldest_protocol: protocol::SPOKEN + 1,
        ..Default::default()
    };
    let (path, _leave) = stand_between(&host, &task, newer.encode_to_vec()).await;
    let error = client::connect_socket(&path).await.unwrap_err();
    assert!(matches!(error, ConnectError::Identify { .. }), "{error}");
    assert!(error.to_string().contains("no protocol version before"), "{error}");
    direct.executor.stop(StopRequest::default()).await.unwrap();
    left(direct);
}
