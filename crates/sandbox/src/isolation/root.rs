//! The tree itself, by kind: what it is made of, what of the host is in it, which of the task's own folders.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_record::{Entry, MountFlags, Propagation, RootBase, What};

use super::accounts;
use super::error::{IsolationError, PathFault};
use super::resolve::Surroundings;

/// Of root alone, and what agents of the same host keep in their configuration.
const SECRETS: [&str; 7] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/nomad.d",
    "/etc/consul.d",
    "/etc/vault.d",
];
/// Size of the small folders in memory that a read-only tree needs.
const SMALL: u64 = 64 << 20;
/// Permission bits of a folder for everybody.
const STICKY: u32 = 0o1777;

/// A tree before anything is put into it that trees of all kinds have.
pub(super) struct Tree {
    pub(super) base: RootBase,
    /// Unless the job says otherwise.
    pub(super) read_only: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) masked: Vec<PathBuf>,
    /// Whether the agent has filled it with the task's own folders.
    pub(super) is_agents: bool,
}

impl Tree {
    /// The folder that the agent has filled.
    pub(super) fn of_task_dir(task_dir: &Path) -> Result<Tree, IsolationError> {
        check_directory(task_dir)?;
        Ok(Tree {
            base: RootBase::Directory(task_dir.to_owned()),
            read_only: false,
            entries: Vec::new(),
            masked: Vec::new(),
            is_agents: true,
        })
    }

