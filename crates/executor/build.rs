//! Builds the init, which rides inside the executor. It is a program without libc for the same kernel, whatever libc the executor
//! itself is built for, so it is compiled by rustc as it stands and not as a cargo target.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let init =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("../init/src");
    println!("cargo:rerun-if-changed={}", init.display());
    let library = out.join("libholdfast_init.rlib");
    let program = out.join("holdfast-init");
    // What the tests need of it (see `point.rs`), without the checks that only bloat it.
    let assertions = match env::var("PROFILE").as_deref() {
        Ok("debug") => "-Cdebug-assertions=on",
        _ => "-Cdebug-assertions=off",
    };
    let common = [
        "--edition=2024",
        "-Cpanic=abort",
        "-Copt-level=z",
        "-Coverflow-checks=off",
        assertions,
        "--cap-lints=allow",
    ];
    rustc(&common, |rustc| {
        rustc
            .args(["--crate-type=rlib", "--crate-name=holdfast_init", "-o"])
            .arg(&library)
            .arg(init.join("lib.rs"))
    });
    rustc(&common, |rustc| {
        rustc
            .args([
                "--crate-type=bin",
                "--crate-name=holdfast_init_elf",
                "-Clto=fat",
                "-Cstrip=symbols",
            ])
            .args([
                "-Crelocation-model=static",
                "-Clink-arg=-nostartfiles",
                "-Clink-arg=-nostdlib",
            ])
            .args(["-Clink-arg=-static", "-Clink-arg=-no-pie"])
            .arg(format!("--extern=holdfast_init={}", library.display()))
            .arg("-o")
            .arg(&program)
            .arg(init.join("main.rs"))
    });
    let content = fs::read(&program).expect("rustc has written the program");
    let hash: String = Sha256::digest(content)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo:rustc-env=HOLDFAST_INIT={}", program.display());
    println!("cargo:rustc-env=HOLDFAST_INIT_HASH={hash}");
}

fn rustc<'a>(common: &[&str], arguments: impl FnOnce(&mut Command) -> &mut Command + 'a) {
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command.args(common);
    arguments(&mut command);
    let status = command.status().expect("rustc can be run");
    assert!(status.success(), "building the init failed: {command:?}");
}
