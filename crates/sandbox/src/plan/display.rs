//! A plan for people, one thing in a line. No argument and no variable is shown, only how many there are: both may hold secrets.

mod isolation;

use std::fmt;
use std::time::Duration;

use holdfast_cgroup::{CpuQuota, IoMax, Limits, MemoryMax, PidsMax};
use holdfast_record::{
    AgentExit, Attributes, Ending, ExecutorLoss, ExitType, IoPriority, KillStep, KillTarget, MaxRuntime, Rlimit,
    Stragglers,
};
use holdfast_sys::{limit, signal};

use super::{Placement, TaskPlan};
use crate::attributes::show_rlimit;
use crate::duration;
use crate::users::Credentials;
use isolation::write_isolation;

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
        write_isolation(out, isolation)?;
        let inherited = if credentials.is_none() { ", inherited" } else { "" };
        writeln!(
            out,
            "user              {name} (uid {uid}, gid {gid}, groups {}{inherited})",
            join(groups)
        )?;
        writeln!(out, "stdout            {stdout}")?;
        writeln!(out, "stderr            {stderr}")?;
        write_placement(out, placement)?;
        write_limits(out, limits)?;
        let strictness = if *strict_limits { "strict" } else { "best effort" };
        writeln!(out, "limits            {strictness}")?;
        writeln!(out, "oom_score_adj     {oom_score_adj}")?;
        write_attributes(out, attributes)?;
        write_ending(out, ending)?;
        match max_sessions {
            0 => writeln!(out, "sessions          no cap")?,
            most => writeln!(out, "sessions          at most {most} at a time")?,
        }
        for warning in warnings {
            writeln!(out, "warning           {warning}")?;
        }
        write!(
            out,
            "network           {}",
            network_namespace.as_deref().unwrap_or("the executor's")
        )
    }
}

fn write_placement(out: &mut fmt::Formatter<'_>, placement: &Placement) -> fmt::Result {
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
    Ok(())
}

fn write_limits(out: &mut fmt::Formatter<'_>, limits: &Limits) -> fmt::Result {
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
    match memory_max {
        None => writeln!(out, "memory            as it is")?,
        Some(max) => writeln!(out, "memory            {}", memory(*max))?,
    }
    if let Some(bytes) = memory_low {
        writeln!(out, "memory, reserved  {bytes} bytes")?;
    }
    if let Some(high) = memory_high {
        writeln!(out, "memory, throttled {}", memory(*high).replace("at most", "above"))?;
    }
    if let Some(swap) = memory_swap {
        writeln!(out, "swap              {}", memory(*swap))?;
    }
    if let Some(swappiness) = swappiness {
        writeln!(out, "swappiness        {swappiness}")?;
    }
    if let Some(group) = oom_group {
        let who = if *group { "all processes" } else { "one process" };
        writeln!(out, "out of memory     kills {who}")?;
    }
    if let Some(shares) = cpu_shares {
        writeln!(out, "cpu shares        {shares}")?;
    }
    match cpu_quota {
        None => {}
        Some(CpuQuota::Unlimited) => writeln!(out, "cpu time          no limit")?,
        Some(CpuQuota::Microseconds(quota)) => writeln!(out, "cpu time          at most {quota} us in a period")?,
    }
    if let Some(period) = cpu_period_us {
        writeln!(out, "cpu period        {period} us")?;
    }
    if let Some(burst) = cpu_burst_us {
        writeln!(out, "cpu burst         {burst} us")?;
    }
    if let Some(cpus) = cpuset_cpus {
        writeln!(out, "cpus              {cpus}")?;
    }
    if let Some(mems) = cpuset_mems {
        writeln!(out, "memory nodes      {mems}")?;
    }
    match pids_max {
        None => {}
        Some(PidsMax::Unlimited) => writeln!(out, "processes         no limit")?,
        Some(PidsMax::Count(count)) => writeln!(out, "processes         at most {count}")?,
    }
    if let Some(weight) = io_weight {
        writeln!(out, "io weight         {weight}")?;
    }
    for limit in io_max {
        let IoMax {
            major,
            minor,
            read_bytes,
            write_bytes,
            read_operations,
            write_operations,
        } = limit;
        write!(out, "io                {major}:{minor}")?;
        for (key, limit) in [
            ("rbps", read_bytes),
            ("wbps", write_bytes),
            ("riops", read_operations),
            ("wiops", write_operations),
        ] {
            match limit {
                Some(limit) => write!(out, " {key}={limit}")?,
                None => write!(out, " {key}=max")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn memory(max: MemoryMax) -> String {
    match max {
        MemoryMax::Unlimited => "no limit".to_owned(),
        MemoryMax::Bytes(bytes) => format!("at most {bytes} bytes"),
    }
}

fn write_attributes(out: &mut fmt::Formatter<'_>, attributes: &Attributes) -> fmt::Result {
    let Attributes {
        umask,
        nice,
        io_priority,
        rlimits,
    } = attributes;
    writeln!(out, "umask             {umask:03o}")?;
    writeln!(out, "nice              {nice}")?;
    match io_priority {
        None => {}
        Some(IoPriority::Idle) => writeln!(out, "ionice            idle")?,
        Some(IoPriority::BestEffort(level)) => writeln!(out, "ionice            best-effort:{level}")?,
        Some(IoPriority::Realtime(level)) => writeln!(out, "ionice            realtime:{level}")?,
    }
    for limit in rlimits {
        let Rlimit {
            resource,
            soft: _,
            hard: _,
        } = limit;
        let name = limit::name(*resource).unwrap_or("?");
        writeln!(out, "ulimit {name:<11}{}", show_rlimit(limit))?;
    }
    Ok(())
}

fn write_ending(out: &mut fmt::Formatter<'_>, ending: &Ending) -> fmt::Result {
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
        KillTarget::Main => "the main process",
        KillTarget::Group => "its process group",
        KillTarget::Cgroup => "its cgroup",
    };
    writeln!(out, "signals go to     {target}")?;
    if !kill_sequence.is_empty() {
        let steps = kill_sequence
            .iter()
            .map(|KillStep { signal, grace_ms }| match grace_ms {
                &u64::MAX => show_signal(*signal),
                grace_ms => format!("{} {}", show_signal(*signal), show_ms(*grace_ms)),
            });
        writeln!(out, "stopped by        {}", steps.collect::<Vec<_>>().join(", "))?;
    }
    let over = match exit_type {
        ExitType::Main => "its main process ends",
        ExitType::Cgroup => "its cgroup is empty",
    };
    writeln!(out, "over when         {over}")?;
    let fate = match stragglers {
        Stragglers::Kill => "killed",
        Stragglers::Leave => "left",
    };
    writeln!(out, "stragglers        {fate}")?;
    if let Some(MaxRuntime {
        limit_ms,
        signal,
        grace_ms,
    }) = max_runtime
    {
        writeln!(
            out,
            "runs at most      {}, then {} {}",
            show_ms(*limit_ms),
            show_signal(*signal),
            show_ms(*grace_ms)
        )?;
    }
    if *on_executor_loss == ExecutorLoss::Kill {
        writeln!(out, "executor lost     killed")?;
    }
    if let AgentExit::StopAfter { limit_ms } = on_agent_exit {
        writeln!(out, "without a driver  stopped after {}", show_ms(*limit_ms))?;
    }
    Ok(())
}

fn show_signal(number: i32) -> String {
    signal::name(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn show_ms(milliseconds: u64) -> String {
    duration::format(Duration::from_millis(milliseconds))
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
