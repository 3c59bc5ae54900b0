//! Request bodies: every call's reader agrees with a second reading made from the contract alone, in what it takes, in every value that
//! comes out, and in the code that it refuses with.

use tidegate_api::fuzzing::{self, Read};
use tidegate_stock::{HoldSeconds, Quantity, Reason, Reference, Timestamp, UserId};

use crate::json::{Field, Kind, Value, judge};

const UNITS_MAX: i64 = 1_000_000_000;
const QUANTITY: Kind = Kind::Whole { min: 1, max: UNITS_MAX, code: "invalid_quantity" };
const FIRST_QUANTITY: Kind = Kind::Whole { min: 0, max: UNITS_MAX, code: "invalid_quantity" };
const LIMIT: Kind = Kind::Whole { min: 1, max: UNITS_MAX, code: "out_of_range" };
const HOLD: Kind = Kind::Whole { min: 1, max: 31_536_000, code: "out_of_range" };

const fn needed(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_needed: true, may_be_null: false }
}

/// A field that `null` leaves out, or takes away.
const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_needed: false, may_be_null: true }
}

/// A field that may be left out, but not be `null`.
const fn given(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_needed: false, may_be_null: false }
}

const STOCK: &[Field] = &[
    needed("quantity", FIRST_QUANTITY),
    optional("per_user_limit", LIMIT),
    optional("hold_seconds", HOLD),
    optional("hold_seconds_max", HOLD),
    optional("opens_at", Kind::Moment),
    optional("closes_at", Kind::Moment),
];
const CHANGE: &[Field] = &[
    optional("per_user_limit", LIMIT),
    given("hold_seconds", HOLD),
    given("hold_seconds_max", HOLD),
    optional("opens_at", Kind::Moment),
    optional("closes_at", Kind::Moment),
];
const ADJUSTMENT: &[Field] = &[needed("delta", Kind::Change { size_max: UNITS_MAX }), needed("reason", Kind::Reason)];
const RESERVE: &[Field] = &[
    needed("user", Kind::Identifier),
    optional("quantity", QUANTITY),
    optional("hold_seconds", HOLD),
    optional("reference", Kind::Identifier),
];
const UNITS: &[Field] = &[optional("quantity", QUANTITY)];
const EXTENSION: &[Field] = &[needed("hold_seconds", HOLD)];

/// Tries `body` as the body of every call.
pub fn run(body: &[u8]) {
    stock(body);
    change(body);
    agree(body, &judge(body, ADJUSTMENT), &fuzzing::adjustment(body), |values, (delta, reason)| {
        values == [Value::Whole(delta.units()), text(reason.as_str())] && Reason::new(reason.as_str()).is_ok()
    });
    agree(body, &judge(body, RESERVE), &fuzzing::reserve(body), |values, (user, quantity, hold, reference)| {
        values[0] == text(user.as_str())
            && or_default(&values[1], 1) == i64::from(quantity.units())
            && whole(&values[2]) == hold.map(seconds)
            && texts(&values[3]) == reference.as_ref().map(Reference::as_str)
            && UserId::new(user.as_str()).is_ok()
    });
    // Without a body all remaining units are meant, or nothing is.
    let or_empty = |values: Vec<Value>, fields| if body.is_empty() { Ok(values) } else { judge(body, fields) };
    agree(body, &or_empty(vec![Value::Missing], UNITS), &fuzzing::units(body), |values, quantity| {
        whole(&values[0]) == quantity.map(units)
    });
    agree(body, &or_empty(Vec::new(), &[]), &fuzzing::nothing(body), |_, ()| true);
    agree(body, &judge(body, EXTENSION), &fuzzing::extension(body), |values, hold| values == [Value::Whole(seconds(*hold))]);
}

fn stock(body: &[u8]) {
    let expected = judge(body, STOCK).and_then(|values| {
        let hold = or_default(&values[2], 600);
        let hold_max = or_default(&values[3], hold.max(3_600));
        let window = moment(&values[4]).zip(moment(&values[5]));
        let contradicts = hold > hold_max || window.is_some_and(|(opens, closes)| opens >= closes);
        if contradicts { Err(vec!["out_of_range"]) } else { Ok(values) }
    });
    agree(body, &expected, &fuzzing::stock(body), |values, (quantity, terms)| {
        whole(&values[0]) == i64::try_from(quantity.units()).ok()
            && whole(&values[1]) == terms.per_user_limit.map(units)
            && or_default(&values[2], 600) == seconds(terms.hold_seconds)
            && or_default(&values[3], seconds(terms.hold_seconds).max(3_600)) == seconds(terms.hold_seconds_max)
            && moment(&values[4]) == terms.opens_at
            && moment(&values[5]) == terms.closes_at
            && terms.check().is_ok()
    });
}

fn change(body: &[u8]) {
    agree(body, &judge(body, CHANGE), &fuzzing::change(body), |values, patch| {
        let is_left = |value: &Value| *value == Value::Missing;
        patch.per_user_limit == (!is_left(&values[0])).then(|| whole(&values[0]).map(quantity))
            && patch.hold_seconds.map(seconds) == whole(&values[1])
            && patch.hold_seconds_max.map(seconds) == whole(&values[2])
            && patch.opens_at == (!is_left(&values[3])).then(|| moment(&values[3]))
            && patch.closes_at == (!is_left(&values[4])).then(|| moment(&values[4]))
    });
}

/// Both readings take the body and `same` holds, or neither does and the code is one that the contract allows.
#[track_caller]
fn agree<T: std::fmt::Debug>(
    body: &[u8],
    expected: &Result<Vec<Value>, Vec<&'static str>>,
    found: &Read<T>,
    same: impl FnOnce(&[Value], &T) -> bool,
) {
    match (expected, found) {
        (Ok(values), Ok(read)) if same(values, read) => {}
        (Err(codes), Err(code)) if codes.contains(code) => {}
        _ => panic!("{:?}: {expected:?} was expected, and it is read as {found:?}", String::from_utf8_lossy(body)),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn texts(value: &Value) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

const fn whole(value: &Value) -> Option<i64> {
    if let Value::Whole(number) = value { Some(*number) } else { None }
}

fn or_default(value: &Value, default: i64) -> i64 {
    whole(value).unwrap_or(default)
}

const fn moment(value: &Value) -> Option<Timestamp> {
    if let Value::Moment(ms) = value { Some(Timestamp::from_unix_ms(*ms)) } else { None }
}

fn units(quantity: Quantity) -> i64 {
    quantity.units().into()
}

fn seconds(hold: HoldSeconds) -> i64 {
    hold.seconds().into()
}

fn quantity(units: i64) -> Quantity {
    u64::try_from(units).ok().and_then(|units| Quantity::new(units).ok()).expect("the second reading keeps the bounds")
}
