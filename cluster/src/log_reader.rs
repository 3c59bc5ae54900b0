//! What is read of a replicated log: the newest entries from memory, older ones from the disk, and the vote.
//!
//! An entry can be read from the moment that it was handed to the log, which is before the log's thread has written it. So the newest entries
//! stay in memory: all that may not be written yet, and up to [`RECENT_BYTES_MAX`] of those that are, because followers and the state machine
//! want exactly these.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::{Bound, ControlFlow, Range, RangeBounds};
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogReader;
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tidegate_persistence::{LogReader, Promises, ReplicatedEntry, StreamId};

use crate::types::{Entry, LeaderId, LogId, TypeConfig, Vote, log_id, log_index, to_entry};

/// Bytes of entries that stay in memory although they are durable.
const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of entries that are read at once, unless more are asked for. A single entry may be larger.
pub(crate) const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an entry takes beside its payload, roughly.
const ENTRY_BYTES: usize = 128;

/// What a replicated log and its readers share.
pub(crate) struct Shared {
    pub(crate) stream: StreamId,
    pub(crate) disk: LogReader,
    pub(crate) state: Mutex<State>,
    /// Whether the disk is memory, so that whoever reads it need not go to another thread.
    pub(crate) is_memory: bool,
}

impl Shared {
    /// Reads the disk. Not on the task's own thread where that may take long: it may open and read a segment.
    pub(crate) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.is_memory {
            return read(self);
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || read(&shared)).await.map_err(io::Error::other)?
    }
}

/// The log as openraft is to see it.
pub(crate) struct State {
    /// As they are on the disk.
    pub(crate) promises: Promises,
    /// The last entry, or the last purged one.
    pub(crate) last: Option<LogId>,
    /// How often entries were taken out of it. Whoever reads meanwhile reads again.
    pub(crate) removals: u64,
    recent: Recent,
}

/// The newest entries, without a gap up to the last.
#[derive(Default)]
struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl State {
    pub(crate) fn new(promises: Promises, last: Option<LogId>) -> Self {
        Self { promises, last, removals: 0, recent: Recent::default() }
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.promises.purged.map(|purged| log_id(purged.position.term, purged.leader, purged.position.index))
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.promises
            .vote
            .map(|vote| Vote { leader_id: LeaderId { term: vote.term.0, node_id: vote.leader }, committed: vote.is_granted })
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.last = Some(entry.log_id);
            self.recent.bytes += size(&entry);
            self.recent.entries.push_back(entry);
        }
    }

    /// Entries below `end` are durable, so the oldest of them need not stay.
    pub(crate) fn flushed(&mut self, end: u64) {
        while let Some(oldest) = self.recent.entries.front()
            && oldest.index() < end
            && self.recent.bytes > RECENT_BYTES_MAX
        {
            self.recent.bytes -= size(oldest);
            self.recent.entries.pop_front();
        }
    }

    /// Takes back what is behind `last`.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        while let Some(newest) = self.recent.entries.back()
            && newest.index() >= end_of(last)
        {
            self.recent.bytes -= size(newest);
            self.recent.entries.pop_back();
        }
        self.last = last;
        self.removals += 1;
    }

    /// Goes on behind `last`, which is beyond the end.
    pub(crate) fn begin_at(&mut self, last: LogId) {
        self.last = Some(last);
        self.recent = Recent::default();
        self.removals += 1;
    }

    /// The entries of `range` that are in memory; the others, if any, come before them.
    fn recent(&self, range: &Range<u64>) -> Vec<Entry> {
        let entries = &self.recent.entries;
        let Some(first) = entries.front().map(Entry::index) else { return Vec::new() };
        // There is no gap between them, so an index is a place.
        let place =
            |index: u64| usize::try_from(index.saturating_sub(first)).map_or(entries.len(), |place| place.min(entries.len()));
        let start = place(range.start);
        entries.range(start..place(range.end).max(start)).cloned().collect()
    }
}

