//! Tidegate: a stock authority for flash sales. This file only starts the command line.

use std::process::ExitCode;

#[macro_use]
mod mutant;

mod backup;
mod child;
mod cli;
mod client;
mod cluster;
mod config_command;
mod demo;
mod directory_metrics;
mod key;
mod load;
mod log_lines;
mod logging;
mod manual;
mod node;
mod options;
mod parallel;
mod process_metrics;
mod recovery;
mod replay;
mod sd_notify;
mod serve;
mod target;
mod telemetry;
mod upkeep;
mod upkeep_metrics;
mod verify;

/// A reservation's memory is mostly taken on one thread and given back on another, and what millions of them took that are over must go back to
/// the machine: the C library's allocator does both badly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
