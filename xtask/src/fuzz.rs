//! `cargo xtask fuzz`: runs the targets of `tests/fuzz`, which need a nightly toolchain and cargo-fuzz.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::root;
use crate::step::Elapsed;

/// Run fuzz targets, one after the other.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Which one; without it all of them.
    target: Option<String>,
    /// How long each runs: a number and s, m or h.
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    each: Duration,
}

/// What a run is judged by.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Figures {
    executions: u64,
    edges: u64,
    features: u64,
}

impl Fuzz {
    pub fn run(self) -> Result<()> {
        let targets = targets()?;
        let chosen = match self.target {
            None => targets,
            Some(name) if targets.contains(&name) => vec![name],
            Some(name) => bail!("no fuzz target {name:?}: there are {}", targets.join(", ")),
        };
        require("nightly", &["--version"], "rustup toolchain install nightly")?;
        require("nightly", &["fuzz", "--version"], "cargo install cargo-fuzz")?;
        let mut summary = Vec::new();
        for name in chosen {
            let begin = Instant::now();
            let figures = run(&name, self.each)?;
            summary.push((name, figures, begin.elapsed()));
        }
        println!("target, executions, edges, features, time with the build:");
        for (name, figures, elapsed) in summary {
            let Figures {
                executions,
                edges,
                features,
            } = figures;
            println!("{name}, {executions}, {edges}, {features}, {}", Elapsed(elapsed));
        }
        Ok(())
    }
}

fn folder() -> PathBuf {
    root().join("tests/fuzz")
}

/// Of a toolchain that may not be this program's.
fn cargo(toolchain: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]).args(arguments);
    command.env_remove("RUSTUP_TOOLCHAIN").current_dir(root());
    command
}

fn require(toolchain: &str, arguments: &[&str], remedy: &str) -> Result<()> {
    let found = cargo(toolchain, arguments).stdin(Stdio::null()).output();
    let works = found.is_ok_and(|output| output.status.success());
    ensure!(
        works,
        "fuzzing needs `cargo +{toolchain} {}`, which does not work here; get it by: {remedy}",
        arguments.join(" ")
    );
    Ok(())
}

/// By the names of their files, sorted.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn run(name: &str, each: Duration) -> Result<Figures> {
    eprintln!("==> fuzzing {name} for {}", Elapsed(each));
    // What is found goes there; the seeds, which are committed, stay as they are.
    let found = root().join("target/fuzz/corpus").join(name);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let arguments = [
        "fuzz",
        "run",
        "--fuzz-dir",
        "tests/fuzz",
        "--target-dir",
        "target/fuzz",
        name,
    ];
    let mut command = cargo("nightly", &arguments);
    command
        .args([&found, &folder().join("corpus").join(name)])
        .arg("--")
        .args([
            format!("-max_total_time={}", each.as_secs()),
            "-timeout=20".to_owned(),
            "-max_len=16384".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
    // Targets that need files get a file system in memory.
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start rustup")?;
    let output = BufReader::new(child.stderr.take().context("standard error is a pipe")?);
    let mut figures = Figures::default();
    for line in output.split(b'\n') {
        let line = line.context("cannot read what the fuzzer says")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        figures.take(&line);
    }
    let status = child.wait().context("cannot wait for the fuzzer")?;
    ensure!(
        status.success(),
        "{name}: the fuzzer ended with {status}; an input that crashes is in tests/fuzz/artifacts/{name}"
    );
    Ok(figures)
}

impl Figures {
    /// From a line of libFuzzer's: `#12 NEW cov: 34 ft: 56 corp: ...`, and those of its final statistics.
    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            let into = match word {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                "stat::number_of_executed_units:" => &mut self.executions,
                _ => continue,
            };
            if let Some(number) = words.next().and_then(|word| word.parse().ok()) {
                *into = number;
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: expected a number and s, m or h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(scale).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_an_entry_a_program_and_seeds() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() >= 9, "{targets:?}");
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        for name in targets {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            assert!(
                folder().join("entry").join(&name).with_extension("rs").exists(),
                "{name}"
            );
            let seeds = folder().join("corpus").join(&name);
            assert!(fs::read_dir(&seeds).unwrap().count() > 2, "{}", seeds.display());
        }
    }

    #[test]
    fn what_libfuzzer_says_is_read() {
        let mut figures = Figures::default();
        for line in [
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb",
            "#1048576\tpulse  cov: 120 ft: 456 corp: 60/3021b lim: 4096 exec/s: 349525 rss: 512Mb",
            "stat::number_of_executed_units: 2000000",
        ] {
            figures.take(line);
        }
        let expected = Figures {
            executions: 2_000_000,
            edges: 120,
            features: 456,
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "5", "m", "1d", "-1s", "9999999999999999999h", "1\u{b5}"] {
            duration(wrong).unwrap_err();
        }
    }
}
