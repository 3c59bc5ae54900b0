//! Looks ahead: reads what is about to be decided or applied, so that the processor fetches it for many at once. Among millions of records
//! nearly every first look at one waits for memory, and such waits overlap only where nothing is done between them that depends on them.

use std::hint::black_box;

use crate::command::{Command, Request};
use crate::event::Event;
use crate::ledger::Ledger;
use crate::snapshot::SnapshotItem;
use crate::values::{Idempotency, ReservationId, StockId, UserId};

/// How many should be looked at in a row before the first of them is dealt with: enough for waits to overlap, and few enough that all they
/// read is still near when its turn comes.
pub const LOOKS_TOGETHER: usize = 64;

impl Ledger {
    /// Reads what deciding `request` reads first. Changes nothing and tells nothing.
    pub fn look_ahead(&self, request: &Request) {
        let stock = match &request.command {
            Command::Reserve { sku, user, .. } => self.stock_slot(sku).inspect(|stock| self.look_at_user(*stock, user)),
            Command::Confirm { reservation, .. }
            | Command::Release { reservation, .. }
            | Command::Return { reservation, .. }
            | Command::Extend { reservation, .. }
            | Command::ReadReservation { reservation } => self.look_at_reservation(*reservation),
            Command::AdjustStock { sku, .. } => self.stock_slot(sku),
            Command::CreateStock { .. } | Command::ChangeStock { .. } | Command::StepStock { .. } => None,
        };
        self.look_at_key(stock, request.idempotency);
    }

    /// Reads what applying `event` reads first. Changes nothing and tells nothing.
    pub fn look_ahead_at(&self, event: &Event) {
        match event {
            Event::Reserved { stock, user, idempotency, .. } => {
                let stock = self.stock_slot_of(*stock).inspect(|stock| self.look_at_user(*stock, user));
                self.look_at_key(stock, *idempotency);
            }
            Event::Confirmed { reservation, idempotency, .. }
            | Event::Released { reservation, idempotency, .. }
            | Event::Returned { reservation, idempotency, .. }
            | Event::Extended { reservation, idempotency, .. } => {
                self.look_at_key(self.look_at_reservation(*reservation), *idempotency);
            }
            Event::Expired { reservations } => {
                for reservation in reservations.iter().take(LOOKS_TOGETHER) {
                    self.look_at_reservation(*reservation);
                }
            }
            Event::StockAdjusted { stock, idempotency, .. } => self.look_at_key(self.stock_slot_of(*stock), *idempotency),
            Event::Recalled { record } => self.look_ahead_at_user(record.id.stock, &record.user),
            Event::StockCreated { .. }
            | Event::StockChanged { .. }
            | Event::StockPaused { .. }
            | Event::StockReopened { .. }
            | Event::StockClosed { .. }
            | Event::StockArchived { .. }
            | Event::Summed { .. } => {}
        }
    }

    /// Reads what taking `item` of a copy reads first. Changes nothing and tells nothing.
    pub(crate) fn look_ahead_at_item(&self, item: &SnapshotItem) {
        match item {
            SnapshotItem::User(record) => self.look_ahead_at_user(record.stock, &record.user),
            SnapshotItem::Key(record) => {
                let idempotency = Idempotency { key: record.key, request: record.request };
                self.look_at_key(self.stock_slot_of(record.stock), Some(idempotency));
            }
            // Its user is nearly always the next one.
            SnapshotItem::Reservation(_) | SnapshotItem::Begin { .. } | SnapshotItem::Stock(_) | SnapshotItem::End { .. } => {}
        }
    }

    fn look_ahead_at_user(&self, stock: StockId, user: &UserId) {
        if let Some(stock) = self.stock_slot_of(stock) {
            self.look_at_user(stock, user);
        }
    }

    fn look_at_user(&self, stock: u32, user: &UserId) {
        black_box(self.units_of(stock, user));
    }

    fn look_at_key(&self, stock: Option<u32>, idempotency: Option<Idempotency>) {
        if let (Some(stock), Some(idempotency)) = (stock, idempotency) {
            black_box(self.keys.get(stock, idempotency.key, self.last_applied).is_some());
        }
    }

    /// Gives the reservation's stock.
    fn look_at_reservation(&self, reservation: ReservationId) -> Option<u32> {
        let stock = self.stock_slot_of(reservation.stock)?;
        if let Some(slot) = self.stocks[stock].in_memory.get(reservation.sequence) {
            black_box(self.reservations[slot].reserved);
        }
        Some(stock)
    }
}
