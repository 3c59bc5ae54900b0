//! Shows a sceptic that the promises hold, one level at a time; each run prints what it tried and what it found, and exits with 0 only if
//! nothing was. What is tried and what is not stands in `tests/README.md`.

mod cluster;
mod disk;
mod figures;
mod files;
mod history;
mod hostile;
mod machine;
mod mutants;
mod overload;
mod paced;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tries Tidegate's promises, level by level. Exits with 0 only if every one held.
#[derive(Debug, Parser)]
#[command(name = "tidegate-proof")]
struct Cli {
    #[command(subcommand)]
    level: Level,
}

#[derive(Debug, Subcommand)]
enum Level {
    /// The log over a disk that loses, tears, flips, fills up, fails and is slow: crashed at every sync and at every write in turn
    Disk(disk::Options),
    /// The whole data directory, crashed behind every operation on its files. Needs strace
    Files(files::Options),
    /// Concurrent clients of a real node: is there an order of their calls that explains every answer?
    History(history::Options),
    /// A cluster of real nodes under load, killed, frozen, cut off, filled up, renewed: is every answer there once, and on every node?
    Cluster(cluster::Options),
    /// Deliberate defects, each by itself: does any test fail?
    Mutants(mutants::Options),
    /// Hostile connections beside a healthy client of a real node: does the client notice, and does the node get over it?
    Hostile(hostile::Options),
    /// Three times what a real node can do: is the rest refused at once, and does what is admitted go on as before?
    Overload(overload::Options),
    /// A long time under mixed load of a real node: is what it takes level, and is every unit where it should be?
    Soak(soak::Options),
    #[command(hide = true)]
    FilesWriter {
        #[arg(long)]
        data_dir: PathBuf,
        #[arg(long)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    match Cli::parse().level {
        Level::Disk(options) => disk::run(&options),
        Level::Files(options) => files::run(&options),
        Level::History(options) => history::run(&options),
        Level::Cluster(options) => cluster::run(&options),
        Level::Mutants(options) => mutants::run(&options),
        Level::Hostile(options) => hostile::run(&options),
        Level::Overload(options) => overload::run(&options),
        Level::Soak(options) => soak::run(&options),
        Level::FilesWriter { data_dir, seed } => match files::write(&data_dir, seed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(what) => {
                eprintln!("{what}");
                ExitCode::FAILURE
            }
        },
    }
}
