//! Reservations in process: one shard, its ring and its group commit, with the real log or one that commits at once.
//!
//! One thread is all callers: it keeps a number of commands in flight, and waits for the oldest, because a shard answers in order.
//! Latency is from the submission until that thread has the answer.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_engine::{
    CommitLog, CommitProgress, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, LocalCommits, LocalLog, Pending,
    Sealing, ShardNumber, ShardStart, Submission, SystemClock,
};
use tidegate_persistence::{
    ActorName, DataDirectory, DirectoryOptions, Durability, DurabilityError, Group, GroupSequence, RecoveredStream, StreamId, Term,
    Wal, WalOptions,
};
use tidegate_stock::{Ledger, Rejection, Sku};

use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, Run, mean, median, medians, number, per_second};
use crate::heard::Tally;
use crate::machine::temporary_directory;
use crate::sample::{RULES, START, actor, create, reserve, secret, sku};
use crate::wait::{Waiter, block_on, poll_once};

/// The only shard's log.
const STREAM: StreamId = ShardNumber(0).stream();

/// Where groups go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// The real log.
    Real(Durability),
    /// Committed as soon as proposed: what the machine costs without a disk.
    Instant,
}

impl FromStr for Log {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        if text == "instant" { Ok(Self::Instant) } else { text.parse().map(Self::Real) }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct EngineParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// Logs, each measured for itself.
    pub logs: Vec<Log>,
    /// Commands in flight, each number measured for itself.
    pub in_flight: Vec<usize>,
    /// The machine's limits.
    pub options: EngineOptions,
    /// Units on sale.
    pub units: u64,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Commands after which a run ends, whatever the time.
    pub commands_max: u64,
    /// Runs, each on a new shard.
    pub runs: usize,
}

impl EngineParameters {
    /// For figures: 1 to 4,096 in flight, three runs of 1.5 s after 0.3 s, more units than buyers.
    pub fn full(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            logs: vec![Log::Real(Durability::PowerLoss), Log::Real(Durability::ProcessCrash), Log::Instant],
            in_flight: vec![1, 256, 1_024, 4_096],
            options: EngineOptions::default(),
            units: 1_000_000_000_000,
            warm_up: Duration::from_millis(300),
            measured: Duration::from_millis(1_500),
            commands_max: u64::MAX,
            runs: 3,
        }
    }

    /// For tests: 2,000 units for 3,000 buyers, once.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self {
            logs: vec![Log::Real(Durability::PowerLoss), Log::Instant],
            in_flight: vec![64],
            units: 2_000,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(20),
            commands_max: 3_000,
            runs: 1,
            ..Self::full(directory)
        }
    }
}

/// What the callers were told in all runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Grants.
    pub granted: u64,
    /// Sold out.
    pub sold_out: u64,
}

/// Measures. Gives the figures with what the callers were told in each.
pub fn run(parameters: &EngineParameters) -> Result<Vec<(Figure, Told)>, BenchError> {
    let mut figures = Vec::new();
    for log in &parameters.logs {
        for in_flight in &parameters.in_flight {
            figures.push(measure(parameters, *log, *in_flight)?);
        }
    }
    Ok(figures)
}

fn measure(parameters: &EngineParameters, log: Log, in_flight: usize) -> Result<(Figure, Told), BenchError> {
    let mut told = Told::default();
    let mut runs = Vec::new();
    for _ in 0..parameters.runs {
        let run = Machine::start(parameters, log)?.measure(parameters, in_flight)?;
        told.granted += run.told.granted;
        told.sold_out += run.told.sold_out;
        runs.push(run);
    }
    let (rate, spread, latency) = medians(&runs.iter().map(|run| run.run).collect::<Vec<_>>());
    let of = |pick: fn(&Measured) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
    let mut more = Vec::new();
    if matches!(log, Log::Real(_)) {
        more.push(Detail { name: "syncs_per_second", value: of(|run| run.syncs_per_second) });
        more.push(Detail { name: "append_us", value: of(|run| run.append_us) });
        more.push(Detail { name: "sync_us", value: of(|run| run.sync_us) });
        more.push(Detail { name: "mb_per_second", value: of(|run| run.mb_per_second) });
    }
    let figure = Figure {
        bench: "engine",
        what: format!("reserve 1 unit in process, hot product, one shard, {in_flight} in flight"),
        durability: match log {
            Log::Real(durability) => durability.to_string(),
            Log::Instant => "instant log".to_owned(),
        },
        group_events: Some(of(|run| run.group_events)),
        unit: "reservations/s",
        rate,
        runs: runs.len(),
        spread,
        latency: Some(latency),
        against: None,
        more,
    };
    Ok((figure, told))
}

