//! The picture: throughput, latency and cost of a reservation against what there is more and less of: connections, commands in a request,
//! products, open reservations, and history on the disk. It shows where cost stays flat, and where not.
//!
//! Each point is measured over HTTP at the node's own program, several times. The points of a sweep take turns, forwards in one run and
//! backwards in the next, each on a node of its own; where a node grows, each run is one growth of a node that is measured at every stage.

mod growth;
mod panels;
mod sweep;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{BenchError, expect_equal};
use crate::exchange::{Crowd, exchange};
use crate::figure::{Detail, Figure, Percentiles, Run, mean, median, medians, number, per_second};
use crate::http::UNITS_MAX;
use crate::machine::{Machine, Resident, process_cpu};
use crate::report::amount;
use crate::sample::SEED;
use crate::server::Server;
use crate::wire::{Request, Take};

pub(crate) use growth::{SHORT_HOLD_SECONDS, wait_left};

/// What an answer survives: a node's default.
const DURABILITY: &str = "power_loss";

/// Longest time for what is to be done once and not by the clock.
pub(crate) const ONCE_MAX: Duration = Duration::from_mins(10);

/// What varies from point to point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Connections, each with one command in flight.
    Connections,
    /// Commands in a batch.
    Batch,
    /// Products that there are.
    Products,
    /// Reservations that are open.
    Open,
    /// Reservations that are over, in the history on the disk.
    History,
}

impl Subject {
    /// Its name, which that of its file begins with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Batch => "batch",
            Self::Products => "products",
            Self::Open => "open",
            Self::History => "history",
        }
    }
}

/// A node that grows.
#[derive(Debug, Clone)]
pub struct Growth {
    /// Stages, each measured for itself.
    pub stages: u64,
    /// Reservations of a stage.
    pub reservations: u64,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct PictureParameters {
    /// The node's program.
    pub tidegate: PathBuf,
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// What varies, each for itself.
    pub subjects: Vec<Subject>,
    /// Numbers of connections.
    pub connections: Vec<u64>,
    /// Commands in a batch.
    pub batches: Vec<u64>,
    /// Numbers of products.
    pub products: Vec<u64>,
    /// Connections that send batches.
    pub batch_connections: usize,
    /// Commands in a batch where their number does not vary.
    pub batch_commands: usize,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Buyers after whom a run ends, whatever the time.
    pub buyers_max: u64,
    /// Units on sale of the hot product while connections and batches vary.
    pub units: u64,
    /// Runs of each point.
    pub runs: usize,
    /// Open reservations.
    pub open: Growth,
    /// Reservations that are over.
    pub history: Growth,
    /// Users whose reservations are over; when all have been there, the first comes again.
    pub history_users: u64,
    /// Reservations that are over and stay in memory all the same.
    pub kept: u64,
    /// Growths of a node.
    pub rounds: usize,
}

impl PictureParameters {
    /// For figures, in some fifteen minutes.
    pub fn full(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            tidegate,
            directory,
            subjects: Subject::value_variants().to_vec(),
            connections: (0..=10).map(|power| 1 << power).collect(),
            batches: vec![1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000],
            products: vec![1, 10, 100, 1_000, 10_000, 30_000, 100_000],
            batch_connections: 16,
            batch_commands: 100,
            warm_up: Duration::from_millis(300),
            measured: Duration::from_millis(1_200),
            buyers_max: u64::MAX,
            units: UNITS_MAX,
            runs: 5,
            open: Growth { stages: 20, reservations: 500_000 },
            history: Growth { stages: 11, reservations: 500_000 },
            history_users: 100_000,
            kept: 100_000,
            rounds: 3,
        }
    }

    /// For tests, in seconds: everything twice, with fewer units than buyers.
    pub fn tiny(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        Self {
            connections: vec![1, 8],
            batches: vec![1, 10],
            products: vec![1, 20],
            batch_connections: 4,
            batch_commands: 10,
            warm_up: Duration::ZERO,
            measured: ONCE_MAX,
            buyers_max: 400,
            units: 300,
            runs: 2,
            open: Growth { stages: 3, reservations: 1_000 },
            history: Growth { stages: 2, reservations: 3_000 },
            history_users: 500,
            kept: 500,
            rounds: 2,
            ..Self::full(tidegate, directory)
        }
    }

