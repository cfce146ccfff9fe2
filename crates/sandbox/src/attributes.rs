//! Umask, resource limits and priorities, in the job's words.

use holdfast_record::{IoPriority, Rlimit};
use holdfast_sys::limit;
use thiserror::Error;

/// Level of a class of ionice(1) that is named without one.
const DEFAULT_LEVEL: u8 = 4;
/// The weakest level (ioprio_set(2)).
const LAST_LEVEL: u8 = 7;

/// Why an attribute means nothing. The text names the option and its value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttributeError {
    /// See [`parse_umask`].
    #[error("umask {0:?} is not an octal number from 000 to 777 such as \"027\"")]
    Umask(String),
    /// See [`limit::names`].
    #[error("ulimit {name:?} is no resource limit; there are {}", known_limits())]
    UnknownLimit {
        /// As it was given.
        name: String,
    },
    /// See [`parse_ulimit`].
    #[error("ulimit {name} = {value:?} is not a number, \"unlimited\" or two of them as in \"4096:65536\"")]
    LimitValue {
        /// Of the limit.
        name: String,
        /// As it was given.
        value: String,
    },
    /// The kernel takes none such.
    #[error("ulimit {name} = {value:?} has a soft limit above the hard one")]
    SoftAboveHard {
        /// Of the limit.
        name: String,
        /// As it was given.
        value: String,
    },
    /// See [`parse_io_priority`].
    #[error(
        "ionice {0:?} is none of \"idle\", \"best-effort:LEVEL\" and \"realtime:LEVEL\" with a level from 0, the \
         first, to {LAST_LEVEL}"
    )]
    IoPriority(String),
    /// See [`check_nice`].
    #[error("nice {0} is not between -20 and 19")]
    Nice(i64),
}

fn known_limits() -> String {
    limit::names().collect::<Vec<_>>().join(", ")
}

/// `umask`: octal, as in `027` or `0o27`, up to 777 (umask(2)).
pub fn parse_umask(value: &str) -> Result<u32, AttributeError> {
    let digits = value.strip_prefix("0o").unwrap_or(value);
    let is_octal = !digits.is_empty() && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mask = is_octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    mask.filter(|mask| *mask <= 0o777)
        .ok_or_else(|| AttributeError::Umask(value.to_owned()))
}

