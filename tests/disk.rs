//! A node whose disk runs full, fails or is damaged under it: what it still does, what it says, and that no shard stands in another's way.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{Finished, Response, Server, WAIT_MAX, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Reserves a unit of `sku`, which must be granted, and names the reservation.
#[track_caller]
fn reserve(server: &Server, sku: &str, user: &str) -> String {
    let answer = server.post(&format!("/v1/stocks/{sku}/reservations"), &format!(r#"{{"user":"{user}"}}"#));
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().expect("a reservation has an id").to_owned()
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let value = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("there is no {name}: {}", metrics.body))
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "waited for {what} for {WAIT_MAX:?}");
        std::thread::yield_now();
    }
}

fn backup(server: &Server, directory: &Path) -> Finished {
    run(&["backup", text(directory), "--target", &format!("http://{}", server.address)])
}

/// The shard's snapshots in a data directory, oldest first: name and group.
fn snapshots(data: &Path, shard: u16) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(data.join("snapshots")) else { return Vec::new() };
    let group = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
        name.strip_prefix(&format!("{shard:05}-"))?.parse().ok()
    };
    let mut found: Vec<(PathBuf, u64)> = entries
        .filter_map(|entry| {
            let path = entry.expect("the folder can be read").path();
            group(&path).map(|group| (path, group))
        })
        .collect();
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the file can be read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("the file can be written");
}

#[test]
fn a_history_that_fails_ends_the_node_with_an_error() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start_with(folder.path(), &["--set", "engine.resolved_in_memory_max=0"]);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    // Nothing has left memory yet, and what does finds no room.
    let keyspaces = folder.path().join("history/store/keyspaces");
    fs::rename(&keyspaces, keyspaces.with_extension("away")).expect("the folder can be renamed");
    fs::write(&keyspaces, "in the way").expect("the folder can be written");
    let id = reserve(&server, "lamp", "ada");
    let confirmed = server.post(&format!("/v1/reservations/{id}/confirm"), "");
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    server.finish().expect(1, &["error: the history failed, and the node has stopped", "Not a directory"]);

    fs::remove_file(&keyspaces).expect("the file can be removed");
    fs::rename(keyspaces.with_extension("away"), &keyspaces).expect("the folder can be renamed");
    let server = Server::start(folder.path());
    assert_eq!(server.get(&format!("/v1/reservations/{id}")).json()["state"], "confirmed");
    server.terminate().expect(0, &[]);
}

