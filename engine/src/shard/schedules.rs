//! What a whole shard promises whatever the schedule of its threads: the actor as it is, with its real ledger, ring, watermark and views,
//! beside callers, a log, a mailbox with a stop in it, whoever takes a copy, and the historian. Checked by loom; see [`crate::model`].
//!
//! That an answer is given twice, or one answer to two callers, is impossible by its type: whoever sends it gives the sender away.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use loom::future::block_on;
use tidegate_persistence::{ActorName, Group, GroupSequence, Term};
use tidegate_stock::{
    Allotment, Command, HoldSeconds, Ledger, Partition, Quantity, Rejection, Request, ReservationId, ReservationRecord, Sku,
    StockTerms, Timestamp, UserId,
};

use super::running::{BeginCopy, ShardLoop};
use super::{CopyState, Reply, ShardActor, ShardParts};
use crate::answer::{Answer, Content, Failure, Refusal, StockAnswer};
use crate::changes::Changes;
use crate::clock::ManualClock;
use crate::commit::{CommitLog, CommitProgress};
use crate::copying::{CopyPiece, LedgerCopy};
use crate::historian::{HistoryAnswer, Message, line_to};
use crate::inbox::Inbox;
use crate::known::KNOWN_BYTES_MIN;
use crate::metrics::EngineMetrics;
use crate::model::{Check, spawn};
use crate::options::EngineOptions;
use crate::published::Published;
use crate::ring::{RingSender, ring};
use crate::router::ShardNumber;
use crate::schedules::{decide_and_apply, empty_ledger};
use crate::sync::{AtomicU64, Ordering, mpsc, oneshot};
use crate::work::{Job, Outcome, Recalled, Work};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// What stands around a shard.
#[derive(Clone)]
struct World {
    sender: Arc<RingSender<Work>>,
    progress: Arc<CommitProgress>,
    published: Arc<Published>,
    /// The newest group that the log has made durable. Nothing but the code under test orders it.
    durable: Arc<AtomicU64>,
}

/// A log that tells a thread of the model what is proposed.
struct ToldLog(mpsc::Sender<GroupSequence>);

impl CommitLog for ToldLog {
    fn propose(&mut self, _: Term, group: Group) {
        // The thread that hears has ended where the log has failed.
        let _ = self.0.send(group.sequence);
    }
}

/// What the log's thread does with a proposed group.
type Log = fn(&World, GroupSequence);

fn make_durable_and_commit(world: &World, group: GroupSequence) {
    world.durable.store(group.0, Ordering::Relaxed);
    world.progress.commit(group);
}

fn metrics() -> Arc<EngineMetrics> {
    // Counts for nobody; made once, because it is large.
    static METRICS: OnceLock<Arc<EngineMetrics>> = OnceLock::new();
    Arc::clone(METRICS.get_or_init(Arc::default))
}

/// A log that commits within the proposal.
struct LogAtOnce(Arc<CommitProgress>, Arc<AtomicU64>);

impl CommitLog for LogAtOnce {
    fn propose(&mut self, _: Term, group: Group) {
        self.1.store(group.sequence.0, Ordering::Relaxed);
        self.0.commit(group.sequence);
    }
}

/// A shard on `ledger`, and its log's thread, which ends with the shard or with its first failure.
fn shard(ledger: Ledger, log: Log) -> (ShardActor, World) {
    let (proposals, proposed) = mpsc::channel();
    let (shard, world) = shard_on(ledger, |_| Box::new(ToldLog(proposals)));
    let told = world.clone();
    spawn(move || {
        while let Ok(group) = proposed.recv() {
            log(&told, group);
            if told.progress.has_failed() {
                return;
            }
        }
    });
    (shard, world)
}

/// A shard on `ledger` whose log commits at once, without a thread of its own.
fn shard_on_a_quick_log(ledger: Ledger) -> (ShardActor, World) {
    shard_on(ledger, |world| Box::new(LogAtOnce(Arc::clone(&world.progress), Arc::clone(&world.durable))))
}

