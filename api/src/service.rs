//! The calls about the node itself: its time, its health, its metrics; and what is said where there is no call.

use std::fmt;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_engine::{Engine, Refusal};
use tokio::task::spawn_blocking;

use crate::call::{Call, Stray};
use crate::exposition;
use crate::openapi::OPENAPI;
use crate::page::PAGE;
use crate::problem::Problem;
use crate::replies::{self, APPLICATION_JSON};
use crate::schema::{Count, Moment};
use crate::status::{self, Code};
use crate::time::Shown;

/// The newer text format, for who asks for it.
const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The older format, which every scraper reads.
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The page may show its own style and ask for nothing.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'");

/// The term of whoever leads a shard that has never been led by another.
const FIRST_TERM: u64 = 1;

/// The time.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Time")]
pub(crate) struct TimeDocument {
    /// As everywhere.
    #[schemars(with = "Moment")]
    now: Shown,
    /// Milliseconds since 1970.
    #[schemars(with = "Count")]
    unix_ms: u64,
}

/// How the node is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
pub(crate) struct HealthDocument {
    /// In a word.
    status: &'static str,
}

/// The cluster as this node sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Cluster")]
pub(crate) struct ClusterDocument {
    /// This node's number.
    #[schemars(with = "Count")]
    node: u64,
    /// Every node, this one included.
    nodes: Vec<NodeDocument>,
    /// The shards that every node's stocks are spread over.
    shards: Vec<ShardDocument>,
}

/// A node.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Node")]
struct NodeDocument {
    /// Its number.
    #[schemars(with = "Count")]
    node: u64,
}

/// A shard.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Shard")]
struct ShardDocument {
    /// Its number.
    #[schemars(with = "Count")]
    shard: u16,
    /// The node that decides for it.
    #[schemars(with = "Count")]
    leader: u64,
    /// Rises with every change of its leader.
    #[schemars(with = "Count")]
    term: u64,
    /// Up to where its log is committed.
    #[schemars(with = "Count")]
    committed: u64,
}

/// `GET /v1/time`: the time that decisions are made by.
pub(crate) async fn time(call: Call) -> Result<Response, Problem> {
    let now = call.engine()?.now();
    replies::json(status::OK, &TimeDocument { now: Shown(now), unix_ms: now.unix_ms() })
}

/// `GET /v1/cluster`: who leads what. A node that stands alone leads everything.
pub(crate) async fn cluster(call: Call) -> Result<Response, Problem> {
    let engine = call.engine()?;
    let node = call.door().node();
    let shards = engine.streams().into_iter().filter_map(|stream| {
        let committed = engine.committed(stream)?.0;
        Some(ShardDocument { shard: stream.0, leader: node, term: FIRST_TERM, committed })
    });
    replies::json(status::OK, &ClusterDocument { node, nodes: vec![NodeDocument { node }], shards: shards.collect() })
}

/// `GET /openapi.json`: the contract.
pub(crate) async fn openapi(_: Call) -> Response {
    fixed(APPLICATION_JSON, &OPENAPI)
}

/// `GET /docs`: the contract as a page to read.
pub(crate) async fn docs(_: Call) -> Response {
    let mut response = fixed(HeaderValue::from_static("text/html; charset=utf-8"), &PAGE);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

/// A body that stays the same for as long as the process runs.
fn fixed(content_type: HeaderValue, body: &Bytes) -> Response {
    let mut response = Response::new(Body::from(body.clone()));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// `GET /livez`: whether the process serves at all.
pub(crate) async fn livez(_: Call) -> Result<Response, Problem> {
    replies::json(status::OK, &HealthDocument { status: "live" })
}

/// `GET /readyz`: whether commands are taken, or what is missing for it.
pub(crate) async fn readyz(call: Call) -> Result<Response, Problem> {
    if !call.engine()?.takes_commands() || call.door().is_leaving() {
        return Err(Refusal::Stopping.into());
    }
    replies::json(status::OK, &HealthDocument { status: "ready" })
}

/// `GET /metrics`: everything that is counted.
pub(crate) async fn metrics(call: Call) -> Result<Response, Problem> {
    let door = call.shared_door();
    if let Some(engine) = door.engine_to_inspect() {
        door.metrics().show_shards(&call.bounded(engine.inspect()).await?);
        door.metrics().show_stocks(engine.stock_count());
    }
    if let Some(feed) = door.events().feed() {
        door.metrics().show_feed(feed.status());
    }
    door.metrics().show_readiness(door.engine().is_ok_and(Engine::takes_commands));
    let is_open_metrics = call.accepts("application/openmetrics-text");
    // Some of it is asked of the operating system, for which no other request should wait.
    let shown = spawn_blocking(move || {
        let shown = exposition::open_metrics(door.registry())?;
        Ok::<_, fmt::Error>(if is_open_metrics { shown } else { exposition::prometheus_text(&shown) })
    });
    let shown = call.bounded(shown).await?.map_err(|_| Problem::internal(&"writing the metrics was cut short"))?;
    let shown = shown.map_err(|_| Problem::internal(&"a metric could not be written"))?;
    let mut response = Response::new(Body::from(shown));
    response.headers_mut().insert(CONTENT_TYPE, if is_open_metrics { OPEN_METRICS } else { METRICS_TEXT });
    Ok(response)
}

/// Nothing is here.
pub(crate) async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "nothing is at this path")
}

/// Something is here, but not for this method.
pub(crate) async fn method_not_allowed(_: Stray) -> Problem {
    Problem::new(Code::MethodNotAllowed, "the methods that this path knows are in the allow header")
}
