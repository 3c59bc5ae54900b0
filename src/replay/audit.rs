//! What a node must hold of each product once the file has gone through it, worked out from the file alone and anew.
//!
//! It shares the reading of rows with the plan, and nothing behind it: no list of steps, no counter of the driver, no answer of the
//! node. It must not know what was asked for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::export::{Export, FileError, Row};
use super::invoices::Plan;
use super::numbers::{whole, without_zero_fraction};
use super::report::Failure;
use crate::client::Stock;

/// What the file does with one product, in units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Expected {
    /// Sold at first.
    pub(crate) bought: u64,
    /// Of them, those that came back to be sold again.
    pub(crate) returned: u64,
    /// Units that came back though the file does not say who had bought them.
    pub(crate) adjusted: u64,
}

/// A line as the books take it: when, and in which line of the file; which product, which customer, how many units.
struct Entry {
    time: i64,
    line: u64,
    sku: String,
    customer: String,
    units: i64,
}

/// What the file does with each product. Lines that the plan skipped take no part; each of them is in the report.
pub(crate) fn expected(export: &Export<'_>, prefix: &str, plan: &Plan) -> Result<BTreeMap<String, Expected>, FileError> {
    let mut skipped: Vec<u64> = plan.skipped.values().flatten().map(|skipped| skipped.line).collect();
    skipped.sort_unstable();
    let mut entries = Vec::new();
    export.each(|line, row| {
        if skipped.binary_search(&line).is_ok() {
            return;
        }
        if let Ok(row) = row {
            entries.extend(entry(export, prefix, line, &row));
        }
    })?;
    entries.sort_by_key(|entry| (entry.time, entry.line));
    Ok(book(&entries))
}

fn entry(export: &Export<'_>, prefix: &str, line: u64, row: &Row<'_>) -> Option<Entry> {
    let units = whole(row.quantity, export.decimal())?;
    let customer = match without_zero_fraction(row.customer) {
        // Nobody else is called so: an identifier holds no space.
        "" => format!("{} of line {line}", row.invoice),
        customer => customer.to_owned(),
    };
    Some(Entry { time: export.time_of(row)?, line, sku: format!("{prefix}{}", row.product), customer, units })
}

/// Keeps one balance per product and customer, which never falls below nothing: what would take it there was bought elsewhere.
fn book(entries: &[Entry]) -> BTreeMap<String, Expected> {
    let mut owned: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut products: BTreeMap<String, Expected> = BTreeMap::new();
    for entry in entries {
        let owned = owned.entry((&entry.sku, &entry.customer)).or_default();
        let product = products.entry(entry.sku.clone()).or_default();
        let units = entry.units.unsigned_abs();
        if entry.units > 0 {
            *owned += units;
            product.bought += units;
        } else {
            let returned = units.min(*owned);
            *owned -= returned;
            product.returned += returned;
            product.adjusted += units - returned;
        }
    }
    products
}

/// A stock after the last line, beside what the file says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FinalStock {
    pub(crate) sku: String,
    #[serde(flatten)]
    pub(crate) expected: Expected,
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
}

impl FinalStock {
    /// A stock as the node shows it, beside what is expected of it.
    fn new(stock: &Stock, expected: Expected) -> Self {
        let Stock { sku, allotted, available, reserved, sold } = stock.clone();
        Self { sku, expected, allotted, available, reserved, sold }
    }

    /// What does not hold of it: that it adds up, that nothing is held, that it sold what was bought and did not come back, and that
    /// what it was allotted is what was bought here or came back from elsewhere.
    fn faults(&self) -> Vec<String> {
        let Self { expected: Expected { bought, returned, adjusted }, allotted, available, reserved, sold, .. } = *self;
        let mut faults = Vec::new();
        if available.checked_add(reserved).and_then(|units| units.checked_add(sold)) != Some(allotted) {
            faults.push(format!("{available} available, {reserved} reserved and {sold} sold are not the {allotted} allotted"));
        }
        if reserved != 0 {
            faults.push(format!("{reserved} units are still reserved"));
        }
        if bought.checked_sub(returned) != Some(sold) {
            faults.push(format!("{sold} units are sold, and the file buys {bought} and returns {returned}"));
        }
        if allotted != bought + adjusted {
            faults.push(format!("{allotted} units are allotted, and the file buys {bought} and brings {adjusted} from elsewhere"));
        }
        faults
    }

