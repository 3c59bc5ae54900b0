//! `tidegate replay` from the outside: the binary, a shop's real file and small made-up ones, and what a node then says of its stocks.
//!
//! Nothing here is shared with the program: the file is read by a few plain lines, the node over bare sockets.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

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

/// A file in `home` with these rows below the usual header.
fn file_of(home: &TempDir, rows: &[&str]) -> PathBuf {
    file_as(home, &format!("{HEADER}{}\n", rows.join("\n")))
}

fn file_as(home: &TempDir, text: &str) -> PathBuf {
    let file = home.path().join("shop.csv");
    std::fs::write(&file, text).unwrap();
    file
}

/// The reservation of a sale, found by asking for it again with its key, as `GET` shows it: confirmed and returned.
#[track_caller]
fn reservation(server: &Server, sku: &str, line: u64, user: &str, quantity: u64, reference: &str) -> (u64, u64) {
    let body = format!(r#"{{"user":"{user}","quantity":{quantity},"reference":"{reference}"}}"#);
    let head = format!(
        "POST /v1/stocks/{sku}/reservations HTTP/1.1\r\nhost: node\r\nconnection: close\r\nidempotency-key: line-{line}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = support::connect(server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let granted = support::response(stream).unwrap();
    assert_eq!(granted.status, 201, "{granted:?}");
    let shown = server.get(&format!("/v1/reservations/{}", granted.json()["id"].as_str().unwrap()));
    assert_eq!(shown.status, 200, "{shown:?}");
    let shown = shown.json();
    assert_eq!((&shown["user"], &shown["reference"]), (&user.into(), &reference.into()), "line {line}");
    (shown["confirmed"].as_u64().unwrap(), shown["returned"].as_u64().unwrap())
}

/// What the real file does with one product.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Units {
    bought: i64,
    returned: i64,
    adjusted: i64,
}

/// What the real file asks for, worked out without the program.
#[derive(Default)]
struct Expected {
    lines: u64,
    sales: u64,
    cancelled: Vec<u64>,
    negative: Vec<u64>,
    outside: Vec<u64>,
    no_product: Vec<u64>,
    customers: BTreeSet<String>,
    guests: BTreeSet<String>,
    units: BTreeMap<String, Units>,
}

impl Expected {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines().zip(1..);
        assert_eq!(format!("{}\n", lines.next().unwrap().0), HEADER);
        let mut expected = Self::default();
        // What each customer still has of each product. The file's lines are in the order of their dates.
        let (mut owned, mut date_before) = (BTreeMap::<_, i64>::new(), String::new());
        for (line, number) in lines {
            let fields = split(line);
            assert_eq!(fields.len(), 8, "line {number}");
            let (invoice, code, quantity) = (&fields[0], &fields[1], fields[3].parse::<i64>().unwrap());
            assert!(date_before <= fields[4], "line {number}");
            date_before.clone_from(&fields[4]);
            let customer = fields[6].split('.').next().unwrap().to_owned();
            let cancels = invoice.starts_with('C');
            expected.lines += 1;
            if quantity < 0 && !cancels {
                expected.negative.push(number);
            } else if code.contains(' ') {
                expected.outside.push(number);
            } else if !code.starts_with(|first: char| first.is_ascii_digit()) {
                // True of this file: every product's code begins with a digit, and nothing else's does.
                expected.no_product.push(number);
            } else {
                let units = expected.units.entry(code.clone()).or_default();
                let owned = owned.entry((customer.clone(), code.clone())).or_default();
                if cancels {
                    assert!(quantity < 0 && !customer.is_empty(), "line {number}");
                    expected.cancelled.push(number);
                    let returned = (*owned).min(-quantity);
                    *owned -= returned;
                    units.returned += returned;
                    units.adjusted += -quantity - returned;
                } else {
                    assert!(quantity > 0, "line {number}");
                    expected.sales += 1;
                    *owned += quantity;
                    units.bought += quantity;
                }
                if customer.is_empty() {
                    expected.guests.insert(invoice.clone());
                } else {
                    expected.customers.insert(customer);
                }
            }
        }
        expected
    }

    fn sum(&self, of: fn(&Units) -> i64) -> i64 {
        self.units.values().map(of).sum()
    }
}

impl Units {
    /// Allotted, available, reserved and sold.
    const fn counters(self) -> [i64; 4] {
        let Self { bought, returned, adjusted } = self;
        [bought + adjusted, returned + adjusted, 0, bought - returned]
    }
}

