//! Whether a layer is mounted somewhere.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};

/// A process whose mounts name `layer` (its name in the store): as a lower folder of an overlay, or as what is bound
/// (proc_pid_mountinfo(5)). The content of a layer has one name, so a mention is enough. Mounts that were made by descriptor, and
/// those of processes that this one may not look at, are not seen; the records of tasks name what they use.
pub(super) fn mounted_by(layer: &str) -> Option<u32> {
    let mut namespaces = HashSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Most processes share one.
        if let Ok(namespace) = fs::read_link(entry.path().join("ns/mnt"))
            && !namespaces.insert(namespace)
        {
            continue;
        }
        let Ok(mounts) = fs::File::open(entry.path().join("mountinfo")) else {
            continue;
        };
        let mentions = |line: Vec<u8>| line.windows(layer.len()).any(|window| window == layer.as_bytes());
        if BufReader::new(mounts).split(b'\n').map_while(Result::ok).any(mentions) {
            return Some(pid);
        }
    }
    None
}
