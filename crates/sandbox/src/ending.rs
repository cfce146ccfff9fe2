//! How a task ends, in the job's words.

use std::time::Duration;

use holdfast_record::{AgentExit, ExecutorLoss, ExitType, KillStep, KillTarget, MaxRuntime, Stragglers};
use thiserror::Error;

use crate::duration::{self, DurationError};

/// How long a task that ran too long may take to end if nothing is said: the agent's default for `kill_timeout`.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// What a task that ran too long is stopped with if nothing is said.
const DEFAULT_SIGNAL: &str = "SIGTERM";
/// More steps than anybody means.
const MOST_STEPS: usize = 16;
const SIGKILL: &str = "SIGKILL";

/// Why words about a task's end mean nothing. The text names the option and its value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EndingError {
    /// One of a few words was expected.
    #[error("{option} {value:?} is none of {known}")]
    Word {
        /// The option.
        option: &'static str,
        /// As it was given.
        value: String,
        /// What it may be.
        known: &'static str,
    },
    /// No such signal.
    #[error("{option} {value:?}: {signal:?} is not a signal such as SIGTERM, TERM or SIGRTMIN+3")]
    Signal {
        /// The option.
        option: &'static str,
        /// As it was given.
        value: String,
        /// The part that should be a signal.
        signal: String,
    },
    /// No such duration.
    #[error("{option} {value:?}: {source}")]
    Duration {
        /// The option.
        option: &'static str,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        source: DurationError,
    },
    /// A step is a signal and a grace.
    #[error("kill_sequence step {0:?} is not a signal and a grace such as \"SIGTERM 10s\"")]
    Step(String),
    /// Nothing would ever lead to the next step.
    #[error("kill_sequence step {0:?} has no grace, and only the last one needs none")]
    StepWithoutGrace(String),
    /// What follows would find nobody.
    #[error("kill_sequence step {0:?} is not the last: nothing comes after SIGKILL")]
    AfterKill(String),
    /// See [`MOST_STEPS`].
    #[error("kill_sequence has {0} steps, and {MOST_STEPS} are the most")]
    TooManySteps(usize),
    /// A task that may run for no time at all.
    #[error("max_runtime {0:?} is not longer than zero")]
    NoRuntime(String),
    /// Every restart of an agent would end the task.
    #[error("{0} {1:?} is not longer than zero")]
    NoTimeAlone(&'static str, String),
    /// Nobody gets ready to end by it.
    #[error("max_runtime_signal {0:?} leaves no time for a grace: expected a signal that a task can take")]
    RuntimeKill(String),
}

/// `kill_target`: whom signals of a stop reach.
pub fn parse_kill_target(value: &str) -> Result<KillTarget, EndingError> {
    let words = [
        ("main", KillTarget::Main),
        ("group", KillTarget::Group),
        ("cgroup", KillTarget::Cgroup),
    ];
    word("kill_target", value, &words, "main, group and cgroup")
}

/// `stragglers`: what becomes of processes that the main process leaves behind.
pub fn parse_stragglers(value: &str) -> Result<Stragglers, EndingError> {
    let words = [("kill", Stragglers::Kill), ("leave", Stragglers::Leave)];
    word("stragglers", value, &words, "kill and leave")
}

/// `exit_type`: when the task is over.
pub fn parse_exit_type(value: &str) -> Result<ExitType, EndingError> {
    let words = [("main", ExitType::Main), ("cgroup", ExitType::Cgroup)];
    word("exit_type", value, &words, "main and cgroup")
}

/// `on_executor_loss`: what becomes of a task whose executor dies.
pub fn parse_on_executor_loss(option: &'static str, value: &str) -> Result<ExecutorLoss, EndingError> {
    let words = [("adopt", ExecutorLoss::Adopt), ("kill", ExecutorLoss::Kill)];
    word(option, value, &words, "adopt and kill")
}

/// `on_agent_exit`: `keep`, or `stop_after=` and a duration, as in `stop_after=10m`.
pub fn parse_on_agent_exit(option: &'static str, value: &str) -> Result<AgentExit, EndingError> {
    let Some(limit) = value.strip_prefix("stop_after=") else {
        return word(
            option,
            value,
            &[("keep", AgentExit::Keep)],
            "keep and stop_after=DURATION",
        );
    };
    match parse_duration(option, value, limit)? {
        0 => Err(EndingError::NoTimeAlone(option, value.to_owned())),
        limit_ms => Ok(AgentExit::StopAfter { limit_ms }),
    }
}

