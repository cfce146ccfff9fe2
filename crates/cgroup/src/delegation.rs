//! Cgroups for tasks where the agent makes none: a subtree of v2 that was delegated to this process (cgroup-v2, "Delegation").
//!
//! A process without root may make cgroups below one whose directory, `cgroup.procs` and `cgroup.subtree_control` it may write, and
//! may move processes within it, itself included; nothing outside. Controllers reach its children only while it holds no
//! process itself (cgroup-v2, "No Internal Process Constraint"). So the best case is a parent without processes, as systemd
//! makes it with `Delegate=yes` and `DelegateSubgroup=NAME` (systemd.resource-control(5)); without the subgroup this process is in
//! the delegated cgroup itself, and there are cgroups to freeze, count and kill by, but no limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{self, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC};
use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use crate::refusal::has_word;
use crate::shared::shared_below;
use crate::{Controller, ROOT, Scope, ScopeError, Support, Version, interface, procs_file};

/// Where root makes cgroups if the agent makes none.
const SLICE: &str = "holdfast.slice";

const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// What this process may use without the agent's help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delegation {
    /// Nothing: tasks are process groups with a subreaper above them.
    None(NoDelegation),
    /// A cgroup below which tasks get scopes.
    Subtree(Subtree),
}

/// Why there is no cgroup to make others in. The texts are stable as long as the reason is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoDelegation {
    /// v2 is not mounted below [`ROOT`].
    #[error("no cgroup2 is mounted at or below {ROOT}")]
    NotMounted,
    /// The membership or the mounts of this process cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// The system's word.
        reason: String,
    },
    /// A container's, often.
    #[error("cgroup2 at {} is mounted read-only", mount.display())]
    ReadOnly {
        /// The mount point.
        mount: PathBuf,
    },
    /// What is mounted does not show the cgroup that this process is in.
    #[error("cgroup {cgroup} of this process is not below what is mounted at {}", mount.display())]
    Outside {
        /// As `/proc/self/cgroup` has it.
        cgroup: String,
        /// The mount point.
        mount: PathBuf,
    },
    /// It belongs to somebody else.
    #[error("cgroup {} is not delegated: {what} may not be written", cgroup.display())]
    NotWritable {
        /// The directory.
        cgroup: PathBuf,
        /// Which of the files, or the directory.
        what: &'static str,
    },
}

/// A delegated cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtree {
    /// The directory in which scopes are made; root's may not be there yet.
    pub path: PathBuf,
    /// What can be limited in the scopes.
    pub controllers: Vec<Controller>,
    /// The cgroup that is there and shows what the kernel can do.
    shown_by: PathBuf,
    mount: PathBuf,
}

impl Subtree {
    /// A scope of our own for a task; its executor's place is beside it.
    pub fn scope(&self, alloc_id: &str, task: &str) -> Result<Scope, ScopeError> {
        let parent = self.path.strip_prefix(&self.mount).unwrap_or(&self.path);
        let scope = match parent.to_str() {
            Some(parent) if !parent.is_empty() => {
                Scope::below_parent(&self.mount, Version::V2, parent, alloc_id, task)?
            }
            // The root of a container's own hierarchy.
            _ => Scope::below_parent(&self.mount, Version::V2, SLICE, alloc_id, task)?,
        };
        Ok(Scope {
            shared: shared_below(&self.mount, "", Version::V2, parent),
            ..scope
        })
    }

    /// Whether processes are in the cgroup itself, so that it cannot pass on controllers.
    pub fn is_populated(&self) -> bool {
        interface::read(&procs_file(&self.path)).is_ok_and(|pids| !pids.is_empty())
    }

    /// What tasks get here; `takes_programs` says whether device rules can be loaded.
    pub(crate) fn support(&self, takes_programs: fn() -> bool) -> Support {
        let release = interface::read(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let has = |controller| self.controllers.contains(&controller);
        Support {
            memory: has(Controller::Memory),
            cpu: has(Controller::Cpu),
            cpuset: has(Controller::Cpuset),
            pids: has(Controller::Pids),
            io: has(Controller::Io),
            ..Support::probe_below(&self.shown_by, Version::V2, &release, takes_programs)
        }
    }
}

impl Delegation {
    /// Looks where this process is and what it may write. Changes nothing.
    pub fn find() -> Delegation {
        Delegation::find_on(Path::new("/"), nix::unistd::geteuid().is_root(), &|path| {
            access(path, AccessFlags::W_OK).is_ok()
        })
    }

