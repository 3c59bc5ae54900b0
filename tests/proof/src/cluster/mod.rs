//! A cluster of real nodes under load, and harm from a seed: nodes are killed, frozen, cut off, filled up, renewed and replaced.
//!
//! Owns the plan of the runs, the end of each, and the table. The nodes are `fleet`, where they are is `site`, what is done to them `harm`; a
//! `round` has clients of the histories and `probe`s at work around one harm, and `judge` says what is broken, with the feeds of all nodes
//! (`feeds`) as what happened.

mod feeds;
mod fleet;
mod harm;
mod judge;
mod probe;
mod round;
mod seen;
mod site;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::process::Signal;
use serde_json::Value;

use self::feeds::{Feeds, differences};
use self::fleet::{Fleet, FleetOptions};
use self::harm::Harm;
use self::judge::{PAUSE_P99_MS_MAX, PAUSE_P99_MS_WISHED, Pause};
use self::round::{CLIENTS, Course, Outcome};
use self::site::Site;
use crate::figures::percentile_ms;
use tidegate_witness::node::{self, NodeError};

/// Shards of the cluster: one, so that a harm to whoever leads is a harm to every stock.
const SHARDS: u16 = 1;

/// Every limit at its least, in every other run: snapshots and the history take part, and whoever comes back late finds the log's beginning gone.
const TIGHT: [&str; 4] = [
    "engine.resolved_in_memory_max=10",
    "snapshots.log_bytes=1048576",
    "snapshots.interval_seconds=10",
    "cluster.late_entries_kept=0",
];

/// Kills of one round that is about pauses.
const KILLS_EACH: u64 = 5;

/// One in so many searches may be given up.
const UNDECIDED_SHARE: u64 = 10;

/// Findings of one round that are told.
const BROKEN_SHOWN: usize = 8;

/// The argument with which this program goes on in namespaces of its own.
const WITHIN: &str = "--within";

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins; a finding names its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many nodes: 3 or 5
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// Kills of whichever leads whose pauses are measured [default: 100; 3 in the short form]
    #[arg(long, value_name = "NUMBER")]
    kills: Option<u64>,
    /// Rounds of each harm [default: 3; 1 in the short form]
    #[arg(long, value_name = "NUMBER")]
    rounds: Option<u64>,
    /// These harms alone
    #[arg(long, value_name = "HARM", value_delimiter = ',')]
    only: Vec<Harm>,
    /// A setting of all nodes other than the default, such as `cluster.election_ms_max=750`
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The program to try; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
    /// Keep the directories and logs of a run that finds something
    #[arg(long)]
    keep: bool,
    /// This is a process in namespaces of its own already
    #[arg(long, hide = true)]
    within: bool,
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    if !options.within {
        let why = site::enter(WITHIN);
        println!("SKIPPED: no node is cut off and no disk is filled, because {why}");
    }
    match try_all(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the cluster could not be tried: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What came of all rounds of a harm.
#[derive(Debug, Default)]
struct Row {
    rounds: u64,
    outcome: Outcome,
}

/// What came of everything.
#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Harm, Row>,
    broken: Vec<String>,
    skipped: Vec<Harm>,
    stocks: u64,
}

fn try_all(options: &Options) -> Result<bool, NodeError> {
    let program = node::program(options.tidegate.as_deref())?;
    let began = Instant::now();
    let kills = options.kills.unwrap_or(if options.short { 3 } else { 100 });
    let rounds = options.rounds.unwrap_or(if options.short { 1 } else { 3 });
    let mut table = Table::default();
    let is_wanted = |harm: &Harm| options.only.is_empty() || options.only.contains(harm);
    let all = || Harm::value_variants().iter().copied().filter(is_wanted);
    if options.within {
        // A row of the short form has every harm once; both kinds of settings have their turn.
        for round in 0..rounds {
            let seed = options.seed + round;
            one_cluster(&program, options, seed, all().map(|harm| (harm, 1, true)).collect(), &mut table)?;
        }
    } else {
        table.skipped = all().filter(|harm| harm.needs_networks()).collect();
        for round in 0..rounds {
            let plan = all().filter(|harm| !harm.needs_networks()).map(|harm| (harm, 1, true)).collect();
            one_cluster(&program, options, options.seed + round, plan, &mut table)?;
        }
    }
    if kills > 0 && is_wanted(&Harm::KillLeader) {
        let plan =
            (0..kills.div_ceil(KILLS_EACH)).map(|round| (Harm::KillLeader, KILLS_EACH.min(kills - round * KILLS_EACH), false));
        one_cluster(&program, options, options.seed, plan.collect(), &mut table)?;
    }
    Ok(report(options, &table, began.elapsed()))
}

/// A round to play: the harm, how often, and whether clients leave the nodes no rest.
type Planned = (Harm, u64, bool);

