//! What leaves the ledger's memory: resolved reservations for the history, and what an archived stock no longer needs. None of it
//! changes a decision, so none of it is an event; it only ever concerns what is committed.

use crate::ledger::Ledger;
use crate::record::ReservationRecord;
use crate::reservation::NIL;
use crate::values::{ReservationId, Timestamp};

/// A look at every key and every user, for those of archived stocks, a slice at a time.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next_key: u32,
    next_user: u32,
}

impl Ledger {
    /// Reservations in memory that hold nothing and are not on their way out yet.
    pub const fn resolved_count(&self) -> usize {
        self.resolved.len() + self.resolved_again.len()
    }

    /// Copies of up to `limit` of the resolved reservations, those first that have been so for longest, for the history to keep. They
    /// stay in memory, and what happens to them meanwhile is seen, until [`Self::has_left`] is told. Only what was resolved before
    /// `committed`, a time that no undo reaches behind, is taken.
    pub fn take_leaving(&mut self, committed: Timestamp, limit: usize) -> Vec<ReservationRecord> {
        let mut leaving = Vec::new();
        for _ in 0..limit {
            let queue = match (self.resolved.front(), self.resolved_again.front()) {
                (Some((_, at)), _) if *at < committed => &mut self.resolved,
                (_, Some((_, at))) if *at < committed => &mut self.resolved_again,
                _ => break,
            };
            let Some((slot, _)) = queue.pop_front() else { unreachable!("its front has just been looked at") };
            if self.reservations[slot].is_touched() {
                self.wait_again(slot);
                continue;
            }
            self.reservations[slot].set_leaving(true);
            leaving.push(self.record_at(slot));
        }
        leaving
    }

    /// The history keeps what [`Self::take_leaving`] gave of `id`: it leaves memory, unless it was changed since.
    pub fn has_left(&mut self, id: ReservationId) {
        let Some(slot) = self.reservation_slot(id).filter(|slot| self.reservations[*slot].is_leaving()) else { return };
        if self.reservations[slot].is_touched() {
            self.reservations[slot].set_leaving(false);
            self.wait_again(slot);
            return;
        }
        let user = self.reservations[slot].user;
        self.forget_reservation(slot);
        self.forget_user_if_idle(user);
    }

    /// Drops keys whose time is over at `committed`, a time no undo reaches behind, and what archived stocks no longer need: about
    /// `limit` of each. Changes no decision.
    pub fn tidy(&mut self, committed: Timestamp, limit: usize) {
        self.keys.forget(committed, limit);
        while let Some((stock, _)) = self.archived.front().filter(|(_, at)| *at < committed) {
            self.stocks[*stock].is_archived_for_good = true;
            self.archived.pop_front();
            self.sweep = Some(Sweep::default());
        }
        let Some(mut sweep) = self.sweep.take() else { return };
        for _ in 0..limit {
            if sweep.next_key >= self.keys.entries().slots() && sweep.next_user >= self.users.slots() {
                return;
            }
            self.sweep_key(sweep.next_key);
            self.sweep_user(sweep.next_user);
            sweep.next_key = sweep.next_key.saturating_add(1);
            sweep.next_user = sweep.next_user.saturating_add(1);
        }
        self.sweep = Some(sweep);
    }

    fn sweep_key(&mut self, slot: u32) {
        if !self.keys.entries().is_occupied(slot) {
            return;
        }
        let entry = &self.keys.entries()[slot];
        if !entry.since_archived && self.stocks[entry.stock].is_archived_for_good {
            self.keys.remove(slot);
        }
    }

    fn sweep_user(&mut self, slot: u32) {
        if self.users.is_occupied(slot) {
            self.forget_user_if_idle(slot);
        }
    }

    pub(crate) fn forget_user_if_idle(&mut self, slot: u32) {
        let user = &self.users[slot];
        if user.newest == NIL && (user.units() == 0 || self.stocks[user.stock].is_archived_for_good) {
            self.forget_user(slot);
        }
    }

    /// What was changed again waits until that is committed as well.
    fn wait_again(&mut self, slot: u32) {
        self.reservations[slot].set_touched(false);
        self.resolved_again.push_back((slot, self.last_applied));
    }
}
