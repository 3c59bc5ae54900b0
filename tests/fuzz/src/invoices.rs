//! A shop's export: every row is a sale, a cancellation or skipped with a reason, no row is lost or counted twice, and what comes back was
//! sold before. The replay is a part of the program and of no library, so its pure files are taken in here as they stand.

use std::collections::{BTreeMap, BTreeSet};

#[path = "../../../src/replay"]
#[allow(dead_code, reason = "not all of the replay is tried here")]
mod replay {
    pub(super) mod columns;
    pub(super) mod dates;
    pub(super) mod export;
    pub(super) mod invoices;
    pub(super) mod numbers;
}

use self::replay::dates::DateFormat;
use self::replay::export::{Export, ReadingOptions, Separator};
use self::replay::invoices::{Plan, Step};
use self::replay::numbers::Decimal;

const UNITS_MAX: u64 = 1_000_000_000;

/// Tries `text` as a file whose writing must be told from it, and as one of which it was said.
pub fn run(text: &[u8]) {
    let said = |decimal, separator, date_format| ReadingOptions {
        columns: Vec::new(),
        separator: Some(separator),
        decimal: Some(decimal),
        date_format: Some(date_format),
    };
    read(text, &ReadingOptions::default());
    read(text, &said(Decimal::Comma, Separator::Semicolon, DateFormat::DayFirst));
    read(text, &said(Decimal::Point, Separator::Comma, DateFormat::Unread));
}

fn read(text: &[u8], options: &ReadingOptions) {
    let export = match Export::open(text, options) {
        Ok(export) => export,
        Err(error) => {
            // What is shown of a file is bounded.
            assert!(error.to_string().len() < 2_048, "{error}");
            return;
        }
    };
    let mut lines = Vec::new();
    export.each(|line, _| lines.push(line)).expect("it was read before");
    assert!(lines.iter().all(|line| *line >= 1) && lines.is_sorted_by(|one, next| one < next), "{lines:?}");

    let plan = Plan::read(&export, "run:").expect("it was read before");
    assert_eq!(plan.lines, lines.len() as u64);
    let used = plan.products.iter().flat_map(|product| &product.steps).map(|step| match step {
        Step::Sale(sale) => sale.line,
        Step::Cancellation(one) => one.line,
    });
    let skipped = plan.skipped.values().flatten().map(|skipped| skipped.line);
    let mut accounted: Vec<u64> = used.chain(skipped).collect();
    accounted.sort_unstable();
    assert_eq!(accounted, lines, "every row once");
    assert!(plan.skipped.values().flatten().all(|skipped| skipped.detail.len() < 1_024));

    for product in &plan.products {
        assert!(product.sku.as_str().starts_with("run:") && product.bought <= UNITS_MAX);
        let mut left: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
        let mut bought = 0;
        for step in &product.steps {
            match step {
                Step::Sale(sale) => {
                    bought += u64::from(sale.quantity.units());
                    left.insert(sale.line, (sale.quantity.units().into(), sale.user.as_str()));
                }
                Step::Cancellation(one) => {
                    let mut back = u64::from(one.adjusted);
                    for returned in &one.returned {
                        let (units, buyer) = left.get_mut(&returned.line).expect("it was sold before");
                        assert_eq!(Some(*buyer), one.user.as_ref().map(tidegate_stock::UserId::as_str));
                        *units = units.checked_sub(returned.units.into()).expect("no unit comes back twice");
                        back += u64::from(returned.units);
                    }
                    assert_eq!(back, u64::from(one.quantity.units()));
                }
            }
        }
        assert_eq!(bought, product.bought);
    }
    let skus: BTreeSet<_> = plan.products.iter().map(|product| product.sku.as_str()).collect();
    assert_eq!(skus.len(), plan.products.len());
}
