//! The cgroups that an agent makes for its tasks, as Nomad's client does.

use holdfast_cgroup::{Scope, ScopeError, Version};
use std::fs;
use std::path::{Path, PathBuf};

/// The cgroup below which a task of an embedded agent lives: one for each, so that whoever ends removes nothing from under one
/// that starts, in this agent or another.
pub(crate) fn parent(version: Version, alloc_id: &str, task: &str) -> String {
    let alloc = alloc_id.get(..8).unwrap_or(alloc_id);
    match version {
        Version::V1 => format!("holdfast-agent-{alloc}.{task}"),
        Version::V2 => format!("holdfast-agent-{alloc}.{task}.slice"),
    }
}

/// The path that goes to the driver as `cpuset_cgroup`: on v1 the part that all tasks share, on v2 the task's own.
pub(crate) fn cpuset_cgroup(version: Version, alloc_id: &str, task: &str) -> PathBuf {
    let root = Path::new(holdfast_cgroup::ROOT);
    match version {
        Version::V1 => root.join("cpuset").join(parent(version, alloc_id, task)).join("share"),
        Version::V2 => root
            .join(parent(version, alloc_id, task))
            .join("share")
            .join(format!("{alloc_id}.{task}.scope")),
    }
}

/// A task's cgroups.
#[derive(Debug)]
pub(crate) struct TaskScope {
    scope: Scope,
    parent: String,
}

impl TaskScope {
    pub(crate) fn new(version: Version, alloc_id: &str, task: &str) -> Result<TaskScope, ScopeError> {
        let path = cpuset_cgroup(version, alloc_id, task);
        Scope::of_task(version, &path, alloc_id, task)
            .map(Scope::owning_all)
            .map(|scope| TaskScope {
                scope,
                parent: parent(version, alloc_id, task),
            })
    }

    /// Makes what is missing.
    pub(crate) fn make(&self) -> Result<(), ScopeError> {
        self.scope.make()
    }

    /// Kills whatever is left in them and removes them. The parent goes too.
    pub(crate) fn remove(&self) -> Result<(), ScopeError> {
        // Nothing to kill is the usual case, and what cannot be killed shows in what cannot be removed.
        _ = holdfast_cgroup::kill(&self.scope.kill, self.scope.version);
        self.scope.remove()?;
        // The executor makes some below the parent that this agent does not know of.
        let all = self.scope.clone().with_io().with_devices();
        for dir in all.shared.iter().chain(&all.join) {
            let below_parent = |dir: &Path| dir.components().any(|part| part.as_os_str() == self.parent.as_str());
            for dir in dir.ancestors().take_while(|dir| below_parent(dir)) {
                // The executor of the task may be on its way out.
                _ = fs::remove_dir(dir);
            }
        }
        Ok(())
    }
}
