//! From a task's options to everything that an executor needs to know, looked up and checked.

mod display;
mod paths;
mod spec;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_cgroup::{Limits, Scope};
use holdfast_record::{Attributes, Ending, ExitType, Isolation, KillTarget};
use thiserror::Error;

use crate::ceilings::{CeilingError, Ceilings};
use crate::command::{self, CommandError};
use crate::environment::{Arguments, Environment, EnvironmentError};
use crate::isolation::{self, IsolationError, IsolationOptions, Resolved, Surroundings, View};
use crate::limits::{MemoryEnforcement, MemoryLimits, memory_limits};
use crate::network;
use crate::output::{LogCollection, OutputError, Sink, Stream};
use crate::privileges::{Privileges, PrivilegesError};
use crate::reset::{self, AttributeRefusal, Wishes};
use crate::retry;
use crate::users::{Credentials, DeniedIdError, DeniedIds, Resolver, UserError};
use crate::work_dir::{self, WorkDirError};
use paths::Paths;

pub use spec::{wire_limits, wire_placement};

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
    /// See [`CeilingError`].
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    /// See [`AttributeRefusal`].
    #[error(transparent)]
    Attribute(#[from] AttributeRefusal),
    /// See [`PrivilegesError`].
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    /// See [`IsolationError`].
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// There is nothing that it could be done to.
    #[error("{option} needs a cgroup of the task's own, and it has none")]
    NoScope {
        /// The option with its value.
        option: &'static str,
    },
    /// A cgroup that the operator or the job named is left as it is.
    #[error("{FOREIGN_LIMITS}")]
    ForeignLimits,
    /// Looking for commands needs a place to start from.
    #[error("task directory {0:?} is not an absolute path")]
    TaskDir(String),
    /// Folders that the task shares with others are below it.
    #[error("allocation directory {0:?} is not an absolute path")]
    AllocDir(String),
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

const FOREIGN_LIMITS: &str = "limits are not applied: the cgroup is one that was named, and not the task's own";

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
            PlanError::Isolation(error) => error.is_retryable(),
            PlanError::NetworkNamespace { source, .. } | PlanError::Privileges(PrivilegesError { source, .. }) => {
                retry::may_pass(source)
            }
            PlanError::Ceiling(_)
            | PlanError::Attribute(_)
            | PlanError::NoScope { .. }
            | PlanError::ForeignLimits
            | PlanError::TaskDir(_)
            | PlanError::AllocDir(_)
            | PlanError::OomScoreAdj(_)
            | PlanError::Memory { .. }
            | PlanError::CgroupDir(_) => false,
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
    /// Name or path of the program; see [`command::Search`].
    pub command: String,
    /// What follows it in `argv`.
    pub args: Arguments,
    /// Variables that the agent and the job give.
    pub environment: Environment,
    /// Globs of names that are removed: the operator's and the task's `denied_envvars`.
    pub denied_environment: Vec<String>,
    /// See [`Resolver::resolve`]. Absent or empty: the user of [`crate::isolation::Account`], else whoever the executor is.
    pub user: Option<String>,
    /// Name or number of the primary group. Absent or empty: the user's. See [`Resolver::identify`].
    pub group: Option<String>,
    /// Names or numbers of groups beside the user's own.
    pub group_add: Vec<String>,
    /// Absolute, as the task sees it. Absent or empty: the task's directory; in a tree of the task's own that of
    /// [`crate::isolation::Account`], else `/`.
    pub work_dir: Option<String>,
    /// The task's directory, absolute.
    pub task_dir: String,
    /// The allocation's directory, absolute, with the shared `alloc` in it. Empty: the parent of the task's.
    pub alloc_dir: String,
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
    /// How strictly the memory of the resources is meant.
    pub memory_enforcement: MemoryEnforcement,
    /// Limits that the job asks for beside its resources.
    pub limits: Limits,
    /// Whether a limit that cannot be applied fails the start.
    pub strict_limits: bool,
    /// Umask, priorities, resource limits that the job asks for.
    pub attributes: Attributes,
    /// Resource limits that the job does not name stay those of this process, instead of [`reset::DEFAULTS`]: for somebody who
    /// starts a task by hand.
    pub inherit_limits: bool,
    /// How the task ends.
    pub ending: Ending,
    /// How many sessions may run at a time; 0: no cap.
    pub max_sessions: u32,
    /// How far the job may go.
    pub ceilings: Ceilings,
    /// What is not shared with the host.
    pub isolation: IsolationOptions,
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
    /// Absolute path of the program, as the task sees it; also `argv[0]`.
    pub command: String,
    /// What follows it.
    pub args: Arguments,
    /// All of it.
    pub environment: Environment,
    /// Absolute, as the task sees it.
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
    /// What is not shared with the host.
    pub isolation: Isolation,
    /// What the job asked for and does not get, each in one line; empty where limits are strict.
    pub warnings: Vec<String>,
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
            group,
            group_add,
            work_dir,
            task_dir,
            alloc_dir,
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
            memory_enforcement,
            limits,
            strict_limits,
            attributes,
            inherit_limits,
            ending,
            max_sessions,
            ceilings,
            isolation,
        } = options;
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());

        if !Path::new(&task_dir).is_absolute() {
            return Err(PlanError::TaskDir(task_dir));
        }
        if !alloc_dir.is_empty() && !Path::new(&alloc_dir).is_absolute() {
            return Err(PlanError::AllocDir(alloc_dir));
        }
        let oom_score_adj = match i32::try_from(oom_score_adj) {
            Ok(score) if (-1000..=1000).contains(&score) => score,
            _ => return Err(PlanError::OomScoreAdj(oom_score_adj)),
        };
        check_memory(memory_mib, memory_max_mib)?;
        ceilings.check_oom_score_adj(oom_score_adj)?;
        ceilings.check_attributes(&attributes)?;
        ceilings.check_memory_enforcement(memory_enforcement)?;
        ceilings.check_ending(&ending)?;
        let max_sessions = ceilings.sessions(max_sessions)?;
        check_placement(&placement)?;
        check_ending(&ending, &placement)?;
        let mut warnings = Vec::new();
        let limits = if placement.foreign {
            if limits != Limits::default() {
                if strict_limits {
                    return Err(PlanError::ForeignLimits);
                }
                warnings.push(FOREIGN_LIMITS.to_owned());
            }
            Limits::default()
        } else {
            let depends = memory_enforcement == MemoryEnforcement::Soft || ceilings.max_memory_swap.is_some();
            let version = depends.then(holdfast_cgroup::version).flatten();
            let memory = memory_limits(memory_mib, memory_max_mib, memory_enforcement, version);
            let cpu = Limits::of_resources(0, 0, cpu_shares, &cpuset_cpus);
            ceilings.limits(limits_of(memory, cpu, limits), version)?
        };
        let privileges = Privileges::of_this_process()?;
        let mut wishes = Wishes {
            privileges: &privileges,
            strict: strict_limits,
            warnings: &mut warnings,
        };
        let oom_score_adj = wishes.oom_score_adj(oom_score_adj)?;
        let attributes = reset::settle(attributes, inherit_limits, &ceilings, &mut wishes)?;
        let stdout = Sink::derive(Stream::Stdout, &stdout_path, &task_name, log_collection)?;
        let stderr = Sink::derive(Stream::Stderr, &stderr_path, &task_name, log_collection)?;
        args.check()?;
        environment.deny(&denied_environment);
        environment.check()?;

        let mut account = isolation.account.clone();
        let (user, group) = (said(user).or(account.user.take()), said(group));
        let is_changed = user.is_some() || group.is_some() || !group_add.is_empty();
        let credentials = is_changed
            .then(|| resolver.identify(user.as_deref(), group.as_deref(), &group_add))
            .transpose()?;
        let runs_as = match &credentials {
            Some(credentials) => credentials.clone(),
            None => resolver.current()?,
        };
        denied.check(&runs_as)?;

        let network_namespace = said(network_namespace);
        if let Some(path) = &network_namespace {
            let failed = |source| PlanError::NetworkNamespace {
                path: path.into(),
                source,
            };
            network::check(Path::new(path)).map_err(failed)?;
        }
        let paths = Paths {
            task_dir: Path::new(&task_dir),
            alloc_dir: match alloc_dir.as_str() {
                "" => Path::new(&task_dir).parent().unwrap_or(Path::new("/")),
                dir => Path::new(dir),
            },
            search_path: search_path.as_deref(),
            tree: (&isolation.root).into(),
        };
        let around = Surroundings {
            task_dir: paths.task_dir,
            alloc_dir: paths.alloc_dir,
            runs_as: &runs_as,
            stragglers: ending.stragglers,
        };
        let Resolved {
            isolation,
            view,
            warnings: mut left_out,
        } = isolation::resolve(isolation, &around)?;
        warnings.append(&mut left_out);
        let additions = paths.additions(&view, &account, &denied_environment, &runs_as, user.is_some());
        let environment = additions.around(environment);
        environment.check()?;
        let work_dir = said(work_dir).unwrap_or_else(|| paths.default_work_dir(account.work_dir));
        work_dir::check(&view, Path::new(&work_dir), &runs_as)?;
        let path = paths.lookup(&view, &command, environment.get("PATH"), &runs_as)?;
        command::check(&view, &path, Path::new(&work_dir), &runs_as)?;
        let command = path
            .to_str()
            .ok_or_else(|| CommandError::NotUtf8(path.clone()))?
            .to_owned();
        paths.make_executable(&view, &path, &runs_as)?;

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
            isolation,
            warnings,
            runs_as,
        })
    }

    /// What to say when the executor was refused (EACCES, ENOENT) at entering the working directory or executing the
    /// command: the closed component, as far as the permission bits show one.
    pub fn explain_refusal(&self) -> Option<PlanError> {
        let view = View::of(&self.isolation);
        let work_dir = Path::new(&self.work_dir);
        let entering = work_dir::explain(&view, work_dir, &self.runs_as).map(PlanError::WorkDir);
        entering.or_else(|| {
            let refusal = command::explain(&view, Path::new(&self.command), work_dir, &self.runs_as);
            refusal.map(PlanError::Command)
        })
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

/// What can only be done to a cgroup that is the task's own.
fn check_ending(ending: &Ending, placement: &Placement) -> Result<(), PlanError> {
    let option = if ending.kill_target == KillTarget::Cgroup {
        "kill_target = \"cgroup\""
    } else if ending.exit_type == ExitType::Cgroup {
        "exit_type = \"cgroup\""
    } else {
        return Ok(());
    };
    match &placement.scope {
        Some(_) if !placement.foreign => Ok(()),
        _ => Err(PlanError::NoScope { option }),
    }
}

/// The resources' limits, and over them what the job asked for besides.
fn limits_of(memory: MemoryLimits, cpu: Limits, asked: Limits) -> Limits {
    let MemoryLimits { max, high, low } = memory;
    Limits {
        memory_max: asked.memory_max.or(max),
        memory_high: asked.memory_high.or(high),
        memory_low: asked.memory_low.or(low),
        cpu_shares: asked.cpu_shares.or(cpu.cpu_shares),
        cpuset_cpus: asked.cpuset_cpus.or(cpu.cpuset_cpus),
        ..asked
    }
}

#[cfg(test)]
mod tests;
