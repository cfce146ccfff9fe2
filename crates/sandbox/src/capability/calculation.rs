//! What a job gets of what its operator allows, with the results and the texts of the built-in `exec`.

use std::collections::BTreeSet;

use holdfast_record::CapabilitySets;

use super::{CapabilityError, NAMES, Set, plain};

/// What a job gets and may add unless its operator says otherwise, as the built-in's default of `allow_caps` writes it.
pub const DEFAULTS: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// [`DEFAULTS`] by number.
const DEFAULT_SET: Set = Set::of(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 27, 29, 31]);

/// What the built-in gives to root, whatever operator and job say: all that were known when it began to ask them, up to
/// CAP_AUDIT_READ.
pub const LEGACY: Set = Set::from_bits((1 << 38) - 1);

/// A word for all of them.
const ALL: &str = "all";

/// Whose rules turn what was calculated into the sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Of the built-in `exec`.
    BuiltIn,
    /// Of the `holdfast` profile.
    Holdfast,
}

/// The capabilities of a list, in any spelling, with or without `CAP_`; `all` is what the kernel has, and empty names are nothing.
/// Fails for names that the kernel does not have, with the built-in's text for this `option`.
pub fn parse(option: &'static str, names: &[impl AsRef<str>]) -> Result<Set, CapabilityError> {
    let supported = Set::supported()?;
    let mut set = Set::EMPTY;
    let mut unknown = BTreeSet::new();
    for name in names {
        let name = plain(name.as_ref());
        match number(&name).map(|number| Set::of(&[number])) {
            _ if name.is_empty() => {}
            _ if name == ALL => set = set.union(supported),
            Some(one) if one == supported.intersection(one) => set = set.union(one),
            _ => drop(unknown.insert(name)),
        }
    }
    if unknown.is_empty() {
        return Ok(set);
    }
    let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
    Err(CapabilityError::Unsupported { option, names })
}

fn number(plain_name: &str) -> Option<u32> {
    let at = NAMES.iter().position(|known| plain(known) == plain_name)?;
    u32::try_from(at).ok()
}

/// What is left of the defaults after `allow_caps` and `cap_drop`, and `cap_add` on top of it: adding wins over dropping, so that
/// a job can drop `all` and name what it needs. What is added must be allowed.
pub fn calculate(
    allow_caps: &[impl AsRef<str>],
    cap_add: &[impl AsRef<str>],
    cap_drop: &[impl AsRef<str>],
) -> Result<Set, CapabilityError> {
    let allowed = parse("allow_caps", allow_caps)?;
    let added = parse("cap_add", cap_add)?;
    let mut dropped = parse("cap_drop", cap_drop)?;
    if cap_drop.iter().any(|name| plain(name.as_ref()) == ALL) {
        // Also a default that the kernel does not have.
        dropped = DEFAULT_SET.union(dropped);
    }
    let refused = added.without(allowed);
    if !refused.is_empty() {
        return Err(CapabilityError::NotAllowed(refused));
    }
    Ok(DEFAULT_SET.intersection(allowed).without(dropped).union(added))
}

