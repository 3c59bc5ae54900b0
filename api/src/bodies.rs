//! Request bodies, from bytes to the values of a command.
//!
//! Two kinds of error, in this order: a body whose form is wrong (no JSON, an unknown, missing or doubled field, a wrong type, a text
//! that is no time) is `invalid_request` whatever its values are; after that each value is held against its bounds.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use tidegate_stock::limits::{HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX, QUANTITY_MAX};
use tidegate_stock::{
    Allotment, HoldSeconds, IdentifierError, OutOfBounds, Quantity, Reference, StockTerms, TermsError, Timestamp, UserId,
};

use crate::fields::{self, Number};
use crate::problem::Problem;
use crate::status::Code;
use crate::time::{self, Shown, TimeError};

/// Says how the field of each function's name is read, so that an error can name it.
macro_rules! fields_read_as {
    ($($name:ident: $read:ident -> $value:ty;)*) => {
        mod read_as {
            use super::{Cow, Deserializer, Number, fields};
            $(
                pub(super) fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$value, D::Error> {
                    fields::$read(deserializer, stringify!($name))
                }
            )*
        }
    };
}

fields_read_as! {
    user: text -> Cow<'de, str>;
    reference: optional_text -> Option<Cow<'de, str>>;
    opens_at: optional_text -> Option<Cow<'de, str>>;
    closes_at: optional_text -> Option<Cow<'de, str>>;
    quantity: optional_number -> Option<Number>;
    per_user_limit: optional_number -> Option<Number>;
    hold_seconds: optional_number -> Option<Number>;
    hold_seconds_max: optional_number -> Option<Number>;
}

fn first_quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
    fields::number(deserializer, "quantity")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StockFields<'a> {
    #[serde(deserialize_with = "first_quantity")]
    quantity: Number,
    #[serde(default, deserialize_with = "read_as::per_user_limit")]
    per_user_limit: Option<Number>,
    #[serde(default, deserialize_with = "read_as::hold_seconds")]
    hold_seconds: Option<Number>,
    #[serde(default, deserialize_with = "read_as::hold_seconds_max")]
    hold_seconds_max: Option<Number>,
    #[serde(borrow, default, deserialize_with = "read_as::opens_at")]
    opens_at: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "read_as::closes_at")]
    closes_at: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveFields<'a> {
    #[serde(borrow, deserialize_with = "read_as::user")]
    user: Cow<'a, str>,
    #[serde(default, deserialize_with = "read_as::quantity")]
    quantity: Option<Number>,
    #[serde(default, deserialize_with = "read_as::hold_seconds")]
    hold_seconds: Option<Number>,
    #[serde(borrow, default, deserialize_with = "read_as::reference")]
    reference: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitsFields {
    #[serde(default, deserialize_with = "read_as::quantity")]
    quantity: Option<Number>,
}

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

/// Reads the body that opens a stock.
pub(crate) fn stock(body: &[u8]) -> Result<StockBody, Problem> {
    let fields: StockFields<'_> = object(body)?;
    // A text that is no time has the wrong form, so it is told before any bound is looked at.
    let opens_at = fields.opens_at.map(|text| moment("opens_at", &text)).transpose()?;
    let closes_at = fields.closes_at.map(|text| moment("closes_at", &text)).transpose()?;
    let quantity = allotment(fields.quantity)?;
    let per_user_limit = fields.per_user_limit.map(per_user_limit).transpose()?;
    let hold_seconds = fields.hold_seconds.unwrap_or(Number::Whole(HOLD_SECONDS_DEFAULT.into()));
    let hold_seconds = self::hold_seconds("hold_seconds", hold_seconds)?;
    let hold_seconds_max = match fields.hold_seconds_max {
        Some(number) => self::hold_seconds("hold_seconds_max", number)?,
        None => hold_seconds.default_max(),
    };
    let opens_at = opens_at.map(|moment| in_range("opens_at", moment)).transpose()?;
    let closes_at = closes_at.map(|moment| in_range("closes_at", moment)).transpose()?;
    let terms = StockTerms { per_user_limit, hold_seconds, hold_seconds_max, opens_at, closes_at };
    terms.check().map_err(contradiction)?;
    Ok(StockBody { quantity, terms })
}

