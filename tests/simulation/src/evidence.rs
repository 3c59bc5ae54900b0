//! What a run leaves for the invariants to judge: everything that was asked and answered, every group that a node applied, every view and ledger
//! that was looked at. Collected as it happens, judged when all is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_engine::FeedEvent;
use tidegate_persistence::{ChainHash, Group, GroupSequence, NodeId};
use tidegate_stock::{Command, Rejection, ReservationView, SnapshotItem, StockView};
use tokio::time::Instant;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which promise.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.what)
    }
}

/// What became of a call, as its client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A reservation, as it is now.
    Reservation(Box<ReservationView>),
    /// A stock was created or changed.
    Stock,
    /// The domain said no.
    Rejected(Rejection),
    /// It was not admitted, and changed nothing.
    Refused,
    /// Nobody knows: it may have been done, may be done yet, or never.
    Unknown,
}

/// One attempt of a client.
#[derive(Debug, Clone)]
pub struct Call {
    /// What all attempts of one change have in common; reads have none.
    pub key: Option<String>,
    /// What was asked for.
    pub command: Command,
    /// Whom.
    pub node: NodeId,
    /// When, in milliseconds of the run.
    pub began_ms: u64,
    /// When the client knew what became of it, or gave up.
    pub ended_ms: u64,
    /// What.
    pub outcome: Outcome,
}

/// A group that a node has applied.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub life: u64,
    /// The group.
    pub sequence: GroupSequence,
    /// Its chain hash.
    pub chain: ChainHash,
    /// The chain hash of the group that it was decided behind.
    pub predecessor: ChainHash,
}

/// A group, as the first node that applied it had it.
#[derive(Debug, Clone)]
pub struct First {
    /// The group.
    pub group: Arc<Group>,
    /// Its chain hash.
    pub chain: ChainHash,
    /// When it was applied first, in milliseconds of the run.
    pub at_ms: u64,
}

/// A ledger that was looked at whole.
#[derive(Debug, Clone)]
pub struct Image {
    /// Whose.
    pub node: NodeId,
    /// The newest group in it.
    pub at: GroupSequence,
    /// All of it, in an order that does not depend on whose it is.
    pub items: Vec<SnapshotItem>,
}

/// A committed view of a stock that a node showed.
#[derive(Debug, Clone)]
pub struct Viewed {
    /// The node.
    pub node: NodeId,
    /// The view.
    pub view: StockView,
    /// The newest group in it.
    pub as_of: GroupSequence,
    /// When, in milliseconds of the run.
    pub at_ms: u64,
}

/// The change feed of a node at the end, from as far back as its log goes.
#[derive(Debug, Clone)]
pub struct Fed {
    /// The node.
    pub node: NodeId,
    /// What it shows.
    pub events: Vec<FeedEvent>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Evidence {
    /// By place: group 1 is the first.
    pub firsts: Vec<First>,
    /// In the order in which it happened.
    pub applied: Vec<Applied>,
    /// In the order in which they ended.
    pub calls: Vec<Call>,
    /// Ledgers.
    pub images: Vec<Image>,
    /// Views.
    pub viewed: Vec<Viewed>,
    /// Feeds.
    pub feeds: Vec<Fed>,
    /// What was found while it ran.
    pub findings: Vec<Finding>,
    /// How often each fault happened, and whatever else is worth counting.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Evidence {
    /// A broken promise.
    pub fn find(&mut self, invariant: &'static str, what: String) {
        self.findings.push(Finding { invariant, what });
    }
}

/// What happened, line by line, with the time of the run. A digest of it is kept always, the lines only where somebody wants to read them.
pub struct Trace {
    began: Instant,
    state: Mutex<TraceState>,
}

struct TraceState {
    digest: u64,
    lines: Option<Vec<String>>,
}

/// Constants of the hash FNV-1a: the digest is compared with another run's and nothing else.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

impl Trace {
    pub(crate) fn new(is_kept: bool) -> Self {
        let state = TraceState { digest: FNV_OFFSET, lines: is_kept.then(Vec::new) };
        Self { began: Instant::now(), state: Mutex::new(state) }
    }

    /// When the run began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Milliseconds since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>7.3} {what}", self.began.elapsed().as_secs_f64());
        let state = &mut *self.state.lock();
        for byte in line.bytes() {
            state.digest = (state.digest ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        if let Some(lines) = &mut state.lines {
            lines.push(line);
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.state.lock().digest
    }

    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.state.lock().lines.take().unwrap_or_default()
    }
}
