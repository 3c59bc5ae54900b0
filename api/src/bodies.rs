//! Request bodies, from bytes to the values of a command.
//!
//! Two kinds of error, in this order: a body whose form is wrong (no JSON, an unknown, missing or doubled field, a wrong type, a text
//! that is no time) is `invalid_request` whatever its values are; after that each value is held against its bounds.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tidegate_stock::limits::HOLD_SECONDS_DEFAULT;
use tidegate_stock::{Allotment, Delta, HoldSeconds, Quantity, Reason, Reference, StockTerms, TermsPatch, UserId};

use crate::bounds;
use crate::fields::{self, Number};
use crate::problem::Problem;
use crate::schema::{
    DeltaUnits, FirstUnits, Hold, HoldMaxOfStock, HoldOfStock, Identifier, Moment, NodeNumber, Opaque, ReasonText, Units,
    UnitsOrOne,
};
use crate::status::Code;

/// Says how the field of each function's name is read, so that an error can name it.
macro_rules! fields_read_as {
    ($module:ident $($name:ident: $read:ident -> $value:ty;)*) => {
        mod $module {
            use std::borrow::Cow;

            use super::{Deserializer, Number, fields};

            $(
                #[allow(clippy::option_option, reason = "a setting left alone and a setting taken away are two things")]
                pub(super) fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$value, D::Error> {
                    fields::$read(deserializer, stringify!($name))
                }
            )*
        }
    };
}

fields_read_as! {
    read_as
    reference: optional_text -> Option<Cow<'de, str>>;
    opens_at: optional_text -> Option<Cow<'de, str>>;
    closes_at: optional_text -> Option<Cow<'de, str>>;
    node: optional_number -> Option<Number>;
    quantity: optional_number -> Option<Number>;
    per_user_limit: optional_number -> Option<Number>;
    hold_seconds: optional_number -> Option<Number>;
    hold_seconds_max: optional_number -> Option<Number>;
}

// The same names where a field is needed, or where leaving it out says something else than null.
fields_read_as! {
    needed_as
    address: text -> Cow<'de, str>;
    user: text -> Cow<'de, str>;
    reason: text -> Cow<'de, str>;
    delta: number -> Number;
    node: number -> Number;
    quantity: number -> Number;
    hold_seconds: number -> Number;
}
fields_read_as! {
    changed_as
    per_user_limit: given_optional_number -> Option<Option<Number>>;
    hold_seconds: given_number -> Option<Number>;
    hold_seconds_max: given_number -> Option<Number>;
    opens_at: given_optional_text -> Option<Option<Cow<'de, str>>>;
    closes_at: given_optional_text -> Option<Option<Cow<'de, str>>>;
}

/// What a stock is opened with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewStock")]
pub(crate) struct StockFields<'a> {
    /// Units to begin with.
    #[serde(deserialize_with = "needed_as::quantity")]
    #[schemars(with = "FirstUnits")]
    quantity: Number,
    /// Most units that one user may have, reserved and sold together; null for no limit.
    #[serde(default, deserialize_with = "read_as::per_user_limit")]
    #[schemars(with = "Option<Units>")]
    per_user_limit: Option<Number>,
    /// How long an unpaid reservation lives that asks for nothing else.
    #[serde(default, deserialize_with = "read_as::hold_seconds")]
    #[schemars(with = "Option<HoldOfStock>")]
    hold_seconds: Option<Number>,
    /// The longest hold that a reservation may ask for, and never below `hold_seconds`. By default the larger of 3600 and that.
    #[serde(default, deserialize_with = "read_as::hold_seconds_max")]
    #[schemars(with = "Option<HoldMaxOfStock>")]
    hold_seconds_max: Option<Number>,
    /// Before this moment nothing is granted.
    #[serde(borrow, default, deserialize_with = "read_as::opens_at")]
    #[schemars(with = "Option<Moment>")]
    opens_at: Option<Cow<'a, str>>,
    /// From this moment on nothing is granted; later than `opens_at`.
    #[serde(borrow, default, deserialize_with = "read_as::closes_at")]
    #[schemars(with = "Option<Moment>")]
    closes_at: Option<Cow<'a, str>>,
}