    /// Batches in a closed loop, as they are sent where something else varies.
    fn batches(&self) -> Crowd {
        self.crowd(self.batch_connections, self.batch_commands)
    }

    fn crowd(&self, connections: usize, commands: usize) -> Crowd {
        let Self { warm_up, measured, buyers_max, .. } = *self;
        Crowd { connections, commands, pace: None, warm_up, measured, first_buyer: 1, buyers_max }
    }
}

/// Everything that was measured, with what it was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Picture {
    /// The machine.
    pub machine: Machine,
    /// Where randomness came from.
    pub seed: u64,
    /// What varied, each for itself.
    pub sweeps: Vec<Sweep>,
}

/// One thing that varied.
#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// What it is.
    pub subject: Subject,
    /// How the node was asked.
    pub load: String,
    /// What an answer survives.
    pub durability: &'static str,
    /// Where the design says that cost stays flat from: the first place.
    pub flat_from: u64,
    /// How flat it was from there on; of one point alone nothing can be said.
    pub flatness: Option<Flatness>,
    /// What was measured, by place.
    pub points: Vec<Point>,
}

/// The other points beside the one from which on cost should stay flat; each the median of the ratios within the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flatness {
    /// Rate at the last point.
    pub rate_last: f64,
    /// The least rate.
    pub rate_least: f64,
    /// Processor time of a command at the last point.
    pub server_cpu_last: f64,
    /// The most processor time.
    pub server_cpu_most: f64,
}

/// One point.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// How many there were of what varied: the median of the runs.
    pub at: f64,
    /// Commands in a second: the median of the runs.
    pub rate: f64,
    /// Fastest less slowest run, as a share of the median; 0 with one run.
    pub spread: f64,
    /// Latency of a command: the medians of the runs.
    pub latency: Percentiles,
    /// Processor time of the node for one command, in microseconds: the median of the runs.
    pub server_cpu_us: f64,
    /// The node's resident memory afterwards: the median of the runs.
    pub resident_mib: f64,
    /// Every run.
    pub runs: Vec<Sample>,
}

/// One run of a point.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// How many there were of what varied.
    pub at: f64,
    /// Commands in a second.
    pub rate: f64,
    /// Latency of a command, which is that of its whole batch.
    pub latency: Percentiles,
    /// Commands in all, those of the warm-up too.
    pub commands: u64,
    /// Of them, those who got a unit.
    pub granted: u64,
    /// Processor time of the node for one command, in microseconds.
    pub server_cpu_us: f64,
    /// Share of a core that the generator used.
    pub generator_cores: f64,
    /// Mean number of events in a group of the log.
    pub group_events: f64,
    /// Mean time of the log's syncs, in microseconds.
    pub sync_us: f64,
    /// Snapshots that were finished meanwhile.
    pub snapshots: f64,
    /// The node's resident memory afterwards.
    pub resident_mib: f64,
    /// Reservations in a second from reserving the first until the last is over and has left memory, where they do.
    pub moved_rate: Option<f64>,
}

/// Measures. `said` gets a line about every run. Fails unless the books of every node agree with what its buyers were told.
pub fn run(parameters: &PictureParameters, machine: Machine, said: &mut dyn FnMut(&str)) -> Result<Picture, BenchError> {
    let mut sweeps = Vec::new();
    for subject in &parameters.subjects {
        let mut line = |place: &str, sample: &Sample| {
            let (rate, cpu) = (amount(sample.rate), amount(sample.server_cpu_us));
            said(&format!("{}, {place}: {rate} reservations/s, {cpu} us of the node's processor time each", subject.name()));
        };
        sweeps.push(match subject {
            Subject::Connections => sweep::connections(parameters, &mut line)?,
            Subject::Batch => sweep::batches(parameters, &mut line)?,
            Subject::Products => sweep::products(parameters, &mut line)?,
            Subject::Open => growth::open(parameters, &mut line)?,
            Subject::History => growth::history(parameters, &mut line)?,
        });
    }
    Ok(Picture { machine, seed: SEED, sweeps })
}

