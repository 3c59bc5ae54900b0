//! Replicated logs: entries of consensus and promises come back, groups that continue nothing are set aside, and an end that is taken back on
//! purpose never looks like a loss.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use common::{PATIENCE, STREAM, Started, at, group, header, listener, small_segments, start_in};
use tidegate_persistence::recovery::{recover_replica, replay};
use tidegate_persistence::store::Visit;
use tidegate_persistence::{
    ChainHash, Damage, DamageKind, DataDirectory, Done, Durability, EntryContent, GroupSequence, LogIndex, LogPosition, LogReader,
    LogStore, MemoryStore, NodeId, Promises, Purged, RecordHeader, RecordKey, RecordKind, RecoveredReplica, RecoveredStream,
    RecoveryError, RecoveryProgress, ReplicatedEntry, Sidecar, StoreError, StreamId, Term, Vote, Wal, WalError, WalOptions,
    WalWriter, record,
};

const VOTES: StreamId = StreamId::votes(0);

fn entry(index: u64, term: u64, content: EntryContent) -> ReplicatedEntry {
    ReplicatedEntry { index: LogIndex(index), term: Term(term), leader: NodeId(term % 3 + 1), content }
}

fn blank(index: u64, term: u64) -> ReplicatedEntry {
    entry(index, term, EntryContent::Blank)
}

/// Entry `index`, which is group `sequence` of `events` events, and the chain hash that it has if it counts.
fn grouped(index: u64, term: u64, sequence: u64, events: u64, predecessor: ChainHash) -> (ReplicatedEntry, ChainHash) {
    let group = group(sequence, events);
    let header = RecordHeader { term: Term(term), leader: NodeId(term % 3 + 1), ..header(&group, predecessor) };
    let chain = header.chain(&group.payload);
    (entry(index, term, EntryContent::Group { predecessor, group: Arc::new(group) }), chain)
}

/// Entries `first..=last`, which are groups from `sequence` on.
fn groups(first: u64, last: u64, term: u64, sequence: u64, mut chain: ChainHash) -> (Vec<ReplicatedEntry>, ChainHash) {
    let mut entries = Vec::new();
    for (index, sequence) in (first..=last).zip(sequence..) {
        let (entry, next) = grouped(index, term, sequence, 2, chain);
        entries.push(entry);
        chain = next;
    }
    (entries, chain)
}

const fn vote(term: u64, is_granted: bool) -> Promises {
    Promises { vote: Some(Vote { term: Term(term), leader: NodeId(2), is_granted }), purged: None }
}

fn recover(store: &dyn LogStore, sidecar: Option<&Path>) -> Result<RecoveredReplica, RecoveryError> {
    let sidecar = sidecar.map(|path| Sidecar::open(path).unwrap());
    let durable = |stream| sidecar.as_ref().and_then(|sidecar| sidecar.streams().get(&stream).copied());
    recover_replica(store, 0, None, &durable, &RecoveryProgress::default())
}

fn damage(result: Result<RecoveredReplica, RecoveryError>) -> Damage {
    match result {
        Err(RecoveryError::Damage(damage)) => damage,
        other => panic!("damage was expected, not {other:?}"),
    }
}

/// A log that runs on `store` as it is.
fn start(store: impl LogStore + 'static, sidecar: Option<&Path>, options: WalOptions) -> (Wal, WalWriter) {
    let replica = recover(&store, sidecar).unwrap();
    let tails = [replica.log, replica.votes];
    let (listener, _) = listener();
    let store = Box::new(store);
    let wal = match sidecar {
        Some(path) => Wal::start_on_with_sidecar(store, Sidecar::open(path).unwrap(), NodeId(1), tails, options, listener),
        None => Wal::start_on(store, NodeId(1), tails, options, listener),
    };
    let wal = wal.unwrap();
    let writer = wal.writer();
    (wal, writer)
}

