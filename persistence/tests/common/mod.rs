//! What several of the tests need: groups to write, a listener that waits, and directories.

#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_persistence::{
    Actor, ChainHash, DataDirectory, DirectoryOptions, Group, GroupBuilder, GroupSequence, LogIndex, LogStore, NodeId, OpenError,
    RecordHeader, RecordKey, RecordKind, RecoveredStream, RecoveryError, StreamId, SyncReport, Term, Wal, WalError, WalListener,
    WalOptions, WalWriter, record,
};
use tidegate_stock::{Event, GrantSequence, Partition, Quantity, StockId, StockNumber, Timestamp, UserId};

pub const STREAM: StreamId = StreamId::log(0);

/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const fn at(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + milliseconds)
}

/// What every event of [`group`] has for its image.
pub const IMAGE: &[u8] = b"as it stood";

/// The folder of the only segment of the log in the directory at `path`.
pub fn segment(path: &Path) -> std::path::PathBuf {
    path.join("log/0000000001")
}

/// A group of `events` reservations whose users name the group, so that a group can be told from any other.
pub fn group(sequence: u64, events: u64) -> Group {
    let mut builder = GroupBuilder::new(GroupSequence(sequence), at(sequence));
    for number in 0..events {
        let event = Event::Reserved {
            stock: StockId { partition: Partition(1), number: StockNumber(1) },
            sequence: GrantSequence(sequence * 1_000_000 + number),
            user: UserId::new(&format!("buyer-{sequence}-{number}")).unwrap(),
            quantity: Quantity::ONE,
            expires_at: at(sequence + 600_000),
            reference: None,
            idempotency: None,
        };
        builder.push(&event, &Actor::Clock, at(sequence), IMAGE);
    }
    builder.finish()
}

pub fn header(group: &Group, predecessor: ChainHash) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Group,
        term: Term(1),
        leader: NodeId(1),
        sequence: group.sequence,
        predecessor,
        time: group.time,
    }
}

/// Writes `group` at `index` in parts of at most `slice_bytes`, only those in `parts`. Returns its chain hash.
pub fn put(
    store: &dyn LogStore,
    stream: StreamId,
    index: u64,
    group: &Group,
    predecessor: ChainHash,
    slice_bytes: usize,
    parts: std::ops::Range<usize>,
) -> ChainHash {
    let header = header(group, predecessor);
    let slices: Vec<&[u8]> = group.payload.chunks(slice_bytes).collect();
    for part in parts.start..parts.end.min(slices.len()) {
        let key = RecordKey { stream, index: LogIndex(index), part: u16::try_from(part).unwrap() };
        let mut value = Vec::new();
        record::encode_value(key, &header, part + 1 == slices.len(), slices[part], &mut value);
        store.append(key, &value).unwrap();
    }
    header.chain(&group.payload)
}

/// Writes groups `first..=last` of `events` events each, one value per group, and returns the chain hash of the last.
pub fn put_groups(store: &dyn LogStore, stream: StreamId, first: u64, last: u64, events: u64, mut chain: ChainHash) -> ChainHash {
    for sequence in first..=last {
        chain = put(store, stream, sequence, &group(sequence, events), chain, 6_000, 0..usize::MAX);
    }
    chain
}

/// What the log told, in the order in which it told it.
#[derive(Debug)]
pub enum Told {
    Committed(StreamId, GroupSequence),
    Synced(SyncReport),
    DiskLow(bool),
    Failed(String),
}

pub struct Listener(Mutex<Sender<Told>>);

pub struct Ear(Receiver<Told>);

pub fn listener() -> (Arc<Listener>, Ear) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Listener(Mutex::new(sender))), Ear(receiver))
}

impl Listener {
    fn tell(&self, told: Told) {
        // A test that has heard enough no longer listens.
        let _ = self.0.lock().unwrap().send(told);
    }
}

impl WalListener for Listener {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        self.tell(Told::Committed(stream, sequence));
    }

    fn synced(&self, report: &SyncReport) {
        self.tell(Told::Synced(*report));
    }

    fn disk_low(&self, is_low: bool) {
        self.tell(Told::DiskLow(is_low));
    }

    fn failed(&self, error: &WalError) {
        self.tell(Told::Failed(error.to_string()));
    }
}

impl Ear {
    pub fn next(&self) -> Told {
        self.0.recv_timeout(PATIENCE).expect("the log tells something in time")
    }

    /// Everything told and not yet heard; ends when the log is gone.
    pub fn rest(self) -> Vec<Told> {
        self.0.into_iter().collect()
    }

    /// Waits until `sequence` of `stream` is committed.
    pub fn wait_committed(&self, stream: StreamId, sequence: u64) {
        loop {
            match self.next() {
                Told::Committed(told, reached) if told == stream && reached.0 >= sequence => return,
                Told::Failed(error) => panic!("the log failed: {error}"),
                _ => {}
            }
        }
    }
}

pub fn options() -> DirectoryOptions {
    DirectoryOptions::new(at(0))
}

/// Options with segments of so many bytes.
pub fn small_segments(segment_bytes_max: u64) -> DirectoryOptions {
    DirectoryOptions { segment_bytes_max, ..options() }
}

pub fn open(path: &Path) -> Result<DataDirectory, OpenError> {
    DataDirectory::open(path, &options())
}

/// Replays `STREAM` and returns the payloads of its groups.
pub fn payloads(directory: &DataDirectory) -> Result<(RecoveredStream, Vec<Vec<u8>>), RecoveryError> {
    let mut payloads = Vec::new();
    let end = directory.replay(STREAM, |group| {
        payloads.push(group.payload.to_vec());
        Ok(())
    })?;
    Ok((end, payloads))
}

/// A directory's log, started.
pub struct Started {
    pub wal: Wal,
    pub writer: WalWriter,
    pub ear: Ear,
    pub end: RecoveredStream,
}

pub fn start(path: &Path, options: WalOptions) -> Started {
    start_in(open(path).unwrap(), options)
}

/// Starts the log of `directory`, replayed from its beginning.
pub fn start_in(directory: DataDirectory, options: WalOptions) -> Started {
    let end = directory.replay(STREAM, |_| Ok(())).unwrap();
    let (listener, ear) = listener();
    let wal = Wal::start(directory, [end], options, listener).unwrap();
    let writer = wal.writer();
    Started { wal, writer, ear, end }
}

/// Appends groups `first..=last` of `events` events each to the directory at `path`, waits for each to be committed, and stops.
pub fn write_groups(path: &Path, first: u64, last: u64, events: u64) {
    let Started { wal, writer, ear, end } = start(path, WalOptions::default());
    assert_eq!(end.last_sequence.0 + 1, first);
    for sequence in first..=last {
        writer.append(STREAM, group(sequence, events));
        ear.wait_committed(STREAM, sequence);
    }
    wal.stop().unwrap();
}
