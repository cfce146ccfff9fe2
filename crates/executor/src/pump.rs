//! The second thread: moves the task's output from its FIFOs through the spools to the sinks, and puts the result on disk. A file system
//! that hangs stops this thread and nothing else. It holds no byte of output itself, so that a kill loses none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_record::{RecordError, SupervisionDir, TaskResult};
use holdfast_sys::file::{self, PollEntry};
use holdfast_sys::point::{self, Point};
use holdfast_sys::readiness;
use holdfast_sys::socket::pipe;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::log;
use crate::output::Sink;
use crate::overflow::{Flow, Flows};
use crate::spool::{CHUNK, Spool, Window};

/// What the FIFO of a task that was seen to fill it may hold, so that it waits more rarely.
const BUSY_FIFO: usize = 256 * 1024;
/// Pause before a sink that failed, such as one on a full disk, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long what is needed to look into a spool is kept without output.
const KEEP: Duration = Duration::from_millis(200);
/// Small writes that follow each other this quickly are a stream, and are waited for so that each read finds many.
const QUICK: Duration = Duration::from_micros(500);
const GATHER: Duration = Duration::from_micros(200);
/// Quick reads before that begins, so that single lines are not held up.
const STREAM: u32 = 16;
/// Between two notices of output that is dropped.
const QUIET: Duration = Duration::from_secs(60);

/// One output stream of the task.
#[derive(Debug)]
pub struct Stream {
    /// The FIFO, to read without blocking.
    pub source: OwnedFd,
    /// Between the two; what is in it goes first.
    pub spool: Spool,
    /// Where it goes.
    pub sink: Sink,
}

/// A stream that was taken off the pump.
#[derive(Debug)]
pub struct Released {
    /// The FIFO.
    pub source: Arc<OwnedFd>,
    /// The spool, with what is in it.
    pub spool: Arc<OwnedFd>,
    /// What the sink had kept.
    pub carried: Vec<u8>,
    /// Not written to any more. To be kept until somebody else has it: what nobody has read of a FIFO goes with its last holder.
    pub sink: Option<Sink>,
}

/// What of a stream did not reach its sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which stream.
    pub label: String,
    /// Bytes that were thrown away (`log_overflow = "drop"`).
    pub dropped: u64,
    /// Bytes that wait to be written: lost if the executor leaves now.
    pub unwritten: u64,
}

/// The pump's other end.
#[derive(Debug)]
pub struct Pump {
    jobs: Sender<Job>,
    wake: OwnedFd,
    flows: Arc<Flows>,
    watches: Vec<JoinHandle<()>>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    dropped: u64,
}

enum Job {
    /// Move what is there until the FIFOs are empty; answer with the bytes that could not be written.
    Drain(oneshot::Sender<u64>),
    /// Answer once no FIFO has a writer and all is written.
    Close(oneshot::Sender<()>),
    /// Let go of the FIFOs and the sinks.
    Release(oneshot::Sender<Vec<Released>>),
    /// Write the result.
    Result(
        SupervisionDir,
        Box<TaskResult>,
        oneshot::Sender<Result<(), RecordError>>,
    ),
}

impl Pump {
    /// Starts the thread. Within the runtime, which watches streams that may drop.
    pub fn start(streams: Vec<Stream>) -> io::Result<Self> {
        let (woken, wake) = pipe()?;
        readiness::set_nonblocking(&woken, true)?;
        let (jobs, queue) = channel();
        let mut flows = Vec::new();
        let mut lanes = Vec::new();
        for Stream { source, spool, sink } in streams {
            let source = Arc::new(source);
            let flow = Flow::new(source.clone(), spool.pipe().clone(), sink.label(), sink.overflow());
            let lane = Lane {
                source,
                spool,
                sink,
                failed: false,
                blocked: false,
                closed: false,
            };
            flow.held.store(lane.held(), Ordering::SeqCst);
            flows.push(flow);
            lanes.push(lane);
        }
        let flows = Flows::new(flows);
        let work = Work {
            lanes,
            flows: flows.clone(),
            queue,
            woken,
            window: Window::default(),
            pace: Pace::default(),
            draining: Vec::new(),
            closing: Vec::new(),
        };
        thread::Builder::new()
            .name("pump".into())
            .stack_size(64 * 1024)
            .spawn(move || work.run())?;
        let dropping = flows.all().iter().enumerate().filter(|(_, flow)| flow.drops());
        let watches = dropping
            .map(|(index, _)| tokio::spawn(flows.clone().watch(index)))
            .collect();
        Ok(Self {
            jobs,
            wake,
            flows,
            watches,
            told: Mutex::default(),
        })
    }

