//! What was found, for a person or for a program.

use std::fmt;

use holdfast_sandbox::host::Host;
use serde::Serialize;

use crate::fingerprint::can_run;
use crate::plugin_name::PluginName;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Tasks run, and something does not work or will not for long.
    Limited,
    /// Not there.
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Missing => "missing",
        }
    }
}

/// What belongs together in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Kernel, user, capabilities, the agent.
    Host,
    /// Where tasks are counted, limited and killed.
    Cgroups,
    /// What keeps tasks apart from the host, and which profiles that is enough for.
    Isolation,
    /// Numbers that end in "too many".
    Limits,
    /// Where users come from.
    Users,
    /// Folders.
    Paths,
}

impl Group {
    fn title(self) -> &'static str {
        match self {
            Group::Host => "Host",
            Group::Cgroups => "Cgroups",
            Group::Isolation => "Isolation",
            Group::Limits => "Limits",
            Group::Users => "Users",
            Group::Paths => "Paths",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Where it belongs.
    pub group: Group,
    /// A name that stays.
    pub what: &'static str,
    /// How good it is.
    pub state: State,
    /// What was seen, or why it is not as it should be.
    pub why: String,
    /// What a person can do about it.
    #[serde(rename = "change")]
    pub what_to_change: Option<String>,
    /// Without it no task can be started, by drivers of this group of checks or of any.
    #[serde(skip)]
    pub is_vital: bool,
}

impl Check {
    /// As it should be.
    pub fn ok(group: Group, what: &'static str, seen: impl Into<String>) -> Check {
        Check {
            group,
            what,
            state: State::Ok,
            why: seen.into(),
            what_to_change: None,
            is_vital: false,
        }
    }

    /// Something does not work.
    pub fn limited(group: Group, what: &'static str, why: impl Into<String>, change: impl Into<String>) -> Check {
        Check {
            state: State::Limited,
            what_to_change: Some(change.into()).filter(|change| !change.is_empty()),
            ..Check::ok(group, what, why)
        }
    }

    /// Not there.
    pub fn missing(group: Group, what: &'static str, why: impl Into<String>, change: impl Into<String>) -> Check {
        Check {
            state: State::Missing,
            ..Check::limited(group, what, why, change)
        }
    }

    /// Without it no task runs.
    pub fn vital(self) -> Check {
        Check { is_vital: true, ..self }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The driver in question.
    pub driver: &'static str,
    /// Tasks of it can be started.
    pub can_run: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// All that was looked at, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Judges what was found.
    pub fn new(name: PluginName, checks: Vec<Check>, host: &Host) -> Report {
        let refusal = can_run(name.profile(), host).err().map(|refusal| refusal.to_string());
        let missing = checks
            .iter()
            .filter(|check| check.is_vital && check.state == State::Missing)
            .map(|check| check.why.clone());
        let reasons: Vec<String> = refusal.into_iter().chain(missing).collect();
        Report {
            driver: name.as_str(),
            can_run: reasons.is_empty(),
            reasons,
            checks,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            driver,
            can_run: _,
            reasons,
            checks,
        } = self;
        let width = checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
        let mut group = None;
        for check in checks {
            if group != Some(check.group) {
                let gap = if group.is_some() { "\n" } else { "" };
                writeln!(out, "{gap}{}", check.group.title())?;
                group = Some(check.group);
            }
            writeln!(out, "  {:width$}  {:7}  {}", check.what, check.state.word(), check.why)?;
            if let Some(change) = &check.what_to_change {
                writeln!(out, "  {:width$}  {:7}  -> {change}", "", "")?;
            }
        }
        match reasons.as_slice() {
            [] => writeln!(out, "\nTasks of {driver} can run here."),
            reasons => {
                writeln!(out, "\nTasks of {driver} cannot run here:")?;
                reasons.iter().try_for_each(|reason| writeln!(out, "  {reason}"))
            }
        }
    }
}
