//! The shard actor: the one owner of its products, on a thread of its own. The door of actix.
//!
//! Its loop is a future inside the actor, so that the mailbox (the control plane) is served between its turns. A turn settles what
//! was committed, takes a batch from the ring, decides and applies it, and proposes what came of it as one group. While groups are
//! being made durable the next one gathers; its size is whatever has arrived meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, MessageResult};
use tidegate_persistence::{Actor as Acted, ActorName, Group, GroupBuilder, GroupSequence};
use tidegate_stock::limits::LAPSE_RESERVATIONS_MAX;
use tidegate_stock::{
    Accepted, Event, Ledger, Listed, NeedsRecord, NoRoom, Request, ReservationId, ReservationView, StockId, StockView, Subject,
    Timestamp, decide, decide_lapse,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Sleep;

use crate::answer::{Answer, Content, Position, Refusal, StockAnswer};
use crate::clock::Clock;
use crate::codec::{push_item, write_image};
use crate::commit::{CommitLog, CommitProgress};
use crate::historian::{HistoryAnswer, ShardHistory};
use crate::metrics::{EngineMetrics, answer_name, command_name, rejection_name};
use crate::options::EngineOptions;
use crate::published::Published;
use crate::ring::RingReceiver;
use crate::router::ShardNumber;
use crate::work::{Job, Outcome, Recalled, Work};

/// Looks for work, with the processor's pause between them, before the shard parks.
const SPINS_BEFORE_PARKING: u32 = 64;

/// Turns in one poll of the loop, so that the mailbox waits for a bounded number of batches.
const TURNS_PER_POLL: u32 = 8;

/// Longest sleep until the next lapse, so that a step of the wall clock is noticed.
const LAPSE_SLEEP_MAX: Duration = Duration::from_millis(250);

/// Keys and users tidied away in a turn without work at most, so that its length stays bounded.
const TIDIED_IDLE: usize = 256;

/// Time that the pieces of one slice of a copy may take together, between two batches.
const COPY_SLICE: Duration = Duration::from_micros(200);

/// Looks at records between two looks at the clock while a slice is copied.
const COPY_LOOKS: usize = 64;

/// Bytes at which a block of a copy is handed over.
const COPY_BLOCK_BYTES: usize = 256 * 1024;

/// Reservations that leave memory together at most.
const LEAVING_MAX: usize = 1_024;

/// Groups proposed and not yet committed at most while more is due than one event lapses.
const LAPSING_IN_FLIGHT_MAX: usize = 2;

/// Reservations that are on their way to the history at once at most.
const LEAVING_IN_FLIGHT_MAX: usize = 8 * LEAVING_MAX;

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) number: ShardNumber,
    pub(crate) ledger: Ledger,
    pub(crate) ring: RingReceiver<Work>,
    pub(crate) log: Box<dyn CommitLog>,
    pub(crate) progress: Arc<CommitProgress>,
    pub(crate) published: Arc<Published>,
    pub(crate) history: Option<ShardHistory>,
    pub(crate) changes: Arc<watch::Sender<()>>,
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
    /// Replies that wait for the head they observed, oldest first, and how many commands they answer.
    waiting: VecDeque<Waiting>,
    waiting_commands: usize,
    /// Taken from the ring beyond what one batch may hold.
    backlog: VecDeque<Work>,
    /// Pieces of work that wait for the history.
    aside: usize,
    /// Later work of batches whose earlier work waits for the history.
    held: BTreeMap<u64, VecDeque<Work>>,
    /// Reservations on their way to the history.
    leaving: usize,
    /// Those of them that the history keeps, and that can leave memory once [`Self::recalled`] is 0.
    kept: Vec<ReservationId>,
    /// Work in the backlog with a record from the history. The record is what the reservation is as long as the reservation is not in
    /// memory; so nothing leaves memory before that work is done: it could have been changed there since it was looked up.
    recalled: usize,
    /// Whether more fell due in the last batch than one event lapses.
    is_lapsing: bool,
    copy: CopyState,
    /// The newest event's image; kept for its room.
    image: Vec<u8>,
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
    commands: usize,
    reply: Reply,
}

/// An answer with whoever waits for it.
enum Reply {
    One(oneshot::Sender<Outcome>, Outcome),
    Many(oneshot::Sender<Vec<Outcome>>, Vec<Outcome>),
    List(oneshot::Sender<Listed>, Listed),
}

