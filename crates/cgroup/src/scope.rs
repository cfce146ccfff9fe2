//! Which cgroups are a task's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use holdfast_sys::file::read_virtual_text;

use crate::v1::{cpuset, devices};
use crate::{ROOT, SessionScope, Version, directory, override_path, shared};

/// The cgroups of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// How to speak to them.
    pub version: Version,
    /// What the main process enters: the scope on v2, one directory per hierarchy on v1.
    pub join: Vec<PathBuf>,
    /// By which the task is killed and counted: the v2 scope, the v1 freezer directory.
    pub kill: PathBuf,
    /// Directories that we make and remove; on v1 in the hierarchies that the agent leaves alone. The agent's own are the
    /// agent's to remove (contract, K-7).
    pub own: Vec<PathBuf>,
    /// `<cgroup parent>/holdfast`, where the executors of all tasks live; see [`crate::shared_dirs`].
    pub shared: Vec<PathBuf>,
    /// The operator or the job named the cgroups: they are joined, never limited, killed or removed.
    pub foreign: bool,
}

/// Why a task's cgroups cannot be told, made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The agent's path has not the form that the agent of this generation gives it.
    #[error("cgroup {} given by the agent is not usable: {reason}", path.display())]
    UnexpectedPath {
        /// The `cpuset_cgroup` of the task's resources.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The alloc or the task cannot name a directory.
    #[error("{name:?} cannot be part of a cgroup's name")]
    UnusableName {
        /// The alloc id or the task's name.
        name: String,
    },
    /// v1 without the freezer: there would be no way to kill all of a task.
    #[error("there is no freezer hierarchy at {}", path.display())]
    NoFreezer {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An override names no cgroup.
    #[error("cgroup override {value:?} is not usable: {reason}")]
    UnusableOverride {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A parent names no cgroup.
    #[error("cgroup parent {value:?} is not usable: {reason}")]
    UnusableParent {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} cgroup {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The hierarchies in which the agent makes a directory for each task on v1 (`client/lib/cgroupslib/editor.go`).
const AGENT_HIERARCHIES: [&str; 3] = ["freezer", "cpu", "memory"];

/// The hierarchies in which it does not, and which tell something of a task.
const OWN_HIERARCHIES: [&str; 2] = ["cpuacct", "pids"];

/// The agent's cgroup of the tasks that have reserved cores, each with one of its own below.
const RESERVE: &str = "reserve";

impl Scope {
    /// The cgroups that the agent means by `cpuset_cgroup` (of `linux_resources`) for a task.
    ///
    /// On v2 that is the scope itself, `ROOT/<parent>/<share|reserve>/<alloc>.<task>.scope`. On v1 it is only the cpuset part,
    /// `ROOT/cpuset/<parent>/share` or `…/reserve/<alloc>.<task>`; the others follow from it.
    pub fn of_task(version: Version, cpuset_cgroup: &Path, alloc_id: &str, task: &str) -> Result<Scope, ScopeError> {
        let membership = read_virtual_text(Path::new("/proc/self/cgroup")).map_err(|source| ScopeError::Io {
            action: "find the calling process's",
            path: PathBuf::from("/proc/self/cgroup"),
            source,
        })?;
        Scope::of_task_below(Path::new(ROOT), &membership, version, cpuset_cgroup, alloc_id, task)
    }

    pub(crate) fn of_task_below(
        root: &Path,
        membership: &str,
        version: Version,
        cpuset_cgroup: &Path,
        alloc_id: &str,
        task: &str,
    ) -> Result<Scope, ScopeError> {
        let unexpected = |reason| ScopeError::UnexpectedPath {
            path: cpuset_cgroup.to_owned(),
            reason,
        };
        require_names(alloc_id, task)?;
        if cpuset_cgroup
            .components()
            .any(|part| matches!(part, Component::ParentDir))
        {
            return Err(unexpected("it leads upwards"));
        }
        match version {
            Version::V2 => {
                let below = cpuset_cgroup
                    .strip_prefix(root)
                    .map_err(|_| unexpected("it is not below the root"))?;
                // At least `<parent>/<scope>`: the root and its children hold what is not ours.
                if below.components().count() < 2 {
                    return Err(unexpected("it is not a task's"));
                }
                let parent = below.parent().map(without_partition).unwrap_or(Path::new(""));
                Ok(Scope {
                    version,
                    join: vec![cpuset_cgroup.to_owned()],
                    kill: cpuset_cgroup.to_owned(),
                    own: Vec::new(),
                    shared: shared::shared_below(root, membership, version, parent),
                    foreign: false,
                })
            }
            Version::V1 => {
                let below = cpuset_cgroup
                    .strip_prefix(root.join("cpuset"))
                    .map_err(|_| unexpected("it is not in the cpuset hierarchy"))?;
                let parent = parent_of_v1(below).ok_or_else(|| unexpected("it is neither shared nor reserved"))?;
                let scope = parent.join(format!("{alloc_id}.{task}"));
                if !is_hierarchy(&root.join("freezer")) {
                    return Err(ScopeError::NoFreezer {
                        path: root.join("freezer"),
                    });
                }
                let mut hierarchies = Hierarchies::default();
                let mut join = hierarchies.add_all(root, &AGENT_HIERARCHIES, &scope);
                // Co-mounted with one of the agent's (as cpu,cpuacct often is) a hierarchy needs no directory of its own.
                let own = hierarchies.add_all(root, &OWN_HIERARCHIES, &scope);
                join.extend(own.iter().cloned());
                // The last: it may be all tasks', and whoever looks for a file must find the task's own first.
                if is_hierarchy(&root.join("cpuset")) {
                    join.push(cpuset_cgroup.to_owned());
                }
                Ok(Scope {
                    version,
                    kill: root.join("freezer").join(&scope),
                    join,
                    own,
                    shared: shared::shared_below(root, membership, version, parent),
                    foreign: false,
                })
            }
        }
    }

    /// The cgroup that `cgroup_v2_override` names, absolute or relative to the root; in its place the task has no other.
    pub fn of_v2_override(path: &str) -> Result<Scope, ScopeError> {
        let dir = usable_override(Path::new(ROOT), path)?;
        Ok(Scope {
            version: Version::V2,
            join: vec![dir.clone()],
            kill: dir,
            own: Vec::new(),
            shared: Vec::new(),
            foreign: true,
        })
    }

    /// The cgroups that `cgroup_v1_override` names, by controller; each path absolute or relative to its hierarchy. The agent's
    /// `cpuset_cgroup` is joined too unless the override names one, as the agent's own driver does. The task is counted in
    /// the pids cgroup, else the freezer's, else the first.
    pub fn of_v1_override<'a>(
        paths: impl IntoIterator<Item = (&'a str, &'a str)>,
        cpuset_cgroup: Option<&Path>,
    ) -> Result<Scope, ScopeError> {
        let mut dirs = BTreeMap::new();
        for (controller, path) in paths {
            if controller.is_empty() || controller.contains(['/', '\0']) {
                let reason = "the controller's name is not one";
                return Err(ScopeError::UnusableOverride {
                    value: controller.to_owned(),
                    reason,
                });
            }
            dirs.insert(controller, usable_override(&Path::new(ROOT).join(controller), path)?);
        }
        let kill = ["pids", "freezer"]
            .iter()
            .find_map(|name| dirs.get(name))
            .or_else(|| dirs.values().next());
        let Some(kill) = kill.cloned() else {
            return Err(ScopeError::UnusableOverride {
                value: String::new(),
                reason: "it names no controller",
            });
        };
        let cpuset = cpuset_cgroup
            .filter(|_| !dirs.contains_key("cpuset"))
            .map(Path::to_owned);
        let mut join: Vec<PathBuf> = dirs.into_values().chain(cpuset).collect();
        let mut seen = std::collections::BTreeSet::new();
        join.retain(|dir| seen.insert(dir.clone()));
        Ok(Scope {
            version: Version::V1,
            join,
            kill,
            own: Vec::new(),
            shared: Vec::new(),
            foreign: true,
        })
    }

    /// A scope of our own below `parent`, which an operator chose, in place of the agent's: limited, killed, measured, and removed
    /// with the task. The parent is made if it is missing, and stays. It is a path below the root of the hierarchy (on v1: of each
    /// hierarchy); on v2 it may also begin with [`ROOT`]. On v2 what lies above the scope is made to pass the controllers on
    /// by [`Scope::make`], except for cgroups that hold processes. The executors stay where they are for the agent's scopes.
    pub fn below(version: Version, parent: &str, alloc_id: &str, task: &str) -> Result<Scope, ScopeError> {
        Scope::below_parent(Path::new(ROOT), version, parent, alloc_id, task)
    }

    pub(crate) fn below_parent(
        root: &Path,
        version: Version,
        parent: &str,
        alloc_id: &str,
        task: &str,
    ) -> Result<Scope, ScopeError> {
        require_names(alloc_id, task)?;
        let parent = usable_parent(root, version, parent)?;
        let (join, kill) = match version {
            Version::V2 => {
                let scope = root.join(parent).join(format!("{alloc_id}.{task}.scope"));
                (vec![scope.clone()], scope)
            }
            Version::V1 => {
                let freezer = root.join("freezer");
                if !is_hierarchy(&freezer) {
                    return Err(ScopeError::NoFreezer { path: freezer });
                }
                let scope = parent.join(format!("{alloc_id}.{task}"));
                let mut hierarchies = Hierarchies::default();
                let mut join = hierarchies.add_all(root, &AGENT_HIERARCHIES, &scope);
                join.extend(hierarchies.add_all(root, &OWN_HIERARCHIES, &scope));
                join.extend(hierarchies.add_all(root, &["cpuset"], &scope));
                (join, freezer.join(&scope))
            }
        };
        Ok(Scope {
            version,
            own: join.clone(),
            join,
            kill,
            shared: Vec::new(),
            foreign: false,
        })
    }

    /// For a task with limits of input and output: on v1 these need a directory of ours in the blkio hierarchy, which other tasks
    /// do without. On v2, in a foreign scope, and where there is no such hierarchy, it changes nothing.
    pub fn with_io(self) -> Scope {
        self.with_io_below(Path::new(ROOT))
    }

    pub(crate) fn with_io_below(self, root: &Path) -> Scope {
        self.with_hierarchy(root, "blkio")
    }

    /// For a task with rules for devices ([`crate::restrict_devices`]): on v1 these need a directory of ours in the devices
    /// hierarchy. On v2, in a foreign scope, and where there is no such hierarchy, it changes nothing.
    pub fn with_devices(self) -> Scope {
        self.with_devices_below(Path::new(ROOT))
    }

    pub(crate) fn with_devices_below(self, root: &Path) -> Scope {
        self.with_hierarchy(root, devices::HIERARCHY)
    }

    /// With a directory of ours in a v1 hierarchy, unless it is mounted with one in which there is one already.
    fn with_hierarchy(mut self, root: &Path, controller: &str) -> Scope {
        if self.version == Version::V2 || self.foreign {
            return self;
        }
        let Ok(scope) = self.kill.strip_prefix(root.join("freezer")).map(Path::to_owned) else {
            return self;
        };
        let mut hierarchies = Hierarchies::default();
        let others: Vec<&str> = AGENT_HIERARCHIES.iter().chain(&OWN_HIERARCHIES).copied().collect();
        hierarchies.add_all(root, &others, &scope);
        for dir in hierarchies.add_all(root, &[controller], &scope) {
            if !self.join.contains(&dir) {
                // The cpuset stays the last.
                self.join.insert(1, dir.clone());
                self.own.push(dir);
            }
        }
        self
    }

    /// For a run without an agent: what the agent would make and remove is ours, except for the cpuset of all tasks.
    pub fn owning_all(mut self) -> Scope {
        if !self.foreign {
            self.own = self
                .join
                .iter()
                .filter(|dir| !dir.ends_with(cpuset::SHARE))
                .cloned()
                .collect();
        }
        self
    }

    /// Makes what is missing of `join` and `own`, and sees to it that the controllers reach it on v2. The agent makes its part
    /// before a start; a run by hand has no agent. A foreign cgroup must be there already.
    pub fn make(&self) -> Result<(), ScopeError> {
        if self.foreign {
            return match self.join.iter().find(|dir| !dir.is_dir()) {
                None => Ok(()),
                Some(dir) => Err(ScopeError::Io {
                    action: "join",
                    path: dir.clone(),
                    source: io::Error::new(io::ErrorKind::NotFound, "no such cgroup"),
                }),
            };
        }
        let others = self.own.iter().filter(|dir| !self.join.contains(dir));
        for dir in self.join.iter().chain(others) {
            if directory::make(dir)? && self.version == Version::V2 {
                directory::enable_controllers(dir);
            }
        }
        Ok(())
    }

    /// Makes what is missing of `shared`.
    pub fn make_shared(&self) -> Result<(), ScopeError> {
        self.shared.iter().try_for_each(|dir| directory::make(dir).map(drop))
    }

    /// Inode of the directory by which the task is counted. A cgroup that was removed and made again has another one. `None`: it
    /// is not there.
    pub fn inode(&self) -> Option<u64> {
        fs::metadata(&self.kill).ok().map(|dir| dir.ino())
    }

    /// The directory by which the task may be killed; `None` for a foreign scope.
    pub fn kill_dir(&self) -> Option<&Path> {
        (!self.foreign).then_some(&self.kill)
    }

    /// Removes the directories of sessions and our own. The agent's stay. What is gone already is fine; processes that are just
    /// ending are waited for, briefly. A foreign scope is left alone.
    pub fn remove(&self) -> Result<(), ScopeError> {
        if self.foreign {
            return Ok(());
        }
        let sessions = SessionScope::list(self).map_err(|source| ScopeError::Io {
            action: "list the sessions of",
            path: self.kill.clone(),
            source,
        })?;
        let mut first_failure = None;
        for dir in sessions
            .iter()
            .filter_map(SessionScope::dir)
            .chain(self.own.iter().map(PathBuf::as_path))
        {
            if let Err(source) = directory::remove(dir) {
                first_failure.get_or_insert(ScopeError::Io {
                    action: "remove",
                    path: dir.to_owned(),
                    source,
                });
            }
        }
        first_failure.map_or(Ok(()), Err)
    }
}

/// Hierarchies that were used, each once however many names it has.
#[derive(Default)]
struct Hierarchies(Vec<PathBuf>);

impl Hierarchies {
    /// `scope` in the hierarchy of each of `controllers` that [`Hierarchies::add`] finds.
    fn add_all(&mut self, root: &Path, controllers: &[&str], scope: &Path) -> Vec<PathBuf> {
        controllers
            .iter()
            .filter_map(|name| self.add(root, name))
            .map(|hierarchy| hierarchy.join(scope))
            .collect()
    }

    /// The controller's hierarchy by the agent's path, unless it is absent or was added under another name.
    fn add(&mut self, root: &Path, controller: &str) -> Option<PathBuf> {
        let path = root.join(controller);
        // Names of one hierarchy are links in the same directory, as `cpu` is one to `cpu,cpuacct`.
        let real = fs::read_link(&path).map_or_else(|_| path.clone(), |other| root.join(other));
        if !is_hierarchy(&real) || self.0.contains(&real) {
            return None;
        }
        self.0.push(real);
        Some(path)
    }
}

/// A plain directory of the tmpfs below the v1 mounts is none.
pub(crate) fn is_hierarchy(path: &Path) -> bool {
    // A mounted one stays; each start asks for seven of them, and some again.
    static MOUNTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !path.starts_with(ROOT) {
        return crate::procs_file(path).exists();
    }
    let mut mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if mounted.contains(path) {
        return true;
    }
    let is_there = crate::procs_file(path).exists();
    if is_there {
        mounted.insert(path.to_owned());
    }
    is_there
}

/// `<parent>` of `<parent>/share` and `<parent>/reserve/<scope>`.
fn parent_of_v1(below: &Path) -> Option<&Path> {
    let containing = below.parent()?;
    if below.ends_with(cpuset::SHARE) {
        return Some(containing);
    }
    if containing.ends_with(RESERVE) {
        containing.parent()
    } else {
        None
    }
}

/// `<parent>` of `<parent>/share` or `<parent>/reserve`; what has no partition is the parent itself.
fn without_partition(containing: &Path) -> &Path {
    match containing.parent() {
        Some(parent) if containing.ends_with(cpuset::SHARE) || containing.ends_with(RESERVE) => parent,
        _ => containing,
    }
}

fn require_names(alloc_id: &str, task: &str) -> Result<(), ScopeError> {
    match [alloc_id, task]
        .into_iter()
        .find(|name| name.is_empty() || name.contains(['/', '\0', '\n']))
    {
        None => Ok(()),
        Some(name) => Err(ScopeError::UnusableName { name: name.to_owned() }),
    }
}

/// The parent relative to the root of the hierarchy.
fn usable_parent(root: &Path, version: Version, parent: &str) -> Result<PathBuf, ScopeError> {
    let unusable = |reason| ScopeError::UnusableParent {
        value: parent.to_owned(),
        reason,
    };
    if parent.contains(['\0', '\n']) {
        return Err(unusable("it holds a NUL or a line feed"));
    }
    let path = Path::new(parent);
    let below = match (version, path.strip_prefix(root)) {
        (Version::V2, Ok(below)) => below,
        (Version::V1, Ok(_)) => return Err(unusable("with cgroup v1 it is a path below each hierarchy")),
        (_, Err(_)) => path.strip_prefix("/").unwrap_or(path),
    };
    let mut names = PathBuf::new();
    for part in below.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(unusable("it leads upwards"));
            }
        }
    }
    if names.as_os_str().is_empty() {
        return Err(unusable("it is empty, or the root"));
    }
    Ok(names)
}

