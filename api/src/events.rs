//! `GET /v1/events`: the change feed in pages, and where its streams begin.

use std::error::Error;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tidegate_engine::{Actor, ChangeId, ChangeKind, Changed, Cursor, Feed, FeedError, FeedEvent, FeedPage};
use tidegate_stock::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::call::Call;
use crate::documents::{ReservationDocument, StockDocument};
use crate::json;
use crate::options::HttpOptions;
use crate::problem::Problem;
use crate::replies::{self, APPLICATION_JSON};
use crate::schema::{ChangeKindName, Count, DeltaUnits, Identifier, Moment, Opaque, ReasonText};
use crate::status::{self, Code};
use crate::stream::{EventStream, Reader};
use crate::time::Shown;

/// The type of an event stream.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Where the reader of an event stream says up to where it has read.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks a proxy of a common kind to hold no events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The name of who acts when time does.
const CLOCK: &str = "clock";

/// Most changes of a piece of an event stream.
pub(crate) const STREAM_CHANGES_MAX: usize = 100;

/// Most reads of the log for the feed at once; further ones wait. Each may hold a whole group in memory, and a thread.
const READS_MAX: usize = 4;

/// How long a reader is kept waiting whose cursor another member of the cluster gave, and stands behind what this one has yet.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// Room for one event with identifiers of common length.
const EVENT_BYTES_TYPICAL: usize = 512;

/// Every kind of change.
pub(crate) const CHANGE_KINDS: [ChangeKind; 13] = [
    ChangeKind::StockCreated,
    ChangeKind::StockChanged,
    ChangeKind::StockAdjusted,
    ChangeKind::StockPaused,
    ChangeKind::StockReopened,
    ChangeKind::StockClosed,
    ChangeKind::StockArchived,
    ChangeKind::Reserved,
    ChangeKind::Confirmed,
    ChangeKind::Released,
    ChangeKind::Expired,
    ChangeKind::Returned,
    ChangeKind::Extended,
];

/// The name of a kind of change.
pub(crate) const fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::StockCreated => "stock_created",
        ChangeKind::StockChanged => "stock_changed",
        ChangeKind::StockAdjusted => "stock_adjusted",
        ChangeKind::StockPaused => "stock_paused",
        ChangeKind::StockReopened => "stock_reopened",
        ChangeKind::StockClosed => "stock_closed",
        ChangeKind::StockArchived => "stock_archived",
        ChangeKind::Reserved => "reserved",
        ChangeKind::Confirmed => "confirmed",
        ChangeKind::Released => "released",
        ChangeKind::Expired => "expired",
        ChangeKind::Returned => "returned",
        ChangeKind::Extended => "extended",
    }
}

/// A committed change, with the reservation or the stock as it stood right after it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
#[expect(clippy::doc_markdown, reason = "the contract shows these words as they stand")]
pub(crate) struct EventDocument<'a> {
    /// Names this change for ever.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "Opaque")]
    id: ChangeId,
    /// What it did.
    #[schemars(with = "ChangeKindName")]
    kind: &'static str,
    /// To which product.
    #[schemars(with = "Identifier")]
    sku: &'a str,
    /// Its place among all changes of the product: 1, 2, 3 and so on without a gap.
    #[schemars(with = "Count")]
    sku_sequence: u64,
    /// When.
    #[schemars(with = "Moment")]
    at: Shown,
    /// By whom: the name of the API key, or clock.
    #[schemars(with = "Identifier")]
    actor: &'a str,
    /// Of stock_adjusted: by how many units.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DeltaUnits>")]
    delta: Option<i64>,
    /// Of stock_adjusted: why, in the caller's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ReasonText>")]
    reason: Option<&'a str>,
    /// Of a kind that begins with stock: the stock.
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<StockDocument<'a>>,
    /// Of every other kind: the reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<ReservationDocument<'a>>,
}

/// A page of the change feed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Events")]
pub(crate) struct EventsDocument<'a> {
    /// In order for every product, and by time where products are apart; at least once.
    events: Vec<EventDocument<'a>>,
    /// Where the next page begins, also when nothing is there yet.
    #[schemars(with = "Opaque")]
    next_cursor: String,
}

