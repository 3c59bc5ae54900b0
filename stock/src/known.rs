//! Whom and what a ledger knows, in slices: what a caller can be told without asking depends on it.

use crate::ledger::Ledger;
use crate::values::{Fingerprint, StockId};

/// Who or what a stock knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<'a> {
    /// A user who may have units of it.
    User(StockId, &'a str),
    /// A key that it may remember.
    Key(StockId, Fingerprint),
}

/// How far a walk over all that a ledger knows has come. It begins with the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownWalk {
    user: u32,
    key: u32,
}

impl Ledger {
    /// Visits some more of the users and keys, with at most `looks` looks at records; returns whether there are more to come. Who or what is
    /// in the ledger from the beginning of a walk to its end is visited once. What comes or goes meanwhile may be visited or not.
    pub fn walk_known(&self, walk: &mut KnownWalk, looks: usize, mut visit: impl FnMut(Known<'_>)) -> bool {
        let (users, keys) = (self.users.slots(), self.keys.entries().slots());
        for _ in 0..looks {
            if walk.user < users {
                if self.users.is_occupied(walk.user) {
                    let user = &self.users[walk.user];
                    visit(Known::User(self.stocks[user.stock].id, self.names.text(user.name)));
                }
                walk.user += 1;
            } else if walk.key < keys {
                if self.keys.entries().is_occupied(walk.key) {
                    let entry = &self.keys.entries()[walk.key];
                    visit(Known::Key(self.stocks[entry.stock].id, entry.key()));
                }
                walk.key += 1;
            } else {
                break;
            }
        }
        walk.user < users || walk.key < keys
    }
}