/// Hands something over and waits until it is said to be durable; false when it never will be.
fn wait(hand_over: impl FnOnce(Done) -> Result<(), WalError>) -> bool {
    let (sender, done) = mpsc::channel();
    let is_handed_over = hand_over(Box::new(move || sender.send(()).unwrap()));
    is_handed_over.is_ok() && done.recv_timeout(PATIENCE).is_ok()
}

fn read(reader: &LogReader) -> Vec<ReplicatedEntry> {
    let mut entries = Vec::new();
    let visit = |entry: &tidegate_persistence::RecoveredEntry<'_>| {
        entries.push(ReplicatedEntry::read(entry)?);
        Ok(ControlFlow::Continue(()))
    };
    reader.read_entries(STREAM, LogIndex(1), LogIndex(u64::MAX), visit).unwrap();
    entries
}

fn values(store: &dyn LogStore, stream: StreamId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut values = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        values.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    store.scan(RecordKey { stream, index: LogIndex(0), part: 0 }, visit).unwrap();
    values
}

fn groups_of(store: &dyn LogStore) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    replay(store, STREAM, None, None, &RecoveryProgress::default(), &mut |group| {
        found.push((group.index.0, group.sequence.0));
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn entries_and_promises_come_back_as_they_were_handed_over() {
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), None, WalOptions::default());
    let (first, chain) = grouped(3, 2, 1, 4, ChainHash::GENESIS);
    // Of several parts.
    let (second, chain) = grouped(4, 2, 2, 400, chain);
    let entries = vec![entry(1, 0, EntryContent::Membership(b"who they are".to_vec())), blank(2, 2), first, second, blank(5, 4)];
    assert!(wait(|done| writer.promise(0, vote(3, false), done)));
    assert!(wait(|done| writer.append_entries(STREAM, entries.clone(), done)));
    assert!(wait(|done| writer.promise(0, vote(4, true), done)));
    assert_eq!(read(&wal.reader()), entries);
    wal.stop().unwrap();
    let replica = recover(&store, None).unwrap();
    assert_eq!(replica.promises, vote(4, true));
    assert_eq!(replica.votes.last_index, LogIndex(2));
    let position = LogPosition { index: LogIndex(5), sequence: GroupSequence(2), chain, term: Term(4), time: at(2) };
    assert_eq!((replica.log.position(), replica.last_leader, replica.has_leftovers), (position, NodeId(2), false));
}

#[test]
fn a_log_of_a_node_alone_is_byte_for_byte_what_consensus_would_have_written() {
    let (alone, replicated) = (MemoryStore::new(), MemoryStore::new());
    let (wal, writer) = start(alone.clone(), None, WalOptions::default());
    for sequence in 1..=20 {
        writer.append(STREAM, group(sequence, sequence * 20));
    }
    writer.sync().unwrap();
    let entries = read(&wal.reader());
    wal.stop().unwrap();
    let (wal, writer) = start(replicated.clone(), None, WalOptions::default());
    assert!(wait(|done| writer.append_entries(STREAM, entries, done)));
    wal.stop().unwrap();
    assert_eq!(values(&alone, STREAM), values(&replicated, STREAM));
    assert_eq!(groups_of(&replicated).len(), 20);
}

#[test]
fn a_group_that_continues_nothing_is_set_aside_and_the_others_stay_a_chain() {
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), None, WalOptions::default());
    let (first, chain) = grouped(1, 1, 1, 3, ChainHash::GENESIS);
    // Decided behind a group 2 that consensus refused.
    let (orphan, _) = grouped(2, 1, 3, 300, ChainHash([7; 16]));
    let (second, chain) = grouped(4, 2, 2, 3, chain);
    // The right predecessor and another sequence.
    let (skipping, _) = grouped(5, 2, 4, 3, chain);
    let entries = vec![first, orphan, blank(3, 2), second, skipping];
    assert!(wait(|done| writer.append_entries(STREAM, entries.clone(), done)));
    assert_eq!(read(&wal.reader()), entries, "consensus gets back what it handed over");
    let mut sequences = Vec::new();
    let visit = |group: &tidegate_persistence::RecoveredGroup<'_>| {
        sequences.push(group.sequence.0);
        ControlFlow::Continue(())
    };
    wal.reader().read_groups(STREAM, GroupSequence(1), GroupSequence(2), visit).unwrap();
    assert_eq!(sequences, [1, 2], "nobody else sees them");
    wal.stop().unwrap();
    assert_eq!(groups_of(&store), [(1, 1), (4, 2)]);
    assert_eq!(recover(&store, None).unwrap().log.position().chain, chain);
}

