//! Recovery: reads a stream from its first entry or a known position on, checks every claim that its records make, and hands out its
//! groups.
//!
//! A log may end short in one way only: an unfinished group at its very end, beyond what was ever acknowledged, is what a crash in the
//! middle of an append leaves, and is set aside. Everything else that does not fit is damage and is named with its place; nothing is
//! ever repaired or skipped. Memory is bounded by one group's payload. Knows nothing of what events mean.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_stock::Timestamp;

use crate::group::{Entries, PayloadError, count_entries, decode_entries};
use crate::record::{
    ChainHash, GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, RecordError, RecordHeader, RecordKey, RecordKind, StreamId, Term,
    decode_value,
};
use crate::replicated::{Promises, Purged, split_set_aside};
use crate::sidecar::Durable;
use crate::store::{LogStore, StoreError};

/// A group as the log holds it, whole and checked.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredGroup<'a> {
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub index: LogIndex,
    /// Its place among the groups of the stream.
    pub sequence: GroupSequence,
    /// The term it was decided in.
    pub term: Term,
    /// The node that decided it.
    pub leader: NodeId,
    /// When it was opened; none of its events is earlier.
    pub time: Timestamp,
    /// The chain hash of the group before it.
    pub predecessor: ChainHash,
    /// Its chain hash.
    pub chain: ChainHash,
    /// Its events' bytes.
    pub payload: &'a [u8],
}

impl<'a> RecoveredGroup<'a> {
    /// Its events in order. A payload error belongs back to the replay, which names it as damage.
    pub fn entries(&self) -> Result<Entries<'a>, PayloadError> {
        decode_entries(self.payload, self.time)
    }

    /// Where the stream stands with this group.
    pub const fn position(&self) -> LogPosition {
        LogPosition { index: self.index, sequence: self.sequence, chain: self.chain, term: self.term, time: self.time }
    }
}

/// An entry of any kind as the log holds it, whole and checked.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredEntry<'a> {
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub index: LogIndex,
    /// What its record says beside the payload.
    pub header: &'a RecordHeader,
    /// The chain hash of the last group up to and including this entry.
    pub chain: ChainHash,
    /// Its payload, all parts together.
    pub payload: &'a [u8],
}

impl<'a> RecoveredEntry<'a> {
    /// The group that it is, if it is one that counts.
    pub fn group(&self) -> Option<RecoveredGroup<'a>> {
        (self.header.kind == RecordKind::Group).then_some(RecoveredGroup {
            stream: self.stream,
            index: self.index,
            sequence: self.header.sequence,
            term: self.header.term,
            leader: self.header.leader,
            time: self.header.time,
            predecessor: self.header.predecessor,
            chain: self.chain,
            payload: self.payload,
        })
    }

    /// Where the stream stands with this entry.
    pub const fn position(&self) -> LogPosition {
        LogPosition {
            index: self.index,
            sequence: self.header.sequence,
            chain: self.chain,
            term: self.header.term,
            time: self.header.time,
        }
    }
}

/// A place in a stream, with what the next entry must continue: where a snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The last entry up to here.
    pub index: LogIndex,
    /// The last group up to here.
    pub sequence: GroupSequence,
    /// The chain hash of that group.
    pub chain: ChainHash,
    /// The term of the last entry.
    pub term: Term,
    /// The time of the last entry.
    pub time: Timestamp,
}

impl LogPosition {
    /// In front of a stream's first entry.
    pub const GENESIS: Self = Self {
        index: LogIndex(0),
        sequence: GroupSequence(0),
        chain: ChainHash::GENESIS,
        term: Term(0),
        time: Timestamp::from_unix_ms(0),
    };

    /// Whether a group that was decided behind `predecessor` is the next one here. The one rule by which a replicated log takes a group or
    /// sets it aside; whoever applies the log follows it too.
    pub fn is_continued_by(&self, predecessor: ChainHash, sequence: GroupSequence, time: Timestamp) -> bool {
        predecessor == self.chain && sequence == self.sequence.next() && time >= self.time
    }
}

/// Where a stream ends, and what was read to get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredStream {
    /// The stream.
    pub stream: StreamId,
    /// Its last whole entry; 0 when it has none.
    pub last_index: LogIndex,
    /// Its last group; 0 when it has none.
    pub last_sequence: GroupSequence,
    /// The chain hash of its last group.
    pub last_chain: ChainHash,
    /// The term of its last entry.
    pub last_term: Term,
    /// The time of its last entry.
    pub last_time: Timestamp,
    /// Groups read.
    pub groups: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of the values read, without keys.
    pub bytes: u64,
    /// Parts of an unfinished group behind the last entry. It was never acknowledged; the log removes it before it appends.
    pub discarded_tail_parts: u32,
}

