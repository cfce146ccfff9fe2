//! The tasks that this driver knows, and what may happen to them. Pure data: [`crate::owner`] is the only one that
//! holds it.
//!
//! ```text
//!            reserve                 running                 over
//!  (unknown) -------> Starting ---------------> Running --------------> Over
//!      ^                 | release                 |                      |
//!      +-----------------+                         | destroy with force   | destroy
//!      +-------------------------------------------+----------------------+
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_record::{ProcessIdentity, Status, TaskResult};
use tokio::sync::watch;

/// Which task is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskName {
    /// The agent's id of this incarnation, `<alloc>/<task>/<8 characters>` (contract, S-8).
    pub id: String,
    /// The allocation.
    pub alloc_id: String,
    /// The task's name in the job.
    pub task_name: String,
}

/// What does not change while a task lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Which task it is.
    pub name: TaskName,
    /// Its supervision directory.
    pub dir: PathBuf,
    /// The main process.
    pub main: ProcessIdentity,
    /// Its parent.
    pub init: ProcessIdentity,
    /// Unix time in milliseconds.
    pub started_at_ms: i64,
}

/// How a task ended, as WaitTask tells it (contract, W-2, W-4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The code, 128 + n after signal n, -1 if it is not known.
    pub exit_code: i32,
    /// The signal, else 0.
    pub signal: i32,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// It had run as long as it may.
    pub timed_out: bool,
    /// Why the status is not known. With it, the agent never takes the end for a success.
    pub error: Option<String>,
    /// Unix time in milliseconds.
    pub finished_at_ms: i64,
}

impl Outcome {
    /// A task whose status nobody knows.
    pub fn unknown(reason: impl Into<String>) -> Outcome {
        Outcome {
            exit_code: -1,
            signal: 0,
            oom_killed: false,
            timed_out: false,
            error: Some(reason.into()),
            finished_at_ms: holdfast_record::now_ms(),
        }
    }
}

impl From<TaskResult> for Outcome {
    fn from(result: TaskResult) -> Outcome {
        let TaskResult {
            version: _,
            status,
            oom_killed,
            started_at_ms: _,
            finished_at_ms,
            timed_out,
            unattended,
            executor_lost,
            extra: _,
        } = result;
        // With a reason it is never taken for a success: it was cut short, whatever code it ended with.
        let cut_short = match (unattended, executor_lost) {
            (true, _) => Some("stopped: no driver attended to the task for as long as its on_agent_exit allows"),
            (false, true) => Some("executor lost: killed, as its on_executor_loss says"),
            (false, false) => None,
        };
        let (exit_code, signal, unknown) = match status {
            Status::Exited(code) => (code, 0, None),
            Status::Signalled(signal) => (signal.saturating_add(128), signal, None),
            Status::Unknown(reason) => (-1, 0, Some(format!("the exit status is not known: {reason}"))),
            Status::NotStarted(reason) => (-1, 0, Some(format!("the command was not started: {reason}"))),
        };
        let error = match (cut_short, unknown) {
            (Some(reason), Some(unknown)) => Some(format!("{reason}; {unknown}")),
            (reason, unknown) => reason.map(str::to_owned).or(unknown),
        };
        Outcome {
            exit_code,
            signal,
            oom_killed,
            timed_out,
            error,
            finished_at_ms,
        }
    }
}

/// Where in its life a task is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// StartTask or RecoverTask has taken the id and is not done.
    Starting,
    /// The main process was released.
    Running(Arc<Facts>),
    /// Ended; kept until DestroyTask (contract, W-1).
    Over(Arc<Facts>, Outcome),
    /// No longer in the table.
    Gone,
}

/// The id is taken (contract, S-3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task with ID {0:?} already started")]
pub struct AlreadyStarted(String);

/// What RecoverTask has to do.
#[derive(Debug)]
pub enum Recovery {
    /// Nothing (contract, R-1).
    Known,
    /// Wait for the start under way, then ask again.
    InProgress(watch::Receiver<Phase>),
    /// The id is reserved now: look for the task.
    Look,
}

/// What DestroyTask has to do.
#[derive(Debug)]
pub enum Destruction {
    /// It runs and force was not given (contract, K-5).
    Refused,
    /// Wait for the start under way, then ask again.
    InProgress(watch::Receiver<Phase>),
    /// End it, then ask again.
    EndFirst(Arc<Facts>, watch::Receiver<Phase>),
    /// It is out of the table: remove what is left on the host.
    Remove(Arc<Facts>),
    /// Not in the table: remove what is left on the host, if anything is.
    Unknown,
}

/// The tasks, by id.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    alloc_id: String,
    task_name: String,
    phase: watch::Sender<Phase>,
}

