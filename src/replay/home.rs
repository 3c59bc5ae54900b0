//! Where a node of the replay's own lives, and what its directory says once the node is gone.
//!
//! It owns folders, the node's log and the call of `tidegate verify`. It must not know what was sold or why.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use super::ReplayError;
use super::report::{Failure, Verified};
use crate::child::{self, Node, NodeError, NodeOptions};
use crate::client::Stock;

/// Longest wait for `tidegate verify`.
const VERIFY_WAIT_MAX: Duration = Duration::from_mins(10);

/// Lines of the node's log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 30;

/// Characters of what `tidegate verify` says that are shown when it is no report.
const SAID_CHARACTERS_SHOWN: usize = 2_000;

/// A node's data directory and, never among the data, the log of its output. What is temporary goes when this is dropped.
pub(crate) struct Home {
    data_dir: PathBuf,
    log: PathBuf,
    temporary: TempDir,
}

impl Home {
    /// A home with its data in `data_dir`, or in a temporary directory.
    pub(crate) fn create(data_dir: Option<&Path>) -> Result<Self, ReplayError> {
        let temporary = TempDir::with_prefix("tidegate-replay-")
            .map_err(|source| ReplayError::Io { what: "a temporary directory cannot be made", source })?;
        let data_dir = data_dir.map_or_else(|| temporary.path().join("data"), Path::to_owned);
        Ok(Self { data_dir, log: temporary.path().join("node.log"), temporary })
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Leaves everything where it is, for somebody to look at.
    pub(crate) fn keep(&mut self) {
        self.temporary.disable_cleanup(true);
    }

    /// The end of the node's log.
    pub(crate) fn log_tail(&self) -> String {
        child::log_tail(&self.log, LOG_LINES_SHOWN)
    }

    /// What failed, with what the node said; everything is kept.
    pub(crate) fn failure(&mut self, source: NodeError) -> ReplayError {
        self.keep();
        ReplayError::Node { source, data_dir: self.data_dir.clone(), log: self.log_tail() }
    }

    /// Starts the node.
    pub(crate) async fn start(&self, program: &Path) -> Result<Node, NodeError> {
        let port = child::free_port()?;
        let options = NodeOptions {
            program: program.to_owned(),
            data_dir: self.data_dir.clone(),
            port,
            settings: Vec::new(),
            log: self.log.clone(),
        };
        Node::start(&options).await
    }

    /// Runs `tidegate verify` on the directory and compares what the log says of `stocks` with what the node said of them.
    pub(crate) async fn verify(&self, program: &Path, stocks: &[Stock]) -> io::Result<(Verified, Vec<Failure>)> {
        let arguments = ["verify".as_ref(), self.data_dir.as_os_str(), "--json".as_ref()];
        let (status, stdout, stderr) = tokio::time::timeout(VERIFY_WAIT_MAX, child::run_to_end(program, &arguments)).await??;
        let said: Said = serde_json::from_str(&stdout).unwrap_or_else(|_| Said {
            good: false,
            what: Some(beginning(&format!("{stdout}{stderr}"))),
            report: None,
        });
        let report = said.report.unwrap_or_default();
        let ok = said.good && status.success();
        let differences = if ok { differences(&report.stocks, stocks) } else { Vec::new() };
        Ok((Verified { ok, what: said.what, grants: report.grants, events: report.events, groups: report.groups }, differences))
    }
}

/// What `tidegate verify --json` says, as far as it matters here.
#[derive(Deserialize)]
struct Said {
    good: bool,
    what: Option<String>,
    report: Option<SaidReport>,
}

#[derive(Default, Deserialize)]
struct SaidReport {
    stocks: Vec<SaidStock>,
    grants: u64,
    events: u64,
    groups: u64,
}

#[derive(Deserialize)]
struct SaidStock {
    sku: String,
    allotted: u64,
    available: u64,
    reserved: u64,
    sold: u64,
}

/// Stocks of which the log says something else than the node did. The log may hold more stocks than the file.
fn differences(log: &[SaidStock], stocks: &[Stock]) -> Vec<Failure> {
    let in_log: BTreeMap<&str, &SaidStock> = log.iter().map(|stock| (stock.sku.as_str(), stock)).collect();
    let difference = |stock: &Stock| {
        let detail = match in_log.get(stock.sku.as_str()) {
            None => "its stock is not in the log".to_owned(),
            Some(said)
                if (said.allotted, said.available, said.reserved, said.sold)
                    != (stock.allotted, stock.available, stock.reserved, stock.sold) =>
            {
                format!(
                    "the node says {} available, {} reserved and {} sold, its log says {}, {} and {}",
                    stock.available, stock.reserved, stock.sold, said.available, said.reserved, said.sold
                )
            }
            Some(_) => return None,
        };
        Some(Failure { line: None, sku: stock.sku.clone(), detail })
    };
    stocks.iter().filter_map(difference).collect()
}

fn beginning(text: &str) -> String {
    text.trim().chars().take(SAID_CHARACTERS_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_log(sku: &str, sold: u64) -> SaidStock {
        SaidStock { sku: sku.into(), allotted: 5, available: 5 - sold, reserved: 0, sold }
    }

    fn last(sku: &str, sold: u64) -> Stock {
        Stock { sku: sku.into(), allotted: 5, available: 5 - sold, reserved: 0, sold }
    }

    #[test]
    fn a_log_that_says_something_else_is_a_failure_of_that_product() {
        let log = [in_log("A", 5), in_log("B", 4), in_log("OTHER", 1)];
        assert_eq!(differences(&log, &[last("A", 5), last("B", 4)]), []);
        let found = differences(&log, &[last("A", 4), last("B", 4), last("C", 5)]);
        let skus: Vec<_> = found.iter().map(|failure| failure.sku.as_str()).collect();
        assert_eq!(skus, ["A", "C"]);
        assert!(found[0].detail.contains("the node says 1 available, 0 reserved and 4 sold, its log says 0, 0 and 5"), "{found:?}");
    }
}