impl RecoveredStream {
    /// A stream that holds nothing yet.
    pub const fn empty(stream: StreamId) -> Self {
        Self::at(stream, &LogPosition::GENESIS)
    }

    /// A stream that stands at `position`, of which nothing was read.
    pub const fn at(stream: StreamId, position: &LogPosition) -> Self {
        Self {
            stream,
            last_index: position.index,
            last_sequence: position.sequence,
            last_chain: position.chain,
            last_term: position.term,
            last_time: position.time,
            groups: 0,
            events: 0,
            bytes: 0,
            discarded_tail_parts: 0,
        }
    }

    /// Where it stands.
    pub const fn position(&self) -> LogPosition {
        LogPosition {
            index: self.last_index,
            sequence: self.last_sequence,
            chain: self.last_chain,
            term: self.last_term,
            time: self.last_time,
        }
    }
}

/// What a running recovery has read so far, over all streams. For readiness probes; any thread may look.
#[derive(Debug, Default)]
pub struct RecoveryProgress {
    groups: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
}

impl RecoveryProgress {
    /// Groups read so far.
    pub fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// Events read so far.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Bytes of values read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// A key has the wrong length.
    #[error("key of {0} bytes")]
    Key(usize),
    /// A value is not what was written under its key.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Entries are missing before this one.
    #[error("entry follows where {expected} was expected")]
    Hole {
        /// The index that was expected.
        expected: LogIndex,
    },
    /// Parts of an entry are missing, or parts follow behind its last.
    #[error("part follows where part {expected} was expected")]
    Part {
        /// The part that was expected.
        expected: u16,
    },
    /// An unfinished group that is not the end of the stream.
    #[error("entry is unfinished after {parts} parts, and entry {next} follows")]
    Unfinished {
        /// The parts that are there.
        parts: u32,
        /// The entry that follows.
        next: LogIndex,
    },
    /// The parts of an entry contradict each other.
    #[error("part differs from part 0 in its header")]
    PartHeader,
    /// A group's payload is over the bound.
    #[error("payload is over {GROUP_BYTES_MAX} bytes")]
    Oversized,
    /// Groups are missing, or there twice.
    #[error("group sequence is {found} where {expected} was expected")]
    Sequence {
        /// What the record says.
        found: GroupSequence,
        /// What was expected.
        expected: GroupSequence,
    },
    /// The record does not continue what precedes it.
    #[error("chain is broken: the record's predecessor is not the group before it")]
    Chain,
    /// The record is older than the one before it.
    #[error("time runs backwards from {before} ms to {found} ms", before = .before.unix_ms(), found = .found.unix_ms())]
    Time {
        /// The time of the entry before.
        before: Timestamp,
        /// The time of this entry.
        found: Timestamp,
    },
    /// The log ends before what was acknowledged as durable.
    #[error("log ends here, but was durable up to {durable}: acknowledged groups are lost")]
    EndsBelowDurable {
        /// The highest durable entry that the sidecar knows.
        durable: LogIndex,
    },
    /// The entry is not the one that was acknowledged as durable.
    #[error("entry is not the one that was durable here")]
    DurableDiffers,
    /// The log does not reach back to the position that it is to be read from.
    #[error("the log starts here where the snapshot ends at entry {snapshot}: what lies between is lost")]
    StartsLater {
        /// The last entry that the snapshot covers.
        snapshot: LogIndex,
    },
    /// The log ends before the position that it is to be read from. A snapshot is only ever made of committed groups.
    #[error("log ends here, but a snapshot was made at entry {snapshot}: committed groups are lost")]
    EndsBelowSnapshot {
        /// The last entry that the snapshot covers.
        snapshot: LogIndex,
    },
    /// The log was read up to a group that is known to be committed, and does not hold it.
    #[error("log ends here, but was committed up to group {committed}: committed groups are lost")]
    EndsBelowCommitted {
        /// The group that was to be there.
        committed: GroupSequence,
    },
    /// The entry is not the one that a snapshot was made at.
    #[error("entry is not the one that a snapshot was made at")]
    SnapshotDiffers,
    /// A record of a kind that its stream does not hold.
    #[error("record is of another kind than its stream holds")]
    Misplaced,
    /// A group that was set aside although it is the next one, or cannot be told.
    #[error("group is set aside although it continues the chain")]
    SetAside,
    /// The payload is unreadable although its checksum is right.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The store itself cannot read on.
    #[error("{0}")]
    Store(String),
}

