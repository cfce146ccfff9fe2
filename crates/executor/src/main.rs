//! `holdfast-executor`: the supervisor of one task, and the same by hand.

use std::process::ExitCode;

use holdfast_executor::{cli, log, supervise};

fn main() -> ExitCode {
    // By hand, before any parser is touched: every task pays for what this path needs.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "supervise") {
        return match supervise::main(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                log::line(&format!("{e:#}"));
                ExitCode::FAILURE
            }
        };
    }
    cli::main()
}
