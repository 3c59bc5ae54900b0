//! Requests about what another node decides: they go to it as they came, and its answer comes back as if it had been given here.
//!
//! Who the caller is and what it may do is looked at where it asked; the other node is told who acts, and takes that on the word of a member
//! of its cluster. It never sends a request on: if it does not decide either, or is stopping, it says so, and the first node looks for the
//! one that does. That changed nothing, like everything before the request was sent. Once it was sent and the other node is silent, nobody knows
//! what became of it. A read is asked again then, and so is a change with an idempotency key, of whoever decides by now. What was done is not done
//! again, so that the answer may be that of a repeat. A no counts where another term has begun: a request is for one term, so what had not
//! been done by then never is. In the same term the first attempt may still be on its way, and where nobody looks at the second (overloaded, say) the
//! first may have been done: both are `outcome_unknown`, as is a change without a key.
//!
//! A node that is silent is waited for until the answer is due, or until another one has come to decide and it has said nothing for a while.
//!
//! ```text
//! a request that goes on: 4 length of its head, big-endian; its head in JSON; its body
//! an answer:              the same
//! ```

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tidegate_engine::{ActorName, Engine, partition_of};
use tidegate_stock::{Partition, Sku};
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

use crate::call::{Call, Unread};
use crate::cluster::{ClusterFuture, ClusterSource, Decider, ForwardFailure, Leader};
use crate::door::Door;
use crate::exchange::Exchange;
use crate::labels::Route;
use crate::operations::Operation;
use crate::problem::{Problem, X_REQUEST_ID};
use crate::routes;
use crate::status::Code;

/// Longest head of a request or an answer that goes from node to node, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// How often it is looked who decides while nobody does.
const LOOK: Duration = Duration::from_millis(20);

/// How long a node is waited for that does not decide any more: what it has decided before is answered by then, if it is going to be.
const REPLACED_MAX: Duration = Duration::from_millis(200);

/// How often it is looked whether it decides.
const REPLACED_LOOK: Duration = Duration::from_millis(100);

/// How long a request is kept while nobody decides: two elections at their usual length.
pub(crate) const NOBODY_MAX: Duration = Duration::from_secs(5);

/// What a caller's header says that the node which decides must know.
const HEADERS: [&str; 7] =
    ["idempotency-key", "if-match", "content-type", "content-encoding", "accept", "traceparent", "tracestate"];

/// A request that another node is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    head: RequestHead,
    body: Bytes,
}

/// What another node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedAnswer {
    head: AnswerHead,
    body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RequestHead {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    /// Who acts: the name of the caller's key.
    actor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AnswerHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// Who acts in a request that came by another node, which has looked at its key. Nothing that a caller sends puts it here.
#[derive(Debug, Clone)]
pub(crate) struct Acting(pub(crate) ActorName);

fn encode(head: &impl Serialize, body: &[u8]) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("numbers and texts always make JSON");
    let length = u32::try_from(head.len()).expect("a header is bounded");
    let mut bytes = Vec::with_capacity(4 + head.len() + body.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    bytes
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<(T, Bytes), String> {
    let (length, rest) = bytes.split_first_chunk().ok_or("it ends early")?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let (head, body) =
        rest.split_at_checked(length).filter(|_| length <= HEAD_BYTES_MAX).ok_or("its head is not as long as it says")?;
    let head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    Ok((head, Bytes::copy_from_slice(body)))
}

impl Forwarded {
    /// As it goes to another node.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.head, &self.body)
    }

    /// What came from another node, or why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (head, body) = decode(bytes)?;
        Ok(Self { head, body })
    }
}

impl ForwardedAnswer {
    /// As it goes to the node that the caller asked.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.head, &self.body)
    }

    /// What came from the node that decides, or why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (head, body) = decode(bytes)?;
        Ok(Self { head, body })
    }

    /// `response`, whole.
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let is_of_connection = |name: &HeaderName| [CONNECTION, TRANSFER_ENCODING, X_REQUEST_ID].contains(name);
        let headers = parts.headers.iter().filter(|(name, _)| !is_of_connection(name)).filter_map(text_of).collect();
        // What is answered here is whole before it is answered, so nothing can be missing.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self { head: AnswerHead { status: parts.status.as_u16(), headers }, body }
    }

    /// The code of the problem that it is, if it is one.
    fn code(&self) -> Option<Code> {
        if self.head.status < 400 {
            return None;
        }
        let Coded { code } = serde_json::from_slice(&self.body).ok()?;
        Code::ALL.into_iter().find(|known| known.name() == code)
    }

    /// Whether the node that was asked has not taken the request: nothing has changed, and another one may.
    fn is_not_taken(&self) -> bool {
        matches!(self.code(), Some(Code::NotLeader | Code::Stopping | Code::Recovering))
    }

    /// Its body, if it is a 200.
    pub(crate) fn into_body(self) -> Result<Bytes, Option<Code>> {
        if self.head.status == 200 { Ok(self.body) } else { Err(self.code()) }
    }

    fn into_response(self) -> Response {
        let code = self.code();
        let Self { head: AnswerHead { status, headers }, body } = self;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        if let Some(code) = code {
            // It is counted where the caller asked.
            response.extensions_mut().insert(code);
        }
        response
    }
}

