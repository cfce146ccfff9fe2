//! `cargo xtask build`: the released programs, static, in `target/dist`. The driver carries the executor inside itself.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::{root, setup, step};

/// The released programs' target: static, for any Linux distribution.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Names an executor for the driver's build to embed.
pub const EMBED: &str = "HOLDFAST_EMBED_EXECUTOR";

/// Build the released programs into `target/dist`.
#[derive(clap::Args)]
pub struct Build {}

impl Build {
    pub fn run(self) -> Result<()> {
        let dist = dist()?;
        for program in [&dist.driver, &dist.executor] {
            let size = fs::metadata(program)?.len();
            println!("{} ({} KiB)", program.display(), size.div_ceil(1024));
        }
        Ok(())
    }
}

/// The released programs.
pub struct Dist {
    /// All that an installation needs.
    pub driver: PathBuf,
    /// The same executor as the driver carries, to use by hand.
    pub executor: PathBuf,
}

/// Builds what is not up to date.
pub fn dist() -> Result<Dist> {
    setup::rust_target()?;
    let folder = root().join("target/dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let executor = install("holdfast-executor", &folder, None)?;
    let driver = install("holdfast-driver", &folder, Some(&executor))?;
    Ok(Dist { driver, executor })
}

fn install(package: &str, folder: &Path, embedded: Option<&Path>) -> Result<PathBuf> {
    // Named outright, since it may be configured to lie elsewhere.
    let built_in = root().join("target");
    let mut command = cargo();
    command.args([
        "rustc",
        "--release",
        "--target",
        TARGET,
        "--package",
        package,
        "--bin",
        package,
    ]);
    command.arg("--target-dir").arg(&built_in);
    // At fixed addresses: what the loader has to relocate is private memory of each process, 80 KiB of each task, and time of each
    // start.
    command.args(["--", "-C", "relocation-model=static"]);
    if let Some(executor) = embedded {
        command.env(EMBED, executor);
    }
    step::run(&format!("building {package} (release, static)"), &mut command)?;
    let built = built_in.join(TARGET).join("release").join(package);
    forbid_crash_points(&built)?;
    let installed = folder.join(package);
    replace(&built, &installed)?;
    Ok(installed)
}

/// What stops a process at a point of a test's choice must not be in what is released.
fn forbid_crash_points(program: &Path) -> Result<()> {
    const VARIABLE: &[u8] = b"HOLDFAST_CRASH_POINTS";
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let may_begin = content.iter().enumerate().filter(|(_, byte)| **byte == VARIABLE[0]);
    if may_begin.into_iter().any(|(at, _)| content[at..].starts_with(VARIABLE)) {
        bail!(
            "{} has crash points: it was built with debug assertions",
            program.display()
        );
    }
    Ok(())
}

/// cargo, as it was called to run this program.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env_remove(EMBED);
    command
}

/// Puts a copy in the place of a program that may be running. What is the same already stays, so that nothing that is built
/// from it is built again.
fn replace(built: &Path, installed: &Path) -> Result<()> {
    let content = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(installed).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let mut name = OsString::from(".");
    name.push(installed.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = installed.with_file_name(name);
    let replaced = fs::write(&temporary, content)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, installed));
    if replaced.is_err() {
        // It may not be there, and the first error is the one to tell.
        _ = fs::remove_file(&temporary);
    }
    replaced.with_context(|| format!("cannot replace {}", installed.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_with_crash_points_is_not_released() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"HOLD\0HOLDFAST_CRASH\0").unwrap();
        forbid_crash_points(&program).unwrap();
        fs::write(&program, b"\0HHOLDFAST_CRASH_POINTS\0").unwrap();
        assert!(forbid_crash_points(&program).is_err());
    }

    #[test]
    fn a_running_program_is_replaced_and_an_equal_one_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (built, installed) = (folder.path().join("built"), folder.path().join("installed"));
        fs::copy("/bin/sleep", &built).unwrap();
        replace(&built, &installed).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let first = inode(&installed);
        let mut running = Command::new(&installed).arg("60").spawn().unwrap();

        replace(&built, &installed).unwrap();
        assert_eq!(inode(&installed), first, "equal content is not written again");

        fs::write(&built, "#!/bin/sh\nexit 7\n").unwrap();
        replace(&built, &installed).unwrap();
        assert_eq!(running.try_wait().unwrap(), None, "the old program still runs");
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(Command::new(&installed).status().unwrap().code(), Some(7));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }
}
