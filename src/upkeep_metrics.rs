//! Metrics of the upkeep: snapshots, the log's size, the history's size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tidegate_engine::{Clock, SystemClock};
use tidegate_persistence::{LogSize, SnapshotInfo};
use tidegate_stock::Timestamp;

/// What the upkeep tells of itself. Gauges are of its last look.
#[derive(Debug)]
pub(crate) struct UpkeepMetrics {
    snapshots: Counter,
    snapshot_failures: Counter,
    snapshot_seconds: Histogram,
    snapshot_bytes: Gauge,
    log_bytes: Gauge,
    log_segments: Gauge,
    log_oldest_seconds: Gauge,
    history_bytes: Gauge,
    /// When the newest snapshot was finished, in milliseconds since 1970; 0 before the first.
    snapshot_at: std::sync::Arc<AtomicU64>,
}

impl Default for UpkeepMetrics {
    fn default() -> Self {
        Self {
            snapshots: Counter::default(),
            snapshot_failures: Counter::default(),
            snapshot_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            snapshot_bytes: Gauge::default(),
            log_bytes: Gauge::default(),
            log_segments: Gauge::default(),
            log_oldest_seconds: Gauge::default(),
            history_bytes: Gauge::default(),
            snapshot_at: std::sync::Arc::default(),
        }
    }
}

impl UpkeepMetrics {
    /// Adds every metric to `registry`, under the prefix that it carries.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("snapshots", "Snapshots made", self.snapshots.clone());
        registry.register("snapshot_failures", "Snapshots that could not be made", self.snapshot_failures.clone());
        registry.register_with_unit("snapshot", "Time to make a snapshot", Unit::Seconds, self.snapshot_seconds.clone());
        registry.register_with_unit("snapshot_size", "Size of the newest snapshot", Unit::Bytes, self.snapshot_bytes.clone());
        registry.register_with_unit("log_size", "What the log takes on the disk, roughly", Unit::Bytes, self.log_bytes.clone());
        registry.register("log_segments", "Segments of the log", self.log_segments.clone());
        registry.register_with_unit(
            "log_oldest",
            "Age of the oldest entry in the log: how far back the change feed goes",
            Unit::Seconds,
            self.log_oldest_seconds.clone(),
        );
        registry.register_with_unit("history_size", "What the history takes on the disk", Unit::Bytes, self.history_bytes.clone());
        registry.register_collector(Box::new(SnapshotAge(self.snapshot_at.clone())));
    }

    /// Notes a snapshot that was there when the node started.
    pub(crate) fn note_snapshot(&self, snapshot: &SnapshotInfo) {
        // A file from before 1970 is as old as can be told.
        let since_1970 = snapshot.created.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).max(1);
        if self.snapshot_at.fetch_max(at, Ordering::Relaxed) < at {
            self.snapshot_bytes.set(signed(snapshot.bytes));
        }
    }

    pub(crate) fn observe_snapshot(&self, elapsed: Duration, bytes: u64) {
        self.snapshots.inc();
        self.snapshot_seconds.observe(elapsed.as_secs_f64());
        self.snapshot_bytes.set(signed(bytes));
        self.snapshot_at.fetch_max(SystemClock.now().unix_ms(), Ordering::Relaxed);
    }

    pub(crate) fn count_snapshot_failure(&self) {
        self.snapshot_failures.inc();
    }

    pub(crate) fn show_log(&self, size: &LogSize, now: Timestamp) {
        self.log_bytes.set(signed(size.bytes_on_disk));
        self.log_segments.set(signed(size.segments));
        let age = size.oldest_time.map_or(0, |oldest| now.unix_ms().saturating_sub(oldest.unix_ms()));
        self.log_oldest_seconds.set(signed(age / 1_000));
    }

    pub(crate) fn show_history(&self, bytes: u64) {
        self.history_bytes.set(signed(bytes));
    }
}

/// A number as gauges take it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The age of the newest snapshot, which grows without anybody doing anything. Nothing is told before the first.
#[derive(Debug)]
struct SnapshotAge(std::sync::Arc<AtomicU64>);

impl Collector for SnapshotAge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let at = self.0.load(Ordering::Relaxed);
        if at == 0 {
            return Ok(());
        }
        let age = ConstGauge::new(signed(SystemClock.now().unix_ms().saturating_sub(at) / 1_000));
        let metric =
            encoder.encode_descriptor("snapshot_age", "Age of the newest snapshot.", Some(&Unit::Seconds), age.metric_type())?;
        age.encode(metric)
    }
}
