//! Places in the change feed, and the texts that callers know them by. Knows neither the log nor what a change holds.
//!
//! A change is named by its stream, its group and its number within the group, from 1: `0.57.3`. A cursor says for every stream how much
//! was delivered. As a text it is base64url of a version, the number of streams and two numbers for each; its characters are those of an
//! identifier without `.` and `:`, so it is never taken for the place of one change.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use tidegate_persistence::{GroupSequence, StreamId};

use crate::codec::{decode_places, encode_places};

/// The first byte of every cursor.
const VERSION: u8 = 1;

/// Room for one place of a cursor: with longer numbers the bytes move once.
const PLACE_BYTES_USUAL: usize = 8;

/// The name of a change for ever: no other change ever has it. As a text: `stream.group.change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId {
    /// The shard's log.
    pub stream: StreamId,
    /// The group that it was committed with.
    pub group: GroupSequence,
    /// Its number among the changes of the group, from 1.
    pub change: u32,
}

impl fmt::Display for ChangeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.stream.0, self.group.0, self.change)
    }
}

/// How far a stream was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The group that is delivered next; everything before it was.
    pub(crate) group: GroupSequence,
    /// How many changes of that group were delivered already.
    pub(crate) done: u32,
}

impl Place {
    /// In front of `group`.
    pub(crate) const fn before(group: GroupSequence) -> Self {
        Self { group, done: 0 }
    }

    /// Whether it stands where nothing has been yet: `committed` is the newest group.
    pub(crate) fn is_ahead(&self, committed: GroupSequence) -> bool {
        self.group > committed.next() || (self.group > committed && self.done > 0)
    }
}

/// A place between two changes of the feed, from which it can be read on. Opaque to callers; [`fmt::Display`] and [`FromStr`] are its
/// text.
///
/// The place of one change, and the `as_of` of a stock, are cursors too: behind it in its own stream, and in front of everything
/// retained in the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) At);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    /// A place for every stream, in order.
    Everywhere(Vec<Place>),
    /// A place in one stream.
    InOne(StreamId, Place),
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is no cursor of this feed")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            At::Everywhere(places) => {
                let mut bytes = Vec::with_capacity(1 + PLACE_BYTES_USUAL * (1 + places.len()));
                bytes.push(VERSION);
                encode_places(&mut bytes, places.iter().map(|place| (place.group.0, place.done)));
                BASE64URL_NOPAD.encode_write(&bytes, formatter)
            }
            At::InOne(stream, Place { group, done }) => {
                write!(formatter, "{}.{}.{done}", stream.0, group.0)
            }
        }
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.contains('.') {
            return position(text).map(Self).ok_or(CursorError);
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| CursorError)?;
        let Some((&VERSION, rest)) = bytes.split_first() else { return Err(CursorError) };
        // Groups are counted from 1.
        let places = decode_places(rest).filter(|places| places.iter().all(|(group, _)| *group > 0)).ok_or(CursorError)?;
        let places = places.into_iter().map(|(group, done)| Place { group: GroupSequence(group), done }).collect();
        let cursor = Self(At::Everywhere(places));
        // One place has one text, so that a text that was changed on its way is seldom another place's.
        if cursor.to_string() == text { Ok(cursor) } else { Err(CursorError) }
    }
}

/// `stream.group` or `stream.group.change`.
fn position(text: &str) -> Option<At> {
    let mut numbers = text.split('.').map(number);
    let stream = StreamId(u16::try_from(numbers.next()??).ok()?);
    let group = numbers.next()??;
    let place = match numbers.next() {
        None => Place::before(GroupSequence(group.checked_add(1 + u64::from(mutant!(CursorSkips)))?)),
        Some(change) => Place { group: GroupSequence(group), done: u32::try_from(change?).ok()? },
    };
    // Groups are counted from 1.
    (numbers.next().is_none() && place.group > GroupSequence(0)).then_some(At::InOne(stream, place))
}

/// A decimal number as it is shown: digits, the first of several not 0.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everywhere(places: &[(u64, u32)]) -> Cursor {
        Cursor(At::Everywhere(places.iter().map(|(group, done)| Place { group: GroupSequence(*group), done: *done }).collect()))
    }

    #[test]
    fn a_cursor_is_known_by_its_text() {
        for (places, text) in [
            (&[(1, 0)][..], "AQEBAA"),
            (&[(57, 3)], "AQE5Aw"),
            (&[(1, 0), (300, 1_000)], "AQIBAKwC6Ac"),
            (&[(u64::MAX, u32::MAX)], "AQH___________8B_____w8"),
        ] {
            let cursor = everywhere(places);
            assert_eq!(cursor.to_string(), text);
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn the_place_of_a_change_is_a_cursor() {
        let place = |group, done| Place { group: GroupSequence(group), done };
        for (text, at) in [
            ("0.0", At::InOne(StreamId(0), place(1, 0))),
            ("3.57", At::InOne(StreamId(3), place(58, 0))),
            ("3.57.12", At::InOne(StreamId(3), place(57, 12))),
        ] {
            assert_eq!(text.parse(), Ok(Cursor(at)), "{text}");
        }
        let id = ChangeId { stream: StreamId(3), group: GroupSequence(57), change: 12 };
        assert_eq!(id.to_string(), "3.57.12");
    }

    #[test]
    fn any_other_text_is_none() {
        for text in [
            "",
            ".",
            "0",
            "0.",
            "0.1.",
            "0.1.2.3",
            "0.0.1",
            "AQEAAA",
            "0.01",
            "0.+1",
            "-1.1",
            "65536.1",
            "0.18446744073709551615",
            "0.1.4294967296",
            "AQEBAA==",
            // Another version, cut off, with something behind it, and with a number that is longer than it need be.
            "AgEBAA",
            "AQEB",
            "AQEBAAA",
            "AQGBAAA",
            "aQEBAA",
            "nonsense",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
    }
}
