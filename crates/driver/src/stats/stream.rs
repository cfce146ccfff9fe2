//! The stream of one TaskStats call.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use holdfast_record::SupervisionDir;
use holdfast_wire::nomad_driver::TaskStatsResponse;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::compute::Compute;
use super::processes::Members;
use super::sources::Sources;
use super::usage::Meter;
use crate::table::{Facts, Phase};

/// What an interval of 0 means (contract, T-1).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Samples at once and then at each interval, until the task ends or the reader goes away. Files are open that long. All streams
/// of an interval wake up together: a thousand wake-ups one by one cost more than what they read.
pub fn stream(
    sources: &Sources,
    facts: &Facts,
    mut phase: watch::Receiver<Phase>,
    compute: Compute,
    interval: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> ReceiverStream<Result<TaskStatsResponse, Status>> {
    let interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
    let mut meter = meter(sources, facts, compute);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::pin!(shutdown);
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
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
            next = tokio::time::Instant::now() + until_common_tick(epoch().elapsed(), interval);
        }
    });
    ReceiverStream::new(receiver)
}

/// When the common ticks of all streams began.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// How long until the first multiple of `interval` that is at least half an interval away.
fn until_common_tick(since_epoch: Duration, interval: Duration) -> Duration {
    let nanoseconds = interval.as_nanos();
    let phase = u64::try_from(since_epoch.as_nanos() % nanoseconds).unwrap_or(0);
    let left = interval.saturating_sub(Duration::from_nanos(phase));
    if left * 2 < interval { left + interval } else { left }
}

/// The record says which cgroups are the task's. Without one, or without cgroups of its own, its processes are counted.
fn meter(sources: &Sources, facts: &Facts, compute: Compute) -> Meter {
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
        _ => Members::Tree(facts.main.pid),
    };
    let source = placement
        .join
        .first()
        .filter(|_| !placement.foreign)
        .and_then(|dir| holdfast_cgroup::version_of(dir))
        .and_then(|version| sources.of(&facts.dir, version, placement.join));
    Meter::new(facts.name.id.clone(), compute, source, members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_an_interval_meet_at_common_ticks_t1() {
        let ms = Duration::from_millis;
        for (now, interval, expected) in [
            (0, 1000, 1000),
            (300, 1000, 700),
            (500, 1000, 500),
            // Too close to the sample before.
            (900, 1000, 1100),
            (2999, 1000, 1001),
            (1030, 100, 70),
            (7_000, 5_000, 3_000),
        ] {
            let left = until_common_tick(ms(now), ms(interval));
            assert_eq!(left, ms(expected), "{now}");
            assert!((ms(now) + left).as_millis().is_multiple_of(u128::from(interval)));
        }
        let shortest = Duration::from_nanos(1);
        assert_eq!(until_common_tick(ms(1), shortest), shortest);
    }
}
