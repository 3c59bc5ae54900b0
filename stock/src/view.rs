//! What the ledger shows of itself: copies that live on after the ledger has moved on.

use crate::command::StockTerms;
use crate::values::{Quantity, Reference, ReservationId, Revision, Sku, StockId, Timestamp, UserId};

/// A stock's phase of life, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StockState {
    /// Closed for ever.
    Archived,
    /// Closed by hand, or past `closes_at`.
    Closed,
    /// Grants nothing until it is reopened.
    Paused,
    /// Before `opens_at`.
    Scheduled,
    /// Nothing available.
    SoldOut,
    /// Grants while units last.
    Open,
}

/// What was done to a stock's life by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Life {
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether it was closed.
    pub is_closed: bool,
    /// Whether it was archived.
    pub is_archived: bool,
}

impl Life {
    /// Whether nothing is granted any more at `now`.
    pub(crate) fn is_over(self, terms: &StockTerms, now: Timestamp) -> bool {
        let now = if mutant!(ClosesTooLate) { Timestamp::from_unix_ms(now.unix_ms().saturating_sub(1)) } else { now };
        self.is_archived || self.is_closed || terms.closes_at.is_some_and(|closes_at| now >= closes_at)
    }
}

/// A stock at one moment. `available + reserved + sold == allotted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockView {
    /// Its place.
    pub id: StockId,
    /// Its name.
    pub sku: Sku,
    /// All units it was ever given, less those taken away.
    pub allotted: u64,
    /// Units that can be granted.
    pub available: u64,
    /// Units held and not yet paid.
    pub reserved: u64,
    /// Units paid.
    pub sold: u64,
    /// Its settings.
    pub terms: StockTerms,
    /// What was done to its life by hand.
    pub life: Life,
    /// How often settings or life changed.
    pub revision: Revision,
}

impl StockView {
    /// The first that holds of archived, closed, paused, scheduled, sold out, open.
    pub fn state(&self, now: Timestamp) -> StockState {
        if self.life.is_archived {
            StockState::Archived
        } else if self.life.is_closed || self.terms.closes_at.is_some_and(|closes_at| now >= closes_at) {
            StockState::Closed
        } else if self.life.is_paused {
            StockState::Paused
        } else if self.terms.opens_at.is_some_and(|opens_at| now < opens_at) {
            StockState::Scheduled
        } else if self.available == 0 {
            StockState::SoldOut
        } else {
            StockState::Open
        }
    }
}

/// A reservation's phase of life, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationState {
    /// At least one unit is held.
    Reserved,
    /// Nothing is held and at least one unit is sold.
    Confirmed,
    /// Nothing is held or sold; the caller gave up the last.
    Released,
    /// Nothing is held or sold; the clock took the last.
    Expired,
    /// Nothing is held or sold; the last came back after it was sold.
    Returned,
}

/// A reservation at one moment. `reserved + confirmed + released + returned == quantity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationView {
    /// Which one.
    pub id: ReservationId,
    /// Of which product.
    pub sku: Sku,
    /// For whom.
    pub user: UserId,
    /// Units granted.
    pub quantity: Quantity,
    /// Units still held.
    pub reserved: u32,
    /// Units sold.
    pub confirmed: u32,
    /// Units given back unsold, by the caller or by the clock.
    pub released: u32,
    /// Units given back after they were sold.
    pub returned: u32,
    /// Its phase.
    pub state: ReservationState,
    /// What the caller calls it.
    pub reference: Option<Reference>,
    /// When it was granted.
    pub reserved_at: Timestamp,
    /// From when on held units are no longer good.
    pub expires_at: Timestamp,
    /// When the last held unit went; `None` while any is held.
    pub resolved_at: Option<Timestamp>,
}
