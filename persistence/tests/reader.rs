//! Reading the log while it is written.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::ops::ControlFlow;

use common::{IMAGE, STREAM, Started, group, header, put, put_groups, small_segments, start_in};
use tidegate_persistence::record::encode_value;
use tidegate_persistence::{
    ChainHash, DamageKind, DataDirectory, GroupSequence, LogIndex, LogReader, LogStore, MemoryStore, NodeId, ReadError,
    RecordHeader, RecordKey, RecordKind, RecoveredStream, RecoveryError, SledStore, StreamId, Term, Wal, WalOptions,
};

/// The sequences of the groups that are read, each checked against what was written.
fn read(reader: &LogReader, from: u64, up_to: u64, events: u64) -> Result<Vec<u64>, ReadError> {
    let mut sequences = Vec::new();
    reader.read_groups(STREAM, GroupSequence(from), GroupSequence(up_to), |found| {
        assert_eq!(found.payload, group(found.sequence.0, events).payload);
        assert!(found.entries().unwrap().all(|entry| entry.unwrap().image == IMAGE));
        sequences.push(found.sequence.0);
        ControlFlow::Continue(())
    })?;
    Ok(sequences)
}

fn damage(result: Result<Vec<u64>, ReadError>) -> (u64, DamageKind) {
    match result {
        Err(ReadError::Log(RecoveryError::Damage(damage))) => (damage.index.0, damage.what),
        other => panic!("{other:?}"),
    }
}

/// A log on `store` that appends nothing to what is there.
fn reading(store: impl LogStore + 'static) -> (Wal, LogReader) {
    let (listener, _ear) = common::listener();
    let wal =
        Wal::start_on(Box::new(store), NodeId(1), [RecoveredStream::empty(StreamId::log(9))], WalOptions::default(), listener);
    let wal = wal.unwrap();
    let reader = wal.reader();
    (wal, reader)
}

#[test]
fn every_committed_group_can_be_read_while_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(folder.path(), &small_segments(128 * 1024)).unwrap();
    let started = start_in(directory, WalOptions::default());
    let Started { wal, writer, ear, .. } = started;
    let (reader, groups) = (wal.reader(), 400);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let reading = scope.spawn(move || {
            let mut next = 1;
            while let Ok(committed) = told.recv_timeout(common::PATIENCE) {
                assert_eq!(read(&reader, next, committed, 30).unwrap(), (next..=committed).collect::<Vec<_>>());
                next = committed + 1;
                if committed == groups {
                    return next;
                }
            }
            next
        });
        for sequence in 1..=groups {
            writer.append(STREAM, group(sequence, 30));
            ear.wait_committed(STREAM, sequence);
            tell.send(sequence).unwrap();
        }
        assert_eq!(reading.join().unwrap(), groups + 1);
    });
    let reader = wal.reader();
    assert!(reader.segments().unwrap().len() > 1);
    for (from, up_to) in [(1, 1), (1, 400), (57, 58), (399, 400), (400, 400)] {
        assert_eq!(read(&reader, from, up_to, 30).unwrap(), (from..=up_to).collect::<Vec<_>>());
    }
    // Nothing is asked for.
    assert!(read(&reader, 401, 400, 30).unwrap().is_empty());
    assert_eq!(reader.oldest(STREAM).unwrap(), Some((LogIndex(1), GroupSequence(1))));
    assert_eq!(reader.oldest(StreamId::log(7)).unwrap(), None);
    // A reader does not keep the log open, and says that it has stopped.
    wal.stop().unwrap();
    assert!(matches!(read(&reader, 1, 1, 30), Err(ReadError::Stopped)));
    assert!(matches!(reader.segments(), Err(ReadError::Stopped)));
    common::open(folder.path()).unwrap();
}

