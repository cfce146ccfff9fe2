//! Versions of `holdfast.executor.v1`: a driver and an executor that were built at different times talk to each other.
//!
//! The protocol is only ever added to. A version is a release that has added something; whoever needs the addition looks at the other's
//! version first, because one that does not know a field passes over it without a word.

/// What this program speaks.
pub const SPOKEN: u32 = 1;

/// The oldest version that this program still serves and understands.
pub const OLDEST: u32 = 1;

/// From the first release on, both sides work with one that is this many versions older.
const PROMISED: u32 = 2;

const _: () = assert!(
    OLDEST + PROMISED <= SPOKEN || OLDEST == 1,
    "an older peer is left behind too early"
);

/// What one side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The newest that it speaks.
    pub spoken: u32,
    /// The oldest that it still understands.
    pub oldest: u32,
}

impl Versions {
    /// This program's.
    pub const OWN: Versions = Versions {
        spoken: SPOKEN,
        oldest: OLDEST,
    };

    /// As Identify and Launch tell them; 0 is a program from before they were told.
    pub fn told(spoken: u32, oldest: u32) -> Versions {
        Versions {
            spoken: spoken.max(1),
            oldest: oldest.max(1),
        }
    }

    /// Whether the two understand each other; else why not.
    pub fn meet(self, other: Versions) -> Result<(), String> {
        if other.spoken < self.oldest {
            return Err(format!(
                "it speaks protocol version {}, and this program none before {}",
                other.spoken, self.oldest
            ));
        }
        if self.spoken < other.oldest {
            return Err(format!(
                "it speaks no protocol version before {}, and this program none after {}",
                other.oldest, self.spoken
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of the version, which keeps its promise and not more.
    fn of(spoken: u32) -> Versions {
        Versions {
            spoken,
            oldest: spoken.saturating_sub(PROMISED).max(1),
        }
    }

    #[test]
    fn two_versions_older_and_newer_meet_and_further_ones_say_why_not() {
        for spoken in 1..20_u32 {
            for other in spoken.saturating_sub(PROMISED).max(1)..=spoken + PROMISED {
                of(spoken).meet(of(other)).unwrap();
            }
        }
        assert_eq!(
            of(9).meet(of(6)),
            Err("it speaks protocol version 6, and this program none before 7".to_owned())
        );
        assert_eq!(
            of(6).meet(of(9)),
            Err("it speaks no protocol version before 7, and this program none after 6".to_owned())
        );
    }

    #[test]
    fn a_newer_program_that_goes_further_than_it_must_is_met() {
        let generous = Versions { spoken: 40, oldest: 1 };
        Versions::OWN.meet(generous).unwrap();
        generous.meet(Versions::OWN).unwrap();
    }

    #[test]
    fn a_program_from_before_there_was_a_number_is_the_first() {
        assert_eq!(Versions::told(0, 0), Versions { spoken: 1, oldest: 1 });
        Versions::OWN.meet(Versions::told(0, 0)).unwrap();
    }
}