    /// Some folders of the host.
    pub(super) fn of_host(
        paths: &[PathBuf],
        no_new_privileges: bool,
        around: &Surroundings<'_>,
    ) -> Result<Tree, IsolationError> {
        let mut shown = Vec::new();
        for path in paths {
            check_root_path(path)?;
            match fs::symlink_metadata(path) {
                Ok(metadata) => shown.push((path, metadata.is_symlink())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(bad_root(path, error.into())),
            }
        }
        let dirs: Vec<&PathBuf> = shown
            .iter()
            .filter(|(_, is_link)| !is_link)
            .map(|(path, _)| *path)
            .collect();
        let is_in_another = |path: &Path| dirs.iter().any(|dir| path != *dir && path.starts_with(dir));
        let flags = MountFlags {
            read_only: true,
            no_dev: true,
            // Programs with set-user-id bits are part of a host, and of no use where they give nothing.
            no_suid: no_new_privileges,
            no_exec: false,
        };
        // What is shown of the host below them goes into them, and they into what is shown.
        let (over, mut entries): (Vec<_>, Vec<_>) = small_folders(around)
            .into_iter()
            .filter(|folder| !dirs.iter().any(|dir| folder.target == **dir))
            .partition(|folder| dirs.iter().any(|dir| folder.target.starts_with(dir)));
        for (path, is_link) in &shown {
            if is_in_another(path) {
                continue;
            }
            let bind = |source: PathBuf| What::Bind {
                source,
                flags,
                propagation: Propagation::Private,
                optional: false,
            };
            let what = if *is_link {
                let failed = |error: std::io::Error| bad_root(path, error.into());
                let real_path = path.canonicalize().map_err(failed)?;
                if dirs.iter().any(|dir| real_path.starts_with(dir)) {
                    let to = fs::read_link(path).map_err(failed)?;
                    What::Link { to }
                } else {
                    // What it leads to is not in the tree.
                    bind(real_path)
                }
            } else {
                bind((*path).clone())
            };
            entries.push(Entry {
                target: (*path).clone(),
                what,
            });
        }
        let is_shown = |path: &Path| shown.iter().any(|(shown, _)| path.starts_with(shown));
        let masked = SECRETS
            .iter()
            .map(PathBuf::from)
            .chain(agents_folder(around.alloc_dir))
            .filter(|path| is_shown(path) && fs::symlink_metadata(path).is_ok())
            .collect();
        entries.extend(over.into_iter().filter(|folder| folder.target.is_dir()));
        Ok(Tree {
            base: RootBase::Empty,
            read_only: true,
            entries,
            masked,
            is_agents: false,
        })
    }

    /// Nothing but accounts.
    pub(super) fn minimal(around: &Surroundings<'_>) -> Tree {
        let mut entries = accounts::files(around.runs_as);
        entries.extend(small_folders(around));
        Tree {
            base: RootBase::Empty,
            read_only: true,
            entries,
            masked: Vec::new(),
            is_agents: false,
        }
    }

    /// A directory, or an image.
    pub(super) fn of_layers(
        layers: Vec<PathBuf>,
        read_only: bool,
        around: &Surroundings<'_>,
    ) -> Result<Tree, IsolationError> {
        if layers.is_empty() {
            return Err(IsolationError::NoLayers);
        }
        for layer in &layers {
            if !layer.is_absolute() {
                return Err(bad_root(layer, PathFault::Relative));
            }
            check_directory(layer)?;
        }
        Ok(Tree {
            base: RootBase::Overlay(layers),
            read_only: false,
            entries: if read_only { small_folders(around) } else { Vec::new() },
            masked: Vec::new(),
            is_agents: false,
        })
    }
}

/// What the task finds of its allocation where tasks with images have it (contract, C-2), and which of it cannot be written. What
/// the agent has not made is left out.
pub(super) fn own_folders(around: &Surroundings<'_>) -> Result<(Vec<Entry>, Vec<PathBuf>), IsolationError> {
    let Surroundings {
        task_dir, alloc_dir, ..
    } = around;
    let mut entries = Vec::new();
    let mut read_only = Vec::new();
    for (target, source) in [
        ("/alloc", alloc_dir.join("alloc")),
        ("/local", task_dir.join("local")),
        ("/secrets", task_dir.join("secrets")),
        ("/tmp", task_dir.join("tmp")),
    ] {
        match fs::symlink_metadata(&source) {
            // Not followed: some other task of the allocation may have put a link there.
            Ok(metadata) if metadata.is_dir() => entries.push(own_folder(target, source)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if target == "/tmp" {
                    entries.push(in_memory(target, STICKY, (0, 0)));
                }
            }
            Ok(_) | Err(_) => return Err(IsolationError::OwnFolder(source)),
        }
        if target == "/alloc" && alloc_dir.join("alloc/logs").is_dir() {
            // As the task sees it, so that a link in its place leads nowhere else.
            read_only.push(PathBuf::from("/alloc/logs"));
        }
    }
    Ok((entries, read_only))
}

fn own_folder(target: &str, source: PathBuf) -> Entry {
    Entry {
        target: target.into(),
        what: What::Bind {
            source,
            flags: MountFlags {
                no_suid: true,
                no_dev: true,
                ..MountFlags::default()
            },
            propagation: Propagation::Private,
            optional: false,
        },
    }
}

/// Where programs write when they are told nothing, for a tree that cannot be written.
fn small_folders(around: &Surroundings<'_>) -> Vec<Entry> {
    let owner = (around.runs_as.uid, around.runs_as.gid);
    vec![in_memory("/run", 0o755, owner), in_memory("/var/tmp", STICKY, (0, 0))]
}

fn in_memory(target: &str, mode: u32, (uid, gid): (u32, u32)) -> Entry {
    Entry {
        target: target.into(),
        what: What::Tmpfs {
            bytes: Some(SMALL),
            mode,
            uid,
            gid,
            flags: MountFlags {
                no_suid: true,
                no_dev: true,
                ..MountFlags::default()
            },
        },
    }
}

/// Where the agent keeps allocations, and by its defaults all of its state.
fn agents_folder(alloc_dir: &Path) -> Vec<PathBuf> {
    let Some(allocs) = alloc_dir.parent().filter(|dir| dir.parent().is_some()) else {
        return Vec::new();
    };
    let mut folders = vec![allocs.to_owned()];
    if allocs.file_name().is_some_and(|name| name == "alloc") {
        let siblings = ["client", "server"].map(|name| allocs.with_file_name(name));
        folders.extend(siblings);
    }
    folders
}

fn check_root_path(path: &Path) -> Result<(), IsolationError> {
    match path_fault(path) {
        Some(fault) => Err(bad_root(path, fault)),
        None => Ok(()),
    }
}

fn check_directory(path: &Path) -> Result<(), IsolationError> {
    let failed = |error: std::io::Error| bad_root(path, error.into());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Err(bad_root(path, PathFault::NotDirectory));
    }
    fs::read_dir(path).map_err(failed)?;
    Ok(())
}

fn bad_root(path: &Path, fault: PathFault) -> IsolationError {
    IsolationError::Root {
        path: path.to_owned(),
        fault,
    }
}

/// What is wrong with a path at which something should be.
pub(super) fn path_fault(path: &Path) -> Option<PathFault> {
    use std::path::Component;
    if !path.is_absolute() {
        return Some(PathFault::Relative);
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Some(PathFault::Upwards);
    }
    path.components()
        .all(|component| component == Component::RootDir)
        .then_some(PathFault::IsRoot)
}
