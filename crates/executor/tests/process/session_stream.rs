//! Sessions with a client at their streams: sizes, ends of input, bytes both ways, messages that are none.

use holdfast_wire::executor_v1::{ExecInput, ExecSetup, TerminalSize, exec_input};

use crate::host::{Host, eventually, gone, is_root, lives, text};
use crate::session::{Session, exec};
use crate::session_many::sessions_gone;
use crate::stop::kill_now;

fn size(rows: u32, columns: u32) -> exec_input::Message {
    exec_input::Message::Size(TerminalSize { rows, columns })
}

fn stdin(bytes: &[u8]) -> exec_input::Message {
    exec_input::Message::Stdin(bytes.to_vec())
}

const STDIN_CLOSE: exec_input::Message = exec_input::Message::StdinClose(true);

/// Neither text nor compressible, and the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_command_never_sees_another_size_than_the_one_sent_with_its_setup_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    for _ in 0..10 {
        let mut session = Session::start_with(&peer, "stty size", true, [size(33, 77)])
            .await
            .unwrap();
        assert_eq!(session.exit().await.exit_code, 0);
        assert_eq!(text(&session.stdout), "33 77\r\n");
    }
    // Another first message is the session's.
    let mut session = Session::start_with(&peer, "read line; echo \"<$line>\"", true, [stdin(b"first\n")])
        .await
        .unwrap();
    assert_eq!(session.exit().await.exit_code, 0);
    assert!(
        text(&session.stdout).ends_with("<first>\r\n"),
        "{:?}",
        text(&session.stdout)
    );
    kill_now(peer).await;
}

#[tokio::test]
async fn a_resize_is_heard_by_the_foreground_and_ignored_if_no_terminal_has_that_size_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut session = Session::start_with(&peer, script, true, [size(24, 80)]).await.unwrap();
    session.says("ready").await;
    for unusable in [
        size(0, 0),
        size(0, 80),
        size(24, 0),
        size(65_536, 80),
        size(24, u32::MAX),
    ] {
        session.send(unusable).await;
    }
    session.send(size(65_535, 1)).await;
    session.says("65535 1\r\n").await;
    session.send(size(50, 132)).await;
    session.says("50 132\r\n").await;
    assert_eq!(text(&session.stdout), "ready\r\n65535 1\r\n50 132\r\n", "and no other");
    drop(session);

    let mut session = Session::start_with(&peer, "cat", false, [size(24, 80)]).await.unwrap();
    session.send(stdin(b"without a terminal\n")).await;
    session.send(size(0, 0)).await;
    session.send(STDIN_CLOSE).await;
    assert_eq!(session.exit().await.exit_code, 0);
    assert_eq!(text(&session.stdout), "without a terminal\n");
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn the_end_of_the_input_reaches_a_terminals_reader_whatever_is_in_the_line_x3() {
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    for (input, read) in [
        ("", "<>"),
        ("line\n", "<line>"),
        ("no newline", "<no newline>"),
        ("a\nb", "<a\r\nb>"),
    ] {
        let script = "stty -echo; echo ready; read=$(cat); echo \"<$read>\"";
        let mut session = Session::start(&peer, script, true).await;
        session.says("ready").await;
        session.send(stdin(input.as_bytes())).await;
        session.send(STDIN_CLOSE).await;
        assert_eq!(session.exit().await.exit_code, 0);
        assert!(
            text(&session.stdout).ends_with(&format!("{read}\r\n")),
            "{input:?}: {:?}",
            text(&session.stdout)
        );
    }
    // The character is the terminal's own choice.
    let mut session = Session::start(&peer, "stty -echo eof '^X'; echo ready; cat; echo done", true).await;
    session.says("ready").await;
    session.send(STDIN_CLOSE).await;
    assert_eq!(session.exit().await.exit_code, 0);
    assert_eq!(text(&session.stdout), "ready\r\ndone\r\n");
    kill_now(peer).await;
}

#[tokio::test]
async fn ten_megabytes_come_back_unchanged_with_and_without_a_terminal_x3() {
    const LENGTH: usize = 10 << 20;
    let host = Host::new();
    let task = host.task("main");
    let (peer, _) = host.running(&task, "sleep 1000").await;
    let payload = noise(LENGTH);
    for (script, tty) in [
        ("echo ready; cat".to_owned(), false),
        (format!("stty raw -echo; echo ready; head -c {LENGTH}"), true),
    ] {
        let mut session = Session::start(&peer, &script, tty).await;
        session.says("ready\n").await;
        let inputs = session.inputs.clone();
        let parts: Vec<Vec<u8>> = payload.chunks(32 << 10).map(<[u8]>::to_vec).collect();
        let sending = tokio::spawn(async move {
            let messages = parts.into_iter().map(exec_input::Message::Stdin);
            for message in messages.chain([STDIN_CLOSE]) {
                let message = Some(message);
                let _ = inputs.send(ExecInput { message }).await;
            }
        });
        assert_eq!(session.exit().await.exit_code, 0);
        sending.abort();
        let returned = &session.stdout["ready\n".len()..];
        assert!(returned == payload, "{} bytes came back, tty: {tty}", returned.len());
    }
    kill_now(peer).await;
}

