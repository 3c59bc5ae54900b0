//! The log alone: one group at a time, from one event to thousands, beside a bare `write` and `fdatasync` of as many bytes.
//!
//! The floor overwrites a file that was written and synced before, so that a sync has no metadata to write; a file that grows with
//! every write stands beside it. All sides take turns within one run, because the disk itself drifts from minute to minute.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_persistence::{
    DataDirectory, DirectoryOptions, Durability, Group, GroupSequence, RecoveredStream, StreamId, SyncReport, Wal, WalOptions,
};

use crate::error::{BenchError, expect_equal};
use crate::figure::{Against, Detail, Figure, Latencies, Run, mean, median, medians, number, per_second};
use crate::heard::{Waiting, messenger};
use crate::machine::temporary_directory;
use crate::sample::{START, group};

/// The log that is written to.
const STREAM: StreamId = StreamId::log(0);

/// Length of the file that the floor overwrites from front to back, again and again.
const FLOOR_BYTES: u64 = 32 * 1024 * 1024;

/// What to measure.
#[derive(Debug, Clone)]
pub struct GroupsParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What commits survive.
    pub durability: Durability,
    /// Events in a group, each size measured for itself.
    pub group_events: Vec<u64>,
    /// Turns of each side.
    pub runs: usize,
    /// Length of a turn.
    pub measured: Duration,
    /// Groups after which a turn ends, whatever the time.
    pub groups_max: u64,
}

impl GroupsParameters {
    /// For figures: groups of 1 to 10,000 events, six turns of 0.4 s for each side.
    pub fn full(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            durability: Durability::PowerLoss,
            group_events: vec![1, 10, 100, 1_000, 10_000],
            runs: 6,
            measured: Duration::from_millis(400),
            groups_max: u64::MAX,
        }
    }

    /// For tests: two turns of at most three groups.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self { group_events: vec![1, 1_000], runs: 2, measured: Duration::from_secs(20), groups_max: 3, ..Self::full(directory) }
    }
}

/// Measures.
pub fn run(parameters: &GroupsParameters) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for events in &parameters.group_events {
        figures.extend(measure(parameters, *events)?);
    }
    Ok(figures)
}

/// The log and the group that is written to it again and again; the log looks at its place and length, not into it.
struct Side {
    wal: Wal,
    waiting: Waiting,
    group: Group,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Log,
    Floor,
    Growing,
}

fn measure(parameters: &GroupsParameters, events: u64) -> Result<[Figure; 3], BenchError> {
    let directory = temporary_directory(parameters.directory.as_ref())?;
    let opened = DataDirectory::open(&directory.path().join("data"), &DirectoryOptions::new(START)).map_err(BenchError::wrong)?;
    let (listener, waiting) = messenger();
    let options = WalOptions { durability: parameters.durability, ..WalOptions::default() };
    let wal = Wal::start(opened, [RecoveredStream::empty(STREAM)], options, listener).map_err(BenchError::wrong)?;
    // The first group's grants follow others, so that it is not longer by the product's opening.
    let mut side = Side { wal, waiting, group: group(GroupSequence(1), 1, events, 0) };

    // One group before the first turn: it gives the bytes, and makes what only a first write makes.
    let (_, first) = side.write_one()?;
    let bytes = vec![0xa5; usize::try_from(first.bytes).map_err(BenchError::wrong)?];
    let mut floor = Plain::create(&directory.path().join("floor"), FLOOR_BYTES)?;
    let mut growing = Plain::create(&directory.path().join("growing"), 0)?;

    let (mut logs, mut floors, mut growings, mut reports) = (Vec::new(), Vec::new(), Vec::new(), SyncReport::default());
    for turn in 0..parameters.runs {
        let mut turns = [Turn::Log, Turn::Floor, Turn::Growing];
        let first = turn % turns.len();
        turns.rotate_left(first);
        for turn in turns {
            match turn {
                Turn::Floor => floors.push(turn_of(parameters, || floor.write(&bytes))?),
                Turn::Growing => growings.push(turn_of(parameters, || growing.write(&bytes))?),
                Turn::Log => logs.push(turn_of(parameters, || {
                    let (latency, report) = side.write_one()?;
                    reports.groups += report.groups;
                    reports.events += report.events;
                    reports.append += report.append;
                    reports.sync += report.sync;
                    Ok(latency)
                })?),
            }
        }
    }
    side.wal.stop().map_err(BenchError::wrong)?;
    expect_equal("events in all groups", reports.events, reports.groups * events)?;

    let group_bytes = number(bytes.len() as u64);
    let per_group = |rate: f64| {
        vec![
            Detail { name: "events_per_second", value: rate * number(events) },
            Detail { name: "mb_per_second", value: rate * group_bytes / 1e6 },
        ]
    };
    let beside = |runs: &[Run]| {
        let ratios: Vec<f64> = runs.iter().zip(&floors).map(|(run, floor)| run.rate / floor.rate).collect();
        Some(Against { floor: "write + fdatasync", ratio: median(&ratios) })
    };
    let mut log = figure(format!("groups of {events} events, one at a time"), parameters.durability.to_string(), events, &logs);
    log.more = per_group(log.rate);
    log.more.push(Detail { name: "group_bytes", value: group_bytes });
    log.more.push(Detail { name: "append_us", value: mean(reports.append.as_secs_f64() * 1e6, reports.groups) });
    log.more.push(Detail { name: "sync_us", value: mean(reports.sync.as_secs_f64() * 1e6, reports.groups) });
    log.against = beside(&logs);
    let mut plain =
        figure(format!("write + fdatasync of {} bytes, in place", bytes.len()), "power_loss".to_owned(), events, &floors);
    plain.more = per_group(plain.rate);
    let what = format!("write + fdatasync of {} bytes, growing file", bytes.len());
    let mut grown = figure(what, "power_loss".to_owned(), events, &growings);
    grown.more = per_group(grown.rate);
    grown.against = beside(&growings);
    Ok([log, plain, grown])
}

