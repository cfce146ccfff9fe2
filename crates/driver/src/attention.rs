//! Whether an agent attends to this driver, and telling it to the executors of tasks that must not be alone for long.
//!
//! An agent holds its connection as long as it lives: with it go the streams of the fingerprint and of task events. One that was killed
//! leaves the driver running, for the next agent to find; until that connects, the driver attends to nothing, and says so. When the
//! driver itself dies, executors see it by themselves.

use std::sync::Arc;
use std::time::Duration;

use holdfast_executor::client::{self, Peer};
use holdfast_executor::link::Link;
use holdfast_record::SupervisionDir;
use holdfast_wire::executor_v1::AttendRequest;
use holdfast_wire::executor_v1::executor_client::ExecutorClient;
use tokio::sync::{Semaphore, watch};
use tonic::{Code, Status};

use crate::driver::Driver;
use crate::table::{Facts, Phase};

/// Executors that are told at a time.
const AT_A_TIME: usize = 16;

/// How long an executor may take to answer before the next try.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Whether somebody attends to the driver. Before the first agent has come, whoever calls does.
#[derive(Debug, Clone)]
pub struct Attention(Arc<watch::Sender<bool>>);

impl Default for Attention {
    fn default() -> Attention {
        Attention(Arc::new(watch::Sender::new(true)))
    }
}

impl Attention {
    /// True while an agent is there.
    pub fn is_given(&self) -> bool {
        *self.0.borrow()
    }

    /// Tells an executor what holds, and again if that changed meanwhile.
    pub async fn tell(&self, executor: &mut ExecutorClient<Link>) -> Result<(), Status> {
        loop {
            let attends = self.is_given();
            let told = tokio::time::timeout(ANSWER_BOUND, executor.attend(AttendRequest { attends })).await;
            match told.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(_) => {}
                // An older one, which does not know the bound either.
                Err(status) if status.code() == Code::Unimplemented => {
                    tracing::warn!("an executor is too old to stop its task when nobody attends to it");
                }
                Err(status) => return Err(status),
            }
            if self.is_given() == attends {
                return Ok(());
            }
        }
    }
}

/// Follows the number of connected agents for as long as the driver runs.
pub fn follow(driver: Arc<Driver>, mut agents: watch::Receiver<usize>) {
    tokio::spawn(async move {
        // One that never came cannot have gone away.
        if agents.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        let mut is_given = true;
        loop {
            if agents.wait_for(|count| (*count > 0) != is_given).await.is_err() {
                return;
            }
            is_given = !is_given;
            driver.attention.0.send_replace(is_given);
            match is_given {
                true => tracing::info!("an agent is there again"),
                false => tracing::info!("the agent is gone; tasks with on_agent_exit are told"),
            }
            tell_all(&driver).await;
        }
    });
}

async fn tell_all(driver: &Arc<Driver>) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    for facts in driver.tasks.all_running().await {
        if !is_bounded(&facts) {
            continue;
        }
        let (driver, places) = (driver.clone(), places.clone());
        tokio::spawn(async move { tell_task(&driver, &facts, &places).await });
    }
}

/// Until it is told, has ended, or has to be told something else.
async fn tell_task(driver: &Driver, facts: &Facts, places: &Semaphore) {
    let is_given = driver.attention.is_given();
    let mut pause = FIRST_PAUSE;
    loop {
        let told = {
            let Ok(_place) = places.acquire().await else { return };
            tell_once(driver, facts).await
        };
        let Err(reason) = told else { return };
        tracing::debug!(
            task_id = facts.name.id,
            reason,
            "the executor could not be told whether an agent is there"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let is_running = matches!(driver.tasks.phase(&facts.name.id).await, Some(Phase::Running(_)));
        if !is_running || driver.attention.is_given() != is_given {
            return;
        }
    }
}

async fn tell_once(driver: &Driver, facts: &Facts) -> Result<(), String> {
    let dir = SupervisionDir::open(&facts.dir).map_err(|e| e.to_string())?;
    match client::connect(&dir).await {
        Ok(Peer { mut executor, .. }) => {
            let told = driver.attention.tell(&mut executor).await;
            told.map_err(|status| status.message().to_owned())
        }
        Err(e) => {
            client::ask_to_bind_again(&dir);
            Err(e.to_string())
        }
    }
}

/// True if the task must not be alone for long. What cannot be read is asked for again when the task is adopted.
fn is_bounded(facts: &Facts) -> bool {
    let record = SupervisionDir::open(&facts.dir).and_then(|dir| dir.record());
    matches!(record, Ok(Some(record)) if record.plan.ending.on_agent_exit.limit().is_some())
}
