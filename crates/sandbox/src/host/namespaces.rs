//! Which namespaces a task can have of its own.

use std::fmt;

use super::{Files, Privileges};

/// Kinds of namespaces (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// Process ids.
    Pid,
    /// System V objects and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of the cgroups that are seen.
    Cgroup,
    /// Networks; the agent makes them.
    Network,
    /// Users.
    User,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Mount,
        Kind::Pid,
        Kind::Ipc,
        Kind::Uts,
        Kind::Cgroup,
        Kind::Network,
        Kind::User,
    ];

    /// A word for texts.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mount => "mount",
            Kind::Pid => "pid",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Cgroup => "cgroup",
            Kind::Network => "network",
            Kind::User => "user",
        }
    }

    /// As in `/proc/self/ns` and in `user.max_…_namespaces`.
    fn file(self) -> &'static str {
        match self {
            Kind::Mount => "mnt",
            Kind::Network => "net",
            other => other.name(),
        }
    }

    /// The limit per user (namespaces(7)).
    pub fn limit_file(self) -> String {
        format!("/proc/sys/user/max_{}_namespaces", self.file())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Whether one can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Available,
    /// The kernel was built without.
    NotBuilt,
    /// The administrator allows none.
    LimitIsZero {
        /// The file that says so.
        file: String,
    },
    /// Another switch of the kernel's or the distribution's keeps those without root from it.
    Restricted {
        /// The file that says so.
        file: &'static str,
        /// What it should hold.
        wanted: &'static str,
    },
    /// This process lacks CAP_SYS_ADMIN.
    NotAllowed,
}

impl fmt::Display for Availability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Availability::Available => out.write_str("available"),
            Availability::NotBuilt => out.write_str("the kernel was built without them"),
            Availability::LimitIsZero { file } => write!(out, "{file} is 0"),
            Availability::Restricted { file, wanted } => write!(out, "{file} is not {wanted}"),
            Availability::NotAllowed => out.write_str("CAP_SYS_ADMIN is missing"),
        }
    }
}

/// Switches by which distributions restrict user namespaces to root, and what they hold where they do not: Debian's kernel, and
/// AppArmor's as Ubuntu has it since 23.10.
const SWITCHES: [(&str, &str); 2] = [
    ("/proc/sys/kernel/unprivileged_userns_clone", "1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0"),
];

/// One answer for each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces([Availability; 7]);

impl Namespaces {
    pub(super) fn look(files: &Files, privileges: &Privileges) -> Namespaces {
        Namespaces(Kind::ALL.map(|kind| look(files, privileges, kind)))
    }

    /// Of one kind.
    pub fn of(&self, kind: Kind) -> &Availability {
        let index = Kind::ALL.iter().position(|known| *known == kind);
        &self.0[index.expect("ALL has every kind")]
    }
}

fn look(files: &Files, privileges: &Privileges, kind: Kind) -> Availability {
    if !files.has(&format!("/proc/self/ns/{}", kind.file())) {
        return Availability::NotBuilt;
    }
    let file = kind.limit_file();
    if files.number(&file) == Some(0) {
        return Availability::LimitIsZero { file };
    }
    if privileges.is_admin() {
        return Availability::Available;
    }
    if kind != Kind::User {
        return Availability::NotAllowed;
    }
    let closed = SWITCHES.into_iter().find(|(file, wanted)| {
        files
            .read(file)
            .is_ok_and(|value| !value.trim().is_empty() && value.trim() != *wanted)
    });
    match closed {
        Some((file, wanted)) => Availability::Restricted { file, wanted },
        None => Availability::Available,
    }
}
