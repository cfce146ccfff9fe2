//! Commands run inside a task.

use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_wire::executor_v1::{
    ExecInput, ExecOutput, ExecRequest, ExecResponse, ExecSetup, SessionExit, TerminalSize, exec_input, exec_output,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::host::{Host, PATIENCE, eventually, lives, pids_holding, text};
use crate::stop::kill_now;

pub async fn exec(peer: &Peer, command: &[&str], timeout_ms: u64) -> Result<ExecResponse, tonic::Status> {
    let request = ExecRequest {
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        timeout_ms,
    };
    let mut executor = peer.executor.clone();
    executor.exec(request).await.map(tonic::Response::into_inner)
}

/// A streaming session and what it has said.
pub struct Session {
    pub inputs: mpsc::Sender<ExecInput>,
    pub outputs: tonic::Streaming<ExecOutput>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Session {
    pub async fn start(peer: &Peer, script: &str, tty: bool) -> Self {
        Self::start_with(peer, script, tty, []).await.unwrap()
    }

    /// `early` is sent together with the setup.
    pub async fn start_with(
        peer: &Peer,
        script: &str,
        tty: bool,
        early: impl IntoIterator<Item = exec_input::Message>,
    ) -> Result<Self, tonic::Status> {
        let (inputs, messages) = mpsc::channel(16);
        let setup = ExecSetup {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            tty,
        };
        for message in [exec_input::Message::Setup(setup)].into_iter().chain(early) {
            let message = Some(message);
            inputs.send(ExecInput { message }).await.unwrap();
        }
        let mut executor = peer.executor.clone();
        let outputs = executor.exec_stream(ReceiverStream::new(messages)).await?;
        Ok(Self {
            inputs,
            outputs: outputs.into_inner(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    pub async fn send(&self, message: exec_input::Message) {
        let message = Some(message);
        self.inputs.send(ExecInput { message }).await.unwrap();
    }

    /// The next message; nothing after the last one.
    pub async fn hear(&mut self) -> Result<Option<exec_output::Message>, tonic::Status> {
        let next = tokio::time::timeout(PATIENCE, self.outputs.message()).await;
        let Some(message) = next
            .expect("the session says nothing")?
            .and_then(|output| output.message)
        else {
            return Ok(None);
        };
        match &message {
            exec_output::Message::Stdout(bytes) => self.stdout.extend_from_slice(bytes),
            exec_output::Message::Stderr(bytes) => self.stderr.extend_from_slice(bytes),
            _ => {}
        }
        Ok(Some(message))
    }

    pub async fn says(&mut self, expected: &str) {
        while !text(&self.stdout).contains(expected) {
            let said = self.hear().await.unwrap();
            assert!(said.is_some(), "the session ended after {:?}", text(&self.stdout));
        }
    }

    /// Everything to the end; the exit comes last and once.
    pub async fn exit(&mut self) -> SessionExit {
        let mut closed = 0;
        loop {
            match self.hear().await.unwrap().expect("the session ended without an exit") {
                exec_output::Message::Exit(exit) => {
                    assert!(closed > 0, "the output is closed before the exit is told");
                    assert!(self.outputs.message().await.unwrap().is_none());
                    return exit;
                }
                exec_output::Message::StdoutClose(_) | exec_output::Message::StderrClose(_) => closed += 1,
                _ => {}
            }
        }
    }

    /// Everything to the error that the executor ends it with.
    pub async fn refusal(&mut self) -> tonic::Status {
        loop {
            match self.hear().await {
                Err(status) => return status,
                Ok(message) => assert!(message.is_some(), "the session ended without an error"),
            }
        }
    }
}

#[tokio::test]
async fn output_is_combined_and_the_exit_code_told_x1() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("sleep 1000"));
    let (peer, _) = host.launch(&task, spec).await;
    let script = "echo one; echo two >&2; echo three; pwd; exit 42";
    let ran = exec(&peer, &["/bin/sh", "-c", script], 0).await.unwrap();
    assert_eq!(text(&ran.output), format!("one\ntwo\nthree\n{}\n", task.logs.display()));
    assert_eq!(ran.exit.unwrap().exit_code, 42);
    let ran = exec(&peer, &["sh", "-c", "kill -TERM $$"], 0).await.unwrap();
    assert_eq!(ran.exit.unwrap().signal, libc::SIGTERM, "found in PATH");
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn of_a_long_output_the_end_is_kept_x2() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let ran = exec(&peer, &["seq", "1", "100000"], 0).await.unwrap();
    assert_eq!(ran.output.len(), 4096);
    assert!(text(&ran.output).ends_with("99999\n100000\n"));
    kill_now(peer).await;
}

#[tokio::test]
async fn a_time_limit_ends_the_command_and_all_it_started_x2() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec = task.shell("exec sleep 1000");
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (peer, launched) = host.launch(&task, spec).await;
        let script = "echo begun; setsid sleep 777 & sleep 777";
        let ran = exec(&peer, &["/bin/sh", "-c", script], 4_000).await.unwrap();
        assert!(ran.exit.unwrap().timed_out);
        assert_eq!(ran.output, b"begun\n");
        eventually("end of the session", || {
            let sleeping = pids_holding(host.path().to_str().unwrap()).into_iter().filter(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).contains("777"))
            });
            let count = sleeping.count();
            (count == 0).then_some(()).ok_or(format!("{count} are left"))
        });
        assert!(lives(launched.main.unwrap().pid), "the task goes on");
        kill_now(peer).await;
        host.nothing_left();
    }
}

