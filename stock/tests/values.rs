//! The bounds of every value: what is just inside is taken, what is just outside is refused with its numbers, also when it is read
//! from bytes that somebody else wrote.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, I64Deserializer, StringDeserializer, U32Deserializer, U64Deserializer};
use tidegate_stock::values::check_identifier;
use tidegate_stock::{
    Allotment, Delta, DeltaError, HoldSeconds, IdempotencyKey, IdentifierError, OutOfBounds, Quantity, Reason, ReasonError,
    Reference, Sku, StockTerms, TermsError, Timestamp, UserId,
};

#[test]
fn every_character_of_the_alphabet_is_taken_and_every_other_ascii_character_is_refused() {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:~-";
    assert_eq!(check_identifier(alphabet), Ok(()));
    for character in (0..128_u8).map(char::from) {
        let expected = if alphabet.contains(character) { Ok(()) } else { Err(IdentifierError::Character(character)) };
        assert_eq!(check_identifier(&character.to_string()), expected, "{character:?}");
    }
}

#[test]
fn characters_beyond_ascii_are_refused() {
    for character in ['é', 'ß', 'Ａ', '０', 'а', '茶', '\u{200b}', '\u{feff}', '🍵'] {
        assert_eq!(check_identifier(&format!("a{character}")), Err(IdentifierError::Character(character)));
    }
}

#[test]
fn an_identifier_has_1_to_128_characters() {
    let text = |length: usize| "x".repeat(length);
    assert_eq!(check_identifier(&text(0)), Err(IdentifierError::Length(0)));
    assert_eq!(check_identifier(&text(1)), Ok(()));
    assert_eq!(check_identifier(&text(128)), Ok(()));
    assert_eq!(check_identifier(&text(129)), Err(IdentifierError::Length(129)));
    assert_eq!(check_identifier(&text(1_000_000)), Err(IdentifierError::Length(1_000_000)));
}

#[test]
fn every_kind_of_identifier_has_the_same_bounds_and_keeps_its_text() {
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    assert_eq!(Sku::new(&longest).unwrap().as_str(), longest);
    assert_eq!(UserId::new(&longest).unwrap().as_str(), longest);
    assert_eq!(Reference::new(&longest).unwrap().as_str(), longest);
    assert_eq!(IdempotencyKey::new(&longest).unwrap().as_str(), longest);
    assert_eq!(Sku::new(&too_long), Err(IdentifierError::Length(129)));
    assert_eq!(UserId::new(&too_long), Err(IdentifierError::Length(129)));
    assert_eq!(Reference::new(&too_long), Err(IdentifierError::Length(129)));
    assert_eq!(IdempotencyKey::new(&too_long), Err(IdentifierError::Length(129)));
    assert_eq!(Sku::new("a b"), Err(IdentifierError::Character(' ')));
    assert_ne!(Sku::new("tea").unwrap(), Sku::new("Tea").unwrap(), "case matters");
    assert_eq!(Sku::new("tea:green~0.5-kg_x").unwrap().to_string(), "tea:green~0.5-kg_x");
}

#[test]
fn a_quantity_is_1_to_a_billion() {
    let refused = |given| Err(OutOfBounds { given, min: 1, max: 1_000_000_000 });
    assert_eq!(Quantity::new(0), refused(0));
    assert_eq!(Quantity::new(1), Ok(Quantity::ONE));
    assert_eq!(Quantity::new(1_000_000_000).unwrap().units(), 1_000_000_000);
    assert_eq!(Quantity::new(1_000_000_001), refused(1_000_000_001));
    assert_eq!(Quantity::new(u64::from(u32::MAX) + 2), refused(4_294_967_297));
    assert_eq!(Quantity::new(u64::MAX), refused(u64::MAX));
}

#[test]
fn an_allotment_is_0_to_a_million_million() {
    let refused = |given| Err(OutOfBounds { given, min: 0, max: 1_000_000_000_000 });
    assert_eq!(Allotment::new(0).unwrap().units(), 0);
    assert_eq!(Allotment::new(1_000_000_000_000).unwrap().units(), 1_000_000_000_000);
    assert_eq!(Allotment::new(1_000_000_000_001), refused(1_000_000_000_001));
    assert_eq!(Allotment::new(u64::MAX), refused(u64::MAX));
}