    /// Whether all of it holds.
    pub(crate) fn holds(&self) -> bool {
        self.faults().is_empty()
    }
}

/// Every stock beside what is expected of it, and a failure for each product that is not as it must be, or that was not read.
pub(crate) fn compare(expected: &BTreeMap<String, Expected>, stocks: &[Stock]) -> (Vec<FinalStock>, Vec<Failure>) {
    let read: BTreeMap<&str, &Stock> = stocks.iter().map(|stock| (stock.sku.as_str(), stock)).collect();
    let (mut finals, mut failures) = (Vec::new(), Vec::new());
    let failure = |sku: &str, detail: String| Failure { line: None, sku: sku.to_owned(), detail };
    for (sku, expected) in expected {
        let Some(stock) = read.get(sku.as_str()) else {
            failures.push(failure(sku, "its stock was not read".to_owned()));
            continue;
        };
        let last = FinalStock::new(stock, *expected);
        failures.extend(last.faults().into_iter().map(|fault| failure(sku, fault)));
        finals.push(last);
    }
    let unexpected = stocks.iter().filter(|stock| !expected.contains_key(&stock.sku));
    failures.extend(unexpected.map(|stock| failure(&stock.sku, "the file does nothing with it".to_owned())));
    (finals, failures)
}

#[cfg(test)]
mod tests {
    use super::super::export::ReadingOptions;
    use super::*;

    fn stock(sku: &str, allotted: u64, available: u64, reserved: u64, sold: u64) -> Stock {
        Stock { sku: sku.into(), allotted, available, reserved, sold }
    }

    fn of_a(bought: u64, returned: u64, adjusted: u64) -> BTreeMap<String, Expected> {
        BTreeMap::from([("A".to_owned(), Expected { bought, returned, adjusted })])
    }

    #[test]
    fn the_file_alone_tells_what_is_bought_returned_and_adjusted() {
        let text = "Order;SKU;Qty;Customer;Date\n\
                    1;A;5;9;2010-12-02\n2;A;3;8;2010-12-02\n3;A;2;;2010-12-02\nC4;A;-6;9;2010-12-03\nC5;A;-1;;2010-12-03\n\
                    C6;A;-2;8;2010-12-01\n7;B;0;9;2010-12-01\nC8;C;-4;9;2010-12-01\n9;POST;1;9;2010-12-01\n10;A;x;9;2010-12-01\n";
        let export = Export::open(text.as_bytes(), &ReadingOptions::default()).unwrap();
        let plan = Plan::read(&export, "p:").unwrap();
        let expected = expected(&export, "p:", &plan).unwrap();
        // Of nine's six, five had been bought; the guest's one has no buyer; eight's two came before there was a purchase.
        let a = Expected { bought: 10, returned: 5, adjusted: 4 };
        let c = Expected { bought: 0, returned: 0, adjusted: 4 };
        assert_eq!(expected, BTreeMap::from([("p:A".to_owned(), a), ("p:C".to_owned(), c)]));
    }

    #[test]
    fn a_stock_holds_only_when_all_of_it_is_as_the_file_says() {
        let expected = of_a(5, 2, 1);
        assert_eq!(compare(&expected, &[stock("A", 6, 3, 0, 3)]).1, []);
        for (counters, says) in [
            ((6, 2, 0, 3), "are not the 6 allotted"),
            ((6, 2, 1, 3), "1 units are still reserved"),
            ((6, 1, 0, 5), "5 units are sold, and the file buys 5 and returns 2"),
            ((6, 4, 0, 2), "2 units are sold"),
            ((5, 2, 0, 3), "5 units are allotted, and the file buys 5 and brings 1 from elsewhere"),
            ((7, 4, 0, 3), "7 units are allotted"),
        ] {
            let (allotted, available, reserved, sold) = counters;
            let (finals, failures) = compare(&expected, &[stock("A", allotted, available, reserved, sold)]);
            assert!(failures.iter().all(|failure| failure.sku == "A"), "{failures:?}");
            assert!(failures.iter().any(|failure| failure.detail.contains(says)), "{says}: {failures:?}");
            assert!(!finals[0].holds());
        }
    }

    #[test]
    fn a_product_that_was_not_read_or_is_not_in_the_file_is_named() {
        let (finals, failures) = compare(&of_a(5, 0, 0), &[stock("B", 1, 0, 0, 1)]);
        assert!(finals.is_empty());
        let told: Vec<_> = failures.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["product A: its stock was not read", "product B: the file does nothing with it"]);
    }
}
