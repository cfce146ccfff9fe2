//! `serve`: Nomad's executor protocol. That its own client is content is shown by the Go tests; here is what is ours.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use holdfast_executor::client::{self, Peer};
use holdfast_goplugin::proto::Empty;
use holdfast_goplugin::proto::grpc_controller_client::GrpcControllerClient;
use holdfast_wire::nomad_executor::executor_client::ExecutorClient;
use holdfast_wire::nomad_executor::{LaunchRequest, ShutdownRequest, VersionRequest, WaitRequest};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

use crate::host::{Host, eventually, launch, lives, signal, text};

pub struct Served {
    child: Child,
    socket: PathBuf,
}

impl Served {
    fn start(host: &Host) -> Self {
        Self::with(host, &[])
    }

    /// By the rules of exec.
    pub fn isolated(host: &Host) -> Self {
        Self::with(host, &["--isolation", "exec"])
    }

    fn with(host: &Host, flags: &[&str]) -> Self {
        let socket = host.path().join("serve.sock");
        let arguments = ["serve", "--socket", socket.to_str().unwrap(), "--log-file", "serve.log"];
        let child = host
            .command(&[&arguments, flags].concat())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the socket", || {
            UnixStream::connect(&socket).map(drop).map_err(|e| e.to_string())
        });
        Self { child, socket }
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        Endpoint::from_static("http://executor")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .unwrap()
    }

    pub async fn nomad(&self) -> ExecutorClient<Channel> {
        ExecutorClient::new(self.channel().await)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// As its client ends it.
    pub async fn shut_down(self, host: &Host) {
        let mut controller = GrpcControllerClient::new(self.channel().await);
        controller.shutdown(Empty {}).await.unwrap();
        self.left(host);
    }

    fn left(mut self, host: &Host) {
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert!(!self.socket.exists());
        assert_eq!(fs::read_dir(host.state_dir().join("serve")).unwrap().count(), 0);
        host.nothing_left();
    }
}

fn request(host: &Host, script: &str) -> LaunchRequest {
    LaunchRequest {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![format!("PATH={}", std::env::var("PATH").unwrap())],
        task_dir: host.path().to_str().unwrap().to_owned(),
        stdout_path: host.path().join("output").to_str().unwrap().to_owned(),
        ..LaunchRequest::default()
    }
}

