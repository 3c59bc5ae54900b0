//! `tidegate demo`: a whole flash sale against a real node that is killed in the middle, and the proof that nobody was wronged.
//!
//! It starts this very program as the node, or as the nodes of a cluster, on directories of their own ([`fleet`]); lets buyers rush it over
//! HTTP ([`rush`]) as scripted ([`plan`]); and holds the buyers' books ([`books`]) against what the nodes and their logs say afterwards
//! ([`checks`]). It must not know how a node works inside: it sees what any client and any operator sees.

mod aftermath;
mod books;
mod checks;
mod fleet;
mod plan;
mod progress;
mod report;
mod rush;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tempfile::TempDir;

use self::checks::{Evidence, KillSeen, check_all};
use self::fleet::{Fleet, FleetError};
use self::plan::{Plan, PlanError, SaleShape};
use self::progress::Progress;
use self::report::Report;
use crate::child::{interrupted, log_tail};
use crate::client::{Client, Outcome, Patience, StockSettings, persist};

/// Lines of a node's log that are shown when something failed.
const LOG_LINES_SHOWN: usize = 30;

/// How many nodes a demo may have: clusters that go on without one node, or without two.
const NODES: [u8; 3] = [1, 3, 5];

/// What a sale is where the options do not say it.
struct Usual {
    buyers: u32,
    units: u32,
    rate: u32,
    kills: u8,
}

/// At one node.
const ALONE: Usual = Usual { buyers: 200_000, units: 20_000, rate: 8_000, kills: 1 };

/// At a cluster, all nodes of which share this machine. Between two kills there is time for a failover, for the killed node to come back and for
/// everybody to catch up.
const CLUSTER: Usual = Usual { buyers: 60_000, units: 6_000, rate: 1_500, kills: 3 };

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoOptions {
    /// Nodes: 1 that stands alone, or 3 or 5 that make a cluster on this machine, which loses its leader again and again
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = parse_nodes)]
    nodes: u8,

    /// Buyers who come; in a cluster each at another node first, and at the next one when that does not answer [default: 200000, in a cluster
    /// 60000]
    #[arg(long, value_name = "NUMBER")]
    buyers: Option<u32>,

    /// Units on sale, all products together [default: 20000, in a cluster 6000]
    #[arg(long, value_name = "NUMBER")]
    units: Option<u32>,

    /// Products on sale, from one that is gone at once to one that lasts
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    products: u16,

    /// Buyers who arrive each second, whatever becomes of those before them [default: 8000, in a cluster 1500]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<u32>,

    /// How often the node, or the one that leads a cluster, is killed with SIGKILL while grants are being made; at most 5 [default: 1, in a
    /// cluster 3]
    #[arg(long, value_name = "NUMBER")]
    kills: Option<u8>,

    /// The sale is a function of this number: the same gives the same buyers with the same wishes at the same times
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Where the nodes keep their data and their logs; must be empty or missing, and is kept [default: a temporary directory, kept only
    /// if something failed]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Print one JSON object to the standard output, and the table to the standard error
    #[arg(long)]
    json: bool,
}

/// Why a demo did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The options describe no sale.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The directory is not empty.
    #[error("{} is not empty: the demo needs a directory of its own", .0.display())]
    DirectoryInUse(PathBuf),
    /// The operating system failed.
    #[error("the demo could not {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The nodes are not what they should be.
    #[error("{source}\ndata and logs are kept in {}; what was said last:\n{log}", home.display())]
    Nodes {
        /// What is wrong with them.
        source: FleetError,
        /// Where their data and their logs are.
        home: PathBuf,
        /// The ends of their logs.
        log: String,
    },
    /// A stock could not be opened.
    #[error("{sku} could not be opened for sale: {answer}")]
    Opening {
        /// The product.
        sku: String,
        /// What the node said.
        answer: String,
    },
    /// A signal asked this process to end.
    #[error("interrupted; the nodes were ended, their data is kept in {}", .0.display())]
    Interrupted(PathBuf),
}

/// How many nodes `text` asks for.
fn parse_nodes(text: &str) -> Result<u8, String> {
    let nodes = text.parse().ok().filter(|nodes| NODES.contains(nodes));
    nodes.ok_or_else(|| {
        format!("{} or {} are possible", NODES[..2].iter().map(u8::to_string).collect::<Vec<_>>().join(", "), NODES[2])
    })
}

/// Runs the demo and prints its table. Success only if every check held. Makes a runtime of its own, so it must not be called in one.
///
/// # Errors
/// When no verdict was reached. The nodes have been ended in any case.
pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode, DemoError> {
    let usual = if options.nodes == 1 { ALONE } else { CLUSTER };
    let plan = Plan::new(SaleShape {
        buyers: options.buyers.unwrap_or(usual.buyers),
        units: options.units.unwrap_or(usual.units),
        products: options.products,
        rate: options.rate.unwrap_or(usual.rate),
        kills: options.kills.unwrap_or(usual.kills),
        seed: options.seed,
    })?;
    let home = Home::new(options.data_dir.as_deref(), options.nodes)?;
    // One thread for all buyers: the other cores are the nodes'.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| DemoError::System { what: "set up its runtime", source })?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = hold_sale(Arc::new(plan), &home) => report,
            _ = interrupted() => Err(DemoError::Interrupted(home.path.clone())),
        }
    })?;
    print(&report, options.json).map_err(|source| DemoError::System { what: "print its result", source })?;
    if !report.passed {
        // Nothing is left to be done when the standard error is closed.
        let _ = writeln!(
            io::stderr(),
            "\nData and logs are kept in {}; what was said last:\n{}",
            home.path.display(),
            home.said_last()
        );
        return Ok(ExitCode::FAILURE);
    }
    home.remove().map_err(|source| DemoError::System { what: "remove its temporary directory", source })?;
    Ok(ExitCode::SUCCESS)
}

