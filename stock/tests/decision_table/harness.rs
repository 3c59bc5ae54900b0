//! How the rows of the decision table are written and checked: steps in, one line of text or a rejection out.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use tidegate_stock::{
    Allotment, Command, Decision, Delta, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Ledger, LifeStep,
    NeedsRecord, Partition, Quantity, Reason, Recall, Reference, Rejection, Request, ReservationId, ReservationRecord,
    ReservationState, Revision, Rules, Sku, StockId, StockNumber, StockTerms, Subject, TermsPatch, Timestamp, UserId, decide,
    decide_lapse,
};

/// Keys are remembered for 100 s in every row, resolved reservations kept for 1,000 s.
pub(crate) const RULES: Rules = Rules {
    idempotency_seconds: 100,
    idempotency_keys_max: 1_000,
    retention_seconds: 1_000,
    reservations_in_memory_max: 100_000,
    users_in_memory_max: 100_000,
};

/// A ledger, and the history of what has left its memory.
pub(crate) struct World {
    ledger: Ledger,
    pub(crate) history: BTreeMap<ReservationId, ReservationRecord>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(RULES)
    }

    pub(crate) fn with(rules: Rules) -> Self {
        Self { ledger: Ledger::new(rules, 1), history: BTreeMap::new() }
    }

    /// Everything resolved leaves memory. Everything is committed at once here.
    pub(crate) fn evict(&mut self) {
        let leaving = self.ledger.take_leaving(Timestamp::from_unix_ms(u64::MAX), usize::MAX);
        for record in leaving {
            self.ledger.has_left(record.id);
            assert_eq!(self.ledger.reservation(record.id), None, "it has left memory");
            self.history.insert(record.id, record);
        }
        assert_eq!(self.ledger.resolved_count(), 0, "nothing resolved stays");
    }

    /// Decides, with what the history knows where that is needed.
    pub(crate) fn decide(&self, request: &Request, now: Timestamp) -> Decision {
        let NeedsRecord(id) = match decide(&self.ledger, request, now, Recall::NotTried) {
            Ok(decision) => return decision,
            Err(needed) => needed,
        };
        let recall = self.history.get(&id).map_or(Recall::Missing(id), Recall::Found);
        decide(&self.ledger, request, now, recall).expect("it has what it needs")
    }
}

impl Deref for World {
    type Target = Ledger;
    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

/// What happens at one moment: a request, or the clock takes what is due.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) at: u64,
    command: Option<Command>,
    key: Option<&'static str>,
}

pub(crate) fn stock(sku: &str, units: u64) -> Step {
    let terms = StockTerms {
        per_user_limit: None,
        hold_seconds: seconds(10),
        hold_seconds_max: seconds(20),
        opens_at: None,
        closes_at: None,
    };
    step(Command::CreateStock {
        partition: partition(sku),
        sku: Sku::new(sku).expect("a sku"),
        quantity: Allotment::new(units).expect("an allotment"),
        terms,
    })
}

pub(crate) fn reserve(sku: &str, user: &str, units: u64) -> Step {
    step(Command::Reserve {
        sku: Sku::new(sku).expect("a sku"),
        user: UserId::new(user).expect("a user"),
        quantity: quantity(units),
        hold_seconds: None,
        reference: None,
    })
}

pub(crate) fn confirm(sku: &str, sequence: u64) -> Step {
    step(Command::Confirm { reservation: grant(sku, sequence), quantity: None })
}

pub(crate) fn release(sku: &str, sequence: u64) -> Step {
    step(Command::Release { reservation: grant(sku, sequence), quantity: None })
}

pub(crate) fn give_back(sku: &str, sequence: u64) -> Step {
    step(Command::Return { reservation: grant(sku, sequence), quantity: None })
}

pub(crate) fn extend(sku: &str, sequence: u64, hold: u64) -> Step {
    step(Command::Extend { reservation: grant(sku, sequence), hold_seconds: seconds(hold) })
}

pub(crate) fn change(sku: &str, patch: TermsPatch) -> Step {
    step(Command::ChangeStock { sku: Sku::new(sku).expect("a sku"), patch, if_revision: None })
}

pub(crate) fn adjust(sku: &str, units: i64) -> Step {
    let (sku, reason) = (Sku::new(sku).expect("a sku"), Reason::new("counted anew").expect("a reason"));
    step(Command::AdjustStock { sku, delta: Delta::new(units).expect("a delta"), reason })
}

