//! The machine's metrics, in base units and without identifiers in labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tidegate_persistence::SyncReport;
use tidegate_stock::{Command, Rejection};

use crate::answer::{Answer, Refusal};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    command: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// Counters and histograms of one engine and of the log under it. Recording takes no lock that a shard could wait for long.
#[derive(Debug)]
pub struct EngineMetrics {
    commands: Family<CommandLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    groups: Counter,
    events: Counter,
    log_bytes: Counter,
    lapsed: Counter,
    group_events: Histogram,
    commit_seconds: Histogram,
    append_seconds: Histogram,
    sync_seconds: Histogram,
    pub(crate) disk_low: Gauge,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        Self {
            commands: Family::default(),
            refusals: Family::default(),
            groups: Counter::default(),
            events: Counter::default(),
            log_bytes: Counter::default(),
            lapsed: Counter::default(),
            group_events: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            commit_seconds: seconds(),
            append_seconds: seconds(),
            sync_seconds: seconds(),
            disk_low: Gauge::default(),
        }
    }
}

impl EngineMetrics {
    /// Adds every metric to `registry`, under the prefix that it carries.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("commands", "Commands decided, by what was asked and what came of it", self.commands.clone());
        registry.register("refusals", "Commands not admitted, by reason", self.refusals.clone());
        registry.register("log_groups", "Groups written to the log", self.groups.clone());
        registry.register("log_events", "Events written to the log", self.events.clone());
        registry.register_with_unit("log_written", "Bytes written to the log", Unit::Bytes, self.log_bytes.clone());
        registry.register("lapsed_reservations", "Reservations whose held units the clock took back", self.lapsed.clone());
        registry.register("group_events", "Events per proposed group", self.group_events.clone());
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
        registry.register("disk_low", "1 while the disk has less free space than its minimum", self.disk_low.clone());
    }

    pub(crate) fn observe_sync(&self, report: &SyncReport) {
        self.groups.inc_by(report.groups);
        self.events.inc_by(report.events);
        self.log_bytes.inc_by(report.bytes);
        self.append_seconds.observe(report.append.as_secs_f64());
        self.sync_seconds.observe(report.sync.as_secs_f64());
    }

    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::RingFull { .. } => "ring_full",
            Refusal::DiskLow => "disk_low",
            Refusal::KeysFull { .. } => "keys_full",
            Refusal::Stopping => "stopping",
        };
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    pub(crate) fn count_lapsed(&self, reservations: usize) {
        self.lapsed.inc_by(reservations as u64);
    }

    pub(crate) fn observe_proposal(&self, events: u32) {
        self.group_events.observe(f64::from(events));
    }

    pub(crate) fn observe_commit(&self, seconds: f64) {
        self.commit_seconds.observe(seconds);
    }

    pub(crate) fn count_command(&self, command: &'static str, outcome: &'static str) {
        self.commands.get_or_create(&CommandLabels { command, outcome }).inc();
    }
}

pub(crate) const fn command_name(command: &Command) -> &'static str {
    match command {
        Command::CreateStock { .. } => "create_stock",
        Command::Reserve { .. } => "reserve",
        Command::Confirm { .. } => "confirm",
        Command::Release { .. } => "release",
        Command::ReadReservation { .. } => "read",
    }
}

pub(crate) const fn answer_name(answer: &Answer) -> &'static str {
    match (answer.replayed, answer.created) {
        (true, _) => "replayed",
        (false, true) => "created",
        (false, false) => "ok",
    }
}

pub(crate) const fn rejection_name(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::UnknownSku => "unknown_sku",
        Rejection::UnknownReservation => "unknown_reservation",
        Rejection::StockExists => "stock_exists",
        Rejection::IdempotencyKeyReused => "idempotency_key_reused",
        Rejection::HoldOverMax { .. } => "out_of_range",
        Rejection::Closed => "closed",
        Rejection::NotOpen { .. } => "not_open",
        Rejection::LimitReached { .. } => "limit_reached",
        Rejection::SoldOut { .. } => "sold_out",
        Rejection::ReservationReleased => "reservation_released",
        Rejection::ReservationExpired => "reservation_expired",
        Rejection::ReservationConfirmed => "reservation_confirmed",
        Rejection::QuantityOverRemaining { .. } => "invalid_quantity",
    }
}
