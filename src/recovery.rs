//! A shard's ledger from the disk: the newest snapshot that is whole, and what the log holds behind it. Knows no engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tidegate_engine::{CodecError, for_each_block, replay_log};
use tidegate_persistence::{
    DataDirectory, GroupSequence, Identity, LogPosition, RecoveredStream, RecoveryError, RecoveryProgress, SnapshotError,
    SnapshotExpectation, SnapshotInfo, SnapshotReader, StreamId, set_aside, snapshots,
};
use tidegate_stock::{Ledger, LoadError, Loader, Rules, SnapshotItem};

use crate::parallel;

/// How far a start is. Any thread may look.
#[derive(Debug, Default)]
pub(crate) struct StartProgress {
    /// Reservations loaded from snapshots.
    loaded: AtomicU64,
    /// Bytes of snapshots read, and what there is of them.
    snapshot_bytes: AtomicU64,
    snapshot_bytes_due: AtomicU64,
    /// Groups of the log behind the snapshots.
    groups_due: AtomicU64,
    /// What was read of the log, once that has begun.
    log: OnceLock<Arc<RecoveryProgress>>,
}

/// What was read at one moment, and what there is to be read. What is due grows when a snapshot turns out to be of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Reservations loaded from snapshots.
    pub(crate) reservations: u64,
    /// Bytes of snapshots read.
    pub(crate) snapshot_bytes: u64,
    /// Bytes of the snapshots that the start begins with.
    pub(crate) snapshot_bytes_due: u64,
    /// Groups of the log read.
    pub(crate) groups: u64,
    /// Groups of the log behind those snapshots. One that was never finished counts, and is not read.
    pub(crate) groups_due: u64,
    /// Events in the groups read.
    pub(crate) events: u64,
    /// Bytes of the log read.
    pub(crate) bytes: u64,
}

impl StartProgress {
    /// What was read so far; `None` while the directory is being opened.
    pub(crate) fn reading(&self) -> Option<Reading> {
        let log = self.log.get()?;
        Some(Reading {
            reservations: self.loaded.load(Ordering::Relaxed),
            snapshot_bytes: self.snapshot_bytes.load(Ordering::Relaxed),
            snapshot_bytes_due: self.snapshot_bytes_due.load(Ordering::Relaxed),
            groups: log.groups(),
            groups_due: self.groups_due.load(Ordering::Relaxed),
            events: log.events(),
            bytes: log.bytes(),
        })
    }

    /// The log of this is being read.
    pub(crate) fn watch(&self, log: Arc<RecoveryProgress>) {
        // A node starts once.
        let _ = self.log.set(log);
    }

    fn expect(&self, snapshot_bytes: u64, groups: u64) {
        self.snapshot_bytes_due.fetch_add(snapshot_bytes, Ordering::Relaxed);
        self.groups_due.fetch_add(groups, Ordering::Relaxed);
    }
}

impl fmt::Display for StartProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(reading) = self.reading() else { return formatter.write_str("the data directory is being opened") };
        let Reading { reservations, snapshot_bytes, snapshot_bytes_due, groups, groups_due, events, bytes } = reading;
        write!(
            formatter,
            "{reservations} reservations loaded from {snapshot_bytes} of {snapshot_bytes_due} bytes of snapshots, \
             {groups} of {groups_due} groups of the log read, with {events} events and {bytes} bytes"
        )
    }
}

/// A shard as the disk left it.
pub(crate) struct RecoveredShard {
    pub(crate) ledger: Ledger,
    pub(crate) tail: RecoveredStream,
    /// Reservations that came from a snapshot instead of the log.
    pub(crate) from_snapshot: usize,
    /// Snapshots that it did not begin with, though they are newer.
    passed_over: Vec<PathBuf>,
}

