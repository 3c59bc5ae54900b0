//! A small HTTP/1.1 client of one stock authority: typed calls, and outcomes that never mix up no, not now and not known.
//!
//! It owns its connections (a bounded set, kept alive and used again) and the meaning of statuses and codes. It must not know what
//! its callers want with the answers, and it never repeats a call by itself: [`persist`] does so when asked.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::Semaphore;

use crate::target::Target;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How long a node that was found unreachable or not ready is taken to be so, without asking it again. Many callers that wait for
/// one node would otherwise keep it, and this machine, busy with their asking.
const UNAVAILABLE_REMEMBERED: Duration = Duration::from_millis(10);

/// Limits of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientOptions {
    /// Most connections at a time; further calls wait for a free one. Default 128.
    pub(crate) connections_max: usize,
    /// Longest wait for one answer once a connection is there. Longer than the node's own limit of 10 s. Default 15 s.
    pub(crate) answer_wait_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { connections_max: 128, answer_wait_max: Duration::from_secs(15) }
    }
}

/// What became of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// A 2xx answer: what was asked for is so, and lasts.
    Accepted {
        /// 200 or 201.
        status: u16,
        /// Whether the answer says that it repeats an earlier one of the same idempotency key.
        replayed: bool,
        /// The subject as it stands.
        body: T,
    },
    /// The domain, or the contract, says no: nothing changed, and asking again gives the same.
    Problem {
        /// The HTTP status.
        status: u16,
        /// The stable code for programs.
        code: String,
        /// The words for people.
        detail: String,
    },
    /// It may have happened or not: ask again with the same key.
    Unknown(UnknownCause),
    /// Not admitted: nothing changed, try again later.
    Refused(Refused),
}

/// Why a call's outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnknownCause {
    /// The connection went away between the request and the end of its answer.
    ConnectionLost(String),
    /// No answer came in time.
    TimedOut,
    /// The node itself does not know: `timeout`, `outcome_unknown` or `internal`.
    Told(String),
    /// An answer came that is none of the contract's.
    Unreadable {
        /// Its status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
}

/// Who did not admit a call, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No connection could be made: the call was never sent.
    Unreachable,
    /// The node refused with this code: `recovering`, `stopping`, `overloaded`, `rate_limited`, `not_leader` or `no_quorum`.
    Told(String),
}

impl Refused {
    /// Whether every other call would be refused alike for the moment.
    fn concerns_all(&self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::Told(code) => code == "recovering" || code == "stopping",
        }
    }
}

/// What `GET /readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// 200.
    Ready,
    /// Anything else that was answered; carries the body, which tells how far the node is.
    NotReady(String),
    /// Nobody answers.
    Unreachable,
}

/// Settings of a stock to open. `None` leaves the contract's default.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StockSettings {
    /// Units to start with.
    pub(crate) quantity: u64,
    /// Most units one user may hold and own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_user_limit: Option<u32>,
    /// How long a hold lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold_seconds: Option<u32>,
}

/// A stock as the node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Stock {
    /// The product.
    pub(crate) sku: String,
    /// All units it was given.
    pub(crate) allotted: u64,
    /// Units that can be granted.
    pub(crate) available: u64,
    /// Units held.
    pub(crate) reserved: u64,
    /// Units paid.
    pub(crate) sold: u64,
}

/// `GET /v1/cluster`: a cluster as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ClusterSeen {
    /// Its name; none of a node that stands alone.
    pub(crate) cluster: Option<String>,
    /// Who sees it.
    pub(crate) node: u64,
    /// Its nodes.
    pub(crate) nodes: Vec<NodeSeen>,
    /// Its shards, by number.
    pub(crate) shards: Vec<ShardSeen>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct NodeSeen {
    /// Its number.
    pub(crate) node: u64,
    /// Where other nodes reach it.
    pub(crate) address: Option<String>,
    /// `voter` once it is counted for the majority.
    pub(crate) role: String,
    /// Whether it is to lead nothing.
    #[serde(default)]
    pub(crate) draining: bool,
    /// How long ago it was heard, in milliseconds.
    pub(crate) heard_ms: Option<u64>,
    /// How far its clock is ahead, in milliseconds.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// Whether that is too far.
    #[serde(default)]
    pub(crate) clock_off: bool,
    /// Settings that it has otherwise.
    #[serde(default)]
    pub(crate) settings_differ: Vec<String>,
}

