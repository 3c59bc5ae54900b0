//! Apply, then undo: the ledger is what it was, through everything it shows and decides.
//!
//! Seeded random runs; `TIDEGATE_INVERSES_SEED` runs one seed instead of several. A failure names its seed, and how many steps of it went well.

#[path = "support/seeds.rs"]
mod seeds;

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use seeds::{Place, seeds_from};
use tidegate_stock::{
    Allotment, Command, CopyProgress, Decision, Delta, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Inverse,
    Ledger, LedgerSum, LifeStep, NeedsRecord, Partition, Quantity, Reason, Recall, Rejection, Request, ReservationId,
    ReservationView, Rules, Sku, SnapshotItem, StockId, StockNumber, StockTerms, StockView, TermsPatch, Timestamp, UserId,
    decide_lapse,
};

const RULES: Rules = Rules {
    idempotency_seconds: 4,
    idempotency_keys_max: 1_000,
    retention_seconds: 1_000,
    reservations_in_memory_max: 100_000,
    users_in_memory_max: 100_000,
};
const SEED: &str = "TIDEGATE_INVERSES_SEED";
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
    sum: LedgerSum,
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
    kinds_undone: [u64; KINDS.len()],
}

/// What can be undone. What is recalled had left memory, and nothing leaves it here: the model takes that back.
const KINDS: [&str; 13] = [
    "created",
    "reserved",
    "confirmed",
    "released",
    "expired",
    "returned",
    "extended",
    "changed",
    "adjusted",
    "paused",
    "reopened",
    "closed",
    "archived",
];

/// Decides where everything is in memory.
fn decide(ledger: &Ledger, request: &Request, now: Timestamp) -> Decision {
    tidegate_stock::decide(ledger, request, now, Recall::NotTried).expect("everything is in memory")
}

