//! Which column of an export holds what: by the names that shops are known to use, or by the names that were given.
//!
//! Pure. It must not know what stands below the header.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::export::FileError;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Column {
    /// The number of the invoice or order.
    Invoice,
    /// The product's code.
    Product,
    /// Units, in whole numbers.
    Quantity,
    /// Who buys.
    Customer,
    /// When the line was written.
    Date,
    /// The price of a unit. It decides nothing; it only shows how the shop writes numbers.
    Price,
}

/// Every column with its names, without case, spaces and signs; the first is the one that help and errors show.
const NAMES: [(Column, &[&str]); 6] = [
    (
        Column::Invoice,
        &[
            "invoiceno",
            "invoice",
            "invoicenumber",
            "invoiceid",
            "orderid",
            "order",
            "orderno",
            "ordernumber",
            "transactionid",
            "transactionno",
            "rechnungsnummer",
            "rechnungsnr",
            "bestellnummer",
            "bestellnr",
        ],
    ),
    (
        Column::Product,
        &[
            "stockcode",
            "sku",
            "product",
            "productid",
            "productcode",
            "productsku",
            "item",
            "itemid",
            "itemcode",
            "itemsku",
            "lineitemsku",
            "variantsku",
            "articleno",
            "articlenumber",
            "artikelnummer",
            "artikelnr",
        ],
    ),
    (
        Column::Quantity,
        &["quantity", "qty", "units", "lineitemquantity", "itemquantity", "quantityordered", "qtyordered", "menge", "anzahl"],
    ),
    (
        Column::Customer,
        &[
            "customerid",
            "customer",
            "customerno",
            "customernumber",
            "buyerid",
            "buyer",
            "clientid",
            "userid",
            "user",
            "kundennummer",
            "kundennr",
        ],
    ),
    (
        Column::Date,
        &[
            "invoicedate",
            "date",
            "orderdate",
            "createdat",
            "purchasedate",
            "transactiondate",
            "timestamp",
            "datum",
            "rechnungsdatum",
            "bestelldatum",
        ],
    ),
    (Column::Price, &["unitprice", "price", "itemprice", "lineitemprice", "preis", "einzelpreis", "stueckpreis", "stückpreis"]),
];

impl Column {
    /// Its word on the command line and in messages.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Product => "product",
            Self::Quantity => "quantity",
            Self::Customer => "customer",
            Self::Date => "date",
            Self::Price => "price",
        }
    }

    /// Whether a file without it is refused.
    const fn needed(self) -> bool {
        !matches!(self, Self::Date | Self::Price)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// A column that was named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedColumn {
    column: Column,
    header: String,
}

impl FromStr for NamedColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = || NAMES.map(|(column, _)| column.word()).join(", ");
        let (word, header) = text
            .split_once('=')
            .ok_or_else(|| format!("a column and its header are needed, as in quantity=Qty; columns: {}", words()))?;
        let (column, _) = NAMES
            .into_iter()
            .find(|(column, _)| column.word() == word.trim())
            .ok_or_else(|| format!("there is no column {word:?}; columns: {}", words()))?;
        if header.trim().is_empty() {
            return Err(format!("the header of column {column} is empty"));
        }
        Ok(Self { column, header: header.trim().to_owned() })
    }
}

/// Where the columns stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) invoice: usize,
    pub(crate) product: usize,
    pub(crate) quantity: usize,
    pub(crate) customer: usize,
    pub(crate) date: Option<usize>,
    pub(crate) price: Option<usize>,
}

impl Places {
    /// The places in `header`, with `named` columns under the headers that were given for them.
    pub(crate) fn find(header: &[String], named: &[NamedColumn]) -> Result<Self, FileError> {
        let place = |column| place(header, named, column);
        let needed = |column| {
            let missing = || FileError::ColumnMissing { column, as_known: known(column), found: header.join(", ") };
            place(column)?.ok_or_else(missing)
        };
        Ok(Self {
            invoice: needed(Column::Invoice)?,
            product: needed(Column::Product)?,
            quantity: needed(Column::Quantity)?,
            customer: needed(Column::Customer)?,
            date: place(Column::Date)?,
            price: place(Column::Price)?,
        })
    }

    /// Each column that is there, with its place.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Column, usize)> {
        let needed = [self.invoice, self.product, self.quantity, self.customer].map(Some);
        let columns = NAMES.map(|(column, _)| column);
        columns
            .into_iter()
            .zip(needed.into_iter().chain([self.date, self.price]))
            .filter_map(|(column, place)| Some((column, place?)))
    }
}

/// How many of the needed columns `header` names, whatever else is wrong with it.
pub(crate) fn recognised(header: &[String], named: &[NamedColumn]) -> usize {
    NAMES
        .iter()
        .filter(|(column, _)| {
            column.needed() && !matches!(place(header, named, *column), Ok(None) | Err(FileError::HeaderMissing { .. }))
        })
        .count()
}

