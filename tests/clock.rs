//! A node whose machine's clock stands behind its own log: time goes on from the log's newest moment, over a restart too, and holds go on
//! falling due.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::log::{BOOK_PARTITION, at, created, reserved, reserved_until, write};
use support::{Server, WAIT_MAX};

/// The log's newest second, and that in which one of its holds ends.
const NEWEST: u64 = 10;
const DUE: u64 = 12;

fn now(server: &Server) -> u64 {
    server.get("/v1/time").json()["unix_ms"].as_u64().expect("a time is a number")
}

/// A moment that a node shows as text, by the parts of it that are not the same in all of this test: minutes and seconds.
fn ms(document: &Value, field: &str) -> u64 {
    let text = document[field].as_str().unwrap_or_else(|| panic!("no {field} in {document}"));
    let rest = text.strip_prefix("2100-01-01T00:").unwrap_or_else(|| panic!("{text} is no time of this log"));
    let part = |range: std::ops::Range<usize>| rest[range].parse::<u64>().expect("digits");
    at(0).unix_ms() + part(0..2) * 60_000 + part(3..5) * 1_000 + part(6..9)
}

#[test]
fn a_log_ahead_of_the_clock_is_gone_on_from_and_what_falls_due_lapses() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    write(
        folder.path(),
        1,
        0,
        &[
            vec![(0, created(BOOK_PARTITION, 5))],
            vec![(NEWEST, reserved_until(1, "ann", 1, at(DUE))), (NEWEST, reserved(2, "bob", 1, NEWEST))],
        ],
    );
    let server = Server::start(folder.path());
    let mut seen = now(&server);
    assert!(seen >= at(NEWEST).unix_ms(), "{seen} is before the log's newest time");
    let began = Instant::now();
    while server.get("/v1/stocks/book").json()["reserved"] != 1 {
        let now = now(&server);
        assert!(now >= seen, "time went back from {seen} to {now}");
        seen = now;
        assert!(began.elapsed() < WAIT_MAX, "no hold has lapsed, and it is {now}");
    }
    let events = server.get("/v1/events").json();
    let last = events["events"].as_array().and_then(|events| events.last()).expect("there are changes");
    assert_eq!((&last["kind"], &last["actor"], &last["reservation"]["user"]), (&"expired".into(), &"clock".into(), &"ann".into()));
    assert!((at(DUE).unix_ms()..at(DUE).unix_ms() + 1_000).contains(&ms(last, "at")), "{last}");
    // Half its speed is no standing still, and no more than that.
    let took = u64::try_from(began.elapsed().as_millis()).expect("it is not long ago");
    assert!(ms(last, "at") <= seen.max(at(NEWEST).unix_ms()) + took, "{last}");

    // After a kill the node's time is no earlier than anything that it acknowledged.
    let granted = server.post("/v1/stocks/book/reservations", r#"{"user":"cyd"}"#);
    assert_eq!(granted.status, 201, "{granted:?}");
    let reserved_at = ms(&granted.json(), "reserved_at");
    assert!(reserved_at >= ms(last, "at"), "{granted:?}");
    server.signal(Signal::KILL);
    let said = server.finish().stderr;
    assert!(said.contains("the clock stepped back: time goes on at half its speed until it has caught up"), "{said}");

    let server = Server::start(folder.path());
    let after = now(&server);
    assert!(after >= reserved_at, "{after} is before {reserved_at}, which was answered");
    let stock = server.get("/v1/stocks/book").json();
    assert_eq!((&stock["available"], &stock["reserved"]), (&3.into(), &2.into()), "{stock}");
    server.terminate().expect(0, &["the clock stepped back"]);
}
