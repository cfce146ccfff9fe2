//! What this process has inherited of its launcher, and whether a process that it starts may have less of it.

use holdfast_sys::process;

/// As low as systemd's own services; a task's executor must outlive the task when memory is short.
const PROTECTED_SCORE: i32 = -900;

const SCORE: &str = "/proc/self/oom_score_adj";

/// Makes this process, and the init that it starts, the last to be chosen when memory is short. Allowed to few; without it, no
/// likelier to be chosen than others (contract, pain 26). It fails in silence: it must not keep a task from being started.
pub fn protect() {
    for score in [PROTECTED_SCORE, 0] {
        let is_better = score == PROTECTED_SCORE || oom_score_adj().is_none_or(|inherited| score < inherited);
        if is_better && set_oom_score_adj(score) {
            return;
        }
    }
}

/// The score that stays if `wanted` is too low for this process and hence for its children (proc_pid_oom_score_adj(5): no lower than what
/// somebody with CAP_SYS_RESOURCE has set last). It is found out by trying.
pub fn unreachable_oom_score_adj(wanted: i32) -> Option<i32> {
    let inherited = oom_score_adj().filter(|inherited| wanted < *inherited)?;
    if set_oom_score_adj(wanted) {
        set_oom_score_adj(inherited);
        return None;
    }
    Some(inherited)
}

/// The same for the nice value (setpriority(2), EACCES).
pub fn unreachable_nice(wanted: i32) -> Option<i32> {
    let inherited = process::nice().ok().filter(|inherited| wanted < *inherited)?;
    if process::set_nice(wanted).is_ok() {
        let _ = process::set_nice(inherited);
        return None;
    }
    Some(inherited)
}

fn oom_score_adj() -> Option<i32> {
    std::fs::read_to_string(SCORE).ok()?.trim().parse().ok()
}

fn set_oom_score_adj(score: i32) -> bool {
    std::fs::write(SCORE, score.to_string()).is_ok()
}
