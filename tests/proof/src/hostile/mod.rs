//! Hostile connections beside a healthy client: does the client notice, and does the node get over it?
//!
//! Owns the course of the runs and the table. The kinds are `kinds`; `crowd` and `hits` are what hostile clients do, and `judge` says
//! what is broken. A healthy client asks all the time; each round of a kind is a while without hostility and then one with it.

mod crowd;
mod hits;
mod judge;
mod kinds;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use self::crowd::{Crowd, Done, Source};
use self::hits::{Hits, Sent};
use self::judge::{Round, Row, Terms};
use self::kinds::{BODIES_BYTES_MAX, BODY_BYTES_MAX, Deed, HEALTHY, Kind, LEFT, PLACES_FEW, TORN};
use crate::figures::{Bound, latency_ms, percentile_ms};
use crate::machine::{allow_open_files, open_files, resident_bytes, wait};
use crate::paced::{Pace, Paced, Sample};
use tidegate_witness::node::{self, Node, NodeError};

/// The healthy client: many connections of which each asks seldom, so that on a busy machine none owes more and more.
const PACE: Pace = Pace { kept: 20, new: 10, per_second: 20 };

/// How often the rounds of a kind are made, all together: whose latencies are over their bounds is given as many rounds again, and the
/// medians of all of them count.
const PASSES_MAX: usize = 3;

/// Longest wait for memory and files to come back.
const BACK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest wait for all of a crowd to be there.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often memory and files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Files that a process needs besides its connections.
const FILES_BESIDE: u64 = 512;

/// Units of each stock.
const UNITS: u64 = 1_000_000_000;

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins: the bytes of the garbage
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the kinds whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The program to try; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

/// How much to try.
#[derive(Debug, Clone, Copy)]
struct Amount {
    /// Rounds on a node with enough places, and on one with few.
    rounds: usize,
    rounds_crowded: usize,
    /// How long each round is without hostility, and with it.
    without: Duration,
    beside: Duration,
    /// What the healthy client may wait longer, in milliseconds.
    latency: Bound,
}

const SHORT: Amount = Amount {
    rounds: 3,
    rounds_crowded: 1,
    without: Duration::from_millis(400),
    beside: Duration::from_millis(700),
    latency: latency_ms(true),
};
const LONG: Amount = Amount {
    rounds: 5,
    rounds_crowded: 3,
    without: Duration::from_secs(1),
    beside: Duration::from_millis(2_500),
    latency: latency_ms(false),
};

/// With hostility, where it is seen only once places are given away.
const BESIDE_CROWDED: Duration = Duration::from_secs(4);