/// Reads the body that asks for a reservation.
pub(crate) fn reserve(body: &[u8]) -> Result<ReserveBody, Problem> {
    let fields: ReserveFields<'_> = object(body)?;
    Ok(ReserveBody {
        user: UserId::new(&fields.user).map_err(|error| invalid_identifier("user", error))?,
        reference: fields
            .reference
            .map(|text| Reference::new(&text).map_err(|error| invalid_identifier("reference", error)))
            .transpose()?,
        quantity: fields.quantity.map_or(Ok(Quantity::ONE), quantity)?,
        hold_seconds: fields.hold_seconds.map(|number| hold_seconds("hold_seconds", number)).transpose()?,
    })
}

/// Reads the body that may name how many of a reservation's units are meant; without one, or in an empty one, all are.
pub(crate) fn units(body: &[u8]) -> Result<Option<Quantity>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let fields: UnitsFields = object(body)?;
    fields.quantity.map(quantity).transpose()
}

/// That `what` (a field, a parameter, a header) is no identifier.
pub(crate) fn invalid_identifier(what: &str, error: IdentifierError) -> Problem {
    Problem::new(Code::InvalidIdentifier, format!("{what} {error}"))
}

fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // Derived readers take an array for an object; the contract does not.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => return Err(Problem::invalid_request("the body is not a JSON object")),
        None => return Err(Problem::invalid_request("the body is empty where a JSON object is needed")),
    }
    serde_json::from_slice(body).map_err(|error| Problem::invalid_request(format!("the body is not as expected: {error}")))
}

fn quantity(number: Number) -> Result<Quantity, Problem> {
    let problem = || Problem::new(Code::InvalidQuantity, whole_within("quantity", number, 1, QUANTITY_MAX));
    let Number::Whole(units) = number else { return Err(problem()) };
    Quantity::new(units).map_err(|_| problem())
}

fn allotment(number: Number) -> Result<Allotment, Problem> {
    let problem = || Problem::new(Code::InvalidQuantity, whole_within("quantity", number, 0, QUANTITY_MAX));
    match number {
        Number::Whole(units) if units <= u64::from(QUANTITY_MAX) => Allotment::new(units).map_err(|_| problem()),
        _ => Err(problem()),
    }
}

// The contract lists the bounds of `per_user_limit` with those of `hold_seconds`, beside the quantities': it is a setting, no quantity.
fn per_user_limit(number: Number) -> Result<Quantity, Problem> {
    let problem = || Problem::new(Code::OutOfRange, whole_within("per_user_limit", number, 1, QUANTITY_MAX));
    let Number::Whole(units) = number else { return Err(problem()) };
    Quantity::new(units).map_err(|_| problem())
}

fn hold_seconds(name: &str, number: Number) -> Result<HoldSeconds, Problem> {
    let problem = || Problem::new(Code::OutOfRange, whole_within(name, number, 1, HOLD_SECONDS_MAX));
    let Number::Whole(seconds) = number else { return Err(problem()) };
    HoldSeconds::new(seconds).map_err(|_| problem())
}

fn whole_within(name: &str, number: Number, min: u32, max: u32) -> String {
    format!("{name} is {number} where a whole number from {min} to {max} is needed")
}

fn moment(name: &str, text: &str) -> Result<Option<Timestamp>, Problem> {
    match time::parse(text) {
        Ok(moment) => Ok(Some(moment)),
        Err(TimeError::OutOfRange) => Ok(None),
        Err(TimeError::Malformed) => {
            Err(Problem::invalid_request(format!("`{name}` is not a time as in 2025-11-28T09:00:00.000Z (RFC 3339): {text:?}")))
        }
    }
}

fn in_range(name: &str, moment: Option<Timestamp>) -> Result<Timestamp, Problem> {
    moment.ok_or_else(|| Problem::new(Code::OutOfRange, format!("{name} is before 1970 or after 9999")))
}

fn contradiction(error: TermsError) -> Problem {
    let detail = match error {
        TermsError::HoldOverMax(OutOfBounds { given, max, .. }) => {
            format!("hold_seconds is {given} where hold_seconds_max is {max}")
        }
        TermsError::EmptyWindow { opens_at, closes_at } => {
            format!("opens_at is {} where closes_at is {}, which is no later", Shown(opens_at), Shown(closes_at))
        }
    };
    Problem::new(Code::OutOfRange, detail)
}
