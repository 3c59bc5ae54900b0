//! Many commands in one request: each stands alone, and is answered in its place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use support::*;
use tidegate_api::HttpOptions;
use tidegate_engine::EngineOptions;

const BATCH: &str = "/v1/batch";
const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

async fn ready(quantity: u64) -> (Node, Machine) {
    let (node, machine) = node().await;
    assert_eq!(node.put("/v1/stocks/s", &format!(r#"{{"quantity":{quantity}}}"#)).await.status, 201);
    (node, machine)
}

/// The results of a batch of these commands.
async fn run(node: &Node, commands: &[Value]) -> Vec<Value> {
    let reply = node.post(BATCH, &json!({ "commands": commands }).to_string()).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{reply:?}");
    let results = reply.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), commands.len());
    results
}

/// The results of lines, one for each that is not empty.
async fn run_lines(node: &Node, lines: &str) -> Vec<Value> {
    let reply = node.ask("POST", BATCH, &NDJSON, lines).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-ndjson")), "{reply:?}");
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn expect_failed(result: &Value, status: u16, code: &str, about: &str) {
    assert_eq!((&result["status"], &result["code"]), (&json!(status), &json!(code)), "{result}");
    assert!(result["detail"].as_str().is_some_and(|detail| detail.contains(about)), "{result} should speak of {about}");
    assert_eq!(result.as_object().unwrap().len(), 3, "{result}");
}

#[tokio::test]
async fn every_operation_is_answered_with_the_body_of_its_single_call() {
    let (node, machine) = ready(10).await;
    let reserve = json!({"op": "reserve", "sku": "s", "user": "u", "quantity": 4, "hold_seconds": 60, "reference": "order-7"});
    let granted = run(&node, &[reserve, json!({"op": "reserve", "sku": "s", "user": "v"})]).await;
    let id = granted[0]["reservation"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        granted[0],
        json!({"status": 201, "reservation": {
            "id": id, "sku": "s", "user": "u", "quantity": 4, "reserved": 4, "confirmed": 0, "released": 0, "returned": 0,
            "state": "reserved", "sequence": 1, "reference": "order-7", "reserved_at": "2027-01-15T08:00:00.000Z",
            "expires_at": "2027-01-15T08:01:00.000Z", "resolved_at": null,
        }})
    );
    assert_eq!((&granted[1]["status"], &granted[1]["reservation"]["quantity"]), (&json!(201), &json!(1)));
    machine.clock.set(START.plus_seconds(1));
    let results = run(
        &node,
        &[
            json!({"op": "extend", "id": id, "hold_seconds": 300}),
            json!({"op": "confirm", "id": id, "quantity": 3}),
            json!({"op": "release", "id": id}),
            json!({"op": "return", "id": id, "quantity": 1}),
            json!({"op": "confirm", "id": id, "quantity": null}),
        ],
    )
    .await;
    let shown = |result: &Value| {
        ["reserved", "confirmed", "released", "returned"].map(|field| result["reservation"][field].as_u64().unwrap())
    };
    assert_eq!(
        results.iter().map(shown).collect::<Vec<_>>(),
        [[4, 0, 0, 0], [1, 3, 0, 0], [0, 3, 1, 0], [0, 2, 1, 1], [0, 2, 1, 1]]
    );
    assert!(results.iter().all(|result| result["status"] == 200), "{results:?}");
    assert_eq!(results[0]["reservation"]["expires_at"], "2027-01-15T08:05:01.000Z");
    assert_eq!(node.get(&format!("/v1/reservations/{id}")).await.json(), results[4]["reservation"]);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn lines_are_commands_and_are_answered_in_lines() {
    let (node, _machine) = ready(2).await;
    let lines = "{\"op\":\"reserve\",\"sku\":\"s\",\"user\":\"a\"}\r\n\n  \n{\"op\":\"reserve\",\"sku\":\"s\",\"user\":\"b\"}\n{broken\n{\"op\":\"reserve\",\"sku\":\"s\",\"user\":\"c\"}";
    let results = run_lines(&node, lines).await;
    assert_eq!(results.len(), 4, "{results:?}");
    assert_eq!((&results[0]["status"], &results[0]["reservation"]["user"]), (&json!(201), &json!("a")));
    assert_eq!((&results[1]["status"], &results[1]["reservation"]["user"]), (&json!(201), &json!("b")));
    expect_failed(&results[2], 400, "invalid_request", "cannot be read");
    expect_failed(&results[3], 409, "sold_out", "0 are available");
    // The type may have parameters, and its case does not matter.
    let typed = [("content-type", "Application/X-NDJSON; charset=utf-8")];
    assert_eq!(node.ask("POST", BATCH, &typed, "{}").await.status, 200);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn unreadable_lines_disturb_no_other() {
    let (node, _machine) = ready(10).await;
    let good = "{\"op\":\"reserve\",\"sku\":\"s\",\"user\":\"u\"}";
    for bad in [
        "{",
        "}",
        "nonsense",
        "{\"op\":\"reserve\",}",
        "{\"op\":\"reserve\"} {}",
        "\"\\ud800\"",
        "{\"op\":\"\\ud800\"}",
        "[1,",
        "01",
    ] {
        let results = run_lines(&node, &format!("{bad}\n{good}")).await;
        expect_failed(&results[0], 400, "invalid_request", "cannot be read");
        assert_eq!(results[1]["status"], 201);
    }
    let mut client = node.client().await;
    let line = b"{\"op\":\"\xff\"}";
    client
        .send(format!(
            "POST {BATCH} HTTP/1.1\r\nhost: t\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            line.len()
        ))
        .await;
    client.send(line).await;
    let reply = client.reply().await;
    expect_failed(&reply.json(), 400, "invalid_request", "cannot be read");
}

#[tokio::test]
async fn a_bad_command_gets_its_own_answer_in_its_place() {
    let (node, _machine) = ready(100).await;
    let id = node.post("/v1/stocks/s/reservations", r#"{"user":"u"}"#).await.text("id");
    let long = "x".repeat(129);
    let of = |text: &str| -> Value { serde_json::from_str(&text.replace("ID", &id).replace("LONG", &long)).unwrap() };
    let rows = [
        ("5", 400, "invalid_request", "not a JSON object"),
        ("-5", 400, "invalid_request", "not a JSON object"),
        ("1.5", 400, "invalid_request", "not a JSON object"),
        ("null", 400, "invalid_request", "not a JSON object"),
        ("true", 400, "invalid_request", "not a JSON object"),
        ("\"reserve\"", 400, "invalid_request", "not a JSON object"),
        ("[\"reserve\",[1,{}]]", 400, "invalid_request", "not a JSON object"),
        ("{}", 400, "invalid_request", "`op` is missing"),
        (r#"{"op":null,"sku":"s","user":"u"}"#, 400, "invalid_request", "`op`"),
        (r#"{"op":7}"#, 400, "invalid_request", "`op` is a number where a string is needed"),
        (r#"{"op":"buy","sku":"s","user":"u"}"#, 400, "invalid_request", "one of reserve, confirm, release, return, extend"),
        (r#"{"op":"Reserve","sku":"s","user":"u"}"#, 400, "invalid_request", "`op` is"),
        (r#"{"op":"reserve","sku":"s"}"#, 400, "invalid_request", "`user` is missing"),
        (r#"{"op":"reserve","user":"u"}"#, 400, "invalid_request", "`sku` is missing"),
        (r#"{"op":"confirm"}"#, 400, "invalid_request", "`id` is missing"),
        (r#"{"op":"extend","id":"ID"}"#, 400, "invalid_request", "`hold_seconds` is missing"),
        (r#"{"op":"extend","id":"ID","hold_seconds":null}"#, 400, "invalid_request", "`hold_seconds` is null"),
        (r#"{"op":"confirm","id":null}"#, 400, "invalid_request", "`id` is null"),
        (r#"{"op":"reserve","sku":"s","user":"u","color":{"a":[1]}}"#, 400, "invalid_request", "`color` is not known"),
        (r#"{"op":"reserve","sku":"s","user":"u","id":"ID"}"#, 400, "invalid_request", "`id` is no field of reserve"),
        (r#"{"op":"confirm","id":"ID","hold_seconds":5}"#, 400, "invalid_request", "`hold_seconds` is no field of confirm"),
        (r#"{"op":"extend","id":"ID","hold_seconds":5,"quantity":1}"#, 400, "invalid_request", "`quantity` is no field of extend"),
        (r#"{"op":"reserve","sku":"s","user":{"a":1}}"#, 400, "invalid_request", "`user` is an object where a string"),
        (r#"{"op":"reserve","sku":"s","user":["u"]}"#, 400, "invalid_request", "`user` is an array"),
        (r#"{"op":"reserve","sku":7,"user":"u"}"#, 400, "invalid_request", "`sku` is a number"),
        (
            r#"{"op":"reserve","sku":"s","user":"u","quantity":"1"}"#,
            400,
            "invalid_request",
            "`quantity` is a string where a number",
        ),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":true}"#, 400, "invalid_request", "`quantity` is a boolean"),
        (r#"{"op":"reserve","sku":"","user":"u","quantity":"1"}"#, 400, "invalid_request", "`quantity`"),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":0}"#, 422, "invalid_quantity", "1 to 1000000000"),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":1.5}"#, 422, "invalid_quantity", "quantity is 1.5"),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":-1}"#, 422, "invalid_quantity", "quantity is -1"),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":1e30}"#, 422, "invalid_quantity", "quantity"),
        (r#"{"op":"reserve","sku":"s","user":"u","hold_seconds":0}"#, 422, "out_of_range", "hold_seconds is 0"),
        (r#"{"op":"reserve","sku":"s","user":"u","hold_seconds":3601}"#, 422, "out_of_range", "3600"),
        (r#"{"op":"reserve","sku":"a b","user":"u"}"#, 422, "invalid_identifier", "sku holds ' '"),
        (r#"{"op":"reserve","sku":"s","user":""}"#, 422, "invalid_identifier", "user has 0"),
        (r#"{"op":"reserve","sku":"s","user":"LONG"}"#, 422, "invalid_identifier", "user has 129"),
        (r#"{"op":"reserve","sku":"s","user":"u","reference":"a/b"}"#, 422, "invalid_identifier", "reference"),
        (r#"{"op":"reserve","sku":"s","user":"u","idempotency_key":"é"}"#, 422, "invalid_identifier", "idempotency_key"),
        (r#"{"op":"reserve","sku":"none","user":"u"}"#, 404, "unknown_sku", "sku"),
        (r#"{"op":"reserve","sku":"s","user":"u","quantity":100}"#, 409, "sold_out", "99 are available"),
        (r#"{"op":"confirm","id":"none"}"#, 404, "unknown_reservation", "id"),
        (r#"{"op":"confirm","id":"ID","quantity":2}"#, 422, "invalid_quantity", "quantity is 2"),
        (r#"{"op":"return","id":"ID"}"#, 409, "reservation_not_confirmed", "sold"),
        (r#"{"op":"extend","id":"ID","hold_seconds":3601}"#, 422, "out_of_range", "2027-01-15T09:00:01.000Z"),
    ];
    // A good one between any two.
    let good = json!({"op": "release", "id": id, "quantity": 1});
    let commands: Vec<Value> = rows.iter().map(|(command, ..)| of(command)).collect();
    let results = run(&node, &commands).await;
    for ((_, status, code, about), result) in rows.iter().zip(&results) {
        expect_failed(result, *status, code, about);
    }
    let lines = commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(run_lines(&node, &lines).await, results);
    let between = run(&node, &[json!(5), good, json!({"op": "confirm", "id": "none"})]).await;
    assert_eq!([&between[0]["status"], &between[1]["status"], &between[2]["status"]], [&json!(400), &json!(200), &json!(404)]);
    // A field that is there twice can only be written as text.
    let twice = run_lines(&node, r#"{"op":"reserve","sku":"s","user":"u","user":"v"}"#).await;
    expect_failed(&twice[0], 400, "invalid_request", "`user` is there more than once");
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_its_own_commands_affair() {
    let (node, _machine) = ready(100).await;
    let good = r#"{"op":"reserve","sku":"s","user":"u"}"#;
    let reserve = |fields: &str| format!(r#"{{"op":"reserve","sku":"s",{fields}}}"#);
    let (long, deep) = ("9".repeat(400), format!("{}{}", "[".repeat(200), "]".repeat(200)));
    for (bad, status, code, about) in [
        (reserve(r#""user":"\ud800""#), 400, "invalid_request", "cannot be read"),
        (reserve(r#""user":"u","\udc00":1"#), 400, "invalid_request", "cannot be read"),
        (reserve(r#""user":1e400"#), 400, "invalid_request", "cannot be read"),
        (reserve(r#""user":"u","quantity":"\ud800""#), 400, "invalid_request", "cannot be read"),
        (reserve(&format!(r#""user":{deep}"#)), 400, "invalid_request", "`user` is an array"),
        (r#""\ud800""#.to_owned(), 400, "invalid_request", "cannot be read"),
        ("1e400".to_owned(), 400, "invalid_request", "cannot be read"),
        (deep.clone(), 400, "invalid_request", "not a JSON object"),
        (reserve(r#""user":"u","quantity":1e400"#), 422, "invalid_quantity", "1 to 1000000000"),
        (reserve(r#""user":"u","quantity":-1e400"#), 422, "invalid_quantity", "1 to 1000000000"),
        (reserve(&format!(r#""user":"u","quantity":{long}"#)), 422, "invalid_quantity", "1 to 1000000000"),
        (reserve(r#""user":"u","hold_seconds":1e400"#), 422, "out_of_range", "hold_seconds"),
    ] {
        let document = node.post(BATCH, &format!(r#"{{"commands":[{good},{bad},{good}]}}"#)).await;
        assert_eq!(document.status, 200, "{bad}: {document:?}");
        let document = document.json()["results"].as_array().unwrap().clone();
        let lines = run_lines(&node, &format!("{good}\n{bad}\n{good}")).await;
        for results in [document, lines] {
            assert_eq!((results.len(), &results[0]["status"], &results[2]["status"]), (3, &json!(201), &json!(201)), "{bad}");
            expect_failed(&results[1], status, code, about);
        }
    }
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn what_is_no_batch_is_an_invalid_request_and_changes_nothing() {
    let (node, _machine) = ready(10).await;
    let good = r#"{"op":"reserve","sku":"s","user":"u"}"#;
    for (body, about) in [
        (String::new(), "empty"),
        ("[]".to_owned(), "not a JSON object"),
        ("[[]]".to_owned(), "not a JSON object"),
        ("null".to_owned(), "not a JSON object"),
        ("{}".to_owned(), "`commands`"),
        (r#"{"commands":{}}"#.to_owned(), "an array in `commands`"),
        (r#"{"commands":null}"#.to_owned(), "an array in `commands`"),
        (r#"{"commands":[]}"#.to_owned(), "1 to 10000"),
        (format!(r#"{{"commands":[{good}],"commands":[{good}]}}"#), "`commands`"),
        (format!(r#"{{"commands":[{good}],"atomic":true}}"#), "`atomic`"),
        (format!(r#"{{"commands":[{good},]}}"#), "trailing comma"),
        (format!(r#"{{"commands":[{good}"#), "EOF"),
        (format!(r#"{{"commands":[{good}]}} x"#), "trailing"),
        (format!(r#"{{"commands":[{good},{{"op":reserve}}]}}"#), "line 1"),
        (format!(r#"{{"commands":[{good},{{"op":"reserve","sku":"s","user":"u","quantity":01}}]}}"#), "line 1"),
        (format!(r#"{{"commands":[{good}],"\ud800":1}}"#), "line 1"),
        (format!(r#"{{"commands":[{}]}}"#, vec![good; 10_001].join(",")), "10000"),
    ] {
        node.post(BATCH, &body).await.expect_problem(400, "invalid_request", about);
    }
    for (lines, about) in [(String::new(), "none"), (" \n\r\n\n".to_owned(), "none"), (format!("{good}\n").repeat(10_001), "10001")]
    {
        node.ask("POST", BATCH, &NDJSON, &lines).await.expect_problem(400, "invalid_request", about);
    }
    for content_type in ["text/plain", "application/ndjson", "application/x-ndjsonx", ""] {
        let reply = node.ask("POST", BATCH, &[("content-type", content_type)], &format!(r#"{{"commands":[{good}]}}"#)).await;
        reply.expect_problem(415, "unsupported_media_type", "application/x-ndjson");
    }
    // Lines are for batches alone.
    let reply = node.ask("POST", "/v1/stocks/s/reservations", &NDJSON, r#"{"user":"u"}"#).await;
    reply.expect_problem(415, "unsupported_media_type", "application/json");
    assert_eq!(node.get("/v1/stocks/s").await.json()["available"], 10);
}

#[tokio::test]
async fn ten_thousand_commands_on_one_sku_are_decided_in_their_order() {
    let (node, _machine) = ready(6_000).await;
    let commands: Vec<Value> = (0..10_000).map(|user| json!({"op": "reserve", "sku": "s", "user": format!("u{user}")})).collect();
    let results = run(&node, &commands).await;
    for (place, result) in results.iter().enumerate() {
        if place < 6_000 {
            let reservation = &result["reservation"];
            assert_eq!(result["status"], 201, "{place}");
            assert_eq!((&reservation["sequence"], &reservation["user"]), (&json!(place + 1), &json!(format!("u{place}"))));
        } else {
            expect_failed(result, 409, "sold_out", "0 are available");
        }
    }
    let stock = node.get("/v1/stocks/s").await.json();
    assert_eq!((&stock["available"], &stock["reserved"]), (&json!(0), &json!(6_000)));
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_command_sees_what_those_before_it_did() {
    let (node, _machine) = ready(1).await;
    let id = node.post("/v1/stocks/s/reservations", r#"{"user":"a"}"#).await.text("id");
    let reserve = |user: &str| json!({"op": "reserve", "sku": "s", "user": user});
    let results = run(
        &node,
        &[reserve("b"), json!({"op": "release", "id": id}), reserve("c"), json!({"op": "confirm", "id": id}), reserve("d")],
    )
    .await;
    expect_failed(&results[0], 409, "sold_out", "0 are available");
    assert_eq!((&results[1]["status"], &results[2]["status"]), (&json!(200), &json!(201)));
    expect_failed(&results[3], 409, "reservation_released", "released");
    expect_failed(&results[4], 409, "sold_out", "0 are available");
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_repeated_command_is_replayed_in_the_batch_and_out_of_it() {
    let (node, _machine) = ready(10).await;
    let keyed = |key: &str, quantity: Value| json!({"op": "reserve", "sku": "s", "user": "u", "quantity": quantity, "idempotency_key": key});
    let commands = [keyed("k1", json!(2)), keyed("k1", json!(2.0)), keyed("k2", json!(1)), keyed("k2", json!(2))];
    let first = run(&node, &commands).await;
    assert_eq!((&first[0]["status"], &first[0]["replayed"]), (&json!(201), &Value::Null));
    assert_eq!((&first[1]["status"], &first[1]["replayed"]), (&json!(201), &json!(true)));
    assert_eq!(first[0]["reservation"]["id"], first[1]["reservation"]["id"]);
    expect_failed(&first[3], 422, "idempotency_key_reused", "values");
    let again = run(&node, &commands).await;
    assert_eq!([&again[0]["replayed"], &again[1]["replayed"], &again[2]["replayed"]], [&json!(true); 3]);
    let single = node.post_keyed("/v1/stocks/s/reservations", "k1", r#"{"user":"u","quantity":2}"#).await;
    assert_eq!((single.status, single.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(single.json()["id"], first[0]["reservation"]["id"]);
    let id = single.text("id");
    let confirm = json!({"op": "confirm", "id": id, "quantity": 1, "idempotency_key": "k3"});
    let results = run(&node, &[confirm.clone(), confirm]).await;
    assert_eq!((&results[0]["replayed"], &results[1]["replayed"]), (&Value::Null, &json!(true)));
    let stock = node.get("/v1/stocks/s").await.json();
    assert_eq!((&stock["available"], &stock["reserved"], &stock["sold"]), (&json!(7), &json!(2), &json!(1)));
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn every_keyed_command_is_done_once_however_often_it_is_repeated() {
    let (node, _machine) = ready(10).await;
    let reserved = node.post("/v1/stocks/s/reservations", r#"{"user":"u","quantity":6}"#).await;
    let id = reserved.text("id");
    node.post(&format!("/v1/reservations/{id}/confirm"), r#"{"quantity":3}"#).await;
    let commands = [
        json!({"op": "extend", "id": id, "hold_seconds": 900, "idempotency_key": "k1"}),
        json!({"op": "release", "id": id, "quantity": 1, "idempotency_key": "k2"}),
        json!({"op": "return", "id": id, "quantity": 2, "idempotency_key": "k3"}),
    ];
    for replayed in [Value::Null, json!(true), json!(true)] {
        for result in run(&node, &commands).await {
            assert_eq!((&result["status"], &result["replayed"]), (&json!(200), &replayed), "{result}");
        }
        let now = node.get(&format!("/v1/reservations/{id}")).await.json();
        let parts = ["reserved", "confirmed", "released", "returned"].map(|part| now[part].as_u64().unwrap());
        assert_eq!((parts, &now["expires_at"]), ([2, 1, 1, 2], &json!("2027-01-15T08:15:00.000Z")));
    }
    // The same key for the same operation with other values.
    let other = json!({"op": "release", "id": id, "quantity": 2, "idempotency_key": "k2"});
    expect_failed(&run(&node, &[other]).await[0], 422, "idempotency_key_reused", "values");
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_batch_may_be_larger_than_another_body_and_not_larger_than_its_limit() {
    let http = HttpOptions { body_bytes_max: 1_000, batch_body_bytes_max: 20_000, ..HttpOptions::default() };
    let (node, _machine) = node_with(http, EngineOptions::default()).await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    let body = r#"{"commands":[{"op":"reserve","sku":"s","user":"u"}]}"#;
    assert_eq!(node.post(BATCH, &format!("{body:20000}")).await.status, 200);
    let reply = node.post(BATCH, &format!("{body:20001}")).await;
    reply.expect_problem(413, "body_too_large", "20000 bytes");
    assert_eq!(reply.header("connection"), Some("close"));
    let lines = format!("{:20001}", r#"{"op":"reserve","sku":"s","user":"u"}"#);
    node.ask("POST", BATCH, &NDJSON, &lines).await.expect_problem(413, "body_too_large", "20000 bytes");
    let reply = node.post("/v1/stocks/s/reservations", &format!("{:1001}", r#"{"user":"u"}"#)).await;
    reply.expect_problem(413, "body_too_large", "1000 bytes");
    assert_eq!(node.get("/v1/stocks/s").await.json()["available"], 9);
}

#[tokio::test]
async fn commands_without_an_answer_in_time_are_timeout_and_may_have_happened() {
    let (node, machine) =
        node_with(HttpOptions { answer_seconds_max: 1, ..HttpOptions::default() }, EngineOptions::default()).await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    machine.log.hold();
    let keyed = json!({"op": "reserve", "sku": "s", "user": "u", "idempotency_key": "k"});
    let results = run(&node, &[keyed.clone(), json!(7), json!({"op": "confirm", "id": "none"})]).await;
    expect_failed(&results[0], 503, "timeout", "within 1 s");
    expect_failed(&results[1], 400, "invalid_request", "object");
    expect_failed(&results[2], 404, "unknown_reservation", "id");
    machine.log.release();
    let results = run(&node, &[keyed]).await;
    assert_eq!((&results[0]["status"], &results[0]["replayed"]), (&json!(201), &json!(true)));
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn commands_that_are_not_admitted_are_told_so_in_their_place() {
    let (node, machine) = ready(10).await;
    machine.disk_low.store(true, Ordering::SeqCst);
    let results = run(&node, &[json!({"op": "reserve", "sku": "s", "user": "u"}), json!({"op": "reserve", "sku": "s"})]).await;
    expect_failed(&results[0], 503, "overloaded", "disk");
    expect_failed(&results[1], 400, "invalid_request", "`user`");
    machine.disk_low.store(false, Ordering::SeqCst);
    machine.log.fail();
    let results = run(&node, &[json!({"op": "reserve", "sku": "s", "user": "u"})]).await;
    expect_failed(&results[0], 503, "stopping", "stopping");
}

#[tokio::test]
async fn a_batch_counts_though_its_client_has_left() {
    let (node, machine) = ready(10).await;
    machine.log.hold();
    let mut client = node.client().await;
    let body = r#"{"commands":[{"op":"reserve","sku":"s","user":"u"},{"op":"reserve","sku":"s","user":"v","quantity":2}]}"#;
    client.send(request("POST", BATCH, &[], body)).await;
    machine.log.wait_proposed(2).await;
    drop(client);
    machine.log.release();
    let counted = tokio::time::timeout(PATIENCE, async { while node.get("/v1/stocks/s").await.json()["reserved"] != 3 {} });
    counted.await.expect("the batch should count");
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn commands_on_many_stocks_are_answered_in_the_order_asked() {
    let (node, _machine) = node().await;
    for sku in 0..20 {
        node.put(&format!("/v1/stocks/s{sku}"), r#"{"quantity":3}"#).await;
    }
    let commands: Vec<Value> = (0..100)
        .map(|place| json!({"op": "reserve", "sku": format!("s{}", place % 20), "user": "u", "reference": format!("r{place}")}))
        .collect();
    let results = run(&node, &commands).await;
    for (place, result) in results.iter().enumerate() {
        if place < 60 {
            assert_eq!((&result["status"], &result["reservation"]["reference"]), (&json!(201), &json!(format!("r{place}"))));
        } else {
            expect_failed(result, 409, "sold_out", "0 are available");
        }
    }
    for sku in 0..20 {
        node.expect_conserved(&format!("s{sku}")).await;
    }
}
