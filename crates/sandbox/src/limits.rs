//! What a task may use, in the job's words.

mod cpu;
mod io;
mod memory;
mod size;

use holdfast_cgroup::PidsMax;
use thiserror::Error;

pub use cpu::{Bandwidth, CpuError, CpuShare, check_cpu, hard_cpu_limit};
pub use io::{IoMaxError, parse_io_max};
pub use memory::{MemoryEnforcement, MemoryLimits, memory_limits};
pub use size::{SizeError, parse_size};

/// PID_MAX_LIMIT on 64 bit: the most that pids.max takes.
const MOST_PIDS: u64 = 1 << 22;

/// Why a limit means nothing. The text names the option and its value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitValueError {
    /// See [`MemoryEnforcement::parse`].
    #[error("memory_enforcement {0:?} is none of hard, soft and none")]
    Enforcement(String),
    /// See [`check_pids_limit`].
    #[error("pids_limit {0} is not a number from 1 to {MOST_PIDS}, -1 for no limit or 0 for nothing said")]
    Pids(i64),
    /// See [`check_io_weight`].
    #[error("io_weight {0} is not between 1 and 10000")]
    IoWeight(i64),
    /// See [`check_swappiness`].
    #[error("swappiness {0} is not between 0 and 100")]
    Swappiness(i64),
}

/// `pids_limit`: how many processes and threads. 0: nothing was said, -1: no limit.
pub fn check_pids_limit(value: i64) -> Result<Option<PidsMax>, LimitValueError> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(count @ 1..=MOST_PIDS) => Ok(Some(PidsMax::Count(count))),
        Err(_) if value == -1 => Ok(Some(PidsMax::Unlimited)),
        _ => Err(LimitValueError::Pids(value)),
    }
}

/// `io_weight`: 1 to 10000, where 100 is usual (cgroup-v2, io.weight).
pub fn check_io_weight(value: i64) -> Result<u16, LimitValueError> {
    u16::try_from(value)
        .ok()
        .filter(|weight| (1..=10_000).contains(weight))
        .ok_or(LimitValueError::IoWeight(value))
}

/// `swappiness`: 0 to 100 (cgroup-v1, memory.swappiness).
pub fn check_swappiness(value: i64) -> Result<u8, LimitValueError> {
    u8::try_from(value)
        .ok()
        .filter(|swappiness| *swappiness <= 100)
        .ok_or(LimitValueError::Swappiness(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pids_limit_is_a_count_or_a_word() {
        for (value, expected) in [
            (0, None),
            (1, Some(PidsMax::Count(1))),
            (-1, Some(PidsMax::Unlimited)),
            (4_194_304, Some(PidsMax::Count(4_194_304))),
        ] {
            assert_eq!(check_pids_limit(value), Ok(expected), "{value}");
        }
        for value in [-2, 4_194_305, i64::MIN, i64::MAX] {
            assert_eq!(
                check_pids_limit(value).unwrap_err().to_string(),
                format!("pids_limit {value} is not a number from 1 to 4194304, -1 for no limit or 0 for nothing said")
            );
        }
    }

    #[test]
    fn weights_and_swappiness_have_a_range() {
        for value in [1, 100, 10_000] {
            assert_eq!(check_io_weight(value).map(i64::from), Ok(value));
        }
        for value in [0, -1, 10_001, 65_537, i64::MAX] {
            assert_eq!(
                check_io_weight(value).unwrap_err().to_string(),
                format!("io_weight {value} is not between 1 and 10000")
            );
        }
        for value in [0, 60, 100] {
            assert_eq!(check_swappiness(value).map(i64::from), Ok(value));
        }
        for value in [-1, 101, 256, i64::MIN] {
            assert_eq!(
                check_swappiness(value).unwrap_err().to_string(),
                format!("swappiness {value} is not between 0 and 100")
            );
        }
    }
}
