//! Moments as text: RFC 3339 with any offset in, UTC with milliseconds out. The door of jiff. Reads no clock.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::{Serialize, Serializer};
use tidegate_stock::Timestamp;

/// Where time begins. Moments are counted on the calendar of UTC, which reaches to the end of the year 9999 as RFC 3339 does.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A moment as it is shown: `2025-11-28T09:00:00.000Z`. One past the year 9999 is shown as that year's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown(pub(crate) Timestamp);

/// How long a moment is as text.
const SHOWN_BYTES: usize = "2025-11-28T09:00:00.000Z".len();

impl Shown {
    /// Digit by digit: every answer carries two or three moments, and a formatter takes ten times as long for each.
    fn text(self) -> [u8; SHOWN_BYTES] {
        let since_epoch = i64::try_from(self.0.unix_ms()).map(SignedDuration::from_millis).ok();
        let moment = since_epoch.and_then(|duration| EPOCH.checked_add(duration).ok()).unwrap_or(DateTime::MAX);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let millisecond = moment.subsec_nanosecond() / 1_000_000;
        write_digits(&mut text[0..4], moment.year().into());
        write_digits(&mut text[5..7], moment.month().into());
        write_digits(&mut text[8..10], moment.day().into());
        write_digits(&mut text[11..13], moment.hour().into());
        write_digits(&mut text[14..16], moment.minute().into());
        write_digits(&mut text[17..19], moment.second().into());
        write_digits(&mut text[20..23], millisecond);
        text
    }
}

/// Fills `place` with the last decimal digits of `number`, which is not negative.
fn write_digits(place: &mut [u8], mut number: i32) {
    for digit in place.iter_mut().rev() {
        *digit = u8::try_from(number % 10).map_or(b'0', |last| b'0' + last);
        number /= 10;
    }
}

fn as_str(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("digits and signs are UTF-8")
}

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(as_str(&self.text()))
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(as_str(&self.text()))
    }
}

/// Why a text is no moment that a stock can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeError {
    /// The text is not RFC 3339.
    Malformed,
    /// The moment is before 1970 or after 9999 in UTC.
    OutOfRange,
}

/// Reads an RFC 3339 date-time with any offset. What is finer than a millisecond is cut off; a leap second is the second before it.
pub(crate) fn parse(text: &str) -> Result<Timestamp, TimeError> {
    let (civil, offset_seconds) = parse_moment(text).ok_or(TimeError::Malformed)?;
    let moment = civil.checked_sub(SignedDuration::from_secs(offset_seconds.into())).map_err(|_| TimeError::OutOfRange)?;
    let since_epoch = moment.duration_since(EPOCH).as_millis();
    u64::try_from(since_epoch).map(Timestamp::from_unix_ms).map_err(|_| TimeError::OutOfRange)
}

/// The date and time as written, and how many seconds they are ahead of UTC.
fn parse_moment(text: &str) -> Option<(DateTime, i32)> {
    // The standard's own form is fixed up to the second, so places are enough to read it; jiff's parser allows more than RFC 3339.
    let mut reader = Reader(text.as_bytes());
    let year = reader.digits(4)?;
    reader.one_of(b"-")?;
    let month = reader.digits(2)?;
    reader.one_of(b"-")?;
    let day = reader.digits(2)?;
    reader.one_of(b"Tt ")?;
    let hour = reader.digits(2)?;
    reader.one_of(b":")?;
    let minute = reader.digits(2)?;
    reader.one_of(b":")?;
    let second = reader.digits(2)?;
    let millisecond = if reader.one_of(b".").is_some() { reader.fraction()? } else { 0 };
    let offset_seconds = reader.offset_seconds()?;
    if !reader.0.is_empty() || second > 60 {
        return None;
    }
    let narrow = |number: i32| i8::try_from(number).ok();
    let civil = DateTime::new(
        i16::try_from(year).ok()?,
        narrow(month)?,
        narrow(day)?,
        narrow(hour)?,
        narrow(minute)?,
        narrow(second.min(59))?,
        millisecond * 1_000_000,
    );
    Some((civil.ok()?, offset_seconds))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        if !allowed.contains(first) {
            return None;
        }
        self.0 = rest;
        Some(*first)
    }

    fn digit(&mut self) -> Option<i32> {
        self.one_of(b"0123456789").map(|digit| i32::from(digit - b'0'))
    }

    fn digits(&mut self, count: usize) -> Option<i32> {
        (0..count).try_fold(0, |number, _| Some(number * 10 + self.digit()?))
    }

    /// At least one digit of a second's fraction, in whole milliseconds.
    fn fraction(&mut self) -> Option<i32> {
        let mut milliseconds = self.digit()? * 100;
        let mut unit = 10;
        while let Some(digit) = self.digit() {
            milliseconds += digit * unit;
            unit /= 10;
        }
        Some(milliseconds)
    }

    fn offset_seconds(&mut self) -> Option<i32> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.digits(2)?;
        self.one_of(b":")?;
        let minutes = self.digits(2)?;
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<u64, TimeError>) {
        assert_eq!(parse(text).map(Timestamp::unix_ms), expect, "{text}");
    }

    // The numbers are those of `date -u -d <text> +%s%3N`.
    #[test]
    fn rfc_3339_times_are_read_with_any_offset() {
        check("2025-11-28T09:00:00Z", Ok(1_764_320_400_000));
        check("2025-11-28t09:00:00.5z", Ok(1_764_320_400_500));
        check("2025-11-28 09:00:00.123999999999Z", Ok(1_764_320_400_123));
        check("2025-11-28T17:00:00+08:00", Ok(1_764_320_400_000));
        check("2025-11-27T23:30:00-09:30", Ok(1_764_320_400_000));
        check("1970-01-01T00:00:00Z", Ok(0));
        check("2024-02-29T00:00:00Z", Ok(1_709_164_800_000));
        check("2016-12-31T23:59:60Z", Ok(1_483_228_799_000));
        check("9999-12-31T23:59:59Z", Ok(253_402_300_799_000));
    }

    #[test]
    fn what_is_not_rfc_3339_is_malformed() {
        for text in [
            "",
            "tomorrow",
            "2025-11-28",
            "2025-11-28T09:00Z",
            "2025-11-28T09:00:00",
            "2025-11-28T09:00:00.Z",
            "2025-11-28T09:00:00+0800",
            "2025-11-28T09:00:00+24:00",
            "2025-11-28T24:00:00Z",
            "2025-11-28T09:00:61Z",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-11-28T09:00:00Z[UTC]",
            " 2025-11-28T09:00:00Z",
            "+002025-11-28T09:00:00Z",
        ] {
            check(text, Err(TimeError::Malformed));
        }
    }

    #[test]
    fn a_moment_before_1970_or_after_9999_is_told_apart_from_nonsense() {
        check("1969-12-31T23:59:59.999Z", Err(TimeError::OutOfRange));
        check("1970-01-01T00:00:00+00:01", Err(TimeError::OutOfRange));
        check("9999-12-31T23:59:59-00:01", Err(TimeError::OutOfRange));
    }

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        let shown = |ms| Shown(Timestamp::from_unix_ms(ms)).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(1_764_320_400_007), "2025-11-28T09:00:00.007Z");
        assert_eq!(shown(253_402_300_799_000), "9999-12-31T23:59:59.000Z");
        assert_eq!(shown(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(shown(951_782_400_123), "2000-02-29T00:00:00.123Z");
        let json = serde_json::to_string(&Shown(Timestamp::from_unix_ms(1_764_320_400_007))).unwrap();
        assert_eq!(json, "\"2025-11-28T09:00:00.007Z\"");
    }
}
