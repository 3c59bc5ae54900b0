//! A group's payload: the pinned bytes of every event, and payloads that are none.
//!
//! The expected bytes were written from the format's description and postcard's wire format by code that shares nothing with this crate.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use tidegate_persistence::group::decode_entries;
use tidegate_persistence::{Actor, ActorName, Entry, Group, GroupBuilder, GroupSequence, PayloadError};
use tidegate_stock::{
    Allotment, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Partition, Quantity, Reference, ReservationId, Sku,
    StockId, StockNumber, StockTerms, Timestamp, UserId,
};

const TIME: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const STOCK: StockId = StockId { partition: Partition(1_000), number: StockNumber(3) };

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn after(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(TIME.unix_ms() + milliseconds)
}

fn reservation(sequence: u64) -> ReservationId {
    ReservationId { stock: STOCK, sequence: GrantSequence(sequence) }
}

fn key(name: &str) -> Actor {
    Actor::Key(ActorName::new(name).unwrap())
}

fn entries() -> Vec<Entry<'static>> {
    let units = |units| Quantity::new(units).unwrap();
    let created = Event::StockCreated {
        stock: STOCK,
        sku: Sku::new("iphone-17:256").unwrap(),
        quantity: Allotment::new(20_000).unwrap(),
        terms: StockTerms {
            per_user_limit: Some(units(2)),
            hold_seconds: HoldSeconds::new(600).unwrap(),
            hold_seconds_max: HoldSeconds::new(3_600).unwrap(),
            opens_at: Some(TIME),
            closes_at: None,
        },
    };
    let reserved_with_all = Event::Reserved {
        stock: STOCK,
        sequence: GrantSequence(1),
        user: UserId::new("u-1").unwrap(),
        quantity: units(2),
        expires_at: after(600_000),
        reference: Some(Reference::new("order~9").unwrap()),
        idempotency: Some(Idempotency { key: Fingerprint(1), request: Fingerprint(u128::MAX) }),
    };
    let reserved_with_least = Event::Reserved {
        stock: STOCK,
        sequence: GrantSequence(2),
        user: UserId::new("u-2").unwrap(),
        quantity: Quantity::ONE,
        expires_at: after(600_001),
        reference: None,
        idempotency: None,
    };
    let confirmed = Event::Confirmed {
        reservation: reservation(1),
        quantity: Quantity::ONE,
        idempotency: Some(Idempotency { key: Fingerprint(300), request: Fingerprint(7) }),
    };
    let released = Event::Released { reservation: reservation(1), quantity: Quantity::ONE, idempotency: None };
    let expired = Event::Expired { reservations: vec![reservation(1), reservation(2)] };
    vec![
        Entry { at: TIME, actor: key("shop"), event: created, image: b"stock" },
        Entry { at: TIME, actor: key("app"), event: reserved_with_all, image: b"held" },
        Entry { at: after(1), actor: key("shop"), event: reserved_with_least, image: b"" },
        Entry { at: after(130), actor: key("shop"), event: confirmed, image: &[0xff; 130] },
        Entry { at: after(130), actor: key("app"), event: released, image: b"" },
        Entry { at: after(600_001), actor: Actor::Clock, event: expired, image: b"over" },
    ]
}

fn fixture() -> Vec<u8> {
    let ones = "ff".repeat(130);
    bytes(&format!(
        "00000006
         01 04 73686f70 00   00 e80703 0d 6970686f6e652d31373a323536 a09c01 0102 d804 901c 01 80a0f1c2b134 00   05 73746f636b
         02 03 617070   00   01 e80703 01 03 752d31 02 c0ef95c3b134 01 07 6f726465727e39 01 01 ffffffffffffffffffffffffffffffffffff03   04 68656c64
         01             01   01 e80703 02 03 752d32 01 c1ef95c3b134 00 00   00
         01           8201   02 e80703 01 01 01 ac02 07   8201 {ones}
         02           8201   03 e80703 01 01 00   00
         00         c1cf24   04 02 e80703 01 e80703 02   04 6f766572",
    ))
}

