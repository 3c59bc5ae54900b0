//! One key, one change, one answer: whatever is asked again names the same reservation, the history has the change once, and a grant that was
//! acknowledged is never denied afterwards.

use std::collections::BTreeMap;

use tidegate_stock::{Command, Event, Fingerprint, Idempotency, ReservationId, StockId};

use super::Case;
use crate::evidence::Outcome;

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen: BTreeMap<(StockId, String), String> = BTreeMap::new();
    for happened in &case.history {
        let (Some(stock), Some(key)) = (happened.event.stock(), key_of(&happened.event)) else { continue };
        if let Some(before) = seen.insert((stock, format!("{key:?}")), format!("{:?}", happened.event)) {
            findings.push(format!("one key changed {before}, and {:?}", happened.event));
        }
    }
    // By key: when it was first acknowledged, and of which reservation.
    let mut acknowledged: BTreeMap<&str, (u64, ReservationId)> = BTreeMap::new();
    for call in &case.evidence.calls {
        let Some(key) = call.key.as_deref() else { continue };
        match (&call.outcome, acknowledged.get(key)) {
            (Outcome::Reservation(view), Some((_, id))) if view.id != *id => {
                findings.push(format!("{key} was answered with {id:?}, and with {:?} by node {}", view.id, call.node));
            }
            (Outcome::Reservation(view), None) => {
                acknowledged.insert(key, (call.ended_ms, view.id));
            }
            // Only what changed something is remembered, which a grant always has: a confirm of what was confirmed already need not be.
            (Outcome::Rejected(rejection), Some((ended_ms, id)))
                if call.began_ms > *ended_ms && matches!(call.command, Command::Reserve { .. }) =>
            {
                findings.push(format!("{key} was acknowledged as {id:?}, and then denied by node {}: {rejection}", call.node));
            }
            _ => {}
        }
    }
    findings
}

fn key_of(event: &Event) -> Option<Fingerprint> {
    let idempotency: &Option<Idempotency> = match event {
        Event::Reserved { idempotency, .. }
        | Event::Confirmed { idempotency, .. }
        | Event::Released { idempotency, .. }
        | Event::Returned { idempotency, .. }
        | Event::Extended { idempotency, .. }
        | Event::StockAdjusted { idempotency, .. } => idempotency,
        _ => return None,
    };
    idempotency.as_ref().map(|idempotency| idempotency.key)
}