#[test]
fn a_group_that_was_set_aside_for_nothing_is_damage() {
    let store = MemoryStore::new();
    let good = group(1, 2);
    let header = RecordHeader { kind: RecordKind::SetAside, sequence: GroupSequence(0), ..header(&good, ChainHash::GENESIS) };
    let put = |predecessor: [u8; 16]| {
        let payload = [&1_u64.to_be_bytes()[..], &predecessor, &at(1).unix_ms().to_be_bytes(), &good.payload].concat();
        let (key, mut value) = (RecordKey { stream: STREAM, index: LogIndex(1), part: 0 }, Vec::new());
        record::encode_value(key, &header, true, &payload, &mut value);
        store.append(key, &value).unwrap();
    };
    put([7; 16]);
    assert_eq!(recover(&store, None).unwrap().log.last_index, LogIndex(1));
    put([0; 16]);
    assert_eq!(damage(recover(&store, None)).what, DamageKind::SetAside);
}

#[test]
fn records_in_the_wrong_stream_are_damage() {
    let store = MemoryStore::new();
    let header = RecordHeader { kind: RecordKind::Vote, sequence: GroupSequence(0), ..header(&group(1, 1), ChainHash::GENESIS) };
    let (key, mut value) = (RecordKey { stream: STREAM, index: LogIndex(1), part: 0 }, Vec::new());
    record::encode_value(key, &header, true, &[0; 25], &mut value);
    store.append(key, &value).unwrap();
    assert_eq!(damage(recover(&store, None)).what, DamageKind::Misplaced);

    let store = MemoryStore::new();
    common::put(&store, VOTES, 1, &group(1, 1), ChainHash::GENESIS, 6_000, 0..1);
    let damage = damage(recover(&store, None));
    assert_eq!((damage.stream, damage.what), (VOTES, DamageKind::Misplaced));
}

#[test]
fn one_sync_covers_what_all_shards_have_handed_over() {
    const OTHER: StreamId = StreamId::log(1);
    let store = MemoryStore::new();
    let tails = [STREAM, VOTES, OTHER, StreamId::votes(1)].map(RecoveredStream::empty);
    let (listener, _) = listener();
    let wal = Wal::start_on(Box::new(store.clone()), NodeId(1), tails, WalOptions::default(), listener).unwrap();
    let writer = wal.writer();
    // The log's thread is held up where it says that the first is durable; the others gather meanwhile.
    let ((reached, is_reached), (go, let_through)) = (mpsc::channel(), mpsc::channel::<()>());
    let hold = Box::new(move || {
        reached.send(()).unwrap();
        let_through.recv_timeout(PATIENCE).unwrap();
    });
    writer.append_entries(STREAM, vec![blank(1, 1)], hold).unwrap();
    is_reached.recv_timeout(PATIENCE).unwrap();
    let (sender, told) = mpsc::channel();
    let tell = || -> Done {
        let (sender, store) = (sender.clone(), store.clone());
        Box::new(move || sender.send(store.syncs()).unwrap())
    };
    let before = store.syncs();
    writer.append_entries(STREAM, vec![blank(2, 1)], tell()).unwrap();
    writer.append_entries(OTHER, vec![blank(1, 2), blank(2, 2)], tell()).unwrap();
    writer.promise(1, vote(2, true), tell()).unwrap();
    go.send(()).unwrap();
    for _ in 0..3 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), before + 1);
    }
    wal.stop().unwrap();
}

