//! The person's own terminal while a session has one.

use std::io::{self, IsTerminal};

use holdfast_wire::executor_v1::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input without line editing, echo and signals; as it was before once this is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None`: standard input is no terminal, and there is nothing to change.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// The size of whichever standard stream is a terminal.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdin())
        .or_else(|_| tcgetwinsize(io::stdout()))
        .or_else(|_| tcgetwinsize(io::stderr()))
        .ok()?;
    Some(TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}
