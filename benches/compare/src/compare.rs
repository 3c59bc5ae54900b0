//! What is compared: five contests, each the same work for Tidegate and for the peers that can do it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tidegate_benches::error::BenchError;
use tidegate_benches::exchange::Crowd;
use tidegate_benches::figure::{Latencies, median, per_second};
use tidegate_benches::floor::FixedAnswer;
use tidegate_benches::groups::Plain;
use tidegate_benches::machine::temporary_directory;
use tidegate_benches::signals;

use crate::contest::{Contest, Outcome, Side};
use crate::nginx::{Nginx, SoldOut};
use crate::node::{Node, Places, measure_floor, probe};
use crate::postgres::{Postgres, Way};
use crate::programs::Programs;
use crate::redis::{AppendOnly, Redis};
use crate::shop::{RunFigure, measure};

/// The most units that a stock of Tidegate's can be opened with: more than any crowd here buys.
const UNITS: u64 = 1_000_000_000;

/// Rows of units in `PostgreSQL`: more than a crowd buys there.
const UNIT_ROWS: u64 = 400_000;

/// Length of the file that the bare sync overwrites from front to back, again and again.
const SYNCED_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes of a bare sync before the node's own are known.
const SYNC_BYTES_FIRST: f64 = 4_096.0;

/// Names of sides, as targets and readers look for them.
pub mod sides {
    /// The node.
    pub const TIDEGATE: &str = "Tidegate";
    /// The floor of HTTP.
    pub const AXUM: &str = "axum, fixed JSON";
    /// What teams run today.
    pub const NGINX: &str = "Nginx + Lua + Redis";
    /// The same with a memory for what is sold out.
    pub const DICTIONARY: &str = "Nginx + Lua, shared dictionary";
    /// The script without HTTP.
    pub const REDIS: &str = "Redis script";
    /// Stock in one row.
    pub const HOT_ROW: &str = "PostgreSQL, one hot row";
    /// Stock in many.
    pub const ROW_PER_UNIT: &str = "PostgreSQL, SKIP LOCKED";
    /// The floor of durability.
    pub const SYNC: &str = "bare write + fdatasync";
}

/// What an answer of Tidegate survives here: its default.
const POWER_LOSS: &str = "power_loss";

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Reserving over HTTP, one command a request.
    Reserve,
    /// Asking for a product that is sold out, over HTTP.
    SoldOut,
    /// Reserving in batches over HTTP, and in pipelines of Redis.
    Batches,
    /// Reserving over HTTP, and in a database.
    Database,
    /// Latency at a steady pace, half of what Tidegate reaches.
    Latency,
}

impl Subject {
    /// The name of its contest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::SoldOut => "sold out",
            Self::Batches => "batches",
            Self::Database => "database",
            Self::Latency => "latency",
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// The node's program and where data goes.
    pub places: Places,
    /// The peers that are there.
    pub programs: Programs,
    /// What is compared.
    pub subjects: Vec<Subject>,
    /// Runs of each side.
    pub runs: usize,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Numbers of connections of the sides that are reserved at over HTTP; sold out and latency take the last.
    pub connections: Vec<usize>,
    /// Connections with batches.
    pub batch_connections: usize,
    /// Commands in a batch.
    pub batch_commands: usize,
    /// Connections with pipelines.
    pub redis_connections: usize,
    /// Commands in a pipeline.
    pub pipelines: Vec<usize>,
    /// Numbers of clients of databases.
    pub clients: Vec<usize>,
    /// Units on sale; fewer in `PostgreSQL` where each is a row.
    pub units: u64,
    /// Buyers after which a run ends, whatever the time.
    pub buyers_max: u64,
    /// Requests a second for latency; without it half of what Tidegate reaches.
    pub pace: Option<f64>,
}

impl Parameters {
    /// For figures: five runs of 4 s after 1 s, with more units than buyers.
    pub fn full(places: Places, programs: Programs) -> Self {
        Self {
            places,
            programs,
            subjects: Subject::value_variants().to_vec(),
            runs: 5,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(4),
            connections: vec![64, 256],
            batch_connections: 8,
            batch_commands: 1_000,
            redis_connections: 50,
            pipelines: vec![1, 16, 100],
            clients: vec![16, 64],
            units: UNITS,
            buyers_max: u64::MAX,
            pace: None,
        }
    }

    /// In seconds: one run, 300 units for 800 buyers. Measures nothing.
    pub fn short(places: Places, programs: Programs) -> Self {
        Self {
            runs: 1,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(20),
            connections: vec![16],
            batch_commands: 100,
            clients: vec![8],
            units: 300,
            buyers_max: 800,
            pace: Some(4_000.0),
            ..Self::full(places, programs)
        }
    }

    const fn crowd(&self, connections: usize) -> Crowd {
        let (warm_up, measured, buyers_max) = (self.warm_up, self.measured, self.buyers_max);
        Crowd { connections, commands: 1, pace: None, warm_up, measured, first_buyer: 1, buyers_max }
    }

    fn most_connections(&self) -> usize {
        self.connections.iter().copied().max().unwrap_or(1)
    }
}

