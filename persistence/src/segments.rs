//! The log as a row of segments: appended to at one end, given back to the disk at the other.
//!
//! ```text
//! <log>/0000000007/          a segment: a store of sled's, whole from the moment it has this name
//! <log>/0000000008/
//! <log>/0000000009/          the next one, prepared and empty
//! <log>/0000000009.new/      one that is being made; deleted at the next start
//! <log>/0000000006.removed/  one that is being deleted; deleted at the next start
//! ```
//!
//! sled uses the space of removed values again but gives none of it back, so the log gives back whole segments. A group lies in one
//! segment, because a segment is left only between groups, when all that it holds survives a loss of power. So whatever a crash cuts
//! short is at the end of the newest segment that holds anything, and behind that one there are only empty ones.
//!
//! Numbers follow each other without a gap. The oldest segment goes first: its folder is renamed, which is what takes it out of the log,
//! and only then deleted. Making and opening a store takes some milliseconds, so a thread of the row's own does it ahead of time; while
//! the next segment is not ready the last one simply grows. That thread also seals a segment that was left: its store is closed, and its
//! seal says what it holds, so that neither memory nor the time to open the log grow with the number of segments. Reading opens a sealed
//! segment for as long as it is read; the last few stay open a little longer, because whoever reads in pages comes back for the next.
//!
//! The order of keys in a scan is that of each segment, one after the other, which is the order of keys for whoever appends as a log does:
//! a stream's keys grow, and a key is not appended again after later ones. Knows records only as far as it needs their place and time.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::directory::OpenError;
use crate::disk;
use crate::record::{GroupSequence, LogIndex, RecordKey, StreamId};
use crate::segment::Segment;
use crate::sled_store::SledStore;
use crate::store::{Compacted, LogStore, SegmentInfo, StoreError, Visit};

/// Bytes of values after which the log goes on in a new segment, where nothing else is set: 256 MiB.
pub const SEGMENT_BYTES_MAX_DEFAULT: u64 = 256 * 1024 * 1024;

/// Longest wait of a compaction for the readers of a segment. What they still hold then is left to the next compaction.
pub const COMPACTION_WAIT_MAX: Duration = Duration::from_secs(5);

/// Sealed segments that stay open although nobody reads them right now.
pub const SEALED_OPEN_MAX: usize = 2;

/// How long they do so after they were read.
pub const SEALED_OPEN_FOR: Duration = Duration::from_secs(5);

/// Time after which the row's thread looks again whether a segment that was left, but is being read, can be sealed.
const SEAL_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Digits of a segment's number in its name.
const NUMBER_DIGITS: usize = 10;

/// The next segment is made once the newest has taken this part of its bytes, and after a failure tried again every such part.
const PREPARE_PARTS: u64 = 4;

const MAKING: &str = ".new";
const REMOVED: &str = ".removed";

/// How the segments of a log are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentOptions {
    /// Memory for the page cache of the newest segment, and of the one prepared behind it, in bytes, at least 256, roughly.
    pub cache_bytes: u64,
    /// Bytes of values after which a new segment is begun. After a start, what the newest one takes on the disk counts.
    pub segment_bytes_max: u64,
}

/// A log store that is a row of segments. One thread writes; any number may scan meanwhile, and one after the other may compact.
#[derive(Debug)]
pub struct SegmentedLog {
    shared: Arc<Shared>,
    /// Segments that are out of the row but not yet deleted, oldest first.
    leaving: Mutex<VecDeque<Leaving>>,
    keeper: Mutex<Option<Keeper>>,
}

/// What the row's own thread sees too.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    options: SegmentOptions,
    row: Mutex<Row>,
    /// Sealed segments that were read lately, those read last at the end.
    read_lately: Mutex<Vec<ReadLately>>,
    writes_through: AtomicBool,
    /// Bytes that the newest segment must have taken before the next one is asked for.
    prepare_at: AtomicU64,
    is_preparing: AtomicBool,
}

