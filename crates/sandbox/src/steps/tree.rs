//! The tree that a task sees. Everything that is taken from the host is held by a descriptor before the new root is entered, and put
//! into place inside it, where no link leads out.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use holdfast_cgroup::Version;
use holdfast_record::{Entry, Isolation, MountFlags, Namespaces, Propagation, Root, RootBase, What};
use holdfast_sys::spawn::Steps;

use super::NamedSteps;
use crate::host::RootMount;
use crate::isolation::Groundwork;

/// These four have the same numbers in mount(2) and, as MOUNT_ATTR_, in mount_setattr(2) (linux/mount.h).
const MS_RDONLY: u64 = 1;
const MS_NOSUID: u64 = 2;
const MS_NODEV: u64 = 4;
const MS_NOEXEC: u64 = 8;
const MS_REC: u64 = 0x4000;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
/// Above every descriptor that an init or session has.
const FIRST_COPY: i32 = 64;
/// What a task's processes look for to know their limits; the others of v1 would only cost time.
const V1_HIERARCHIES: [&str; 5] = ["memory", "cpu", "cpuacct", "cpuset", "pids"];
/// Character devices that programs expect: name, major, minor (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Why a tree cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It was there when the task was planned, or is no path of the host.
    #[error("cannot mount {} at {}: {source}", from.display(), to.display())]
    Source {
        /// On the host.
        from: PathBuf,
        /// In the task.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no place for it where it would not be seen otherwise as well.
    #[error("nothing covers the place from which {} would be mounted", .0.display())]
    NoCover(PathBuf),
    /// More than the descriptors of a process allow.
    #[error("{0} things to mount are too many")]
    TooMany(usize),
    /// It would be the host's that is changed.
    #[error("{what} needs a {namespace} namespace of the task's own, and the task is in the host's")]
    HostNamespace {
        /// What was asked for.
        what: &'static str,
        /// The kind that is missing.
        namespace: &'static str,
    },
}

/// What is planned has its namespaces; what comes from elsewhere must not reach the host for the want of one.
fn check_namespaces(isolation: &Isolation) -> Result<(), TreeError> {
    let Isolation {
        namespaces,
        hostname,
        root,
        entries,
        masked,
        read_only,
        devices: _,
        confinement: _,
    } = isolation;
    let missing = |what, namespace| Err(TreeError::HostNamespace { what, namespace });
    let has_tree = root.is_some() || !(entries.is_empty() && masked.is_empty() && read_only.is_empty());
    if has_tree && !namespaces.mount {
        return missing("a tree of mounts", "mount");
    }
    if hostname.is_some() && !namespaces.uts {
        return missing("a host name", "uts");
    }
    Ok(())
}

/// The CLONE_NEW flags of the namespaces that an init is cloned into.
pub fn clone_flags(namespaces: Namespaces) -> i32 {
    let Namespaces {
        mount,
        pid,
        ipc,
        uts,
        // These two are the main process's to join, in its cgroup and once the tree stands.
        cgroup: _,
        user: _,
    } = namespaces;
    [
        (mount, libc::CLONE_NEWNS),
        (pid, libc::CLONE_NEWPID),
        (ipc, libc::CLONE_NEWIPC),
        (uts, libc::CLONE_NEWUTS),
    ]
    .into_iter()
    .filter_map(|(is_own, flag)| is_own.then_some(flag))
    .sum()
}

/// The CLONE_NEW flags of what a session joins of the init's; its PID namespace it is born in.
pub fn joined_flags(isolation: &Isolation, has_network: bool) -> i32 {
    let network = if has_network { libc::CLONE_NEWNET } else { 0 };
    (clone_flags(isolation.namespaces) & !libc::CLONE_NEWPID) | network
}

/// What building a tree needs of the host.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// A folder of the host to build it on. Nothing but the task's own mount namespace sees that.
    pub anchor: &'a Path,
    /// The folder that holds `upper` and `work`, for what is written to an overlay.
    pub written: &'a Path,
    /// Whether pivot_root(2) can leave the host's root.
    pub host_root: RootMount,
    /// Whether [`NamedSteps::groundwork`] was done at the anchor, in the same mount namespace.
    pub has_groundwork: bool,
}

