//! The log's thread: gather, append, sync, tell. Everything here runs on that one thread, but for [`Log::begin`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tidegate_stock::Timestamp;

use crate::group::Group;
use crate::reader::Kept;
use crate::record::{
    ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term, encode_value,
};
use crate::recovery::RecoveredStream;
use crate::sidecar::{Durable, Sidecar};
use crate::wal::{Durability, FreeSpace, SyncReport, WalError, WalListener};

/// Payload bytes after which the thread syncs what it has, even if more is waiting.
const SYNC_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Shortest time between two looks at the free space while groups are written.
const DISK_LOOK_BUSY: Duration = Duration::from_millis(200);

/// Time between two looks at the free space while nothing is written.
const DISK_LOOK_IDLE: Duration = Duration::from_secs(1);

/// The term of every group of a node that stands alone.
pub(crate) const TERM_ALONE: Term = Term(1);

pub(crate) enum Message {
    Append(StreamId, Group),
    /// Make everything before it survive a loss of power, whatever the durability, and say so.
    Sync(SyncSender<()>),
    Stop,
}

/// Where a stream ends.
pub(crate) struct Tail {
    index: LogIndex,
    sequence: GroupSequence,
    chain: ChainHash,
    time: Timestamp,
    /// Whether parts of an unfinished group lie behind it.
    is_ragged: bool,
}

impl From<RecoveredStream> for Tail {
    fn from(stream: RecoveredStream) -> Self {
        Self {
            index: stream.last_index,
            sequence: stream.last_sequence,
            chain: stream.last_chain,
            time: stream.last_time,
            is_ragged: stream.discarded_tail_parts > 0,
        }
    }
}

/// The log's state.
pub(crate) struct Log {
    /// Readers borrow it, each for as long as it reads.
    pub(crate) kept: Arc<Kept>,
    pub(crate) sidecar: Option<Sidecar>,
    pub(crate) node: NodeId,
    pub(crate) durability: Durability,
    pub(crate) slice_bytes_max: usize,
    pub(crate) tails: BTreeMap<StreamId, Tail>,
    pub(crate) disk: Disk,
    pub(crate) listener: Arc<dyn WalListener>,
    /// The value that is being encoded; kept for its room.
    pub(crate) value: Vec<u8>,
}

impl Log {
    /// Removes unfinished tails and makes what was recovered as durable as the log promises.
    pub(crate) fn begin(&mut self) -> Result<(), WalError> {
        for (stream, tail) in self.tails.iter_mut().filter(|(_, tail)| tail.is_ragged) {
            let index = tail.index.next();
            if mutant!(UnfinishedTailKept) {
                continue;
            }
            let removed = self.kept.store.remove(RecordKey { stream: *stream, index, part: 0 }, index)?;
            tracing::info!(%stream, %index, removed, "removed the parts of an unfinished group that was never acknowledged");
            tail.is_ragged = false;
        }
        self.make_durable(self.durability)
    }

    pub(crate) fn run(mut self, inbox: &Receiver<Message>) -> Result<(), WalError> {
        let result = self.serve(inbox);
        if let Err(error) = &result {
            self.listener.failed(error);
        }
        result
    }

    fn serve(&mut self, inbox: &Receiver<Message>) -> Result<(), WalError> {
        let mut is_open = true;
        while is_open {
            let wait = self.disk.look(&*self.listener);
            is_open = match inbox.recv_timeout(wait) {
                Ok(first) => self.commit(first, inbox)?,
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
        }
        self.make_durable(Durability::PowerLoss)
    }

    /// Writes `first` and what has gathered behind it, and tells of it. Returns whether more may come.
    fn commit(&mut self, first: Message, inbox: &Receiver<Message>) -> Result<bool, WalError> {
        let mut report = SyncReport::default();
        let mut committed = BTreeMap::new();
        let (started, mut payload_bytes, mut is_open) = (Instant::now(), 0, true);
        let mut asked_to_sync = Vec::new();
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            match message {
                Message::Append(stream, group) => {
                    self.append(stream, &group, &mut report)?;
                    committed.insert(stream, group.sequence);
                    payload_bytes += group.payload.len();
                }
                Message::Sync(done) => asked_to_sync.push(done),
                Message::Stop => is_open = false,
            }
            if !is_open || payload_bytes >= SYNC_BYTES_MAX {
                break;
            }
        }
        if !asked_to_sync.is_empty() {
            self.make_durable(Durability::PowerLoss)?;
            // Whoever asked and left does not hear of it.
            for done in asked_to_sync {
                let _ = done.try_send(());
            }
        }
        if report.groups == 0 {
            return Ok(is_open);
        }
        let appended = Instant::now();
        self.make_durable(self.durability)?;
        report.append = appended - started;
        report.sync = appended.elapsed();
        for (stream, sequence) in committed {
            self.listener.committed(stream, sequence);
        }
        self.listener.synced(&report);
        self.kept.store.between_groups()?;
        Ok(is_open)
    }

