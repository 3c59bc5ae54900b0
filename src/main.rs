//! Tidegate: a stock authority for flash sales. This file only starts the command line.

use std::process::ExitCode;

mod child;
mod cli;
mod client;
mod demo;
mod logging;
mod node;
mod options;
mod parallel;
mod replay;
mod serve;
mod verify;

fn main() -> ExitCode {
    cli::run()
}