impl Tree<'_> {
    /// Whether the new root is moved over the old one, because of the host or of the operator.
    fn must_move(&self, root: &Root) -> bool {
        match self.host_root {
            RootMount::Rootfs => true,
            RootMount::Leavable | RootMount::Unknown => root.no_pivot,
        }
    }
}

impl NamedSteps {
    /// What can be done of a tree before its task is known, in the mount namespace in which [`NamedSteps::tree`] will be run.
    pub fn groundwork(self, groundwork: &Groundwork, anchor: &Path) -> Self {
        let Groundwork {
            entries,
            masked,
            read_only,
        } = groundwork;
        // What it is made of has the modes that it is to have.
        let mut named = self.then("", |steps| steps.umask(0)).apart().memory_root(anchor);
        for entry in entries {
            named = named.entry(anchor, entry, false, None, &mut std::iter::empty());
        }
        named.covered(anchor, masked, read_only)
    }

    /// Builds the tree and enters it. The process must be in a mount namespace of its own. `before_leaving` is done as late as the host's
    /// paths are still there.
    pub fn tree(
        self,
        isolation: &Isolation,
        tree: Tree<'_>,
        before_leaving: impl FnOnce(Self) -> Self,
    ) -> Result<Self, TreeError> {
        check_namespaces(isolation)?;
        let namespaces = isolation.namespaces;
        let named = match &isolation.hostname {
            Some(name) => self.then(name.clone(), |steps| steps.host_name(name)),
            None => self,
        };
        if !isolation.namespaces.mount {
            return Ok(before_leaving(named));
        }
        let (mut named, copies) = named.copies(isolation)?;
        if !tree.has_groundwork {
            named = named.apart();
            if let Some(root) = &isolation.root {
                named = named.root(root, copies.first().copied().flatten(), tree);
            }
        }
        named = before_leaving(named);
        let mut place = Some(tree.anchor);
        if let Some(root) = &isolation.root {
            named = named.enter(root, tree);
            // Covered in a moment, by proc(5) if that is not there yet.
            place = match tree.has_groundwork {
                true => Groundwork::cover(isolation),
                false => Some(Path::new("/proc")),
            };
        }
        let (mut named, files) = named.files(isolation, place, copies.len())?;
        let mut copies = copies.into_iter().skip(1);
        let mut files = files.into_iter();
        for entry in &isolation.entries {
            let copy = copies.next().flatten();
            named = named.entry(Path::new("/"), entry, namespaces.cgroup, copy, &mut files);
        }
        named = named.covered(Path::new("/"), &isolation.masked, &isolation.read_only);
        if isolation.root.as_ref().is_some_and(|root| root.read_only) {
            named = named.then("/", Steps::seal_root);
        }
        Ok(named)
    }

    /// Takes what is bound: first the root's, if it is a folder of the host, then one for each entry; `None`: it is none, or is left out.
    fn copies(self, isolation: &Isolation) -> Result<(Self, Vec<Option<Copy<'_>>>), TreeError> {
        let mut named = self;
        let mut copies = Vec::new();
        let root = isolation.root.as_ref().and_then(Root::folder);
        copies.push(root.map(|path| Copy {
            number: FIRST_COPY,
            is_folder: true,
            path,
        }));
        if let Some(path) = root {
            named = named.then(shown(path), |steps| steps.open_tree(path, FIRST_COPY, 0, MS_PRIVATE));
        }
        for (index, Entry { target, what }) in isolation.entries.iter().enumerate() {
            let What::Bind {
                source,
                flags,
                propagation,
                optional,
            } = what
            else {
                copies.push(None);
                continue;
            };
            let is_folder = match std::fs::metadata(source) {
                Ok(found) => found.is_dir(),
                Err(e) if *optional && e.kind() == io::ErrorKind::NotFound => {
                    copies.push(None);
                    continue;
                }
                Err(e) => {
                    return Err(TreeError::Source {
                        from: source.clone(),
                        to: target.clone(),
                        source: e,
                    });
                }
            };
            let number = number_of(index + 1)?;
            let propagation = match propagation {
                Propagation::Private => MS_PRIVATE,
                Propagation::Slave => MS_SLAVE,
                Propagation::Shared => MS_SHARED,
            };
            named = named.then(shown(source), |steps| {
                steps.open_tree(source, number, mount_flags(*flags), propagation)
            });
            copies.push(Some(Copy {
                number,
                is_folder,
                path: source,
            }));
        }
        Ok((named, copies))
    }

