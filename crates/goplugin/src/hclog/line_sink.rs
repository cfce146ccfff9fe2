//! Lines to a descriptor whose reader may be gone or asleep.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a line may wait for room before it is dropped.
const PATIENCE: Duration = Duration::from_millis(250);

/// A pipe that poll(2) calls writable has room for this much (PIPE_BUF, pipe(7)), so that a write of it cannot block.
const CHUNK: usize = 4096;

/// Writes whole lines and never fails nor blocks for long: with no reader left (EPIPE) lines vanish, and those that a
/// sleeping reader leaves no room for are dropped and counted. The descriptor's flags stay as they are, because
/// others may share them.
#[derive(Debug)]
pub struct LineSink<F> {
    target: F,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The reader left no room in time; until it reads again, lines do not wait.
    asleep: bool,
    /// The last line was given up in its middle.
    torn: bool,
    dropped: u64,
}

enum Outcome {
    Written,
    NoRoom { written: usize },
    NoReader,
}

impl<F: AsFd> LineSink<F> {
    /// A sink that writes to `target`.
    pub fn new(target: F) -> Self {
        Self {
            target,
            state: Mutex::default(),
        }
    }

    /// Writes a line, given without its end. `about_dropped` yields the line that tells of those dropped before it.
    pub fn write_line(&self, line: &str, about_dropped: impl FnOnce(u64) -> String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(line.len() + 1);
        if state.torn {
            text.push('\n');
        }
        if state.dropped > 0 {
            text.push_str(&about_dropped(state.dropped));
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
        let patience = if state.asleep { Duration::ZERO } else { PATIENCE };
        match self.write(text.as_bytes(), patience) {
            Outcome::Written => *state = State::default(),
            Outcome::NoReader => {}
            Outcome::NoRoom { written } => {
                state.asleep = true;
                state.torn |= written > 0;
                state.dropped += 1;
            }
        }
    }

    fn write(&self, bytes: &[u8], patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        let mut written = 0;
        while written < bytes.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.target.as_fd(), PollFlags::POLLOUT)], wait) {
                Ok(0) => return Outcome::NoRoom { written },
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return Outcome::NoReader,
            }
            let end = bytes.len().min(written + CHUNK);
            match nix::unistd::write(self.target.as_fd(), &bytes[written..end]) {
                Ok(count) => written += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if left.is_zero() => return Outcome::NoRoom { written },
                Err(Errno::EAGAIN) => {}
                Err(_) => return Outcome::NoReader,
            }
        }
        Outcome::Written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn dropped(count: u64) -> String {
        format!("<{count} dropped>")
    }

    #[test]
    fn a_line_without_a_reader_vanishes() {
        let (reader, writer) = std::io::pipe().unwrap();
        let sink = LineSink::new(writer);
        drop(reader);
        sink.write_line("to nobody", dropped);
        sink.write_line("to nobody", dropped);
    }

    #[test]
    fn lines_beyond_a_sleeping_readers_pipe_are_dropped_counted_and_the_rest_stay_whole() {
        let (reader, writer) = std::io::pipe().unwrap();
        let sink = LineSink::new(writer);
        // More than any default pipe holds, in lines longer than one chunk.
        let line = "x".repeat(3 * CHUNK + 7);
        for _ in 0..20 {
            sink.write_line(&line, dropped);
        }
        let lost = sink.state.lock().unwrap().dropped;
        assert!(lost > 0 && lost < 20, "{lost}");

        let mut reader = File::from(std::os::fd::OwnedFd::from(reader));
        let mut room = vec![0; 64 * 1024];
        let mut seen = Vec::new();
        let count = reader.read(&mut room).unwrap();
        seen.extend_from_slice(&room[..count]);
        sink.write_line("awake", dropped);
        drop(sink);
        reader.read_to_end(&mut seen).unwrap();

        let text = String::from_utf8(seen).unwrap();
        let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('x')).collect();
        assert_eq!(told, [format!("<{lost} dropped>").as_str(), "awake"]);
        let whole = text.lines().filter(|seen| *seen == line).count() as u64;
        assert_eq!(whole + lost, 20);
    }
}
