//! Replay over a store in memory: what is handed out, what is set aside, and every kind of damage by name.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use common::{STREAM, group, header, put, put_groups};
use tidegate_persistence::record::encode_value;
use tidegate_persistence::recovery::replay;
use tidegate_persistence::{
    ChainHash, DamageKind, Durable, GroupSequence, LogIndex, LogPosition, LogStore, MemoryStore, PayloadError, RecordHeader,
    RecordKey, RecordKind, RecoveredStream, RecoveryError, RecoveryProgress, StreamId, Term,
};

const ALL: std::ops::Range<usize> = 0..usize::MAX;

/// The end of the stream and the sequences handed out; or the place of the damage and its kind.
fn recover(
    store: &MemoryStore,
    durable: impl Into<Option<Durable>>,
) -> Result<(RecoveredStream, Vec<u64>), (u64, u16, DamageKind)> {
    let mut handed_out = Vec::new();
    let end = replay(store, STREAM, None, durable.into(), &RecoveryProgress::default(), &mut |recovered| {
        assert_eq!(recovered.payload, group(recovered.sequence.0, recovered.entries()?.count() as u64).payload);
        handed_out.push(recovered.sequence.0);
        Ok(())
    });
    match end {
        Ok(end) => Ok((end, handed_out)),
        Err(RecoveryError::Damage(damage)) => {
            assert_eq!(damage.stream, STREAM);
            Err((damage.index.0, damage.part, damage.what))
        }
        Err(RecoveryError::Store(error)) => panic!("memory failed: {error}"),
    }
}

fn damage(store: &MemoryStore, durable: impl Into<Option<Durable>>) -> (u64, u16, DamageKind) {
    recover(store, durable).expect_err("the log is damaged")
}

const fn durable(index: u64, chain: ChainHash) -> Durable {
    Durable { index: LogIndex(index), chain }
}

const fn key(index: u64, part: u16) -> RecordKey {
    RecordKey { stream: STREAM, index: LogIndex(index), part }
}

/// Puts one value under `key`, whole, with `header`.
fn put_value(store: &MemoryStore, key: RecordKey, header: &RecordHeader, is_last: bool, slice: &[u8]) {
    let mut value = Vec::new();
    encode_value(key, header, is_last, slice, &mut value);
    store.append(key, &value).unwrap();
}

#[test]
fn an_empty_stream_recovers_as_empty() {
    assert_eq!(recover(&MemoryStore::new(), None), Ok((RecoveredStream::empty(STREAM), vec![])));
}

#[test]
fn every_group_is_handed_out_in_order_with_its_parts_joined() {
    let store = MemoryStore::new();
    let mut chain = ChainHash::GENESIS;
    for (sequence, slice_bytes) in [(1, 10_000), (2, 100), (3, 1), (4, 10_000)] {
        chain = put(&store, STREAM, sequence, &group(sequence, 10), chain, slice_bytes, ALL);
    }
    // Another shard's log is none of this stream's business.
    put_groups(&store, StreamId::log(1), 5, 6, 1, ChainHash::GENESIS);
    let progress = RecoveryProgress::default();
    let mut handed_out = Vec::new();
    let end = replay(&store, STREAM, None, Some(durable(3, ChainHash::GENESIS)), &progress, &mut |_| Ok(()));
    assert!(
        matches!(end, Err(RecoveryError::Damage(damage)) if damage.what == DamageKind::DurableDiffers && damage.index == LogIndex(3))
    );
    let progress = RecoveryProgress::default();
    let end = replay(&store, STREAM, None, Some(durable(4, chain)), &progress, &mut |recovered| {
        assert_eq!(
            (recovered.stream, recovered.index.0, recovered.time),
            (STREAM, recovered.sequence.0, common::at(recovered.sequence.0))
        );
        handed_out.push(recovered.payload.to_vec());
        Ok(())
    })
    .unwrap();
    assert_eq!(handed_out, (1..=4).map(|sequence| group(sequence, 10).payload).collect::<Vec<_>>());
    assert_eq!((end.last_index, end.last_sequence, end.last_chain), (LogIndex(4), GroupSequence(4), chain));
    assert_eq!((end.last_time, end.groups, end.events, end.discarded_tail_parts), (common::at(4), 4, 40, 0));
    assert_eq!((progress.groups(), progress.events(), progress.bytes()), (4, 40, end.bytes));
}