#[test]
fn a_vote_survives_a_loss_of_power_whatever_the_durability() {
    for durability in [Durability::None, Durability::ProcessCrash, Durability::PowerLoss] {
        let store = MemoryStore::new();
        let (wal, writer) = start(store.clone(), None, WalOptions { durability, ..WalOptions::default() });
        assert!(wait(|done| writer.promise(0, vote(7, false), done)));
        store.crash(0);
        assert_eq!(recover(&store, None).unwrap().promises, vote(7, false), "{durability}");
        drop(wal);
    }
}

#[test]
fn lost_votes_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = folder.path().join("durable");
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
    assert!(wait(|done| writer.promise(0, vote(7, false), done)));
    assert!(wait(|done| writer.promise(0, vote(8, false), done)));
    wal.stop().unwrap();
    store.remove(RecordKey { stream: VOTES, index: LogIndex(2), part: 0 }, LogIndex(2)).unwrap();
    let damage = damage(recover(&store, Some(&sidecar)));
    assert_eq!((damage.stream, damage.index), (VOTES, LogIndex(2)));
    assert_eq!(damage.what, DamageKind::EndsBelowDurable { durable: LogIndex(2) });
}

#[test]
fn an_entry_that_leaves_a_hole_stops_the_log() {
    let store = MemoryStore::new();
    let (wal, writer) = start(store, None, WalOptions::default());
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(1, 1), blank(2, 1)], done)));
    // Who waits for it is let go, and is not told that it is durable.
    assert!(!wait(|done| writer.append_entries(STREAM, vec![blank(4, 1)], done)));
    assert!(!wait(|done| writer.promise(0, vote(7, false), done)));
    assert!(matches!(wal.stop(), Err(WalError::Index { found: LogIndex(4), expected: LogIndex(3), .. })));
}

/// A store that fails to sync once something was removed: what is on the disk then is for [`MemoryStore::crash`] to say.
#[derive(Clone)]
struct FailsAfterRemoval(MemoryStore, Arc<AtomicBool>);

impl LogStore for FailsAfterRemoval {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.0.append(key, value)
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        self.1.store(true, Ordering::Release);
        self.0.remove(from, to)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.0.flush()
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.1.load(Ordering::Acquire) {
            return Err(StoreError::Io(io::Error::other("the power is gone")));
        }
        self.0.sync()
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.0.scan(from, visit)
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        self.0.last_key(stream)
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        self.0.streams()
    }
}

#[test]
fn an_end_that_was_taken_back_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = folder.path().join("durable");
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
    let (entries, chain) = groups(1, 10, 1, 1, ChainHash::GENESIS);
    assert!(wait(|done| writer.append_entries(STREAM, entries[..6].to_vec(), done)));
    let chain_at_5 = recover_chain(&store, 5);
    assert!(wait(|done| writer.append_entries(STREAM, entries[6..].to_vec(), done)));
    let before = Sidecar::open(&sidecar).unwrap().streams()[&STREAM];
    assert_eq!((before.index, before.chain), (LogIndex(10), chain));
    assert!(wait(|done| writer.truncate_after(STREAM, LogIndex(5), LogPosition::GENESIS, done)));
    // Other entries in their place, fewer, by another leader.
    let (others, chain) = groups(6, 7, 2, 6, chain_at_5);
    assert!(wait(|done| writer.append_entries(STREAM, others.clone(), done)));
    assert_eq!(read(&wal.reader()), [&entries[..5], &others].concat());
    wal.stop().unwrap();
    let replica = recover(&store, Some(&sidecar)).unwrap();
    assert_eq!((replica.log.last_index, replica.log.last_chain), (LogIndex(7), chain));
    assert_eq!(groups_of(&store).len(), 7);
    // What the sidecar said before would be a loss.
    let old = recover_replica(&store, 0, None, &|stream| (stream == STREAM).then_some(before), &RecoveryProgress::default());
    assert_eq!(damage(old).what, DamageKind::EndsBelowDurable { durable: LogIndex(10) });
}