    /// The namespace sees what is mounted on the host later, and the host nothing of what is mounted here.
    fn apart(self) -> Self {
        self.then("/", |steps| steps.mount("", "/", "", MS_REC | MS_SLAVE, ""))
    }

    fn memory_root(self, anchor: &Path) -> Self {
        self.then("an empty root", |steps| {
            steps.mount("tmpfs", anchor, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
        })
    }

    /// Masks, and what cannot be written, in the tree at `base`.
    fn covered(self, base: &Path, masked: &[PathBuf], read_only: &[PathBuf]) -> Self {
        let nothing = base.join("dev/null");
        let named = masked.iter().fold(self, |named, path| {
            named.then(shown(path), |steps| steps.mask(below(base, path), &nothing))
        });
        read_only.iter().fold(named, |named, path| {
            named.then(shown(path), |steps| steps.make_read_only(below(base, path)))
        })
    }

    /// Writes the task's own files into a small tmpfs at `place`, of which only they are seen.
    fn files(self, isolation: &Isolation, place: Option<&Path>, taken: usize) -> Result<(Self, Vec<i32>), TreeError> {
        let contents = isolation.entries.iter().filter_map(|entry| match &entry.what {
            What::File { content } => Some((content, &entry.target)),
            _ => None,
        });
        let mut named = self;
        let mut numbers = Vec::new();
        for (index, (content, target)) in contents.enumerate() {
            let place = place.ok_or_else(|| TreeError::NoCover(target.clone()))?;
            if index == 0 {
                named = named
                    .then("the task's files", |steps| steps.make_place(place, true))
                    .then("the task's files", |steps| {
                        steps.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
                    });
            }
            let number = number_of(taken + index)?;
            let path = place.join(index.to_string());
            let attributes = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
            named = named
                .then(shown(target), |steps| steps.write_file(&path, content.as_bytes()))
                .then(shown(target), |steps| {
                    steps.open_tree(&path, number, attributes, MS_PRIVATE)
                });
            numbers.push(number);
        }
        Ok((named, numbers))
    }

    fn root(self, root: &Root, copy: Option<Copy<'_>>, tree: Tree<'_>) -> Self {
        let anchor = tree.anchor;
        let written = if root.read_only { anchor } else { tree.written };
        match (&root.base, copy) {
            (_, Some(Copy { number, path, .. })) => self.then(shown(path), |steps| steps.attach(number, anchor)),
            (RootBase::Overlay(layers), None) => {
                let object = format!("an overlay of {} folders", layers.len());
                let options = overlay_options(layers, written);
                // What is missing to mount onto is made in memory where nothing is to be written.
                let named = if root.read_only {
                    ["upper", "work"].into_iter().fold(
                        self.then(object.clone(), |steps| {
                            steps.mount("tmpfs", anchor, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
                        }),
                        |named, name| {
                            let path = written.join(name);
                            named.then(shown(&path), |steps| steps.make_folder(&path, 0o755, 0, 0))
                        },
                    )
                } else {
                    self
                };
                named.then(object, |steps| steps.mount("overlay", anchor, "overlay", 0, options))
            }
            (RootBase::Empty | RootBase::Directory(_), None) => self.memory_root(anchor),
        }
    }

    fn enter(self, root: &Root, tree: Tree<'_>) -> Self {
        let object = match &root.base {
            RootBase::Directory(path) => shown(path),
            RootBase::Empty | RootBase::Overlay(_) => String::new(),
        };
        self.then(object, |steps| steps.enter_root(tree.anchor, tree.must_move(root)))
    }

    /// An entry of a tree that is built at `base`.
    fn entry(
        self,
        base: &Path,
        Entry { target, what }: &Entry,
        has_cgroups: bool,
        copy: Option<Copy<'_>>,
        files: &mut impl Iterator<Item = i32>,
    ) -> Self {
        let object = shown(target);
        let target = &below(base, target);
        let place = |named: Self, is_folder| named.then(object.clone(), |steps| steps.make_place(target, is_folder));
        let mount = |named: Self, kind: &str, flags: u64, data: &str| {
            place(named, true).then(object.clone(), |steps| steps.mount(kind, target, kind, flags, data))
        };
        const PLAIN: u64 = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        match what {
            What::Bind { source, .. } => match copy {
                Some(Copy { number, is_folder, .. }) => place(self, is_folder)
                    .then(format!("{} at {object}", source.display()), |steps| {
                        steps.attach(number, target)
                    }),
                None => self,
            },
            What::Proc => mount(self, "proc", PLAIN, ""),
            What::Sysfs => mount(self, "sysfs", PLAIN | MS_RDONLY, ""),
            What::Mqueue => mount(self, "mqueue", PLAIN, ""),
            What::Cgroups if !has_cgroups => self,
            What::Cgroups => self.cgroups(target),
            What::Tmpfs {
                bytes,
                mode,
                uid,
                gid,
                flags,
            } => {
                let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
                mount(
                    self,
                    "tmpfs",
                    mount_flags(*flags),
                    &format!("mode={mode:o},uid={uid},gid={gid}{size}"),
                )
            }
            What::Dev => {
                let named = mount(self, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k");
                devices(named, target)
            }
            What::Node {
                is_char,
                major,
                minor,
                mode,
                uid,
                gid,
            } => {
                const S_IFCHR: u32 = 0o020000;
                const S_IFBLK: u32 = 0o060000;
                let kind = if *is_char { S_IFCHR } else { S_IFBLK };
                self.then(object, |steps| {
                    steps.make_node(target, kind | mode, device(*major, *minor), *uid, *gid)
                })
            }
            What::Folder { mode, uid, gid } => self.then(object, |steps| steps.make_folder(target, *mode, *uid, *gid)),
            What::Link { to } => self.then(object, |steps| steps.make_link(to, target)),
            What::File { .. } => match files.next() {
                Some(number) => place(self, false).then(object.clone(), |steps| steps.attach(number, target)),
                None => self,
            },
        }
    }

    /// What the namespace of cgroups shows, read-only.
    fn cgroups(self, target: &Path) -> Self {
        const FLAGS: u64 = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
        let place = |named: Self, path: &Path| {
            let path = path.to_owned();
            named.then(shown(&path), move |steps| steps.make_place(path, true))
        };
        match holdfast_cgroup::version() {
            None => self,
            Some(Version::V2) => place(self, target).then(shown(target), |steps| {
                steps.mount("cgroup2", target, "cgroup2", FLAGS, "")
            }),
            Some(Version::V1) => {
                let mut named = place(self, target).then(shown(target), |steps| {
                    steps.mount(
                        "tmpfs",
                        target,
                        "tmpfs",
                        MS_NOSUID | MS_NODEV | MS_NOEXEC,
                        "mode=755,size=64k",
                    )
                });
                for (name, controllers) in v1_hierarchies() {
                    let path = target.join(name);
                    named = place(named, &path).then(shown(&path), |steps| {
                        steps.mount("cgroup", &path, "cgroup", FLAGS, controllers)
                    });
                }
                named
            }
        }
    }
}

/// Folder and controllers of the hierarchies that matter to a task; those that are mounted together have one folder. They are looked for
/// once: a hierarchy that is in use stays.
pub fn v1_hierarchies() -> &'static [(String, String)] {
    static FOUND: OnceLock<Vec<(String, String)>> = OnceLock::new();
    FOUND.get_or_init(find_v1_hierarchies)
}

fn find_v1_hierarchies() -> Vec<(String, String)> {
    let root = Path::new(holdfast_cgroup::ROOT);
    let mut hierarchies: Vec<(String, String)> = Vec::new();
    for name in V1_HIERARCHIES {
        // `cpu` may be a link to `cpu,cpuacct`.
        let real = std::fs::read_link(root.join(name)).unwrap_or_else(|_| name.into());
        if !root.join(&real).join("cgroup.procs").exists() {
            continue;
        }
        let folder = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !hierarchies.iter().any(|(known, _)| *known == folder) {
            hierarchies.push((folder.clone(), folder));
        }
    }
    hierarchies
}

/// A path of a tree where that is built.
fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}

fn devices(named: NamedSteps, dev: &Path) -> NamedSteps {
    const S_IFCHR: u32 = 0o020000;
    let mut named = named;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        named = named.then(shown(&path), |steps| {
            steps.make_node(&path, S_IFCHR | 0o666, device(major, minor), 0, 0)
        });
    }
    let terminals = dev.join("pts");
    named = named
        .then(shown(&terminals), |steps| steps.make_folder(&terminals, 0o755, 0, 0))
        .then(shown(&terminals), |steps| {
            // 5 is the group tty wherever there is one.
            let data = "newinstance,ptmxmode=0666,mode=0620,gid=5";
            steps.mount("devpts", &terminals, "devpts", MS_NOSUID | MS_NOEXEC, data)
        });
    for (text, name) in DEVICE_LINKS {
        let path = dev.join(name);
        named = named.then(shown(&path), |steps| steps.make_link(text, &path));
    }
    named
}

