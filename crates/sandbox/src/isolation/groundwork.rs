//! What the trees of many tasks begin with, whatever else they are to hold. It can be built before the task is known.

use std::path::{Path, PathBuf};

use holdfast_record::{Entry, Isolation, Propagation, RootBase, What};

use super::resolve;

/// The part of a tree that does not depend on its task: a root in memory, and in it the kernel's file systems with their masks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groundwork {
    /// In this order.
    pub entries: Vec<Entry>,
    /// As in [`Isolation`].
    pub masked: Vec<PathBuf>,
    /// As in [`Isolation`].
    pub read_only: Vec<PathBuf>,
}

impl Groundwork {
    /// Of a task that says nothing of its own about any of it, with an IPC namespace of its own or the host's.
    pub fn usual(has_own_ipc: bool) -> Groundwork {
        let mut entries = resolve::of_the_system(has_own_ipc, None);
        // They show the cgroup of who mounts them.
        entries.retain(|entry| entry.what != What::Cgroups);
        let (masked, read_only) = resolve::of_the_kernel();
        Groundwork {
            entries,
            masked,
            read_only,
        }
    }

    /// What is left to do for a task where this is done. `None`: its tree does not begin with this, or the order would matter.
    pub fn rest_of(&self, isolation: &Isolation) -> Option<Isolation> {
        let has_memory_root = (isolation.root.as_ref()).is_some_and(|root| root.base == RootBase::Empty);
        let is_contained = (self.masked.iter()).all(|path| isolation.masked.contains(path))
            && (self.read_only.iter()).all(|path| isolation.read_only.contains(path));
        if !isolation.namespaces.mount || !has_memory_root || !is_contained {
            return None;
        }
        let places = (self.entries.iter())
            .map(|entry| isolation.entries.iter().position(|planned| planned == entry))
            .collect::<Option<Vec<usize>>>()?;
        let is_free = |(index, entry): (usize, &Entry)| {
            let comes_after = places
                .iter()
                .zip(&self.entries)
                .all(|(place, ours)| index > *place || !touch(&entry.target, &ours.target));
            let is_uncovered = (self.masked.iter().chain(&self.read_only)).all(|path| !touch(&entry.target, path));
            comes_after && is_uncovered && !is_shared(&entry.what)
        };
        let others = || (isolation.entries.iter().enumerate()).filter(|(index, _)| !places.contains(index));
        if !others().all(is_free) {
            return None;
        }
        let Isolation {
            namespaces,
            hostname,
            root,
            entries: _,
            masked,
            read_only,
            devices,
            confinement,
        } = isolation;
        let rest = Isolation {
            namespaces: *namespaces,
            hostname: hostname.clone(),
            root: root.clone(),
            entries: others().map(|(_, entry)| entry.clone()).collect(),
            masked: without(masked, &self.masked),
            read_only: without(read_only, &self.read_only),
            devices: devices.clone(),
            confinement: confinement.clone(),
        };
        let has_files = rest.entries.iter().any(|entry| matches!(entry.what, What::File { .. }));
        (!has_files || Groundwork::cover(&rest).is_some()).then_some(rest)
    }

    /// A folder of a tree that something else is mounted over: what is mounted there before is not seen in the end.
    pub fn cover(rest: &Isolation) -> Option<&Path> {
        let is_cover = |entry: &&Entry| matches!(entry.what, What::Tmpfs { .. });
        rest.entries.iter().find(is_cover).map(|entry| entry.target.as_path())
    }
}

