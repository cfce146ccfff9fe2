//! How far jobs may go on this host, by the word of its operator.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_cgroup::{Limits, MemoryMax, PidsMax, Version};
use holdfast_record::{Attributes, Ending, IoPriority, MaxRuntime, Rlimit};
use holdfast_sys::limit;
use thiserror::Error;

use crate::attributes::show_rlimit;
use crate::duration;
use crate::limits::MemoryEnforcement;

/// The operator's ceilings, by the names of the plugin's options. What a job asks for beyond them is refused. Where silence would
/// mean no limit, the ceiling is also what holds for a job that says nothing: of processes, swap, sessions and resource limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceilings {
    /// The least `oom_score_adj`.
    pub min_oom_score_adj: i32,
    /// The least `nice`.
    pub min_nice: i32,
    /// Whether `ionice` may be of the class realtime.
    pub allow_realtime_io: bool,
    /// The most that the hard limit of a resource may be, by its number.
    pub max_ulimit: BTreeMap<u32, u64>,
    /// The most `pids_limit`.
    pub max_pids_limit: Option<u64>,
    /// The `pids_limit` of a job that names none.
    pub default_pids_limit: Option<u64>,
    /// The most `memory_swap`, in bytes.
    pub max_memory_swap: Option<u64>,
    /// The most `cpu_burst`, in microseconds.
    pub max_cpu_burst_us: Option<u64>,
    /// The most `io_weight`.
    pub max_io_weight: Option<u16>,
    /// What `memory_enforcement` may be.
    pub allowed_memory_enforcement: Vec<MemoryEnforcement>,
    /// The most `max_runtime_grace`. The graces of a stop have the agent's own ceiling, `max_kill_timeout`.
    pub max_kill_grace: Option<Duration>,
    /// The most `max_sessions`.
    pub max_sessions: Option<u32>,
}

impl Default for Ceilings {
    /// What jobs of the built-in drivers can have: no precedence over others, memory limits that hold, no limit else.
    fn default() -> Self {
        Ceilings {
            min_oom_score_adj: 0,
            min_nice: 0,
            allow_realtime_io: false,
            allowed_memory_enforcement: vec![MemoryEnforcement::Hard],
            ..Ceilings::unlimited()
        }
    }
}

/// What is beyond a ceiling, or a ceiling that contradicts another. The text names the option, its value and the ceiling.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CeilingError {
    /// Too much or too little.
    #[error("{option} {value} is {beyond} the operator's {ceiling} of {bound}")]
    Beyond {
        /// The job's option.
        option: String,
        /// As it was given.
        value: String,
        /// On which side it lies.
        beyond: Beyond,
        /// The plugin's option.
        ceiling: &'static str,
        /// Its value.
        bound: String,
    },
    /// See [`Ceilings::allow_realtime_io`].
    #[error("ionice realtime:{0} is not allowed by the operator's allow_realtime_io")]
    RealtimeIo(u8),
    /// See [`Ceilings::allowed_memory_enforcement`].
    #[error("memory_enforcement {mode} is not among the operator's allowed_memory_enforcement, {allowed}")]
    MemoryEnforcement {
        /// The job's.
        mode: MemoryEnforcement,
        /// The operator's.
        allowed: String,
    },
}

/// On which side of a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// Too much.
    Above,
    /// Too little.
    Below,
}

impl fmt::Display for Beyond {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Beyond::Above => "above",
            Beyond::Below => "below",
        })
    }
}

fn beyond(
    option: impl Into<String>,
    value: impl fmt::Display,
    beyond: Beyond,
    ceiling: &'static str,
    bound: impl fmt::Display,
) -> CeilingError {
    CeilingError::Beyond {
        option: option.into(),
        value: value.to_string(),
        beyond,
        ceiling,
        bound: bound.to_string(),
    }
}

fn at_most<T: PartialOrd + fmt::Display>(
    option: &str,
    value: T,
    ceiling: &'static str,
    bound: Option<T>,
) -> Result<(), CeilingError> {
    match bound {
        Some(bound) if value > bound => Err(beyond(option, value, Beyond::Above, ceiling, bound)),
        _ => Ok(()),
    }
}

