//! The engine as the rest of the house sees it: submit a command, await its answer, read a view, stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;

use actix::{Actor, Addr, Arbiter, System};
use parking_lot::Mutex;
use tidegate_persistence::ActorName;
use tidegate_stock::{Command, IdempotencyKey, Ledger, Rejection, Request, ReservationId, Sku, Timestamp};
use tokio::sync::oneshot;

use crate::answer::{Answer, Failure, Fault, Refusal, StockAnswer};
use crate::clock::Clock;
use crate::commit::{CommitLog, CommitProgress};
use crate::metrics::EngineMetrics;
use crate::options::{EngineOptions, OptionError};
use crate::published::Published;
use crate::ring::{RingSender, ring};
use crate::router::{Router, ShardNumber};
use crate::sealing::Sealing;
use crate::shard::{Inspect, ShardActor, ShardParts, ShardReport, Stop, Work};

/// One shard's state to start from.
pub struct ShardStart {
    /// The recovered ledger; of a new shard, an empty one.
    pub ledger: Ledger,
    /// Where its groups go.
    pub log: Box<dyn CommitLog>,
    /// Its committed watermark, standing at the newest recovered group.
    pub progress: Arc<CommitProgress>,
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
    /// The shards, by number; at least one.
    pub shards: Vec<ShardStart>,
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
    sealing: Sealing,
    clock: Arc<dyn Clock>,
    metrics: Arc<EngineMetrics>,
    disk_low: Arc<AtomicBool>,
    stopping: AtomicBool,
    ring_slots: usize,
    threads: Mutex<Option<Threads>>,
}

/// The engine's own threads: one runs the actor system, and one for each shard under it.
struct Threads {
    stop: oneshot::Sender<()>,
    system: thread::JoinHandle<()>,
}

/// A submitted command's answer, to be awaited. Dropping it does not take the command back: it is decided and counts.
#[derive(Debug)]
#[must_use = "the answer comes by awaiting it"]
pub struct Pending {
    reply: PendingReply,
}

#[derive(Debug)]
enum PendingReply {
    Ring(oneshot::Receiver<Result<Answer, Failure>>),
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

impl Engine {
    /// Starts an engine: its threads, one actor per shard. Returns when every shard takes commands.
    ///
    /// # Errors
    /// When an option is impossible.
    ///
    /// # Panics
    /// When there is no shard, or the operating system gives no thread.
    pub fn start(parts: EngineParts) -> Result<Self, OptionError> {
        parts.options.check()?;
        let shard_count = u16::try_from(parts.shards.len()).expect("shards are numbered by 16 bits");
        let router = Router::new(shard_count);
        let published = Arc::new(Published::default());
        let progress = parts.shards.iter().map(|shard| Arc::clone(&shard.progress)).collect();
        let mut rings = Vec::with_capacity(parts.shards.len());
        let mut actors = Vec::with_capacity(parts.shards.len());
        for (number, shard) in (0_u16..).map(ShardNumber).zip(parts.shards) {
            let (sender, receiver) = ring(parts.options.ring_slots, Arc::clone(shard.progress.wake()));
            rings.push(sender);
            actors.push(ShardActor::new(ShardParts {
                number,
                ledger: shard.ledger,
                ring: receiver,
                log: shard.log,
                progress: shard.progress,
                published: Arc::clone(&published),
                options: parts.options,
                clock: Arc::clone(&parts.clock),
                metrics: Arc::clone(&parts.metrics),
            }));
        }
        let (shards, threads) = start_actors(actors);
        Ok(Self {
            inner: Arc::new(Inner {
                router,
                rings,
                shards,
                progress,
                published,
                sealing: parts.sealing,
                clock: parts.clock,
                metrics: parts.metrics,
                disk_low: parts.disk_low,
                stopping: AtomicBool::new(false),
                ring_slots: parts.options.ring_slots,
                threads: Mutex::new(Some(threads)),
            }),
        })
    }

    /// Hands a command to the shard that owns its product. Never blocks.
    ///
    /// # Errors
    /// A [`Refusal`], when the command was not admitted; it then changed nothing.
    pub fn try_submit(&self, submission: Submission) -> Result<Pending, Refusal> {
        let inner = &*self.inner;
        let Submission { command, key, actor } = submission;
        let shard = match &command {
            Command::CreateStock { partition, .. } => inner.router.shard_of(*partition),
            Command::Reserve { sku, .. } => inner.router.shard_of(crate::router::partition_of(sku)),
            Command::Confirm { reservation, .. }
            | Command::Release { reservation, .. }
            | Command::ReadReservation { reservation } => inner.router.shard_of(reservation.stock.partition),
        };
        let Some(shard) = shard else {
            return Ok(Pending { reply: PendingReply::Known(Some(Rejection::UnknownReservation)) });
        };
        self.admit(&command, shard).inspect_err(|refusal| inner.metrics.count_refusal(*refusal))?;
        let idempotency = key.map(|key| inner.sealing.fingerprint(&key, &command));
        let (reply, receiver) = oneshot::channel();
        let work = Work { request: Request { command, idempotency }, actor, reply };
        if inner.rings[usize::from(shard.0)].try_send(work).is_err() {
            let refusal = Refusal::RingFull { slots: inner.ring_slots };
            inner.metrics.count_refusal(refusal);
            return Err(refusal);
        }
        Ok(Pending { reply: PendingReply::Ring(receiver) })
    }

    /// The committed view of a stock: at least as new as any answer that has left this node.
    pub fn stock(&self, sku: &Sku) -> Option<StockAnswer> {
        self.inner.published.get(sku, self.now())
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
    /// Whoever submits at this very moment may be admitted and get no answer; so stop the doors first.
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
        }
    }

    fn admit(&self, command: &Command, shard: ShardNumber) -> Result<(), Refusal> {
        // After its log has failed a node only stops.
        if self.inner.stopping.load(Ordering::Acquire) || self.inner.progress[usize::from(shard.0)].has_failed() {
            return Err(Refusal::Stopping);
        }
        if self.inner.disk_low.load(Ordering::Acquire) && !matches!(command, Command::ReadReservation { .. }) {
            return Err(Refusal::DiskLow);
        }
        Ok(())
    }
}

/// Starts the actor system on a thread of its own and each shard on an arbiter, which is one more thread.
fn start_actors(actors: Vec<ShardActor>) -> (Vec<Addr<ShardActor>>, Threads) {
    let (stop, stopped) = oneshot::channel();
    let (started, addresses) = std::sync::mpsc::channel();
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
    (shards, Threads { stop, system })
}
