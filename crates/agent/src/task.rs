//! One task from its first start to its last end.

use crate::agent::Shared;
use crate::alloc_dir::AllocDir;
use crate::console;
use crate::environment::{self, Context, Directories, Variables};
use crate::hooks::{Cgroup, Directory, Hook, Output, Stats};
use crate::id;
use crate::jobfile::{JobType, Lifecycle, Task};
use crate::lifecycle::Urgency;
use crate::plugin::{Connection, Plugin, WaitError};
use crate::restart::{Decision, Outcome, Tracker};
use crate::schema;
use crate::scope::{self, TaskScope};
use crate::store::{Ended, TaskRecord};
use holdfast_wire::nomad_driver::driver_capabilities::FsIsolation;
use holdfast_wire::nomad_driver::{
    AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources, ExitResult, LinuxResources, Resources,
    TaskConfig, TaskHandle, TaskState,
};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// One allocation: a group's tasks, running together once.
#[derive(Debug)]
pub(crate) struct Alloc {
    pub id: String,
    pub group: String,
    pub index: u32,
    pub dir: AllocDir,
}

/// What became of a task.
#[derive(Debug)]
pub(crate) struct Report {
    pub label: Rc<str>,
    /// `None`: it was asked to end before it ever started.
    pub ended: Option<Ended>,
    /// Whether it ended because it was asked to.
    pub asked: bool,
    pub restarts: u32,
}

impl Report {
    /// Whether the task failed by itself.
    pub(crate) fn failed(&self) -> bool {
        !self.asked && self.ended.as_ref().is_some_and(|ended| ended.failed)
    }
}

/// Runs one task.
pub(crate) struct Runner {
    pub shared: Rc<Shared>,
    pub alloc: Rc<Alloc>,
    pub task: Rc<Task>,
    pub plugin: Rc<Plugin>,
    pub label: Rc<str>,
    /// What an agent before this one knew of the task's run.
    pub known: Option<TaskRecord>,
    pub urgency: watch::Receiver<Urgency>,
    /// Told once the task runs, with `number`.
    pub started: mpsc::UnboundedSender<usize>,
    pub number: usize,
}

/// How one run of the task came to its end.
enum RunEnd {
    Exited(ExitResult),
    /// It may or may not have run; what is known is the reason why its end is not.
    Unknown(String),
    NotStarted {
        reason: String,
        retry: bool,
    },
    /// The driver is gone for good; the task may run on, and an agent after this one will find it.
    Abandoned(String),
}

impl RunEnd {
    fn outcome(&self) -> Outcome {
        match self {
            RunEnd::Exited(result) if result.exit_code == 0 && result.signal == 0 => Outcome::Succeeded,
            RunEnd::Exited(_) | RunEnd::Unknown(_) | RunEnd::Abandoned(_) => Outcome::Failed,
            RunEnd::NotStarted { retry: true, .. } => Outcome::StartFailed,
            RunEnd::NotStarted { retry: false, .. } => Outcome::StartImpossible,
        }
    }

    fn into_ended(self) -> Ended {
        let failed = self.outcome() != Outcome::Succeeded;
        match self {
            RunEnd::Exited(ExitResult {
                exit_code,
                signal,
                oom_killed,
            }) => {
                let error = oom_killed.then(|| "killed for want of memory".to_owned());
                Ended {
                    exit_code,
                    signal,
                    error,
                    failed,
                }
            }
            RunEnd::Unknown(reason) | RunEnd::Abandoned(reason) | RunEnd::NotStarted { reason, .. } => Ended {
                exit_code: -1,
                signal: 0,
                error: Some(reason),
                failed,
            },
        }
    }
}

impl Ended {
    /// The end for people.
    pub(crate) fn describe(&self) -> String {
        let why = self
            .error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        match (self.signal, self.exit_code) {
            (0, -1) => format!("failed{why}"),
            (0, code) => format!("exited with code {code}{why}"),
            (signal, _) => match holdfast_sys::signal::name(signal) {
                Some(name) => format!("killed by signal {signal} ({name}){why}"),
                None => format!("killed by signal {signal}{why}"),
            },
        }
    }
}

