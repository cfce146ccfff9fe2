//! The project's own commands: `cargo xtask VERB`, one file per verb.

use std::path::PathBuf;

use clap::Parser;

mod proto;

/// Commands of the project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Verb {
    /// Regenerate the message and service code from `proto/`.
    Proto(proto::Proto),
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Proto(verb) => verb.run(),
    }
}

/// The root of the work tree.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
