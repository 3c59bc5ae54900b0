//! The log's thread: what it tells, in which order, and how it fails and stops.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::{PATIENCE, STREAM, Started, Told, group, listener, open, payloads, start, write_groups};
use tidegate_persistence::recovery::replay;
use tidegate_persistence::store::Visit;
use tidegate_persistence::{
    Durability, GROUP_BYTES_MAX, LogIndex, LogStore, MemoryStore, NodeId, RecordKey, RecoveredStream, RecoveryProgress, SteppedWal,
    StoreError, StreamId, Wal, WalError, WalOptions,
};

const SECOND: StreamId = StreamId::log(1);

fn tails() -> [RecoveredStream; 2] {
    [RecoveredStream::empty(STREAM), RecoveredStream::empty(SECOND)]
}

fn recovered(store: &dyn LogStore, stream: StreamId) -> (RecoveredStream, Vec<Vec<u8>>) {
    let mut payloads = Vec::new();
    let end = replay(store, stream, None, None, &RecoveryProgress::default(), &mut |group| {
        payloads.push(group.payload.to_vec());
        Ok(())
    });
    (end.unwrap(), payloads)
}

/// What a store does instead of syncing.
#[derive(Clone)]
enum Sync {
    /// Says that it is about to, and waits to be let through.
    Wait(Arc<Mutex<(Sender<()>, Receiver<()>)>>),
    /// Fails.
    Fail,
    /// What it should, but appends fail.
    FailAppend,
}

struct Wrapped(MemoryStore, Sync);