/// A shard of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ShardSeen {
    /// Its number.
    pub(crate) shard: u16,
    /// The number of the node that decides.
    pub(crate) leader: Option<u64>,
    /// The term in which it does.
    pub(crate) term: u64,
    /// The newest group that is committed.
    pub(crate) committed: u64,
    /// How it stands on each node.
    pub(crate) replicas: Vec<ReplicaSeen>,
}

/// A shard on one node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ReplicaSeen {
    /// The number of the node.
    pub(crate) node: u64,
    /// Groups that it lacks.
    pub(crate) lag: Option<u64>,
}

/// What to reserve.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ReserveRequest<'a> {
    /// For whom.
    pub(crate) user: &'a str,
    /// How many units.
    pub(crate) quantity: u32,
    /// What the caller calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<&'a str>,
}

/// Of how many units.
#[derive(Debug, Clone, Copy, Serialize)]
struct Part {
    quantity: u32,
}

/// By how many units a stock changes, and why.
#[derive(Debug, Clone, Copy, Serialize)]
struct Adjustment<'a> {
    delta: i64,
    reason: &'a str,
}

/// A reservation's phase of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReservationState {
    /// Units are held.
    Reserved,
    /// Paid.
    Confirmed,
    /// Given back by the caller.
    Released,
    /// Given back by the clock.
    Expired,
    /// Refunded.
    Returned,
}

/// A reservation as the node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Reservation {
    /// Its opaque name.
    pub(crate) id: String,
    /// Of which product.
    pub(crate) sku: String,
    /// For whom.
    pub(crate) user: String,
    /// Units granted.
    pub(crate) quantity: u32,
    /// Units still held.
    pub(crate) reserved: u32,
    /// Units sold.
    pub(crate) confirmed: u32,
    /// Units given back.
    pub(crate) released: u32,
    /// Units sold and brought back.
    pub(crate) returned: u32,
    /// Its phase.
    pub(crate) state: ReservationState,
    /// Its place among the grants of its sku.
    pub(crate) sequence: u64,
    /// When it was granted, in milliseconds since 1970.
    #[serde(rename = "reserved_at", deserialize_with = "unix_ms")]
    pub(crate) reserved_at_ms: u64,
    /// From when on held units are no longer good.
    #[serde(rename = "expires_at", deserialize_with = "unix_ms")]
    pub(crate) expires_at_ms: u64,
    /// When the last held unit went.
    #[serde(rename = "resolved_at", deserialize_with = "unix_ms_or_null")]
    pub(crate) resolved_at_ms: Option<u64>,
}

#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    #[serde(default)]
    detail: String,
}

/// A client of one node. Clones share its connections; any task of the runtime that it was made in may use it.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    options: ClientOptions,
    slots: Semaphore,
    /// Connections without a call, the one used last on top.
    idle: Mutex<Vec<Connection>>,
    unavailable: Mutex<Option<(Instant, Refused)>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// A request until it is sent. It is borrowed through the calls, because thousands of their futures wait at a time and each would
/// carry a copy of it.
struct Unsent(Option<Request<Full<Bytes>>>);

impl Client {
    /// A client of the node at `address`, which wants no key. Connects when the first call is made.
    pub(crate) fn new(address: SocketAddr, options: ClientOptions) -> Self {
        Self::of(Target::plain(address), options)
    }

