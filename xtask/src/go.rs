//! The Go module under `tests/nomad`, which has Nomad as a library.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{root, step};

/// Build tags that Nomad's own build has too.
pub const TAGS: &str = "-tags=hashicorpmetrics";

/// The `go` command, in the module.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(arguments).current_dir(module());
    // It would point the agent's own HTTP clients at other certificates.
    command.env_remove("AWS_CA_BUNDLE");
    command
}

/// Builds programs of `tests/nomad/cmd` (`./cmd/NAME` or `./cmd/...`) and returns the folder in which they are.
pub fn build(programs: &[&str]) -> Result<PathBuf> {
    let folder = module().join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // A version control that does not trust the work tree's owner must not fail the build.
    let mut command = command(&["build", TAGS, "-buildvcs=false", "-o", "bin/"]);
    command.args(programs);
    step::run(
        "building Go programs with Nomad's libraries (the first time takes many minutes)",
        &mut command,
    )?;
    Ok(folder)
}

/// Its folder.
pub fn module() -> PathBuf {
    root().join("tests/nomad")
}
