//! What every answer has in common, and the calls about the node itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use serde_json::json;
use support::*;
use tidegate_api::HttpOptions;

#[tokio::test]
async fn every_answer_carries_the_requests_own_id() {
    let (node, _machine) = node().await;
    let id = [("x-request-id", "shop-42/a!~")];
    for (method, path, body, status) in [
        ("PUT", "/v1/stocks/s", r#"{"quantity":1}"#, 201),
        ("GET", "/v1/stocks/s", "", 200),
        ("GET", "/v1/stocks/none", "", 404),
        ("GET", "/nowhere", "", 404),
        ("DELETE", "/v1/stocks/s", "", 405),
        ("PUT", "/v1/stocks/s", "{", 400),
        ("PUT", "/v1/stocks/s", r#"{"quantity":-1}"#, 422),
        ("GET", "/livez", "", 200),
    ] {
        let reply = node.ask(method, path, &id, body).await;
        assert_eq!((reply.status, reply.header("x-request-id")), (status, Some("shop-42/a!~")), "{method} {path}");
    }
    let longest = "i".repeat(128);
    let reply = node.ask("GET", "/livez", &[("x-request-id", &longest)], "").await;
    assert_eq!(reply.header("x-request-id"), Some(longest.as_str()));
}

#[tokio::test]
async fn a_request_without_a_sane_id_gets_a_new_one() {
    let (node, _machine) = node().await;
    let long = "i".repeat(129);
    let mut given = Vec::new();
    for headers in
        [&[][..], &[("x-request-id", "")], &[("x-request-id", "a b")], &[("x-request-id", "é")], &[("x-request-id", &long)]]
    {
        let id = node.ask("GET", "/livez", headers, "").await.header("x-request-id").unwrap().to_owned();
        assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        assert!(headers.iter().all(|(_, sent)| *sent != id), "{id}");
        given.push(id);
    }
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 5, "{given:?}");
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let (node, _machine) = node().await;
    for path in ["/", "/v1", "/v1/stocks/", "/v1/stocks/s/reservations/x", "/v1/reservations/x/pay", "/v2/stocks/s", "/V1/time"] {
        node.get(path).await.expect_problem(404, "not_found", "nothing");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_know_is_told_with_those_it_knows() {
    let (node, _machine) = node().await;
    for (method, path, known) in [
        ("DELETE", "/v1/stocks/s", &["GET", "HEAD", "PATCH", "PUT"][..]),
        ("OPTIONS", "/v1/stocks/s", &["GET", "HEAD", "PATCH", "PUT"]),
        ("POST", "/v1/stocks", &["GET", "HEAD"]),
        ("DELETE", "/v1/stocks/s/reservations", &["GET", "HEAD", "POST"]),
        ("GET", "/v1/stocks/s/adjustments", &["POST"]),
        ("PUT", "/v1/stocks/s/pause", &["POST"]),
        ("GET", "/v1/stocks/s/reopen", &["POST"]),
        ("PATCH", "/v1/stocks/s/close", &["POST"]),
        ("DELETE", "/v1/stocks/s/archive", &["POST"]),
        ("GET", "/v1/reservations/r/return", &["POST"]),
        ("PUT", "/v1/reservations/r/extend", &["POST"]),
        ("GET", "/v1/batch", &["POST"]),
        ("POST", "/v1/cluster", &["GET", "HEAD"]),
        ("OPTIONS", "/openapi.json", &["GET", "HEAD"]),
        ("POST", "/docs", &["GET", "HEAD"]),
        ("PUT", "/v1/reservations/r", &["GET", "HEAD"]),
        ("GET", "/v1/reservations/r/confirm", &["POST"]),
        ("PATCH", "/v1/reservations/r/release", &["POST"]),
        ("POST", "/v1/time", &["GET", "HEAD"]),
        ("POST", "/metrics", &["GET", "HEAD"]),
        ("BREW", "/livez", &["GET", "HEAD"]),
    ] {
        let reply = node.ask(method, path, &[], "").await;
        reply.expect_problem(405, "method_not_allowed", "allow");
        let mut allowed: Vec<_> = reply.header("allow").unwrap().split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed, known, "{method} {path}");
    }
}

#[tokio::test]
async fn the_time_is_the_engines() {
    let (node, machine) = node().await;
    let reply = node.get("/v1/time").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"now": "2027-01-15T08:00:00.000Z", "unix_ms": 1_800_000_000_000_u64})));
    machine.clock.set(START.plus_seconds(1));
    assert_eq!(node.get("/v1/time").await.text("now"), "2027-01-15T08:00:01.000Z");
}

