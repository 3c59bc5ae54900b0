//! The engine as the rest of the house sees it: submit a command, await its answer, read a view, stop.

use std::collections::VecDeque;
use std::future::Future;
use std::iter;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;

use actix::{Actor, Addr, Arbiter, System};
use parking_lot::Mutex;
use tidegate_persistence::{ActorName, GroupSequence, History, HistoryError, StreamId};
use tidegate_stock::{
    Command, GrantSequence, IdempotencyKey, Ledger, Listed, Rejection, Request, ReservationId, ReservationRecord, ReservationState,
    Sku, StockId, Timestamp, UserId,
};

use crate::answer::{Answer, Failure, Fault, Refusal, ReservationPage, StockAnswer};
use crate::changes::Changes;
use crate::clock::Clock;
use crate::codec::decode_record;
use crate::command_counts::{Asked, Came};
use crate::commit::{CommitLog, CommitProgress};
use crate::copying::{BLOCKS_WAITING_MAX, CopyGivenUp, LedgerCopy};
use crate::historian::{ArchiveError, Historian};
use crate::inbox::Inbox;
use crate::metrics::{EngineMetrics, HistoryOperation};
use crate::options::{EngineOptions, OptionError};
use crate::published::Published;
use crate::quorum::QuorumLine;
use crate::ring::{RingFull, RingSender, ring};
use crate::router::{Router, ShardNumber, partition_of};
use crate::sealing::Sealing;
use crate::shard::{BeginCopy, Inspect, Mark, ShardActor, ShardParts, ShardReport, Stop};
use crate::strangers::Strangers;
use crate::sync::{mpsc, oneshot, watch};
use crate::work::{Job, ListQuery, Many, Outcome, WORK_COMMANDS_MAX, Work};

/// Most reservations that one piece of work looks at, so that it takes a fraction of a millisecond.
const LOOKS_MAX: usize = 500;

/// Most reservations that are looked at for one page of a list, roughly.
pub const LIST_LOOKS_MAX: usize = 20_000;

/// One shard's state to start from.
pub struct ShardStart {
    /// The recovered ledger; of a new shard, an empty one.
    pub ledger: Ledger,
    /// Where its groups go.
    pub log: Box<dyn CommitLog>,
    /// Its committed watermark, standing at the newest recovered group.
    pub progress: Arc<CommitProgress>,
    /// Where it hears what a quorum has to say, if its log is one: then it decides nothing until it is told to lead.
    pub quorum: Option<QuorumLine>,
}

/// What an engine is made of.
pub struct EngineParts {
    /// The machine's limits.
    pub options: EngineOptions,
    /// Ids and fingerprints.
    pub sealing: Sealing,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where to count.
    pub metrics: Arc<EngineMetrics>,
    /// True while commands that may write are to be refused for want of disk space.
    pub disk_low: Arc<AtomicBool>,
    /// Where reservations go that leave memory; without one, none does.
    pub history: Option<HistoryStart>,
    /// The shards, by number; at least one.
    pub shards: Vec<ShardStart>,
}

/// The history that an engine uses.
pub struct HistoryStart {
    /// The store.
    pub store: Arc<History>,
    /// Called at most once, on the history's own thread, when the store takes nothing more: the node must stop.
    pub on_failure: Box<dyn FnOnce(&HistoryError) + Send>,
}

/// A command as it comes through a door.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What is asked for.
    pub command: Command,
    /// The caller's name for this attempt.
    pub key: Option<IdempotencyKey>,
    /// Who asks: the name of the API key.
    pub actor: ActorName,
}

/// Which reservations of a stock are asked for.
#[derive(Debug, Clone)]
pub struct ListReservations {
    /// Of which product.
    pub sku: Sku,
    /// Of which user, if of one only.
    pub user: Option<UserId>,
    /// In which state, if in one only.
    pub state: Option<ReservationState>,
    /// Older than this grant, if not from the newest on.
    pub before: Option<GrantSequence>,
    /// How many at most.
    pub limit: usize,
}

