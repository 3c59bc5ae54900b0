//! The log's thread: gather, append, sync, tell. Everything here runs on that one thread, but for [`Log::begin`], and
//! for what a [`crate::SteppedWal`] is told to do on another.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use crate::group::Group;
use crate::reader::Kept;
use crate::record::{
    ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term, encode_value,
};
use crate::recovery::{self, LogPosition, RecoveredStream, RecoveryError};
use crate::replicated::{EntryContent, Promises, ReplicatedEntry};
use crate::sidecar::{Durable, Sidecar};
use crate::store::SegmentInfo;
use crate::wal::{Done, Durability, FreeSpace, SyncReport, WalError, WalListener};

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
    /// Append entries of consensus.
    Entries(StreamId, Vec<ReplicatedEntry>, Done),
    /// Append to a stream of votes.
    Promise(StreamId, Box<Promises>, Done),
    /// Take back what is behind `last`.
    Truncate {
        stream: StreamId,
        last: LogIndex,
        base: Box<LogPosition>,
        done: Done,
    },
    /// Remove everything and go on behind a position.
    BeginAt(StreamId, Box<LogPosition>, Done),
    /// Make everything before it survive a loss of power, whatever the durability, and say so.
    Sync(SyncSender<()>),
    /// Say what a compaction that may take all below these entries must keep of replicated logs and of votes.
    Keep(KeepFrom, SyncSender<Result<KeepFrom, RecoveryError>>),
    Stop,
}

/// The first entry of each stream that a compaction keeps.
pub(crate) type KeepFrom = BTreeMap<StreamId, LogIndex>;

/// Where a stream ends.
pub(crate) struct Tail {
    position: LogPosition,
    /// Whether parts of an unfinished group lie behind it.
    is_ragged: bool,
}

impl From<RecoveredStream> for Tail {
    fn from(stream: RecoveredStream) -> Self {
        Self { position: stream.position(), is_ragged: stream.discarded_tail_parts > 0 }
    }
}

impl From<LogPosition> for Tail {
    fn from(position: LogPosition) -> Self {
        Self { position, is_ragged: false }
    }
}

