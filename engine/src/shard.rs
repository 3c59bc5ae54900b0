//! The shard actor: the one owner of its products, on a thread of its own. The door of actix.
//!
//! Its loop is a future inside the actor, so that the mailbox (the control plane) is served between its turns. A turn settles what
//! was committed, takes a batch from the ring, decides and applies it, and proposes what came of it as one group. While groups are
//! being made durable the next one gathers; its size is whatever has arrived meanwhile.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, MessageResult};
use tidegate_persistence::{Actor as Acted, ActorName, Group, GroupBuilder, GroupSequence, StreamId};
use tidegate_stock::{Accepted, Event, Ledger, Request, StockId, StockView, Subject, Timestamp, decide, decide_lapse};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::answer::{Answer, Content, Failure, Position, Refusal, StockAnswer};
use crate::clock::Clock;
use crate::commit::{CommitLog, CommitProgress};
use crate::metrics::{EngineMetrics, answer_name, command_name, rejection_name};
use crate::options::EngineOptions;
use crate::published::{Published, terms_version};
use crate::ring::RingReceiver;
use crate::router::ShardNumber;

/// Looks for work, with the processor's pause between them, before the shard parks.
const SPINS_BEFORE_PARKING: u32 = 64;

/// Turns in one poll of the loop, so that the mailbox waits for a bounded number of batches.
const TURNS_PER_POLL: u32 = 8;

/// Longest sleep until the next lapse, so that a step of the wall clock is noticed.
const LAPSE_SLEEP_MAX: Duration = Duration::from_millis(250);

/// Idempotency keys dropped in a turn without work at most, so that its length stays bounded.
const KEYS_FORGOTTEN_IDLE: usize = 256;

/// A command on its way through the ring.
pub(crate) struct Work {
    pub(crate) request: Request,
    pub(crate) actor: ActorName,
    pub(crate) reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) number: ShardNumber,
    pub(crate) ledger: Ledger,
    pub(crate) ring: RingReceiver<Work>,
    pub(crate) log: Box<dyn CommitLog>,
    pub(crate) progress: Arc<CommitProgress>,
    pub(crate) published: Arc<Published>,
    pub(crate) options: EngineOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<EngineMetrics>,
}

/// The actor. It runs from its start until [`Stop`], or until its log fails.
pub(crate) struct ShardActor {
    parts: ShardParts,
    /// The group that is being decided; empty between groups.
    open: Option<OpenGroup>,
    /// The newest group that was proposed.
    proposed: GroupSequence,
    in_flight: VecDeque<InFlight>,
    /// Replies that wait for the head they observed, oldest first.
    waiting: VecDeque<Waiting>,
    /// The latest time that any batch was stamped with.
    newest: Timestamp,
    stopping: Option<oneshot::Sender<()>>,
}

struct OpenGroup {
    sequence: GroupSequence,
    /// The time of its first event.
    time: Timestamp,
    builder: GroupBuilder,
    touched: Vec<StockId>,
}

/// A proposed group, until it is committed.
struct InFlight {
    sequence: GroupSequence,
    time: Timestamp,
    proposed_at: Instant,
    /// The stocks that it changed, as they stood at its end.
    views: Vec<StockView>,
}

struct Waiting {
    observed: GroupSequence,
    reply: oneshot::Sender<Result<Answer, Failure>>,
    outcome: Result<Answer, Failure>,
}

/// Whether a turn found anything to do.
#[derive(PartialEq, Eq)]
enum Turn {
    Worked,
    Idle,
}

impl ShardActor {
    pub(crate) fn new(parts: ShardParts) -> Self {
        let proposed = parts.progress.committed();
        for view in parts.ledger.stocks() {
            parts.published.publish(view, parts.number.stream(), proposed);
        }
        let newest = parts.ledger.last_applied();
        Self { parts, open: None, proposed, in_flight: VecDeque::new(), waiting: VecDeque::new(), newest, stopping: None }
    }