    /// A client of `target`, with its key. Connects when the first call is made.
    pub(crate) fn of(target: Target, options: ClientOptions) -> Self {
        let host = HeaderValue::from_str(&target.name).expect("the authority of a URL is a header value");
        let authorization = target.key.as_ref().map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).expect("a key is visible ASCII characters");
            value.set_sensitive(true);
            value
        });
        let slots = Semaphore::new(options.connections_max);
        let (idle, unavailable) = <_>::default();
        Self { inner: Arc::new(Inner { target, host, authorization, options, slots, idle, unavailable }) }
    }

    /// `PUT /v1/stocks/{sku}`: opens a stock, or finds it there already with the same settings.
    pub(crate) async fn put_stock(&self, sku: &str, settings: &StockSettings) -> Outcome<Stock> {
        self.call(&mut self.request(Method::PUT, &format!("/v1/stocks/{sku}"), None, json(settings))).await
    }

    /// `GET /v1/stocks/{sku}`.
    pub(crate) async fn get_stock(&self, sku: &str) -> Outcome<Stock> {
        self.call(&mut self.request(Method::GET, &format!("/v1/stocks/{sku}"), None, Bytes::new())).await
    }

    /// `GET /v1/stocks/{sku}?consistency=stale`: the stock as this very node has it, whoever decides about it.
    pub(crate) async fn get_stock_here(&self, sku: &str) -> Outcome<Stock> {
        let path = format!("/v1/stocks/{sku}?consistency=stale");
        self.call(&mut self.request(Method::GET, &path, None, Bytes::new())).await
    }

    /// `GET /v1/cluster`.
    pub(crate) async fn get_cluster(&self) -> Outcome<ClusterSeen> {
        self.call(&mut self.request(Method::GET, "/v1/cluster", None, Bytes::new())).await
    }

    /// `POST /v1/stocks/{sku}/reservations`.
    pub(crate) async fn reserve(&self, sku: &str, request: ReserveRequest<'_>, key: Option<&str>) -> Outcome<Reservation> {
        self.call(&mut self.request(Method::POST, &format!("/v1/stocks/{sku}/reservations"), key, json(&request))).await
    }

    /// `GET /v1/reservations/{id}`.
    pub(crate) async fn get_reservation(&self, id: &str) -> Outcome<Reservation> {
        self.call(&mut self.request(Method::GET, &format!("/v1/reservations/{id}"), None, Bytes::new())).await
    }

    /// `POST /v1/reservations/{id}/confirm`: all that is held.
    pub(crate) async fn confirm(&self, id: &str, key: Option<&str>) -> Outcome<Reservation> {
        self.call(&mut self.request(Method::POST, &format!("/v1/reservations/{id}/confirm"), key, Bytes::new())).await
    }

    /// `POST /v1/reservations/{id}/release`: all that is held.
    pub(crate) async fn release(&self, id: &str, key: Option<&str>) -> Outcome<Reservation> {
        self.call(&mut self.request(Method::POST, &format!("/v1/reservations/{id}/release"), key, Bytes::new())).await
    }

    /// `POST /v1/reservations/{id}/return`: `quantity` of what is sold. Each call returns units of its own; only the key tells a repeat.
    pub(crate) async fn return_units(&self, id: &str, quantity: u32, key: &str) -> Outcome<Reservation> {
        let body = json(&Part { quantity });
        self.call(&mut self.request(Method::POST, &format!("/v1/reservations/{id}/return"), Some(key), body)).await
    }

    /// `POST /v1/stocks/{sku}/adjustments`: `delta` units more, or less. Only the key tells a repeat.
    pub(crate) async fn adjust(&self, sku: &str, delta: i64, reason: &str, key: &str) -> Outcome<Stock> {
        let body = json(&Adjustment { delta, reason });
        self.call(&mut self.request(Method::POST, &format!("/v1/stocks/{sku}/adjustments"), Some(key), body)).await
    }

    /// `GET /readyz`. Always asks the node.
    pub(crate) async fn readyz(&self) -> Readiness {
        match self.exchange(&mut self.request(Method::GET, "/readyz", None, Bytes::new())).await {
            Ok((200, _, _)) => {
                *self.inner.unavailable.lock() = None;
                Readiness::Ready
            }
            Ok((_, _, body)) => Readiness::NotReady(String::from_utf8_lossy(&body).into_owned()),
            Err(Failed::NotSent | Failed::Unknown(_)) => Readiness::Unreachable,
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: &mut Unsent) -> Outcome<T> {
        if let Some(refused) = self.inner.known_unavailable() {
            return Outcome::Refused(refused);
        }
        let outcome = match self.exchange(request).await {
            Ok((status, replayed, body)) => read_answer(status, replayed, &body),
            Err(Failed::NotSent) => Outcome::Refused(Refused::Unreachable),
            Err(Failed::Unknown(cause)) => Outcome::Unknown(cause),
        };
        if let Outcome::Refused(refused) = &outcome
            && refused.concerns_all()
        {
            *self.inner.unavailable.lock() = Some((Instant::now(), refused.clone()));
        }
        outcome
    }

    fn request(&self, method: Method, path: &str, key: Option<&str>, body: Bytes) -> Unsent {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.inner.host.clone());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(authorization) = &self.inner.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Unsent(Some(request.body(Full::new(body)).expect("paths and keys are made of the identifier alphabet")))
    }

    /// One request, which is taken, and its whole answer: status, whether it is a repeat, body.
    async fn exchange(&self, request: &mut Unsent) -> Result<(u16, bool, Bytes), Failed> {
        let inner = &*self.inner;
        let _slot = inner.slots.acquire().await.expect("the slots are never closed");
        let exchange = async {
            let (response, connection) = inner.send(request).await?;
            let status = response.status().as_u16();
            let replayed = response.headers().get("idempotency-replayed").is_some_and(|value| value == "true");
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| Failed::Unknown(UnknownCause::ConnectionLost(error.to_string())))?
                .to_bytes();
            inner.idle.lock().push(connection);
            Ok((status, replayed, body))
        };
        match tokio::time::timeout(inner.options.answer_wait_max, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Unknown(UnknownCause::TimedOut)),
        }
    }
}