/// Damage of a log, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stream} is damaged at entry {index}, part {part}: {what}")]
pub struct Damage {
    /// Which stream.
    pub stream: StreamId,
    /// Which entry.
    pub index: LogIndex,
    /// Which part of it.
    pub part: u16,
    /// What is wrong.
    pub what: DamageKind,
}

/// Why a stream could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log is not what was written.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// The operating system failed; the log may be whole.
    #[error(transparent)]
    Store(StoreError),
}

/// Replays `stream` from the entry behind `start` on, or from its first, and calls `visit` for each of its groups in order.
///
/// `durable` is what the sidecar knows of the stream. Changes nothing in the store. Different streams may be replayed on different threads.
pub fn replay(
    store: &dyn LogStore,
    stream: StreamId,
    start: Option<&LogPosition>,
    durable: Option<Durable>,
    progress: &RecoveryProgress,
    visit: &mut dyn FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
) -> Result<RecoveredStream, RecoveryError> {
    let mut visit = groups_only(visit);
    let mut walk = Walk::new(stream, durable, progress, &mut visit);
    let mut from = LogIndex(0);
    if let Some(start) = start {
        check_start(store, stream, start, durable)?;
        walk.end = RecoveredStream::at(stream, start);
        from = start.index.next();
    }
    walk.run(store, from)?;
    Ok(walk.finish()?)
}

/// What a node holds of a shard whose log is replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredReplica {
    /// What it has promised.
    pub promises: Promises,
    /// The stream of its votes.
    pub votes: RecoveredStream,
    /// Its log, read from the last purged entry on.
    pub log: RecoveredStream,
    /// The node that proposed the log's last entry; that of the last purged one where nothing is behind it.
    pub last_leader: NodeId,
    /// Whether entries are left of a log that was given up for a snapshot: a crash cut their removal short, which is to be made up for.
    pub has_leftovers: bool,
}

/// Reads and checks what `store` holds of the replicated log of `shard`. `begin` is where a log begins that was never purged, and whose
/// beginning may be in a snapshot; `durable` is what the sidecar knows of a stream. Changes nothing.
pub fn recover_replica(
    store: &dyn LogStore,
    shard: u16,
    begin: Option<Purged>,
    durable: &dyn Fn(StreamId) -> Option<Durable>,
    progress: &RecoveryProgress,
) -> Result<RecoveredReplica, RecoveryError> {
    let (stream, votes) = (StreamId::log(shard), StreamId::votes(shard));
    let (mut promises, votes) = read_promises(store, votes, durable(votes))?;
    promises.purged = promises.purged.or(begin);
    let base = promises.base();
    let mut last_leader = promises.purged.map_or(NodeId(0), |purged| purged.leader);
    let mut visit = |entry: &RecoveredEntry<'_>| {
        last_leader = entry.header.leader;
        Ok(ControlFlow::Continue(()))
    };
    let mut walk = Walk::new(stream, durable(stream), progress, &mut visit);
    walk.end = RecoveredStream::at(stream, &base);
    let last = store.last_key(stream).map_err(|error| walk.store_error(error))?;
    let has_leftovers = last.is_some_and(|last| last.index < base.index);
    if !has_leftovers && last.is_some() {
        check_start(store, stream, &base, durable(stream))?;
    }
    walk.run(store, base.index.next())?;
    let log = walk.finish()?;
    Ok(RecoveredReplica { promises, votes, log, last_leader, has_leftovers })
}

