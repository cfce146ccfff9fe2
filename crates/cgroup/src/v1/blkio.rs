//! The blkio controller (cgroup-v1, blkio-controller.rst).

use std::path::{Path, PathBuf};

use crate::refusal::{Controller, Writes, holder};
use crate::{IoMax, weight};

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
