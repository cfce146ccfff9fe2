//! The handle's `driver_state`: what the agent keeps for us and hands back to RecoverTask.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{BootId, Extra, ProcessIdentity, extra};

/// Version of [`HandleState`], and of the agent's handle around it; 0 is taken by other drivers.
pub const HANDLE_VERSION: u32 = 1;

/// Everything that recovery needs, because after an agent's restart the task's configuration is empty (contract, S-7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandleState {
    /// [`HANDLE_VERSION`].
    pub version: u32,
    /// The supervision directory.
    pub dir: PathBuf,
    /// The executor's socket.
    pub socket: PathBuf,
    /// The agent's id of this incarnation.
    pub task_id: String,
    /// The boot in which the identities are valid.
    pub boot_id: BootId,
    /// The executor when the handle was made; an adopting one has another identity.
    pub executor: ProcessIdentity,
    /// Parent of the main process.
    pub init: ProcessIdentity,
    /// What the job asked to run.
    pub main: ProcessIdentity,
    /// Unix time in milliseconds.
    pub started_at_ms: i64,
    /// Fields of newer writers.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Why a handle's `driver_state` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Nothing in it.
    #[error("the handle's driver state is empty")]
    Empty,
    /// Truncated, damaged, or of another driver.
    #[error("the handle's driver state is damaged or of another driver: {0}")]
    Malformed(String),
    /// Of a newer program that gave its fields another meaning, or of version 0, which is another driver's.
    #[error("the handle's driver state has version {0}, this program reads version {HANDLE_VERSION}")]
    UnsupportedVersion(u64),
}

impl HandleState {
    /// Reads what [`HandleState::to_bytes`] wrote, here or in a newer program.
    pub fn parse(bytes: &[u8]) -> Result<HandleState, HandleError> {
        if bytes.trim_ascii().is_empty() {
            return Err(HandleError::Empty);
        }
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| HandleError::Malformed(e.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(HANDLE_VERSION) => {}
            Some(version) => return Err(HandleError::UnsupportedVersion(version)),
            None => return Err(HandleError::Malformed("no version".to_owned())),
        }
        extra::read(&value).map_err(|e| HandleError::Malformed(e.to_string()))
    }

    /// JSON. Fails for a path that is not UTF-8.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HandleError> {
        extra::write(self).map_err(|e| HandleError::Malformed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> HandleState {
        let process = |pid| ProcessIdentity {
            pid,
            start_ticks: 1000 + u64::from(pid.unsigned_abs()),
            pidfd_inode: Some(7),
        };
        HandleState {
            version: HANDLE_VERSION,
            dir: "/var/lib/holdfast/raw_exec/01234567-89abcdef".into(),
            socket: "/var/lib/holdfast/raw_exec/01234567-89abcdef/executor.sock".into(),
            task_id: "alloc/web/12345678".to_owned(),
            boot_id: BootId::parse("00000000-1111-2222-3333-444444444444").unwrap(),
            executor: process(10),
            init: process(11),
            main: process(12),
            started_at_ms: 1_700_000_000_000,
            extra: Extra::new(),
        }
    }

    #[test]
    fn what_is_stored_comes_back_s7() {
        assert_eq!(HandleState::parse(&handle().to_bytes().unwrap()).unwrap(), handle());
    }

    #[test]
    fn fields_of_a_newer_program_are_kept() {
        let mut value: serde_json::Value = serde_json::from_slice(&handle().to_bytes().unwrap()).unwrap();
        value["later"] = serde_json::json!({"deep": [1, 2]});
        let read = HandleState::parse(value.to_string().as_bytes()).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&read.to_bytes().unwrap()).unwrap();
        assert_eq!(written, value);
    }

    #[test]
    fn a_handle_truncated_at_any_byte_is_an_error() {
        let bytes = handle().to_bytes().unwrap();
        assert_eq!(HandleState::parse(b""), Err(HandleError::Empty));
        for length in 1..bytes.len() {
            let found = HandleState::parse(&bytes[..length]);
            assert!(
                matches!(found, Err(HandleError::Malformed(_))),
                "{length} bytes gave {found:?}"
            );
        }
    }

    #[test]
    fn handles_of_other_drivers_and_versions_are_errors() {
        let foreign: [&[u8]; 6] = [
            b"\x82\xa3pid\x01",
            b"{}",
            b"[]",
            b"null",
            b"{\"ReattachConfig\":{}}",
            b"\0\0\0\0",
        ];
        for bytes in foreign {
            assert!(
                matches!(HandleState::parse(bytes), Err(HandleError::Malformed(_))),
                "{bytes:?}"
            );
        }
        for version in [0, 2, 99] {
            let bytes = HandleState { version, ..handle() }.to_bytes().unwrap();
            assert_eq!(
                HandleState::parse(&bytes),
                Err(HandleError::UnsupportedVersion(u64::from(version)))
            );
        }
    }
}
