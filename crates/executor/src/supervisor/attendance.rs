//! Who attends to a task that must not be alone for long: one driver, watched by its pidfd. Nothing ticks and nothing is asked for: the
//! descriptor becomes readable when that process dies (pidfd_open(2)), and only from then on there is a timer. The time at which the
//! task is stopped is recorded, so that it holds for whoever adopts the task.

use std::time::Duration;

use holdfast_record::{ProcessIdentity, Record, milliseconds};
use holdfast_sys::clock::boottime;
use holdfast_sys::process::PidFd;
use holdfast_sys::readiness::Registered;
use tokio::io::Interest;
use tokio::time::Instant;

use super::escalation::instant_of;
use crate::log;

/// Of a task without a bound it is empty, and costs no descriptor.
#[derive(Debug, Default)]
pub struct Attendance {
    limit: Option<Duration>,
    /// Readable once the attendant of the record is dead.
    ended: Option<Registered>,
    /// When the task is stopped, if nobody comes.
    pub until: Option<Instant>,
}

impl Attendance {
    /// As it is recorded: the attendant is watched if it lives; else time runs, from now on if it did not yet. What changes is in the
    /// record, which the caller writes.
    pub fn resume(record: &mut Record) -> Attendance {
        let limit = record.plan.ending.on_agent_exit.limit();
        let mut attendance = Attendance {
            limit,
            ..Attendance::default()
        };
        // Whoever launched an uncommitted task has another bound.
        if limit.is_none() || !record.committed {
            return attendance;
        }
        let attendant = record.attendant.and_then(|identity| identity.open().ok().flatten());
        match attendant.map(|pidfd| attendance.watch(&pidfd)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => attendance.lost(record),
        }
        attendance
    }

    /// A process attends from now on, in the place of whoever did. True if that is to be recorded.
    pub fn begin(&mut self, record: &mut Record, caller: &PidFd) -> bool {
        if self.limit.is_none() {
            return false;
        }
        match self.watch(caller) {
            Ok(identity) => {
                record.attendant = Some(identity);
                record.unattended_until_boot_ms = None;
                self.until = None;
            }
            Err(e) => {
                log::line(&format!("whoever attends to the task is gone already: {e}"));
                self.lost(record);
            }
        }
        true
    }

    /// A process that lives on attends no longer. True if it was the one that did.
    pub fn leave(&mut self, record: &mut Record, caller: &PidFd) -> bool {
        let is_attendant = ProcessIdentity::of(caller)
            .is_ok_and(|caller| record.attendant.is_some_and(|attendant| attendant.is_same(&caller)));
        if is_attendant {
            self.lost(record);
        }
        is_attendant
    }

    /// Nobody attends: time runs, or runs on.
    pub fn lost(&mut self, record: &mut Record) {
        self.ended = None;
        record.attendant = None;
        let Some(limit) = self.limit else { return };
        let until = *record
            .unattended_until_boot_ms
            .get_or_insert_with(|| milliseconds(boottime().saturating_add(limit)));
        self.until = Some(instant_of(Duration::from_millis(until)));
    }

    /// Readable once the attendant is dead.
    pub fn attendant(&self) -> Option<&Registered> {
        self.ended.as_ref()
    }

    /// How long the task may be alone.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    fn watch(&mut self, pidfd: &PidFd) -> std::io::Result<ProcessIdentity> {
        let identity = ProcessIdentity::of(pidfd)?;
        self.ended = Some(Registered::new(pidfd.try_clone()?.into(), Interest::READABLE)?);
        Ok(identity)
    }
}
