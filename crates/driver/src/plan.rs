//! From the agent's task to what an executor is asked to run.

mod image;
mod isolation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_cgroup::{Delegation, Scope, ScopeError, Version};
use holdfast_executor::birth::Birth;
use holdfast_sandbox::image::Image;
use holdfast_sandbox::isolation::IsolationError;
use holdfast_sandbox::limits::CpuShare;
use holdfast_sandbox::{Arguments, Environment, LogCollection, Placement, PlanError, TaskPlan};
use holdfast_wire::executor_v1::TaskSpec;
use holdfast_wire::nomad_driver::{
    AllocatedMemoryResources, LinuxResources, NetworkIsolationSpec, TaskConfig,
    network_isolation_spec::NetworkIsolationMode,
};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::options::{InvalidTaskOptions, LogCollector, Rootfs, TaskOptions};
use crate::plugin_name::{PluginName, Profile};
use crate::settings::Settings;
use crate::table::TaskName;

/// A task that can be started.
#[derive(Debug)]
pub struct Planned {
    /// For the executor.
    pub spec: TaskSpec,
    /// What of the environment is not the agent's; needed again by an executor that adopts the task.
    pub additions: EnvironmentAdditions,
    /// What the job asked for and does not get, each in one line.
    pub warnings: Vec<String>,
    /// The image that is the task's root: its layers stay while this is held, and once the task's record names them.
    pub image: Option<Image>,
}

/// How a task's environment differs from what the agent's task says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentAdditions {
    /// The task's own `denied_envvars`.
    #[serde(default)]
    pub denied: Vec<String>,
    /// Name and home of the user, in handles of earlier drivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(String, String)>,
    /// Variables that are not the agent's, or have another value: those of the user, of the profile and of an image.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// Which task the agent means. Only the id is required, as it is for the built-in.
pub fn name_of(task: &TaskConfig) -> Result<TaskName, Failure> {
    if task.id.is_empty() {
        return Err(Failure::last("failed driver config validation: the task has no id"));
    }
    Ok(TaskName {
        id: task.id.clone(),
        alloc_id: task.alloc_id.clone(),
        task_name: task.name.clone(),
    })
}

/// How the init of a task will be born, as far as that can be told before it is planned.
pub fn birth(task: &TaskConfig, options: &TaskOptions, profile: Profile) -> Birth {
    let has_own_root = profile != Profile::Raw;
    let namespaces = options.isolation.modes.namespaces(has_own_root, None);
    let network = network_namespace(task.network_isolation_spec.as_ref());
    let birth = Birth::of(namespaces, network.as_ref());
    let has_usual_root = match &options.isolation.rootfs {
        Rootfs::OfProfile => profile == Profile::Holdfast,
        Rootfs::Minimal => true,
        Rootfs::Directory(_) | Rootfs::Image(_) => false,
    };
    match has_usual_root && options.isolation.shm_bytes.is_none() {
        true => birth.with_groundwork(),
        false => birth,
    }
}

