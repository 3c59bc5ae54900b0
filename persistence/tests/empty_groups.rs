//! Groups without events: written, recovered, read and copied like any other, and enough for a stream to stay in a log that is compacted.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use common::{Ear, STREAM, group, listener, small_segments};
use tidegate_persistence::{
    ArchiveWriter, DataDirectory, GroupSequence, LogIndex, LogPosition, LogReader, Piece, RecoveredGroup, RecoveredStream,
    StreamId, Wal, WalOptions, restore,
};

/// The stream that nothing happens in.
const IDLE: StreamId = StreamId::log(1);

fn open(path: &Path) -> DataDirectory {
    let mut options = small_segments(128 * 1024);
    options.identity.shards = Some(2);
    DataDirectory::open(path, &options).unwrap()
}

/// Starts the log of the directory at `path`, whose streams stand at `starts`, or at their beginning.
fn start(path: &Path, starts: [Option<LogPosition>; 2]) -> (Wal, Ear) {
    let directory = open(path);
    let tails: Vec<RecoveredStream> = [STREAM, IDLE]
        .into_iter()
        .zip(starts)
        .map(|(stream, start)| directory.replay_from(stream, start.as_ref(), |_| Ok(())).unwrap())
        .collect();
    let (listener, ear) = listener();
    (Wal::start(directory, tails, WalOptions::default(), listener).unwrap(), ear)
}

/// Sequence and number of events of each group that is told.
fn note(seen: &mut Vec<(u64, usize)>, group: &RecoveredGroup<'_>) {
    let entries = group.entries().unwrap().map(|entry| entry.unwrap());
    seen.push((group.sequence.0, entries.count()));
}

fn read(reader: &LogReader, stream: StreamId, from: u64, up_to: u64) -> Vec<(u64, usize)> {
    let mut seen = Vec::new();
    let visit = |group: &RecoveredGroup<'_>| {
        note(&mut seen, group);
        ControlFlow::Continue(())
    };
    reader.read_groups(stream, GroupSequence(from), GroupSequence(up_to), visit).unwrap();
    seen
}

const EVENTS: [(u64, usize); 6] = [(1, 0), (2, 3), (3, 0), (4, 0), (5, 2), (6, 0)];

#[test]
fn they_are_written_read_recovered_and_copied_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, ear) = start(folder.path(), [None, None]);
    for (sequence, events) in EVENTS {
        wal.writer().append(STREAM, group(sequence, events as u64));
        ear.wait_committed(STREAM, sequence);
    }
    let reader = wal.reader();
    assert_eq!(read(&reader, STREAM, 1, 6), EVENTS);
    assert_eq!(read(&reader, STREAM, 3, 4), EVENTS[2..4]);
    let position = reader.position(STREAM, GroupSequence(4)).unwrap().unwrap();
    assert_eq!((position.index, position.sequence), (LogIndex(4), GroupSequence(4)));
    let end = reader.position(STREAM, GroupSequence(6)).unwrap().unwrap();

    // A copy of what lies behind the position.
    let mut archive = ArchiveWriter::new(Vec::new()).unwrap();
    let identity = open_identity(folder.path());
    archive.put(&Piece::Begin { identity, history_range_seconds: 1 }).unwrap();
    archive.put(&Piece::Logs(vec![(STREAM, position), (IDLE, LogPosition::GENESIS)])).unwrap();
    let put = |group: &RecoveredGroup<'_>| {
        archive.put(&Piece::Group(*group)).unwrap();
        ControlFlow::Continue(())
    };
    reader.read_groups(STREAM, GroupSequence(5), GroupSequence(6), put).unwrap();
    let archive = archive.finish().unwrap();
    wal.stop().unwrap();

    let directory = open(folder.path());
    for from in [None, Some(position), Some(end)] {
        let mut seen = Vec::new();
        let visit = |group: &RecoveredGroup<'_>| {
            note(&mut seen, group);
            Ok(())
        };
        let tail = directory.replay_from(STREAM, from.as_ref(), visit).unwrap();
        let first = from.map_or(0, |from| usize::try_from(from.sequence.0).unwrap());
        assert_eq!(seen, EVENTS[first..]);
        assert_eq!((tail.position(), tail.discarded_tail_parts), (end, 0));
    }
    drop(directory);
    // And a log goes on behind one.
    let (wal, ear) = start(folder.path(), [None, None]);
    wal.writer().append(STREAM, group(7, 1));
    ear.wait_committed(STREAM, 7);
    wal.stop().unwrap();

    let copy = tempfile::tempdir().unwrap();
    restore(&archive[..], copy.path(), "history", |_| {}).unwrap();
    assert_eq!(open(copy.path()).replay_from(STREAM, Some(&position), |_| Ok(())).unwrap().position(), end);
}

fn open_identity(path: &Path) -> tidegate_persistence::Identity {
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(path.join("identity.json"), other.path().join("identity.json")).unwrap();
    open(other.path()).identity().clone()
}

#[test]
fn one_keeps_an_idle_stream_in_a_log_whose_beginning_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, ear) = start(folder.path(), [None, None]);
    let (reader, writer) = (wal.reader(), wal.writer());
    writer.append(IDLE, group(1, 4));
    ear.wait_committed(IDLE, 1);
    let snapshot = reader.position(IDLE, GroupSequence(1)).unwrap().unwrap();
    // The idle stream's newest entry goes on to a later segment.
    let mut last = 0;
    let mut write_until = |segments: usize| {
        while reader.segments().unwrap().iter().filter(|segment| !segment.last.is_empty()).count() < segments {
            last += 1;
            assert!(last < 20_000, "{last} groups did not fill {segments} segments");
            writer.append(STREAM, group(last, 100));
            ear.wait_committed(STREAM, last);
        }
        last
    };
    write_until(3);
    writer.append(IDLE, group(2, 0));
    ear.wait_committed(IDLE, 2);
    let last = write_until(5);
    let busy = reader.position(STREAM, GroupSequence(last)).unwrap().unwrap();
    let keep_from = |idle| BTreeMap::from([(STREAM, busy.index), (IDLE, idle)]);
    assert_eq!(reader.compact(&keep_from(LogIndex(1))).unwrap().segments, 0);
    assert_eq!(reader.compact(&keep_from(snapshot.index.next())).unwrap().segments, 2);
    assert_eq!(reader.oldest(IDLE).unwrap(), Some((LogIndex(2), GroupSequence(2))));
    assert_eq!(read(&reader, IDLE, 2, 2), [(2, 0)]);
    let newest = reader.position(IDLE, GroupSequence(2)).unwrap().unwrap();
    wal.stop().unwrap();

    let directory = open(folder.path());
    for start in [snapshot, newest] {
        assert_eq!(directory.replay_from(IDLE, Some(&start), |_| Ok(())).unwrap().position(), newest);
    }
    assert_eq!(directory.check_from_oldest(IDLE, |_| Ok(())).unwrap().position(), newest);
    drop(directory);
    let (wal, ear) = start(folder.path(), [Some(busy), Some(snapshot)]);
    wal.writer().append(IDLE, group(3, 1));
    ear.wait_committed(IDLE, 3);
    wal.stop().unwrap();
}
