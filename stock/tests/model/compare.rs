//! What a ledger shows against the naive one: what a step touched at once, sums over everything often, everything in full at times.

use std::collections::BTreeSet;

use tidegate_stock::{
    ChangeSequence, Event, GrantSequence, Image, Ledger, ReservationId, ReservationRecord, ReservationView, Sku, Timestamp, UserId,
    decide_lapse,
};

use crate::pick::{SKUS, USERS};
use crate::reference::{Answer, Ask, Change, Kind, Left, Name, Reservation};
use crate::rows::{compare_record, compare_stock_record, compare_stock_view, compare_view, digest_of_view, stock_state_name};
use crate::translate::reference_text;
use crate::world::World;

impl World<'_> {
    /// What the newest events left behind is what the naive ledger says that changed, in the same order.
    pub(crate) fn compare_changes(&mut self) {
        let changes = std::mem::take(&mut self.reference.changes);
        let mut expected = changes.iter();
        for logged in &self.log[self.compared..] {
            match (&logged.event, &logged.image) {
                (Event::Recalled { .. }, Image::Nothing) => {}
                (event @ Event::Reserved { .. }, Image::Granted { change }) => {
                    self.compare_grant(event, *change, expected.next());
                }
                (event, Image::Reservation { change, record }) => {
                    let kind = match event {
                        Event::Confirmed { .. } => Kind::Confirmed,
                        Event::Released { .. } => Kind::Released,
                        Event::Returned { .. } => Kind::Returned,
                        Event::Extended { .. } => Kind::Extended,
                        other => panic!("a reservation is the image of {other:?}"),
                    };
                    self.compare_reservation_image(kind, *change, record, expected.next());
                }
                (Event::Expired { reservations }, Image::Lapsed(lapsed)) => {
                    assert_eq!(reservations.len(), lapsed.len(), "{logged:?}");
                    for (change, record) in lapsed {
                        self.compare_reservation_image(Kind::Lapsed, *change, record, expected.next());
                    }
                }
                (event, Image::Stock(record)) => {
                    let kind = match event {
                        Event::StockCreated { .. } => Kind::Created,
                        Event::StockChanged { .. } => Kind::Changed,
                        Event::StockAdjusted { .. } => Kind::Adjusted,
                        Event::StockPaused { .. } => Kind::Paused,
                        Event::StockReopened { .. } => Kind::Reopened,
                        Event::StockClosed { .. } => Kind::Closed,
                        Event::StockArchived { .. } => Kind::Archived,
                        other => panic!("a stock is the image of {other:?}"),
                    };
                    let (change, row) = match expected.next() {
                        Some(change @ Change { left: Left::Stock(row), .. }) => (change, row),
                        other => panic!("{logged:?} where {other:?} is due"),
                    };
                    assert_eq!((kind, record.id), (change.kind, self.stock_id(change.sku)), "{logged:?}");
                    compare_stock_record(change.sku, row, change.number, record);
                    if let Event::StockAdjusted { delta, reason, .. } = event {
                        assert_eq!(row.adjustment, Some((delta.units(), name_of(reason.as_str()))));
                    }
                }
                (event, image) => panic!("{image:?} is the image of {event:?}"),
            }
            assert_eq!(logged.at.unix_ms(), self.now);
        }
        assert_eq!(expected.next(), None, "it changed and left no event");
        self.compared = self.log.len();
    }

    fn compare_grant(&self, event: &Event, number: ChangeSequence, expected: Option<&Change>) {
        let (Event::Reserved { stock, sequence, user, quantity, expires_at, reference, .. }, Some(change)) = (event, expected)
        else {
            panic!("{event:?} where nothing is due");
        };
        let Left::Reservation(row) = &change.left else { panic!("{event:?} where {change:?} is due") };
        assert_eq!((Kind::Reserved, number.0), (change.kind, change.number));
        assert_eq!(ReservationId { stock: *stock, sequence: *sequence }, self.id(row.grant));
        assert_eq!((user.as_str(), u64::from(quantity.units())), (row.user, row.quantity));
        assert_eq!(expires_at.unix_ms(), row.expires_at);
        assert_eq!(reference.as_ref().map(ToString::to_string), row.reference.map(reference_text));
    }

    fn compare_reservation_image(&self, kind: Kind, number: ChangeSequence, record: &ReservationRecord, expected: Option<&Change>) {
        let Some(change @ Change { left: Left::Reservation(row), .. }) = expected else {
            panic!("{kind:?} of {record:?} where {expected:?} is due");
        };
        assert_eq!((kind, number.0), (change.kind, change.number), "{record:?}");
        assert_eq!(record.id, self.id(row.grant));
        compare_record(row, record);
    }

    pub(crate) fn compare_touched(&self, ask: &Ask, answer: &Answer) {
        let grant = match answer {
            Answer::Reservation { grant, .. } => Some(*grant),
            _ => ask.grant(),
        };
        if let Some(reservation) = grant.and_then(|grant| self.reference.reservation(grant)) {
            self.compare_reservation(&self.ledger, reservation);
            self.compare_user(&self.ledger, reservation.grant.sku, reservation.user);
        }
        self.compare_stock(&self.ledger, ask.sku());
        assert_eq!(self.ledger.open_holds(), self.reference.open_holds, "open holds");
    }

    /// The sums over everything, as the ledger says it by now. Says what differs where they do.
    pub(crate) fn compare_digest(&self) {
        for stock in &self.reference.stocks {
            self.compare_stock(&self.ledger, stock.sku);
        }
        assert_eq!(self.ledger.open_holds(), self.reference.open_holds, "open holds");
        let left = self.history.iter().filter(|(id, _)| self.ledger.reservation(**id).is_none());
        let left = left.map(|(id, record)| record.view(&Sku::new(self.sku(id.stock)).expect("an identifier")));
        let digests = self.ledger.reservations().chain(left).map(|view| digest_of_view(&view)).chain(self.gone.values().copied());
        let (count, sum) = digests.fold((0, 0_u64), |(count, sum), digest| (count + 1, sum.wrapping_add(digest)));
        if (count, sum) != (self.reference.reservations().count(), self.reference.digest) {
            self.compare_everything();
            panic!("{count} reservations in memory, in the history and gone have another sum than the naive ledger's");
        }
    }

    pub(crate) fn compare_everything(&self) {
        self.compare_ledger(&self.ledger);
    }

    /// `other` shows, and would answer to the newest `answers` calls, what the world's own ledger does.
    pub(crate) fn compare_shown(&self, other: &Ledger, answers: usize) {
        self.compare_ledger(other);
        assert_eq!(other.next_lapse(), self.ledger.next_lapse(), "next lapse");
        for (ask, key) in self.asked.iter().rev().take(answers) {
            let request = self.request(ask, *key);
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
                self.compare_user(ledger, sku, user);
            }
            self.compare_lists(ledger, sku);
        }
        let names: Vec<_> = ledger.stocks().map(|view| (view.sku.to_string(), view.id)).collect();
        let created = self.created.iter().map(|(sku, id)| ((*sku).to_owned(), *id));
        assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), created.collect(), "stocks");
        assert_eq!(names.len(), self.created.len());
        for reservation in self.reference.reservations() {
            self.compare_reservation(ledger, reservation);
        }
        let in_memory = self.reference.reservations().filter(|one| ledger.reservation(self.id(one.grant)).is_some());
        assert_eq!(ledger.reservation_count(), in_memory.clone().count(), "reservations in memory");
        assert_eq!(ledger.reservations().count(), ledger.reservation_count());
        let resolved = in_memory.filter(|one| one.held() == 0).count();
        assert!(ledger.resolved_count() <= resolved, "resolved ones in memory");
        let ends = self.reference.reservations().filter(|one| one.held() > 0).map(|one| one.expires_at);
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
    fn compare_lists(&self, ledger: &Ledger, sku: Name) {
        let stock = self.stock_id(sku);
        let Some(reference) = self.reference.stock(sku) else { return };
        for user in [None].into_iter().chain(USERS.map(Some)) {
            let of = |one: &&Reservation| user.is_none_or(|user| one.user == user);
            let expected = reference.reservations.iter().rev().filter(of).map(|one| self.id(one.grant));
            let expected: Vec<_> = expected.filter(|id| ledger.reservation(*id).is_some()).collect();
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
                let row = self.reference.reservation(self.grant(record.id)).expect("it was granted");
                compare_record(row, &record);
            }
        }
    }

    fn compare_user(&self, ledger: &Ledger, sku: Name, user: Name) {
        let units = ledger.user_units(self.stock_id(sku), &UserId::new(user).expect("an identifier"));
        let expected = self.reference.stock(sku).map_or(0, |stock| stock.units_of(user));
        assert_eq!(units, expected, "units of {user} of {sku}");
    }

    fn compare_stock(&self, ledger: &Ledger, sku: Name) {
        let id = self.stock_id(sku);
        let Some(stock) = self.reference.stock(sku) else {
            assert_eq!(ledger.stock(id), None, "{sku} was never created");
            return;
        };
        let view = ledger.stock(id).expect("the stock is there");
        let row = stock.row(self.now);
        compare_stock_view(sku, &row, &view);
        assert_eq!(stock_state_name(view.state(Timestamp::from_unix_ms(self.now))), row.state, "state of {sku}");
    }

    /// In memory, in the history, or no longer to be shown.
    fn compare_reservation(&self, ledger: &Ledger, reservation: &Reservation) {
        let id = self.id(reservation.grant);
        let compare = |view: &ReservationView| {
            assert_eq!(view.id, id);
            compare_view(reservation, view);
        };
        if let Some(view) = ledger.reservation(id) {
            return compare(&view);
        }
        assert_eq!(reservation.held(), 0, "what is held is not in memory: {reservation:?}");
        match self.history.get(&id) {
            Some(record) => compare(&record.view(&Sku::new(reservation.grant.sku).expect("an identifier"))),
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
        assert_eq!(self.ledger.key_count(), self.reference.remembered_keys(committed, |_| true), "keys in memory");
        let is_kept = |sku: Name, user: Name| {
            self.reference.stock(sku).is_some_and(|stock| {
                let mut own = stock.reservations.iter().filter(|one| one.user == user);
                stock.units_of(user) > 0 || own.any(|one| self.ledger.reservation(self.id(one.grant)).is_some())
            })
        };
        let users = SKUS.iter().flat_map(|sku| USERS.map(|user| (*sku, user))).filter(|(sku, user)| is_kept(sku, user));
        assert_eq!(self.ledger.user_count(), users.count(), "users in memory");
    }
}

/// A reason as the model has it.
fn name_of(reason: &str) -> Name {
    crate::pick::REASONS.into_iter().find(|known| *known == reason).expect("a reason that was given")
}