fn lines_of(listed: &Value) -> Vec<u64> {
    listed["listed"].as_array().unwrap().iter().map(|one| one["line"].as_u64().unwrap()).collect()
}

/// Allotted, available, reserved and sold.
fn counters(stock: &Value) -> [i64; 4] {
    ["allotted", "available", "reserved", "sold"].map(|name| stock[name].as_i64().unwrap())
}

fn stocks_of(report: &Value) -> BTreeMap<&str, [i64; 4]> {
    report["stocks"].as_array().unwrap().iter().map(|one| (one["sku"].as_str().unwrap(), counters(one))).collect()
}

/// Products of the real file of which units come back to be sold again, with how many; counted apart from any program here.
const RETURNED: [(&str, i64); 9] = [
    ("20685", 1),
    ("20893", 36),
    ("21314", 1),
    ("22798", 2),
    ("22960", 6),
    ("35004B", 5),
    ("35953", 24),
    ("37449", 1),
    ("84685", 1),
];

#[test]
fn the_real_invoices_leave_every_stock_as_the_file_says() {
    let expected = Expected::read(&real_file());
    let home = TempDir::new().unwrap();
    let data_dir = home.path().join("data");
    let report = report(&real_file(), &["--data-dir", data_dir.to_str().unwrap()], 0);

    // Once more by figures that were counted apart.
    assert_eq!((expected.lines, expected.sales, expected.cancelled.len(), expected.units.len()), (10_000, 9_834, 98, 2_001));
    assert_eq!((expected.customers.len(), expected.guests.len()), (322, 38));
    let sums = (expected.sum(|units| units.bought), expected.sum(|units| units.returned), expected.sum(|units| units.adjusted));
    assert_eq!(sums, (90_389, 77, 10_738));
    let returned = expected.units.iter().filter(|(_, units)| units.returned > 0);
    assert_eq!(returned.map(|(sku, units)| (sku.as_str(), units.returned)).collect::<Vec<_>>(), RETURNED);

    let file = &report["file"];
    for (name, value) in [
        ("lines", 10_000),
        ("sales", 9_834),
        ("bought", 90_389),
        ("returned", 77),
        ("adjusted", 10_738),
        ("products", 2_001),
        ("customers", 322),
        ("guests", 38),
    ] {
        assert_eq!(file[name], value, "{name}");
    }
    let cancellations = &file["cancellations"];
    let kinds = ["lines", "returned", "returned_in_part", "adjusted"].map(|name| cancellations[name].as_u64().unwrap());
    assert_eq!(kinds, [98, 10, 0, 88]);
    assert_eq!(lines_of(cancellations), expected.cancelled);
    assert_eq!((&file["format"]["separator"], &file["format"]["by_date"]), (&"comma".into(), &true.into()));
    assert_eq!(file["format"]["columns"]["quantity"], "Quantity");
    let skipped = file["skipped"].as_object().unwrap();
    let reasons: BTreeSet<_> = skipped.keys().map(String::as_str).collect();
    assert_eq!(reasons, BTreeSet::from(["bad_identifier", "negative_quantity", "no_product"]));
    for (reason, lines, count) in [
        ("bad_identifier", &expected.outside, 1),
        ("negative_quantity", &expected.negative, 30),
        ("no_product", &expected.no_product, 37),
    ] {
        assert_eq!((&skipped[reason]["lines"], lines.len()), (&count.into(), count), "{reason}");
        assert_eq!(&lines_of(&skipped[reason]), lines, "{reason}");
    }
    let detail = skipped["bad_identifier"]["listed"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("BANK CHARGES"), "{detail}");
    let answers = ["grants", "confirms", "returns", "adjustments"].map(|name| report["answers"][name].as_u64().unwrap());
    assert_eq!(answers, [9_834, 9_834, 10, 88]);
    assert_eq!((&report["ok"], &report["verified"]["ok"]), (&true.into(), &true.into()));
    assert_eq!(report["failures"], Value::Array(Vec::new()));

    // What the replay reports, and what another node reads from the same log, are the same thing.
    let reported = stocks_of(&report);
    assert_eq!(reported.len(), expected.units.len());
    let server = Server::start(&data_dir);
    for (sku, units) in &expected.units {
        assert_eq!(reported[sku.as_str()], units.counters(), "{sku}");
        assert_eq!(stock(&server, sku), units.counters(), "{sku}");
    }
    // Five of the twelve came back, by two lines of one cancelling invoice.
    assert_eq!(reservation(&server, "35004B", 298, "17924", 12, "536397"), (7, 5));
}