/// `kill_sequence`: each step a signal, a blank and how long until the next step, as in `SIGTERM 10s`, `QUIT 5s`. The last
/// step may lack its grace, which is then as long as the stop allows. The kill that follows needs no step.
pub fn parse_kill_sequence(steps: &[String]) -> Result<Vec<KillStep>, EndingError> {
    const OPTION: &str = "kill_sequence";
    if steps.len() > MOST_STEPS {
        return Err(EndingError::TooManySteps(steps.len()));
    }
    let last = steps.len().saturating_sub(1);
    let parse_step = |(index, text): (usize, &String)| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, grace) = match words[..] {
            [name] => (name, None),
            [name, grace] => (name, Some(grace)),
            _ => return Err(EndingError::Step(text.clone())),
        };
        let signal = parse_signal(OPTION, text, name)?;
        let grace_ms = match grace {
            Some(grace) => parse_duration(OPTION, text, grace)?,
            // The grace of the stop bounds it.
            None if index == last => u64::MAX,
            None => return Err(EndingError::StepWithoutGrace(text.clone())),
        };
        if index != last && holdfast_sys::signal::name(signal) == Some(SIGKILL) {
            return Err(EndingError::AfterKill(text.clone()));
        }
        Ok(KillStep { signal, grace_ms })
    };
    steps.iter().enumerate().map(parse_step).collect()
}

/// `max_runtime`, `max_runtime_signal` and `max_runtime_grace`. An empty signal is SIGTERM, an empty grace five seconds.
pub fn parse_max_runtime(limit: &str, signal: &str, grace: &str) -> Result<MaxRuntime, EndingError> {
    let limit_ms = parse_duration("max_runtime", limit, limit)?;
    if limit_ms == 0 {
        return Err(EndingError::NoRuntime(limit.to_owned()));
    }
    let name = if signal.is_empty() { DEFAULT_SIGNAL } else { signal };
    let number = parse_signal("max_runtime_signal", signal, name)?;
    let grace_ms = match grace {
        "" => milliseconds(DEFAULT_GRACE),
        grace => parse_duration("max_runtime_grace", grace, grace)?,
    };
    if holdfast_sys::signal::name(number) == Some(SIGKILL) && !grace.is_empty() && grace_ms > 0 {
        return Err(EndingError::RuntimeKill(signal.to_owned()));
    }
    Ok(MaxRuntime {
        limit_ms,
        signal: number,
        grace_ms,
    })
}

fn word<T: Copy>(
    option: &'static str,
    value: &str,
    words: &[(&str, T)],
    known: &'static str,
) -> Result<T, EndingError> {
    let found = words
        .iter()
        .find(|(word, _)| *word == value)
        .map(|(_, meaning)| *meaning);
    found.ok_or_else(|| EndingError::Word {
        option,
        value: value.to_owned(),
        known,
    })
}

/// With or without `SIG`.
fn parse_signal(option: &'static str, value: &str, name: &str) -> Result<i32, EndingError> {
    use holdfast_sys::signal::number;
    let found = number(name).or_else(|| number(&format!("SIG{name}")));
    found.ok_or_else(|| EndingError::Signal {
        option,
        value: value.to_owned(),
        signal: name.to_owned(),
    })
}