fn as_text<S: Serializer>(id: &ChangeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl<'a> EventDocument<'a> {
    /// What is shown of `event`, whose reservation callers know by `reservation`.
    fn of(event: &'a FeedEvent, reservation: Option<&'a str>) -> Self {
        let actor = match &event.actor {
            Actor::Clock => CLOCK,
            Actor::Key(name) => name.as_str(),
        };
        let (stock, held, adjustment) = match &event.changed {
            Changed::Reservation(view) => (None, reservation.map(|id| ReservationDocument::of(id, view)), None),
            Changed::Stock { view, state, adjustment } => {
                (Some(StockDocument::after(event.id, view, *state)), None, adjustment.as_ref())
            }
        };
        Self {
            id: event.id,
            kind: kind_name(event.kind),
            sku: event.sku.as_str(),
            sku_sequence: event.sku_sequence.0,
            at: Shown(event.at),
            actor,
            delta: adjustment.map(|(delta, _)| delta.units()),
            reason: adjustment.map(|(_, reason)| reason.as_str()),
            stock,
            reservation: held,
        }
    }
}

/// What the door has for its event feed.
pub(crate) struct Events {
    feed: OnceLock<Feed>,
    reads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Events {
    pub(crate) fn new(options: &HttpOptions) -> Self {
        Self {
            feed: OnceLock::new(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            streams: Arc::new(Semaphore::new(options.feed_streams_max)),
        }
    }

    /// From now on there is something to read.
    ///
    /// # Panics
    /// When it was opened before.
    pub(crate) fn open(&self, feed: Feed) {
        assert!(self.feed.set(feed).is_ok(), "the door is opened once");
    }

    /// The feed; `None` while the engine behind it recovers.
    pub(crate) fn feed(&self) -> Option<&Feed> {
        self.feed.get()
    }

    /// Room for one more stream, if there is any.
    fn stream(&self, max: usize) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Problem::new(Code::Overloaded, format!("{max} event streams are open already, and no more may be")))
    }

    /// Waits until this node has what `after` stands behind, for a while.
    async fn catch_up(&self, after: &Cursor) -> Result<(), Problem> {
        let feed = self.feed().ok_or_else(recovering)?;
        let mut changes = feed.changes();
        let caught_up = async {
            while feed.is_ahead(after) {
                if changes.changed().await.is_err() {
                    // The engine stops, which whoever reads is told.
                    break;
                }
            }
        };
        timeout(BEHIND_MAX, caught_up).await.map_err(|_| {
            let seconds = BEHIND_MAX.as_secs();
            let detail = "the cursor stands behind changes that this node still does not have after";
            Problem::new(Code::Timeout, format!("{detail} {seconds} s; ask again, or another node"))
        })
    }

    /// Reads up to `limit` changes behind `after` on a thread where waiting for the disk does no harm, and has `show` make something of
    /// them there.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        after: Option<Cursor>,
        limit: usize,
        show: impl FnOnce(&Feed, FeedPage) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let feed = self.feed().cloned().ok_or_else(recovering)?;
        let turn = Arc::clone(&self.reads).acquire_owned().await.map_err(|error| Problem::internal(&error))?;
        let reading = spawn_blocking(move || {
            let page = feed.read(after.as_ref(), limit).map_err(|error| problem(&error))?;
            let shown = show(&feed, page);
            drop(turn);
            shown
        });
        reading.await.map_err(|error| Problem::internal(&error))?
    }
}