/// A running engine. Clones share it; any thread may use it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    router: Router,
    rings: Vec<RingSender<Work>>,
    shards: Vec<Addr<ShardActor>>,
    progress: Vec<Arc<CommitProgress>>,
    published: Arc<Published>,
    strangers: Vec<Strangers>,
    sealing: Sealing,
    clock: Arc<dyn Clock>,
    metrics: Arc<EngineMetrics>,
    disk_low: Arc<AtomicBool>,
    stopping: AtomicBool,
    ring_slots: usize,
    retention_seconds: u32,
    is_replicated: bool,
    history: Option<Arc<History>>,
    batches: AtomicU64,
    changes: Arc<Changes>,
    threads: Mutex<Option<Threads>>,
}

/// The engine's own threads: one runs the actor system, and one for each shard under it.
struct Threads {
    stop: oneshot::Sender<()>,
    system: thread::JoinHandle<()>,
    historian: Option<Historian>,
}

/// Has shards run, on threads if on any.
type StartActors = fn(Vec<ShardActor>, Option<Historian>) -> (Vec<Addr<ShardActor>>, Option<Threads>);

/// A submitted command's answer, to be awaited. Dropping it does not take the command back: it is decided and counts.
#[derive(Debug)]
#[must_use = "the answer comes by awaiting it"]
pub struct Pending {
    reply: PendingReply,
}

#[derive(Debug)]
enum PendingReply {
    Ring(oneshot::Receiver<Outcome>),
    Known(Option<Rejection>),
}

impl Future for Pending {
    type Output = Result<Answer, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.reply {
            PendingReply::Ring(receiver) => {
                Pin::new(receiver).poll(context).map(|reply| reply.unwrap_or_else(|_| Err(Fault::OutcomeUnknown.into())))
            }
            PendingReply::Known(rejection) => {
                Poll::Ready(Err(rejection.take().expect("a future is not polled after its end").into()))
            }
        }
    }
}

/// A submitted batch's answers, to be awaited. Dropping it takes nothing back.
#[must_use = "the answers come by awaiting them"]
pub struct PendingBatch {
    outcomes: Vec<Option<Outcome>>,
    parts: Vec<BatchPart>,
}

/// Commands of a batch that went through a ring together.
struct BatchPart {
    /// Their places in the batch.
    places: Vec<usize>,
    reply: oneshot::Receiver<Vec<Outcome>>,
}

impl PendingBatch {
    /// Waits for every answer; they come in the order of the commands.
    pub async fn outcomes(mut self) -> Vec<Result<Answer, Failure>> {
        self.wait().await;
        self.into_outcomes().into_iter().map(|outcome| outcome.unwrap_or(Err(Fault::OutcomeUnknown.into()))).collect()
    }

    /// Waits until every answer is there. Dropping the wait loses none of those that have come.
    pub async fn wait(&mut self) {
        while let Some(part) = self.parts.last_mut() {
            let outcomes = (&mut part.reply).await.unwrap_or_default();
            let places = self.parts.pop().map_or_else(Vec::new, |part| part.places);
            let outcomes = outcomes.into_iter().chain(iter::repeat_with(|| Err(Fault::OutcomeUnknown.into())));
            for (place, outcome) in places.into_iter().zip(outcomes) {
                self.outcomes[place] = Some(outcome);
            }
        }
    }

    /// The answers that are there, in the order of the commands; `None` where none has come yet.
    pub fn into_outcomes(mut self) -> Vec<Option<Result<Answer, Failure>>> {
        for part in &mut self.parts {
            let outcomes = part.reply.try_recv().unwrap_or_default();
            for (place, outcome) in part.places.iter().zip(outcomes) {
                self.outcomes[*place] = Some(outcome);
            }
        }
        self.outcomes
    }
}

impl Engine {
    /// Starts an engine: its threads, one actor per shard. Returns when every shard takes commands.
    ///
    /// # Errors
    /// When an option is impossible.
    ///
    /// # Panics
    /// When there is no shard, or the operating system gives no thread.
    pub fn start(parts: EngineParts) -> Result<Self, OptionError> {
        Self::assemble(parts, |actors, historian| {
            let (shards, threads) = start_actors(actors, historian);
            (shards, Some(threads))
        })
    }

