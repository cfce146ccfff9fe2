//! Control groups, v1 and v2: find, create, limit, sample, freeze, kill.
//!
//! The agent makes and names the task's cgroups (contract, S-8), so most of this edits directories that exist. Version and paths
//! follow the rules that the agent uses, because both must mean the same directories. Nothing here caches anything
//! about the host, but that it once took a device program.
//!
//! Kernel documents: `admin-guide/cgroup-v1/*.rst` and `admin-guide/cgroup-v2.rst`, cited as cgroup-v1 and cgroup-v2.

mod delegation;
mod devices;
mod directory;
mod freeze;
mod host;
mod interface;
mod kill;
mod limits;
mod members;
mod pressure;
mod refusal;
mod sampler;
mod scope;
mod session;
mod shared;
mod support;
mod v1;
mod v2;
mod version;
mod watch;
mod weight;

pub use delegation::{Delegation, NoDelegation, Subtree, Unusable, version_of};
pub use devices::{DeviceError, DeviceRule, restrict_devices, unrestrict_devices};
pub use freeze::{begin_freeze, freeze, is_frozen, press_freeze, thaw};
pub use host::{AgentsRefusal, HostCgroups, Layout, Vantage, takes_device_programs};
pub use kill::kill;
pub use limits::{CpuQuota, IoMax, Limits, MemoryMax, PidsMax, apply};
pub use members::{enter, enter_alone, pids, populated, procs_file, threads_file};
pub use pressure::{Percent, Pressure, Stall, Stalls};
pub use refusal::{Controller, LimitError, Refusal};
pub use sampler::{IoUsage, Sample, SampleError, Sampler, Signs};
pub use scope::{Scope, ScopeError};
pub use session::SessionScope;
pub use shared::shared_dirs;
pub use support::Support;
pub use version::{Version, version};
pub use watch::{Bell, Counters, Readiness, Watch};

use std::path::{Path, PathBuf};

/// Where cgroups are mounted; the agent knows no other place.
pub const ROOT: &str = "/sys/fs/cgroup";

/// How often the kernel has killed a process of these cgroups for want of memory since they exist: `oom_kill` of
/// memory.events (cgroup-v2) or memory.oom_control (cgroup-v1). One incident may count more than once. `None`: nothing counts
/// it here.
pub fn oom_kills(version: Version, dirs: &[PathBuf]) -> Option<u64> {
    match version {
        Version::V1 => v1::memory::oom_kills(dirs),
        Version::V2 => v2::memory::oom_kills(dirs),
    }
}

/// An operator's `cgroup_v2_override` or a value of `cgroup_v1_override`, as the agent takes it: absolute as it stands,
/// else relative to `base`.
fn override_path(base: &Path, path: &str) -> PathBuf {
    // Joining an absolute path gives that path.
    base.join(path)
}
