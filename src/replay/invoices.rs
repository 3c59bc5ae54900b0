//! The shop's export as a plan: which line is a sale of which product, and why every other line is none.
//!
//! Pure: bytes in, [`Plan`] out. It must not know the node, the network, the clock or the terminal.

use std::collections::BTreeMap;
use std::fmt;

use csv::{ByteRecord, ReaderBuilder, Trim};
use serde::Serialize;
use tidegate_stock::limits::QUANTITY_MAX;
use tidegate_stock::{Quantity, Reference, Sku, UserId};

/// Largest file, in bytes: it is held in memory, and so is its plan. (A year of a middling shop, half a million lines, is 46 MB.)
pub(crate) const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Longest field, in bytes. A quote that is never closed swallows the rest of the file into one field; this names it instead.
pub(crate) const FIELD_BYTES_MAX: usize = 4_096;

/// Bytes of a text from the file that are shown back; the rest is cut.
const SHOWN_BYTES_MAX: usize = 64;

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

/// The columns that are read, by the names of the header row. Others (`Description`, `InvoiceDate`, `UnitPrice`, `Country`) may be
/// there or not: they decide nothing.
pub(crate) const COLUMNS_NEEDED: [&str; 4] = ["InvoiceNo", "StockCode", "Quantity", "CustomerID"];

/// Why a file as a whole cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// No header row, or nothing at all.
    #[error("the file is empty: its first line must name the columns InvoiceNo, StockCode, Quantity and CustomerID")]
    Empty,
    /// A column that is needed has no header of its name.
    #[error("the header names no column {column}; it names {found}")]
    ColumnMissing {
        /// The missing column.
        column: &'static str,
        /// What the header names instead.
        found: String,
    },
    /// Two columns have the name of one that is needed.
    #[error("the header names {column} {times} times")]
    ColumnRepeated {
        /// The column.
        column: &'static str,
        /// How often it is there.
        times: usize,
    },
    /// The reader gave up on the text as a whole; a single bad row does not do that.
    #[error("the file cannot be read as comma-separated values")]
    Text(#[source] csv::Error),
}

/// Why a line is no sale. The first that holds, in this order, is the line's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SkipReason {
    /// Not as many fields as the header, a field over [`FIELD_BYTES_MAX`], or bytes that are no UTF-8 where they are read.
    MalformedRow,
    /// The quantity is no integer, or is over [`QUANTITY_MAX`]; or a cancellation's is not negative.
    BadQuantity,
    /// The quantity is zero.
    ZeroQuantity,
    /// The quantity is negative though the invoice cancels nothing: a correction of the shop's own count.
    NegativeQuantity,
    /// Product, invoice or customer is empty, too long, or outside the identifier alphabet.
    BadIdentifier,
    /// The product column holds one of [`NO_PRODUCT_CODES`], or a gift voucher.
    NoProduct,
    /// With this line the file would buy more than [`QUANTITY_MAX`] units of the product, which is the most a stock opens with.
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
            Self::OverStockMax => "over a stock's maximum",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}

/// A line that is no sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// Its line in the file, counted from 1 for the header.
    pub(crate) line: u64,
    /// What stands there and what is wrong with it.
    pub(crate) detail: String,
}

/// A line of an invoice that takes an earlier sale back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cancellation {
    /// Its line in the file.
    pub(crate) line: u64,
    /// The cancelling invoice, as the file writes it.
    pub(crate) invoice: String,
    /// What comes back, as the file writes it.
    pub(crate) sku: String,
    /// Who gives it back; `None` for a line without a customer.
    pub(crate) user: Option<String>,
    /// Units that come back.
    pub(crate) units: u64,
    /// False for discounts, postage and the like: no unit of a stock comes back.
    pub(crate) product: bool,
}

/// A line that buys units of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SaleLine {
    /// Its line in the file; the idempotency key is made of it.
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

/// A product and everything the file buys of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    /// The product column as the file writes it: codes that differ in case are different products.
    pub(crate) sku: Sku,
    /// The sum of its lines' quantities, at most [`QUANTITY_MAX`].
    pub(crate) units: u64,
    /// Its lines in the order of the file; never empty.
    pub(crate) lines: Vec<SaleLine>,
}

/// What the file asks for.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Lines of the file, the header excluded; every one is a sale, a cancellation or skipped.
    pub(crate) lines: u64,
    /// The products that are sold, by sku.
    pub(crate) products: Vec<Product>,
    /// Lines that take a sale back, in the order of the file.
    pub(crate) cancellations: Vec<Cancellation>,
    /// All other lines, by reason and in the order of the file.
    pub(crate) skipped: BTreeMap<SkipReason, Vec<Skipped>>,
}

