//! When a line was written, as shops write it, and which way of writing a file has. A door of jiff.
//!
//! Pure. A way that cannot be told from the file is an error that says so, never a guess.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::export::FileError;

/// A way of writing dates, as it is given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DateFormat {
    /// `2010-12-01`, with or without a time and an offset.
    Iso,
    /// `12/31/2010`, or with `-`; with or without a time.
    MonthFirst,
    /// `31/12/2010`, or with `-`; with or without a time.
    DayFirst,
    /// `31.12.2010`, with or without a time.
    Dotted,
    /// Any other, in the words of strptime.
    Pattern(String),
    /// Dates are not read; the order of the file counts.
    Unread,
}

impl FromStr for DateFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "iso" => Self::Iso,
            "m/d/y" => Self::MonthFirst,
            "d/m/y" => Self::DayFirst,
            "d.m.y" => Self::Dotted,
            "none" => Self::Unread,
            _ if text.contains('%') => {
                // A date written with the pattern must be readable with it; that finds what it lacks.
                let date =
                    DateTime::constant(2010, 12, 31, 23, 59, 58, 0).to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
                let written = strtime::format(text, &date).map_err(|error| error.to_string())?;
                with_pattern(text, &written).ok_or_else(|| format!("the pattern {text:?} does not tell year, month and day"))?;
                Self::Pattern(text.to_owned())
            }
            _ => return Err("a format is iso, m/d/y, d/m/y, d.m.y, none, or a pattern such as %Y%m%d".to_owned()),
        })
    }
}

impl fmt::Display for DateFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Iso => "iso",
            Self::MonthFirst => "m/d/y",
            Self::DayFirst => "d/m/y",
            Self::Dotted => "d.m.y",
            Self::Pattern(pattern) => pattern,
            Self::Unread => "none",
        })
    }
}

/// The place of `text` in time, in milliseconds since 1970, or `None` where it is not written so. What tells no offset is taken as if
/// it stood in UTC: only the order counts.
fn read_as(format: &DateFormat, text: &str) -> Option<i64> {
    match format {
        DateFormat::Iso => iso(text),
        DateFormat::MonthFirst => parted(text, &['/', '-'], "%m/%d/%Y"),
        DateFormat::DayFirst => parted(text, &['/', '-'], "%d/%m/%Y"),
        DateFormat::Dotted => parted(text, &['.'], "%d/%m/%Y"),
        DateFormat::Pattern(pattern) => with_pattern(pattern, text),
        DateFormat::Unread => None,
    }
}

fn iso(text: &str) -> Option<i64> {
    // What else could begin with a year is written with four digits and a dash.
    if text.bytes().take_while(u8::is_ascii_digit).count() != 4 || text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let instant = || text.parse::<Timestamp>().ok().or_else(|| Timestamp::strptime("%Y-%m-%d %H:%M:%S %z", text).ok());
    let civil = || text.parse::<DateTime>().ok().and_then(unix_ms);
    instant().map(Timestamp::as_millisecond).or_else(civil)
}

/// A date in parts between `marks`, and perhaps a time behind a space.
fn parted(text: &str, marks: &[char], pattern: &str) -> Option<i64> {
    let (date, time) =
        text.split_once([' ', 'T']).map_or((text, None), |(date, time)| (date.trim_end_matches(','), Some(time.trim())));
    let mark = marks.iter().find(|mark| date.matches(**mark).count() == 2)?;
    // A day of four digits is a year, and another format.
    if date.split(*mark).next()?.len() > 2 {
        return None;
    }
    let date = Date::strptime(pattern, date.replace(*mark, "/")).ok()?;
    let time = match time {
        None => jiff::civil::Time::midnight(),
        Some(time) => ["%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p"]
            .iter()
            .find_map(|pattern| jiff::civil::Time::strptime(pattern, time).ok())?,
    };
    unix_ms(date.to_datetime(time))
}

fn with_pattern(pattern: &str, text: &str) -> Option<i64> {
    let parsed = strtime::parse(pattern, text).ok()?;
    let civil = || parsed.to_datetime().ok().or_else(|| parsed.to_date().ok().map(DateTime::from)).and_then(unix_ms);
    parsed.to_timestamp().ok().map(Timestamp::as_millisecond).or_else(civil)
}

fn unix_ms(date: DateTime) -> Option<i64> {
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// How the dates of one file are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dates {
    /// By one format, which was given.
    Given(DateFormat),
    /// Each by its looks, those with slashes or dashes as `m/d/y` or `d/m/y`.
    Told { month_first: bool },
}

impl Dates {
    /// The place of `text` in time, in milliseconds since 1970.
    pub(crate) fn read(&self, text: &str) -> Option<i64> {
        match self {
            Self::Given(format) => read_as(format, text),
            Self::Told { month_first } => {
                let slashes = if *month_first { &DateFormat::MonthFirst } else { &DateFormat::DayFirst };
                read_as(&DateFormat::Iso, text).or_else(|| read_as(&DateFormat::Dotted, text)).or_else(|| read_as(slashes, text))
            }
        }
    }
}

/// A text and its line.
type Seen = (u64, String);

/// What the dates of a file show of how they are written.
#[derive(Debug, Default)]
pub(crate) struct DateEvidence {
    first: Option<Seen>,
    plain: bool,
    either: Option<Seen>,
    month_first: Option<Seen>,
    day_first: Option<Seen>,
}

