//! The one owner of the table: whoever wants something of it enqueues.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::table::{AlreadyStarted, Destruction, Facts, Outcome, Phase, Recovery, Table, TaskName};

type Transition = Box<dyn FnOnce(&mut Table) + Send>;

/// The way to the table's owner.
#[derive(Debug, Clone)]
pub struct Tasks {
    queue: mpsc::UnboundedSender<Transition>,
}

impl Tasks {
    /// Starts the owner of an empty table in the current runtime; it ends with the last of its clients.
    pub fn start() -> Tasks {
        let (queue, mut transitions) = mpsc::unbounded_channel::<Transition>();
        tokio::spawn(async move {
            let mut table = Table::default();
            while let Some(transition) = transitions.recv().await {
                transition(&mut table);
            }
        });
        Tasks { queue }
    }

    async fn ask<R: Send + 'static>(&self, transition: impl FnOnce(&mut Table) -> R + Send + 'static) -> R {
        let (reply, answer) = oneshot::channel();
        self.tell(move |table| {
            // Whoever asked may have been cancelled.
            let _ = reply.send(transition(table));
        });
        answer.await.expect("the owner answers everything in its queue")
    }

    fn tell(&self, transition: impl FnOnce(&mut Table) + Send + 'static) {
        // The queue is open as long as its owner lives, and that is until the runtime ends.
        let _ = self.queue.send(Box::new(transition));
    }

    /// [`Table::reserve`]. The id is free again when the reservation is dropped, unless the task was said to run or to
    /// be over.
    pub async fn reserve(&self, name: &TaskName) -> Result<Reservation, AlreadyStarted> {
        let (taken, name) = (name.clone(), name.clone());
        self.ask(move |table| table.reserve(&taken)).await?;
        Ok(Reservation {
            tasks: self.clone(),
            id: name.id,
        })
    }

    /// [`Table::recover`], waiting for a start under way. `None`: the task is known already.
    pub async fn recover(&self, name: &TaskName) -> Option<Reservation> {
        loop {
            let asked = name.clone();
            match self.ask(move |table| table.recover(&asked)).await {
                Recovery::Known => return None,
                Recovery::InProgress(mut phase) => settled(&mut phase).await,
                Recovery::Look => {
                    return Some(Reservation {
                        tasks: self.clone(),
                        id: name.id.clone(),
                    });
                }
            }
        }
    }

    /// [`Table::running`].
    pub async fn running(&self, facts: Arc<Facts>) {
        self.ask(move |table| table.running(facts)).await;
    }

    /// [`Table::over`].
    pub async fn over(&self, facts: Arc<Facts>, outcome: Outcome) {
        self.ask(move |table| table.over(facts, outcome)).await;
    }

    /// [`Table::destroy`], waiting for a start under way.
    pub async fn destroy(&self, id: &str, force: bool) -> Destruction {
        loop {
            let asked = id.to_owned();
            match self.ask(move |table| table.destroy(&asked, force)).await {
                Destruction::InProgress(mut phase) => settled(&mut phase).await,
                decided => return decided,
            }
        }
    }

    /// [`Table::phase`].
    pub async fn phase(&self, id: &str) -> Option<Phase> {
        let id = id.to_owned();
        self.ask(move |table| table.phase(&id)).await
    }

    /// [`Table::follow`].
    pub async fn follow(&self, id: &str) -> Option<watch::Receiver<Phase>> {
        let id = id.to_owned();
        self.ask(move |table| table.follow(&id)).await
    }

    /// [`Table::all_running`].
    pub async fn all_running(&self) -> Vec<Arc<Facts>> {
        self.ask(|table| table.all_running()).await
    }

    /// [`Table::other_incarnations`].
    pub async fn other_incarnations(&self, name: &TaskName) -> Vec<(String, watch::Receiver<Phase>)> {
        let name = name.clone();
        self.ask(move |table| table.other_incarnations(&name)).await
    }
}

/// Waits until the start is done, one way or the other.
async fn settled(phase: &mut watch::Receiver<Phase>) {
    // An error means that the entry is gone, which is settled too.
    let _ = phase.wait_for(|phase| *phase != Phase::Starting).await;
}

/// Waits until the task has ended. `None`: it left the table before that was told.
pub async fn ended(phase: &mut watch::Receiver<Phase>) -> Option<Outcome> {
    match &*phase
        .wait_for(|phase| matches!(phase, Phase::Over(..) | Phase::Gone))
        .await
        .ok()?
    {
        Phase::Over(_, outcome) => Some(outcome.clone()),
        _ => None,
    }
}

/// An id that was taken for a start or a recovery.
#[derive(Debug)]
pub struct Reservation {
    tasks: Tasks,
    id: String,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let id = std::mem::take(&mut self.id);
        // Does nothing to a task that was said to run or to be over.
        self.tasks.tell(move |table| table.release(&id));
    }
}

#[cfg(test)]
mod tests {
    use holdfast_record::ProcessIdentity;

    use super::*;

    fn name() -> TaskName {
        TaskName {
            id: "a/t/1".into(),
            alloc_id: "a".into(),
            task_name: "t".into(),
        }
    }

    fn facts() -> Arc<Facts> {
        Arc::new(Facts {
            name: name(),
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

    #[tokio::test]
    async fn a_start_that_is_dropped_half_way_frees_the_id_s4() {
        let tasks = Tasks::start();
        let reservation = tasks.reserve(&name()).await.unwrap();
        assert!(tasks.reserve(&name()).await.is_err());
        drop(reservation);
        assert!(tasks.reserve(&name()).await.is_ok());
    }

    #[tokio::test]
    async fn a_reservation_that_became_a_task_frees_nothing() {
        let tasks = Tasks::start();
        let reservation = tasks.reserve(&name()).await.unwrap();
        tasks.running(facts()).await;
        drop(reservation);
        assert_eq!(tasks.phase("a/t/1").await, Some(Phase::Running(facts())));
    }

    #[tokio::test]
    async fn a_recovery_waits_for_the_start_under_way_r1() {
        let tasks = Tasks::start();
        let reservation = tasks.reserve(&name()).await.unwrap();
        let recovery = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.recover(&name()).await.is_none() }
        });
        tokio::task::yield_now().await;
        assert!(!recovery.is_finished());
        tasks.running(facts()).await;
        drop(reservation);
        assert!(recovery.await.unwrap(), "the task is known");
    }

    #[tokio::test]
    async fn every_waiter_gets_the_outcome_w1() {
        let tasks = Tasks::start();
        let _reservation = tasks.reserve(&name()).await.unwrap();
        tasks.running(facts()).await;
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let tasks = tasks.clone();
                tokio::spawn(async move { ended(&mut tasks.follow("a/t/1").await?).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let outcome = Outcome {
            exit_code: 7,
            signal: 0,
            oom_killed: false,
            timed_out: false,
            error: None,
            finished_at_ms: 1,
        };
        tasks.over(facts(), outcome.clone()).await;
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Some(outcome.clone()));
        }
        assert_eq!(ended(&mut tasks.follow("a/t/1").await.unwrap()).await, Some(outcome));
    }
}