#[test]
fn a_delta_is_not_0_and_at_most_a_billion_either_way() {
    for units in [1, -1, 7, -1_000_000_000, 1_000_000_000] {
        assert_eq!(Delta::new(units).map(Delta::units), Ok(units));
    }
    for units in [0, 1_000_000_001, -1_000_000_001, i64::MAX, i64::MIN] {
        assert_eq!(Delta::new(units), Err(DeltaError(units)));
    }
    assert_eq!(DeltaError(0).to_string(), "is 0 where -1000000000 to 1000000000 but not 0 are allowed");
}

#[test]
fn a_reason_is_1_to_256_bytes_without_control_characters() {
    let text = |length: usize| "x".repeat(length);
    assert_eq!(Reason::new(""), Err(ReasonError::Length(0)));
    assert_eq!(Reason::new(&text(256)).expect("the longest").as_str(), text(256));
    assert_eq!(Reason::new(&text(257)), Err(ReasonError::Length(257)));
    // Bytes count, not characters.
    assert_eq!(Reason::new(&"é".repeat(128)).expect("256 bytes").as_str().len(), 256);
    assert_eq!(Reason::new(&"é".repeat(129)), Err(ReasonError::Length(258)));
    for good in ["damaged", "Bruch beim Umräumen, 3 Stück", "茶", " ", "/\\\"'"] {
        assert_eq!(Reason::new(good).expect("a reason").as_str(), good);
    }
    for character in ['\0', '\n', '\t', '\r', '\u{7f}', '\u{85}'] {
        assert_eq!(Reason::new(&format!("a{character}")), Err(ReasonError::Control(character)));
    }
    assert_eq!(ReasonError::Length(0).to_string(), "has 0 bytes where 1 to 256 are allowed");
    assert_eq!(ReasonError::Control('\n').to_string(), "holds the control character '\\n'");
}

#[test]
fn a_hold_is_1_second_to_a_year() {
    let refused = |given| Err(OutOfBounds { given, min: 1, max: 31_536_000 });
    assert_eq!(HoldSeconds::new(0), refused(0));
    assert_eq!(HoldSeconds::new(1).unwrap().seconds(), 1);
    assert_eq!(HoldSeconds::new(31_536_000).unwrap().seconds(), 31_536_000);
    assert_eq!(HoldSeconds::new(31_536_001), refused(31_536_001));
    assert_eq!(HoldSeconds::new(u64::MAX), refused(u64::MAX));
}

#[test]
fn the_longest_hold_of_a_stock_that_names_none_is_an_hour_or_its_own_hold() {
    let of = |seconds| HoldSeconds::new(seconds).unwrap().default_max().seconds();
    assert_eq!((of(1), of(600), of(3_600), of(3_601), of(31_536_000)), (3_600, 3_600, 3_600, 3_601, 31_536_000));
}

#[test]
fn a_hold_that_starts_at_the_end_of_time_ends_there() {
    let ends = |unix_ms| Timestamp::from_unix_ms(unix_ms).plus_seconds(31_536_000).unix_ms();
    assert_eq!(ends(0), 31_536_000_000);
    assert_eq!(ends(u64::MAX - 1), u64::MAX);
    assert_eq!(Timestamp::from_unix_ms(5).plus_seconds(u32::MAX).unix_ms(), 4_294_967_295_005);
}

#[test]
fn terms_that_contradict_themselves_are_refused() {
    let hold = |seconds| HoldSeconds::new(seconds).unwrap();
    let at = Timestamp::from_unix_ms;
    let good =
        StockTerms { per_user_limit: None, hold_seconds: hold(600), hold_seconds_max: hold(600), opens_at: None, closes_at: None };
    assert_eq!(good.check(), Ok(()));
    let short = StockTerms { hold_seconds_max: hold(599), ..good.clone() };
    assert_eq!(short.check(), Err(TermsError::HoldOverMax(OutOfBounds { given: 600, min: 1, max: 599 })));
    let window = |opens_at, closes_at| StockTerms { opens_at, closes_at, ..good.clone() }.check();
    assert_eq!(window(Some(at(5)), None), Ok(()));
    assert_eq!(window(None, Some(at(5))), Ok(()));
    assert_eq!(window(Some(at(5)), Some(at(6))), Ok(()));
    assert_eq!(window(Some(at(5)), Some(at(5))), Err(TermsError::EmptyWindow { opens_at: at(5), closes_at: at(5) }));
    assert_eq!(window(Some(at(6)), Some(at(5))), Err(TermsError::EmptyWindow { opens_at: at(6), closes_at: at(5) }));
}

