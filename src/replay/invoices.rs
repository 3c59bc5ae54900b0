//! The shop's export as a plan: which line buys which product, which takes units back and from which earlier lines, and why every
//! other line does neither.
//!
//! Pure: rows in, [`Plan`] out. It must not know the node, the network, the clock or the terminal.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tidegate_stock::limits::{ALLOTTED_MAX, QUANTITY_MAX};
use tidegate_stock::{IdentifierError, Quantity, Reference, Sku, UserId};

use super::export::{Export, FileError, Row, shown};
use super::numbers::{Decimal, whole, without_zero_fraction};

/// What a cancelling invoice's number begins with.
const CANCELLATION_PREFIX: char = 'C';

/// Codes that stand in the product column and are no product: what they charge or correct takes no unit off a shelf. Compared
/// without regard to case. `BANK CHARGES` is missing on purpose: with its space it is outside the identifier alphabet, which is
/// looked at first.
pub(crate) const NO_PRODUCT_CODES: [(&str, &str); 9] = [
    ("POST", "postage"),
    ("DOT", "postage of the web shop"),
    ("C2", "carriage"),
    ("D", "discount"),
    ("M", "manual entry"),
    ("S", "samples"),
    ("B", "bad debt"),
    ("AMAZONFEE", "fee of a market place"),
    ("CRUK", "commission for a charity"),
];

/// What the codes of gift vouchers begin with; a voucher is money and takes no unit off a shelf.
pub(crate) const GIFT_VOUCHER_PREFIX: &str = "gift_";

/// Most units that the file may take back of one product. With them the stock stays within what a stock may be allotted, whatever
/// the file buys of it.
const CANCELLED_UNITS_MAX: u64 = ALLOTTED_MAX - QUANTITY_MAX as u64;

/// Why a line neither buys nor takes back. The first that holds, in this order, is the line's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SkipReason {
    /// Not as many fields as the header, a field that is too long, or bytes that are no UTF-8 where they are read.
    MalformedRow,
    /// The quantity is no integer, or is over [`QUANTITY_MAX`]; or a cancellation's is not negative.
    BadQuantity,
    /// The quantity is zero.
    ZeroQuantity,
    /// The quantity is negative though the invoice cancels nothing: a correction of the shop's own count, which no customer made.
    NegativeQuantity,
    /// Product, invoice or customer is empty, too long, or outside the identifier alphabet.
    BadIdentifier,
    /// The product column holds one of [`NO_PRODUCT_CODES`], or a gift voucher.
    NoProduct,
    /// The date is missing, or not written as the file's dates are.
    BadDate,
    /// With this line the file would buy more than [`QUANTITY_MAX`] units of the product, which is the most a stock opens with; or
    /// take back more than a stock can take.
    OverStockMax,
}

impl SkipReason {
    /// The reason as people read it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::MalformedRow => "malformed row",
            Self::BadQuantity => "bad quantity",
            Self::ZeroQuantity => "zero quantity",
            Self::NegativeQuantity => "negative quantity",
            Self::BadIdentifier => "bad identifier",
            Self::NoProduct => "no product",
            Self::BadDate => "bad date",
            Self::OverStockMax => "over a stock's maximum",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}

/// A line that neither buys nor takes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// Its line in the file, counted from 1 for the header.
    pub(crate) line: u64,
    /// What stands there and what is wrong with it.
    pub(crate) detail: String,
}

/// A line that buys units of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SaleLine {
    /// Its line in the file; the idempotency keys are made of it.
    pub(crate) line: u64,
    /// The invoice, which becomes the reservation's reference.
    pub(crate) invoice: Reference,
    /// The customer, or `guest:<invoice>`.
    pub(crate) user: UserId,
    /// Whether the line has no customer.
    pub(crate) guest: bool,
    /// Units bought.
    pub(crate) quantity: Quantity,
}

