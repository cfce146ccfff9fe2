//! What a task is started with is what its job says, else what is documented here, and never what the agent happens to run with
//! (contract, pains 25 and 26).

use std::fmt;

use holdfast_record::{Attributes, IoPriority, Rlimit};
use holdfast_sys::limit;
use thiserror::Error;

use crate::attributes::show_rlimit;
use crate::ceilings::Ceilings;
use crate::privileges::Privileges;

const MIB: u64 = 1 << 20;
const NONE: u64 = Rlimit::UNLIMITED;

/// Soft and hard limits of a task that names none, by number. They are those of a freshly booted Linux (asm-generic/resource.h,
/// INIT_RLIMITS), but for `nofile`, where the kernel's 1024 is too few for servers and more breaks programs that walk through all
/// numbers, and `nproc`, which the kernel derives from its memory. `sigpending` is left as it is: it, too, is the host's size.
pub const DEFAULTS: [(&str, u64, u64); 15] = [
    ("cpu", NONE, NONE),
    ("fsize", NONE, NONE),
    ("data", NONE, NONE),
    ("stack", 8 * MIB, NONE),
    ("core", 0, NONE),
    ("rss", NONE, NONE),
    ("nproc", NONE, NONE),
    ("nofile", 65_536, 524_288),
    ("memlock", 8 * MIB, 8 * MIB),
    ("as", NONE, NONE),
    ("locks", NONE, NONE),
    ("msgqueue", 819_200, 819_200),
    ("nice", 0, 0),
    ("rtprio", 0, 0),
    ("rttime", NONE, NONE),
];

/// What a job asked for and this process cannot give. The text names it and what stands against it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttributeRefusal {
    /// The kernel would refuse it.
    #[error("ulimit {name} {value} cannot be had: {reason} is {most}")]
    Ulimit {
        /// Of the limit.
        name: &'static str,
        /// As it was given.
        value: String,
        /// What stands against it.
        reason: &'static str,
        /// Its value.
        most: String,
    },
    /// Two entries for one resource.
    #[error("ulimit {0} is given twice")]
    Twice(&'static str),
    /// The kernel knows no such resource.
    #[error("{0} is the number of no resource limit")]
    Unknown(u32),
    /// The kernel would refuse it.
    #[error("nice {nice} cannot be had: this process may go down to {least}")]
    Nice {
        /// As it was given.
        nice: i32,
        /// What may be had.
        least: i32,
    },
    /// The kernel would refuse it.
    #[error("oom_score_adj {score} cannot be had: this process may go down to {least}")]
    OomScoreAdj {
        /// As it was given.
        score: i32,
        /// What may be had.
        least: i32,
    },
    /// The kernel would refuse it.
    #[error("ionice realtime:{0} cannot be had: this process has neither CAP_SYS_NICE nor CAP_SYS_ADMIN")]
    RealtimeIo(u8),
}

/// What becomes of a wish that cannot be fulfilled.
#[derive(Debug)]
pub struct Wishes<'a> {
    /// What this process can give.
    pub privileges: &'a Privileges,
    /// It is an error; else it is lowered, with a warning.
    pub strict: bool,
    /// Where warnings go.
    pub warnings: &'a mut Vec<String>,
}

impl Wishes<'_> {
    fn refuse(&mut self, refusal: AttributeRefusal, instead: impl fmt::Display) -> Result<(), AttributeRefusal> {
        if self.strict {
            return Err(refusal);
        }
        self.warnings.push(format!("{refusal}; it is {instead}"));
        Ok(())
    }

    /// A score. Only of one below zero is it sure that nobody may lower it as far without a privilege.
    pub fn oom_score_adj(&mut self, score: i32) -> Result<i32, AttributeRefusal> {
        let least = self.privileges.least_oom_score_adj;
        if score >= least.min(0) {
            return Ok(score);
        }
        self.refuse(AttributeRefusal::OomScoreAdj { score, least }, least)?;
        Ok(least)
    }
}

