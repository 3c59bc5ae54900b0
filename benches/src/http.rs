//! Reservations over HTTP against a real node on a real directory, beside axum answering a fixed JSON of the same size.
//!
//! Node and floor are processes of their own, fresh for every run, loaded alike, in alternating order. Afterwards the node's counters
//! must equal what the buyers were told.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{BenchError, expect_equal};
use crate::figure::{Against, Detail, Figure, Run, mean, median, medians, per_second};
use crate::floor::FixedAnswer;
use crate::load::{Load, LoadPlan, RequestTemplate, load};
use crate::machine::process_cpu;
use crate::server::Server;

/// The hot product.
pub const SKU: &str = "hot-product";

/// The most units that a stock can be opened with through the door.
pub const UNITS_MAX: u64 = 1_000_000_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct HttpParameters {
    /// The node's program.
    pub tidegate: PathBuf,
    /// This package's own program, which serves the floor.
    pub bench: PathBuf,
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// Numbers of keep-alive connections, each measured for itself.
    pub connections: Vec<usize>,
    /// Threads of the load generator.
    pub threads: usize,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Pairs of runs, floor and node.
    pub runs: usize,
    /// Units on sale in the reserving runs.
    pub units: u64,
    /// Requests after which a run ends, whatever the time.
    pub requests_max: u64,
}

impl HttpParameters {
    /// For figures: 64 and 256 connections, five pairs of 4 s after 1 s, more units than buyers.
    pub fn full(tidegate: PathBuf, bench: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            tidegate,
            bench,
            directory,
            connections: vec![64, 256],
            threads: 1,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(4),
            runs: 5,
            units: UNITS_MAX,
            requests_max: u64::MAX,
        }
    }

    /// For tests: one pair, 300 units for 500 buyers.
    pub fn tiny(tidegate: PathBuf, bench: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            connections: vec![16],
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(20),
            runs: 1,
            units: 300,
            requests_max: 500,
            ..Self::full(tidegate, bench, directory)
        }
    }
}

/// What is asked of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sale {
    Open,
    SoldOut,
}

/// What the buyers were told in all runs of one kind, node only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// 201.
    pub granted: u64,
    /// 409.
    pub sold_out: u64,
}

/// Measures. Gives the figures with what the buyers were told in each.
pub fn run(parameters: &HttpParameters) -> Result<Vec<(Figure, Told)>, BenchError> {
    let mut figures = Vec::new();
    for sale in [Sale::Open, Sale::SoldOut] {
        let answer = probe(parameters, sale)?;
        for connections in &parameters.connections {
            figures.extend(measure(parameters, sale, answer, *connections)?);
        }
    }
    Ok(figures)
}

