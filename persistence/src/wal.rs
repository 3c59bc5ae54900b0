//! The write-ahead log: one thread per node writes the groups of all shards and makes them durable together.
//!
//! The thread takes what has gathered, appends it, syncs once, and says which groups are committed. Nothing waits for a timer: while
//! one sync runs, the next groups gather. A failed append or sync is never tried again: what the disk holds is then unknown, the
//! listener is told once, and the thread takes nothing more. Knows nothing of shards' ledgers or of replies.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_stock::Timestamp;

use crate::directory::DataDirectory;
use crate::disk;
use crate::group::Group;
use crate::reader::{Kept, LogReader};
use crate::record::{GROUP_BYTES_MAX, GroupSequence, LogIndex, NodeId, StreamId, VALUE_OVERHEAD_BYTES};
use crate::recovery::{LogPosition, RecoveredStream, RecoveryError};
use crate::replicated::{Promises, ReplicatedEntry};
use crate::sidecar::Sidecar;
use crate::sled_store::VALUE_BYTES_MAX;
use crate::store::{LogStore, StoreError};
use crate::wal_thread::{Disk, Log, Message, Tail};

/// Default of [`WalOptions::disk_free_bytes_min`]: 512 MiB.
pub const DISK_FREE_BYTES_MIN_DEFAULT: u64 = 512 * 1024 * 1024;

/// Smallest [`WalOptions::value_bytes_max`].
pub const VALUE_BYTES_MIN: usize = 512;

// The largest group fits the 16 bits of a part even with the smallest values.
const _: () = assert!(GROUP_BYTES_MAX / (VALUE_BYTES_MIN - VALUE_OVERHEAD_BYTES) < u16::MAX as usize);
const _: () = assert!(VALUE_BYTES_MIN <= VALUE_BYTES_MAX);

/// What a committed group survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A loss of power.
    #[default]
    PowerLoss,
    /// The end of the process, but not a loss of power.
    ProcessCrash,
    /// Nothing but an orderly stop.
    None,
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PowerLoss => "power_loss",
            Self::ProcessCrash => "process_crash",
            Self::None => "none",
        })
    }
}

/// A text is no durability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability is {0:?} where power_loss, process_crash or none is allowed")]
pub struct DurabilityError(String);

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        [Self::PowerLoss, Self::ProcessCrash, Self::None]
            .into_iter()
            .find(|durability| durability.to_string() == text)
            .ok_or_else(|| DurabilityError(text.to_owned()))
    }
}

/// Looks up the free bytes of the disk that holds the log.
pub type FreeSpace = Arc<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// How the log is kept.
#[derive(Clone, Default)]
pub struct WalOptions {
    /// What a committed group survives. Default: a loss of power.
    pub durability: Durability,
    /// Free bytes of the disk below which the listener hears [`WalListener::disk_low`]. Default: [`DISK_FREE_BYTES_MIN_DEFAULT`].
    pub disk_free_bytes_min: Option<u64>,
    /// Longest value in bytes, [`VALUE_BYTES_MIN`] to [`VALUE_BYTES_MAX`]. Default: [`VALUE_BYTES_MAX`].
    pub value_bytes_max: Option<usize>,
    /// Where the free space is looked up. Default: the file system of the data directory.
    pub free_space: Option<FreeSpace>,
}