fn recover_chain(store: &dyn LogStore, sequence: u64) -> ChainHash {
    let mut chain = ChainHash::GENESIS;
    replay(store, STREAM, None, None, &RecoveryProgress::default(), &mut |group| {
        if group.sequence.0 <= sequence {
            chain = group.chain;
        }
        Ok(())
    })
    .unwrap();
    chain
}

#[test]
fn a_crash_at_any_moment_of_taking_an_end_back_is_no_loss() {
    // Five values are removed, and so many of these removals survive.
    for kept in 0..=5 {
        let folder = tempfile::tempdir().unwrap();
        let sidecar = folder.path().join("durable");
        let store = MemoryStore::new();
        let failing = FailsAfterRemoval(store.clone(), Arc::default());
        let (wal, writer) = start(failing, Some(&sidecar), WalOptions::default());
        let (entries, _) = groups(1, 10, 1, 1, ChainHash::GENESIS);
        assert!(wait(|done| writer.append_entries(STREAM, entries, done)));
        assert!(!wait(|done| writer.truncate_after(STREAM, LogIndex(5), LogPosition::GENESIS, done)));
        assert!(wal.stop().is_err());
        assert_eq!(store.crash(kept), 5);
        let replica = recover(&store, Some(&sidecar)).unwrap();
        assert_eq!(replica.log.last_index, LogIndex(10 - kept as u64));
        // It is taken back again, and goes on.
        let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
        assert!(wait(|done| writer.truncate_after(STREAM, LogIndex(5), LogPosition::GENESIS, done)));
        assert!(wait(|done| writer.append_entries(STREAM, vec![blank(6, 2)], done)));
        wal.stop().unwrap();
        assert_eq!(recover(&store, Some(&sidecar)).unwrap().log.last_index, LogIndex(6));
    }
}

#[test]
fn a_log_can_be_taken_back_to_nothing_and_to_where_it_was_purged() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = folder.path().join("durable");
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
    let (entries, _) = groups(1, 4, 1, 1, ChainHash::GENESIS);
    assert!(wait(|done| writer.append_entries(STREAM, entries.clone(), done)));
    assert!(wait(|done| writer.truncate_after(STREAM, LogIndex(0), LogPosition::GENESIS, done)));
    assert_eq!(read(&wal.reader()), []);
    assert!(wait(|done| writer.append_entries(STREAM, entries.clone(), done)));
    let base = recover_replica(&store, 0, None, &|_| None, &RecoveryProgress::default()).unwrap().log.position();
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(5, 1)], done)));
    assert!(wait(|done| writer.truncate_after(STREAM, LogIndex(4), base, done)));
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(5, 3)], done)));
    assert_eq!(read(&wal.reader()), [&entries[..], &[blank(5, 3)]].concat());
    wal.stop().unwrap();
    recover(&store, Some(&sidecar)).unwrap();
}

fn purged_at(index: u64) -> (Promises, LogPosition) {
    let position =
        LogPosition { index: LogIndex(index), sequence: GroupSequence(40), chain: ChainHash([4; 16]), term: Term(3), time: at(40) };
    (Promises { purged: Some(Purged { leader: NodeId(3), position }), ..vote(5, true) }, position)
}

#[test]
fn a_log_goes_on_behind_a_snapshot_beyond_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = folder.path().join("durable");
    let store = MemoryStore::new();
    let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
    let (entries, _) = groups(1, 10, 1, 1, ChainHash::GENESIS);
    assert!(wait(|done| writer.append_entries(STREAM, entries, done)));
    let (promises, position) = purged_at(50);
    assert!(wait(|done| writer.promise(0, promises, done)));
    assert!(wait(|done| writer.begin_at(STREAM, position, done)));
    assert!(values(&store, STREAM).is_empty());
    let replica = recover(&store, Some(&sidecar)).unwrap();
    assert_eq!((replica.promises, replica.log.position(), replica.last_leader), (promises, position, NodeId(3)));
    let (next, chain) = grouped(51, 5, 41, 2, position.chain);
    assert!(wait(|done| writer.append_entries(STREAM, vec![next], done)));
    wal.stop().unwrap();
    let replica = recover(&store, Some(&sidecar)).unwrap();
    assert_eq!((replica.log.last_index, replica.log.last_chain, replica.last_leader), (LogIndex(51), chain, NodeId(3)));
}

