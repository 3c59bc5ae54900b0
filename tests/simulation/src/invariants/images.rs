//! The same ledger everywhere: whatever node a ledger is looked at on, and whenever, it is what the history up to its group makes.

use std::collections::BTreeMap;

use tidegate_engine::{copy_whole, snapshot_items};
use tidegate_stock::{Ledger, SnapshotItem};

use super::Case;
use crate::node::{RULES, TABLE_SEED};
use crate::snapshots::sorted;

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut by_group: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for image in &case.evidence.images {
        by_group.entry(image.at.0).or_default().push(image);
    }
    let (mut ledger, mut findings) = (Ledger::new(RULES, TABLE_SEED), Vec::new());
    let mut history = case.history.iter().peekable();
    for (group, images) in by_group {
        if group > case.evidence.firsts.len() as u64 {
            findings.push(format!("node {} shows a ledger of group {group}, which nobody has applied", images[0].node));
            continue;
        }
        while let Some(happened) = history.next_if(|happened| happened.group.0 <= group) {
            // It is committed.
            drop(ledger.apply(&happened.event, happened.at));
        }
        let expected = items(&mut ledger);
        for image in images.iter().filter(|image| image.items != expected) {
            let differs = |item: &&SnapshotItem| !expected.contains(item);
            let other = image.items.iter().find(differs);
            let lacking = expected.iter().find(|item| !image.items.contains(item));
            findings.push(format!("node {} at group {group}: it has {other:?}, and lacks {lacking:?}", image.node));
        }
    }
    findings
}

/// All of `ledger`, in the order of an image.
fn items(ledger: &mut Ledger) -> Vec<SnapshotItem> {
    let mut items = Vec::new();
    let read = copy_whole(ledger, |block| {
        for item in snapshot_items(&block.bytes) {
            items.push(item?);
        }
        Ok::<_, tidegate_engine::CodecError>(())
    });
    read.expect("what was just written can be read");
    sorted(items)
}
