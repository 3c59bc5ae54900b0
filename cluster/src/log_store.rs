//! openraft's log store on the node's write-ahead log.
//!
//! One thread of the node writes and syncs for all shards, so one sync covers what their consensus groups have handed over meanwhile, and it
//! is that thread which calls back once entries are durable. Votes, and how far the log was purged, are a stream of their own beside the log,
//! and durable when they are said to be. The committed position is not kept: it follows from the quorum, and what a restarted node applies again
//! is what lies behind its snapshot.
//!
//! A purge forgets entries for consensus only. They stay in the log for whoever reads its groups, until their segment goes.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::Mutex;
use tidegate_persistence::{
    Done, LogIndex, LogPosition, LogReader, Promises, Purged, RecoveredEntry, RecoveredReplica, Term, WalError, WalWriter,
};
use tokio::sync::oneshot;

use crate::log_reader::{ReplicatedLogReader, Shared, State, end_of};
use crate::types::{Entry, LogId, TypeConfig, Vote, log_id, log_index, to_record};

/// Where a shard stands at an entry that its log does not hold, because a snapshot took its place: the state machine knows.
pub type PositionAt = Arc<dyn Fn(LogIndex) -> Option<LogPosition> + Send + Sync>;

/// The replicated log of one shard, and its votes.
pub struct ReplicatedLog {
    shared: Arc<Shared>,
    writer: WalWriter,
    position_at: PositionAt,
}

impl fmt::Debug for ReplicatedLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReplicatedLog").field("stream", &self.shared.stream).finish_non_exhaustive()
    }
}

impl ReplicatedLog {
    /// The log that `writer` and `disk` write and read, and of which `replica` was recovered. The write-ahead log must have been started with
    /// both of its streams.
    ///
    /// # Errors
    /// When the write-ahead log has stopped.
    pub fn open(writer: WalWriter, disk: LogReader, replica: &RecoveredReplica, position_at: PositionAt) -> Result<Self, WalError> {
        Self::open_with(writer, disk, replica, position_at, false)
    }

    /// The same of a log that a store in memory keeps. What is read of it is read at once, on the task's own thread.
    ///
    /// # Errors
    /// As [`ReplicatedLog::open`].
    pub fn open_in_memory(
        writer: WalWriter,
        disk: LogReader,
        replica: &RecoveredReplica,
        position_at: PositionAt,
    ) -> Result<Self, WalError> {
        Self::open_with(writer, disk, replica, position_at, true)
    }

    fn open_with(
        writer: WalWriter,
        disk: LogReader,
        replica: &RecoveredReplica,
        position_at: PositionAt,
        is_memory: bool,
    ) -> Result<Self, WalError> {
        let RecoveredReplica { promises, log, last_leader, .. } = replica;
        let last = (log.last_index > LogIndex(0)).then(|| log_id(log.last_term, *last_leader, log.last_index));
        if replica.has_leftovers {
            // Before anything is appended: the log's thread does it in this order.
            writer.begin_at(log.stream, promises.base(), Box::new(|| {}))?;
        }
        let shared = Shared { stream: log.stream, disk, state: Mutex::new(State::new(*promises, last)), is_memory };
        Ok(Self { shared: Arc::new(shared), writer, position_at })
    }

    /// The last entry, or the last purged one.
    pub fn last(&self) -> Option<LogId> {
        self.shared.state.lock().last
    }

    /// What is promised.
    pub(crate) fn promises(&self) -> Promises {
        self.shared.state.lock().promises
    }

    /// Keeps `promises`; durable at return.
    pub(crate) async fn promise(&self, promises: Promises) -> io::Result<()> {
        wait(|done| self.writer.promise(self.shared.stream.shard(), promises, done)).await?;
        self.shared.state.lock().promises = promises;
        Ok(())
    }

