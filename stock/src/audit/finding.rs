//! What an audit can find, each with the numbers that show it.

use std::fmt;

use crate::image::Image;
use crate::snapshot::SnapshotItem;
use crate::values::{GrantSequence, ReservationId, Sku, StockId, StockNumber, Timestamp};

/// A promise that the log breaks, with the place in the stock and the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An event is older than the one before it.
    TimeBackwards {
        /// The event's time.
        at: Timestamp,
        /// The time of the event before it.
        newest: Timestamp,
    },
    /// A sku was created twice.
    DuplicateSku {
        /// The product.
        sku: Sku,
    },
    /// A stock's number does not follow the newest of its partition.
    StockOutOfOrder {
        /// The place it was given.
        stock: StockId,
        /// The number that was due.
        expected: StockNumber,
    },
    /// An event names a stock that was never created.
    UnknownStock {
        /// The place it names.
        stock: StockId,
    },
    /// An event names a reservation that was never granted.
    UnknownReservation {
        /// The reservation it names.
        reservation: ReservationId,
    },
    /// A grant's sequence was given before, or skips one.
    GrantOutOfOrder {
        /// The product.
        sku: Sku,
        /// The sequence it was given.
        found: GrantSequence,
        /// The sequence that was due.
        expected: GrantSequence,
    },
    /// A stock's settings contradict each other: its hold is longer than its longest, or its window is empty.
    TermsContradict {
        /// The product.
        sku: Sku,
    },
    /// A grant while the stock granted nothing by its operator's will.
    GrantedWhile {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// `paused`, `closed` or `archived`.
        life: &'static str,
    },
    /// A grant while the stock was not open.
    OutsideWindow {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was granted.
        at: Timestamp,
        /// When the stock opens.
        opens_at: Option<Timestamp>,
        /// When the stock closes.
        closes_at: Option<Timestamp>,
    },
    /// A hold shorter than a second, or longer than its stock allows.
    HoldOutOfBounds {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was granted.
        at: Timestamp,
        /// When it ends.
        expires_at: Timestamp,
        /// The longest hold its stock allows, in seconds.
        seconds_max: u32,
    },
    /// A grant that gives a user more than the stock's limit.
    OverLimit {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What the user had, reserved and sold.
        has: u64,
        /// What was granted.
        granted: u32,
        /// The limit.
        limit: u32,
    },
    /// A grant of more units than were available.
    Oversold {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What was granted.
        granted: u32,
        /// What was available.
        available: u64,
    },
    /// A confirm or release of more units than the reservation held.
    MoreThanHeld {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What left.
        left: u32,
        /// What it held.
        held: u32,
    },
    /// Units were sold when their hold was over.
    ConfirmedTooLate {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When they were sold.
        at: Timestamp,
        /// When their hold was over.
        expires_at: Timestamp,
    },
    /// A hold lapsed before its time.
    LapsedTooEarly {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it lapsed.
        at: Timestamp,
        /// When it might have.
        expires_at: Timestamp,
    },
    /// A reservation lapsed that held nothing.
    LapsedNothing {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
    },
    /// More units came back than were sold.
    MoreThanSold {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What came back.
        returned: u32,
        /// What was sold of it.
        sold: u32,
    },
    /// More units came back than their user has; only where the books began with a snapshot that says so.
    MoreThanUserHas {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What came back.
        returned: u32,
        /// What the user has.
        has: u64,
    },
    /// A hold was extended that was over, or that held nothing.
    ExtendedTooLate {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was extended.
        at: Timestamp,
        /// When it was over.
        expires_at: Timestamp,
        /// What it held.
        held: u32,
    },
    /// An extended hold ends less than a second from now, or later after its grant than its stock allows.
    ExtensionOutOfBounds {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was extended.
        at: Timestamp,
        /// When it was granted.
        reserved_at: Timestamp,
        /// When it ends.
        expires_at: Timestamp,
        /// The longest hold its stock allows, in seconds.
        seconds_max: u32,
    },
    /// More units were taken from a stock than were available.
    AdjustedBelowZero {
        /// The product.
        sku: Sku,
        /// What was available.
        available: u64,
        /// By how much it was adjusted.
        delta: i64,
    },
    /// A stock was given more units than one may have.
    AdjustedOverMax {
        /// The product.
        sku: Sku,
        /// What it had been given.
        allotted: u64,
        /// By how much it was adjusted.
        delta: i64,
    },
    /// A stock was archived that still sold, or of which units were reserved.
    ArchivedInUse {
        /// The product.
        sku: Sku,
        /// Whether it was closed.
        is_closed: bool,
        /// Units reserved.
        reserved: u64,
    },
    /// Settings or life of an archived stock changed.
    ArchivedChanged {
        /// The product.
        sku: Sku,
    },
    /// A reservation was changed that had left memory before the books began, and was not recalled.
    NotRecalled {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
    },
    /// A reservation was recalled that is not as it was.
    RecalledOtherwise {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// In what it differs.
        what: &'static str,
    },
    /// The log says of the stocks together what is not so. Whether the hash beside it is right is for a ledger to say.
    StocksSummed {
        /// How many it says there are.
        told: u64,
        /// How many there are.
        found: u64,
    },
    /// A sum of the ledger came with an image, though it changes nothing.
    SumWithImage {
        /// The image.
        image: Box<Image>,
    },
    /// What the log says of a change's result is not what the events come to.
    ImageDiffers {
        /// The product.
        sku: Sku,
        /// In what it differs.
        what: &'static str,
        /// The image.
        image: Box<Image>,
    },
    /// A piece of the snapshot that the books began with cannot be.
    SnapshotPiece {
        /// Why.
        what: &'static str,
        /// The piece.
        item: Box<SnapshotItem>,
    },
    /// The pieces of the snapshot that the books began with do not add up.
    SnapshotSum {
        /// The product.
        sku: Sku,
        /// What of it.
        what: &'static str,
        /// What the stock says.
        expected: u64,
        /// What the pieces come to.
        found: u64,
    },
    /// A key had an effect although it was still remembered from an earlier one.
    KeyUsedTwice {
        /// The product.
        sku: Sku,
        /// The first effect.
        first_at: Timestamp,
        /// The second.
        at: Timestamp,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeBackwards { at, newest } => {
                write!(formatter, "an event of {} ms follows one of {} ms", at.unix_ms(), newest.unix_ms())
            }
            Self::DuplicateSku { sku } => write!(formatter, "{sku} was created twice"),
            Self::StockOutOfOrder { stock, expected } => write!(
                formatter,
                "stock {} of partition {} was created where {} was due",
                stock.number.0, stock.partition.0, expected.0
            ),
            Self::UnknownStock { stock } => {
                write!(formatter, "stock {} of partition {} was never created", stock.number.0, stock.partition.0)
            }
            Self::UnknownReservation { reservation: ReservationId { stock, sequence } } => write!(
                formatter,
                "grant {} of stock {} of partition {} was never made",
                sequence.0, stock.number.0, stock.partition.0
            ),
            Self::GrantOutOfOrder { sku, found, expected } => {
                write!(formatter, "grant {} of {sku} was made where {} was due", found.0, expected.0)
            }
            Self::OutsideWindow { sku, sequence, at, opens_at, closes_at } => {
                write!(formatter, "grant {} of {sku} was made at {} ms, outside the window from ", sequence.0, at.unix_ms())?;
                write_end(formatter, *opens_at)?;
                formatter.write_str(" to ")?;
                write_end(formatter, *closes_at)
            }
            Self::HoldOutOfBounds { sku, sequence, at, expires_at, seconds_max } => write!(
                formatter,
                "grant {} of {sku} holds from {} ms to {} ms where 1 to {seconds_max} seconds are allowed",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::OverLimit { sku, sequence, has, granted, limit } => write!(
                formatter,
                "grant {} of {sku} gives {granted} units to a user who has {has} where the limit is {limit}",
                sequence.0
            ),
            Self::Oversold { sku, sequence, granted, available } => {
                write!(formatter, "grant {} of {sku} gives {granted} units where {available} are available", sequence.0)
            }
            Self::MoreThanHeld { sku, sequence, left, held } => {
                write!(formatter, "{left} units left grant {} of {sku}, which held {held}", sequence.0)
            }
            Self::ConfirmedTooLate { sku, sequence, at, expires_at } => write!(
                formatter,
                "grant {} of {sku} was confirmed at {} ms, when its hold was over since {} ms",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::LapsedTooEarly { sku, sequence, at, expires_at } => write!(
                formatter,
                "grant {} of {sku} lapsed at {} ms, when its hold was good until {} ms",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::LapsedNothing { sku, sequence } => write!(formatter, "grant {} of {sku} lapsed and held nothing", sequence.0),
            Self::TermsContradict { sku } => write!(formatter, "the settings of {sku} contradict each other"),
            Self::GrantedWhile { sku, sequence, life } => {
                write!(formatter, "grant {} of {sku} was made while it was {life}", sequence.0)
            }
            Self::MoreThanSold { sku, sequence, returned, sold } => {
                write!(formatter, "{returned} units of grant {} of {sku} came back, of which {sold} were sold", sequence.0)
            }
            Self::MoreThanUserHas { sku, sequence, returned, has } => {
                write!(formatter, "{returned} units of grant {} of {sku} came back from a user who has {has}", sequence.0)
            }
            Self::ExtendedTooLate { sku, sequence, at, expires_at, held } => write!(
                formatter,
                "grant {} of {sku}, which held {held} until {} ms, was extended at {} ms",
                sequence.0,
                expires_at.unix_ms(),
                at.unix_ms()
            ),
            Self::ExtensionOutOfBounds { sku, sequence, at, reserved_at, expires_at, seconds_max } => write!(
                formatter,
                "grant {} of {sku}, made at {} ms, was extended at {} ms to {} ms where at least a second from then and at most \
                 {seconds_max} seconds from its grant are allowed",
                sequence.0,
                reserved_at.unix_ms(),
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::AdjustedBelowZero { sku, available, delta } => {
                write!(formatter, "{sku} was adjusted by {delta} units where {available} were available")
            }
            Self::AdjustedOverMax { sku, allotted, delta } => {
                write!(formatter, "{sku} was adjusted by {delta} units where {allotted} were allotted, and may not have so many")
            }
            Self::ArchivedInUse { sku, is_closed, reserved } => {
                let phase = if *is_closed { "closed" } else { "not closed" };
                write!(formatter, "{sku} was archived while it was {phase} with {reserved} units reserved")
            }
            Self::ArchivedChanged { sku } => write!(formatter, "{sku} was changed after it was archived"),
            Self::NotRecalled { sku, sequence } => {
                write!(formatter, "grant {} of {sku} had left memory and was changed without being recalled", sequence.0)
            }
            Self::RecalledOtherwise { sku, sequence, what } => {
                write!(formatter, "grant {} of {sku} was recalled with another {what}", sequence.0)
            }
            Self::StocksSummed { told, found } => write!(formatter, "a sum tells of {told} stocks where there are {found}"),
            Self::SumWithImage { image } => write!(formatter, "a sum changes nothing and has an image: {image:?}"),
            Self::ImageDiffers { sku, what, image } => {
                write!(formatter, "the image of a change of {sku} tells another {what} than the events: {image:?}")
            }
            Self::SnapshotPiece { what, item } => write!(formatter, "the snapshot holds {what}: {item:?}"),
            Self::SnapshotSum { sku, what, expected, found } => {
                write!(formatter, "the snapshot tells {expected} {what} of {sku}, and its pieces come to {found}")
            }
            Self::KeyUsedTwice { sku, first_at, at } => write!(
                formatter,
                "a key of {sku} that had its effect at {} ms had another at {} ms, while it was remembered",
                first_at.unix_ms(),
                at.unix_ms()
            ),
        }
    }
}

impl std::error::Error for Finding {}

fn write_end(formatter: &mut fmt::Formatter<'_>, end: Option<Timestamp>) -> fmt::Result {
    match end {
        Some(end) => write!(formatter, "{} ms", end.unix_ms()),
        None => formatter.write_str("any time"),
    }
}
