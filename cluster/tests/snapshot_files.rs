//! Snapshots as files on their way from node to node: whole, with the history of their shard, or not at all.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::members::{RULES, create, reserve};
use common::{Deaf, STREAM, at};
use tempfile::TempDir;
use tidegate_cluster::network::{IncomingSnapshot, SnapshotTransfer};
use tidegate_cluster::{FileSnapshot, SnapshotFiles, SnapshotParts, Snapshots, Standing, StoredMembership};
use tidegate_engine::{
    CommitLog, CommitProgress, Engine, EngineMetrics, EngineOptions, EngineParts, Sealing, ShardStart, Submission, SystemClock,
};
use tidegate_persistence::{
    ActorName, ChainHash, DataDirectory, DirectoryOptions, Group, GroupSequence, History, HistoryKey, HistoryOptions,
    HistoryRecord, Identity, IdentityExpectation, LogIndex, LogPosition, NodeId, RecoveredStream, SnapshotConsensus,
    SnapshotHeader, SnapshotInfo, SnapshotWriter, Term, Wal, WalOptions, snapshot_path,
};
use tidegate_stock::{GrantSequence, Ledger, Partition, StockId, StockNumber, Timestamp};
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;

/// Of two shards the first owns the first half of the partitions.
const OWN: Partition = Partition(5);
const ANOTHERS: Partition = Partition(600);

const BUYERS: u64 = 5_000;

/// Commits what is proposed at once.
struct AtOnce(Arc<CommitProgress>);

impl CommitLog for AtOnce {
    fn propose(&mut self, _: Term, group: Group) {
        self.0.commit(group.sequence);
    }
}

/// The first shard of a node, as far as its snapshots are concerned.
struct Place {
    folder: TempDir,
    identity: Identity,
    history: Arc<History>,
    wal: Wal,
}

impl Place {
    fn new(cluster: &str, node: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let identity = IdentityExpectation { cluster: Some(cluster.to_owned()), node: Some(NodeId(node)), shards: Some(2) };
        let directory = DataDirectory::open(folder.path(), &DirectoryOptions { identity, ..DirectoryOptions::new(at(0)) }).unwrap();
        let identity = directory.identity().clone();
        let wal = Wal::start(directory, [RecoveredStream::empty(STREAM)], WalOptions::default(), Arc::new(Deaf)).unwrap();
        let history = History::open(&folder.path().join("history"), &HistoryOptions::default()).unwrap();
        Self { folder, identity, history: Arc::new(history), wal }
    }

    fn files_with(&self, history: Option<Arc<History>>, disk_free_bytes_min: u64) -> SnapshotFiles {
        SnapshotFiles::new(SnapshotParts {
            directory: self.folder.path().to_owned(),
            identity: self.identity.clone(),
            shard: 0,
            rules: RULES,
            seed: 3,
            history,
            log: self.wal.reader(),
            writer: self.wal.writer(),
            disk_free_bytes_min,
        })
    }

    fn files(&self) -> SnapshotFiles {
        self.files_with(Some(Arc::clone(&self.history)), 0)
    }

    /// The names in its folder of snapshots.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder.path().join("snapshots")) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn remember(&self, partition: Partition, grants: std::ops::RangeInclusive<u64>) {
        for grant in grants {
            let value = format!("grant {grant} of partition {}", partition.0);
            let record = HistoryRecord { key: key(partition, grant), user: "ann", resolved_at: at(grant), value: value.as_bytes() };
            self.history.put(&[record]).unwrap();
        }
    }

    fn remembered(&self, partition: Partition, grant: u64) -> Option<String> {
        self.history.get(key(partition, grant)).unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    /// Makes a snapshot of a shard that has sold to many.
    async fn make(&self, consensus: Option<SnapshotConsensus>) -> SnapshotInfo {
        let progress = CommitProgress::new(GroupSequence(0));
        let sealing = Sealing::new(&[7; 32]);
        let engine = Engine::start(EngineParts {
            options: EngineOptions::default(),
            clock: Arc::new(SystemClock),
            metrics: Arc::new(EngineMetrics::default()),
            disk_low: Arc::new(AtomicBool::new(false)),
            history: None,
            shards: vec![ShardStart {
                ledger: Ledger::new(RULES, sealing.table_seed()),
                log: Box::new(AtOnce(Arc::clone(&progress))),
                progress,
                quorum: None,
            }],
            sealing,
        });
        let engine = engine.unwrap();
        let submission = |command| Submission { command, key: None, actor: ActorName::new("tests").unwrap() };
        engine.try_submit(submission(create(BUYERS))).unwrap().await.unwrap();
        let sold = engine.submit_batch((0..BUYERS).map(|buyer| submission(reserve(buyer, 1)))).outcomes().await;
        assert!(sold.iter().all(Result::is_ok));
        let mut copy = engine.copy_ledger(STREAM).await.unwrap();
        let header = SnapshotHeader { consensus, ..SnapshotHeader::new(&self.identity, STREAM, standing(copy.at()).position) };
        let path = self.folder.path().to_owned();
        let made = spawn_blocking(move || {
            let mut file = SnapshotWriter::create(&path, &header, u64::MAX).unwrap();
            while let Some(block) = copy.next_block().unwrap() {
                file.block(&block.bytes, block.items).unwrap();
            }
            file.finish().unwrap()
        });
        let made = made.await.unwrap();
        engine.stop().await;
        made
    }
}