#[test]
fn an_unfinished_group_at_the_end_is_set_aside() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 2, 5, ChainHash::GENESIS);
    let parts = group(3, 5).payload.chunks(30).count();
    assert!(parts > 3);
    for kept in 1..parts {
        put(&store, STREAM, 3, &group(3, 5), chain, 30, 0..kept);
        let (end, handed_out) = recover(&store, durable(2, chain)).unwrap();
        assert_eq!((end.last_index.0, end.discarded_tail_parts, handed_out), (2, u32::try_from(kept).unwrap(), vec![1, 2]));
    }
    put(&store, STREAM, 3, &group(3, 5), chain, 30, ALL);
    let (end, handed_out) = recover(&store, durable(2, chain)).unwrap();
    assert_eq!((end.last_index.0, end.discarded_tail_parts, handed_out), (3, 0, vec![1, 2, 3]));
}

#[test]
fn an_unfinished_group_that_was_durable_is_damage() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 2, 5, ChainHash::GENESIS);
    put(&store, STREAM, 3, &group(3, 5), chain, 50, 0..2);
    let what = DamageKind::EndsBelowDurable { durable: LogIndex(3) };
    assert_eq!(damage(&store, durable(3, ChainHash([1; 16]))), (3, 2, what));
}

#[test]
fn a_log_that_ends_below_what_was_durable_is_damage() {
    let store = MemoryStore::new();
    assert_eq!(damage(&store, durable(1, ChainHash::GENESIS)), (1, 0, DamageKind::EndsBelowDurable { durable: LogIndex(1) }));
    let chain = put_groups(&store, STREAM, 1, 4, 1, ChainHash::GENESIS);
    assert_eq!(damage(&store, durable(6, chain)), (5, 0, DamageKind::EndsBelowDurable { durable: LogIndex(6) }));
    // A sidecar lags behind the log without harm.
    assert_eq!(recover(&store, durable(4, chain)).unwrap().1, [1, 2, 3, 4]);
    assert_eq!(recover(&store, None).unwrap().1, [1, 2, 3, 4]);
}

#[test]
fn a_missing_entry_is_damage() {
    for missing in 1..=4 {
        let store = MemoryStore::new();
        put_groups(&store, STREAM, 1, 5, 1, ChainHash::GENESIS);
        store.remove(key(missing, 0), LogIndex(missing)).unwrap();
        assert_eq!(damage(&store, None), (missing + 1, 0, DamageKind::Hole { expected: LogIndex(missing) }));
    }
}

