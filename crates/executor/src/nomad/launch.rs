//! From Nomad's launch request to a task, by the rules of one of its executors.

use std::collections::HashMap;
use std::path::Path;

use holdfast_cgroup::{Limits, Scope, ScopeError, Version};
use holdfast_sandbox::capability::{self, CapabilityError};
use holdfast_sandbox::isolation::{IsolationMode, IsolationModeError, IsolationOptions};
use holdfast_sandbox::{
    Arguments, DeniedIds, Environment, LogCollection, Placement, PlanError, Resolver, TaskOptions, TaskPlan,
};
use holdfast_wire::executor_v1::TaskSpec;
use holdfast_wire::nomad_driver::{
    AllocatedMemoryResources, AllocatedTaskResources, LinuxResources, NetworkIsolationSpec, Resources,
};
use holdfast_wire::nomad_executor::LaunchRequest;

use super::isolation::{Asked, AskedError};
use crate::log;

/// Which of Nomad's executors is taken for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// The one of raw_exec: nothing but cgroups.
    Universal,
    /// The one of exec: a root that the agent has filled.
    Isolated,
}

/// Why a request cannot be launched.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The text is the built-in's.
    #[error("unable to configure cgroups: {0}")]
    Cgroups(#[from] ScopeError),
    /// See [`IsolationModeError`].
    #[error(transparent)]
    IsolationMode(#[from] IsolationModeError),
    /// See [`CapabilityError`].
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// See [`AskedError`].
    #[error(transparent)]
    Isolation(#[from] AskedError),
    /// See [`PlanError`].
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What the request asks for, looked up. `task_id` is the executor's own.
///
/// Blocks while users are looked up, on purpose: this process has one task, which does not run yet, and its reaper of children
/// must not run while a getent(1) is waited for.
pub fn task_of(request: LaunchRequest, task_id: &str, rules: Rules) -> Result<TaskSpec, RequestError> {
    #[allow(deprecated)]
    let LaunchRequest {
        cmd,
        args,
        resources,
        stdout_path,
        stderr_path,
        env,
        user,
        task_dir,
        // Neither executor looks at it: limits are applied whatever it says.
        resource_limits: _,
        basic_process_cgroup: _,
        mounts,
        devices,
        network_isolation,
        no_pivot_root,
        default_pid_mode,
        default_ipc_mode,
        // Never sent by the client; the path is among the resources.
        cpuset_cgroup: _,
        allow_caps,
        capabilities,
        cgroup_v2_override,
        cgroup_v1_override,
        oom_score_adj,
        work_dir,
    } = request;
    let pid_mode = IsolationMode::of("pid_mode", "", &default_pid_mode)?;
    let ipc_mode = IsolationMode::of("ipc_mode", "", &default_ipc_mode)?;
    // Of the list of what would be allowed nothing is given; a name that means nothing is refused all the same.
    capability::parse("allow_caps", &allow_caps)?;
    capability::parse("capabilities", &capabilities)?;
    let mut warnings = Vec::new();
    let isolation = match rules {
        Rules::Isolated => Asked {
            mounts,
            devices,
            no_pivot_root,
            pid_mode,
            ipc_mode,
            capabilities,
            user: &user,
        }
        .options(&mut warnings)?,
        Rules::Universal => {
            let ignored = [
                ("mounts", !mounts.is_empty()),
                ("devices", !devices.is_empty()),
                ("no_pivot_root", no_pivot_root),
                ("default_pid_mode", pid_mode == Some(IsolationMode::Private)),
                ("default_ipc_mode", ipc_mode == Some(IsolationMode::Private)),
                ("capabilities", !allow_caps.is_empty() || !capabilities.is_empty()),
            ];
            for (what, _) in ignored.iter().filter(|(_, given)| *given) {
                warnings.push(format!("{what} means nothing without isolation and is ignored"));
            }
            IsolationOptions::default()
        }
    };
    let (alloc_id, task_name) = names_of(&task_dir);
    let resources = resources.unwrap_or_default();
    let Said {
        memory_mib,
        memory_max_mib,
        cpu_shares,
        cpuset_cpus,
        cpuset_cgroup,
    } = Said::of(&resources);
    let scope = scope(
        &cpuset_cgroup,
        &alloc_id,
        &task_name,
        &cgroup_v2_override,
        &cgroup_v1_override,
    )?;
    let scope = match rules {
        Rules::Universal => scope,
        Rules::Isolated => scope.map(Scope::with_devices),
    };
    let options = TaskOptions {
        task_id: task_id.to_owned(),
        alloc_id,
        task_name,
        command: cmd,
        args: Arguments::from(args),
        environment: environment(&env),
        denied_environment: Vec::new(),
        user: Some(user),
        work_dir: Some(work_dir),
        task_dir,
        stdout_path,
        stderr_path,
        log_collection: LogCollection::Agent,
        oom_score_adj: i64::from(oom_score_adj),
        network_namespace: network_isolation.map(|NetworkIsolationSpec { path, .. }| path),
        placement: scope.map(Placement::from).unwrap_or_default(),
        memory_mib,
        memory_max_mib,
        cpu_shares,
        cpuset_cpus,
        search_path: std::env::var_os("PATH"),
        isolation,
        ..holdfast_sandbox::TaskOptions::default()
    };
    let plan = TaskPlan::build(options, &Resolver::system(), &DeniedIds::default())?;
    for warning in warnings.iter().chain(&plan.warnings) {
        log::line(warning);
    }
    Ok(plan.into())
}

/// What resources say of limits.
struct Said {
    memory_mib: i64,
    memory_max_mib: i64,
    cpu_shares: i64,
    cpuset_cpus: String,
    cpuset_cgroup: String,
}

impl Said {
    fn of(resources: &Resources) -> Self {
        let Resources {
            allocated_resources,
            linux_resources,
            ports: _,
        } = resources.clone();
        let AllocatedTaskResources {
            cpu: _,
            memory,
            networks: _,
        } = allocated_resources.unwrap_or_default();
        // The agent's own driver says nothing of memory if the agent said nothing of Linux.
        let AllocatedMemoryResources {
            memory_mb: memory_mib,
            memory_max_mb: memory_max_mib,
        } = memory.filter(|_| linux_resources.is_some()).unwrap_or_default();
        let LinuxResources {
            cpu_shares,
            cpuset_cpus,
            cpuset_cgroup,
            ..
        } = linux_resources.unwrap_or_default();
        Self {
            memory_mib,
            memory_max_mib,
            cpu_shares,
            cpuset_cpus,
            cpuset_cgroup,
        }
    }
}

/// Limits of resources, for a task that lives.
pub fn limits_of(resources: &Resources) -> Limits {
    let said = Said::of(resources);
    Limits::of_resources(said.memory_mib, said.memory_max_mib, said.cpu_shares, &said.cpuset_cpus)
}

/// Allocation and task, from `<alloc_dir>/<alloc>/<task>`, as Nomad's executor takes them.
fn names_of(task_dir: &str) -> (String, String) {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let task_dir = Path::new(task_dir);
    (name(task_dir.parent()), name(Some(task_dir)))
}

/// Of a variable that is given twice the last counts, as in Go.
fn environment(list: &[String]) -> Environment {
    list.iter()
        .map(|variable| variable.split_once('=').unwrap_or((variable, "")))
        .collect()
}

/// An override is for one version of cgroups; on a host with the other it says nothing.
fn scope(
    cpuset_cgroup: &str,
    alloc_id: &str,
    task_name: &str,
    v2_override: &str,
    v1_override: &HashMap<String, String>,
) -> Result<Option<Scope>, ScopeError> {
    let cpuset = (!cpuset_cgroup.is_empty()).then(|| Path::new(cpuset_cgroup));
    match holdfast_cgroup::version() {
        None => Ok(None),
        Some(Version::V2) if !v2_override.is_empty() => Scope::of_v2_override(v2_override).map(Some),
        Some(Version::V1) if !v1_override.is_empty() => {
            let paths = v1_override
                .iter()
                .map(|(controller, path)| (controller.as_str(), path.as_str()));
            Scope::of_v1_override(paths, cpuset).map(Some)
        }
        Some(version) => cpuset
            .map(|cpuset| Scope::of_task(version, cpuset, alloc_id, task_name))
            .transpose(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(task_dir: &Path) -> LaunchRequest {
        LaunchRequest {
            cmd: "/bin/sh".into(),
            args: vec!["-c".into(), "true".into()],
            task_dir: task_dir.to_str().unwrap().into(),
            ..LaunchRequest::default()
        }
    }

    #[test]
    fn the_request_becomes_a_task_of_the_executors_own_id() {
        let alloc = tempfile::tempdir().unwrap();
        let task_dir = alloc.path().join("web");
        std::fs::create_dir(&task_dir).unwrap();
        let spec = task_of(
            LaunchRequest {
                env: vec!["A=1".into(), "B=x=y".into(), "A=2".into()],
                stdout_path: "/some/where.fifo".into(),
                stderr_path: "/dev/null".into(),
                oom_score_adj: 7,
                ..request(&task_dir)
            },
            "mine",
            Rules::Universal,
        )
        .unwrap();
        assert_eq!((spec.task_id.as_str(), spec.task_name.as_str()), ("mine", "web"));
        assert_eq!(spec.alloc_id, alloc.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(spec.env, ["A=2", "B=x=y"]);
        assert_eq!(spec.work_dir, task_dir.to_str().unwrap());
        assert!(spec.stderr.is_none(), "the null device is no sink");
        assert!(spec.stdout.is_some());
        assert_eq!(spec.oom_score_adj, 7);
        assert_eq!(spec.placement.unwrap().join, Vec::<String>::new());
    }

    #[test]
    fn words_that_name_nothing_are_refused_whatever_the_isolation() {
        let alloc = tempfile::tempdir().unwrap();
        let refusal = |request: LaunchRequest| {
            let refusals = [Rules::Universal, Rules::Isolated]
                .map(|rules| task_of(request.clone(), "t", rules).unwrap_err().to_string());
            assert_eq!(refusals[0], refusals[1]);
            refusals[0].clone()
        };
        let mode = LaunchRequest {
            default_ipc_mode: "alone".into(),
            ..request(alloc.path())
        };
        assert_eq!(refusal(mode), "ipc_mode must be \"private\" or \"host\", got \"alone\"");
        let capability = LaunchRequest {
            capabilities: vec!["CAP_CHOWN".into(), "CAP_FLY".into()],
            ..request(alloc.path())
        };
        assert_eq!(
            refusal(capability),
            "capabilities configured with capabilities not supported by system: fly"
        );
    }

    #[test]
    fn a_missing_command_is_named_in_the_built_ins_words() {
        let alloc = tempfile::tempdir().unwrap();
        let missing = LaunchRequest {
            cmd: "no-such-command".into(),
            ..request(alloc.path())
        };
        let error = task_of(missing, "t", Rules::Universal).unwrap_err().to_string();
        assert_eq!(error, "binary \"no-such-command\" could not be found");
    }

    #[test]
    fn with_isolation_the_task_dir_is_the_root_in_which_the_command_is_looked_for() {
        let alloc = tempfile::tempdir().unwrap();
        let task_dir = alloc.path().join("web");
        std::fs::create_dir_all(task_dir.join("local")).unwrap();
        let outside = LaunchRequest {
            capabilities: vec!["CAP_CHOWN".into()],
            default_pid_mode: "private".into(),
            ..request(&task_dir)
        };
        let error = task_of(outside.clone(), "t", Rules::Isolated).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("file /bin/sh not found under path {}", task_dir.display())
        );
        std::fs::copy("/bin/sh", task_dir.join("local/sh")).unwrap();
        // What the agent would have copied.
        let libraries = ["/lib", "/lib64", "/usr"]
            .into_iter()
            .filter(|path| Path::new(path).exists());
        let inside = LaunchRequest {
            cmd: "sh".into(),
            mounts: libraries
                .map(|path| holdfast_wire::nomad_driver::Mount {
                    task_path: path.into(),
                    host_path: path.into(),
                    readonly: true,
                    ..Default::default()
                })
                .collect(),
            ..outside
        };
        let spec = task_of(inside, "t", Rules::Isolated).unwrap();
        assert_eq!((spec.command.as_str(), spec.work_dir.as_str()), ("/local/sh", "/"));
        let isolation: holdfast_record::Isolation = serde_json::from_slice(&spec.isolation).unwrap();
        assert!(isolation.namespaces.mount && isolation.namespaces.pid && !isolation.namespaces.ipc);
        assert!(!isolation.confinement.no_new_privileges && isolation.confinement.seccomp.is_none());
    }
}
