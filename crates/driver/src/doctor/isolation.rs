//! What keeps tasks apart from the host, and which profiles that is enough for.

use holdfast_sandbox::host::{Availability, DeviceRules, Host, IsolationRefusal, Kind, Overlay, Purpose, RootMount};
use holdfast_sys::probe::Answer;

use super::{Check, Group};
use crate::fingerprint::{can_run, mode};
use crate::plugin_name::Profile;

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![
        profile(host, Profile::Raw),
        profile(host, Profile::Exec),
        profile(host, Profile::Holdfast),
        namespaces(host),
        user_namespaces(host),
        mount_calls(host),
        root(host),
        overlay(host),
        seccomp(host),
        landlock(host),
        keyrings(host),
        devices(host),
    ]
}

fn profile(host: &Host, profile: Profile) -> Check {
    let what = match profile {
        Profile::Raw => "raw_exec",
        Profile::Exec => "exec",
        Profile::Holdfast => "holdfast",
    };
    match can_run(profile, host) {
        Ok(()) if profile == Profile::Raw && !host.privileges.is_root() => {
            Check::limited(Group::Isolation, what, mode(host), "")
        }
        Ok(()) => match lacks(host, profile) {
            lacks if lacks.is_empty() => Check::ok(Group::Isolation, what, "tasks can run"),
            lacks => Check::limited(
                Group::Isolation,
                what,
                format!("tasks can run, but not those with {}", lacks.join(", ")),
                "see below",
            ),
        },
        Err(refusal) => {
            let change = match &refusal {
                IsolationRefusal::NotRoot(_) => "run the agent as root, or use raw_exec",
                IsolationRefusal::Capabilities(_) => "give the agent these capabilities",
                IsolationRefusal::MountCalls(_) => "install Linux 5.12 or later; in a container, allow the call",
                IsolationRefusal::Namespace(..) => "see namespaces below",
            };
            Check::missing(Group::Isolation, what, refusal.to_string(), change)
        }
    }
}

/// What of a profile's options will be refused.
fn lacks(host: &Host, profile: Profile) -> Vec<&'static str> {
    let of_any = [
        (
            host.privileges.missing(Purpose::Users).next().is_some(),
            "a user, since capabilities are missing",
        ),
        (
            profile != Profile::Raw && !host.confinement.devices.are_there(),
            "rules for devices",
        ),
    ];
    let of_holdfast = [
        (host.mounts.overlay == Overlay::Missing, "an image as rootfs"),
        (
            host.confinement.seccomp != Answer::There,
            "seccomp, which is on by default",
        ),
        (host.confinement.landlock_abi == 0, "unveil"),
    ];
    let rest = of_holdfast.into_iter().filter(|_| profile == Profile::Holdfast);
    of_any
        .into_iter()
        .chain(rest)
        .filter_map(|(is_missing, what)| is_missing.then_some(what))
        .collect()
}

fn namespaces(host: &Host) -> Check {
    let kinds = || Kind::ALL.into_iter().filter(|kind| *kind != Kind::User);
    let mut missing: Vec<String> = Vec::new();
    if kinds().all(|kind| *host.namespaces.of(kind) == Availability::NotAllowed) {
        missing.push(format!("all: {}", Availability::NotAllowed));
    } else {
        missing.extend(kinds().filter_map(|kind| match host.namespaces.of(kind) {
            Availability::Available => None,
            no => Some(format!("{kind}: {no}")),
        }));
    }
    if missing.is_empty() {
        return Check::ok(Group::Isolation, "namespaces", "mount, pid, ipc, uts, cgroup, network");
    }
    let change = if host.privileges.is_admin() {
        "raise user.max_mnt_namespaces and its like with sysctl(8); what the kernel was built without takes another kernel"
    } else {
        "run the agent as root; in a container, give it CAP_SYS_ADMIN"
    };
    Check::missing(Group::Isolation, "namespaces", missing.join("; "), change)
}

fn user_namespaces(host: &Host) -> Check {
    let what = "user_namespaces";
    match host.namespaces.of(Kind::User) {
        Availability::Available => Check::ok(Group::Isolation, what, "available"),
        no => {
            let change = match no {
                Availability::LimitIsZero { .. } => "sysctl -w user.max_user_namespaces=10000".to_owned(),
                Availability::Restricted { file, wanted } => {
                    let name = file.trim_start_matches("/proc/sys/").replace('/', ".");
                    format!("sysctl -w {name}={wanted}, or run the agent as root")
                }
                _ => "use a kernel with CONFIG_USER_NS".to_owned(),
            };
            Check::limited(Group::Isolation, what, no.to_string(), change)
        }
    }
}

