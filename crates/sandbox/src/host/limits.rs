//! Numbers of the host that end in "too many".

use holdfast_sys::limit;

use super::Files;

/// Executor with its two threads, init, main process.
pub const PIDS_PER_TASK: u64 = 4;

/// inotify instances that the agent and the drivers need beside whatever else root runs.
pub const INOTIFY_FOR_DRIVERS: u64 = 16;

/// RLIMIT_NOFILE (getrlimit(2)).
const NOFILE: u32 = 7;

/// What is there for everybody. `None`: it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemLimits {
    /// Processes and threads (proc_sys_kernel(5), pid_max).
    pub pid_max: Option<u64>,
    /// Threads (threads-max).
    pub threads_max: Option<u64>,
    /// Open files of one process: soft, hard.
    pub open_files: Option<(u64, u64)>,
    /// inotify instances of one user (inotify(7)).
    pub inotify_instances: Option<u64>,
    /// inotify watches of one user.
    pub inotify_watches: Option<u64>,
    /// Keys of one user who is not root, keyrings among them (keyrings(7)).
    pub keys: Option<u64>,
}

impl SystemLimits {
    /// Of this process and its host.
    pub fn look(files: &Files) -> SystemLimits {
        SystemLimits {
            pid_max: files.number("/proc/sys/kernel/pid_max"),
            threads_max: files.number("/proc/sys/kernel/threads-max"),
            open_files: limit::current(NOFILE).ok(),
            inotify_instances: files.number("/proc/sys/fs/inotify/max_user_instances"),
            inotify_watches: files.number("/proc/sys/fs/inotify/max_user_watches"),
            keys: files.number("/proc/sys/kernel/keys/maxkeys"),
        }
    }

    /// How many tasks the process ids suffice for, if tasks are one process each.
    pub fn tasks_by_pids(&self) -> Option<u64> {
        [self.pid_max, self.threads_max]
            .into_iter()
            .flatten()
            .min()
            .map(|most| most / PIDS_PER_TASK)
    }
}