/// The index behind `last`.
pub(crate) fn end_of(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

fn size(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.group.payload.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    ENTRY_BYTES + payload
}

/// Reads a replicated log and its vote. Cheap to clone; each task has its own.
#[derive(Clone)]
pub struct ReplicatedLogReader(pub(crate) Arc<Shared>);

impl fmt::Debug for ReplicatedLogReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ReplicatedLogReader").field(&self.0.stream).finish()
    }
}

impl ReplicatedLogReader {
    /// The entries of `range` that the log holds, in order; at least one if it holds any, and not many more than `bytes_max` bytes of them.
    async fn read(&self, asked: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (range, mut recent, removals) = {
                let state = self.0.state.lock();
                let range = asked.start.max(end_of(state.purged()))..asked.end.min(end_of(state.last));
                (range.clone(), state.recent(&range), state.removals)
            };
            let disk_end = recent.first().map_or(range.end, Entry::index);
            let (mut entries, mut is_whole) = (Vec::new(), true);
            if range.start < disk_end {
                (entries, is_whole) = self.read_disk(range.start..disk_end, bytes_max).await?;
                if self.0.state.lock().removals != removals {
                    continue;
                }
            }
            let mut expected = range.end;
            if is_whole {
                entries.append(&mut recent);
            } else {
                expected = entries.last().map_or(range.start, |last| last.index() + 1);
            }
            // Entries may be missing at the beginning, where there never were any, and nowhere else.
            let ends = entries.iter().skip(1).map(Entry::index).chain([expected]);
            if let Some((entry, next)) = entries.iter().zip(ends).find(|(entry, next)| entry.index() + 1 != *next) {
                let what = format!("entry {} of {} is not followed by that before entry {next}", entry.log_id, self.0.stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            shorten(&mut entries, bytes_max);
            return Ok(entries);
        }
    }

    /// The same of what is on the disk, and whether it is all of it.
    async fn read_disk(&self, range: Range<u64>, bytes_max: usize) -> io::Result<(Vec<Entry>, bool)> {
        let read = move |shared: &Shared| {
            let (mut records, mut bytes, mut is_whole) = (Vec::new(), 0, true);
            shared
                .disk
                .read_entries(shared.stream, log_index(range.start), log_index(range.end - 1), |entry| {
                    if bytes > bytes_max {
                        is_whole = false;
                        return Ok(ControlFlow::Break(()));
                    }
                    bytes += ENTRY_BYTES + entry.payload.len();
                    records.push(ReplicatedEntry::read(entry)?);
                    Ok(ControlFlow::Continue(()))
                })
                .map_err(io::Error::other)?;
            let entries: io::Result<Vec<Entry>> = records.into_iter().map(to_entry).collect();
            Ok((entries?, is_whole))
        };
        self.0.on_disk(read).await
    }
}

/// Drops entries from the end until there are not many more than `bytes_max` bytes of them.
fn shorten(entries: &mut Vec<Entry>, bytes_max: usize) {
    let mut bytes = 0;
    let over = entries.iter().position(|entry| {
        let is_over = bytes > bytes_max;
        bytes += size(entry);
        is_over
    });
    entries.truncate(over.unwrap_or(entries.len()));
}

fn to_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for ReplicatedLogReader {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        // In pieces: after a restart this may be the whole log.
        let (reader, read) = (self.clone(), VecDeque::new());
        Box::pin(stream::try_unfold((reader, to_range(&range), read), |(reader, range, mut read)| async move {
            if read.is_empty() && range.start < range.end {
                read = reader.read(range.clone(), READ_BYTES_MAX).await?.into();
            }
            let Some(entry) = read.pop_front() else { return Ok(None) };
            let rest = entry.index() + 1..range.end;
            Ok(Some((entry, (reader, rest, read))))
        }))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        self.read(to_range(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.state.lock().vote())
    }
}
