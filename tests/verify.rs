//! `tidegate verify` on logs that a node would never write: each breaks one promise, and is named with its place.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidegate_persistence::{DataDirectory, DirectoryOptions, History, HistoryKey, HistoryOptions, HistoryRecord};
use tidegate_stock::{Event, Fingerprint, GrantSequence, Idempotency, Quantity, ReservationId};

mod support;

use support::log::{BOOK_PARTITION, at, created, reserved, stock, write};
use support::{Server, run};

fn confirmed(sequence: u64) -> Event {
    let reservation = ReservationId { stock: stock(BOOK_PARTITION), sequence: GrantSequence(sequence) };
    Event::Confirmed { reservation, quantity: Quantity::ONE, idempotency: None }
}

/// Castagnoli's checksum, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Has the directory in `folder` be that of node `node` of the cluster that the one in `first` belongs to.
fn make_member(first: &Path, folder: &Path, node: u64) {
    let mut identity: serde_json::Value = serde_json::from_slice(&fs::read(first.join("identity.json")).unwrap()).unwrap();
    identity["node_id"] = node.into();
    let fields = [
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
    let covered: String = fields.map(|field| format!("{}\n", identity[field].to_string().trim_matches('"'))).concat();
    identity["checksum"] = format!("{:08x}", crc32c(covered.as_bytes())).into();
    fs::write(folder.join("identity.json"), identity.to_string()).unwrap();
}

/// Directories of members of one cluster, with these logs.
fn members(logs: &[&[Vec<(u64, Event)>]]) -> Vec<TempDir> {
    let folders: Vec<TempDir> = logs.iter().map(|_| TempDir::new().unwrap()).collect();
    for (folder, log) in folders.iter().zip(logs) {
        write(folder.path(), 1, 0, log);
    }
    for (folder, node) in folders.iter().zip(1..) {
        make_member(folders[0].path(), folder.path(), node);
    }
    folders
}

/// Verifies the directories in `folders` together.
#[track_caller]
fn check_members(folders: &[TempDir], code: i32, said: &[&str]) -> serde_json::Value {
    let paths: Vec<&str> = folders.iter().map(|folder| folder.path().to_str().unwrap()).collect();
    run(&[&["verify"], &paths[..]].concat()).expect(code, said);
    serde_json::from_str(&run(&[&["verify", "--json"], &paths[..]].concat()).expect(code, &[]).stdout).unwrap()
}

#[test]
fn an_entry_that_was_altered_under_right_checksums_is_found_beside_the_other_members() {
    let log = |buyer: &str| {
        vec![
            vec![(0, created(BOOK_PARTITION, 5))],
            vec![(1, reserved(1, "ann", 1, 1))],
            vec![(2, reserved(2, buyer, 1, 2))],
            vec![(3, confirmed(1))],
        ]
    };
    let (good, altered) = (log("bob"), log("eve"));
    // Each of them keeps every promise, and a log may end before another does.
    let verdict = check_members(&members(&[&good, &good, &good[..3]]), 0, &[]);
    let line = &verdict["comparison"]["shards"][0];
    assert_eq!((&verdict["good"], &line["agreed"], &line["compared"]), (&true.into(), &3.into(), &4.into()), "{verdict}");
    assert_eq!(verdict["directories"][2]["report"]["groups"], 3, "{verdict}");
    assert_eq!(line["ledger"].as_str().map(str::len), Some(16), "{verdict}");

    let said = ["shard 0, entry 3, nodes [1, 3] against [2]", "what node 1 proposed there in term 1 is not the same"];
    let verdict = check_members(&members(&[&good, &altered, &good]), 1, &said);
    assert!(verdict["directories"].as_array().unwrap().iter().all(|of| of["good"] == true), "each is good by itself: {verdict}");
    let differences = verdict["comparison"]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{verdict}");
    assert_eq!((&differences[0]["shard"], &differences[0]["index"]), (&0.into(), &3.into()));
    assert_eq!(differences[0]["nodes"], serde_json::json!([[1, 3], [2]]));
}

#[test]
fn directories_that_are_not_of_different_members_of_one_cluster_are_not_compared() {
    let log = [vec![(0, created(BOOK_PARTITION, 5))]];
    let folders = members(&[&log, &log]);
    make_member(folders[0].path(), folders[1].path(), 1);
    check_members(&folders, 1, &["are both of node 1"]);
    let strangers = [members(&[&log]), members(&[&log])].map(|mut one| one.remove(0));
    check_members(&strangers, 1, &["they are of different clusters"]);
}

/// Verifies a directory with one shard that holds `groups`.
#[track_caller]
fn check(groups: &[Vec<(u64, Event)>], more: &[&str], code: i32, said: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    write(folder.path(), 1, 0, groups);
    let path = folder.path().to_str().expect("temporary paths are UTF-8");
    run(&[&["verify", path], more].concat()).expect(code, said);
}

#[test]
fn a_log_that_keeps_every_promise_is_good() {
    check(
        &[
            vec![(0, created(BOOK_PARTITION, 2))],
            vec![(1, reserved(1, "a", 1, 1)), (1, reserved(2, "b", 1, 1))],
            vec![(2, confirmed(1))],
        ],
        &[],
        0,
        &[],
    );
}

#[test]
fn an_oversold_stock_is_found_at_its_event() {
    check(
        &[
            vec![(0, created(BOOK_PARTITION, 2))],
            vec![(1, reserved(1, "a", 1, 1)), (1, reserved(2, "b", 1, 1)), (1, reserved(3, "c", 1, 1))],
        ],
        &[],
        1,
        &["grant 3 of book gives 1 units where 0 are available", "stream 0, entry 2, group 2, event 3"],
    );
}

#[test]
fn a_user_over_the_limit_is_found_at_the_event() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(1, "a", 1, 1))], vec![(2, reserved(2, "a", 1, 2))]],
        &[],
        1,
        &["grant 2 of book", "limit is 1", "stream 0, entry 2, group 2, event 1"],
    );
}

