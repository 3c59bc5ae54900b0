//! Sizes, waits and shapes on the wire: what is bounded, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fmt::Write;
use std::time::{Duration, Instant};

use support::*;
use tidegate_api::HttpOptions;
use tidegate_engine::EngineOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const RESERVE: &str = "/v1/stocks/s/reservations";

/// Limits so long that no test reaches them; each test shortens the one that it is about.
const PATIENT: HttpOptions = HttpOptions {
    worker_threads: 2,
    body_bytes_max: 1_000,
    batch_body_bytes_max: 1_000,
    bodies_bytes_max: 1_000_000,
    header_bytes_max: 16 * 1024,
    header_seconds_max: 600,
    body_seconds_max: 600,
    idle_seconds_max: 600,
    drain_seconds: 0,
    answer_seconds_max: 600,
    connections_max: 1_000,
    send_buffer_bytes: 128 * 1024,
    feed_heartbeat_seconds: 600,
    feed_stall_seconds_max: 600,
    feed_streams_max: 1_000,
};

/// More pages of metrics than the network holds for a client that does not read.
const ANSWERS_UNTAKEN: usize = 2_000;

async fn node_within(options: HttpOptions) -> (Node, Machine) {
    let (node, machine) = node_with(options, EngineOptions::default()).await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1000}"#).await.status, 201);
    (node, machine)
}

#[tokio::test]
async fn a_header_that_takes_too_long_closes_the_connection() {
    let (node, _machine) = node_within(HttpOptions { header_seconds_max: 1, ..PATIENT }).await;
    let mut first = node.client().await;
    first.send("GET /livez HTT").await;
    let mut later = node.client().await;
    assert_eq!(later.ask("GET", "/livez", &[], "").await.status, 200);
    later.send("GET /livez HTTP/1.1\r\nhost: te").await;
    tokio::join!(first.closed(), later.closed());
}

