//! The service: each call becomes one of the executor's own.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use holdfast_record::{Status as TaskStatus, SupervisionDir, TaskResult};
use holdfast_wire::nomad_driver::{
    ExecTaskStreamingRequest, ExecTaskStreamingResponse, exec_task_streaming_request::Setup,
};
use holdfast_wire::nomad_executor::executor_server::Executor;
use holdfast_wire::nomad_executor::{
    ExecRequest, ExecResponse, LaunchRequest, LaunchResponse, ProcessState, ShutdownRequest, ShutdownResponse,
    SignalRequest, SignalResponse, StatsRequest, StatsResponse, UpdateResourcesRequest, UpdateResourcesResponse,
    VersionRequest, VersionResponse, WaitRequest, WaitResponse,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::launch::Rules;
use super::stats::{DEFAULT_INTERVAL, Meter};
use super::{launch, session};
use crate::service::Service;
use crate::session::SessionError;
use crate::supervisor::{Command, Phase, Refusal, Snapshot, Stop};

/// What Nomad's executor calls itself since 0.9; its client asks before anything else.
const VERSION: &str = "2.0.0";

/// A session's messages wait here while the client is slow; then the session does.
const OUTBOUND: usize = 8;

/// Nomad's service for one task.
#[derive(Debug)]
pub struct NomadExecutor {
    service: Service,
    dir: SupervisionDir,
    rules: Rules,
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Nomad takes Unavailable and Canceled for the executor's death (contract, I-3); neither is ever said.
fn failed(reason: impl std::fmt::Display) -> Status {
    Status::unknown(reason.to_string())
}

fn not_run() -> Status {
    // The built-in's text.
    failed("Task not yet run")
}

impl NomadExecutor {
    /// Speaks for the task of `service`, whose records are in `dir`.
    pub fn new(service: Service, dir: SupervisionDir, rules: Rules) -> Self {
        Self { service, dir, rules }
    }

    fn snapshot(&self) -> Snapshot {
        self.service.snapshot.borrow().clone()
    }

    fn main(&self) -> Result<i32, Status> {
        self.snapshot().main.map(|main| main.pid).ok_or_else(not_run)
    }
}

#[tonic::async_trait]
impl Executor for NomadExecutor {
    async fn launch(&self, request: Request<LaunchRequest>) -> Answer<LaunchResponse> {
        if self.snapshot().phase != Phase::Idle {
            return Err(failed("this executor has launched its task already"));
        }
        let spec = launch::task_of(request.into_inner(), &self.service.intent.task_id, self.rules).map_err(failed)?;
        let launched = self
            .service
            .ask(|reply| Command::Launch(Box::new(spec), reply))
            .await
            .map_err(|_| failed("an earlier launch failed, and an executor is for one task"))?;
        let started = launched.map_err(failed)?;
        // Whoever launched it here answers for it. One that is over by now was started all the same.
        let _ = self.service.ask(|reply| Command::Commit(None, reply)).await;
        Ok(Response::new(LaunchResponse {
            process: Some(ProcessState {
                pid: started.main.pid,
                exit_code: -1,
                signal: 0,
                time: Some(time_of(started.started_at_ms)),
                oom_killed: false,
            }),
        }))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Answer<WaitResponse> {
        let result = self.service.over().await.map_err(|status| failed(status.message()))?;
        let process = process_state(&result, self.main()?).map_err(failed)?;
        Ok(Response::new(WaitResponse { process: Some(process) }))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        let ShutdownRequest { signal, grace_period } = request.into_inner();
        // Without a task there is nothing to do, and its launch may still come.
        if self.snapshot().phase == Phase::Idle {
            return Ok(Response::new(ShutdownResponse {}));
        }
        let stop = stop_of(&signal, grace_period).map_err(failed)?;
        // No answer: it was over before the command came.
        if let Ok(stopped) = self.service.ask(|reply| Command::Stop(stop, reply)).await {
            stopped.map_err(failed)?;
        }
        Ok(Response::new(ShutdownResponse {}))
    }

    /// A no-op in the built-in; the interface promises more. A task without cgroups of its own has no limits to change.
    async fn update_resources(&self, request: Request<UpdateResourcesRequest>) -> Answer<UpdateResourcesResponse> {
        self.main()?;
        let Some(resources) = request.into_inner().resources else {
            return Ok(Response::new(UpdateResourcesResponse {}));
        };
        let limits = launch::limits_of(&resources);
        let updated = self
            .service
            .ask(|reply| Command::Update(Box::new(limits), reply))
            .await
            .map_err(|status| failed(status.message()))?;
        match updated {
            Ok(warnings) if warnings.is_empty() => {}
            Ok(warnings) => return Err(failed(warnings.join("; "))),
            Err(Refusal::NoCgroup(_)) => {}
            Err(refusal) => return Err(failed(refusal)),
        }
        Ok(Response::new(UpdateResourcesResponse {}))
    }

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: VERSION.to_owned(),
        }))
    }

    type StatsStream = Messages<StatsResponse>;

    async fn stats(&self, request: Request<StatsRequest>) -> Answer<Self::StatsStream> {
        let interval = match u64::try_from(request.into_inner().interval) {
            Ok(nanoseconds @ 1..) => Duration::from_nanos(nanoseconds),
            Ok(0) | Err(_) => DEFAULT_INTERVAL,
        };
        let main = self.main()?;
        let record = self.dir.record().map_err(failed)?.ok_or_else(not_run)?;
        let mut meter = Meter::new(record.task_id, main, &record.plan.placement);
        let mut snapshot = self.service.snapshot.clone();
        let (samples, messages) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    _ = snapshot.wait_for(|snapshot| matches!(snapshot.phase, Phase::Draining | Phase::Over(_))) => return,
                    () = samples.closed() => return,
                    _ = ticks.tick() => {}
                }
                let Some(stats) = meter.measure(Instant::now()) else {
                    return;
                };
                let response = StatsResponse { stats: Some(stats) };
                if samples.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Answer<SignalResponse> {
        let SignalRequest { signal } = request.into_inner();
        self.main()?;
        self.service
            .ask(|reply| Command::Signal(signal, None, reply))
            .await
            .map_err(|status| failed(status.message()))?
            .map_err(failed)?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ExecRequest { deadline, cmd, args } = request.into_inner();
        let deadline = deadline.ok_or_else(|| failed("an exec without a deadline"))?;
        self.main()?;
        let context = self
            .service
            .context()
            .await
            .map_err(|status| failed(status.message()))?;
        // A time that cannot be represented lies far from now, on one side or the other.
        let far_future = deadline.seconds > 0;
        let timeout = match SystemTime::try_from(deadline) {
            Ok(deadline) => deadline.duration_since(SystemTime::now()).ok(),
            Err(_) => far_future.then_some(Duration::MAX),
        };
        let timeout = timeout.ok_or_else(|| failed("context deadline exceeded"))?;
        let command: Vec<String> = std::iter::once(cmd).chain(args).collect();
        let ran = crate::session::run(
            &context,
            &self.service.children,
            &self.service.sessions,
            &command,
            Some(timeout.min(crate::service::LONGEST)),
        );
        let ran = ran.await.map_err(failed)?;
        Ok(Response::new(ExecResponse {
            output: ran.output,
            exit_code: ran.exit.map_or(-1, |exit| session::exit_result(exit).exit_code),
        }))
    }

    type ExecStreamingStream = Messages<ExecTaskStreamingResponse>;

    async fn exec_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Answer<Self::ExecStreamingStream> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await
            .map_err(|status| failed(format!("failed to receive initial message: {}", status.message())))?;
        let Some(Setup {
            task_id: _,
            command,
            tty,
        }) = first.and_then(|request| request.setup)
        else {
            return Err(failed("first message should always be setup"));
        };
        if command.is_empty() {
            return Err(failed(SessionError::NoCommand));
        }
        self.main()?;
        let context = self
            .service
            .context()
            .await
            .map_err(|status| failed(status.message()))?;
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        tokio::spawn(crate::session::stream(
            context,
            self.service.children.clone(),
            self.service.sessions.clone(),
            command,
            tty,
            session::inputs(requests),
            outbound,
        ));
        let messages = session::outputs(ReceiverStream::new(messages));
        Ok(Response::new(Box::pin(messages)))
    }
}