impl Picture {
    /// Writes a plot of each sweep, and all figures as JSON, into `folder`, which is made if it is missing. Returns the files.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, BenchError> {
        fs::create_dir_all(folder).map_err(BenchError::io(folder.display().to_string()))?;
        let json = serde_json::to_string_pretty(self).map_err(BenchError::wrong)?;
        let mut files = vec![(folder.join("picture.json"), json + "\n")];
        for sweep in &self.sweeps {
            let plot = panels::chart(sweep, &self.machine).svg();
            files.push((folder.join(sweep.subject.name()).with_extension("svg"), plot));
        }
        for (path, text) in &files {
            fs::write(path, text).map_err(BenchError::io(path.display().to_string()))?;
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }

    /// A figure of each point.
    pub fn figures(&self) -> Vec<Figure> {
        self.sweeps.iter().flat_map(|sweep| sweep.points.iter().map(|point| figure(sweep, point))).collect()
    }
}

fn figure(sweep: &Sweep, point: &Point) -> Figure {
    let median_of = |pick: fn(&Sample) -> f64| median(&point.runs.iter().map(pick).collect::<Vec<_>>());
    Figure {
        bench: "picture",
        what: format!("{:.0} {}", point.at, panels::varied(sweep.subject)),
        durability: sweep.durability.to_owned(),
        group_events: Some(median_of(|run| run.group_events)),
        unit: "reservations/s",
        rate: point.rate,
        runs: point.runs.len(),
        spread: point.spread,
        latency: Some(point.latency),
        against: None,
        more: vec![
            Detail { name: "server_cpu_us", value: point.server_cpu_us },
            Detail { name: "resident_mib", value: point.resident_mib },
            Detail { name: "generator_cores", value: median_of(|run| run.generator_cores) },
            Detail { name: "sync_us", value: median_of(|run| run.sync_us) },
        ],
    }
}

impl Sweep {
    /// A sweep of `points`, of which those from `flat_from` on should be alike. Each point has as many runs as any other.
    fn new(subject: Subject, load: String, flat_from: u64, points: Vec<Vec<Sample>>) -> Self {
        let points: Vec<Point> = points.into_iter().map(Point::new).collect();
        let flatness = Flatness::of(&points, number(flat_from));
        Self { subject, load, durability: DURABILITY, flat_from, flatness, points }
    }
}

impl Point {
    fn new(runs: Vec<Sample>) -> Self {
        let (rate, spread, latency) =
            medians(&runs.iter().map(|run| Run { rate: run.rate, latency: run.latency }).collect::<Vec<_>>());
        let median_of = |pick: fn(&Sample) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
        Self {
            at: median_of(|run| run.at),
            rate,
            spread,
            latency,
            server_cpu_us: median_of(|run| run.server_cpu_us),
            resident_mib: median_of(|run| run.resident_mib),
            runs,
        }
    }
}

impl Flatness {
    fn of(points: &[Point], flat_from: f64) -> Option<Self> {
        let mut flat = points.iter().filter(|point| point.at >= flat_from);
        let first = flat.next()?;
        let ratios = |pick: fn(&Sample) -> f64| -> Vec<f64> {
            let within_runs = |point: &Point| {
                let ratios = point.runs.iter().zip(&first.runs).map(|(run, first)| pick(run) / pick(first).max(f64::MIN_POSITIVE));
                median(&ratios.collect::<Vec<_>>())
            };
            flat.clone().map(within_runs).collect()
        };
        let (rates, costs) = (ratios(|run| run.rate), ratios(|run| run.server_cpu_us));
        Some(Self {
            rate_last: rates.last().copied()?,
            rate_least: rates.iter().copied().fold(1.0, f64::min),
            server_cpu_last: costs.last().copied()?,
            server_cpu_most: costs.iter().copied().fold(1.0, f64::max),
        })
    }
}

/// A node under measurement, and what its counters were when it was looked at last.
pub(crate) struct Counters {
    cpu: Duration,
    metrics: String,
}

impl Counters {
    pub(crate) fn look(server: &Server) -> Result<Self, BenchError> {
        Ok(Self { cpu: process_cpu(server.process()), metrics: server.metrics()? })
    }

    /// The processor time that the node has used until `later`.
    pub(crate) fn cpu_until(&self, later: &Self) -> Duration {
        later.cpu.saturating_sub(self.cpu)
    }

