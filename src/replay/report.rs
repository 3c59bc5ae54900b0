//! What a replay found and did, as figures for a program and as a table for people. It must not know how they came about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::audit::FinalStock;
use super::export::{Export, Format};
use super::invoices::{Plan, Returned, SkipReason, Skipped};

/// Lines that the table shows of each kind of skipped line.
const SKIPPED_SHOWN: usize = 5;
/// Cancellations that the table shows.
const CANCELLATIONS_SHOWN: usize = 10;
/// Failures that the table shows of each kind.
const FAILURES_SHOWN: usize = 20;

/// What the file says.
#[derive(Debug, Serialize)]
pub(crate) struct FileFigures {
    /// How it is written.
    pub(crate) format: Format,
    /// Lines, the header excluded; each is a sale, a cancellation or skipped.
    pub(crate) lines: u64,
    /// Lines that buy.
    pub(crate) sales: usize,
    /// Units that they buy.
    pub(crate) bought: u64,
    /// Units that cancellations take back from earlier lines.
    pub(crate) returned: u64,
    /// Units that cancellations bring in and that no earlier line bought.
    pub(crate) adjusted: u64,
    /// Products that are bought or taken back.
    pub(crate) products: usize,
    /// Customers that buy or give back.
    pub(crate) customers: usize,
    /// Invoices of buyers without an account.
    pub(crate) guests: usize,
    /// Lines that take units back.
    pub(crate) cancellations: Cancellations,
    /// All other lines, by reason.
    pub(crate) skipped: BTreeMap<SkipReason, SkippedLines>,
    /// Returns that the cancellations need: one for each earlier line that one takes from.
    #[serde(skip)]
    pub(crate) returns: usize,
    /// Adjustments that they need.
    #[serde(skip)]
    pub(crate) adjustments: usize,
}

/// Lines that take units back.
#[derive(Debug, Serialize)]
pub(crate) struct Cancellations {
    lines: usize,
    /// Of them, those that only take back what earlier lines bought.
    returned: usize,
    /// Those that take back some of it.
    returned_in_part: usize,
    /// Those that take back nothing of it.
    adjusted: usize,
    listed: Vec<CancelledLine>,
}

/// A line that takes units back.
#[derive(Debug, Serialize)]
pub(crate) struct CancelledLine {
    line: u64,
    invoice: String,
    sku: String,
    /// `None` for a line without a customer.
    user: Option<String>,
    units: u32,
    returned: Vec<Returned>,
    adjusted: u32,
}

/// Lines that were skipped for one reason.
#[derive(Debug, Serialize)]
pub(crate) struct SkippedLines {
    lines: usize,
    listed: Vec<Skipped>,
}

impl FileFigures {
    /// The figures of the plan of `export`.
    pub(crate) fn new(export: &Export<'_>, plan: &Plan) -> Self {
        let (mut customers, mut guests) = (BTreeSet::new(), BTreeSet::new());
        for sale in plan.sales() {
            let kind = if sale.guest { &mut guests } else { &mut customers };
            kind.insert(sale.user.as_str());
        }
        customers.extend(plan.cancellations().filter_map(|(_, one)| Some(one.user.as_ref()?.as_str())));
        let cancellations = Cancellations::new(plan);
        let listed = &cancellations.listed;
        Self {
            format: export.format(),
            lines: plan.lines,
            sales: plan.sales().count(),
            bought: plan.products.iter().map(|product| product.bought).sum(),
            returned: listed.iter().flat_map(|one| &one.returned).map(|returned| u64::from(returned.units)).sum(),
            adjusted: listed.iter().map(|one| u64::from(one.adjusted)).sum(),
            products: plan.products.len(),
            customers: customers.len(),
            guests: guests.len(),
            returns: listed.iter().map(|one| one.returned.len()).sum(),
            adjustments: listed.iter().filter(|one| one.adjusted > 0).count(),
            cancellations,
            skipped: plan
                .skipped
                .iter()
                .map(|(reason, listed)| (*reason, SkippedLines { lines: listed.len(), listed: listed.clone() }))
                .collect(),
        }
    }
}

impl Cancellations {
    fn new(plan: &Plan) -> Self {
        let mut listed: Vec<CancelledLine> = plan
            .cancellations()
            .map(|(sku, one)| CancelledLine {
                line: one.line,
                invoice: one.invoice.clone(),
                sku: sku.to_string(),
                user: one.user.as_ref().map(ToString::to_string),
                units: one.quantity.units(),
                returned: one.returned.clone(),
                adjusted: one.adjusted,
            })
            .collect();
        listed.sort_by_key(|one| one.line);
        let count = |whose: fn(&CancelledLine) -> bool| listed.iter().filter(|one| whose(one)).count();
        Self {
            lines: listed.len(),
            returned: count(|one| one.adjusted == 0),
            returned_in_part: count(|one| one.adjusted > 0 && !one.returned.is_empty()),
            adjusted: count(|one| one.returned.is_empty()),
            listed,
        }
    }
}