#[tokio::test]
async fn a_header_that_trickles_gets_no_more_time() {
    let (node, _machine) = node_within(HttpOptions { header_seconds_max: 1, ..PATIENT }).await;
    let mut client = node.client().await;
    client.send("GET /livez HTTP/1.1\r\nx: ").await;
    let began = Instant::now();
    let mut byte = [0];
    // One byte each 50 ms, until the server ends it.
    while timeout(Duration::from_millis(50), client.stream.read(&mut byte)).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the header still goes on");
        if client.stream.write_all(b"x").await.is_err() {
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (node, _machine) = node_within(HttpOptions { idle_seconds_max: 1, ..PATIENT }).await;
    let silent = node.client().await;
    let mut used = node.client().await;
    assert_eq!(used.ask("GET", "/livez", &[], "").await.status, 200);
    tokio::join!(silent.closed(), used.closed());
}

#[tokio::test]
async fn an_idle_connection_outlives_every_other_limit() {
    let short = HttpOptions { header_seconds_max: 1, body_seconds_max: 1, answer_seconds_max: 1, idle_seconds_max: 3, ..PATIENT };
    let (node, _machine) = node_within(short).await;
    let began = Instant::now();
    let silent = node.client().await;
    let mut used = node.client().await;
    assert_eq!(used.ask("POST", RESERVE, &[], r#"{"user":"u"}"#).await.status, 201);
    tokio::join!(silent.closed(), used.closed());
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_told_so_and_closes_the_connection() {
    let (node, _machine) = node_within(HttpOptions { body_seconds_max: 1, ..PATIENT }).await;
    for part in ["", r#"{"user":"#] {
        let mut client = node.client().await;
        client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\ncontent-length: 12\r\n\r\n{part}")).await;
        let reply = client.reply().await;
        reply.expect_problem(400, "invalid_request", "within 1 s");
        assert_eq!(reply.header("connection"), Some("close"));
        client.closed().await;
    }
    assert_eq!(node.get("/v1/stocks/s").await.json()["reserved"], 0);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_timeout_and_may_have_happened() {
    let (node, machine) = node_within(HttpOptions { answer_seconds_max: 1, ..PATIENT }).await;
    machine.log.hold();
    let mut client = node.client().await;
    let reply = client.ask("POST", RESERVE, &[("idempotency-key", "k")], r#"{"user":"u"}"#).await;
    reply.expect_problem(503, "timeout", "within 1 s");
    machine.log.release();
    let again = client.ask("POST", RESERVE, &[("idempotency-key", "k")], r#"{"user":"u"}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
}

#[tokio::test]
async fn an_answer_that_nobody_takes_closes_the_connection() {
    let (node, _machine) = node_within(HttpOptions { idle_seconds_max: 1, ..PATIENT }).await;
    let mut client = node.client().await;
    client.send(request("GET", "/metrics", &[], "").repeat(ANSWERS_UNTAKEN)).await;
    let is_closed = async || String::from_utf8(node.get("/metrics").await.body).unwrap().contains("tidegate_http_connections 1\n");
    timeout(PATIENCE, async { while !is_closed().await {} }).await.expect("the connection should be closed");
    let mut taken = Vec::new();
    // However the connection ended, what was under way is cut.
    let _ = client.stream.read_to_end(&mut taken).await;
    let answers = taken.windows(5).filter(|window| window == b"# EOF").count();
    assert!((1..ANSWERS_UNTAKEN).contains(&answers), "{answers}");
}

#[tokio::test]
async fn a_body_may_have_the_length_that_is_allowed_and_not_a_byte_more() {
    let (node, _machine) = node_within(PATIENT).await;
    let padded = |length: usize| format!("{:length$}", r#"{"user":"u"}"#);
    assert_eq!(node.post(RESERVE, &padded(1_000)).await.status, 201);
    let reply = node.post(RESERVE, &padded(1_001)).await;
    reply.expect_problem(413, "body_too_large", "1000 bytes");
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(chunked(&node, &padded(1_000), 100).await.status, 201);
    chunked(&node, &padded(1_001), 100).await.expect_problem(413, "body_too_large", "1000 bytes");
}

async fn chunked(node: &Node, body: &str, chunk: usize) -> Reply {
    let mut client = node.client().await;
    let mut message = format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in body.as_bytes().chunks(chunk) {
        write!(message, "{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()).unwrap();
    }
    client.send(message + "0\r\n\r\n").await;
    client.reply().await
}

#[tokio::test]
async fn an_announced_body_that_is_too_large_is_refused_before_it_is_sent() {
    let (node, _machine) = node_within(PATIENT).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut client = node.client().await;
        client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\n{expect}content-length: 1001\r\n\r\n")).await;
        client.reply().await.expect_problem(413, "body_too_large", "1000 bytes");
        client.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_sends_a_huge_body_to_its_end_can_still_take_its_answer() {
    let (node, _machine) = node_within(PATIENT).await;
    let body = "x".repeat(16 * 1024 * 1024);
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], &body)).await;
    client.reply().await.expect_problem(413, "body_too_large", "1000 bytes");
    let reply = chunked(&node, &body, 1024 * 1024).await;
    reply.expect_problem(413, "body_too_large", "1000 bytes");
}

#[tokio::test]
async fn a_client_that_waits_for_a_go_ahead_gets_it() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 12\r\n\r\n")).await;
    let mut go_ahead = [0; 25];
    timeout(PATIENCE, client.stream.read_exact(&mut go_ahead)).await.expect("a go-ahead should come").unwrap();
    assert_eq!(&go_ahead, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(r#"{"user":"u"}"#).await;
    assert_eq!(client.reply().await.status, 201);
}

#[tokio::test]
async fn what_is_no_request_is_an_invalid_request_and_closes_the_connection() {
    let (node, _machine) = node_within(PATIENT).await;
    let many = "x: y\r\n".repeat(101);
    for (bytes, about) in [
        ("HELLO\r\n\r\n".to_owned(), "not that of an HTTP/1.1 request"),
        ("GET /livez HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), "not that of an HTTP/1.1 request"),
        ("GET /livez HTTP/3.0\r\n\r\n".to_owned(), "not that of an HTTP/1.1 request"),
        ("POST /livez HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned(), "not that of an HTTP/1.1 request"),
        (format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024)), "longer than 16384 bytes"),
        (format!("GET /livez HTTP/1.1\r\n{many}\r\n"), "more than 100 fields"),
    ] {
        // As a connection's first words, and after a request.
        for requests in 0..2 {
            let mut client = node.client().await;
            for _ in 0..requests {
                assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
            }
            client.send(&bytes).await;
            let reply = client.reply().await;
            reply.expect_problem(400, "invalid_request", about);
            assert_eq!(reply.header("connection"), Some("close"));
            client.closed().await;
        }
    }
    let text = String::from_utf8(node.get("/metrics").await.body).unwrap();
    let line = r#"tidegate_http_requests_total{route="unmatched",status="4xx"} 12"#;
    assert!(text.lines().any(|given| given == line), "{text}");
}

/// A request that reserves, but for its body and what says how long that is.
fn reserve_with(fields: &str, body: &str) -> String {
    format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\n{fields}\r\n{body}")
}

/// What one would like to be taken for a request of its own.
fn smuggled() -> String {
    request("POST", RESERVE, &[], r#"{"user":"smuggled"}"#)
}

#[tokio::test]
async fn behind_a_request_whose_end_is_not_certain_nothing_is_a_request() {
    let (node, _machine) = node_within(PATIENT).await;
    let unreadable = "not that of an HTTP/1.1 request";
    let chunks = |body: &str| reserve_with("transfer-encoding: chunked\r\n", body);
    let long = "x".repeat(64 * 1024);
    let body = r#"{"user":"u"}"#;
    let mut bystander = node.client().await;
    for (bytes, about) in [
        (reserve_with("content-length: 12\r\ncontent-length: 13\r\n", body), unreadable),
        (reserve_with("content-length: 12, 13\r\n", body), unreadable),
        (reserve_with("content-length: +12\r\n", body), unreadable),
        (reserve_with("content-length : 12\r\n", body), unreadable),
        (reserve_with("content-length: 1\r\n 2\r\n", body), unreadable),
        (reserve_with("transfer-encoding: gzip\r\n", body), unreadable),
        (reserve_with("transfer-encoding: chunked, identity\r\n", body), unreadable),
        (chunks("").replace("HTTP/1.1", "HTTP/1.0"), unreadable),
        (chunks(&format!("zz\r\n{body}\r\n0\r\n\r\n")), "broke off"),
        (chunks(&format!("-c\r\n{body}\r\n0\r\n\r\n")), "broke off"),
        (chunks(&format!("10000000000000000c\r\n{body}\r\n0\r\n\r\n")), "broke off"),
        (chunks(&format!("c;{long}")), "broke off"),
        // Lines that end with LF alone are lines of a header, and no lines of chunks.
        (chunks(&format!("c\n{body}\n0\n\n")), "broke off"),
        (chunks(&format!("a\r\n{body}\r\n0\r\n\r\n")), "broke off"),
    ] {
        let mut client = node.client().await;
        client.send(bytes.clone() + &smuggled()).await;
        let reply = client.reply().await;
        reply.expect_problem(400, "invalid_request", about);
        assert_eq!(reply.header("connection"), Some("close"), "{bytes:?}");
        client.closed().await;
        // Nobody else notices.
        assert_eq!(bystander.ask("GET", "/livez", &[], "").await.status, 200);
    }
    assert_eq!(counts(&node).await, [1_000, 0, 0]);
}

#[tokio::test]
async fn a_length_of_a_chunk_that_never_ends_has_a_bodys_time() {
    let (node, _machine) = node_within(HttpOptions { body_seconds_max: 1, ..PATIENT }).await;
    let mut client = node.client().await;
    client.send(reserve_with("transfer-encoding: chunked\r\n", &"0".repeat(8 * 1024))).await;
    let reply = client.reply().await;
    reply.expect_problem(400, "invalid_request", "body");
    assert_eq!(reply.header("connection"), Some("close"));
    client.closed().await;
    assert_eq!(counts(&node).await, [1_000, 0, 0]);
}

#[tokio::test]
async fn chunks_count_where_a_length_stands_beside_them_and_the_connection_closes_behind_the_answer() {
    let (node, _machine) = node_within(PATIENT).await;
    // By the length, the body would end elsewhere, and its rest be a request.
    let chunked = "c\r\n{\"user\":\"u\"}\r\n0\r\n\r\n";
    let forms = ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 400\r\n"];
    for (fields, reserved) in forms.into_iter().zip(1..) {
        let mut client = node.client().await;
        client.send(reserve_with(fields, chunked) + &smuggled()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (201, Some("close")), "{fields:?}: {reply:?}");
        client.closed().await;
        assert_eq!(counts(&node).await, [1_000 - reserved, reserved, 0]);
    }
    let listed = node.get("/v1/stocks/s/reservations?user=smuggled").await.json();
    assert_eq!(listed["reservations"], serde_json::json!([]));
}

#[tokio::test]
async fn lines_that_end_with_lf_alone_are_a_header() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.send(reserve_with("content-length: 12\r\n", "").replace("\r\n", "\n") + r#"{"user":"u"}"#).await;
    assert_eq!(client.reply().await.status, 201);
    assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
    assert_eq!(counts(&node).await, [999, 1, 0]);
}

#[tokio::test]
async fn the_path_of_an_absolute_target_counts_and_nobody_is_connected_elsewhere() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.send(request("POST", &format!("http://elsewhere.example{RESERVE}"), &[], r#"{"user":"u"}"#)).await;
    assert_eq!(client.reply().await.status, 201);
    client.send(request("GET", "http://elsewhere.example/nowhere", &[], "")).await;
    client.reply().await.expect_problem(404, "not_found", "nothing is at this path");
    client.send("CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: elsewhere.example:443\r\n\r\n").await;
    client.reply().await.expect_problem(404, "not_found", "");
    assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
    assert_eq!(counts(&node).await, [999, 1, 0]);
}

#[tokio::test]
async fn a_target_that_is_too_long_is_an_invalid_request() {
    let (node, _machine) = node_within(HttpOptions { header_bytes_max: 256 * 1024, ..PATIENT }).await;
    let mut client = node.client().await;
    client.send(request("GET", &format!("/{}", "x".repeat(100_000)), &[], "")).await;
    client.reply().await.expect_problem(400, "invalid_request", "target is too long");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    let calls = (0..50).map(|user| request("POST", RESERVE, &[], &format!(r#"{{"user":"u{user}"}}"#)));
    client.send(calls.collect::<String>()).await;
    for user in 0..50 {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text("user")), (201, format!("u{user}")));
    }
    // One that fails does not disturb those behind it.
    client
        .send(request("POST", RESERVE, &[], "{") + &request("GET", "/nowhere", &[], "") + &request("GET", "/livez", &[], ""))
        .await;
    for status in [400, 404, 200] {
        assert_eq!(client.reply().await.status, status);
    }
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.stream.set_nodelay(true).unwrap();
    for byte in request("POST", RESERVE, &[], r#"{"user":"u"}"#).as_bytes() {
        client.send([*byte]).await;
    }
    assert_eq!(client.reply().await.status, 201);
}

#[tokio::test]
async fn a_client_that_half_closes_after_a_complete_request_gets_its_answer() {
    let (node, machine) = node_within(PATIENT).await;
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    client.stream.shutdown().await.unwrap();
    machine.log.wait_proposed(2).await;
    machine.log.release();
    assert_eq!(client.reply().await.status, 201);
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_half_closes_within_a_request_is_told_or_left() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\ncontent-length: 12\r\n\r\n{{")).await;
    client.stream.shutdown().await.unwrap();
    client.reply().await.expect_problem(400, "invalid_request", "broke off");
    client.closed().await;

    let mut client = node.client().await;
    client.send("GET /livez HTTP/1.1\r\nhost").await;
    client.stream.shutdown().await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn a_command_counts_though_its_client_has_left() {
    let (node, machine) = node_within(PATIENT).await;
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    machine.log.wait_proposed(2).await;
    drop(client);
    machine.log.release();
    let waited = timeout(PATIENCE, async { while node.get("/v1/stocks/s").await.json()["reserved"] != 1 {} });
    waited.await.expect("the command should count");
}

#[tokio::test]
async fn an_old_client_is_answered_and_its_connection_closed() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    client.send("GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_asks_for_it_has_its_connection_closed() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    let reply = client.ask("GET", "/livez", &[("connection", "close")], "").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.closed().await;
}

#[tokio::test]
async fn a_body_where_none_is_needed_does_no_harm() {
    let (node, _machine) = node_within(PATIENT).await;
    let mut client = node.client().await;
    assert_eq!(client.ask("GET", "/livez", &[], "whatever").await.status, 200);
    assert_eq!(client.ask("GET", "/v1/stocks/s", &[], "{}").await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_most_wait_while_all_have_a_request_under_way() {
    let (node, machine) = node_within(HttpOptions { connections_max: 2, ..PATIENT }).await;
    machine.log.hold();
    let (mut first, mut second) = (node.client().await, node.client().await);
    first.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    second.send(request("POST", RESERVE, &[], r#"{"user":"v"}"#)).await;
    machine.log.wait_proposed(2).await;
    let mut third = node.client().await;
    third.send(request("GET", "/livez", &[], "")).await;
    // Longer than any connection keeps its place that does not wait for the node.
    let early = timeout(Duration::from_millis(2_500), third.stream.peek(&mut [0])).await;
    assert!(early.is_err(), "{early:?}");
    machine.log.release();
    assert_eq!(first.reply().await.status, 201);
    drop(first);
    assert_eq!(third.reply().await.status, 200);
    assert_eq!(second.reply().await.status, 201);
}

#[tokio::test]
async fn bodies_without_end_keep_nobody_out() {
    let (node, _machine) = node_within(HttpOptions { connections_max: 2, ..PATIENT }).await;
    let begun = format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{{");
    let (mut first, mut second) = (node.client().await, node.client().await);
    first.send(&begun).await;
    second.send(&begun).await;
    assert_eq!(node.get("/v1/stocks/s").await.json()["reserved"], 0);
    first.closed().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_keep_nobody_out() {
    let (node, _machine) = node_within(HttpOptions { connections_max: 1, ..PATIENT }).await;
    let mut untaken = node.client().await;
    untaken.send(request("GET", "/metrics", &[], "").repeat(ANSWERS_UNTAKEN)).await;
    assert_eq!(node.get("/livez").await.status, 200);
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let (node, _machine) = node_within(HttpOptions { connections_max: 3, ..PATIENT }).await;
    let mut used = node.client().await;
    assert_eq!(used.ask("GET", "/livez", &[], "").await.status, 200);
    let silent = [node.client().await, node.client().await];
    // However many come, and though none of them ever leaves by itself.
    let mut later = Vec::new();
    for _ in 0..3 {
        let mut client = node.client().await;
        assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
        later.push(client);
    }
    for silent in silent {
        silent.closed().await;
    }
    // Those that never asked went first, then the one that was idle for longest.
    used.closed().await;
    for mut client in later {
        assert_eq!(client.ask("GET", "/livez", &[], "").await.status, 200);
    }
}

#[tokio::test]
async fn headers_without_end_keep_nobody_out() {
    let (node, _machine) = node_within(HttpOptions { connections_max: 2, ..PATIENT }).await;
    let (mut first, mut second) = (node.client().await, node.client().await);
    first.send("GET /livez HTTP/1.1\r\nhost: te").await;
    second.send("G").await;
    assert_eq!(node.get("/livez").await.status, 200);
    first.closed().await;
    second.send("ET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(second.reply().await.status, 200);
}

/// Sends the first `sent` of `length` bytes of a batch's body, and waits until the server has asked for them and taken them.
async fn client_within_a_body(node: &Node, length: usize, sent: usize) -> Client {
    let mut client = node.client().await;
    client.send(format!("POST /v1/batch HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n")).await;
    let mut go_ahead = [0; 25];
    timeout(PATIENCE, client.stream.read_exact(&mut go_ahead)).await.expect("a go-ahead should come").unwrap();
    client.send(&BATCH_OF_ONE.as_bytes()[..1]).await;
    client.send(" ".repeat(sent - 1)).await;
    client
}

/// A batch that may have any number of blanks after its first byte.
const BATCH_OF_ONE: &str = r#"{"commands":[{"op":"reserve","sku":"s","user":"u"}]}"#;

#[tokio::test]
async fn all_bodies_together_have_their_limit_and_give_back_what_they_had() {
    const BODY: usize = 100_000;
    let limits = HttpOptions { batch_body_bytes_max: BODY, bodies_bytes_max: BODY + 1_000, ..PATIENT };
    let (node, _machine) = node_within(limits).await;
    let rest = &BATCH_OF_ONE[1..];
    for _ in 0..3 {
        let sent = BODY - rest.len();
        let (first, second) = (client_within_a_body(&node, BODY, sent).await, client_within_a_body(&node, BODY, sent).await);
        // There is room for one of them, whichever is read faster.
        let (mut one, mut other) = ([0], [0]);
        let is_first = timeout(PATIENCE, async {
            tokio::select! {
                peeked = first.stream.peek(&mut one) => peeked.map(|_| true),
                peeked = second.stream.peek(&mut other) => peeked.map(|_| false),
            }
        });
        let is_first = is_first.await.expect("one of them should be refused").unwrap();
        let (mut refused, mut taken) = if is_first { (first, second) } else { (second, first) };
        let reply = refused.reply().await;
        reply.expect_problem(503, "overloaded", "101000 bytes");
        assert_eq!(reply.header("connection"), Some("close"));
        // A body that comes in one piece needs no room.
        assert_eq!(node.post(RESERVE, r#"{"user":"u"}"#).await.status, 201);
        taken.send(rest).await;
        let reply = taken.reply().await;
        assert_eq!((reply.status, &reply.json()["results"][0]["status"]), (200, &201.into()), "{reply:?}");
        // What breaks off gives back what it had as well.
        drop(client_within_a_body(&node, BODY, sent).await);
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_leaves_the_answers_limit_as_it_is() {
    let (node, machine) = node_within(HttpOptions { answer_seconds_max: 1, ..PATIENT }).await;
    let held = node.post(RESERVE, r#"{"user":"u"}"#).await;
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"v"}"#)).await;
    machine.log.wait_proposed(3).await;
    // A read of what is not committed yet waits for its commit.
    let path = held.header("location").unwrap();
    let mut reader = node.client().await;
    reader.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n{{")).await;
    reader.reply().await.expect_problem(503, "timeout", "within 1 s");
    machine.log.release();
}

#[test]
fn an_impossible_limit_is_named_with_its_bound() {
    let none = HttpOptions { idle_seconds_max: 0, ..PATIENT };
    assert_eq!(none.check().unwrap_err().to_string(), "idle_seconds_max is 0 where at least 1 is needed");
    let small = HttpOptions { header_bytes_max: 1_023, ..PATIENT };
    assert_eq!(small.check().unwrap_err().to_string(), "header_bytes_max is 1023 where at least 1024 is needed");
    assert_eq!(HttpOptions::default().check(), Ok(()));
}

#[tokio::test]
async fn by_default_a_body_has_a_mebibyte_and_a_batch_eight() {
    const MIB: usize = 1024 * 1024;
    let (node, _machine) = node_within(HttpOptions::default()).await;
    let padded = |text: &str, length: usize| text.to_owned() + &" ".repeat(length - text.len());
    for (path, text, length, status) in [(RESERVE, r#"{"user":"u"}"#, MIB, 201), ("/v1/batch", BATCH_OF_ONE, 8 * MIB, 200)] {
        assert_eq!(node.post(path, &padded(text, length)).await.status, status, "{path}");
        node.post(path, &padded(text, length + 1)).await.expect_problem(413, "body_too_large", &format!("{length} bytes"));
    }
}