#[test]
fn missing_or_superfluous_parts_are_damage() {
    let build = |parts| {
        let store = MemoryStore::new();
        let chain = put_groups(&store, STREAM, 1, 1, 1, ChainHash::GENESIS);
        let chain = put(&store, STREAM, 2, &group(2, 5), chain, 50, parts);
        put_groups(&store, STREAM, 3, 3, 1, chain);
        store
    };
    assert_eq!(damage(&build(1..usize::MAX), None), (2, 1, DamageKind::Part { expected: 0 }));
    assert_eq!(damage(&build(0..2), None), (3, 0, DamageKind::Unfinished { parts: 2, next: LogIndex(3) }));
    let store = build(ALL);
    store.remove(key(2, 1), LogIndex(1)).unwrap();
    let whole = build(ALL);
    let mut values = Vec::new();
    whole
        .scan(key(2, 0), &mut |found, value| {
            values.push((RecordKey::decode(found).unwrap(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let gap = MemoryStore::new();
    put_groups(&gap, STREAM, 1, 1, 1, ChainHash::GENESIS);
    for (found, value) in values.iter().filter(|(found, _)| *found != key(2, 1)) {
        gap.append(*found, value).unwrap();
    }
    assert_eq!(damage(&gap, None), (2, 2, DamageKind::Part { expected: 1 }));
    let last = u16::try_from(group(2, 5).payload.chunks(50).count()).unwrap();
    put_value(&whole, key(2, last), &header(&group(2, 5), ChainHash::GENESIS), true, b"more");
    assert_eq!(damage(&whole, None), (2, last, DamageKind::Part { expected: 0 }));
}

#[test]
fn parts_that_contradict_each_other_are_damage() {
    let store = MemoryStore::new();
    let whole = group(1, 5);
    put(&store, STREAM, 1, &whole, ChainHash::GENESIS, 50, 0..1);
    let other = RecordHeader { time: common::at(9), ..header(&whole, ChainHash::GENESIS) };
    put_value(&store, key(1, 1), &other, true, &whole.payload[50..]);
    assert_eq!(damage(&store, None), (1, 1, DamageKind::PartHeader));
}

#[test]
fn a_value_under_another_key_is_damage() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 1, 1, ChainHash::GENESIS);
    let mut value = Vec::new();
    encode_value(key(3, 0), &header(&group(2, 1), chain), true, &group(2, 1).payload, &mut value);
    store.append(key(2, 0), &value).unwrap();
    let (index, part, what) = damage(&store, None);
    assert_eq!((index, part), (2, 0));
    assert!(matches!(what, DamageKind::Record(_)), "{what}");
}

#[test]
fn a_gap_in_the_sequence_of_groups_is_damage() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 1, 1, ChainHash::GENESIS);
    put(&store, STREAM, 2, &group(3, 1), chain, 6_000, ALL);
    let what = DamageKind::Sequence { found: GroupSequence(3), expected: GroupSequence(2) };
    assert_eq!(damage(&store, None), (2, 0, what));
}

#[test]
fn a_broken_chain_is_damage_at_the_first_entry_that_does_not_continue() {
    let store = MemoryStore::new();
    put_groups(&store, STREAM, 1, 3, 1, ChainHash::GENESIS);
    // Entry 2 is whole in itself, but not what entry 3 was chained to.
    let chain = put(&store, STREAM, 1, &group(1, 1), ChainHash::GENESIS, 6_000, ALL);
    put(&store, STREAM, 2, &group(2, 2), chain, 6_000, ALL);
    assert_eq!(damage(&store, None), (3, 0, DamageKind::Chain));
    let store = MemoryStore::new();
    put_groups(&store, STREAM, 1, 1, 1, ChainHash([7; 16]));
    assert_eq!(damage(&store, None), (1, 0, DamageKind::Chain));
}

#[test]
fn time_that_runs_backwards_is_damage() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 1, 1, ChainHash::GENESIS);
    let late = RecordHeader { time: common::at(0), ..header(&group(2, 1), chain) };
    put_value(&store, key(2, 0), &late, true, &group(2, 1).payload);
    assert_eq!(damage(&store, None), (2, 0, DamageKind::Time { before: common::at(1), found: common::at(0) }));
}

#[test]
fn a_payload_that_the_visitor_cannot_read_is_damage() {
    let store = MemoryStore::new();
    let chain = put_groups(&store, STREAM, 1, 1, 1, ChainHash::GENESIS);
    let mut broken = group(2, 1);
    broken.payload.push(0);
    put(&store, STREAM, 2, &broken, chain, 6_000, ALL);
    let end = replay(&store, STREAM, None, None, &RecoveryProgress::default(), &mut |recovered| {
        recovered.entries()?.try_for_each(|entry| entry.map(drop))
    });
    let Err(RecoveryError::Damage(damage)) = end else { panic!("the log is damaged") };
    assert_eq!((damage.index.0, damage.what), (2, DamageKind::Payload(PayloadError::Trailing(1))));
    let store = MemoryStore::new();
    broken.sequence = GroupSequence(1);
    broken.payload.truncate(3);
    put(&store, STREAM, 1, &broken, ChainHash::GENESIS, 6_000, ALL);
    assert_eq!(self::damage(&store, None), (1, 0, DamageKind::Payload(PayloadError::Short(0))));
}