/// Looks everything up and checks it; nothing exists on the host afterwards but the command's execute bits, and an image in the cache.
pub async fn plan(
    task: &TaskConfig,
    place: Place,
    options: TaskOptions,
    settings: Arc<Settings>,
    name: PluginName,
) -> Result<Planned, Failure> {
    let profile = name.profile();
    let collector = settings.options.announced.log_collection;
    let cgroups = Cgroups::of(task, place, &options, profile).map_err(cgroup_failure)?;
    let denied = options.denied_envvars.clone();
    let mut warnings: Vec<String> = cgroups.warning.into_iter().collect();
    if options.asks_for_rotation && collector == LogCollector::Agent {
        warnings.push(
            "log_max_files, log_max_file_size and log_overflow have no effect: the agent collects logs".to_owned(),
        );
    }
    let agent = isolation::OfAgent::of(task);
    let isolation = options.isolation.clone();
    let image = match &isolation.rootfs {
        Rootfs::Image(reference) => Some(image::unpack(reference.clone(), &settings).await?),
        Rootfs::OfProfile | Rootfs::Minimal | Rootfs::Directory(_) => None,
    };
    let of_image = image.as_ref().map(image::root_and_account);
    let mut asked = asked(task, options, &settings, collector, cgroups.placement).map_err(Failure::last)?;
    // Users may come from a directory service that takes its time, and images from a slow disk.
    let build = move || {
        let resolved = isolation::resolve(isolation.clone(), of_image, agent, &settings, profile)?;
        let mut warnings = resolved.warnings;
        asked.isolation = resolved.options;
        let (resolver, nobody) = image::users(&asked.isolation.root);
        let of_image = asked.isolation.account.user.take();
        // The agent that is to make users up forgets to when it restarts a task after its own restart (contract, U-3); whoever asked
        // for that does not mean root.
        let has_usual = profile != Profile::Raw || settings.options.announced.dynamic_users;
        let usual = has_usual.then(|| nobody.to_owned());
        asked.user = asked.user.filter(|user| !user.is_empty()).or(of_image).or(usual);
        let user = asked.user.clone().unwrap_or_default();
        let allows_root = settings.options.isolation.allow_root;
        refuse_root(allows_root, matches!(user.split(':').next(), Some("root" | "0")))?;
        let is_strict = asked.strict_limits;
        let mut plan = TaskPlan::build(asked, &resolver, &settings.denied).map_err(|e| plan_failure(e, profile))?;
        let uid = plan.credentials.as_ref().map(|credentials| credentials.uid);
        refuse_root(allows_root, uid == Some(0))?;
        plan.isolation.confinement.capabilities = isolation
            .capabilities
            .map(|asked| isolation::settle_capabilities(asked, profile, &user, uid, is_strict, &mut warnings))
            .transpose()?;
        plan.warnings.append(&mut warnings);
        Ok(plan)
    };
    let mut plan = tokio::task::spawn_blocking(build).await.map_err(Failure::last)??;
    warnings.append(&mut plan.warnings);
    let spec = TaskSpec::from(plan);
    Ok(Planned {
        additions: EnvironmentAdditions {
            denied,
            account: None,
            variables: added_variables(&spec.env, task),
        },
        spec,
        warnings,
        image,
    })
}

/// In the built-in's words.
pub fn cgroup_failure(e: ScopeError) -> Failure {
    Failure::Final(format!(
        "failed to launch command with executor: unable to configure cgroups: {e}"
    ))
}

/// The operator's word is needed for a task that is root.
fn refuse_root(allows_root: bool, is_root: bool) -> Result<(), Failure> {
    match is_root && !allows_root {
        true => Err(Failure::last(
            "failed driver config validation: running as root needs allow_root = true in the plugin block",
        )),
        false => Ok(()),
    }
}

