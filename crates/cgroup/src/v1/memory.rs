//! The memory controller (cgroup-v1, memory.rst).

use std::path::PathBuf;

use crate::MemoryMax;
use crate::interface::{self, keyed};
use crate::limits::{Limits, Writes};

/// What memory.stat says of the cgroup and all below it, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub rss: Option<u64>,
    pub cache: Option<u64>,
    pub swap: Option<u64>,
    pub mapped_file: Option<u64>,
}

pub(crate) fn stat(content: &str) -> Stat {
    Stat {
        rss: keyed(content, "total_rss"),
        cache: keyed(content, "total_cache"),
        // Absent where the kernel does not account swap.
        swap: keyed(content, "total_swap"),
        mapped_file: keyed(content, "total_mapped_file"),
    }
}

pub(crate) fn oom_kills(dirs: &[PathBuf]) -> Option<u64> {
    // The count is there since 4.13.
    dirs.iter()
        .find_map(|dir| keyed(&interface::read(&dir.join("memory.oom_control")).ok()?, "oom_kill"))
}

pub(crate) fn apply(dirs: &[PathBuf], limits: &Limits, writes: &mut Writes) {
    match limits.memory_max {
        Some(MemoryMax::Bytes(bytes)) => writes.write_in(dirs, "memory.limit_in_bytes", bytes),
        Some(MemoryMax::Unlimited) => writes.write_in(dirs, "memory.limit_in_bytes", -1),
        None => {}
    }
    if let Some(bytes) = limits.memory_low {
        writes.write_in(dirs, "memory.soft_limit_in_bytes", bytes);
    }
    if limits.memory_max.is_some() {
        // A preference of the agent's and no limit: kernels that lack it are not worth a complaint.
        for dir in dirs {
            let _ = interface::write(&dir.join("memory.swappiness"), "0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_counted_and_not_the_cgroup_alone() {
        let content = "cache 1\nrss 2\nswap 3\nmapped_file 4\ntotal_cache 10\ntotal_rss 20\ntotal_rss_huge 99\n\
                       total_mapped_file 40\ntotal_swap 30\n";
        let expected = Stat {
            rss: Some(20),
            cache: Some(10),
            swap: Some(30),
            mapped_file: Some(40),
        };
        assert_eq!(stat(content), expected);
        assert_eq!(stat("rss 2\n"), Stat::default());
    }
}
