//! The change feed over a real socket: pages, streams, and what ends them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;
use tidegate_api::{AccessOptions, HttpOptions, KeyHash};
use tidegate_engine::{ActorName, EngineOptions, Submission};
use tidegate_stock::{Command, Quantity, Sku, UserId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// An event stream, read off the wire.
struct EventSource {
    stream: TcpStream,
    raw: Vec<u8>,
    text: String,
    head: String,
    has_ended: bool,
}

/// What stands between two empty lines of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    id: String,
    event: String,
    data: String,
    retry: String,
    comment: String,
}

impl Block {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl EventSource {
    async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), path, headers).await
    }

    async fn over(mut stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> Self {
        let headers = [headers, &[("accept", "text/event-stream")]].concat();
        stream.write_all(request("GET", path, &headers, "").as_bytes()).await.unwrap();
        let mut source = Self { stream, raw: Vec::new(), text: String::new(), head: String::new(), has_ended: false };
        let end = loop {
            if let Some(end) = source.raw.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(source.receive().await > 0, "no header: {:?}", String::from_utf8_lossy(&source.raw));
        };
        source.head = String::from_utf8(source.raw.drain(..end + 4).collect()).unwrap();
        source
    }

    /// The next block; `None` when the stream has ended in good order.
    async fn next(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let text: String = self.text.drain(..end + 2).collect();
                return Some(block(text.trim_end()));
            }
            if self.has_ended {
                assert_eq!(self.text, "", "the stream ends between two blocks");
                return None;
            }
            if !self.take_chunk() {
                assert!(self.receive().await > 0, "the stream was cut: {:?}", self.text);
            }
        }
    }

    /// The next change.
    async fn change(&mut self) -> Block {
        loop {
            let block = self.next().await.expect("a stream goes on");
            if !block.data.is_empty() {
                return block;
            }
        }
    }

    async fn changes(&mut self, count: usize) -> Vec<Block> {
        let mut changes = Vec::new();
        while changes.len() < count {
            changes.push(self.change().await);
        }
        changes
    }

    /// Moves a whole chunk of the body to its text, if one is there.
    fn take_chunk(&mut self) -> bool {
        let Some(line) = self.raw.windows(2).position(|window| window == b"\r\n") else { return false };
        let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..line]).unwrap(), 16).unwrap();
        let end = line + 2 + length;
        if self.raw.len() < end + 2 {
            return false;
        }
        self.text += std::str::from_utf8(&self.raw[line + 2..end]).unwrap();
        self.has_ended = length == 0;
        self.raw.drain(..end + 2);
        true
    }

    async fn receive(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.raw)).await.expect("the server should say something").unwrap()
    }

    /// Waits until the connection is closed, reading nothing of what was said last.
    async fn expect_closed(mut self) {
        assert!(self.next().await.is_none());
        assert_eq!(self.receive().await, 0);
    }
}

fn block(text: &str) -> Block {
    let mut block = Block::default();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap();
        let field = match name {
            "id" => &mut block.id,
            "event" => &mut block.event,
            "data" => &mut block.data,
            "retry" => &mut block.retry,
            "" => &mut block.comment,
            other => panic!("{other:?} is no field of an event"),
        };
        assert!(field.is_empty(), "{name} is there twice: {text:?}");
        value.trim_start().clone_into(field);
    }
    block
}