impl LogStore for Wrapped {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        if matches!(self.1, Sync::FailAppend) {
            return Err(StoreError::Io(io::Error::other("no append today")));
        }
        self.0.append(key, value)
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        self.0.remove(from, to)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.0.flush()
    }

    fn sync(&self) -> Result<(), StoreError> {
        // The sync of an empty log, before it starts, is of no interest here.
        if self.0.streams()?.is_empty() {
            return self.0.sync();
        }
        match &self.1 {
            Sync::Wait(gate) => {
                let gate = gate.lock().unwrap();
                gate.0.send(()).unwrap();
                gate.1.recv_timeout(PATIENCE).unwrap();
            }
            Sync::Fail => return Err(StoreError::Io(io::Error::other("no sync today"))),
            Sync::FailAppend => {}
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

fn start_on(store: impl LogStore + 'static, options: WalOptions) -> (Wal, common::Ear) {
    let (listener, ear) = listener();
    (Wal::start_on(Box::new(store), NodeId(1), tails(), options, listener).unwrap(), ear)
}

#[test]
fn one_sync_covers_every_group_that_has_gathered_of_all_streams() {
    let memory = MemoryStore::new();
    let ((at_sync, syncing), (go, let_through)) = (channel(), channel());
    let store = Wrapped(memory.clone(), Sync::Wait(Arc::new(Mutex::new((at_sync, let_through)))));
    let (wal, ear) = start_on(store, WalOptions::default());
    let (writer, other) = (wal.writer(), wal.writer());
    writer.append(STREAM, group(1, 1));
    syncing.recv_timeout(PATIENCE).unwrap();
    // The first group is being synced; these gather.
    for sequence in 2..=50 {
        writer.append(STREAM, group(sequence, 2));
        other.append(SECOND, group(sequence - 1, 3));
    }
    go.send(()).unwrap();
    assert!(matches!(ear.next(), Told::Committed(STREAM, sequence) if sequence.0 == 1));
    assert!(matches!(ear.next(), Told::Synced(report) if (report.groups, report.events, report.values) == (1, 1, 1)));
    syncing.recv_timeout(PATIENCE).unwrap();
    // Nothing of the second sync is told before it is done: a crash now would take it all.
    go.send(()).unwrap();
    assert!(matches!(ear.next(), Told::Committed(STREAM, sequence) if sequence.0 == 50));
    assert!(matches!(ear.next(), Told::Committed(SECOND, sequence) if sequence.0 == 49));
    let Told::Synced(report) = ear.next() else { panic!("a sync is told after its groups") };
    assert_eq!((report.groups, report.events, report.values), (98, 49 * 2 + 49 * 3, 98));
    // One sync at the start, one for each of the two rounds.
    assert_eq!(memory.syncs(), 3);
    go.send(()).unwrap();
    wal.stop().unwrap();
    assert_eq!(recovered(&memory, STREAM).1, (1..=50).map(|sequence| group(sequence, sequence.min(2)).payload).collect::<Vec<_>>());
    assert_eq!(recovered(&memory, SECOND).0.groups, 49);
}

#[test]
fn what_is_told_as_committed_survives_a_crash_at_that_moment() {
    let memory = MemoryStore::new();
    let (wal, ear) = start_on(memory.clone(), WalOptions::default());
    for sequence in 1..=20 {
        wal.writer().append(STREAM, group(sequence, 100));
        ear.wait_committed(STREAM, sequence);
        memory.crash(0);
        assert_eq!(recovered(&memory, STREAM).0.last_sequence.0, sequence);
    }
    wal.stop().unwrap();
}

#[test]
fn committed_groups_are_told_in_order() {
    let (wal, ear) = start_on(MemoryStore::new(), WalOptions::default());
    for sequence in 1..=500 {
        wal.writer().append(STREAM, group(sequence, 1));
    }
    wal.stop().unwrap();
    let told: Vec<u64> = ear
        .rest()
        .into_iter()
        .filter_map(|told| match told {
            Told::Committed(STREAM, sequence) => Some(sequence.0),
            _ => None,
        })
        .collect();
    assert!(told.is_sorted_by(|before, after| before < after), "{told:?}");
    assert_eq!(told.last(), Some(&500));
}

#[test]
fn a_large_group_is_split_and_comes_back_whole() {
    let memory = MemoryStore::new();
    let options = WalOptions { value_bytes_max: Some(512), ..WalOptions::default() };
    let (wal, ear) = start_on(memory.clone(), options);
    wal.writer().append(STREAM, group(1, 1_000));
    wal.writer().append(STREAM, group(2, 1));
    wal.stop().unwrap();
    let values = ear.rest().iter().map(|told| if let Told::Synced(report) = told { report.values } else { 0 }).sum::<u64>();
    assert_eq!(values, group(1, 1_000).payload.len().div_ceil(512 - 55) as u64 + 1);
    let (end, payloads) = recovered(&memory, STREAM);
    assert_eq!((end.last_index.0, payloads), (2, vec![group(1, 1_000).payload, group(2, 1).payload]));
    assert_eq!(memory.last_key(STREAM).unwrap().unwrap().index, LogIndex(2));
}

#[test]
fn a_crash_at_any_change_of_a_sync_leaves_whole_groups_and_the_log_goes_on() {
    let options = WalOptions { value_bytes_max: Some(512), ..WalOptions::default() };
    let values_of_two = 2 * group(2, 30).payload.len().div_ceil(512 - 55);
    for kept in 0..=values_of_two {
        let memory = MemoryStore::new();
        let (wal, ear) = start_on(memory.clone(), options.clone());
        wal.writer().append(STREAM, group(1, 1));
        ear.wait_committed(STREAM, 1);
        wal.stop().unwrap();
        // Two groups are appended and not yet synced when the power goes.
        let (unsynced, _ear) = start_unsynced(&memory, options.clone());
        for sequence in 2..=3 {
            unsynced.append(STREAM, group(sequence, 30));
        }
        drop(unsynced);
        let lost = memory.crash(kept);
        assert_eq!(lost, values_of_two);
        let (end, payloads) = recovered(&memory, STREAM);
        let whole = 1 + kept / (values_of_two / 2);
        assert_eq!(payloads.len(), whole, "{kept} values kept");
        assert_eq!(end.discarded_tail_parts as usize, kept % (values_of_two / 2));
        // The next group takes the place of the unfinished one.
        let (listener, ear) = listener();
        let wal = Wal::start_on(Box::new(memory.clone()), NodeId(1), [end], options.clone(), listener).unwrap();
        let next = end.last_sequence.0 + 1;
        wal.writer().append(STREAM, group(next, 2));
        ear.wait_committed(STREAM, next);
        wal.stop().unwrap();
        let (end, payloads) = recovered(&memory, STREAM);
        assert_eq!((payloads.len(), end.discarded_tail_parts), (whole + 1, 0));
        assert_eq!(payloads[whole], group(next, 2).payload);
    }
}

#[test]
fn a_second_crash_while_an_unfinished_group_is_removed_leaves_a_log_that_opens() {
    let memory = MemoryStore::new();
    let options = WalOptions { value_bytes_max: Some(512), ..WalOptions::default() };
    let parts = group(1, 60).payload.len().div_ceil(512 - 55);
    let (unsynced, _ear) = start_unsynced(&memory, options);
    unsynced.append(STREAM, group(1, 60));
    drop(unsynced);
    memory.crash(parts - 1);
    let end = recovered(&memory, STREAM).0;
    assert_eq!(end.discarded_tail_parts as usize, parts - 1);
    // Only the first removal survives each time.
    for left in (1..parts - 1).rev() {
        let from = RecordKey { stream: STREAM, index: LogIndex(1), part: 0 };
        memory.remove(from, LogIndex(1)).unwrap();
        memory.crash(1);
        assert_eq!(recovered(&memory, STREAM).0.discarded_tail_parts as usize, left);
    }
}

/// A log that never syncs what it appends, not even when it stops.
struct Unsynced(Option<Wal>, tidegate_persistence::WalWriter);

impl Unsynced {
    fn append(&self, stream: StreamId, group: tidegate_persistence::Group) {
        self.1.append(stream, group);
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        // The failed sync is the point.
        assert!(self.0.take().unwrap().stop().is_err());
    }
}

fn start_unsynced(memory: &MemoryStore, options: WalOptions) -> (Unsynced, common::Ear) {
    let (listener, ear) = listener();
    let tail = recovered(memory, STREAM).0;
    let options = WalOptions { durability: Durability::None, ..options };
    let wal = Wal::start_on(Box::new(Wrapped(memory.clone(), Sync::Fail)), NodeId(1), [tail], options, listener).unwrap();
    let writer = wal.writer();
    (Unsynced(Some(wal), writer), ear)
}

fn check_failure(sync: Sync, groups: impl IntoIterator<Item = (StreamId, tidegate_persistence::Group)>, message: &str) {
    let memory = MemoryStore::new();
    let (wal, ear) = start_on(Wrapped(memory, sync), WalOptions::default());
    let writer = wal.writer();
    for (stream, group) in groups {
        writer.append(stream, group);
    }
    assert!(matches!(ear.next(), Told::Failed(error) if error == message));
    // It takes nothing more, and says nothing more.
    writer.append(STREAM, group(1, 1));
    assert_eq!(wal.stop().unwrap_err().to_string(), message);
    writer.append(STREAM, group(1, 1));
    assert_eq!(ear.rest().len(), 0);
}

#[test]
fn a_failed_sync_stops_the_log_and_commits_nothing() {
    check_failure(Sync::Fail, [(STREAM, group(1, 1))], "log store failed: no sync today");
}

#[test]
fn a_failed_append_stops_the_log_and_commits_nothing() {
    check_failure(Sync::FailAppend, [(STREAM, group(1, 1))], "log store failed: no append today");
}

#[test]
fn a_group_that_does_not_follow_the_last_stops_the_log() {
    let go_through = || Sync::Fail;
    check_failure(go_through(), [(STREAM, group(2, 1))], "group 2 of the log of shard 0 where 1 was expected");
    check_failure(
        go_through(),
        [(STREAM, group(1, 1)), (STREAM, group(1, 1))],
        "group 1 of the log of shard 0 where 2 was expected",
    );
    check_failure(
        go_through(),
        [(StreamId::log(2), group(1, 1))],
        "the log of shard 2 was not recovered before it was appended to",
    );
    let mut early = group(2, 1);
    early.time = common::at(0);
    let message =
        format!("group of the log of shard 0 at {} ms after one at {} ms", common::at(0).unix_ms(), common::at(1).unix_ms());
    check_failure(go_through(), [(STREAM, group(1, 1)), (STREAM, early)], &message);
    let mut large = group(1, 1);
    large.payload = vec![0; GROUP_BYTES_MAX + 1];
    check_failure(go_through(), [(STREAM, large)], "group of the log of shard 0 has 16777217 bytes where 16777216 are allowed");
}

#[test]
fn the_largest_group_is_written_and_read() {
    let memory = MemoryStore::new();
    let options = WalOptions { value_bytes_max: Some(512), ..WalOptions::default() };
    let (wal, ear) = start_on(memory.clone(), options);
    let mut large = group(1, 1);
    large.payload.resize(GROUP_BYTES_MAX, 7);
    wal.writer().append(STREAM, large.clone());
    ear.wait_committed(STREAM, 1);
    wal.stop().unwrap();
    assert!(recovered(&memory, STREAM).1 == [large.payload]);
}

#[test]
fn a_value_bound_outside_its_bounds_is_refused() {
    for given in [511, 6_145] {
        let options = WalOptions { value_bytes_max: Some(given), ..WalOptions::default() };
        let error = Wal::start_on(Box::new(MemoryStore::new()), NodeId(1), tails(), options, listener().0).unwrap_err();
        assert_eq!(error.to_string(), format!("value_bytes_max is {given} where 512 to 6144 are allowed"));
    }
}

#[test]
fn a_stop_writes_what_was_handed_over_and_what_comes_later_goes_nowhere() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash, Durability::None] {
        let memory = MemoryStore::new();
        let (wal, _ear) = start_on(memory.clone(), WalOptions { durability, ..WalOptions::default() });
        let writer = wal.writer();
        for sequence in 1..=100 {
            writer.append(STREAM, group(sequence, 10));
        }
        wal.stop().unwrap();
        writer.append(STREAM, group(101, 1));
        memory.crash(0);
        assert_eq!(recovered(&memory, STREAM).0.last_sequence.0, 100, "{durability}");
    }
}

