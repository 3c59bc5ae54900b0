//! How a shard runs: its loop, which parks when there is nothing to do, and the messages of the control plane. The door of actix. The loop
//! is a future inside the actor, so that the mailbox is served between its turns; what a turn does is the shard's business.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, MessageResult};
use tidegate_persistence::GroupSequence;
use tokio::time::Sleep;

use super::{CopyState, ShardActor, Turn};
use crate::copying::CopyPiece;
use crate::quorum::QuorumLine;
use crate::router::ShardNumber;
use crate::sync::{mpsc, oneshot};

/// Looks for work, with the processor's pause between them, before the shard parks. A model checker tries every moment for each look, and
/// the last one before parking stands for all.
const SPINS_BEFORE_PARKING: u32 = if cfg!(all(test, feature = "loom")) { 0 } else { 64 };

/// Turns in one poll of the loop, so that the mailbox waits for a bounded number of batches.
const TURNS_PER_POLL: u32 = 8;

/// Longest sleep until the next lapse, so that a step of the wall clock is noticed.
const LAPSE_SLEEP_MAX: Duration = Duration::from_millis(250);

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.spawn(ShardLoop::default());
    }
}

/// The loop: drives the actor's turns for as long as it lives.
#[derive(Default)]
pub(super) struct ShardLoop {
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
        let over = self.go_on(shard, task);
        if over.is_ready() {
            context.stop();
        }
        over
    }
}

impl ShardLoop {
    /// Does some turns, until the mailbox should have its turn, there is nothing to do, or (ready) the shard is at its end.
    pub(super) fn go_on(&mut self, shard: &mut ShardActor, task: &mut TaskContext<'_>) -> Poll<()> {
        for _ in 0..TURNS_PER_POLL {
            if shard.parts.progress.has_failed() {
                // What was committed before is answered. Every other caller learns that its outcome is unknown, and none is decided.
                shard.settle();
                shard.waiting.clear();
                shard.backlog.clear();
                shard.held.clear();
                shard.held_commands = 0;
                shard.copy = CopyState::None;
                return Poll::Ready(());
            }
            if shard.turn() == Turn::Worked || spin_until_work(shard) {
                continue;
            }
            if shard.stopping.is_some() && (shard.is_drained() || mutant!(AdmittedLostAtStop)) {
                if let Some(stopped) = shard.stopping.take() {
                    let _ = stopped.send(());
                }
                return Poll::Ready(());
            }
            let wake = Arc::clone(shard.parts.progress.wake());
            wake.prepare_sleep(task.waker());
            // Whoever takes a copy may have made room, and notified, just before the sleep was prepared.
            if shard.has_work() || shard.copy() || self.lapse_is_due(shard, task) {
                wake.cancel_sleep();
                continue;
            }
            return Poll::Pending;
        }
        // More work waits, but so may a message: let the actor's context look at its mailbox, and come back.
        task.waker().wake_by_ref();
        Poll::Pending
    }

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

/// Propose a group, of nothing if there is nothing to be in it.
pub(crate) struct Mark;

impl Message for Mark {
    type Result = ();
}

impl Handler<Mark> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: Mark, _: &mut Self::Context) {
        // Where another node's shard decides it makes the newer entries too.
        if self.leads() {
            self.newest = self.parts.clock.now().max(self.newest);
            self.open_group(self.newest);
        }
        self.parts.progress.wake().notify();
    }
}

/// Make a copy of the ledger, as it stands at the end of some group, which `begun` is told.
pub(crate) struct BeginCopy {
    /// Where its pieces go. While there is no room the copy waits; [`CommitProgress`]'s wake must be notified when there is again.
    pub(crate) sink: mpsc::SyncSender<CopyPiece>,
    pub(crate) begun: oneshot::Sender<GroupSequence>,
}

impl Message for BeginCopy {
    type Result = ();
}

impl Handler<BeginCopy> for ShardActor {
    type Result = ();

    fn handle(&mut self, begin: BeginCopy, _: &mut Self::Context) {
        // One that is under way is given up: its sink closes without an end.
        self.copy = CopyState::Asked(begin);
        self.parts.progress.wake().notify();
    }
}

/// What a shard says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardNumber,
    /// Whether it decides, as far as it has come in what it is told.
    pub leads: bool,
    /// The newest group that was decided and proposed.
    pub proposed: GroupSequence,
    /// The newest group that is committed.
    pub committed: GroupSequence,
    /// Reservations that hold at least one unit.
    pub open_holds: u64,
    /// Reservations in memory.
    pub reservations: usize,
    /// Users in memory, counted once for each stock.
    pub users: usize,
    /// Idempotency keys in memory.
    pub keys: usize,
    /// Commands that wait for a reservation from the history.
    pub recalls: usize,
    /// Slots of the ring that are taken: pieces of work that nobody has looked at.
    pub ring_waiting: usize,
    /// Slots of the ring.
    pub ring_slots: usize,
    /// Commands that are decided and whose answers wait for their commit.
    pub answers_waiting: usize,
    /// Most idempotency keys in memory.
    pub keys_max: usize,
    /// Most reservations in memory.
    pub reservations_max: usize,
    /// Most users in memory.
    pub users_max: usize,
    /// Most commands that wait for a reservation from the history.
    pub recalls_max: usize,
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
        let (options, rules) = (self.parts.options, self.parts.ledger.rules());
        MessageResult(ShardReport {
            shard: self.parts.number,
            leads: self.leads(),
            proposed: self.proposed,
            committed: self.parts.progress.committed(),
            open_holds: self.parts.ledger.open_holds(),
            reservations: self.parts.ledger.reservation_count(),
            users: self.parts.ledger.user_count(),
            keys: self.parts.ledger.key_count(),
            recalls: self.aside,
            ring_waiting: self.parts.ring.waiting(),
            ring_slots: options.ring_slots,
            answers_waiting: self.waiting_commands,
            keys_max: rules.idempotency_keys_max,
            reservations_max: rules.reservations_in_memory_max,
            users_max: rules.users_in_memory_max,
            recalls_max: options.recalls_in_flight_max,
            lapse_lag_ms: self.parts.ledger.next_lapse().map_or(0, |due| now.unix_ms().saturating_sub(due.unix_ms())),
        })
    }
}

impl ShardActor {
    fn is_drained(&self) -> bool {
        !self.parts.ring.has_items()
            && self.backlog.is_empty()
            && self.aside == 0
            && self.open.is_none()
            && self.in_flight.is_empty()
            && self.waiting.is_empty()
    }

    fn has_work(&self) -> bool {
        (self.may_take() && ((self.may_drain() && self.parts.ring.has_items()) || !self.backlog.is_empty()))
            || self.parts.progress.has_failed()
            || !self.told.is_empty()
            || self.parts.quorum.as_ref().is_some_and(QuorumLine::has_items)
            || self.parts.history.as_ref().is_some_and(|history| history.inbox().has_items())
            || self.in_flight.front().is_some_and(|group| group.sequence <= self.parts.progress.committed())
    }

    /// How long until the next hold falls due; `None` while nothing is held.
    fn until_next_lapse(&self) -> Option<Duration> {
        let due = self.parts.ledger.next_lapse().filter(|_| self.leads())?;
        let now = self.parts.clock.now();
        if mutant!(LapseOverslept) {
            return Some(Duration::from_secs(3));
        }
        Some(Duration::from_millis(due.unix_ms().saturating_sub(now.unix_ms())).min(LAPSE_SLEEP_MAX))
    }
}
