//! A plugin process seen by its environment: what it prints, what it survives, what it leaves behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use holdfast_goplugin::HandshakeLine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tempfile::TempDir;

include!("plugin/contract.rs");

const PLUGIN: &str = env!("CARGO_BIN_EXE_goplugin-echo");

/// A plugin started without a host, which is killed with the test.
struct Started {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    line: String,
    directory: TempDir,
}

impl Started {
    fn new(variables: &[(&str, &str)]) -> Started {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(PLUGIN)
            .env(HANDSHAKE.cookie_key, HANDSHAKE.cookie_value)
            .env("PLUGIN_UNIX_SOCKET_DIR", directory.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Started {
            child,
            stdout,
            line,
            directory,
        }
    }

    fn socket(&self) -> PathBuf {
        self.line.parse::<HandshakeLine>().unwrap().socket
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; the rest of both outputs.
    fn output(mut self) -> (Output, TempDir) {
        let mut rest = Vec::new();
        self.stdout.read_to_end(&mut rest).unwrap();
        let mut stderr = Vec::new();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        (
            Output {
                status,
                stdout: rest,
                stderr,
            },
            directory,
        )
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn started_by_hand_it_says_so_and_nothing_else_with_code_1_p2() {
    for cookie in [None, Some("wrong")] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(PLUGIN);
        command
            .env_remove(HANDSHAKE.cookie_key)
            .env("PLUGIN_UNIX_SOCKET_DIR", directory.path());
        if let Some(cookie) = cookie {
            command.env(HANDSHAKE.cookie_key, cookie);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!("{}\n", HANDSHAKE.by_hand)
        );
        assert_eq!(entries(directory.path()), 0);
    }
}

#[test]
fn handshake_line_has_six_fields_and_is_all_that_is_ever_printed_p1() {
    let plugin = Started::new(&[]);
    let socket = plugin.socket();
    assert_eq!(plugin.line, format!("1|2|unix|{}|grpc|\n", socket.display()));
    assert_eq!(socket.parent(), Some(plugin.directory.path()));
    plugin.signal(Signal::SIGTERM);
    let (output, directory) = plugin.output();
    assert_eq!(output.stdout, b"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(entries(directory.path()), 0, "the socket is still there");
}

#[test]
fn seventh_field_says_false_to_a_host_that_asks_p1() {
    let plugin = Started::new(&[("PLUGIN_MULTIPLEX_GRPC", "true")]);
    assert_eq!(
        plugin.line,
        format!("1|2|unix|{}|grpc||false\n", plugin.socket().display())
    );
}

#[test]
fn a_host_of_another_version_is_told_ours_p1() {
    for offered in ["1,2,3", "7", "", "nonsense"] {
        let plugin = Started::new(&[("PLUGIN_PROTOCOL_VERSIONS", offered)]);
        assert!(plugin.line.starts_with("1|2|unix|"), "{}", plugin.line);
    }
}

#[test]
fn sigint_is_ignored_and_sigterm_ends_it_p8() {
    let mut plugin = Started::new(&[]);
    for _ in 0..3 {
        plugin.signal(Signal::SIGINT);
    }
    // Signals are delivered before the answer on the socket that comes after them.
    answers(&plugin.socket());
    assert!(plugin.runs());
    plugin.signal(Signal::SIGTERM);
    assert!(plugin.output().0.status.success());
}

#[test]
fn garbage_on_the_socket_does_not_end_the_server() {
    let mut plugin = Started::new(&[]);
    let socket = plugin.socket();
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let broken_frame = [preface, &[0xff; 64]].concat();
    let huge_header = [
        preface,
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0x40, 0, 1, 4, 0, 0, 0, 1],
        &[0xff; 0x4000],
    ]
    .concat();
    let samples: [&[u8]; 6] = [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        preface,
        &broken_frame,
        &huge_header,
    ];
    let mut held = Vec::new();
    for _ in 0..20 {
        for sample in samples {
            let mut stream = UnixStream::connect(&socket).unwrap();
            // The server may hang up in the middle.
            let _ = stream.write_all(sample);
            held.push(stream);
        }
    }
    answers(&socket);
    drop(held);
    answers(&socket);
    assert!(plugin.runs());
}

#[test]
fn it_lives_on_when_nobody_reads_its_log() {
    let mut plugin = Started::new(&[]);
    drop(plugin.child.stderr.take());
    for _ in 0..10 {
        answers(&plugin.socket());
        plugin.signal(Signal::SIGINT);
    }
    assert!(plugin.runs());
    plugin.signal(Signal::SIGTERM);
    assert!(plugin.child.wait().unwrap().success());
}

#[test]
fn its_log_lines_are_hclogs_and_their_own_fields_strings_p10() {
    let plugin = Started::new(&[]);
    answers(&plugin.socket());
    plugin.signal(Signal::SIGTERM);
    let stderr = String::from_utf8(plugin.output().0.stderr).unwrap();
    let mut messages = Vec::new();
    for line in stderr.lines() {
        let fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for own in ["@level", "@message", "@module", "@timestamp"] {
            assert!(fields[own].is_string(), "{own} in {line}");
        }
        messages.push(fields["@message"].as_str().unwrap().to_owned());
        if fields["@message"] == "plugin starts" {
            assert_eq!((&fields["version"], &fields["@level"]), (&2.into(), &"info".into()));
        }
    }
    assert!(
        messages.iter().any(|message| message == "plugin starts"),
        "{messages:?}"
    );
    assert!(messages.iter().any(|message| message == "plugin ends"), "{messages:?}");
}

#[test]
fn a_host_that_wants_tls_is_warned_in_the_log() {
    let plugin = Started::new(&[("PLUGIN_CLIENT_CERT", "-----BEGIN CERTIFICATE-----")]);
    plugin.signal(Signal::SIGTERM);
    let stderr = String::from_utf8(plugin.output().0.stderr).unwrap();
    assert!(stderr.contains("mutual TLS"), "{stderr}");
}

/// The plugin answers HTTP/2 on a new connection: its first frame is SETTINGS (RFC 9113, section 3.4).
fn answers(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "{frame:?}");
}
