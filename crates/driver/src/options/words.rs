//! Options whose values are one of a few words.

use holdfast_record::{Overflow, Propagation, SeccompProfile, UserNamespace};
use holdfast_sandbox::isolation::propagation_of;

/// Who collects what tasks write (plugin option `log_collection`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogCollector {
    /// The executor.
    #[default]
    Driver,
    /// The agent's log process.
    Agent,
}

/// Not one of the words that an option knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value:?} is none of {known}")]
pub struct UnknownWord {
    option: &'static str,
    value: String,
    known: &'static str,
}

/// `log_collection`.
pub fn log_collection(value: &str) -> Result<LogCollector, UnknownWord> {
    let words = [("driver", LogCollector::Driver), ("agent", LogCollector::Agent)];
    word("log_collection", value, &words, "driver and agent")
}

/// `log_overflow`.
pub fn log_overflow(value: &str) -> Result<Overflow, UnknownWord> {
    let words = [("block", Overflow::Block), ("drop", Overflow::Drop)];
    word("log_overflow", value, &words, "block and drop")
}

/// `limits`: true if they are strict.
pub fn limits(value: &str) -> Result<bool, UnknownWord> {
    word(
        "limits",
        value,
        &[("strict", true), ("besteffort", false)],
        "strict and besteffort",
    )
}

/// `userns_mode`.
pub fn userns_mode(value: &str) -> Result<Option<UserNamespace>, UnknownWord> {
    let words = [("host", None), ("keep-id", Some(UserNamespace::KeepId))];
    word("userns_mode", value, &words, "host and keep-id")
}

/// `seccomp`; `None`: every system call.
pub fn seccomp(value: &str) -> Result<Option<SeccompProfile>, UnknownWord> {
    let words = [("default", Some(SeccompProfile::V1)), ("unconfined", None)];
    word("seccomp", value, &words, "default and unconfined")
}

/// `keyring`: true if it is the task's own.
pub fn keyring(value: &str) -> Result<bool, UnknownWord> {
    word(
        "keyring",
        value,
        &[("private", true), ("host", false)],
        "private and host",
    )
}

/// See [`propagation_of`].
pub fn propagation(value: &str) -> Result<Propagation, UnknownWord> {
    propagation_of(value).ok_or_else(|| UnknownWord {
        option: "propagation",
        value: value.to_owned(),
        known: "private, host-to-task and bidirectional",
    })
}

fn word<T: Copy>(
    option: &'static str,
    value: &str,
    words: &[(&str, T)],
    known: &'static str,
) -> Result<T, UnknownWord> {
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| UnknownWord {
        option,
        value: value.to_owned(),
        known,
    })
}
