//! Capabilities (capabilities(7)): names, sets, and what a job gets.

mod calculation;
mod given;

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;

use thiserror::Error;

pub use calculation::{Convention, DEFAULTS, LEGACY, calculate, parse, sets_of};
pub use given::{available, cut};

/// Every capability by number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const NET_RAW: &str = "CAP_NET_RAW";
const LAST_CAP: &str = "/proc/sys/kernel/cap_last_cap";

/// Capabilities of which something cannot be had, or not be found out.
#[derive(Debug, Error)]
pub enum CapabilityError {
    /// A file of the kernel says nothing.
    #[error("cannot find out which capabilities there are: {path}: {source}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel has none of that name; the built-in's text.
    #[error("{option} configured with capabilities not supported by system: {names}")]
    Unsupported {
        /// `allow_caps`, `cap_add` or `cap_drop`.
        option: &'static str,
        /// In small letters and without `cap_`, in alphabetical order.
        names: String,
    },
    /// The job adds what its operator does not allow; the built-in's text.
    #[error("driver does not allow the following capabilities: {0}")]
    NotAllowed(Set),
    /// The job counts on what this process cannot give.
    #[error("capabilities cannot be given, since the driver has not got them itself: {0}")]
    NotAvailable(Set),
}

/// Capabilities by number, as bits. Shown as the built-in shows them: `chown, net_raw`, in alphabetical order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// None.
    pub const EMPTY: Set = Set(0);
    /// Files that permission bits close, for reading, and open_by_handle_at(2).
    pub const DAC_READ_SEARCH: Set = Set::of(&[2]);
    /// Interfaces, routes and protocols.
    pub const NET_ADMIN: Set = Set::of(&[12]);
    /// Raw and packet sockets.
    pub const NET_RAW: Set = Set::of(&[13]);
    /// Kernel modules.
    pub const SYS_MODULE: Set = Set::of(&[16]);
    /// Ports of input and output.
    pub const SYS_RAWIO: Set = Set::of(&[17]);
    /// chroot(2).
    pub const SYS_CHROOT: Set = Set::of(&[18]);
    /// Memory and descriptors of other processes.
    pub const SYS_PTRACE: Set = Set::of(&[19]);
    /// acct(2).
    pub const SYS_PACCT: Set = Set::of(&[20]);
    /// Mounts, namespaces, and whatever else has no capability of its own.
    pub const SYS_ADMIN: Set = Set::of(&[21]);
    /// reboot(2).
    pub const SYS_BOOT: Set = Set::of(&[22]);
    /// Priorities, and pages of others.
    pub const SYS_NICE: Set = Set::of(&[23]);
    /// Clocks.
    pub const SYS_TIME: Set = Set::of(&[25]);
    /// vhangup(2).
    pub const SYS_TTY_CONFIG: Set = Set::of(&[26]);
    /// The kernel's log.
    pub const SYSLOG: Set = Set::of(&[34]);
    /// perf_event_open(2).
    pub const PERFMON: Set = Set::of(&[38]);
    /// bpf(2).
    pub const BPF: Set = Set::of(&[39]);

    /// Those with these numbers, each below 64.
    const fn of(numbers: &[u32]) -> Set {
        let mut bits = 0;
        let mut at = 0;
        while at < numbers.len() {
            bits |= 1 << numbers[at];
            at += 1;
        }
        Set(bits)
    }

    /// Those of a mask, as in [`holdfast_record::CapabilitySets`] and `/proc/<pid>/status`.
    pub const fn from_bits(bits: u64) -> Set {
        Set(bits)
    }

    /// As a mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True if it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of either.
    pub const fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// Those of both.
    pub const fn intersection(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Those that `other` has not.
    pub const fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// All that the kernel has and that have a name here.
    pub fn supported() -> Result<Set, CapabilityError> {
        let last = last().map_err(|source| CapabilityError::Unreadable { path: LAST_CAP, source })?;
        let count = (last + 1).min(NAMES.len());
        Ok(Set((1 << count) - 1))
    }

    /// Full names in the order of their numbers, as [`supported`] has them. Numbers without a name are left out.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let known = NAMES.into_iter().enumerate();
        known
            .filter(move |(number, _)| self.0 >> number & 1 == 1)
            .map(|(_, name)| name)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.names().map(plain).collect();
        let unnamed = (NAMES.len()..64).filter(|number| self.0 >> number & 1 == 1);
        names.sort_unstable();
        names.extend(unnamed.map(|number| number.to_string()));
        out.write_str(&names.join(", "))
    }
}

