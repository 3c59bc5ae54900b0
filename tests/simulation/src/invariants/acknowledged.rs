//! Nothing that was acknowledged is lost: every change that a client was told of is in the history that all nodes share, with what was told.

use std::collections::BTreeMap;

use tidegate_stock::{Command, Event, ReservationId, ReservationState};

use super::Case;
use crate::evidence::{Call, Outcome};

#[derive(Default)]
struct Done {
    granted: Option<(String, u32)>,
    confirmed: u32,
    released: bool,
    returned: u32,
}

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let mut done: BTreeMap<ReservationId, Done> = BTreeMap::new();
    for happened in &case.history {
        match &happened.event {
            Event::Reserved { stock, sequence, user, quantity, .. } => {
                let id = ReservationId { stock: *stock, sequence: *sequence };
                done.entry(id).or_default().granted = Some((user.as_str().to_owned(), quantity.units()));
            }
            Event::Confirmed { reservation, quantity, .. } => done.entry(*reservation).or_default().confirmed += quantity.units(),
            Event::Released { reservation, .. } => done.entry(*reservation).or_default().released = true,
            Event::Returned { reservation, quantity, .. } => done.entry(*reservation).or_default().returned += quantity.units(),
            _ => {}
        }
    }
    case.evidence.calls.iter().filter_map(|call| missing(&done, call)).collect()
}

/// What the history lacks of what `call` was told.
fn missing(done: &BTreeMap<ReservationId, Done>, call: &Call) -> Option<String> {
    let Outcome::Reservation(view) = &call.outcome else { return None };
    let key = call.key.as_deref().unwrap_or("a read");
    let Some(Done { granted: Some((user, units)), confirmed, released, returned }) = done.get(&view.id) else {
        return Some(format!("{:?} was acknowledged by node {} to {key} and was never granted", view.id, call.node));
    };
    if *user != view.user.as_str() || *units != view.quantity.units() {
        return Some(format!(
            "{:?} was told to be {} units of {}, and is {units} of {user}",
            view.id,
            view.quantity.units(),
            view.user
        ));
    }
    let is_there = match &call.command {
        Command::Confirm { .. } => *confirmed > 0,
        // Whoever gives up what has expired meanwhile hears that it has.
        Command::Release { .. } => *released || view.state == ReservationState::Expired,
        Command::Return { .. } => *returned > 0,
        _ => true,
    };
    (!is_there || view.confirmed + view.returned > *confirmed || view.returned > *returned)
        .then(|| format!("{:?} of {key} by node {} is not in the history as it was told", call.command, call.node))
}