/// Why there is no answer.
enum Failed {
    /// Nothing was sent.
    NotSent,
    /// Something was, perhaps.
    Unknown(UnknownCause),
}

impl Inner {
    /// Sends on an idle connection, or on a new one when there is none that still lives.
    async fn send(&self, request: &mut Unsent) -> Result<(Response<Incoming>, Connection), Failed> {
        loop {
            let idle = self.idle.lock().pop();
            let (mut connection, is_new) = match idle {
                Some(connection) => (connection, false),
                None => (Box::pin(self.connect()).await.ok_or(Failed::NotSent)?, true),
            };
            if connection.ready().await.is_err() {
                if is_new {
                    return Err(Failed::NotSent);
                }
                continue;
            }
            let Some(unsent) = request.0.take() else { return Err(Failed::NotSent) };
            match connection.try_send_request(unsent).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut failed) => match failed.take_message() {
                    // It comes back unsent: an idle connection had been closed by the node. Every turn uses one up.
                    Some(unsent) if !is_new => request.0 = Some(unsent),
                    Some(_) => return Err(Failed::NotSent),
                    None => return Err(Failed::Unknown(UnknownCause::ConnectionLost(failed.into_error().to_string()))),
                },
            }
        }
    }

    async fn connect(&self) -> Option<Connection> {
        let stream = self.target.connect().await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        // The task ends with its connection; that the node went away is told by the calls that were under way.
        drop(tokio::spawn(connection));
        Some(sender)
    }

    fn known_unavailable(&self) -> Option<Refused> {
        let mut unavailable = self.unavailable.lock();
        match &*unavailable {
            Some((since, refused)) if since.elapsed() < UNAVAILABLE_REMEMBERED => Some(refused.clone()),
            Some(_) => {
                // Whoever comes now asks the node on behalf of all; until it is answered the others find no memory and ask too.
                *unavailable = None;
                None
            }
            None => None,
        }
    }
}

fn json(body: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(body).expect("plain structs are JSON"))
}

fn read_answer<T: DeserializeOwned>(status: u16, replayed: bool, body: &[u8]) -> Outcome<T> {
    let unreadable = |error: serde_json::Error| Outcome::Unknown(UnknownCause::Unreadable { status, detail: error.to_string() });
    if (200..300).contains(&status) {
        return match serde_json::from_slice(body) {
            Ok(body) => Outcome::Accepted { status, replayed, body },
            Err(error) => unreadable(error),
        };
    }
    let problem: ProblemBody = match serde_json::from_slice(body) {
        Ok(problem) => problem,
        Err(error) => return unreadable(error),
    };
    match (status, problem.code.as_str()) {
        (_, "timeout" | "outcome_unknown" | "internal") => Outcome::Unknown(UnknownCause::Told(problem.code)),
        (429 | 503, _) => Outcome::Refused(Refused::Told(problem.code)),
        (400..500, _) => Outcome::Problem { status, code: problem.code, detail: problem.detail },
        _ => Outcome::Unknown(UnknownCause::Unreadable { status, detail: format!("code {}", problem.code) }),
    }
}

fn unix_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_time(&text).map_err(D::Error::custom)
}

fn unix_ms_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_time(&text).map_err(D::Error::custom)).transpose()
}

fn parse_time(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{text:?} is no RFC 3339 time: {error}"))?;
    u64::try_from(time.as_millisecond()).map_err(|_| format!("{text:?} is before 1970"))
}

/// How long to keep asking. The pauses between two attempts start at `pause_min`, double up to `pause_max`, and vary by half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The first pause.
    pub(crate) pause_min: Duration,
    /// The longest pause.
    pub(crate) pause_max: Duration,
    /// Attempts at most, the first included.
    pub(crate) attempts_max: u32,
}

impl Default for Patience {
    /// About two minutes.
    fn default() -> Self {
        Self { pause_min: Duration::from_millis(20), pause_max: Duration::from_millis(500), attempts_max: 250 }
    }
}

