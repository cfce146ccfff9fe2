//! `completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use super::{PROGRAM, print};

/// `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor completions bash >/etc/bash_completion.d/holdfast-executor
  holdfast-executor completions zsh >/usr/local/share/zsh/site-functions/_holdfast-executor
  holdfast-executor completions fish >~/.config/fish/completions/holdfast-executor.fish")]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Completions {
    pub fn run(self, mut parser: clap::Command) -> Result<ExitCode> {
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => generate(Bash, &mut parser, PROGRAM, &mut script),
            Shell::Fish => generate(Fish, &mut parser, PROGRAM, &mut script),
            Shell::Zsh => generate(Zsh, &mut parser, PROGRAM, &mut script),
        }
        print(script)?;
        Ok(ExitCode::SUCCESS)
    }
}
