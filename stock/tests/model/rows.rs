//! What the crate shows of reservations and stocks, held against the rows of the naive ledger.

use tidegate_stock::{
    LastExit, Reference, ReservationRecord, ReservationState, ReservationView, StockRecord, StockState, StockView, Timestamp,
};

use crate::reference::{GivenBack, Reservation, StockRow, digest_of, digest_of_text};
use crate::translate::{reference_text, terms};

pub(crate) const fn state_name(state: ReservationState) -> &'static str {
    match state {
        ReservationState::Reserved => "reserved",
        ReservationState::Confirmed => "confirmed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
        ReservationState::Returned => "returned",
    }
}

pub(crate) const fn stock_state_name(state: StockState) -> &'static str {
    match state {
        StockState::Archived => "archived",
        StockState::Closed => "closed",
        StockState::Paused => "paused",
        StockState::Scheduled => "scheduled",
        StockState::SoldOut => "sold_out",
        StockState::Open => "open",
    }
}

fn reference_of(reservation: &Reservation) -> Option<String> {
    reservation.reference.map(reference_text)
}

/// `view` shows `reservation`; its name is for whoever knows it.
#[track_caller]
pub(crate) fn compare_view(reservation: &Reservation, view: &ReservationView) {
    assert_eq!((view.sku.as_str(), view.id.sequence.0), (reservation.grant.sku, reservation.grant.sequence));
    assert_eq!(view.user.as_str(), reservation.user);
    let reference = view.reference.as_ref().map(Reference::as_str);
    if reference.is_some() || reservation.reference.is_some() {
        assert_eq!(reference, reference_of(reservation).as_deref());
    }
    let found = [view.quantity.units(), view.reserved, view.confirmed, view.released, view.returned].map(u64::from);
    let expected = [reservation.quantity, reservation.held(), reservation.confirmed, reservation.released, reservation.returned];
    assert_eq!(found, expected, "quantity, reserved, confirmed, released and returned of {reservation:?}");
    assert_eq!(state_name(view.state), reservation.state(), "state of {reservation:?}");
    let found = (view.reserved_at.unix_ms(), view.expires_at.unix_ms(), view.resolved_at.map(Timestamp::unix_ms));
    let expected = (reservation.reserved_at, reservation.expires_at, reservation.resolved_at);
    assert_eq!(found, expected, "times of {reservation:?}");
}

/// `record` is `reservation`, with what a view does not show.
#[track_caller]
pub(crate) fn compare_record(reservation: &Reservation, record: &ReservationRecord) {
    assert_eq!(record.id.sequence.0, reservation.grant.sequence);
    assert_eq!(record.user.as_str(), reservation.user);
    let reference = record.reference.as_ref().map(Reference::as_str);
    if reference.is_some() || reservation.reference.is_some() {
        assert_eq!(reference, reference_of(reservation).as_deref());
    }
    let found = [record.reserved, record.confirmed, record.released, record.returned].map(u64::from);
    let expected = [reservation.held(), reservation.confirmed, reservation.released, reservation.returned];
    assert_eq!(found, expected, "reserved, confirmed, released and returned of {reservation:?}");
    let last = match record.last_exit {
        LastExit::None => None,
        LastExit::Released => Some(GivenBack::Released),
        LastExit::Expired => Some(GivenBack::Lapsed),
        LastExit::Returned => Some(GivenBack::Returned),
    };
    assert_eq!(last, reservation.given_back_by, "what took units of {reservation:?} back last");
    let found = (record.reserved_at.unix_ms(), record.expires_at.unix_ms(), record.resolved_at.map(Timestamp::unix_ms));
    let expected = (reservation.reserved_at, reservation.expires_at, reservation.resolved_at);
    assert_eq!(found, expected, "times of {reservation:?}");
}

/// `view` shows what `row` says.
#[track_caller]
pub(crate) fn compare_stock_view(sku: &str, row: &StockRow, view: &StockView) {
    assert_eq!(view.sku.as_str(), sku);
    assert_eq!(view.terms, terms(&row.terms), "settings of {sku}");
    let life = (view.life.is_paused, view.life.is_closed, view.life.is_archived);
    assert_eq!(life, (row.is_paused, row.is_closed, row.is_archived), "life of {sku}");
    assert_eq!(view.revision.0, row.revision, "revision of {sku}");
    let counts = (view.allotted, view.available, view.reserved, view.sold);
    assert_eq!(counts, (row.allotted, row.available, row.reserved, row.sold), "counts of {sku}");
}

/// `record` is the stock that `row` says, after the change of this number.
#[track_caller]
pub(crate) fn compare_stock_record(sku: &str, row: &StockRow, number: u64, record: &StockRecord) {
    assert_eq!(record.sku.as_str(), sku);
    assert_eq!(record.terms, terms(&row.terms), "settings of {sku}");
    let life = (record.is_paused, record.is_closed, record.is_archived);
    assert_eq!(life, (row.is_paused, row.is_closed, row.is_archived), "life of {sku}");
    let counts = (record.allotted, record.available, record.reserved, record.sold);
    assert_eq!(counts, (row.allotted, row.available, row.reserved, row.sold), "counts of {sku}");
    let places = (record.first_quantity.units(), record.grants, record.changes.0, record.revision.0);
    assert_eq!(places, (row.quantity, row.grants, number, row.revision), "first quantity, grants, changes, revision of {sku}");
}

/// The digest of what `view` shows: that of the naive ledger's row, if it shows the same.
pub(crate) fn digest_of_view(view: &ReservationView) -> u64 {
    let texts = [view.sku.as_str(), view.user.as_str(), state_name(view.state)].map(digest_of_text);
    let number = |text: &str| text.strip_prefix("order-").and_then(|number| number.parse::<u64>().ok());
    // A text that is none of ours gives a number that is none of ours.
    let reference = view.reference.as_ref().map_or(0, |reference| number(reference.as_str()).map_or(u64::MAX, |number| number + 1));
    let times = [view.reserved_at, view.expires_at, view.resolved_at.unwrap_or_default()].map(Timestamp::unix_ms);
    let [quantity, confirmed, released, returned] =
        [view.quantity.units(), view.confirmed, view.released, view.returned].map(u64::from);
    let counts = [view.id.sequence.0, quantity, confirmed, released, returned, reference];
    digest_of(texts.into_iter().chain(times).chain(counts))
}