fn text_of((name, value): (&HeaderName, &HeaderValue)) -> Option<(String, String)> {
    Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
}

#[derive(Deserialize)]
struct Coded<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
}

/// Answers what other nodes send on to the node behind a door.
pub struct Answering {
    door: Arc<Door>,
    router: Router,
}

impl Answering {
    /// Answers as `door` does.
    pub fn new(door: Arc<Door>) -> Self {
        let router = routes::router(Arc::clone(&door));
        Self { door, router }
    }

    /// Answers `forwarded` as if its caller had asked here, but sends it on to nobody. Takes no longer than callers of this door wait. If
    /// it is dropped, what was asked may happen or not.
    pub async fn answer(&self, forwarded: Forwarded) -> ForwardedAnswer {
        let limit = Duration::from_secs(self.door.options().answer_seconds_max);
        let request = match forwarded.into_request() {
            Ok(request) => request,
            Err(why) => {
                return ForwardedAnswer::of(
                    Problem::internal(&format!("a node sends on what is no request: {why}")).into_response(),
                )
                .await;
            }
        };
        let response = match timeout(limit, self.router.clone().call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                let detail = format!("there was no answer within {} s; the request may have happened", limit.as_secs());
                Problem::new(Code::Timeout, detail).into_response()
            }
        };
        ForwardedAnswer::of(response).await
    }
}

impl Forwarded {
    /// The request of `actor` that `parts` and `body` are.
    pub(crate) fn new(method: &Method, uri: &Uri, headers: &HeaderMap, actor: &ActorName, body: Bytes) -> Self {
        let headers = headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str())).filter_map(text_of).collect();
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Self { head: RequestHead { method: method.as_str().to_owned(), target, headers, actor: actor.as_str().to_owned() }, body }
    }

    fn into_request(self) -> Result<Request<Body>, String> {
        let Self { head: RequestHead { method, target, headers, actor }, body } = self;
        let actor = ActorName::new(&actor).map_err(|error| error.to_string())?;
        let exchange = Arc::new(Exchange::new());
        exchange.begin_request(!body.is_empty());
        let mut request = Request::builder().method(method.as_str()).uri(target);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.extension(exchange).extension(Acting(actor)).body(Body::from(body));
        request.map_err(|error| error.to_string())
    }
}

/// What a request is about, as far as it stands in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    route: Route,
    parameter: String,
    pub(crate) shard: u16,
}

/// The shard that `partition` belongs to, as `engine` has it.
pub(crate) fn shard_of(engine: &Engine, partition: Partition) -> Option<u16> {
    let shards = u16::try_from(engine.streams().len()).ok()?;
    tidegate_engine::Router::new(shards).shard_of(partition).map(|shard| shard.0)
}

impl Subject {
    /// What a request is about; nothing if it is about no stock or reservation, if it is content with what this node has, or if it is to be
    /// refused anyhow.
    pub(crate) fn of(engine: &Engine, method: &Method, uri: &Uri) -> Option<Self> {
        let (parameter, below, template, is_sku) = if let Some(rest) = uri.path().strip_prefix("/v1/stocks/") {
            let (parameter, below) = rest.split_once('/').map_or((rest, ""), |(parameter, below)| (parameter, below));
            (parameter, below, Route::Stock.path(), true)
        } else {
            let rest = uri.path().strip_prefix("/v1/reservations/")?;
            let (parameter, below) = rest.split_once('/').map_or((rest, ""), |(parameter, below)| (parameter, below));
            (parameter, below, Route::Reservation.path(), false)
        };
        let route = if below.is_empty() { Route::of(template) } else { Route::of(&format!("{template}/{below}")) };
        route.need(method)?;
        if route == Route::Stock && wants_stale(method, uri) {
            return None;
        }
        let parameter = unescaped(parameter)?;
        let partition = if is_sku { partition_of(&Sku::new(&parameter).ok()?) } else { engine.unseal(&parameter)?.stock.partition };
        Some(Self { route, parameter, shard: shard_of(engine, partition)? })
    }
}

