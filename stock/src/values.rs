//! The values that commands and events are made of. Each can only be built within its bounds, so what holds one need not check it again.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use smol_str::SmolStr;

use crate::limits::{
    ALLOTTED_MAX, HOLD_SECONDS_MAX, HOLD_SECONDS_MAX_DEFAULT, IDENTIFIER_CHARACTERS_MAX, QUANTITY_MAX, REASON_BYTES_MAX,
};

/// Why a text is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifierError {
    /// The text is empty, or longer than [`IDENTIFIER_CHARACTERS_MAX`]; carries its length in bytes.
    Length(usize),
    /// A character is outside `A-Z a-z 0-9 . _ : ~ -`; carries it.
    Character(char),
}

impl fmt::Display for IdentifierError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(formatter, "has {length} characters where 1 to {IDENTIFIER_CHARACTERS_MAX} are allowed"),
            Self::Character(character) => {
                write!(formatter, "holds {character:?}, which is outside the alphabet A-Z a-z 0-9 . _ : ~ -")
            }
        }
    }
}

impl std::error::Error for IdentifierError {}

/// Checks that `text` is 1 to [`IDENTIFIER_CHARACTERS_MAX`] characters of the identifier alphabet.
pub fn check_identifier(text: &str) -> Result<(), IdentifierError> {
    if !text.bytes().all(|byte| IS_IDENTIFIER_BYTE[usize::from(byte)])
        && let Some(character) = text.chars().find(|character| !is_identifier_character(*character))
    {
        return Err(IdentifierError::Character(character));
    }
    if text.is_empty() || text.len() > IDENTIFIER_CHARACTERS_MAX {
        return Err(IdentifierError::Length(text.len()));
    }
    Ok(())
}

const fn is_identifier_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | ':' | '~' | '-')
}

/// The same for each byte: identifiers are checked wherever they are read, so by looking up and not by comparing.
const IS_IDENTIFIER_BYTE: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0_u8);
    while byte < 128 {
        table[byte as usize] = is_identifier_character(byte as char);
        byte += 1;
    }
    table
};

/// A text that is checked when it is read. On its way in and out it is nothing but its characters.
trait Text: Sized {
    type Error: fmt::Display;

    fn take(text: &str) -> Result<Self, Self::Error>;
}

/// Reads a [`Text`] where it stands, without a copy in between.
fn read_text<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Read<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for Read<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::take(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Read(PhantomData))
}

macro_rules! serialize_as_text {
    ($name:ident, $error:ty) => {
        impl Text for $name {
            type Error = $error;

            fn take(text: &str) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read_text(deserializer)
            }
        }
    };
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(SmolStr);

        impl $name {
            /// Takes `text` if it is an identifier.
            pub fn new(text: &str) -> Result<Self, IdentifierError> {
                check_identifier(text)?;
                Ok(Self(SmolStr::new(text)))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes a text that was an identifier before.
            #[allow(dead_code, reason = "not every identifier comes back from memory")]
            pub(crate) fn known(text: &str) -> Self {
                Self(SmolStr::new(text))
            }
        }

        serialize_as_text!($name, IdentifierError);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A product that is sold.
    Sku
);
identifier!(
    /// A buyer, as the shop names them.
    UserId
);
identifier!(
    /// What the shop calls a reservation on its own side: an order number, say.
    Reference
);
identifier!(
    /// A caller's name for one attempt; a repeat with the same key gets the same answer.
    IdempotencyKey
);

/// A value is outside its bounds. Names the bounds and what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// What was given.
    pub given: u64,
    /// The smallest value allowed.
    pub min: u64,
    /// The largest value allowed.
    pub max: u64,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "is {} where {} to {} are allowed", self.given, self.min, self.max)
    }
}

impl std::error::Error for OutOfBounds {}

const fn within(given: u64, min: u64, max: u64) -> Result<(), OutOfBounds> {
    if given < min || given > max {
        return Err(OutOfBounds { given, min, max });
    }
    Ok(())
}

/// Units in one command: 1 to [`QUANTITY_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Quantity(u32);

impl Quantity {
    /// One unit.
    pub const ONE: Self = Self(1);

    /// Takes `units` if they are within 1 to [`QUANTITY_MAX`].
    pub fn new(units: u64) -> Result<Self, OutOfBounds> {
        within(units, 1, u64::from(QUANTITY_MAX))?;
        Ok(Self(u32::try_from(units).unwrap_or(QUANTITY_MAX)))
    }

