//! Answers with a body, and the headers that belong to them.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use tidegate_engine::{Answer, Content, Engine, StockAnswer};

use crate::documents::{ReservationDocument, StockDocument};
use crate::json;
use crate::precondition::tag;
use crate::problem::Problem;
use crate::status;

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(crate) const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Room for a stock or a reservation with identifiers of common length, so that writing one seldom has to grow.
const BODY_BYTES_TYPICAL: usize = 512;

/// What a command was answered with.
pub(crate) fn answer(engine: &Engine, answer: &Answer) -> Result<Response, Problem> {
    let status = if answer.created { status::CREATED } else { status::OK };
    let (mut response, location) = match &answer.content {
        Content::Stock(stock) => {
            (self::stock(status, stock)?, answer.created.then(|| ["/v1/stocks/", stock.view.sku.as_str()].concat()))
        }
        Content::Reservation(view) => {
            let id = engine.seal(view.id);
            let response = json(status, &ReservationDocument::of(&id, view))?;
            (response, answer.created.then(|| ["/v1/reservations/", &id].concat()))
        }
    };
    let headers = response.headers_mut();
    if let Some(location) = location {
        headers.insert(LOCATION, HeaderValue::try_from(location).map_err(|error| Problem::internal(&error))?);
    }
    if answer.replayed {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A stock's tag. It changes with settings and life, not with sales, so it is no reason to answer that nothing was modified. It is
/// written as a strong one, because a client that changes settings on condition of it (`if-match`) may send no other.
fn etag(stock: &StockAnswer) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", tag(stock.view.revision))).expect("hexadecimal digits in quotes make a header")
}

/// A stock.
pub(crate) fn stock(status: StatusCode, stock: &StockAnswer) -> Result<Response, Problem> {
    let mut response = json(status, &StockDocument::of(stock))?;
    response.headers_mut().insert(ETAG, etag(stock));
    Ok(response)
}

/// `document` as JSON.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Result<Response, Problem> {
    let mut bytes = Vec::with_capacity(BODY_BYTES_TYPICAL);
    json::append(&mut bytes, document)?;
    Ok(momentary(status, APPLICATION_JSON, bytes))
}

/// A body that is true at this moment alone: a copy that a cache keeps would be a lie about stock.
pub(crate) fn momentary(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}
