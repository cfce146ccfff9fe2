//! Job files: the part of Nomad's job language that a single host can honour, so that the same file runs in Nomad.
//!
//! What only a cluster can honour (a scheduler's constraints, updates, service discovery) is an error that names block
//! and line, and so is every word that is not Nomad's: nothing in a job file is silently ignored.

mod section;
mod source;
mod value;

pub use source::{FileError, Problem};
pub(crate) use value::variable_name;
pub use value::{Kind, Number, Value};

use crate::restart::{Mode, Policy};
use hcl_edit::structure::Body;
use section::{Reader, Section};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What a job is for: it decides whether a task that succeeds is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobType {
    /// Runs until it is stopped.
    Service,
    /// Runs until its tasks succeed.
    Batch,
    /// As batch; in a cluster it runs on every node.
    Sysbatch,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The block's label.
    pub id: String,
    /// `name`, else the id.
    pub name: String,
    /// `type`; Nomad's default is service.
    pub kind: JobType,
    /// `region`; Nomad's default is global.
    pub region: String,
    /// `namespace`; Nomad's default is default.
    pub namespace: String,
    /// The first of `datacenters`, else Nomad's default for an agent, dc1.
    pub datacenter: String,
    /// The groups, in the order of the file.
    pub groups: Vec<Group>,
}

/// A task group: its tasks share an allocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The block's label.
    pub name: String,
    /// How many allocations run.
    pub count: u32,
    /// The tasks, in the order of the file.
    pub tasks: Vec<Task>,
}

/// When a task runs relative to the main tasks of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// The group's main work.
    Main,
    /// Before it; as a sidecar it goes on beside it.
    Prestart {
        /// Whether it runs beside the main tasks.
        sidecar: bool,
    },
    /// Once the main tasks run; as a sidecar it ends with them.
    Poststart {
        /// Whether it runs beside the main tasks.
        sidecar: bool,
    },
    /// After the main tasks.
    Poststop,
}

impl Lifecycle {
    /// Whether the task runs as long as the main tasks do and is stopped after them.
    pub fn is_sidecar(self) -> bool {
        matches!(
            self,
            Lifecycle::Prestart { sidecar: true } | Lifecycle::Poststart { sidecar: true }
        )
    }
}

/// The `resources` block, with Nomad's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// CPU share in MHz.
    pub cpu_mhz: i64,
    /// Memory in MiB.
    pub memory_mib: i64,
    /// Most memory in MiB: 0 is unset, -1 is no limit.
    pub memory_max_mib: i64,
}

/// The `logs` block, with Nomad's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logs {
    /// Files kept of each stream.
    pub max_files: i64,
    /// Size in MiB at which a file is rotated.
    pub max_file_size_mib: i64,
    /// Whether output goes nowhere.
    pub disabled: bool,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The block's label.
    pub name: String,
    /// The driver's name, which is the plugin's.
    pub driver: String,
    /// What only the driver understands.
    pub config: Value,
    /// Environment, not yet interpolated.
    pub env: BTreeMap<String, String>,
    /// Metadata of job, group and task together.
    pub meta: BTreeMap<String, String>,
    /// Who the task runs as; empty leaves it to the driver.
    pub user: String,
    /// The signal that asks the task to stop; empty leaves it to the driver.
    pub kill_signal: String,
    /// How long the task has after it.
    pub kill_timeout: Duration,
    /// Whether its end stops the others of its group.
    pub leader: bool,
    /// When it runs.
    pub lifecycle: Lifecycle,
    /// What it may use.
    pub resources: Resources,
    /// Its output.
    pub logs: Logs,
    /// When it is started again.
    pub restart: Policy,
}

/// The `plugin` blocks of a configuration file: what each driver gets as its configuration, by name.
pub type PluginConfigs = BTreeMap<String, Value>;

