//! Data directories of other formats: those that nobody here can read are refused and left as they are, and those of every released format
//! are opened.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::log::{BOOK_PARTITION, created, reserved, write};
use support::{Server, WAIT_MAX, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Every file below `folder` with what is in it.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in contents(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Castagnoli's checksum, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Has the directory's identity name another format, under a checksum that is right.
fn name_format(folder: &Path, format: u32) {
    const COVERED: [&str; 9] = [
        "format_version",
        "cluster_id",
        "node_id",
        "partition_hash",
        "partition_count",
        "shard_count",
        "created_at_unix_ms",
        "idempotency_seconds_min",
        "secret",
    ];
    let file = folder.join("identity.json");
    let mut identity: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let checksum = |identity: &Value| {
        let covered: String = COVERED.map(|field| format!("{}\n", identity[field].to_string().trim_matches('"'))).concat();
        format!("{:08x}", crc32c(covered.as_bytes()))
    };
    assert_eq!(identity["checksum"], checksum(&identity), "the checksum is understood");
    identity["format_version"] = format.into();
    identity["checksum"] = checksum(&identity).into();
    fs::write(file, identity.to_string()).unwrap();
}

#[test]
fn a_directory_of_another_format_is_refused_with_both_numbers_and_left_as_it_is() {
    for (format, newer) in [(2, "the directory is newer than the program"), (0, "the program is newer than the directory")] {
        let (folder, copied) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        write(folder.path(), 1, 0, &[vec![(0, created(BOOK_PARTITION, 2))], vec![(1, reserved(1, "a", 1, 1))]]);
        // A node has been there, so that everything is that belongs to a directory.
        Server::start(folder.path()).terminate().expect(0, &[]);
        name_format(folder.path(), format);
        copy(folder.path(), copied.path());
        let before = contents(folder.path());
        let said = [format!("format {format}, and this program knows format 1 alone"), newer.to_owned()];
        let said = said.each_ref().map(String::as_str);
        for directory in [folder.path(), copied.path()] {
            let files = contents(directory);
            run(&["serve", "--data-dir", text(directory), "--listen", "127.0.0.1:0"]).expect(1, &said);
            run(&["verify", text(directory)]).expect(1, &said);
            let verdict = run(&["verify", "--json", text(directory)]).expect(1, &[]).stdout;
            let verdict: Value = serde_json::from_str(&verdict).unwrap();
            assert_eq!(
                (&verdict["good"], verdict["place"].as_str()),
                (&false.into(), Some(text(&directory.join("identity.json"))))
            );
            assert_eq!(contents(directory), files, "nothing is changed");
        }
        // The original serves on where it is understood.
        name_format(folder.path(), 1);
        assert_eq!(contents(folder.path()).len(), before.len());
        let server = Server::start(folder.path());
        assert_eq!(server.get("/v1/stocks/book").json()["reserved"], 1);
        server.terminate().expect(0, &[]);
    }
}

/// Every kind of change that the feed tells.
const KINDS: [&str; 13] = [
    "confirmed",
    "expired",
    "extended",
    "released",
    "reserved",
    "returned",
    "stock_adjusted",
    "stock_archived",
    "stock_changed",
    "stock_closed",
    "stock_created",
    "stock_paused",
    "stock_reopened",
];

/// The directory that `tests/data/<name>/make` has made, as it was when its node had stopped.
fn fixture(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    copy(&from, folder.path());
    for line in fs::read_to_string(from.join("lengths")).unwrap().lines() {
        let (file, length) = line.split_once(' ').unwrap();
        // Version control keeps no empty folder.
        if file.ends_with('/') {
            fs::create_dir_all(folder.path().join(file)).unwrap();
            continue;
        }
        let file = fs::OpenOptions::new().write(true).open(folder.path().join(file)).unwrap();
        file.set_len(length.parse().unwrap()).unwrap();
    }
    for beside in ["make", "lengths"] {
        fs::remove_file(folder.path().join(beside)).unwrap();
    }
    folder
}

/// A stock's name, its units allotted, available, reserved and sold, and its grants, as `verify` tells them.
fn told(stocks: &Value) -> Vec<(&str, [u64; 5])> {
    let fields = ["allotted", "available", "reserved", "sold", "grants"];
    let line = |stock: &'_ Value| fields.map(|field| stock[field].as_u64().unwrap());
    stocks.as_array().unwrap().iter().map(|stock| (stock["sku"].as_str().unwrap(), line(stock))).collect()
}

#[test]
fn a_directory_of_format_1_is_good_and_sells_on() {
    let folder = fixture("format-1");
    let verdict = run(&["verify", "--json", text(folder.path())]).expect(0, &[]).stdout;
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    let report = &verdict["report"];
    assert_eq!(
        told(&report["stocks"]),
        [("belt", [1, 1, 0, 0, 0]), ("book", [18, 15, 0, 3, 3]), ("vase", [3, 0, 1, 2, 2])],
        "{report}"
    );
    let counts = ["shards", "snapshots", "in_history", "granted_units", "released_units", "expired_units", "returned_units"];
    assert_eq!(counts.map(|name| report[name].as_u64().unwrap()), [2, 2, 4, 11, 3, 1, 1], "{report}");

    let server = Server::start(folder.path());
    // The hold that was open is over since a minute after the directory was made.
    let began = Instant::now();
    while server.get("/v1/stocks/vase").json()["reserved"] != 0 {
        assert!(began.elapsed() < WAIT_MAX, "the hold has not lapsed");
    }
    let shown = |sku: &str| {
        let stock = server.get(&format!("/v1/stocks/{sku}")).json();
        (["allotted", "available", "reserved", "sold"].map(|field| stock[field].as_u64().unwrap()), stock["state"].clone())
    };
    assert_eq!(shown("book"), ([18, 15, 0, 3], "open".into()));
    assert_eq!(shown("vase"), ([3, 1, 0, 2], "open".into()));
    assert_eq!(shown("belt"), ([1, 1, 0, 0], "archived".into()));
    let events = server.get("/v1/events?limit=1000").json();
    let mut kinds: Vec<&str> = events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, KINDS);
    // Grants are numbered on from those that are there.
    let granted = server.post("/v1/stocks/vase/reservations", r#"{"user":"gus"}"#);
    assert_eq!((granted.status, &granted.json()["sequence"]), (201, &3.into()), "{granted:?}");
    server.terminate().expect(0, &["loaded a snapshot"]);
    run(&["verify", text(folder.path())]).expect(0, &[]);
}
