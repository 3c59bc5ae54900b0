//! One history: what any node applies, in any of its lives, is the next group of the one sequence that all share; nothing is applied twice, left
//! out, or of another content. And the change feeds of all nodes show the same changes, numbered without a gap.

use std::collections::BTreeMap;

use tidegate_engine::FeedEvent;
use tidegate_persistence::{ChainHash, NodeId};

use super::Case;

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let firsts = &case.evidence.firsts;
    let chain_of = |sequence: u64| {
        let place = usize::try_from(sequence).ok()?.checked_sub(1)?;
        firsts.get(place).map(|first| first.chain)
    };
    let mut last: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for applied in &case.evidence.applied {
        let (node, sequence) = (applied.node, applied.sequence.0);
        if chain_of(sequence) != Some(applied.chain) {
            findings.push(format!("node {node} applied another group {sequence} than the first node that did"));
        }
        let before = if sequence == 1 { Some(ChainHash::GENESIS) } else { chain_of(sequence - 1) };
        if before != Some(applied.predecessor) {
            findings.push(format!("group {sequence} of node {node} does not continue group {}", sequence - 1));
        }
        // A snapshot may have taken the place of groups, never the other way round.
        if let Some(last) = last.insert((node.0, applied.life), sequence)
            && sequence <= last
        {
            findings.push(format!("node {node} applied group {sequence} after group {last}"));
        }
    }
    feeds(case, &mut findings);
    findings
}

/// They were looked at one after the other, and reach back as far as their logs do: so neither their ends nor their beginnings need be the same.
fn feeds(case: &Case<'_>, findings: &mut Vec<String>) {
    let mut changes: BTreeMap<String, (NodeId, String)> = BTreeMap::new();
    for fed in &case.evidence.feeds {
        let mut last = BTreeMap::new();
        for event in &fed.events {
            let shown = shown(event);
            let (other, before) = changes.entry(format!("{:?}", event.id)).or_insert_with(|| (fed.node, shown.clone()));
            if *before != shown {
                findings.push(format!("the feed of node {other} shows {before}, and that of node {} {shown}", fed.node));
            }
            let sequence = event.sku_sequence.0;
            if let Some(last) = last.insert(&event.sku, sequence)
                && sequence != last + 1
            {
                findings.push(format!("node {}: change {sequence} of {} follows change {last}", fed.node, event.sku));
            }
        }
    }
}

/// What a consumer sees of a change.
fn shown(event: &FeedEvent) -> String {
    format!("{:?} {:?} {:?} {:?} {:?} {:?}", event.id, event.kind, event.sku_sequence, event.at, event.actor, event.changed)
}
