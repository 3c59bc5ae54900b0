//! What happened. Events are the log's content: replay applies them and never decides again.
//!
//! Their serialised form is durable. Variants are only ever added at the end, and a variant's fields never change.

use serde::{Deserialize, Serialize};

use crate::command::StockTerms;
use crate::record::ReservationRecord;
use crate::sum::LedgerSum;
use crate::values::{
    Allotment, Delta, GrantSequence, Idempotency, Quantity, Reason, Reference, ReservationId, Sku, StockId, Timestamp, UserId,
};

/// One change of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A stock was opened.
    StockCreated {
        /// Its place.
        stock: StockId,
        /// Its name.
        sku: Sku,
        /// The units it starts with.
        quantity: Allotment,
        /// Its settings.
        terms: StockTerms,
    },
    /// Units went from available to reserved.
    Reserved {
        /// From which stock.
        stock: StockId,
        /// Which grant of it this is.
        sequence: GrantSequence,
        /// For whom.
        user: UserId,
        /// How many.
        quantity: Quantity,
        /// From this moment on the hold is no longer good.
        expires_at: Timestamp,
        /// What the caller calls it.
        reference: Option<Reference>,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// Units of a reservation went from reserved to sold.
    Confirmed {
        /// Which reservation.
        reservation: ReservationId,
        /// How many.
        quantity: Quantity,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// Units of a reservation went from reserved to available, by the caller's will.
    Released {
        /// Which reservation.
        reservation: ReservationId,
        /// How many.
        quantity: Quantity,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// Everything still held of these reservations went from reserved to available, by the clock.
    Expired {
        /// Which reservations; each holds at least one unit and is due. At most [`crate::limits::LAPSE_RESERVATIONS_MAX`].
        reservations: Vec<ReservationId>,
    },
    /// Units of a reservation went from sold to available.
    Returned {
        /// Which reservation.
        reservation: ReservationId,
        /// How many.
        quantity: Quantity,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// A reservation's hold ends at another moment.
    Extended {
        /// Which reservation; it holds at least one unit.
        reservation: ReservationId,
        /// From this moment on the hold is no longer good.
        expires_at: Timestamp,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// A stock's settings changed.
    StockChanged {
        /// Which stock.
        stock: StockId,
        /// Its settings from now on.
        terms: StockTerms,
    },
    /// A stock was given units, or lost available ones.
    StockAdjusted {
        /// Which stock.
        stock: StockId,
        /// How many.
        delta: Delta,
        /// Why, in the caller's words.
        reason: Reason,
        /// The key it came with.
        idempotency: Option<Idempotency>,
    },
    /// A stock grants nothing until it is reopened.
    StockPaused {
        /// Which stock.
        stock: StockId,
    },
    /// A stock is neither paused nor closed by hand any more.
    StockReopened {
        /// Which stock.
        stock: StockId,
    },
    /// A stock was closed by hand.
    StockClosed {
        /// Which stock.
        stock: StockId,
    },
    /// A stock is closed for ever; nothing of it is reserved.
    StockArchived {
        /// Which stock.
        stock: StockId,
    },
    /// A reservation that had left memory is back, because the next event changes it. Nothing that callers see changes.
    Recalled {
        /// As it stood when it left.
        record: Box<ReservationRecord>,
    },
    /// What the ledger came to right before this, on the node that decided. It changes nothing; whoever applies it must come to the same.
    Summed {
        /// That.
        sum: LedgerSum,
    },
}

impl Event {
    /// The stock that it is about; `None` for a lapse, which may be of several, and for a sum, which is of all.
    pub const fn stock(&self) -> Option<StockId> {
        match self {
            Self::StockCreated { stock, .. }
            | Self::Reserved { stock, .. }
            | Self::StockChanged { stock, .. }
            | Self::StockAdjusted { stock, .. }
            | Self::StockPaused { stock }
            | Self::StockReopened { stock }
            | Self::StockClosed { stock }
            | Self::StockArchived { stock } => Some(*stock),
            Self::Confirmed { reservation, .. }
            | Self::Released { reservation, .. }
            | Self::Returned { reservation, .. }
            | Self::Extended { reservation, .. } => Some(reservation.stock),
            Self::Recalled { record } => Some(record.id.stock),
            Self::Expired { .. } | Self::Summed { .. } => None,
        }
    }
}