/// In milliseconds; what is shorter than one but not nothing is one.
fn parse_duration(option: &'static str, value: &str, text: &str) -> Result<u64, EndingError> {
    match duration::parse(text) {
        Ok(duration) => Ok(milliseconds(duration)),
        Err(source) => Err(EndingError::Duration {
            option,
            value: value.to_owned(),
            source,
        }),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_task_that_was_left_alone_is_said_in_few_words() {
        assert_eq!(parse_on_executor_loss("o", "adopt"), Ok(ExecutorLoss::Adopt));
        assert_eq!(parse_on_executor_loss("o", "kill"), Ok(ExecutorLoss::Kill));
        assert_eq!(parse_on_agent_exit("o", "keep"), Ok(AgentExit::Keep));
        let limit_ms = 90 * 60 * 1000;
        assert_eq!(
            parse_on_agent_exit("o", "stop_after=1h30m"),
            Ok(AgentExit::StopAfter { limit_ms })
        );
        for (value, expected) in [
            ("", "on_agent_exit \"\" is none of keep and stop_after=DURATION"),
            ("stop", "on_agent_exit \"stop\" is none of keep and stop_after=DURATION"),
            ("stop_after=", "on_agent_exit \"stop_after=\": invalid duration \"\""),
            (
                "stop_after=0s",
                "on_agent_exit \"stop_after=0s\" is not longer than zero",
            ),
            (
                "stop_after=-1s",
                "on_agent_exit \"stop_after=-1s\": negative duration \"-1s\"",
            ),
        ] {
            assert_eq!(
                parse_on_agent_exit("on_agent_exit", value).unwrap_err().to_string(),
                expected
            );
        }
        assert_eq!(
            parse_on_executor_loss("on_executor_loss", "keep")
                .unwrap_err()
                .to_string(),
            "on_executor_loss \"keep\" is none of adopt and kill"
        );
    }

    fn sequence(steps: &[&str]) -> Result<Vec<(i32, u64)>, String> {
        let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        let step = |KillStep { signal, grace_ms }| (signal, grace_ms);
        parse_kill_sequence(&steps)
            .map(|steps| steps.into_iter().map(step).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn words_are_exact() {
        assert_eq!(parse_kill_target("group"), Ok(KillTarget::Group));
        assert_eq!(parse_kill_target("main"), Ok(KillTarget::Main));
        assert_eq!(parse_kill_target("cgroup"), Ok(KillTarget::Cgroup));
        assert_eq!(parse_stragglers("leave"), Ok(Stragglers::Leave));
        assert_eq!(parse_stragglers("kill"), Ok(Stragglers::Kill));
        assert_eq!(parse_exit_type("cgroup"), Ok(ExitType::Cgroup));
        assert_eq!(parse_exit_type("main"), Ok(ExitType::Main));
        let texts = [
            (
                parse_kill_target("all").unwrap_err(),
                "kill_target \"all\" is none of main, group and cgroup",
            ),
            (
                parse_kill_target("").unwrap_err(),
                "kill_target \"\" is none of main, group and cgroup",
            ),
            (
                parse_stragglers("Kill").unwrap_err(),
                "stragglers \"Kill\" is none of kill and leave",
            ),
            (
                parse_exit_type("group").unwrap_err(),
                "exit_type \"group\" is none of main and cgroup",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_kill_sequence_is_signals_with_graces() {
        assert_eq!(sequence(&[]), Ok(vec![]));
        assert_eq!(
            sequence(&["SIGTERM 10s", "QUIT 1m30s", "RTMIN+1"]),
            Ok(vec![(15, 10_000), (3, 90_000), (35, u64::MAX)])
        );
        assert_eq!(
            sequence(&["  INT   0s ", "HUP 1us", "KILL 0"]),
            Ok(vec![(2, 0), (1, 1), (9, 0)])
        );
    }

    #[test]
    fn a_kill_sequence_that_means_nothing_is_refused_by_name() {
        let many = vec!["TERM 1s"; MOST_STEPS + 1];
        let table: [(&[&str], &str); 11] = [
            (
                &[""],
                "kill_sequence step \"\" is not a signal and a grace such as \"SIGTERM 10s\"",
            ),
            (
                &["TERM 1s 2s"],
                "kill_sequence step \"TERM 1s 2s\" is not a signal and a grace such as \"SIGTERM 10s\"",
            ),
            (
                &["TERM", "QUIT 1s"],
                "kill_sequence step \"TERM\" has no grace, and only the last one needs none",
            ),
            (
                &["KILL 1s", "QUIT"],
                "kill_sequence step \"KILL 1s\" is not the last: nothing comes after SIGKILL",
            ),
            (
                &["FOO 1s"],
                "kill_sequence \"FOO 1s\": \"FOO\" is not a signal such as SIGTERM, TERM or SIGRTMIN+3",
            ),
            (
                &["term 1s"],
                "kill_sequence \"term 1s\": \"term\" is not a signal such as SIGTERM, TERM or SIGRTMIN+3",
            ),
            (
                &["10s"],
                "kill_sequence \"10s\": \"10s\" is not a signal such as SIGTERM, TERM or SIGRTMIN+3",
            ),
            (
                &["TERM 10"],
                "kill_sequence \"TERM 10\": missing unit in duration \"10\"",
            ),
            (&["TERM -1s"], "kill_sequence \"TERM -1s\": negative duration \"-1s\""),
            (
                &["TERM 9999999h"],
                "kill_sequence \"TERM 9999999h\": invalid duration \"9999999h\"",
            ),
            (&many, "kill_sequence has 17 steps, and 16 are the most"),
        ];
        for (steps, message) in table {
            assert_eq!(sequence(steps), Err(message.to_owned()));
        }
    }

    #[test]
    fn a_runtime_has_a_limit_a_signal_and_a_grace() {
        let table = [
            ("1h30m", "", "", 5_400_000, 15, 5_000),
            ("500ms", "INT", "0", 500, 2, 0),
            ("1ns", "SIGQUIT", "1m", 1, 3, 60_000),
            ("1s", "KILL", "", 1_000, 9, 5_000),
        ];
        for (limit, signal, grace, limit_ms, number, grace_ms) in table {
            let expected = MaxRuntime {
                limit_ms,
                signal: number,
                grace_ms,
            };
            assert_eq!(parse_max_runtime(limit, signal, grace), Ok(expected), "{limit}");
        }
        let table = [
            ("", "", "", "max_runtime \"\": invalid duration \"\""),
            ("0", "", "", "max_runtime \"0\" is not longer than zero"),
            ("0s", "", "", "max_runtime \"0s\" is not longer than zero"),
            ("-1h", "", "", "max_runtime \"-1h\": negative duration \"-1h\""),
            ("60", "", "", "max_runtime \"60\": missing unit in duration \"60\""),
            (
                "1s",
                "9",
                "",
                "max_runtime_signal \"9\": \"9\" is not a signal such as SIGTERM, TERM or SIGRTMIN+3",
            ),
            ("1s", "", "x", "max_runtime_grace \"x\": invalid duration \"x\""),
            (
                "1s",
                "KILL",
                "1s",
                "max_runtime_signal \"KILL\" leaves no time for a grace: expected a signal that a task can take",
            ),
        ];
        for (limit, signal, grace, message) in table {
            let error = parse_max_runtime(limit, signal, grace).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
