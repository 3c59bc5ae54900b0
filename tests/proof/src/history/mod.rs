//! Histories of concurrent clients of a real node, and whether any order of their calls explains every answer.
//!
//! Owns the plan of the runs and the table. The node, its clients and the first judge are `tidegate-witness`, which takes the change feed
//! for the order of all changes; the second, `model`, needs no feed and searches for an order.

pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Instant;

use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use model::Verdict;
use tidegate_witness::clients::{Client, Plan, Recorded, Shared};
use tidegate_witness::finding::{Fault, Finding};
use tidegate_witness::node::{self, Node, NodeError};
use tidegate_witness::record::{Answer, Call, Change};
use tidegate_witness::witness;

/// Clients of a large history, and of a small one.
const CLIENTS_LARGE: usize = 12;
const CLIENTS_SMALL: usize = 8;

/// Wants of each client of a small history: about 200 calls of all.
const WANTS_SMALL: usize = 20;

/// One in so many searches may be given up.
const UNDECIDED_SHARE: u64 = 10;

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The small part of it, for every change
    #[arg(long)]
    short: bool,
    /// Where the randomness begins; a finding names its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program to try; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
}

/// How much to try.
#[derive(Debug, Clone, Copy)]
struct Amount {
    large_runs: u64,
    large_wants: usize,
    small_runs: u64,
    small_rounds: usize,
}

const SHORT: Amount = Amount { large_runs: 3, large_wants: 2_000, small_runs: 2, small_rounds: 8 };
const LONG: Amount = Amount { large_runs: 16, large_wants: 3_000, small_runs: 12, small_rounds: 25 };

/// What came of one run, or of several.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    histories: u64,
    calls: u64,
    answers: u64,
    unknown: u64,
    refused: u64,
    kills: u64,
    changes: u64,
    undecided: u64,
    findings: Vec<(u64, Finding)>,
    kinds: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, mut other: Self) {
        self.runs += other.runs;
        self.histories += other.histories;
        self.calls += other.calls;
        self.answers += other.answers;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.kills += other.kills;
        self.changes += other.changes;
        self.undecided += other.undecided;
        self.findings.append(&mut other.findings);
        other.kinds.into_iter().for_each(|(kind, count)| *self.kinds.entry(kind).or_default() += count);
    }

    fn row(&self, name: &str) -> String {
        let Self { runs, histories, calls, answers, unknown, refused, kills, changes, undecided, findings, .. } = self;
        let findings = findings.len();
        format!(
            "{name:<16}{runs:>6}{histories:>11}{calls:>9}{answers:>9}{unknown:>9}{refused:>9}{kills:>7}{changes:>9}{undecided:>11}{findings:>10}"
        )
    }

    fn count(&mut self, calls: &[Call]) {
        for call in calls {
            let kind = match &call.answer {
                Answer::Unknown => {
                    self.unknown += 1;
                    continue;
                }
                Answer::Rejected { code } => code.clone(),
                answer if answer.is_replayed() => "(repeats)".to_owned(),
                _ => call.op.kind().unwrap_or("(reads)").to_owned(),
            };
            self.answers += 1;
            *self.kinds.entry(kind).or_default() += 1;
        }
        self.calls += calls.len() as u64;
        self.histories += 1;
    }
}