#[test]
fn blank_and_membership_entries_take_an_index_and_nothing_else() {
    let store = MemoryStore::new();
    let blank = RecordHeader { kind: RecordKind::Blank, sequence: GroupSequence(0), ..header(&group(1, 1), ChainHash::GENESIS) };
    put_value(&store, key(1, 0), &blank, true, b"");
    let chain = put(&store, STREAM, 2, &group(1, 1), ChainHash::GENESIS, 6_000, ALL);
    let membership = RecordHeader { kind: RecordKind::Membership, ..header(&group(1, 1), chain) };
    put_value(&store, key(3, 0), &membership, false, b"three ");
    put_value(&store, key(3, 1), &membership, true, b"nodes");
    let chain = put(&store, STREAM, 4, &group(2, 1), chain, 6_000, ALL);
    let (end, handed_out) = recover(&store, durable(4, chain)).unwrap();
    assert_eq!((end.last_index.0, end.last_sequence.0, end.groups, handed_out), (4, 2, 2, vec![1, 2]));
    // One that claims a sequence of its own is damage.
    let store = MemoryStore::new();
    put_value(&store, key(1, 0), &RecordHeader { sequence: GroupSequence(1), ..blank }, true, b"");
    let what = DamageKind::Sequence { found: GroupSequence(1), expected: GroupSequence(0) };
    assert_eq!(damage(&store, None), (1, 0, what));
}

#[test]
fn damage_says_where_it_is_and_what_it_is() {
    let store = MemoryStore::new();
    put_groups(&store, StreamId::log(3), 2, 2, 1, ChainHash::GENESIS);
    let end = replay(&store, StreamId::log(3), None, None, &RecoveryProgress::default(), &mut |_| Ok(()));
    let text = end.unwrap_err().to_string();
    assert_eq!(text, "the log of shard 3 is damaged at entry 2, part 0: entry follows where 1 was expected");
}

/// Like [`recover`], from the position `start` on.
fn recover_from(
    store: &MemoryStore,
    start: &LogPosition,
    durable: impl Into<Option<Durable>>,
) -> Result<(RecoveredStream, Vec<u64>), (u64, DamageKind)> {
    let mut handed_out = Vec::new();
    let end = replay(store, STREAM, Some(start), durable.into(), &RecoveryProgress::default(), &mut |recovered| {
        handed_out.push(recovered.sequence.0);
        Ok(())
    });
    match end {
        Ok(end) => Ok((end, handed_out)),
        Err(RecoveryError::Damage(damage)) => Err((damage.index.0, damage.what)),
        Err(RecoveryError::Store(error)) => panic!("memory failed: {error}"),
    }
}

/// Groups 1 to 20 of three events each, and where the stream stood with each of them, by sequence; the first is the beginning.
fn twenty_groups() -> (MemoryStore, Vec<LogPosition>) {
    let store = MemoryStore::new();
    put_groups(&store, STREAM, 1, 20, 3, ChainHash::GENESIS);
    let mut positions = vec![LogPosition::GENESIS];
    let visit = &mut |group: &tidegate_persistence::RecoveredGroup<'_>| {
        positions.push(group.position());
        Ok(())
    };
    replay(&store, STREAM, None, None, &RecoveryProgress::default(), visit).unwrap();
    (store, positions)
}

#[test]
fn a_replay_from_any_position_hands_out_what_lies_behind_it_and_ends_alike() {
    let (store, positions) = twenty_groups();
    for (sequence, start) in (0..).zip(&positions) {
        let (end, handed_out) = recover_from(&store, start, None).unwrap();
        assert_eq!(handed_out, (sequence + 1..=20).collect::<Vec<_>>());
        assert_eq!((end.position(), end.groups, end.events), (positions[20], 20 - sequence, 3 * (20 - sequence)));
        // The entry of the position itself may be compacted away.
        let compacted = MemoryStore::new();
        put_groups(&compacted, STREAM, sequence + 1, 20, 3, start.chain);
        if sequence < 20 {
            assert_eq!(recover_from(&compacted, start, None).unwrap(), (end, handed_out));
        }
    }
}