pub(crate) fn life(sku: &str, step_of_life: LifeStep) -> Step {
    step(Command::StepStock { sku: Sku::new(sku).expect("a sku"), step: step_of_life })
}

pub(crate) fn pause(sku: &str) -> Step {
    life(sku, LifeStep::Pause)
}

pub(crate) fn reopen(sku: &str) -> Step {
    life(sku, LifeStep::Reopen)
}

pub(crate) fn close(sku: &str) -> Step {
    life(sku, LifeStep::Close)
}

pub(crate) fn archive(sku: &str) -> Step {
    life(sku, LifeStep::Archive)
}

pub(crate) fn read(sku: &str, sequence: u64) -> Step {
    step(Command::ReadReservation { reservation: grant(sku, sequence) })
}

pub(crate) fn clock() -> Step {
    Step { at: 0, command: None, key: None }
}

pub(crate) fn step(command: Command) -> Step {
    Step { at: 0, command: Some(command), key: None }
}

impl Step {
    pub(crate) fn at(mut self, at: u64) -> Self {
        self.at = at;
        self
    }

    pub(crate) fn key(mut self, key: &'static str) -> Self {
        self.key = Some(key);
        self
    }

    /// How many units of a reservation, instead of all.
    pub(crate) fn units(mut self, units: u64) -> Self {
        match &mut self.command {
            Some(
                Command::Confirm { quantity: wanted, .. }
                | Command::Release { quantity: wanted, .. }
                | Command::Return { quantity: wanted, .. },
            ) => *wanted = Some(quantity(units)),
            other => panic!("{other:?} takes no part of a reservation"),
        }
        self
    }

    /// How long a reservation is to live.
    pub(crate) fn hold(mut self, wanted: u64) -> Self {
        match &mut self.command {
            Some(Command::Reserve { hold_seconds, .. }) => *hold_seconds = Some(seconds(wanted)),
            other => panic!("{other:?} asks for no hold"),
        }
        self
    }

    /// Only if the stock's revision is one of these.
    pub(crate) fn only_if(mut self, revisions: &[u64]) -> Self {
        match &mut self.command {
            Some(Command::ChangeStock { if_revision, .. }) => {
                *if_revision = Some(revisions.iter().copied().map(Revision).collect());
            }
            other => panic!("{other:?} has no condition"),
        }
        self
    }

    pub(crate) fn label(mut self, label: &str) -> Self {
        match &mut self.command {
            Some(Command::Reserve { reference, .. }) => *reference = Some(Reference::new(label).expect("a reference")),
            other => panic!("{other:?} has no reference"),
        }
        self
    }

    pub(crate) fn terms(&mut self) -> &mut StockTerms {
        match &mut self.command {
            Some(Command::CreateStock { terms, .. }) => terms,
            other => panic!("{other:?} has no terms"),
        }
    }

    pub(crate) fn limit(mut self, units: u64) -> Self {
        self.terms().per_user_limit = Some(quantity(units));
        self
    }

    pub(crate) fn holds(mut self, own: u64, max: u64) -> Self {
        (self.terms().hold_seconds, self.terms().hold_seconds_max) = (seconds(own), seconds(max));
        self
    }

    pub(crate) fn opens(mut self, at: u64) -> Self {
        self.terms().opens_at = Some(Timestamp::from_unix_ms(at));
        self
    }

    pub(crate) fn closes(mut self, at: u64) -> Self {
        self.terms().closes_at = Some(Timestamp::from_unix_ms(at));
        self
    }

    pub(crate) fn request(&self) -> Option<Request> {
        let command = self.command.clone()?;
        let idempotency = self.key.map(|key| Idempotency { key: fingerprint(key), request: fingerprint(&format!("{command:?}")) });
        Some(Request { command, idempotency })
    }
}

pub(crate) fn seconds(seconds: u64) -> HoldSeconds {
    HoldSeconds::new(seconds).expect("a hold")
}

pub(crate) fn quantity(units: u64) -> Quantity {
    Quantity::new(units).expect("a quantity")
}

pub(crate) fn partition(sku: &str) -> Partition {
    Partition(if sku == "tea" { 1 } else { 2 })
}

pub(crate) fn grant(sku: &str, sequence: u64) -> ReservationId {
    let stock = StockId { partition: partition(sku), number: StockNumber(1) };
    ReservationId { stock, sequence: GrantSequence(sequence) }
}