fn at_least(option: &str, value: i32, ceiling: &'static str, bound: i32) -> Result<(), CeilingError> {
    if value < bound {
        Err(beyond(option, value, Beyond::Below, ceiling, bound))
    } else {
        Ok(())
    }
}

impl Ceilings {
    /// None: for somebody who is the operator.
    pub fn unlimited() -> Ceilings {
        Ceilings {
            min_oom_score_adj: -1000,
            min_nice: -20,
            allow_realtime_io: true,
            max_ulimit: BTreeMap::new(),
            max_pids_limit: None,
            default_pids_limit: None,
            max_memory_swap: None,
            max_cpu_burst_us: None,
            max_io_weight: None,
            allowed_memory_enforcement: MemoryEnforcement::ALL.to_vec(),
            max_kill_grace: None,
            max_sessions: None,
        }
    }

    /// Whether they can be kept by a job that says nothing.
    pub fn check(&self) -> Result<(), CeilingError> {
        match self.default_pids_limit {
            Some(default) => at_most("default_pids_limit", default, "max_pids_limit", self.max_pids_limit),
            None => Ok(()),
        }
    }

    /// Of the score.
    pub fn check_oom_score_adj(&self, score: i32) -> Result<(), CeilingError> {
        at_least("oom_score_adj", score, "min_oom_score_adj", self.min_oom_score_adj)
    }