    fn assemble(parts: EngineParts, start: StartActors) -> Result<Self, OptionError> {
        parts.options.check()?;
        let shard_count = u16::try_from(parts.shards.len()).expect("shards are numbered by 16 bits");
        let router = Router::new(shard_count);
        let published = Arc::new(Published::new(parts.shards.len()));
        let retention_seconds = parts.shards.first().map_or(0, |shard| shard.ledger.rules().retention_seconds);
        let progress = parts.shards.iter().map(|shard| Arc::clone(&shard.progress)).collect();
        let is_replicated = parts.shards.iter().any(|shard| shard.quorum.is_some());
        let (history, historian) = match parts.history {
            Some(HistoryStart { store, on_failure }) => {
                (Some(Arc::clone(&store)), Some(Historian::start(store, Arc::clone(&parts.metrics), on_failure)))
            }
            None => (None, None),
        };
        let changes = Arc::<Changes>::default();
        let strangers: Vec<Strangers> = parts.shards.iter().map(|_| Strangers::default()).collect();
        let mut rings = Vec::with_capacity(parts.shards.len());
        let mut actors = Vec::with_capacity(parts.shards.len());
        for (number, shard) in (0_u16..).map(ShardNumber).zip(parts.shards) {
            let (sender, receiver) = ring(parts.options.ring_slots, Arc::clone(shard.progress.wake()));
            rings.push(sender);
            let history = historian.as_ref().map(|historian| historian.line(Inbox::new(Arc::clone(shard.progress.wake()))));
            actors.push(ShardActor::new(ShardParts {
                number,
                ledger: shard.ledger,
                ring: receiver,
                log: shard.log,
                quorum: shard.quorum,
                progress: shard.progress,
                published: Arc::clone(&published),
                known: Arc::clone(strangers[usize::from(number.0)].known()),
                history,
                changes: Arc::clone(&changes),
                options: parts.options,
                clock: Arc::clone(&parts.clock),
                metrics: Arc::clone(&parts.metrics),
            }));
        }
        let (shards, threads) = start(actors, historian);
        Ok(Self {
            inner: Arc::new(Inner {
                router,
                rings,
                shards,
                progress,
                published,
                strangers,
                sealing: parts.sealing,
                clock: parts.clock,
                metrics: parts.metrics,
                disk_low: parts.disk_low,
                stopping: AtomicBool::new(false),
                ring_slots: parts.options.ring_slots,
                retention_seconds,
                is_replicated,
                history,
                batches: AtomicU64::new(0),
                changes,
                threads: Mutex::new(threads),
            }),
        })
    }

    /// Starts an engine whose shards are local tasks of whoever calls, which must be within a [`tokio::task::LocalSet`]: for simulations, in which
    /// one thread does everything. A shard ends when its log fails, and with the tasks.
    ///
    /// # Errors
    /// When an option is impossible.
    ///
    /// # Panics
    /// When there is no shard, or a history, which would have a thread of its own.
    pub fn start_local(parts: EngineParts) -> Result<Self, OptionError> {
        assert!(parts.history.is_none(), "an engine without threads has no history");
        Self::assemble(parts, |actors, _| (actors.into_iter().map(Actor::start).collect(), None))
    }

    /// Hands a command to the shard that owns its product. Never blocks.
    ///
    /// # Errors
    /// A [`Refusal`], when the command was not admitted; it then changed nothing.
    pub fn try_submit(&self, submission: Submission) -> Result<Pending, Refusal> {
        let inner = &*self.inner;
        let Submission { command, key, actor } = submission;
        let Some(shard) = inner.router.shard_for(&command) else {
            return Ok(Pending { reply: PendingReply::Known(Some(Rejection::UnknownReservation)) });
        };
        self.admit(&command, shard).inspect_err(|refusal| inner.metrics.count_refusal(*refusal))?;
        let request = self.request(command, key.as_ref());
        let strangers = &inner.strangers[usize::from(shard.0)];
        if let Some(rejection) = strangers.sold_out(&inner.published, &request, self.now()) {
            inner.metrics.count_command(Asked::by(&request.command), Came::rejected(rejection));
            return Ok(Pending { reply: PendingReply::Known(Some(rejection)) });
        }
        let (reply, receiver) = oneshot::channel();
        let under_way = strangers.enter(&request);
        self.send(shard, Work { job: Job::One { request, actor, under_way, reply }, recalled: None })?;
        Ok(Pending { reply: PendingReply::Ring(receiver) })
    }