#[tokio::test]
async fn a_task_is_served_until_the_controller_says_shutdown_p3() {
    let host = Host::new();
    let served = Served::start(&host);
    let mut nomad = served.nomad().await;
    let version = nomad.version(VersionRequest {}).await.unwrap().into_inner().version;
    assert_eq!(version, "2.0.0");
    let launched = nomad
        .launch(request(&host, "echo out; exit 7"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(launched.process.unwrap().exit_code, -1);
    let process = nomad.wait(WaitRequest {}).await.unwrap().into_inner().process.unwrap();
    assert_eq!((process.exit_code, process.signal), (7, 0));
    assert_eq!(fs::read_to_string(host.path().join("output")).unwrap(), "out\n");
    assert!(lives(served.pid()), "it stays after the task's end");
    let again = nomad.wait(WaitRequest {}).await.unwrap().into_inner().process.unwrap();
    assert_eq!(again, process);
    let mut controller = GrpcControllerClient::new(served.channel().await);
    controller.shutdown(Empty {}).await.unwrap();
    served.left(&host);
}

#[tokio::test]
async fn shutdown_by_the_controller_ends_a_task_that_still_runs() {
    let host = Host::new();
    let served = Served::start(&host);
    let launched = served
        .nomad()
        .await
        .launch(request(&host, "trap '' TERM INT; sleep 1000; :"))
        .await;
    let main = launched.unwrap().into_inner().process.unwrap().pid;
    let mut controller = GrpcControllerClient::new(served.channel().await);
    controller.shutdown(Empty {}).await.unwrap();
    served.left(&host);
    assert!(!lives(main));
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let host = Host::new();
    let served = Served::start(&host);
    let mut nomad = served.nomad().await;
    let launched = nomad.launch(request(&host, "sleep 1000")).await.unwrap().into_inner();
    let main = launched.process.unwrap().pid;
    let mut held = Vec::new();
    for garbage in [
        &b""[..],
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxxxxxxxx",
        &[0xff; 100_000],
    ] {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        let _ = stream.write_all(garbage);
        held.push(stream);
    }
    nomad.version(VersionRequest {}).await.unwrap();
    drop(held);
    served.nomad().await.version(VersionRequest {}).await.unwrap();
    assert!(lives(main));
    signal(served.pid(), libc::SIGTERM);
    served.left(&host);
}

#[tokio::test]
async fn calls_before_a_launch_are_answered_and_change_nothing() {
    let host = Host::new();
    let served = Served::start(&host);
    let mut nomad = served.nomad().await;
    let shutdown = ShutdownRequest {
        signal: "SIGINT".to_owned(),
        grace_period: 1,
    };
    nomad.shutdown(shutdown).await.unwrap();
    let signalled = nomad
        .signal(holdfast_wire::nomad_executor::SignalRequest { signal: 1 })
        .await;
    assert_eq!(signalled.unwrap_err().message(), "Task not yet run");
    let stats = nomad
        .stats(holdfast_wire::nomad_executor::StatsRequest { interval: 0 })
        .await;
    assert_eq!(stats.unwrap_err().message(), "Task not yet run");
    let mut missing = request(&host, "");
    missing.cmd = "no-such-command".to_owned();
    let error = nomad.launch(missing).await.unwrap_err();
    assert_eq!(error.message(), "binary \"no-such-command\" could not be found");
    assert_eq!(error.code(), tonic::Code::Unknown, "never Unavailable (I-3)");
    nomad.launch(request(&host, "sleep 1000")).await.unwrap();
    signal(served.pid(), libc::SIGINT);
    served.left(&host);
}

#[tokio::test]
async fn our_own_protocol_is_on_the_same_socket() {
    let host = Host::new();
    let served = Served::start(&host);
    let mut peer: Peer = client::connect_socket(&served.socket).await.unwrap();
    assert!(peer.identity.main.is_none());
    let spec = holdfast_wire::executor_v1::TaskSpec {
        task_id: peer.identity.task_id.clone(),
        command: "/bin/sleep".to_owned(),
        args: vec!["1000".to_owned()],
        work_dir: "/".to_owned(),
        ..Default::default()
    };
    let main = launch(&mut peer, spec).await.unwrap().main.unwrap().pid;
    drop(peer);
    let socket = served.socket.to_str().unwrap();
    let shown = text(&host.by_hand(&["status", socket]).stdout);
    assert!(
        shown.contains(&format!("pid {main}")) && shown.contains("running"),
        "{shown}"
    );
    let listed = text(&host.by_hand(&["ls"]).stdout);
    assert!(listed.contains("serve") && listed.contains("running"), "{listed}");
    let ran = host.by_hand(&["exec", socket, "--", "/bin/sh", "-c", "exit 4"]);
    assert_eq!(ran.status.code(), Some(4), "{}", text(&ran.stderr));
    let stopped = host.by_hand(&["stop", socket]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    assert!(!lives(main));
    signal(served.pid(), libc::SIGTERM);
    served.left(&host);
}

#[test]
fn a_bad_socket_path_and_an_unknown_isolation_are_refused() {
    let host = Host::new();
    let refused = |arguments: &[&str]| {
        let output = host.by_hand(arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    fs::write(host.path().join("file"), "mine").unwrap();
    let said = refused(&["serve", "--socket", "file"]);
    assert!(said.contains("file"), "{said}");
    assert_eq!(fs::read_to_string(host.path().join("file")).unwrap(), "mine");
    let said = refused(&["serve", "--socket", "/no/such/folder/s"]);
    assert!(said.contains("/no/such/folder/s"), "{said}");
    assert_eq!(host.by_hand(&["serve"]).status.code(), Some(2));
    assert_eq!(
        host.by_hand(&["serve", "--socket", "s", "--isolation", "x"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_socket_that_somebody_listens_on_is_not_taken_and_a_dead_one_is() {
    let host = Host::new();
    let served = Served::start(&host);
    let socket = served.socket.to_str().unwrap();
    let output = host.by_hand(&["serve", "--socket", socket]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let mut child = served.child;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(served.socket.exists(), "a killed one leaves its name");
    let served = Served::start(&host);
    signal(served.pid(), libc::SIGTERM);
    let mut child = served.child;
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
