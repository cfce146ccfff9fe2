//! What a drill says while it runs, and at its end: for people, or one JSON object per line.

use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Every promise was kept.
    Passed,
    /// At least one was not.
    Violated,
    /// This host lacks what the drill needs.
    NotPossible,
    /// A signal ended it before its end.
    Interrupted,
}

impl Verdict {
    fn describe(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Violated => "VIOLATED",
            Verdict::NotPossible => "not possible here",
            Verdict::Interrupted => "interrupted",
        }
    }
}

/// What a line of the timeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// What the drill does.
    Act,
    /// What the agent says.
    Agent,
    /// A promise that was kept.
    Ok,
    /// A promise that was broken.
    Violation,
    /// How it goes meanwhile.
    Progress,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Act => "act",
            Kind::Agent => "agent",
            Kind::Ok => "ok",
            Kind::Violation => "VIOLATION",
            Kind::Progress => "...",
        }
    }
}

#[derive(Serialize)]
struct EventLine<'a> {
    drill: &'a str,
    at_ms: u64,
    event: Kind,
    text: &'a str,
}

#[derive(Serialize)]
struct VerdictLine<'a> {
    drill: &'a str,
    at_ms: u64,
    event: &'static str,
    verdict: &'a Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    kept: u64,
    violations: &'a [String],
    counts: &'a BTreeMap<&'static str, u64>,
}

/// The timeline of one drill. Clones write to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Timeline(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    drill: &'static str,
    began: Instant,
    json: bool,
    kept: Cell<u64>,
    violations: RefCell<Vec<String>>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn begin(drill: &'static str, promise: &str, json: bool) -> Timeline {
        let timeline = Timeline(Rc::new(Inner {
            drill,
            began: Instant::now(),
            json,
            kept: Cell::new(0),
            violations: RefCell::default(),
            counts: RefCell::default(),
        }));
        if !json {
            print(&format!("{drill}: {promise}"));
        }
        timeline
    }

    /// The drill does something.
    pub(crate) fn act(&self, text: impl Display) {
        self.line(Kind::Act, &text.to_string());
    }

    /// The agent has said something.
    pub(crate) fn agent(&self, text: impl Display) {
        self.line(Kind::Agent, &text.to_string());
    }

    /// How it goes.
    pub(crate) fn progress(&self, text: impl Display) {
        self.line(Kind::Progress, &text.to_string());
    }

    /// A promise was kept.
    pub(crate) fn kept(&self, promise: impl Display) {
        self.0.kept.set(self.0.kept.get() + 1);
        self.line(Kind::Ok, &promise.to_string());
    }

    /// A promise was kept that is not worth a line of its own.
    pub(crate) fn kept_silently(&self) {
        self.0.kept.set(self.0.kept.get() + 1);
    }

    /// A promise was broken.
    pub(crate) fn violated(&self, how: impl Display) {
        let how = how.to_string();
        self.line(Kind::Violation, &how);
        self.0.violations.borrow_mut().push(how);
    }

    /// Kept if there is nothing in `violations`.
    pub(crate) fn check(&self, promise: impl Display, violations: impl IntoIterator<Item = String>) {
        let mut is_kept = true;
        for violation in violations {
            is_kept = false;
            self.violated(violation);
        }
        if is_kept {
            self.kept(promise);
        }
    }

    /// Kept if it `holds`, otherwise `what_is`.
    pub(crate) fn check_that(&self, holds: bool, promise: impl Display, what_is: impl FnOnce() -> String) {
        self.check(promise, (!holds).then(what_is));
    }

    /// A figure for the end.
    pub(crate) fn count(&self, name: &'static str, value: u64) {
        self.0.counts.borrow_mut().insert(name, value);
    }

    /// Whether a promise was broken so far.
    pub(crate) fn is_violated(&self) -> bool {
        !self.0.violations.borrow().is_empty()
    }

    /// Tells the verdict.
    pub(crate) fn end(&self, verdict: &Verdict, reason: Option<&str>) {
        let Inner {
            drill,
            began: _,
            json,
            kept,
            violations,
            counts,
        } = &*self.0;
        let (violations, counts) = (violations.borrow(), counts.borrow());
        if *json {
            return self.json(&VerdictLine {
                drill,
                at_ms: self.at_ms(),
                event: "verdict",
                verdict,
                reason,
                kept: kept.get(),
                violations: &violations,
                counts: &counts,
            });
        }
        let figures: Vec<String> = counts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        if !figures.is_empty() {
            print(&format!("{drill}: {}", figures.join(", ")));
        }
        let seconds = began_seconds(self.at_ms());
        let more = match (verdict, reason) {
            (_, Some(reason)) => format!(": {reason}"),
            (Verdict::Violated, None) => format!(", {} times", violations.len()),
            (_, None) => format!(", {} checks", kept.get()),
        };
        print(&format!("{drill}: {}{more}, {seconds} s\n", verdict.describe()));
    }

    fn at_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn line(&self, event: Kind, text: &str) {
        let at_ms = self.at_ms();
        if self.0.json {
            let drill = self.0.drill;
            return self.json(&EventLine {
                drill,
                at_ms,
                event,
                text,
            });
        }
        print(&format!("{:>9}  {:<9}  {text}", began_seconds(at_ms), event.label()));
    }

    fn json(&self, line: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(line) {
            print(&line);
        }
    }
}

fn began_seconds(at_ms: u64) -> String {
    format!("{}.{:03}", at_ms / 1000, at_ms % 1000)
}

/// A reader that went away is no reason to leave a drill's processes behind.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_is_a_violation_however_many_were_kept() {
        let timeline = Timeline::begin("test", "nothing", true);
        timeline.check("one", []);
        assert!(!timeline.is_violated());
        timeline.check("two", ["a gap".to_owned()]);
        timeline.check_that(true, "three", || "not".to_owned());
        assert!(timeline.is_violated());
        assert_eq!(timeline.0.kept.get(), 2);
        assert_eq!(*timeline.0.violations.borrow(), ["a gap"]);
    }
}
