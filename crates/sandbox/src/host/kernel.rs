//! The kernel's age, and its clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Files;

/// `MAJOR.MINOR` of a kernel's release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 5 of `5.14.0-362.el9.x86_64`.
    pub major: u32,
    /// 14 of it.
    pub minor: u32,
}

impl Release {
    /// The first two numbers; `None` if there are none.
    pub fn parse(text: &str) -> Option<Release> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next()?, numbers.next()?) {
            (Ok(major), Ok(minor)) => Some(Release { major, minor }),
            _ => None,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As uname(1) says it; `unknown` if it does not.
    pub release: String,
    /// Its numbers.
    pub version: Option<Release>,
    /// What tells one boot from another; without it no process can be trusted to be the one that was recorded.
    pub boot_id: Option<String>,
}

impl Kernel {
    pub(super) fn look(files: &Files) -> Kernel {
        let read = |path| {
            let text = files.read(path).ok()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let release = read("/proc/sys/kernel/osrelease");
        Kernel {
            version: release.as_deref().and_then(Release::parse),
            release: release.unwrap_or_else(|| "unknown".to_owned()),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// Whether the host's clock can be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It is later than this program's making.
    Plausible,
    /// As after a start without a battery: times of tasks would lie in the past.
    NeverSet,
}

/// 2025-01-01, before which this program did not exist.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

impl Clock {
    /// Judges a time.
    pub fn of(now: SystemTime) -> Clock {
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) if since >= EARLIEST => Clock::Plausible,
            _ => Clock::NeverSet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        let of = |text| Release::parse(text);
        let floor = of("5.12").unwrap();
        for (text, is_enough) in [
            ("5.4.0-150-generic", false),
            ("5.14.0-362.el9.x86_64\n", true),
            ("6.1-rc2", true),
            ("10.0", true),
        ] {
            assert_eq!(of(text).unwrap() >= floor, is_enough, "{text}");
        }
        assert_eq!(of("unknown"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_clock_that_was_never_set_is_told() {
        assert_eq!(Clock::of(UNIX_EPOCH + Duration::from_secs(7)), Clock::NeverSet);
        assert_eq!(Clock::of(UNIX_EPOCH + EARLIEST), Clock::Plausible);
    }
}
