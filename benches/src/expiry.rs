//! Many holds that fall due at the same millisecond, while callers come at their own pace for the same product and for another.
//!
//! The node's clock stands still while the holds are made, so that all end together, and runs on from shortly before that moment. The
//! product has exactly as many units as there are holds: callers for it are sold out before, and served from what comes back.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_engine::{Clock, EngineOptions, Failure, partition_of};
use tidegate_persistence::Durability;
use tidegate_stock::{Command, Rejection, Sku, Timestamp};

use crate::callers::{Outcome, Paced, fill, open_loop};
use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, Latencies, Run, median, medians, number, per_second};
use crate::node::{Node, NodeParameters};
use crate::sample::{HOLD_SECONDS, START, create, reserve_named, sku, terms};

/// Units of the other product: more than all callers ask for.
const OTHER_UNITS: u64 = 1_000_000_000;

/// Longest wait for the units to be back.
const BACK_WAIT_MAX: Duration = Duration::from_mins(2);

/// What to measure.
#[derive(Debug, Clone)]
pub struct ExpiryParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What an answer survives.
    pub durability: Durability,
    /// The machine's limits.
    pub options: EngineOptions,
    /// Holds that fall due together.
    pub holds: u64,
    /// Callers in a second, every other one for the product whose holds fall due.
    pub rate: f64,
    /// How long callers come before the holds fall due.
    pub before: Duration,
    /// How long they come after all units are back.
    pub after: Duration,
    /// Rounds, each on a new node.
    pub rounds: usize,
}

impl ExpiryParameters {
    /// For figures: a million holds, 2,000 callers a second from eight seconds before until eight seconds after, five rounds.
    pub fn full(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            durability: Durability::PowerLoss,
            options: EngineOptions::default(),
            holds: 1_000_000,
            rate: 2_000.0,
            before: Duration::from_secs(8),
            after: Duration::from_secs(8),
            rounds: 5,
        }
    }

    /// For tests: 5,000 holds, once.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        let (before, after) = (Duration::from_millis(100), Duration::from_millis(100));
        Self { holds: 5_000, rate: 500.0, before, after, rounds: 1, ..Self::full(directory) }
    }
}

/// A clock that stands still until it is let go, and then runs on from another moment.
struct StandingClock(OnceLock<(Timestamp, Instant)>);

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        self.0.get().map_or(START, |(from, since)| {
            let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            Timestamp::from_unix_ms(from.unix_ms().saturating_add(elapsed))
        })
    }
}

/// Measures. Fails unless all units come back, and every caller has the answer that is due to them.
pub fn run(parameters: &ExpiryParameters) -> Result<Vec<Figure>, BenchError> {
    // In turns with rounds in which nothing goes to the history afterwards, which tell what the going costs.
    let staying = EngineOptions { resolved_in_memory_max: usize::MAX, ..parameters.options };
    let rounds = (0..parameters.rounds).map(|_| Ok((round(parameters, parameters.options)?, round(parameters, staying)?)));
    let (rounds, all_stay): (Vec<_>, Vec<_>) = rounds.collect::<Result<Vec<_>, BenchError>>()?.into_iter().unzip();
    let durability = parameters.durability.to_string();
    let back: Vec<f64> = rounds.iter().map(|round| round.back.as_secs_f64()).collect();
    let longest = |pick: fn(&Round) -> f64| rounds.iter().map(pick).fold(0.0, f64::max);
    let after = |round: &Round| round.same.after.max_ms().max(round.other.after.max_ms());
    let before = |round: &Round| round.same.before.max_ms().max(round.other.before.max_ms());
    let median_of = |rounds: &[Round], pick: fn(&Round) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
    let figure = |what: String, unit, runs: &[Run], more| {
        let (rate, spread, latency) = medians(runs);
        Figure {
            bench: "expiry",
            what,
            durability: durability.clone(),
            group_events: None,
            unit,
            rate,
            runs: runs.len(),
            spread,
            latency: Some(latency),
            against: None,
            more,
        }
    };
    let callers = |pick: fn(&Round) -> &Seen| {
        let of = |round: &Round| Run {
            rate: per_second(round.paced.came / 2, round.paced.elapsed),
            latency: pick(round).under.percentiles(),
        };
        let seen: Vec<&Seen> = rounds.iter().map(pick).collect();
        let max = |of: fn(&Seen) -> &Latencies| seen.iter().map(|seen| of(seen).max_ms()).fold(0.0, f64::max);
        let more = vec![
            Detail { name: "max_before_ms", value: max(|seen| &seen.before) },
            Detail { name: "max_ms", value: max(|seen| &seen.under) },
            Detail { name: "max_after_ms", value: max(|seen| &seen.after) },
        ];
        (rounds.iter().map(of).collect::<Vec<_>>(), more)
    };
    let holds = parameters.holds;
    let mut units = figure(
        format!("{holds} holds due at once, until all units are back; latency of callers meanwhile"),
        "units/s",
        &rounds.iter().map(Round::units_back).collect::<Vec<_>>(),
        vec![
            Detail { name: "back_seconds", value: median(&back) },
            Detail { name: "back_seconds_worst", value: back.iter().copied().fold(0.0, f64::max) },
            Detail { name: "longest_delay_ms", value: longest(|round| round.same.under.max_ms().max(round.other.under.max_ms())) },
            Detail { name: "longest_delay_after_ms", value: longest(after) },
            Detail { name: "longest_delay_after_median_ms", value: median_of(&rounds, after) },
            Detail { name: "longest_delay_after_all_stay_ms", value: all_stay.iter().map(after).fold(0.0, f64::max) },
            Detail { name: "longest_delay_after_all_stay_median_ms", value: median_of(&all_stay, after) },
            Detail { name: "longest_delay_before_ms", value: longest(before) },
            Detail { name: "longest_delay_before_median_ms", value: median_of(&rounds, before) },
            Detail { name: "log_bytes_per_hold", value: longest(|round| number(round.written)) / number(holds) },
            Detail { name: "refused", value: longest(|round| number(round.paced.refused)) },
        ],
    );
    units.rate = median(&back.iter().map(|seconds| number(holds) / seconds).collect::<Vec<_>>());
    let (same, same_more) = callers(|round| &round.same);
    let (other, other_more) = callers(|round| &round.other);
    Ok(vec![
        units,
        figure(format!("callers for the same product, while {holds} holds lapse"), "answers/s", &same, same_more),
        figure(format!("callers for another product, while {holds} holds lapse"), "answers/s", &other, other_more),
    ])
}

