//! What the clock brings about while the node is down and behind a restart: the end of holds, of keys, of what is retained, and the
//! beginning of sales. Moments are those of the node, asked for before and after a call, so that no test depends on how fast it is.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::{Node, ms, number, reservation_counts, stock_counts, text, wait_until};

/// Waits until a hold of `seconds` that was answered at `answered` is due by any clock, without asking the node.
fn wait_due(answered: Instant, seconds: u64) {
    wait_until("a hold to fall due", || answered.elapsed() > Duration::from_secs(seconds));
}

fn expired_at(node: &Node, id: &str) -> u64 {
    let events = node.get("/v1/events?limit=1000");
    let mut events = events["events"].as_array().expect("a list").iter();
    let expired = events.find(|event| event["kind"] == "expired" && event["reservation"]["id"] == id);
    ms(expired.unwrap_or_else(|| panic!("{id} has not expired")), "at")
}

/// Ends the node in one of two ways and starts it again, from the log or from a snapshot, once `is_time` has returned.
fn restart(node: &mut Node, is_from_snapshot: bool, is_time: impl FnOnce()) {
    if is_from_snapshot {
        node.snapshot();
        node.stop();
    } else {
        node.kill();
    }
    is_time();
    node.resume(is_from_snapshot);
}

/// Tries it with a kill and a start from the log, and at the same time with a start from a snapshot.
fn both_ways(test: fn(bool)) {
    thread::scope(|scope| {
        scope.spawn(|| test(false));
        scope.spawn(|| test(true));
    });
}

#[test]
fn a_hold_that_fell_due_while_the_node_was_down_is_back_within_a_second() {
    both_ways(holds_fall_due);
}

