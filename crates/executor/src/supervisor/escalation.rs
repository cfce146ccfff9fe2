//! How a stop goes on from step to step: pure data, in the form in which it is recorded.

use std::time::Duration;

use holdfast_record::{KillStep, MaxRuntime, StopRecord, milliseconds};
use holdfast_sys::clock::boottime;

use super::Stop;

/// What is due in a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The next signal.
    Signal(i32),
    /// SIGKILL, to all.
    Kill,
}

/// Somebody asks for a stop at `now` (CLOCK_BOOTTIME); with what is sent first, if anything. One that is under way can only become
/// shorter: a job's sequence goes on where it is, and a signal that was asked for is sent once more.
pub fn request(
    current: Option<&StopRecord>,
    stop: Stop,
    sequence: &[KillStep],
    now: Duration,
) -> (StopRecord, Option<i32>) {
    let mut record = StopRecord::new(stop.signal, now.saturating_add(stop.grace));
    let mut due = Some(stop.signal);
    if let Some((first, later)) = sequence.split_first() {
        record.signal = first.signal;
        record.step_until_boot_ms = Some(step_end(now, first));
        record.later = later.to_vec();
        due = Some(first.signal);
    }
    record.requested = true;
    let Some(current) = current else {
        return (record, due);
    };
    if current.requested && !sequence.is_empty() {
        record = current.clone();
        record.deadline_boot_ms = record
            .deadline_boot_ms
            .min(milliseconds(now.saturating_add(stop.grace)));
        return (record, None);
    }
    record.deadline_boot_ms = record.deadline_boot_ms.min(current.deadline_boot_ms);
    record.timed_out = current.timed_out;
    record.unattended = current.unattended;
    record.executor_lost = current.executor_lost;
    record.killed = current.killed;
    (record, due)
}

/// The task has run as long as it may. A stop that is under way goes on as it is.
pub fn time_out(limit: &MaxRuntime, now: Duration) -> StopRecord {
    let grace = Duration::from_millis(limit.grace_ms);
    StopRecord {
        timed_out: true,
        ..StopRecord::new(limit.signal, now.saturating_add(grace))
    }
}

/// What an agent stops a task with that says nothing of it: its `kill_signal` and its `kill_timeout`.
const USUAL: Stop = Stop {
    signal: libc::SIGINT,
    grace: Duration::from_secs(5),
};

/// Nobody attended to the task for as long as it may be alone: it is stopped as an agent would stop it, and a sequence has all of its
/// time. With what is sent first.
pub fn unattended(sequence: &[KillStep], now: Duration) -> (StopRecord, Option<i32>) {
    let steps = sequence.iter().map(|step| match step.grace_ms {
        // As long as the stop allows.
        u64::MAX => USUAL.grace,
        grace_ms => Duration::from_millis(grace_ms),
    });
    let grace = match sequence {
        [] => USUAL.grace,
        _ => steps.fold(Duration::ZERO, Duration::saturating_add),
    };
    let (record, due) = request(None, Stop { grace, ..USUAL }, sequence, now);
    let record = StopRecord {
        requested: false,
        unattended: true,
        ..record
    };
    (record, due)
}

/// A step is over at `now`: the next one begins, with all of its time, or there is none. SIGKILL as a step is the end of all.
pub fn advance(record: &mut StopRecord, now: Duration) -> Due {
    if now >= record.deadline() || record.later.is_empty() {
        return Due::Kill;
    }
    let step = record.later.remove(0);
    if step.signal == libc::SIGKILL {
        return Due::Kill;
    }
    record.signal = step.signal;
    record.signalled = false;
    record.step_until_boot_ms = Some(step_end(now, &step));
    Due::Signal(step.signal)
}

/// Up to when from now on, for timers; far is far enough.
pub fn instant_of(boot: Duration) -> tokio::time::Instant {
    let left = boot.saturating_sub(boottime()).min(crate::service::LONGEST);
    tokio::time::Instant::now() + left
}