/// Which settings of a stock become what. What is left out stays as it is; null takes an optional setting away.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StockChange")]
#[expect(clippy::option_option, reason = "a setting left alone and a setting taken away are two things")]
pub(crate) struct ChangeFields<'a> {
    /// Most units that one user may have; null for no limit.
    #[serde(default, deserialize_with = "changed_as::per_user_limit")]
    #[schemars(with = "Option<Units>")]
    per_user_limit: Option<Option<Number>>,
    /// How long an unpaid reservation lives that asks for nothing else.
    #[serde(default, deserialize_with = "changed_as::hold_seconds")]
    #[schemars(with = "Hold")]
    hold_seconds: Option<Number>,
    /// The longest hold that a reservation may ask for.
    #[serde(default, deserialize_with = "changed_as::hold_seconds_max")]
    #[schemars(with = "Hold")]
    hold_seconds_max: Option<Number>,
    /// Before this moment nothing is granted; null for no such moment.
    #[serde(borrow, default, deserialize_with = "changed_as::opens_at")]
    #[schemars(with = "Option<Moment>")]
    opens_at: Option<Option<Cow<'a, str>>>,
    /// From this moment on nothing is granted; null for no such moment.
    #[serde(borrow, default, deserialize_with = "changed_as::closes_at")]
    #[schemars(with = "Option<Moment>")]
    closes_at: Option<Option<Cow<'a, str>>>,
}

/// By how much a stock is adjusted, and why.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Adjustment")]
pub(crate) struct AdjustFields<'a> {
    /// Units that come in; below 0, units that go. Not 0.
    #[serde(deserialize_with = "needed_as::delta")]
    #[schemars(with = "DeltaUnits")]
    delta: Number,
    /// Why, for whoever reads the change feed; at most 256 bytes, without control characters.
    #[serde(borrow, deserialize_with = "needed_as::reason")]
    #[schemars(with = "ReasonText")]
    reason: Cow<'a, str>,
}

/// What a reservation is asked for with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewReservation")]
pub(crate) struct ReserveFields<'a> {
    /// For whom.
    #[serde(borrow, deserialize_with = "needed_as::user")]
    #[schemars(with = "Identifier")]
    user: Cow<'a, str>,
    /// How many units; all or none of them are granted.
    #[serde(default, deserialize_with = "read_as::quantity")]
    #[schemars(with = "Option<UnitsOrOne>")]
    quantity: Option<Number>,
    /// How long to hold them, at most the stock's `hold_seconds_max`. By default its `hold_seconds`.
    #[serde(default, deserialize_with = "read_as::hold_seconds")]
    #[schemars(with = "Option<Hold>")]
    hold_seconds: Option<Number>,
    /// What the caller calls it: an order's number, say.
    #[serde(borrow, default, deserialize_with = "read_as::reference")]
    #[schemars(with = "Option<Identifier>")]
    reference: Option<Cow<'a, str>>,
}

/// How many of a reservation's units are meant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PartOfReservation")]
pub(crate) struct UnitsFields {
    /// How many units. By default all that remain.
    #[serde(default, deserialize_with = "read_as::quantity")]
    #[schemars(with = "Option<Units>")]
    quantity: Option<Number>,
}

/// How much longer a reservation is held.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Extension")]
pub(crate) struct ExtendFields {
    /// For how long from now, and not beyond the stock's `hold_seconds_max` after the reservation was made.
    #[serde(deserialize_with = "needed_as::hold_seconds")]
    #[schemars(with = "Hold")]
    hold_seconds: Number,
}

/// A node that joins a cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewMember")]
pub(crate) struct MemberFields<'a> {
    /// Its number. By default the next that is free.
    #[serde(default, deserialize_with = "read_as::node")]
    #[schemars(with = "Option<NodeNumber>")]
    node: Option<Number>,
    /// Where other nodes reach it: a name or an IP address, and a port.
    #[serde(borrow, deserialize_with = "needed_as::address")]
    #[schemars(with = "Opaque")]
    address: Cow<'a, str>,
}

/// A member of a cluster that something is to be done to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Member")]
pub(crate) struct NodeFields {
    /// Its number.
    #[serde(deserialize_with = "needed_as::node")]
    #[schemars(with = "NodeNumber")]
    node: Number,
}

/// An object without fields.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Nothing")]
pub(crate) struct NoFields {}

/// What a stock is opened with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StockBody {
    pub(crate) quantity: Allotment,
    pub(crate) terms: StockTerms,
}

/// What a reservation is asked for with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReserveBody {
    pub(crate) user: UserId,
    pub(crate) quantity: Quantity,
    pub(crate) hold_seconds: Option<HoldSeconds>,
    pub(crate) reference: Option<Reference>,
}

/// A node that joins a cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemberBody {
    pub(crate) node: Option<u64>,
    pub(crate) address: String,
}

/// Reads the body that names a node which joins.
pub(crate) fn member(body: &[u8]) -> Result<MemberBody, Problem> {
    let fields: MemberFields<'_> = object(body)?;
    let node = fields.node.map(bounds::node).transpose()?;
    Ok(MemberBody { node, address: fields.address.into_owned() })
}

/// Reads the body that names a member.
pub(crate) fn member_number(body: &[u8]) -> Result<u64, Problem> {
    let fields: NodeFields = object(body)?;
    bounds::node(fields.node)
}

