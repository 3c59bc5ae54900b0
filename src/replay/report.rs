//! What a replay found and did, as figures for a program and as a table for people. It must not know how they came about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::invoices::{Cancellation, Plan, SkipReason, Skipped};

/// Lines that the table shows of each kind of skipped line.
const SKIPPED_SHOWN: usize = 5;
/// Cancellations that the table shows.
const CANCELLATIONS_SHOWN: usize = 10;
/// Failures that the table shows of each kind.
const FAILURES_SHOWN: usize = 20;

/// What the file says.
#[derive(Debug, Serialize)]
pub(crate) struct FileFigures {
    /// Lines, the header excluded.
    pub(crate) lines: u64,
    /// Lines that are sales.
    pub(crate) sales: usize,
    /// Units that they buy.
    pub(crate) units: u64,
    /// Products that they buy.
    pub(crate) products: usize,
    /// Customers that buy.
    pub(crate) customers: usize,
    /// Invoices of buyers without an account.
    pub(crate) guests: usize,
    /// Lines that take a sale back.
    pub(crate) cancellations: Cancellations,
    /// All other lines, by reason.
    pub(crate) skipped: BTreeMap<SkipReason, SkippedLines>,
}

/// Lines that take a sale back.
#[derive(Debug, Serialize)]
pub(crate) struct Cancellations {
    lines: usize,
    /// Units of products that they would return; discounts and the like return none.
    units: u64,
    listed: Vec<Cancellation>,
}

/// Lines that were skipped for one reason.
#[derive(Debug, Serialize)]
pub(crate) struct SkippedLines {
    lines: usize,
    listed: Vec<Skipped>,
}

impl FileFigures {
    /// The figures of a plan; takes its cancellations and skipped lines out of it.
    pub(crate) fn take(plan: &mut Plan) -> Self {
        let (mut customers, mut guests) = (BTreeSet::new(), BTreeSet::new());
        for sale in plan.products.iter().flat_map(|product| &product.lines) {
            let kind = if sale.guest { &mut guests } else { &mut customers };
            kind.insert(sale.user.as_str());
        }
        let (customers, guests) = (customers.len(), guests.len());
        let listed = std::mem::take(&mut plan.cancellations);
        let units = listed.iter().filter(|one| one.product).map(|one| one.units).sum();
        let skipped = std::mem::take(&mut plan.skipped);
        Self {
            lines: plan.lines,
            sales: plan.sales(),
            units: plan.units(),
            products: plan.products.len(),
            customers,
            guests,
            cancellations: Cancellations { lines: listed.len(), units, listed },
            skipped: skipped.into_iter().map(|(reason, listed)| (reason, SkippedLines { lines: listed.len(), listed })).collect(),
        }
    }
}

/// Something that should not have happened, with its place in the file or its product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The line of the file, where it is about one.
    pub(crate) line: Option<u64>,
    /// The product.
    pub(crate) sku: String,
    /// What was asked and what came back.
    pub(crate) detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "line {line}, product {}: {}", self.sku, self.detail),
            None => write!(formatter, "product {}: {}", self.sku, self.detail),
        }
    }
}

/// A stock as the node shows it after the last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FinalStock {
    pub(crate) sku: String,
    /// What the file buys of it, in units.
    pub(crate) bought: u64,
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
}

impl FinalStock {
    /// Whether it sold what the file bought, and nothing is left or held.
    pub(crate) const fn as_bought(&self) -> bool {
        self.sold == self.bought && self.allotted == self.bought && self.available == 0 && self.reserved == 0
    }
}

/// What was asked of the node, and what it said.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Answers {
    /// Stocks that stand open: created now or by an earlier run of the same file.
    pub(crate) stocks: u64,
    /// Lines that were granted.
    pub(crate) grants: u64,
    /// Of them, those granted by an earlier attempt with the same key.
    pub(crate) grants_repeated: u64,
    /// Grants that were confirmed.
    pub(crate) confirms: u64,
    /// Calls that were refused or whose outcome was unknown, and that were made again.
    pub(crate) asked_again: u64,
    /// Seconds from the first stock to the last confirm.
    pub(crate) seconds: f64,
}

/// What `tidegate verify` said of the node's directory after the node had stopped.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    /// Whether it found nothing wrong.
    pub(crate) ok: bool,
    /// What it found, where it found something.
    pub(crate) what: Option<String>,
    /// Grants in the log.
    pub(crate) grants: u64,
    /// Events in the log.
    pub(crate) events: u64,
    /// Groups in the log; each became durable as one.
    pub(crate) groups: u64,
}

