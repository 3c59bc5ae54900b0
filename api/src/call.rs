//! One call: what a handler takes from a request, and how its command gets to the engine and back.

use std::borrow::Cow;
use std::convert::Infallible;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, RawPathParams, Request};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tidegate_engine::{ActorName, Answer, Engine, Submission};
use tidegate_stock::{Command, IdempotencyKey, ReservationId, Sku};

use crate::access;
use crate::bounds::invalid_identifier;
use crate::door::Door;
use crate::exchange::{Exchange, Expired};
use crate::forward::Acting;
use crate::labels::Route;
use crate::problem::Problem;
use crate::query::Query;
use crate::status::Code;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The type of lines of JSON.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// A request in a handler's hands, but for its body.
pub(crate) struct Call {
    door: Arc<Door>,
    exchange: Arc<Exchange>,
    actor: Option<ActorName>,
    headers: HeaderMap,
    parameter: Option<String>,
    query: Query,
    is_forwarded: bool,
}

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Lines,
}

/// A request that no handler takes, from somebody who may hear so.
pub(crate) struct Stray;

/// A request's body, of which nothing has been read.
pub(crate) struct Unread(Body);

/// A request's body, whole, in its share of the memory for all bodies.
pub(crate) struct ReadBody {
    bytes: Bytes,
    _room: Option<BodyRoom>,
}

impl Deref for ReadBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ReadBody {
    /// A copy that shares its bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

/// A part of the memory for all bodies, which is given back when this is dropped.
struct BodyRoom {
    door: Arc<Door>,
    bytes: usize,
}

impl BodyRoom {
    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let max = self.door.options().bodies_bytes_max;
        let before = self.door.body_bytes().fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > max {
            let detail = format!("the bodies of all requests together would be longer than {max} bytes");
            return Err(Problem::new(Code::Overloaded, detail).closing());
        }
        Ok(())
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.door.body_bytes().fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl FromRequestParts<Arc<Door>> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, door: &Arc<Door>) -> Result<Self, Problem> {
        let exchange = exchange_of(parts);
        let route = route_of(parts);
        let parameters = RawPathParams::from_request_parts(parts, &()).await;
        // Every path has at most one parameter. One that is not UTF-8 is as good as any other text that names nothing.
        let parameter = parameters.ok().and_then(|parameters| parameters.iter().next().map(|(_, value)| value.to_owned()));
        Self::begin(Arc::clone(door), exchange, route, parts, parameter)
    }
}

impl FromRequestParts<Arc<Door>> for Stray {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, door: &Arc<Door>) -> Result<Self, Problem> {
        let exchange = exchange_of(parts);
        let route = route_of(parts);
        exchange.set_route(route);
        access::admit(door, route, &parts.method, &parts.headers).map(|_| Self)
    }
}

/// The exchange that the request belongs to.
fn exchange_of(parts: &mut Parts) -> Arc<Exchange> {
    parts.extensions.remove::<Arc<Exchange>>().expect("the server sends the exchange along with every request")
}

/// The route that the router found for the request.
fn route_of(parts: &Parts) -> Route {
    parts.extensions.get::<MatchedPath>().map_or(Route::Unmatched, |path| Route::of(path.as_str()))
}

impl FromRequest<Arc<Door>> for Unread {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &Arc<Door>) -> Result<Self, Infallible> {
        Ok(Self(request.into_body()))
    }
}

impl Unread {
    /// Nothing of `body` has been read.
    pub(crate) const fn new(body: Body) -> Self {
        Self(body)
    }
}

