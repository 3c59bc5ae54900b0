//! Sealed segments: what was left is closed, known without being opened, opened to be read, and never changed by that.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{PATIENCE, STREAM, Started, group, small_segments, start_in};
use tidegate_persistence::segments::SEALED_OPEN_MAX;
use tidegate_persistence::{
    ChainHash, DamageKind, DataDirectory, GroupSequence, LogIndex, LogReader, LogStore, RecordKey, RecoveryError, SegmentInfo,
    SegmentOptions, SegmentedLog, StreamId, WalOptions,
};

const SEGMENT_BYTES: u64 = 64 * 1024;
const OPTIONS: SegmentOptions = SegmentOptions { cache_bytes: 1 << 20, segment_bytes_max: SEGMENT_BYTES };
const GROUPS_MAX: u64 = 20_000;

fn open(path: &Path) -> DataDirectory {
    DataDirectory::open(path, &small_segments(SEGMENT_BYTES)).unwrap()
}

fn folder_of(log: &Path, number: u64) -> PathBuf {
    log.join(format!("{number:010}"))
}

/// Looks again and again until `is_so`; nobody tells when the row's own thread is done.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn holding(segments: Vec<SegmentInfo>) -> Vec<SegmentInfo> {
    segments.into_iter().filter(|segment| !segment.last.is_empty()).collect()
}

/// What does not depend on when a file was measured.
fn known(segments: Vec<SegmentInfo>) -> Vec<SegmentInfo> {
    holding(segments).into_iter().map(|segment| SegmentInfo { bytes_on_disk: 0, ..segment }).collect()
}

/// Writes groups until `segments` segments hold something, and waits until those that were left are sealed. Returns the last group.
fn write_sealed(started: &Started, log: &Path, segments: usize) -> u64 {
    let from = started.end.last_sequence.0 + 1;
    for sequence in from..from + GROUPS_MAX {
        started.writer.append(STREAM, group(sequence, 60));
        started.ear.wait_committed(STREAM, sequence);
        let there = holding(started.wal.reader().segments().unwrap());
        if there.len() >= segments {
            wait_until("a seal", || there[..segments - 1].iter().all(|segment| is_sealed(log, segment.number)));
            return sequence;
        }
    }
    panic!("{GROUPS_MAX} groups did not fill {segments} segments");
}

fn is_sealed(log: &Path, number: u64) -> bool {
    folder_of(log, number).join("sealed").exists()
}

/// The segments of `log` whose stores this process has open.
fn open_segments(log: &Path) -> BTreeSet<u64> {
    let log = fs::canonicalize(log).unwrap();
    let number = |target: PathBuf| -> Option<u64> {
        let folder = target.strip_prefix(&log).ok()?.to_owned();
        (folder.file_name()? == "db").then(|| folder.parent()?.to_str()?.parse().ok())?
    };
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter_map(number)
        .collect()
}

/// Every file below `path` with its bytes, without the zeros at its end: as it opens, sled cuts off parts of `db` that nothing is in any
/// more, and puts zeros there.
fn bytes_of(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(bytes_of(&path));
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            files.insert(path, bytes);
        }
    }
    files
}

