//! One ledger and its naive twin side by side: each step asks both the same and compares what they say and show.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use tidegate_stock::{
    Accepted, Auditor, Event, GrantSequence, Ledger, Partition, Reference as Label, Request, ReservationId, ReservationState,
    ReservationView, Rules, Sku, StockId, StockNumber, StockState, Subject, Timestamp, UserId, decide, decide_lapse,
};

use crate::Seen;
use crate::pick::{SKUS, USERS};
use crate::reference::{Answer, Ask, Grant, Reference, Reservation};
use crate::translate::{grant_of, name_of, partition, request_of, terms};

/// A ledger and its naive twin, with what is needed to talk to both.
pub(crate) struct World<'a> {
    rules: Rules,
    ledger: Ledger,
    pub(crate) reference: Reference,
    auditor: Auditor,
    log: Vec<(Event, Timestamp)>,
    pub(crate) now: u64,
    /// Skus by the order of creation, which is what a stock's number follows.
    pub(crate) created: Vec<String>,
    pub(crate) asked: Vec<(Ask, Option<String>)>,
    fingerprints: BTreeMap<String, u128>,
    seen: &'a mut Seen,
}

impl<'a> World<'a> {
    pub(crate) fn new(rng: &mut StdRng, tally: &'a mut Seen) -> Self {
        let idempotency_seconds = rng.random_range(3..=40);
        let rules = Rules { idempotency_seconds, idempotency_keys_max: 1_000_000 };
        Self {
            rules,
            ledger: Ledger::new(rules, rng.random()),
            reference: Reference::new(u64::from(idempotency_seconds)),
            auditor: Auditor::new(idempotency_seconds, rng.random()),
            log: Vec::new(),
            now: 1_700_000_000_000 + rng.random_range(0..1_000),
            created: Vec::new(),
            asked: Vec::new(),
            fingerprints: BTreeMap::new(),
            seen: tally,
        }
    }

    pub(crate) fn step(&mut self, rng: &mut StdRng) {
        self.now = self.later(rng);
        // The owner's loop takes what is due between two batches: before a command that came later, or after one that came first.
        if rng.random_bool(0.6) {
            self.run_clock();
        }
        let (ask, key) = self.pick(rng);
        self.ask(&ask, key.as_deref());
        self.asked.push((ask, key));
        if rng.random_bool(0.5) {
            self.run_clock();
        }
        if rng.random_bool(0.02) {
            self.forget(rng);
        }
    }

    fn ask(&mut self, ask: &Ask, key: Option<&str>) {
        let now = Timestamp::from_unix_ms(self.now);
        let request = self.request(ask, key);
        let held_before = grant_of(ask).and_then(|grant| self.reference.reservation(grant)).map_or(0, Reservation::held);
        let (answer, lapsed) = self.reference.ask(ask, key, self.now);
        if let (Answer::Stock { sku, created: true }, Ask::Create { .. }) = (&answer, ask) {
            self.created.push(sku.clone());
        }

        let decision = decide(&self.ledger, &request, now);
        assert_eq!(decide(&self.ledger, &request, now), decision, "a decision depends on something else than its arguments");
        let context = || format!("{ask:?} with key {key:?} at {}", self.now);
        match &decision.event {
            Some(Event::Expired { reservations }) => {
                let expected: Vec<_> = lapsed.iter().map(|grant| self.id(grant)).collect();
                assert_eq!(*reservations, expected, "lapse by {}", context());
            }
            _ => assert_eq!(lapsed, None, "lapse by {}", context()),
        }
        let found = match decision.outcome {
            Ok(accepted) => self.answer(accepted),
            Err(rejection) => {
                let (name, no) = name_of(rejection);
                self.seen.count(name);
                Answer::No(no)
            }
        };
        assert_eq!(found, answer, "answer to {}", context());
        self.count_answer(ask, key, &answer, held_before);

        if let Some(event) = decision.event {
            self.seen.count(match &event {
                Event::StockCreated { .. } => "event stock created",
                Event::Reserved { .. } => "event reserved",
                Event::Confirmed { .. } => "event confirmed",
                Event::Released { .. } => "event released",
                Event::Expired { .. } => "event expired by a command",
            });
            self.apply(event);
        }
        self.compare_touched(ask, &answer);
    }

