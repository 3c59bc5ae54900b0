//! The history: putting reservations that are over while others are looked up, and forgetting the older half of them.
//!
//! The n-th product is 1/n as frequent as the first; grants of a product are numbered in order, and a twentieth of the records come late
//! and out of it. A reader looks up one record after the other, about twice in a millisecond, and every sixteenth time the newest
//! twenty of a user.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tidegate_persistence::{History, HistoryKey, HistoryOptions, HistoryRecord};
use tidegate_stock::{GrantSequence, Partition, StockId, StockNumber, Timestamp, UserId};

use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, number, per_second};
use crate::machine::{process_cpu, temporary_directory, thread_cpu};
use crate::sample::{SEED, START, user};

/// Bytes of a value; with the user and the time a record has 70.
const VALUE_BYTES: usize = 50;

/// Those of a value that are random, and do not compress.
const RANDOM_BYTES: usize = 20;

/// Records in a put.
const BATCH: usize = 4_096;

/// Puts after which everything is made durable.
const PUTS_TO_PERSIST: u64 = 64;

/// Of this many records one comes late.
const LATE: u32 = 20;

/// How many records wait to come late.
const LATE_WAITING: usize = 200_000;

/// How long the reader waits between two reads.
const READ_PAUSE: Duration = Duration::from_micros(500);

/// Reads for one of a user's newest.
const READS_TO_NEWEST: u64 = 16;

/// How many of a user's newest are read at most.
const NEWEST: usize = 20;

/// What to measure.
#[derive(Debug, Clone)]
pub struct HistoryParameters {
    /// Where the history is made.
    pub directory: Option<PathBuf>,
    /// Records, each number measured for itself in a new history.
    pub records: Vec<u64>,
    /// Products.
    pub products: u16,
    /// Users.
    pub users: u64,
}

impl HistoryParameters {
    /// For figures: two and ten million records of a thousand products and five million users.
    pub fn full(directory: Option<PathBuf>) -> Self {
        Self { directory, records: vec![2_000_000, 10_000_000], products: 1_000, users: 5_000_000 }
    }

    /// For tests: 20,000 records.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self { records: vec![20_000], products: 50, users: 500, ..Self::full(directory) }
    }
}

/// Measures. Fails unless every record that the reader knows of is found, and exactly the older half is gone in the end.
pub fn run(parameters: &HistoryParameters) -> Result<Vec<Figure>, BenchError> {
    parameters.records.iter().map(|records| measure(parameters, *records)).collect()
}

/// A record as it is put.
#[derive(Clone)]
struct Over {
    key: HistoryKey,
    user: UserId,
    value: [u8; VALUE_BYTES],
}

fn measure(parameters: &HistoryParameters, records: u64) -> Result<Figure, BenchError> {
    let directory = temporary_directory(parameters.directory.as_ref())?;
    let memory_before = anonymous_bytes();
    let options = HistoryOptions::default();
    let history = History::open(directory.path(), &options).map_err(BenchError::wrong)?;
    let mut source = Source::new(parameters);
    let process = std::process::id();
    let (known, heard) = channel();
    let second_half = START.plus_seconds(options.range_seconds);
    let (mut putting, mut longest, mut first_half, mut memory) = (Duration::ZERO, Duration::ZERO, 0, 0);
    let cpu_before = process_cpu(process);
    let mut own_cpu = Duration::ZERO;
    let reads = thread::scope(|scope| {
        let shared = &history;
        let reader = scope.spawn(move || read(shared, &heard));
        let (mut left, mut puts) = (records, 0);
        while left > 0 {
            let making = thread_cpu();
            let batch: Vec<Over> = (0..BATCH.min(usize::try_from(left).unwrap_or(BATCH))).map(|_| source.next()).collect();
            own_cpu += thread_cpu().saturating_sub(making);
            let is_first_half = left > records / 2;
            let resolved_at = if is_first_half { START } else { second_half };
            let start = Instant::now();
            put(&history, &batch, resolved_at)?;
            puts += 1;
            if puts % PUTS_TO_PERSIST == 0 {
                history.persist().map_err(BenchError::wrong)?;
            }
            let elapsed = start.elapsed();
            putting += elapsed;
            longest = longest.max(elapsed);
            left -= batch.len() as u64;
            first_half += if is_first_half { batch.len() as u64 } else { 0 };
            memory = memory.max(anonymous_bytes());
            for over in batch.into_iter().step_by(64) {
                known.send(over).map_err(|_| BenchError::Wrong("the reader ended early".to_owned()))?;
            }
        }
        drop(known);
        reader.join().map_err(|_| BenchError::Wrong("the reader panicked".to_owned()))?
    })?;
    let cpu = process_cpu(process).saturating_sub(cpu_before).saturating_sub(own_cpu);
    history.persist().map_err(BenchError::wrong)?;
    let bytes = folder_bytes(directory.path()).map_err(BenchError::io("the history's files"))?;
    let start = Instant::now();
    let removed = history.remove_resolved_before(second_half).map_err(BenchError::wrong)?;
    let removing = start.elapsed();
    expect_equal("records removed", removed, first_half)?;
    let mut left = 0;
    history
        .for_each(&mut |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })
        .map_err(BenchError::wrong)?;
    expect_equal("records left", left, records - first_half)?;
    drop(history);
    // Opened again so that the journals no longer keep what was removed.
    let history = History::open(directory.path(), &options).map_err(BenchError::wrong)?;
    let bytes_left = folder_bytes(directory.path()).map_err(BenchError::io("the history's files"))?;
    drop(history);

    let newest = reads.newest.percentiles();
    Ok(Figure {
        bench: "history",
        what: format!(
            "put {records} records of 70 bytes, {BATCH} at a time, durable after every {PUTS_TO_PERSIST} puts; latency of a get"
        ),
        durability: "-".to_owned(),
        group_events: None,
        unit: "records/s",
        rate: per_second(records, putting),
        runs: 1,
        spread: 0.0,
        latency: Some(reads.gets.percentiles()),
        against: None,
        more: vec![
            Detail { name: "cpu_us_per_record", value: cpu.as_secs_f64() * 1e6 / number(records) },
            Detail { name: "disk_bytes_per_record", value: number(bytes) / number(records) },
            Detail { name: "memory_mib", value: number(memory.saturating_sub(memory_before)) / 1_048_576.0 },
            Detail { name: "longest_put_ms", value: longest.as_secs_f64() * 1e3 },
            Detail { name: "newest_of_user_p50_us", value: newest.p50_us },
            Detail { name: "newest_of_user_p99_us", value: newest.p99_us },
            Detail { name: "remove_half_ms", value: removing.as_secs_f64() * 1e3 },
            Detail { name: "disk_mib_before_removal", value: number(bytes) / 1_048_576.0 },
            Detail { name: "disk_mib_after_removal", value: number(bytes_left) / 1_048_576.0 },
        ],
    })
}

