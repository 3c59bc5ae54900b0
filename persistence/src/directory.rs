//! The data directory: its layout, its lock, and what opens and recovers it.
//!
//! ```text
//! <directory>/lock           held while a process uses the directory
//! <directory>/identity.json  whose it is
//! <directory>/log/           the log, a row of segments
//! <directory>/durable        up to where the log is durable
//! <directory>/diverged.json  that a ledger made of the log was another than that of the node that decided
//! ```
//!
//! Everything is refused that does not match; nothing is repaired.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_stock::Timestamp;

use crate::disk;
use crate::group::PayloadError;
use crate::identity::{self, Identity, IdentityExpectation};
use crate::record::{LogIndex, StreamId};
use crate::recovery::{
    self, LogPosition, RecoveredEntry, RecoveredGroup, RecoveredReplica, RecoveredStream, RecoveryError, RecoveryProgress,
};
use crate::replicated::Purged;
use crate::segments::{SEGMENT_BYTES_MAX_DEFAULT, SegmentOptions, SegmentedLog};
use crate::sidecar::{Durable, Sidecar};
use crate::sled_store::{CACHE_BYTES_DEFAULT, Recovery};
use crate::store::{LogStore, SegmentInfo, StoreError};

/// How a data directory is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryOptions {
    /// What it must say of itself, and what it is given when it is made.
    pub identity: IdentityExpectation,
    /// The time now, noted when it is made.
    pub now: Timestamp,
    /// Memory for the page cache of the log's newest segment in bytes, at least 256, roughly. Default: [`CACHE_BYTES_DEFAULT`].
    pub cache_bytes: u64,
    /// Bytes of values after which the log goes on in a new segment. Default: [`SEGMENT_BYTES_MAX_DEFAULT`].
    pub segment_bytes_max: u64,
    /// How long keys will be remembered in what is appended, in seconds; `None` where nothing will be. The identity keeps the shortest.
    pub idempotency_seconds: Option<u32>,
}

impl DirectoryOptions {
    /// Options with every default, at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            identity: IdentityExpectation::default(),
            now,
            cache_bytes: CACHE_BYTES_DEFAULT,
            segment_bytes_max: SEGMENT_BYTES_MAX_DEFAULT,
            idempotency_seconds: None,
        }
    }
}

/// Why a data directory was not opened. Nothing was changed in a directory that another process uses or that does not match.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {0} is in use by another process", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is no data directory, and none was to be made.
    #[error("{0} is no data directory", .path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// Its files are not what was written.
    #[error("{0} is damaged: {what}", .place.display())]
    Damaged {
        /// The file or folder.
        place: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was written by a program that knows another format.
    #[error(
        "data directory has format {found}, and this program knows format {known} alone: {}",
        if found > known {
            "the directory is newer than the program; start the version that wrote it, or a later one"
        } else {
            "the program is newer than the directory; start the version that wrote it"
        }
    )]
    Format {
        /// What the directory says.
        found: u32,
        /// The only one that this code reads and writes.
        known: u32,
    },
    /// It belongs to something else.
    #[error("data directory has {field} {found} where {expected} was expected")]
    IdentityMismatch {
        /// The field of the identity.
        field: &'static str,
        /// What the directory says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The operating system failed.
    #[error("{0}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn store(place: &Path, error: StoreError) -> Self {
        match error {
            StoreError::Io(source) => Self::io(place, source),
            StoreError::Damaged(what) => Self::Damaged { place: place.to_owned(), what },
        }
    }
}

/// An open data directory, before anything is appended. Dropping it releases it.
///
/// Until it goes to [`crate::Wal::start`] it only reads, apart from what sled does to its own files when it opens.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    progress: Arc<RecoveryProgress>,
    // In the order in which they must go: the store before the lock that keeps others from it.
    sidecar: Sidecar,
    store: SegmentedLog,
    lock: DirectoryLock,
    recovery: Recovery,
}

