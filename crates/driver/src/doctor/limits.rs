//! Numbers that end in "too many".

use holdfast_sandbox::host::{Files, INOTIFY_FOR_DRIVERS, Kind, PIDS_PER_TASK, SystemLimits};

use super::{Check, Group};

/// Hosts with room for fewer tasks than that are told so.
const MANY_TASKS: u64 = 1_000;

/// What a driver has open besides its tasks, generously.
const DRIVERS_OWN_FILES: u64 = 256;

pub(super) fn checks(files: &Files) -> Vec<Check> {
    let limits = SystemLimits::look(files);
    vec![pids(&limits), open_files(&limits), inotify(&limits), namespaces(files)]
}

fn unreadable(what: &'static str) -> Check {
    Check::limited(Group::Limits, what, "cannot be read", "mount proc at /proc")
}

fn pids(limits: &SystemLimits) -> Check {
    let (Some(pid_max), Some(tasks)) = (limits.pid_max, limits.tasks_by_pids()) else {
        return unreadable("pid_max");
    };
    let seen = format!("pid_max {pid_max}: room for {tasks} tasks of one process, at {PIDS_PER_TASK} each");
    match tasks < MANY_TASKS {
        false => Check::ok(Group::Limits, "pid_max", seen),
        true => Check::limited(
            Group::Limits,
            "pid_max",
            seen,
            "sysctl -w kernel.pid_max=4194304 kernel.threads-max=4194304",
        ),
    }
}

fn open_files(limits: &SystemLimits) -> Check {
    let Some((soft, hard)) = limits.open_files else {
        return unreadable("open_files");
    };
    let tasks = hard.saturating_sub(DRIVERS_OWN_FILES);
    let seen = format!("{soft}, at most {hard}, of this process; a driver needs one for each task");
    match tasks < MANY_TASKS {
        false => Check::ok(Group::Limits, "open_files", seen),
        true => Check::limited(
            Group::Limits,
            "open_files",
            seen,
            "set LimitNOFILE=infinity in the agent's unit",
        ),
    }
}

fn inotify(limits: &SystemLimits) -> Check {
    let (Some(instances), Some(watches)) = (limits.inotify_instances, limits.inotify_watches) else {
        return unreadable("inotify");
    };
    let seen = format!(
        "{instances} instances and {watches} watches for each user; a driver needs one, and a watch for each task"
    );
    let change = "sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288";
    match instances < INOTIFY_FOR_DRIVERS || watches < MANY_TASKS {
        false => Check::ok(Group::Limits, "inotify", seen),
        true => Check::limited(Group::Limits, "inotify", seen, change),
    }
}

fn namespaces(files: &Files) -> Check {
    let least = [Kind::Mount, Kind::Pid, Kind::Ipc, Kind::Uts]
        .into_iter()
        .filter_map(|kind| Some((files.number(&kind.limit_file())?, kind)))
        .min_by_key(|(limit, _)| *limit);
    let Some((limit, kind)) = least else {
        return unreadable("namespaces_max");
    };
    let seen = format!("{limit} of {kind} namespaces: as many isolated tasks");
    match limit < MANY_TASKS {
        false => Check::ok(Group::Limits, "namespaces_max", seen),
        true => {
            let file = kind.limit_file();
            let name = file.trim_start_matches("/proc/sys/").replace('/', ".");
            Check::limited(
                Group::Limits,
                "namespaces_max",
                seen,
                format!("sysctl -w {name}=100000"),
            )
        }
    }
}
