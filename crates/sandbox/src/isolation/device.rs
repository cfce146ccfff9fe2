//! Device nodes, and which of them a task may use.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use holdfast_record::{DeviceRule, Entry, MountFlags, Propagation, What};
use nix::sys::stat::{major, minor};

use super::error::{IsolationError, PathFault};
use super::options::DeviceOption;

/// null, zero, full, random, urandom, tty and ptmx: major and minor (Documentation/admin-guide/devices.txt).
const USUAL: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
/// Terminals of a devpts.
const PTS_MAJOR: u32 = 136;

/// A device of the host, looked up.
pub(super) struct Device {
    /// Where the task sees it.
    pub(super) entry: Entry,
    /// What it may do with it.
    pub(super) rule: DeviceRule,
}

impl Device {
    /// Below the task's own `/dev` it is a node like the host's; anywhere else the host's node is shown.
    pub(super) fn of(option: DeviceOption, has_own_dev: bool) -> Result<Device, IsolationError> {
        let DeviceOption {
            host,
            target,
            read,
            write,
            mknod,
        } = option;
        let failed = |fault: PathFault| IsolationError::Device {
            path: host.clone(),
            fault,
        };
        if !host.is_absolute() {
            return Err(failed(PathFault::Relative));
        }
        let metadata = fs::metadata(&host).map_err(|error| failed(error.into()))?;
        let is_char = metadata.file_type().is_char_device();
        if !is_char && !metadata.file_type().is_block_device() {
            return Err(failed(PathFault::NotDevice));
        }
        // Numbers have 12 and 20 bits (makedev(3)).
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (major, minor) = (number(major(metadata.rdev())), number(minor(metadata.rdev())));
        let rule = DeviceRule {
            is_char,
            major: Some(major),
            minor: Some(minor),
            read,
            write,
            mknod,
        };
        let what = if has_own_dev && target.starts_with("/dev") && target != Path::new("/dev") {
            What::Node {
                is_char,
                major,
                minor,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            }
        } else {
            What::Bind {
                source: host.clone(),
                flags: MountFlags {
                    no_suid: true,
                    no_exec: true,
                    ..MountFlags::default()
                },
                propagation: Propagation::Private,
                optional: false,
            }
        };
        Ok(Device {
            entry: Entry { target, what },
            rule,
        })
    }
}

/// What every task with a tree of its own may use, as Nomad's executor gives it: nodes of any kind may be made, the usual ones and
/// terminals opened. `has_tun`: the built-in's `/dev/net/tun` too.
pub(super) fn usual_rules(has_tun: bool) -> Vec<DeviceRule> {
    let make_any = |is_char| DeviceRule {
        is_char,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: true,
    };
    let all = |major, minor| DeviceRule {
        is_char: true,
        major: Some(major),
        minor,
        read: true,
        write: true,
        mknod: true,
    };
    let mut rules = vec![make_any(true), make_any(false)];
    rules.extend(USUAL.map(|(major, minor)| all(major, Some(minor))));
    rules.push(all(PTS_MAJOR, None));
    if has_tun {
        rules.push(all(10, Some(200)));
    }
    rules
}