fn step_end(now: Duration, step: &KillStep) -> u64 {
    milliseconds(now).saturating_add(step.grace_ms)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn stop(grace_ms: u64) -> Stop {
        Stop {
            signal: libc::SIGINT,
            grace: Duration::from_millis(grace_ms),
        }
    }

    fn steps(steps: &[(i32, u64)]) -> Vec<KillStep> {
        let step = |(signal, grace_ms): &(i32, u64)| KillStep {
            signal: *signal,
            grace_ms: *grace_ms,
        };
        steps.iter().map(step).collect()
    }

    fn later(milliseconds: u64) -> Duration {
        NOW + Duration::from_millis(milliseconds)
    }

    #[test]
    fn without_a_sequence_the_signal_asked_for_has_all_the_grace() {
        let (mut record, due) = request(None, stop(500), &[], NOW);
        assert_eq!((due, record.due()), (Some(libc::SIGINT), later(500)));
        assert_eq!(advance(&mut record, later(500)), Due::Kill);
    }

    #[test]
    fn a_sequence_goes_from_step_to_step_and_ends_with_a_kill() {
        let sequence = steps(&[(1, 100), (15, 200), (3, 50)]);
        let (mut record, due) = request(None, stop(10_000), &sequence, NOW);
        assert_eq!((due, record.due()), (Some(1), later(100)));
        assert_eq!(advance(&mut record, later(100)), Due::Signal(15));
        assert_eq!(record.due(), later(300));
        assert!(!record.signalled);
        assert_eq!(advance(&mut record, later(300)), Due::Signal(3));
        assert_eq!(advance(&mut record, later(350)), Due::Kill);
    }

    #[test]
    fn the_grace_of_the_stop_bounds_the_sequence() {
        let (mut record, _) = request(None, stop(150), &steps(&[(1, 100), (15, 200)]), NOW);
        assert_eq!(advance(&mut record, later(100)), Due::Signal(15));
        assert_eq!(record.due(), later(150));
        assert_eq!(advance(&mut record, later(150)), Due::Kill);
    }

    #[test]
    fn a_kill_in_a_sequence_is_for_all() {
        let (mut record, _) = request(None, stop(1000), &steps(&[(1, 100), (9, 200), (15, 1)]), NOW);
        assert_eq!(advance(&mut record, later(100)), Due::Kill);
    }

    #[test]
    fn a_second_stop_shortens_and_never_starts_the_sequence_again() {
        let sequence = steps(&[(1, 100), (15, 200)]);
        let (mut first, _) = request(None, stop(10_000), &sequence, NOW);
        advance(&mut first, later(100));
        first.signalled = true;
        let (second, due) = request(Some(&first), stop(50), &sequence, later(100));
        assert_eq!((due, second.due()), (None, later(150)));
        assert_eq!((second.signal, second.signalled), (15, true));
        let (third, _) = request(Some(&second), stop(60_000), &sequence, later(100));
        assert_eq!(third.due(), later(150));
    }

    #[test]
    fn a_stop_while_time_is_up_starts_its_own_steps_and_stays_timed_out() {
        let limit = MaxRuntime {
            limit_ms: 1,
            signal: 15,
            grace_ms: 400,
        };
        let timed_out = time_out(&limit, NOW);
        assert!(timed_out.timed_out && !timed_out.requested);
        let (record, due) = request(Some(&timed_out), stop(10_000), &steps(&[(1, 100)]), NOW);
        assert_eq!((due, record.deadline()), (Some(1), later(400)));
        assert!(record.timed_out && record.requested);
    }

    #[test]
    fn a_task_that_was_left_alone_is_stopped_in_the_ordinary_way() {
        let (mut record, due) = unattended(&[], NOW);
        assert_eq!((due, record.due()), (Some(libc::SIGINT), later(5000)));
        assert!(record.unattended && !record.requested);
        assert_eq!(advance(&mut record, later(5000)), Due::Kill);
        let (mut record, due) = unattended(&steps(&[(1, 100), (15, u64::MAX)]), NOW);
        assert_eq!((due, record.deadline()), (Some(1), later(5100)));
        assert_eq!(advance(&mut record, later(100)), Due::Signal(15));
        assert_eq!(record.due(), later(5100));
        let (asked, _) = request(Some(&record), stop(200), &[], later(100));
        assert!(
            asked.unattended && asked.requested,
            "a stop that is asked for meanwhile knows why it began"
        );
        assert_eq!(asked.due(), later(300));
    }

    #[test]
    fn times_without_end_are_times() {
        let endless = steps(&[(1, u64::MAX), (15, u64::MAX)]);
        let (record, _) = request(
            None,
            Stop {
                signal: 15,
                grace: Duration::MAX,
            },
            &endless,
            NOW,
        );
        assert_eq!(record.due(), Duration::from_millis(u64::MAX));
        instant_of(record.due());
    }
}
