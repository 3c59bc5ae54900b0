//! What a node shows of itself, and what watches it: `/metrics` of a node that worked, and of a member of a cluster, read strictly; and the
//! dashboard, the alert rules and their page, held against what is really shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

#[path = "support/exposition.rs"]
mod exposition;
#[path = "support/promql.rs"]
mod promql;
mod support;

use exposition::{Format, Labels, Shown};
use support::{Response, Server, WAIT_MAX, connect, finish, program, request_with, response, run};

/// Labels that Prometheus adds to everything that it scrapes.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// The values that a label may have, but for numbers: those of `shard`, `node` and `le`.
const LABELS: &[(&str, &[&str])] = &[
    ("status", &["2xx", "3xx", "4xx", "5xx"]),
    ("cause", &["broken", "slow"]),
    ("operation", &["write", "recall", "list"]),
    ("reason", &["ring_full", "disk_low", "keys_full", "memory_full", "users_full", "recalls_full", "history_failed", "stopping"]),
    ("version", &[env!("CARGO_PKG_VERSION")]),
    (
        "command",
        &[
            "create_stock",
            "change_stock",
            "adjust_stock",
            "pause_stock",
            "reopen_stock",
            "close_stock",
            "archive_stock",
            "reserve",
            "confirm",
            "release",
            "return",
            "extend",
            "read",
        ],
    ),
    (
        "route",
        &[
            "unmatched",
            "/v1/stocks",
            "/v1/stocks/{sku}",
            "/v1/stocks/{sku}/adjustments",
            "/v1/stocks/{sku}/pause",
            "/v1/stocks/{sku}/reopen",
            "/v1/stocks/{sku}/close",
            "/v1/stocks/{sku}/archive",
            "/v1/stocks/{sku}/reservations",
            "/v1/reservations/{id}",
            "/v1/reservations/{id}/confirm",
            "/v1/reservations/{id}/release",
            "/v1/reservations/{id}/return",
            "/v1/reservations/{id}/extend",
            "/v1/batch",
            "/v1/events",
            "/v1/cluster",
            "/v1/cluster/members",
            "/v1/cluster/leave",
            "/v1/cluster/drain",
            "/v1/cluster/resume",
            "/v1/backup",
            "/v1/time",
            "/livez",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/docs",
        ],
    ),
];

/// The codes of the contract.
const CODES: &str = "invalid_request unauthenticated forbidden unknown_sku unknown_reservation not_found method_not_allowed sold_out \
    limit_reached not_open paused closed stock_exists stock_in_use insufficient_stock reservation_released reservation_expired \
    reservation_confirmed reservation_returned reservation_not_confirmed cursor_expired precondition_failed body_too_large \
    unsupported_media_type idempotency_key_reused invalid_quantity invalid_identifier out_of_range rate_limited internal overloaded \
    timeout outcome_unknown not_leader no_quorum recovering stopping member_exists";

/// What becomes of a command beside the codes of its rejections, of a span, and of a request that goes on to another node.
const OUTCOMES: [&str; 9] = ["created", "ok", "replayed", "exported", "failed", "dropped", "answered", "not_sent", "unknown"];

/// How every metric begins that only a member of a cluster shows.
const CLUSTER: &str = "tidegate_cluster_";

/// Names that the traffic is full of and the metrics must not hold.
const NAMES: [&str; 5] = ["sku-4711", "user-4711", "order-4711", "attempt-4711", "office-4711"];

/// Reservations of the large batches: their log is longer than what a snapshot is made after.
const RUSH: usize = 4_500;
const BATCH: usize = 1_500;

/// What a node showed after it had done everything, in both formats, and what a member of a cluster showed of the cluster.
struct Scraped {
    open_metrics: Shown,
    open_metrics_text: String,
    text: Shown,
    text_text: String,
    reservation: String,
    key: String,
}

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/observability").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(packaging(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A node with a key.
struct Node {
    server: Server,
    key: String,
}

