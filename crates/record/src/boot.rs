//! Which boot of the host this is.

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// The kernel's random identity of this boot. Pids, start ticks and pidfd inodes mean nothing under another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(String);

/// A text that cannot be a boot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a boot id: expected 1 to 64 hexadecimal digits and hyphens")]
pub struct InvalidBootId(String);

impl BootId {
    /// Takes a boot id as the kernel or an explicit argument gives it.
    pub fn parse(text: &str) -> Result<BootId, InvalidBootId> {
        let id = text.trim_ascii();
        if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            Ok(BootId(id.to_owned()))
        } else {
            Err(InvalidBootId(text.chars().take(80).collect()))
        }
    }

    /// The id as the kernel writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> String {
        id.0
    }
}

impl TryFrom<String> for BootId {
    type Error = InvalidBootId;
    fn try_from(text: String) -> Result<BootId, InvalidBootId> {
        BootId::parse(&text)
    }
}

impl PartialEq<str> for BootId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

/// The id of the running boot, from `/proc/sys/kernel/random/boot_id` (random(4)). Whoever rehearses a reboot passes a
/// [`BootId`] of his own instead of calling this; no environment variable changes it.
pub fn boot_id() -> io::Result<BootId> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    // A process sees one boot.
    static CURRENT: OnceLock<BootId> = OnceLock::new();
    if let Some(current) = CURRENT.get() {
        return Ok(current.clone());
    }
    let text = fs::read_to_string(FILE).map_err(|e| io::Error::new(e.kind(), format!("cannot read {FILE}: {e}")))?;
    let current =
        BootId::parse(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {e}")))?;
    Ok(CURRENT.get_or_init(|| current).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_boot_has_one_id() {
        let first = boot_id().unwrap();
        assert_eq!(first.as_str().len(), 36);
        assert_eq!(first, boot_id().unwrap());
    }

    #[test]
    fn what_cannot_be_a_boot_id_is_refused() {
        for text in ["", " \n", "a b", "../../etc", &"a".repeat(65)] {
            assert!(BootId::parse(text).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<BootId>("\"not hex\"").is_err());
        assert_eq!(BootId::parse("beef-01\n").unwrap().as_str(), "beef-01");
    }
}