fn wants_stale(method: &Method, uri: &Uri) -> bool {
    let is_read = *method == Method::GET || *method == Method::HEAD;
    is_read
        && form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
            .any(|pair| pair == ("consistency".into(), "stale".into()))
}

/// A part of a path without its escapes; `None` if it is not UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (byte, digit(0), digit(1)) {
            bytes.push(u8::try_from(high * 16 + low).expect("two digits make a byte"));
            rest = &behind[2..];
        } else {
            bytes.push(byte);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Has whoever decides about `subject` answer `request`, this node included if it comes to that.
pub(crate) async fn run(
    door: &Arc<Door>,
    router: &Router,
    exchange: &Arc<Exchange>,
    subject: Subject,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let Subject { route, parameter, shard } = subject;
    let (mut parts, body) = request.into_parts();
    let headers = parts.headers.clone();
    let call = Call::begin(Arc::clone(door), Arc::clone(exchange), route, &mut parts, Some(parameter))?;
    let body = call.read_any(Unread::new(body)).await?;
    let forwarded = Forwarded::new(&parts.method, &parts.uri, &headers, &call.actor()?, body.to_bytes());
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    let takes_key = Operation::of(route, &parts.method).is_some_and(|operation| operation.takes_key);
    let repeats = match () {
        () if is_read => Repeats::Freely,
        () if takes_key && call.key()?.is_some() => Repeats::ByKey,
        () => Repeats::Never,
    };
    let (response, doubt) = match send(&call, shard, &forwarded, repeats).await? {
        Sent::Answered(answer, doubt) => (answer.into_response(), doubt),
        Sent::Here(doubt) => {
            parts.headers = headers;
            (here(router, exchange, parts, forwarded.body).await, doubt)
        }
    };
    doubt.filter(|doubt| doubt.is_left_by(response.status().as_u16())).map_or(Ok(response), |doubt| Err(doubt.problem))
}

/// Has this node answer after all.
async fn here(router: &Router, exchange: &Arc<Exchange>, mut parts: Parts, body: Bytes) -> Response {
    parts.extensions.insert(Arc::clone(exchange));
    match router.clone().call(Request::from_parts(parts, Body::from(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What came of a request that was to go to another node; and the doubt, if an attempt before may have done it.
pub(crate) enum Sent {
    /// That node's answer.
    Answered(ForwardedAnswer, Option<Doubt>),
    /// This node decides.
    Here(Option<Doubt>),
}

/// That a change may have been made by an attempt that was not answered.
pub(crate) struct Doubt {
    /// What is told where it stays so.
    pub(crate) problem: Problem,
    /// Whether whoever answers the next attempt is who was asked first, in the same term.
    is_of_same_term: bool,
}

impl Doubt {
    /// Whether it stays so though the next attempt is answered with `status`. By its key a change that was made is known, so what shows it is the last
    /// word. A no is that too, unless nobody has looked for the key, or the first attempt may still be on its way.
    pub(crate) const fn is_left_by(&self, status: u16) -> bool {
        status == 429 || status >= 500 || (self.is_of_same_term && status >= 400)
    }
}

/// Whether what may have been done is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// It changes nothing.
    Freely,
    /// It is done once, however often it is asked.
    ByKey,
    /// It would be done twice.
    Never,
}

/// Sends `forwarded` to whoever decides for `shard`, and finds out who that is for as long as nobody has taken it. When it may have been taken it
/// is asked again as far as it `repeats`.
pub(crate) async fn send(call: &Call, shard: u16, forwarded: &Forwarded, repeats: Repeats) -> Result<Sent, Problem> {
    let cluster = call.door().cluster().ok_or_else(|| Problem::internal(&"a node that stands alone sends nothing on"))?;
    let limit = Duration::from_secs(call.door().options().answer_seconds_max);
    let mut looks = NOBODY_MAX.as_millis() / LOOK.as_millis();
    let mut why = format!("no node is known that decides for shard {shard}");
    let mut lost: Option<(Leader, Problem)> = None;
    loop {
        let doubt = |(asked, problem), by: Option<Leader>| Doubt { problem, is_of_same_term: by == Some(asked) };
        match cluster.decider(shard) {
            Decider::Here => return Ok(Sent::Here(lost.map(|lost| doubt(lost, None)))),
            Decider::Nobody => {}
            Decider::There(leader) => {
                let asking = cluster.forward(shard, leader, forwarded.encode(), limit);
                let node = leader.node;
                let silent = match call.bounded(while_it_decides(cluster, shard, leader, asking)).await? {
                    Ok(answer) => match ForwardedAnswer::decode(&answer) {
                        Ok(answer) if !answer.is_not_taken() => {
                            return Ok(Sent::Answered(answer, lost.map(|lost| doubt(lost, Some(leader)))));
                        }
                        Ok(_) => {
                            why = format!("node {node} does not decide for shard {shard}, or does not serve now");
                            None
                        }
                        Err(error) => Some(error),
                    },
                    Err(ForwardFailure::NotSent(error)) => {
                        why = error;
                        None
                    }
                    Err(ForwardFailure::Unknown(error)) => Some(error),
                };
                if let Some(error) = silent {
                    let problem = unknown(node, &error);
                    match repeats {
                        Repeats::Freely => why = error,
                        Repeats::ByKey => lost = Some((leader, problem)),
                        Repeats::Never => return Err(problem),
                    }
                }
            }
        }
        if looks == 0 {
            return Err(lost.map_or_else(|| Problem::new(Code::NoQuorum, why), |(_, problem)| problem));
        }
        looks -= 1;
        call.bounded(sleep(LOOK)).await?;
    }
}

/// What `asking` comes to, which asks `leader`; or that nobody knows, once another one decides and this one has nothing more to say.
async fn while_it_decides(
    cluster: &dyn ClusterSource,
    shard: u16,
    leader: Leader,
    asking: ClusterFuture<Result<Vec<u8>, ForwardFailure>>,
) -> Result<Vec<u8>, ForwardFailure> {
    let mut asking = pin!(asking);
    let mut replaced_since: Option<Instant> = None;
    loop {
        match timeout(REPLACED_LOOK, asking.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) => match cluster.decider(shard) {
                Decider::There(decider) if decider == leader => replaced_since = None,
                // Nobody knows yet who does; or another one may have decided already, and have lost it again.
                Decider::Nobody => {}
                Decider::Here | Decider::There(_) => {
                    let since = *replaced_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= REPLACED_MAX {
                        return Err(ForwardFailure::Unknown("another node has come to decide meanwhile".to_owned()));
                    }
                }
            },
        }
    }
}

fn unknown(node: u64, error: &str) -> Problem {
    Problem::new(
        Code::OutcomeUnknown,
        format!("node {node} decides, and has given no answer: {error}; the request may have happened"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Forwarded {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("idempotency-key"), HeaderValue::from_static("k1")),
            (HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer secret")),
        ]);
        let uri = Uri::from_static("/v1/stocks/lamp/reservations?a=b");
        Forwarded::new(&Method::POST, &uri, &headers, &ActorName::new("shop").unwrap(), Bytes::from_static(b"{\"user\":\"u\"}"))
    }

    #[test]
    fn a_request_goes_on_with_who_acts_and_without_the_key() {
        let forwarded = request();
        let bytes = forwarded.encode();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
        assert_eq!(Forwarded::decode(&bytes), Ok(forwarded.clone()));
        let request = forwarded.into_request().unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/v1/stocks/lamp/reservations?a=b"));
        assert_eq!(request.headers()["idempotency-key"], "k1");
        assert_eq!(request.extensions().get::<Acting>().unwrap().0.as_str(), "shop");
        for end in 0..bytes.len() - request_body_length() {
            assert!(Forwarded::decode(&bytes[..end]).is_err(), "the first {end} bytes");
        }
    }

    fn request_body_length() -> usize {
        request().body.len()
    }

    #[tokio::test]
    async fn an_answer_comes_back_as_it_was_given() {
        let problem = Problem::new(Code::NotLeader, "another node decides").into_response();
        let answer = ForwardedAnswer::of(problem).await;
        assert_eq!(answer.code(), Some(Code::NotLeader));
        let answer = ForwardedAnswer::decode(&answer.encode()).unwrap();
        let response = answer.into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (503, &HeaderValue::from_static("application/problem+json"))
        );
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.extensions().get::<Code>(), Some(&Code::NotLeader));
    }

    #[test]
    fn a_part_of_a_path_is_read_with_its_escapes() {
        for (text, expected) in
            [("lamp", Some("lamp")), ("a%3Ab", Some("a:b")), ("%e4", None), ("a%", Some("a%")), ("%4", Some("%4"))]
        {
            assert_eq!(unescaped(text).as_deref(), expected, "{text}");
        }
    }
}