fn build(entries: &[Entry<'_>]) -> Group {
    let mut builder = GroupBuilder::new(GroupSequence(9), TIME);
    for entry in entries {
        builder.push(&entry.event, &entry.actor, entry.at, entry.image);
    }
    builder.finish()
}

#[test]
fn every_event_has_the_bytes_that_are_committed_here() {
    let group = build(&entries());
    assert_eq!(group.payload, fixture());
    assert_eq!((group.sequence, group.time, group.events), (GroupSequence(9), TIME, 6));
}

#[test]
fn the_committed_bytes_are_read_as_what_they_were_written_from() {
    let fixture = fixture();
    let read: Vec<Entry<'_>> = decode_entries(&fixture, TIME).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, entries());
}

#[test]
fn a_builder_counts_events_and_bytes() {
    let mut builder = GroupBuilder::new(GroupSequence(1), TIME);
    assert!(builder.is_empty());
    let first = &entries()[3];
    builder.push(&first.event, &first.actor, TIME, b"image");
    assert_eq!((builder.events(), builder.is_empty()), (1, false));
    // The count, the actor with its name, the delay, the event, the image.
    assert_eq!(builder.bytes(), 4 + 6 + 1 + 10 + 6);
}

#[test]
fn a_group_without_events_has_no_entries() {
    let group = GroupBuilder::new(GroupSequence(1), TIME).finish();
    assert_eq!(group.payload, [0; 4]);
    assert_eq!(group.entries().unwrap().count(), 0);
}

#[test]
fn equal_names_share_a_number_although_they_are_not_the_same_text_in_memory() {
    let released = entries().remove(4).event;
    let entries: Vec<Entry<'_>> =
        ["a", "b", "a", "b"].map(|name| Entry { at: TIME, actor: key(name), event: released.clone(), image: b"" }).to_vec();
    let group = build(&entries);
    assert_eq!(
        group.payload,
        bytes(
            "00000004 010161 00 03e8070301 0100 00 020162 00 03e8070301 0100 00 01 00 03e8070301 0100 00 02 00 03e8070301 0100 00"
        )
    );
}

#[test]
fn many_actors_each_keep_their_name() {
    let released = entries().remove(4).event;
    let entries: Vec<Entry<'_>> = (0..1_000)
        .map(|number| Entry { at: TIME, actor: key(&format!("key-{}", number % 300)), event: released.clone(), image: b"" })
        .collect();
    let group = build(&entries);
    let read: Vec<Entry<'_>> = group.entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(read, entries);
}

#[test]
#[should_panic(expected = "event at 1799999999999 ms after one at 1800000000000 ms")]
fn an_event_before_the_last_panics() {
    let mut builder = GroupBuilder::new(GroupSequence(1), TIME);
    builder.push(&entries()[4].event, &Actor::Clock, Timestamp::from_unix_ms(TIME.unix_ms() - 1), &[]);
}

#[test]
fn every_shortened_payload_is_an_error_and_ends_there() {
    for length in 0..fixture().len() {
        let short = fixture()[..length].to_vec();
        let error = match decode_entries(&short, TIME) {
            Err(error) => error,
            Ok(mut entries) => {
                let error = entries.by_ref().find_map(Result::err).unwrap_or_else(|| panic!("{length} bytes were read"));
                assert_eq!(entries.next(), None, "{length} bytes");
                error
            }
        };
        assert!(!matches!(error, PayloadError::Trailing(_)), "{length} bytes: {error}");
    }
}

fn first_error(hex: &str) -> PayloadError {
    decode_entries(&bytes(hex), TIME).unwrap().find_map(Result::err).unwrap()
}

#[test]
fn a_payload_that_contradicts_itself_is_named() {
    let released = "03e8070301 0100 00";
    assert_eq!(first_error("00000000 00"), PayloadError::Trailing(1));
    assert_eq!(first_error(&format!("00000001 02 00 {released}")), PayloadError::Actor(0));
    assert_eq!(first_error(&format!("00000002 00 00 {released} 02 00 {released}")), PayloadError::Actor(1));
    // A name is an identifier: not empty, and in its alphabet.
    assert_eq!(first_error(&format!("00000001 01 00 00 {released}")), PayloadError::Actor(0));
    assert_eq!(first_error(&format!("00000001 01 01 20 00 {released}")), PayloadError::Actor(0));
    // A number of more than 64 bits, and a time beyond the end of time.
    assert_eq!(first_error(&format!("00000001 00 ffffffffffffffffff02 {released}")), PayloadError::Number(0));
    assert_eq!(first_error(&format!("00000001 00 ffffffffffffffffff01 {released}")), PayloadError::Number(0));
    assert!(matches!(first_error("00000001 00 00 05"), PayloadError::Event { entry: 0, .. }));
    // An image longer than what is left of the payload, and one whose length is no number.
    assert_eq!(first_error("00000001 00 00 03e8070301 0100 03 6162"), PayloadError::Short(0));
    assert_eq!(first_error("00000001 00 00 03e8070301 0100 ffffffffffffffffff02"), PayloadError::Number(0));
    // A reservation of no unit is no event.
    assert!(matches!(first_error("00000001 00 00 03e8070301 0000"), PayloadError::Event { entry: 0, .. }));
}