impl Runner {
    /// Runs the task until it is over: restarts included, or until it is asked to end.
    pub(crate) async fn run(mut self) -> Report {
        let mut hooks = match self.hooks() {
            Ok(hooks) => hooks,
            Err(error) => {
                let end = RunEnd::NotStarted {
                    reason: console::in_one_line(&error),
                    retry: false,
                };
                return self.report(Some(end), 0, "");
            }
        };
        // A service is started again when it ends well; what runs once by nature is not.
        let on_success = self.shared.job.kind == JobType::Service
            && (self.task.lifecycle == Lifecycle::Main || self.task.lifecycle.is_sidecar());
        let mut tracker = Tracker::new(self.task.restart, on_success);
        let clock = Instant::now();
        let mut restarts = 0;
        let mut note = String::new();
        let end = loop {
            if *self.urgency.borrow() > Urgency::None && self.known.is_none() {
                break None;
            }
            let end = self.run_once(&mut hooks).await;
            if let RunEnd::Abandoned(_) = end {
                // Its directories, its cgroups and its record are still in use.
                return Report {
                    label: self.label,
                    ended: Some(end.into_ended()),
                    asked: false,
                    restarts,
                };
            }
            if *self.urgency.borrow() > Urgency::None {
                break Some(end);
            }
            match tracker.decide(end.outcome(), clock.elapsed(), id::chance()) {
                Decision::Complete => break Some(end),
                Decision::Fail(reason) => {
                    note = format!("; not restarted: {reason}");
                    break Some(end);
                }
                Decision::Restart { after, reason } => {
                    let ended = end.into_ended();
                    let after_text =
                        holdfast_sandbox::duration::format(Duration::from_millis(after.as_millis() as u64));
                    console::say(format_args!(
                        "{}: {}; {reason}, in {after_text}",
                        self.label,
                        ended.describe()
                    ));
                    tokio::select! {
                        () = tokio::time::sleep(after) => restarts += 1,
                        () = asked(&mut self.urgency, Urgency::None) => {
                            hooks.iter_mut().rev().for_each(|hook| hook.stop());
                            return Report { label: self.label, ended: Some(ended), asked: true, restarts };
                        }
                    }
                }
            }
        };
        hooks.iter_mut().rev().for_each(|hook| hook.stop());
        self.report(end, restarts, &note)
    }

    /// Keeps the end for an agent after this one, and tells it.
    fn report(self, end: Option<RunEnd>, restarts: u32, note: &str) -> Report {
        let asked = *self.urgency.borrow() > Urgency::None;
        let ended = end.map(RunEnd::into_ended);
        if let Some(ended) = &ended {
            let failed = ended.failed && !asked;
            self.keep(&TaskRecord {
                ended: Some(Ended {
                    failed,
                    ..ended.clone()
                }),
                ..self.record("", None)
            });
            console::say(format_args!("{}: {}{note}", self.label, ended.describe()));
        }
        Report {
            label: self.label,
            ended,
            asked,
            restarts,
        }
    }

    fn hooks(&self) -> anyhow::Result<Vec<Box<dyn Hook>>> {
        let (dir, task) = (self.alloc.dir.clone(), self.task.name.clone());
        let mut hooks: Vec<Box<dyn Hook>> = vec![Box::new(Directory { dir, task })];
        if let Some(version) = self.shared.cgroups {
            let scope = TaskScope::new(version, &self.alloc.id, &self.task.name)?;
            hooks.push(Box::new(Cgroup { scope }));
        }
        if !self.task.logs.disabled {
            let (label, recovered) = (self.label.clone(), self.known.is_some());
            hooks.push(Box::new(Output::new(
                &self.alloc.dir,
                &self.task.name,
                label,
                recovered,
            )));
        }
        if self.shared.stats {
            let (plugin, label) = (self.plugin.clone(), self.label.clone());
            hooks.push(Box::new(Stats {
                plugin,
                label,
                printing: None,
            }));
        }
        Ok(hooks)
    }

    /// One start or recovery, and the wait for its end.
    async fn run_once(&mut self, hooks: &mut [Box<dyn Hook>]) -> RunEnd {
        let impossible = |reason: String| RunEnd::NotStarted { reason, retry: false };
        for hook in hooks.iter_mut() {
            if let Err(error) = hook.prestart() {
                return impossible(format!("{}: {}", hook.name(), console::in_one_line(&error)));
            }
        }
        let task_id = match self.known.take() {
            Some(known) => match self.recover(known).await {
                Ok(task_id) => task_id,
                Err(end) => return end,
            },
            None => match self.start().await {
                Ok(task_id) => task_id,
                Err(end) => return end,
            },
        };
        // Nobody listens any more when the allocation is being given up.
        _ = self.started.send(self.number);
        hooks.iter_mut().for_each(|hook| hook.poststart(&task_id));
        let end = self.wait(&task_id).await;
        hooks.iter_mut().for_each(|hook| hook.exited());
        if let RunEnd::Abandoned(_) = end {
            return end;
        }
        self.plugin.destroy_task(&task_id).await;
        self.forget();
        end
    }