/// One cluster from its making to its end, with a round for each of the plan.
fn one_cluster(program: &Path, options: &Options, seed: u64, plan: Vec<Planned>, table: &mut Table) -> Result<(), NodeError> {
    if plan.is_empty() {
        return Ok(());
    }
    let nodes = usize::from(options.nodes);
    let site = if options.within { Site::networks(nodes)? } else { Site::loopback() };
    // Every other cluster keeps little.
    let is_tight = seed.is_multiple_of(2);
    let tight = TIGHT.iter().filter(|_| is_tight).map(|setting| (*setting).to_owned());
    let settings = tight.chain(options.set.iter().cloned()).collect();
    let mut fleet = Fleet::start(site, FleetOptions { program, nodes, shards: SHARDS, clients: CLIENTS, settings })?;
    let mut feeds = Feeds::new(nodes);
    // Whoever takes a snapshot has nothing of the feed before it; a node that joins may.
    let is_whole = !is_tight && plan.iter().all(|(harm, ..)| *harm != Harm::DamagedDirectory);
    let before = table.broken.len();
    let mut went = Ok(());
    let mut played: BTreeMap<Harm, u64> = BTreeMap::new();
    for (number, (harm, strikes, is_crowded)) in (0..).zip(plan) {
        // Of the harm and how often it was there, not of its place, so that a harm alone can be tried again.
        let again = played.entry(harm).or_default();
        let course_seed = seed.wrapping_mul(1_000_003).wrapping_add(harm as u64 * 1_000 + *again);
        *again += 1;
        let course = Course { number, seed: course_seed, harm, strikes, is_crowded };
        let began = Instant::now();
        match round::play(&fleet, &mut feeds, course) {
            Ok(outcome) => {
                eprintln!("{}", line(seed, harm, &outcome, began.elapsed()));
                let of = format!("seed {seed}, {}", harm.name());
                table.broken.extend(outcome.broken.iter().take(BROKEN_SHOWN).map(|broken| format!("{of}: {broken}")));
                let row = table.rows.entry(harm).or_default();
                row.rounds += 1;
                row.outcome.add(outcome);
            }
            Err(error) => {
                went = Err(NodeError::Node { what: format!("seed {seed}, {}", harm.name()), log: error.to_string() });
                break;
            }
        }
    }
    let went = went.and_then(|()| end(&fleet, &mut feeds, is_whole)).map(|(stocks, broken)| {
        table.stocks += stocks;
        table.broken.extend(broken.into_iter().map(|broken| format!("seed {seed}, at the end: {broken}")));
    });
    if options.keep && (went.is_err() || table.broken.len() > before) {
        eprintln!("kept: {}", fleet.keep().display());
    }
    went
}

/// The end of a cluster: once all is at rest every node must have the same, everything that was judged must be there, every node must stop when it
/// is told to, and every directory be whole. `is_whole`: every node's feed must be, too. Gives how many stocks were compared, and what is broken.
fn end(fleet: &Fleet, feeds: &mut Feeds, is_whole: bool) -> Result<(u64, Vec<String>), NodeError> {
    let mut broken = Vec::new();
    // Holds of seconds lapse; then nothing moves any more.
    let mut shown = Vec::new();
    fleet.wait_until(0, "the nodes do not come to rest with the same stocks", || {
        shown = (0..fleet.len()).filter_map(|place| fleet.read::<Value>(place, "/v1/stocks?limit=1000")).collect();
        Ok(shown.len() == fleet.len() && shown.iter().all(|stocks| *stocks == shown[0] && is_at_rest(stocks)))
    })?;
    fleet.wait_whole(0)?;
    (0..fleet.len()).for_each(|place| feeds.forget(place));
    broken.extend(feeds.read(fleet)?);
    broken.extend(feeds.hold_past(is_whole));
    for place in 1..fleet.len() {
        let (one, other) = (&feeds.nodes[0].changes, &feeds.nodes[place].changes);
        broken.extend(differences((fleet.number(0), one), (fleet.number(place), other)));
    }
    for place in 0..fleet.len() {
        fleet.signal(place, Signal::TERM)?;
        let status = fleet.wait_end(place)?;
        if !status.success() {
            broken.push(format!("told to stop, node {} ended with {status}", fleet.number(place)));
        }
    }
    let mut stocks: Vec<Value> = Vec::new();
    for place in 0..fleet.len() {
        let output = fleet.verify(place)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            broken.push(format!("the directory of node {} is not whole: {} {}", fleet.number(place), said.trim(), why.trim()));
        }
        let mut said = serde_json::from_str::<Value>(&said).unwrap_or_default();
        stocks.push(said["report"]["stocks"].take());
    }
    for place in 1..fleet.len() {
        if stocks[place] != stocks[0] {
            let (one, other) = (fleet.number(0), fleet.number(place));
            broken.push(format!(
                "the directories of nodes {one} and {other} hold different stocks: {} and {}",
                stocks[0], stocks[place]
            ));
        }
    }
    broken.extend(feeds.hold_stocks(&stocks[0]));
    let count = stocks[0].as_array().map_or(0, Vec::len);
    if count == 0 {
        broken.push("the directories hold no stocks".to_owned());
    }
    Ok((count as u64, broken))
}

