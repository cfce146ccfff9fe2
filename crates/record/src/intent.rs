//! `intent.json`: which task a supervision directory is for.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};

use serde::{Deserialize, Serialize};

use crate::{BootId, Extra, RECORD_VERSION};

/// Written by the driver together with the folder, before anything of the task exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The agent's id of this incarnation, `<alloc>/<task>/<8 characters>` (contract, S-8).
    pub task_id: String,
    /// The allocation.
    pub alloc_id: String,
    /// The task's name in the job.
    pub task_name: String,
    /// Name of the plugin that started it.
    pub driver: String,
    /// Drawn for this folder; the executor that answers on its socket must know it.
    pub nonce: String,
    /// The boot in which the folder was made.
    pub boot_id: BootId,
    /// Unix time in milliseconds.
    pub created_at_ms: i64,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Intent {
    /// An intent of now, with a fresh nonce. Fails only if the kernel gives no randomness.
    pub fn new(
        task_id: impl Into<String>,
        alloc_id: impl Into<String>,
        task_name: impl Into<String>,
        driver: impl Into<String>,
        boot_id: BootId,
    ) -> io::Result<Intent> {
        Ok(Intent {
            version: RECORD_VERSION,
            task_id: task_id.into(),
            alloc_id: alloc_id.into(),
            task_name: task_name.into(),
            driver: driver.into(),
            nonce: draw_nonce()?,
            boot_id,
            created_at_ms: crate::now_ms(),
            extra: Extra::new(),
        })
    }
}

/// 128 random bits in hexadecimal.
fn draw_nonce() -> io::Result<String> {
    let mut bits = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bits))
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read /dev/urandom: {e}")))?;
    let mut nonce = String::with_capacity(32);
    for byte in bits {
        // Writing to a String cannot fail.
        let _ = write!(nonce, "{byte:02x}");
    }
    Ok(nonce)
}
