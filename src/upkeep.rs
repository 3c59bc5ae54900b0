//! The upkeep of a running node, on one thread of its own: snapshots, so that a start reads little of the log; giving the log's space
//! back when neither a snapshot nor the change feed needs it any more; and dropping from the history what is retained no longer.

mod due;
mod failure;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_engine::{CopyGivenUp, Engine};
use tidegate_persistence::disk::free_bytes;
use tidegate_persistence::{
    GroupSequence, History, HistoryError, Identity, LogIndex, LogReader, SnapshotExpectation, SnapshotHeader, SnapshotInfo,
    SnapshotReader, SnapshotWriter, StreamId, WalWriter, remove_older, snapshots,
};
use tidegate_stock::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::due::Due;
pub(crate) use self::failure::SnapshotFailure;
use self::space::{FeedBounds, SnapshotSpace};
use crate::cluster::MemberSnapshots;
use crate::upkeep_metrics::UpkeepMetrics;

/// Snapshots of each shard that are kept: the newest, and one more in case that one is damaged.
const SNAPSHOTS_KEPT: usize = 2;

/// How often the thread looks whether anything is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the history is looked through for what is retained no longer.
const HISTORY_INTERVAL: Duration = Duration::from_mins(1);

/// Bytes of a snapshot that are written between two looks at the disk's free space.
const SPACE_LOOK_BYTES: u64 = 8 * 1024 * 1024;

/// How long the thread waits between two looks at a watermark.
const COMMIT_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// When what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpkeepOptions {
    /// Bytes that the log grows by between two snapshots.
    pub(crate) snapshot_log_bytes: u64,
    /// Time between two snapshots of a log that grows at all.
    pub(crate) snapshot_interval: Duration,
    /// Bytes of a snapshot that are written in a second at most.
    pub(crate) snapshot_bytes_per_second: u64,
    /// Free bytes of the disk that a snapshot leaves.
    pub(crate) disk_free_bytes_min: u64,
    /// How long changes stay in the log for the feed.
    pub(crate) feed_retention: Duration,
    /// Bytes of the log beyond which older changes go all the same.
    pub(crate) feed_retention_bytes: u64,
    /// How long resolved reservations stay in the history.
    pub(crate) history_retention: Duration,
}

/// What the upkeep works on.
pub(crate) struct UpkeepParts {
    pub(crate) options: UpkeepOptions,
    pub(crate) directory: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) engine: Engine,
    pub(crate) log: LogReader,
    pub(crate) writer: WalWriter,
    pub(crate) history: Arc<History>,
    pub(crate) metrics: Arc<UpkeepMetrics>,
    /// Bytes of the log behind the snapshots that the node started from.
    pub(crate) log_bytes_replayed: u64,
    /// Of a member of a cluster, what others need of its snapshots.
    pub(crate) member: Option<MemberSnapshots>,
}

enum Message {
    Snapshot(oneshot::Sender<Result<Vec<SnapshotInfo>, SnapshotFailure>>),
    Stop,
}

/// The running upkeep.
pub(crate) struct Upkeep {
    line: UpkeepLine,
    thread: Option<JoinHandle<()>>,
}

/// Asks the upkeep for something. Clones share it.
#[derive(Clone)]
pub(crate) struct UpkeepLine {
    sender: Sender<Message>,
    holds: Arc<AtomicUsize>,
}

/// While one of these lives, no space of the log is given back.
pub(crate) struct LogHold(Arc<AtomicUsize>);

impl Drop for LogHold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UpkeepLine {
    /// Keeps the log's space from being given back. What is under way of that is over when a snapshot that is asked for afterwards is made.
    pub(crate) fn hold_log(&self) -> LogHold {
        self.holds.fetch_add(1, Ordering::AcqRel);
        LogHold(Arc::clone(&self.holds))
    }

    /// Makes a snapshot of every shard now. Each holds everything that was answered before the call, and is durable at return.
    pub(crate) async fn snapshot(&self) -> Result<Vec<SnapshotInfo>, SnapshotFailure> {
        let (reply, made) = oneshot::channel();
        self.sender.send(Message::Snapshot(reply)).map_err(|_| SnapshotFailure::Stopped)?;
        made.await.unwrap_or(Err(SnapshotFailure::Stopped))
    }
}