    /// The same on a host whose root is `host`; `may_write` is asked of directories and files.
    pub(crate) fn find_on(host: &Path, is_root: bool, may_write: &dyn Fn(&Path) -> bool) -> Delegation {
        match find(host, is_root, may_write) {
            Ok(subtree) => Delegation::Subtree(subtree),
            Err(reason) => Delegation::None(reason),
        }
    }

    /// The subtree, if there is one.
    pub fn subtree(&self) -> Option<&Subtree> {
        match self {
            Delegation::Subtree(subtree) => Some(subtree),
            Delegation::None(_) => None,
        }
    }
}

fn find(host: &Path, is_root: bool, may_write: &dyn Fn(&Path) -> bool) -> Result<Subtree, NoDelegation> {
    let read = |path: &'static str| {
        fs::read_to_string(below(host, Path::new(path))).map_err(|e| NoDelegation::Unreadable {
            path,
            reason: e.kind().to_string(),
        })
    };
    let mount = unified(&read("/proc/self/mountinfo")?).ok_or(NoDelegation::NotMounted)?;
    if mount.is_read_only {
        return Err(NoDelegation::ReadOnly { mount: mount.point });
    }
    let membership = read("/proc/self/cgroup")?;
    let cgroup = membership.lines().find_map(|line| line.strip_prefix("0::"));
    let cgroup = cgroup.ok_or(NoDelegation::NotMounted)?;
    let point = below(host, &mount.point);
    if is_root {
        require_writable(&point, &[("the directory", "")], may_write)?;
        return Ok(Subtree {
            path: point.join(SLICE),
            controllers: controllers_for_children_of(&point),
            shown_by: point.clone(),
            mount: point,
        });
    }
    let outside = || NoDelegation::Outside {
        cgroup: cgroup.to_owned(),
        mount: mount.point.clone(),
    };
    let relative = Path::new(cgroup).strip_prefix(&mount.root).map_err(|_| outside())?;
    // The root of the hierarchy is an empty path, which would leave a slash at the end.
    let own: PathBuf = point.join(relative).components().collect();
    if relative.components().any(|part| part.as_os_str() == "..") || !own.is_dir() {
        return Err(outside());
    }
    let subtree = |path: &Path| Subtree {
        path: path.to_owned(),
        controllers: controllers_for_children_of(path),
        shown_by: own.clone(),
        mount: point.clone(),
    };
    if let Some(parent) = own.parent().filter(|_| own != point)
        && is_ours_alone(parent, &point)
        && require_writable(parent, &NEEDED, may_write).is_ok()
    {
        return Ok(subtree(parent));
    }
    require_writable(&own, &NEEDED, may_write)?;
    Ok(subtree(&own))
}

/// What must be writable, in the order in which a person should be told.
const NEEDED: [(&str, &str); 3] = [
    ("the directory", ""),
    ("cgroup.procs", "cgroup.procs"),
    (SUBTREE_CONTROL, SUBTREE_CONTROL),
];

fn require_writable(
    cgroup: &Path,
    needed: &[(&'static str, &str)],
    may_write: &dyn Fn(&Path) -> bool,
) -> Result<(), NoDelegation> {
    match needed.iter().find(|(_, name)| !may_write(&cgroup.join(name))) {
        None => Ok(()),
        Some((what, _)) => Err(NoDelegation::NotWritable {
            cgroup: cgroup.to_owned(),
            what,
        }),
    }
}

/// A slice is systemd's to arrange, also where its user may write it; and where processes are, no controller can be passed on, so
/// that it is no better than our own.
fn is_ours_alone(parent: &Path, mount: &Path) -> bool {
    let is_slice = parent.extension().is_some_and(|kind| kind == "slice");
    let is_empty = interface::read(&procs_file(parent)).is_ok_and(|pids| pids.is_empty());
    parent.starts_with(mount) && !is_slice && is_empty
}

/// Controllers that a child of `dir` has or can be given.
fn controllers_for_children_of(dir: &Path) -> Vec<Controller> {
    // Only the root of all may have both processes and controllers for its children; it has no cgroup.events.
    let is_free =
        !dir.join("cgroup.events").exists() || interface::read(&procs_file(dir)).is_ok_and(|pids| pids.is_empty());
    let file = if is_free { "cgroup.controllers" } else { SUBTREE_CONTROL };
    let words = interface::read(&dir.join(file)).unwrap_or_default();
    Controller::ALL
        .into_iter()
        .filter(|controller| has_word(&words, controller.name()))
        .collect()
}

/// `path` of the host as it is reached from here.
fn below(host: &Path, path: &Path) -> PathBuf {
    host.join(path.strip_prefix("/").unwrap_or(path))
}

/// A mount of v2.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unified {
    /// Which part of the hierarchy is seen there.
    pub root: PathBuf,
    pub point: PathBuf,
    pub is_read_only: bool,
}

/// Where v2 is mounted at or below [`ROOT`] (proc_pid_mountinfo(5)). The last one counts: it may lie over others.
pub(crate) fn unified(mountinfo: &str) -> Option<Unified> {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point, options) = (fields.next()?, Path::new(fields.next()?), fields.next()?);
        (system.starts_with("cgroup2 ") && point.starts_with(ROOT)).then(|| Unified {
            root: PathBuf::from(root),
            point: point.to_owned(),
            is_read_only: options.split(',').any(|option| option == "ro"),
        })
    });
    mounts.next_back()
}

