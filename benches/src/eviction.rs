//! Reservations that are over leave memory: what that costs those who confirm, what it costs to change one that has left, and whether
//! memory grows with what was ever sold.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_engine::EngineOptions;
use tidegate_persistence::Durability;
use tidegate_stock::Command;

use crate::callers::{closed_loop, fill};
use crate::error::{BenchError, expect_equal};
use crate::figure::{Against, Detail, Figure, Latencies, Run, median, medians, number, per_second};
use crate::machine::{Resident, allocated_bytes};
use crate::node::{Node, NodeParameters};
use crate::sample::{create_unlimited, grant_id, reserve_named, sku};

/// Units on sale: more than all callers ask for.
const UNITS: u64 = 1_000_000_000_000;

/// Longest wait for reservations to leave memory.
const LEAVE_WAIT_MAX: Duration = Duration::from_mins(5);

/// Time between two looks at how many there are.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Beyond what may stay, reservations only leave this many at a time.
const LEAVING_TOGETHER: u64 = 1_024;

/// What to measure.
#[derive(Debug, Clone)]
pub struct EvictionParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What an answer survives.
    pub durability: Durability,
    /// Reservations that are confirmed.
    pub reservations: u64,
    /// Resolved reservations that stay in memory.
    pub kept: usize,
    /// Confirms in flight.
    pub in_flight: usize,
    /// Returns of reservations that have left memory, as often as numbers of them in flight.
    pub returns: u64,
    /// Returns in flight.
    pub returns_in_flight: Vec<usize>,
    /// Runs, with and without leaving in turns.
    pub runs: usize,
    /// Reservations granted and confirmed while memory is watched.
    pub grown: u64,
    /// Looks at memory meanwhile.
    pub looks: u64,
}

impl EvictionParameters {
    /// For figures: a million reservations of which 10,000 stay, three times; memory is watched over five million.
    pub fn full(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            durability: Durability::PowerLoss,
            reservations: 1_000_000,
            kept: 10_000,
            in_flight: 1_024,
            returns: 50_000,
            returns_in_flight: vec![1, 256],
            runs: 3,
            grown: 5_000_000,
            looks: 10,
        }
    }

    /// For tests: 10,000 reservations.
    pub fn tiny(directory: Option<PathBuf>) -> Self {
        Self {
            reservations: 10_000,
            kept: 1_000,
            returns: 200,
            returns_in_flight: vec![16],
            runs: 1,
            grown: 10_000,
            looks: 4,
            ..Self::full(directory)
        }
    }
}

/// Measures. Fails unless every reservation was confirmed, left memory, and could be changed all the same.
pub fn run(parameters: &EvictionParameters) -> Result<Vec<Figure>, BenchError> {
    let (mut leaving, mut staying) = (Vec::new(), Vec::new());
    for _ in 0..parameters.runs {
        leaving.push(confirm(parameters, parameters.kept)?);
        staying.push(confirm(parameters, usize::MAX / 2)?);
    }
    let ratios: Vec<f64> = leaving.iter().zip(&staying).map(|(small, large)| small.confirms.rate / large.confirms.rate).collect();
    let mut figures = Vec::new();
    let how = format!("{} stay in memory", parameters.kept);
    for (is_leaving, rounds, how) in [(true, &leaving, how), (false, &staying, "all stay in memory".to_owned())] {
        let what = format!("confirm, {} in flight, {how}", parameters.in_flight);
        let mut confirms = figure(parameters, what, "confirms/s", &rounds.iter().map(|round| round.confirms).collect::<Vec<_>>());
        confirms.against = is_leaving.then(|| Against { floor: "all staying", ratio: median(&ratios) });
        let drained: Vec<f64> = rounds.iter().map(|round| round.until_left.as_secs_f64()).collect();
        confirms.more.push(Detail { name: "until_left_seconds", value: median(&drained) });
        figures.push(confirms);
        for (place, in_flight) in parameters.returns_in_flight.iter().enumerate() {
            let what = format!("return of one of {}, {in_flight} in flight, {how}", parameters.reservations);
            let runs: Vec<Run> = rounds.iter().map(|round| round.returns[place].0).collect();
            let mut returns = figure(parameters, what, "returns/s", &runs);
            let longest = rounds.iter().map(|round| round.returns[place].1).fold(0.0, f64::max);
            returns.more.push(Detail { name: "max_ms", value: longest });
            figures.push(returns);
        }
    }
    figures.push(growth(parameters, 100_000.min(parameters.grown / 10), "of returning users")?);
    figures.push(growth(parameters, parameters.grown, "of users who come once")?);
    Ok(figures)
}

fn figure(parameters: &EvictionParameters, what: String, unit: &'static str, runs: &[Run]) -> Figure {
    let (rate, spread, latency) = medians(runs);
    Figure {
        bench: "eviction",
        what,
        durability: parameters.durability.to_string(),
        group_events: None,
        unit,
        rate,
        runs: runs.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: Vec::new(),
    }
}

struct Round {
    confirms: Run,
    /// From the last confirm until all have left that should.
    until_left: Duration,
    /// For each number in flight, and the longest in milliseconds.
    returns: Vec<(Run, f64)>,
}

