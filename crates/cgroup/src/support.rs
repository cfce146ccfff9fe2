//! What the host's cgroups can do, for the fingerprint (contract, pain 20).

use std::path::Path;

use crate::refusal::has_word;
use crate::scope::is_hierarchy;
use crate::v1::devices;
use crate::v2::device_access;
use crate::{Controller, ROOT, Version, interface, members};

/// Which controllers and operations there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Of the interface.
    pub version: Version,
    /// Memory limits and accounting.
    pub memory: bool,
    /// CPU weight, quota and accounting.
    pub cpu: bool,
    /// CPU pinning.
    pub cpuset: bool,
    /// Counting and limiting processes.
    pub pids: bool,
    /// Input and output.
    pub io: bool,
    /// Freezing a task.
    pub freeze: bool,
    /// Killing a whole task in one call of the kernel's; without it, it takes several.
    pub kill: bool,
    /// Telling how long a task had to wait for resources.
    pub pressure: bool,
    /// Restricting which device nodes a task may use: the hierarchy on v1, BPF programs and the capabilities for them on v2.
    pub devices: bool,
}

impl Support {
    /// Looks at the host.
    pub fn probe(version: Version) -> Support {
        let release = interface::read(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
        Support::probe_below(Path::new(ROOT), version, &release, device_access::is_possible)
    }

    /// True if the host has the controller.
    pub fn has(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory,
            Controller::Cpu => self.cpu,
            Controller::Cpuset => self.cpuset,
            Controller::Pids => self.pids,
            Controller::Io => self.io,
        }
    }

    pub(crate) fn probe_below(root: &Path, version: Version, release: &str, takes_programs: fn() -> bool) -> Support {
        match version {
            Version::V1 => {
                let has = |name: &str| is_hierarchy(&root.join(name));
                Support {
                    version,
                    cpu: has("cpu"),
                    cpuset: has("cpuset"),
                    memory: has("memory"),
                    pids: has("pids"),
                    io: has("blkio"),
                    freeze: has("freezer"),
                    kill: false,
                    pressure: false,
                    devices: has(devices::HIERARCHY),
                }
            }
            Version::V2 => {
                let controllers = interface::read(&root.join("cgroup.controllers")).unwrap_or_default();
                let has = |controller: Controller| has_word(&controllers, controller.name());
                // The root itself lacks these files, except in a container; any other cgroup shows what the kernel knows. Where there is
                // none, the kernel's age has to do.
                let children = members::children(root).unwrap_or_default();
                let knows = |file: &str, since: (u32, u32)| {
                    root.join(file).exists()
                        || if children.is_empty() {
                            is_at_least(release, since)
                        } else {
                            children.iter().any(|dir| dir.join(file).exists())
                        }
                };
                Support {
                    version,
                    cpu: has(Controller::Cpu),
                    cpuset: has(Controller::Cpuset),
                    memory: has(Controller::Memory),
                    pids: has(Controller::Pids),
                    io: has(Controller::Io),
                    freeze: knows("cgroup.freeze", (5, 2)),
                    kill: knows("cgroup.kill", (5, 14)),
                    // The root's file is absent, or cannot be read, where the kernel was told not to account it.
                    pressure: interface::read(&root.join("cpu.pressure")).is_ok(),
                    devices: takes_programs(),
                }
            }
        }
    }
}

/// `release` as in `5.14.0-362.el9.x86_64`.
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOTHING: Support = Support {
        version: Version::V2,
        memory: false,
        cpu: false,
        cpuset: false,
        pids: false,
        io: false,
        freeze: false,
        kill: false,
        pressure: false,
        devices: false,
    };

    #[test]
    fn a_host_without_the_memory_controller_says_so() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
        fs::write(root.path().join("cpu.pressure"), "some avg10=0.00\n").unwrap();
        fs::create_dir(root.path().join("init.scope")).unwrap();
        fs::write(root.path().join("init.scope/cgroup.freeze"), "0\n").unwrap();
        let found = Support::probe_below(root.path(), Version::V2, "6.1.0", || true);
        let expected = Support {
            cpu: true,
            cpuset: true,
            pids: true,
            io: true,
            freeze: true,
            pressure: true,
            devices: true,
            ..NOTHING
        };
        assert_eq!(found, expected);
        let has: Vec<bool> = Controller::ALL
            .into_iter()
            .map(|controller| found.has(controller))
            .collect();
        assert_eq!(has, [false, true, true, true, true]);
    }

    #[test]
    fn where_no_cgroup_shows_it_the_kernels_age_tells_what_it_can_do() {
        let root = tempfile::tempdir().unwrap();
        for (release, freeze, kill) in [
            ("5.1.21", false, false),
            ("5.4.0-150-generic", true, false),
            ("5.14.0-362.el9.x86_64", true, true),
            ("6.1-rc2", true, true),
            ("", false, false),
            ("unknown", false, false),
        ] {
            let found = Support::probe_below(root.path(), Version::V2, release, || false);
            assert_eq!(
                found,
                Support {
                    freeze,
                    kill,
                    ..NOTHING
                },
                "{release}"
            );
        }
    }

    #[test]
    fn on_v1_a_plain_directory_is_no_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for name in ["memory", "devices", "freezer"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("freezer/cgroup.procs"), "").unwrap();
        let expected = Support {
            version: Version::V1,
            freeze: true,
            ..NOTHING
        };
        let found = || Support::probe_below(root.path(), Version::V1, "6.1.0", || true);
        assert_eq!(found(), expected);
        fs::write(root.path().join("devices/cgroup.procs"), "").unwrap();
        let devices = Support {
            devices: true,
            ..expected
        };
        assert_eq!(found(), devices);
    }
}
