//! One ledger and its naive twin side by side: each step asks both the same and compares what they say, what changed, and what they show.
//!
//! The ledger lives as in a node: what is resolved leaves its memory for a history, and is asked for there, sometimes late. In some
//! worlds what happened last may be taken back. Copies and new starts are in `lives.rs`, comparisons in `compare.rs`.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tidegate_stock::{
    Accepted, Auditor, Decision, Event, GrantSequence, Image, Inverse, Ledger, NeedsRecord, Partition, Recall, Request,
    ReservationId, ReservationRecord, Rules, StockId, StockNumber, Subject, Timestamp, decide, decide_lapse,
};

use crate::Seen;
use crate::lives::Copy;
use crate::pick::Picker;
use crate::reference::{Answer, Ask, Grant, Key, Name, Reference, Reservation, digest};
use crate::translate::{command_of, fingerprints, no_of};

/// Batches that may be taken back at once.
const BATCHES_MAX: usize = 6;
/// Calls that wait for the history at once.
const PENDING_MAX: usize = 3;
/// Keys in use: few, so that most are known.
const KEYS: Key = 10;

/// A ledger and its naive twin, with what is needed to talk to both.
pub(crate) struct World<'a> {
    pub(crate) rules: Rules,
    pub(crate) ledger: Ledger,
    pub(crate) reference: Reference,
    auditor: Auditor,
    pub(crate) log: Vec<Logged>,
    /// How much of the log was compared with the naive ledger's changes.
    pub(crate) compared: usize,
    /// How much of the log is committed, and seen by the auditor.
    pub(crate) committed: usize,
    /// What takes back the rest of it.
    inverses: VecDeque<Inverse>,
    /// What may be taken back together; nothing where all is committed at once.
    batches: Vec<Batch>,
    takes_back: bool,
    pub(crate) now: u64,
    /// What is dropped because its time is over at some moment: no call is decided earlier.
    pub(crate) tidied: u64,
    /// What has left memory.
    pub(crate) history: BTreeMap<ReservationId, ReservationRecord>,
    /// What is neither in memory nor in the history any more, with the digest that it had.
    pub(crate) gone: BTreeMap<ReservationId, u64>,
    /// What is on its way out.
    pub(crate) leaving: Vec<ReservationRecord>,
    pending: Vec<Pending>,
    pub(crate) copy: Option<Copy>,
    /// Stocks by the order of creation, with their places.
    pub(crate) created: Vec<(Name, StockId)>,
    pub(crate) asked: Vec<(Ask, Option<Key>)>,
    pub(crate) seen: &'a mut Seen,
}

/// An event as a log holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logged {
    pub(crate) event: Event,
    pub(crate) at: Timestamp,
    pub(crate) image: Image,
}

/// Where everything stood before some events.
struct Batch {
    reference: Reference,
    log: usize,
    created: usize,
    now: u64,
}

/// A call that waits for a reservation, with what the history had of it.
struct Pending {
    ask: Ask,
    key: Option<Key>,
    id: ReservationId,
    record: Option<ReservationRecord>,
}

impl<'a> World<'a> {
    pub(crate) fn new(rng: &mut SmallRng, tally: &'a mut Seen) -> Self {
        let idempotency_seconds = rng.random_range(3..=40);
        let retention_seconds = idempotency_seconds + rng.random_range(0..=80);
        let rules = Rules {
            idempotency_seconds,
            idempotency_keys_max: 1_000_000,
            retention_seconds,
            reservations_in_memory_max: 1_000_000,
            users_in_memory_max: 1_000_000,
        };
        Self {
            rules,
            ledger: Ledger::new(rules, rng.random()),
            reference: Reference::new(u64::from(idempotency_seconds), u64::from(retention_seconds)),
            auditor: Auditor::new(idempotency_seconds, rng.random()),
            log: Vec::new(),
            compared: 0,
            committed: 0,
            inverses: VecDeque::new(),
            batches: Vec::new(),
            takes_back: rng.random_bool(0.5),
            now: 1_700_000_000_000 + rng.random_range(0..1_000),
            tidied: 0,
            history: BTreeMap::new(),
            gone: BTreeMap::new(),
            leaving: Vec::new(),
            pending: Vec::new(),
            copy: None,
            created: Vec::new(),
            asked: Vec::new(),
            seen: tally,
        }
    }

