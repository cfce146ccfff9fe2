//! What the agent prints: its own lines, and the tasks' output line by line.

use std::fmt;
use std::io::Write;
use std::rc::Rc;

/// Which of a task's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The stream's name in the names of log files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Prints one line of the agent's own. A reader that went away is no reason to end the job.
pub(crate) fn say(text: impl std::fmt::Display) {
    _ = writeln!(std::io::stderr().lock(), "==> {text}");
}

/// To whom the parts say what happens that can be at work for an agent or for a drill.
#[derive(Clone)]
pub(crate) struct Voice(Rc<Listener>);

type Listener = dyn Fn(&dyn fmt::Display);

impl Voice {
    /// Says it on the console.
    pub(crate) fn console() -> Voice {
        Voice::to(|text| say(text))
    }

    /// Hands each line to `listener`.
    pub(crate) fn to(listener: impl Fn(&dyn fmt::Display) + 'static) -> Voice {
        Voice(Rc::new(listener))
    }

    pub(crate) fn say(&self, text: impl fmt::Display) {
        (self.0)(&text);
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Voice")
    }
}

/// Prints one line of a task's output under the task's name. `line` has no newline.
pub(crate) fn output(stream: Stream, name: &str, line: &[u8]) {
    let mut text = Vec::with_capacity(name.len() + line.len() + 4);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b" | ");
    text.extend_from_slice(line);
    text.push(b'\n');
    _ = match stream {
        Stream::Stdout => std::io::stdout().lock().write_all(&text),
        Stream::Stderr => std::io::stderr().lock().write_all(&text),
    };
}

/// An error and its causes in one line. What a cause says that stands there already is left out.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_says_each_of_its_causes_once() {
        let cause = || Err::<(), _>(std::io::Error::from(std::io::ErrorKind::NotFound));
        let error = cause()
            .context("cannot read a: entity not found")
            .context("cannot start")
            .expect_err("an error");
        assert_eq!(in_one_line(&error), "cannot start: cannot read a: entity not found");
    }
}