impl Plan {
    /// Reads a shop's export: comma-separated, with a header row, quoted where a field holds a comma, a quote or a line break; lines
    /// end in LF or CRLF, and a byte order mark is allowed. What a single line gets wrong lands in the plan and fails nothing.
    pub(crate) fn read(text: &[u8]) -> Result<Self, FileError> {
        // Byte records, because only the columns that are read need be UTF-8: shops write descriptions in older encodings.
        let mut reader = ReaderBuilder::new().flexible(true).trim(Trim::All).from_reader(text);
        let columns = Columns::find(reader.byte_headers().map_err(FileError::Text)?)?;
        let mut place = Place { text, at: 0, line: 1 };
        let mut planning = Planning::default();
        let mut row = ByteRecord::new();
        while reader.read_byte_record(&mut row).map_err(FileError::Text)? {
            let line = place.row_at(row.position().map_or(0, csv::Position::byte));
            planning.take(line, columns.read(&row).map_err(|detail| place.with_reach(detail, reader.position().byte())));
        }
        Ok(planning.finish())
    }

    /// Lines that are sales.
    pub(crate) fn sales(&self) -> usize {
        self.products.iter().map(|product| product.lines.len()).sum()
    }

    /// Units that the sales buy.
    pub(crate) fn units(&self) -> u64 {
        self.products.iter().map(|product| product.units).sum()
    }
}

/// Counts lines beside the reader, whose own count is one short behind CRLF and behind blank lines.
struct Place<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Place<'_> {
    /// The line of the first row that begins at byte `start` or, where only line ends stand there, behind them. Rows are asked for in
    /// the order of the file, and no two of them get the same line.
    fn row_at(&mut self, start: u64) -> u64 {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        while let Some(&byte) = self.text.get(self.at)
            && (self.at < start || matches!(byte, b'\r' | b'\n'))
        {
            self.line += u64::from(self.is_line_end(self.at));
            self.at += 1;
        }
        self.line
    }

    /// A malformed row's `detail` with the line it ends on, if that is another than the one it begins on.
    fn with_reach(&self, detail: String, end: u64) -> String {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.text.len());
        let row = self.text[self.at..end].trim_ascii_end();
        match (self.at..self.at + row.len()).filter(|&at| self.is_line_end(at)).count() {
            0 => detail,
            more => format!("{detail}; the row goes on to line {}", self.line + more as u64),
        }
    }

    /// LF ends a line, and so does a CR that no LF follows.
    fn is_line_end(&self, at: usize) -> bool {
        match self.text[at] {
            b'\n' => true,
            b'\r' => self.text.get(at + 1) != Some(&b'\n'),
            _ => false,
        }
    }
}

/// Where the needed columns stand, and how many columns there are.
struct Columns {
    places: [usize; COLUMNS_NEEDED.len()],
    count: usize,
}

/// The needed fields of one row, in the order of [`COLUMNS_NEEDED`].
struct Row<'a> {
    invoice: &'a str,
    sku: &'a str,
    quantity: &'a str,
    customer: &'a str,
}

impl Columns {
    fn find(header: &ByteRecord) -> Result<Self, FileError> {
        if header.iter().all(<[u8]>::is_empty) {
            return Err(FileError::Empty);
        }
        let mut places = [0; COLUMNS_NEEDED.len()];
        for (place, column) in places.iter_mut().zip(COLUMNS_NEEDED) {
            let mut found = header.iter().enumerate().filter(|(_, name)| *name == column.as_bytes());
            match (found.next(), found.count()) {
                (Some((index, _)), 0) => *place = index,
                (Some(_), more) => return Err(FileError::ColumnRepeated { column, times: more + 1 }),
                (None, _) => {
                    let names = header.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join(", ");
                    return Err(FileError::ColumnMissing { column, found: shown(&names) });
                }
            }
        }
        Ok(Self { places, count: header.len() })
    }

    /// The needed fields, or what is wrong with the row.
    fn read<'a>(&self, row: &'a ByteRecord) -> Result<Row<'a>, String> {
        if row.len() != self.count {
            return Err(format!("{} fields where the header names {}", row.len(), self.count));
        }
        if let Some(field) = row.iter().find(|field| field.len() > FIELD_BYTES_MAX) {
            return Err(format!("a field of {} bytes where {FIELD_BYTES_MAX} are allowed", field.len()));
        }
        let text = |column: usize| {
            std::str::from_utf8(&row[self.places[column]]).map_err(|_| format!("{} is not UTF-8", COLUMNS_NEEDED[column]))
        };
        Ok(Row { invoice: text(0)?, sku: text(1)?, quantity: text(2)?, customer: text(3)? })
    }
}

