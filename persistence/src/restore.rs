//! A data directory made anew from an archive: the identity as it was, snapshots as files, the history and the log written afresh by what
//! writes them in a running node. Knows nothing of where the archive comes from.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_stock::Timestamp;

use crate::archive::{ArchiveError, ArchiveReader, ArchiveTotals, Piece};
use crate::directory::{DataDirectory, DirectoryOptions, OpenError};
use crate::disk;
use crate::group::{Group, count_entries};
use crate::history::{History, HistoryError, HistoryOptions, HistoryRecord};
use crate::identity::Identity;
use crate::record::{GroupSequence, LogIndex, NodeId, RecordHeader, RecordKind, StreamId};
use crate::recovery::{LogPosition, RecoveredGroup, RecoveredStream};
use crate::segments;
use crate::sled_store::CACHE_BYTES_DEFAULT;
use crate::snapshot;
use crate::wal::{Durability, SyncReport, Wal, WalError, WalListener, WalOptions, WalWriter};
use crate::wal_thread::TERM_ALONE;

/// Bytes of groups that are handed to the log between two waits for the disk: what bounds the memory that they take.
const SYNC_BYTES: usize = 8 * 1024 * 1024;

/// The number of the first segment of a log whose beginning is not there: any but 1 says so.
const SEGMENT_BEHIND_BEGINNING: u64 = 2;