    fn turn(&mut self) -> Turn {
        let settled = self.settle();
        // What gathered while there was no room goes first, so that a group never grows past its bounds by more than one batch.
        self.propose_if_room();
        let taken = if self.may_take() { self.take_batch() } else { 0 };
        self.propose_if_room();
        // Faster than keys can come in, so that those whose time is over never gather.
        self.parts.ledger.forget_keys(self.committed_time(), KEYS_FORGOTTEN_IDLE.max(2 * taken));
        if settled || taken > 0 { Turn::Worked } else { Turn::Idle }
    }

    /// Publishes the views of committed groups, then sends the replies that waited for them. Returns whether there were any.
    fn settle(&mut self) -> bool {
        let committed = self.parts.progress.committed();
        let mut settled = false;
        while let Some(group) = self.in_flight.pop_front_if(|group| group.sequence <= committed) {
            self.parts.metrics.observe_commit(group.proposed_at.elapsed().as_secs_f64());
            for view in group.views {
                self.parts.published.publish(view, self.parts.number.stream(), group.sequence);
            }
            settled = true;
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.observed <= committed) {
            // A caller that left does not hear the answer; its command counts all the same.
            let _ = waiting.reply.send(waiting.outcome);
            settled = true;
        }
        settled
    }

    /// Whether another batch may be decided: the open group can still grow, and so may the replies that wait. Without the second bound
    /// rejections, which make no group grow, would gather here instead of filling the ring.
    fn may_take(&self) -> bool {
        let options = &self.parts.options;
        let can_grow =
            |open: &OpenGroup| open.builder.events() < options.group_events_max && open.builder.bytes() < options.group_bytes_max;
        self.waiting.len() < options.ring_slots && self.open.as_ref().is_none_or(can_grow)
    }

    fn has_room_in_flight(&self) -> bool {
        self.in_flight.len() < self.parts.options.groups_in_flight_max
    }

    /// Lapses what is due (one event of it), then decides a batch from the ring, all with one time. Returns how much there was to do.
    fn take_batch(&mut self) -> usize {
        // A clock that steps back is waited for: answers that wrote nothing count as much as events.
        let now = self.parts.clock.now().max(self.newest);
        self.newest = now;
        let lapsed = self.lapse(now);
        let limit = self.parts.options.batch_commands_max;
        let mut batch = Batch {
            ledger: &mut self.parts.ledger,
            open: &mut self.open,
            waiting: &mut self.waiting,
            metrics: &self.parts.metrics,
            stream: self.parts.number.stream(),
            proposed: self.proposed,
            now,
        };
        let taken = self.parts.ring.drain(limit, |work| batch.decide(work));
        lapsed + taken
    }

    fn lapse(&mut self, now: Timestamp) -> usize {
        let Some(event) = decide_lapse(&self.parts.ledger, now) else { return 0 };
        let Event::Expired { reservations } = &event else { unreachable!("a lapse is an Expired event") };
        let lapsed = reservations.len();
        apply(&mut self.parts.ledger, &mut self.open, self.proposed, &event, &Acted::Clock, now);
        self.parts.metrics.count_lapsed(lapsed);
        lapsed
    }

    fn propose_if_room(&mut self) {
        if !self.has_room_in_flight() {
            return;
        }
        let Some(mut open) = self.open.take() else { return };
        open.touched.sort_unstable();
        open.touched.dedup();
        let views = open.touched.iter().filter_map(|id| self.parts.ledger.stock(*id)).collect();
        let group: Group = open.builder.finish();
        self.parts.metrics.observe_proposal(group.events);
        self.proposed = group.sequence;
        self.in_flight.push_back(InFlight { sequence: group.sequence, time: group.time, proposed_at: Instant::now(), views });
        self.parts.log.propose(group);
    }

    /// A time that every committed event has reached and no uncommitted one precedes.
    fn committed_time(&self) -> Timestamp {
        match (self.in_flight.front(), &self.open) {
            (Some(group), _) => group.time,
            (None, Some(open)) => open.time,
            (None, None) => self.parts.ledger.last_applied(),
        }
    }

    fn is_drained(&self) -> bool {
        !self.parts.ring.has_items() && self.open.is_none() && self.in_flight.is_empty() && self.waiting.is_empty()
    }

