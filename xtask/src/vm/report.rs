//! What the VM has said of its tests.

use std::collections::BTreeSet;

use super::exclusion;
use super::go_run::GoRun;
use super::machine::Ended;
use super::program::GO_TESTS;
use crate::test::rust::Counts;
use crate::test::tally::Tally;

/// A test that says this on its standard output has found that it cannot run where it is. In the VM everything can.
const NOTHING_DONE: &str = "does nothing here: ";

/// Begins the name of a test that needs v2 with its controllers.
const V2: &str = "v2_";

/// The program that runs.
enum Running {
    Rust {
        program: String,
        /// Once it has told them.
        counts: Option<Counts>,
    },
    Go(GoRun),
}

impl Running {
    fn begin(program: &str) -> Running {
        match program {
            GO_TESTS => Running::Go(GoRun::default()),
            _ => Running::Rust {
                program: program.to_owned(),
                counts: None,
            },
        }
    }

    fn program(&self) -> &str {
        match self {
            Running::Rust { program, .. } => program,
            Running::Go(_) => GO_TESTS,
        }
    }
}

/// Reads the VM's output line by line.
pub struct Report {
    /// Whether the tests were not filtered, so that it is known what must be in the report.
    is_whole: bool,
    tally: Tally,
    /// Programs that were begun.
    begun: BTreeSet<String>,
    running: Option<Running>,
    /// The test whose output is being shown.
    speaker: String,
    v2_passed: u64,
    is_done: bool,
    news: Vec<String>,
}

impl Report {
    /// Of all tests, or of some.
    pub fn new(is_whole: bool) -> Report {
        Report {
            is_whole,
            tally: Tally::default(),
            begun: BTreeSet::new(),
            running: None,
            speaker: String::new(),
            v2_passed: 0,
            is_done: false,
            news: Vec::new(),
        }
    }

    /// Whether Go tests are running, of whose output only [`Report::news`] are worth showing.
    pub fn hears_go(&self) -> bool {
        matches!(self.running, Some(Running::Go(_)))
    }