#[test]
fn a_replay_that_was_killed_is_finished_by_the_next_one_and_nothing_is_doubled() {
    let expected = Expected::read(&real_file());
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let arguments = ["replay", real_file().to_str().unwrap(), "--target", &url, "--concurrency", "2", "--json"].map(str::to_owned);
    let mut killed = support::program(&arguments.each_ref().map(String::as_str)).spawn().unwrap();
    // The product with the most lines comes first.
    let busiest = "22632";
    let started_at = Instant::now();
    while server.get(&format!("/v1/stocks/{busiest}")).status != 200 || stock(&server, busiest)[3] == 0 {
        assert!(started_at.elapsed() < support::WAIT_MAX);
    }
    killed.kill().unwrap();
    assert_eq!(support::finish(killed).code, None, "it was killed before its end");

    for repeated in [false, true] {
        let report = report(&real_file(), &["--target", &url], 0);
        let answers = |name: &str| report["answers"][name].as_u64().unwrap();
        assert_eq!([answers("grants"), answers("returns"), answers("adjustments")], [9_834, 10, 88]);
        assert!(answers("grants_repeated") > 0);
        if repeated {
            let again = ["grants_repeated", "returns_repeated", "adjustments_repeated"].map(answers);
            assert_eq!(again, [9_834, 10, 88]);
        }
        let stocks = stocks_of(&report);
        for (sku, units) in &expected.units {
            assert_eq!(stocks[sku.as_str()], units.counters(), "{sku}");
        }
    }
}

#[test]
fn a_cancellation_returns_the_newest_units_of_its_customer_first_and_adjusts_by_the_rest() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    // Not in the order of the dates: line 2 is the newest purchase.
    let rows = [
        "5,A,x,4,2010-12-03 10:00:00,1,9,UK",
        "1,A,x,5,2010-12-01 10:00:00,1,9.0,UK",
        "2,A,x,3,2010-12-02 10:00:00,1,9,UK",
        "3,A,x,6,2010-12-02 10:00:00,1,8,UK",
        "4,A,x,7,2010-12-02 10:00:00,1,,UK",
        "C6,A,x,-6,2010-12-04 10:00:00,1,9,UK",
        "C7,A,x,-2,2010-12-01 09:00:00,1,8,UK",
        "C8,A,x,-3,2010-12-04 10:00:00,1,,UK",
        "C9,Z,x,-2,2010-12-04 10:00:00,1,9,UK",
    ];
    let file = file_of(&home, &rows);
    for _ in 0..2 {
        let report = report(&file, &["--target", &url], 0);
        // Of nine: all 4 of line 2, then 2 of line 4, and none of line 3. Eight's came before the purchase, the third has no customer.
        assert_eq!(reservation(&server, "A", 2, "9", 4, "5"), (0, 4));
        assert_eq!(reservation(&server, "A", 4, "9", 3, "2"), (1, 2));
        assert_eq!(reservation(&server, "A", 3, "9", 5, "1"), (5, 0));
        assert_eq!(reservation(&server, "A", 5, "8", 6, "3"), (6, 0));
        assert_eq!(reservation(&server, "A", 6, "guest:4", 7, "4"), (7, 0));
        assert_eq!((stock(&server, "A"), stock(&server, "Z")), ([30, 11, 0, 19], [2, 2, 0, 0]));
        let listed = report["file"]["cancellations"]["listed"].as_array().unwrap();
        let returned = serde_json::json!([{"line": 2, "units": 4}, {"line": 4, "units": 2}]);
        assert_eq!((&listed[0]["returned"], &listed[0]["adjusted"]), (&returned, &0.into()));
        let adjusted: Vec<_> = listed.iter().map(|one| one["adjusted"].as_u64().unwrap()).collect();
        assert_eq!(adjusted, [0, 2, 3, 2]);
        let a = &report["stocks"][0];
        assert_eq!((&a["bought"], &a["returned"], &a["adjusted"]), (&25.into(), &6.into(), &5.into()));
    }
    let more = file_of(&home, &[&rows[..], &["C10,A,x,-7,2010-12-05 10:00:00,1,9,UK"]].concat());
    let report = report(&more, &["--target", &url], 0);
    // The rest of line 4, then all of line 3, and one from nowhere.
    assert_eq!(reservation(&server, "A", 4, "9", 3, "2"), (0, 3));
    assert_eq!(reservation(&server, "A", 3, "9", 5, "1"), (0, 5));
    assert_eq!(stock(&server, "A"), [31, 18, 0, 13]);
    assert_eq!(report["answers"]["returns_repeated"], 2);

    // Consumers of the feed can tell what a cancellation brought from elsewhere from what was counted again.
    let events = server.get("/v1/events?limit=1000").json();
    let adjustments = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "stock_adjusted");
    let mut told: Vec<_> = adjustments
        .map(|event| (event["sku"].as_str().unwrap(), event["delta"].as_i64().unwrap(), event["reason"].as_str().unwrap()))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [("A", 1), ("A", 2), ("A", 3), ("Z", 2)].map(|(sku, units)| (sku, units, "cancellation")));
}

