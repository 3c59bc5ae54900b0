//! The documented rows of the calls on reservations.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::json;
use support::*;

/// Opens stock `s` of `quantity` units and reserves `units` of them for user `u`. Returns the reservation's path.
async fn reserved(node: &Node, quantity: u32, units: u32) -> String {
    node.put("/v1/stocks/s", &format!(r#"{{"quantity":{quantity}}}"#)).await;
    let reply = node.post("/v1/stocks/s/reservations", &format!(r#"{{"user":"u","quantity":{units}}}"#)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.header("location").unwrap().to_owned()
}

#[tokio::test]
async fn a_reservation_is_granted_with_the_documented_defaults() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    let reply = node.post("/v1/stocks/s/reservations", r#"{"user":"u1"}"#).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("idempotency-replayed"), None);
    let id = reply.text("id");
    assert!((1..=64).contains(&id.len()), "{id}");
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:~-".contains(&byte)), "{id}");
    assert_eq!(reply.header("location").unwrap(), format!("/v1/reservations/{id}"));
    let expect = json!({
        "id": id, "sku": "s", "user": "u1", "quantity": 1, "reserved": 1, "confirmed": 0, "released": 0, "returned": 0,
        "state": "reserved", "sequence": 1, "reference": null, "reserved_at": "2027-01-15T08:00:00.000Z",
        "expires_at": "2027-01-15T08:10:00.000Z", "resolved_at": null,
    });
    assert_eq!(reply.json(), expect);
    let read = node.get(reply.header("location").unwrap()).await;
    assert_eq!((read.status, read.json()), (200, expect));
    assert_eq!(counts(&node).await, [9, 1, 0]);
}

#[tokio::test]
async fn a_reservation_is_granted_with_every_field() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    let body = r#"{"user":"u1","quantity":3,"hold_seconds":3600,"reference":"order-7"}"#;
    let reply = node.post("/v1/stocks/s/reservations", body).await.json();
    assert_eq!((&reply["quantity"], &reply["reserved"]), (&json!(3), &json!(3)));
    assert_eq!(reply["reference"], "order-7");
    assert_eq!(reply["expires_at"], "2027-01-15T09:00:00.000Z");
    let next = node.post("/v1/stocks/s/reservations", r#"{"user":"u1"}"#).await.json();
    assert_eq!(next["sequence"], 2);
}

#[tokio::test]
async fn a_reservation_that_cannot_be_granted_says_why() {
    let (node, _machine) = node().await;
    node.post("/v1/stocks/none/reservations", r#"{"user":"u"}"#).await.expect_problem(404, "unknown_sku", "sku");
    node.put("/v1/stocks/s", r#"{"quantity":3,"per_user_limit":2,"hold_seconds_max":900}"#).await;
    let reserve = async |body: &str| node.post("/v1/stocks/s/reservations", body).await;
    reserve(r#"{"user":"u","hold_seconds":901}"#).await.expect_problem(422, "out_of_range", "901");
    reserve(r#"{"user":"u","quantity":3}"#).await.expect_problem(409, "limit_reached", "limit is 2");
    assert_eq!(reserve(r#"{"user":"u","quantity":2}"#).await.status, 201);
    reserve(r#"{"user":"v","quantity":2}"#).await.expect_problem(409, "sold_out", "1 are available");
    reserve(r#"{"user":"u","quantity":2}"#).await.expect_problem(409, "limit_reached", "has 2 units");
    assert_eq!(counts(&node).await, [1, 2, 0]);
}

#[tokio::test]
async fn an_id_that_was_never_given_is_404_in_every_call() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 1, 1).await;
    let mut forged = path.clone();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.push(last);
    for path in ["/v1/reservations/x", "/v1/reservations/%ff", "/v1/reservations/a%20b", &forged] {
        node.get(path).await.expect_problem(404, "unknown_reservation", "id");
        node.post(&format!("{path}/confirm"), "").await.expect_problem(404, "unknown_reservation", "id");
        node.post(&format!("{path}/release"), "").await.expect_problem(404, "unknown_reservation", "id");
        node.post(&format!("{path}/return"), "").await.expect_problem(404, "unknown_reservation", "id");
        node.post(&format!("{path}/extend"), r#"{"hold_seconds":60}"#).await.expect_problem(404, "unknown_reservation", "id");
    }
    let id = forged.rsplit('/').next().unwrap();
    let extend = json!({"op": "extend", "id": id, "hold_seconds": 60});
    let commands: Vec<_> =
        ["confirm", "release", "return"].map(|op| json!({"op": op, "id": id})).into_iter().chain([extend]).collect();
    let results = node.post("/v1/batch", &json!({ "commands": commands }).to_string()).await.json();
    for result in results["results"].as_array().unwrap() {
        assert_eq!((&result["status"], &result["code"]), (&json!(404), &json!("unknown_reservation")), "{results}");
    }
    assert_eq!(node.get(&path).await.status, 200);
}

#[tokio::test]
async fn a_confirmed_reservation_is_sold_and_confirmed_again_is_the_same() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 5, 2).await;
    for _ in 0..2 {
        let reply = node.post(&format!("{path}/confirm"), "").await;
        assert_eq!(reply.status, 200);
        let json = reply.json();
        assert_eq!((&json["state"], &json["confirmed"], &json["reserved"]), (&json!("confirmed"), &json!(2), &json!(0)));
        assert_eq!(json["resolved_at"], "2027-01-15T08:00:00.000Z");
        assert_eq!(counts(&node).await, [3, 0, 2]);
    }
    node.post(&format!("{path}/release"), "").await.expect_problem(409, "reservation_confirmed", "confirmed");
}

#[tokio::test]
async fn a_released_reservation_is_available_and_released_again_is_the_same() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 5, 2).await;
    for _ in 0..2 {
        let reply = node.post(&format!("{path}/release"), "{}").await;
        assert_eq!(reply.status, 200);
        assert_eq!((&reply.json()["state"], &reply.json()["released"]), (&json!("released"), &json!(2)));
        assert_eq!(counts(&node).await, [5, 0, 0]);
    }
    node.post(&format!("{path}/confirm"), "").await.expect_problem(409, "reservation_released", "released");
}

#[tokio::test]
async fn an_expired_reservation_cannot_be_confirmed_and_may_be_released() {
    let (node, machine) = node().await;
    let path = reserved(&node, 5, 2).await;
    machine.clock.set(START.plus_seconds(600));
    node.post(&format!("{path}/confirm"), "").await.expect_problem(409, "reservation_expired", "expired");
    let reply = node.post(&format!("{path}/release"), "").await;
    assert_eq!((reply.status, reply.text("state")), (200, "expired".to_owned()));
    assert_eq!(node.get(&path).await.text("state"), "expired");
    assert_eq!(counts(&node).await, [5, 0, 0]);
}

#[tokio::test]
async fn a_part_of_a_reservation_is_confirmed_or_released_by_its_quantity() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 10, 5).await;
    node.post(&format!("{path}/confirm"), r#"{"quantity":6}"#).await.expect_problem(422, "invalid_quantity", "quantity is 6");
    let reply = node.post(&format!("{path}/confirm"), r#"{"quantity":2}"#).await.json();
    assert_eq!((&reply["state"], &reply["reserved"], &reply["confirmed"]), (&json!("reserved"), &json!(3), &json!(2)));
    let reply = node.post(&format!("{path}/release"), r#"{"quantity":1.0}"#).await.json();
    assert_eq!((&reply["reserved"], &reply["released"]), (&json!(2), &json!(1)));
    let reply = node.post(&format!("{path}/release"), r#"{"quantity":null}"#).await.json();
    assert_eq!((&reply["state"], &reply["released"]), (&json!("confirmed"), &json!(3)));
    assert_eq!(counts(&node).await, [8, 0, 2]);
}

#[tokio::test]
async fn a_call_repeated_with_its_key_gets_the_first_answer_as_it_stands_now() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    let first = node.post_keyed("/v1/stocks/s/reservations", "k1", r#"{"user":"u"}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    let path = first.header("location").unwrap().to_owned();

    let confirmed = node.post_keyed(&format!("{path}/confirm"), "k2", "").await;
    assert_eq!((confirmed.status, confirmed.header("idempotency-replayed")), (200, None));
    // The same values in other words are the same call.
    let again = node.post_keyed("/v1/stocks/s/reservations", "k1", r#"{ "quantity": 1.0, "user": "u", "reference": null }"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(again.header("location"), Some(path.as_str()));
    assert_eq!(again.text("state"), "confirmed");
    let again = node.post_keyed(&format!("{path}/confirm"), "k2", "").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(counts(&node).await, [9, 0, 1]);

    let other = node.post_keyed("/v1/stocks/s/reservations", "k1", r#"{"user":"u","quantity":2}"#).await;
    other.expect_problem(422, "idempotency_key_reused", "other values");
    let other = node.post_keyed(&format!("{path}/release"), "k2", "").await;
    other.expect_problem(422, "idempotency_key_reused", "other operation");
}

#[tokio::test]
async fn a_rejected_call_may_be_tried_again_with_its_key() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 1, 1).await;
    let reserve = async || node.post_keyed("/v1/stocks/s/reservations", "k", r#"{"user":"v"}"#).await;
    reserve().await.expect_problem(409, "sold_out", "0 are available");
    node.post(&format!("{path}/release"), "").await;
    let granted = reserve().await;
    assert_eq!((granted.status, granted.header("idempotency-replayed")), (201, None));
}

#[tokio::test]
async fn a_repeat_while_the_first_is_in_flight_waits_for_its_answer() {
    let (node, machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    machine.log.hold();
    let call = request("POST", "/v1/stocks/s/reservations", &[("idempotency-key", "k")], r#"{"user":"u"}"#);
    let (mut first, mut second) = (node.client().await, node.client().await);
    first.send(&call).await;
    machine.log.wait_proposed(2).await;
    second.send(&call).await;
    machine.log.release();
    let (first, second) = (first.reply().await, second.reply().await);
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    assert_eq!((second.status, second.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(first.text("id"), second.text("id"));
    assert_eq!(counts(&node).await, [9, 1, 0]);
}

#[tokio::test]
async fn a_key_outside_the_alphabet_is_named() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":10}"#).await;
    for (key, about) in [("", "0 characters"), ("a b", "' '"), ("\"k\"", "'\"'"), ("é", "idempotency-key")] {
        let reply = node.post_keyed("/v1/stocks/s/reservations", key, r#"{"user":"u"}"#).await;
        reply.expect_problem(422, "invalid_identifier", about);
        reply.expect_problem(422, "invalid_identifier", "idempotency-key");
    }
    let long = node.post_keyed("/v1/stocks/s/reservations", &"k".repeat(129), r#"{"user":"u"}"#).await;
    long.expect_problem(422, "invalid_identifier", "129");
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let twice = node.ask("POST", "/v1/stocks/s/reservations", &twice, r#"{"user":"u"}"#).await;
    twice.expect_problem(422, "invalid_identifier", "more than once");
    assert_eq!(counts(&node).await, [10, 0, 0]);
}

#[tokio::test]
async fn everything_may_be_as_long_and_as_large_as_its_bound() {
    let (node, _machine) = node().await;
    let settings = r#"{"quantity":1000000000,"hold_seconds_max":31536000}"#;
    assert_eq!(node.put("/v1/stocks/s", settings).await.status, 201);
    let longest = "x".repeat(128);
    let body = format!(r#"{{"user":"{longest}","quantity":999999999,"hold_seconds":31536000,"reference":"{longest}"}}"#);
    let reply = node.post_keyed("/v1/stocks/s/reservations", &longest, &body).await;
    assert_eq!((reply.status, reply.text("user"), reply.text("reference")), (201, longest.clone(), longest.clone()));
    assert_eq!(reply.text("expires_at"), "2028-01-15T08:00:00.000Z");
    let again = node.post_keyed("/v1/stocks/s/reservations", &longest, &body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    let shortest = node.post("/v1/stocks/s/reservations", r#"{"user":"u","hold_seconds":1}"#).await;
    assert_eq!((shortest.status, shortest.text("expires_at")), (201, "2027-01-15T08:00:01.000Z".to_owned()));
    assert_eq!(counts(&node).await, [0, 1_000_000_000, 0]);

    node.put("/v1/stocks/whole", settings).await;
    let whole = node.post("/v1/stocks/whole/reservations", r#"{"user":"u","quantity":1000000000}"#).await;
    assert_eq!((whole.status, &whole.json()["reserved"]), (201, &json!(1_000_000_000)));
}

#[tokio::test]
async fn a_release_repeated_with_its_key_is_done_once() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 10, 6).await;
    for replayed in [None, Some("true"), Some("true")] {
        let reply = node.post_keyed(&format!("{path}/release"), "part", r#"{"quantity":2}"#).await;
        assert_eq!((reply.status, reply.header("idempotency-replayed")), (200, replayed));
        assert_eq!(counts(&node).await, [6, 4, 0]);
    }
    let other = node.post_keyed(&format!("{path}/release"), "part", r#"{"quantity":3}"#).await;
    other.expect_problem(422, "idempotency_key_reused", "values");
    let more = node.post(&format!("{path}/release"), r#"{"quantity":5}"#).await;
    more.expect_problem(422, "invalid_quantity", "quantity is 5");
    assert_eq!(counts(&node).await, [6, 4, 0]);
    for replayed in [None, Some("true")] {
        let reply = node.post_keyed(&format!("{path}/release"), "rest", "").await;
        assert_eq!((reply.status, reply.text("state")), (200, "released".to_owned()));
        assert_eq!(reply.header("idempotency-replayed"), replayed);
        assert_eq!(counts(&node).await, [10, 0, 0]);
    }
}

#[tokio::test]
async fn the_limit_counts_what_a_user_holds_and_has_bought_and_nothing_that_came_back() {
    let (node, machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":100,"per_user_limit":2}"#).await;
    let reserve =
        async |quantity: u32| node.post("/v1/stocks/s/reservations", &format!(r#"{{"user":"u","quantity":{quantity}}}"#)).await;
    let path = |reply: &Reply| reply.header("location").unwrap().to_owned();
    let full = async || reserve(1).await.expect_problem(409, "limit_reached", "has 2 units");

    let released = path(&reserve(2).await);
    full().await;
    node.post(&format!("{released}/release"), r#"{"quantity":1}"#).await;
    let one = path(&reserve(1).await);
    full().await;
    // Sold units count as held ones do.
    assert_eq!(node.post(&format!("{one}/confirm"), "").await.status, 200);
    full().await;
    // What expires comes back, what is sold does not.
    machine.clock.set(START.plus_seconds(600));
    assert_eq!(node.get(&released).await.text("state"), "expired");
    reserve(2).await.expect_problem(409, "limit_reached", "has 1 units");
    let two = path(&reserve(1).await);
    full().await;
    assert_eq!(node.post(&format!("{one}/return"), "").await.status, 200);
    let three = path(&reserve(1).await);
    full().await;
    assert!(two != three && counts(&node).await == [98, 2, 0]);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn of_several_reasons_the_first_of_their_order_is_told() {
    let (node, machine) = node().await;
    let opens = r#"{"quantity":1,"per_user_limit":1,"opens_at":"2027-01-15T08:00:01Z"}"#;
    assert_eq!(node.put("/v1/stocks/s", opens).await.text("state"), "scheduled");
    // More than the limit, and more than there is.
    let reserve = async || node.post("/v1/stocks/s/reservations", r#"{"user":"u","quantity":2}"#).await;
    assert_eq!(node.post("/v1/stocks/s/pause", "").await.text("state"), "paused");
    reserve().await.expect_problem(409, "paused", "paused");
    assert_eq!(node.post("/v1/stocks/s/reopen", "").await.text("state"), "scheduled");
    reserve().await.expect_problem(409, "not_open", "2027-01-15T08:00:01.000Z");
    machine.clock.set(START.plus_seconds(1));
    reserve().await.expect_problem(409, "limit_reached", "limit is 1");
    assert_eq!(node.patch("/v1/stocks/s", r#"{"per_user_limit":null}"#).await.status, 200);
    reserve().await.expect_problem(409, "sold_out", "1 are available");
    assert_eq!(node.post("/v1/stocks/s/pause", "").await.status, 200);
    assert_eq!(node.post("/v1/stocks/s/close", "").await.text("state"), "closed");
    reserve().await.expect_problem(409, "closed", "over");
}