const ONLY_NOMAD_ROOT: &[&str] = &["variable", "variables", "locals", "vault"];
const ONLY_NOMAD_JOB: &[&str] = &[
    "id",
    "all_at_once",
    "node_pool",
    "constraint",
    "affinity",
    "update",
    "multiregion",
    "spread",
    "periodic",
    "parameterized",
    "reschedule",
    "migrate",
    "ui",
    "consul_token",
    "vault_token",
    "vault",
    "task",
];
const ONLY_NOMAD_GROUP: &[&str] = &[
    "constraint",
    "affinity",
    "spread",
    "volume",
    "disconnect",
    "reschedule",
    "ephemeral_disk",
    "update",
    "migrate",
    "network",
    "service",
    "shutdown_delay",
    "max_run_duration",
    "stop_after_client_disconnect",
    "max_client_disconnect",
    "scaling",
    "consul",
    "vault",
    "prevent_reschedule_on_lost",
];
const ONLY_NOMAD_TASK: &[&str] = &[
    "constraint",
    "affinity",
    "service",
    "artifact",
    "vault",
    "consul",
    "template",
    "dispatch_payload",
    "volume_mount",
    "csi_plugin",
    "shutdown_delay",
    "kind",
    "scaling",
    "secret",
    "identity",
    "action",
    "schedule",
];
const ONLY_NOMAD_RESOURCES: &[&str] = &["cores", "disk", "network", "device", "numa", "secrets", "iops"];
const ONLY_NOMAD_PLUGIN: &[&str] = &["args"];

/// Reads a job file.
pub fn read(path: &Path) -> Result<Job, FileError> {
    with_text(path, parse)
}

/// Reads the `plugin` blocks of a configuration file.
pub fn read_plugin_configs(path: &Path) -> Result<PluginConfigs, FileError> {
    with_text(path, parse_plugin_configs)
}

fn with_text<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Vec<Problem>>) -> Result<T, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|problems| FileError::Content {
        path: path.to_owned(),
        problems,
    })
}

fn parse_body(text: &str) -> Result<Body, Vec<Problem>> {
    hcl_edit::parser::parse_body(text).map_err(|error| {
        vec![Problem {
            line: error.location().line(),
            message: error.message().trim_end().replace('\n', ", "),
        }]
    })
}

/// Parses the text of a job file; fails with everything that is wrong in it, by line.
pub fn parse(text: &str) -> Result<Job, Vec<Problem>> {
    let body = parse_body(text)?;
    let reader = Reader::new(text);
    let job = job_of(&reader, &body);
    finish(reader, job)
}

/// Parses the text of a configuration file with `plugin` blocks.
pub fn parse_plugin_configs(text: &str) -> Result<PluginConfigs, Vec<Problem>> {
    let body = parse_body(text)?;
    let reader = Reader::new(text);
    let root = Section::root(&reader, &body, "the file");
    let mut configs = PluginConfigs::new();
    for (name, section) in root.labelled("plugin") {
        configs.insert(name, section.opaque("config"));
        section.finish(ONLY_NOMAD_PLUGIN);
    }
    root.finish(&[]);
    finish(reader, Some(configs))
}

fn finish<T>(reader: Reader<'_>, result: Option<T>) -> Result<T, Vec<Problem>> {
    let problems = reader.into_problems();
    match result {
        Some(result) if problems.is_empty() => Ok(result),
        _ => Err(problems),
    }
}

fn job_of(reader: &Reader<'_>, body: &Body) -> Option<Job> {
    let root = Section::root(reader, body, "the file");
    let mut jobs = root.labelled("job").into_iter();
    let job = match (jobs.next(), jobs.next()) {
        (Some((id, section)), None) => Some(job(id, section)),
        (first, second) => {
            let line = second.or(first).map_or(1, |(_, section)| section.line);
            reader.problem(line, "a job file holds exactly one block \"job\"");
            None
        }
    };
    root.finish(ONLY_NOMAD_ROOT);
    job
}