#[test]
fn a_stock_that_does_not_add_up_to_the_file_is_named() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let file = file_of(&home, &["7,A,x,2,2010-12-01,1,1.0,UK", "7,Z,x,2,2010-12-01,1,1.0,UK"]);
    assert_eq!(report(&file, &["--target", &url], 0)["ok"], true);
    let adjusted = server.post("/v1/stocks/Z/adjustments", r#"{"delta":1,"reason":"found"}"#);
    assert_eq!(adjusted.status, 200, "{adjusted:?}");
    let report = report(&file, &["--target", &url], 1);
    let failures = report["failures"].as_array().unwrap();
    assert_eq!((failures.len(), &failures[0]["sku"]), (1, &"Z".into()));
    let detail = failures[0]["detail"].as_str().unwrap();
    assert_eq!(detail, "3 units are allotted, and the file buys 2 and brings 0 from elsewhere");
}

#[test]
fn other_shops_exports_are_read_by_their_headers() {
    let home = TempDir::new().unwrap();
    let german = "Rechnungs-Nr.;Artikel Nr;Menge;Datum;Kundennummer;Preis\n\
                  7;A;1.000,00;31.12.2010 08:26;9;2,50\n8;A;6,0;01.12.2010;9;2,50\nC9;A;-2;01.01.2011;9;2,50\n";
    let american = "Order ID\tOrder Date\tSKU\tQty\tcustomer_id\n\
                    7\t12/31/2010 8:26\tA\t1000\t9\n8\t12/1/2010 8:26\tA\t6\t9\nC9\t1/1/2011 8:26\tA\t-2\t9\n";
    let own = "When,Doc,What,How many,Who\n20101231,7,A,\"1,000\",9\n20101201,8,A,6,9\n20110101,C9,A,-2,9\n";
    let flags = "--column invoice=Doc --column product=What --column quantity=how_many --column customer=Who --column date=When \
                 --date-format %Y%m%d --decimal point";
    for (text, flags) in [(german, ""), (american, ""), (own, flags)] {
        let file = file_as(&home, text);
        let report = report(&file, &flags.split_whitespace().collect::<Vec<_>>(), 0);
        let file = &report["file"];
        assert_eq!((&file["sales"], &file["customers"], &file["skipped"]), (&2.into(), &1.into(), &serde_json::json!({})));
        assert_eq!(stocks_of(&report), BTreeMap::from([("A", [1_006, 2, 0, 1_004])]), "{text}");
        // The first line is the newest, so what came back was bought there.
        let returned = &file["cancellations"]["listed"][0]["returned"];
        assert_eq!(returned, &serde_json::json!([{"line": 2, "units": 2}]), "{text}");
    }
}

