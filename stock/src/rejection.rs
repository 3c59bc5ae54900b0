//! The domain's ways of saying no. Deterministic: the same ledger, command and time give the same rejection.

use std::fmt;

use crate::command::TermsError;
use crate::limits::ALLOTTED_MAX;
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
    /// The stock grants nothing until it is reopened.
    Paused,
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
    /// Nothing is held or sold any more: it came back.
    ReservationReturned,
    /// Nothing of it is sold.
    ReservationNotConfirmed,
    /// More units were named than the reservation still has in that state.
    QuantityOverRemaining {
        /// What was asked for.
        asked: u32,
        /// What remains.
        remaining: u32,
    },
    /// The hold would end later than the stock allows.
    ExtendOverMax {
        /// When it would end.
        asked: Timestamp,
        /// When it may end at the latest.
        max: Timestamp,
    },
    /// The stock is not closed, or something of it is reserved.
    StockInUse {
        /// Units reserved.
        reserved: u64,
    },
    /// More units would be taken away than are available.
    InsufficientStock {
        /// What is available.
        available: u64,
        /// What was asked for, below 0.
        delta: i64,
    },
    /// The stock would have been given more units than one may.
    AllottedOverMax {
        /// What it has been given.
        allotted: u64,
        /// What was asked for.
        delta: i64,
    },
    /// The stock has changed since the caller looked.
    PreconditionFailed,
    /// The settings would contradict each other.
    TermsContradict(TermsError),
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
            Self::Paused => formatter.write_str("the sale of this stock is paused"),
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
            Self::ReservationReturned => formatter.write_str("the reservation was returned"),
            Self::ReservationNotConfirmed => formatter.write_str("nothing of the reservation is sold"),
            Self::QuantityOverRemaining { asked, remaining } => {
                write!(formatter, "quantity is {asked} where {remaining} units of the reservation remain")
            }
            Self::ExtendOverMax { asked, max } => write!(
                formatter,
                "the hold would end at {} ms since 1970 where the stock allows at most {}",
                asked.unix_ms(),
                max.unix_ms()
            ),
            Self::StockInUse { reserved: 0 } => formatter.write_str("the stock is not closed"),
            Self::StockInUse { reserved } => write!(formatter, "{reserved} units of the stock are reserved"),
            Self::InsufficientStock { available, delta } => {
                write!(formatter, "delta is {delta} where {available} units are available")
            }
            Self::AllottedOverMax { allotted, delta } => {
                write!(formatter, "delta is {delta} where {allotted} units are allotted and at most {ALLOTTED_MAX} may be")
            }
            Self::PreconditionFailed => formatter.write_str("the stock has changed since its entity tag was given"),
            Self::TermsContradict(TermsError::HoldOverMax(bounds)) => {
                write!(formatter, "hold_seconds is {} where hold_seconds_max is {}", bounds.given, bounds.max)
            }
            Self::TermsContradict(TermsError::EmptyWindow { opens_at, closes_at }) => write!(
                formatter,
                "opens_at is {} ms since 1970 where closes_at is {}, which is no later",
                opens_at.unix_ms(),
                closes_at.unix_ms()
            ),
        }
    }
}

impl std::error::Error for Rejection {}
