//! The io controller (cgroup-v2, "IO Interface Files").

use std::path::Path;

use crate::refusal::{Controller, Writes};
use crate::{IoMax, weight};

pub(crate) fn apply(scope: &Path, io_weight: Option<u16>, io_max: &[IoMax], writes: &mut Writes) {
    if let Some(value) = io_weight {
        apply_weight(scope, value, writes);
    }
    for limit in io_max {
        writes.write(Controller::Io, scope, "io.max", line(limit));
    }
}

/// Which of the two files is there, or whether both are, depends on what the kernel was built with; which of them counts, on
/// each device's scheduler.
fn apply_weight(scope: &Path, value: u16, writes: &mut Writes) {
    let has_bfq = scope.join("io.bfq.weight").exists();
    if has_bfq {
        writes.write(Controller::Io, scope, "io.bfq.weight", weight::bfq(value));
    }
    if !has_bfq || scope.join("io.weight").exists() {
        writes.write(Controller::Io, scope, "io.weight", format!("default {value}"));
    }
}

fn line(limit: &IoMax) -> String {
    let IoMax {
        major,
        minor,
        read_bytes,
        write_bytes,
        read_operations,
        write_operations,
    } = *limit;
    let written = |value: Option<u64>| value.map_or("max".to_owned(), |value| value.to_string());
    format!(
        "{major}:{minor} rbps={} wbps={} riops={} wiops={}",
        written(read_bytes),
        written(write_bytes),
        written(read_operations),
        written(write_operations)
    )
}
