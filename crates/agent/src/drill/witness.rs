//! The witness: a task that leaves evidence, and what the evidence must look like.

use crate::alloc_dir::AllocDir;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The task's name.
pub(crate) const TASK: &str = "witness";

/// What the task runs. It must not contain what means something in a job file: `${`, `%{`.
pub(crate) const SCRIPT: &str = include_str!("witness.sh");

/// What a run of the witness does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Its exit code if it ends by itself: never 0, lest an invented success be taken for it.
    pub code: i32,
    /// Its exit code if it is asked to end.
    pub stop_code: i32,
    /// After this many pauses it ends by itself; before, once it is told.
    pub ticks: u32,
    /// Length of a pause in milliseconds.
    pub tick_ms: u64,
    /// How many lines it writes before each pause.
    pub burst: u32,
}

impl Default for Part {
    fn default() -> Part {
        Part {
            code: 7,
            stop_code: 42,
            // Ten minutes: what a drill leaves that is killed itself ends in time.
            ticks: 6000,
            tick_ms: 100,
            burst: 3,
        }
    }
}

impl Part {
    /// The part as the task's environment tells it, for the run of this name.
    pub(crate) fn environment(&self, run: &str) -> [(String, String); 6] {
        let Part {
            code,
            stop_code,
            ticks,
            tick_ms,
            burst,
        } = self;
        let tick = format!("{}.{:03}", tick_ms / 1000, tick_ms % 1000);
        [
            ("WITNESS_RUN", run.to_owned()),
            ("WITNESS_CODE", code.to_string()),
            ("WITNESS_STOP_CODE", stop_code.to_string()),
            ("WITNESS_TICKS", ticks.to_string()),
            ("WITNESS_TICK", tick),
            ("WITNESS_BURST", burst.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    }
}

/// How much of a run must be in its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It came to its end.
    Whole,
    /// It was killed on the way.
    Cut,
    /// It was killed together with those who collect its output, or in the middle of its start.
    Torn,
}

/// What a run has left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The main processes that began this run, as they know themselves. More than one if a start had to be tried again.
    pub starts: Vec<i32>,
    /// Main processes that found the marker of another one that lived.
    pub doubles: Vec<String>,
    /// The number of the last line that the last of them knows to have written.
    pub written: u64,
    /// Its lines that were collected, in their order.
    pub lines: Vec<Line>,
    /// Collected text that nobody wrote like this.
    pub foreign: Vec<String>,
}

/// A line that was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// With its number.
    Number(u64),
    /// The last one, with the number of lines before it.
    End(u64),
}

impl Evidence {
    /// Reads what there is of a run.
    pub(crate) fn read(dir: &AllocDir, run: &str) -> io::Result<Evidence> {
        let local = dir.directories(TASK).local;
        let own = local.join(run);
        let mut starts = Vec::new();
        while let Some(pid) = text(&own.join(format!("start.{}", starts.len() + 1)))? {
            starts.push(pid.trim().parse().unwrap_or(0));
        }
        let written = text(&own.join(format!("written.{}", starts.len())))?.unwrap_or_default();
        let doubles = text(&local.join("doubles"))?.unwrap_or_default();
        let mut evidence = Evidence {
            doubles: doubles.lines().map(str::to_owned).collect(),
            written: last_whole_number(&written),
            starts,
            lines: Vec::new(),
            foreign: Vec::new(),
        };
        let mut output = Vec::new();
        for file in log_files(&dir.logs())? {
            output.extend(fs::read(file)?);
        }
        evidence.take_output(run, &String::from_utf8_lossy(&output));
        Ok(evidence)
    }

    /// Sorts out the lines of a run's last start from those of all runs of the task.
    fn take_output(&mut self, run: &str, output: &str) {
        let own = format!("{run}/{}", self.starts.len());
        for text in output.split_inclusive('\n') {
            match parse(text) {
                Some((of, line)) if of == own => self.lines.push(line),
                Some(_) => {}
                None => self.foreign.push(text.chars().take(60).collect()),
            }
        }
    }

