//! What is wrong with a history, by name, with the piece of it that shows it.

use std::fmt;

/// A promise that a history breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// More units were granted than there are.
    SoldTwice,
    /// A change was acknowledged, and is not in the feed as it was shown.
    AcknowledgementLost,
    /// An answer shows what was over before its call began.
    Stale,
    /// An answer shows what had not begun before it ended, or never was.
    NeverSo,
    /// A call was rejected, and nothing between its beginning and its end is a reason.
    RejectedWithoutReason,
    /// The grants of a stock are not numbered in the order of its changes.
    GrantOutOfOrder,
    /// A change lies before one that was answered before its own call began.
    RealTimeBroken,
    /// One idempotency key was answered in two ways.
    KeyAnsweredTwice,
    /// A user has more units than the limit.
    OverLimit,
    /// Units were sold whose hold was over.
    ConfirmedAfterLapse,
    /// Units lapsed before their time.
    LapsedEarly,
    /// A change that nobody asked for.
    Invented,
    /// One call changed something twice.
    HappenedTwice,
    /// A change has no place of its own, or one is missing.
    GapInFeed,
    /// The counts of a stock or a reservation do not add up to what the changes say.
    NotConserved,
    /// A change that the state before it does not allow.
    NotAllowed,
    /// Of a batch, a later call on the same stock was decided before an earlier one.
    BatchOutOfOrder,
    /// Units were granted while the stock was paused, closed, archived, or outside of its window.
    GrantedWhileShut,
    /// A stock was archived that was not closed, or of which units were reserved.
    ArchivedInUse,
    /// Settings were changed on condition of an entity tag that the stock did not have.
    PreconditionIgnored,
    /// No order of the calls explains their answers.
    NotLinearizable,
}

/// A fault and what shows it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is broken.
    pub fault: Fault,
    /// The stock.
    pub sku: String,
    /// The smallest piece of the history that shows it, in lines.
    pub piece: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} on {}", self.fault, self.sku)?;
        self.piece.iter().try_for_each(|line| write!(formatter, "\n    {line}"))
    }
}