struct Measured {
    run: Run,
    told: Told,
    group_events: f64,
    syncs_per_second: f64,
    append_us: f64,
    sync_us: f64,
    mb_per_second: f64,
}

/// A log that commits at once and counts.
struct InstantLog {
    progress: Arc<CommitProgress>,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    groups: AtomicU64,
    events: AtomicU64,
}

impl CommitLog for InstantLog {
    fn propose(&mut self, _: Term, group: Group) {
        self.counted.groups.fetch_add(1, Ordering::Relaxed);
        self.counted.events.fetch_add(u64::from(group.events), Ordering::Relaxed);
        self.progress.commit(group.sequence);
    }
}

/// An engine of one shard with its log.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    sku: Sku,
    actor: ActorName,
    counted: Arc<Counted>,
    log: Option<(Arc<Tally>, Wal, TempDir)>,
}

impl Machine {
    pub(crate) fn start(parameters: &EngineParameters, log: Log) -> Result<Self, BenchError> {
        let metrics = Arc::new(EngineMetrics::default());
        let sealing = Sealing::new(&secret());
        let counted = Arc::new(Counted::default());
        let (started, disk_low, progress, commit_log): (_, _, _, Box<dyn CommitLog>) = match log {
            Log::Real(durability) => {
                let directory = temporary_directory(parameters.directory.as_ref())?;
                let opened = DataDirectory::open(&directory.path().join("data"), &DirectoryOptions::new(START));
                let commits = LocalCommits::new([(STREAM, GroupSequence(0))], Arc::clone(&metrics), |_| ());
                let progress = commits.progress(STREAM).ok_or_else(|| BenchError::wrong("the shard has no watermark"))?;
                let disk_low = commits.disk_low_flag();
                let tally = Arc::new(Tally::new(commits));
                let options = WalOptions { durability, ..WalOptions::default() };
                let tails = [RecoveredStream::empty(STREAM)];
                let listener = Arc::<Tally>::clone(&tally);
                let wal = Wal::start(opened.map_err(BenchError::wrong)?, tails, options, listener).map_err(BenchError::wrong)?;
                let commit_log = Box::new(LocalLog::new(wal.writer(), STREAM));
                (Some((tally, wal, directory)), disk_low, progress, commit_log)
            }
            Log::Instant => {
                let progress = CommitProgress::new(GroupSequence(0));
                let commit_log = Box::new(InstantLog { progress: Arc::clone(&progress), counted: Arc::clone(&counted) });
                (None, Arc::new(AtomicBool::new(false)), progress, commit_log)
            }
        };
        let shard = ShardStart { ledger: Ledger::new(RULES, sealing.table_seed()), log: commit_log, progress, quorum: None };
        let engine = Engine::start(EngineParts {
            options: parameters.options,
            sealing,
            clock: Arc::new(SystemClock),
            metrics,
            disk_low,
            history: None,
            shards: vec![shard],
        });
        let machine = Self { engine: engine.map_err(BenchError::wrong)?, sku: sku(), actor: actor(), counted, log: started };
        let created = machine.submit(create(parameters.units))?;
        block_on(created).map_err(BenchError::wrong)?;
        Ok(machine)
    }

