//! The second thread: moves the task's output from its FIFOs to the sinks, and puts the result on disk. A file system that hangs
//! stops this thread and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use holdfast_record::{RecordError, SupervisionDir, TaskResult};
use holdfast_sys::file::{self, PollEntry};
use holdfast_sys::readiness;
use holdfast_sys::socket::pipe;
use tokio::sync::oneshot;

use crate::log;
use crate::output::Sink;

/// One read; what a FIFO holds at most by default (pipe(7)).
const CHUNK: usize = 64 * 1024;
/// Pause before a sink that failed, such as one on a full disk, is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One output stream of the task.
#[derive(Debug)]
pub struct Stream {
    /// The FIFO, to read without blocking.
    pub source: OwnedFd,
    /// Where it goes.
    pub sink: Sink,
}

/// The pump's other end.
#[derive(Debug)]
pub struct Pump {
    jobs: Sender<Job>,
    wake: OwnedFd,
}

enum Job {
    /// Move what is there until the FIFOs are empty; answer with the bytes that could not be written.
    Drain(oneshot::Sender<u64>),
    /// Write the result.
    Result(
        SupervisionDir,
        Box<TaskResult>,
        oneshot::Sender<Result<(), RecordError>>,
    ),
}

impl Pump {
    /// Starts the thread.
    pub fn start(streams: Vec<Stream>) -> io::Result<Self> {
        let (woken, wake) = pipe()?;
        readiness::set_nonblocking(&woken, true)?;
        let (jobs, queue) = channel();
        let lanes = streams.into_iter().map(Lane::new).collect();
        thread::Builder::new()
            .name("pump".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                Work {
                    lanes,
                    queue,
                    woken,
                    chunk: Vec::new(),
                    draining: Vec::new(),
                }
                .run()
            })?;
        Ok(Self { jobs, wake })
    }

    /// Resolves when the FIFOs are empty: to be asked when nobody writes any more. The caller sets the bound.
    pub fn drain(&self) -> oneshot::Receiver<u64> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Drain(sender));
        receiver
    }

    /// Resolves when the result is on disk, synced.
    pub fn write_result(&self, dir: SupervisionDir, result: TaskResult) -> oneshot::Receiver<Result<(), RecordError>> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Result(dir, Box::new(result), sender));
        receiver
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_ok() {
            let _ = readiness::write(&self.wake, &[1]);
        }
    }
}

struct Lane {
    source: OwnedFd,
    sink: Sink,
    /// Read and not yet written: the task waits in a full pipe rather than this growing.
    pending: Vec<u8>,
    /// The sink failed and is tried again after a pause.
    failed: bool,
    /// The sink takes nothing for now and says when it does.
    blocked: bool,
}

impl Lane {
    fn new(stream: Stream) -> Self {
        let Stream { source, sink } = stream;
        Self {
            source,
            sink,
            pending: Vec::new(),
            failed: false,
            blocked: false,
        }
    }

    /// Moves what can be moved; true if there may be more.
    fn advance(&mut self, chunk: &mut [u8]) -> bool {
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            self.write(&pending);
            if !self.pending.is_empty() {
                return false;
            }
        }
        match readiness::read(&self.source, chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.write(&chunk[..count]);
                self.pending.is_empty() && count == chunk.len()
            }
            Err(e) => e.kind() == io::ErrorKind::Interrupted,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut done = 0;
        let had_failed = std::mem::take(&mut self.failed);
        self.blocked = false;
        while done < bytes.len() {
            match self.sink.write(&bytes[done..]) {
                Ok(count) => done += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.blocked = e.kind() == io::ErrorKind::WouldBlock;
                    self.failed = !self.blocked;
                    if self.failed && !had_failed {
                        log::line(&format!("writing output to {}: {e}; trying again", self.sink.name()));
                    }
                    break;
                }
            }
        }
        self.pending = bytes[done..].to_vec();
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && file::unread_bytes(&self.source).is_ok_and(|count| count == 0)
    }
}

struct Work {
    lanes: Vec<Lane>,
    queue: Receiver<Job>,
    woken: OwnedFd,
    /// Given memory by the first output.
    chunk: Vec<u8>,
    draining: Vec<oneshot::Sender<u64>>,
}

impl Work {
    fn run(mut self) {
        loop {
            if !self.take_jobs() {
                return;
            }
            let mut more = false;
            for index in 0..self.lanes.len() {
                let lane = &mut self.lanes[index];
                if lane.pending.is_empty() && lane.is_empty() {
                    continue;
                }
                self.chunk.resize(CHUNK, 0);
                more |= lane.advance(&mut self.chunk);
            }
            if !self.draining.is_empty() && self.lanes.iter().all(Lane::is_empty) {
                for waiting in self.draining.drain(..) {
                    let _ = waiting.send(0);
                }
            }
            if !more {
                self.wait();
            }
        }
    }

    /// False when the owner is gone.
    fn take_jobs(&mut self) -> bool {
        loop {
            match self.queue.try_recv() {
                Ok(Job::Drain(waiting)) => self.draining.push(waiting),
                Ok(Job::Result(dir, result, done)) => {
                    let _ = done.send(dir.write_result(&result));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn wait(&self) {
        let mut entries = vec![PollEntry::reading(Some(self.woken.as_fd()))];
        let mut pause = None;
        for lane in &self.lanes {
            entries.push(match (lane.pending.is_empty(), lane.blocked) {
                (true, _) => PollEntry::reading(Some(lane.source.as_fd())),
                (false, true) => PollEntry {
                    fd: Some(lane.sink.descriptor()),
                    for_writing: true,
                    is_ready: false,
                },
                (false, false) => {
                    pause = Some(RETRY);
                    PollEntry::reading(None)
                }
            });
        }
        let _ = file::poll(&mut entries, pause);
        let mut bytes = [0; 16];
        while readiness::read(&self.woken, &mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }
}
