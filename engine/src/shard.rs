//! The shard actor: the one owner of its products, on a thread of its own.
//!
//! A turn settles what was committed, takes a batch from the ring, decides and applies it, and proposes what came of it as one group.
//! While groups are being made durable the next one gathers; its size is whatever has arrived meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tidegate_persistence::{Actor as Acted, ActorName, Group, GroupBuilder, GroupSequence, Term};
use tidegate_stock::limits::LAPSE_RESERVATIONS_MAX;
use tidegate_stock::{
    Accepted, Decision, Event, Inverse, Ledger, Listed, NeedsRecord, NoRoom, Request, ReservationId, ReservationView, StockId,
    StockView, Subject, Timestamp, decide, decide_lapse,
};

use crate::answer::{Answer, Content, Position, Refusal, StockAnswer};
use crate::changes::Changes;
use crate::clock::Clock;
use crate::codec::write_image;
use crate::command_counts::{Asked, Came};
use crate::commit::{CommitLog, CommitProgress};
use crate::copying::{CopyOut, CopyStep};
use crate::historian::ShardHistory;
use crate::known::{KnownInUse, KnownKeeper};
use crate::metrics::EngineMetrics;
use crate::options::EngineOptions;
use crate::published::Published;
use crate::quorum::{Message, QuorumLine};
use crate::ring::RingReceiver;
use crate::router::ShardNumber;
use crate::sync::oneshot;
use crate::work::{Job, Outcome, Recalled, Work};

mod following;
mod running;
#[cfg(all(test, feature = "loom"))]
mod schedules;
mod tiers;

pub use running::ShardReport;
pub(crate) use running::{BeginCopy, Inspect, Mark, Stop};

/// Keys and users tidied away in a turn without work at most, so that its length stays bounded.
const TIDIED_IDLE: usize = 256;

/// Groups proposed and not yet committed at most while more is due than one event lapses.
const LAPSING_IN_FLIGHT_MAX: usize = 2;

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) number: ShardNumber,
    pub(crate) ledger: Ledger,
    pub(crate) ring: RingReceiver<Work>,
    pub(crate) log: Box<dyn CommitLog>,
    pub(crate) quorum: Option<QuorumLine>,
    pub(crate) progress: Arc<CommitProgress>,
    pub(crate) published: Arc<Published>,
    pub(crate) known: Arc<KnownInUse>,
    pub(crate) history: Option<ShardHistory>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) options: EngineOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<EngineMetrics>,
}

/// The term in which a shard decides that nobody tells to.
const TERM_ALONE: Term = Term(1);

/// Whether a shard decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It does, in this term.
    Leads(Term),
    /// Another node's does, or none.
    Follows,
}

/// The actor. It runs from its start until [`Stop`], or until its log fails.
pub(crate) struct ShardActor {
    parts: ShardParts,
    role: Role,
    /// What a quorum told that has not been taken in yet.
    told: VecDeque<Message>,
    /// How often what was not committed has been taken back.
    taken_back: u64,
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
    /// Commands in it.
    held_commands: usize,
    /// Reservations on their way to the history.
    leaving: usize,
    /// Those of them that the history keeps, and that can leave memory once [`Self::recalled`] is 0.
    kept: VecDeque<ReservationId>,
    /// Work in the backlog with a record from the history. The record is what the reservation is as long as the reservation is not in
    /// memory; so nothing leaves memory before that work is done: it could have been changed there since it was looked up.
    recalled: usize,
    /// Pieces of work that wait for the history of a ledger that is gone: what they come back with may be out of date.
    outdated: usize,
    /// Whether another ledger is coming, and who waits until nothing is on its way to the history.
    is_preparing: bool,
    prepared: Option<oneshot::Sender<()>>,
    /// Whether more fell due in the last batch than one event lapses.
    is_lapsing: bool,
    copy: CopyState,
    known: KnownKeeper,
    /// The newest event's image; kept for its room.
    image: Vec<u8>,
    /// The latest time that any batch was stamped with.
    newest: Timestamp,
    stopping: Option<oneshot::Sender<()>>,
    /// Groups proposed since the ledger's sum was last written to the log, and when that was.
    groups_since_sum: u32,
    summed_at: Timestamp,
}

struct OpenGroup {
    sequence: GroupSequence,
    /// The time of its first event.
    time: Timestamp,
    builder: GroupBuilder,
    touched: Vec<StockId>,
    /// What takes its events back, in their order; none where nothing is ever taken back.
    inverses: Vec<Inverse>,
}