    fn count_answer(&mut self, ask: &Ask, key: Option<&str>, answer: &Answer, held_before: u64) {
        match (ask, answer) {
            (_, Answer::Stock { created: false, .. }) => self.seen.count("stock again"),
            (_, Answer::Reservation { grant, replayed: true, .. }) => {
                self.seen.count(match ask {
                    Ask::Reserve { .. } => "replayed reserve",
                    Ask::Confirm { .. } => "replayed confirm",
                    _ => "replayed release",
                });
                if self.reference.reservation(grant).is_some_and(|one| one.expires_at <= self.now) {
                    self.seen.count("replayed after the hold ended");
                }
                if matches!(ask, Ask::Reserve { .. }) && self.reference.stock_state(&grant.sku, self.now) != "open" {
                    self.seen.count("replayed while nothing is granted any more");
                }
            }
            (Ask::Confirm { .. }, Answer::Reservation { .. }) if held_before == 0 && key.is_none() => {
                self.seen.count("confirmed again without a key");
            }
            (Ask::Release { .. }, Answer::Reservation { .. }) if held_before == 0 && key.is_none() => {
                self.seen.count("released again without a key");
            }
            _ => {}
        }
    }

    /// Lapses everything that is due, as the owner does between batches.
    fn run_clock(&mut self) {
        let now = Timestamp::from_unix_ms(self.now);
        while let Some(event) = decide_lapse(&self.ledger, now) {
            let Event::Expired { reservations } = &event else { panic!("the clock decided {event:?}") };
            assert!(!reservations.is_empty(), "the clock lapsed nothing");
            for id in reservations {
                let grant = self.grant(*id);
                self.reference.lapse(&grant, self.now).expect("the clock may lapse this");
            }
            self.seen.count("event expired by the clock");
            self.apply(event);
        }
        assert!(self.reference.overdue(self.now).is_none(), "not back within a second: {:?}", self.reference.overdue(self.now));
        assert!(self.ledger.next_lapse().is_none_or(|next| next > now), "work is due after all of it was done");
    }

    fn apply(&mut self, event: Event) {
        let now = Timestamp::from_unix_ms(self.now);
        self.auditor.observe(&event, now).expect("the auditor finds nothing");
        // The inverse is not wanted here: what is applied stays.
        drop(self.ledger.apply(&event, now));
        self.log.push((event, now));
    }

    fn forget(&mut self, rng: &mut StdRng) {
        let last = self.ledger.last_applied().unix_ms();
        let before = self.ledger.key_count();
        if rng.random_bool(0.5) {
            let committed = last.saturating_sub(rng.random_range(0..5_000));
            self.ledger.forget_keys(Timestamp::from_unix_ms(committed), rng.random_range(0..4));
        } else {
            self.ledger.forget_keys(Timestamp::from_unix_ms(last), usize::MAX);
            assert_eq!(
                self.ledger.key_count(),
                self.reference.remembered_keys(last),
                "keys in memory after all of them were looked at"
            );
        }
        if self.ledger.key_count() < before {
            self.seen.count("keys forgotten");
        }
    }

    fn compare_touched(&self, ask: &Ask, answer: &Answer) {
        let grant = match answer {
            Answer::Reservation { grant, .. } => Some(grant),
            _ => grant_of(ask),
        };
        match (ask, grant) {
            (_, Some(grant)) => {
                self.compare_reservation(grant);
                self.compare_stock(&grant.sku);
            }
            (Ask::Create { sku, .. } | Ask::Reserve { sku, .. }, None) => self.compare_stock(sku),
            _ => {}
        }
    }

