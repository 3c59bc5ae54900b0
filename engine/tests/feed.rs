//! The change feed over a log that is read while it is written.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex};
use support::{PATIENCE, RULES, START, create, reservation, reserve, sku};
use tidegate_engine::{
    Answer, ChangeKind, Changed, CommitProgress, Cursor, Engine, EngineMetrics, EngineOptions, EngineParts, Feed, FeedError,
    FeedEvent, LocalLog, ManualClock, Sealing, ShardStart, Submission, partition_of,
};
use tidegate_persistence::{
    Actor, ActorName, GroupSequence, LogIndex, LogStore, MemoryStore, NodeId, RecordKey, RecoveredStream, StreamId, SyncReport,
    Wal, WalError, WalListener, WalOptions,
};
use tidegate_stock::{
    Command, Delta, HoldSeconds, Ledger, LifeStep, Quantity, Reason, Reference, ReservationId, ReservationState, StockState,
    TermsPatch, Timestamp, UserId,
};

/// Tells the shards what the log has, but nothing while it is shut.
struct Gate {
    progress: Vec<Arc<CommitProgress>>,
    state: Mutex<GateState>,
    heard: Condvar,
}

#[derive(Default)]
struct GateState {
    is_shut: bool,
    durable: BTreeMap<StreamId, GroupSequence>,
}

impl Gate {
    fn shut(&self) {
        self.state.lock().is_shut = true;
    }

    fn open(&self) {
        let mut state = self.state.lock();
        state.is_shut = false;
        for (stream, sequence) in &state.durable {
            self.progress[usize::from(stream.0)].commit(*sequence);
        }
    }

    fn wait_durable(&self, stream: StreamId, sequence: u64) {
        let mut state = self.state.lock();
        let is_there = |state: &mut GateState| state.durable.get(&stream).is_none_or(|durable| durable.0 < sequence);
        assert!(!self.heard.wait_while_for(&mut state, is_there, PATIENCE).timed_out(), "group {sequence} should become durable");
    }
}

impl WalListener for Gate {
    fn committed(&self, stream: StreamId, sequence: GroupSequence) {
        let mut state = self.state.lock();
        state.durable.insert(stream, sequence);
        if !state.is_shut {
            self.progress[usize::from(stream.0)].commit(sequence);
        }
        self.heard.notify_all();
    }

    fn synced(&self, _: &SyncReport) {}

    fn disk_low(&self, _: bool) {}

    fn failed(&self, error: &WalError) {
        panic!("the log failed: {error}");
    }
}

/// An engine over a log in memory, and its feed.
struct Rig {
    engine: Engine,
    feed: Feed,
    clock: Arc<ManualClock>,
    gate: Arc<Gate>,
    store: MemoryStore,
    wal: Wal,
}

fn rig(shards: u16) -> Rig {
    let streams: Vec<StreamId> = (0..shards).map(StreamId::log).collect();
    let progress: Vec<_> = streams.iter().map(|_| CommitProgress::new(GroupSequence(0))).collect();
    let gate = Arc::new(Gate { progress: progress.clone(), state: Mutex::default(), heard: Condvar::new() });
    let store = MemoryStore::new();
    let tails = streams.iter().map(|stream| RecoveredStream::empty(*stream));
    let wal = Wal::start_on(Box::new(store.clone()), NodeId(1), tails, WalOptions::default(), gate.clone()).unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let sealing = Sealing::new(&[7; 32]);
    let engine = Engine::start(EngineParts {
        options: EngineOptions::default(),
        sealing: sealing.clone(),
        clock: Arc::<ManualClock>::clone(&clock),
        metrics: Arc::new(EngineMetrics::default()),
        disk_low: Arc::new(AtomicBool::new(false)),
        history: None,
        shards: streams
            .iter()
            .zip(progress)
            .map(|(stream, progress)| ShardStart {
                ledger: Ledger::new(RULES, sealing.table_seed()),
                log: Box::new(LocalLog::new(wal.writer(), *stream)),
                progress,
                quorum: None,
            })
            .collect(),
    });
    let engine = engine.unwrap();
    let feed = Feed::new(engine.clone(), wal.reader());
    Rig { engine, feed, clock, gate, store, wal }
}

impl Rig {
    async fn ask(&self, command: Command) -> Answer {
        let actor = ActorName::new("tests").unwrap();
        support::answer(self.engine.try_submit(Submission { command, key: None, actor }).unwrap()).await.unwrap()
    }