#[test]
fn what_a_file_does_not_tell_is_asked_for_and_not_guessed() {
    let home = TempDir::new().unwrap();
    let header = "Order,SKU,Qty,Customer,Date";
    for (rows, flags, says) in [
        ("7,A,1,9,1/2/2010", "", "line 2: the date \"1/2/2010\" could be m/d/y or d/m/y"),
        ("7,A,1,9,13/2/2010\n7,A,1,9,2/13/2010", "", "on line 3 can only be m/d/y"),
        ("7,A,1,9,soon", "", "line 2: the date \"soon\" is in no format"),
        ("7,A,1.000,9,2010-12-01", "", "line 2: the quantity \"1.000\" could be one or a thousand"),
        ("7,A,1,9,2010-12-01", "--column product=Item", "no header Item for the product column"),
        ("7,A,1,9,2010-12-01", "--separator semicolon", "names no invoice column"),
    ] {
        let file = file_as(&home, &format!("{header}\n{rows}\n"));
        let flags: Vec<_> = flags.split_whitespace().collect();
        assert_eq!(replay(&file, &flags).expect(1, &[says]).stdout, "", "{rows}");
    }
    let unclear = file_as(&home, "Order,SKU,Product,Qty,Customer\n7,A,B,1,9\n");
    replay(&unclear, &[]).expect(1, &["more than one column could be the product: SKU, Product", "--column product=HEADER"]);
    let dates = file_as(&home, &format!("{header}\n7,A,1.000,9,1/2/2010\n7,A,1,9,soon\n"));
    let forced = report(&dates, &["--date-format", "d/m/y", "--decimal", "comma"], 0);
    assert_eq!((&forced["file"]["bought"], lines_of(&forced["file"]["skipped"]["bad_date"])), (&1_000.into(), vec![3]));
    let unread = report(&dates, &["--date-format", "none", "--decimal", "point"], 0);
    assert_eq!((&unread["file"]["bought"], &unread["file"]["format"]["by_date"]), (&2.into(), &false.into()));
    for wrong in
        [["--column", "amount=Qty"], ["--column", "quantity"], ["--date-format", "us"], ["--decimal", "dot"], ["--prefix", "a b"]]
    {
        replay(&dates, &wrong).expect(2, &[wrong[0]]);
    }
}

#[test]
fn a_prefix_lets_a_file_go_through_one_node_again() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let file = file_of(&home, &["7,A,x,2,2010-12-01,1,1.0,UK", "C8,A,x,-1,2010-12-01,1,1.0,UK"]);
    for prefix in ["", "second:"] {
        let report = report(&file, &["--target", &url, "--prefix", prefix], 0);
        assert_eq!((&report["answers"]["grants_repeated"], &report["stocks"][0]["sku"]), (&0.into(), &format!("{prefix}A").into()));
        assert_eq!(stock(&server, &format!("{prefix}A")), [2, 1, 0, 1]);
    }
}

