//! `cargo xtask vm`: a small machine with cgroup v2, every controller and every capability, for the tests that need them.
//!
//! Debian's cloud kernel under qemu's software emulation; the tests are static programs in its initramfs.

mod debian;
mod exclusion;
mod go_run;
mod image;
mod machine;
mod program;
mod report;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::step::Elapsed;
use crate::test::tally::Tally;
use crate::{root, setup};
use report::Report;

pub use debian::parts;

/// Run tests in a VM with cgroup v2, every controller and every capability.
#[derive(clap::Args)]
pub struct Vm {
    /// An interactive shell in the VM instead; the executor is in its PATH, `sh /tests.sh` runs the tests.
    #[arg(long)]
    shell: bool,
    /// Only tests whose names contain one of these.
    #[arg(conflicts_with = "shell")]
    filters: Vec<String>,
}

impl Vm {
    pub fn run(self) -> Result<ExitCode> {
        let begin = Instant::now();
        setup::machine()?;
        if self.shell {
            shell()?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut tally = tests(&self.filters)?;
        if tally.passed + tally.failed == 0 {
            tally.fail("no test has such a name");
        }
        for name in &tally.failures {
            println!("failed: {name}");
        }
        println!("took {}", Elapsed(begin.elapsed()));
        println!("vm: {tally}");
        Ok(if tally.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Builds the tests, and runs in the VM those that match, or all.
pub fn tests(filters: &[String]) -> Result<Tally> {
    let programs = program::build()?;
    let image = image::write(&folder()?, &parts()?, &programs, image::Main::Tests(filters))?;
    let mut report = Report::new(filters.is_empty());
    let mut is_success = false;
    let ended = machine::run(&image, |line| {
        // What tests that pass have said is for the report alone.
        match line {
            "successes:" => is_success = true,
            "failures:" => is_success = false,
            _ => is_success &= !line.starts_with("test result: "),
        }
        if !is_success && !line.is_empty() && (!report.hears_go() || line.starts_with("vm: ")) {
            println!("{line}");
        }
        report.hear(line);
        for news in report.news() {
            println!("{news}");
        }
    })?;
    if !report.is_done() {
        println!("the VM's kernel said last:\n{}", machine::last_words(&image));
    }
    Ok(report.tally(ended))
}

fn shell() -> Result<()> {
    let programs = program::build()?;
    let image = image::write(&folder()?, &parts()?, &programs, image::Main::Shell)?;
    println!("Ctrl-D ends the VM, Ctrl-A X kills it.");
    machine::interact(&image)
}

/// All that the VM is made of.
fn folder() -> Result<PathBuf> {
    let folder = root().join("target/vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
