//! The driver: Nomad's Base and Driver services over executors that outlive it.
//!
//! | module | subject |
//! |---|---|
//! | [`plugin_name`] | which driver this is |
//! | [`options`], [`settings`] | what the operator and the job say |
//! | [`table`], [`owner`] | which tasks there are, and what may happen to them |
//! | [`plan`], [`start`] | StartTask |
//! | [`recover`], [`takeover`], [`watch`] | finding tasks again, and keeping each under an executor |
//! | [`end`] | StopTask, DestroyTask, and what a dead driver left |
//! | [`attention`] | whether an agent attends, and who is told |
//! | [`network`] | CreateNetwork, DestroyNetwork |
//! | [`stats`], [`events`], [`notices`], [`fingerprint`] | what is told without being asked twice |
//! | [`doctor`] | what a person is told of the host |
//! | [`services`] | the calls themselves |
//! | [`executor_binary`] | where executors come from |
//! | [`plugin`] | the process |

pub mod attention;
pub mod doctor;
pub mod driver;
pub mod end;
pub mod events;
pub mod executor_binary;
mod exit;
pub mod failure;
pub mod fingerprint;
mod limits;
pub mod network;
pub mod notices;
mod open_files;
pub mod options;
pub mod owner;
pub mod plan;
pub mod plugin;
pub mod plugin_name;
pub mod recover;
pub mod services;
pub mod settings;
pub mod start;
pub mod stats;
pub mod table;
pub mod takeover;
pub mod watch;
