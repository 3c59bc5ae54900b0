//! Recovery: opening a data directory with a log of many reservations, and replaying it into a ledger.
//!
//! The files were written moments before, so the operating system still has them in memory: this measures the work, not the disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_engine::replay_log;
use tidegate_persistence::{
    DataDirectory, DirectoryOptions, Durability, GroupSequence, RecoveredStream, StreamId, Wal, WalOptions,
};
use tidegate_stock::Ledger;

use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, Run, medians, number, per_second};
use crate::heard::messenger;
use crate::machine::temporary_directory;
use crate::sample::{RULES, SEED, START, group, stock_id};

/// The log that is written and replayed.
const STREAM: StreamId = StreamId::log(0);

/// Groups handed to the log before the next wait.
const GROUPS_IN_FLIGHT: u64 = 8;

/// What to measure.
#[derive(Debug, Clone)]
pub struct RecoveryParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// Reservations in the log.
    pub reservations: u64,
    /// Reservations in a group of it.
    pub group_events: u64,
    /// How often it is opened and replayed.
    pub runs: usize,
}

impl RecoveryParameters {
    /// For figures: a million reservations in groups of 1,000, three times.
    pub const fn full(directory: Option<PathBuf>) -> Self {
        Self { directory, reservations: 1_000_000, group_events: 1_000, runs: 3 }
    }

    /// For tests: 10,000 reservations, once.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self { reservations: 10_000, runs: 1, ..Self::full(directory) }
    }
}

/// Measures. Fails unless every reservation is back each time.
pub fn run(parameters: &RecoveryParameters) -> Result<Figure, BenchError> {
    let directory = temporary_directory(parameters.directory.as_ref())?;
    let path = directory.path().join("data");
    write_log(parameters, &path)?;
    let (mut runs, mut open, mut replay, mut bytes) = (Vec::new(), Latencies::default(), Latencies::default(), 0);
    for _ in 0..parameters.runs {
        let recovered = recover(parameters, &path)?;
        let elapsed = recovered.open + recovered.replay;
        let mut latencies = Latencies::default();
        latencies.record(elapsed);
        runs.push(Run { rate: per_second(recovered.stream.events, elapsed), latency: latencies.percentiles() });
        open.record(recovered.open);
        replay.record(recovered.replay);
        bytes = recovered.stream.bytes;
    }
    let (rate, spread, total) = medians(&runs);
    let events = parameters.reservations + 1;
    Ok(Figure {
        bench: "recovery",
        what: format!("open and replay {} reservations, {} in a group", parameters.reservations, parameters.group_events),
        durability: "-".to_owned(),
        group_events: Some(number(parameters.group_events)),
        unit: "events/s",
        rate,
        runs: runs.len(),
        spread,
        latency: None,
        against: None,
        more: vec![
            Detail { name: "seconds", value: total.p50_us / 1e6 },
            Detail { name: "open_seconds", value: open.percentiles().p50_us / 1e6 },
            Detail { name: "replay_seconds", value: replay.percentiles().p50_us / 1e6 },
            Detail { name: "replay_only_events_per_second", value: number(events) / (replay.percentiles().p50_us / 1e6) },
            Detail { name: "log_bytes_per_reservation", value: number(bytes) / number(parameters.reservations) },
        ],
    })
}

fn write_log(parameters: &RecoveryParameters, path: &Path) -> Result<(), BenchError> {
    let opened = DataDirectory::open(path, &DirectoryOptions::new(START)).map_err(BenchError::wrong)?;
    let (listener, waiting) = messenger();
    // What is measured is reading; the stop below makes it as durable as any log.
    let options = WalOptions { durability: Durability::None, ..WalOptions::default() };
    let wal = Wal::start(opened, [RecoveredStream::empty(STREAM)], options, listener).map_err(BenchError::wrong)?;
    let writer = wal.writer();
    let (mut sequence, mut granted) = (GroupSequence(0), 0);
    while granted < parameters.reservations {
        let events = parameters.group_events.min(parameters.reservations - granted);
        sequence = sequence.next();
        writer.append(STREAM, group(sequence, granted, events, parameters.reservations));
        granted += events;
        if sequence.0 % GROUPS_IN_FLIGHT == 0 || granted == parameters.reservations {
            waiting.wait_committed(sequence)?;
        }
    }
    wal.stop().map_err(BenchError::wrong)
}

struct Recovered {
    open: Duration,
    replay: Duration,
    stream: RecoveredStream,
}

fn recover(parameters: &RecoveryParameters, path: &Path) -> Result<Recovered, BenchError> {
    let start = Instant::now();
    let directory = DataDirectory::open_existing(path, &DirectoryOptions::new(START)).map_err(BenchError::wrong)?;
    let open = start.elapsed();
    let start = Instant::now();
    let (ledger, stream) = replay_log(&directory, STREAM, None, Ledger::new(RULES, SEED)).map_err(BenchError::wrong)?;
    let replay = start.elapsed();
    expect_equal("recovered events", stream.events, parameters.reservations + 1)?;
    let reserved = ledger.stock(stock_id()).map_or(0, |stock| stock.reserved);
    expect_equal("recovered reserved units", reserved, parameters.reservations)?;
    expect_equal("recovered reservations", ledger.reservation_count() as u64, parameters.reservations)?;
    Ok(Recovered { open, replay, stream })
}