/// What the log's thread takes over from a data directory.
pub(crate) struct DirectoryParts {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) sidecar: Sidecar,
    pub(crate) store: SegmentedLog,
    pub(crate) lock: DirectoryLock,
}

impl DataDirectory {
    /// Opens the directory at `path`, and makes it where it is missing.
    ///
    /// At return its names and identity are durable. Waits for a directory that this process has just dropped, at most
    /// [`crate::sled_store::LOCK_WAIT_MAX`]. May take long on a large log.
    pub fn open(path: &Path, options: &DirectoryOptions) -> Result<Self, OpenError> {
        disk::create_directory(path).map_err(|source| OpenError::io(path, source))?;
        let lock = lock(path)?;
        let log = path.join("log");
        let identity = match Identity::read(path)? {
            Some(identity) => identity,
            None if log.exists() => {
                return Err(OpenError::Damaged {
                    place: path.join(identity::IDENTITY_FILE),
                    what: "it is missing beside a log".to_owned(),
                });
            }
            None => {
                let identity = Identity::generate(&options.identity, options.now)
                    .map_err(|error| OpenError::io(path, io::Error::other(format!("no random bits: {error}"))))?;
                identity.write(path)?;
                identity
            }
        };
        Self::open_locked(path, identity, options, lock)
    }

