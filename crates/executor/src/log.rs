//! The executor's own log: standard error, which is `executor.log`, and never more than a bound of it.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one executor may write, in bytes.
const BOUND: usize = 256 * 1024;

static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Writes one line with its time. Never blocks on a missing reader, never fails, and says once that the bound is reached.
pub fn line(message: &str) {
    let now = holdfast_record::now_ms();
    let line = format!("{}.{:03} {}\n", now / 1000, now % 1000, message.replace('\n', " "));
    let before = WRITTEN.fetch_add(line.len(), Ordering::Relaxed);
    let mut stderr = std::io::stderr();
    if before + line.len() <= BOUND {
        let _ = stderr.write_all(line.as_bytes());
    } else if before <= BOUND {
        let _ = stderr.write_all(b"the log has reached its bound; nothing more is written\n");
    }
}
