//! What a life must not leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::processes::{self, Role};

/// What is left of a life whose task was destroyed, beside its driver. `cgroups` and `descriptors` are what was there before, the
/// latter the driver's.
pub fn found(
    folder: &Folder,
    plugin_name: &str,
    driver: i32,
    cgroups: &[PathBuf],
    descriptors: &[String],
) -> Vec<String> {
    let mut leaks = Vec::new();
    let mut processes = processes::of(folder, driver);
    if processes.len() < 2 {
        processes = processes::everywhere(folder.path());
    }
    leaks.extend(
        processes
            .iter()
            .filter(|process| process.role != Role::Driver || process.pid != driver)
            .map(|process| format!("process left: {process}")),
    );
    let children = processes::children(driver);
    if !children.is_empty() {
        leaks.push(format!("children of the driver left: {children:?}"));
    }
    let is_new = |cgroup: &&PathBuf| !cgroups.contains(cgroup) && !is_of_the_agent(cgroup, &folder.parent);
    leaks.extend(
        folder
            .cgroups()
            .iter()
            .filter(is_new)
            .map(|cgroup| format!("cgroup left: {}", cgroup.display())),
    );
    leaks.extend(lines_with("/proc/self/mounts", folder.path()).map(|mount| format!("mount left: {mount}")));
    let state = folder.state().join(plugin_name);
    leaks.extend(lines_with("/proc/net/unix", &state).map(|socket| format!("socket left: {socket}")));
    let entries = fs::read_dir(&state).into_iter().flatten().flatten();
    leaks.extend(entries.map(|entry| format!("folder left: {}", entry.path().display())));
    let now = processes::descriptors(driver);
    let mut before = descriptors.to_vec();
    for kind in now {
        match before.iter().position(|known| *known == kind) {
            Some(at) => {
                before.remove(at);
            }
            None => leaks.push(format!("descriptor of the driver left: {kind}")),
        }
    }
    leaks
}

/// Where executors of all tasks live, or the agent's own, which an executor made in a hierarchy that the agent does without.
fn is_of_the_agent(cgroup: &Path, parent: &str) -> bool {
    cgroup.ends_with("holdfast") || cgroup.ends_with(parent)
}

fn lines_with(file: &str, path: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let path = path.display().to_string();
    let found: Vec<String> = text
        .lines()
        .filter(|line| line.contains(&path))
        .map(str::to_owned)
        .collect();
    found.into_iter()
}
