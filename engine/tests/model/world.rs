//! One node and its naive twin: each step asks both the same and compares answers, views, lists and the feed.
//!
//! All that is asked in one step is asked at one moment of the node's clock. What is due by then has lapsed before: the step begins with
//! a question to every shard that has work of that kind, so that it makes no difference when a shard woke up by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tidegate_engine::{
    Answer, ChangeId, ChangeKind, Changed, Content, Cursor, EngineOptions, Failure, FeedEvent, ListReservations, ManualClock,
    Position, Router, ShardNumber, Submission, partition_of,
};
use tidegate_persistence::{Actor, HistoryKey, PARTITIONS, StreamId};
use tidegate_stock::{
    Command, GrantSequence, IdempotencyKey, Ledger, Partition, Rejection, ReservationId, ReservationState, Rules, Sku, StockId,
    StockNumber, Timestamp, UserId,
};

use crate::Seen;
use crate::node::{Ground, Node};
use crate::pick::{Picker, SKUS, USERS};
use crate::reference::{Ask, Change, Grant, Key, Kind, Left, Name, Reference, Reservation, Stock};
use crate::rows::{compare_stock_view, compare_view, state_name, stock_state_name};
use crate::support::{PATIENCE, actor, answer};
use crate::translate::{command_of, no_of};
use crate::whole::whole;

/// The machine lapses a hold by itself when the tenth of a second in which it ends is over.
const LAPSE_TICK_MS: u64 = 100;

/// Commands that are sent one by one without waiting: fewer than the smallest ring has slots.
const AT_ONCE_MAX: usize = 40;

/// Keys in use: more than in the core's model, because much is asked at one moment.
const KEYS: Key = 60;

/// Positions that are kept to read on behind them.
const POSITIONS_MAX: usize = 64;

/// A change that the feed must tell.
#[derive(Debug, Clone, Copy)]
struct Due {
    change: Change,
    /// What lapsed together has no order of its own.
    together: u64,
}

/// What a command must be answered, and its subject as it stands then.
struct Expected {
    ask: Ask,
    key: Option<Key>,
    answer: crate::reference::Answer,
    shown: Option<Left>,
    /// How many changes a stock that is shown has had.
    changes: u64,
}

/// A position that came with a stock, from which whoever follows it goes on.
#[derive(Debug, Clone, Copy)]
struct Named {
    at: Position,
    sku: Name,
    /// How many changes of the stock were shown with it. None behind these may be missing behind the position.
    changes: u64,
    /// Whether none of these comes again either.
    is_exact: bool,
}

impl Expected {
    /// Itself, for whoever reads of a failure.
    fn told(&self) -> String {
        format!("{:?} for {:?} with key {:?}, {:?}", self.answer, self.ask, self.key, self.shown)
    }
}

pub(crate) struct World<'a> {
    ground: Ground,
    node: Option<Node>,
    reference: Reference,
    /// The latest moment that the node was shown: it never decides earlier.
    now: u64,
    /// What its clock shows.
    clock: u64,
    asked: Vec<(Ask, Option<Key>)>,
    created: Vec<(Name, StockId)>,
    changes: BTreeMap<Name, Vec<Due>>,
    together: u64,
    /// Up to where the feed was read, and what it told last of each stream.
    cursor: Option<Cursor>,
    told: BTreeMap<Name, usize>,
    told_last: BTreeMap<StreamId, (Timestamp, ChangeId)>,
    /// The newest that were named.
    positions: VecDeque<Named>,
    seen: &'a mut Seen,
}

