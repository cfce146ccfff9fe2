//! The executor as a process: real executors, real tasks, killed at many steps.

mod adoption;
mod by_hand;
mod ending;
mod host;
mod idle;
mod launch;
mod oom;
mod output;
mod run;
mod serve;
mod session;
mod stop;