#[test]
fn a_reader_stops_where_its_visitor_breaks() {
    let store = MemoryStore::new();
    put_groups(&store, STREAM, 1, 20, 3, ChainHash::GENESIS);
    let (_wal, reader) = reading(store);
    let mut visited = 0;
    let result = reader.read_groups(STREAM, GroupSequence(5), GroupSequence(20), |_| {
        visited += 1;
        if visited == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    result.unwrap();
    assert_eq!(visited, 3);
}

/// Entries 1 to 40: every third is blank, the others are groups 1 on. Returns how many groups.
fn put_with_blanks(store: &dyn LogStore) -> u64 {
    let (mut chain, mut sequence) = (ChainHash::GENESIS, 0);
    for index in 1..=40 {
        if index % 3 == 0 {
            let mut blank = RecordHeader { kind: RecordKind::Blank, term: Term(2), ..header(&group(sequence, 1), chain) };
            blank.sequence = GroupSequence(sequence);
            let (key, mut value) = (RecordKey { stream: STREAM, index: LogIndex(index), part: 0 }, Vec::new());
            encode_value(key, &blank, true, b"", &mut value);
            store.append(key, &value).unwrap();
        } else {
            sequence += 1;
            chain = put(store, STREAM, index, &group(sequence, 3), chain, 100, 0..usize::MAX);
        }
    }
    sequence
}

#[test]
fn a_group_is_found_by_its_sequence_where_blanks_take_indexes_too() {
    let memory = MemoryStore::new();
    let groups = put_with_blanks(&memory);
    assert_eq!(groups, 27);
    let (_wal, reader) = reading(memory);
    for from in 1..=groups {
        assert_eq!(read(&reader, from, groups, 3).unwrap(), (from..=groups).collect::<Vec<_>>());
        assert_eq!(read(&reader, from, from, 3).unwrap(), [from]);
    }
    // The same over segments, whose first entries are known.
    let folder = tempfile::tempdir().unwrap();
    let options = tidegate_persistence::SegmentOptions { cache_bytes: 1 << 20, segment_bytes_max: 1 << 20 };
    let store = tidegate_persistence::SegmentedLog::open(folder.path(), options).unwrap();
    put_with_blanks(&store);
    let (_wal, reader) = reading(store);
    for from in 1..=groups {
        assert_eq!(read(&reader, from, groups, 3).unwrap(), (from..=groups).collect::<Vec<_>>());
    }
}

#[test]
fn damage_within_what_is_read_is_named_and_elsewhere_it_disturbs_nobody() {
    let memory = MemoryStore::new();
    let chain = put_groups(&memory, STREAM, 1, 10, 3, ChainHash::GENESIS);
    put_groups(&memory, STREAM, 11, 20, 3, chain);
    let key = RecordKey { stream: STREAM, index: LogIndex(12), part: 0 };
    memory.append(key, &[7; 100]).unwrap();
    let (_wal, reader) = reading(memory.clone());
    assert_eq!(read(&reader, 3, 11, 3).unwrap(), (3..=11).collect::<Vec<_>>());
    assert_eq!(read(&reader, 13, 20, 3).unwrap(), (13..=20).collect::<Vec<_>>());
    assert!(matches!(damage(read(&reader, 3, 20, 3)), (12, DamageKind::Record(_))));
    // A chain that breaks, a hole, and an end before what is known to be committed.
    put(&memory, STREAM, 12, &group(12, 3), ChainHash([9; 16]), 6_000, 0..1);
    assert_eq!(damage(read(&reader, 11, 20, 3)), (12, DamageKind::Chain));
    memory.remove(key, LogIndex(12)).unwrap();
    assert_eq!(damage(read(&reader, 11, 20, 3)), (13, DamageKind::Hole { expected: LogIndex(12) }));
    assert_eq!(damage(read(&reader, 13, 21, 3)), (21, DamageKind::EndsBelowCommitted { committed: GroupSequence(21) }));
    // A group that is not there is never replaced by the next.
    assert!(matches!(read(&reader, 12, 12, 3), Err(ReadError::Log(_) | ReadError::Compacted { .. })));
}

#[test]
fn a_first_entry_that_is_not_what_it_was_is_damage_for_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    common::write_groups(folder.path(), 1, 10, 3);
    {
        let store = SledStore::open(&common::segment(folder.path()), 1 << 20).unwrap();
        store.append(RecordKey { stream: STREAM, index: LogIndex(1), part: 0 }, &[7; 100]).unwrap();
        store.sync().unwrap();
    }
    let directory = common::open(folder.path()).unwrap();
    let wal = Wal::start(directory, [], WalOptions::default(), common::listener().0).unwrap();
    let reader = wal.reader();
    assert!(matches!(damage(read(&reader, 1, 10, 3)), (1, DamageKind::Record(_))));
    assert!(matches!(damage(read(&reader, 5, 10, 3)), (1, DamageKind::Record(_))));
    wal.stop().unwrap();
}
