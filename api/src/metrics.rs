//! What the door counts, and what it asks the engine's shards for when its metrics are read.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tidegate_engine::ShardReport;

use crate::labels::Route;

/// The classes of status that a request can end with, as labels.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
const CLASS_CLIENT_ERROR: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabels {
    shard: u32,
}

/// The door's own metrics, and gauges for the shards'.
pub(crate) struct Metrics {
    /// By route, in the order of [`Route::ALL`], so that a request costs no look-up.
    routes: Vec<RouteMetrics>,
    connections: Gauge,
    open_holds: Family<ShardLabels, Gauge>,
    reservations: Family<ShardLabels, Gauge>,
    keys: Family<ShardLabels, Gauge>,
    lapse_lag: Family<ShardLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    uncommitted: Family<ShardLabels, Gauge>,
}

struct RouteMetrics {
    requests: [Counter; CLASSES.len()],
    seconds: Histogram,
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
        let metrics = Self {
            routes: routes.collect(),
            connections: Gauge::default(),
            open_holds: Family::default(),
            reservations: Family::default(),
            keys: Family::default(),
            lapse_lag: Family::default(),
            uncommitted: Family::default(),
        };
        registry.register("http_requests", "Requests answered, by route and class of status", requests);
        registry.register_with_unit("http_request", "Time from a request's header to its answer", Unit::Seconds, seconds);
        registry.register("http_connections", "Connections open", metrics.connections.clone());
        registry.register("open_holds", "Reservations that hold at least one unit", metrics.open_holds.clone());
        registry.register("reservations", "Reservations in memory", metrics.reservations.clone());
        registry.register("idempotency_keys", "Idempotency keys in memory", metrics.keys.clone());
        registry.register_with_unit(
            "lapse_lag",
            "How long the earliest due hold has been waiting to lapse",
            Unit::Seconds,
            metrics.lapse_lag.clone(),
        );
        registry.register("uncommitted_groups", "Groups proposed and not yet committed", metrics.uncommitted.clone());
        metrics
    }

    /// Counts a request that `route` answered with `status`.
    pub(crate) fn count_request(&self, route: Route, status: http::StatusCode, elapsed: Duration) {
        let route = &self.routes[route as usize];
        let class = usize::from(status.as_u16() / 100).saturating_sub(2).min(CLASSES.len() - 1);
        route.requests[class].inc();
        route.seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a request whose header could not be read.
    pub(crate) fn count_unreadable(&self) {
        self.routes[Route::Unmatched as usize].requests[CLASS_CLIENT_ERROR].inc();
    }

    /// Counts a connection for as long as what is returned lives.
    pub(crate) fn open_connection(&self) -> OpenConnection<'_> {
        self.connections.inc();
        OpenConnection(&self.connections)
    }

    /// Shows what the shards said of themselves.
    #[expect(clippy::cast_precision_loss, reason = "a lag of less than 2^53 ms")]
    pub(crate) fn show_shards(&self, reports: &[ShardReport]) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for report in reports {
            let labels = ShardLabels { shard: report.shard.0.into() };
            self.open_holds.get_or_create(&labels).set(gauge(report.open_holds));
            self.reservations.get_or_create(&labels).set(gauge(report.reservations as u64));
            self.keys.get_or_create(&labels).set(gauge(report.keys as u64));
            self.lapse_lag.get_or_create(&labels).set(report.lapse_lag_ms as f64 / 1_000.0);
            self.uncommitted.get_or_create(&labels).set(gauge(report.proposed.0.saturating_sub(report.committed.0)));
        }
    }
}
