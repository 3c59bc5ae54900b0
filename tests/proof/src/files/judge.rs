//! Opens what a crash has left with the real code, and says whether everything that was acknowledged by then is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_persistence::{
    DataDirectory, Durability, GroupSequence, Identity, LogPosition, RecoveredGroup, RecoveredStream, SnapshotExpectation,
    SnapshotInfo, SnapshotReader, StreamId, SyncReport, Wal, WalError, WalListener, WalOptions, remove_unfinished, snapshots,
};

use super::writer::{SNAPSHOTS_KEPT, Said, blocks, options};
use crate::disk::workload::{Made, Plan};

/// What was acknowledged by the moment of a crash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged {
    committed: BTreeMap<StreamId, GroupSequence>,
    snapshots: BTreeMap<StreamId, GroupSequence>,
    /// How much of the output was read.
    read: usize,
}

impl Acknowledged {
    /// Takes in what was said since the last time; a line that is not whole yet was not said.
    pub(crate) fn hear(&mut self, said: &[u8]) -> Result<(), String> {
        while let Some(length) = said[self.read..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&said[self.read..self.read + length]).into_owned();
            self.read += length + 1;
            match Said::read(&line).ok_or_else(|| format!("it said {line:?}"))? {
                Said::Committed(stream, sequence) => self.committed.insert(stream, sequence),
                Said::Snapshot(stream, sequence) => self.snapshots.insert(stream, sequence),
                Said::Open | Said::Stopped => None,
            };
        }
        Ok(())
    }

    /// Groups and snapshots.
    pub(crate) fn count(&self) -> u64 {
        self.committed.values().chain(self.snapshots.values()).map(|sequence| sequence.0).sum()
    }
}

/// What is written, and what of it must be there.
#[derive(Debug)]
pub(crate) struct Judge {
    seed: u64,
    plan: Plan,
}

/// What a directory showed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shown {
    pub(crate) snapshots: u64,
    pub(crate) groups: u64,
    pub(crate) tail_parts: u64,
}