impl fmt::Display for CancelledLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = self.user.as_deref().unwrap_or("no customer");
        write!(formatter, "line {}: {} gives back {} of {} ({whose})", self.line, self.invoice, self.units, self.sku)?;
        for (index, Returned { line, units }) in self.returned.iter().enumerate() {
            write!(formatter, "{} {units} of line {line}", if index == 0 { ":" } else { "," })?;
        }
        match self.adjusted {
            0 => Ok(()),
            units => {
                write!(formatter, "; {units} {}", if self.returned.is_empty() { "from no earlier line" } else { "more from none" })
            }
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
    /// Returns that were made.
    pub(crate) returns: u64,
    /// Of them, those made by an earlier attempt with the same key.
    pub(crate) returns_repeated: u64,
    /// Adjustments that were made.
    pub(crate) adjustments: u64,
    /// Of them, those made by an earlier attempt with the same key.
    pub(crate) adjustments_repeated: u64,
    /// Calls that were refused or whose outcome was unknown, and that were made again.
    pub(crate) asked_again: u64,
    /// Seconds from the first stock to the last line.
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
    /// Whether every line got what the file says, and the proofs hold.
    pub(crate) ok: bool,
    /// What the file says.
    pub(crate) file: FileFigures,
    /// What the node said.
    pub(crate) answers: Answers,
    /// Lines and stocks that did not get what the file says.
    pub(crate) failures: Vec<Failure>,
    /// Every stock after the last line, beside what the file says of it.
    pub(crate) stocks: Vec<FinalStock>,
    /// The offline check of the log; `None` for a node that is not ours.
    pub(crate) verified: Option<Verified>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        let file = &self.file;
        text.row("lines", file.lines, file.format.order());
        text.row("sales", file.sales, "");
        text.row("units bought", file.bought, "");
        text.row("units returned", file.returned, "to be sold again");
        text.row("units adjusted", file.adjusted, "came back, and no earlier line bought them");
        text.row("products", file.products, "");
        text.row("customers", file.customers, "");
        text.row("guests", file.guests, "invoices without a customer");
        let cancellations = &file.cancellations;
        let kinds = match cancellations.lines {
            0 => String::new(),
            _ => format!(
                "{} of earlier lines, {} in part, {} of none",
                cancellations.returned, cancellations.returned_in_part, cancellations.adjusted
            ),
        };
        text.row("cancellations", cancellations.lines, &kinds);
        // Those that return something first: a file may have many that do not.
        let (some, none): (Vec<_>, Vec<_>) = cancellations.listed.iter().partition(|one| !one.returned.is_empty());
        for one in some.into_iter().chain(none).take(CANCELLATIONS_SHOWN) {
            text.note(&one.to_string());
        }
        text.more(cancellations.lines, CANCELLATIONS_SHOWN);
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
        let repeated = |count| match count {
            0 => String::new(),
            count => format!("{count} of them by an earlier attempt with the same key"),
        };
        text.row("grants", answers.grants, &repeated(answers.grants_repeated));
        text.row("confirms", answers.confirms, "");
        text.row("returns", answers.returns, &repeated(answers.returns_repeated));
        text.row("adjustments", answers.adjustments, &repeated(answers.adjustments_repeated));
        text.row("asked again", answers.asked_again, "calls that were refused or whose outcome was unknown");
        text.row("seconds", format!("{:.2}", answers.seconds), "");
        text.row("failures", self.failures.len(), "");
        for one in self.failures.iter().take(FAILURES_SHOWN) {
            text.note(&one.to_string());
        }
        text.more(self.failures.len(), FAILURES_SHOWN);
        text.line("");
        if file.products == 0 {
            text.line("no line of the file is a sale or takes one back: there is nothing to prove");
        }
        let right = self.stocks.iter().filter(|stock| stock.holds()).count();
        let sum = |of: fn(&FinalStock) -> u64| self.stocks.iter().map(of).sum::<u64>();
        text.line(&format!(
            "{right} of {} stocks add up and sold exactly what the file buys and does not return: {} sold, {} available, {} allotted",
            file.products,
            sum(|stock| stock.sold),
            sum(|stock| stock.available),
            sum(|stock| stock.allotted)
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
    use super::super::export::ReadingOptions;
    use super::*;

    #[test]
    fn the_table_cuts_long_lists_and_says_so() {
        let header = "InvoiceNo,StockCode,Quantity,CustomerID\n";
        let rows = "7,A,2,1\n7,A,1,\n7,POST,1,1\n7,POST,1,1\n7,DOT,1,1\n7,POST,1,1\nC7,A,-5,1\nC7,D,-1,1\nC8,Z,-4,\nC9,A,-1,1\n";
        let text = format!("{header}{rows}");
        let export = Export::open(text.as_bytes(), &ReadingOptions::default()).unwrap();
        let file = FileFigures::new(&export, &Plan::read(&export, "").unwrap());
        assert_eq!((file.returns, file.adjustments), (1, 3));
        let report =
            Report { ok: false, file, answers: Answers::default(), failures: Vec::new(), stocks: Vec::new(), verified: None };
        let table = report.to_string();
        for expected in [
            "lines                                 10  in the order of the file\n",
            "sales                                  2\n",
            "units bought                           3\n",
            "units returned                         2  to be sold again\n",
            "units adjusted                         8  came back, and no earlier line bought them\n",
            "products                               2\n",
            "customers                              1\n",
            "guests                                 1  invoices without a customer\n",
            "cancellations                          3  0 of earlier lines, 1 in part, 2 of none\n",
            "line 8: C7 gives back 5 of A (1): 2 of line 2; 3 more from none\n",
            "line 10: C8 gives back 4 of Z (no customer); 4 from no earlier line\n",
            "line 4: product POST\n      line 6: product DOT\n      line 9: product D\n      and 2 more (--json lists every one)\n",
            "0 of 2 stocks add up",
            "replay: FAILED\n",
        ] {
            assert!(table.contains(expected), "{expected:?} is not in\n{table}");
        }
        assert!(!table.contains("line 5:") && !table.contains("line 7:"), "{table}");
    }
}
