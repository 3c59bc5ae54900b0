//! A shop's export as rows: what parts its fields, where its columns stand, how it writes numbers and dates. The door of csv.
//!
//! Pure: bytes in, fields out. It must not know what a row means.

use std::collections::BTreeMap;

use csv::{ByteRecord, Reader, ReaderBuilder, Trim};
use serde::Serialize;

use super::columns::{self, Column, NamedColumn, Places};
use super::dates::{DateEvidence, DateFormat, Dates};
use super::numbers::{Decimal, Writing, writing};

/// Largest file, in bytes: it is held in memory, and so is its plan. (A year of a middling shop, half a million lines, is 46 MB.)
pub(crate) const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Longest field, in bytes. A quote that is never closed swallows the rest of the file into one field; this names it instead.
pub(crate) const FIELD_BYTES_MAX: usize = 4_096;

/// Bytes of a text from the file that are shown back; the rest is cut.
const SHOWN_BYTES_MAX: usize = 64;

/// Bytes of a header that an error shows back.
const HEADER_BYTES_SHOWN: usize = 1_000;

/// What parts the fields of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Separator {
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// A tabulator.
    Tab,
}

impl Separator {
    const ALL: [Self; 3] = [Self::Comma, Self::Semicolon, Self::Tab];

    const fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

/// How to read an export; what is not given is told from the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ReadingOptions {
    /// The header of a column: invoice, product, quantity, customer, date or price, as in `quantity=Qty`; may be repeated [default: the names that shops' exports are known to use]
    #[arg(long = "column", value_name = "COLUMN=HEADER")]
    pub(crate) columns: Vec<NamedColumn>,
    /// What parts the fields [default: what the header shows]
    #[arg(long, value_name = "SEPARATOR")]
    pub(crate) separator: Option<Separator>,
    /// The mark before the decimals of a number, where the file does not show it: is 1.000 one, or a thousand? [default: what the quantities and prices show]
    #[arg(long, value_name = "MARK")]
    pub(crate) decimal: Option<Decimal>,
    /// How dates are written: `iso`, `m/d/y`, `d/m/y`, `d.m.y`, a pattern such as `%Y%m%d`, or `none` to take the lines in the order of the file [default: what the dates show]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) date_format: Option<DateFormat>,
}

/// Why a file as a whole cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// No header row, or nothing at all.
    #[error("the file is empty: its first line must name the columns, such as InvoiceNo, StockCode, Quantity and CustomerID")]
    Empty,
    /// A column that is needed is not there under any name that is known for it.
    #[error(
        "the header names no {column} column; it names {}. Name it with --column {column}=HEADER; known names are {as_known}",
        cut(found, HEADER_BYTES_SHOWN)
    )]
    ColumnMissing {
        /// The missing column.
        column: Column,
        /// By which names it would be found.
        as_known: String,
        /// What the header names instead.
        found: String,
    },
    /// A header that was given for a column is not there.
    #[error("there is no header {header} for the {column} column; it names {}", cut(found, HEADER_BYTES_SHOWN))]
    HeaderMissing {
        /// The column.
        column: Column,
        /// The header it was said to have.
        header: String,
        /// What the header row names.
        found: String,
    },
    /// Two columns could be the one that is needed.
    #[error(
        "more than one column could be the {column}: {}. Say which with --column {column}=HEADER",
        cut(candidates, HEADER_BYTES_SHOWN)
    )]
    ColumnUnclear {
        /// The column.
        column: Column,
        /// Those that could be it.
        candidates: String,
    },
    /// The command line gives two headers for one column.
    #[error("the {column} column is given twice: {first} and {second}")]
    ColumnGivenTwice {
        /// The column.
        column: Column,
        /// A header.
        first: String,
        /// The other.
        second: String,
    },
    /// The quantity can be read in two ways, and nothing in the file shows in which.
    #[error(
        "line {line}: the quantity {text:?} could be one or a thousand times as much, and the file does not show which; say so with --decimal point or --decimal comma"
    )]
    NumbersAmbiguous {
        /// Where it is.
        line: u64,
        /// What stands there.
        text: String,
    },
    /// The dates can be read in two ways, and none of them shows in which.
    #[error(
        "line {line}: the date {text:?} could be m/d/y or d/m/y, and no date of the file shows which; say so with --date-format m/d/y or --date-format d/m/y"
    )]
    DatesAmbiguous {
        /// Where the first is.
        line: u64,
        /// What stands there.
        text: String,
    },
    /// Some dates can only be read in one way, others only in the other.
    #[error(
        "the date {month:?} on line {month_line} can only be m/d/y, and {day:?} on line {day_line} only d/m/y; say which is right with --date-format, and the other lines are skipped"
    )]
    DatesContradict {
        /// Where the one is.
        month_line: u64,
        /// What stands there.
        month: String,
        /// Where the other is.
        day_line: u64,
        /// What stands there.
        day: String,
    },
    /// No date could be read.
    #[error(
        "line {line}: the date {text:?} is in no format that is known, nor is any other; say which with --date-format, or --date-format none to take the lines in the order of the file"
    )]
    DatesUnreadable {
        /// Where the first is.
        line: u64,
        /// What stands there.
        text: String,
    },
    /// The reader gave up on the text as a whole; a single bad row does not do that.
    #[error("the file cannot be read as rows of fields")]
    Text(#[source] csv::Error),
}