/// Reads the body that opens a stock.
pub(crate) fn stock(body: &[u8]) -> Result<StockBody, Problem> {
    let fields: StockFields<'_> = object(body)?;
    // A text that is no time has the wrong form, so it is told before any bound is looked at.
    let opens_at = fields.opens_at.map(|text| bounds::moment("opens_at", &text)).transpose()?;
    let closes_at = fields.closes_at.map(|text| bounds::moment("closes_at", &text)).transpose()?;
    let quantity = bounds::allotment(fields.quantity)?;
    let per_user_limit = fields.per_user_limit.map(bounds::per_user_limit).transpose()?;
    let hold_seconds = fields.hold_seconds.unwrap_or(Number::Whole(HOLD_SECONDS_DEFAULT.into()));
    let hold_seconds = bounds::hold_seconds("hold_seconds", hold_seconds)?;
    let hold_seconds_max = match fields.hold_seconds_max {
        Some(number) => bounds::hold_seconds("hold_seconds_max", number)?,
        None => hold_seconds.default_max(),
    };
    let opens_at = opens_at.map(|moment| bounds::in_range("opens_at", moment)).transpose()?;
    let closes_at = closes_at.map(|moment| bounds::in_range("closes_at", moment)).transpose()?;
    let terms = StockTerms { per_user_limit, hold_seconds, hold_seconds_max, opens_at, closes_at };
    terms.check().map_err(|error| Problem::new(Code::OutOfRange, bounds::contradiction(error)))?;
    Ok(StockBody { quantity, terms })
}

/// Reads the body that changes a stock's settings.
pub(crate) fn change(body: &[u8]) -> Result<TermsPatch, Problem> {
    let fields: ChangeFields<'_> = object(body)?;
    let moment = |name, text: Option<Option<Cow<'_, str>>>| {
        text.map(|text| text.map(|text| bounds::moment(name, &text)).transpose()).transpose()
    };
    let opens_at = moment("opens_at", fields.opens_at)?;
    let closes_at = moment("closes_at", fields.closes_at)?;
    let limit = fields.per_user_limit.map(|limit| limit.map(bounds::per_user_limit).transpose()).transpose()?;
    let hold = |name, hold: Option<Number>| hold.map(|hold| bounds::hold_seconds(name, hold)).transpose();
    let in_range = |name, moment: Option<Option<_>>| {
        moment.map(|moment| moment.map(|moment| bounds::in_range(name, moment)).transpose()).transpose()
    };
    Ok(TermsPatch {
        per_user_limit: limit,
        hold_seconds: hold("hold_seconds", fields.hold_seconds)?,
        hold_seconds_max: hold("hold_seconds_max", fields.hold_seconds_max)?,
        opens_at: in_range("opens_at", opens_at)?,
        closes_at: in_range("closes_at", closes_at)?,
    })
}

/// Reads the body that adjusts a stock.
pub(crate) fn adjustment(body: &[u8]) -> Result<(Delta, Reason), Problem> {
    let fields: AdjustFields<'_> = object(body)?;
    Ok((bounds::delta(fields.delta)?, bounds::reason(&fields.reason)?))
}

/// Reads the body that asks for a reservation.
pub(crate) fn reserve(body: &[u8]) -> Result<ReserveBody, Problem> {
    let fields: ReserveFields<'_> = object(body)?;
    Ok(ReserveBody {
        user: bounds::user(&fields.user)?,
        reference: fields.reference.map(|text| bounds::reference(&text)).transpose()?,
        quantity: fields.quantity.map_or(Ok(Quantity::ONE), bounds::quantity)?,
        hold_seconds: fields.hold_seconds.map(|number| bounds::hold_seconds("hold_seconds", number)).transpose()?,
    })
}

/// Reads the body that may name how many of a reservation's units are meant; without one, or in an empty one, all are.
pub(crate) fn units(body: &[u8]) -> Result<Option<Quantity>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let fields: UnitsFields = object(body)?;
    fields.quantity.map(bounds::quantity).transpose()
}

/// Reads the body that says how long a reservation is held from now on.
pub(crate) fn extension(body: &[u8]) -> Result<HoldSeconds, Problem> {
    let fields: ExtendFields = object(body)?;
    bounds::hold_seconds("hold_seconds", fields.hold_seconds)
}

/// Checks that there is no body, or an object without fields.
pub(crate) fn nothing(body: &[u8]) -> Result<(), Problem> {
    if body.is_empty() {
        return Ok(());
    }
    object(body).map(|NoFields {}| ())
}

/// Reads a body that is one JSON object.
pub(crate) fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // Derived readers take an array for an object; the contract does not.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => return Err(Problem::invalid_request("the body is not a JSON object")),
        None => return Err(Problem::invalid_request("the body is empty where a JSON object is needed")),
    }
    serde_json::from_slice(body).map_err(|error| Problem::invalid_request(format!("the body is not as expected: {error}")))
}
