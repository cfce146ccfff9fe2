//! Names of capabilities (capabilities(7)), as far as the running kernel knows them.

use std::fs;
use std::io;

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

/// The capabilities that the kernel has, in the order of their numbers. Without `allow_net_raw` all but CAP_NET_RAW: it lets a
/// task forge packets in its network (as `SupportedCaps` of Nomad's executor).
pub fn supported(allow_net_raw: bool) -> io::Result<Vec<&'static str>> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    let last: usize = last.trim().parse().map_err(io::Error::other)?;
    Ok(NAMES
        .into_iter()
        .take(last + 1)
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
}
