//! What the host's cgroups can do, for the fingerprint (contract, pain 20).

use std::path::Path;

use crate::scope::is_hierarchy;
use crate::{ROOT, Version, interface, members};

/// Which controllers and operations there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Support {
    /// CPU weight and accounting.
    pub cpu: bool,
    /// CPU pinning.
    pub cpuset: bool,
    /// Memory limits and accounting.
    pub memory: bool,
    /// Counting and limiting processes.
    pub pids: bool,
    /// Input and output.
    pub io: bool,
    /// Freezing a task.
    pub freeze: bool,
    /// Killing a whole task in one call of the kernel's; without it, it takes several.
    pub kill: bool,
}

impl Support {
    /// Looks at the host.
    pub fn probe(version: Version) -> Support {
        Support::probe_below(Path::new(ROOT), version)
    }

    fn probe_below(root: &Path, version: Version) -> Support {
        match version {
            Version::V1 => {
                let has = |name: &str| is_hierarchy(&root.join(name));
                Support {
                    cpu: has("cpu"),
                    cpuset: has("cpuset"),
                    memory: has("memory"),
                    pids: has("pids"),
                    io: has("blkio"),
                    freeze: has("freezer"),
                    kill: false,
                }
            }
            Version::V2 => {
                let controllers = interface::read(&root.join("cgroup.controllers")).unwrap_or_default();
                let has = |name: &str| {
                    controllers
                        .split_ascii_whitespace()
                        .any(|controller| controller == name)
                };
                // The root itself has neither file; any other cgroup shows what the kernel knows.
                let children = members::children(root).unwrap_or_default();
                let knows = |file: &str| children.iter().any(|dir| dir.join(file).exists());
                Support {
                    cpu: has("cpu"),
                    cpuset: has("cpuset"),
                    memory: has("memory"),
                    pids: has("pids"),
                    io: has("io"),
                    freeze: knows("cgroup.freeze"),
                    kill: knows("cgroup.kill"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_host_without_the_memory_controller_says_so() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
        fs::create_dir(root.path().join("init.scope")).unwrap();
        fs::write(root.path().join("init.scope/cgroup.freeze"), "0\n").unwrap();
        let found = Support::probe_below(root.path(), Version::V2);
        let expected = Support {
            cpu: true,
            cpuset: true,
            pids: true,
            io: true,
            freeze: true,
            ..Support::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn on_v1_a_plain_directory_is_no_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for name in ["memory", "freezer"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("freezer/cgroup.procs"), "").unwrap();
        let found = Support::probe_below(root.path(), Version::V1);
        assert_eq!(
            found,
            Support {
                freeze: true,
                ..Support::default()
            }
        );
    }
}
