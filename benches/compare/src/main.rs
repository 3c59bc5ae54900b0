//! `tidegate-compare`: the command line of the comparison.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tidegate_benches::error::BenchError;
use tidegate_benches::floor::{FixedAnswer, serve_fixed};
use tidegate_benches::machine::Machine;
use tidegate_benches::signals;
use tidegate_compare::compare::{self, Parameters, Subject};
use tidegate_compare::node::Places;
use tidegate_compare::programs::{Programs, install};
use tidegate_compare::report::Report;
use tidegate_compare::{plot, targets::targets};

/// Gives Tidegate and its peers the same work in turns, and prints how they did. A peer that is not installed is left out.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Install missing peers with apt-get, which needs root. None of their services is started.
    #[arg(long)]
    install: bool,
    /// Run everything in seconds: shows that it works, measures nothing.
    #[arg(long)]
    short: bool,
    /// How often each side is measured. Default: 5, with --short 1.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// How long each run is measured, in seconds, after a quarter of that which does not count. Default: 4.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=600), conflicts_with = "short")]
    seconds: Option<u16>,
    /// What is compared. Default: everything.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Write the figures, every run with them, to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures to this file as a picture.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Where data directories are made. Default: the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The node's program. Default: `tidegate` beside this program; `cargo build --release` makes it.
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The floor under the HTTP figures; the comparison starts it itself.
    #[command(hide = true)]
    ServeFixed {
        #[arg(long)]
        status: u16,
        #[arg(long)]
        body_bytes: usize,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), BenchError> {
    if let Some(Part::ServeFixed { status, body_bytes }) = cli.part {
        return serve_fixed(FixedAnswer { status, body_bytes });
    }
    signals::watch()?;
    let directory = cli.directory.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::look(&directory);
    if machine.syncs_to_memory() && !cli.short {
        let (directory, kind) = (directory.display(), &machine.file_system);
        let advice = "name a folder on a disk with --directory";
        return Err(BenchError::Wrong(format!("{directory} is on {kind}, where a sync costs nothing: {advice}")));
    }
    let places = places(cli)?;
    let mut programs = Programs::find();
    if cli.install && !programs.missing().is_empty() {
        install(&programs.missing())?;
        programs = Programs::find();
    }
    let skipped: Vec<String> = programs.missing().iter().map(ToString::to_string).collect();
    for line in &skipped {
        eprintln!("{line}");
    }
    let versions = programs.versions();

    let parameters = parameters(cli, places, programs);
    let outcomes = compare::run(&parameters, &mut |line| eprintln!("{line}"))?;
    let targets = if cli.short { Vec::new() } else { targets(&outcomes) };
    let report = Report { machine, versions, skipped, outcomes, targets };
    if let Some(path) = &cli.json {
        std::fs::write(path, report.json()).map_err(BenchError::io(path.display().to_string()))?;
    }
    if let Some(path) = &cli.plot {
        let Machine { processor, cores, .. } = &report.machine;
        let under = format!("{processor}, {cores} cores that the callers share, medians of {} runs", parameters.runs);
        std::fs::write(path, plot::svg(&report.outcomes, &under)).map_err(BenchError::io(path.display().to_string()))?;
    }
    print!("{report}");
    if cli.short {
        println!("\nA short run shows that everything works. It measures nothing.");
    }
    Ok(())
}

fn parameters(cli: &Cli, places: Places, programs: Programs) -> Parameters {
    let mut parameters = if cli.short { Parameters::short(places, programs) } else { Parameters::full(places, programs) };
    if let Some(runs) = cli.runs {
        parameters.runs = usize::from(runs);
    }
    if let Some(seconds) = cli.seconds {
        parameters.measured = Duration::from_secs(seconds.into());
        parameters.warm_up = parameters.measured / 4;
    }
    if !cli.only.is_empty() {
        parameters.subjects.clone_from(&cli.only);
    }
    parameters
}

fn places(cli: &Cli) -> Result<Places, BenchError> {
    let compare = std::env::current_exe().map_err(BenchError::io("this program's own path"))?;
    let tidegate = cli.tidegate.clone().unwrap_or_else(|| compare.with_file_name("tidegate"));
    if !tidegate.is_file() {
        let tidegate = tidegate.display();
        let advice = "make it with `cargo build --release`, or name it with --tidegate";
        return Err(BenchError::Wrong(format!("{tidegate} is missing: {advice}")));
    }
    Ok(Places { tidegate, compare, directory: cli.directory.clone() })
}
