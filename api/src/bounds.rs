//! Values of the wire held against their bounds: numbers and texts become the values of a command, or a problem that names the field, what
//! was given and what is needed.

use tidegate_stock::limits::{HOLD_SECONDS_MAX, QUANTITY_MAX};
use tidegate_stock::{
    Allotment, Delta, HoldSeconds, IdempotencyKey, IdentifierError, OutOfBounds, Quantity, Reason, Reference, Sku, TermsError,
    Timestamp, UserId,
};

use crate::fields::Number;
use crate::problem::Problem;
use crate::status::Code;
use crate::time::{self, Shown, TimeError};

/// Highest number of a node.
pub(crate) const NODE_MAX: u32 = 1_000_000;

/// That `what` (a field, a parameter, a header) is no identifier.
pub(crate) fn invalid_identifier(what: &str, error: IdentifierError) -> Problem {
    Problem::new(Code::InvalidIdentifier, format!("{what} {error}"))
}

/// Makes each function's name the field that it reads an identifier from.
macro_rules! identifiers {
    ($($name:ident $value:ident)*) => {
        $(
            pub(crate) fn $name(text: &str) -> Result<$value, Problem> {
                $value::new(text).map_err(|error| invalid_identifier(stringify!($name), error))
            }
        )*
    };
}

identifiers! {
    sku Sku
    user UserId
    reference Reference
    idempotency_key IdempotencyKey
}

pub(crate) fn delta(number: Number) -> Result<Delta, Problem> {
    let units = match number {
        Number::Whole(units) => i64::try_from(units).ok(),
        Number::Below(units) => Some(units),
        Number::Other(_) => None,
    };
    units.and_then(|units| Delta::new(units).ok()).ok_or_else(|| {
        let needed = format!("where a whole number from -{QUANTITY_MAX} to {QUANTITY_MAX}, and not 0, is needed");
        Problem::new(Code::InvalidQuantity, format!("delta is {number} {needed}"))
    })
}

pub(crate) fn reason(text: &str) -> Result<Reason, Problem> {
    Reason::new(text).map_err(|error| Problem::new(Code::OutOfRange, format!("reason {error}")))
}

pub(crate) fn quantity(number: Number) -> Result<Quantity, Problem> {
    let problem = || Problem::new(Code::InvalidQuantity, whole_within("quantity", number, 1, QUANTITY_MAX));
    let Number::Whole(units) = number else { return Err(problem()) };
    Quantity::new(units).map_err(|_| problem())
}

pub(crate) fn allotment(number: Number) -> Result<Allotment, Problem> {
    let problem = || Problem::new(Code::InvalidQuantity, whole_within("quantity", number, 0, QUANTITY_MAX));
    match number {
        Number::Whole(units) if units <= u64::from(QUANTITY_MAX) => Allotment::new(units).map_err(|_| problem()),
        _ => Err(problem()),
    }
}

// The contract lists the bounds of `per_user_limit` with those of `hold_seconds`, beside the quantities': it is a setting, no quantity.
pub(crate) fn per_user_limit(number: Number) -> Result<Quantity, Problem> {
    let problem = || Problem::new(Code::OutOfRange, whole_within("per_user_limit", number, 1, QUANTITY_MAX));
    let Number::Whole(units) = number else { return Err(problem()) };
    Quantity::new(units).map_err(|_| problem())
}

pub(crate) fn hold_seconds(name: &str, number: Number) -> Result<HoldSeconds, Problem> {
    let problem = || Problem::new(Code::OutOfRange, whole_within(name, number, 1, HOLD_SECONDS_MAX));
    let Number::Whole(seconds) = number else { return Err(problem()) };
    HoldSeconds::new(seconds).map_err(|_| problem())
}

pub(crate) fn node(number: Number) -> Result<u64, Problem> {
    match number {
        Number::Whole(node) if (1..=u64::from(NODE_MAX)).contains(&node) => Ok(node),
        _ => Err(Problem::new(Code::OutOfRange, whole_within("node", number, 1, NODE_MAX))),
    }
}

fn whole_within(name: &str, number: Number, min: u32, max: u32) -> String {
    format!("{name} is {number} where a whole number from {min} to {max} is needed")
}

pub(crate) fn moment(name: &str, text: &str) -> Result<Option<Timestamp>, Problem> {
    match time::parse(text) {
        Ok(moment) => Ok(Some(moment)),
        Err(TimeError::OutOfRange) => Ok(None),
        Err(TimeError::Malformed) => {
            Err(Problem::invalid_request(format!("`{name}` is not a time as in 2025-11-28T09:00:00.000Z (RFC 3339): {text:?}")))
        }
    }
}

pub(crate) fn in_range(name: &str, moment: Option<Timestamp>) -> Result<Timestamp, Problem> {
    moment.ok_or_else(|| Problem::new(Code::OutOfRange, format!("{name} is before 1970 or after 9999")))
}

/// Why settings contradict each other, in words.
pub(crate) fn contradiction(error: TermsError) -> String {
    match error {
        TermsError::HoldOverMax(OutOfBounds { given, max, .. }) => {
            format!("hold_seconds is {given} where hold_seconds_max is {max}")
        }
        TermsError::EmptyWindow { opens_at, closes_at } => {
            format!("opens_at is {} where closes_at is {}, which is no later", Shown(opens_at), Shown(closes_at))
        }
    }
}
