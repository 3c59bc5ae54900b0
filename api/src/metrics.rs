//! What the door counts, and what it asks the engine's shards for when its metrics are read.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tidegate_engine::{FeedStatus, ShardReport};

use crate::labels::Route;
use crate::status::Code;

/// The classes of status that a request can end with, as labels.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
const CLASS_CLIENT_ERROR: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabels {
    shard: u32,
}

/// How a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// What came was no handshake, or not one that could succeed, or the client left.
    Broken,
    /// It took too long.
    Slow,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    cause: &'static str,
}

/// The door's own metrics, and gauges for the shards'.
pub(crate) struct Metrics {
    /// By route, in the order of [`Route::ALL`], so that a request costs no look-up.
    routes: Vec<RouteMetrics>,
    /// By code, in the order of [`Code::ALL`].
    problems: Vec<Counter>,
    connections: Gauge,
    broken_handshakes: Counter,
    slow_handshakes: Counter,
    api_keys: Gauge,
    api_key_reload_failures: Counter,
    certificate_reload_failures: Counter,
    ready: Gauge,
    stocks: Gauge,
    events: Counter,
    streams: Gauge,
    feed_oldest: Family<Unlabelled, Gauge<f64, std::sync::atomic::AtomicU64>>,
    feed_room: Family<Unlabelled, Gauge>,
    shards: Vec<ShardGauge>,
    lapse_lag: Family<ShardLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

/// A number of each shard's.
struct ShardGauge {
    gauge: Family<ShardLabels, Gauge>,
    read: ReadGauge,
}

/// Where a gauge stands in a shard's report.
type ReadGauge = fn(&ShardReport) -> u64;

/// What each shard says of itself: name, meaning, and where it stands in the report.
const SHARD_GAUGES: [(&str, &str, ReadGauge); 13] = [
    ("ring_slots_used", "Commands and batches' parts that wait in front of the shard", |report| report.ring_waiting as u64),
    ("ring_slots", "Most that may wait in front of the shard", |report| report.ring_slots as u64),
    ("answers_waiting", "Commands decided whose answers wait for their commit", |report| report.answers_waiting as u64),
    ("uncommitted_groups", "Groups proposed and not yet committed", |report| report.proposed.0.saturating_sub(report.committed.0)),
    ("open_holds", "Reservations that hold at least one unit", |report| report.open_holds),
    ("reservations", "Reservations in memory", |report| report.reservations as u64),
    ("reservations_max", "Most reservations in memory", |report| report.reservations_max as u64),
    ("users", "Users in memory, counted once for each stock", |report| report.users as u64),
    ("users_max", "Most users in memory", |report| report.users_max as u64),
    ("idempotency_keys", "Idempotency keys in memory", |report| report.keys as u64),
    ("idempotency_keys_max", "Most idempotency keys in memory", |report| report.keys_max as u64),
    ("recalls_waiting", "Commands that wait for a reservation from the history", |report| report.recalls as u64),
    ("recalls_waiting_max", "Most commands that wait for a reservation from the history", |report| report.recalls_max as u64),
];

struct RouteMetrics {
    requests: [Counter; CLASSES.len()],
    seconds: Histogram,
}

/// No labels at all: for what is shown only while there is something to show.
type Unlabelled = [(&'static str, &'static str); 0];

/// An open event stream; dropped when it ends.
pub(crate) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An open connection; dropped when it closes.
pub(crate) struct OpenConnection<'a>(&'a Gauge);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        // 50 us to 26 s: past the answer's limit.
        let seconds =
            Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_05, 2.0, 20)));
        let routes = Route::ALL.into_iter().map(|route| {
            let route = route.path();
            RouteMetrics {
                requests: CLASSES.map(|status| requests.get_or_create_owned(&RequestLabels { route, status })),
                seconds: seconds.get_or_create_owned(&RouteLabels { route }),
            }
        });
        let problems = Family::<CodeLabels, Counter>::default();
        let handshakes = Family::<HandshakeLabels, Counter>::default();
        let metrics = Self {
            routes: routes.collect(),
            problems: Code::ALL.map(|code| problems.get_or_create_owned(&CodeLabels { code: code.name() })).into(),
            connections: Gauge::default(),
            broken_handshakes: handshakes.get_or_create_owned(&HandshakeLabels { cause: "broken" }),
            slow_handshakes: handshakes.get_or_create_owned(&HandshakeLabels { cause: "slow" }),
            api_keys: Gauge::default(),
            api_key_reload_failures: Counter::default(),
            certificate_reload_failures: Counter::default(),
            ready: Gauge::default(),
            stocks: Gauge::default(),
            events: Counter::default(),
            streams: Gauge::default(),
            feed_oldest: Family::default(),
            feed_room: Family::default(),
            shards: SHARD_GAUGES.into_iter().map(|(.., read)| ShardGauge { gauge: Family::default(), read }).collect(),
            lapse_lag: Family::default(),
        };
        registry.register("http_requests", "Requests answered, by route and class of status", requests);
        registry.register("http_problems", "Requests that did not get what they asked for, by the problem's code", problems);
        registry.register_with_unit("http_request", "Time from a request's header to its answer", Unit::Seconds, seconds);
        registry.register("http_connections", "Connections open", metrics.connections.clone());
        registry.register("http_handshake_failures", "TLS handshakes that failed, by cause", handshakes);
        registry.register("http_keys", "API keys that are configured", metrics.api_keys.clone());
        registry.register(
            "http_keys_reload_failures",
            "Changes of the keys file that could not be taken over",
            metrics.api_key_reload_failures.clone(),
        );
        registry.register(
            "http_certificates_reload_failures",
            "Changes of the certificate's files that could not be taken over",
            metrics.certificate_reload_failures.clone(),
        );
        registry.register("ready", "1 while commands are taken", metrics.ready.clone());
        registry.register("stocks", "Stocks that there are", metrics.stocks.clone());
        registry.register("feed_events", "Changes delivered by the change feed", metrics.events.clone());
        registry.register("feed_streams", "Event streams open", metrics.streams.clone());
        registry.register_with_unit(
            "feed_oldest",
            "Age of the oldest change that the feed retains",
            Unit::Seconds,
            metrics.feed_oldest.clone(),
        );
        registry.register(
            "feed_room_groups",
            "Groups by which the slowest of the feed's readers of the last minutes is ahead of the oldest retained",
            metrics.feed_room.clone(),
        );
        for ((name, help, _), shown) in SHARD_GAUGES.into_iter().zip(&metrics.shards) {
            registry.register(name, help, shown.gauge.clone());
        }
        registry.register_with_unit(
            "lapse_lag",
            "How long the earliest due hold has been waiting to lapse",
            Unit::Seconds,
            metrics.lapse_lag.clone(),
        );
        metrics
    }

    /// Counts a request that `route` answered with `status`.
    pub(crate) fn count_request(&self, route: Route, status: http::StatusCode, elapsed: Duration) {
        let route = &self.routes[route as usize];
        let class = usize::from(status.as_u16() / 100).saturating_sub(2).min(CLASSES.len() - 1);
        route.requests[class].inc();
        route.seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a request that was answered with a problem.
    pub(crate) fn count_problem(&self, code: Code) {
        self.problems[code as usize].inc();
    }

    /// Counts a request whose header could not be read.
    pub(crate) fn count_unreadable(&self) {
        self.count_problem(Code::InvalidRequest);
        self.routes[Route::Unmatched as usize].requests[CLASS_CLIENT_ERROR].inc();
    }

    /// Counts a connection for as long as what is returned lives.
    pub(crate) fn open_connection(&self) -> OpenConnection<'_> {
        self.connections.inc();
        OpenConnection(&self.connections)
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn count_handshake_failure(&self, failure: HandshakeFailure) {
        match failure {
            HandshakeFailure::Broken => self.broken_handshakes.inc(),
            HandshakeFailure::Slow => self.slow_handshakes.inc(),
        };
    }

    /// Shows how many API keys there are.
    pub(crate) fn show_api_keys(&self, count: usize) {
        self.api_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a keys file that could not be taken over.
    pub(crate) fn count_keys_reload_failure(&self) {
        self.api_key_reload_failures.inc();
    }

    /// Counts certificate files that could not be taken over.
    pub(crate) fn count_certificate_reload_failure(&self) {
        self.certificate_reload_failures.inc();
    }

    /// Shows whether commands are taken.
    pub(crate) fn show_readiness(&self, is_ready: bool) {
        self.ready.set(is_ready.into());
    }

    /// Shows how many stocks there are.
    pub(crate) fn show_stocks(&self, count: usize) {
        self.stocks.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts changes that the feed delivered.
    pub(crate) fn count_events(&self, changes: usize) {
        self.events.inc_by(changes as u64);
    }

    /// Counts an event stream for as long as what is returned lives.
    pub(crate) fn open_stream(&self) -> OpenStream {
        self.streams.inc();
        OpenStream(self.streams.clone())
    }

    /// Shows what the feed said of itself; nothing of what it does not know.
    #[expect(clippy::cast_precision_loss, reason = "an age of less than 2^53 ms")]
    pub(crate) fn show_feed(&self, status: FeedStatus) {
        self.feed_oldest.clear();
        if let Some(age) = status.oldest_age_ms {
            self.feed_oldest.get_or_create(&[]).set(age as f64 / 1_000.0);
        }
        self.feed_room.clear();
        if let Some(room) = status.room_groups {
            self.feed_room.get_or_create(&[]).set(i64::try_from(room).unwrap_or(i64::MAX));
        }
    }

    /// Shows what the shards said of themselves.
    #[expect(clippy::cast_precision_loss, reason = "a lag of less than 2^53 ms")]
    pub(crate) fn show_shards(&self, reports: &[ShardReport]) {
        for report in reports {
            let labels = ShardLabels { shard: report.shard.0.into() };
            for ShardGauge { gauge, read } in &self.shards {
                gauge.get_or_create(&labels).set(i64::try_from(read(report)).unwrap_or(i64::MAX));
            }
            self.lapse_lag.get_or_create(&labels).set(report.lapse_lag_ms as f64 / 1_000.0);
        }
    }
}
