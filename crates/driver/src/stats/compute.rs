//! Ticks as the agent computes them (contract, T-5).

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

    /// MHz that `percent` (100 for each core) stands for; `None` while the topology is unknown.
    pub fn ticks(self, percent: f64) -> Option<f64> {
        (self.cores > 0).then(|| percent / 100.0 * self.total_mhz as f64 / f64::from(self.cores))
    }
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
        assert_eq!(compute.ticks(100.0), Some(2000.0));
        assert_eq!(compute.ticks(250.0), Some(5000.0));
        assert_eq!(Compute::default().ticks(100.0), None);
    }
}
