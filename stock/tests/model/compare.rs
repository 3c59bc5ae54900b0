//! What a ledger shows against the naive one, in full.

use std::collections::BTreeSet;

use tidegate_stock::{
    Event, GrantSequence, Ledger, Reference as Label, ReservationId, ReservationState, ReservationView, StockState, Timestamp,
    UserId, decide_lapse,
};

use crate::pick::{SKUS, USERS};
use crate::reference::{Answer, Ask, Reservation};
use crate::translate::{grant_of, request_of, sku_of, terms};
use crate::world::World;

impl World<'_> {
    pub(crate) fn compare_touched(&self, ask: &Ask, answer: &Answer) {
        let grant = match answer {
            Answer::Reservation { grant, .. } => Some(grant),
            _ => grant_of(ask),
        };
        if let Some(reservation) = grant.and_then(|grant| self.reference.reservation(grant)) {
            self.compare_reservation(&self.ledger, reservation);
        }
        self.compare_stock(&self.ledger, sku_of(ask));
    }

    pub(crate) fn compare_everything(&self) {
        self.compare_ledger(&self.ledger);
    }

    /// `other` shows, and would answer to the newest `answers` calls, what the world's own ledger does.
    pub(crate) fn compare_with(&self, other: &Ledger, answers: usize) {
        self.compare_ledger(other);
        assert_eq!(other.next_lapse(), self.ledger.next_lapse(), "next lapse");
        assert_eq!(other.last_applied(), self.ledger.last_applied(), "time");
        let mut fingerprints = self.fingerprints.clone();
        for (ask, key) in self.asked.iter().rev().take(answers) {
            let request = request_of(ask, key.as_deref(), &mut fingerprints, |grant| self.id(grant));
            for later in [0, 1_000, 10_000, 35_000] {
                let now = Timestamp::from_unix_ms(self.now + later);
                let (found, expected) = (self.decide_on(other, &request, now), self.decide_on(&self.ledger, &request, now));
                // What is in memory of the one and not of the other differs by its recall, and by that only.
                assert_eq!(found.outcome, expected.outcome, "{ask:?} with key {key:?}");
                assert_eq!(found.event, expected.event, "{ask:?} with key {key:?}");
            }
        }
        let due = |ledger: &Ledger| match decide_lapse(ledger, Timestamp::from_unix_ms(self.now + 3_000)) {
            Some(Event::Expired { reservations }) => reservations.into_iter().collect::<BTreeSet<_>>(),
            Some(other) => panic!("the clock decided {other:?}"),
            None => BTreeSet::new(),
        };
        assert_eq!(due(other), due(&self.ledger), "what is due");
    }

    fn compare_ledger(&self, ledger: &Ledger) {
        for sku in SKUS {
            self.compare_stock(ledger, sku);
            for user in USERS {
                let units = ledger.user_units(self.stock_id(sku), &UserId::new(user).expect("an identifier"));
                assert_eq!(units, self.reference.units_of(sku, user), "units of {user} of {sku}");
            }
            self.compare_lists(ledger, sku);
        }
        let names: BTreeSet<_> = ledger.stocks().map(|view| view.sku.to_string()).collect();
        assert_eq!(names, self.created.iter().cloned().collect(), "stocks");
        for reservation in &self.reference.reservations {
            self.compare_reservation(ledger, reservation);
        }
        let in_memory = self.reference.reservations.iter().filter(|one| ledger.reservation(self.id(&one.grant)).is_some());
        assert_eq!(ledger.reservation_count(), in_memory.clone().count(), "reservations in memory");
        assert_eq!(ledger.reservations().count(), ledger.reservation_count());
        let resolved = in_memory.filter(|one| one.held() == 0).count();
        assert!(ledger.resolved_count() <= resolved, "resolved ones in memory");
        let ends = self.reference.reservations.iter().filter(|one| one.held() > 0).map(|one| one.expires_at);
        assert_eq!(ledger.open_holds(), ends.clone().count() as u64, "open holds");
        match (ends.min(), ledger.next_lapse()) {
            (Some(end), Some(next)) => {
                assert!((end..end + 1_000).contains(&next.unix_ms()), "{next:?} is not within a second of {end}");
            }
            (end, next) => {
                assert!(end.is_none() && next.is_none(), "the next lapse is {next:?} where the next hold ends at {end:?}");
            }
        }
    }

    /// Lists in small looks show all that is in memory, newest first and each once.
    fn compare_lists(&self, ledger: &Ledger, sku: &str) {
        let stock = self.stock_id(sku);
        for user in [None].into_iter().chain(USERS.map(Some)) {
            let of = |one: &&Reservation| one.grant.sku == sku && user.is_none_or(|user| one.user == user);
            let expected: Vec<ReservationId> =
                self.reference.reservations.iter().rev().filter(of).map(|one| self.id(&one.grant)).collect();
            let expected: Vec<_> = expected.into_iter().filter(|id| ledger.reservation(*id).is_some()).collect();
            let name = user.map(|user| UserId::new(user).expect("an identifier"));
            let looks_max = 1 + usize::try_from(self.now % 7).expect("a small number");
            let (mut listed, mut before) = (Vec::new(), GrantSequence(u64::MAX));
            while before > GrantSequence(1) {
                let look = ledger.list(stock, before, name.as_ref(), looks_max);
                assert!(look.down_to < before && look.records.len() <= looks_max, "a look gets on, within its bound");
                before = look.down_to;
                listed.extend(look.records);
            }
            assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), expected, "list of {sku} of {user:?}");
            for record in listed {
                let view = record.view(&ledger.stock(stock).expect("it has reservations").sku);
                assert_eq!(Some(view), ledger.reservation(record.id));
            }
        }
    }

    fn compare_stock(&self, ledger: &Ledger, sku: &str) {
        let view = ledger.stocks().find(|view| view.sku.as_str() == sku);
        let Some(stock) = self.reference.stock(sku) else {
            assert_eq!(view, None, "{sku} was never created");
            return;
        };
        let view = view.expect("the stock is there");
        assert_eq!(view.id, self.stock_id(sku));
        assert_eq!(ledger.stock(view.id).as_ref(), Some(&view));
        assert_eq!(view.terms, terms(&stock.terms));
        let life = (view.life.is_paused, view.life.is_closed, view.life.is_archived);
        assert_eq!(life, (stock.is_paused, stock.is_closed, stock.is_archived), "life of {sku}");
        assert_eq!(view.revision.0, stock.revision, "revision of {sku}");
        let counts = (stock.allotted(), self.reference.available(sku), self.reference.reserved(sku), self.reference.sold(sku));
        assert_eq!((view.allotted, view.available, view.reserved, view.sold), counts, "counts of {sku}");
        let state = match view.state(Timestamp::from_unix_ms(self.now)) {
            StockState::Archived => "archived",
            StockState::Closed => "closed",
            StockState::Paused => "paused",
            StockState::Scheduled => "scheduled",
            StockState::SoldOut => "sold_out",
            StockState::Open => "open",
        };
        assert_eq!(state, self.reference.stock_state(sku, self.now), "state of {sku}");
    }

    /// In memory, in the history, or no longer to be shown.
    fn compare_reservation(&self, ledger: &Ledger, reservation: &Reservation) {
        let id = self.id(&reservation.grant);
        if let Some(view) = ledger.reservation(id) {
            return compare_view(id, reservation, &view);
        }
        assert_eq!(reservation.held(), 0, "what is held is not in memory: {reservation:?}");
        match self.history.get(&id) {
            Some(record) => {
                let sku = ledger.stock(id.stock).expect("a reservation has a stock").sku;
                compare_view(id, reservation, &record.view(&sku));
            }
            None => assert!(!self.reference.is_shown(reservation, self.tidied), "lost: {reservation:?}"),
        }
    }

    /// After everything was tidied away that may be, only what counts is kept.
    pub(crate) fn compare_what_is_kept(&self, committed: u64) {
        let is_at_rest = |event: &Event, at: u64| !matches!(event, Event::StockArchived { .. }) || at < committed;
        // What was dropped at a time that has been taken back since counts for that time.
        let all_is_settled = self.committed == self.log.len() && self.tidied == committed;
        if !all_is_settled || !self.log.iter().rev().take(20).all(|logged| is_at_rest(&logged.event, logged.at.unix_ms())) {
            return;
        }
        assert_eq!(self.ledger.key_count(), self.reference.remembered_keys(committed), "keys in memory");
        let users = SKUS.iter().flat_map(|sku| USERS.map(|user| (*sku, user))).filter(|(sku, user)| {
            let mut own = self.reference.reservations.iter().filter(|one| one.grant.sku == *sku && one.user == *user);
            self.reference.units_of(sku, user) > 0 || own.any(|one| self.ledger.reservation(self.id(&one.grant)).is_some())
        });
        assert_eq!(self.ledger.user_count(), users.count(), "users in memory");
    }
}

fn compare_view(id: ReservationId, reservation: &Reservation, view: &ReservationView) {
    let state = match view.state {
        ReservationState::Reserved => "reserved",
        ReservationState::Confirmed => "confirmed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
        ReservationState::Returned => "returned",
    };
    assert_eq!(view.id, id);
    assert_eq!(view.sku.as_str(), reservation.grant.sku);
    assert_eq!(view.user.as_str(), reservation.user);
    assert_eq!(view.reference.as_ref().map(Label::as_str), reservation.reference.as_deref());
    let found = [view.quantity.units(), view.reserved, view.confirmed, view.released, view.returned].map(u64::from);
    let expected = [reservation.quantity, reservation.held(), reservation.confirmed, reservation.released, reservation.returned];
    assert_eq!(found, expected, "quantity, reserved, confirmed, released and returned of {reservation:?}");
    assert_eq!(state, reservation.state(), "state of {reservation:?}");
    let found = (view.reserved_at.unix_ms(), view.expires_at.unix_ms(), view.resolved_at.map(Timestamp::unix_ms));
    let expected = (reservation.reserved_at, reservation.expires_at, reservation.resolved_at);
    assert_eq!(found, expected, "times of {reservation:?}");
}
