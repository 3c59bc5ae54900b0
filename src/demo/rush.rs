//! The rush itself: buyers arrive when the plan says, whatever became of those before them, and the node, or whichever leads a cluster,
//! is killed under them.
//!
//! It owns the running of the script: arrivals, visits, kills and the measuring of answers. What the answers mean is for
//! [`super::books`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tidegate_engine::{Clock, SystemClock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::books::{Ask, Books, GrantNumber, Reserved};
use super::fleet::{Fleet, FleetError, LAG_IN_SALE_MAX, in_turn};
use super::plan::{Click, Ending, Plan, Visit};
use super::progress::{Moment, Progress};
use crate::child::NodeError;
use crate::client::{Client, Outcome, Patience, Persisted, Reservation, ReserveRequest, persist};

/// Buyers who are in the shop at a time, those included who wait to pay or to come back. Further ones wait at its entrance, and their
/// waiting counts.
const VISITORS_MAX: u32 = 60_000;

/// Arrivals handed over and not yet let in.
const ARRIVALS_AHEAD_MAX: usize = 1_024;

/// The pacer sleeps at least so long: a finer grain would cost more in waking than it adds to what is measured.
const PACER_SLEEP_MIN: Duration = Duration::from_micros(200);

/// Grants made within this time before a kill prove that it fell while grants were being made.
const JUST_BEFORE: Duration = Duration::from_millis(100);

/// Longest wait for such a moment once the time for a kill has come.
const GRANTING_WAIT_MAX: Duration = Duration::from_secs(10);

/// Calls under way that a kill should hit, so that there are unknown answers to resolve.
const CALLS_HIT_WISHED: u32 = 16;

/// How long a kill waits for so many, as a part of all arrivals: one in 20 may come meanwhile.
const CALLS_HIT_WAIT_PART: u32 = 20;

/// Longest wait after a kill until every buyer who met it has an answer.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_mins(2);

/// How often the killer looks at the rush.
const LOOK: Duration = Duration::from_millis(2);

/// How often the progress is shown.
const SHOW: Duration = Duration::from_millis(100);

/// Largest latency that is measured, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// One kill, as it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    /// The number of the node.
    pub(crate) node: usize,
    /// Just before the signal was sent.
    pub(crate) killed_at: Instant,
    /// What the nodes' clocks show, all of which are this machine's: once the process was gone, in milliseconds since 1970. What was granted
    /// later was granted by somebody else.
    pub(crate) gone_at_ms: Option<u64>,
    /// Unknown answers that buyers had been given before it.
    pub(crate) unknown_before: u64,
    /// Grants that buyers were told of in the last 100 ms before it.
    pub(crate) grants_just_before: u32,
    /// Just before the new process was executed.
    pub(crate) executed_at: Option<Instant>,
    /// `/readyz` was 200.
    pub(crate) ready_at: Option<Instant>,
    /// A buyer was told of the last grant by the killed process.
    pub(crate) last_grant_at: Option<Instant>,
    /// A buyer was told of the first grant by another process.
    pub(crate) first_grant_at: Option<Instant>,
    /// Every buyer who had met the outage had an answer.
    pub(crate) caught_up_at: Option<Instant>,
}

impl Kill {
    /// How long nothing was granted: from the last grant before it to the first after it, as buyers were told.
    pub(crate) fn pause(&self) -> Option<Duration> {
        Some(self.first_grant_at?.saturating_duration_since(self.last_grant_at?))
    }

    /// Whether any of the time from `from` to `to` lies in the outage as buyers saw it.
    fn touches(&self, from: Instant, to: Instant) -> bool {
        to >= self.killed_at && self.caught_up_at.is_none_or(|end| from <= end)
    }
}

/// Times from a buyer's scheduled arrival to the answer to the first reservation asked for, in microseconds.
#[derive(Debug)]
pub(crate) struct Latencies {
    /// Of all buyers.
    pub(crate) all: Histogram<u64>,
    /// Of those who neither arrived nor waited in an outage.
    pub(crate) calm: Histogram<u64>,
}

/// What a rush leaves behind.
pub(crate) struct Rushed {
    /// The nodes, all of which run.
    pub(crate) fleet: Fleet,
    /// The buyers' books.
    pub(crate) books: Books,
    /// How it went.
    pub(crate) measured: Measured,
}