fn read(reader: &LogReader, from: u64, up_to: u64) {
    let mut next = from;
    reader
        .read_groups(STREAM, GroupSequence(from), GroupSequence(up_to), |found| {
            assert_eq!((found.sequence.0, found.payload), (next, &group(next, 60).payload[..]));
            next += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(next, up_to + 1);
}

#[test]
fn segments_that_were_left_are_closed_and_known_without_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    let last = write_sealed(&started, &log, 5);
    let segments = known(started.wal.reader().segments().unwrap());
    let newest = segments.last().unwrap().number;
    assert!(open_segments(&log).iter().all(|number| *number >= newest), "{:?}", open_segments(&log));
    started.wal.stop().unwrap();
    assert!(open_segments(&log).is_empty());

    let directory = open(folder.path());
    assert_eq!(known(directory.segments()), segments);
    assert_eq!(directory.streams().unwrap(), [STREAM]);
    assert!(open_segments(&log).iter().all(|number| *number >= newest), "{:?}", open_segments(&log));
    // A replay opens one after the other, and keeps the last few.
    let mut most = 0;
    let end = directory.replay(STREAM, |_| {
        most = most.max(open_segments(&log).iter().filter(|number| **number < newest).count());
        Ok(())
    });
    assert_eq!(end.unwrap().last_sequence.0, last);
    assert!((1..=SEALED_OPEN_MAX).contains(&most), "{most}");
    // They close when nobody reads them any more.
    wait_until("the end of reading", || open_segments(&log).iter().all(|number| *number >= newest));
}

#[test]
fn a_seal_that_is_missing_or_damaged_is_made_again_from_what_the_segment_holds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    let last = write_sealed(&started, &log, 4);
    started.wal.stop().unwrap();
    let segments = known(open(folder.path()).segments());
    let seal = |number| folder_of(&log, number).join("sealed");
    let (second, third) = (fs::read(seal(2)).unwrap(), fs::read(seal(3)).unwrap());
    let mut flipped = second.clone();
    flipped[30] ^= 4;
    let bad: [(&str, Option<&[u8]>); 5] = [
        ("missing", None),
        ("empty", Some(&[])),
        ("cut short", Some(&second[..second.len() - 1])),
        ("flipped", Some(&flipped)),
        ("of another segment", Some(&third)),
    ];
    for (what, bytes) in bad {
        match bytes {
            None => fs::remove_file(seal(2)).unwrap(),
            Some(bytes) => fs::write(seal(2), bytes).unwrap(),
        }
        let directory = open(folder.path());
        assert_eq!(known(directory.segments()), segments, "{what}");
        assert_eq!(directory.replay(STREAM, |_| Ok(())).unwrap().last_sequence.0, last, "{what}");
        let again = fs::read(seal(2)).unwrap();
        // Apart from how many bytes count against its bound, which after an opening is what it takes on the disk.
        assert_eq!((again.len(), &again[..12], &again[28..44]), (second.len(), &second[..12], &second[28..44]), "{what}");
    }
}

#[test]
fn a_sealed_segment_that_is_the_newest_again_takes_more() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path();
    let mut chain = ChainHash::GENESIS;
    {
        let store = SegmentedLog::open(log, SegmentOptions { segment_bytes_max: 1, ..OPTIONS }).unwrap();
        chain = common::put_groups(&store, STREAM, 1, 10, 3, chain);
        store.sync().unwrap();
        // It goes on in the next segment, and power is lost before anything is in there.
        wait_until("a seal", || {
            store.between_groups().unwrap();
            is_sealed(log, 1)
        });
    }
    let store = SegmentedLog::open(log, OPTIONS).unwrap();
    assert!(!is_sealed(log, 1));
    common::put_groups(&store, STREAM, 11, 20, 3, chain);
    store.sync().unwrap();
    drop(store);
    let store = SegmentedLog::open(log, OPTIONS).unwrap();
    assert_eq!(holding(store.segments())[0].last[&STREAM], (LogIndex(20), GroupSequence(20)));
    assert_eq!(holding(store.segments()).len(), 1);
}

/// A row of three segments at `log`, the first two sealed, with values of so many bytes for each of so many streams. In the middle of each
/// segment an unfinished group of the first stream is removed.
fn sealed_row(log: &Path, streams: u16, values: u64, bytes: usize) {
    let store = SegmentedLog::open(log, SegmentOptions { segment_bytes_max: 1, ..OPTIONS }).unwrap();
    for round in 0..3 {
        for index in 1..=values {
            if index == 1 + values / 2 {
                let place = |part| RecordKey { stream: StreamId::log(0), index: LogIndex(round * values + index), part };
                (0..30).for_each(|part| store.append(place(part), &[7; 200]).unwrap());
                assert_eq!(store.remove(place(0), place(0).index).unwrap(), 30);
            }
            for stream in 0..streams {
                let key = RecordKey { stream: StreamId::log(stream), index: LogIndex(round * values + index), part: 0 };
                store.append(key, &vec![u8::try_from(index % 251).unwrap(); bytes]).unwrap();
            }
        }
        store.sync().unwrap();
        if round < 2 {
            wait_until("a seal", || {
                store.between_groups().unwrap();
                is_sealed(log, round + 1)
            });
        }
    }
}

