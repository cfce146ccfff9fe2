//! From what was asked for to what will be done, with everything looked up that can be.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use holdfast_record::{Confinement, Entry, Isolation, MountFlags, Namespaces, Root, Stragglers, What};

use super::device::{self, Device};
use super::error::{IsolationError, NoPlaceReason, PathFault};
use super::options::{IsolationOptions, RootOption, TmpfsOption};
use super::root::{self, Tree};
use super::{Found, Origin, View};
use crate::access::{self, Dead};
use crate::users::Credentials;

/// Size of `/dev/shm` that the built-in gives.
const SHM_BYTES: u64 = 64 << 20;
/// What sethostname(2) takes (`HOST_NAME_MAX`).
const LONGEST_HOST_NAME: usize = 64;
/// Paths that Nomad's executor covers, and those that it makes read-only (drivers/shared/executor/executor_linux.go).
const MASKED: [&str; 2] = ["/proc/kcore", "/sys/firmware"];
const READ_ONLY: [&str; 4] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"];
/// And those that container engines do besides: what tells of the host and its other users, or changes it.
const ALSO_MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
];
const ALSO_READ_ONLY: [&str; 1] = ["/proc/fs"];

/// What a task's isolation depends on beside its own options.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The task's directory, absolute.
    pub task_dir: &'a Path,
    /// The allocation's, absolute.
    pub alloc_dir: &'a Path,
    /// Whom the task runs as.
    pub runs_as: &'a Credentials,
    /// What becomes of processes that the main process leaves behind.
    pub stragglers: Stragglers,
}

/// What comes of options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What will be done.
    pub isolation: Isolation,
    /// The tree as the task will see it.
    pub view: View,
    /// What is left out, each in one line.
    pub warnings: Vec<String>,
}

/// Looks everything up that can be known before there is a process; changes nothing.
pub fn resolve(options: IsolationOptions, around: &Surroundings<'_>) -> Result<Resolved, IsolationError> {
    let IsolationOptions {
        root,
        read_only_root,
        no_pivot_root,
        modes,
        user_namespace,
        hostname,
        shm_bytes,
        tmpfs,
        entries,
        devices,
        confinement,
        // Of the plan: user, command, environment.
        account: _,
    } = options;
    let has_own_root = root != RootOption::HostTree;
    let namespaces = modes.namespaces(has_own_root, user_namespace);
    check_namespaces(namespaces, hostname.as_deref(), around.stragglers)?;
    if !has_own_root && read_only_root == Some(true) {
        return Err(IsolationError::HostRoot);
    }
    let has_tun = root == RootOption::TaskDir;
    let tree = tree_of(root, read_only_root, &confinement, around)?;
    let mut isolation = Isolation {
        namespaces,
        hostname,
        confinement,
        ..Isolation::default()
    };
    match tree {
        Some(tree) => {
            let Tree {
                base,
                read_only,
                entries,
                masked,
                is_agents,
            } = tree;
            isolation.root = Some(Root {
                base,
                read_only: read_only_root.unwrap_or(read_only),
                no_pivot: no_pivot_root,
            });
            isolation.entries = entries;
            isolation.entries.extend(of_the_system(namespaces.ipc, shm_bytes));
            if is_agents {
                isolation.masked = MASKED.map(PathBuf::from).into();
                isolation.read_only = READ_ONLY.map(PathBuf::from).into();
            } else {
                (isolation.masked, isolation.read_only) = of_the_kernel();
                isolation.masked.extend(masked);
                let (folders, read_only) = root::own_folders(around)?;
                isolation.entries.extend(folders);
                isolation.read_only.extend(read_only);
            }
        }
        None => isolation.entries = over_the_host(namespaces, shm_bytes)?,
    }
    let mut building = Building {
        view: View::of(&isolation),
        has_mounts: namespaces.mount,
        isolation,
        warnings: Vec::new(),
        around,
    };
    building.put_devices(devices, has_own_root, has_tun)?;
    for option in tmpfs {
        building.put_tmpfs(option, around.runs_as)?;
    }
    for entry in entries {
        building.put("mount", entry)?;
    }
    let Building {
        isolation,
        view,
        warnings,
        ..
    } = building;
    Ok(Resolved {
        isolation,
        view,
        warnings,
    })
}