    fn compare_stock(&self, sku: &str) {
        let view = self.ledger.stock_of_sku(&Sku::new(sku).expect("an identifier"));
        let Some(stock) = self.reference.stock(sku) else {
            assert_eq!(view, None, "{sku} was never created");
            return;
        };
        let view = view.expect("the stock is there");
        assert_eq!(view.id, self.stock_id(sku));
        assert_eq!(view.sku.as_str(), sku);
        assert_eq!(view.terms, terms(&stock.terms));
        let counts = (stock.quantity, self.reference.available(sku), self.reference.reserved(sku), self.reference.sold(sku));
        assert_eq!((view.allotted, view.available, view.reserved, view.sold), counts, "counts of {sku}");
        assert_eq!(view.available + view.reserved + view.sold, view.allotted, "conservation of {sku}");
        let state = match view.state(Timestamp::from_unix_ms(self.now)) {
            StockState::Closed => "closed",
            StockState::Scheduled => "scheduled",
            StockState::SoldOut => "sold_out",
            StockState::Open => "open",
        };
        assert_eq!(state, self.reference.stock_state(sku, self.now), "state of {sku}");
    }

    fn compare_reservation(&self, grant: &Grant) {
        match (self.reference.reservation(grant), self.ledger.reservation(self.id(grant))) {
            (Some(reservation), Some(view)) => self.compare_view(reservation, &view),
            (reservation, view) => assert!(reservation.is_none() && view.is_none(), "{reservation:?} is {view:?} in the ledger"),
        }
    }

    fn compare_view(&self, reservation: &Reservation, view: &ReservationView) {
        let state = match view.state {
            ReservationState::Reserved => "reserved",
            ReservationState::Confirmed => "confirmed",
            ReservationState::Released => "released",
            ReservationState::Expired => "expired",
        };
        assert_eq!(view.id, self.id(&reservation.grant));
        assert_eq!(view.sku.as_str(), reservation.grant.sku);
        assert_eq!(view.user.as_str(), reservation.user);
        assert_eq!(view.reference.as_ref().map(Label::as_str), reservation.reference.as_deref());
        let found = [view.quantity.units(), view.reserved, view.confirmed, view.released].map(u64::from);
        let expected = [reservation.quantity, reservation.held(), reservation.confirmed, reservation.released];
        assert_eq!(found, expected, "quantity, reserved, confirmed and released of {reservation:?}");
        assert_eq!(state, reservation.state(), "state of {reservation:?}");
        let found = (view.reserved_at.unix_ms(), view.expires_at.unix_ms(), view.resolved_at.map(Timestamp::unix_ms));
        let expected = (reservation.reserved_at, reservation.expires_at, reservation.resolved_at);
        assert_eq!(found, expected, "times of {reservation:?}");
    }

    pub(crate) fn compare_everything(&self) {
        for sku in SKUS {
            self.compare_stock(sku);
            for user in USERS {
                let units = self.ledger.user_units(self.stock_id(sku), &UserId::new(user).expect("an identifier"));
                assert_eq!(units, self.reference.units_of(sku, user), "units of {user} of {sku}");
            }
        }
        let names: Vec<_> = self.ledger.stocks().map(|view| view.sku.to_string()).collect();
        assert_eq!(names, self.created, "stocks in the order of creation");
        assert_eq!(self.ledger.reservation_count(), self.reference.reservations.len());
        for (reservation, view) in self.reference.reservations.iter().zip(self.ledger.reservations()) {
            self.compare_view(reservation, &view);
        }
        let ends = self.reference.reservations.iter().filter(|one| one.held() > 0).map(|one| one.expires_at);
        assert_eq!(self.ledger.open_holds(), ends.clone().count() as u64, "open holds");
        match (ends.min(), self.ledger.next_lapse()) {
            (Some(end), Some(next)) => {
                assert!((end..end + 1_000).contains(&next.unix_ms()), "{next:?} is not within a second of {end}");
            }
            (end, next) => {
                assert!(end.is_none() && next.is_none(), "the next lapse is {next:?} where the next hold ends at {end:?}");
            }
        }
    }