#[derive(Default)]
struct Planning {
    plan: Plan,
    products: BTreeMap<Sku, Product>,
}

/// What one row turned out to be.
enum Kind {
    Sale(Sku, SaleLine),
    Cancellation(Cancellation),
}

impl Planning {
    fn take(&mut self, line: u64, row: Result<Row<'_>, String>) {
        self.plan.lines += 1;
        let kind = match row {
            Ok(row) => classify(line, &row),
            Err(detail) => Err((SkipReason::MalformedRow, detail)),
        };
        match kind.and_then(|kind| self.keep(kind)) {
            Ok(()) => {}
            Err((reason, detail)) => self.plan.skipped.entry(reason).or_default().push(Skipped { line, detail }),
        }
    }

    fn keep(&mut self, kind: Kind) -> Result<(), (SkipReason, String)> {
        match kind {
            Kind::Cancellation(cancellation) => self.plan.cancellations.push(cancellation),
            Kind::Sale(sku, sale) => {
                let before = self.products.get(&sku).map_or(0, |product| product.units);
                let units = before + u64::from(sale.quantity.units());
                if units > u64::from(QUANTITY_MAX) {
                    return Err((
                        SkipReason::OverStockMax,
                        format!("StockCode {sku} would need {units} units where a stock opens with at most {QUANTITY_MAX}"),
                    ));
                }
                let product =
                    self.products.entry(sku).or_insert_with_key(|sku| Product { sku: sku.clone(), units: 0, lines: Vec::new() });
                product.units = units;
                product.lines.push(sale);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Plan {
        self.plan.products = self.products.into_values().collect();
        self.plan
    }
}

fn classify(line: u64, row: &Row<'_>) -> Result<Kind, (SkipReason, String)> {
    let cancels = row.invoice.starts_with('C');
    let number: i64 = without_zero_fraction(row.quantity)
        .parse()
        .map_err(|_| (SkipReason::BadQuantity, format!("Quantity {:?} is no integer", shown(row.quantity))))?;
    if number.unsigned_abs() > u64::from(QUANTITY_MAX) {
        return Err((SkipReason::BadQuantity, format!("Quantity {number} is over {QUANTITY_MAX} in size")));
    }
    let customer = without_zero_fraction(row.customer);
    if cancels {
        if number >= 0 {
            return Err((
                SkipReason::BadQuantity,
                format!("Quantity {number} of cancellation {} is not negative", shown(row.invoice)),
            ));
        }
        return Ok(Kind::Cancellation(Cancellation {
            line,
            invoice: shown(row.invoice),
            sku: shown(row.sku),
            user: (!customer.is_empty()).then(|| shown(customer)),
            units: number.unsigned_abs(),
            product: !is_no_product(row.sku),
        }));
    }
    let quantity = match u64::try_from(number) {
        Ok(0) => return Err((SkipReason::ZeroQuantity, format!("StockCode {}", shown(row.sku)))),
        Ok(units) => Quantity::new(units).map_err(|error| (SkipReason::BadQuantity, format!("Quantity {error}")))?,
        Err(_) => return Err((SkipReason::NegativeQuantity, format!("StockCode {} by {number}", shown(row.sku)))),
    };
    let outside = |column: &str, text: &str, error: tidegate_stock::IdentifierError| {
        (SkipReason::BadIdentifier, format!("{column} {:?} {error}", shown(text)))
    };
    let sku = Sku::new(row.sku).map_err(|error| outside("StockCode", row.sku, error))?;
    if is_no_product(row.sku) {
        return Err((SkipReason::NoProduct, format!("StockCode {sku}")));
    }
    let invoice = Reference::new(row.invoice).map_err(|error| outside("InvoiceNo", row.invoice, error))?;
    let guest = customer.is_empty();
    let user = if guest {
        let name = format!("guest:{invoice}");
        UserId::new(&name).map_err(|error| outside("InvoiceNo", &name, error))?
    } else {
        UserId::new(customer).map_err(|error| outside("CustomerID", customer, error))?
    };
    Ok(Kind::Sale(sku, SaleLine { line, invoice, user, guest, quantity }))
}

fn is_no_product(code: &str) -> bool {
    let voucher = code.get(..GIFT_VOUCHER_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(GIFT_VOUCHER_PREFIX));
    voucher || NO_PRODUCT_CODES.iter().any(|(known, _)| code.eq_ignore_ascii_case(known))
}

/// `17850.0` is 17850: spreadsheets write whole numbers as floats. Only a fraction of zeros behind digits is taken off.
fn without_zero_fraction(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, zeros))
            if !zeros.is_empty()
                && zeros.bytes().all(|byte| byte == b'0')
                && whole.strip_prefix('-').unwrap_or(whole).bytes().all(|byte| byte.is_ascii_digit())
                && whole.bytes().any(|byte| byte.is_ascii_digit()) =>
        {
            whole
        }
        _ => text,
    }
}