fn shard_on(ledger: Ledger, log: impl FnOnce(&World) -> Box<dyn CommitLog>) -> (ShardActor, World) {
    let progress = CommitProgress::new(GroupSequence(0));
    let (sender, receiver) = ring(2, Arc::clone(progress.wake()));
    let published = Arc::new(Published::new(1));
    let world = World { sender: Arc::new(sender), progress, published, durable: Arc::new(AtomicU64::new(0)) };
    let shard = ShardActor::new(ShardParts {
        number: ShardNumber(0),
        ledger,
        ring: receiver,
        log: log(&world),
        quorum: None,
        progress: Arc::clone(&world.progress),
        published: Arc::clone(&world.published),
        known: Arc::default(),
        history: None,
        changes: Arc::<Changes>::default(),
        options: EngineOptions { resolved_in_memory_max: 8, known_filter_bytes_max: KNOWN_BYTES_MIN, ..EngineOptions::default() },
        clock: Arc::new(ManualClock::new(NOW)),
        metrics: metrics(),
    });
    (shard, world)
}

/// Decides and applies, before there are any threads.
fn done(ledger: &mut Ledger, command: Command) {
    drop(decide_and_apply(ledger, &Request { command, idempotency: None }, NOW));
}

fn sku(name: &str) -> Sku {
    Sku::new(name).expect("a legal name")
}

fn create(name: &str, units: u64) -> Command {
    let hold_seconds = HoldSeconds::new(60).expect("a legal hold");
    Command::CreateStock {
        partition: Partition(0),
        sku: sku(name),
        quantity: Allotment::new(units).expect("a legal quantity"),
        terms: StockTerms {
            per_user_limit: None,
            hold_seconds,
            hold_seconds_max: hold_seconds.default_max(),
            opens_at: None,
            closes_at: None,
        },
    }
}

fn work(command: Command) -> (Work, oneshot::Receiver<Outcome>) {
    let (reply, receiver) = oneshot::channel();
    let request = Request { command, idempotency: None };
    let actor = ActorName::new("model").expect("a legal name");
    (Work { job: Job::One { request, actor, under_way: None, reply }, recalled: None }, receiver)
}

impl World {
    /// Publishes a command as the engine does.
    fn submit(&self, command: Command) -> oneshot::Receiver<Outcome> {
        let (work, receiver) = work(command);
        assert!(self.sender.try_send(work).is_ok(), "the ring has room for all that a check publishes");
        receiver
    }

    /// Creates a stock, waits for the answer, and looks whether all that it says holds.
    fn create_and_look(&self, name: &str, units: u64) {
        let outcome = block_on(self.submit(create(name, units)));
        let outcome = outcome.unwrap_or_else(|_| panic!("an answer is lost"));
        self.check_created(outcome, name, units);
    }

    fn check_created(&self, outcome: Outcome, name: &str, units: u64) {
        let created = self.check_durable(outcome, name, units);
        let seen = self.published.get(&sku(name), NOW);
        let seen = seen.unwrap_or_else(|| panic!("an answer whose effect is not in the views"));
        assert_eq!(seen.view.allotted, units);
        assert!(seen.as_of.group > created.as_of.group, "a view as of before its own group");
    }

    fn check_durable(&self, outcome: Outcome, name: &str, units: u64) -> StockAnswer {
        let durable = self.durable.load(Ordering::Relaxed);
        let Ok(Answer { content: Content::Stock(stock), .. }) = outcome else { panic!("the answer to another command") };
        assert!(stock.view.sku == sku(name) && stock.view.allotted == units, "the answer to another command");
        // The stock is in the group behind the one that its position names.
        assert!(durable > stock.as_of.group.0, "an early answer: its group is not durable");
        stock
    }
}

