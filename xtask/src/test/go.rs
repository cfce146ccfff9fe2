//! The tests of the Go module, by `go test`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;

use super::tally::Tally;
use crate::build::Dist;
use crate::{go, step};

/// Examines the module, builds its programs and runs its tests.
pub fn run(dist: &Dist, long: bool) -> Result<Tally> {
    go::build(&["./cmd/..."])?;
    let mut run = Run::default();
    let mut vet = go::command(&["vet", go::TAGS, "./..."]);
    let vetted = step::run("go vet", &mut vet);
    let timeout = if long { "-timeout=4h" } else { "-timeout=40m" };
    let mut test = go::command(&["test", "-json", go::TAGS, "-count=1", timeout, "./..."]);
    super::prepare(&mut test, dist, long);
    let status = step::read_lines(
        "Go tests (the first time takes many minutes to compile)",
        &mut test,
        |line| {
            match serde_json::from_str(line) {
                Ok(event) => run.hear(event),
                // What goes wrong before tests run may be said in plain words.
                Err(_) => println!("{line}"),
            }
        },
    )?;
    let mut tally = run.tally();
    if let Err(error) = vetted {
        tally.fail(format!("{error:#}"));
    }
    if !status.success() && tally.failed == 0 {
        tally.fail(format!("go test ended with {status}"));
    }
    Ok(tally)
}

/// A line of `go test -json` (`go doc test2json`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    #[serde(default)]
    package: String,
    test: Option<String>,
    output: Option<String>,
    #[serde(default)]
    elapsed: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Passed,
    Failed,
    Skipped,
}

#[derive(Default)]
struct Run {
    /// By package and name; a subtest's name is `PARENT/NAME`.
    tests: BTreeMap<(String, String), State>,
    failed_packages: Vec<String>,
    /// What each test has said, until it is over.
    said: BTreeMap<(String, String), String>,
}

impl Run {
    /// Takes an event in, and prints what somebody who waits wants to see.
    fn hear(&mut self, event: Event) {
        let Event {
            action,
            package,
            test,
            output,
            elapsed,
        } = event;
        let Some(test) = test else {
            if let Some(output) = output {
                print!("{output}");
            }
            if action == "fail" {
                self.failed_packages.push(package);
            }
            return;
        };
        let key = (package, test);
        let (state, verdict) = match action.as_str() {
            "output" => {
                self.said.entry(key).or_default().push_str(&output.unwrap_or_default());
                return;
            }
            "run" => (State::Running, None),
            "pass" => (State::Passed, Some("ok")),
            "fail" => (State::Failed, Some("FAILED")),
            "skip" => (State::Skipped, Some("skipped")),
            // A parallel test pauses and goes on.
            _ => return,
        };
        if let Some(verdict) = verdict {
            println!("test {} ... {verdict} ({elapsed:.1} s)", key.1);
            let said = self.said.remove(&key).unwrap_or_default();
            if state != State::Passed {
                print!("{said}");
            }
        }
        self.tests.insert(key, state);
    }

    /// Counts tests without subtests; a test with subtests only if it failed by itself. A test that did not end and a package
    /// that failed by itself are failures too.
    fn tally(self) -> Tally {
        let mut tally = Tally::default();
        for (key, said) in &self.said {
            if self.tests.get(key) == Some(&State::Running) {
                print!("{said}");
            }
        }
        let mut failing = Vec::new();
        for ((package, test), state) in &self.tests {
            let prefix = format!("{test}/");
            let below = || {
                self.tests
                    .iter()
                    .filter(|((p, t), _)| p == package && t.starts_with(&prefix))
            };
            let is_parent = below().next().is_some();
            let failed_below = below().any(|(_, state)| matches!(state, State::Failed | State::Running));
            match state {
                State::Failed | State::Running if !failed_below => {
                    let what = if *state == State::Running { " did not end" } else { "" };
                    tally.fail(format!("{package} {test}{what}"));
                    failing.push(package);
                }
                State::Passed if !is_parent => tally.passed += 1,
                State::Skipped if !is_parent => tally.skipped += 1,
                _ => {}
            }
        }
        for package in &self.failed_packages {
            if !failing.contains(&package) {
                tally.fail(package);
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(events: &[(&str, &str, Option<&str>)]) -> Tally {
        let mut run = Run::default();
        for (action, package, test) in events {
            let mut line = serde_json::json!({"Time": "2000-01-01T00:00:00Z", "Action": action, "Package": package});
            if let Some(test) = test {
                line["Test"] = (*test).into();
            }
            run.hear(serde_json::from_value(line).unwrap());
        }
        run.tally()
    }

    #[test]
    fn subtests_are_counted_and_their_parents_are_not() {
        let counted = tally(&[
            ("start", "p", None),
            ("run", "p", Some("A")),
            ("run", "p", Some("A/one")),
            ("pass", "p", Some("A/one")),
            ("run", "p", Some("A/two")),
            ("fail", "p", Some("A/two")),
            ("fail", "p", Some("A")),
            ("run", "p", Some("AB")),
            ("pause", "p", Some("AB")),
            ("cont", "p", Some("AB")),
            ("pass", "p", Some("AB")),
            ("run", "p", Some("C")),
            ("skip", "p", Some("C")),
            ("fail", "p", None),
        ]);
        assert_eq!((counted.passed, counted.failed, counted.skipped), (2, 1, 1));
        assert_eq!(counted.failures, ["p A/two"]);
    }

    #[test]
    fn a_test_that_did_not_end_has_failed() {
        let counted = tally(&[("run", "p", Some("A")), ("fail", "p", None)]);
        assert_eq!(counted.failures, ["p A did not end"]);
        assert_eq!(counted.failed, 1);
    }

    #[test]
    fn a_parent_that_failed_by_itself_is_counted() {
        let counted = tally(&[
            ("run", "p", Some("A")),
            ("run", "p", Some("A/one")),
            ("pass", "p", Some("A/one")),
            ("fail", "p", Some("A")),
            ("fail", "p", None),
        ]);
        assert_eq!((counted.passed, counted.failures), (1, vec!["p A".to_owned()]));
    }

    #[test]
    fn a_package_that_fails_without_a_test_is_a_failure() {
        let counted = tally(&[("start", "p", None), ("fail", "p", None), ("pass", "q", None)]);
        assert_eq!((counted.passed, counted.failures), (0, vec!["p".to_owned()]));
        assert_eq!(counted.failed, 1);
    }
}