#[derive(Debug)]
struct Row {
    /// Oldest first.
    segments: Vec<Arc<Segment>>,
    /// The one that is appended to; those behind it are empty.
    newest: usize,
}

/// A sealed segment that stays open for whoever reads it next. The store comes first, so that it is closed before the segment is let go.
#[derive(Debug)]
struct ReadLately {
    store: Arc<SledStore>,
    segment: Arc<Segment>,
    at: Instant,
}

#[derive(Debug)]
struct Leaving {
    number: u64,
    bytes: u64,
    /// Disconnects when nobody holds the segment any more.
    closed: Receiver<()>,
}

/// The row's own thread.
#[derive(Debug)]
struct Keeper {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Job {
    /// Make the next segment.
    Prepare,
    /// Seal a segment that was left, unless it is gone by then.
    Seal(Weak<Segment>),
    /// See to it that a segment that was opened to be read is closed again.
    Close,
}

impl SegmentedLog {
    /// Opens the log in folder `path`, and makes its first segment if the folder is empty or missing. What an unfinished preparation or
    /// removal left is deleted. At return everything in it survives a loss of power.
    pub fn open(path: &Path, options: SegmentOptions) -> Result<Self, OpenError> {
        disk::create_directory(path).map_err(|source| OpenError::io(path, source))?;
        let numbers = numbers(path)?;
        let mut found = Vec::new();
        let mut is_left = false;
        for number in numbers.iter().rev() {
            let place = folder(path, *number);
            let segment = if is_left {
                Segment::sealed(*number, place.clone(), true)
            } else {
                Segment::open(*number, place.clone(), options.cache_bytes, true)
            };
            let segment = segment.map_err(|error| OpenError::store(&place, error))?;
            is_left |= !segment.is_empty();
            found.push(Arc::new(segment));
        }
        found.reverse();
        if found.is_empty() {
            let first = make(path, 1, options.cache_bytes, true).map_err(|error| OpenError::store(path, error))?;
            found.push(Arc::new(first));
        }
        let newest = found.iter().rposition(|segment| !segment.is_empty()).unwrap_or(0);
        let shared = Shared {
            path: path.to_owned(),
            options,
            row: Mutex::new(Row { segments: found, newest }),
            read_lately: Mutex::default(),
            writes_through: AtomicBool::new(true),
            prepare_at: AtomicU64::new(options.segment_bytes_max / PREPARE_PARTS),
            is_preparing: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), leaving: Mutex::default(), keeper: Mutex::new(None) })
    }

    /// Whether folder `path` holds a segment.
    pub(crate) fn exists(path: &Path) -> Result<bool, OpenError> {
        if !path.is_dir() {
            return Ok(false);
        }
        Ok(!numbers(path)?.is_empty())
    }

    /// Has sled's every write survive a loss of power before sled goes on, in every segment that is or will be written, or no longer. It is
    /// so after opening. [`SledStore::set_write_through`] has the reason.
    pub fn set_write_through(&self, is_on: bool) -> Result<(), StoreError> {
        self.shared.writes_through.store(is_on, Ordering::Release);
        for segment in &self.shared.row.lock().segments {
            segment.set_write_through(is_on)?;
        }
        Ok(())
    }

    fn newest(&self) -> Arc<Segment> {
        let row = self.shared.row.lock();
        Arc::clone(&row.segments[row.newest])
    }

    /// The segments as they are now.
    fn segments_now(&self) -> Vec<Arc<Segment>> {
        self.shared.row.lock().segments.clone()
    }

    /// The store of `segment`, to read from. One that was sealed stays open a little after it was read, so that the next page of whoever
    /// reads in pages need not open it again.
    fn store_to_read(&self, segment: &Arc<Segment>) -> Result<Arc<SledStore>, StoreError> {
        let (store, is_sealed) = segment.store()?;
        if is_sealed && self.shared.note_read(segment, &store) {
            self.ask(Job::Close)?;
        }
        Ok(store)
    }

    /// Gives `job` to the row's thread, which is started with the first.
    fn ask(&self, job: Job) -> Result<(), StoreError> {
        let mut keeper = self.keeper.lock();
        if keeper.is_none() {
            let (jobs, inbox) = mpsc::channel();
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("log segments".to_owned()).spawn(move || shared.keep(&inbox))?;
            *keeper = Some(Keeper { jobs, thread });
        }
        if let Some(keeper) = &*keeper {
            keeper.jobs.send(job).map_err(|_| io::Error::other("the thread that prepares segments is gone"))?;
        }
        Ok(())
    }
}

