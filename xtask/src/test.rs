//! `cargo xtask test`: every test of the project, by three runners, and one line that counts them.

mod go;
pub mod rust;
pub mod tally;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::build::{self, Dist};
use crate::step::Elapsed;
use crate::{setup, vm};
use tally::Tally;

/// Run every test.
#[derive(clap::Args)]
pub struct Test {
    /// Also run what takes hours: ignored Rust tests, and Go tests that look at HOLDFAST_LONG.
    #[arg(long)]
    long: bool,
    /// One runner alone.
    #[arg(long, value_enum)]
    only: Option<Runner>,
}

/// Who runs tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runner {
    /// The workspace's unit and process tests.
    Rust,
    /// Those of them that resources and privileges matter to, in a VM with cgroup v2.
    Vm,
    /// The driver under Nomad's client library and a real agent.
    Nomad,
}

impl Test {
    pub fn run(self) -> Result<ExitCode> {
        let begin = Instant::now();
        setup::everything()?;
        let dist = build::dist()?;
        let mut total = Tally::default();
        for runner in Runner::value_variants() {
            if self.only.is_none_or(|only| only == *runner) {
                total.add(runner.run(&dist, self.long)?);
            }
        }
        for name in &total.failures {
            println!("failed: {name}");
        }
        println!("took {}", Elapsed(begin.elapsed()));
        println!("{total}");
        Ok(if total.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl Runner {
    fn run(self, dist: &Dist, long: bool) -> Result<Tally> {
        let (name, mut tally) = match self {
            Runner::Rust => ("rust", rust::run(dist, long)?),
            Runner::Vm => ("vm", vm::tests(&[])?),
            Runner::Nomad => ("nomad", go::run(dist, long)?),
        };
        if tally.passed + tally.failed == 0 {
            tally.fail(format!("{name}: no test was run"));
        }
        println!("{name}: {tally}");
        Ok(tally)
    }
}

/// What tests of this machine find in their environment.
fn prepare(command: &mut Command, dist: &Dist, long: bool) {
    command.env("HOLDFAST_DRIVER", &dist.driver);
    // They would test other programs, or the agent with other certificates.
    for name in ["HOLDFAST_EXECUTOR", "AWS_CA_BUNDLE", "HOLDFAST_LONG"] {
        command.env_remove(name);
    }
    if long {
        command.env("HOLDFAST_LONG", "1");
    }
}
