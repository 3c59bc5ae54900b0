//! A shard's snapshots as the files of its node: made by the upkeep, handed to other nodes, and taken from them.
//!
//! What goes over is the file, and behind it what has left memory for the history, so that a node which begins with another's snapshot finds
//! every reservation that there is:
//!
//! ```text
//! the snapshot's file
//! an archive (persistence's `archive.rs`) of what the history has of the shard's partitions, and of nothing else
//! the length of the snapshot's file, 8 bytes, big-endian
//! ```
//!
//! The history is read when the snapshot is sent, which is after it was made: what had left memory by then is in it, unless it is retained no
//! longer. It may tell of a reservation how it stood later. That does no harm, because whoever changes one that is over brings its record
//! along in the log ([`tidegate_engine`]'s `Recalled`), so nobody looks it up in the history before they have the newest entry.
//!
//! What comes is a file that does not count (`IncomingFile`). It is read whole, and a ledger made of it, before consensus hears of it. To take
//! it, its history goes into the node's own and is made durable there; then the file is cut off behind the snapshot and gets its name, which is
//! the moment at which it counts. A crash before that leaves the old snapshot and a history that knows more than it must; a crash behind it
//! leaves the new one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tidegate_engine::{CodecError, Installed, Router, ShardNumber, for_each_block};
use tidegate_persistence::disk::free_bytes;
use tidegate_persistence::{
    ArchiveError, ArchiveReader, ArchiveWriter, GroupSequence, History, HistoryCopyError, HistoryError, HistoryRecord, Identity,
    LogReader, PARTITIONS, Piece, ReadError, SnapshotConsensus, SnapshotError, SnapshotExpectation, SnapshotHeader, SnapshotReader,
    StreamId, WalError, WalWriter, copy_history, remove_older, snapshot_path, snapshots,
};
use tidegate_stock::{Ledger, LoadError, Loader, Partition, Rules};
use tokio::fs;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::members::{MembersError, decode_stored, encode_stored};
use crate::network::{IncomingFile, IncomingSnapshot, SnapshotTransfer};
use crate::shard::Snapshots;
use crate::state_machine::{Memberships, Standing};

/// Bytes that are handed from the disk to the network together.
const PART_BYTES: usize = 256 * 1024;

/// How many of those wait between the two at most.
const PARTS_WAITING_MAX: usize = 4;

/// Bytes that are taken between two looks at the disk's free space.
const SPACE_LOOK_BYTES: u64 = 8 * 1024 * 1024;

/// The length behind everything.
const TRAILER_BYTES: u64 = 8;

/// What a shard's snapshots are kept with.
pub struct SnapshotParts {
    /// The data directory.
    pub directory: PathBuf,
    /// What it says of itself.
    pub identity: Identity,
    /// The shard.
    pub shard: u16,
    /// The rules of a ledger that is made of a snapshot.
    pub rules: Rules,
    /// The seed of its tables.
    pub seed: u64,
    /// Where reservations are that have left memory; without one, none has.
    pub history: Option<Arc<History>>,
    /// The shard's log.
    pub log: LogReader,
    /// What writes it.
    pub writer: WalWriter,
    /// Free bytes of the disk that a snapshot from another node leaves.
    pub disk_free_bytes_min: u64,
}

/// The snapshots of one shard. Clones share them.
#[derive(Clone)]
pub struct SnapshotFiles(Arc<SnapshotParts>, Arc<Installs>);

/// Snapshots that are taken from other nodes.
#[derive(Debug, Default)]
struct Installs {
    under_way: AtomicBool,
    done: AtomicU64,
}

/// While one is taken.
struct Installing(Arc<Installs>);

impl Installs {
    fn begin(this: &Arc<Self>) -> Installing {
        this.under_way.store(true, Ordering::SeqCst);
        Installing(Arc::clone(this))
    }
}

impl Drop for Installing {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::SeqCst);
        self.0.under_way.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for SnapshotFiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SnapshotFiles")
            .field("directory", &self.0.directory)
            .field("shard", &self.0.shard)
            .finish_non_exhaustive()
    }
}