/// What happens to a shard before each turn that its task has: nothing, or something wrong.
type Beside = fn(&mut ShardActor);

fn nothing(_: &mut ShardActor) {}

/// What comes to a shard's mailbox. The shard is dropped once this says so, which a check does when it has heard all that it wants.
type Mailbox = Box<dyn FnMut(&mut ShardActor, &mut Context<'_>) -> bool + Send>;

/// Runs the shard as its actor does, on one task: first what came to its mailbox, then its loop, to whose end it goes on.
fn run(shard: ShardActor, beside: Beside, mailbox: Mailbox) {
    run_until(shard, beside, mailbox, |_| false);
}

/// The same, but ends also where `is_over` holds as it goes to sleep.
fn run_until(mut shard: ShardActor, beside: Beside, mut mailbox: Mailbox, is_over: fn(&ShardActor) -> bool) {
    spawn(move || {
        let mut shard_loop = ShardLoop::default();
        block_on(poll_fn(|task| {
            if mailbox(&mut shard, task) {
                return Poll::Ready(());
            }
            beside(&mut shard);
            let over = shard_loop.go_on(&mut shard, task);
            if is_over(&shard) { Poll::Ready(()) } else { over }
        }));
    });
}

/// A mailbox to which nothing comes, and which the last clone of the first value closes when it is dropped.
fn open_while_asked() -> (Arc<oneshot::Sender<()>>, Mailbox) {
    let (asked, mut over) = oneshot::channel();
    (Arc::new(asked), Box::new(move |_, task| Pin::new(&mut over).poll(task).is_ready()))
}

/// One caller, whose answer must be durable and in the views.
const ANSWERED: Check = Check {
    name: "an answer comes, is durable, and is in the views",
    preemptions: 1,
    body: || ask(nothing, make_durable_and_commit),
};

fn ask(beside: Beside, log: Log) {
    let (shard, world) = shard(empty_ledger(), log);
    let (asked, mailbox) = open_while_asked();
    run(shard, beside, mailbox);
    spawn(move || {
        world.create_and_look("lamp", 5);
        drop(asked);
    });
}

/// Two callers at once, each of whom must get his own answer: with a preemption anywhere where the log commits at once, and with none where
/// it has a thread of its own, which changes places with the others only where one of them waits. Both together are too many schedules.
const OWN_ANSWER: Check = Check {
    name: "each of two callers gets the own answer",
    preemptions: 1,
    body: || ask_together(nothing, shard_on_a_quick_log(empty_ledger())),
};

const OWN_ANSWER_LATER: Check = Check {
    name: "each of two callers gets the own answer from a log that takes its time",
    preemptions: 0,
    body: || ask_together(nothing, shard(empty_ledger(), make_durable_and_commit)),
};

fn ask_together(beside: Beside, (shard, world): (ShardActor, World)) {
    let (asked, mailbox) = open_while_asked();
    run(shard, beside, mailbox);
    // One thread stands for both: what they do to the ring is checked for itself.
    spawn(move || {
        let commands = [("lamp", 5), ("desk", 7)];
        for (command, receiver) in commands.map(|(name, units)| ((name, units), world.submit(create(name, units)))) {
            let outcome = block_on(receiver).unwrap_or_else(|_| panic!("an answer is lost"));
            world.check_created(outcome, command.0, command.1);
        }
        drop(asked);
    });
}

/// A rejection waits for what it saw.
const REJECTED: Check =
    Check { name: "a rejection leaves once the grant that it saw is durable", preemptions: 1, body: || reject(nothing) };

fn reject(beside: Beside) {
    let (shard, world) = shard(empty_ledger(), make_durable_and_commit);
    let (asked, mailbox) = open_while_asked();
    run(shard, beside, mailbox);
    spawn(move || {
        let first = world.submit(create("lamp", 5));
        let second = world.submit(create("lamp", 6));
        let rejected = block_on(second).unwrap_or_else(|_| panic!("an answer is lost"));
        assert_eq!(rejected, Err(Failure::Rejection(Rejection::StockExists)));
        assert!(world.durable.load(Ordering::Relaxed) >= 1, "an early answer: what it saw is not durable");
        let created = block_on(first).unwrap_or_else(|_| panic!("an answer is lost"));
        world.check_created(created, "lamp", 5);
        drop(asked);
    });
}

/// The log fails behind its first group.
const FAILED: Check =
    Check { name: "when the log fails, what was committed is answered, and nobody waits", preemptions: 1, body: || fail(nothing) };

fn fail(beside: Beside) {
    let (shard, world) = shard(empty_ledger(), |world, group| {
        make_durable_and_commit(world, group);
        world.progress.fail();
    });
    run(shard, beside, Box::new(|_, _| false));
    spawn(move || {
        let first = world.submit(create("lamp", 5));
        let second = world.submit(create("desk", 7));
        // The first is in the only group that was committed; the second may be.
        let created = block_on(first).unwrap_or_else(|_| panic!("an answer is lost though it was committed"));
        world.check_created(created, "lamp", 5);
        if let Ok(created) = block_on(second) {
            world.check_created(created, "desk", 7);
        }
    });
}

/// A stop between two commands of a caller.
const STOPPED: Check = Check { name: "at a stop what was admitted is answered, and nobody waits", preemptions: 1, body: stop };

fn stop() {
    let (shard, world) = shard(empty_ledger(), make_durable_and_commit);
    let (stop, mut mailbox) = oneshot::channel::<oneshot::Sender<()>>();
    run(
        shard,
        nothing,
        Box::new(move |shard, task| {
            if let Poll::Ready(Ok(stopped)) = Pin::new(&mut mailbox).poll(task) {
                // As the actor handles its message.
                shard.stopping = Some(stopped);
                shard.parts.progress.wake().notify();
            }
            false
        }),
    );
    spawn(move || {
        let before = world.submit(create("lamp", 5));
        let (stopped, waiting) = oneshot::channel();
        assert!(stop.send(stopped).is_ok(), "the shard runs until it is stopped");
        let after = world.submit(create("desk", 7));
        let created = block_on(before).unwrap_or_else(|_| panic!("an answer to what was admitted before the stop is lost"));
        world.check_created(created, "lamp", 5);
        if let Ok(created) = block_on(after) {
            world.check_created(created, "desk", 7);
        }
        block_on(waiting).unwrap_or_else(|_| panic!("a stop is not confirmed"));
    });
}

/// A copy for which there is room for one piece at a time.
const COPIED: Check = Check { name: "a copy goes on whenever there is room for it", preemptions: 1, body: || copy(take_all) };

/// Whoever takes a copy leaves before its end.
const COPY_LEFT: Check =
    Check { name: "a copy that nobody takes any more is let go by a shard that sleeps", preemptions: 1, body: || copy(leave) };

/// What is done with a copy that has begun.
type Take = fn(GroupSequence, mpsc::Receiver<CopyPiece>, &World);

fn take_all(at: GroupSequence, pieces: mpsc::Receiver<CopyPiece>, world: &World) {
    let mut copy = LedgerCopy::new(at, 0, pieces, &world.progress);
    let mut items = 0;
    while let Some(block) = copy.next_block().expect("the shard does not give the copy up") {
        items += block.items;
    }
    assert!(items > 0, "the stock is in the copy");
}

fn leave(at: GroupSequence, pieces: mpsc::Receiver<CopyPiece>, world: &World) {
    drop(LedgerCopy::new(at, 0, pieces, &world.progress));
}

fn leave_without_a_word(_: GroupSequence, pieces: mpsc::Receiver<CopyPiece>, _: &World) {
    drop(pieces);
}

fn copy(take: Take) {
    let mut ledger = empty_ledger();
    done(&mut ledger, create("lamp", 5));
    let (mut shard, world) = shard(ledger, make_durable_and_commit);
    let (sink, pieces) = mpsc::sync_channel(1);
    let (begun, at) = oneshot::channel();
    shard.copy = CopyState::Asked(BeginCopy { sink, begun });
    run_until(shard, nothing, Box::new(|_, _| false), |shard| matches!(shard.copy, CopyState::None));
    spawn(move || {
        let at = block_on(at).unwrap_or_else(|_| panic!("a copy that was asked for begins"));
        take(at, pieces, &world);
    });
}

/// A command that needs a reservation from the history.
const RECALLED: Check =
    Check { name: "work that waits for the history comes back and is answered", preemptions: 1, body: || recall(found) };

/// The same where the history cannot be read.
const RECALL_FAILED: Check =
    Check { name: "work that the history fails is refused and not lost", preemptions: 1, body: || recall(failed) };

fn found(id: ReservationId, mut work: Work, record: &ReservationRecord) -> HistoryAnswer {
    work.recalled = Some(Box::new(Recalled { id, record: Some(record.clone()) }));
    HistoryAnswer::Recalled(work)
}

fn failed(_: ReservationId, work: Work, _: &ReservationRecord) -> HistoryAnswer {
    HistoryAnswer::Failed(work)
}

/// What the historian answers of a reservation with this record.
type Answers = fn(ReservationId, Work, &ReservationRecord) -> HistoryAnswer;

fn recall(answers: Answers) {
    let mut ledger = empty_ledger();
    done(&mut ledger, create("lamp", 5));
    let user = UserId::new("ann").expect("a legal name");
    done(&mut ledger, Command::Reserve { sku: sku("lamp"), user, quantity: Quantity::ONE, hold_seconds: None, reference: None });
    let id = ledger.list(ledger.stocks().next().expect("one stock").id, tidegate_stock::GrantSequence::MAX, None, 1).records[0].id;
    done(&mut ledger, Command::Confirm { reservation: id, quantity: None });
    let record = ledger.take_leaving(Timestamp::from_unix_ms(u64::MAX), 1).pop().expect("a resolved reservation leaves");
    ledger.has_left(id);

    let (mut shard, world) = shard_on_a_quick_log(ledger);
    let (line, messages) = line_to(Inbox::new(Arc::clone(world.progress.wake())));
    shard.parts.history = Some(line);
    let (asked, mailbox) = open_while_asked();
    run(shard, nothing, mailbox);
    spawn(move || {
        while let Ok(message) = messages.recv() {
            let Message::Recall(id, work, inbox) = message else { panic!("nothing leaves memory here") };
            inbox.put(answers(id, *work, &record));
        }
    });
    spawn(move || {
        let given_back = world.submit(Command::Return { reservation: id, quantity: None });
        let outcome = block_on(given_back).unwrap_or_else(|_| panic!("an answer is lost"));
        match outcome {
            Ok(answer) => {
                assert!(matches!(answer.content, Content::Reservation(view) if view.id == id), "the answer to another command");
                assert!(world.durable.load(Ordering::Relaxed) >= 1, "an early answer: its group is not durable");
            }
            Err(failure) => {
                assert_eq!(failure, Failure::Refusal(Refusal::HistoryFailed));
            }
        }
        drop(asked);
    });
}

macro_rules! hold {
    ($($test:ident: $check:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $check.holds();
            }
        )*
    };
}

