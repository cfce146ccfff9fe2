//! Pressure stall information (accounting/psi.rst): for how long tasks had to wait for a resource.

use std::time::Duration;

use crate::interface::after_word;

/// Of the three resources for which the kernel tells it; only on v2. `None`: it does not for this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Runnable, but no CPU was free; also because of a quota.
    pub cpu: Option<Stalls>,
    /// Reclaim, faults of pages that were there before, swap.
    pub memory: Option<Stalls>,
    /// Input and output of block devices.
    pub io: Option<Stalls>,
}

/// Waiting for one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalls {
    /// At least one process waited.
    pub some: Stall,
    /// All that had something to do waited. `None`: not told, as for the CPU before 5.13.
    pub full: Option<Stall>,
}

/// How much of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// Of the last 10 seconds.
    pub avg10: Percent,
    /// Of the last 60 seconds.
    pub avg60: Percent,
    /// Of the last 300 seconds.
    pub avg300: Percent,
    /// In all.
    pub total: Duration,
}

/// A percentage as exact as the kernel tells it: two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    hundredths: u32,
}

impl Percent {
    /// 0 to 100.
    pub fn as_f64(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }

    fn parse(text: &str) -> Option<Percent> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "00"));
        if decimals.len() != 2 {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        Some(Percent {
            hundredths: whole.checked_mul(100)?.checked_add(decimals.parse().ok()?)?,
        })
    }
}

/// Content of `cpu.pressure`, `memory.pressure`, `io.pressure`.
pub(crate) fn stalls(content: &str) -> Option<Stalls> {
    Some(Stalls {
        some: stall(after_word(content, "some")?)?,
        full: after_word(content, "full").and_then(stall),
    })
}

fn stall(fields: &str) -> Option<Stall> {
    let field = |name: &str| {
        fields
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    Some(Stall {
        avg10: Percent::parse(field("avg10")?)?,
        avg60: Percent::parse(field("avg60")?)?,
        avg300: Percent::parse(field("avg300")?)?,
        total: Duration::from_micros(field("total")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_percent_and_the_total_is_in_microseconds() {
        let found = stalls(
            "some avg10=1.05 avg60=2.88 avg300=100.00 total=1869893468\nfull avg10=0.00 avg60=0.30 avg300=0.07 total=12\n",
        )
        .unwrap();
        let expected = Stall {
            avg10: Percent { hundredths: 105 },
            avg60: Percent { hundredths: 288 },
            avg300: Percent { hundredths: 10_000 },
            total: Duration::from_micros(1_869_893_468),
        };
        assert_eq!(found.some, expected);
        assert_eq!(found.some.avg10.as_f64(), 1.05);
        assert_eq!(found.full.unwrap().avg60, Percent { hundredths: 30 });
    }

    #[test]
    fn what_is_not_told_or_damaged_is_absent() {
        let some = "some avg10=1.05 avg60=2.88 avg300=9.70 total=1\n";
        assert_eq!(stalls(some).unwrap().full, None);
        for damaged in [
            "",
            "full avg10=0.00",
            "some avg10=1 avg60=x avg300=0.00 total=1",
            "some\n",
        ] {
            assert_eq!(stalls(damaged), None, "{damaged:?}");
        }
    }
}
