//! What callers may ask for. Commands hold parsed, bounded values only; whether they may happen is for [`crate::decide()`].

use serde::Serialize;

use crate::values::{
    Allotment, Delta, HoldSeconds, Idempotency, OutOfBounds, Partition, Quantity, Reason, Reference, ReservationId, Revision, Sku,
    Timestamp, UserId,
};

/// The settings of a stock: everything but its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct StockTerms {
    /// Most units that one user may hold and own together; `None` for no limit.
    pub per_user_limit: Option<Quantity>,
    /// How long an unpaid reservation lives that asks for nothing else.
    pub hold_seconds: HoldSeconds,
    /// The longest hold that a reservation may ask for; never below `hold_seconds`.
    pub hold_seconds_max: HoldSeconds,
    /// Before this moment nothing is granted.
    pub opens_at: Option<Timestamp>,
    /// From this moment on nothing is granted; later than `opens_at`.
    pub closes_at: Option<Timestamp>,
}

/// Why terms contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TermsError {
    /// `hold_seconds` is longer than `hold_seconds_max`.
    HoldOverMax(OutOfBounds),
    /// The window ends before it starts, or is empty.
    EmptyWindow {
        /// When it would open.
        opens_at: Timestamp,
        /// When it would close.
        closes_at: Timestamp,
    },
}

impl StockTerms {
    /// Checks the relations between the fields; each field is within its own bounds by its type.
    pub fn check(&self) -> Result<(), TermsError> {
        if self.hold_seconds > self.hold_seconds_max {
            return Err(TermsError::HoldOverMax(OutOfBounds {
                given: u64::from(self.hold_seconds.seconds()),
                min: 1,
                max: u64::from(self.hold_seconds_max.seconds()),
            }));
        }
        match (self.opens_at, self.closes_at) {
            (Some(opens_at), Some(closes_at)) if opens_at >= closes_at => Err(TermsError::EmptyWindow { opens_at, closes_at }),
            _ => Ok(()),
        }
    }

    /// These terms with `patch` laid over them.
    #[must_use]
    pub fn patched(&self, patch: &TermsPatch) -> Self {
        Self {
            per_user_limit: patch.per_user_limit.unwrap_or(self.per_user_limit),
            hold_seconds: patch.hold_seconds.unwrap_or(self.hold_seconds),
            hold_seconds_max: patch.hold_seconds_max.unwrap_or(self.hold_seconds_max),
            opens_at: patch.opens_at.unwrap_or(self.opens_at),
            closes_at: patch.closes_at.unwrap_or(self.closes_at),
        }
    }
}

/// Which settings of a stock become what; `None` leaves one as it is, `Some(None)` takes an optional one away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TermsPatch {
    /// Most units of one user.
    pub per_user_limit: Option<Option<Quantity>>,
    /// The stock's own hold.
    pub hold_seconds: Option<HoldSeconds>,
    /// The longest hold.
    pub hold_seconds_max: Option<HoldSeconds>,
    /// When it opens.
    pub opens_at: Option<Option<Timestamp>>,
    /// When it closes.
    pub closes_at: Option<Option<Timestamp>>,
}

/// A step in a stock's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LifeStep {
    /// Grants nothing until it is reopened.
    Pause,
    /// Undoes pause and close.
    Reopen,
    /// The sale is over; confirm, release, return and expiry still work.
    Close,
    /// For ever closed: users' counts leave memory. Keys are remembered for their time.
    Archive,
}

/// One thing a caller asks for.
///
/// Its serialised bytes are what an idempotency key remembers of it, so variants and fields are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Open a stock, or find that it is there already with the same first quantity and terms.
    CreateStock {
        /// Where the sku hashes to.
        partition: Partition,
        /// The product.
        sku: Sku,
        /// Units to start with.
        quantity: Allotment,
        /// Its settings; [`StockTerms::check`] has passed.
        terms: StockTerms,
    },
    /// Hold units of a product for a user.
    Reserve {
        /// The product.
        sku: Sku,
        /// For whom.
        user: UserId,
        /// How many; all or nothing.
        quantity: Quantity,
        /// How long, instead of the stock's own hold.
        hold_seconds: Option<HoldSeconds>,
        /// What the caller calls it.
        reference: Option<Reference>,
    },
    /// Paid: held units become sold.
    Confirm {
        /// Which reservation.
        reservation: ReservationId,
        /// How many of its held units; all of them when `None`.
        quantity: Option<Quantity>,
    },
    /// Cancelled: held units become available.
    Release {
        /// Which reservation.
        reservation: ReservationId,
        /// How many of its held units; all of them when `None`.
        quantity: Option<Quantity>,
    },
    /// Look at a reservation as its owner sees it.
    ReadReservation {
        /// Which reservation.
        reservation: ReservationId,
    },
    /// Refunded: sold units become available.
    Return {
        /// Which reservation.
        reservation: ReservationId,
        /// How many of its sold units; all of them when `None`.
        quantity: Option<Quantity>,
    },
    /// Hold on for `hold_seconds` from now, instead of until the moment agreed before.
    Extend {
        /// Which reservation.
        reservation: ReservationId,
        /// How long, from now.
        hold_seconds: HoldSeconds,
    },
    /// Change a stock's settings.
    ChangeStock {
        /// The product.
        sku: Sku,
        /// What becomes what.
        patch: TermsPatch,
        /// Only if the stock's revision is one of these; `None` for any.
        if_revision: Option<Vec<Revision>>,
    },
    /// Give a stock more units, or take available ones away.
    AdjustStock {
        /// The product.
        sku: Sku,
        /// How many.
        delta: Delta,
        /// Why, in the caller's words.
        reason: Reason,
    },
    /// Take a step in a stock's life.
    StepStock {
        /// The product.
        sku: Sku,
        /// Which step.
        step: LifeStep,
    },
}

/// A command with what is needed to recognise its repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// What is remembered of it, if the caller gave a key.
    pub idempotency: Option<Idempotency>,
}
