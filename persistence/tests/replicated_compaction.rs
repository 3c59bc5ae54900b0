//! Compaction where logs are replicated: what was not purged stays, and the newest vote outlives its segment, whenever the power goes.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use common::{PATIENCE, group, header, listener, small_segments};
use tidegate_persistence::recovery::recover_replica;
use tidegate_persistence::store::Visit;
use tidegate_persistence::{
    Compacted, DataDirectory, Done, Durability, EntryContent, GroupSequence, LogIndex, LogPosition, LogStore, MemoryStore, NodeId,
    Promises, Purged, ReadError, RecordHeader, RecordKey, RecoveredReplica, RecoveryProgress, ReplicatedEntry, SegmentInfo,
    StoreError, StreamId, Term, Vote, Wal, WalError, WalOptions, WalWriter,
};

/// Its shard is busy.
const BUSY: StreamId = StreamId::log(0);
/// Its shard does nothing more.
const IDLE: StreamId = StreamId::log(1);

const fn vote(term: u64) -> Vote {
    Vote { term: Term(term), leader: NodeId(2), is_granted: true }
}

/// Hands something over and waits until it is said to be durable.
fn wait(hand_over: impl FnOnce(Done) -> Result<(), WalError>) {
    let (sender, done) = mpsc::channel();
    hand_over(Box::new(move || sender.send(()).unwrap())).unwrap();
    done.recv_timeout(PATIENCE).unwrap();
}

/// Appends groups to the log of a shard, each in an entry of term 1, one behind the other.
struct Shard {
    stream: StreamId,
    end: LogPosition,
}

impl Shard {
    const fn new(stream: StreamId) -> Self {
        Self { stream, end: LogPosition::GENESIS }
    }

    fn append(&mut self, writer: &WalWriter, events: u64) {
        let group = group(self.end.sequence.0 + 1, events);
        let chain = header(&group, self.end.chain).chain(&group.payload);
        let predecessor = std::mem::replace(&mut self.end.chain, chain);
        let RecordHeader { term, sequence, time, .. } = header(&group, predecessor);
        self.end = LogPosition { index: self.end.index.next(), sequence, term, time, ..self.end };
        let content = EntryContent::Group { predecessor, group: Arc::new(group) };
        let entry = ReplicatedEntry { index: self.end.index, term, leader: NodeId(1), content };
        wait(|done| writer.append_entries(self.stream, vec![entry], done));
    }

    /// Promises that all of it up to here was purged, and says so.
    fn purge(&self, writer: &WalWriter, term: u64) -> Promises {
        let purged = Purged { leader: NodeId(1), position: self.end };
        let promises = Promises { vote: Some(vote(term)), purged: Some(purged) };
        wait(|done| writer.promise(self.stream.shard(), promises, done));
        promises
    }
}

fn all() -> BTreeMap<StreamId, LogIndex> {
    [BUSY, IDLE].map(|stream| (stream, LogIndex(u64::MAX))).into()
}

fn holding(segments: &[SegmentInfo]) -> usize {
    segments.iter().filter(|segment| !segment.last.is_empty()).count()
}

fn open(path: &Path) -> DataDirectory {
    let mut options = small_segments(64 * 1024);
    options.identity.shards = Some(2);
    DataDirectory::open(path, &options).unwrap()
}

fn start(path: &Path) -> Wal {
    let directory = open(path);
    let tails = [0, 1].map(|shard| directory.recover_replica(shard, None).unwrap()).map(|replica| [replica.log, replica.votes]);
    let (listener, _) = listener();
    Wal::start(directory, tails.into_iter().flatten(), WalOptions::default(), listener).unwrap()
}

#[test]
fn the_newest_vote_is_written_again_when_its_segment_goes_and_what_was_not_purged_stays() {
    let folder = tempfile::tempdir().unwrap();
    let wal = start(folder.path());
    let (writer, reader) = (wal.writer(), wal.reader());
    let (mut busy, mut idle) = (Shard::new(BUSY), Shard::new(IDLE));
    idle.append(&writer, 3);
    let of_idle = idle.purge(&writer, 7);
    wait(|done| writer.promise(0, Promises { vote: Some(vote(2)), purged: None }, done));
    let fill = |busy: &mut Shard, segments: usize| {
        while holding(&reader.segments().unwrap()) < segments {
            busy.append(&writer, 60);
        }
    };
    fill(&mut busy, 4);
    // Nobody has promised that any of it was purged.
    assert_eq!(reader.compact(&all()).unwrap().segments, 0);
    let of_busy = busy.purge(&writer, 3);
    fill(&mut busy, 6);
    let compacted = reader.compact(&all()).unwrap();
    let purged = of_busy.base().index;
    let first = reader.segments().unwrap()[0].clone();
    assert_eq!((compacted.segments, first.number), (3, 4), "the fourth was written when it was promised");
    assert!((first.first[&BUSY].0..=first.last[&BUSY].0).contains(&purged.next()), "{first:?}");
    // Nothing of the idle shard is left but the vote, which was written once more; it is not written again for nothing.
    assert_eq!(reader.compact(&all()).unwrap().segments, 0);
    wal.stop().unwrap();

    let directory = open(folder.path());
    let replica = directory.recover_replica(1, None).unwrap();
    assert_eq!((replica.promises, replica.log.position()), (of_idle, idle.end));
    assert_eq!(replica.votes.last_index, LogIndex(2));
    let replica = directory.recover_replica(0, None).unwrap();
    assert_eq!((replica.promises, replica.log.position()), (of_busy, busy.end));
    drop(directory);

    // Both go on.
    let wal = start(folder.path());
    idle.append(&wal.writer(), 1);
    busy.append(&wal.writer(), 1);
    wal.stop().unwrap();
    let directory = open(folder.path());
    let ends = [0, 1].map(|shard| directory.recover_replica(shard, None).unwrap().log.position());
    assert_eq!(ends, [busy.end, idle.end]);
}

