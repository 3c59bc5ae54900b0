//! Records: what leaves the ledger's memory and comes back, for the history and for snapshots. Their serialised form is durable.

use serde::{Deserialize, Serialize};

use crate::command::StockTerms;
use crate::values::{
    Allotment, ChangeSequence, Fingerprint, GrantSequence, Quantity, Reference, ReservationId, Revision, Sku, StockId, Timestamp,
    UserId,
};
use crate::view::{ReservationState, ReservationView};

/// How units last left a reservation other than by being sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastExit {
    /// None has.
    None,
    /// The caller gave held units up.
    Released,
    /// The clock took held units.
    Expired,
    /// Sold units came back.
    Returned,
}

/// A whole reservation. `reserved + confirmed + released + returned` is its quantity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRecord {
    /// Which one.
    pub id: ReservationId,
    /// For whom.
    pub user: UserId,
    /// What the caller calls it.
    pub reference: Option<Reference>,
    /// When it was granted.
    pub reserved_at: Timestamp,
    /// From when on held units are no longer good.
    pub expires_at: Timestamp,
    /// When the last held unit went; `None` while any is held.
    pub resolved_at: Option<Timestamp>,
    /// Units held.
    pub reserved: u32,
    /// Units sold.
    pub confirmed: u32,
    /// Units given back unsold, by the caller or by the clock.
    pub released: u32,
    /// Units given back after they were sold.
    pub returned: u32,
    /// What happened last.
    pub last_exit: LastExit,
}

impl ReservationRecord {
    /// Units granted.
    ///
    /// # Panics
    /// When the counts sum to no quantity, which no ledger writes.
    pub fn quantity(&self) -> Quantity {
        let Ok(quantity) = Quantity::new(self.counts().sum()) else {
            panic!("the counts of a reservation sum to no quantity: {self:?}")
        };
        quantity
    }

    /// Where its units are: held, sold, given back unsold, given back after they were sold.
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        [self.reserved, self.confirmed, self.released, self.returned].into_iter().map(u64::from)
    }

    /// Its phase.
    pub const fn state(&self) -> ReservationState {
        match (self.reserved, self.confirmed, self.last_exit) {
            (1.., _, _) => ReservationState::Reserved,
            (0, 1.., _) => ReservationState::Confirmed,
            (0, 0, LastExit::Expired) => ReservationState::Expired,
            (0, 0, LastExit::Returned) => ReservationState::Returned,
            (0, 0, LastExit::Released | LastExit::None) => ReservationState::Released,
        }
    }

    /// As callers see it, under the name of its stock.
    pub fn view(&self, sku: &Sku) -> ReservationView {
        ReservationView {
            id: self.id,
            sku: sku.clone(),
            user: self.user.clone(),
            quantity: self.quantity(),
            reserved: self.reserved,
            confirmed: self.confirmed,
            released: self.released,
            returned: self.returned,
            state: self.state(),
            reference: self.reference.clone(),
            reserved_at: self.reserved_at,
            expires_at: self.expires_at,
            resolved_at: self.resolved_at,
        }
    }
}

/// A whole stock, but for its reservations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRecord {
    /// Its place.
    pub id: StockId,
    /// Its name.
    pub sku: Sku,
    /// The units it started with.
    pub first_quantity: Allotment,
    /// Its settings.
    pub terms: StockTerms,
    /// All units it was ever given, less those taken away.
    pub allotted: u64,
    /// Units that can be granted.
    pub available: u64,
    /// Units held.
    pub reserved: u64,
    /// Units sold.
    pub sold: u64,
    /// The place of the newest grant; 0 before the first.
    pub grants: u64,
    /// The place of the newest change.
    pub changes: ChangeSequence,
    /// How often settings or life changed.
    pub revision: Revision,
    /// Whether it was paused.
    pub is_paused: bool,
    /// Whether it was closed by hand.
    pub is_closed: bool,
    /// Whether it was archived.
    pub is_archived: bool,
}

/// What one user has of one stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Of which stock.
    pub stock: StockId,
    /// Who.
    pub user: UserId,
    /// Units, reserved and sold.
    pub units: u64,
}

/// What is remembered of a key that had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose name space it is in.
    pub stock: StockId,
    /// The key.
    pub key: Fingerprint,
    /// The operation and its values.
    pub request: Fingerprint,
    /// The reservation that it granted or changed; `None` for the stock itself.
    pub reservation: Option<GrantSequence>,
    /// Whether it granted it.
    pub created: bool,
    /// When.
    pub at: Timestamp,
}
