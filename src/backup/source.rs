//! The node's side of a backup: an archive of everything, made while the node serves on. Knows neither HTTP nor what becomes of the
//! archive.
//!
//! The order is what makes it whole. First a snapshot of every shard is made; what had left memory by then is in the history, which is
//! read next; the log is read last, up to what is committed when the history has been read. So a reservation is in the snapshot, in the
//! history or in the log, and nothing in the history is newer than the log's end.
//!
//! What is made of a member of a cluster is to stand alone: its snapshots and its log are told as if its node had decided everything by itself.
//!
//! Everything is read on one blocking thread, no faster than the network takes it, so what is in memory is a few pieces. The log's space
//! is not given back meanwhile; a reader that takes nothing is cut off by the door, which bounds how long that lasts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_api::BackupSource;
use tidegate_engine::Engine;
use tidegate_persistence::{
    ARCHIVE_PIECE_BYTES_MAX, ArchiveTotals, ArchiveWriter, GroupSequence, GroupsAlone, History, HistoryCopyError, HistoryError,
    Identity, LogIndex, LogPosition, LogReader, Piece, ReadError, SnapshotAlone, SnapshotError, SnapshotInfo, StreamId, Term,
    WalError, WalWriter, copy_history,
};
use tidegate_stock::{Partition, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::MemberSnapshots;
use crate::upkeep::{SnapshotFailure, UpkeepLine};

/// Bytes that are handed over together.
const HANDED_BYTES: usize = 128 * 1024;

/// How many of those wait between the disk and the network at most.
const HANDED_WAITING_MAX: usize = 4;

/// How often a sign of life is sent while snapshots are made.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What backups are made of.
pub(crate) struct BackupParts {
    pub(crate) identity: Identity,
    pub(crate) history_range_seconds: u32,
    pub(crate) engine: Engine,
    pub(crate) upkeep: UpkeepLine,
    pub(crate) log: LogReader,
    pub(crate) history: Arc<History>,
    /// What a member of a cluster has besides; `None` of a node that stands alone.
    pub(crate) member: Option<MemberBackup>,
}

/// What a backup of a member needs besides.
pub(crate) struct MemberBackup {
    /// What writes its log.
    pub(crate) writer: WalWriter,
    /// What takes snapshots of other nodes.
    pub(crate) snapshots: MemberSnapshots,
}

/// Makes backups, one at a time. Clones share that.
#[derive(Clone)]
pub(crate) struct Backups {
    parts: Arc<BackupParts>,
    is_under_way: Arc<AtomicBool>,
    handle: Handle,
}

/// Why a backup was given up.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    /// Whoever wanted it has left.
    #[error("the reader has left")]
    Left(#[from] io::Error),
    /// The snapshots could not be made.
    #[error("no snapshot could be made")]
    Snapshot(#[from] SnapshotFailure),
    /// A snapshot could not be read.
    #[error("a snapshot could not be read")]
    File(#[source] io::Error),
    /// The history could not be read.
    #[error("the history could not be read")]
    History(#[from] HistoryError),
    /// A snapshot is damaged, or could not be read.
    #[error("a snapshot could not be read")]
    Damaged(#[from] SnapshotError),
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[from] ReadError),
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped(#[from] WalError),
    /// The history may have more than the log.
    #[error("the node takes a snapshot from another one: ask again, or another member")]
    CatchesUp,
}

impl From<HistoryCopyError> for CopyError {
    fn from(error: HistoryCopyError) -> Self {
        match error {
            HistoryCopyError::History(error) => Self::History(error),
            HistoryCopyError::Archive(error) => Self::Left(error),
        }
    }
}

impl Backups {
    /// Backups of a node with these parts, made on the blocking threads of `handle`'s runtime.
    pub(crate) fn new(parts: BackupParts, handle: Handle) -> Self {
        Self { parts: Arc::new(parts), is_under_way: Arc::default(), handle }
    }
}

impl BackupSource for Backups {
    fn try_begin(&self, with_feed: bool) -> Option<mpsc::Receiver<io::Result<Bytes>>> {
        if self.is_under_way.swap(true, Ordering::AcqRel) {
            return None;
        }
        let turn = Turn(Arc::clone(&self.is_under_way));
        let (sender, receiver) = mpsc::channel(HANDED_WAITING_MAX);
        let (parts, handle) = (Arc::clone(&self.parts), self.handle.clone());
        self.handle.spawn_blocking(move || {
            let _turn = turn;
            make(&parts, with_feed, &handle, &sender);
        });
        Some(receiver)
    }
}

/// While it lives, no other backup begins.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Makes one archive, tells how it went, and tells the reader when it failed.
fn make(parts: &BackupParts, with_feed: bool, handle: &Handle, sender: &mpsc::Sender<io::Result<Bytes>>) {
    tracing::info!(with_feed, "a backup begins");
    let outlet = Outlet { sender: sender.clone(), bytes: Vec::with_capacity(HANDED_BYTES) };
    let Ok(mut archive) = ArchiveWriter::new(outlet) else { return };
    let error = match copy(parts, with_feed, handle, &mut archive) {
        Ok(totals) => match archive.finish().and_then(|mut outlet| outlet.flush()) {
            Ok(()) => {
                tracing::info!(?totals, "a backup was handed over");
                return;
            }
            Err(error) => CopyError::Left(error),
        },
        Err(error) => {
            // Its reader may have left; then there is nobody to tell.
            let _ = archive.put(&Piece::Failed(&with_cause(&error))).and_then(|()| archive.get_mut().flush());
            error
        }
    };
    tracing::warn!(error = with_cause(&error), "a backup was given up");
    // So that the answer ends as one that is not whole.
    let _ = sender.blocking_send(Err(io::Error::other("the backup was given up")));
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn copy(
    parts: &BackupParts,
    with_feed: bool,
    handle: &Handle,
    archive: &mut ArchiveWriter<Outlet>,
) -> Result<ArchiveTotals, CopyError> {
    let BackupParts { identity, history_range_seconds, engine, upkeep, log, history, member } = parts;
    archive.put(&Piece::Begin { identity: identity.clone(), history_range_seconds: *history_range_seconds })?;
    let _hold = upkeep.hold_log();
    let made = make_snapshots(upkeep, handle, archive)?;
    let installs = || member.as_ref().map_or(Some(0), |member| member.snapshots.installs());
    let installed_before = installs().ok_or(CopyError::CatchesUp)?;
    // Of a member it is known by its snapshots where its logs begin.
    let (snapshots, starts) = if member.is_some() {
        open_of_a_member(parts, &made, with_feed)?
    } else {
        (made.iter().map(Opened::of_a_node_alone).collect::<Result<Vec<_>, _>>()?, BTreeMap::new())
    };
    let log_bytes = if with_feed { log.size()?.bytes_on_disk } else { 0 };
    let bytes = snapshots.iter().map(|snapshot| snapshot.bytes).sum::<u64>() + history.bytes_on_disk()? + log_bytes;
    archive.put(&Piece::Plan { bytes })?;
    for Opened { stream, group_sequence, bytes, content } in snapshots {
        archive.put(&Piece::Snapshot { stream, group_sequence, bytes })?;
        match content {
            Content::File(file) => copy_file(file, archive)?,
            Content::Alone(snapshot, position) => snapshot.tell(position, |bytes| put_parts(bytes, archive))?,
        }
    }
    copy_history(history, Partition(0)..=Partition(u16::MAX), archive)?;
    // From here on nothing is read that is newer than what is committed now.
    let mut logs = Vec::new();
    for stream in engine.streams() {
        let up_to = engine.committed(stream).unwrap_or_default();
        let start = if let Some(start) = starts.get(&stream) {
            *start
        } else {
            let snapshot = made.iter().find(|info| info.stream == stream).map(|info| info.group_sequence);
            start_of_a_node_alone(log, stream, snapshot.filter(|_| !with_feed), up_to)?
        };
        logs.push((stream, start, up_to));
    }
    if let Some(MemberBackup { writer, .. }) = member {
        // With a snapshot of another node comes its history, which may be ahead of what is committed here.
        if installs() != Some(installed_before) {
            return Err(CopyError::CatchesUp);
        }
        // What a quorum has committed this node's log need not have written yet.
        writer.sync()?;
    }
    archive.put(&Piece::Logs(logs.iter().map(|(stream, start, _)| (*stream, start.position)).collect()))?;
    for (stream, Start { from, position }, up_to) in logs {
        let mut alone = member.is_some().then(|| GroupsAlone::behind(identity.node, position));
        let mut left = None;
        log.read_groups(stream, from, up_to, |group| {
            let group = alone.as_mut().map_or_else(|| *group, |alone| alone.tell(group));
            match archive.put(&Piece::Group(group)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    left = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        left.map_or(Ok(()), Err)?;
    }
    Ok(archive.totals())
}

/// A snapshot that can be read to its end, whatever the upkeep removes meanwhile.
struct Opened {
    stream: StreamId,
    group_sequence: GroupSequence,
    bytes: u64,
    content: Content,
}

enum Content {
    /// As it is.
    File(File),
    /// As that of a node alone, which stands there.
    Alone(Box<SnapshotAlone>, LogPosition),
}

/// From where a shard's log is copied.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// Its first group.
    from: GroupSequence,
    /// What that continues.
    position: LogPosition,
}

impl Opened {
    fn of_a_node_alone(info: &SnapshotInfo) -> Result<Self, CopyError> {
        let content = Content::File(File::open(&info.path).map_err(CopyError::File)?);
        Ok(Self { stream: info.stream, group_sequence: info.group_sequence, bytes: info.bytes, content })
    }
}

/// The snapshots of a member's shards that were `made`, and from where each of its logs is copied.
fn open_of_a_member(
    BackupParts { identity, engine, log, .. }: &BackupParts,
    made: &[SnapshotInfo],
    with_feed: bool,
) -> Result<(Vec<Opened>, BTreeMap<StreamId, Start>), CopyError> {
    let (mut snapshots, mut starts) = (Vec::new(), BTreeMap::new());
    for stream in engine.streams() {
        let made = made.iter().find(|info| info.stream == stream);
        let snapshot = made.map(|info| SnapshotAlone::open(&info.path, identity, stream)).transpose()?;
        let at = snapshot.as_ref().map_or(LogPosition::GENESIS, SnapshotAlone::position);
        let start = first_group(log, stream, at.sequence, with_feed)?;
        // The log may begin behind the snapshot that another node has sent.
        let start = start.unwrap_or(Start { from: at.sequence.next(), position: at });
        // Of the groups in front of the snapshot each has another chain hash as one of a node alone.
        let mut alone = GroupsAlone::behind(identity.node, start.position);
        starts.insert(stream, Start { position: alone.tail(), ..start });
        log.read_groups(stream, start.from, at.sequence, |group| {
            alone.tell(group);
            ControlFlow::Continue(())
        })?;
        if let Some(snapshot) = snapshot {
            let (group_sequence, bytes) = (snapshot.group_sequence(), snapshot.bytes());
            snapshots.push(Opened { stream, group_sequence, bytes, content: Content::Alone(Box::new(snapshot), alone.tail()) });
        }
    }
    Ok((snapshots, starts))
}

/// The group of a member's log that its copy begins with, if the log has it: the one that its snapshot was made at, or the oldest one.
fn first_group(log: &LogReader, stream: StreamId, snapshot: GroupSequence, with_feed: bool) -> Result<Option<Start>, CopyError> {
    let Some((_, oldest)) = log.oldest(stream)? else { return Ok(None) };
    // The oldest entry may be of no group, and stand behind one that is gone.
    let looked_for: &[GroupSequence] = if with_feed { &[oldest, oldest.next()] } else { &[snapshot] };
    for from in looked_for.iter().copied().filter(|from| (GroupSequence(1)..=snapshot).contains(from)) {
        match position_before(log, stream, from) {
            Ok(position) => return Ok(Some(Start { from, position })),
            Err(ReadError::Compacted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Of a node alone: from the oldest group, or from the one that its snapshot was made at.
fn start_of_a_node_alone(
    log: &LogReader,
    stream: StreamId,
    from_snapshot: Option<GroupSequence>,
    up_to: GroupSequence,
) -> Result<Start, CopyError> {
    let from = match from_snapshot {
        Some(snapshot) => snapshot,
        None => log.oldest(stream)?.map_or(GroupSequence(1), |(_, sequence)| sequence.max(GroupSequence(1))),
    };
    let position = if from <= up_to { position_before(log, stream, from)? } else { LogPosition::GENESIS };
    Ok(Start { from, position })
}

/// What group `from` continues.
fn position_before(log: &LogReader, stream: StreamId, from: GroupSequence) -> Result<LogPosition, ReadError> {
    let mut before = LogPosition::GENESIS;
    log.read_groups(stream, from, from, |group| {
        before = LogPosition {
            index: LogIndex(group.index.0 - 1),
            sequence: GroupSequence(group.sequence.0 - 1),
            chain: group.predecessor,
            term: Term(0),
            time: Timestamp::from_unix_ms(0),
        };
        ControlFlow::Break(())
    })?;
    Ok(before)
}

/// Has a snapshot of every shard made, and lets the reader know meanwhile that somebody is still there.
fn make_snapshots(
    upkeep: &UpkeepLine,
    handle: &Handle,
    archive: &mut ArchiveWriter<Outlet>,
) -> Result<Vec<SnapshotInfo>, CopyError> {
    let mut making = pin!(upkeep.snapshot());
    loop {
        archive.get_mut().flush()?;
        match handle.block_on(async { timeout(ALIVE_INTERVAL, making.as_mut()).await }) {
            Ok(made) => return Ok(made?),
            Err(_) => archive.put(&Piece::Alive)?,
        }
    }
}

fn copy_file(mut file: File, archive: &mut ArchiveWriter<Outlet>) -> Result<(), CopyError> {
    let mut part = vec![0; ARCHIVE_PIECE_BYTES_MAX];
    loop {
        match file.read(&mut part).map_err(CopyError::File)? {
            0 => return Ok(()),
            read => archive.put(&Piece::SnapshotPart(&part[..read]))?,
        }
    }
}

fn put_parts(bytes: &[u8], archive: &mut ArchiveWriter<Outlet>) -> Result<(), CopyError> {
    for part in bytes.chunks(ARCHIVE_PIECE_BYTES_MAX) {
        archive.put(&Piece::SnapshotPart(part))?;
    }
    Ok(())
}

/// Where the archive's bytes go: to the network, as fast as it takes them. Belongs to a blocking thread.
struct Outlet {
    sender: mpsc::Sender<io::Result<Bytes>>,
    bytes: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= HANDED_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(HANDED_BYTES));
        self.sender.blocking_send(Ok(bytes.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