impl DateEvidence {
    /// Looks at one more date.
    pub(crate) fn look(&mut self, line: u64, text: &str) {
        let seen = || (line, text.to_owned());
        self.first.get_or_insert_with(seen);
        if iso(text).is_some() || read_as(&DateFormat::Dotted, text).is_some() {
            self.plain = true;
            return;
        }
        match (read_as(&DateFormat::MonthFirst, text), read_as(&DateFormat::DayFirst, text)) {
            (None, None) => {}
            (Some(month_first), Some(day_first)) if month_first == day_first => self.plain = true,
            (Some(_), Some(_)) => drop(self.either.get_or_insert_with(seen)),
            (Some(_), None) => drop(self.month_first.get_or_insert_with(seen)),
            (None, Some(_)) => drop(self.day_first.get_or_insert_with(seen)),
        }
    }

    /// How the dates are to be read, if what was seen tells it.
    pub(crate) fn conclude(self) -> Result<Dates, FileError> {
        match (self.month_first, self.day_first, self.either) {
            (Some((month_line, month)), Some((day_line, day)), _) => {
                Err(FileError::DatesContradict { month_line, month, day_line, day })
            }
            (None, None, Some((line, text))) => Err(FileError::DatesAmbiguous { line, text }),
            (None, None, None) if !self.plain => match self.first {
                Some((line, text)) => Err(FileError::DatesUnreadable { line, text }),
                // No line has a date, so none is missed where there are no lines.
                None => Ok(Dates::Told { month_first: true }),
            },
            (month_first, _, _) => Ok(Dates::Told { month_first: month_first.is_some() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2010-12-01 08:26:00 in UTC.
    const MORNING: i64 = 1_291_191_960_000;
    /// The midnight before it.
    const MIDNIGHT: i64 = 1_291_161_600_000;

    fn format(text: &str) -> DateFormat {
        text.parse().unwrap()
    }

    #[test]
    fn each_format_reads_its_own_dates_and_no_others() {
        let cases = [
            ("iso", "2010-12-01 08:26:00", Some(MORNING)),
            ("iso", "2010-12-01T08:26", Some(MORNING)),
            ("iso", "2010-12-01T08:26:00Z", Some(MORNING)),
            ("iso", "2010-12-01T09:26:00+01:00", Some(MORNING)),
            ("iso", "2010-12-01 03:26:00 -0500", Some(MORNING)),
            ("iso", "2010-12-01", Some(MIDNIGHT)),
            ("iso", "2010-13-01", None),
            ("iso", "12/1/2010", None),
            ("m/d/y", "12/1/2010 8:26", Some(MORNING)),
            ("m/d/y", "12/01/2010 08:26:00", Some(MORNING)),
            ("m/d/y", "12/01/2010, 8:26 AM", Some(MORNING)),
            ("m/d/y", "12-01-2010", Some(MIDNIGHT)),
            ("m/d/y", "13/01/2010", None),
            ("m/d/y", "2010-12-01", None),
            ("m/d/y", "1.12.2010", None),
            ("d/m/y", "1/12/2010 8:26", Some(MORNING)),
            ("d/m/y", "01-12-2010 08:26", Some(MORNING)),
            ("d/m/y", "1/13/2010", None),
            ("d.m.y", "1.12.2010 8:26", Some(MORNING)),
            ("d.m.y", "01.12.2010", Some(MIDNIGHT)),
            ("d.m.y", "1/12/2010", None),
            ("%Y%m%d %H%M", "20101201 0826", Some(MORNING)),
            ("%Y%m%d", "20101201", Some(MIDNIGHT)),
            ("%Y%m%d", "2010-12-01", None),
            ("none", "2010-12-01", None),
        ];
        for (name, text, expected) in cases {
            assert_eq!(Dates::Given(format(name)).read(text), expected, "{text} as {name}");
        }
    }

    #[test]
    fn a_format_that_is_none_is_refused() {
        for text in ["", "us", "%Y", "%H:%M", "%!"] {
            assert!(text.parse::<DateFormat>().is_err(), "{text:?}");
        }
    }

    fn conclude(dates: &[&str]) -> Result<Dates, String> {
        let mut evidence = DateEvidence::default();
        for (line, text) in (2..).zip(dates) {
            evidence.look(line, text);
        }
        evidence.conclude().map_err(|error| error.to_string())
    }

    #[test]
    fn one_date_that_can_be_read_in_one_way_only_decides() {
        assert_eq!(conclude(&["12/1/2010", "12/13/2010"]), Ok(Dates::Told { month_first: true }));
        assert_eq!(conclude(&["12/1/2010", "13/12/2010"]), Ok(Dates::Told { month_first: false }));
        // The same in both ways; and what is unreadable shows nothing.
        let told = conclude(&["12/12/2010", "soon", "2010-12-01"]).unwrap();
        assert_eq!((told.read("12/12/2010"), told.read("soon")), (Some(MIDNIGHT + 11 * 86_400_000), None));
        assert_eq!(told.read("1.12.2010 8:26"), Some(MORNING));
    }

    #[test]
    fn dates_that_do_not_tell_are_an_error_that_says_so() {
        let ambiguous = conclude(&["12/12/2010", "12/1/2010 8:26", "11/2/2010"]).unwrap_err();
        assert!(ambiguous.contains("line 3: the date \"12/1/2010 8:26\" could be m/d/y or d/m/y"), "{ambiguous}");
        assert!(ambiguous.contains("--date-format"), "{ambiguous}");
        let contradicting = conclude(&["12/13/2010", "13/12/2010"]).unwrap_err();
        assert!(contradicting.contains("line 2") && contradicting.contains("line 3"), "{contradicting}");
        let unreadable = conclude(&["soon", "later"]).unwrap_err();
        assert!(unreadable.contains("line 2: the date \"soon\""), "{unreadable}");
        assert!(conclude(&[]).is_ok());
    }
}
