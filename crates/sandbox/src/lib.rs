//! From a task's options to a validated, printable plan.
//!
//! Everything that can be known before a process exists is looked up and checked here, so that a mistake is told with
//! the name of its culprit and leaves nothing behind. The one change made to the host is [`command::make_executable`],
//! and it comes last. Nothing here starts a task; the plan crosses to the executor as
//! [`holdfast_wire::executor_v1::TaskSpec`].

pub mod access;
pub mod attributes;
pub mod capability;
pub mod command;
pub mod duration;
pub mod ending;
pub mod environment;
pub mod isolation;
pub mod limits;
pub mod output;
pub mod plan;
mod retry;
pub mod users;
pub mod work_dir;

pub use command::CommandError;
pub use environment::{Arguments, Environment, EnvironmentError};
pub use output::{LogCollection, LogRotation, OutputError, Sink};
pub use plan::{Placement, PlanError, TaskOptions, TaskPlan};
pub use users::{Credentials, DeniedIds, Resolver, Subject, UserError};
pub use work_dir::WorkDirError;
