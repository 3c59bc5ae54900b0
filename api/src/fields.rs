//! The values of a body's fields, read strictly and named in every error. Knows JSON's types, and no bounds.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A JSON number before it is known what it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number of at least 0; `5.0` and `5e0` are 5.
    Whole(u64),
    /// A whole number below 0.
    Below(i64),
    /// A number with a fraction, or beyond 64 bits, as a double shows it; beyond what that holds, an infinity.
    Other(f64),
}

impl Number {
    /// Reads a JSON number of any size; `None` where the value is something else.
    pub(crate) fn read(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return None;
        }
        // In JSON's form, which is one of Rust's.
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        match text.parse::<i64>() {
            Ok(below) => Some(u64::try_from(below).map_or(Self::Below(below), Self::Whole)),
            Err(_) => Self::whole(text).or_else(|| text.parse().ok().map(Self::Other)),
        }
    }

    /// The whole number that a JSON number with a fraction or an exponent is, to its last digit: a double would round what is just out
    /// of a bound into it. `None` where it is none, or none of 64 bits.
    fn whole(text: &str) -> Option<Self> {
        let (is_below, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || integer.bytes().chain(fraction.bytes()).map(|digit| u64::from(digit - b'0'));
        if digits().all(|digit| digit == 0) {
            return Some(Self::Whole(0));
        }
        let exponent: i64 = exponent.parse().ok()?;
        // How many digits stand before the point once the exponent has moved it; zeros are added where there are fewer.
        let places = usize::try_from(i64::try_from(integer.len()).ok()?.checked_add(exponent)?).unwrap_or(0);
        if digits().skip(places).any(|digit| digit != 0) {
            return None;
        }
        let mut size = 0_u64;
        for digit in digits().chain(std::iter::repeat(0)).take(places) {
            // Once it is above 0 it overflows within 20 digits, however many places the exponent asks for.
            size = size.checked_mul(10)?.checked_add(digit)?;
        }
        if is_below { i64::try_from(size).ok().map(|size| Self::Below(-size)) } else { Some(Self::Whole(size)) }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(formatter, "{number}"),
            Self::Below(number) => write!(formatter, "{number}"),
            Self::Other(number) if number.is_infinite() => formatter.write_str("a number too large to be shown"),
            // Too close to a whole number for a double to show the difference.
            Self::Other(number) if number.fract() == 0.0 && number.abs() < 1e15 => write!(formatter, "just beside {number}"),
            Self::Other(number) => write!(formatter, "{number}"),
        }
    }
}

/// Reads the number in field `name`.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Number, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Number::read(raw).ok_or_else(|| no_number(raw, name))
}

/// Reads the number in field `name`, which `null` leaves out.
pub(crate) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Option<Number>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    match Number::read(raw) {
        None if raw.get() != "null" => Err(no_number(raw, name)),
        number => Ok(number),
    }
}

fn no_number<E: de::Error>(raw: &RawValue, name: &str) -> E {
    let given = match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'n') => "null",
        _ => "a boolean",
    };
    E::invalid_type(Unexpected::Other(given), &&*format!("a number in `{name}`"))
}

/// Reads the text in field `name`.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Cow<'de, str>, D::Error> {
    deserializer.deserialize_any(TextIn(name))
}

/// Reads the text in field `name`, which `null` leaves out.
pub(crate) fn optional_text<'de, D: Deserializer<'de>>(
    deserializer: D,
    name: &'static str,
) -> Result<Option<Cow<'de, str>>, D::Error> {
    deserializer.deserialize_option(Optional(TextIn(name)))
}

/// Reads the number in field `name` where the field may be left out, but not be `null`.
pub(crate) fn given_number<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Option<Number>, D::Error> {
    number(deserializer, name).map(Some)
}

/// Reads the number in field `name`, where leaving the field out and `null` are two things.
#[expect(clippy::option_option, reason = "left alone and taken away are two things")]
pub(crate) fn given_optional_number<'de, D: Deserializer<'de>>(
    deserializer: D,
    name: &'static str,
) -> Result<Option<Option<Number>>, D::Error> {
    optional_number(deserializer, name).map(Some)
}

/// Reads the text in field `name`, where leaving the field out and `null` are two things.
#[expect(clippy::option_option, reason = "left alone and taken away are two things")]
pub(crate) fn given_optional_text<'de, D: Deserializer<'de>>(
    deserializer: D,
    name: &'static str,
) -> Result<Option<Option<Cow<'de, str>>>, D::Error> {
    optional_text(deserializer, name).map(Some)
}

#[derive(Clone, Copy)]
struct TextIn(&'static str);

impl<'de> Visitor<'de> for TextIn {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a string in `{}`", self.0)
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

/// What a visitor reads, or nothing where the value is `null`.
#[derive(Clone, Copy)]
struct Optional<V>(V);

impl<'de, V: Visitor<'de> + Copy> Visitor<'de> for Optional<V> {
    type Value = Option<V::Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)?;
        formatter.write_str(", or null")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self.0).map(Some)
    }
}
