//! Which call goes to which handler, and what every answer has in common: a request id, a count, a line in the log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, post};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};
use tower::Service;
use tracing::Instrument;

use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::labels::Route;
use crate::problem::{Cause, X_REQUEST_ID};
use crate::status::Code;
use crate::trace::RequestSpan;
use crate::{backup, batch, events, reservations, service, stocks};

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
        .route(Route::Cluster.path(), get(service::cluster))
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
pub(crate) async fn answer<B>(
    door: Arc<Door>,
    mut router: Router,
    exchange: Arc<Exchange>,
    mut request: Request<B>,
) -> Result<Response<Body>, Infallible>
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let began = Instant::now();
    exchange.begin_request(!request.body().is_end_stream());
    let request_id = request_id(request.headers()).unwrap_or_else(|| door.new_request_id());
    let trace = RequestSpan::begin(request.method(), request.headers());
    request.extensions_mut().insert(Arc::clone(&exchange));
    let mut response = match router.call(request).instrument(trace.span()).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
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

/// The request's own id, if it is one to be repeated: 1 to 128 visible ASCII characters.
fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let is_sane = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    is_sane.then(|| id.clone())
}
