//! Apply, then undo: the ledger is what it was, through everything it shows and decides.
//!
//! Seeded random runs; `TIDEGATE_INVERSES_SEED` runs one seed instead of several. A failure names its seed and step.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tidegate_stock::{
    Allotment, Command, Decision, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Inverse, Ledger, Partition,
    Quantity, Rejection, Request, ReservationId, ReservationView, Rules, Sku, StockId, StockNumber, StockTerms, StockView,
    Timestamp, UserId, decide, decide_lapse,
};

const RULES: Rules = Rules { idempotency_seconds: 4, idempotency_keys_max: 1_000 };
const SEEDS_DEFAULT: std::ops::RangeInclusive<u64> = 1..=40;
const STEPS: u64 = 300;
/// Events whose inverses are kept; older ones count as committed.
const UNCOMMITTED_MAX: usize = 24;

const SKUS: [&str; 4] = ["tea", "cup", "pot", "tray"];
const USERS: [&str; 4] = ["ann", "bob", "cy", "dee"];
const KEYS: u64 = 6;

/// Everything that a ledger shows, and what it would decide about every key at some moments.
#[derive(Debug, PartialEq)]
struct Shown {
    stocks: Vec<StockView>,
    reservations: Vec<ReservationView>,
    user_units: Vec<u64>,
    next_lapse: Option<Timestamp>,
    open_holds: u64,
    last_applied: Timestamp,
    reservation_count: usize,
    decisions: Vec<Decision>,
    lapses: Vec<ReservationId>,
}

/// An event that may still be taken back, with what the ledger showed before it.
struct Uncommitted {
    event: Event,
    at: Timestamp,
    inverse: Inverse,
    before: Shown,
    /// The moment for which `before` was written down.
    shown_at: Timestamp,
}

struct Run {
    ledger: Ledger,
    now: u64,
    uncommitted: VecDeque<Uncommitted>,
    /// Everything that stands, committed or not, but for what was taken back.
    committed: Vec<(Event, Timestamp)>,
    undone: u64,
    kinds_undone: [u64; 5],
}

#[test]
fn undoing_the_newest_events_gives_the_ledger_that_was_before_them() {
    let seeds: Vec<u64> = match std::env::var("TIDEGATE_INVERSES_SEED") {
        Ok(seed) => vec![seed.parse().expect("TIDEGATE_INVERSES_SEED is a number")],
        Err(_) => SEEDS_DEFAULT.collect(),
    };
    let mut kinds_undone = [0; 5];
    for seed in &seeds {
        let mut rng = StdRng::seed_from_u64(*seed);
        let mut place = Place { seed: *seed, step: 0 };
        let mut run = Run {
            ledger: Ledger::new(RULES, rng.random()),
            now: 1_000_000,
            uncommitted: VecDeque::new(),
            committed: Vec::new(),
            undone: 0,
            kinds_undone: [0; 5],
        };
        for step in 0..STEPS {
            place.step = step;
            run.step(&mut rng);
        }
        run.compare_with_a_ledger_of_what_stands();
        assert!(run.undone > 0, "nothing was undone");
        for (sum, count) in kinds_undone.iter_mut().zip(run.kinds_undone) {
            *sum += count;
        }
    }
    println!("seeds {seeds:?}; created, reserved, confirmed, released and expired undone: {kinds_undone:?}");
    assert!(kinds_undone.iter().all(|count| *count > 0), "some kind of event was never undone: {kinds_undone:?}");
}

/// Says where a failure happened, whichever assertion it was.
struct Place {
    seed: u64,
    step: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with TIDEGATE_INVERSES_SEED={} at step {}", self.seed, self.step);
        }
    }
}

