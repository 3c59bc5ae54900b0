//! The data directory: identity, lock, layout, and damage found on a real disk.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{STREAM, group, open, options, payloads, put, start, write_groups};
use tidegate_persistence::{
    ChainHash, DamageKind, DataDirectory, DirectoryOptions, IdentityExpectation, LogIndex, LogStore, NodeId, OpenError, RecordKey,
    RecoveryError, SledStore, StreamId, WalOptions,
};
use tidegate_stock::Timestamp;

fn with(identity: IdentityExpectation) -> DirectoryOptions {
    DirectoryOptions { identity, ..options() }
}

/// Opens the log's store behind the directory's back.
fn tamper(path: &Path, change: impl FnOnce(&SledStore)) {
    let store = SledStore::open(&common::segment(path), 1 << 20).unwrap();
    change(&store);
    store.sync().unwrap();
}

const fn key(index: u64, part: u16) -> RecordKey {
    RecordKey { stream: STREAM, index: LogIndex(index), part }
}

/// The index and the kind of the damage that a replay of the directory finds.
fn damage(path: &Path) -> (u64, DamageKind) {
    match payloads(&open(path).unwrap()) {
        Err(RecoveryError::Damage(damage)) => (damage.index.0, damage.what),
        other => panic!("no damage: {other:?}"),
    }
}

#[test]
fn a_new_directory_is_made_with_its_parents_and_keeps_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/data");
    let made = DataDirectory::open(&path, &with(IdentityExpectation { shards: Some(4), ..Default::default() })).unwrap();
    let identity = made.identity().clone();
    assert_eq!((identity.node, identity.shards, identity.created_at), (NodeId(1), 4, common::at(0)));
    assert_eq!(identity.cluster.len(), 32);
    assert_eq!(made.path(), path);
    drop(made);
    let later = DirectoryOptions { now: Timestamp::from_unix_ms(9), ..options() };
    assert_eq!(*DataDirectory::open(&path, &later).unwrap().identity(), identity);
    assert_eq!(*DataDirectory::open_existing(&path, &later).unwrap().identity(), identity);
    let other = open(&folder.path().join("other")).unwrap();
    assert_ne!(other.identity().secret.bytes(), identity.secret.bytes());
    assert_ne!(other.identity().cluster, identity.cluster);
}

#[test]
fn nobody_else_reads_the_secret_and_no_debug_output_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let directory = open(&path).unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("identity.json"), mode("."), mode("durable")), (0o600, 0o700, 0o600));
    assert!(format!("{directory:?}").contains("Secret(..)"));
}

#[test]
fn a_directory_that_does_not_match_is_refused_with_the_field_and_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let own = IdentityExpectation { cluster: Some("east".to_owned()), node: Some(NodeId(2)), shards: Some(4) };
    drop(DataDirectory::open(&path, &with(own.clone())).unwrap());
    let cases = [
        (
            IdentityExpectation { cluster: Some("west".to_owned()), ..own.clone() },
            "data directory has cluster_id east where west was expected",
        ),
        (IdentityExpectation { node: Some(NodeId(3)), ..own.clone() }, "data directory has node_id 2 where 3 was expected"),
        (IdentityExpectation { shards: Some(8), ..own.clone() }, "data directory has shard_count 4 where 8 was expected"),
    ];
    for (expectation, message) in cases {
        let error = DataDirectory::open(&path, &with(expectation)).unwrap_err();
        assert!(matches!(error, OpenError::IdentityMismatch { .. }));
        assert_eq!(error.to_string(), message);
    }
    drop(DataDirectory::open(&path, &with(own)).unwrap());
}

/// Rewrites one field of the identity and, if told so, its checksum.
fn edit_identity(path: &Path, field: &str, value: serde_json::Value, reseal: bool) {
    let file = path.join("identity.json");
    let mut identity: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    identity[field] = value;
    if reseal {
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
        let text: String = fields.map(|field| format!("{}\n", identity[field].to_string().trim_matches('"'))).concat();
        identity["checksum"] = format!("{:08x}", crc32c::crc32c(text.as_bytes())).into();
    }
    fs::write(&file, identity.to_string()).unwrap();
}