    pub(crate) fn step(&mut self, rng: &mut SmallRng) {
        if self.takes_back && (self.batches.is_empty() || rng.random_bool(0.3)) {
            let (reference, log, created) = (self.reference.clone(), self.log.len(), self.created.len());
            self.batches.push(Batch { reference, log, created, now: self.now });
        }
        self.now = self.picker().later(rng);
        // The owner's loop takes what is due between two batches: before a command that came later, or after one that came first.
        if rng.random_bool(0.6) {
            self.run_clock();
        }
        if !self.pending.is_empty() && rng.random_bool(0.3) {
            let place = rng.random_range(0..self.pending.len());
            let Pending { ask, key, id, record } = self.pending.swap_remove(place);
            self.seen.count("answered late from the history");
            self.ask(&ask, key, Some(&(id, record)), rng);
        } else {
            let (ask, key) = self.picker().pick(rng);
            self.ask(&ask, key, None, rng);
            self.asked.push((ask, key));
        }
        if rng.random_bool(0.5) {
            self.run_clock();
        }
        if self.takes_back {
            while self.batches.len() > BATCHES_MAX || (!self.batches.is_empty() && rng.random_bool(0.2)) {
                self.commit_oldest_batch();
            }
            if rng.random_bool(0.03) && !self.batches.is_empty() {
                self.take_back(rng);
            }
        } else {
            self.commit_to(self.log.len());
        }
        self.let_leave(rng);
        if rng.random_bool(0.04) {
            self.tidy(rng);
        }
        self.copy(rng);
        if rng.random_bool(0.002) {
            self.start_again(rng);
        }
    }

