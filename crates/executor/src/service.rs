//! `holdfast.executor.v1`: requests become commands to the supervisor, and its answers go back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_record::{Intent, ProcessIdentity, Status as TaskStatus, TaskResult};
use holdfast_wire::executor_v1::executor_server::Executor;
use holdfast_wire::executor_v1::{self as wire, identify_response::State, task_result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::children::Children;
use crate::protocol::Versions;
use crate::session::{self, Context, SessionError, Sessions};
use crate::supervisor::{Command, LaunchRefusal, Phase, Refusal, Snapshot, Stop};
use crate::task::{kill_target_of, limits_of};
use crate::{protocol, server};

/// The service of one task.
#[derive(Debug, Clone)]
pub struct Service {
    /// To the supervisor.
    pub commands: mpsc::UnboundedSender<Command>,
    /// From the supervisor.
    pub snapshot: watch::Receiver<Snapshot>,
    /// Who this executor is for.
    pub intent: Arc<Intent>,
    /// Reaping.
    pub children: Children,
    /// All sessions.
    pub sessions: Sessions,
}

/// A session's messages wait here while the client is slow; then the session does.
const OUTBOUND: usize = 8;

impl Service {
    /// Sends a command and waits for its answer. A supervisor that is gone has nothing left to supervise.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(command(reply));
        answer.await.map_err(|_| refused(Refusal::Over))
    }

    /// What a session needs.
    pub async fn context(&self) -> Result<Context, Status> {
        self.ask(Command::Context).await?.map_err(refused)
    }

    /// Returns once the result is on disk.
    pub async fn over(&self) -> Result<TaskResult, Status> {
        let mut snapshot = self.snapshot.clone();
        let over = snapshot
            .wait_for(|snapshot| matches!(snapshot.phase, Phase::Over(_)))
            .await;
        match over.map(|snapshot| snapshot.phase.clone()) {
            Ok(Phase::Over(result)) => Ok(result),
            _ => Err(refused(Refusal::Idle)),
        }
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NoSignal(_) => Status::invalid_argument(refusal.to_string()),
        Refusal::Undead(_) => Status::deadline_exceeded(refusal.to_string()),
        Refusal::Idle
        | Refusal::Over
        | Refusal::NotEquipped
        | Refusal::MainOver
        | Refusal::Frozen
        | Refusal::Dying
        | Refusal::NoCgroup(_)
        | Refusal::Freezer(_)
        | Refusal::Namespaces(_)
        | Refusal::Signal(..) => Status::failed_precondition(refusal.to_string()),
    }
}

/// A launch that may succeed later says so by its code.
pub fn launch_refused(refusal: &LaunchRefusal) -> Status {
    match refusal {
        LaunchRefusal::Failed(e) if e.is_retryable() => Status::resource_exhausted(e.to_string()),
        refusal => Status::failed_precondition(refusal.to_string()),
    }
}

fn identity(identity: &ProcessIdentity) -> wire::ProcessIdentity {
    let ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode,
    } = *identity;
    wire::ProcessIdentity {
        pid,
        start_ticks,
        pidfd_inode: pidfd_inode.unwrap_or(0),
    }
}

