//! The stream of one TaskStats call.

use std::time::{Duration, Instant};

use holdfast_cgroup::Sampler;
use holdfast_record::SupervisionDir;
use holdfast_wire::nomad_driver::TaskStatsResponse;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::percent::Compute;
use super::processes::Members;
use super::usage::Meter;
use crate::table::{Facts, Phase};

/// What an interval of 0 means (contract, T-1).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Samples at once and then at each interval, until the task ends or the reader goes away. Files are open that long.
pub fn stream(
    facts: &Facts,
    mut phase: watch::Receiver<Phase>,
    compute: Compute,
    interval: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> ReceiverStream<Result<TaskStatsResponse, Status>> {
    let interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
    let mut meter = meter(facts, compute);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::pin!(shutdown);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = phase.wait_for(|phase| !matches!(phase, Phase::Running(_))) => break,
                () = sender.closed() => break,
                () = &mut shutdown => break,
            }
            let Some(stats) = meter.measure(Instant::now()) else {
                break;
            };
            if sender.send(Ok(TaskStatsResponse { stats: Some(stats) })).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// The record says which cgroups are the task's. Without one, or without cgroups of its own, its processes are counted.
fn meter(facts: &Facts, compute: Compute) -> Meter {
    let placement = SupervisionDir::open(&facts.dir)
        .and_then(|dir| dir.record())
        .unwrap_or_else(|e| {
            tracing::warn!(task_id = facts.name.id, error = %e, "cannot tell the task's cgroups");
            None
        })
        .map(|record| record.plan.placement)
        .unwrap_or_default();
    let members = match &placement.scope {
        Some(scope) if !placement.foreign => Members::Cgroup(scope.clone()),
        _ => Members::Tree(facts.main_pid),
    };
    let sampler = holdfast_cgroup::version()
        .filter(|_| !placement.foreign && !placement.join.is_empty())
        .map(|version| Sampler::open(version, &placement.join));
    Meter::new(facts.name.id.clone(), compute, sampler, members)
}
