//! The memory controller (cgroup-v1, memory.rst).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::MemoryMax;
use crate::interface::{self, keyed, number};
use crate::refusal::{Controller, Writes, in_holder};

const MEMORY: &str = "memory.limit_in_bytes";
const MEMSW: &str = "memory.memsw.limit_in_bytes";
const SWAPPINESS: &str = "memory.swappiness";
const ONLY_V2: &str = "only cgroup v2 has this limit";

/// Counts kills, and is what one registers for being told of them.
pub(crate) const OOM_CONTROL: &str = "memory.oom_control";

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
    keyed(&in_holder(dirs, OOM_CONTROL, interface::read)?.ok()?, "oom_kill")
}

/// What v1 has nothing for. What asks for no limit is fulfilled by having none.
pub(crate) fn apply_unavailable(high: Option<MemoryMax>, oom_group: Option<bool>, writes: &mut Writes) {
    if let Some(MemoryMax::Bytes(bytes)) = high {
        writes.refuse(Controller::Memory, Path::new("memory.high"), bytes, ONLY_V2);
    }
    if oom_group == Some(true) {
        writes.refuse(Controller::Memory, Path::new("memory.oom.group"), 1, ONLY_V2);
    }
}

pub(crate) fn apply_low(dirs: &[PathBuf], low: Option<u64>, writes: &mut Writes) {
    if let Some(bytes) = low {
        writes.write_in(Controller::Memory, dirs, "memory.soft_limit_in_bytes", bytes);
    }
}

/// Of memory, and of memory and swap together, which the kernel never lets be the smaller one, not even between two writes.
pub(crate) fn apply_hard(
    dirs: &[PathBuf],
    max: Option<MemoryMax>,
    swap: Option<MemoryMax>,
    swappiness: Option<u8>,
    writes: &mut Writes,
) {
    let before = Bounds::read(dirs);
    let after = before.changed(max, swap, writes);
    let memory = max.is_some().then_some((MEMORY, after.memory));
    let memsw = match (before.memsw, after.memsw) {
        (Some(before), Some(after)) if swap.is_some() || before != after => Some((MEMSW, after)),
        _ => None,
    };
    let steps = if after.memsw >= before.memsw {
        [memsw, memory]
    } else {
        [memory, memsw]
    };
    for (file, bound) in steps.into_iter().flatten() {
        writes.write_in(Controller::Memory, dirs, file, bound);
    }
    match swappiness {
        Some(value) => {
            writes.write_in(Controller::Memory, dirs, SWAPPINESS, value);
        }
        // The agent's driver keeps tasks with a limit from swapping unasked: a preference, so that kernels that lack it are not
        // worth a complaint. A change of a living task's limit leaves alone what was said at its start.
        None if max.is_some() && swap.is_none() && before.memory == Bound::Unlimited => {
            let _ = in_holder(dirs, SWAPPINESS, |path| interface::write(path, "0"));
        }
        None => {}
    }
}

/// One limit as the kernel has it. Ordered by how much it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Bytes(u64),
    Unlimited,
}

impl Bound {
    /// The kernel's unlimited is so many pages that no machine has them.
    fn of(bytes: u64) -> Bound {
        if bytes < 1 << 62 {
            Bound::Bytes(bytes)
        } else {
            Bound::Unlimited
        }
    }

    fn plus(self, bytes: u64) -> Bound {
        match self {
            Bound::Bytes(own) => Bound::of(own.saturating_add(bytes)),
            Bound::Unlimited => Bound::Unlimited,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Bytes(bytes) => bytes.fmt(out),
            Bound::Unlimited => (-1).fmt(out),
        }
    }
}

/// Both limits; without accounting of swap there is only one.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    memory: Bound,
    memsw: Option<Bound>,
}

impl Bounds {
    fn read(dirs: &[PathBuf]) -> Bounds {
        let read = |file| {
            let content = in_holder(dirs, file, interface::read)?.ok()?;
            number(&content).map(Bound::of)
        };
        Bounds {
            memory: read(MEMORY).unwrap_or(Bound::Unlimited),
            memsw: read(MEMSW),
        }
    }

    fn changed(self, max: Option<MemoryMax>, swap: Option<MemoryMax>, writes: &mut Writes) -> Bounds {
        let memory = match max {
            Some(MemoryMax::Bytes(bytes)) => Bound::of(bytes),
            Some(MemoryMax::Unlimited) => Bound::Unlimited,
            None => self.memory,
        };
        let Some(memsw) = self.memsw else {
            match swap {
                Some(MemoryMax::Bytes(bytes)) => writes.refuse(
                    Controller::Memory,
                    Path::new(MEMSW),
                    memory.plus(bytes),
                    "none of the task's cgroups has this file; the kernel may not account swap",
                ),
                // Without accounting there is no limit.
                Some(MemoryMax::Unlimited) | None => {}
            }
            return Bounds { memory, memsw: None };
        };
        let memsw = match (swap, memory) {
            (Some(MemoryMax::Bytes(bytes)), Bound::Unlimited) => {
                let reason = "this cgroup version limits memory and swap together, and the memory has no limit";
                writes.refuse(Controller::Memory, Path::new(MEMSW), bytes, reason);
                Bound::Unlimited
            }
            (Some(MemoryMax::Bytes(bytes)), memory) => memory.plus(bytes),
            (Some(MemoryMax::Unlimited), _) | (None, Bound::Unlimited) => Bound::Unlimited,
            // The swap beside the memory stays what it was.
            (None, Bound::Bytes(_)) => match (self.memory, memsw) {
                (Bound::Bytes(before), Bound::Bytes(both)) => memory.plus(both.saturating_sub(before)),
                _ => memsw.max(memory),
            },
        };
        Bounds {
            memory,
            memsw: Some(memsw),
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