impl Upkeep {
    /// Starts the upkeep, which asks the engine things on the runtime of `handle`.
    ///
    /// # Panics
    /// When the operating system gives no thread.
    pub(crate) fn start(parts: UpkeepParts, handle: Handle) -> Self {
        let (sender, receiver) = mpsc::channel();
        let line = UpkeepLine { sender, holds: Arc::default() };
        let holds = Arc::clone(&line.holds);
        let thread = thread::Builder::new()
            .name("upkeep".to_owned())
            .spawn(move || Keeper::new(parts, handle, holds).run(&receiver))
            .expect("the operating system gives a thread at start");
        Self { line, thread: Some(thread) }
    }

    /// A line to it.
    pub(crate) fn line(&self) -> UpkeepLine {
        self.line.clone()
    }

    /// Ends it, and waits for what it is doing. Stop it after the engine, so that a snapshot that is being made is given up.
    pub(crate) fn stop(mut self) {
        // It listens until it is told so.
        let _ = self.line.sender.send(Message::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the upkeep's thread ended by a panic");
        }
    }
}

struct Keeper {
    parts: UpkeepParts,
    handle: Handle,
    /// How many do not want the log's space to be given back.
    holds: Arc<AtomicUsize>,
    due: Due,
    /// Of each stream, the snapshot that was last told to be unreadable.
    unreadable: BTreeMap<StreamId, PathBuf>,
    history_at: Instant,
}

/// Whether a snapshot is made of a shard that has not moved since its newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmoved {
    /// Yes, in place of that one.
    Again,
    /// Only if the shard keeps the log's space from being given back; then a group of nothing is behind it.
    IfPinning,
}