/// As the kernel numbers devices (makedev(3)).
fn device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// What was taken from the host.
#[derive(Debug, Clone, Copy)]
struct Copy<'a> {
    number: i32,
    is_folder: bool,
    path: &'a Path,
}

trait Folder {
    /// The folder of the host that is the root as it is, without an overlay.
    fn folder(&self) -> Option<&Path>;
}

impl Folder for Root {
    fn folder(&self) -> Option<&Path> {
        match &self.base {
            RootBase::Directory(path) => Some(path),
            RootBase::Overlay(_) | RootBase::Empty => None,
        }
    }
}

fn number_of(index: usize) -> Result<i32, TreeError> {
    const MOST: usize = 512;
    match i32::try_from(index) {
        Ok(number) if index < MOST => Ok(FIRST_COPY + number),
        _ => Err(TreeError::TooMany(index)),
    }
}

fn mount_flags(flags: MountFlags) -> u64 {
    let MountFlags {
        read_only,
        no_suid,
        no_dev,
        no_exec,
    } = flags;
    [
        (read_only, MS_RDONLY),
        (no_suid, MS_NOSUID),
        (no_dev, MS_NODEV),
        (no_exec, MS_NOEXEC),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .sum()
}

/// Options of overlayfs; a comma or colon in a path would end it.
fn overlay_options(layers: &[PathBuf], written: &Path) -> std::ffi::OsString {
    let mut options = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        escape(layer, &mut options);
    }
    for (name, folder) in [("upperdir", "upper"), ("workdir", "work")] {
        options.extend_from_slice(format!(",{name}=").as_bytes());
        escape(&written.join(folder), &mut options);
    }
    OsStr::from_bytes(&options).to_owned()
}

fn escape(path: &Path, options: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbered_as_by_the_kernel() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(0x1234, 0x5_6789), nix::sys::stat::makedev(0x1234, 0x5_6789));
    }

    #[test]
    fn a_ramdisk_is_left_by_moving_whether_or_not_the_operator_knows() {
        let must_move = |host_root, no_pivot| {
            let tree = Tree {
                anchor: Path::new("/a"),
                written: Path::new("/a"),
                host_root,
                has_groundwork: false,
            };
            tree.must_move(&Root {
                base: RootBase::Empty,
                read_only: true,
                no_pivot,
            })
        };
        assert!(must_move(RootMount::Rootfs, false));
        assert!(must_move(RootMount::Leavable, true));
        assert!(!must_move(RootMount::Leavable, false));
        assert!(!must_move(RootMount::Unknown, false));
    }

    #[test]
    fn a_path_cannot_end_an_option_of_the_overlay() {
        let layers = [PathBuf::from("/a:b,c"), PathBuf::from("/d\\")];
        let options = overlay_options(&layers, Path::new("/w"));
        assert_eq!(options, r"lowerdir=/a\:b\,c:/d\\,upperdir=/w/upper,workdir=/w/work");
    }
}