/// `text` cut to what a message can bear.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=SHOWN_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    fn plan(rows: &str) -> Plan {
        Plan::read(format!("{HEADER}{rows}").as_bytes()).unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<(SkipReason, Vec<u64>)> {
        plan.skipped.iter().map(|(reason, lines)| (*reason, lines.iter().map(|skipped| skipped.line).collect())).collect()
    }

    #[test]
    fn a_line_is_a_sale_of_its_product_to_its_customer() {
        let plan = plan("7,85123A,\"HEART, WHITE\",6,d,2.55,17850.0,UK\n7,71053,x,2,d,1,17850.0,UK\n8,85123A,x,1,d,1,,UK\n");
        assert_eq!(plan.lines, 3);
        assert_eq!(plan.products.len(), 2);
        let hearts = &plan.products[1];
        assert_eq!((hearts.sku.as_str(), hearts.units), ("85123A", 7));
        let lines: Vec<_> = hearts.lines.iter().map(|sale| (sale.line, sale.user.as_str(), sale.guest)).collect();
        assert_eq!(lines, [(2, "17850", false), (4, "guest:8", true)]);
        assert_eq!(hearts.lines[0].invoice.as_str(), "7");
        assert!(plan.skipped.is_empty() && plan.cancellations.is_empty());
    }

    /// One row per reason and per pair of reasons whose order could be mistaken: fields, the reason they get.
    #[test]
    fn the_first_reason_that_holds_is_the_lines_reason() {
        let cases: [(&str, Option<SkipReason>); 32] = [
            ("7,A,x,1,d,1,17850.0,UK", None),
            ("7,A,x,1.0,d,1,anna,UK", None),
            ("7,A,x,1000000000,d,1,1,UK", None),
            ("7,A,x,1,d,1,1.5,UK", None), // no whole number, but an identifier
            ("7,PADS,x,1,d,1,1,UK", None),
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
            ("7,a b,x,-3,d,1,1,UK", Some(SkipReason::NegativeQuantity)),
            ("7,BANK CHARGES,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7,,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            (",A,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7/8,A,x,1,d,1,1,UK", Some(SkipReason::BadIdentifier)),
            ("7,A,x,1,d,1,an na,UK", Some(SkipReason::BadIdentifier)),
            ("7,POST,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
            ("7,m,x,1,d,1,an na,UK", Some(SkipReason::NoProduct)),
            ("7,gift_0001_20,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
            ("7,GIFT_0001_20,x,1,d,1,1,UK", Some(SkipReason::NoProduct)),
        ];
        for (row, expected) in cases {
            let plan = plan(&format!("{row}\n"));
            let found: Vec<_> = plan.skipped.keys().copied().collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{row}");
            assert_eq!(plan.sales(), usize::from(expected.is_none()), "{row}");
        }
    }

    #[test]
    fn an_invoice_too_long_for_a_guests_name_is_a_bad_identifier() {
        let invoice = "7".repeat(123);
        let plan = plan(&format!("{invoice},A,x,1,d,1,,UK\n{invoice},A,x,1,d,1,5,UK\n"));
        assert_eq!(reasons(&plan), [(SkipReason::BadIdentifier, vec![2])]);
        assert_eq!(plan.sales(), 1);
    }

    #[test]
    fn a_product_stops_at_what_a_stock_can_open_with() {
        let plan = plan("7,A,x,999999999,d,1,1,UK\n7,A,x,2,d,1,1,UK\n7,A,x,1,d,1,1,UK\n");
        assert_eq!(reasons(&plan), [(SkipReason::OverStockMax, vec![3])]);
        assert_eq!((plan.sales(), plan.units()), (2, 1_000_000_000));
    }

    #[test]
    fn cancellations_say_what_they_would_return() {
        let plan = plan("C7,85123A,x,-3,d,1,17850.0,UK\nC8,D,x,-1,d,1,,UK\nC9,a b,x,-1,d,1,5,UK\n");
        assert_eq!((plan.lines, plan.sales()), (3, 0));
        let listed: Vec<_> = plan
            .cancellations
            .iter()
            .map(|one| (one.line, one.invoice.as_str(), one.sku.as_str(), one.user.as_deref(), one.units, one.product))
            .collect();
        assert_eq!(
            listed,
            [(2, "C7", "85123A", Some("17850"), 3, true), (3, "C8", "D", None, 1, false), (4, "C9", "a b", Some("5"), 1, true)]
        );
    }

    #[test]
    fn every_line_is_named_by_its_place_in_the_file() {
        let zero = "7,A,x,0,d,1,1,UK";
        let lines = |rows: &str| reasons(&plan(rows)).remove(0).1;
        assert_eq!(lines(&format!("{zero}\n{zero}\n{zero}")), [2, 3, 4]);
        assert_eq!(lines(&format!("{zero}\r\n{zero}\r\n{zero}\r\n")), [2, 3, 4]);
        assert_eq!(lines(&format!("{zero}\r{zero}\r{zero}\r")), [2, 3, 4]);
        assert_eq!(lines(&format!("7,A,\"two\nlines\",0,d,1,1,UK\r\n\r\n\n{zero}\n7,A,\"x\"\"y\",0,d,1,1,UK")), [2, 6, 7]);
    }

    #[test]
    fn a_byte_order_mark_crlf_and_spaces_change_nothing() {
        let text = "\u{feff}InvoiceNo, StockCode ,Quantity,CustomerID\r\n7, A ,2, 17850.0 \r\n8,A,0,1\r\n";
        let plan = Plan::read(text.as_bytes()).unwrap();
        assert_eq!((plan.lines, plan.products.len()), (2, 1));
        assert_eq!((plan.products[0].lines[0].line, reasons(&plan)), (2, vec![(SkipReason::ZeroQuantity, vec![3])]));
        assert_eq!((plan.products[0].sku.as_str(), plan.products[0].lines[0].user.as_str()), ("A", "17850"));
    }

    #[test]
    fn only_the_columns_that_are_read_need_be_utf8() {
        let mut text = HEADER.as_bytes().to_vec();
        text.extend_from_slice(b"7,A,5 \xa3 note,1,d,1,1,UK\n7,\xa3,x,1,d,1,1,UK\n");
        let plan = Plan::read(&text).unwrap();
        assert_eq!(reasons(&plan), [(SkipReason::MalformedRow, vec![3])]);
        assert_eq!(plan.sales(), 1);
    }

    #[test]
    fn a_quote_that_is_never_closed_is_named_with_how_far_it_reaches() {
        let mut rows = String::from("7,A,x,1,d,1,1,\"UK\n");
        for _ in 0..500 {
            rows.push_str("7,A,x,1,d,1,1,UK\n");
        }
        let plan = plan(&rows);
        assert_eq!(reasons(&plan), [(SkipReason::MalformedRow, vec![2])]);
        let detail = &plan.skipped[&SkipReason::MalformedRow][0].detail;
        assert!(detail.contains("the row goes on to line 502"), "{detail}");
    }

    #[test]
    fn a_file_that_cannot_be_read_by_its_columns_is_refused_by_name() {
        let read = |text: &str| Plan::read(text.as_bytes()).unwrap_err();
        assert!(matches!(read(""), FileError::Empty));
        assert!(matches!(read("\u{feff}"), FileError::Empty));
        assert!(matches!(read("\n\n"), FileError::Empty));
        let missing = read("InvoiceNo,StockCode,Qty,CustomerID\n7,A,1,1\n");
        assert_eq!(missing.to_string(), "the header names no column Quantity; it names InvoiceNo, StockCode, Qty, CustomerID");
        assert!(matches!(read("InvoiceNo;StockCode;Quantity;CustomerID\n"), FileError::ColumnMissing { column: "InvoiceNo", .. }));
        assert!(matches!(
            read("Quantity,InvoiceNo,StockCode,Quantity,CustomerID\n"),
            FileError::ColumnRepeated { column: "Quantity", times: 2 }
        ));
    }

    #[test]
    fn the_columns_are_found_by_name_in_any_order() {
        let plan = Plan::read("CustomerID,Quantity,StockCode,InvoiceNo\n17850.0,3,A,7\n".as_bytes()).unwrap();
        let sale = &plan.products[0].lines[0];
        assert_eq!((sale.user.as_str(), sale.quantity.units(), sale.invoice.as_str()), ("17850", 3, "7"));
    }
}