/// A result in the protocol's form.
pub fn result_message(result: &TaskResult) -> wire::TaskResult {
    let status = match &result.status {
        TaskStatus::Exited(code) => task_result::Status::Exited(*code),
        TaskStatus::Signalled(signal) => task_result::Status::Signalled(*signal),
        TaskStatus::Unknown(reason) => task_result::Status::Unknown(reason.clone()),
        TaskStatus::NotStarted(reason) => task_result::Status::NotStarted(reason.clone()),
    };
    wire::TaskResult {
        status: Some(status),
        oom_killed: result.oom_killed,
        finished_at_ms: result.finished_at_ms,
        timed_out: result.timed_out,
        unattended: result.unattended,
        executor_lost: result.executor_lost,
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Executor for Service {
    async fn identify(&self, _: Request<wire::IdentifyRequest>) -> Answer<wire::IdentifyResponse> {
        let snapshot = self.snapshot.borrow().clone();
        let state = match snapshot.phase {
            Phase::Idle => State::Idle,
            Phase::Running => State::Running,
            Phase::Stopping => State::Stopping,
            Phase::Draining => State::Draining,
            Phase::Over(_) => State::Over,
        };
        Ok(Response::new(wire::IdentifyResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            task_id: self.intent.task_id.clone(),
            boot_id: self.intent.boot_id.to_string(),
            state: state.into(),
            nonce: self.intent.nonce.clone(),
            pid: std::process::id().cast_signed(),
            main: snapshot.main.as_ref().map(identity),
            committed: snapshot.committed,
            wants_environment: snapshot.wants_environment,
            frozen: snapshot.frozen,
            sessions: self.sessions.count(),
            dropped_bytes: crate::overflow::dropped_bytes(),
            protocol: protocol::SPOKEN,
            oldest_protocol: protocol::OLDEST,
        }))
    }

    async fn launch(&self, request: Request<wire::LaunchRequest>) -> Answer<wire::LaunchResponse> {
        let wire::LaunchRequest {
            task,
            protocol,
            oldest_protocol,
        } = request.into_inner();
        Versions::OWN
            .meet(Versions::told(protocol, oldest_protocol))
            .map_err(|reason| Status::failed_precondition(format!("who launches does not fit: {reason}")))?;
        let spec = task.ok_or_else(|| Status::invalid_argument("a launch without a task"))?;
        if spec.task_id != self.intent.task_id {
            let message = format!(
                "this executor is for task {:?}, not {:?}",
                self.intent.task_id, spec.task_id
            );
            return Err(Status::invalid_argument(message));
        }
        let started = self.ask(|reply| Command::Launch(Box::new(spec), reply)).await?;
        let started = started.map_err(|refusal| launch_refused(&refusal))?;
        Ok(Response::new(wire::LaunchResponse {
            main: Some(identity(&started.main)),
            init: Some(identity(&started.init)),
            started_at_ms: started.started_at_ms,
            warnings: started.warnings,
        }))
    }

    async fn commit(&self, request: Request<wire::CommitRequest>) -> Answer<wire::CommitResponse> {
        let caller = server::caller(&request);
        match self.ask(|reply| Command::Commit(caller, reply)).await {
            Ok(committed) => committed.map_err(refused)?,
            // A short task may be over before its launcher commits it: with its result on disk nothing is left to answer for.
            Err(status) => {
                let is_over = matches!(self.snapshot.borrow().phase, Phase::Over(_));
                if !is_over {
                    return Err(status);
                }
            }
        }
        Ok(Response::new(wire::CommitResponse {}))
    }

    async fn attend(&self, request: Request<wire::AttendRequest>) -> Answer<wire::AttendResponse> {
        let caller = server::caller(&request).ok_or_else(|| Status::failed_precondition("the caller is not known"))?;
        let wire::AttendRequest { attends } = request.into_inner();
        self.ask(|reply| Command::Attend(caller, attends, reply))
            .await?
            .map_err(refused)?;
        Ok(Response::new(wire::AttendResponse {}))
    }

    async fn equip(&self, request: Request<wire::EquipRequest>) -> Answer<wire::EquipResponse> {
        let wire::EquipRequest { env } = request.into_inner();
        self.ask(|reply| Command::Equip(env, reply)).await?.map_err(refused)?;
        Ok(Response::new(wire::EquipResponse {}))
    }

    async fn wait(&self, _: Request<wire::WaitRequest>) -> Answer<wire::WaitResponse> {
        let result = self.over().await?;
        Ok(Response::new(wire::WaitResponse {
            result: Some(result_message(&result)),
        }))
    }

    async fn stop(&self, request: Request<wire::StopRequest>) -> Answer<wire::StopResponse> {
        let wire::StopRequest { signal, grace_ms } = request.into_inner();
        let signal = if signal == 0 { libc::SIGINT } else { signal };
        if !holdfast_sys::signal::is_valid(signal) {
            return Err(refused(Refusal::NoSignal(signal)));
        }
        let stop = Stop {
            signal,
            grace: bounded(grace_ms),
        };
        // No answer: it was over before the command came to the supervisor.
        if let Ok(stopped) = self.ask(|reply| Command::Stop(stop, reply)).await {
            stopped.map_err(refused)?;
        }
        Ok(Response::new(wire::StopResponse {}))
    }

    async fn signal(&self, request: Request<wire::SignalRequest>) -> Answer<wire::SignalResponse> {
        let message = request.into_inner();
        let target = message.target.map(|_| kill_target_of(message.target()));
        self.ask(|reply| Command::Signal(message.signal, target, reply))
            .await?
            .map_err(refused)?;
        Ok(Response::new(wire::SignalResponse {}))
    }

    async fn freeze(&self, request: Request<wire::FreezeRequest>) -> Answer<wire::FreezeResponse> {
        let wire::FreezeRequest { frozen } = request.into_inner();
        self.ask(|reply| Command::Freeze(frozen, reply))
            .await?
            .map_err(refused)?;
        Ok(Response::new(wire::FreezeResponse {}))
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<wire::UpdateResponse> {
        let limits = limits_of(request.into_inner().limits.unwrap_or_default());
        let warnings = self
            .ask(|reply| Command::Update(Box::new(limits), reply))
            .await?
            .map_err(refused)?;
        Ok(Response::new(wire::UpdateResponse { warnings }))
    }

    async fn exec(&self, request: Request<wire::ExecRequest>) -> Answer<wire::ExecResponse> {
        let wire::ExecRequest { command, timeout_ms } = request.into_inner();
        let context = self.context().await?;
        let timeout = (timeout_ms > 0).then(|| bounded(timeout_ms));
        let ran = session::run(&context, &self.children, &self.sessions, &command, timeout).await;
        ran.map(Response::new).map_err(|e| e.status())
    }

    type ExecStreamStream = Pin<Box<dyn Stream<Item = Result<wire::ExecOutput, Status>> + Send>>;

    async fn exec_stream(&self, request: Request<Streaming<wire::ExecInput>>) -> Answer<Self::ExecStreamStream> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?;
        let Some(wire::exec_input::Message::Setup(setup)) = first.and_then(|input| input.message) else {
            return Err(Status::invalid_argument(
                "the first message of a session must be its setup",
            ));
        };
        let wire::ExecSetup { command, tty } = setup;
        if command.is_empty() {
            return Err(SessionError::NoCommand.status());
        }
        let context = self.context().await?;
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let (children, sessions) = (self.children.clone(), self.sessions.clone());
        tokio::spawn(session::stream(
            context, children, sessions, command, tty, inbound, outbound,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// A century: any duration up to it can be added to a clock without overflow.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn bounded(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::Code;

    use super::*;
    use crate::launch::LaunchError;

    /// By which the driver tells a failure that may pass from one that does not (contract, S-2).
    #[test]
    fn each_class_of_a_failed_launch_is_told_by_its_code_s2() {
        let step = |errno| LaunchError::Step {
            explanation: "exec /x".into(),
            errno,
        };
        let prepare = |errno| LaunchError::Prepare {
            what: "cloning the init".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        for errno in [
            libc::ENOMEM,
            libc::EAGAIN,
            libc::EBUSY,
            libc::ETXTBSY,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            for failed in [step(errno), prepare(errno)] {
                let told = launch_refused(&failed.into());
                assert_eq!(told.code(), Code::ResourceExhausted, "{}", told.message());
            }
        }
        for errno in [
            libc::ENOENT,
            libc::EACCES,
            libc::ENOEXEC,
            libc::EPERM,
            libc::EINVAL,
            libc::ENOTDIR,
            libc::ELOOP,
        ] {
            for failed in [step(errno), prepare(errno)] {
                let told = launch_refused(&failed.into());
                assert_eq!(told.code(), Code::FailedPrecondition, "{}", told.message());
            }
        }
        let code = |refusal: LaunchRefusal| launch_refused(&refusal).code();
        assert_eq!(
            code(LaunchError::Init("was killed".into()).into()),
            Code::ResourceExhausted
        );
        assert_eq!(code(LaunchError::Limits("x".into()).into()), Code::FailedPrecondition);
        assert_eq!(code(LaunchRefusal::Again), Code::FailedPrecondition);
    }
}