/// One entry of `ulimit`: the name as prlimit(1) has it, and the soft and the hard limit with a colon between, or one number for
/// both; `unlimited` is none. The units are those of getrlimit(2): bytes, seconds, counts.
pub fn parse_ulimit(name: &str, value: &str) -> Result<Rlimit, AttributeError> {
    let resource = limit::number(name).ok_or_else(|| AttributeError::UnknownLimit { name: name.to_owned() })?;
    let bound = |text: &str| match text {
        "unlimited" => Ok(Rlimit::UNLIMITED),
        digits => Some(digits)
            // No sign, which `parse` would take.
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| *number != Rlimit::UNLIMITED)
            .ok_or_else(|| AttributeError::LimitValue {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
    };
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (soft, hard) = (bound(soft)?, bound(hard)?);
    if soft > hard {
        return Err(AttributeError::SoftAboveHard {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(Rlimit { resource, soft, hard })
}

/// A limit as [`parse_ulimit`] reads it, without its name.
pub fn show_rlimit(limit: &Rlimit) -> String {
    let Rlimit {
        resource: _,
        soft,
        hard,
    } = limit;
    let bound = |bound: u64| match bound {
        Rlimit::UNLIMITED => "unlimited".to_owned(),
        number => number.to_string(),
    };
    if soft == hard {
        bound(*soft)
    } else {
        format!("{}:{}", bound(*soft), bound(*hard))
    }
}

/// `ionice` in the words of ionice(1): `idle`, `best-effort` or `realtime`, the latter two with a level from 0, the first, to
/// 7; without one it is 4.
pub fn parse_io_priority(value: &str) -> Result<IoPriority, AttributeError> {
    let wrong = || AttributeError::IoPriority(value.to_owned());
    let (class, level) = match value.split_once(':') {
        Some((class, level)) => (class, Some(level)),
        None => (value, None),
    };
    let level = match level {
        None => None,
        Some(level) => match level.as_bytes() {
            [digit @ b'0'..=b'7'] => Some(digit - b'0'),
            _ => return Err(wrong()),
        },
    };
    match (class, level) {
        ("idle", None) => Ok(IoPriority::Idle),
        ("best-effort", level) => Ok(IoPriority::BestEffort(level.unwrap_or(DEFAULT_LEVEL))),
        ("realtime", level) => Ok(IoPriority::Realtime(level.unwrap_or(DEFAULT_LEVEL))),
        _ => Err(wrong()),
    }
}

/// `nice`: from -20, the first, to 19 (setpriority(2)).
pub fn check_nice(value: i64) -> Result<i32, AttributeError> {
    i32::try_from(value)
        .ok()
        .filter(|nice| (-20..=19).contains(nice))
        .ok_or(AttributeError::Nice(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_umask_is_octal() {
        for (text, mask) in [
            ("0", 0),
            ("022", 0o022),
            ("0027", 0o027),
            ("27", 0o027),
            ("0o27", 0o027),
            ("777", 0o777),
            ("0o000", 0),
        ] {
            assert_eq!(parse_umask(text), Ok(mask), "{text:?}");
        }
        for text in [
            "",
            "0o",
            "8",
            "028",
            "1000",
            "-1",
            "+22",
            "0x1f",
            " 22",
            "u=rwx",
            "777777777777",
        ] {
            assert_eq!(
                parse_umask(text).unwrap_err().to_string(),
                format!("umask {text:?} is not an octal number from 000 to 777 such as \"027\"")
            );
        }
    }

    #[test]
    fn a_ulimit_is_one_number_or_two() {
        const NONE: u64 = Rlimit::UNLIMITED;
        for (name, text, resource, soft, hard) in [
            ("nofile", "4096:65536", 7, 4096, 65536),
            ("nofile", "4096", 7, 4096, 4096),
            ("core", "0", 4, 0, 0),
            ("core", "0:unlimited", 4, 0, NONE),
            ("memlock", "unlimited", 8, NONE, NONE),
            ("sigpending", "5:5", 11, 5, 5),
            ("as", "18446744073709551614", 9, NONE - 1, NONE - 1),
        ] {
            let limit = Rlimit { resource, soft, hard };
            assert_eq!(parse_ulimit(name, text), Ok(limit), "{name} {text}");
            assert_eq!(parse_ulimit(name, &show_rlimit(&limit)), Ok(limit), "{name} {text}");
        }
        for text in [
            "",
            ":",
            "5:",
            ":5",
            "-1",
            "+5",
            "1:2:3",
            "4k",
            "1.5",
            " 5",
            "infinity",
            "18446744073709551615",
            "99999999999999999999",
        ] {
            assert_eq!(
                parse_ulimit("nofile", text).unwrap_err().to_string(),
                format!("ulimit nofile = {text:?} is not a number, \"unlimited\" or two of them as in \"4096:65536\"")
            );
        }
        for text in ["2:1", "unlimited:5"] {
            assert_eq!(
                parse_ulimit("nproc", text).unwrap_err().to_string(),
                format!("ulimit nproc = {text:?} has a soft limit above the hard one")
            );
        }
        for name in ["", "files", "NOFILE", "RLIMIT_NOFILE"] {
            assert_eq!(
                parse_ulimit(name, "1").unwrap_err().to_string(),
                format!(
                    "ulimit {name:?} is no resource limit; there are cpu, fsize, data, stack, core, rss, nproc, nofile, \
                     memlock, as, locks, sigpending, msgqueue, nice, rtprio, rttime"
                )
            );
        }
    }

    #[test]
    fn an_io_priority_is_in_the_words_of_ionice() {
        for (text, priority) in [
            ("idle", IoPriority::Idle),
            ("best-effort:3", IoPriority::BestEffort(3)),
            ("best-effort", IoPriority::BestEffort(4)),
            ("realtime:0", IoPriority::Realtime(0)),
            ("realtime:7", IoPriority::Realtime(7)),
        ] {
            assert_eq!(parse_io_priority(text), Ok(priority), "{text}");
        }
        for text in [
            "",
            "none",
            "idle:0",
            "realtime:8",
            "realtime:-1",
            "best-effort:",
            "best-effort:03",
            "Idle",
            "3",
        ] {
            assert_eq!(
                parse_io_priority(text).unwrap_err().to_string(),
                format!(
                    "ionice {text:?} is none of \"idle\", \"best-effort:LEVEL\" and \"realtime:LEVEL\" with a level \
                     from 0, the first, to 7"
                )
            );
        }
    }

    #[test]
    fn nice_has_a_range() {
        for value in [-20, 0, 19] {
            assert_eq!(check_nice(value).map(i64::from), Ok(value));
        }
        for value in [-21, 20, i64::MIN, i64::MAX] {
            assert_eq!(
                check_nice(value).unwrap_err().to_string(),
                format!("nice {value} is not between -20 and 19")
            );
        }
    }
}
