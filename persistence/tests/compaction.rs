//! Compaction: whole segments go, their space comes back, and whatever a crash leaves of it opens.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{STREAM, Started, group, small_segments, start_in};
use tidegate_persistence::{
    DamageKind, DataDirectory, GroupSequence, LogIndex, LogPosition, ReadError, RecoveryError, SegmentInfo, StreamId, WalOptions,
};

const OTHER: StreamId = StreamId::log(1);
const SEGMENT_BYTES: u64 = 256 * 1024;
const GROUPS_MAX: u64 = 20_000;

fn open(path: &Path) -> DataDirectory {
    let mut options = small_segments(SEGMENT_BYTES);
    options.identity.shards = Some(2);
    DataDirectory::open(path, &options).unwrap()
}

fn start(path: &Path) -> Started {
    start_in(open(path), WalOptions::default())
}

fn holding(segments: Vec<SegmentInfo>) -> Vec<SegmentInfo> {
    segments.into_iter().filter(|segment| !segment.last.is_empty()).collect()
}

/// Writes groups from 1 on until `segments` segments hold something; returns the last.
fn write_segments(started: &Started, segments: usize) -> u64 {
    let from = started.end.last_sequence.0 + 1;
    for sequence in from..from + GROUPS_MAX {
        started.writer.append(STREAM, group(sequence, 100));
        started.ear.wait_committed(STREAM, sequence);
        if holding(started.wal.reader().segments().unwrap()).len() >= segments {
            return sequence;
        }
    }
    panic!("{GROUPS_MAX} groups did not fill {segments} segments");
}

fn keep(index: u64) -> BTreeMap<StreamId, LogIndex> {
    BTreeMap::from([(STREAM, LogIndex(index))])
}

/// Bytes that the files below `path` take on the disk.
fn disk_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(|entry| if entry.path().is_dir() { disk_bytes(&entry.path()) } else { entry.metadata().unwrap().blocks() * 512 })
        .sum()
}

