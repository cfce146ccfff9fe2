//! The sessions that a task has at the moment: counted, capped, and killed with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_sys::process::PidFd;

use super::SessionError;

/// All sessions of the task.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<Living>>);

#[derive(Debug, Default)]
struct Living {
    /// By number; nothing is there yet while a process is being cloned.
    processes: HashMap<u64, Option<PidFd>>,
    next: u64,
    is_closed: bool,
}

impl Sessions {
    /// Kills what the task's cgroup does not hold.
    pub fn kill_all(&self) {
        for pidfd in self.living().processes.values().flatten() {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
    }

    /// No session starts any more: whoever asked before the task was over comes too late.
    pub fn close(&self) {
        self.living().is_closed = true;
    }

    /// Whether all have ended; a client that does not read its last messages keeps a session, but no process.
    pub fn have_ended(&self) -> bool {
        let living = self.living();
        let mut processes = living.processes.values().flatten();
        processes.all(|pidfd| pidfd.has_exited().unwrap_or(true))
    }

    /// How many run.
    pub fn count(&self) -> u32 {
        u32::try_from(self.living().processes.len()).unwrap_or(u32::MAX)
    }

    /// A place for one more; `cap` is how many there may be, 0 for any number. To be occupied before anything is awaited, lest
    /// a session start after all have been killed.
    pub(super) fn admit(&self, cap: u32) -> Result<Place, SessionError> {
        let mut living = self.living();
        if living.is_closed {
            return Err(SessionError::Over);
        }
        if cap > 0 && living.processes.len() >= cap as usize {
            return Err(SessionError::TooMany(cap));
        }
        let number = living.take_number();
        living.processes.insert(number, None);
        drop(living);
        Ok(Place {
            sessions: self.clone(),
            number,
        })
    }

    fn living(&self) -> MutexGuard<'_, Living> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Living {
    fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

/// A place among the task's sessions, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    sessions: Sessions,
    number: u64,
}

impl Place {
    /// Unique among the sessions of this executor.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Another number, where somebody else has used this one's cgroup.
    pub(super) fn renumber(&mut self) {
        let mut living = self.sessions.living();
        let number = living.take_number();
        let process = living.processes.remove(&self.number).flatten();
        living.processes.insert(number, process);
        self.number = number;
    }

    /// Its process from now on.
    pub(super) fn occupy(&self, pidfd: PidFd) {
        self.sessions.living().processes.insert(self.number, Some(pidfd));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.living().processes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_holds_until_a_session_has_gone() {
        let sessions = Sessions::default();
        let first = sessions.admit(2).unwrap();
        let mut second = sessions.admit(2).unwrap();
        second.renumber();
        let refused = sessions.admit(2).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the task runs 2 sessions already, as many as max_sessions allows"
        );
        assert_eq!(refused.status().code(), tonic::Code::ResourceExhausted);
        drop(first);
        let third = sessions.admit(2).unwrap();
        assert_ne!(third.number(), second.number());
        assert_eq!(sessions.count(), 2);
        drop((second, third));
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn no_session_starts_in_a_task_that_is_over() {
        let sessions = Sessions::default();
        let _one_of_any_number = sessions.admit(0).unwrap();
        sessions.close();
        assert!(matches!(sessions.admit(0), Err(SessionError::Over)));
    }
}
