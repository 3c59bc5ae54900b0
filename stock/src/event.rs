//! What happened. Events are the log's content: replay applies them and never decides again.
//!
//! Their serialised form is durable. Variants are only ever added at the end, and a variant's fields never change.

use serde::{Deserialize, Serialize};

use crate::command::StockTerms;
use crate::values::{Allotment, GrantSequence, Idempotency, Quantity, Reference, ReservationId, Sku, StockId, Timestamp, UserId};

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
}