#[test]
fn a_dropped_log_is_stopped_too() {
    let memory = MemoryStore::new();
    let (wal, _ear) = start_on(memory.clone(), WalOptions::default());
    wal.writer().append(STREAM, group(1, 1));
    drop(wal);
    memory.crash(0);
    assert_eq!(recovered(&memory, STREAM).0.last_sequence.0, 1);
}

#[test]
fn durability_says_what_a_committed_group_survives() {
    for (durability, after_kill, after_crash) in
        [(Durability::PowerLoss, 1, 1), (Durability::ProcessCrash, 1, 0), (Durability::None, 0, 0)]
    {
        let memory = MemoryStore::new();
        let (wal, ear) = start_on(memory.clone(), WalOptions { durability, ..WalOptions::default() });
        wal.writer().append(STREAM, group(1, 1));
        ear.wait_committed(STREAM, 1);
        memory.kill();
        assert_eq!(recovered(&memory, STREAM).0.groups, after_kill, "{durability}");
        memory.crash(0);
        assert_eq!(recovered(&memory, STREAM).0.groups, after_crash, "{durability}");
        wal.stop().unwrap();
    }
}

#[test]
fn a_sync_makes_what_was_handed_over_before_it_survive_a_loss_of_power_whatever_the_durability() {
    for durability in [Durability::None, Durability::ProcessCrash] {
        let memory = MemoryStore::new();
        let (wal, ear) = start_on(memory.clone(), WalOptions { durability, ..WalOptions::default() });
        wal.writer().append(STREAM, group(1, 3));
        ear.wait_committed(STREAM, 1);
        let syncs = memory.syncs();
        wal.writer().append(STREAM, group(2, 3));
        wal.writer().append(SECOND, group(1, 3));
        wal.writer().sync().unwrap();
        assert_eq!(memory.syncs(), syncs + 1);
        // With nothing appended since, the log syncs when it is asked again too.
        wal.writer().sync().unwrap();
        assert_eq!(memory.syncs(), syncs + 2);
        assert_eq!(memory.crash(0), 0);
        assert_eq!(recovered(&memory, STREAM).1, [group(1, 3).payload, group(2, 3).payload]);
        assert_eq!(recovered(&memory, SECOND).1, [group(1, 3).payload]);
        // What comes later is as durable as the log is, which is not at all.
        wal.writer().append(STREAM, group(3, 3));
        ear.wait_committed(STREAM, 3);
        assert_eq!(memory.crash(0), 1);
        assert_eq!(recovered(&memory, STREAM).0.last_sequence.0, 2);
        wal.stop().unwrap();
    }
}