    fn append(&mut self, stream: StreamId, group: &Group, report: &mut SyncReport) -> Result<(), WalError> {
        let tail = self.tails.get_mut(&stream).ok_or(WalError::UnknownStream(stream))?;
        let expected = tail.sequence.next();
        if group.sequence != expected {
            return Err(WalError::Sequence { stream, found: group.sequence, expected });
        }
        if group.time < tail.time {
            return Err(WalError::Time { stream, before: tail.time, found: group.time });
        }
        if group.payload.len() > GROUP_BYTES_MAX {
            return Err(WalError::Oversized { stream, bytes: group.payload.len() });
        }
        let (is_fourth, next) = (group.sequence.0.is_multiple_of(4), tail.index.next());
        let header = RecordHeader {
            kind: RecordKind::Group,
            term: TERM_ALONE,
            leader: self.node,
            sequence: group.sequence,
            predecessor: if is_fourth && mutant!(ChainNotContinued) { ChainHash::GENESIS } else { tail.chain },
            time: group.time,
        };
        let index = if is_fourth && mutant!(HoleInLog) { next.next() } else { next };
        let mut key = RecordKey { stream, index, part: 0 };
        let mut rest = &group.payload[..];
        loop {
            let (slice, after) = rest.split_at(rest.len().min(self.slice_bytes_max));
            encode_value(key, &header, after.is_empty(), slice, &mut self.value);
            self.kept.store.append(key, &self.value)?;
            report.values += 1;
            report.bytes += self.value.len() as u64;
            if after.is_empty() {
                break;
            }
            rest = after;
            key.part += 1;
        }
        report.groups += 1;
        report.events += u64::from(group.events);
        *tail = Tail {
            index: key.index,
            sequence: group.sequence,
            chain: header.chain(&group.payload),
            time: group.time,
            is_ragged: false,
        };
        Ok(())
    }

    /// Makes everything appended survive what `durability` names. Only what survives a loss of power is noted in the sidecar.
    fn make_durable(&mut self, durability: Durability) -> Result<(), WalError> {
        match durability {
            Durability::None => return Ok(()),
            Durability::ProcessCrash => return Ok(self.kept.store.flush()?),
            Durability::PowerLoss if mutant!(SkipSync) => {}
            Durability::PowerLoss if mutant!(SidecarBeforeSync) => {
                self.note_durable()?;
                self.kept.store.sync()?;
            }
            Durability::PowerLoss if mutant!(FailedSyncRetried) => self.kept.store.sync().or_else(|_| self.kept.store.sync())?,
            Durability::PowerLoss if mutant!(SyncFailureSwallowed) => drop(self.kept.store.sync()),
            Durability::PowerLoss => self.kept.store.sync()?,
        }
        self.note_durable()
    }

    /// Notes in the sidecar up to where everything is durable.
    fn note_durable(&mut self) -> Result<(), WalError> {
        let Some(sidecar) = &mut self.sidecar else { return Ok(()) };
        for (stream, tail) in self.tails.iter().filter(|(_, tail)| tail.index > LogIndex(0)) {
            sidecar.note(*stream, Durable { index: tail.index, chain: tail.chain });
        }
        sidecar.write().map_err(WalError::Sidecar)
    }
}

/// Keeps an eye on the free space.
pub(crate) struct Disk {
    pub(crate) free_space: Option<FreeSpace>,
    pub(crate) free_bytes_min: u64,
    pub(crate) is_low: bool,
    pub(crate) looked_at: Option<Instant>,
}

impl Disk {
    /// Looks at the free space if it is time to, tells of a change, and returns how long nothing need be looked at while idle.
    fn look(&mut self, listener: &dyn WalListener) -> Duration {
        let Some(free_space) = &self.free_space else { return DISK_LOOK_IDLE };
        let age = self.looked_at.map(|looked_at| looked_at.elapsed());
        if let Some(age) = age.filter(|age| *age < DISK_LOOK_BUSY) {
            return DISK_LOOK_IDLE.saturating_sub(age);
        }
        self.looked_at = Some(Instant::now());
        let is_low = match free_space() {
            Ok(free_bytes) => free_bytes < self.free_bytes_min,
            Err(error) => {
                tracing::error!(%error, "the free space of the log's disk is unknown and taken as low");
                true
            }
        };
        if is_low != self.is_low {
            self.is_low = is_low;
            tracing::warn!(is_low, free_bytes_min = self.free_bytes_min, "the free space of the log's disk crossed its minimum");
            listener.disk_low(is_low);
        }
        DISK_LOOK_IDLE
    }
}