    /// What has become known of Go tests since the last call.
    pub fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Takes a line in.
    pub fn hear(&mut self, line: &str) {
        if let Some(said) = line.strip_prefix("vm: ") {
            match said.split_once(' ') {
                Some(("begin", name)) => {
                    self.begun.insert(name.to_owned());
                    self.running = Some(Running::begin(name));
                }
                Some(("end", code)) => self.end(code),
                _ if said == "done" => self.is_done = true,
                _ => self.tally.fail(format!("the VM says: {said}")),
            }
        } else if let Some(Running::Go(run)) = &mut self.running {
            self.news.extend(run.hear(line));
        } else if let Some(told) = Counts::of(line) {
            if let Some(Running::Rust { counts, .. }) = &mut self.running {
                *counts = Some(told);
            }
        } else if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            // Unit tests have files of their own making for cgroups.
            let is_v2 = !name.contains("tests::") && name.rsplit("::").next().is_some_and(|last| last.starts_with(V2));
            match verdict {
                "ok" => self.v2_passed += u64::from(is_v2),
                "FAILED" => self.tally.failures.push(format!("in the VM: {name}")),
                _ => {}
            }
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut self.speaker);
        } else if let Some(reason) = line.strip_prefix(NOTHING_DONE) {
            self.tally
                .fail(format!("in the VM: {} did nothing: {reason}", self.speaker));
        }
    }

    fn end(&mut self, code: &str) {
        let (program, counts) = match self.running.take() {
            None => {
                self.tally.fail("the VM ended a program that it had not begun");
                return;
            }
            Some(Running::Go(run)) => {
                self.news.extend(run.rest().map(str::to_owned));
                let told = run.tally();
                if told.failed == 0 && code != "0" {
                    self.tally.fail(format!("in the VM: {GO_TESTS} ended with {code}"));
                }
                self.tally.add(told);
                return;
            }
            Some(Running::Rust { program, counts }) => (program, counts),
        };
        let Some(counts) = counts else {
            self.tally
                .fail(format!("in the VM: {program} ended with {code} before it was through"));
            return;
        };
        // What is ignored here is ignored, and counted, on the host.
        let Counts {
            passed,
            failed,
            ignored: _,
            filtered_out,
        } = counts;
        self.tally.passed += passed;
        self.tally.failed += failed;
        if failed == 0 && code != "0" {
            self.tally.fail(format!("in the VM: {program} ended with {code}"));
        }
        // What is excluded runs on the host; an exclusion that no test bears the name of is out of date.
        let excluded = exclusion::of(&program).count() as u64;
        if self.is_whole && filtered_out != excluded {
            self.tally.fail(format!(
                "in the VM: {filtered_out} tests of {program} were left out, {excluded} are excluded by name"
            ));
        }
    }

    /// Whether the VM has come to its end.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// What came of all.
    pub fn tally(mut self, ended: Ended) -> Tally {
        let running = match &self.running {
            Some(running) => format!("during {}", running.program()),
            None => "between programs".to_owned(),
        };
        match ended {
            Ended::TimedOut => self.tally.fail(format!("the VM's time was up {running}")),
            Ended::Failed(status) => self
                .tally
                .fail(format!("the VM died {running}: qemu ended with {status}")),
            Ended::Off if !self.is_done => self.tally.fail(format!("the VM died {running}")),
            Ended::Off => {}
        }
        if self.is_whole {
            if self.v2_passed == 0 {
                self.tally.fail(format!("in the VM: no test named {V2}... has passed"));
            }
            for exclusion in exclusion::EXCLUSIONS {
                if !self.begun.contains(exclusion.program) {
                    self.tally.fail(format!(
                        "in the VM: {} is excluded of a program that was not run",
                        exclusion.test
                    ));
                }
            }
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 1s";

    fn report(is_whole: bool, ended: Ended, lines: &[&str]) -> Tally {
        let mut report = Report::new(is_whole);
        for line in lines {
            report.hear(line);
        }
        report.tally(ended)
    }

    /// All programs of which something is excluded, as if each had two tests that ran.
    fn programs() -> Vec<String> {
        let names: BTreeSet<&str> = exclusion::EXCLUSIONS
            .iter()
            .map(|exclusion| exclusion.program)
            .collect();
        let mut lines = Vec::new();
        for name in names {
            if name == GO_TESTS {
                let test = ["\u{16}=== RUN   TestA", "\u{16}--- PASS: TestA (0.01s)"];
                lines.push(format!("vm: begin {name}"));
                lines.extend(test.map(str::to_owned));
                lines.push("vm: end 0".to_owned());
                continue;
            }
            let excluded = exclusion::of(name).count();
            lines.push(format!("vm: begin {name}"));
            lines.push("test deep::v2_x ... ok".to_owned());
            lines.push(CLOSED.replace("1 filtered", &format!("{excluded} filtered")));
            lines.push("vm: end 0".to_owned());
        }
        lines.push("vm: done".to_owned());
        lines
    }

    #[test]
    fn a_whole_run_is_counted_and_exclusions_are_not_skips() {
        let lines = programs();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let tally = report(true, Ended::Off, &lines);
        assert_eq!((tally.failures, tally.skipped), (vec![], 0));
        assert!(tally.passed > 0);
    }

    #[test]
    fn without_v2_a_whole_run_has_failed() {
        let unit = |line: &String| line.replace("deep::v2_", "tests::v2_");
        let lines: Vec<String> = programs().iter().map(unit).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let tally = report(true, Ended::Off, &lines);
        assert_eq!(tally.failures, ["in the VM: no test named v2_... has passed"]);
    }

    #[test]
    fn a_test_that_does_nothing_in_the_vm_has_failed() {
        let said = [
            "vm: begin p",
            "---- deep::v2_x stdout ----",
            "does nothing here: no v2",
            CLOSED,
            "vm: end 0",
            "vm: done",
        ];
        let tally = report(false, Ended::Off, &said);
        assert_eq!(tally.failures, ["in the VM: deep::v2_x did nothing: no v2"]);
        assert_eq!((tally.passed, tally.failed), (2, 1));
    }

    #[test]
    fn a_vm_that_dies_or_takes_too_long_is_told_with_what_it_ran() {
        let tally = report(false, Ended::Off, &["vm: begin p", "test a ... ok"]);
        assert_eq!(tally.failures, ["the VM died during p"]);
        let tally = report(false, Ended::TimedOut, &["vm: begin p", CLOSED, "vm: end 0"]);
        assert_eq!(tally.failures, ["the VM's time was up between programs"]);
        let tally = report(false, Ended::Off, &[]);
        assert_eq!((tally.failures.len(), tally.failed), (1, 1));
    }

    #[test]
    fn a_program_that_fails_by_itself_is_a_failure() {
        let tally = report(false, Ended::Off, &["vm: begin p", "vm: end 139", "vm: done"]);
        assert_eq!(tally.failures, ["in the VM: p ended with 139 before it was through"]);
        let tally = report(false, Ended::Off, &["vm: begin p", CLOSED, "vm: end 1", "vm: done"]);
        assert_eq!(tally.failures, ["in the VM: p ended with 1"]);
        let tally = report(false, Ended::Off, &["vm: no controller cpu", "vm: done"]);
        assert_eq!(tally.failures, ["the VM says: no controller cpu"]);
    }

    #[test]
    fn go_tests_are_counted_by_what_they_say() {
        let said = [
            "vm: begin nomad plugin",
            "\u{16}=== RUN   TestA",
            "\u{16}--- PASS: TestA (0.01s)",
            "\u{16}=== RUN   TestB",
            "\u{16}--- FAIL: TestB (0.01s)",
            "vm: end 1",
            "vm: done",
        ];
        let tally = report(false, Ended::Off, &said);
        assert_eq!(tally.failures, ["in the VM: TestB"]);
        assert_eq!((tally.passed, tally.failed), (1, 1));
        let tally = report(false, Ended::Off, &["vm: begin nomad plugin", "vm: end 2", "vm: done"]);
        assert_eq!(tally.failures, ["in the VM: nomad plugin ended with 2"]);
    }

    #[test]
    fn an_exclusion_that_fits_no_test_is_a_failure() {
        let mut count = 0;
        let lines: Vec<String> = programs()
            .iter()
            .map(|line| {
                count += u64::from(line.starts_with("test result: "));
                line.replace(" filtered out", "0 filtered out")
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let tally = report(true, Ended::Off, &lines);
        assert_eq!(tally.failed, count);
    }
}