#[test]
fn a_sale_after_the_hold_was_over_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(1, "a", 1, 1))], vec![(601, confirmed(1))]],
        &[],
        1,
        &["grant 1 of book was confirmed", "entry 2, group 2, event 1"],
    );
}

#[test]
fn a_grant_out_of_order_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(2, "a", 1, 1))]],
        &[],
        1,
        &["grant 2 of book", "entry 1, group 1, event 2"],
    );
}

#[test]
fn the_first_finding_is_told_and_not_what_follows_from_it() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2))], vec![(1, reserved(1, "a", 3, 1))], vec![(2, confirmed(7))]],
        &[],
        1,
        &["grant 1 of book", "entry 2, group 2, event 1"],
    );
}

#[test]
fn a_product_in_a_partition_that_is_not_its_own_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION + 1, 2))]],
        &[],
        1,
        &["book is in partition 305 and belongs to 304", "entry 1, group 1, event 1"],
    );
}

#[test]
fn a_product_in_the_log_of_a_shard_that_is_not_its_own_is_found() {
    // Of two shards, the first owns partitions 0 to 511.
    let folder = TempDir::new().unwrap();
    write(folder.path(), 2, 1, &[vec![(0, created(BOOK_PARTITION, 2))]]);
    run(&["verify", folder.path().to_str().unwrap()])
        .expect(1, &["book", "another shard's log", "stream 1, entry 1, group 1, event 1"]);
}

