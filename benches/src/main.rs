//! `tidegate-bench`: the command line of the benches.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidegate_benches::child;
use tidegate_benches::cluster::{self, ClusterParameters};
use tidegate_benches::committed::{self, Committed, judge};
use tidegate_benches::compaction::{self, CompactionParameters};
use tidegate_benches::engine::{self, EngineParameters, Log};
use tidegate_benches::error::BenchError;
use tidegate_benches::eviction::{self, EvictionParameters};
use tidegate_benches::expiry::{self, ExpiryParameters};
use tidegate_benches::figure::Figure;
use tidegate_benches::floor::{FixedAnswer, serve_fixed};
use tidegate_benches::groups::{self, GroupsParameters};
use tidegate_benches::history::{self, HistoryParameters};
use tidegate_benches::hot_path::HotPath;
use tidegate_benches::http::{self, HttpParameters};
use tidegate_benches::instructions::{self, InstructionsParameters};
use tidegate_benches::machine::Machine;
use tidegate_benches::memory::{self, MemoryParameters};
use tidegate_benches::past::{self, PastParameters};
use tidegate_benches::picture::{self, PictureParameters, Subject};
use tidegate_benches::recovery::{self, RecoveryParameters};
use tidegate_benches::report::Report;
use tidegate_benches::rules::{self, RulesParameters};
use tidegate_benches::sample::SEED;
use tidegate_benches::signals;
use tidegate_benches::snapshot::{self, SnapshotParameters};
use tidegate_engine::EngineOptions;
use tidegate_persistence::Durability;

