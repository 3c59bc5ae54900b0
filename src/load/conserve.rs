//! Holding what the target shows of a stock against what it answered: every unit is somewhere, and where it was said to be. Pure.
//!
//! Of a command without an answer nobody knows whether it happened, so the books give a band and not a number.

use serde::Serialize;

use super::tally::Book;

/// The counters of a stock as the target shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Counters {
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
}

/// A product that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mismatch {
    /// The product.
    pub(crate) sku: String,
    /// What is wrong, with the numbers.
    pub(crate) what: String,
}

/// Checks one product; `allotted` is what it was opened with. `may_lapse` says that some hold can be over by now, so that nothing is
/// known about how many are still held.
pub(crate) fn check(allotted: u64, shown: &Counters, book: &Book, may_lapse: bool) -> Result<(), String> {
    let Counters { available, reserved, sold, .. } = *shown;
    let sum = u128::from(available) + u128::from(reserved) + u128::from(sold);
    if sum != u128::from(shown.allotted) {
        return Err(format!(
            "available {available} + reserved {reserved} + sold {sold} is {sum} and not allotted {}",
            shown.allotted
        ));
    }
    if shown.allotted != allotted {
        return Err(format!("allotted is {} and not {allotted}, as it was opened with", shown.allotted));
    }
    within("sold", sold, book.confirmed, book.confirmed + book.confirmed_unknown)?;
    let given_back = book.released + book.expired;
    let least = if may_lapse { book.confirmed } else { book.granted.saturating_sub(given_back + book.released_unknown) };
    let most = (book.granted + book.granted_unknown).saturating_sub(given_back);
    within("reserved + sold", reserved + sold, least, most)
}

fn within(what: &str, shown: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&shown) {
        return Ok(());
    }
    if least == most {
        return Err(format!("{what} is {shown} and not {least}, as was answered"));
    }
    Err(format!("{what} is {shown} and not between {least} and {most}, as was answered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 granted, 3 confirmed, 2 released: 3 sold and 5 held of 20.
    const BOOK: Book =
        Book { granted: 10, granted_unknown: 0, confirmed: 3, confirmed_unknown: 0, released: 2, released_unknown: 0, expired: 0 };
    const SHOWN: Counters = Counters { allotted: 20, available: 12, reserved: 5, sold: 3 };

    fn shown(available: u64, reserved: u64, sold: u64) -> Counters {
        Counters { allotted: 20, available, reserved, sold }
    }

    #[track_caller]
    fn finds(shown: Counters, book: Book, may_lapse: bool, what: &str) {
        let found = check(20, &shown, &book, may_lapse).unwrap_err();
        assert!(found.contains(what), "{found}");
    }

    #[test]
    fn what_was_answered_and_is_shown_is_right() {
        assert_eq!(check(20, &SHOWN, &BOOK, false), Ok(()));
    }

    #[test]
    fn a_unit_too_many_or_too_few_is_found() {
        finds(shown(12, 5, 4), BOOK, false, "available 12 + reserved 5 + sold 4 is 21 and not allotted 20");
        finds(Counters { allotted: 21, available: 13, ..SHOWN }, BOOK, false, "allotted is 21 and not 20");
        finds(shown(12, 4, 4), BOOK, false, "sold is 4 and not 3");
        finds(shown(11, 6, 3), BOOK, false, "reserved + sold is 9 and not 8");
        finds(shown(13, 4, 3), BOOK, false, "reserved + sold is 7 and not 8");
    }

    #[test]
    fn unknown_outcomes_widen_the_band_by_their_units_only() {
        let book = Book { granted_unknown: 2, ..BOOK };
        for reserved in 5..=7 {
            assert_eq!(check(20, &shown(17 - reserved, reserved, 3), &book, false), Ok(()));
        }
        finds(shown(9, 8, 3), book, false, "reserved + sold is 11 and not between 8 and 10");
        finds(shown(13, 4, 3), book, false, "reserved + sold is 7 and not between 8 and 10");

        let book = Book { confirmed_unknown: 1, ..BOOK };
        assert_eq!(check(20, &shown(12, 4, 4), &book, false), Ok(()));
        finds(shown(12, 3, 5), book, false, "sold is 5 and not between 3 and 4");

        let book = Book { released_unknown: 1, ..BOOK };
        assert_eq!(check(20, &shown(13, 4, 3), &book, false), Ok(()));
        finds(shown(14, 3, 3), book, false, "reserved + sold is 6 and not between 7 and 8");
    }

    #[test]
    fn holds_that_can_be_over_may_be_back_but_sold_units_may_not() {
        assert_eq!(check(20, &shown(17, 0, 3), &BOOK, true), Ok(()));
        finds(shown(18, 0, 2), BOOK, true, "sold is 2 and not 3");
        finds(shown(11, 6, 3), BOOK, true, "reserved + sold is 9 and not between 3 and 8");
        let told = Book { expired: 1, ..BOOK };
        assert_eq!(check(20, &shown(13, 4, 3), &told, false), Ok(()));
    }
}
