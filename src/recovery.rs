//! A shard's ledger from the disk: the newest snapshot that is whole, and what the log holds behind it. Knows no engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tidegate_engine::{CodecError, snapshot_items};
use tidegate_persistence::{
    DataDirectory, Identity, LogPosition, RecoveredStream, RecoveryError, RecoveryProgress, SnapshotError, SnapshotExpectation,
    SnapshotReader, StreamId, set_aside, snapshots,
};
use tidegate_stock::{Ledger, LoadError, Loader, Rules, SnapshotItem};

use crate::parallel;

/// How far a start is. Any thread may look.
#[derive(Debug, Default)]
pub(crate) struct StartProgress {
    /// Reservations loaded from snapshots.
    loaded: AtomicU64,
    /// What was read of the log, once that has begun.
    log: OnceLock<Arc<RecoveryProgress>>,
}

impl StartProgress {
    /// Reservations loaded from snapshots so far.
    pub(crate) fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    /// What was read of the log so far; `None` while the directory is being opened.
    pub(crate) fn log(&self) -> Option<&RecoveryProgress> {
        self.log.get().map(Arc::as_ref)
    }

    /// The log of this is being read.
    pub(crate) fn watch(&self, log: Arc<RecoveryProgress>) {
        // A node starts once.
        let _ = self.log.set(log);
    }
}

impl fmt::Display for StartProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(log) = self.log() else { return formatter.write_str("the data directory is being opened") };
        write!(
            formatter,
            "{} reservations loaded from snapshots, {} groups with {} events read, {} bytes",
            self.loaded(),
            log.groups(),
            log.events(),
            log.bytes()
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

/// Recovers every shard of `directory`, several at a time. Snapshots that turn out to be of no use are set aside once that has succeeded
/// without them: they must not count as those that are kept, and no later start may begin with one. What had left memory by then is in
/// memory again for a node that begins further back, and such a node changes it without an event that takes it back.
pub(crate) fn recover(
    directory: &DataDirectory,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
) -> Result<Vec<RecoveredShard>, RecoverError> {
    let streams: Vec<StreamId> = (0..directory.identity().shards).map(StreamId::log).collect();
    let shards = parallel::map(&streams, |stream| recover_shard(directory, *stream, rules, seed, progress));
    let shards: Vec<RecoveredShard> = shards.into_iter().collect::<Result<_, _>>()?;
    for passed_over in shards.iter().flat_map(|shard| &shard.passed_over) {
        let aside = set_aside(passed_over).map_err(RecoverError::NotAside)?;
        tracing::warn!(aside = %aside.display(), "set the snapshot aside");
    }
    Ok(shards)
}

fn recover_shard(
    directory: &DataDirectory,
    stream: StreamId,
    rules: Rules,
    seed: u64,
    progress: &StartProgress,
) -> Result<RecoveredShard, RecoverError> {
    let mut passed_over = Vec::new();
    let loaded = newest_snapshot(directory, stream, rules, seed, &progress.loaded, &mut passed_over)?;
    let (start, mut ledger) = loaded.map_or_else(|| (None, Ledger::new(rules, seed)), |(start, ledger)| (Some(start), ledger));
    let from_snapshot = ledger.reservation_count();
    let tail = directory.replay_from(stream, start.as_ref(), |group| {
        let mut events = 0;
        for entry in group.entries()? {
            let entry = entry?;
            // What is in the log happened: nothing of it is ever undone.
            drop(ledger.apply(&entry.event, entry.at));
            events += 1;
        }
        // A group adds at most one key an event, so keys whose time is over never gather.
        ledger.tidy(group.time, 2 * events);
        Ok(())
    })?;
    if tail.discarded_tail_parts > 0 {
        tracing::info!(%stream, parts = tail.discarded_tail_parts, "an unfinished group at the log's end was never acknowledged and is dropped");
    }
    Ok(RecoveredShard { ledger, tail, from_snapshot, passed_over })
}

/// The ledger of the newest snapshot that is whole. One that is not is told and passed over: the log behind an older one says the same,
/// and where it is not there any more the replay names that as damage. Those that are passed over are put into `passed_over`.
fn newest_snapshot(
    directory: &DataDirectory,
    stream: StreamId,
    rules: Rules,
    seed: u64,
    loaded: &AtomicU64,
    passed_over: &mut Vec<PathBuf>,
) -> Result<Option<(LogPosition, Ledger)>, RecoverError> {
    for snapshot in snapshots(directory.path(), stream).map_err(RecoverError::Unlisted)? {
        match load(&snapshot.path, directory.identity(), stream, rules, seed, loaded) {
            Ok((position, ledger)) => {
                tracing::info!(
                    %stream,
                    snapshot = %snapshot.path.display(),
                    bytes = snapshot.bytes,
                    reservations = ledger.reservation_count(),
                    "loaded a snapshot"
                );
                return Ok(Some((position, ledger)));
            }
            Err(error) => {
                tracing::error!(%error, %stream, "a snapshot is of no use; an older one or the log's beginning is tried");
                passed_over.push(snapshot.path);
            }
        }
    }
    Ok(None)
}

/// The ledger of one snapshot, and where in the log it stands. Counts its reservations in `loaded`.
pub(crate) fn load(
    path: &Path,
    identity: &Identity,
    stream: StreamId,
    rules: Rules,
    seed: u64,
    loaded: &AtomicU64,
) -> Result<(LogPosition, Ledger), SnapshotLoadError> {
    let mut maker = Loader::new(rules, seed);
    let position = read_items(path, identity, stream, |item| {
        if matches!(item, SnapshotItem::Reservation(_)) {
            loaded.fetch_add(1, Ordering::Relaxed);
        }
        Ok(maker.add(item)?)
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
    let mut reader = SnapshotReader::open(path, &SnapshotExpectation::new(identity, stream))?;
    let position = reader.header().position;
    while let Some(block) = reader.block()? {
        for item in snapshot_items(block) {
            visit(item?)?;
        }
    }
    Ok(position)
}
