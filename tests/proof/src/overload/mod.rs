//! Three times what a node can do: is the rest refused at once, does what is admitted go on as before, and is it over when it is over?
//!
//! Owns the course of a run and the table. The load is `generator`, and `judge` says what is broken. Node and generator share a machine,
//! so what the node can do is made small where it can be: its groups are of a few commands and one is under way at a time, so that the
//! disk's syncs are the limit, and its ring is as short as it may be. The door in front of it stays as it is.

mod generator;
mod judge;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use self::generator::{Answered, Arrivals, Load, Outcome, Plan, offer};
use self::judge::{FACTOR, Seen, Terms};
use crate::figures::{median, number, percentile_ms};
use crate::machine::{allow_open_files, wait};
use crate::paced::{Pace, Paced};
use tidegate_witness::node::{self, Node, NodeError};

/// The healthy client, before and after.
const PACE: Pace = Pace { kept: 20, new: 0, per_second: 10 };

/// How long it is watched before, and after.
const HEALTHY_WATCHED: Duration = Duration::from_secs(2);

/// How long after the end everything must be normal.
const NORMAL_AFTER: Duration = Duration::from_secs(1);

/// Closed loop: enough to fill the ring and what waits behind it.
const CONNECTIONS_CLOSED: usize = 128;

/// Open loop: so many that they are not the limit.
const CONNECTIONS_OPEN: usize = 1_500;

/// What the node is limited by.
const SETTINGS: [&str; 4] =
    ["engine.ring_slots=64", "engine.batch_commands_max=4", "engine.group_events_max=4", "engine.groups_in_flight_max=1"];

/// Runs that may be invalid before it is given up.
const ATTEMPTS_MAX: u32 = 3;

/// Open files that this process and the node need.
const FILES: u64 = CONNECTIONS_OPEN as u64 + 512;

const SKU: &str = "rush";

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins: when requests are due
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program to try; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

/// How much to try.
#[derive(Debug, Clone, Copy)]
struct Amount {
    peak: Duration,
    overload: Duration,
}

