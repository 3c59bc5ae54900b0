//! `tidegate replay` from the outside: the binary, a shop's real file and small made-up ones, and what a node then says of its stocks.
//!
//! Nothing here is shared with the program: the file is read by a few plain lines, the node over bare sockets.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Finished, Server};
use tempfile::TempDir;

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn real_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/online-retail-10k.csv")
}

fn replay(file: &Path, more: &[&str]) -> Finished {
    support::run(&[&["replay", file.to_str().unwrap(), "--json"], more].concat())
}

/// The report of a replay that ends with `code`.
#[track_caller]
fn report(file: &Path, more: &[&str], code: i32) -> Value {
    let finished = replay(file, more).expect(code, &[]);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn stock(server: &Server, sku: &str) -> [i64; 4] {
    let response = server.get(&format!("/v1/stocks/{sku}"));
    assert_eq!(response.status, 200, "{response:?}");
    counters(&response.json())
}

/// Splits one line at its commas, those within quotes excepted.
fn split(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(character),
        }
    }
    fields
}

/// What the real file asks for, worked out without the program.
#[derive(Default)]
struct Expected {
    lines: u64,
    sales: u64,
    cancelled: Vec<u64>,
    cancelled_units: i64,
    negative: Vec<u64>,
    outside: Vec<u64>,
    no_product: Vec<u64>,
    customers: BTreeSet<String>,
    guests: BTreeSet<String>,
    units: BTreeMap<String, i64>,
}

impl Expected {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines().zip(1..);
        assert_eq!(format!("{}\n", lines.next().unwrap().0), HEADER);
        let mut expected = Self::default();
        for (line, number) in lines {
            let fields = split(line);
            assert_eq!(fields.len(), 8, "line {number}");
            let (invoice, code, quantity) = (&fields[0], &fields[1], fields[3].parse::<i64>().unwrap());
            expected.lines += 1;
            if invoice.starts_with('C') {
                expected.cancelled.push(number);
                // The only code among them that is no product is the discount.
                expected.cancelled_units += if code == "D" { 0 } else { -quantity };
            } else if quantity < 0 {
                expected.negative.push(number);
            } else if code.contains(' ') {
                expected.outside.push(number);
            } else if !code.starts_with(|first: char| first.is_ascii_digit()) {
                // True of this file: every product's code begins with a digit, and nothing else's does.
                expected.no_product.push(number);
            } else {
                assert!(quantity > 0, "line {number}");
                expected.sales += 1;
                *expected.units.entry(code.clone()).or_default() += quantity;
                match fields[6].split('.').next().unwrap() {
                    "" => expected.guests.insert(invoice.clone()),
                    customer => expected.customers.insert(customer.to_owned()),
                };
            }
        }
        expected
    }
}

fn lines_of(listed: &Value) -> Vec<u64> {
    listed["listed"].as_array().unwrap().iter().map(|one| one["line"].as_u64().unwrap()).collect()
}

/// Allotted, available, reserved and sold.
fn counters(stock: &Value) -> [i64; 4] {
    ["allotted", "available", "reserved", "sold"].map(|name| stock[name].as_i64().unwrap())
}

