//! From a task's options to everything that an executor needs to know, looked up and checked.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_cgroup::{CpuQuota, IoMax, Limits, MemoryMax, PidsMax, Scope};
use holdfast_record::{
    Attributes, Ending, ExitType, IoPriority, KillStep, KillTarget, MaxRuntime, Overflow, Rlimit, Stragglers,
};
use holdfast_wire::executor_v1 as wire;
use thiserror::Error;

use crate::command::{self, CommandError};
use crate::environment::{Arguments, Environment, EnvironmentError};
use crate::output::{LogCollection, LogRotation, OutputError, Sink, Stream};
use crate::retry;
use crate::users::{Credentials, DeniedIdError, DeniedIds, Resolver, UserError};
use crate::work_dir::{self, WorkDirError};

/// Why a task cannot be planned. No text shows a value of the environment or an argument.
#[derive(Debug, Error)]
pub enum PlanError {
    /// See [`UserError`].
    #[error(transparent)]
    User(#[from] UserError),
    /// See [`DeniedIdError`].
    #[error(transparent)]
    DeniedId(#[from] DeniedIdError),
    /// See [`WorkDirError`].
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// See [`CommandError`].
    #[error(transparent)]
    Command(#[from] CommandError),
    /// See [`EnvironmentError`].
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// See [`OutputError`].
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Looking for commands needs a place to start from.
    #[error("task directory {0:?} is not an absolute path")]
    TaskDir(String),
    /// Outside what proc_pid_oom_score_adj(5) takes.
    #[error("oom_score_adj {0} is not between -1000 and 1000")]
    OomScoreAdj(i64),
    /// Neither a size nor the agent's word for "no limit".
    #[error("{option} {value} is neither a size in MiB nor {no_limit}")]
    Memory {
        /// `memory` or `memory_max`.
        option: &'static str,
        /// As it was given.
        value: i64,
        /// What would not be a size and be allowed.
        no_limit: &'static str,
    },
    /// The agent makes it before the task starts.
    #[error("network namespace {}: {source}", path.display())]
    NetworkNamespace {
        /// As it was given.
        path: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// Cgroup directories are where they are.
    #[error("cgroup directory {0:?} is not an absolute path")]
    CgroupDir(String),
}

impl PlanError {
    /// Whether the same call may succeed a moment later (contract, S-2). Configuration errors may not.
    pub fn is_retryable(&self) -> bool {
        match self {
            PlanError::User(error) => error.is_retryable(),
            PlanError::DeniedId(error) => error.is_retryable(),
            PlanError::WorkDir(error) => error.is_retryable(),
            PlanError::Command(error) => error.is_retryable(),
            PlanError::Environment(error) => error.is_retryable(),
            PlanError::Output(error) => error.is_retryable(),
            PlanError::NetworkNamespace { source, .. } => retry::may_pass(source),
            PlanError::TaskDir(_) | PlanError::OomScoreAdj(_) | PlanError::Memory { .. } | PlanError::CgroupDir(_) => {
                false
            }
        }
    }
}

/// The task's cgroups, as absolute paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Directories that the main process joins: one on v2, one per hierarchy on v1.
    pub join: Vec<String>,
    /// The directory by which the task is killed and counted; absent: no cgroup.
    pub scope: Option<String>,
    /// Directories that are made and removed with the task.
    pub own: Vec<String>,
    /// The operator or the job named the cgroup: it is joined, never limited, killed or removed.
    pub foreign: bool,
}

impl From<Scope> for Placement {
    fn from(scope: Scope) -> Self {
        let Scope {
            version: _,
            join,
            kill,
            own,
            // Made before the start, by whoever made the scope.
            shared: _,
            foreign,
        } = scope;
        // They were made from texts.
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Placement {
            join: join.into_iter().map(text).collect(),
            scope: Some(text(kill)),
            own: own.into_iter().map(text).collect(),
            foreign,
        }
    }
}

/// What a job, its agent and the operator asked for, before anything is looked up.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions {
    /// The agent's id of this start of the task.
    pub task_id: String,
    /// Id of the allocation.
    pub alloc_id: String,
    /// The task's name in its job.
    pub task_name: String,
    /// Name or path of the program; see [`command::lookup`].
    pub command: String,
    /// What follows it in `argv`.
    pub args: Arguments,
    /// Variables that the agent and the job give.
    pub environment: Environment,
    /// Globs of names that are removed: the operator's and the task's `denied_envvars`.
    pub denied_environment: Vec<String>,
    /// See [`Resolver::resolve`]. Absent or empty: whoever the executor is.
    pub user: Option<String>,
    /// Absolute. Absent or empty: the task's directory.
    pub work_dir: Option<String>,
    /// The task's directory, absolute.
    pub task_dir: String,
    /// Where the agent would have standard output collected; see [`Sink::derive`].
    pub stdout_path: String,
    /// The same for standard error.
    pub stderr_path: String,
    /// Who collects output.
    pub log_collection: LogCollection,
    /// -1000 to 1000 (proc_pid_oom_score_adj(5)).
    pub oom_score_adj: i64,
    /// Path of a network namespace. Absent or empty: the executor's.
    pub network_namespace: Option<String>,
    /// The task's cgroups.
    pub placement: Placement,
    /// `memory` of the allocated resources, in MiB; 0: nothing was said.
    pub memory_mib: i64,
    /// `memory_max` of the allocated resources, in MiB; 0: nothing was said, -1: no limit.
    pub memory_max_mib: i64,
    /// In the unit of v1's cpu.shares; 0: nothing was said.
    pub cpu_shares: i64,
    /// CPUs in list format; empty: nothing was said.
    pub cpuset_cpus: String,
    /// `PATH` of the host, in which commands are looked for.
    pub search_path: Option<OsString>,
    /// Limits that the job asks for beside its resources.
    pub limits: Limits,
    /// Whether a limit that cannot be applied fails the start.
    pub strict_limits: bool,
    /// Umask, priorities, resource limits.
    pub attributes: Attributes,
    /// How the task ends.
    pub ending: Ending,
    /// How many sessions may run at a time; 0: no cap.
    pub max_sessions: u32,
}

/// What an executor is to do, with nothing left to look up. `Display` and `Debug` show no argument and no variable,
/// only how many there are: both may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPlan {
    /// The agent's id of this start of the task.
    pub task_id: String,
    /// Id of the allocation.
    pub alloc_id: String,
    /// The task's name in its job.
    pub task_name: String,
    /// Absolute path of the program; also `argv[0]`.
    pub command: String,
    /// What follows it.
    pub args: Arguments,
    /// All of it.
    pub environment: Environment,
    /// Absolute.
    pub work_dir: String,
    /// Absent: whoever the executor is.
    pub credentials: Option<Credentials>,
    /// File descriptor 1.
    pub stdout: Sink,
    /// File descriptor 2.
    pub stderr: Sink,
    /// The task's cgroups.
    pub placement: Placement,
    /// What is written into them; nothing into a foreign one.
    pub limits: Limits,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Absent: the executor's.
    pub network_namespace: Option<String>,
    /// Whether a limit that cannot be applied fails the start.
    pub strict_limits: bool,
    /// Umask, priorities, resource limits.
    pub attributes: Attributes,
    /// How the task ends.
    pub ending: Ending,
    /// How many sessions may run at a time; 0: no cap.
    pub max_sessions: u32,
    /// Whom permissions were checked for: `credentials`, or whoever planned.
    runs_as: Credentials,
}

impl TaskPlan {
    /// Looks everything up and checks it. Nothing on the host has changed if this fails, and if it succeeds at most the
    /// mode of the command ([`command::make_executable`]).
    ///
    /// Blocks: see [`Resolver`].
    pub fn build(options: TaskOptions, resolver: &Resolver, denied: &DeniedIds) -> Result<TaskPlan, PlanError> {
        let TaskOptions {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            mut environment,
            denied_environment,
            user,
            work_dir,
            task_dir,
            stdout_path,
            stderr_path,
            log_collection,
            oom_score_adj,
            network_namespace,
            placement,
            memory_mib,
            memory_max_mib,
            cpu_shares,
            cpuset_cpus,
            search_path,
            limits: asked,
            strict_limits,
            attributes,
            ending,
            max_sessions,
        } = options;
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());