const SHORT: Amount = Amount { peak: Duration::from_secs(3), overload: Duration::from_secs(10) };
const LONG: Amount = Amount { peak: Duration::from_secs(10), overload: Duration::from_mins(1) };

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    match try_all(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the overload could not be tried: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_all(options: &Options) -> Result<bool, NodeError> {
    let program = node::program(options.tidegate.as_deref())?;
    let amount = if options.short { SHORT } else { LONG };
    let terms = Terms::of(options.short);
    allow_open_files(FILES)?;
    for attempt in 0..ATTEMPTS_MAX {
        let seed = options.seed + u64::from(attempt) * 100;
        let began = Instant::now();
        let found = one_run(&program, seed, amount)?;
        println!(
            "{FACTOR} times the peak for {} s, seed {seed}, on a node with {}: {} s",
            amount.overload.as_secs(),
            SETTINGS.join(", "),
            began.elapsed().as_secs()
        );
        print(&found, terms);
        // What the generator did wrong is no fault of the node's, and no sign of its health.
        if let Some(why) = judge::invalid(&found) {
            println!("no result: {why}");
            continue;
        }
        let broken = judge::broken(&found, terms);
        for what in &broken {
            println!("broken: {what}");
        }
        println!("{}", if broken.is_empty() { "every promise held" } else { "a promise was broken" });
        return Ok(broken.is_empty());
    }
    println!("SKIPPED: nothing was shown, because the machine was too busy in each of {ATTEMPTS_MAX} runs");
    // Of every change a busy machine may try it; who asks for the long form wants it shown.
    Ok(options.short)
}

fn print(seen: &Seen, terms: Terms) {
    let row = |what: &str, figure: String, bound: String| println!("  {what:<52}{figure:>22}   {bound}");
    let (before, after) = seen.healthy_p99_ms;
    row("peak, closed loop, admitted/s", format!("{:.0}", seen.peak_per_second), String::new());
    row("  p99 ms", format!("{:.2}", seen.peak_p99_ms), String::new());
    row("offered/s", format!("{:.0}", seen.offered_per_second), format!("{FACTOR} times the first peak"));
    row("  sent late, p99 ms", format!("{:.2}", seen.late_p99_ms), format!("at most {}", judge::LATE_MS_MAX));
    row(
        "  found no connection free",
        format!("{:.3} %", seen.waited_share * 100.0),
        format!("at most {} %", judge::WAITED_SHARE_MAX * 100.0),
    );
    row("  answered", format!("{:.3} %", seen.answered_share * 100.0), "all".to_owned());
    row("admitted/s", format!("{:.0}", seen.admitted_per_second), format!("at least {} of the peak", terms.admitted_share));
    let admitted = format!("at most {} times the peak's, or {} ms", judge::ADMITTED_FACTOR, judge::ADMITTED_MS);
    row("  p99 ms, from when it was due", format!("{:.2}", seen.admitted_p99_ms), admitted);
    row("refused", seen.refused.to_string(), "each with retry-after".to_owned());
    row("  p99 ms, from when it was due", format!("{:.2}", seen.refused_p99_ms), format!("at most {}", judge::REFUSAL_MS_MAX));
    row("other answers", seen.other.to_string(), "none".to_owned());
    row(
        "healthy client's p99 ms before -> 1 s after the end",
        format!("{before:.2} -> {after:.2}"),
        format!("at most twice, or {} ms more", terms.normal.difference),
    );
    row("  failed", seen.healthy_failed.to_string(), "none".to_owned());
}

fn one_run(program: &Path, seed: u64, amount: Amount) -> Result<Seen, NodeError> {
    let node = Node::start_temporary(program, 0, SETTINGS.map(str::to_owned).to_vec())?;
    let address = node.place().ok_or_else(|| node.trouble("it is gone".to_owned()))?.address;
    node.put_stock(SKU, r#"{"quantity":1000000000}"#)?;
    let load = |arrivals, connections, duration, part: u64| {
        let plan = Plan { address, sku: SKU, connections, arrivals, duration, seed: seed * 10 + part };
        offer(plan).map_err(|error| node.trouble(format!("a load of {arrivals:?} broke off: {error}")))
    };
    let closed = |duration, part| load(Arrivals::Closed, CONNECTIONS_CLOSED, duration, part);

    // Nobody has asked for anything yet: files grow, threads begin.
    closed(Duration::from_secs(1), 0)?;
    let healthy = Paced::start(address, SKU, PACE);
    wait(HEALTHY_WATCHED);
    let before = healthy.stop();
    let first = closed(amount.peak, 1)?;
    let peak = median(&admitted_each_second(&first));
    let over = load(Arrivals::Open { per_second: peak * FACTOR }, CONNECTIONS_OPEN, amount.overload, 2)?;
    let ended = Instant::now();
    let healthy = Paced::start(address, SKU, PACE);
    wait(NORMAL_AFTER + HEALTHY_WATCHED);
    let mut after = healthy.stop();
    after.retain(|sample| sample.due >= ended + NORMAL_AFTER);
    let second = closed(amount.peak, 3)?;

    let peaks = [admitted_each_second(&first), admitted_each_second(&second)].concat();
    let p99 = |mut latencies: Vec<Duration>| percentile_ms(&mut latencies, 99.0).unwrap_or(f64::NAN);
    let of = |load: &Load, wanted: Outcome| -> Vec<Duration> {
        load.answered.iter().filter(|answered| answered.outcome == wanted).map(|answered| answered.latency).collect()
    };
    let refused = of(&over, Outcome::Refused);
    let healthy_p99 = |samples: &[crate::paced::Sample]| p99(samples.iter().map(|sample| sample.latency).collect());
    Ok(Seen {
        peak_per_second: median(&peaks),
        peak_p99_ms: median(&[p99(of(&first, Outcome::Admitted)), p99(of(&second, Outcome::Admitted))]),
        offered_per_second: number(over.due) / over.elapsed.as_secs_f64(),
        answered_share: number(over.answered.len() as u64) / number(over.due),
        late_p99_ms: p99(over.lateness.clone()),
        waited_share: number(over.waited) / number(over.due),
        admitted_per_second: median(&admitted_each_second(&over)),
        admitted_p99_ms: p99(of(&over, Outcome::Admitted)),
        refused: refused.len() as u64,
        refused_p99_ms: p99(refused),
        other: over.answered.iter().filter(|answered| matches!(answered.outcome, Outcome::Other(_))).count() as u64,
        healthy_p99_ms: (healthy_p99(&before), healthy_p99(&after)),
        healthy_failed: before.iter().chain(&after).filter(|sample| !sample.is_good()).count() as u64,
    })
}

/// Grants of each whole second of a load, by when their answers were there.
fn admitted_each_second(load: &Load) -> Vec<f64> {
    let seconds = load.elapsed.as_secs();
    let mut counts = vec![0; usize::try_from(seconds).unwrap_or(0)];
    for Answered { due, latency, outcome } in &load.answered {
        let second = usize::try_from((*due + *latency).as_secs()).unwrap_or(usize::MAX);
        if *outcome == Outcome::Admitted
            && let Some(count) = counts.get_mut(second)
        {
            *count += 1;
        }
    }
    counts.into_iter().map(number).collect()
}