#[test]
fn reading_a_sealed_segment_changes_no_byte_of_it() {
    // Pages that are full, over-full and nearly empty at the end of each stream; parts of sled's file that end anywhere.
    let pages =
        (15..=19).map(|values| (3, values, 100)).chain([(1, 1, 1), (1, 400, 700), (1, 85, 6_144), (2, 2_500, 900), (5, 33, 6_000)]);
    let ends = (0..24).map(|number| (1, 82 + number / 8, 5_983 + 7 * usize::try_from(number).unwrap()));
    for (streams, values, bytes) in pages.chain(ends) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path();
        sealed_row(log, streams, values, bytes);
        let before = [1, 2].map(|number| bytes_of(&folder_of(log, number)));
        for round in 0..3 {
            let store = SegmentedLog::open(log, OPTIONS).unwrap();
            for stream in (0..streams).map(StreamId::log) {
                for from in [0, values, values + 1, 1 + values / 2, 2 * values] {
                    let mut next = from.max(1);
                    store
                        .scan(RecordKey { stream, index: LogIndex(from), part: 0 }, &mut |key, value| {
                            assert_eq!((RecordKey::decode(key).unwrap().index.0, value.len()), (next, bytes));
                            next += 1;
                            ControlFlow::Continue(())
                        })
                        .unwrap();
                    assert_eq!(next, 3 * values + 1);
                }
                assert_eq!(store.last_key(stream).unwrap().unwrap().index.0, 3 * values);
            }
            drop(store);
            for (number, before) in (1..).zip(&before) {
                let after = bytes_of(&folder_of(log, number));
                let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
                assert_eq!(names(&after), names(before));
                assert!(after == *before, "{streams} streams of {values} values of {bytes} bytes, segment {number}, round {round}");
            }
        }
    }
}

/// Bytes of a part of sled's file, and of what it begins with.
const PART_BYTES: u64 = 512 * 1024;
const PART_HEADER_BYTES: u64 = 20;

/// Where the part of `db` begins that sled wrote last: the one with the highest position in its header.
fn newest_part(db: &fs::File) -> u64 {
    let position = |at: &u64| {
        let mut bytes = [0; 8];
        db.read_exact_at(&mut bytes, at + 4).unwrap();
        // Those that are free are zeros.
        if bytes == [0; 8] { -1 } else { i64::from_le_bytes(bytes) ^ i64::MAX }
    };
    (0..db.metadata().unwrap().len()).step_by(usize::try_from(PART_BYTES).unwrap()).max_by_key(position).unwrap()
}

#[test]
fn damage_of_a_sealed_segment_is_found_where_it_is_read_unless_sled_would_overwrite_it() {
    let (values, bytes) = (2_500, 900);
    for is_in_newest_part in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path();
        sealed_row(log, 1, values, bytes);
        let segment = folder_of(log, 1);
        let db = fs::OpenOptions::new().read(true).write(true).open(segment.join("db")).unwrap();
        let (newest, length) = (newest_part(&db), db.metadata().unwrap().len());
        assert!(length > 3 * PART_BYTES, "{length}");
        // One byte of what was written last, or all other parts: nobody can tell which of them hold anything that is still read.
        for part in (0..length).step_by(usize::try_from(PART_BYTES).unwrap()).filter(|part| (*part == newest) == is_in_newest_part)
        {
            let (from, to) = if is_in_newest_part { (1_000, 1_001) } else { (PART_HEADER_BYTES, PART_BYTES.min(length - part)) };
            let mut damage = vec![0; usize::try_from(to.saturating_sub(from)).unwrap()];
            db.read_exact_at(&mut damage, part + from).unwrap();
            for byte in &mut damage {
                *byte ^= 1;
            }
            db.write_all_at(&damage, part + from).unwrap();
        }
        let before = bytes_of(&segment);
        let store = SegmentedLog::open(log, OPTIONS).unwrap();
        let scan = |from| {
            let mut found = 0;
            let result = store.scan(RecordKey { stream: STREAM, index: LogIndex(from), part: 0 }, &mut |_, _| {
                found += 1;
                ControlFlow::Continue(())
            });
            (found, result.map_err(|error| error.to_string()))
        };
        let is_sealed = |result: &Result<(), String>| {
            result.as_ref().is_err_and(|error| error.starts_with("log store is damaged: segment 1 is not what was sealed;"))
        };
        if is_in_newest_part {
            for from in [0, values] {
                let (found, result) = scan(from);
                assert!(found == 0 && is_sealed(&result), "{found} {result:?}");
            }
        } else {
            let (found, result) = scan(0);
            assert!(found < values && result.is_err() && !is_sealed(&result), "{found} {result:?}");
        }
        // The others are as they were.
        assert_eq!(scan(values + 1), (2 * values, Ok(())));
        drop(store);
        // Other parts that hold nothing sled fills with zeros.
        assert!(!is_in_newest_part || bytes_of(&segment) == before);
    }
}