    async fn start(&self) -> Result<String, RunEnd> {
        let impossible = |error: anyhow::Error| RunEnd::NotStarted {
            reason: console::in_one_line(&error),
            retry: false,
        };
        let connection = self.plugin.connection(0).await.map_err(impossible)?;
        let unique = id::short().map_err(|error| impossible(error.into()))?;
        let config = self.config(format!("{}/{}/{unique}", self.alloc.id, self.task.name), &connection);
        let config = config.map_err(|error| impossible(error.into()))?;
        let handle = match self.plugin.start_task(&config).await {
            Ok(handle) => handle,
            Err(error) => {
                return Err(RunEnd::NotStarted {
                    reason: error.message,
                    retry: error.retry,
                });
            }
        };
        self.keep(&self.record(&config.id, Some(&handle)));
        let pid = self
            .plugin
            .main_pid(&config.id)
            .await
            .unwrap_or_else(|| "unknown".to_owned());
        console::say(format_args!("{}: started, pid {pid}", self.label));
        Ok(config.id)
    }

    /// Takes over a task that an agent before this one started.
    async fn recover(&self, known: TaskRecord) -> Result<String, RunEnd> {
        let unknown = |reason: String| RunEnd::Unknown(format!("the task cannot be recovered: {reason}"));
        let connection = self
            .plugin
            .connection(0)
            .await
            .map_err(|error| unknown(console::in_one_line(&error)))?;
        let config = self
            .config(known.task_id.clone(), &connection)
            .map_err(|error| unknown(error.to_string()))?;
        let handle = TaskHandle {
            version: known.handle_version,
            // After a restart of its own, Nomad has no driver configuration either (contract S-7).
            config: Some(TaskConfig {
                msgpack_driver_config: Vec::new(),
                ..config
            }),
            state: TaskState::Running.into(),
            driver_state: known
                .driver_state()
                .ok_or_else(|| unknown("its record is damaged".to_owned()))?,
        };
        if let Err(status) = self.plugin.recover_task(&known.task_id, handle).await {
            self.plugin.destroy_task(&known.task_id).await;
            self.forget();
            return Err(unknown(status.message().to_owned()));
        }
        let pid = self
            .plugin
            .main_pid(&known.task_id)
            .await
            .unwrap_or_else(|| "unknown".to_owned());
        console::say(format_args!("{}: recovered, pid {pid}", self.label));
        Ok(known.task_id)
    }

    /// Waits for the end of a run, and brings it about when asked to.
    async fn wait(&mut self, task_id: &str) -> RunEnd {
        let mut urgency = self.urgency.clone();
        let mut told = Urgency::None;
        let waiting = self.plugin.wait_task(task_id);
        tokio::pin!(waiting);
        let mut stopping = None;
        loop {
            tokio::select! {
                result = &mut waiting => return match result {
                    Ok(result) => RunEnd::Exited(result),
                    Err(WaitError::Unknown(reason)) => RunEnd::Unknown(reason),
                    Err(WaitError::DriverGone(reason)) => RunEnd::Abandoned(reason),
                },
                () = asked(&mut urgency, told) => {
                    told = *urgency.borrow();
                    let grace = if told == Urgency::Kill { Duration::ZERO } else { self.task.kill_timeout };
                    let (plugin, signal) = (&self.plugin, &self.task.kill_signal);
                    stopping = Some(Box::pin(plugin.stop_task(task_id, grace, signal)));
                }
                result = async { match &mut stopping { Some(stopping) => stopping.await, None => pending().await } } => {
                    stopping = None;
                    if let Err(status) = result {
                        console::say(format_args!("{}: cannot be stopped: {}", self.label, status.message()));
                    }
                }
            }
        }
    }

    fn record(&self, task_id: &str, handle: Option<&TaskHandle>) -> TaskRecord {
        TaskRecord {
            version: TaskRecord::VERSION,
            alloc_id: self.alloc.id.clone(),
            job_id: self.shared.job.id.clone(),
            group: self.alloc.group.clone(),
            index: self.alloc.index,
            task: self.task.name.clone(),
            driver: self.task.driver.clone(),
            task_id: task_id.to_owned(),
            handle_version: handle.map_or(0, |handle| handle.version),
            driver_state: TaskRecord::encode_driver_state(handle.map_or(&[], |handle| &handle.driver_state)),
            ended: None,
        }
    }

    /// The task goes on without a record, but an agent after this one will not find it.
    fn keep(&self, record: &TaskRecord) {
        if let Err(error) = self.shared.store.write_task(record) {
            console::say(format_args!("{}: {error}", self.label));
        }
    }

    fn forget(&self) {
        if let Err(error) = self.shared.store.remove_task(&self.alloc.id, &self.task.name) {
            console::say(format_args!("{}: {error}", self.label));
        }
    }

    fn config(&self, id: String, connection: &Connection) -> Result<TaskConfig, schema::SchemaError> {
        task_config(&self.shared, &self.alloc, &self.task, id, connection)
    }
}

/// Returns when more is asked for than `told`; never if that cannot happen any more.
async fn asked(urgency: &mut watch::Receiver<Urgency>, told: Urgency) {
    if urgency.wait_for(|urgency| *urgency > told).await.is_err() {
        pending().await
    }
}

