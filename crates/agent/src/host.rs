//! What is known of this host: what jobs may refer to, and the processors that the driver computes shares from.

use holdfast_wire::nomad_base::{ClientTopology, ClientTopologyCore, ClientTopologySlit, CoreGrade};
use std::collections::BTreeMap;
use std::fs;

/// Used where the kernel does not tell a processor's speed, in MHz.
const GUESSED_MHZ: u64 = 1000;

/// This host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub name: String,
    cores: Vec<Core>,
    kernel: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Core {
    id: u32,
    socket: u32,
    mhz: u64,
}

impl Host {
    /// Reads what the kernel tells (proc(5)).
    pub(crate) fn read() -> Host {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Host {
            name: line("/proc/sys/kernel/hostname"),
            cores: cores(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            kernel: line("/proc/sys/kernel/osrelease"),
        }
    }

    /// The processors' speed together, in MHz.
    pub(crate) fn total_mhz(&self) -> u64 {
        self.cores.iter().map(|core| core.mhz).sum()
    }

    /// The attributes that jobs may refer to, by dotted name.
    pub(crate) fn attributes(&self, datacenter: &str, region: &str) -> BTreeMap<String, String> {
        // Go's names, as Nomad's attributes have them.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let pairs = [
            ("node.unique.name", self.name.clone()),
            ("node.datacenter", datacenter.to_owned()),
            ("node.region", region.to_owned()),
            ("node.class", String::new()),
            ("node.pool", "default".to_owned()),
            ("attr.unique.hostname", self.name.clone()),
            ("attr.kernel.name", std::env::consts::OS.to_owned()),
            ("attr.kernel.version", self.kernel.clone()),
            ("attr.cpu.arch", arch.to_owned()),
            ("attr.cpu.numcores", self.cores.len().to_string()),
            ("attr.cpu.totalcompute", self.total_mhz().to_string()),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// The processors as the driver wants them in its configuration.
    pub(crate) fn topology(&self) -> ClientTopology {
        let core = |core: &Core| ClientTopologyCore {
            socket_id: core.socket,
            node_id: 0,
            core_id: core.id,
            core_grade: CoreGrade::Performance.into(),
            disable: false,
            base_speed: core.mhz,
            max_speed: core.mhz,
            guess_speed: 0,
        };
        ClientTopology {
            node_ids: vec![0],
            distances: Some(ClientTopologySlit {
                dimension: 1,
                values: vec![10],
            }),
            cores: self.cores.iter().map(core).collect(),
            override_total_compute: 0,
            override_withold_compute: 0,
        }
    }
}

/// The processors of /proc/cpuinfo, each with its current speed.
fn cores(cpuinfo: &str) -> Vec<Core> {
    let mut cores: Vec<Core> = Vec::new();
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match (key.trim(), cores.last_mut()) {
            ("processor", _) => {
                let id = value.parse().unwrap_or(cores.len() as u32);
                cores.push(Core {
                    id,
                    socket: 0,
                    mhz: GUESSED_MHZ,
                });
            }
            ("cpu MHz", Some(core)) => {
                core.mhz = value
                    .parse::<f64>()
                    .ok()
                    .filter(|mhz| *mhz >= 1.0)
                    .map_or(GUESSED_MHZ, |mhz| mhz as u64);
            }
            ("physical id", Some(core)) => core.socket = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    if cores.is_empty() {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        cores.extend((0..count).map(|id| Core {
            id,
            socket: 0,
            mhz: GUESSED_MHZ,
        }));
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_with_their_speed() {
        let text = "processor\t: 0\nmodel name\t: x: y\ncpu MHz\t\t: 2893.250\nphysical id\t: 0\n\n\
                    processor\t: 1\nphysical id\t: 1\n";
        let wanted = [
            Core {
                id: 0,
                socket: 0,
                mhz: 2893,
            },
            Core {
                id: 1,
                socket: 1,
                mhz: GUESSED_MHZ,
            },
        ];
        assert_eq!(cores(text), wanted);
    }

    #[test]
    fn a_host_that_tells_nothing_still_has_a_processor() {
        assert!(!cores("").is_empty());
    }
}
