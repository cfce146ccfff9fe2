//! The driver service: what the agent may ask of tasks.

use std::sync::Arc;
use std::time::Duration;

use holdfast_executor::client::Peer;
use holdfast_executor::nomad::session::exit_result;
use holdfast_wire::executor_v1::{ExecRequest, ExecSetup, FreezeRequest, SignalRequest};
use holdfast_wire::nomad_driver::driver_server::Driver as DriverRpc;
use holdfast_wire::nomad_driver::{
    CapabilitiesRequest, CapabilitiesResponse, CreateNetworkRequest, CreateNetworkResponse, DestroyNetworkRequest,
    DestroyNetworkResponse, DestroyTaskRequest, DestroyTaskResponse, DriverTaskEvent, ExecTaskRequest,
    ExecTaskResponse, ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult, FingerprintRequest,
    FingerprintResponse, InspectTaskRequest, InspectTaskResponse, RecoverTaskRequest, RecoverTaskResponse,
    SignalTaskRequest, SignalTaskResponse, StartTaskRequest, StartTaskResponse, StopTaskRequest, StopTaskResponse,
    TaskConfigSchemaRequest, TaskConfigSchemaResponse, TaskDriverStatus, TaskEventsRequest, TaskState,
    TaskStatsRequest, TaskStatsResponse, TaskStatus, WaitTaskRequest, WaitTaskResponse, start_task_response,
};
use prost_types::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{capabilities, session};
use crate::driver::Driver;
use crate::end::{self, Stop};
use crate::failure::{Failure, with_recoverable};
use crate::options::spec;
use crate::options::table::Place;
use crate::table::{Facts, Outcome, Phase};
use crate::{fingerprint, network, owner, recover, start, stats};

/// The service.
#[derive(Debug)]
pub struct DriverService(pub Arc<Driver>);

type Reply<T> = Result<Response<T>, Status>;

impl DriverService {
    /// A task that runs, and how to follow it.
    async fn running(&self, id: &str) -> Result<(Arc<Facts>, watch::Receiver<Phase>), Failure> {
        let phase = self.0.tasks.follow(id).await.ok_or(Failure::TaskNotFound)?;
        let now = phase.borrow().clone();
        match now {
            Phase::Running(facts) => Ok((facts, phase)),
            Phase::Over(..) => Err(Failure::Final(format!("task {id:?} has ended"))),
            Phase::Starting | Phase::Gone => Err(Failure::TaskNotFound),
        }
    }

    /// A connection to the executor of a task that runs.
    async fn executor(&self, id: &str) -> Result<Peer, Failure> {
        let (facts, phase) = self.running(id).await?;
        end::reach(&facts, &phase)
            .await?
            .ok_or_else(|| Failure::Final(format!("task {id:?} has ended")))
    }
}

/// Lets work go on that must not stop half-way when the agent gives up a call.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(done) => done.map_err(Status::from),
        Err(e) => Err(Failure::Final(format!("the driver could not finish: {e}")).into()),
    }
}

#[tonic::async_trait]
impl DriverRpc for DriverService {
    async fn task_config_schema(&self, _: Request<TaskConfigSchemaRequest>) -> Reply<TaskConfigSchemaResponse> {
        Ok(Response::new(TaskConfigSchemaResponse {
            spec: Some(spec::of(Place::Task, self.0.name())),
        }))
    }

    async fn capabilities(&self, _: Request<CapabilitiesRequest>) -> Reply<CapabilitiesResponse> {
        let capabilities = capabilities::of(self.0.name().profile(), self.0.settings().options.announced);
        Ok(Response::new(CapabilitiesResponse {
            capabilities: Some(capabilities),
        }))
    }

    type FingerprintStream = ReceiverStream<Result<FingerprintResponse, Status>>;

    async fn fingerprint(&self, _: Request<FingerprintRequest>) -> Reply<Self::FingerprintStream> {
        Ok(Response::new(fingerprint::stream(self.0.clone())))
    }

    async fn recover_task(&self, request: Request<RecoverTaskRequest>) -> Reply<RecoverTaskResponse> {
        let RecoverTaskRequest { task_id, handle } = request.into_inner();
        let driver = self.0.clone();
        to_the_end(async move { recover::recover(&driver, handle, &task_id).await }).await?;
        Ok(Response::new(RecoverTaskResponse {}))
    }

    async fn start_task(&self, request: Request<StartTaskRequest>) -> Reply<StartTaskResponse> {
        let StartTaskRequest { task } = request.into_inner();
        let task = task.ok_or_else(|| Failure::last("task config cannot be nil"))?;
        let network_override = network::network_override(&self.0, task.network_isolation_spec.as_ref());
        let (reply, answer) = oneshot::channel();
        let driver = self.0.clone();
        tokio::spawn(async move {
            let id = task.id.clone();
            let started = start::start(&driver, task, || !reply.is_closed()).await;
            if let Err(Ok(_)) = reply.send(started) {
                // Nobody will ever ask for a task whose handle nobody got.
                tracing::warn!(task_id = id, "the caller has gone away; the task is ended");
                if let Err(e) = end::destroy(&driver, &id, true).await {
                    tracing::error!(task_id = id, error = %e, "cannot end a task that nobody knows of");
                }
            }
        });
        let handle = answer
            .await
            .map_err(|_| Failure::last("the driver could not finish the start"))??;
        // The agent reads the status, the handle and the override only (contract, S-1).
        Ok(Response::new(StartTaskResponse {
            result: start_task_response::Result::Success as i32,
            driver_error_msg: String::new(),
            handle: Some(handle),
            network_override,
        }))
    }

