//! No unit is sold twice: whatever the history says, counted by hand and without the ledger's rules, never are more units held and sold than
//! there are.

use std::collections::BTreeMap;

use tidegate_stock::{Event, ReservationId, StockId};

use super::Case;

/// Units of one stock, counted from the history alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Units {
    pub(crate) allotted: i64,
    pub(crate) held: i64,
    pub(crate) sold: i64,
}

/// All stocks, event by event.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) stocks: BTreeMap<StockId, Units>,
    /// What each reservation still holds.
    held: BTreeMap<ReservationId, i64>,
}

impl Count {
    /// Counts what `event` did.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::StockCreated { stock, quantity, .. } => {
                self.stocks.entry(*stock).or_default().allotted += i64::try_from(quantity.units()).unwrap_or(i64::MAX);
            }
            Event::StockAdjusted { stock, delta, .. } => self.stocks.entry(*stock).or_default().allotted += delta.units(),
            Event::Reserved { stock, sequence, quantity, .. } => {
                let units = i64::from(quantity.units());
                self.held.insert(ReservationId { stock: *stock, sequence: *sequence }, units);
                self.stocks.entry(*stock).or_default().held += units;
            }
            Event::Confirmed { reservation, quantity, .. } => {
                let units = i64::from(quantity.units());
                self.let_go(*reservation, units);
                self.stocks.entry(reservation.stock).or_default().sold += units;
            }
            Event::Released { reservation, quantity, .. } => self.let_go(*reservation, i64::from(quantity.units())),
            Event::Expired { reservations } => {
                for reservation in reservations {
                    let rest = self.held.get(reservation).copied().unwrap_or(0);
                    self.let_go(*reservation, rest);
                }
            }
            Event::Returned { reservation, quantity, .. } => {
                self.stocks.entry(reservation.stock).or_default().sold -= i64::from(quantity.units());
            }
            _ => {}
        }
    }

    fn let_go(&mut self, reservation: ReservationId, units: i64) {
        *self.held.entry(reservation).or_default() -= units;
        self.stocks.entry(reservation.stock).or_default().held -= units;
    }
}

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let (mut count, mut findings) = (Count::default(), Vec::new());
    for happened in &case.history {
        count.take(&happened.event);
        for (stock, units) in &count.stocks {
            if units.held + units.sold > units.allotted || units.held < 0 || units.sold < 0 {
                findings.push(format!("group {}: {units:?} of {stock:?} after {:?}", happened.group, happened.event));
                return findings;
            }
        }
    }
    if let Some((reservation, held)) = count.held.iter().find(|(_, held)| **held < 0) {
        findings.push(format!("{reservation:?} gave up {} units more than it had", -held));
    }
    findings
}
