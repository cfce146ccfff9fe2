//! Sessions with a client at their streams: sizes, ends of input, bytes both ways, messages that are none.

use holdfast_wire::executor_v1::{ExecInput, ExecSetup, TerminalSize, exec_input};

use crate::host::{Host, is_root, lives, text};
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
            crate::host::gone(pid);
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
