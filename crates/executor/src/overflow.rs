//! Output that its sink does not take in time (`log_overflow = "drop"`): when it is dropped, by whom, and how that is told.
//!
//! A stream drops what its sink refuses: the pump throws it away and goes on. A sink that hangs holds the pump inside a system call, or
//! leaves it waiting for a FIFO that nobody reads; the asynchronous thread then reads the task's FIFO in its place and throws
//! away what it finds. That begins once nothing has moved for [`STUCK`] and the FIFO is half full, and ends as soon as something moves.
//! It looks at the clock only while there is output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_record::Overflow;
use holdfast_sys::file;
use holdfast_sys::readiness::{self, Registered};
use rustix::pipe::fcntl_getpipe_size;
use tokio::io::Interest;
use tokio::sync::Notify;

/// How long a sink may take over what it was given before its stream drops; a disk that is busy writing back takes less.
const STUCK: Duration = Duration::from_millis(100);
/// How often a FIFO is looked at while its sink hangs: a writer that waits amid a large write announces nothing (pipe(7)).
const GLANCE: Duration = Duration::from_millis(500);
/// Reads in one turn, so that a quick writer does not keep the asynchronous thread.
const READS: usize = 64;

/// What this process has dropped; it has one task.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// Bytes that this executor has dropped of its task's output.
pub fn dropped_bytes() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// What the pump and those who watch it know of it.
#[derive(Debug)]
pub struct Flows {
    /// Counted up before and after each write: odd within one.
    beat: AtomicU64,
    flows: Vec<Flow>,
    /// Something was dropped.
    pub changed: Notify,
}

/// One stream.
#[derive(Debug)]
pub struct Flow {
    /// The task's FIFO.
    pub source: Arc<OwnedFd>,
    /// What follows it. Not to be looked into but by the pump: a sink that hangs holds its lock.
    pub spool: Arc<OwnedFd>,
    /// For messages.
    pub label: String,
    overflow: Overflow,
    /// In the pump's hands, in bytes.
    pub held: AtomicU64,
    moved: AtomicU64,
    dropped: AtomicU64,
    watched: AtomicBool,
    active: Notify,
}

/// To be compared with a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    beat: u64,
    held: u64,
    moved: u64,
}

impl Progress {
    fn is_at_rest(self) -> bool {
        self.beat.is_multiple_of(2) && self.held == 0
    }

    fn has_moved_since(self, before: Self) -> bool {
        let is_in_the_same_write = self.beat == before.beat && !self.beat.is_multiple_of(2);
        let holds_the_same = self.held > 0 && before.held > 0 && self.moved == before.moved;
        !is_in_the_same_write && !holds_the_same
    }
}

impl Flow {
    /// Of a stream before anything has moved.
    pub fn new(source: Arc<OwnedFd>, spool: Arc<OwnedFd>, label: String, overflow: Overflow) -> Self {
        Self {
            source,
            spool,
            label,
            overflow,
            held: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            active: Notify::new(),
        }
    }

    /// Whether output is thrown away rather than waited for.
    pub fn drops(&self) -> bool {
        self.overflow == Overflow::Drop
    }

    /// Bytes.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts what reached the sink.
    pub fn count_moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    fn is_half_full(&self) -> bool {
        let capacity = fcntl_getpipe_size(&*self.source).unwrap_or(0);
        file::unread_bytes(&*self.source).is_ok_and(|unread| unread >= capacity / 2)
    }
}

impl Flows {
    /// Of all streams.
    pub fn new(flows: Vec<Flow>) -> Arc<Self> {
        Arc::new(Self {
            beat: AtomicU64::new(0),
            flows,
            changed: Notify::new(),
        })
    }

    /// In the order of the streams.
    pub fn all(&self) -> &[Flow] {
        &self.flows
    }

    /// Runs a write of the pump's, which may never return.
    pub fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        self.beat.fetch_add(1, Ordering::SeqCst);
        // A pump that hangs with one stream hangs for all of them.
        for flow in self.flows.iter().filter(|flow| flow.drops()) {
            // The count above comes first: a watcher that lies down now sees it.
            if !flow.watched.swap(true, Ordering::SeqCst) {
                flow.active.notify_one();
            }
        }
        let answer = write();
        self.beat.fetch_add(1, Ordering::SeqCst);
        answer
    }

    /// Counts what is lost.
    pub fn count_dropped(&self, flow: &Flow, bytes: u64) {
        flow.dropped.fetch_add(bytes, Ordering::Relaxed);
        TOTAL.fetch_add(bytes, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn progress(&self, flow: &Flow) -> Progress {
        Progress {
            beat: self.beat.load(Ordering::SeqCst),
            held: flow.held.load(Ordering::SeqCst),
            moved: flow.moved.load(Ordering::SeqCst),
        }
    }

    /// Watches a stream that drops, for as long as it is polled.
    pub async fn watch(self: Arc<Self>, index: usize) {
        let flow = &self.flows[index];
        loop {
            flow.active.notified().await;
            let mut before = self.progress(flow);
            loop {
                tokio::time::sleep(STUCK).await;
                let now = self.progress(flow);
                if !now.has_moved_since(before) {
                    if let Err(e) = self.relieve(flow, now).await {
                        crate::log::line(&format!("dropping output of {}: {e}", flow.label));
                    }
                } else if now == before && now.is_at_rest() {
                    flow.watched.store(false, Ordering::SeqCst);
                    if self.progress(flow) == now {
                        break;
                    }
                    flow.watched.store(true, Ordering::SeqCst);
                }
                before = self.progress(flow);
            }
        }
    }

    /// Reads in the pump's place until something moves again.
    async fn relieve(&self, flow: &Flow, stuck: Progress) -> io::Result<()> {
        let source = Registered::new(flow.source.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let is_stuck = || !self.progress(flow).has_moved_since(stuck);
        let mut is_dropping = false;
        while is_stuck() {
            if is_dropping || flow.is_half_full() {
                if !is_dropping {
                    crate::log::line(&format!(
                        "the sink of {} takes nothing; its output is dropped",
                        flow.label
                    ));
                }
                is_dropping = true;
                if !self.discard(flow) {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            // The next write makes it readable anew.
            let _ = tokio::time::timeout(GLANCE, source.readable_anew()).await;
        }
        Ok(())
    }

    /// True once the FIFO is empty.
    fn discard(&self, flow: &Flow) -> bool {
        let mut chunk = [0; 4096];
        for _ in 0..READS {
            match readiness::read(&*flow.source, &mut chunk) {
                Ok(count @ 1..) => self.count_dropped(flow, count as u64),
                Ok(0) => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }
}