impl fmt::Debug for WalOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WalOptions")
            .field("durability", &self.durability)
            .field("disk_free_bytes_min", &self.disk_free_bytes_min)
            .field("value_bytes_max", &self.value_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Why the log stopped. What was not committed before has an unknown outcome.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The store failed to append or to sync.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sidecar could not be written.
    #[error("the sidecar of durable positions failed: {0}")]
    Sidecar(#[source] io::Error),
    /// A group is for a stream that was not recovered.
    #[error("{0} was not recovered before it was appended to")]
    UnknownStream(StreamId),
    /// A group does not follow the one before it.
    #[error("group {found} of {stream} where {expected} was expected")]
    Sequence {
        /// The stream.
        stream: StreamId,
        /// The group that came.
        found: GroupSequence,
        /// The group that should have come.
        expected: GroupSequence,
    },
    /// A group is older than the one before it.
    #[error("group of {stream} at {found} ms after one at {before} ms", found = .found.unix_ms(), before = .before.unix_ms())]
    Time {
        /// The stream.
        stream: StreamId,
        /// The time of the group before.
        before: Timestamp,
        /// The time of the group that came.
        found: Timestamp,
    },
    /// A group is too large.
    #[error("group of {stream} has {bytes} bytes where {GROUP_BYTES_MAX} are allowed")]
    Oversized {
        /// The stream.
        stream: StreamId,
        /// Its payload.
        bytes: usize,
    },
    /// An entry of a replicated log does not follow the one before it.
    #[error("entry {found} of {stream} where {expected} was expected")]
    Index {
        /// The stream.
        stream: StreamId,
        /// The entry that came.
        found: LogIndex,
        /// The entry that should have come.
        expected: LogIndex,
    },
    /// A log is to end at an entry that it does not hold.
    #[error("{stream} cannot be made to end at entry {last}, which it does not hold")]
    NoSuchEnd {
        /// The stream.
        stream: StreamId,
        /// The entry that was to be the last.
        last: LogIndex,
    },
    /// The entry that a log is to end at cannot be read.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// An option is out of its bounds.
    #[error("value_bytes_max is {given} where {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} are allowed")]
    ValueBytesMax {
        /// What was given.
        given: usize,
    },
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped,
    /// The log's thread could not be started.
    #[error("the log's thread did not start: {0}")]
    Thread(#[source] io::Error),
    /// The log's thread panicked.
    #[error("the log's thread panicked")]
    Panicked,
}

/// What one sync made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Groups.
    pub groups: u64,
    /// Events in them.
    pub events: u64,
    /// Values they were split into.
    pub values: u64,
    /// Bytes of those values.
    pub bytes: u64,
    /// Time to hand them to the store.
    pub append: Duration,
    /// Time to make them durable.
    pub sync: Duration,
}

/// Hears what becomes of groups. Called on the log's thread, so it must be quick and must not wait.
pub trait WalListener: Send + Sync {
    /// Every group of `stream` up to `sequence` is committed: it survives what the log's durability names.
    fn committed(&self, stream: StreamId, sequence: GroupSequence);

    /// A sync is done; the groups in it have been told as committed.
    fn synced(&self, report: &SyncReport);

    /// The disk's free space fell below its minimum, or rose to it again. Below it, new work should be refused; what is handed over is
    /// still written.
    fn disk_low(&self, is_low: bool);

    /// The log has stopped and takes nothing more. Called at most once. The node must stop: groups not told as committed may be durable
    /// or not.
    fn failed(&self, error: &WalError);
}

/// Called on the log's thread once something is durable, so it must be quick and must not wait. Dropped uncalled when the log fails or stops
/// before: what the disk holds is then unknown.
pub type Done = Box<dyn FnOnce() + Send>;

/// Hands groups to the log. One per thread that does so.
#[derive(Clone)]
pub struct WalWriter(Sender<Message>);

impl WalWriter {
    /// Hands `group` over as the next of `stream`. Never blocks, so whoever calls bounds the groups in flight.
    ///
    /// The listener tells when it is committed. After the log has failed or stopped, the group goes nowhere.
    pub fn append(&self, stream: StreamId, group: Group) {
        // A send fails only once the thread is gone, which the listener has been told, or which stop() has returned.
        drop(self.0.send(Message::Append(stream, group)));
    }

    /// Hands `entries` over as the next of the replicated log `stream`. Never blocks, so whoever calls bounds what is in flight.
    ///
    /// `done` is called when they survive what the log's durability names. The listener is told of no commit: that is for consensus to say.
    ///
    /// # Errors
    /// [`WalError::Stopped`] when the log has stopped; nothing was written then. So with the other ways to write to a replicated log.
    pub fn append_entries(&self, stream: StreamId, entries: Vec<ReplicatedEntry>, done: Done) -> Result<(), WalError> {
        self.0.send(Message::Entries(stream, entries, done)).map_err(|_| WalError::Stopped)
    }

    /// Keeps `promises` for `shard` from now on. Never blocks. `done` is called when they survive a loss of power, whatever the log's
    /// durability: a node that forgets its vote could vote twice.
    pub fn promise(&self, shard: u16, promises: Promises, done: Done) -> Result<(), WalError> {
        self.0.send(Message::Promise(StreamId::votes(shard), Box::new(promises), done)).map_err(|_| WalError::Stopped)
    }

    /// Removes the entries of the replicated log `stream` behind `last`; `base` is where the log begins for consensus, and the least that
    /// `last` may be. Never blocks. `done` is called when the removal survives a loss of power.
    pub fn truncate_after(&self, stream: StreamId, last: LogIndex, base: LogPosition, done: Done) -> Result<(), WalError> {
        self.0.send(Message::Truncate { stream, last, base: Box::new(base), done }).map_err(|_| WalError::Stopped)
    }

    /// Gives up all of the replicated log `stream`, which goes on behind `base` instead: that of a snapshot beyond its end. Never blocks.
    /// What was promised before, `base` included, is durable before anything is removed. `done` is called when all of it is.
    pub fn begin_at(&self, stream: StreamId, base: LogPosition, done: Done) -> Result<(), WalError> {
        self.0.send(Message::BeginAt(stream, Box::new(base), done)).map_err(|_| WalError::Stopped)
    }

    /// Waits until everything that was appended before survives a loss of power, whatever the log's durability.
    ///
    /// # Errors
    /// [`WalError::Stopped`] when the log has stopped or failed meanwhile.
    pub fn sync(&self) -> Result<(), WalError> {
        let (done, is_done) = mpsc::sync_channel(1);
        self.0.send(Message::Sync(done)).map_err(|_| WalError::Stopped)?;
        is_done.recv().map_err(|_| WalError::Stopped)
    }
}

impl fmt::Debug for WalWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WalWriter(..)")
    }
}