fn mount_calls(host: &Host) -> Check {
    match host.mounts.require_calls() {
        Ok(()) => Check::ok(Group::Isolation, "mount_calls", "open_tree(2), mount_setattr(2)"),
        Err(e) => Check::missing(
            Group::Isolation,
            "mount_calls",
            format!("a root of a task's own needs {e}"),
            "install Linux 5.12 or later; in a container, allow both calls in its seccomp profile",
        ),
    }
}

fn root(host: &Host) -> Check {
    match host.mounts.root {
        RootMount::Leavable => Check::ok(Group::Isolation, "pivot_root", "works"),
        RootMount::Unknown => Check::ok(
            Group::Isolation,
            "pivot_root",
            "no mount is seen at /; it will most likely work",
        ),
        RootMount::Rootfs => Check::ok(
            Group::Isolation,
            "pivot_root",
            "the host runs from its initial ramdisk, which it cannot leave; tasks' roots are moved over that instead",
        ),
    }
}

fn overlay(host: &Host) -> Check {
    match host.mounts.overlay {
        Overlay::There => Check::ok(Group::Isolation, "overlay", "the kernel has it"),
        Overlay::Loadable => Check::ok(Group::Isolation, "overlay", "a module, loaded by the first mount"),
        Overlay::Missing => Check::missing(
            Group::Isolation,
            "overlay",
            "the kernel has no overlay file system: no image and no writable layer as a task's root",
            "modprobe overlay, or install the kernel's modules",
        ),
    }
}

fn seccomp(host: &Host) -> Check {
    match host.confinement.seccomp {
        Answer::There => Check::ok(Group::Isolation, "seccomp", "filters of system calls"),
        Answer::Absent => Check::missing(
            Group::Isolation,
            "seccomp",
            "the kernel has no filters of system calls, which the tasks of holdfast have by default",
            "use a kernel with CONFIG_SECCOMP_FILTER, or switch the filter off in the plugin's config",
        ),
        Answer::Denied => Check::missing(
            Group::Isolation,
            "seccomp",
            "this process may not ask for filters of system calls",
            "in a container, allow prctl(2) and seccomp(2)",
        ),
    }
}

fn landlock(host: &Host) -> Check {
    match host.confinement.landlock_abi {
        0 => Check::missing(
            Group::Isolation,
            "landlock",
            "the kernel has no Landlock, or it was not switched on: unveil cannot be enforced",
            "boot with landlock in the list lsm=…, on Linux 5.13 or later",
        ),
        abi => Check::ok(Group::Isolation, "landlock", format!("ABI {abi}")),
    }
}

fn keyrings(host: &Host) -> Check {
    match host.confinement.keyrings {
        Answer::There => Check::ok(Group::Isolation, "keyrings", "available"),
        Answer::Absent => Check::limited(
            Group::Isolation,
            "keyrings",
            "the kernel has no keyrings: there are none to keep apart",
            "",
        ),
        Answer::Denied => Check::limited(
            Group::Isolation,
            "keyrings",
            "keyctl(2) is refused to this process: tasks share the agent's keyring",
            "in a container, allow keyctl(2)",
        ),
    }
}

fn devices(host: &Host) -> Check {
    let missing = |why: &str, change: &str| Check::missing(Group::Isolation, "devices", why, change);
    match host.confinement.devices {
        DeviceRules::Controller => Check::ok(Group::Isolation, "devices", "ruled by the devices controller"),
        DeviceRules::Programs => Check::ok(Group::Isolation, "devices", "ruled by BPF programs on cgroups"),
        DeviceRules::NoController => missing(
            "there is no devices hierarchy: any node that a task has can be opened",
            "mount -t cgroup -o devices none /sys/fs/cgroup/devices",
        ),
        DeviceRules::NoPrograms(Answer::Denied) => missing(
            "bpf(2) is refused to this process",
            "in a container, allow bpf(2) in its seccomp profile",
        ),
        DeviceRules::NoPrograms(_) => missing("the kernel has no bpf(2)", "use a kernel with CONFIG_CGROUP_BPF"),
        DeviceRules::NotAllowed => missing(
            "loading BPF programs takes CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN",
            "run the agent as root, or give it these capabilities",
        ),
        DeviceRules::NoCgroups => missing(
            "tasks have no cgroups, by which devices are ruled",
            "see the cgroups above",
        ),
    }
}
