//! The tests as static programs, and the programs that they run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::build::{TARGET, cargo};
use crate::{root, step};

/// Where something depends on cgroups, on the kernel's version or on capabilities.
const PACKAGES: &[&str] = &[
    "holdfast-cgroup",
    "holdfast-record",
    "holdfast-sandbox",
    "holdfast-executor",
];

/// A program for the VM.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Package and target.
    pub name: String,
    /// Absolute, the same on the host and in the VM: tests have such paths compiled in.
    pub path: PathBuf,
    /// The package's folder, where cargo runs tests.
    pub package_dir: PathBuf,
    /// Made of the target's tests.
    pub is_test: bool,
}

/// Builds them all.
pub fn build() -> Result<Vec<Program>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--profile=vm-tests", "--target", TARGET]);
    command.args(["--message-format=json-render-diagnostics"]);
    command.arg("--target-dir").arg(root().join("target"));
    command.args(PACKAGES.iter().flat_map(|name| ["--package", name]));
    let mut programs = Vec::new();
    let status = step::read_lines("building the tests for the VM", &mut command, |line| {
        programs.extend(Message::program(line));
    })?;
    ensure!(
        status.success(),
        "building the tests for the VM: cargo ended with {status}"
    );
    for name in PACKAGES {
        let has_tests = programs
            .iter()
            .any(|program| program.is_test && program.name.starts_with(name));
        ensure!(
            has_tests,
            "building the tests for the VM: cargo named no tests of {name}"
        );
    }
    programs.sort_by_key(|program| PACKAGES.iter().position(|name| program.name.starts_with(name)));
    Ok(programs)
}

/// A line of cargo's (the cargo book, "External tools").
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Message {
    fn program(line: &str) -> Option<Program> {
        let message: Message = serde_json::from_str(line).ok()?;
        if message.reason != "compiler-artifact" {
            return None;
        }
        let package_dir = message.manifest_path?.parent()?.to_owned();
        Some(Program {
            name: format!("{} {}", package_of(&package_dir)?, message.target?.name),
            path: message.executable?,
            is_test: message.profile?.test,
            package_dir,
        })
    }
}

/// Packages are named after their folders.
fn package_of(dir: &Path) -> Option<String> {
    Some(format!("holdfast-{}", dir.file_name()?.to_str()?))
}

/// The program that a package is for.
pub fn executor(programs: &[Program]) -> Result<&Program> {
    programs
        .iter()
        .find(|program| !program.is_test && program.path.ends_with("holdfast-executor"))
        .context("cargo has built no holdfast-executor for the VM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_libraries_and_tests_from_what_they_run() {
        let line = |executable: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/crates/executor/Cargo.toml",
                "target":{{"kind":["test"],"name":"process"}},"profile":{{"opt_level":"0","test":{test}}},
                "executable":{executable}}}"#
            )
        };
        let program = |is_test| Program {
            name: "holdfast-executor process".to_owned(),
            path: "/w/target/process-1".into(),
            package_dir: "/w/crates/executor".into(),
            is_test,
        };
        assert_eq!(
            Message::program(&line(r#""/w/target/process-1""#, true)),
            Some(program(true))
        );
        assert_eq!(
            Message::program(&line(r#""/w/target/process-1""#, false)),
            Some(program(false))
        );
        assert_eq!(Message::program(&line("null", false)), None);
        assert_eq!(Message::program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(Message::program("no message"), None);
    }
}
