//! `tidegate replay`: a shop's real invoices through the door of a real node, and the proof that each unit was sold once and came back
//! when it was given back.
//!
//! It owns the course of it: file, node, lines, report, offline check. How a line is read, asked for and told is its parts' business.

mod audit;
mod columns;
mod dates;
mod drive;
mod export;
mod home;
mod invoices;
mod numbers;
mod report;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidegate_stock::Sku;
use tokio::time::interval;

use self::audit::Expected;
use self::export::{Export, FILE_BYTES_MAX, FileError, ReadingOptions};
use self::home::Home;
use self::invoices::{Plan, Product};
use self::report::{FileFigures, Report, Verified};
use crate::child::{self, Node, NodeError};
use crate::client::{Client, ClientOptions, Patience};
use crate::target::{Target, TargetError};

/// Products that are sold at the same time, unless `--concurrency` says otherwise.
const CONCURRENCY_DEFAULT: u16 = 64;
/// Most products that are sold at the same time: each needs a connection here and there.
const CONCURRENCY_MAX: u16 = 1_024;

/// Pause between two looks at whether a node of its own still runs.
const NODE_LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Options of `tidegate replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayOptions {
    /// The shop's export: a header row, and a row for each line of an invoice, with commas, semicolons or tabulators between the fields
    file: PathBuf,
    #[command(flatten)]
    reading: ReadingOptions,
    /// What stands before every product's code in the name of its stock, so that a file can go through one node more than once
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = prefix)]
    prefix: String,
    /// A running node: http:// or https:// and HOST[:PORT] [default: a node of its own, started for this and stopped after it]
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    target: Option<String>,
    /// The file that holds the target's API key, which needs the roles operator and frontend [default: the variable `TIDEGATE_KEY`, or no key]
    #[arg(long, value_name = "FILE", requires = "target")]
    key_file: Option<PathBuf>,
    /// The certificates to trust, in PEM, instead of this machine's own
    #[arg(long, value_name = "FILE", requires = "target")]
    ca_file: Option<PathBuf>,
    /// Where the node of its own keeps its data, which stays there [default: a temporary directory, removed when all went well]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How many products are sold at the same time, 1 to 1024
    #[arg(long, value_name = "PRODUCTS", default_value_t = CONCURRENCY_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(CONCURRENCY_MAX)))]
    concurrency: u16,
}

/// Why a replay did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The file is not there, or cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is larger than is held in memory.
    #[error("{} has more than {FILE_BYTES_MAX} bytes; split it", .0.display())]
    FileTooLarge(PathBuf),
    /// The file is no export with the columns that are needed.
    #[error("{}: {source}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: FileError,
    },
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target is not there, or cannot be trusted.
    #[error("{url} cannot be connected to")]
    Unreachable {
        /// The target.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The node of its own failed; its log's end follows.
    #[error("{source}\nits data is in {}; the end of its log:\n{log}", data_dir.display())]
    Node {
        /// What failed.
        source: NodeError,
        /// Where its data is.
        data_dir: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// The node of its own did not stop as it should.
    #[error("the node ended with {status} after SIGTERM; its data is in {}; the end of its log:\n{log}", data_dir.display())]
    NotStopped {
        /// How it ended.
        status: ExitStatus,
        /// Where its data is.
        data_dir: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// Something around the node failed: a directory, the offline check, the terminal.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A signal asked to stop.
    #[error("interrupted before the end")]
    Interrupted,
    /// The report says what went wrong.
    #[error("the replay failed: {failures} lines or stocks did not get what the file says{}{}",
        if *damage { "; tidegate verify failed" } else { "" },
        data_dir.as_ref().map(|dir| format!("; the node's data is in {}", dir.display())).unwrap_or_default())]
    Failed {
        /// How many.
        failures: usize,
        /// Whether the offline check failed.
        damage: bool,
        /// Where the data of a node of its own is.
        data_dir: Option<PathBuf>,
    },
}

impl ReplayError {
    /// Whether what was asked for is wrong, and not what came of it.
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(self, Self::Target(error) if error.is_usage())
    }
}

/// Replays the file and prints the report on the standard output. Succeeds only when every sale line was granted and confirmed, every
/// cancellation returned or adjusted what the file says, every stock holds what a reading of the file alone says it must, and (for a
/// node of its own) the node stopped cleanly and `tidegate verify` reads the same from its log. Safe to repeat on the same node for as
/// long as the node remembers keys: every call that changes something has a key made of its line, so a repeat changes nothing. A node
/// of its own is killed when this is dropped.
pub(crate) async fn run(options: ReplayOptions) -> Result<(), ReplayError> {
    tokio::select! {
        // A node of its own is dropped, and so killed, with the branch that loses.
        signal = child::interrupted() => match signal {
            Ok(()) => Err(ReplayError::Interrupted),
            Err(source) => Err(ReplayError::Io { what: "signals cannot be awaited", source }),
        },
        result = replay(&options) => result,
    }
}

async fn replay(options: &ReplayOptions) -> Result<(), ReplayError> {
    let Understood { plan, file, expected } = read(options)?;
    let mut home = None;
    let (driven, verified) = if let Some(target) = &options.target {
        (drive_plan(plan.products, find(target, options).await?, options).await, None)
    } else {
        let home = home.insert(Home::create(options.data_dir.as_deref())?);
        let (driven, verified) = drive_own_node(plan.products, home, options).await?;
        (driven, Some(verified))
    };
    let drive::Driven { answers, mut failures, read, stocks } = driven;
    let (stocks, differences) = if read { audit::compare(&expected, &stocks) } else { <_>::default() };
    failures.extend(differences);
    let damage = verified.as_ref().is_some_and(|verified| !verified.ok);
    let asked = [file.products, file.sales, file.sales, file.returns, file.adjustments].map(|count| count as u64);
    let complete = asked == [answers.stocks, answers.grants, answers.confirms, answers.returns, answers.adjustments];
    let ok = read && complete && failures.is_empty() && !damage;
    let count = failures.len();
    let report = Report { ok, file, answers, failures, stocks, verified };
    print(&report, options.json).map_err(|source| ReplayError::Io { what: "the report cannot be printed", source })?;
    if ok {
        return Ok(());
    }
    let data_dir = home.map(|mut home| {
        home.keep();
        home.data_dir().to_owned()
    });
    Err(ReplayError::Failed { failures: count, damage, data_dir })
}

/// What the file says: what to ask for, and what a node must hold in the end.
struct Understood {
    plan: Plan,
    file: FileFigures,
    expected: BTreeMap<String, Expected>,
}

fn read(options: &ReplayOptions) -> Result<Understood, ReplayError> {
    let path = &options.file;
    let failed = |source| ReplayError::File { file: path.clone(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ReplayError::FileTooLarge(path.clone()));
    }
    let read = || {
        let export = Export::open(&text, &options.reading)?;
        let plan = Plan::read(&export, &options.prefix)?;
        Ok(Understood { file: FileFigures::new(&export, &plan), expected: audit::expected(&export, &options.prefix, &plan)?, plan })
    };
    read().map_err(|source| ReplayError::Format { file: path.clone(), source })
}

/// A prefix that leaves room for a code behind it.
fn prefix(text: &str) -> Result<String, String> {
    match Sku::new(&format!("{text}0")) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The running node, once connected to: a certificate that is not trusted would otherwise look like a node that is not there yet.
async fn find(url: &str, options: &ReplayOptions) -> Result<Target, ReplayError> {
    let (url, key_file, ca_file) = (url.to_owned(), options.key_file.clone(), options.ca_file.clone());
    // Looking a name up may take long.
    let found = tokio::task::spawn_blocking(move || Target::find(&url, key_file.as_deref(), ca_file.as_deref())).await;
    let target = found.map_err(|error| ReplayError::Io { what: "the target cannot be looked up", source: error.into() })??;
    match target.connect().await {
        Ok(_) => Ok(target),
        Err(source) => Err(ReplayError::Unreachable { url: target.url, source }),
    }
}

async fn drive_plan(products: Vec<Product>, target: Target, options: &ReplayOptions) -> drive::Driven {
    let lanes = usize::from(options.concurrency);
    let client = Client::of(target, ClientOptions { connections_max: lanes, ..ClientOptions::default() });
    let style = ProgressStyle::with_template("{msg:20} {wide_bar} {pos}/{len} {elapsed}").expect("the template is well-formed");
    // Draws on the standard error, and only where that is a terminal.
    let bar = ProgressBar::no_length().with_style(style);
    drive::drive(client, Patience::default(), products, lanes, bar).await
}

async fn drive_own_node(
    products: Vec<Product>,
    home: &mut Home,
    options: &ReplayOptions,
) -> Result<(drive::Driven, Verified), ReplayError> {
    let program = std::env::current_exe().map_err(|source| ReplayError::Io { what: "this program cannot be found", source })?;
    let mut node = home.start(&program).await.map_err(|source| home.failure(source))?;
    let probe = Client::new(node.address(), ClientOptions::default());
    node.wait_ready(&probe).await.map_err(|source| home.failure(source))?;
    let target = Target::plain(node.address());
    let mut driven = tokio::select! {
        // Nobody would bring it back: without this the lanes would ask a dead node until their patience ends.
        error = end_of(&mut node) => return Err(home.failure(error)),
        driven = drive_plan(products, target, options) => driven,
    };
    let status = node.terminate().await.map_err(|source| home.failure(source))?;
    if !status.success() {
        home.keep();
        return Err(ReplayError::NotStopped { status, data_dir: home.data_dir().to_owned(), log: home.log_tail() });
    }
    let (verified, differences) = home.verify(&program, &driven.stocks).await.map_err(|source| {
        home.keep();
        ReplayError::Io { what: "tidegate verify cannot be run", source }
    })?;
    driven.failures.extend(differences);
    Ok((driven, verified))
}

/// Returns once the node has ended by itself, with how it did.
async fn end_of(node: &mut Node) -> NodeError {
    let mut look = interval(NODE_LOOK_PAUSE);
    loop {
        look.tick().await;
        if let Err(error) = node.check_running() {
            return error;
        }
    }
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()
}