/// Why shards could not be recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// The log could not be replayed.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// Nobody knows which snapshots there are.
    #[error("the snapshots could not be listed")]
    Unlisted(#[source] SnapshotError),
    /// A snapshot that was passed over would count again another time.
    #[error("a snapshot that is of no use could not be set aside")]
    NotAside(#[source] SnapshotError),
}

/// Why a snapshot gave no ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotLoadError {
    /// The file is not what was written.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// A block of it holds no items.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its items make no ledger.
    #[error("the snapshot's items make no ledger: {0}")]
    Load(#[from] LoadError),
}

/// Removes what snapshots that were never finished left in the data directory at `path`, and says so. For every start, before it recovers.
pub(crate) fn remove_unfinished(path: &Path) -> Result<(), SnapshotError> {
    let unfinished = tidegate_persistence::remove_unfinished(path)?;
    if unfinished > 0 {
        tracing::info!(unfinished, "removed snapshots that were never finished");
    }
    Ok(())
}

/// Recovers every shard of `directory`, several at a time. Snapshots that turn out to be of no use are set aside once that has succeeded
/// without them: they must not count as those that are kept, and no later start may begin with one. What had left memory by then is in
/// memory again for a node that begins further back, and such a node changes it without an event that takes it back.
pub(crate) fn recover(
    directory: &DataDirectory,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
) -> Result<Vec<RecoveredShard>, RecoverError> {
    let mut streams = Vec::new();
    for stream in (0..directory.identity().shards).map(StreamId::log) {
        streams.push(ToRecover::look(directory, stream)?);
    }
    // All of them before the first is read: what is due is known from the beginning on.
    for stream in &streams {
        let newest = stream.snapshots.first();
        progress.expect(newest.map_or(0, |newest| newest.bytes), stream.groups_behind(newest));
    }
    let shards = parallel::map(&streams, |stream| recover_shard(directory, stream, rules, seed, progress));
    let shards: Vec<RecoveredShard> = shards.into_iter().collect::<Result<_, _>>()?;
    for passed_over in shards.iter().flat_map(|shard| &shard.passed_over) {
        let aside = set_aside(passed_over).map_err(RecoverError::NotAside)?;
        tracing::warn!(aside = %aside.display(), "set the snapshot aside");
    }
    Ok(shards)
}

/// What the disk has of a shard, before any of it is read.
struct ToRecover {
    stream: StreamId,
    /// Newest first.
    snapshots: Vec<SnapshotInfo>,
    /// The last group in the log, finished or not; 0 when there is none.
    last: GroupSequence,
}

impl ToRecover {
    fn look(directory: &DataDirectory, stream: StreamId) -> Result<Self, RecoverError> {
        let lasts = directory.segments().into_iter().filter_map(|segment| segment.last.get(&stream).map(|(_, last)| *last));
        let last = lasts.max().unwrap_or(GroupSequence(0));
        Ok(Self { stream, snapshots: snapshots(directory.path(), stream).map_err(RecoverError::Unlisted)?, last })
    }

    /// Groups to be read when `snapshot` is begun with, or none is.
    fn groups_behind(&self, snapshot: Option<&SnapshotInfo>) -> u64 {
        self.last.0.saturating_sub(snapshot.map_or(0, |snapshot| snapshot.group_sequence.0))
    }
}

fn recover_shard(
    directory: &DataDirectory,
    shard: &ToRecover,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
) -> Result<RecoveredShard, RecoverError> {
    let stream = shard.stream;
    let mut passed_over = Vec::new();
    let loaded = newest_snapshot(directory, shard, rules, seed, progress, &mut passed_over);
    let (start, ledger) = loaded.map_or_else(|| (None, Ledger::new(rules, seed)), |(start, ledger)| (Some(start), ledger));
    let from_snapshot = ledger.reservation_count();
    let (ledger, tail) = replay_log(directory, stream, start.as_ref(), ledger)?;
    if tail.discarded_tail_parts > 0 {
        tracing::info!(%stream, parts = tail.discarded_tail_parts, "an unfinished group at the log's end was never acknowledged and is dropped");
    }
    Ok(RecoveredShard { ledger, tail, from_snapshot, passed_over })
}

/// The ledger of the newest snapshot that is whole. One that is not is told and passed over: the log behind an older one says the same,
/// and where it is not there any more the replay names that as damage. Those that are passed over are put into `passed_over`.
fn newest_snapshot(
    directory: &DataDirectory,
    shard: &ToRecover,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
    passed_over: &mut Vec<PathBuf>,
) -> Option<(LogPosition, Ledger)> {
    let stream = shard.stream;
    for (place, snapshot) in shard.snapshots.iter().enumerate() {
        match load(&snapshot.path, directory.identity(), stream, rules, seed, progress) {
            Ok((position, ledger)) => {
                tracing::info!(
                    %stream,
                    snapshot = %snapshot.path.display(),
                    bytes = snapshot.bytes,
                    reservations = ledger.reservation_count(),
                    "loaded a snapshot"
                );
                return Some((position, ledger));
            }
            Err(error) => {
                tracing::error!(%error, %stream, "a snapshot is of no use; an older one or the log's beginning is tried");
                passed_over.push(snapshot.path.clone());
                let next = shard.snapshots.get(place + 1);
                let more = shard.groups_behind(next) - shard.groups_behind(Some(snapshot));
                progress.expect(next.map_or(0, |next| next.bytes), more);
            }
        }
    }
    None
}

/// The ledger of one snapshot, and where in the log it stands. Counts what was read of it in `progress`.
pub(crate) fn load(
    path: &Path,
    identity: &Identity,
    stream: StreamId,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
) -> Result<(LogPosition, Ledger), SnapshotLoadError> {
    let mut maker = Loader::new(rules, seed);
    let position = read_snapshot(path, identity, stream, &progress.snapshot_bytes, |items| {
        let reservations = items.iter().filter(|item| matches!(item, SnapshotItem::Reservation(_))).count();
        maker.add_all(items)?;
        progress.loaded.fetch_add(reservations as u64, Ordering::Relaxed);
        Ok(())
    })?;
    Ok((position, maker.finish()?))
}

/// Hands every item of a snapshot to `visit`, in order. Only at return is the whole file known to be sound.
pub(crate) fn read_items(
    path: &Path,
    identity: &Identity,
    stream: StreamId,
    mut visit: impl FnMut(SnapshotItem) -> Result<(), SnapshotLoadError>,
) -> Result<LogPosition, SnapshotLoadError> {
    read_snapshot(path, identity, stream, &AtomicU64::new(0), |items| items.into_iter().try_for_each(&mut visit))
}

/// As [`read_items`], a block of them at a time, and adds to `bytes` as it goes what was read.
fn read_snapshot(
    path: &Path,
    identity: &Identity,
    stream: StreamId,
    bytes: &AtomicU64,
    visit: impl FnMut(Vec<SnapshotItem>) -> Result<(), SnapshotLoadError>,
) -> Result<LogPosition, SnapshotLoadError> {
    let mut reader = SnapshotReader::open(path, &SnapshotExpectation::new(identity, stream))?;
    let position = reader.header().position;
    let mut counted = 0;
    let count = |reader: &SnapshotReader| {
        bytes.fetch_add(reader.bytes_read() - counted, Ordering::Relaxed);
        counted = reader.bytes_read();
    };
    for_each_block(&mut reader, count, visit)?;
    Ok(position)
}