#[tokio::test]
async fn what_a_session_left_behind_ends_with_the_task() {
    for is_scoped in [true, false] {
        let mut host = Host::new();
        let task = host.task("main");
        let mut spec = task.shell("exec sleep 1000");
        if is_scoped {
            spec = host.scoped(spec);
        }
        let (peer, _) = host.launch(&task, spec).await;
        let script = "setsid sh -c 'setsid sleep 777 >/dev/null 2>&1 &' >/dev/null 2>&1";
        exec(&peer, &["/bin/sh", "-c", script], 0).await.unwrap();
        kill_now(peer).await;
        host.nothing_left();
    }
}

#[tokio::test]
async fn a_missing_command_is_named_and_harms_nobody() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, launched) = host.running(&task, "sleep 1000").await;
    let message = |error: tonic::Status| error.message().to_owned();
    let error = exec(&peer, &["/no/such/command"], 0).await.unwrap_err();
    assert!(message(error).contains("/no/such/command"));
    let error = exec(&peer, &["no-such-command"], 0).await.unwrap_err();
    assert_eq!(
        message(error),
        "exec: \"no-such-command\": executable file not found in $PATH"
    );
    let error = exec(&peer, &[], 0).await.unwrap_err();
    assert!(message(error).contains("must have at least one value"));
    assert!(lives(launched.main.unwrap().pid));
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn many_commands_at_once_do_not_disturb_one_another() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("sleep 1000"));
    let (peer, _) = host.launch(&task, spec).await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..20 {
        let mut executor = peer.executor.clone();
        running.spawn(async move {
            let script = format!("echo {number}; sleep 0.1; exit {number}");
            let request = ExecRequest {
                command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
                timeout_ms: 0,
            };
            (number, executor.exec(request).await.unwrap().into_inner())
        });
    }
    while let Some(ran) = running.join_next().await {
        let (number, ran) = ran.unwrap();
        assert_eq!(text(&ran.output), format!("{number}\n"));
        assert_eq!(ran.exit.unwrap().exit_code, number);
    }
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_session_streams_both_ways_and_ends_with_its_exit_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let mut session = Session::start(&peer, "echo ready; cat; echo done >&2; exit 5", false).await;
    session.says("ready\n").await;
    for part in ["first ", "second\n"] {
        session.send(exec_input::Message::Stdin(part.into())).await;
    }
    session.says("second\n").await;
    session.send(exec_input::Message::StdinClose(true)).await;
    assert_eq!(session.exit().await.exit_code, 5);
    assert_eq!(text(&session.stdout), "ready\nfirst second\n");
    assert_eq!(text(&session.stderr), "done\n");
    kill_now(peer).await;
}

#[tokio::test]
async fn a_large_output_arrives_whole_at_a_slow_reader_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let mut session = Session::start(&peer, "seq 1 200000", false).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.exit().await;
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&session.stdout) == expected);
    kill_now(peer).await;
}

#[tokio::test]
async fn a_terminal_has_its_size_and_its_signals_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let script = "tty -s || exit 9; trap 'stty size; exit 3' INT; echo ready; while :; do sleep 0.05; done";
    let mut session = Session::start(&peer, script, true).await;
    session.says("ready").await;
    let size = TerminalSize { rows: 33, columns: 77 };
    session.send(exec_input::Message::Size(size)).await;
    session.send(exec_input::Message::Stdin(vec![3])).await;
    assert_eq!(session.exit().await.exit_code, 3);
    assert!(text(&session.stdout).contains("33 77"), "{:?}", text(&session.stdout));
    kill_now(peer).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_its_session_x4() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    for tty in [false, true] {
        let mut session = Session::start(&peer, "trap '' HUP; echo $$; while :; do sleep 0.05; done", tty).await;
        session.says("\n").await;
        let pid: i32 = text(&session.stdout).trim().parse().unwrap();
        assert!(lives(pid));
        drop(session);
        tokio::time::timeout(PATIENCE, async {
            while lives(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the session outlives its client");
    }
    assert!(lives(launched.main.unwrap().pid));
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn sessions_end_with_their_task() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host
        .running(&task, "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 0")
        .await;
    let mut session = Session::start(
        &peer,
        "trap '' TERM HUP; echo ready; while :; do sleep 0.05; done",
        false,
    )
    .await;
    session.says("ready").await;
    std::fs::write(task.logs.join("go"), "").unwrap();
    let exit = session.exit().await;
    assert_eq!(
        (exit.exit_code, exit.signal),
        (137, libc::SIGKILL),
        "its client is told"
    );
    task.result();
    crate::host::left(peer);
    host.nothing_left();
}

#[tokio::test]
async fn a_session_without_a_setup_is_refused() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let (inputs, messages) = mpsc::channel(1);
    let message = Some(exec_input::Message::Stdin(b"x".to_vec()));
    inputs.send(ExecInput { message }).await.unwrap();
    let mut executor = peer.executor.clone();
    let error = executor.exec_stream(ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    kill_now(peer).await;
}