fn check_namespaces(
    namespaces: Namespaces,
    hostname: Option<&str>,
    stragglers: Stragglers,
) -> Result<(), IsolationError> {
    let Namespaces {
        mount,
        pid,
        ipc: _,
        uts,
        cgroup: _,
        user: _,
    } = namespaces;
    if pid && !mount {
        return Err(IsolationError::HostProc);
    }
    if pid && stragglers == Stragglers::Leave {
        return Err(IsolationError::Stragglers);
    }
    match hostname {
        Some(name) if !uts => Err(IsolationError::HostName(name.to_owned())),
        Some(name) if name.len() > LONGEST_HOST_NAME => Err(IsolationError::LongHostName(name.to_owned())),
        Some(_) | None => Ok(()),
    }
}

fn tree_of(
    root: RootOption,
    read_only_root: Option<bool>,
    confinement: &Confinement,
    around: &Surroundings<'_>,
) -> Result<Option<Tree>, IsolationError> {
    Ok(match root {
        RootOption::HostTree => None,
        RootOption::TaskDir => Some(Tree::of_task_dir(around.task_dir)?),
        RootOption::Host(paths) => Some(Tree::of_host(&paths, confinement.no_new_privileges, around)?),
        RootOption::Minimal => Some(Tree::minimal(around)),
        RootOption::Layers(layers) => Some(Tree::of_layers(layers, read_only_root == Some(true), around)?),
    })
}

/// What of the kernel's file systems is masked, and what is read-only, in every tree but the agent's.
pub(super) fn of_the_kernel() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let paths = |some: &[&str], others: &[&str]| some.iter().chain(others).map(PathBuf::from).collect();
    (paths(&MASKED, &ALSO_MASKED), paths(&READ_ONLY, &ALSO_READ_ONLY))
}

/// What every tree has that is not the host's. `/proc` is a mount of its own also where the processes are the host's.
pub(super) fn of_the_system(has_own_ipc: bool, shm_bytes: Option<u64>) -> Vec<Entry> {
    let entry = |target: &str, what| Entry {
        target: target.into(),
        what,
    };
    let mut entries = vec![
        entry("/dev", What::Dev),
        entry("/proc", What::Proc),
        shared_memory(shm_bytes.unwrap_or(SHM_BYTES)),
    ];
    if has_own_ipc {
        entries.push(entry("/dev/mqueue", What::Mqueue));
    }
    entries.push(entry("/sys", What::Sysfs));
    entries.push(entry("/sys/fs/cgroup", What::Cgroups));
    entries
}

/// What namespaces of the task's own need in the host's tree to be of use.
fn over_the_host(namespaces: Namespaces, shm_bytes: Option<u64>) -> Result<Vec<Entry>, IsolationError> {
    if !namespaces.mount {
        return match shm_bytes {
            Some(_) => Err(host_mounts("shm_size".to_owned())),
            None => Ok(Vec::new()),
        };
    }
    let mut entries = Vec::new();
    if namespaces.pid {
        entries.push(Entry {
            target: "/proc".into(),
            what: What::Proc,
        });
    }
    if let Some(bytes) = shm_bytes {
        entries.push(shared_memory(bytes));
    }
    if namespaces.ipc && Path::new("/dev/mqueue").is_dir() {
        entries.push(Entry {
            target: "/dev/mqueue".into(),
            what: What::Mqueue,
        });
    }
    Ok(entries)
}

fn shared_memory(bytes: u64) -> Entry {
    Entry {
        target: "/dev/shm".into(),
        what: What::Tmpfs {
            bytes: Some(bytes),
            mode: 0o1777,
            uid: 0,
            gid: 0,
            flags: MountFlags {
                read_only: false,
                no_suid: true,
                no_dev: true,
                no_exec: true,
            },
        },
    }
}

fn host_mounts(what: String) -> IsolationError {
    IsolationError::HostMounts { what }
}

/// What was asked for is put in one by one, each seen from what is there already.
struct Building<'a> {
    isolation: Isolation,
    view: View,
    has_mounts: bool,
    warnings: Vec<String>,
    around: &'a Surroundings<'a>,
}