/// The running log. Dropping it stops it like [`Wal::stop`], and only logs an error.
#[derive(Debug)]
pub struct Wal {
    writer: WalWriter,
    reader: LogReader,
    thread: Option<JoinHandle<Result<(), WalError>>>,
}

impl Wal {
    /// Starts the log of `directory`, whose streams end as `tails` says: one recovered stream for each that will be appended to.
    ///
    /// Before it returns, unfinished tails are removed, and with [`Durability::PowerLoss`] everything recovered survives a loss of
    /// power, so that nothing is shown that could still vanish.
    pub fn start(
        directory: DataDirectory,
        tails: impl IntoIterator<Item = RecoveredStream>,
        mut options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        let parts = directory.into_parts();
        let path = parts.path;
        options.free_space.get_or_insert_with(|| Arc::new(move || disk::free_bytes(&path)));
        parts.store.set_write_through(options.durability == Durability::PowerLoss)?;
        let kept = Kept { store: Box::new(parts.store), _lock: Some(parts.lock) };
        Self::start_thread(kept, Some(parts.sidecar), parts.identity.node, tails, options, listener)
    }

    /// Starts a log on any store, without a directory: no sidecar, and no look at the free space unless the options name one.
    pub fn start_on(
        store: Box<dyn LogStore>,
        node: NodeId,
        tails: impl IntoIterator<Item = RecoveredStream>,
        options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        Self::start_thread(Kept { store, _lock: None }, None, node, tails, options, listener)
    }

    /// Starts a log on any store like [`Wal::start_on`], with a sidecar that is noted after every sync as in a directory.
    pub fn start_on_with_sidecar(
        store: Box<dyn LogStore>,
        sidecar: Sidecar,
        node: NodeId,
        tails: impl IntoIterator<Item = RecoveredStream>,
        options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        Self::start_thread(Kept { store, _lock: None }, Some(sidecar), node, tails, options, listener)
    }

