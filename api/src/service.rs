//! The calls about the node itself: its time, its health, its metrics; and what is said where there is no call.

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text;
use serde::Serialize;
use tidegate_engine::Refusal;

use crate::call::Call;
use crate::problem::Problem;
use crate::replies;
use crate::status::{self, Code};
use crate::time::Shown;

/// The text format that [`text::encode`] writes, for who asks for it.
const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The older format, in which the same lines read the same.
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

#[derive(Serialize)]
struct TimeDocument {
    now: Shown,
    unix_ms: u64,
}

#[derive(Serialize)]
struct HealthDocument {
    status: &'static str,
}

/// `GET /v1/time`: the time that decisions are made by.
pub(crate) async fn time(call: Call) -> Result<Response, Problem> {
    let now = call.engine()?.now();
    replies::json(status::OK, &TimeDocument { now: Shown(now), unix_ms: now.unix_ms() })
}

/// `GET /livez`: whether the process serves at all.
pub(crate) async fn livez(_: Call) -> Result<Response, Problem> {
    replies::json(status::OK, &HealthDocument { status: "live" })
}

/// `GET /readyz`: whether commands are taken, or what is missing for it.
pub(crate) async fn readyz(call: Call) -> Result<Response, Problem> {
    if !call.engine()?.takes_commands() {
        return Err(Refusal::Stopping.into());
    }
    replies::json(status::OK, &HealthDocument { status: "ready" })
}

/// `GET /metrics`: everything that is counted.
pub(crate) async fn metrics(call: Call) -> Result<Response, Problem> {
    let door = call.door();
    if let Some(engine) = door.engine_to_inspect() {
        door.metrics().show_shards(&call.bounded(engine.inspect()).await?);
    }
    let mut shown = String::new();
    text::encode(&mut shown, door.registry()).map_err(|_| Problem::internal(&"a metric could not be written"))?;
    let mut response = Response::new(Body::from(shown));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, if call.accepts("application/openmetrics-text") { OPEN_METRICS } else { METRICS_TEXT });
    Ok(response)
}

/// Nothing is here.
pub(crate) async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "nothing is at this path")
}

/// Something is here, but not for this method.
pub(crate) async fn method_not_allowed(_: Call) -> Problem {
    Problem::new(Code::MethodNotAllowed, "the methods that this path knows are in the allow header")
}
