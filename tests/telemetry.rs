//! Traces and the log, from outside: what a collector gets, what it costs when it is gone, and what a line of the log holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use rustix::process::Signal;
use tempfile::TempDir;

mod support;

use support::{Response, Server, WAIT_MAX, connect, response};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// The longest that an orderly stop may take over a collector that does not answer: its bound of 3 s, and a busy machine.
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);

/// A collector: takes OTLP over HTTP, and hands on what it was sent.
struct Collector {
    address: SocketAddr,
    requests: Receiver<Export>,
}

/// One request of an exporter.
#[derive(Debug)]
struct Export {
    head: String,
    content: ExportTraceServiceRequest,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let sender = sender.clone();
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(export) = take_export(&mut stream) {
                        if sender.send(export).is_err() {
                            return;
                        }
                        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("the exporter listens");
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// Every span that the node sent until it ended, which it has.
    fn spans(&self) -> Vec<Span> {
        let resources = self.requests.try_iter().flat_map(|export| export.content.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

/// Reads one request of an exporter; `None` at the end of its connection.
fn take_export(stream: &mut BufReader<TcpStream>) -> Option<Export> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).expect("the exporter sends") == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.expect("an export has a length")];
    stream.read_exact(&mut body).expect("the exporter sends");
    Some(Export { head, content: ExportTraceServiceRequest::decode(&*body).expect("an export is OTLP") })
}

/// A node whose spans go to `collector`.
fn node(directory: &Path, collector: SocketAddr, more: &[&str]) -> Server {
    let endpoint = format!("telemetry.otlp_endpoint=http://{collector}");
    let server = Server::start_with(directory, &[&["--set", &endpoint], more].concat());
    server.wait_ready();
    server
}

/// A request with more lines in its head.
fn call(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut stream = connect(server.address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    response(stream).unwrap()
}

fn caller(is_sampled: bool) -> String {
    format!("traceparent: 00-{TRACE}-{CALLER}-0{}\r\ntracestate: shop=cart\r\n", u8::from(is_sampled))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

fn text(text: &str) -> Option<Value> {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }.value
}

#[test]
fn a_request_is_a_child_of_its_callers_span() {
    let (folder, collector) = (TempDir::new().unwrap(), Collector::start());
    let server =
        node(folder.path(), collector.address, &["--set", "telemetry.sample_ratio=0", "--set", "telemetry.service_name=gate"]);
    assert_eq!(call(&server, "PUT", "/v1/stocks/shoe", &caller(true), r#"{"quantity":5}"#).status, 201);
    server.terminate().expect(0, &[]);

    let export = collector.requests.recv_timeout(WAIT_MAX).unwrap();
    assert!(export.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", export.head);
    assert!(export.head.to_lowercase().contains("content-type: application/x-protobuf\r\n"), "{}", export.head);
    let [resource] = &*export.content.resource_spans else { panic!("{export:?}") };
    let about = &resource.resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(about, "service.name").cloned(), text("gate"));
    assert_eq!(attribute(about, "service.version").cloned(), text(env!("CARGO_PKG_VERSION")));
    let [scope] = &*resource.scope_spans else { panic!("{resource:?}") };
    let [span] = &*scope.spans else { panic!("{scope:?}") };
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_ne!(hex(&span.span_id), CALLER);
    assert_eq!(span.trace_state, "shop=cart");
    assert_eq!(span.name, "PUT /v1/stocks/{sku}");
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert_eq!(attribute(&span.attributes, "http.request.method").cloned(), text("PUT"));
    assert_eq!(attribute(&span.attributes, "http.route").cloned(), text("/v1/stocks/{sku}"));
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), Some(&Value::IntValue(201)));
    assert_eq!(span.status.as_ref().map_or(StatusCode::Unset.into(), |status| status.code), i32::from(StatusCode::Unset));
    assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    assert_eq!(collector.spans(), Vec::new(), "the probes of the test have no sampled caller");
}

#[test]
fn an_answer_of_the_5xx_is_an_error_and_one_of_the_4xx_is_none() {
    let (folder, collector) = (TempDir::new().unwrap(), Collector::start());
    // More free space than any disk has, so that changes are refused.
    let full = ["--set", "telemetry.sample_ratio=0", "--set", "log.disk_free_bytes_min=1099511627776"];
    let server = node(folder.path(), collector.address, &full);
    let started_at = Instant::now();
    while !server.get("/metrics").body.contains("\ntidegate_disk_low 1\n") {
        assert!(started_at.elapsed() < WAIT_MAX, "the node does not look at its disk");
        thread::yield_now();
    }
    assert_eq!(call(&server, "GET", "/v1/stocks/shoe", &caller(true), "").status, 404);
    assert_eq!(call(&server, "GET", "/nowhere/special", &caller(true), "").status, 404);
    assert_eq!(call(&server, "PUT", "/v1/stocks/shoe", &caller(true), r#"{"quantity":5}"#).status, 503);
    server.terminate().expect(0, &[]);
    let mut seen: Vec<_> =
        collector.spans().into_iter().map(|span| (span.name, span.status.map_or(0, |status| status.code))).collect();
    seen.sort();
    let error = i32::from(StatusCode::Error);
    let expected = [("GET", 0), ("GET /v1/stocks/{sku}", 0), ("PUT /v1/stocks/{sku}", error)];
    assert_eq!(seen, expected.map(|(name, code)| (name.to_owned(), code)));
}

#[test]
fn a_caller_that_is_not_sampled_is_not_exported() {
    let (folder, collector) = (TempDir::new().unwrap(), Collector::start());
    let server = node(folder.path(), collector.address, &["--set", "telemetry.sample_ratio=1"]);
    assert_eq!(call(&server, "GET", "/v1/time", &caller(false), "").status, 200);
    assert_eq!(call(&server, "GET", "/v1/stocks/shoe", "", "").status, 404);
    server.terminate().expect(0, &[]);
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE), "{spans:?}");
    assert!(spans.iter().all(|span| span.name != "GET /v1/time"), "{spans:?}");
    assert_eq!(spans.iter().filter(|span| span.name == "GET /v1/stocks/{sku}").count(), 1, "a trace that begins here: {spans:?}");
}

#[test]
fn by_default_no_connection_is_made() {
    let folder = TempDir::new().unwrap();
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    collector.set_nonblocking(true).unwrap();
    let mut command = support::program(&["serve", "--listen", "127.0.0.1:0", "--set", "telemetry.sample_ratio=1", "--data-dir"]);
    // What opentelemetry itself would read is no setting of the node's.
    command.arg(folder.path()).env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.local_addr().unwrap()));
    let server = Server::from_command(command);
    server.wait_ready();
    assert_eq!(call(&server, "GET", "/v1/time", &caller(true), "").status, 200);
    assert!(!server.get("/metrics").body.contains("tidegate_trace_spans"));
    server.terminate().expect(0, &[]);
    assert_eq!(collector.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_collector_that_is_down_is_told_once_and_counted_and_the_stop_stays_orderly() {
    let folder = TempDir::new().unwrap();
    // Nobody listens on a port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = node(folder.path(), address, &["--set", "telemetry.sample_ratio=1"]);
    let failed = |server: &Server| {
        let metrics = server.get("/metrics").body;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(r#"tidegate_trace_spans_total{outcome="failed"} "#)).map(str::parse);
        line.expect("the metric is there").expect("a counter is a number")
    };
    // Two failures, one after the other: what is failed once cannot fail again.
    let (mut before, started_at): (u64, _) = (0, Instant::now());
    for _ in 0..2 {
        let now = loop {
            let now = failed(&server);
            if now > before {
                break now;
            }
            assert!(started_at.elapsed() < WAIT_MAX, "no further span failed");
        };
        before = now;
    }
    server.signal(Signal::TERM);
    let asked_at = Instant::now();
    let finished = server.finish().expect(0, &["spans could not be sent to the collector", "stopped"]);
    assert!(asked_at.elapsed() < STOP_WAIT_MAX, "{:?}", asked_at.elapsed());
    assert_eq!(finished.stderr.matches("spans could not be sent").count(), 1, "{}", finished.stderr);
}

#[test]
fn a_collector_that_never_answers_costs_no_request_and_bounds_the_stop() {
    let folder = TempDir::new().unwrap();
    // Connections are taken by the operating system, and nobody ever reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = node(folder.path(), silent.local_addr().unwrap(), &["--set", "telemetry.sample_ratio=1"]);
    assert_eq!(server.put("/v1/stocks/shoe", r#"{"quantity":5000}"#).status, 201);
    // More spans than may wait: on one connection, one after the other, so that a span that blocked would block the next request.
    let mut stream = BufReader::new(connect(server.address).unwrap());
    for number in 0..6_000 {
        let request = "GET /v1/stocks/shoe HTTP/1.1\r\nhost: node\r\n\r\n";
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let begin = head.len();
            assert_ne!(stream.read_line(&mut head).unwrap(), 0, "answer {number} is cut off: {head:?}");
            length = head[begin..].strip_prefix("content-length: ").map_or(length, |length| length.trim_end().parse().unwrap());
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
    let metrics = server.get("/metrics").body;
    let dropped = metrics.lines().find_map(|line| line.strip_prefix(r#"tidegate_trace_spans_total{outcome="dropped"} "#));
    let failed = metrics.lines().find_map(|line| line.strip_prefix(r#"tidegate_trace_spans_total{outcome="failed"} "#));
    let count = |text: Option<&str>| text.expect("the metric is there").parse::<u64>().expect("a counter is a number");
    // Whatever is neither gone nor waiting was refused: 4,096 may wait.
    assert!(count(dropped) + count(failed) >= 6_000 - 4_096, "{dropped:?} {failed:?}");
    drop(stream);
    server.signal(Signal::TERM);
    let asked_at = Instant::now();
    server.finish().expect(0, &["stopped", "the last spans may not have reached the collector"]);
    assert!(asked_at.elapsed() < STOP_WAIT_MAX, "{:?}", asked_at.elapsed());
}

/// Every line of a log in JSON.
fn lines(log: &str) -> Vec<serde_json::Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line} is no JSON: {error}"))).collect()
}

#[track_caller]
fn line<'a>(lines: &'a [serde_json::Value], message: &str) -> &'a serde_json::Value {
    lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no line says {message:?}: {lines:?}"))
}

#[test]
fn a_line_in_json_has_time_level_target_message_and_fields() {
    let folder = TempDir::new().unwrap();
    let server = Server::start_with(folder.path(), &["--log-format", "json"]);
    server.wait_ready();
    assert_eq!(call(&server, "GET", "/v1/time", &caller(true), "").status, 200);
    let lines = lines(&server.terminate().expect(0, &[]).stderr);
    for line in &lines {
        let time = line["timestamp"].as_str().expect("a time is a text");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&line["level"].as_str().expect("a level is a text")), "{line}");
        assert!(line["target"].as_str().expect("a target is a text").starts_with("tidegate"), "{line}");
        assert!(line["message"].is_string(), "{line}");
    }
    let ready = line(&lines, "ready");
    assert_eq!((&ready["level"], &ready["groups"]), (&"INFO".into(), &0.into()));
    assert!(ready["target"].as_str().expect("a target is a text").ends_with("::serve"), "{ready}");
    assert_eq!(line(&lines, "stopping: what was admitted is being finished")["signal"], "SIGTERM");
}

/// A node that says everything about requests, to a file: it would wait for a pipe that nobody reads.
fn talkative(directory: &Path, log: &Path, more: &[&str]) -> Server {
    let mut command = support::program(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--log-filter", "info,tidegate_api=debug", "--data-dir"]).arg(directory.join("data")).args(more);
    command.stderr(File::create(log).unwrap());
    let server = Server::from_command(command);
    server.wait_ready();
    server
}

#[test]
fn a_line_about_a_request_carries_its_trace() {
    let about = |log: &Path, route: &str| {
        let log = lines(&fs::read_to_string(log).unwrap());
        log.into_iter().find(|line| line["message"] == "answered" && line["route"] == route).expect("the request is told")
    };
    // Without an export the caller's trace, and nothing where the caller names none.
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let server = talkative(folder.path(), &log, &[]);
    assert_eq!(call(&server, "GET", "/v1/time", &caller(false), "").status, 200);
    assert_eq!(call(&server, "GET", "/v1/stocks/shoe", "", "").status, 404);
    server.terminate().expect(0, &[]);
    let answered = about(&log, "/v1/time");
    assert_eq!((&answered["trace_id"], &answered["status"]), (&TRACE.into(), &200.into()));
    assert_eq!(about(&log, "/v1/stocks/{sku}").get("trace_id"), None);

    // With it, one that begins here has an id too.
    let (folder, collector) = (TempDir::new().unwrap(), Collector::start());
    let log = folder.path().join("log");
    let endpoint = format!("telemetry.otlp_endpoint=http://{}", collector.address);
    let server = talkative(folder.path(), &log, &["--set", &endpoint, "--set", "telemetry.sample_ratio=1"]);
    assert_eq!(call(&server, "GET", "/v1/time", &caller(true), "").status, 200);
    assert_eq!(call(&server, "GET", "/v1/stocks/shoe", "", "").status, 404);
    server.terminate().expect(0, &[]);
    assert_eq!(about(&log, "/v1/time")["trace_id"], TRACE);
    let spans = collector.spans();
    let span = spans.iter().find(|span| span.name == "GET /v1/stocks/{sku}").expect("the request is exported");
    assert_eq!(about(&log, "/v1/stocks/{sku}")["trace_id"], hex(&span.trace_id));
}
