//! A plan as the executor is told of it. Every field is taken by name, so that a new one, on either side, does not compile until it
//! is thought of.

use holdfast_cgroup::{CpuQuota, IoMax, Limits, MemoryMax, PidsMax};
use holdfast_record::{
    AgentExit, Attributes, Ending, ExecutorLoss, ExitType, IoPriority, Isolation, KillStep, KillTarget, MaxRuntime,
    Overflow, Rlimit, Stragglers,
};
use holdfast_wire::executor_v1 as wire;

use super::{Placement, TaskPlan};
use crate::output::{LogRotation, Sink};
use crate::users::Credentials;

impl From<TaskPlan> for wire::TaskSpec {
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
            isolation,
            warnings: _,
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
            isolation: wire_isolation(&isolation),
        }
    }
}

/// Nothing, for a task that shares everything with the host.
fn wire_isolation(isolation: &Isolation) -> Vec<u8> {
    if *isolation == Isolation::default() {
        return Vec::new();
    }
    // Plain data, of which nothing can fail to be written.
    serde_json::to_vec(isolation).unwrap_or_default()
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
        on_executor_loss,
        on_agent_exit,
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
        kill_on_executor_loss: on_executor_loss == ExecutorLoss::Kill,
        stop_unattended_after_ms: match on_agent_exit {
            AgentExit::Keep => 0,
            AgentExit::StopAfter { limit_ms } => limit_ms,
        },
    }
}
