//! Sold units that come back, and holds that last longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::json;
use support::*;

/// A stock `s` of ten, and the path of a reservation of `units` of it.
async fn reserved(node: &Node, units: u32) -> String {
    node.put("/v1/stocks/s", r#"{"quantity":10,"hold_seconds_max":1200}"#).await;
    let reply = node.post("/v1/stocks/s/reservations", &format!(r#"{{"user":"u","quantity":{units}}}"#)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.header("location").unwrap().to_owned()
}

#[tokio::test]
async fn a_returned_reservation_is_available_and_returned_again_is_the_same() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 4).await;
    node.post(&format!("{path}/return"), "").await.expect_problem(409, "reservation_not_confirmed", "sold");
    node.post(&format!("{path}/confirm"), "").await;
    for body in ["", "{}", r#"{"quantity":null}"#] {
        let reply = node.post(&format!("{path}/return"), body).await;
        assert_eq!(reply.status, 200);
        assert_eq!((&reply.json()["state"], &reply.json()["returned"]), (&json!("returned"), &json!(4)));
        assert_eq!(counts(&node).await, [10, 0, 0]);
    }
    node.post(&format!("{path}/return"), r#"{"quantity":1}"#).await.expect_problem(422, "invalid_quantity", "quantity is 1");
    node.post(&format!("{path}/confirm"), "").await.expect_problem(409, "reservation_returned", "returned");
    node.post(&format!("{path}/release"), "").await.expect_problem(409, "reservation_returned", "returned");
    node.post(&format!("{path}/extend"), r#"{"hold_seconds":1}"#).await.expect_problem(409, "reservation_returned", "returned");
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_part_of_what_is_sold_is_returned_by_its_quantity() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 6).await;
    node.post(&format!("{path}/confirm"), r#"{"quantity":4}"#).await;
    node.post(&format!("{path}/return"), r#"{"quantity":5}"#).await.expect_problem(422, "invalid_quantity", "4 units");
    let reply = node.post(&format!("{path}/return"), r#"{"quantity":1.0}"#).await.json();
    assert_eq!(
        (&reply["state"], &reply["reserved"], &reply["confirmed"], &reply["returned"]),
        (&json!("reserved"), &json!(2), &json!(3), &json!(1))
    );
    // Without a key each partial return is a change of its own.
    let reply = node.post(&format!("{path}/return"), r#"{"quantity":1}"#).await.json();
    assert_eq!((&reply["confirmed"], &reply["returned"]), (&json!(2), &json!(2)));
    assert_eq!(counts(&node).await, [6, 2, 2]);
    node.post(&format!("{path}/release"), "").await;
    let reply = node.post(&format!("{path}/return"), "").await.json();
    assert_eq!((&reply["state"], &reply["returned"], &reply["released"]), (&json!("returned"), &json!(4), &json!(2)));
    assert_eq!(counts(&node).await, [10, 0, 0]);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_return_repeated_with_its_key_is_done_once() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 6).await;
    node.post(&format!("{path}/confirm"), "").await;
    for replayed in [None, Some("true"), Some("true")] {
        let reply = node.post_keyed(&format!("{path}/return"), "k", r#"{"quantity":2}"#).await;
        assert_eq!((reply.status, reply.header("idempotency-replayed")), (200, replayed));
        assert_eq!(counts(&node).await, [6, 0, 4]);
    }
    let other = node.post_keyed(&format!("{path}/return"), "k", r#"{"quantity":3}"#).await;
    other.expect_problem(422, "idempotency_key_reused", "values");
    let other = node.post_keyed(&format!("{path}/return"), "k", "").await;
    other.expect_problem(422, "idempotency_key_reused", "values");
    assert_eq!(counts(&node).await, [6, 0, 4]);
}

#[tokio::test]
async fn a_hold_is_extended_from_now() {
    let (node, machine) = node().await;
    let path = reserved(&node, 1).await;
    machine.clock.set(START.plus_seconds(500));
    let reply = node.post(&format!("{path}/extend"), r#"{"hold_seconds":300}"#).await;
    assert_eq!((reply.status, reply.text("expires_at")), (200, "2027-01-15T08:13:20.000Z".to_owned()));
    assert_eq!(node.get(&path).await.text("expires_at"), "2027-01-15T08:13:20.000Z");
    machine.clock.set(START.plus_seconds(700));
    assert_eq!(node.get(&path).await.text("state"), "reserved");
    // It may become shorter, too.
    let reply = node.post(&format!("{path}/extend"), r#"{"hold_seconds":50}"#).await;
    assert_eq!(reply.text("expires_at"), "2027-01-15T08:12:30.000Z");
    machine.clock.set(START.plus_seconds(750));
    node.post(&format!("{path}/extend"), r#"{"hold_seconds":1}"#).await.expect_problem(409, "reservation_expired", "expired");
    node.post(&format!("{path}/confirm"), "").await.expect_problem(409, "reservation_expired", "expired");
    assert_eq!(counts(&node).await, [10, 0, 0]);
}

#[tokio::test]
async fn a_hold_is_extended_to_its_maximum_and_no_further() {
    let (node, machine) = node().await;
    let path = reserved(&node, 1).await;
    machine.clock.set(START.plus_seconds(100));
    let extend = async |seconds: u32| node.post(&format!("{path}/extend"), &format!(r#"{{"hold_seconds":{seconds}}}"#)).await;
    extend(1_101).await.expect_problem(422, "out_of_range", "2027-01-15T08:20:01.000Z");
    assert_eq!(extend(1_100).await.text("expires_at"), "2027-01-15T08:20:00.000Z");
}

#[tokio::test]
async fn an_extension_repeated_with_its_key_is_done_once() {
    let (node, machine) = node().await;
    let path = reserved(&node, 1).await;
    let extend = async |body: &str| node.post_keyed(&format!("{path}/extend"), "k", body).await;
    let first = extend(r#"{"hold_seconds":700}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    machine.clock.set(START.plus_seconds(60));
    let again = extend(r#"{"hold_seconds":7e2}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.text("expires_at"), first.text("expires_at"));
    extend(r#"{"hold_seconds":701}"#).await.expect_problem(422, "idempotency_key_reused", "values");
    let unkeyed = node.post(&format!("{path}/extend"), r#"{"hold_seconds":700}"#).await;
    assert_eq!(unkeyed.text("expires_at"), "2027-01-15T08:12:40.000Z");
}

#[tokio::test]
async fn what_is_not_held_cannot_be_extended() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 1).await;
    node.post(&format!("{path}/confirm"), "").await;
    let extend = async |path: &str| node.post(&format!("{path}/extend"), r#"{"hold_seconds":60}"#).await;
    extend(&path).await.expect_problem(409, "reservation_confirmed", "confirmed");
    let path = node.post("/v1/stocks/s/reservations", r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    node.post(&format!("{path}/release"), "").await;
    extend(&path).await.expect_problem(409, "reservation_released", "released");
}

#[tokio::test]
async fn bodies_of_return_and_extend_are_strict() {
    let (node, _machine) = node().await;
    let path = reserved(&node, 2).await;
    let before = node.get(&path).await.json();
    for (body, about) in [
        ("", "empty"),
        ("{}", "`hold_seconds`"),
        (r#"{"hold_seconds":null}"#, "a number in `hold_seconds`"),
        (r#"{"hold_seconds":"60"}"#, "a number in `hold_seconds`"),
        (r#"{"hold_seconds":60,"quantity":1}"#, "`quantity`"),
    ] {
        node.post(&format!("{path}/extend"), body).await.expect_problem(400, "invalid_request", about);
    }
    for given in ["0", "-1", "1.5", "31536001", "1e20"] {
        let body = format!(r#"{{"hold_seconds":{given}}}"#);
        node.post(&format!("{path}/extend"), &body).await.expect_problem(422, "out_of_range", "1 to 31536000");
    }
    for (body, about) in [("[]", "JSON object"), (r#"{"units":1}"#, "`units`"), (r#"{"quantity":"1"}"#, "a number in `quantity`")] {
        node.post(&format!("{path}/return"), body).await.expect_problem(400, "invalid_request", about);
    }
    node.post(&format!("{path}/return"), r#"{"quantity":0}"#).await.expect_problem(422, "invalid_quantity", "quantity is 0");
    for verb in ["return", "extend"] {
        let unknown = node.post(&format!("/v1/reservations/none/{verb}"), r#"{"hold_seconds":60}"#).await;
        assert_eq!(unknown.status, if verb == "extend" { 404 } else { 400 });
        let key =
            node.post_keyed(&format!("{path}/{verb}"), "a b", if verb == "extend" { r#"{"hold_seconds":60}"# } else { "" }).await;
        key.expect_problem(422, "invalid_identifier", "idempotency-key");
    }
    node.post("/v1/reservations/none/return", "").await.expect_problem(404, "unknown_reservation", "id");
    assert_eq!(node.get(&path).await.json(), before);
}
