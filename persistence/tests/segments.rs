//! The log as a row of segments: going on in a new one, opening again, and what a crash may leave.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{STREAM, Started, group, put, put_groups, small_segments, start_in};
use tidegate_persistence::recovery::replay;
use tidegate_persistence::{
    ChainHash, DamageKind, DataDirectory, Durability, GroupSequence, LogIndex, LogStore, OpenError, RecordKey, RecoveredStream,
    RecoveryError, RecoveryProgress, SegmentOptions, SegmentedLog, WalOptions,
};

const SEGMENT_BYTES: u64 = 64 * 1024;
const OPTIONS: SegmentOptions = SegmentOptions { cache_bytes: 1 << 20, segment_bytes_max: SEGMENT_BYTES };

/// More than any log here writes before it has the segments that it is to have.
const GROUPS_MAX: u64 = 20_000;

/// Groups `from` on, appended one by one until the log has `segments` segments that hold something. Returns the last.
fn write_segments(started: &Started, from: u64, segments: usize) -> u64 {
    let reader = started.wal.reader();
    for sequence in from..from + GROUPS_MAX {
        started.writer.append(STREAM, group(sequence, 60));
        started.ear.wait_committed(STREAM, sequence);
        if reader.segments().unwrap().iter().filter(|segment| !segment.last.is_empty()).count() >= segments {
            return sequence;
        }
    }
    panic!("{GROUPS_MAX} groups did not fill {segments} segments");
}

fn open(path: &Path) -> Result<DataDirectory, OpenError> {
    DataDirectory::open(path, &small_segments(SEGMENT_BYTES))
}

fn names(log: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn blobs(log: &Path) -> usize {
    names(log).iter().map(|name| fs::read_dir(log.join(name).join("blobs")).unwrap().count()).sum()
}

/// Everything in the directory, which is good.
fn all_payloads(path: &Path) -> (RecoveredStream, Vec<Vec<u8>>) {
    let directory = open(path).unwrap();
    common::payloads(&directory).unwrap()
}

fn check_groups(path: &Path, last: u64) {
    let (end, payloads) = all_payloads(path);
    assert_eq!((end.last_sequence, end.last_index), (GroupSequence(last), LogIndex(last)));
    for (sequence, payload) in (1..).zip(&payloads) {
        assert_eq!(*payload, group(sequence, 60).payload, "group {sequence}");
    }
    assert_eq!(payloads.len() as u64, last);
}

#[test]
fn a_log_goes_on_in_new_segments_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let started = start_in(open(folder.path()).unwrap(), WalOptions::default());
    let last = write_segments(&started, 1, 4);
    let segments = started.wal.reader().segments().unwrap();
    started.wal.stop().unwrap();
    // Each begins with the entry behind the last of the one before, and took at least what it was to take.
    let mut expected = 1;
    for (number, segment) in (1..).zip(segments.iter().take(4)) {
        assert_eq!(segment.number, number);
        assert_eq!(segment.first[&STREAM], (LogIndex(expected), GroupSequence(expected)));
        assert_eq!((segment.oldest_time, segment.newest_time), (common::at(expected), common::at(segment.last[&STREAM].0.0)));
        expected = segment.last[&STREAM].0.0 + 1;
        assert!(number == 4 || segment.bytes_on_disk >= SEGMENT_BYTES, "{segment:?}");
    }
    assert_eq!(expected, last + 1);
    check_groups(folder.path(), last);
    assert_eq!(blobs(&folder.path().join("log")), 0);
    // What is known without reading is the same after the log was opened again.
    let known = |segment: &tidegate_persistence::SegmentInfo| {
        (segment.number, segment.oldest_time, segment.newest_time, segment.first.clone(), segment.last.clone())
    };
    let again = open(folder.path()).unwrap().segments();
    assert_eq!(again.iter().take(4).map(known).collect::<Vec<_>>(), segments.iter().take(4).map(known).collect::<Vec<_>>());
}

