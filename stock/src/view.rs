//! What the ledger shows of itself: copies that live on after the ledger has moved on.

use crate::command::StockTerms;
use crate::values::{Quantity, Reference, ReservationId, Sku, StockId, Timestamp, UserId};

/// A stock's phase of life, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StockState {
    /// Past `closes_at`.
    Closed,
    /// Before `opens_at`.
    Scheduled,
    /// Nothing available.
    SoldOut,
    /// Grants while units last.
    Open,
}

/// A stock at one moment. `available + reserved + sold == allotted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockView {
    /// Its place.
    pub id: StockId,
    /// Its name.
    pub sku: Sku,
    /// All units it was ever given.
    pub allotted: u64,
    /// Units that can be granted.
    pub available: u64,
    /// Units held and not yet paid.
    pub reserved: u64,
    /// Units paid.
    pub sold: u64,
    /// Its settings.
    pub terms: StockTerms,
}

impl StockView {
    /// The first that holds of closed, scheduled, sold out, open.
    pub fn state(&self, now: Timestamp) -> StockState {
        stock_state(&self.terms, self.available, now)
    }
}

/// The first that holds of closed, scheduled, sold out, open.
pub fn stock_state(terms: &StockTerms, available: u64, now: Timestamp) -> StockState {
    if terms.closes_at.is_some_and(|closes_at| now >= closes_at) {
        StockState::Closed
    } else if terms.opens_at.is_some_and(|opens_at| now < opens_at) {
        StockState::Scheduled
    } else if available == 0 {
        StockState::SoldOut
    } else {
        StockState::Open
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
}

/// A reservation at one moment. `reserved + confirmed + released == quantity`.
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
    /// Units given back, by the caller or by the clock.
    pub released: u32,
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
