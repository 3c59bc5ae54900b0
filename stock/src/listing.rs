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

/// Reservations stepped over in one look, for each that it may find: a bound of the time that a look takes.
const STEPS_PER_LOOK: usize = 8;

impl Ledger {
    /// Looks at up to `looks_max` reservations of `stock` that are in memory and older than `before`: those of `user`, or all. A look
    /// can find nothing and still have more before it, where a user's reservations lie far apart.
    pub fn list(&self, stock: StockId, before: GrantSequence, user: Option<&UserId>, looks_max: usize) -> Listed {
        let Some(stock) = self.stock_slot_of(stock) else {
            return Listed { records: Vec::new(), down_to: GrantSequence(1), newest: GrantSequence(0) };
        };
        let newest = GrantSequence(self.stocks[stock].grants);
        let slots: Box<dyn Iterator<Item = u32> + '_> = match user.map(|user| self.user_slot(stock, user.as_str())) {
            None => Box::new(self.stocks[stock].in_memory.below(before).map(|(_, slot)| slot)),
            Some(None) => Box::new(std::iter::empty()),
            Some(Some(user)) => match self.of_user_below(stock, user, before, looks_max.saturating_mul(STEPS_PER_LOOK)) {
                Ok(slots) => Box::new(slots),
                Err(down_to) => return Listed { records: Vec::new(), down_to, newest },
            },
        };
        let records: Vec<_> = slots.take(looks_max).map(|slot| self.record_at(slot)).collect();
        let down_to = records.last().filter(|_| records.len() == looks_max).map_or(GrantSequence(1), |last| last.id.sequence);
        Listed { records, down_to, newest }
    }

    /// A user's reservations in memory older than `before`, newest first; or, when finding the first takes more than `steps_max` steps,
    /// down to where there is none.
    fn of_user_below(
        &self,
        stock: u32,
        user: u32,
        before: GrantSequence,
        steps_max: usize,
    ) -> Result<impl Iterator<Item = u32> + '_, GrantSequence> {
        let some = |slot: u32| (slot != NIL).then_some(slot);
        let first = self.first_of_user_below(stock, user, before, steps_max)?;
        Ok(std::iter::successors(some(first), move |slot| some(self.reservations[*slot].older)))
    }

    fn first_of_user_below(&self, stock: u32, user: u32, before: GrantSequence, steps_max: usize) -> Result<u32, GrantSequence> {
        let in_memory = &self.stocks[stock].in_memory;
        // Whoever turns pages names the last one seen.
        if let Some(slot) = in_memory.get(before).filter(|slot| self.reservations[*slot].user == user) {
            return Ok(self.reservations[slot].older);
        }
        // It is near the user's newest, or among its neighbours, or the user has few among many: whichever is found first.
        let mut own = self.users[user].newest;
        let mut down_to = before;
        let mut neighbours = in_memory.below(before);
        for _ in 0..steps_max.max(1) {
            if own == NIL || self.reservations[own].sequence() < before {
                return Ok(own);
            }
            match neighbours.next() {
                None => return Ok(NIL),
                Some((_, slot)) if self.reservations[slot].user == user => return Ok(slot),
                Some((sequence, _)) => down_to = sequence,
            }
            own = self.reservations[own].older;
        }
        Err(down_to)
    }
}