/// A name as the built-in compares and shows it: without blanks around it, in small letters, without `cap_`.
fn plain(name: &str) -> String {
    let small = name.trim().to_lowercase();
    small.strip_prefix("cap_").unwrap_or(&small).to_owned()
}

/// The highest number that the kernel has, which stays as it is.
fn last() -> io::Result<usize> {
    static LAST: OnceLock<usize> = OnceLock::new();
    if let Some(last) = LAST.get() {
        return Ok(*last);
    }
    let last = fs::read_to_string(LAST_CAP)?;
    let last = last.trim().parse().map_err(io::Error::other)?;
    Ok(*LAST.get_or_init(|| last))
}

/// The capabilities that the kernel has, in the order of their numbers. Without `allow_net_raw` all but CAP_NET_RAW: it lets a
/// task forge packets in its network (as `SupportedCaps` of Nomad's executor).
pub fn supported(allow_net_raw: bool) -> io::Result<Vec<&'static str>> {
    Ok(NAMES
        .into_iter()
        .take(last()? + 1)
        .filter(|name| allow_net_raw || *name != NET_RAW)
        .collect())
}

/// The full name of a capability that is written with or without `CAP_`, in any case; `None`: the kernel has none of that name.
pub fn canonical(name: &str) -> io::Result<Option<&'static str>> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Ok(supported(true)?
        .into_iter()
        .find(|known| known.strip_prefix("CAP_") == Some(short)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_is_listed_and_net_raw_only_if_allowed() {
        let all = supported(true).unwrap();
        // The bounding set of a process names every number that its kernel knows as settable.
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let highest = 63 - u64::from_str_radix(bounding.trim(), 16).unwrap().leading_zeros();
        assert!(all.len() > highest as usize, "{all:?}");
        let without: Vec<_> = all.iter().copied().filter(|name| *name != NET_RAW).collect();
        assert_eq!(without.len() + 1, all.len());
        assert_eq!(supported(false).unwrap(), without);
    }

    #[test]
    fn a_name_is_known_in_every_spelling_that_jobs_use() {
        for name in ["chown", "CAP_CHOWN", "cap_chown", "CHOWN"] {
            assert_eq!(canonical(name).unwrap(), Some("CAP_CHOWN"));
        }
        for name in ["", "CAP_", "CAP_CAP_CHOWN", "flying"] {
            assert_eq!(canonical(name).unwrap(), None, "{name:?}");
        }
    }

    #[test]
    fn a_set_is_shown_as_the_built_in_shows_it() {
        let set = Set::SYS_ADMIN.union(Set::NET_RAW).union(Set::of(&[0, 40, 63]));
        assert_eq!(set.to_string(), "checkpoint_restore, chown, net_raw, sys_admin, 63");
        let names: Vec<_> = set.names().collect();
        assert_eq!(
            names,
            ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]
        );
        assert_eq!(Set::EMPTY.to_string(), "");
    }

    #[test]
    fn a_constant_has_the_number_of_its_name() {
        for (set, name) in [
            (Set::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
            (Set::NET_ADMIN, "CAP_NET_ADMIN"),
            (Set::NET_RAW, "CAP_NET_RAW"),
            (Set::SYS_MODULE, "CAP_SYS_MODULE"),
            (Set::SYS_RAWIO, "CAP_SYS_RAWIO"),
            (Set::SYS_CHROOT, "CAP_SYS_CHROOT"),
            (Set::SYS_PTRACE, "CAP_SYS_PTRACE"),
            (Set::SYS_PACCT, "CAP_SYS_PACCT"),
            (Set::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (Set::SYS_BOOT, "CAP_SYS_BOOT"),
            (Set::SYS_NICE, "CAP_SYS_NICE"),
            (Set::SYS_TIME, "CAP_SYS_TIME"),
            (Set::SYS_TTY_CONFIG, "CAP_SYS_TTY_CONFIG"),
            (Set::SYSLOG, "CAP_SYSLOG"),
            (Set::PERFMON, "CAP_PERFMON"),
            (Set::BPF, "CAP_BPF"),
        ] {
            assert_eq!(set.names().collect::<Vec<_>>(), [name]);
        }
    }
}
