//! The executor's own log: standard error, which is `executor.log`, and never more than a bound of it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_record::{SupervisionDir, names};
use holdfast_sys::file::open_at;

/// What one executor may write, in bytes.
const BOUND: usize = 256 * 1024;

static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Makes the file in a supervision directory standard error.
pub fn begin(dir: &SupervisionDir) -> io::Result<()> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW;
    let file = open_at(dir, names::LOG, flags, 0o600)?;
    Ok(rustix::stdio::dup2_stderr(&file)?)
}

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
