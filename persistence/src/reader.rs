//! Reading the log while it is written, and giving its space back: for the change feed, for snapshots and for the log's upkeep.
//!
//! A reader never holds the log open: once the log has stopped, it says so. Nothing here waits for the log's thread, but for the compaction
//! of a log that is replicated; nor the other way round. It knows nothing of what is committed; whoever reads says up to where.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};

use tidegate_stock::Timestamp;

use crate::directory::DirectoryLock;
use crate::group::PayloadError;
use crate::record::{GroupSequence, LogIndex, NodeId, RecordKey, StreamId, decode_value};
use crate::recovery::{self, Damage, DamageKind, LogPosition, RecoveredEntry, RecoveredGroup, RecoveryError};
use crate::store::{Compacted, LogStore, SegmentInfo, StoreError};
use crate::wal_thread::Message;

/// An open store with the lock that keeps others from it; the store comes first, so that it goes first.
pub(crate) struct Kept {
    pub(crate) store: Box<dyn LogStore>,
    pub(crate) _lock: Option<DirectoryLock>,
}

/// Why groups could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped,
    /// The group lies before everything that is retained.
    #[error("group {from} of {stream} is no longer in the log, which starts behind it")]
    Compacted {
        /// The stream.
        stream: StreamId,
        /// The group that was asked for.
        from: GroupSequence,
        /// The oldest group that is retained; `None` when nothing of the stream is.
        oldest: Option<GroupSequence>,
    },
    /// The log is not what was written, or cannot be read.
    #[error(transparent)]
    Log(#[from] RecoveryError),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Log(RecoveryError::Store(error))
    }
}

/// How large the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSize {
    /// Bytes on the disk at the last sync, roughly. 0 for a store that does not tell.
    pub bytes_on_disk: u64,
    /// Segments, those that are prepared included. 0 for a store in one piece.
    pub segments: u64,
    /// The time of the oldest entry that is retained, if any is.
    pub oldest_time: Option<Timestamp>,
}

/// Reads a running log. Clones are cheap; any thread may use one. May block on the disk.
#[derive(Clone)]
pub struct LogReader {
    kept: Weak<Kept>,
    thread: Sender<Message>,
}

impl LogReader {
    /// A reader of what `kept` holds and the log's thread at the other end of `thread` writes.
    pub(crate) fn new(kept: &Arc<Kept>, thread: Sender<Message>) -> Self {
        Self { kept: Arc::downgrade(kept), thread }
    }