    fn submit(&self, command: tidegate_stock::Command) -> Result<Pending, BenchError> {
        self.engine.try_submit(Submission { command, key: None, actor: self.actor.clone() }).map_err(BenchError::wrong)
    }

    fn measure(self, parameters: &EngineParameters, in_flight: usize) -> Result<Measured, BenchError> {
        let waiter = Waiter::default();
        let mut window: VecDeque<(Instant, Pending)> = VecDeque::with_capacity(in_flight);
        let (mut told, mut latencies, mut answers) = (Told::default(), Latencies::default(), 0_u64);
        let start = Instant::now();
        let (measure_from, measure_to) = (start + parameters.warm_up, start + parameters.warm_up + parameters.measured);
        let (mut submitted, mut now) = (0, start);
        loop {
            while window.len() < in_flight && submitted < parameters.commands_max && now < measure_to {
                submitted += 1;
                now = Instant::now();
                window.push_back((now, self.submit(reserve(&self.sku, submitted))?));
            }
            let Some((mut submitted_at, mut pending)) = window.pop_front() else { break };
            let mut outcome = waiter.wait(Pin::new(&mut pending));
            // The answers of one group come together, so the next are probably there too.
            loop {
                now = Instant::now();
                match outcome {
                    Ok(_) => told.granted += 1,
                    Err(Failure::Rejection(Rejection::SoldOut { .. })) => told.sold_out += 1,
                    Err(failure) => return Err(BenchError::wrong(failure)),
                }
                if now >= measure_from && now < measure_to {
                    answers += 1;
                    latencies.record(now - submitted_at);
                }
                let Some((next_at, next)) = window.front_mut() else { break };
                let Some(next_outcome) = poll_once(Pin::new(next)) else { break };
                (submitted_at, outcome) = (*next_at, next_outcome);
                window.pop_front();
            }
        }
        let elapsed = start.elapsed();
        let measured = now.min(measure_to).saturating_duration_since(measure_from);
        let stock = self.engine.stock(&self.sku).ok_or_else(|| BenchError::wrong("the product is gone"))?;
        let counts = self.stop()?;
        expect_equal("answers", told.granted + told.sold_out, submitted)?;
        expect_equal("grants, of as many units as there are", told.granted, parameters.units.min(submitted))?;
        expect_equal("the stock's reserved", stock.view.reserved, told.granted)?;
        expect_equal("events in the log", counts.events, told.granted)?;
        Ok(Measured {
            run: Run { rate: per_second(answers, measured), latency: latencies.percentiles() },
            told,
            group_events: mean(number(counts.events), counts.groups),
            syncs_per_second: per_second(counts.syncs, elapsed),
            append_us: mean(counts.append.as_secs_f64() * 1e6, counts.syncs),
            sync_us: mean(counts.sync.as_secs_f64() * 1e6, counts.syncs),
            mb_per_second: number(counts.bytes) / 1e6 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        })
    }

    /// Stops, and gives what the log took after the product was opened, which was a group of its own.
    pub(crate) fn stop(self) -> Result<Counts, BenchError> {
        block_on(self.engine.stop());
        let Some((tally, wal, _directory)) = self.log else {
            return Ok(Counts {
                groups: self.counted.groups.load(Ordering::Relaxed) - 1,
                events: self.counted.events.load(Ordering::Relaxed) - 1,
                ..Counts::default()
            });
        };
        // The last report may come after the last answer, but not after the log's end.
        wal.stop().map_err(BenchError::wrong)?;
        let (report, syncs) = tally.sum();
        Ok(Counts {
            groups: report.groups - 1,
            events: report.events - 1,
            bytes: report.bytes,
            syncs,
            append: report.append,
            sync: report.sync,
        })
    }
}

/// What a log took.
#[derive(Default)]
pub(crate) struct Counts {
    groups: u64,
    events: u64,
    bytes: u64,
    syncs: u64,
    append: Duration,
    sync: Duration,
}