    /// Compares everything once more, with the auditor, and with a ledger that was told the events only.
    pub(crate) fn finish(self) {
        self.compare_everything();
        let mut replayed = Ledger::new(self.rules, 0x5eed);
        for (event, at) in &self.log {
            drop(replayed.apply(event, *at));
        }
        assert!(replayed.stocks().eq(self.ledger.stocks()), "stocks differ after replay");
        assert!(replayed.reservations().eq(self.ledger.reservations()), "reservations differ after replay");
        assert_eq!(replayed.open_holds(), self.ledger.open_holds(), "open holds after replay");
        assert_eq!(replayed.next_lapse(), self.ledger.next_lapse(), "next lapse after replay");
        assert_eq!(replayed.last_applied(), self.ledger.last_applied(), "time after replay");
        let now = Timestamp::from_unix_ms(self.now);
        for (sku, user) in SKUS.iter().flat_map(|sku| USERS.map(|user| (sku, user))) {
            let (stock, user) = (self.stock_id(sku), UserId::new(user).expect("an identifier"));
            assert_eq!(replayed.user_units(stock, &user), self.ledger.user_units(stock, &user), "units of {user} after replay");
        }
        let mut fingerprints = self.fingerprints.clone();
        for (ask, key) in &self.asked {
            let request = request_of(ask, key.as_deref(), &mut fingerprints, |grant| self.id(grant));
            assert_eq!(decide(&replayed, &request, now), decide(&self.ledger, &request, now), "{ask:?} after replay");
        }

        let Self { reference, auditor, log, created, .. } = self;
        let summary = auditor.finish();
        assert_eq!(summary.events, log.len() as u64);
        assert_eq!(summary.grants, reference.reservations.len() as u64);
        assert_eq!(summary.granted_units, reference.reservations.iter().map(|one| one.quantity).sum::<u64>());
        assert_eq!(summary.confirmed_units, reference.reservations.iter().map(|one| one.confirmed).sum::<u64>());
        let given_back = summary.released_units + summary.expired_units;
        assert_eq!(given_back, reference.reservations.iter().map(|one| one.released).sum::<u64>());
        assert_eq!(summary.stocks.len(), created.len());
        for stock in summary.stocks {
            let sku = stock.sku.as_str();
            let expected = (reference.available(sku), reference.reserved(sku), reference.sold(sku), reference.grants(sku));
            assert_eq!((stock.available, stock.reserved, stock.sold, stock.grants), expected, "the auditor's books of {sku}");
        }
    }

    fn answer(&self, accepted: Accepted) -> Answer {
        let Accepted { subject, created, replayed } = accepted;
        match subject {
            Subject::Stock(id) => {
                assert!(!replayed, "a stock has no key to replay");
                Answer::Stock { sku: self.sku(id), created }
            }
            Subject::Reservation(id) => Answer::Reservation { grant: self.grant(id), created, replayed },
        }
    }

    fn request(&mut self, ask: &Ask, key: Option<&str>) -> Request {
        let mut fingerprints = std::mem::take(&mut self.fingerprints);
        let request = request_of(ask, key, &mut fingerprints, |grant| self.id(grant));
        self.fingerprints = fingerprints;
        request
    }

    /// The place of a stock: its number follows the order of creation within its partition.
    fn stock_id(&self, sku: &str) -> StockId {
        let earlier =
            self.created.iter().take_while(|other| *other != sku).filter(|other| partition(other) == partition(sku)).count();
        StockId { partition: Partition(partition(sku)), number: StockNumber(u32::try_from(earlier).expect("few stocks") + 1) }
    }

    fn sku(&self, id: StockId) -> String {
        // A stock that is being created is the next of its partition.
        let found = self.created.iter().find(|sku| self.stock_id(sku) == id);
        found.unwrap_or_else(|| panic!("{id:?} is no stock")).clone()
    }

    fn id(&self, grant: &Grant) -> ReservationId {
        ReservationId { stock: self.stock_id(&grant.sku), sequence: GrantSequence(grant.sequence) }
    }

    fn grant(&self, id: ReservationId) -> Grant {
        Grant { sku: self.sku(id.stock), sequence: id.sequence.0 }
    }
}
