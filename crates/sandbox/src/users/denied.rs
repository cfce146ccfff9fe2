//! Host ids that no task may run as (`denied_host_uids`, `denied_host_gids`).

use std::ops::RangeInclusive;

use thiserror::Error;

use super::Credentials;

/// A list that cannot be read, or credentials that it denies. All texts are those of Nomad 1.11.0
/// (drivers/shared/validators).
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeniedIdError {
    /// Neither an id nor two with a dash between.
    #[error("invalid range {option} \"{range}\": range bound not valid")]
    InvalidBound {
        /// `deniedHostUIDs` or `deniedHostGIDs`.
        option: &'static str,
        /// The part of the list.
        range: String,
    },
    /// Upside down.
    #[error("invalid range {option} \"{range}\": lower bound cannot be greater than upper bound")]
    InvalidRange {
        /// `deniedHostUIDs` or `deniedHostGIDs`.
        option: &'static str,
        /// The part of the list.
        range: String,
    },
    /// The user is denied.
    #[error("running as uid {0} is disallowed")]
    Uid(u32),
    /// One of the user's groups is denied.
    #[error("running as gid {0} is disallowed")]
    Gid(u32),
}

impl DeniedIdError {
    /// Whether the same call may succeed a moment later: never, these are decisions of the operator.
    pub fn is_retryable(&self) -> bool {
        match self {
            DeniedIdError::InvalidBound { .. }
            | DeniedIdError::InvalidRange { .. }
            | DeniedIdError::Uid(_)
            | DeniedIdError::Gid(_) => false,
        }
    }
}

/// Ids that the operator denied; by default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeniedIds {
    uids: Vec<RangeInclusive<u32>>,
    gids: Vec<RangeInclusive<u32>>,
}

impl DeniedIds {
    /// Reads the two options: ids and ranges as in `0,10-15`; empty denies nobody.
    ///
    /// `1-2-3` is an error here, where the agent takes it and then denies nothing: a list that does not do what it
    /// seems to do is worse than one that is refused.
    pub fn parse(denied_host_uids: &str, denied_host_gids: &str) -> Result<DeniedIds, DeniedIdError> {
        Ok(DeniedIds {
            uids: parse_ranges("deniedHostUIDs", denied_host_uids)?,
            gids: parse_ranges("deniedHostGIDs", denied_host_gids)?,
        })
    }

    /// Whether a task may run with these credentials: its user and each of its groups count, and no group that it does
    /// not have (contract, pain 19: the agent adds gid 0 to everybody's).
    pub fn check(&self, credentials: &Credentials) -> Result<(), DeniedIdError> {
        let denies = |ranges: &[RangeInclusive<u32>], id| ranges.iter().any(|range| range.contains(&id));
        if denies(&self.uids, credentials.uid) {
            return Err(DeniedIdError::Uid(credentials.uid));
        }
        let mut gids = std::iter::once(credentials.gid).chain(credentials.groups.iter().copied());
        match gids.find(|gid| denies(&self.gids, *gid)) {
            Some(gid) => Err(DeniedIdError::Gid(gid)),
            None => Ok(()),
        }
    }
}

fn parse_ranges(option: &'static str, list: &str) -> Result<Vec<RangeInclusive<u32>>, DeniedIdError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let parse_range = |range: &str| {
        let bound = |text: &str| {
            // No sign and no blank, which `parse` or a trim would take.
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits
                .then(|| text.parse::<u32>().ok())
                .flatten()
                .ok_or_else(|| DeniedIdError::InvalidBound {
                    option,
                    range: range.to_owned(),
                })
        };
        let (lower, upper) = range.split_once('-').unwrap_or((range, range));
        let (lower, upper) = (bound(lower)?, bound(upper)?);
        if lower > upper {
            return Err(DeniedIdError::InvalidRange {
                option,
                range: range.to_owned(),
            });
        }
        Ok(lower..=upper)
    };
    list.split(',').map(parse_range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists_are_refused_with_the_agents_texts() {
        let bound = |range: &str| format!("invalid range deniedHostUIDs \"{range}\": range bound not valid");
        let table = [
            ("banana", bound("banana")),
            ("1-100,foo", bound("foo")),
            ("1-100,,200-300", bound("")),
            (",", bound("")),
            (" 1", bound(" 1")),
            ("1, 2", bound(" 2")),
            ("+1", bound("+1")),
            ("-1", bound("-1")),
            ("1-", bound("1-")),
            ("banana-10", bound("banana-10")),
            ("10-banana", bound("10-banana")),
            ("1-2-3", bound("1-2-3")),
            ("4294967296", bound("4294967296")),
            (
                "100-1",
                "invalid range deniedHostUIDs \"100-1\": lower bound cannot be greater than upper bound".to_owned(),
            ),
        ];
        for (list, message) in table {
            let error = DeniedIds::parse(list, "").unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(!error.is_retryable());
        }
        let error = DeniedIds::parse("0", "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid range deniedHostGIDs \"x\": range bound not valid"
        );
    }

    #[test]
    fn users_and_every_group_are_checked() {
        let denied = DeniedIds::parse("0,10-15", "20,4294967295,30-40").unwrap();
        let table = [
            (0, 1, &[1][..], Err("running as uid 0 is disallowed")),
            (10, 1, &[1], Err("running as uid 10 is disallowed")),
            (15, 20, &[20], Err("running as uid 15 is disallowed")),
            (9, 1, &[1], Ok(())),
            (16, 1, &[1, 21, 29, 41], Ok(())),
            (16, 20, &[], Err("running as gid 20 is disallowed")),
            (16, 1, &[1, 35], Err("running as gid 35 is disallowed")),
            (16, 1, &[1, 40], Err("running as gid 40 is disallowed")),
            (16, 1, &[1, 30], Err("running as gid 30 is disallowed")),
        ];
        for (uid, gid, groups, expected) in table {
            let answer = denied.check(&Credentials::numeric(uid, gid, groups.to_vec()));
            assert_eq!(
                answer.map_err(|error| error.to_string()),
                expected.map_err(str::to_owned),
                "{uid} {gid} {groups:?}"
            );
        }
        assert_eq!(DeniedIds::default().check(&Credentials::numeric(0, 0, vec![0])), Ok(()));
    }

    #[test]
    fn denying_gid_0_does_not_deny_everybody_pain_19() {
        let denied = DeniedIds::parse("", "0").unwrap();
        assert_eq!(denied.check(&Credentials::numeric(65534, 65534, vec![65534])), Ok(()));
        assert_eq!(
            denied.check(&Credentials::numeric(7, 7, vec![7, 0])),
            Err(DeniedIdError::Gid(0))
        );
    }
}
