//! The io controller (cgroup-v2, "IO Interface Files").

use std::path::Path;

use crate::refusal::{Controller, Writes};
use crate::{IoMax, IoUsage, weight};

/// Content of io.stat: a line per device, of `KEY=VALUE`.
pub(crate) fn stat(content: &str) -> IoUsage {
    let mut usage = IoUsage::default();
    for (key, value) in content
        .split_ascii_whitespace()
        .filter_map(|field| field.split_once('='))
    {
        let counter = match key {
            "rbytes" => &mut usage.read_bytes,
            "wbytes" => &mut usage.write_bytes,
            "rios" => &mut usage.read_operations,
            "wios" => &mut usage.write_operations,
            _ => continue,
        };
        *counter = counter.saturating_add(value.parse().unwrap_or(0));
    }
    usage
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_are_counted_and_what_is_no_transfer_is_not() {
        let content = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=99 dios=9\n254:0 \n\
                       254:16 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0 cost.usage=7\n";
        let expected = IoUsage {
            read_bytes: 110,
            write_bytes: 220,
            read_operations: 4,
            write_operations: 6,
        };
        assert_eq!(stat(content), expected);
        assert_eq!(stat(""), IoUsage::default());
    }
}