/// What came of asking until an answer was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Persisted<T> {
    /// Accepted or a problem; unknown or refused only when patience ran out.
    pub(crate) outcome: Outcome<T>,
    /// Attempts whose outcome was not known at the time.
    pub(crate) unknown: u32,
    /// Attempts that were not admitted.
    pub(crate) refused: u32,
}

/// Makes `call` until it is answered with yes or no. What changes something must carry an idempotency key, or be safe to repeat.
pub(crate) async fn persist<T, F>(patience: Patience, mut call: impl FnMut() -> F) -> Persisted<T>
where
    F: Future<Output = Outcome<T>>,
{
    let (mut unknown, mut refused) = (0, 0);
    let mut pause = patience.pause_min;
    loop {
        let outcome = call().await;
        match outcome {
            Outcome::Accepted { .. } | Outcome::Problem { .. } => return Persisted { outcome, unknown, refused },
            Outcome::Unknown(_) => unknown += 1,
            Outcome::Refused(_) => refused += 1,
        }
        if unknown + refused >= patience.attempts_max {
            return Persisted { outcome, unknown, refused };
        }
        tokio::time::sleep(pause.mul_f64(spread())).await;
        pause = (pause * 2).min(patience.pause_max);
    }
}

/// A factor of 0.5 to 1.5 that keeps callers who failed together from coming back together.
fn spread() -> f64 {
    /// Steps of the golden ratio visit an interval evenly, whatever the number of steps.
    const GOLDEN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    static POSITION: AtomicU64 = AtomicU64::new(0);
    let position = POSITION.fetch_add(GOLDEN_STEP, Ordering::Relaxed) >> 44;
    0.5 + f64::from(u32::try_from(position).unwrap_or(0)) / f64::from(1_u32 << 20)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const RESERVATION: &str = r#"{"id":"r1","sku":"s","user":"u","quantity":2,"reserved":2,"confirmed":0,"released":0,"returned":0,
        "state":"reserved","sequence":7,"reference":null,"reserved_at":"1970-01-01T00:00:01.500Z",
        "expires_at":"2026-01-01T00:00:00.000Z","resolved_at":null}"#;

    enum Reply {
        Text(String),
        HangUp,
    }

    fn answer(status: &str, headers: &str, body: &str) -> Reply {
        Reply::Text(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
    }

    fn problem(status: &str, code: &str) -> Reply {
        answer(status, "", &format!(r#"{{"type":"t","title":"t","status":1,"detail":"d","code":"{code}"}}"#))
    }

    /// Serves each request with the next reply and returns the requests' texts.
    async fn scripted(listener: TcpListener, replies: Vec<Reply>) -> io::Result<Vec<String>> {
        let mut requests = Vec::new();
        let mut stream = None;
        for reply in replies {
            if stream.is_none() {
                stream = Some(listener.accept().await?.0);
            }
            let connection = stream.as_mut().unwrap();
            let mut text = Vec::new();
            let mut expected = usize::MAX;
            while text.len() < expected {
                let mut buffer = [0; 4096];
                let read = connection.read(&mut buffer).await?;
                text.extend_from_slice(&buffer[..read]);
                let lower = String::from_utf8_lossy(&text).to_lowercase();
                if let Some(end) = lower.find("\r\n\r\n") {
                    let body =
                        lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
                    expected = end + 4 + body;
                }
            }
            requests.push(String::from_utf8(text).unwrap());
            match reply {
                Reply::Text(text) => connection.write_all(text.as_bytes()).await?,
                Reply::HangUp => stream = None,
            }
        }
        Ok(requests)
    }

    async fn reserve_outcome(reply: Reply) -> Outcome<Reservation> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        let request = ReserveRequest { user: "u", quantity: 2, reference: None };
        tokio::join!(client.reserve("s", request, Some("k")), scripted(listener, vec![reply])).0
    }

    #[tokio::test]
    async fn a_created_reservation_is_accepted_with_its_times() {
        let outcome = reserve_outcome(answer("201 Created", "", RESERVATION)).await;
        let Outcome::Accepted { status: 201, replayed: false, body } = outcome else { panic!("{outcome:?}") };
        assert_eq!((body.sequence, body.state, body.reserved_at_ms), (7, ReservationState::Reserved, 1_500));
        assert_eq!((body.expires_at_ms, body.resolved_at_ms), (1_767_225_600_000, None));
    }

    #[tokio::test]
    async fn a_repeat_says_that_it_is_one() {
        let outcome = reserve_outcome(answer("201 Created", "idempotency-replayed: true\r\n", RESERVATION)).await;
        assert!(matches!(outcome, Outcome::Accepted { replayed: true, .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn each_kind_of_no_is_told_apart() {
        let sold_out = reserve_outcome(problem("409 Conflict", "sold_out")).await;
        assert_eq!(sold_out, Outcome::Problem { status: 409, code: "sold_out".into(), detail: "d".into() });
        for code in ["overloaded", "recovering", "stopping"] {
            let outcome = reserve_outcome(problem("503 Service Unavailable", code)).await;
            assert_eq!(outcome, Outcome::Refused(Refused::Told(code.into())));
        }
        assert_eq!(
            reserve_outcome(problem("429 Too Many", "rate_limited")).await,
            Outcome::Refused(Refused::Told("rate_limited".into()))
        );
        for (status, code) in [("503 x", "timeout"), ("503 x", "outcome_unknown"), ("500 x", "internal")] {
            assert_eq!(reserve_outcome(problem(status, code)).await, Outcome::Unknown(UnknownCause::Told(code.into())));
        }
    }

    #[tokio::test]
    async fn a_lost_connection_is_unknown_and_no_connection_is_refused() {
        let outcome = reserve_outcome(Reply::HangUp).await;
        assert!(matches!(outcome, Outcome::Unknown(UnknownCause::ConnectionLost(_))), "{outcome:?}");

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        drop(listener);
        assert_eq!(client.get_stock("s").await, Outcome::Refused(Refused::Unreachable));
        assert_eq!(client.readyz().await, Readiness::Unreachable);
    }

    #[tokio::test]
    async fn an_answer_outside_the_contract_is_unknown() {
        let outcome = reserve_outcome(answer("200 OK", "", "{}")).await;
        assert!(matches!(outcome, Outcome::Unknown(UnknownCause::Unreadable { status: 200, .. })), "{outcome:?}");
    }

    #[tokio::test]
    async fn an_answer_cut_off_in_its_body_is_unknown() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        let server = async {
            let replies = vec![Reply::Text(format!("HTTP/1.1 201 Created\r\ncontent-length: 1000\r\n\r\n{RESERVATION}"))];
            scripted(listener, replies).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(client.confirm("r1", None), server);
        assert!(matches!(outcome, Outcome::Unknown(UnknownCause::ConnectionLost(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn persisting_asks_again_with_the_same_key_until_it_is_known() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        let replies = vec![
            Reply::HangUp,
            problem("503 Service Unavailable", "recovering"),
            answer("201 Created", "idempotency-replayed: true\r\n", RESERVATION),
        ];
        let patience = Patience { pause_min: Duration::from_millis(15), ..Patience::default() };
        let request = ReserveRequest { user: "u", quantity: 2, reference: None };
        let asking = persist(patience, || client.reserve("s", request, Some("the-key")));
        let (persisted, requests) = tokio::join!(asking, scripted(listener, replies));
        assert!(matches!(persisted.outcome, Outcome::Accepted { replayed: true, .. }), "{persisted:?}");
        assert_eq!(persisted.unknown, 1);
        assert!(persisted.refused >= 1);
        let requests = requests.unwrap();
        assert_eq!(requests.len(), 3);
        assert!(requests.iter().all(|request| request.contains("idempotency-key: the-key\r\n")), "{requests:?}");
        assert!(requests[0].starts_with("POST /v1/stocks/s/reservations HTTP/1.1\r\n"), "{requests:?}");
        assert!(requests[0].ends_with(r#"{"user":"u","quantity":2}"#), "{requests:?}");
    }

    #[tokio::test]
    async fn patience_ends() {
        let patience = Patience { pause_min: Duration::from_millis(1), pause_max: Duration::from_millis(1), attempts_max: 3 };
        let persisted = persist(patience, || async { Outcome::<()>::Refused(Refused::Unreachable) }).await;
        assert_eq!((persisted.unknown, persisted.refused), (0, 3));
        assert_eq!(persisted.outcome, Outcome::Refused(Refused::Unreachable));
    }

    #[test]
    fn pauses_vary_by_half_and_stay_within() {
        let factors: Vec<f64> = (0..1_000).map(|_| spread()).collect();
        assert!(factors.iter().all(|factor| (0.5..1.5).contains(factor)));
        assert!(factors.iter().any(|factor| *factor < 0.6) && factors.iter().any(|factor| *factor > 1.4));
    }
}
