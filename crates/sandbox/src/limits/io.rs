//! Limits of a block device's input and output.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use holdfast_cgroup::IoMax;
use nix::sys::stat::{major, minor};
use thiserror::Error;

use super::size;

/// Where the kernel shows block devices by number (sysfs(5)).
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// Units of a rate by their powers of 1024.
const UNITS: [(&str, u32); 8] = [
    ("", 0),
    ("k", 1),
    ("K", 1),
    ("KiB", 1),
    ("M", 2),
    ("MiB", 2),
    ("G", 3),
    ("GiB", 3),
];

/// Why a limit of a device means nothing. The text names device and value.
#[derive(Debug, Error)]
pub enum IoMaxError {
    /// Neither a path nor numbers.
    #[error("io_max {0:?} is neither the absolute path of a block device nor its number such as \"8:0\"")]
    Device(String),
    /// It is not there, or cannot be looked at.
    #[error("io_max {device:?}: {}: {source}", path.display())]
    Lookup {
        /// As it was given.
        device: String,
        /// What was looked at.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("io_max {0:?} is not a block device")]
    NotBlockDevice(String),
    /// The kernel limits whole disks only (block/blk-cgroup.c).
    #[error("io_max {device:?} is a partition: limits are those of the whole disk{}", .disk.as_ref().map(|disk| format!(", {disk}")).unwrap_or_default())]
    Partition {
        /// As it was given.
        device: String,
        /// The disk's name, as far as it is known.
        disk: Option<String>,
    },
    /// See [`parse_io_max`].
    #[error(
        "io_max {device:?}: {part:?} is not a limit such as \"rbps=10M\", \"wbps=512k\", \"riops=100\" or \"wiops=max\""
    )]
    Part {
        /// As it was given.
        device: String,
        /// The part of the value.
        part: String,
    },
    /// One of them would not hold.
    #[error("io_max {device:?} names {key} twice")]
    Twice {
        /// As it was given.
        device: String,
        /// `rbps`, `wbps`, `riops` or `wiops`.
        key: String,
    },
    /// A device without a limit.
    #[error("io_max {0:?} has no limit")]
    Empty(String),
}

impl IoMaxError {
    /// The error of an operation that may succeed a moment later, if that is what it is.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            IoMaxError::Lookup { source, .. } => Some(source),
            IoMaxError::Device(_)
            | IoMaxError::NotBlockDevice(_)
            | IoMaxError::Partition { .. }
            | IoMaxError::Part { .. }
            | IoMaxError::Twice { .. }
            | IoMaxError::Empty(_) => None,
        }
    }
}

/// One entry of `io_max`: a device (`/dev/sda` or `8:0`), which is looked up and must be a whole disk, and its limits in the words
/// of cgroup v2, with blanks between: `rbps` and `wbps` in bytes a second, plain or with k, M or G (powers of 1024), `riops` and
/// `wiops` in operations a second; `max` is no limit.
pub fn parse_io_max(device: &str, value: &str) -> Result<IoMax, IoMaxError> {
    let mut limits: [(&str, Option<Option<u64>>); 4] =
        [("rbps", None), ("wbps", None), ("riops", None), ("wiops", None)];
    for part in value.split_whitespace() {
        let wrong = || IoMaxError::Part {
            device: device.to_owned(),
            part: part.to_owned(),
        };
        let (key, text) = part.split_once('=').ok_or_else(wrong)?;
        let (_, slot) = limits.iter_mut().find(|(known, _)| *known == key).ok_or_else(wrong)?;
        if slot.is_some() {
            return Err(IoMaxError::Twice {
                device: device.to_owned(),
                key: key.to_owned(),
            });
        }
        // Operations are counted, and 1024 of them have no name.
        let units = if key.ends_with("iops") { &UNITS[..1] } else { &UNITS[..] };
        *slot = Some(match text {
            "max" => None,
            // Zero is what the kernel refuses.
            text => Some(size::bytes(text, units).filter(|rate| *rate > 0).ok_or_else(wrong)?),
        });
    }
    if limits.iter().all(|(_, limit)| limit.is_none()) {
        return Err(IoMaxError::Empty(device.to_owned()));
    }
    let (major, minor) = block_device(device)?;
    let [read_bytes, write_bytes, read_operations, write_operations] = limits.map(|(_, limit)| limit.flatten());
    Ok(IoMax {
        major,
        minor,
        read_bytes,
        write_bytes,
        read_operations,
        write_operations,
    })
}