    async fn submit(&self, submission: Submission) -> Answer {
        support::answer(self.engine.try_submit(submission).unwrap()).await.unwrap()
    }

    /// Commands that are committed as one group of each shard.
    async fn together(&self, submissions: Vec<Submission>) -> Vec<Answer> {
        let outcomes = self.engine.submit_batch(submissions).outcomes().await;
        outcomes.into_iter().map(Result::unwrap).collect()
    }

    fn read(&self, after: Option<&Cursor>, limit: usize) -> (Vec<FeedEvent>, Cursor) {
        let page = self.feed.read(after, limit).unwrap();
        (page.events, page.next)
    }

    /// Everything in one page.
    fn all(&self) -> Vec<FeedEvent> {
        self.read(None, 100_000).0
    }

    fn error(&self, after: &str) -> FeedError {
        self.feed.read(Some(&after.parse().unwrap()), 10).unwrap_err()
    }

    /// Takes the groups of `stream` before `group` out of the log.
    fn give_up(&self, stream: u16, group: u64) {
        let from = RecordKey { stream: StreamId::log(stream), index: LogIndex(1), part: 0 };
        self.store.remove(from, LogIndex(group - 1)).unwrap();
    }
}

fn after(milliseconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(START.unix_ms() + milliseconds)
}

fn ids(events: &[FeedEvent]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// The `number`-th name whose product belongs to `shard` of two.
fn name_on(shard: u16, number: usize) -> String {
    let mut names = (0..).map(|name| format!("p-{name}")).filter(|name| partition_of(&sku(name)).0 / 512 == shard);
    names.nth(number).unwrap()
}

/// Checks that a whole feed numbers the changes of every product from 1 without a gap, that times never run backwards within a stream,
/// and that no name is there twice.
fn check_order(events: &[FeedEvent]) {
    let (mut changes, mut times, mut names) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for event in events {
        let change: &mut u64 = changes.entry(event.sku.clone()).or_default();
        *change += 1;
        assert_eq!(event.sku_sequence.0, *change, "{event:?}");
        let last = times.insert(event.id.stream, (event.at, event.id));
        assert!(last.is_none_or(|(at, id)| at <= event.at && id < event.id), "{event:?} after {last:?}");
        assert!(names.insert(event.id), "{event:?} is there twice");
    }
}

const fn step(sku: tidegate_stock::Sku, step: LifeStep) -> Command {
    Command::StepStock { sku, step }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change_is_shown_as_it_stood_right_after_it() {
    let rig = rig(1);
    let shoe = || sku("shoe");
    let one = Quantity::ONE;
    let terms = TermsPatch { per_user_limit: Some(Some(Quantity::new(9).unwrap())), ..TermsPatch::default() };
    rig.submit(create("shoe", 10, 600)).await;
    rig.ask(Command::ChangeStock { sku: shoe(), patch: terms, if_revision: None }).await;
    let (delta, reason) = (Delta::new(-3).unwrap(), Reason::new("damaged").unwrap());
    rig.ask(Command::AdjustStock { sku: shoe(), delta, reason: reason.clone() }).await;
    rig.ask(step(shoe(), LifeStep::Pause)).await;
    rig.ask(step(shoe(), LifeStep::Reopen)).await;
    rig.clock.set(after(1_000));
    let reference = Some(Reference::new("order-7").unwrap());
    let reserve = Command::Reserve {
        sku: shoe(),
        user: UserId::new("ann").unwrap(),
        quantity: Quantity::new(4).unwrap(),
        hold_seconds: None,
        reference: reference.clone(),
    };
    let first = reservation(Ok(rig.ask(reserve).await)).id;
    rig.clock.set(after(2_000));
    rig.ask(Command::Confirm { reservation: first, quantity: Some(Quantity::new(2).unwrap()) }).await;
    rig.ask(Command::Release { reservation: first, quantity: Some(one) }).await;
    rig.ask(Command::Extend { reservation: first, hold_seconds: HoldSeconds::new(60).unwrap() }).await;
    rig.ask(Command::Return { reservation: first, quantity: Some(one) }).await;
    // Finding it due lapses it.
    rig.clock.set(after(62_000));
    let lapsed = reservation(Ok(rig.ask(Command::ReadReservation { reservation: first }).await));
    rig.ask(step(shoe(), LifeStep::Close)).await;
    rig.ask(step(shoe(), LifeStep::Archive)).await;

    let events = rig.all();
    check_order(&events);
    let shown: Vec<_> = events.iter().map(|event| (event.kind, event.at, event.actor.clone())).collect();
    let key = || Actor::Key(ActorName::new("tests").unwrap());
    assert_eq!(
        shown,
        [
            (ChangeKind::StockCreated, START, key()),
            (ChangeKind::StockChanged, START, key()),
            (ChangeKind::StockAdjusted, START, key()),
            (ChangeKind::StockPaused, START, key()),
            (ChangeKind::StockReopened, START, key()),
            (ChangeKind::Reserved, after(1_000), key()),
            (ChangeKind::Confirmed, after(2_000), key()),
            (ChangeKind::Released, after(2_000), key()),
            (ChangeKind::Extended, after(2_000), key()),
            (ChangeKind::Returned, after(2_000), key()),
            (ChangeKind::Expired, after(62_000), Actor::Clock),
            (ChangeKind::StockClosed, after(62_000), key()),
            (ChangeKind::StockArchived, after(62_000), key()),
        ]
    );

    let stocks: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.changed {
            Changed::Stock { view, state, adjustment } => {
                Some(([view.allotted, view.available, view.reserved, view.sold], *state, adjustment.clone()))
            }
            Changed::Reservation(_) => None,
        })
        .collect();
    assert_eq!(
        stocks,
        [
            ([10, 10, 0, 0], StockState::Open, None),
            ([10, 10, 0, 0], StockState::Open, None),
            ([7, 7, 0, 0], StockState::Open, Some((delta, reason))),
            ([7, 7, 0, 0], StockState::Paused, None),
            ([7, 7, 0, 0], StockState::Open, None),
            ([7, 6, 0, 1], StockState::Closed, None),
            ([7, 6, 0, 1], StockState::Archived, None),
        ]
    );

    let reservations: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.changed {
            Changed::Reservation(view) => {
                assert_eq!((view.id, &view.reference, view.reserved_at), (first, &reference, after(1_000)));
                assert_eq!(rig.feed.seal(event), Some(rig.engine.seal(first)));
                let counts = [view.reserved, view.confirmed, view.released, view.returned];
                Some((counts, view.state, view.expires_at, view.resolved_at))
            }
            Changed::Stock { .. } => None,
        })
        .collect();
    let (reserved, agreed, extended) = (ReservationState::Reserved, after(601_000), after(62_000));
    assert_eq!(
        reservations,
        [
            ([4, 0, 0, 0], reserved, agreed, None),
            ([2, 2, 0, 0], reserved, agreed, None),
            ([1, 2, 1, 0], reserved, agreed, None),
            ([1, 2, 1, 0], reserved, extended, None),
            ([1, 1, 1, 1], reserved, extended, None),
            ([0, 1, 2, 1], ReservationState::Confirmed, extended, Some(extended)),
        ]
    );
    assert!(matches!(&events[10].changed, Changed::Reservation(view) if *view == lapsed));
}