/// Why a snapshot is of no use, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// Its file is not what was written, or belongs to something else.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// A block of it holds no items.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its items make no ledger.
    #[error("the snapshot's items make no ledger: {0}")]
    Load(#[from] LoadError),
    /// Its members are none, or too many.
    #[error("the snapshot's members: {0}")]
    Members(#[from] MembersError),
    /// The history that came with it is not whole.
    #[error("the history that came with the snapshot: {0}")]
    Archive(#[from] ArchiveError),
    /// Something else came with it.
    #[error("what came with the snapshot is not the history of its shard: {0}")]
    Stranger(String),
    /// The node's history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The history could not be read, or not be sent.
    #[error(transparent)]
    Copy(#[from] HistoryCopyError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The log has stopped.
    #[error(transparent)]
    Sync(#[from] WalError),
    /// Who the members were is not remembered.
    #[error("who the members were at group {0} is not remembered: they have changed too often since")]
    Forgotten(GroupSequence),
    /// A node that stood alone made it, and no other can go on behind it.
    #[error("snapshot {} was made before the node was a member of a cluster, and is handed to nobody", .0.display())]
    Alone(PathBuf),
    /// It stands elsewhere than was said.
    #[error("the snapshot stands at {found:?}, and was sent as one at {told:?}")]
    Elsewhere {
        /// Where it stands.
        found: Box<Standing>,
        /// Where it was said to stand.
        told: Box<Standing>,
    },
    /// The operating system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<SnapshotFileError> for io::Error {
    fn from(error: SnapshotFileError) -> Self {
        match error {
            SnapshotFileError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A snapshot of a shard: one that is kept, or one that has come from another node and is not taken yet.
#[derive(Clone)]
pub struct FileSnapshot(Arc<Held>);

struct Held {
    path: PathBuf,
    /// Open, so that it can be read whatever becomes of its name.
    file: File,
    /// Until it is taken.
    received: Mutex<Option<Received>>,
}

/// What has come from another node, as it was found to be.
struct Received {
    incoming: IncomingFile,
    header: SnapshotHeader,
    /// Length of the snapshot's file.
    bytes: u64,
    ledger: Ledger,
}

impl std::fmt::Debug for FileSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("FileSnapshot").field(&self.0.path).finish()
    }
}

impl SnapshotFiles {
    /// How often a snapshot of another node was taken; `None` while one is. Where it is the same before and after something, the node's history has
    /// learned nothing meanwhile but what its own ledger has let go of.
    pub fn installs(&self) -> Option<u64> {
        let done = self.1.done.load(Ordering::SeqCst);
        (!self.1.under_way.load(Ordering::SeqCst)).then_some(done)
    }

    /// The snapshots of the shard that `parts` names. What a crash has left unfinished must be removed before
    /// ([`tidegate_persistence::remove_unfinished`]).
    pub fn new(parts: SnapshotParts) -> Self {
        Self(Arc::new(parts), Arc::default())
    }

    /// The header of a snapshot of all up to group `at`, which is committed; `None` for 0. Its members are those as of that group, by
    /// `memberships` of the shard's state machine. Waits for the disk, and makes the log durable up to there.
    ///
    /// # Errors
    /// When the log has stopped or cannot be read there, and when the members have changed too often since.
    pub fn header(&self, memberships: &Memberships, at: GroupSequence) -> Result<Option<SnapshotHeader>, SnapshotFileError> {
        let SnapshotParts { identity, log, writer, .. } = &*self.0;
        // What a quorum has need not be written here yet.
        writer.sync()?;
        let found = match log.position_and_leader(self.stream(), at) {
            // The log begins behind it, because a snapshot from another node took its place. That one stands there.
            Err(error @ ReadError::Compacted { .. }) => {
                let newest = self.newest()?.map(|(_, reader)| reader.header().clone());
                return newest.filter(|newest| newest.position.sequence == at).map(Some).ok_or_else(|| error.into());
            }
            found => found?,
        };
        let Some((position, leader)) = found else { return Ok(None) };
        let membership = memberships.at(position.index).ok_or(SnapshotFileError::Forgotten(at))?;
        let consensus = Some(SnapshotConsensus { leader, members: encode_stored(&membership)? });
        Ok(Some(SnapshotHeader { consensus, ..SnapshotHeader::new(identity, self.stream(), position) }))
    }

    fn stream(&self) -> StreamId {
        StreamId::log(self.0.shard)
    }

    /// The partitions whose stocks the shard owns.
    fn partitions(&self) -> RangeInclusive<Partition> {
        let router = Router::new(self.0.identity.shards);
        let mut own =
            (0..PARTITIONS).map(Partition).filter(|partition| router.shard_of(*partition) == Some(ShardNumber(self.0.shard)));
        let first = own.next().expect("every shard owns a partition");
        first..=own.next_back().unwrap_or(first)
    }

    /// The newest snapshot whose header can be read, and what reads it. Those of a node that stood alone are not handed to others: nobody else
    /// can go on behind them.
    fn newest(&self) -> Result<Option<(PathBuf, SnapshotReader)>, SnapshotFileError> {
        let SnapshotParts { directory, identity, .. } = &*self.0;
        let expectation = SnapshotExpectation::new(identity, self.stream());
        for kept in snapshots(directory, self.stream())? {
            match SnapshotReader::open(&kept.path, &expectation) {
                Ok(reader) if reader.header().consensus.is_none() => {}
                Ok(reader) => return Ok(Some((kept.path, reader))),
                Err(error) => tracing::error!(%error, "a snapshot is of no use; an older one is looked for"),
            }
        }
        Ok(None)
    }

    fn load(&self, path: &Path) -> Result<Installed, SnapshotFileError> {
        let reader = SnapshotReader::open(path, &SnapshotExpectation::new(&self.0.identity, self.stream()))?;
        let (header, ledger) = load(reader, self.0.rules, self.0.seed)?;
        Ok(Installed { ledger, at: header.position.sequence })
    }

    /// Hands the bytes of `snapshot` to `out`, and reads it whole on the way: one that is damaged is named, and not handed over to its end.
    fn send(&self, snapshot: &FileSnapshot, mut out: Outlet) -> Result<Outlet, SnapshotFileError> {
        let Held { path, file, .. } = &*snapshot.0;
        let tee = Tee { file: Section { file, next: 0, end: u64::MAX }, out };
        let mut reader = SnapshotReader::of(tee, path, &SnapshotExpectation::new(&self.0.identity, self.stream()))?;
        while reader.block()?.is_some() {}
        let bytes = reader.bytes_read();
        out = reader.into_inner().out;
        let mut archive = ArchiveWriter::new(out)?;
        if let Some(history) = &self.0.history {
            copy_history(history, self.partitions(), &mut archive)?;
        }
        out = archive.finish()?;
        out.write_all(&bytes.to_be_bytes())?;
        out.flush()?;
        Ok(out)
    }

    /// Reads all of what has come into the file at `path`.
    fn check(&self, path: &Path) -> Result<(File, SnapshotHeader, u64, Ledger), SnapshotFileError> {
        let file = File::open(path)?;
        let mut trailer = [0; 8];
        let end = file.metadata()?.len().checked_sub(TRAILER_BYTES);
        let stranger = || SnapshotFileError::Stranger("it ends before its end".to_owned());
        let end = end.ok_or_else(stranger)?;
        file.read_exact_at(&mut trailer, end)?;
        let bytes = u64::from_be_bytes(trailer);
        if bytes > end {
            return Err(stranger());
        }
        let section = Section { file: &file, next: 0, end: bytes };
        let reader = SnapshotReader::of(section, path, &SnapshotExpectation::new(&self.0.identity, self.stream()))?;
        let (header, ledger) = load(reader, self.0.rules, self.0.seed)?;
        if header.consensus.is_none() {
            return Err(SnapshotFileError::Alone(path.to_owned()));
        }
        self.for_each_kept(Section { file: &file, next: bytes, end }, |records| match (records, &self.0.history) {
            ([first, ..], None) => {
                let what = format!("it has reservations like {:?}, and this node keeps no history", first.key);
                Err(SnapshotFileError::Stranger(what))
            }
            _ => Ok(()),
        })?;
        Ok((file, header, bytes, ledger))
    }

    /// Hands the records of the history in `section` to `visit`, piece by piece.
    fn for_each_kept(
        &self,
        section: Section<'_>,
        mut visit: impl FnMut(&[HistoryRecord<'_>]) -> Result<(), SnapshotFileError>,
    ) -> Result<(), SnapshotFileError> {
        let own = self.partitions();
        let mut archive = ArchiveReader::new(io::BufReader::with_capacity(PART_BYTES, section))?;
        loop {
            match archive.piece()? {
                Piece::History(records) => {
                    if let Some(record) = records.iter().find(|record| !own.contains(&record.key.stock.partition)) {
                        return Err(SnapshotFileError::Stranger(format!("a reservation of {:?}", record.key.stock.partition)));
                    }
                    visit(&records)?;
                }
                Piece::End(_) => return Ok(()),
                piece => return Err(SnapshotFileError::Stranger(format!("{piece:?}"))),
            }
        }
    }

    /// Puts the history that is in `file` behind the first `bytes` into the node's own. Durable at return.
    fn take_history(&self, file: &File, bytes: u64) -> Result<(), SnapshotFileError> {
        let Some(history) = &self.0.history else { return Ok(()) };
        let end = file.metadata()?.len() - TRAILER_BYTES;
        self.for_each_kept(Section { file, next: bytes, end }, |records| {
            let mut missing = Vec::with_capacity(records.len());
            for record in records {
                // What is there already would take its room twice.
                if history.get(record.key)?.as_deref() != Some(record.value) {
                    missing.push(*record);
                }
            }
            Ok(history.put(&missing)?)
        })?;
        Ok(history.persist()?)
    }

    /// Where the snapshot with this header stands.
    fn standing_of(&self, header: &SnapshotHeader) -> Result<Standing, SnapshotFileError> {
        standing_of(header, &self.0.identity)
    }
}

/// Where the snapshot with `header` stands, of the directory that `identity` names.
pub(crate) fn standing_of(header: &SnapshotHeader, identity: &Identity) -> Result<Standing, SnapshotFileError> {
    let position = header.position;
    Ok(match &header.consensus {
        // A node that stood alone has proposed all that it holds.
        None => Standing { position, leader: identity.node, ..Standing::genesis() },
        Some(consensus) => Standing { position, leader: consensus.leader, membership: decode_stored(&consensus.members)? },
    })
}

/// The header of the snapshot that `reader` reads, and a ledger of all its items.
pub(crate) fn load<R: Read + Send>(
    mut reader: SnapshotReader<R>,
    rules: Rules,
    seed: u64,
) -> Result<(SnapshotHeader, Ledger), SnapshotFileError> {
    let mut loader = Loader::new(rules, seed);
    for_each_block(&mut reader, |_| (), |items| Ok::<_, SnapshotFileError>(loader.add_all(items)?))?;
    Ok((reader.header().clone(), loader.finish()?))
}

/// Does what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    doing: impl FnOnce() -> Result<T, SnapshotFileError> + Send + 'static,
) -> Result<T, SnapshotFileError> {
    spawn_blocking(doing).await.map_err(io::Error::other)?
}

impl Snapshots for SnapshotFiles {
    type Snapshot = FileSnapshot;

    async fn install(&mut self, standing: Standing, snapshot: FileSnapshot) -> io::Result<Installed> {
        let files = self.clone();
        let Some(Received { mut incoming, header, bytes, ledger }) = snapshot.0.received.lock().take() else {
            // One that is kept: at a start, with a ledger that was not made of it.
            return Ok(blocking(move || files.load(&snapshot.0.path)).await?);
        };
        let _installing = Installs::begin(&self.1);
        let found = self.standing_of(&header)?;
        if found != standing {
            return Err(SnapshotFileError::Elsewhere { found: Box::new(found), told: Box::new(standing) }.into());
        }
        blocking(move || files.take_history(&snapshot.0.file, bytes)).await?;
        incoming.truncate(bytes).await?;
        let at = header.position.sequence;
        let path = snapshot_path(&self.0.directory, self.stream(), at);
        let name = path.file_name().and_then(|name| name.to_str()).expect("a snapshot's name is of digits");
        let path = incoming.finish(name).await?;
        tracing::info!(path = %path.display(), bytes, group = %at, "took a snapshot from another node");
        // The log behind the others goes, so they are of no use.
        let files = self.clone();
        blocking(move || Ok(remove_older(&files.0.directory, files.stream(), 1)?)).await?;
        Ok(Installed { ledger, at })
    }

    async fn current(&mut self) -> io::Result<Option<(Standing, FileSnapshot)>> {
        let files = self.clone();
        let newest = blocking(move || {
            let Some((path, reader)) = files.newest()? else { return Ok(None) };
            let (standing, file) = (files.standing_of(reader.header())?, File::open(&path)?);
            Ok(Some((standing, FileSnapshot(Arc::new(Held { path, file, received: Mutex::new(None) })))))
        });
        Ok(newest.await?)
    }
}

impl SnapshotTransfer for SnapshotFiles {
    type Snapshot = FileSnapshot;
    type Reader = FileReader;
    type Incoming = FileIncoming;

    async fn open(&self, snapshot: FileSnapshot) -> io::Result<FileReader> {
        let (sender, parts) = mpsc::channel(PARTS_WAITING_MAX);
        let files = self.clone();
        spawn_blocking(move || {
            let out = Outlet { sender: sender.clone(), bytes: Vec::new() };
            if let Err(error) = files.send(&snapshot, out)
                && !sender.is_closed()
            {
                tracing::error!(%error, ?snapshot, "a snapshot could not be handed to another node");
                // Whoever reads may have left meanwhile.
                let _ = sender.blocking_send(Err(error.into()));
            }
        });
        Ok(FileReader { parts, part: Vec::new(), read: 0 })
    }

    async fn receive(&self, shard: u16) -> io::Result<FileIncoming> {
        if shard != self.0.shard {
            return Err(io::Error::other(format!("a snapshot of shard {shard} comes to shard {}", self.0.shard)));
        }
        let path = snapshot_path(&self.0.directory, self.stream(), GroupSequence(0));
        let folder = path.parent().expect("a snapshot is in a folder");
        fs::create_dir_all(folder).await?;
        let file = IncomingFile::create(folder).await?;
        Ok(FileIncoming { files: self.clone(), file, unlooked: SPACE_LOOK_BYTES })
    }
}

/// A snapshot that is being received into a file that does not count.
#[derive(Debug)]
pub struct FileIncoming {
    files: SnapshotFiles,
    file: IncomingFile,
    /// Bytes taken since the last look at the disk's free space.
    unlooked: u64,
}

impl IncomingSnapshot for FileIncoming {
    type Snapshot = FileSnapshot;

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unlooked >= SPACE_LOOK_BYTES {
            self.unlooked = 0;
            let SnapshotParts { directory, disk_free_bytes_min: min, .. } = &*self.files.0;
            let free = free_bytes(directory)?;
            if free < *min {
                let what = format!("the disk has {free} free bytes, and a snapshot from another node must leave {min}");
                return Err(io::Error::new(io::ErrorKind::StorageFull, what));
            }
        }
        self.unlooked += bytes.len() as u64;
        self.file.write(bytes).await
    }

    async fn finish(mut self) -> io::Result<FileSnapshot> {
        self.file.sync().await?;
        let (files, path) = (self.files.clone(), self.file.path().to_owned());
        let checked = blocking(move || files.check(&path)).await;
        let (file, header, bytes, ledger) = checked.inspect_err(|error| {
            tracing::error!(%error, shard = self.files.0.shard, "a snapshot from another node is refused");
        })?;
        let path = self.file.path().to_owned();
        let received = Received { incoming: self.file, header, bytes, ledger };
        Ok(FileSnapshot(Arc::new(Held { path, file, received: Mutex::new(Some(received)) })))
    }
}

/// The bytes of a snapshot on their way to another node.
#[derive(Debug)]
pub struct FileReader {
    parts: mpsc::Receiver<io::Result<Vec<u8>>>,
    part: Vec<u8>,
    /// How much of it was read.
    read: usize,
}

impl AsyncRead for FileReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read == self.part.len() {
            // What ends early is not whole for whoever receives it.
            let Some(part) = ready!(self.parts.poll_recv(context)) else { return Poll::Ready(Ok(())) };
            self.part = part?;
            self.read = 0;
        }
        let (from, count) = (self.read, into.remaining().min(self.part.len() - self.read));
        into.put_slice(&self.part[from..from + count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

/// Where the bytes of a snapshot go, as fast as they are taken. Belongs to a thread that may wait.
struct Outlet {
    sender: mpsc::Sender<io::Result<Vec<u8>>>,
    bytes: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= PART_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.sender.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads a file, and hands on what it reads.
struct Tee<'a> {
    file: Section<'a>,
    out: Outlet,
}

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.out.write_all(&into[..read])?;
        Ok(read)
    }
}

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    next: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        let most = into.len().min(left);
        let read = self.file.read_at(&mut into[..most], self.next)?;
        self.next += read as u64;
        Ok(read)
    }
}