    /// Of priorities and of the resource limits that a job names.
    pub fn check_attributes(&self, attributes: &Attributes) -> Result<(), CeilingError> {
        let Attributes {
            umask: _,
            nice,
            io_priority,
            rlimits,
        } = attributes;
        at_least("nice", *nice, "min_nice", self.min_nice)?;
        match io_priority {
            Some(IoPriority::Realtime(level)) if !self.allow_realtime_io => {
                return Err(CeilingError::RealtimeIo(*level));
            }
            Some(IoPriority::Realtime(_) | IoPriority::BestEffort(_) | IoPriority::Idle) | None => {}
        }
        for asked in rlimits {
            match self.max_ulimit.get(&asked.resource) {
                Some(most) if asked.hard > *most => {
                    let name = limit::name(asked.resource).unwrap_or("of an unknown number");
                    let bound = Rlimit {
                        resource: asked.resource,
                        soft: *most,
                        hard: *most,
                    };
                    return Err(beyond(
                        format!("ulimit {name}"),
                        show_rlimit(asked),
                        Beyond::Above,
                        "max_ulimit",
                        show_rlimit(&bound),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Of the end.
    pub fn check_ending(&self, ending: &Ending) -> Result<(), CeilingError> {
        match (&ending.max_runtime, self.max_kill_grace) {
            (Some(MaxRuntime { grace_ms, .. }), Some(most)) if Duration::from_millis(*grace_ms) > most => Err(beyond(
                "max_runtime_grace",
                duration::format(Duration::from_millis(*grace_ms)),
                Beyond::Above,
                "max_kill_grace",
                duration::format(most),
            )),
            _ => Ok(()),
        }
    }

    /// How many sessions a task may have; 0: no cap.
    pub fn sessions(&self, asked: u32) -> Result<u32, CeilingError> {
        match (asked, self.max_sessions) {
            (0, most) => Ok(most.unwrap_or(0)),
            (asked, most) => at_most("max_sessions", asked, "max_sessions", most).map(|()| asked),
        }
    }

    /// Of `memory_enforcement`.
    pub fn check_memory_enforcement(&self, mode: MemoryEnforcement) -> Result<(), CeilingError> {
        if self.allowed_memory_enforcement.contains(&mode) {
            return Ok(());
        }
        let allowed = self.allowed_memory_enforcement.iter().map(ToString::to_string);
        Err(CeilingError::MemoryEnforcement {
            mode,
            allowed: allowed.collect::<Vec<_>>().join(", "),
        })
    }

    /// Limits that a job asked for, with what the operator sets where it is silent. On v1 swap cannot be limited beside memory that
    /// is not, and is then left alone.
    pub fn limits(&self, asked: Limits, version: Option<Version>) -> Result<Limits, CeilingError> {
        let Ceilings {
            max_pids_limit,
            default_pids_limit,
            max_memory_swap,
            max_cpu_burst_us,
            max_io_weight,
            ..
        } = self;
        let mut limits = asked;
        match (limits.pids_max, max_pids_limit) {
            (None, most) => limits.pids_max = default_pids_limit.or(*most).map(PidsMax::Count),
            (Some(PidsMax::Count(count)), most) => at_most("pids_limit", count, "max_pids_limit", *most)?,
            (Some(PidsMax::Unlimited), Some(most)) => {
                return Err(beyond("pids_limit", -1, Beyond::Above, "max_pids_limit", most));
            }
            (Some(PidsMax::Unlimited), None) => {}
        }
        let can_limit_swap = version != Some(Version::V1) || matches!(limits.memory_max, Some(MemoryMax::Bytes(_)));
        match (limits.memory_swap, max_memory_swap) {
            (None, Some(most)) if can_limit_swap => limits.memory_swap = Some(MemoryMax::Bytes(*most)),
            (Some(MemoryMax::Bytes(bytes)), most) => {
                at_most("memory_swap", Bytes(bytes), "max_memory_swap", most.map(Bytes))?;
            }
            (Some(MemoryMax::Unlimited), Some(most)) => {
                return Err(beyond(
                    "memory_swap",
                    "unlimited",
                    Beyond::Above,
                    "max_memory_swap",
                    Bytes(*most),
                ));
            }
            (None, _) | (Some(MemoryMax::Unlimited), None) => {}
        }
        if let Some(burst) = limits.cpu_burst_us {
            at_most("cpu_burst", burst, "max_cpu_burst", *max_cpu_burst_us)?;
        }
        if let Some(weight) = limits.io_weight {
            at_most("io_weight", weight, "max_io_weight", *max_io_weight)?;
        }
        Ok(limits)
    }
}

#[derive(PartialEq, PartialOrd)]
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::parse_ulimit;

    fn tight() -> Ceilings {
        Ceilings {
            max_ulimit: BTreeMap::from([(7, 1000)]),
            max_pids_limit: Some(500),
            max_memory_swap: Some(1 << 20),
            max_cpu_burst_us: Some(10),
            max_io_weight: Some(200),
            max_kill_grace: Some(Duration::from_secs(30)),
            max_sessions: Some(8),
            ..Ceilings::default()
        }
    }

    fn message<T: fmt::Debug>(answer: Result<T, CeilingError>) -> String {
        answer.unwrap_err().to_string()
    }

    #[test]
    fn what_is_beyond_is_refused_with_option_value_and_ceiling() {
        let tight = tight();
        let attributes = |nice, io_priority, rlimit: &str| Attributes {
            nice,
            io_priority,
            rlimits: vec![parse_ulimit("nofile", rlimit).unwrap()],
            ..Attributes::default()
        };
        let limits = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            tight.limits(limits, Some(Version::V2))
        };
        let runtime = |grace_ms| Ending {
            max_runtime: Some(MaxRuntime {
                limit_ms: 1,
                signal: 15,
                grace_ms,
            }),
            ..Ending::default()
        };
        let table = [
            (
                message(tight.check_oom_score_adj(-1)),
                "oom_score_adj -1 is below the operator's min_oom_score_adj of 0",
            ),
            (
                message(tight.check_attributes(&attributes(-1, None, "5"))),
                "nice -1 is below the operator's min_nice of 0",
            ),
            (
                message(tight.check_attributes(&attributes(0, Some(IoPriority::Realtime(3)), "5"))),
                "ionice realtime:3 is not allowed by the operator's allow_realtime_io",
            ),
            (
                message(tight.check_attributes(&attributes(0, None, "5:1001"))),
                "ulimit nofile 5:1001 is above the operator's max_ulimit of 1000",
            ),
            (
                message(tight.check_attributes(&attributes(0, None, "unlimited"))),
                "ulimit nofile unlimited is above the operator's max_ulimit of 1000",
            ),
            (
                message(tight.check_ending(&runtime(30_001))),
                "max_runtime_grace 30.001s is above the operator's max_kill_grace of 30s",
            ),
            (
                message(tight.sessions(9)),
                "max_sessions 9 is above the operator's max_sessions of 8",
            ),
            (
                message(tight.check_memory_enforcement(MemoryEnforcement::None)),
                "memory_enforcement none is not among the operator's allowed_memory_enforcement, hard",
            ),
            (
                message(limits(|limits| limits.pids_max = Some(PidsMax::Count(501)))),
                "pids_limit 501 is above the operator's max_pids_limit of 500",
            ),
            (
                message(limits(|limits| limits.pids_max = Some(PidsMax::Unlimited))),
                "pids_limit -1 is above the operator's max_pids_limit of 500",
            ),
            (
                message(limits(|limits| limits.memory_swap = Some(MemoryMax::Bytes(1_048_577)))),
                "memory_swap 1048577 bytes is above the operator's max_memory_swap of 1048576 bytes",
            ),
            (
                message(limits(|limits| limits.memory_swap = Some(MemoryMax::Unlimited))),
                "memory_swap unlimited is above the operator's max_memory_swap of 1048576 bytes",
            ),
            (
                message(limits(|limits| limits.cpu_burst_us = Some(11))),
                "cpu_burst 11 is above the operator's max_cpu_burst of 10",
            ),
            (
                message(limits(|limits| limits.io_weight = Some(201))),
                "io_weight 201 is above the operator's max_io_weight of 200",
            ),
            (
                message(
                    Ceilings {
                        default_pids_limit: Some(501),
                        ..tight.clone()
                    }
                    .check(),
                ),
                "default_pids_limit 501 is above the operator's max_pids_limit of 500",
            ),
        ];
        for (message, expected) in table {
            assert_eq!(message, expected);
        }
        let at_the_edge = Limits {
            pids_max: Some(PidsMax::Count(500)),
            memory_swap: Some(MemoryMax::Bytes(1 << 20)),
            cpu_burst_us: Some(10),
            io_weight: Some(200),
            ..Limits::default()
        };
        assert_eq!(tight.limits(at_the_edge.clone(), None), Ok(at_the_edge));
        assert_eq!(
            tight.check_attributes(&attributes(0, Some(IoPriority::Idle), "5:1000")),
            Ok(())
        );
        assert_eq!(tight.check_ending(&runtime(30_000)), Ok(()));
        assert_eq!((tight.check(), tight.sessions(8)), (Ok(()), Ok(8)));
    }

    #[test]
    fn a_ceiling_holds_for_jobs_that_say_nothing() {
        let silent = |ceilings: &Ceilings, version, memory_max| {
            let asked = Limits {
                memory_max,
                ..Limits::default()
            };
            ceilings.limits(asked, version).unwrap()
        };
        let tight = tight();
        let limits = silent(&tight, Some(Version::V2), None);
        assert_eq!(limits.pids_max, Some(PidsMax::Count(500)));
        assert_eq!(limits.memory_swap, Some(MemoryMax::Bytes(1 << 20)));
        assert_eq!(tight.sessions(0), Ok(8));
        assert_eq!(silent(&tight, Some(Version::V1), None).memory_swap, None);
        assert!(
            silent(&tight, Some(Version::V1), Some(MemoryMax::Bytes(5)))
                .memory_swap
                .is_some()
        );
        let with_default = Ceilings {
            default_pids_limit: Some(100),
            ..tight
        };
        assert_eq!(silent(&with_default, None, None).pids_max, Some(PidsMax::Count(100)));
        assert_eq!(silent(&Ceilings::default(), None, None), Limits::default());
        assert_eq!(Ceilings::default().sessions(0), Ok(0));
    }

    #[test]
    fn an_operator_without_ceilings_allows_everything() {
        let none = Ceilings::unlimited();
        assert_eq!(none.check_oom_score_adj(-1000), Ok(()));
        for mode in MemoryEnforcement::ALL {
            assert_eq!(none.check_memory_enforcement(mode), Ok(()));
        }
        let attributes = Attributes {
            nice: -20,
            io_priority: Some(IoPriority::Realtime(0)),
            rlimits: vec![parse_ulimit("nofile", "unlimited").unwrap()],
            ..Attributes::default()
        };
        assert_eq!(none.check_attributes(&attributes), Ok(()));
    }
}