hold! {
    an_answer_comes_and_is_durable_and_in_the_views: ANSWERED,
    each_caller_gets_the_own_answer: OWN_ANSWER,
    each_caller_gets_the_own_answer_later: OWN_ANSWER_LATER,
    a_rejection_waits_for_what_it_saw: REJECTED,
    nobody_waits_for_a_log_that_failed: FAILED,
    nobody_waits_for_a_shard_that_stopped: STOPPED,
    a_copy_goes_on_whenever_there_is_room: COPIED,
    a_copy_that_nobody_takes_is_let_go: COPY_LEFT,
    work_comes_back_from_the_history: RECALLED,
    work_that_the_history_fails_is_refused: RECALL_FAILED,
}

/// Wrong shards: what one of them does before each of its turns, and what gives it away.
fn wrong(name: &'static str, body: fn(), message: &str) {
    Check { name, preemptions: 2, body }.fails_with(message);
}

#[test]
fn a_reply_before_its_view_is_found_out() {
    fn reply_first(shard: &mut ShardActor) {
        let committed = shard.parts.progress.committed();
        while let Some(waiting) = shard.waiting.pop_front_if(|waiting| waiting.observed <= committed) {
            waiting.reply.send();
        }
    }
    let body = || ask(reply_first, make_durable_and_commit);
    wrong("wrong: a reply before its view", body, "an answer whose effect is not in the views");
}