fn holds_fall_due(is_from_snapshot: bool) {
    let mut node = Node::start(&[]);
    node.call("PUT", "/v1/stocks/short", &[], r#"{"quantity":20,"per_user_limit":6}"#).done(201);
    // The clock works in a stock that is paused or closed, too.
    for (sku, step) in [("asleep", "pause"), ("over", "close")] {
        node.call("PUT", &format!("/v1/stocks/{sku}"), &[], r#"{"quantity":5}"#).done(201);
        node.reserve(sku, sku, "", r#"{"user":"ada","quantity":2,"hold_seconds":3}"#);
        node.post(&format!("/v1/stocks/{sku}/{step}"), "", "").done(200);
    }
    // One is due while the node is down, one in part, one afterwards, and one is due but was extended before.
    node.reserve("later", "short", "", r#"{"user":"ada","quantity":5,"hold_seconds":8}"#);
    node.reserve("extended", "short", "", r#"{"user":"cyd","quantity":2,"hold_seconds":3}"#);
    node.act("extended", "extend", "", r#"{"hold_seconds":600}"#).done(200);
    node.reserve("lapsed", "short", "lapsed", r#"{"user":"ada","hold_seconds":3}"#);
    node.reserve("in-part", "short", "", r#"{"user":"bob","quantity":6,"hold_seconds":3}"#);
    node.act("in-part", "confirm", "", r#"{"quantity":1}"#).done(200);
    assert_eq!(stock_counts(&node.stock("short")), [20, 6, 13, 1]);
    let answered = Instant::now();
    restart(&mut node, is_from_snapshot, || wait_due(answered, 3));
    let ready_ms = node.now_ms();
    // Nobody asks for the reservations: the clock alone brings them back.
    wait_until("units to be back", || number(&node.stock("short"), "available") >= 12);
    for (sku, state) in [("asleep", "paused"), ("over", "closed")] {
        wait_until("units of a stock that grants none to be back", || stock_counts(&node.stock(sku)) == [5, 5, 0, 0]);
        assert_eq!(text(&node.stock(sku), "state"), state);
    }
    for name in ["lapsed", "in-part", "asleep", "over"] {
        let at = expired_at(&node, node.id(name));
        assert!(at <= ready_ms + 1_000, "{name} expired {} ms after the node was ready", at - ready_ms);
    }
    let lapsed = node.reservation("lapsed");
    assert_eq!((reservation_counts(&lapsed), text(&lapsed, "state").as_str()), ([1, 0, 0, 1, 0], "expired"));
    let in_part = node.reservation("in-part");
    assert_eq!((reservation_counts(&in_part), text(&in_part, "state").as_str()), ([6, 0, 1, 5, 0], "confirmed"));
    node.act("lapsed", "confirm", "", "").refused("reservation_expired");
    node.act("lapsed", "extend", "", r#"{"hold_seconds":600}"#).refused("reservation_expired");
    node.act("lapsed", "release", "", "").done(200);
    node.act("in-part", "confirm", "", r#"{"quantity":1}"#).refused("reservation_expired");
    let again = node.post("/v1/stocks/short/reservations", "lapsed", r#"{"user":"ada","hold_seconds":3}"#);
    assert_eq!(again.replayed(201), node.reservation("lapsed"));
    // What lapsed no longer counts against a user; what is held and sold does.
    node.post("/v1/stocks/short/reservations", "", r#"{"user":"bob","quantity":6}"#).refused("limit_reached");
    node.post("/v1/stocks/short/reservations", "", r#"{"user":"bob","quantity":5}"#).done(201);

    // A hold from before that falls due afterwards is on time as well.
    wait_until("the last of them to be back", || stock_counts(&node.stock("short")) == [20, 12, 7, 1]);
    let later = node.reservation("later");
    let (due, at) = (ms(&later, "expires_at"), expired_at(&node, node.id("later")));
    assert!((due..=due.max(ready_ms) + 1_000).contains(&at), "due at {due}, ready at {ready_ms}, expired at {at}");
    assert_eq!(node.reservation("extended")["state"], "reserved");
    node.finish();
}

#[test]
fn a_sale_that_opens_or_closes_while_the_node_is_down_has_done_so() {
    let mut node = Node::start(&[]);
    let in_seconds = |seconds: i64| {
        let moment = i64::try_from(node.now_ms()).expect("it is not far off") + seconds * 1_000;
        jiff::Timestamp::from_millisecond(moment).expect("it is a moment").to_string()
    };
    let (soon, late) = (in_seconds(3), in_seconds(8));
    let answered = Instant::now();
    let put = |sku: &str, field: &str, at: &str| {
        node.call("PUT", &format!("/v1/stocks/{sku}"), &[], &format!(r#"{{"quantity":5,"{field}":"{at}"}}"#)).done(201)
    };
    for (sku, at) in [("soon", &soon), ("late", &late)] {
        assert_eq!(put(&format!("opens-{sku}"), "opens_at", at)["state"], "scheduled");
        assert_eq!(put(&format!("closes-{sku}"), "closes_at", at)["state"], "open");
    }
    let reserve = |node: &Node, sku: &str| node.post(&format!("/v1/stocks/{sku}/reservations"), "", r#"{"user":"u"}"#);
    reserve(&node, "opens-soon").refused("not_open");
    let before = text(&reserve(&node, "closes-soon").done(201), "id");
    restart(&mut node, false, || wait_due(answered, 3));
    assert_eq!((&node.stock("opens-soon")["state"], &node.stock("closes-soon")["state"]), (&"open".into(), &"closed".into()));
    reserve(&node, "opens-soon").done(201);
    reserve(&node, "closes-soon").refused("closed");
    node.post(&format!("/v1/reservations/{before}/confirm"), "", "").done(200);
    restart(&mut node, true, || ());
    // Exactly then, by the node's own time.
    let late_ms = late.parse::<jiff::Timestamp>().expect("it is a moment").as_millisecond();
    let late_ms = u64::try_from(late_ms).expect("it is not long ago");
    for (sku, first, then) in [("opens-late", "scheduled", "open"), ("closes-late", "open", "closed")] {
        wait_until("a window", || {
            let (before, state, after) = (node.now_ms(), text(&node.stock(sku), "state"), node.now_ms());
            assert!(state == first && before < late_ms || state == then && after >= late_ms, "{sku} is {state}: {before}, {after}");
            state == then
        });
    }
    reserve(&node, "opens-late").done(201);
    reserve(&node, "closes-late").refused("closed");
    node.finish();
}

/// Seconds for which the tests below have keys and reservations kept.
const KEPT_SECONDS: u64 = 8;

#[test]
fn a_key_is_known_for_its_time_and_not_longer_over_a_restart() {
    both_ways(keys_are_forgotten);
}

fn keys_are_forgotten(is_from_snapshot: bool) {
    let mut node = Node::start(&[&format!("rules.idempotency_seconds={KEPT_SECONDS}")]);
    node.call("PUT", "/v1/stocks/keyed", &[], r#"{"quantity":5,"per_user_limit":1}"#).done(201);
    // A repeat changes nothing, and a new call with the key is one too many.
    let ask = |node: &Node| node.post("/v1/stocks/keyed/reservations", "key", r#"{"user":"ada"}"#);
    let first = ask(&node).done(201);
    let until = ms(&first, "reserved_at") + KEPT_SECONDS * 1_000;
    restart(&mut node, is_from_snapshot, || ());
    let mut replays = 0;
    wait_until("the key to be forgotten", || {
        let (before, answer, after) = (node.now_ms(), ask(&node), node.now_ms());
        if answer.response.status == 201 {
            assert_eq!(answer.replayed(201), first);
            assert!(before < until, "known at {before}, though its time was over at {until}");
            replays += 1;
            return false;
        }
        answer.refused("limit_reached");
        assert!(after >= until, "forgotten at {after}, though its time lasts until {until}");
        true
    });
    assert!(replays > 0, "its time was over before the node was back");
    // Forgotten, it stays so, and is as good as new.
    restart(&mut node, is_from_snapshot, || ());
    ask(&node).refused("limit_reached");
    let new = node.post("/v1/stocks/keyed/reservations", "key", r#"{"user":"bob"}"#).done(201);
    assert_ne!(new["id"], first["id"]);
    node.finish();
}

#[test]
fn what_is_resolved_is_readable_for_its_time_and_not_longer_over_a_restart() {
    both_ways(reservations_are_forgotten);
}

fn reservations_are_forgotten(is_from_snapshot: bool) {
    let retention = format!("rules.retention_seconds={KEPT_SECONDS}");
    let mut settings = vec![retention.as_str(), "rules.idempotency_seconds=1"];
    if is_from_snapshot {
        settings.push("engine.resolved_in_memory_max=0");
    }
    let mut node = Node::start(&settings);
    node.forgets = true;
    node.call("PUT", "/v1/stocks/past", &[], r#"{"quantity":1000000}"#).done(201);
    node.reserve("held", "past", "", r#"{"user":"ada"}"#);
    node.reserve("released", "past", "", r#"{"user":"bob"}"#);
    node.reserve("sold", "past", "", r#"{"user":"cyd","quantity":500000}"#);
    let released = node.act("released", "release", "", "").done(200);
    let sold = node.act("sold", "confirm", "", "").done(200);
    let until = |resolved: &Value| ms(resolved, "resolved_at") + KEPT_SECONDS * 1_000;
    restart(&mut node, is_from_snapshot, || ());
    let (mut read, mut returned) = (0, 0);
    wait_until("the released one to be forgotten", || {
        let answer = node.call("GET", &format!("/v1/reservations/{}", node.id("released")), &[], "");
        let now = node.now_ms();
        read += u64::from(answer.response.status == 200);
        if answer.response.status == 200 {
            assert_eq!(answer.done(200), released);
            return false;
        }
        answer.refused("unknown_reservation");
        assert!(now >= until(&released), "forgotten at {now}, though its time lasts until {}", until(&released));
        true
    });
    // Units can be given back for just as long.
    wait_until("the sold one to be forgotten", || {
        let (before, answer, after) = (node.now_ms(), node.act("sold", "return", "", r#"{"quantity":1}"#), node.now_ms());
        if answer.response.status == 200 {
            returned += 1;
            assert_eq!(reservation_counts(&answer.done(200)), [500_000, 0, 500_000 - returned, 0, returned]);
            assert!(before < until(&sold), "returned at {before}, though its time was over at {}", until(&sold));
            return false;
        }
        answer.refused("unknown_reservation");
        assert!(after >= until(&sold), "forgotten at {after}, though its time lasts until {}", until(&sold));
        true
    });
    assert!(read > 0, "its time was over before the node was back");
    let expect_forgotten = |node: &Node| {
        for name in ["released", "sold"] {
            node.call("GET", &format!("/v1/reservations/{}", node.id(name)), &[], "").refused("unknown_reservation");
            for verb in ["confirm", "release", "return"] {
                node.act(name, verb, "", "").refused("unknown_reservation");
            }
        }
        let listed = node.list("/v1/stocks/past/reservations", "reservations", None);
        assert_eq!(listed.iter().map(|one| text(one, "id")).collect::<Vec<_>>(), [node.id("held")]);
        // What it did to the stock stays.
        assert_eq!(stock_counts(&node.stock("past")), [1_000_000, 1_000_000 - 1 - (500_000 - returned), 1, 500_000 - returned]);
    };
    expect_forgotten(&node);
    restart(&mut node, is_from_snapshot, || ());
    expect_forgotten(&node);
    node.finish();
}
