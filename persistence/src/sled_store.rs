//! The only door of sled: a log store on its tree, made safe against what sled 0.34 does not promise.
//!
//! - `flush()` does not survive a loss of power on Linux: it asks for `sync_file_range`. So a sync is `flush()` and then `fdatasync` of
//!   sled's file, through a descriptor of our own that is opened before sled writes its first byte and never again: a failed write-back
//!   is reported to descriptors that were open when it failed.
//! - For the same reason its own idea of what is stable is wrong: it writes that into segment headers, and overwrites old segments once
//!   what replaces them is "stable". If a loss of power then keeps the later writes and not the earlier ones, it cannot open, and all that
//!   was ever synced is gone. A sync of ours comes too late for that, so its file is made to write through ([`SledStore::set_write_through`]).
//! - A leaf page over about 128 KiB becomes a blob file that sled never syncs. A page holds up to 17 values, and up to 20 after a merge
//!   with its neighbour, so a value is at most [`VALUE_BYTES_MAX`].
//! - A damaged file can make it panic while it opens or reads. Such panics are caught here and reported as damage; [`opening`] tells the
//!   process' panic hook which ones.
//! - A picture of its page table that it was writing when its process was killed keeps it from opening. It is removed first.
//! - Its background flusher is its garbage collector and stays on. It only logs a failed sync; ours is the one that counts.
//! - A store that was just dropped can hold its file lock a moment longer, so opening waits for the lock, bounded by [`LOCK_WAIT_MAX`].
//! - A full disk poisons it for good. Whoever uses it looks at the free space first.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk;
use crate::record::{KEY_BYTES, LogIndex, RecordKey, StreamId};
use crate::sled_files::{self, PART_BYTES};
use crate::store::{LogStore, StoreError, Visit};

/// Longest value in bytes, key not counted: what keeps the fullest leaf page that sled can form below its blob threshold.
pub const VALUE_BYTES_MAX: usize = 6 * 1024;

/// Memory for sled's page cache where nothing else is set, in bytes. The log is written once and read at a restart, so a cache gains little.
pub const CACHE_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;

/// Memory for the page cache of a store that is only read, in bytes. sled keeps a page or two in each of the 256 parts of its cache, whatever
/// the capacity, which are some 30 MB after everything was read.
const READING_CACHE_BYTES: u64 = 1024 * 1024;

/// Longest wait for the lock of a store that is being dropped.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest wait for sled's threads to end when a store is dropped.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often the background flusher, and with it the garbage collector, runs, in milliseconds.
const FLUSH_EVERY_MS: u64 = 500;

/// Values read from sled at a time, between two runs of a scan's visitor: few at first, because many scans want few.
const SCAN_VALUES_FIRST: usize = 4;
const SCAN_VALUES_MAX: usize = 64;

/// The unit in which a file's size on the disk is told.
const DISK_BLOCK_BYTES: u64 = 512;

/// How often a scan reads a value beyond once.
///
/// sled looks for something to evict only at every 64th access to one of the 256 shards of its cache. A scan accesses a page about once, so
/// it would keep about 16,000 pages, a gigabyte, whatever the cache's capacity. A page of 8 values that is accessed 64 times is evicted.
const SCAN_ACCESSES: usize = 8;

/// A message of more than a quarter of a part of sled's file, less 20 bytes, becomes a blob.
const BLOB_THRESHOLD_BYTES: usize = PART_BYTES / 4 - 20;
/// A leaf splits when it is visited with more than 16 values, and takes in a neighbour of less than 4.
const LEAF_VALUES_MAX: usize = 17 + 3;
/// The most that a leaf spends on a value beside its bytes, and on itself.
const LEAF_ENTRY_BYTES: usize = KEY_BYTES + 16;
const LEAF_BYTES: usize = 256;
const _: () = assert!(LEAF_VALUES_MAX * (VALUE_BYTES_MAX + LEAF_ENTRY_BYTES) + LEAF_BYTES <= BLOB_THRESHOLD_BYTES);

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

