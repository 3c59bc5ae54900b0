//! The expiry wheel: which holds fall due when.
//!
//! Holds are listed by tick of [`TICK_MS`]; the lists run through the reservations themselves, so a hold costs two slots and no
//! allocation, and leaves in constant time. A tick is due once its last moment has come, so no hold is ever listed early and none
//! waits longer than one tick.

use std::collections::BTreeMap;

use crate::reservation::{NIL, Reservation};
use crate::slab::Slab;
use crate::values::Timestamp;

/// Width of a tick in milliseconds: a tenth of the second within which lapsed units must be back.
pub(crate) const TICK_MS: u64 = 100;

#[derive(Debug, Default)]
pub(crate) struct Wheel {
    /// First hold of each tick that has any.
    heads: BTreeMap<u64, u32>,
}

impl Wheel {
    pub(crate) fn insert(&mut self, reservations: &mut Slab<Reservation>, slot: u32) {
        let head = self.heads.entry(tick(reservations[slot].expires_at())).or_insert(NIL);
        let next = std::mem::replace(head, slot);
        reservations[slot].set_next(next);
        reservations[slot].set_previous(NIL);
        if next != NIL {
            reservations[next].set_previous(slot);
        }
    }

    pub(crate) fn remove(&mut self, reservations: &mut Slab<Reservation>, slot: u32) {
        let (next, previous) = (reservations[slot].next(), reservations[slot].previous());
        if next != NIL {
            reservations[next].set_previous(previous);
        }
        if previous != NIL {
            reservations[previous].set_next(next);
            return;
        }
        let tick = tick(reservations[slot].expires_at());
        if next == NIL {
            self.heads.remove(&tick);
        } else {
            self.heads.insert(tick, next);
        }
    }

    /// The moment at which the earliest tick falls due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.heads.first_key_value().map(|(tick, _)| due_at(*tick))
    }

    /// Holds whose tick has fallen due by `now`, at most `limit`, earliest tick first.
    pub(crate) fn due<'a>(
        &'a self,
        reservations: &'a Slab<Reservation>,
        now: Timestamp,
        limit: usize,
    ) -> impl Iterator<Item = u32> + 'a {
        self.heads
            .iter()
            .take_while(move |(tick, _)| due_at(**tick) <= now)
            .filter(|(tick, _)| !(mutant!(WheelTickSkipped) && tick.is_multiple_of(10)))
            .flat_map(move |(_, head)| {
                // The slot after the last is no slot and must not be looked up.
                std::iter::successors(Some(*head), |slot| Some(reservations[*slot].next()).filter(|next| *next != NIL))
            })
            .take(limit)
    }
}

const fn tick(expires_at: Timestamp) -> u64 {
    expires_at.unix_ms() / TICK_MS
}

const fn due_at(tick: u64) -> Timestamp {
    Timestamp::from_unix_ms(tick.saturating_mul(TICK_MS).saturating_add(TICK_MS - 1))
}
