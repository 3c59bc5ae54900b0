//! The history: what became of reservations that are over, kept on the disk for a while and readable by many threads. The only door of
//! fjall.
//!
//! It is derived from the log, so a put is not durable by itself; [`History::persist`] makes everything so far durable, and whoever writes
//! it then notes up to which position of the log that was. The values are bytes to it.
//!
//! ```text
//! <directory>/store/     fjall's: one keyspace for each range of time
//! <directory>/persisted  what was there when everything was last made durable; always written whole and synced
//! ```
//!
//! What is put goes into the newest range, whatever its own time, and opens a new one when a record of the batch belongs to a later range
//! than any before, or when the newest is full: merging a range's files costs more the more is in it, and this bounds it however many
//! reservations there were before. So of two versions of a record the one in the newer range counts, and forgetting is dropping the oldest range with all
//! its files, which costs the same however much is in it. A range goes when its latest record is old enough: records stay up to one
//! range's length longer than asked for, never shorter. Ranges are numbered by the second at which they begin, or by the number behind that of
//! one that is full, so that they keep their order when their length is set anew.
//!
//! In a range, all numbers big-endian:
//!
//! ```text
//! 0                                                  -> tally: records put (u64), latest resolved_at (u64)
//! 1, partition u16, number u32, sequence u64         -> resolved_at u64, length of the user u8, user, value
//! 2, partition u16, number u32, user 5, sequence u64 -> nothing; the user is five bytes of a hash, the record says whose it is
//! ```
//!
//! fjall checks every block that it reads against a checksum, and a batch reaches its journal whole or not at all. Some damage makes it
//! panic, mostly when it opens; that is caught here and reported as damage, and [`asking_history`] tells the panic hook. What it does not
//! notice by itself is a journal whose end is lost, or a range whose files are: it takes both for a crash. So every batch writes its
//! range's tally, and `persisted` holds the tallies as of the last time: a range that is missing or has less is damage.
//!
//! ```text
//!  0  3  "tgh"
//!  3  1  version of this layout, 1
//!  4  4  number of ranges
//!  8     per range, oldest first: number u64, records u64
//!  n  4  crc32c of everything before
//! ```

use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::{Database, Guard, Iter, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice, Snapshot};
use parking_lot::{Mutex, RwLock};
use tidegate_stock::{GrantSequence, Partition, StockId, StockNumber, Timestamp};

use crate::disk;
use crate::record::Reader;

/// Version of the store's layout that this code writes, and the only one that it reads.
pub const HISTORY_FORMAT: u8 = 1;

/// Longest name of a user, in bytes.
pub const HISTORY_USER_BYTES_MAX: usize = u8::MAX as usize;

/// Longest value, in bytes.
pub const HISTORY_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Most records of one put.
pub const HISTORY_RECORDS_MAX: usize = 4_096;

/// Memory for blocks that were read, in bytes.
pub const HISTORY_CACHE_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;

/// Length of a range of time, in seconds: a day.
pub const HISTORY_RANGE_SECONDS_DEFAULT: u32 = 86_400;

/// Records of a range after which the next one begins. In a range of a million a record is sorted and merged about twice.
pub const HISTORY_RANGE_RECORDS_MAX_DEFAULT: u64 = 1_000_000;

/// What is put gathers in memory up to this many bytes before it is sorted into a file. While the worker is busy merging files it
/// gathers on, so that memory grows with the rate of puts, to some hundred MiB at a hundred thousand records a second.
const GATHERED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Largest file that sorting and merging makes. Each is synced as a whole, and the log's syncs wait for what the file system writes then.
const TABLE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The journals' bytes after which the oldest is made superfluous. Opening reads them all.
const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Threads that sort and merge files: one, whatever the machine.
const WORKERS: usize = 1;

/// Files that are kept open to be read again. The store does not close those of a range that is dropped before others take their places, and
/// until then the operating system does not give their space back: at most so many times [`TABLE_BYTES_MAX`].
const OPEN_FILES_MAX: usize = 32;

