//! The host's cgroups as one finds them: what is mounted, what the agent makes of it, and what is left without the agent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::delegation::{Delegation, unified};
use crate::v2::device_access;
use crate::version::{self, REQUIRED};
use crate::{ROOT, Support, Version, interface};

/// What is mounted at [`ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Nothing that the agent would use.
    Unmounted,
    /// One hierarchy per controller.
    V1,
    /// The same with v2 beside it, which has no controllers then or few.
    Hybrid,
    /// The unified hierarchy.
    V2,
}

/// Why the agent makes no cgroups, in the order in which it looks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentsRefusal {
    /// No cgroups at [`ROOT`].
    #[error("no cgroups are mounted at {ROOT}")]
    NotMounted,
    /// v1 cannot be delegated.
    #[error("cgroup v1 is only for root")]
    NeedsRoot,
    /// The agent wants all of them.
    #[error("the kernel does not offer {0} at {ROOT}/cgroup.controllers")]
    Controllers(String),
    /// The agent's own slice belongs to somebody else.
    #[error("{ROOT}/nomad.slice is not this user's")]
    NotOurSlice,
    /// A container's, often.
    #[error("{ROOT} is mounted read-only")]
    ReadOnly,
}

/// All that matters of a host's cgroups.
#[derive(Debug, Clone)]
pub struct HostCgroups {
    /// What is mounted.
    pub layout: Layout,
    /// What the agent uses; or why it uses none.
    pub agent: Result<Version, AgentsRefusal>,
    /// What tasks get: of the agent's cgroups, or of the delegated ones.
    pub support: Option<Support>,
    /// What there is where the agent makes none.
    pub delegation: Delegation,
    /// The cgroup of this process: in the systemd hierarchy where there is one, else on v2, else the first.
    pub own: String,
}

/// Whose cgroups are looked at, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Vantage<'a> {
    /// The root of the host's files.
    pub root: &'a Path,
    /// The effective user.
    pub uid: u32,
    /// Whether that user may write a directory or file.
    pub may_write: fn(&Path) -> bool,
    /// Whether that user may load programs that rule access to devices.
    pub takes_programs: fn() -> bool,
}

/// Whether this process may load programs that rule access to devices on v2.
pub fn takes_device_programs() -> bool {
    device_access::is_possible()
}

impl HostCgroups {
    /// Looks. Changes nothing.
    pub fn look(from: Vantage<'_>) -> HostCgroups {
        let Vantage {
            root: host,
            uid,
            may_write,
            takes_programs,
        } = from;
        let at = |path: &str| host.join(path.trim_start_matches('/'));
        let mountinfo = fs::read_to_string(at("/proc/self/mountinfo")).unwrap_or_default();
        let membership = fs::read_to_string(at("/proc/self/cgroup")).unwrap_or_default();
        let release = interface::read(&at("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let root = at(ROOT);
        let layout = match (version::mounted(&mountinfo), unified(&mountinfo)) {
            (None, _) => Layout::Unmounted,
            (Some(Version::V2), _) => Layout::V2,
            (Some(Version::V1), None) => Layout::V1,
            (Some(Version::V1), Some(_)) => Layout::Hybrid,
        };
        let agent = agents_version(&mountinfo, &root, uid);
        let delegation = Delegation::find_on(host, uid == 0, &may_write);
        let support = match (&agent, &delegation) {
            (Ok(version), _) => Some(Support::probe_below(&root, *version, &release, takes_programs)),
            (Err(_), Delegation::Subtree(subtree)) => Some(subtree.support(takes_programs)),
            (Err(_), Delegation::None(_)) => None,
        };
        HostCgroups {
            layout,
            agent,
            support,
            delegation,
            own: own(&membership).unwrap_or_default().to_owned(),
        }
    }

    /// The version of the interface to tasks' cgroups.
    pub fn version(&self) -> Option<Version> {
        self.support.as_ref().map(|support| support.version)
    }
}

fn agents_version(mountinfo: &str, root: &Path, uid: u32) -> Result<Version, AgentsRefusal> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok();
    let slice_owner = fs::metadata(root.join("nomad.slice")).ok().map(|slice| slice.uid());
    match version::decide(version::mounted(mountinfo), controllers.as_deref(), uid, slice_owner) {
        // The agent would use it, and could make nothing.
        Some(version) if is_read_only(mountinfo, version) => Err(AgentsRefusal::ReadOnly),
        Some(version) => Ok(version),
        None => Err(match version::mounted(mountinfo) {
            None => AgentsRefusal::NotMounted,
            Some(Version::V1) => AgentsRefusal::NeedsRoot,
            Some(Version::V2) => {
                let available: Vec<&str> = controllers.iter().flat_map(|words| words.split_whitespace()).collect();
                let missing: Vec<&str> = (REQUIRED.iter().copied())
                    .filter(|name| !available.contains(name))
                    .collect();
                match missing.is_empty() {
                    true => AgentsRefusal::NotOurSlice,
                    false => AgentsRefusal::Controllers(missing.join(", ")),
                }
            }
        }),
    }
}

/// On v1 the hierarchies by which tasks are killed and limited decide.
fn is_read_only(mountinfo: &str, version: Version) -> bool {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (point, options) = (Path::new(fields.next()?), fields.next()?);
        let kind = system.split(' ').next()?;
        let counts = match version {
            Version::V1 => kind == "cgroup" && point.starts_with(ROOT),
            Version::V2 => kind == "cgroup2" && point == Path::new(ROOT),
        };
        counts.then(|| options.split(',').any(|option| option == "ro"))
    });
    mounts.any(|is_read_only| is_read_only)
}

/// `membership` is a `/proc/PID/cgroup` (cgroups(7)).
fn own(membership: &str) -> Option<&str> {
    let of = |kind: &str| {
        membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            (fields.next()? == kind).then_some(fields.next()?)
        })
    };
    let first = || membership.lines().next()?.splitn(3, ':').nth(2);
    of("name=systemd").or_else(|| of("")).or_else(first)
}