async fn hold_sale(plan: Arc<Plan>, home: &Home) -> Result<Report, DemoError> {
    let program = std::env::current_exe().map_err(|source| DemoError::System { what: "find its own program", source })?;
    let failed = |source: FleetError| DemoError::Nodes { source, home: home.path.clone(), log: home.said_last() };
    let progress = Progress::new(plan.shape.buyers);
    let starting = match home.nodes {
        1 => "a node on an empty directory".to_owned(),
        nodes => format!("a cluster of {nodes} nodes on empty directories"),
    };
    progress.phase("starting", &starting);
    let fleet = Fleet::start(&program, &home.path, home.nodes).await.map_err(failed)?;
    let clients = fleet.clients();
    open_sale(&plan, &clients[0]).await?;

    let rushed = rush::run(&plan, fleet, &progress).await.map_err(failed)?;

    let mut fleet = rushed.fleet;
    progress.phase("settling", "until the last hold is paid, cancelled or lapsed");
    let stocks = aftermath::settle(&plan, &clients, &mut fleet).await.map_err(|error| failed(error.into()))?;
    let replicas = if fleet.is_cluster() {
        progress.phase("comparing", "every stock on every node");
        fleet.wait_whole(0).await.map_err(failed)?;
        aftermath::replicas(&plan, &clients).await
    } else {
        Vec::new()
    };
    progress.phase("reading", "every granted reservation back");
    let read_back = aftermath::read_back(&clients, &rushed.books).await;
    progress.phase("stopping", if fleet.is_cluster() { "every node, with SIGTERM" } else { "the node, with SIGTERM" });
    drop(clients);
    let stopped = fleet.stop().await;
    progress.phase("verifying", if fleet.is_cluster() { "every node's log, offline" } else { "the node's log, offline" });
    let mut verified = Vec::new();
    for directory in fleet.directories() {
        verified.push(aftermath::verify(&program, directory).await);
    }
    progress.finish();

    let seen = |kill: &rush::Kill| KillSeen {
        grants_just_before: kill.grants_just_before,
        went_on: fleet.is_cluster().then(|| kill.first_grant_at.is_some_and(|at| kill.executed_at.is_none_or(|began| at < began))),
    };
    let kills = rushed.measured.kills.iter().map(seen).collect();
    let evidence = Evidence { kills, read_back, stocks, replicas, stopped, verified };
    let checks = check_all(&plan, &rushed.books, &evidence);
    Ok(Report::new(&plan, &rushed.books, &rushed.measured, &evidence, checks))
}

async fn open_sale(plan: &Plan, client: &Client) -> Result<(), DemoError> {
    for product in &plan.products {
        let settings = StockSettings {
            quantity: product.units,
            per_user_limit: Some(product.per_user_limit),
            hold_seconds: Some(plan.hold_seconds),
        };
        let opened = persist(Patience::default(), || client.put_stock(&product.sku, &settings)).await;
        let Outcome::Accepted { status: 201, .. } = opened.outcome else {
            return Err(DemoError::Opening { sku: product.sku.clone(), answer: format!("{:?}", opened.outcome) });
        };
    }
    Ok(())
}

fn print(report: &Report, as_json: bool) -> io::Result<()> {
    if as_json {
        writeln!(io::stderr(), "{report}")?;
        let json = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
        return writeln!(io::stdout(), "{json}");
    }
    writeln!(io::stdout(), "{report}")
}

/// The directory of a demo: its nodes' data and their logs, side by side.
struct Home {
    path: PathBuf,
    nodes: u8,
    temporary: Option<TempDir>,
}

impl Home {
    fn new(given: Option<&Path>, nodes: u8) -> Result<Self, DemoError> {
        let failed = |source| DemoError::System { what: "make its directory", source };
        let Some(path) = given else {
            let mut temporary = tempfile::Builder::new().prefix("tidegate-demo-").tempdir().map_err(failed)?;
            // Kept unless it is removed on purpose.
            temporary.disable_cleanup(true);
            return Ok(Self { path: temporary.path().to_owned(), nodes, temporary: Some(temporary) });
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(DemoError::DirectoryInUse(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), nodes, temporary: None })
    }

    /// The ends of the nodes' logs.
    fn said_last(&self) -> String {
        let tail = |name: String| format!("{name}:\n{}", log_tail(&self.path.join(&name), LOG_LINES_SHOWN));
        fleet::log_names(self.nodes).map(tail).collect::<Vec<_>>().join("\n")
    }

    fn remove(self) -> io::Result<()> {
        self.temporary.map_or(Ok(()), TempDir::close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("mine"), "x").unwrap();
        assert!(matches!(Home::new(Some(directory.path()), 1), Err(DemoError::DirectoryInUse(_))));
    }

    #[test]
    fn a_temporary_directory_stays_until_it_is_removed_on_purpose() {
        let home = Home::new(None, 3).unwrap();
        let path = home.path.clone();
        drop(home);
        assert!(path.exists());
        std::fs::remove_dir(&path).unwrap();

        let home = Home::new(None, 3).unwrap();
        let path = home.path.clone();
        home.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_cluster_that_loses_a_node_needs_three_or_five() {
        assert_eq!(["1", "3", "5"].map(parse_nodes), [Ok(1), Ok(3), Ok(5)]);
        for text in ["0", "2", "4", "7", "three", ""] {
            assert_eq!(parse_nodes(text), Err("1, 3 or 5 are possible".to_owned()), "{text}");
        }
    }
}