fn names(log: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn position(started: &Started, sequence: u64) -> LogPosition {
    started.wal.reader().position(STREAM, GroupSequence(sequence)).unwrap().unwrap()
}

#[test]
fn compaction_gives_the_space_of_whole_segments_back_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let started = start(folder.path());
    let reader = started.wal.reader();
    let last = write_segments(&started, 6);
    let segments = holding(reader.segments().unwrap());
    let at = segments[3].first[&STREAM].0.0 + 1;
    let snapshot = position(&started, at - 1);
    let (before, size) = (disk_bytes(&log), reader.size().unwrap());
    let leaving: u64 = names(&log)[..3].iter().map(|name| disk_bytes(&log.join(name))).sum();
    assert_eq!(size.oldest_time, Some(common::at(1)));
    // The fourth segment holds an entry that is kept, so three go.
    let compacted = reader.compact(&keep(at)).unwrap();
    assert_eq!(compacted.segments, 3);
    let freed = before.saturating_sub(disk_bytes(&log));
    assert!(leaving >= 3 * SEGMENT_BYTES && compacted.bytes.abs_diff(leaving) < SEGMENT_BYTES, "{leaving} bytes, {compacted:?}");
    // Meanwhile the log's thread may have made another segment, of a mebibyte at most.
    assert!(freed + (1 << 20) >= leaving, "{freed} bytes freed of {leaving}");
    assert_eq!(names(&log)[0], "0000000004");
    let after = reader.size().unwrap();
    assert!(after.segments + 3 >= size.segments && after.bytes_on_disk < size.bytes_on_disk, "{size:?} before, {after:?} after");
    assert_eq!(after.oldest_time, Some(segments[3].oldest_time));
    let oldest = segments[3].first[&STREAM];
    assert_eq!(reader.oldest(STREAM).unwrap(), Some(oldest));
    assert_eq!(reader.compact(&keep(at)).unwrap().segments, 0);
    // What went is named as gone, what stayed is there.
    let gone = reader.read_groups(STREAM, GroupSequence(oldest.1.0 - 1), GroupSequence(last), |_| ControlFlow::Continue(()));
    assert!(matches!(gone, Err(ReadError::Compacted { oldest: Some(found), .. }) if found == oldest.1), "{gone:?}");
    let mut read = 0;
    reader
        .read_groups(STREAM, oldest.1, GroupSequence(last), |found| {
            assert_eq!(found.payload, group(found.sequence.0, 100).payload);
            read += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(read, last + 1 - oldest.1.0);
    started.wal.stop().unwrap();
    let blobs = names(&log).iter().map(|name| fs::read_dir(log.join(name).join("blobs")).unwrap().count()).sum::<usize>();
    assert_eq!(blobs, 0);

    // Opened again it goes on from the snapshot, and only from there.
    let directory = open(folder.path());
    match directory.replay(STREAM, |_| Ok(())) {
        Err(RecoveryError::Damage(damage)) => {
            assert_eq!((damage.index, damage.what), (oldest.0, DamageKind::Hole { expected: LogIndex(1) }));
        }
        other => panic!("{other:?}"),
    }
    let mut expected = at;
    let end = directory
        .replay_from(STREAM, Some(&snapshot), |found| {
            assert_eq!(found.sequence.0, expected);
            expected += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((end.last_sequence.0, end.groups), (last, last + 1 - at));
    // Whoever looks without a snapshot takes the oldest entry's predecessor on trust.
    let mut checked = 0;
    let end = directory.check_from_oldest(STREAM, |found| {
        checked += 1;
        assert_eq!(found.sequence.0, oldest.1.0 + checked - 1);
        Ok(())
    });
    assert_eq!((end.unwrap().last_sequence.0, checked), (last, last + 1 - oldest.1.0));
}

#[test]
fn the_segment_that_is_written_and_streams_that_are_not_named_stay() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(folder.path());
    let tails = [STREAM, OTHER].map(|stream| directory.replay(stream, |_| Ok(())).unwrap());
    let (listener, ear) = common::listener();
    let wal = tidegate_persistence::Wal::start(directory, tails, WalOptions::default(), listener).unwrap();
    let reader = wal.reader();
    let other_first = 5;
    let mut last = 0;
    for sequence in 1..=GROUPS_MAX {
        wal.writer().append(STREAM, group(sequence, 100));
        ear.wait_committed(STREAM, sequence);
        if holding(reader.segments().unwrap()).len() >= 2 && last == 0 {
            // The other stream has its entries in the second segment.
            for number in 1..=other_first {
                wal.writer().append(OTHER, group(number, 1));
            }
            ear.wait_committed(OTHER, other_first);
            last = sequence;
        }
        if holding(reader.segments().unwrap()).len() >= 4 {
            last = sequence;
            break;
        }
    }
    assert_eq!(reader.compact(&BTreeMap::new()).unwrap().segments, 0);
    // The first holds nothing of the other stream, whose entries nobody gave free.
    assert_eq!(reader.compact(&keep(u64::MAX)).unwrap().segments, 1);
    assert_eq!(reader.oldest(OTHER).unwrap(), Some((LogIndex(1), GroupSequence(1))));
    let all = BTreeMap::from([(STREAM, LogIndex(u64::MAX)), (OTHER, LogIndex(u64::MAX))]);
    assert!(reader.compact(&all).unwrap().segments >= 2);
    assert_eq!(reader.oldest(OTHER).unwrap(), None);
    let gone = reader.read_groups(OTHER, GroupSequence(1), GroupSequence(other_first), |_| ControlFlow::Continue(()));
    assert!(matches!(gone, Err(ReadError::Compacted { oldest: None, .. })), "{gone:?}");
    assert!(holding(reader.segments().unwrap()).len() <= 1);
    // The log goes on, the idle stream too.
    wal.writer().append(OTHER, group(other_first + 1, 1));
    ear.wait_committed(OTHER, other_first + 1);
    wal.writer().append(STREAM, group(last + 1, 1));
    ear.wait_committed(STREAM, last + 1);
    wal.stop().unwrap();
}

#[test]
fn a_stream_of_which_nothing_is_left_goes_on_from_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(folder.path());
    let tails = [STREAM, OTHER].map(|stream| directory.replay(stream, |_| Ok(())).unwrap());
    let (listener, ear) = common::listener();
    let wal = tidegate_persistence::Wal::start(directory, tails, WalOptions::default(), listener).unwrap();
    let reader = wal.reader();
    wal.writer().append(OTHER, group(1, 1));
    ear.wait_committed(OTHER, 1);
    let snapshot = reader.position(OTHER, GroupSequence(1)).unwrap();
    for sequence in 1..=GROUPS_MAX {
        wal.writer().append(STREAM, group(sequence, 100));
        ear.wait_committed(STREAM, sequence);
        if holding(reader.segments().unwrap()).len() >= 2 {
            break;
        }
    }
    let all = BTreeMap::from([(STREAM, LogIndex(u64::MAX)), (OTHER, LogIndex(2))]);
    assert_eq!(reader.compact(&all).unwrap().segments, 1);
    wal.stop().unwrap();
    let directory = open(folder.path());
    let end = directory.replay_from(OTHER, snapshot.as_ref(), |_| Ok(())).unwrap();
    assert_eq!((end.position(), end.groups), (snapshot.unwrap(), 0));
    assert_eq!(directory.check_from_oldest(OTHER, |_| Ok(())).unwrap().groups, 0);
    // An older snapshot lacks what was acknowledged behind it, and the sidecar knows.
    match directory.replay_from(OTHER, None, |_| Ok(())) {
        Err(RecoveryError::Damage(damage)) => {
            assert_eq!(damage.what, DamageKind::EndsBelowDurable { durable: LogIndex(1) });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_crash_at_any_step_of_a_compaction_leaves_a_log_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let started = start(folder.path());
    let last = write_segments(&started, 4);
    let segments = holding(started.wal.reader().segments().unwrap());
    let snapshot = position(&started, segments[2].first[&STREAM].1.0 - 1);
    started.wal.stop().unwrap();
    let log = folder.path().join("log");
    let removed = log.join("0000000001.removed");
    let steps: [(&str, &dyn Fn()); 5] = [
        ("before anything", &|| {}),
        ("the oldest is renamed", &|| fs::rename(log.join("0000000001"), &removed).unwrap()),
        ("it is half deleted", &|| {
            let _ = fs::rename(log.join("0000000002"), log.join("0000000002.removed"));
            fs::remove_file(log.join("0000000002.removed/db")).unwrap();
        }),
        ("an empty folder is left of it", &|| fs::create_dir(&removed).unwrap()),
        ("nothing is left of it", &|| {}),
    ];
    for (what, step) in steps {
        step();
        let directory = open(folder.path());
        let end = directory.replay_from(STREAM, Some(&snapshot), |_| Ok(())).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(end.last_sequence.0, last, "{what}");
        assert!(!names(&log).iter().any(|name| name.contains('.')), "{what}: {:?}", names(&log));
    }
    assert_eq!(names(&log)[0], "0000000003");
}

#[test]
fn a_scan_that_runs_while_its_segment_is_compacted_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let started = start(folder.path());
    let last = write_segments(&started, 3);
    let reader = started.wal.reader();
    let (entered, inside) = std::sync::mpsc::channel();
    let (go_on, waiting) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let (slow, fast) = (reader.clone(), reader.clone());
        let reading = scope.spawn(move || {
            let mut sequences = Vec::new();
            slow.read_groups(STREAM, GroupSequence(1), GroupSequence(last), |group| {
                if sequences.is_empty() {
                    entered.send(()).unwrap();
                    waiting.recv_timeout(common::PATIENCE).unwrap();
                }
                sequences.push(group.sequence.0);
                ControlFlow::Continue(())
            })
            .map(|()| sequences)
        });
        inside.recv_timeout(common::PATIENCE).unwrap();
        let compacting = scope.spawn(move || fast.compact(&keep(u64::MAX)).unwrap());
        // For new readers the segments are gone at once; the log takes groups meanwhile.
        for _ in 0..10_000 {
            if reader.segments().unwrap()[0].number > 1 {
                break;
            }
            std::thread::yield_now();
        }
        started.writer.append(STREAM, group(last + 1, 1));
        started.ear.wait_committed(STREAM, last + 1);
        go_on.send(()).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), (1..=last).collect::<Vec<_>>());
        assert!(compacting.join().unwrap().segments >= 2);
    });
    started.wal.stop().unwrap();
    assert_eq!(names(&folder.path().join("log")).iter().filter(|name| name.as_str() < "0000000003").count(), 0);
}
