//! Any sequence of stops, with any grace.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// What may happen to a task that runs.
#[derive(Debug, Clone)]
enum Event {
    Stop {
        signal: i32,
        grace_ms: u64,
    },
    TimeOut {
        grace_ms: u64,
    },
    Wait {
        ms: u64,
    },
    /// An executor dies, and another goes on from the record.
    Adopted,
}

fn event() -> impl Strategy<Value = Event> {
    let times = || prop_oneof![0..50_u64, 0..100_000_u64, Just(u64::MAX), any::<u64>()];
    prop_oneof![
        3 => (1..32_i32, times()).prop_map(|(signal, grace_ms)| Event::Stop { signal, grace_ms }),
        1 => times().prop_map(|grace_ms| Event::TimeOut { grace_ms }),
        3 => prop_oneof![0..50_u64, 0..100_000_u64].prop_map(|ms| Event::Wait { ms }),
        1 => Just(Event::Adopted),
    ]
}

fn sequence() -> impl Strategy<Value = Vec<KillStep>> {
    let step = (
        prop_oneof![4 => 1..32_i32, 1 => Just(libc::SIGKILL)],
        prop_oneof![0..100_u64, any::<u64>()],
    )
        .prop_map(|(signal, grace_ms)| KillStep { signal, grace_ms });
    prop::collection::vec(step, 0..5)
}

/// A task's stop as the supervisor drives it: everything that is due at an instant is done before anything else.
#[derive(Debug)]
struct Course {
    now: Duration,
    record: Option<StopRecord>,
    signals: Vec<i32>,
    killed_at: Option<Duration>,
    /// The earliest instant at which any grace that was given is over.
    bound: Duration,
}

impl Course {
    fn until(&mut self, end: Duration) {
        while self.killed_at.is_none()
            && let Some(record) = &mut self.record
            && record.due() <= end
        {
            self.now = self.now.max(record.due());
            match advance(record, self.now) {
                Due::Signal(signal) => self.signals.push(signal),
                Due::Kill => self.killed_at = Some(self.now),
            }
        }
        self.now = self.now.max(end);
    }

    fn graced(&mut self, grace: Duration) {
        // Records hold milliseconds.
        let end = Duration::from_millis(milliseconds(self.now.saturating_add(grace)));
        self.bound = self.bound.min(end);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_stop_only_becomes_shorter_and_kills_when_its_grace_is_over_and_not_before(
        start_ms in prop_oneof![0..1_000_000_u64, Just(u64::MAX / 4)],
        sequence in sequence(),
        events in prop::collection::vec(event(), 1..12),
    ) {
        let start = Duration::from_millis(start_ms);
        let mut course =
            Course { now: start, record: None, signals: Vec::new(), killed_at: None, bound: Duration::MAX };
        for event in events {
            if course.killed_at.is_some() {
                break;
            }
            let before = course.record.as_ref().map(StopRecord::deadline);
            match event {
                Event::Stop { signal, grace_ms } => {
                    let stop = Stop { signal, grace: Duration::from_millis(grace_ms) };
                    let was_requested = course.record.as_ref().is_some_and(|record| record.requested);
                    let (record, first) = request(course.record.as_ref(), stop, &sequence, course.now);
                    match sequence.first() {
                        None => prop_assert_eq!(first, Some(signal), "a signal that is asked for is sent"),
                        Some(_) if was_requested => prop_assert_eq!(first, None, "a sequence begins once"),
                        Some(step) => prop_assert_eq!(first, Some(step.signal)),
                    }
                    course.signals.extend(first);
                    course.graced(stop.grace);
                    prop_assert!(record.requested);
                    prop_assert!(record.deadline() <= course.bound, "a stop is as short as the shortest that was asked for");
                    course.record = Some(record);
                }
                Event::TimeOut { grace_ms } if course.record.is_none() => {
                    let limit = MaxRuntime { limit_ms: 1, signal: libc::SIGTERM, grace_ms };
                    let record = time_out(&limit, course.now);
                    prop_assert!(record.timed_out);
                    course.graced(Duration::from_millis(grace_ms));
                    course.signals.push(libc::SIGTERM);
                    course.record = Some(record);
                }
                Event::TimeOut { .. } => {}
                Event::Wait { ms } => course.until(course.now.saturating_add(Duration::from_millis(ms))),
                Event::Adopted => {
                    let written = serde_json::to_vec(&course.record).unwrap();
                    let read: Option<StopRecord> = serde_json::from_slice(&written).unwrap();
                    prop_assert_eq!(&read, &course.record);
                    course.record = read;
                }
            }
            if let (Some(before), Some(record)) = (before, &course.record) {
                prop_assert!(record.deadline() <= before, "a deadline never moves away");
            }
        }
        if course.record.is_some() {
            // However long that is.
            let end = Duration::from_millis(u64::MAX);
            course.until(end);
            let killed_at = course.killed_at.expect("every stop ends with a kill");
            let steps: Duration =
                sequence.iter().map(|step| Duration::from_millis(step.grace_ms)).fold(Duration::ZERO, |sum, step| {
                    sum.saturating_add(step)
                });
            if sequence.is_empty() {
                prop_assert_eq!(killed_at, course.bound.max(start), "at the end of the grace, and not before");
            } else {
                prop_assert!(killed_at <= course.bound.max(start));
                let has_kill = sequence.iter().any(|step| step.signal == libc::SIGKILL);
                prop_assert!(
                    has_kill || killed_at >= course.bound.min(start.saturating_add(steps)),
                    "neither before the grace of the stop nor before that of all steps"
                );
                prop_assert!(course.signals.len() <= 1 + sequence.len());
            }
        }
    }
}