fn confirm(parameters: &EvictionParameters, kept: usize) -> Result<Round, BenchError> {
    let options = EngineOptions { resolved_in_memory_max: kept, ..EngineOptions::default() };
    let node_parameters = NodeParameters { options, ..NodeParameters::new(parameters.directory.clone(), parameters.durability) };
    let (node, _folder) = Node::start(&node_parameters)?;
    let (sku, count) = (sku(), parameters.reservations);
    node.accept(create_unlimited(&sku, UNITS))?;
    fill(&node, (0..count).map(|number| (reserve_named(&sku, number), None)))?;
    let confirm = |grant| Command::Confirm { reservation: grant_id(grant), quantity: None };
    let (confirms, _) = timed(&node, parameters.in_flight, (1..=count).map(confirm))?;
    let start = Instant::now();
    let stay = u64::try_from(kept).unwrap_or(u64::MAX).saturating_add(LEAVING_TOGETHER).min(count);
    while node.report()?.reservations as u64 > stay {
        if start.elapsed() > LEAVE_WAIT_MAX {
            return Err(BenchError::Wrong(format!("{} reservations are still in memory", node.report()?.reservations)));
        }
        thread::park_timeout(LOOK_INTERVAL);
    }
    let until_left = start.elapsed();
    let mut returned = 0;
    let mut returns = Vec::new();
    // Spread over all that have left, so that neighbours are not read together: each grant once.
    let among = count - stay.min(count - 1);
    let among = if among < parameters.returns * parameters.returns_in_flight.len() as u64 { count } else { among };
    let step = step_through(among);
    for in_flight in &parameters.returns_in_flight {
        let grants = (returned..returned + parameters.returns).map(|number| 1 + (number * step) % among);
        let commands = grants.map(|grant| Command::Return { reservation: grant_id(grant), quantity: None });
        returns.push(timed(&node, *in_flight, commands)?);
        returned += parameters.returns;
    }
    let stock = node.engine.stock(&sku).ok_or_else(|| BenchError::wrong("the product is gone"))?;
    expect_equal("units sold", stock.view.sold, count - returned)?;
    node.stop()?;
    Ok(Round { confirms, until_left, returns })
}

/// A step that meets each of `count` places once before it meets any again.
fn step_through(count: u64) -> u64 {
    let divisor = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let golden = count / 1_000 * 618 + 1;
    (golden..golden + count).find(|step| divisor(*step, count) == 1).unwrap_or(1)
}

/// Sends `commands`, which must be accepted. Returns what came of it, and the longest wait in milliseconds.
fn timed(node: &Node, in_flight: usize, mut commands: impl Iterator<Item = Command>) -> Result<(Run, f64), BenchError> {
    let (mut latencies, mut count) = (Latencies::default(), 0);
    let elapsed = closed_loop(
        node,
        in_flight,
        |_| commands.next(),
        |outcome, latency| {
            outcome.map_err(BenchError::wrong)?;
            latencies.record(latency);
            count += 1;
            Ok(())
        },
    )?;
    Ok((Run { rate: per_second(count, elapsed), latency: latencies.percentiles() }, latencies.max_ms()))
}

/// Memory and speed while `grown` reservations are granted and confirmed, with default settings.
fn growth(parameters: &EvictionParameters, users: u64, whose: &str) -> Result<Figure, BenchError> {
    let (node, _folder) = Node::start(&NodeParameters::new(parameters.directory.clone(), parameters.durability))?;
    let sku = sku();
    node.accept(create_unlimited(&sku, UNITS))?;
    let each = parameters.grown / parameters.looks;
    let mut looks: Vec<(f64, u64)> = Vec::new();
    for look in 0..parameters.looks {
        let start = Instant::now();
        let commands = (look * each..(look + 1) * each).flat_map(|number| {
            let confirm = Command::Confirm { reservation: grant_id(number + 1), quantity: None };
            [(reserve_named(&sku, number % users.max(1)), None), (confirm, None)]
        });
        let count = fill(&node, commands)?;
        looks.push((per_second(count, start.elapsed()), Resident::look().bytes));
    }
    let report = node.report()?;
    let sold = node.engine.stock(&sku).map_or(0, |stock| stock.view.sold);
    expect_equal("units sold", sold, each * parameters.looks)?;
    let history = allocated_bytes(&node.data.join("history")).map_err(BenchError::io("the history's files"))?;
    node.stop()?;
    let rates: Vec<f64> = looks.iter().map(|(rate, _)| *rate).collect();
    let middle = looks.len() / 2;
    let (first, last) = (looks[0], looks[looks.len() - 1]);
    let behind = number(each * (looks.len() - 1 - middle) as u64);
    let mib = |bytes: u64| number(bytes) / 1_048_576.0;
    Ok(Figure {
        bench: "eviction",
        what: format!("reserve and confirm {} {whose}, in batches", each * parameters.looks),
        durability: parameters.durability.to_string(),
        group_events: None,
        unit: "commands/s",
        rate: median(&rates),
        runs: 1,
        spread: 0.0,
        latency: None,
        against: None,
        more: vec![
            Detail { name: "last_to_first_rate", value: last.0 / first.0 },
            Detail { name: "last_to_first_resident", value: number(last.1) / number(first.1) },
            Detail { name: "resident_first_mib", value: mib(first.1) },
            Detail { name: "resident_middle_mib", value: mib(looks[middle].1) },
            Detail { name: "resident_last_mib", value: mib(last.1) },
            Detail { name: "slope_bytes_per_resolved", value: (number(last.1) - number(looks[middle].1)) / behind.max(1.0) },
            Detail { name: "in_memory_at_end", value: number(report.reservations as u64) },
            Detail { name: "users_in_memory_at_end", value: number(report.users as u64) },
            Detail { name: "history_mib", value: mib(history) },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_meets_every_place_once() {
        for count in [1, 2, 10, 999, 8_976, 10_000] {
            let step = step_through(count);
            let met: std::collections::BTreeSet<u64> = (0..count).map(|number| number * step % count).collect();
            assert_eq!(met.len() as u64, count, "step {step}");
        }
    }
}
