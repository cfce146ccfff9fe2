//! Where tasks are counted, limited and killed.

use holdfast_cgroup::{AgentsRefusal, Delegation, HostCgroups, Layout, Support, Version};
use holdfast_sandbox::host::{AgentUnit, Host};

use super::{Check, Group};

pub(super) fn checks(host: &Host, unit: &AgentUnit) -> Vec<Check> {
    let cgroups = &host.cgroups;
    let mut checks = vec![interface(cgroups)];
    if cgroups.agent.is_err() {
        checks.push(delegation(cgroups));
    }
    if let Some(support) = &cgroups.support {
        checks.extend(controllers(cgroups, support));
    }
    checks.push(survival(cgroups, unit));
    checks
}

fn interface(cgroups: &HostCgroups) -> Check {
    let layout = match cgroups.layout {
        Layout::Unmounted => "none mounted",
        Layout::V1 => "v1",
        Layout::Hybrid => "v1, with v2 beside it",
        Layout::V2 => "v2",
    };
    match &cgroups.agent {
        Ok(Version::V2) => Check::ok(Group::Cgroups, "interface", "v2"),
        Ok(Version::V1) => Check::limited(
            Group::Cgroups,
            "interface",
            format!(
                "{layout}: killing takes several steps, every start waits for the kernel, pressure is not measured"
            ),
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup",
        ),
        Err(refusal) => {
            let change = match refusal {
                AgentsRefusal::NotMounted => "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
                AgentsRefusal::NeedsRoot => "boot with systemd.unified_cgroup_hierarchy=1, and delegate a subtree of v2".to_owned(),
                AgentsRefusal::Controllers(missing) if missing.contains("memory") => {
                    "remove cgroup_disable=memory from the kernel's command line, or add cgroup_enable=memory; in a container, have the \
                     controllers passed on to it"
                        .to_owned()
                }
                AgentsRefusal::Controllers(missing) => format!("have the controllers {missing} enabled above this cgroup"),
                AgentsRefusal::NotOurSlice => {
                    "chown -R the agent's user /sys/fs/cgroup/nomad.slice, or use Delegate=yes in the agent's unit".to_owned()
                }
                AgentsRefusal::ReadOnly => "mount it read-write; in a container, run it with its cgroups writable".to_owned(),
            };
            Check::limited(
                Group::Cgroups,
                "interface",
                format!("{layout}; the agent makes no cgroups: {refusal}"),
                change,
            )
        }
    }
}

fn delegation(cgroups: &HostCgroups) -> Check {
    match &cgroups.delegation {
        Delegation::Subtree(subtree) if subtree.controllers.is_empty() => {
            let (reason, change) = match subtree.is_populated() {
                true => (
                    "no controller reaches them while processes are in it",
                    "with systemd 254 or later, set Delegate=yes and DelegateSubgroup=agent in the agent's unit; else start the agent \
                     in a child of it",
                ),
                false => (
                    "no controller reaches it",
                    "enable controllers in cgroup.subtree_control of the cgroups above; those of v1 hierarchies are not to be had",
                ),
            };
            Check::limited(
                Group::Cgroups,
                "delegation",
                format!(
                    "tasks get cgroups below {}, by which they are frozen, counted and killed, but no limits: {reason}",
                    subtree.path.display()
                ),
                change,
            )
        }
        Delegation::Subtree(subtree) => Check::ok(
            Group::Cgroups,
            "delegation",
            format!("tasks get cgroups below {}", subtree.path.display()),
        ),
        Delegation::None(reason) => Check::missing(
            Group::Cgroups,
            "delegation",
            format!(
                "{reason}: tasks are process groups, without limits, and what leaves its group is found by its parents"
            ),
            "with systemd, set Delegate=yes and DelegateSubgroup=agent in the agent's unit; else chown a cgroup2 directory, its \
             cgroup.procs and cgroup.subtree_control to the agent's user and start the agent in a child of it",
        ),
    }
}