impl Reply {
    /// A caller that left does not hear the answer; its command counts all the same.
    fn send(self) {
        match self {
            Self::One(reply, outcome) => drop(reply.send(outcome)),
            Self::Many(reply, outcomes) => drop(reply.send(outcomes)),
            Self::List(reply, listed) => drop(reply.send(listed)),
        }
    }
}

/// A copy of the ledger, for a snapshot.
enum CopyState {
    None,
    /// Asked for; begins between two groups.
    Asked(BeginCopy),
    Under(CopyOut),
}

/// A copy that is being handed out.
struct CopyOut {
    sink: mpsc::SyncSender<CopyPiece>,
    block: Vec<u8>,
    items: u32,
    /// A piece that the sink had no room for yet.
    pending: Option<CopyPiece>,
}

/// What a copy is handed out in.
#[derive(Debug)]
pub(crate) enum CopyPiece {
    /// Some items of it.
    Block { bytes: Vec<u8>, items: u32 },
    /// That was all.
    End,
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
        Self {
            parts,
            open: None,
            proposed,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_commands: 0,
            backlog: VecDeque::new(),
            aside: 0,
            held: BTreeMap::new(),
            leaving: 0,
            kept: Vec::new(),
            recalled: 0,
            is_lapsing: false,
            copy: CopyState::None,
            image: Vec::new(),
            newest,
            stopping: None,
        }
    }

    fn turn(&mut self) -> Turn {
        let settled = self.settle();
        let heard = self.hear_history();
        // What gathered while there was no room goes first, so that a group never grows past its bounds by more than one batch.
        self.propose_if_room();
        let copied = self.copy();
        let taken = if self.may_take() { self.take_batch() } else { 0 };
        self.propose_if_room();
        let left = self.let_leave();
        // Faster than keys can come in, so that those whose time is over never gather.
        self.parts.ledger.tidy(self.committed_time(), TIDIED_IDLE.max(2 * taken));
        if settled || heard || copied || left || taken > 0 { Turn::Worked } else { Turn::Idle }
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
        if settled && self.parts.changes.receiver_count() > 0 {
            self.parts.changes.send_replace(());
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.observed <= committed) {
            self.waiting_commands -= waiting.commands;
            waiting.reply.send();
            settled = true;
        }
        settled
    }

    /// Takes what the history has to say. Returns whether it had anything.
    fn hear_history(&mut self) -> bool {
        let Some(history) = &self.parts.history else { return false };
        let answers = history.inbox().take();
        let heard = !answers.is_empty();
        for answer in answers {
            match answer {
                HistoryAnswer::Kept(ids) => self.kept.extend(ids),
                HistoryAnswer::Recalled(work) => {
                    self.aside -= 1;
                    self.recalled += 1;
                    self.backlog.push_front(work);
                }
                HistoryAnswer::Failed(work) => {
                    self.aside -= 1;
                    self.fail_work(work, Refusal::HistoryFailed);
                }
            }
        }
        heard
    }

    /// Hands the oldest resolved reservations to the history where there are more in memory than there should be.
    fn let_leave(&mut self) -> bool {
        let Some(history) = &self.parts.history else { return false };
        if self.recalled == 0 && !self.kept.is_empty() {
            self.leaving -= self.kept.len();
            for id in std::mem::take(&mut self.kept) {
                self.parts.ledger.has_left(id);
            }
        }
        // Units that are due come back first: a mass lapse needs the processors and the disk for itself.
        if self.is_lapsing {
            return false;
        }
        let kept = self.parts.options.resolved_in_memory_max;
        let excess = self.parts.ledger.resolved_count().saturating_sub(kept);
        // Few together are dear; but a small allowance must not be exceeded by much.
        if excess < LEAVING_MAX.min(kept / 8).max(1) || self.leaving + LEAVING_MAX > LEAVING_IN_FLIGHT_MAX {
            return false;
        }
        let records = self.parts.ledger.take_leaving(self.leaving_before(), excess.min(LEAVING_MAX));
        if records.is_empty() {
            return false;
        }
        self.leaving += records.len();
        history.keep(records);
        true
    }

    /// Begins a copy that was asked for, if a group has just ended, and goes on with one that has begun. Returns whether it came
    /// further.
    fn copy(&mut self) -> bool {
        match std::mem::replace(&mut self.copy, CopyState::None) {
            CopyState::None => false,
            CopyState::Asked(begin) if self.open.is_some() => {
                self.copy = CopyState::Asked(begin);
                false
            }
            CopyState::Asked(begin) => {
                self.parts.ledger.begin_copy();
                self.copy = CopyState::Under(CopyOut { sink: begin.sink, block: Vec::new(), items: 0, pending: None });
                // Whoever asked and left finds the sink closed.
                let _ = begin.begun.send(self.proposed);
                true
            }
            CopyState::Under(mut copy) => {
                let (worked, goes_on) = copy.go_on(&mut self.parts.ledger);
                if goes_on {
                    self.copy = CopyState::Under(copy);
                } else {
                    self.parts.ledger.give_up_copy();
                }
                worked
            }
        }
    }

    /// Whether another batch may be decided: the open group can still grow, and so may the replies that wait. Without the second bound
    /// rejections, which make no group grow, would gather here instead of filling the ring.
    fn may_take(&self) -> bool {
        let options = &self.parts.options;
        let can_grow =
            |open: &OpenGroup| open.builder.events() < options.group_events_max && open.builder.bytes() < options.group_bytes_max;
        self.waiting_commands < options.ring_slots && self.open.as_ref().is_none_or(can_grow)
    }

    fn has_room_in_flight(&self) -> bool {
        // Groups of a mass lapse are large; with few of them on their way, callers wait behind less.
        let allowed = self.parts.options.groups_in_flight_max;
        self.in_flight.len() < if self.is_lapsing { allowed.min(LAPSING_IN_FLIGHT_MAX) } else { allowed }
    }

    /// Lapses what is due (one event of it), then decides a batch from the ring, all with one time. Returns how much there was to do.
    fn take_batch(&mut self) -> usize {
        // A clock that steps back is waited for: answers that wrote nothing count as much as events.
        let now = self.parts.clock.now().max(self.newest);
        self.newest = now;
        let lapsed = self.lapse(now);
        let limit = self.parts.options.batch_commands_max;
        if self.backlog.is_empty() {
            // What is taken from the ring must be read out, even if it is more than one batch may hold.
            let backlog = &mut self.backlog;
            self.parts.ring.drain(limit, |work| backlog.push_back(work));
        }
        let mut commands = 0;
        while commands < limit
            && let Some(work) = self.backlog.pop_front()
        {
            commands += work.commands();
            self.process(work, now);
        }
        lapsed + commands
    }

    fn lapse(&mut self, now: Timestamp) -> usize {
        let Some(event) = decide_lapse(&self.parts.ledger, now) else {
            self.is_lapsing = false;
            return 0;
        };
        let Event::Expired { reservations } = &event else { unreachable!("a lapse is an Expired event") };
        let lapsed = reservations.len();
        self.apply(&event, &Acted::Clock, now);
        self.parts.metrics.count_lapsed(lapsed);
        self.is_lapsing = lapsed == LAPSE_RESERVATIONS_MAX;
        lapsed
    }

    /// Does a piece of work, or sets it aside where it needs a reservation from the history.
    fn process(&mut self, mut work: Work, now: Timestamp) {
        if let Job::List { query, reply } = work.job {
            let listed = self.parts.ledger.list(query.stock, query.before, query.user.as_ref(), query.looks_max);
            self.wait(1, Reply::List(reply, listed));
            return;
        }
        if let Job::Many(many) = &work.job
            && work.recalled.is_none()
            && let Some(held) = self.held.get_mut(&many.batch)
        {
            held.push_back(work);
            return;
        }
        let recalled = work.recalled.take();
        self.recalled -= usize::from(recalled.is_some());
        match work.job {
            Job::List { .. } => unreachable!("answered above"),
            Job::One { request, actor, reply } => match self.outcome(&request, &actor, recalled.as_ref(), now) {
                Ok(outcome) => self.wait(1, Reply::One(reply, outcome)),
                Err(needed) => self.set_aside(Work { job: Job::One { request, actor, reply }, recalled }, needed),
            },
            Job::Many(mut many) => {
                while let Some(request) = many.requests.pop_front() {
                    match self.outcome(&request, &many.actor, recalled.as_ref(), now) {
                        Ok(outcome) => many.outcomes.push(outcome),
                        Err(needed) => {
                            many.requests.push_front(request);
                            self.held.entry(many.batch).or_default();
                            self.set_aside(Work { job: Job::Many(many), recalled }, needed);
                            return;
                        }
                    }
                }
                let batch = many.batch;
                self.wait(many.outcomes.len(), Reply::Many(many.reply, many.outcomes));
                self.let_go(batch);
            }
        }
    }

    /// What was held back behind work of `batch` that is done now comes next, in its order.
    fn let_go(&mut self, batch: u64) {
        for work in self.held.remove(&batch).into_iter().flatten().rev() {
            self.backlog.push_front(work);
        }
    }

    /// Has `needed` looked up in the history, and does the work when it is there.
    fn set_aside(&mut self, work: Work, NeedsRecord(needed): NeedsRecord) {
        let recalls_max = self.parts.options.recalls_in_flight_max;
        match &self.parts.history {
            // Nothing ever left memory, so it is not there either.
            None => {
                let recalled = Some(Recalled { id: needed, record: None });
                self.recalled += 1;
                self.backlog.push_front(Work { recalled, ..work });
            }
            Some(_) if self.aside >= recalls_max => self.fail_work(work, Refusal::RecallsFull { recalls_max }),
            Some(history) => {
                self.aside += 1;
                history.recall(needed, work);
            }
        }
    }

    /// Refuses the command that stopped a piece of work; what else there is of it goes on.
    fn fail_work(&mut self, work: Work, refusal: Refusal) {
        self.parts.metrics.count_refusal(refusal);
        match work.job {
            Job::One { reply, .. } => self.wait(1, Reply::One(reply, Err(refusal.into()))),
            Job::Many(mut many) => {
                many.requests.pop_front();
                many.outcomes.push(Err(refusal.into()));
                // What it needs next is not known yet; and it must not be held behind itself.
                let Some(next) = many.requests.front().map(|_| many.batch) else {
                    let batch = many.batch;
                    self.wait(many.outcomes.len(), Reply::Many(many.reply, many.outcomes));
                    return self.let_go(batch);
                };
                let held = self.held.remove(&next).unwrap_or_default();
                held.into_iter().rev().for_each(|later| self.backlog.push_front(later));
                self.backlog.push_front(Work { job: Job::Many(many), recalled: None });
            }
            Job::List { .. } => unreachable!("a list is never set aside"),
        }
    }

    /// Accepted or not, an answer tells what it saw; it leaves when that is committed. With nothing open or in flight, the next settling
    /// finds it at once.
    fn wait(&mut self, commands: usize, reply: Reply) {
        self.waiting_commands += commands;
        self.waiting.push_back(Waiting { observed: self.head(), commands, reply });
    }

    /// The group that holds the newest event.
    fn head(&self) -> GroupSequence {
        self.open.as_ref().map_or(self.proposed, |open| open.sequence)
    }

    fn outcome(
        &mut self,
        request: &Request,
        actor: &ActorName,
        recalled: Option<&Recalled>,
        now: Timestamp,
    ) -> Result<Outcome, NeedsRecord> {
        let command = command_name(&request.command);
        let ledger = &self.parts.ledger;
        if let Some(no_room) = ledger.lacks_room(request, now) {
            let rules = ledger.rules();
            let refusal = match no_room {
                NoRoom::Keys => Refusal::KeysFull { keys_max: rules.idempotency_keys_max },
                NoRoom::Reservations => Refusal::MemoryFull { reservations_max: rules.reservations_in_memory_max },
            };
            self.parts.metrics.count_refusal(refusal);
            return Ok(Err(refusal.into()));
        }
        let decision = decide(ledger, request, now, Recalled::of(recalled))?;
        for event in decision.before.iter().chain(&decision.event) {
            let acted = if matches!(event, Event::Expired { .. }) { Acted::Clock } else { Acted::Key(actor.clone()) };
            self.apply(event, &acted, now);
        }
        Ok(match decision.outcome {
            Ok(accepted) => {
                let answer = self.answer(accepted, recalled, now);
                self.parts.metrics.count_command(command, answer_name(&answer));
                Ok(answer)
            }
            Err(rejection) => {
                self.parts.metrics.count_command(command, rejection_name(rejection));
                Err(rejection.into())
            }
        })
    }

    fn answer(&self, accepted: Accepted, recalled: Option<&Recalled>, now: Timestamp) -> Answer {
        let content = match accepted.subject {
            Subject::Reservation(id) => {
                self.parts.ledger.reservation(id).or_else(|| self.view(id, recalled)).map(Content::Reservation)
            }
            Subject::Stock(id) => self.parts.ledger.stock(id).map(|view| {
                let state = view.state(now);
                // The group before the open one: more may follow in that, and whoever goes on from here must miss none of it.
                Content::Stock(StockAnswer {
                    view,
                    state,
                    as_of: Position { stream: self.parts.number.stream(), group: self.proposed },
                })
            }),
        };
        let content = content.expect("an accepted command's subject is in the ledger, or was recalled for it");
        Answer { created: accepted.created, replayed: accepted.replayed, content }
    }

    /// A reservation that is not in memory, and that nothing has changed.
    fn view(&self, id: ReservationId, recalled: Option<&Recalled>) -> Option<ReservationView> {
        let record = recalled?.record.as_ref().filter(|record| record.id == id)?;
        Some(record.view(&self.parts.ledger.stock(id.stock)?.sku))
    }

    /// Applies `event` to the head and adds it to the open group, which it opens if there is none.
    fn apply(&mut self, event: &Event, acted: &Acted, now: Timestamp) {
        // The inverse is for logs that can refuse a group; here a group that fails stops the node.
        drop(self.parts.ledger.apply(event, now));
        write_image(&mut self.image, &self.parts.ledger.image(event));
        let sequence = self.proposed.next();
        let open = self.open.get_or_insert_with(|| OpenGroup {
            sequence,
            time: now,
            builder: GroupBuilder::new(sequence, now),
            touched: Vec::new(),
        });
        open.builder.push(event, acted, now, &self.image);
        if let Event::Expired { reservations } = event {
            for reservation in reservations {
                open.touch(reservation.stock);
            }
        } else if let Some(stock) = event.stock() {
            open.touch(stock);
        }
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
        self.parts.metrics.observe_proposal(group.events, group.payload.len());
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

    /// A time before which everything is committed.
    fn leaving_before(&self) -> Timestamp {
        match (self.in_flight.front(), &self.open) {
            (None, None) => Timestamp::from_unix_ms(u64::MAX),
            _ => self.committed_time(),
        }
    }

    fn is_drained(&self) -> bool {
        !self.parts.ring.has_items()
            && self.backlog.is_empty()
            && self.aside == 0
            && self.open.is_none()
            && self.in_flight.is_empty()
            && self.waiting.is_empty()
    }

    fn has_work(&self) -> bool {
        (self.may_take() && (self.parts.ring.has_items() || !self.backlog.is_empty()))
            || self.parts.progress.has_failed()
            || self.parts.history.as_ref().is_some_and(|history| history.inbox().has_items())
            || self.in_flight.front().is_some_and(|group| group.sequence <= self.parts.progress.committed())
    }

    /// How long until the next hold falls due; `None` while nothing is held.
    fn until_next_lapse(&self) -> Option<Duration> {
        let due = self.parts.ledger.next_lapse()?;
        let now = self.parts.clock.now();
        Some(Duration::from_millis(due.unix_ms().saturating_sub(now.unix_ms())).min(LAPSE_SLEEP_MAX))
    }
}

