//! An engine over a log that commits when the test says so, on a clock that moves when the test says so.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tidegate_engine::{
    Answer, Clock, CommitLog, CommitProgress, Content, Engine, EngineMetrics, EngineOptions, EngineParts, Failure, HistoryStart,
    LedgerCopy, ManualClock, Pending, Sealing, ShardStart, Submission, partition_of, snapshot_items,
};
use tidegate_persistence::{ActorName, Group, GroupSequence, History, SNAPSHOT_BLOCK_BYTES_MAX, Term};
use tidegate_stock::{
    Allotment, Command, HoldSeconds, IdempotencyKey, Ledger, Loader, Quantity, ReservationId, ReservationView, Rules, Sku,
    StockTerms, Timestamp, UserId,
};

/// The longest that any wait of these tests may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The moment at which every test's clock starts.
pub const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// A log that keeps what is proposed and commits on command.
#[derive(Clone, Default)]
pub struct HeldLog {
    proposed: Arc<(Mutex<Vec<Group>>, Condvar)>,
}

impl CommitLog for HeldLog {
    fn propose(&mut self, _: Term, group: Group) {
        self.proposed.0.lock().push(group);
        self.proposed.1.notify_all();
    }
}

impl HeldLog {
    /// Waits until `count` groups have been proposed in all.
    pub fn wait_proposed(&self, count: usize) {
        let mut groups = self.proposed.0.lock();
        let timed_out = self.proposed.1.wait_while_for(&mut groups, |groups| groups.len() < count, PATIENCE).timed_out();
        assert!(!timed_out, "{} groups were proposed where {count} were expected", groups.len());
    }

    pub fn groups(&self) -> Vec<Group> {
        self.proposed.0.lock().clone()
    }

    pub fn len(&self) -> usize {
        self.proposed.0.lock().len()
    }
}

/// A log that commits at once.
pub struct InstantLog(pub Arc<CommitProgress>, pub HeldLog);

impl CommitLog for InstantLog {
    fn propose(&mut self, term: Term, group: Group) {
        let sequence = group.sequence;
        self.1.propose(term, group);
        self.0.commit(sequence);
    }
}

pub struct Bench {
    pub engine: Engine,
    pub clock: Arc<ManualClock>,
    pub log: HeldLog,
    pub progress: Arc<CommitProgress>,
    pub disk_low: Arc<AtomicBool>,
    pub metrics: Arc<EngineMetrics>,
}

