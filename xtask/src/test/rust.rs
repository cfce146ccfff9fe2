//! The workspace's tests, by cargo.

use anyhow::Result;

use super::tally::Tally;
use crate::build::{Dist, cargo};
use crate::step;

/// Runs every test of the workspace, also after one has failed.
pub fn run(dist: &Dist, long: bool) -> Result<Tally> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if long {
        command.args(["--", "--include-ignored"]);
    }
    super::prepare(&mut command, dist, long);
    let mut tally = Tally::default();
    let status = step::read_lines("Rust tests", &mut command, |line| {
        println!("{line}");
        count(line, &mut tally);
    })?;
    // What does not compile, or ends by a signal, counts nothing by itself.
    if !status.success() && tally.failed == 0 {
        tally.fail(format!("cargo test ended with {status}"));
    }
    Ok(tally)
}

/// Counts a line of the test harness's output: the one that closes a test program, and those that name a failure.
fn count(line: &str, tally: &mut Tally) {
    if let Some(name) = line
        .strip_prefix("test ")
        .and_then(|line| line.strip_suffix(" ... FAILED"))
    {
        tally.failures.push(name.to_owned());
        return;
    }
    if let Some(counts) = Counts::of(line) {
        let Counts {
            passed,
            failed,
            ignored,
            filtered_out,
        } = counts;
        tally.passed += passed;
        tally.failed += failed;
        tally.skipped += ignored + filtered_out;
    }
}

/// What a test program counts in its closing line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    pub filtered_out: u64,
}

impl Counts {
    /// The counts, if this is a closing line.
    pub fn of(line: &str) -> Option<Counts> {
        let (_, list) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Counts::default();
        for count in list.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            match what {
                "passed" => counts.passed = number,
                "failed" => counts.failed = number,
                "ignored" => counts.ignored = number,
                "filtered out" => counts.filtered_out = number,
                _ => {}
            }
        }
        Some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_all_test_programs_are_added_up() {
        let mut tally = Tally::default();
        let output = "\
running 3 tests
test one ... ok
test deep::two ... FAILED
test three ... ignored, slow
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
error: test failed, to rerun pass `-p x --lib`
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; finished in 12.34s";
        for line in output.lines() {
            count(line, &mut tally);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 1,
                skipped: 5,
                failures: vec!["deep::two".to_owned()],
            }
        );
    }
}
