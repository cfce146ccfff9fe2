//! `holdfast-executor`: the supervisor of one task, and the same by hand.

use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;
use holdfast_executor::{cli, drain, log, supervise};

/// The one of musl gives each size a page of its own and hands it back at once, which a start pays for with a hundred system calls and
/// as many page faults.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    // By hand, before any parser is touched: every task pays for what this path needs.
    let mut arguments = std::env::args_os().skip(1);
    let ran = match arguments.next() {
        Some(first) if first == "supervise" => supervise::main(arguments),
        Some(first) if first == "drain" => drain::main(arguments),
        _ => return cli::main(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::line(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}