#[test]
fn a_repeat_on_the_same_node_changes_nothing_and_another_file_cannot_take_its_stocks() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&home.path().join("data"));
    let url = format!("http://{}", server.address);
    let file = home.path().join("shop.csv");
    std::fs::write(&file, format!("{HEADER}7,A,x,2,2010-12-01 08:26:00,1,1.0,UK\n7,A,x,3,2010-12-01 08:26:00,1,1.0,UK\n8,Z,x,1,2010-12-01 08:26:00,1,,UK\n")).unwrap();
    for repeated in [0, 3] {
        let report = report(&file, &["--target", &url], 0);
        assert_eq!((&report["answers"]["grants"], &report["answers"]["grants_repeated"]), (&3.into(), &repeated.into()));
        assert_eq!(report["verified"], Value::Null);
        assert_eq!((stock(&server, "A"), stock(&server, "Z")), ([5, 0, 0, 5], [1, 0, 0, 1]));
    }

    std::fs::write(&file, format!("{HEADER}7,A,x,9,2010-12-01 08:26:00,1,1.0,UK\n")).unwrap();
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
    std::fs::write(&file, format!("{HEADER}\n7,A,x,5,2010-12-01 08:26:00,1,1,UK\n")).unwrap();
    assert_eq!(report(&file, &["--target", &url], 0)["ok"], true);
    std::fs::write(&file, format!("{HEADER}7,A,x,5,2010-12-01 08:26:00,1,1,UK\n")).unwrap();
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
        "7,A,\"HEART, WHITE, \"\"NEW\"\"\",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
        "7,a b,x,1,2010-12-01 08:26:00,1,1,UK",
        "7,A,x,some,2010-12-01 08:26:00,1,1,UK",
        "8,A,x,2,2010-12-01 08:26:00,1,,UK",
        "8,A,x,0,2010-12-01 08:26:00,1,,UK",
        "9,A,x",
        "9,M,Manual,1,2010-12-01 08:26:00,1,1,UK",
        "C9,A,\"HEART, WHITE\",-2,2010-12-01 08:26:00,1,17850.0,UK",
        "9,B.b_:~-1,\"a\r\nb\",1,2010-12-01 08:26:00,1,1,UK",
        "9,A,x,-1,2010-12-01 08:26:00,1,1,UK",
        "C9,A,x,-3,2010-12-01 08:26:00,1,,UK",
        "C9,D,Discount,-1,2010-12-01 08:26:00,1,1,UK",
        "C9,A,x,2,2010-12-01 08:26:00,1,1,UK",
        "9,A,x,1,yesterday,1,1,UK",
        "C9,NEW,x,-2,2010-12-01 08:26:00,1,1,UK",
        "C9,A,x,-2,2010-12-01 08:26:00,1,an na,UK",
        "9,A,x,1000000000,2010-12-01 08:26:00,1,1,UK",
    ];
    std::fs::write(&file, format!("\u{feff}{}{}", HEADER.replace('\n', "\r\n"), lines.join("\r\n"))).unwrap();
    let report = report(&file, &["--concurrency", "1"], 0);
    let file = &report["file"];
    assert_eq!((&file["lines"], &file["sales"], &file["bought"]), (&17.into(), &3.into(), &9.into()));
    assert_eq!((&file["customers"], &file["guests"]), (&2.into(), &1.into()));
    assert_eq!((&file["returned"], &file["adjusted"]), (&2.into(), &5.into()));
    let skipped: BTreeMap<_, _> =
        file["skipped"].as_object().unwrap().iter().map(|(reason, lines)| (reason.as_str(), lines_of(lines))).collect();
    let expected = [
        ("malformed_row", vec![7]),
        ("bad_quantity", vec![4, 15]),
        ("zero_quantity", vec![6]),
        ("negative_quantity", vec![12]),
        ("bad_identifier", vec![3, 18]),
        ("no_product", vec![8, 14]),
        ("bad_date", vec![16]),
        ("over_stock_max", vec![19]),
    ];
    assert_eq!(skipped, BTreeMap::from(expected));
    let cancellations = &file["cancellations"];
    assert_eq!(lines_of(cancellations), [9, 13, 17]);
    let users: Vec<_> = cancellations["listed"].as_array().unwrap().iter().map(|one| one["user"].as_str()).collect();
    assert_eq!(users, [Some("17850"), None, Some("1")]);
    let stocks = BTreeMap::from([("A", [11, 5, 0, 6]), ("B.b_:~-1", [1, 0, 0, 1]), ("NEW", [2, 2, 0, 0])]);
    assert_eq!(stocks_of(&report), stocks);
}

#[test]
fn a_file_without_a_single_sale_is_told_and_no_failure() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("shop.csv");
    std::fs::write(&file, format!("{HEADER}9,POST,x,1,2010-12-01 08:26:00,1,1,UK\n")).unwrap();
    let table = support::run(&["replay", file.to_str().unwrap()]).expect(0, &[]).stdout;
    assert!(table.contains("no line of the file is a sale") && table.contains("line 2: product POST"), "{table}");
}

#[test]
fn a_file_that_is_no_export_is_refused_with_what_is_missing() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("shop.csv");
    for (text, says) in [
        ("", "the file is empty"),
        ("\u{feff}", "the file is empty"),
        (
            "InvoiceNo,StockCode,Pieces,CustomerID\n7,A,1,1\n",
            "no quantity column; it names InvoiceNo, StockCode, Pieces, CustomerID",
        ),
        (
            "InvoiceNo;StockCode;Pieces;CustomerID\n7;A;1;1\n",
            "no quantity column; it names InvoiceNo, StockCode, Pieces, CustomerID",
        ),
        ("StockCode,Quantity,CustomerID\nA,1,1\n", "no invoice column; it names StockCode, Quantity, CustomerID"),
        ("InvoiceNo,StockCode,Quantity\n7,A,1\n", "no customer column"),
        ("InvoiceNo,StockCode,Quantity,Quantity,CustomerID\n7,A,1,1,1\n", "could be the quantity: Quantity, Quantity"),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(replay(&file, &[]).expect(1, &[says]).stdout, "", "{text:?}");
    }
    replay(&home.path().join("nowhere.csv"), &[]).expect(1, &["nowhere.csv"]);
    std::fs::write(&file, format!("{HEADER}7,A,x,5,2010-12-01 08:26:00,1,1,UK\n")).unwrap();
    for target in ["127.0.0.1:80", "ftp://127.0.0.1:80", "http://127.0.0.1/v1", "http://127.0.0.1:x"] {
        replay(&file, &["--target", target]).expect(2, &["is no http:// or https:// HOST[:PORT]", target]);
    }
    // A key and certificates are another node's business.
    replay(&file, &["--key-file", "key.txt"]).expect(2, &["--target"]);
    let nowhere = home.path().join("nowhere.txt");
    replay(&file, &["--target", "http://127.0.0.1:80", "--key-file", nowhere.to_str().unwrap()]).expect(2, &["--key-file"]);
}