#[tokio::test]
async fn a_node_that_stands_alone_leads_every_shard() {
    let (node, _machine) = node().await;
    let before = node.get("/v1/cluster").await;
    let expect = |committed: u64| {
        json!({
            "cluster": null,
            "node": 1,
            "nodes": [{"node": 1, "address": null, "role": "voter", "draining": false, "heard_ms": 0, "clock_ahead_ms": 0,
                       "clock_error_ms": 0, "clock_off": false, "settings_differ": []}],
            "shards": [{
                "shard": 0,
                "leader": 1,
                "term": 1,
                "committed": committed,
                "replicas": [{"node": 1, "applied": committed, "lag": 0}],
            }],
        })
    };
    assert_eq!((before.status, before.json()), (200, expect(0)));
    node.put("/v1/stocks/s", r#"{"quantity":1}"#).await;
    assert_eq!(node.get("/v1/cluster").await.json(), expect(1));
    node.door.name_node(7);
    assert_eq!(node.get("/v1/cluster").await.json()["nodes"][0]["node"], json!(7));
}

#[tokio::test]
async fn an_open_door_is_live_and_ready() {
    let (node, _machine) = node().await;
    assert_eq!(node.get("/livez").await.status, 200);
    assert_eq!(node.get("/readyz").await.status, 200);
    assert_eq!(node.ask("HEAD", "/readyz", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_trace_is_accepted_whatever_it_says() {
    let (node, _machine) = node().await;
    for trace in ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "nonsense"] {
        assert_eq!(node.ask("GET", "/v1/time", &[("traceparent", trace)], "").await.status, 200);
    }
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_show_the_shards() {
    let (node, machine) = node().await;
    node.put("/v1/stocks/s", r#"{"quantity":9}"#).await;
    node.put("/v1/stocks/s", r#"{"quantity":8}"#).await;
    node.post_keyed("/v1/stocks/s/reservations", "k", r#"{"user":"u"}"#).await;
    node.post("/v1/stocks/s/reservations", r#"{"user":"v"}"#).await;
    node.get("/nowhere").await;
    let mut client = node.client().await;
    let reply = client.ask("GET", "/metrics", &[], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(reply.body).unwrap();
    for line in [
        r#"tidegate_http_requests_total{route="/v1/stocks/{sku}",status="2xx"} 1"#,
        r#"tidegate_http_requests_total{route="/v1/stocks/{sku}",status="4xx"} 1"#,
        r#"tidegate_http_requests_total{route="/v1/stocks/{sku}/reservations",status="2xx"} 2"#,
        r#"tidegate_http_requests_total{route="unmatched",status="4xx"} 1"#,
        r#"tidegate_http_request_seconds_count{route="/v1/stocks/{sku}"} 2"#,
        r#"tidegate_open_holds{shard="0"} 2"#,
        r#"tidegate_reservations{shard="0"} 2"#,
        r#"tidegate_idempotency_keys{shard="0"} 1"#,
        r#"tidegate_lapse_lag_seconds{shard="0"} 0.0"#,
        r#"tidegate_uncommitted_groups{shard="0"} 0"#,
    ] {
        assert!(text.lines().any(|given| given == line), "{line} is not in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let open_metrics = client.ask("GET", "/metrics", &[("accept", "application/openmetrics-text; version=1.0.0")], "").await;
    assert_eq!(open_metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));

    machine.log.hold();
    let mut waiting = node.client().await;
    waiting.send(request("POST", "/v1/stocks/s/reservations", &[], r#"{"user":"w"}"#)).await;
    machine.log.wait_proposed(4).await;
    let text = String::from_utf8(client.ask("GET", "/metrics", &[], "").await.body).unwrap();
    assert!(text.contains(r#"tidegate_uncommitted_groups{shard="0"} 1"#), "{text}");
    machine.log.release();
    assert_eq!(waiting.reply().await.status, 201);
}

#[tokio::test]
async fn open_connections_are_counted_while_they_last() {
    let (node, _machine) = node().await;
    let mut client = node.client().await;
    let shows = async |client: &mut Client, count: u32| {
        let reply = client.ask("GET", "/metrics", &[], "").await;
        String::from_utf8(reply.body).unwrap().contains(&format!("tidegate_http_connections {count}\n"))
    };
    assert!(shows(&mut client, 1).await);
    let mut other = node.client().await;
    assert_eq!(other.ask("GET", "/livez", &[], "").await.status, 200);
    assert!(shows(&mut client, 2).await);
    drop(other);
    let waited = tokio::time::timeout(PATIENCE, async { while !shows(&mut client, 1).await {} });
    waited.await.expect("a closed connection should be counted no more");
}

/// A metric that cannot be written.
#[derive(Debug)]
struct Broken;

impl Collector for Broken {
    fn encode(&self, _: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        Err(std::fmt::Error)
    }
}

#[tokio::test]
async fn a_failure_inside_is_internal_and_says_nothing_of_its_cause() {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Broken));
    let node = node_counting(HttpOptions::default(), registry).await;
    let reply = node.get("/metrics").await;
    reply.expect_problem(500, "internal", "log");
    assert!(!reply.text("detail").contains("metric"), "{reply:?}");
}
