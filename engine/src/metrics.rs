//! The machine's metrics, in base units and without identifiers in labels.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tidegate_persistence::SyncReport;

use crate::answer::Refusal;
use crate::command_counts::{Asked, Came, CommandCounts};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// What was asked of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryOperation {
    /// Keep reservations that leave memory.
    Write,
    /// Look a reservation up for a command.
    Recall,
    /// Look reservations up for a list.
    List,
}

impl HistoryOperation {
    const ALL: [Self; 3] = [Self::Write, Self::Recall, Self::List];

    const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Recall => "recall",
            Self::List => "list",
        }
    }
}

/// Every reason of a refusal. All are shown from the start, so that a rate sees the first of each.
const REFUSAL_REASONS: [&str; 8] =
    ["ring_full", "disk_low", "keys_full", "memory_full", "users_full", "recalls_full", "history_failed", "stopping"];

/// Counters and histograms of one engine and of the log under it. Recording takes no lock that a shard could wait for long.
#[derive(Debug)]
pub struct EngineMetrics {
    commands: CommandCounts,
    refusals: Family<RefusalLabels, Counter>,
    groups: Counter,
    events: Counter,
    log_bytes: Counter,
    lapsed: Counter,
    sums_same: Counter,
    sums_different: Counter,
    group_events: Histogram,
    group_bytes: Histogram,
    commit_seconds: Histogram,
    append_seconds: Histogram,
    sync_seconds: Histogram,
    history_records: Counter,
    history_write_seconds: Histogram,
    history_recall_seconds: Histogram,
    history_failures: Family<OperationLabels, Counter>,
    pub(crate) disk_low: Gauge,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let refusals = Family::<RefusalLabels, Counter>::default();
        for reason in REFUSAL_REASONS {
            drop(refusals.get_or_create(&RefusalLabels { reason }));
        }
        let history_failures = Family::<OperationLabels, Counter>::default();
        for operation in HistoryOperation::ALL {
            drop(history_failures.get_or_create(&OperationLabels { operation: operation.name() }));
        }
        Self {
            commands: CommandCounts::default(),
            refusals,
            groups: Counter::default(),
            events: Counter::default(),
            log_bytes: Counter::default(),
            lapsed: Counter::default(),
            sums_same: Counter::default(),
            sums_different: Counter::default(),
            group_events: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            group_bytes: Histogram::new(exponential_buckets(64.0, 4.0, 10)),
            commit_seconds: seconds(),
            append_seconds: seconds(),
            sync_seconds: seconds(),
            history_records: Counter::default(),
            history_write_seconds: seconds(),
            history_recall_seconds: seconds(),
            history_failures,
            disk_low: Gauge::default(),
        }
    }
}

impl EngineMetrics {
    /// Adds every metric to `registry`, under the prefix that it carries.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("commands", "Commands decided, by what was asked and what came of it", self.commands.shown());
        registry.register("refusals", "Commands not admitted, by reason", self.refusals.clone());
        registry.register("log_groups", "Groups written to the log", self.groups.clone());
        registry.register("log_events", "Events written to the log", self.events.clone());
        registry.register_with_unit("log_written", "Bytes written to the log", Unit::Bytes, self.log_bytes.clone());
        registry.register("lapsed_reservations", "Reservations whose held units the clock took back", self.lapsed.clone());
        registry.register("ledger_sums_same", "Sums in the log that were those of this node's ledgers", self.sums_same.clone());
        registry.register(
            "ledger_sums_different",
            "Sums in the log that were not: this node's ledger is not that of the node that decided",
            self.sums_different.clone(),
        );
        registry.register("group_events", "Events per proposed group", self.group_events.clone());
        registry.register_with_unit("group", "Bytes per proposed group", Unit::Bytes, self.group_bytes.clone());
        registry.register_with_unit(
            "commit",
            "Time from a group's proposal to its commit",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register_with_unit(
            "log_append",
            "Time to hand gathered groups to the store",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        registry.register_with_unit("log_sync", "Time to make gathered groups durable", Unit::Seconds, self.sync_seconds.clone());
        registry.register("history_records", "Reservations written to the history", self.history_records.clone());
        registry.register_with_unit(
            "history_write",
            "Time to write reservations that leave memory together to the history",
            Unit::Seconds,
            self.history_write_seconds.clone(),
        );
        registry.register_with_unit(
            "history_recall",
            "Time to look a reservation up in the history for a command",
            Unit::Seconds,
            self.history_recall_seconds.clone(),
        );
        registry.register("history_failures", "What the history could not do, by operation", self.history_failures.clone());
        registry.register("disk_low", "1 while the disk has less free space than its minimum", self.disk_low.clone());
    }

    pub(crate) fn observe_sync(&self, report: &SyncReport) {
        self.groups.inc_by(report.groups);
        self.events.inc_by(report.events);
        self.log_bytes.inc_by(report.bytes);
        self.append_seconds.observe(report.append.as_secs_f64());
        self.sync_seconds.observe(report.sync.as_secs_f64());
    }

    pub(crate) fn log_bytes_written(&self) -> u64 {
        self.log_bytes.get()
    }

    /// A command was not admitted.
    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        self.count_refusals(refusal, 1);
    }

    /// So many commands were not admitted together.
    pub(crate) fn count_refusals(&self, refusal: Refusal, commands: usize) {
        let reason = match refusal {
            Refusal::RingFull { .. } => "ring_full",
            Refusal::DiskLow => "disk_low",
            Refusal::KeysFull { .. } => "keys_full",
            Refusal::MemoryFull { .. } => "memory_full",
            Refusal::UsersFull { .. } => "users_full",
            Refusal::RecallsFull { .. } => "recalls_full",
            Refusal::HistoryFailed => "history_failed",
            Refusal::NotLeader => "not_leader",
            Refusal::Stopping => "stopping",
        };
        self.refusals.get_or_create(&RefusalLabels { reason }).inc_by(commands as u64);
    }

    pub(crate) fn observe_history_write(&self, records: usize, elapsed: Duration) {
        self.history_records.inc_by(records as u64);
        self.history_write_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn observe_history_recall(&self, elapsed: Duration) {
        self.history_recall_seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn count_history_failure(&self, operation: HistoryOperation) {
        self.history_failures.get_or_create(&OperationLabels { operation: operation.name() }).inc();
    }

    /// A sum in the log was compared with the ledger's.
    pub(crate) fn count_sum(&self, is_same: bool) {
        if is_same { &self.sums_same } else { &self.sums_different }.inc();
    }

    pub(crate) fn count_lapsed(&self, reservations: usize) {
        self.lapsed.inc_by(reservations as u64);
    }

    #[expect(clippy::cast_precision_loss, reason = "a group has far fewer than 2^53 bytes")]
    pub(crate) fn observe_proposal(&self, events: u32, bytes: usize) {
        self.group_events.observe(f64::from(events));
        self.group_bytes.observe(bytes as f64);
    }

    pub(crate) fn observe_commit(&self, seconds: f64) {
        self.commit_seconds.observe(seconds);
    }

    pub(crate) fn count_command(&self, asked: Asked, came: Came) {
        self.commands.count(asked, came);
    }
}
