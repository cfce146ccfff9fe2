//! `cargo xtask bench`: our driver and Nomad's raw_exec and exec, served as plugins, in one run on this host.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, go, setup, step};

/// Measure our driver beside Nomad's.
#[derive(clap::Args)]
pub struct Bench {
    /// Fail if a promise of the project is not kept.
    #[arg(long)]
    check: bool,
    /// As many tasks and as many starts and stops as the promises are made for: 1,000 that are sampled, 10,000 cycles.
    #[arg(long)]
    long: bool,
    /// Further arguments of the benchmark, such as `-tasks 200` or `-json FILE`; `-help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        setup::everything()?;
        let dist = build::dist()?;
        let programs = go::build(&["./cmd/bench", "./cmd/nomad-raw-exec", "./cmd/nomad-exec"])?;
        // Not in the module's folder: a file that is to be written lies where the caller is.
        let mut bench = std::process::Command::new(programs.join("bench"));
        bench
            .arg("-driver")
            .arg(dist.driver)
            .arg("-nomad")
            .arg(programs.join("nomad-raw-exec"))
            .arg("-nomad-exec")
            .arg(programs.join("nomad-exec"));
        bench.args(self.check.then_some("-check"));
        bench.args(self.long.then_some("-long"));
        bench.args(self.arguments);
        // Another executor than the one under test.
        bench.env_remove("HOLDFAST_EXECUTOR");
        step::run("measuring", &mut bench)
    }
}
