//! Percent and ticks as the agent computes them (contract, T-5).

use std::time::{Duration, Instant};

use holdfast_wire::nomad_base::ClientTopology;

/// What the host can compute, from the topology that SetConfig carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// MHz of all cores together, or what the operator put in their place.
    pub total_mhz: u64,
    /// Logical cores, disabled ones included.
    pub cores: u32,
}

impl Compute {
    /// The agent's rule: the override if there is one, else the sum of the cores' base speeds, of the maximum where
    /// there is no base speed, of the guess where there is neither.
    pub fn of(topology: &ClientTopology) -> Compute {
        let speed = |core: &holdfast_wire::nomad_base::ClientTopologyCore| {
            [core.base_speed, core.max_speed, core.guess_speed]
                .into_iter()
                .find(|mhz| *mhz > 0)
                .unwrap_or(0)
        };
        let total_mhz = match topology.override_total_compute {
            0 => topology.cores.iter().map(speed).fold(0, u64::saturating_add),
            mhz => mhz,
        };
        Compute {
            total_mhz,
            cores: u32::try_from(topology.cores.len()).unwrap_or(u32::MAX),
        }
    }

    /// MHz that `percent` (100 for each core) stands for; 0 while the topology is unknown.
    pub fn ticks(self, percent: f64) -> f64 {
        if self.cores == 0 {
            return 0.0;
        }
        percent / 100.0 * self.total_mhz as f64 / f64::from(self.cores)
    }
}

/// One kind of CPU time over successive samples.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tracker {
    last: Option<(Duration, Instant)>,
}

impl Tracker {
    /// Percent of one core that was used since the last call, given the time used so far; 0 the first time, and while
    /// nothing at all has been used.
    pub fn percent(&mut self, used: Duration, now: Instant) -> f64 {
        let last = self.last.replace((used, now));
        match last {
            Some((before, then)) if !before.is_zero() => {
                ratio(used.saturating_sub(before), now.saturating_duration_since(then))
            }
            _ => 0.0,
        }
    }
}

fn ratio(used: Duration, elapsed: Duration) -> f64 {
    if used.is_zero() || elapsed.is_zero() {
        return 0.0;
    }
    used.as_nanos() as f64 / elapsed.as_nanos() as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use holdfast_wire::nomad_base::ClientTopologyCore;

    use super::*;

    fn core(base_speed: u64, max_speed: u64, guess_speed: u64) -> ClientTopologyCore {
        ClientTopologyCore {
            base_speed,
            max_speed,
            guess_speed,
            ..Default::default()
        }
    }

    #[test]
    fn compute_is_the_sum_of_the_best_known_speeds_t5() {
        let mut topology = ClientTopology {
            cores: vec![core(2000, 3000, 1), core(0, 3000, 1), core(0, 0, 500), core(0, 0, 0)],
            ..Default::default()
        };
        topology.cores[0].disable = true;
        topology.override_withold_compute = 1000;
        assert_eq!(
            Compute::of(&topology),
            Compute {
                total_mhz: 5500,
                cores: 4
            }
        );
        topology.override_total_compute = 800;
        assert_eq!(
            Compute::of(&topology),
            Compute {
                total_mhz: 800,
                cores: 4
            }
        );
    }

    #[test]
    fn ticks_are_the_share_of_one_average_core_t5() {
        let compute = Compute {
            total_mhz: 8000,
            cores: 4,
        };
        assert_eq!(compute.ticks(100.0), 2000.0);
        assert_eq!(compute.ticks(250.0), 5000.0);
        assert_eq!(Compute::default().ticks(100.0), 0.0);
    }

    #[test]
    fn the_first_percent_is_zero_and_then_it_is_of_one_core_t5() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tracker = Tracker::default();
        assert_eq!(tracker.percent(Duration::from_millis(500), at(0)), 0.0);
        assert_eq!(tracker.percent(Duration::from_millis(1000), at(1000)), 50.0);
        assert_eq!(tracker.percent(Duration::from_millis(4000), at(2000)), 300.0);
        assert_eq!(tracker.percent(Duration::from_millis(4000), at(3000)), 0.0);
        assert_eq!(
            tracker.percent(Duration::from_millis(5000), at(3000)),
            0.0,
            "no time has passed"
        );
        assert_eq!(
            tracker.percent(Duration::from_millis(10), at(4000)),
            0.0,
            "the counter went back"
        );
    }

    #[test]
    fn a_task_that_has_used_nothing_yet_starts_from_its_first_use() {
        let start = Instant::now();
        let mut tracker = Tracker::default();
        assert_eq!(tracker.percent(Duration::ZERO, start), 0.0);
        assert_eq!(
            tracker.percent(Duration::from_millis(900), start + Duration::from_secs(1)),
            0.0
        );
        assert_eq!(
            tracker.percent(Duration::from_millis(1900), start + Duration::from_secs(2)),
            100.0
        );
    }
}