/// That of the program, because some benches are a node themselves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Tidegate and prints its figures with what one must know to read them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Clone, PartialEq, Subcommand)]
enum Bench {
    /// Rules, groups, engine, recovery, history and http, in one table.
    All,
    /// Memory, snapshot, expiry, eviction and compaction, in one table.
    Tiers,
    /// Reservations and sold-out answers over HTTP, beside axum answering a fixed JSON.
    Http {
        /// Numbers of connections. Default: 64,256.
        #[arg(long, value_delimiter = ',')]
        connections: Vec<usize>,
    },
    /// Reservations over HTTP: one node that stands alone, a cluster of one voter, and one of three nodes on this machine, in turns.
    Cluster {
        /// Keep-alive connections. Default: 256.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        connections: Option<u16>,
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
    /// Putting, reading and forgetting reservations that are over.
    History {
        /// Numbers of records. Default: 2000000,10000000.
        #[arg(long, value_delimiter = ',')]
        records: Vec<u64>,
    },
    /// Resident memory of open reservations: without keys and references, with keys, with references.
    Memory {
        /// Open reservations. Default: 10000000.
        #[arg(long)]
        reservations: Option<u64>,
        /// The ledger alone, without engine and log.
        #[arg(long)]
        ledger_only: bool,
        /// What an answer survives. Default: `power_loss`.
        #[arg(long)]
        durability: Option<Durability>,
    },
    /// Callers at a steady pace without and with a snapshot being made; then serving again from it.
    Snapshot {
        /// MiB of the snapshot that are written in a second at most. Default: as a node has it.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
        mib_per_second: Option<u64>,
        /// Holds when the callers begin to come. Default: 10000000.
        #[arg(long)]
        holds: Option<u64>,
        /// Callers in a second. Default: half of what the node reaches with 1,024 in flight.
        #[arg(long, value_parser = pace)]
        rate: Option<f64>,
        /// What an answer survives. Default: `power_loss`.
        #[arg(long)]
        durability: Option<Durability>,
    },
    /// Many holds that fall due at once, and the callers meanwhile.
    Expiry {
        /// Payload bytes of a group of the log at most, in KiB. Default: as a node has it.
        #[arg(long)]
        group_kib: Option<usize>,
        /// Groups in flight at most. Default: as a node has it.
        #[arg(long)]
        groups_in_flight: Option<usize>,
        /// Resolved reservations that stay in memory. Default: as a node has it.
        #[arg(long)]
        kept: Option<usize>,
        /// Holds that fall due together. Default: 1000000.
        #[arg(long)]
        holds: Option<u64>,
        /// Callers in a second. Default: 2000.
        #[arg(long, value_parser = pace)]
        rate: Option<f64>,
        /// What an answer survives. Default: `power_loss`.
        #[arg(long)]
        durability: Option<Durability>,
    },
    /// Confirms while what is over leaves memory, returns of what has left, and memory as reservations go by.
    Eviction {
        /// Reservations that are confirmed. Default: 1000000.
        #[arg(long)]
        reservations: Option<u64>,
        /// Resolved reservations that stay in memory. Default: 10000.
        #[arg(long)]
        kept: Option<usize>,
        /// Reservations that go by while memory is watched. Default: 5000000.
        #[arg(long)]
        grown: Option<u64>,
        /// What an answer survives. Default: `power_loss`.
        #[arg(long)]
        durability: Option<Durability>,
    },
    /// The log's space under a steady load with snapshots.
    Compaction {
        /// How long the load lasts, in seconds. Default: 40.
        #[arg(long)]
        seconds: Option<u64>,
        /// What an answer survives. Default: `power_loss`.
        #[arg(long)]
        durability: Option<Durability>,
    },
    /// The same sale on a node with millions of reservations in its history and on one with none.
    Past {
        /// Reservations in the history. Default: 5000000.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=500_000_000))]
        reservations: Option<u64>,
    },
    /// Plots of throughput, latency and cost against connections, commands in a batch, products, open reservations and history, with all
    /// figures as JSON.
    Picture {
        /// The folder for the plots and `picture.json`, made if it is missing.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What varies. Default: everything.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Subject>,
    },
    /// Opening and replaying a log of a million reservations.
    Recovery,
    /// The rules alone, on one thread.
    Rules,
    /// Instructions of the hot path, counted by valgrind and held against the committed counts. Fails when one grew by more than 5 %.
    Instructions {
        /// Pieces of the hot path. Default: all.
        pieces: Vec<HotPath>,
        /// The committed counts.
        #[arg(long, value_name = "FILE", default_value = committed::FILE)]
        figures: PathBuf,
        /// Take over what has moved by more than 5 %, is new, or was counted with another toolchain, for this reason.
        #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        accept: Option<String>,
    },
    /// A part of a bench in a process of its own; the benches start it themselves.
    #[command(hide = true)]
    Part {
        /// What to do, as JSON.
        part: String,
    },
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
    if let Bench::Part { part } = &cli.bench {
        println!("{}", child::serve(part)?);
        return Ok(());
    }
    if let Bench::Instructions { pieces, figures, accept } = &cli.bench {
        let pieces = if pieces.is_empty() { HotPath::ALL.to_vec() } else { pieces.clone() };
        return count_instructions(pieces, figures, accept.as_deref(), &cli.options);
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
        Bench::All => figures_of(&all(), &cli.options)?,
        Bench::Tiers => figures_of(&tiers(), &cli.options)?,
        Bench::Picture { out, only } => picture(out, only, machine.clone(), &cli.options)?,
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

fn all() -> [Bench; 6] {
    [
        Bench::Rules,
        Bench::Groups { group_events: Vec::new() },
        Bench::Engine { logs: Vec::new(), in_flight: Vec::new() },
        Bench::Recovery,
        Bench::History { records: Vec::new() },
        Bench::Http { connections: Vec::new() },
    ]
}

fn tiers() -> [Bench; 5] {
    [
        Bench::Memory { reservations: None, ledger_only: false, durability: None },
        Bench::Snapshot { mib_per_second: None, holds: None, rate: None, durability: None },
        Bench::Expiry { group_kib: None, groups_in_flight: None, kept: None, holds: None, rate: None, durability: None },
        Bench::Eviction { reservations: None, kept: None, grown: None, durability: None },
        Bench::Compaction { seconds: None, durability: None },
    ]
}

fn figures_of(benches: &[Bench], options: &Options) -> Result<Vec<Figure>, BenchError> {
    Ok(benches.iter().map(|bench| figures(bench, options)).collect::<Result<Vec<_>, _>>()?.concat())
}

/// Callers in a second.
fn pace(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (1.0..=1e9).contains(&rate) { Ok(rate) } else { Err(format!("is {rate} where 1 to 1000000000 are allowed")) }
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
        Bench::History { records } => {
            let mut parameters = if options.tiny { HistoryParameters::tiny(directory) } else { HistoryParameters::full(directory) };
            or_own(records, &mut parameters.records);
            history::run(&parameters)?
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
        Bench::Cluster { connections } => {
            // Nodes of a run that is given up end with it.
            signals::watch()?;
            let tidegate = node_program(options)?;
            let own = if options.tiny {
                ClusterParameters::tiny(tidegate, directory)
            } else {
                ClusterParameters::full(tidegate, directory)
            };
            let connections = connections.map_or(own.connections, usize::from);
            cluster::run(&ClusterParameters { connections, runs: runs(own.runs), ..own })?
        }
        Bench::Memory { reservations, ledger_only, durability } => {
            let program = this_program()?;
            let own =
                if options.tiny { MemoryParameters::tiny(program, directory) } else { MemoryParameters::full(program, directory) };
            memory::run(&MemoryParameters {
                reservations: reservations.unwrap_or(own.reservations),
                ledger_only: *ledger_only,
                durability: durability.unwrap_or(own.durability),
                ..own
            })?
        }
        Bench::Snapshot { mib_per_second, holds, rate, durability } => {
            let program = this_program()?;
            let own = if options.tiny {
                SnapshotParameters::tiny(program, directory)
            } else {
                SnapshotParameters::full(program, directory)
            };
            snapshot::run(&SnapshotParameters {
                bytes_per_second: mib_per_second.map_or(own.bytes_per_second, |mib| mib * 1_048_576),
                holds: holds.unwrap_or(own.holds),
                rate: rate.or(own.rate),
                durability: durability.unwrap_or(own.durability),
                rounds: runs(own.rounds),
                ..own
            })?
        }
        Bench::Expiry { group_kib, groups_in_flight, kept, holds, rate, durability } => {
            let own = if options.tiny { ExpiryParameters::tiny(directory) } else { ExpiryParameters::full(directory) };
            let machine = EngineOptions {
                group_bytes_max: group_kib.map_or(own.options.group_bytes_max, |kib| kib * 1_024),
                groups_in_flight_max: groups_in_flight.unwrap_or(own.options.groups_in_flight_max),
                resolved_in_memory_max: kept.unwrap_or(own.options.resolved_in_memory_max),
                ..own.options
            };
            expiry::run(&ExpiryParameters {
                options: machine,
                holds: holds.unwrap_or(own.holds),
                rate: rate.unwrap_or(own.rate),
                durability: durability.unwrap_or(own.durability),
                rounds: runs(own.rounds),
                ..own
            })?
        }
        Bench::Eviction { reservations, kept, grown, durability } => {
            let own = if options.tiny { EvictionParameters::tiny(directory) } else { EvictionParameters::full(directory) };
            eviction::run(&EvictionParameters {
                reservations: reservations.unwrap_or(own.reservations),
                kept: kept.unwrap_or(own.kept),
                grown: grown.unwrap_or(own.grown),
                durability: durability.unwrap_or(own.durability),
                runs: runs(own.runs),
                ..own
            })?
        }
        Bench::Compaction { seconds, durability } => {
            let own = if options.tiny { CompactionParameters::tiny(directory) } else { CompactionParameters::full(directory) };
            compaction::run(&CompactionParameters {
                measured: seconds.map_or(own.measured, Duration::from_secs),
                durability: durability.unwrap_or(own.durability),
                ..own
            })?
        }
        Bench::Past { reservations } => {
            // A run takes long and fills a disk: one that is given up leaves neither nodes nor data behind.
            signals::watch()?;
            let tidegate = node_program(options)?;
            let own =
                if options.tiny { PastParameters::tiny(tidegate, directory) } else { PastParameters::full(tidegate, directory) };
            let parameters = PastParameters { past: reservations.unwrap_or(own.past), rounds: runs(own.rounds), ..own };
            past::run(&parameters, &mut |line| eprintln!("{line}"))?
        }
        Bench::All
        | Bench::Tiers
        | Bench::Picture { .. }
        | Bench::Instructions { .. }
        | Bench::Part { .. }
        | Bench::ServeFixed { .. } => Vec::new(),
    })
}

/// Measures, and writes the plots.
fn picture(out: &Path, only: &[Subject], machine: Machine, options: &Options) -> Result<Vec<Figure>, BenchError> {
    // A run takes long and fills a disk: one that is given up leaves neither nodes nor data behind.
    signals::watch()?;
    let (tidegate, directory) = (node_program(options)?, options.directory.clone());
    let own =
        if options.tiny { PictureParameters::tiny(tidegate, directory) } else { PictureParameters::full(tidegate, directory) };
    let runs = |own: usize| options.runs.map_or(own, usize::from);
    let mut parameters = PictureParameters { runs: runs(own.runs), rounds: runs(own.rounds), ..own };
    or_own(only, &mut parameters.subjects);
    let picture = picture::run(&parameters, machine, &mut |line| eprintln!("{line}"))?;
    for file in picture.write(out)? {
        eprintln!("written: {}", file.display());
    }
    Ok(picture.figures())
}

/// Counts, shows how the counts stand to the committed ones, and takes them over or judges them.
fn count_instructions(pieces: Vec<HotPath>, path: &Path, reason: Option<&str>, options: &Options) -> Result<(), BenchError> {
    if options.tiny {
        return instructions::try_out(&pieces);
    }
    let runs = options.runs.map_or(1, usize::from);
    let parameters = InstructionsParameters { program: this_program()?, directory: options.directory.clone(), pieces, runs };
    // The first counts are taken over into a file that is not there yet.
    let mut figures = if reason.is_some() && !path.exists() { Committed::none() } else { Committed::read(path)? };
    let counted = instructions::count(&parameters)?;
    let comparisons = figures.compare(&counted);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&comparisons).map_err(BenchError::wrong)?);
    } else {
        for comparison in &comparisons {
            println!("{comparison}");
        }
    }
    let Some(reason) = reason else { return judge(&comparisons) };
    let accepted = figures.accept(&counted, reason);
    figures.write(path)?;
    eprintln!("{accepted} counts taken over into {}", path.display());
    Ok(())
}

fn this_program() -> Result<PathBuf, BenchError> {
    std::env::current_exe().map_err(BenchError::io("this program's own path"))
}

/// The node's program and this one.
fn programs(options: &Options) -> Result<(PathBuf, PathBuf), BenchError> {
    Ok((node_program(options)?, this_program()?))
}

fn node_program(options: &Options) -> Result<PathBuf, BenchError> {
    let beside = this_program()?.with_file_name("tidegate");
    let tidegate = options.tidegate.clone().unwrap_or(beside);
    if !tidegate.is_file() {
        let tidegate = tidegate.display();
        return Err(BenchError::Wrong(format!(
            "{tidegate} is missing: make it with `cargo build --release`, or name it with --tidegate"
        )));
    }
    Ok(tidegate)
}