/// What the driver gets to start a task, as Nomad's client fills it.
pub(crate) fn task_config(
    shared: &Shared,
    alloc: &Alloc,
    task: &Task,
    id: String,
    connection: &Connection,
) -> Result<TaskConfig, schema::SchemaError> {
    let variables = variables(shared, alloc, task, connection.fs_isolation);
    let msgpack_driver_config = schema::encode(&connection.task_schema, &task.config, &variables)?;
    let resources = &task.resources;
    let log_path = |stream: &str| match task.logs.disabled {
        true => "/dev/null".to_owned(),
        false => alloc.dir.fifo(&task.name, stream).display().to_string(),
    };
    let cpuset_cgroup = shared
        .cgroups
        .map(|version| scope::cpuset_cgroup(version, &alloc.id, &task.name));
    let user = environment::interpolate(&task.user, &variables);
    Ok(TaskConfig {
        id,
        name: task.name.clone(),
        msgpack_driver_config,
        env: variables.environment.into_iter().collect(),
        device_env: Default::default(),
        resources: Some(Resources {
            allocated_resources: Some(AllocatedTaskResources {
                cpu: Some(AllocatedCpuResources {
                    cpu_shares: resources.cpu_mhz,
                }),
                memory: Some(AllocatedMemoryResources {
                    memory_mb: resources.memory_mib,
                    memory_max_mb: resources.memory_max_mib,
                }),
                networks: Vec::new(),
            }),
            linux_resources: Some(LinuxResources {
                cpu_period: 0,
                cpu_quota: 0,
                cpu_shares: resources.cpu_mhz,
                memory_limit_bytes: resources.memory_mib.max(resources.memory_max_mib) << 20,
                oom_score_adj: 0,
                cpuset_cpus: String::new(),
                cpuset_cgroup: cpuset_cgroup.map(|path| path.display().to_string()).unwrap_or_default(),
                percent_ticks: resources.cpu_mhz as f64 / shared.host.total_mhz() as f64,
            }),
            ports: Vec::new(),
        }),
        mounts: Vec::new(),
        devices: Vec::new(),
        user,
        alloc_dir: alloc.dir.path().display().to_string(),
        stdout_path: log_path("stdout"),
        stderr_path: log_path("stderr"),
        task_group_name: alloc.group.clone(),
        job_name: shared.job.name.clone(),
        alloc_id: alloc.id.clone(),
        network_isolation_spec: None,
        dns: None,
        job_id: shared.job.id.clone(),
        namespace: shared.job.namespace.clone(),
        node_name: shared.host.name.clone(),
        node_id: String::new(),
        parent_job_id: String::new(),
    })
}

fn variables(shared: &Shared, alloc: &Alloc, task: &Task, isolation: FsIsolation) -> Variables {
    let directories = match isolation {
        FsIsolation::None => alloc.dir.directories(&task.name),
        FsIsolation::Chroot | FsIsolation::Image | FsIsolation::Unveil => Directories::inside_a_root(),
    };
    let cgroup_parent = shared
        .cgroups
        .map(|version| scope::parent(version, &alloc.id, &task.name));
    environment::variables(&Context {
        job: &shared.job,
        group: &alloc.group,
        task,
        alloc_id: &alloc.id,
        index: alloc.index,
        directories: &directories,
        cgroup_parent: cgroup_parent.as_deref(),
        host: (isolation != FsIsolation::Image).then_some(&shared.environment),
        node: &shared.node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(exit_code: i32, signal: i32, oom_killed: bool) -> RunEnd {
        RunEnd::Exited(ExitResult {
            exit_code,
            signal,
            oom_killed,
        })
    }

    #[test]
    fn success_needs_code_0_and_no_signal_and_no_doubt_w2() {
        assert_eq!(exited(0, 0, false).outcome(), Outcome::Succeeded);
        assert_eq!(exited(3, 0, false).outcome(), Outcome::Failed);
        assert_eq!(exited(0, 9, false).outcome(), Outcome::Failed);
        assert_eq!(RunEnd::Unknown("x".to_owned()).outcome(), Outcome::Failed);
        assert!(RunEnd::Unknown("x".to_owned()).into_ended().failed);
    }

    #[test]
    fn ends_are_told_in_words() {
        for (end, text) in [
            (exited(0, 0, false), "exited with code 0"),
            (exited(7, 0, false), "exited with code 7"),
            (
                exited(137, 9, true),
                "killed by signal 9 (SIGKILL): killed for want of memory",
            ),
            (RunEnd::Unknown("no trace".to_owned()), "failed: no trace"),
            (
                RunEnd::NotStarted {
                    reason: "no such file".to_owned(),
                    retry: true,
                },
                "failed: no such file",
            ),
        ] {
            assert_eq!(end.into_ended().describe(), text);
        }
    }
}