/// Compares. `said` gets a line about every run.
pub fn run(parameters: &Parameters, said: &mut dyn FnMut(&str)) -> Result<Vec<Outcome>, BenchError> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for subject in &parameters.subjects {
        let sides = Sides { parameters };
        let bytes_per_sync = Cell::new(SYNC_BYTES_FIRST);
        let contest = match subject {
            Subject::Reserve => sides.reserve()?,
            Subject::SoldOut => sides.sold_out()?,
            Subject::Batches => sides.batches(),
            Subject::Database => sides.database(),
            Subject::Latency => sides.latency(sides.pace(&outcomes)?, &bytes_per_sync),
        };
        outcomes.push(contest.run(parameters.runs, said)?);
    }
    Ok(outcomes)
}

#[derive(Debug, Clone, Copy)]
struct Sides<'a> {
    parameters: &'a Parameters,
}

impl<'a> Sides<'a> {
    fn reserve(self) -> Result<Contest<'a>, BenchError> {
        let answer = probe(&self.parameters.places, 1)?;
        let mut sides = Vec::new();
        for connections in &self.parameters.connections {
            let crowd = self.parameters.crowd(*connections);
            let tidegate = Some(sides.len());
            sides.push(self.tidegate(crowd, self.parameters.units));
            sides.push(self.axum(crowd, answer, tidegate));
            sides.extend(AppendOnly::ALL.into_iter().filter_map(|append_only| self.nginx(crowd, append_only, tidegate)));
        }
        Ok(Contest { name: Subject::Reserve.name(), unit: "reservations/s", sides })
    }

    fn sold_out(self) -> Result<Contest<'a>, BenchError> {
        let answer = probe(&self.parameters.places, 0)?;
        let crowd = self.parameters.crowd(self.parameters.most_connections());
        let mut sides = vec![self.tidegate(crowd, 0), self.axum(crowd, answer, Some(0))];
        for sold_out in [SoldOut::Asked, SoldOut::Remembered] {
            let name = if sold_out == SoldOut::Asked { sides::NGINX } else { sides::DICTIONARY };
            sides.extend(self.nginx_side(name, crowd, AppendOnly::No, sold_out, 0, Some(0)));
        }
        Ok(Contest { name: Subject::SoldOut.name(), unit: "answers/s", sides })
    }

    fn batches(self) -> Contest<'a> {
        let parameters = self.parameters;
        let batch = Crowd { commands: parameters.batch_commands, ..parameters.crowd(parameters.batch_connections) };
        let mut sides = vec![self.tidegate(batch, parameters.units)];
        for append_only in AppendOnly::ALL {
            for pipeline in &parameters.pipelines {
                let crowd = Crowd { commands: *pipeline, ..parameters.crowd(parameters.redis_connections) };
                sides.extend(self.redis(crowd, append_only, Some(0)));
            }
        }
        Contest { name: Subject::Batches.name(), unit: "reservations/s", sides }
    }

    fn database(self) -> Contest<'a> {
        let mut sides = Vec::new();
        for clients in &self.parameters.clients {
            let crowd = self.parameters.crowd(*clients);
            let tidegate = Some(sides.len());
            sides.push(self.tidegate(crowd, self.parameters.units));
            sides.extend(self.postgres(crowd, Way::HotRow, tidegate));
            sides.extend(self.postgres(crowd, Way::RowPerUnit, tidegate));
        }
        Contest { name: Subject::Database.name(), unit: "reservations/s", sides }
    }

    /// Half of the rate at which Tidegate reserves for most connections.
    fn pace(self, outcomes: &[Outcome]) -> Result<f64, BenchError> {
        if let Some(pace) = self.parameters.pace {
            return Ok(pace);
        }
        let crowd = self.parameters.crowd(self.parameters.most_connections());
        let reserve = outcomes.iter().find(|outcome| outcome.contest == Subject::Reserve.name());
        let entry = reserve.into_iter().flat_map(|outcome| &outcome.entries);
        let mut rates = entry.filter(|entry| entry.side == sides::TIDEGATE && entry.load == load(&crowd)).map(|entry| entry.rate);
        let rate = match rates.next() {
            Some(rate) => rate,
            None => measure(&mut Node::start(&self.parameters.places)?, &crowd, self.parameters.units)?.rate,
        };
        Ok((rate / 2.0).floor())
    }

    fn latency(self, pace: f64, bytes_per_sync: &'a Cell<f64>) -> Contest<'a> {
        let parameters = self.parameters;
        let crowd = Crowd { pace: Some(pace), ..parameters.crowd(parameters.most_connections()) };
        let tidegate = move || {
            let mut node = Node::start(&parameters.places)?;
            let figure = measure(&mut node, &crowd, parameters.units)?;
            bytes_per_sync.set(node.bytes_per_sync()?);
            Ok(figure)
        };
        let mut sides = vec![side(sides::TIDEGATE, POWER_LOSS, &crowd, None, tidegate)];
        let sync = move || measure_syncs(parameters, bytes_per_sync.get());
        sides.push(Side { load: "one at a time".to_owned(), ..side(sides::SYNC, POWER_LOSS, &crowd, None, sync) });
        sides.extend(self.nginx(crowd, AppendOnly::Always, None));
        Contest { name: Subject::Latency.name(), unit: "/s", sides }
    }

    fn tidegate(self, crowd: Crowd, units: u64) -> Side<'a> {
        let places = &self.parameters.places;
        side(sides::TIDEGATE, POWER_LOSS, &crowd, None, move || measure(&mut Node::start(places)?, &crowd, units))
    }

    fn axum(self, crowd: Crowd, answer: FixedAnswer, rival: Option<usize>) -> Side<'a> {
        let places = &self.parameters.places;
        side(sides::AXUM, "-", &crowd, rival, move || measure_floor(places, answer, &crowd))
    }

    fn nginx(self, crowd: Crowd, append_only: AppendOnly, rival: Option<usize>) -> Option<Side<'a>> {
        self.nginx_side(sides::NGINX, crowd, append_only, SoldOut::Asked, self.parameters.units, rival)
    }

    fn nginx_side(
        self,
        name: &'static str,
        crowd: Crowd,
        append_only: AppendOnly,
        sold_out: SoldOut,
        units: u64,
        rival: Option<usize>,
    ) -> Option<Side<'a>> {
        let (nginx, redis) = (self.parameters.programs.nginx.as_ref()?, self.parameters.programs.redis.as_ref()?);
        let parent = self.parameters.places.directory.as_ref();
        let run = move || measure(&mut Nginx::start(nginx, redis, append_only, sold_out, parent)?, &crowd, units);
        Some(side(name, &append_only.to_string(), &crowd, rival, run))
    }

    fn redis(self, crowd: Crowd, append_only: AppendOnly, rival: Option<usize>) -> Option<Side<'a>> {
        let (program, parent) = (self.parameters.programs.redis.as_ref()?, self.parameters.places.directory.as_ref());
        let units = self.parameters.units;
        let run = move || measure(&mut Redis::start(program, append_only, parent)?, &crowd, units);
        Some(side(sides::REDIS, &append_only.to_string(), &crowd, rival, run))
    }

    fn postgres(self, crowd: Crowd, way: Way, rival: Option<usize>) -> Option<Side<'a>> {
        let (programs, parent) = (self.parameters.programs.postgres.as_ref()?, self.parameters.places.directory.as_ref());
        let (name, units) = match way {
            Way::HotRow => (sides::HOT_ROW, self.parameters.units),
            Way::RowPerUnit => (sides::ROW_PER_UNIT, self.parameters.units.min(UNIT_ROWS)),
        };
        let run = move || {
            let figure = measure(&mut Postgres::start(programs, way, parent)?, &crowd, units)?;
            let is_sold_out = figure.granted == units && units == UNIT_ROWS;
            if is_sold_out { Err(BenchError::wrong("the units ran out before the time: give it more rows")) } else { Ok(figure) }
        };
        Some(side(name, "synchronous_commit", &crowd, rival, run))
    }
}