impl Node {
    #[track_caller]
    fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\nauthorization: Bearer {}\r\n", self.key);
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").expect("a text takes more");
        }
        let mut stream = connect(self.server.address).expect("the node takes connections");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("the node takes a request");
        response(stream).expect("the node answers")
    }

    fn scrape(&self) -> (String, Shown) {
        let answer = self.ask("GET", "/metrics", &[("accept", "application/openmetrics-text")], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let shown = Shown::read(&answer.body, Format::OpenMetrics);
        (answer.body, shown)
    }

    /// Scrapes until `holds`.
    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&Shown) -> bool) {
        let began = Instant::now();
        while !holds(&self.scrape().1) {
            assert!(began.elapsed() < WAIT_MAX, "{what} has not come");
            thread::yield_now();
        }
    }
}

/// Starts a node twice, has it do a little of everything, and scrapes it. Once for all tests here.
fn scraped() -> &'static Scraped {
    static SCRAPED: OnceLock<Scraped> = OnceLock::new();
    SCRAPED.get_or_init(|| {
        let mut scraped = work_and_scrape();
        let (open_metrics, text) = scrape_member();
        for (shown, texts, of_member, format) in [
            (&mut scraped.open_metrics, &mut scraped.open_metrics_text, open_metrics, Format::OpenMetrics),
            (&mut scraped.text, &mut scraped.text_text, text, Format::Text),
        ] {
            assert!(!texts.contains(CLUSTER), "a node that stands alone has no cluster");
            let of_cluster = Shown::read(&of_member, format).0.into_iter().filter(|family| family.name.starts_with(CLUSTER));
            shown.0.extend(of_cluster);
            texts.push_str(&of_member);
        }
        scraped
    })
}

/// Where a node listens for others: an address of the loopback network that nothing else uses, made of the process's number.
fn for_nodes(number: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 0x80 | (high & 0x3f), low, number], 8_701))
}

/// What the second node of a cluster of two shows in either format, once it is counted and has had the first one answer.
fn scrape_member() -> (String, String) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let text = |name: &str| folder.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    fs::write(text("secret"), "a secret of the tests, long enough to be one").expect("a temporary folder can be written");
    let settings = |number: u8| -> Vec<String> {
        let listen = format!("cluster.listen={}", for_nodes(number));
        let pairs = [listen, format!("cluster.secret_file={}", text("secret")), "log.disk_free_bytes_min=1048576".to_owned()];
        let data = ["--data-dir".to_owned(), text(&format!("node-{number}"))];
        pairs.into_iter().flat_map(|pair| ["--set".to_owned(), pair]).chain(data).collect()
    };
    let run_on = |number: u8, words: &[&str]| {
        let settings = settings(number);
        run(&words.iter().copied().chain(settings.iter().map(String::as_str)).collect::<Vec<_>>()).expect(0, &[])
    };
    let start = |number: u8| {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--set", "output.filter=error"]);
        command.args(settings(number)).stderr(Stdio::null());
        let server = Server::from_command(command);
        server.wait_ready();
        server
    };
    run_on(1, &["cluster", "init", "--shards", "2"]);
    let first = start(1);
    run_on(2, &["cluster", "join", "--target", &format!("http://{}", first.address)]);
    let second = start(2);
    let began = Instant::now();
    let shown = || Shown::read(&second.get("/metrics").body, Format::Text);
    loop {
        let is_counted = shown().sum("tidegate_cluster_voters", &[]) >= 4.0;
        let lag = shown().series("tidegate_cluster_lag_groups").count();
        // Whichever shard they are in, one of the two is decided by the other node.
        let asked: u32 = (0..8).map(|sku| u32::from(second.get(&format!("/v1/stocks/sku-4711-{sku}")).status == 404)).sum();
        if is_counted && lag == 2 && asked == 8 && shown().series("tidegate_cluster_clock_skew_seconds").count() == 1 {
            break;
        }
        assert!(began.elapsed() < WAIT_MAX, "the second node does not come to count: {}", second.get("/metrics").body);
        thread::yield_now();
    }
    let of_all = |name: &str| shown().sum(name, &[]);
    for (name, expected) in [("tidegate_cluster_members", 4.0), ("tidegate_cluster_voters", 4.0)] {
        assert!((of_all(name) - expected).abs() < 0.5, "{name} is {}", of_all(name));
    }
    for (name, at_least) in
        [("tidegate_cluster_term", 2.0), ("tidegate_cluster_last_index", 2.0), ("tidegate_cluster_committed_index", 2.0)]
    {
        assert!(of_all(name) >= at_least, "{name} is {}", of_all(name));
    }
    assert!(of_all("tidegate_cluster_applied_index") <= of_all("tidegate_cluster_last_index"));
    assert!(of_all("tidegate_cluster_leaderless_seconds") < WAIT_MAX.as_secs_f64());
    assert!(of_all("tidegate_cluster_heard_seconds") < WAIT_MAX.as_secs_f64());
    assert!(of_all("tidegate_cluster_clock_skew_seconds").abs() < 5.0, "both have the clock of this machine");
    let forwarded = |outcome: &str| shown().sum("tidegate_cluster_forwarded_requests_total", &[("outcome", outcome)]);
    assert!(forwarded("answered") >= 1.0 && forwarded("unknown") < 1.0);
    // Nobody has stood against the first node, which began the cluster and leads.
    assert!(of_all("tidegate_cluster_leads") < 0.5);

    let open_metrics = request_with(second.address, "GET", "/metrics", &[("accept", "application/openmetrics-text")], "")
        .expect("the node answers");
    let texts = (open_metrics.body, second.get("/metrics").body);
    assert_eq!(second.terminate().code, Some(0));
    assert_eq!(first.terminate().code, Some(0));
    texts
}

