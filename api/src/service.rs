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
use crate::cluster::ClusterSource;
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

/// `GET /v1/time`: the time that decisions are made by.
pub(crate) async fn time(call: Call) -> Result<Response, Problem> {
    let now = call.engine()?.now();
    replies::json(status::OK, &TimeDocument { now: Shown(now), unix_ms: now.unix_ms() })
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
    if let Some(why) = call.door().cluster().and_then(ClusterSource::lacks_quorum) {
        return Err(Problem::new(Code::NoQuorum, why));
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