/// A line of an invoice that takes units back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cancellation {
    /// Its line in the file.
    pub(crate) line: u64,
    /// The cancelling invoice, as the file writes it.
    pub(crate) invoice: String,
    /// Who gives back; `None` for a line without a customer, which takes nothing from any earlier line.
    pub(crate) user: Option<UserId>,
    /// Units that come back.
    pub(crate) quantity: Quantity,
    /// From which earlier lines, the newest first.
    pub(crate) returned: Vec<Returned>,
    /// The rest: units that no earlier line of this customer and product has left.
    pub(crate) adjusted: u32,
}

/// Units that come back from one earlier line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Returned {
    /// The line that bought them.
    pub(crate) line: u64,
    /// How many.
    pub(crate) units: u32,
}

/// What happens to a product with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Sale(SaleLine),
    Cancellation(Cancellation),
}

impl Step {
    const fn line(&self) -> u64 {
        match self {
            Self::Sale(SaleLine { line, .. }) | Self::Cancellation(Cancellation { line, .. }) => *line,
        }
    }
}

/// A product and everything that the file does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    /// The prefix and the product column as the file writes it: codes that differ in case are different products.
    pub(crate) sku: Sku,
    /// The sum of what its sales buy, at most [`QUANTITY_MAX`]; 0 for a product that is only taken back.
    pub(crate) bought: u64,
    /// Its lines in the order of their dates, those of the same date in the order of the file; never empty.
    pub(crate) steps: Vec<Step>,
}

/// What the file asks for.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Lines of the file, the header excluded; every one is a sale, a cancellation or skipped.
    pub(crate) lines: u64,
    /// The products, by sku.
    pub(crate) products: Vec<Product>,
    /// All other lines, by reason and in the order of the file.
    pub(crate) skipped: BTreeMap<SkipReason, Vec<Skipped>>,
}

impl Plan {
    /// The plan of `export`, every stock's name with `prefix` before the product's code. What a single line gets wrong lands in the
    /// plan and fails nothing.
    pub(crate) fn read(export: &Export<'_>, prefix: &str) -> Result<Self, FileError> {
        let mut planning = Planning::default();
        export.each(|line, row| {
            let entry = row.map_err(|detail| (SkipReason::MalformedRow, detail)).and_then(|row| {
                let (sku, step) = classify(line, &row, prefix, export.decimal())?;
                let bad_date = || (SkipReason::BadDate, format!("the date {:?} of product {sku}", shown(row.date)));
                let time = export.time_of(&row).ok_or_else(bad_date)?;
                Ok((sku, time, step))
            });
            planning.take(line, entry);
        })?;
        Ok(planning.finish())
    }

    /// All sales.
    pub(crate) fn sales(&self) -> impl Iterator<Item = &SaleLine> {
        self.products.iter().flat_map(Product::sales)
    }

    /// All cancellations, each with its product.
    pub(crate) fn cancellations(&self) -> impl Iterator<Item = (&Sku, &Cancellation)> {
        self.products.iter().flat_map(|product| product.cancellations().map(|one| (&product.sku, one)))
    }
}

impl Product {
    fn sales(&self) -> impl Iterator<Item = &SaleLine> {
        self.steps.iter().filter_map(|step| if let Step::Sale(sale) = step { Some(sale) } else { None })
    }

    fn cancellations(&self) -> impl Iterator<Item = &Cancellation> {
        self.steps.iter().filter_map(|step| if let Step::Cancellation(one) = step { Some(one) } else { None })
    }
}

/// What a row is not, and why.
type Misfit = (SkipReason, String);

#[derive(Default)]
struct Planning {
    plan: Plan,
    products: BTreeMap<Sku, Planned>,
}

/// A product in the making.
#[derive(Default)]
struct Planned {
    bought: u64,
    cancelled: u64,
    /// With their times.
    steps: Vec<(i64, Step)>,
}

impl Planning {
    fn take(&mut self, line: u64, entry: Result<(Sku, i64, Step), Misfit>) {
        self.plan.lines += 1;
        if let Err((reason, detail)) = entry.and_then(|(sku, time, step)| self.keep(sku, time, step)) {
            self.plan.skipped.entry(reason).or_default().push(Skipped { line, detail });
        }
    }

