//! Every unit is in one place: a view that a node showed adds up, and shows what the history says of its stock at its group.

use std::collections::BTreeMap;

use super::Case;
use super::oversell::Count;

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut by_group: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    let mut findings = Vec::new();
    for seen in &case.evidence.viewed {
        let view = &seen.view;
        if view.available + view.reserved + view.sold != view.allotted {
            findings.push(format!("node {} showed {view:?} at {} ms", seen.node, seen.at_ms));
        }
        by_group.entry(seen.as_of.0).or_default().push(seen);
    }
    let mut count = Count::default();
    let mut history = case.history.iter().peekable();
    for (group, views) in by_group {
        while let Some(happened) = history.next_if(|happened| happened.group.0 <= group) {
            count.take(&happened.event);
        }
        for seen in views {
            let units = count.stocks.get(&seen.view.id).copied().unwrap_or_default();
            let shown =
                [seen.view.allotted, seen.view.reserved, seen.view.sold].map(|units| i64::try_from(units).unwrap_or(i64::MAX));
            if shown != [units.allotted, units.held, units.sold] {
                let (node, sku) = (seen.node, &seen.view.sku);
                findings.push(format!(
                    "node {node} showed {shown:?} allotted, held and sold of {sku} at group {group}, and it was {units:?}"
                ));
            }
        }
    }
    findings
}
