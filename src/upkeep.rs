//! The upkeep of a running node, on one thread of its own: snapshots, so that a start reads little of the log; giving the log's space
//! back when neither a snapshot nor the change feed needs it any more; and dropping from the history what is retained no longer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_engine::{CopyGivenUp, Engine};
use tidegate_persistence::{
    History, HistoryError, Identity, LogIndex, LogReader, ReadError, SNAPSHOT_PACE_BYTES_DEFAULT, SnapshotError,
    SnapshotExpectation, SnapshotHeader, SnapshotInfo, SnapshotReader, SnapshotThrottle, SnapshotWriter, StreamId, WalError,
    WalWriter, remove_older, snapshots,
};
use tidegate_stock::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::upkeep_metrics::UpkeepMetrics;

/// Snapshots of each shard that are kept: the newest, and one more in case that one is damaged.
const SNAPSHOTS_KEPT: usize = 2;

/// How often the thread looks whether anything is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the history is looked through for what is retained no longer.
const HISTORY_INTERVAL: Duration = Duration::from_mins(1);

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
}

/// Why a snapshot was not made. What there was before is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotFailure {
    /// The shard is stopping, or its log has failed.
    #[error(transparent)]
    GivenUp(#[from] CopyGivenUp),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The log could not be made durable.
    #[error(transparent)]
    Sync(#[from] WalError),
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// The history could not be made durable.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The upkeep has stopped.
    #[error("the node is stopping")]
    Stopped,
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
    /// Bytes that the log had been written when the newest snapshot was begun, if any was.
    written_at_snapshot: Option<u64>,
    snapshot_at: Instant,
    history_at: Instant,
}

impl Keeper {
    fn new(parts: UpkeepParts, handle: Handle, holds: Arc<AtomicUsize>) -> Self {
        let now = Instant::now();
        Self { parts, handle, holds, written_at_snapshot: None, snapshot_at: now, history_at: now }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        self.measure();
        loop {
            match messages.recv_timeout(LOOK_INTERVAL) {
                Ok(Message::Snapshot(reply)) => {
                    // Whoever asked and left has a snapshot all the same.
                    let _ = reply.send(self.snapshot_all());
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.is_snapshot_due()
                && let Err(error) = self.snapshot_all()
            {
                self.parts.metrics.count_snapshot_failure();
                tracing::error!(%error, "no snapshot could be made; the log is kept");
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

    /// Bytes of the log since the newest snapshots.
    fn log_bytes(&self) -> u64 {
        let written = self.parts.engine.log_bytes_written();
        self.written_at_snapshot.map_or(self.parts.log_bytes_replayed + written, |at| written - at)
    }

    fn is_snapshot_due(&self) -> bool {
        let UpkeepOptions { snapshot_log_bytes, snapshot_interval, .. } = self.parts.options;
        let grown = self.log_bytes();
        grown >= snapshot_log_bytes || (grown > 0 && self.snapshot_at.elapsed() >= snapshot_interval)
    }

    fn snapshot_all(&mut self) -> Result<Vec<SnapshotInfo>, SnapshotFailure> {
        // What fails is tried again when it would be due the next time, not every second.
        self.snapshot_at = Instant::now();
        let written = self.parts.engine.log_bytes_written();
        let streams = self.parts.engine.streams();
        let made = streams.into_iter().filter_map(|stream| self.snapshot(stream).transpose()).collect();
        self.written_at_snapshot = Some(written);
        made
    }

    /// Makes a snapshot of one shard; `None` while its log is empty.
    fn snapshot(&self, stream: StreamId) -> Result<Option<SnapshotInfo>, SnapshotFailure> {
        let UpkeepParts { directory, identity, engine, log, writer: log_writer, history, metrics, .. } = &self.parts;
        let began = Instant::now();
        let mut copy = self.handle.block_on(engine.copy_ledger(stream))?;
        while !copy.is_committed() {
            if !engine.takes_commands() {
                return Err(CopyGivenUp.into());
            }
            thread::park_timeout(COMMIT_LOOK_INTERVAL);
        }
        let Some(position) = log.position(stream, copy.at())? else { return Ok(None) };
        let header = SnapshotHeader::new(identity, stream, position);
        let mut writer = SnapshotWriter::create(directory, &header, SNAPSHOT_PACE_BYTES_DEFAULT)?;
        let throttle = SnapshotThrottle::new(self.parts.options.snapshot_bytes_per_second);
        while let Some(block) = copy.next_block()? {
            writer.block(&block.bytes, block.items)?;
            throttle.wait(writer.bytes_written());
        }
        // What left memory is not in the copy, so it must be safe before the copy counts; and so must the log that the copy stands on.
        history.persist()?;
        log_writer.sync()?;
        let made = writer.finish()?;
        remove_older(directory, stream, SNAPSHOTS_KEPT)?;
        metrics.observe_snapshot(began.elapsed(), made.bytes);
        tracing::info!(%stream, group = %made.group_sequence, bytes = made.bytes, elapsed = ?began.elapsed(), "made a snapshot");
        Ok(Some(made))
    }

    /// Gives back the segments that neither a snapshot nor the feed needs.
    fn compact(&self) -> Result<(), SnapshotFailure> {
        let UpkeepParts { options, directory, identity, engine, log, .. } = &self.parts;
        let segments = log.segments()?;
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes_on_disk).sum();
        let oldest_kept = engine.now().unix_ms().saturating_sub(millis(options.feed_retention));
        // What the feed lets go of: the oldest segments while they are too old, or too much is kept.
        let mut let_go: BTreeMap<StreamId, LogIndex> = BTreeMap::new();
        for segment in &segments {
            if segment.newest_time.unix_ms() >= oldest_kept && bytes <= options.feed_retention_bytes {
                break;
            }
            bytes -= segment.bytes_on_disk;
            let_go.extend(segment.last.iter().map(|(stream, (index, _))| (*stream, index.next())));
        }
        if let_go.is_empty() {
            return Ok(());
        }
        let mut keep_from = BTreeMap::new();
        for (stream, behind_feed) in let_go {
            // Without a snapshot the log is all there is. The older of two snapshots is kept in case the newer is damaged.
            let kept = snapshots(directory, stream)?;
            let Some(oldest) = kept.get(..SNAPSHOTS_KEPT).and_then(<[SnapshotInfo]>::last) else { continue };
            let behind_snapshot =
                SnapshotReader::open(&oldest.path, &SnapshotExpectation::new(identity, stream))?.header().position.index.next();
            keep_from.insert(stream, behind_feed.min(behind_snapshot));
        }
        let compacted = log.compact(&keep_from)?;
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
