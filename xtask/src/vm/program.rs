//! The tests as static programs, and the programs that they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::folder;
use crate::build::{EMBED, TARGET, cargo};
use crate::{go, root, step};

/// Where something depends on cgroups, on the kernel's version or on capabilities.
const PACKAGES: &[&str] = &[
    "holdfast-cgroup",
    "holdfast-record",
    "holdfast-sandbox",
    "holdfast-executor",
];

/// The Go tests that drive the plugin through Nomad's client library.
pub const GO_TESTS: &str = "nomad plugin";

/// Its folder in the Go module.
const GO_PACKAGE: &str = "./plugin";

/// What a program is in the VM for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A Rust target's tests.
    RustTests,
    /// A Go package's tests.
    GoTests,
    /// Tests run it.
    Product,
}

/// A program for the VM.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Package and target.
    pub name: String,
    /// Absolute, the same on the host and in the VM: tests have such paths compiled in.
    pub path: PathBuf,
    /// The package's folder, where cargo runs tests.
    pub package_dir: PathBuf,
    pub purpose: Purpose,
}

/// Builds them all.
pub fn build() -> Result<Vec<Program>> {
    let mut command = cargo();
    command.args(["test", "--no-run"]);
    command.args(PACKAGES.iter().flat_map(|name| ["--package", name]));
    let mut programs = built("building the tests for the VM", command)?;
    for name in PACKAGES {
        let has_tests = programs
            .iter()
            .any(|program| program.purpose == Purpose::RustTests && program.name.starts_with(name));
        ensure!(
            has_tests,
            "building the tests for the VM: cargo named no tests of {name}"
        );
    }
    programs.sort_by_key(|program| PACKAGES.iter().position(|name| program.name.starts_with(name)));
    let mut command = cargo();
    command.args(["build", "--package=holdfast-driver", "--bin=holdfast-driver"]);
    // As in a release, so that the plugin is the one file that the tests copy.
    command.env(EMBED, &product(&programs, EXECUTOR)?.path);
    programs.extend(built("building the driver for the VM", command)?);
    product(&programs, DRIVER)?;
    programs.push(go_tests()?);
    Ok(programs)
}

/// What a command of cargo's builds.
fn built(step: &str, mut command: Command) -> Result<Vec<Program>> {
    command.args(["--profile=vm-tests", "--target", TARGET]);
    command.args(["--message-format=json-render-diagnostics"]);
    command.arg("--target-dir").arg(root().join("target"));
    let mut programs = Vec::new();
    let status = step::read_lines(step, &mut command, |line| programs.extend(Message::program(line)))?;
    ensure!(status.success(), "{step}: cargo ended with {status}");
    Ok(programs)
}

/// Linked statically from what is compiled for the tests here: without cgo, all of Nomad would be compiled once more.
fn go_tests() -> Result<Program> {
    let path = folder()?.join("nomad-plugin.test");
    let mut command = go::command(&["test", "-c", go::TAGS]);
    // The linker warns of how users and hosts are looked up, which there is done in files.
    command.arg("-ldflags=-s -w -linkmode=external -extldflags=-static");
    command.arg("-o").arg(&path).arg(GO_PACKAGE);
    step::run(
        "building the Go tests for the VM (the first time takes many minutes)",
        &mut command,
    )?;
    let package_dir = go::module().join(GO_PACKAGE);
    let package_dir =
        fs::canonicalize(&package_dir).with_context(|| format!("there is no {}", package_dir.display()))?;
    Ok(Program {
        name: GO_TESTS.to_owned(),
        path,
        package_dir,
        purpose: Purpose::GoTests,
    })
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
            purpose: match message.profile?.test {
                true => Purpose::RustTests,
                false => Purpose::Product,
            },
            package_dir,
        })
    }
}

/// Packages are named after their folders.
fn package_of(dir: &Path) -> Option<String> {
    Some(format!("holdfast-{}", dir.file_name()?.to_str()?))
}

pub const EXECUTOR: &str = "holdfast-executor";
pub const DRIVER: &str = "holdfast-driver";

/// The program of this name.
pub fn product<'a>(programs: &'a [Program], name: &str) -> Result<&'a Program> {
    programs
        .iter()
        .find(|program| program.purpose == Purpose::Product && program.path.ends_with(name))
        .with_context(|| format!("cargo has built no {name} for the VM"))
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
        let program = |purpose| Program {
            name: "holdfast-executor process".to_owned(),
            path: "/w/target/process-1".into(),
            package_dir: "/w/crates/executor".into(),
            purpose,
        };
        assert_eq!(
            Message::program(&line(r#""/w/target/process-1""#, true)),
            Some(program(Purpose::RustTests))
        );
        assert_eq!(
            Message::program(&line(r#""/w/target/process-1""#, false)),
            Some(program(Purpose::Product))
        );
        assert_eq!(Message::program(&line("null", false)), None);
        assert_eq!(Message::program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(Message::program("no message"), None);
    }
}