    /// What is wrong with it; nothing if every promise was kept. `main` is the process that the driver says is the main one, where
    /// that knows itself by the same number.
    pub(crate) fn violations(&self, run: &str, extent: Extent, main: Option<i32>) -> Vec<String> {
        let Evidence {
            starts,
            doubles,
            written,
            lines,
            foreign,
        } = self;
        let mut found = Vec::new();
        match (extent, starts.as_slice(), main) {
            (Extent::Torn, _, _) | (Extent::Cut, [], _) => {}
            (_, [], _) => found.push(format!("{run}: its main process never ran")),
            (_, [.., last], Some(main)) if *last == main => {}
            (_, [_], None) => {}
            (_, all, Some(main)) => {
                found.push(format!("{run}: main processes {all:?} ran, and the driver told {main}"));
            }
            (_, all, None) => found.push(format!("{run}: {} main processes ran", all.len())),
        }
        for pid in doubles {
            found.push(format!("{run}: main process {pid} began while another one was there"));
        }
        for text in foreign {
            found.push(format!("{run}: the output has {text:?}, which nobody wrote"));
        }
        let mut wanted = 1;
        let mut ended = false;
        for line in lines {
            match *line {
                Line::Number(number) if number == wanted => wanted += 1,
                Line::Number(number) if number > wanted => {
                    found.push(format!("{run}: the output lacks lines {wanted} to {}", number - 1));
                    wanted = number + 1;
                }
                Line::Number(number) => found.push(format!("{run}: the output has line {number} once more")),
                Line::End(count) if ended || count != wanted - 1 => found.push(format!(
                    "{run}: the output ends after {count} lines, with {} before it",
                    wanted - 1
                )),
                Line::End(_) => ended = true,
            }
        }
        let collected = wanted - 1;
        // What nobody was there to collect is nobody's to keep.
        if collected < *written && extent != Extent::Torn {
            found.push(format!(
                "{run}: {written} lines were written, the output has {collected}"
            ));
        }
        if extent == Extent::Whole && !ended {
            found.push(format!("{run}: the output lacks the last line"));
        }
        found
    }
}