#[test]
fn below_the_disks_floor_nothing_changes_and_everything_is_read() {
    /// More than the disk of any machine that runs tests has, and the most that can be set.
    const FLOOR: u64 = 1 << 40;
    const FLOOR_NAME: &str = "TIDEGATE_LOG_DISK_FREE_BYTES_MIN";
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let server = Server::start(&data);
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    let id = reserve(&server, "lamp", "ada");
    server.terminate().expect(0, &[]);

    let mut command = support::program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0"]);
    command.env(FLOOR_NAME, FLOOR.to_string());
    let server = Server::from_command(command);
    server.wait_ready();
    let free = metric(&server, "tidegate_disk_free_bytes");
    assert!(free < 1_099_511_627_776.0, "the disk of temporary files has {free} free bytes, too many for this test");
    let refused = |answer: &Response| {
        let code = answer.json()["code"].clone();
        (answer.status, code) == (503, Value::from("overloaded"))
    };
    // The log looks at its disk once it runs.
    let change = || server.post("/v1/stocks/lamp/reservations", r#"{"user":"bert"}"#);
    let mut granted = 0;
    wait_until("a refusal", || {
        let answer = change();
        granted += u64::from(answer.status == 201);
        assert!(answer.status == 201 || refused(&answer), "{answer:?}");
        answer.status == 503
    });
    let answer = change();
    assert!(refused(&answer), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], "urn:tidegate:problem:overloaded", "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("disk has less free space")), "{problem}");
    for (path, body) in [
        ("/v1/stocks/other", r#"{"quantity":10}"#),
        ("/v1/stocks/lamp/pause", ""),
        ("/v1/stocks/lamp/adjustments", r#"{"delta":5,"reason":"found"}"#),
        (&format!("/v1/reservations/{id}/confirm"), ""),
        (&format!("/v1/reservations/{id}/release"), ""),
    ] {
        let answer = if path.ends_with("other") { server.put(path, body) } else { server.post(path, body) };
        assert!(refused(&answer), "{path}: {answer:?}");
    }
    // It is ready: what can be done is done, and restarting it would free nothing.
    assert_eq!((server.get("/livez").status, server.get("/readyz").status), (200, 200));
    let stock = server.get("/v1/stocks/lamp").json();
    assert_eq!((&stock["available"], &stock["reserved"]), (&(9 - granted).into(), &(1 + granted).into()), "{stock}");
    assert_eq!(server.get(&format!("/v1/reservations/{id}")).json()["state"], "reserved");
    assert_eq!(server.get("/v1/events").json()["events"].as_array().map(|events| events.len() as u64), Some(2 + granted));
    // Nor is a snapshot written that would take of what is left.
    backup(&server, &copy).expect(1, &[]);
    assert!(metric(&server, "tidegate_snapshot_failures_total") >= 1.0);
    assert_eq!(fs::read_dir(data.join("snapshots")).map_or(0, Iterator::count), 0);
    server.terminate().expect(0, &["no snapshot could be made", "free bytes", "leave log.disk_free_bytes_min beside"]);

    let server = Server::start(&data);
    let confirmed = server.post(&format!("/v1/reservations/{id}/confirm"), "");
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    backup(&server, &copy).expect(0, &[]);
    server.terminate().expect(0, &[]);
}

#[test]
fn a_damaged_snapshot_takes_nobodys_place() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let shards = ["--set", "node.shards=1"];
    // A backup makes a snapshot.
    let take = |server: &Server| {
        backup(server, &copy).expect(0, &[]);
        fs::remove_dir_all(&copy).expect("the copy can be removed");
        snapshots(&data, 0)
    };
    let server = Server::start_with(&data, &shards);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    take(&server);
    reserve(&server, "lamp", "ada");
    let made = take(&server);
    let [(good, _), (bad, _)] = &made[..] else { panic!("{made:?}") };
    server.signal(Signal::KILL);
    server.finish();
    flip(bad, fs::metadata(bad).expect("the snapshot is there").len() - 70);

    let server = Server::start_with(&data, &shards);
    server.wait_ready();
    assert!(!bad.exists());
    reserve(&server, "lamp", "bert");
    let made = take(&server);
    assert!(made.len() == 2 && made[0].0 == *good, "{made:?}");
    server.terminate().expect(0, &["a snapshot is of no use", "set the snapshot aside"]);
    let aside = bad.with_extension("snapshot.damaged");
    assert!(aside.exists());
    run(&["verify", text(&data)]).expect(0, &[]);

    // Where the log is no help either, nothing is touched.
    for (path, _) in &made {
        flip(path, 100);
    }
    let other = folder.path().join("other");
    let server = Server::start_with(&other, &shards);
    server.wait_ready();
    server.terminate().expect(0, &[]);
    fs::remove_dir_all(data.join("log")).expect("the log can be removed");
    fs::rename(other.join("log"), data.join("log")).expect("an empty log can be put in its place");
    let mut command = support::program(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0"]);
    let failed = support::finish(command.args(shards).spawn().expect("the program starts"));
    failed.expect(1, &["a snapshot is of no use", "acknowledged groups are lost"]);
    assert_eq!(snapshots(&data, 0), made);
}

#[test]
fn without_its_history_a_node_starts_and_its_stock_is_as_it_was() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let server = Server::start_with(&data, &["--set", "engine.resolved_in_memory_max=0"]);
    server.wait_ready();
    assert_eq!(server.put("/v1/stocks/lamp", r#"{"quantity":10}"#).status, 201);
    let (sold, held) = (reserve(&server, "lamp", "ada"), reserve(&server, "lamp", "bert"));
    assert_eq!(server.post(&format!("/v1/reservations/{sold}/confirm"), "").status, 200);
    wait_until("what is sold to leave memory", || metric(&server, r#"tidegate_reservations{shard="0"}"#) <= 1.0);
    // Behind a snapshot, so that the log does not bring it back.
    backup(&server, &copy).expect(0, &[]);
    let stock = server.get("/v1/stocks/lamp").json();
    server.terminate().expect(0, &[]);

    let (history, away) = (data.join("history"), folder.path().join("away"));
    flip(&history.join("persisted"), 9);
    let refused = run(&["serve", "--data-dir", text(&data), "--listen", "127.0.0.1:0"]);
    refused.expect(1, &["the history was not opened", "persisted is damaged"]);
    fs::rename(&history, &away).expect("the folder can be moved");
    let server = Server::start(&data);
    let now = server.get("/v1/stocks/lamp").json();
    for units in ["allotted", "available", "reserved", "sold"] {
        assert_eq!(now[units], stock[units], "{units}");
    }
    let unknown = server.get(&format!("/v1/reservations/{sold}"));
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &"unknown_reservation".into()), "{unknown:?}");
    assert_eq!(server.post(&format!("/v1/reservations/{sold}/return"), "").status, 404);
    assert_eq!(server.post(&format!("/v1/reservations/{held}/confirm"), "").status, 200);
    server.terminate().expect(0, &[]);
    run(&["verify", text(&data)]).expect(0, &[]);
}

/// Small segments and snapshots, and as little as can be kept for the feed.
const TIGHT: [&str; 10] = [
    "--set",
    "node.shards=2",
    "--set",
    "snapshots.log_bytes=1048576",
    "--set",
    "log.segment_bytes_max=1048576",
    "--set",
    "feed.retention_bytes=16777216",
    "--set",
    "snapshots.interval_seconds=10",
];

/// Products of the first and of the second of two shards: their partitions are 304 and 688, worked out apart from the program.
const BUSY: &str = "book";
const IDLE: &str = "belt";

#[test]
fn an_idle_shard_keeps_none_of_the_others_log() {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let server = Server::start_with(&data, &TIGHT);
    server.wait_ready();
    for sku in [BUSY, IDLE] {
        assert_eq!(server.put(&format!("/v1/stocks/{sku}"), r#"{"quantity":1000000000}"#).status, 201);
    }
    let id = reserve(&server, IDLE, "ada");
    let long = "u".repeat(120);
    let command = format!(r#"{{"op":"reserve","sku":"{BUSY}","user":"{long}","reference":"{long}","hold_seconds":1}}"#);
    let commands = format!(r#"{{"commands":[{}]}}"#, vec![command; 3_000].join(","));
    // More than the feed keeps; beyond that, as much as makes the next snapshot due.
    let (plenty, sold_at) = (24, Cell::new(0.0));
    let sell = || {
        let segments = fs::read_dir(data.join("log")).expect("the log is there").count();
        let made = metric(&server, "tidegate_snapshots_total");
        if segments < plenty || made > sold_at.replace(made) {
            let answer = server.post("/v1/batch", &commands);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    wait_until("a snapshot of the idle shard", || {
        sell();
        !snapshots(&data, 1).is_empty()
    });
    let (path, first) = snapshots(&data, 1).remove(0);
    // From now on it cannot be said what it covers.
    flip(&path, 20);
    let is_there = |segment: u64| data.join(format!("log/{segment:010}")).exists();
    wait_until("a segment to go", || {
        sell();
        !is_there(1)
    });
    let marked = snapshots(&data, 1);
    assert!(marked.len() == 2 && marked[1].1 > first, "{marked:?}");
    let newest = fs::read_dir(data.join("log"))
        .expect("the log is there")
        .filter_map(|entry| entry.expect("the folder can be read").file_name().to_str()?.parse().ok());
    let newest = newest.max().expect("there are segments");
    // That is where the idle shard's newest entry is at the latest, and it goes too.
    wait_until("its own entries to go", || {
        sell();
        !is_there(newest)
    });
    // Each time one group was enough.
    let again = snapshots(&data, 1);
    assert!(again.len() == 2 && (marked[1].1 + 1..marked[1].1 + 5).contains(&again[1].1), "{marked:?} {again:?}");
    let sold = server.get(&format!("/v1/stocks/{IDLE}")).json();
    backup(&server, &copy).expect(0, &[]);
    assert!(server.get("/v1/events?limit=1").json()["events"][0].is_object());
    server.signal(Signal::KILL);
    server.finish();

    for directory in [&data, &copy] {
        let server = Server::start(directory);
        let now = server.get(&format!("/v1/stocks/{IDLE}")).json();
        assert_eq!((&now["available"], &now["reserved"]), (&sold["available"], &sold["reserved"]));
        assert_eq!(server.get(&format!("/v1/reservations/{id}")).json()["state"], "reserved");
        reserve(&server, IDLE, "bert");
        server.terminate().expect(0, &["loaded a snapshot"]);
        run(&["verify", text(directory)]).expect(0, &[]);
    }
}