    /// Hands commands to the shards that own their products. Never blocks. Each stands alone; those of one product are decided in the
    /// order given.
    pub fn submit_batch(&self, submissions: impl IntoIterator<Item = Submission>) -> PendingBatch {
        let inner = &*self.inner;
        let batch = inner.batches.fetch_add(1, Ordering::Relaxed);
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        // What gathers for each shard, until it is enough for one piece of work or the actor changes.
        let mut gathering: Vec<Gathering> = iter::repeat_with(Gathering::default).take(inner.rings.len()).collect();
        let mut parts = Vec::new();
        for (place, Submission { command, key, actor }) in submissions.into_iter().enumerate() {
            outcomes.push(None);
            let Some(shard) = inner.router.shard_for(&command) else {
                outcomes[place] = Some(Err(Rejection::UnknownReservation.into()));
                continue;
            };
            let gathered = &mut gathering[usize::from(shard.0)];
            let is_full = gathered.places.len() >= WORK_COMMANDS_MAX;
            if is_full || gathered.actor.as_ref().is_some_and(|of| *of != actor) {
                gathered.refused = self.send_gathered(batch, shard, std::mem::take(gathered), &mut parts, &mut outcomes).err();
            }
            // Nothing overtakes what was refused before it: of one product that would be another order.
            if let Err(refusal) = gathered.refused.map_or_else(|| self.admit(&command, shard), Err) {
                inner.metrics.count_refusal(refusal);
                outcomes[place] = Some(Err(refusal.into()));
                gathered.refused = Some(refusal);
                continue;
            }
            gathered.actor.get_or_insert(actor);
            gathered.places.push(place);
            gathered.requests.push_back(self.request(command, key.as_ref()));
        }
        for (shard, gathered) in (0_u16..).map(ShardNumber).zip(gathering) {
            // The refusal is told to each of them.
            let _ = self.send_gathered(batch, shard, gathered, &mut parts, &mut outcomes);
        }
        PendingBatch { outcomes, parts }
    }

    /// A page of up to `limit` reservations of a stock, newest first, older than grant `before` where one is given; only those of `user`
    /// and in `state` where they are given. What it shows is committed.
    ///
    /// Looks at no more than [`LIST_LOOKS_MAX`] reservations for one page: a page with few of what was asked for can be short, and still
    /// not be the last.
    ///
    /// # Errors
    /// [`Rejection::UnknownSku`], and what else keeps a shard or the history from answering.
    pub async fn list(&self, query: &ListReservations) -> Result<ReservationPage, Failure> {
        if let Some(shard) = self.inner.router.shard_of(partition_of(&query.sku)) {
            // Before the name is looked for, which another node may have made.
            self.admit_read(shard)?;
        }
        let stock = self.inner.published.id(&query.sku).ok_or(Rejection::UnknownSku)?;
        let now = self.now();
        let mut page = ReservationPage { reservations: Vec::new(), next: None };
        let mut before = query.before.unwrap_or(GrantSequence::MAX);
        let mut looks = 0;
        loop {
            let (records, down_to) = self.look(stock, before, query.user.as_ref()).await?;
            // One that finds little steps over the more.
            looks += records.len().max(LOOKS_MAX);
            for record in records {
                if page.reservations.len() == query.limit {
                    return Ok(page);
                }
                page.next = Some(record.id.sequence);
                // What is readable no longer is shown no longer, wherever it still is.
                let is_retained = record.resolved_at.is_none_or(|at| now < at.plus_seconds(self.inner.retention_seconds));
                if is_retained && query.state.is_none_or(|state| record.state() == state) {
                    page.reservations.push(record.view(&query.sku));
                }
            }
            if down_to <= GrantSequence(1) {
                page.next = None;
                return Ok(page);
            }
            before = down_to;
            page.next = Some(down_to);
            if page.reservations.len() == query.limit || looks >= LIST_LOOKS_MAX {
                return Ok(page);
            }
        }
    }

