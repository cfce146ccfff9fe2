//! Which cgroup version is in use, by the agent's rule.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use crate::ROOT;

/// Which interface the task's cgroups have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy per controller, below a tmpfs.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Controllers without which the agent does not use v2 (`client/lib/cgroupslib/mount.go`).
pub(crate) const REQUIRED: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// The version that the agent uses on this host. `None`: it uses no cgroups, because none are mounted, a required
/// controller is missing, or this process may not write to them.
pub fn version() -> Option<Version> {
    // As the agent, which asks once: it does not change under a running system.
    static FOUND: OnceLock<Version> = OnceLock::new();
    FOUND
        .get()
        .copied()
        .or_else(|| look().map(|found| *FOUND.get_or_init(|| found)))
}

fn look() -> Option<Version> {
    let root = Path::new(ROOT);
    // One call, where the list of all mounts, which the agent reads, may be long.
    let mounted = match statfs(root).ok()?.filesystem_type() {
        TMPFS_MAGIC => Some(Version::V1),
        CGROUP2_SUPER_MAGIC => Some(Version::V2),
        _ => None,
    };
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok();
    let slice_owner = fs::metadata(root.join("nomad.slice")).ok().map(|slice| slice.uid());
    decide(
        mounted,
        controllers.as_deref(),
        nix::unistd::geteuid().as_raw(),
        slice_owner,
    )
}

/// v1 needs root. v2 needs the controllers, and root or the ownership of `nomad.slice` (a delegated subtree).
pub(crate) fn decide(
    mounted: Option<Version>,
    controllers: Option<&str>,
    uid: u32,
    slice_owner: Option<u32>,
) -> Option<Version> {
    match mounted? {
        Version::V1 => (uid == 0).then_some(Version::V1),
        Version::V2 => {
            let available: Vec<&str> = controllers?.split_ascii_whitespace().collect();
            let is_functional = REQUIRED.iter().all(|name| available.contains(name));
            let is_ours = uid == 0 || slice_owner == Some(uid);
            (is_functional && is_ours).then_some(Version::V2)
        }
    }
}

/// What is mounted on [`ROOT`]: a tmpfs holds v1 hierarchies. The first mount that answers wins, as in the agent.
pub(crate) fn mounted(mountinfo: &str) -> Option<Version> {
    mountinfo.lines().find_map(|line| {
        let has = |word: &str| line.split_ascii_whitespace().any(|field| field == word);
        if !has(ROOT) {
            None
        } else if has("tmpfs") {
            Some(Version::V1)
        } else if has("cgroup2") {
            Some(Version::V2)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "\
22 1 0:20 / /proc rw,relatime - proc proc rw
31 23 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
    const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma misc\n";

    #[test]
    fn hybrid_mounts_are_v1_and_need_root() {
        assert_eq!(decide(mounted(HYBRID), None, 0, None), Some(Version::V1));
        assert_eq!(decide(mounted(HYBRID), Some(CONTROLLERS), 1000, Some(1000)), None);
    }

    #[test]
    fn v2_needs_every_controller_that_the_agent_requires() {
        assert_eq!(decide(mounted(UNIFIED), Some(CONTROLLERS), 0, None), Some(Version::V2));
        for missing in REQUIRED {
            let rest: Vec<&str> = CONTROLLERS
                .split_ascii_whitespace()
                .filter(|name| *name != missing)
                .collect();
            assert_eq!(
                decide(mounted(UNIFIED), Some(&rest.join(" ")), 0, None),
                None,
                "without {missing}"
            );
        }
        assert_eq!(decide(mounted(UNIFIED), None, 0, None), None);
    }

    #[test]
    fn v2_without_root_needs_the_slice() {
        assert_eq!(
            decide(mounted(UNIFIED), Some(CONTROLLERS), 1000, Some(1000)),
            Some(Version::V2)
        );
        assert_eq!(decide(mounted(UNIFIED), Some(CONTROLLERS), 1000, Some(0)), None);
        assert_eq!(decide(mounted(UNIFIED), Some(CONTROLLERS), 1000, None), None);
    }

    #[test]
    fn a_host_without_cgroups_has_no_version() {
        assert_eq!(decide(mounted(""), None, 0, None), None);
        let elsewhere = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(decide(mounted(elsewhere), Some(CONTROLLERS), 0, None), None);
    }
}