impl Judge {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, plan: super::writer::plan(seed) }
    }

    /// Looks at the directory at `path`. If it `goes_on` the rest of the plan is written behind what is there, and it is looked at again.
    pub(crate) fn look(&self, path: &Path, acknowledged: &Acknowledged, goes_on: bool) -> Result<Shown, String> {
        let (shown, directory, tails) = self.open(path, acknowledged)?;
        if !goes_on {
            return Ok(shown);
        }
        let (sender, failures) = std::sync::mpsc::channel();
        let options = WalOptions {
            durability: Durability::PowerLoss,
            disk_free_bytes_min: Some(1),
            value_bytes_max: Some(self.plan.value_bytes_max),
            ..WalOptions::default()
        };
        let wal = Wal::start(directory, tails.iter().copied(), options, Arc::new(Failures(sender)));
        let wal = wal.map_err(|error| format!("the log does not go on: {error}"))?;
        let mut all = acknowledged.clone();
        for tail in &tails {
            let made = &self.plan.history.0[&tail.stream];
            for made in &made[place(tail.last_sequence)..] {
                wal.writer().append(tail.stream, made.group.clone());
            }
            all.committed.extend(made.last().map(|made| (tail.stream, made.group.sequence)));
        }
        wal.stop().map_err(|error| format!("the log does not go on: {error}"))?;
        if let Ok(failure) = failures.try_recv() {
            return Err(format!("the log failed as it went on: {failure}"));
        }
        self.open(path, &all).map_err(|what| format!("after it went on: {what}"))?;
        Ok(shown)
    }

    fn open(&self, path: &Path, acknowledged: &Acknowledged) -> Result<(Shown, DataDirectory, Vec<RecoveredStream>), String> {
        let history = &self.plan.history;
        let directory = DataDirectory::open(path, &options(history)).map_err(|error| format!("it does not open: {error}"))?;
        remove_unfinished(path).map_err(|error| format!("unfinished snapshots are not removed: {error}"))?;
        let mut shown = Shown::default();
        let mut tails = Vec::new();
        for (stream, made) in &history.0 {
            let at = |what: String| format!("{stream}: {what}");
            let kept = snapshots(path, *stream).map_err(|error| at(error.to_string()))?;
            let mut positions = Vec::new();
            for snapshot in &kept {
                positions.push(self.snapshot(directory.identity(), snapshot).map_err(at)?);
                shown.snapshots += 1;
            }
            let newest = kept.first().map_or(GroupSequence(0), |newest| newest.group_sequence);
            let made_snapshot = acknowledged.snapshots.get(stream).copied().unwrap_or(GroupSequence(0));
            if newest < made_snapshot {
                return Err(at(format!("the newest snapshot is of group {newest} where one of {made_snapshot} was made")));
            }
            // From the older of two, in case the newer is damaged; without two, from the beginning.
            let older = positions.get(SNAPSHOTS_KEPT - 1);
            let from = [older, positions.first().filter(|_| older.is_some())];
            let mut tail = None;
            for start in if older.is_some() { &from[..] } else { &from[..1] } {
                let read = replay(&directory, *stream, *start, made).map_err(at)?;
                let committed = acknowledged.committed.get(stream).copied().unwrap_or(GroupSequence(0));
                if read.last_sequence < committed {
                    return Err(at(format!("it ends with group {} where {committed} was acknowledged", read.last_sequence)));
                }
                if read.last_sequence < newest {
                    return Err(at(format!("it ends with group {} before its snapshot of {newest}", read.last_sequence)));
                }
                shown.groups += read.groups;
                shown.tail_parts += u64::from(read.discarded_tail_parts);
                tail = Some(read);
            }
            tails.extend(tail);
        }
        Ok((shown, directory, tails))
    }

    /// Reads a snapshot to its end: whatever has the name of one must be whole.
    fn snapshot(&self, identity: &Identity, snapshot: &SnapshotInfo) -> Result<LogPosition, String> {
        let SnapshotInfo { path, stream, group_sequence, .. } = snapshot;
        let read = SnapshotReader::open(path, &SnapshotExpectation::new(identity, *stream));
        let mut reader = read.map_err(|error| error.to_string())?;
        for expected in blocks(self.seed, *stream, *group_sequence) {
            if reader.block().map_err(|error| error.to_string())? != Some(expected.as_slice()) {
                return Err(format!("{} holds another block than was written", path.display()));
            }
        }
        match reader.block() {
            Ok(None) => Ok(reader.header().position),
            Ok(Some(_)) => Err(format!("{} holds more than was written", path.display())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Flips a bit of every finished snapshot in the directory at `path`, one after the other, at the places that `pick` gives for its
    /// length. Gives how many flips there were, and those that nobody named.
    pub(crate) fn flip(&self, path: &Path, mut pick: impl FnMut(usize) -> Vec<usize>) -> Result<(u64, Vec<String>), String> {
        let directory = DataDirectory::open_existing(path, &options(&self.plan.history)).map_err(|error| error.to_string())?;
        let identity = directory.identity();
        let (mut flips, mut unnamed) = (0, Vec::new());
        for stream in self.plan.history.0.keys() {
            for snapshot in snapshots(path, *stream).map_err(|error| error.to_string())? {
                let whole = std::fs::read(&snapshot.path).map_err(|error| error.to_string())?;
                for bit in pick(whole.len() * 8) {
                    let mut bytes = whole.clone();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    std::fs::write(&snapshot.path, &bytes).map_err(|error| error.to_string())?;
                    flips += 1;
                    let read = self.snapshot(identity, &snapshot);
                    let named = read.as_ref().is_err_and(|what| what.contains(&*snapshot.path.to_string_lossy()));
                    if !named {
                        unnamed.push(format!("bit {bit} of {} flips, and it reads {read:?}", snapshot.path.display()));
                    }
                }
                std::fs::write(&snapshot.path, &whole).map_err(|error| error.to_string())?;
            }
        }
        Ok((flips, unnamed))
    }
}

/// Reads `stream` from `start` on; every group must be what was written.
fn replay(
    directory: &DataDirectory,
    stream: StreamId,
    start: Option<&LogPosition>,
    made: &[Arc<Made>],
) -> Result<RecoveredStream, String> {
    let mut next = start.map_or(0, |start| place(start.sequence));
    let mut wrong = None;
    let mut visit = |group: &RecoveredGroup<'_>| {
        let is_right = made.get(next).is_some_and(|made| {
            (made.group.sequence, made.group.time, &*made.group.payload) == (group.sequence, group.time, group.payload)
        });
        next += 1;
        if !is_right {
            wrong.get_or_insert_with(|| format!("group {} is not what was written", group.sequence));
        }
        Ok(())
    };
    let read = directory.replay_from(stream, start, &mut visit).map_err(|error| error.to_string())?;
    wrong.map_or(Ok(read), Err)
}

fn place(sequence: GroupSequence) -> usize {
    usize::try_from(sequence.0).expect("a plan has few groups")
}

/// Hears only whether the log has failed.
struct Failures(std::sync::mpsc::Sender<String>);

impl WalListener for Failures {
    fn committed(&self, _stream: StreamId, _sequence: GroupSequence) {}

    fn synced(&self, _report: &SyncReport) {}

    fn disk_low(&self, _is_low: bool) {}

    fn failed(&self, error: &WalError) {
        // Whoever started the log looks afterwards.
        let _ = self.0.send(error.to_string());
    }
}