const STORE: &str = "store";
const RANGE_PREFIX: &str = "range-";

const MARK: &str = "persisted";
const MARK_MAGIC: [u8; 3] = *b"tgh";
const MARK_HEAD_BYTES: usize = 8;
const MARK_RANGE_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

const TALLY_KEY: [u8; 1] = [0];
const TALLY_BYTES: usize = 16;
const RECORD: u8 = 1;
const BY_USER: u8 = 2;
/// Kind and stock, with which the keys of records and of the index by user begin.
const STOCK_KEY_BYTES: usize = 7;
const SEQUENCE_BYTES: usize = 8;
const RECORD_KEY_BYTES: usize = STOCK_KEY_BYTES + SEQUENCE_BYTES;
/// Enough to leave few strangers to look at, and the longest with which fjall keeps the whole key without an allocation.
const USER_HASH_BYTES: usize = 5;
const USER_KEY_BYTES: usize = STOCK_KEY_BYTES + USER_HASH_BYTES + SEQUENCE_BYTES;
/// Bytes of a stored record in front of the user.
const RECORD_HEAD_BYTES: usize = 9;

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread, now, comes from the history's store and will be reported as damage of it.
///
/// For the process' panic hook: where this is true it must not abort the process.
pub fn asking_history() -> bool {
    ASKING.get()
}

/// Which reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryKey {
    /// The stock it was granted from.
    pub stock: StockId,
    /// Which grant of that stock it was.
    pub sequence: GrantSequence,
}

/// A reservation that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRecord<'a> {
    /// Which one.
    pub key: HistoryKey,
    /// Whose it was, at most [`HISTORY_USER_BYTES_MAX`] bytes.
    pub user: &'a str,
    /// When it was over, by the log's time.
    pub resolved_at: Timestamp,
    /// What there is to say of it, at most [`HISTORY_VALUE_BYTES_MAX`] bytes.
    pub value: &'a [u8],
}

/// Which range of time a record is in. Later ranges are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryRange(u64);

/// How a history is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Memory for blocks that were read, in bytes. Default: [`HISTORY_CACHE_BYTES_DEFAULT`].
    pub cache_bytes: u64,
    /// Length of a range in seconds, at least 1: how much longer than asked for a record may stay. An eighth of what records are kept for
    /// is a good measure; a read may have to look into every range. Default: [`HISTORY_RANGE_SECONDS_DEFAULT`].
    pub range_seconds: u32,
    /// Records after which a range is full, give or take one put. Default: [`HISTORY_RANGE_RECORDS_MAX_DEFAULT`].
    pub range_records_max: u64,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            cache_bytes: HISTORY_CACHE_BYTES_DEFAULT,
            range_seconds: HISTORY_RANGE_SECONDS_DEFAULT,
            range_records_max: HISTORY_RANGE_RECORDS_MAX_DEFAULT,
        }
    }
}

/// Why the history did not do what it was asked. A read that fails has said nothing about what there is.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Another process, or another value of this one, has it open.
    #[error("history {} is in use", .path.display())]
    InUse {
        /// The history's directory.
        path: PathBuf,
    },
    /// Its files are not what was written.
    #[error("{} is damaged: {what}", .place.display())]
    Damaged {
        /// The file or folder.
        place: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was written by a newer version.
    #[error("history {} has format {found} where {expected} was expected", .path.display())]
    Format {
        /// The history's directory.
        path: PathBuf,
        /// Its format.
        found: u8,
        /// The one that this code knows.
        expected: u8,
    },
    /// A write failed before, so nothing more is taken. What was made durable is there when it is opened again.
    #[error("history {} takes nothing more, because a write to it failed", .path.display())]
    Stopped {
        /// The history's directory.
        path: PathBuf,
    },
    /// The operating system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl HistoryError {
    /// Whether a store that was being made when the process or the machine died can be opened with this.
    fn is_half_made(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            // fjall finds its journal, and not the marker that it writes after it.
            Self::Io { source, .. } => source.kind() == io::ErrorKind::AlreadyExists,
            Self::InUse { .. } | Self::Format { .. } | Self::Stopped { .. } => false,
        }
    }
}