        if !Path::new(&task_dir).is_absolute() {
            return Err(PlanError::TaskDir(task_dir));
        }
        let oom_score_adj = match i32::try_from(oom_score_adj) {
            Ok(score) if (-1000..=1000).contains(&score) => score,
            _ => return Err(PlanError::OomScoreAdj(oom_score_adj)),
        };
        check_memory(memory_mib, memory_max_mib)?;
        let limits = match placement.foreign {
            true => Limits::default(),
            false => limits_of(
                Limits::of_resources(memory_mib, memory_max_mib, cpu_shares, &cpuset_cpus),
                asked,
            ),
        };
        check_placement(&placement)?;
        let stdout = Sink::derive(Stream::Stdout, &stdout_path, &task_name, log_collection)?;
        let stderr = Sink::derive(Stream::Stderr, &stderr_path, &task_name, log_collection)?;
        args.check()?;
        environment.deny(&denied_environment);
        environment.check()?;

        let credentials = said(user).map(|user| resolver.resolve(&user)).transpose()?;
        let runs_as = match &credentials {
            Some(credentials) => credentials.clone(),
            None => resolver.current()?,
        };
        denied.check(&runs_as)?;
        if let Some(Credentials {
            uid: _,
            gid: _,
            groups: _,
            name,
            home,
            shell: _,
        }) = &credentials
        {
            // After the denied ones were removed, and over what the job set: so does the built-in.
            environment.set("USER", name);
            environment.set("LOGNAME", name);
            environment.set("HOME", home);
        }