/// Latencies of callers for one product.
#[derive(Default)]
struct Seen {
    /// Of those answered before the holds fell due.
    before: Latencies,
    /// Of those answered while units came back.
    under: Latencies,
    /// Of those answered when all were back.
    after: Latencies,
}

struct Round {
    back: Duration,
    /// Bytes of the log, those of the callers included.
    written: u64,
    same: Seen,
    other: Seen,
    paced: Paced,
}

impl Round {
    fn units_back(&self) -> Run {
        let mut all = self.same.under.clone();
        all.add(&self.other.under);
        Run { rate: 1.0 / self.back.as_secs_f64().max(f64::MIN_POSITIVE), latency: all.percentiles() }
    }
}

fn round(parameters: &ExpiryParameters, options: EngineOptions) -> Result<Round, BenchError> {
    let clock = Arc::new(StandingClock(OnceLock::new()));
    let node_parameters = NodeParameters {
        clock: Arc::<StandingClock>::clone(&clock),
        options,
        ..NodeParameters::new(parameters.directory.clone(), parameters.durability)
    };
    let (node, _folder) = Node::start(&node_parameters)?;
    let (same, other) = (sku(), Sku::new("other-product").map_err(|error| BenchError::Wrong(error.to_string()))?);
    node.accept(create(parameters.holds))?;
    let Command::CreateStock { quantity, .. } = create(OTHER_UNITS) else { unreachable!("a stock is opened") };
    node.accept(Command::CreateStock { partition: partition_of(&other), sku: other.clone(), quantity, terms: terms() })?;
    fill(&node, (0..parameters.holds).map(|number| (reserve_named(&same, number), None)))?;

    let due = START.plus_seconds(HOLD_SECONDS);
    let lead = u64::try_from(parameters.before.as_millis()).unwrap_or(u64::MAX);
    let start = Instant::now();
    clock.0.get_or_init(|| (Timestamp::from_unix_ms(due.unix_ms().saturating_sub(lead)), start));
    let due_at = start + parameters.before;
    let back_at = std::cell::Cell::new(None);
    let granted = std::cell::Cell::new(0_u64);
    let mut granted_other = 0;
    let (mut seen_same, mut seen_other) = (Seen::default(), Seen::default());
    let goes_on = || {
        let now = Instant::now();
        if let Some(back_at) = back_at.get() {
            return Ok(now < back_at + parameters.after);
        }
        if now >= due_at {
            let stock = node.engine.stock(&same).ok_or_else(|| BenchError::wrong("the product is gone"))?;
            // Everything that is still held is what callers were granted since.
            if stock.view.reserved == granted.get() && stock.view.available + granted.get() == parameters.holds {
                back_at.set(Some(now));
            } else if now > due_at + BACK_WAIT_MAX {
                return Err(BenchError::Wrong(format!("{} units are still held two minutes later", stock.view.reserved)));
            }
        }
        Ok(true)
    };
    let command = |number: u64| {
        let sku = if number.is_multiple_of(2) { &same } else { &other };
        reserve_named(sku, parameters.holds + number)
    };
    let answered = |number: u64, outcome: Outcome, latency| {
        let now = Instant::now();
        let is_same = number.is_multiple_of(2);
        match outcome {
            Ok(_) if is_same => granted.set(granted.get() + 1),
            Ok(_) => granted_other += 1,
            Err(Failure::Rejection(Rejection::SoldOut { .. })) if is_same && back_at.get().is_none() => {}
            Err(failure) => return Err(BenchError::wrong(failure)),
        }
        let seen = if is_same { &mut seen_same } else { &mut seen_other };
        match back_at.get() {
            Some(_) => seen.after.record(latency),
            None if now >= due_at => seen.under.record(latency),
            None => seen.before.record(latency),
        }
        Ok(())
    };
    let written_before = node.engine.log_bytes_written();
    let paced = open_loop(&node, parameters.rate, goes_on, command, answered)?;
    let written = node.engine.log_bytes_written() - written_before;
    let back = back_at.get().ok_or_else(|| BenchError::wrong("the units never came back"))? - due_at;
    let reserved = |sku: &Sku| node.engine.stock(sku).map_or(0, |stock| stock.view.reserved);
    expect_equal("units reserved of the same product", reserved(&same), granted.get())?;
    expect_equal("units reserved of the other product", reserved(&other), granted_other)?;
    node.stop()?;
    Ok(Round { back, written, same: seen_same, other: seen_other, paced })
}
