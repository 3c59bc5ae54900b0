//! What replication costs: the same sale over HTTP on a node that stands alone, on a cluster of one voter, and on one of three nodes that share
//! this machine, its cores and its disk.
//!
//! The three take turns within each run, and each has a fresh directory, one shard and default settings; the buyers ask whichever leads.
//! Afterwards every node must have as many units reserved as the buyers were told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::error::{BenchError, expect_equal};
use crate::figure::{Against, Figure, Run, median, medians, per_second};
use crate::http::{SKU, UNITS_MAX};
use crate::load::{LoadPlan, RequestTemplate, load};
use crate::machine::temporary_directory;
use crate::server::Server;

/// One shard: a product belongs to one of them, so more would only idle.
const ONE_SHARD: &str = "node.shards=1";

/// The port that nodes listen on for each other, each on an address of its own.
const PORT: u16 = 8_701;

/// Longest wait until a cluster has come together, or all of it has everything.
const WHOLE_WAIT_MAX: Duration = Duration::from_mins(1);

/// Time between two looks whether it has.
const WHOLE_LOOK: Duration = Duration::from_millis(20);

/// What to measure.
#[derive(Debug, Clone)]
pub struct ClusterParameters {
    /// The node's program.
    pub tidegate: PathBuf,
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// Keep-alive connections.
    pub connections: usize,
    /// Time before counting.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
    /// Turns of all three.
    pub runs: usize,
    /// Requests after which a run ends, whatever the time.
    pub requests_max: u64,
}

impl ClusterParameters {
    /// For figures: 256 connections, five turns of 8 s after 2 s.
    pub const fn full(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        let (warm_up, measured) = (Duration::from_secs(2), Duration::from_secs(8));
        Self { tidegate, directory, connections: 256, warm_up, measured, runs: 5, requests_max: u64::MAX }
    }

    /// For tests: one turn of 500 buyers.
    pub fn tiny(tidegate: PathBuf, directory: Option<PathBuf>) -> Self {
        let (warm_up, measured) = (Duration::ZERO, Duration::from_secs(20));
        Self { connections: 16, warm_up, measured, runs: 1, requests_max: 500, ..Self::full(tidegate, directory) }
    }
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Alone,
    OneVoter,
    ThreeNodes,
}

impl Served {
    const ALL: [Self; 3] = [Self::Alone, Self::OneVoter, Self::ThreeNodes];

    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "a node that stands alone",
            Self::OneVoter => "a cluster of one voter",
            Self::ThreeNodes => "three nodes on this machine",
        }
    }

    const fn nodes(self) -> usize {
        if matches!(self, Self::ThreeNodes) { 3 } else { 1 }
    }
}

/// Measures. Gives a figure for each of the three, in this order: alone, one voter, three nodes.
pub fn run(parameters: &ClusterParameters) -> Result<Vec<Figure>, BenchError> {
    let mut runs: [Vec<Run>; 3] = Default::default();
    for turn in 0..parameters.runs {
        // Whoever comes first meets another disk than whoever comes last.
        for step in 0..Served::ALL.len() {
            let place = (turn + step) % Served::ALL.len();
            runs[place].push(measure(parameters, Served::ALL[place])?);
        }
    }
    let [alone, ..] = &runs;
    let figure = |(served, of): (Served, &Vec<Run>)| {
        let (rate, spread, latency) = medians(of);
        let ratios: Vec<f64> = of.iter().zip(alone).map(|(run, alone)| run.rate / alone.rate).collect();
        let against = Against { floor: Served::Alone.name(), ratio: median(&ratios) };
        Figure {
            bench: "cluster",
            what: format!("reserve 1 unit, hot product, {} connections, {}", parameters.connections, served.name()),
            durability: "power_loss".to_owned(),
            group_events: None,
            unit: "reservations/s",
            rate,
            runs: of.len(),
            spread,
            latency: Some(latency),
            against: (served != Served::Alone).then_some(against),
            more: Vec::new(),
        }
    };
    Ok(Served::ALL.into_iter().zip(&runs).map(figure).collect())
}

fn measure(parameters: &ClusterParameters, served: Served) -> Result<Run, BenchError> {
    let nodes = Nodes::start(parameters, served)?;
    let leader = nodes.leader()?;
    leader.open_stock(SKU, UNITS_MAX)?;
    let plan = LoadPlan {
        address: leader.address(),
        connections: parameters.connections,
        threads: 1,
        warm_up: parameters.warm_up,
        measured: parameters.measured,
        requests_max: parameters.requests_max,
    };
    let load = load(&plan, &RequestTemplate::reserve(SKU))?;
    if let Some((status, body)) = load.samples.iter().find(|(status, _)| *status != 201) {
        let (count, body) = (load.with_status(*status), String::from_utf8_lossy(body));
        return Err(BenchError::Wrong(format!("{count} answers have status {status}, the first with: {body}")));
    }
    nodes.hold(load.with_status(201))?;
    Ok(Run { rate: per_second(load.answers, load.measured), latency: load.latencies.percentiles() })
}