        let network_namespace = said(network_namespace);
        if let Some(path) = &network_namespace {
            let failed = |source| PlanError::NetworkNamespace {
                path: path.into(),
                source,
            };
            // Followed by the kernel: the links below /proc/PID/ns lead nowhere by their text.
            std::fs::metadata(path).map_err(failed)?;
        }
        let work_dir = said(work_dir).unwrap_or_else(|| task_dir.clone());
        work_dir::check(Path::new(&work_dir), &runs_as)?;
        let path = command::lookup(Path::new(&task_dir), &command, search_path.as_deref())?;
        command::check(&path, Path::new(&work_dir), &runs_as)?;
        let command = path
            .to_str()
            .ok_or_else(|| CommandError::NotUtf8(path.clone()))?
            .to_owned();
        command::make_executable(&path, Path::new(&task_dir), &runs_as)?;

        Ok(TaskPlan {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            environment,
            work_dir,
            credentials,
            stdout,
            stderr,
            placement,
            limits,
            oom_score_adj,
            network_namespace,
            strict_limits,
            attributes,
            ending,
            max_sessions,
            runs_as,
        })
    }

    /// What to say when the executor was refused (EACCES, ENOENT) at entering the working directory or executing the
    /// command: the closed component, as far as the permission bits show one.
    pub fn explain_refusal(&self) -> Option<PlanError> {
        let work_dir = Path::new(&self.work_dir);
        let entering = work_dir::explain(work_dir, &self.runs_as).map(PlanError::WorkDir);
        entering.or_else(|| command::explain(Path::new(&self.command), work_dir, &self.runs_as).map(PlanError::Command))
    }
}

/// The agent's words for memory (contract, S-9).
fn check_memory(memory_mib: i64, memory_max_mib: i64) -> Result<(), PlanError> {
    if memory_mib < 0 {
        return Err(PlanError::Memory {
            option: "memory",
            value: memory_mib,
            no_limit: "0",
        });
    }
    if memory_max_mib < -1 {
        return Err(PlanError::Memory {
            option: "memory_max",
            value: memory_max_mib,
            no_limit: "-1 for no limit",
        });
    }
    Ok(())
}

fn check_placement(placement: &Placement) -> Result<(), PlanError> {
    let Placement {
        join,
        scope,
        own,
        foreign: _,
    } = placement;
    match join
        .iter()
        .chain(scope)
        .chain(own)
        .find(|dir| !Path::new(dir).is_absolute())
    {
        Some(dir) => Err(PlanError::CgroupDir(dir.clone())),
        None => Ok(()),
    }
}

