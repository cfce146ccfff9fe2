//! The project's own commands: `cargo xtask VERB`, one file per verb.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod bench;
mod build;
mod demo;
mod fuzz;
mod go;
mod proto;
mod setup;
mod step;
mod test;
mod vm;

/// Commands of the project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Verb {
    /// See to what the build and the tests need from this machine.
    Setup(setup::Setup),
    /// Build the released programs into `target/dist`.
    Build(build::Build),
    /// Regenerate the message and service code from `proto/`.
    Proto(proto::Proto),
    /// Run the hello example, kill its driver, and see the task go on.
    Demo(demo::Demo),
    /// Run every test.
    Test(test::Test),
    /// Run tests in a VM with cgroup v2, every controller and every capability.
    Vm(vm::Vm),
    /// Run the fuzz targets.
    Fuzz(fuzz::Fuzz),
    /// Measure our driver beside Nomad's.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // Without the backtrace that RUST_BACKTRACE adds to what `main` returns.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    match Verb::parse() {
        Verb::Setup(verb) => verb.run(),
        Verb::Build(verb) => verb.run(),
        Verb::Proto(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Test(verb) => return verb.run(),
        Verb::Vm(verb) => return verb.run(),
        Verb::Fuzz(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The root of the work tree.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), PathBuf::from)
}
