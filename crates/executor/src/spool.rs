//! The *spool*: a pipe of ours between a task's FIFO and the sink. What has left the FIFO and not reached the sink is in it and never in
//! this process's memory, and the init holds it open too, so that it survives the executor.
//!
//! Bytes come in and go out by splice(2) alone, which takes them off one pipe in the same system call that puts them into the other or
//! into the file. A fatal signal cuts such a call short between two pieces and never within one: whoever adopts the task
//! finds every byte exactly once. The FIFO is not spliced to a file directly, since its lock would be held for as long as the disk takes, and
//! the task's write would wait for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use holdfast_record::SupervisionDir;
use holdfast_sys::file::{self, mkfifo_at, open_at};
use holdfast_sys::readiness;
use holdfast_sys::socket::pipe;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, splice, tee};

/// What an idle task's spool may hold: one page is the least that the kernel has (pipe(7), F_SETPIPE_SZ).
const IDLE: usize = 4096;
/// The same while there is much output; also the most that is looked at in one piece.
pub const CHUNK: usize = 64 * 1024;
/// Asked of the allocator for that: from this size on both musl and glibc give memory back when it is freed. What is not touched costs
/// nothing.
const ALLOCATION: usize = 160 * 1024;
/// In one splice: more than any spool holds.
const ALL: usize = 1 << 30;

/// One stream's spool. Only the pump's thread uses it; whoever only keeps it open has [`Spool::pipe`].
#[derive(Debug)]
pub struct Spool {
    pipe: Arc<OwnedFd>,
    len: usize,
    capacity: usize,
}

impl Spool {
    /// Of a FIFO, or another end of a pipe that is open both ways, with what is in it.
    pub fn of(pipe: OwnedFd) -> io::Result<Self> {
        let len = file::unread_bytes(&pipe)?;
        let mut capacity = fcntl_getpipe_size(&pipe)?;
        // One that is in use stays as it is.
        if len == 0 && capacity > IDLE {
            capacity = fcntl_setpipe_size(&pipe, IDLE).unwrap_or(capacity);
        }
        Ok(Self {
            pipe: Arc::new(pipe),
            len,
            capacity,
        })
    }

    /// Opens that of a task. An executor that knew of none has made none, and then neither has its init.
    pub fn open(dir: &SupervisionDir, name: &str) -> io::Result<Self> {
        let open = || open_at(dir, name, libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0);
        let pipe = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                mkfifo_at(dir, name, 0o600)?;
                open()
            }
            opened => opened,
        };
        Self::of(pipe?)
    }

    /// To keep it open, or to hand it over. Who looks into it may have to wait for the disk.
    pub fn pipe(&self) -> &Arc<OwnedFd> {
        &self.pipe
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it may hold, in bytes: as many as that many whole pages.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for much output. Refused to users who have many pipes (pipe(7)); it then stays as it is.
    pub fn grow(&mut self) {
        if self.capacity < CHUNK
            && let Ok(capacity) = fcntl_setpipe_size(&*self.pipe, CHUNK)
        {
            self.capacity = capacity;
        }
    }

    /// Moves what is in a FIFO here, as much as there is room for. Zero: the FIFO has come to its end.
    pub fn fill(&mut self, source: impl AsFd) -> io::Result<usize> {
        let count = splice(source, None, &*self.pipe, None, ALL, SpliceFlags::NONBLOCK)?;
        self.len += count;
        Ok(count)
    }

    /// Moves at most so many bytes on, and says how many. They are copied where the kernel moves nothing, as to a file that is opened
    /// to be appended to: a kill may then come between the write and the taking away, and the next executor writes a piece again.
    pub fn move_to(&mut self, sink: BorrowedFd<'_>, count: usize, window: &mut Window) -> io::Result<usize> {
        let moved = match splice(&*self.pipe, None, sink, None, count, SpliceFlags::NONBLOCK) {
            Err(Errno::INVAL) => return self.copy_to(sink, count, window),
            moved => moved?,
        };
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.len = self.len.saturating_sub(moved);
        Ok(moved)
    }

    /// See [`Spool::move_to`].
    pub fn copy_to(&mut self, sink: BorrowedFd<'_>, count: usize, window: &mut Window) -> io::Result<usize> {
        let written = readiness::write(sink, self.peek(window, count)?)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.take_away(written)?;
        Ok(written)
    }

    /// At most so many bytes of the beginning, which stay; at least one.
    pub fn peek<'w>(&self, window: &'w mut Window, most: usize) -> io::Result<&'w [u8]> {
        let Window { pipe: through, bytes } = window;
        if bytes.is_empty() {
            *bytes = Vec::with_capacity(ALLOCATION);
            bytes.resize(CHUNK, 0);
        }
        let (reader, writer) = match through.take() {
            Some(ends) => ends,
            None => pipe()?,
        };
        let count = tee(&*self.pipe, &writer, most.min(CHUNK), SpliceFlags::NONBLOCK)?;
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut seen = 0;
        while seen < count {
            // An error leaves the rest in the pipe, which then goes.
            seen += readiness::read(&reader, &mut bytes[seen..count])?;
        }
        *through = Some((reader, writer));
        Ok(&bytes[..count])
    }

    /// Throws away what is in it and says how much that was.
    pub fn discard(&mut self) -> io::Result<usize> {
        self.take_away(self.len)
    }

    fn take_away(&mut self, count: usize) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        let mut taken = 0;
        while taken < count {
            let most = (count - taken).min(chunk.len());
            match readiness::read(&*self.pipe, &mut chunk[..most]) {
                Ok(read) => {
                    self.len = self.len.saturating_sub(read);
                    taken += read;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }
}

/// What one looks at a spool's beginning through, by tee(2). Has memory and descriptors from its first use until it is closed.
#[derive(Debug, Default)]
pub struct Window {
    pipe: Option<(OwnedFd, OwnedFd)>,
    bytes: Vec<u8>,
}

impl Window {
    /// Whether it costs anything.
    pub fn is_open(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Gives back what it costs.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    /// One without a name, with this in it.
    pub fn holding(text: &[u8]) -> Spool {
        let (reader, _writer) = pipe().unwrap();
        let mut options = File::options();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let both: OwnedFd = options.read(true).write(true).open(path).unwrap().into();
        readiness::set_nonblocking(&both, true).unwrap();
        fcntl_setpipe_size(&both, 1 << 20).unwrap();
        assert_eq!(readiness::write(&both, text).unwrap(), text.len());
        Spool::of(both).unwrap()
    }

    #[test]
    fn what_is_looked_at_stays() {
        let mut spool = holding(b"one\ntwo\n");
        let mut window = Window::default();
        assert_eq!(spool.peek(&mut window, 5).unwrap(), b"one\nt");
        assert_eq!(spool.peek(&mut window, 100).unwrap(), b"one\ntwo\n");
        assert_eq!(spool.len(), 8);
        assert_eq!(spool.discard().unwrap(), 8);
        assert_eq!(
            spool.peek(&mut window, 1).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn what_cannot_be_moved_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("appended");
        let sink = File::options().append(true).create(true).open(&path).unwrap();
        let mut spool = holding(b"first second");
        let mut window = Window::default();
        assert_eq!(spool.move_to(sink.as_fd(), 6, &mut window).unwrap(), 6);
        assert_eq!(spool.len(), 6);
        assert_eq!(std::fs::read(&path).unwrap(), b"first ");
        assert_eq!(spool.move_to(sink.as_fd(), 6, &mut window).unwrap(), 6);
        assert_eq!(std::fs::read(&path).unwrap(), b"first second");
        assert!(spool.is_empty());
    }
}