static RECOVERIES: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic on this thread, now, comes from opening or reading a log that may be damaged, and will be reported as such.
///
/// For the process' panic hook: where this is true it must not abort the process. That is so on the thread that opens or replays, while
/// it is inside sled, and on sled's own threads while any directory of this process is being recovered.
pub fn opening() -> bool {
    let is_sled_thread = || thread::current().name().is_some_and(|name| name.starts_with("sled-io-") || name == "log flusher");
    CONTAINED.get() || (RECOVERIES.load(Ordering::Acquire) > 0 && is_sled_thread())
}

/// While it lives, panics on sled's own threads are part of a recovery.
#[derive(Debug)]
pub(crate) struct Recovery(());

impl Recovery {
    pub(crate) fn begin() -> Self {
        RECOVERIES.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        RECOVERIES.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs `read` and turns its panic into damage.
fn contain<T>(read: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let was = CONTAINED.replace(true);
    // What sled leaves half done is never used again: the caller gives the store up.
    let result = catch_unwind(AssertUnwindSafe(read));
    CONTAINED.set(was);
    match result {
        Ok(result) => result.map_err(store_error),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(StoreError::Damaged(format!("reading it panicked: {}", what.unwrap_or("no message"))))
        }
    }
}

fn store_error(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => StoreError::Io(error),
        other => StoreError::Damaged(other.to_string()),
    }
}

/// A log store on sled. Dropping it flushes and closes it, but does not sync.
#[derive(Debug)]
pub struct SledStore {
    /// `None` only while dropping.
    db: Option<sled::Db>,
    /// sled's file, for syncs only.
    file: File,
}

impl SledStore {
    /// Opens the store in folder `path`, creating it there if the folder is empty or missing. At return its files' names are durable.
    ///
    /// Waits up to [`LOCK_WAIT_MAX`] for a store of this process that was just dropped. `cache_bytes` bounds sled's page cache, roughly.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        Self::open_safely(path, cache_bytes, Some(FLUSH_EVERY_MS))
    }

    /// Opens a store that will hardly be written to like [`SledStore::open`], but with little memory and without sled's background flusher,
    /// which is a thread for each store.
    pub(crate) fn open_left(path: &Path) -> Result<Self, StoreError> {
        Self::open_safely(path, READING_CACHE_BYTES, None)
    }

    /// Opens the store in folder `path`, which was finished, closed, opened again with [`SledStore::open_left`] and closed, only to be read.
    /// Changes no byte of it, nor when it is closed again.
    pub(crate) fn open_sealed(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, File::open(path.join("db"))?, READING_CACHE_BYTES, None)
    }

    fn open_safely(path: &Path, cache_bytes: u64, flush_every_ms: Option<u64>) -> Result<Self, StoreError> {
        disk::create_directory(path)?;
        disk::create_directory(&path.join("blobs"))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join("db"))?;
        wait_for_lock(&file)?;
        if !disk::set_write_through(&file, true)? {
            tracing::warn!(path = %path.display(), "this file system cannot write through: a loss of power may damage the log");
        }
        let store = Self::open_with(path, file, cache_bytes, flush_every_ms)?;
        store.sync()?;
        File::open(path.join("conf"))?.sync_all()?;
        disk::sync_directory(path)?;
        Ok(store)
    }

    fn open_with(path: &Path, file: File, cache_bytes: u64, flush_every_ms: Option<u64>) -> Result<Self, StoreError> {
        wait_for_lock(&file)?;
        sled_files::remove_unfinished(path)?;
        let recovery = Recovery::begin();
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(flush_every_ms);
        let db = contain(|| config.open())?;
        drop(recovery);
        Ok(Self { db: Some(db), file })
    }

    /// Has sled do now what it would do when the store is read: it splits and merges pages as it comes across them, and an append leaves at
    /// most the last page of its stream to be split. At return everything survives a loss of power.
    pub(crate) fn finish(&self) -> Result<(), StoreError> {
        for stream in self.streams()? {
            self.last_key(stream)?;
        }
        self.sync()
    }

    /// Has sled's every write survive a loss of power before sled goes on, which is so from the start, or no longer. Without it the store
    /// may not open after a loss of power, synced or not. Has no effect on file systems that cannot do it.
    pub fn set_write_through(&self, is_on: bool) -> Result<(), StoreError> {
        disk::set_write_through(&self.file, is_on).map(drop).map_err(StoreError::Io)
    }

    /// Bytes that its file takes on the disk.
    pub(crate) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata()?.blocks() * DISK_BLOCK_BYTES)
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("the store is open until it is dropped")
    }

    fn range(&self, from: RecordKey) -> sled::Iter {
        let to = RecordKey { stream: from.stream, index: LogIndex(u64::MAX), part: u16::MAX };
        self.db().range(from.encode()..=to.encode())
    }
}