impl CopyOut {
    /// Hands out what the sink has room for. Returns whether it came further, and whether there is more to come.
    fn go_on(&mut self, ledger: &mut Ledger) -> (bool, bool) {
        if let Some(piece) = self.pending.take() {
            let is_end = matches!(piece, CopyPiece::End);
            match self.sink.try_send(piece) {
                Ok(()) if is_end => return (true, false),
                Ok(()) => {}
                Err(mpsc::TrySendError::Full(piece)) => {
                    self.pending = Some(piece);
                    return (false, true);
                }
                // Whoever wanted the copy has left.
                Err(mpsc::TrySendError::Disconnected(_)) => return (true, false),
            }
        }
        let began = Instant::now();
        while began.elapsed() < COPY_SLICE {
            let (block, items) = (&mut self.block, &mut self.items);
            let is_done = ledger.copy_slice(COPY_LOOKS, |item| {
                push_item(block, &item);
                *items += 1;
            });
            if is_done && self.block.is_empty() {
                self.pending = Some(CopyPiece::End);
                return (true, true);
            }
            if is_done || self.block.len() >= COPY_BLOCK_BYTES {
                let piece = CopyPiece::Block { bytes: std::mem::take(&mut self.block), items: std::mem::take(&mut self.items) };
                self.pending = Some(piece);
                return (true, true);
            }
        }
        (true, true)
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
                shard.backlog.clear();
                shard.held.clear();
                shard.copy = CopyState::None;
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
            recalls_max: options.recalls_in_flight_max,
            lapse_lag_ms: self.parts.ledger.next_lapse().map_or(0, |due| now.unix_ms().saturating_sub(due.unix_ms())),
        })
    }
}
