//! `man`: the manual, from the same words as the help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use clap_mangen::Man as Page;

use super::print;

/// `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  holdfast-executor man | man -l -
  holdfast-executor man /usr/local/share/man/man1")]
pub struct Man {
    /// Write the pages of the program and of each command into this folder
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub fn run(self, parser: clap::Command) -> Result<ExitCode> {
        match &self.folder {
            None => print(page(parser)?)?,
            Some(folder) => write_all(parser, folder)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn page(parser: clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Page::new(parser).render(&mut text).context("rendering a manual page")?;
    Ok(text)
}

/// `<program>.1`, and `<program>-<command>.1` for each command.
fn write_all(mut parser: clap::Command, folder: &Path) -> Result<()> {
    // Gives each command its full name and the global options.
    parser.build();
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let commands: Vec<clap::Command> = parser
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .cloned()
        .collect();
    for command in std::iter::once(parser).chain(commands) {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let path = folder.join(format!("{name}.1"));
        fs::write(&path, page(command)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