/// Waits until the lock that sled takes on its file is free. Nobody else takes it meanwhile: the directory's own lock is held.
fn wait_for_lock(file: &File) -> Result<(), StoreError> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file.unlock()?),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let what = format!("its file stayed locked for {} s", LOCK_WAIT_MAX.as_secs());
                return Err(StoreError::Io(io::Error::new(io::ErrorKind::WouldBlock, what)));
            }
            // A lock has no event to wait for with a bound, so it is asked again and again.
            Err(std::fs::TryLockError::WouldBlock) => thread::park_timeout(Duration::from_millis(2)),
        }
    }
}

impl LogStore for SledStore {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        let is_short = value.len() <= VALUE_BYTES_MAX || mutant!(ValuesBecomeBlobs);
        assert!(is_short, "value of {} bytes is over {VALUE_BYTES_MAX}", value.len());
        self.db().insert(key.encode(), value).map(drop).map_err(store_error)
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        let to = RecordKey { index: to, part: u16::MAX, ..from };
        let mut removed = 0;
        if from > to {
            return Ok(removed);
        }
        let mut keys = self.db().range(from.encode()..=to.encode()).keys();
        while let Some(key) = if mutant!(RemovesForwards) { keys.next() } else { keys.next_back() } {
            self.db().remove(key.map_err(store_error)?).map_err(store_error)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db().flush().map(drop).map_err(store_error)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.flush()?;
        if mutant!(SyncWithoutFdatasync) {
            return Ok(());
        }
        Ok(self.file.sync_data()?)
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut values = self.range(from);
        let mut read = Vec::with_capacity(SCAN_VALUES_MAX);
        let mut take = SCAN_VALUES_FIRST;
        loop {
            // The visitor runs outside: its panics are its own.
            contain(|| {
                for value in values.by_ref().take(take) {
                    let (key, value) = value?;
                    for _ in 0..SCAN_ACCESSES {
                        self.db().contains_key(&key)?;
                    }
                    read.push((key, value));
                }
                if mutant!(TailLostAtOpen) && read.len() < take {
                    read.pop();
                }
                Ok(())
            })?;
            if read.is_empty() {
                return Ok(());
            }
            for (key, value) in read.drain(..) {
                if visit(&key, &value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            take = SCAN_VALUES_MAX.min(take * 2);
        }
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        let from = RecordKey { stream, index: LogIndex(0), part: 0 };
        let last = contain(|| self.range(from).next_back().transpose())?;
        last.map(|(key, _)| decode_key(&key)).transpose()
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        let mut streams = Vec::new();
        let mut from = Some(0_u16);
        while let Some(stream) = from {
            let Some((key, _)) = contain(|| self.db().range(stream.to_be_bytes()..).next().transpose())? else { break };
            let found = decode_key(&key)?.stream;
            streams.push(found);
            from = found.0.checked_add(1);
        }
        Ok(streams)
    }
}

fn decode_key(key: &[u8]) -> Result<RecordKey, StoreError> {
    RecordKey::decode(key).ok_or_else(|| StoreError::Damaged(format!("a key has {} bytes instead of {KEY_BYTES}", key.len())))
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let db = self.db.take();
        let (closed, wait) = mpsc::channel();
        // If one of sled's threads died of damage, closing would wait for it for ever; then it is left behind.
        let closing = thread::Builder::new().name("log close".to_owned()).spawn(move || {
            drop(db);
            // Nobody may be waiting any more.
            let _ = closed.send(());
        });
        if closing.is_err() || wait.recv_timeout(CLOSE_WAIT_MAX).is_err() {
            tracing::error!(seconds = CLOSE_WAIT_MAX.as_secs(), "the log store did not close in time and is left behind");
        }
    }
}