    fn has_work(&self) -> bool {
        (self.may_take() && self.parts.ring.has_items())
            || self.parts.progress.has_failed()
            || self.in_flight.front().is_some_and(|group| group.sequence <= self.parts.progress.committed())
    }

    /// How long until the next hold falls due; `None` while nothing is held.
    fn until_next_lapse(&self) -> Option<Duration> {
        let due = self.parts.ledger.next_lapse()?;
        let now = self.parts.clock.now();
        Some(Duration::from_millis(due.unix_ms().saturating_sub(now.unix_ms())).min(LAPSE_SLEEP_MAX))
    }
}

/// One batch from the ring, decided with one time.
struct Batch<'a> {
    ledger: &'a mut Ledger,
    open: &'a mut Option<OpenGroup>,
    waiting: &'a mut VecDeque<Waiting>,
    metrics: &'a EngineMetrics,
    stream: StreamId,
    proposed: GroupSequence,
    now: Timestamp,
}

impl Batch<'_> {
    fn decide(&mut self, work: Work) {
        let outcome = self.outcome(&work);
        // Accepted or not, an answer tells what it saw; it leaves when that is committed. With nothing open or in flight, the next
        // settling finds it at once.
        let observed = self.open.as_ref().map_or(self.proposed, |open| open.sequence);
        self.waiting.push_back(Waiting { observed, reply: work.reply, outcome });
    }

    fn outcome(&mut self, work: &Work) -> Result<Answer, Failure> {
        let command = command_name(&work.request.command);
        if self.ledger.lacks_room_for_key(&work.request, self.now) {
            let refusal = Refusal::KeysFull { keys_max: self.ledger.rules().idempotency_keys_max };
            self.metrics.count_refusal(refusal);
            return Err(refusal.into());
        }
        let decision = decide(self.ledger, &work.request, self.now);
        if let Some(event) = &decision.event {
            let acted = if matches!(event, Event::Expired { .. }) { Acted::Clock } else { Acted::Key(work.actor.clone()) };
            apply(self.ledger, self.open, self.proposed, event, &acted, self.now);
        }
        match decision.outcome {
            Ok(accepted) => {
                let answer = self.answer(accepted);
                self.metrics.count_command(command, answer_name(&answer));
                Ok(answer)
            }
            Err(rejection) => {
                self.metrics.count_command(command, rejection_name(rejection));
                Err(rejection.into())
            }
        }
    }

    fn answer(&self, accepted: Accepted) -> Answer {
        let content = match accepted.subject {
            Subject::Reservation(id) => self.ledger.reservation(id).map(Content::Reservation),
            Subject::Stock(id) => self.ledger.stock(id).map(|view| {
                let group = self.open.as_ref().map_or(self.proposed, |open| open.sequence);
                let (state, version) = (view.state(self.now), terms_version(&view.terms));
                Content::Stock(StockAnswer { view, state, as_of: Position { stream: self.stream, group }, version })
            }),
        };
        let content = content.expect("an accepted command's subject is in the ledger");
        Answer { created: accepted.created, replayed: accepted.replayed, content }
    }
}

/// Applies `event` to the head and adds it to the open group, which it opens if there is none.
fn apply(ledger: &mut Ledger, open: &mut Option<OpenGroup>, proposed: GroupSequence, event: &Event, acted: &Acted, now: Timestamp) {
    // The inverse is for logs that can refuse a group; here a group that fails stops the node.
    drop(ledger.apply(event, now));
    let sequence = proposed.next();
    let open = open.get_or_insert_with(|| OpenGroup {
        sequence,
        time: now,
        builder: GroupBuilder::new(sequence, now),
        touched: Vec::new(),
    });
    open.builder.push(event, acted, now);
    match event {
        Event::StockCreated { stock, .. } | Event::Reserved { stock, .. } => open.touch(*stock),
        Event::Confirmed { reservation, .. } | Event::Released { reservation, .. } => open.touch(reservation.stock),
        Event::Expired { reservations } => reservations.iter().for_each(|reservation| open.touch(reservation.stock)),
    }
}

impl OpenGroup {
    fn touch(&mut self, stock: StockId) {
        // Neighbouring events mostly touch one hot product; the rest is made unique when the group closes.
        if self.touched.last() != Some(&stock) {
            self.touched.push(stock);
        }
    }
}

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.spawn(ShardLoop { lapse: None });
    }
}