    fn picker(&self) -> Picker<'_> {
        Picker { reference: &self.reference, now: self.now, asked: &self.asked, keys: KEYS }
    }

    /// Decides as a node does that has the history at hand.
    pub(crate) fn decide_on(&self, ledger: &Ledger, request: &Request, now: Timestamp) -> Decision {
        let mut recall = Recall::NotTried;
        for _ in 0..3 {
            match decide(ledger, request, now, recall) {
                Ok(decision) => return decision,
                Err(NeedsRecord(id)) => recall = self.history.get(&id).map_or(Recall::Missing(id), Recall::Found),
            }
        }
        panic!("{request:?} needs one reservation after the other");
    }

    fn ask(
        &mut self,
        ask: &Ask,
        key: Option<Key>,
        recalled: Option<&(ReservationId, Option<ReservationRecord>)>,
        rng: &mut SmallRng,
    ) {
        let now = Timestamp::from_unix_ms(self.now);
        let request = self.request(ask, key);
        let recall = match recalled {
            None => Recall::NotTried,
            Some((id, None)) => Recall::Missing(*id),
            Some((_, Some(record))) => Recall::Found(record),
        };
        let decision = match decide(&self.ledger, &request, now, recall) {
            Ok(decision) => decision,
            Err(NeedsRecord(id)) if recalled.is_none() && self.pending.len() < PENDING_MAX && rng.random_bool(0.3) => {
                let record = self.history.get(&id).cloned();
                self.pending.push(Pending { ask: *ask, key, id, record });
                return;
            }
            Err(NeedsRecord(id)) => {
                self.seen.count(if self.history.contains_key(&id) { "found in the history" } else { "gone from the history" });
                self.decide_on(&self.ledger, &request, now)
            }
        };
        let held_before = ask.grant().and_then(|grant| self.reference.reservation(grant)).map_or(0, Reservation::held);
        let (answer, lapsed) = self.reference.ask(ask, key, self.now);
        if let Answer::Stock { sku, created: true, .. } = answer {
            self.created.push((sku, self.next_stock_id(sku)));
        }
        let events = || decision.before.iter().chain(&decision.event);
        let expired =
            events().find_map(|event| if let Event::Expired { reservations } = event { Some(reservations) } else { None });
        let expected: Option<Vec<_>> = lapsed.map(|grant| vec![self.id(grant)]);
        assert_eq!(expired, expected.as_ref(), "lapse by {ask:?} with key {key:?} at {}", self.now);
        let found = match decision.outcome {
            Ok(accepted) => self.answer(accepted),
            Err(rejection) => Answer::No(no_of(rejection)),
        };
        assert_eq!(found, answer, "answer to {ask:?} with key {key:?} at {}", self.now);
        self.count_answer(ask, key, &answer, held_before);
        for event in decision.before.into_iter().chain(decision.event) {
            self.seen.count(match &event {
                Event::StockCreated { .. } => "event stock created",
                Event::Reserved { .. } => "event reserved",
                Event::Confirmed { .. } => "event confirmed",
                Event::Released { .. } => "event released",
                Event::Expired { .. } => "event expired by a command",
                Event::Returned { .. } => "event returned",
                Event::Extended { .. } => "event extended",
                Event::StockChanged { .. } => "event stock changed",
                Event::StockAdjusted { .. } => "event stock adjusted",
                Event::StockPaused { .. } => "event stock paused",
                Event::StockReopened { .. } => "event stock reopened",
                Event::StockClosed { .. } => "event stock closed",
                Event::StockArchived { .. } => "event stock archived",
                Event::Recalled { .. } => "event recalled",
                Event::Summed { .. } => panic!("nobody decides on a sum"),
            });
            self.apply(event);
        }
        self.compare_changes();
        self.compare_touched(ask, &answer);
    }

    fn count_answer(&mut self, ask: &Ask, key: Option<Key>, answer: &Answer, held_before: u64) {
        if let Answer::No(no) = answer {
            self.seen.count(no.name());
            if let Some(next) = self.reference.next_reason {
                self.seen.count_pair(no.name(), next.name());
            }
        }
        match (ask, answer) {
            (Ask::Create { .. }, Answer::Stock { created: false, .. }) => self.seen.count("stock again"),
            (_, Answer::Stock { replayed: true, .. }) => self.seen.count("replayed adjust"),
            (_, Answer::Reservation { grant, replayed: true, .. }) => {
                self.seen.count(match ask {
                    Ask::Reserve { .. } => "replayed reserve",
                    Ask::Confirm { .. } => "replayed confirm",
                    Ask::Return { .. } => "replayed return",
                    Ask::Extend { .. } => "replayed extend",
                    _ => "replayed release",
                });
                if self.reference.reservation(*grant).is_some_and(|one| one.expires_at <= self.now) {
                    self.seen.count("replayed after the hold ended");
                }
                let is_shut = self.reference.stock(grant.sku).is_some_and(|stock| stock.state(self.now) != "open");
                if matches!(ask, Ask::Reserve { .. }) && is_shut {
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
                self.reference.lapse(grant, self.now).expect("the clock may lapse this");
            }
            self.seen.count("event expired by the clock");
            self.apply(event);
            self.compare_changes();
        }
        assert!(self.reference.overdue(self.now).is_none(), "not back within a second: {:?}", self.reference.overdue(self.now));
        assert!(self.ledger.next_lapse().is_none_or(|next| next > now), "work is due after all of it was done");
    }

    fn apply(&mut self, event: Event) {
        let at = Timestamp::from_unix_ms(self.now);
        self.inverses.push_back(self.ledger.apply(&event, at));
        let image = self.ledger.image(&event);
        self.log.push(Logged { event, at, image });
    }

    /// The auditor sees what can no longer be taken back, and what each event left behind.
    fn commit_to(&mut self, end: usize) {
        for Logged { event, at, image } in &self.log[self.committed..end] {
            self.auditor.observe(event, *at).expect("the auditor finds nothing");
            self.auditor.check_image(event, image).expect("the image says what the auditor's books say");
            drop(self.inverses.pop_front());
        }
        self.committed = end;
    }

    fn commit_oldest_batch(&mut self) {
        drop(self.batches.remove(0));
        self.commit_to(self.batches.first().map_or(self.log.len(), |batch| batch.log));
    }

    pub(crate) fn commit_everything(&mut self) {
        self.batches.clear();
        self.commit_to(self.log.len());
    }

    /// A time that every committed event has reached and no uncommitted one precedes.
    pub(crate) fn committed_time(&self) -> u64 {
        self.log.get(self.committed).map_or(self.ledger.last_applied(), |logged| logged.at).unix_ms()
    }

    /// Takes back the newest batches, and sometimes does all of it again.
    fn take_back(&mut self, rng: &mut SmallRng) {
        let place = rng.random_range(0..self.batches.len());
        let mut dropped = self.batches.split_off(place);
        let batch = dropped.swap_remove(0);
        let undone = self.log.split_off(batch.log);
        self.compared = batch.log;
        for logged in undone.iter().rev() {
            let inverse = self.inverses.pop_back().expect("each uncommitted event has its inverse");
            self.ledger.undo(inverse);
            self.seen.count(match logged.event {
                Event::Expired { .. } => "lapse taken back",
                Event::Recalled { .. } => "recall taken back",
                Event::StockArchived { .. } => "archiving taken back",
                _ => "event taken back",
            });
        }
        let newer = std::mem::replace(&mut self.reference, batch.reference.clone());
        let created = self.created.split_off(batch.created);
        let now = self.now;
        self.now = if rng.random_bool(0.5) { batch.now.max(self.tidied) } else { self.now };
        if !undone.is_empty() {
            self.copy = None;
            assert!(!self.ledger.is_copying(), "a copy goes on after something was taken back");
        }
        self.compare_digest();
        if !rng.random_bool(0.4) {
            return;
        }
        for logged in undone {
            self.now = logged.at.unix_ms();
            self.apply(logged.event.clone());
            assert_eq!(self.log.last(), Some(&logged), "done again, an event leaves the same behind");
        }
        self.seen.count("done again");
        self.compared = self.log.len();
        (self.reference, self.now) = (newer, now);
        self.created.extend(created);
        self.batches.push(batch);
        self.compare_digest();
    }

    /// The process ends: what is not committed is lost, or came to be committed after all, and what waited for an answer has none.
    pub(crate) fn die(&mut self, rng: &mut SmallRng) {
        if let Some(batch) = self.batches.first()
            && rng.random_bool(0.5)
        {
            while let Some(inverse) = self.inverses.pop_back() {
                self.ledger.undo(inverse);
            }
            self.log.truncate(batch.log);
            self.compared = batch.log;
            self.created.truncate(batch.created);
            self.now = batch.now.max(self.tidied);
            self.reference = self.batches.swap_remove(0).reference;
            self.seen.count("lost with the process");
        }
        self.commit_everything();
        self.pending.clear();
    }

    /// Resolved reservations go to the history, in two steps between which they may be changed.
    fn let_leave(&mut self, rng: &mut SmallRng) {
        if rng.random_bool(0.05) {
            let before = self.log.get(self.committed).map_or(Timestamp::from_unix_ms(u64::MAX), |logged| logged.at);
            let limit = *[1, 5, 1_000].choose(rng).expect("there are limits");
            self.leaving.extend(self.ledger.take_leaving(before, limit));
        }
        if rng.random_bool(0.2) {
            for record in std::mem::take(&mut self.leaving) {
                // What the history has told of a reservation counts until nothing waits for it.
                if rng.random_bool(0.3) || self.pending.iter().any(|pending| pending.id == record.id) {
                    self.leaving.push(record);
                    continue;
                }
                self.history.insert(record.id, record.clone());
                self.ledger.has_left(record.id);
                match self.ledger.reservation(record.id) {
                    None => self.seen.count("left memory"),
                    Some(_) => self.seen.count("changed on its way out"),
                }
            }
        }
        if rng.random_bool(0.02) {
            let committed = self.committed_time();
            let kept_ms = u64::from(self.rules.retention_seconds + self.rules.idempotency_seconds) * 1_000;
            let is_kept = |record: &ReservationRecord| {
                record.resolved_at.is_some_and(|resolved_at| committed < resolved_at.unix_ms() + kept_ms)
            };
            let over = self.history.extract_if(.., |_, record| !is_kept(record));
            for (id, _) in over.filter(|(id, _)| self.ledger.reservation(*id).is_none()).collect::<Vec<_>>() {
                let row = self.reference.reservation(self.grant(id)).expect("it was granted");
                self.gone.insert(id, digest(row));
            }
            self.tidied = self.tidied.max(committed);
        }
    }

    fn tidy(&mut self, rng: &mut SmallRng) {
        let committed = self.committed_time();
        self.tidied = self.tidied.max(committed);
        let before = (self.ledger.key_count(), self.ledger.user_count());
        if rng.random_bool(0.7) {
            for _ in 0..rng.random_range(1..20) {
                self.ledger.tidy(Timestamp::from_unix_ms(committed), rng.random_range(0..6));
            }
        } else {
            self.ledger.tidy(Timestamp::from_unix_ms(committed), usize::MAX);
            self.compare_what_is_kept(committed);
        }
        if self.ledger.key_count() < before.0 {
            self.seen.count("keys forgotten");
        }
        if self.ledger.user_count() < before.1 {
            self.seen.count("users forgotten");
        }
    }

    /// Compares everything once more, with the auditor, and with a ledger that was told the events only.
    pub(crate) fn finish(mut self) {
        self.commit_everything();
        self.compare_everything();
        let mut replayed = self.replayed();
        assert_eq!(replayed.reservation_count(), self.reference.reservations().count());
        self.compare_with(&mut replayed, 100);
        self.compare_summary();
    }

    fn compare_summary(self) {
        let Self { reference, auditor, log, created, .. } = self;
        let summary = auditor.finish();
        let sum = |units: fn(&Reservation) -> u64| reference.reservations().map(units).sum::<u64>();
        assert_eq!(summary.events, log.len() as u64);
        assert_eq!((summary.grants, summary.reservations), (sum(|_| 1), sum(|_| 1)));
        assert_eq!(summary.granted_units, sum(|one| one.quantity));
        assert_eq!(summary.confirmed_units, sum(|one| one.confirmed + one.returned));
        assert_eq!(summary.returned_units, sum(|one| one.returned));
        assert_eq!(summary.released_units + summary.expired_units, sum(|one| one.released));
        assert_eq!(summary.stocks.len(), created.len());
        for stock in summary.stocks {
            let row = reference.stock(stock.sku.as_str()).expect("the stock is there").row(0);
            let found = (stock.available, stock.reserved, stock.sold, stock.grants);
            assert_eq!(found, (row.available, row.reserved, row.sold, row.grants), "the auditor's books of {}", stock.sku);
        }
    }

    fn answer(&self, accepted: Accepted) -> Answer {
        let Accepted { subject, created, replayed } = accepted;
        match subject {
            Subject::Stock(id) => Answer::Stock { sku: self.sku(id), created, replayed },
            Subject::Reservation(id) => Answer::Reservation { grant: self.grant(id), created, replayed },
        }
    }

    pub(crate) fn request(&self, ask: &Ask, key: Option<Key>) -> Request {
        let command = command_of(ask, |sku| partition(sku.as_str()), |grant| self.id(grant));
        Request { command, idempotency: key.map(|key| fingerprints(ask, key)) }
    }

    /// The place of the next stock: its number follows the order of creation within its partition.
    fn next_stock_id(&self, sku: Name) -> StockId {
        let partition = partition(sku);
        let earlier = self.created.iter().filter(|(_, id)| id.partition == partition).count();
        StockId { partition, number: StockNumber(u32::try_from(earlier).expect("few stocks") + 1) }
    }

    /// The place of a stock; of one that was never created, the place that it would have now.
    pub(crate) fn stock_id(&self, sku: Name) -> StockId {
        let found = self.created.iter().find(|(name, _)| *name == sku).map(|(_, id)| *id);
        found.unwrap_or_else(|| self.next_stock_id(sku))
    }

    pub(crate) fn sku(&self, id: StockId) -> Name {
        let found = self.created.iter().find(|(_, known)| *known == id).map(|(sku, _)| *sku);
        found.unwrap_or_else(|| panic!("{id:?} is no stock"))
    }

    pub(crate) fn id(&self, grant: Grant) -> ReservationId {
        ReservationId { stock: self.stock_id(grant.sku), sequence: GrantSequence(grant.sequence) }
    }

    pub(crate) fn grant(&self, id: ReservationId) -> Grant {
        Grant { sku: self.sku(id.stock), sequence: id.sequence.0 }
    }
}

/// Three partitions for six skus, so that numbers are shared and not.
fn partition(sku: &str) -> Partition {
    Partition(match sku {
        "tea" | "cup" | "pot" => 7,
        "tray" | "spoon" => 8,
        _ => 1_023,
    })
}
