//! Taking over a task whose executor died, from what is on disk. It ends where a launch ends, so that all behind it is the same.

use std::io;

use holdfast_cgroup::SessionScope;
use holdfast_record::{OutputRecord, ProcessIdentity, Record, RecordError, SupervisionDir, names};
use holdfast_sys::point::{self, Point};
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;

use crate::client;
use crate::launch::{self, LaunchError, open_fifo};
use crate::log;
use crate::output::Sink;
use crate::pump::{Pump, Stream};
use crate::spool::Spool;
use crate::task;

/// A task to go on with.
#[derive(Debug)]
pub struct Adopted {
    /// As it was, but for the executor.
    pub record: Record,
    /// `None`: it is over, and reaped.
    pub main: Option<PidFd>,
    /// `None`: it died.
    pub init: Option<PidFd>,
    /// The init's events.
    pub events: Registered,
    /// The thread that moves the output.
    pub pump: Pump,
    /// The task's cgroups.
    pub scope: Option<holdfast_cgroup::Scope>,
    /// What the kernel tells of them.
    pub watch: Option<holdfast_cgroup::Watch>,
}

/// Why a task cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The result is on disk.
    #[error("the task in {0} is over")]
    Over(String),
    /// No task was ever recorded.
    #[error("{0} holds no record of a task")]
    NoRecord(String),
    /// The pids are strangers' by now.
    #[error("the task in {0} ran before the host was booted")]
    OtherBoot(String),
    /// It was not killed, and somebody removed or replaced the lock that it holds.
    #[error("the executor of the task in {0} lives: pid {1}")]
    Supervised(String, i32),
    /// A record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The output could not be taken over.
    #[error(transparent)]
    Output(#[from] LaunchError),
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Takes over. The caller holds the folder's lock.
pub fn adopt(dir: &SupervisionDir) -> Result<Adopted, AdoptError> {
    let folder = || dir.path().display().to_string();
    let io = |what| move |source| AdoptError::Io { what, source };
    if dir.result()?.is_some() {
        return Err(AdoptError::Over(folder()));
    }
    let mut record = dir.record()?.ok_or_else(|| AdoptError::NoRecord(folder()))?;
    if record.boot_id != holdfast_record::boot_id().map_err(io("reading the boot id"))? {
        return Err(AdoptError::OtherBoot(folder()));
    }
    if client::open_living(&record.executor)
        .map_err(io("opening the executor"))?
        .is_some()
    {
        return Err(AdoptError::Supervised(folder(), record.executor.pid));
    }
    point::reached(Point::AdoptionRead);
    let main = record.main.open().map_err(io("opening the main process"))?;
    let init = record.init.open().map_err(io("opening the init"))?;
    point::reached(Point::AdoptionFound);
    let events = open_fifo(dir, names::EVENTS)?;
    let events = Registered::new(events, Interest::READABLE).map_err(io("watching the init"))?;
    let mut streams = Vec::new();
    for (channel, output) in [
        ((names::STDOUT, names::STDOUT_SPOOL), &record.plan.stdout),
        ((names::STDERR, names::STDERR_SPOOL), &record.plan.stderr),
    ] {
        streams.extend(stream(dir, channel, output)?);
    }
    let pump = Pump::start(streams).map_err(io("starting the pump"))?;
    point::reached(Point::AdoptionPumping);
    let scope = task::scope_of(&record.plan.placement);
    if let Some(scope) = &scope {
        end_sessions(scope);
        if main.is_some() && has_kill_waiting(record.main.pid) {
            thaw(scope);
        }
    }
    record.executor = ProcessIdentity::of_self().map_err(io("identifying the executor"))?;
    dir.write_record(&record)?;
    point::reached(Point::AdoptionRecorded);
    Ok(Adopted {
        record,
        main,
        init,
        events,
        pump,
        watch: scope.as_ref().and_then(launch::watch).map(|(watch, _)| watch),
        scope,
    })
}

/// A log folder that is gone must not keep the task from having an executor: its output is then read and thrown away, and said so.
fn stream(
    dir: &SupervisionDir,
    (name, spool): (&str, &str),
    output: &OutputRecord,
) -> Result<Option<Stream>, AdoptError> {
    let sink = match Sink::open(output) {
        Ok(None) => return Ok(None),
        Ok(Some(sink)) => sink,
        Err(e) => {
            log::line(&format!("{e}; the task's output is thrown away"));
            let null = OutputRecord::Path("/dev/null".into());
            match Sink::open(&null).map_err(|source| AdoptError::Io {
                what: "opening /dev/null",
                source,
            })? {
                Some(sink) => sink,
                None => return Ok(None),
            }
        }
    };
    Ok(Some(Stream {
        source: open_fifo(dir, name)?,
        spool: Spool::open(dir, spool).map_err(|source| AdoptError::Io {
            what: "opening the spool of the output",
            source,
        })?,
        sink,
    }))
}

/// True of a process that has got SIGKILL and has not come to die of it (proc(5), `SigPnd` and `ShdPnd`).
fn has_kill_waiting(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let waiting = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    waiting.fold(0, |all, mask| all | mask) & (1 << (libc::SIGKILL - 1)) != 0
}

/// A main process that is frozen cannot die on v1. Whoever killed the task froze it for that, and was killed before it was thawed.
fn thaw(scope: &holdfast_cgroup::Scope) {
    if !scope.foreign
        && let Err(e) = holdfast_cgroup::thaw(&scope.kill, scope.version)
    {
        log::line(&e.to_string());
    }
}

/// Sessions belong to the dead executor's clients.
fn end_sessions(scope: &holdfast_cgroup::Scope) {
    for session in SessionScope::list(scope).unwrap_or_default() {
        if session.kill().is_err() || session.remove().is_err() {
            log::line("a session of the dead executor is still there");
        }
    }
}
