//! The log's space under a steady load: snapshots are made and segments given back while units are reserved and released again.
//!
//! Everything that a snapshot makes superfluous is given back at once, as if no feed needed it, and two snapshots are kept. Space is what
//! the files take on the disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_persistence::{Durability, SNAPSHOT_BYTES_PER_SECOND_DEFAULT, remove_older, snapshots};
use tidegate_stock::Command;

use crate::callers::closed_loop;
use crate::copies;
use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, mean, number, per_second};
use crate::machine::allocated_bytes;
use crate::node::{Node, NodeParameters, STREAM};
use crate::sample::{create_unlimited, grant_id, reserve_named, sku};

/// Units on sale.
const UNITS: u64 = 1_000_000;

/// Users who come again and again.
const USERS: u64 = 50_000;

/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

/// Time between two looks at the log's space.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What to measure.
#[derive(Debug, Clone)]
pub struct CompactionParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What an answer survives.
    pub durability: Durability,
    /// Bytes of values in a segment of the log.
    pub segment_bytes_max: u64,
    /// Bytes that the log grows by between two snapshots.
    pub snapshot_log_bytes: u64,
    /// Commands in flight.
    pub in_flight: usize,
    /// How long the load lasts.
    pub measured: Duration,
    /// Commands at most.
    pub commands_max: u64,
}

impl CompactionParameters {
    /// For figures: segments of 8 MiB, a snapshot every 32 MiB, 1,024 in flight for 40 s.
    pub const fn full(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            durability: Durability::PowerLoss,
            segment_bytes_max: 8 * 1024 * 1024,
            snapshot_log_bytes: 32 * 1024 * 1024,
            in_flight: 1_024,
            measured: Duration::from_secs(40),
            commands_max: u64::MAX,
        }
    }

    /// For tests: segments of 32 KiB, a snapshot every 64 KiB, 20,000 commands.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self {
            segment_bytes_max: 32 * 1024,
            snapshot_log_bytes: 64 * 1024,
            measured: Duration::from_secs(30),
            commands_max: 20_000,
            ..Self::full(directory)
        }
    }
}

/// What the upkeep saw.
#[derive(Debug, Default)]
struct Space {
    peak: u64,
    snapshots: u64,
    segments: u64,
    given_back: u64,
    longest_compaction: Duration,
}