impl Drop for SegmentedLog {
    fn drop(&mut self) {
        let Some(Keeper { jobs, thread }) = self.keeper.lock().take() else { return };
        drop(jobs);
        if thread.join().is_err() {
            tracing::error!("the thread that prepares the log's segments panicked");
        }
    }
}

impl LogStore for SegmentedLog {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.newest().append(key, value)
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        let mut removed = 0;
        let writes_through = self.shared.writes_through.load(Ordering::Acquire);
        let newest = self.newest().number;
        let segments = self.segments_now();
        let mut later: Option<&Arc<Segment>> = None;
        for segment in segments.iter().rev().filter(|segment| segment.holds_from(from.stream, from.index)) {
            // An earlier segment must not lose its end while a later one still holds what follows it.
            if let Some(later) = later.replace(segment) {
                later.sync()?;
            }
            removed += segment.remove(from, to, writes_through)?;
            if segment.number < newest {
                self.ask(Job::Seal(Arc::downgrade(segment)))?;
            }
        }
        Ok(removed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        for segment in self.segments_now().iter().filter(|segment| segment.is_dirty()) {
            segment.flush()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        for segment in self.segments_now().iter().filter(|segment| segment.is_dirty()) {
            segment.sync()?;
        }
        Ok(())
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        // Held until the end, so that none of them is deleted meanwhile.
        let segments = self.segments_now();
        for segment in segments.iter().filter(|segment| segment.holds_from(from.stream, from.index)) {
            let mut is_over = false;
            self.store_to_read(segment)?.scan(from, &mut |key, value| {
                let flow = visit(key, value);
                is_over = flow.is_break();
                flow
            })?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        let segments = self.segments_now();
        let last = segments.iter().rfind(|segment| segment.holds_from(stream, LogIndex(0)));
        last.map_or(Ok(None), |segment| self.store_to_read(segment)?.last_key(stream))
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        let mut streams = Vec::new();
        for segment in self.segments_now() {
            segment.add_streams(&mut streams);
        }
        streams.sort_unstable();
        streams.dedup();
        Ok(streams)
    }

    fn between_groups(&self) -> Result<(), StoreError> {
        let (newest, is_ready) = {
            let row = self.shared.row.lock();
            (Arc::clone(&row.segments[row.newest]), row.newest + 1 < row.segments.len())
        };
        let taken = newest.taken_bytes();
        if !is_ready {
            if taken >= self.shared.prepare_at.load(Ordering::Acquire) && !self.shared.is_preparing.swap(true, Ordering::AcqRel) {
                self.ask(Job::Prepare)?;
            }
            return Ok(());
        }
        if taken < self.shared.options.segment_bytes_max {
            return Ok(());
        }
        // A later segment never holds what survives while an earlier one loses its end.
        if newest.is_dirty() && !mutant!(SegmentLeftUnsynced) {
            newest.sync()?;
        }
        self.shared.row.lock().newest += 1;
        tracing::info!(segment = newest.number, bytes = taken, "the log goes on in a new segment");
        self.ask(Job::Seal(Arc::downgrade(&newest)))
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.segments_now().iter().map(|segment| segment.info()).collect()
    }

    fn entry_near(&self, stream: StreamId, sequence: GroupSequence) -> Option<(LogIndex, GroupSequence)> {
        let firsts: Vec<_> = self.segments_now().iter().filter_map(|segment| segment.first(stream)).collect();
        firsts.iter().rfind(|(_, first)| *first <= sequence).or(firsts.first()).copied()
    }

    fn compact(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> Result<Compacted, StoreError> {
        let mut leaving = self.leaving.lock();
        {
            let mut row = self.shared.row.lock();
            let count = row.segments[..row.newest].iter().take_while(|segment| segment.lies_below(keep_from)).count();
            let count = if mutant!(CompactsOneTooFar) { row.newest.min(count + 1) } else { count };
            row.newest -= count;
            leaving.extend(row.segments.drain(..count).map(|segment| Leaving {
                number: segment.number,
                bytes: segment.bytes_on_disk(),
                closed: segment.closed(),
            }));
        }
        self.shared.close_removed();
        let mut compacted = Compacted::default();
        while let Some(oldest) = leaving.front() {
            if oldest.closed.recv_timeout(COMPACTION_WAIT_MAX) == Err(RecvTimeoutError::Timeout) {
                tracing::info!(segment = oldest.number, "a segment is still being read and stays until the next compaction");
                break;
            }
            remove(&self.shared.path, oldest.number)?;
            compacted.segments += 1;
            compacted.bytes += oldest.bytes;
            leaving.pop_front();
        }
        Ok(compacted)
    }
}

impl Shared {
    /// The row's own thread: does what it is asked until nobody can ask any more.
    fn keep(&self, inbox: &Receiver<Job>) {
        let mut unsealed: Vec<Weak<Segment>> = Vec::new();
        loop {
            let again = if unsealed.is_empty() { None } else { Some(SEAL_AGAIN_AFTER) };
            let job = match again.into_iter().chain(self.next_close()).min() {
                Some(wait) => inbox.recv_timeout(wait),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Prepare) => self.prepare(),
                Ok(Job::Seal(segment)) => unsealed.push(segment),
                Ok(Job::Close) | Err(RecvTimeoutError::Timeout) => {}
                // What is not sealed by now is when the log is opened again.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.close_unread();
            unsealed.retain(|segment| segment.upgrade().is_some_and(|segment| !self.seal(&segment)));
        }
    }

    /// Seals `segment`, unless it is being read; says whether there is nothing left to do.
    fn seal(&self, segment: &Segment) -> bool {
        segment.seal(self.writes_through.load(Ordering::Acquire)).unwrap_or_else(|error| {
            tracing::error!(segment = segment.number, %error, "a segment of the log that was left could not be sealed");
            true
        })
    }

    /// Notes that sealed `segment` is read from `store`, and lets go of what was read longest ago. Says whether it is new here.
    fn note_read(&self, segment: &Arc<Segment>, store: &Arc<SledStore>) -> bool {
        let mut closing = Vec::new();
        let mut read_lately = self.read_lately.lock();
        let known = read_lately.iter().position(|read| Arc::ptr_eq(&read.store, store));
        let is_new = known.is_none();
        let read = ReadLately { store: Arc::clone(store), segment: Arc::clone(segment), at: Instant::now() };
        if let Some(known) = known {
            closing.push(read_lately.remove(known));
        }
        // Looked at under the lock, so that a compaction finds it here or it is not put here.
        if self.row.lock().segments.first().is_some_and(|oldest| oldest.number <= segment.number) {
            read_lately.push(read);
        }
        if read_lately.len() > SEALED_OPEN_MAX {
            closing.push(read_lately.remove(0));
        }
        drop(read_lately);
        // Closing takes its time, and nobody else waits for it.
        drop(closing);
        is_new
    }

    /// Lets go of the segments that nobody has read for a while.
    fn close_unread(&self) {
        self.close_where(|read| read.at.elapsed() >= SEALED_OPEN_FOR);
    }

    /// Lets go of the segments that are no longer in the row.
    fn close_removed(&self) {
        let oldest = self.row.lock().segments.first().map_or(0, |oldest| oldest.number);
        self.close_where(|read| read.segment.number < oldest);
    }

    fn close_where(&self, is_over: impl Fn(&ReadLately) -> bool) {
        let closing: Vec<_> = self.read_lately.lock().extract_if(.., |read| is_over(read)).collect();
        drop(closing);
    }

    /// Time until a segment is to be closed that nobody reads any more.
    fn next_close(&self) -> Option<Duration> {
        self.read_lately.lock().first().map(|read| SEALED_OPEN_FOR.saturating_sub(read.at.elapsed()))
    }

    /// Makes the next segment. A failure leaves the newest growing, until a bit later the next is asked for again.
    fn prepare(&self) {
        let (last, taken) = {
            let row = self.row.lock();
            (row.segments.last().map_or(0, |segment| segment.number), row.segments[row.newest].taken_bytes())
        };
        let writes_through = self.writes_through.load(Ordering::Acquire);
        let part = self.options.segment_bytes_max / PREPARE_PARTS;
        let prepare_at = match make(&self.path, last + 1, self.options.cache_bytes, writes_through) {
            Ok(segment) => {
                self.row.lock().segments.push(Arc::new(segment));
                part
            }
            Err(error) => {
                tracing::error!(segment = last + 1, %error, "the log's next segment could not be made; the last one grows meanwhile");
                taken + part.max(1)
            }
        };
        self.prepare_at.store(prepare_at, Ordering::Release);
        self.is_preparing.store(false, Ordering::Release);
    }
}

/// The folder of segment `number`.
fn folder(log: &Path, number: u64) -> PathBuf {
    log.join(format!("{number:0NUMBER_DIGITS$}"))
}

/// The numbers of the segments in folder `log`, in order. Deletes what is half made or half deleted; anything else is damage.
fn numbers(log: &Path) -> Result<Vec<u64>, OpenError> {
    let io_error = |source| OpenError::io(log, source);
    let mut numbers = Vec::new();
    let mut is_cleared = false;
    for entry in fs::read_dir(log).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        let name = name.to_string_lossy();
        let digits = name.strip_suffix(MAKING).or_else(|| name.strip_suffix(REMOVED)).unwrap_or(&name);
        let number = digits.parse::<u64>().ok().filter(|number| *number > 0 && format!("{number:0NUMBER_DIGITS$}") == digits);
        let Some(number) = number else {
            return Err(OpenError::Damaged { place: log.join(&*name), what: "it is no segment of a log".to_owned() });
        };
        if digits.len() < name.len() {
            let place = log.join(&*name);
            fs::remove_dir_all(&place).map_err(|source| OpenError::io(&place, source))?;
            is_cleared = true;
        } else {
            numbers.push(number);
        }
    }
    if is_cleared {
        disk::sync_directory(log).map_err(io_error)?;
    }
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(gap) => Err(OpenError::Damaged { place: folder(log, gap[0] + 1), what: "it is missing between others".to_owned() }),
        None => Ok(numbers),
    }
}

/// Makes the empty segment `number` in folder `log`. At return its names are durable.
///
/// It gets its name when it is whole, and sled cannot be renamed while it is open, so it is opened a second time.
pub(crate) fn make(log: &Path, number: u64, cache_bytes: u64, writes_through: bool) -> Result<Segment, StoreError> {
    let place = folder(log, number);
    let making = log.join(format!("{number:0NUMBER_DIGITS$}{MAKING}"));
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    drop(SledStore::open_left(&making)?);
    disk::sync_directory(&making)?;
    fs::rename(&making, &place)?;
    disk::sync_directory(log)?;
    Segment::open(number, place, cache_bytes, writes_through)
}

/// Takes the closed segment `number` out of folder `log` and deletes it. May be repeated after a failure.
fn remove(log: &Path, number: u64) -> Result<(), StoreError> {
    let place = folder(log, number);
    let removed = log.join(format!("{number:0NUMBER_DIGITS$}{REMOVED}"));
    if place.exists() {
        fs::rename(&place, &removed)?;
        disk::sync_directory(log)?;
    }
    if removed.exists() {
        fs::remove_dir_all(&removed)?;
        disk::sync_directory(log)?;
    }
    Ok(())
}
