//! The executor as a process: real executors, real tasks, killed at many steps.

mod adoption;
mod by_hand;
mod commands;
mod host;
mod idle;
mod launch;
mod output;
mod run;
mod run_options;
mod serve;
mod session;
mod stop;