/// A range of time.
struct Range {
    /// Seconds from 1970 to its beginning: the time of the record that opened it, rounded down to whole lengths of a range; or more, behind
    /// one that is full.
    number: u64,
    keyspace: Keyspace,
}

/// What is in a range.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Records put, those counted twice that were put twice.
    records: u64,
    /// The latest time at which one was over.
    latest: u64,
}

/// An open history. Any thread may use it; puts take turns. Dropping it closes it, and makes nothing durable.
pub struct History {
    directory: PathBuf,
    range_seconds: u64,
    range_records_max: u64,
    /// Of each range, in their order. Whoever writes holds it; locked before the ranges.
    tallies: Mutex<Vec<Tally>>,
    /// Oldest first. Replaced as a whole, so that a reader keeps what it began with.
    ranges: RwLock<Arc<Vec<Range>>>,
    store: Database,
}

impl std::fmt::Debug for History {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("History").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl History {
    /// Opens the history in folder `directory`, and makes it where it is missing or empty. Only one value may have it open.
    ///
    /// What was made durable is there again, and maybe more. Fails with [`HistoryError::Damaged`] when it is not; some damage shows only
    /// when it is read. A store in which nothing was ever durable and that cannot be opened is made anew. Reads its journals, at most some
    /// 100 MiB.
    pub fn open(directory: &Path, options: &HistoryOptions) -> Result<Self, HistoryError> {
        let store_path = directory.join(STORE);
        let marked = match read_mark(directory)? {
            Some(marked) => marked,
            None if store_path.exists() => {
                return Err(damaged(&directory.join(MARK), "it is missing beside a store"));
            }
            None => {
                disk::create_directory(directory).map_err(|source| io_error(directory, source))?;
                write_mark(directory, &[])?;
                Vec::new()
            }
        };
        if !marked.is_empty() && !store_path.exists() {
            return Err(damaged(&store_path, "it is missing"));
        }
        let opened = match Opened::open(directory, options.cache_bytes) {
            // A crash while the store was being made leaves one that cannot be opened, and nothing in it was ever durable.
            Err(error) if marked.is_empty() && error.is_half_made() => {
                tracing::warn!(store = %store_path.display(), %error, "the history was never finished, and is made anew");
                fs::remove_dir_all(&store_path).map_err(|source| io_error(&store_path, source))?;
                Opened::open(directory, options.cache_bytes)?
            }
            opened => opened?,
        };
        let Opened { store, ranges, tallies } = opened;
        for (number, records) in marked {
            let found = ranges.iter().position(|range| range.number == number).map(|at| tallies[at].records);
            let what = match found {
                Some(found) if found >= records => continue,
                Some(found) => format!("range {number} holds {found} records where {records} were durable"),
                None => format!("range {number} with {records} durable records is missing"),
            };
            return Err(damaged(&store_path, &what));
        }
        Ok(Self {
            directory: directory.to_owned(),
            range_seconds: u64::from(options.range_seconds.max(1)),
            range_records_max: options.range_records_max,
            tallies: Mutex::new(tallies),
            ranges: RwLock::new(Arc::new(ranges)),
            store,
        })
    }