    /// One look at the reservations older than `before`, wherever they are, newest first; and down to where all have been seen.
    async fn look(
        &self,
        stock: StockId,
        before: GrantSequence,
        user: Option<&UserId>,
    ) -> Result<(Vec<ReservationRecord>, GrantSequence), Failure> {
        let shard = self.inner.router.shard_of(stock.partition).ok_or(Rejection::UnknownSku)?;
        self.admit_read(shard)?;
        let (reply, receiver) = oneshot::channel();
        let query = ListQuery { stock, before, user: user.cloned(), looks_max: LOOKS_MAX };
        self.send(shard, Work { job: Job::List { query, reply }, recalled: None })?;
        let Listed { records: in_memory, mut down_to, newest } = receiver.await.map_err(|_| Fault::OutcomeUnknown)?;
        let Some(history) = self.inner.history.clone() else { return Ok((in_memory, down_to)) };
        // Memory is looked at before the history: what leaves meanwhile is in both, and what is in both counts as memory has it.
        // With a lower durability than the loss of power a log can end before what the history knows: that was never granted.
        let (user, before) = (user.cloned(), before.min(GrantSequence(newest.0 + 1)));
        let kept = tokio::task::spawn_blocking(move || kept_between(&history, stock, down_to, before, user.as_ref()))
            .await
            .map_err(|_| Refusal::HistoryFailed)?
            .map_err(|error| {
                self.inner.metrics.count_history_failure(HistoryOperation::List);
                tracing::error!(%error, ?stock, "the reservations of a stock could not be read from the history");
                Refusal::HistoryFailed
            })?;
        if let Some(last) = kept.last().filter(|_| kept.len() == LOOKS_MAX) {
            down_to = down_to.max(last.id.sequence);
        }
        Ok((merge(in_memory, kept, down_to), down_to))
    }

    /// The committed view of a stock, no older than anything that any node has answered before this was asked. `None` where there is no such stock.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`], where another node decides, or may.
    pub fn current_stock(&self, sku: &Sku) -> Result<Option<StockAnswer>, Refusal> {
        if let Some(shard) = self.inner.router.shard_of(partition_of(sku)) {
            self.admit_view(shard)?;
        }
        Ok(self.stock(sku))
    }

    /// The committed view of a stock as this node has it: at least as new as any answer that has left this node.
    pub fn stock(&self, sku: &Sku) -> Option<StockAnswer> {
        self.inner.published.get(sku, self.now())
    }

    /// The committed views of up to `limit` stocks behind `after`, by sku.
    pub fn stocks(&self, after: Option<&Sku>, limit: usize) -> Vec<StockAnswer> {
        self.inner.published.names(after, limit).iter().filter_map(|sku| self.stock(sku)).collect()
    }

    /// The name of a stock.
    pub fn sku_of(&self, stock: StockId) -> Option<Sku> {
        self.inner.published.name(stock)
    }

    /// The committed watermark of a stream's shard; `None` where no shard owns it.
    pub fn committed(&self, stream: StreamId) -> Option<GroupSequence> {
        self.inner.progress.get(usize::from(stream.0)).map(|progress| progress.committed())
    }

    /// The newest group of a stream of which every view is shown; `None` where no shard owns it.
    pub fn shown(&self, stream: StreamId) -> Option<GroupSequence> {
        self.inner.published.shown(stream)
    }

    /// Whether a quorum commits what the shards decide. Its other members may have what this node's log has not written yet.
    pub fn is_replicated(&self) -> bool {
        self.inner.is_replicated
    }

    /// Bytes that were written to the log since the start.
    pub fn log_bytes_written(&self) -> u64 {
        self.inner.metrics.log_bytes_written()
    }

    /// The streams of its shards, in order.
    pub fn streams(&self) -> Vec<StreamId> {
        (0_u16..).take(self.inner.shards.len()).map(StreamId::log).collect()
    }