/// Measures. Fails unless every unit is available again in the end, and space came back.
pub fn run(parameters: &CompactionParameters) -> Result<Vec<Figure>, BenchError> {
    let node_parameters = NodeParameters {
        segment_bytes_max: parameters.segment_bytes_max,
        ..NodeParameters::new(parameters.directory.clone(), parameters.durability)
    };
    let (node, _folder) = Node::start(&node_parameters)?;
    let sku = sku();
    node.accept(create_unlimited(&sku, UNITS))?;
    let (mut latencies, mut sent, ended) = (Latencies::default(), 0, AtomicBool::new(false));
    let start = Instant::now();
    let (elapsed, space) = thread::scope(|scope| {
        let upkeep = scope.spawn(|| keep_up(&node, parameters, &ended));
        let next = |now: Instant| {
            // Ends behind a release, so that nothing stays reserved.
            let goes_on = sent % 2 == 1 || (now - start < parameters.measured && sent < parameters.commands_max);
            goes_on.then(|| {
                sent += 1;
                let reservation = grant_id(sent.div_ceil(2));
                if sent % 2 == 1 { reserve_named(&sku, sent / 2 % USERS) } else { Command::Release { reservation, quantity: None } }
            })
        };
        let elapsed = closed_loop(&node, parameters.in_flight, next, |outcome, latency| {
            outcome.map_err(BenchError::wrong)?;
            latencies.record(latency);
            Ok(())
        });
        ended.store(true, Ordering::Release);
        upkeep.thread().unpark();
        (elapsed, upkeep.join())
    });
    let elapsed = elapsed?;
    let mut space = space.map_err(|_| BenchError::wrong("the upkeep panicked"))??;
    let log = node.data.join("log");
    let at_end_of_load = allocated_bytes(&log).map_err(BenchError::io("the log's files"))?;
    // Two snapshots of the end, because the older of two decides.
    for _ in 0..SNAPSHOTS_KEPT {
        node.accept(reserve_named(&sku, 0))?;
        snapshot_and_compact(&node, &mut space)?;
    }
    let in_the_end = allocated_bytes(&log).map_err(BenchError::io("the log's files"))?;
    let of_snapshots = allocated_bytes(&node.data.join("snapshots")).map_err(BenchError::io("the snapshots"))?;
    let written = node.engine.log_bytes_written();
    let reserved = node.engine.stock(&sku).map_or(u64::MAX, |stock| stock.view.reserved);
    expect_equal("units reserved", reserved, SNAPSHOTS_KEPT as u64)?;
    if space.segments == 0 {
        return Err(BenchError::wrong("no segment was given back"));
    }
    node.stop()?;
    let mib = |bytes: u64| number(bytes) / 1_048_576.0;
    Ok(vec![Figure {
        bench: "compaction",
        what: format!(
            "reserve and release, {} in flight, segments of {} KiB, a snapshot every {} KiB",
            parameters.in_flight,
            parameters.segment_bytes_max / 1_024,
            parameters.snapshot_log_bytes / 1_024
        ),
        durability: parameters.durability.to_string(),
        group_events: None,
        unit: "commands/s",
        rate: per_second(sent, elapsed),
        runs: 1,
        spread: 0.0,
        latency: Some(latencies.percentiles()),
        against: None,
        more: vec![
            Detail { name: "max_ms", value: latencies.max_ms() },
            Detail { name: "written_mib", value: mib(written) },
            Detail { name: "log_peak_mib", value: mib(space.peak) },
            Detail { name: "log_at_end_of_load_mib", value: mib(at_end_of_load) },
            Detail { name: "log_in_the_end_mib", value: mib(in_the_end) },
            Detail { name: "snapshots_mib", value: mib(of_snapshots) },
            Detail { name: "given_back_mib", value: mib(space.given_back) },
            Detail { name: "given_back_per_byte_written", value: mean(number(space.given_back), written) },
            Detail { name: "segments_given_back", value: number(space.segments) },
            Detail { name: "snapshots", value: number(space.snapshots) },
            Detail { name: "longest_compaction_ms", value: space.longest_compaction.as_secs_f64() * 1e3 },
        ],
    }])
}

/// Makes a snapshot and gives space back whenever the log has grown by enough, until the load has ended.
fn keep_up(node: &Node, parameters: &CompactionParameters, ended: &AtomicBool) -> Result<Space, BenchError> {
    let (mut space, mut at_snapshot) = (Space::default(), 0);
    let log = node.data.join("log");
    while !ended.load(Ordering::Acquire) {
        space.peak = space.peak.max(allocated_bytes(&log).map_err(BenchError::io("the log's files"))?);
        let written = node.engine.log_bytes_written();
        if written - at_snapshot >= parameters.snapshot_log_bytes {
            at_snapshot = written;
            snapshot_and_compact(node, &mut space)?;
        }
        thread::park_timeout(LOOK_INTERVAL);
    }
    Ok(space)
}

fn snapshot_and_compact(node: &Node, space: &mut Space) -> Result<(), BenchError> {
    copies::make(node, SNAPSHOT_BYTES_PER_SECOND_DEFAULT)?;
    space.snapshots += 1;
    remove_older(&node.data, STREAM, SNAPSHOTS_KEPT).map_err(BenchError::wrong)?;
    let kept = snapshots(&node.data, STREAM).map_err(BenchError::wrong)?;
    let Some(oldest) = kept.get(SNAPSHOTS_KEPT - 1) else { return Ok(()) };
    let keep_from = BTreeMap::from([(STREAM, copies::behind(&oldest.path, &node.identity)?)]);
    let start = Instant::now();
    let compacted = node.wal.reader().compact(&keep_from).map_err(BenchError::wrong)?;
    space.longest_compaction = space.longest_compaction.max(start.elapsed());
    space.segments += compacted.segments;
    space.given_back += compacted.bytes;
    Ok(())
}
