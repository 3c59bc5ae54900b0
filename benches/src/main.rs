//! `tidegate-bench`: the command line of the benches.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidegate_benches::engine::{self, EngineParameters, Log};
use tidegate_benches::error::BenchError;
use tidegate_benches::figure::Figure;
use tidegate_benches::floor::{FixedAnswer, serve_fixed};
use tidegate_benches::groups::{self, GroupsParameters};
use tidegate_benches::http::{self, HttpParameters};
use tidegate_benches::machine::Machine;
use tidegate_benches::recovery::{self, RecoveryParameters};
use tidegate_benches::report::Report;
use tidegate_benches::rules::{self, RulesParameters};
use tidegate_benches::sample::SEED;

/// Measures Tidegate and prints its figures with what one must know to read them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Bench {
    /// All of them, in one table.
    All,
    /// Reservations and sold-out answers over HTTP, beside axum answering a fixed JSON.
    Http {
        /// Numbers of connections. Default: 64,256.
        #[arg(long, value_delimiter = ',')]
        connections: Vec<usize>,
    },
    /// Reservations in process: one shard over the real log, and over one that commits at once.
    Engine {
        /// What an answer survives (`power_loss`, `process_crash`, `none`), or a log that does nothing (`instant`). Default: all but `none`.
        #[arg(long, value_delimiter = ',')]
        logs: Vec<Log>,
        /// Numbers of commands in flight. Default: 1,256,1024,4096.
        #[arg(long, value_delimiter = ',')]
        in_flight: Vec<usize>,
    },
    /// The log alone with groups of 1 to 10,000 events, beside a bare write and fdatasync.
    Groups {
        /// Events in a group. Default: 1,10,100,1000,10000.
        #[arg(long, value_delimiter = ',')]
        group_events: Vec<u64>,
    },
    /// Opening and replaying a log of a million reservations.
    Recovery,
    /// The rules alone, on one thread.
    Rules,
    /// The floor under the HTTP figures; the benches start it themselves.
    #[command(hide = true)]
    ServeFixed {
        #[arg(long)]
        status: u16,
        #[arg(long)]
        body_bytes: usize,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Run in a second or so: shows that a bench works, measures nothing.
    #[arg(long, global = true)]
    tiny: bool,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// How often each figure is measured, which is then the median. Default: 3 to 6, by bench.
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Where data directories are made. Default: the system's folder for temporary files.
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The node's program. Default: `tidegate` beside this program; `cargo build --release` makes it.
    #[arg(long, global = true, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), BenchError> {
    if let Bench::ServeFixed { status, body_bytes } = cli.bench {
        return serve_fixed(FixedAnswer { status, body_bytes });
    }
    let directory = cli.options.directory.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::look(&directory);
    if machine.syncs_to_memory() && !cli.options.tiny {
        let (directory, kind) = (directory.display(), &machine.file_system);
        return Err(BenchError::Wrong(format!(
            "{directory} is on {kind}, where a sync costs nothing: name a folder on a disk with --directory"
        )));
    }
    let figures = match &cli.bench {
        Bench::All => all().iter().map(|bench| figures(bench, &cli.options)).collect::<Result<Vec<_>, _>>()?.concat(),
        bench => figures(bench, &cli.options)?,
    };
    let report = Report { machine, seed: SEED, figures };
    if cli.options.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(())
}

fn all() -> [Bench; 5] {
    [
        Bench::Rules,
        Bench::Groups { group_events: Vec::new() },
        Bench::Engine { logs: Vec::new(), in_flight: Vec::new() },
        Bench::Recovery,
        Bench::Http { connections: Vec::new() },
    ]
}

/// What was named, or else the bench's own.
fn or_own<T: Clone>(named: &[T], own: &mut Vec<T>) {
    if !named.is_empty() {
        named.clone_into(own);
    }
}

fn figures(bench: &Bench, options: &Options) -> Result<Vec<Figure>, BenchError> {
    let directory = options.directory.clone();
    let runs = |own: usize| options.runs.map_or(own, usize::from);
    Ok(match bench {
        Bench::Rules => {
            let parameters = if options.tiny { RulesParameters::TINY } else { RulesParameters::FULL };
            rules::run(RulesParameters { runs: runs(parameters.runs), ..parameters })?
        }
        Bench::Groups { group_events } => {
            let mut parameters = if options.tiny { GroupsParameters::tiny(directory) } else { GroupsParameters::full(directory) };
            parameters.runs = runs(parameters.runs);
            or_own(group_events, &mut parameters.group_events);
            groups::run(&parameters)?
        }
        Bench::Engine { logs, in_flight } => {
            let mut parameters = if options.tiny { EngineParameters::tiny(directory) } else { EngineParameters::full(directory) };
            parameters.runs = runs(parameters.runs);
            or_own(logs, &mut parameters.logs);
            or_own(in_flight, &mut parameters.in_flight);
            engine::run(&parameters)?.into_iter().map(|(figure, _)| figure).collect()
        }
        Bench::Recovery => {
            let parameters = if options.tiny { RecoveryParameters::tiny(directory) } else { RecoveryParameters::full(directory) };
            vec![recovery::run(&RecoveryParameters { runs: runs(parameters.runs), ..parameters })?]
        }
        Bench::Http { connections } => {
            let (tidegate, bench) = programs(options)?;
            let mut parameters = if options.tiny {
                HttpParameters::tiny(tidegate, bench, directory)
            } else {
                HttpParameters::full(tidegate, bench, directory)
            };
            parameters.runs = runs(parameters.runs);
            or_own(connections, &mut parameters.connections);
            http::run(&parameters)?.into_iter().map(|(figure, _)| figure).collect()
        }
        Bench::All | Bench::ServeFixed { .. } => Vec::new(),
    })
}

/// The node's program and this one.
fn programs(options: &Options) -> Result<(PathBuf, PathBuf), BenchError> {
    let bench = std::env::current_exe().map_err(BenchError::io("this program's own path"))?;
    let tidegate = options.tidegate.clone().unwrap_or_else(|| bench.with_file_name("tidegate"));
    if !tidegate.is_file() {
        let tidegate = tidegate.display();
        return Err(BenchError::Wrong(format!(
            "{tidegate} is missing: make it with `cargo build --release`, or name it with --tidegate"
        )));
    }
    Ok((tidegate, bench))
}
