//! The memory controller (cgroup-v2, "Memory Interface Files").

use std::path::{Path, PathBuf};

use crate::MemoryMax;
use crate::interface::{self, keyed};
use crate::refusal::{Controller, Writes};

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

pub(crate) fn apply_max(scope: &Path, max: Option<MemoryMax>, writes: &mut Writes) {
    apply_bound(scope, "memory.max", max, writes);
}

pub(crate) fn apply_high(scope: &Path, high: Option<MemoryMax>, writes: &mut Writes) {
    apply_bound(scope, "memory.high", high, writes);
}

pub(crate) fn apply_swap(scope: &Path, swap: Option<MemoryMax>, writes: &mut Writes) {
    apply_bound(scope, "memory.swap.max", swap, writes);
}

pub(crate) fn apply_low(scope: &Path, low: Option<u64>, writes: &mut Writes) {
    if let Some(bytes) = low {
        writes.write(Controller::Memory, scope, "memory.low", bytes);
    }
}

pub(crate) fn apply_oom_group(scope: &Path, oom_group: Option<bool>, writes: &mut Writes) {
    if let Some(oom_group) = oom_group {
        writes.write(Controller::Memory, scope, "memory.oom.group", u8::from(oom_group));
    }
}

/// v2 has nothing for it.
pub(crate) fn apply_swappiness(swappiness: Option<u8>, writes: &mut Writes) {
    if let Some(value) = swappiness {
        let reason = "only cgroup v1 has this setting";
        writes.refuse(Controller::Memory, Path::new("memory.swappiness"), value, reason);
    }
}

fn apply_bound(scope: &Path, file: &str, bound: Option<MemoryMax>, writes: &mut Writes) {
    match bound {
        Some(MemoryMax::Bytes(bytes)) => writes.write(Controller::Memory, scope, file, bytes),
        Some(MemoryMax::Unlimited) => writes.write(Controller::Memory, scope, file, "max"),
        None => true,
    };
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
