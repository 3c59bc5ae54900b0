//! What each call is, for readers of the contract: its words, its bodies, its answers and its codes. Which calls there are is said by
//! [`Route::need`] alone; a test holds this table against it.

use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::backup::OCTET_STREAM;
use crate::batch::ResultsDocument;
use crate::bodies::{
    AdjustFields, ChangeFields, ExtendFields, MemberFields, NoFields, NodeFields, ReserveFields, StockFields, UnitsFields,
};
use crate::call::NDJSON;
use crate::cluster::ClusterDocument;
use crate::commands::{BatchBody, BatchCommand};
use crate::documents::{ReservationDocument, StockDocument};
use crate::events::{EVENT_STREAM, EventsDocument};
use crate::labels::{Need, Route};
use crate::reservations::ReservationsDocument;
use crate::schema::{AnyDocument, Opaque};
use crate::service::{HealthDocument, TimeDocument};
use crate::status::{self, Code};
use crate::stocks::StocksDocument;

/// The methods that a route can have, HEAD apart, which answers wherever GET does.
pub(crate) const METHODS: [Method; 4] = [Method::GET, Method::PUT, Method::PATCH, Method::POST];

/// Has a type's schema made.
pub(crate) type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A call.
pub(crate) struct Operation {
    pub(crate) id: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    /// Whether the header `idempotency-key` is looked at.
    pub(crate) takes_key: bool,
    /// Whether the header `if-match` is looked at.
    pub(crate) takes_if_match: bool,
    /// Whether the header `last-event-id` is looked at.
    pub(crate) takes_last_event: bool,
    pub(crate) body: Option<Asked>,
    pub(crate) answers: Vec<Answered>,
    codes: Vec<Code>,
}

/// What a body may be.
pub(crate) struct Asked {
    pub(crate) is_needed: bool,
    /// For each type of content: its schema, and an example.
    pub(crate) forms: Vec<(&'static str, MakeSchema, &'static str)>,
}

/// An answer that is no problem.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) description: &'static str,
    pub(crate) headers: &'static [&'static str],
    /// For each type of content: its schema, and an example.
    pub(crate) forms: Vec<(&'static str, MakeSchema, Option<&'static str>)>,
}

/// What an answer gives to go on with: of which call and status, to which calls, as which parameter, and where it stands in the answer.
pub(crate) struct Link {
    pub(crate) from: (&'static str, StatusCode),
    pub(crate) to: &'static [&'static str],
    pub(crate) parameter: &'static str,
    pub(crate) value: &'static str,
}

const CALLS_ON_A_STOCK: &[&str] = &[
    "readStock",
    "openStock",
    "changeStock",
    "adjustStock",
    "pauseStock",
    "reopenStock",
    "closeStock",
    "archiveStock",
    "reserve",
    "listReservations",
];

const CALLS_ON_A_RESERVATION: &[&str] =
    &["readReservation", "confirmReservation", "releaseReservation", "returnReservation", "extendReservation"];

/// Where answers lead. Ids cannot be guessed, so what needs one is only found by these.
pub(crate) const LINKS: &[Link] = &[
    Link { from: ("openStock", status::CREATED), to: CALLS_ON_A_STOCK, parameter: "sku", value: "$response.body#/sku" },
    Link { from: ("openStock", status::OK), to: CALLS_ON_A_STOCK, parameter: "sku", value: "$response.body#/sku" },
    Link { from: ("reserve", status::CREATED), to: CALLS_ON_A_RESERVATION, parameter: "id", value: "$response.body#/id" },
    Link { from: ("confirmReservation", status::OK), to: CALLS_ON_A_RESERVATION, parameter: "id", value: "$response.body#/id" },
    Link { from: ("readEvents", status::OK), to: &["readEvents"], parameter: "after", value: "$response.body#/next_cursor" },
];

const JSON: &str = "application/json";

