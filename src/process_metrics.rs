//! What the process is and takes: its version, and the metrics that every Prometheus client shows of its process, under their usual
//! names. Asks the operating system when it is scraped; what it does not tell is left out. Knows nothing of the node.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use tidegate_engine::{Clock, SystemClock};

use crate::upkeep_metrics::signed;

/// Adds the process to `registry`, which must carry no prefix. Called at the start of the process, whose time it takes.
#[expect(clippy::cast_precision_loss, reason = "a time of less than 2^53 ms")]
pub(crate) fn register(registry: &mut Registry) {
    let started_at = SystemClock.now().unix_ms() as f64 / 1_000.0;
    registry.register_collector(Box::new(Process { started_at }));
}

/// Adds the program's version to `registry`, under the prefix that it carries.
pub(crate) fn register_build(registry: &mut Registry) {
    registry.register("build", "The program that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
}

#[derive(Debug)]
struct Process {
    /// In seconds since 1970.
    started_at: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut show = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn Shown| {
            metric.show(encoder.encode_descriptor(name, help, unit, metric.kind())?)
        };
        let (bytes, seconds) = (Some(&Unit::Bytes), Some(&Unit::Seconds));
        show("process_start_time", "When the process began, since 1970.", seconds, &ConstGauge::new(self.started_at))?;
        show(
            "process_cpu",
            "Processor time that the process took, in all its threads.",
            seconds,
            &ConstCounter::new(cpu_seconds()),
        )?;
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            if let Some(resident) = status_bytes(&status, "VmRSS:") {
                show("process_resident_memory", "Memory that the process holds.", bytes, &ConstGauge::new(resident))?;
            }
            if let Some(reserved) = status_bytes(&status, "VmSize:") {
                show("process_virtual_memory", "Addresses that the process has asked for.", bytes, &ConstGauge::new(reserved))?;
            }
        }
        if let Some(open) = open_files() {
            show("process_open_fds", "Files and connections that the process has open.", None, &ConstGauge::new(open))?;
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            show(
                "process_max_fds",
                "Most files and connections that the process may have open.",
                None,
                &ConstGauge::new(signed(max)),
            )?;
        }
        Ok(())
    }
}

/// A metric of whatever kind.
trait Shown {
    fn kind(&self) -> prometheus_client::metrics::MetricType;
    fn show(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), fmt::Error>;
}

impl<M: EncodeMetric> Shown for M {
    fn kind(&self) -> prometheus_client::metrics::MetricType {
        self.metric_type()
    }

    fn show(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode(encoder)
    }
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^53 s")]
fn cpu_seconds() -> f64 {
    let taken = clock_gettime(ClockId::ProcessCPUTime);
    taken.tv_sec as f64 + taken.tv_nsec as f64 / 1e9
}

/// A size that `/proc/<pid>/status` gives in KiB.
fn status_bytes(status: &str, name: &str) -> Option<i64> {
    let size = status.lines().find_map(|line| line.strip_prefix(name))?;
    size.split_whitespace().next()?.parse().ok().map(|kib: i64| kib * 1_024)
}

/// Without the one that is opened to count them.
fn open_files() -> Option<i64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(signed(files.saturating_sub(1) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_what_the_system_says_of_a_process() {
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\nThreads:\t3\n";
        assert_eq!(status_bytes(status, "VmSize:"), Some(2_097_152));
        assert_eq!(status_bytes(status, "VmRSS:"), Some(524_288));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }
}
