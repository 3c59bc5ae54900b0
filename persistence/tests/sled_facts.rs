//! What sled really does, fact by fact: each is a reason for something in its door.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_persistence::{LogIndex, LogStore, RecordKey, SledStore, StreamId, VALUE_BYTES_MAX};

const CACHE_BYTES: u64 = 4 << 20;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

const fn key(stream: u16, index: u64, part: u16) -> RecordKey {
    RecordKey { stream: StreamId(stream), index: LogIndex(index), part }
}

/// Bytes that no compression could make less of.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

fn blobs(path: &Path) -> usize {
    fs::read_dir(path.join("blobs")).unwrap().count()
}

/// Lets two pages merge that are as full as two pages can be that merge. Returns how many blobs there were at most.
///
/// The end of one stream is the neighbour of the beginning of the next. The next is compacted from its beginning, so that the page that
/// both share belongs to the first alone; the first fills it; then the next is compacted further, and its page merges into the full one.
fn merge_full_pages(path: &Path, value_bytes: usize) -> usize {
    let db = sled::Config::new().path(path).flush_every_ms(None).open().unwrap();
    let put = |key: RecordKey| drop(db.insert(key.encode(), noise(value_bytes, key.index.0)).unwrap());
    let mut most = 0;
    for compacted in 4..=10 {
        for appended in 12..=18 {
            (1..=30).for_each(|index| put(key(2, index, 0)));
            put(key(1, 1, 0));
            (1..=compacted).for_each(|index| drop(db.remove(key(2, index, 0).encode()).unwrap()));
            (2..=appended).for_each(|index| put(key(1, index, 0)));
            for removed in (compacted + 1..=30).map(|index| key(2, index, 0)).chain((1..=appended).map(|index| key(1, index, 0))) {
                db.remove(removed.encode()).unwrap();
                most = most.max(blobs(path));
            }
        }
    }
    most
}

#[test]
fn values_of_48_kib_become_blobs_that_nobody_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let db = sled::Config::new().path(folder.path()).flush_every_ms(None).open().unwrap();
    for index in 1..=64 {
        db.insert(key(0, index, 0).encode(), noise(48 * 1024, index)).unwrap();
    }
    db.flush().unwrap();
    assert!(blobs(folder.path()) > 0);
}

#[test]
fn values_of_7_kib_become_a_blob_when_full_pages_merge_and_values_of_the_bound_do_not() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(merge_full_pages(folder.path(), 7 * 1024) > 0);
    assert_eq!(merge_full_pages(other.path(), VALUE_BYTES_MAX), 0);
}

#[test]
fn a_log_of_the_longest_values_never_makes_a_blob_not_even_when_it_is_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    let values = 1_500;
    for index in 1..=values {
        for stream in 0..3 {
            store.append(key(stream, index, 0), &noise(VALUE_BYTES_MAX, index)).unwrap();
        }
        assert_eq!(blobs(folder.path()), 0, "index {index}");
    }
    store.sync().unwrap();
    for stream in 0..3 {
        assert_eq!(store.remove(key(stream, 1, 0), LogIndex(values * 9 / 10)).unwrap(), values * 9 / 10);
        assert_eq!(blobs(folder.path()), 0, "stream {stream}");
    }
    // The pages that are left are rewritten as the store is opened again, written to, and collects its garbage.
    drop(store);
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    for index in values + 1..=values + 200 {
        for stream in 0..3 {
            store.append(key(stream, index, 0), &noise(VALUE_BYTES_MAX, index)).unwrap();
        }
        store.sync().unwrap();
    }
    assert_eq!(blobs(folder.path()), 0);
    let mut left = 0;
    store
        .scan(key(1, 0, 0), &mut |_, value| {
            assert_eq!(value.len(), VALUE_BYTES_MAX);
            left += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(left, values / 10 + 200);
}

#[test]
fn space_of_removed_values_is_used_again_with_the_background_flusher_as_the_collector() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    let on_disk = || fs::metadata(folder.path().join("db")).unwrap().blocks() * 512;
    let values = 4_000;
    for index in 1..=values {
        store.append(key(0, index, 0), &noise(VALUE_BYTES_MAX, index)).unwrap();
    }
    store.sync().unwrap();
    let full = on_disk();
    assert!(full >= values * VALUE_BYTES_MAX as u64);
    // Nine tenths go, and then the log writes three times as much as before while it keeps one tenth.
    let kept = values / 10;
    // In portions: what is removed at once goes from its end, page by page, and each page is written anew before any is used again.
    for index in (20..=values - kept).step_by(20) {
        store.remove(key(0, 1, 0), LogIndex(index)).unwrap();
        store.sync().unwrap();
    }
    for index in values + 1..=4 * values {
        store.append(key(0, index, 0), &noise(VALUE_BYTES_MAX, index)).unwrap();
        if index % 20 == 0 {
            store.remove(key(0, 1, 0), LogIndex(index - kept)).unwrap();
            store.sync().unwrap();
        }
        // Without that it would be four times as much in the end.
        assert!(on_disk() < full * 2, "{} bytes after {index} values, {full} when all {values} were kept", on_disk());
    }
}