impl Bench {
    /// How many commands were refused for `reason` so far.
    pub fn refused(&self, reason: &str) -> u64 {
        let (mut registry, mut text) = (Registry::default(), String::new());
        self.metrics.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        let series = format!("refusals_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

pub const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 1_000_000,
    retention_seconds: 604_800,
    reservations_in_memory_max: 1_000_000,
    users_in_memory_max: 1_000_000,
};

/// One shard over a [`HeldLog`].
pub fn held(options: EngineOptions) -> Bench {
    bench(options, RULES, |_, log| Box::new(log.clone()))
}

/// One shard over an [`InstantLog`].
pub fn instant(options: EngineOptions) -> Bench {
    bench(options, RULES, |progress, log| Box::new(InstantLog(Arc::clone(progress), log.clone())))
}

/// One shard over an [`InstantLog`] that keeps no resolved reservation in memory but sends it to `history`.
pub fn tiered(options: EngineOptions, history: Arc<History>) -> Bench {
    let options = EngineOptions { resolved_in_memory_max: 0, ..options };
    let log_of = |progress: &Arc<CommitProgress>, log: &HeldLog| -> Box<dyn CommitLog> {
        Box::new(InstantLog(Arc::clone(progress), log.clone()))
    };
    start_with(options, RULES, None, Some(history), log_of)
}

/// The same over a [`HeldLog`].
pub fn tiered_held(options: EngineOptions, history: Arc<History>) -> Bench {
    let options = EngineOptions { resolved_in_memory_max: 0, ..options };
    start_with(options, RULES, None, Some(history), |_, log| Box::new(log.clone()))
}

/// One shard over an [`InstantLog`], on another clock than the manual one.
pub fn bench_on(clock: Arc<dyn Clock>, options: EngineOptions) -> Bench {
    start(options, RULES, Some(clock), |progress, log| Box::new(InstantLog(Arc::clone(progress), log.clone())))
}

pub fn bench(
    options: EngineOptions,
    rules: Rules,
    log_of: impl FnOnce(&Arc<CommitProgress>, &HeldLog) -> Box<dyn CommitLog>,
) -> Bench {
    start(options, rules, None, log_of)
}

/// One shard over an [`InstantLog`] that goes on with `ledger`, of which the newest group is `newest`.
pub fn restarted(options: EngineOptions, ledger: Ledger, newest: GroupSequence) -> Bench {
    let log_of = |progress: &Arc<CommitProgress>, log: &HeldLog| -> Box<dyn CommitLog> {
        Box::new(InstantLog(Arc::clone(progress), log.clone()))
    };
    start_on(ledger, newest, options, None, None, log_of)
}

fn start(
    options: EngineOptions,
    rules: Rules,
    other_clock: Option<Arc<dyn Clock>>,
    log_of: impl FnOnce(&Arc<CommitProgress>, &HeldLog) -> Box<dyn CommitLog>,
) -> Bench {
    start_with(options, rules, other_clock, None, log_of)
}

fn start_with(
    options: EngineOptions,
    rules: Rules,
    other_clock: Option<Arc<dyn Clock>>,
    history: Option<Arc<History>>,
    log_of: impl FnOnce(&Arc<CommitProgress>, &HeldLog) -> Box<dyn CommitLog>,
) -> Bench {
    start_on(Ledger::new(rules, sealing().table_seed()), GroupSequence(0), options, other_clock, history, log_of)
}

/// What makes the ids and fingerprints of every engine here.
pub fn sealing() -> Sealing {
    Sealing::new(&[7; 32])
}

fn start_on(
    ledger: Ledger,
    newest: GroupSequence,
    options: EngineOptions,
    other_clock: Option<Arc<dyn Clock>>,
    history: Option<Arc<History>>,
    log_of: impl FnOnce(&Arc<CommitProgress>, &HeldLog) -> Box<dyn CommitLog>,
) -> Bench {
    let progress = CommitProgress::new(newest);
    let log = HeldLog::default();
    let clock = Arc::new(ManualClock::new(START));
    let disk_low = Arc::new(AtomicBool::new(false));
    let metrics = Arc::new(EngineMetrics::default());
    let engine = Engine::start(EngineParts {
        options,
        sealing: sealing(),
        clock: other_clock.unwrap_or_else(|| Arc::<ManualClock>::clone(&clock)),
        metrics: Arc::clone(&metrics),
        disk_low: Arc::clone(&disk_low),
        history: history.map(|store| HistoryStart { store, on_failure: Box::new(|error| panic!("the history failed: {error}")) }),
        shards: vec![ShardStart { ledger, log: log_of(&progress, &log), progress: Arc::clone(&progress), quorum: None }],
    })
    .unwrap();
    Bench { engine, clock, log, progress, disk_low, metrics }
}

pub fn sku(name: &str) -> Sku {
    Sku::new(name).unwrap()
}

pub fn terms(hold_seconds: u64) -> StockTerms {
    let hold_seconds = HoldSeconds::new(hold_seconds).unwrap();
    StockTerms { per_user_limit: None, hold_seconds, hold_seconds_max: hold_seconds.default_max(), opens_at: None, closes_at: None }
}

pub fn create(name: &str, units: u64, hold_seconds: u64) -> Submission {
    let sku = sku(name);
    let command = Command::CreateStock {
        partition: partition_of(&sku),
        sku,
        quantity: Allotment::new(units).unwrap(),
        terms: terms(hold_seconds),
    };
    Submission { command, key: None, actor: actor() }
}

pub fn reserve(name: &str, user: &str) -> Submission {
    let command = Command::Reserve {
        sku: sku(name),
        user: UserId::new(user).unwrap(),
        quantity: Quantity::ONE,
        hold_seconds: None,
        reference: None,
    };
    Submission { command, key: None, actor: actor() }
}

pub fn keyed(submission: Submission, key: &str) -> Submission {
    Submission { key: Some(IdempotencyKey::new(key).unwrap()), ..submission }
}

pub fn confirm(reservation: ReservationId) -> Submission {
    Submission { command: Command::Confirm { reservation, quantity: None }, key: None, actor: actor() }
}

pub fn release(reservation: ReservationId) -> Submission {
    Submission { command: Command::Release { reservation, quantity: None }, key: None, actor: actor() }
}

pub fn give_back(reservation: ReservationId, units: Option<u64>) -> Submission {
    let quantity = units.map(|units| Quantity::new(units).unwrap());
    Submission { command: Command::Return { reservation, quantity }, key: None, actor: actor() }
}

pub fn reserve_units(name: &str, user: &str, units: u64) -> Submission {
    let mut submission = reserve(name, user);
    if let Command::Reserve { quantity, .. } = &mut submission.command {
        *quantity = Quantity::new(units).unwrap();
    }
    submission
}

pub fn read(reservation: ReservationId) -> Submission {
    Submission { command: Command::ReadReservation { reservation }, key: None, actor: actor() }
}

pub fn actor() -> ActorName {
    ActorName::new("tests").unwrap()
}

/// Awaits an answer, at most [`PATIENCE`].
pub async fn answer(pending: Pending) -> Result<Answer, Failure> {
    tokio::time::timeout(PATIENCE, pending).await.expect("an answer within the tests' patience")
}

pub fn reservation(answer: Result<Answer, Failure>) -> ReservationView {
    match answer.unwrap().content {
        Content::Reservation(view) => view,
        Content::Stock(stock) => panic!("a stock where a reservation was expected: {stock:?}"),
    }
}

/// Looks at a pending answer once, without waiting.
pub fn is_ready(pending: &mut Pending) -> bool {
    matches!(pin!(pending).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

/// The ledger of a copy, and how many items it came in. Each block is one that a snapshot takes.
pub async fn loaded(mut copy: LedgerCopy) -> (Ledger, u32) {
    let load = move || {
        let (mut loader, mut items) = (Loader::new(RULES, 99), 0);
        while let Some(block) = copy.next_block().unwrap() {
            assert!((1..=SNAPSHOT_BLOCK_BYTES_MAX).contains(&block.bytes.len()), "a block of {} bytes", block.bytes.len());
            items += block.items;
            snapshot_items(&block.bytes).for_each(|item| loader.add(item.unwrap()).unwrap());
        }
        (loader.finish().unwrap(), items)
    };
    tokio::task::spawn_blocking(load).await.unwrap()
}