/// The sets of the main process and of sessions.
///
/// | | root | others |
/// |---|---|---|
/// | [`Convention::BuiltIn`] | [`LEGACY`], whatever was calculated | all of it at once: ambient |
/// | [`Convention::Holdfast`] | what was calculated | what the job added: ambient; the rest is a bound for programs with privileges of their own |
///
/// So in `holdfast` a job whose user is not root runs without any capability unless it names one in `cap_add`, and root has no
/// more than was calculated. `added` is `cap_add`, parsed. For the built-in `is_root` means the very word `root` as the task's
/// user; a user id of 0 is for it a user like others.
pub fn sets_of(convention: Convention, is_root: bool, calculated: Set, added: Set) -> CapabilitySets {
    let (bounding, permitted) = match (convention, is_root) {
        (Convention::BuiltIn, true) => (LEGACY, LEGACY),
        (Convention::BuiltIn, false) | (Convention::Holdfast, true) => (calculated, calculated),
        (Convention::Holdfast, false) => (calculated, added.intersection(calculated)),
    };
    CapabilitySets {
        bounding: bounding.bits(),
        permitted: permitted.bits(),
        ambient: !is_root && !permitted.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    fn refused(allow: &[&str], add: &[&str], drop: &[&str]) -> String {
        calculate(allow, add, drop).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_the_numbers_of_their_names() {
        assert_eq!(parse("allow_caps", &DEFAULTS).unwrap(), DEFAULT_SET);
        assert_eq!(DEFAULT_SET.bits().count_ones(), 13);
        assert_eq!(LEGACY.names().last(), Some("CAP_AUDIT_READ"));
    }

    #[test]
    fn a_job_gets_what_the_built_in_would_give_it() {
        let some = ["cap_net_raw", "chown", "SYS_TIME"];
        for (allow, add, drop, expected) in [
            (&DEFAULTS[..], &NONE[..], &NONE[..], DEFAULT_SET.to_string()),
            (&["all"], &[], &[], DEFAULT_SET.to_string()),
            (&[" CAP_ALL "], &[], &[], DEFAULT_SET.to_string()),
            (&some, &[], &[], "chown".to_owned()),
            (
                &some,
                &["net_raw", "sys_time"],
                &[],
                "chown, net_raw, sys_time".to_owned(),
            ),
            (&DEFAULTS, &["chown", "KILL"], &[], DEFAULT_SET.to_string()),
            (&DEFAULTS, &["", " ", "CAP_"], &[""], DEFAULT_SET.to_string()),
            (&DEFAULTS, &[], &["all"], String::new()),
            (&["all"], &["ALL"], &["all"], Set::supported().unwrap().to_string()),
            (&DEFAULTS, &["chown", "fowner"], &["all"], "chown, fowner".to_owned()),
            (
                &DEFAULTS,
                &["chown"],
                &["chown", "kill"],
                DEFAULT_SET.without(Set::of(&[5])).to_string(),
            ),
            (
                &DEFAULTS,
                &[],
                &["chown", "fowner", "CAP_KILL", "SYS_CHROOT", "mknod", "dac_override"],
                "audit_write, fsetid, net_bind_service, setfcap, setgid, setpcap, setuid".to_owned(),
            ),
            (&[], &[], &[], String::new()),
        ] {
            let set = calculate(allow, add, drop).unwrap();
            assert_eq!(set.to_string(), expected, "{allow:?} {add:?} {drop:?}");
        }
    }

    #[test]
    fn what_is_not_allowed_or_not_known_is_refused_in_the_words_of_the_built_in() {
        assert_eq!(
            refused(&DEFAULTS, &["chown", "NET_RAW", "cap_bpf"], &[]),
            "driver does not allow the following capabilities: bpf, net_raw"
        );
        let rest = Set::supported().unwrap().without(DEFAULT_SET);
        assert_eq!(
            refused(&DEFAULTS, &["all"], &[]),
            format!("driver does not allow the following capabilities: {rest}")
        );
        assert_eq!(
            refused(&DEFAULTS, &["flying", "CAP_BREATHING", "chown", "Flying"], &[]),
            "cap_add configured with capabilities not supported by system: breathing, flying"
        );
        assert_eq!(
            refused(&DEFAULTS, &[], &["cap_cap_chown"]),
            "cap_drop configured with capabilities not supported by system: cap_chown"
        );
        assert_eq!(
            refused(&["eagle"], &[], &[]),
            "allow_caps configured with capabilities not supported by system: eagle"
        );
    }

    #[test]
    fn root_has_the_legacy_set_in_exec_and_only_what_was_calculated_in_holdfast() {
        let (calculated, added) = (DEFAULT_SET.union(Set::NET_RAW), Set::NET_RAW);
        let of = |convention, is_root| {
            let CapabilitySets {
                bounding,
                permitted,
                ambient,
            } = sets_of(convention, is_root, calculated, added);
            (Set::from_bits(bounding), Set::from_bits(permitted), ambient)
        };
        assert_eq!(of(Convention::BuiltIn, true), (LEGACY, LEGACY, false));
        assert_eq!(of(Convention::BuiltIn, false), (calculated, calculated, true));
        assert_eq!(of(Convention::Holdfast, true), (calculated, calculated, false));
        assert_eq!(of(Convention::Holdfast, false), (calculated, added, true));
        let plain = sets_of(Convention::Holdfast, false, DEFAULT_SET, Set::EMPTY);
        assert_eq!((plain.permitted, plain.ambient), (0, false));
    }
}