#[test]
fn undoing_the_newest_events_gives_the_ledger_that_was_before_them() {
    let seeds = seeds_from(SEED, SEEDS_DEFAULT);
    let mut kinds_undone = [0; KINDS.len()];
    for seed in &seeds {
        let mut rng = StdRng::seed_from_u64(*seed);
        let mut place = Place { variable: SEED, seed: *seed, done: 0, counted: "steps" };
        let mut run = Run {
            ledger: Ledger::new(RULES, rng.random()),
            now: 1_000_000,
            uncommitted: VecDeque::new(),
            committed: Vec::new(),
            undone: 0,
            kinds_undone: [0; KINDS.len()],
        };
        for _ in 0..STEPS {
            run.step(&mut rng);
            place.done += 1;
        }
        run.compare_with_a_ledger_of_what_stands();
        assert!(run.undone > 0, "nothing was undone");
        for (sum, count) in kinds_undone.iter_mut().zip(run.kinds_undone) {
            *sum += count;
        }
    }
    println!("seeds {seeds:?}; undone: {:?}", KINDS.iter().zip(&kinds_undone).collect::<Vec<_>>());
    for (kind, count) in KINDS.iter().zip(kinds_undone).filter(|_| seeds.len() > 1) {
        assert!(count > 0, "no event that {kind} was ever undone");
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
        let decision = decide(&self.ledger, &any_request(&self.ledger, rng), now);
        for event in decision.before.into_iter().chain(decision.event) {
            self.apply(event);
        }
        while self.uncommitted.len() > UNCOMMITTED_MAX {
            self.commit_oldest();
        }
        if rng.random_bool(0.1)
            && let Some((_, committed)) = self.committed.last()
        {
            self.ledger.tidy(*committed, rng.random_range(0..20));
        }
        if rng.random_bool(0.08) {
            let count = rng.random_range(0..=self.uncommitted.len());
            self.undo(count);
        }
    }

    fn apply(&mut self, event: Event) {
        let at = Timestamp::from_unix_ms(self.now);
        let (before, sum) = (show(&self.ledger, at), self.ledger.sum());
        let inverse = self.ledger.apply(&event, at);
        self.uncommitted.push_back(Uncommitted { event, at, inverse, before, sum, shown_at: at });
    }

    fn commit_oldest(&mut self) {
        let Uncommitted { event, at, inverse, .. } = self.uncommitted.pop_front().expect("something is uncommitted");
        drop(inverse);
        self.committed.push((event, at));
    }

    fn undo(&mut self, count: usize) {
        for _ in 0..count {
            let Uncommitted { event, at: _, inverse, before, sum, shown_at } =
                self.uncommitted.pop_back().expect("that many are uncommitted");
            self.ledger.undo(inverse);
            assert_eq!(show(&self.ledger, shown_at), before, "after {event:?} was taken back");
            assert_eq!(self.ledger.sum(), sum, "the sum after {event:?} was taken back");
            self.undone += 1;
            self.kinds_undone[match event {
                Event::StockCreated { .. } => 0,
                Event::Reserved { .. } => 1,
                Event::Confirmed { .. } => 2,
                Event::Released { .. } => 3,
                Event::Expired { .. } => 4,
                Event::Returned { .. } => 5,
                Event::Extended { .. } => 6,
                Event::StockChanged { .. } => 7,
                Event::StockAdjusted { .. } => 8,
                Event::StockPaused { .. } => 9,
                Event::StockReopened { .. } => 10,
                Event::StockClosed { .. } => 11,
                Event::StockArchived { .. } => 12,
                Event::Recalled { .. } => panic!("nothing has left memory"),
                Event::Summed { .. } => panic!("nobody decides on a sum"),
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
        assert_eq!(self.ledger.sum(), other.sum());
        self.ledger.tidy(last, usize::MAX);
        other.tidy(last, usize::MAX);
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
    match (rng.random_range(0..26), recent.choose(rng)) {
        (0..2, _) => create(SKUS.choose(rng).expect("there are skus")),
        (2..6, Some(id)) => with_key(Command::Confirm { reservation: *id, quantity }, key),
        (6..10, Some(id)) => with_key(Command::Release { reservation: *id, quantity }, key),
        (10, Some(id)) => with_key(Command::ReadReservation { reservation: *id }, None),
        (11..13, Some(id)) => with_key(Command::Return { reservation: *id, quantity }, key),
        (13, Some(id)) => with_key(Command::Extend { reservation: *id, hold_seconds: HoldSeconds::new(2).expect("a hold") }, key),
        (14..16, _) => of_stock(SKUS.choose(rng).expect("there are skus"), key, rng),
        _ => {
            let (sku, user) = (SKUS.choose(rng).expect("there are skus"), USERS.choose(rng).expect("there are users"));
            reserve(sku, user, rng.random_range(1..=2), key)
        }
    }
}

fn of_stock(sku: &str, key: Option<u64>, rng: &mut StdRng) -> Request {
    let sku = Sku::new(sku).expect("a sku");
    let step = |step| with_key(Command::StepStock { sku: sku.clone(), step }, None);
    match rng.random_range(0..12) {
        0 => step(LifeStep::Pause),
        1..4 => step(LifeStep::Close),
        4..7 => step(LifeStep::Reopen),
        7..9 => step(LifeStep::Archive),
        9 => {
            let limit = rng.random_bool(0.5).then(|| Quantity::new(rng.random_range(6..=14)).expect("a quantity"));
            let patch = TermsPatch { per_user_limit: Some(limit), ..TermsPatch::default() };
            with_key(Command::ChangeStock { sku, patch, if_revision: None }, None)
        }
        _ => {
            let delta = if rng.random_bool(0.5) { 3 } else { -2 };
            let (delta, reason) = (Delta::new(delta).expect("a delta"), Reason::new("counted anew").expect("a reason"));
            with_key(Command::AdjustStock { sku, delta, reason }, key)
        }
    }
}

fn create(sku: &str) -> Request {
    let hold = |seconds| HoldSeconds::new(seconds).expect("a hold");
    let terms = StockTerms {
        per_user_limit: Some(Quantity::new(12).expect("a quantity")),
        hold_seconds: hold(2),
        hold_seconds_max: hold(4),
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
    ledger.tidy(at(4_000), 10);
    assert_eq!(ledger.key_count(), 1, "the newer use is remembered");
    ledger.undo(again);
    ledger.tidy(at(4_000), 10);
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

/// Tea, of which ann has bought one with key 1, and a cup; all of it at 0.
fn tea_of_ann() -> (Ledger, ReservationId) {
    let mut ledger = Ledger::new(RULES, 5);
    let start = Timestamp::from_unix_ms(0);
    let reservation =
        ReservationId { stock: StockId { partition: Partition(3), number: StockNumber(1) }, sequence: GrantSequence(1) };
    let confirm = with_key(Command::Confirm { reservation, quantity: None }, None);
    for request in [create("tea"), create("cup"), reserve("tea", "ann", 1, Some(1)), confirm] {
        drop(apply_at(&mut ledger, &request, start));
    }
    (ledger, reservation)
}

fn apply_at(ledger: &mut Ledger, request: &Request, at: Timestamp) -> Inverse {
    ledger.apply(&decide(ledger, request, at).event.expect("the request changes something"), at)
}

fn step_of(sku: &str, step: LifeStep) -> Request {
    with_key(Command::StepStock { sku: Sku::new(sku).expect("a sku"), step }, None)
}

#[test]
fn an_archiving_that_is_taken_back_has_forgotten_nothing() {
    let (mut ledger, reservation) = tea_of_ann();
    let at = Timestamp::from_unix_ms;
    drop(apply_at(&mut ledger, &step_of("cup", LifeStep::Close), at(10)));
    drop(apply_at(&mut ledger, &step_of("cup", LifeStep::Archive), at(10)));
    drop(apply_at(&mut ledger, &step_of("tea", LifeStep::Close), at(20)));
    let archived = apply_at(&mut ledger, &step_of("tea", LifeStep::Archive), at(20));
    // All but the last is committed: the cup's users are swept, and tea's reservation leaves memory.
    for record in ledger.take_leaving(at(20), 10) {
        ledger.has_left(record.id);
    }
    ledger.tidy(at(20), 100);
    assert_eq!((ledger.reservation_count(), ledger.user_count(), ledger.key_count()), (0, 1, 1));
    ledger.undo(archived);
    let ann = UserId::new("ann").expect("a user");
    assert_eq!(ledger.user_units(reservation.stock, &ann), 1, "what ann bought counts");
    let again = tidegate_stock::decide(&ledger, &reserve("tea", "ann", 1, Some(1)), at(20), Recall::NotTried);
    assert_eq!(again, Err(NeedsRecord(reservation)), "the key is known for what it did");
}

#[test]
fn a_user_whose_only_reservation_is_taken_back_does_not_stay() {
    let (mut ledger, bought) = tea_of_ann();
    let at = Timestamp::from_unix_ms;
    let reservation = ReservationId { sequence: GrantSequence(2), ..bought };
    drop(apply_at(&mut ledger, &reserve("tea", "bob", 1, None), at(0)));
    drop(apply_at(&mut ledger, &with_key(Command::Release { reservation, quantity: None }, None), at(0)));
    let second = apply_at(&mut ledger, &reserve("tea", "bob", 1, None), at(10));
    for record in ledger.take_leaving(at(10), 10) {
        ledger.has_left(record.id);
    }
    assert_eq!((ledger.reservation_count(), ledger.user_count()), (1, 2), "bob's second one is in memory, and so is what ann has");
    ledger.undo(second);
    assert_eq!((ledger.reservation_count(), ledger.user_count()), (0, 1));
}

#[test]
fn a_copy_holds_what_an_archiving_after_its_moment_forgets() {
    let (mut ledger, _) = tea_of_ann();
    let at = Timestamp::from_unix_ms;
    ledger.begin_copy();
    drop(apply_at(&mut ledger, &step_of("tea", LifeStep::Close), at(10)));
    drop(apply_at(&mut ledger, &step_of("tea", LifeStep::Archive), at(10)));
    let mut items = Vec::new();
    assert_eq!(ledger.copy_slice(1_000, |item| items.push(item)), CopyProgress::Done, "it is small");
    let units: Vec<_> =
        items.iter().filter_map(|item| if let SnapshotItem::User(user) = item { Some(user.units) } else { None }).collect();
    let keys = items.iter().filter(|item| matches!(item, SnapshotItem::Key(_))).count();
    assert_eq!((units, keys), (vec![1], 1), "the archiving may yet be lost");
}
