//! Events of all tasks, for whoever listens (contract, T-6).

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_record::Notice;
use holdfast_wire::nomad_driver::DriverTaskEvent;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::table::TaskName;

/// How many events a reader may lag behind before it loses the oldest.
const BACKLOG: usize = 256;

/// Where events are sent. Sending never waits: a reader that does not keep up loses events, not the task its time.
#[derive(Debug, Clone)]
pub struct Events {
    sender: broadcast::Sender<DriverTaskEvent>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            sender: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl Events {
    /// Tells whoever listens. Without a listener the event is lost: the agent listens as long as it has the driver.
    pub fn send(&self, task: &TaskName, message: impl Into<String>, annotations: &[(&str, String)]) {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        self.send_at(SystemTime::now(), task, message.into(), annotations);
    }

    /// Tells what an executor had to say, at the time at which that happened.
    pub fn notice(&self, task: &TaskName, notice: &Notice) {
        let Notice {
            sequence: _,
            at_ms,
            message,
            annotations,
        } = notice;
        let at = u64::try_from(*at_ms).map_or(UNIX_EPOCH, |ms| UNIX_EPOCH + Duration::from_millis(ms));
        let annotations = annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
        self.send_at(at, task, message.clone(), annotations.collect());
    }

    fn send_at(&self, at: SystemTime, task: &TaskName, message: String, annotations: HashMap<String, String>) {
        // The agent keeps it and shows it; a line of the log beside it is for whoever looks closer.
        tracing::debug!(task_id = task.id, event = message, "task event");
        // An error means that nobody listens.
        let _ = self.sender.send(DriverTaskEvent {
            task_id: task.id.clone(),
            alloc_id: task.alloc_id.clone(),
            task_name: task.task_name.clone(),
            timestamp: Some(at.into()),
            message,
            annotations,
        });
    }

    /// A reader of the events from now on; dropping it ends it.
    pub fn listen(&self) -> Listener {
        Listener(self.sender.subscribe())
    }
}

/// One reader.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<DriverTaskEvent>);

impl Listener {
    /// The next event; `None` when the driver ends.
    pub async fn next(&mut self) -> Option<DriverTaskEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a reader of task events was too slow and lost some")
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskName {
        TaskName {
            id: "a/t/1".into(),
            alloc_id: "a".into(),
            task_name: "t".into(),
        }
    }

    #[tokio::test]
    async fn every_listener_gets_every_event_t6() {
        let events = Events::default();
        let mut listeners = [events.listen(), events.listen()];
        events.send(&task(), "adopted", &[("executor_pid", "7".to_owned())]);
        for listener in &mut listeners {
            let event = listener.next().await.unwrap();
            assert_eq!(
                (
                    event.task_id.as_str(),
                    event.alloc_id.as_str(),
                    event.task_name.as_str()
                ),
                ("a/t/1", "a", "t")
            );
            assert_eq!(event.annotations["executor_pid"], "7");
            assert!(event.timestamp.is_some());
        }
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_blocks_nobody() {
        let events = Events::default();
        let mut slow = events.listen();
        for n in 0..10 * BACKLOG {
            events.send(&task(), n.to_string(), &[]);
        }
        let first: usize = slow.next().await.unwrap().message.parse().unwrap();
        assert!(first >= 9 * BACKLOG, "{first}");
        drop(events);
        let mut last = first;
        while let Some(event) = slow.next().await {
            last = event.message.parse().unwrap();
        }
        assert_eq!(last, 10 * BACKLOG - 1);
    }
}