    fn keep(&mut self, sku: Sku, time: i64, step: Step) -> Result<(), Misfit> {
        let (bought, cancelled) = self.products.get(&sku).map_or((0, 0), |product| (product.bought, product.cancelled));
        let (bought, cancelled) = match &step {
            Step::Sale(sale) => (bought + u64::from(sale.quantity.units()), cancelled),
            Step::Cancellation(one) => (bought, cancelled + u64::from(one.quantity.units())),
        };
        if bought > u64::from(QUANTITY_MAX) {
            let detail = format!("product {sku} would need {bought} units where a stock opens with at most {QUANTITY_MAX}");
            return Err((SkipReason::OverStockMax, detail));
        }
        if cancelled > CANCELLED_UNITS_MAX {
            let detail = format!("product {sku} would get {cancelled} units back where at most {CANCELLED_UNITS_MAX} are taken");
            return Err((SkipReason::OverStockMax, detail));
        }
        let product = self.products.entry(sku).or_default();
        (product.bought, product.cancelled) = (bought, cancelled);
        product.steps.push((time, step));
        Ok(())
    }

    fn finish(mut self) -> Plan {
        let finish = |(sku, mut product): (Sku, Planned)| {
            product.steps.sort_by_key(|(time, step)| (*time, step.line()));
            let mut steps: Vec<Step> = product.steps.into_iter().map(|(_, step)| step).collect();
            match_cancellations(&mut steps);
            Product { sku, bought: product.bought, steps }
        };
        self.plan.products = self.products.into_iter().map(finish).collect();
        self.plan
    }
}

/// Lets each cancellation among the `steps` of one product take what it can from the earlier lines of its customer, the newest first.
fn match_cancellations(steps: &mut [Step]) {
    // What is left of each line, by customer, the newest last.
    let mut left: BTreeMap<UserId, Vec<Returned>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Sale(sale) => {
                left.entry(sale.user.clone()).or_default().push(Returned { line: sale.line, units: sale.quantity.units() });
            }
            Step::Cancellation(one) => {
                let mut wanted = one.quantity.units();
                let lines = one.user.as_ref().and_then(|user| left.get_mut(user));
                if let Some(lines) = lines {
                    while let Some(newest) = lines.last_mut().filter(|_| wanted > 0) {
                        let units = wanted.min(newest.units);
                        one.returned.push(Returned { line: newest.line, units });
                        wanted -= units;
                        newest.units -= units;
                        if newest.units == 0 {
                            lines.pop();
                        }
                    }
                }
                one.adjusted = wanted;
            }
        }
    }
}

