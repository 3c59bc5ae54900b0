//! `tidegate demo`: a whole flash sale against a real node that is killed in the middle, and the proof that nobody was wronged.
//!
//! It starts this very program as the node, on a directory of its own; lets buyers rush it over HTTP ([`rush`]) as scripted ([`plan`]);
//! and holds the buyers' books ([`books`]) against what the node and its log say afterwards ([`checks`]). It must not know how a node
//! works inside: it sees what any client and any operator sees.

mod aftermath;
mod books;
mod checks;
mod plan;
mod progress;
mod report;
mod rush;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tempfile::TempDir;

use self::checks::{Evidence, check_all};
use self::plan::{Plan, PlanError, SaleShape};
use self::progress::Progress;
use self::report::Report;
use crate::child::{Node, NodeError, NodeOptions, free_port, interrupted, log_tail};
use crate::client::{Client, ClientOptions, Outcome, Patience, StockSettings, persist};

/// Lines of the node's log that are shown when something failed.
const LOG_LINES_SHOWN: usize = 30;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoOptions {
    /// Buyers who come
    #[arg(long, value_name = "NUMBER", default_value_t = 200_000)]
    buyers: u32,

    /// Units on sale, all products together
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    units: u32,

    /// Products on sale, from one that is gone at once to one that lasts
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    products: u16,

    /// Buyers who arrive each second, whatever becomes of those before them
    #[arg(long, value_name = "PER_SECOND", default_value_t = 8_000)]
    rate: u32,

    /// How often the node is killed with SIGKILL while grants are being made; at most 5
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    kills: u8,

    /// The sale is a function of this number: the same gives the same buyers with the same wishes at the same times
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Where the node keeps its data and its log; must be empty or missing, and is kept [default: a temporary directory, kept only
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
    /// The node is not what it should be.
    #[error("{source}\nits data and log are kept in {}; the log ends with:\n{log}", home.display())]
    Node {
        /// What is wrong with it.
        source: NodeError,
        /// Where its data and its log are.
        home: PathBuf,
        /// The end of its log.
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
    #[error("interrupted; the node was ended, its data is kept in {}", .0.display())]
    Interrupted(PathBuf),
}

/// Runs the demo and prints its table. Success only if every check held. Makes a runtime of its own, so it must not be called in one.
///
/// # Errors
/// When no verdict was reached. The node has been ended in any case.
pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode, DemoError> {
    let plan = Plan::new(SaleShape {
        buyers: options.buyers,
        units: options.units,
        products: options.products,
        rate: options.rate,
        kills: options.kills,
        seed: options.seed,
    })?;
    let home = Home::new(options.data_dir.as_deref())?;
    // One thread for all buyers: the other cores are the node's.
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
            "\nThe node's data and log are kept in {}; the log ends with:\n{}",
            home.path.display(),
            log_tail(&home.log(), LOG_LINES_SHOWN)
        );
        return Ok(ExitCode::FAILURE);
    }
    home.remove().map_err(|source| DemoError::System { what: "remove its temporary directory", source })?;
    Ok(ExitCode::SUCCESS)
}

async fn hold_sale(plan: Arc<Plan>, home: &Home) -> Result<Report, DemoError> {
    let program = std::env::current_exe().map_err(|source| DemoError::System { what: "find its own program", source })?;
    let node_failed = |source| DemoError::Node { source, home: home.path.clone(), log: log_tail(&home.log(), LOG_LINES_SHOWN) };
    let progress = Progress::new(plan.shape.buyers);
    progress.phase("starting", "a node on an empty directory");
    let options =
        NodeOptions { program: program.clone(), data_dir: home.data(), port: free_port().map_err(node_failed)?, log: home.log() };
    let mut node = Node::start(&options).await.map_err(node_failed)?;
    let client = Client::new(node.address(), ClientOptions::default());
    node.wait_ready(&client).await.map_err(node_failed)?;
    open_sale(&plan, &client).await?;

    let rushed = rush::run(&plan, &client, node, &options, &progress).await.map_err(node_failed)?;

    let mut node = rushed.node;
    progress.phase("settling", "until the last hold is paid, cancelled or lapsed");
    let stocks = aftermath::settle(&plan, &client, &mut node).await.map_err(node_failed)?;
    progress.phase("reading", "every granted reservation back");
    let read_back = aftermath::read_back(&client, &rushed.books).await;
    progress.phase("stopping", "the node, with SIGTERM");
    drop(client);
    let stopped = aftermath::stop(node).await;
    progress.phase("verifying", "the node's log, offline");
    let verified = aftermath::verify(&program, &home.data()).await;
    progress.finish();

    let grants_just_before_kills = rushed.measured.kills.iter().map(|kill| kill.grants_just_before).collect();
    let evidence = Evidence { grants_just_before_kills, read_back, stocks, stopped, verified };
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

/// The directory of a demo: the node's data and its log, side by side.
struct Home {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Home {
    fn new(given: Option<&Path>) -> Result<Self, DemoError> {
        let failed = |source| DemoError::System { what: "make its directory", source };
        let Some(path) = given else {
            let mut temporary = tempfile::Builder::new().prefix("tidegate-demo-").tempdir().map_err(failed)?;
            // Kept unless it is removed on purpose.
            temporary.disable_cleanup(true);
            return Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(DemoError::DirectoryInUse(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), temporary: None })
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn log(&self) -> PathBuf {
        self.path.join("node.log")
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
        assert!(matches!(Home::new(Some(directory.path())), Err(DemoError::DirectoryInUse(_))));
    }

    #[test]
    fn a_temporary_directory_stays_until_it_is_removed_on_purpose() {
        let home = Home::new(None).unwrap();
        let path = home.path.clone();
        drop(home);
        assert!(path.exists());
        std::fs::remove_dir(&path).unwrap();

        let home = Home::new(None).unwrap();
        let path = home.path.clone();
        home.remove().unwrap();
        assert!(!path.exists());
    }
}
