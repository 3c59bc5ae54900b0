//! What happens to a stock after it is open: its settings, its adjustments, its life.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::json;
use support::*;

const STOCK: &str = "/v1/stocks/s";
const ADJUST: &str = "/v1/stocks/s/adjustments";
const RESERVE: &str = "/v1/stocks/s/reservations";

async fn ready() -> (Node, Machine) {
    let (node, machine) = node().await;
    assert_eq!(node.put(STOCK, r#"{"quantity":10,"per_user_limit":5}"#).await.status, 201);
    (node, machine)
}

/// `allotted`, `available`, `reserved` and `sold`.
async fn counts(node: &Node) -> [u64; 4] {
    let stock = node.get(STOCK).await.json();
    ["allotted", "available", "reserved", "sold"].map(|field| stock[field].as_u64().unwrap())
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_leaves_the_rest() {
    let (node, _machine) = ready().await;
    let before = node.get(STOCK).await;
    let body = r#"{"per_user_limit":2,"hold_seconds":60,"hold_seconds_max":900,"opens_at":"2027-01-15T07:00:00Z","closes_at":"2027-01-16T00:00:00Z"}"#;
    let changed = node.patch(STOCK, body).await;
    assert_eq!(changed.status, 200);
    let stock = changed.json();
    assert_eq!(
        (&stock["per_user_limit"], &stock["hold_seconds"], &stock["hold_seconds_max"], &stock["opens_at"], &stock["closes_at"]),
        (&json!(2), &json!(60), &json!(900), &json!("2027-01-15T07:00:00.000Z"), &json!("2027-01-16T00:00:00.000Z"))
    );
    assert_eq!((&stock["allotted"], &stock["state"]), (&json!(10), &json!("open")));
    assert_ne!(changed.header("etag"), before.header("etag"));
    assert_eq!(node.get(STOCK).await.header("etag"), changed.header("etag"));

    let stock = node.patch(STOCK, r#"{"hold_seconds":120.0}"#).await.json();
    assert_eq!((&stock["hold_seconds"], &stock["per_user_limit"]), (&json!(120), &json!(2)));
    // What is granted from now on follows the new settings.
    let reservation = node.post(RESERVE, r#"{"user":"u"}"#).await.json();
    assert_eq!(reservation["expires_at"], "2027-01-15T08:02:00.000Z");
    node.post(RESERVE, r#"{"user":"u","quantity":2}"#).await.expect_problem(409, "limit_reached", "limit is 2");
}

#[tokio::test]
async fn null_takes_an_optional_setting_away() {
    let (node, _machine) = ready().await;
    node.patch(STOCK, r#"{"opens_at":"2027-01-15T07:00:00Z","closes_at":"2027-01-16T00:00:00Z"}"#).await;
    let stock = node.patch(STOCK, r#"{"per_user_limit":null,"opens_at":null,"closes_at":null}"#).await.json();
    assert_eq!((&stock["per_user_limit"], &stock["opens_at"], &stock["closes_at"]), (&json!(null), &json!(null), &json!(null)));
    assert_eq!(node.post(RESERVE, r#"{"user":"u","quantity":10}"#).await.status, 201);
}

#[tokio::test]
async fn an_empty_patch_changes_nothing() {
    let (node, _machine) = ready().await;
    let before = node.get(STOCK).await;
    let reply = node.patch(STOCK, "{}").await;
    assert_eq!((reply.status, reply.header("etag")), (200, before.header("etag")));
    // Nor does one that names what is so already.
    let reply = node.patch(STOCK, r#"{"per_user_limit":5,"opens_at":null}"#).await;
    assert_eq!((reply.status, reply.header("etag")), (200, before.header("etag")));
}

#[tokio::test]
async fn a_patch_that_is_wrong_changes_nothing_and_names_the_field() {
    let (node, _machine) = ready().await;
    let before = node.get(STOCK).await;
    for (body, about) in [
        ("", "empty"),
        ("[]", "not a JSON object"),
        (r#"{"quantity":5}"#, "`quantity`"),
        (r#"{"hold_seconds":null}"#, "a number in `hold_seconds`"),
        (r#"{"hold_seconds_max":null}"#, "a number in `hold_seconds_max`"),
        (r#"{"per_user_limit":"5"}"#, "a number in `per_user_limit`"),
        (r#"{"opens_at":7}"#, "a string in `opens_at`"),
        (r#"{"closes_at":"soon"}"#, "`closes_at`"),
        (r#"{"hold_seconds":1,"hold_seconds":2}"#, "`hold_seconds`"),
    ] {
        node.patch(STOCK, body).await.expect_problem(400, "invalid_request", about);
    }
    for (body, about) in [
        (r#"{"per_user_limit":0}"#, "per_user_limit is 0"),
        (r#"{"per_user_limit":1000000001}"#, "1 to 1000000000"),
        (r#"{"hold_seconds":0}"#, "hold_seconds is 0"),
        (r#"{"hold_seconds":1.5}"#, "hold_seconds is 1.5"),
        (r#"{"hold_seconds":-5}"#, "hold_seconds is -5"),
        (r#"{"hold_seconds_max":31536001}"#, "31536001"),
        (r#"{"hold_seconds":3601}"#, "hold_seconds is 3601 where hold_seconds_max is 3600"),
        (r#"{"hold_seconds_max":599}"#, "hold_seconds is 600 where hold_seconds_max is 599"),
        (r#"{"opens_at":"1960-01-01T00:00:00Z"}"#, "opens_at"),
        (r#"{"opens_at":"2027-01-15T08:00:01Z","closes_at":"2027-01-15T08:00:00Z"}"#, "opens_at is 2027-01-15T08:00:01.000Z"),
    ] {
        node.patch(STOCK, body).await.expect_problem(422, "out_of_range", about);
    }
    let after = node.get(STOCK).await;
    assert_eq!((after.json(), after.header("etag")), (before.json(), before.header("etag")));
    node.patch("/v1/stocks/none", "{}").await.expect_problem(404, "unknown_sku", "sku");
    node.patch("/v1/stocks/a%20b", "{}").await.expect_problem(422, "invalid_identifier", "sku");
    let typed = node.ask("PATCH", STOCK, &[("content-type", "text/plain")], "{}").await;
    typed.expect_problem(415, "unsupported_media_type", "application/json");
    assert_eq!(node.ask("PATCH", STOCK, &[("content-type", "application/merge-patch+json")], "{}").await.status, 200);
}

#[tokio::test]
async fn a_window_is_checked_against_what_the_stock_has() {
    let (node, _machine) = ready().await;
    node.patch(STOCK, r#"{"closes_at":"2027-01-15T09:00:00Z"}"#).await;
    let reply = node.patch(STOCK, r#"{"opens_at":"2027-01-15T09:00:00Z"}"#).await;
    reply.expect_problem(422, "out_of_range", "closes_at is 2027-01-15T09:00:00.000Z");
}

#[tokio::test]
async fn a_patch_with_if_match_is_done_only_to_the_version_that_it_names() {
    let (node, _machine) = ready().await;
    let patch = async |if_match: &str, body: &str| node.ask("PATCH", STOCK, &[("if-match", if_match)], body).await;
    let first = node.get(STOCK).await.header("etag").unwrap().to_owned();
    let second = patch(&first, r#"{"per_user_limit":4}"#).await;
    assert_eq!(second.status, 200);
    let second = second.header("etag").unwrap().to_owned();

    patch(&first, r#"{"per_user_limit":3}"#).await.expect_problem(412, "precondition_failed", "changed");
    patch("\"other\"", r#"{"per_user_limit":3}"#).await.expect_problem(412, "precondition_failed", "changed");
    patch(&format!("W/{second}"), r#"{"per_user_limit":3}"#).await.expect_problem(412, "precondition_failed", "changed");
    assert_eq!(node.get(STOCK).await.json()["per_user_limit"], 4);

    assert_eq!(patch(&format!("{first}, \"x\" ,{second}"), r#"{"per_user_limit":3}"#).await.status, 200);
    assert_eq!(patch("*", r#"{"per_user_limit":2}"#).await.status, 200);
    let now = node.get(STOCK).await.header("etag").unwrap().to_owned();
    let lines = [("if-match", first.as_str()), ("if-match", now.as_str())];
    assert_eq!(node.ask("PATCH", STOCK, &lines, r#"{"per_user_limit":1}"#).await.status, 200);
    for malformed in ["", ",", "1f", "\"1", "*, \"1\"", "W/1"] {
        patch(malformed, "{}").await.expect_problem(400, "invalid_request", "if-match");
    }
    let unknown = node.ask("PATCH", "/v1/stocks/none", &[("if-match", "*")], "{}").await;
    unknown.expect_problem(404, "unknown_sku", "sku");
    // A sale is no new version.
    let now = node.get(STOCK).await.header("etag").unwrap().to_owned();
    assert_eq!(node.post(RESERVE, r#"{"user":"u"}"#).await.status, 201);
    assert_eq!(patch(&now, r#"{"per_user_limit":7}"#).await.status, 200);
}

#[tokio::test]
async fn an_adjustment_changes_what_is_allotted_and_available() {
    let (node, _machine) = ready().await;
    node.post(RESERVE, r#"{"user":"u","quantity":4}"#).await;
    let reply = node.post(ADJUST, r#"{"delta":-5,"reason":"damaged"}"#).await;
    assert_eq!(reply.status, 200);
    assert_eq!((&reply.json()["allotted"], &reply.json()["available"]), (&json!(5), &json!(1)));
    assert_eq!(counts(&node).await, [5, 1, 4, 0]);
    let reply = node.post(ADJUST, r#"{"delta":1e9,"reason":"nachgeliefert: Größe 42"}"#).await;
    assert_eq!(reply.status, 200);
    assert_eq!(counts(&node).await, [1_000_000_005, 1_000_000_001, 4, 0]);
    // Without a key each call is a change of its own.
    assert_eq!(node.post(ADJUST, r#"{"delta":-1.0,"reason":"x"}"#).await.status, 200);
    assert_eq!(node.post(ADJUST, r#"{"delta":-1.0,"reason":"x"}"#).await.status, 200);
    assert_eq!(counts(&node).await, [1_000_000_003, 999_999_999, 4, 0]);
}

#[tokio::test]
async fn an_adjustment_repeated_with_its_key_is_done_once() {
    let (node, _machine) = ready().await;
    let first = node.post_keyed(ADJUST, "k", r#"{"delta":3,"reason":"found"}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    node.post(RESERVE, r#"{"user":"u"}"#).await;
    let again = node.post_keyed(ADJUST, "k", r#"{"reason":"found","delta":3.0}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.json()["available"], 12, "the stock is shown as it stands now");
    node.post_keyed(ADJUST, "k", r#"{"delta":4,"reason":"found"}"#).await.expect_problem(422, "idempotency_key_reused", "values");
    node.post_keyed(ADJUST, "k", r#"{"delta":3,"reason":"lost"}"#).await.expect_problem(422, "idempotency_key_reused", "values");
    node.post_keyed(RESERVE, "k", r#"{"user":"u"}"#).await.expect_problem(422, "idempotency_key_reused", "operation");
    assert_eq!(counts(&node).await, [13, 12, 1, 0]);
}

#[tokio::test]
async fn an_adjustment_that_cannot_be_is_told_why() {
    let (node, _machine) = ready().await;
    for (body, about) in [
        ("", "empty"),
        (r#"{"delta":1}"#, "`reason`"),
        (r#"{"reason":"x"}"#, "`delta`"),
        (r#"{"delta":"1","reason":"x"}"#, "a number in `delta`"),
        (r#"{"delta":null,"reason":"x"}"#, "a number in `delta`"),
        (r#"{"delta":1,"reason":7}"#, "a string in `reason`"),
        (r#"{"delta":1,"reason":null}"#, "a string in `reason`"),
        (r#"{"delta":1,"reason":"x","sku":"s"}"#, "`sku`"),
    ] {
        node.post(ADJUST, body).await.expect_problem(400, "invalid_request", about);
    }
    for delta in
        ["0", "0.0", "-0", "1.5", "-1.5", "1000000001", "-1000000001", "1e300", "-9223372036854775808", "18446744073709551615"]
    {
        let body = format!(r#"{{"delta":{delta},"reason":"x"}}"#);
        node.post(ADJUST, &body).await.expect_problem(422, "invalid_quantity", "-1000000000 to 1000000000");
    }
    let long = "x".repeat(257);
    for (reason, about) in
        [("", "0 bytes"), (&*long, "257 bytes"), ("a\\nb", "control character"), ("\\u0000", "control character")]
    {
        let body = format!(r#"{{"delta":1,"reason":"{reason}"}}"#);
        node.post(ADJUST, &body).await.expect_problem(422, "out_of_range", about);
    }
    node.post(ADJUST, r#"{"delta":-11,"reason":"x"}"#).await.expect_problem(409, "insufficient_stock", "10 units are available");
    node.post("/v1/stocks/none/adjustments", r#"{"delta":1,"reason":"x"}"#).await.expect_problem(404, "unknown_sku", "sku");
    let key = node.post_keyed(ADJUST, "a b", r#"{"delta":1,"reason":"x"}"#).await;
    key.expect_problem(422, "invalid_identifier", "idempotency-key");
    assert_eq!(counts(&node).await, [10, 10, 0, 0]);
}

#[tokio::test]
async fn a_stock_is_given_a_trillion_units_at_most() {
    let (node, _machine) = node().await;
    node.put(STOCK, r#"{"quantity":1000000000}"#).await;
    for _ in 1..1_000 {
        assert_eq!(node.post(ADJUST, r#"{"delta":1000000000,"reason":"x"}"#).await.status, 200);
    }
    node.post(ADJUST, r#"{"delta":1,"reason":"x"}"#).await.expect_problem(422, "out_of_range", "1000000000000");
    assert_eq!(counts(&node).await, [1_000_000_000_000, 1_000_000_000_000, 0, 0]);
}

#[tokio::test]
async fn a_paused_stock_grants_nothing_until_it_is_reopened() {
    let (node, _machine) = ready().await;
    let path = node.post(RESERVE, r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    let before = node.get(STOCK).await.header("etag").unwrap().to_owned();
    for body in ["", "{}"] {
        let reply = node.post("/v1/stocks/s/pause", body).await;
        assert_eq!((reply.status, reply.text("state")), (200, "paused".to_owned()));
        assert_ne!(reply.header("etag"), Some(before.as_str()));
    }
    node.post(RESERVE, r#"{"user":"v"}"#).await.expect_problem(409, "paused", "paused");
    assert_eq!(node.post(&format!("{path}/confirm"), "").await.status, 200);
    let reply = node.post("/v1/stocks/s/reopen", "").await;
    assert_eq!((reply.status, reply.text("state")), (200, "open".to_owned()));
    assert_eq!(node.post("/v1/stocks/s/reopen", "").await.status, 200);
    assert_eq!(node.post(RESERVE, r#"{"user":"v"}"#).await.status, 201);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_closed_stock_still_settles_what_it_granted() {
    let (node, machine) = ready().await;
    let reserve = async |user: &str| {
        let body = format!(r#"{{"user":"{user}"}}"#);
        node.post(RESERVE, &body).await.header("location").unwrap().to_owned()
    };
    let (paid, cancelled, lapsed) = (reserve("a").await, reserve("b").await, reserve("c").await);
    assert_eq!(node.post("/v1/stocks/s/close", "").await.text("state"), "closed");
    assert_eq!(node.post("/v1/stocks/s/close", "{}").await.status, 200);
    node.post(RESERVE, r#"{"user":"d"}"#).await.expect_problem(409, "closed", "over");
    // Closed is told before paused.
    assert_eq!(node.post("/v1/stocks/s/pause", "").await.text("state"), "closed");
    node.post(RESERVE, r#"{"user":"d"}"#).await.expect_problem(409, "closed", "over");
    assert_eq!(node.post(&format!("{paid}/confirm"), "").await.text("state"), "confirmed");
    assert_eq!(node.post(&format!("{cancelled}/release"), "").await.text("state"), "released");
    assert_eq!(node.post(&format!("{paid}/return"), "").await.text("state"), "returned");
    machine.clock.set(START.plus_seconds(600));
    node.post(&format!("{lapsed}/confirm"), "").await.expect_problem(409, "reservation_expired", "expired");
    assert_eq!(counts(&node).await, [10, 10, 0, 0]);
    assert_eq!(node.post("/v1/stocks/s/reopen", "").await.text("state"), "open");
    assert_eq!(node.post(RESERVE, r#"{"user":"d"}"#).await.status, 201);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_stock_is_archived_only_when_it_is_closed_with_nothing_reserved() {
    let (node, _machine) = ready().await;
    let archive = async || node.post("/v1/stocks/s/archive", "").await;
    archive().await.expect_problem(409, "stock_in_use", "not closed");
    let path = node.post(RESERVE, r#"{"user":"u","quantity":3}"#).await.header("location").unwrap().to_owned();
    node.post("/v1/stocks/s/close", "").await;
    archive().await.expect_problem(409, "stock_in_use", "3 units");
    node.post(&format!("{path}/confirm"), "").await;
    for _ in 0..2 {
        let reply = archive().await;
        assert_eq!((reply.status, reply.text("state")), (200, "archived".to_owned()));
    }
    node.post(RESERVE, r#"{"user":"v"}"#).await.expect_problem(409, "closed", "over");
    node.post("/v1/stocks/s/reopen", "").await.expect_problem(409, "closed", "over");
    node.post("/v1/stocks/s/pause", "").await.expect_problem(409, "closed", "over");
    node.patch(STOCK, r#"{"per_user_limit":1}"#).await.expect_problem(409, "closed", "over");
    assert_eq!(node.post("/v1/stocks/s/close", "").await.status, 200);
    assert_eq!(node.get(STOCK).await.text("state"), "archived");
    assert_eq!(node.get(&path).await.text("state"), "confirmed");
    assert_eq!(counts(&node).await, [10, 7, 0, 3]);
    node.expect_conserved("s").await;
}

#[tokio::test]
async fn a_step_takes_no_fields_and_needs_a_stock() {
    let (node, _machine) = ready().await;
    for step in ["pause", "reopen", "close", "archive"] {
        let path = format!("/v1/stocks/s/{step}");
        node.post(&path, r#"{"reason":"x"}"#).await.expect_problem(400, "invalid_request", "`reason`");
        node.post(&path, "[]").await.expect_problem(400, "invalid_request", "JSON object");
        node.post(&path, "null").await.expect_problem(400, "invalid_request", "JSON object");
        node.post(&path, "{").await.expect_problem(400, "invalid_request", "EOF");
        node.post(&format!("/v1/stocks/none/{step}"), "").await.expect_problem(404, "unknown_sku", "sku");
        node.post(&format!("/v1/stocks/a%20b/{step}"), "").await.expect_problem(422, "invalid_identifier", "sku");
        let typed = node.ask("POST", &path, &[("content-type", "text/plain")], "{}").await;
        typed.expect_problem(415, "unsupported_media_type", "text/plain");
    }
    assert_eq!(node.get(STOCK).await.text("state"), "open");
}
