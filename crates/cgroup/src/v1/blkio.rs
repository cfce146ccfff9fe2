//! The blkio controller (cgroup-v1, blkio-controller.rst).

use std::path::{Path, PathBuf};

use crate::refusal::{Controller, Writes, holder};
use crate::{IoMax, weight};

/// The sums over all devices of what was read and what was written: the content of blkio.throttle.io_service_bytes or
/// blkio.throttle.io_serviced, a line per device and kind.
pub(crate) fn read_and_written(content: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        content
            .lines()
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace().skip(1);
                (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
            })
            .fold(0, u64::saturating_add)
    };
    (sum("Read"), sum("Write"))
}

pub(crate) fn apply(dirs: &[PathBuf], io_weight: Option<u16>, io_max: &[IoMax], writes: &mut Writes) {
    if let Some(value) = io_weight {
        apply_weight(dirs, value, writes);
    }
    for limit in io_max {
        apply_max(dirs, limit, writes);
    }
}

fn apply_weight(dirs: &[PathBuf], value: u16, writes: &mut Writes) {
    // BFQ's file is there since 5.0, that of CFQ went with CFQ.
    let files = [
        ("blkio.bfq.weight", weight::bfq(value)),
        ("blkio.weight", weight::blkio(value)),
    ];
    match files
        .iter()
        .find_map(|(file, scaled)| Some((holder(dirs, file)?, file, scaled)))
    {
        Some((dir, file, scaled)) => {
            writes.write(Controller::Io, dir, file, scaled);
        }
        None => writes.refuse(
            Controller::Io,
            Path::new("blkio.bfq.weight"),
            value,
            "none of the task's cgroups has this file or blkio.weight",
        ),
    }
}

fn apply_max(dirs: &[PathBuf], limit: &IoMax, writes: &mut Writes) {
    let IoMax {
        major,
        minor,
        read_bytes,
        write_bytes,
        read_operations,
        write_operations,
    } = *limit;
    let files = [
        ("blkio.throttle.read_bps_device", read_bytes),
        ("blkio.throttle.write_bps_device", write_bytes),
        ("blkio.throttle.read_iops_device", read_operations),
        ("blkio.throttle.write_iops_device", write_operations),
    ];
    for (file, value) in files {
        match value {
            Some(0) => writes.refuse(
                Controller::Io,
                Path::new(file),
                format!("{major}:{minor} 0"),
                "to this kernel interface zero means no limit",
            ),
            // Zero lifts what may have been there.
            value => {
                writes.write_in(
                    Controller::Io,
                    dirs,
                    file,
                    format!("{major}:{minor} {}", value.unwrap_or(0)),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_of_all_devices_are_added_and_totals_are_not() {
        let content = "254:0 Read 10\n254:0 Write 20\n254:0 Sync 5\n254:0 Async 25\n254:0 Discard 0\n254:0 Total 30\n\
                       8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 33\n";
        assert_eq!(read_and_written(content), (11, 22));
        assert_eq!(read_and_written("Total 0\n"), (0, 0));
    }
}