/// The loop: drives the actor's turns for as long as it lives.
struct ShardLoop {
    /// Wakes the loop at the next lapse.
    lapse: Option<Pin<Box<Sleep>>>,
}

impl ActorFuture<ShardActor> for ShardLoop {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        shard: &mut ShardActor,
        context: &mut Context<ShardActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        for _ in 0..TURNS_PER_POLL {
            if shard.parts.progress.has_failed() {
                // What was committed before is answered. Every other caller learns that its outcome is unknown, and none is decided.
                shard.settle();
                shard.waiting.clear();
                shard.parts.ring.drain(usize::MAX, drop);
                context.stop();
                return Poll::Ready(());
            }
            if shard.turn() == Turn::Worked || spin_until_work(shard) {
                continue;
            }
            if shard.stopping.is_some() && shard.is_drained() {
                if let Some(stopped) = shard.stopping.take() {
                    let _ = stopped.send(());
                }
                context.stop();
                return Poll::Ready(());
            }
            let wake = Arc::clone(shard.parts.progress.wake());
            wake.prepare_sleep(task.waker());
            if shard.has_work() || self.lapse_is_due(shard, task) {
                wake.cancel_sleep();
                continue;
            }
            return Poll::Pending;
        }
        // More work waits, but so may a message: let the actor's context look at its mailbox, and come back.
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl ShardLoop {
    /// Whether a lapse is due now; if not, the task is woken when one is.
    fn lapse_is_due(&mut self, shard: &ShardActor, task: &mut TaskContext<'_>) -> bool {
        if !shard.may_take() {
            return false;
        }
        let Some(wait) = shard.until_next_lapse() else {
            self.lapse = None;
            return false;
        };
        if wait.is_zero() {
            return true;
        }
        let deadline = tokio::time::Instant::now() + wait;
        match &mut self.lapse {
            Some(sleep) => sleep.as_mut().reset(deadline),
            empty => *empty = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
        self.lapse.as_mut().is_some_and(|sleep| sleep.as_mut().poll(task).is_ready())
    }
}

/// A short look for more work before parking, because waking a parked thread costs both sides more.
fn spin_until_work(shard: &ShardActor) -> bool {
    (0..SPINS_BEFORE_PARKING).any(|_| {
        std::hint::spin_loop();
        shard.has_work()
    })
}

/// Finish what is in the ring, wait until it is committed and answered, then stop the actor and say so.
pub(crate) struct Stop(pub(crate) oneshot::Sender<()>);

impl Message for Stop {
    type Result = ();
}

impl Handler<Stop> for ShardActor {
    type Result = ();

    fn handle(&mut self, stop: Stop, _: &mut Self::Context) {
        self.stopping = Some(stop.0);
        self.parts.progress.wake().notify();
    }
}

/// What a shard says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardNumber,
    /// The newest group that was decided and proposed.
    pub proposed: GroupSequence,
    /// The newest group that is committed.
    pub committed: GroupSequence,
    /// Reservations that hold at least one unit.
    pub open_holds: u64,
    /// Reservations in memory.
    pub reservations: usize,
    /// Idempotency keys in memory.
    pub keys: usize,
    /// How long the earliest due hold has been waiting to lapse, in milliseconds.
    pub lapse_lag_ms: u64,
}

/// Asks a shard for its report.
pub(crate) struct Inspect;

impl Message for Inspect {
    type Result = ShardReport;
}

impl Handler<Inspect> for ShardActor {
    type Result = MessageResult<Inspect>;

    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        let now = self.parts.clock.now();
        MessageResult(ShardReport {
            shard: self.parts.number,
            proposed: self.proposed,
            committed: self.parts.progress.committed(),
            open_holds: self.parts.ledger.open_holds(),
            reservations: self.parts.ledger.reservation_count(),
            keys: self.parts.ledger.key_count(),
            lapse_lag_ms: self.parts.ledger.next_lapse().map_or(0, |due| now.unix_ms().saturating_sub(due.unix_ms())),
        })
    }
}
