//! Grants of a stock are numbered 1, 2, 3 and so on in the history, and whoever asked after another was answered has the later number.

use std::collections::BTreeMap;

use tidegate_stock::{Command, Event, StockId};

use super::Case;
use crate::evidence::Outcome;

/// When a key was first asked with, when it was first acknowledged, and the number of its grant.
type Granted = (u64, u64, u64);

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut last: BTreeMap<StockId, u64> = BTreeMap::new();
    for happened in &case.history {
        let Event::Reserved { stock, sequence, .. } = &happened.event else { continue };
        let last = last.entry(*stock).or_default();
        if sequence.0 != *last + 1 {
            findings.push(format!("group {}: grant {} of {stock:?} follows grant {last}", happened.group, sequence.0));
        }
        *last = sequence.0;
    }
    let (mut began, mut granted) = (BTreeMap::new(), BTreeMap::<(StockId, &str), Granted>::new());
    let mut calls: Vec<_> = case.evidence.calls.iter().filter(|call| matches!(call.command, Command::Reserve { .. })).collect();
    calls.sort_by_key(|call| call.began_ms);
    for call in &calls {
        let Some(key) = call.key.as_deref() else { continue };
        let began_ms = *began.entry(key).or_insert(call.began_ms);
        if let Outcome::Reservation(view) = &call.outcome {
            let grant = granted.entry((view.id.stock, key)).or_insert((began_ms, call.ended_ms, view.id.sequence.0));
            grant.1 = grant.1.min(call.ended_ms);
        }
    }
    for ((stock, key), (began_ms, _, sequence)) in &granted {
        let earlier =
            granted.iter().find(|((of, _), (_, ended_ms, before))| of == stock && ended_ms < began_ms && before > sequence);
        if let Some(((_, other), (_, ended_ms, before))) = earlier {
            findings.push(format!(
                "{other} was told grant {before} of {stock:?} at {ended_ms} ms, and {key}, which asked from {began_ms} ms on, has grant {sequence}"
            ));
        }
    }
    findings
}