    /// By how much a counter has grown until `later`.
    fn grown(&self, later: &Self, suffix: &str) -> f64 {
        Server::metric(&later.metrics, suffix) - Server::metric(&self.metrics, suffix)
    }
}

/// Lets a crowd buy of what has `units` in all, of which nobody has any yet, and gives what came of it; how many there were of what varies
/// is `at`.
pub(crate) fn sell(
    server: &Server,
    request: &Request,
    take: Take,
    crowd: &Crowd,
    units: u64,
    at: u64,
) -> Result<Sample, BenchError> {
    let before = Counters::look(server)?;
    let seen = exchange(server.address(), request, take, crowd)?;
    let after = Counters::look(server)?;
    let (granted, commands) = (seen.outcomes.granted, seen.outcomes.total());
    expect_equal("grants, of as many units as there are", granted, units.min(commands))?;
    expect_equal("sold-out answers", seen.outcomes.sold_out, commands - granted)?;
    Ok(Sample {
        at: number(at),
        rate: per_second(seen.answers, seen.measured),
        latency: seen.latencies.percentiles(),
        commands,
        granted,
        server_cpu_us: mean(before.cpu_until(&after).as_secs_f64() * 1e6, commands),
        generator_cores: seen.generator_cpu.as_secs_f64() / seen.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        group_events: before.grown(&after, "log_events_total") / before.grown(&after, "log_groups_total").max(1.0),
        sync_us: before.grown(&after, "log_sync_seconds_sum") * 1e6 / before.grown(&after, "log_sync_seconds_count").max(1.0),
        snapshots: before.grown(&after, "snapshots_total"),
        resident_mib: resident_mib(server),
        moved_rate: None,
    })
}

pub(crate) fn resident_mib(server: &Server) -> f64 {
    number(Resident::of(server.process()).bytes) / 1_048_576.0
}

/// The stock's counters are those of a stock of `units` of which `reserved` are.
pub(crate) fn check_books(server: &Server, sku: &str, units: u64, reserved: u64) -> Result<(), BenchError> {
    expect_equal("the stock's reserved", server.stock_counter(sku, "reserved")?, reserved)?;
    expect_equal("the stock's available", server.stock_counter(sku, "available")?, units - reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, rate: f64, server_cpu_us: f64) -> Sample {
        Sample {
            at,
            rate,
            latency: Percentiles { p50_us: 1.0, p99_us: 2.0, p999_us: 3.0 },
            commands: 1,
            granted: 1,
            server_cpu_us,
            generator_cores: 0.5,
            group_events: 1.0,
            sync_us: 1.0,
            snapshots: 0.0,
            resident_mib: 1.0,
            moved_rate: None,
        }
    }

    #[test]
    fn flatness_compares_within_runs_from_where_it_is_asked_for() {
        let points = vec![
            vec![sample(1.0, 10.0, 9.0), sample(1.0, 10.0, 9.0), sample(1.0, 10.0, 9.0)],
            vec![sample(2.0, 100.0, 2.0), sample(2.0, 200.0, 2.0), sample(2.0, 400.0, 2.0)],
            vec![sample(3.0, 50.0, 3.0), sample(3.0, 100.0, 3.0), sample(3.0, 400.0, 3.0)],
            vec![sample(4.0, 90.0, 2.0), sample(4.0, 180.0, 2.0), sample(4.0, 360.0, 1.0)],
        ];
        let sweep = Sweep::new(Subject::Products, String::new(), 2, points);
        let expected = Flatness { rate_last: 0.9, rate_least: 0.5, server_cpu_last: 1.0, server_cpu_most: 1.5 };
        assert_eq!(sweep.flatness, Some(expected));
        assert!((sweep.points[1].rate - 200.0).abs() < 1e-9 && (sweep.points[1].spread - 1.5).abs() < 1e-9);
    }

    #[test]
    fn one_point_alone_is_not_said_to_be_flat() {
        let points = vec![vec![sample(5.0, 1.0, 1.0)], vec![sample(8.0, 1.0, 1.0)]];
        assert_eq!(Sweep::new(Subject::Open, String::new(), 6, points).flatness, None);
    }
}