fn read_u32<T: for<'de> Deserialize<'de>>(number: u32) -> Result<T, String> {
    let deserializer: U32Deserializer<Error> = number.into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

fn read_u64<T: for<'de> Deserialize<'de>>(number: u64) -> Result<T, String> {
    let deserializer: U64Deserializer<Error> = number.into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

fn read_i64<T: for<'de> Deserialize<'de>>(number: i64) -> Result<T, String> {
    let deserializer: I64Deserializer<Error> = number.into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

fn read_text<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    let deserializer: StringDeserializer<Error> = text.to_owned().into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

#[test]
fn numbers_out_of_bounds_are_refused_when_they_are_read() {
    assert_eq!(read_u32::<Quantity>(1), Ok(Quantity::ONE));
    assert_eq!(read_u32::<Quantity>(1_000_000_000).map(Quantity::units), Ok(1_000_000_000));
    assert_eq!(read_u32::<Quantity>(0), Err("is 0 where 1 to 1000000000 are allowed".to_owned()));
    assert_eq!(read_u32::<Quantity>(1_000_000_001), Err("is 1000000001 where 1 to 1000000000 are allowed".to_owned()));
    assert_eq!(read_u32::<HoldSeconds>(31_536_000).map(HoldSeconds::seconds), Ok(31_536_000));
    assert_eq!(read_u32::<HoldSeconds>(0), Err("is 0 where 1 to 31536000 are allowed".to_owned()));
    assert_eq!(read_u32::<HoldSeconds>(31_536_001), Err("is 31536001 where 1 to 31536000 are allowed".to_owned()));
    assert_eq!(read_i64::<Delta>(-1_000_000_000).map(Delta::units), Ok(-1_000_000_000));
    assert_eq!(read_i64::<Delta>(0), Err("is 0 where -1000000000 to 1000000000 but not 0 are allowed".to_owned()));
    assert_eq!(
        read_text::<Reason>("").map(|text| text.as_str().to_owned()),
        Err("has 0 bytes where 1 to 256 are allowed".to_owned())
    );
    assert_eq!(read_text::<Reason>("damaged").map(|text| text.as_str().to_owned()), Ok("damaged".to_owned()));
    assert_eq!(read_u64::<Allotment>(0).map(Allotment::units), Ok(0));
    assert_eq!(read_u64::<Allotment>(1_000_000_000_000).map(Allotment::units), Ok(1_000_000_000_000));
    assert_eq!(read_u64::<Allotment>(1_000_000_000_001), Err("is 1000000000001 where 0 to 1000000000000 are allowed".to_owned()));
}

#[test]
fn texts_that_are_no_identifiers_are_refused_when_they_are_read() {
    assert_eq!(read_text::<Sku>("tea").map(|text| text.as_str().to_owned()), Ok("tea".to_owned()));
    let long = "x".repeat(129);
    let too_long = Err("has 129 characters where 1 to 128 are allowed".to_owned());
    assert_eq!(read_text::<Sku>(&long).map(|text| text.as_str().to_owned()), too_long);
    assert_eq!(read_text::<UserId>(&long).map(|text| text.as_str().to_owned()), too_long);
    assert_eq!(read_text::<Reference>(&long).map(|text| text.as_str().to_owned()), too_long);
    assert_eq!(read_text::<IdempotencyKey>(&long).map(|text| text.as_str().to_owned()), too_long);
    let empty = Err("has 0 characters where 1 to 128 are allowed".to_owned());
    assert_eq!(read_text::<Sku>("").map(|text| text.as_str().to_owned()), empty);
    assert_eq!(read_text::<UserId>("").map(|text| text.as_str().to_owned()), empty);
    let foreign = Err("holds '/', which is outside the alphabet A-Z a-z 0-9 . _ : ~ -".to_owned());
    assert_eq!(read_text::<Sku>("a/b").map(|text| text.as_str().to_owned()), foreign);
    assert_eq!(read_text::<Reference>("a/b").map(|text| text.as_str().to_owned()), foreign);
}
