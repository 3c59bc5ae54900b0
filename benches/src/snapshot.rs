//! A snapshot of a ledger with many holds while callers come at their own pace, and serving again from it.
//!
//! Each round has a node of its own. The same callers come while a snapshot is made, and then for as long without one: what happens now and
//! then in any case, as a new segment of the log does, is in both. They come at a given share of what the same node reached just before with
//! callers that wait for each other. In the end the last node is stopped and a new process serves again from its snapshot and what the log
//! holds behind it; its files are in the operating system's cache, as far as there is room for them.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidegate_engine::{Sealing, replay_log};
use tidegate_persistence::{Durability, SNAPSHOT_BYTES_PER_SECOND_DEFAULT, snapshots};
use tidegate_stock::Sku;

use crate::bystander::{Bystanders, Seen};
use crate::callers::{Paced, closed_loop, fill, open_loop};
use crate::child::{self, Part};
use crate::copies;
use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, Percentiles, Run, mean, median, medians, number, per_second};
use crate::machine::Resident;
use crate::node::{Node, NodeParameters, STREAM, open};
use crate::sample::{create, reserve_named, secret, sku, stock_id};

/// Units on sale: more than all callers ask for.
const UNITS: u64 = 1_000_000_000_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct SnapshotParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// This program, which serves again in a process of its own.
    pub program: PathBuf,
    /// What an answer survives.
    pub durability: Durability,
    /// Holds when the callers begin to come.
    pub holds: u64,
    /// Commands in flight while the node's rate is measured.
    pub in_flight: usize,
    /// How long that is measured, and how many commands at most.
    pub closed: Duration,
    /// Commands of that at most.
    pub closed_commands_max: u64,
    /// Callers in a second; if none is given, [`Self::share`] of the rate measured.
    pub rate: Option<f64>,
    /// The share of the rate measured at which callers come.
    pub share: f64,
    /// Bytes of a snapshot that are written in a second at most.
    pub bytes_per_second: u64,
    /// Rounds.
    pub rounds: usize,
}

impl SnapshotParameters {
    /// For figures: ten million holds, half the rate of 1,024 in flight, three rounds.
    pub fn full(program: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            program,
            durability: Durability::PowerLoss,
            holds: 10_000_000,
            in_flight: 1_024,
            closed: Duration::from_secs(3),
            closed_commands_max: u64::MAX,
            rate: None,
            share: 0.5,
            bytes_per_second: SNAPSHOT_BYTES_PER_SECOND_DEFAULT,
            rounds: 3,
        }
    }

    /// For tests: 20,000 holds and 500 callers a second, two rounds.
    pub fn tiny(program: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            holds: 20_000,
            closed: Duration::from_secs(20),
            closed_commands_max: 2_000,
            rate: Some(500.0),
            rounds: 2,
            ..Self::full(program, directory)
        }
    }
}

/// What a child serves again from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loading {
    data: PathBuf,
    durability: String,
    reservations: u64,
    /// A user who has nothing yet.
    next_user: u64,
}

/// How long that took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Loaded {
    open_seconds: f64,
    load_seconds: f64,
    tail_seconds: f64,
    tail_events: u64,
    start_seconds: f64,
    from_snapshot: u64,
    memory: Resident,
}

