//! The change feed: a cursor from before a restart goes on without a gap or a repeat, in pages and as a stream, until it is too old.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{connect, head_with};

use super::node::{Node, Phase, number, text, through_restarts, wait_until};

/// Every kind of change, in the order in which they are made.
const KINDS: [&str; 14] = [
    "stock_created",
    "stock_changed",
    "reserved",
    "reserved",
    "confirmed",
    "returned",
    "extended",
    "released",
    "expired",
    "stock_adjusted",
    "stock_paused",
    "stock_reopened",
    "stock_closed",
    "stock_archived",
];

/// What was seen before any restart, and since.
struct World {
    /// Every change, oldest first.
    events: Vec<Value>,
    /// Cursors, each with how many changes were delivered before it.
    cursors: Vec<(String, usize)>,
}

fn page(node: &Node, after: Option<&str>, limit: usize) -> (Vec<Value>, String) {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let mut page = node.get(&format!("/v1/events?limit={limit}{after}"));
    let next = text(&page, "next_cursor");
    let Value::Array(events) = page["events"].take() else { panic!("{page}") };
    (events, next)
}

/// Everything behind a cursor, in pages, and the cursors between them with what they have behind them.
fn all(node: &Node, after: Option<&str>, limit: usize) -> (Vec<Value>, Vec<(String, usize)>) {
    let (mut events, mut cursors) = (Vec::new(), Vec::<(String, usize)>::new());
    loop {
        let (more, next) = page(node, cursors.last().map(|(cursor, _)| cursor.as_str()).or(after), limit);
        let is_end = more.is_empty();
        events.extend(more);
        cursors.push((next, events.len()));
        if is_end {
            return (events, cursors);
        }
    }
}