/// A rush in numbers.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The kills.
    pub(crate) kills: Vec<Kill>,
    /// The measured times.
    pub(crate) latencies: Latencies,
    /// From the opening to the last arrival.
    pub(crate) arrivals_took: Duration,
    /// Calls that were answered in that time, or not admitted.
    pub(crate) calls_meanwhile: u64,
    /// From the opening to the end of the last visit.
    pub(crate) visits_took: Duration,
}

struct Rush {
    /// One of each node.
    clients: Vec<Client>,
    plan: Arc<Plan>,
    opened_at: Instant,
    books: Mutex<Books>,
    kills: Mutex<Vec<Kill>>,
    latencies: Mutex<Latencies>,
    /// When buyers were told of the newest grants, within [`JUST_BEFORE`].
    newest_grants: Mutex<VecDeque<Instant>>,
    visitors: Arc<Semaphore>,
    arrived: AtomicU32,
    /// Lives that have ended: 0 before the first kill.
    life: AtomicU8,
    /// Buyers who had no answer to a call and are asking again.
    stranded: AtomicU32,
    /// Calls without an answer so far.
    under_way: AtomicU32,
    calls: AtomicU64,
}

/// Runs the rush that `plan` scripts against the nodes of `fleet`, which have the stocks of the sale.
///
/// # Errors
/// When a node ends by itself or cannot be started again.
pub(crate) async fn run(plan: &Arc<Plan>, mut fleet: Fleet, progress: &Progress) -> Result<Rushed, FleetError> {
    let histogram = || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order");
    let rush = Arc::new(Rush {
        clients: fleet.clients(),
        plan: Arc::clone(plan),
        opened_at: Instant::now(),
        books: Mutex::new(Books::new(plan)),
        kills: Mutex::default(),
        latencies: Mutex::new(Latencies { all: histogram(), calm: histogram() }),
        newest_grants: Mutex::default(),
        visitors: Arc::new(Semaphore::new(VISITORS_MAX as usize)),
        arrived: AtomicU32::new(0),
        life: AtomicU8::new(0),
        stranded: AtomicU32::new(0),
        under_way: AtomicU32::new(0),
        calls: AtomicU64::new(0),
    });
    let (sender, arrivals) = mpsc::channel(ARRIVALS_AHEAD_MAX);
    let pacer = {
        let (visits, opened_at) = (plan.visits(), rush.opened_at);
        thread::Builder::new().name("pacer".into()).spawn(move || pace(visits, opened_at, &sender)).map_err(NodeError::Control)?
    };
    let story = async {
        let (arrivals, killed) = tokio::join!(Arc::clone(&rush).let_in(arrivals), rush.kill_and_restart(&mut fleet, progress));
        killed?;
        let everybody = rush.visitors.acquire_many(VISITORS_MAX).await;
        drop(everybody.expect("the visitors' semaphore is never closed"));
        Ok((arrivals, rush.opened_at.elapsed()))
    };
    let told: Result<_, FleetError> = tokio::select! {
        told = story => told,
        () = rush.show(progress) => unreachable!("showing goes on until the story ends"),
    };
    let ((arrivals_took, calls_meanwhile), visits_took) = told?;
    fleet.check_running()?;
    pacer.join().map_err(|_| NodeError::Control(std::io::Error::other("the pacer panicked")))?;
    let Ok(rush) = Arc::try_unwrap(rush).map_err(drop) else { unreachable!("every visit has ended and let go of the rush") };
    let measured = Measured {
        kills: rush.kills.into_inner(),
        latencies: rush.latencies.into_inner(),
        arrivals_took,
        visits_took,
        calls_meanwhile,
    };
    Ok(Rushed { fleet, books: rush.books.into_inner(), measured })
}

/// Sends each visit at its time. Runs on a thread of its own, because timers of the runtime are too coarse for arrivals.
fn pace(visits: impl Iterator<Item = Visit>, opened_at: Instant, sender: &mpsc::Sender<Visit>) {
    for visit in visits {
        let due = opened_at + visit.arrives;
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            thread::park_timeout(wait.max(PACER_SLEEP_MIN));
        }
        if sender.blocking_send(visit).is_err() {
            return;
        }
    }
}