/// An export that was understood as a whole.
pub(crate) struct Export<'a> {
    text: &'a [u8],
    separator: Separator,
    header: Vec<String>,
    places: Places,
    decimal: Option<Decimal>,
    dates: Option<Dates>,
}

/// How an export turned out to be written, for a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Format {
    pub(crate) separator: Separator,
    /// The header of each column that was found.
    pub(crate) columns: BTreeMap<Column, String>,
    /// `None` where no quantity depends on it.
    pub(crate) decimal: Option<Decimal>,
    /// Whether the lines go in the order of their dates, or as they stand in the file.
    pub(crate) by_date: bool,
}

impl Format {
    /// In which order the lines go, in words.
    pub(crate) const fn order(&self) -> &'static str {
        if self.by_date { "in the order of their dates" } else { "in the order of the file" }
    }
}

/// The fields of one row, without spaces around them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) invoice: &'a str,
    pub(crate) product: &'a str,
    pub(crate) quantity: &'a str,
    pub(crate) customer: &'a str,
    /// Empty where there is no such column.
    pub(crate) date: &'a str,
    price: &'a str,
}

impl<'a> Export<'a> {
    /// Understands `text`: a header row, then rows, quoted where a field holds the separator, a quote or a line break; lines end in LF
    /// or CRLF, and a byte order mark is allowed.
    pub(crate) fn open(text: &'a [u8], options: &ReadingOptions) -> Result<Self, FileError> {
        let separators = options.separator.as_ref().map_or(&Separator::ALL[..], std::slice::from_ref);
        let headers: Vec<(Separator, Vec<String>)> = separators
            .iter()
            .map(|&separator| Ok((separator, header(text, separator).map_err(FileError::Text)?)))
            .collect::<Result<_, FileError>>()?;
        // The one that shows most of what is needed; of those that show alike, the first that parts the header into most fields.
        let best =
            headers.into_iter().rev().max_by_key(|(_, header)| (columns::recognised(header, &options.columns), header.len()));
        let Some((separator, header)) = best.filter(|(_, header)| header.iter().any(|name| !name.is_empty())) else {
            return Err(FileError::Empty);
        };
        let places = Places::find(&header, &options.columns)?;
        let mut export = Self { text, separator, header, places, decimal: options.decimal, dates: None };
        export.look(options)?;
        Ok(export)
    }