    /// Hears of every commit from now on, several of them as one.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.listen()
    }

    /// Begins a copy of a shard's ledger, which goes on while the shard works. It stands at the end of some group from now on, which need
    /// not be committed yet.
    ///
    /// # Errors
    /// [`CopyGivenUp`] when the shard has stopped, or another copy of it was asked for.
    pub async fn copy_ledger(&self, stream: StreamId) -> Result<LedgerCopy, CopyGivenUp> {
        let shard = usize::from(stream.0);
        let (Some(actor), Some(progress)) = (self.inner.shards.get(shard), self.inner.progress.get(shard)) else {
            return Err(CopyGivenUp);
        };
        // Before it is asked for: what is taken back later may have been in it.
        let taken_back = progress.taken_back();
        let (sink, pieces) = mpsc::sync_channel(BLOCKS_WAITING_MAX);
        let (begun, at) = oneshot::channel();
        actor.send(BeginCopy { sink, begun }).await.map_err(|_| CopyGivenUp)?;
        let at = at.await.map_err(|_| CopyGivenUp)?;
        Ok(LedgerCopy::new(at, taken_back, pieces, progress))
    }

    /// Has a shard propose a group, without events if there are none, so that its stream has an entry newer than any that was proposed
    /// before the call. A copy that is asked for afterwards stands at it or behind it.
    ///
    /// # Errors
    /// [`CopyGivenUp`] when the shard has stopped.
    pub async fn mark_log(&self, stream: StreamId) -> Result<(), CopyGivenUp> {
        let actor = self.inner.shards.get(usize::from(stream.0)).ok_or(CopyGivenUp)?;
        actor.send(Mark).await.map_err(|_| CopyGivenUp)
    }

    /// How many stocks there are.
    pub fn stock_count(&self) -> usize {
        self.inner.published.len()
    }

    /// Whether commands are taken at all: not any more once the engine is stopping, or the log has failed.
    pub fn takes_commands(&self) -> bool {
        !self.inner.stopping.load(Ordering::Acquire) && !self.inner.progress.iter().any(|progress| progress.has_failed())
    }

    /// The engine's wall time.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The text that callers know a reservation by.
    pub fn seal(&self, id: ReservationId) -> String {
        self.inner.sealing.seal(id)
    }

    /// The reservation that a text names; `None` if this node's cluster did not make the text.
    pub fn unseal(&self, text: &str) -> Option<ReservationId> {
        self.inner.sealing.unseal(text)
    }

    /// What each shard says of itself, through its mailbox; a shard that has stopped is left out.
    pub async fn inspect(&self) -> Vec<ShardReport> {
        let mut reports = Vec::with_capacity(self.inner.shards.len());
        for shard in &self.inner.shards {
            if let Ok(report) = shard.send(Inspect).await {
                reports.push(report);
            }
        }
        reports
    }

    /// Refuses further commands, has every admitted one decided, committed and answered, then ends the engine's threads, for which it
    /// blocks for a moment. A second call returns at once.
    ///
    /// Whoever submits at this very moment may be admitted and hear only that the outcome is unknown; so stop the doors first.
    pub async fn stop(&self) {
        if self.inner.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        for shard in &self.inner.shards {
            let (stopped, waiting) = oneshot::channel();
            if shard.send(Stop(stopped)).await.is_ok() {
                // An error here means that the shard's log failed, which has been told already.
                let _ = waiting.await;
            }
        }
        let threads = self.inner.threads.lock().take();
        if let Some(threads) = threads {
            let _ = threads.stop.send(());
            if threads.system.join().is_err() {
                tracing::error!("the engine's thread ended by a panic");
            }
            // Its lines went with the shards.
            drop(threads.historian);
        }
    }

    fn request(&self, command: Command, key: Option<&IdempotencyKey>) -> Request {
        let idempotency = key.map(|key| self.inner.sealing.fingerprint(key, &command));
        Request { command, idempotency }
    }

    fn send(&self, shard: ShardNumber, work: Work) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.rings[usize::from(shard.0)].try_send(work).map_err(|RingFull(work)| {
            let refusal = Refusal::RingFull { slots: inner.ring_slots };
            inner.metrics.count_refusals(refusal, work.commands());
            refusal
        })
    }

    fn send_gathered(
        &self,
        batch: u64,
        shard: ShardNumber,
        gathered: Gathering,
        parts: &mut Vec<BatchPart>,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Refusal> {
        let Gathering { actor: Some(actor), mut places, mut requests, .. } = gathered else { return Ok(()) };
        if mutant!(BatchOrderBroken) {
            places.reverse();
            requests.make_contiguous().reverse();
        }
        let (reply, receiver) = oneshot::channel();
        let decided = Vec::with_capacity(requests.len());
        let strangers = &self.inner.strangers[usize::from(shard.0)];
        let under_way = requests.iter().filter_map(|request| strangers.enter(request)).collect();
        let many = Box::new(Many { batch, actor, requests, outcomes: decided, taken_back: 0, under_way, reply });
        match self.send(shard, Work { job: Job::Many(many), recalled: None }) {
            Ok(()) => {
                parts.push(BatchPart { places, reply: receiver });
                Ok(())
            }
            Err(refusal) => {
                for place in places {
                    outcomes[place] = Some(Err(refusal.into()));
                }
                Err(refusal)
            }
        }
    }

    fn admit(&self, command: &Command, shard: ShardNumber) -> Result<(), Refusal> {
        self.admit_read(shard)?;
        let is_low = self.inner.disk_low.load(Ordering::Acquire) && !mutant!(DiskLowIgnored);
        if is_low && !matches!(command, Command::ReadReservation { .. }) {
            return Err(Refusal::DiskLow);
        }
        Ok(())
    }

    fn admit_read(&self, shard: ShardNumber) -> Result<(), Refusal> {
        // After its log has failed a node only stops.
        let progress = &self.inner.progress[usize::from(shard.0)];
        if self.inner.stopping.load(Ordering::Acquire) || progress.has_failed() {
            return Err(Refusal::Stopping);
        }
        self.admit_view(shard)
    }

    fn admit_view(&self, shard: ShardNumber) -> Result<(), Refusal> {
        let leads = self.inner.progress[usize::from(shard.0)].leads() || mutant!(FollowerShowsItsOwn);
        if leads { Ok(()) } else { Err(Refusal::NotLeader) }
    }
}