    /// Where the log stands at the entry `id`, which is behind what was purged.
    async fn position(&self, id: LogId, base: LogPosition) -> io::Result<LogPosition> {
        let index = log_index(id.index);
        let position =
            if id.index < end_of(self.last()) { self.position_within(index, base).await? } else { (self.position_at)(index) };
        let position = position.ok_or_else(|| {
            let what = format!("where {} stands at entry {index} is unknown: it is not in the log", self.shared.stream);
            io::Error::new(io::ErrorKind::NotFound, what)
        })?;
        Ok(LogPosition { index, term: Term(id.leader_id.term), ..position })
    }

    /// The same of an entry that is not behind the last.
    async fn position_within(&self, index: LogIndex, base: LogPosition) -> io::Result<Option<LogPosition>> {
        let read = move |shared: &Shared| {
            let mut position = None;
            let visit = |entry: &RecoveredEntry<'_>| {
                // A log that begins behind it knows nothing of it but that nothing precedes its first entry.
                position = Some(if entry.index == index { entry.position() } else { base });
                Ok(ControlFlow::Break(()))
            };
            shared.disk.read_entries(shared.stream, index, LogIndex(u64::MAX), visit).map_err(io::Error::other)?;
            Ok(position)
        };
        self.shared.on_disk(read).await
    }
}

/// Hands something to the log's thread and waits until it is durable.
async fn wait(hand_over: impl FnOnce(Done) -> Result<(), WalError>) -> io::Result<()> {
    let (sender, done) = oneshot::channel();
    // Whoever no longer waits does not hear of it.
    hand_over(Box::new(move || sender.send(()).unwrap_or_default())).map_err(io::Error::other)?;
    done.await.map_err(|_| io::Error::other(WalError::Stopped))
}

/// Tells openraft that entries are durable, or, dropped before, that the log has stopped.
struct Flushed(Option<IOFlushed<TypeConfig>>);

impl Flushed {
    fn done(mut self) {
        if let Some(callback) = self.0.take() {
            callback.io_completed(Ok(()));
        }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback.io_completed(Err(io::Error::other(WalError::Stopped)));
        }
    }
}

impl RaftLogStorage<TypeConfig> for ReplicatedLog {
    type LogReader = ReplicatedLogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged(), last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> ReplicatedLogReader {
        ReplicatedLogReader(Arc::clone(&self.shared))
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = tidegate_persistence::Vote {
            term: Term(vote.leader_id.term),
            leader: vote.leader_id.node_id,
            is_granted: vote.committed,
        };
        self.promise(Promises { vote: Some(vote), ..self.promises() }).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let flushed = Flushed(Some(callback));
        let entries: Vec<Entry> = entries.into_iter().collect();
        let records: io::Result<Vec<_>> = entries.iter().map(to_record).collect();
        let records = records?;
        let Some(end) = entries.last().map(|last| last.index() + 1) else {
            flushed.done();
            return Ok(());
        };
        self.shared.state.lock().append(entries);
        let shared = Arc::clone(&self.shared);
        let done = Box::new(move || {
            shared.state.lock().flushed(end);
            flushed.done();
        });
        self.writer.append_entries(self.shared.stream, records, done).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let end = end_of(last);
        let base = {
            let mut state = self.shared.state.lock();
            if end >= end_of(state.last) {
                return Ok(());
            }
            // Hidden first, so that no reader takes for the log what is just being removed.
            let purged = state.purged();
            state.truncate_after(last.or(purged));
            state.promises.base()
        };
        let last = LogIndex(end).max(base.index);
        // By then all that was appended before has been told as durable, so its indexes cannot be taken for those of what comes next.
        wait(|done| self.writer.truncate_after(self.shared.stream, last, base, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let promises = self.promises();
        if log_index(upto.index) <= promises.base().index {
            return Ok(());
        }
        let position = self.position(upto, promises.base()).await?;
        let purged = Some(Purged { leader: upto.leader_id.node_id, position });
        let is_beyond_end = upto.index >= end_of(self.last());
        self.promise(Promises { purged, ..promises }).await?;
        if is_beyond_end {
            self.shared.state.lock().begin_at(upto);
            wait(|done| self.writer.begin_at(self.shared.stream, position, done)).await?;
        }
        Ok(())
    }
}
