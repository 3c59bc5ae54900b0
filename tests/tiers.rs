//! A node over a log that is longer than it wants to read again: snapshots, starts from them, the history, and space that comes back.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidegate_stock::Event;

mod support;

use support::log::{BOOK_PARTITION, confirmed, created, reserved, write};
use support::{Server, WAIT_MAX, sell_more};

/// Reservations in the log.
const GRANTS: u64 = 60_000;

/// Events in one group.
const GROUP_EVENTS: u64 = 5_000;

/// Every limit at its least, so that little work moves much.
const TIGHT: [&str; 10] = [
    "--set",
    "engine.resolved_in_memory_max=0",
    "--set",
    "snapshots.log_bytes=1048576",
    "--set",
    "log.segment_bytes_max=1048576",
    "--set",
    "feed.retention_bytes=16777216",
    "--set",
    "snapshots.interval_seconds=10",
];

/// A log of a book of which every second reservation was paid.
fn long_log() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let mut groups: Vec<Vec<(u64, Event)>> = vec![vec![(0, created(BOOK_PARTITION, 2 * GRANTS))]];
    for first in (1..=GRANTS).step_by(usize::try_from(GROUP_EVENTS).expect("a small number")) {
        let (at, grants) = (groups.len() as u64, first..first + GROUP_EVENTS);
        groups.push(grants.clone().map(|sequence| (at, reserved(sequence, &format!("buyer-{sequence}"), 1, at))).collect());
        groups.push(grants.filter(|sequence| sequence % 2 == 0).map(|sequence| (at, confirmed(sequence, 1))).collect());
    }
    write(folder.path(), 1, 0, &groups);
    folder
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let value = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "waited for {what} for {WAIT_MAX:?}");
        std::thread::yield_now();
    }
}

/// The counters of the book, which always add up.
#[track_caller]
fn book(server: &Server) -> (u64, u64, u64) {
    let stock = server.get("/v1/stocks/book").json();
    let count = |name: &str| stock[name].as_u64().unwrap_or_else(|| panic!("{name} in {stock}"));
    assert_eq!(count("available") + count("reserved") + count("sold"), count("allotted"), "{stock}");
    (count("available"), count("reserved"), count("sold"))
}

/// Every reservation of the book, newest first.
fn reservations(server: &Server) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/stocks/book/reservations?limit=1000{cursor}"));
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        all.extend(page["reservations"].as_array().expect("a list").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Bytes of all files in a folder that a node is working in; what goes while it is looked at counts as gone.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let kind = entry.metadata().ok()?;
            Some(if kind.is_dir() { bytes_in(&entry.path()) } else { kind.len() })
        })
        .sum()
}

#[test]
fn a_node_starts_from_its_snapshot_and_shows_everything_as_before() {
    let folder = long_log();
    let server = Server::start_with(folder.path(), &TIGHT);
    server.wait_ready();
    let counters = (2 * GRANTS - GRANTS, GRANTS / 2, GRANTS / 2);
    assert_eq!(book(&server), counters);
    wait_until("a snapshot", || metric(&server, "tidegate_snapshots_total") >= 1.0);
    wait_until("what is paid to leave memory", || metric(&server, "tidegate_reservations{shard=\"0\"}") <= 30_000.0);
    let shown = reservations(&server);
    assert_eq!(shown.len() as u64, GRANTS);
    let sequences = shown.iter().map(|reservation| reservation["sequence"].as_u64());
    assert!(sequences.eq((1..=GRANTS).rev().map(Some)), "newest first, each once");
    // Killed, so that nothing is written at the end.
    server.signal(Signal::KILL);
    server.finish();

    let server = Server::start_with(folder.path(), &TIGHT);
    server.wait_ready();
    assert_eq!(book(&server), counters);
    assert_eq!(reservations(&server), shown);
    let paid = shown.iter().find(|reservation| reservation["state"] == "confirmed").expect("half of them are");
    let id = paid["id"].as_str().expect("an id");
    let returned = server.post(&format!("/v1/reservations/{id}/return"), "");
    assert_eq!((returned.status, &returned.json()["state"]), (200, &"returned".into()), "{returned:?}");
    assert_eq!(book(&server), (counters.0 + 1, counters.1, counters.2 - 1));
    let said = server.terminate().expect(0, &["loaded a snapshot", "ready"]);
    assert!(!said.stderr.contains(&format!("events={}", GRANTS + GRANTS / 2 + 1)), "the whole log was read: {}", said.stderr);

    let server = Server::start(folder.path());
    assert_eq!(server.get(&format!("/v1/reservations/{id}")).json()["returned"], 1);
    assert_eq!(book(&server), (counters.0 + 1, counters.1, counters.2 - 1));
    server.terminate().expect(0, &[]);
    support::run(&["verify", folder.path().to_str().expect("temporary paths are UTF-8")]).expect(0, &[]);
}