fn job(id: String, section: Section<'_, '_>) -> Job {
    check_name(&section, "job", &id);
    let kind = match section.text("type").as_deref() {
        None | Some("service") => JobType::Service,
        Some("batch") => JobType::Batch,
        Some("sysbatch") => JobType::Sysbatch,
        Some("system") => {
            section.problem("job type \"system\" is something that Nomad honours and the embedded agent cannot");
            JobType::Service
        }
        Some(other) => {
            section.problem(format!("unknown job type {other:?}: it is service, batch or sysbatch"));
            JobType::Service
        }
    };
    let name = section.text("name").unwrap_or_else(|| id.clone());
    let region = section.text("region").unwrap_or_else(|| "global".to_owned());
    let namespace = section.text("namespace").unwrap_or_else(|| "default".to_owned());
    let datacenters = section.texts("datacenters").unwrap_or_default();
    // A pattern such as "*" names no datacenter that a task could be told of.
    let datacenter = datacenters
        .into_iter()
        .find(|name| !name.contains('*'))
        .unwrap_or_else(|| "dc1".to_owned());
    section.whole("priority", 1);
    let meta = section.text_map("meta");
    let groups: Vec<Group> = section
        .labelled("group")
        .into_iter()
        .map(|(name, section)| group(kind, &meta, name, section))
        .collect();
    if groups.is_empty() {
        section.problem(format!("{} has no block \"group\"", section.name));
    }
    section.finish(ONLY_NOMAD_JOB);
    Job {
        id,
        name,
        kind,
        region,
        namespace,
        datacenter,
        groups,
    }
}

fn group(kind: JobType, meta: &BTreeMap<String, String>, name: String, section: Section<'_, '_>) -> Group {
    check_name(&section, "group", &name);
    let count = section
        .whole("count", 0)
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1);
    let default = match kind {
        JobType::Service => Policy::SERVICE,
        JobType::Batch | JobType::Sysbatch => Policy::BATCH,
    };
    let restart = restart(&section, default);
    let mut meta = meta.clone();
    meta.extend(section.text_map("meta"));
    let tasks: Vec<Task> = section
        .labelled("task")
        .into_iter()
        .map(|(name, section)| task(restart, &meta, name, section))
        .collect();
    if tasks.is_empty() {
        section.problem(format!("{} has no block \"task\"", section.name));
    } else if tasks.iter().all(|task| task.lifecycle != Lifecycle::Main) {
        section.problem(format!(
            "{} has no main task: each has a block \"lifecycle\"",
            section.name
        ));
    }
    if tasks.iter().filter(|task| task.leader).count() > 1 {
        section.problem(format!("{} has more than one leader", section.name));
    }
    section.finish(ONLY_NOMAD_GROUP);
    Group { name, count, tasks }
}

fn task(restart_of_group: Policy, meta: &BTreeMap<String, String>, name: String, section: Section<'_, '_>) -> Task {
    check_name(&section, "task", &name);
    if name == "alloc" {
        section.problem("a task cannot be named \"alloc\": the directory that tasks share has that name");
    }
    let driver = section.text("driver").unwrap_or_default();
    if driver.is_empty() {
        section.problem(format!("{} has no attribute \"driver\"", section.name));
    } else if driver.contains(['/', '\0']) {
        section.problem(format!("driver {driver:?} of {} is no name of a driver", section.name));
    }
    let mut task_meta = meta.clone();
    task_meta.extend(section.text_map("meta"));
    let kill_signal = section.text("kill_signal").unwrap_or_default();
    if !kill_signal.is_empty() && holdfast_sys::signal::number(&kill_signal).is_none() {
        section.problem(format!(
            "unknown signal {kill_signal:?} in attribute \"kill_signal\" of {}",
            section.name
        ));
    }
    let task = Task {
        config: section.opaque("config"),
        env: section.text_map("env"),
        meta: task_meta,
        user: section.text("user").unwrap_or_default(),
        kill_signal,
        kill_timeout: section.duration("kill_timeout").unwrap_or(Duration::from_secs(5)),
        leader: section.boolean("leader").unwrap_or_default(),
        lifecycle: lifecycle(&section),
        resources: resources(&section),
        logs: logs(&section),
        restart: restart(&section, restart_of_group),
        name,
        driver,
    };
    section.finish(ONLY_NOMAD_TASK);
    task
}