    /// Resolves when the FIFOs are empty: to be asked when nobody writes any more. The caller sets the bound.
    pub fn drain(&self) -> oneshot::Receiver<u64> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Drain(sender));
        receiver
    }

    /// Resolves when all is written and no process holds a FIFO to write to it, which only FIFOs that are opened for reading
    /// alone can tell.
    pub fn closed(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Close(sender));
        receiver
    }

    /// Resolves when the pump reads and writes no output any more.
    pub fn release(&self) -> oneshot::Receiver<Vec<Released>> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Release(sender));
        receiver
    }

    /// Resolves when the result is on disk, synced.
    pub fn write_result(&self, dir: SupervisionDir, result: TaskResult) -> oneshot::Receiver<Result<(), RecordError>> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Result(dir, Box::new(result), sender));
        receiver
    }

    /// The FIFOs and the spools, in the order of the streams, of a pump that hangs.
    pub fn without_release(&self) -> Vec<Released> {
        let released = |flow: &Flow| Released {
            source: flow.source.clone(),
            spool: flow.spool.clone(),
            carried: Vec::new(),
            sink: None,
        };
        self.flows.all().iter().map(released).collect()
    }

    /// What of each stream did not reach its sink so far; those of which all did are left out.
    pub fn losses(&self) -> Vec<Loss> {
        let loss = |flow: &Flow| Loss {
            label: flow.label.clone(),
            dropped: flow.dropped(),
            unwritten: flow.held.load(Ordering::SeqCst) + file::unread_bytes(&*flow.source).unwrap_or(0) as u64,
        };
        let losses = self.flows.all().iter().map(loss);
        losses.filter(|loss| loss.dropped + loss.unwritten > 0).collect()
    }

    /// Resolves when output was dropped and that is due to be told: at once, then once a minute at most. May be polled and
    /// given up at any time; the caller tells [`Pump::losses`] once more at the end.
    pub async fn overflowed(&self) -> Vec<Loss> {
        loop {
            let due = {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                let dropped: u64 = self.flows.all().iter().map(Flow::dropped).sum();
                match told.at.map(|at| at + QUIET) {
                    _ if dropped == told.dropped => None,
                    Some(due) if due > Instant::now() => Some(due),
                    _ => {
                        *told = Told {
                            at: Some(Instant::now()),
                            dropped,
                        };
                        return self.losses();
                    }
                }
            };
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => self.flows.changed.notified().await,
            }
        }
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_ok() {
            let _ = readiness::write(&self.wake, &[1]);
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// One line that tells of losses, and the same for programs; `None` if there are none.
pub fn tell(losses: &[Loss]) -> Option<(String, Vec<(&'static str, String)>)> {
    let dropped: u64 = losses.iter().map(|loss| loss.dropped).sum();
    let unwritten: u64 = losses.iter().map(|loss| loss.unwritten).sum();
    if dropped + unwritten == 0 {
        return None;
    }
    let each = losses.iter().map(|loss| {
        let Loss {
            label,
            dropped,
            unwritten,
        } = loss;
        format!("{} bytes of {label}", dropped + unwritten)
    });
    let message = format!("output dropped: {}", each.collect::<Vec<_>>().join(", "));
    let annotations = vec![
        ("dropped_bytes", dropped.to_string()),
        ("unwritten_bytes", unwritten.to_string()),
    ];
    Some((message, annotations))
}

struct Lane {
    source: Arc<OwnedFd>,
    /// Filled once it is empty: the task waits in a full FIFO rather than this growing.
    spool: Spool,
    sink: Sink,
    /// The sink failed and is tried again after a pause.
    failed: bool,
    /// The sink takes nothing for now and says when it does.
    blocked: bool,
    /// Nobody can write to the FIFO any more.
    closed: bool,
}

/// What one turn has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Nothing,
    Some,
    /// There may be more.
    Full,
}

impl Lane {
    /// Moves what can be moved.
    fn advance(&mut self, flows: &Flows, flow: &Flow, window: &mut Window) -> Turn {
        if !self.has_written_all() {
            self.write(flows, flow, window);
            if !self.has_written_all() {
                return Turn::Nothing;
            }
        }
        match self.spool.fill(&*self.source) {
            Ok(0) => {
                self.closed = true;
                Turn::Nothing
            }
            Ok(count) => {
                flow.held.store(self.held(), Ordering::SeqCst);
                point::reached(Point::OutputSpooled);
                self.write(flows, flow, window);
                if count < self.spool.capacity() / 2 {
                    return Turn::Some;
                }
                self.spool.grow();
                if count >= CHUNK && fcntl_getpipe_size(&*self.source).is_ok_and(|size| size < BUSY_FIFO) {
                    // Refused to users who have many pipes (pipe(7)); it then stays as it is.
                    let _ = fcntl_setpipe_size(&*self.source, BUSY_FIFO);
                }
                Turn::Full
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Turn::Full,
            Err(_) => Turn::Nothing,
        }
    }

    fn write(&mut self, flows: &Flows, flow: &Flow, window: &mut Window) {
        let had_failed = std::mem::take(&mut self.failed);
        self.blocked = false;
        while !self.has_written_all() {
            match flows.writing(|| self.sink.take(&mut self.spool, window)) {
                Ok(count) => flow.count_moved(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.blocked = e.kind() == io::ErrorKind::WouldBlock;
                    self.failed = !self.blocked;
                    if self.failed && !had_failed {
                        let then = if flow.drops() { "dropping it" } else { "trying again" };
                        log::line(&format!("writing output to {}: {e}; {then}", self.sink.name()));
                    }
                    break;
                }
            }
        }
        if self.failed && flow.drops() {
            match self.spool.discard() {
                Ok(count) => flows.count_dropped(flow, count as u64),
                Err(e) => log::line(&format!("dropping output of {}: {e}", flow.label)),
            }
        }
        flow.held.store(self.held(), Ordering::SeqCst);
    }

    /// Bytes that have left the FIFO.
    fn held(&self) -> u64 {
        (self.spool.len() + self.sink.carried()) as u64
    }

    fn has_written_all(&self) -> bool {
        self.held() == 0
    }

    fn is_over(&self) -> bool {
        self.closed && self.has_written_all()
    }

    fn release(mut self) -> Released {
        Released {
            source: self.source,
            spool: self.spool.pipe().clone(),
            carried: self.sink.take_carried(),
            sink: Some(self.sink),
        }
    }

    fn is_empty(&self) -> bool {
        self.has_written_all() && file::unread_bytes(&*self.source).is_ok_and(|count| count == 0)
    }
}

/// Tells streams of small writes from single lines.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    quick: u32,
}

impl Pace {
    /// Whether to let more come together before the next read.
    fn should_gather(&mut self, turn: Turn) -> bool {
        if turn != Turn::Some {
            return false;
        }
        let now = Instant::now();
        let is_quick = self.last.is_some_and(|last| now.duration_since(last) < QUICK);
        self.last = Some(now);
        self.quick = if is_quick { self.quick.saturating_add(1) } else { 0 };
        self.quick >= STREAM
    }
}

struct Work {
    lanes: Vec<Lane>,
    flows: Arc<Flows>,
    queue: Receiver<Job>,
    woken: OwnedFd,
    /// Open while there is output that must be looked at.
    window: Window,
    pace: Pace,
    draining: Vec<oneshot::Sender<u64>>,
    closing: Vec<oneshot::Sender<()>>,
}

impl Work {
    fn run(mut self) {
        loop {
            if !self.take_jobs() {
                return;
            }
            let mut turn = Turn::Nothing;
            for (lane, flow) in self.lanes.iter_mut().zip(self.flows.all()) {
                if lane.is_over() {
                    continue;
                }
                match lane.advance(&self.flows, flow, &mut self.window) {
                    Turn::Nothing => {}
                    Turn::Some if turn == Turn::Full => {}
                    moved => turn = moved,
                }
            }
            if !self.draining.is_empty() && self.lanes.iter().all(Lane::is_empty) {
                for waiting in self.draining.drain(..) {
                    let _ = waiting.send(0);
                }
            }
            if self.lanes.iter().all(Lane::is_over) {
                for waiting in self.closing.drain(..) {
                    let _ = waiting.send(());
                }
            }
            if turn == Turn::Full {
                continue;
            }
            if self.pace.should_gather(turn) && self.draining.is_empty() {
                thread::sleep(GATHER);
            } else {
                self.wait();
            }
        }
    }

    /// False when the owner is gone.
    fn take_jobs(&mut self) -> bool {
        loop {
            match self.queue.try_recv() {
                Ok(Job::Drain(waiting)) => self.draining.push(waiting),
                Ok(Job::Close(waiting)) => self.closing.push(waiting),
                Ok(Job::Release(done)) => {
                    let released = self.lanes.drain(..).map(Lane::release);
                    let _ = done.send(released.collect());
                }
                Ok(Job::Result(dir, result, done)) => {
                    let _ = done.send(dir.write_result(&result));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn wait(&mut self) {
        let mut entries = vec![PollEntry::reading(Some(self.woken.as_fd()))];
        let mut pause = None;
        for lane in &self.lanes {
            if lane.is_over() {
                continue;
            }
            entries.push(match (lane.has_written_all(), lane.blocked) {
                (true, _) => PollEntry::reading(Some(lane.source.as_fd())),
                (false, true) => {
                    // Its FIFO may have been made again meanwhile.
                    pause = Some(RETRY);
                    PollEntry {
                        fd: Some(lane.sink.descriptor()),
                        for_writing: true,
                        is_ready: false,
                    }
                }
                (false, false) => {
                    pause = Some(RETRY);
                    PollEntry::reading(None)
                }
            });
        }
        let keeps = self.window.is_open();
        let bound = if keeps { Some(KEEP) } else { pause };
        if file::poll(&mut entries, bound).is_ok_and(|count| count == 0) && keeps {
            self.window.close();
            let _ = file::poll(&mut entries, pause);
        }
        let mut bytes = [0; 16];
        while readiness::read(&self.woken, &mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_in_one_line_with_their_counts() {
        let loss = |label: &str, dropped, unwritten| Loss {
            label: label.to_owned(),
            dropped,
            unwritten,
        };
        assert_eq!(tell(&[]), None);
        let (message, annotations) = tell(&[loss("web.stdout", 5, 2), loss("web.stderr", 0, 1)]).unwrap();
        assert_eq!(message, "output dropped: 7 bytes of web.stdout, 1 bytes of web.stderr");
        let expected = [("dropped_bytes", "5".to_owned()), ("unwritten_bytes", "3".to_owned())];
        assert_eq!(annotations, expected);
    }
}