    /// The number of units.
    pub const fn units(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Quantity {
    type Error = OutOfBounds;
    fn try_from(units: u32) -> Result<Self, Self::Error> {
        Self::new(u64::from(units))
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

/// How long a hold lasts: 1 to [`HOLD_SECONDS_MAX`] seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct HoldSeconds(u32);

impl HoldSeconds {
    /// Takes `seconds` if they are within 1 to [`HOLD_SECONDS_MAX`].
    pub fn new(seconds: u64) -> Result<Self, OutOfBounds> {
        within(seconds, 1, u64::from(HOLD_SECONDS_MAX))?;
        Ok(Self(u32::try_from(seconds).unwrap_or(HOLD_SECONDS_MAX)))
    }

    /// The number of seconds.
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// The longest hold of a stock whose own hold is `self` and which names no maximum.
    #[must_use]
    pub fn default_max(self) -> Self {
        Self(self.0.max(HOLD_SECONDS_MAX_DEFAULT))
    }
}

impl TryFrom<u32> for HoldSeconds {
    type Error = OutOfBounds;
    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        Self::new(u64::from(seconds))
    }
}

impl From<HoldSeconds> for u32 {
    fn from(hold: HoldSeconds) -> Self {
        hold.0
    }
}

/// Units a stock starts with: 0 to [`ALLOTTED_MAX`]. The HTTP door allows at most [`QUANTITY_MAX`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Allotment(u64);

impl Allotment {
    /// Takes `units` if they are within 0 to [`ALLOTTED_MAX`].
    pub fn new(units: u64) -> Result<Self, OutOfBounds> {
        within(units, 0, ALLOTTED_MAX)?;
        Ok(Self(units))
    }

    /// The number of units.
    pub const fn units(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Allotment {
    type Error = OutOfBounds;
    fn try_from(units: u64) -> Result<Self, Self::Error> {
        Self::new(units)
    }
}

impl From<Allotment> for u64 {
    fn from(allotment: Allotment) -> Self {
        allotment.0
    }
}

/// Units by which a stock is adjusted: not 0, and at most [`QUANTITY_MAX`] in size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Delta(i64);

/// A number of units by which no stock can be adjusted: 0, or larger in size than [`QUANTITY_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaError(pub i64);

impl fmt::Display for DeltaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "is {} where -{QUANTITY_MAX} to {QUANTITY_MAX} but not 0 are allowed", self.0)
    }
}

impl std::error::Error for DeltaError {}

impl Delta {
    /// Takes `units` if they are not 0 and within [`QUANTITY_MAX`] either way.
    pub const fn new(units: i64) -> Result<Self, DeltaError> {
        if units == 0 || units.unsigned_abs() > QUANTITY_MAX as u64 {
            return Err(DeltaError(units));
        }
        Ok(Self(units))
    }

    /// The number of units, below 0 where they are taken away.
    pub const fn units(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Delta {
    type Error = DeltaError;
    fn try_from(units: i64) -> Result<Self, Self::Error> {
        Self::new(units)
    }
}

impl From<Delta> for i64 {
    fn from(delta: Delta) -> Self {
        delta.0
    }
}

/// Why a stock was adjusted, in the caller's words: 1 to [`REASON_BYTES_MAX`] bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason(Box<str>);

serialize_as_text!(Reason, ReasonError);

/// Why a text is no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonError {
    /// It is empty or too long; carries its length in bytes.
    Length(usize),
    /// It holds a control character.
    Control(char),
}

impl fmt::Display for ReasonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(formatter, "has {length} bytes where 1 to {REASON_BYTES_MAX} are allowed"),
            Self::Control(character) => write!(formatter, "holds the control character {character:?}"),
        }
    }
}

impl std::error::Error for ReasonError {}

impl Reason {
    /// Takes `text` if it is within its bounds.
    pub fn new(text: &str) -> Result<Self, ReasonError> {
        if text.is_empty() || text.len() > REASON_BYTES_MAX {
            return Err(ReasonError::Length(text.len()));
        }
        match text.chars().find(|character| character.is_control()) {
            Some(character) => Err(ReasonError::Control(character)),
            None => Ok(Self(Box::from(text))),
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A moment, in milliseconds since 1970-01-01T00:00:00Z. The core never asks for one: it is always an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `milliseconds` after the epoch.
    pub const fn from_unix_ms(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Milliseconds since the epoch.
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// The moment a hold that starts now ends; at the end of time it stays there.
    #[must_use]
    pub const fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds as u64 * 1_000))
    }
}

/// One of the fixed partitions that products are spread over by hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

/// A stock's number within its partition, counted from 1 in the order of creation and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StockNumber(pub u32);

/// A stock, by its place instead of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StockId {
    /// The partition that its sku hashes to.
    pub partition: Partition,
    /// Its number there.
    pub number: StockNumber,
}

/// The place of a grant among all grants of its sku, counted from 1 in the order in which they were decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantSequence(pub u64);

impl GrantSequence {
    /// Largest place of a grant: the ledger keeps it in 56 bits.
    pub const MAX: Self = Self((1 << 56) - 1);
}

/// The place of a change among all changes of its sku, counted from 1 with its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeSequence(pub u64);

/// How often a stock's settings or life have changed: what its entity tag is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A reservation, by its stock and the place of its grant. What callers see is a sealed text made from it outside this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReservationId {
    /// The stock it was granted from.
    pub stock: StockId,
    /// Which grant of that stock it is.
    pub sequence: GrantSequence,
}

/// 128 bits that stand for a value without carrying it. Keyed with the directory's secret, so nobody can make two values meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub u128);

/// What is remembered of a command that carried an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Idempotency {
    /// The key itself; one name space per sku.
    pub key: Fingerprint,
    /// The operation and its parsed values.
    pub request: Fingerprint,
}