#[test]
fn a_crash_at_any_moment_of_giving_a_log_up_leaves_what_can_be_made_up_for() {
    for kept in 0..=10 {
        let folder = tempfile::tempdir().unwrap();
        let sidecar = folder.path().join("durable");
        let store = MemoryStore::new();
        let failing = FailsAfterRemoval(store.clone(), Arc::default());
        let (wal, writer) = start(failing, Some(&sidecar), WalOptions::default());
        let (entries, _) = groups(1, 10, 1, 1, ChainHash::GENESIS);
        assert!(wait(|done| writer.append_entries(STREAM, entries, done)));
        let (promises, position) = purged_at(50);
        writer.promise(0, promises, Box::new(|| {})).unwrap();
        assert!(!wait(|done| writer.begin_at(STREAM, position, done)));
        assert!(wal.stop().is_err());
        assert_eq!(store.crash(kept), 10);
        let replica = recover(&store, Some(&sidecar)).unwrap();
        assert_eq!((replica.log.position(), replica.has_leftovers), (position, kept < 10));
        let (wal, writer) = start(store.clone(), Some(&sidecar), WalOptions::default());
        assert!(wait(|done| writer.begin_at(STREAM, position, done)));
        assert!(wait(|done| writer.append_entries(STREAM, vec![blank(51, 5)], done)));
        wal.stop().unwrap();
        let replica = recover(&store, Some(&sidecar)).unwrap();
        assert_eq!((replica.log.last_index, replica.has_leftovers), (LogIndex(51), false));
    }
}

#[test]
fn an_end_is_taken_back_across_segments() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DataDirectory::open(folder.path(), &small_segments(64 * 1024)).unwrap();
    let start = || {
        let directory = open();
        let replica = directory.recover_replica(0, None).unwrap();
        let (listener, _) = listener();
        let wal = Wal::start(directory, [replica.log, replica.votes], WalOptions::default(), listener).unwrap();
        let writer = wal.writer();
        (wal, writer, replica)
    };
    let (wal, writer, _) = start();
    let (reader, mut index, mut chain, mut entries) = (wal.reader(), 0, ChainHash::GENESIS, Vec::new());
    while reader.segments().unwrap().iter().filter(|segment| !segment.last.is_empty()).count() < 4 {
        index += 1;
        let (entry, next) = grouped(index, 1, index, 60, chain);
        chain = next;
        entries.push(entry.clone());
        assert!(wait(|done| writer.append_entries(STREAM, vec![entry], done)));
    }
    // Into the middle of the second segment, which has been left and may be sealed.
    let second = &reader.segments().unwrap()[1];
    let last = second.first[&STREAM].0.0.midpoint(second.last[&STREAM].0.0);
    assert!(wait(|done| writer.truncate_after(STREAM, LogIndex(last), LogPosition::GENESIS, done)));
    entries.truncate(usize::try_from(last).unwrap());
    assert_eq!(read(&reader), entries);
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(last + 1, 2)], done)));
    entries.push(blank(last + 1, 2));
    wal.stop().unwrap();
    let (wal, writer, replica) = start();
    assert_eq!(replica.log.last_index, LogIndex(last + 1));
    assert_eq!(read(&wal.reader()), entries);
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(last + 2, 2)], done)));
    wal.stop().unwrap();
    assert_eq!(open().recover_replica(0, None).unwrap().log.last_index, LogIndex(last + 2));
}

