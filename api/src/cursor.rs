//! Where the next page of a list begins, as an opaque text that is good for the list that it came from alone.
//!
//! A cursor is no secret and gives no right: whoever makes one up gets what they could have asked for.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use tidegate_stock::{GrantSequence, ReservationState, Sku, UserId};

use crate::documents::state_name;
use crate::problem::Problem;

/// What a cursor carries. Its variants are its versions: one is never given another meaning.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Cursor<S> {
    /// A list of stocks, behind this one.
    #[serde(rename = "s1")]
    Stocks(S),
    /// A list of a stock's reservations: of which stock, of whom, in which state; older than this grant.
    #[serde(rename = "r1")]
    Reservations(S, Option<S>, Option<S>, u64),
}

/// The cursor of the stocks behind `last`.
pub(crate) fn after_stock(last: &Sku) -> String {
    write(&Cursor::Stocks(last.as_str()))
}

/// The stock behind which a list goes on.
pub(crate) fn read_stock(text: &str) -> Result<Sku, Problem> {
    match read(text) {
        Some(Cursor::Stocks(sku)) => Sku::new(&sku).map_err(|_| foreign()),
        _ => Err(foreign()),
    }
}

/// Which reservations a list shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shelf<'a> {
    pub(crate) sku: &'a Sku,
    pub(crate) user: Option<&'a UserId>,
    pub(crate) state: Option<ReservationState>,
}

impl Shelf<'_> {
    /// The cursor of its reservations older than `grant`.
    pub(crate) fn before(self, grant: GrantSequence) -> String {
        write(&self.cursor(grant))
    }

    /// The grant before which it goes on.
    pub(crate) fn read(self, text: &str) -> Result<GrantSequence, Problem> {
        let Some(Cursor::Reservations(sku, user, state, grant)) = read(text) else { return Err(foreign()) };
        let grant = GrantSequence(grant);
        let given = Cursor::Reservations(sku.as_str(), user.as_deref(), state.as_deref(), grant.0);
        if given != self.cursor(grant) || grant > GrantSequence::MAX {
            return Err(foreign());
        }
        Ok(grant)
    }

    fn cursor(&self, grant: GrantSequence) -> Cursor<&str> {
        Cursor::Reservations(self.sku.as_str(), self.user.map(UserId::as_str), self.state.map(state_name), grant.0)
    }
}

fn write(cursor: &Cursor<&str>) -> String {
    BASE64URL_NOPAD.encode(&serde_json::to_vec(cursor).expect("texts and a number always serialise"))
}

fn read(text: &str) -> Option<Cursor<String>> {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(text.as_bytes()).ok()?).ok()
}

fn foreign() -> Problem {
    Problem::invalid_request("the parameter `cursor` is none that a page of this very list gave")
}
