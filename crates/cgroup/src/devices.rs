//! Which device nodes a task may use.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{ROOT, Scope, Version, v1, v2};

/// Access to device nodes by number, as cgroup-v1, devices.rst has it; on v2 the same is said by a program. What an open or a mknod
/// asks for must be in one rule, but rules for the same nodes are taken as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Character device, else block device.
    pub is_char: bool,
    /// `None`: any.
    pub major: Option<u32>,
    /// `None`: any.
    pub minor: Option<u32>,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Make nodes.
    pub mknod: bool,
}

/// In the form of devices.allow.
impl fmt::Display for DeviceRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceRule {
            is_char,
            major,
            minor,
            read,
            write,
            mknod,
        } = *self;
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if is_char { 'c' } else { 'b' };
        write!(out, "{kind} {}:{} ", number(major), number(minor))?;
        for (is_allowed, letter) in [(read, "r"), (write, "w"), (mknod, "m")] {
            out.write_str(if is_allowed { letter } else { "" })?;
        }
        Ok(())
    }
}

/// Why a task's access to devices cannot be restricted, or a restriction cannot be taken back. It is inside the [`io::Error`] of
/// [`restrict_devices`] and [`unrestrict_devices`].
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not ours to restrict.
    #[error("cannot restrict devices in cgroup {}: it was named by the operator or the job, and others may be in it", dir.display())]
    Foreign {
        /// The cgroup.
        dir: PathBuf,
    },
    /// v1 without that controller.
    #[error("cannot restrict devices: there is no devices hierarchy at {}", path.display())]
    NoHierarchy {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// On v1, a scope that was not made by [`Scope::with_devices`].
    #[error("cannot restrict devices: the task has no cgroup of its own in the devices hierarchy at {}", path.display())]
    NoCgroup {
        /// The hierarchy.
        path: PathBuf,
    },
    /// v1's file refused it.
    #[error("cannot restrict devices: cannot write {value:?} to {}: {}", file.display(), explained_write(source))]
    Write {
        /// The interface file.
        file: PathBuf,
        /// The rule, or `a` for everything.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not take the program; the reason may be the caller's capabilities or the number of rules.
    #[error("cannot load the BPF program with {rules} device rules: {}", explained_load(source))]
    Load {
        /// How many, after those for the same nodes were made one.
        rules: usize,
        /// Why not.
        source: io::Error,
    },
    /// A program above allows none below itself.
    #[error(
        "cannot restrict devices in cgroup {}: cgroup {} above it has a device program that allows no other below",
        dir.display(),
        above.display()
    )]
    Exclusive {
        /// The task's cgroup.
        dir: PathBuf,
        /// That with the program.
        above: PathBuf,
    },
    /// Somebody else attached a program to the task's own cgroup, in a way that allows no second one.
    #[error(
        "cannot restrict devices in cgroup {}: BPF program {program}, which is not ours, is attached to it and allows no other",
        dir.display()
    )]
    Stranger {
        /// The task's cgroup.
        dir: PathBuf,
        /// The number of the program.
        program: u32,
    },
    /// Another system call failed.
    #[error("cannot {action} cgroup {}: {source}", dir.display())]
    Program {
        /// What was attempted.
        action: &'static str,
        /// On what.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<DeviceError> for io::Error {
    fn from(error: DeviceError) -> io::Error {
        let kind = match &error {
            DeviceError::Foreign { .. } | DeviceError::Exclusive { .. } | DeviceError::Stranger { .. } => {
                io::ErrorKind::PermissionDenied
            }
            DeviceError::NoHierarchy { .. } | DeviceError::NoCgroup { .. } => io::ErrorKind::Unsupported,
            DeviceError::Write { source, .. }
            | DeviceError::Load { source, .. }
            | DeviceError::Program { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Lets the processes of `scope` use the devices of `rules` and no others, its sessions included; without rules, none. What was
/// allowed before is forgotten. A cgroup above that refuses a device goes on refusing it: v1 does not take such a rule, on v2 it has
/// no effect. Made for the time before the first process is there; files that are open stay open.
///
/// A task with rules has a scope from [`Scope::with_devices`]. A foreign scope is never restricted. On v2 the restriction lasts until the
/// cgroup is removed, which is the agent's to do, or [`unrestrict_devices`].
pub fn restrict_devices(scope: &Scope, rules: &[DeviceRule]) -> io::Result<()> {
    if scope.foreign {
        let dir = scope.kill.clone();
        return Err(DeviceError::Foreign { dir }.into());
    }
    let rules = merged(rules);
    match scope.version {
        Version::V1 => v1::devices::restrict(Path::new(ROOT), scope, &rules)?,
        Version::V2 => v2::device_access::restrict(&scope.kill, &rules)?,
    }
    Ok(())
}

/// Takes back what [`restrict_devices`] did for an earlier task in the same cgroup; for a task without rules. Where there is nothing of
/// ours it costs opening the directory and one query. On v1 it does nothing: a task without rules does not enter the cgroup, which
/// is removed with the scope. Nor does it in a foreign scope.
pub fn unrestrict_devices(scope: &Scope) -> io::Result<()> {
    if scope.foreign || scope.version == Version::V1 {
        return Ok(());
    }
    Ok(v2::device_access::unrestrict(&scope.kill)?)
}

/// Each set of nodes once, with all that is allowed for it; what allows nothing is left out. v1 does the same.
fn merged(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    let mut merged: Vec<DeviceRule> = Vec::with_capacity(rules.len());
    for rule in rules.iter().filter(|rule| rule.read || rule.write || rule.mknod) {
        let nodes = |rule: &DeviceRule| (rule.is_char, rule.major, rule.minor);
        match merged.iter_mut().find(|known| nodes(known) == nodes(rule)) {
            None => merged.push(*rule),
            Some(known) => {
                known.read |= rule.read;
                known.write |= rule.write;
                known.mknod |= rule.mknod;
            }
        }
    }
    merged
}

fn explained_write(error: &io::Error) -> String {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => {
            "the cgroup above it does not have this access itself, or CAP_SYS_ADMIN is missing".to_owned()
        }
        Some(Errno::EINVAL) => format!("there are cgroups below it, or the kernel does not take this value ({error})"),
        _ => error.to_string(),
    }
}

fn explained_load(error: &io::Error) -> String {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => "CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN, is missing".to_owned(),
        Some(Errno::ENOSYS | Errno::EINVAL) => {
            format!("this kernel has no BPF programs for the devices of cgroups ({error})")
        }
        Some(Errno::E2BIG) => format!("these are too many ({error})"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: DeviceRule = DeviceRule {
        is_char: true,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: false,
    };

    #[test]
    fn a_rule_reads_as_in_devices_allow() {
        let null = DeviceRule {
            major: Some(1),
            minor: Some(3),
            read: true,
            write: true,
            ..NOTHING
        };
        assert_eq!(null.to_string(), "c 1:3 rw");
        let any_block = DeviceRule {
            is_char: false,
            mknod: true,
            ..NOTHING
        };
        assert_eq!(any_block.to_string(), "b *:* m");
    }

    #[test]
    fn rules_for_the_same_nodes_are_one_and_what_allows_nothing_is_none() {
        let of = |minor, read, write| DeviceRule {
            major: Some(1),
            minor,
            read,
            write,
            ..NOTHING
        };
        let rules = [
            of(Some(3), true, false),
            NOTHING,
            of(None, true, false),
            of(Some(3), false, true),
        ];
        assert_eq!(merged(&rules), [of(Some(3), true, true), of(None, true, false)]);
    }

    #[test]
    fn a_foreign_scope_is_never_restricted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("devices.deny"), "").unwrap();
        let path = dir.path().to_str().unwrap();
        let v1 = Scope::of_v1_override([("devices", path)], None).unwrap().with_devices();
        for scope in [v1, Scope::of_v2_override(path).unwrap()] {
            let error = restrict_devices(&scope, &[]).unwrap_err();
            let inner = error.get_ref().unwrap().downcast_ref::<DeviceError>();
            assert!(matches!(inner, Some(DeviceError::Foreign { .. })), "{error}");
            assert!(error.to_string().contains(path), "{error}");
            unrestrict_devices(&scope).unwrap();
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("devices.deny")).unwrap(), "");
    }
}