/// A plain file: overwritten from front to back if it has a length, growing if not.
#[derive(Debug)]
pub struct Plain {
    file: File,
    length: u64,
    offset: u64,
}

impl Plain {
    /// Makes the file, of `length` bytes that are written and synced; a write must not be longer, unless that is 0.
    pub fn create(path: &Path, length: u64) -> Result<Self, BenchError> {
        let create = || {
            let file = File::create(path)?;
            file.write_all_at(&vec![0x5a; usize::try_from(length).unwrap_or(0)], 0)?;
            file.sync_all()?;
            Ok(file)
        };
        Ok(Self { file: create().map_err(BenchError::io("a plain file"))?, length, offset: 0 })
    }

    /// Writes `bytes` behind the ones before and syncs them: how long that took. They survive a loss of power at return.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Duration, BenchError> {
        let count = bytes.len() as u64;
        if self.length > 0 && self.offset + count > self.length {
            self.offset = 0;
        }
        let start = Instant::now();
        let written = self.file.write_all_at(bytes, self.offset).and_then(|()| self.file.sync_data());
        written.map_err(BenchError::io("a plain file"))?;
        self.offset += count;
        Ok(start.elapsed())
    }
}

impl Side {
    /// Writes the group once more and waits for it.
    fn write_one(&mut self) -> Result<(Duration, SyncReport), BenchError> {
        let group = self.group.clone();
        let sequence = group.sequence;
        self.group.sequence = sequence.next();
        let start = Instant::now();
        self.wal.writer().append(STREAM, group);
        let (committed_at, report) = self.waiting.wait_committed(sequence)?;
        Ok((committed_at - start, report))
    }
}

fn turn_of(parameters: &GroupsParameters, mut write: impl FnMut() -> Result<Duration, BenchError>) -> Result<Run, BenchError> {
    let (start, mut latencies) = (Instant::now(), Latencies::default());
    while start.elapsed() < parameters.measured && latencies.count() < parameters.groups_max {
        latencies.record(write()?);
    }
    Ok(Run { rate: per_second(latencies.count(), start.elapsed()), latency: latencies.percentiles() })
}

fn figure(what: String, durability: String, events: u64, runs: &[Run]) -> Figure {
    let (rate, spread, latency) = medians(runs);
    Figure {
        bench: "groups",
        what,
        durability,
        group_events: Some(number(events)),
        unit: "groups/s",
        rate,
        runs: runs.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: Vec::new(),
    }
}
