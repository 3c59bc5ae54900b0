//! A long time under mixed load: is what the node takes level, is every unit still where the books say, is its directory whole?
//!
//! Owns the course of a run and the table. The load is `buyer`, and `judge` says what is broken. Everything that comes round in a node
//! has its least setting, so that it comes round many times: holds lapse, keys age out, records leave memory and come back for a return,
//! stocks are archived, snapshots are made, segments of the log are given back, ranges of the history are dropped.

mod buyer;
mod judge;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use self::buyer::{Books, Buyer, Stock, differs};
use self::judge::{Cycle, EARLY, LATE, SLICES, Slice};
use crate::figures::{latency_ms, median, mib, number, percentile_ms};
use crate::machine::{allocated_bytes, open_files, resident_bytes, wait};
use crate::paced::{Pace, Paced, Sample};
use tidegate_witness::node::{self, Node, NodeError};

/// Buyers at once.
const BUYERS: usize = 4;

/// The healthy client, whose latencies count.
const PACE: Pace = Pace { kept: 10, new: 0, per_second: 10 };

/// From one look at the node to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Everything that comes round does so soon.
const SETTINGS: [&str; 8] = [
    "rules.idempotency_seconds=2",
    "engine.resolved_in_memory_max=2000",
    "log.segment_bytes_max=1048576",
    "log.cache_bytes=4194304",
    "snapshots.log_bytes=1048576",
    "snapshots.interval_seconds=10",
    "feed.retention_seconds=60",
    "feed.retention_bytes=16777216",
];

/// The stock of the healthy client.
const HEALTHY: &str = "healthy";
const HEALTHY_UNITS: i64 = 1_000_000_000;

/// Stocks of one page.
const PAGE: usize = 100;

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// The program to try; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

/// How much to try.
#[derive(Debug, Clone, Copy)]
struct Amount {
    slice: Duration,
    /// How long the node retains what is over.
    retention_seconds: u32,
    /// Whether the run is long enough for the history to drop what it retains no longer. If not, retention must be so long that the history
    /// begins no new ranges in the run: each has memory of its own, which stays until it is dropped.
    with_history: bool,
    /// How many times more than in the short form everything else must come round.
    times: u64,
    /// How many segments of the log must be given back: in the short form, which a busy machine may make slow, one shows that they are.
    given_back_least: u64,
}

const SHORT: Amount =
    Amount { slice: Duration::from_secs(3), retention_seconds: 3_600, with_history: false, times: 1, given_back_least: 1 };
const LONG: Amount =
    Amount { slice: Duration::from_mins(1), retention_seconds: 30, with_history: true, times: 15, given_back_least: 30 };

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    match try_all(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the soak could not be made: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the node says of itself at a look: counters by the end of their names.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    commands: f64,
    segments: f64,
    history_bytes: f64,
}

