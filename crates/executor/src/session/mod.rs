//! Sessions: processes started later inside the task, for a connected client. They end with the client, the time limit, the task.

mod living;
mod run;
mod start;
mod stream;
mod terminal;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use holdfast_cgroup::Scope;
use holdfast_record::PlanRecord;
use holdfast_sandbox::steps::ConfinementError;
use holdfast_sys::process::{ExitStatus, PidFd};
use holdfast_sys::readiness::{self, Registered};
use holdfast_sys::{file, socket};
use holdfast_wire::executor_v1::SessionExit;
use tokio::io::Interest;
use tonic::Status;

pub use living::Sessions;
pub use run::run;
pub use stream::{Outbound, stream};

/// What sessions take from their task.
#[derive(Debug, Clone)]
pub struct Context {
    /// Credentials, working directory, namespaces.
    pub plan: Arc<PlanRecord>,
    /// `KEY=value`.
    pub env: Arc<Vec<String>>,
    /// The task's cgroups.
    pub scope: Option<Arc<Scope>>,
    /// Whose namespaces are the task's, and the main process, whose user namespace is; absent: it has none of its own.
    pub namespaces: Option<Arc<Namespaces>>,
}

/// Processes whose namespaces a session joins.
#[derive(Debug)]
pub struct Namespaces {
    /// The init, or what stands for it.
    pub of: PidFd,
    /// The main process.
    pub main: PidFd,
}

/// Why a session did not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An empty command.
    #[error("error cmd must have at least one value")]
    NoCommand,
    /// As Go's os/exec says it, which the built-in passes on.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    /// The cap of the task's plan; script checks count too.
    #[error("the task runs {0} sessions already, as many as max_sessions allows")]
    TooMany(u32),
    /// Its processes are being ended.
    #[error("the task is over")]
    Over,
    /// Something on the way to the clone.
    #[error("{what}: {source}")]
    Prepare {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A step failed: step, object, reason.
    #[error("failed to start command: {0}")]
    Step(String),
    /// What the task may do cannot be restricted for it.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// It was cloned and did not come to execute the command.
    #[error("failed to start command: {0} was not executed within {bound} s; the task may be frozen, or a file system hang", bound = start::START_BOUND.as_secs())]
    Stuck(String),
}

impl SessionError {
    /// For this executor's own clients. The agent is never told a code of the transport (contract, I-3).
    pub fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::TooMany(_) => Status::resource_exhausted(message),
            Self::NoCommand
            | Self::NotFound(_)
            | Self::Over
            | Self::Prepare { .. }
            | Self::Step(_)
            | Self::Confinement(_)
            | Self::Stuck(_) => Status::failed_precondition(message),
        }
    }
}

fn preparing<T>(what: &'static str, answer: io::Result<T>) -> Result<T, SessionError> {
    answer.map_err(|source| SessionError::Prepare { what, source })
}

/// 128 + n after a signal, as a shell says it.
fn exit_of(status: ExitStatus) -> SessionExit {
    match status {
        ExitStatus::Exited(exit_code) => SessionExit {
            exit_code,
            signal: 0,
            timed_out: false,
        },
        ExitStatus::Signalled(signal) => SessionExit {
            exit_code: 128 + signal,
            signal,
            timed_out: false,
        },
    }
}

/// A pipe whose reading end waits in the runtime, and the end for the session.
fn output_pipe() -> io::Result<(Registered, OwnedFd)> {
    let (reader, writer) = socket::pipe()?;
    readiness::set_nonblocking(&reader, true)?;
    Ok((Registered::new(reader, Interest::READABLE)?, above_streams(&writer)?))
}

/// A copy of a descriptor that is not one of those which the session's standard streams overwrite.
fn above_streams(fd: &OwnedFd) -> io::Result<OwnedFd> {
    file::duplicate_above(fd, 3)
}
