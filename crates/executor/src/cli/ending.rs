//! Flags for how a task ends, named like the job's options and read by the same functions.

use anyhow::Result;
use clap::Args;
use holdfast_record::{AgentExit, Ending, ExecutorLoss, ExitType, KillTarget, Stragglers};
use holdfast_sandbox::ending::{
    parse_exit_type, parse_kill_sequence, parse_kill_target, parse_max_runtime, parse_stragglers,
};

use super::values;

/// Signals, stragglers, a bound.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Ending")]
pub struct EndingFlags {
    /// Whom the signals of a stop reach: main, group or cgroup
    #[arg(long, value_name = "WHOM", value_parser = parse_kill_target)]
    kill_target: Option<KillTarget>,
    /// What a stop sends: a signal and how long until the next step; once for each step
    #[arg(long, value_name = "SIGNAL[ GRACE]")]
    kill_sequence: Vec<String>,
    /// What a stop sends instead of the signal that this process got
    #[arg(long, value_name = "SIGNAL", value_parser = values::signal, conflicts_with = "kill_sequence")]
    kill_signal: Option<i32>,
    /// What becomes of processes that the command leaves behind: kill or leave
    #[arg(long, value_name = "WHAT", value_parser = parse_stragglers)]
    stragglers: Option<Stragglers>,
    /// When the task is over: when its main process ends, or its cgroup is empty (main or cgroup)
    #[arg(long, value_name = "WHEN", value_parser = parse_exit_type)]
    exit_type: Option<ExitType>,
    /// How long it may run, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    max_runtime: Option<String>,
    /// What it is stopped with then [default: TERM]
    #[arg(long, value_name = "SIGNAL", requires = "max_runtime")]
    max_runtime_signal: Option<String>,
    /// How long it may take then [default: 5s]
    #[arg(long, value_name = "DURATION", requires = "max_runtime")]
    max_runtime_grace: Option<String>,
}

impl EndingFlags {
    /// The signal of a stop, if it is not the one that this process got.
    pub fn kill_signal(&self) -> Option<i32> {
        self.kill_signal
    }

    /// Contradictions are errors that name the job's option.
    pub fn ending(&self) -> Result<Ending> {
        let EndingFlags {
            kill_target,
            kill_sequence,
            kill_signal: _,
            stragglers,
            exit_type,
            max_runtime,
            max_runtime_signal,
            max_runtime_grace,
        } = self;
        let word = |word: &Option<String>| word.clone().unwrap_or_default();
        let bound = max_runtime
            .as_ref()
            .map(|limit| parse_max_runtime(limit, &word(max_runtime_signal), &word(max_runtime_grace)));
        Ok(Ending {
            kill_target: kill_target.unwrap_or_default(),
            kill_sequence: parse_kill_sequence(kill_sequence)?,
            stragglers: stragglers.unwrap_or_default(),
            exit_type: exit_type.unwrap_or_default(),
            max_runtime: bound.transpose()?,
            // A person's own executor is who attends, and nobody comes after it unless a person calls.
            on_executor_loss: ExecutorLoss::Adopt,
            on_agent_exit: AgentExit::Keep,
        })
    }
}