const STOCK: &str = r#"{"sku":"sneaker-42","allotted":1000,"available":996,"reserved":3,"sold":1,"per_user_limit":1,"hold_seconds":600,"hold_seconds_max":3600,"opens_at":null,"closes_at":null,"state":"open","as_of":"0.7"}"#;
const STOCKS: &str = r#"{"stocks":[{"sku":"sneaker-42","allotted":1000,"available":996,"reserved":3,"sold":1,"per_user_limit":1,"hold_seconds":600,"hold_seconds_max":3600,"opens_at":null,"closes_at":null,"state":"open","as_of":"0.7"}],"next_cursor":null}"#;
const RESERVATION: &str = r#"{"id":"AQ4AAAABAAAAAAAAAAe1x0pF2sDq3Q","sku":"sneaker-42","user":"u1","quantity":1,"reserved":1,"confirmed":0,"released":0,"returned":0,"state":"reserved","sequence":7,"reference":"order-7","reserved_at":"2027-01-15T08:00:00.000Z","expires_at":"2027-01-15T08:10:00.000Z","resolved_at":null}"#;
const RESERVATIONS: &str = r#"{"reservations":[{"id":"AQ4AAAABAAAAAAAAAAe1x0pF2sDq3Q","sku":"sneaker-42","user":"u1","quantity":1,"reserved":1,"confirmed":0,"released":0,"returned":0,"state":"reserved","sequence":7,"reference":"order-7","reserved_at":"2027-01-15T08:00:00.000Z","expires_at":"2027-01-15T08:10:00.000Z","resolved_at":null}],"next_cursor":null}"#;
const EVENTS: &str = r#"{"events":[{"id":"0.8.1","kind":"stock_adjusted","sku":"sneaker-42","sku_sequence":6,"at":"2027-01-15T08:00:00.000Z","actor":"warehouse","delta":-5,"reason":"damaged","stock":{"sku":"sneaker-42","allotted":995,"available":991,"reserved":3,"sold":1,"per_user_limit":1,"hold_seconds":600,"hold_seconds_max":3600,"opens_at":null,"closes_at":null,"state":"open","as_of":"0.8.1"}}],"next_cursor":"AQEJAA"}"#;
const EVENT_PIECE: &str = "id: AQEJAA\nevent: stock_adjusted\ndata: {\"id\":\"0.8.1\",\"kind\":\"stock_adjusted\"}\n\n";
const NEW_STOCK: &str =
    r#"{"quantity":1000,"per_user_limit":1,"hold_seconds":600,"hold_seconds_max":3600,"opens_at":null,"closes_at":null}"#;
const NEW_RESERVATION: &str = r#"{"user":"u1","quantity":1,"hold_seconds":600,"reference":"order-7"}"#;
const BATCH: &str = r#"{"commands":[{"op":"reserve","sku":"sneaker-42","user":"u1","quantity":1,"idempotency_key":"k1"},{"op":"confirm","id":"AQ4AAAABAAAAAAAAAAe1x0pF2sDq3Q"}]}"#;
const BATCH_LINE: &str = r#"{"op":"reserve","sku":"sneaker-42","user":"u1","quantity":1,"idempotency_key":"k1"}"#;
const RESULTS: &str = r#"{"results":[{"status":409,"code":"sold_out","detail":"1 units were asked for and 0 are available"},{"status":404,"code":"unknown_reservation","detail":"there is no reservation of this id"}]}"#;
const RESULT_LINE: &str = r#"{"status":409,"code":"sold_out","detail":"1 units were asked for and 0 are available"}"#;

const CLUSTER: &str = r#"{"cluster":"0f2c6a5e9b1d4c3f8a7e6d5c4b3a2910","node":1,"nodes":[{"node":1,"address":"node-1.shop:8701","role":"voter","draining":false,"heard_ms":0,"clock_ahead_ms":0,"clock_error_ms":0,"clock_off":false,"settings_differ":[]},{"node":2,"address":"node-2.shop:8701","role":"voter","draining":false,"heard_ms":312,"clock_ahead_ms":-1,"clock_error_ms":1,"clock_off":false,"settings_differ":["rules.retention_seconds"]}],"shards":[{"shard":0,"leader":1,"term":2,"committed":7,"replicas":[{"node":1,"applied":7,"lag":0},{"node":2,"applied":6,"lag":1}]}]}"#;