    /// How it is written.
    pub(crate) fn format(&self) -> Format {
        Format {
            separator: self.separator,
            columns: self.places.all().map(|(column, place)| (column, self.header[place].clone())).collect(),
            decimal: self.decimal,
            by_date: self.dates.is_some(),
        }
    }

    /// The mark before decimals, as far as it was told.
    pub(crate) const fn decimal(&self) -> Option<Decimal> {
        self.decimal
    }

    /// The place of a row's date in time; 0 where dates are not read, so that all lines are of the same time. `None` where it is not
    /// written as the file's dates are.
    pub(crate) fn time_of(&self, row: &Row<'_>) -> Option<i64> {
        self.dates.as_ref().map_or(Some(0), |dates| dates.read(row.date))
    }

    /// Hands every row to `take` with its line, counted from 1 for the header: its fields, or what is wrong with it.
    pub(crate) fn each(&self, mut take: impl FnMut(u64, Result<Row<'_>, String>)) -> Result<(), FileError> {
        let mut reader = reader(self.text, self.separator);
        // The header row is read with the first record.
        reader.byte_headers().map_err(FileError::Text)?;
        let mut place = Place { text: self.text, at: 0, line: 1 };
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(FileError::Text)? {
            let line = place.row_at(record.position().map_or(0, csv::Position::byte));
            take(line, self.row(&record).map_err(|detail| place.with_reach(detail, reader.position().byte())));
        }
        Ok(())
    }

    /// Finds out how numbers and dates are written.
    fn look(&mut self, options: &ReadingOptions) -> Result<(), FileError> {
        let (mut marks, mut unclear, mut dates) = ([false; 2], None, DateEvidence::default());
        self.each(|line, row| {
            let Ok(row) = row else { return };
            for number in [row.quantity, row.price] {
                if let Writing::Shows(decimal) = writing(number) {
                    marks[usize::from(decimal == Decimal::Comma)] = true;
                }
            }
            if unclear.is_none() && writing(row.quantity) == Writing::Either {
                unclear = Some((line, shown(row.quantity)));
            }
            if options.date_format.is_none() {
                dates.look(line, &shown(row.date));
            }
        })?;
        self.decimal = match (self.decimal, unclear, marks) {
            (Some(given), _, _) => Some(given),
            (None, _, [true, false]) => Some(Decimal::Point),
            (None, _, [false, true]) => Some(Decimal::Comma),
            (None, Some((line, text)), _) => return Err(FileError::NumbersAmbiguous { line, text }),
            (None, None, _) => None,
        };
        self.dates = match (self.places.date, &options.date_format) {
            (None, _) | (Some(_), Some(DateFormat::Unread)) => None,
            (Some(_), Some(format)) => Some(Dates::Given(format.clone())),
            (Some(_), None) => Some(dates.conclude()?),
        };
        Ok(())
    }

    /// The fields that are read, or what is wrong with the row. Only they need be UTF-8: shops write descriptions in older encodings.
    fn row<'r>(&self, record: &'r ByteRecord) -> Result<Row<'r>, String> {
        if record.len() != self.header.len() {
            return Err(format!("{} fields where the header names {}", record.len(), self.header.len()));
        }
        if let Some(field) = record.iter().find(|field| field.len() > FIELD_BYTES_MAX) {
            return Err(format!("a field of {} bytes where {FIELD_BYTES_MAX} are allowed", field.len()));
        }
        let text =
            |column: Column, place: usize| std::str::from_utf8(&record[place]).map_err(|_| format!("the {column} is not UTF-8"));
        Ok(Row {
            invoice: text(Column::Invoice, self.places.invoice)?,
            product: text(Column::Product, self.places.product)?,
            quantity: text(Column::Quantity, self.places.quantity)?,
            customer: text(Column::Customer, self.places.customer)?,
            date: self.places.date.map_or(Ok(""), |place| text(Column::Date, place))?,
            price: self.places.price.and_then(|place| std::str::from_utf8(&record[place]).ok()).unwrap_or_default(),
        })
    }
}

