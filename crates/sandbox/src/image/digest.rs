//! What content is known by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256 digest (image-spec, descriptor.md). The spec's other registered algorithm, sha512, is not known here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum DigestError {
    /// No `algorithm:`, or the wrong number or kind of digits.
    #[error("{0:?} is not a digest: expected sha256: and 64 hexadecimal digits in lower case")]
    Malformed(String),
    /// Any other than sha256.
    #[error("digest {digest:?} has algorithm {algorithm:?}; only sha256 is supported")]
    Algorithm {
        /// As it was given.
        digest: String,
        /// Before the colon.
        algorithm: String,
    },
}

impl Digest {
    /// Of bytes in memory.
    pub(super) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// What a hasher has seen.
    pub(super) fn finish(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }

    /// 64 digits.
    pub(super) fn hex(&self) -> String {
        use std::fmt::Write;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Its name in a store.
    pub(super) fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// The reverse of [`Digest::file_name`].
    pub(super) fn from_file_name(name: &str) -> Option<Digest> {
        format!("sha256:{}", name.strip_prefix("sha256-")?).parse().ok()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let malformed = || DigestError::Malformed(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm {
                digest: text.to_owned(),
                algorithm: algorithm.to_owned(),
            });
        }
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [nibble(pair[0]), nibble(pair[1])];
            *byte = high.ok_or_else(malformed)? << 4 | low.ok_or_else(malformed)?;
        }
        Ok(Digest(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b""), text.parse().unwrap());
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(
            Digest::from_file_name(&Digest::of(b"x").file_name()),
            Some(Digest::of(b"x"))
        );
    }

    #[test]
    fn what_is_no_digest_is_named() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:00",
            &format!("sha256:{}", "G".repeat(64)),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a digest")), "{error}");
        }
        // Two digests that differ in case only would be one folder with two names.
        assert!(format!("sha256:{}", "A".repeat(64)).parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
        let error = "sha512:00".parse::<Digest>().unwrap_err().to_string();
        assert_eq!(
            error,
            "digest \"sha512:00\" has algorithm \"sha512\"; only sha256 is supported"
        );
    }
}