#[test]
fn reading_splits_a_page_that_the_last_append_left_too_full_and_otherwise_changes_no_byte() {
    let config = |path: &Path| sled::Config::new().path(path).flush_every_ms(None);
    for is_visited in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        {
            let db = config(folder.path()).open().unwrap();
            for index in 1..=17 {
                db.insert(key(0, index, 0).encode(), noise(100, index)).unwrap();
            }
            if is_visited {
                assert!(db.contains_key(key(0, 17, 0).encode()).unwrap());
            }
        }
        // As it opens, it takes a picture of its page table.
        drop(config(folder.path()).open().unwrap());
        let file = || fs::read(folder.path().join("db")).unwrap();
        let before = file();
        for _ in 0..2 {
            let db = config(folder.path()).open().unwrap();
            assert_eq!(db.iter().keys().map(Result::unwrap).count(), 17);
        }
        assert_eq!(file() == before, is_visited);
    }
}

#[test]
fn a_picture_of_the_page_table_that_was_being_written_at_a_kill_keeps_sled_from_opening_but_not_a_store() {
    let folder = tempfile::tempdir().unwrap();
    for index in 1..=3 {
        let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
        store.append(key(0, index, 0), &noise(100, index)).unwrap();
        store.sync().unwrap();
    }
    let pictures = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap.")).collect::<Vec<_>>()
    };
    let finished = pictures();
    assert_eq!(finished.len(), 1);
    let newest = u64::from_str_radix(finished[0].extension().unwrap().to_str().unwrap(), 16).unwrap();
    for half in [&b""[..], &[7; 5], &[7; 500]] {
        let unfinished = folder.path().join(format!("snap.{:016X}.generating", newest + 1_000_000));
        fs::write(&unfinished, half).unwrap();
        assert!(sled::Config::new().path(folder.path()).flush_every_ms(None).open().is_err());
        let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
        assert_eq!(store.last_key(StreamId(0)).unwrap(), Some(key(0, 3, 0)));
        assert!(!unfinished.exists());
    }
}

#[test]
fn a_removal_goes_from_its_end_so_that_whatever_stops_it_leaves_no_hole() {
    const VALUES: u64 = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    for index in 1..=VALUES {
        store.append(key(0, index, 0), &noise(100, index)).unwrap();
    }
    let is_over = AtomicBool::new(false);
    let mut left_while_removing = 0;
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| {
            let removed = store.remove(key(0, 1, 0), LogIndex(VALUES));
            is_over.store(true, Ordering::Release);
            removed
        });
        while !is_over.load(Ordering::Acquire) {
            let last = store.last_key(StreamId(0)).unwrap();
            let mut first = None;
            store
                .scan(key(0, 0, 0), &mut |key, _| {
                    first = RecordKey::decode(key);
                    std::ops::ControlFlow::Break(())
                })
                .unwrap();
            // Looked at after the last one: with anything left the first is there.
            assert!(first.is_none_or(|first| first == key(0, 1, 0)), "{first:?} is the first of those that are left");
            left_while_removing += u64::from(last.is_some_and(|last| last.index < LogIndex(VALUES)));
        }
        assert_eq!(removal.join().unwrap().unwrap(), VALUES);
    });
    assert!(left_while_removing > 0, "nobody looked while it was under way");
    assert_eq!(store.last_key(StreamId(0)).unwrap(), None);
}

/// The descriptors of this process that are open on the store's file.
fn descriptors(path: &Path) -> Vec<PathBuf> {
    let file = fs::canonicalize(path.join("db")).unwrap();
    let mut descriptors: Vec<PathBuf> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|descriptor| fs::read_link(descriptor).is_ok_and(|target| target == file))
        .collect();
    descriptors.sort();
    descriptors
}

#[test]
fn syncs_go_through_one_descriptor_that_is_never_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    let opened = descriptors(folder.path());
    // sled's own, and the one for syncs.
    assert_eq!(opened.len(), 2);
    for index in 1..=1_000 {
        store.append(key(0, index, 0), &noise(VALUE_BYTES_MAX, index)).unwrap();
        if index % 100 == 0 {
            store.sync().unwrap();
            assert_eq!(descriptors(folder.path()), opened);
        }
    }
}

#[test]
fn a_store_that_is_dropped_can_be_opened_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for index in 1..=100 {
        let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
        assert_eq!(store.last_key(StreamId(0)).unwrap().map_or(0, |key| key.index.0), index - 1);
        store.append(key(0, index, 0), b"value").unwrap();
        store.sync().unwrap();
    }
}

#[test]
fn a_store_whose_file_stays_locked_is_waited_for_no_longer_than_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let first = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    let started = Instant::now();
    let error = SledStore::open(folder.path(), CACHE_BYTES).unwrap_err();
    assert_eq!(error.to_string(), "log store failed: its file stayed locked for 10 s");
    assert!(started.elapsed() >= tidegate_persistence::sled_store::LOCK_WAIT_MAX && started.elapsed() < PATIENCE);
    drop(first);
    SledStore::open(folder.path(), CACHE_BYTES).unwrap();
}

#[test]
fn opening_is_over_once_a_store_is_open() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!tidegate_persistence::sled_store::opening());
    let store = SledStore::open(folder.path(), CACHE_BYTES).unwrap();
    assert!(!tidegate_persistence::sled_store::opening());
    // Inside a scan, the visitor's panics are its own.
    store.append(key(0, 1, 0), b"value").unwrap();
    store
        .scan(key(0, 1, 0), &mut |_, _| {
            assert!(!tidegate_persistence::sled_store::opening());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
}