/// What came of a kind.
struct Outcome {
    kind: Kind,
    /// What the healthy client may wait longer, in milliseconds.
    latency: Bound,
    rounds: Vec<Round>,
    done: Done,
    wrong: Vec<String>,
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    match try_all(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the hostility could not be tried: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_all(options: &Options) -> Result<bool, NodeError> {
    let program = node::program(options.tidegate.as_deref())?;
    let amount = if options.short { SHORT } else { LONG };
    allow_open_files(kinds::IDLE as u64 + FILES_BESIDE)?;
    let began = Instant::now();
    let wanted = |kind: &Kind| options.only.as_ref().is_none_or(|text| kind.name.contains(text.as_str()));
    let (crowded, wide): (Vec<_>, Vec<_>) = kinds::all().into_iter().filter(wanted).partition(|kind| kind.is_crowded);
    // What is cut after a time is cut within a round.
    let short_limits = ["http.header_seconds_max=1", "http.body_seconds_max=1"].map(str::to_owned);
    let mut outcomes = on_one_node(&program, wide, &short_limits, amount, options.seed)?;
    // None is cut after a time, only for want of places.
    let few = [format!("http.connections_max={PLACES_FEW}")];
    let longer = Amount { rounds: amount.rounds_crowded, beside: BESIDE_CROWDED, ..amount };
    outcomes.extend(on_one_node(&program, crowded, &few, longer, options.seed)?);

    println!(
        "hostile connections beside a healthy client of {} requests/s, {} rounds of each kind ({} where places are few) and as many again, up to \
         twice, where a latency is over its bound, seed {}: {} s",
        (PACE.kept + PACE.new) * PACE.per_second,
        amount.rounds,
        amount.rounds_crowded,
        options.seed,
        began.elapsed().as_secs()
    );
    println!(
        "p99 in ms without -> beside, medians of the rounds; KiB: what memory grew for each connection at once; back: ms until memory and \
         files were"
    );
    println!(
        "{:<34}{:>8}{:>9}{:>9}{:>20}{:>20}{:>8}{:>7}{:>8}{:>8}",
        "kind", "at once", "made", "ended", "kept p99", "new p99", "failed", "KiB", "back", "broken"
    );
    let mut all_broken = Vec::new();
    for outcome in &outcomes {
        let broken = outcome.broken();
        println!("{}", outcome.line(broken.len()));
        all_broken.extend(broken.into_iter().map(|what| format!("{}: {what}", outcome.kind.name)));
    }
    println!(
        "held against: p99 at most twice or {} ms more; newcomers where all places are taken {} s; 64 KiB a connection, and {} MiB that are \
         nobody's; memory back within {} s to 5 % or 50 MiB; files to what they were",
        amount.latency.difference,
        judge::NEWCOMER_MS_MAX / 1e3,
        judge::MEMORY_BYTES_NOISE / 1_048_576.0,
        BACK_WAIT_MAX.as_secs(),
    );
    for what in &all_broken {
        println!("broken: {what}");
    }
    println!("{}", if all_broken.is_empty() { "every promise held" } else { "a promise was broken" });
    Ok(all_broken.is_empty() && !outcomes.is_empty())
}

impl Outcome {
    fn terms(&self) -> Terms {
        let Kind { is_crowded, memory_granted, .. } = self.kind;
        Terms { connections: self.kind.connections(), memory_granted, is_crowded, latency: self.latency }
    }

    fn broken(&self) -> Vec<String> {
        [judge::broken(&self.rounds, self.terms()), self.wrong.clone()].concat()
    }

    fn is_slow(&self) -> bool {
        !judge::slow(&self.rounds, self.terms()).is_empty()
    }

    fn line(&self, broken: usize) -> String {
        let row = Row::of(&self.rounds, self.terms());
        let pair = |(without, beside): (f64, f64)| format!("{without:.2} -> {beside:.2}");
        let Done { made, ended } = self.done;
        format!(
            "{:<34}{:>8}{made:>9}{ended:>9}{:>20}{:>20}{:>8}{:>7.1}{:>8.0}{broken:>8}",
            self.kind.name,
            self.kind.connections(),
            pair(row.kept_ms),
            pair(row.new_ms),
            row.failed,
            row.connection_bytes / 1_024.0,
            row.back_ms,
        )
    }
}

/// What is seen of a round before the healthy client's latencies are known.
struct Seen {
    kind: usize,
    without: (Instant, Instant),
    beside: (Instant, Instant),
    memory: (u64, u64, u64),
    files: (u64, u64),
    back: Duration,
}

impl Seen {
    fn round(&self, samples: &[Sample]) -> Round {
        let (kept_without, new_without, failed_without) = cut(samples, self.without);
        let (kept_beside, new_beside, failed_beside) = cut(samples, self.beside);
        Round {
            kept_ms: (kept_without, kept_beside),
            new_ms: (new_without, new_beside),
            failed: failed_without + failed_beside,
            memory: self.memory,
            files: self.files,
            back_ms: self.back.as_secs_f64() * 1e3,
        }
    }
}

fn on_one_node(program: &Path, kinds: Vec<Kind>, limits: &[String], amount: Amount, seed: u64) -> Result<Vec<Outcome>, NodeError> {
    let Amount { rounds, without, beside, latency, .. } = amount;
    let lengths = (without, beside);
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let common = [
        format!("http.body_bytes_max={BODY_BYTES_MAX}"),
        format!("http.batch_body_bytes_max={BODY_BYTES_MAX}"),
        format!("http.bodies_bytes_max={BODIES_BYTES_MAX}"),
        // Full at the beginning, so that it does not look like growth.
        "log.cache_bytes=1048576".to_owned(),
    ];
    let node = Node::start_temporary(program, 0, [limits, &common].concat())?;
    let address = node.place().ok_or_else(|| node.trouble("it is gone".to_owned()))?.address;
    for sku in [HEALTHY, LEFT, TORN] {
        node.put_stock(sku, &format!(r#"{{"quantity":{UNITS}}}"#))?;
    }
    let mut outcomes: Vec<Outcome> = kinds
        .into_iter()
        .map(|kind| Outcome { kind, latency, rounds: Vec::new(), done: Done::default(), wrong: Vec::new() })
        .collect();
    let mut wanted: Vec<usize> = (0..outcomes.len()).collect();
    let mut source = 0;
    for _ in 0..PASSES_MAX {
        let healthy = Paced::start(address, HEALTHY, PACE);
        wait(lengths.0);
        let mut looks = Vec::new();
        for round in 1..=rounds {
            for &kind in &wanted {
                source = source % 250 + 1;
                eprintln!("round {round} of {rounds}: {}", outcomes[kind].kind.name);
                let of_machine = (Source(source), seed + u64::from(source));
                looks.push(one_round(&node, address, kind, &mut outcomes[kind], of_machine, lengths)?);
            }
        }
        let samples = healthy.stop();
        for seen in looks {
            outcomes[seen.kind].rounds.push(seen.round(&samples));
        }
        wanted.retain(|kind| outcomes[*kind].is_slow());
        if wanted.is_empty() {
            break;
        }
    }
    for outcome in &mut outcomes {
        let what = hold_commands(&node, outcome)?;
        outcome.wrong.extend(what);
    }
    Ok(outcomes)
}

/// Latencies of a while, of kept connections and of new ones, and how many requests failed.
fn cut(samples: &[Sample], (from, to): (Instant, Instant)) -> (f64, f64, u64) {
    let within: Vec<&Sample> = samples.iter().filter(|sample| (from..to).contains(&sample.due)).collect();
    let p99 = |is_new| {
        let mut latencies: Vec<Duration> =
            within.iter().filter(|sample| sample.is_new == is_new).map(|sample| sample.latency).collect();
        percentile_ms(&mut latencies, 99.0).unwrap_or(f64::NAN)
    };
    (p99(false), p99(true), within.iter().filter(|sample| !sample.is_good()).count() as u64)
}

fn one_round(
    node: &Node,
    address: SocketAddr,
    number: usize,
    outcome: &mut Outcome,
    (source, seed): (Source, u64),
    lengths: (Duration, Duration),
) -> Result<Seen, NodeError> {
    let failed = |source| NodeError::Machine { what: "hostile connections cannot be made", source };
    let pid = node.process()?;
    let before = (resident_bytes(pid)?, usual_files(pid)?);
    let without = Instant::now();
    wait(lengths.0);
    let ends = AtomicBool::new(false);
    let kind = &outcome.kind;
    let (begun, ended, most, result) = thread::scope(|scope| {
        let (is_ready, ready) = mpsc::channel();
        let ends = &ends;
        let attack = scope.spawn(move || attack(kind, address, source, seed, &is_ready, ends));
        // An attack that fails hangs up.
        let _ = ready.recv_timeout(READY_WAIT_MAX);
        let begun = Instant::now();
        let mut most = Ok(0);
        while begun.elapsed() < lengths.1 {
            most = most.and_then(|most: u64| resident_bytes(pid).map(|bytes| bytes.max(most)));
            wait(LOOK_EVERY);
        }
        let ended = Instant::now();
        ends.store(true, Ordering::Relaxed);
        (begun, ended, most, attack.join().expect("an attack does not panic"))
    });
    let (done, wrong) = result.map_err(failed)?;
    let over = Instant::now();
    let mut after = (resident_bytes(pid)?, open_files(pid)?);
    while over.elapsed() < BACK_WAIT_MAX && !(judge::is_back((before.0, after.0)) && after.1 <= before.1) {
        wait(LOOK_EVERY);
        after = (resident_bytes(pid)?, open_files(pid)?);
    }
    outcome.done.made += done.made;
    outcome.done.ended += done.ended;
    outcome.wrong.extend(wrong);
    Ok(Seen {
        kind: number,
        without: (without, without + lengths.0),
        beside: (begun, ended),
        memory: (before.0, most?, after.0),
        files: (before.1, after.1),
        back: over.elapsed(),
    })
}

/// Open files, of a few looks the most: whether a newcomer of the healthy client is there at the moment must not matter.
fn usual_files(pid: u32) -> Result<u64, NodeError> {
    let mut most = 0;
    for _ in 0..5 {
        most = most.max(open_files(pid)?);
        wait(LOOK_EVERY);
    }
    Ok(most)
}

fn attack(
    kind: &Kind,
    address: SocketAddr,
    source: Source,
    seed: u64,
    ready: &mpsc::Sender<()>,
    ends: &AtomicBool,
) -> io::Result<(Done, Vec<String>)> {
    match &kind.deed {
        Deed::Crowd { count, opening, manner } => {
            let crowd = Crowd { address, source, count: *count, opening, manner: *manner };
            crowd.run(ready, ends).map(|done| (done, Vec::new()))
        }
        Deed::Hits { visitors, sent, end } => {
            // Nobody waits when the run is given up.
            let _ = ready.send(());
            Hits { address, source, visitors: *visitors, every: Kind::every(), sent, end: *end, seed }.run(ends)
        }
    }
}

/// Commands of clients that left count if they were whole, and never otherwise.
fn hold_commands(node: &Node, outcome: &Outcome) -> Result<Option<String>, NodeError> {
    #[derive(serde::Deserialize)]
    struct Stock {
        reserved: u64,
    }
    let Deed::Hits { sent: Sent::Reserves { sku, missing }, .. } = &outcome.kind.deed else { return Ok(None) };
    let due = if *missing == 0 { outcome.done.made } else { 0 };
    let began = Instant::now();
    loop {
        let Stock { reserved } = node.read(&format!("/v1/stocks/{sku}"))?;
        if reserved == due {
            return Ok(None);
        }
        if began.elapsed() >= BACK_WAIT_MAX {
            return Ok(Some(format!("{reserved} units of {sku} are reserved where {due} were asked for")));
        }
        wait(LOOK_EVERY);
    }
}
