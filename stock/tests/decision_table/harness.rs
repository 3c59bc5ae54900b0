//! How the rows of the decision table are written and checked: steps in, one line of text or a rejection out.

use tidegate_stock::{
    Allotment, Command, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Ledger, Partition, Quantity, Reference,
    Rejection, Request, ReservationId, ReservationState, Rules, Sku, StockId, StockNumber, StockTerms, Subject, Timestamp, UserId,
    decide, decide_lapse,
};

/// Keys are remembered for 100 s in every row.
pub(crate) const RULES: Rules = Rules { idempotency_seconds: 100, idempotency_keys_max: 1_000 };

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
            Some(Command::Confirm { quantity: wanted, .. } | Command::Release { quantity: wanted, .. }) => {
                *wanted = Some(quantity(units));
            }
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

pub(crate) fn check(sentence: &str, given: &[Step], then: &Step, expect: impl Into<Expect>) {
    let mut ledger = Ledger::new(RULES, 1);
    for step in given {
        let found = take(&mut ledger, step);
        assert!(matches!(found, Expect::Shows(_)), "what is given for {sentence:?} cannot be: {found:?}");
    }
    assert_eq!(take(&mut ledger, then), expect.into(), "{sentence}");
}

pub(crate) fn take(ledger: &mut Ledger, step: &Step) -> Expect {
    let now = Timestamp::from_unix_ms(step.at);
    let Some(request) = step.request() else {
        let mut lapsed = 0;
        while let Some(event) = decide_lapse(ledger, now) {
            drop(ledger.apply(&event, now));
            lapsed += 1;
        }
        return Expect::Shows(format!("{lapsed} lapses"));
    };
    let decision = decide(ledger, &request, now);
    let is_lapse = matches!(decision.event, Some(Event::Expired { .. }));
    if let Some(event) = &decision.event {
        drop(ledger.apply(event, now));
    }
    match decision.outcome {
        Ok(accepted) => {
            let lapsed = if is_lapse { "lapsed, " } else { "" };
            let shown = match accepted.subject {
                Subject::Stock(id) => show_stock(ledger, id, accepted.created),
                Subject::Reservation(id) => show_reservation(ledger, id, accepted.created, accepted.replayed),
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

pub(crate) fn show_stock(ledger: &Ledger, id: StockId, created: bool) -> String {
    let stock = ledger.stock(id).expect("an accepted request names a stock that is there");
    let verb = if created { "created" } else { "found" };
    format!("{verb} {} | {} {} {}", stock.sku, stock.available, stock.reserved, stock.sold)
}

pub(crate) fn show_reservation(ledger: &Ledger, id: ReservationId, created: bool, replayed: bool) -> String {
    let one = ledger.reservation(id).expect("an accepted request names a reservation that is there");
    let stock = ledger.stock(id.stock).expect("a reservation has a stock");
    let verb = if created { "granted " } else { "" };
    let again = if replayed { " again" } else { "" };
    let state = match one.state {
        ReservationState::Reserved => "reserved",
        ReservationState::Confirmed => "confirmed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
    };
    let counts = format!("{} {} {}", one.reserved, one.confirmed, one.released);
    format!("{verb}{}#{}{again} | {counts} {state} | {} {} {}", one.sku, id.sequence.0, stock.available, stock.reserved, stock.sold)
}