fn usable_override(base: &Path, path: &str) -> Result<PathBuf, ScopeError> {
    let unusable = |reason| ScopeError::UnusableOverride {
        value: path.to_owned(),
        reason,
    };
    if path.is_empty() {
        return Err(unusable("it is empty"));
    }
    if path.contains('\0') {
        return Err(unusable("it holds a NUL"));
    }
    Ok(override_path(base, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOC: &str = "0a1b2c3d-0000-1111-2222-333344445555";

    /// A root with v1 hierarchies; `cpu` and `cpuacct` are links to one where `co_mounted`.
    fn v1_root(hierarchies: &[&str], co_mounted: bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let add = |name: &str| {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("cgroup.procs"), "").unwrap();
        };
        hierarchies.iter().for_each(|name| add(name));
        if co_mounted {
            add("cpu,cpuacct");
            for name in ["cpu", "cpuacct"] {
                std::os::unix::fs::symlink("cpu,cpuacct", root.path().join(name)).unwrap();
            }
        }
        root
    }

    fn v1(root: &Path, cpuset: &str, task: &str) -> Result<Scope, ScopeError> {
        Scope::of_task_below(root, "4:memory:/agent\n", Version::V1, &root.join(cpuset), ALLOC, task)
    }

    fn v2(cpuset: &str) -> Result<Scope, ScopeError> {
        Scope::of_task_below(Path::new("/r"), "0::/\n", Version::V2, Path::new(cpuset), ALLOC, "web")
    }

    #[test]
    fn on_v2_the_agents_path_is_the_scope_s8() {
        let dir = PathBuf::from(format!("/r/nomad.slice/share/{ALLOC}.web.scope"));
        let scope = v2(dir.to_str().unwrap()).unwrap();
        assert_eq!(scope.join, std::slice::from_ref(&dir));
        assert_eq!(scope.kill, dir);
        assert!(scope.own.is_empty() && !scope.foreign);
        assert_eq!(scope.shared, [PathBuf::from("/r/nomad.slice/holdfast")]);
        assert_eq!(
            v2("/r/a.slice/b.slice/reserve/x.scope").unwrap().shared,
            [PathBuf::from("/r/a.slice/b.slice/holdfast")]
        );
        assert_eq!(
            v2("/r/mine.slice/x.scope").unwrap().shared,
            [PathBuf::from("/r/mine.slice/holdfast")]
        );
    }

    #[test]
    fn a_path_outside_the_hierarchy_or_above_a_task_is_refused() {
        for path in [
            "",
            "/",
            "/r",
            "/r/nomad.slice",
            "/etc/x/y",
            "relative/x/y",
            "/r/a/../../etc/x",
            "/rr/a/b",
        ] {
            assert!(matches!(v2(path), Err(ScopeError::UnexpectedPath { .. })), "{path:?}");
        }
    }

    #[test]
    fn on_v1_the_other_hierarchies_follow_from_the_cpuset_s8() {
        let root = v1_root(
            &["freezer", "cpu", "memory", "cpuset", "cpuacct", "pids", "blkio"],
            false,
        );
        let at = |name: &str| root.path().join(name).join("nomad").join(format!("{ALLOC}.web"));
        let scope = v1(root.path(), "cpuset/nomad/share", "web").unwrap();
        let share = root.path().join("cpuset/nomad/share");
        assert_eq!(
            scope.join,
            [at("freezer"), at("cpu"), at("memory"), at("cpuacct"), at("pids"), share]
        );
        assert_eq!(scope.kill, at("freezer"));
        assert_eq!(scope.own, [at("cpuacct"), at("pids")]);
        assert_eq!(scope.shared, [root.path().join("memory/nomad/holdfast")]);

        let reserved = v1(root.path(), &format!("cpuset/nomad/reserve/{ALLOC}.web"), "web").unwrap();
        assert_eq!(reserved.kill, at("freezer"));
        assert_eq!(
            reserved.join.last().unwrap(),
            &root.path().join(format!("cpuset/nomad/reserve/{ALLOC}.web"))
        );
        // A task may have the partition's name.
        let odd = v1(root.path(), &format!("cpuset/a/b/reserve/{ALLOC}.share"), "share").unwrap();
        assert_eq!(odd.kill, root.path().join(format!("freezer/a/b/{ALLOC}.share")));
    }

    #[test]
    fn a_co_mounted_hierarchy_is_neither_joined_twice_nor_ours_to_remove() {
        let root = v1_root(&["freezer", "memory", "cpuset", "pids"], true);
        let scope = v1(root.path(), "cpuset/nomad/share", "web").unwrap();
        let at = |name: &str| root.path().join(name).join("nomad").join(format!("{ALLOC}.web"));
        assert_eq!(scope.own, [at("pids")]);
        assert!(scope.join.contains(&at("cpu")) && !scope.join.contains(&at("cpuacct")));
    }

    #[test]
    fn on_v1_absent_hierarchies_are_left_out_but_not_the_freezer() {
        let root = v1_root(&["freezer", "cpuset"], false);
        fs::create_dir(root.path().join("memory")).unwrap();
        let scope = v1(root.path(), "cpuset/nomad/share", "web").unwrap();
        assert_eq!(scope.join.len(), 2, "a plain directory is no hierarchy: {scope:?}");
        fs::remove_file(root.path().join("freezer/cgroup.procs")).unwrap();
        assert!(matches!(
            v1(root.path(), "cpuset/nomad/share", "web"),
            Err(ScopeError::NoFreezer { .. })
        ));
    }

    #[test]
    fn on_v1_a_cpuset_of_another_form_is_refused() {
        let root = v1_root(&["freezer", "cpuset"], false);
        for path in [
            "cpuset",
            "cpuset/nomad",
            "cpuset/nomad/other/x",
            "memory/nomad/share",
            "cpuset/../memory/share",
        ] {
            assert!(
                matches!(v1(root.path(), path, "web"), Err(ScopeError::UnexpectedPath { .. })),
                "{path}"
            );
        }
        for task in ["", "a/b", "../x", "a\nb"] {
            let found = v1(root.path(), "cpuset/nomad/share", task);
            assert!(matches!(found, Err(ScopeError::UnusableName { .. })), "{task:?}");
        }
    }

    #[test]
    fn a_scope_below_a_parent_is_all_ours() {
        let scope_of = |parent| Scope::below_parent(Path::new("/r"), Version::V2, parent, ALLOC, "web").unwrap();
        for parent in [
            "batch.slice/low",
            "/batch.slice/low",
            "/r/batch.slice/low/",
            "./batch.slice//low",
        ] {
            let scope = scope_of(parent);
            let dir = PathBuf::from(format!("/r/batch.slice/low/{ALLOC}.web.scope"));
            assert_eq!(
                (&scope.join, &scope.own, &scope.kill),
                (&vec![dir.clone()], &vec![dir.clone()], &dir),
                "{parent}"
            );
            assert!(!scope.foreign && scope.shared.is_empty());
        }

        let root = v1_root(&["freezer", "cpu", "memory", "cpuset", "pids", "blkio"], false);
        let at = |name: &str| root.path().join(name).join("batch/low").join(format!("{ALLOC}.web"));
        let scope = Scope::below_parent(root.path(), Version::V1, "/batch/low", ALLOC, "web").unwrap();
        let expected = [at("freezer"), at("cpu"), at("memory"), at("pids"), at("cpuset")];
        assert_eq!(scope.join, expected);
        assert_eq!(scope.own, expected);
        assert_eq!(scope.kill, at("freezer"));
    }

    #[test]
    fn a_parent_that_names_no_cgroup_below_the_root_is_refused() {
        for (version, parent) in [
            (Version::V2, ""),
            (Version::V2, "/"),
            (Version::V2, "/r"),
            (Version::V2, "a/../.."),
            (Version::V2, "a\0b"),
            (Version::V1, "/r/memory/a"),
            (Version::V1, "."),
        ] {
            let found = Scope::below_parent(Path::new("/r"), version, parent, ALLOC, "web");
            assert!(matches!(found, Err(ScopeError::UnusableParent { .. })), "{parent:?}");
        }
        let name = Scope::below_parent(Path::new("/r"), Version::V2, "a", ALLOC, "a/b");
        assert!(matches!(name, Err(ScopeError::UnusableName { .. })));
    }

    #[test]
    fn on_v1_only_a_task_with_limits_of_input_and_output_has_a_directory_for_them() {
        let root = v1_root(&["freezer", "cpu", "memory", "cpuset", "pids", "blkio"], false);
        let dir = root.path().join("blkio/nomad").join(format!("{ALLOC}.web"));
        let plain = v1(root.path(), "cpuset/nomad/share", "web").unwrap();
        assert!(!plain.join.contains(&dir));
        let with_io = plain.clone().with_io_below(root.path());
        assert!(with_io.join.contains(&dir) && with_io.own.contains(&dir));
        assert_eq!(with_io.join.last(), plain.join.last(), "the cpuset is the last");
        assert_eq!(with_io.clone().with_io_below(root.path()), with_io);

        let unified = v2("/r/a/x.scope").unwrap();
        assert_eq!(unified.clone().with_io_below(Path::new("/r")), unified);
        fs::remove_file(root.path().join("blkio/cgroup.procs")).unwrap();
        assert_eq!(plain.clone().with_io_below(root.path()), plain);
    }

    #[test]
    fn on_v1_only_a_task_with_rules_for_devices_has_a_directory_for_them() {
        let root = v1_root(&["freezer", "cpu", "memory", "cpuset", "pids", "devices"], false);
        let dir = root.path().join("devices/nomad").join(format!("{ALLOC}.web"));
        let plain = v1(root.path(), "cpuset/nomad/share", "web").unwrap();
        assert!(!plain.join.contains(&dir));
        let with_devices = plain.clone().with_devices_below(root.path());
        assert!(with_devices.join.contains(&dir) && with_devices.own.contains(&dir));
        assert_eq!(with_devices.join.last(), plain.join.last(), "the cpuset is the last");
        assert_eq!(with_devices.clone().with_devices_below(root.path()), with_devices);

        let unified = v2("/r/a/x.scope").unwrap();
        assert_eq!(unified.clone().with_devices_below(Path::new("/r")), unified);
        fs::remove_file(root.path().join("devices/cgroup.procs")).unwrap();
        assert_eq!(plain.clone().with_devices_below(root.path()), plain);
    }

    #[test]
    fn overrides_are_absolute_or_relative_to_the_root_and_foreign() {
        let scope = Scope::of_v2_override("system.slice/mine").unwrap();
        assert_eq!(scope.join, [PathBuf::from("/sys/fs/cgroup/system.slice/mine")]);
        assert!(scope.foreign && scope.kill_dir().is_none() && scope.own.is_empty());
        assert_eq!(
            Scope::of_v2_override("/abs/mine").unwrap().kill,
            PathBuf::from("/abs/mine")
        );
        assert!(matches!(
            Scope::of_v2_override(""),
            Err(ScopeError::UnusableOverride { .. })
        ));
    }

    #[test]
    fn v1_overrides_are_joined_with_the_agents_cpuset_unless_they_name_one() {
        let share = Path::new("/sys/fs/cgroup/cpuset/nomad/share");
        let scope = Scope::of_v1_override([("pids", "mine"), ("memory", "/m/abs")], Some(share)).unwrap();
        let expected = [
            PathBuf::from("/m/abs"),
            PathBuf::from("/sys/fs/cgroup/pids/mine"),
            share.to_owned(),
        ];
        assert_eq!(scope.join, expected);
        assert_eq!(scope.kill, PathBuf::from("/sys/fs/cgroup/pids/mine"));
        assert!(scope.foreign);
        let own_cpuset = Scope::of_v1_override([("cpuset", "mine")], Some(share)).unwrap();
        assert_eq!(own_cpuset.join, [PathBuf::from("/sys/fs/cgroup/cpuset/mine")]);
        assert!(Scope::of_v1_override([], Some(share)).is_err());
        assert!(Scope::of_v1_override([("../x", "y")], None).is_err());
    }

    #[test]
    fn a_foreign_scope_is_neither_made_nor_limited_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("exec-1.scope")).unwrap();
        fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        let scope = Scope::of_v2_override(dir.path().to_str().unwrap()).unwrap();
        scope.make().unwrap();
        let limits = crate::Limits::of_resources(1, 0, 100, "0");
        crate::apply(&scope, &limits).unwrap();
        scope.remove().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("memory.max")).unwrap(), "max\n");
        assert!(dir.path().join("exec-1.scope").is_dir());

        let missing = dir.path().join("missing");
        let error = Scope::of_v2_override(missing.to_str().unwrap())
            .unwrap()
            .make()
            .unwrap_err()
            .to_string();
        assert!(error.contains(missing.to_str().unwrap()), "{error}");
        assert!(!missing.exists());
    }
}