/// The newest record of a stream of votes.
pub(crate) fn read_promises(
    store: &dyn LogStore,
    stream: StreamId,
    durable: Option<Durable>,
) -> Result<(Promises, RecoveredStream), RecoveryError> {
    let mut votes = RecoveredStream::empty(stream);
    let damage = |index, what| Damage { stream, index, part: 0, what };
    let store_error = |error| match error {
        StoreError::Damaged(what) => damage(LogIndex(0), DamageKind::Store(what)).into(),
        error @ StoreError::Io(_) => RecoveryError::Store(error),
    };
    let mut promises = Promises::default();
    if let Some(last) = store.last_key(stream).map_err(store_error)? {
        let mut found = None;
        let visit = &mut |key: &[u8], value: &[u8]| {
            found = RecordKey::decode(key).map(|key| {
                let (header, is_last, payload) = decode_value(key, value)?;
                Promises::decode(&header, payload).filter(|_| is_last && key == last).ok_or(DamageKind::Misplaced)
            });
            ControlFlow::Break(())
        };
        store.scan(last, visit).map_err(store_error)?;
        promises = found.unwrap_or(Err(DamageKind::Misplaced)).map_err(|what| damage(last.index, what))?;
        votes.last_index = last.index;
    }
    match durable {
        Some(durable) if durable.index > votes.last_index => {
            Err(damage(votes.last_index.next(), DamageKind::EndsBelowDurable { durable: durable.index }).into())
        }
        _ => Ok((promises, votes)),
    }
}

/// Checks what `store` retains of `stream` like [`replay`], but takes on trust what the oldest entry says of its predecessor, once
/// anything was compacted, and where the log was purged, which may then begin behind a snapshot from another node.
pub fn check_from_oldest(
    store: &dyn LogStore,
    stream: StreamId,
    durable: Option<Durable>,
    progress: &RecoveryProgress,
    visit: &mut dyn FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
) -> Result<RecoveredStream, RecoveryError> {
    let was_purged = || {
        // What the sidecar says of the votes is not in question here.
        let (promises, _) = read_promises(store, StreamId::votes(stream.shard()), None)?;
        Ok::<_, RecoveryError>(promises.purged.is_some())
    };
    if !was_compacted(store) && !was_purged()? {
        return replay(store, stream, None, durable, progress, visit);
    }
    let mut visit = groups_only(visit);
    let mut walk = Walk::new(stream, durable, progress, &mut visit);
    walk.is_trusting = true;
    walk.run(store, LogIndex(0))?;
    if walk.is_trusting {
        // Nothing of it is left, so there is nothing that could contradict the sidecar.
        return Ok(walk.end);
    }
    Ok(walk.finish()?)
}

/// Reads `stream` from entry `from` on, whose predecessor is taken on trust, until `visit` breaks or the stream ends. Says where.
pub(crate) fn read(
    store: &dyn LogStore,
    stream: StreamId,
    from: LogIndex,
    visit: &mut dyn FnMut(&RecoveredEntry<'_>) -> Result<ControlFlow<()>, PayloadError>,
) -> Result<RecoveredStream, RecoveryError> {
    let progress = RecoveryProgress::default();
    let mut walk = Walk::new(stream, None, &progress, visit);
    walk.is_trusting = true;
    walk.run(store, from)?;
    Ok(walk.end)
}

/// Visits nothing but groups, all of them.
fn groups_only(
    visit: &mut dyn FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
) -> impl FnMut(&RecoveredEntry<'_>) -> Result<ControlFlow<()>, PayloadError> {
    |entry| entry.group().map_or(Ok(()), |group| visit(&group)).map(ControlFlow::Continue)
}

/// Whether the beginning of the log was compacted away.
fn was_compacted(store: &dyn LogStore) -> bool {
    store.segments().first().is_some_and(|oldest| oldest.number > 1)
}

/// Checks that the log holds the entry at `start`, or begins right behind it, or holds nothing of the stream any more.
fn check_start(store: &dyn LogStore, stream: StreamId, start: &LogPosition, durable: Option<Durable>) -> Result<(), RecoveryError> {
    let damage = |index, what| RecoveryError::Damage(Damage { stream, index, part: 0, what });
    if durable.is_some_and(|durable| durable.index == start.index && durable.chain != start.chain) {
        return Err(damage(start.index, DamageKind::DurableDiffers));
    }
    if start.index == LogIndex(0) {
        return Ok(());
    }
    let progress = RecoveryProgress::default();
    let mut visit = |_: &RecoveredEntry<'_>| Ok(ControlFlow::Break(()));
    let mut walk = Walk::new(stream, None, &progress, &mut visit);
    walk.is_trusting = true;
    walk.until = Some(start.index);
    walk.run(store, start.index)?;
    match walk.first {
        Some(first) if first > start.index.next() => Err(damage(first, DamageKind::StartsLater { snapshot: start.index })),
        Some(first) if first > start.index => Ok(()),
        Some(_) if walk.end.last_index != start.index => {
            Err(walk.damage_at_end(DamageKind::EndsBelowSnapshot { snapshot: start.index }).into())
        }
        Some(_) if walk.end.position() != *start => Err(damage(start.index, DamageKind::SnapshotDiffers)),
        Some(_) => Ok(()),
        None => {
            let last = store.last_key(stream).map_err(|error| walk.store_error(error))?;
            if last.is_none() && was_compacted(store) {
                return Ok(());
            }
            let next = last.map_or(LogIndex(1), |last| last.index.next());
            Err(damage(next, DamageKind::EndsBelowSnapshot { snapshot: start.index }))
        }
    }
}

/// An entry whose last part has not come yet.
struct Open {
    header: RecordHeader,
    parts: u32,
}

type VisitEntry<'a> = dyn FnMut(&RecoveredEntry<'_>) -> Result<ControlFlow<()>, PayloadError> + 'a;