/// What a row does with which product, or why it does nothing.
fn classify(line: u64, row: &Row<'_>, prefix: &str, decimal: Option<Decimal>) -> Result<(Sku, Step), Misfit> {
    let cancels = row.invoice.starts_with(CANCELLATION_PREFIX);
    let number = whole(row.quantity, decimal)
        .ok_or_else(|| (SkipReason::BadQuantity, format!("the quantity {:?} is no integer", shown(row.quantity))))?;
    if number.unsigned_abs() > u64::from(QUANTITY_MAX) {
        return Err((SkipReason::BadQuantity, format!("the quantity {number} is over {QUANTITY_MAX} in size")));
    }
    match (cancels, number) {
        (true, 0..) => {
            let detail = format!("the quantity {number} of cancellation {} is not negative", shown(row.invoice));
            return Err((SkipReason::BadQuantity, detail));
        }
        (false, 0) => return Err((SkipReason::ZeroQuantity, format!("product {}", shown(row.product)))),
        (false, ..0) => return Err((SkipReason::NegativeQuantity, format!("product {} by {number}", shown(row.product)))),
        (true, ..0) | (false, 1..) => {}
    }
    let quantity =
        Quantity::new(number.unsigned_abs()).map_err(|error| (SkipReason::BadQuantity, format!("the quantity {error}")))?;
    let outside = |column: &str, text: &str, error: IdentifierError| {
        (SkipReason::BadIdentifier, format!("the {column} {:?} {error}", shown(text)))
    };
    let sku = Sku::new(row.product)
        .and_then(|_| Sku::new(&format!("{prefix}{}", row.product)))
        .map_err(|error| outside("product", row.product, error))?;
    if is_no_product(row.product) {
        return Err((SkipReason::NoProduct, format!("product {}", row.product)));
    }
    let customer = without_zero_fraction(row.customer);
    let user = || UserId::new(customer).map_err(|error| outside("customer", customer, error));
    if cancels {
        let user = if customer.is_empty() { None } else { Some(user()?) };
        // A cancelling invoice's number goes nowhere but into the report.
        let invoice = shown(row.invoice);
        return Ok((sku, Step::Cancellation(Cancellation { line, invoice, user, quantity, returned: Vec::new(), adjusted: 0 })));
    }
    let invoice = Reference::new(row.invoice).map_err(|error| outside("invoice", row.invoice, error))?;
    let guest = customer.is_empty();
    let user = if guest {
        let name = format!("guest:{invoice}");
        UserId::new(&name).map_err(|error| outside("invoice", &name, error))?
    } else {
        user()?
    };
    Ok((sku, Step::Sale(SaleLine { line, invoice, user, guest, quantity })))
}