#[test]
fn a_sync_of_a_log_that_has_stopped_or_failed_says_so() {
    let (wal, _ear) = start_on(MemoryStore::new(), WalOptions::default());
    let writer = wal.writer();
    writer.sync().unwrap();
    wal.stop().unwrap();
    assert!(matches!(writer.sync(), Err(WalError::Stopped)));
    // The one that fails tells nobody yes.
    let (wal, _ear) =
        start_on(Wrapped(MemoryStore::new(), Sync::Fail), WalOptions { durability: Durability::None, ..WalOptions::default() });
    let writer = wal.writer();
    writer.append(STREAM, group(1, 1));
    assert!(matches!(writer.sync(), Err(WalError::Stopped)));
    assert!(matches!(writer.sync(), Err(WalError::Stopped)));
    assert_eq!(wal.stop().unwrap_err().to_string(), "log store failed: no sync today");
}

#[test]
fn durability_is_written_as_it_is_read() {
    for (text, durability) in
        [("power_loss", Durability::PowerLoss), ("process_crash", Durability::ProcessCrash), ("none", Durability::None)]
    {
        assert_eq!(text.parse(), Ok(durability));
        assert_eq!(durability.to_string(), text);
    }
    assert_eq!(Durability::default(), Durability::PowerLoss);
    let error = "fsync".parse::<Durability>().unwrap_err();
    assert_eq!(error.to_string(), "durability is \"fsync\" where power_loss, process_crash or none is allowed");
}

