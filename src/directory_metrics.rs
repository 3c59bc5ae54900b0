//! Metrics of the data directory: how far reading it at the start has come, and how much room its disk has. Shown from the first moment
//! on. Knows neither the engine nor what the log says.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tidegate_persistence::disk::free_bytes;

use crate::recovery::{Reading, StartProgress};

/// What is told of a data directory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct DirectoryMetrics(Arc<Told>);

#[derive(Debug)]
struct Told {
    path: PathBuf,
    free_bytes_min: u64,
    began: Instant,
    progress: Arc<StartProgress>,
    took: OnceLock<Duration>,
}

impl DirectoryMetrics {
    /// Of the directory at `path`, which need not be there yet, and on whose disk no change is taken below `free_bytes_min`; `progress`
    /// says how far reading it is.
    pub(crate) fn new(path: PathBuf, free_bytes_min: u64, progress: Arc<StartProgress>) -> Self {
        Self(Arc::new(Told { path, free_bytes_min, began: Instant::now(), progress, took: OnceLock::new() }))
    }

    /// Adds every metric to `registry`, under the prefix that it carries.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Recovery is over, and took `elapsed`.
    pub(crate) fn note_recovered(&self, elapsed: Duration) {
        // Once over, it stays over.
        let _ = self.0.took.set(elapsed);
    }
}

impl Collector for DirectoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let told = &*self.0;
        let read = told.progress.reading();
        let read = |part: fn(&Reading) -> u64| read.as_ref().map_or(0, part);
        let mut count = |name: &str, help: &str, unit: Option<&Unit>, count: u64| {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
        };
        let bytes = Some(&Unit::Bytes);
        count("recovery_reservations", "Reservations loaded from snapshots by the recovery.", None, read(|of| of.reservations))?;
        count("recovery_snapshots_read", "Bytes of snapshots read by the recovery.", bytes, read(|of| of.snapshot_bytes))?;
        count("recovery_groups", "Groups of the log read by the recovery.", None, read(|of| of.groups))?;
        count("recovery_events", "Events in the groups read by the recovery.", None, read(|of| of.events))?;
        count("recovery_read", "Bytes of the log read by the recovery.", bytes, read(|of| of.bytes))?;

        let mut due = |name: &str, help: &str, unit: Option<&Unit>, due: u64| {
            let gauge = ConstGauge::new(i64::try_from(due).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        let help = "Bytes of the snapshots that the recovery begins with.";
        due("recovery_snapshots_due", help, bytes, read(|of| of.snapshot_bytes_due))?;
        due("recovery_groups_due", "Groups of the log that the recovery has to read.", None, read(|of| of.groups_due))?;

        let elapsed = ConstGauge::new(told.took.get().copied().unwrap_or_else(|| told.began.elapsed()).as_secs_f64());
        let help = "How long the recovery took, or has taken so far.";
        elapsed.encode(encoder.encode_descriptor("recovery", help, Some(&Unit::Seconds), elapsed.metric_type())?)?;

        let mut show = |name: &str, help: &str, bytes: u64| {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), gauge.metric_type())?)
        };
        show("disk_free_min", "Free space of the disk below which changes are refused.", told.free_bytes_min)?;
        // Nothing is told of a directory that is not there yet.
        free_bytes(&told.path)
            .map_or(Ok(()), |free| show("disk_free", "Free space of the disk that holds the data directory.", free))
    }
}