impl Building<'_> {
    fn put_devices(
        &mut self,
        devices: Vec<super::DeviceOption>,
        has_own_root: bool,
        has_tun: bool,
    ) -> Result<(), IsolationError> {
        let mut rules = device::usual_rules(has_tun);
        let is_restricted = has_own_root || (self.has_mounts && !devices.is_empty());
        for option in devices {
            let is_there = !has_own_root && option.host == option.target;
            let Device { entry, rule } = Device::of(option, has_own_root)?;
            rules.push(rule);
            // The host's tree has it.
            if !is_there {
                self.put("device", entry)?;
            }
        }
        self.isolation.devices = is_restricted.then_some(rules);
        Ok(())
    }

    /// The user's own, whatever its mode.
    fn put_tmpfs(&mut self, option: TmpfsOption, owner: &Credentials) -> Result<(), IsolationError> {
        let TmpfsOption { target, bytes, mode } = option;
        let what = What::Tmpfs {
            bytes,
            mode,
            uid: owner.uid,
            gid: owner.gid,
            flags: MountFlags {
                no_suid: true,
                no_dev: true,
                ..MountFlags::default()
            },
        };
        self.put("tmpfs", Entry { target, what })
    }

    fn put(&mut self, word: &'static str, entry: Entry) -> Result<(), IsolationError> {
        let Entry { target, mut what } = entry;
        if let Some(fault) = root::path_fault(&target) {
            return Err(IsolationError::Target {
                what: word,
                target,
                fault,
            });
        }
        if !self.has_mounts {
            return Err(host_mounts(format!("{word} {}", target.display())));
        }
        let is_dir = match &mut what {
            What::Bind { source, optional, .. } => match self.source(&target, source)? {
                Some(is_dir) => Some(is_dir),
                None if *optional => None,
                None => {
                    return Err(IsolationError::Source {
                        target,
                        source_path: source.clone(),
                        fault: PathFault::Unusable(nix::errno::Errno::ENOENT.into()),
                    });
                }
            },
            What::Proc | What::Sysfs | What::Cgroups | What::Mqueue | What::Tmpfs { .. } | What::Dev => Some(true),
            What::Node { .. } | What::File { .. } => Some(false),
            What::Folder { .. } | What::Link { .. } => None,
        };
        match access::walk(&self.view, &target) {
            Ok(walk) => {
                if is_dir.is_some_and(|is_dir| walk.found.is_dir() != is_dir) {
                    let is_dir = !walk.found.is_dir();
                    return Err(IsolationError::Kind { target, is_dir });
                }
            }
            // The executor will say why.
            Err(Dead { source, .. }) if source.kind() != ErrorKind::NotFound => {}
            Err(_) => {
                if let Some((dir, reason)) = self.obstacle(&target) {
                    let error = IsolationError::NoPlace {
                        what: word,
                        target,
                        dir,
                        reason,
                    };
                    // The likes of /etc/hostname, which the host does not have either.
                    return match what {
                        What::File { .. } => {
                            self.warnings.push(error.to_string());
                            Ok(())
                        }
                        _ => Err(error),
                    };
                }
            }
        }
        let entry = Entry { target, what };
        self.view.put(&entry);
        self.isolation.entries.push(entry);
        Ok(())
    }

    /// Why a target that is not there cannot be made, and in which directory.
    fn obstacle(&self, target: &Path) -> Option<(PathBuf, NoPlaceReason)> {
        let (dir, found) = self.view.nearest(target).ok()?;
        let reason = match found.origin {
            Origin::Bind { read_only: true } | Origin::System => NoPlaceReason::ReadOnly,
            Origin::Base if self.isolation.root.is_none() && !self.is_of_allocation(&found) => NoPlaceReason::OfHost,
            Origin::Base | Origin::Bind { read_only: false } | Origin::Layer | Origin::Made => return None,
        };
        Some((dir, reason))
    }

    /// What is there goes away with the allocation.
    fn is_of_allocation(&self, found: &Found) -> bool {
        let home = self.around.alloc_dir.canonicalize();
        matches!((&home, &found.host), (Ok(home), Some(host)) if host.starts_with(home))
    }

    /// Whether the source of a bind is a directory; `None`: there is nothing. In the allocation's directory, where a task can put
    /// links, it is replaced by what it really is.
    fn source(&self, target: &Path, source: &mut PathBuf) -> Result<Option<bool>, IsolationError> {
        let failed = |source: &Path, fault| IsolationError::Source {
            target: target.to_owned(),
            source_path: source.to_owned(),
            fault,
        };
        if !source.is_absolute() {
            return Err(failed(source, PathFault::Relative));
        }
        let metadata = match fs::metadata(&*source) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(source, error.into())),
        };
        let home = self.around.alloc_dir;
        if source.starts_with(home) {
            let unusable = |error: std::io::Error| failed(source, error.into());
            let real_path = source.canonicalize().map_err(unusable)?;
            if !real_path.starts_with(home.canonicalize().map_err(unusable)?) {
                return Err(IsolationError::SourceOutside {
                    target: target.to_owned(),
                    source_path: source.clone(),
                    real_path,
                });
            }
            *source = real_path;
        }
        Ok(Some(metadata.is_dir()))
    }
}

#[cfg(test)]
mod tests;
