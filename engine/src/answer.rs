//! What callers get back: answers, and the three kinds of no.

use std::fmt;

use tidegate_persistence::{GroupSequence, StreamId};
use tidegate_stock::{GrantSequence, Rejection, ReservationView, StockState, StockView};

/// A place in the change feed: what a stock's `as_of` carries. Opaque to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The shard's log.
    pub stream: StreamId,
    /// The newest group of it that is contained in what carries the position.
    pub group: GroupSequence,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.stream.0, self.group.0)
    }
}

/// A stock as callers see it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockAnswer {
    /// Its counters and settings.
    pub view: StockView,
    /// Its phase at the moment of the answer.
    pub state: StockState,
    /// Up to where in the change feed this holds.
    pub as_of: Position,
}

/// A page of a stock's reservations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationPage {
    /// Newest first.
    pub reservations: Vec<ReservationView>,
    /// Where the next page begins: those older than this grant. `None` at the end.
    pub next: Option<GrantSequence>,
}

/// What an answer shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A stock.
    Stock(StockAnswer),
    /// A reservation.
    Reservation(ReservationView),
}

/// An accepted command's answer. It exists only once everything that it shows is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether the command brought its subject into being, now or at the attempt that it repeats.
    pub created: bool,
    /// Whether it repeats an earlier attempt with the same idempotency key.
    pub replayed: bool,
    /// Its subject as it stands.
    pub content: Content,
}

/// Not admitted: nothing changed, and trying again is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The shard's ring has no free slot.
    #[error("the shard's ring is full ({slots} slots)")]
    RingFull {
        /// `ring_slots`.
        slots: usize,
    },
    /// The disk has less free space than `disk_free_bytes_min`.
    #[error("the disk has less free space than the configured minimum")]
    DiskLow,
    /// No further idempotency key can be remembered, and none may be forgotten.
    #[error("the table of idempotency keys is full ({keys_max} keys)")]
    KeysFull {
        /// `idempotency_keys_max`.
        keys_max: usize,
    },
    /// No further reservation fits into memory.
    #[error("the shard holds as many reservations in memory as it may ({reservations_max})")]
    MemoryFull {
        /// `reservations_in_memory_max`.
        reservations_max: usize,
    },
    /// No further user fits into memory.
    #[error("the shard holds units of as many users in memory as it may ({users_max})")]
    UsersFull {
        /// `users_in_memory_max`.
        users_max: usize,
    },
    /// Too many commands wait for reservations to be read from the history.
    #[error("{recalls_max} commands are waiting for the history already")]
    RecallsFull {
        /// `recalls_in_flight_max`.
        recalls_max: usize,
    },
    /// The history could not be read, so the command was not decided.
    #[error("the history could not be read")]
    HistoryFailed,
    /// Another node's shard decides, or none does.
    #[error("this node does not decide for the stock at present")]
    NotLeader,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// The outcome is not known: ask again with the same idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The node lost the command's answer, or the log failed under it. The command may have happened.
    #[error("the command's outcome is unknown")]
    OutcomeUnknown,
}

/// Why a command got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The domain says no. What the rejection observed is committed.
    #[error(transparent)]
    Rejection(#[from] Rejection),
    /// Not admitted.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// Unknown.
    #[error(transparent)]
    Fault(#[from] Fault),
}