/// What is in a file, if there is one.
fn text(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `<run> <number>` or `<run> end <number>`, whole.
fn parse(text: &str) -> Option<(&str, Line)> {
    let (run, rest) = text.strip_suffix('\n')?.split_once(' ')?;
    match rest.split_once(' ') {
        None => Some((run, Line::Number(rest.parse().ok()?))),
        Some(("end", number)) => Some((run, Line::End(number.parse().ok()?))),
        Some(_) => None,
    }
}

fn last_whole_number(text: &str) -> u64 {
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n')?.parse().ok())
        .next_back()
        .unwrap_or(0)
}

/// The files of standard output, the first first.
fn log_files(logs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(TASK)?.strip_prefix(".stdout.")?.parse::<u64>().ok());
        files.extend(number.map(|number| (number, entry.path())));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn evidence(output: &str, written: u64) -> Evidence {
        let mut evidence = Evidence {
            starts: vec![5],
            written,
            ..Evidence::default()
        };
        evidence.take_output("r1", output);
        evidence
    }

    fn only_violation(evidence: &Evidence, extent: Extent) -> String {
        let found = evidence.violations("r1", extent, Some(5));
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().expect("one")
    }

    #[test]
    fn whole_evidence_has_no_violation_and_lines_of_other_runs_are_not_this_ones() {
        let output = "r0/1 1\nr0/1 end 1\nr1/1 1\nr1/1 2\nr1/1 end 2\nr2/1 1\n";
        assert_eq!(evidence(output, 2).violations("r1", Extent::Whole, Some(5)), [""; 0]);
        assert_eq!(
            evidence("r1/1 1\nr1/1 2\n", 1).violations("r1", Extent::Cut, Some(5)),
            [""; 0]
        );
        let refused = Evidence::default();
        assert_eq!(refused.violations("r1", Extent::Torn, Some(5)), [""; 0]);
    }

    #[test]
    fn a_missing_line_is_found_wherever_it_is_missing() {
        for (output, written, text) in [
            ("r1/1 2\nr1/1 3\nr1/1 end 3\n", 3, "lacks lines 1 to 1"),
            ("r1/1 1\nr1/1 4\nr1/1 end 4\n", 4, "lacks lines 2 to 3"),
            ("r1/1 1\nr1/1 2\n", 2, "lacks the last line"),
        ] {
            let violation = only_violation(&evidence(output, written), Extent::Whole);
            assert!(violation.contains(text), "{violation}");
        }
        let violation = only_violation(&evidence("r1/1 1\n", 2), Extent::Cut);
        assert!(
            violation.contains("2 lines were written, the output has 1"),
            "{violation}"
        );
    }

    #[test]
    fn a_line_that_comes_twice_and_a_torn_one_are_found() {
        let violation = only_violation(&evidence("r1/1 1\nr1/1 2\nr1/1 2\nr1/1 end 2\n", 2), Extent::Whole);
        assert!(violation.contains("line 2 once more"), "{violation}");
        let violation = only_violation(&evidence("r1/1 1\nr1/1 2\nr1\nr1/1 end 2\n", 2), Extent::Whole);
        assert!(violation.contains("which nobody wrote"), "{violation}");
    }

    #[test]
    fn a_second_main_process_is_found_by_its_start_and_by_the_marker() {
        let output = "r1/1 1\nr1/1 end 1\n";
        let again = Evidence {
            starts: vec![5, 6],
            ..evidence(output, 0)
        };
        let found = again.violations("r1", Extent::Cut, Some(5));
        assert!(
            found[0].contains("main processes [5, 6] ran, and the driver told 5"),
            "{found:?}"
        );
        let found = again.violations("r1", Extent::Cut, None);
        assert!(found[0].contains("2 main processes ran"), "{found:?}");
        let at_once = Evidence {
            doubles: vec!["77".to_owned()],
            ..evidence(output, 1)
        };
        assert!(only_violation(&at_once, Extent::Whole).contains("77 began while another one was there"));
        let never = Evidence {
            starts: Vec::new(),
            ..evidence(output, 1)
        };
        assert!(only_violation(&never, Extent::Whole).contains("never ran"));
    }

    #[test]
    fn a_start_that_was_tried_again_is_judged_by_its_last_one() {
        let mut again = Evidence {
            starts: vec![4, 5],
            written: 2,
            ..Evidence::default()
        };
        again.take_output("r1", "r1/1 1\nr1/2 1\nr1/2 2\nr1/2 end 2\n");
        assert_eq!(again.violations("r1", Extent::Whole, Some(5)), [""; 0]);
    }

    /// The script itself, without any driver.
    #[test]
    fn two_witnesses_at_once_betray_themselves_and_one_after_the_other_do_not() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = AllocDir::new(root.path().join("alloc"));
        dir.make(TASK).expect("made");
        let local = dir.directories(TASK).local;
        let part = Part {
            ticks: 1,
            tick_ms: 10,
            ..Part::default()
        };
        let run = |run: &str| {
            let output = Command::new("/bin/sh")
                .args(["-c", SCRIPT])
                .env("NOMAD_TASK_DIR", &local)
                .envs(part.environment(run))
                .output()
                .expect("a shell");
            assert_eq!(output.status.code(), Some(7), "{output:?}");
            let file = dir.logs().join("witness.stdout.0");
            let mut all = fs::read(&file).unwrap_or_default();
            all.extend(output.stdout);
            fs::write(file, all).expect("a writable directory");
            let evidence = Evidence::read(&dir, run).expect("evidence");
            assert_eq!(evidence.written, 4);
            evidence.violations(run, Extent::Whole, None)
        };
        assert_eq!(run("r1"), [""; 0]);
        // The marker of one that is dead.
        assert_eq!(run("r2"), [""; 0]);
        fs::write(local.join("main"), format!("{}\n", std::process::id())).expect("a writable directory");
        let found = run("r3");
        assert!(
            found.len() == 1 && found[0].contains("while another one was there"),
            "{found:?}"
        );
    }

    #[test]
    fn the_script_means_the_same_in_a_job_file() {
        assert!(!SCRIPT.contains("${") && !SCRIPT.contains("%{"));
        assert!(!SCRIPT.lines().any(|line| line.trim() == "WITNESS"));
    }
}