#[tokio::test]
async fn what_a_session_leaves_running_neither_delays_its_exit_nor_outlives_it_x3() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    for tty in [false, true] {
        for left_running in ["sleep 1000", "yes", "setsid sh -c 'setsid yes & setsid sleep 1000'"] {
            let script = format!("trap '' HUP; {left_running} & echo last words; exit 3");
            let mut session = Session::start(&peer, &script, tty).await;
            assert_eq!(session.exit().await.exit_code, 3);
            assert!(text(&session.stdout).contains("last words"));
            let ran = exec(&peer, &["/bin/sh", "-c", &script], 0).await.unwrap();
            assert_eq!(ran.exit.unwrap().exit_code, 3);
        }
    }
    if is_root() {
        sessions_gone(&peer, &launched, true);
    }
    kill_now(peer).await;
    host.nothing_left();
}

#[tokio::test]
async fn a_message_that_is_none_ends_its_own_session_and_nothing_else() {
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    let mut bystander = Session::start(&peer, "echo ready; cat", false).await;
    bystander.says("ready").await;
    let again = ExecSetup {
        command: vec!["true".to_owned()],
        tty: false,
    };
    let huge = vec![b'x'; 5 << 20];
    for (message, expected) in [
        (exec_input::Message::Setup(again), "a session has one setup"),
        (exec_input::Message::Stdin(huge), "the session's input is unusable"),
    ] {
        for tty in [false, true] {
            let mut session = Session::start(&peer, "trap '' HUP TERM; echo $$; while :; do sleep 1; done", tty).await;
            session.says("\n").await;
            let pid: i32 = text(&session.stdout).trim().parse().unwrap();
            session.send(message.clone()).await;
            let status = session.refusal().await;
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(expected), "{status}");
            gone(pid);
        }
    }
    bystander.send(stdin(b"still here")).await;
    bystander.send(STDIN_CLOSE).await;
    assert_eq!(bystander.exit().await.exit_code, 0);
    assert_eq!(text(&bystander.stdout), "ready\nstill here");
    assert!(lives(launched.main.unwrap().pid));
    kill_now(peer).await;
    host.nothing_left();
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// A field of a message with a length (protocol buffers, wire type 2).
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// The headers of a call, then its setup.
fn opening(stream: u32, script: &str) -> Vec<u8> {
    const POST: u8 = 0x83;
    const HTTP: u8 = 0x86;
    let header = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    };
    let headers = [
        vec![POST, HTTP],
        header(":path", "/holdfast.executor.v1.Executor/ExecStream"),
        header(":authority", "executor"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat();
    let setup: Vec<u8> = ["/bin/sh", "-c", script]
        .iter()
        .flat_map(|part| field(1, part.as_bytes()))
        .collect();
    [
        frame(HEADERS, END_HEADERS, stream, &headers),
        frame(DATA, 0, stream, &framed(&field(1, &setup))),
    ]
    .concat()
}

#[tokio::test]
async fn bytes_that_are_no_message_end_their_own_stream_and_nothing_else() {
    use std::io::Write;
    let mut host = Host::new();
    let task = host.task("main");
    let spec = host.scoped(task.shell("exec sleep 1000"));
    let (peer, launched) = host.launch(&task, spec).await;
    let mut connection = std::os::unix::net::UnixStream::connect(task.dir.path().join("executor.sock")).unwrap();
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    connection.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    let pid_of = |stream: u32| {
        eventually("the session's pid", || {
            let written = std::fs::read_to_string(task.logs.join(format!("pid-{stream}"))).unwrap_or_default();
            written
                .trim()
                .parse::<i32>()
                .map_err(|_| format!("{written:?} is no pid"))
        })
    };
    let started = |connection: &mut std::os::unix::net::UnixStream, stream: u32| {
        let script = format!("trap '' HUP; echo $$ > pid-{stream}; exec sleep 1000");
        connection.write_all(&opening(stream, &script)).unwrap();
        let pid = pid_of(stream);
        assert!(lives(pid));
        pid
    };
    let bystander = started(&mut connection, 1);
    let garbage: [(&[u8], u8); 4] = [
        // Not protocol buffers.
        (&framed(&[0xff; 9]), 0),
        // Compressed, and nobody has said how.
        (&[1, 0, 0, 0, 1, 0], 0),
        // Four gigabytes announced.
        (&[0, 0xff, 0xff, 0xff, 0xff, 0], 0),
        // The end of the stream within a message.
        (&[0, 0, 0, 0, 9, 1], END_STREAM),
    ];
    for (stream, (bytes, flags)) in (3..).step_by(2).zip(garbage) {
        let pid = started(&mut connection, stream);
        connection.write_all(&frame(DATA, flags, stream, bytes)).unwrap();
        gone(pid);
        assert!(lives(bystander), "stream {stream}");
    }
    drop(connection);
    gone(bystander);
    assert!(lives(launched.main.unwrap().pid));
    kill_now(peer).await;
    host.nothing_left();
}