#[test]
fn a_position_that_the_log_does_not_continue_is_damage() {
    let (store, positions) = twenty_groups();
    let start = positions[5];
    for other in [
        LogPosition { sequence: GroupSequence(4), ..start },
        LogPosition { chain: positions[4].chain, ..start },
        LogPosition { term: Term(2), ..start },
        LogPosition { time: positions[6].time, ..start },
    ] {
        assert_eq!(recover_from(&store, &other, None), Err((5, DamageKind::SnapshotDiffers)));
    }
    // Without the position's own entry, the next one tells.
    let rest = MemoryStore::new();
    put_groups(&rest, STREAM, 6, 20, 3, start.chain);
    assert_eq!(recover_from(&rest, &LogPosition { chain: positions[4].chain, ..start }, None), Err((6, DamageKind::Chain)));
    let (found, expected) = (GroupSequence(6), GroupSequence(5));
    let earlier = LogPosition { sequence: GroupSequence(4), ..start };
    assert_eq!(recover_from(&rest, &earlier, None), Err((6, DamageKind::Sequence { found, expected })));
    let (before, found) = (positions[7].time, positions[6].time);
    assert_eq!(recover_from(&rest, &LogPosition { time: before, ..start }, None), Err((6, DamageKind::Time { before, found })));
    // The sidecar knows better than the snapshot what was durable there.
    let differs = durable(5, positions[4].chain);
    assert_eq!(recover_from(&rest, &start, differs), Err((5, DamageKind::DurableDiffers)));
}

#[test]
fn a_log_that_starts_behind_a_snapshot_is_named_with_both_places() {
    let (_, positions) = twenty_groups();
    let store = MemoryStore::new();
    put_groups(&store, STREAM, 9, 20, 3, positions[8].chain);
    let kind = DamageKind::StartsLater { snapshot: LogIndex(7) };
    assert_eq!(recover_from(&store, &positions[7], None), Err((9, kind.clone())));
    assert_eq!(kind.to_string(), "the log starts here where the snapshot ends at entry 7: what lies between is lost");
    assert!(recover_from(&store, &positions[8], None).is_ok());
    // Without a snapshot it must begin with its first entry.
    assert_eq!(damage(&store, None), (9, 0, DamageKind::Hole { expected: LogIndex(1) }));
}

#[test]
fn a_log_that_ends_before_a_snapshot_is_named() {
    let (store, positions) = twenty_groups();
    store.remove(key(16, 0), LogIndex(20)).unwrap();
    for start in &positions[16..=20] {
        let kind = DamageKind::EndsBelowSnapshot { snapshot: start.index };
        assert_eq!(recover_from(&store, start, None), Err((16, kind)));
    }
    assert!(recover_from(&store, &positions[15], None).is_ok());
    // The snapshot's own entry is there, but unfinished.
    put(&store, STREAM, 16, &group(16, 3), positions[15].chain, 20, 0..2);
    let kind = DamageKind::EndsBelowSnapshot { snapshot: LogIndex(16) };
    assert_eq!(recover_from(&store, &positions[16], None), Err((16, kind)));
    // Nothing at all is left of a stream of which nothing was compacted.
    let kind = DamageKind::EndsBelowSnapshot { snapshot: LogIndex(3) };
    assert_eq!(recover_from(&MemoryStore::new(), &positions[3], None), Err((1, kind)));
}

#[test]
fn a_log_that_ends_below_what_was_durable_is_named_whatever_it_is_read_from() {
    let (store, positions) = twenty_groups();
    let kind = DamageKind::EndsBelowDurable { durable: LogIndex(21) };
    assert_eq!(recover_from(&store, &positions[20], durable(21, ChainHash::GENESIS)), Err((21, kind.clone())));
    assert_eq!(recover_from(&store, &positions[3], durable(21, ChainHash::GENESIS)), Err((21, kind)));
    assert!(recover_from(&store, &positions[20], durable(7, ChainHash::GENESIS)).is_ok());
}

#[test]
fn an_unfinished_tail_behind_a_position_is_set_aside() {
    let (store, positions) = twenty_groups();
    put(&store, STREAM, 21, &group(21, 3), positions[20].chain, 20, 0..2);
    for start in [&positions[4], &positions[20]] {
        let (end, _) = recover_from(&store, start, None).unwrap();
        assert_eq!((end.position(), end.discarded_tail_parts), (positions[20], 2));
    }
}
