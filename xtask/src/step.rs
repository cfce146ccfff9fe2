//! Steps that are other programs, and a sign of life from each that is silent for long.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a step may be silent before it is said that it goes on.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs a program to its end; its output is this program's. An error names the step.
pub fn run(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {name}");
    let _alive = SignOfLife::start(name);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
    ensure!(
        status.success(),
        "{name}: {:?} ended with {status}",
        command.get_program()
    );
    Ok(())
}

/// Runs a program to its end and hands every line of its standard output over. Lines that are no UTF-8 are mended.
pub fn read_lines(name: &str, command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    eprintln!("==> {name}");
    let alive = SignOfLife::start(name);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
    let mut output = BufReader::new(child.stdout.take().context("standard output is a pipe")?);
    let mut bytes = Vec::new();
    while output
        .read_until(b'\n', &mut bytes)
        .with_context(|| format!("{name}: cannot read its output"))?
        > 0
    {
        alive.heard();
        line(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']));
        bytes.clear();
    }
    child.wait().with_context(|| format!("{name}: cannot wait for its end"))
}

/// Says every half a minute of silence that a step goes on, until it is dropped.
struct SignOfLife {
    heard: Sender<()>,
}

impl SignOfLife {
    fn start(name: &str) -> SignOfLife {
        let (heard, hears) = channel();
        let name = name.to_owned();
        let begin = Instant::now();
        // Ends with the sender.
        thread::spawn(move || {
            loop {
                match hears.recv_timeout(SILENCE) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => eprintln!("... {name}: goes on, {}", Elapsed(begin.elapsed())),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        SignOfLife { heard }
    }

    fn heard(&self) {
        // The thread lives as long as this sender.
        _ = self.heard.send(());
    }
}

/// A duration as people say it.
pub struct Elapsed(pub Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..60 => write!(f, "{seconds} s"),
            seconds => write!(f, "{} min {} s", seconds / 60, seconds % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_handed_over_and_the_status_comes_back() {
        let mut lines = Vec::new();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r"echo one; printf '\377two\n\nlast'; exit 3"]);
        let status = read_lines("a shell", &mut shell, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["one", "\u{fffd}two", "", "last"]);
    }

    #[test]
    fn a_step_that_fails_is_named() {
        let error = run("the step", Command::new("/bin/sh").args(["-c", "exit 4"])).unwrap_err();
        assert!(error.to_string().starts_with("the step: "), "{error}");
        let error = run("the step", &mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
