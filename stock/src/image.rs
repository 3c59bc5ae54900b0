//! Images: each change with what it changed, as that stood right after it. They are for whoever follows the changes from outside; replay
//! has no use for them. Their serialised form is durable, like the events' beside which they stand.

use serde::{Deserialize, Serialize};

use crate::record::{ReservationRecord, StockRecord};
use crate::values::ChangeSequence;

/// What an event left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    /// Nothing that callers see changed.
    Nothing,
    /// A reservation was granted; its event says all of it.
    Granted {
        /// The change's place.
        change: ChangeSequence,
    },
    /// One reservation.
    Reservation {
        /// The change's place.
        change: ChangeSequence,
        /// As it stands.
        record: ReservationRecord,
    },
    /// The reservations that one event lapsed, in its order, each a change of its own.
    Lapsed(Vec<(ChangeSequence, ReservationRecord)>),
    /// A stock. Its own `changes` is the change's place.
    Stock(Box<StockRecord>),
}
