//! A reservation as the ledger keeps it.

use crate::values::{GrantSequence, Reference, Timestamp};

/// No slot: the end of a list.
pub(crate) const NIL: u32 = u32::MAX;

/// How units last left the reserved state other than by being sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastExit {
    None,
    Released,
    Expired,
}

/// One grant. Its id is its stock's id with `sequence`; its quantity is the sum of the three counts.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) sequence: GrantSequence,
    pub(crate) reserved_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// When the last held unit went; meaningful only while nothing is held.
    pub(crate) resolved_at: Timestamp,
    pub(crate) reference: Option<Box<Reference>>,
    pub(crate) stock: u32,
    pub(crate) user: u32,
    pub(crate) reserved: u32,
    pub(crate) confirmed: u32,
    pub(crate) released: u32,
    /// Neighbours in the expiry wheel's list while units are held.
    pub(crate) next: u32,
    pub(crate) previous: u32,
    pub(crate) last_exit: LastExit,
}

impl Reservation {
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.reserved > 0 && self.expires_at <= now
    }
}
