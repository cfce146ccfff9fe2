//! A session's input, and the terminal that may be behind it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::{file, terminal};
use holdfast_wire::executor_v1::TerminalSize;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::io::Interest;

use super::start::task_root;
use super::{Context, above_streams};

/// End of transmission, the usual end of file on a terminal (termios(3), VEOF).
const END_OF_TRANSMISSION: u8 = 4;

/// From the task's own instance of devpts; `None`: it has none.
fn task_terminal(root: &OwnedFd) -> Option<(OwnedFd, OwnedFd)> {
    const PTMX: (u32, u32) = (5, 2);
    // The task may have put something else there: what is not the multiplexer of terminals is not opened.
    let found = file::open_beneath(root, Path::new("dev/pts/ptmx"), libc::O_PATH, 0).ok()?;
    let stat = rustix::fs::fstat(&found).ok()?;
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
    if !is_device || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != PTMX {
        return None;
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = file::open_beneath(root, Path::new("dev/pts/ptmx"), flags, 0).ok()?;
    let end = terminal::other_end(&master).ok()?;
    Some((master, end))
}

/// The master's side of a pseudo-terminal. The session hangs up when the last copy is gone (pty(7)).
#[derive(Debug, Clone)]
pub(super) struct Terminal(Arc<Registered>);

impl Terminal {
    /// A new one, and the end for the session, which belongs to the task's user as login leaves it (pts(4)), so that programs
    /// can open their terminal by name.
    pub(super) fn open(context: &Context) -> io::Result<(Self, OwnedFd)> {
        // One of the task's own terminals has a name there.
        let (master, end) = match task_root(context)?.and_then(|root| task_terminal(&root)) {
            Some(pair) => pair,
            None => terminal::open()?,
        };
        let end = above_streams(&end)?;
        if let Some(credentials) = &context.plan.credentials {
            file::change_owner(&end, credentials.uid, credentials.gid)?;
        }
        readiness::set_nonblocking(&master, true)?;
        let master = Registered::new(master, Interest::READABLE | Interest::WRITABLE)?;
        Ok((Self(Arc::new(master)), end))
    }

    /// What the session writes.
    pub(super) fn output(&self) -> &Registered {
        &self.0
    }

    /// A size that no terminal has, such as a client without one of its own may send, is not taken.
    pub(super) fn resize(&self, size: TerminalSize) {
        let TerminalSize { rows, columns } = size;
        if let (Ok(rows @ 1..), Ok(columns @ 1..)) = (u16::try_from(rows), u16::try_from(columns)) {
            let _ = terminal::resize(&*self.0, rows, columns);
        }
    }

    /// The character that ends the input, and whether a first one only ends the line: a program reads end of file if it gets a line
    /// without a single byte.
    fn end_of_file(&self) -> (u8, IsByLine) {
        match tcgetattr(&*self.0) {
            Ok(modes) => {
                let is_by_line = modes.local_modes.contains(LocalModes::ICANON);
                let end = match modes.special_codes[SpecialCodeIndex::VEOF] {
                    0 => END_OF_TRANSMISSION,
                    end => end,
                };
                (end, is_by_line)
            }
            Err(_) => (END_OF_TRANSMISSION, true),
        }
    }
}

type IsByLine = bool;

/// What a session reads.
#[derive(Debug)]
pub(super) enum Input {
    /// Closing it is the end of file.
    Pipe(Registered),
    /// Its end is a character.
    Terminal {
        /// Where it goes.
        terminal: Terminal,
        /// Something was written since the last line ended.
        is_within_line: bool,
    },
}

impl Input {
    /// All of the bytes, as fast as the session takes them. An error: nobody reads them any more.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => write_all(pipe, bytes).await,
            Self::Terminal {
                terminal,
                is_within_line,
            } => {
                if let Some(last) = bytes.last() {
                    *is_within_line = !matches!(*last, b'\n' | b'\r' | END_OF_TRANSMISSION);
                }
                write_all(&terminal.0, bytes).await
            }
        }
    }

    /// The end of file.
    pub(super) async fn close(self) {
        if let Self::Terminal {
            terminal,
            is_within_line,
        } = self
        {
            let (end, is_by_line) = terminal.end_of_file();
            let count = if is_by_line && is_within_line { 2 } else { 1 };
            let _ = write_all(&terminal.0, &[end; 2][..count]).await;
        }
    }
}

async fn write_all(input: &Registered, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = input.write(bytes).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}