pub(crate) fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint(text.bytes().fold(0, |sum: u128, byte| sum.wrapping_mul(1_000_003) ^ u128::from(byte)))
}

/// What a row expects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Shows(String),
    Says(Rejection),
    /// The same, and the reservation lapsed on the way.
    LapsesAndSays(Rejection),
}

impl From<&str> for Expect {
    fn from(text: &str) -> Self {
        Self::Shows(text.to_owned())
    }
}

impl From<Rejection> for Expect {
    fn from(rejection: Rejection) -> Self {
        Self::Says(rejection)
    }
}

/// Checks a row twice: with everything in memory, and with everything resolved out of it before every step.
pub(crate) fn check(sentence: &str, given: &[Step], then: &Step, expect: impl Into<Expect>) {
    let expect = expect.into();
    for leaves in [false, true] {
        let mut world = World::new();
        for step in given {
            let found = take(&mut world, step);
            assert!(matches!(found, Expect::Shows(_)), "what is given for {sentence:?} cannot be: {found:?}");
            if leaves {
                world.evict();
            }
        }
        assert_eq!(take(&mut world, then), expect, "{sentence}; resolved ones out of memory: {leaves}");
    }
}

pub(crate) fn take(world: &mut World, step: &Step) -> Expect {
    let now = Timestamp::from_unix_ms(step.at);
    let Some(request) = step.request() else {
        let mut lapsed = 0;
        while let Some(event) = decide_lapse(world, now) {
            drop(world.apply(&event, now));
            lapsed += 1;
        }
        return Expect::Shows(format!("{lapsed} lapses"));
    };
    let decision = world.decide(&request, now);
    let events = || decision.before.iter().chain(&decision.event);
    let is_lapse = events().any(|event| matches!(event, Event::Expired { .. }));
    for event in events() {
        drop(world.apply(event, now));
    }
    match decision.outcome {
        Ok(accepted) => {
            let lapsed = if is_lapse { "lapsed, " } else { "" };
            let again = if accepted.replayed { " again" } else { "" };
            let shown = match accepted.subject {
                Subject::Stock(id) => {
                    let verb = match (accepted.created, decision.event.is_some()) {
                        (true, _) => "created",
                        (false, true) => "changed",
                        (false, false) => "found",
                    };
                    format!("{verb} {}", show_stock(world, id, again))
                }
                Subject::Reservation(id) => {
                    let verb = if accepted.created { "granted " } else { "" };
                    format!("{verb}{}", show_reservation(world, id, again))
                }
            };
            Expect::Shows(format!("{lapsed}{shown}"))
        }
        Err(rejection) if is_lapse => Expect::LapsesAndSays(rejection),
        Err(rejection) => {
            assert_eq!(decision.event, None, "a rejected request changed something");
            Expect::Says(rejection)
        }
    }
}

fn show_stock(world: &World, id: StockId, again: &str) -> String {
    let stock = world.stock(id).expect("an accepted request names a stock that is there");
    let lives = [(stock.life.is_paused, " paused"), (stock.life.is_closed, " closed"), (stock.life.is_archived, " archived")];
    let life: String = lives.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect();
    assert_eq!(stock.available + stock.reserved + stock.sold, stock.allotted);
    format!("{}{again}{life} | {} {} {}", stock.sku, stock.available, stock.reserved, stock.sold)
}

fn show_reservation(world: &World, id: ReservationId, again: &str) -> String {
    let stock = world.stock(id.stock).expect("a reservation has a stock");
    let from_history = || world.history.get(&id).map(|record| record.view(&stock.sku));
    let one = world.reservation(id).or_else(from_history).expect("an accepted request names a reservation that is there");
    assert_eq!(one.reserved + one.confirmed + one.released + one.returned, one.quantity.units());
    let state = match one.state {
        ReservationState::Reserved => "reserved",
        ReservationState::Confirmed => "confirmed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
        ReservationState::Returned => "returned",
    };
    let returned = if one.returned > 0 { format!(" {}", one.returned) } else { String::new() };
    let counts = format!("{} {} {}{returned} {state}", one.reserved, one.confirmed, one.released);
    format!("{}#{}{again} | {counts} | {} {} {}", one.sku, id.sequence.0, stock.available, stock.reserved, stock.sold)
}
