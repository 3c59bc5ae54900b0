//! The documented rows of the calls on stocks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::json;
use support::*;

#[tokio::test]
async fn a_stock_is_created_with_the_documented_defaults() {
    let (node, _machine) = node().await;
    let reply = node.put("/v1/stocks/s1", r#"{"quantity":1000}"#).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("location"), Some("/v1/stocks/s1"));
    let mut stock = reply.json();
    assert!(stock["as_of"].is_string(), "{stock}");
    stock["as_of"] = json!("");
    assert_eq!(
        stock,
        json!({
            "sku": "s1", "allotted": 1000, "available": 1000, "reserved": 0, "sold": 0, "per_user_limit": null,
            "hold_seconds": 600, "hold_seconds_max": 3600, "opens_at": null, "closes_at": null, "state": "open", "as_of": "",
        })
    );
}

#[tokio::test]
async fn a_stock_is_created_with_every_setting_and_shows_it() {
    let (node, _machine) = node().await;
    let body = r#"{"quantity":0,"per_user_limit":2,"hold_seconds":7200,"hold_seconds_max":8000,
        "opens_at":"2027-01-15T10:00:00+01:00","closes_at":"2027-01-16T00:00:00.0009Z"}"#;
    let reply = node.put("/v1/stocks/a.b_c:d~e-F", body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let stock = node.get("/v1/stocks/a.b_c:d~e-F").await.json();
    assert_eq!(stock["sku"], "a.b_c:d~e-F");
    assert_eq!(stock["allotted"], 0);
    assert_eq!(stock["per_user_limit"], 2);
    assert_eq!(stock["hold_seconds"], 7200);
    assert_eq!(stock["hold_seconds_max"], 8000);
    assert_eq!(stock["opens_at"], "2027-01-15T09:00:00.000Z");
    assert_eq!(stock["closes_at"], "2027-01-16T00:00:00.000Z");
    assert_eq!(stock["state"], "scheduled");
}

#[tokio::test]
async fn the_longest_hold_is_by_default_the_larger_of_an_hour_and_the_hold() {
    let (node, _machine) = node().await;
    let stock = node.put("/v1/stocks/long", r#"{"quantity":1,"hold_seconds":7200}"#).await.json();
    assert_eq!(stock["hold_seconds_max"], 7200);
    let stock = node.put("/v1/stocks/short", r#"{"quantity":1,"hold_seconds":60}"#).await.json();
    assert_eq!(stock["hold_seconds_max"], 3600);
}

#[tokio::test]
async fn a_stock_put_again_is_200_if_it_is_the_same_and_stock_exists_if_not() {
    let (node, _machine) = node().await;
    assert_eq!(node.put("/v1/stocks/s1", r#"{"quantity":5,"per_user_limit":1}"#).await.status, 201);
    assert_eq!(node.post("/v1/stocks/s1/reservations", r#"{"user":"u1"}"#).await.status, 201);
    let again = node.put("/v1/stocks/s1", r#"{"quantity":5.0,"per_user_limit":1,"hold_seconds":600}"#).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.header("location"), None);
    assert_eq!(again.json()["available"], 4);
    node.put("/v1/stocks/s1", r#"{"quantity":6,"per_user_limit":1}"#).await.expect_problem(409, "stock_exists", "first quantity");
    node.put("/v1/stocks/s1", r#"{"quantity":5}"#).await.expect_problem(409, "stock_exists", "settings");
    assert_eq!(node.get("/v1/stocks/s1").await.json()["available"], 4);
}

#[tokio::test]
async fn an_unknown_sku_is_404_and_an_impossible_one_422() {
    let (node, _machine) = node().await;
    node.get("/v1/stocks/nothing").await.expect_problem(404, "unknown_sku", "sku");
    node.get("/v1/stocks/a%20b").await.expect_problem(422, "invalid_identifier", "' '");
    node.get("/v1/stocks/%C3%A9").await.expect_problem(422, "invalid_identifier", "sku");
    node.get("/v1/stocks/%ff").await.expect_problem(422, "invalid_identifier", "UTF-8");
    node.get(&format!("/v1/stocks/{}", "x".repeat(129))).await.expect_problem(422, "invalid_identifier", "129");
    node.put("/v1/stocks/a%2Fb", r#"{"quantity":1}"#).await.expect_problem(422, "invalid_identifier", "'/'");
    assert_eq!(node.put(&format!("/v1/stocks/{}", "x".repeat(128)), r#"{"quantity":1}"#).await.status, 201);
}

#[tokio::test]
async fn a_percent_encoded_sku_is_the_sku_that_it_encodes() {
    let (node, _machine) = node().await;
    assert_eq!(node.put("/v1/stocks/a%3Ab", r#"{"quantity":1}"#).await.text("sku"), "a:b");
    assert_eq!(node.get("/v1/stocks/a:b").await.status, 200);
}

#[tokio::test]
async fn a_stock_passes_through_its_states() {
    let (node, machine) = node().await;
    let body = r#"{"quantity":1,"opens_at":"2027-01-15T08:00:01Z","closes_at":"2027-01-15T08:00:02Z"}"#;
    assert_eq!(node.put("/v1/stocks/s1", body).await.text("state"), "scheduled");
    node.post("/v1/stocks/s1/reservations", r#"{"user":"u"}"#).await.expect_problem(409, "not_open", "2027-01-15T08:00:01.000Z");
    machine.clock.set(START.plus_seconds(1));
    assert_eq!(node.get("/v1/stocks/s1").await.text("state"), "open");
    assert_eq!(node.post("/v1/stocks/s1/reservations", r#"{"user":"u"}"#).await.status, 201);
    assert_eq!(node.get("/v1/stocks/s1").await.text("state"), "sold_out");
    machine.clock.set(START.plus_seconds(2));
    assert_eq!(node.get("/v1/stocks/s1").await.text("state"), "closed");
    node.post("/v1/stocks/s1/reservations", r#"{"user":"v"}"#).await.expect_problem(409, "closed", "over");
}

#[tokio::test]
async fn the_tag_of_a_stock_stays_through_sales_and_never_hides_them() {
    let (node, _machine) = node().await;
    let created = node.put("/v1/stocks/s1", r#"{"quantity":5}"#).await;
    let tag = created.header("etag").unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "{tag}");
    node.post("/v1/stocks/s1/reservations", r#"{"user":"u"}"#).await;
    let read = node.get("/v1/stocks/s1").await;
    assert_eq!((read.status, read.header("etag")), (200, Some(tag.as_str())));

    let sold = node.ask("GET", "/v1/stocks/s1", &[("if-none-match", &tag)], "").await;
    assert_eq!((sold.status, &sold.json()["available"]), (200, &4.into()), "the tag says nothing of the counters");
    assert_eq!(sold.header("cache-control"), Some("no-store"));
    let changed = node.patch("/v1/stocks/s1", r#"{"per_user_limit":1}"#).await;
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let (node, _machine) = node().await;
    node.put("/v1/stocks/s1", r#"{"quantity":5}"#).await;
    let mut client = node.client().await;
    let head = client.ask("HEAD", "/v1/stocks/s1", &[], "").await;
    let get = client.ask("GET", "/v1/stocks/s1", &[], "").await;
    assert_eq!((head.status, get.status), (200, 200));
    assert_eq!(head.header("etag"), get.header("etag"));
    assert_eq!(head.header("content-length").unwrap(), get.body.len().to_string());
    assert_eq!(client.ask("HEAD", "/v1/stocks/none", &[], "").await.status, 404);
}
