//! What a cluster's clients, feeds and pauses must be like: facts in, broken promises out. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figures::percentile_ms;
use crate::history::model::{self, Verdict};
use tidegate_witness::finding::Finding;
use tidegate_witness::record::{Answer, Call, Change, Moment};
use tidegate_witness::witness;

/// Longest pause of 99 of 100 kills of a leader, in milliseconds; told as the stretch: what is wished for.
pub(crate) const PAUSE_P99_MS_MAX: f64 = 2_000.0;
pub(crate) const PAUSE_P99_MS_WISHED: f64 = 500.0;

/// Fewest kills that a percentile is told of.
pub(crate) const PAUSES_JUDGED_MIN: usize = 50;

/// What may be heard while leadership is handed over and nodes are stopped in order, besides what was asked for.
const KINDS_IN_ORDER: [&str; 9] =
    ["200", "201", "outcome_unknown", "overloaded", "stopping", "recovering", "not_leader", "no_quorum", "connection refused"];

/// How a pause went by: each since the kill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    /// Somebody stands for election.
    pub(crate) stands: Option<Duration>,
    /// Somebody decides: elected, and with an entry of its own applied.
    pub(crate) decides: Option<Duration>,
    /// The first new grant.
    pub(crate) grants: Duration,
}

/// What was heard in `what`, which was done in order, and is not documented.
pub(crate) fn in_order(what: &str, kinds: &BTreeMap<String, u64>, without_retry: u64) -> Vec<String> {
    let unknown = kinds.iter().filter(|(kind, _)| !KINDS_IN_ORDER.contains(&kind.as_str()));
    let mut broken: Vec<_> = unknown.map(|(kind, count)| format!("{what}: heard as {kind}, {count} times")).collect();
    if without_retry > 0 {
        broken.push(format!("{without_retry} refusals do not say when to ask again"));
    }
    broken
}

/// Whether pauses are as short as they must be.
pub(crate) fn pauses(pauses: &[Pause]) -> Vec<String> {
    let mut all: Vec<Duration> = pauses.iter().map(|pause| pause.grants).collect();
    let p99 = percentile_ms(&mut all, 99.0).unwrap_or(f64::NAN);
    let holds = all.len() >= PAUSES_JUDGED_MIN && p99 <= PAUSE_P99_MS_MAX;
    let what =
        || format!("the p99 of {} pauses is {p99:.0} ms, and {PAUSE_P99_MS_MAX:.0} ms of {PAUSES_JUDGED_MIN} are due", all.len());
    if holds { Vec::new() } else { vec![what()] }
}

/// What was asked of one stock, and how it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sale<'a> {
    pub(crate) sku: &'a str,
    /// Where an order of all calls is searched for: units and limit at the beginning.
    pub(crate) searched: Option<(i64, u32)>,
    /// After this nothing of what nobody heard can happen any more.
    pub(crate) settled: Moment,
}

/// What came of a stock's history.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) findings: Vec<Finding>,
    pub(crate) is_undecided: bool,
}

/// What a call with a key may be beside itself. The node that was asked sends it on, and where whoever decided does not answer any more it asks
/// whoever does now: so the answer to a call that was made once may be that of a repeat, and its first attempt one of which nobody heard.
fn first_attempt(call: &Call) -> Option<Call> {
    let is_repeat = call.key.is_some() && call.answer.is_replayed();
    is_repeat.then(|| Call { answer: Answer::Unknown, batch: None, ..call.clone() })
}

/// Holds the calls on one stock against its changes, and searches for an order of them where that can be done.
pub(crate) fn judge(sale: Sale<'_>, mut calls: Vec<Call>, changes: &[Change]) -> Judged {
    for call in calls.iter_mut().filter(|call| call.answer == Answer::Unknown) {
        call.ended = sale.settled;
    }
    calls.extend(calls.iter().filter_map(first_attempt).collect::<Vec<_>>());
    let mut judged = Judged { findings: witness::check(sale.sku, &calls, changes.to_vec()), is_undecided: false };
    if let Some((units, limit)) = sale.searched {
        let (settled, sure) = model::settle(&calls, changes);
        match model::check(sale.sku, &settled, &sure, units, Some(limit)) {
            Verdict::Linearizable => {}
            Verdict::Not(finding) => judged.findings.push(finding),
            Verdict::Undecided => judged.is_undecided = true,
        }
    }
    judged
}
