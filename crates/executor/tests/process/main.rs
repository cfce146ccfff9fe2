//! The executor as a process: real executors, real tasks, killed at many steps.

mod adoption;
mod by_hand;
mod commands;
mod ending;
mod ending_frozen;
mod host;
mod idle;
mod launch;
mod limits;
mod limits_inherited;
mod oom;
mod output;
mod output_agent;
mod output_disk;
mod output_drain;
mod output_large;
mod privileged;
mod run;
mod run_options;
mod serve;
mod session;
mod session_many;
mod session_rules;
mod session_stream;
mod stop;
mod v2;