/// Two shards with stocks, grants that come in one group each, and an expiry of many. Returns how many changes there are.
async fn busy(rig: &Rig) -> usize {
    let names: Vec<String> = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(shard, number)| name_on(shard, number)).into();
    for (name, now) in names.iter().zip(1..) {
        rig.clock.set(after(now * 10));
        rig.submit(create(name, 1_000, 60)).await;
    }
    let mut granted: Vec<ReservationId> = Vec::new();
    for round in 0..5_u64 {
        rig.clock.set(after(100 + round * 10));
        let grants = (0..60).map(|user| reserve(&names[user % names.len()], &format!("user-{user}"))).collect();
        granted.extend(rig.together(grants).await.into_iter().map(|answer| reservation(Ok(answer)).id));
    }
    rig.clock.set(after(1_000));
    for reservation in &granted[..20] {
        rig.submit(support::confirm(*reservation)).await;
    }
    // What is still held falls due; a shard lapses it before it takes the next command.
    rig.clock.set(after(120_000));
    for name in &names {
        rig.submit(reserve(name, "late")).await;
    }
    names.len() + granted.len() + 20 + (granted.len() - 20) + names.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_size_give_the_same_changes() {
    let rig = rig(2);
    let count = busy(&rig).await;
    let all = rig.all();
    assert_eq!(all.len(), count);
    check_order(&all);
    // Shards commit on their own, but everything here was waited for.
    assert!(all.windows(2).all(|pair| pair[0].at <= pair[1].at), "merged by time");
    assert!((0..2).all(|stream| all.iter().any(|event| event.id.stream.0 == stream)));
    for limit in [1, 2, 3, 7, 15, 16, 17, 33, 100, 1_000] {
        let (mut pages, mut cursor) = (Vec::new(), None);
        loop {
            let (events, next) = rig.read(cursor.as_ref(), limit);
            assert!(events.len() <= limit);
            assert!(events.len() == limit || pages.len() + events.len() == count, "a page is short only at the end");
            // A cursor travels as its text.
            cursor = Some(next.to_string().parse().unwrap());
            if events.is_empty() {
                assert_eq!(rig.read(cursor.as_ref(), limit), (Vec::new(), next));
                break;
            }
            pages.extend(events);
        }
        assert_eq!(pages, all, "pages of {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_can_be_resumed_behind_every_change_also_within_an_expiry_of_many() {
    let rig = rig(2);
    let count = busy(&rig).await;
    let page = rig.feed.read(None, 100_000).unwrap();
    let lapses: Vec<_> = page.events.iter().filter(|event| event.kind == ChangeKind::Expired).collect();
    assert!(
        lapses.len() == 280 && lapses.iter().map(|event| event.id.group).collect::<BTreeSet<_>>().len() < 10,
        "few groups hold them"
    );
    let mut cursor = page.from.clone();
    for (event, rest) in page.events.iter().zip(1..) {
        cursor.advance(event);
        let (found, next) = rig.read(Some(&cursor), 3);
        assert_eq!(found, page.events[rest..count.min(rest + 3)], "behind {}", event.id);
        if rest + 3 >= count {
            assert_eq!(next, page.next);
        }
    }
    assert_eq!(cursor, page.next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stocks_position_and_a_changes_name_are_cursors_too() {
    let rig = rig(2);
    let (here, there) = (name_on(0, 0), name_on(1, 0));
    rig.submit(create(&here, 10, 600)).await;
    rig.clock.set(after(1));
    rig.submit(create(&there, 10, 600)).await;
    rig.together(vec![reserve(&here, "a"), reserve(&here, "b")]).await;
    let as_of = rig.engine.stock(&sku(&here)).unwrap().as_of.to_string();
    assert_eq!(as_of, "0.2");
    rig.clock.set(after(2));
    rig.submit(reserve(&here, "c")).await;
    let read = |text: &str| ids(&rig.read(Some(&text.parse().unwrap()), 10).0);
    assert_eq!(read(&as_of), ["1.1.1", "0.3.1"]);
    // At the same moment the first stream goes first.
    assert_eq!(read("0.2.1"), ["0.2.2", "1.1.1", "0.3.1"]);
    assert_eq!(read("0.2.2"), ["1.1.1", "0.3.1"]);
    assert_eq!(read("0.3.1"), ["1.1.1"]);
    assert_eq!(read("1.1.1"), ["0.1.1", "0.2.1", "0.2.2", "0.3.1"]);
    assert_eq!(read("1.0"), ["0.1.1", "0.2.1", "0.2.2", "1.1.1", "0.3.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_is_not_shown() {
    let rig = rig(1);
    rig.submit(create("shoe", 10, 600)).await;
    let (events, end) = rig.read(None, 10);
    assert_eq!(ids(&events), ["0.1.1"]);
    let mut changes = rig.feed.changes();
    rig.gate.shut();
    let pending = rig.engine.try_submit(reserve("shoe", "ann")).unwrap();
    rig.gate.wait_durable(StreamId::log(0), 2);
    // It is on the disk, and this node may still not say so.
    assert_eq!(rig.read(Some(&end), 10), (Vec::new(), end.clone()));
    assert_eq!(rig.read(None, 10), (events, end.clone()));
    assert!(!changes.has_changed().unwrap());
    assert!(matches!(rig.error("0.2"), FeedError::Ahead { .. }));
    rig.gate.open();
    tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
    assert_eq!(ids(&rig.read(Some(&end), 10).0), ["0.2.1"]);
    support::answer(pending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_before_what_is_retained_has_expired_and_one_that_missed_nothing_has_not() {
    let rig = rig(2);
    let (here, there) = (name_on(0, 0), name_on(1, 0));
    rig.submit(create(&there, 10, 600)).await;
    rig.clock.set(after(1));
    rig.submit(create(&here, 10, 600)).await;
    let start = rig.feed.read(None, 1).unwrap();
    for user in ["a", "b", "c"] {
        rig.submit(reserve(&here, user)).await;
    }
    let all = rig.feed.read(None, 100).unwrap();
    let mut cursor = all.from.clone();
    let cursors: Vec<Cursor> = all.events.iter().map(|event| (cursor.advance(event), cursor.clone()).1).collect();
    // Three groups of the first stream go, and the only one of the second.
    rig.give_up(0, 4);
    rig.give_up(1, 2);
    for cursor in [&start.from, &cursors[0], &cursors[1], &cursors[2]] {
        let error = rig.feed.read(Some(cursor), 10).unwrap_err();
        let FeedError::Expired { stream, group, oldest, .. } = error else { panic!("{error:?}") };
        let places = [(0, 1, 4), (0, 2, 4), (0, 3, 4), (1, 1, 2)];
        assert!(places.contains(&(stream.0, group.0, oldest.0)), "{stream} {group:?} {oldest:?}");
    }
    // Behind the third group, which is the whole of it, nothing was missed.
    assert_eq!(ids(&rig.read(Some(&cursors[3]), 10).0), ["0.4.1"]);
    assert_eq!(rig.read(Some(&cursors[4]), 10), (Vec::new(), all.next.clone()));
    assert_eq!(ids(&rig.all()), ["0.4.1"]);
    assert_eq!(ids(&rig.read(Some(&"0.3".parse().unwrap()), 10).0), ["0.4.1"]);
    assert!(matches!(
        rig.error("0.2"),
        FeedError::Expired { stream: StreamId(0), group: GroupSequence(3), oldest: GroupSequence(4), .. }
    ));
    // Nothing at all is left.
    rig.give_up(0, 5);
    assert_eq!(rig.read(None, 10), (Vec::new(), all.next.clone()));
    assert_eq!(rig.read(Some(&all.next), 10), (Vec::new(), all.next));
    assert!(matches!(rig.error("0.3"), FeedError::Expired { oldest: GroupSequence(5), .. }));
    rig.submit(reserve(&here, "d")).await;
    assert_eq!(ids(&rig.all()), ["0.5.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_never_given_out_is_refused() {
    let (rig, one) = (rig(2), rig(1));
    rig.submit(create(&name_on(0, 0), 10, 600)).await;
    let foreign = one.feed.read(None, 1).unwrap().next;
    assert!(matches!(rig.error(&foreign.to_string()), FeedError::Foreign { given: 1, streams: 2 }));
    assert!(matches!(rig.error("2.0"), FeedError::Foreign { given: 3, streams: 2 }));
    assert!(matches!(rig.error("0.2"), FeedError::Ahead { group: GroupSequence(3), committed: GroupSequence(1), .. }));
    assert!(matches!(rig.error("0.2.1"), FeedError::Ahead { group: GroupSequence(2), committed: GroupSequence(1), .. }));
    assert!(matches!(rig.error("0.1.2"), FeedError::Beyond { done: 2, changes: 1, .. }));
    assert!(matches!(rig.error("1.1"), FeedError::Ahead { committed: GroupSequence(0), .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_is_that_of_the_slowest_reader_that_came_with_a_cursor() {
    let rig = rig(2);
    let (here, there) = (name_on(0, 0), name_on(1, 0));
    let room = || rig.feed.status().room_groups;
    rig.submit(create(&there, 10, 600)).await;
    rig.clock.set(after(1));
    rig.submit(create(&here, 10, 600)).await;
    for user in ["a", "b", "c", "d"] {
        rig.submit(reserve(&here, user)).await;
    }
    let all = rig.feed.read(None, 100).unwrap();
    assert_eq!(room(), None, "whoever begins at the oldest change has not been slow");
    // Everything of the second stream was read, so there is nothing to be lost there; five groups are left of the first.
    rig.read(Some(&all.next), 10);
    assert_eq!(room(), Some(5));
    let mut cursor = all.from.clone();
    for event in &all.events[..4] {
        cursor.advance(event);
    }
    rig.read(Some(&cursor), 10);
    assert_eq!(room(), Some(3));
    rig.give_up(0, 3);
    rig.read(Some(&cursor), 10);
    assert_eq!(room(), Some(1));
    // The one that is behind does not come any more.
    rig.clock.set(after(11 * 60_000));
    rig.read(Some(&all.next), 10);
    assert_eq!(room(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_whose_log_has_stopped_says_so() {
    let Rig { engine, feed, wal, .. } = rig(1);
    support::answer(engine.try_submit(create("shoe", 10, 600)).unwrap()).await.unwrap();
    engine.stop().await;
    wal.stop().unwrap();
    assert!(matches!(feed.read(None, 10), Err(FeedError::Stopped)));
}
