//! Nomad's restart policy: what happens to a task that ended or did not start.
//!
//! Pure data: the caller brings the time and the chance, so that the rules can be read from the tests.

use holdfast_sandbox::duration;
use std::time::Duration;

/// What follows once a policy's attempts in an interval are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The task has failed.
    Fail,
    /// The task waits for the next interval.
    Delay,
}

/// The `restart` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Restarts allowed in one interval.
    pub attempts: u32,
    /// The span over which restarts are counted.
    pub interval: Duration,
    /// The wait before a restart; up to a quarter of it is added by chance.
    pub delay: Duration,
    /// What follows when no attempt is left.
    pub mode: Mode,
}

impl Policy {
    /// Nomad's default for services.
    pub const SERVICE: Policy = Policy {
        attempts: 2,
        interval: Duration::from_secs(30 * 60),
        delay: Duration::from_secs(15),
        mode: Mode::Fail,
    };
    /// Nomad's default for batch jobs.
    pub const BATCH: Policy = Policy {
        attempts: 3,
        interval: Duration::from_secs(24 * 3600),
        delay: Duration::from_secs(15),
        mode: Mode::Fail,
    };
}

/// How one run of a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, no signal, no doubt.
    Succeeded,
    /// Any other end.
    Failed,
    /// The driver could not start it, but another try may succeed (contract S-2).
    StartFailed,
    /// The driver could not start it and never will.
    StartImpossible,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The task is over and did what it should.
    Complete,
    /// The task is over and failed, for the reason given.
    Fail(String),
    /// Start it again after this time.
    Restart {
        /// How long to wait first.
        after: Duration,
        /// Why it is restarted.
        reason: &'static str,
    },
}

/// Counts a task's restarts against its policy.
#[derive(Debug)]
pub struct Tracker {
    policy: Policy,
    on_success: bool,
    count: u32,
    interval_start: Option<Duration>,
}

impl Tracker {
    /// A tracker with nothing counted. `on_success` says that a task that ends well is started again too, as services are.
    pub fn new(policy: Policy, on_success: bool) -> Tracker {
        Tracker {
            policy,
            on_success,
            count: 0,
            interval_start: None,
        }
    }

    /// What follows after `outcome`, seen at `now` (any clock that only goes forward). `chance` in 0..1 spreads restarts.
    pub fn decide(&mut self, outcome: Outcome, now: Duration, chance: f64) -> Decision {
        if outcome == Outcome::Succeeded && !self.on_success {
            return Decision::Complete;
        }
        if outcome == Outcome::StartImpossible {
            return Decision::Fail("the start failed for a reason that a restart does not mend".to_owned());
        }
        if self.policy.attempts == 0 {
            return Decision::Fail("the policy allows no restarts".to_owned());
        }
        let start = match self.interval_start {
            Some(start) if now <= start + self.policy.interval => start,
            _ => {
                self.count = 0;
                self.interval_start = Some(now);
                now
            }
        };
        self.count += 1;
        if self.count > self.policy.attempts {
            return match self.policy.mode {
                Mode::Fail => Decision::Fail(format!(
                    "exceeded allowed attempts {} in interval {} and mode is \"fail\"",
                    self.policy.attempts,
                    duration::format(self.policy.interval)
                )),
                Mode::Delay => Decision::Restart {
                    after: (start + self.policy.interval).saturating_sub(now),
                    reason: "exceeded allowed attempts, applying a delay",
                },
            };
        }
        let spread = self.policy.delay.mul_f64(chance.clamp(0.0, 1.0) * 0.25);
        Decision::Restart {
            after: self.policy.delay + spread,
            reason: "restart within policy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn policy(attempts: u32, mode: Mode) -> Policy {
        Policy {
            attempts,
            interval: seconds(100),
            delay: seconds(4),
            mode,
        }
    }

    fn restart(after: Duration) -> Decision {
        Decision::Restart {
            after,
            reason: "restart within policy",
        }
    }

    #[test]
    fn a_batch_task_that_succeeds_is_complete_even_without_attempts() {
        for attempts in [0, 3] {
            let mut tracker = Tracker::new(policy(attempts, Mode::Fail), false);
            assert_eq!(tracker.decide(Outcome::Succeeded, seconds(1), 0.0), Decision::Complete);
        }
    }

    #[test]
    fn a_service_that_succeeds_is_restarted_within_its_policy() {
        let mut tracker = Tracker::new(policy(1, Mode::Fail), true);
        assert_eq!(tracker.decide(Outcome::Succeeded, seconds(1), 0.0), restart(seconds(4)));
        assert!(matches!(
            tracker.decide(Outcome::Succeeded, seconds(2), 0.0),
            Decision::Fail(_)
        ));
    }

    #[test]
    fn attempts_count_within_an_interval_and_the_text_is_nomads() {
        let mut tracker = Tracker::new(policy(2, Mode::Fail), false);
        assert_eq!(tracker.decide(Outcome::Failed, seconds(10), 0.0), restart(seconds(4)));
        assert_eq!(tracker.decide(Outcome::Failed, seconds(20), 0.0), restart(seconds(4)));
        assert_eq!(
            tracker.decide(Outcome::Failed, seconds(30), 0.0),
            Decision::Fail("exceeded allowed attempts 2 in interval 1m40s and mode is \"fail\"".to_owned())
        );
    }

    #[test]
    fn a_new_interval_starts_the_count_again() {
        let mut tracker = Tracker::new(policy(1, Mode::Fail), false);
        assert_eq!(tracker.decide(Outcome::Failed, seconds(10), 0.0), restart(seconds(4)));
        assert_eq!(tracker.decide(Outcome::Failed, seconds(111), 0.0), restart(seconds(4)));
        assert!(matches!(
            tracker.decide(Outcome::Failed, seconds(112), 0.0),
            Decision::Fail(_)
        ));
    }

    #[test]
    fn mode_delay_waits_for_the_next_interval() {
        let mut tracker = Tracker::new(policy(1, Mode::Delay), false);
        assert_eq!(tracker.decide(Outcome::Failed, seconds(10), 0.0), restart(seconds(4)));
        assert_eq!(
            tracker.decide(Outcome::Failed, seconds(30), 0.0),
            Decision::Restart {
                after: seconds(80),
                reason: "exceeded allowed attempts, applying a delay"
            }
        );
    }

    #[test]
    fn chance_adds_at_most_a_quarter_of_the_delay() {
        let mut tracker = Tracker::new(policy(5, Mode::Fail), false);
        assert_eq!(tracker.decide(Outcome::Failed, seconds(1), 1.0), restart(seconds(5)));
        assert_eq!(
            tracker.decide(Outcome::Failed, seconds(2), 0.5),
            restart(Duration::from_millis(4500))
        );
    }

    #[test]
    fn only_a_retryable_start_failure_is_retried_s2() {
        let mut tracker = Tracker::new(policy(1, Mode::Fail), true);
        assert_eq!(
            tracker.decide(Outcome::StartFailed, seconds(1), 0.0),
            restart(seconds(4))
        );
        let mut tracker = Tracker::new(policy(1, Mode::Delay), true);
        assert!(matches!(
            tracker.decide(Outcome::StartImpossible, seconds(1), 0.0),
            Decision::Fail(_)
        ));
    }

    #[test]
    fn no_attempts_means_no_restart_whatever_the_mode() {
        for mode in [Mode::Fail, Mode::Delay] {
            let mut tracker = Tracker::new(policy(0, mode), true);
            assert_eq!(
                tracker.decide(Outcome::Failed, seconds(1), 0.0),
                Decision::Fail("the policy allows no restarts".to_owned())
            );
        }
    }
}