#[test]
fn a_reply_before_the_commit_is_found_out() {
    fn reply_at_once(shard: &mut ShardActor) {
        while let Some(waiting) = shard.waiting.pop_front() {
            waiting.reply.send();
        }
    }
    fn ask_for_durability() {
        let (shard, world) = shard(empty_ledger(), make_durable_and_commit);
        let (asked, mailbox) = open_while_asked();
        run(shard, reply_at_once, mailbox);
        spawn(move || {
            let outcome = block_on(world.submit(create("lamp", 5))).unwrap_or_else(|_| panic!("an answer is lost"));
            world.check_durable(outcome, "lamp", 5);
            drop(asked);
        });
    }
    wrong("wrong: a reply before the commit", ask_for_durability, "an early answer");
}

#[test]
fn a_commit_before_the_disk_is_found_out() {
    fn commit_and_make_durable(world: &World, group: GroupSequence) {
        world.progress.commit(group);
        world.durable.store(group.0, Ordering::Relaxed);
    }
    wrong("wrong: a commit before the disk", || ask(nothing, commit_and_make_durable), "an early answer");
}

#[test]
fn a_reply_that_is_forgotten_is_found_out() {
    fn forget(shard: &mut ShardActor) {
        shard.waiting.clear();
    }
    wrong("wrong: a reply forgotten", || ask(forget, make_durable_and_commit), "an answer is lost");
}

