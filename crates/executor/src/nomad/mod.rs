//! Nomad's own `Executor` service, so that its Go client can be pointed at this executor.

mod isolation;
mod launch;
mod process_tree;
mod service;
pub mod session;
pub mod stats;

pub use launch::Rules;
pub use service::NomadExecutor;
