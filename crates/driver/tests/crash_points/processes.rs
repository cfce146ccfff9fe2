//! Who is there of one life: in its cgroups, which is quickly looked up, or anywhere, by what it holds of the life's folder.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::folder::Folder;
use super::matrix::Victim;

/// A process that has to do with a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub role: Role,
    command: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Driver,
    Executor,
    Init,
    /// The main process, before or after its exec, and what it started.
    Task,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} ({})", self.role, self.pid, self.command)
    }
}

/// Those that live in the cgroups of this life, and its driver.
pub fn of(folder: &Folder, driver: i32) -> Vec<Process> {
    let cgroups = folder.cgroups();
    let members = cgroups
        .iter()
        .flat_map(|cgroup| holdfast_cgroup::pids(cgroup).unwrap_or_default());
    let mut pids: Vec<i32> = members.chain([driver]).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(|pid| look(pid, folder.path())).collect()
}

/// All that live, wherever they are.
pub fn everywhere(folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| look(pid, folder)).collect()
}

fn look(pid: i32, folder: &Path) -> Option<Process> {
    if pid == std::process::id().cast_signed() || is_dead(pid) {
        return None;
    }
    let command = command(pid)?;
    let is_init = command.starts_with("holdfast-init");
    let role = if command.starts_with("holdfast-executor") {
        Role::Executor
    } else if is_init && !parent_command(pid).is_some_and(|parent| parent.starts_with("holdfast-init")) {
        Role::Init
    } else if command.contains("holdfast-driver") {
        Role::Driver
    } else {
        Role::Task
    };
    // Of descriptors only where there is nothing else to know it by, since looking takes long.
    let is_ours = command.contains(folder.to_str()?)
        || if command.starts_with("holdfast-init") {
            holds(pid, folder)
        } else {
            has_environment_of(pid, folder)
        };
    is_ours.then_some(Process { pid, role, command })
}

fn command(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))
        .ok()
        .filter(|line| !line.is_empty())?;
    Some(String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned())
}

fn parent_command(pid: i32) -> Option<String> {
    command(stat(pid)?.1)
}

/// State and parent (proc(5)).
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

fn is_dead(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

fn has_environment_of(pid: i32, folder: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let folder = folder.as_os_str().as_bytes();
    environment.windows(folder.len()).any(|part| part == folder)
}

fn holds(pid: i32, folder: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.starts_with(folder))
}

/// Kills those of them that are the victim's; returns who they were, once they are dead.
pub async fn kill(folder: &Folder, driver: i32, victim: Victim) -> Vec<Process> {
    let is_victim = |process: &Process| match process.role {
        Role::Driver => process.pid == driver && victim.has_driver(),
        Role::Executor => victim.has_executor(),
        Role::Init => victim.has_init(),
        Role::Task => false,
    };
    let victims: Vec<Process> = of(folder, driver).into_iter().filter(is_victim).collect();
    for process in &victims {
        end(process.pid);
    }
    for process in &victims {
        while !is_dead(process.pid) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    victims
}

/// SIGKILL.
pub fn end(pid: i32) {
    let signal = holdfast_sys::signal::number("SIGKILL").expect("a signal");
    let _ = holdfast_sys::process::kill(pid, signal);
}

/// Children of a process, zombies too.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let all: Vec<i32> = lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    all
}

/// What a process holds open, by kind and sorted, without what comes once and stays: the instance of inotify, and the folder of
/// crash points.
pub fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut kinds: Vec<String> = links
        .map(|link| {
            let link = link.display().to_string();
            match link.split_once(":[") {
                Some((kind, _)) => kind.to_owned(),
                None => link,
            }
        })
        .filter(|kind| kind != "anon_inode:inotify" && !kind.ends_with("/points"))
        .collect();
    kinds.sort();
    kinds
}
