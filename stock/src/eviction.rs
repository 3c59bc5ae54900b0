//! What leaves the ledger's memory: resolved reservations for the history, and what an archived stock no longer needs. None of it
//! changes a decision, so none of it is an event; it only ever concerns what is committed.

use crate::ledger::Ledger;
use crate::record::ReservationRecord;
use crate::reservation::NIL;
use crate::values::{ReservationId, Timestamp};

impl Ledger {
    /// Reservations in memory that hold nothing and are not on their way out yet.
    pub const fn resolved_count(&self) -> usize {
        self.resolved.len() + self.resolved_again.len()
    }

    /// The reservation `id` as the history keeps it, if it is in memory and holds nothing.
    pub fn resolved(&self, id: ReservationId) -> Option<ReservationRecord> {
        let slot = self.reservation_slot(id).filter(|slot| self.reservations[*slot].reserved == 0)?;
        Some(self.record_at(slot))
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
        if self.reservations[slot].is_touched() && !mutant!(ChangedOnItsWayOut) {
            self.reservations[slot].set_leaving(false);
            self.wait_again(slot);
            return;
        }
        let user = self.reservations[slot].user;
        self.forget_reservation(slot);
        self.forget_user_if_idle(user);
    }

    /// Drops keys whose time is over at `committed`, a time no undo reaches behind, and users whom archived stocks no longer need: about
    /// `limit` of each. Changes no decision. Returns whether there are more users to look at.
    pub fn tidy(&mut self, committed: Timestamp, limit: usize) -> bool {
        self.keys.forget(committed, limit);
        self.tidy_sums();
        while let Some((stock, _)) = self.archived.front().filter(|(_, at)| *at < committed) {
            self.stocks[*stock].is_archived_for_good = true;
            self.archived.pop_front();
            self.sweep = Some(0);
        }
        let Some(next) = self.sweep.take() else { return false };
        let until = next.saturating_add(u32::try_from(limit).unwrap_or(u32::MAX)).min(self.users.slots());
        for slot in next..until {
            if self.users.is_occupied(slot) {
                self.forget_user_if_idle(slot);
            }
        }
        self.sweep = Some(until).filter(|until| *until < self.users.slots());
        self.sweep.is_some()
    }

    pub(crate) fn forget_user_if_idle(&mut self, slot: u32) {
        let user = &self.users[slot];
        if user.newest == NIL
            && (user.units() == 0 || self.stocks[user.stock].is_archived_for_good || mutant!(UserForgottenWithUnits))
        {
            self.forget_user(slot);
        }
    }

    /// What was changed again waits until that is committed as well.
    fn wait_again(&mut self, slot: u32) {
        self.reservations[slot].set_touched(false);
        self.resolved_again.push_back((slot, self.last_applied));
    }
}