fn side<'a>(
    name: &'static str,
    durability: &str,
    crowd: &Crowd,
    rival: Option<usize>,
    run: impl Fn() -> Result<RunFigure, BenchError> + 'a,
) -> Side<'a> {
    Side { name, durability: durability.to_owned(), load: load(crowd), rival, run: Box::new(run) }
}

/// How a crowd asks.
pub fn load(crowd: &Crowd) -> String {
    let commands = if crowd.commands == 1 { String::new() } else { format!(" x {}", crowd.commands) };
    let pace = crowd.pace.map(|pace| format!(", {pace:.0}/s")).unwrap_or_default();
    format!("{} connections{commands}{pace}", crowd.connections)
}

/// Bare syncs of as many bytes as the node's took, one at a time, into a file that was written and synced before.
fn measure_syncs(parameters: &Parameters, bytes_per_sync: f64) -> Result<RunFigure, BenchError> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a positive number of bytes, and rounded")]
    let bytes = vec![0xa5; bytes_per_sync.round().max(1.0) as usize];
    let directory = temporary_directory(parameters.places.directory.as_ref())?;
    let mut file = Plain::create(&directory.path().join("synced"), SYNCED_BYTES)?;
    let (start, mut latencies) = (Instant::now(), Latencies::default());
    while start.elapsed() < parameters.measured && latencies.count() < parameters.buyers_max {
        signals::check()?;
        latencies.record(file.write(&bytes)?);
    }
    let rate = per_second(latencies.count(), start.elapsed());
    let (server_cpu_us, generator_cores) = (0.0, 0.0);
    Ok(RunFigure { rate, latency: latencies.percentiles(), server_cpu_us, generator_cores, buyers: 0, granted: 0 })
}

/// The median over the runs of what `of` makes of this side's and the other's figures of the same run.
pub fn median_within_runs(own: &[RunFigure], other: &[RunFigure], of: impl Fn(&RunFigure, &RunFigure) -> f64) -> f64 {
    median(&own.iter().zip(other).map(|(own, other)| of(own, other)).collect::<Vec<_>>())
}