const fn key(partition: Partition, grant: u64) -> HistoryKey {
    HistoryKey { stock: StockId { partition, number: StockNumber(1) }, sequence: GrantSequence(grant) }
}

/// Where the tests' snapshots stand.
fn standing(group: GroupSequence) -> Standing {
    let position = LogPosition {
        index: LogIndex(group.0 + 7),
        sequence: group,
        chain: ChainHash([7; 16]),
        term: Term(9),
        time: Timestamp::from_unix_ms(1_800_000_000_123),
    };
    Standing { position, leader: NodeId(2), membership: StoredMembership::default() }
}

/// What the header of a member's snapshot says: a leader, and members that are none, of no entry.
fn consensus() -> SnapshotConsensus {
    SnapshotConsensus { leader: NodeId(2), members: vec![0; 29] }
}

async fn read(files: &SnapshotFiles, snapshot: FileSnapshot) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files.open(snapshot).await?.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn newest(files: &SnapshotFiles) -> (Standing, FileSnapshot) {
    files.clone().current().await.unwrap().unwrap()
}

async fn receive(files: &SnapshotFiles, bytes: &[u8]) -> io::Result<FileSnapshot> {
    let mut incoming = files.receive(0).await?;
    for part in bytes.chunks(100_000) {
        incoming.write(part).await?;
    }
    incoming.finish().await
}

/// A place that has made a snapshot and remembers some reservations, and all that it hands over.
async fn sent() -> (Place, SnapshotInfo, Vec<u8>) {
    let from = Place::new("shop", 2);
    from.remember(OWN, 1..=300);
    from.remember(ANOTHERS, 1..=20);
    let made = from.make(Some(consensus())).await;
    let (at, snapshot) = newest(&from.files()).await;
    assert_eq!(at, standing(made.group_sequence));
    let bytes = read(&from.files(), snapshot).await.unwrap();
    (from, made, bytes)
}

#[tokio::test]
async fn a_snapshot_is_taken_with_what_has_left_memory_of_its_shard() {
    let (from, made, bytes) = sent().await;
    let to = Place::new("shop", 3);
    to.remember(OWN, 1..=2);
    let before = to.make(Some(consensus())).await;
    // Of its own, at an earlier group.
    fs::rename(&before.path, snapshot_path(to.folder.path(), STREAM, GroupSequence(1))).unwrap();
    // What it has of a grant is of before that was changed.
    let old = HistoryRecord { key: key(OWN, 1), user: "ann", resolved_at: at(1), value: b"as it was" };
    to.history.put(&[old]).unwrap();
    let received = receive(&to.files(), &bytes).await.unwrap();
    assert_eq!(to.names().len(), 2, "it does not count yet");
    assert_eq!(to.remembered(OWN, 300), None);

    let installed = to.files().install(standing(made.group_sequence), received).await.unwrap();
    assert_eq!((installed.at, installed.ledger.reservation_count() as u64), (made.group_sequence, BUYERS));
    let path = snapshot_path(to.folder.path(), STREAM, made.group_sequence);
    assert_eq!(fs::read(&path).unwrap(), fs::read(&made.path).unwrap());
    assert_eq!(to.names(), [path.file_name().unwrap().to_str().unwrap()], "the log behind an older one is of no use");
    for grant in 1..=300 {
        assert_eq!(to.remembered(OWN, grant), Some(format!("grant {grant} of partition 5")));
    }
    assert_eq!(to.remembered(ANOTHERS, 1), None, "another shard's comes with its own");
    // What was made of it can be handed on as it is, and be taken at a start.
    let (at, again) = newest(&to.files()).await;
    assert_eq!(at, standing(made.group_sequence));
    let loaded = to.files().install(at, again.clone()).await.unwrap();
    assert_eq!((loaded.at, loaded.ledger.reservation_count() as u64), (made.group_sequence, BUYERS));
    assert_eq!(read(&to.files(), again).await.unwrap(), bytes);
    drop(from);
}