struct Walk<'a> {
    durable: Option<Durable>,
    progress: &'a RecoveryProgress,
    visit: &'a mut VisitEntry<'a>,
    end: RecoveredStream,
    /// Whether the next entry is taken as it is, whatever it says of its predecessor.
    is_trusting: bool,
    /// The first entry that was found.
    first: Option<LogIndex>,
    /// The entry behind which the walk is over.
    until: Option<LogIndex>,
    open: Option<Open>,
    payload: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn new(stream: StreamId, durable: Option<Durable>, progress: &'a RecoveryProgress, visit: &'a mut VisitEntry<'a>) -> Self {
        Self {
            durable,
            progress,
            visit,
            end: RecoveredStream::empty(stream),
            is_trusting: false,
            first: None,
            until: None,
            open: None,
            payload: Vec::new(),
        }
    }

    /// Reads from entry `from` on until the stream or the walk is over.
    fn run(&mut self, store: &dyn LogStore, from: LogIndex) -> Result<(), RecoveryError> {
        let mut damage = None;
        let from = RecordKey { stream: self.end.stream, index: from, part: 0 };
        let scanned = store.scan(from, &mut |key, value| {
            self.value(key, value).unwrap_or_else(|found| {
                damage = Some(found);
                ControlFlow::Break(())
            })
        });
        match damage {
            Some(damage) => Err(damage.into()),
            None => scanned.map_err(|error| self.store_error(error)),
        }
    }

    fn store_error(&self, error: StoreError) -> RecoveryError {
        match error {
            StoreError::Damaged(what) => self.damage_at_end(DamageKind::Store(what)).into(),
            error @ StoreError::Io(_) => RecoveryError::Store(error),
        }
    }

    fn value(&mut self, key: &[u8], value: &[u8]) -> Result<ControlFlow<()>, Damage> {
        let Some(key) = RecordKey::decode(key) else { return Err(self.damage_at_end(DamageKind::Key(key.len()))) };
        self.entry_part(key, value).map_err(|what| Damage { stream: key.stream, index: key.index, part: key.part, what })
    }

    fn entry_part(&mut self, key: RecordKey, value: &[u8]) -> Result<ControlFlow<()>, DamageKind> {
        self.first.get_or_insert(key.index);
        if self.is_trusting {
            self.trust(key, value)?;
        }
        let expected = self.end.last_index.next();
        let parts = self.open.as_ref().map_or(0, |open| open.parts);
        if key.index != expected {
            return Err(match parts {
                _ if key.index == self.end.last_index => DamageKind::Part { expected: 0 },
                0 => DamageKind::Hole { expected },
                parts => DamageKind::Unfinished { parts, next: key.index },
            });
        }
        if u32::from(key.part) != parts {
            return Err(DamageKind::Part { expected: u16::try_from(parts).unwrap_or(u16::MAX) });
        }
        let (header, is_last, slice) = decode_value(key, value)?;
        self.end.bytes += value.len() as u64;
        self.progress.bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        match &self.open {
            None => self.check(&header)?,
            Some(open) if open.header != header => return Err(DamageKind::PartHeader),
            Some(_) => {}
        }
        if is_last && parts == 0 {
            return self.entry(key.index, &header, slice);
        }
        if self.payload.len() + slice.len() > GROUP_BYTES_MAX {
            return Err(DamageKind::Oversized);
        }
        self.payload.extend_from_slice(slice);
        if !is_last {
            self.open = Some(Open { header, parts: parts + 1 });
            return Ok(ControlFlow::Continue(()));
        }
        self.open = None;
        let payload = std::mem::take(&mut self.payload);
        let flow = self.entry(key.index, &header, &payload)?;
        self.payload = payload;
        self.payload.clear();
        Ok(flow)
    }

    /// Takes what the first entry says of its predecessor for what was read before it.
    fn trust(&mut self, key: RecordKey, value: &[u8]) -> Result<(), DamageKind> {
        if key.part != 0 {
            return Err(DamageKind::Part { expected: 0 });
        }
        let (header, _, _) = decode_value(key, value)?;
        let first = LogIndex(1);
        self.end.last_index = LogIndex(key.index.0.checked_sub(1).ok_or(DamageKind::Hole { expected: first })?);
        self.end.last_sequence = match header.kind {
            RecordKind::Group => GroupSequence(header.sequence.0.saturating_sub(1)),
            RecordKind::Blank | RecordKind::Membership | RecordKind::SetAside => header.sequence,
            RecordKind::Vote => return Err(DamageKind::Misplaced),
        };
        self.end.last_chain = header.predecessor;
        self.is_trusting = false;
        Ok(())
    }

    /// Checks that an entry continues what precedes it.
    fn check(&self, header: &RecordHeader) -> Result<(), DamageKind> {
        let expected = match header.kind {
            RecordKind::Group => self.end.last_sequence.next(),
            RecordKind::Blank | RecordKind::Membership | RecordKind::SetAside => self.end.last_sequence,
            RecordKind::Vote => return Err(DamageKind::Misplaced),
        };
        if header.sequence != expected {
            return Err(DamageKind::Sequence { found: header.sequence, expected });
        }
        if header.predecessor != self.end.last_chain && !mutant!(ChainUnchecked) {
            return Err(DamageKind::Chain);
        }
        if header.time < self.end.last_time {
            return Err(DamageKind::Time { before: self.end.last_time, found: header.time });
        }
        Ok(())
    }

    fn entry(&mut self, index: LogIndex, header: &RecordHeader, payload: &[u8]) -> Result<ControlFlow<()>, DamageKind> {
        let mut entry = RecoveredEntry { stream: self.end.stream, index, header, chain: self.end.last_chain, payload };
        let mut events = 0;
        match header.kind {
            RecordKind::Group => {
                events = u64::from(count_entries(payload)?);
                entry.chain = header.chain(payload);
            }
            RecordKind::SetAside => self.check_set_aside(payload)?,
            RecordKind::Blank | RecordKind::Membership | RecordKind::Vote => {}
        }
        let flow = (self.visit)(&entry)?;
        if header.kind == RecordKind::Group {
            self.end.last_sequence = header.sequence;
            self.end.last_chain = entry.chain;
            self.end.groups += 1;
            self.end.events += events;
            self.progress.groups.fetch_add(1, Ordering::Relaxed);
            self.progress.events.fetch_add(events, Ordering::Relaxed);
        }
        self.end.last_index = index;
        self.end.last_term = header.term;
        self.end.last_time = header.time;
        if self.durable.is_some_and(|durable| durable.index == index && durable.chain != self.end.last_chain) {
            return Err(DamageKind::DurableDiffers);
        }
        Ok(if self.until.is_some_and(|until| until <= index) { ControlFlow::Break(()) } else { flow })
    }

    /// Checks that a group was not set aside for nothing: that would hide a group that counts.
    fn check_set_aside(&self, payload: &[u8]) -> Result<(), DamageKind> {
        let (predecessor, sequence, time, _) = split_set_aside(payload).ok_or(DamageKind::SetAside)?;
        let continues = self.end.position().is_continued_by(predecessor, sequence, time);
        if continues { Err(DamageKind::SetAside) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<RecoveredStream, Damage> {
        if let Some(durable) = self.durable.filter(|durable| durable.index > self.end.last_index && !mutant!(ShortLogTaken)) {
            return Err(self.damage_at_end(DamageKind::EndsBelowDurable { durable: durable.index }));
        }
        self.end.discarded_tail_parts = self.open.map_or(0, |open| open.parts);
        Ok(self.end)
    }

    /// Damage where the next value was expected.
    fn damage_at_end(&self, what: DamageKind) -> Damage {
        let part = self.open.as_ref().map_or(0, |open| u16::try_from(open.parts).unwrap_or(u16::MAX));
        Damage { stream: self.end.stream, index: self.end.last_index.next(), part, what }
    }
}