    /// Visits groups `from` to `up_to` of `stream` in order, until `visit` breaks. The caller knows `up_to` to be committed.
    ///
    /// Checksums, sequence, time and chain are checked within what is read; what the first group says of its predecessor is taken on trust.
    /// Memory is bounded by one group and a few values, and by what sled takes for the segment that is read, which is opened if it has to be.
    /// While it reads, the segments that it found at the start stay on the disk.
    ///
    /// `from` is found without a search: sequences grow by at most 1 an entry, and the first entry of every segment is known, so the
    /// group lies at most as many entries behind where it would be without them as its segment holds blank and membership entries.
    ///
    /// # Errors
    /// When the log has stopped, when `from` is no longer retained, and when what is there is damaged or ends before `up_to`. What was
    /// visited before an error is as it was committed.
    pub fn read_groups(
        &self,
        stream: StreamId,
        from: GroupSequence,
        up_to: GroupSequence,
        mut visit: impl FnMut(&RecoveredGroup<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let kept = self.kept()?;
        if from > up_to {
            return Ok(());
        }
        let store = &*kept.store;
        let nothing = ReadError::Compacted { stream, from, oldest: None };
        let Some((index, sequence)) = entry_near(store, stream, from)? else { return Err(nothing) };
        let ahead = LogIndex(index.0 + from.0.saturating_sub(sequence.0));
        let mut found = read_from(store, stream, ahead, from..=up_to, &mut visit)?;
        if found.is_none_visited() && ahead > index {
            // The store took an entry for something else than it is; reading it tells.
            found = read_from(store, stream, index, from..=up_to, &mut visit)?;
        }
        match found {
            Found::All => Ok(()),
            Found::Later(oldest) => Err(ReadError::Compacted { stream, from, oldest: Some(oldest) }),
            Found::Ends { index, .. } => match entry_near(store, stream, from)? {
                Some((_, sequence)) if sequence <= from => {
                    let what = DamageKind::EndsBelowCommitted { committed: up_to };
                    Err(RecoveryError::from(Damage { stream, index, part: 0, what }).into())
                }
                // It was compacted while it was looked for.
                _ => Err(nothing),
            },
        }
    }

    /// Visits the entries of `stream` from `from` to `to` that the log holds, of whatever kind and committed or not, in order, until `visit`
    /// breaks. For the consensus that they are the log of.
    ///
    /// What was handed to the log but not yet written is not there. The same is checked, and bounded, as in [`LogReader::read_groups`]; an
    /// error that `visit` returns is named as damage.
    ///
    /// # Errors
    /// When the log has stopped, and when what is there is damaged.
    pub fn read_entries(
        &self,
        stream: StreamId,
        from: LogIndex,
        to: LogIndex,
        mut visit: impl FnMut(&RecoveredEntry<'_>) -> Result<ControlFlow<()>, PayloadError>,
    ) -> Result<(), ReadError> {
        let kept = self.kept()?;
        if from > to {
            return Ok(());
        }
        recovery::read(&*kept.store, stream, from, &mut |entry| {
            if entry.index > to {
                return Ok(ControlFlow::Break(()));
            }
            let flow = visit(entry)?;
            Ok(if entry.index == to { ControlFlow::Break(()) } else { flow })
        })?;
        Ok(())
    }

    /// Where `stream` stands with group `sequence`, which the caller knows to be committed: what a snapshot of it is of. `None` before the
    /// first group.
    ///
    /// # Errors
    /// As [`LogReader::read_groups`].
    pub fn position(&self, stream: StreamId, sequence: GroupSequence) -> Result<Option<LogPosition>, ReadError> {
        Ok(self.position_and_leader(stream, sequence)?.map(|(position, _)| position))
    }

    /// As [`LogReader::position`], with the node that proposed the group.
    ///
    /// # Errors
    /// As [`LogReader::read_groups`].
    pub fn position_and_leader(
        &self,
        stream: StreamId,
        sequence: GroupSequence,
    ) -> Result<Option<(LogPosition, NodeId)>, ReadError> {
        let mut found = None;
        if sequence > GroupSequence(0) {
            self.read_groups(stream, sequence, sequence, |group| {
                found = Some((group.position(), group.leader));
                ControlFlow::Break(())
            })?;
        }
        Ok(found)
    }

    /// The oldest entry of `stream` that is retained, with its sequence: that of the last group before it, if it is none itself. `None`
    /// when nothing of the stream is retained.
    pub fn oldest(&self, stream: StreamId) -> Result<Option<(LogIndex, GroupSequence)>, ReadError> {
        entry_near(&*self.kept()?.store, stream, GroupSequence(0))
    }

    /// The log's segments, oldest first; none for a store in one piece. Reads nothing from the disk.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, ReadError> {
        Ok(self.kept()?.store.segments())
    }

    /// How large the log is. Reads nothing from the disk.
    pub fn size(&self) -> Result<LogSize, ReadError> {
        let segments = self.segments()?;
        let holding = segments.iter().filter(|segment| !segment.last.is_empty());
        Ok(LogSize {
            bytes_on_disk: segments.iter().map(|segment| segment.bytes_on_disk).sum(),
            segments: segments.len() as u64,
            oldest_time: holding.map(|segment| segment.oldest_time).min(),
        })
    }

    /// Gives back the space of the oldest segments, as far as all their entries lie below `keep_from` of their stream; a stream that is
    /// not named keeps everything. [`LogStore::compact`] has the rest. Not to be called from within a visit.
    ///
    /// Streams of votes need not be named: of them the newest record counts, and it is written again, durably, where nothing else keeps its
    /// segment. Of a log that is replicated nothing goes that was not purged, whatever `keep_from` says.
    ///
    /// May block for [`crate::segments::COMPACTION_WAIT_MAX`] and the time that deleting takes; the log goes on meanwhile.
    ///
    /// # Errors
    /// When the log has stopped, and when it cannot be read or removed.
    pub fn compact(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> Result<Compacted, ReadError> {
        let kept = self.kept()?;
        let is_replicated = |segment: &SegmentInfo| segment.last.keys().any(|stream| stream.is_votes());
        if !kept.store.segments().iter().any(is_replicated) {
            return Ok(kept.store.compact(keep_from)?);
        }
        let (reply, replied) = mpsc::sync_channel(1);
        self.thread.send(Message::Keep(keep_from.clone(), reply)).map_err(|_| ReadError::Stopped)?;
        let keep_from = replied.recv().map_err(|_| ReadError::Stopped)??;
        Ok(kept.store.compact(&keep_from)?)
    }

    fn kept(&self) -> Result<Arc<Kept>, ReadError> {
        self.kept.upgrade().ok_or(ReadError::Stopped)
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LogReader(..)")
    }
}

/// An entry of `stream` that is not behind group `sequence`, or else the oldest.
fn entry_near(
    store: &dyn LogStore,
    stream: StreamId,
    sequence: GroupSequence,
) -> Result<Option<(LogIndex, GroupSequence)>, ReadError> {
    if let Some(near) = store.entry_near(stream, sequence) {
        return Ok(Some(near));
    }
    let mut oldest = None;
    store.scan(RecordKey { stream, index: LogIndex(0), part: 0 }, &mut |key, value| {
        let key = RecordKey::decode(key);
        oldest = key.and_then(|key| Some((key.index, decode_value(key, value).ok()?.0.sequence)));
        ControlFlow::Break(())
    })?;
    Ok(oldest)
}

/// What came of looking for groups.
enum Found {
    /// All were visited, or the visitor broke.
    All,
    /// The first group that is there lies behind all that were looked for, or some of them.
    Later(GroupSequence),
    /// The stream ends at an entry before the last of them.
    Ends { index: LogIndex, visited: u64 },
}

impl Found {
    const fn is_none_visited(&self) -> bool {
        matches!(self, Self::Later(_) | Self::Ends { visited: 0, .. })
    }
}

/// Visits `groups`, looking for the first from entry `index` on.
fn read_from(
    store: &dyn LogStore,
    stream: StreamId,
    index: LogIndex,
    groups: RangeInclusive<GroupSequence>,
    visit: &mut dyn FnMut(&RecoveredGroup<'_>) -> ControlFlow<()>,
) -> Result<Found, ReadError> {
    let (mut visited, mut found) = (0, None);
    let end = recovery::read(store, stream, index, &mut |entry| {
        let Some(group) = entry.group().filter(|group| group.sequence >= *groups.start()) else {
            return Ok(ControlFlow::Continue(()));
        };
        if visited == 0 && group.sequence > *groups.start() {
            found = Some(Found::Later(group.sequence));
            return Ok(ControlFlow::Break(()));
        }
        visited += 1;
        let flow = visit(&group);
        if flow.is_break() || group.sequence >= *groups.end() {
            found = Some(Found::All);
            return Ok(ControlFlow::Break(()));
        }
        Ok(flow)
    })?;
    Ok(found.unwrap_or(Found::Ends { index: index.max(end.last_index.next()), visited }))
}