fn options(rng: &mut SmallRng) -> EngineOptions {
    let mut one_of = |values: &[usize]| *values.choose(rng).unwrap();
    EngineOptions {
        ring_slots: one_of(&[64, 1_024]),
        batch_commands_max: one_of(&[1, 3, 64, 1_024]),
        group_events_max: u32::try_from(one_of(&[1, 5, 16_384])).unwrap(),
        group_bytes_max: one_of(&[1, 500, 1_048_576]),
        groups_in_flight_max: one_of(&[1, 2, 4]),
        resolved_in_memory_max: one_of(&[0, 0, 3, 30, 1_000]),
        recalls_in_flight_max: 1_024,
        known_filter_bytes_max: 4 * 1024,
        ..EngineOptions::default()
    }
}

impl<'a> World<'a> {
    pub(crate) fn new(rng: &mut SmallRng, seen: &'a mut Seen) -> Self {
        let idempotency_seconds = rng.random_range(3..=40);
        let retention_seconds = idempotency_seconds + rng.random_range(0..=80);
        let rules = Rules {
            idempotency_seconds,
            idempotency_keys_max: 1_000_000,
            retention_seconds,
            reservations_in_memory_max: 1_000_000,
            users_in_memory_max: 1_000_000,
        };
        let now = 1_700_000_000_000 + rng.random_range(0..1_000);
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_ms(now)));
        let value_bytes_max = rng.random_bool(0.5).then_some(512);
        let ground = Ground::new(rules, rng.random_range(1..=3), options(rng), value_bytes_max, clock);
        let shards = ground.streams().map(|stream| ground.recover(stream, None)).map(|(ledger, tail, _)| (ledger, tail)).collect();
        let node = ground.start(shards);
        if ground.shards > 1 {
            seen.count("several shards");
        }
        Self {
            ground,
            node: Some(node),
            reference: Reference::new(u64::from(idempotency_seconds), u64::from(retention_seconds)),
            now,
            clock: now,
            asked: Vec::new(),
            created: Vec::new(),
            changes: BTreeMap::new(),
            together: 0,
            cursor: None,
            told: BTreeMap::new(),
            told_last: BTreeMap::new(),
            positions: VecDeque::new(),
            seen,
        }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("a node runs between two steps")
    }

    /// Returns how many commands were decided.
    pub(crate) async fn step(&mut self, rng: &mut SmallRng) -> u64 {
        self.move_clock(rng).await;
        let decided = match rng.random_range(0..100) {
            0..25 => self.alone(rng).await,
            25..55 => self.batch(rng).await,
            55..75 => self.many_at_once(rng).await,
            75..83 => {
                self.compare_list(rng).await;
                0
            }
            83..90 => {
                self.compare_views();
                0
            }
            90..95 => self.take_snapshot(rng).await,
            95..97 => {
                self.start_again(rng).await;
                0
            }
            97 => {
                self.give_up_history();
                0
            }
            _ => {
                self.set_clock_back(rng).await;
                0
            }
        };
        if rng.random_bool(0.2) {
            self.read_feed(rng);
        }
        if rng.random_bool(0.1) {
            self.read_behind_a_position(rng);
        }
        decided
    }

    /// Compares everything once more, the whole feed in one page, and stops the node.
    pub(crate) async fn finish(mut self, rng: &mut SmallRng) {
        self.compare_views();
        self.start_again(rng).await;
        while self.told.values().sum::<usize>() < self.changes.values().map(Vec::len).sum() {
            self.read_feed(rng);
        }
        let page = self.node().feed.read(None, 1_000_000).unwrap();
        (self.cursor, self.told, self.told_last) = (None, BTreeMap::new(), BTreeMap::new());
        for event in &page.events {
            self.compare_event(event);
        }
        assert_eq!(self.told, self.changes.iter().map(|(sku, changes)| (*sku, changes.len())).collect(), "changes told");
        self.node.take().expect("a node runs").stop().await;
    }

    // What is asked.

    async fn move_clock(&mut self, rng: &mut SmallRng) {
        if self.clock < self.now && rng.random_bool(0.7) {
            return;
        }
        self.now = self.picker().later(rng);
        self.show(self.now);
        let is_due = |one: &&Reservation| {
            let end = one.expires_at - one.expires_at % LAPSE_TICK_MS + LAPSE_TICK_MS - 1;
            one.held() > 0 && end <= self.now
        };
        let due: Vec<Grant> = self.reference.reservations().filter(is_due).map(|one| one.grant).collect();
        if due.is_empty() {
            self.ask_every_shard().await;
            return;
        }
        self.together += 1;
        for grant in due {
            self.reference.lapse(grant, self.now).expect("it is over");
            self.seen.count("lapsed by the clock");
        }
        self.note_changes();
        self.ask_every_shard().await;
    }

    fn show(&mut self, moment: u64) {
        self.clock = moment;
        self.ground.clock.set(Timestamp::from_unix_ms(moment));
    }

    async fn set_clock_back(&mut self, rng: &mut SmallRng) {
        // Only what a shard has seen binds it.
        self.show(self.now);
        self.ask_every_shard().await;
        self.show(self.now - rng.random_range(1..3_000));
        self.seen.count("the clock was set back");
    }

    /// Has every shard see what the clock shows: each is asked for a reservation that never was, and answers. Twice, because a shard that was
    /// just looking for work may have read its clock before the first question came.
    async fn ask_every_shard(&self) {
        for _ in 0..2 {
            self.ask_every_shard_once().await;
        }
    }

    async fn ask_every_shard_once(&self) {
        let router = Router::new(self.ground.shards);
        for stream in self.ground.streams() {
            let of_shard = |partition: &Partition| router.shard_of(*partition).map(ShardNumber::stream) == Some(stream);
            let partition = (0..PARTITIONS).map(Partition).find(of_shard).expect("every shard owns a partition");
            let stock = StockId { partition, number: StockNumber(1_000_000) };
            let reservation = ReservationId { stock, sequence: GrantSequence(1) };
            let question = Submission { command: Command::ReadReservation { reservation }, key: None, actor: actor() };
            let found = answer(self.node().engine.try_submit(question).unwrap()).await;
            assert_eq!(found, Err(Failure::Rejection(Rejection::UnknownReservation)));
        }
    }

    fn picker(&self) -> Picker<'_> {
        Picker { reference: &self.reference, now: self.now, asked: &self.asked, keys: KEYS }
    }

    async fn alone(&mut self, rng: &mut SmallRng) -> u64 {
        let (ask, key) = self.picker().pick(rng);
        let (submission, expected) = self.decide(ask, key);
        let found = answer(self.node().engine.try_submit(submission).unwrap()).await;
        self.compare_answer(found, &expected);
        self.seen.count("alone");
        1
    }

    /// Commands that are decided in the order given, whatever each of them waits for.
    fn choose_batch(&mut self, rng: &mut SmallRng) -> (Vec<Submission>, Vec<Expected>) {
        let length = *[3, 20, 100, 300].choose(rng).unwrap();
        (0..rng.random_range(1..=length))
            .map(|_| {
                let (ask, key) = self.picker().pick(rng);
                self.decide(ask, key)
            })
            .unzip()
    }

    async fn batch(&mut self, rng: &mut SmallRng) -> u64 {
        let (submissions, expected) = self.choose_batch(rng);
        let pending = self.node().engine.submit_batch(submissions).outcomes();
        let outcomes = tokio::time::timeout(PATIENCE, pending).await.expect("answers within the tests' patience");
        self.compare_answers(outcomes, &expected);
        self.seen.count("batch");
        expected.len() as u64
    }

    /// Commands that are sent one after the other without waiting. None of them waits for the history, which would let the next overtake
    /// it: what is held is in memory, and none names a reservation that another has named.
    async fn many_at_once(&mut self, rng: &mut SmallRng) -> u64 {
        let mut named: Vec<Grant> = Vec::new();
        // Whoever does not wait can be told that something is sold out from any view that was shown meanwhile, and not in the order of
        // sending: of each stock that something was asked of, the fewest units that may have been shown.
        let mut fewest: BTreeMap<Name, u64> = BTreeMap::new();
        let (mut pending, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(1..=AT_ONCE_MAX) {
            let (ask, _) = self.picker().pick(rng);
            if let Some(grant) = ask.grant() {
                let is_held = self.reference.reservation(grant).is_some_and(|one| one.held() > 0);
                if !is_held || named.contains(&grant) {
                    continue;
                }
                named.push(grant);
            }
            let available = |reference: &Reference| reference.stock(ask.sku()).map_or(u64::MAX, Stock::available);
            let shown = fewest.get(ask.sku()).copied();
            if let Ask::Reserve { quantity, .. } = ask
                && shown.is_some_and(|shown| shown < quantity)
            {
                continue;
            }
            let before = available(&self.reference);
            let (submission, due) = self.decide(ask, None);
            fewest.insert(ask.sku(), shown.unwrap_or(u64::MAX).min(before).min(available(&self.reference)));
            pending.push(self.node().engine.try_submit(submission).unwrap());
            expected.push(due);
        }
        let mut outcomes = Vec::new();
        for pending in pending {
            outcomes.push(answer(pending).await);
        }
        self.compare_answers(outcomes, &expected);
        self.seen.count("many at once");
        expected.len() as u64
    }

    /// Has the naive ledger decide `ask`, and says what the engine is to be asked and must answer.
    fn decide(&mut self, ask: Ask, key: Option<Key>) -> (Submission, Expected) {
        let command = command_of(&ask, partition_of, |grant| self.id(grant));
        let (answer, lapsed) = self.reference.ask(&ask, key, self.now);
        if lapsed.is_some() {
            self.seen.count("lapsed by a command");
        }
        let shown = match answer {
            crate::reference::Answer::Stock { sku, created, .. } => {
                if created && !self.created.iter().any(|(known, _)| *known == sku) {
                    self.created.push((sku, self.next_stock_id(sku)));
                }
                self.reference.stock(sku).map(|stock| Left::Stock(stock.row(self.now)))
            }
            crate::reference::Answer::Reservation { grant, replayed, .. } => {
                if replayed {
                    self.seen.count("replayed");
                }
                self.reference.reservation(grant).copied().map(Left::Reservation)
            }
            crate::reference::Answer::No(no) => {
                self.seen.count(no.name());
                None
            }
        };
        self.together += 1;
        self.note_changes();
        self.asked.push((ask, key));
        let key_text = key.map(|key| IdempotencyKey::new(&format!("k{key}")).unwrap());
        let changes = match &shown {
            Some(Left::Stock(_)) => self.changes[ask.sku()].len() as u64,
            _ => 0,
        };
        (Submission { command, key: key_text, actor: actor() }, Expected { ask, key, answer, shown, changes })
    }

    fn note_changes(&mut self) {
        for change in self.reference.changes.drain(..) {
            self.seen.count(match change.kind {
                Kind::Created => "change Created",
                Kind::Changed => "change Changed",
                Kind::Adjusted => "change Adjusted",
                Kind::Paused => "change Paused",
                Kind::Reopened => "change Reopened",
                Kind::Closed => "change Closed",
                Kind::Archived => "change Archived",
                Kind::Reserved => "change Reserved",
                Kind::Confirmed => "change Confirmed",
                Kind::Released => "change Released",
                Kind::Lapsed => "change Lapsed",
                Kind::Returned => "change Returned",
                Kind::Extended => "change Extended",
            });
            self.changes.entry(change.sku).or_default().push(Due { change, together: self.together });
        }
    }

    // What is compared.

    fn compare_answers(&mut self, found: Vec<Result<Answer, Failure>>, expected: &[Expected]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            self.compare_answer(found, expected);
        }
    }

    fn compare_answer(&mut self, found: Result<Answer, Failure>, expected: &Expected) {
        use crate::reference::Answer as Naive;
        if let (Naive::Stock { created, replayed, .. } | Naive::Reservation { created, replayed, .. }, Ok(found)) =
            (expected.answer, &found)
        {
            assert_eq!((found.created, found.replayed), (created, replayed), "{}", expected.told());
        }
        match (expected.answer, found) {
            (Naive::No(no), Err(Failure::Rejection(rejection))) => assert_eq!(no_of(rejection), no, "{}", expected.told()),
            (Naive::Stock { sku, .. }, Ok(Answer { content: Content::Stock(shown), .. })) => {
                let Some(Left::Stock(row)) = &expected.shown else { panic!("{}", expected.told()) };
                assert_eq!(shown.view.id, self.stock_id(sku), "{}", expected.told());
                compare_stock_view(sku, row, &shown.view);
                assert_eq!(stock_state_name(shown.state), row.state, "{}", expected.told());
                self.keep(Named { at: shown.as_of, sku, changes: expected.changes, is_exact: false });
            }
            (Naive::Reservation { grant, .. }, Ok(Answer { content: Content::Reservation(view), .. })) => {
                let Some(Left::Reservation(row)) = &expected.shown else { panic!("{}", expected.told()) };
                assert_eq!(view.id, self.id(grant), "{}", expected.told());
                compare_view(row, &view);
            }
            (_, found) => panic!("{found:?} where {} is due", expected.told()),
        }
    }

    fn compare_views(&mut self) {
        let engine = &self.node().engine;
        let mut expected: Vec<&Stock> = self.reference.stocks.iter().collect();
        expected.sort_by_key(|stock| stock.sku);
        let found = engine.stocks(None, 1_000);
        assert_eq!(found.iter().map(|found| found.view.sku.as_str()).collect::<Vec<_>>(), names(&expected));
        let mut named = Vec::new();
        for (stock, found) in expected.iter().zip(&found) {
            let row = stock.row(self.clock);
            assert_eq!(found.view.id, self.stock_id(stock.sku));
            compare_stock_view(stock.sku, &row, &found.view);
            assert_eq!(stock_state_name(found.state), row.state, "state of {}", stock.sku);
            named.push(Named { at: found.as_of, sku: stock.sku, changes: self.changes[stock.sku].len() as u64, is_exact: true });
        }
        for named in named {
            self.keep(named);
        }
        self.seen.count("views");
    }

    async fn compare_list(&mut self, rng: &mut SmallRng) {
        let sku = *SKUS.choose(rng).unwrap();
        let user = rng.random_bool(0.5).then(|| *USERS.choose(rng).unwrap());
        let states = [
            ReservationState::Reserved,
            ReservationState::Confirmed,
            ReservationState::Released,
            ReservationState::Expired,
            ReservationState::Returned,
        ];
        let state = rng.random_bool(0.4).then(|| *states.choose(rng).unwrap());
        let limit = *[7, 30, 1_000].choose(rng).unwrap();
        let mut query = ListReservations {
            sku: Sku::new(sku).unwrap(),
            user: user.map(|user| UserId::new(user).unwrap()),
            state,
            before: None,
            limit,
        };
        let Some(stock) = self.reference.stock(sku) else {
            let found = self.node().engine.list(&query).await;
            assert_eq!(found, Err(Failure::Rejection(Rejection::UnknownSku)));
            return;
        };
        let mut found = Vec::new();
        let mut pages = 0;
        loop {
            let page = self.node().engine.list(&query).await.unwrap();
            pages += 1;
            assert!(page.reservations.len() <= limit);
            found.extend(page.reservations);
            query.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        let fits = |one: &&Reservation| {
            let is_wanted = state.is_none_or(|state| state_name(state) == one.state());
            is_wanted && user.is_none_or(|user| user == one.user) && self.reference.is_retained(one, self.clock)
        };
        let expected: Vec<&Reservation> = stock.reservations.iter().rev().filter(fits).collect();
        let sequences: Vec<u64> = found.iter().map(|view| view.id.sequence.0).collect();
        let expected_sequences: Vec<u64> = expected.iter().map(|one| one.grant.sequence).collect();
        assert_eq!(sequences, expected_sequences, "list of {sku} of {user:?} in {state:?}");
        for (row, view) in expected.iter().zip(&found) {
            compare_view(row, view);
        }
        self.seen.count(if pages > 2 { "list of several pages" } else { "list" });
    }

    /// Reads on in the feed, sometimes not to its end.
    fn read_feed(&mut self, rng: &mut SmallRng) {
        let pages = rng.random_range(1..10);
        for _ in 0..pages {
            let limit = *[1, 5, 100].choose(rng).unwrap();
            let page = self.node().feed.read(self.cursor.as_ref(), limit).unwrap();
            assert!(page.events.len() <= limit);
            for event in &page.events {
                self.compare_event(event);
            }
            let is_end = page.events.is_empty();
            // A cursor is a text to its holder.
            self.cursor = Some(page.next.to_string().parse().unwrap());
            if is_end {
                assert_eq!(self.told, self.changes.iter().map(|(sku, changes)| (*sku, changes.len())).collect(), "changes told");
                return;
            }
        }
    }

    fn keep(&mut self, named: Named) {
        if self.positions.len() == POSITIONS_MAX {
            self.positions.pop_front();
        }
        self.positions.push_back(named);
    }

    /// Whoever goes on from a stock that was shown misses none of its changes.
    fn read_behind_a_position(&mut self, rng: &mut SmallRng) {
        let Some(named) = self.positions.get(rng.random_range(0..POSITIONS_MAX)).copied() else { return };
        // A position is a text to its holder.
        let mut cursor: Cursor = named.at.to_string().parse().unwrap();
        let first = loop {
            let page = self.node().feed.read(Some(&cursor), 100).unwrap();
            let of_stock = page.events.iter().find(|event| event.sku.as_str() == named.sku);
            if of_stock.is_some() || page.events.is_empty() {
                break of_stock.map(|event| event.sku_sequence.0);
            }
            cursor = page.next;
        };
        let all = self.changes[named.sku].len() as u64;
        let next = (all > named.changes).then_some(named.changes + 1);
        let is_right = first == next || (!named.is_exact && first.is_some_and(|first| first <= named.changes));
        assert!(is_right, "behind {named:?} comes change {first:?} where {next:?} is due");
        self.seen.count("read behind a position");
    }

    fn compare_event(&mut self, event: &FeedEvent) {
        let last = self.told_last.insert(event.id.stream, (event.at, event.id));
        assert!(last.is_none_or(|(at, id)| at <= event.at && id < event.id), "{event:?} after {last:?}");
        let sku = SKUS.into_iter().find(|sku| *sku == event.sku.as_str()).unwrap();
        let place = *self.told.entry(sku).and_modify(|told| *told += 1).or_insert(1) - 1;
        let id = |world: &Self, due: &Due| match due.change.left {
            Left::Reservation(row) => Some(world.id(row.grant)),
            Left::Stock(_) => None,
        };
        let found_id = match &event.changed {
            Changed::Reservation(view) => Some(view.id),
            Changed::Stock { .. } => None,
        };
        let all = &self.changes[sku];
        let first = all.get(place).unwrap_or_else(|| panic!("{event:?} where nothing is due"));
        let together = |due: &&Due| due.together == first.together && first.change.kind == Kind::Lapsed;
        let alike = all[place..].iter().take_while(together).position(|due| id(self, due) == found_id).unwrap_or(0);
        self.changes.get_mut(sku).unwrap().swap(place, place + alike);
        let change = self.changes[sku][place].change;
        let kind = match event.kind {
            ChangeKind::StockCreated => Kind::Created,
            ChangeKind::StockChanged => Kind::Changed,
            ChangeKind::StockAdjusted => Kind::Adjusted,
            ChangeKind::StockPaused => Kind::Paused,
            ChangeKind::StockReopened => Kind::Reopened,
            ChangeKind::StockClosed => Kind::Closed,
            ChangeKind::StockArchived => Kind::Archived,
            ChangeKind::Reserved => Kind::Reserved,
            ChangeKind::Confirmed => Kind::Confirmed,
            ChangeKind::Released => Kind::Released,
            ChangeKind::Expired => Kind::Lapsed,
            ChangeKind::Returned => Kind::Returned,
            ChangeKind::Extended => Kind::Extended,
        };
        assert_eq!((kind, event.at.unix_ms()), (change.kind, change.at), "{event:?} where {change:?} is due");
        assert_eq!(event.sku_sequence.0, place as u64 + 1, "{event:?}");
        let by = if kind == Kind::Lapsed { Actor::Clock } else { Actor::Key(actor()) };
        assert_eq!(event.actor, by, "{event:?}");
        match (&event.changed, &change.left) {
            (Changed::Reservation(view), Left::Reservation(row)) => {
                assert_eq!(view.id, self.id(row.grant), "{event:?} where {change:?} is due");
                compare_view(row, view);
            }
            (Changed::Stock { view, state, adjustment }, Left::Stock(row)) => {
                assert_eq!(view.id, self.stock_id(sku));
                compare_stock_view(sku, row, view);
                assert_eq!(stock_state_name(*state), row.state, "{event:?}");
                let adjustment = adjustment.as_ref().map(|(delta, reason)| (delta.units(), reason.as_str()));
                assert_eq!(adjustment, row.adjustment, "{event:?}");
            }
            (found, expected) => panic!("{found:?} where {expected:?} is due"),
        }
    }

    // The lives of the node.

    async fn take_snapshot(&mut self, rng: &mut SmallRng) -> u64 {
        let stream = StreamId::log(rng.random_range(0..self.ground.shards));
        if rng.random_bool(0.5) {
            let copy = self.node().copy(stream).await;
            let snapshot = self.node().snapshot(stream, copy);
            self.ground.snapshots.insert(stream, snapshot);
            self.seen.count("snapshot");
            return 0;
        }
        let (submissions, expected) = self.choose_batch(rng);
        let pending = self.node().engine.submit_batch(submissions);
        let copy = self.node().copy(stream).await;
        let outcomes = tokio::time::timeout(PATIENCE, pending.outcomes()).await.expect("answers within the tests' patience");
        self.compare_answers(outcomes, &expected);
        let snapshot = self.node().snapshot(stream, copy);
        self.ground.snapshots.insert(stream, snapshot);
        self.seen.count("snapshot amid changes");
        expected.len() as u64
    }

    /// What nobody can ask for any more leaves the history, as the upkeep of a node has it.
    fn give_up_history(&mut self) {
        let kept_ms = u64::from(self.ground.rules.retention_seconds + self.ground.rules.idempotency_seconds) * 1_000;
        let over = Timestamp::from_unix_ms(self.now - kept_ms);
        while self.ground.history.remove_resolved_before(over).unwrap() > 0 {
            self.seen.count("given up by the history");
        }
    }

    /// The node stops, and another begins from the log, some of its shards with their snapshots.
    async fn start_again(&mut self, rng: &mut SmallRng) {
        // Without answers a node forgets to when its clock was set.
        self.show(self.now);
        self.node.take().expect("a node runs").stop().await;
        let (mut shards, mut passed_over) = (Vec::new(), Vec::new());
        for stream in self.ground.streams() {
            let (mut ledger, tail, recalled) = self.ground.recover(stream, None);
            if recalled > 0 {
                self.seen.count("recalled");
            }
            self.compare_recovered(stream, &mut ledger);
            if let Some(snapshot) = self.ground.snapshots.get(&stream) {
                let (mut other, other_tail, _) = self.ground.recover(stream, Some(snapshot));
                assert_eq!(other_tail.position(), tail.position(), "where the log of {stream} ends");
                if other.reservation_count() < ledger.reservation_count() {
                    self.seen.count("out of memory at a new start");
                }
                self.compare_recovered(stream, &mut other);
                let over_ms = tail.last_time.unix_ms().saturating_sub(u64::from(self.ground.rules.idempotency_seconds) * 1_000);
                whole(&mut other, over_ms).assert_lasts_as(&whole(&mut ledger, over_ms));
                if rng.random_bool(0.7) {
                    self.seen.count("begun with a snapshot");
                    shards.push((other, other_tail));
                    continue;
                }
            }
            self.seen.count("begun with the log alone");
            shards.push((ledger, tail));
            passed_over.push(stream);
        }
        // A node that has in memory what was not in a snapshot changes it without recalling it: that snapshot leads nowhere any more.
        self.ground.snapshots.retain(|stream, _| !passed_over.contains(stream));
        self.ground.options = options(rng);
        self.node = Some(self.ground.start(shards));
        self.compare_views();
    }

    /// A ledger that a shard begins with holds what the naive one says.
    fn compare_recovered(&self, stream: StreamId, ledger: &mut Ledger) {
        let router = Router::new(self.ground.shards);
        let own = |sku: Name| router.shard_of(partition_of(&Sku::new(sku).unwrap())).map(ShardNumber::stream) == Some(stream);
        let committed = ledger.last_applied();
        ledger.tidy(committed, usize::MAX);
        assert_eq!(ledger.key_count(), self.reference.remembered_keys(committed.unix_ms(), own), "keys of {stream}");
        let (mut open_holds, mut in_memory) = (0, 0);
        for stock in self.reference.stocks.iter().filter(|stock| own(stock.sku)) {
            let id = self.stock_id(stock.sku);
            compare_stock_view(stock.sku, &stock.row(self.now), &ledger.stock(id).expect("the stock is there"));
            for user in USERS {
                let units = ledger.user_units(id, &UserId::new(user).unwrap());
                assert_eq!(units, stock.units_of(user), "units of {user} of {}", stock.sku);
            }
            for row in &stock.reservations {
                open_holds += u64::from(row.held() > 0);
                let id = self.id(row.grant);
                if let Some(view) = ledger.reservation(id) {
                    in_memory += 1;
                    compare_view(row, &view);
                } else {
                    let kept = self.ground.history.get(HistoryKey { stock: id.stock, sequence: id.sequence }).unwrap();
                    assert!(kept.is_some() || !self.reference.is_shown(row, self.now), "lost: {row:?}");
                }
            }
        }
        assert_eq!(
            (ledger.open_holds(), ledger.reservation_count()),
            (open_holds, in_memory),
            "holds and reservations of {stream}"
        );
        assert_eq!(ledger.stock_count(), self.reference.stocks.iter().filter(|stock| own(stock.sku)).count());
    }

    // Names.

    /// The place of the next stock: its number follows the order of creation within its partition.
    fn next_stock_id(&self, sku: Name) -> StockId {
        let partition = partition_of(&Sku::new(sku).unwrap());
        let earlier = self.created.iter().filter(|(_, id)| id.partition == partition).count();
        StockId { partition, number: StockNumber(u32::try_from(earlier).unwrap() + 1) }
    }

    fn stock_id(&self, sku: Name) -> StockId {
        let found = self.created.iter().find(|(name, _)| *name == sku).map(|(_, id)| *id);
        found.unwrap_or_else(|| self.next_stock_id(sku))
    }

    fn id(&self, grant: Grant) -> ReservationId {
        ReservationId { stock: self.stock_id(grant.sku), sequence: GrantSequence(grant.sequence) }
    }
}

fn names<'a>(stocks: &[&'a Stock]) -> Vec<&'a str> {
    stocks.iter().map(|stock| stock.sku).collect()
}