/// Commands of a batch for one shard.
#[derive(Default)]
struct Gathering {
    actor: Option<ActorName>,
    places: Vec<usize>,
    requests: VecDeque<Request>,
    /// Why nothing more of the batch goes to this shard.
    refused: Option<Refusal>,
}

/// Up to [`LOOKS_MAX`] reservations in the history below `before` and from `down_to` on, newest first.
fn kept_between(
    history: &History,
    stock: StockId,
    down_to: GrantSequence,
    before: GrantSequence,
    user: Option<&UserId>,
) -> Result<Vec<ReservationRecord>, ArchiveError> {
    let mut kept = Vec::new();
    let mut failed = None;
    history.newest(stock, before, user.map(UserId::as_str), &mut |key, bytes| {
        if key.sequence < down_to || kept.len() == LOOKS_MAX {
            return ControlFlow::Break(());
        }
        match decode_record(bytes) {
            Ok(record) => kept.push(record),
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(kept), |error| Err(error.into()))
}

/// What is in memory and what is in the history from `down_to` on, newest first. What is in both counts as memory has it.
fn merge(in_memory: Vec<ReservationRecord>, kept: Vec<ReservationRecord>, down_to: GrantSequence) -> Vec<ReservationRecord> {
    let mut merged: Vec<ReservationRecord> = Vec::with_capacity(in_memory.len() + kept.len());
    let (mut in_memory, mut kept) = (in_memory.into_iter().peekable(), kept.into_iter().peekable());
    loop {
        let sequence = |record: &ReservationRecord| record.id.sequence;
        let (here, there) = (in_memory.peek().map(sequence), kept.peek().map(sequence));
        if here.is_some() && here == there {
            kept.next();
        }
        // None is less than any.
        let Some(record) = (if here >= there { in_memory.next() } else { kept.next() }) else { return merged };
        merged.extend(Some(record).filter(|record| record.id.sequence >= down_to));
    }
}

/// Starts the actor system on a thread of its own and each shard on an arbiter, which is one more thread.
fn start_actors(actors: Vec<ShardActor>, historian: Option<Historian>) -> (Vec<Addr<ShardActor>>, Threads) {
    let (stop, stopped) = oneshot::channel();
    let (started, addresses) = mpsc::channel();
    let system = thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            System::new().block_on(async move {
                let mut arbiters = Vec::with_capacity(actors.len());
                let mut shards = Vec::with_capacity(actors.len());
                for actor in actors {
                    let arbiter = Arbiter::new();
                    shards.push(ShardActor::start_in_arbiter(&arbiter.handle(), move |_| actor));
                    arbiters.push(arbiter);
                }
                // Neither end is dropped early: `start_actors` waits for the one, `Engine` keeps the other.
                let _ = started.send(shards);
                let _ = stopped.await;
                for arbiter in arbiters {
                    arbiter.stop();
                    if arbiter.join().is_err() {
                        tracing::error!("a shard's thread ended by a panic");
                    }
                }
            });
        })
        .expect("the operating system gives a thread at start");
    let shards = addresses.recv().expect("the actor system starts its shards");
    (shards, Threads { stop, system, historian })
}