fn block_device(device: &str) -> Result<(u32, u32), IoMaxError> {
    let lookup = |path: &Path| {
        let path = path.to_owned();
        move |source| IoMaxError::Lookup {
            device: device.to_owned(),
            path,
            source,
        }
    };
    let (major, minor) = if device.starts_with('/') {
        let path = Path::new(device);
        let metadata = fs::metadata(path).map_err(lookup(path))?;
        if !metadata.file_type().is_block_device() {
            return Err(IoMaxError::NotBlockDevice(device.to_owned()));
        }
        let number = metadata.rdev();
        let part = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        (part(major(number)), part(minor(number)))
    } else {
        numbers(device).ok_or_else(|| IoMaxError::Device(device.to_owned()))?
    };
    let shown = Path::new(BLOCK_DEVICES).join(format!("{major}:{minor}"));
    let real = fs::canonicalize(&shown).map_err(lookup(&shown))?;
    if real.join("partition").exists() {
        let disk = real.parent().and_then(Path::file_name);
        return Err(IoMaxError::Partition {
            device: device.to_owned(),
            disk: disk.map(|name| format!("/dev/{}", name.to_string_lossy())),
        });
    }
    Ok((major, minor))
}

/// `8:0`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse().ok()).flatten()
    };
    let (major, minor) = text.split_once(':')?;
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole disks of this host by their nodes in /dev; a host without block devices has none.
    fn disks() -> Vec<(String, u32, u32)> {
        let entries = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
        entries
            .filter_map(|entry| {
                let number = fs::read_to_string(entry.path().join("dev")).ok()?;
                let (major, minor) = numbers(number.trim()).unwrap();
                let node = format!("/dev/{}", entry.file_name().to_str()?);
                let metadata = fs::metadata(&node).ok()?;
                metadata.file_type().is_block_device().then_some((node, major, minor))
            })
            .collect()
    }

    #[test]
    fn a_device_is_named_by_path_or_number() {
        for (node, major, minor) in disks() {
            let expected = IoMax {
                major,
                minor,
                read_bytes: Some(10 << 20),
                write_bytes: None,
                read_operations: Some(100),
                write_operations: None,
            };
            for device in [node.clone(), format!("{major}:{minor}")] {
                let limits = parse_io_max(&device, "rbps=10M  riops=100 wiops=max").unwrap();
                assert_eq!(limits, expected, "{device}");
            }
            assert_eq!(parse_io_max(&node, "wbps=512k").unwrap().write_bytes, Some(512 << 10));
        }
    }

    #[test]
    fn what_is_no_limit_of_a_device_is_refused_by_name() {
        let part = |part: &str| {
            format!(
                "io_max \"/dev/null\": {part:?} is not a limit such as \"rbps=10M\", \"wbps=512k\", \"riops=100\" or \"wiops=max\""
            )
        };
        let table = [
            (
                "/dev/null",
                "rbps=1",
                "io_max \"/dev/null\" is not a block device".to_owned(),
            ),
            (
                "/dev/none-such",
                "rbps=1",
                "io_max \"/dev/none-such\": /dev/none-such: No such file or directory (os error 2)".to_owned(),
            ),
            (
                "4095:77",
                "rbps=1",
                "io_max \"4095:77\": /sys/dev/block/4095:77: No such file or directory (os error 2)".to_owned(),
            ),
            (
                "sda",
                "rbps=1",
                "io_max \"sda\" is neither the absolute path of a block device nor its number such as \"8:0\""
                    .to_owned(),
            ),
            (
                "-8:0",
                "rbps=1",
                "io_max \"-8:0\" is neither the absolute path of a block device nor its number such as \"8:0\""
                    .to_owned(),
            ),
            (
                "",
                "rbps=1",
                "io_max \"\" is neither the absolute path of a block device nor its number such as \"8:0\"".to_owned(),
            ),
            ("/dev/null", "", "io_max \"/dev/null\" has no limit".to_owned()),
            (
                "/dev/null",
                "rbps=1 rbps=2",
                "io_max \"/dev/null\" names rbps twice".to_owned(),
            ),
            ("/dev/null", "rbps", part("rbps")),
            ("/dev/null", "bps=1", part("bps=1")),
            ("/dev/null", "rbps=0", part("rbps=0")),
            ("/dev/null", "rbps=-1", part("rbps=-1")),
            ("/dev/null", "wbps=1.5M", part("wbps=1.5M")),
            ("/dev/null", "wbps=10MB", part("wbps=10MB")),
            ("/dev/null", "riops=10k", part("riops=10k")),
            ("/dev/null", "wiops=", part("wiops=")),
            ("/dev/null", "rbps=99999999999G", part("rbps=99999999999G")),
        ];
        for (device, value, message) in table {
            let error = parse_io_max(device, value).unwrap_err();
            assert_eq!(error.to_string(), message, "{device:?} {value:?}");
        }
    }

    #[test]
    fn a_partition_is_refused_with_its_disk() {
        let Ok(entries) = fs::read_dir("/sys/class/block") else {
            return;
        };
        for entry in entries.map(|entry| entry.unwrap()) {
            if entry.path().join("partition").exists() {
                let number = fs::read_to_string(entry.path().join("dev")).unwrap();
                let error = parse_io_max(number.trim(), "rbps=1").unwrap_err();
                assert!(matches!(error, IoMaxError::Partition { disk: Some(_), .. }), "{error}");
            }
        }
    }
}