/// Whether no hold of seconds is left: only stocks of the probes and of small histories have others.
fn is_at_rest(stocks: &Value) -> bool {
    let is_large = |stock: &&Value| stock["sku"].as_str().is_some_and(|sku| sku.starts_with("large-"));
    stocks["stocks"].as_array().is_some_and(|all| all.iter().filter(is_large).all(|stock| stock["reserved"] == 0))
}

fn line(seed: u64, harm: Harm, outcome: &Outcome, took: Duration) -> String {
    let Outcome { strikes, calls, unknown, refused, changes, undecided, gaps, broken, .. } = outcome;
    let gaps: Vec<String> = gaps.iter().map(|gap| gap.as_millis().to_string()).collect();
    format!(
        "seed {seed}: {:<22} {strikes} times, {calls} calls, {unknown} unknown, {refused} refused, {changes} changes, {undecided} given up, others \
         grant after [{}] ms, {} findings, {} ms",
        harm.name(),
        gaps.join(", "),
        broken.len(),
        took.as_millis()
    )
}

impl Outcome {
    fn add(&mut self, mut other: Self) {
        self.strikes += other.strikes;
        self.calls += other.calls;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.changes += other.changes;
        self.histories += other.histories;
        self.searched += other.searched;
        self.undecided += other.undecided;
        self.pauses.append(&mut other.pauses);
        self.gaps.append(&mut other.gaps);
        other.kinds.into_iter().for_each(|(kind, count)| *self.kinds.entry(kind).or_default() += count);
        self.broken.append(&mut other.broken);
    }
}

/// Prints everything; gives whether every promise held.
fn report(options: &Options, table: &Table, took: Duration) -> bool {
    let with = if options.set.is_empty() { String::new() } else { format!(" with {}", options.set.join(", ")) };
    println!("a cluster of {} real nodes{with} under load and harm, seed {}: {} s", options.nodes, options.seed, took.as_secs());
    println!(
        "{:<22}{:>7}{:>7}{:>9}{:>9}{:>9}{:>9}{:>11}{:>11}{:>14}{:>10}",
        "harm", "rounds", "times", "calls", "unknown", "refused", "changes", "histories", "undecided", "grants in ms", "findings"
    );
    for (harm, Row { rounds, outcome }) in &table.rows {
        let Outcome { strikes, calls, unknown, refused, changes, histories, undecided, gaps, broken, .. } = outcome;
        let longest = gaps.iter().max().map_or_else(|| "-".to_owned(), |gap| format!("<= {}", gap.as_millis()));
        println!(
            "{:<22}{rounds:>7}{strikes:>7}{calls:>9}{unknown:>9}{refused:>9}{changes:>9}{histories:>11}{undecided:>11}{longest:>14}{:>10}",
            harm.name(),
            broken.len()
        );
    }
    for harm in &table.skipped {
        println!("{:<22}SKIPPED: it needs networks and disks of the nodes' own", harm.name());
    }
    for (harm, Row { outcome, .. }) in table.rows.iter().filter(|(harm, _)| harm.is_in_order()) {
        let kinds: Vec<String> = outcome.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("{}: heard {}", harm.name(), kinds.join(", "));
    }
    let pauses = table.rows.get(&Harm::KillLeader).map_or(&[][..], |row| &row.outcome.pauses);
    print_pauses(pauses);
    println!("stocks compared on all nodes at the end: {}", table.stocks);
    let mut broken = table.broken.clone();
    if !options.short && options.only.is_empty() && options.kills != Some(0) {
        broken.extend(judge::pauses(pauses));
    }
    let sum = |pick: fn(&Outcome) -> u64| table.rows.values().map(|row| pick(&row.outcome)).sum::<u64>();
    if sum(|outcome| outcome.undecided) * UNDECIDED_SHARE > sum(|outcome| outcome.searched) {
        // The feeds have judged those histories too; but a search that seldom ends shows nothing.
        broken.push("too many searches for an order were given up".to_owned());
    }
    for what in &broken {
        println!("\nbroken: {what}");
    }
    println!("{}", if broken.is_empty() { "every promise held" } else { "a promise was broken, or not shown to hold" });
    broken.is_empty()
}

fn print_pauses(pauses: &[Pause]) {
    if pauses.is_empty() {
        return;
    }
    println!("from the kill of whichever led, in ms          min     p50     p90     p99     max    of");
    let row = |name: &str, pick: &dyn Fn(&Pause) -> Option<Duration>| {
        let mut all: Vec<Duration> = pauses.iter().filter_map(pick).collect();
        let count = all.len();
        let mut at = |percentile| percentile_ms(&mut all, percentile).unwrap_or(f64::NAN);
        let [min, p50, p90, p99, max] = [0.0, 50.0, 90.0, 99.0, 100.0].map(&mut at);
        println!("  {name:<42}{min:>6.0}{p50:>8.0}{p90:>8.0}{p99:>8.0}{max:>8.0}{count:>6}");
    };
    row("until another stands for election", &|pause| pause.stands);
    row("until another decides", &|pause| pause.decides);
    row("until the first new grant", &|pause| Some(pause.grants));
    println!("  held against: p99 at most {PAUSE_P99_MS_MAX:.0} ms, in the long form; wished for: {PAUSE_P99_MS_WISHED:.0} ms");
}