/// A proposed group, until it is committed.
struct InFlight {
    sequence: GroupSequence,
    time: Timestamp,
    proposed_at: Instant,
    /// The stocks that it changed, as they stood at its end.
    views: Vec<StockView>,
    /// When the earliest hold falls due that there was at its end.
    next_lapse: Option<Timestamp>,
    /// What takes its events back, in their order.
    inverses: Vec<Inverse>,
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

/// Whether a turn found anything to do.
#[derive(PartialEq, Eq)]
enum Turn {
    Worked,
    Idle,
}

impl ShardActor {
    pub(crate) fn new(parts: ShardParts) -> Self {
        let proposed = parts.progress.committed();
        parts.published.publish(parts.ledger.stocks(), parts.number.stream(), proposed);
        parts.published.show_up_to(parts.number.stream(), proposed);
        parts.published.show_lapse(parts.number.stream(), parts.ledger.next_lapse());
        let newest = parts.ledger.last_applied();
        let role = if parts.quorum.is_some() { Role::Follows } else { Role::Leads(TERM_ALONE) };
        if role == Role::Follows {
            parts.progress.leadership().follow();
        }
        let known = KnownKeeper::new(Arc::clone(&parts.known), parts.options.known_filter_bytes_max, &parts.ledger, proposed);
        Self {
            parts,
            role,
            told: VecDeque::new(),
            taken_back: 0,
            open: None,
            proposed,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_commands: 0,
            backlog: VecDeque::new(),
            aside: 0,
            held: BTreeMap::new(),
            held_commands: 0,
            leaving: 0,
            kept: VecDeque::new(),
            recalled: 0,
            outdated: 0,
            is_preparing: false,
            prepared: None,
            is_lapsing: false,
            copy: CopyState::None,
            known,
            image: Vec::new(),
            newest,
            stopping: None,
            groups_since_sum: 0,
            summed_at: newest,
        }
    }

    fn turn(&mut self) -> Turn {
        let settled = self.settle();
        let heard = self.hear_quorum() | self.hear_history();
        // What gathered while there was no room goes first, so that a group never grows past its bounds by more than one batch.
        self.propose_if_room();
        let copied = self.copy();
        let taken = if self.may_take() { self.take_batch() } else { 0 };
        self.propose_if_room();
        let left = self.let_leave();
        // Not at a stop, which would wait for it.
        let learns = self.stopping.is_none() && self.known.go_on(&self.parts.ledger, self.head());
        // Faster than keys can come in, so that those whose time is over never gather.
        let tidies = self.parts.ledger.tidy(self.committed_time(), TIDIED_IDLE.max(2 * taken));
        if settled || heard || copied || left || learns || tidies || taken > 0 { Turn::Worked } else { Turn::Idle }
    }