impl Table {
    /// Takes an id for a start.
    pub fn reserve(&mut self, name: &TaskName) -> Result<(), AlreadyStarted> {
        if self.entries.contains_key(&name.id) {
            return Err(AlreadyStarted(name.id.clone()));
        }
        let entry = Entry {
            alloc_id: name.alloc_id.clone(),
            task_name: name.task_name.clone(),
            phase: watch::Sender::new(Phase::Starting),
        };
        self.entries.insert(name.id.clone(), entry);
        Ok(())
    }

    /// Takes an id for a recovery, unless it is known.
    pub fn recover(&mut self, name: &TaskName) -> Recovery {
        match self.entries.get(&name.id) {
            Some(entry) if *entry.phase.borrow() == Phase::Starting => Recovery::InProgress(entry.phase.subscribe()),
            Some(_) => Recovery::Known,
            None => {
                // The id is free, so this cannot be refused.
                let _ = self.reserve(name);
                Recovery::Look
            }
        }
    }

    /// The start or recovery that reserved the id failed, and nothing of it is left.
    pub fn release(&mut self, id: &str) {
        if self.phase(id) == Some(Phase::Starting) {
            self.forget(id);
        }
    }

    /// The start or recovery that reserved the id succeeded.
    pub fn running(&mut self, facts: Arc<Facts>) {
        if let Some(entry) = self.entries.get(&facts.name.id) {
            entry.phase.send_if_modified(|phase| {
                let starts = *phase == Phase::Starting;
                if starts {
                    *phase = Phase::Running(facts.clone());
                }
                starts
            });
        }
    }

    /// The task ended. The first outcome stands: it may have been told (contract, W-1).
    pub fn over(&mut self, facts: Arc<Facts>, outcome: Outcome) {
        if let Some(entry) = self.entries.get(&facts.name.id) {
            entry.phase.send_if_modified(|phase| {
                let lives = matches!(phase, Phase::Starting | Phase::Running(_));
                if lives {
                    *phase = Phase::Over(facts.clone(), outcome);
                }
                lives
            });
        }
    }

    /// What DestroyTask may do; takes an ended task out of the table.
    pub fn destroy(&mut self, id: &str, force: bool) -> Destruction {
        let Some(entry) = self.entries.get(id) else {
            return Destruction::Unknown;
        };
        let phase = entry.phase.borrow().clone();
        match phase {
            Phase::Starting | Phase::Running(_) if !force => Destruction::Refused,
            Phase::Starting => Destruction::InProgress(entry.phase.subscribe()),
            Phase::Running(facts) => Destruction::EndFirst(facts, entry.phase.subscribe()),
            Phase::Over(facts, _) => {
                self.forget(id);
                Destruction::Remove(facts)
            }
            Phase::Gone => Destruction::Unknown,
        }
    }

    /// Where the task is now.
    pub fn phase(&self, id: &str) -> Option<Phase> {
        self.entries.get(id).map(|entry| entry.phase.borrow().clone())
    }

    /// Follows the task until it is gone.
    pub fn follow(&self, id: &str) -> Option<watch::Receiver<Phase>> {
        self.entries.get(id).map(|entry| entry.phase.subscribe())
    }

    /// Living incarnations of the same alloc and task under other ids.
    pub fn other_incarnations(&self, name: &TaskName) -> Vec<(String, watch::Receiver<Phase>)> {
        self.entries
            .iter()
            .filter(|(id, entry)| {
                **id != name.id
                    && entry.alloc_id == name.alloc_id
                    && entry.task_name == name.task_name
                    && !matches!(*entry.phase.borrow(), Phase::Over(..) | Phase::Gone)
            })
            .map(|(id, entry)| (id.clone(), entry.phase.subscribe()))
            .collect()
    }

    /// All tasks that run.
    pub fn all_running(&self) -> Vec<Arc<Facts>> {
        let running = |entry: &Entry| match &*entry.phase.borrow() {
            Phase::Running(facts) => Some(facts.clone()),
            Phase::Starting | Phase::Over(..) | Phase::Gone => None,
        };
        self.entries.values().filter_map(running).collect()
    }

