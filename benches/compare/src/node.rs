//! Tidegate itself, and axum answering a fixed JSON beside it. Both are started by the benches' own hand.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_benches::error::{BenchError, expect_equal};
use tidegate_benches::exchange::{Crowd, Seen, exchange};
use tidegate_benches::floor::FixedAnswer;
use tidegate_benches::load::{Load, LoadPlan, RequestTemplate, load};
use tidegate_benches::server::Server;
use tidegate_benches::signals;
use tidegate_benches::wire::{Outcomes, Request, take_batch, take_single};

use crate::process;
use crate::shop::{Books, RunFigure, Shop, figure};

/// Where the programs are, and where data goes.
#[derive(Debug, Clone)]
pub struct Places {
    /// The node's program.
    pub tidegate: PathBuf,
    /// This package's own program, which serves the floor.
    pub compare: PathBuf,
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
}

/// A node with default settings on a fresh data directory.
#[derive(Debug)]
pub struct Node(Server);

impl Node {
    /// Starts it.
    pub fn start(places: &Places) -> Result<Self, BenchError> {
        Server::node(&places.tidegate, places.directory.as_ref()).map(Self)
    }

    /// How many bytes the log's syncs took on average so far.
    pub fn bytes_per_sync(&self) -> Result<f64, BenchError> {
        let metrics = self.0.metrics()?;
        let (bytes, syncs) =
            (Server::metric(&metrics, "log_written_bytes_total"), Server::metric(&metrics, "log_sync_seconds_count"));
        if bytes > 0.0 && syncs > 0.0 { Ok(bytes / syncs) } else { Err(BenchError::wrong("the node's metrics show no syncs")) }
    }
}

impl Shop for Node {
    fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError> {
        self.0.open_stock(sku, units)
    }

    fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
        if crowd.commands > 1 {
            return exchange(self.0.address(), &Request::batch(sku, crowd.commands), take_batch, crowd);
        }
        sell_singly(self.0.address(), sku, crowd)
    }

    fn books(&mut self, sku: &str) -> Result<Books, BenchError> {
        let available = self.0.stock_counter(sku, "available")?;
        let (reserved, allotted) = (self.0.stock_counter(sku, "reserved")?, self.0.stock_counter(sku, "allotted")?);
        Ok(Books { available, sold: vec![("reserved", reserved), ("allotted less available", allotted - available)] })
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.0.process()]
    }
}

/// One command a request, as every HTTP side is asked: by the benches' own generator, or at a steady pace.
pub fn sell_singly(address: std::net::SocketAddr, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
    if crowd.pace.is_some() {
        return exchange(address, &Request::single(sku), take_single, crowd);
    }
    let load = load(&plan(address, crowd), &RequestTemplate::reserve(sku))?;
    let mut outcomes = Outcomes::default();
    for (status, body) in &load.samples {
        let body = String::from_utf8_lossy(body);
        match status {
            201 if body.contains("\"reserved\"") => outcomes.granted = load.with_status(201),
            409 if body.contains("\"sold_out\"") => outcomes.sold_out = load.with_status(409),
            409 if body.contains("\"limit_reached\"") => outcomes.duplicates = load.with_status(409),
            _ => {
                let count = load.with_status(*status);
                return Err(BenchError::Wrong(format!("{count} answers have status {status}, the first with: {body}")));
            }
        }
    }
    expect_equal("answers that were understood", outcomes.total(), load.total())?;
    Ok(seen(load, outcomes))
}

const fn plan(address: std::net::SocketAddr, crowd: &Crowd) -> LoadPlan {
    LoadPlan {
        address,
        connections: crowd.connections,
        threads: 1,
        warm_up: crowd.warm_up,
        measured: crowd.measured,
        requests_max: crowd.buyers_max,
    }
}

fn seen(load: Load, outcomes: Outcomes) -> Seen {
    Seen {
        outcomes,
        answers: load.answers,
        measured: load.measured,
        latencies: load.latencies,
        generator_cpu: load.generator_cpu,
        elapsed: load.elapsed,
    }
}

/// Status and length of the node's answer to a buyer of a product of `units`, for the floor to give the same.
pub fn probe(places: &Places, units: u64) -> Result<FixedAnswer, BenchError> {
    let node = Node::start(places)?;
    node.0.open_stock("probe", units)?;
    let (status, body) = node.0.ask("POST", "/v1/stocks/probe/reservations", r#"{"user":"u0000000000","quantity":1}"#)?;
    expect_equal("the status of a reservation", status.into(), if units > 0 { 201 } else { 409 })?;
    Ok(FixedAnswer { status, body_bytes: body.len() })
}

/// Measures one crowd at the floor, which answers everybody the same.
pub fn measure_floor(places: &Places, answer: FixedAnswer, crowd: &Crowd) -> Result<RunFigure, BenchError> {
    let server = Server::floor(&places.compare, answer)?;
    let roots = [server.process()];
    let cpu_before = process::cpu(&roots);
    let load = load(&plan(server.address(), crowd), &RequestTemplate::reserve("floor"))?;
    let server_cpu: Duration = process::cpu(&roots).saturating_sub(cpu_before);
    signals::check()?;
    let same = load.with_status(answer.status);
    expect_equal("answers with the floor's status", same, load.total())?;
    let outcomes = if answer.status == 201 {
        Outcomes { granted: same, ..Outcomes::default() }
    } else {
        Outcomes { sold_out: same, ..Outcomes::default() }
    };
    Ok(figure(&seen(load, outcomes), server_cpu.as_secs_f64()))
}