#[test]
fn a_directory_of_another_version_hash_or_partition_count_is_refused() {
    let cases = [
        (
            "format_version",
            2.into(),
            "data directory has format 2, and this program knows format 1 alone: the directory is newer than the program; start the \
             version that wrote it, or a later one",
        ),
        (
            "format_version",
            0.into(),
            "data directory has format 0, and this program knows format 1 alone: the program is newer than the directory; start the \
             version that wrote it",
        ),
        ("partition_hash", "crc32".into(), "data directory has partition_hash crc32 where siphash-2-4-zero-key was expected"),
        ("partition_count", 512.into(), "data directory has partition_count 512 where 1024 was expected"),
    ];
    for (field, value, message) in cases {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        edit_identity(folder.path(), field, value, true);
        assert_eq!(open(folder.path()).unwrap_err().to_string(), message);
        assert_eq!(DataDirectory::open_existing(folder.path(), &options()).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_newer_version_is_refused_by_its_version_whatever_else_its_identity_holds() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("identity.json"), r#"{"format_version": 7, "sealed_by": ["x"]}"#).unwrap();
    assert!(matches!(open(folder.path()).unwrap_err(), OpenError::Format { found: 7, known: 1 }));
    assert!(!folder.path().join("log").exists());
}

#[test]
fn a_changed_identity_is_damage() {
    for (field, value) in [("secret", "00".repeat(32).into()), ("shard_count", 2.into()), ("created_at_unix_ms", 1.into())] {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        edit_identity(folder.path(), field, value, false);
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged { place, .. } if place.ends_with("identity.json")), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    fs::write(folder.path().join("identity.json"), "{").unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_missing_identity_or_store_is_damage_where_the_rest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 2, 1);
    let identity = fs::read(folder.path().join("identity.json")).unwrap();
    fs::remove_file(folder.path().join("identity.json")).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Damaged { place, .. }) if place.ends_with("identity.json")));
    fs::write(folder.path().join("identity.json"), identity).unwrap();
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Damaged { place, .. }) if place.ends_with("log")));
}

#[test]
fn what_is_no_directory_of_ours_is_not_made_one_by_looking_at_it() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("nothing"), folder.path().to_owned()] {
        assert!(matches!(DataDirectory::open_existing(&path, &options()), Err(OpenError::NotFound { .. })));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_in_use_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    assert!(matches!(DataDirectory::open_existing(folder.path(), &options()), Err(OpenError::InUse { .. })));
    drop(first);
    let running = start(folder.path(), WalOptions::default());
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    running.wal.stop().unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_directory_opens_right_after_it_was_dropped_however_often() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=30 {
        write_groups(folder.path(), round, round, 20);
    }
    let (end, payloads) = payloads(&open(folder.path()).unwrap()).unwrap();
    assert_eq!(end.last_index, LogIndex(30));
    assert_eq!(payloads, (1..=30).map(|sequence| group(sequence, 20).payload).collect::<Vec<_>>());
}

#[test]
fn a_log_cut_below_what_was_durable_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 10, 3);
    tamper(folder.path(), |store| assert_eq!(store.remove(key(8, 0), LogIndex(u64::MAX)).unwrap(), 3));
    assert_eq!(damage(folder.path()), (8, DamageKind::EndsBelowDurable { durable: LogIndex(10) }));
    // It stays named until somebody does something about it.
    assert_eq!(damage(folder.path()), (8, DamageKind::EndsBelowDurable { durable: LogIndex(10) }));
}

#[test]
fn a_log_that_is_gone_altogether_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 10, 3);
    tamper(folder.path(), |store| assert_eq!(store.remove(key(1, 0), LogIndex(u64::MAX)).unwrap(), 10));
    assert_eq!(open(folder.path()).unwrap().streams().unwrap(), [STREAM]);
    assert_eq!(damage(folder.path()), (1, DamageKind::EndsBelowDurable { durable: LogIndex(10) }));
}

