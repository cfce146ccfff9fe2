//! `holdfast-driver`: a task driver for Nomad.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dlmalloc::GlobalDlmalloc;
use holdfast_driver::doctor::Doctor;
use holdfast_driver::options::page;
use holdfast_driver::plugin::{self, HANDSHAKE};
use holdfast_driver::plugin_name::{PluginName, UnknownName};

/// The one of musl makes a system call of every other allocation.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// A task driver for Nomad. Without a subcommand it is a plugin, which only an agent can start.
#[derive(Debug, Parser)]
#[command(name = "holdfast-driver", version)]
struct Arguments {
    /// The plugin's name, which decides the profile: raw_exec, holdfast_raw, exec or holdfast. Without it: the name of
    /// the driver's file.
    #[arg(long)]
    name: Option<PluginName>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the reference page of all options in Markdown.
    Options,
    /// Runs job files without Nomad.
    #[command(subcommand)]
    Agent(holdfast_agent::cli::Agent),
    Doctor(Doctor),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Options) => print_options(),
        Some(Command::Agent(agent)) => match agent.run() {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Some(Command::Doctor(doctor)) => match doctor.run(|| plugin_name(arguments.name)) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        None => {
            HANDSHAKE.require_host();
            plugin_name(arguments.name).map_err(Into::into).and_then(plugin::serve)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error may be a pipe whose reader is gone.
            let _ = writeln!(std::io::stderr(), "holdfast-driver: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_options() -> anyhow::Result<()> {
    std::io::stdout().write_all(page::markdown().as_bytes())?;
    Ok(())
}

fn plugin_name(named: Option<PluginName>) -> Result<PluginName, UnknownName> {
    match named {
        Some(name) => Ok(name),
        None => PluginName::of_program(&std::env::args_os().next().unwrap_or_default()),
    }
}
