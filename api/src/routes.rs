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
use http::{HeaderMap, HeaderName, HeaderValue};
use tower::Service;
use tracing::Instrument;

use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::labels::Route;
use crate::problem::{Cause, X_REQUEST_ID};
use crate::{reservations, service, stocks};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// All routes of the door.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route(Route::Stock.path(), get(stocks::read).put(stocks::open))
        .route(Route::Reservations.path(), post(reservations::reserve))
        .route(Route::Reservation.path(), get(reservations::read))
        .route(Route::Confirm.path(), post(reservations::confirm))
        .route(Route::Release.path(), post(reservations::release))
        .route(Route::Time.path(), get(service::time))
        .route(Route::Livez.path(), get(service::livez))
        .route(Route::Readyz.path(), get(service::readyz))
        .route(Route::Metrics.path(), get(service::metrics))
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
    // The span is what the trace of the caller continues in; disabled, it costs one look.
    let span = tracing::debug_span!("request", trace_id = trace_id(request.headers()));
    request.extensions_mut().insert(Arc::clone(&exchange));
    let mut response = match router.call(request).instrument(span.clone()).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (route, status, elapsed) = (exchange.route(), response.status(), began.elapsed());
    door.metrics().count_request(route, status, elapsed);
    span.in_scope(|| tracing::debug!(?request_id, route = route.path(), status = status.as_u16(), ?elapsed, "answered"));
    if let Some(Cause(cause)) = response.extensions_mut().remove::<Cause>() {
        tracing::error!(?request_id, route = route.path(), cause, "a request failed inside");
    }
    response.headers_mut().insert(X_REQUEST_ID, request_id);
    if door.is_stopping() {
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

/// The trace that the request belongs to, if its `traceparent` is valid (W3C Trace Context, version 00 and what later versions keep of it).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut fields = text.split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |field: &str, length: usize| {
        field.len() == length && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(parent, 16)
        && !is_zero(parent)
        && is_hex(flags, 2)
        && (version != "00" || fields.next().is_none());
    is_valid.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_trace(text: &str, expect: Option<&str>) {
        let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).unwrap())]);
        assert_eq!(trace_id(&headers), expect, "{text}");
    }

    #[test]
    fn a_valid_traceparent_gives_its_trace_and_another_none() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(trace));
        check_trace("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", Some(trace));
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None);
        check_trace("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check_trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None);
        check_trace("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None);
        check_trace("00-4bf92f3577b34da6-00f067aa0ba902b7-01", None);
        check_trace("nonsense", None);
    }
}