fn build(node: &mut Node) -> World {
    let post = |node: &Node, call: &str, body: &str| node.post(&format!("/v1/stocks/told{call}"), "", body);
    node.call("PUT", "/v1/stocks/told", &[], r#"{"quantity":9}"#).done(201);
    node.call("PATCH", "/v1/stocks/told", &[], r#"{"per_user_limit":5}"#).done(200);
    node.reserve("a", "told", "", r#"{"user":"ada","quantity":3}"#);
    node.reserve("b", "told", "", r#"{"user":"bob","quantity":2,"hold_seconds":60}"#);
    node.act("a", "confirm", "", r#"{"quantity":2}"#).done(200);
    node.act("a", "return", "", r#"{"quantity":1}"#).done(200);
    node.act("b", "extend", "", r#"{"hold_seconds":1}"#).done(200);
    node.act("a", "release", "", "").done(200);
    wait_until("a hold to lapse", || node.stock("told")["reserved"] == 0);
    post(node, "/adjustments", r#"{"delta":-2,"reason":"damaged"}"#).done(200);
    for call in ["/pause", "/reopen", "/close", "/archive"] {
        post(node, call, "").done(200);
    }
    // What was rejected, repeated or changed nothing is no change.
    post(node, "/reservations", r#"{"user":"cyd"}"#).refused("closed");
    post(node, "/archive", "").done(200);
    node.act("a", "confirm", "", "").done(200);
    let (events, cursors) = all(node, None, 3);
    assert_eq!(events.iter().map(|event| text(event, "kind")).collect::<Vec<_>>(), KINDS);
    for (event, place) in events.iter().zip(1..) {
        let actor = if event["kind"] == "expired" { "clock" } else { "loopback" };
        assert_eq!((text(event, "sku").as_str(), text(event, "actor").as_str()), ("told", actor), "{event}");
        assert_eq!(number(event, "sku_sequence"), place, "{event}");
        assert_eq!(event["stock"].is_null(), event["reservation"].is_object(), "{event}");
    }
    assert_eq!((&events[9]["delta"], &events[9]["reason"]), (&(-2).into(), &"damaged".into()));
    World { events, cursors }
}

#[test]
fn a_cursor_goes_on_without_a_gap_or_a_repeat() {
    through_restarts(&["node.shards=2"], build, |node, world, phase| {
        let (events, cursors) = all(node, None, 4);
        expect_goes_on(&mut world.events, events);
        for (cursor, delivered) in world.cursors.iter().chain(&cursors) {
            assert_eq!(all(node, Some(cursor), 5).0, world.events[*delivered..], "behind {cursor}");
        }
        // The place of a change, and that of a stock, are cursors of their own shard; behind the newest there is nothing of it.
        let place = text(&node.stock("told"), "as_of");
        let (behind, _) = all(node, Some(&place), 100);
        assert!(behind.iter().all(|event| event["sku"] != "told"), "{behind:?}");
        expect_streams(node, world, phase);
        world.cursors.extend(cursors);
    });
}

/// Everything known stands where it stood; what is new comes behind it, under names of its own.
#[track_caller]
fn expect_goes_on(known: &mut Vec<Value>, events: Vec<Value>) {
    assert_eq!(events[..known.len()], known[..]);
    let mut ids: Vec<String> = events.iter().map(|event| text(event, "id")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "two changes have one name");
    *known = events;
}

/// Streams go on behind a cursor of a page, behind that of a stream from before, and with what happens meanwhile.
fn expect_streams(node: &Node, world: &mut World, phase: Phase) {
    let mut cursors = Vec::new();
    for (cursor, delivered) in &world.cursors {
        let mut stream = Stream::open(node, cursor);
        for (place, event) in world.events.iter().enumerate().skip(*delivered) {
            let (id, told) = stream.change();
            assert_eq!(told, *event);
            cursors.push((id, place + 1));
        }
    }
    let mut stream = Stream::open(node, &world.cursors[0].0);
    for event in &world.events[world.cursors[0].1..] {
        assert_eq!(stream.change().1, *event);
    }
    let sku = format!("new-{}", phase.name());
    node.call("PUT", &format!("/v1/stocks/{sku}"), &[], r#"{"quantity":3}"#).done(201);
    let (id, event) = stream.change();
    assert_eq!((text(&event, "sku"), text(&event, "kind").as_str()), (sku, "stock_created"));
    world.events.push(event);
    cursors.push((id, world.events.len()));
    // The places of a product's changes go on behind those from before.
    let known = world.events.iter().filter(|event| event["sku"] == "told").count() as u64;
    node.post("/v1/stocks/told/adjustments", "", r#"{"delta":1,"reason":"found"}"#).done(200);
    let (id, event) = stream.change();
    assert_eq!((text(&event, "kind").as_str(), number(&event, "sku_sequence")), ("stock_adjusted", known + 1));
    world.events.push(event);
    cursors.push((id, world.events.len()));
    // One of each place is enough.
    cursors.sort_by_key(|(_, delivered)| *delivered);
    cursors.dedup_by_key(|(_, delivered)| *delivered);
    world.cursors.extend(cursors.into_iter().step_by(5));
}

/// An event stream. Its end is that of its connection.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(node: &Node, last_event_id: &str) -> Self {
        let mut stream = connect(node.server().address).expect("the node takes connections");
        let fields = [("accept", "text/event-stream"), ("last-event-id", last_event_id)];
        stream.write_all(head_with("GET", "/v1/events", &fields, 0).as_bytes()).expect("the node takes a request");
        let mut stream = Self(BufReader::new(stream));
        assert_eq!(stream.line(), "HTTP/1.1 200 OK");
        while !stream.line().is_empty() {}
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).expect("the node goes on within its time") > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The next change and the cursor behind it. Chunks' lengths stand between the lines, on lines of their own.
    fn change(&mut self) -> (String, Value) {
        let (mut id, mut data) = (None, None);
        loop {
            let line = self.line();
            if let Some(given) = line.strip_prefix("id: ") {
                id = Some(given.to_owned());
            } else if let Some(given) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(given).expect("an event is JSON"));
            } else if line.is_empty()
                && let (Some(id), Some(data)) = (&id, data.take())
            {
                return (id.clone(), data);
            }
        }
    }
}

/// Limits at their least, so that little work moves the end of the feed.
const TIGHT: [&str; 4] =
    ["snapshots.log_bytes=1048576", "log.segment_bytes_max=1048576", "feed.retention_bytes=16777216", "feed.retention_seconds=60"];

/// Makes the log longer.
fn sell_more(node: &Node) {
    let long = "u".repeat(128);
    let command = format!(r#"{{"op":"reserve","sku":"more","user":"{long}","reference":"{long}"}}"#);
    let answer = node.post("/v1/batch", "", &format!(r#"{{"commands":[{}]}}"#, vec![command; 5_000].join(",")));
    let results = answer.done(200);
    assert_eq!(results["results"][4_999]["status"], 201, "{}", results["results"][4_999]);
}

#[test]
fn a_cursor_that_is_no_longer_retained_is_told_so_after_a_restart_too() {
    let mut node = Node::start(&TIGHT);
    node.call("PUT", "/v1/stocks/told", &[], r#"{"quantity":9}"#).done(201);
    node.call("PUT", "/v1/stocks/more", &[], r#"{"quantity":1000000000}"#).done(201);
    let (events, old) = page(&node, None, 1);
    assert_eq!(events[0]["kind"], "stock_created");
    let first = text(&events[0], "id");
    let behind = |node: &Node, cursor: &str| node.call("GET", &format!("/v1/events?limit=1&after={cursor}"), &[], "");
    wait_until("the oldest changes to leave the feed", || {
        let is_gone = behind(&node, &old).response.status != 200;
        if !is_gone {
            sell_more(&node);
        }
        is_gone
    });
    // Where somebody is who has read everything.
    node.call("PUT", "/v1/stocks/newest", &[], r#"{"quantity":9}"#).done(201);
    let newest = text(&node.stock("newest"), "as_of");
    let expect = |node: &Node| {
        for cursor in [&old, &first] {
            behind(node, cursor).refused("cursor_expired");
            let fields = [("accept", "text/event-stream"), ("last-event-id", cursor.as_str())];
            node.call("GET", "/v1/events", &fields, "").refused("cursor_expired");
        }
        // Without a cursor the feed begins with the oldest change that is left, and from there it can be read.
        let (events, next) = page(node, None, 1);
        assert!(number(&events[0], "sku_sequence") > 1, "{events:?}");
        behind(node, &next).done(200);
    };
    expect(&node);
    node.kill();
    node.resume(true);
    expect(&node);
    node.call("PATCH", "/v1/stocks/newest", &[], r#"{"hold_seconds":60}"#).done(200);
    let (events, _) = page(&node, Some(&newest), 10);
    assert_eq!(events.iter().map(|event| text(event, "kind")).collect::<Vec<_>>(), ["stock_changed"]);
    // What left the feed is still there.
    assert_eq!(node.stock("told")["available"], 9);
    node.finish();
}
