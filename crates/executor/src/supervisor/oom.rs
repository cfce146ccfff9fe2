//! Who was killed by the kernel for want of memory: the main process, which is part of the result, or others, which is a notice.
//!
//! The kernel counts a kill first and sends SIGKILL right after, so a count that has risen while the main process goes on is others'. A
//! process that has got SIGKILL is not counted any more. What these two leave open (the main process was killed by somebody in the
//! same moment in which another process ran out of memory) the kernel's log decides where it can be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cgroup::Scope;
use holdfast_record::ProcessIdentity;
use holdfast_sys::process::PidFd;

/// Far longer than the kernel takes from counting a kill to sending the signal, which it does without being preempted.
pub const MOMENT: Duration = Duration::from_millis(5);

/// How often the kernel has killed in the task's cgroups, and whom.
#[derive(Debug)]
pub struct OomKills {
    scope: Option<Arc<Scope>>,
    /// Before the start.
    baseline: u64,
    /// Since then, of others than the main process.
    others: u64,
    /// What the last look found, if it was more.
    seen: Option<u64>,
}

/// What a look at the count has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Nothing,
    /// Somebody was killed; a moment later it will be known whom.
    Somebody,
    /// Others than the main process.
    Others,
    /// The main process is about to end, which decides.
    MainIsDying,
}

impl OomKills {
    /// `others`: how many were told already.
    pub fn new(scope: Option<Arc<Scope>>, baseline: u64, others: u64) -> OomKills {
        OomKills {
            scope,
            baseline,
            others,
            seen: None,
        }
    }

    /// Since the start.
    fn count(&self) -> u64 {
        self.scope
            .as_deref()
            .and_then(|scope| holdfast_cgroup::oom_kills(scope.version, &scope.join))
            .map_or(0, |count| count.saturating_sub(self.baseline))
    }

    /// Those that are known to have been others.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// Looks at the count. With the main process alive and not about to die a moment after it has risen, it was others.
    pub fn look(&mut self, main: Option<&PidFd>) -> Look {
        let count = self.count();
        if main.is_some_and(is_dying) {
            return Look::MainIsDying;
        }
        let before = self.others;
        self.others = self.others.max(self.seen.take().unwrap_or(0));
        self.seen = (count > self.others).then_some(count);
        match self.seen {
            Some(_) => Look::Somebody,
            None if self.others > before => Look::Others,
            None => Look::Nothing,
        }
    }

    /// Before somebody sends SIGKILL to a main process that lives. True: it was dying by then.
    pub fn before_kill(&mut self, main: &PidFd) -> bool {
        loop {
            match self.look(Some(main)) {
                Look::MainIsDying => return true,
                Look::Somebody => std::thread::sleep(MOMENT),
                Look::Nothing | Look::Others => return false,
            }
        }
    }

    /// Whether a main process that was ended by SIGKILL was the kernel's victim; `was_killed`: SIGKILL was sent to it by us while
    /// it lived.
    pub fn killed_main(&mut self, main: &ProcessIdentity, was_killed: bool) -> bool {
        let count = self.count();
        if count == 0 {
            return false;
        }
        let rise = count.saturating_sub(self.others);
        let logged = victims_since(main);
        if logged.as_ref().is_some_and(|pids| pids.contains(&main.pid)) {
            return true;
        }
        // Others of the log explain the rise, unless it was all of them together.
        let is_explained = logged.is_some_and(|pids| pids.len() as u64 >= rise);
        rise > 0 && (self.kills_in_groups() || !was_killed && !is_explained)
    }

    /// The end of the task: whatever was not the main process was others. Where all are killed together, all are the main process's.
    pub fn settle(&mut self, main_was_killed: bool) {
        let count = self.count();
        let of_main = match main_was_killed {
            true if self.kills_in_groups() => count,
            true => 1,
            false => 0,
        };
        self.others = self.others.max(count.saturating_sub(of_main));
    }

    /// memory.oom.group of the scope (cgroup-v2).
    fn kills_in_groups(&self) -> bool {
        self.scope.as_deref().is_some_and(|scope| {
            std::fs::read_to_string(scope.kill.join("memory.oom.group")).is_ok_and(|value| value.trim() == "1")
        })
    }
}

/// Whether a process has ended, is ending, or has got SIGKILL. One that cannot be asked is gone.
pub fn is_dying(process: &PidFd) -> bool {
    if process.has_exited().unwrap_or(true) {
        return true;
    }
    let Ok(Some(pid)) = process.pid() else { return true };
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (status, stat) = (read("status"), read("stat"));
    // What was read is of this process if the pid is still its own.
    if !matches!(process.pid(), Ok(Some(_))) {
        return true;
    }
    has_kill_pending(&status) || is_exiting(&stat)
}