fn place(header: &[String], named: &[NamedColumn], column: Column) -> Result<Option<usize>, FileError> {
    let given: Vec<&NamedColumn> = named.iter().filter(|one| one.column == column).collect();
    if let [first, second, ..] = given[..] {
        return Err(FileError::ColumnGivenTwice { column, first: first.header.clone(), second: second.header.clone() });
    }
    let places = |fits: &dyn Fn(&str) -> bool| -> Vec<usize> {
        header.iter().enumerate().filter(|(_, name)| fits(name)).map(|(place, _)| place).collect()
    };
    let found = match given.first() {
        Some(one) => {
            // As it is written first: a header may hold both Qty and QTY.
            let exact = places(&|name| name == one.header);
            let found = if exact.is_empty() { places(&|name| plain(name) == plain(&one.header)) } else { exact };
            if found.is_empty() {
                return Err(FileError::HeaderMissing { column, header: one.header.clone(), found: header.join(", ") });
            }
            found
        }
        None => places(&|name| NAMES.iter().any(|(of, names)| *of == column && names.contains(&plain(name).as_str()))),
    };
    match found[..] {
        [] => Ok(None),
        [place] => Ok(Some(place)),
        // Which of the prices shows how numbers are written makes no difference.
        [place, ..] if column == Column::Price => Ok(Some(place)),
        _ => Err(FileError::ColumnUnclear {
            column,
            candidates: found.iter().map(|&place| header[place].as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn known(column: Column) -> String {
    NAMES.iter().filter(|(of, _)| *of == column).map(|(_, names)| names.join(", ")).collect()
}

/// A header without case, spaces and signs.
fn plain(name: &str) -> String {
    name.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(header: &str, named: &[&str]) -> Result<Places, FileError> {
        let header: Vec<String> = header.split(',').map(str::to_owned).collect();
        let named: Vec<NamedColumn> = named.iter().map(|text| text.parse().unwrap()).collect();
        Places::find(&header, &named)
    }

    fn error(header: &str, named: &[&str]) -> String {
        find(header, named).unwrap_err().to_string()
    }

    #[test]
    fn known_names_are_found_whatever_their_case_spaces_and_signs() {
        for header in [
            "InvoiceNo,StockCode,Quantity,CustomerID",
            "INVOICE_NO,stock code,QUANTITY,customer-id",
            "Order ID,SKU,Qty,Customer",
            "order_number,Lineitem sku,Lineitem quantity,buyer id",
            "Rechnungs-Nr.,Artikelnummer,Menge,Kunden Nr",
        ] {
            let places = find(header, &[]).unwrap_or_else(|error| panic!("{header}: {error}"));
            assert_eq!((places.invoice, places.product, places.quantity, places.customer), (0, 1, 2, 3), "{header}");
            assert_eq!((places.date, places.price), (None, None), "{header}");
        }
        let places = find("Price,Date,Customer ID,Quantity,Item,Order", &[]).unwrap();
        assert_eq!(places, Places { invoice: 5, product: 4, quantity: 3, customer: 2, date: Some(1), price: Some(0) });
    }

    #[test]
    fn a_named_column_is_taken_from_its_header_and_from_no_other() {
        let places = find("Doc,What,Quantity,How many,Who", &["invoice=Doc", "product=what", "quantity=how_many", "customer=Who"]);
        let places = places.unwrap();
        assert_eq!((places.invoice, places.product, places.quantity, places.customer), (0, 1, 3, 4));
        let exact = find("Order,SKU,Qty,QTY,Customer", &["quantity=QTY"]).unwrap();
        assert_eq!(exact.quantity, 3);
    }

    #[test]
    fn what_is_missing_twice_there_or_unclear_is_named_with_what_was_found() {
        let missing = error("InvoiceNo,StockCode,Pieces,CustomerID", &[]);
        assert!(
            missing.starts_with("the header names no quantity column; it names InvoiceNo, StockCode, Pieces, CustomerID"),
            "{missing}"
        );
        assert!(missing.contains("--column quantity=HEADER") && missing.contains("qty"), "{missing}");
        let gone = error("InvoiceNo,StockCode,Quantity,CustomerID", &["quantity=Pieces"]);
        assert!(gone.contains("no header Pieces for the quantity column; it names InvoiceNo, StockCode"), "{gone}");
        let unclear = error("InvoiceNo,Product,SKU,Quantity,CustomerID", &[]);
        assert!(unclear.contains("more than one column could be the product: Product, SKU"), "{unclear}");
        let repeated = error("InvoiceNo,SKU,Quantity,Quantity,CustomerID", &["quantity=Quantity"]);
        assert!(repeated.contains("more than one column could be the quantity: Quantity, Quantity"), "{repeated}");
        let given = error("InvoiceNo,SKU,A,B,CustomerID", &["quantity=A", "quantity=B"]);
        assert!(given.contains("the quantity column is given twice: A and B"), "{given}");
        // The price decides nothing.
        assert_eq!(find("InvoiceNo,SKU,Quantity,CustomerID,Price,Unit Price", &[]).unwrap().price, Some(4));
    }

    #[test]
    fn a_column_is_named_by_its_word_and_a_header() {
        for (text, says) in [("quantity", "quantity=Qty"), ("amount=Qty", "no column \"amount\""), ("date= ", "is empty")] {
            let error = text.parse::<NamedColumn>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