    fn forget(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            entry.phase.send_replace(Phase::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> TaskName {
        TaskName {
            id: id.to_owned(),
            alloc_id: "a".to_owned(),
            task_name: "t".to_owned(),
        }
    }

    fn facts(id: &str) -> Arc<Facts> {
        Arc::new(Facts {
            name: name(id),
            dir: "/d".into(),
            main: ProcessIdentity {
                pid: 1,
                start_ticks: 1,
                pidfd_inode: None,
            },
            init: ProcessIdentity {
                pid: 1,
                start_ticks: 1,
                pidfd_inode: None,
            },
            started_at_ms: 2,
        })
    }

    fn outcome(exit_code: i32) -> Outcome {
        Outcome {
            exit_code,
            signal: 0,
            oom_killed: false,
            timed_out: false,
            error: None,
            finished_at_ms: 3,
        }
    }

    fn running(id: &str) -> Table {
        let mut table = Table::default();
        table.reserve(&name(id)).unwrap();
        table.running(facts(id));
        table
    }

    #[test]
    fn an_id_starts_once_in_every_phase_s3() {
        let mut table = Table::default();
        table.reserve(&name("x\"y")).unwrap();
        let refused = |table: &mut Table| table.reserve(&name("x\"y")).unwrap_err().to_string();
        assert_eq!(refused(&mut table), "task with ID \"x\\\"y\" already started");
        table.running(facts("x\"y"));
        refused(&mut table);
        table.over(facts("x\"y"), outcome(0));
        refused(&mut table);
    }

    #[test]
    fn a_failed_start_frees_the_id_s4() {
        let mut table = Table::default();
        table.reserve(&name("x")).unwrap();
        table.release("x");
        assert_eq!(table.phase("x"), None);
        table.reserve(&name("x")).unwrap();
    }

    #[test]
    fn a_running_task_cannot_be_released() {
        let mut table = running("x");
        table.release("x");
        assert_eq!(table.phase("x"), Some(Phase::Running(facts("x"))));
    }

    #[test]
    fn a_known_task_is_recovered_already_r1() {
        let mut table = running("x");
        assert!(matches!(table.recover(&name("x")), Recovery::Known));
        table.over(facts("x"), outcome(0));
        assert!(matches!(table.recover(&name("x")), Recovery::Known));
        assert!(matches!(table.recover(&name("y")), Recovery::Look));
        assert!(matches!(table.recover(&name("y")), Recovery::InProgress(_)));
    }

    #[test]
    fn the_first_outcome_stands_until_destroy_w1() {
        let mut table = running("x");
        table.over(facts("x"), outcome(7));
        table.over(facts("x"), outcome(0));
        assert_eq!(table.phase("x"), Some(Phase::Over(facts("x"), outcome(7))));
        assert!(matches!(table.destroy("x", false), Destruction::Remove(_)));
        assert_eq!(table.phase("x"), None);
    }

    #[test]
    fn destroying_a_running_task_needs_force_k5() {
        let mut table = running("x");
        assert!(matches!(table.destroy("x", false), Destruction::Refused));
        assert!(matches!(table.destroy("x", true), Destruction::EndFirst(..)));
        assert!(matches!(table.phase("x"), Some(Phase::Running(_))), "it is ended first");
    }

    #[test]
    fn destroy_is_idempotent_k6() {
        let mut table = running("x");
        table.over(facts("x"), outcome(0));
        assert!(matches!(table.destroy("x", true), Destruction::Remove(_)));
        assert!(matches!(table.destroy("x", true), Destruction::Unknown));
        assert!(matches!(table.destroy("never", false), Destruction::Unknown));
    }

    #[test]
    fn whoever_follows_a_task_sees_its_end_and_its_removal() {
        let mut table = running("x");
        let follower = table.follow("x").unwrap();
        table.over(facts("x"), outcome(1));
        assert_eq!(*follower.borrow(), Phase::Over(facts("x"), outcome(1)));
        table.destroy("x", false);
        assert_eq!(*follower.borrow(), Phase::Gone);
    }

    #[test]
    fn only_living_incarnations_stand_in_the_way() {
        let mut table = running("old");
        let names = |table: &Table| {
            table
                .other_incarnations(&name("new"))
                .into_iter()
                .map(|o| o.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&table), ["old"]);
        table.over(facts("old"), outcome(0));
        assert!(names(&table).is_empty());
        table
            .reserve(&TaskName {
                task_name: "other".into(),
                ..name("third")
            })
            .unwrap();
        table.reserve(&name("new")).unwrap();
        assert!(names(&table).is_empty());
    }

    #[test]
    fn every_status_is_told_as_the_agent_reads_it_w2_w4() {
        let told = |status| {
            let told = Outcome::from(TaskResult::new(status, true, 1, 2));
            assert!(told.oom_killed);
            assert_eq!(told.finished_at_ms, 2);
            (told.exit_code, told.signal, told.error)
        };
        assert_eq!(told(Status::Exited(7)), (7, 0, None));
        assert_eq!(told(Status::Signalled(9)), (137, 9, None));
        let (code, _, error) = told(Status::Unknown("init died".into()));
        assert_eq!(
            (code, error.as_deref()),
            (-1, Some("the exit status is not known: init died"))
        );
        assert!(told(Status::NotStarted("chdir".into())).2.is_some());
    }
}
