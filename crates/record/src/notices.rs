//! `notices.json`: what the executor has to say about a living task, for its driver to pass on as task events.
//!
//! The driver holds no connection to an executor that has nothing to say, so the executor leaves a file, which the driver notices
//! by its appearance in the folder (inotify(7), IN_MOVED_TO). `told.json` is the driver's: how much of it was passed on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Extra, RECORD_VERSION, now_ms};

/// How many are kept; older ones are forgotten.
const KEPT: usize = 64;

/// All notices of a task that are kept. One writer: the executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notices {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The sequence number of the next one.
    #[serde(default)]
    pub next: u64,
    /// In the order in which they came.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// How many OOM kills of others than the main process the notices have told since the task's start.
    #[serde(default)]
    pub oom_kills: u64,
    /// How many refused forks they have told, by the scope's own count.
    #[serde(default)]
    pub forks_refused: u64,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Rising from 0.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// One line for a person.
    pub message: String,
    /// The same for programs, such as counts.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            version: RECORD_VERSION,
            next: 0,
            notices: Vec::new(),
            oom_kills: 0,
            forks_refused: 0,
            extra: Extra::new(),
        }
    }
}

impl Notices {
    /// Adds one that happened now.
    pub fn push<'a>(&mut self, message: impl Into<String>, annotations: impl IntoIterator<Item = (&'a str, String)>) {
        self.notices.push(Notice {
            sequence: self.next,
            at_ms: now_ms(),
            message: message.into(),
            annotations: annotations
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        });
        // A number that somebody else has written may be the last.
        self.next = self.next.saturating_add(1);
        let excess = self.notices.len().saturating_sub(KEPT);
        self.notices.drain(..excess);
    }

    /// Those that were not told yet, if those below `next` were.
    pub fn since(&self, next: u64) -> impl Iterator<Item = &Notice> {
        self.notices.iter().filter(move |notice| notice.sequence >= next)
    }
}

/// How much was passed on. One writer: the driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The sequence number of the first notice that was not passed on.
    pub next: u64,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Told {
    /// All below `next`.
    pub fn below(next: u64) -> Told {
        Told {
            version: RECORD_VERSION,
            next,
            extra: Extra::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_numbered_on_and_the_oldest_forgotten() {
        let mut notices = Notices::default();
        for count in 0..KEPT + 3 {
            notices.push(format!("number {count}"), [("count", count.to_string())]);
        }
        assert_eq!(notices.notices.len(), KEPT);
        assert_eq!(notices.notices[0].message, "number 3");
        assert_eq!(notices.next, KEPT as u64 + 3);
        let new: Vec<_> = notices.since(KEPT as u64 + 2).map(|notice| notice.sequence).collect();
        assert_eq!(new, [KEPT as u64 + 2]);
    }
}
