//! Cursors of the feed and of the lists: a text is a cursor or it is not, one place has one text, and a cursor is good for the list that
//! it came from alone.

use arbitrary::{Result, Unstructured};
use tidegate_api::fuzzing;
use tidegate_engine::Cursor;
use tidegate_stock::{GrantSequence, ReservationState, Sku, UserId};

const STATES: [Option<ReservationState>; 6] = [
    None,
    Some(ReservationState::Reserved),
    Some(ReservationState::Confirmed),
    Some(ReservationState::Released),
    Some(ReservationState::Expired),
    Some(ReservationState::Returned),
];

/// Tries `data` as a text, and as what a list is made of.
pub fn run(data: &[u8]) {
    text(&String::from_utf8_lossy(data));
    // Input that is used up gives zeros, so this never fails.
    let _ = lists(&mut Unstructured::new(data));
}

fn text(text: &str) {
    if let Ok(cursor) = text.parse::<Cursor>() {
        let shown = cursor.to_string();
        assert_eq!(shown.parse(), Ok(cursor), "{text}");
        // A position without a change stands for the one behind its group; every other place has one text.
        assert!(shown == text || text.matches('.').count() == 1, "{text} is read as {shown}");
        assert!(text.is_ascii() && shown.len() <= text.len() + 4, "{text} grew to {shown}");
    }
    // Whatever a list's cursor carries is something that the caller could have asked for.
    if let Ok(sku) = fuzzing::read_stock_cursor(text) {
        assert_eq!(fuzzing::read_stock_cursor(&fuzzing::stock_cursor(&sku)), Ok(sku));
    }
    let (sku, user) = (identifier("sneaker-42", Sku::new), identifier("u1", UserId::new));
    for state in STATES {
        for user in [None, Some(&user)] {
            if let Ok(grant) = fuzzing::read_reservation_cursor((&sku, user, state), text) {
                assert!(grant <= GrantSequence::MAX);
                assert_eq!(fuzzing::read_stock_cursor(text), Err("invalid_request"));
            }
        }
    }
}

fn lists(input: &mut Unstructured<'_>) -> Result<()> {
    let sku = identifier(&name(input)?, Sku::new);
    let cursor = fuzzing::stock_cursor(&sku);
    assert_eq!(fuzzing::read_stock_cursor(&cursor), Ok(sku.clone()));
    assert!(cursor.parse::<Cursor>().is_err(), "{cursor} is one of the feed, too");

    let user = identifier(&name(input)?, UserId::new);
    let (state, other_state) = (STATES[input.choose_index(STATES.len())?], STATES[input.choose_index(STATES.len())?]);
    let user = input.arbitrary::<bool>()?.then_some(&user);
    let grant = GrantSequence(input.int_in_range(0..=GrantSequence::MAX.0)?);
    let cursor = fuzzing::reservation_cursor((&sku, user, state), grant);
    assert_eq!(fuzzing::read_reservation_cursor((&sku, user, state), &cursor), Ok(grant));
    let other = identifier(&name(input)?, Sku::new);
    for (list, is_same) in [
        ((&other, user, state), other == sku),
        ((&sku, None, state), user.is_none()),
        ((&sku, user, other_state), other_state == state),
    ] {
        let read = fuzzing::read_reservation_cursor(list, &cursor);
        assert_eq!(read, if is_same { Ok(grant) } else { Err("invalid_request") }, "{cursor} for {list:?}");
    }
    Ok(())
}

/// 1 to 8 characters of an identifier.
fn name(input: &mut Unstructured<'_>) -> Result<String> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:~-";
    let length = input.int_in_range(1..=8)?;
    (0..length).map(|_| input.choose(ALPHABET).map(|byte| char::from(*byte))).collect()
}

fn identifier<T, E: std::fmt::Debug>(text: &str, new: impl Fn(&str) -> std::result::Result<T, E>) -> T {
    new(text).expect("the text is an identifier")
}
