//! Which call goes to which handler, and what every answer has in common: a request id, a count, a line in the log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method};
use hyper::body::Incoming;
use tower::Service;
use tracing::Instrument;

use crate::call::{Call, Unread};
use crate::cluster::Decider;
use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::forward::Subject;
use crate::labels::Route;
use crate::problem::{Cause, X_REQUEST_ID};
use crate::status::Code;
use crate::trace::RequestSpan;
use crate::{backup, batch, cluster, events, forward, reservations, service, stocks};

/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// All routes of the door.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route(Route::Stocks.path(), get(stocks::list))
        .route(Route::Stock.path(), get(stocks::read).put(stocks::open).patch(stocks::change))
        .route(Route::Adjustments.path(), post(stocks::adjust))
        .route(Route::Pause.path(), post(stocks::pause))
        .route(Route::Reopen.path(), post(stocks::reopen))
        .route(Route::Close.path(), post(stocks::close))
        .route(Route::Archive.path(), post(stocks::archive))
        .route(Route::Reservations.path(), get(reservations::list).post(reservations::reserve))
        .route(Route::Reservation.path(), get(reservations::read))
        .route(Route::Confirm.path(), post(reservations::confirm))
        .route(Route::Release.path(), post(reservations::release))
        .route(Route::Return.path(), post(reservations::give_back))
        .route(Route::Extend.path(), post(reservations::extend))
        .route(Route::Batch.path(), post(batch::run))
        .route(Route::Events.path(), get(events::read))
        .route(Route::Cluster.path(), get(cluster::read))
        .route(Route::Members.path(), post(cluster::join))
        .route(Route::Leave.path(), post(cluster::leave))
        .route(Route::Drain.path(), post(cluster::drain))
        .route(Route::Resume.path(), post(cluster::resume))
        .route(Route::Backup.path(), get(backup::read).head(backup::head))
        .route(Route::Time.path(), get(service::time))
        .route(Route::Livez.path(), get(service::livez))
        .route(Route::Readyz.path(), get(service::readyz))
        .route(Route::Metrics.path(), get(service::metrics))
        .route(Route::OpenApi.path(), get(service::openapi))
        .route(Route::Docs.path(), get(service::docs))
        .method_not_allowed_fallback(service::method_not_allowed)
        .fallback(service::not_found)
        .with_state(door)
}

/// Answers one request of the connection that `exchange` belongs to.
pub(crate) async fn answer(
    door: &Arc<Door>,
    router: &Router,
    exchange: &Arc<Exchange>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let began = Instant::now();
    exchange.begin_request(!request.body().is_end_stream());
    let request_id = request_id(request.headers()).unwrap_or_else(|| door.new_request_id());
    let trace = RequestSpan::begin(request.method(), request.headers());
    let mut response = handle(door, router, exchange, request).instrument(trace.span()).await;
    let (route, status, elapsed) = (exchange.route(), response.status(), began.elapsed());
    door.metrics().count_request(route, status, elapsed);
    if let Some(code) = response.extensions_mut().remove::<Code>() {
        door.metrics().count_problem(code);
    }
    trace.answered(route, status);
    tracing::debug!(?request_id, trace_id = trace.trace_id(), route = route.path(), status = status.as_u16(), ?elapsed, "answered");
    if let Some(Cause(cause)) = response.extensions_mut().remove::<Cause>() {
        tracing::error!(?request_id, trace_id = trace.trace_id(), route = route.path(), cause, "a request failed inside");
    }
    response.headers_mut().insert(X_REQUEST_ID, request_id);
    if door.is_leaving() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.enter(Phase::Writing);
    Ok(response)
}

/// Has the request's handler answer it. The one call that a rush is made of finds its handler at a glance: the router's search, its boxes and
/// its lists of parameters cost a fifth of what such a request costs in all. Whatever else there is goes through the router.
async fn handle(door: &Arc<Door>, router: &Router, exchange: &Arc<Exchange>, mut request: Request<Incoming>) -> Response<Body> {
    if let Some(subject) = elsewhere(door, &request) {
        let request = request.map(Body::new);
        return forward::run(door, router, exchange, subject, request).await.unwrap_or_else(IntoResponse::into_response);
    }
    if request.method() == Method::POST
        && let Some(sku) = reserved_sku(request.uri().path())
    {
        let sku = Some(sku.to_owned());
        let (mut parts, body) = request.into_parts();
        return match Call::begin(Arc::clone(door), Arc::clone(exchange), Route::Reservations, &mut parts, sku) {
            Ok(call) => reservations::reserve(call, Unread::new(Body::new(body))).await.into_response(),
            Err(problem) => problem.into_response(),
        };
    }
    request.extensions_mut().insert(Arc::clone(exchange));
    match router.clone().call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What the request is about, if another node decides about it, or nobody that is known.
fn elsewhere(door: &Door, request: &Request<Incoming>) -> Option<Subject> {
    let cluster = door.cluster()?;
    let subject = Subject::of(door.engine().ok()?, request.method(), request.uri())?;
    (cluster.decider(subject.shard) != Decider::Here).then_some(subject)
}

/// The sku in the path of [`Route::Reservations`], if it stands there as it is. With escapes it is for the router to read.
fn reserved_sku(path: &str) -> Option<&str> {
    let sku = path.strip_prefix("/v1/stocks/")?.strip_suffix("/reservations")?;
    (!sku.is_empty() && !sku.contains(['/', '%'])).then_some(sku)
}

/// The request's own id, if it is one to be repeated: 1 to 128 visible ASCII characters.
fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let is_sane = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    is_sane.then(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_at_a_glance_is_what_the_route_matches() {
        let template = Route::Reservations.path();
        assert_eq!(reserved_sku(&template.replace("{sku}", "lamp")), Some("lamp"));
        assert_eq!(reserved_sku(&template.replace("{sku}", "a.b-c_d~e:f")), Some("a.b-c_d~e:f"));
        for other in ["", "a/b", "/", "a%20b", "%"] {
            assert_eq!(reserved_sku(&template.replace("{sku}", other)), None, "{other:?}");
        }
        for path in
            ["/v1/stocks/reservations", "/v1/stocks/lamp/reservations/", "/v1/stocks/lamp", "/v1/reservations", "/reservations"]
        {
            assert_eq!(reserved_sku(path), None, "{path}");
        }
    }
}
