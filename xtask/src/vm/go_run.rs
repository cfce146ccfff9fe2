//! What a program of Go's tests says with `-test.v=test2json` (`go doc test2json`).

use std::collections::BTreeMap;

use crate::test::tally::Tally;

/// Begins the lines that are the test framework's own.
const MARK: char = '\u{16}';

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Passed,
    Failed,
    Skipped,
}

/// The tests of one program; a subtest's name is `PARENT/NAME`.
#[derive(Default)]
pub struct GoRun {
    tests: BTreeMap<String, State>,
}

impl GoRun {
    /// Takes a line in.
    pub fn hear(&mut self, line: &str) {
        let Some(line) = line.strip_prefix(MARK) else { return };
        let Some((mark, rest)) = line.trim_start().split_once(' ') else {
            return;
        };
        let Some((verb, rest)) = rest.split_once(' ') else {
            return;
        };
        let name = rest.split_whitespace().next().unwrap_or_default().to_owned();
        let state = match (mark, verb) {
            ("===", "RUN") => State::Running,
            ("---", "PASS:") => State::Passed,
            ("---", "FAIL:") => State::Failed,
            ("---", "SKIP:") => State::Skipped,
            // A parallel test pauses and goes on.
            _ => return,
        };
        self.tests.insert(name, state);
    }

    /// Whether somebody who waits wants to see this line.
    pub fn is_worth_showing(line: &str) -> bool {
        !line.strip_prefix(MARK).unwrap_or(line).starts_with("=== ")
    }

    /// Counts tests without subtests; a test with subtests only if it failed by itself. A test that did not end is a failure, and so is one
    /// that is skipped: in the VM everything can run, and what cannot is excluded by name.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (test, state) in &self.tests {
            let prefix = format!("{test}/");
            let below = || self.tests.iter().filter(|(name, _)| name.starts_with(&prefix));
            let is_parent = below().next().is_some();
            let has_bad = below().any(|(_, state)| *state != State::Passed);
            match state {
                State::Passed if !is_parent => tally.passed += 1,
                State::Failed if !has_bad => tally.fail(format!("in the VM: {test}")),
                State::Running if !has_bad => tally.fail(format!("in the VM: {test} did not end")),
                State::Skipped => tally.fail(format!("in the VM: {test} was skipped")),
                _ => {}
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtests_are_counted_and_what_is_skipped_or_does_not_end_has_failed() {
        let mut run = GoRun::default();
        for line in [
            "\u{16}=== RUN   TestA",
            "\u{16}=== RUN   TestA/one",
            "\u{16}=== PAUSE TestA/one",
            "\u{16}=== CONT  TestA/one",
            "=== RUN   said by a task",
            "--- PASS: said by a task (0s)",
            "\u{16}--- PASS: TestA (0.01s)",
            "\u{16}    --- PASS: TestA/one (0.01s)",
            "\u{16}=== RUN   TestB",
            "\u{16}=== RUN   TestB/two",
            "\u{16}--- FAIL: TestB (0.01s)",
            "\u{16}    --- FAIL: TestB/two (0.01s)",
            "\u{16}=== RUN   TestC",
            "\u{16}--- SKIP: TestC (0.00s)",
            "\u{16}=== RUN   TestD",
        ] {
            run.hear(line);
        }
        let Tally {
            passed,
            failed,
            skipped,
            failures,
        } = run.tally();
        assert_eq!((passed, failed, skipped), (1, 3, 0));
        assert_eq!(
            failures,
            [
                "in the VM: TestB/two",
                "in the VM: TestC was skipped",
                "in the VM: TestD did not end"
            ]
        );
    }
}