#[test]
fn a_log_that_starts_makes_what_it_recovered_durable() {
    let memory = MemoryStore::new();
    common::put_groups(&memory, STREAM, 1, 3, 1, tidegate_persistence::ChainHash::GENESIS);
    memory.flush().unwrap();
    // The process was killed after the groups were written and before they were synced; whoever reads them now must keep them.
    let end = recovered(&memory, STREAM).0;
    let wal = Wal::start_on(Box::new(memory.clone()), NodeId(1), [end], WalOptions::default(), listener().0).unwrap();
    memory.crash(0);
    assert_eq!(recovered(&memory, STREAM).0.last_sequence.0, 3);
    wal.stop().unwrap();
}

#[test]
fn the_disk_floor_is_told_when_it_is_crossed_in_either_direction() {
    let free = Arc::new(AtomicU64::new(1_000));
    let looked = Arc::clone(&free);
    let options = WalOptions {
        disk_free_bytes_min: Some(500),
        free_space: Some(Arc::new(move || match looked.load(Ordering::SeqCst) {
            u64::MAX => Err(io::Error::other("no look today")),
            free => Ok(free),
        })),
        ..WalOptions::default()
    };
    let (wal, ear) = start_on(MemoryStore::new(), options);
    // Nothing is written: the idle log looks by itself.
    for (bytes, is_low) in [(499, true), (500, false), (u64::MAX, true), (1_000, false)] {
        free.store(bytes, Ordering::SeqCst);
        assert!(matches!(ear.next(), Told::DiskLow(told) if told == is_low), "{bytes}");
    }
    // What is handed over is written on a full disk too, and the log looks while it writes.
    free.store(0, Ordering::SeqCst);
    let mut sequence = 0;
    let is_low = loop {
        sequence += 1;
        wal.writer().append(STREAM, group(sequence, 1));
        match ear.next() {
            Told::DiskLow(is_low) => break is_low,
            Told::Failed(error) => panic!("{error}"),
            Told::Committed(..) | Told::Synced(_) => {}
        }
    };
    assert!(is_low);
    ear.wait_committed(STREAM, sequence);
    wal.stop().unwrap();
}

