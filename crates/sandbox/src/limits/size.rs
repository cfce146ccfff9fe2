//! Sizes of memory.

use holdfast_cgroup::MemoryMax;
use thiserror::Error;

/// Units by their powers of 1024. The letters are those of docker(1) and systemd, which are powers of 1024 for memory, too; `MB`
/// is left out because its readers do not agree.
const UNITS: [(&str, u32); 13] = [
    ("", 2),
    ("b", 0),
    ("k", 1),
    ("K", 1),
    ("KiB", 1),
    ("m", 2),
    ("M", 2),
    ("MiB", 2),
    ("g", 3),
    ("G", 3),
    ("GiB", 3),
    ("t", 4),
    ("TiB", 4),
];

/// A text that is no size. Whoever knows the option's name puts it before.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a size such as \"64MiB\", \"512k\", \"1g\", \"64\" for 64 MiB or \"unlimited\"")]
pub struct SizeError(pub String);

/// A whole number with a unit, as in `64MiB`, `512k`, `1g`, or `unlimited`. A plain number is MiB, as with `memory` in a job's
/// resources; `b` is bytes.
pub fn parse_size(text: &str) -> Result<MemoryMax, SizeError> {
    if text == "unlimited" {
        return Ok(MemoryMax::Unlimited);
    }
    let bytes = bytes(text, &UNITS).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.map(MemoryMax::Bytes).ok_or_else(|| SizeError(text.to_owned()))
}

/// Digits and one of the units, without a sign, a fraction or a blank.
pub(super) fn bytes(text: &str, units: &[(&str, u32)]) -> Option<u64> {
    let digits_end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits_end);
    let (_, power) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(1024_u64.checked_pow(*power)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_plain_numbers_are_mib() {
        for (text, bytes) in [
            ("0", 0),
            ("64", 64 << 20),
            ("64MiB", 64 << 20),
            ("64m", 64 << 20),
            ("1g", 1 << 30),
            ("2GiB", 2 << 30),
            ("512k", 512 << 10),
            ("1KiB", 1024),
            ("3t", 3 << 40),
            ("4096b", 4096),
            ("0g", 0),
        ] {
            assert_eq!(parse_size(text), Ok(MemoryMax::Bytes(bytes)), "{text}");
        }
        assert_eq!(parse_size("unlimited"), Ok(MemoryMax::Unlimited));
    }

    #[test]
    fn texts_that_are_no_sizes_are_refused_by_value() {
        for text in [
            "",
            "MiB",
            "-1",
            "+1",
            "1.5g",
            "64 MiB",
            "64MB",
            "64mib",
            "1p",
            "max",
            "Unlimited",
            "0x10",
            "18446744073709551615",
            "8388608t",
            "99999999999999999999999",
        ] {
            assert_eq!(
                parse_size(text).unwrap_err().to_string(),
                format!(
                    "{text:?} is not a size such as \"64MiB\", \"512k\", \"1g\", \"64\" for 64 MiB or \"unlimited\""
                )
            );
        }
    }
}