fn controllers(cgroups: &HostCgroups, support: &Support) -> Vec<Check> {
    let limited = [
        ("memory", support.memory, "memory limits and statistics"),
        ("cpu", support.cpu, "CPU weights and quotas"),
        ("cpuset", support.cpuset, "reserved cores"),
        ("pids", support.pids, "limits of processes"),
        ("io", support.io, "limits of input and output"),
        ("freeze", support.freeze, "freezing"),
    ];
    let change = |name: &str| match (support.version, &cgroups.delegation) {
        (Version::V1, _) if name == "io" => "mount the blkio hierarchy at /sys/fs/cgroup/blkio".to_owned(),
        (Version::V1, _) if name == "freeze" => "mount the freezer hierarchy at /sys/fs/cgroup/freezer".to_owned(),
        (Version::V1, _) => {
            format!("mount the {name} hierarchy at /sys/fs/cgroup/{name}, unless the kernel was booted without")
        }
        (Version::V2, _) if name == "freeze" => "install a kernel of 5.2 or later".to_owned(),
        (Version::V2, Delegation::Subtree(_)) if cgroups.agent.is_err() => "see delegation above".to_owned(),
        (Version::V2, _) => format!("have {name} in /sys/fs/cgroup/cgroup.controllers"),
    };
    let mut checks: Vec<Check> = limited
        .into_iter()
        .map(|(name, has, what_for)| match has {
            true => Check::ok(Group::Cgroups, name, what_for),
            false => Check::missing(Group::Cgroups, name, format!("no {what_for}"), change(name)),
        })
        .collect();
    if support.version == Version::V2 {
        checks.push(match support.kill {
            true => Check::ok(Group::Cgroups, "kill", "a whole task at once"),
            false => Check::limited(
                Group::Cgroups,
                "kill",
                "no cgroup.kill: it takes several steps",
                "install a kernel of 5.14 or later",
            ),
        });
        checks.push(match support.pressure {
            true => Check::ok(Group::Cgroups, "pressure", "measured"),
            false => Check::limited(
                Group::Cgroups,
                "pressure",
                "not measured: nobody can tell how long tasks wait for memory, CPU and disk",
                "boot with psi=1",
            ),
        });
    }
    checks
}

/// Whether tasks live on when the agent's service is stopped.
fn survival(cgroups: &HostCgroups, unit: &AgentUnit) -> Check {
    let what = "survival";
    if cgroups.agent.is_ok() {
        let seen =
            "executors and tasks have cgroups of their own, outside the agent's: KillMode= of its unit does not matter";
        return Check::ok(Group::Cgroups, what, seen);
    }
    let kills = match unit.unit() {
        Some(unit) => !matches!(unit.option("KillMode"), Some("process" | "none")),
        None if matches!(unit, AgentUnit::Unmanaged { .. }) => false,
        None => true,
    };
    let is_outside = cgroups
        .delegation
        .subtree()
        .is_some_and(|subtree| !below_own_service(cgroups, &subtree.path.to_string_lossy()));
    match kills && !is_outside {
        false => Check::ok(Group::Cgroups, what, "tasks live on when the agent is stopped"),
        true => Check::limited(
            Group::Cgroups,
            what,
            "executors and tasks are in the cgroup of the agent's service, and go with it when it is stopped",
            "set KillMode=process in the agent's unit",
        ),
    }
}

/// Whether the delegated cgroup is the service's in which this process is.
fn below_own_service(cgroups: &HostCgroups, subtree: &str) -> bool {
    let service = cgroups
        .own
        .split_inclusive('/')
        .scan(String::new(), |path, part| {
            path.push_str(part);
            Some(path.trim_end_matches('/').to_owned())
        })
        .filter(|path| path.ends_with(".service"))
        .last();
    service.is_some_and(|service| subtree.contains(&service))
}
