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
    /// What each has said, until it has passed.
    said: BTreeMap<String, String>,
    /// Whose output is being read.
    speaker: String,
}

impl GoRun {
    /// Takes a line in; returns what somebody who waits wants to see.
    pub fn hear(&mut self, line: &str) -> Option<String> {
        let Some(marked) = line.strip_prefix(MARK) else {
            let said = self.said.entry(self.speaker.clone()).or_default();
            said.push_str(line);
            said.push('\n');
            return None;
        };
        let (mark, rest) = marked.trim_start().split_once(' ')?;
        let (verb, rest) = rest.split_once(' ')?;
        let name = rest.split_whitespace().next()?.to_owned();
        if mark == "===" {
            if verb == "RUN" {
                self.tests.insert(name.clone(), State::Running);
            }
            self.speaker = name;
            return None;
        }
        let (state, verdict) = match verb {
            "PASS:" => (State::Passed, "ok"),
            "FAIL:" => (State::Failed, "FAILED"),
            "SKIP:" => (State::Skipped, "skipped"),
            _ => return None,
        };
        let mut news = format!("test {name} ... {verdict}");
        let said = self.said.remove(&name);
        if let Some(said) = said.filter(|_| state != State::Passed) {
            news.push('\n');
            news.push_str(said.trim_end());
        }
        // What follows a verdict is the test's too.
        self.speaker.clone_from(&name);
        self.tests.insert(name, state);
        Some(news)
    }

    /// What was said by tests that did not pass, and by nobody in particular, such as a panic.
    pub fn rest(&self) -> impl Iterator<Item = &str> {
        let is_good = |name: &String| self.tests.get(name) == Some(&State::Passed);
        self.said
            .iter()
            .filter(move |(name, _)| !is_good(name))
            .map(|(_, said)| said.as_str())
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
        assert_eq!(run.rest().collect::<String>(), "");
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

    #[test]
    fn what_a_test_has_said_is_shown_if_it_did_not_pass() {
        let mut run = GoRun::default();
        let shown: Vec<String> = [
            "\u{16}=== RUN   TestA",
            "of a",
            "\u{16}=== RUN   TestB",
            "of b",
            "\u{16}=== NAME  TestA",
            "of a again",
            "\u{16}--- FAIL: TestA (0.01s)",
            "\u{16}--- PASS: TestB (0.01s)",
            "\u{16}=== RUN   TestC",
            "panic: why",
        ]
        .into_iter()
        .filter_map(|line| run.hear(line))
        .collect();
        assert_eq!(shown, ["test TestA ... FAILED\nof a\nof a again", "test TestB ... ok"]);
        assert_eq!(run.rest().collect::<String>(), "panic: why\n");
    }
}