impl Keeper {
    fn new(parts: UpkeepParts, handle: Handle, holds: Arc<AtomicUsize>) -> Self {
        let now = Instant::now();
        let due = Due::new(now, parts.log_bytes_replayed);
        Self { parts, handle, holds, due, unreadable: BTreeMap::new(), history_at: now }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        self.measure();
        loop {
            match messages.recv_timeout(LOOK_INTERVAL) {
                Ok(Message::Snapshot(reply)) => {
                    // Whoever asked and left has a snapshot all the same.
                    let _ = reply.send(self.snapshot_all(Unmoved::Again));
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Every failure is told where it happens.
            if self.is_snapshot_due() {
                let _ = self.snapshot_all(Unmoved::IfPinning);
            } else {
                let again = self.due.again(Instant::now());
                let _ = self.snapshot_each(&again, Unmoved::IfPinning);
            }
            if self.holds.load(Ordering::Acquire) == 0
                && let Err(error) = self.compact()
            {
                tracing::error!(%error, "the log's space could not be given back");
            }
            if self.history_at.elapsed() >= HISTORY_INTERVAL {
                self.history_at = Instant::now();
                if let Err(error) = self.trim_history() {
                    tracing::error!(%error, "the history could not be trimmed");
                }
            }
            self.measure();
        }
    }

    fn is_snapshot_due(&mut self) -> bool {
        let UpkeepOptions { snapshot_log_bytes, snapshot_interval, .. } = self.parts.options;
        let grown = self.due.grown(self.parts.engine.log_bytes_written());
        grown >= snapshot_log_bytes
            || (self.due.snapshot_at().elapsed() >= snapshot_interval && (grown > 0 || !self.pinning().is_empty()))
    }

    /// Makes a snapshot of every shard. A failure of one keeps none of the others from theirs; the first is returned.
    fn snapshot_all(&mut self, unmoved: Unmoved) -> Result<Vec<SnapshotInfo>, SnapshotFailure> {
        self.due.begin(Instant::now(), self.parts.engine.log_bytes_written());
        self.snapshot_each(&self.parts.engine.streams(), unmoved)
    }

    fn snapshot_each(&mut self, streams: &[StreamId], unmoved: Unmoved) -> Result<Vec<SnapshotInfo>, SnapshotFailure> {
        let pinning = if streams.is_empty() || unmoved == Unmoved::Again { BTreeSet::new() } else { self.pinning() };
        let (mut all, mut failure) = (Vec::new(), None);
        for &stream in streams {
            let made = self.has_moved(stream).and_then(|moved| match (moved, unmoved) {
                (false, Unmoved::IfPinning) if pinning.contains(&stream) => self.snapshot(stream, true),
                (false, Unmoved::IfPinning) => Ok(None),
                (true, _) | (false, Unmoved::Again) => self.snapshot(stream, false),
            });
            match made {
                Ok(made) => all.extend(made),
                Err(error) if !self.parts.engine.takes_commands() => {
                    tracing::info!(%stream, %error, "no snapshot is made, because the node is stopping");
                    return Err(error);
                }
                Err(error) => {
                    self.parts.metrics.count_snapshot_failure();
                    tracing::error!(%stream, %error, "no snapshot could be made; the log is kept");
                    if matches!(error, SnapshotFailure::GivenUp(_)) {
                        self.due.try_again(stream, Instant::now());
                    }
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(all), Err)
    }

    /// Whether a shard has committed anything since its newest snapshot.
    fn has_moved(&self, stream: StreamId) -> Result<bool, SnapshotFailure> {
        let UpkeepParts { directory, engine, .. } = &self.parts;
        let committed = engine.committed(stream).unwrap_or_default();
        let newest = snapshots(directory, stream)?.first().map_or(GroupSequence(0), |newest| newest.group_sequence);
        Ok(newest < committed)
    }

    /// Makes a snapshot of one shard, behind a group that is made for it if it `is_marked`; `None` while its log is empty, and while another node
    /// has that group to make.
    fn snapshot(&self, stream: StreamId, is_marked: bool) -> Result<Option<SnapshotInfo>, SnapshotFailure> {
        let UpkeepParts { options, directory, identity, engine, log, writer: log_writer, history, metrics, member, .. } =
            &self.parts;
        let began = Instant::now();
        // It will be about as large as the one before.
        let expected = snapshots(directory, stream)?.first().map_or(0, |newest| newest.bytes);
        let space = SnapshotSpace { disk_free_bytes_min: options.disk_free_bytes_min, expected };
        let free = || free_bytes(directory).map_err(SnapshotFailure::FreeSpace);
        space.check(free()?, 0)?;
        match member {
            _ if !is_marked => {}
            None => self.handle.block_on(engine.mark_log(stream))?,
            Some(member) if self.handle.block_on(member.mark(stream)) => {}
            // Once it is here the shard has moved.
            Some(_) => return Ok(None),
        }
        let mut copy = self.handle.block_on(engine.copy_ledger(stream))?;
        while !copy.is_committed()? {
            if !engine.takes_commands() {
                return Err(CopyGivenUp.into());
            }
            thread::park_timeout(COMMIT_LOOK_INTERVAL);
        }
        let header = match member {
            None => log.position(stream, copy.at())?.map(|position| SnapshotHeader::new(identity, stream, position)),
            Some(member) => member.header(stream, copy.at())?,
        };
        let Some(header) = header else { return Ok(None) };
        let mut writer = SnapshotWriter::create(directory, &header, options.snapshot_bytes_per_second)?;
        let mut checked = 0;
        while let Some(block) = copy.next_block()? {
            writer.block(&block.bytes, block.items)?;
            let written = writer.bytes_written();
            if written - checked >= SPACE_LOOK_BYTES {
                space.check(free()?, written)?;
                checked = written;
            }
        }
        // What left memory is not in the copy, so it must be safe before the copy counts; and so must the log that the copy stands on.
        if !mutant!(SnapshotBeforeHistory) {
            history.persist()?;
        }
        log_writer.sync()?;
        let made = writer.finish()?;
        remove_older(directory, stream, SNAPSHOTS_KEPT)?;
        if let Some(member) = member {
            self.handle.block_on(member.note(stream));
        }
        metrics.observe_snapshot(began.elapsed(), made.bytes);
        tracing::info!(%stream, group = %made.group_sequence, bytes = made.bytes, elapsed = ?began.elapsed(), "made a snapshot");
        Ok(Some(made))
    }

    /// Up to where the log is kept for the feed.
    fn feed_bounds(&self) -> FeedBounds {
        let UpkeepParts { options, engine, .. } = &self.parts;
        let oldest_kept = Timestamp::from_unix_ms(engine.now().unix_ms().saturating_sub(millis(options.feed_retention)));
        FeedBounds { oldest_kept, bytes_max: options.feed_retention_bytes }
    }

    /// The shards whose snapshots alone keep the log's oldest segment.
    fn pinning(&mut self) -> BTreeSet<StreamId> {
        // A log that has stopped has nothing to give back.
        let Ok(segments) = self.parts.log.segments() else { return BTreeSet::new() };
        let ends = self.feed_bounds().oldest_that_may_go(&segments).map(|oldest| oldest.last.clone()).unwrap_or_default();
        let pins = |(stream, (last, _))| {
            // What cannot be looked at is told where the space is given back.
            let behind = self.behind_snapshot(stream).ok()?;
            behind.is_none_or(|behind| last >= behind).then_some(stream)
        };
        // Votes have no snapshots, and keep nothing.
        ends.into_iter().filter(|(stream, _)| !stream.is_votes()).filter_map(pins).collect()
    }

    /// The first entry of a stream that its older snapshot does not cover. `None` without two snapshots, or if the older cannot be read:
    /// then the log is all there is.
    fn behind_snapshot(&mut self, stream: StreamId) -> Result<Option<LogIndex>, SnapshotFailure> {
        let UpkeepParts { directory, identity, .. } = &self.parts;
        let kept = snapshots(directory, stream)?;
        // The older of two is kept in case the newer is damaged.
        let Some(oldest) = kept.get(..SNAPSHOTS_KEPT).and_then(<[SnapshotInfo]>::last) else { return Ok(None) };
        match SnapshotReader::open(&oldest.path, &SnapshotExpectation::new(identity, stream)) {
            Ok(reader) => Ok(Some(reader.header().position.index.next())),
            Err(error) => {
                if self.unreadable.insert(stream, oldest.path.clone()).as_ref() != Some(&oldest.path) {
                    tracing::error!(%stream, %error, "a snapshot cannot be read; the shard's log is kept until there are two newer ones");
                }
                Ok(None)
            }
        }
    }

    /// Gives back the segments that neither a snapshot nor the feed needs.
    fn compact(&mut self) -> Result<(), SnapshotFailure> {
        let segments = self.parts.log.segments()?;
        let let_go = self.feed_bounds().let_go(&segments);
        if let_go.is_empty() {
            return Ok(());
        }
        let mut keep_from = BTreeMap::new();
        for (stream, behind_feed) in let_go {
            if let Some(behind_snapshot) = self.behind_snapshot(stream)? {
                keep_from.insert(stream, if mutant!(LogGivenBackTooFar) { behind_feed } else { behind_feed.min(behind_snapshot) });
            }
        }
        let compacted = self.parts.log.compact(&keep_from)?;
        if compacted.segments > 0 {
            tracing::info!(segments = compacted.segments, bytes = compacted.bytes, "gave space of the log back");
        }
        Ok(())
    }

    fn trim_history(&self) -> Result<(), HistoryError> {
        let UpkeepParts { options, engine, history, .. } = &self.parts;
        let before = engine.now().unix_ms().saturating_sub(millis(options.history_retention));
        let mut removed = 0;
        // A call drops one range of time at most; several can have ended since the last look.
        loop {
            match history.remove_resolved_before(Timestamp::from_unix_ms(before))? {
                0 => break,
                records => removed += records,
            }
        }
        if removed > 0 {
            tracing::info!(removed, "dropped reservations from the history that are retained no longer");
        }
        Ok(())
    }

    fn measure(&self) {
        let UpkeepParts { engine, log, history, metrics, .. } = &self.parts;
        // A log that has stopped has nothing to measure.
        if let Ok(size) = log.size() {
            metrics.show_log(&size, engine.now());
        }
        match history.bytes_on_disk() {
            Ok(bytes) => metrics.show_history(bytes),
            Err(error) => tracing::warn!(%error, "the history's size is unknown"),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