/// A store in memory that is made of segments, and in which a segment's removal survives the loss of power that comes with it.
#[derive(Clone)]
struct Segmented {
    memory: MemoryStore,
    /// The segment that each value is in.
    places: Arc<Mutex<BTreeMap<RecordKey, u64>>>,
    writing: Arc<Mutex<u64>>,
}

impl Segmented {
    fn new() -> Self {
        Self { memory: MemoryStore::new(), places: Arc::default(), writing: Arc::new(Mutex::new(1)) }
    }

    fn begin_segment(&self) {
        *self.writing.lock().unwrap() += 1;
    }
}

impl LogStore for Segmented {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.places.lock().unwrap().insert(key, *self.writing.lock().unwrap());
        self.memory.append(key, value)
    }

    fn remove(&self, _: RecordKey, _: LogIndex) -> Result<u64, StoreError> {
        unreachable!("nothing is taken back here")
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.memory.flush()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.memory.sync()
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.memory.scan(from, visit)
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        self.memory.last_key(stream)
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        self.memory.streams()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let places = self.places.lock().unwrap();
        let segment = |number| {
            let held = places.iter().filter(|(_, place)| **place == number);
            let last: BTreeMap<_, _> = held.map(|(key, _)| (key.stream, (key.index, GroupSequence(0)))).collect();
            SegmentInfo {
                number,
                bytes_on_disk: 0,
                oldest_time: common::at(0),
                newest_time: common::at(0),
                first: last.clone(),
                last,
            }
        };
        (1..=*self.writing.lock().unwrap()).map(segment).collect()
    }

    fn compact(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> Result<Compacted, StoreError> {
        let lies_below = |segment: &SegmentInfo| {
            segment.last.iter().all(|(stream, (last, _))| keep_from.get(stream).is_some_and(|keep| last < keep))
        };
        let segments = self.segments();
        let gone = segments[..segments.len() - 1].iter().take_while(|segment| lies_below(segment)).count() as u64;
        // The power goes: nothing survives that was not synced, and the removal does.
        self.memory.crash(0);
        for (key, _) in self.places.lock().unwrap().iter().filter(|(_, place)| **place <= gone) {
            self.memory.remove(*key, key.index).unwrap();
        }
        self.memory.sync()?;
        Err(StoreError::Damaged(format!("the power is gone, and so are {gone} segments")))
    }
}

fn recover(store: &dyn LogStore, shard: u16) -> RecoveredReplica {
    recover_replica(store, shard, None, &|_| None, &RecoveryProgress::default()).unwrap()
}

#[test]
fn neither_a_vote_nor_a_purge_is_lost_with_the_power_that_goes_behind_a_compaction() {
    for durability in [Durability::None, Durability::ProcessCrash, Durability::PowerLoss] {
        let store = Segmented::new();
        let tails = [0, 1].map(|shard| recover(&store, shard)).map(|replica| [replica.log, replica.votes]);
        let (listener, _) = listener();
        let options = WalOptions { durability, ..WalOptions::default() };
        let wal = Wal::start_on(Box::new(store.clone()), NodeId(1), tails.into_iter().flatten(), options, listener).unwrap();
        let writer = wal.writer();
        let (mut busy, mut idle) = (Shard::new(BUSY), Shard::new(IDLE));
        idle.append(&writer, 1);
        let of_idle = idle.purge(&writer, 7);
        busy.append(&writer, 1);
        store.begin_segment();
        busy.append(&writer, 1);
        let of_busy = busy.purge(&writer, 3);
        busy.append(&writer, 1);
        let gone = wal.reader().compact(&all());
        assert!(matches!(&gone, Err(ReadError::Log(error)) if error.to_string().ends_with("so are 1 segments")), "{gone:?}");

        let replica = recover(&store.memory, 1);
        assert_eq!((replica.promises, replica.votes.last_index), (of_idle, LogIndex(2)), "{durability}");
        let replica = recover(&store.memory, 0);
        assert_eq!((replica.promises, replica.log.position()), (of_busy, busy.end), "{durability}");
        drop(wal);
    }
}

#[test]
fn a_vote_that_cannot_be_read_keeps_everything_and_is_named() {
    let store = Segmented::new();
    let tails = [recover(&store, 0)].map(|replica| [replica.log, replica.votes]);
    let (listener, _) = listener();
    let wal =
        Wal::start_on(Box::new(store.clone()), NodeId(1), tails.into_iter().flatten(), WalOptions::default(), listener).unwrap();
    let mut busy = Shard::new(BUSY);
    busy.append(&wal.writer(), 1);
    busy.purge(&wal.writer(), 3);
    let key = RecordKey { stream: StreamId::votes(0), index: LogIndex(1), part: 0 };
    store.append(key, b"no record").unwrap();
    let error = wal.reader().compact(&all()).unwrap_err().to_string();
    assert!(error.starts_with("the votes of shard 0 is damaged at entry 1"), "{error}");
    // The log goes on.
    busy.append(&wal.writer(), 1);
    wal.stop().unwrap();
    let visited = &mut 0;
    store
        .scan(RecordKey { stream: BUSY, index: LogIndex(0), part: 0 }, &mut |_, _| {
            *visited += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(*visited, 2);
}