#[test]
fn a_log_that_was_opened_again_appends_to_its_newest_segment_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for segments in 2..=5 {
        let started = start_in(open(folder.path()).unwrap(), WalOptions::default());
        assert_eq!(started.end.last_sequence.0, last);
        last = write_segments(&started, last + 1, segments);
        started.wal.stop().unwrap();
        check_groups(folder.path(), last);
    }
}

#[test]
fn a_log_of_any_durability_goes_on_in_new_segments() {
    for durability in [Durability::ProcessCrash, Durability::None] {
        let folder = tempfile::tempdir().unwrap();
        let started = start_in(open(folder.path()).unwrap(), WalOptions { durability, ..WalOptions::default() });
        let last = write_segments(&started, 1, 3);
        started.wal.stop().unwrap();
        check_groups(folder.path(), last);
    }
}

/// A log of groups 1 to 30 in segments of ten, none of which was ever synced by a log's thread.
fn three_segments(log: &Path) -> ChainHash {
    let mut chain = ChainHash::GENESIS;
    for number in 0..3 {
        let store = SegmentedLog::open(log, SegmentOptions { segment_bytes_max: 1, ..OPTIONS }).unwrap();
        if number > 0 {
            next_segment(&store);
        }
        chain = put_groups(&store, STREAM, number * 10 + 1, number * 10 + 10, 3, chain);
        store.sync().unwrap();
    }
    chain
}

/// Has `store` go on in its next segment, as soon as that is made.
fn next_segment(store: &SegmentedLog) {
    let newest = |store: &SegmentedLog| store.segments().iter().filter(|segment| !segment.last.is_empty()).count();
    let (before, prepared) = (newest(store), store.segments().len());
    // The first call has it made on another thread; nobody can wait for that but by looking.
    for _ in 0..GROUPS_MAX {
        store.between_groups().unwrap();
        if store.segments().len() > prepared.max(before) || prepared > before {
            store.between_groups().unwrap();
            return;
        }
        std::thread::yield_now();
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    panic!("no next segment was made");
}

fn recover(log: &Path) -> Result<RecoveredStream, RecoveryError> {
    let store = SegmentedLog::open(log, OPTIONS).unwrap();
    replay(&store, STREAM, None, None, &RecoveryProgress::default(), &mut |_| Ok(()))
}

#[test]
fn an_empty_newest_segment_is_as_if_it_were_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let chain = three_segments(folder.path());
    {
        let store = SegmentedLog::open(folder.path(), SegmentOptions { segment_bytes_max: 1, ..OPTIONS }).unwrap();
        next_segment(&store);
    }
    assert!(names(folder.path()).len() >= 4);
    assert_eq!(recover(folder.path()).unwrap().last_index, LogIndex(30));
    // What is appended is found behind what was there, wherever it goes.
    let store = SegmentedLog::open(folder.path(), OPTIONS).unwrap();
    put_groups(&store, STREAM, 31, 40, 3, chain);
    store.sync().unwrap();
    drop(store);
    assert_eq!(recover(folder.path()).unwrap().last_index, LogIndex(40));
}

#[test]
fn an_unfinished_group_at_the_end_of_the_newest_segment_that_holds_anything_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let started = start_in(open(folder.path()).unwrap(), WalOptions::default());
    let last = write_segments(&started, 1, 3);
    started.wal.stop().unwrap();
    let log = folder.path().join("log");
    let chain = open(folder.path()).unwrap().replay(STREAM, |_| Ok(())).unwrap().last_chain;
    {
        let store = SegmentedLog::open(&log, OPTIONS).unwrap();
        put(&store, STREAM, last + 1, &group(last + 1, 200), chain, 600, 0..4);
        store.sync().unwrap();
        // An empty segment behind it, as a crash leaves one that was just made.
        drop(store);
        let next = names(&log).len() + 1;
        drop(tidegate_persistence::SledStore::open(&log.join(format!("{next:010}")), 1 << 20).unwrap());
    }
    let started = start_in(open(folder.path()).unwrap(), WalOptions::default());
    assert_eq!((started.end.last_sequence.0, started.end.discarded_tail_parts), (last, 4));
    let last = write_segments(&started, last + 1, 4);
    started.wal.stop().unwrap();
    check_groups(folder.path(), last);
}