impl Run {
    fn step(&mut self, rng: &mut StdRng) {
        self.now += match rng.random_range(0..20) {
            0..8 => 0,
            8..18 => rng.random_range(0..200),
            _ => rng.random_range(0..5_000),
        };
        let now = Timestamp::from_unix_ms(self.now);
        if let Some(event) = decide_lapse(&self.ledger, now).filter(|_| rng.random_bool(0.5)) {
            self.apply(event);
        }
        if let Some(event) = decide(&self.ledger, &any_request(&self.ledger, rng), now).event {
            self.apply(event);
        }
        while self.uncommitted.len() > UNCOMMITTED_MAX {
            self.commit_oldest();
        }
        if rng.random_bool(0.1)
            && let Some((_, committed)) = self.committed.last()
        {
            self.ledger.forget_keys(*committed, rng.random_range(0..20));
        }
        if rng.random_bool(0.08) {
            let count = rng.random_range(0..=self.uncommitted.len());
            self.undo(count);
        }
    }

    fn apply(&mut self, event: Event) {
        let at = Timestamp::from_unix_ms(self.now);
        let before = show(&self.ledger, at);
        let inverse = self.ledger.apply(&event, at);
        self.uncommitted.push_back(Uncommitted { event, at, inverse, before, shown_at: at });
    }

    fn commit_oldest(&mut self) {
        let Uncommitted { event, at, inverse, .. } = self.uncommitted.pop_front().expect("something is uncommitted");
        drop(inverse);
        self.committed.push((event, at));
    }

    fn undo(&mut self, count: usize) {
        for _ in 0..count {
            let Uncommitted { event, at: _, inverse, before, shown_at } =
                self.uncommitted.pop_back().expect("that many are uncommitted");
            self.ledger.undo(inverse);
            assert_eq!(show(&self.ledger, shown_at), before, "after {event:?} was taken back");
            self.undone += 1;
            self.kinds_undone[match event {
                Event::StockCreated { .. } => 0,
                Event::Reserved { .. } => 1,
                Event::Confirmed { .. } => 2,
                Event::Released { .. } => 3,
                Event::Expired { .. } => 4,
            }] += 1;
        }
        // The next batch may be stamped with any time that is not before what stands.
        self.now = self.now.min(self.ledger.last_applied().unix_ms() + 300).max(1_000_000);
    }

    /// What was applied and taken back leaves no trace: a ledger that never met it is the same.
    fn compare_with_a_ledger_of_what_stands(&mut self) {
        while !self.uncommitted.is_empty() {
            self.commit_oldest();
        }
        let mut other = Ledger::new(RULES, 77);
        for (event, at) in &self.committed {
            drop(other.apply(event, *at));
        }
        let last = self.ledger.last_applied();
        assert_eq!(show(&self.ledger, last), show(&other, last));
        self.ledger.forget_keys(last, usize::MAX);
        other.forget_keys(last, usize::MAX);
        assert_eq!(self.ledger.key_count(), other.key_count(), "keys in memory");
    }
}

fn show(ledger: &Ledger, now: Timestamp) -> Shown {
    let stocks: Vec<StockView> = ledger.stocks().collect();
    let users = USERS.map(|user| UserId::new(user).expect("a user"));
    let user_units = stocks.iter().flat_map(|stock| users.iter().map(|user| ledger.user_units(stock.id, user))).collect();
    let mut decisions = Vec::new();
    for later in [0, 1_000, 2_500, 4_000] {
        let at = Timestamp::from_unix_ms(now.unix_ms() + later);
        for sku in SKUS {
            // Every key with every value that it may have been used for.
            for key in 0..KEYS {
                decisions.extend((1..=2).map(|units| decide(ledger, &reserve(sku, "ann", units, Some(key)), at)));
            }
            let newest = GrantSequence(ledger.reservations().filter(|one| one.sku.as_str() == sku).count() as u64);
            for id in ledger.reservations().map(|one| one.id).filter(|id| id.sequence == newest) {
                let confirm = Command::Confirm { reservation: id, quantity: None };
                decisions.push(decide(ledger, &with_key(confirm, Some(0)), at));
            }
        }
    }
    let mut lapses = match decide_lapse(ledger, Timestamp::from_unix_ms(now.unix_ms() + 3_000)) {
        Some(Event::Expired { reservations }) => reservations,
        Some(other) => panic!("the clock decided {other:?}"),
        None => Vec::new(),
    };
    // The order within one lapse is nobody's promise.
    lapses.sort_unstable();
    Shown {
        reservations: ledger.reservations().collect(),
        stocks,
        user_units,
        next_lapse: ledger.next_lapse(),
        open_holds: ledger.open_holds(),
        last_applied: ledger.last_applied(),
        reservation_count: ledger.reservation_count(),
        decisions,
        lapses,
    }
}

