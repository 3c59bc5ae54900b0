//! A second reading of request bodies, made from the contract's words and not from the reader under test: strict JSON with each field
//! once, numbers by their exact decimal value, times by the calendar. Slow and plain.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a caller is told whose body has the wrong form.
const FORM: &str = "invalid_request";

/// A field of a body.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) is_needed: bool,
    /// Whether `null` is allowed.
    pub(crate) may_be_null: bool,
}

/// What a field holds.
pub(crate) enum Kind {
    /// A whole number within bounds; with the code for one that is not.
    Whole { min: i64, max: i64, code: &'static str },
    /// The same, but for 0.
    Change { size_max: i64 },
    /// An identifier.
    Identifier,
    /// A reason.
    Reason,
    /// A time.
    Moment,
}

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Left out.
    Missing,
    /// `null`.
    Null,
    /// A number.
    Whole(i64),
    /// A text.
    Text(String),
    /// A time, in milliseconds since 1970.
    Moment(u64),
}

/// The fields of a JSON object as they stand there, in their order.
pub(crate) struct Object(pub(crate) Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The values of `fields` in `body`, in their order; otherwise the codes that a caller may be told, none of which is better than another.
pub(crate) fn judge(body: &[u8], fields: &[Field]) -> Result<Vec<Value>, Vec<&'static str>> {
    let Ok(Object(given)) = serde_json::from_slice(body) else { return Err(vec![FORM]) };
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    if given.iter().any(|(name, _)| !fields.iter().any(|field| field.name == name)) {
        return Err(vec![FORM]);
    }
    for field in fields {
        let mut raw = given.iter().filter(|(name, _)| name == field.name).map(|(_, raw)| raw.get());
        let value = match (raw.next(), raw.next()) {
            (None, _) if field.is_needed => Err(FORM),
            (None, _) => Ok(Value::Missing),
            (Some(_), Some(_)) => Err(FORM),
            (Some("null"), None) if field.may_be_null => Ok(Value::Null),
            (Some(raw), None) => value(raw, &field.kind),
        };
        match value {
            // The form comes before every bound.
            Err(FORM) => return Err(vec![FORM]),
            Err(code) => faults.push(code),
            Ok(value) => values.push(value),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

fn value(raw: &str, kind: &Kind) -> Result<Value, &'static str> {
    let number = || raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then(|| whole(raw)).ok_or(FORM);
    let text = || serde_json::from_str::<String>(raw).map_err(|_| FORM);
    match kind {
        Kind::Whole { min, max, code } => number()?.filter(|number| (min..=max).contains(&number)).map(Value::Whole).ok_or(*code),
        Kind::Change { size_max } => number()?
            .filter(|number| *number != 0 && (-size_max..=*size_max).contains(number))
            .map(Value::Whole)
            .ok_or("invalid_quantity"),
        Kind::Identifier => {
            let text = text()?;
            let is_one = (1..=128).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:~-".contains(&byte));
            if is_one { Ok(Value::Text(text)) } else { Err("invalid_identifier") }
        }
        Kind::Reason => {
            let text = text()?;
            let is_one = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
            if is_one { Ok(Value::Text(text)) } else { Err("out_of_range") }
        }
        Kind::Moment => {
            let ms = unix_ms(&text()?).ok_or(FORM)?;
            // The end of the year 9999.
            let is_shown = (0..253_402_300_800_000).contains(&ms);
            u64::try_from(ms).ok().filter(|_| is_shown).map(Value::Moment).ok_or("out_of_range")
        }
    }
}

/// The whole number that a JSON number is, exactly; `None` where it has a fraction, or is beyond 64 bits.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let (is_below, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [integer, fraction].concat();
    let significant = digits.trim_end_matches('0');
    let mut value: i128 = 0;
    if !significant.is_empty() {
        // An exponent of more digits than this is beyond every number that is short enough to be written.
        let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 });
        let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
        let places = exponent.checked_add(zeros)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let significant = significant.trim_start_matches('0');
        if !(0..=19).contains(&places) || significant.len() > 19 {
            return None;
        }
        value = significant.parse::<i128>().ok()? * 10_i128.pow(u32::try_from(places).ok()?);
    }
    i64::try_from(if is_below { -value } else { value }).ok()
}

/// The milliseconds since 1970 of a time as RFC 3339 writes it; of a leap second, those of the second before.
pub(crate) fn unix_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let sign = |at: usize, marks: &[u8]| bytes.get(at).copied().filter(|byte| marks.contains(byte));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, marks) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        sign(at, marks)?;
    }
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |month: i64| match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap(year)),
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=days_of(month)).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut millisecond = 0;
    if sign(at, b".").is_some() {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let shown = format!("{:0<3}", &text[at + 1..at + 1 + digits.min(3)]);
        millisecond = shown.parse::<i64>().ok().filter(|_| digits > 0)?;
        at += 1 + digits;
    }
    let offset_minutes = match sign(at, b"Zz+-")? {
        b'Z' | b'z' => (at + 1 == bytes.len()).then_some(0)?,
        plus_or_minus => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            sign(at + 3, b":").filter(|_| hours < 24 && minutes < 60 && at + 6 == bytes.len())?;
            (hours * 60 + minutes) * if plus_or_minus == b'+' { 1 } else { -1 }
        }
    };
    // Years of days one by one: it is a reference.
    let leap_days = |before: i64| (0..before).filter(|year| is_leap(*year)).count();
    let days = 365 * (year - 1970) + i64::try_from(leap_days(year)).ok()? - i64::try_from(leap_days(1970)).ok()?
        + (1..month).map(days_of).sum::<i64>()
        + day
        - 1;
    Some((((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second.min(59)) * 1_000 + millisecond)
}