#[test]
fn how_long_a_key_was_remembered_decides_whether_it_was_used_twice() {
    let keyed = |sequence, user, second| {
        let Event::Reserved { stock, sequence, user, quantity, expires_at, reference, .. } = reserved(sequence, user, 1, second)
        else {
            unreachable!("a grant is a grant")
        };
        let idempotency = Some(Idempotency { key: Fingerprint(7), request: Fingerprint(9) });
        Event::Reserved { stock, sequence, user, quantity, expires_at, reference, idempotency }
    };
    let groups = [vec![(0, created(BOOK_PARTITION, 2)), (1, keyed(1, "a", 1))], vec![(100, keyed(2, "b", 100))]];
    let folder = TempDir::new().unwrap();
    write(folder.path(), 1, 0, &groups);
    let path = folder.path().to_str().unwrap();
    run(&["verify", path]).expect(1, &["a key of book", "entry 2, group 2, event 1"]);
    run(&["verify", path, "--set", "rules.idempotency_seconds=60"]).expect(1, &["a key of book"]);
    // Only that a node really remembered keys for less makes the second use right; what is set for the reader does not.
    let shorter = DirectoryOptions { idempotency_seconds: Some(60), ..DirectoryOptions::new(at(0)) };
    drop(DataDirectory::open(folder.path(), &shorter).unwrap());
    run(&["verify", path]).expect(0, &[]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A directory whose book of `units` has one grant, and which is of the cluster that `identity` is of, if there is one.
fn with_grant(units: u64, more_groups: usize, identity: Option<&Path>) -> TempDir {
    let folder = TempDir::new().unwrap();
    if let Some(identity) = identity {
        fs::copy(identity.join("identity.json"), folder.path().join("identity.json")).unwrap();
    }
    let mut groups = vec![vec![(0, created(BOOK_PARTITION, units))], vec![(1, reserved(1, "a", 1, 1))]];
    groups.resize(groups.len() + more_groups, vec![]);
    write(folder.path(), 1, 0, &groups);
    folder
}

/// Has a node make a snapshot in `folder`, and says where it is.
fn snapshot(folder: &Path) -> PathBuf {
    let (server, copies) = (Server::start(folder), TempDir::new().unwrap());
    let target = format!("http://{}", server.address);
    run(&["backup", text(&copies.path().join("copy")), "--target", &target]).expect(0, &[]);
    server.terminate().expect(0, &[]);
    let found: Vec<_> = fs::read_dir(folder.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// Verifies `folder`, in which something beside the log is wrong: it is told with `said`, and its place is `place`.
#[track_caller]
fn expect_beside_the_log(folder: &Path, place: &Path, said: &[&str]) {
    run(&["verify", text(folder)]).expect(1, &[said, &[text(place)]].concat());
    let finished = run(&["verify", "--json", text(folder)]).expect(1, said);
    let verdict: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&verdict["good"], &verdict["place"]), (&false.into(), &text(place).into()), "{verdict}");
    let what = verdict["what"].as_str().unwrap();
    assert!(said.iter().all(|part| what.contains(part)), "{what}");
}

#[test]
fn a_damaged_snapshot_is_found_by_its_path() {
    let folder = with_grant(2, 0, None);
    let snapshot = snapshot(folder.path());
    run(&["verify", text(folder.path())]).expect(0, &[]);
    let whole = fs::read(&snapshot).unwrap();
    for (place, said) in [(0, "does not begin as a snapshot does"), (whole.len() - 1, "checksum of its footer")] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&snapshot, bytes).unwrap();
        expect_beside_the_log(folder.path(), &snapshot, &["is damaged at byte", said]);
    }
    fs::write(&snapshot, &whole[..whole.len() / 2]).unwrap();
    expect_beside_the_log(folder.path(), &snapshot, &["is damaged at byte", "the file ends within"]);
}

#[test]
fn a_snapshot_that_contradicts_the_log_is_found_by_its_path() {
    // Whatever group the node makes its snapshot at, this log reaches it.
    let folder = with_grant(2, 10, None);
    let other = with_grant(3, 0, Some(folder.path()));
    let made = snapshot(other.path());
    let place = folder.path().join("snapshots").join(made.file_name().unwrap());
    fs::create_dir(folder.path().join("snapshots")).unwrap();
    fs::copy(&made, &place).unwrap();
    expect_beside_the_log(folder.path(), &place, &["says", "allotted: 3", "the log", "allotted: 2", "stream 0, entry"]);
    // One of a group that never was.
    let shorter = with_grant(3, 0, Some(folder.path()));
    let place = shorter.path().join("snapshots/00000-00000000000000000099.snapshot");
    fs::create_dir(shorter.path().join("snapshots")).unwrap();
    let long = with_grant(3, 97, Some(folder.path()));
    let made = snapshot(long.path());
    fs::copy(&made, &place).unwrap();
    expect_beside_the_log(shorter.path(), &place, &["which the log does not hold", "stream 0, entry 2"]);
}

#[test]
fn a_damaged_history_is_found_by_its_path() {
    let folder = with_grant(2, 0, None);
    let place = folder.path().join("history");
    let options = HistoryOptions { range_seconds: 86_400, ..HistoryOptions::default() };
    let history = History::open(&place, &options).unwrap();
    let key = HistoryKey { stock: stock(BOOK_PARTITION), sequence: GrantSequence(1) };
    history.put(&[HistoryRecord { key, user: "a", resolved_at: at(1), value: b"no reservation" }]).unwrap();
    history.persist().unwrap();
    drop(history);
    expect_beside_the_log(folder.path(), &place, &["the history in", "cannot be read"]);
    // What says how much of it is durable is gone.
    let files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    fs::remove_file(&files[0]).unwrap();
    expect_beside_the_log(folder.path(), &place, &["the history in", "it is missing beside a store"]);
}

#[test]
fn a_damaged_identity_is_found_by_its_path() {
    let folder = with_grant(2, 0, None);
    let place = folder.path().join("identity.json");
    let whole = fs::read_to_string(&place).unwrap();
    fs::write(&place, whole.replace("\"node_id\": 1", "\"node_id\": 2")).unwrap();
    expect_beside_the_log(folder.path(), &place, &["is damaged", "checksum is"]);
    fs::write(&place, &whole[..whole.len() / 2]).unwrap();
    expect_beside_the_log(folder.path(), &place, &["is damaged", "EOF while parsing"]);
    fs::write(&place, &whole).unwrap();
    run(&["verify", text(folder.path())]).expect(0, &[]);
}