fn work_and_scrape() -> Scraped {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let text = |name: &str| folder.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    let made = run(&["key", "new", "--name", "office-4711", "--role", "admin"]).expect(0, &[]).stdout;
    let (key, entry) = made.split_once("\n\n").expect("an empty line stands between the key and its entry");
    fs::write(text("keys.toml"), entry).expect("a temporary folder can be written");
    let (data, keys) = (text("data"), format!("auth.keys_file={}", text("keys.toml")));
    // The collector is not there, so spans fail; resolved reservations leave memory at once; snapshots come soon.
    let settings = [
        &keys,
        "node.shards=2",
        "engine.resolved_in_memory_max=0",
        "snapshots.log_bytes=1048576",
        "telemetry.otlp_endpoint=http://127.0.0.1:1",
        "telemetry.sample_ratio=1",
        "output.filter=error",
    ];
    let start = || {
        let mut command = program(&["serve", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting])).stderr(Stdio::null());
        Node { server: Server::from_command(command), key: key.to_owned() }
    };

    let node = start();
    // Whether it is ready yet or not, it says so.
    assert!([0.0, 1.0].contains(&node.scrape().1.sum("tidegate_ready", &[])));
    node.server.wait_ready();
    work(&node, "1");
    rush(&node);
    node.wait("a snapshot of each shard", |shown| shown.sum("tidegate_snapshots_total", &[]) >= 2.0);
    assert_eq!(node.server.terminate().code, Some(0));

    let node = start();
    node.server.wait_ready();
    let recovered = node.scrape().1;
    assert!(recovered.sum("tidegate_recovery_reservations_total", &[]) > 0.0, "a snapshot was loaded");
    let reservation = work(&node, "2");
    node.wait("a reservation in the history", |shown| shown.sum("tidegate_history_records_total", &[]) >= 1.0);
    // It has left memory, and is read from where it went.
    assert_eq!(node.ask("GET", &format!("/v1/reservations/{reservation}"), &[], "").status, 200);
    node.wait("a span that was not taken", |shown| shown.series("tidegate_trace_spans_total").count() > 0);
    let from = node.ask("GET", "/v1/events?limit=1", &[], "").json()["next_cursor"].as_str().expect("a page ends").to_owned();
    assert_eq!(node.ask("GET", &format!("/v1/events?limit=10&after={from}"), &[], "").status, 200);

    let answer = node.ask("GET", "/metrics", &[], "");
    assert_eq!(answer.status, 200);
    let (open_metrics_text, open_metrics) = node.scrape();
    let text = Shown::read(&answer.body, Format::Text);
    Scraped { open_metrics, open_metrics_text, text, text_text: answer.body, reservation, key: key.to_owned() }
}