/// Status and length of the node's answer, for the floor to give the same.
fn probe(parameters: &HttpParameters, sale: Sale) -> Result<FixedAnswer, BenchError> {
    let server = Server::node(&parameters.tidegate, parameters.directory.as_ref())?;
    server.open_stock(SKU, u64::from(sale == Sale::Open))?;
    let path = format!("/v1/stocks/{SKU}/reservations");
    let (status, body) = server.ask("POST", &path, r#"{"user":"u0000000000","quantity":1}"#)?;
    let (expected, word) = if sale == Sale::Open { (201, "\"reserved\"") } else { (409, "\"sold_out\"") };
    if status != expected || !body.contains(word) {
        return Err(BenchError::Wrong(format!("a reservation got {status} where {expected} with {word} was expected: {body}")));
    }
    Ok(FixedAnswer { status, body_bytes: body.len() })
}

/// One run of one server.
struct Measured {
    run: Run,
    told: Told,
    generator_share: f64,
    server_cpu_us: f64,
    group_events: f64,
    syncs_per_second: f64,
}

fn measure(
    parameters: &HttpParameters,
    sale: Sale,
    answer: FixedAnswer,
    connections: usize,
) -> Result<[(Figure, Told); 2], BenchError> {
    let (mut floors, mut nodes) = (Vec::new(), Vec::new());
    for pair in 0..parameters.runs {
        if pair % 2 == 0 {
            floors.push(measure_floor(parameters, answer, connections)?);
            nodes.push(measure_node(parameters, sale, connections)?);
        } else {
            nodes.push(measure_node(parameters, sale, connections)?);
            floors.push(measure_floor(parameters, answer, connections)?);
        }
    }
    let ratios: Vec<f64> = nodes.iter().zip(&floors).map(|(node, floor)| node.run.rate / floor.run.rate).collect();
    let (what, unit) = match sale {
        Sale::Open => (format!("reserve 1 unit, hot product, {connections} connections"), "reservations/s"),
        Sale::SoldOut => (format!("sold out, {connections} connections"), "answers/s"),
    };
    let mut node = figure(what, "power_loss", unit, &nodes);
    if sale == Sale::Open {
        node.group_events = Some(median_of(&nodes, |run| run.group_events));
        node.more.push(Detail { name: "syncs_per_second", value: median_of(&nodes, |run| run.syncs_per_second) });
    }
    node.against = Some(Against { floor: "axum fixed JSON", ratio: median(&ratios) });
    let floor_what = format!("axum, fixed JSON of {} bytes, {connections} connections", answer.body_bytes);
    let floor = figure(floor_what, "-", "answers/s", &floors);
    let sum = |runs: &[Measured], pick: fn(&Told) -> u64| runs.iter().map(|run| pick(&run.told)).sum();
    let told = |runs: &[Measured]| Told { granted: sum(runs, |told| told.granted), sold_out: sum(runs, |told| told.sold_out) };
    let (node_told, floor_told) = (told(&nodes), told(&floors));
    Ok([(node, node_told), (floor, floor_told)])
}

fn figure(what: String, durability: &str, unit: &'static str, runs: &[Measured]) -> Figure {
    let (rate, spread, latency) = medians(&runs.iter().map(|run| run.run).collect::<Vec<_>>());
    Figure {
        bench: "http",
        what,
        durability: durability.to_owned(),
        group_events: None,
        unit,
        rate,
        runs: runs.len(),
        spread,
        latency: Some(latency),
        against: None,
        more: vec![
            Detail { name: "server_cpu_us", value: median_of(runs, |run| run.server_cpu_us) },
            Detail { name: "generator_cores", value: median_of(runs, |run| run.generator_share) },
        ],
    }
}

fn median_of(runs: &[Measured], pick: fn(&Measured) -> f64) -> f64 {
    median(&runs.iter().map(pick).collect::<Vec<_>>())
}

fn measure_floor(parameters: &HttpParameters, answer: FixedAnswer, connections: usize) -> Result<Measured, BenchError> {
    let server = Server::floor(&parameters.bench, answer)?;
    let (load, measured) = measure_server(parameters, &server, connections)?;
    expect_equal("answers with the floor's status", load.with_status(answer.status), load.total())?;
    Ok(measured)
}

fn measure_node(parameters: &HttpParameters, sale: Sale, connections: usize) -> Result<Measured, BenchError> {
    let server = Server::node(&parameters.tidegate, parameters.directory.as_ref())?;
    let units = if sale == Sale::Open { parameters.units } else { 0 };
    server.open_stock(SKU, units)?;
    let (load, mut measured) = measure_server(parameters, &server, connections)?;
    check(&server, &load, units)?;
    let metrics = server.metrics()?;
    let groups = Server::metric(&metrics, "log_groups_total");
    measured.group_events = if groups > 0.0 { Server::metric(&metrics, "log_events_total") / groups } else { 0.0 };
    measured.syncs_per_second =
        Server::metric(&metrics, "log_sync_seconds_count") / load.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(measured)
}

fn measure_server(parameters: &HttpParameters, server: &Server, connections: usize) -> Result<(Load, Measured), BenchError> {
    let plan = LoadPlan {
        address: server.address(),
        connections,
        threads: parameters.threads,
        warm_up: parameters.warm_up,
        measured: parameters.measured,
        requests_max: parameters.requests_max,
    };
    let cpu_before = process_cpu(server.process());
    let load = load(&plan, &RequestTemplate::reserve(SKU))?;
    let server_cpu = process_cpu(server.process()).saturating_sub(cpu_before);
    let measured = Measured {
        run: Run { rate: per_second(load.answers, load.measured), latency: load.latencies.percentiles() },
        told: Told { granted: load.with_status(201), sold_out: load.with_status(409) },
        generator_share: load.generator_cpu.as_secs_f64() / load.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        server_cpu_us: mean(server_cpu.as_secs_f64() * 1e6, load.total()),
        group_events: 0.0,
        syncs_per_second: 0.0,
    };
    Ok((load, measured))
}

/// Every answer was a grant or sold out, no unit was sold twice or kept back, and the node's counters say the same.
fn check(server: &Server, load: &Load, units: u64) -> Result<(), BenchError> {
    let (granted, sold_out) = (load.with_status(201), load.with_status(409));
    for (status, body) in &load.samples {
        let body = String::from_utf8_lossy(body);
        let is_right = match status {
            201 => body.contains("\"reserved\""),
            409 => body.contains("\"sold_out\""),
            _ => false,
        };
        if !is_right {
            let count = load.with_status(*status);
            return Err(BenchError::Wrong(format!("{count} answers have status {status}, the first with: {body}")));
        }
    }
    expect_equal("grants and sold-out answers together", granted + sold_out, load.total())?;
    expect_equal("grants, of as many units as there are", granted, units.min(load.total()))?;
    expect_equal("the stock's reserved", server.stock_counter(SKU, "reserved")?, granted)?;
    expect_equal("the stock's available", server.stock_counter(SKU, "available")?, units - granted)
}