/// What a task is started with, of what its job asked for.
///
/// With `inherit`, limits that the job does not name stay this process's; else they are [`DEFAULTS`], lowered without a word to what
/// this process can give and to the operator's ceiling.
pub fn settle(
    asked: Attributes,
    inherit: bool,
    ceilings: &Ceilings,
    wishes: &mut Wishes<'_>,
) -> Result<Attributes, AttributeRefusal> {
    let Attributes {
        umask,
        mut nice,
        mut io_priority,
        rlimits,
    } = asked;
    let privileges = wishes.privileges;
    let mut settled: Vec<Rlimit> = Vec::new();
    for limit in rlimits {
        let name = limit::name(limit.resource).ok_or(AttributeRefusal::Unknown(limit.resource))?;
        if settled.iter().any(|other| other.resource == limit.resource) {
            return Err(AttributeRefusal::Twice(name));
        }
        let (most, reason) = privileges.most(limit.resource);
        let lowered = at_most(limit, most);
        if lowered != limit {
            let refusal = AttributeRefusal::Ulimit {
                name,
                value: show_rlimit(&limit),
                reason,
                most: show_rlimit(&at_most(UNLIMITED, most)),
            };
            wishes.refuse(refusal, show_rlimit(&lowered))?;
        }
        settled.push(lowered);
    }
    // Nobody asks for 0: it is what a task has whose job says nothing, also where the agent itself was made nice.
    if nice == 0 {
        nice = nice.max(privileges.least_nice);
    } else if nice < privileges.least_nice {
        let least = privileges.least_nice;
        wishes.refuse(AttributeRefusal::Nice { nice, least }, least)?;
        nice = least;
    }
    if let Some(IoPriority::Realtime(level)) = io_priority
        && !privileges.may_have_realtime_io
    {
        wishes.refuse(AttributeRefusal::RealtimeIo(level), "best-effort:0")?;
        io_priority = Some(IoPriority::BestEffort(0));
    }

    for (name, soft, hard) in DEFAULTS.iter().filter(|_| !inherit) {
        let resource = limit::number(name).expect("the defaults are those of limits that there are");
        if settled.iter().all(|limit| limit.resource != resource) {
            let ceiling = ceilings.max_ulimit.get(&resource).copied().unwrap_or(NONE);
            let default = Rlimit {
                resource,
                soft: *soft,
                hard: *hard,
            };
            settled.push(at_most(default, ceiling.min(privileges.most(resource).0)));
        }
    }
    // What has no default, or is inherited, has a ceiling all the same.
    for (resource, ceiling) in &ceilings.max_ulimit {
        let own = privileges.hard_limits.get(*resource as usize);
        if own.is_some_and(|own| own > ceiling) && settled.iter().all(|limit| limit.resource != *resource) {
            settled.push(Rlimit {
                resource: *resource,
                soft: *ceiling,
                hard: *ceiling,
            });
        }
    }
    settled.sort_by_key(|limit| limit.resource);
    Ok(Attributes {
        umask,
        nice,
        io_priority,
        rlimits: settled,
    })
}

const UNLIMITED: Rlimit = Rlimit {
    resource: 0,
    soft: NONE,
    hard: NONE,
};

