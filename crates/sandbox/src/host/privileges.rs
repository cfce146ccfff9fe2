//! Who this process is, and which of the capabilities that it uses it lacks.

use super::Files;

/// One capability (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// linux/capability.h.
    pub number: u32,
    /// `CAP_…`.
    pub name: &'static str,
}

/// For whom a capability is indispensable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Tasks of other users, in any profile.
    Users,
    /// A root, mounts and namespaces of the task's own.
    Isolation,
    /// Something that a job may ask for; without it that is refused, and everything else works.
    Options,
}

/// A capability that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub capability: Capability,
    /// How badly.
    pub purpose: Purpose,
    /// What for.
    pub use_: &'static str,
}

const fn need(number: u32, name: &'static str, purpose: Purpose, use_: &'static str) -> Need {
    Need {
        capability: Capability { number, name },
        purpose,
        use_,
    }
}

/// Everything that executors use of what root has.
pub const NEEDED: [Need; 13] = [
    need(0, "CAP_CHOWN", Purpose::Users, "outputs that belong to the task's user"),
    need(
        1,
        "CAP_DAC_OVERRIDE",
        Purpose::Users,
        "writing logs into folders of other users",
    ),
    need(5, "CAP_KILL", Purpose::Users, "signals to tasks of other users"),
    need(6, "CAP_SETGID", Purpose::Users, "tasks of other groups"),
    need(7, "CAP_SETUID", Purpose::Users, "tasks of other users"),
    need(3, "CAP_FOWNER", Purpose::Isolation, "files of the task's root"),
    need(8, "CAP_SETPCAP", Purpose::Isolation, "the capability sets of tasks"),
    need(
        18,
        "CAP_SYS_CHROOT",
        Purpose::Isolation,
        "sessions in the root of a task",
    ),
    need(
        19,
        "CAP_SYS_PTRACE",
        Purpose::Isolation,
        "sessions in the namespaces of a task",
    ),
    need(21, "CAP_SYS_ADMIN", Purpose::Isolation, "mounts and namespaces"),
    need(27, "CAP_MKNOD", Purpose::Isolation, "device nodes of tasks"),
    need(
        23,
        "CAP_SYS_NICE",
        Purpose::Options,
        "nice values and priorities better than the agent's",
    ),
    need(
        24,
        "CAP_SYS_RESOURCE",
        Purpose::Options,
        "resource limits above the agent's, oom_score_adj below its",
    ),
];

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// The effective user.
    pub uid: u32,
    /// Effective capabilities, a bit each.
    pub effective: u64,
    /// What a child may get at most.
    pub bounding: u64,
    /// No child may get more than it has now (prctl(2), PR_SET_NO_NEW_PRIVS): setuid programs do nothing.
    pub no_new_privileges: bool,
    /// Not the initial user namespace (user_namespaces(7)): being root means less.
    pub in_user_namespace: bool,
}

/// The map of the initial user namespace (user_namespaces(7)).
const INITIAL_MAP: [&str; 3] = ["0", "0", "4294967295"];

impl Privileges {
    pub(super) fn look(files: &Files, uid: u32) -> Privileges {
        let status = files.read("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let set = |name| {
            field(name)
                .and_then(|mask| u64::from_str_radix(mask, 16).ok())
                .unwrap_or(0)
        };
        Privileges {
            uid,
            effective: set("CapEff:"),
            bounding: set("CapBnd:"),
            no_new_privileges: field("NoNewPrivs:") == Some("1"),
            in_user_namespace: (files.read("/proc/self/uid_map"))
                .is_ok_and(|map| !map.split_whitespace().eq(INITIAL_MAP)),
        }
    }

    /// The effective user is root, of whichever user namespace.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The capability is effective, and executors can have it.
    pub fn has(&self, capability: Capability) -> bool {
        (self.effective & self.bounding) >> capability.number & 1 == 1
    }

    /// What of this purpose is missing.
    pub fn missing(&self, purpose: Purpose) -> impl Iterator<Item = Need> {
        let has = *self;
        NEEDED
            .into_iter()
            .filter(move |need| need.purpose == purpose && !has.has(need.capability))
    }

    /// Has CAP_SYS_ADMIN, without which there is no namespace of a task's own but a user's.
    pub fn is_admin(&self) -> bool {
        self.has(Capability {
            number: 21,
            name: "CAP_SYS_ADMIN",
        })
    }
}