/// proc_pid_status(5): SIGKILL is put into the set of every thread.
fn has_kill_pending(status: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
        .any(|set| set & SIGKILL_BIT != 0)
}

/// proc_pid_stat(5): a state of the dead, PF_EXITING among the flags, or SIGKILL as the exit code, which newer kernels show from
/// the moment in which the signal is sent.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return true;
    };
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    // The fields after the name begin with the third.
    let (state, flags, exit_code) = (fields.first(), number(9 - 3), number(52 - 3));
    matches!(state, Some(&("Z" | "X" | "x")))
        || flags.is_some_and(|flags| flags & PF_EXITING != 0)
        || exit_code.is_some_and(|code| code & 0x7f == libc::SIGKILL as u64)
}

/// Pids that the kernel's log names as victims since the process was started. `None`: it cannot be read or its pids are not ours.
fn victims_since(main: &ProcessIdentity) -> Option<Vec<i32>> {
    // The kernel's first PID namespace has a fixed number (include/uapi/linux/nsfs.h, PROC_PID_INIT_INO).
    const FIRST: &str = "pid:[4026531836]";
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    if namespace.as_os_str() != FIRST {
        return None;
    }
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    // The log's clock and that of start times go apart by little, and by the time in which a host sleeps.
    let started_us = main
        .start_ticks
        .saturating_mul(1_000_000 / TICKS_PER_SECOND)
        .saturating_sub(1_000_000);
    let mut found = Vec::new();
    let mut entry = vec![0; 8192];
    loop {
        match log.read(&mut entry) {
            Ok(0) => break,
            Ok(size) => found.extend(victim(&String::from_utf8_lossy(&entry[..size]), started_us)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            // Overwritten while it was read, or interrupted.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// USER_HZ, which is 100 on every architecture that matters (proc_pid_stat(5), starttime).
const TICKS_PER_SECOND: u64 = 100;

/// The pid in an entry such as `3,1234,5678900,-;Memory cgroup out of memory: Killed process 42 (name) ...`, whose third number is its time
/// in microseconds (Documentation/ABI/testing/dev-kmsg).
fn victim(entry: &str, since_us: u64) -> Option<i32> {
    let (head, text) = entry.split_once(';')?;
    let time: u64 = head.split(',').nth(2)?.parse().ok()?;
    let (_, rest) = text.split_once("Killed process ")?;
    let pid = rest.split([' ', ',']).next()?.parse().ok()?;
    (time >= since_us).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_is_read_from_the_kernels_log() {
        let entry =
            "3,1234,5678900,-;Memory cgroup out of memory: Killed process 42 (a (b) c) total-vm:1kB, anon-rss:2kB\n";
        assert_eq!(victim(entry, 5_678_900), Some(42));
        assert_eq!(victim(entry, 5_678_901), None, "before the task was started");
        assert_eq!(victim("6,1,2,-;something else about process 42\n", 0), None);
        assert_eq!(victim(" SUBSYSTEM=x\n", 0), None);
        assert_eq!(victim("", 0), None);
    }

    #[test]
    fn pending_signals_and_flags_tell_who_dies() {
        assert!(has_kill_pending(
            "SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
        ));
        assert!(has_kill_pending(
            "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"
        ));
        assert!(!has_kill_pending(
            "SigPnd:\t0000000000004000\nSigIgn:\t0000000000000100\n"
        ));
        let stat = |state: &str, flags: u64, code: u64| {
            let rest = "0 ".repeat(52 - 10);
            format!("7 (a) b) {state} 1 7 7 0 -1 {flags} {rest}{code}\n")
        };
        assert!(!is_exiting(&stat("S", 0x40_0000, 0)));
        assert!(is_exiting(&stat("R", 0x40_0004, 0)));
        assert!(is_exiting(&stat("Z", 0x40_0000, 0)));
        assert!(is_exiting(&stat("R", 0x40_0000, 9)));
        assert!(is_exiting(""));
    }

    #[test]
    fn a_process_that_got_sigkill_is_dying_at_once_and_one_that_runs_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = PidFd::open(child.id().cast_signed()).unwrap();
        assert!(!is_dying(&pidfd));
        pidfd.send_signal(libc::SIGKILL).unwrap();
        assert!(is_dying(&pidfd), "it had no time to die, and none is needed");
        child.wait().unwrap();
        assert!(is_dying(&pidfd));
    }
}