#[test]
fn a_disk_that_is_low_at_the_start_is_told_at_once() {
    let options = WalOptions { free_space: Some(Arc::new(|| Ok(512 * 1024 * 1024 - 1))), ..WalOptions::default() };
    let (wal, ear) = start_on(MemoryStore::new(), options);
    assert!(matches!(ear.next(), Told::DiskLow(true)));
    wal.stop().unwrap();
}

#[test]
fn a_log_on_a_real_disk_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 5, 100);
    write_groups(folder.path(), 6, 8, 1_000);
    let (end, payloads) = payloads(&open(folder.path()).unwrap()).unwrap();
    assert_eq!((end.last_sequence.0, end.groups, end.events), (8, 8, 3_500));
    let expected: Vec<_> = (1..=8).map(|sequence| group(sequence, if sequence <= 5 { 100 } else { 1_000 }).payload).collect();
    assert_eq!(payloads, expected);
}

/// The index that the sidecar of the directory has for the stream.
fn durable_index(path: &std::path::Path) -> u64 {
    let sidecar = tidegate_persistence::Sidecar::open(&path.join("durable")).unwrap();
    sidecar.streams().get(&STREAM).map_or(0, |durable| durable.index.0)
}

#[test]
fn the_sidecar_follows_syncs_and_nothing_less() {
    for (durability, running) in [(Durability::PowerLoss, 2), (Durability::ProcessCrash, 0), (Durability::None, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let Started { wal, writer, ear, .. } = start(folder.path(), WalOptions { durability, ..WalOptions::default() });
        for sequence in 1..=2 {
            writer.append(STREAM, group(sequence, 1));
            ear.wait_committed(STREAM, sequence);
        }
        assert_eq!(durable_index(folder.path()), running, "{durability}");
        wal.stop().unwrap();
        assert_eq!(durable_index(folder.path()), 2, "{durability}");
    }
}

#[test]
fn a_stepped_log_writes_what_was_handed_over_when_it_is_told_to_and_not_before() {
    let (store, (listener, ear)) = (MemoryStore::new(), listener());
    let mut wal = SteppedWal::open_on(Box::new(store.clone()), NodeId(1), tails(), WalOptions::default(), listener).unwrap();
    assert!(!wal.step().unwrap(), "nothing was handed over");
    wal.writer().append(STREAM, group(1, 2));
    wal.writer().append(STREAM, group(2, 3));
    assert_eq!(recovered(&store, STREAM).1.len(), 0);
    let syncs = store.syncs();
    assert!(wal.step().unwrap());
    assert_eq!(store.syncs(), syncs + 1, "one sync for all that has gathered");
    wal.writer().append(STREAM, group(3, 1));
    // What was handed over and not written is gone with it.
    drop(wal);
    assert_eq!(recovered(&store, STREAM).1, [group(1, 2).payload, group(2, 3).payload]);
    let told = ear.rest();
    assert!(matches!(&told[..], [Told::Committed(STREAM, sequence), Told::Synced(_)] if sequence.0 == 2), "{told:?}");
}

#[test]
fn a_stepped_log_whose_sync_fails_tells_nobody_that_anything_is_committed() {
    let (store, (listener, ear)) = (MemoryStore::new(), listener());
    let failing = Wrapped(store.clone(), Sync::Fail);
    let mut wal = SteppedWal::open_on(Box::new(failing), NodeId(1), tails(), WalOptions::default(), listener).unwrap();
    wal.writer().append(STREAM, group(1, 2));
    assert!(matches!(wal.step(), Err(WalError::Store(_))));
    drop(wal);
    store.crash(0);
    assert_eq!(recovered(&store, STREAM).1.len(), 0);
    assert!(ear.rest().is_empty());
}