fn any_request(ledger: &Ledger, rng: &mut StdRng) -> Request {
    let key = rng.random_bool(0.5).then(|| rng.random_range(0..KEYS));
    let ids: Vec<ReservationId> = ledger.reservations().map(|one| one.id).collect();
    let recent = &ids[ids.len().saturating_sub(12)..];
    let quantity = rng.random_bool(0.5).then_some(Quantity::ONE);
    match (rng.random_range(0..20), recent.choose(rng)) {
        (0..2, _) => create(SKUS.choose(rng).expect("there are skus")),
        (2..6, Some(id)) => with_key(Command::Confirm { reservation: *id, quantity }, key),
        (6..10, Some(id)) => with_key(Command::Release { reservation: *id, quantity }, key),
        (10, Some(id)) => with_key(Command::ReadReservation { reservation: *id }, None),
        _ => {
            let (sku, user) = (SKUS.choose(rng).expect("there are skus"), USERS.choose(rng).expect("there are users"));
            reserve(sku, user, rng.random_range(1..=2), key)
        }
    }
}

fn create(sku: &str) -> Request {
    let hold = |seconds| HoldSeconds::new(seconds).expect("a hold");
    let terms = StockTerms {
        per_user_limit: Some(Quantity::new(12).expect("a quantity")),
        hold_seconds: hold(2),
        hold_seconds_max: hold(2),
        opens_at: None,
        closes_at: None,
    };
    let command = Command::CreateStock {
        partition: Partition(if sku == "tea" { 3 } else { 4 }),
        sku: Sku::new(sku).expect("a sku"),
        quantity: Allotment::new(40).expect("an allotment"),
        terms,
    };
    with_key(command, None)
}

fn reserve(sku: &str, user: &str, units: u64, key: Option<u64>) -> Request {
    let command = Command::Reserve {
        sku: Sku::new(sku).expect("a sku"),
        user: UserId::new(user).expect("a user"),
        quantity: Quantity::new(units).expect("a quantity"),
        hold_seconds: None,
        reference: None,
    };
    with_key(command, key)
}

fn with_key(command: Command, key: Option<u64>) -> Request {
    let text = format!("{command:?}");
    let request = Fingerprint(text.bytes().fold(0, |sum: u128, byte| sum.wrapping_mul(1_000_003) ^ u128::from(byte)));
    let idempotency = key.map(|key| Idempotency { key: Fingerprint(u128::from(key)), request });
    Request { command, idempotency }
}

