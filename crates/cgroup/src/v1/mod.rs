//! cgroup-v1: one hierarchy per controller.

pub(crate) mod blkio;
pub(crate) mod cpu;
pub(crate) mod cpuacct;
pub(crate) mod cpuset;
pub(crate) mod devices;
pub(crate) mod freezer;
pub(crate) mod memory;
pub(crate) mod pids;

use std::path::PathBuf;

use crate::Limits;
use crate::refusal::Writes;

/// Writes the limits that are present into whichever of the task's directories has the file.
pub(crate) fn apply(dirs: &[PathBuf], limits: &Limits, writes: &mut Writes) {
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
    memory::apply_unavailable(*memory_high, *oom_group, writes);
    memory::apply_low(dirs, *memory_low, writes);
    memory::apply_hard(dirs, *memory_max, *memory_swap, *swappiness, writes);
    cpu::apply_shares(dirs, *cpu_shares, writes);
    cpu::apply_bandwidth(dirs, *cpu_quota, *cpu_period_us, *cpu_burst_us, writes);
    cpuset::apply(dirs, cpuset_cpus.as_deref(), cpuset_mems.as_deref(), writes);
    pids::apply(dirs, *pids_max, writes);
    blkio::apply(dirs, *io_weight, io_max, writes);
}