    async fn wait_task(&self, request: Request<WaitTaskRequest>) -> Reply<WaitTaskResponse> {
        let id = request.into_inner().task_id;
        let mut phase = self.0.tasks.follow(&id).await.ok_or(Failure::TaskNotFound)?;
        let outcome = tokio::select! {
            outcome = owner::ended(&mut phase) => outcome.ok_or(Failure::TaskNotFound)?,
            // The one time when the agent shall think that the plugin is gone: it asks the next one (contract, R-5).
            () = self.0.shutdown.begun() => return Err(Status::unavailable("the driver is shutting down")),
        };
        let Outcome {
            exit_code,
            signal,
            oom_killed,
            timed_out: _,
            error,
            finished_at_ms: _,
        } = outcome;
        Ok(Response::new(WaitTaskResponse {
            result: Some(ExitResult {
                exit_code,
                signal,
                oom_killed,
            }),
            err: error.unwrap_or_default(),
        }))
    }

    async fn stop_task(&self, request: Request<StopTaskRequest>) -> Reply<StopTaskResponse> {
        let StopTaskRequest {
            task_id,
            timeout,
            signal,
        } = request.into_inner();
        let stop = Stop::parse(&signal, duration(timeout))?;
        let driver = self.0.clone();
        to_the_end(async move {
            // Unknown to this driver and ended are both fine (contract, K-3).
            let Some(mut phase) = driver.tasks.follow(&task_id).await else {
                return Ok(());
            };
            let _ = phase.wait_for(|phase| *phase != Phase::Starting).await;
            let now = phase.borrow().clone();
            match now {
                Phase::Running(facts) => end::stop(&facts, phase, stop).await,
                Phase::Starting | Phase::Over(..) | Phase::Gone => Ok(()),
            }
        })
        .await?;
        Ok(Response::new(StopTaskResponse {}))
    }

    async fn destroy_task(&self, request: Request<DestroyTaskRequest>) -> Reply<DestroyTaskResponse> {
        let DestroyTaskRequest { task_id, force } = request.into_inner();
        let driver = self.0.clone();
        to_the_end(async move { end::destroy(&driver, &task_id, force).await }).await?;
        Ok(Response::new(DestroyTaskResponse {}))
    }

    async fn inspect_task(&self, request: Request<InspectTaskRequest>) -> Reply<InspectTaskResponse> {
        let id = request.into_inner().task_id;
        let (facts, state, outcome) = match self.0.tasks.phase(&id).await {
            Some(Phase::Running(facts)) => (facts, TaskState::Running, None),
            Some(Phase::Over(facts, outcome)) if outcome.error.is_some() => (facts, TaskState::Unknown, Some(outcome)),
            Some(Phase::Over(facts, outcome)) => (facts, TaskState::Exited, Some(outcome)),
            Some(Phase::Starting | Phase::Gone) | None => return Err(Failure::TaskNotFound.into()),
        };
        Ok(Response::new(inspection(&facts, state, outcome)))
    }

    type TaskStatsStream = ReceiverStream<Result<TaskStatsResponse, Status>>;

    async fn task_stats(&self, request: Request<TaskStatsRequest>) -> Reply<Self::TaskStatsStream> {
        let TaskStatsRequest {
            task_id,
            collection_interval,
        } = request.into_inner();
        match self.running(&task_id).await {
            Ok((facts, phase)) => {
                let compute = self.0.settings().compute;
                let interval = duration(collection_interval);
                Ok(Response::new(stats::stream(
                    &self.0.samples,
                    &facts,
                    phase,
                    compute,
                    interval,
                    self.0.shutdown.begun(),
                )))
            }
            // Without the detail the agent would ask again for ever (contract, T-2).
            Err(failure) => Err(with_recoverable(failure.to_string(), false)),
        }
    }

    type TaskEventsStream = ReceiverStream<Result<DriverTaskEvent, Status>>;