#[test]
fn votes_and_what_precedes_the_first_group_do_not_make_a_log_look_old() {
    let folder = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(folder.path(), &common::options()).unwrap();
    let replica = directory.recover_replica(0, None).unwrap();
    let (listener, _) = listener();
    let wal = Wal::start(directory, [replica.log, replica.votes], WalOptions::default(), listener).unwrap();
    let writer = wal.writer();
    assert!(wait(|done| writer.promise(0, vote(1, false), done)));
    assert!(wait(|done| writer.append_entries(STREAM, vec![blank(1, 1)], done)));
    let (entries, _) = groups(2, 4, 1, 1, ChainHash::GENESIS);
    assert!(wait(|done| writer.append_entries(STREAM, entries, done)));
    assert!(wait(|done| writer.promise(0, vote(2, false), done)));
    let times = |segments: &[tidegate_persistence::SegmentInfo]| (segments[0].oldest_time, segments[0].newest_time);
    assert_eq!(times(&wal.reader().segments().unwrap()), (at(1), at(3)));
    assert_eq!(wal.reader().size().unwrap().oldest_time, Some(at(1)));
    wal.stop().unwrap();
}

#[test]
fn a_log_whose_beginning_is_in_a_snapshot_begins_there() {
    let folder = tempfile::tempdir().unwrap();
    let Started { wal, writer, ear, .. } =
        start_in(DataDirectory::open(folder.path(), &small_segments(64 * 1024)).unwrap(), WalOptions::default());
    let reader = wal.reader();
    let mut sequence = 0;
    while reader.segments().unwrap().iter().filter(|segment| !segment.last.is_empty()).count() < 3 {
        sequence += 1;
        writer.append(STREAM, group(sequence, 60));
        ear.wait_committed(STREAM, sequence);
    }
    let last = reader.segments().unwrap()[0].last[&STREAM].0;
    let position = reader.position(STREAM, GroupSequence(last.0 + 2)).unwrap().unwrap();
    assert_eq!(reader.compact(&[(STREAM, last.next())].into()).unwrap().segments, 1);
    wal.stop().unwrap();
    let directory = DataDirectory::open(folder.path(), &small_segments(64 * 1024)).unwrap();
    assert_eq!(damage(directory.recover_replica(0, None)).what, DamageKind::Hole { expected: LogIndex(1) });
    let begin = Purged { leader: NodeId(1), position };
    let replica = directory.recover_replica(0, Some(begin)).unwrap();
    assert_eq!(replica.promises, Promises { vote: None, purged: Some(begin) });
    assert_eq!(
        (replica.log.last_index, replica.log.last_sequence.0, replica.last_leader),
        (LogIndex(sequence), sequence, NodeId(1))
    );
}

#[test]
fn a_directory_gives_the_entries_of_its_log_and_a_running_log_who_proposed_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DataDirectory::open(folder.path(), &small_segments(64 * 1024)).unwrap();
    let directory = open();
    let replica = directory.recover_replica(0, None).unwrap();
    let (listener, _) = listener();
    let wal = Wal::start(directory, [replica.log, replica.votes], WalOptions::default(), listener).unwrap();
    let (first, chain) = grouped(2, 4, 1, 3, ChainHash::GENESIS);
    let (second, chain) = grouped(4, 5, 2, 3, chain);
    let entries = vec![entry(1, 4, EntryContent::Membership(b"who they are".to_vec())), first, blank(3, 5), second];
    let writer = wal.writer();
    assert!(wait(|done| writer.append_entries(STREAM, entries.clone(), done)));
    let position = LogPosition { index: LogIndex(4), sequence: GroupSequence(2), chain, term: Term(5), time: at(2) };
    let found = wal.reader().position_and_leader(STREAM, GroupSequence(2)).unwrap();
    assert_eq!(found, Some((position, NodeId(5 % 3 + 1))));
    assert_eq!(wal.reader().position_and_leader(STREAM, GroupSequence(0)).unwrap(), None);
    wal.stop().unwrap();

    let mut visited = Vec::new();
    let visit = |entry: &tidegate_persistence::RecoveredEntry<'_>| {
        visited.push(ReplicatedEntry::read(entry)?);
        Ok(if entry.index == LogIndex(3) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    open().read_entries(STREAM, LogIndex(2), visit).unwrap();
    assert_eq!(visited, entries[1..3]);
}
