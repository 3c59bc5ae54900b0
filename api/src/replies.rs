//! Answers with a body: stocks and reservations as JSON, and the headers that belong to them.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use tidegate_engine::{Answer, Content, Engine, Position, StockAnswer};
use tidegate_stock::{ReservationState, ReservationView, StockState};

use crate::problem::Problem;
use crate::status;
use crate::time::Shown;

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Room for a stock or a reservation with identifiers of common length, so that writing one seldom has to grow.
const BODY_BYTES_TYPICAL: usize = 512;

#[derive(Serialize)]
struct StockDocument<'a> {
    sku: &'a str,
    allotted: u64,
    available: u64,
    reserved: u64,
    sold: u64,
    per_user_limit: Option<u32>,
    hold_seconds: u32,
    hold_seconds_max: u32,
    opens_at: Option<Shown>,
    closes_at: Option<Shown>,
    state: &'static str,
    #[serde(serialize_with = "as_text")]
    as_of: Position,
}

#[derive(Serialize)]
struct ReservationDocument<'a> {
    id: &'a str,
    sku: &'a str,
    user: &'a str,
    quantity: u32,
    reserved: u32,
    confirmed: u32,
    released: u32,
    returned: u32,
    state: &'static str,
    sequence: u64,
    reference: Option<&'a str>,
    reserved_at: Shown,
    expires_at: Shown,
    resolved_at: Option<Shown>,
}

fn as_text<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

/// What a command was answered with.
pub(crate) fn answer(engine: &Engine, answer: &Answer) -> Result<Response, Problem> {
    let status = if answer.created { status::CREATED } else { status::OK };
    let (mut response, location) = match &answer.content {
        Content::Stock(stock) => (self::stock(status, stock)?, format!("/v1/stocks/{}", stock.view.sku)),
        Content::Reservation(view) => {
            let id = engine.seal(view.id);
            let location = format!("/v1/reservations/{id}");
            (reservation(status, &id, view)?, location)
        }
    };
    let headers = response.headers_mut();
    if answer.created {
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
    HeaderValue::try_from(format!("\"{:016x}\"", stock.version)).expect("hexadecimal digits in quotes make a header")
}

/// A stock.
pub(crate) fn stock(status: StatusCode, stock: &StockAnswer) -> Result<Response, Problem> {
    let (view, terms) = (&stock.view, &stock.view.terms);
    let document = StockDocument {
        sku: view.sku.as_str(),
        allotted: view.allotted,
        available: view.available,
        reserved: view.reserved,
        sold: view.sold,
        per_user_limit: terms.per_user_limit.map(tidegate_stock::Quantity::units),
        hold_seconds: terms.hold_seconds.seconds(),
        hold_seconds_max: terms.hold_seconds_max.seconds(),
        opens_at: terms.opens_at.map(Shown),
        closes_at: terms.closes_at.map(Shown),
        state: match stock.state {
            StockState::Closed => "closed",
            StockState::Scheduled => "scheduled",
            StockState::SoldOut => "sold_out",
            StockState::Open => "open",
        },
        as_of: stock.as_of,
    };
    let mut response = json(status, &document)?;
    response.headers_mut().insert(ETAG, etag(stock));
    Ok(response)
}

fn reservation(status: StatusCode, id: &str, view: &ReservationView) -> Result<Response, Problem> {
    let document = ReservationDocument {
        id,
        sku: view.sku.as_str(),
        user: view.user.as_str(),
        quantity: view.quantity.units(),
        reserved: view.reserved,
        confirmed: view.confirmed,
        released: view.released,
        // Nothing that is sold can come back yet.
        returned: 0,
        state: match view.state {
            ReservationState::Reserved => "reserved",
            ReservationState::Confirmed => "confirmed",
            ReservationState::Released => "released",
            ReservationState::Expired => "expired",
        },
        sequence: view.id.sequence.0,
        reference: view.reference.as_ref().map(tidegate_stock::Reference::as_str),
        reserved_at: Shown(view.reserved_at),
        expires_at: Shown(view.expires_at),
        resolved_at: view.resolved_at.map(Shown),
    };
    json(status, &document)
}

/// `document` as JSON.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Result<Response, Problem> {
    let mut bytes = Vec::with_capacity(BODY_BYTES_TYPICAL);
    serde_json::to_writer(&mut bytes, document).map_err(|error| Problem::internal(&error))?;
    let mut response = Response::new(Body::from(Bytes::from(bytes)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, APPLICATION_JSON);
    // Everything shown is of this moment: a copy that a cache keeps would be a lie about stock.
    headers.insert(CACHE_CONTROL, NO_STORE);
    Ok(response)
}
