//! Whole numbers as shops write them: with a point or a comma before the decimals, the other one between thousands.
//!
//! Pure. A number that can be read in two ways is read by what the rest of the file shows, and never guessed.

use serde::Serialize;

/// The mark before the decimals of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decimal {
    /// `1.5`; thousands, where they are marked, by a comma.
    Point,
    /// `1,5`; thousands, where they are marked, by a point.
    Comma,
}

impl Decimal {
    /// The mark, and the one between thousands.
    const fn marks(self) -> (char, char) {
        match self {
            Self::Point => ('.', ','),
            Self::Comma => (',', '.'),
        }
    }
}

/// What a number's own writing says of its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// There is no mark, or it is no number.
    Silent,
    /// This is the mark before the decimals.
    Shows(Decimal),
    /// `1.000` or `1,000`: one, or a thousand.
    Either,
}

/// What the writing of `text` says.
pub(crate) fn writing(text: &str) -> Writing {
    let digits = text.trim_start_matches(['-', '+']);
    let is_number = digits.chars().all(|character| character.is_ascii_digit() || matches!(character, '.' | ','));
    let (Some(last), true) = (digits.rfind(['.', ',']), is_number) else { return Writing::Silent };
    let (shown, other) =
        if digits[last..].starts_with('.') { (Decimal::Point, Decimal::Comma) } else { (Decimal::Comma, Decimal::Point) };
    let (mark, thousands) = shown.marks();
    match (digits.matches(mark).count(), digits.contains(thousands)) {
        (1, false) => {
            let (whole, rest) = (&digits[..last], &digits[last + 1..]);
            let could_be_thousands = rest.len() == 3 && (1..=3).contains(&whole.len()) && !whole.starts_with('0');
            if could_be_thousands { Writing::Either } else { Writing::Shows(shown) }
        }
        (1, true) => Writing::Shows(shown),
        // More than one of the same stand between thousands.
        (_, false) => Writing::Shows(other),
        (_, true) => Writing::Silent,
    }
}

/// The whole number that `text` is; one that could be read in two ways is read with `decimal`, and is none without. Decimals are
/// allowed where all of them are zeros, because spreadsheets write whole numbers so.
pub(crate) fn whole(text: &str, decimal: Option<Decimal>) -> Option<i64> {
    let decimal = match writing(text) {
        Writing::Silent => return text.parse().ok(),
        Writing::Shows(decimal) => decimal,
        Writing::Either => decimal?,
    };
    let (mark, thousands) = decimal.marks();
    let (whole, decimals) = match text.split_once(mark) {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (text, None),
    };
    if decimals.is_some_and(|decimals| decimals.is_empty() || decimals.bytes().any(|byte| byte != b'0')) {
        return None;
    }
    let mut groups = whole.split(thousands);
    let first = groups.next().unwrap_or_default();
    let rest: Vec<&str> = groups.collect();
    let first_digits = first.trim_start_matches(['-', '+']).len();
    if rest.iter().any(|group| group.len() != 3) || (!rest.is_empty() && !(1..=3).contains(&first_digits)) {
        return None;
    }
    format!("{first}{}", rest.concat()).parse().ok()
}

/// `17850.0` is 17850: spreadsheets write numbers that name something as if they counted. Only a fraction of zeros behind digits is
/// taken off.
pub(crate) fn without_zero_fraction(text: &str) -> &str {
    match text.split_once(['.', ',']) {
        Some((whole, zeros))
            if !whole.is_empty()
                && !zeros.is_empty()
                && whole.bytes().all(|byte| byte.is_ascii_digit())
                && zeros.bytes().all(|byte| byte == b'0') =>
        {
            whole
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_shows_its_mark_where_it_can() {
        let (point, comma) = (Writing::Shows(Decimal::Point), Writing::Shows(Decimal::Comma));
        let cases = [
            ("12", Writing::Silent),
            ("", Writing::Silent),
            ("£2.55", Writing::Silent),
            ("1,2.3,4", Writing::Silent),
            ("2.55", point),
            ("-2.55", point),
            ("1.0", point),
            ("1.0000", point),
            ("0.125", point),
            ("1234.567", point),
            ("1,234.5", point),
            ("1,234,567", point),
            ("2,55", comma),
            ("1.234,5", comma),
            ("1.234.567", comma),
            ("1.000", Writing::Either),
            ("-12,500", Writing::Either),
        ];
        for (text, expected) in cases {
            assert_eq!(writing(text), expected, "{text}");
        }
    }

    #[test]
    fn only_whole_numbers_are_read() {
        let cases = [
            ("6", None, Some(6)),
            ("-6", None, Some(-6)),
            ("+6", None, Some(6)),
            ("6.0", None, Some(6)),
            ("6,00", None, Some(6)),
            ("-1,234.0", None, Some(-1_234)),
            ("1.234,00", None, Some(1_234)),
            ("1.234.567", None, Some(1_234_567)),
            ("1.000", None, None),
            ("1.000", Some(Decimal::Point), Some(1)),
            ("1.000", Some(Decimal::Comma), Some(1_000)),
            ("1,000", Some(Decimal::Point), Some(1_000)),
            ("1,000", Some(Decimal::Comma), Some(1)),
            ("1.500", Some(Decimal::Point), None),
            ("1.5", None, None),
            ("1,5", None, None),
            ("1.", None, None),
            (".0", None, None),
            ("12,34,567", None, None),
            ("1234,567.0", None, None),
            ("one", None, None),
            ("", None, None),
            ("99999999999999999999", None, None),
        ];
        for (text, decimal, expected) in cases {
            assert_eq!(whole(text, decimal), expected, "{text} {decimal:?}");
        }
    }

    #[test]
    fn a_name_loses_only_a_fraction_of_zeros() {
        for (text, expected) in
            [("17850.0", "17850"), ("17850,00", "17850"), ("1.5", "1.5"), ("a.0", "a.0"), (".0", ".0"), ("7.", "7."), ("", "")]
        {
            assert_eq!(without_zero_fraction(text), expected);
        }
    }
}
