//! What goes through the network namespace of a task, as the kernel counts it (proc_pid_net(5)). The namespace of the host is nobody's
//! in particular, and its counters say nothing of a task.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use holdfast_record::Record;
use serde::Serialize;

use super::known::{Known, lives};
use super::table::bytes;

/// One interface of a namespace, since it was made. Fields are added and never renamed; described in docs/executor.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    interface: String,
    received_bytes: u64,
    received_packets: u64,
    received_errors: u64,
    received_dropped: u64,
    sent_bytes: u64,
    sent_packets: u64,
    sent_errors: u64,
    sent_dropped: u64,
}

/// The counters of a task's namespace, held open.
#[derive(Debug)]
pub struct Counters(File);

impl Counters {
    /// Absent: the task has no network namespace of its own, or does not let itself be looked at.
    pub fn open(known: &Known) -> Option<Counters> {
        let record = known.record.as_ref()?;
        let main = living(record)?;
        record.plan.network_namespace.as_ref()?;
        let namespace = |process: &str| Some(fs::metadata(format!("/proc/{process}/ns/net")).ok()?.ino());
        let file = File::open(format!("/proc/{main}/net/dev")).ok()?;
        let is_own = namespace(&main.to_string())? != namespace("self")?;
        // The file is of the process that was meant if that lives still.
        living(record).filter(|_| is_own).map(|_| Counters(file))
    }

    /// As they are now.
    pub fn read(&self) -> Option<Vec<Interface>> {
        let mut content = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read_at(&mut buffer, content.len() as u64).ok()? {
                0 => break,
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
        Some(parse(&String::from_utf8_lossy(&content)))
    }
}

fn living(record: &Record) -> Option<i32> {
    lives(&record.main).then_some(record.main.pid)
}

/// Two lines of heads, then a line for each interface: its name, eight counters of what it received and eight of what it sent.
fn parse(content: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        // Names may have colons in them (aliases); numbers do not.
        let (name, counters) = line.rsplit_once(':')?;
        let counters: Vec<u64> = counters
            .split_ascii_whitespace()
            .map(|counter| counter.parse().ok())
            .collect::<Option<_>>()?;
        let [
            received_bytes,
            received_packets,
            received_errors,
            received_dropped,
            _,
            _,
            _,
            _,
            sent_bytes,
            sent_packets,
            sent_errors,
            sent_dropped,
            ..,
        ] = counters[..]
        else {
            return None;
        };
        Some(Interface {
            interface: name.trim().to_owned(),
            received_bytes,
            received_packets,
            received_errors,
            received_dropped,
            sent_bytes,
            sent_packets,
            sent_errors,
            sent_dropped,
        })
    };
    content.lines().filter_map(interface).collect()
}

/// For a person: a line for each interface, the first with a name.
pub fn fields(interfaces: &[Interface]) -> impl Iterator<Item = (&'static str, String)> {
    let names = std::iter::once("Network").chain(std::iter::repeat(""));
    names.zip(interfaces).map(|(name, interface)| (name, line(interface)))
}

fn line(interface: &Interface) -> String {
    let Interface {
        interface,
        received_bytes,
        received_packets,
        received_errors,
        received_dropped,
        sent_bytes,
        sent_packets,
        sent_errors,
        sent_dropped,
    } = interface;
    let way = |what: &str, size: u64, packets: u64, errors: u64, dropped: u64| {
        let trouble = match (errors, dropped) {
            (0, 0) => String::new(),
            (errors, dropped) => format!(" ({errors} errors, {dropped} dropped)"),
        };
        format!("{} {what} in {packets} packets{trouble}", bytes(size))
    };
    format!(
        "{interface}: {}, {}",
        way(
            "received",
            *received_bytes,
            *received_packets,
            *received_errors,
            *received_dropped
        ),
        way("sent", *sent_bytes, *sent_packets, *sent_errors, *sent_dropped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_of_the_file_is_told_with_its_counters() {
        let content = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1532680   12303    0    0    0     0          0         0  1532680   12303    0    0    0     0       0          0
eth0:1: 2048 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
 bad: 1 2 3
";
        let interfaces = parse(content);
        let names: Vec<_> = interfaces.iter().map(|i| i.interface.as_str()).collect();
        assert_eq!(names, ["lo", "eth0:1"]);
        let shown: Vec<_> = fields(&interfaces).collect();
        assert_eq!(
            shown,
            [
                (
                    "Network",
                    "lo: 1.4M received in 12303 packets, 1.4M sent in 12303 packets".to_owned()
                ),
                (
                    "",
                    "eth0:1: 2.0K received in 2 packets (3 errors, 4 dropped), 9 sent in 10 packets (11 errors, 12 dropped)".to_owned()
                ),
            ]
        );
        let json = serde_json::to_value(&interfaces[1]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "interface": "eth0:1",
                "received_bytes": 2048, "received_packets": 2, "received_errors": 3, "received_dropped": 4,
                "sent_bytes": 9, "sent_packets": 10, "sent_errors": 11, "sent_dropped": 12,
            })
        );
    }

    #[test]
    fn the_running_kernels_file_is_understood_to_its_end() {
        let counters = Counters(File::open("/proc/self/net/dev").unwrap());
        for _ in 0..2 {
            let lines = fs::read_to_string("/proc/self/net/dev").unwrap().lines().count();
            assert_eq!(counters.read().unwrap().len(), lines - 2);
        }
    }
}
