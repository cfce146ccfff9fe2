//! The supervisor of one task: start, output, escalation, sessions and adoption.
//!
//! One owner, [`supervisor`], makes every transition of the task's state; request handlers only enqueue. Two threads: the
//! asynchronous one, and the [`pump`], which writes the output.

pub mod adopt;
pub mod attributes;
pub mod beneath;
pub mod birth;
pub mod children;
pub mod cli;
pub mod client;
pub mod drain;
pub mod foreground;
pub mod init_binary;
pub mod launch;
pub mod link;
pub mod log;
pub mod nomad;
pub mod output;
pub mod overflow;
pub mod protocol;
pub mod pump;
pub mod rotation;
pub mod server;
pub mod service;
pub mod session;
pub mod spool;
pub mod supervise;
pub mod supervisor;
pub mod task;
pub mod user_namespace;