/// A little of everything, for the `time`th time. Returns a reservation that holds nothing.
fn work(node: &Node, time: &str) -> String {
    let stock = "/v1/stocks/sku-4711";
    node.ask("PUT", stock, &[], r#"{"quantity":3}"#);
    let asked = r#"{"user":"user-4711","reference":"order-4711"}"#;
    let attempt = format!("attempt-4711-{time}");
    let reserve = || node.ask("POST", &format!("{stock}/reservations"), &[("idempotency-key", &attempt)], asked);
    let reserved = reserve();
    assert_eq!((reserved.status, reserve().status), (201, 201), "{reserved:?}");
    let id = reserved.json()["id"].as_str().expect("a reservation has an id").to_owned();
    let sold_out = node.ask("POST", &format!("{stock}/reservations"), &[], r#"{"user":"user-4711","quantity":9}"#);
    assert_eq!((sold_out.status, &sold_out.json()["code"]), (409, &Value::from("sold_out")));
    let reservation = format!("/v1/reservations/{id}");
    for step in ["extend", "confirm", "release", "return"] {
        let body = if step == "extend" { r#"{"hold_seconds":60}"# } else { "" };
        node.ask("POST", &format!("{reservation}/{step}"), &[], body);
    }
    assert_eq!(node.ask("GET", &reservation, &[], "").json()["state"], "returned");
    node.ask("POST", &format!("{stock}/adjustments"), &[], r#"{"delta":1,"reason":"found"}"#);
    for step in ["pause", "reopen", "close", "reopen"] {
        assert_eq!(node.ask("POST", &format!("{stock}/{step}"), &[], "").status, 200);
    }
    for (method, path, body, status) in [
        ("PATCH", stock, r#"{"per_user_limit":100}"#, 200),
        ("GET", stock, "", 200),
        ("GET", "/v1/stocks", "", 200),
        ("GET", "/v1/stocks/sku-4711/reservations?user=user-4711", "", 200),
        ("GET", "/v1/stocks/sku-4711-too", "", 404),
        ("PUT", stock, "{", 400),
        ("DELETE", stock, "", 405),
        ("GET", "/sku-4711", "", 404),
        ("GET", "/v1/reservations/user-4711", "", 404),
        ("GET", "/livez", "", 200),
        ("GET", "/readyz", "", 200),
    ] {
        assert_eq!(node.ask(method, path, &[], body).status, status, "{method} {path}");
    }
    assert_eq!(node.server.get("/v1/stocks").status, 401);
    id
}

/// Many reservations in batches.
fn rush(node: &Node) {
    node.ask("PUT", "/v1/stocks/sku-4711-rush", &[], r#"{"quantity":1000000}"#);
    let padding = "x".repeat(100);
    for batch in 0..RUSH / BATCH {
        let commands = (0..BATCH).fold(String::new(), |mut lines, number| {
            let user = format!("user-4711-{padding}-{batch}-{number}");
            let line = format!(r#"{{"op":"reserve","sku":"sku-4711-rush","user":"{user}","reference":"order-4711-{padding}"}}"#);
            lines.push_str(&line);
            lines.push('\n');
            lines
        });
        let answer = node.ask("POST", "/v1/batch", &[("content-type", "application/x-ndjson")], &commands);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body.matches(r#""status":201"#).count(), BATCH);
    }
}

#[test]
fn both_formats_show_the_same_metrics() {
    let Scraped { open_metrics, text, .. } = scraped();
    let names = |shown: &Shown| -> BTreeMap<String, BTreeSet<(String, Labels)>> {
        let series = |samples: &[exposition::Sample]| {
            samples.iter().map(|sample| (sample.name.clone(), sample.labels.clone())).collect::<BTreeSet<_>>()
        };
        let infos = |name: &str| name.strip_suffix("_info").unwrap_or(name).to_owned();
        shown.0.iter().map(|family| (infos(&family.name), series(&family.samples))).collect()
    };
    let (open_metrics, text) = (names(open_metrics), names(text));
    assert_eq!(open_metrics.keys().collect::<Vec<_>>(), text.keys().collect::<Vec<_>>());
    for (family, series) in &text {
        // The scrape of the one counts in the other.
        let missing: Vec<_> = series.difference(&open_metrics[family]).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn names_end_in_their_base_unit_and_counters_in_total() {
    let not_base =
        ["ms", "us", "ns", "millis", "milliseconds", "microseconds", "minutes", "hours", "kb", "mb", "kib", "mib", "percent"];
    for family in &scraped().open_metrics.0 {
        let has_unit = family.name.ends_with("_seconds") || family.name.ends_with("_bytes");
        assert_eq!(family.unit.is_some(), has_unit, "{family:?}");
        assert!(!family.name.split('_').any(|word| not_base.contains(&word)), "{} has another unit", family.name);
        assert!(!family.name.split('_').any(|word| word == "total"), "{} is called a total", family.name);
        assert!(family.kind != "histogram" || has_unit || family.name == "tidegate_group_events", "{} has no unit", family.name);
    }
}

#[test]
fn labels_have_values_of_closed_sets_and_nothing_names_anybody() {
    let Scraped { open_metrics, open_metrics_text, text_text, reservation, key, .. } = scraped();
    for sample in open_metrics.0.iter().flat_map(|family| &family.samples) {
        for (label, value) in &sample.labels {
            let is_known = match label.as_str() {
                "shard" => matches!(value.as_str(), "0" | "1"),
                "node" => value == "1",
                "le" => value == "+Inf" || value.parse::<f64>().is_ok_and(|bound| bound > 0.0),
                "code" => CODES.split_whitespace().any(|code| code == value),
                "outcome" => OUTCOMES.contains(&value.as_str()) || CODES.split_whitespace().any(|code| code == value),
                _ => LABELS.iter().any(|(name, values)| name == label && values.contains(&value.as_str())),
            };
            assert!(is_known, "{label} is {value:?} in {sample:?}");
        }
    }
    for shown in [open_metrics_text, text_text] {
        for name in NAMES.iter().copied().chain([reservation.as_str(), key.as_str(), "127.0.0.1"]) {
            assert!(!shown.contains(name), "{name} is in what is shown");
        }
    }
}

#[test]
fn what_happened_is_what_is_shown() {
    let Scraped { open_metrics: shown, .. } = scraped();
    let one = |name: &str, labels: &[(&str, &str)]| shown.sum(name, labels);
    for (name, labels, expected) in [
        ("tidegate_ready", &[][..], 1.0),
        ("tidegate_stocks", &[], 2.0),
        ("tidegate_build_info", &[], 1.0),
        ("tidegate_http_keys", &[], 1.0),
        ("tidegate_disk_low", &[], 0.0),
        ("tidegate_open_holds", &[], 4_500.0),
        ("tidegate_ring_slots", &[], 65_536.0),
        ("tidegate_reservations_max", &[], 100_000_000.0),
        ("tidegate_idempotency_keys_max", &[], 20_000_000.0),
        ("tidegate_disk_free_min_bytes", &[], 536_870_912.0),
        ("tidegate_http_problems_total", &[("code", "sold_out")], 1.0),
        ("tidegate_http_problems_total", &[("code", "unauthenticated")], 1.0),
        ("tidegate_http_problems_total", &[("code", "method_not_allowed")], 1.0),
        ("tidegate_http_problems_total", &[("code", "unknown_sku")], 1.0),
        ("tidegate_http_problems_total", &[("code", "internal")], 0.0),
        ("tidegate_http_requests_total", &[("route", "unmatched"), ("status", "4xx")], 1.0),
        ("tidegate_http_requests_total", &[("route", "/v1/stocks/{sku}"), ("status", "5xx")], 0.0),
        ("tidegate_commands_total", &[("command", "reserve"), ("outcome", "created")], 1.0),
        ("tidegate_commands_total", &[("command", "reserve"), ("outcome", "replayed")], 1.0),
        ("tidegate_commands_total", &[("command", "reserve"), ("outcome", "sold_out")], 1.0),
        ("tidegate_refusals_total", &[], 0.0),
    ] {
        assert!((one(name, labels) - expected).abs() < 0.5, "{name} with {labels:?} is {} and not {expected}", one(name, labels));
    }
    assert!(one("tidegate_log_sync_seconds_count", &[]) >= 1.0 && one("tidegate_commit_seconds_count", &[]) >= 1.0);
    assert!(one("tidegate_history_recall_seconds_count", &[]) >= 1.0);
    assert!(one("tidegate_snapshot_age_seconds", &[]) < WAIT_MAX.as_secs_f64());
    assert!(one("tidegate_disk_free_bytes", &[]) > 0.0);
    assert!(one("process_resident_memory_bytes", &[]) > 1_048_576.0 && one("process_cpu_seconds_total", &[]) > 0.0);
    assert!(one("process_open_fds", &[]) >= 3.0 && one("process_max_fds", &[]) >= one("process_open_fds", &[]));
    assert!(one("process_start_time_seconds", &[]) > 1_700_000_000.0);
}

#[test]
fn the_page_lists_every_metric_and_no_other() {
    let page = read("README.md");
    let mut listed = BTreeMap::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, kind @ ("counter" | "gauge" | "histogram" | "info"), labels, meaning, ""] = cells[..] else { continue };
        let labels = labels.split(',').map(|label| label.trim_matches([' ', '`'])).filter(|label| !label.is_empty());
        let name = name.trim_end_matches('`');
        assert!(!meaning.is_empty(), "{name} has no meaning");
        assert!(listed.insert(name, (kind, labels.collect::<BTreeSet<_>>())).is_none(), "{name} is listed twice");
    }
    let shown = &scraped().open_metrics;
    let names: BTreeSet<String> = shown.0.iter().map(exposition::Family::query_name).collect();
    assert_eq!(
        listed.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
        names,
        "listed on the left, shown on the right"
    );
    for family in &shown.0 {
        let (kind, labels) = &listed[family.query_name().as_str()];
        assert_eq!(*kind, family.kind, "{}", family.name);
        for sample in &family.samples {
            let given: BTreeSet<&str> = sample.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(*labels, given, "{}", family.name);
        }
    }
}

/// Checks that `expression` can be asked of a node, and returns the labels that its series have.
#[track_caller]
fn check_expression(expression: &str) -> BTreeSet<String> {
    let given = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
    let query = promql::parse(&given).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let shown = &scraped().open_metrics;
    let mut labels_of = Vec::new();
    for selector in &query.selectors {
        let is_scrape = selector.metric == "up";
        let family = shown.family(&selector.metric);
        assert!(is_scrape || family.is_some(), "{} is not shown, but asked for in {expression}", selector.metric);
        let series: Vec<_> = shown.series(&selector.metric).collect();
        let has_label = |label: &str| series.iter().any(|sample| sample.labels.contains_key(label));
        for matcher in &selector.matchers {
            if TARGET_LABELS.contains(&matcher.label.as_str()) {
                continue;
            }
            assert!(has_label(&matcher.label), "{} has no {}: {expression}", selector.metric, matcher.label);
            for value in matcher.value.split('|') {
                let is_shown = series.iter().any(|sample| sample.labels.get(&matcher.label).is_some_and(|is| is == value));
                let is_known = LABELS.iter().any(|(name, values)| *name == matcher.label && values.contains(&value));
                let is_known = is_known || CODES.split_whitespace().chain(OUTCOMES).any(|known| known == value);
                assert!(is_shown || is_known, "{} is never {value:?}: {expression}", matcher.label);
            }
        }
        // A counter is asked for its pace, nothing else is.
        let counts = family.is_some_and(|family| matches!(family.kind.as_str(), "counter" | "histogram"));
        let has_pace = selector.functions.first().is_some_and(|function| matches!(function.as_str(), "rate" | "increase"));
        assert!(!has_pace || counts, "{} is no counter: {expression}", selector.metric);
        let is_bucket = selector.metric.ends_with("_bucket");
        assert_eq!(is_bucket, selector.functions.iter().any(|function| function == "histogram_quantile"), "{expression}");
        let mut labels: BTreeSet<String> = TARGET_LABELS.into_iter().map(str::to_owned).collect();
        labels.extend(series.iter().flat_map(|sample| sample.labels.keys().cloned()));
        labels_of.push(labels);
    }
    for (label, about) in &query.groupings {
        let has_it = labels_of[about.clone()].iter().all(|labels| labels.contains(label));
        assert!(has_it, "not everything has {label}: {expression}");
    }
    labels_of.into_iter().flatten().collect()
}

/// What stands in `value` under `key`, as a text.
#[track_caller]
fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().filter(|text| !text.trim().is_empty()).unwrap_or_else(|| panic!("{key} is missing in {value}"))
}

#[test]
fn the_dashboard_is_whole_and_asks_only_for_what_is_shown() {
    let dashboard: Value = serde_json::from_str(&read("tidegate-dashboard.json")).expect("the dashboard is JSON");
    assert_eq!((text_of(&dashboard, "title"), text_of(&dashboard, "uid")), ("Tidegate", "tidegate"));
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 39));
    let variables = dashboard["templating"]["list"].as_array().expect("there are variables");
    let names: Vec<&str> = variables.iter().map(|variable| text_of(variable, "name")).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let nodes =
        text_of(&variables[1], "definition").strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(", instance)"));
    check_expression(nodes.expect("the nodes are those of a metric"));
    let annotations = dashboard["annotations"]["list"].as_array().expect("there are annotations");
    annotations.iter().filter_map(|note| note["expr"].as_str()).for_each(|expression| drop(check_expression(expression)));

    let panels = dashboard["panels"].as_array().expect("there are panels");
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut rows = 0;
    for panel in panels {
        let title = text_of(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("a panel has an id")), "the id of {title} is taken");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title} has no place"));
        assert!(place("w") >= 1 && place("h") >= 1 && place("x") + place("w") <= 24, "{title} does not fit");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        if panel["type"] == "row" {
            rows += 1;
            continue;
        }
        assert!(rows > 0, "{title} is in no row");
        assert!(["timeseries", "stat"].contains(&text_of(panel, "type")), "{title}");
        assert!(titles.insert((rows, title)), "{title} is there twice");
        text_of(panel, "description");
        let unit = text_of(&panel["fieldConfig"]["defaults"], "unit");
        assert!(["short", "ops", "reqps", "s", "bytes", "Bps", "percentunit"].contains(&unit), "{title} is in {unit}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty()).expect("a panel shows something");
        let references: BTreeSet<&str> = targets.iter().map(|target| text_of(target, "refId")).collect();
        assert_eq!(references.len(), targets.len(), "{title} names two targets alike");
        for target in targets {
            let expression = text_of(target, "expr");
            let labels = check_expression(expression);
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(expression.contains("instance=~\"$instance\""), "{title} does not keep to the chosen nodes");
            let legend = target["legendFormat"].as_str().expect("a target has a legend");
            for label in between(legend, "{{", "}}") {
                assert!(labels.contains(label), "the legend of {title} names {label}");
            }
        }
    }
    assert!(rows >= 5 && titles.len() >= 30, "{rows} rows with {} panels", titles.len());
}

/// The texts that stand between `open` and `close`.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).map(|part| part.split_once(close).unwrap_or_else(|| panic!("{text:?} is open")).0).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<RuleGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleGroup {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    waits: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[test]
fn every_alert_is_whole_asks_only_for_what_is_shown_and_has_its_section() {
    let rules: Rules = serde_saphyr::from_str(&read("tidegate-alerts.yml")).expect("the rules are YAML, as Prometheus wants them");
    let page = read("README.md");
    let (_, sections) = page.split_once("## Alerts\n").expect("the page has a chapter on alerts");
    let sections: BTreeMap<&str, &str> = sections.split("\n### ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    let (mut names, mut groups) = (BTreeSet::new(), BTreeSet::new());
    for group in &rules.groups {
        assert!(groups.insert(&group.name) && !group.rules.is_empty(), "{}", group.name);
        for Rule { alert, expr, waits, labels, annotations } in &group.rules {
            assert!(alert.starts_with("Tidegate") && names.insert(alert.as_str()), "{alert}");
            let known = check_expression(expr);
            let (number, unit) = waits.split_at(waits.len() - 1);
            assert!(number.parse::<u32>().is_ok() && ["s", "m", "h"].contains(&unit), "{alert} waits {waits}");
            assert_eq!(labels.keys().collect::<Vec<_>>(), ["severity"], "{alert}");
            let severity = labels["severity"].as_str();
            assert!(["critical", "warning"].contains(&severity), "{alert} is {severity}");
            assert_eq!(annotations.keys().collect::<Vec<_>>(), ["description", "summary"], "{alert}");
            for text in annotations.values() {
                assert!(text.len() > 20, "{alert} says {text:?}");
                for template in between(text, "{{", "}}") {
                    let value = template.split('|').next().unwrap_or_default().trim();
                    let is_known = value.strip_prefix("$labels.").map_or(value == "$value", |label| known.contains(label));
                    assert!(is_known, "{alert} shows {template}");
                }
            }
            let runbook = format!("packaging/observability/README.md#{}", alert.to_lowercase());
            assert!(annotations["description"].ends_with(&runbook), "{alert} leads nowhere");
            let section = sections.get(alert.as_str()).unwrap_or_else(|| panic!("{alert} has no section"));
            let begins = if severity == "critical" { "Critical. " } else { "Warning. " };
            assert!(section.starts_with(begins), "the section of {alert} begins otherwise than {begins:?}");
        }
    }
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), names, "sections on the left, alerts on the right");
}

#[test]
fn prometheus_own_tool_takes_the_rules() {
    let mut command = Command::new("promtool");
    command.args(["check", "rules"]).arg(packaging("tidegate-alerts.yml"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(process) => drop(finish(process).expect(0, &[])),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED: promtool is not on this machine, so Prometheus itself has not looked at the alert rules");
        }
        Err(error) => panic!("promtool cannot be started: {error}"),
    }
}

#[test]
fn the_reader_of_expressions_refuses_what_prometheus_would() {
    for wrong in [
        "",
        "tidegate_ready ==",
        "sum by (instance (up)",
        "rate(up)",
        "rate(up[5])",
        "rate(rate(up[5m])[5m])",
        "histogram_quantile(up, 0.9)",
        "up{job=tidegate}",
        "up{job=\"tidegate\"",
        "rats(up[5m])",
        "up up",
        "sum()",
        "up[5x]",
    ] {
        assert!(promql::parse(wrong).is_err(), "{wrong:?} was taken");
    }
    let query = promql::parse("sum by (job, le) (rate(a_bucket{x!=\"1\",y=~\"b|c\"}[5m])) > 2 * 3 and on (job) b offset 1h")
        .expect("it is right");
    let metrics: Vec<&str> = query.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["a_bucket", "b"]);
    assert_eq!(query.selectors[0].functions, ["rate", "sum"]);
    let groupings: Vec<(&str, usize)> = query.groupings.iter().map(|(label, about)| (label.as_str(), about.len())).collect();
    assert_eq!(groupings, [("job", 1), ("le", 1), ("job", 2)]);
}