/// Names become names of directories and parts of task ids.
fn check_name(section: &Section<'_, '_>, what: &str, name: &str) {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) || name.len() > 128 {
        section.problem(format!(
            "{what} name {name:?} is empty, too long, or holds a slash or NUL"
        ));
    }
}

fn lifecycle(task: &Section<'_, '_>) -> Lifecycle {
    let Some(section) = task.block("lifecycle") else {
        return Lifecycle::Main;
    };
    let sidecar = section.boolean("sidecar").unwrap_or_default();
    let lifecycle = match section.text("hook").as_deref() {
        Some("prestart") => Lifecycle::Prestart { sidecar },
        Some("poststart") => Lifecycle::Poststart { sidecar },
        Some("poststop") => Lifecycle::Poststop,
        other => {
            section.problem(format!(
                "hook {:?} in {} is not prestart, poststart or poststop",
                other.unwrap_or(""),
                section.name
            ));
            Lifecycle::Main
        }
    };
    section.finish(&[]);
    lifecycle
}

fn resources(task: &Section<'_, '_>) -> Resources {
    let mut resources = Resources {
        cpu_mhz: 100,
        memory_mib: 300,
        memory_max_mib: 0,
    };
    let Some(section) = task.block("resources") else {
        return resources;
    };
    // The least values are those that Nomad's scheduler accepts.
    resources.cpu_mhz = section.whole("cpu", 1).unwrap_or(resources.cpu_mhz);
    resources.memory_mib = section.whole("memory", 10).unwrap_or(resources.memory_mib);
    resources.memory_max_mib = section.whole("memory_max", -1).unwrap_or(0);
    if resources.memory_max_mib > 0 && resources.memory_max_mib < resources.memory_mib {
        section.problem(format!(
            "memory_max {} in {} is less than memory {}",
            resources.memory_max_mib, section.name, resources.memory_mib
        ));
    }
    section.finish(ONLY_NOMAD_RESOURCES);
    resources
}

fn logs(task: &Section<'_, '_>) -> Logs {
    let mut logs = Logs {
        max_files: 10,
        max_file_size_mib: 10,
        disabled: false,
    };
    let Some(section) = task.block("logs") else { return logs };
    logs.max_files = section.whole("max_files", 1).unwrap_or(logs.max_files);
    logs.max_file_size_mib = section.whole("max_file_size", 1).unwrap_or(logs.max_file_size_mib);
    logs.disabled = section.boolean("disabled").unwrap_or_default();
    section.finish(&["enabled"]);
    logs
}

fn restart(parent: &Section<'_, '_>, default: Policy) -> Policy {
    let Some(section) = parent.block("restart") else {
        return default;
    };
    let mode = match section.text("mode").as_deref() {
        None => default.mode,
        Some("fail") => Mode::Fail,
        Some("delay") => Mode::Delay,
        Some(other) => {
            section.problem(format!(
                "restart mode {other:?} in {} is neither \"fail\" nor \"delay\"",
                section.name
            ));
            default.mode
        }
    };
    let policy = Policy {
        attempts: section
            .whole("attempts", 0)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(default.attempts),
        interval: section.duration("interval").unwrap_or(default.interval),
        delay: section.duration("delay").unwrap_or(default.delay),
        mode,
    };
    if policy.interval < Duration::from_secs(5) {
        section.problem(format!("the interval in {} is shorter than 5s", section.name));
    } else if policy.attempts == 0 && policy.mode == Mode::Delay {
        section.problem(format!(
            "{} has no attempts and mode \"delay\", which is ambiguous",
            section.name
        ));
    } else if policy.delay.saturating_mul(policy.attempts) > policy.interval {
        section.problem(format!(
            "{} restarts {} times with a delay of {}, which does not fit into its interval of {}",
            section.name,
            policy.attempts,
            holdfast_sandbox::duration::format(policy.delay),
            holdfast_sandbox::duration::format(policy.interval)
        ));
    }
    section.finish(&["render_templates"]);
    policy
}

#[cfg(test)]
mod tests;
