//! The values that benches sell: one hot product, users by number, events as the rules would have them.

use tidegate_engine::partition_of;
use tidegate_persistence::{Actor, ActorName, Group, GroupBuilder, GroupSequence};
use tidegate_stock::{
    Allotment, Command, Event, GrantSequence, HoldSeconds, Quantity, Reference, Request, ReservationId, Rules, Sku, StockId,
    StockNumber, StockTerms, Timestamp, UserId,
};

/// What every bench's randomness and secrets are made from. The same seed gives the same work.
pub const SEED: u64 = 0x7469_6465_6761_7465;

/// The moment at which benches begin that do not read the clock.
pub const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// How long holds last: longer than any bench.
pub const HOLD_SECONDS: u32 = 3_600;

/// The rules of a node with default settings.
pub const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 10_000_000,
    retention_seconds: 604_800,
    reservations_in_memory_max: 50_000_000,
    users_in_memory_max: 50_000_000,
};

/// A secret that nobody needs to keep.
pub fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    secret.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&SEED.to_le_bytes()));
    secret
}

/// The hot product.
pub fn sku() -> Sku {
    Sku::new("hot-product").expect("the name is an identifier")
}

/// The hot product's place in an empty ledger.
pub fn stock_id() -> StockId {
    StockId { partition: partition_of(&sku()), number: StockNumber(1) }
}

/// User number `number`: `u` and ten digits.
pub fn user(number: u64) -> UserId {
    let mut name = *b"u0000000000";
    let mut rest = number;
    for digit in name[1..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit is less than 10");
        rest /= 10;
    }
    UserId::new(std::str::from_utf8(&name).expect("digits are text")).expect("digits are an identifier")
}

/// User number `number`, by a name of 8 to 20 characters.
pub fn named_user(number: u64) -> UserId {
    UserId::new(&name('u', number)).expect("letters and digits are an identifier")
}

/// Reference number `number`, of 8 to 20 characters.
pub fn named_reference(number: u64) -> Reference {
    Reference::new(&name('r', number)).expect("letters and digits are an identifier")
}

/// Name number `number` of those that begin with `kind`: 8 to 20 characters, each length as often as any other. No two are the same up
/// to 36 to the power of 7.
fn name(kind: char, number: u64) -> String {
    let length = 8 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 13;
    let mut digits = vec![b'0'; usize::try_from(length).expect("a length is short")];
    digits[0] = u8::try_from(kind).expect("a kind is one letter");
    let mut rest = number;
    for digit in digits[1..].iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(rest % 36).expect("a digit is less than 36")];
        rest /= 36;
    }
    String::from_utf8(digits).expect("letters and digits are text")
}

/// One unit to a user, held for [`HOLD_SECONDS`].
pub fn terms() -> StockTerms {
    let hold_seconds = HoldSeconds::new(u64::from(HOLD_SECONDS)).expect("an hour is a hold");
    StockTerms {
        per_user_limit: Some(Quantity::ONE),
        hold_seconds,
        hold_seconds_max: hold_seconds,
        opens_at: None,
        closes_at: None,
    }
}

/// Opens the hot product with `units`.
pub fn create(units: u64) -> Command {
    let sku = sku();
    let quantity = Allotment::new(units).expect("benches sell no more than a stock may hold");
    Command::CreateStock { partition: partition_of(&sku), sku, quantity, terms: terms() }
}

/// Opens `sku` with `units`, of which a user may have any number.
pub fn create_unlimited(sku: &Sku, units: u64) -> Command {
    let quantity = Allotment::new(units).expect("benches sell no more than a stock may hold");
    let terms = StockTerms { per_user_limit: None, ..terms() };
    Command::CreateStock { partition: partition_of(sku), sku: sku.clone(), quantity, terms }
}

/// Reserves one unit of `sku` for the user of 8 to 20 characters with this number.
pub fn reserve_named(sku: &Sku, number: u64) -> Command {
    let (user, quantity) = (named_user(number), Quantity::ONE);
    Command::Reserve { sku: sku.clone(), user, quantity, hold_seconds: None, reference: None }
}

/// The hot product's grant number `grant`, counted from 1.
pub fn grant_id(grant: u64) -> ReservationId {
    ReservationId { stock: stock_id(), sequence: GrantSequence(grant) }
}

/// Reserves one unit of `sku` for user `number`.
pub fn reserve(sku: &Sku, number: u64) -> Command {
    Command::Reserve { sku: sku.clone(), user: user(number), quantity: Quantity::ONE, hold_seconds: None, reference: None }
}

/// A command without a key, as the rules take it.
pub const fn request(command: Command) -> Request {
    Request { command, idempotency: None }
}

/// Who acts in benches.
pub fn actor() -> ActorName {
    ActorName::new("bench").expect("the name is an identifier")
}

/// Opens the hot product with `units`, as the rules say it.
pub fn created(units: u64) -> Event {
    let quantity = Allotment::new(units).expect("benches sell no more than a stock may hold");
    Event::StockCreated { stock: stock_id(), sku: sku(), quantity, terms: terms() }
}

/// The hot product's grant number `grant`, counted from 1, as the rules say it: one unit for the user of that number.
pub fn reserved(grant: u64) -> Event {
    Event::Reserved {
        stock: stock_id(),
        sequence: GrantSequence(grant),
        user: user(grant),
        quantity: Quantity::ONE,
        expires_at: START.plus_seconds(HOLD_SECONDS),
        reference: None,
        idempotency: None,
    }
}

/// The group of `events` grants that follow the first `granted`, all at [`START`]. The hot product is opened in front of the first.
pub fn group(sequence: GroupSequence, granted: u64, events: u64, units: u64) -> Group {
    let mut builder = GroupBuilder::new(sequence, START);
    let actor = Actor::Key(actor());
    if granted == 0 {
        builder.push(&created(units), &actor, START, &[]);
    }
    for grant in granted + 1..=granted + events {
        builder.push(&reserved(grant), &actor, START, &[]);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbered_by_ten_digits() {
        assert_eq!(user(4_711).as_str(), "u0000004711");
    }

    #[test]
    fn names_have_8_to_20_characters_and_differ() {
        let names: std::collections::BTreeSet<String> = (0..10_000).map(|number| name('u', number)).collect();
        let lengths: std::collections::BTreeSet<usize> = names.iter().map(String::len).collect();
        assert_eq!((names.len(), lengths), (10_000, (8..=20).collect()));
        assert!(name('u', 35).ends_with("00000z") && name('u', 36).ends_with("000010"));
    }

    #[test]
    fn the_first_group_opens_the_product_and_the_next_go_on() {
        let entries = |group: &Group| group.entries().unwrap().map(|entry| entry.unwrap().event).collect::<Vec<_>>();
        let first = entries(&group(GroupSequence(1), 0, 2, 9));
        assert!(
            matches!(first[..], [Event::StockCreated { .. }, Event::Reserved { sequence: GrantSequence(1), .. }, _]),
            "{first:?}"
        );
        let next = entries(&group(GroupSequence(2), 2, 1, 9));
        assert!(matches!(next[..], [Event::Reserved { sequence: GrantSequence(3), .. }]), "{next:?}");
    }
}
