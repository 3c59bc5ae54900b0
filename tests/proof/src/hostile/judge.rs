//! Whether the node stood a kind of hostility: figures of the rounds in, broken promises out. Pure.

use crate::figures::{Bound, median, number};

/// What a newcomer may wait where all places are taken, in milliseconds: a place is kept for a second before it is given away, and those
/// who came before wait too.
pub(crate) const NEWCOMER_MS_MAX: f64 = 3_000.0;

/// Memory that a hostile connection may take, in bytes.
pub(crate) const CONNECTION_BYTES_MAX: f64 = 65_536.0;

/// Growth of memory that is nobody's, in bytes: pages of the log's cache, copies for a snapshot, rounding of the allocator.
pub(crate) const MEMORY_BYTES_NOISE: f64 = 16.0 * 1_048_576.0;

/// What may be left of the growth: a share of what there was, or so many bytes.
pub(crate) const MEMORY_LEFT: Bound = Bound { factor: 1.05, difference: 50.0 * 1_048_576.0 };

/// Whether memory is back, of which there were so many bytes before and are so many after.
pub(crate) fn is_back((before, after): (u64, u64)) -> bool {
    MEMORY_LEFT.holds(number(before), number(after))
}

/// What was seen in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// The 99th percentile of the healthy client's latencies in milliseconds, without and with the hostility beside it: on connections
    /// that are kept, and on new ones.
    pub(crate) kept_ms: (f64, f64),
    pub(crate) new_ms: (f64, f64),
    /// Requests of the healthy client that did not get what they asked for.
    pub(crate) failed: u64,
    /// Resident memory in bytes: before, at its most, and when it was back or was waited for no longer.
    pub(crate) memory: (u64, u64, u64),
    /// Open files: before, and at the end of the wait.
    pub(crate) files: (u64, u64),
    /// How long it took until both were back, in milliseconds.
    pub(crate) back_ms: f64,
}

/// What a kind of hostility allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) connections: usize,
    pub(crate) memory_granted: usize,
    /// Whether there are more clients than places, so that a newcomer has to wait for one.
    pub(crate) is_crowded: bool,
    /// What the healthy client may wait longer, in milliseconds.
    pub(crate) latency: Bound,
}

/// The row of a kind: medians of its rounds, and the most of what must never be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) kept_ms: (f64, f64),
    pub(crate) new_ms: (f64, f64),
    pub(crate) failed: u64,
    /// Growth of memory for each hostile connection, in bytes, beyond what is granted.
    pub(crate) connection_bytes: f64,
    pub(crate) back_ms: f64,
}

impl Row {
    pub(crate) fn of(rounds: &[Round], terms: Terms) -> Self {
        let of = |pick: fn(&Round) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
        let grown = of(|round| number(round.memory.1.saturating_sub(round.memory.0)));
        Self {
            kept_ms: (of(|round| round.kept_ms.0), of(|round| round.kept_ms.1)),
            new_ms: (of(|round| round.new_ms.0), of(|round| round.new_ms.1)),
            failed: rounds.iter().map(|round| round.failed).sum(),
            connection_bytes: (grown - number(terms.memory_granted as u64)).max(0.0) / number(terms.connections as u64),
            back_ms: rounds.iter().map(|round| round.back_ms).fold(0.0, f64::max),
        }
    }
}

/// The promises of a healthy client's latencies that are broken, in words with their figures.
pub(crate) fn slow(rounds: &[Round], terms: Terms) -> Vec<String> {
    let row = Row::of(rounds, terms);
    let mut slow = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            slow.push(what);
        }
    };
    let (base, found) = row.kept_ms;
    hold(terms.latency.holds(base, found), format!("the p99 of a kept connection is {found:.2} ms where it was {base:.2} ms"));
    let (base, found) = row.new_ms;
    let is_in_time = if terms.is_crowded { found <= NEWCOMER_MS_MAX } else { terms.latency.holds(base, found) };
    hold(is_in_time, format!("the p99 of new connections is {found:.2} ms where it was {base:.2} ms"));
    slow
}

/// The promises that are broken, in words with their figures.
pub(crate) fn broken(rounds: &[Round], terms: Terms) -> Vec<String> {
    let row = Row::of(rounds, terms);
    let mut broken = slow(rounds, terms);
    let mut hold = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    hold(row.failed == 0, format!("{} requests of the healthy client failed", row.failed));
    let bytes = row.connection_bytes - MEMORY_BYTES_NOISE / number(terms.connections as u64);
    hold(bytes <= CONNECTION_BYTES_MAX, format!("memory grew by {:.0} bytes for each connection", row.connection_bytes));
    for round in rounds {
        let (before, _, after) = round.memory;
        hold(
            is_back((before, after)),
            format!("{after} bytes of memory are held where it were {before}, {:.0} ms after the end", round.back_ms),
        );
        let (before, after) = round.files;
        hold(after <= before, format!("{after} files are open where it were {before}, {:.0} ms after the end", round.back_ms));
    }
    broken
}