#[test]
fn what_an_unfinished_preparation_or_removal_left_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    three_segments(folder.path());
    let made = names(folder.path());
    for leftover in ["0000000004.new", "0000000001.removed"] {
        let leftover = folder.path().join(leftover);
        fs::create_dir_all(leftover.join("blobs")).unwrap();
        fs::write(leftover.join("db"), b"half a file").unwrap();
    }
    assert_eq!(recover(folder.path()).unwrap().last_index, LogIndex(30));
    assert_eq!(names(folder.path()), made);
}

#[test]
fn what_is_no_row_of_segments_is_refused_with_its_place() {
    let place = |damage: &dyn Fn(&Path) -> PathBuf| {
        let folder = tempfile::tempdir().unwrap();
        three_segments(folder.path());
        let place = damage(folder.path());
        match SegmentedLog::open(folder.path(), OPTIONS) {
            Err(OpenError::Damaged { place: found, what }) => {
                assert_eq!(found, place);
                what
            }
            other => panic!("{other:?}"),
        }
    };
    let gone = place(&|log| {
        fs::remove_dir_all(log.join("0000000002")).unwrap();
        log.join("0000000002")
    });
    assert_eq!(gone, "it is missing between others");
    let stranger = place(&|log| {
        fs::write(log.join("db"), b"").unwrap();
        log.join("db")
    });
    assert_eq!(stranger, "it is no segment of a log");
    let without_file = place(&|log| {
        fs::remove_file(log.join("0000000003/db")).unwrap();
        log.join("0000000003")
    });
    assert_eq!(without_file, "its file db is missing");
}

#[test]
fn a_segment_that_lost_its_end_is_damage_where_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    three_segments(folder.path());
    let store = SegmentedLog::open(folder.path(), OPTIONS).unwrap();
    assert_eq!(store.remove(RecordKey { stream: STREAM, index: LogIndex(18), part: 0 }, LogIndex(20)).unwrap(), 3);
    store.sync().unwrap();
    drop(store);
    match recover(folder.path()) {
        Err(RecoveryError::Damage(damage)) => {
            assert_eq!((damage.index, damage.what), (LogIndex(21), DamageKind::Hole { expected: LogIndex(18) }));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_removal_and_a_scan_go_over_all_segments() {
    let folder = tempfile::tempdir().unwrap();
    three_segments(folder.path());
    let store = SegmentedLog::open(folder.path(), OPTIONS).unwrap();
    let indexes = |from: u64| {
        let mut indexes = Vec::new();
        store
            .scan(RecordKey { stream: STREAM, index: LogIndex(from), part: 0 }, &mut |key, _| {
                indexes.push(RecordKey::decode(key).unwrap().index.0);
                ControlFlow::Continue(())
            })
            .unwrap();
        indexes
    };
    assert_eq!(indexes(0), (1..=30).collect::<Vec<_>>());
    for from in 1..=30 {
        assert_eq!(indexes(from), (from..=30).collect::<Vec<_>>());
    }
    assert!(indexes(31).is_empty());
    assert_eq!(store.remove(RecordKey { stream: STREAM, index: LogIndex(9), part: 0 }, LogIndex(22)).unwrap(), 14);
    assert_eq!(indexes(0), (1..=8).chain(23..=30).collect::<Vec<_>>());
    let last = |segment: usize| store.segments()[segment].last.get(&STREAM).map(|(index, _)| index.0);
    assert_eq!((last(0), last(1), last(2)), (Some(8), None, Some(30)));
    assert_eq!(store.last_key(STREAM).unwrap().unwrap().index, LogIndex(30));
    assert_eq!(store.streams().unwrap(), [STREAM]);
}