/// A key with the roles that a replay needs, in a file; and what names the file in which a node finds its hash.
fn key_of(home: &TempDir) -> (PathBuf, String) {
    let made = support::run(&["key", "new", "--name", "shop", "--role", "operator", "--role", "frontend"]).expect(0, &[]).stdout;
    let (key, entry) = made.split_once("\n\n").unwrap();
    let [key_file, hashes] = ["key.txt", "keys.toml"].map(|name| home.path().join(name));
    std::fs::write(&key_file, key).unwrap();
    std::fs::write(&hashes, entry).unwrap();
    (key_file, format!("auth.keys_file={}", hashes.to_str().unwrap()))
}

/// As [`replay`], by whoever has a key in the environment.
fn replay_by_variable(file: &Path, more: &[&str], key: &str) -> Finished {
    let mut command = support::program(&[&["replay", file.to_str().unwrap(), "--json"], more].concat());
    support::finish(command.env("TIDEGATE_KEY", key).spawn().unwrap())
}

const TWO_ROWS: [&str; 2] = ["7,A,x,2,2010-12-01,1,1.0,UK", "C8,A,x,-1,2010-12-01,1,1.0,UK"];

#[test]
fn a_node_that_wants_a_key_is_replayed_through_with_one() {
    let home = TempDir::new().unwrap();
    let (key_file, keys) = key_of(&home);
    let server = Server::start_with(&home.path().join("data"), &["--set", &keys]);
    server.wait_ready();
    let url = format!("http://{}", server.address);
    let file = file_of(&home, &TWO_ROWS);
    replay(&file, &["--target", &url]).expect(1, &["the replay failed"]);
    let first = report(&file, &["--target", &url, "--key-file", key_file.to_str().unwrap()], 0);
    assert_eq!((&first["ok"], &first["answers"]["grants_repeated"]), (&true.into(), &0.into()));
    let key = std::fs::read_to_string(&key_file).unwrap();
    let again: Value = serde_json::from_str(&replay_by_variable(&file, &["--target", &url], &key).expect(0, &[]).stdout).unwrap();
    assert_eq!((&again["ok"], &again["answers"]["grants_repeated"]), (&true.into(), &1.into()));
    replay_by_variable(&file, &["--target", &url], &key[1..]).expect(1, &["the replay failed"]);
    // What is said to a node of its own is no key, whatever the environment holds.
    replay_by_variable(&file, &[], &key).expect(0, &[]);
    server.terminate().expect(0, &[]);
}

#[test]
fn a_node_with_tls_is_replayed_through_when_it_is_trusted() {
    let home = TempDir::new().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [certificate, key, untrusted] = ["certificate.pem", "key.pem", "other.pem"].map(|name| home.path().join(name));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    std::fs::write(&untrusted, other.cert.pem()).unwrap();
    let (key_file, keys) = key_of(&home);
    let settings = [("tls.certificate_file", &certificate), ("tls.private_key_file", &key)];
    let settings = settings.map(|(name, file)| format!("{name}={}", file.to_str().unwrap()));
    let server = Server::start_with(&home.path().join("data"), &["--set", &settings[0], "--set", &settings[1], "--set", &keys]);
    let url = format!("https://localhost:{}", server.address.port());
    let file = file_of(&home, &TWO_ROWS);
    let with = |authorities: &Path| {
        let [key_file, authorities] = [&key_file, authorities].map(|file: &Path| file.to_str().unwrap());
        replay(&file, &["--target", &url, "--key-file", key_file, "--ca-file", authorities])
    };
    with(&untrusted).expect(1, &[&url, "cannot be connected to", "certificate"]);
    let report: Value = serde_json::from_str(&with(&certificate).expect(0, &[]).stdout).unwrap();
    assert_eq!(stocks_of(&report), BTreeMap::from([("A", [2, 1, 0, 1])]));
    server.terminate().expect(0, &[]);
}
