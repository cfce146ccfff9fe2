//! Lines from a plugin's pipes, of bounded length, and the last of them for error messages.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::log_entry::{LogEntry, LogSink};

/// Longest line; what is longer comes in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// Lines that an error message quotes.
const TAIL_LINES: usize = 20;

/// The last lines of a plugin's standard error.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines in one text.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Reads up to a line feed, a length of `longest`, or the end; `None` at the end. Bytes that are not UTF-8 are
/// replaced.
pub(super) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), longest: usize) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    let read = reader.take(longest as u64).read_until(b'\n', &mut bytes).await?;
    if read == 0 {
        return Ok(None);
    }
    let whole = bytes.last() == Some(&b'\n');
    if whole {
        bytes.pop();
    }
    Ok(Some(Line {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        whole,
    }))
}

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Did it end with a line feed?
    pub(super) whole: bool,
}

/// Hands a plugin's log to `sink` until it ends.
pub(super) async fn forward(stderr: impl AsyncRead + Unpin, sink: LogSink, tail: Tail) {
    let mut reader = BufReader::new(stderr);
    let mut continues = false;
    while let Ok(Some(line)) = read_line(&mut reader, LONGEST_LINE).await {
        let is_piece = continues || (!line.whole && line.text.len() >= LONGEST_LINE);
        continues = is_piece && !line.whole;
        let entry = if is_piece {
            LogEntry::plain(&line.text)
        } else {
            LogEntry::parse(&line.text)
        };
        tail.push(entry.message.clone());
        sink.receive(entry);
    }
}

/// Reads to the end, so that the writer never waits for room.
pub(super) async fn discard(mut stdout: impl AsyncRead + Unpin) {
    let mut bytes = [0; 1024];
    while matches!(stdout.read(&mut bytes).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_an_unfinished_last_one_is_told() {
        let mut input: &[u8] = b"short\nmuch too long\n\xff\nlast";
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input, 6).await.unwrap() {
            lines.push((line.text, line.whole));
        }
        let expected = [
            ("short", true),
            ("much t", false),
            ("oo lon", false),
            ("g", true),
            ("\u{fffd}", true),
            ("last", false),
        ];
        assert_eq!(lines, expected.map(|(text, whole)| (text.to_owned(), whole)));
    }

    #[tokio::test]
    async fn every_line_reaches_the_sink_and_the_tail_keeps_the_last() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let sink = LogSink::new(move |entry| sender.send(entry.message).unwrap());
        let tail = Tail::default();
        let input: String = (0..50).map(|n| format!("{{\"@message\":\"line {n}\"}}\n")).collect();
        forward(input.as_bytes(), sink, tail.clone()).await;
        let received: Vec<String> = receiver.iter().collect();
        assert_eq!(received, (0..50).map(|n| format!("line {n}")).collect::<Vec<_>>());
        assert_eq!(tail.text().lines().collect::<Vec<_>>(), received[50 - TAIL_LINES..]);
    }

    #[tokio::test]
    async fn a_line_without_end_does_not_eat_the_memory() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let sink = LogSink::new(move |entry| sender.send(entry.message.len()).unwrap());
        let input = "y".repeat(2 * LONGEST_LINE + 5);
        forward(input.as_bytes(), sink, Tail::default()).await;
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [LONGEST_LINE, LONGEST_LINE, 5]);
    }
}