    fn start_thread(
        kept: Kept,
        sidecar: Option<Sidecar>,
        node: NodeId,
        tails: impl IntoIterator<Item = RecoveredStream>,
        options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        let SteppedWal { log, inbox, writer, reader } = SteppedWal::begin(kept, sidecar, node, tails, options, listener)?;
        let thread = thread::Builder::new().name("wal".to_owned()).spawn(move || log.run(&inbox)).map_err(WalError::Thread)?;
        Ok(Self { writer, reader, thread: Some(thread) })
    }

    /// A writer; any number may be used at once.
    pub fn writer(&self) -> WalWriter {
        self.writer.clone()
    }

    /// A reader of what is committed; any number may be used at once, none keeps the log from stopping.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Writes and syncs what was handed over before, closes the store and releases the directory. Waits for the thread, but not for a
    /// reader that is reading right now: the store and the directory are free once it is done.
    ///
    /// Whatever the durability, everything committed survives a loss of power at return. An error that the listener was told of comes
    /// back here too.
    pub fn stop(mut self) -> Result<(), WalError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), WalError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        drop(self.writer.0.send(Message::Stop));
        thread.join().unwrap_or(Err(WalError::Panicked))
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "the log stopped with an error");
        }
    }
}

/// A log without a thread of its own: whoever holds it says when what was handed over is written and synced. For simulations, in which one
/// thread does everything and a sync takes as long as the simulation says.
///
/// What was handed over and not written is gone when it is dropped, and whoever waits for it hears so.
pub struct SteppedWal {
    log: Log,
    inbox: Receiver<Message>,
    writer: WalWriter,
    reader: LogReader,
}

impl fmt::Debug for SteppedWal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SteppedWal(..)")
    }
}

impl SteppedWal {
    /// A log on any store, as [`Wal::start_on`] starts it.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(
        store: Box<dyn LogStore>,
        node: NodeId,
        tails: impl IntoIterator<Item = RecoveredStream>,
        options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        Self::begin(Kept { store, _lock: None }, None, node, tails, options, listener)
    }

    fn begin(
        kept: Kept,
        sidecar: Option<Sidecar>,
        node: NodeId,
        tails: impl IntoIterator<Item = RecoveredStream>,
        options: WalOptions,
        listener: Arc<dyn WalListener>,
    ) -> Result<Self, WalError> {
        let value_bytes_max = options.value_bytes_max.unwrap_or(VALUE_BYTES_MAX);
        if !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value_bytes_max) {
            return Err(WalError::ValueBytesMax { given: value_bytes_max });
        }
        let (sender, inbox) = mpsc::channel();
        let kept = Arc::new(kept);
        let reader = LogReader::new(&kept, sender.clone());
        let mut log = Log {
            kept,
            sidecar,
            node,
            durability: options.durability,
            slice_bytes_max: if mutant!(ValuesBecomeBlobs) { 64 * 1024 } else { value_bytes_max - VALUE_OVERHEAD_BYTES },
            tails: tails.into_iter().map(|tail| (tail.stream, Tail::from(tail))).collect(),
            value: Vec::new(),
            disk: Disk {
                free_space: options.free_space,
                free_bytes_min: options.disk_free_bytes_min.unwrap_or(DISK_FREE_BYTES_MIN_DEFAULT),
                is_low: false,
                looked_at: None,
            },
            listener,
        };
        log.begin()?;
        Ok(Self { log, inbox, writer: WalWriter(sender), reader })
    }

    /// A writer; any number may be used at once. Whoever waits for what one hands over waits for [`SteppedWal::step`].
    pub fn writer(&self) -> WalWriter {
        self.writer.clone()
    }

    /// A reader, as of [`Wal::reader`].
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Writes what was handed over, syncs once, and says so, as the log's thread does in one go. Returns whether there was anything.
    ///
    /// # Errors
    /// As the listener of a running log hears them. Drop the log then: what the store holds is unknown.
    pub fn step(&mut self) -> Result<bool, WalError> {
        let Ok(first) = self.inbox.try_recv() else { return Ok(false) };
        self.log.commit(first, &self.inbox)?;
        Ok(true)
    }
}
