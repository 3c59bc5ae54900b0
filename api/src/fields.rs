//! The values of a body's fields, read strictly and named in every error. Knows JSON's types, and no bounds.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{self, Visitor};

/// A JSON number before it is known what it counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number of at least 0; `5.0` and `5e0` are 5.
    Whole(u64),
    /// A number with a fraction, below 0, or too large to be told from its neighbours.
    Other(f64),
}

/// Above this, doubles skip whole numbers.
const DOUBLE_WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

impl From<f64> for Number {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, at least 0 and below 2^53")]
    fn from(value: f64) -> Self {
        if (0.0..DOUBLE_WHOLE_MAX).contains(&value) && value.fract() == 0.0 {
            Self::Whole(value as u64)
        } else {
            Self::Other(value)
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(formatter, "{number}"),
            Self::Other(number) => write!(formatter, "{number}"),
        }
    }
}

/// Reads the number in field `name`.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Number, D::Error> {
    deserializer.deserialize_any(NumberIn(name))
}

/// Reads the number in field `name`, which `null` leaves out.
pub(crate) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<Option<Number>, D::Error> {
    deserializer.deserialize_option(Optional(NumberIn(name)))
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

#[derive(Clone, Copy)]
struct NumberIn(&'static str);

impl Visitor<'_> for NumberIn {
    type Value = Number;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a number in `{}`", self.0)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number::Whole(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "a number below 0 is only told to whoever sent it")]
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(u64::try_from(value).map_or(Number::Other(value as f64), Number::Whole))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number::from(value))
    }
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