/// The version of the interface of a cgroup that is there or was: the agent's where it uses any, else that of the file system on
/// which the nearest existing directory lies (statfs(2)).
pub fn version_of(cgroup: &Path) -> Option<Version> {
    crate::version().or_else(|| {
        let existing = cgroup.ancestors().find(|dir| dir.exists())?;
        match statfs::statfs(existing).ok()?.filesystem_type() {
            CGROUP2_SUPER_MAGIC => Some(Version::V2),
            CGROUP_SUPER_MAGIC => Some(Version::V1),
            _ => None,
        }
    })
}

/// A scope into which nothing can be put.
#[derive(Debug, Error)]
#[error("cgroup {} cannot be used: {source}", path.display())]
pub struct Unusable {
    /// Of the scope, or what lies above it.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Scope {
    /// Whether this process may enter the scope, or make what is missing of it. Changes nothing.
    pub fn require_usable(&self) -> Result<(), Unusable> {
        for dir in &self.join {
            if access(&procs_file(dir), AccessFlags::W_OK).is_ok() {
                continue;
            }
            let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
            // What is missing above is made; so the nearest that exists must be a cgroup.
            let path = if existing == dir || !procs_file(existing).exists() {
                procs_file(existing)
            } else {
                existing.to_owned()
            };
            access(&path, AccessFlags::W_OK).map_err(|e| Unusable {
                path: existing.to_owned(),
                source: e.into(),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(lines: &[&str]) -> Option<Unified> {
        unified(&lines.join("\n"))
    }

    #[test]
    fn only_v2_mounts_at_the_agents_root_or_below_count_and_of_them_the_last() {
        let tmpfs = "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755";
        let beside = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let elsewhere = "50 1 0:38 / /mnt/cgroup2 rw - cgroup2 cgroup2 rw";
        let container = "60 1 0:38 /../x /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
        assert_eq!(mounts(&[tmpfs, elsewhere, "garbage", "1 - cgroup2 "]), None);
        let found = mounts(&[tmpfs, beside, elsewhere]).unwrap();
        assert_eq!(
            (found.point.to_str().unwrap(), found.is_read_only),
            ("/sys/fs/cgroup/unified", false)
        );
        let found = mounts(&[beside, container]).unwrap();
        assert_eq!((found.root.to_str().unwrap(), found.is_read_only), ("/../x", true));
    }

    /// A host with v2 whose process is in `cgroup`; what is named in `ours` may be written, with all that is in it.
    fn found(cgroup: &str, dirs: &[(&str, &str)], ours: &'static [&'static str]) -> Result<(PathBuf, usize), String> {
        let host = tempfile::tempdir().unwrap();
        let file = |path: &str, content: &str| {
            let path = below(host.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        file(
            "/proc/self/mountinfo",
            "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        file("/proc/self/cgroup", &format!("0::{cgroup}\n"));
        for (dir, pids) in dirs {
            file(&format!("/sys/fs/cgroup/{dir}/cgroup.procs"), pids);
            file(&format!("/sys/fs/cgroup/{dir}/cgroup.events"), "populated 1\n");
            file(&format!("/sys/fs/cgroup/{dir}/cgroup.controllers"), "memory pids\n");
        }
        let root = host.path().join("sys/fs/cgroup");
        let may_write = |path: &Path| {
            let dir = match path.file_name().unwrap().to_str().unwrap().starts_with("cgroup.") {
                true => path.parent().unwrap(),
                false => path,
            };
            ours.iter().any(|ours| dir == root.join(ours))
        };
        match find(host.path(), false, &may_write) {
            Ok(subtree) => Ok((
                subtree.path.strip_prefix(&root).unwrap().to_owned(),
                subtree.controllers.len(),
            )),
            Err(e) => Err(e.to_string().replace(host.path().to_str().unwrap(), "")),
        }
    }

    #[test]
    fn the_parent_is_taken_where_it_is_delegated_and_nobody_is_in_it_pain_21() {
        let dirs = [("a.service", ""), ("a.service/agent", "7\n")];
        let own = ("a.service/agent".into(), 0);
        let parent = ("a.service".into(), 2);
        let at = "/a.service/agent";
        assert_eq!(found(at, &dirs, &["a.service", "a.service/agent"]), Ok(parent));
        assert_eq!(found(at, &dirs, &["a.service/agent"]), Ok(own.clone()));
        let busy = [("a.service", "1\n"), ("a.service/agent", "7\n")];
        assert_eq!(found(at, &busy, &["a.service", "a.service/agent"]), Ok(own));
    }

    #[test]
    fn a_slice_is_systemds_also_where_its_user_may_write_it() {
        let dirs = [("app.slice", ""), ("app.slice/a.service", "7\n")];
        assert_eq!(
            found("/app.slice/a.service", &dirs, &["app.slice", "app.slice/a.service"]),
            Ok(("app.slice/a.service".into(), 0))
        );
    }

    #[test]
    fn what_is_not_delegated_is_named() {
        let dirs = [("a.service", "7\n")];
        assert_eq!(
            found("/a.service", &dirs, &[]).unwrap_err(),
            "cgroup /sys/fs/cgroup/a.service is not delegated: the directory may not be written"
        );
        for outside in ["/gone", "/../elsewhere"] {
            let error = found(outside, &dirs, &["a.service"]).unwrap_err();
            assert_eq!(
                error,
                format!("cgroup {outside} of this process is not below what is mounted at /sys/fs/cgroup")
            );
        }
    }

    #[test]
    fn scopes_and_executors_lie_beside_each_other_in_the_subtree() {
        let subtree = |path: &str| Subtree {
            path: PathBuf::from(path),
            controllers: Vec::new(),
            shown_by: PathBuf::from(path),
            mount: PathBuf::from("/r"),
        };
        let scope = subtree("/r/a.service").scope("alloc", "web").unwrap();
        let dir = PathBuf::from("/r/a.service/alloc.web.scope");
        assert_eq!((&scope.kill, &scope.own), (&dir, &vec![dir.clone()]));
        assert_eq!(scope.shared, [PathBuf::from("/r/a.service/holdfast")]);
        assert!(!scope.foreign);
        assert_eq!(
            subtree("/r").scope("alloc", "web").unwrap().kill,
            PathBuf::from("/r/holdfast.slice/alloc.web.scope")
        );
        assert!(subtree("/r/a").scope("alloc", "../x").is_err());
    }

    #[test]
    fn a_scope_that_could_not_be_made_is_told_before_a_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(procs_file(dir.path()), "").unwrap();
        let scope = |path: PathBuf| Scope::of_v2_override(path.to_str().unwrap()).unwrap();
        assert!(scope(dir.path().to_owned()).require_usable().is_ok());
        assert!(scope(dir.path().join("to/be/made")).require_usable().is_ok());
        let plain = dir.path().join("plain");
        fs::create_dir(&plain).unwrap();
        let error = scope(plain.join("scope")).require_usable().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cgroup {} cannot be used: ", plain.display())),
            "{error}"
        );
    }

    #[test]
    fn the_version_of_a_cgroup_is_the_agents_or_its_file_systems() {
        let of_agent = crate::version();
        assert_eq!(version_of(Path::new("/nowhere/at/all")), of_agent);
        if of_agent.is_none() && Path::new(ROOT).join("cgroup.procs").exists() {
            assert_eq!(version_of(&Path::new(ROOT).join("gone")), Some(Version::V2));
        }
    }
}
