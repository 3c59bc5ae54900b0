//! A node with millions of reservations behind it, beside one that has none: the same sale on both, in turns. Cost should grow with work and
//! not with history, and so should memory.
//!
//! Holds of the sale last a second, lapse, and leave for the history while it goes on, so that its rate and processor time are of the whole
//! way. The other node is a new one each time, with just as many reservations behind it as stay in memory: on both, each that lapses makes another
//! one leave, so that both do the same work. All of a past the node sold itself, in a stock that is archived by then.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::BenchError;
use crate::exchange::Crowd;
use crate::figure::{Against, Detail, Figure, Run, mean, median, medians};
use crate::http::UNITS_MAX;
use crate::picture::{Counters, ONCE_MAX, SHORT_HOLD_SECONDS, Sample, check_books, resident_mib, sell, wait_left};
use crate::server::{Server, stock_terms};
use crate::signals;
use crate::wire::{Request, take_batch, take_single};

/// The stock that is over.
const PAST: &str = "past";

/// What to measure.
#[derive(Debug, Clone)]
pub struct PastParameters {
    /// The node's program.
    pub tidegate: PathBuf,
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// Reservations that are over on the one node; the other has `kept`.
    pub past: u64,
    /// How many of them are made before it is waited until they have left memory.
    pub stage: u64,
    /// Users whose they are; when all have been there, the first comes again.
    pub users: u64,
    /// Connections and commands of a batch with which they are made.
    pub batches: (usize, usize),
    /// Reservations that are over and stay in memory all the same.
    pub kept: u64,
    /// Connections of the sale, each with one command in flight.
    pub connections: usize,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Buyers after whom the sale ends, whatever the time.
    pub buyers_max: u64,
    /// Sales on each node.
    pub rounds: usize,
}

impl PastParameters {
    /// For figures: five million reservations in the past, five sales of 4 s with 256 connections.
    pub fn full(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            tidegate,
            directory,
            past: 5_000_000,
            stage: 250_000,
            users: 100_000,
            batches: (16, 100),
            kept: 100_000,
            connections: 256,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(4),
            buyers_max: u64::MAX,
            rounds: 5,
        }
    }

    /// For tests: a past of 6,000, one sale to 3,000 buyers.
    pub fn tiny(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            past: 6_000,
            stage: 3_000,
            users: 500,
            batches: (4, 10),
            kept: 500,
            connections: 8,
            warm_up: Duration::ZERO,
            measured: ONCE_MAX,
            buyers_max: 3_000,
            rounds: 1,
            ..Self::full(tidegate, directory)
        }
    }

    fn node(&self) -> Result<Server, BenchError> {
        Server::node_with(&self.tidegate, self.directory.as_ref(), &[format!("engine.resolved_in_memory_max={}", self.kept)])
    }
}

/// Measures. `said` gets a line about every sale. Fails unless every unit is back and the books agree.
pub fn run(parameters: &PastParameters, said: &mut dyn FnMut(&str)) -> Result<Vec<Figure>, BenchError> {
    let grown = parameters.node()?;
    let mut over = make_past(parameters, &grown, parameters.past)?;
    said(&format!("{over} reservations are over"));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..parameters.rounds {
        for is_grown in [round % 2 == 0, round % 2 != 0] {
            let (sample, whose) = if is_grown {
                (sale(parameters, &grown, round, &mut over)?, "with a past")
            } else {
                let new = parameters.node()?;
                let mut over = make_past(parameters, &new, parameters.kept)?;
                (sale(parameters, &new, round, &mut over)?, "without one")
            };
            let Sample { rate, server_cpu_us, resident_mib, .. } = sample;
            said(&format!(
                "{whose}: {rate:.0} reservations/s, {server_cpu_us:.1} us of processor time each, {resident_mib:.0} MiB"
            ));
            if is_grown { &mut with } else { &mut without }.push(sample);
        }
    }
    let history_mib = Server::metric(&grown.metrics()?, "history_size_bytes") / 1_048_576.0;
    let ratio = |pick: fn(&Sample) -> f64| median(&with.iter().zip(&without).map(|(a, b)| pick(a) / pick(b)).collect::<Vec<_>>());
    let mut grown = figure(parameters, &format!("{} in the past", parameters.past), &with);
    grown.against = Some(Against { floor: "no past", ratio: ratio(|sample| sample.rate) });
    grown.more.extend([
        Detail { name: "server_cpu_ratio", value: ratio(|sample| sample.server_cpu_us) },
        Detail { name: "resident_ratio", value: ratio(|sample| sample.resident_mib) },
        Detail { name: "history_mib", value: history_mib },
    ]);
    Ok(vec![grown, figure(parameters, "no past", &without)])
}