impl From<TaskPlan> for wire::TaskSpec {
    /// Takes every field by name, so that a new one, on either side, does not compile until it is thought of.
    fn from(plan: TaskPlan) -> Self {
        let TaskPlan {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            environment,
            work_dir,
            credentials,
            stdout,
            stderr,
            placement,
            limits,
            oom_score_adj,
            network_namespace,
            strict_limits,
            attributes:
                Attributes {
                    umask,
                    nice,
                    io_priority,
                    rlimits,
                },
            ending,
            max_sessions,
            runs_as: _,
        } = plan;
        let user = credentials
            .as_ref()
            .map(|credentials| credentials.name.clone())
            .unwrap_or_default();
        wire::TaskSpec {
            task_id,
            alloc_id,
            task_name,
            command,
            args: args.into_list(),
            env: environment.into_list(),
            work_dir,
            credentials: credentials.map(wire_credentials),
            stdout: wire_output(stdout),
            stderr: wire_output(stderr),
            placement: Some(wire_placement(placement)),
            limits: Some(wire_limits(limits)),
            oom_score_adj,
            network_namespace: network_namespace.unwrap_or_default(),
            user,
            umask: Some(umask),
            rlimits: rlimits.into_iter().map(wire_rlimit).collect(),
            nice,
            io_priority: io_priority.map(wire_io_priority),
            ending: Some(wire_ending(ending)),
            max_sessions,
            strict_limits,
        }
    }
}

fn wire_credentials(credentials: Credentials) -> wire::Credentials {
    let Credentials {
        uid,
        gid,
        groups,
        name: _,
        home: _,
        shell: _,
    } = credentials;
    wire::Credentials { uid, gid, groups }
}

fn wire_output(sink: Sink) -> Option<wire::Output> {
    let sink = match sink {
        Sink::Null => return None,
        Sink::Path(path) => wire::output::Sink::Path(path),
        Sink::Rotated {
            directory,
            prefix,
            rotation:
                LogRotation {
                    max_files,
                    max_file_bytes,
                    overflow,
                },
        } => wire::output::Sink::Rotated(wire::RotatedFiles {
            directory,
            prefix,
            max_files,
            max_file_bytes,
            drop_on_overflow: overflow == Overflow::Drop,
        }),
    };
    Some(wire::Output { sink: Some(sink) })
}

/// Cgroups as the executor is told of them.
pub fn wire_placement(placement: Placement) -> wire::Placement {
    let Placement {
        join,
        scope,
        own,
        foreign,
    } = placement;
    wire::Placement {
        join,
        scope: scope.unwrap_or_default(),
        own,
        foreign,
    }
}

/// Limits as the executor is told of them.
pub fn wire_limits(limits: Limits) -> wire::Limits {
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
    wire::Limits {
        memory_max_bytes: memory_max.map(MemoryMax::to_bytes),
        memory_low_bytes: memory_low.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        cpu_shares,
        cpuset_cpus,
        memory_high_bytes: memory_high.map(MemoryMax::to_bytes),
        memory_swap_bytes: memory_swap.map(MemoryMax::to_bytes),
        swappiness: swappiness.map(u32::from),
        oom_group,
        cpuset_mems,
        cpu_quota_us: cpu_quota.map(CpuQuota::to_us),
        cpu_period_us,
        cpu_burst_us,
        pids_max: pids_max.map(PidsMax::to_count),
        io_weight: io_weight.map(u32::from),
        io_max: io_max.into_iter().map(wire_io_max).collect(),
    }
}

fn wire_io_max(limit: IoMax) -> wire::IoMax {
    let IoMax {
        major,
        minor,
        read_bytes,
        write_bytes,
        read_operations,
        write_operations,
    } = limit;
    wire::IoMax {
        major,
        minor,
        read_bytes_per_second: read_bytes,
        write_bytes_per_second: write_bytes,
        read_operations_per_second: read_operations,
        write_operations_per_second: write_operations,
    }
}

fn wire_rlimit(limit: Rlimit) -> wire::Rlimit {
    let Rlimit { resource, soft, hard } = limit;
    wire::Rlimit { resource, soft, hard }
}

fn wire_io_priority(priority: IoPriority) -> wire::IoPriority {
    use wire::io_priority::Class;
    let (class, level) = match priority {
        IoPriority::Realtime(level) => (Class::Realtime, level),
        IoPriority::BestEffort(level) => (Class::BestEffort, level),
        IoPriority::Idle => (Class::Idle, 0),
    };
    wire::IoPriority {
        class: class.into(),
        level: level.into(),
    }
}

