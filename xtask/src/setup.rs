//! `cargo xtask setup`: what the build and the tests need from the machine, beside the two toolchains.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::build::TARGET;
use crate::{go, step, vm};

/// See to what the build and the tests need from this machine.
#[derive(clap::Args)]
pub struct Setup {}

impl Setup {
    pub fn run(self) -> Result<()> {
        everything()?;
        println!("Everything that the build and the tests need is there.");
        Ok(())
    }
}

/// A Debian package, and a file by which one sees that it, or what does the same, is there.
struct Package {
    name: &'static str,
    file: &'static str,
    purpose: &'static str,
}

// The benchmark's static program is ldconfig, which every Debian has.
const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        file: "/usr/bin/cc",
        purpose: "links Rust programs and compiles what Nomad's library has in C",
    },
    Package {
        name: "libc6-dev",
        file: "/usr/include/stdlib.h",
        purpose: "headers and start files for the C compiler",
    },
    Package {
        name: "qemu-system-x86",
        file: "/usr/bin/qemu-system-x86_64",
        purpose: "runs the VM",
    },
    Package {
        name: "cpio",
        file: "/usr/bin/cpio",
        purpose: "makes the VM's file system",
    },
    Package {
        name: "e2fsprogs",
        file: "/sbin/mkfs.ext4",
        purpose: "makes the disk that tests freeze",
    },
    Package {
        name: "util-linux",
        file: "/sbin/fsfreeze",
        purpose: "freezes it",
    },
];

/// Everything. Quick if all is there; otherwise installs what it can, and the error lists the rest.
pub fn everything() -> Result<()> {
    told([packages(), rust_target(), go_toolchain(), vm::parts().map(drop)])
}

/// The same without Go, for the VM.
pub fn machine() -> Result<()> {
    told([packages(), rust_target(), vm::parts().map(drop)])
}

fn told<const N: usize>(checks: [Result<()>; N]) -> Result<()> {
    let missing: Vec<String> = checks
        .into_iter()
        .filter_map(Result::err)
        .map(|missing| format!("  - {missing:#}"))
        .collect();
    ensure!(
        missing.is_empty(),
        "this machine lacks something:\n{}",
        missing.join("\n")
    );
    Ok(())
}

/// The standard library for the released programs, which are static.
pub fn rust_target() -> Result<()> {
    if has_rust_target()? {
        return Ok(());
    }
    if on_path("rustup").is_none() {
        bail!("Rust's standard library for {TARGET} (there is no rustup to add it with)");
    }
    step::run(
        &format!("adding the Rust target {TARGET}"),
        Command::new("rustup").args(["target", "add", TARGET]),
    )?;
    ensure!(
        has_rust_target()?,
        "Rust's standard library for {TARGET}, though rustup added it"
    );
    Ok(())
}

fn has_rust_target() -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .stderr(Stdio::null())
        .output()
        .context("rustc, which cannot be started")?;
    let libdir = String::from_utf8_lossy(&answer.stdout);
    Ok(answer.status.success() && Path::new(libdir.trim()).is_dir())
}

fn packages() -> Result<()> {
    let absent = absent_packages();
    if absent.is_empty() {
        return Ok(());
    }
    if is_root()? && on_path("apt-get").is_some() {
        step::run("updating Debian's package lists", &mut apt_get(&["update"]))?;
        let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
        install.args(absent.iter().map(|package| package.name));
        step::run("installing Debian packages", &mut install)?;
    }
    let list: Vec<String> = absent_packages()
        .iter()
        .map(|package| {
            format!(
                "{} ({}; Debian package {})",
                package.file, package.purpose, package.name
            )
        })
        .collect();
    ensure!(list.is_empty(), "{}", list.join(", "));
    Ok(())
}

/// apt-get(8), which asks nothing.
pub fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn absent_packages() -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| !Path::new(package.file).exists())
        .collect()
}

/// Go itself says if it is too old for the module and cannot fetch a newer one.
fn go_toolchain() -> Result<()> {
    ensure!(
        on_path("go").is_some(),
        "Go, which the tests with Nomad's libraries need (https://go.dev/dl)"
    );
    let answer = go::command(&["version"])
        .output()
        .context("Go, which cannot be started")?;
    ensure!(
        answer.status.success(),
        "a newer Go: {}",
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    Ok(())
}

/// Whether packages may be installed.
pub fn is_root() -> Result<bool> {
    // /proc/self belongs to the effective user (proc(5)).
    Ok(fs::metadata("/proc/self").context("a mounted /proc")?.uid() == 0)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_alone() {
        assert!(on_path("sh").is_some());
        assert!(on_path("no-such-program-of-holdfast").is_none());
    }
}
