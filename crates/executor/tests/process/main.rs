//! The executor as a process: real executors, real tasks, killed at many steps.

mod adoption;
mod by_hand;
mod commands;
mod ending;
mod host;
mod idle;
mod launch;
mod output;
mod privileged;
mod run;
mod serve;
mod session;
mod stop;
mod v2;
