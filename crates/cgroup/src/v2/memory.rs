//! The memory controller (cgroup-v2, "Memory Interface Files").

use std::path::{Path, PathBuf};

use crate::MemoryMax;
use crate::interface::{self, keyed};
use crate::limits::{Limits, Writes};

/// What memory.stat says of the cgroup and all below it, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub anon: Option<u64>,
    pub file: Option<u64>,
    pub file_mapped: Option<u64>,
    pub kernel: Option<u64>,
}

pub(crate) fn stat(content: &str) -> Stat {
    Stat {
        anon: keyed(content, "anon"),
        file: keyed(content, "file"),
        file_mapped: keyed(content, "file_mapped"),
        // Since 5.18.
        kernel: keyed(content, "kernel"),
    }
}

pub(crate) fn oom_kills(dirs: &[PathBuf]) -> Option<u64> {
    dirs.iter()
        .find_map(|dir| keyed(&interface::read(&dir.join("memory.events")).ok()?, "oom_kill"))
}

pub(crate) fn apply(scope: &Path, limits: &Limits, writes: &mut Writes) {
    match limits.memory_max {
        Some(MemoryMax::Bytes(bytes)) => writes.write(scope.join("memory.max"), bytes),
        Some(MemoryMax::Unlimited) => writes.write(scope.join("memory.max"), "max"),
        None => {}
    }
    if let Some(bytes) = limits.memory_low {
        writes.write(scope.join("memory.low"), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_begin_alike_are_told_apart() {
        let content = "anon 1\nfile 2\nkernel 3\nkernel_stack 4\nfile_mapped 5\nfile_dirty 6\nanon_thp 7\n";
        let expected = Stat {
            anon: Some(1),
            file: Some(2),
            file_mapped: Some(5),
            kernel: Some(3),
        };
        assert_eq!(stat(content), expected);
        assert_eq!(stat("anon 1\nkernel_stack 4\n").kernel, None);
    }

    #[test]
    fn kills_are_counted_and_not_the_occasions() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(oom_kills(&dirs), None);
        std::fs::write(
            dir.path().join("memory.events"),
            "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 1\n",
        )
        .unwrap();
        assert_eq!(oom_kills(&dirs), Some(2));
    }
}