/// What of `environment` the agent's task does not say.
fn added_variables(environment: &[String], task: &TaskConfig) -> BTreeMap<String, String> {
    (environment.iter())
        .filter_map(|variable| variable.split_once('='))
        .filter(|(name, value)| task.env.get(*name).is_none_or(|of_agent| of_agent != value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The built-in checks the user before, and all else while it launches.
fn plan_failure(error: PlanError, profile: Profile) -> Failure {
    let prefix = match &error {
        PlanError::User(_) | PlanError::DeniedId(_) if profile == Profile::Exec => "failed host user validation",
        PlanError::User(_)
        | PlanError::DeniedId(_)
        | PlanError::OomScoreAdj(_)
        | PlanError::Memory { .. }
        | PlanError::Ceiling(_)
        | PlanError::Attribute(_)
        | PlanError::NoScope { .. }
        | PlanError::Isolation(
            IsolationError::HostMounts { .. }
            | IsolationError::HostProc
            | IsolationError::Stragglers
            | IsolationError::HostName(_)
            | IsolationError::LongHostName(_)
            | IsolationError::HostRoot,
        )
        | PlanError::ForeignLimits => "failed driver config validation",
        _ => "failed to launch command with executor",
    };
    let message = format!("{prefix}: {error}");
    if error.is_retryable() {
        Failure::Retryable(message)
    } else {
        Failure::Final(message)
    }
}

fn asked(
    task: &TaskConfig,
    options: TaskOptions,
    settings: &Settings,
    collector: LogCollector,
    placement: Placement,
) -> Result<holdfast_sandbox::TaskOptions, InvalidTaskOptions> {
    let TaskOptions {
        command,
        args,
        cgroup_v2_override: _,
        cgroup_v1_override: _,
        cgroup_parent: _,
        oom_score_adj,
        work_dir,
        denied_envvars,
        group,
        group_add,
        rotation,
        asks_for_rotation: _,
        memory_enforcement,
        mut limits,
        hard_cpu,
        strict_limits,
        attributes,
        ending,
        max_exec_sessions,
        isolation: _,
    } = options;
    let resources = task.resources.as_ref();
    // Never `memory_limit_bytes`: it is finite for a task without a limit (contract, S-9).
    let AllocatedMemoryResources {
        memory_mb,
        memory_max_mb,
    } = resources
        .and_then(|all| all.allocated_resources.as_ref())
        .and_then(|all| all.memory)
        .unwrap_or_default();
    let LinuxResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        cpuset_cpus,
        percent_ticks,
        ..
    } = resources
        .and_then(|all| all.linux_resources.clone())
        .unwrap_or_default();
    if let Some(hard_cpu) = hard_cpu {
        let share = CpuShare {
            cpu_period,
            cpu_quota,
            percent_ticks,
            cores: settings.compute.cores,
        };
        hard_cpu.apply(share, &mut limits)?;
    }
    Ok(holdfast_sandbox::TaskOptions {
        task_id: task.id.clone(),
        alloc_id: task.alloc_id.clone(),
        task_name: task.name.clone(),
        command,
        args: Arguments::from(args),
        environment: task
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
        denied_environment: [settings.options.denied_envvars.as_slice(), denied_envvars.as_slice()].concat(),
        user: Some(task.user.clone()),
        group,
        group_add,
        work_dir,
        task_dir: task_dir(task),
        alloc_dir: task.alloc_dir.clone(),
        stdout_path: task.stdout_path.clone(),
        stderr_path: task.stderr_path.clone(),
        log_collection: match collector {
            LogCollector::Driver => LogCollection::Driver(rotation),
            LogCollector::Agent => LogCollection::Agent,
        },
        oom_score_adj: i64::from(oom_score_adj),
        network_namespace: network_namespace(task.network_isolation_spec.as_ref()),
        placement,
        memory_mib: memory_mb,
        memory_max_mib: memory_max_mb,
        cpu_shares,
        cpuset_cpus,
        search_path: std::env::var_os("PATH"),
        memory_enforcement,
        limits,
        strict_limits,
        attributes,
        inherit_limits: false,
        ending,
        max_sessions: max_exec_sessions,
        ceilings: settings.options.ceilings.clone(),
        isolation: holdfast_sandbox::isolation::IsolationOptions::default(),
    })
}

/// `<alloc_dir>/<task>`, as the agent builds it.
fn task_dir(task: &TaskConfig) -> String {
    Path::new(&task.alloc_dir)
        .join(&task.name)
        .to_string_lossy()
        .into_owned()
}

/// Nothing said, and the host's network asked for, mean the same (contract, S-10).
fn network_namespace(isolation: Option<&NetworkIsolationSpec>) -> Option<String> {
    let isolation = isolation?;
    (isolation.mode() != NetworkIsolationMode::Host || !isolation.path.is_empty()).then(|| isolation.path.clone())
}

/// `KEY=value` of a task that was started before, for an executor that adopts it.
pub fn environment(task: &TaskConfig, denied: &[String], additions: &EnvironmentAdditions) -> Vec<String> {
    let mut environment: Environment = task
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    environment.deny(denied);
    environment.deny(&additions.denied);
    if let Some((name, home)) = &additions.account {
        for (variable, value) in [("USER", name), ("LOGNAME", name), ("HOME", home)] {
            environment.set(variable, value);
        }
    }
    for (name, value) in &additions.variables {
        environment.set(name, value);
    }
    environment.into_list()
}

/// The task's cgroups.
#[derive(Debug, Default)]
struct Cgroups {
    placement: Placement,
    /// Why the task has no cgroup.
    warning: Option<String>,
}

impl Cgroups {
    fn of(task: &TaskConfig, place: Place, options: &TaskOptions, profile: Profile) -> Result<Cgroups, ScopeError> {
        let Place { scope: place, without } = place;
        // An override is for one version of cgroups; on a host with the other it says nothing, as with the built-in.
        let scope = match (holdfast_cgroup::version(), &options.cgroup_v2_override) {
            (Some(version), _) if options.cgroup_parent.is_some() => {
                let parent = options.cgroup_parent.as_deref().unwrap_or_default();
                Some(Scope::below(version, parent, &task.alloc_id, &task.name)?)
            }
            (Some(Version::V2), Some(path)) => Some(Scope::of_v2_override(path)?),
            (Some(Version::V1), _) if !options.cgroup_v1_override.is_empty() => {
                let paths = options
                    .cgroup_v1_override
                    .iter()
                    .map(|(name, path)| (name.as_str(), path.as_str()));
                Some(Scope::of_v1_override(paths, cpuset_cgroup(task))?)
            }
            _ => place,
        };
        // Only these tasks pay for one more hierarchy on v1.
        let has_io = options.limits.io_weight.is_some() || !options.limits.io_max.is_empty();
        let scope = scope.map(|scope| if has_io { scope.with_io() } else { scope });
        let has_devices = profile != Profile::Raw || !options.isolation.devices.is_empty();
        let scope = scope.map(|scope| if has_devices { scope.with_devices() } else { scope });
        let warning = without
            .filter(|_| scope.is_none() && task.resources.is_some())
            .map(|reason| format!("the task has no cgroup, and no limits of memory, CPU and the like: {reason}"));
        Ok(Cgroups {
            placement: scope.map(Placement::from).unwrap_or_default(),
            warning,
        })
    }
}

/// Where a task goes unless its job or the operator says otherwise: into the agent's scope; where that cannot be used, into one of our
/// own in a cgroup that is delegated to this process; else into none.
#[derive(Debug, Default)]
pub struct Place {
    scope: Option<Scope>,
    without: Option<String>,
}

impl Place {
    /// Looks at the host's cgroups.
    pub fn of(task: &TaskConfig) -> Result<Place, ScopeError> {
        let agents = agents_scope(task)?;
        let unusable = match agents.as_ref().map(Scope::require_usable) {
            Some(Ok(())) => {
                return Ok(Place {
                    scope: agents,
                    without: None,
                });
            }
            Some(Err(e)) => Some(e.to_string()),
            // By an agent that makes cgroups a task without one is meant.
            None if holdfast_cgroup::version().is_some() => return Ok(Place::default()),
            None => None,
        };
        match Delegation::find() {
            Delegation::Subtree(subtree) => Ok(Place {
                scope: Some(subtree.scope(&task.alloc_id, &task.name)?),
                without: None,
            }),
            Delegation::None(reason) => Ok(Place {
                scope: None,
                without: Some(unusable.unwrap_or_else(|| reason.to_string())),
            }),
        }
    }

    /// Where the task's executor itself belongs.
    pub fn shared_cgroups(&self) -> Vec<PathBuf> {
        self.scope
            .as_ref()
            .map(|scope| scope.shared.clone())
            .unwrap_or_default()
    }
}

fn agents_scope(task: &TaskConfig) -> Result<Option<Scope>, ScopeError> {
    match (holdfast_cgroup::version(), cpuset_cgroup(task)) {
        (Some(version), Some(path)) => Scope::of_task(version, path, &task.alloc_id, &task.name).map(Some),
        _ => Ok(None),
    }
}

fn cpuset_cgroup(task: &TaskConfig) -> Option<&Path> {
    let path = &task.resources.as_ref()?.linux_resources.as_ref()?.cpuset_cgroup;
    (!path.is_empty()).then(|| Path::new(path))
}

#[cfg(test)]
mod tests {
    use holdfast_wire::nomad_base::SetConfigRequest;

    use super::*;
    use crate::plugin_name::PluginName;

    fn task(dir: &Path) -> TaskConfig {
        std::fs::create_dir(dir.join("task")).unwrap();
        TaskConfig {
            id: "alloc/task/12345678".to_owned(),
            alloc_id: "alloc".to_owned(),
            name: "task".to_owned(),
            alloc_dir: dir.to_str().unwrap().to_owned(),
            env: [("KEEP", "1"), ("AWS_KEY", "k"), ("MY_TOKEN", "t")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..TaskConfig::default()
        }
    }

    fn settings(plugin: &[u8]) -> Arc<Settings> {
        let request = SetConfigRequest {
            msgpack_config: plugin.to_vec(),
            ..SetConfigRequest::default()
        };
        Arc::new(Settings::of(request, PluginName::HoldfastRaw).unwrap())
    }

    fn options(command: &str) -> TaskOptions {
        TaskOptions {
            command: command.to_owned(),
            ..TaskOptions::default()
        }
    }

    async fn planned(task: &TaskConfig, options: TaskOptions, settings: Arc<Settings>) -> Result<Planned, Failure> {
        plan(
            task,
            Place::of(task).map_err(cgroup_failure)?,
            options,
            settings,
            PluginName::HoldfastRaw,
        )
        .await
    }

    #[tokio::test]
    async fn what_does_not_exist_is_named_and_leaves_nothing_s4() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(dir.path());
        let failure = planned(&task, options("no-such-command"), settings(b""))
            .await
            .unwrap_err();
        let Failure::Final(message) = failure else {
            panic!("{failure:?}")
        };
        assert!(
            message.starts_with("failed to launch command with executor: "),
            "{message}"
        );
        assert!(message.contains("no-such-command"), "{message}");
        let nobody = TaskConfig {
            user: "no-such-user".to_owned(),
            ..task
        };
        let message = planned(&nobody, options("true"), settings(b""))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("failed driver config validation: failed to identify user \"no-such-user\""),
            "{message}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_denied_user_is_refused_in_the_built_ins_words() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::geteuid().to_string();
        let mut plugin = b"\x81\xb0denied_host_uids".to_vec();
        plugin.push(0xa0 | u8::try_from(own.len()).unwrap());
        plugin.extend(own.bytes());
        let message = planned(&task(dir.path()), options("true"), settings(&plugin))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            format!("failed driver config validation: running as uid {own} is disallowed")
        );
    }

    #[tokio::test]
    async fn denied_variables_are_missing_at_the_start_and_after_an_adoption() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(dir.path());
        let denying = TaskOptions {
            denied_envvars: vec!["*_TOKEN".to_owned()],
            ..options("true")
        };
        let settings = settings(b"\x81\xaedenied_envvars\x91\xa5AWS_*");
        let planned = planned(&task, denying, settings.clone()).await.unwrap();
        assert_eq!(planned.spec.env, ["KEEP=1"]);
        assert_eq!(
            environment(&task, &settings.options.denied_envvars, &planned.additions),
            planned.spec.env
        );
    }

    #[tokio::test]
    async fn a_users_variables_are_the_same_after_an_adoption() {
        let dir = tempfile::tempdir().unwrap();
        let mut task = task(dir.path());
        task.user = "root".to_owned();
        let Ok(planned) = planned(&task, options("/bin/sh"), settings(b"")).await else {
            // Only root may plan for another user.
            assert!(!nix::unistd::geteuid().is_root());
            return;
        };
        assert!(
            planned.spec.env.contains(&"USER=root".to_owned()),
            "{:?}",
            planned.spec.env
        );
        assert_eq!(environment(&task, &[], &planned.additions), planned.spec.env);
    }

    #[test]
    fn a_task_without_an_id_is_refused() {
        assert!(name_of(&TaskConfig::default()).is_err());
    }

    #[test]
    fn no_isolation_means_the_hosts_network_s10() {
        let isolation = |mode, path: &str| {
            let spec = NetworkIsolationSpec {
                mode: mode as i32,
                path: path.to_owned(),
                ..NetworkIsolationSpec::default()
            };
            network_namespace(Some(&spec))
        };
        assert_eq!(network_namespace(None), None);
        assert_eq!(isolation(NetworkIsolationMode::Host, ""), None);
        assert_eq!(
            isolation(NetworkIsolationMode::Group, "/run/netns/x").as_deref(),
            Some("/run/netns/x")
        );
    }
}
