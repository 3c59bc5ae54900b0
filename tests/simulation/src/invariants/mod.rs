//! The promises, one file each. Each is a function of what a run has left, and knows nothing of how it came about.

mod acknowledged;
mod conservation;
mod feed;
mod grants;
mod images;
mod keys;
mod oversell;
mod told;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidegate_persistence::GroupSequence;
use tidegate_stock::{Event, Timestamp};

use crate::evidence::{Evidence, Finding};

/// An event of the history that all nodes share.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    /// In which group.
    pub(crate) group: GroupSequence,
    /// When, by the clock of whoever decided it.
    pub(crate) at: Timestamp,
    /// What.
    pub(crate) event: Event,
}

/// What is judged: the evidence, and its history read.
pub(crate) struct Case<'a> {
    pub(crate) evidence: &'a Evidence,
    pub(crate) history: Vec<Happened>,
}

impl Case<'_> {
    /// The newest group that some node had applied by `at_ms`.
    pub(crate) fn known_by(&self, at_ms: u64) -> GroupSequence {
        GroupSequence(self.evidence.firsts.partition_point(|first| first.at_ms <= at_ms) as u64)
    }
}

/// Everything that is broken.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = evidence.findings.clone();
    let mut history = Vec::new();
    for first in &evidence.firsts {
        let entries: Result<Vec<_>, _> = first.group.entries().and_then(Iterator::collect);
        match entries {
            Ok(entries) => history.extend(entries.into_iter().map(|entry| Happened {
                group: first.group.sequence,
                at: entry.at,
                event: entry.event,
            })),
            Err(error) => {
                let what = format!("group {} cannot be read: {error}", first.group.sequence);
                findings.push(Finding { invariant: "the log", what });
                return findings;
            }
        }
    }
    let case = Case { evidence, history };
    for (invariant, check) in INVARIANTS {
        // Of a history that the rules forbid the ledger itself makes a panic.
        let found =
            catch_unwind(AssertUnwindSafe(|| check(&case))).unwrap_or_else(|_| vec!["the history is none: a panic".to_owned()]);
        findings.extend(found.into_iter().map(|what| Finding { invariant, what }));
    }
    findings
}

type Check = fn(&Case<'_>) -> Vec<String>;

const INVARIANTS: [(&str, Check); 8] = [
    ("no oversell", oversell::check),
    ("no lost acknowledgement", acknowledged::check),
    ("answers tell what is so", told::check),
    ("one answer per key", keys::check),
    ("grants in order", grants::check),
    ("the same ledger everywhere", images::check),
    ("conservation", conservation::check),
    ("one history", feed::check),
];