/// One is the other, or lies in it.
fn touch(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// It must be taken from the host's tree as that is, before mounts in it are only followed.
fn is_shared(what: &What) -> bool {
    matches!(
        what,
        What::Bind {
            propagation: Propagation::Shared,
            ..
        }
    )
}

fn without(all: &[PathBuf], done: &[PathBuf]) -> Vec<PathBuf> {
    all.iter().filter(|path| !done.contains(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use holdfast_record::{MountFlags, Namespaces, Root};

    use super::*;

    fn entry(target: &str, what: What) -> Entry {
        Entry {
            target: target.into(),
            what,
        }
    }

    /// A task with these entries before and after what all have.
    fn task(before: &[&str], after: &[&str]) -> Isolation {
        let link = |target: &&str| entry(target, What::Link { to: "/x".into() });
        let (mut masked, read_only) = resolve::of_the_kernel();
        masked.push("/etc/shadow".into());
        let system = resolve::of_the_system(true, None);
        Isolation {
            namespaces: Namespaces {
                mount: true,
                ..Namespaces::default()
            },
            root: Some(Root {
                base: RootBase::Empty,
                read_only: true,
                no_pivot: false,
            }),
            entries: (before.iter().map(link))
                .chain(system)
                .chain(after.iter().map(link))
                .collect(),
            masked,
            read_only,
            ..Isolation::default()
        }
    }

    fn left(isolation: &Isolation) -> Option<Vec<String>> {
        let rest = Groundwork::usual(true).rest_of(isolation)?;
        Some(
            rest.entries
                .iter()
                .map(|entry| entry.target.display().to_string())
                .collect(),
        )
    }

    #[test]
    fn what_is_left_is_what_the_task_has_beside_it_in_its_order() {
        let isolation = task(&["/usr", "/run"], &["/alloc", "/dev/fuse"]);
        let expected = ["/usr", "/run", "/sys/fs/cgroup", "/alloc", "/dev/fuse"];
        assert_eq!(left(&isolation).unwrap(), expected);
        let rest = Groundwork::usual(true).rest_of(&isolation).unwrap();
        assert_eq!(rest.masked, [PathBuf::from("/etc/shadow")]);
        assert_eq!(rest.read_only, Vec::<PathBuf>::new());
        assert_eq!((rest.root, rest.namespaces), (isolation.root, isolation.namespaces));
    }

    #[test]
    fn a_tree_in_which_the_order_would_matter_is_built_by_its_task() {
        assert_eq!(left(&task(&["/dev/mine"], &[])), None, "it would be covered");
        assert_eq!(left(&task(&["/"], &[])), None);
        assert_eq!(left(&task(&[], &["/proc/acpi"])), None, "it would not be covered");
        assert_eq!(left(&task(&[], &["/sys/firmware/mine"])), None);
        let shared = Entry::bind("/data".into(), "/srv".into(), false, Propagation::Shared);
        let mut isolation = task(&[], &[]);
        isolation.entries.push(shared);
        assert_eq!(left(&isolation), None, "the host would not see what is mounted there");
    }

    #[test]
    fn files_of_the_task_need_a_place_that_is_covered_afterwards() {
        let mut isolation = task(&[], &[]);
        let file = What::File { content: String::new() };
        isolation.entries.push(entry("/etc/hosts", file));
        assert_eq!(left(&isolation), None);
        let memory = What::Tmpfs {
            bytes: None,
            mode: 0o755,
            uid: 0,
            gid: 0,
            flags: MountFlags::default(),
        };
        isolation.entries.push(entry("/run", memory));
        assert_eq!(left(&isolation).unwrap(), ["/sys/fs/cgroup", "/etc/hosts", "/run"]);
    }

    #[test]
    fn a_tree_that_begins_otherwise_is_built_by_its_task() {
        let usual = task(&[], &[]);
        let has_none = |change: fn(&mut Isolation)| {
            let mut isolation = usual.clone();
            change(&mut isolation);
            left(&isolation).is_none()
        };
        assert!(!has_none(|_| {}));
        assert!(has_none(|isolation| isolation.root = None));
        assert!(has_none(|isolation| {
            isolation.root.as_mut().unwrap().base = RootBase::Overlay(vec!["/image".into()]);
        }));
        assert!(has_none(|isolation| isolation.masked.clear()));
        assert!(has_none(|isolation| isolation.read_only.clear()));
        assert!(has_none(
            |isolation| isolation.entries = resolve::of_the_system(true, Some(1 << 20))
        ));
        assert!(has_none(
            |isolation| isolation.entries = resolve::of_the_system(false, None)
        ));
    }
}
