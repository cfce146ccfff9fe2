//! How strictly the memory of a task's resources is meant.

use std::fmt;

use holdfast_cgroup::{Limits, MemoryMax, Version};

use super::LimitValueError;

/// What the kernel does about a task that uses more memory than its resources have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryEnforcement {
    /// It is killed, as with the built-in: `memory_max`, or without it `memory`, is the hard limit.
    #[default]
    Hard,
    /// It is slowed down: `memory` is reserved and, on v2 and without `memory_max`, what lies above it is reclaimed and throttled
    /// (memory.high). No limit of the task's own kills it, but for a `memory_max` that was given.
    Soft,
    /// Nothing: `memory` is reserved, no limit is written.
    None,
}

impl MemoryEnforcement {
    /// All modes.
    pub const ALL: [MemoryEnforcement; 3] = [
        MemoryEnforcement::Hard,
        MemoryEnforcement::Soft,
        MemoryEnforcement::None,
    ];

    /// `memory_enforcement`: `hard`, `soft` or `none`.
    pub fn parse(value: &str) -> Result<MemoryEnforcement, LimitValueError> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.to_string() == value)
            .ok_or_else(|| LimitValueError::Enforcement(value.to_owned()))
    }
}

impl fmt::Display for MemoryEnforcement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            MemoryEnforcement::Hard => "hard",
            MemoryEnforcement::Soft => "soft",
            MemoryEnforcement::None => "none",
        })
    }
}

/// What becomes of the memory in a task's resources. What is absent is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Hard limit.
    pub max: Option<MemoryMax>,
    /// Throttled above this, in bytes.
    pub high: Option<MemoryMax>,
    /// Reserved, in bytes.
    pub low: Option<u64>,
}

/// `memory` and `memory_max` of the resources, in MiB, under a mode. 0: nothing was said; a `memory_max` of -1: no limit
/// (contract, S-9, which is mode hard).
pub fn memory_limits(
    memory_mib: i64,
    memory_max_mib: i64,
    mode: MemoryEnforcement,
    version: Option<Version>,
) -> MemoryLimits {
    let resources = |memory, memory_max| Limits::of_resources(memory, memory_max, 0, "");
    // With a maximum, whatever it is, the memory is what is reserved.
    let reserved = resources(memory_mib, -1).memory_low;
    let hard = resources(memory_mib, memory_max_mib);
    match mode {
        MemoryEnforcement::Hard => MemoryLimits {
            max: hard.memory_max,
            high: None,
            low: hard.memory_low,
        },
        MemoryEnforcement::Soft if memory_max_mib != 0 => MemoryLimits {
            max: hard.memory_max,
            high: None,
            low: reserved,
        },
        MemoryEnforcement::Soft => MemoryLimits {
            // Written, so that a limit which an earlier start left in the same scope does not hold.
            max: reserved.map(|_| MemoryMax::Unlimited),
            high: reserved.map(MemoryMax::Bytes).filter(|_| version != Some(Version::V1)),
            low: reserved,
        },
        MemoryEnforcement::None => MemoryLimits {
            max: None,
            high: None,
            low: reserved,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn modes_have_names() {
        for mode in MemoryEnforcement::ALL {
            assert_eq!(MemoryEnforcement::parse(&mode.to_string()), Ok(mode));
        }
        for text in ["", "Hard", "strict", "off"] {
            assert_eq!(
                MemoryEnforcement::parse(text).unwrap_err().to_string(),
                format!("memory_enforcement {text:?} is none of hard, soft and none")
            );
        }
    }

    #[test]
    fn memory_by_memory_max_by_mode_s9_pain_22() {
        use MemoryEnforcement::{Hard, None as Never, Soft};
        const NO_LIMIT: Option<MemoryMax> = Some(MemoryMax::Unlimited);
        let at = |mib: u64| Some(MemoryMax::Bytes(mib * MIB));
        let reserve = |mib: u64| Some(mib * MIB);
        let table = [
            // memory, memory_max, mode; max, high on v2, low
            (256, 0, Hard, at(256), None, None),
            (256, 1024, Hard, at(1024), None, reserve(256)),
            (256, -1, Hard, NO_LIMIT, None, reserve(256)),
            (0, 1024, Hard, at(1024), None, None),
            (0, -1, Hard, NO_LIMIT, None, None),
            (0, 0, Hard, None, None, None),
            (256, 0, Soft, NO_LIMIT, at(256), reserve(256)),
            (256, 1024, Soft, at(1024), None, reserve(256)),
            (256, -1, Soft, NO_LIMIT, None, reserve(256)),
            (0, 1024, Soft, at(1024), None, None),
            (0, -1, Soft, NO_LIMIT, None, None),
            (0, 0, Soft, None, None, None),
            (256, 0, Never, None, None, reserve(256)),
            (256, 1024, Never, None, None, reserve(256)),
            (256, -1, Never, None, None, reserve(256)),
            (0, 1024, Never, None, None, None),
            (0, -1, Never, None, None, None),
            (0, 0, Never, None, None, None),
        ];
        for (memory, memory_max, mode, max, high, low) in table {
            let on = |version| memory_limits(memory, memory_max, mode, version);
            let v2 = MemoryLimits { max, high, low };
            assert_eq!(on(Some(Version::V2)), v2, "{memory}, {memory_max}, {mode}");
            // v1 has nothing that throttles, and being told so would be no news.
            assert_eq!(on(Some(Version::V1)), MemoryLimits { high: None, ..v2 });
        }
    }
}