fn reader(text: &[u8], separator: Separator) -> Reader<&[u8]> {
    ReaderBuilder::new().delimiter(separator.byte()).flexible(true).trim(Trim::All).from_reader(text)
}

fn header(text: &[u8], separator: Separator) -> csv::Result<Vec<String>> {
    let mut reader = reader(text, separator);
    Ok(reader.byte_headers()?.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
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

/// `text` cut to what a message can bear.
pub(crate) fn shown(text: &str) -> String {
    cut(text, SHOWN_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8], options: &ReadingOptions) -> Result<Vec<(u64, String)>, String> {
        let export = Export::open(text, options).map_err(|error| error.to_string())?;
        let mut rows = Vec::new();
        let take = |line, row: Result<Row<'_>, String>| {
            let text = match row {
                Ok(row) => [row.invoice, row.product, row.quantity, row.customer, row.date].join("|"),
                Err(detail) => format!("! {detail}"),
            };
            rows.push((line, text));
        };
        export.each(take).map_err(|error| error.to_string())?;
        Ok(rows)
    }

    fn of(text: &str) -> Result<Vec<(u64, String)>, String> {
        rows(text.as_bytes(), &ReadingOptions::default())
    }

    fn lines(text: &str) -> Vec<u64> {
        of(text).unwrap().into_iter().map(|(line, _)| line).collect()
    }

    fn row(line: u64, text: &str) -> (u64, String) {
        (line, text.to_owned())
    }

    #[test]
    fn the_separator_is_told_from_the_header() {
        for mark in [",", ";", "\t"] {
            let text = "Order,SKU,Qty,Customer,Date\n7,A,\"1\",9,2010-12-01\n".replace(',', mark);
            assert_eq!(of(&text), Ok(vec![row(2, "7|A|1|9|2010-12-01")]), "{text}");
        }
        // A header with other marks in it: the columns decide, and not the number of marks.
        let text = "Order;SKU;Qty;Customer;\"Name, first, last, more, still\"\n7;A;1;9;\"a, b\"\n";
        assert_eq!(of(text), Ok(vec![row(2, "7|A|1|9|")]));
        let forced = ReadingOptions { separator: Some(Separator::Tab), ..ReadingOptions::default() };
        let error = rows(text.as_bytes(), &forced).unwrap_err();
        assert!(error.starts_with("the header names no invoice column; it names Order;SKU;Qty;"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_crlf_and_spaces_change_nothing() {
        let text = "\u{feff}InvoiceNo, StockCode ,Quantity,CustomerID\r\n7, A ,2, 17850.0 \r\n8,A,0,1\r\n";
        assert_eq!(of(text), Ok(vec![row(2, "7|A|2|17850.0|"), row(3, "8|A|0|1|")]));
    }

    #[test]
    fn every_row_is_named_by_its_line() {
        let head = "InvoiceNo,StockCode,Quantity,CustomerID,Description";
        let one = "7,A,0,1,d";
        assert_eq!(lines(&format!("{head}\n{one}\n{one}\n{one}")), [2, 3, 4]);
        assert_eq!(lines(&format!("{head}\r\n{one}\r\n{one}\r\n{one}\r\n")), [2, 3, 4]);
        assert_eq!(lines(&format!("{head}\r{one}\r{one}\r{one}\r")), [2, 3, 4]);
        assert_eq!(lines(&format!("{head}\n7,A,0,1,\"two\nlines\"\r\n\r\n\n{one}\n7,A,0,1,\"x\"\"y\"")), [2, 6, 7]);
    }

    #[test]
    fn only_the_columns_that_are_read_need_be_utf8() {
        let text = b"InvoiceNo,StockCode,Quantity,CustomerID,Description,Price\n7,A,1,1,5 \xa3 note,\xa32\n7,\xa3,1,1,x,1\n";
        let rows = rows(text, &ReadingOptions::default());
        assert_eq!(rows, Ok(vec![row(2, "7|A|1|1|"), row(3, "! the product is not UTF-8")]));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_named_with_how_far_it_reaches() {
        let mut text = String::from("InvoiceNo,StockCode,Quantity,CustomerID\n7,A,1,\"1\n");
        for _ in 0..500 {
            text.push_str("7,A,1,1111\n");
        }
        let rows = of(&text).unwrap();
        assert_eq!(rows.len(), 1);
        assert!(rows[0].0 == 2 && rows[0].1.contains("the row goes on to line 502"), "{rows:?}");
    }

    #[test]
    fn a_quantity_that_could_be_a_thousand_is_read_as_the_file_shows_or_not_at_all() {
        let decimal = |rows: &str, given| {
            let text = format!("Order;SKU;Qty;Customer;Price\n{rows}");
            let options = ReadingOptions { decimal: given, ..ReadingOptions::default() };
            Export::open(text.as_bytes(), &options).map(|export| export.decimal()).map_err(|error| error.to_string())
        };
        assert_eq!(decimal("7;A;1.000;1;2,50\n", None), Ok(Some(Decimal::Comma)));
        assert_eq!(decimal("7;A;1.000;1;2.50\n", None), Ok(Some(Decimal::Point)));
        assert_eq!(decimal("7;A;1;1;2.50\n7;A;1;1;2,50\n", None), Ok(None));
        assert_eq!(decimal("7;A;1.000;1;2\n", Some(Decimal::Comma)), Ok(Some(Decimal::Comma)));
        for unclear in ["7;A;1.000;1;2\n", "7;A;1.000;1;2.50\n7;A;1;1;2,50\n"] {
            let error = decimal(unclear, None).unwrap_err();
            assert!(error.starts_with("line 2: the quantity \"1.000\" could be one or a thousand times as much"), "{error}");
        }
    }

    #[test]
    fn dates_are_read_as_the_file_shows_as_told_or_not_at_all() {
        let times = |dates: &[&str], given: Option<&str>| {
            let rows: Vec<String> = dates.iter().map(|date| format!("7,A,1,1,{date}\n")).collect();
            let rows = rows.concat();
            let text = format!("Order,SKU,Qty,Customer,Date\n{rows}");
            let date_format = given.map(|format| format.parse().unwrap());
            let export = Export::open(text.as_bytes(), &ReadingOptions { date_format, ..ReadingOptions::default() });
            let export = export.map_err(|error| error.to_string())?;
            let mut times = Vec::new();
            export.each(|_, row| times.push(export.time_of(&row.unwrap()).map(|time| time / 86_400_000))).unwrap();
            Ok::<_, String>(times)
        };
        assert_eq!(times(&["1/2/1970", "1/13/1970", "", "soon"], None), Ok(vec![Some(1), Some(12), None, None]));
        assert_eq!(times(&["1/2/1970"], Some("d/m/y")), Ok(vec![Some(31)]));
        assert_eq!(times(&["1/2/1970", "soon"], Some("none")), Ok(vec![Some(0), Some(0)]));
        assert!(times(&["1/2/1970"], None).unwrap_err().contains("could be m/d/y or d/m/y"));
    }

    #[test]
    fn an_error_shows_no_more_of_a_header_than_it_can_bear() {
        for header in [format!("InvoiceNo,{}Quantity,CustomerID", "SKU,".repeat(5_000)), "Other,".repeat(5_000)] {
            let error = of(&format!("{header}\n")).unwrap_err();
            assert!(error.len() < 2_000, "{} bytes", error.len());
        }
    }

    #[test]
    fn a_file_without_a_header_is_empty() {
        for text in ["", "\u{feff}", "\n\n"] {
            assert!(matches!(Export::open(text.as_bytes(), &ReadingOptions::default()), Err(FileError::Empty)), "{text:?}");
        }
    }
}