fn figure(parameters: &PastParameters, past: &str, samples: &[Sample]) -> Figure {
    let runs: Vec<Run> = samples.iter().map(|sample| Run { rate: sample.rate, latency: sample.latency }).collect();
    let (rate, spread, latency) = medians(&runs);
    let median_of = |pick: fn(&Sample) -> f64| median(&samples.iter().map(pick).collect::<Vec<_>>());
    Figure {
        bench: "past",
        what: format!(
            "reserve 1 unit for {SHORT_HOLD_SECONDS} s over HTTP, hot product, {} connections, {past}",
            parameters.connections
        ),
        durability: "power_loss".to_owned(),
        group_events: Some(median_of(|sample| sample.group_events)),
        unit: "reservations/s",
        rate,
        runs: samples.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: vec![
            Detail { name: "server_cpu_us", value: median_of(|sample| sample.server_cpu_us) },
            Detail { name: "resident_mib", value: median_of(|sample| sample.resident_mib) },
        ],
    }
}

/// Has `reservations` reserved, lapse and leave memory but for those that stay, and archives their stock. Returns how many there are.
fn make_past(parameters: &PastParameters, server: &Server, reservations: u64) -> Result<u64, BenchError> {
    server.open_stock_on(PAST, &stock_terms(UNITS_MAX, None, SHORT_HOLD_SECONDS))?;
    let (connections, commands) = parameters.batches;
    let request = Request::batch(PAST, commands).of_users(parameters.users);
    let mut over = 0;
    while over < reservations {
        let crowd = Crowd {
            connections,
            commands,
            pace: None,
            warm_up: Duration::ZERO,
            measured: ONCE_MAX,
            first_buyer: over + 1,
            buyers_max: parameters.stage.min(reservations - over),
        };
        over += sell(server, &request, take_batch, &crowd, UNITS_MAX, over)?.granted;
        wait_left(server, PAST, over, parameters.kept)?;
    }
    check_books(server, PAST, UNITS_MAX, 0)?;
    server.archive_stock(PAST)?;
    Ok(over)
}

/// One sale on a node on which `over` reservations are over; those of the sale are when it returns.
fn sale(parameters: &PastParameters, server: &Server, round: usize, over: &mut u64) -> Result<Sample, BenchError> {
    signals::check()?;
    let sku = format!("sale-{round}");
    server.open_stock_on(&sku, &stock_terms(UNITS_MAX, Some(1), SHORT_HOLD_SECONDS))?;
    let PastParameters { connections, warm_up, measured, buyers_max, .. } = *parameters;
    let crowd = Crowd { connections, commands: 1, pace: None, warm_up, measured, first_buyer: 1, buyers_max };
    let before = Counters::look(server)?;
    let mut sample = sell(server, &Request::single(&sku), take_single, &crowd, UNITS_MAX, 0)?;
    *over += sample.granted;
    let after = wait_left(server, &sku, *over, parameters.kept)?;
    check_books(server, &sku, UNITS_MAX, 0)?;
    sample.server_cpu_us = mean(before.cpu_until(&after).as_secs_f64() * 1e6, sample.granted);
    sample.resident_mib = resident_mib(server);
    server.archive_stock(&sku)?;
    Ok(sample)
}
