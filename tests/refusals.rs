//! What a node refuses because it is full: each bound at its least, and a caller who is told to come again.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

mod support;

use support::{Response, Server, WAIT_MAX};

/// A node of one shard with `settings`, on which the stocks `book` and `hat` are open.
fn node(folder: &TempDir, settings: &[&str]) -> Server {
    let settings = ["node.shards=1"].iter().chain(settings).flat_map(|setting| ["--set", setting]);
    let server = Server::start_with(folder.path(), &settings.collect::<Vec<_>>());
    server.wait_ready();
    for sku in ["book", "hat"] {
        assert_eq!(server.put(&format!("/v1/stocks/{sku}"), r#"{"quantity":10000}"#).status, 201);
    }
    server
}

fn reserve(server: &Server, sku: &str, user: &str) -> Response {
    server.post(&format!("/v1/stocks/{sku}/reservations"), &format!(r#"{{"user":"{user}"}}"#))
}

fn metric(server: &Server, series: &str) -> u64 {
    let metrics = server.get("/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
}

/// Checks that an answer is a refusal for the moment, and is counted for its reason.
#[track_caller]
fn expect_refused(server: &Server, answer: &Response, reason: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (503, &"overloaded".into()), "{answer:?}");
    let wait: u64 =
        answer.header("retry-after").unwrap_or_else(|| panic!("when to come again is not in {answer:?}")).parse().unwrap();
    assert!(wait >= 1, "{answer:?}");
    assert!(metric(server, &format!("tidegate_refusals_total{{reason=\"{reason}\"}}")) > 0);
}

#[test]
fn a_reservation_that_has_no_room_in_memory_is_refused_until_there_is_some() {
    let folder = TempDir::new().unwrap();
    let server = node(&folder, &["rules.reservations_in_memory_max=1", "engine.resolved_in_memory_max=0"]);
    let granted = reserve(&server, "book", "ann");
    assert_eq!(granted.status, 201, "{granted:?}");
    expect_refused(&server, &reserve(&server, "book", "bob"), "memory_full");
    assert_eq!(server.get("/v1/stocks/book").json()["reserved"], 1);
    // What is held already is settled as ever, and makes room once it is in the history.
    let path = granted.header("location").unwrap();
    assert_eq!(server.post(&format!("{path}/confirm"), "").status, 200);
    let began = Instant::now();
    loop {
        // A change behind it: only what is older than the newest leaves.
        assert_eq!(server.post("/v1/stocks/hat/adjustments", r#"{"delta":1,"reason":"found"}"#).status, 200);
        let answer = reserve(&server, "book", "bob");
        if answer.status == 201 {
            break;
        }
        expect_refused(&server, &answer, "memory_full");
        assert!(began.elapsed() < WAIT_MAX, "there is still no room: {answer:?}");
    }
    server.terminate().expect(0, &[]);
}

#[test]
fn a_user_who_has_no_room_in_memory_is_refused_and_those_who_are_there_are_not() {
    let folder = TempDir::new().unwrap();
    let server = node(&folder, &["rules.users_in_memory_max=1"]);
    assert_eq!(reserve(&server, "book", "ann").status, 201);
    expect_refused(&server, &reserve(&server, "book", "bob"), "users_full");
    // Users count once for each stock.
    expect_refused(&server, &reserve(&server, "hat", "ann"), "users_full");
    assert_eq!(reserve(&server, "book", "ann").status, 201);
    assert_eq!(server.get("/v1/stocks/book").json()["reserved"], 2);
    server.terminate().expect(0, &[]);
}

/// Reservations that are read back again and again while others are.
const GONE: usize = 200;

#[test]
fn a_command_that_would_wait_for_the_history_with_too_many_others_is_refused() {
    let folder = TempDir::new().unwrap();
    let server = node(&folder, &["engine.resolved_in_memory_max=0", "engine.recalls_in_flight_max=1"]);
    let paths: Vec<String> =
        (0..GONE).map(|user| reserve(&server, "book", &format!("u{user}")).header("location").unwrap().to_owned()).collect();
    for path in &paths {
        assert_eq!(server.post(&format!("{path}/confirm"), "").status, 200);
    }
    let began = Instant::now();
    while metric(&server, "tidegate_reservations{shard=\"0\"}") > 0 {
        assert_eq!(server.post("/v1/stocks/hat/adjustments", r#"{"delta":1,"reason":"found"}"#).status, 200);
        assert!(began.elapsed() < WAIT_MAX, "what is sold has not left memory");
    }
    // A batch that needs the history for each of its commands, and somebody who comes in between.
    let commands: Vec<String> =
        paths.iter().map(|path| format!(r#"{{"op":"confirm","id":"{}"}}"#, path.rsplit('/').next().unwrap())).collect();
    let batch = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
    let is_over = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let results = server.post("/v1/batch", &batch);
                // It may be the batch that comes second.
                let results = results.json()["results"].as_array().unwrap().clone();
                assert!(results.iter().all(|result| result["status"] == 200 || result["code"] == "overloaded"), "{results:?}");
            }
        });
        let refused = loop {
            let answer = server.get(&paths[0]);
            if answer.status != 200 {
                break Some(answer);
            }
            if began.elapsed() > WAIT_MAX {
                break None;
            }
        };
        is_over.store(true, Ordering::Relaxed);
        refused
    });
    expect_refused(&server, &refused.expect("nobody was refused"), "recalls_full");
    assert_eq!(server.get(&paths[0]).json()["state"], "confirmed");
    assert_eq!(server.get("/v1/stocks/book").json()["sold"], GONE);
    server.terminate().expect(0, &[]);
}