    async fn task_events(&self, _: Request<TaskEventsRequest>) -> Reply<Self::TaskEventsStream> {
        let mut events = self.0.events.listen();
        let shutdown = self.0.shutdown.begun();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let forward = async {
                while let Some(event) = events.next().await {
                    if sender.send(Ok(event)).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = forward => {}
                () = sender.closed() => {}
                () = shutdown => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn signal_task(&self, request: Request<SignalTaskRequest>) -> Reply<SignalTaskResponse> {
        let SignalTaskRequest { task_id, signal } = request.into_inner();
        let (facts, phase) = self.running(&task_id).await?;
        let asked = Asked::parse(&signal).unwrap_or_else(|| {
            tracing::warn!(task_id, signal, "unknown signal to send to task, using SIGINT instead");
            Asked::INTERRUPT
        });
        let peer = end::reach(&facts, &phase).await?;
        let Some(Peer { mut executor, .. }) = peer else {
            return Err(Failure::Final(format!("task {task_id:?} has ended")).into());
        };
        let done = match asked {
            // Whom it reaches is the task's own `kill_target`.
            Asked::Signal(signal) => executor.signal(SignalRequest { signal, target: None }).await.map(drop),
            Asked::Frozen(frozen) => executor.freeze(FreezeRequest { frozen }).await.map(drop),
        };
        done.map_err(|status| session::ordinary(&status))?;
        Ok(Response::new(SignalTaskResponse {}))
    }

    async fn exec_task(&self, request: Request<ExecTaskRequest>) -> Reply<ExecTaskResponse> {
        let ExecTaskRequest {
            task_id,
            command,
            timeout,
        } = request.into_inner();
        require_command(&command)?;
        let Peer { mut executor, .. } = self.executor(&task_id).await?;
        let timeout_ms = end::whole_milliseconds(duration(timeout));
        let answer = executor
            .exec(ExecRequest { command, timeout_ms })
            .await
            .map_err(|status| session::ordinary(&status))?
            .into_inner();
        // Absent, the result would end the agent (contract, X-1).
        let result = exit_result(answer.exit.unwrap_or_default());
        Ok(Response::new(ExecTaskResponse {
            stdout: answer.output,
            stderr: Vec::new(),
            result: Some(result),
        }))
    }

    type ExecTaskStreamingStream = ReceiverStream<Result<ExecTaskStreamingResponse, Status>>;

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Reply<Self::ExecTaskStreamingStream> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await
            .map_err(|status| Failure::Final(format!("failed to receive initial message: {}", status.message())))?;
        let setup = first
            .and_then(|message| message.setup)
            .ok_or_else(|| Failure::last("first message should always be setup"))?;
        require_command(&setup.command)?;
        let peer = self.executor(&setup.task_id).await?;
        let setup = ExecSetup {
            command: setup.command,
            tty: setup.tty,
        };
        Ok(Response::new(session::forward(peer, setup, requests)))
    }

    async fn create_network(&self, request: Request<CreateNetworkRequest>) -> Reply<CreateNetworkResponse> {
        let (driver, request) = (self.0.clone(), request.into_inner());
        let created = to_the_end(async move { network::create(&driver, request).await }).await?;
        Ok(Response::new(created))
    }

    async fn destroy_network(&self, request: Request<DestroyNetworkRequest>) -> Reply<DestroyNetworkResponse> {
        let (driver, request) = (self.0.clone(), request.into_inner());
        to_the_end(async move { network::destroy(&driver, request).await }).await?;
        Ok(Response::new(DestroyNetworkResponse {}))
    }
}

/// What SignalTask asks for. The agent passes any text on, and no other call of its reaches a task's freezer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Number.
    Signal(i32),
    /// `FREEZE` or `THAW`.
    Frozen(bool),
}

impl Asked {
    /// What a misspelt `change_signal` means (contract, K-4).
    const INTERRUPT: Asked = Asked::Signal(2);

    fn parse(name: &str) -> Option<Asked> {
        match name {
            "FREEZE" => Some(Asked::Frozen(true)),
            "THAW" => Some(Asked::Frozen(false)),
            name => holdfast_sys::signal::number(name).map(Asked::Signal),
        }
    }
}

fn require_command(command: &[String]) -> Result<(), Failure> {
    if command.is_empty() {
        return Err(Failure::last("error cmd must have at least one value"));
    }
    Ok(())
}

/// An absent or negative duration is none.
fn duration(message: Option<prost_types::Duration>) -> Duration {
    message
        .and_then(|message| Duration::try_from(message).ok())
        .unwrap_or_default()
}

/// All fields are there in every phase, or the agent's client ends (contract, I-2).
fn inspection(facts: &Facts, state: TaskState, outcome: Option<Outcome>) -> InspectTaskResponse {
    // What Go's zero time is on the wire: the agent sees a task that is not completed.
    const ZERO_TIME: Timestamp = Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    };
    let completed_at = outcome
        .as_ref()
        .map_or(ZERO_TIME, |outcome| timestamp(outcome.finished_at_ms));
    let result = match outcome {
        Some(Outcome {
            exit_code,
            signal,
            oom_killed,
            ..
        }) => ExitResult {
            exit_code,
            signal,
            oom_killed,
        },
        None => ExitResult::default(),
    };
    InspectTaskResponse {
        task: Some(TaskStatus {
            id: facts.name.id.clone(),
            name: facts.name.task_name.clone(),
            state: state as i32,
            started_at: Some(timestamp(facts.started_at_ms)),
            completed_at: Some(completed_at),
            result: Some(result),
        }),
        driver: Some(TaskDriverStatus {
            attributes: [("pid".to_owned(), facts.main.pid.to_string())].into(),
        }),
        network_override: None,
    }
}

/// From Unix milliseconds.
fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    Timestamp {
        seconds: ms.div_euclid(1000),
        nanos,
    }
}

#[cfg(test)]
mod tests;