#[test]
fn a_replay_names_the_place_of_a_segment_that_is_not_what_was_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    write_sealed(&started, &log, 3);
    started.wal.stop().unwrap();
    let db = fs::OpenOptions::new().read(true).write(true).open(folder_of(&log, 2).join("db")).unwrap();
    db.write_all_at(b"xxxx", newest_part(&db) + 1_000).unwrap();
    let directory = open(folder.path());
    match directory.replay(STREAM, |_| Ok(())) {
        Err(RecoveryError::Damage(damage)) => {
            assert_eq!(damage.index, directory.segments()[1].first[&STREAM].0);
            assert!(
                matches!(&damage.what, DamageKind::Store(what) if what.starts_with("segment 2 is not what was sealed;")),
                "{damage}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(directory);
    // Without its seal it is opened as it is, and sled finds what it finds.
    fs::remove_file(folder_of(&log, 2).join("sealed")).unwrap();
    let opened = DataDirectory::open(folder.path(), &small_segments(SEGMENT_BYTES));
    assert!(opened.is_err() || opened.unwrap().replay(STREAM, |_| Ok(())).is_err());
}

#[test]
fn whoever_reads_in_pages_opens_a_segment_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    let last = write_sealed(&started, &log, 6);
    let reader = started.wal.reader();
    let segments = holding(reader.segments().unwrap());
    let (first, end) = (segments[1].first[&STREAM].1.0, segments[1].last[&STREAM].1.0);
    // Opening it writes the same bytes over the end of its file again, which shows in the file's time.
    let changed = || fs::metadata(folder_of(&log, 2).join("db")).map(|file| (file.ctime(), file.ctime_nsec())).unwrap();
    let never_opened = changed();
    read(&reader, first, first);
    let opened = changed();
    assert_ne!(opened, never_opened);
    for page in 0..200 {
        let from = first + page % (end - first);
        read(&reader, from, from + 1);
    }
    assert_eq!(changed(), opened);
    assert!(open_segments(&log).contains(&2));
    // Two others take its place.
    read(&reader, segments[2].first[&STREAM].1.0, segments[4].last[&STREAM].1.0);
    assert!(!open_segments(&log).contains(&2), "{:?}", open_segments(&log));
    let sealed = |number: &&u64| **number < segments.last().unwrap().number;
    assert!(open_segments(&log).iter().filter(sealed).count() <= SEALED_OPEN_MAX);
    read(&reader, first, end);
    assert_ne!(changed(), opened);
    read(&reader, 1, last);
    started.wal.stop().unwrap();
    assert!(open_segments(&log).is_empty());
}

#[test]
fn many_read_the_same_and_different_sealed_segments_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    let last = write_sealed(&started, &log, 5);
    let readers = 8;
    let barrier = Barrier::new(readers);
    std::thread::scope(|scope| {
        for number in 0..readers as u64 {
            let (reader, barrier) = (started.wal.reader(), &barrier);
            scope.spawn(move || {
                for round in 0..5 {
                    barrier.wait();
                    read(&reader, if (number + round) % 2 == 0 { 1 } else { 1 + last * number / readers as u64 }, last);
                }
            });
        }
    });
    started.wal.stop().unwrap();
}

#[test]
fn a_compaction_does_not_wait_for_segments_that_only_stayed_open() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start_in(open(folder.path()), WalOptions::default());
    let last = write_sealed(&started, &log, 4);
    let reader = started.wal.reader();
    let segments = holding(reader.segments().unwrap());
    read(&reader, 1, segments[1].last[&STREAM].1.0);
    assert_eq!(open_segments(&log).range(..3).count(), 2);
    let keep_from = BTreeMap::from([(STREAM, segments[3].first[&STREAM].0)]);
    assert_eq!(reader.compact(&keep_from).unwrap().segments, 3);
    assert!((1..=3).all(|number| !folder_of(&log, number).exists()));
    read(&reader, segments[3].first[&STREAM].1.0, last);
    started.wal.stop().unwrap();
}