/// Tries, and prints what came of it.
pub(crate) fn run(options: &Options) -> ExitCode {
    match try_all(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the histories could not be made: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_all(options: &Options) -> Result<bool, NodeError> {
    let program = node::program(options.tidegate.as_deref())?;
    let amount = if options.short { SHORT } else { LONG };
    let began = Instant::now();
    let (mut large, mut small) = (Tally::default(), Tally::default());
    // Everything about a run follows from its own seed, so that one alone can be run again.
    for run in 0..amount.large_runs {
        let seed = options.seed + run;
        large.add(one_run(&program, seed, &large_plan(amount.large_wants, run % 3 == 0), 1, (seed / 2 + 1) % 4)?);
    }
    for run in 0..amount.small_runs {
        let seed = options.seed + run;
        small.add(one_run(&program, seed, &small_plan(), amount.small_rounds, (seed / 2 + 1) % 2)?);
    }

    println!("histories of concurrent clients, seed {}: {} s", options.seed, began.elapsed().as_secs());
    println!(
        "{:<16}{:>6}{:>11}{:>9}{:>9}{:>9}{:>9}{:>7}{:>9}{:>11}{:>10}",
        "checked by", "runs", "histories", "calls", "answers", "unknown", "refused", "kills", "changes", "undecided", "findings"
    );
    println!("{}", large.row("feed"));
    println!("{}", small.row("feed and search"));
    let mut kinds = large.kinds;
    small.kinds.iter().for_each(|(kind, count)| *kinds.entry(kind.clone()).or_default() += count);
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("answers: {}", kinds.join(", "));
    let findings: Vec<_> = large.findings.iter().chain(&small.findings).collect();
    for (seed, finding) in &findings {
        println!("\nseed {seed}: {finding}");
    }
    // The feed has judged those histories too whose search was given up; but a search that seldom ends shows nothing.
    let holds = findings.is_empty() && small.undecided * UNDECIDED_SHARE <= small.histories;
    println!("{}", if holds { "every answer has its place" } else { "a promise was broken, or not shown to hold" });
    Ok(holds)
}

/// Clients who get into each other's way on a few stocks that are theirs for long, with holds that lapse.
pub(crate) fn large_plan(wants: usize, archives: bool) -> Plan {
    Plan {
        clients: CLIENTS_LARGE,
        wants,
        skus: (0..3).map(|number| format!("large-{number}")).collect(),
        users: 24,
        quantity: 24,
        per_user_limit: 3,
        hold_seconds_max: 3,
        lapses: true,
        batches: true,
        archives,
    }
}

/// Clients of one stock whose calls are few enough to be searched for an order.
pub(crate) fn small_plan() -> Plan {
    Plan {
        clients: CLIENTS_SMALL,
        wants: WANTS_SMALL,
        skus: Vec::new(),
        users: 6,
        quantity: 6,
        per_user_limit: 2,
        hold_seconds_max: 3_600,
        lapses: false,
        batches: true,
        archives: true,
    }
}

/// One node, `rounds` of clients on stocks of their own, `kills` in each round at most, and a last kill and start before the feed is
/// read: what was acknowledged must be there, and what was under way is over.
fn one_run(program: &Path, seed: u64, plan: &Plan, rounds: usize, kills: u64) -> Result<Tally, NodeError> {
    // Every other run keeps little in memory, so that snapshots, the history and space given back take part.
    let small_memory = ["engine.resolved_in_memory_max=10", "snapshots.log_bytes=1048576", "log.segment_bytes_max=1048576"];
    let settings: Vec<String> = small_memory.iter().filter(|_| seed % 2 == 1).map(|setting| (*setting).to_owned()).collect();
    let node = Node::start_temporary(program, plan.clients, settings)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tally = Tally { runs: 1, ..Tally::default() };
    let mut recorded: Vec<(Vec<String>, Vec<Recorded>)> = Vec::new();
    for round in 0..rounds {
        let mut plan = plan.clone();
        if plan.skus.is_empty() {
            plan.skus = vec![format!("small-{round}")];
            // Every other one is for the search that cannot take batches.
            plan.batches = round % 2 == 1;
        }
        for sku in &plan.skus {
            let (quantity, limit) = (plan.quantity, plan.per_user_limit);
            let body = serde_json::json!({ "quantity": quantity, "per_user_limit": limit, "hold_seconds_max": 3_600 });
            node.put_stock(sku, &body.to_string())?;
        }
        let kills = if rounds > 1 && round % 3 != 0 { 0 } else { kills };
        let all = (plan.clients * plan.wants) as u64;
        let mut moments: Vec<u64> = (0..kills).map(|_| rng.random_range(all / 10..all * 9 / 10)).collect();
        moments.sort_unstable();
        let (calls, refused) = one_round(&node, rng.random(), &plan, &moments)?;
        tally.refused += refused;
        tally.kills += kills;
        recorded.push((plan.skus, calls));
    }
    node.kill_and_restart()?;
    tally.kills += 1;
    let mut feed: HashMap<String, Vec<Change>> = HashMap::new();
    for change in node.feed()? {
        feed.entry(change.sku.clone()).or_default().push(change);
    }
    let ends = node.ends();
    for (skus, calls) in recorded {
        let mut by_sku: Vec<Vec<Call>> = vec![Vec::new(); skus.len()];
        for Recorded { sku, start, mut call } in calls {
            if call.answer == Answer::Unknown {
                call.ended = ends[start];
            }
            by_sku[sku].push(call);
        }
        for (sku, calls) in skus.iter().zip(&by_sku) {
            tally.count(calls);
            let changes = feed.remove(sku).unwrap_or_default();
            tally.changes += changes.len() as u64;
            let (settled, sure) = model::settle(calls, &changes);
            let found = witness::check(sku, calls, changes);
            tally.findings.extend(found.into_iter().map(|finding| (seed, finding)));
            if !plan.lapses {
                match model::check(sku, &settled, &sure, plan.quantity, Some(plan.per_user_limit)) {
                    Verdict::Linearizable => {}
                    Verdict::Not(finding) => tally.findings.push((seed, finding)),
                    Verdict::Undecided => tally.undecided += 1,
                }
            }
        }
    }
    for (sku, changes) in feed {
        let piece = changes.iter().take(3).map(Change::line).collect();
        tally.findings.push((seed, Finding { fault: Fault::Invented, sku, piece }));
    }
    eprintln!(
        "seed {seed}: {} histories, {} calls, {} kills, {} given up, {} findings, {} ms",
        tally.histories,
        tally.calls,
        tally.kills,
        tally.undecided,
        tally.findings.len(),
        node.now() / 1_000_000
    );
    Ok(tally)
}

/// All clients at once, and the node killed when so many answers as `kills` name are there.
fn one_round(node: &Node, seed: u64, plan: &Plan, kills: &[u64]) -> Result<(Vec<Recorded>, u64), NodeError> {
    let shared: Vec<Mutex<Shared>> = plan.skus.iter().map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        let (answered, answers) = mpsc::channel();
        let clients: Vec<_> = (0..plan.clients)
            .map(|number| {
                let mut client = Client::new(number, seed, node, plan, &shared, answered.clone());
                scope.spawn(move || {
                    client.work();
                    client.take()
                })
            })
            .collect();
        drop(answered);
        let mut count = 0;
        let mut outcome = Ok(());
        for kill in kills {
            while count < *kill && answers.recv().is_ok() {
                count += 1;
            }
            outcome = outcome.and_then(|()| node.kill_and_restart());
        }
        drop(answers);
        let (mut calls, mut refused) = (Vec::new(), 0);
        for client in clients {
            let (own, own_refused) = client.join().expect("a client does not panic");
            calls.extend(own);
            refused += own_refused;
        }
        outcome.map(|()| (calls, refused))
    })
}