/// Someone or something, counted for as long as it is there.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Rush {
    /// Lets buyers in as they arrive. Returns how long that took, and how many calls were answered meanwhile.
    async fn let_in(self: Arc<Self>, mut arrivals: mpsc::Receiver<Visit>) -> (Duration, u64) {
        while let Some(visit) = arrivals.recv().await {
            let place = Arc::clone(&self.visitors).acquire_owned().await.expect("the visitors' semaphore is never closed");
            self.arrived.fetch_add(1, Ordering::Relaxed);
            drop(tokio::spawn(Arc::clone(&self).visit(visit, place)));
        }
        (self.opened_at.elapsed(), self.calls.load(Ordering::Relaxed))
    }

    /// One buyer's visit, from the scheduled arrival to the last answer. Most buyers ask once and leave: the rest is boxed, so that
    /// those do not carry its room.
    async fn visit(self: Arc<Self>, visit: Visit, place: OwnedSemaphorePermit) {
        let ask = Ask { buyer: visit.buyer, attempt: 1, product: visit.product, units: visit.units };
        let reserved = if visit.click == Click::Twice {
            let (first, second) = tokio::join!(Box::pin(self.ask(&ask)), Box::pin(self.ask(&ask)));
            self.measure(&visit);
            let mut answers = [first, second];
            // A rejection leaves the key free, so one that was decided before the grant may arrive after it: it is booked before.
            answers.sort_by_key(|(persisted, _)| matches!(persisted.outcome, Outcome::Accepted { .. }));
            let [first, second] = answers.map(|(persisted, life)| self.book(&ask, &persisted, life));
            if matches!(second, Reserved::Granted(_)) { second } else { first }
        } else {
            let (persisted, life) = self.ask(&ask).await;
            self.measure(&visit);
            self.book(&ask, &persisted, life)
        };
        match (reserved, visit.comes_back_after) {
            (Reserved::Granted(grant), _) => Box::pin(self.after_grant(&visit, &ask, grant)).await,
            (Reserved::SoldOut, Some(after)) => Box::pin(self.come_back(&visit, after)).await,
            _ => {}
        }
        self.books.lock().buyer_done();
        // In this order: when all places are free, nobody has a hand on the rush any more.
        drop(self);
        drop(place);
    }

    async fn after_grant(&self, visit: &Visit, ask: &Ask, grant: GrantNumber) {
        match visit.click {
            Click::Again(after) => {
                let again = async {
                    sleep(after).await;
                    self.reserve(ask).await;
                };
                tokio::join!(self.end(visit.ending, grant), again);
            }
            Click::Greedy => {
                // Should the first have lapsed by now, the second is granted, and lapses in turn.
                self.reserve(&Ask { attempt: 2, ..*ask }).await;
                self.end(visit.ending, grant).await;
            }
            Click::Once | Click::Twice => self.end(visit.ending, grant).await,
        }
    }

    async fn come_back(&self, visit: &Visit, after: Duration) {
        sleep(after).await;
        let ask = Ask { buyer: visit.buyer, attempt: 3, product: visit.product, units: visit.units };
        let reserved = self.reserve(&ask).await;
        self.books.lock().came_back(reserved);
        if let Reserved::Granted(grant) = reserved {
            self.end(visit.ending, grant).await;
        }
    }

    async fn end(&self, ending: Ending, grant: GrantNumber) {
        let id = self.books.lock().grant(grant).id.clone();
        match ending {
            Ending::Pays(after) | Ending::PaysTooLate(after) => {
                sleep(after).await;
                let key = format!("pay-{}", grant.index());
                let (persisted, _) = self.until_known(grant.index(), |client| client.confirm(&id, Some(&key))).await;
                self.books.lock().confirmed(grant, &persisted);
            }
            Ending::Cancels(after) => {
                sleep(after).await;
                let key = format!("cancel-{}", grant.index());
                let (persisted, _) = self.until_known(grant.index(), |client| client.release(&id, Some(&key))).await;
                self.books.lock().released(grant, &persisted);
            }
            Ending::Lapses => {}
        }
    }

    async fn reserve(&self, ask: &Ask) -> Reserved {
        let (persisted, life) = self.ask(ask).await;
        self.book(ask, &persisted, life)
    }

    /// Asks for a reservation until the answer is known. Also tells in which life of the node the last attempt was sent.
    async fn ask(&self, ask: &Ask) -> (Persisted<Reservation>, u8) {
        let (user, key) = (ask.user(), ask.key());
        let sku = &self.plan.products[usize::from(ask.product)].sku;
        let request = ReserveRequest { user: &user, quantity: ask.units, reference: None };
        let first = usize::try_from(ask.buyer).unwrap_or(0);
        let (persisted, life) = self.until_known(first, |client| client.reserve(sku, request, Some(&key))).await;
        if let Outcome::Accepted { replayed: false, body, .. } = &persisted.outcome {
            self.note_grant(body.reserved_at_ms);
        }
        (persisted, life)
    }

    fn book(&self, ask: &Ask, persisted: &Persisted<Reservation>, life: u8) -> Reserved {
        self.books.lock().reserved(ask, persisted, life)
    }

    /// Asks one node after the other, from the place `first` on, until the answer is known.
    async fn until_known<'a, T, F: Future<Output = Outcome<T>>>(
        &'a self,
        first: usize,
        call: impl Fn(&'a Client) -> F,
    ) -> (Persisted<T>, u8) {
        let mut call = in_turn(&self.clients, first, call);
        let mut life = 0;
        let mut attempts = 0;
        let mut stranded = None;
        let persisted = persist(Patience::default(), || {
            life = self.life.load(Ordering::Relaxed);
            attempts += 1;
            if attempts == 2 {
                stranded = Some(Counted::new(&self.stranded));
            }
            let call = call();
            async {
                let _under_way = Counted::new(&self.under_way);
                call.await
            }
        })
        .await;
        self.calls.fetch_add(attempts, Ordering::Relaxed);
        drop(stranded);
        (persisted, life)
    }

    fn measure(&self, visit: &Visit) {
        let (scheduled, now) = (self.opened_at + visit.arrives, Instant::now());
        let us = u64::try_from(now.saturating_duration_since(scheduled).as_micros()).unwrap_or(u64::MAX);
        let calm = !self.kills.lock().iter().any(|kill| kill.touches(scheduled, now));
        let mut latencies = self.latencies.lock();
        latencies.all.saturating_record(us);
        if calm {
            latencies.calm.saturating_record(us);
        }
    }

    /// A buyer is told of a grant that was made at `reserved_at_ms`.
    fn note_grant(&self, reserved_at_ms: u64) {
        let now = Instant::now();
        let mut newest = self.newest_grants.lock();
        let last = newest.back().copied();
        // The newest stays, however old it is: it is where a pause begins.
        while newest.len() > 1 && newest.front().is_some_and(|at| now.duration_since(*at) > JUST_BEFORE) {
            newest.pop_front();
        }
        newest.push_back(now);
        drop(newest);
        let mut kills = self.kills.lock();
        if let Some(kill) = kills.last_mut().filter(|kill| kill.first_grant_at.is_none())
            && kill.gone_at_ms.is_some_and(|gone_at_ms| reserved_at_ms > gone_at_ms)
        {
            (kill.last_grant_at, kill.first_grant_at) = (last, Some(now));
        }
    }

    fn grants_just_before(&self, now: Instant) -> u32 {
        let newest = self.newest_grants.lock();
        let count = newest.iter().filter(|at| now.duration_since(**at) <= JUST_BEFORE).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Kills the node, or whichever leads, as often as planned, each time in the middle of grants, and starts it again: one that stands alone at
    /// once, one of a cluster when the others have gone on without it.
    async fn kill_and_restart(&self, fleet: &mut Fleet, progress: &Progress) -> Result<(), FleetError> {
        for after in &self.plan.kill_after_arrivals {
            while self.arrived.load(Ordering::Relaxed) < *after {
                sleep(LOOK).await;
                fleet.check_running()?;
            }
            let waiting_since = Instant::now();
            loop {
                let hits_calls = self.under_way.load(Ordering::Relaxed) >= CALLS_HIT_WISHED;
                let is_granting = self.grants_just_before(Instant::now()) > 0;
                let is_late = self.arrived.load(Ordering::Relaxed) >= after + self.plan.shape.buyers / CALLS_HIT_WAIT_PART;
                if is_granting && (hits_calls || is_late) || waiting_since.elapsed() > GRANTING_WAIT_MAX {
                    break;
                }
                sleep(LOOK).await;
            }
            let leader = fleet.leader().await?;
            let name = if fleet.is_cluster() { format!("node {}, which led,", leader + 1) } else { "the node".to_owned() };
            let killed_at = Instant::now();
            let unknown_before = self.books.lock().tally().unknown_answers();
            self.kills.lock().push(Kill {
                node: leader + 1,
                killed_at,
                gone_at_ms: None,
                unknown_before,
                grants_just_before: self.grants_just_before(killed_at),
                executed_at: None,
                ready_at: None,
                last_grant_at: None,
                first_grant_at: None,
                caught_up_at: None,
            });
            fleet.kill(leader).await?;
            let (arrived, calls) = (self.arrived.load(Ordering::Relaxed), self.under_way.load(Ordering::Relaxed));
            progress.event(&format!("{name} was killed (SIGKILL) after {arrived} arrivals, with {calls} calls under way"));
            // What is sent from here on can only be answered by another process.
            self.life.fetch_add(1, Ordering::Relaxed);
            self.mark(|kill| kill.gone_at_ms = Some(SystemClock.now().unix_ms()));
            if fleet.is_cluster() {
                self.wait_granted(fleet).await?;
                if let Some(ms) = self.kills.lock().last().and_then(Kill::pause).map(|pause| pause.as_millis()) {
                    progress.event(&format!("the others go on without it, {ms} ms after its last grant"));
                }
            }
            self.mark(|kill| kill.executed_at = Some(Instant::now()));
            fleet.begin(leader).await?;
            let ready_at = fleet.wait_ready(leader).await?;
            self.mark(|kill| kill.ready_at = Some(ready_at));
            progress.event(&format!("{name} is up again on the same directory, and ready"));
            self.wait_caught_up(fleet).await?;
            // With another one away nothing would be decided.
            fleet.wait_whole(LAG_IN_SALE_MAX).await?;
        }
        Ok(())
    }

    /// Waits until another process has granted something.
    async fn wait_granted(&self, fleet: &mut Fleet) -> Result<(), NodeError> {
        let waiting_since = Instant::now();
        while waiting_since.elapsed() < GRANTING_WAIT_MAX && !self.has_granted_again() {
            fleet.check_running()?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn has_granted_again(&self) -> bool {
        self.kills.lock().last().is_some_and(|kill| kill.first_grant_at.is_some())
    }

    /// Waits until another process has granted something and nobody asks again any more.
    async fn wait_caught_up(&self, fleet: &mut Fleet) -> Result<(), NodeError> {
        let waiting_since = Instant::now();
        while waiting_since.elapsed() < CATCH_UP_WAIT_MAX {
            fleet.check_running()?;
            let is_patient = waiting_since.elapsed() <= GRANTING_WAIT_MAX;
            if self.stranded.load(Ordering::Relaxed) == 0 && (self.has_granted_again() || !is_patient) {
                self.mark(|kill| kill.caught_up_at = Some(Instant::now()));
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn mark(&self, mark: impl FnOnce(&mut Kill)) {
        if let Some(kill) = self.kills.lock().last_mut() {
            mark(kill);
        }
    }

    async fn show(&self, progress: &Progress) {
        let mut ticks = interval(SHOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            // Of a cluster nothing is out any more once another node decides.
            let is_over = |kill: &Kill| kill.ready_at.is_some() || self.clients.len() > 1 && kill.first_grant_at.is_some();
            let is_out = self.kills.lock().last().is_some_and(|kill| !is_over(kill));
            let books = self.books.lock();
            progress.rush(&Moment {
                is_out,
                kills: self.kills.lock().len(),
                arrived: self.arrived.load(Ordering::Relaxed),
                waiting: self.stranded.load(Ordering::Relaxed),
                grants: books.grants().len(),
                sold_out: books.tally().sold_out,
                unknown: books.tally().unknown_answers(),
            });
        }
    }
}
