//! What a body may be, and what each wrong one is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::*;

const STOCK: &str = "/v1/stocks/new";
const RESERVE: &str = "/v1/stocks/s/reservations";

async fn ready() -> (Node, Machine) {
    let (node, machine) = node().await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1000000000}"#).await.status, 201);
    (node, machine)
}

#[tokio::test]
async fn malformed_bodies_are_invalid_requests_that_name_what_is_wrong() {
    let (node, _machine) = ready().await;
    for (body, about) in [
        ("", "empty"),
        ("  ", "empty"),
        ("{", "EOF"),
        ("nonsense", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#"["u"]"#, "not a JSON object"),
        (r#""u""#, "not a JSON object"),
        ("null", "not a JSON object"),
        (r#"{"user":"u"} {}"#, "trailing"),
        (r#"{"user":"u",}"#, "trailing comma"),
        (r"{'user':'u'}", "line 1"),
        ("{}", "`user`"),
        (r#"{"quantity":1}"#, "`user`"),
        (r#"{"user":"u","color":"red"}"#, "`color`"),
        (r#"{"user":"u","user":"v"}"#, "`user`"),
        (r#"{"user":null}"#, "a string in `user`"),
        (r#"{"user":7}"#, "a string in `user`"),
        (r#"{"user":["u"]}"#, "a string in `user`"),
        (r#"{"user":"u","quantity":"1"}"#, "a number in `quantity`"),
        (r#"{"user":"u","quantity":true}"#, "a number in `quantity`"),
        (r#"{"user":"u","quantity":{}}"#, "a number in `quantity`"),
        (r#"{"user":"u","hold_seconds":"600"}"#, "a number in `hold_seconds`"),
        (r#"{"user":"u","reference":1}"#, "a string in `reference`"),
        (r#"{"user":"u","quantity":01}"#, "line 1"),
        (r#"{"user":"\ud800"}"#, "line 1"),
    ] {
        node.post(RESERVE, body).await.expect_problem(400, "invalid_request", about);
    }
    for (body, about) in [
        ("{}", "`quantity`"),
        (r#"{"quantity":null}"#, "a number in `quantity`"),
        (r#"{"quantity":"5"}"#, "a number in `quantity`"),
        (r#"{"quantity":5,"sku":"new"}"#, "`sku`"),
        (r#"{"quantity":5,"per_user_limit":false}"#, "a number in `per_user_limit`"),
        (r#"{"quantity":5,"hold_seconds_max":"x"}"#, "a number in `hold_seconds_max`"),
        (r#"{"quantity":5,"opens_at":1764320400}"#, "a string in `opens_at`"),
        (r#"{"quantity":5,"opens_at":"tomorrow"}"#, "`opens_at`"),
        (r#"{"quantity":5,"closes_at":"2027-01-15"}"#, "`closes_at`"),
    ] {
        node.put(STOCK, body).await.expect_problem(400, "invalid_request", about);
    }
    node.get(STOCK).await.expect_problem(404, "unknown_sku", "sku");
}

#[tokio::test]
async fn a_body_of_bytes_that_are_no_utf_8_is_an_invalid_request() {
    let (node, _machine) = ready().await;
    let mut client = node.client().await;
    client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\ncontent-length: 12\r\n\r\n")).await;
    client.send(b"{\"user\":\"\xff\"}").await;
    client.reply().await.expect_problem(400, "invalid_request", "line 1");
}

#[tokio::test]
async fn a_long_text_of_the_client_is_not_repeated_in_full() {
    let (node, _machine) = ready().await;
    let body = format!(r#"{{"user":"u","{}":1}}"#, "é".repeat(5_000));
    let reply = node.post(RESERVE, &body).await;
    reply.expect_problem(400, "invalid_request", "unknown field");
    assert!(reply.body.len() < 1_000, "{}", reply.body.len());
}

#[tokio::test]
async fn quantities_outside_their_bounds_are_invalid_quantities() {
    let (node, _machine) = ready().await;
    let long = "9".repeat(400);
    let huge = ["1e400", "-1e400", &long];
    for given in
        ["1.5", "0", "-1", "1e12", "1000000001", "0.0", "-0", "1e-3", "99999999999999999999999", "-1.5"].iter().chain(&huge)
    {
        let body = format!(r#"{{"user":"u","quantity":{given}}}"#);
        node.post(RESERVE, &body).await.expect_problem(422, "invalid_quantity", "1 to 1000000000");
    }
    for given in ["1.5", "-1", "1e12", "1000000001"].iter().chain(&huge) {
        let body = format!(r#"{{"quantity":{given}}}"#);
        node.put(STOCK, &body).await.expect_problem(422, "invalid_quantity", "0 to 1000000000");
    }
    node.post(RESERVE, r#"{"user":"u","quantity":1.5}"#).await.expect_problem(422, "invalid_quantity", "is 1.5");
    node.post(RESERVE, r#"{"user":"u","quantity":1e400}"#).await.expect_problem(422, "invalid_quantity", "too large");
}

#[tokio::test]
async fn a_number_just_out_of_its_bounds_is_not_rounded_into_them() {
    let (node, _machine) = ready().await;
    for given in ["1000000000.00000001", "0.99999999999999999999", "1.00000000000000000001", "1000000000000000000001e-21", "1e-400"]
    {
        let body = format!(r#"{{"user":"u","quantity":{given}}}"#);
        node.post(RESERVE, &body).await.expect_problem(422, "invalid_quantity", "1 to 1000000000");
        let body = format!(r#"{{"op":"reserve","sku":"s","user":"u","quantity":{given}}}"#);
        let reply = node.ask("POST", "/v1/batch", &[("content-type", "application/x-ndjson")], &body).await;
        assert_eq!((reply.status, &reply.json()["code"]), (200, &"invalid_quantity".into()), "{given}");
    }
    node.post(RESERVE, r#"{"user":"u","quantity":1000000000.00000001}"#).await.expect_problem(
        422,
        "invalid_quantity",
        "is just beside 1000000000",
    );
    // As long, and whole.
    let whole = format!(r#"{{"user":"u","quantity":5.{}}}"#, "0".repeat(400));
    assert_eq!(node.post(RESERVE, &whole).await.json()["quantity"], 5);
}

#[tokio::test]
async fn integral_floats_count_as_their_integers() {
    let (node, _machine) = ready().await;
    for given in ["5", "5.0", "5e0", "0.5e1", "50e-1"] {
        let body = format!(r#"{{"user":"u","quantity":{given}}}"#);
        let reply = node.post(RESERVE, &body).await;
        assert_eq!((reply.status, reply.json()["quantity"].as_u64()), (201, Some(5)), "{given}");
    }
    let largest = node.put(STOCK, r#"{"quantity":1e9,"per_user_limit":1e9,"hold_seconds":3.1536e7}"#).await;
    assert_eq!(largest.status, 201);
    assert_eq!(largest.json()["hold_seconds"], 31_536_000);
}

#[tokio::test]
async fn settings_outside_their_bounds_are_out_of_range() {
    let (node, _machine) = ready().await;
    for (settings, about) in [
        (r#""hold_seconds":0"#, "hold_seconds is 0"),
        (r#""hold_seconds":31536001"#, "31536001"),
        (r#""hold_seconds":1.5"#, "hold_seconds is 1.5"),
        (r#""hold_seconds":-1"#, "hold_seconds is -1"),
        (r#""hold_seconds_max":0"#, "hold_seconds_max is 0"),
        (r#""hold_seconds_max":1e300"#, "hold_seconds_max"),
        (r#""hold_seconds_max":1e400"#, "hold_seconds_max"),
        (r#""per_user_limit":1e400"#, "per_user_limit"),
        (r#""hold_seconds_max":599"#, "hold_seconds is 600 where hold_seconds_max is 599"),
        (r#""hold_seconds":61,"hold_seconds_max":60"#, "hold_seconds is 61 where hold_seconds_max is 60"),
        (r#""per_user_limit":0"#, "per_user_limit is 0"),
        (r#""per_user_limit":1.5"#, "per_user_limit is 1.5"),
        (r#""per_user_limit":1000000001"#, "1000000001"),
        (r#""opens_at":"2027-01-15T08:00:00Z","closes_at":"2027-01-15T08:00:00Z""#, "no later"),
        (r#""opens_at":"2027-01-15T08:00:01Z","closes_at":"2027-01-15T08:00:00Z""#, "2027-01-15T08:00:01.000Z"),
        (r#""opens_at":"1969-12-31T23:59:59Z""#, "before 1970"),
    ] {
        let body = format!(r#"{{"quantity":1,{settings}}}"#);
        node.put(STOCK, &body).await.expect_problem(422, "out_of_range", about);
    }
    for given in ["0", "31536001", "1.5"] {
        let body = format!(r#"{{"user":"u","hold_seconds":{given}}}"#);
        node.post(RESERVE, &body).await.expect_problem(422, "out_of_range", given);
    }
    node.get(STOCK).await.expect_problem(404, "unknown_sku", "sku");
}

#[tokio::test]
async fn identifiers_outside_the_alphabet_are_invalid_and_named() {
    let (node, _machine) = ready().await;
    let long = "x".repeat(129);
    for text in ["", "a b", "ü", "a/b", "a\\n", &long] {
        let body = format!(r#"{{"user":"{text}"}}"#);
        node.post(RESERVE, &body).await.expect_problem(422, "invalid_identifier", "user ");
        let body = format!(r#"{{"user":"u","reference":"{text}"}}"#);
        node.post(RESERVE, &body).await.expect_problem(422, "invalid_identifier", "reference ");
    }
    // An escape is a way to write a text, not another text.
    let reply = node.post(RESERVE, r#"{"user":"\u0075:1"}"#).await;
    assert_eq!((reply.status, reply.text("user")), (201, "u:1".to_owned()));
}

#[tokio::test]
async fn null_leaves_an_optional_field_out() {
    let (node, _machine) = ready().await;
    let body = r#"{"user":"u","quantity":null,"hold_seconds":null,"reference":null}"#;
    let reply = node.post(RESERVE, body).await.json();
    assert_eq!((reply["quantity"].as_u64(), &reply["expires_at"]), (Some(1), &"2027-01-15T08:10:00.000Z".into()));
    let body =
        r#"{"quantity":1,"per_user_limit":null,"hold_seconds":null,"hold_seconds_max":null,"opens_at":null,"closes_at":null}"#;
    assert_eq!(node.put(STOCK, body).await.status, 201);
    // What is left out is what is default.
    assert_eq!(node.put(STOCK, r#"{"quantity":1}"#).await.status, 200);
}

#[tokio::test]
async fn malformed_comes_before_values_and_values_before_the_ledger() {
    let (node, _machine) = ready().await;
    // Each body is wrong in two or three ways; the first kind in the precedence is told.
    node.post("/v1/stocks/a%20b/reservations", r#"{"user":"","color":1}"#).await.expect_problem(400, "invalid_request", "color");
    node.post_keyed(RESERVE, "bad key", "{").await.expect_problem(400, "invalid_request", "EOF");
    node.post("/v1/stocks/none/reservations", r#"{"user":""}"#).await.expect_problem(422, "invalid_identifier", "user");
    node.post("/v1/stocks/none/reservations", r#"{"user":"u","quantity":0}"#).await.expect_problem(422, "invalid_quantity", "0");
    node.put("/v1/stocks/s", r#"{"quantity":-1}"#).await.expect_problem(422, "invalid_quantity", "-1");
    node.put(STOCK, r#"{"quantity":-1,"opens_at":"never"}"#).await.expect_problem(400, "invalid_request", "opens_at");
    node.post("/v1/reservations/none/confirm", "{").await.expect_problem(400, "invalid_request", "EOF");
    node.post("/v1/reservations/none/confirm", r#"{"quantity":0}"#).await.expect_problem(422, "invalid_quantity", "0");
}

#[tokio::test]
async fn the_body_of_confirm_and_release_is_optional_and_strict() {
    let (node, _machine) = ready().await;
    let path = node.post(RESERVE, r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    for verb in ["confirm", "release"] {
        let path = format!("{path}/{verb}");
        node.post(&path, r#"{"units":1}"#).await.expect_problem(400, "invalid_request", "units");
        node.post(&path, "[]").await.expect_problem(400, "invalid_request", "JSON object");
        node.post(&path, " ").await.expect_problem(400, "invalid_request", "empty");
        node.post(&path, r#"{"quantity":"1"}"#).await.expect_problem(400, "invalid_request", "a number in `quantity`");
    }
    assert_eq!(node.get(&path).await.text("state"), "reserved");
}

#[tokio::test]
async fn a_body_of_another_type_is_unsupported() {
    let (node, _machine) = ready().await;
    let reserve = async |content_type: &str| node.ask("POST", RESERVE, &[("content-type", content_type)], r#"{"user":"u"}"#).await;
    for good in ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.shop.v1+json ; a=b"] {
        assert_eq!(reserve(good).await.status, 201, "{good}");
    }
    for bad in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "text/json", "application/+json", "json", ""]
    {
        reserve(bad).await.expect_problem(415, "unsupported_media_type", "application/json");
    }
    let encoded = node.ask("POST", RESERVE, &[("content-encoding", "gzip")], r#"{"user":"u"}"#).await;
    encoded.expect_problem(415, "unsupported_media_type", "gzip");
    // Without a body there is nothing whose type could be wrong.
    let path = node.post(RESERVE, r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    let reply = node.ask("POST", &format!("{path}/confirm"), &[("content-type", "text/plain")], "").await;
    assert_eq!(reply.status, 200);
}