#[test]
fn a_damaged_snapshot_is_told_and_passed_over() {
    let folder = long_log();
    let server = Server::start_with(folder.path(), &TIGHT);
    server.wait_ready();
    let counters = book(&server);
    wait_until("a snapshot", || metric(&server, "tidegate_snapshots_total") >= 1.0);
    server.signal(Signal::KILL);
    server.finish();
    let snapshots = folder.path().join("snapshots");
    for entry in fs::read_dir(snapshots).expect("there are snapshots") {
        let path = entry.expect("the folder can be read").path();
        let mut bytes = fs::read(&path).expect("the snapshot can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("the snapshot can be written");
    }
    let server = Server::start(folder.path());
    assert_eq!(book(&server), counters);
    server.terminate().expect(0, &["a snapshot is of no use", "is damaged at byte"]);
}

#[test]
fn a_snapshot_that_was_passed_over_is_never_begun_with_again() {
    let folder = long_log();
    let server = Server::start_with(folder.path(), &TIGHT);
    server.wait_ready();
    let counters = book(&server);
    wait_until("a snapshot", || metric(&server, "tidegate_snapshots_total") >= 1.0);
    server.signal(Signal::KILL);
    server.finish();
    // It cannot be read, which says nothing of what is in it.
    let entries = fs::read_dir(folder.path().join("snapshots")).expect("there are snapshots");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let unreadable: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "snapshot")).collect();
    assert!(!unreadable.is_empty());
    for path in &unreadable {
        fs::remove_file(path).expect("the snapshot can be taken away");
        fs::create_dir(path).expect("a folder can be made in its place");
    }
    let server = Server::start(folder.path());
    assert_eq!(book(&server), counters);
    server.terminate().expect(0, &["a snapshot is of no use", "set the snapshot aside"]);
    assert!(unreadable.iter().all(|path| !path.is_dir()), "{unreadable:?}");
}

#[test]
fn space_of_the_log_comes_back_and_the_node_goes_on_from_what_is_left() {
    let folder = long_log();
    let log = folder.path().join("log");
    let server = Server::start_with(folder.path(), &TIGHT);
    server.wait_ready();
    // Two snapshots must stand behind what goes, and the log must be larger than what is kept for the feed.
    let most = Cell::new(0);
    wait_until("a segment to go", || {
        most.set(most.get().max(bytes_in(&log)));
        let is_gone = !log.join("0000000001").exists();
        if !is_gone {
            sell_more(&server);
        }
        is_gone
    });
    let expected = book(&server);
    // What lies behind the older of the two newest snapshots stays, and that is as much as was written while one was made.
    let allowed = (most.get() / 2).max(40 * 1024 * 1024);
    wait_until("the log to be small", || bytes_in(&log) <= allowed);
    server.signal(Signal::KILL);
    server.finish();
    let server = Server::start(folder.path());
    assert_eq!(book(&server), expected);
    server.terminate().expect(0, &["loaded a snapshot"]);
    support::run(&["verify", folder.path().to_str().expect("temporary paths are UTF-8")]).expect(0, &[]);
}

#[test]
fn the_older_of_two_snapshots_is_enough_for_a_start_though_space_of_the_log_was_given_back() {
    const FEED_BYTES: u64 = 16 * 1024 * 1024;
    let (folder, copies) = (long_log(), TempDir::new().expect("a temporary folder can be made"));
    let log = folder.path().join("log");
    // Snapshots are made only with the copies, and the feed keeps little.
    let feed = format!("feed.retention_bytes={FEED_BYTES}");
    let server = Server::start_with(folder.path(), &["--set", "log.segment_bytes_max=1048576", "--set", &feed]);
    server.wait_ready();
    let target = format!("http://{}", server.address);
    let snapshot = |name: &str| {
        let copy = copies.path().join(name);
        support::run(&["backup", copy.to_str().expect("temporary paths are UTF-8"), "--target", &target]).expect(0, &[]);
    };
    let grow = |bytes: u64| {
        let grown = bytes_in(&log) + bytes;
        wait_until("the log to grow", || {
            sell_more(&server);
            bytes_in(&log) >= grown
        });
    };
    // The first segment is left before the older snapshot is made, so that it may go.
    wait_until("the first segment to be left", || {
        sell_more(&server);
        log.join("0000000001/sealed").exists()
    });
    snapshot("older");
    // More than the feed keeps lies between the two.
    grow(2 * FEED_BYTES);
    snapshot("newer");
    wait_until("a segment to go", || !log.join("0000000001").exists());
    let expected = book(&server);
    server.terminate().expect(0, &[]);

    let snapshots = fs::read_dir(folder.path().join("snapshots")).expect("there are snapshots");
    let mut snapshots: Vec<_> = snapshots.map(|entry| entry.expect("the folder can be read").path()).collect();
    snapshots.sort();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    let mut bytes = fs::read(&snapshots[1]).expect("the snapshot can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshots[1], bytes).expect("the snapshot can be written");
    let server = Server::start(folder.path());
    assert_eq!(book(&server), expected);
    server.terminate().expect(0, &["a snapshot is of no use", "loaded a snapshot"]);
}