fn wire_ending(ending: Ending) -> wire::Ending {
    let Ending {
        kill_target,
        kill_sequence,
        stragglers,
        exit_type,
        max_runtime,
    } = ending;
    let target = match kill_target {
        KillTarget::Main => wire::KillTarget::Main,
        KillTarget::Group => wire::KillTarget::Group,
        KillTarget::Cgroup => wire::KillTarget::Cgroup,
    };
    let step = |KillStep { signal, grace_ms }| wire::KillStep { signal, grace_ms };
    let (max_runtime_ms, max_runtime_signal, max_runtime_grace_ms) = match max_runtime {
        None => (0, 0, 0),
        Some(MaxRuntime {
            limit_ms,
            signal,
            grace_ms,
        }) => (limit_ms, signal, grace_ms),
    };
    wire::Ending {
        kill_target: target.into(),
        kill_sequence: kill_sequence.into_iter().map(step).collect(),
        leave_stragglers: stragglers == Stragglers::Leave,
        exit_with_cgroup: exit_type == ExitType::Cgroup,
        max_runtime_ms,
        max_runtime_signal,
        max_runtime_grace_ms,
    }
}

/// The resources' limits, and over them what the job asked for besides.
fn limits_of(resources: Limits, asked: Limits) -> Limits {
    Limits {
        memory_max: asked.memory_max.or(resources.memory_max),
        memory_low: asked.memory_low.or(resources.memory_low),
        cpu_shares: asked.cpu_shares.or(resources.cpu_shares),
        cpuset_cpus: asked.cpuset_cpus.or(resources.cpuset_cpus),
        ..asked
    }
}

impl fmt::Display for TaskPlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskPlan {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            environment,
            work_dir,
            credentials,
            stdout,
            stderr,
            placement,
            limits:
                Limits {
                    memory_max,
                    memory_low,
                    cpu_shares,
                    cpuset_cpus,
                    ..
                },
            oom_score_adj,
            network_namespace,
            strict_limits: _,
            attributes: _,
            ending: _,
            max_sessions: _,
            runs_as,
        } = self;
        writeln!(
            out,
            "task              {task_name} ({task_id}) of allocation {alloc_id}"
        )?;
        writeln!(out, "command           {command} with {args}")?;
        writeln!(out, "environment       {environment}")?;
        writeln!(out, "working directory {work_dir}")?;
        let Credentials {
            uid,
            gid,
            groups,
            name,
            home: _,
            shell: _,
        } = runs_as;
        let inherited = if credentials.is_none() { ", inherited" } else { "" };
        writeln!(
            out,
            "user              {name} (uid {uid}, gid {gid}, groups {}{inherited})",
            join(groups)
        )?;
        writeln!(out, "stdout            {stdout}")?;
        writeln!(out, "stderr            {stderr}")?;
        let Placement {
            join: joined,
            scope,
            own,
            foreign,
        } = placement;
        let foreign = if *foreign { " (not ours)" } else { "" };
        writeln!(out, "cgroup            {}{foreign}", scope.as_deref().unwrap_or("none"))?;
        for dir in joined.iter().filter(|dir| Some(*dir) != scope.as_ref()) {
            writeln!(out, "cgroup, joined    {dir}")?;
        }
        for dir in own {
            writeln!(out, "cgroup, made      {dir}")?;
        }
        match memory_max {
            None => writeln!(out, "memory            as it is")?,
            Some(MemoryMax::Unlimited) => writeln!(out, "memory            no limit")?,
            Some(MemoryMax::Bytes(bytes)) => writeln!(out, "memory            at most {bytes} bytes")?,
        }
        if let Some(bytes) = memory_low {
            writeln!(out, "memory, reserved  {bytes} bytes")?;
        }
        if let Some(shares) = cpu_shares {
            writeln!(out, "cpu shares        {shares}")?;
        }
        if let Some(cpus) = cpuset_cpus {
            writeln!(out, "cpus              {cpus}")?;
        }
        writeln!(out, "oom_score_adj     {oom_score_adj}")?;
        write!(
            out,
            "network           {}",
            network_namespace.as_deref().unwrap_or("the executor's")
        )
    }
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