#[test]
fn the_real_invoices_leave_every_stock_sold_as_the_file_says() {
    let expected = Expected::read(&real_file());
    let home = TempDir::new().unwrap();
    let data_dir = home.path().join("data");
    let report = report(&real_file(), &["--data-dir", data_dir.to_str().unwrap()], 0);

    let file = &report["file"];
    assert_eq!((expected.lines, expected.cancelled.len()), (10_000, 100));
    assert_eq!(file["lines"], expected.lines);
    assert_eq!(file["sales"], expected.sales);
    assert_eq!(file["units"], expected.units.values().sum::<i64>());
    assert_eq!(file["products"], expected.units.len());
    assert_eq!(file["customers"], expected.customers.len());
    assert_eq!(file["guests"], expected.guests.len());
    assert_eq!(file["cancellations"]["lines"], expected.cancelled.len());
    assert_eq!(file["cancellations"]["units"], expected.cancelled_units);
    assert_eq!(lines_of(&file["cancellations"]), expected.cancelled);
    let skipped = file["skipped"].as_object().unwrap();
    let reasons: Vec<_> = skipped.keys().map(String::as_str).collect();
    assert_eq!(BTreeSet::from_iter(reasons), BTreeSet::from(["bad_identifier", "negative_quantity", "no_product"]));
    for (reason, lines) in
        [("bad_identifier", &expected.outside), ("negative_quantity", &expected.negative), ("no_product", &expected.no_product)]
    {
        assert_eq!(skipped[reason]["lines"], lines.len(), "{reason}");
        assert_eq!(&lines_of(&skipped[reason]), lines, "{reason}");
    }
    assert_eq!(skipped["bad_identifier"]["listed"][0]["detail"].as_str().map(|detail| detail.contains("BANK CHARGES")), Some(true));
    assert_eq!((&report["answers"]["grants"], &report["answers"]["confirms"]), (&expected.sales.into(), &expected.sales.into()));
    assert_eq!((&report["ok"], &report["verified"]["ok"]), (&true.into(), &true.into()));
    assert_eq!(report["failures"], Value::Array(Vec::new()));

    // What the replay reports, and what another node reads from the same log, are the same thing.
    let reported: BTreeMap<_, _> =
        report["stocks"].as_array().unwrap().iter().map(|one| (one["sku"].as_str().unwrap(), counters(one))).collect();
    assert_eq!(reported.len(), expected.units.len());
    let server = Server::start(&data_dir);
    for (sku, &units) in &expected.units {
        assert_eq!(reported[sku.as_str()], [units, 0, 0, units], "{sku}");
        assert_eq!(stock(&server, sku), [units, 0, 0, units], "{sku}");
    }
}

#[test]
fn a_repeat_on_the_same_node_changes_nothing_and_another_file_cannot_take_its_stocks() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let file = home.path().join("shop.csv");
    std::fs::write(&file, format!("{HEADER}7,A,x,2,d,1,1.0,UK\n7,A,x,3,d,1,1.0,UK\n8,Z,x,1,d,1,,UK\n")).unwrap();
    for repeated in [0, 3] {
        let report = report(&file, &["--target", &url], 0);
        assert_eq!((&report["answers"]["grants"], &report["answers"]["grants_repeated"]), (&3.into(), &repeated.into()));
        assert_eq!(report["verified"], Value::Null);
        assert_eq!((stock(&server, "A"), stock(&server, "Z")), ([5, 0, 0, 5], [1, 0, 0, 1]));
    }

    std::fs::write(&file, format!("{HEADER}7,A,x,9,d,1,1.0,UK\n")).unwrap();
    let report = report(&file, &["--target", &url], 1);
    assert_eq!((&report["ok"], &report["answers"]["grants"]), (&false.into(), &0.into()));
    assert!(report["failures"][0]["detail"].as_str().unwrap().contains("stock_exists"), "{report}");
    assert_eq!(stock(&server, "A"), [5, 0, 0, 5]);
}

#[test]
fn a_stock_that_somebody_else_bought_from_is_a_failure_that_names_the_line() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let file = home.path().join("shop.csv");
    // Another shop's file buys the same sum of A in other lines, so its stock is there and empty.
    std::fs::write(&file, format!("{HEADER}\n7,A,x,5,d,1,1,UK\n")).unwrap();
    assert_eq!(report(&file, &["--target", &url], 0)["ok"], true);
    std::fs::write(&file, format!("{HEADER}7,A,x,5,d,1,1,UK\n")).unwrap();
    let report = report(&file, &["--target", &url], 1);
    let failure = &report["failures"].as_array().unwrap()[0];
    assert_eq!((&failure["line"], &failure["sku"]), (&2.into(), &"A".into()));
    assert!(failure["detail"].as_str().unwrap().contains("409 sold_out"), "{report}");
}