/// A whole replay.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether every line was sold as the file says, and the proofs hold.
    pub(crate) ok: bool,
    /// What the file says.
    pub(crate) file: FileFigures,
    /// What the node said.
    pub(crate) answers: Answers,
    /// Lines and stocks that did not get what the file says.
    pub(crate) failures: Vec<Failure>,
    /// Every stock after the last line.
    pub(crate) stocks: Vec<FinalStock>,
    /// The offline check of the log; `None` for a node that is not ours.
    pub(crate) verified: Option<Verified>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        let file = &self.file;
        text.row("lines", file.lines, "");
        text.row("sales", file.sales, "");
        text.row("units", file.units, "");
        text.row("products", file.products, "");
        text.row("customers", file.customers, "");
        text.row("guests", file.guests, "invoices without a customer");
        text.row(
            "cancellations",
            file.cancellations.lines,
            &format!("would return {} units of products", file.cancellations.units),
        );
        for one in file.cancellations.listed.iter().take(CANCELLATIONS_SHOWN) {
            let whose = one.user.as_deref().unwrap_or("no customer");
            let what = if one.product { "" } else { ", which is no product" };
            text.note(&format!("line {}: {} gives back {} of {}{what} ({whose})", one.line, one.invoice, one.units, one.sku));
        }
        text.more(file.cancellations.lines, CANCELLATIONS_SHOWN);
        let skipped: usize = file.skipped.values().map(|lines| lines.lines).sum();
        text.row("skipped", skipped, if skipped == 0 { "" } else { "of them:" });
        for (reason, lines) in &file.skipped {
            text.row(&format!("  {}", reason.title()), lines.lines, "");
            // One of each: a file of postage lines should not hide the one line that is something else.
            let mut details = BTreeSet::new();
            let examples = lines.listed.iter().filter(|one| details.insert(&one.detail)).take(SKIPPED_SHOWN);
            let shown = examples.map(|one| text.note(&format!("line {}: {}", one.line, one.detail))).count();
            text.more(lines.lines, shown);
        }
        let answers = &self.answers;
        text.row("stocks open", answers.stocks, "");
        let repeated = match answers.grants_repeated {
            0 => String::new(),
            repeated => format!("{repeated} of them by an earlier attempt with the same key"),
        };
        text.row("grants", answers.grants, &repeated);
        text.row("confirms", answers.confirms, "");
        text.row("asked again", answers.asked_again, "calls that were refused or whose outcome was unknown");
        text.row("seconds", format!("{:.2}", answers.seconds), "");
        text.row("failures", self.failures.len(), "");
        for one in self.failures.iter().take(FAILURES_SHOWN) {
            text.note(&one.to_string());
        }
        text.more(self.failures.len(), FAILURES_SHOWN);
        text.line("");
        if file.sales == 0 {
            text.line("no line of the file is a sale: there is nothing to prove");
        }
        let right = self.stocks.iter().filter(|stock| stock.as_bought()).count();
        let sold: u64 = self.stocks.iter().map(|stock| stock.sold).sum();
        text.line(&format!(
            "{right} of {} stocks sold exactly what the file bought, with nothing available and nothing reserved: {sold} of {} units",
            file.products, file.units
        ));
        if let Some(verified) = &self.verified {
            match &verified.what {
                None => text.line(&format!(
                    "tidegate verify: the log is whole; {} grants in {} events and {} groups",
                    verified.grants, verified.events, verified.groups
                )),
                Some(what) => text.line(&format!("tidegate verify: {what}")),
            }
        }
        text.line(if self.ok { "replay: ok" } else { "replay: FAILED" });
        formatter.write_str(&text.0)
    }
}

/// Lines of a table in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn row(&mut self, name: &str, value: impl fmt::Display, note: &str) {
        let row = format!("{name:<28}{:>12}  {note}", value.to_string());
        self.line(row.trim_end());
    }

    fn note(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "      {text}");
    }

    fn more(&mut self, count: usize, shown: usize) {
        if let Some(more) = count.checked_sub(shown).filter(|more| *more > 0) {
            self.note(&format!("and {more} more (--json lists every one)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_is_as_bought_only_when_all_of_it_is_sold() {
        let right = FinalStock { sku: "A".into(), bought: 5, allotted: 5, available: 0, reserved: 0, sold: 5 };
        assert!(right.as_bought());
        assert!(!FinalStock { available: 1, ..right.clone() }.as_bought());
        assert!(!FinalStock { reserved: 1, ..right.clone() }.as_bought());
        assert!(!FinalStock { sold: 4, ..right.clone() }.as_bought());
        assert!(!FinalStock { sold: 6, ..right.clone() }.as_bought());
        assert!(!FinalStock { allotted: 6, ..right.clone() }.as_bought());
    }

    #[test]
    fn the_table_cuts_long_lists_and_says_so() {
        let header = "InvoiceNo,StockCode,Quantity,CustomerID\n";
        let rows = "7,A,2,1\n7,A,1,\n7,POST,1,1\n7,POST,1,1\n7,DOT,1,1\n7,POST,1,1\nC7,A,-1,1\nC7,D,-1,1\n";
        let mut plan = Plan::read(format!("{header}{rows}").as_bytes()).unwrap();
        let file = FileFigures::take(&mut plan);
        let report =
            Report { ok: false, file, answers: Answers::default(), failures: Vec::new(), stocks: Vec::new(), verified: None };
        let table = report.to_string();
        for expected in [
            "lines                                  8\n",
            "sales                                  2\n",
            "units                                  3\n",
            "customers                              1\n",
            "guests                                 1  invoices without a customer\n",
            "cancellations                          2  would return 1 units of products\n",
            "line 8: C7 gives back 1 of A (1)\n",
            "line 9: C7 gives back 1 of D, which is no product (1)\n",
            "line 4: StockCode POST\n      line 6: StockCode DOT\n      and 2 more (--json lists every one)\n",
            "0 of 1 stocks sold exactly",
            "replay: FAILED\n",
        ] {
            assert!(table.contains(expected), "{expected:?} is not in\n{table}");
        }
        assert!(!table.contains("line 5:") && !table.contains("line 7:"), "{table}");
    }
}
