//! The process whose file operations are traced: it keeps a data directory as a node does, with small segments, snapshots and compaction,
//! and says what is acknowledged. Also how the same directory is opened again. Judges nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tidegate_persistence::{
    DataDirectory, DirectoryOptions, Durability, GroupSequence, IdentityExpectation, SnapshotHeader, SnapshotWriter, StreamId,
    SyncReport, Wal, WalError, WalListener, WalOptions, remove_older, remove_unfinished, snapshots,
};
use tidegate_stock::Timestamp;

use crate::disk::workload::{History, Plan, Size};

/// When the directory says that it was made.
const CREATED_AT: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);

/// Small, so that the log goes on in a new segment every few groups.
const SEGMENT_BYTES_MAX: u64 = 6 * 1024;

/// Groups between two snapshots of every stream.
const SNAPSHOT_EVERY: usize = 8;

/// Snapshots of a stream that are kept.
pub(crate) const SNAPSHOTS_KEPT: usize = 2;

/// Bytes of a snapshot between two waits for the disk.
const PACE_BYTES: u64 = 4 * 1024;

const BLOCKS: u64 = 4;
const BLOCK_BYTES: usize = 1_500;

/// Groups of a run.
const SIZE: Size = Size { groups: 44, events_max: 60 };

/// What is written: the same for the same seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let plan = Plan::new(&mut StdRng::seed_from_u64(seed), SIZE);
    Plan { durability: Durability::PowerLoss, ..plan }
}

/// How the directory of a plan is opened.
pub(crate) fn options(history: &History) -> DirectoryOptions {
    let shards = u16::try_from(history.0.len()).expect("a plan has few streams");
    let identity = IdentityExpectation { shards: Some(shards), ..IdentityExpectation::default() };
    DirectoryOptions { identity, segment_bytes_max: SEGMENT_BYTES_MAX, ..DirectoryOptions::new(CREATED_AT) }
}

/// The blocks of the snapshot of `stream` behind group `sequence`.
pub(crate) fn blocks(seed: u64, stream: StreamId, sequence: GroupSequence) -> impl Iterator<Item = Vec<u8>> {
    (0..BLOCKS).map(move |block| {
        let text = format!("{seed} {stream} {sequence} {block} ");
        text.bytes().cycle().take(BLOCK_BYTES).collect()
    })
}

/// What the process says: one line for each thing that lasts from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// The directory is open.
    Open,
    /// Every group of a stream up to this one is committed.
    Committed(StreamId, GroupSequence),
    /// A snapshot has its name.
    Snapshot(StreamId, GroupSequence),
    /// The log has stopped in order.
    Stopped,
}

impl Said {
    fn say(self) {
        println!(
            "{}",
            match self {
                Self::Open => "open".to_owned(),
                Self::Committed(stream, sequence) => format!("committed {} {}", stream.0, sequence.0),
                Self::Snapshot(stream, sequence) => format!("snapshot {} {}", stream.0, sequence.0),
                Self::Stopped => "stopped".to_owned(),
            }
        );
    }

    /// What a line says.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let what = words.next()?;
        let mut place = || Some((StreamId(words.next()?.parse().ok()?), GroupSequence(words.next()?.parse().ok()?)));
        match what {
            "open" => Some(Self::Open),
            "committed" => place().map(|(stream, sequence)| Self::Committed(stream, sequence)),
            "snapshot" => place().map(|(stream, sequence)| Self::Snapshot(stream, sequence)),
            "stopped" => Some(Self::Stopped),
            _ => None,
        }
    }
}

/// Writes all of the plan of `seed` into the directory at `path`, which is missing.
pub(crate) fn write(path: &Path, seed: u64) -> Result<(), String> {
    let Plan { history, script, value_bytes_max, durability } = plan(seed);
    let directory = DataDirectory::open(path, &options(&history)).map_err(failed("it does not open"))?;
    remove_unfinished(path).map_err(failed("the snapshots"))?;
    Said::Open.say();
    let identity = directory.identity().clone();
    let mut tails = Vec::new();
    for stream in history.0.keys() {
        tails.push(directory.replay(*stream, |_| Ok(())).map_err(failed("it is not read"))?);
    }
    let (sender, commits) = mpsc::channel();
    let options =
        WalOptions { durability, disk_free_bytes_min: Some(1), value_bytes_max: Some(value_bytes_max), ..WalOptions::default() };
    let wal = Wal::start(directory, tails, options, Arc::new(Teller(sender))).map_err(failed("the log"))?;
    let (log, reader) = (wal.writer(), wal.reader());
    let mut committed: BTreeMap<StreamId, GroupSequence> = BTreeMap::new();
    let mut written = 0;
    let mut wanted = SNAPSHOT_EVERY;
    for handover in script {
        let mut open = BTreeMap::new();
        for (stream, group) in handover.groups {
            open.insert(stream, group.sequence);
            log.append(stream, group);
            written += 1;
        }
        while open.iter().any(|(stream, sequence)| committed.get(stream) < Some(sequence)) {
            let (stream, sequence) = commits.recv().map_err(|_| "the log is gone".to_owned())??;
            committed.insert(stream, sequence);
        }
        if written < wanted {
            continue;
        }
        wanted += SNAPSHOT_EVERY;
        for (stream, sequence) in &committed {
            let position = reader.position(*stream, *sequence).map_err(failed("a position"))?;
            let Some(position) = position else { continue };
            let header = SnapshotHeader::new(&identity, *stream, position);
            let made = || {
                let mut writer = SnapshotWriter::create(path, &header, PACE_BYTES)?;
                for block in blocks(seed, *stream, *sequence) {
                    writer.block(&block, 1)?;
                }
                writer.finish()
            };
            made().map_err(failed("a snapshot"))?;
            Said::Snapshot(*stream, *sequence).say();
            remove_older(path, *stream, SNAPSHOTS_KEPT).map_err(failed("older snapshots"))?;
        }
        let mut keep_from = BTreeMap::new();
        for stream in history.0.keys() {
            let kept = snapshots(path, *stream).map_err(failed("the snapshots"))?;
            if let Some(older) = kept.get(SNAPSHOTS_KEPT - 1) {
                let position = reader.position(*stream, older.group_sequence);
                let position = position.map_err(failed("a position"))?;
                keep_from.extend(position.map(|position| (*stream, position.index.next())));
            }
        }
        reader.compact(&keep_from).map_err(failed("compaction"))?;
    }
    wal.stop().map_err(failed("the stop"))?;
    Said::Stopped.say();
    Ok(())
}

/// An error of `what`, in words.
fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Passes on what the log says: to whoever reads the output at once, and to the loop that writes.
struct Teller(Sender<Result<(StreamId, GroupSequence), String>>);

impl WalListener for Teller {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        Said::Committed(stream, sequence).say();
        // The loop ends only with the process.
        let _ = self.0.send(Ok((stream, sequence)));
    }

    fn synced(&self, _report: &SyncReport) {}

    fn disk_low(&self, _is_low: bool) {}

    fn failed(&self, error: &WalError) {
        let _ = self.0.send(Err(format!("the log failed: {error}")));
    }
}
