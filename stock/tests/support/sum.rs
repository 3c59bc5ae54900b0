//! The sum of a ledger, made anew of all that is in a copy of it, by code that shares nothing with the ledger's own.

use std::collections::BTreeMap;

use tidegate_stock::{LastExit, LedgerSum, ReservationRecord, SnapshotItem, StockId, StockRecord};

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The halves of the product, one over the other.
fn folded(one: u64, other: u64) -> u64 {
    let halves = (u128::from(one) * u128::from(other)).to_be_bytes();
    let half = |bytes: &[u8]| bytes.iter().fold(0, |half: u64, byte| half << 8 | u64::from(*byte));
    half(&halves[..8]) ^ half(&halves[8..])
}

/// Mixes `words` into `begin`.
fn mixed(begin: u64, words: &[u64]) -> u64 {
    words.iter().fold(begin, |mixed, word| folded(mixed ^ word, FACTOR))
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().enumerate().map(|(place, byte)| u64::from(*byte) << (8 * place)).sum()
}

fn words_of(text: &str) -> Vec<u64> {
    let bytes = text.as_bytes();
    let count = bytes.len();
    let mut words = vec![count as u64];
    match count {
        0..4 => words.push(word_of(bytes)),
        4..8 => words.push(word_of(&bytes[..4]) | word_of(&bytes[count - 4..]) << 32),
        _ => {
            let mut next = 0;
            while next + 8 < count {
                words.push(word_of(&bytes[next..next + 8]));
                next += 8;
            }
            words.push(word_of(&bytes[count - 8..]));
        }
    }
    words
}

fn place(id: StockId) -> u64 {
    u64::from(id.partition.0) << 32 | u64::from(id.number.0)
}

fn of_reservation(record: &ReservationRecord) -> u64 {
    let exit = match record.last_exit {
        LastExit::None => 0,
        LastExit::Released => 1,
        LastExit::Expired => 2,
        LastExit::Returned => 3,
    };
    let identity =
        folded(place(record.id.stock) ^ 0x243f_6a88_85a3_08d3, record.id.sequence.0 ^ exit << 56 ^ 0x1319_8a2e_0370_7344);
    let holds = folded(
        record.expires_at.unix_ms() ^ 0xa409_3822_299f_31d0,
        (u64::from(record.reserved) << 32 | u64::from(record.confirmed)) ^ 0x082e_fa98_ec4e_6c89,
    );
    let gone = u64::from(record.released) << 32 | u64::from(record.returned);
    folded(identity.wrapping_add(holds) ^ gone, FACTOR)
}

fn of_stock(record: &StockRecord, users: u64) -> u64 {
    let terms = &record.terms;
    let mut words = vec![place(record.id)];
    words.extend(words_of(record.sku.as_str()));
    words.extend([
        record.first_quantity.units(),
        terms.per_user_limit.map_or(0, |limit| u64::from(limit.units()) + 1),
        u64::from(terms.hold_seconds.seconds()) << 32 | u64::from(terms.hold_seconds_max.seconds()),
        terms.opens_at.map_or(0, |at| at.unix_ms() + 1),
        terms.closes_at.map_or(0, |at| at.unix_ms() + 1),
        u64::from(record.is_paused) + 2 * u64::from(record.is_closed) + 4 * u64::from(record.is_archived),
        record.revision.0,
        record.allotted,
        record.available,
        record.reserved,
        record.sold,
        record.grants,
        record.changes.0,
        if record.is_archived { 0 } else { users },
    ]);
    mixed(0x3f84_d5b5_b547_0917, &words)
}

/// The sum of the ledger that `items` are a copy of.
pub(crate) fn sum_of<'a>(items: impl IntoIterator<Item = &'a SnapshotItem>) -> LedgerSum {
    let (mut stocks, mut users) = (Vec::new(), BTreeMap::<StockId, u64>::new());
    let (mut open_holds, mut hash) = (0, 0_u64);
    for item in items {
        match item {
            SnapshotItem::Stock(record) => stocks.push(record),
            SnapshotItem::User(record) if record.units > 0 => {
                let mut words = words_of(record.user.as_str());
                words.push(record.units);
                let sum = users.entry(record.stock).or_default();
                *sum = sum.wrapping_add(mixed(0xc0ac_29b7_c97c_50dd, &words));
            }
            SnapshotItem::Reservation(record) if record.reserved > 0 => {
                open_holds += 1;
                hash = hash.wrapping_add(of_reservation(record));
            }
            _ => {}
        }
    }
    for record in &stocks {
        hash = hash.wrapping_add(of_stock(record, users.get(&record.id).copied().unwrap_or(0)));
    }
    LedgerSum { stocks: stocks.len() as u64, open_holds, hash }
}