    /// Publishes the views of committed groups, then sends the replies that waited for them. Returns whether there were any.
    fn settle(&mut self) -> bool {
        let committed = self.parts.progress.committed();
        let mut settled = mutant!(ReplyBeforeView) && self.send_replies(committed);
        if settled {
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        while let Some(group) = self.in_flight.pop_front_if(|group| group.sequence <= committed) {
            self.parts.metrics.observe_commit(group.proposed_at.elapsed().as_secs_f64());
            let (published, stream) = (&self.parts.published, self.parts.number.stream());
            published.expect_lapse(stream, group.next_lapse);
            published.publish(group.views, stream, group.sequence);
            published.show_lapse(stream, group.next_lapse);
            settled = true;
        }
        if settled {
            self.parts.published.show_up_to(self.parts.number.stream(), committed);
            self.parts.changes.tell();
        }
        self.known.settle(committed);
        self.send_replies(committed) || settled
    }

    /// Sends the replies that observed no more than `committed`. Returns whether there were any.
    fn send_replies(&mut self, committed: GroupSequence) -> bool {
        let waiting = self.waiting.len();
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.observed <= committed || mutant!(ReplyBeforeDurable))
        {
            self.waiting_commands -= waiting.commands;
            waiting.reply.send();
        }
        self.waiting.len() < waiting
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
                self.copy = CopyState::Under(CopyOut::new(begin.sink));
                // Whoever asked and left finds the sink closed.
                let _ = begin.begun.send(self.proposed);
                true
            }
            CopyState::Under(mut copy) => {
                let step = copy.go_on(&mut self.parts.ledger);
                if matches!(step, CopyStep::Over) {
                    self.parts.ledger.give_up_copy();
                } else {
                    self.copy = CopyState::Under(copy);
                }
                !matches!(step, CopyStep::Waits)
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

    /// Whether more may be taken from the ring: what waits behind work that waits for the history counts as what waits in the ring does,
    /// so that a slow history fills the ring and not the memory.
    fn may_drain(&self) -> bool {
        self.held_commands < self.parts.options.ring_slots
    }

    fn has_room_in_flight(&self) -> bool {
        // Groups of a mass lapse are large; with few of them on their way, callers wait behind less.
        let allowed = self.parts.options.groups_in_flight_max;
        self.in_flight.len() < if self.is_lapsing { allowed.min(LAPSING_IN_FLIGHT_MAX) } else { allowed }
    }

    /// Lapses what is due (one event of it), then decides a batch from the ring, all with one time. Returns how much there was to do.
    fn take_batch(&mut self) -> usize {
        // A clock that steps back is waited for: answers that wrote nothing count as much as events.
        let now = self.parts.clock.now();
        let now = if mutant!(TimeBackwards) { now } else { now.max(self.newest) };
        self.newest = now;
        let lapsed = self.lapse(now);
        let limit = self.parts.options.batch_commands_max;
        if self.backlog.is_empty() && self.may_drain() {
            // What is taken from the ring must be read out, even if it is more than one batch may hold.
            let backlog = &mut self.backlog;
            self.parts.ring.drain(limit, |work| backlog.push_back(work));
            for work in self.backlog.iter().take(limit) {
                work.look_ahead(&self.parts.ledger);
            }
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
        let Some(event) = Some(&self.parts.ledger).filter(|_| self.leads()).and_then(|ledger| decide_lapse(ledger, now)) else {
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
            && !mutant!(HeldWorkOvertakes)
            && let Some(held) = self.held.get_mut(&many.batch)
        {
            self.held_commands += work.commands();
            held.push_back(work);
            return;
        }
        let recalled = work.recalled.take();
        self.recalled -= usize::from(recalled.is_some());
        match work.job {
            Job::List { .. } => unreachable!("answered above"),
            Job::One { request, actor, under_way, reply } => match self.outcome(&request, &actor, recalled.as_deref(), now) {
                Ok(outcome) => self.wait(1, Reply::One(reply, outcome)),
                Err(needed) => self.set_aside(Work { job: Job::One { request, actor, under_way, reply }, recalled }, needed),
            },
            Job::Many(mut many) => {
                if many.taken_back != self.taken_back {
                    // What was decided before it was set aside may have been taken back meanwhile.
                    following::make_unknown(&mut many.outcomes);
                    many.taken_back = self.taken_back;
                }
                while let Some(request) = many.requests.pop_front() {
                    match self.outcome(&request, &many.actor, recalled.as_deref(), now) {
                        Ok(outcome) => many.outcomes.push(outcome),
                        Err(needed) => {
                            many.requests.push_front(request);
                            self.held.entry(many.batch).or_default();
                            self.set_aside(Work { job: Job::Many(many), recalled }, needed);
                            return;
                        }
                    }
                }
                drop(many.under_way);
                let batch = many.batch;
                self.wait(many.outcomes.len(), Reply::Many(many.reply, many.outcomes));
                self.let_go(batch);
            }
        }
    }

    /// Accepted or not, an answer tells what it saw; it leaves when that is committed. With nothing open or in flight, the next settling
    /// finds it at once.
    fn wait(&mut self, commands: usize, reply: Reply) {
        if mutant!(RejectionBeforeObserved) && matches!(reply, Reply::One(_, Err(_))) {
            return reply.send();
        }
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
        if !self.leads() {
            self.parts.metrics.count_refusal(Refusal::NotLeader);
            return Ok(Err(Refusal::NotLeader.into()));
        }
        let asked = Asked::by(&request.command);
        let ledger = &self.parts.ledger;
        if let Some(no_room) = ledger.lacks_room(request, now) {
            let rules = ledger.rules();
            let refusal = match no_room {
                NoRoom::Keys => Refusal::KeysFull { keys_max: rules.idempotency_keys_max },
                NoRoom::Reservations => Refusal::MemoryFull { reservations_max: rules.reservations_in_memory_max },
                NoRoom::Users => Refusal::UsersFull { users_max: rules.users_in_memory_max },
            };
            self.parts.metrics.count_refusal(refusal);
            return Ok(Err(refusal.into()));
        }
        let decision = decide(ledger, request, now, Recalled::of(recalled))?;
        let recall = self.recall_for_others(&decision);
        for event in recall.iter().chain(&decision.before).chain(&decision.event) {
            let acted = if matches!(event, Event::Expired { .. }) { Acted::Clock } else { Acted::Key(actor.clone()) };
            self.apply(event, &acted, now);
        }
        Ok(match decision.outcome {
            Ok(accepted) => {
                let answer = self.answer(accepted, recalled, now);
                self.parts.metrics.count_command(asked, Came::answered(&answer));
                Ok(answer)
            }
            Err(rejection) => {
                self.parts.metrics.count_command(asked, Came::rejected(rejection));
                Err(rejection.into())
            }
        })
    }

    /// What goes in front of a decision so that every node can apply it. Other nodes let go of what is over in their own time, so a change of
    /// it brings the record along, whether it is in memory here or not.
    fn recall_for_others(&self, decision: &Decision) -> Option<Event> {
        let Some(Event::Returned { reservation, .. }) = &decision.event else { return None };
        // Before a lapse it held units, and is in memory everywhere.
        let is_needed = self.parts.quorum.is_some() && decision.before.is_none();
        let record = self.parts.ledger.resolved(*reservation).filter(|_| is_needed)?;
        Some(Event::Recalled { record: Box::new(record) })
    }

    fn answer(&self, accepted: Accepted, recalled: Option<&Recalled>, now: Timestamp) -> Answer {
        let content = match accepted.subject {
            Subject::Reservation(mut id) => {
                id.sequence.0 -= u64::from(mutant!(ReplyToAStranger) && id.sequence.0 > 1);
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
        self.known.note(event);
        let inverse = self.parts.ledger.apply(event, now);
        // Where a node stands alone a group that fails stops it, and nothing is taken back.
        let inverse = self.parts.quorum.is_some().then_some(inverse);
        write_image(&mut self.image, &self.parts.ledger.image(event));
        let image = std::mem::take(&mut self.image);
        let open = self.open_group(now);
        if !(mutant!(RecallNotLogged) && matches!(event, Event::Recalled { .. })) {
            open.builder.push(event, acted, now, &image);
        }
        open.touch_all(event);
        open.inverses.extend(inverse);
        self.image = image;
    }

    /// The group that is being decided, which begins now if there is none.
    fn open_group(&mut self, now: Timestamp) -> &mut OpenGroup {
        let sequence = self.proposed.next();
        self.open.get_or_insert_with(|| OpenGroup::new(sequence, now))
    }

    /// Whether this shard decides.
    const fn leads(&self) -> bool {
        matches!(self.role, Role::Leads(_))
    }

    fn propose_if_room(&mut self) {
        if !self.has_room_in_flight() {
            return;
        }
        self.write_sum_if_due();
        let Some(mut open) = self.open.take() else { return };
        let Role::Leads(term) = self.role else { unreachable!("a shard that follows opens no group") };
        let views = open.views(&self.parts.ledger);
        if mutant!(ViewBeforeCommit) {
            self.parts.published.publish(views.clone(), self.parts.number.stream(), open.sequence);
        }
        let group: Group = open.builder.finish();
        self.parts.metrics.observe_proposal(group.events, group.payload.len());
        self.proposed = group.sequence;
        let (sequence, time, next_lapse) = (group.sequence, group.time, self.parts.ledger.next_lapse());
        let inverses = open.inverses;
        self.in_flight.push_back(InFlight { sequence, time, proposed_at: Instant::now(), views, next_lapse, inverses });
        self.parts.log.propose(term, group);
    }

    /// Ends the open group with what the ledger comes to, if it is time: nodes that apply it compare theirs. A node that stands alone has nobody
    /// to compare.
    fn write_sum_if_due(&mut self) {
        if self.parts.quorum.is_none() || self.open.as_ref().is_none_or(|open| open.builder.events() == 0) {
            return;
        }
        self.groups_since_sum += 1;
        let options = &self.parts.options;
        let at = self.parts.ledger.last_applied();
        let waited_ms = at.unix_ms().saturating_sub(self.summed_at.unix_ms());
        if self.groups_since_sum < options.sum_groups && waited_ms < u64::from(options.sum_seconds) * 1_000 {
            return;
        }
        (self.groups_since_sum, self.summed_at) = (0, at);
        let sum = self.parts.ledger.sum();
        self.apply(&Event::Summed { sum }, &Acted::Clock, at);
    }

    /// A time that every committed event has reached and no uncommitted one precedes.
    fn committed_time(&self) -> Timestamp {
        match (self.in_flight.front(), &self.open) {
            (Some(group), _) => group.time,
            (None, Some(open)) => open.time,
            (None, None) => self.parts.ledger.last_applied(),
        }
    }
}

impl OpenGroup {
    fn new(sequence: GroupSequence, time: Timestamp) -> Self {
        Self { sequence, time, builder: GroupBuilder::new(sequence, time), touched: Vec::new(), inverses: Vec::new() }
    }

    fn touch_all(&mut self, event: &Event) {
        if let Event::Expired { reservations } = event {
            for reservation in reservations {
                self.touch(reservation.stock);
            }
        } else if let Some(stock) = event.stock() {
            self.touch(stock);
        }
    }

    /// The stocks that it changed, as they stand in `ledger`.
    fn views(&mut self, ledger: &Ledger) -> Vec<StockView> {
        self.touched.sort_unstable();
        self.touched.dedup();
        self.touched.iter().filter_map(|id| ledger.stock(*id)).collect()
    }

    fn touch(&mut self, stock: StockId) {
        // Neighbouring events mostly touch one hot product; the rest is made unique when the group closes.
        if self.touched.last() != Some(&stock) {
            self.touched.push(stock);
        }
    }
}
