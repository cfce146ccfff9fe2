//! Chance that can be repeated: SplitMix64, so that a storm is known by its seed.

use std::ops::RangeInclusive;

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Another sequence, which does not depend on how this one goes on.
    pub(crate) fn split(&mut self) -> Chance {
        Chance(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// A number of the range.
    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        let count = (last.saturating_sub(first)).saturating_add(1);
        first + self.next() % count
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.within(1..=times.max(1)) == 1
    }

    /// One of them; none of none.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let last = (all.len() as u64).checked_sub(1)?;
        all.get(usize::try_from(self.within(0..=last)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_within_its_bounds() {
        let draw = |seed| -> Vec<u64> {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| chance.within(3..=9)).collect()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!((3..=9).all(|number| draw(1).contains(&number)));
        assert!(draw(1).iter().all(|number| (3..=9).contains(number)));
        assert_eq!(Chance::new(1).one_of::<u8>(&[]), None);
    }
}
