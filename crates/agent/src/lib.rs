//! The embedded agent: runs one job file on one host through the driver plugin, and is a go-plugin host like any other.
//!
//! It launches the driver, starts the job's tasks, follows their output, restarts them by Nomad's policy, relaunches a
//! driver that died and recovers its tasks, and stops the job on a signal. Killed itself, it goes on with what runs when
//! it is started again on the same data directory.
//!
//! What may happen when is pure data ([`lifecycle`], [`restart`]); what a job file means is in [`jobfile`],
//! [`environment`] and [`schema`]; everything else is the agent at work.

mod agent;
mod alloc_dir;
pub mod cli;
mod console;
mod drill;
pub mod environment;
mod hooks;
mod host;
mod id;
pub mod jobfile;
pub mod lifecycle;
mod output;
mod plugin;
pub mod restart;
pub mod schema;
mod scope;
mod store;
mod task;
