//! Reservations of a stock in memory, newest first, in bounded looks.

use crate::ledger::Ledger;
use crate::record::ReservationRecord;
use crate::reservation::NIL;
use crate::values::{GrantSequence, StockId, UserId};

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Copies, newest first.
    pub records: Vec<ReservationRecord>,
    /// Everything in memory from here on up to where the look began has been seen. 1 when there is nothing more.
    pub down_to: GrantSequence,
    /// The newest grant of the stock.
    pub newest: GrantSequence,
}

impl Ledger {
    /// Looks at up to `looks_max` reservations of `stock` that are in memory and older than `before`: those of `user`, or all.
    pub fn list(&self, stock: StockId, before: GrantSequence, user: Option<&UserId>, looks_max: usize) -> Listed {
        let slots: Box<dyn Iterator<Item = u32> + '_> = match (self.stock_slot_of(stock), user) {
            (None, _) => Box::new(std::iter::empty()),
            (Some(stock), None) => Box::new(self.stocks[stock].in_memory.below(before).map(|(_, slot)| slot)),
            (Some(stock), Some(user)) => Box::new(self.of_user(stock, user)),
        };
        let mut records = Vec::new();
        let mut down_to = GrantSequence(1);
        // Stepping over what is newer costs little, and counting it could keep a look from ever getting behind it.
        let older = slots.filter(|slot| self.reservations[*slot].sequence() < before);
        for slot in older.take(looks_max) {
            records.push(self.record_at(slot));
        }
        if let Some(last) = records.last().filter(|_| records.len() == looks_max) {
            down_to = last.id.sequence;
        }
        let newest = self.stock_slot_of(stock).map_or(0, |stock| self.stocks[stock].grants);
        Listed { records, down_to, newest: GrantSequence(newest) }
    }

    fn of_user(&self, stock: u32, user: &UserId) -> impl Iterator<Item = u32> + '_ {
        let newest = self.user_slot(stock, user.as_str()).map_or(NIL, |user| self.users[user].newest);
        let some = |slot: u32| (slot != NIL).then_some(slot);
        std::iter::successors(some(newest), move |slot| some(self.reservations[*slot].older))
    }
}
