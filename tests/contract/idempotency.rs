//! Idempotency keys: who asks again is told what became of it, whatever happened to the node meanwhile.

use serde_json::{Value, json};

use super::node::{Answer, Node, Phase, number, reservation_counts, stock_counts, text, through_restarts, wait_until};

/// A keyed call: the name of its reservation, or none for one on the stock; the last part of its path, its key, its body, its status.
type Keyed = (&'static str, &'static str, &'static str, &'static str, u16);

/// In the order in which they are made. Each leaves the reservation different from what the ones before it answered.
const KEYED: [Keyed; 6] = [
    ("", "reservations", "k-reserve", r#"{"user":"ada","quantity":5,"hold_seconds":900,"reference":"r-1"}"#, 201),
    ("one", "confirm", "k-confirm", r#"{"quantity":2}"#, 200),
    ("one", "release", "k-release", r#"{"quantity":1}"#, 200),
    ("one", "return", "k-return", r#"{"quantity":1}"#, 200),
    ("one", "extend", "k-extend", r#"{"hold_seconds":1800}"#, 200),
    ("", "adjustments", "k-adjust", r#"{"delta":-7,"reason":"damaged"}"#, 200),
];

/// The same keys with other values, or for another operation.
const OTHERS: [Keyed; 16] = [
    ("", "reservations", "k-reserve", r#"{"user":"bob","quantity":5,"hold_seconds":900,"reference":"r-1"}"#, 0),
    ("", "reservations", "k-reserve", r#"{"user":"ada","quantity":4,"hold_seconds":900,"reference":"r-1"}"#, 0),
    ("", "reservations", "k-reserve", r#"{"user":"ada","quantity":5,"hold_seconds":901,"reference":"r-1"}"#, 0),
    ("", "reservations", "k-reserve", r#"{"user":"ada","quantity":5,"hold_seconds":900}"#, 0),
    ("", "reservations", "k-adjust", r#"{"user":"ada","quantity":5,"hold_seconds":900,"reference":"r-1"}"#, 0),
    ("one", "confirm", "k-confirm", r#"{"quantity":1}"#, 0),
    ("one", "confirm", "k-confirm", "", 0),
    ("two", "confirm", "k-confirm", r#"{"quantity":2}"#, 0),
    ("one", "release", "k-confirm", r#"{"quantity":2}"#, 0),
    ("one", "release", "k-release", r#"{"quantity":2}"#, 0),
    ("one", "return", "k-return", r#"{"quantity":2}"#, 0),
    ("one", "return", "k-release", r#"{"quantity":1}"#, 0),
    ("one", "extend", "k-extend", r#"{"hold_seconds":1801}"#, 0),
    ("", "adjustments", "k-adjust", r#"{"delta":-6,"reason":"damaged"}"#, 0),
    ("", "adjustments", "k-adjust", r#"{"delta":-7,"reason":"lost"}"#, 0),
    ("", "adjustments", "k-extend", r#"{"delta":-7,"reason":"damaged"}"#, 0),
];

/// Calls that all that remains is meant by; then nothing of the reservation is held any more.
const WHOLE: [Keyed; 5] = [
    ("sold", "confirm", "w-confirm", "", 200),
    ("given-back", "release", "w-release", "", 200),
    ("refunded", "confirm", "w-confirm-first", "", 200),
    ("refunded", "return", "w-return", "", 200),
    ("sold-later", "extend", "w-extend", r#"{"hold_seconds":700}"#, 200),
];

/// Calls that are rejected for their values, their code, and others under the same key that are not.
const SPOILT: [(&str, &str, &str, &str); 3] = [
    ("confirm", r#"{"quantity":9}"#, "invalid_quantity", r#"{"quantity":1}"#),
    ("release", r#"{"quantity":9}"#, "invalid_quantity", r#"{"quantity":1}"#),
    ("extend", r#"{"hold_seconds":3601}"#, "out_of_range", r#"{"hold_seconds":900}"#),
];

/// Of a stock that is archived in the end.
const ARCHIVED: [Keyed; 4] = [
    ("", "reservations", "a-reserve", r#"{"user":"ada","quantity":2}"#, 201),
    ("archived", "confirm", "a-confirm", "", 200),
    ("archived", "return", "a-return", r#"{"quantity":1}"#, 200),
    ("", "adjustments", "a-adjust", r#"{"delta":-3,"reason":"damaged"}"#, 200),
];

#[track_caller]
fn ask(node: &Node, sku: &str, (name, call, key, body, _): Keyed) -> Answer {
    if name.is_empty() { node.post(&format!("/v1/stocks/{sku}/{call}"), key, body) } else { node.act(name, call, key, body) }
}

/// What the answer of a keyed call shows now.
#[track_caller]
fn subject(node: &Node, sku: &str, (name, call, ..): Keyed, of_reserve: &str) -> Value {
    match (name, call) {
        ("", "reservations") => node.reservation(of_reserve),
        ("", _) => node.stock(sku),
        (name, _) => node.reservation(name),
    }
}

/// What differs from phase to phase.
struct World {
    /// Units that the phases so far gave the stock.
    more: u64,
    batch: Vec<Value>,
}

fn build(node: &mut Node) -> World {
    node.call("PUT", "/v1/stocks/keyed", &[], r#"{"quantity":100}"#).done(201);
    node.reserve("two", "keyed", "", r#"{"user":"bob","quantity":2}"#);
    for keyed in KEYED {
        let document = ask(node, "keyed", keyed).done(keyed.4);
        if keyed.1 == "reservations" {
            node.note("one", &document);
        }
    }
    for name in ["sold", "given-back", "refunded", "sold-later"] {
        node.reserve(name, "keyed", &format!("w-{name}"), r#"{"user":"cyd","quantity":2}"#);
    }
    for keyed in WHOLE {
        ask(node, "keyed", keyed).done(keyed.4);
    }
    node.act("sold-later", "confirm", "", "").done(200);
    node.call("PUT", "/v1/stocks/archived", &[], r#"{"quantity":8}"#).done(201);
    for keyed in ARCHIVED {
        let document = ask(node, "archived", keyed).done(keyed.4);
        if keyed.1 == "reservations" {
            node.note("archived", &document);
        }
    }
    node.post("/v1/stocks/archived/close", "", "").done(200);
    node.post("/v1/stocks/archived/archive", "", "").done(200);
    node.call("PUT", "/v1/stocks/other", &[], r#"{"quantity":100}"#).done(201);
    let batch = build_batch(node);
    node.call("PUT", "/v1/stocks/none-left", &[], r#"{"quantity":0}"#).done(201);
    for phase in Phase::ALL.map(Phase::name) {
        node.reserve(&format!("early-{phase}"), "keyed", "", r#"{"user":"gus"}"#);
        node.reserve(&format!("spoilt-{phase}"), "keyed", "", r#"{"user":"hal","quantity":5}"#);
        for (verb, spoilt, code, _) in SPOILT {
            node.act(&format!("spoilt-{phase}"), verb, &format!("spoilt-{verb}-{phase}"), spoilt).refused(code);
        }
        for (answer, code, _) in ask_early(node, phase) {
            answer.refused(code);
        }
    }
    World { more: 0, batch }
}

/// A batch of keyed commands on a reservation, as it is repeated later.
fn build_batch(node: &mut Node) -> Vec<Value> {
    node.reserve("batch", "keyed", "", r#"{"user":"eve","quantity":5}"#);
    let id = node.id("batch");
    let commands = vec![
        json!({"op": "reserve", "sku": "keyed", "user": "eve", "quantity": 2, "idempotency_key": "b-reserve"}),
        json!({"op": "confirm", "id": id, "quantity": 3, "idempotency_key": "b-confirm"}),
        json!({"op": "release", "id": id, "quantity": 1, "idempotency_key": "b-release"}),
        json!({"op": "return", "id": id, "quantity": 1, "idempotency_key": "b-return"}),
        json!({"op": "extend", "id": id, "hold_seconds": 1000, "idempotency_key": "b-extend"}),
    ];
    let results = run(node, &commands);
    assert_eq!(results.iter().map(|result| number(result, "status")).collect::<Vec<_>>(), [201, 200, 200, 200, 200]);
    assert!(results.iter().all(|result| result["replayed"].is_null()), "{results:?}");
    node.note("batch-reserved", &results[0]["reservation"]);
    commands
}

#[track_caller]
fn run(node: &Node, commands: &[Value]) -> Vec<Value> {
    let answer = node.post("/v1/batch", "", &json!({ "commands": commands }).to_string()).done(200);
    answer["results"].as_array().expect("results are a list").clone()
}

/// The same in lines of JSON, answered in lines.
#[track_caller]
fn run_lines(node: &Node, commands: &[Value]) -> Vec<Value> {
    let lines = commands.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let answer = node.call("POST", "/v1/batch", &[("content-type", "application/x-ndjson")], &lines).response;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")), "{answer:?}");
    answer.body.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Calls that are rejected at first and done once that is possible, each with its code and its status then.
fn ask_early(node: &Node, phase: &str) -> [(Answer, &'static str, u16); 3] {
    let user = format!(r#"{{"user":"early-{phase}"}}"#);
    let adjusted =
        node.post("/v1/stocks/keyed/adjustments", &format!("early-adjust-{phase}"), r#"{"delta":-1000,"reason":"moved"}"#);
    let reserved = node.post("/v1/stocks/none-left/reservations", &format!("early-reserve-{phase}"), &user);
    let returned = node.act(&format!("early-{phase}"), "return", &format!("early-return-{phase}"), "");
    [(adjusted, "insufficient_stock", 200), (reserved, "sold_out", 201), (returned, "reservation_not_confirmed", 200)]
}

#[test]
fn a_repeat_is_told_what_became_of_the_first() {
    through_restarts(&[], build, |node, world, phase| {
        expect_replays(node);
        expect_batch_replays(node, &world.batch);
        expect_as_it_stands(node, world);
        expect_rejected_to_be_new(node, phase.name());
        expect_spoilt_keys_to_be_free(node, phase.name());
    });
}

fn expect_replays(node: &Node) {
    let before = node.stock("keyed");
    for (sku, of_reserve, table) in [("keyed", "one", &KEYED[..]), ("keyed", "", &WHOLE), ("archived", "archived", &ARCHIVED)] {
        for keyed in table {
            for _ in 0..2 {
                let answer = ask(node, sku, *keyed).replayed(keyed.4);
                assert_eq!(answer, subject(node, sku, *keyed, of_reserve), "{keyed:?}");
            }
        }
    }
    assert_eq!(reservation_counts(&node.reservation("one")), [5, 2, 1, 1, 1]);
    assert_eq!(stock_counts(&node.stock("archived")), [5, 4, 0, 1]);
    for other in OTHERS {
        ask(node, "keyed", other).refused("idempotency_key_reused");
    }
    let other = ("", "adjustments", "a-adjust", r#"{"delta":-4,"reason":"damaged"}"#, 0);
    ask(node, "archived", other).refused("idempotency_key_reused");
    let other = ("archived", "return", "a-return", "", 0);
    ask(node, "archived", other).refused("idempotency_key_reused");
    // Closed is told behind it, and only to who brings no known key.
    let other = ("", "reservations", "a-reserve", r#"{"user":"bob"}"#, 0);
    ask(node, "archived", other).refused("idempotency_key_reused");
    let new = ("", "reservations", "a-new", r#"{"user":"bob"}"#, 0);
    ask(node, "archived", new).refused("closed");
    assert_eq!(stock_counts(&node.stock("archived")), [5, 4, 0, 1]);
    assert_eq!(node.stock("keyed"), before);
}

fn expect_batch_replays(node: &Node, commands: &[Value]) {
    let before = node.stock("keyed");
    for results in [run(node, commands), run_lines(node, commands)] {
        assert_eq!(results.len(), commands.len());
        for (result, (status, name)) in
            results.iter().zip([(201, "batch-reserved"), (200, "batch"), (200, "batch"), (200, "batch"), (200, "batch")])
        {
            assert_eq!((number(result, "status"), &result["replayed"]), (status, &true.into()), "{result}");
            assert_eq!(result["reservation"], node.reservation(name));
        }
    }
    assert_eq!(reservation_counts(&node.reservation("batch")), [5, 1, 2, 1, 1]);
    // It is one name space: what was asked alone may be repeated in a batch, and the other way round.
    let single = json!({"op": "confirm", "id": node.id("one"), "quantity": 2, "idempotency_key": "k-confirm"});
    let reused = json!({"op": "confirm", "id": node.id("one"), "quantity": 1, "idempotency_key": "k-confirm"});
    let results = run(node, &[single, reused]);
    assert_eq!((number(&results[0], "status"), &results[0]["replayed"]), (200, &true.into()), "{results:?}");
    assert_eq!((number(&results[1], "status"), text(&results[1], "code").as_str()), (422, "idempotency_key_reused"), "{results:?}");
    node.act("batch", "confirm", "b-confirm", r#"{"quantity":3}"#).replayed(200);
    node.post("/v1/stocks/keyed/reservations", "b-reserve", r#"{"user":"eve","quantity":2}"#).replayed(201);
    assert_eq!(node.stock("keyed"), before);
}

/// A repeat shows what happened since.
fn expect_as_it_stands(node: &Node, world: &mut World) {
    let allotted = |stock: &Value| stock_counts(stock)[0];
    assert_eq!(allotted(&node.stock("keyed")), 93 + world.more);
    node.post("/v1/stocks/keyed/adjustments", "", r#"{"delta":1,"reason":"found"}"#).done(200);
    world.more += 1;
    assert_eq!(allotted(&ask(node, "keyed", KEYED[5]).replayed(200)), 93 + world.more);
    // A key of one sku is none of another's.
    let elsewhere = ask(node, "other", ("", "adjustments", "k-adjust", r#"{"delta":-7,"reason":"damaged"}"#, 200)).response;
    assert_eq!(elsewhere.header("idempotency-replayed").is_none(), world.more == 1, "{elsewhere:?}");
    assert_eq!(stock_counts(&node.stock("other")), [93, 93, 0, 0]);
}

/// What was rejected before is not remembered: with its key it is done once it can be, and from then on it is.
fn expect_rejected_to_be_new(node: &Node, phase: &str) {
    for (answer, code, _) in ask_early(node, phase) {
        answer.refused(code);
    }
    for (sku, delta) in [("keyed", 1_000), ("none-left", 1)] {
        let body = format!(r#"{{"delta":{delta},"reason":"delivered"}}"#);
        node.post(&format!("/v1/stocks/{sku}/adjustments"), "", &body).done(200);
    }
    node.act(&format!("early-{phase}"), "confirm", "", "").done(200);
    for (answer, _, status) in ask_early(node, phase) {
        answer.done(status);
    }
    for (answer, _, status) in ask_early(node, phase) {
        answer.replayed(status);
    }
}

/// Nor is the key of what was rejected before taken: with other values it is done, and from then on those are what it stands for.
fn expect_spoilt_keys_to_be_free(node: &Node, phase: &str) {
    let name = format!("spoilt-{phase}");
    for (verb, spoilt, code, good) in SPOILT {
        let key = format!("spoilt-{verb}-{phase}");
        node.act(&name, verb, &key, spoilt).refused(code);
        node.act(&name, verb, &key, good).done(200);
        node.act(&name, verb, &key, good).replayed(200);
        node.act(&name, verb, &key, spoilt).refused("idempotency_key_reused");
    }
    assert_eq!(reservation_counts(&node.reservation(&name)), [5, 3, 1, 1, 0]);
}

/// Buyers of a stock that is archived.
const BUYERS: u64 = 20;

#[test]
fn the_users_of_an_archived_stock_leave_memory_and_its_keys_do_not() {
    // A user stays with a reservation that is in memory.
    let mut node = Node::start(&["node.shards=1", "engine.resolved_in_memory_max=0"]);
    node.call("PUT", "/v1/stocks/other", &[], r#"{"quantity":1}"#).done(201);
    node.call("PUT", "/v1/stocks/over", &[], r#"{"quantity":100}"#).done(201);
    for buyer in 0..BUYERS {
        let name = format!("buyer-{buyer}");
        node.reserve(&name, "over", &name, &format!(r#"{{"user":"{name}","quantity":2}}"#));
        node.act(&name, "confirm", "", "").done(200);
    }
    // A part of one comes back, under a key.
    let give_back = |node: &Node| node.act("buyer-0", "return", "back", r#"{"quantity":1}"#);
    give_back(&node).done(200);
    let counted = |node: &Node| ["tidegate_users", "tidegate_idempotency_keys"].map(|name| node.metric(name));
    // Only what is older than the newest change leaves, so there must be changes.
    let wait_for = |node: &Node, users: u64| {
        let mut hold = 0;
        wait_until("users to be as they should be", || {
            hold += 1;
            node.call("PATCH", "/v1/stocks/other", &[], &format!(r#"{{"hold_seconds":{}}}"#, 1 + hold % 3_000)).done(200);
            assert_eq!(counted(node)[1], BUYERS + 1, "keys");
            node.metric("tidegate_reservations") == 0 && counted(node)[0] == users
        });
    };
    wait_for(&node, BUYERS);
    for step in ["close", "archive"] {
        node.post(&format!("/v1/stocks/over/{step}"), "", "").done(200);
    }
    for is_from_snapshot in [false, true] {
        wait_for(&node, 0);
        // Whoever never heard of the return asks again, and no unit comes back twice.
        give_back(&node).replayed(200);
        for buyer in 0..BUYERS {
            let name = format!("buyer-{buyer}");
            let body = format!(r#"{{"user":"{name}","quantity":2}}"#);
            node.post("/v1/stocks/over/reservations", &name, &body).replayed(201);
        }
        assert_eq!(stock_counts(&node.stock("over")), [100, 100 - 2 * BUYERS + 1, 0, 2 * BUYERS - 1]);
        if is_from_snapshot {
            node.snapshot();
        }
        node.kill();
        node.resume(is_from_snapshot);
    }
    wait_for(&node, 0);
    give_back(&node).replayed(200);
    node.finish();
}
