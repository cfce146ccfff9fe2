//! From a task's options to a validated, printable plan.
//!
//! Everything that can be known before a process exists is looked up and checked here, so that a mistake is told with
//! the name of its culprit and leaves nothing behind. The one change made to the host is [`command::make_executable`],
//! and it comes last. Nothing here starts a task; the plan crosses to the executor as
//! [`holdfast_wire::executor_v1::TaskSpec`].
//!
//! A task inherits nothing by accident. Unless its job says otherwise it runs with umask 022, nice 0, no priority of input and
//! output and an `oom_score_adj` of 0, and with these resource limits ([`reset::DEFAULTS`]), soft and hard:
//!
//! | limit | default |
//! |---|---|
//! | `nofile` | 65536:524288 |
//! | `core` | 0:unlimited |
//! | `memlock` | 8 MiB |
//! | `stack` | 8 MiB:unlimited |
//! | `msgqueue` | 819200 |
//! | `nice`, `rtprio` | 0 |
//! | `as`, `cpu`, `data`, `fsize`, `locks`, `nproc`, `rss`, `rttime` | unlimited |
//! | `sigpending` | as it is |
//!
//! A default that this process cannot give is lowered to what it can; a limit that a job names and cannot have is an error or a
//! warning ([`TaskPlan::warnings`]).
//!
//! The task's variables are applied by execve(2) of its command and by nothing before: `LD_PRELOAD` and its like reach no
//! privileged stage. What runs here, getent(1), has no environment but `PATH` and `LC_ALL`.

pub mod access;
pub mod attributes;
pub mod capability;
pub mod ceilings;
pub mod command;
pub mod duration;
pub mod ending;
pub mod environment;
pub mod etc;
pub mod host;
#[cfg(feature = "image")]
pub mod image;
pub mod isolation;
pub mod limits;
pub mod network;
pub mod output;
pub mod plan;
pub mod privileges;
pub mod reset;
mod retry;
pub mod seccomp;
pub mod steps;
pub mod unveil;
pub mod users;
pub mod work_dir;

pub use ceilings::{CeilingError, Ceilings};
pub use command::CommandError;
pub use environment::{Arguments, Environment, EnvironmentError};
pub use output::{LogCollection, LogRotation, OutputError, Sink};
pub use plan::{Placement, PlanError, TaskOptions, TaskPlan};
pub use users::{Credentials, DeniedIds, Resolver, Subject, UserError};
pub use work_dir::WorkDirError;