    /// Opens the directory at `path` and never makes one.
    pub fn open_existing(path: &Path, options: &DirectoryOptions) -> Result<Self, OpenError> {
        if !path.is_dir() {
            return Err(OpenError::NotFound { path: path.to_owned() });
        }
        // A folder without an identity is left as it was found.
        if Identity::read(path)?.is_none() {
            return Err(OpenError::NotFound { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let identity = Identity::read(path)?.ok_or_else(|| OpenError::NotFound { path: path.to_owned() })?;
        Self::open_locked(path, identity, options, lock)
    }

    fn open_locked(
        path: &Path,
        mut identity: Identity,
        options: &DirectoryOptions,
        lock: DirectoryLock,
    ) -> Result<Self, OpenError> {
        identity.check(&options.identity)?;
        let (log, durable) = (path.join("log"), path.join("durable"));
        if durable.exists() && !SegmentedLog::exists(&log)? {
            return Err(OpenError::Damaged { place: log, what: "its segments are missing".to_owned() });
        }
        let recovery = Recovery::begin();
        let segments = SegmentOptions { cache_bytes: options.cache_bytes, segment_bytes_max: options.segment_bytes_max };
        let store = SegmentedLog::open(&log, segments)?;
        let sidecar = Sidecar::open(&durable).map_err(|source| OpenError::io(&durable, source))?;
        disk::sync_directory(path).map_err(|source| OpenError::io(path, source))?;
        let streams = store.streams().map_err(|error| OpenError::store(&log, error))?;
        // A stream that nobody replays would hide its losses.
        if let Some(stream) = streams.iter().chain(sidecar.streams().keys()).find(|stream| stream.shard() >= identity.shards) {
            let what = format!("it holds {stream}, and there are {} shards", identity.shards);
            return Err(OpenError::Damaged { place: log, what });
        }
        if let Some(seconds) = options.idempotency_seconds {
            identity.note_idempotency_seconds(path, seconds)?;
        }
        Ok(Self { path: path.to_owned(), identity, progress: Arc::default(), sidecar, store, lock, recovery })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The counters of its recovery.
    pub fn progress(&self) -> Arc<RecoveryProgress> {
        Arc::clone(&self.progress)
    }

    /// The streams that hold anything, or are known to have held something durable. In order.
    pub fn streams(&self) -> Result<Vec<StreamId>, OpenError> {
        let mut streams = self.store.streams().map_err(|error| OpenError::store(&self.path.join("log"), error))?;
        streams.extend(self.sidecar.streams().keys());
        streams.sort_unstable();
        streams.dedup();
        Ok(streams)
    }

    /// Replays `stream` from its first entry and calls `visit` for each of its groups in order; checks everything, changes nothing.
    ///
    /// Different streams may be replayed on different threads at once. A payload error that `visit` returns is named as damage. A log
    /// whose beginning was compacted away is damage here: it needs [`DataDirectory::replay_from`].
    pub fn replay(
        &self,
        stream: StreamId,
        visit: impl FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
    ) -> Result<RecoveredStream, RecoveryError> {
        self.replay_from(stream, None, visit)
    }

    /// Replays `stream` like [`DataDirectory::replay`], from the entry behind `start` on: the position of a snapshot. `None` is the
    /// beginning of the stream.
    ///
    /// What the log still holds must continue `start`: its entry there, if it is still retained, is the one that `start` names, and the
    /// next one follows it. A log that begins later, or ends before `start`, is damage and named as such. The figures of what was read
    /// count from there on.
    pub fn replay_from(
        &self,
        stream: StreamId,
        start: Option<&LogPosition>,
        mut visit: impl FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
    ) -> Result<RecoveredStream, RecoveryError> {
        recovery::replay(&self.store, stream, start, self.durable(stream), &self.progress, &mut visit)
    }

    /// Checks everything that is retained of `stream` and calls `visit` for each of its groups in order, from the oldest entry on, whose
    /// predecessor it takes on trust; changes nothing. For whoever looks at a log without its snapshots.
    ///
    /// As long as nothing was compacted or purged the log must begin with its first entry, as in [`DataDirectory::replay`].
    pub fn check_from_oldest(
        &self,
        stream: StreamId,
        mut visit: impl FnMut(&RecoveredGroup<'_>) -> Result<(), PayloadError>,
    ) -> Result<RecoveredStream, RecoveryError> {
        recovery::check_from_oldest(&self.store, stream, self.durable(stream), &self.progress, &mut visit)
    }

    /// Reads and checks what it holds of the replicated log of `shard`, from the last purged entry on, or from `begin` on if it was never
    /// purged: the last entry that a snapshot covers, for a log that a node that stood alone has written. Changes nothing.
    pub fn recover_replica(&self, shard: u16, begin: Option<Purged>) -> Result<RecoveredReplica, RecoveryError> {
        recovery::recover_replica(&self.store, shard, begin, &|stream| self.durable(stream), &self.progress)
    }

    /// Visits the entries of `stream` from `from` on, of whatever kind and committed or not, in order, until `visit` breaks. What the first of
    /// them says of its predecessor is taken on trust; an error that `visit` returns is named as damage. Changes nothing.
    pub fn read_entries(
        &self,
        stream: StreamId,
        from: LogIndex,
        mut visit: impl FnMut(&RecoveredEntry<'_>) -> Result<ControlFlow<()>, PayloadError>,
    ) -> Result<(), RecoveryError> {
        recovery::read(&self.store, stream, from, &mut visit).map(drop)
    }

    /// The segments of its log, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.store.segments()
    }

    fn durable(&self, stream: StreamId) -> Option<Durable> {
        self.sidecar.streams().get(&stream).copied()
    }

    pub(crate) fn into_parts(self) -> DirectoryParts {
        drop(self.recovery);
        DirectoryParts { path: self.path, identity: self.identity, sidecar: self.sidecar, store: self.store, lock: self.lock }
    }
}

/// Keeps everybody else from a directory until it is dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that is just being started holds a copy of every descriptor until its program runs, and
        // the lock with it.
        let _ = self.0.unlock();
    }
}

fn lock(path: &Path) -> Result<DirectoryLock, OpenError> {
    let name = path.join("lock");
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = options.map_err(|source| OpenError::io(&name, source))?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::io(&name, source)),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_child_that_was_started_meanwhile_does_not_keep_the_lock() {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let held = lock(folder.path()).expect("nobody has it");
        // What a child has between its birth and its program: another descriptor of the same open file.
        let copy = held.0.try_clone().expect("a descriptor can be copied");
        assert!(matches!(lock(folder.path()), Err(OpenError::InUse { .. })));
        drop(held);
        drop(lock(folder.path()).expect("it was let go"));
        drop(copy);
    }
}