/// `GET /v1/events`: a page of changes, or a stream of them.
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    call.engine()?;
    let (limit, query) = (call.query().limit()?, call.query().text("after"));
    if !call.accepts(EVENT_STREAM) {
        let after = query.map(|text| parse("the parameter `after`", text)).transpose()?;
        catch_up(&call, after.as_ref()).await?;
        let read = call.door().events().read(after, limit, |feed, page| Ok((page.events.len(), page_json(feed, &page)?)));
        let (changes, body) = call.bounded(read).await??;
        call.door().metrics().count_events(changes);
        return Ok(replies::momentary(status::OK, APPLICATION_JSON, body));
    }
    // A reader that comes back says so in the header; its address is still that of its beginning.
    let last = call.headers().get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let after = match last {
        Some(value) => Some(parse("the last-event-id header", &String::from_utf8_lossy(value.as_bytes()))?),
        None => query.map(|text| parse("the parameter `after`", text)).transpose()?,
    };
    catch_up(&call, after.as_ref()).await?;
    let door = call.door();
    let permit = door.events().stream(door.options().feed_streams_max)?;
    // Whatever is wrong with the cursor is told before the stream begins.
    let feed = door.events().feed().ok_or_else(recovering)?;
    // Whatever is committed from here on is heard of.
    let changes = feed.changes();
    let first = call.bounded(door.events().read(after, STREAM_CHANGES_MAX, Piece::of)).await??;
    let headers = call.headers().get(AUTHORIZATION).map(|key| (AUTHORIZATION, key.clone())).into_iter().collect();
    let reader = Reader::new(call.shared_door(), headers, changes, first, permit);
    let mut response = Response::new(Body::new(EventStream::new(reader, call.exchange())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// In a cluster a cursor may come from a node that is further: then this one is waited for.
async fn catch_up(call: &Call, after: Option<&Cursor>) -> Result<(), Problem> {
    match after {
        Some(after) if call.door().cluster().is_some() => call.bounded(call.door().events().catch_up(after)).await?,
        _ => Ok(()),
    }
}

fn recovering() -> Problem {
    Problem::new(Code::Recovering, "recovery is under way")
}

fn parse(what: &str, text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|error| Problem::invalid_request(format!("{what} is {text:?}: {error}")))
}

fn page_json(feed: &Feed, page: &FeedPage) -> Result<Vec<u8>, Problem> {
    let ids: Vec<Option<String>> = page.events.iter().map(|event| feed.seal(event)).collect();
    let events = page.events.iter().zip(&ids).map(|(event, id)| EventDocument::of(event, id.as_deref())).collect();
    let document = EventsDocument { events, next_cursor: page.next.to_string() };
    let mut bytes = Vec::with_capacity(EVENT_BYTES_TYPICAL * (ids.len() + 1));
    json::append(&mut bytes, &document)?;
    Ok(bytes)
}

/// A piece of an event stream.
pub(crate) struct Piece {
    /// As it goes over the wire.
    pub(crate) text: Vec<u8>,
    /// How many changes it holds.
    pub(crate) changes: usize,
    /// Where the next piece begins.
    pub(crate) next: Cursor,
}

impl Piece {
    /// Writes the changes of `page`, each with the cursor behind it, so that a reader can come back behind any.
    pub(crate) fn of(feed: &Feed, page: FeedPage) -> Result<Self, Problem> {
        let mut text = Vec::with_capacity(EVENT_BYTES_TYPICAL * page.events.len());
        let mut cursor = page.from;
        for event in &page.events {
            cursor.advance(event);
            let id = feed.seal(event);
            write!(text, "id: {cursor}\nevent: {}\ndata: ", kind_name(event.kind)).map_err(|error| Problem::internal(&error))?;
            json::append(&mut text, &EventDocument::of(event, id.as_deref()))?;
            text.extend_from_slice(b"\n\n");
        }
        Ok(Self { text, changes: page.events.len(), next: page.next })
    }
}

/// Why the feed could not be read, as callers are told.
fn problem(error: &FeedError) -> Problem {
    match error {
        FeedError::Expired { stream, oldest, oldest_time, .. } => {
            let since = oldest_time.map(|time: Timestamp| format!(", {}", Shown(time))).unwrap_or_default();
            let place = format!("{}.{}", stream.0, oldest.0.saturating_sub(1));
            let detail = "changes behind the cursor are no longer retained";
            Problem::new(
                Code::CursorExpired,
                format!("{detail}: the feed reaches back to {place}{since}; begin again there, or without a cursor"),
            )
        }
        FeedError::Ahead { .. } | FeedError::Beyond { .. } | FeedError::Foreign { .. } => {
            Problem::invalid_request(error.to_string())
        }
        FeedError::Stopped => Problem::new(Code::Stopping, "the node is stopping"),
        FeedError::Log(source) => Problem::internal(&chain(source)),
        FeedError::Unreadable { .. } => Problem::internal(error),
    }
}

/// An error with all that caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