#[test]
fn crlf_a_byte_order_mark_quotes_and_bad_lines_are_taken_as_they_come() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("shop.csv");
    let lines = [
        "7,A,\"HEART, WHITE, \"\"NEW\"\"\",6,d,2.55,17850.0,United Kingdom",
        "7,a b,x,1,d,1,1,UK",
        "7,A,x,some,d,1,1,UK",
        "8,A,x,2,d,1,,UK",
        "8,A,x,0,d,1,,UK",
        "9,A,x",
        "9,M,Manual,1,d,1,1,UK",
        "C9,A,\"HEART, WHITE\",-2,d,1,17850.0,UK",
        "9,B.b_:~-1,\"a\r\nb\",1,d,1,1,UK",
        "9,A,x,-1,d,1,1,UK",
    ];
    std::fs::write(&file, format!("\u{feff}{}{}", HEADER.replace('\n', "\r\n"), lines.join("\r\n"))).unwrap();
    let report = report(&file, &["--concurrency", "1"], 0);
    let file = &report["file"];
    assert_eq!((&file["lines"], &file["sales"], &file["units"]), (&10.into(), &3.into(), &9.into()));
    assert_eq!((&file["customers"], &file["guests"]), (&2.into(), &1.into()));
    let skipped: BTreeMap<_, _> =
        file["skipped"].as_object().unwrap().iter().map(|(reason, lines)| (reason.as_str(), lines_of(lines))).collect();
    let expected = [
        ("malformed_row", vec![7]),
        ("bad_quantity", vec![4]),
        ("zero_quantity", vec![6]),
        ("negative_quantity", vec![12]),
        ("bad_identifier", vec![3]),
        ("no_product", vec![8]),
    ];
    assert_eq!(skipped, BTreeMap::from(expected));
    assert_eq!(lines_of(&file["cancellations"]), [9]);
    assert_eq!(file["cancellations"]["listed"][0]["user"], "17850");
    let stocks: BTreeMap<_, _> =
        report["stocks"].as_array().unwrap().iter().map(|one| (one["sku"].as_str().unwrap(), counters(one))).collect();
    assert_eq!(stocks, BTreeMap::from([("A", [8, 0, 0, 8]), ("B.b_:~-1", [1, 0, 0, 1])]));
}

#[test]
fn a_file_without_a_single_sale_is_told_and_no_failure() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("shop.csv");
    std::fs::write(&file, format!("{HEADER}9,POST,x,1,d,1,1,UK\n")).unwrap();
    let table = support::run(&["replay", file.to_str().unwrap()]).expect(0, &[]).stdout;
    assert!(table.contains("no line of the file is a sale") && table.contains("line 2: StockCode POST"), "{table}");
}

#[test]
fn a_file_that_is_no_export_is_refused_with_what_is_missing() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("shop.csv");
    for (text, says) in [
        ("", "the file is empty"),
        ("\u{feff}", "the file is empty"),
        ("InvoiceNo,StockCode,Qty,CustomerID\n7,A,1,1\n", "no column Quantity"),
        ("InvoiceNo;StockCode;Quantity;CustomerID\n7;A;1;1\n", "no column InvoiceNo"),
        ("StockCode,Quantity,CustomerID\nA,1,1\n", "no column InvoiceNo"),
        ("InvoiceNo,StockCode,Quantity,Quantity,CustomerID\n7,A,1,1,1\n", "names Quantity 2 times"),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(replay(&file, &[]).expect(1, &[says]).stdout, "", "{text:?}");
    }
    replay(&home.path().join("nowhere.csv"), &[]).expect(1, &["nowhere.csv"]);
    std::fs::write(&file, format!("{HEADER}7,A,x,5,d,1,1,UK\n")).unwrap();
    for target in ["127.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://127.0.0.1:x"] {
        replay(&file, &["--target", target]).expect(2, &["is no http://HOST:PORT", target]);
    }
}