/// What has gathered before a sync.
#[derive(Default)]
struct Gathered {
    report: SyncReport,
    committed: BTreeMap<StreamId, GroupSequence>,
    /// Whoever waits for the sync.
    done: Vec<Done>,
    /// Whether the sync must survive a loss of power whatever the durability.
    is_promise: bool,
    payload_bytes: usize,
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
            let index = tail.position.index.next();
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
    pub(crate) fn commit(&mut self, first: Message, inbox: &Receiver<Message>) -> Result<bool, WalError> {
        let mut gathered = Gathered::default();
        let (started, mut is_open) = (Instant::now(), true);
        let mut asked_to_sync = Vec::new();
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            match message {
                Message::Append(stream, group) => {
                    self.append(stream, &group, &mut gathered.report)?;
                    gathered.committed.insert(stream, group.sequence);
                    gathered.payload_bytes += group.payload.len();
                }
                Message::Entries(stream, entries, done) => self.append_entries(stream, &entries, done, &mut gathered)?,
                Message::Promise(stream, promises, done) => self.promise(stream, &promises, done, &mut gathered)?,
                Message::Truncate { stream, last, base, done } => {
                    self.truncate_after(stream, last, &base)?;
                    gathered.done.push(done);
                }
                Message::BeginAt(stream, base, done) => {
                    self.begin_at(stream, &base)?;
                    gathered.done.push(done);
                }
                Message::Sync(done) => asked_to_sync.push(done),
                Message::Keep(keep_from, reply) => {
                    let keep_from = self.keep_of_replicas(keep_from, &mut gathered)?;
                    // Whoever asked and left does not compact.
                    let _ = reply.try_send(keep_from);
                }
                Message::Stop => is_open = false,
            }
            if !is_open || gathered.payload_bytes >= SYNC_BYTES_MAX {
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
        let Gathered { mut report, committed, done, is_promise, .. } = gathered;
        if report.values == 0 && done.is_empty() {
            return Ok(is_open);
        }
        let appended = Instant::now();
        self.make_durable(if is_promise { Durability::PowerLoss } else { self.durability })?;
        report.append = appended - started;
        report.sync = appended.elapsed();
        for (stream, sequence) in committed {
            self.listener.committed(stream, sequence);
        }
        for done in done {
            done();
        }
        self.listener.synced(&report);
        self.kept.store.between_groups()?;
        Ok(is_open)
    }

    fn append(&mut self, stream: StreamId, group: &Group, report: &mut SyncReport) -> Result<(), WalError> {
        let Tail { position: tail, .. } = self.tails.get_mut(&stream).ok_or(WalError::UnknownStream(stream))?;
        let expected = tail.sequence.next();
        if group.sequence != expected {
            return Err(WalError::Sequence { stream, found: group.sequence, expected });
        }
        if group.time < tail.time {
            return Err(WalError::Time { stream, before: tail.time, found: group.time });
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
        *tail = LogPosition {
            index,
            sequence: group.sequence,
            chain: header.chain(&group.payload),
            term: TERM_ALONE,
            time: group.time,
        };
        self.write(RecordKey { stream, index, part: 0 }, &header, &group.payload, report)?;
        report.groups += 1;
        report.events += u64::from(group.events);
        Ok(())
    }

    fn append_entries(
        &mut self,
        stream: StreamId,
        entries: &[ReplicatedEntry],
        done: Done,
        gathered: &mut Gathered,
    ) -> Result<(), WalError> {
        for entry in entries {
            let Tail { position: tail, .. } = self.tails.get_mut(&stream).ok_or(WalError::UnknownStream(stream))?;
            let expected = tail.index.next();
            // A log that holds nothing may be begun anywhere, as consensus' own tests do. One that was is a hole to whoever recovers it.
            if entry.index != expected && tail.index > LogIndex(0) {
                return Err(WalError::Index { stream, found: entry.index, expected });
            }
            let (header, mut prefix) = entry.header(tail);
            let mut chain = tail.chain;
            if header.kind == RecordKind::Group {
                chain = header.chain(entry.payload());
            }
            *tail = LogPosition { index: entry.index, sequence: header.sequence, chain, term: entry.term, time: header.time };
            if let EntryContent::Group { group, .. } = &entry.content {
                gathered.report.groups += 1;
                gathered.report.events += u64::from(group.events);
            }
            let payload = if prefix.is_empty() {
                entry.payload()
            } else {
                prefix.extend_from_slice(entry.payload());
                &prefix
            };
            gathered.payload_bytes += payload.len();
            self.write(RecordKey { stream, index: entry.index, part: 0 }, &header, payload, &mut gathered.report)?;
        }
        gathered.done.push(done);
        Ok(())
    }

    fn promise(&mut self, stream: StreamId, promises: &Promises, done: Done, gathered: &mut Gathered) -> Result<(), WalError> {
        let tail = self.tails.get_mut(&stream).ok_or(WalError::UnknownStream(stream))?;
        tail.position.index = tail.position.index.next();
        let key = RecordKey { stream, index: tail.position.index, part: 0 };
        let (header, payload) = promises.encode();
        self.write(key, &header, &payload, &mut gathered.report)?;
        gathered.is_promise = true;
        gathered.done.push(done);
        Ok(())
    }

    /// What must be kept when all below `keep_from` may go: of votes the newest record, which is written again where nothing else keeps its
    /// segment; of a replicated log all that was not purged. Both are durable at return, because what goes does not come back.
    fn keep_of_replicas(
        &mut self,
        mut keep_from: KeepFrom,
        gathered: &mut Gathered,
    ) -> Result<Result<KeepFrom, RecoveryError>, WalError> {
        let segments = self.kept.store.segments();
        let streams: BTreeSet<StreamId> = segments.iter().flat_map(|segment| segment.last.keys()).copied().collect();
        let mut newest = BTreeMap::new();
        for votes in streams.into_iter().filter(|stream| stream.is_votes()) {
            match recovery::read_promises(&*self.kept.store, votes, None) {
                Ok((promises, end)) => {
                    if let Some(keep) = keep_from.get_mut(&StreamId::log(votes.shard())) {
                        *keep = promises.base().index.next().min(*keep);
                    }
                    keep_from.insert(votes, end.last_index.next());
                    newest.insert(votes, (promises, end.last_index));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        // The segment that is written never goes.
        let left = segments.iter().rposition(|segment| !segment.last.is_empty()).unwrap_or(0);
        let may_go = |segment: &&SegmentInfo| {
            segment.last.iter().all(|(stream, (last, _))| keep_from.get(stream).is_some_and(|keep| last < keep))
        };
        let going: Vec<&SegmentInfo> = segments[..left].iter().take_while(may_go).collect();
        for (votes, (promises, last)) in newest {
            let goes = going.iter().any(|segment| segment.last.get(&votes).is_some_and(|(index, _)| *index == last));
            if goes {
                self.promise(votes, &promises, Box::new(|| {}), gathered)?;
            }
            keep_from.insert(votes, if goes { last.next() } else { last });
        }
        self.make_durable(Durability::PowerLoss)?;
        Ok(Ok(keep_from))
    }

    fn truncate_after(&mut self, stream: StreamId, last: LogIndex, base: &LogPosition) -> Result<(), WalError> {
        let to = self.tail(stream)?.index;
        if last >= to {
            return Ok(());
        }
        let mut end = (last == base.index).then_some(*base);
        if end.is_none() {
            recovery::read(&*self.kept.store, stream, last, &mut |entry| {
                end = (entry.index == last).then(|| entry.position());
                Ok(ControlFlow::Break(()))
            })?;
        }
        let end = end.ok_or(WalError::NoSuchEnd { stream, last })?;
        self.end_at(stream, end, to)
    }

    fn tail(&self, stream: StreamId) -> Result<&LogPosition, WalError> {
        self.tails.get(&stream).map(|tail| &tail.position).ok_or(WalError::UnknownStream(stream))
    }

    fn begin_at(&mut self, stream: StreamId, base: &LogPosition) -> Result<(), WalError> {
        let to = self.tail(stream)?.index.max(base.index);
        // The removal may survive a loss of power on its own, because it is in other segments than what was promised.
        self.make_durable(Durability::PowerLoss)?;
        self.remove_behind(stream, LogIndex(0), to)?;
        self.tails.insert(stream, Tail::from(*base));
        Ok(())
    }

    /// Has `stream` end at `end`, and removes what is behind it, up to entry `to`.
    fn end_at(&mut self, stream: StreamId, end: LogPosition, to: LogIndex) -> Result<(), WalError> {
        // First of all the sidecar: a removal that survives a loss of power which it does not would look like lost entries. Not so the
        // other way round: a log may be longer than the sidecar knows.
        if let Some(sidecar) = &mut self.sidecar
            && sidecar.streams().get(&stream).is_some_and(|durable| durable.index > end.index)
        {
            sidecar.note(stream, Durable { index: end.index, chain: end.chain });
            sidecar.write().and_then(|()| sidecar.sync()).map_err(WalError::Sidecar)?;
        }
        self.tails.insert(stream, Tail::from(end));
        self.remove_behind(stream, end.index, to)
    }

    /// Removes the entries of `stream` behind `last`, up to `to`. At return the removal survives a loss of power: what is appended next may lie
    /// in another segment, and must not survive without it.
    fn remove_behind(&self, stream: StreamId, last: LogIndex, to: LogIndex) -> Result<(), WalError> {
        let removed = self.kept.store.remove(RecordKey { stream, index: last.next(), part: 0 }, to)?;
        self.kept.store.sync()?;
        tracing::info!(%stream, %last, removed, "removed the values behind an entry of a replicated log");
        Ok(())
    }

    /// Appends the record of an entry, in as many parts as it takes.
    fn write(
        &mut self,
        mut key: RecordKey,
        header: &RecordHeader,
        payload: &[u8],
        report: &mut SyncReport,
    ) -> Result<(), WalError> {
        if payload.len() > GROUP_BYTES_MAX {
            return Err(WalError::Oversized { stream: key.stream, bytes: payload.len() });
        }
        let mut rest = payload;
        loop {
            let (slice, after) = rest.split_at(rest.len().min(self.slice_bytes_max));
            encode_value(key, header, after.is_empty(), slice, &mut self.value);
            self.kept.store.append(key, &self.value)?;
            report.values += 1;
            report.bytes += self.value.len() as u64;
            if after.is_empty() {
                return Ok(());
            }
            rest = after;
            key.part += 1;
        }
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
        for (stream, tail) in self.tails.iter().filter(|(_, tail)| tail.position.index > LogIndex(0)) {
            sidecar.note(*stream, Durable { index: tail.position.index, chain: tail.position.chain });
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
