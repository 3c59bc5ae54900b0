//! The domain's ways of saying no. Deterministic: the same ledger, command and time give the same rejection.

use std::fmt;

use crate::values::Timestamp;

/// Why a command did not happen. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No stock of that name.
    UnknownSku,
    /// No reservation of that id.
    UnknownReservation,
    /// The stock exists with another first quantity or other settings.
    StockExists,
    /// The key was used for another operation or other values.
    IdempotencyKeyReused,
    /// The hold asked for is longer than the stock allows.
    HoldOverMax {
        /// Seconds asked for.
        asked: u32,
        /// Seconds allowed.
        max: u32,
    },
    /// The stock no longer grants.
    Closed,
    /// The stock does not grant yet.
    NotOpen {
        /// When it will.
        opens_at: Timestamp,
    },
    /// The user would have more than the stock's limit.
    LimitReached {
        /// The limit.
        limit: u32,
        /// What the user has, reserved and sold.
        has: u64,
        /// What was asked for.
        asked: u32,
    },
    /// Fewer units are available than were asked for.
    SoldOut {
        /// What is available.
        available: u64,
        /// What was asked for.
        asked: u32,
    },
    /// Nothing is held any more: the caller released it.
    ReservationReleased,
    /// Nothing is held any more: it lapsed.
    ReservationExpired,
    /// Nothing is held any more: it was sold.
    ReservationConfirmed,
    /// More units were named than the reservation still holds.
    QuantityOverRemaining {
        /// What was asked for.
        asked: u32,
        /// What remains.
        remaining: u32,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSku => formatter.write_str("there is no stock of this sku"),
            Self::UnknownReservation => formatter.write_str("there is no reservation of this id"),
            Self::StockExists => formatter.write_str("the stock exists with another first quantity or other settings"),
            Self::IdempotencyKeyReused => formatter.write_str("the idempotency key was used for another operation or other values"),
            Self::HoldOverMax { asked, max } => {
                write!(formatter, "hold_seconds is {asked} where the stock allows at most {max}")
            }
            Self::Closed => formatter.write_str("the sale of this stock is over"),
            Self::NotOpen { opens_at } => {
                write!(formatter, "the sale of this stock opens at {} ms since 1970", opens_at.unix_ms())
            }
            Self::LimitReached { limit, has, asked } => {
                write!(formatter, "the user has {has} units and asked for {asked} more where the limit is {limit}")
            }
            Self::SoldOut { available, asked } => write!(formatter, "{asked} units were asked for and {available} are available"),
            Self::ReservationReleased => formatter.write_str("the reservation was released"),
            Self::ReservationExpired => formatter.write_str("the reservation expired"),
            Self::ReservationConfirmed => formatter.write_str("the reservation was confirmed"),
            Self::QuantityOverRemaining { asked, remaining } => {
                write!(formatter, "quantity is {asked} where {remaining} units of the reservation are held")
            }
        }
    }
}

impl std::error::Error for Rejection {}