impl Call {
    /// Takes what a handler needs from `parts`, and tells the exchange its route. `parameter` is the one that stands in the path.
    ///
    /// # Errors
    /// When the caller may not make this call, or its query is not one of it.
    pub(crate) fn begin(
        door: Arc<Door>,
        exchange: Arc<Exchange>,
        route: Route,
        parts: &mut Parts,
        parameter: Option<String>,
    ) -> Result<Self, Problem> {
        exchange.set_route(route);
        // Who came by another node was looked at there.
        let acting = parts.extensions.remove::<Acting>();
        let is_forwarded = acting.is_some();
        let actor = match acting {
            Some(Acting(actor)) => Some(actor),
            None => access::admit(&door, route, &parts.method, &parts.headers)?,
        };
        if route.need(&parts.method).is_none() {
            return Err(Problem::internal(&"a handler's method is not in the table of needs"));
        }
        let query = Query::read(&parts.uri, route, &parts.method)?;
        Ok(Self { door, exchange, actor, headers: mem::take(&mut parts.headers), parameter, query, is_forwarded })
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// The door, for work beside the call.
    pub(crate) fn shared_door(&self) -> Arc<Door> {
        Arc::clone(&self.door)
    }

    /// The engine, if the door is open.
    pub(crate) fn engine(&self) -> Result<&Engine, Problem> {
        self.door.engine()
    }

    /// Who acts: the name of the caller's key.
    pub(crate) fn actor(&self) -> Result<ActorName, Problem> {
        self.actor.clone().ok_or_else(|| Problem::internal(&"a call that everybody may make has nobody to act"))
    }

    /// Whether another node has sent the request on: then it goes no further.
    pub(crate) const fn is_forwarded(&self) -> bool {
        self.is_forwarded
    }

    /// The exchange that the request belongs to.
    pub(crate) fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// The parameters of the request's query.
    pub(crate) const fn query(&self) -> &Query {
        &self.query
    }

    /// The request's header.
    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The sku in the path.
    pub(crate) fn sku(&self) -> Result<Sku, Problem> {
        let Some(text) = &self.parameter else {
            return Err(Problem::new(Code::InvalidIdentifier, "the sku in the path is not UTF-8"));
        };
        Sku::new(text).map_err(|error| invalid_identifier("the sku in the path", error))
    }

    /// The reservation whose id is in the path. A text that is no id of ours names no reservation.
    pub(crate) fn reservation(&self, engine: &Engine) -> Result<ReservationId, Problem> {
        let id = self.parameter.as_deref().and_then(|text| engine.unseal(text));
        id.ok_or_else(|| Problem::new(Code::UnknownReservation, "there is no reservation of this id"))
    }

    /// The idempotency key, if the caller gave one.
    pub(crate) fn key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let mut values = self.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::new(Code::InvalidIdentifier, "the idempotency-key header is there more than once"));
        }
        let text = String::from_utf8_lossy(value.as_bytes());
        let key = IdempotencyKey::new(&text).map_err(|error| invalid_identifier("the idempotency-key header", error))?;
        Ok(Some(key))
    }

    /// Whether the caller names `media_type` among those that it accepts, and not as one that it does not.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        let lists = self.headers.get_all(ACCEPT);
        lists
            .iter()
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','))
            .any(|named| essence(named).eq_ignore_ascii_case(media_type) && !is_refused(named))
    }

    /// Reads the body, which is JSON or empty.
    pub(crate) async fn read(&self, Unread(body): Unread) -> Result<ReadBody, Problem> {
        if body.is_end_stream() {
            self.exchange.complete_request();
            return Ok(ReadBody { bytes: Bytes::new(), _room: None });
        }
        if self.form()? != Some(Form::Json) {
            return Err(self.unsupported_media_type("application/json"));
        }
        self.read_up_to(body, self.door.options().body_bytes_max).await
    }

    /// Reads the body, whatever it is: for another node to look at.
    pub(crate) async fn read_any(&self, Unread(body): Unread) -> Result<ReadBody, Problem> {
        if body.is_end_stream() {
            self.exchange.complete_request();
            return Ok(ReadBody { bytes: Bytes::new(), _room: None });
        }
        self.read_up_to(body, self.door.options().body_bytes_max).await
    }

    /// Reads the body of a batch, which is JSON or lines of it.
    pub(crate) async fn read_batch(&self, Unread(body): Unread) -> Result<(ReadBody, Form), Problem> {
        let form = self.form()?.ok_or_else(|| self.unsupported_media_type("application/json or application/x-ndjson"))?;
        Ok((self.read_up_to(body, self.door.options().batch_body_bytes_max).await?, form))
    }

    async fn read_up_to(&self, mut body: Body, max: usize) -> Result<ReadBody, Problem> {
        if body.size_hint().lower() > max as u64 {
            return Err(body_too_large(max));
        }
        let body = self.exchange.bounded(read(&self.door, &mut body, max)).await.map_err(|Expired| {
            let seconds = self.door.options().body_seconds_max;
            // Nothing was begun, so the caller may ask again whatever it asked for.
            Problem::invalid_request(format!("the body did not arrive within {seconds} s")).closing()
        })??;
        self.exchange.complete_request();
        Ok(body)
    }

    /// Hands `command` to the engine and awaits its answer. If this is dropped, the command may still happen.
    pub(crate) async fn submit(&self, engine: &Engine, command: Command, key: Option<IdempotencyKey>) -> Result<Answer, Problem> {
        let pending = engine.try_submit(Submission { command, key, actor: self.actor()? })?;
        self.bounded(pending).await?.map_err(Problem::from)
    }

    /// Awaits `future` until the answer is due. A body that has not been read by now is read no more.
    pub(crate) async fn bounded<F: Future>(&self, future: F) -> Result<F::Output, Problem> {
        self.exchange.await_answer();
        self.exchange.bounded(future).await.map_err(|Expired| {
            let seconds = self.door.options().answer_seconds_max;
            Problem::new(Code::Timeout, format!("there was no answer within {seconds} s; the request may have happened"))
        })
    }

    /// The form that the body's type says it has; JSON where it says nothing, and `None` where it says something else.
    fn form(&self) -> Result<Option<Form>, Problem> {
        if let Some(coding) =
            self.headers.get(CONTENT_ENCODING).filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            let given = String::from_utf8_lossy(coding.as_bytes());
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                format!("the body is encoded as {given:?} where no encoding is known"),
            ));
        }
        let Some(value) = self.headers.get(CONTENT_TYPE) else { return Ok(Some(Form::Json)) };
        Ok(match value.to_str() {
            Ok(given) if is_json(given) => Some(Form::Json),
            Ok(given) if essence(given).eq_ignore_ascii_case(NDJSON) => Some(Form::Lines),
            _ => None,
        })
    }

    fn unsupported_media_type(&self, needed: &str) -> Problem {
        let given = String::from_utf8_lossy(self.headers.get(CONTENT_TYPE).map_or(&[], HeaderValue::as_bytes));
        Problem::new(Code::UnsupportedMediaType, format!("the body is {given:?} where {needed} is needed"))
    }
}

fn body_too_large(max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is longer than {max} bytes")).closing()
}

async fn read(door: &Arc<Door>, body: &mut Body, max: usize) -> Result<ReadBody, Problem> {
    let mut whole = BytesMut::new();
    let mut room = BodyRoom { door: Arc::clone(door), bytes: 0 };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::invalid_request(format!("the body broke off: {error}")).closing())?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max {
            return Err(body_too_large(max));
        }
        // Nearly every body comes in one piece, which needs no copy, and no memory but its connection's own.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(ReadBody { bytes: data, _room: None });
        }
        room.grow(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(ReadBody { bytes: whole.freeze(), _room: Some(room) })
}

/// Whether a content type is JSON: `application/json` or `application/<anything>+json`, with any parameters.
fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let essence = if essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(essence.to_ascii_lowercase())
    } else {
        Cow::Borrowed(essence)
    };
    essence
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || (subtype.len() > 5 && subtype.ends_with("+json")))
}

/// Whether an entry of an accept header says that it is not accepted after all: `;q=0`.
fn is_refused(entry: &str) -> bool {
    let weights = entry.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut weights = weights.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    weights.any(|(_, weight)| weight.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0))
}

/// A content type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}
