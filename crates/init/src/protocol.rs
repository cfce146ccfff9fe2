//! What the executor hands to the init, and what it hears back.

/// Descriptors of the init. It is executed with [`fd::REPORT`], and is sent those that it is to work with.
pub mod fd {
    /// The steps of the main process, in memory. Before these are sent, if the init is executed with it: steps of its own, which it closes
    /// before it takes them.
    pub const PLAN: i32 = 3;
    /// The task's standard output, open both ways so that it has neither end of file nor SIGPIPE while the init lives.
    pub const STDOUT: i32 = 4;
    /// The task's standard error.
    pub const STDERR: i32 = 5;
    /// The exit record.
    pub const EXIT: i32 = 6;
    /// The events FIFO, open both ways.
    pub const EVENTS: i32 = 7;
    /// The gate: the main process is executed after one byte, never after end of file.
    pub const GATE: i32 = 8;
    /// The socket on which the init is told what to do, and on which the main process's pidfd goes back.
    pub const REPORT: i32 = 9;
    /// What of the standard output is on its way into the log, open both ways so that it survives the executor. Only held.
    pub const STDOUT_SPOOL: i32 = 10;
    /// The same of the standard error.
    pub const STDERR_SPOOL: i32 = 11;
    /// The cgroup (v2) into which the main process is cloned, where the plan says so.
    pub const CGROUP: i32 = 12;
    /// In debug builds, if a test asked for it: the folder of crash points (see [`crate::point`]).
    pub const CRASH_POINTS: i32 = 13;
    /// Opened by the main process itself, and closed by its exec: the user namespace that it joins.
    pub const USER_NAMESPACE: i32 = 61;
}

/// What the init is sent beside its one message on [`fd::REPORT`], in this order. Descriptors that arrive take the lowest free numbers
/// (unix(7)), and whoever executes the init leaves just these free. [`fd::CGROUP`] comes last, or not at all.
pub const SENT: [i32; 9] = [
    fd::PLAN,
    fd::STDOUT,
    fd::STDERR,
    fd::EXIT,
    fd::EVENTS,
    fd::GATE,
    fd::STDOUT_SPOOL,
    fd::STDERR_SPOOL,
    fd::CGROUP,
];

/// A byte in the events FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// The main process has been executed.
    Started = b'S',
    /// It never was; the exit record says why.
    NotStarted = b'N',
    /// It is over; the exit record says how.
    Exited = b'E',
}

impl Event {
    /// The event of a byte.
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            b'S' => Some(Self::Started),
            b'N' => Some(Self::NotStarted),
            b'E' => Some(Self::Exited),
            _ => None,
        }
    }
}

/// What goes back on [`fd::REPORT`]: the main process's pid, with its pidfd beside it. One message.
pub const CLONED_SIZE: usize = 4;

/// Or, in its place, which of the init's own steps failed ([`crate::steps::Failure`]).
pub const FAILED_SIZE: usize = 8;