#[test]
fn a_reply_to_another_caller_is_found_out() {
    fn exchange(shard: &mut ShardActor) {
        if shard.waiting.len() < 2 {
            return;
        }
        let taken = shard.waiting.drain(..2).map(|waiting| match waiting.reply {
            Reply::One(reply, outcome) => (waiting.observed, reply, outcome),
            Reply::Many(..) | Reply::List(..) => unreachable!("the callers ask for one thing each"),
        });
        let [(early, one, its), (late, other, others)]: [_; 2] =
            taken.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!("two were taken"));
        for (observed, reply) in [(early, Reply::One(one, others)), (late, Reply::One(other, its))] {
            shard.waiting.push_back(super::Waiting { observed, commands: 1, reply });
        }
    }
    let body = || ask_together(exchange, shard(empty_ledger(), make_durable_and_commit));
    // As few preemptions as the right one has.
    Check { name: "wrong: a reply to another caller", preemptions: 0, body }.fails_with("the answer to another command");
}

#[test]
fn a_failed_log_whose_last_commit_is_forgotten_is_found_out() {
    fn settle_nothing(shard: &mut ShardActor) {
        if shard.parts.progress.has_failed() {
            shard.waiting.clear();
        }
    }
    wrong("wrong: nothing answered at a failure", || fail(settle_nothing), "though it was committed");
}

#[test]
fn a_copy_that_is_left_without_a_word_is_found_out() {
    wrong("wrong: a copy left without a word", || copy(leave_without_a_word), "deadlock");
}