fn put(history: &History, batch: &[Over], resolved_at: Timestamp) -> Result<(), BenchError> {
    let record = |over| {
        let Over { key, user, value }: &Over = over;
        HistoryRecord { key: *key, user: user.as_str(), resolved_at, value }
    };
    history.put(&batch.iter().map(record).collect::<Vec<_>>()).map_err(BenchError::wrong)
}

/// Latencies of reads.
#[derive(Default)]
struct Reads {
    gets: Latencies,
    newest: Latencies,
}

/// Reads what it hears of, until it will hear of nothing more.
fn read(history: &History, heard: &Receiver<Over>) -> Result<Reads, BenchError> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut known, mut reads, mut count) = (Vec::new(), Reads::default(), 0);
    loop {
        match heard.recv_timeout(READ_PAUSE) {
            Ok(over) => {
                known.push(over);
                known.extend(heard.try_iter());
            }
            // Everything is known now; a short run gets its reads all the same.
            Err(RecvTimeoutError::Disconnected) if count >= READS_TO_NEWEST => return Ok(reads),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if known.is_empty() {
            continue;
        }
        let over: &Over = &known[random.random_range(0..known.len())];
        let start = Instant::now();
        let found = history.get(over.key).map_err(BenchError::wrong)?;
        reads.gets.record(start.elapsed());
        if found.as_deref() != Some(&over.value[..]) {
            return Err(BenchError::Wrong(format!("{:?} is not what was put", over.key)));
        }
        count += 1;
        if count % READS_TO_NEWEST == 0 {
            let (start, mut found) = (Instant::now(), 0);
            let mut visit = |_: HistoryKey, _: &[u8]| {
                found += 1;
                if found == NEWEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let before = GrantSequence(over.key.sequence.0 + 1);
            history.newest(over.key.stock, before, Some(over.user.as_str()), &mut visit).map_err(BenchError::wrong)?;
            reads.newest.record(start.elapsed());
            if found == 0 {
                return Err(BenchError::Wrong(format!("{:?} is not among its user's", over.key)));
            }
        }
    }
}

/// Makes records, always the same.
struct Source {
    random: SmallRng,
    /// Sum of the products' frequencies up to each.
    frequencies: Vec<f64>,
    granted: Vec<u64>,
    users: u64,
    late: Vec<Over>,
}

impl Source {
    fn new(parameters: &HistoryParameters) -> Self {
        let frequencies = (1..=parameters.products).scan(0.0, |sum, rank| {
            *sum += 1.0 / f64::from(rank);
            Some(*sum)
        });
        Self {
            random: SmallRng::seed_from_u64(SEED),
            frequencies: frequencies.collect(),
            granted: vec![0; usize::from(parameters.products)],
            users: parameters.users,
            late: Vec::new(),
        }
    }

    /// The next one to be put.
    fn next(&mut self) -> Over {
        loop {
            let over = self.granted();
            if self.random.random_range(0..LATE) > 0 {
                return over;
            }
            if self.late.len() == LATE_WAITING {
                let at = self.random.random_range(0..LATE_WAITING);
                return std::mem::replace(&mut self.late[at], over);
            }
            self.late.push(over);
        }
    }

    fn granted(&mut self) -> Over {
        let all = self.frequencies.last().copied().unwrap_or_default();
        let drawn = self.random.random::<f64>() * all;
        let product = self.frequencies.partition_point(|sum| *sum < drawn).min(self.granted.len() - 1);
        self.granted[product] += 1;
        let partition = Partition(u16::try_from(product).expect("products are counted in 16 bits"));
        let mut value = [3; VALUE_BYTES];
        self.random.fill_bytes(&mut value[..RANDOM_BYTES]);
        Over {
            key: HistoryKey {
                stock: StockId { partition, number: StockNumber(1) },
                sequence: GrantSequence(self.granted[product]),
            },
            user: user(self.random.random_range(0..self.users)),
            value,
        }
    }
}

/// Memory of this process that is no file's.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
