//! One suite that every log store passes.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::ops::ControlFlow;

use tidegate_persistence::{
    LogIndex, LogStore, MemoryStore, RecordKey, SegmentOptions, SegmentedLog, SledStore, StreamId, VALUE_BYTES_MAX,
};

const OPTIONS: SegmentOptions = SegmentOptions { cache_bytes: 1 << 20, segment_bytes_max: 1 << 20 };

const fn key(stream: u16, index: u64, part: u16) -> RecordKey {
    RecordKey { stream: StreamId(stream), index: LogIndex(index), part }
}

fn found(store: &dyn LogStore, from: RecordKey) -> Vec<(RecordKey, Vec<u8>)> {
    let mut found = Vec::new();
    store
        .scan(from, &mut |key, value| {
            found.push((RecordKey::decode(key).unwrap(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn check_every_store(check: impl Fn(&dyn LogStore)) {
    check(&MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    check(&SledStore::open(folder.path(), 1 << 20).unwrap());
    let folder = tempfile::tempdir().unwrap();
    check(&SegmentedLog::open(folder.path(), OPTIONS).unwrap());
}

#[test]
fn an_empty_store_holds_nothing() {
    check_every_store(|store| {
        assert_eq!(found(store, key(0, 0, 0)), []);
        assert_eq!(store.last_key(StreamId(0)).unwrap(), None);
        assert_eq!(store.streams().unwrap(), []);
        assert_eq!(store.remove(key(0, 0, 0), LogIndex(u64::MAX)).unwrap(), 0);
        store.flush().unwrap();
        store.sync().unwrap();
    });
}

#[test]
fn a_scan_visits_one_stream_in_the_order_of_its_keys_whatever_the_order_of_appends() {
    check_every_store(|store| {
        let keys = [key(1, 256, 0), key(1, 2, 1), key(1, 2, 0), key(2, 1, 0), key(0, 9, 9), key(1, 255, 65_535), key(1, 1, 0)];
        for key in keys {
            store.append(key, &key.encode()).unwrap();
        }
        let expected: Vec<_> = [key(1, 1, 0), key(1, 2, 0), key(1, 2, 1), key(1, 255, 65_535), key(1, 256, 0)]
            .map(|key| (key, key.encode().to_vec()))
            .to_vec();
        assert_eq!(found(store, key(1, 0, 0)), expected);
        assert_eq!(found(store, key(1, 2, 1)), expected[2..]);
        assert_eq!(found(store, key(1, 257, 0)), []);
    });
}

#[test]
fn a_scan_stops_where_its_visitor_breaks() {
    check_every_store(|store| {
        for index in 1..=200 {
            store.append(key(0, index, 0), b"value").unwrap();
        }
        let mut visited = 0;
        store
            .scan(key(0, 1, 0), &mut |_, _| {
                visited += 1;
                if visited == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(visited, 100);
    });
}

#[test]
fn a_visitor_may_use_the_store() {
    check_every_store(|store| {
        store.append(key(0, 1, 0), b"value").unwrap();
        store
            .scan(key(0, 1, 0), &mut |_, _| {
                assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 1, 0)));
                ControlFlow::Continue(())
            })
            .unwrap();
    });
}

#[test]
fn a_second_append_replaces_the_first() {
    check_every_store(|store| {
        store.append(key(0, 1, 0), b"first").unwrap();
        store.append(key(0, 1, 0), b"second").unwrap();
        assert_eq!(found(store, key(0, 0, 0)), [(key(0, 1, 0), b"second".to_vec())]);
    });
}

#[test]
fn the_last_key_is_that_of_its_own_stream() {
    check_every_store(|store| {
        for key in [key(0, 5, 0), key(0, 5, 3), key(2, 1, 0), key(u16::MAX, u64::MAX, u16::MAX)] {
            store.append(key, b"").unwrap();
        }
        assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 5, 3)));
        assert_eq!(store.last_key(StreamId(1)).unwrap(), None);
        assert_eq!(store.last_key(StreamId(2)).unwrap(), Some(key(2, 1, 0)));
        assert_eq!(store.last_key(StreamId(u16::MAX)).unwrap(), Some(key(u16::MAX, u64::MAX, u16::MAX)));
        assert_eq!(found(store, key(u16::MAX, 0, 0)).len(), 1);
        assert_eq!(store.streams().unwrap(), [StreamId(0), StreamId(2), StreamId(u16::MAX)]);
    });
}

#[test]
fn a_removal_takes_its_range_and_no_more() {
    check_every_store(|store| {
        for index in 1..=10 {
            for part in 0..3 {
                store.append(key(1, index, part), b"value").unwrap();
            }
        }
        store.append(key(0, 5, 0), b"other").unwrap();
        store.append(key(2, 5, 0), b"other").unwrap();
        assert_eq!(store.remove(key(1, 3, 1), LogIndex(8)).unwrap(), 2 + 5 * 3);
        let left: Vec<_> = found(store, key(1, 0, 0)).into_iter().map(|(key, _)| (key.index.0, key.part)).collect();
        let expected = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (9, 0), (9, 1), (9, 2), (10, 0), (10, 1), (10, 2)];
        assert_eq!(left, expected);
        assert_eq!(store.remove(key(1, 3, 1), LogIndex(8)).unwrap(), 0);
        assert_eq!(store.remove(key(1, 9, 0), LogIndex(8)).unwrap(), 0);
        assert_eq!(found(store, key(0, 0, 0)).len() + found(store, key(2, 0, 0)).len(), 2);
    });
}

#[test]
fn values_of_every_size_come_back_as_they_were() {
    check_every_store(|store| {
        let values: Vec<Vec<u8>> = [0, 1, 255, 4_096, VALUE_BYTES_MAX].map(|length| vec![0xa5; length]).to_vec();
        for (index, value) in (1..).zip(&values) {
            store.append(key(0, index, 0), value).unwrap();
        }
        let read: Vec<Vec<u8>> = found(store, key(0, 0, 0)).into_iter().map(|(_, value)| value).collect();
        assert_eq!(read, values);
    });
}

#[test]
fn what_was_synced_is_there_after_sled_is_closed_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), 1 << 20).unwrap();
    store.append(key(0, 1, 0), b"value").unwrap();
    store.append(key(0, 2, 0), b"gone").unwrap();
    store.remove(key(0, 2, 0), LogIndex(2)).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = SledStore::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(found(&store, key(0, 0, 0)), [(key(0, 1, 0), b"value".to_vec())]);
}

