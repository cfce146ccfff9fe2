//! The cgroups that an agent makes for its tasks, as Nomad's client does.

use holdfast_cgroup::{Scope, ScopeError, Version};
use std::fs;
use std::path::{Path, PathBuf};

/// The cgroup below which all tasks of embedded agents live.
pub(crate) fn parent(version: Version) -> &'static str {
    match version {
        Version::V1 => "holdfast-agent",
        Version::V2 => "holdfast-agent.slice",
    }
}

/// The path that goes to the driver as `cpuset_cgroup`: on v1 the part that all tasks share, on v2 the task's own.
pub(crate) fn cpuset_cgroup(version: Version, alloc_id: &str, task: &str) -> PathBuf {
    let root = Path::new(holdfast_cgroup::ROOT);
    match version {
        Version::V1 => root.join("cpuset").join(parent(version)).join("share"),
        Version::V2 => root
            .join(parent(version))
            .join("share")
            .join(format!("{alloc_id}.{task}.scope")),
    }
}

/// A task's cgroups.
#[derive(Debug)]
pub(crate) struct TaskScope(Scope);

impl TaskScope {
    pub(crate) fn new(version: Version, alloc_id: &str, task: &str) -> Result<TaskScope, ScopeError> {
        let path = cpuset_cgroup(version, alloc_id, task);
        Scope::of_task(version, &path, alloc_id, task)
            .map(Scope::owning_all)
            .map(TaskScope)
    }

    /// Makes what is missing.
    pub(crate) fn make(&self) -> Result<(), ScopeError> {
        self.0.make()
    }

    /// Kills whatever is left in them and removes them. On the way up, what no other task uses goes too.
    pub(crate) fn remove(&self) -> Result<(), ScopeError> {
        // Nothing to kill is the usual case, and what cannot be killed shows in what cannot be removed.
        _ = holdfast_cgroup::kill(&self.0.kill, self.0.version);
        self.0.remove()?;
        let parent = parent(self.0.version);
        for dir in self.0.shared.iter().chain(&self.0.join) {
            let below_parent = |dir: &Path| dir.components().any(|part| part.as_os_str() == parent);
            for dir in dir.ancestors().take_while(|dir| below_parent(dir)) {
                // Fails while another task or agent lives there, which is the point.
                _ = fs::remove_dir(dir);
            }
        }
        Ok(())
    }
}