#[tokio::test]
async fn what_breaks_off_leaves_nothing() {
    let (_from, _, bytes) = sent().await;
    let to = Place::new("shop", 3);
    let files = to.files();
    let lengths = (0..bytes.len()).step_by(bytes.len() / 40).chain(bytes.len() - 9..bytes.len());
    for length in lengths {
        let error = receive(&files, &bytes[..length]).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "the first {length} bytes: {error}");
        assert_eq!(to.names(), [""; 0], "the first {length} bytes");
    }
    let mut incoming = files.receive(0).await.unwrap();
    incoming.write(&bytes[..1_000]).await.unwrap();
    assert_eq!(to.names().len(), 1);
    drop(incoming);
    assert_eq!(to.names(), [""; 0]);
    // Nor does one that is whole and that consensus does not want.
    drop(receive(&files, &bytes).await.unwrap());
    assert_eq!(to.names(), [""; 0]);
    assert_eq!(to.remembered(OWN, 1), None);
}

#[tokio::test]
async fn every_changed_byte_is_refused() {
    let (_from, made, bytes) = sent().await;
    let to = Place::new("shop", 3);
    let files = to.files();
    // Of the header, of the blocks, of the footer, of the history, and behind it.
    let (file, end) = (usize::try_from(made.bytes).unwrap(), bytes.len());
    let places = (0..100)
        .step_by(9)
        .chain((100..file).step_by(file / 20))
        .chain(file - 60..file + 20)
        .chain((file + 20..end).step_by((end - file) / 20))
        .chain(end - 40..end);
    for place in places {
        let mut bad = bytes.clone();
        bad[place] ^= 1 << (place % 8);
        let error = receive(&files, &bad).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {place}: {error}");
        assert_eq!(to.names(), [""; 0], "byte {place}");
    }
    drop(receive(&files, &bytes).await.unwrap());
}

#[tokio::test]
async fn one_that_is_damaged_on_the_disk_is_named_and_not_handed_over() {
    let (from, made, bytes) = sent().await;
    let good = fs::read(&made.path).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 4;
    fs::write(&made.path, &bad).unwrap();
    let (_, snapshot) = newest(&from.files()).await;
    let error = read(&from.files(), snapshot).await.unwrap_err().to_string();
    let (path, place) = error.split_once(" is damaged at byte ").unwrap();
    assert_eq!(Path::new(path), made.path);
    let place: usize = place.split_once(':').unwrap().0.parse().unwrap();
    assert!(place <= middle && place + 1_100_000 > middle, "{error}");
    // What is open is handed over whatever becomes of its name.
    fs::write(&made.path, &good).unwrap();
    let (_, snapshot) = newest(&from.files()).await;
    fs::remove_file(&made.path).unwrap();
    assert_eq!(read(&from.files(), snapshot).await.unwrap(), bytes);
    assert!(from.files().current().await.unwrap().is_none());
}

#[tokio::test]
async fn what_a_node_cannot_use_is_refused_with_the_reason() {
    let (from, made, bytes) = sent().await;
    let refused = async |files: SnapshotFiles| receive(&files, &bytes).await.map(drop).unwrap_err().to_string();
    let other = Place::new("other", 3);
    let error = refused(other.files()).await;
    assert!(error.ends_with("has cluster shop where other was expected"), "{error}");
    let to = Place::new("shop", 3);
    let error = refused(to.files_with(None, 0)).await;
    assert!(error.contains("not the history of its shard") && error.ends_with("this node keeps no history"), "{error}");
    let error = refused(to.files_with(None, u64::MAX)).await;
    assert!(error.contains("free bytes, and a snapshot from another node must leave 18446744073709551615"), "{error}");
    assert!(to.files().receive(1).await.is_err(), "it is of another shard");
    // It was sent as another one.
    let received = receive(&to.files(), &bytes).await.unwrap();
    let told = Standing { leader: NodeId(1), ..standing(made.group_sequence) };
    let error = to.files().install(told, received).await.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("the snapshot stands at "), "{error}");
    assert_eq!((to.names(), other.names()), (vec![], vec![]));

    // A node that stands alone hands nothing over.
    let alone = Place::new("shop", 2);
    let path: PathBuf = alone.make(None).await.path;
    assert!(alone.files().current().await.unwrap().is_none());
    let file = fs::read(path).unwrap();
    let archive = &bytes[usize::try_from(made.bytes).unwrap()..bytes.len() - 8];
    let made_up = [&file[..], archive, &(file.len() as u64).to_be_bytes()].concat();
    let error = receive(&to.files(), &made_up).await.map(drop).unwrap_err().to_string();
    assert!(error.ends_with("was made before the node was a member of a cluster, and is handed to nobody"), "{error}");
    drop(from);
}
