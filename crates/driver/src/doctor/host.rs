//! Kernel, user, and the agent.

use std::time::SystemTime;

use holdfast_sandbox::host::{AgentUnit, Clock, Host, Privileges, Purpose, Release, Unit};

use super::{Check, Group};

/// The least kernels for raw tasks (CLOSE_RANGE_CLOEXEC of close_range(2)) and for isolated ones (mount_setattr(2)).
const RAW_FLOOR: Release = Release { major: 5, minor: 11 };
const ISOLATION_FLOOR: Release = Release { major: 5, minor: 12 };

pub(super) fn checks(host: &Host, unit: &AgentUnit) -> Vec<Check> {
    let mut checks = vec![
        kernel(host),
        boot_id(host),
        clock(),
        user(&host.privileges),
        capabilities(&host.privileges),
    ];
    if host.privileges.no_new_privileges {
        checks.push(Check::limited(
            Group::Host,
            "no_new_privs",
            "set for this process, and tasks inherit it: sudo, ping and other setuid programs do nothing in them",
            "remove NoNewPrivileges=yes from the agent's unit",
        ));
    }
    checks.push(agent(unit));
    checks
}

fn kernel(host: &Host) -> Check {
    let release = &host.kernel.release;
    match host.kernel.version {
        Some(version) if version >= ISOLATION_FLOOR => Check::ok(Group::Host, "kernel", release),
        Some(version) if version >= RAW_FLOOR => Check::limited(
            Group::Host,
            "kernel",
            format!("{release}: too old for isolation, which needs Linux {ISOLATION_FLOOR}"),
            "install a newer kernel, or use raw_exec",
        ),
        Some(_) => Check::limited(
            Group::Host,
            "kernel",
            format!("{release}: older than Linux {RAW_FLOOR}, the oldest that this was built for"),
            "install a newer kernel",
        ),
        None => Check::limited(
            Group::Host,
            "kernel",
            format!("its release {release:?} says no version"),
            "",
        ),
    }
}

fn boot_id(host: &Host) -> Check {
    match &host.kernel.boot_id {
        Some(id) => Check::ok(Group::Host, "boot_id", id),
        None => Check::missing(
            Group::Host,
            "boot_id",
            "/proc/sys/kernel/random/boot_id cannot be read, by which a process of before a reboot is told from one of after it",
            "mount proc at /proc",
        )
        .vital(),
    }
}

fn clock() -> Check {
    match Clock::of(SystemTime::now()) {
        Clock::Plausible => Check::ok(Group::Host, "clock", "set"),
        Clock::NeverSet => Check::limited(
            Group::Host,
            "clock",
            "the time lies before this program was made, so that starts and ends of tasks are told wrong",
            "set the clock, or start the agent after time-sync.target",
        ),
    }
}

fn user(privileges: &Privileges) -> Check {
    match (privileges.is_root(), privileges.in_user_namespace) {
        (true, false) => Check::ok(Group::Host, "user", "root"),
        (true, true) => Check::limited(
            Group::Host,
            "user",
            "root of a user namespace: device nodes, most file systems and ids outside its map are not to be had",
            "run the agent in the host's user namespace if tasks need those",
        ),
        (false, _) => Check::limited(
            Group::Host,
            "user",
            format!(
                "uid {}: raw tasks run, as this user; the isolated profiles do not",
                privileges.uid
            ),
            "run the agent as root for exec and holdfast, and for tasks of other users",
        ),
    }
}

fn capabilities(privileges: &Privileges) -> Check {
    if !privileges.is_root() && privileges.effective == 0 {
        return Check::limited(
            Group::Host,
            "capabilities",
            "none: all tasks run as this user, and no limit of theirs can be above the agent's",
            "run the agent as root if tasks need more",
        );
    }
    let listed = |purpose| -> Vec<String> {
        privileges
            .missing(purpose)
            .map(|need| format!("{} ({})", need.capability.name, need.use_))
            .collect()
    };
    let missing: Vec<String> = [Purpose::Users, Purpose::Isolation, Purpose::Options]
        .into_iter()
        .flat_map(listed)
        .collect();
    if missing.is_empty() {
        return Check::ok(Group::Host, "capabilities", "all that are used");
    }
    let change = "add them to CapabilityBoundingSet= of the agent's unit, or to the container that it runs in";
    Check::limited(
        Group::Host,
        "capabilities",
        format!("missing: {}", missing.join(", ")),
        change,
    )
}

/// Hardening that takes from tasks what they need, and what each takes.
const HARDENING: [(&str, &str); 5] = [
    ("ProtectControlGroups", "the agent cannot make cgroups"),
    ("RestrictNamespaces", "tasks cannot have namespaces"),
    ("NoNewPrivileges", "setuid programs do nothing in tasks"),
    ("PrivateDevices", "tasks see no devices"),
    ("PrivateTmp", "tasks of raw_exec have another /tmp than the host"),
];

fn agent(unit: &AgentUnit) -> Check {
    let seen = match unit {
        AgentUnit::Running { pid, unit } => format!("{}, pid {pid}", unit.name),
        AgentUnit::Unmanaged { pid } => {
            return Check::ok(Group::Host, "agent", format!("pid {pid}, in no service of systemd"));
        }
        AgentUnit::Installed(unit) => format!("{}, not running", unit.name),
        AgentUnit::Absent => return Check::ok(Group::Host, "agent", "none is running, and there is no nomad.service"),
    };
    let hindrances: Vec<String> = unit.unit().map(hindrances).unwrap_or_default();
    match hindrances.is_empty() {
        true => Check::ok(Group::Host, "agent", seen),
        false => Check::limited(
            Group::Host,
            "agent",
            format!("{seen}: {}", hindrances.join("; ")),
            "remove these options from the unit",
        ),
    }
}

fn hindrances(unit: &Unit) -> Vec<String> {
    HARDENING
        .into_iter()
        .filter(|(option, _)| {
            unit.is_on(option)
                || (*option == "RestrictNamespaces" && unit.option(option).is_some_and(|v| v.contains("mnt")))
        })
        .map(|(option, effect)| format!("with {option}={} {effect}", unit.option(option).unwrap_or_default()))
        .collect()
}