/// The built-in looks at the signal only if it is going to be sent.
fn stop_of(signal: &str, grace_ns: i64) -> Result<Stop, String> {
    let grace = Duration::from_nanos(u64::try_from(grace_ns).unwrap_or(0));
    if grace.is_zero() {
        return Ok(Stop {
            signal: libc::SIGKILL,
            grace,
        });
    }
    let name = if signal.is_empty() { "SIGINT" } else { signal };
    let signal = holdfast_sys::signal::number(name)
        .ok_or_else(|| format!("error unknown signal given for shutdown: {signal}"))?;
    Ok(Stop { signal, grace })
}

/// 128 + n after a signal (contract, W-4). What is not known is an error: the client has no field for it but success must not be
/// read from it (W-2).
fn process_state(result: &TaskResult, pid: i32) -> Result<ProcessState, String> {
    let (exit_code, signal) = match &result.status {
        TaskStatus::Exited(code) => (*code, 0),
        TaskStatus::Signalled(signal) => (128 + signal, *signal),
        TaskStatus::Unknown(reason) | TaskStatus::NotStarted(reason) => return Err(reason.clone()),
    };
    Ok(ProcessState {
        pid,
        exit_code,
        signal,
        time: Some(time_of(result.finished_at_ms)),
        oom_killed: result.oom_killed,
    })
}

fn time_of(milliseconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: milliseconds.div_euclid(1000),
        // Less than a thousand times a million.
        nanos: i32::try_from(milliseconds.rem_euclid(1000) * 1_000_000).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_signal_is_refused_only_if_it_would_be_sent_k1() {
        assert_eq!(
            stop_of("SIGNONSENSE", 1).unwrap_err(),
            "error unknown signal given for shutdown: SIGNONSENSE"
        );
        assert!(stop_of("SIGNONSENSE", 0).unwrap().grace.is_zero());
        assert!(stop_of("", -5).unwrap().grace.is_zero());
        let stop = stop_of("", 5_000_000_000).unwrap();
        assert_eq!((stop.signal, stop.grace), (libc::SIGINT, Duration::from_secs(5)));
    }

    #[test]
    fn a_signalled_task_says_128_and_the_number_and_the_unknown_is_an_error_w2_w4() {
        let of = |status| process_state(&TaskResult::new(status, true, 0, 1_500), 7);
        let state = of(TaskStatus::Signalled(9)).unwrap();
        assert_eq!(
            (state.pid, state.exit_code, state.signal, state.oom_killed),
            (7, 137, 9, true)
        );
        assert_eq!(
            state.time.unwrap(),
            prost_types::Timestamp {
                seconds: 1,
                nanos: 500_000_000
            }
        );
        assert_eq!(of(TaskStatus::Exited(3)).unwrap().exit_code, 3);
        assert_eq!(of(TaskStatus::Unknown("why".into())).unwrap_err(), "why");
    }
}
