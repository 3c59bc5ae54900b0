//! The door before it is open, while it closes, and when what is behind it refuses or fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::atomic::Ordering;

use support::*;
use tidegate_api::HttpOptions;
use tidegate_engine::{ActorName, EngineOptions, Submission};
use tidegate_stock::{Command, Quantity, Sku, UserId};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

const RESERVE: &str = "/v1/stocks/s/reservations";

/// Limits that no test reaches, but for that of an answer.
const QUICK: HttpOptions = HttpOptions {
    worker_threads: 2,
    body_bytes_max: 1024 * 1024,
    batch_body_bytes_max: 1024 * 1024,
    bodies_bytes_max: 16 * 1024 * 1024,
    header_bytes_max: 16 * 1024,
    header_seconds_max: 600,
    body_seconds_max: 600,
    idle_seconds_max: 600,
    drain_seconds: 0,
    answer_seconds_max: 1,
    connections_max: 1_000,
    send_buffer_bytes: 128 * 1024,
    feed_heartbeat_seconds: 600,
    feed_stall_seconds_max: 600,
    feed_streams_max: 1_000,
};

async fn open_node() -> (Node, Machine) {
    let (node, machine) = node().await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1000}"#).await.status, 201);
    (node, machine)
}

#[tokio::test]
async fn a_door_that_is_shut_answers_probes_and_says_how_far_recovery_is() {
    let node = shut_node(HttpOptions::default()).await;
    for (method, path, body) in [
        ("PUT", "/v1/stocks/s", r#"{"quantity":1}"#),
        ("GET", "/v1/stocks/s", ""),
        ("POST", RESERVE, r#"{"user":"u"}"#),
        ("POST", RESERVE, "{"),
        ("GET", "/v1/reservations/x", ""),
        ("POST", "/v1/reservations/x/confirm", ""),
        ("POST", "/v1/reservations/x/release", ""),
        ("POST", "/v1/reservations/x/return", ""),
        ("POST", "/v1/reservations/x/extend", r#"{"hold_seconds":1}"#),
        ("GET", RESERVE, ""),
        ("GET", "/v1/stocks", ""),
        ("PATCH", "/v1/stocks/s", "{}"),
        ("POST", "/v1/stocks/s/adjustments", r#"{"delta":1,"reason":"x"}"#),
        ("POST", "/v1/stocks/s/pause", ""),
        ("POST", "/v1/stocks/s/reopen", ""),
        ("POST", "/v1/stocks/s/close", ""),
        ("POST", "/v1/stocks/s/archive", ""),
        ("POST", "/v1/batch", r#"{"commands":[{"op":"reserve","sku":"s","user":"u"}]}"#),
        ("GET", "/v1/cluster", ""),
        ("GET", "/v1/time", ""),
        ("GET", "/readyz", ""),
    ] {
        node.ask(method, path, &[], body).await.expect_problem(503, "recovering", "not been read");
    }
    node.door.report_recovery("3 of 8 streams");
    node.get("/readyz").await.expect_problem(503, "recovering", "3 of 8 streams");
    assert_eq!(node.get("/livez").await.status, 200);
    assert_eq!(node.get("/metrics").await.status, 200);
    node.get("/nowhere").await.expect_problem(404, "not_found", "nothing");

    let machine = machine(EngineOptions::default(), 1_000);
    node.door.open(machine.engine.clone(), machine.feed.clone());
    assert_eq!(node.get("/readyz").await.status, 200);
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1}"#).await.status, 201);
}

#[tokio::test]
async fn what_is_under_way_at_shutdown_is_answered_and_its_connection_closed() {
    let (mut node, machine) = open_node().await;
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    machine.log.wait_proposed(2).await;
    node.begin_shutdown();
    eventually_refused(&node).await;
    machine.log.release();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (201, Some("close")));
    client.closed().await;
    node.wait_shutdown().await;
    machine.engine.stop().await;
}

/// Waits until the server accepts nothing more, so that its shutdown has certainly begun.
async fn eventually_refused(node: &Node) {
    let address = node.address;
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the server should accept nothing more");
}

#[tokio::test]
async fn idle_connections_are_closed_at_shutdown() {
    let (mut node, _machine) = open_node().await;
    let silent = node.client().await;
    let mut used = node.client().await;
    assert_eq!(used.ask("GET", "/livez", &[], "").await.status, 200);
    node.begin_shutdown();
    tokio::join!(silent.closed(), used.closed());
    node.wait_shutdown().await;
}

/// A client whose call's header has certainly been read and whose body has not been sent.
async fn client_within_a_request(node: &Node) -> Client {
    let mut client = node.client().await;
    client.send(format!("POST {RESERVE} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 12\r\n\r\n")).await;
    let mut go_ahead = [0; 25];
    timeout(PATIENCE, client.stream.read_exact(&mut go_ahead)).await.expect("a go-ahead should come").unwrap();
    client
}

#[tokio::test]
async fn a_request_that_completes_after_the_stop_is_told_so() {
    let (mut node, _machine) = open_node().await;
    let mut client = client_within_a_request(&node).await;
    node.begin_shutdown();
    eventually_refused(&node).await;
    client.send(r#"{"user":"u"}"#).await;
    let reply = client.reply().await;
    reply.expect_problem(503, "stopping", "stopping");
    assert_eq!(reply.header("connection"), Some("close"));
    client.closed().await;
    node.wait_shutdown().await;
}

#[tokio::test]
async fn a_door_that_is_stopping_says_so_to_whoever_still_comes() {
    let (node, _machine) = open_node().await;
    let mut used = node.client().await;
    assert_eq!(used.ask("GET", "/livez", &[], "").await.status, 200);
    node.door.begin_stop();
    node.door.begin_stop();
    used.closed().await;
    for (method, path, body) in [("GET", "/readyz", ""), ("GET", "/v1/stocks/s", ""), ("POST", RESERVE, r#"{"user":"u"}"#)] {
        let mut client = node.client().await;
        let reply = client.ask(method, path, &[], body).await;
        reply.expect_problem(503, "stopping", "stopping");
        assert_eq!(reply.header("connection"), Some("close"));
    }
    let mut client = node.client().await;
    let reply = client.ask("GET", "/livez", &[], "").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.closed().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_client_that_never_completes_its_request() {
    let (mut node, _machine) = node_with(QUICK, EngineOptions::default()).await;
    let client = client_within_a_request(&node).await;
    node.begin_shutdown();
    node.wait_shutdown().await;
    client.closed().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_timeout_at_shutdown_too() {
    let (mut node, machine) = node_with(QUICK, EngineOptions::default()).await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1000}"#).await.status, 201);
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[], r#"{"user":"u"}"#)).await;
    machine.log.wait_proposed(2).await;
    node.begin_shutdown();
    client.reply().await.expect_problem(503, "timeout", "within 1 s");
    node.wait_shutdown().await;
}

#[tokio::test]
async fn a_full_ring_is_overloaded() {
    let options = EngineOptions {
        ring_slots: 64,
        batch_commands_max: 1,
        group_events_max: 1,
        groups_in_flight_max: 1,
        ..EngineOptions::default()
    };
    let (node, machine) = node_with(HttpOptions::default(), options).await;
    assert_eq!(node.put("/v1/stocks/s", r#"{"quantity":1000}"#).await.status, 201);
    machine.log.hold();
    // One group in flight, one event in the open group, and every slot of the ring.
    let mut admitted = Vec::new();
    let reserve = || Command::Reserve {
        sku: Sku::new("s").unwrap(),
        user: UserId::new("u").unwrap(),
        quantity: Quantity::ONE,
        hold_seconds: None,
        reference: None,
    };
    let fill = async {
        while admitted.len() < 1 + 1 + options.ring_slots {
            let submission = Submission { command: reserve(), key: None, actor: ActorName::new("test").unwrap() };
            match machine.engine.try_submit(submission) {
                Ok(pending) => admitted.push(pending),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, fill).await.expect("the ring should fill");
    let reply = node.post(RESERVE, r#"{"user":"u"}"#).await;
    reply.expect_problem(503, "overloaded", "64 slots");
    assert_eq!(reply.header("retry-after"), Some("1"));
    machine.log.release();
    for pending in admitted {
        assert!(timeout(PATIENCE, pending).await.expect("an admitted command should be answered").is_ok());
    }
    assert_eq!(node.get("/v1/stocks/s").await.json()["reserved"], 66);
}

#[tokio::test]
async fn a_disk_that_is_low_is_overloaded_for_changes_and_not_for_reads() {
    let (node, machine) = open_node().await;
    let path = node.post(RESERVE, r#"{"user":"u"}"#).await.header("location").unwrap().to_owned();
    machine.disk_low.store(true, Ordering::SeqCst);
    node.post(RESERVE, r#"{"user":"u"}"#).await.expect_problem(503, "overloaded", "disk");
    node.put("/v1/stocks/t", r#"{"quantity":1}"#).await.expect_problem(503, "overloaded", "disk");
    assert_eq!(node.get(&path).await.status, 200);
    assert_eq!(node.get("/v1/stocks/s").await.status, 200);
    machine.disk_low.store(false, Ordering::SeqCst);
    assert_eq!(node.post(RESERVE, r#"{"user":"u"}"#).await.status, 201);
}

#[tokio::test]
async fn no_room_for_another_key_is_overloaded_for_keyed_calls_only() {
    let node = shut_node(HttpOptions::default()).await;
    let machine = machine(EngineOptions::default(), 1);
    node.door.open(machine.engine.clone(), machine.feed.clone());
    node.put("/v1/stocks/s", r#"{"quantity":1000}"#).await;
    assert_eq!(node.post_keyed(RESERVE, "k1", r#"{"user":"u"}"#).await.status, 201);
    node.post_keyed(RESERVE, "k2", r#"{"user":"u"}"#).await.expect_problem(503, "overloaded", "1 keys");
    assert_eq!(node.post_keyed(RESERVE, "k1", r#"{"user":"u"}"#).await.header("idempotency-replayed"), Some("true"));
    assert_eq!(node.post(RESERVE, r#"{"user":"u"}"#).await.status, 201);
}

#[tokio::test]
async fn a_lost_answer_is_outcome_unknown_and_the_node_takes_nothing_more() {
    let (node, machine) = open_node().await;
    machine.log.hold();
    let mut client = node.client().await;
    client.send(request("POST", RESERVE, &[("x-request-id", "again")], r#"{"user":"u"}"#)).await;
    machine.log.wait_proposed(2).await;
    machine.log.fail();
    let reply = client.reply().await;
    reply.expect_problem(503, "outcome_unknown", "unknown");
    assert_eq!(reply.header("x-request-id"), Some("again"));
    let next = client.ask("POST", RESERVE, &[], r#"{"user":"u"}"#).await;
    next.expect_problem(503, "stopping", "stopping");
    assert_eq!(next.header("connection"), Some("close"));
}

#[tokio::test]
async fn an_engine_that_has_stopped_is_stopping() {
    let (node, machine) = open_node().await;
    machine.engine.stop().await;
    node.post(RESERVE, r#"{"user":"u"}"#).await.expect_problem(503, "stopping", "stopping");
    node.get("/readyz").await.expect_problem(503, "stopping", "stopping");
    assert_eq!(node.get("/livez").await.status, 200);
    assert_eq!(node.get("/metrics").await.status, 200);
}