#[test]
fn ten_thousand_grants_and_their_lapses_are_taken_back_one_by_one() {
    let mut ledger = Ledger::new(RULES, 5);
    let (start, end) = (Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(2_099));
    let terms = StockTerms {
        per_user_limit: None,
        hold_seconds: HoldSeconds::new(2).unwrap(),
        hold_seconds_max: HoldSeconds::new(2).unwrap(),
        opens_at: None,
        closes_at: None,
    };
    let stock = StockId { partition: Partition(0), number: StockNumber(1) };
    let quantity = Allotment::new(10_000).unwrap();
    let created = Event::StockCreated { stock, sku: Sku::new("tea").unwrap(), quantity, terms };
    let mut inverses = vec![ledger.apply(&created, start)];
    for sequence in 1..=10_000 {
        let event = Event::Reserved {
            stock,
            sequence: GrantSequence(sequence),
            user: UserId::new(&format!("user-{}", sequence % 7_000)).unwrap(),
            quantity: Quantity::ONE,
            expires_at: Timestamp::from_unix_ms(2_000),
            reference: None,
            idempotency: Some(Idempotency { key: Fingerprint(u128::from(sequence)), request: Fingerprint(0) }),
        };
        inverses.push(ledger.apply(&event, start));
    }
    while let Some(event) = decide_lapse(&ledger, end) {
        inverses.push(ledger.apply(&event, end));
    }
    assert_eq!(inverses.len(), 1 + 10_000 + 10);
    assert_eq!((ledger.open_holds(), ledger.stock(stock).unwrap().available), (0, 10_000));

    for _ in 0..10 {
        ledger.undo(inverses.pop().unwrap());
    }
    assert_eq!((ledger.open_holds(), ledger.stock(stock).unwrap().available), (10_000, 0));
    assert_eq!(ledger.next_lapse(), Some(Timestamp::from_unix_ms(2_099)));
    for left in (0..10_000).rev() {
        ledger.undo(inverses.pop().unwrap());
        let stock = ledger.stock(stock).unwrap();
        assert_eq!((ledger.open_holds(), stock.reserved, stock.available), (left, left, 10_000 - left));
    }
    assert_eq!((ledger.key_count(), ledger.reservation_count(), ledger.next_lapse()), (0, 0, None));
    ledger.undo(inverses.pop().unwrap());
    assert_eq!((ledger.stocks().count(), ledger.last_applied()), (0, start));
}

#[test]
fn an_undone_use_of_a_key_that_was_forgotten_before_leaves_no_key_behind() {
    let mut ledger = Ledger::new(RULES, 5);
    let at = Timestamp::from_unix_ms;
    let apply = |ledger: &mut Ledger, request: &Request, now: u64| {
        ledger.apply(&decide(ledger, request, at(now)).event.expect("the request is granted"), at(now))
    };
    drop(apply(&mut ledger, &create("tea"), 0));
    drop(apply(&mut ledger, &reserve("tea", "ann", 1, Some(1)), 0));
    drop(apply(&mut ledger, &reserve("tea", "bob", 1, None), 4_000));
    let again = apply(&mut ledger, &reserve("tea", "ann", 1, Some(1)), 4_000);
    ledger.forget_keys(at(4_000), 10);
    assert_eq!(ledger.key_count(), 1, "the newer use is remembered");
    ledger.undo(again);
    ledger.forget_keys(at(4_000), 10);
    assert_eq!(ledger.key_count(), 0);
}

#[test]
fn a_lapse_that_was_taken_back_leaves_no_trace_in_later_answers() {
    let mut ledger = Ledger::new(RULES, 5);
    let at = Timestamp::from_unix_ms;
    drop(ledger.apply(&decide(&ledger, &create("tea"), at(0)).event.unwrap(), at(0)));
    drop(ledger.apply(&decide(&ledger, &reserve("tea", "ann", 1, None), at(0)).event.unwrap(), at(0)));
    let lapse = ledger.apply(&decide_lapse(&ledger, at(2_099)).unwrap(), at(2_099));
    ledger.undo(lapse);
    let reservation = ledger.reservations().next().unwrap().id;
    let confirm = |quantity| with_key(Command::Confirm { reservation, quantity }, None);
    drop(ledger.apply(&decide(&ledger, &confirm(None), at(1_999)).event.unwrap(), at(1_999)));
    let more = decide(&ledger, &confirm(Some(Quantity::ONE)), at(1_999));
    assert_eq!(more.outcome, Err(Rejection::QuantityOverRemaining { asked: 1, remaining: 0 }));
}