/// Why there is no data directory. What was written until then is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive is not whole.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A piece does not belong where it stands, or contradicts those before it.
    #[error("the backup contradicts itself: {0}")]
    Contradiction(String),
    /// The directory could not be made.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The log could not be written.
    #[error("the log could not be written")]
    Log(#[from] WalError),
    /// The history could not be written.
    #[error("the history could not be written")]
    History(#[from] HistoryError),
    /// The operating system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Reads an archive from `from` to its end and makes the data directory of it in the empty folder `path`, with the history in its folder
/// `history`. Calls `planned` once, with the bytes that will be read, roughly, as soon as they are known. Waits for the disk.
///
/// At return everything in it survives a loss of power. Every group is held against the chain of its stream on the way.
///
/// # Errors
/// When the archive is not whole, contradicts itself, or the disk fails. The folder is then to be thrown away.
pub fn restore(from: impl Read, path: &Path, history: &str, mut planned: impl FnMut(u64)) -> Result<ArchiveTotals, RestoreError> {
    let mut archive = ArchiveReader::new(from)?;
    let begin = archive.piece()?;
    let Piece::Begin { identity, history_range_seconds } = begin else { return Err(misplaced(&begin)) };
    identity.write(path)?;
    let history = path.join(history);
    let mut parts = Parts { path, identity, history, history_range_seconds, snapshot: None, kept: None, log: None };
    loop {
        match archive.piece()? {
            Piece::Alive => {}
            Piece::Plan { bytes } => planned(bytes),
            Piece::End(totals) => {
                parts.finish()?;
                disk::sync_directory(path).map_err(|source| RestoreError::io(path, source))?;
                return Ok(totals);
            }
            piece => parts.take(piece)?,
        }
    }
}

struct Parts<'a> {
    path: &'a Path,
    identity: Identity,
    history: PathBuf,
    history_range_seconds: u32,
    snapshot: Option<SnapshotFile>,
    kept: Option<History>,
    log: Option<RestoredLog>,
}

impl Parts<'_> {
    fn take(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        match (piece, &mut self.snapshot, &mut self.log) {
            (Piece::Snapshot { stream, group_sequence, bytes }, None, None) => {
                self.snapshot = SnapshotFile::create(self.path, stream, group_sequence, bytes)?.unfinished()?;
            }
            (Piece::SnapshotPart(part), snapshot @ Some(_), None) => {
                if let Some(mut file) = snapshot.take() {
                    file.write(part)?;
                    *snapshot = file.unfinished()?;
                }
            }
            (Piece::History(records), None, None) => self.keep(&records)?,
            (Piece::Logs(starts), None, None) => {
                if let Some(history) = self.kept.take() {
                    history.persist()?;
                }
                self.log = Some(RestoredLog::start(self.path, &self.identity, &starts)?);
            }
            (Piece::Group(group), None, Some(log)) => log.append(&group)?,
            (piece, ..) => return Err(misplaced(&piece)),
        }
        Ok(())
    }

    fn keep(&mut self, records: &[HistoryRecord<'_>]) -> Result<(), RestoreError> {
        if self.kept.is_none() {
            let options = HistoryOptions { range_seconds: self.history_range_seconds, ..HistoryOptions::default() };
            self.kept = Some(History::open(&self.history, &options)?);
        }
        if let Some(history) = &self.kept {
            history.put(records)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), RestoreError> {
        match (self.snapshot, self.log) {
            (None, Some(mut log)) => Ok(log.stop()?),
            _ => Err(RestoreError::Contradiction("it ends before its logs".to_owned())),
        }
    }
}

fn misplaced(piece: &Piece<'_>) -> RestoreError {
    let name = match piece {
        Piece::Alive => "a sign of life",
        Piece::Begin { .. } => "the identity",
        Piece::Plan { .. } => "the plan",
        Piece::Snapshot { .. } => "a snapshot",
        Piece::SnapshotPart(_) => "a part of a snapshot",
        Piece::History(_) => "the history",
        Piece::Logs(_) => "the logs' beginning",
        Piece::Group(_) => "a group",
        Piece::End(_) => "its end",
        Piece::Failed(_) => "a failure",
    };
    RestoreError::Contradiction(format!("{name} is in the wrong place"))
}

impl RestoreError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// A snapshot's file on its way.
struct SnapshotFile {
    file: File,
    folder: PathBuf,
    path: PathBuf,
    left: u64,
}

impl SnapshotFile {
    fn create(directory: &Path, stream: StreamId, group_sequence: GroupSequence, bytes: u64) -> Result<Self, RestoreError> {
        let folder = directory.join(snapshot::FOLDER);
        disk::create_directory(&folder).map_err(|source| RestoreError::io(&folder, source))?;
        let path = folder.join(snapshot::file_name(stream, group_sequence));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| RestoreError::io(&path, source))?;
        Ok(Self { file, folder, path, left: bytes })
    }

    fn write(&mut self, part: &[u8]) -> Result<(), RestoreError> {
        let left = self.left.checked_sub(part.len() as u64);
        self.left = left.ok_or_else(|| RestoreError::Contradiction("a snapshot is longer than was told".to_owned()))?;
        self.file.write_all(part).map_err(|source| RestoreError::io(&self.path, source))
    }

    /// The file, if anything of it is missing; otherwise it is made durable.
    fn unfinished(self) -> Result<Option<Self>, RestoreError> {
        if self.left > 0 {
            return Ok(Some(self));
        }
        self.file.sync_all().map_err(|source| RestoreError::io(&self.path, source))?;
        disk::sync_directory(&self.folder).map_err(|source| RestoreError::io(&self.folder, source))?;
        Ok(None)
    }
}

/// The log being written, through the thread that writes it in a node.
struct RestoredLog {
    /// `None` once it was stopped.
    wal: Option<Wal>,
    writer: WalWriter,
    node: NodeId,
    tails: BTreeMap<StreamId, LogPosition>,
    unsynced_bytes: usize,
}

/// Nobody waits for a group here: [`WalWriter::sync`] and [`Wal::stop`] tell what matters.
struct Unheard;

impl WalListener for Unheard {
    fn committed(&self, _: StreamId, _: GroupSequence) {}
    fn synced(&self, _: &SyncReport) {}
    fn disk_low(&self, _: bool) {}
    fn failed(&self, _: &WalError) {}
}

impl RestoredLog {
    fn start(path: &Path, identity: &Identity, starts: &[(StreamId, LogPosition)]) -> Result<Self, RestoreError> {
        let tails: BTreeMap<StreamId, LogPosition> = starts.iter().copied().collect();
        if let Some(stream) = tails.keys().find(|stream| stream.shard() >= identity.shards) {
            return Err(RestoreError::Contradiction(format!("it holds {stream}, and there are {} shards", identity.shards)));
        }
        if tails.values().any(|start| start.index > LogIndex(0)) {
            let log = path.join("log");
            disk::create_directory(&log).map_err(|source| RestoreError::io(&log, source))?;
            let first = segments::make(&log, SEGMENT_BEHIND_BEGINNING, CACHE_BYTES_DEFAULT, false);
            drop(first.map_err(|error| OpenError::store(&log, error))?);
        }
        // What it was made under is in the identity already, so the time counts for nothing.
        let directory = DataDirectory::open_existing(path, &DirectoryOptions::new(Timestamp::from_unix_ms(0)))?;
        let recovered: Vec<RecoveredStream> = tails.iter().map(|(stream, start)| RecoveredStream::at(*stream, start)).collect();
        // A loss of power before the end leaves nothing that counts; from time to time and at the end everything is made durable.
        let options = WalOptions { durability: Durability::ProcessCrash, disk_free_bytes_min: Some(0), ..WalOptions::default() };
        let wal = Wal::start(directory, recovered, options, Arc::new(Unheard))?;
        Ok(Self { writer: wal.writer(), wal: Some(wal), node: identity.node, tails, unsynced_bytes: 0 })
    }

    fn append(&mut self, group: &RecoveredGroup<'_>) -> Result<(), RestoreError> {
        let contradiction = |what: &str| {
            RestoreError::Contradiction(format!("group {} at entry {} of {}: {what}", group.sequence, group.index, group.stream))
        };
        let Some(tail) = self.tails.get_mut(&group.stream) else { return Err(contradiction("its log was not begun")) };
        if group.index != tail.index.next() || group.sequence != tail.sequence.next() || group.time < tail.time {
            return Err(contradiction("it does not follow the one before it"));
        }
        if (group.term, group.leader) != (TERM_ALONE, self.node) {
            return Err(contradiction("it was not decided by this node alone, which this version cannot write again"));
        }
        let header = RecordHeader {
            kind: RecordKind::Group,
            term: group.term,
            leader: group.leader,
            sequence: group.sequence,
            predecessor: tail.chain,
            time: group.time,
        };
        if group.predecessor != tail.chain || header.chain(group.payload) != group.chain {
            return Err(contradiction("the chain is broken"));
        }
        let events = count_entries(group.payload).map_err(|error| contradiction(&error.to_string()))?;
        *tail = group.position();
        self.unsynced_bytes += group.payload.len();
        let copied = Group { sequence: group.sequence, time: group.time, events, payload: group.payload.to_vec() };
        self.writer.append(group.stream, copied);
        if self.unsynced_bytes >= SYNC_BYTES {
            self.unsynced_bytes = 0;
            if let Err(stopped) = self.writer.sync() {
                // The log itself knows why.
                return Err(self.stop().err().unwrap_or(stopped).into());
            }
        }
        Ok(())
    }

    /// Ends the log. At return it survives a loss of power.
    fn stop(&mut self) -> Result<(), WalError> {
        self.wal.take().map_or(Ok(()), Wal::stop)
    }
}
