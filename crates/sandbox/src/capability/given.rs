//! What this process can give to a task.

use holdfast_record::CapabilitySets;

use super::{CapabilityError, Set};
use crate::privileges::Capabilities;

/// What a child of this process can have: what is in its bounding set, and permitted to it (proc_pid_status(5)). Without
/// privileges that is nothing.
///
/// A bounding set can only be made smaller by who has CAP_SETPCAP; without it a task's is this process's.
pub fn available() -> Result<Set, CapabilityError> {
    let own = Capabilities::of_this_process().map_err(|e| CapabilityError::Unreadable {
        path: e.path,
        source: e.source,
    })?;
    Ok(Set::from_bits(own.bounding & own.permitted))
}

/// The sets, lowered to what is [`available`].
///
/// What the job counts on (`named`: what it added, and for root of the built-in [`super::LEGACY`]) and cannot have is an error if
/// `strict`, else a warning; a default is lowered without a word.
pub fn cut(
    sets: CapabilitySets,
    available: Set,
    named: Set,
    strict: bool,
    warnings: &mut Vec<String>,
) -> Result<CapabilitySets, CapabilityError> {
    let CapabilitySets {
        bounding,
        permitted,
        ambient,
    } = sets;
    let wanted = Set::from_bits(bounding | permitted);
    let missing = wanted.without(available).intersection(named);
    if !missing.is_empty() {
        let refusal = CapabilityError::NotAvailable(missing);
        if strict {
            return Err(refusal);
        }
        warnings.push(format!("{refusal}; the task does without"));
    }
    let permitted = permitted & available.bits();
    Ok(CapabilitySets {
        bounding: bounding & available.bits(),
        permitted,
        ambient: ambient && permitted != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::LEGACY;
    use super::*;

    #[test]
    fn what_can_be_given_is_no_more_than_what_the_kernel_has() {
        let (available, supported) = (available().unwrap(), Set::supported().unwrap());
        assert_eq!(available.without(supported), Set::EMPTY);
    }

    #[test]
    fn what_is_missing_is_refused_or_warned_about_if_the_job_counts_on_it() {
        let missing = Set::SYS_TIME.union(Set::NET_RAW);
        let (sets, here) = (
            CapabilitySets {
                bounding: LEGACY.bits(),
                permitted: missing.bits(),
                ambient: true,
            },
            LEGACY.without(missing),
        );
        let mut warnings = Vec::new();
        let refusal = cut(sets, here, Set::NET_RAW, true, &mut warnings).unwrap_err();
        let text = "capabilities cannot be given, since the driver has not got them itself: net_raw";
        assert_eq!((refusal.to_string(), warnings.len()), (text.to_owned(), 0));

        let given = cut(sets, here, Set::NET_RAW, false, &mut warnings).unwrap();
        assert_eq!(warnings, [format!("{text}; the task does without")]);
        assert_eq!(
            (given.bounding, given.permitted, given.ambient),
            (here.bits(), 0, false)
        );

        warnings.clear();
        for strict in [false, true] {
            cut(sets, here, Set::BPF, strict, &mut warnings).unwrap();
            assert_eq!(cut(sets, LEGACY, LEGACY, strict, &mut warnings).unwrap(), sets);
        }
        assert_eq!(warnings, Vec::<String>::new());
    }
}
