//! The change feed of a whole node: the same after a kill, and enough to rebuild everything that the node shows.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::log::{BOOK_PARTITION, created, reserved, reserved_until, write, write_since};
use support::{Server, WAIT_MAX, request_with, run};

/// Products: of two shards, two have the partitions 304 and 152, and two 688 and 806; worked out apart from the program.
const SKUS: [&str; 4] = ["book", "hat", "belt", "vase"];

/// Callers at once, and what each of them reserves.
const CALLERS: usize = 4;
const RESERVATIONS: usize = 20;

/// Units that a stock starts with.
const UNITS: i64 = 60;

/// One caller: takes from every product, and does something else with every reservation. Holds that nothing happens to last a second.
fn buy(server: &Server, caller: usize) {
    for number in 0..RESERVATIONS {
        let sku = SKUS[(caller + number) % SKUS.len()];
        let body = format!(r#"{{"user":"user-{caller}-{number}","quantity":3,"hold_seconds":1,"reference":"order-{number}"}}"#);
        let reserved = server.post(&format!("/v1/stocks/{sku}/reservations"), &body);
        if reserved.status == 409 {
            continue;
        }
        assert_eq!(reserved.status, 201, "{reserved:?}");
        let id = text(&reserved.json(), "id");
        let act = |call: &str, body: &str| server.post(&format!("/v1/reservations/{id}/{call}"), body);
        match number % 5 {
            0 => drop(act("confirm", "")),
            1 => drop(act("release", r#"{"quantity":1}"#)),
            2 => {
                act("confirm", r#"{"quantity":2}"#);
                act("return", r#"{"quantity":1}"#);
            }
            3 => drop(act("extend", r#"{"hold_seconds":2}"#)),
            _ => {}
        }
    }
}

fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_else(|| panic!("no {field} in {document}")).to_owned()
}

fn number(document: &Value, field: &str) -> i64 {
    document[field].as_i64().unwrap_or_else(|| panic!("no {field} in {document}"))
}

fn page(server: &Server, after: Option<&str>, limit: usize) -> (Vec<Value>, String) {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let page = server.get(&format!("/v1/events?limit={limit}{after}"));
    assert_eq!(page.status, 200, "{page:?}");
    let mut page = page.json();
    let next = text(&page, "next_cursor");
    let Value::Array(events) = page["events"].take() else { panic!("{page}") };
    (events, next)
}

/// Everything behind `after`, with the cursors between the pages.
fn all(server: &Server, after: Option<&str>, limit: usize) -> (Vec<Value>, Vec<String>) {
    let (mut events, mut cursors) = (Vec::new(), Vec::new());
    loop {
        let (more, next) = page(server, cursors.last().map(String::as_str).or(after), limit);
        let is_end = more.is_empty();
        events.extend(more);
        cursors.push(next);
        if is_end {
            return (events, cursors);
        }
    }
}

/// What somebody knows who has seen nothing but the feed.
#[derive(Default)]
struct Book {
    stocks: BTreeMap<String, Account>,
    reservations: BTreeMap<String, Value>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    changes: i64,
    allotted: i64,
    available: i64,
    reserved: i64,
    sold: i64,
}

impl Account {
    fn shown(&self, stock: &Value) -> bool {
        [("allotted", self.allotted), ("available", self.available), ("reserved", self.reserved), ("sold", self.sold)]
            .iter()
            .all(|(field, units)| number(stock, field) == *units)
    }
}

impl Book {
    fn enter(&mut self, event: &Value) {
        let account = self.stocks.entry(text(event, "sku")).or_default();
        account.changes += 1;
        assert_eq!(number(event, "sku_sequence"), account.changes, "{event}");
        let stock = &event["stock"];
        match event["kind"].as_str().unwrap_or_default() {
            "stock_created" => {
                account.allotted = number(stock, "allotted");
                account.available = account.allotted;
            }
            "stock_adjusted" => {
                account.allotted += number(event, "delta");
                account.available += number(event, "delta");
            }
            "stock_changed" | "stock_paused" | "stock_reopened" | "stock_closed" | "stock_archived" => {}
            "reserved" | "confirmed" | "released" | "expired" | "returned" | "extended" => {
                let now = event["reservation"].clone();
                let before = self.reservations.get(&text(&now, "id"));
                let moved = |field: &str| number(&now, field) - before.map_or(0, |before| number(before, field));
                account.reserved += moved("reserved");
                account.sold += moved("confirmed");
                account.available -= moved("reserved") + moved("confirmed");
                self.reservations.insert(text(&now, "id"), now);
            }
            kind => panic!("{kind:?} is no kind of change: {event}"),
        }
        assert!(account.available >= 0 && account.reserved >= 0 && account.sold >= 0, "{account:?} after {event}");
        assert_eq!(account.available + account.reserved + account.sold, account.allotted, "after {event}");
        assert!(stock.is_null() || account.shown(stock), "{account:?} after {event}");
    }

    /// Checks that the node shows what the book says.
    fn check(&self, server: &Server) {
        for (sku, account) in &self.stocks {
            let stock = server.get(&format!("/v1/stocks/{sku}")).json();
            assert!(account.shown(&stock), "{account:?} and {stock}");
        }
        for (id, known) in &self.reservations {
            assert_eq!(server.get(&format!("/v1/reservations/{id}")).json(), *known);
        }
    }
}

fn start(folder: &TempDir) -> Server {
    let server = Server::start_with(folder.path(), &["--set", "node.shards=2"]);
    server.wait_ready();
    server
}

/// Waits until nothing is held any more.
fn wait_until_all_lapsed(server: &Server) {
    let started_at = Instant::now();
    while SKUS.iter().any(|sku| server.get(&format!("/v1/stocks/{sku}")).json()["reserved"] != 0) {
        assert!(started_at.elapsed() < WAIT_MAX, "holds of a second should have lapsed");
        thread::yield_now();
    }
}

#[test]
fn the_feed_is_the_same_after_a_kill_and_rebuilds_everything_that_the_node_shows() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = start(&folder);
    for sku in SKUS {
        assert_eq!(server.put(&format!("/v1/stocks/{sku}"), &format!(r#"{{"quantity":{UNITS}}}"#)).status, 201);
    }
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let server = &server;
            scope.spawn(move || buy(server, caller));
        }
    });
    assert_eq!(server.post("/v1/stocks/hat/adjustments", r#"{"delta":-2,"reason":"damaged"}"#).status, 200);
    assert_eq!(server.post("/v1/stocks/vase/pause", "").status, 200);
    wait_until_all_lapsed(&server);

    let (events, cursors) = all(&server, None, 7);
    let mut ids: Vec<String> = events.iter().map(|event| text(event, "id")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "no two changes have one name");
    for kind in
        ["stock_created", "stock_adjusted", "stock_paused", "reserved", "confirmed", "released", "expired", "returned", "extended"]
    {
        assert!(events.iter().any(|event| event["kind"] == kind), "nothing is {kind}");
    }
    let shards = |event: &Value| text(event, "id").split('.').next() == Some("1");
    assert!(events.iter().any(shards) && !events.iter().all(shards), "both shards have changes");
    let mut book = Book::default();
    for event in &events {
        book.enter(event);
    }
    book.check(&server);

    server.signal(Signal::KILL);
    server.finish();
    let server = start(&folder);
    assert_eq!(all(&server, None, 100).0, events);
    for (number, cursor) in (1..).zip(&cursors) {
        let behind = &events[events.len().min(7 * number)..];
        assert_eq!(all(&server, Some(cursor), 50).0, behind, "behind {cursor}");
    }
    // What comes now comes behind it, under names of its own.
    assert_eq!(server.post("/v1/stocks/vase/reopen", "").status, 200);
    buy(&server, CALLERS);
    wait_until_all_lapsed(&server);
    let (more, _) = all(&server, cursors.last().map(String::as_str), 100);
    assert!(more.iter().all(|event| ids.binary_search(&text(event, "id")).is_err()) && more.len() > 1);
    for event in &more {
        book.enter(event);
    }
    book.check(&server);
    server.terminate().expect(0, &[]);
}

#[test]
fn a_group_without_events_is_stepped_over() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let one = |second| vec![(second, reserved(1 + second, &format!("user-{second}"), 1, second))];
    write(folder.path(), 1, 0, &[vec![], vec![(0, created(BOOK_PARTITION, 10))], vec![], one(0), vec![], vec![], one(1), vec![]]);
    run(&["verify", folder.path().to_str().expect("temporary paths are UTF-8")]).expect(0, &[]);
    let server = Server::start(folder.path());
    let kinds = |events: &[Value]| events.iter().map(|event| text(event, "kind")).collect::<Vec<_>>();
    let (events, cursors) = all(&server, None, 1);
    assert_eq!(kinds(&events), ["stock_created", "reserved", "reserved"]);
    // From wherever a consumer stands, and behind all of them.
    for (seen, cursor) in (1..).zip(&cursors) {
        assert_eq!(all(&server, Some(cursor), 100).0, events[events.len().min(seen)..], "{seen}");
    }
    let end = cursors.last().expect("there are pages").clone();
    assert_eq!(server.post("/v1/stocks/book/reservations", r#"{"user":"late"}"#).status, 201);
    assert_eq!(kinds(&all(&server, Some(&end), 100).0), ["reserved"]);
    server.terminate().expect(0, &[]);
    run(&["verify", folder.path().to_str().expect("temporary paths are UTF-8")]).expect(0, &[]);
}

/// A moment in 2001, in milliseconds.
const LONG_AGO_MS: u64 = 1_000_000_000_000;

/// Grants of that day: more of the log than one of its segments takes.
const OLD_GRANTS: u64 = 8_000;

#[test]
fn changes_leave_the_feed_when_their_time_is_over_though_there_is_room_for_them() {
    let (folder, copies) = (TempDir::new().expect("a temporary folder"), TempDir::new().expect("a temporary folder"));
    let over = tidegate_stock::Timestamp::from_unix_ms(LONG_AGO_MS + 600_000);
    let long = "u".repeat(120);
    let mut groups = vec![vec![(0, created(BOOK_PARTITION, OLD_GRANTS))]];
    for group in 0..OLD_GRANTS / 1_000 {
        let sequences = group * 1_000 + 1..=(group + 1) * 1_000;
        groups.push(sequences.map(|sequence| (1, reserved_until(sequence, &format!("{long}{sequence}"), 1, over))).collect());
    }
    write_since(LONG_AGO_MS, Some(1024 * 1024), folder.path(), 1, 0, &groups);
    let server =
        Server::start_with(folder.path(), &["--set", "feed.retention_seconds=60", "--set", "log.segment_bytes_max=1048576"]);
    server.wait_ready();
    let (events, old) = page(&server, None, 1);
    assert_eq!((text(&events[0], "kind").as_str(), &text(&events[0], "at")[..4]), ("stock_created", "2001"));
    let behind = |cursor: &str| server.get(&format!("/v1/events?limit=1&after={cursor}"));
    assert_eq!(behind(&old).status, 200, "nothing has been given back yet");

    // Its place goes once two snapshots stand behind it. The log is far smaller than what may be kept of it.
    let target = format!("http://{}", server.address);
    for copy in ["first", "second"] {
        assert_eq!(server.post("/v1/stocks/book/adjustments", r#"{"delta":1,"reason":"found"}"#).status, 200);
        let copy = copies.path().join(copy);
        run(&["backup", copy.to_str().expect("temporary paths are UTF-8"), "--target", &target]).expect(0, &[]);
    }
    // While a copy is made nothing is given back, so no further one is made meanwhile.
    let began = Instant::now();
    let expired = loop {
        let answer = behind(&old);
        if answer.status != 200 {
            break answer;
        }
        assert!(began.elapsed() < WAIT_MAX, "a change of 2001 is still in the feed");
    };
    assert_eq!((expired.status, text(&expired.json(), "code").as_str()), (410, "cursor_expired"), "{expired:?}");
    let fields = [("accept", "text/event-stream"), ("last-event-id", old.as_str())];
    let stream = request_with(server.address, "GET", "/v1/events", &fields, "").expect("the node answers");
    assert_eq!((stream.status, text(&stream.json(), "code").as_str()), (410, "cursor_expired"), "{stream:?}");
    // The feed begins later now, and goes on.
    let (events, next) = page(&server, None, 1);
    assert!(number(&events[0], "sku_sequence") > 1, "{events:?}");
    assert_eq!(behind(&next).status, 200);
    let newest = text(&server.get("/v1/stocks/book").json(), "as_of");
    assert_eq!(server.post("/v1/stocks/book/adjustments", r#"{"delta":1,"reason":"found"}"#).status, 200);
    let (events, _) = page(&server, Some(&newest), 10);
    assert_eq!(events.iter().map(|event| text(event, "kind")).collect::<Vec<_>>(), ["stock_adjusted"]);
    assert_eq!(number_of_old_units(&server), OLD_GRANTS);
    server.terminate().expect(0, &["gave space of the log back"]);
}

/// Units of the book that were there in 2001 and have come back since.
fn number_of_old_units(server: &Server) -> u64 {
    let stock = server.get("/v1/stocks/book").json();
    let adjusted = number(&stock, "allotted") - OLD_GRANTS.cast_signed();
    (number(&stock, "available") - adjusted).cast_unsigned()
}