/// Measures. Fails unless every caller got a unit, and every reservation is back in the end.
pub fn run(parameters: &SnapshotParameters) -> Result<Vec<Figure>, BenchError> {
    let (mut quiet, mut busy, mut made, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..parameters.rounds {
        // The one before goes first: a disk and a memory for one of them are enough.
        drop(last.take());
        let (node, folder) = Node::start(&NodeParameters::new(parameters.directory.clone(), parameters.durability))?;
        let mut callers = Callers { sku: sku(), came: 0, answered: 0 };
        node.accept(create(UNITS))?;
        let filled = fill(&node, (0..parameters.holds).map(|number| (reserve_named(&callers.sku, number), None)))?;
        (callers.came, callers.answered) = (filled, filled);
        let reached = callers.in_turn(&node, parameters)?;
        let rate = parameters.rate.unwrap_or(reached * parameters.share);
        let (waiting, snapshot) = thread::scope(|scope| {
            let making = scope.spawn(|| {
                let began = Instant::now();
                copies::make(&node, parameters.bytes_per_second).map(|info| (info, began.elapsed()))
            });
            let waiting = callers.paced(&node, rate, || Ok(!making.is_finished()));
            (waiting, making.join())
        });
        let (_, elapsed) = snapshot.map_err(|_| BenchError::wrong("the snapshot's thread panicked"))??;
        busy.push(waiting?);
        made.push(elapsed);
        rates.push(reached);
        let from = Instant::now();
        quiet.push(callers.paced(&node, rate, || Ok(from.elapsed() < elapsed))?);
        let report = node.report()?;
        expect_equal("open holds", report.open_holds, callers.answered)?;
        last = Some((node, callers, report.open_holds, folder));
    }
    let (node, callers, holds_at_end, _folder) = last.ok_or_else(|| BenchError::wrong("there was no round"))?;
    let (identity, data) = (node.identity.clone(), node.data.clone());
    node.stop()?;
    let newest = snapshots(&data, STREAM).map_err(BenchError::wrong)?;
    let newest = newest.first().ok_or_else(|| BenchError::wrong("there is no snapshot"))?;
    copies::behind(&newest.path, &identity)?;
    let loading =
        Loading { data, durability: parameters.durability.to_string(), reservations: callers.answered, next_user: callers.came };
    let loaded: Loaded = child::run(&parameters.program, &Part::Load(loading))?;

    let holds = parameters.holds;
    let durability = parameters.durability.to_string();
    let added: Vec<f64> = quiet.iter().zip(&busy).map(|(without, with)| with.at().p999_us - without.at().p999_us).collect();
    let seconds: Vec<f64> = made.iter().map(Duration::as_secs_f64).collect();
    let bytes = newest.bytes;
    let mut with = callers_figure("while a snapshot is made", &durability, holds, &busy);
    with.more.extend([
        Detail { name: "added_p999_ms", value: median(&added) / 1e3 },
        Detail { name: "added_p999_ms_worst", value: added.iter().copied().fold(f64::MIN, f64::max) / 1e3 },
        Detail { name: "snapshot_seconds", value: median(&seconds) },
        Detail { name: "snapshot_mib", value: number(bytes) / 1_048_576.0 },
        Detail { name: "snapshot_bytes_per_reservation", value: mean(number(bytes), loaded.from_snapshot) },
        Detail { name: "closed_loop_rate", value: median(&rates) },
        Detail { name: "holds_at_end", value: number(holds_at_end) },
    ]);
    Ok(vec![callers_figure("without a snapshot", &durability, holds, &quiet), with, load_figure(&durability, &loaded)])
}

/// One span of callers at their own pace.
struct Span {
    paced: Paced,
    latencies: Latencies,
    /// The longest that the log was busy with one batch of groups.
    log_longest: Duration,
    /// What the machine did to bystanders.
    seen: Seen,
}

impl Span {
    fn at(&self) -> Percentiles {
        self.latencies.percentiles()
    }
}

struct Callers {
    sku: Sku,
    came: u64,
    answered: u64,
}

impl Callers {
    /// Callers who wait for each other; returns how many a second were served.
    fn in_turn(&mut self, node: &Node, parameters: &SnapshotParameters) -> Result<f64, BenchError> {
        let (start, first) = (Instant::now(), self.came);
        let (sku, came, answered) = (&self.sku, &mut self.came, &mut self.answered);
        let next = |now: Instant| {
            let goes_on = now - start < parameters.closed && *came - first < parameters.closed_commands_max;
            goes_on.then(|| {
                *came += 1;
                reserve_named(sku, *came - 1)
            })
        };
        let elapsed = closed_loop(node, parameters.in_flight, next, |outcome, _| {
            outcome.map_err(BenchError::wrong)?;
            *answered += 1;
            Ok(())
        })?;
        Ok(per_second(self.came - first, elapsed))
    }

    fn paced(&mut self, node: &Node, rate: f64, goes_on: impl FnMut() -> Result<bool, BenchError>) -> Result<Span, BenchError> {
        let (first, sku, answered) = (self.came, &self.sku, &mut self.answered);
        let mut latencies = Latencies::default();
        node.tally.take_longest();
        let bystanders = Bystanders::begin();
        let paced = open_loop(
            node,
            rate,
            goes_on,
            |number| reserve_named(sku, first + number),
            |_, outcome, latency| {
                outcome.map_err(BenchError::wrong)?;
                *answered += 1;
                latencies.record(latency);
                Ok(())
            },
        )?;
        self.came += paced.came;
        Ok(Span { paced, latencies, log_longest: node.tally.take_longest(), seen: bystanders.end() })
    }
}

fn callers_figure(how: &str, durability: &str, holds: u64, spans: &[Span]) -> Figure {
    let runs: Vec<Run> = spans
        .iter()
        .map(|span| Run { rate: per_second(span.paced.came - span.paced.refused, span.paced.elapsed), latency: span.at() })
        .collect();
    let (rate, spread, latency) = medians(&runs);
    let longest = spans.iter().map(|span| span.latencies.max_ms()).fold(0.0, f64::max);
    let ms = |of: fn(&Span) -> Duration| spans.iter().map(of).max().unwrap_or_default().as_secs_f64() * 1e3;
    let stolen: Vec<f64> = spans.iter().map(|span| span.seen.stolen).collect();
    let refused: u64 = spans.iter().map(|span| span.paced.refused).sum();
    Figure {
        bench: "snapshot",
        what: format!("reserve at a steady pace, {holds} holds, {how}"),
        durability: durability.to_owned(),
        group_events: None,
        unit: "reservations/s",
        rate,
        runs: runs.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: vec![
            Detail { name: "max_ms", value: longest },
            Detail { name: "log_max_ms", value: ms(|span| span.log_longest) },
            Detail { name: "held_up_max_ms", value: ms(|span| span.seen.held_up) },
            Detail { name: "stolen_share", value: median(&stolen) },
            Detail { name: "refused", value: number(refused) },
        ],
    }
}

fn load_figure(durability: &str, loaded: &Loaded) -> Figure {
    let Loaded { open_seconds, load_seconds, tail_seconds, tail_events, start_seconds, from_snapshot, memory } = *loaded;
    let seconds = open_seconds + load_seconds + tail_seconds + start_seconds;
    Figure {
        bench: "snapshot",
        what: format!("load {from_snapshot} reservations, replay {tail_events} events behind them, serve again"),
        durability: durability.to_owned(),
        group_events: None,
        unit: "reservations/s",
        rate: per_second(from_snapshot, Duration::from_secs_f64(load_seconds)),
        runs: 1,
        spread: 0.0,
        latency: None,
        against: None,
        more: vec![
            Detail { name: "serves_again_seconds", value: seconds },
            Detail { name: "open_seconds", value: open_seconds },
            Detail { name: "load_seconds", value: load_seconds },
            Detail { name: "replay_seconds", value: tail_seconds },
            Detail { name: "start_seconds", value: start_seconds },
            Detail { name: "seconds_per_10_million", value: load_seconds * 1e7 / number(from_snapshot.max(1)) },
            Detail { name: "resident_mib", value: number(memory.bytes) / 1_048_576.0 },
            Detail { name: "peak_mib", value: number(memory.peak_bytes) / 1_048_576.0 },
        ],
    }
}

/// Serves again, in this process.
pub fn measure_load(loading: &Loading) -> Result<Loaded, BenchError> {
    let durability = loading.durability.parse().map_err(BenchError::wrong)?;
    let parameters = NodeParameters::new(None, durability);
    let seed = Sealing::new(&secret()).table_seed();
    let mut clock = Instant::now();
    let mut lap = move || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
    let directory = open(&parameters, &loading.data)?;
    let found = snapshots(&loading.data, STREAM).map_err(BenchError::wrong)?;
    let newest = found.first().ok_or_else(|| BenchError::wrong("there is no snapshot"))?;
    let open_seconds = lap();
    let (position, ledger) = copies::load(&newest.path, directory.identity(), parameters.rules, seed)?;
    let from_snapshot = ledger.reservation_count() as u64;
    let load_seconds = lap();
    let (ledger, tail) = replay_log(&directory, STREAM, Some(&position), ledger).map_err(BenchError::wrong)?;
    let tail_seconds = lap();
    expect_equal("reservations that are back", ledger.open_holds(), loading.reservations)?;
    expect_equal("units reserved", ledger.stock(stock_id()).map_or(0, |stock| stock.reserved), loading.reservations)?;
    let node = Node::on(&parameters, directory, ledger, tail)?;
    node.accept(reserve_named(&sku(), loading.next_user))?;
    let start_seconds = lap();
    let memory = Resident::look();
    node.stop()?;
    Ok(Loaded { open_seconds, load_seconds, tail_seconds, tail_events: tail.events, start_seconds, from_snapshot, memory })
}