/// Of every call with a body.
const OF_BODIES: [Code; 3] = [Code::BodyTooLarge, Code::UnsupportedMediaType, Code::Overloaded];
/// Of every call that the engine decides.
const OF_COMMANDS: [Code; 5] = [Code::Overloaded, Code::NotLeader, Code::NoQuorum, Code::Timeout, Code::OutcomeUnknown];
/// Of every call that needs a key.
const OF_CALLERS: [Code; 2] = [Code::Unauthenticated, Code::Forbidden];
/// Of every call that needs the engine.
const OF_THE_DOOR: [Code; 2] = [Code::Recovering, Code::Stopping];

impl Operation {
    /// The call of `method` on `route`; `None` where there is none.
    pub(crate) fn of(route: Route, method: &Method) -> Option<Self> {
        let operation = match (route, method) {
            (Route::Stocks, &Method::GET) => Self::new(
                "listStocks",
                "Stocks",
                "List stocks",
                "All stocks by sku, in pages. Each is shown as of its own position, and at least as new as any answer that any node of the cluster \
                had given before.",
            )
            .answers(status::OK, "A page of stocks.", &[], schema_of::<StocksDocument<'_>>, STOCKS)
            .may_be(&[Code::NoQuorum, Code::Timeout]),
            (Route::Stock, &Method::PUT) => {
                let description = "Opens a stock. Put again with the same first quantity and the same settings it answers 200 with the stock \
                    as it stands, and changes nothing.";
                Self::new("openStock", "Stocks", "Open a stock", description)
                    .asks(schema_of::<StockFields<'_>>, NEW_STOCK)
                    .answers(status::CREATED, "The stock is open.", &["location", "etag"], schema_of::<StockDocument<'_>>, STOCK)
                    .answers(status::OK, "It was there already, and is the same.", &["etag"], schema_of::<StockDocument<'_>>, STOCK)
                    .may_be(&[Code::StockExists, Code::InvalidIdentifier, Code::InvalidQuantity, Code::OutOfRange])
                    .decided()
            }
            (Route::Stock, &Method::GET) => {
                let description = "The committed counters and settings: at least as new as any answer that any node of the cluster had given before.";
                Self::new("readStock", "Stocks", "Read a stock", description)
                    .answers(status::OK, "The stock.", &["etag"], schema_of::<StockDocument<'_>>, STOCK)
                    .may_be(&[Code::UnknownSku, Code::InvalidIdentifier, Code::NotLeader, Code::NoQuorum, Code::Timeout])
            }
            (Route::Stock, &Method::PATCH) => {
                let description = "Changes settings. What is left out stays as it is; null takes an optional setting away; an empty object \
                    changes nothing. With if-match it is done only if the stock's etag is one of those given; * is any.";
                let mut operation = Self::new("changeStock", "Stocks", "Change a stock's settings", description)
                    .asks(schema_of::<ChangeFields<'_>>, r#"{"per_user_limit":2,"closes_at":"2027-01-16T00:00:00.000Z"}"#)
                    .answers(status::OK, "The stock with its new settings.", &["etag"], schema_of::<StockDocument<'_>>, STOCK)
                    .may_be(&[Code::UnknownSku, Code::Closed, Code::PreconditionFailed, Code::InvalidIdentifier, Code::OutOfRange])
                    .decided();
                operation.takes_if_match = true;
                operation
            }
            (Route::Adjustments, &Method::POST) => {
                let description = "Gives the stock more units, or takes available ones away: changes allotted and available alike.";
                Self::new("adjustStock", "Stocks", "Adjust a stock", description)
                    .asks(schema_of::<AdjustFields<'_>>, r#"{"delta":-5,"reason":"damaged"}"#)
                    .answers(status::OK, "The stock.", &["etag", "idempotency-replayed"], schema_of::<StockDocument<'_>>, STOCK)
                    .may_be(&[
                        Code::UnknownSku,
                        Code::InsufficientStock,
                        Code::InvalidIdentifier,
                        Code::InvalidQuantity,
                        Code::OutOfRange,
                    ])
                    .takes_key()
                    .decided()
            }
            (Route::Pause, &Method::POST) => Self::step(
                "pauseStock",
                "Pause a stock",
                "Nothing is granted until it is reopened. Confirm, release, return and expiry work.",
            )
            .may_be(&[Code::Closed]),
            (Route::Reopen, &Method::POST) => {
                Self::step("reopenStock", "Reopen a stock", "Undoes pause and close. An archived stock stays closed.")
                    .may_be(&[Code::Closed])
            }
            (Route::Close, &Method::POST) => {
                Self::step("closeStock", "Close a stock", "Ends the sale. Confirm, release, return and expiry still work.")
            }
            (Route::Archive, &Method::POST) => {
                let description = "Closes the stock for ever; only when it is closed and nothing of it is reserved. Its users' counts leave \
                    memory; it stays readable. Its keys are remembered for their time, so that a repeat is still answered as such.";
                Self::step("archiveStock", "Archive a stock", description).may_be(&[Code::StockInUse])
            }
            (Route::Reservations, &Method::POST) => {
                let description =
                    "Holds units for a user, all of them or none. Unpaid, they come back by themselves at expires_at.";
                Self::new("reserve", "Reservations", "Reserve units", description)
                    .asks(schema_of::<ReserveFields<'_>>, NEW_RESERVATION)
                    .answers(
                        status::CREATED,
                        "The reservation.",
                        &["location", "idempotency-replayed"],
                        schema_of::<ReservationDocument<'_>>,
                        RESERVATION,
                    )
                    .may_be(&[Code::UnknownSku, Code::SoldOut, Code::LimitReached, Code::NotOpen, Code::Paused, Code::Closed])
                    .may_be(&[Code::InvalidIdentifier, Code::InvalidQuantity, Code::OutOfRange])
                    .takes_key()
                    .decided()
            }
            (Route::Reservations, &Method::GET) => {
                let description = "A stock's reservations, newest first, in pages; of one user, or in one state, or both.";
                Self::new("listReservations", "Reservations", "List reservations", description)
                    .answers(status::OK, "A page of reservations.", &[], schema_of::<ReservationsDocument<'_>>, RESERVATIONS)
                    .may_be(&[Code::UnknownSku, Code::InvalidIdentifier])
                    .decided()
            }
            (Route::Reservation, &Method::GET) => {
                Self::new("readReservation", "Reservations", "Read a reservation", "The reservation as its owner sees it.")
                    .answers(status::OK, "The reservation.", &[], schema_of::<ReservationDocument<'_>>, RESERVATION)
                    .may_be(&[Code::UnknownReservation])
                    .decided()
            }
            (Route::Confirm, &Method::POST) => {
                let description = "Paid: held units become sold. Again 200 when they are already. A partial confirm is a change of its own each \
                    time, so it needs a key to be safe to repeat.";
                Self::settle("confirmReservation", "Confirm a reservation", description).may_be(&[
                    Code::ReservationReleased,
                    Code::ReservationExpired,
                    Code::ReservationReturned,
                ])
            }
            (Route::Release, &Method::POST) => {
                let description = "Cancelled: held units become available. Again 200 when they are already, or have expired. A partial \
                    release needs a key to be safe to repeat.";
                Self::settle("releaseReservation", "Release a reservation", description)
                    .may_be(&[Code::ReservationConfirmed, Code::ReservationReturned])
            }
            (Route::Return, &Method::POST) => {
                let description = "Refunded: sold units become available. Again 200 when they are already. A partial return needs a key to be \
                    safe to repeat.";
                Self::settle("returnReservation", "Return a reservation", description).may_be(&[Code::ReservationNotConfirmed])
            }
            (Route::Extend, &Method::POST) => {
                let description = "Holds units for longer: expires_at is hold_seconds from now.";
                Self::new("extendReservation", "Reservations", "Extend a reservation", description)
                    .asks(schema_of::<ExtendFields>, r#"{"hold_seconds":300}"#)
                    .answers(
                        status::OK,
                        "The reservation with its new end.",
                        &["idempotency-replayed"],
                        schema_of::<ReservationDocument<'_>>,
                        RESERVATION,
                    )
                    .may_be(&[
                        Code::UnknownReservation,
                        Code::ReservationReleased,
                        Code::ReservationExpired,
                        Code::ReservationReturned,
                    ])
                    .may_be(&[Code::ReservationConfirmed, Code::InvalidIdentifier, Code::OutOfRange])
                    .takes_key()
                    .decided()
            }
            (Route::Batch, &Method::POST) => {
                let description = "1 to 10,000 commands, each of which stands alone and is answered in its place with the status, code and \
                    body of the single call. Those on one sku are decided in the order given. As application/x-ndjson, one command a \
                    line, it is answered with one result a line; empty lines do not count.";
                let mut operation =
                    Self::new("batch", "Batch", "Run many commands", description).asks(schema_of::<BatchBody>, BATCH).answers(
                        status::OK,
                        "What came of each command, in their order.",
                        &[],
                        schema_of::<ResultsDocument<'_>>,
                        RESULTS,
                    );
                if let Some(body) = &mut operation.body {
                    body.forms.push((NDJSON, schema_of::<BatchCommand>, BATCH_LINE));
                }
                for answer in &mut operation.answers {
                    answer.forms.push((NDJSON, schema_of::<crate::batch::ResultDocument<'_>>, Some(RESULT_LINE)));
                }
                operation
            }
            (Route::Events, &Method::GET) => {
                let description = "Every committed change, in order for every sku, at least once; an id never names two changes. It can be \
                    resumed behind any cursor that is still retained, at any node of a cluster, and as_of of a stock and the id of a change are cursors too. As \
                    text/event-stream it goes on for ever: id is the cursor behind the event, event its kind, data the event; \
                    last-event-id resumes, comments show that it is alive, and an event of type error says why it ends early.";
                let mut operation = Self::new("readEvents", "Change feed", "Read the change feed", description)
                    .answers(status::OK, "A page of changes.", &[], schema_of::<EventsDocument<'_>>, EVENTS)
                    .may_be(&[Code::CursorExpired, Code::Overloaded, Code::Timeout]);
                operation.takes_last_event = true;
                for answer in &mut operation.answers {
                    answer.forms.push((EVENT_STREAM, schema_of::<Opaque>, Some(EVENT_PIECE)));
                }
                operation
            }
            (Route::Cluster, &Method::GET) => {
                let description = "This node, all nodes, and for each shard who leads it, in which term, up to where it is committed, and how far \
                    each node is. A member of a cluster answers while it recovers, too.";
                Self::new("readCluster", "Service", "Read the cluster", description).answers(
                    status::OK,
                    "The cluster as this node sees it.",
                    &[],
                    schema_of::<ClusterDocument>,
                    CLUSTER,
                )
            }
            (Route::Members, &Method::POST) => {
                let description = "Another node joins, for tidegate cluster join, which makes its data directory of the answer: it holds the \
                    cluster's identity with the node's secret. The node gets the log once it runs, and is counted once it has it. Without a \
                    number it gets the next that is free. The same node may ask again.";
                let mut operation = Self::new("joinCluster", "Service", "Let a node join", description)
                    .asks(schema_of::<MemberFields<'_>>, r#"{"node":2,"address":"node-2.shop:8701"}"#);
                operation.answer_in(OCTET_STREAM, schema_of::<Opaque>, "What the node's data directory is made of.");
                operation.may_be(&[
                    Code::NotFound,
                    Code::MemberExists,
                    Code::OutOfRange,
                    Code::NoQuorum,
                    Code::Timeout,
                    Code::OutcomeUnknown,
                ])
            }
            (Route::Leave, &Method::POST) => {
                let description = "Takes a node out of the cluster for good, whether it runs or is lost, if a majority of the others is there. \
                    Stop it then: its directory is of no use any more.";
                Self::new("leaveCluster", "Service", "Take a node out", description)
                    .asks(schema_of::<NodeFields>, r#"{"node":2}"#)
                    .answers(status::OK, "The cluster as this node sees it.", &[], schema_of::<ClusterDocument>, CLUSTER)
                    .may_be(&[Code::NotFound, Code::OutOfRange, Code::NoQuorum, Code::Timeout, Code::OutcomeUnknown])
            }
            (Route::Drain, &Method::POST) => {
                let description = "Has a node hand everything over that it leads, and lead nothing any more, until it is told to resume or is \
                    started again: what is to be done before it is stopped. It goes on holding its share of the log, and answers requests. \
                    no_quorum says that nobody else can lead what it leads; it goes on trying.";
                Self::new("drainNode", "Service", "Move leaders off a node", description)
                    .asks(schema_of::<NodeFields>, r#"{"node":2}"#)
                    .answers(status::OK, "The cluster as this node sees it.", &[], schema_of::<ClusterDocument>, CLUSTER)
                    .may_be(&[Code::NotFound, Code::OutOfRange, Code::NoQuorum, Code::Timeout, Code::OutcomeUnknown])
            }
            (Route::Resume, &Method::POST) => {
                let description = "A node that was drained may lead again, and gets its share.";
                Self::new("resumeNode", "Service", "End the draining of a node", description)
                    .asks(schema_of::<NodeFields>, r#"{"node":2}"#)
                    .answers(status::OK, "The cluster as this node sees it.", &[], schema_of::<ClusterDocument>, CLUSTER)
                    .may_be(&[Code::NotFound, Code::OutOfRange, Code::NoQuorum, Code::Timeout, Code::OutcomeUnknown])
            }
            (Route::Backup, &Method::GET) => {
                let description = "Everything as one stream, for tidegate backup, which makes a data directory of it: new snapshots, the \
                    history and the log, with the node's secret. Everything that was answered before is in it. One at a time. A stream \
                    that does not end in good order is no backup.";
                let mut operation = Self::new("readBackup", "Service", "Copy everything", description);
                operation.answer_in(OCTET_STREAM, schema_of::<Opaque>, "The backup.");
                operation.may_be(&[Code::Overloaded])
            }
            (Route::Time, &Method::GET) => {
                Self::new("readTime", "Service", "Read the time", "The time that decisions are made by.").answers(
                    status::OK,
                    "The time.",
                    &[],
                    schema_of::<TimeDocument>,
                    r#"{"now":"2027-01-15T08:00:00.000Z","unix_ms":1800000000000}"#,
                )
            }
            (Route::Livez, &Method::GET) => Self::new(
                "livez",
                "Service",
                "Probe for life",
                "Whether the process serves at all; it does so while it recovers, too.",
            )
            .answers(status::OK, "It serves.", &[], schema_of::<HealthDocument>, r#"{"status":"live"}"#),
            (Route::Readyz, &Method::GET) => {
                let description = "Whether commands are taken. Otherwise the problem says what is missing: how far recovery is, that a shard has \
                    no leader, or that the node is stopping.";
                Self::new("readyz", "Service", "Probe for readiness", description)
                    .answers(status::OK, "Commands are taken.", &[], schema_of::<HealthDocument>, r#"{"status":"ready"}"#)
                    .may_be(&[Code::NoQuorum])
            }
            (Route::Metrics, &Method::GET) => {
                let description = "Everything that is counted, in the text format of Prometheus.";
                let mut operation = Self::new("readMetrics", "Service", "Read metrics", description);
                operation.answer_in("text/plain", schema_of::<Opaque>, "The metrics.");
                operation.may_be(&[Code::Timeout, Code::Internal])
            }
            (Route::OpenApi, &Method::GET) => {
                let mut operation = Self::new("readContract", "Service", "Read this contract", "This document.");
                operation.answer_in(JSON, schema_of::<AnyDocument>, "The contract in OpenAPI 3.1.");
                operation
            }
            (Route::Docs, &Method::GET) => {
                let description = "This document as a page to read. It asks nothing of the network.";
                let mut operation = Self::new("readContractPage", "Service", "Read this contract as a page", description);
                operation.answer_in("text/html", schema_of::<Opaque>, "The page.");
                operation
            }
            _ => return None,
        };
        Some(operation.with_what_its_route_says(route, method))
    }

    /// The codes that it can be answered with.
    pub(crate) fn codes(&self) -> &[Code] {
        &self.codes
    }

    fn new(id: &'static str, tag: &'static str, summary: &'static str, description: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            description,
            takes_key: false,
            takes_if_match: false,
            takes_last_event: false,
            body: None,
            answers: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// A step in a stock's life.
    fn step(id: &'static str, summary: &'static str, description: &'static str) -> Self {
        let mut operation = Self::new(id, "Stocks", summary, description)
            .asks(schema_of::<NoFields>, "{}")
            .answers(status::OK, "The stock.", &["etag"], schema_of::<StockDocument<'_>>, STOCK)
            .may_be(&[Code::UnknownSku, Code::InvalidIdentifier])
            .decided();
        operation.body = operation.body.map(|body| Asked { is_needed: false, ..body });
        operation
    }

    /// A call that moves units of a reservation.
    fn settle(id: &'static str, summary: &'static str, description: &'static str) -> Self {
        let mut operation = Self::new(id, "Reservations", summary, description)
            .asks(schema_of::<UnitsFields>, r#"{"quantity":1}"#)
            .answers(status::OK, "The reservation.", &["idempotency-replayed"], schema_of::<ReservationDocument<'_>>, RESERVATION)
            .may_be(&[Code::UnknownReservation, Code::InvalidIdentifier, Code::InvalidQuantity])
            .takes_key()
            .decided();
        operation.body = operation.body.map(|body| Asked { is_needed: false, ..body });
        operation
    }

    fn asks(mut self, schema: MakeSchema, example: &'static str) -> Self {
        self.body = Some(Asked { is_needed: true, forms: vec![(JSON, schema, example)] });
        self.may_be(&OF_BODIES)
    }

    fn answers(
        mut self,
        status: StatusCode,
        description: &'static str,
        headers: &'static [&'static str],
        schema: MakeSchema,
        example: &'static str,
    ) -> Self {
        self.answers.push(Answered { status, description, headers, forms: vec![(JSON, schema, Some(example))] });
        self
    }

    fn answer_in(&mut self, media_type: &'static str, schema: MakeSchema, description: &'static str) {
        let forms = vec![(media_type, schema, None)];
        self.answers.push(Answered { status: status::OK, description, headers: &[], forms });
    }

    fn may_be(mut self, codes: &[Code]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    fn takes_key(mut self) -> Self {
        self.takes_key = true;
        self.may_be(&[Code::IdempotencyKeyReused])
    }

    fn decided(self) -> Self {
        self.may_be(&OF_COMMANDS)
    }

    fn with_what_its_route_says(mut self, route: Route, method: &Method) -> Self {
        if route.parameters(method).is_some() {
            self = self.may_be(&[Code::InvalidRequest, Code::Internal]);
        }
        if let Some(Need::Role(_)) = route.need(method) {
            self = self.may_be(&OF_CALLERS);
        }
        if route.parameters(method).is_some() || matches!(route, Route::Time | Route::Readyz) {
            self = self.may_be(&OF_THE_DOOR);
        }
        self.codes.sort_by_key(|code| Code::ALL.iter().position(|known| known == code));
        self.codes.dedup();
        self
    }
}