fn try_all(options: &Options) -> Result<bool, NodeError> {
    let program = node::program(options.tidegate.as_deref())?;
    let amount = if options.short { SHORT } else { LONG };
    let mut settings = SETTINGS.map(str::to_owned).to_vec();
    settings.push(format!("rules.retention_seconds={}", amount.retention_seconds));
    let node = Node::start_temporary(&program, 0, settings.clone())?;
    let address = node.place().ok_or_else(|| node.trouble("it is gone".to_owned()))?.address;
    node.put_stock(HEALTHY, &format!(r#"{{"quantity":{HEALTHY_UNITS},"hold_seconds":1}}"#))?;
    let began = Instant::now();
    let healthy = Paced::start(address, HEALTHY, PACE);
    let ends = AtomicBool::new(false);
    let (watched, books) = thread::scope(|scope| {
        let buyers: Vec<_> = (0..BUYERS)
            .map(|number| {
                let ends = &ends;
                scope.spawn(move || Buyer::new(number, address).work(ends))
            })
            .collect();
        let watched = watch(&node, amount.slice);
        ends.store(true, Ordering::Relaxed);
        let books: Vec<Books> = buyers.into_iter().map(|buyer| buyer.join().expect("a buyer does not panic")).collect();
        (watched, books)
    });
    let samples = healthy.stop();
    let (mut slices, given_back, history_drops) = watched?;
    for (number, slice) in slices.iter_mut().enumerate() {
        measure(slice, &samples, began + amount.slice * u32::try_from(number).unwrap_or(0), amount.slice);
    }
    let metrics = node.metrics()?;
    let counted = |name| metric(&metrics, name);
    let mut cycles = cycles(&books, counted);
    for cycle in &mut cycles {
        cycle.least *= amount.times;
    }
    cycles.push(Cycle { name: "segments of the log given back", count: given_back, least: amount.given_back_least });
    if amount.with_history {
        cycles.push(Cycle { name: "times the history became smaller", count: history_drops, least: 3 });
    }
    let mut broken = judge::broken(&slices, &cycles, amount.with_history, latency_ms(options.short));
    broken.extend(books.iter().flat_map(|books| books.wrong.clone()));
    let failed = samples.iter().filter(|sample| !sample.is_good()).count();
    if failed > 0 {
        broken.push(format!("{failed} requests of the healthy client failed"));
    }
    let (stocks, wrong) = hold_stocks(&node, &books)?;
    broken.extend(wrong);
    broken.extend(end(&node)?);

    println!(
        "{} s of mixed load by {BUYERS} buyers on a node with {}: {} s in all",
        (amount.slice * 10).as_secs(),
        settings.join(", "),
        began.elapsed().as_secs()
    );
    print_slices(&slices);
    for Cycle { name, count, least } in &cycles {
        println!("  {name:<48}{count:>10}   at least {least}");
    }
    println!("  {:<48}{stocks:>10}   each as the books say", "stocks held against the books at the end");
    println!(
        "held against: the median of slices {} to {} beside that of {} to {}: memory 10 % or 24 MiB more, log with snapshots 25 % or 16 MiB, \
         {}files 10 % or 16, latencies twice or {} ms",
        LATE.start + 1,
        LATE.end,
        EARLY.start + 1,
        EARLY.end,
        if amount.with_history { "history 50 % or 32 MiB, " } else { "" },
        latency_ms(options.short).difference,
    );
    for what in &broken {
        println!("broken: {what}");
    }
    println!("{}", if broken.is_empty() { "every promise held" } else { "a promise was broken" });
    Ok(broken.is_empty())
}

fn print_slices(slices: &[Slice]) {
    println!(
        "  {:<6}{:>12}{:>12}{:>12}{:>14}{:>8}{:>10}{:>10}",
        "slice", "commands/s", "memory MiB", "log MiB", "history MiB", "files", "p50 ms", "p99 ms"
    );
    for (number, slice) in slices.iter().enumerate() {
        println!(
            "  {:<6}{:>12.0}{:>12.1}{:>12.1}{:>14.1}{:>8.0}{:>10.2}{:>10.2}",
            number + 1,
            slice.commands_per_second,
            mib(median(&slice.memory)),
            mib(median(&slice.log)),
            mib(median(&slice.history)),
            median(&slice.files),
            slice.p50_ms,
            slice.p99_ms
        );
    }
}

/// Looks at the node for all slices; gives them, how many segments of its log were given back, and how often its history became smaller.
fn watch(node: &Node, slice: Duration) -> Result<(Vec<Slice>, u64, u64), NodeError> {
    let pid = node.process()?;
    let directory = node.data();
    let read = |source| NodeError::Machine { what: "the data directory cannot be read", source };
    let mut before = look(node)?;
    let (mut given_back, mut history_drops) = (0.0, 0);
    let mut slices = Vec::with_capacity(SLICES);
    for _ in 0..SLICES {
        let began = Instant::now();
        let commands_before = before.commands;
        let mut seen = Slice::default();
        while began.elapsed() < slice {
            let now = look(node)?;
            given_back += (before.segments - now.segments).max(0.0);
            history_drops += u64::from(now.history_bytes < before.history_bytes);
            before = now;
            let history = allocated_bytes(&directory.join("history")).map_err(read)?;
            let all = allocated_bytes(directory).map_err(read)?;
            seen.memory.push(number(resident_bytes(pid)?));
            seen.history.push(number(history));
            seen.log.push(number(all.saturating_sub(history)));
            seen.files.push(number(open_files(pid)?));
            wait(LOOK_EVERY.min(slice.saturating_sub(began.elapsed())));
        }
        seen.commands_per_second = (before.commands - commands_before) / began.elapsed().as_secs_f64();
        slices.push(seen);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of differences of small counts, none below 0"
    )]
    Ok((slices, given_back as u64, history_drops))
}

fn look(node: &Node) -> Result<Told, NodeError> {
    let metrics = node.metrics()?;
    Ok(Told {
        commands: metric(&metrics, "tidegate_commands_total"),
        segments: metric(&metrics, "tidegate_log_segments"),
        history_bytes: metric(&metrics, "tidegate_history_size_bytes"),
    })
}

/// The sum of a metric over its labels; 0 where there is none.
fn metric(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let named = samples.filter(|(sample, _)| sample.split('{').next() == Some(name));
    named.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

fn measure(slice: &mut Slice, samples: &[Sample], from: Instant, length: Duration) {
    let within = samples.iter().filter(|sample| (from..from + length).contains(&sample.due));
    let mut latencies: Vec<Duration> = within.map(|sample| sample.latency).collect();
    slice.p50_ms = percentile_ms(&mut latencies, 50.0).unwrap_or(f64::NAN);
    slice.p99_ms = percentile_ms(&mut latencies, 99.0).unwrap_or(f64::NAN);
}

/// What came round, as the books and the node's counters say.
fn cycles(books: &[Books], counted: impl Fn(&'static str) -> f64) -> Vec<Cycle> {
    let sum = |pick: fn(&Books) -> u64| books.iter().map(pick).sum::<u64>();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters of a node are whole and not below 0")]
    let counted = |name| counted(name) as u64;
    let keys = sum(|books| books.keys);
    vec![
        Cycle { name: "commands of batches", count: sum(|books| books.commands), least: 20_000 },
        Cycle { name: "holds that lapsed", count: counted("tidegate_lapsed_reservations_total"), least: 1_000 },
        Cycle { name: "commands repeated with their key", count: sum(|books| books.repeats), least: 500 },
        Cycle { name: "keys forgotten", count: keys.saturating_sub(counted("tidegate_idempotency_keys")), least: 10_000 },
        Cycle { name: "records that left memory", count: counted("tidegate_history_records_total"), least: 5_000 },
        Cycle { name: "records read back for a command", count: counted("tidegate_history_recall_seconds_count"), least: 100 },
        Cycle { name: "stocks archived", count: sum(|books| books.archived.len() as u64), least: 8 },
        Cycle { name: "snapshots", count: counted("tidegate_snapshots_total"), least: 4 },
    ]
}

/// Holds every stock that the node shows against the books; gives how many there are, and what is wrong.
fn hold_stocks(node: &Node, books: &[Books]) -> Result<(usize, Vec<String>), NodeError> {
    #[derive(serde::Deserialize)]
    struct Page {
        stocks: Vec<Stock>,
        next_cursor: Option<String>,
    }
    let mut due: BTreeMap<&str, (i64, i64)> =
        books.iter().flat_map(|books| &books.archived).map(|(sku, books)| (sku.as_str(), *books)).collect();
    let (mut count, mut wrong) = (0, Vec::new());
    let mut path = format!("/v1/stocks?limit={PAGE}");
    loop {
        let page: Page = node.read(&path)?;
        for stock in page.stocks {
            count += 1;
            if stock.sku == HEALTHY {
                // The last of its holds need not have lapsed yet.
                let is_right = stock.available + stock.reserved == HEALTHY_UNITS && stock.sold == 0;
                wrong.extend((!is_right).then(|| format!("nothing of it was sold, and it is {stock:?}")));
                continue;
            }
            match due.remove(stock.sku.as_str()) {
                Some(_) if stock.state != "archived" => wrong.push(format!("it was archived, and it is {stock:?}")),
                Some(books) => wrong.extend(differs(&stock, books)),
                None => wrong.push(format!("{} is in no books", stock.sku)),
            }
        }
        match page.next_cursor {
            Some(cursor) => path = format!("/v1/stocks?limit={PAGE}&cursor={cursor}"),
            None => break,
        }
    }
    wrong.extend(due.keys().map(|sku| format!("{sku} is in the books, and the node does not show it")));
    Ok((count, wrong))
}

/// A stop in good order, and the program's own check of what is left.
fn end(node: &Node) -> Result<Vec<String>, NodeError> {
    let mut broken = Vec::new();
    let status = node.stop()?;
    if !status.is_some_and(|status| status.success()) {
        broken.push(format!("told to stop, the node ended with {status:?}"));
    }
    let output = node.verify()?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned()).join("\n");
    if !output.status.success() {
        broken.push(format!("the directory is not whole: {said}"));
    }
    Ok(broken)
}
