//! The cgroup in which the executors live.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::scope::is_hierarchy;
use crate::{ROOT, Version};

/// Name of the cgroup below the agent's cgroup parent.
const NAME: &str = "holdfast";

/// Where an executor belongs, so that it outlives the service that started it (contract, pain 13) and is in no limit of a task:
/// `<cgroup parent>/holdfast` on v2. On v1 the same in each hierarchy in which the calling process is not at the root; in the others
/// there is nothing to escape from, and each move costs time.
pub fn shared_dirs(version: Version, cgroup_parent: &Path) -> io::Result<Vec<PathBuf>> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    Ok(shared_below(Path::new(ROOT), &membership, version, cgroup_parent))
}

pub(crate) fn shared_below(root: &Path, membership: &str, version: Version, cgroup_parent: &Path) -> Vec<PathBuf> {
    let relative = cgroup_parent.strip_prefix("/").unwrap_or(cgroup_parent).join(NAME);
    match version {
        Version::V2 => vec![root.join(relative)],
        Version::V1 => hierarchies_left(membership)
            .map(|mount| root.join(mount))
            .filter(|mount| is_hierarchy(mount))
            .map(|mount| mount.join(&relative))
            .collect(),
    }
}

/// Directories below the root of the hierarchies in which the process is not at the root; `membership` is a
/// `/proc/PID/cgroup` (cgroups(7)): `ID:CONTROLLERS:PATH` per line.
fn hierarchies_left(membership: &str) -> impl Iterator<Item = &str> {
    membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if path == "/" {
            return None;
        }
        match controllers {
            // Where systemd mounts v2 beside v1.
            "" => Some("unified"),
            named if named.starts_with("name=") => named.strip_prefix("name="),
            // Co-mounted controllers are linked by each name (cgroups(7)); any of them leads there.
            controllers => controllers.split(',').next(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERSHIP: &str = "\
9:name=systemd:/system.slice/nomad.service
8:pids:/
4:memory:/system.slice/nomad.service
2:cpu,cpuacct:/user.slice
1:net_cls:/elsewhere
0::/system.slice/a:b
";

    fn root_with(hierarchies: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in hierarchies {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        root
    }

    #[test]
    fn on_v1_only_hierarchies_with_something_to_escape_from_are_entered() {
        let root = root_with(&["systemd", "pids", "memory", "cpu", "unified"]);
        let found = shared_below(root.path(), MEMBERSHIP, Version::V1, Path::new("/nomad"));
        let expected: Vec<PathBuf> = ["systemd", "memory", "cpu", "unified"]
            .iter()
            .map(|mount| root.path().join(mount).join("nomad/holdfast"))
            .collect();
        assert_eq!(found, expected, "net_cls is not mounted, pids is at the root");
    }

    #[test]
    fn on_v2_it_is_one_directory() {
        let found = shared_below(Path::new("/r"), "0::/\n", Version::V2, Path::new("nomad.slice"));
        assert_eq!(found, [PathBuf::from("/r/nomad.slice/holdfast")]);
    }

    #[test]
    fn damaged_membership_is_no_place() {
        let root = root_with(&["memory"]);
        assert!(shared_below(root.path(), "garbage\n4:memory\n", Version::V1, Path::new("nomad")).is_empty());
    }
}
