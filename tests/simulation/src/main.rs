//! Runs seeds of the simulation, and prints what happened and what was found. Exits with 0 only if nothing was.

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use clap::Parser;
use tidegate_simulation::{Defect, run_many, run_seed};

/// A whole cluster on one thread, with partitions, losses, crashes, power cuts and wrong clocks from a seed. Exits with 0 only if every promise held.
#[derive(Debug, Parser)]
#[command(name = "tidegate-simulation")]
struct Cli {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this one, with a trace of what happened
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Threads, each of which runs one seed at a time; as many as the machine has processors if none is given
    #[arg(long)]
    threads: Option<usize>,
    /// Something that is wrong on purpose, and must be found
    #[arg(long, value_enum)]
    defect: Option<Defect>,
    /// Seeds with findings after which no other is begun
    #[arg(long, default_value_t = 20)]
    stop_at: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.seed {
        let run = run_seed(seed, cli.defect, true);
        for line in &run.trace {
            println!("{line}");
        }
        println!("seed {seed}, digest {:016x}", run.digest);
        for (what, count) in &run.counts {
            println!("  {what:<38} {count:>10}");
        }
        for finding in &run.findings {
            println!("finding of seed {seed}: {finding}");
        }
        return if run.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let threads = cli.threads.or_else(|| available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let began = Instant::now();
    let tally = run_many(cli.first, cli.seeds, cli.defect, threads, cli.stop_at);
    println!(
        "simulation: seeds {} to {}, {:.0} s on {threads} threads",
        cli.first,
        cli.first + cli.seeds - 1,
        began.elapsed().as_secs_f64()
    );
    print!("{tally}");
    if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