    /// Puts `records`, at most [`HISTORY_RECORDS_MAX`]; each takes the place of an earlier one of its key, and so does a later one in the
    /// same call. At return every read finds them, but they are not durable. All of them are put or none.
    ///
    /// May wait for the disk when much is put. Panics when a limit is broken.
    pub fn put(&self, records: &[HistoryRecord<'_>]) -> Result<(), HistoryError> {
        assert!(records.len() <= HISTORY_RECORDS_MAX, "{} records in one put are over {HISTORY_RECORDS_MAX}", records.len());
        let Some(latest) = records.iter().map(|record| record.resolved_at.unix_ms()).max() else { return Ok(()) };
        // One batch must not hold a key twice: fjall orders versions by the batch.
        let mut order: Vec<&HistoryRecord<'_>> = records.iter().collect();
        order.sort_by_key(|record| record.key);
        let mut batch = self.store.batch();
        let mut tallies = self.tallies.lock();
        let ranges = self.ranges_for(latest, &mut tallies)?;
        let (range, tally) = ranges.last().zip(tallies.last_mut()).expect("there is a range to put into");
        for (at, record) in order.iter().enumerate() {
            if order.get(at + 1).is_none_or(|next| next.key != record.key) && !(mutant!(HistoryForgetsHalf) && at % 2 == 1) {
                batch.insert(&range.keyspace, record_key(record.key), encode_record(record));
                batch.insert(&range.keyspace, user_key(record.key, record.user), Slice::empty());
            }
        }
        let now = Tally { records: tally.records + records.len() as u64, latest: tally.latest.max(latest) };
        batch.insert(&range.keyspace, TALLY_KEY, now.encode());
        self.ask(|| batch.commit())?;
        *tally = now;
        Ok(())
    }

    /// Makes everything that was put so far survive a loss of power.
    pub fn persist(&self) -> Result<(), HistoryError> {
        let tallies = self.tallies.lock();
        if !mutant!(HistoryNotPersisted) {
            self.ask(|| self.store.persist(PersistMode::SyncAll))?;
        }
        let ranges = Arc::clone(&self.ranges.read());
        write_mark(&self.directory, &marks(&ranges, &tallies))
    }

    /// The value of reservation `key`; `None` when it was never put, or has been removed.
    pub fn get(&self, key: HistoryKey) -> Result<Option<Vec<u8>>, HistoryError> {
        let stored_key = record_key(key);
        for range in self.ranges().iter().rev() {
            if let Some(stored) = self.ask_range(range, || range.keyspace.get(stored_key))? {
                return Ok(Some(range.decode(key, &stored)?.value.to_vec()));
            }
        }
        Ok(None)
    }

    /// Visits reservations of `stock` with grants before `before`, of `user` alone if one is named, newest grant first, until the visitor
    /// breaks or there are no more. Sees what was put before the call; what is put meanwhile may be missing.
    pub fn newest(
        &self,
        stock: StockId,
        before: GrantSequence,
        user: Option<&str>,
        visit: &mut dyn FnMut(HistoryKey, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let ranges = self.ranges();
        let snapshot = self.store.snapshot();
        let key = |sequence| HistoryKey { stock, sequence };
        let (first, end) = match user {
            None => (record_key(key(GrantSequence(0))).to_vec(), record_key(key(before)).to_vec()),
            Some(user) => (user_key(key(GrantSequence(0)), user).to_vec(), user_key(key(before), user).to_vec()),
        };
        let mut found = Newest::new(self, &ranges, &snapshot, &first, &end)?;
        while let Some((at, stored_key, value)) = found.next()? {
            let key = key(GrantSequence(last_u64(&stored_key)));
            let Some(user) = user else {
                if visit(key, ranges[at].decode(key, &value)?.value).is_break() {
                    return Ok(());
                }
                continue;
            };
            let Some((range, stored)) = self.find(&ranges, &snapshot, key)? else {
                let what = format!("its index names reservation {} of {stock:?}, which is not there", key.sequence.0);
                return Err(damaged(ranges[at].keyspace.path(), &what));
            };
            let record = range.decode(key, &stored)?;
            // Another user can have the same hash.
            if record.user == user && visit(key, record.value).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes the oldest range, if every record in it was over before `time`, and says how many records were put into it; 0 when nothing
    /// was to be removed. Call it until it says 0.
    ///
    /// Costs the same however much is in the range. Its space comes back when the reads end that began before. A range that was removed
    /// since the last [`History::persist`] stays removed after a loss of power, or is whole again.
    pub fn remove_resolved_before(&self, time: Timestamp) -> Result<u64, HistoryError> {
        let mut tallies = self.tallies.lock();
        let Some(oldest) = tallies.first().copied().filter(|tally| tally.latest < time.unix_ms()) else { return Ok(0) };
        let ranges = self.ranges();
        let left: Vec<Range> = ranges[1..].iter().map(Range::share).collect();
        // Before the range goes, it must not be missed any more. The mark tells of what is durable, so that is everything left.
        self.ask(|| self.store.persist(PersistMode::SyncAll))?;
        write_mark(&self.directory, &marks(&left, &tallies[1..]))?;
        *self.ranges.write() = Arc::new(left);
        tallies.remove(0);
        self.ask(|| self.store.delete_keyspace(ranges[0].keyspace.clone()))?;
        Ok(oldest.records)
    }

    /// Visits every record once, older ranges first, until the visitor breaks: what there was at the call, while puts go on. Put into an
    /// empty history in this order, in batches none of which holds records of two ranges, they make ranges that go no later.
    pub fn for_each(&self, visit: &mut dyn FnMut(HistoryRange, HistoryRecord<'_>) -> ControlFlow<()>) -> Result<(), HistoryError> {
        self.for_each_of(Partition(0)..=Partition(u16::MAX), visit)
    }

    /// As [`History::for_each`], of the records of these partitions alone.
    pub fn for_each_of(
        &self,
        partitions: RangeInclusive<Partition>,
        visit: &mut dyn FnMut(HistoryRange, HistoryRecord<'_>) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let of = |partition: Partition, number: StockNumber, sequence| {
            record_key(HistoryKey { stock: StockId { partition, number }, sequence: GrantSequence(sequence) })
        };
        let first = of(*partitions.start(), StockNumber(0), 0);
        let last = of(*partitions.end(), StockNumber(u32::MAX), u64::MAX);
        let ranges = self.ranges();
        let snapshot = self.store.snapshot();
        for (at, range) in ranges.iter().enumerate() {
            let mut entries = self.ask_range(range, || Ok(snapshot.range(&range.keyspace, first..=last)))?;
            while let Some((stored_key, stored)) = self.ask_range(range, || entries.next().map(Guard::into_inner).transpose())? {
                if self.find(&ranges[at + 1..], &snapshot, decode_record_key(&stored_key, range)?)?.is_some() {
                    continue;
                }
                let record = range.decode(decode_record_key(&stored_key, range)?, &stored)?;
                if visit(HistoryRange(range.number), record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Bytes of its files, roughly.
    pub fn bytes_on_disk(&self) -> Result<u64, HistoryError> {
        self.ask(|| self.store.disk_space())
    }

    fn ranges(&self) -> Arc<Vec<Range>> {
        Arc::clone(&self.ranges.read())
    }

    /// The ranges, with one for records over at `latest` as the last.
    fn ranges_for(&self, latest: u64, tallies: &mut Vec<Tally>) -> Result<Arc<Vec<Range>>, HistoryError> {
        let ranges = self.ranges();
        let mut number = latest / 1_000 / self.range_seconds * self.range_seconds;
        if let Some((newest, tally)) = ranges.last().zip(tallies.last()) {
            if newest.number >= number && tally.records < self.range_records_max {
                return Ok(ranges);
            }
            number = number.max(newest.number + 1);
        }
        let mut more: Vec<Range> = ranges.iter().map(Range::share).collect();
        more.push(Range::open(&self.directory, &self.store, number)?);
        let more = Arc::new(more);
        *self.ranges.write() = Arc::clone(&more);
        tallies.push(Tally::default());
        Ok(more)
    }

    /// The record of `key` in the newest of `ranges` that has it.
    fn find<'a>(
        &self,
        ranges: &'a [Range],
        snapshot: &Snapshot,
        key: HistoryKey,
    ) -> Result<Option<(&'a Range, Slice)>, HistoryError> {
        let stored_key = record_key(key);
        for range in ranges.iter().rev() {
            if let Some(stored) = self.ask_range(range, || snapshot.get(&range.keyspace, stored_key))? {
                return Ok(Some((range, stored)));
            }
        }
        Ok(None)
    }

    fn ask<T>(&self, what: impl FnOnce() -> fjall::Result<T>) -> Result<T, HistoryError> {
        ask(&self.directory, &self.directory.join(STORE), what)
    }

    fn ask_range<T>(&self, range: &Range, what: impl FnOnce() -> fjall::Result<T>) -> Result<T, HistoryError> {
        ask(&self.directory, range.keyspace.path(), what)
    }
}

/// A store with what was found in it, in the order of time.
struct Opened {
    ranges: Vec<Range>,
    tallies: Vec<Tally>,
    store: Database,
}

impl Opened {
    fn open(directory: &Path, cache_bytes: u64) -> Result<Self, HistoryError> {
        let store_path = directory.join(STORE);
        let settings = Database::builder(&store_path)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(WORKERS)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .manual_journal_persist(true);
        let store = ask(directory, &store_path, || settings.open())?;
        let mut numbers = Vec::new();
        for name in store.list_keyspace_names() {
            let number = name.strip_prefix(RANGE_PREFIX).and_then(|number| number.parse::<u64>().ok());
            numbers.push(number.ok_or_else(|| damaged(&store_path, &format!("it holds {name:?}, which is no range")))?);
        }
        numbers.sort_unstable();
        let (mut ranges, mut tallies) = (Vec::new(), Vec::new());
        for number in numbers {
            let range = Range::open(directory, &store, number)?;
            let tally = ask(directory, range.keyspace.path(), || range.keyspace.get(TALLY_KEY))?;
            // A range that was opened and never made durable has none, and no records.
            let tally =
                tally.map(|tally| Tally::decode(&tally)).transpose().map_err(|what| damaged(range.keyspace.path(), &what))?;
            ranges.push(range);
            tallies.push(tally.unwrap_or_default());
        }
        Ok(Self { ranges, tallies, store })
    }
}

impl Range {
    fn open(directory: &Path, store: &Database, number: u64) -> Result<Self, HistoryError> {
        let merging = || Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES_MAX));
        let options = || KeyspaceCreateOptions::default().max_memtable_size(GATHERED_BYTES_MAX).compaction_strategy(merging());
        let open = || store.keyspace(&format!("{RANGE_PREFIX}{number:020}"), options);
        Ok(Self { number, keyspace: ask(directory, &directory.join(STORE), open)? })
    }

    fn share(&self) -> Self {
        Self { number: self.number, keyspace: self.keyspace.clone() }
    }

    /// The record of `key` that `stored` is.
    fn decode<'a>(&self, key: HistoryKey, stored: &'a [u8]) -> Result<HistoryRecord<'a>, HistoryError> {
        decode_record(key, stored).ok_or_else(|| {
            let what = format!("{} bytes of reservation {} of {:?} are no record", stored.len(), key.sequence.0, key.stock);
            damaged(self.keyspace.path(), &what)
        })
    }
}

impl Tally {
    fn encode(self) -> [u8; TALLY_BYTES] {
        let mut bytes = [0; TALLY_BYTES];
        bytes[..8].copy_from_slice(&self.records.to_be_bytes());
        bytes[8..].copy_from_slice(&self.latest.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() != TALLY_BYTES {
            return Err(format!("its tally has {} bytes instead of {TALLY_BYTES}", bytes.len()));
        }
        let mut reader = Reader(bytes);
        Ok(Self { records: reader.u64(), latest: reader.u64() })
    }
}

/// Walks the same keys of every range at once, greatest key first; of equal keys only the newest range's is given.
struct Newest<'a> {
    history: &'a History,
    ranges: &'a [Range],
    /// Of each range: what comes next, and what after that.
    heads: Vec<(Option<(Slice, Slice)>, Iter)>,
}

impl<'a> Newest<'a> {
    fn new(history: &'a History, ranges: &'a [Range], snapshot: &Snapshot, first: &[u8], end: &[u8]) -> Result<Self, HistoryError> {
        let mut newest = Self { history, ranges, heads: Vec::with_capacity(ranges.len()) };
        for (at, range) in ranges.iter().enumerate() {
            let iter = history.ask_range(range, || Ok(snapshot.range(&range.keyspace, first..end)))?;
            newest.heads.push((None, iter));
            newest.advance(at)?;
        }
        Ok(newest)
    }

    /// The next key and value and the place of their range, if there is any.
    fn next(&mut self) -> Result<Option<(usize, Slice, Slice)>, HistoryError> {
        let greatest = self.heads.iter().filter_map(|(head, _)| head.as_ref().map(|(key, _)| key)).max().cloned();
        let Some(greatest) = greatest else { return Ok(None) };
        let mut found = None;
        for at in (0..self.heads.len()).rev() {
            if self.heads[at].0.as_ref().is_some_and(|(key, _)| *key == greatest) {
                let head = self.heads[at].0.take();
                found = found.or(head.map(|(key, value)| (at, key, value)));
                self.advance(at)?;
            }
        }
        Ok(found)
    }

    fn advance(&mut self, at: usize) -> Result<(), HistoryError> {
        let (head, rest) = &mut self.heads[at];
        *head = self.history.ask_range(&self.ranges[at], || rest.next_back().map(Guard::into_inner).transpose())?;
        Ok(())
    }
}

fn put_stock(bytes: &mut [u8], kind: u8, stock: StockId) {
    bytes[0] = kind;
    bytes[1..3].copy_from_slice(&stock.partition.0.to_be_bytes());
    bytes[3..STOCK_KEY_BYTES].copy_from_slice(&stock.number.0.to_be_bytes());
}

fn record_key(key: HistoryKey) -> [u8; RECORD_KEY_BYTES] {
    let mut bytes = [0; RECORD_KEY_BYTES];
    put_stock(&mut bytes, RECORD, key.stock);
    bytes[STOCK_KEY_BYTES..].copy_from_slice(&key.sequence.0.to_be_bytes());
    bytes
}

fn user_key(key: HistoryKey, user: &str) -> [u8; USER_KEY_BYTES] {
    let mut bytes = [0; USER_KEY_BYTES];
    put_stock(&mut bytes, BY_USER, key.stock);
    let hash = blake3::hash(user.as_bytes());
    bytes[STOCK_KEY_BYTES..STOCK_KEY_BYTES + USER_HASH_BYTES].copy_from_slice(&hash.as_bytes()[..USER_HASH_BYTES]);
    bytes[STOCK_KEY_BYTES + USER_HASH_BYTES..].copy_from_slice(&key.sequence.0.to_be_bytes());
    bytes
}

fn decode_record_key(bytes: &[u8], range: &Range) -> Result<HistoryKey, HistoryError> {
    if bytes.len() != RECORD_KEY_BYTES {
        let what = format!("a key has {} bytes instead of {RECORD_KEY_BYTES}", bytes.len());
        return Err(damaged(range.keyspace.path(), &what));
    }
    let mut reader = Reader(&bytes[1..]);
    let stock = StockId { partition: Partition(reader.u16()), number: StockNumber(reader.u32()) };
    Ok(HistoryKey { stock, sequence: GrantSequence(reader.u64()) })
}

/// The number in the last eight bytes of a key, which is at least that long.
fn last_u64(key: &[u8]) -> u64 {
    Reader(&key[key.len() - SEQUENCE_BYTES..]).u64()
}

fn encode_record(record: &HistoryRecord<'_>) -> Vec<u8> {
    let length = record.value.len();
    assert!(length <= HISTORY_VALUE_BYTES_MAX, "a value of {length} bytes is over {HISTORY_VALUE_BYTES_MAX}");
    let user = u8::try_from(record.user.len());
    let user = user.unwrap_or_else(|_| panic!("a user of {} bytes is over {HISTORY_USER_BYTES_MAX}", record.user.len()));
    let mut bytes = Vec::with_capacity(RECORD_HEAD_BYTES + record.user.len() + length);
    bytes.extend_from_slice(&record.resolved_at.unix_ms().to_be_bytes());
    bytes.push(user);
    bytes.extend_from_slice(record.user.as_bytes());
    bytes.extend_from_slice(record.value);
    bytes
}

/// The record that `stored` is; `None` if it is none.
fn decode_record(key: HistoryKey, stored: &[u8]) -> Option<HistoryRecord<'_>> {
    let (head, rest) = stored.split_at_checked(RECORD_HEAD_BYTES)?;
    let mut reader = Reader(head);
    let resolved_at = Timestamp::from_unix_ms(reader.u64());
    let (user, value) = rest.split_at_checked(usize::from(reader.u8()))?;
    Some(HistoryRecord { key, user: std::str::from_utf8(user).ok()?, resolved_at, value })
}

fn marks(ranges: &[Range], tallies: &[Tally]) -> Vec<(u64, u64)> {
    ranges.iter().zip(tallies).map(|(range, tally)| (range.number, tally.records)).collect()
}

/// Writes the mark: numbers of ranges and of their records. Durable at return.
fn write_mark(directory: &Path, marks: &[(u64, u64)]) -> Result<(), HistoryError> {
    let mut bytes = MARK_MAGIC.to_vec();
    bytes.push(HISTORY_FORMAT);
    let count = u32::try_from(marks.len()).expect("there are fewer ranges than days");
    bytes.extend_from_slice(&count.to_be_bytes());
    for (number, records) in marks {
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&records.to_be_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    disk::write_file(directory, MARK, &bytes).map_err(|source| io_error(&directory.join(MARK), source))
}

/// What the mark says; `None` where there is none.
fn read_mark(directory: &Path) -> Result<Option<Vec<(u64, u64)>>, HistoryError> {
    let path = directory.join(MARK);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(&path, source)),
    };
    let checksum_at = bytes.len().saturating_sub(CHECKSUM_BYTES);
    let (covered, checksum) = bytes.split_at(checksum_at);
    if covered.len() < MARK_HEAD_BYTES || covered[..3] != MARK_MAGIC || Reader(checksum).u32() != crc32c::crc32c(covered) {
        return Err(damaged(&path, &format!("its {} bytes are no mark", bytes.len())));
    }
    if covered[3] != HISTORY_FORMAT {
        return Err(HistoryError::Format { path: directory.to_owned(), found: covered[3], expected: HISTORY_FORMAT });
    }
    let marks = covered[MARK_HEAD_BYTES..].chunks_exact(MARK_RANGE_BYTES).map(|range| {
        let mut reader = Reader(range);
        (reader.u64(), reader.u64())
    });
    Ok(Some(marks.collect()))
}

fn damaged(place: &Path, what: &str) -> HistoryError {
    HistoryError::Damaged { place: place.to_owned(), what: what.to_owned() }
}

fn io_error(path: &Path, source: io::Error) -> HistoryError {
    HistoryError::Io { path: path.to_owned(), source }
}

/// Asks fjall something about `place`, and turns its panic into damage.
fn ask<T>(directory: &Path, place: &Path, what: impl FnOnce() -> fjall::Result<T>) -> Result<T, HistoryError> {
    let was = ASKING.replace(true);
    // What it leaves half done it notices itself: its locks stay poisoned.
    let result = catch_unwind(AssertUnwindSafe(what));
    ASKING.set(was);
    match result {
        Ok(result) => result.map_err(|error| store_error(directory, place, error)),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(damaged(place, &format!("reading it panicked: {}", what.unwrap_or("no message"))))
        }
    }
}

/// An error of fjall's that it had in `place`. A file that is missing or too short is damage: it makes and removes its files itself.
fn store_error(directory: &Path, place: &Path, error: fjall::Error) -> HistoryError {
    let is_damage = |error: &io::Error| {
        // It looks for a file's end before the beginning of one that is empty.
        use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
        matches!(error.kind(), NotFound | UnexpectedEof | InvalidData | InvalidInput)
    };
    match error {
        fjall::Error::Locked => HistoryError::InUse { path: directory.to_owned() },
        fjall::Error::Poisoned => HistoryError::Stopped { path: directory.to_owned() },
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) if !is_damage(&source) => {
            io_error(place, source)
        }
        other => damaged(place, &other.to_string()),
    }
}