#[test]
fn a_hole_in_the_log_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 10, 3);
    tamper(folder.path(), |store| assert_eq!(store.remove(key(4, 0), LogIndex(5)).unwrap(), 2));
    assert_eq!(damage(folder.path()), (6, DamageKind::Hole { expected: LogIndex(4) }));
}

#[test]
fn a_group_replaced_by_another_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 10, 3);
    // The last group is followed by nothing that is chained to it; the sidecar knows its hash.
    tamper(folder.path(), |store| {
        let mut chain = ChainHash::GENESIS;
        for sequence in 1..=9 {
            chain = put(store, STREAM, sequence, &group(sequence, 3), chain, 6_000, 0..usize::MAX);
        }
        put(store, STREAM, 10, &group(10, 2), chain, 6_000, 0..usize::MAX);
    });
    assert_eq!(damage(folder.path()), (10, DamageKind::DurableDiffers));
}

#[test]
fn a_stream_of_a_shard_that_does_not_exist_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 1, 1);
    tamper(folder.path(), |store| {
        put(store, StreamId::log(1), 1, &group(1, 1), ChainHash::GENESIS, 6_000, 0..1);
    });
    let error = open(folder.path()).unwrap_err();
    assert!(error.to_string().ends_with("it holds the log of shard 1, and there are 1 shards"), "{error}");
}

#[test]
fn an_unfinished_group_is_removed_before_the_next_is_written() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 3, 3);
    let chain = open(folder.path()).unwrap().replay(STREAM, |_| Ok(())).unwrap().last_chain;
    // A crash in the middle of an append: four of many parts of group 4.
    tamper(folder.path(), |store| {
        put(store, STREAM, 4, &group(4, 200), chain, 600, 0..4);
    });
    let directory = open(folder.path()).unwrap();
    let (end, recovered) = payloads(&directory).unwrap();
    assert_eq!((end.last_index, end.discarded_tail_parts, recovered.len()), (LogIndex(3), 4, 3));
    // Looking at it has changed nothing.
    drop(directory);
    assert_eq!(payloads(&open(folder.path()).unwrap()).unwrap().0, end);
    // The next group 4 is another, of one part.
    write_groups(folder.path(), 4, 5, 1);
    let (end, recovered) = payloads(&open(folder.path()).unwrap()).unwrap();
    assert_eq!((end.last_index, end.discarded_tail_parts), (LogIndex(5), 0));
    assert_eq!(recovered[3..], [group(4, 1).payload, group(5, 1).payload]);
}

#[test]
fn streams_are_replayed_on_several_threads_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let shards = with(IdentityExpectation { shards: Some(3), ..Default::default() });
    drop(DataDirectory::open(folder.path(), &shards).unwrap());
    tamper(folder.path(), |store| {
        for shard in 0..3 {
            common::put_groups(store, StreamId::log(shard), 1, 300, 1, ChainHash::GENESIS);
        }
    });
    let directory = open(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for shard in 0..3 {
            let directory = &directory;
            scope.spawn(move || {
                let mut next = 1;
                let end = directory.replay(StreamId::log(shard), |recovered| {
                    assert_eq!((recovered.stream, recovered.sequence.0), (StreamId::log(shard), next));
                    next += 1;
                    Ok(())
                });
                assert_eq!(end.unwrap().groups, 300);
            });
        }
    });
    assert_eq!((directory.progress().groups(), directory.progress().events()), (900, 900));
}

#[test]
fn the_shortest_time_that_keys_were_ever_remembered_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let remembered = |seconds| {
        let options = DirectoryOptions { idempotency_seconds: seconds, ..options() };
        DataDirectory::open(folder.path(), &options).unwrap().identity().idempotency_seconds_min
    };
    assert_eq!(remembered(None), u32::MAX);
    assert_eq!(remembered(Some(600)), 600);
    assert_eq!(remembered(Some(86_400)), 600, "what was forgotten early stays forgotten");
    assert_eq!(remembered(Some(60)), 60);
    assert_eq!(remembered(None), 60);
}
