//! What a task can be held back with.

use holdfast_cgroup::{HostCgroups, Version};
use holdfast_sys::probe::Answer;

use super::{Calls, Capability, Privileges};

/// Filters, rules and keyrings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Filters of system calls (seccomp(2)).
    pub seccomp: Answer,
    /// The version of Landlock's interface (landlock(7)); 0: none.
    pub landlock_abi: u32,
    /// A keyring of the task's own (keyrings(7)).
    pub keyrings: Answer,
    /// Who may open which device.
    pub devices: DeviceRules,
}

/// How access to devices is ruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRules {
    /// The devices controller of v1 (cgroup-v1, devices).
    Controller,
    /// Programs on a v2 cgroup (cgroup-v2, "Device controller").
    Programs,
    /// v1 without that controller.
    NoController,
    /// v2, and the kernel has no bpf(2), or a filter forbids it.
    NoPrograms(Answer),
    /// v2, and this process may not load them.
    NotAllowed,
    /// There are no cgroups to rule it by.
    NoCgroups,
}

impl DeviceRules {
    /// They can be set.
    pub fn are_there(self) -> bool {
        matches!(self, DeviceRules::Controller | DeviceRules::Programs)
    }
}

impl Confinement {
    pub(super) fn look(calls: &Calls, privileges: &Privileges, cgroups: &HostCgroups) -> Confinement {
        Confinement {
            seccomp: calls.seccomp,
            landlock_abi: calls.landlock_abi,
            keyrings: calls.keyrings,
            devices: devices(calls, privileges, cgroups),
        }
    }
}

const BPF: Capability = Capability {
    number: 39,
    name: "CAP_BPF",
};
const NET_ADMIN: Capability = Capability {
    number: 12,
    name: "CAP_NET_ADMIN",
};

fn devices(calls: &Calls, privileges: &Privileges, cgroups: &HostCgroups) -> DeviceRules {
    let Some(support) = &cgroups.support else {
        return DeviceRules::NoCgroups;
    };
    match support.version {
        Version::V1 if support.devices => DeviceRules::Controller,
        Version::V1 => DeviceRules::NoController,
        // bpf(2): CAP_SYS_ADMIN is enough, and since Linux 5.8 so are these two.
        Version::V2 if !(privileges.is_admin() || privileges.has(BPF) && privileges.has(NET_ADMIN)) => {
            DeviceRules::NotAllowed
        }
        Version::V2 if support.devices => DeviceRules::Programs,
        Version::V2 => DeviceRules::NoPrograms(calls.bpf),
    }
}