fn is_no_product(code: &str) -> bool {
    let voucher = code.get(..GIFT_VOUCHER_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(GIFT_VOUCHER_PREFIX));
    voucher || NO_PRODUCT_CODES.iter().any(|(known, _)| code.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::super::export::ReadingOptions;
    use super::*;

    const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    /// The plan of rows without a quote; a `d` in the place of a date is one.
    fn plan(rows: &str) -> Plan {
        let text = format!("{HEADER}{}", rows.replace(",d,", ",2010-12-01 08:26:00,"));
        Plan::read(&Export::open(text.as_bytes(), &ReadingOptions::default()).unwrap(), "").unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<(SkipReason, Vec<u64>)> {
        plan.skipped.iter().map(|(reason, lines)| (*reason, lines.iter().map(|skipped| skipped.line).collect())).collect()
    }

    /// Of a cancellation: its line, the lines and units that it takes, the rest.
    type Taken = (u64, Vec<(u64, u32)>, u32);

    fn taken(plan: &Plan) -> Vec<Taken> {
        let taken = |one: &Cancellation| one.returned.iter().map(|returned| (returned.line, returned.units)).collect();
        plan.cancellations().map(|(_, one)| (one.line, taken(one), one.adjusted)).collect()
    }

    #[test]
    fn a_line_is_a_sale_of_its_product_to_its_customer() {
        let plan = plan("7,85123A,HEART,6,d,2.55,17850.0,UK\n7,71053,x,2,d,1,17850.0,UK\n8,85123A,x,1,d,1,,UK\n");
        assert_eq!((plan.lines, plan.products.len()), (3, 2));
        let hearts = &plan.products[1];
        assert_eq!((hearts.sku.as_str(), hearts.bought), ("85123A", 7));
        let lines: Vec<_> = hearts.sales().map(|sale| (sale.line, sale.invoice.as_str(), sale.user.as_str(), sale.guest)).collect();
        assert_eq!(lines, [(2, "7", "17850", false), (4, "8", "guest:8", true)]);
        assert!(plan.skipped.is_empty());
    }

    /// One row per reason and per pair of reasons whose order could be mistaken: fields, the reason they get.
    #[test]
    fn the_first_reason_that_holds_is_the_lines_reason() {
        let cases: [(&str, Option<SkipReason>); 42] = [
            ("7,A,x,1,d,1,17850.0,UK", None),
            ("7,A,x,1.0,d,1,anna,UK", None),
            ("7,A,x,1000000000,d,1,1,UK", None),
            ("7,A,x,1,d,1,1.5,UK", None), // no whole number, but an identifier
            ("7,PADS,x,1,d,1,1,UK", None),
            ("C7,A,x,-1,d,1,1,UK", None),
            ("C7,A,x,-1.0,d,1,,UK", None),
            ("C 7/8,A,x,-1,d,1,1,UK", None), // its number goes nowhere
            ("7,A,x,1,d,1,1", Some(SkipReason::MalformedRow)),
            ("7,A,x,1,d,1,1,UK,more", Some(SkipReason::MalformedRow)),
            ("7,A", Some(SkipReason::MalformedRow)),
            ("7,A,x,one,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,1.5,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,1.,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,.0,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,1000000001,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,-1000000001,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,99999999999999999999,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("C7,A,x,3,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("C7,A,x,0,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,a b,x,one,d,1,1,UK", Some(SkipReason::BadQuantity)),
            ("7,A,x,0,d,1,1,UK", Some(SkipReason::ZeroQuantity)),
            ("7,POST,x,0,d,1,1,UK", Some(SkipReason::ZeroQuantity)),
            ("7,A,x,-3,d,1,1,UK", Some(SkipReason::NegativeQuantity)),
            ("c7,A,x,-3,d,1,1,UK", Some(SkipReason::NegativeQuantity)),
            ("7,a b,x,-3,d,1,1,UK", Some(SkipReason::NegativeQuantity)),
            ("7,BANK CHARGES,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7,,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            (",A,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7/8,A,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7,A,x,1,d,1,an na,UK", Some(SkipReason::BadIdentifier)),
            ("C7,a b,x,-1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("C7,A,x,-1,d,1,an na,UK", Some(SkipReason::BadIdentifier)),
            ("7,POST,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
            ("7,m,x,1,d,1,an na,UK", Some(SkipReason::NoProduct)),
            ("7,gift_0001_20,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
            ("7,GIFT_0001_20,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
            ("C7,D,x,-1,d,1,an na,UK", Some(SkipReason::NoProduct)),
            ("7,POST,x,1,soon,1,1,UK", Some(SkipReason::NoProduct)),
            ("7,A,x,1,soon,1,1,UK", Some(SkipReason::BadDate)),
            ("C7,A,x,-1,,1,1,UK", Some(SkipReason::BadDate)),
        ];
        for (row, expected) in cases {
            // Another line shows how this file writes dates.
            let plan = plan(&format!("{row}\n0,OTHER,x,1,d,1,1,UK\n"));
            let found: Vec<_> = plan.skipped.keys().copied().collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{row}");
            let used = plan.sales().count() + plan.cancellations().count();
            assert_eq!((plan.lines, used), (2, 1 + usize::from(expected.is_none())), "{row}");
        }
    }

    #[test]
    fn an_invoice_too_long_for_a_guests_name_is_a_bad_identifier() {
        let invoice = "7".repeat(123);
        let plan = plan(&format!("{invoice},A,x,1,d,1,,UK\n{invoice},A,x,1,d,1,5,UK\n"));
        assert_eq!(reasons(&plan), [(SkipReason::BadIdentifier, vec![2])]);
        assert_eq!(plan.sales().count(), 1);
    }

    #[test]
    fn a_product_stops_at_what_a_stock_can_open_with_and_take_back() {
        let bought = plan("7,A,x,999999999,d,1,1,UK\n7,A,x,2,d,1,1,UK\n7,A,x,1,d,1,1,UK\n");
        assert_eq!(reasons(&bought), [(SkipReason::OverStockMax, vec![3])]);
        assert_eq!((bought.sales().count(), bought.products[0].bought), (2, 1_000_000_000));
        let back = plan(&"C7,A,x,-1000000000,d,1,1,UK\n".repeat(1_000));
        assert_eq!(reasons(&back), [(SkipReason::OverStockMax, vec![1_001])]);
        assert_eq!(back.cancellations().count(), 999);
    }

    #[test]
    fn a_cancellation_takes_from_the_newest_lines_of_its_customer_and_product_first() {
        let sales = "1,A,x,5,d,1,9,UK\n2,A,x,3,d,1,9,UK\n3,A,x,4,d,1,9,UK\n";
        let others = "4,A,x,9,d,1,8,UK\n5,Z,x,9,d,1,9,UK\n6,A,x,9,d,1,,UK\n";
        let one = |rows: &str| taken(&plan(&format!("{sales}{others}{rows}")));
        assert_eq!(one("C7,A,x,-4,d,1,9,UK\n"), [(8, vec![(4, 4)], 0)]);
        assert_eq!(one("C7,A,x,-2,d,1,9,UK\n"), [(8, vec![(4, 2)], 0)]);
        assert_eq!(one("C7,A,x,-8,d,1,9,UK\n"), [(8, vec![(4, 4), (3, 3), (2, 1)], 0)]);
        // More than were bought, and what is left by one is the next one's.
        assert_eq!(one("C7,A,x,-15,d,1,9,UK\n"), [(8, vec![(4, 4), (3, 3), (2, 5)], 3)]);
        assert_eq!(
            one("C7,A,x,-5,d,1,9,UK\nC8,A,x,-3,d,1,9.0,UK\nC9,A,x,-9,d,1,9,UK\n"),
            [(8, vec![(4, 4), (3, 1)], 0), (9, vec![(3, 2), (2, 1)], 0), (10, vec![(2, 4)], 5)]
        );
        // A sale in between is the newest of all.
        assert_eq!(
            one("C7,A,x,-1,d,1,9,UK\n8,A,x,2,d,1,9,UK\nC9,A,x,-3,d,1,9,UK\n"),
            [(8, vec![(4, 1)], 0), (10, vec![(9, 2), (4, 1)], 0)]
        );
    }

    #[test]
    fn what_no_earlier_line_bought_is_left_over() {
        let rows =
            "C1,A,x,-4,d,1,9,UK\n2,A,x,4,d,1,9,UK\n3,A,x,4,d,1,,UK\nC3,A,x,-2,d,1,,UK\nC4,A,x,-2,d,1,8,UK\nC5,Z,x,-1,d,1,9,UK\n";
        let plan = plan(rows);
        // Before the purchase; without a customer, though a guest bought; another customer; a product that nobody bought.
        assert_eq!(taken(&plan), [(2, vec![], 4), (5, vec![], 2), (6, vec![], 2), (7, vec![], 1)]);
        let bought: Vec<_> = plan.products.iter().map(|product| (product.sku.as_str(), product.bought)).collect();
        assert_eq!(bought, [("A", 8), ("Z", 0)]);
    }

    #[test]
    fn lines_go_by_date_and_those_of_one_date_as_they_stand() {
        let sale = |invoice: u64, date: &str| format!("{invoice},A,x,1,{date},1,9,UK\n");
        // The newest stand first, as in many exports.
        let rows =
            ["C9,A,x,-1,2010-12-04,1,9,UK\n", &sale(3, "2010-12-03"), &sale(1, "2010-12-01"), &sale(2, "2010-12-01")].concat();
        let plan = plan(&rows);
        let order: Vec<u64> = plan.products[0].steps.iter().map(Step::line).collect();
        assert_eq!(order, [4, 5, 3, 2]);
        assert_eq!(taken(&plan), [(2, vec![(3, 1)], 0)]);
    }

    #[test]
    fn a_prefix_stands_before_every_product_and_hides_no_code_that_is_none() {
        let text = format!("{HEADER}7,A,x,1,2010-12-01,1,1,UK\n7,POST,x,1,2010-12-01,1,1,UK\n7,,x,1,2010-12-01,1,1,UK\n");
        let plan = Plan::read(&Export::open(text.as_bytes(), &ReadingOptions::default()).unwrap(), "run-1:").unwrap();
        assert_eq!(plan.products[0].sku.as_str(), "run-1:A");
        assert_eq!(reasons(&plan), [(SkipReason::BadIdentifier, vec![4]), (SkipReason::NoProduct, vec![3])]);
    }
}