/// A stock with a reservation that is confirmed, and an adjustment: four changes in four groups.
async fn four_changes(node: &Node) -> Reply {
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    let held = node.post("/v1/stocks/shoe/reservations", r#"{"user":"ann","quantity":2,"reference":"order-7"}"#).await;
    let confirmed = node.post(&format!("/v1/reservations/{}/confirm", held.text("id")), "").await;
    node.post("/v1/stocks/shoe/adjustments", r#"{"delta":-3,"reason":"damaged"}"#).await;
    confirmed
}

async fn kinds(node: &Node, path: &str) -> Vec<String> {
    let events = node.get(path).await.json()["events"].clone();
    events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// Has `count` reservations made in groups of many.
async fn reserve_many(machine: &Machine, count: usize) {
    let submissions = (0..count).map(|number| Submission {
        command: Command::Reserve {
            sku: Sku::new("shoe").unwrap(),
            user: UserId::new(&format!("user-{number}-{}", "x".repeat(90))).unwrap(),
            quantity: Quantity::ONE,
            hold_seconds: None,
            reference: None,
        },
        key: None,
        actor: ActorName::new("tests").unwrap(),
    });
    let outcomes = machine.engine.submit_batch(submissions).outcomes().await;
    assert!(outcomes.iter().all(Result::is_ok));
}

async fn metric(node: &Node, name: &str) -> Option<f64> {
    let text = String::from_utf8(node.get("/metrics").await.body).unwrap();
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn wait_for_metric(node: &Node, name: &str, value: f64) {
    let waited = timeout(PATIENCE, async {
        while metric(node, name).await.is_none_or(|shown| (shown - value).abs() > 0.1) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{name} should become {value}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_every_change_with_what_it_left_behind() {
    let (node, _machine) = node().await;
    let confirmed = four_changes(&node).await;
    let page = node.get("/v1/events").await;
    assert_eq!(
        (page.status, page.header("content-type"), page.header("cache-control")),
        (200, Some("application/json"), Some("no-store"))
    );
    let (json, at) = (page.json(), "2027-01-15T08:00:00.000Z");
    let event = |id: &str, kind: &str, sequence: u64| json!({"id": id, "kind": kind, "sku": "shoe", "sku_sequence": sequence, "at": at, "actor": "loopback"});
    let with = |mut event: Value, field: &str, value: Value| {
        event.as_object_mut().unwrap().insert(field.to_owned(), value);
        event
    };
    let stock = |allotted: u64, available: u64, sold: u64, as_of: &str| {
        json!({"sku": "shoe", "allotted": allotted, "available": available, "reserved": 0, "sold": sold, "per_user_limit": null,
            "hold_seconds": 600, "hold_seconds_max": 3600, "opens_at": null, "closes_at": null, "state": "open", "as_of": as_of})
    };
    let mut held = confirmed.json();
    for (field, value) in
        [("state", json!("reserved")), ("reserved", json!(2)), ("confirmed", json!(0)), ("resolved_at", Value::Null)]
    {
        held[field] = value;
    }
    let adjusted = with(with(event("0.4.1", "stock_adjusted", 4), "delta", json!(-3)), "reason", json!("damaged"));
    let expected = json!([
        with(event("0.1.1", "stock_created", 1), "stock", stock(10, 10, 0, "0.1.1")),
        with(event("0.2.1", "reserved", 2), "reservation", held),
        with(event("0.3.1", "confirmed", 3), "reservation", confirmed.json()),
        with(adjusted, "stock", stock(7, 5, 2, "0.4.1")),
    ]);
    assert_eq!(json["events"], expected);

    // The end is a place, too.
    let end = json["next_cursor"].as_str().unwrap();
    let after = node.get(&format!("/v1/events?after={end}")).await.json();
    assert_eq!(after, json!({"events": [], "next_cursor": end}));
    node.post("/v1/stocks/shoe/close", "").await;
    assert_eq!(kinds(&node, &format!("/v1/events?after={end}")).await, ["stock_closed"]);
    let bodiless = node.client().await.ask("HEAD", "/v1/events", &[], "").await;
    assert_eq!((bodiless.status, bodiless.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_hundred_changes_unless_another_number_is_asked_for() {
    let (node, _machine) = node().await;
    assert_eq!(node.put("/v1/stocks/shoe", r#"{"quantity":1000}"#).await.status, 201);
    for _ in 0..149 {
        assert_eq!(node.post("/v1/stocks/shoe/adjustments", r#"{"delta":1,"reason":"found"}"#).await.status, 200);
    }
    let first = node.get("/v1/events").await.json();
    let places: Vec<u64> =
        first["events"].as_array().unwrap().iter().map(|event| event["sku_sequence"].as_u64().unwrap()).collect();
    assert!(places.iter().copied().eq(1..=100), "{places:?}");
    let next = first["next_cursor"].as_str().unwrap();
    assert_eq!(kinds(&node, &format!("/v1/events?after={next}")).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_by_their_cursors_and_by_a_stocks_position() {
    let (node, _machine) = node().await;
    four_changes(&node).await;
    let mut path = "/v1/events?limit=1".to_owned();
    let mut shown = Vec::new();
    loop {
        let page = node.get(&path).await.json();
        let events = page["events"].as_array().unwrap().clone();
        if events.is_empty() {
            break;
        }
        assert_eq!(events.len(), 1);
        shown.extend(events);
        path = format!("/v1/events?limit=1&after={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(Value::from(shown), node.get("/v1/events?limit=1000").await.json()["events"]);
    let as_of = node.get("/v1/stocks/shoe").await.text("as_of");
    assert_eq!(as_of, "0.4");
    node.post("/v1/stocks/shoe/pause", "").await;
    assert_eq!(kinds(&node, &format!("/v1/events?after={as_of}")).await, ["stock_paused"]);
    assert_eq!(kinds(&node, "/v1/events?after=0.3.1").await, ["stock_adjusted", "stock_paused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_cursor_or_no_limit_is_invalid() {
    let (node, machine) = node().await;
    four_changes(&node).await;
    for (query, about) in [
        ("after=nonsense", "`after` is \"nonsense\""),
        ("after=", "`after`"),
        ("after=AQIBAAEA", "2 streams where there are 1"),
        ("after=0.5.1", "ends at 4"),
        ("after=0.9", "ends at 4"),
        ("after=0.4.2", "which has 1"),
        ("after=1.1", "streams"),
        ("limit=0", "`limit`"),
        ("limit=1001", "`limit`"),
        ("limit=many", "`limit`"),
        ("cursor=AQEBAA", "`cursor` is not known, only after, limit"),
        ("after=0.1&after=0.2", "more than once"),
    ] {
        let path = format!("/v1/events?{query}");
        node.get(&path).await.expect_problem(400, "invalid_request", about);
        // A stream that cannot begin is told so in the same way.
        node.ask("GET", &path, &[("accept", "text/event-stream")], "").await.expect_problem(400, "invalid_request", about);
    }
    let headers = [("accept", "text/event-stream"), ("last-event-id", "nonsense")];
    node.ask("GET", "/v1/events?after=0.1", &headers, "").await.expect_problem(400, "invalid_request", "last-event-id");
    node.post("/v1/events", "").await.expect_problem(405, "method_not_allowed", "");

    machine.log.give_up_before(3);
    for after in ["0.0", "0.1", "0.1.1"] {
        let path = format!("/v1/events?after={after}");
        let gone = node.get(&path).await;
        gone.expect_problem(410, "cursor_expired", "reaches back to 0.2;");
        node.ask("GET", &path, &[("accept", "text/event-stream")], "").await.expect_problem(410, "cursor_expired", "0.2");
    }
    assert_eq!(kinds(&node, "/v1/events?after=0.2").await, ["confirmed", "stock_adjusted"]);
    assert_eq!(kinds(&node, "/v1/events").await, ["confirmed", "stock_adjusted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_what_was_and_goes_on_with_what_comes() {
    let (node, _machine) = node().await;
    four_changes(&node).await;
    let page = node.get("/v1/events").await.json();
    let mut source = EventSource::open(node.address, "/v1/events", &[]).await;
    assert!(source.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", source.head);
    for field in ["content-type: text/event-stream", "cache-control: no-store", "x-request-id: ", "transfer-encoding: chunked"] {
        assert!(source.head.contains(field), "{field} is not in {}", source.head);
    }
    assert_eq!(source.next().await.unwrap(), Block { retry: "1000".to_owned(), ..Block::default() });
    let mut shown = source.changes(4).await;
    node.post("/v1/stocks/shoe/pause", "").await;
    shown.push(source.change().await);
    node.post("/v1/stocks/shoe/reopen", "").await;
    shown.push(source.change().await);
    let events: Vec<Value> = shown.iter().map(Block::json).collect();
    assert_eq!(events[..4], *page["events"].as_array().unwrap());
    assert_eq!(shown[3].id, page["next_cursor"].as_str().unwrap());
    for (block, json) in shown.iter().zip(&events) {
        assert_eq!(block.event, json["kind"].as_str().unwrap());
    }
    assert_eq!(shown.iter().map(|block| block.event.as_str()).collect::<Vec<_>>()[4..], ["stock_paused", "stock_reopened"]);

    // It can be resumed behind every event; the reader that comes back counts, not the address that it began with.
    for (number, block) in shown.iter().enumerate() {
        let headers = [("last-event-id", &*block.id)];
        let mut resumed = EventSource::open(node.address, "/v1/events?after=0.1", &headers).await;
        assert_eq!(resumed.changes(5 - number).await, shown[number + 1..]);
    }
    let mut after = EventSource::open(node.address, "/v1/events?after=0.4.1", &[("last-event-id", "")]).await;
    assert_eq!(after.changes(2).await, shown[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_outlives_every_limit_of_a_request_and_says_that_it_is_alive() {
    let http = HttpOptions {
        header_seconds_max: 1,
        body_seconds_max: 1,
        idle_seconds_max: 1,
        drain_seconds: 0,
        answer_seconds_max: 1,
        feed_heartbeat_seconds: 1,
        feed_stall_seconds_max: 1,
        ..HttpOptions::default()
    };
    let (node, _machine) = node_with(http, EngineOptions::default()).await;
    let mut source = EventSource::open(node.address, "/v1/events", &[]).await;
    source.next().await.unwrap();
    for _ in 0..4 {
        assert_eq!(source.next().await.unwrap(), Block { comment: "alive".to_owned(), ..Block::default() });
    }
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    assert_eq!(source.change().await.event, "stock_created");
}

/// A connection whose reader takes nothing: what it can hold unread is small.
async fn stalled(node: &Node) -> EventSource {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    EventSource::over(socket.connect(node.address).await.unwrap(), "/v1/events", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_closed_and_one_that_reads_is_not() {
    let http = HttpOptions { feed_stall_seconds_max: 1, ..HttpOptions::default() };
    let (node, machine) = node_with(http, EngineOptions::default()).await;
    node.put("/v1/stocks/shoe", r#"{"quantity":1000000}"#).await;
    reserve_many(&machine, 10_000).await;
    let mut reading = EventSource::open(node.address, "/v1/events", &[]).await;
    assert_eq!(reading.changes(10_001).await.len(), 10_001);
    wait_for_metric(&node, "tidegate_feed_streams", 1.0).await;
    let _stalled = stalled(&node).await;
    wait_for_metric(&node, "tidegate_feed_streams", 2.0).await;
    wait_for_metric(&node, "tidegate_feed_streams", 1.0).await;
    let delivered = metric(&node, "tidegate_feed_events_total").await.unwrap();
    assert!((10_001.0..19_000.0).contains(&delivered), "no more was made than the network took, of {delivered}");
    node.post("/v1/stocks/shoe/close", "").await;
    assert_eq!(reading.change().await.event, "stock_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_every_stream_and_waits_for_none() {
    // So long that the test would fail if anything waited for it.
    let http =
        HttpOptions { answer_seconds_max: 3_600, idle_seconds_max: 3_600, feed_stall_seconds_max: 3_600, ..HttpOptions::default() };
    let (mut node, machine) = node_with(http, EngineOptions::default()).await;
    node.put("/v1/stocks/shoe", r#"{"quantity":1000000}"#).await;
    let mut idle = EventSource::open(node.address, "/v1/events", &[]).await;
    idle.change().await;
    reserve_many(&machine, 10_000).await;
    let stalled = stalled(&node).await;
    idle.changes(10_000).await;
    wait_for_metric(&node, "tidegate_feed_streams", 2.0).await;
    node.begin_shutdown();
    idle.expect_closed().await;
    node.wait_shutdown().await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_streams_than_may_be() {
    let http = HttpOptions { feed_streams_max: 1, ..HttpOptions::default() };
    let (node, _machine) = node_with(http, EngineOptions::default()).await;
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    let mut first = EventSource::open(node.address, "/v1/events", &[]).await;
    first.change().await;
    let accept = [("accept", "text/event-stream")];
    node.ask("GET", "/v1/events", &accept, "").await.expect_problem(503, "overloaded", "1 event streams are open already");
    // Pages are not counted among them.
    assert_eq!(kinds(&node, "/v1/events").await, ["stock_created"]);
    drop(first);
    // That it has left is found when something is sent to it.
    let found = timeout(PATIENCE, async {
        while metric(&node, "tidegate_feed_streams").await != Some(0.0) {
            node.post("/v1/stocks/shoe/pause", "").await;
            node.post("/v1/stocks/shoe/reopen", "").await;
        }
    });
    found.await.expect("a reader that left makes room");
    EventSource::open(node.address, "/v1/events", &[]).await.change().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_overtaken_says_so_and_ends() {
    let (node, machine) = node().await;
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    let mut source = EventSource::open(node.address, "/v1/events", &[]).await;
    source.change().await;
    machine.log.hold();
    let mut pending = Vec::new();
    for (user, groups) in [("ann", 2), ("bob", 3)] {
        let command = Command::Reserve {
            sku: Sku::new("shoe").unwrap(),
            user: UserId::new(user).unwrap(),
            quantity: Quantity::ONE,
            hold_seconds: None,
            reference: None,
        };
        let actor = ActorName::new("tests").unwrap();
        pending.push(machine.engine.try_submit(Submission { command, key: None, actor }).unwrap());
        machine.log.wait_proposed(groups).await;
    }
    machine.log.give_up_before(3);
    machine.log.release();
    let last = source.change().await;
    assert_eq!((last.event.as_str(), last.id.as_str()), ("error", ""));
    assert_eq!((&last.json()["code"], &last.json()["status"]), (&json!("cursor_expired"), &json!(410)));
    assert_eq!(source.next().await, None);
    for pending in pending {
        pending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_read_may_follow_and_every_change_names_who_made_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, key_entry("warehouse", "operator") + &key_entry("analyst", "read")).unwrap();
    let access = AccessOptions { keys_file: Some(path), ..AccessOptions::default() };
    let (node, _machine) = guarded_node(HttpOptions::default(), access).await;
    let (operator, reader) = ("Bearer tg_warehouse-0123456789", "Bearer tg_analyst-0123456789");
    node.ask("PUT", "/v1/stocks/shoe", &[("authorization", operator)], r#"{"quantity":10}"#).await;
    node.get("/v1/events").await.expect_problem(401, "unauthenticated", "");
    node.ask("GET", "/v1/events", &[("accept", "text/event-stream")], "").await.expect_problem(401, "unauthenticated", "");
    let page = node.ask("GET", "/v1/events", &[("authorization", reader)], "").await.json();
    assert_eq!(page["events"][0]["actor"], "warehouse");
    let mut source = EventSource::open(node.address, "/v1/events", &[("authorization", reader)]).await;
    assert_eq!(source.change().await.json(), page["events"][0]);
}

fn key_entry(name: &str, role: &str) -> String {
    let hash = KeyHash::of(format!("tg_{name}-0123456789").as_bytes());
    format!("[[key]]\nname = \"{name}\"\nroles = [\"{role}\"]\nsha256 = \"{hash}\"\n")
}

/// Opens a stream with a key that then opens nothing any more, and checks that the next change is not shown.
async fn a_stream_ends_when(revoke: impl AsyncFn(&Node, &std::path::Path), about: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, key_entry("warehouse", "operator") + &key_entry("analyst", "read")).unwrap();
    let access = AccessOptions { keys_file: Some(path.clone()), ..AccessOptions::default() };
    let (node, _machine) = guarded_node(HttpOptions::default(), access).await;
    let (operator, reader) = ("Bearer tg_warehouse-0123456789", "Bearer tg_analyst-0123456789");
    let put = async |sku: &str| {
        let path = format!("/v1/stocks/{sku}");
        assert_eq!(node.ask("PUT", &path, &[("authorization", operator)], r#"{"quantity":10}"#).await.status, 201);
    };
    put("shoe").await;
    let mut source = EventSource::open(node.address, "/v1/events", &[("authorization", reader)]).await;
    source.change().await;
    revoke(&node, &path).await;
    put("hat").await;
    let last = source.change().await;
    assert_eq!((last.event.as_str(), last.id.as_str()), ("error", ""), "{last:?}");
    assert_eq!((&last.json()["code"], &last.json()["status"]), (&json!("unauthenticated"), &json!(401)));
    assert!(last.data.contains(about), "{last:?}");
    assert_eq!(source.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_is_revoked() {
    let revoke = async |node: &Node, path: &std::path::Path| {
        std::fs::write(path, key_entry("warehouse", "operator")).unwrap();
        node.door.reload();
    };
    a_stream_ends_when(revoke, "not known").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_is_given_an_end_that_has_passed() {
    let revoke = async |node: &Node, path: &std::path::Path| {
        let ended = key_entry("analyst", "read") + "expires_at = 2026-01-01T00:00:00Z\n";
        std::fs::write(path, key_entry("warehouse", "operator") + &ended).unwrap();
        node.door.reload();
    };
    a_stream_ends_when(revoke, "expired at 2026-01-01T00:00:00.000Z").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_change_ends_by_its_heartbeat_when_its_key_is_revoked() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, key_entry("warehouse", "operator") + &key_entry("analyst", "read")).unwrap();
    let access = AccessOptions { keys_file: Some(path.clone()), ..AccessOptions::default() };
    let (node, _machine) = guarded_node(HttpOptions { feed_heartbeat_seconds: 1, ..HttpOptions::default() }, access).await;
    let mut source = EventSource::open(node.address, "/v1/events", &[("authorization", "Bearer tg_analyst-0123456789")]).await;
    std::fs::write(&path, key_entry("warehouse", "operator")).unwrap();
    node.door.reload();
    let last = timeout(PATIENCE, source.change()).await.expect("the stream should end");
    assert_eq!((last.event.as_str(), &last.json()["code"]), ("error", &json!("unauthenticated")), "{last:?}");
    assert_eq!(source.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_it_is_a_stream_is_said_by_the_accept_header() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    for accept in [
        "text/event-stream",
        "Text/Event-Stream",
        "application/json;q=0.5, text/event-stream; q=0.1",
        "application/json, TEXT/EVENT-STREAM;charset=utf-8",
    ] {
        let mut client = node.client().await;
        client.send(request("GET", "/v1/events", &[("accept", accept)], "")).await;
        let head = client.reply_to_head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{accept}");
    }
    for accept in [
        "*/*",
        "application/json, text/event-stream;q=0",
        "text/event-stream; Q=0.000",
        "text/event-stream2",
        "application/json;text/event-stream",
    ] {
        let reply = node.ask("GET", "/v1/events", &[("accept", accept)], "").await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_is_shut_shows_no_changes() {
    let node = shut_node(HttpOptions::default()).await;
    node.get("/v1/events").await.expect_problem(503, "recovering", "");
    node.ask("GET", "/v1/events", &[("accept", "text/event-stream")], "").await.expect_problem(503, "recovering", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_feed_does_is_counted() {
    let (node, machine) = node().await;
    four_changes(&node).await;
    let room = "tidegate_feed_room_groups";
    assert_eq!(metric(&node, "tidegate_feed_events_total").await, Some(0.0));
    kinds(&node, "/v1/events?limit=3").await;
    assert_eq!(metric(&node, "tidegate_feed_events_total").await, Some(3.0));
    assert_eq!(metric(&node, room).await, None, "nobody came with a cursor");
    kinds(&node, "/v1/events?after=0.2").await;
    assert_eq!(metric(&node, "tidegate_feed_events_total").await, Some(5.0));
    assert_eq!(metric(&node, room).await, Some(2.0));
    machine.log.give_up_before(3);
    kinds(&node, "/v1/events?after=0.2").await;
    assert_eq!(metric(&node, room).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_stocks_life_is_in_the_feed_and_the_clock_acts_when_time_does() {
    let (node, machine) = node().await;
    node.put("/v1/stocks/shoe", r#"{"quantity":10}"#).await;
    node.patch("/v1/stocks/shoe", r#"{"per_user_limit":3}"#).await;
    let held = node.post("/v1/stocks/shoe/reservations", r#"{"user":"ann","quantity":2}"#).await;
    machine.clock.set(START.plus_seconds(600));
    assert_eq!(node.get(&format!("/v1/reservations/{}", held.text("id"))).await.text("state"), "expired");
    for step in ["pause", "reopen", "close", "archive"] {
        assert_eq!(node.post(&format!("/v1/stocks/shoe/{step}"), "").await.status, 200, "{step}");
    }
    let page = node.get("/v1/events").await.json();
    let events = page["events"].as_array().unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event["kind"].as_str().unwrap(), event["actor"].as_str().unwrap())).collect();
    assert_eq!(
        seen,
        [
            ("stock_created", "loopback"),
            ("stock_changed", "loopback"),
            ("reserved", "loopback"),
            ("expired", "clock"),
            ("stock_paused", "loopback"),
            ("stock_reopened", "loopback"),
            ("stock_closed", "loopback"),
            ("stock_archived", "loopback"),
        ]
    );
    assert_eq!((&events[1]["stock"]["per_user_limit"], &events[1]["reservation"]), (&json!(3), &Value::Null));
    assert_eq!((&events[3]["reservation"]["state"], &events[3]["reservation"]["released"]), (&json!("expired"), &json!(2)));
    assert_eq!((&events[7]["stock"]["state"], &events[7]["stock"]["available"]), (&json!("archived"), &json!(10)));
    let sequences: Vec<_> = events.iter().map(|event| event["sku_sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7, 8]);
}
