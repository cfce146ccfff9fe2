//! cgroup-v2: the unified hierarchy.

pub(crate) mod cpu;
pub(crate) mod cpuset;
pub(crate) mod device_access;
pub(crate) mod devices;
pub(crate) mod io;
pub(crate) mod lifecycle;
pub(crate) mod memory;
pub(crate) mod pids;

use std::path::Path;

use crate::Limits;
use crate::refusal::Writes;

/// Writes the limits that are present into the task's scope.
pub(crate) fn apply(scope: &Path, limits: &Limits, writes: &mut Writes) {
    let Limits {
        memory_max,
        memory_low,
        cpu_shares,
        cpuset_cpus,
        cpuset_mems,
        memory_high,
        memory_swap,
        swappiness,
        oom_group,
        cpu_quota,
        cpu_period_us,
        cpu_burst_us,
        pids_max,
        io_weight,
        io_max,
    } = limits;
    memory::apply_swappiness(*swappiness, writes);
    memory::apply_oom_group(scope, *oom_group, writes);
    memory::apply_low(scope, *memory_low, writes);
    // The one that may end processes comes last, when there is swap to flee to.
    memory::apply_swap(scope, *memory_swap, writes);
    memory::apply_high(scope, *memory_high, writes);
    memory::apply_max(scope, *memory_max, writes);
    cpu::apply_weight(scope, *cpu_shares, writes);
    cpu::apply_bandwidth(scope, *cpu_quota, *cpu_period_us, *cpu_burst_us, writes);
    cpuset::apply(scope, cpuset_cpus.as_deref(), cpuset_mems.as_deref(), writes);
    pids::apply(scope, *pids_max, writes);
    io::apply(scope, *io_weight, io_max, writes);
}
