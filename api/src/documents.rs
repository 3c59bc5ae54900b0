//! What is shown of stocks and reservations, field by field, and by which names their states go.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tidegate_engine::{ChangeId, Position, StockAnswer};
use tidegate_stock::{Quantity, Reference, ReservationState, ReservationView, StockState, StockView};

use crate::schema::{
    Count, Hold, Identifier, Moment, Opaque, PartUnits, ReservationIdText, ReservationStateName, StockStateName, StockUnits, Units,
};
use crate::time::Shown;

/// Every state of a stock.
pub(crate) const STOCK_STATES: [StockState; 6] =
    [StockState::Archived, StockState::Closed, StockState::Paused, StockState::Scheduled, StockState::SoldOut, StockState::Open];

/// Every state of a reservation.
pub(crate) const RESERVATION_STATES: [ReservationState; 5] = [
    ReservationState::Reserved,
    ReservationState::Confirmed,
    ReservationState::Released,
    ReservationState::Expired,
    ReservationState::Returned,
];

/// The name of a stock's state.
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

/// The name of a reservation's state.
pub(crate) const fn state_name(state: ReservationState) -> &'static str {
    match state {
        ReservationState::Reserved => "reserved",
        ReservationState::Confirmed => "confirmed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
        ReservationState::Returned => "returned",
    }
}

/// A stock. Always available + reserved + sold = allotted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Stock")]
pub(crate) struct StockDocument<'a> {
    /// The product.
    #[schemars(with = "Identifier")]
    sku: &'a str,
    /// All units that it was ever given, less those taken away.
    #[schemars(with = "StockUnits")]
    allotted: u64,
    /// Units that can be reserved.
    #[schemars(with = "StockUnits")]
    available: u64,
    /// Units that are held and not yet paid.
    #[schemars(with = "StockUnits")]
    reserved: u64,
    /// Units that are paid.
    #[schemars(with = "StockUnits")]
    sold: u64,
    /// Most units that one user may have, reserved and sold together; null for no limit.
    #[schemars(with = "Option<Units>")]
    per_user_limit: Option<u32>,
    /// How long an unpaid reservation lives that asks for nothing else.
    #[schemars(with = "Hold")]
    hold_seconds: u32,
    /// The longest hold that a reservation may ask for.
    #[schemars(with = "Hold")]
    hold_seconds_max: u32,
    /// Before this moment nothing is granted.
    #[schemars(with = "Option<Moment>")]
    opens_at: Option<Shown>,
    /// From this moment on nothing is granted.
    #[schemars(with = "Option<Moment>")]
    closes_at: Option<Shown>,
    /// The first that holds of archived, closed, paused, scheduled, `sold_out` (nothing available), open.
    #[schemars(with = "StockStateName")]
    state: &'static str,
    /// An opaque position in the change feed, up to which this holds.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "Opaque")]
    as_of: AsOf,
}

/// A reservation. Always reserved + confirmed + released + returned = quantity.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Reservation")]
pub(crate) struct ReservationDocument<'a> {
    /// Opaque; it cannot be guessed.
    #[schemars(with = "ReservationIdText")]
    id: &'a str,
    /// Of which product.
    #[schemars(with = "Identifier")]
    sku: &'a str,
    /// For whom.
    #[schemars(with = "Identifier")]
    user: &'a str,
    /// Units granted.
    #[schemars(with = "Units")]
    quantity: u32,
    /// Units still held.
    #[schemars(with = "PartUnits")]
    reserved: u32,
    /// Units sold.
    #[schemars(with = "PartUnits")]
    confirmed: u32,
    /// Units given back unsold, by the caller or by the clock.
    #[schemars(with = "PartUnits")]
    released: u32,
    /// Units given back after they were sold.
    #[schemars(with = "PartUnits")]
    returned: u32,
    /// reserved while any unit is held, else confirmed while any is sold, else by what happened last.
    #[schemars(with = "ReservationStateName")]
    state: &'static str,
    /// Rises with every grant of the same sku, in the order in which the grants were decided.
    #[schemars(with = "Count")]
    sequence: u64,
    /// What the caller calls it.
    #[schemars(with = "Option<Identifier>")]
    reference: Option<&'a str>,
    /// When it was granted.
    #[schemars(with = "Moment")]
    reserved_at: Shown,
    /// From when on held units are no longer good.
    #[schemars(with = "Moment")]
    expires_at: Shown,
    /// When the last held unit went; null while any is held.
    #[schemars(with = "Option<Moment>")]
    resolved_at: Option<Shown>,
}

/// Up to where something holds.
#[derive(Debug)]
enum AsOf {
    /// With everything of a group.
    Group(Position),
    /// Right after a change.
    Change(ChangeId),
}

fn as_text<S: Serializer>(as_of: &AsOf, serializer: S) -> Result<S::Ok, S::Error> {
    match as_of {
        AsOf::Group(position) => serializer.collect_str(position),
        AsOf::Change(change) => serializer.collect_str(change),
    }
}

impl<'a> StockDocument<'a> {
    /// What is shown of `stock`.
    pub(crate) fn of(stock: &'a StockAnswer) -> Self {
        Self::at(&stock.view, stock.state, AsOf::Group(stock.as_of))
    }

    /// What is shown of a stock right after `change`.
    pub(crate) fn after(change: ChangeId, view: &'a StockView, state: StockState) -> Self {
        Self::at(view, state, AsOf::Change(change))
    }

    fn at(view: &'a StockView, state: StockState, as_of: AsOf) -> Self {
        let terms = &view.terms;
        Self {
            sku: view.sku.as_str(),
            allotted: view.allotted,
            available: view.available,
            reserved: view.reserved,
            sold: view.sold,
            per_user_limit: terms.per_user_limit.map(Quantity::units),
            hold_seconds: terms.hold_seconds.seconds(),
            hold_seconds_max: terms.hold_seconds_max.seconds(),
            opens_at: terms.opens_at.map(Shown),
            closes_at: terms.closes_at.map(Shown),
            state: stock_state_name(state),
            as_of,
        }
    }
}

impl<'a> ReservationDocument<'a> {
    /// What is shown of the reservation that callers know by `id`.
    pub(crate) fn of(id: &'a str, view: &'a ReservationView) -> Self {
        Self {
            id,
            sku: view.sku.as_str(),
            user: view.user.as_str(),
            quantity: view.quantity.units(),
            reserved: view.reserved,
            confirmed: view.confirmed,
            released: view.released,
            returned: view.returned,
            state: state_name(view.state),
            sequence: view.id.sequence.0,
            reference: view.reference.as_ref().map(Reference::as_str),
            reserved_at: Shown(view.reserved_at),
            expires_at: Shown(view.expires_at),
            resolved_at: view.resolved_at.map(Shown),
        }
    }
}
