//! Logs written without a node: what a test wants to find in a directory, promises kept or not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tidegate_engine::write_image;

use tidegate_persistence::{
    Actor, DataDirectory, DirectoryOptions, GroupBuilder, GroupSequence, IdentityExpectation, StreamId, SyncReport, Wal, WalError,
    WalListener, WalOptions,
};
use tidegate_stock::{
    Allotment, Event, GrantSequence, HoldSeconds, Ledger, Partition, Quantity, ReservationId, Rules, Sku, StockId, StockNumber,
    StockTerms, Timestamp, UserId,
};

use super::WAIT_MAX;

/// SipHash-2-4 of `book` with a key of zeros, modulo 1,024; worked out apart from the program.
pub const BOOK_PARTITION: u16 = 304;

/// Second 0 of every log here: the year 2100, so that no wall clock has a hold of it lapse. A node's time is never below its log's.
const START_MS: u64 = 4_102_444_800_000;

struct Deaf;

impl WalListener for Deaf {
    fn committed(&self, _: StreamId, _: GroupSequence) {}
    fn synced(&self, _: &SyncReport) {}
    fn disk_low(&self, _: bool) {}
    fn failed(&self, _: &WalError) {}
}

/// Makes a directory of `shards` shards whose log of shard `shard` holds `groups`: events, each with its second.
pub fn write(path: &Path, shards: u16, shard: u16, groups: &[Vec<(u64, Event)>]) {
    write_since(START_MS, None, path, shards, shard, groups);
}

/// The same with another second 0; what events themselves say of times stays as it is. Where a segment takes so many bytes that what is
/// written fills more than one, groups without events follow until the log has left its first.
pub fn write_since(
    start_ms: u64,
    segment_bytes_max: Option<u64>,
    path: &Path,
    shards: u16,
    shard: u16,
    groups: &[Vec<(u64, Event)>],
) {
    let at = |second: u64| Timestamp::from_unix_ms(start_ms + second * 1_000);
    let identity = IdentityExpectation { shards: Some(shards), ..IdentityExpectation::default() };
    let mut options = DirectoryOptions { identity, idempotency_seconds: Some(86_400), ..DirectoryOptions::new(at(0)) };
    options.segment_bytes_max = segment_bytes_max.unwrap_or(options.segment_bytes_max);
    let directory = DataDirectory::open(path, &options).expect("a new directory can be made");
    let stream = StreamId::log(shard);
    let tail = directory.replay(stream, |_| Ok(())).expect("a new log is empty");
    let wal = Wal::start(directory, [tail], WalOptions::default(), Arc::new(Deaf)).expect("a log can be started");
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 1_000_000,
        retention_seconds: 604_800,
        reservations_in_memory_max: 10_000_000,
        users_in_memory_max: 10_000_000,
    };
    // A log that breaks its promises has images up to there only; whoever reads it stops at the event.
    let mut ledger = Some(Ledger::new(rules, 1));
    let mut image = Vec::new();
    let mut newest = 0;
    let mut written = GroupSequence(0);
    for (sequence, events) in (1..).map(GroupSequence).zip(groups) {
        let mut builder = GroupBuilder::new(sequence, at(events.first().map_or(newest, |(second, _)| *second)));
        newest = events.last().map_or(newest, |(second, _)| *second);
        for (second, event) in events {
            ledger = ledger.take().and_then(|mut ledger| {
                let applied = catch_unwind(AssertUnwindSafe(|| {
                    drop(ledger.apply(event, at(*second)));
                    write_image(&mut image, &ledger.image(event));
                }));
                applied.is_ok().then_some(ledger)
            });
            builder.push(event, &Actor::Clock, at(*second), &image);
        }
        wal.writer().append(stream, builder.finish());
        written = sequence;
    }
    let began = Instant::now();
    let is_in_one = || wal.reader().segments().expect("the log runs").iter().filter(|segment| !segment.last.is_empty()).count() < 2;
    while segment_bytes_max.is_some() && is_in_one() {
        assert!(began.elapsed() < WAIT_MAX, "the log is still in one segment");
        written = written.next();
        wal.writer().append(stream, GroupBuilder::new(written, at(newest)).finish());
        wal.writer().sync().expect("the log runs");
    }
    wal.stop().expect("a log can be stopped");
}

/// The moment `second` seconds after the start.
pub fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(START_MS + second * 1_000)
}

/// The first stock of `partition`.
pub fn stock(partition: u16) -> StockId {
    StockId { partition: Partition(partition), number: StockNumber(1) }
}

/// `book` is opened in `partition` with `units`, a limit of one per user, and a hold of 600 s.
pub fn created(partition: u16, units: u64) -> Event {
    let hold = HoldSeconds::new(600).expect("within bounds");
    let terms = StockTerms {
        per_user_limit: Some(Quantity::ONE),
        hold_seconds: hold,
        hold_seconds_max: hold,
        opens_at: None,
        closes_at: None,
    };
    let (sku, quantity) = (Sku::new("book").expect("an identifier"), Allotment::new(units).expect("within bounds"));
    Event::StockCreated { stock: stock(partition), sku, quantity, terms }
}

/// The `sequence`-th grant of `book`, in `second`.
pub fn reserved(sequence: u64, user: &str, quantity: u64, second: u64) -> Event {
    reserved_until(sequence, user, quantity, at(second + 600))
}

/// The `sequence`-th grant of `book`, held until `expires_at`.
pub fn reserved_until(sequence: u64, user: &str, quantity: u64, expires_at: Timestamp) -> Event {
    Event::Reserved {
        stock: stock(BOOK_PARTITION),
        sequence: GrantSequence(sequence),
        user: UserId::new(user).expect("an identifier"),
        quantity: Quantity::new(quantity).expect("within bounds"),
        expires_at,
        reference: None,
        idempotency: None,
    }
}

/// `quantity` units of the `sequence`-th grant of `book` are paid.
pub fn confirmed(sequence: u64, quantity: u64) -> Event {
    Event::Confirmed {
        reservation: ReservationId { stock: stock(BOOK_PARTITION), sequence: GrantSequence(sequence) },
        quantity: Quantity::new(quantity).expect("within bounds"),
        idempotency: None,
    }
}