fn at_most(limit: Rlimit, most: u64) -> Rlimit {
    let Rlimit { resource, soft, hard } = limit;
    Rlimit {
        resource,
        soft: soft.min(most),
        hard: hard.min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::parse_ulimit;

    fn root() -> Privileges {
        Privileges {
            may_raise_limits: true,
            may_have_realtime_io: true,
            least_nice: -20,
            least_oom_score_adj: -1000,
            hard_limits: vec![1000; 16],
            nr_open: 1 << 20,
        }
    }

    fn plain() -> Privileges {
        Privileges {
            may_raise_limits: false,
            may_have_realtime_io: false,
            least_nice: 5,
            least_oom_score_adj: 100,
            hard_limits: vec![1000; 16],
            nr_open: 1 << 20,
        }
    }

    fn settle(
        asked: Attributes,
        inherit: bool,
        ceilings: &Ceilings,
        privileges: &Privileges,
        strict: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Attributes, AttributeRefusal> {
        let mut wishes = Wishes {
            privileges,
            strict,
            warnings,
        };
        super::settle(asked, inherit, ceilings, &mut wishes)
    }

    fn asking(limits: &[(&str, &str)]) -> Attributes {
        Attributes {
            rlimits: limits
                .iter()
                .map(|(name, value)| parse_ulimit(name, value).unwrap())
                .collect(),
            ..Attributes::default()
        }
    }

    fn shown(attributes: &Attributes, name: &str) -> Option<String> {
        let resource = limit::number(name).unwrap();
        let limit = attributes.rlimits.iter().find(|limit| limit.resource == resource);
        limit.map(show_rlimit)
    }

    #[test]
    fn a_task_that_names_no_limit_has_the_documented_ones_pain_25() {
        let mut warnings = Vec::new();
        let mut silent = |privileges: &Privileges, ceilings: &Ceilings| {
            settle(Attributes::default(), false, ceilings, privileges, true, &mut warnings).unwrap()
        };
        let free = silent(&root(), &Ceilings::default());
        let table = [
            ("nofile", "65536:524288"),
            ("core", "0:unlimited"),
            ("memlock", "8388608"),
            ("stack", "8388608:unlimited"),
            ("nproc", "unlimited"),
            ("msgqueue", "819200"),
            ("nice", "0"),
            ("rtprio", "0"),
        ];
        for (name, value) in table {
            assert_eq!(shown(&free, name).as_deref(), Some(value), "{name}");
        }
        for name in limit::names().filter(|name| table.iter().all(|(listed, _)| listed != name)) {
            let expected = (name != "sigpending").then_some("unlimited");
            assert_eq!(shown(&free, name).as_deref(), expected, "{name}");
        }
        let bound = silent(&plain(), &Ceilings::default());
        assert_eq!(shown(&bound, "nofile").as_deref(), Some("1000"));
        assert_eq!(shown(&bound, "core").as_deref(), Some("0:1000"));
        let mut ceilings = Ceilings::default();
        ceilings.max_ulimit.insert(7, 70_000);
        ceilings.max_ulimit.insert(11, 50);
        let under = silent(&root(), &ceilings);
        assert_eq!(shown(&under, "nofile").as_deref(), Some("65536:70000"));
        assert_eq!(shown(&under, "sigpending").as_deref(), Some("50"));
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn what_was_asked_for_goes_over_the_defaults() {
        let asked = asking(&[("nofile", "10:20"), ("sigpending", "7")]);
        let settled = settle(asked, false, &Ceilings::default(), &root(), true, &mut Vec::new()).unwrap();
        assert_eq!(shown(&settled, "nofile").as_deref(), Some("10:20"));
        assert_eq!(shown(&settled, "sigpending").as_deref(), Some("7"));
        assert_eq!(settled.rlimits.len(), 16);
    }

    #[test]
    fn who_keeps_their_own_limits_has_only_those_that_they_name() {
        let asked = asking(&[("core", "0")]);
        let settled = settle(
            asked.clone(),
            true,
            &Ceilings::unlimited(),
            &plain(),
            true,
            &mut Vec::new(),
        );
        assert_eq!(settled.unwrap().rlimits, asked.rlimits);
    }

    #[test]
    fn what_cannot_be_had_is_an_error_or_a_warning_and_never_silence() {
        let table = [
            (
                asking(&[("nofile", "10:2000")]),
                plain(),
                "ulimit nofile 10:2000 cannot be had: this process's own hard limit, which it may not raise, is 1000",
                "10:1000",
            ),
            (
                asking(&[("memlock", "unlimited")]),
                plain(),
                "ulimit memlock unlimited cannot be had: this process's own hard limit, which it may not raise, is 1000",
                "1000",
            ),
            (
                asking(&[("nofile", "unlimited")]),
                root(),
                "ulimit nofile unlimited cannot be had: fs.nr_open is 1048576",
                "1048576",
            ),
            (
                Attributes {
                    nice: -5,
                    ..Attributes::default()
                },
                plain(),
                "nice -5 cannot be had: this process may go down to 5",
                "5",
            ),
            (
                Attributes {
                    io_priority: Some(IoPriority::Realtime(2)),
                    ..Attributes::default()
                },
                plain(),
                "ionice realtime:2 cannot be had: this process has neither CAP_SYS_NICE nor CAP_SYS_ADMIN",
                "best-effort:0",
            ),
        ];
        for (asked, privileges, message, instead) in table {
            let attempt = |strict, warnings: &mut Vec<String>| {
                settle(
                    asked.clone(),
                    false,
                    &Ceilings::unlimited(),
                    &privileges,
                    strict,
                    warnings,
                )
            };
            let mut warnings = Vec::new();
            assert_eq!(attempt(true, &mut warnings).unwrap_err().to_string(), message);
            let settled = attempt(false, &mut warnings).unwrap();
            assert_eq!(warnings, [format!("{message}; it is {instead}")]);
            // What was lowered can be had.
            let again = settle(
                settled.clone(),
                false,
                &Ceilings::unlimited(),
                &privileges,
                true,
                &mut Vec::new(),
            );
            assert_eq!(again, Ok(settled));
        }
        let twice = Attributes {
            rlimits: [asking(&[("core", "0")]).rlimits, asking(&[("core", "1")]).rlimits].concat(),
            ..Attributes::default()
        };
        let unknown = Attributes {
            rlimits: vec![Rlimit {
                resource: 16,
                soft: 0,
                hard: 0,
            }],
            ..Attributes::default()
        };
        for (asked, message) in [
            (twice, "ulimit core is given twice"),
            (unknown, "16 is the number of no resource limit"),
        ] {
            let answer = settle(asked, false, &Ceilings::unlimited(), &root(), false, &mut Vec::new());
            assert_eq!(answer.unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_task_of_an_agent_that_was_made_nice_starts_and_is_as_nice() {
        let mut warnings = Vec::new();
        let settled = settle(
            Attributes::default(),
            false,
            &Ceilings::default(),
            &plain(),
            true,
            &mut warnings,
        );
        assert_eq!((settled.unwrap().nice, warnings.len()), (5, 0));
    }

    #[test]
    fn a_score_that_cannot_be_had_is_named_pain_26() {
        let score = |privileges: &Privileges, strict, score, warnings: &mut Vec<String>| {
            let mut wishes = Wishes {
                privileges,
                strict,
                warnings,
            };
            wishes.oom_score_adj(score).map_err(|error| error.to_string())
        };
        let message = "oom_score_adj -5 cannot be had: this process may go down to 100";
        let mut warnings = Vec::new();
        assert_eq!(score(&root(), true, -1000, &mut warnings), Ok(-1000));
        assert_eq!(score(&plain(), true, 0, &mut warnings), Ok(0));
        assert_eq!(score(&plain(), true, -5, &mut warnings), Err(message.to_owned()));
        assert_eq!(warnings, [""; 0]);
        assert_eq!(score(&plain(), false, -5, &mut warnings), Ok(100));
        assert_eq!(warnings, [format!("{message}; it is 100")]);
    }
}