/// The nodes of one run. Dropping it ends them, and removes their data.
struct Nodes {
    servers: Vec<Server>,
    is_cluster: bool,
    folder: TempDir,
}

impl Nodes {
    fn start(parameters: &ClusterParameters, served: Served) -> Result<Self, BenchError> {
        let folder = temporary_directory(parameters.directory.as_ref())?;
        let mut nodes = Self { servers: Vec::new(), is_cluster: served != Served::Alone, folder };
        let root = nodes.folder.path().to_owned();
        let secret = root.join("secret");
        std::fs::write(&secret, "the secret of a bench on this machine alone").map_err(BenchError::io("the cluster's secret"))?;
        for number in 0..served.nodes() {
            let data = root.join(format!("node-{}", number + 1));
            let mut settings = vec![ONE_SHARD.to_owned()];
            if nodes.is_cluster {
                settings.push(format!("cluster.listen={}", loopback()));
                settings.push(format!("cluster.secret_file={}", secret.display()));
                let target = nodes.servers.first().map(|first| format!("http://{}", first.address()));
                make_member(&parameters.tidegate, &data, &settings, target)?;
            }
            nodes.servers.push(Server::node_on(&parameters.tidegate, &data, &settings)?);
        }
        nodes.wait("the cluster is not whole", Self::is_whole)?;
        Ok(nodes)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> Result<bool, BenchError>) -> Result<(), BenchError> {
        let began = Instant::now();
        while !is_so(self)? {
            if began.elapsed() > WHOLE_WAIT_MAX {
                return Err(BenchError::Wrong(format!("{what} after {} s", WHOLE_WAIT_MAX.as_secs())));
            }
            // What nodes have is an answer, not an event to wait for.
            thread::park_timeout(WHOLE_LOOK);
        }
        Ok(())
    }

    /// Whether every node sees that all are counted.
    fn is_whole(&self) -> Result<bool, BenchError> {
        for server in self.servers.iter().filter(|_| self.is_cluster) {
            let seen = cluster_of(server)?;
            let nodes = seen["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            let is_counted = nodes.len() == self.servers.len() && nodes.iter().all(|node| node["role"] == "voter");
            if !is_counted || seen["shards"][0]["leader"].is_null() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Who decides.
    fn leader(&self) -> Result<&Server, BenchError> {
        let leader = if self.is_cluster { cluster_of(&self.servers[0])?["shards"][0]["leader"].as_u64() } else { Some(1) };
        let place = leader.and_then(|leader| usize::try_from(leader).ok()?.checked_sub(1));
        place.and_then(|place| self.servers.get(place)).ok_or_else(|| BenchError::wrong("nobody leads"))
    }

    /// Every node itself has so many units reserved, or has them soon.
    fn hold(&self, granted: u64) -> Result<(), BenchError> {
        let own = format!("/v1/stocks/{SKU}?consistency=stale");
        let reserved = |server: &Server| -> Result<u64, BenchError> {
            let (status, body) = server.ask("GET", &own, "")?;
            let stock: Value = serde_json::from_str(&body).map_err(BenchError::wrong)?;
            stock["reserved"].as_u64().ok_or_else(|| BenchError::Wrong(format!("reading a stock got {status}: {body}")))
        };
        // A node that follows hears of the last groups a moment later.
        let has_all = |server: &Server| Ok::<_, BenchError>(reserved(server)? >= granted);
        self.wait("a node lacks reservations", |nodes| {
            nodes.servers.iter().map(has_all).try_fold(true, |all, has| Ok(all && has?))
        })?;
        for server in &self.servers {
            expect_equal("a node's reserved units", reserved(server)?, granted)?;
        }
        Ok(())
    }
}

fn cluster_of(server: &Server) -> Result<Value, BenchError> {
    let (_, body) = server.ask("GET", "/v1/cluster", "")?;
    serde_json::from_str(&body).map_err(BenchError::wrong)
}

/// Makes the directory of a member: the first of a cluster, or one that joins at `target`.
fn make_member(tidegate: &Path, data: &Path, settings: &[String], target: Option<String>) -> Result<(), BenchError> {
    let mut command = Command::new(tidegate);
    command.args(["cluster", if target.is_some() { "join" } else { "init" }, "--data-dir"]).arg(data);
    if let Some(target) = target {
        command.args(["--target", &target]);
    }
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().map_err(BenchError::io(format!("{} as a command", tidegate.display())))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Wrong(format!("no member can be made: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Where a node listens for others: an address of the loopback network that nothing else uses, made of the process's number.
fn loopback() -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    // 1 to 250, again and again: earlier nodes are gone by then.
    let host = TAKEN.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    SocketAddr::from(([127, 128 | (high & 0x7f), low, host], PORT))
}
