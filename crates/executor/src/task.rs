//! What the executor knows of its task, from the launch or from the record.

use std::path::PathBuf;

use holdfast_cgroup::{CpuQuota, MemoryMax, PidsMax, Scope};
use holdfast_record::{
    AgentExit, Attributes, CredentialsRecord, Ending, ExecutorLoss, ExitType, Extra, IoPriority, Isolation, KillStep,
    KillTarget, MaxRuntime, OutputRecord, Overflow, PlacementRecord, PlanRecord, Rlimit, Stragglers,
};
use holdfast_wire::executor_v1::{self, Credentials, IoMax, Limits, Output, Placement, RotatedFiles, TaskSpec, output};

use crate::attributes;

/// A task to launch: what may be recorded, and what may not.
#[derive(Debug)]
pub struct Task {
    /// Its id for the agent.
    pub task_id: String,
    /// Allocation.
    pub alloc_id: String,
    /// Name within the allocation.
    pub task_name: String,
    /// What goes into the record.
    pub plan: PlanRecord,
    /// Arguments behind the command; they may hold secrets.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// As asked for.
    pub limits: holdfast_cgroup::Limits,
    /// A limit that cannot be applied fails the launch.
    pub strict_limits: bool,
}

/// What a task lacks that cannot be launched.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A field that every task has is empty.
    #[error("task without {0}")]
    Missing(&'static str),
    /// A path that must be absolute is not.
    #[error("{what} {path:?} is not an absolute path")]
    Relative {
        /// Which field.
        what: &'static str,
        /// Its value.
        path: String,
    },
    /// Not what a driver of any version sends.
    #[error("the isolation that was asked for cannot be read: {0}")]
    Isolation(#[from] serde_json::Error),
}

impl Task {
    /// Takes a request apart; a new field of the protocol does not compile until it is considered here.
    pub fn of(spec: TaskSpec) -> Result<Self, TaskError> {
        let TaskSpec {
            task_id,
            alloc_id,
            task_name,
            command,
            args,
            env,
            work_dir,
            credentials,
            stdout,
            stderr,
            placement,
            limits,
            oom_score_adj,
            network_namespace,
            user,
            umask,
            rlimits,
            nice,
            io_priority,
            ending,
            max_sessions,
            strict_limits,
            isolation,
        } = spec;
        if task_id.is_empty() {
            return Err(TaskError::Missing("an id"));
        }
        for (what, path) in [("command", &command), ("work_dir", &work_dir)] {
            if !path.starts_with('/') {
                return Err(TaskError::Relative {
                    what,
                    path: path.clone(),
                });
            }
        }
        let plan = PlanRecord {
            command,
            work_dir,
            user,
            credentials: credentials.map(|Credentials { uid, gid, groups }| CredentialsRecord { uid, gid, groups }),
            stdout: output_of(stdout),
            stderr: output_of(stderr),
            placement: placement.map(placement_of).unwrap_or_default(),
            oom_score_adj,
            network_namespace: Some(network_namespace).filter(|path| !path.is_empty()),
            attributes: Attributes {
                umask: umask.unwrap_or(UMASK),
                nice,
                io_priority: io_priority.and_then(io_priority_of),
                rlimits: rlimits.into_iter().map(rlimit_of).collect(),
            },
            ending: ending.map(ending_of).unwrap_or_default(),
            max_sessions,
            isolation: isolation_of(&isolation)?,
            extra: Extra::new(),
        };
        Ok(Self {
            task_id,
            alloc_id,
            task_name,
            plan,
            args,
            env,
            limits: limits.map(limits_of).unwrap_or_default(),
            strict_limits,
        })
    }
}

fn isolation_of(json: &[u8]) -> Result<Isolation, serde_json::Error> {
    match json {
        [] => Ok(Isolation::default()),
        json => serde_json::from_slice(json),
    }
}

/// Limits as a request names them.
pub fn limits_of(limits: Limits) -> holdfast_cgroup::Limits {
    let Limits {
        memory_max_bytes,
        memory_low_bytes,
        cpu_shares,
        cpuset_cpus,
        memory_high_bytes,
        memory_swap_bytes,
        swappiness,
        oom_group,
        cpuset_mems,
        cpu_quota_us,
        cpu_period_us,
        cpu_burst_us,
        pids_max,
        io_weight,
        io_max,
    } = limits;
    holdfast_cgroup::Limits {
        memory_max: memory_max_bytes.map(MemoryMax::from_bytes),
        memory_low: memory_low_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        cpu_shares,
        cpuset_cpus,
        cpuset_mems,
        memory_high: memory_high_bytes.map(MemoryMax::from_bytes),
        memory_swap: memory_swap_bytes.map(MemoryMax::from_bytes),
        swappiness: swappiness.map(|value| u8::try_from(value).unwrap_or(u8::MAX)),
        oom_group,
        cpu_quota: cpu_quota_us.map(CpuQuota::from_us),
        cpu_period_us,
        cpu_burst_us,
        pids_max: pids_max.map(PidsMax::from_count),
        io_weight: io_weight.map(|weight| u16::try_from(weight).unwrap_or(u16::MAX)),
        io_max: io_max.into_iter().map(io_max_of).collect(),
    }
}

fn io_max_of(limit: IoMax) -> holdfast_cgroup::IoMax {
    let IoMax {
        major,
        minor,
        read_bytes_per_second,
        write_bytes_per_second,
        read_operations_per_second,
        write_operations_per_second,
    } = limit;
    holdfast_cgroup::IoMax {
        major,
        minor,
        read_bytes: read_bytes_per_second,
        write_bytes: write_bytes_per_second,
        read_operations: read_operations_per_second,
        write_operations: write_operations_per_second,
    }
}

fn rlimit_of(limit: executor_v1::Rlimit) -> Rlimit {
    let executor_v1::Rlimit { resource, soft, hard } = limit;
    Rlimit { resource, soft, hard }
}

fn io_priority_of(priority: executor_v1::IoPriority) -> Option<IoPriority> {
    use executor_v1::io_priority::Class;
    let level = u8::try_from(priority.level).unwrap_or(7).min(7);
    match priority.class() {
        Class::Unspecified => None,
        Class::Realtime => Some(IoPriority::Realtime(level)),
        Class::BestEffort => Some(IoPriority::BestEffort(level)),
        Class::Idle => Some(IoPriority::Idle),
    }
}

/// A kill target as a request names it.
pub fn kill_target_of(target: executor_v1::KillTarget) -> KillTarget {
    match target {
        executor_v1::KillTarget::Main => KillTarget::Main,
        executor_v1::KillTarget::Group => KillTarget::Group,
        executor_v1::KillTarget::Cgroup => KillTarget::Cgroup,
    }
}

fn ending_of(ending: executor_v1::Ending) -> Ending {
    let kill_target = kill_target_of(ending.kill_target());
    let executor_v1::Ending {
        kill_target: _,
        kill_sequence,
        leave_stragglers,
        exit_with_cgroup,
        max_runtime_ms,
        max_runtime_signal,
        max_runtime_grace_ms,
        kill_on_executor_loss,
        stop_unattended_after_ms,
    } = ending;
    let step = |executor_v1::KillStep { signal, grace_ms }| KillStep { signal, grace_ms };
    Ending {
        kill_target,
        kill_sequence: kill_sequence.into_iter().map(step).collect(),
        stragglers: if leave_stragglers {
            Stragglers::Leave
        } else {
            Stragglers::Kill
        },
        exit_type: if exit_with_cgroup {
            ExitType::Cgroup
        } else {
            ExitType::Main
        },
        max_runtime: (max_runtime_ms > 0).then_some(MaxRuntime {
            limit_ms: max_runtime_ms,
            signal: if max_runtime_signal == 0 {
                libc::SIGTERM
            } else {
                max_runtime_signal
            },
            grace_ms: max_runtime_grace_ms,
        }),
        on_executor_loss: match kill_on_executor_loss {
            true => ExecutorLoss::Kill,
            false => ExecutorLoss::Adopt,
        },
        on_agent_exit: match stop_unattended_after_ms {
            0 => AgentExit::Keep,
            limit_ms => AgentExit::StopAfter { limit_ms },
        },
    }
}

fn output_of(output: Option<Output>) -> OutputRecord {
    match output.and_then(|Output { sink }| sink) {
        None => OutputRecord::Null,
        Some(output::Sink::Path(path)) => OutputRecord::Path(path.into()),
        Some(output::Sink::Rotated(RotatedFiles {
            directory,
            prefix,
            max_files,
            max_file_bytes,
            drop_on_overflow,
        })) => OutputRecord::Rotated {
            directory: directory.into(),
            prefix,
            max_files,
            max_file_bytes,
            overflow: if drop_on_overflow {
                Overflow::Drop
            } else {
                Overflow::Block
            },
        },
    }
}

fn placement_of(placement: Placement) -> PlacementRecord {
    let Placement {
        join,
        scope,
        own,
        foreign,
    } = placement;
    let paths = |paths: Vec<String>| paths.into_iter().map(PathBuf::from).collect();
    PlacementRecord {
        join: paths(join),
        scope: Some(scope).filter(|path| !path.is_empty()).map(PathBuf::from),
        scope_inode: None,
        own: paths(own),
        foreign,
    }
}

/// The task's cgroups; `None`: it has none.
pub fn scope_of(placement: &PlacementRecord) -> Option<Scope> {
    let kill = placement.scope.clone().or_else(|| placement.join.first().cloned())?;
    let version = holdfast_cgroup::version_of(&kill)?;
    Some(Scope {
        version,
        join: placement.join.clone(),
        kill,
        own: placement.own.clone(),
        shared: Vec::new(),
        foreign: placement.foreign,
    })
}

/// What nobody asked for and this executor may not set stays as it was inherited: a start does not fail for it. Returns what the task
/// goes without.
pub fn reach(plan: &mut PlanRecord) -> Vec<String> {
    let mut warnings = Vec::new();
    if plan.oom_score_adj == 0
        && let Some(inherited) = attributes::unreachable_oom_score_adj(plan.oom_score_adj)
    {
        warnings.push(format!(
            "oom_score_adj stays {inherited}, as it may not be lowered to 0"
        ));
        plan.oom_score_adj = inherited;
    }
    if plan.attributes.nice == 0
        && let Some(inherited) = attributes::unreachable_nice(plan.attributes.nice)
    {
        warnings.push(format!("nice stays {inherited}, as it may not be lowered to 0"));
        plan.attributes.nice = inherited;
    }
    warnings
}

/// The file mode creation mask of tasks, whatever the agent's is.
pub const UMASK: u32 = 0o022;
