//! What is known of a task: from its records, and from its executor where one answers.

use std::time::Duration;

use holdfast_cgroup::Scope;
use holdfast_record::{Intent, ProcessIdentity, Record, RecordError, Status, SupervisionDir, TaskResult};

use crate::client;
use crate::supervisor::of_exit_record;

/// How long an executor may take to say that it is there; it needs a millisecond.
pub const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// Everything that the folder and the executor say.
#[derive(Debug)]
pub struct Known {
    /// The folder.
    pub dir: SupervisionDir,
    /// For which task it is.
    pub intent: Intent,
    /// Absent: nothing was launched.
    pub record: Option<Record>,
    /// What it comes to.
    pub state: State,
    /// Its processes are stopped by the freezer.
    pub frozen: bool,
}

/// A task's state, as it is told.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// An executor answers, and has no task yet.
    Starting,
    /// An executor answers for a living task.
    Running,
    /// The main process is over.
    Ended(TaskResult),
    /// The main process lives without an executor.
    Orphaned,
    /// There is an executor, and it does not answer.
    Unreachable(String),
    /// Nobody ever launched it, and nobody will.
    NotStarted,
}

impl State {
    /// One word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended(_) => "ended",
            Self::Orphaned => "orphaned",
            Self::Unreachable(_) => "unreachable",
            Self::NotStarted => "not started",
        }
    }
}

impl Known {
    /// Looks, and asks the executor. Takes no lock and changes nothing.
    pub async fn of(dir: SupervisionDir) -> Result<Self, RecordError> {
        let intent = dir.intent()?;
        let record = dir.record()?;
        let state = match dir.result()? {
            Some(result) => State::Ended(result),
            None => state(&dir, record.as_ref()).await?,
        };
        Ok(Self::new(dir, intent, record, state))
    }

    /// Looks at records and processes alone: no executor is asked, so none wakes up.
    pub fn by_records(dir: SupervisionDir) -> Result<Self, RecordError> {
        let intent = dir.intent()?;
        let record = dir.record()?;
        let state = match (dir.result()?, &record) {
            (Some(result), _) => State::Ended(result),
            (None, None) if dir.lock()?.is_none() => State::Starting,
            (None, None) => State::NotStarted,
            (None, Some(record)) if is_this_boot(record) && lives(&record.executor) => State::Running,
            (None, Some(record)) => without_executor(&dir, record)?,
        };
        Ok(Self::new(dir, intent, record, state))
    }

    fn new(dir: SupervisionDir, intent: Intent, record: Option<Record>, state: State) -> Self {
        let mut known = Self {
            dir,
            intent,
            record,
            state,
            frozen: false,
        };
        known.frozen = known
            .scope()
            .is_some_and(|scope| holdfast_cgroup::is_frozen(&scope.kill, scope.version).unwrap_or(false));
        known
    }

    /// The task's cgroups while it lives in them.
    pub fn scope(&self) -> Option<Scope> {
        self.living_main()?;
        let placement = &self.record.as_ref()?.plan.placement;
        let scope = crate::task::scope_of(placement)?;
        let is_same = placement.scope_inode.is_none_or(|inode| scope.inode() == Some(inode));
        is_same.then_some(scope)
    }

    /// One word, for a table.
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Running if self.frozen => "frozen",
            ref state => state.word(),
        }
    }

    /// The main process while it lives.
    pub fn living_main(&self) -> Option<i32> {
        match (&self.state, &self.record) {
            (State::Running | State::Orphaned | State::Unreachable(_), Some(record)) => Some(record.main.pid),
            _ => None,
        }
    }
}

async fn state(dir: &SupervisionDir, record: Option<&Record>) -> Result<State, RecordError> {
    if let Some(record) = record.filter(|record| !is_this_boot(record)) {
        return without_executor(dir, record);
    }
    let unreachable = match tokio::time::timeout(ANSWER_BOUND, client::connect(dir)).await {
        Ok(Ok(peer)) if peer.identity.main.is_some() => return Ok(State::Running),
        Ok(Ok(_)) => return Ok(State::Starting),
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("its executor gave no answer within {} s", ANSWER_BOUND.as_secs()),
    };
    // It may have ended meanwhile.
    if let Some(result) = dir.result()? {
        return Ok(State::Ended(result));
    }
    let Some(record) = record else {
        return Ok(State::NotStarted);
    };
    if lives(&record.executor) {
        return Ok(State::Unreachable(unreachable));
    }
    without_executor(dir, record)
}

fn without_executor(dir: &SupervisionDir, record: &Record) -> Result<State, RecordError> {
    if !is_this_boot(record) {
        return Ok(ended(dir, record, "the host was booted again while it ran"));
    }
    if dir.exit().is_ok_and(|exit| exit.is_some()) || !lives(&record.main) {
        return Ok(ended(dir, record, "nobody was there to see its end"));
    }
    Ok(State::Orphaned)
}

/// From what the init wrote, if it did.
fn ended(dir: &SupervisionDir, record: &Record, otherwise: &str) -> State {
    let (status, finished_at_ms) = match dir.exit() {
        Ok(Some(exit)) => of_exit_record(&exit),
        Ok(None) | Err(_) => (Status::Unknown(otherwise.to_owned()), 0),
    };
    State::Ended(TaskResult::new(status, false, record.started_at_ms, finished_at_ms))
}

fn is_this_boot(record: &Record) -> bool {
    holdfast_record::boot_id().is_ok_and(|current| current == record.boot_id)
}

/// Whether the process is there and has not ended.
pub fn lives(identity: &ProcessIdentity) -> bool {
    matches!(identity.open(), Ok(Some(pidfd)) if !pidfd.has_exited().unwrap_or(true))
}

/// How it ended, for a person.
pub fn end_of(result: &TaskResult) -> String {
    let oom = if result.oom_killed { ", out of memory" } else { "" };
    let late = match result {
        result if result.timed_out => ", out of time",
        result if result.unattended => ", without a driver for too long",
        result if result.executor_lost => ", its executor was lost",
        _ => "",
    };
    match &result.status {
        Status::Exited(code) => format!("exit code {code}{oom}{late}"),
        Status::Signalled(signal) => format!("killed by {}{oom}{late}", signal_name(*signal)),
        Status::Unknown(reason) => format!("unknown: {reason}{late}"),
        Status::NotStarted(reason) => format!("not started: {reason}"),
    }
}

/// `SIGTERM`, or the number of one without a name.
pub fn signal_name(signal: i32) -> String {
    holdfast_sys::signal::name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// The largest unit alone, as other tools say it.
pub fn age(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Unix time in milliseconds as UTC, for a person: `2026-11-21 03:05:07Z`.
pub fn time(milliseconds: i64) -> String {
    let seconds = milliseconds.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Days since 1970 to a date of the Gregorian calendar, counted from the first of March of the year 0, so that leap days are
    // last in their years; 400 years are an era.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + next;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_735_689_599_999), "2024-12-31 23:59:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn ends_are_told_in_words_and_an_age_in_one_unit() {
        let end = |status| end_of(&TaskResult::new(status, false, 0, 0));
        assert_eq!(end(Status::Exited(7)), "exit code 7");
        assert_eq!(end(Status::Signalled(9)), "killed by SIGKILL");
        assert_eq!(end(Status::Signalled(40)), "killed by signal 40");
        assert_eq!(end(Status::Unknown("x".into())), "unknown: x");
        assert_eq!(
            [age(-5), age(59_999), age(60_000), age(7_200_000), age(90_000_000)],
            ["0s", "59s", "1m", "2h", "1d"]
        );
    }
}