#[test]
fn memory_loses_with_the_power_what_was_not_synced() {
    let store = MemoryStore::new();
    store.append(key(0, 1, 0), b"synced").unwrap();
    store.append(key(0, 2, 0), b"synced").unwrap();
    store.sync().unwrap();
    store.append(key(0, 3, 0), b"flushed").unwrap();
    store.flush().unwrap();
    store.remove(key(0, 1, 0), LogIndex(1)).unwrap();
    assert_eq!(found(&store, key(0, 0, 0)).len(), 2);
    assert_eq!(store.crash(0), 2);
    assert_eq!(found(&store, key(0, 0, 0)), [(key(0, 1, 0), b"synced".to_vec()), (key(0, 2, 0), b"synced".to_vec())]);
}

#[test]
fn memory_keeps_as_many_unsynced_changes_as_a_crash_is_told_to() {
    let store = MemoryStore::new();
    for index in 1..=3 {
        store.append(key(0, index, 0), b"value").unwrap();
    }
    assert_eq!(store.crash(2), 3);
    assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 2, 0)));
    // What a crash has left is on the disk.
    assert_eq!(store.crash(0), 0);
    assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 2, 0)));
}

#[test]
fn memory_loses_with_the_process_what_was_not_flushed() {
    let store = MemoryStore::new();
    store.append(key(0, 1, 0), b"flushed").unwrap();
    store.flush().unwrap();
    store.append(key(0, 2, 0), b"appended").unwrap();
    store.kill();
    assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 1, 0)));
    store.crash(0);
    assert_eq!(store.last_key(StreamId(0)).unwrap(), None);
}
